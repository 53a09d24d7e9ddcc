"""libSQL servers as a source, against a real sqld: snapshots, losses, tokens, limits, and values to the last bit."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import struct
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dbscale import config as configuration
from dbscale.drivers.hrana import parse
from dbscale.drivers.libsql import LibsqlSource, SnapshotLost
from dbscale.drivers.source import TooLarge
from dbscale.drivers.sqlite import SqliteSource
from dbscale.drivers.turso import Admin, admin_of, left_blocked, writes_blocked
from dbscale.errors import ConfigError, Missing, SourceError, Unreachable
from dbscale.migrate import encode
from dbscale.migrate.source import read_schema
from dbscale.plan import Conversion, Load, LoadColumn
from fix_proxy import Proxy
from fix_sqld import Keys, Sqld, serve_file, websockets

START = Callable[..., Sqld]
NASTY = [
    None, 0, 1, -1, 2**63 - 1, -(2**63), 2**53 + 1, 0.0, -0.0, 1.0, 0.1, 1e308, 5e-324, 1.7976931348623157e308,
    float("inf"), float("-inf"), "", "plain", "NUL \0 inside", "\0", "é 한국어 🌾", "line\nend\r\n\ttab \\ 'quote' \"",
    "\u2028 \u2029 \u0085 \x0b \x0c", "x" * 70_000, b"", b"\0", b"\xff\xfe\0\x01", bytes(range(256)), b"y" * 300_001,
]  # fmt: skip


@pytest.fixture(params=["http", "ws"])
def url(request: pytest.FixtureRequest) -> Callable[[Sqld], str]:
    """The server's URL, once for each way to it."""
    if request.param == "ws":
        websockets()
        return lambda server: f"ws://127.0.0.1:{server.hrana}"
    return lambda server: server.url


def numbers(server: Sqld, count: int) -> None:
    server.run(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)",
        f"WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {count})"
        " INSERT INTO t SELECT i, 'row ' || i FROM c",
    )


# Values


def fill(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE v (id INTEGER PRIMARY KEY, x)")
    connection.executemany("INSERT INTO v (x) VALUES (?)", [(value,) for value in NASTY])
    connection.execute("INSERT INTO v VALUES (1000, CAST(x'41FF42' AS TEXT))")


def bits(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row in which floats differ where their bits do."""
    return tuple((type(value), struct.pack("d", value) if isinstance(value, float) else value) for value in row)


def test_values_are_those_of_the_file(sqld: START, url: Callable[[Sqld], str], tmp_path: Path) -> None:
    file = serve_file(tmp_path / "served", fill)
    other = tmp_path / "same.db"
    with sqlite3.connect(other) as connection:
        fill(connection)
    server = sqld("served")
    text = "CASE typeof(x) WHEN 'text' THEN CAST(x AS BLOB) END"
    sql = f"SELECT id, x, typeof(x), {text} FROM v WHERE id < ? ORDER BY id DESC"
    with LibsqlSource(url(server)).snapshot() as (remote,), SqliteSource(other).snapshot() as (local,):
        found, wanted = list(remote.rows(sql, (1000,))), list(local.rows(sql, (1000,)))
        assert [bits(row) for row in found] == [bits(row) for row in wanted]
        assert [bits(row[1:2]) for row in reversed(found)] == [bits((value,)) for value in NASTY]
        for parameter in (*(value for value in NASTY if value not in (float("inf"), float("-inf"))), -0.0):
            (back,) = remote.rows("SELECT ?, typeof(?1)", (parameter,))
            assert bits(back[:1]) == bits((parameter,))
    assert file.exists()


def test_broken_utf8_is_an_error_and_the_snapshot_goes_on(
    sqld: START, url: Callable[[Sqld], str], tmp_path: Path
) -> None:
    serve_file(tmp_path / "served", fill)
    server = sqld("served")
    with LibsqlSource(url(server)).snapshot() as (reader,):
        with pytest.raises(SourceError, match="not utf-8") as caught:
            list(reader.rows("SELECT x FROM v WHERE id = 1000"))
        assert "CAST(x AS BLOB)" in caught.value.try_
        server.run("DELETE FROM v WHERE id < 1000")
        assert list(reader.rows("SELECT count(*) FROM v")) == [(len(NASTY) + 1,)]
        assert list(reader.rows("SELECT CAST(x AS BLOB) FROM v WHERE id = 1000")) == [(b"A\xffB",)]


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_text_of_utf16_databases(sqld: START, url: Callable[[Sqld], str], tmp_path: Path, encoding: str) -> None:
    def make(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE v (x)")
        connection.executemany("INSERT INTO v VALUES (?)", [("é 한국어 🌾",), ("a\0b",), ("",)])

    serve_file(tmp_path / "served", make, encoding)
    with LibsqlSource(url(sqld("served"))).snapshot() as (reader,):
        assert list(reader.rows("SELECT x FROM v")) == [("é 한국어 🌾",), ("a\0b",), ("",)]


def test_inner_expressions_are_worked_out_once(sqld: START) -> None:
    """The SELECT around a SELECT must not multiply its work: EXPLAIN shows a co-routine of its own."""
    server = sqld()
    numbers(server, 10)
    with LibsqlSource(server.url).snapshot() as (reader,):
        seen = list(reader.rows("SELECT id, random() AS r FROM t ORDER BY v"))
        assert len({row[1] for row in seen}) == 10
        assert all(isinstance(row[1], int) for row in seen)


def test_wide_and_long_answers(sqld: START, url: Callable[[Sqld], str]) -> None:
    server = sqld()
    numbers(server, 150_000)
    columns = ", ".join(f"{number}" for number in range(900))
    with LibsqlSource(url(server)).snapshot() as (reader,):
        rows = list(reader.rows("SELECT id, v, hex(v) FROM t WHERE id > ? ORDER BY id", (2,)))
        assert rows == [(i, f"row {i}", f"row {i}".encode().hex().upper()) for i in range(3, 150_001)]
        assert list(reader.rows(f"SELECT {columns}")) == [tuple(range(900))]
        blocks = list(reader.rows("SELECT id, randomblob(400000) FROM t WHERE id <= 60"))
        assert [(number, len(block)) for number, block in blocks] == [(i, 400_000) for i in range(1, 61)]


def test_one_row_above_the_limit_of_a_response_comes_by_a_cursor(sqld: START) -> None:
    server = sqld()
    with LibsqlSource(server.url).snapshot() as (reader,):
        (row,) = reader.rows("SELECT zeroblob(4000000), zeroblob(4000001), zeroblob(4000002), -9e999")
        assert [len(value) for value in row[:3]] == [4_000_000, 4_000_001, 4_000_002]  # type: ignore[arg-type]
        assert row[3] == float("-inf")


def test_a_value_above_the_servers_limit_has_its_error(sqld: START, url: Callable[[Sqld], str]) -> None:
    server = sqld()
    with LibsqlSource(url(server)).snapshot() as (reader,):
        with pytest.raises(TooLarge) as caught:
            list(reader.rows("SELECT hex(zeroblob(3000000))"))
        assert "copy of the file" in caught.value.try_
        assert list(reader.rows("SELECT 1")) == [(1,)]


def large(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE big (id INTEGER PRIMARY KEY, a, b TEXT)")
    connection.executemany(
        "INSERT INTO big VALUES (?, ?, ?)",
        [
            (1, b"x", "y"),
            (2, bytes(2_600_000), "z"),
            (3, bytes(3_000_000), "q" * 3_000_000),
            (4, b"", "t"),
            (9, None, "u"),
        ],
    )


def load(table: str, **columns: Conversion) -> Load:
    return Load(
        does="copy",
        table=table,
        schema="public",
        target=table,
        columns=tuple(LoadColumn(source=name, target=name, conversion=each) for name, each in columns.items()),
        key=("id",),
        rowid="rowid",
        rows=5,
        bytes=1000,
        widest=1,  # as if the profile had known nothing of them
    )


def test_rows_that_the_server_cannot_encode_are_fetched_raw(sqld: START, tmp_path: Path) -> None:
    """`hex` doubles a value: 2.6 MB make more than the 5 MB that the server's SQLite takes."""
    file = serve_file(tmp_path / "served", large)
    wanted = load(
        "big",
        id=Conversion(to="bigint", integers="keep"),
        a=Conversion(to="bytea", blobs="keep"),
        b=Conversion(to="text", texts="keep"),
    )

    def lines(source: Any) -> list[bytes]:
        with source.snapshot() as (reader,):
            encoder = encode.Encoder(wanted, reader.library, reader.function_arguments)
            text = b"".join(batch.data for batch in encoder.batches(reader))
        return [line.replace(b"'", b"") for line in text.splitlines()]

    local = lines(SqliteSource(file))
    found = lines(LibsqlSource(sqld("served").url))
    assert [(len(line), hash(line.lower())) for line in found] == [(len(line), hash(line.lower())) for line in local]
    assert len(found) == 5


def test_a_row_that_the_server_does_not_give_out_is_named(sqld: START, tmp_path: Path) -> None:
    def make(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE big (id INTEGER PRIMARY KEY, a)")
        connection.executemany("INSERT INTO big VALUES (?, ?)", [(1, b"x"), (7, bytes(6_000_000)), (8, b"y")])

    serve_file(tmp_path / "served", make)
    wanted = load("big", id=Conversion(to="bigint", integers="keep"), a=Conversion(to="bytea", blobs="keep"))
    with LibsqlSource(sqld("served").url).snapshot() as (reader,):
        encoder = encode.Encoder(wanted, reader.library, reader.function_arguments)
        with pytest.raises(SourceError, match="row 7") as caught:
            list(encoder.batches(reader))
    assert caught.value.where == "big"
    assert "copy" in caught.value.try_


# One snapshot


def ledger(server: Sqld) -> None:
    server.run(
        "CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)",
        "CREATE TABLE entry (id INTEGER PRIMARY KEY, account INTEGER, amount INTEGER)",
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 50)"
        " INSERT INTO account SELECT i, 0 FROM c",
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 5000)"
        " INSERT INTO entry SELECT i, 1 + i % 50, 0 FROM c",
    )


@contextlib.contextmanager
def writer(server: Sqld) -> Iterator[list[int]]:
    """Moves money without pause: each transaction changes two accounts, and adds and deletes entries."""
    done, counts = threading.Event(), [0]

    def write() -> None:
        draw = random.Random(1)
        while not done.is_set():
            one, other, amount = draw.randint(1, 50), draw.randint(1, 50), draw.randint(1, 99)
            server.run(
                "BEGIN IMMEDIATE",
                f"UPDATE account SET balance = balance - {amount} WHERE id = {one}",
                f"UPDATE account SET balance = balance + {amount} WHERE id = {other}",
                f"INSERT INTO entry (account, amount) VALUES ({one}, -{amount}), ({other}, {amount})",
                "DELETE FROM entry WHERE id = (SELECT min(id) FROM entry WHERE amount = 0)",
                "COMMIT",
            )
            counts[0] += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield counts
    finally:
        done.set()
        thread.join()


def violations(readers: Any) -> list[str]:
    """Reads accounts by one reader and entries by another, in pages, and compares them."""
    balances = dict(readers[0].rows("SELECT id, balance FROM account"))
    sums, at = dict.fromkeys(balances, 0), 0
    while page := list(
        readers[-1].rows("SELECT id, account, amount FROM entry WHERE id > ? ORDER BY id LIMIT 500", (at,))
    ):
        for _, account, amount in page:
            sums[account] += amount
        at = page[-1][0]
    wrong = [f"account {key}: {balances[key]} and {sums[key]}" for key in balances if balances[key] != sums[key]]
    return wrong + ([] if sum(balances.values()) == 0 else ["the sum is not zero"])


@pytest.mark.slow
@pytest.mark.parametrize("readers", [1, 3])
def test_a_writer_during_the_copy_breaks_nothing(sqld: START, readers: int) -> None:
    server = sqld()
    ledger(server)
    source = LibsqlSource(server.url)
    with writer(server) as written:
        for _ in range(20):
            before = written[0]
            with source.snapshot(readers) as given:
                assert violations(given) == []
                until = time.monotonic() + 10
                while written[0] < before + 3 and time.monotonic() < until:
                    time.sleep(0.01)
                assert violations(given) == []
                assert source.changed_since_snapshot()
            assert written[0] > before, "the snapshot kept the writer out"


def test_reading_without_a_snapshot_would_be_seen_to_break(sqld: START) -> None:
    """The invariant has teeth: the same pages outside a transaction contradict each other."""
    server = sqld()
    ledger(server)

    class Bare:
        def rows(self, sql: str, parameters: tuple[int, ...] = ()) -> Iterator[tuple[Any, ...]]:
            bound = sql.replace("?", str(parameters[0])) if parameters else sql
            (result,) = server.run(bound)
            yield from (tuple(int(cell["value"]) for cell in row) for row in result["rows"])

    with writer(server):
        assert any(violations([Bare()]) for _ in range(20))


def test_several_readers_see_one_state_and_fingerprints_tell_commits(sqld: START, url: Callable[[Sqld], str]) -> None:
    server = sqld()
    numbers(server, 10)
    source = LibsqlSource(url(server))
    assert source.endpoint.websocket or source.fingerprint() == source.fingerprint()
    with source.snapshot(9) as readers:
        assert len(readers) == 4
        assert readers[0].library >= (3, 45, 0)
        assert readers[0].function_arguments == 127
        token = source.fingerprint()
        assert not source.changed_since_snapshot()
        server.run("DELETE FROM t WHERE id = 1")
        assert {next(reader.rows("SELECT count(*) FROM t")) for reader in readers} == {(10,)}
        assert source.endpoint.websocket or source.fingerprint() == token
        assert source.changed_since_snapshot()
    assert source.fingerprint() != token
    with pytest.raises(SourceError, match="stopped"):
        list(readers[0].rows("SELECT 1"))


def test_an_idle_stream_is_kept_alive(sqld: START, url: Callable[[Sqld], str]) -> None:
    """The server drops a stream after ten seconds without a request."""
    server = sqld()
    numbers(server, 10)
    with LibsqlSource(url(server)).snapshot(2) as readers:
        server.run("DELETE FROM t")
        time.sleep(13)
        assert [list(reader.rows("SELECT count(*) FROM t")) for reader in readers] == [[(10,)], [(10,)]]


# Losses


def steal(server: Sqld, reader: Any) -> None:
    """Take the stream away as the server does when it expires."""
    with reader._lock:
        reader._stream._baton = None
        reader._stream._disconnect()


def test_a_transaction_that_ended_is_noticed(sqld: START) -> None:
    """The next answer comes from outside the transaction; without the guard it would be believed."""
    server = sqld()
    numbers(server, 10)
    with LibsqlSource(server.url).snapshot() as (reader,):
        server.run("DELETE FROM t WHERE id = 1")
        reader._stream.execute("ROLLBACK")
        with pytest.raises(SnapshotLost, match="commits were made since") as caught:
            list(reader.rows("SELECT count(*) FROM t"))
        assert caught.value.see.endswith("#snapshot-lost")
        assert "block writes" in caught.value.try_


def test_a_websocket_transaction_that_ended_is_noticed(sqld: START) -> None:
    websockets()
    server = sqld()
    numbers(server, 10)
    with LibsqlSource(f"ws://127.0.0.1:{server.hrana}").snapshot() as (reader,):
        server.run("DELETE FROM t WHERE id = 1")
        reader._stream._begun = False
        reader._stream.execute("ROLLBACK")
        reader._stream._begun = True
        with pytest.raises(SnapshotLost):
            list(reader.rows("SELECT count(*) FROM t"))


def test_a_lost_stream_goes_on_where_nothing_changed(sqld: START) -> None:
    server = sqld()
    numbers(server, 10)
    with LibsqlSource(server.url).snapshot() as (reader,):
        steal(server, reader)
        assert list(reader.rows("SELECT count(*) FROM t")) == [(10,)]
        server.run("DELETE FROM t WHERE id = 1")
        assert list(reader.rows("SELECT count(*) FROM t")) == [(10,)]
        steal(server, reader)
        with pytest.raises(SnapshotLost):
            list(reader.rows("SELECT count(*) FROM t"))


def test_a_frozen_source_goes_on_at_its_users_word(sqld: START) -> None:
    server = sqld()
    numbers(server, 10)
    source = LibsqlSource(server.url, frozen=True)
    with source.snapshot() as (reader,):
        server.run("CREATE TABLE other (id)")
        steal(server, reader)
        assert list(reader.rows("SELECT count(*) FROM t")) == [(10,)]
        assert not source.changed_since_snapshot()


def copied(reader: Any) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    while page := list(reader.rows("SELECT id, v FROM t WHERE id > ? ORDER BY id LIMIT 997", (len(rows),))):
        rows += page
    return rows


@pytest.mark.parametrize("seed", range(8))
def test_the_stream_is_cut_at_random_pages(sqld: START, proxy: Callable[[str], Proxy], seed: int) -> None:
    """Nobody writes: every row arrives once, whatever breaks."""
    server = sqld()
    numbers(server, 20_000)
    through = proxy(server.url)
    draw = random.Random(seed)
    with LibsqlSource(through.url, patience=10).snapshot() as (reader,):
        through.cut_after(draw.randint(1, 20_000))
        before = through.connections
        assert copied(reader) == [(i, f"row {i}") for i in range(1, 20_001)]
        assert through.connections > before


@pytest.mark.parametrize("seed", range(4))
def test_the_stream_is_lost_at_random_pages_and_someone_writes(sqld: START, seed: int) -> None:
    """Never a mixture: all pages are of one state, or the snapshot counts as lost."""
    server = sqld()
    numbers(server, 20_000)
    draw = random.Random(seed)
    lose_at, write_at = draw.randint(1, 18), draw.randint(0, 18)
    with LibsqlSource(server.url, patience=5).snapshot() as (reader,):
        rows: list[tuple[Any, ...]] = []
        try:
            for page in range(21):
                if page == write_at:
                    server.run("UPDATE t SET v = 'changed'")
                if page == lose_at:
                    steal(server, reader)
                rows += reader.rows("SELECT id, v FROM t WHERE id > ? ORDER BY id LIMIT 1000", (len(rows),))
        except SnapshotLost:
            assert lose_at >= write_at
        else:
            assert lose_at < write_at
            assert rows == [(i, f"row {i}") for i in range(1, 20_001)]


def test_the_server_is_stopped_and_started_again(sqld: START) -> None:
    """The log and the index in it are those of before, so the state is."""
    server = sqld()
    numbers(server, 20_000)
    source = LibsqlSource(server.url, patience=20)
    with source.snapshot() as (reader,):
        rows = list(reader.rows("SELECT id, v FROM t WHERE id <= 5000 ORDER BY id"))
        server.stop()
        later = threading.Timer(1.0, server.start)
        later.start()
        rows += reader.rows("SELECT id, v FROM t WHERE id > 5000 ORDER BY id")
        later.join()
        assert rows == [(i, f"row {i}") for i in range(1, 20_001)]
        server.stop()
        server.start()
        server.run("DELETE FROM t WHERE id = 1")
        with pytest.raises(SnapshotLost):
            list(reader.rows("SELECT count(*) FROM t"))


@pytest.mark.parametrize("frozen", [True, False])
def test_the_server_is_killed_and_started_again(sqld: START, url: Callable[[Sqld], str], frozen: bool) -> None:
    """A killed server begins a new log: only its user can know that nothing changed."""
    server = sqld()
    numbers(server, 20_000)
    source = LibsqlSource(url(server), patience=20, frozen=frozen)
    with source.snapshot() as (reader,):
        rows = list(reader.rows("SELECT id, v FROM t WHERE id <= 5000 ORDER BY id"))
        server.kill()
        later = threading.Timer(1.0, server.start)
        later.start()
        try:
            rows += reader.rows("SELECT id, v FROM t WHERE id > 5000 ORDER BY id")
        except SnapshotLost as lost:
            says = lost.says
            assert not frozen
            assert "started anew" in says or "nothing proves" in says
        else:
            assert frozen
            assert rows == [(i, f"row {i}") for i in range(1, 20_001)]
        later.join()


def test_a_killed_servers_index_is_not_believed(sqld: START) -> None:
    """It counts from the number of pages again, so another state can have the same index, size and schema."""
    server = sqld()
    numbers(server, 10)
    server.kill()
    server.start()
    before = LibsqlSource(server.url).fingerprint()
    (answer,) = server.run("UPDATE t SET v = 'changed'")
    server.kill()
    server.start()
    (again,) = server.run("SELECT 1")
    after = LibsqlSource(server.url).fingerprint()
    assert before.split(".")[1:] == after.split(".")[1:] == [again["replication_index"], *before.split(".")[2:]]
    assert answer["replication_index"] != again["replication_index"]
    assert before != after


def test_a_server_that_stays_away_is_unreachable(sqld: START, url: Callable[[Sqld], str]) -> None:
    server = sqld()
    numbers(server, 10)
    source = LibsqlSource(url(server), patience=1)
    with source.snapshot() as (reader,):
        server.kill()
        with pytest.raises(Unreachable) as caught:
            list(reader.rows("SELECT count(*) FROM t"))
        assert caught.value.where == source.title
    with pytest.raises(Unreachable), source.snapshot():
        pass


def test_a_stalled_server_is_given_up(sqld: START, proxy: Callable[[str], Proxy]) -> None:
    server = sqld()
    numbers(server, 10)
    through = proxy(server.url)
    with LibsqlSource(through.url, timeout=1, patience=1).snapshot() as (reader,):
        through.stall()
        began = time.monotonic()
        with pytest.raises((SnapshotLost, Unreachable)):
            list(reader.rows("SELECT count(*) FROM t"))
        assert time.monotonic() - began < 10
        through.resume()


def test_reading_can_be_stopped_from_another_thread(sqld: START, url: Callable[[Sqld], str]) -> None:
    server = sqld()
    source = LibsqlSource(url(server))
    endless = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 20000000) SELECT sum(i) FROM c"
    with source.snapshot() as (reader,):
        later = threading.Timer(0.5, source.interrupt)
        later.start()
        began = time.monotonic()
        with pytest.raises(SourceError, match="stopped"):
            list(reader.rows(endless))
        assert time.monotonic() - began < 5
        later.join()


# Tokens, blocked writes, replicas


def test_reading_from_a_stalled_server_can_be_stopped(sqld: START, proxy: Callable[[str], Proxy]) -> None:
    """Ctrl-C waits neither for the answer, nor for that to the keep-alive's question."""
    server = sqld()
    numbers(server, 10)
    through = proxy(server.url)
    source = LibsqlSource(through.url)
    with source.snapshot() as (reader,):
        assert len(copied(reader)) == 10
        through.stall()
        began = time.monotonic()
        threading.Timer(6, source.interrupt).start()  # by then the keep-alive waits, too
        with pytest.raises(SourceError, match="stopped"):
            copied(reader)
    assert time.monotonic() - began < 20


def test_tokens(sqld: START, url: Callable[[Sqld], str], tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    server = sqld("locked", "--auth-jwt-key-file", str(keys.public_file))
    server.run(
        "CREATE TABLE o (id INTEGER PRIMARY KEY)", "CREATE TABLE t (id INTEGER REFERENCES o)", token=keys.token()
    )
    source = LibsqlSource(url(server), keys.token("ro"))
    assert keys.token("ro") not in repr(source) + repr(source.endpoint) + source.title
    with source.snapshot(2) as readers:
        assert len(readers) == 2
        (table,) = (each for each in read_schema(readers[0]).tables if each.name == "t")
        assert table.foreign_keys[0].parent == "o"
        assert next(readers[0].rows("PRAGMA foreign_key_list('t')"))[2:4] == ("o", "id")
        assert list(readers[0].rows("PRAGMA encoding")) == [("UTF-8",)]
        assert next(readers[0].rows("EXPLAIN QUERY PLAN SELECT 1 FROM t"))[3] == "SCAN t"
        for statement in ("DELETE FROM t", "PRAGMA user_version = 3", "WITH x AS (SELECT 1) DELETE FROM t"):
            with pytest.raises(SourceError):
                list(readers[0].rows(statement))
        assert list(readers[0].rows("SELECT count(*) FROM t")) == [(0,)]
    for token in ("", "not.a.token", Keys(tmp_path / "other").token()):
        with pytest.raises(Unreachable) as caught, LibsqlSource(url(server), token, patience=0).snapshot():
            pass
        assert not token or token not in f"{caught.value} {caught.value.where} {caught.value.try_} {caught.value!r}"


def test_a_replica_is_a_source_too(sqld: START, url: Callable[[Sqld], str]) -> None:
    primary = sqld()
    numbers(primary, 1000)
    replica = sqld("replica", "--primary-grpc-url", f"http://127.0.0.1:{primary.grpc}")
    source = LibsqlSource(url(replica))
    until = time.monotonic() + 10
    seen = "SELECT count(*) FROM sqlite_schema"
    while replica.run(seen)[0]["rows"] != primary.run(seen)[0]["rows"] and time.monotonic() < until:
        time.sleep(0.1)
    with source.snapshot(2) as readers:
        assert copied(readers[1]) == [(i, f"row {i}") for i in range(1, 1001)]
        primary.run("DELETE FROM t WHERE id = 1")
        while not source.changed_since_snapshot() and time.monotonic() < until:
            time.sleep(0.1)
        assert list(readers[0].rows("SELECT count(*) FROM t")) == [(1000,)]
    assert source.endpoint.websocket or source.fingerprint() == LibsqlSource(primary.url).fingerprint()


def config(server: Sqld) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.admin}/v1/namespaces/default/config", timeout=5) as answer:
        content: dict[str, Any] = json.load(answer)
        return content


def test_writes_are_blocked_while_a_snapshot_is_open(sqld: START) -> None:
    server = sqld()
    numbers(server, 10)
    before = config(server)
    admin = Admin(url=f"http://127.0.0.1:{server.admin}")
    source = LibsqlSource(server.url, admin=admin)
    with source.snapshot(2) as readers:
        with pytest.raises(AssertionError, match="BLOCKED"):
            server.run("DELETE FROM t")
        assert {len(copied(reader)) for reader in readers} == {10}
        assert not source.changed_since_snapshot()
        assert read_schema(readers[0]).tables
    assert config(server) == before
    server.run("DELETE FROM t")


def test_writes_blocked_already_stay_blocked(sqld: START) -> None:
    server = sqld()
    admin = Admin(url=f"http://127.0.0.1:{server.admin}")
    with writes_blocked(admin):
        with LibsqlSource(server.url, admin=admin).snapshot():
            pass
        assert config(server)["block_writes"]
    assert not config(server)["block_writes"]


def test_who_may_block_writes_is_named_by_the_environment() -> None:
    cloud = {"TURSO_ORGANIZATION": "me", "TURSO_API_TOKEN": "secret"}
    admin = admin_of("shop-me.turso.io", environment=cloud)
    assert (admin.organization, admin.database, admin.token) == ("me", "shop-me.turso.io", "secret")
    assert "secret" not in repr(admin)
    assert admin_of("10.0.0.1", environment={"SQLD_ADMIN_URL": "http://10.0.0.1:8082"}).url == "http://10.0.0.1:8082"
    for host, names in (("shop-me.turso.io", {"TURSO_ORGANIZATION": "me"}), ("10.0.0.1", cloud)):
        with pytest.raises(ConfigError, match="must be set"):
            admin_of(host, environment=names)


def test_who_may_block_writes_is_named_by_dbscale_toml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "secret")
    content = {
        "databases": {
            "own": {"url": "http://10.0.0.1", "admin_url": "http://10.0.0.1:8082", "admin_token": "env:KEY"},
            "cloud": {"url": "libsql://shop-me.turso.io", "organization": "me", "admin_token": "env:KEY"},
        }
    }
    own, cloud = configuration.parse(content).databases.values()
    assert admin_of("10.0.0.1", own, {}) == Admin(url="http://10.0.0.1:8082", token="secret")
    there = admin_of("shop-me.turso.io", cloud, {})
    assert (there.organization, there.database, there.token) == ("me", "shop-me.turso.io", "secret")
    assert "secret" not in f"{own!r}{cloud!r}{there!r}"
    with pytest.raises(ConfigError, match="not kept in the file"):
        configuration.parse({"databases": {"own": {"url": "http://h", "admin_token": "secret"}}})


class Platform(BaseHTTPRequestHandler):
    """Turso's platform API as its documentation has it: enough to see the form of the requests, and no more."""

    seen: ClassVar[list[tuple[str, str, str, Any]]] = []
    blocked = False

    def _answer(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _note(self) -> Any:
        length = int(self.headers.get("Content-Length") or 0)
        content = json.loads(self.rfile.read(length)) if length else None
        Platform.seen.append((self.command, self.path, self.headers["Authorization"], content))
        return content

    def do_GET(self) -> None:
        self._note()
        if self.path.endswith("/configuration"):
            self._answer({"block_writes": Platform.blocked, "block_reads": False, "size_limit": "0"})
        else:
            names = [("other", "xshop-me.turso.io"), ("shop", "shop-me.turso.io")]
            self._answer({"databases": [{"Name": name, "Hostname": host} for name, host in names]})

    def do_PATCH(self) -> None:
        Platform.blocked = self._note()["block_writes"]
        self._answer({"block_writes": Platform.blocked})

    def log_message(self, *_: Any) -> None:
        """Silent."""


def test_the_requests_to_tursos_platform_have_the_documented_form() -> None:
    """Against a stand-in: there is no Turso Cloud here, and this proves nothing about it."""
    Platform.seen.clear()
    api = ThreadingHTTPServer(("127.0.0.1", 0), Platform)
    threading.Thread(target=api.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{api.server_address[1]}"
    admin = Admin(url=url, organization="me", database="shop-me.turso.io", token="secret")
    try:
        with writes_blocked(admin) as already:
            assert already is None
            assert Platform.blocked
            left = left_blocked(admin)
            assert left is not None
            assert "curl -X PATCH" in left.try_
            assert "secret" not in left.try_
            with writes_blocked(admin) as before:
                assert before is not None
            assert Platform.blocked
        assert not Platform.blocked
    finally:
        api.shutdown()
        api.server_close()
    path = "/v1/organizations/me/databases/shop/configuration"
    changes = [(each[1], each[3]) for each in Platform.seen if each[0] == "PATCH"]
    assert changes == [(path, {"block_writes": True}), (path, {"block_writes": False})]
    assert {each[2] for each in Platform.seen} == {"Bearer secret"}


def test_the_admin_api_wants_its_key(sqld: START) -> None:
    server = sqld("keyed", "--admin-auth-key", "open-sesame")
    url = f"http://127.0.0.1:{server.admin}"
    with writes_blocked(Admin(url=url, token="open-sesame")), pytest.raises(AssertionError, match="BLOCKED"):
        server.run("CREATE TABLE t (id)")
    for token in ("", "wrong"):
        with pytest.raises(Missing) as caught, writes_blocked(Admin(url=url, token=token)):
            pass
        assert "admin-auth-key" in caught.value.try_
    with pytest.raises(Unreachable), writes_blocked(Admin(url="http://127.0.0.1:9")):
        pass
    with pytest.raises(ConfigError), writes_blocked(Admin(url=url, token="open-sesame", database="nowhere")):
        pass


# What is libSQL's own

OWN = (
    "CREATE TABLE random (id INTEGER, v TEXT) RANDOM ROWID",
    "INSERT INTO random VALUES (1, 'a'), (2, 'b')",
    "CREATE TABLE embedding (id INTEGER PRIMARY KEY, v F32_BLOB(3))",
    "INSERT INTO embedding VALUES (1, vector32('[1, 2.5, -3]')), (2, NULL)",
    "CREATE INDEX embedding_v ON embedding (libsql_vector_idx(v, 'metric=cosine'))",
    "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
    "CREATE TABLE altered (id INTEGER PRIMARY KEY, a)",
    "INSERT INTO altered VALUES (1, NULL), (2, 'x')",
    "ALTER TABLE altered ALTER COLUMN a TO a INTEGER NOT NULL CHECK (a > 0) REFERENCES parent (id)",
    "CREATE TABLE later (id INTEGER PRIMARY KEY, v TEXT)",
    "INSERT INTO later VALUES (1, 'after the table that SQLite cannot parse')",
)


def test_a_libsql_file_reads_as_its_server_does(sqld: START) -> None:
    """A stock SQLite calls the schema malformed, and stops before every table."""
    server = sqld()
    server.run(*OWN)

    def everything(source: Any) -> tuple[Any, ...]:
        with source.snapshot() as (reader,):
            schema = read_schema(reader)
            rows = {each.name: list(reader.rows(f'SELECT rowid, * FROM "{each.name}"')) for each in schema.tables}
            return schema.tables, schema.skipped, rows

    of_server = everything(LibsqlSource(server.url))
    server.stop()
    file = SqliteSource(server.home / "dbs" / "default" / "data")
    assert everything(file) == of_server
    tables, skipped, rows = of_server
    assert [each.name for each in tables] == ["random", "embedding", "parent", "altered", "later"]
    assert {each.name for each in skipped} == {"libsql_vector_meta_shadow", "embedding_v_shadow"}
    assert [row[1:] for row in rows["embedding"]] == [(1, struct.pack("<3f", 1, 2.5, -3)), (2, None)]
    assert sorted(row[2] for row in rows["random"]) == ["a", "b"]
    assert [row[2] for row in rows["altered"]] == [None, "x"]
    assert "malformed-schema" in {finding.code for finding in file.notes}
    with file.snapshot() as (reader,):
        assert reader.damage() == ()
    with sqlite3.connect(file.path) as plain, pytest.raises(sqlite3.DatabaseError, match="malformed"):
        plain.execute("SELECT * FROM later")


# Addresses


@pytest.mark.parametrize(
    ("address", "title", "websocket"),
    [
        ("libsql://shop-me.turso.io", "https://shop-me.turso.io", False),
        ("libsql://127.0.0.1:8080?tls=0", "http://127.0.0.1:8080", False),
        ("https://shop-me.aws-eu-west-1.turso.io/", "https://shop-me.aws-eu-west-1.turso.io", False),
        ("http://[::1]:8080/db", "http://[::1]:8080/db", False),
        ("ws://127.0.0.1:8081", "ws://127.0.0.1:8081", True),
        ("wss://example.org", "wss://example.org", True),
        ("wss://shop-me.turso.io", "https://shop-me.turso.io", False),
    ],
)
def test_addresses(address: str, title: str, websocket: bool) -> None:
    endpoint = parse(address, "secret")
    assert (endpoint.title, endpoint.websocket) == (title, websocket)
    assert "secret" not in repr(endpoint)


@pytest.mark.parametrize("address", ["postgres://x", "libsql://", "https://h?tls=0", "http://h:port"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ConfigError):
        parse(address)


def test_a_server_of_another_kind_is_said_to_be(sqld: START) -> None:
    server = sqld()
    with pytest.raises(SourceError, match="Hrana 3"), LibsqlSource(f"{server.url}/nowhere").snapshot():
        pass
