"""drivers/embedded.py: servers that are made once, found again, and come back after every kind of crash."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from dbscale.drivers import embedded, programs
from dbscale.errors import ConfigError, Missing, Unreachable
from fix_postgres import QUICK, Postgres, binaries


@pytest.fixture
def root(server_root: Path) -> Iterator[Path]:
    """A place of its own for the servers of one test."""
    place = server_root / f"root{time.monotonic_ns()}"
    place.mkdir()
    yield place
    for server in embedded.status(root=place):
        if not server.primary and server.data.exists():
            embedded.down(server.name, root=place, remove=True)


def up(root: Path, name: str = "main", **options: object) -> embedded.Server:
    return embedded.up(name, root=root, binaries=binaries("18"), settings=QUICK, **options)  # type: ignore[arg-type]


def one(url: str, sql: str) -> object:
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        cursor = connection.execute(sql)  # type: ignore[arg-type]
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def wait(until: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_data_outlive_the_server(root: Path) -> None:
    first = up(root)
    one(first.url, "CREATE TABLE kept AS SELECT 42 AS n")
    embedded.down(root=root)
    assert not first.running
    second = up(root)
    assert second.url == first.url
    assert one(second.url, "SELECT n FROM kept") == 42


def test_up_again_leaves_a_running_server_alone(root: Path) -> None:
    pid = up(root).pid
    assert up(root).pid == pid


@pytest.mark.embedded
def test_text_sorts_by_code_point_in_utf8(server: Postgres) -> None:
    assert one(server.url, "SHOW server_encoding") == "UTF8"
    assert one(server.url, "SELECT string_agg(x, '' ORDER BY x) FROM unnest('{a,B,é,가,Z}'::text[]) x") == "BZaé가"
    assert one(server.url, "SELECT lower('É')") == "é"


def test_password_is_asked_for_and_kept_from_others(root: Path) -> None:
    server = up(root)
    assert server.password not in repr(server)
    wrong = server.url.replace(server.password, "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong, connect_timeout=5)
    assert stat.S_IMODE((server.folder / "server.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(server.data.stat().st_mode) == 0o700


def test_a_replica_streams(replica: Postgres, server: Postgres) -> None:
    assert one(replica.url, "SELECT pg_is_in_recovery()")
    one(server.url, "CREATE TABLE IF NOT EXISTS streamed ()")
    position = one(server.url, "SELECT pg_current_wal_insert_lsn()")
    wait(lambda: bool(one(replica.url, f"SELECT pg_last_wal_replay_lsn() >= '{position}'")))
    assert one(replica.url, "SELECT to_regclass('streamed') IS NOT NULL")
    one(server.url, "DROP TABLE streamed")


def test_replicas_start_and_stop_with_their_primary(root: Path) -> None:
    primary = up(root)
    replica = up(root, "main_replica_1", primary="main")
    embedded.down(root=root)
    assert [server.running for server in embedded.status(root=root)] == [False, False]
    up(root)
    assert replica.running, replica.log.read_text()[-3000:]
    wait(lambda: one(primary.url, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == 1)
    embedded.down("main_replica_1", root=root, remove=True)
    assert one(primary.url, "SELECT count(*) FROM pg_replication_slots") == 0, "a slot without replica keeps the log"


def test_a_replica_follows_its_primary_to_another_port(root: Path) -> None:
    primary = up(root)
    replica = up(root, "main_replica_1", primary="main")
    assert primary.pid
    os.kill(primary.pid, signal.SIGQUIT)
    wait(lambda: not primary.running)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", primary.port))
        other.listen()
        moved = up(root)
    assert moved.port != primary.port
    assert replica.running, replica.log.read_text()[-3000:]
    wait(lambda: one(moved.url, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == 1)


def test_a_replica_of_a_replica_is_refused(root: Path) -> None:
    up(root)
    up(root, "main_replica_1", primary="main")
    with pytest.raises(ConfigError, match="replica itself"):
        up(root, "more", primary="main_replica_1")


def test_comes_back_after_kill(root: Path) -> None:
    server = embedded.up(root=root, binaries=binaries("18"), settings={"fsync": "off"})
    one(server.url, "CREATE TABLE kept AS SELECT 1")
    assert server.pid
    os.kill(server.pid, signal.SIGKILL)
    wait(lambda: not server.running)
    assert (server.data / "postmaster.pid").exists()
    assert one(embedded.up(root=root).url, "SELECT count(*) FROM kept") == 1


def test_a_stale_pid_of_a_living_process_does_not_fool_it(root: Path) -> None:
    server = up(root)
    embedded.down(root=root)
    idle = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        file = server.data / "postmaster.pid"
        file.write_text(f"{idle.pid}\n{server.data}\n")
        assert not server.running
        assert one(up(root).url, "SELECT 1") == 1
        assert idle.poll() is None
    finally:
        idle.kill()
        idle.wait()


def test_a_postmaster_started_by_hand_is_not_joined_by_a_second_one(root: Path) -> None:
    server = up(root)
    embedded.down(root=root)
    account = programs.account_for(server.data)
    by_hand = subprocess.Popen(
        [str(programs.usable(binaries("18"), account) / "postgres")],
        env={"PGDATA": str(server.data)},
        cwd="/",
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait((server.data / "postmaster.pid").exists)
        with pytest.raises(Unreachable, match=r"lock file .*postmaster\.pid.* already exists"):
            up(root)
        assert by_hand.poll() is None
    finally:
        by_hand.send_signal(signal.SIGINT)
        by_hand.wait()


def test_killed_while_it_was_made(root: Path) -> None:
    """A process that dies in initdb leaves nothing that the next one trips over."""
    program = (
        "import sys; from pathlib import Path; from dbscale.drivers import embedded;"
        " embedded.up(root=Path(sys.argv[1]), binaries=Path(sys.argv[2]))"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(root), str(binaries("18"))])
    wait(lambda: any((root / "main").glob("making-*/base")))
    child.kill()
    child.wait()
    assert not (root / "main" / "data").exists()
    assert one(up(root).url, "SELECT 1") == 1
    assert not list((root / "main").glob("making-*"))


def _up_and_ask(root: str, answers: multiprocessing.Queue[str]) -> None:
    answers.put(embedded.up(root=Path(root), settings=QUICK).url)


def test_two_processes_at_once_make_one_server(root: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[str] = spawn.Queue()
    children = [spawn.Process(target=_up_and_ask, args=(str(root), answers)) for _ in range(3)]
    for child in children:
        child.start()
    urls = {answers.get(timeout=60) for _ in children}
    for child in children:
        child.join()
    assert len(urls) == 1
    assert one(urls.pop(), "SELECT 1") == 1


def test_a_port_that_is_taken_is_left_to_its_owner(root: Path) -> None:
    server = up(root)
    embedded.down(root=root)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", server.port))
        other.listen()
        moved = up(root)
    assert moved.port != server.port
    assert json.loads((server.folder / "server.json").read_text())["port"] == moved.port
    assert one(moved.url, "SELECT 1") == 1


def test_changed_settings_restart_the_server(root: Path) -> None:
    up(root)
    server = embedded.up(root=root, binaries=binaries("18"), settings={**QUICK, "work_mem": "7MB"})
    assert one(server.url, "SHOW work_mem") == "7MB"
    assert embedded.up(root=root, binaries=binaries("18")).pid == server.pid, "settings not given are kept"


def test_a_wrong_setting_is_named(root: Path) -> None:
    with pytest.raises(Unreachable, match="no_such_setting") as caught:
        embedded.up(root=root, binaries=binaries("18"), settings={"no_such_setting": "1"})
    assert caught.value.where.endswith("log")


@pytest.mark.parametrize("name", ["", "Main", "1st", "a-b", "../x", "a" * 41])
def test_names_that_are_none(root: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no name"):
        embedded.up(name, root=root)


def test_down_of_what_is_not_there(root: Path) -> None:
    with pytest.raises(ConfigError, match="no embedded server 'other'"):
        embedded.down("other", root=root)


def test_without_postgresql_it_says_how_to_get_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBSCALE_PG_BIN", str(root))
    with pytest.raises(Missing) as caught:
        embedded.up(root=root)
    assert "pip install 'dbscale[embedded]'" in caught.value.try_


def test_data_of_another_version_is_not_touched(root: Path) -> None:
    server = up(root)
    embedded.down(root=root)
    (server.data / "PG_VERSION").write_text("14\n")
    with pytest.raises(Missing, match="data of PostgreSQL 14"):
        up(root)
    (server.data / "PG_VERSION").write_text("18\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another account")
def test_programs_that_the_account_cannot_reach_are_copied(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a virtual environment below /root."""
    monkeypatch.setattr(programs, "SYSTEM", root / "system")
    with tempfile.TemporaryDirectory() as closed:  # mode 0700, root's
        package = binaries("18").parent.parent
        shutil.copytree(package, Path(closed) / package.name, symlinks=True)
        libraries = package.with_name(package.name + ".libs")
        shutil.copytree(libraries, Path(closed) / libraries.name)
        unreachable = Path(closed) / package.name / "pginstall" / "bin"
        server = embedded.up(root=root, binaries=unreachable, settings=QUICK)
        embedded.up("main_replica_1", root=root, binaries=unreachable, primary="main")
        assert one(server.url, "SELECT count(*) FROM pg_replication_slots WHERE active") == 1
        copies = [path.name for path in (root / "system").iterdir()]
        assert len(copies) == 1
        assert copies[0].startswith("pg-18")
        embedded.down(root=root, remove=True)


def test_without_an_explicit_place_it_is_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DBSCALE_DATA", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert embedded.default_root() == tmp_path / ".dbscale"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert embedded.default_root().parent == programs.SYSTEM
    monkeypatch.setenv("DBSCALE_DATA", "elsewhere")
    assert embedded.default_root() == tmp_path / "elsewhere"
