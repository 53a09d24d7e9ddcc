"""`--copy-first` from a libSQL server: pages of one commit, whatever the server and the network do meanwhile."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbscale.drivers.hrana import parse
from dbscale.drivers.libsql import LibsqlSource
from dbscale.drivers.libsql_copy import CopiedSource
from dbscale.drivers.turso import Admin, left_blocked
from dbscale.errors import Missing, SourceError, Unreachable
from fix_proxy import Proxy
from fix_sqld import Keys, Sqld, serve_file
from test_libsql import OWN, config, copied, fill, ledger, numbers, violations, writer

START = Callable[..., Sqld]


def source(server: Sqld | Proxy, token: str = "", **options: Any) -> CopiedSource:
    return CopiedSource(parse(server.url, token), **options)


def test_a_copy_is_the_servers_file_to_the_last_byte(sqld: START, tmp_path: Path) -> None:
    """And its token is that of the server, so that a run begun with either goes on with the other."""
    file = serve_file(tmp_path / "served", fill)
    before = file.read_bytes()
    server = sqld("served")
    copy = source(server)
    with copy.snapshot(3) as readers:
        assert copy.path.read_bytes() == before
        assert len(readers) == 3
        assert copy.fingerprint() == LibsqlSource(server.url).fingerprint()
        assert not copy.changed_since_snapshot()
        server.run("CREATE TABLE later (id)")
        assert copy.changed_since_snapshot()
        assert not source(server, frozen=True).changed_since_snapshot()
        assert copy.fingerprint() != LibsqlSource(server.url).fingerprint()
    with copy.snapshot() as (reader,):  # the same copy again
        assert list(reader.rows("SELECT count(*) FROM sqlite_schema WHERE name = 'later'")) == [(0,)]
    assert copy.title == server.url
    place = copy.path.parent
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    del copy, reader, readers
    assert not place.exists()


def test_what_is_libsqls_own_and_values_above_the_servers_limit_are_in_the_copy(sqld: START) -> None:
    server = sqld()
    server.run(*OWN, "CREATE TABLE wide (id INTEGER PRIMARY KEY, v)", "INSERT INTO wide VALUES (1, zeroblob(4900000))")
    with source(server).snapshot() as (reader,):
        assert list(reader.rows("SELECT id, length(v) FROM wide")) == [(1, 4_900_000)]
        assert len(list(reader.rows("SELECT * FROM random"))) == 2
        assert list(reader.rows("SELECT a FROM altered ORDER BY id")) == [(None,), ("x",)]


@pytest.mark.slow
def test_a_writer_during_the_copy_breaks_nothing(sqld: START, record_property: Callable[[str, object], None]) -> None:
    """The state of the copy is one commit's: the invariant over two tables holds in each of 20 copies."""
    server = sqld("primary", "--max-log-size", "1")
    ledger(server)
    wrong: list[str] = []
    with writer(server) as written:
        for _ in range(20):
            before = written[0]
            with source(server).snapshot(2) as readers:
                wrong += violations(readers)
                assert next(readers[0].rows("PRAGMA integrity_check")) == ("ok",)
            until = time.monotonic() + 10
            while written[0] < before + 3 and time.monotonic() < until:
                time.sleep(0.01)
            assert written[0] > before
        total = written[0]
    record_property("copies", 20)
    record_property("writes", total)
    print(f"20 copies beside {total} transactions: {len(wrong)} violations")
    assert wrong == []


def test_a_log_that_was_compacted_is_copied_from_its_snapshot(sqld: START) -> None:
    """A log beyond its size is rewritten: its beginning is then only in a snapshot, which is asked for another way."""
    server = sqld("primary", "--max-log-size", "1")
    numbers(server, 20_000)
    for turn in range(6):
        server.run(f"UPDATE t SET v = 'turn {turn} of row ' || id")
    with source(server).snapshot() as (reader,):
        rows = copied(reader)
        assert next(reader.rows("PRAGMA integrity_check")) == ("ok",)
    assert rows == [(i, f"turn 5 of row {i}") for i in range(1, 20_001)]
    assert list((server.home / "dbs" / "default" / "snapshots").iterdir()), "the log was never compacted"


def test_a_snapshot_that_is_put_together_just_then_is_asked_for_again(
    sqld: START, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sqld merges its snapshots while it gives them out, and may look for a file that is no more."""
    from dbscale.drivers import wal_log

    server = sqld()
    numbers(server, 100)
    entries = wal_log._Copying._entries
    missing: list[str] = ["No such file or directory %28os error 2%29"]

    def once(self: Any, hello: Any) -> int:
        if missing:
            wal_log._check("2", missing.pop())
        return entries(self, hello)

    monkeypatch.setattr(wal_log._Copying, "_entries", once)
    with source(server).snapshot() as (reader,):
        assert copied(reader) == [(i, f"row {i}") for i in range(1, 101)]
    assert not missing


@pytest.mark.parametrize("seed", range(4))
def test_the_connection_is_cut_at_random_pages(sqld: START, proxy: Callable[[str], Proxy], seed: int) -> None:
    server = sqld()
    numbers(server, 20_000)
    through = proxy(server.url)
    through.cut_after(random.Random(seed).randint(1, 900))  # of what the client sends: its questions
    with source(through, patience=10).snapshot() as (reader,):
        assert copied(reader) == [(i, f"row {i}") for i in range(1, 20_001)]


def test_a_server_that_breaks_off_and_begins_another_log(
    sqld: START, proxy: Callable[[str], Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle, it counts anew on its next start: nothing of the first log may stay in the copy."""
    from dbscale.drivers import wal_log

    server = sqld()
    numbers(server, 60_000)
    server.run("UPDATE t SET v = v || hex(zeroblob(200))")  # more than the sockets hold
    written = wal_log._Copying._write
    killed: list[int] = []

    def write(self: Any, page: int, content: memoryview) -> None:
        written(self, page, content)
        if page == 50 and not killed:
            killed.append(page)
            server.kill()
            server.start()
            server.run("DELETE FROM t WHERE id > 10000")

    monkeypatch.setattr(wal_log._Copying, "_write", write)
    with source(server, patience=20).snapshot() as (reader,):
        assert list(reader.rows("SELECT count(*), max(id) FROM t")) == [(10_000, 10_000)]
        assert next(reader.rows("PRAGMA integrity_check")) == ("ok",)
    assert killed


def test_a_server_that_stays_away_is_unreachable(sqld: START) -> None:
    server = sqld()
    server.kill()
    began = time.monotonic()
    with pytest.raises(Unreachable, match="does not answer"), source(server, patience=1).snapshot():
        pass
    assert time.monotonic() - began < 10


def test_who_gives_out_no_copy(sqld: START, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong token, a proxy, a websocket, Turso Cloud without the program: each says what to do."""
    keys = Keys(tmp_path)
    server = sqld("locked", "--auth-jwt-key-file", str(keys.public_file))
    server.run("CREATE TABLE t (id)", token=keys.token())
    with source(server, keys.token("ro")).snapshot() as (reader,):
        assert list(reader.rows("SELECT count(*) FROM t")) == [(0,)]
    wrong = Keys(tmp_path / "other").token()
    for token in ("", wrong):
        with pytest.raises(Unreachable, match="token") as refused, source(server, token).snapshot():
            pass
        assert wrong not in f"{refused.value} {refused.value.try_} {refused.value!r}"
    elsewhere = CopiedSource(parse(f"{server.url}/nowhere", keys.token()))
    with pytest.raises(SourceError, match="HTTP 404") as caught, elsewhere.snapshot():
        pass
    assert caught.value.see.endswith("#source-not-copied")
    assert "leave --copy-first away" in caught.value.try_
    with pytest.raises(SourceError, match="websocket"), CopiedSource(parse("ws://127.0.0.1:1")).snapshot():
        pass
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing, match="turso") as missing, CopiedSource(parse("libsql://a-b.turso.io")).snapshot():
        pass
    assert "--branch" in missing.value.try_


TURSO = """#!{python}
import shutil, sys
if sys.argv[1:3] == ["db", "list"]:
    print("NAME     TYPE    GROUP      URL")
    print("other    -       default    libsql://xshop-me.turso.io")
    print("shop     -       default    libsql://shop-me.turso.io")
elif sys.argv[1:4] == ["db", "export", "shop"] and sys.argv[4] == "--output-file":
    shutil.copy({file!r}, sys.argv[5])
else:
    sys.exit(f"Error: not logged in: {{sys.argv[1:]}}")
"""


def test_a_replica_gives_out_its_primarys_copy(sqld: START) -> None:
    primary = sqld()
    replica = sqld("replica", "--primary-grpc-url", f"http://127.0.0.1:{primary.grpc}")
    with source(replica).snapshot() as (reader,):  # of a database in which nothing was ever written
        assert list(reader.rows("SELECT * FROM sqlite_schema")) == []
    numbers(primary, 1000)
    copy = source(replica)
    with copy.snapshot() as (reader,):
        assert copied(reader) == [(i, f"row {i}") for i in range(1, 1001)]
        assert copy.fingerprint() == LibsqlSource(primary.url).fingerprint()
        primary.run("DELETE FROM t WHERE id = 1")
        assert copy.changed_since_snapshot()


def test_turso_clouds_copy_is_its_programs_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the program `turso`, which shows how it is called; the real one was not at hand."""
    file = tmp_path / "there.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS id")
    program = tmp_path / "turso"
    program.write_text(TURSO.format(python=sys.executable, file=str(file)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    copy = CopiedSource(parse("libsql://shop-me.turso.io", "secret"))
    with copy.snapshot() as (reader,):
        assert list(reader.rows("SELECT id FROM t")) == [(1,)]
        assert not copy.changed_since_snapshot()
        assert "source-unwatched" in {note.code for note in copy.notes}
        assert copy.fingerprint() == copy.fingerprint() != CopiedSource(copy.endpoint).fingerprint
    nowhere = CopiedSource(parse("libsql://nowhere-me.turso.io"))
    with pytest.raises(Missing, match="does not have this database"), nowhere.snapshot():
        pass
    program.write_text(f"#!{sys.executable}\nimport sys; sys.exit('Error: not logged in')")
    with pytest.raises(SourceError, match="not logged in"), CopiedSource(copy.endpoint).snapshot():
        pass


# Writes that are refused meanwhile


HOLD = """
import sys, time
from dbscale.drivers.hrana import parse
from dbscale.drivers.libsql import LibsqlSource
from dbscale.drivers.turso import Admin
import signal
signal.signal(signal.SIGTERM, signal.default_int_handler)
source = LibsqlSource(sys.argv[1], admin=Admin(url=sys.argv[2]))
try:
    with source.snapshot():
        print("blocked", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_writes_come_back_after_a_stop_and_a_kill(sqld: START, number: signal.Signals) -> None:
    server = sqld()
    server.run("CREATE TABLE t (id)")
    admin = Admin(url=f"http://127.0.0.1:{server.admin}")
    holding = subprocess.Popen([sys.executable, "-c", HOLD, server.url, admin.url], stdout=subprocess.PIPE, text=True)
    assert holding.stdout is not None
    assert holding.stdout.readline() == "blocked\n"
    with pytest.raises(AssertionError, match="dbscale copies this database"):
        server.run("DELETE FROM t")
    with LibsqlSource(server.url, admin=admin).snapshot():  # another one at work: the block is the first one's
        pass
    assert config(server)["block_writes"]
    holding.send_signal(number)
    assert holding.wait(20) == (130 if number != signal.SIGKILL else -signal.SIGKILL)
    holding.stdout.close()
    if number == signal.SIGKILL:
        left = left_blocked(admin)
        assert left is not None
        assert left.code == "writes-blocked"
        with LibsqlSource(server.url, admin=admin).snapshot():
            assert config(server)["block_writes"]
    assert left_blocked(admin) is None
    server.run("DELETE FROM t")


def test_the_command_in_the_message_releases_writes(sqld: START) -> None:
    """As it is printed, by a shell."""
    server = sqld()
    admin = Admin(url=f"http://127.0.0.1:{server.admin}")
    holding = subprocess.Popen([sys.executable, "-c", HOLD, server.url, admin.url], stdout=subprocess.PIPE, text=True)
    assert holding.stdout is not None
    holding.stdout.readline()
    os.kill(holding.pid, signal.SIGKILL)
    holding.wait()
    holding.stdout.close()
    left = left_blocked(admin)
    assert left is not None
    subprocess.run(left.try_[left.try_.index("curl") :], shell=True, check=True, timeout=20)
    server.run("CREATE TABLE t (id)")
