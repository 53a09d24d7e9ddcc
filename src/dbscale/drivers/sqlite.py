"""SQLite files through apsw: read-only connections that share one snapshot, and errors that say what to do.

The file is opened `mode=ro` and never written to. Nor is it opened by Python: closing any descriptor of a file drops
the POSIX locks that SQLite holds on it in this process, so even the header is read through SQLite's own file layer.
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw

from dbscale import native
from dbscale.drivers import sqlite_file
from dbscale.drivers.source import Value, unknown_collation
from dbscale.errors import Finding, Level

BUSY_SECONDS = 10.0
_ATTEMPT_MILLISECONDS = 100
_COPY_PAGES = 4096
_CLOSE_SECONDS = 5.0
# No mmap_size: it was measured to gain nothing here, and a mapped file that someone truncates kills the process.
_PRAGMAS = ("PRAGMA cache_size = -8192", "PRAGMA cell_size_check = ON", "SELECT count(*) FROM sqlite_master")
_STEPS_BETWEEN_CHECKS = 5_000_000
"""Virtual machine steps between two looks at the stop flag: some tenths of a second."""

_MALFORMED_TRY = "open the file with the program that made it, or mend the definition there; or: --skip"

_READ_ONLY = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
_NEEDS_COPY = {
    apsw.SQLITE_READONLY_ROLLBACK: "a crashed writer left a journal that must be rolled back first",
    apsw.SQLITE_READONLY_RECOVERY: "its -wal file must be recovered first",
    apsw.SQLITE_READONLY_CANTINIT: "its -wal file cannot be read without a -shm file, which cannot be made beside it",
    apsw.SQLITE_READONLY_DIRECTORY: "it is in WAL mode, and the -shm file that this needs cannot be made beside it",
    apsw.SQLITE_CANTOPEN: "it is in WAL mode, and the -shm file that this needs cannot be made beside it",
    apsw.SQLITE_CANTOPEN_DIRTYWAL: "its -wal file must be recovered first",
}


class SqliteReader:
    """One read-only connection within a snapshot (see `drivers.source.Reader`)."""

    def __init__(
        self,
        connection: apsw.Connection,
        title: str,
        explain: Callable[[Exception, str], Exception],
        malformed: frozenset[str] = frozenset(),
    ) -> None:
        self.connection = connection
        self.title = title
        self.malformed = malformed
        """The tables whose definition SQLite cannot use whole: what it reads of a generated column may be NULL."""
        self._explain = explain
        self.function_arguments = connection.limit(apsw.SQLITE_LIMIT_FUNCTION_ARG)
        self.native = _extend(connection)
        """Whether dbscale's own functions (`dbscale.native`) are there."""

    @property
    def library(self) -> tuple[int, int, int]:
        """The version of the SQLite inside apsw."""
        return library()

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> Iterator[tuple[Value, ...]]:
        """The rows of one SELECT, lazily; SourceError where the file cannot answer, or the read was stopped."""
        cursor = self.connection.cursor()
        try:
            yield from cursor.execute(sql, tuple(parameters))
        except (apsw.Error, UnicodeDecodeError, MemoryError) as error:
            raise self._explain(error, sql) from error
        finally:
            with suppress(apsw.Error):
                cursor.close(True)

    def damage(self, limit: int = 20) -> tuple[Finding, ...]:
        """What `PRAGMA quick_check` finds broken in the file's trees, at most `limit` findings.

        A damaged tree can give rows twice or not at all without an error, which no other reading notices. It reads
        the whole file once, in less time than it takes to copy it. SourceError where it cannot even be checked.
        """
        list(self.rows("PRAGMA ignore_check_constraints = ON"))  # they may need functions of the application
        tables = {page: str(name) for page, name in self.rows("SELECT rootpage, tbl_name FROM sqlite_master")}
        # libSQL keeps the entries of a vector index in a table beside it: its own tree is empty.
        vectors = self.rows("SELECT name FROM sqlite_master WHERE type = 'index' AND sql LIKE '%libsql_vector_idx%'")
        empty = tuple(f" in index {name!s}" for (name,) in vectors)
        findings = []
        for (words,) in self.rows(f"PRAGMA quick_check({limit})"):
            for line in str(words).splitlines():
                if tree := _TREE.match(line):
                    table = tables.get(int(tree[1]), "its schema")
                    findings.append(self._damaged(f"{self.title}: {table}", f"the tree of {table} is damaged: {line}"))
                elif _LOST_ROWS.search(line) and not line.endswith(empty):
                    findings.append(self._damaged(self.title, f"rows and index differ: {line}"))
        return tuple(findings)

    def _damaged(self, where: str, says: str) -> Finding:
        return Finding(code="source-damaged", where=where, says=says, try_=sqlite_file.RECOVER, level="blocker")


class SqliteSource:
    """A SQLite file to migrate from (see `drivers.source.Source`).

    `copy_first` reads from a temporary copy, so that writers in rollback mode wait only while it is made.
    `hold_writes` keeps every other writer out until the snapshot ends. `busy_seconds` is how long to wait for a
    lock. `notes` tells, once a snapshot was taken, what a user should know about how the file was read.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        copy_first: bool = False,
        hold_writes: bool = False,
        busy_seconds: float = BUSY_SECONDS,
    ) -> None:
        self.path = Path(path)
        with suppress(RuntimeError):  # ~NAME of no user: then it is a name like any other
            self.path = self.path.expanduser()
        self.copy_first = copy_first
        self.hold_writes = hold_writes
        self.busy_seconds = busy_seconds
        self._stopped = threading.Event()
        self._in_memory = False
        self._open: list[apsw.Connection] = []
        self._notes: dict[str, Finding] = {}
        self._malformed: set[str] | None = None
        self._token = ""
        self._probe: tuple[apsw.Connection, int] | None = None

    @property
    def title(self) -> str:
        """The path, as it was given."""
        return str(self.path)

    @property
    def library(self) -> tuple[int, int, int]:
        """The version of the SQLite that reads the file."""
        return library()

    @property
    def notes(self) -> tuple[Finding, ...]:
        """What was noticed while opening and reading; complete once the last reader is done."""
        return tuple(self._notes.values())

    def fingerprint(self) -> str:
        """A token of the committed state: the snapshot's while one is open, else the file's as it is now.

        Equal tokens mean that nothing was committed in between. The reverse does not hold: a checkpoint, a copy or
        a `touch` changes the token too.
        """
        return self._token or sqlite_file.fingerprint(self.path)

    def changed_since_snapshot(self) -> bool:
        """Whether anyone has committed since the open snapshot was taken. To be asked while it is open."""
        if self._probe is None:
            return bool(self._token) and sqlite_file.fingerprint(self.path) != self._token
        probe, version = self._probe
        try:
            return _data_version(probe) != version
        except apsw.BusyError:  # a writer in rollback mode waits for our readers: it has not committed
            return False
        except apsw.Error as error:
            raise self._explained(error) from error

    def interrupt(self) -> None:
        """Stop every read, from any thread: each raises SourceError within about a second."""
        self._stopped.set()
        for connection in tuple(self._open):
            with suppress(apsw.Error):
                connection.interrupt()

    def close(self) -> Sequence[Finding]:
        """Nothing is left: a temporary copy goes with its snapshot."""
        return ()

    @contextmanager
    def snapshot(self, readers: int = 1) -> Iterator[Sequence[SqliteReader]]:
        """`readers` connections that all see the same committed state, each for a thread of its own."""
        if self._token:
            raise RuntimeError("a snapshot of this source is open already")
        sqlite_file.check(self.path)
        self._stopped.clear()
        with ExitStack() as stack:
            stack.callback(self._forget)
            stack.callback(sqlite_file.tidy, self.path, sqlite_file.beside(self.path))
            try:
                if self.hold_writes:
                    self._keep_writers_out(stack)
                place = self._place(stack)
                if not sqlite_file.size(self.path):
                    says = "the file is empty: a database without tables"
                    self._note("empty-source", says, "is it the right file?", level="behaviour")
                if place == self.path:
                    self._read_ahead(stack)
                connections = [self._connect(place, stack) for _ in range(readers + 1)]
                self._begin(connections[0], connections[1:], place)
                self._note_lost_commits()
            except (apsw.Error, UnicodeDecodeError) as error:
                raise self._explained(error) from error
            yield [
                SqliteReader(connection, self.title, self._explained, frozenset(self._malformed or ()))
                for connection in connections[1:]
            ]

    # How the file is opened

    def _read_ahead(self, stack: ExitStack) -> None:
        """Bring the file into memory beside the first reading of it, at most for as long as `stack`."""
        enough = threading.Event()

        def read() -> None:
            self._in_memory = self._in_memory or sqlite_file.read_ahead(self.path, enough.is_set)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        stack.callback(thread.join, _CLOSE_SECONDS)
        stack.callback(enough.set)

    def _place(self, stack: ExitStack) -> Path:
        """The file to read: the source itself, or a copy of it where it cannot or should not be read in place."""
        try:
            with ExitStack() as trial:
                self._connect(self.path, trial)
                if not self.copy_first:
                    self._note_blocked_writers()
                    return self.path
                return self._backup(trial, stack)
        except apsw.Error as error:
            reason = _NEEDS_COPY.get(getattr(error, "extendedresult", 0))
            if reason is None:
                raise
            sqlite_file.check_readable(self.path)
        copy, self._token = sqlite_file.copy(self.path, self._copy_directory(stack), self._stopped.is_set)
        self._note("source-copied", f"it was copied to a temporary place: {reason}")
        with ExitStack() as trial:  # recovery writes, so the first connection to the copy must be allowed to
            self._connect(copy, trial, writable=True)
        return copy

    def _backup(self, trial: ExitStack, stack: ExitStack) -> Path:
        """A copy by SQLite's backup: in steps, within one read transaction, so that writers cannot restart it."""
        source = self._connect(self.path, trial)
        probe = self._connect(self.path, trial)
        self._begin(probe, [source], self.path)
        self._probe = None
        copy = self._copy_directory(stack) / "copy.db"
        target = apsw.Connection(str(copy))
        trial.callback(target.close)
        with target.backup("main", source, "main") as backup:
            while not backup.done:
                if self._stopped.is_set():
                    raise self._explained(apsw.InterruptError("interrupted"))
                backup.step(_COPY_PAGES)
        return copy

    def _copy_directory(self, stack: ExitStack) -> Path:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="dbscale-", ignore_cleanup_errors=True))
        )
        sqlite_file.check_space(self.path, directory)
        return directory

    def _connect(self, path: Path, stack: ExitStack, *, writable: bool = False) -> apsw.Connection:
        """A connection that trusts nothing in the file, and is closed with `stack`."""
        mode, flags = ("ro", _READ_ONLY)
        if writable:
            mode, flags = ("rw", apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI)
        connection = apsw.Connection(f"file:{quote(bytes(path.absolute()))}?mode={mode}", flags=flags)
        self._open.append(connection)
        stack.callback(self._close, connection)
        connection.set_busy_timeout(_ATTEMPT_MILLISECONDS)
        connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.collation_needed(self._stub_collation)
        connection.set_progress_handler(self._stopped.is_set, _STEPS_BETWEEN_CHECKS)
        if self._malformed is not None:
            _run(connection, "PRAGMA writable_schema = ON")
        self._settle(connection)
        return connection

    def _close(self, connection: apsw.Connection) -> None:
        """Close, after stopping a thread that may still be reading (when the block ends with an error)."""
        deadline = time.monotonic() + _CLOSE_SECONDS
        while True:
            connection.interrupt()
            try:
                connection.close(True)
                break
            except apsw.ThreadingViolationError:
                if time.monotonic() > deadline:
                    break  # the thread keeps it, and closes it by letting go of it
                time.sleep(0.01)
        self._open.remove(connection)

    def _settle(self, connection: apsw.Connection) -> None:
        """Read the schema, waiting for locks; one with parts that SQLite cannot parse is accepted without them."""

        def attempt() -> None:
            for pragma in _PRAGMAS:
                _run(connection, pragma)

        try:
            self._patiently(attempt)
        except apsw.Error as error:
            if "malformed database schema" not in str(error) or self._malformed is not None:
                raise
            _run(connection, "PRAGMA writable_schema = ON")  # means: skip what cannot be parsed
            self._patiently(attempt)
            self._note_malformed(connection, error)

    # The snapshot

    def _begin(self, probe: apsw.Connection, readers: Sequence[apsw.Connection], place: Path) -> None:
        """Begin a transaction on each of `readers` so that all see one state.

        `probe` tells by `PRAGMA data_version` whether someone committed while they began; then they begin again. In
        rollback mode a writer about to commit lets no further reader in, so a failed round gives way to it.
        """

        def attempt() -> None:
            version = _data_version(probe)
            try:
                for connection in readers:
                    _run(connection, "BEGIN")
                    _load_schema(connection)
                token = self._token if place != self.path else sqlite_file.fingerprint(self.path)
                if _data_version(probe) != version:
                    raise apsw.BusyError("others commit without pause")
            except apsw.Error:
                for connection in readers:
                    if connection.in_transaction:
                        _run(connection, "ROLLBACK")
                raise
            self._token = token
            self._probe = (probe, version) if place == self.path else None

        self._patiently(attempt)

    def _keep_writers_out(self, stack: ExitStack) -> None:
        """BEGIN IMMEDIATE, until `stack` ends, on a connection that writes nothing."""
        keeper = self._connect(self.path, stack, writable=True)
        if keeper.readonly("main"):
            raise sqlite_file.error(
                "source-permission",
                "writers cannot be held off, since this user may not write the file",
                self.title,
                "run it as the user who owns the file, or leave --hold-writes away",
            )
        self._patiently(lambda: _run(keeper, "BEGIN IMMEDIATE"))

    def _patiently(self, attempt: Callable[[], object]) -> None:
        """`attempt` until it finds no lock, for at most `busy_seconds`; then its own error."""
        deadline = time.monotonic() + self.busy_seconds
        while True:
            try:
                attempt()
                return
            except (apsw.BusyError, apsw.LockedError):
                if time.monotonic() >= deadline or self._stopped.is_set():
                    raise
            time.sleep(0.005)

    def _forget(self) -> None:
        self._token = ""
        self._probe = None

    # What is told

    def _stub_collation(self, connection: apsw.Connection, name: str) -> None:
        """Stands in for a collation that only the application has, so that its tables can be read."""
        if name.upper() in ("NOCASE", "RTRIM"):
            return  # SQLite asks for its own, too, in a database in UTF-16, and has them if nobody answers
        connection.create_collation(name, _by_code_point)
        self._notes.setdefault(f"unknown-collation {name.lower()}", unknown_collation(name, self.title))

    def _note_malformed(self, connection: apsw.Connection, error: Exception) -> None:
        """One finding for each table that SQLite cannot parse whole, besides its own word on the first.

        Definitions are only explained, on a database of their own, for they are not to be trusted.
        """
        self._malformed = set()
        self._note("malformed-schema", f"SQLite cannot use a part of its schema: {error}", _MALFORMED_TRY)
        scratch = apsw.Connection(":memory:")
        scratch.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        tables = "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND sql LIKE 'create table%'"
        for name, sql in _run(connection, f"{tables} AND name NOT LIKE 'sqlite|_%' ESCAPE '|'"):
            try:
                scratch.execute(str(sql), explain=1).fetchall()
            except apsw.Error as problem:
                self._malformed.add(str(name))
                self._notes[f"malformed-schema {name}"] = Finding(
                    code="malformed-schema",
                    where=f"{self.title}: {name}",
                    says=f"SQLite cannot use the definition of {name} whole: {problem}",
                    try_=_MALFORMED_TRY,
                    level="data",
                    original=str(sql),
                )
        scratch.close()

    def _note_lost_commits(self) -> None:
        lost = sqlite_file.lost_commits(self.path)
        if lost:
            time.sleep(0.1)  # a writer may have been in the middle of a frame: then it is whole by now
            lost = min(lost, sqlite_file.lost_commits(self.path))
        if lost:
            self._note(
                "wal-damaged",
                f"its -wal is damaged, and SQLite does not read the last {lost} commits in it",
                "copy the database again with its -wal, or restore a backup, if these commits matter",
                level="data",
            )

    def _note_blocked_writers(self) -> None:
        if sqlite_file.size(self.path) and not self.hold_writes and not sqlite_file.is_wal(self.path):
            self._note(
                "source-blocks-writers",
                "it is not in WAL mode: whoever writes to it waits until the last row is read",
                "--copy-first reads from a temporary copy; or stop the application first",
            )

    def _note(self, code: str, says: str, try_: str = "", level: Level = "note") -> None:
        finding = Finding(code=code, where=self.title, says=says, try_=try_, level=level)
        self._notes.setdefault(code, finding)

    def _explained(self, error: Exception, sql: str = "") -> Exception:
        """A driver's error as SourceError: what is, where, and what to do."""
        if self._stopped.is_set():
            return sqlite_file.error("source-stopped", "the read was stopped", self.title, "run the same command again")
        table = _table_of(sql)
        place = f"{self.title}: {table}" if table else self.title
        if isinstance(error, UnicodeDecodeError):
            if not table or table == "sqlite_master":
                says = "a name or a definition in its schema is not valid UTF-8"
                return sqlite_file.error("source-damaged", says, self.title, sqlite_file.RECOVER)
            return sqlite_file.error("broken-utf8", "a text is not valid UTF-8", place, "read it as CAST(x AS BLOB)")
        return sqlite_file.explained(error, self.path, place)


def library() -> tuple[int, int, int]:
    """The version of the SQLite inside apsw: (3, 54, 1), say."""
    major, minor, patch = (int(part) for part in apsw.sqlite_lib_version().split(".")[:3])
    return major, minor, patch


def _extend(connection: apsw.Connection) -> bool:
    """Whether the functions of `dbscale.native` are now part of the connection; where they cannot be, SQL does all."""
    extension = native.extension()
    if extension is None:
        return False
    try:
        # this lets us load it, and still no SQL
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1)
        try:
            connection.load_extension(str(extension), native.ENTRY)
        finally:
            connection.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0)
    except (apsw.Error, AttributeError):  # another machine's library, a file system without execution
        return False
    return True


def _by_code_point(a: str, b: str) -> int:
    return (a > b) - (a < b)


def _run(connection: apsw.Connection, sql: str) -> list[tuple[Any, ...]]:
    return connection.execute(sql).fetchall()


def _data_version(connection: apsw.Connection) -> int:
    return int(_run(connection, "PRAGMA data_version")[0][0])


def _load_schema(connection: apsw.Connection) -> None:
    _run(connection, "SELECT count(*) FROM sqlite_master")


_TREE = re.compile(r"Tree (\d+) ")
_LOST_ROWS = re.compile(r"^wrong # of entries|^row \d+ missing|2nd reference to page|out of order", re.IGNORECASE)

_FROM = re.compile(r"""\bFROM\s+(?:main\s*\.\s*)?("(?:[^"]|"")*"|[\w$]+)""", re.IGNORECASE)


def _table_of(sql: str) -> str:
    """The first table that a SELECT of our own names, for messages; empty when there is none to be seen."""
    found = _FROM.search(sql)
    return found[1].strip('"').replace('""', '"') if found else ""
