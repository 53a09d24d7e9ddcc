"""SQLite files as sources: one snapshot under writers, and for each bad file an error that says what to do.

Writers are processes of their own where locks matter: two libraries in one process would share POSIX locks.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import apsw
import pytest

from dbscale.drivers import sqlite_file
from dbscale.drivers.sqlite import SqliteReader, SqliteSource
from dbscale.errors import SourceError

NOBODY = 65534


def make(path: Path, sql: str) -> Path:
    database = apsw.Connection(str(path))
    database.execute(sql).fetchall()
    database.close()
    return path


def fill(path: Path, rows: int = 1000, mode: str = "DELETE") -> Path:
    return make(
        path,
        f"PRAGMA journal_mode = {mode}; CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT); WITH RECURSIVE n(i) AS"
        f" (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) INSERT INTO t SELECT i, 'row ' || i FROM n",
    )


def count(reader: SqliteReader) -> int:
    ((rows,),) = reader.rows("SELECT count(*) FROM t")
    assert isinstance(rows, int)
    return rows


def digest(directory: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(directory.iterdir())}


class Writer:
    """A process that runs statements on a database, one a line; `say` answers `ok` or the error."""

    PROGRAM = """
import sys, apsw
c = apsw.Connection(sys.argv[1]); c.set_busy_timeout(int(sys.argv[2]))
for line in sys.stdin:
    try:
        c.execute(line).fetchall(); print("ok", flush=True)
    except apsw.Error as error:
        print(type(error).__name__, error, flush=True)
"""

    def __init__(self, path: Path, patience: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.PROGRAM, str(path), str(patience)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def say(self, sql: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(sql + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def writer() -> Iterator[Callable[..., Writer]]:
    started: list[Writer] = []

    def start(path: Path, patience: int = 0) -> Writer:
        started.append(Writer(path, patience))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that every user may enter, which pytest's own are not."""
    directory = Path(tempfile.mkdtemp(prefix="dbscale-test-"))
    directory.chmod(0o755)
    yield directory
    directory.chmod(0o755)
    shutil.rmtree(directory)


def as_nobody(work: Callable[[], Any]) -> Any:
    """What `work` returns in a child that has no special rights: permissions do not bind root."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()

    def child() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        try:
            theirs.send(work())
        except SourceError as error:
            theirs.send((str(error), error.where, error.try_, error.see))

    process = context.Process(target=child)
    process.start()
    assert mine.poll(30)
    answer = mine.recv()
    process.join()
    return answer


def refusal(path: Path, **options: Any) -> SourceError:
    """The error that opening `path` and reading all of its table t raises."""
    with pytest.raises(SourceError) as caught, SqliteSource(path, **options).snapshot() as (reader,):
        list(reader.rows("SELECT * FROM t"))
    error = caught.value
    assert error.where
    assert error.try_
    assert error.see.startswith("docs/errors.md#")
    return error


# One snapshot

INVARIANT = """
import sys, time, apsw, random
c = apsw.Connection(sys.argv[1]); c.set_busy_timeout(int(sys.argv[2]))
done = 0
print("started", flush=True)
try:
    while True:
        n = random.randint(1, 9)
        c.execute("BEGIN IMMEDIATE")
        c.execute("UPDATE a SET n = n - ?", (n,)); c.execute("UPDATE b SET n = n + ?", (n,))
        c.execute("INSERT INTO log(n) VALUES (?)", (n,)); c.execute("UPDATE logged SET n = n + 1")
        c.execute("COMMIT")
        time.sleep(float(sys.argv[3]))
        done += 1
        if done % 50 == 0:
            print(done, flush=True)
except apsw.BusyError as error:
    print("busy", error, flush=True)
"""


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_all_readers_see_one_state_while_a_writer_commits(tmp_path: Path, mode: str) -> None:
    path = make(
        tmp_path / "busy.db",
        f"PRAGMA journal_mode = {mode}; CREATE TABLE a(n); CREATE TABLE b(n); CREATE TABLE log(n);"
        "CREATE TABLE logged(n);"
        "INSERT INTO a VALUES (1000000); INSERT INTO b VALUES (0); INSERT INTO logged VALUES (0)",
    )
    # In WAL mode no lock of ours may hold the writer up for 50 ms, nor does it give us a pause.
    patience, pause = ("50", "0") if mode == "WAL" else ("60000", "0.005")
    process = subprocess.Popen(
        [sys.executable, "-c", INVARIANT, str(path), patience, pause], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        seen = set()
        for _ in range(25 if mode == "WAL" else 6):
            with SqliteSource(path, busy_seconds=60).snapshot(4) as readers, ThreadPoolExecutor(4) as pool:
                questions = (
                    "SELECT n FROM a",
                    "SELECT n FROM b",
                    "SELECT count(*), sum(n) FROM log",
                    "SELECT n FROM logged",
                )
                answers = [
                    next(answer)
                    for answer in pool.map(lambda pair: pair[0].rows(pair[1]), zip(readers, questions, strict=True))
                ]
                (a,), (b,), (lines, total), (logged,) = answers
                assert (a + b, b, lines) == (1_000_000, total or 0, logged)  # type: ignore[operator]
                seen.add(logged)
            time.sleep(
                0.15 if mode == "DELETE" else 0
            )  # SQLite looks for a lock every 100 ms: the writer gets its turn
        assert process.poll() is None, "the writer was held up"
        assert len(seen) > 2, "the writer was at work"
    finally:
        process.kill()
        process.wait()


def test_rows_in_the_wal_are_read_and_nothing_is_left_behind(tmp_path: Path, writer: Callable[..., Writer]) -> None:
    path = fill(tmp_path / "w.db", mode="WAL")
    assert [file.name for file in tmp_path.iterdir()] == ["w.db"]
    before = digest(tmp_path)
    with SqliteSource(path).snapshot(3) as readers:
        assert [count(reader) for reader in readers] == [1000] * 3
    assert digest(tmp_path) == before, "no -wal, no -shm, not a byte changed"

    other = writer(path)
    assert other.say("INSERT INTO t VALUES (-1, 'in the wal')") == "ok"
    before = digest(tmp_path)
    assert {"w.db", "w.db-wal", "w.db-shm"} == set(before)
    with SqliteSource(path).snapshot() as (reader,):
        assert count(reader) == 1001
    after = digest(tmp_path)
    assert {name: after[name] for name in ("w.db", "w.db-wal")} == {name: before[name] for name in ("w.db", "w.db-wal")}


def test_a_wal_that_came_without_its_shm_stays_so(tmp_path: Path, writer: Callable[..., Writer]) -> None:
    """A copy of a database in use: its -wal has rows, and there is no -shm."""
    path = fill(tmp_path / "w.db", mode="WAL")
    writer(path).say("INSERT INTO t VALUES (-1, 'in the wal')")
    (tmp_path / "copy").mkdir()
    for end in ("", "-wal"):
        (tmp_path / "copy" / f"w.db{end}").write_bytes(Path(f"{path}{end}").read_bytes())
    before = digest(tmp_path / "copy")
    assert set(before) == {"w.db", "w.db-wal"}
    with SqliteSource(tmp_path / "copy" / "w.db").snapshot(2) as readers:
        assert [count(reader) for reader in readers] == [1001] * 2
    assert digest(tmp_path / "copy") == before
    with SqliteSource(tmp_path / "copy" / "w.db").snapshot() as (reader,):
        other = writer(tmp_path / "copy" / "w.db")
        assert other.say("INSERT INTO t VALUES (-2, 'of one who came meanwhile')") == "ok"
        assert count(reader) == 1001
    assert {file.name for file in (tmp_path / "copy").iterdir()} == {"w.db", "w.db-wal", "w.db-shm"}
    assert other.say("INSERT INTO t VALUES (-3, 'and goes on')") == "ok"
    with SqliteSource(tmp_path / "copy" / "w.db").snapshot() as (reader,):
        assert count(reader) == 1003


def test_what_readers_at_one_time_or_killed_ones_leave_goes_with_the_last(tmp_path: Path) -> None:
    path = fill(tmp_path / "w.db", mode="WAL")
    before = digest(tmp_path)
    with ExitStack() as second:
        with SqliteSource(path).snapshot() as (reader,):
            second.enter_context(SqliteSource(path).snapshot())
            assert count(reader) == 1000
        assert {"w.db-wal", "w.db-shm"} < {file.name for file in tmp_path.iterdir()}
    assert digest(tmp_path) == before
    killed = (
        "import apsw, os, sys; c = apsw.Connection(sys.argv[1], flags=1); [*c.execute('SELECT * FROM t')]; os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", killed, str(path)], check=False)
    assert {"w.db-wal", "w.db-shm"} < {file.name for file in tmp_path.iterdir()}
    with SqliteSource(path).snapshot() as (reader,):
        assert count(reader) == 1000
    assert digest(tmp_path) == before


def test_a_killed_writers_wal_is_read_and_stays(tmp_path: Path, writer: Callable[..., Writer]) -> None:
    path = fill(tmp_path / "w.db", mode="WAL")
    other = writer(path)
    other.say("INSERT INTO t VALUES (-1, 'in the wal')")
    other.kill()
    wal = (tmp_path / "w.db-wal").read_bytes()
    with SqliteSource(path).snapshot() as (reader,):
        assert count(reader) == 1001
    assert (tmp_path / "w.db-wal").read_bytes() == wal


@pytest.mark.parametrize(("where", "lost"), [(0.5, 5), (0.0, 10), (1.0, 0)])
def test_commits_behind_damage_in_the_wal_are_told(
    tmp_path: Path, writer: Callable[..., Writer], where: float, lost: int
) -> None:
    path = fill(tmp_path / "w.db", mode="WAL")
    other = writer(path)
    for i in range(10):
        assert other.say(f"UPDATE t SET a = 'commit {i}' WHERE id = 1") == "ok"
    other.kill()
    wal = bytearray((tmp_path / "w.db-wal").read_bytes())
    frames = (len(wal) - 32) // 4120
    assert frames == 10
    if where < 1:
        wal[32 + 4120 * int(frames * where) + 100] ^= 1
    else:
        wal += wal[32:4152]  # what a crash leaves: frames without a commit
        wal[-4120 + 4 : -4120 + 8] = bytes(4)
    (tmp_path / "w.db-wal").write_bytes(wal)
    (tmp_path / "w.db-shm").unlink()
    source = SqliteSource(path)
    with source.snapshot() as (reader,):
        expected = f"commit {9 - lost}" if lost < 10 else "row 1"
        assert list(reader.rows("SELECT a FROM t WHERE id = 1")) == [(expected,)]
    assert [f"the last {lost} commits" in note.says for note in source.notes] == [True] * (lost > 0)


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_commits_are_noticed(tmp_path: Path, writer: Callable[..., Writer], mode: str) -> None:
    path = fill(tmp_path / "w.db", mode=mode)
    source = SqliteSource(path)
    first = source.fingerprint()
    with source.snapshot(2) as readers:
        assert source.fingerprint() == first, "reading changes nothing"
        assert not source.changed_since_snapshot()
        answer = writer(path).say("UPDATE t SET a = 'new' WHERE id = 1")
        assert source.fingerprint() == first, "the token is the snapshot's"
        if mode == "WAL":
            assert answer == "ok"
            assert source.changed_since_snapshot()
        else:
            assert answer.startswith("BusyError")
            assert not source.changed_since_snapshot()
            assert "source-blocks-writers" in {note.code for note in source.notes}
        assert next(readers[1].rows("SELECT a FROM t WHERE id = 1")) == ("row 1",)
    assert (source.fingerprint() == first) == (mode == "DELETE")


def test_every_commit_changes_the_fingerprint(tmp_path: Path) -> None:
    for mode in ("WAL", "DELETE"):
        path = fill(tmp_path / f"{mode}.db", mode=mode)
        database = apsw.Connection(str(path))
        source = SqliteSource(path)
        seen = {source.fingerprint()}
        for i in range(50):
            database.execute("UPDATE t SET a = ? WHERE id = 1", (i,)).fetchall()
            if i % 10 == 9 and mode == "WAL":
                database.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
            seen.add(source.fingerprint())
            assert len(seen) == i + 2
        assert source.fingerprint() in seen


def test_looking_at_the_file_keeps_the_locks_of_this_process(tmp_path: Path, writer: Callable[..., Writer]) -> None:
    path = fill(tmp_path / "l.db")
    mine = apsw.Connection(str(path))
    mine.execute("BEGIN IMMEDIATE").fetchall()
    SqliteSource(path).fingerprint()
    sqlite_file.check(path)
    sqlite_file.read_ahead(path, lambda: False)
    assert writer(path).say("BEGIN IMMEDIATE").startswith("BusyError")


def test_reading_ahead_stops_when_asked_and_leaves_errors_to_others(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db", "CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(5 << 20))")
    asked: list[int] = []
    assert sqlite_file.read_ahead(path, lambda: bool(asked.append(1)))
    assert len(asked) == 6  # before each MB
    assert not sqlite_file.read_ahead(path, lambda: len(asked) >= 8 or bool(asked.append(1)))
    assert len(asked) == 8
    assert sqlite_file.read_ahead(tmp_path / "none.db", lambda: False)


def test_hold_writes(tmp_path: Path, writer: Callable[..., Writer]) -> None:
    path = fill(tmp_path / "h.db", mode="WAL")
    other = writer(path)
    with SqliteSource(path, hold_writes=True).snapshot(2) as readers:
        assert other.say("DELETE FROM t").startswith("BusyError")
        assert count(readers[1]) == 1000
    assert other.say("DELETE FROM t") == "ok"


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_copy_first_lets_writers_go_on(
    tmp_path: Path, writer: Callable[..., Writer], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    path = fill(tmp_path / "c.db", mode=mode)
    source = SqliteSource(path, copy_first=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with source.snapshot(2) as readers:
        (copy,) = tmp_path.glob("dbscale-*/copy.db")
        assert not source.changed_since_snapshot()
        token = source.fingerprint()
        assert writer(path).say("DELETE FROM t WHERE id > 10") == "ok"
        assert [count(reader) for reader in readers] == [1000, 1000]
        assert source.changed_since_snapshot()
        assert source.fingerprint() == token
        assert "source-blocks-writers" not in {note.code for note in source.notes}
    assert not copy.exists()


def test_a_snapshot_gives_way_to_a_writer_that_waits(tmp_path: Path, writer: Callable[..., Writer]) -> None:
    path = fill(tmp_path / "p.db")
    other = writer(path)
    assert other.say("BEGIN EXCLUSIVE") == "ok"
    timer = threading.Timer(0.5, lambda: other.say("COMMIT"))
    timer.start()
    with SqliteSource(path).snapshot(4) as readers:
        assert [count(reader) for reader in readers] == [1000] * 4
    timer.join()


# Rows


def test_rows_are_lazy_and_threads_read_side_by_side(tmp_path: Path) -> None:
    path = fill(tmp_path / "r.db", rows=50_000)
    with SqliteSource(path).snapshot(4) as readers, ThreadPoolExecutor(4) as pool:
        rows = readers[0].rows("SELECT id, a FROM t ORDER BY id")
        assert next(rows) == (1, "row 1")
        sums = list(pool.map(lambda reader: next(reader.rows("SELECT sum(id) FROM t WHERE id > ?", (10,))), readers))
        assert sums == [(50_000 * 50_001 // 2 - 55,)] * 4
        assert next(rows) == (2, "row 2")
        assert readers[0].function_arguments == 1000
        assert readers[0].library == SqliteSource(path).library


def test_values_come_as_they_are(tmp_path: Path) -> None:
    path = make(
        tmp_path / "v.db",
        "CREATE TABLE t(a); INSERT INTO t VALUES (NULL), (-9223372036854775808), (0.1), ('é😀'), (x'00ff'),"
        "('a' || char(0))",
    )
    with SqliteSource(path).snapshot() as (reader,):
        values = [value for (value,) in reader.rows("SELECT a FROM t")]
    assert values == [None, -(2**63), 0.1, "é😀", b"\x00\xff", "a\0"]


def test_large_values(tmp_path: Path) -> None:
    path = make(tmp_path / "big.db", "CREATE TABLE t(a); INSERT INTO t VALUES (printf('%.*c', 20000000, 'x'))")
    with SqliteSource(path).snapshot() as (reader,):
        ((text,),) = reader.rows("SELECT a FROM t")
    assert text == "x" * 20_000_000


def test_text_that_is_not_utf8_is_refused_but_can_be_read_as_bytes(tmp_path: Path) -> None:
    path = make(tmp_path / "u.db", "CREATE TABLE t(a); INSERT INTO t VALUES (CAST(x'66696c6596' AS TEXT))")
    assert "UTF-8" in str(refusal(path))
    with SqliteSource(path).snapshot() as (reader,):
        assert list(reader.rows("SELECT CAST(a AS BLOB) FROM t")) == [(b"file\x96",)]


def test_a_read_can_be_stopped_from_another_thread(tmp_path: Path) -> None:
    source = SqliteSource(fill(tmp_path / "s.db"))
    with source.snapshot() as (reader,), ThreadPoolExecutor(1) as pool:
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
        reading = pool.submit(lambda: list(reader.rows(endless)))
        time.sleep(0.3)
        source.interrupt()
        with pytest.raises(SourceError, match="stopped"):
            reading.result(timeout=10)
    with source.snapshot() as (reader,):
        assert count(reader) == 1000, "and can be read again"


def test_control_c_stops_a_long_statement(tmp_path: Path) -> None:
    program = """
import sys
from dbscale.drivers.sqlite import SqliteSource
with SqliteSource(sys.argv[1]).snapshot() as (reader,):
    print("reading", flush=True)
    list(reader.rows("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(fill(tmp_path / "s.db"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert "KeyboardInterrupt" in said


def test_leaving_a_snapshot_stops_the_threads_that_read_in_it(tmp_path: Path) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with ThreadPoolExecutor(1) as pool:
        with SqliteSource(fill(tmp_path / "s.db")).snapshot() as (reader,):
            reading = pool.submit(lambda: list(reader.rows(endless)))
            time.sleep(0.3)
        with pytest.raises(SourceError):
            reading.result(timeout=10)


def test_the_source_cannot_be_written(tmp_path: Path) -> None:
    path = fill(tmp_path / "r.db")
    with SqliteSource(path).snapshot() as (reader,), pytest.raises(SourceError):
        list(reader.rows("DELETE FROM t RETURNING id"))


def test_an_unknown_collation_does_not_hide_rows(tmp_path: Path) -> None:
    database = apsw.Connection(str(tmp_path / "k.db"))
    database.create_collation("unicase", lambda a, b: (a.lower() > b.lower()) - (a.lower() < b.lower()))
    database.execute(
        "CREATE TABLE t(a TEXT COLLATE unicase UNIQUE); INSERT INTO t VALUES ('b'), ('A'), ('c')"
    ).fetchall()
    database.close()
    source = SqliteSource(tmp_path / "k.db")
    with source.snapshot() as (reader,):
        assert sorted(reader.rows("SELECT a FROM t ORDER BY a")) == [("A",), ("b",), ("c",)]
    assert ["unicase" in note.says for note in source.notes if note.code == "unknown-collation"] == [True]


# Bad files


def test_an_empty_file_is_a_database_without_tables(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    source = SqliteSource(tmp_path / "empty.db")
    with source.snapshot(2) as (reader, _):
        assert list(reader.rows("SELECT * FROM sqlite_master")) == []
    assert "empty-source" in {note.code for note in source.notes}
    assert (tmp_path / "empty.db").stat().st_size == 0


def test_a_missing_file_is_not_made(tmp_path: Path) -> None:
    error = refusal(tmp_path / "none.db")
    assert error.see.endswith("#source-missing")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SourceError, match="no such file"):
        sqlite_file.size(tmp_path / "none.db")


def test_a_directory(tmp_path: Path) -> None:
    assert "directory" in str(refusal(tmp_path))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (random.Random(1).randbytes(16_384), "encrypted"),
        (b"BEGIN TRANSACTION;\nCREATE TABLE t(a);\n" * 50, "text"),
        (b"\x1f\x8b\x08" + bytes(5000), "gzip"),
        (b"PK\x03\x04" + bytes(5000), "zip"),
        (b"** This file contains an SQLite 2.1 database **\0" + bytes(5000), "SQLite 2"),
        (bytes(8) + b"DUCK" + bytes(5000), "DuckDB"),
        (b"PGDMP" + bytes(5000), "PostgreSQL dump"),
        (b"age-encryption.org/v1\n" + bytes(range(200)), "age"),
        (b"\x37\x7f\x06\x82" + bytes(100), "-wal"),
        (bytes(4096), "not a SQLite database"),
        (b"xy", "text"),
        (b"SQLite format 3", "not a SQLite database"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "f.db").write_bytes(content)
    assert says in str(refusal(tmp_path / "f.db"))
    assert [file.name for file in tmp_path.iterdir()] == ["f.db"]


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_a_file_cut_off(tmp_path: Path, keep: float) -> None:
    path = fill(tmp_path / "cut.db", rows=20_000)
    os.truncate(path, int(path.stat().st_size * keep) // 4096 * 4096)
    error = refusal(path)
    assert "cut off" in str(error)
    assert ".recover" in error.try_


def test_a_file_of_a_header_alone(tmp_path: Path) -> None:
    path = fill(tmp_path / "head.db")
    os.truncate(path, 100)
    assert refusal(path).see.endswith("#source-damaged")


def test_a_damaged_page_names_the_table(tmp_path: Path) -> None:
    path = fill(tmp_path / "d.db", rows=20_000)
    with path.open("r+b") as file:
        file.seek(4096 * 30)
        file.write(b"\xff" * 4096)
    error = refusal(path)
    assert error.see.endswith("#source-damaged")
    assert error.where.endswith("d.db: t")


def test_a_tree_that_gives_rows_twice_is_found(tmp_path: Path) -> None:
    """One leaf in the place of another: every page is sound, and no read fails."""
    path = fill(tmp_path / "twice.db", rows=20_000)
    data = bytearray(path.read_bytes())
    data[4096 * 30 : 4096 * 31] = data[4096 * 31 : 4096 * 32]
    path.write_bytes(data)
    with SqliteSource(path).snapshot() as (reader,):
        assert len(list(reader.rows("SELECT * FROM t"))) > 19_000
        (finding, *_) = reader.damage()
    assert (finding.code, finding.level, finding.where) == ("source-damaged", "blocker", f"{path}: t")
    with SqliteSource(fill(tmp_path / "sound.db")).snapshot() as (reader,):
        assert reader.damage() == ()


def test_a_file_locked_by_a_writer(tmp_path: Path, writer: Callable[..., Writer]) -> None:
    path = fill(tmp_path / "l.db")
    assert writer(path).say("BEGIN EXCLUSIVE") == "ok"
    start = time.monotonic()
    error = refusal(path, busy_seconds=0.5)
    assert 0.4 < time.monotonic() - start < 5
    assert error.see.endswith("#source-locked")


def test_a_hot_journal_is_rolled_back_in_a_copy(tmp_path: Path, writer: Callable[..., Writer]) -> None:
    path = fill(tmp_path / "hot.db", rows=20_000)
    other = writer(path)
    for statement in ("PRAGMA cache_size = 5", "BEGIN", "UPDATE t SET a = 'half done'"):
        assert other.say(statement) == "ok"
    os.kill(other.process.pid, signal.SIGKILL)
    other.process.wait()
    assert {file.name for file in tmp_path.iterdir()} == {"hot.db", "hot.db-journal"}
    before = digest(tmp_path)
    source = SqliteSource(path)
    with source.snapshot(2) as readers:
        assert count(readers[0]) == 20_000
        assert list(readers[1].rows("SELECT count(*) FROM t WHERE a = 'half done'")) == [(0,)]
        assert not source.changed_since_snapshot()
    assert digest(tmp_path) == before
    assert "source-copied" in {note.code for note in source.notes}


def test_no_permission(open_place: Path) -> None:
    path = fill(open_place / "p.db")
    path.chmod(0o600)
    says, where, try_, see = as_nobody(lambda: refusal_parts(path))
    assert "may not read" in says
    assert where == str(path)
    assert "chmod" in try_
    assert see.endswith("#source-permission")


def refusal_parts(path: Path) -> tuple[int, list[str]]:
    source = SqliteSource(path)
    with source.snapshot(2) as readers:
        return count(readers[1]), [note.code for note in source.notes]


def test_a_wal_database_in_a_directory_that_may_not_be_written(open_place: Path, writer: Callable[..., Writer]) -> None:
    path = fill(open_place / "w.db", mode="WAL")
    path.chmod(0o644)
    rows, notes = as_nobody(lambda: refusal_parts(path))
    assert (rows, "source-copied" in notes) == (1000, True)
    other = writer(path)
    other.say("INSERT INTO t VALUES (-1, 'in the wal')")
    other.kill()
    (open_place / "w.db-shm").unlink()
    (open_place / "w.db-wal").chmod(0o644)
    before = digest(open_place)
    rows, notes = as_nobody(lambda: refusal_parts(path))
    assert (rows, "source-copied" in notes) == (1001, True)
    assert digest(open_place) == before


def test_a_wal_that_may_not_be_read(open_place: Path, writer: Callable[..., Writer]) -> None:
    path = fill(open_place / "w.db", mode="WAL")
    path.chmod(0o644)
    other = writer(path)
    other.say("INSERT INTO t VALUES (-1, 'in the wal')")
    other.kill()
    (open_place / "w.db-wal").chmod(0o600)
    (open_place / "w.db-shm").chmod(0o600)
    says, where, _, see = as_nobody(lambda: refusal_parts(path))
    assert "w.db-wal" in says
    assert where.endswith("w.db-wal")
    assert see.endswith("#source-permission")


def test_a_link_finds_the_wal_beside_its_target(tmp_path: Path, writer: Callable[..., Writer]) -> None:
    (tmp_path / "real").mkdir()
    path = fill(tmp_path / "real" / "w.db", mode="WAL")
    writer(path).say("INSERT INTO t VALUES (-1, 'in the wal')")
    link = tmp_path / "link.db"
    link.symlink_to(path)
    with SqliteSource(link).snapshot() as (reader,):
        assert count(reader) == 1001
    assert SqliteSource(link).fingerprint() == SqliteSource(path).fingerprint()
    assert sqlite_file.size(link) > path.stat().st_size


def test_awkward_paths(tmp_path: Path) -> None:
    for name in ("a b?mode=rw#x%41.db", "가격 'quoted' \"db\".db", "-journal.db"):
        with SqliteSource(fill(tmp_path / name)).snapshot() as (reader,):
            assert count(reader) == 1000
    with SqliteSource(os.fsdecode(os.fsencode(str(fill(tmp_path / "n.db"))))).snapshot() as (reader,):
        assert count(reader) == 1000


def test_functions_of_the_application_are_named(tmp_path: Path) -> None:
    path = make(
        tmp_path / "f.db",
        "CREATE TABLE t(a, b AS (a)); INSERT INTO t VALUES (1); PRAGMA writable_schema = ON;"
        "UPDATE sqlite_master SET sql = 'CREATE TABLE t(a, b AS (mine(a)))'",
    )
    assert "mine" in str(refusal(path))


def test_what_a_schema_may_not_do(tmp_path: Path) -> None:
    """A generated column that would load a library: the schema is not trusted, and what that costs is told."""
    path = make(
        tmp_path / "x.db",
        "CREATE TABLE t(a, b AS (a)); INSERT INTO t VALUES (1); PRAGMA writable_schema = ON;"
        "UPDATE sqlite_master SET sql = 'CREATE TABLE t(a, b AS (load_extension(''/tmp/evil'')))'",
    )
    source = SqliteSource(path)
    with source.snapshot() as (reader,):
        assert list(reader.rows("SELECT * FROM t")) == [(1, None)]
    (note,) = (note for note in source.notes if note.level == "data")
    assert (note.code, note.where) == ("malformed-schema", f"{path}: t")
    assert "load_extension" in note.says
    assert reader.malformed == {"t"}
