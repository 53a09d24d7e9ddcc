"""Shards that are servers of their own: killed in the middle, read through replicas, split and merged under writers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dbscale.cli import run
from dbscale.drivers import embedded
from fix_postgres import QUICK
from test_keyed import Place as Keyed
from test_sharded import SOURCE, Place

pytestmark = [pytest.mark.slow, pytest.mark.embedded, pytest.mark.timeout(900)]
HERE = Path(__file__).parent
MAP = """
name = "farms"
key = "bigint"
tables = { farms = "id", predictions = "farm_id", visits = "farm_id" }
reference = ["crops"]
ranges = [
  { id = "f0", from = 0, shard = "s1" },
  { id = "f1", from = 100, shard = "s2" },
  { id = "f2", from = 200, shard = "s3" },
]
until = 300
"""
NAMES = {"home": "main", "one": "shard_1", "two": "shard_2", "three": "shard_3"}


@pytest.fixture
def servers(tmp_path: Path, server_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`dbscale local up --shards 3 --replicas 1`, with room for many servers on one machine."""
    root = server_root / "shards"
    monkeypatch.setenv("DBSCALE_DATA", str(root))
    monkeypatch.chdir(tmp_path)
    assert run(["local", "up", "--shards", "3", "--replicas", "1"]) == 0
    yield root
    for server in embedded.status(root=root):
        if not server.primary:
            embedded.down(server.name, root=root, remove=True)


@pytest.fixture
def place(tmp_path: Path, servers: Path) -> Place:
    urls = {name: embedded.url(server, root=servers) for name, server in NAMES.items()}
    (tmp_path / "shard_maps").mkdir()
    (tmp_path / "shard_maps" / "farms.toml").write_text(MAP)
    entries = "".join(
        f'[databases.{name}]\nurl = "embedded:{server}"\nreplicas = [{{ url = "embedded:{server}_replica_1" }}]\n'
        for name, server in NAMES.items()
    )
    shards = '[shards]\ns1 = "one"\ns2 = "two"\ns3 = "three"\nhome = "home"\n'
    (tmp_path / "dbscale.toml").write_text(entries + shards)
    found = Place(tmp_path, urls)
    found.source(SOURCE)
    return found


def crash(root: Path, name: str) -> None:
    """The server ends at once, without a checkpoint, as when its machine does."""
    pid = int((root / name / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGQUIT)
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.02)


def test_three_servers_one_of_which_dies(place: Place, servers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        sys.executable,
        str(HERE / "crash_client.py"),
        "0",
        "after",
        "40",
        "migrate",
        *place.words,
        "--jobs",
        "1",
    ]
    migrating = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while migrating.poll() is None:
        if place("two", "SELECT to_regclass('visits') IS NOT NULL") == [(True,)] and place(
            "two", "SELECT count(*) > 0 FROM predictions"
        ) == [(True,)]:
            crash(servers, "shard_2")
            break
    _, said = migrating.communicate(timeout=120)
    assert migrating.returncode == 4, said  # stopped: the same command goes on
    assert "when the server is back, run the same command again" in said
    arrived = place("one", "SELECT count(*) FROM dbscale.loads")[0][0]
    assert arrived > 0
    assert run(["local", "up", "--shards", "3", "--replicas", "1"]) == 0
    assert place.migrate() == 0
    assert "verified: the same" in capsys.readouterr().out
    for database, low in (("one", 0), ("two", 100), ("three", 200)):
        where = f"farm_id >= {low} AND farm_id < {low + 100}"
        assert place(database, "SELECT farm_id, id, y FROM predictions ORDER BY 1, 2") == place.source(
            f"SELECT farm_id, id, y FROM predictions WHERE {where} ORDER BY 1, 2"
        )
    maps = ["--maps", str(place.folder / "shard_maps"), "--config", str(place.folder / "dbscale.toml")]
    assert run(["shards", "check", "farms", *maps]) == 0
    _a_server_dies_while_a_map_is_applied(place, servers, maps)
    _a_coordinator_reads_from_replicas(place, maps)


def _a_server_dies_while_a_map_is_applied(place: Place, servers: Path, maps: list[str]) -> None:
    file = place.folder / "shard_maps" / "farms.toml"
    file.write_text(file.read_text().replace("until = 300", "until = 400"))
    command = [sys.executable, "-m", "dbscale.cli", "shards", "apply", "farms", *maps, "--yes"]
    with psycopg.connect(place.urls["three"]) as holder:
        holder.execute("LOCK TABLE farms IN ACCESS SHARE MODE")  # its step on this shard waits, until the server ends
        applying = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'farms'::regclass"
        while place("three", waiting) == [(0,)]:
            assert applying.poll() is None, applying.communicate()
            time.sleep(0.02)
        crash(servers, "shard_3")
        with pytest.raises(psycopg.OperationalError):
            holder.execute("SELECT 1")
    _, said = applying.communicate(timeout=60)
    assert applying.returncode == 4, said
    assert "when the server is back, run the same command again" in said
    assert run(["shards", "apply", "farms", *maps, "--yes"]) == 0  # an embedded server is started where it is needed
    assert run(["shards", "check", "farms", *maps]) == 0
    place("three", "INSERT INTO farms (id) VALUES (399)")


def _a_coordinator_reads_from_replicas(place: Place, maps: list[str]) -> None:
    assert run(["shards", "apply", "farms", *maps, "--target", "fdw", "--yes"]) == 0
    options = place("home", "SELECT srvname, srvoptions FROM pg_foreign_server ORDER BY 1")
    ports = {option for _, listed in options for option in listed if option.startswith("port=")}
    primaries = {f"port={psycopg.conninfo.conninfo_to_dict(url)['port']}" for url in place.urls.values()}
    assert len(ports) == 3
    assert not ports & primaries
    for _ in range(100):  # the replica of shard 3 may be a little behind
        if place("home", "SELECT count(*), max(id) FROM sharded.farms") == [(301, 399)]:
            break
        time.sleep(0.1)
    else:
        pytest.fail(str(place("home", "SELECT count(*), max(id) FROM sharded.farms")))
    joined = "SELECT count(*) FROM sharded.farms f JOIN sharded.predictions p ON p.farm_id = f.id WHERE f.id {}"
    plain = "SELECT count(*) FROM farms f JOIN predictions p ON p.farm_id = f.id WHERE f.id {}"
    for condition in ("BETWEEN 90 AND 210", "= 150", "IS NOT NULL"):
        assert place("home", joined.format(condition)) == place.source(plain.format(condition))
    with pytest.raises(psycopg.Error):
        place("home", "DELETE FROM sharded.farms WHERE id = 399")


WRITER = """
import random, sys, time
import psycopg
import dbscale
from dbscale.errors import DbscaleError
config, log, seed, end = sys.argv[1:]
pick, number = random.Random(int(seed)), 0
with dbscale.open(config, driver="psycopg") as cluster, open(log, "a", buffering=1) as file:
    while time.time() < float(end):
        key = pick.randrange(300)
        number += 1
        name = f"{seed}-{number}"
        calls = 0
        def work(connection):
            global calls
            calls += 1
            connection.execute("INSERT INTO predictions (farm_id, y, note) VALUES (%s, 1, %s)", [key, name])
            time.sleep(pick.random() / 100)
        try:
            cluster.run(work, "predictions", key, attempts=8)
        except (DbscaleError, psycopg.Error) as error:
            print("failed", key, name, type(error).__name__, file=file)
        else:
            print("written", key, name, calls, file=file)
"""


def test_ranges_are_split_and_merged_while_writers_write(tmp_path: Path, new_database: Callable[..., str]) -> None:
    """Clients are killed at random moments, those that write and those that apply; what was acknowledged is there once,
    where the map says, and clients with an old map begin again."""
    place = Keyed(tmp_path, {name: new_database() for name in ("home", "one", "two")})
    place(
        "home",
        "ALTER TABLE predictions ADD note text UNIQUE; INSERT INTO farms SELECT n FROM generate_series(0, 299) n",
    )
    place("home", "ALTER TABLE predictions DROP CONSTRAINT predictions_note_key")
    place.shards("apply", "farms")
    with (tmp_path / "dbscale.toml").open("a") as file:
        file.write("[pool]\nsize = 1\noverflow = 1\n")
    config, pick, kills = tmp_path / "dbscale.toml", random.Random(7), Counter[str]()
    (tmp_path / "writer.py").write_text(WRITER)
    end = time.time() + 25

    def writer(number: int) -> subprocess.Popen[bytes]:
        log = tmp_path / f"log{number}"
        return subprocess.Popen(
            [sys.executable, str(tmp_path / "writer.py"), str(config), str(log), str(number), str(end)]
        )

    started = 3
    writers = [writer(number) for number in range(started)]
    times = 0
    while time.time() < end - 3:
        _changed(place, times % 2 == 0)
        times += 1
        apply = subprocess.Popen(_command(place, "apply"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if pick.random() < 0.4:
            time.sleep(0.5 + pick.random())
            apply.kill()
            kills["apply"] += apply.wait() == -signal.SIGKILL
        apply.wait()
        victim = pick.randrange(len(writers))
        if pick.random() < 0.6:
            writers[victim].kill()
            kills["writer"] += writers[victim].wait() == -signal.SIGKILL
            writers[victim] = writer(started)
            started += 1
    for each in writers:
        each.wait(timeout=60)
    assert subprocess.run(_command(place, "apply"), check=False, capture_output=True).returncode == 0
    lines = [line.split() for number in range(started) for line in _read(tmp_path / f"log{number}")]
    written = {words[2]: int(words[1]) for words in lines if words[0] == "written" and len(words) == 4}
    again = sum(int(words[3]) > 1 for words in lines if words[0] == "written" and len(words) == 4)
    rows = [
        (database, *row)
        for database in ("one", "two")
        for row in place(database, "SELECT farm_id, note FROM predictions")
    ]
    failed = Counter(words[3] for words in lines if words[0] == "failed")
    epoch = place("one", "SELECT epoch FROM dbscale.shard_maps")[0][0]
    print(f"{len(written)} acknowledged, {len(rows)} rows, {dict(kills)} killed, {again} begun again, {dict(failed)}, "
          f"{times} changes, epoch {epoch}")  # fmt: skip
    counts = Counter(note for _, _, note in rows)
    assert max(counts.values()) == 1
    assert written.keys() <= counts.keys()
    assert len(counts) - len(written) <= kills["writer"]  # a writer that was killed after its COMMIT could not say so
    assert all((database == "two") == (100 <= key < 200) for database, key, _ in rows)
    assert all(written.get(note, key) == key for _, key, note in rows)
    assert kills["writer"] > 0
    assert epoch > 2
    assert again > 0


def _read(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _command(place: Keyed, *words: str) -> list[str]:
    maps = ["--maps", str(place.folder / "shard_maps"), "--config", str(place.folder / "dbscale.toml")]
    return [sys.executable, "-m", "dbscale.cli", "shards", *words, "farms", *maps, "--yes"]


def _changed(place: Keyed, cut: bool) -> None:
    """Split or merge in the file, as far as it is not so already."""
    file = place.folder / "shard_maps" / "farms.toml"
    text = file.read_text()
    line = '  { id = "f0b", from = 50, shard = "s1" },\n'
    first = '  { id = "f1", from = 100, shard = "s2" },\n'
    if cut and line not in text:
        text = text.replace(first, line + first)
    elif not cut:
        text = text.replace(line, "")
    file.write_text(text)


def test_an_audit_of_what_a_server_has_seen(
    tmp_path: Path, server_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    settings = {**QUICK, "shared_preload_libraries": "pg_stat_statements"}
    server = embedded.up("stats", root=server_root, settings=settings)
    try:
        told = _audited(tmp_path, server.url, capsys)
    finally:
        embedded.down("stats", root=server_root, remove=True)
    outcomes = {" ".join(each["sql"].split()): (each["outcome"], each["calls"]) for each in told["statements"]}
    assert outcomes["SELECT * FROM farms WHERE id = $1"] == ("single", 30), json.dumps(outcomes)
    assert outcomes["SELECT * FROM farms WHERE id = ANY ($1)"] == ("targeted", 4)
    assert outcomes["SELECT count(*) FROM farms"] == ("scatter", 2)
    assert outcomes["DELETE FROM predictions WHERE id = $1"] == ("refused", 1)
    assert outcomes["INSERT INTO farms (id) VALUES ($1)"] == ("single", 5)
    assert not any(sql.startswith(("BEGIN", "CREATE", "SET")) for sql in outcomes)
    assert told["totals"]["single"]["seconds"] > 0


def _audited(folder: Path, url: str, capsys: pytest.CaptureFixture[str]) -> Any:
    import json

    (folder / "shard_maps").mkdir()
    (folder / "shard_maps" / "farms.toml").write_text(MAP)
    (folder / "dbscale.toml").write_text(
        f'[databases.home]\nurl = "{url}"\n[shards]\ns1 = "home"\ns2 = "home"\ns3 = "home"\nhome = "home"\n'
    )
    words = ["shards", "audit", "--from", "home", "--maps", str(folder / "shard_maps")]
    words += ["--config", str(folder / "dbscale.toml"), "--json"]
    assert run(words) == 3  # the extension is not there yet
    assert "pg_stat_statements is not there" in capsys.readouterr().err
    with psycopg.connect(url) as connection:
        connection.execute("CREATE EXTENSION pg_stat_statements")
        connection.execute("CREATE TABLE farms (id bigint PRIMARY KEY)")
        connection.execute("CREATE TABLE predictions (id bigint, farm_id bigint)")
        connection.commit()
        connection.execute("SELECT pg_stat_statements_reset()")
        for number in range(30):
            connection.execute(f"SELECT * FROM farms WHERE id = {number}".encode())
        for number in range(4):
            connection.execute(f"SELECT * FROM farms WHERE id IN ({number}, 150, 250)".encode())
        for _ in range(2):
            connection.execute("SELECT count(*) FROM farms")
        for number in range(5):
            connection.execute(f"INSERT INTO farms (id) VALUES ({number})".encode())
        connection.execute("DELETE FROM predictions WHERE id = 3")
        connection.commit()
    capsys.readouterr()
    assert run(words) == 1
    return json.loads(capsys.readouterr().out)
