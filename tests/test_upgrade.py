"""`dbscale upgrade` on several databases: in order, stopping at the first failure, going on from there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dbscale import config
from dbscale.cli import run
from dbscale.cli.upgrade import order
from dbscale.drivers import embedded
from dbscale.environment import Environment
from fix_postgres import QUICK, Postgres, binaries

MARKETPLACE = Path(__file__).parent.parent / "migrations" / "marketplace"


@pytest.fixture
def three(new_database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A home and two shards, in a dbscale.toml of the current directory."""
    urls = {name: new_database() for name in ("main", "first", "second")}
    lines = [f'[databases.{name}]\nurl = "{url}"\n' for name, url in urls.items()]
    lines += ['[databases.old]\nurl = "sqlite:///old.db"\n', '[shards]\nhome = "main"\na = "first"\nb = "second"\n']
    (tmp_path / "dbscale.toml").write_text("".join(lines))
    monkeypatch.chdir(tmp_path)
    return urls


def upgrade(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    status = run(["upgrade", "--migrations", str(MARKETPLACE), "--yes", "--json", *arguments])
    said = capsys.readouterr()
    document = json.loads(said.out)
    answer = {each["database"]: each for each in document} if isinstance(document, list) else document
    return status, answer, said.err


def execute(url: str, sql: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.encode())


def test_every_database_gets_there_the_canary_first(three: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    status, answer, _ = upgrade(capsys, "--canary", "b")
    assert status == 0
    assert list(answer) == ["second", "first", "main"]
    assert {each["now"] for each in answer.values()} == {"0002"}
    assert [Environment(MARKETPLACE).current(url) for url in three.values()] == [("0002",)] * 3
    status, answer, _ = upgrade(capsys)
    assert (status, {each["state"] for each in answer.values()}) == (0, {"there"})


def test_the_first_failure_stops_and_the_same_command_goes_on(
    three: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    upgrade(capsys, "--to", "0001", "--only", "first")
    execute(three["second"], "CREATE TABLE farms (id int)")  # in the way
    status, answer, said = upgrade(capsys)
    assert status == 4
    assert {name: (each["state"], each["now"]) for name, each in answer.items()} == {
        "first": ("done", "0002"),
        "second": ("failed", ""),
        "main": ("waits", ""),
    }
    assert 'relation "farms" already exists' in said
    assert answer["second"]["says"] == 'relation "farms" already exists'
    assert "1 more were not tried" in said
    assert "0001_baseline.py" in said
    execute(three["second"], "DROP TABLE farms")
    status, answer, _ = upgrade(capsys)
    assert status == 0
    assert {name: each["state"] for name, each in answer.items()} == {
        "first": "there",
        "second": "done",
        "main": "done",
    }


def test_a_server_that_is_down_is_told_before_anything_is_changed(
    three: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path("dbscale.toml")
    file.write_text(file.read_text().replace(three["second"], "postgresql://localhost:1/gone"))
    status, answer, _ = upgrade(capsys)
    assert (status, answer["error"]["code"]) == (3, "unreachable")
    assert answer["error"]["says"].startswith("second: connection failed")
    assert Environment(MARKETPLACE).current(three["first"]) == ()


def test_a_dry_run_only_looks(three: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    status, answer, _ = upgrade(capsys, "--dry-run")
    assert (status, {each["state"] for each in answer.values()}) == (0, {"waits"})
    for url in three.values():
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


def test_a_migrated_database_is_stamped_and_goes_on(
    three: dict[str, str], marketplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["migrate", str(marketplace), "main"]) == 0
    capsys.readouterr()
    assert upgrade(capsys, "--only", "main", "--to", "0001", "--stamp")[1]["main"]["now"] == "0001"
    status, answer, _ = upgrade(capsys, "--only", "home")
    assert (status, answer["main"]["before"], answer["main"]["now"]) == (0, "0001", "0002")


def test_two_at_once_are_refused(three: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with psycopg.connect(three["first"]) as other:
        other.execute("SELECT pg_advisory_lock(hashtext('dbscale upgrade'))")
        status, answer, said = upgrade(capsys)
    assert status == 4
    assert "another upgrade" in said
    assert answer["first"]["state"] == "failed"


def test_a_replica_has_to_follow(
    database: str,
    replica: Postgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    follower = replica.url.rpartition("/")[0] + "/" + database.rpartition("/")[2]
    (tmp_path / "dbscale.toml").write_text(
        f'[databases.main]\nurl = "{database}"\nreplicas = [ {{ url = "{follower}" }} ]\n'
    )
    monkeypatch.chdir(tmp_path)
    status, answer, _ = upgrade(capsys)
    assert status == 0
    assert len(answer["main"]["replicas"]) == 1
    assert Environment(MARKETPLACE).current(follower) == ("0002",)


@pytest.fixture
def fleet(
    server: Postgres, new_database: Callable[..., str], server_root: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[dict[str, str]]:  # fmt: skip
    """Two more servers, of another version, the second a replica of the first; home and one shard are on `server`."""
    root = server_root / "fleet"
    root.mkdir()
    version = binaries("17" if server.version != "17" else "18")
    other = embedded.up("other", root=root, binaries=version, settings=QUICK)
    follower = embedded.up("other_replica", root=root, binaries=version, settings=QUICK, primary="other")

    def on(made: embedded.Server, name: str) -> str:
        return made.url.rpartition("/")[0] + f"/{name}"

    execute(other.url, "CREATE DATABASE s1")
    execute(other.url, "CREATE DATABASE s3")
    urls = {"home": new_database(), "s1": on(other, "s1"), "s2": new_database(), "s3": on(other, "s3")}
    replicas = {"s1": on(follower, "s1"), "s3": on(follower, "s3")}
    lines = [
        f'[databases.{name}]\nurl = "{url}"\n'
        + (f'replicas = [ {{ url = "{replicas[name]}" }} ]\n' if name in replicas else "")
        for name, url in urls.items()
    ]
    shards = '[shards]\nhome = "home"\nshard_1 = "s1"\nshard_2 = "s2"\nshard_3 = "s3"\n'
    (tmp_path / "dbscale.toml").write_text("".join(lines) + shards)
    monkeypatch.chdir(tmp_path)
    yield {**urls, "replica of s1": replicas["s1"], "replica of s3": replicas["s3"]}
    embedded.down("other", root=root, remove=True)


@pytest.mark.slow
@pytest.mark.embedded
def test_a_fleet_of_servers_and_replicas_the_canary_first_a_failure_and_on_again(
    fleet: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    def everywhere() -> dict[str, str]:
        return {name: ", ".join(Environment(MARKETPLACE).current(url)) for name, url in fleet.items()}

    # The second of four stops between two revisions: a table of an index's name is in its way.
    upgrade(capsys, "--to", "0001", "--only", "shard_1")
    execute(fleet["s1"], "CREATE TABLE idx_predictions_crop_type (a int)")
    status, answer, said = upgrade(capsys, "--canary", "shard_3")
    assert status == 4
    assert [(name, each["state"], each["now"]) for name, each in answer.items()] == [
        ("s3", "done", "0002"),
        ("s1", "failed", "0001"),
        ("s2", "waits", ""),
        ("home", "waits", ""),
    ]
    assert "s1: " in said
    assert "2 more were not tried" in said
    assert everywhere() == {
        "home": "", "s1": "0001", "s2": "", "s3": "0002", "replica of s1": "0001", "replica of s3": "0002",
    }  # fmt: skip
    with psycopg.connect(fleet["s1"]) as connection:
        left = connection.execute("SELECT count(*) FROM pg_index WHERE NOT indisvalid").fetchone()
    assert left == (0,)

    execute(fleet["s1"], "DROP TABLE idx_predictions_crop_type")
    status, answer, _ = upgrade(capsys, "--canary", "shard_3")
    assert (status, [each["state"] for each in answer.values()]) == (0, ["there", "done", "done", "done"])
    assert [len(each["replicas"]) for each in answer.values()] == [0, 1, 0, 0]
    assert set(everywhere().values()) == {"0002"}


def test_wrong_names_are_said(three: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert upgrade(capsys, "--canary", "frist")[0] == 2
    assert upgrade(capsys, "--to", "0009")[0] == 2
    status, _, said = upgrade(capsys, "--migrations", "nowhere")
    assert status == 2
    assert "nowhere" in said


def test_shards_come_before_home_and_other_primaries() -> None:
    databases = {name: {"url": f"postgresql:///{name}"} for name in ("other", "main", "x", "y")}
    settings = config.parse({"databases": databases, "shards": {"home": "main", "s1": "x", "s2": "y", "s3": "x"}})
    assert [(at.database, at.shards) for at in order(settings)] == [
        ("x", ("s1", "s3")),
        ("y", ("s2",)),
        ("main", ("home",)),
        ("other", ()),
    ]
    assert [at.database for at in order(settings, canary="main", skip=("x",))] == ["main", "y", "other"]
