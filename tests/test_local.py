"""`dbscale local`, as typed."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import psycopg
import psycopg.conninfo
import pytest

from dbscale import cli
from dbscale.cli.local import local
from dbscale.drivers import embedded
from dbscale.errors import without_secrets

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def dbscale(server_root: Path, tmp_path: Path) -> Iterator[Run]:
    """Runs a command line in a directory of its own."""
    data = server_root / f"local-{tmp_path.name}"

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from dbscale.cli import main; main()", *arguments],
            cwd=tmp_path,
            env={**os.environ, "DBSCALE_DATA": str(data), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    yield run
    for server in embedded.status(root=data):
        if not server.primary:
            embedded.down(server.name, root=data, remove=True)


def facts(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    answer: list[dict[str, Any]] = json.loads(done.stdout)
    return answer


def test_up_status_down(dbscale: Run) -> None:
    assert dbscale("local", "status").stdout == ""
    [up] = facts(dbscale("local", "up", "--json"))
    assert (up["name"], up["running"], up["primary"]) == ("main", True, None)
    url = dbscale("local", "url").stdout.strip()
    with psycopg.connect(url) as connection:
        assert connection.info.dbname == "main"
    assert up["url"] == without_secrets(url) != url
    shown = dbscale("local", "status")
    assert shown.stdout.splitlines()[1].split() == ["main", "running", "-", up["url"]]
    password = psycopg.conninfo.conninfo_to_dict(url)["password"]
    for words in (("up",), ("up", "--json"), ("status",), ("status", "--json"), ("down",), ("down", "--json")):
        told = dbscale("local", *words)
        assert up["url"] in told.stdout
        assert str(password) not in told.stdout + told.stderr
    [down] = facts(dbscale("local", "down", "--json"))
    assert (down["running"], down["url"]) == (False, up["url"])


def test_shards_and_replicas(dbscale: Run) -> None:
    servers = facts(dbscale("local", "up", "--shards", "2", "--replicas", "1", "--json"))
    assert [(server["name"], server["primary"]) for server in servers] == [
        ("main", None),
        ("main_replica_1", "main"),
        ("shard_1", None),
        ("shard_1_replica_1", "shard_1"),
        ("shard_2", None),
        ("shard_2_replica_1", "shard_2"),
    ]
    for server in servers:
        with psycopg.connect(dbscale("local", "url", server["name"]).stdout.strip()) as connection:
            [[standby]] = connection.execute("SELECT pg_is_in_recovery()").fetchall()
            assert standby == (server["primary"] is not None)
    left = facts(dbscale("local", "down", "shard_1", "--remove", "--yes", "--json"))
    assert [server["name"] for server in left] == ["main", "main_replica_1", "shard_2", "shard_2_replica_1"]
    assert all(server["running"] for server in left)


def test_looking_starts_nothing(dbscale: Run, tmp_path: Path) -> None:
    """A dry run, doctor and status neither make a server nor start one that is stopped."""
    (tmp_path / "dbscale.toml").write_text(
        '[databases.app]\nurl = "app.db"\n[databases.postgres]\nurl = "embedded"\n'
        '[databases.other]\nurl = "env:NO_SUCH_VARIABLE"\n'
    )
    with sqlite3.connect(tmp_path / "app.db") as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    for state in ("there is no embedded server main yet", "the embedded server main is stopped"):
        plan = dbscale("migrate", "app", "postgres", "--dry-run", "--json")
        assert (plan.returncode, "target-stopped" in plan.stdout, state in plan.stdout) == (0, True, True)
        doctor = dbscale("doctor", "--json")
        told = json.loads(doctor.stdout)
        assert doctor.returncode == 0  # a variable that nobody needs now is nothing that has to be done
        assert told["databases"]["postgres"] == state
        assert [finding["code"] for finding in told["findings"] if finding["where"] == "other"] == ["not-set-up"]
        assert dbscale("doctor", "other").returncode == 1
        for words in (
            ("status",),
            ("undo", "1", "--dry-run"),
            ("indexes", "apply", "--dry-run"),
            ("migrate", "app", "postgres", "--into-existing", "--dry-run"),
        ):
            refused = dbscale(*words)
            assert (refused.returncode, state in refused.stderr) == (3, True), words
        assert not any(server["running"] for server in json.loads(dbscale("local", "status", "--json").stdout))
        if "yet" in state:
            assert json.loads(dbscale("local", "status", "--json").stdout) == []
            dbscale("local", "up")
            dbscale("local", "down")


LOOKING = {
    "apply": ["plan.json", "--dry-run"],
    "assess": ["app"],
    "doctor": [],
    "indexes apply": ["--dry-run"],
    "indexes recommend": [],
    "migrate": ["app", "postgres", "--sql"],
    "pool alerts": [],
    "pool check": [],
    "pool pgbouncer": ["--dry-run"],
    "pool show": [],
    "pool size": ["--rate", "1", "--hold", "1"],
    "replicas add": ["-o", "replica.json"],
    "replicas promote": ["replica1", "--dry-run"],
    "replicas show": [],
    "replicas wait": [],
    "shards apply": ["farms", "--dry-run"],
    "shards audit": ["--from", "postgres"],
    "shards check": [],
    "shards maintain": ["--dry-run"],
    "shards merge": ["farms", "one", "two", "--dry-run"],
    "shards plan": ["farms"],
    "shards route": ["farms", "1"],
    "shards show": [],
    "shards split": ["farms", "one", "--at", "5", "--id", "new", "--dry-run"],
    "status": [],
    "undo": ["1", "--dry-run"],
    "upgrade": ["--dry-run"],
    "verify": ["app", "postgres"],
}
"""Every command, so that it only looks. `local` is about starting; `shards credentials` is a step of a plan."""


def leaves(group: click.Group, before: str = "") -> Iterator[str]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from leaves(command, f"{before}{name} ")
        else:
            yield before + name


def test_no_looking_command_starts_a_server(
    server_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = server_root / "looking"
    monkeypatch.setenv("DBSCALE_DATA", str(data))
    monkeypatch.chdir(tmp_path)
    Path("dbscale.toml").write_text(
        '[databases.app]\nurl = "app.db"\n[databases.postgres]\nurl = "embedded"\n'
        'replicas = [ { url = "embedded:main_replica_1" } ]\n[databases.farms]\nurl = "embedded:farms"\n'
        '[shards]\nfarms = "farms"\nhome = "postgres"\n'
    )
    Path("shard_maps").mkdir()
    Path("shard_maps/farms.toml").write_text(
        'name = "farms"\nkey = "bigint"\ntables = { farms = "id" }\n'
        'ranges = [ { id = "one", from = 0, shard = "farms" }, { id = "two", from = 10, shard = "farms" } ]\n'
    )
    Path("migrations/versions").mkdir(parents=True)
    Path("migrations/env.py").touch()
    with sqlite3.connect("app.db") as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    assert cli.run(["migrate", "app", "postgres", "-o", "plan.json"]) == 0
    assert "[target-stopped]" in capsys.readouterr().err
    assert {*leaves(cli.dbscale)} - {*LOOKING} == {*leaves(local, "local "), "shards credentials"}
    for state in ("yet", "stopped"):
        for command, words in LOOKING.items():
            for form in ([], ["--json"]):
                status = cli.run([*command.split(), *words, *form])
                assert status in (0, 1, 2, 3), command
                said = capsys.readouterr()
                if command in ("pool show", "replicas show"):
                    assert (status, "farms" in said.out, said.err) == (1, True, ""), command
                assert not [each.name for each in embedded.status() if each.running], command
                if command in ("verify", "indexes recommend", "pool size", "shards check", "status"):
                    assert state in said.err, command
        if state == "yet":
            assert embedded.status() == []
            for name in ("main", "farms"):
                embedded.up(name)
                embedded.down(name)


def test_data_are_not_deleted_without_a_word(dbscale: Run) -> None:
    dbscale("local", "up")
    refused = dbscale("local", "down", "--remove")
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    assert facts(dbscale("local", "status", "--json"))[0]["running"]
    assert "main: removed, with all data" in dbscale("local", "down", "--remove", "--yes").stderr


def test_a_name_that_is_not_there(dbscale: Run) -> None:
    done = dbscale("local", "down", "shop")
    assert done.returncode == 2
    assert "'shop'" in done.stderr
    assert "dbscale local up" in done.stderr


def test_without_postgresql(dbscale: Run, tmp_path: Path) -> None:
    done = dbscale("local", "up", DBSCALE_PG_BIN=str(tmp_path))
    assert done.returncode == 3
    assert "pip install 'dbscale[embedded]'" in done.stderr
