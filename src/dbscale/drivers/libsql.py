"""libSQL servers (sqld, Turso Cloud) as a source: consistent snapshots over streams that can be lost at any time.

Every answer proves that the transaction still stands, or the snapshot counts as lost. A lost snapshot goes on only
where it is certain that nothing was committed since it began: the server's replication index is the same, or the
user says that nobody writes (a branch, blocked writes). Else `SnapshotLost`.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import TypeVar

from dbscale.drivers.hrana import Answer, Endpoint, HttpStream, Refused, Stream, StreamLost, parse, too_large
from dbscale.drivers.source import Value
from dbscale.errors import SourceError, Unreachable

MOST_READERS = 4
"""Streams side by side: sqld holds at most 32 MB of answers at a time for all its clients."""
PING_SECONDS = 4.0
"""A stream is used at least so often: after ten idle seconds the server drops it."""
PATIENCE_SECONDS = 20.0
"""How long a server may be away, in the middle of a snapshot, before it counts as unreachable."""
_SETTLE_SECONDS = 0.2
_STATE = "SELECT schema_version, page_count FROM pragma_schema_version, pragma_page_count"
_LETTERS = 100
"""Columns whose letters come as one text, so that no expression nests too deep."""
_ROUNDS = 50
"""How often readers are opened anew because a commit came between them."""

T = TypeVar("T")


class SnapshotLost(SourceError):
    """The server gave up the snapshot, and the data may have changed since: reading cannot go on from where it was."""

    section = "snapshot-lost"


class LibsqlSource:
    """A database on a libSQL server.

    `address`: a URL (libsql, https, http, wss, ws); `token`: never printed. `frozen`: the user's word that nobody
    writes (a branch, a copy, blocked writes), so a lost stream is opened again without asking whether anything
    changed. `timeout`: seconds without a byte after which an answer is given up.
    """

    def __init__(
        self,
        address: str,
        token: str = "",
        *,
        frozen: bool = False,
        timeout: float = 600.0,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.endpoint: Endpoint = parse(address, token)
        self.frozen = frozen
        self._timeout = timeout
        self._patience = patience

    @property
    def title(self) -> str:
        return self.endpoint.title

    def __repr__(self) -> str:
        return f"LibsqlSource({self.title!r})"

    @contextmanager
    def snapshot(self, readers: int = 1) -> Iterator[Sequence[LibsqlReader]]:
        """Up to `readers` readers (at most four) of one state; fewer where the server cannot prove it is one.

        Unreachable, SourceError; while reading, SnapshotLost.
        """
        with ExitStack() as stack:
            opened = self._open(max(1, min(readers, MOST_READERS)))
            for reader in opened:
                stack.callback(reader.close)
            stack.enter_context(_kept_alive(opened))
            yield opened

    def fingerprint(self) -> str:
        """The server's replication index with the schema's version and the size.

        Turso Cloud gives its index no meaning: there each call gives another token, unless nobody writes (`frozen`).
        """
        stream = self._stream()
        try:
            return _begin(stream, self._certain) or f"unknown-{uuid.uuid4()}"
        finally:
            stream.close()

    @property
    def _certain(self) -> bool:
        return not self.endpoint.turso_cloud

    def _stream(self) -> Stream:
        return HttpStream(self.endpoint, timeout=self._timeout)

    def _reader(self) -> LibsqlReader:
        return LibsqlReader(
            self._stream, title=self.title, certain=self._certain, frozen=self.frozen, patience=self._patience
        )

    def _open(self, count: int) -> list[LibsqlReader]:
        """Readers of one state: a probe sees the same `data_version` before the first began and after the last."""
        if count == 1:
            return [self._reader()]
        probe = self._stream()
        try:
            for _ in range(_ROUNDS):
                with ExitStack() as undo:
                    before = _data_version(probe)
                    opened = [undo.enter_context(closing(self._reader())) for _ in range(count if before else 1)]
                    if len(opened) == 1 or before == _data_version(probe):
                        undo.pop_all()
                        return opened
            return [self._reader()]
        finally:
            probe.close()


def _data_version(stream: Stream) -> Value:
    """A number that changes when another connection commits; None where the server does not tell."""
    try:
        return next(stream.execute("SELECT data_version FROM pragma_data_version").rows)[0]
    except Refused:
        return None


def _begin(stream: Stream, certain: bool) -> str:
    """Begin a transaction and its snapshot; the state's token, empty where none can be had.

    The index is told before the snapshot begins and after: only where it is the same is it the snapshot's.
    """
    begun, first = stream.begin(_STATE)
    (schema_version, page_count), *_ = first.rows
    if not first.within:
        raise SourceError("the server does not keep transactions open", try_="migrate from a copy of the file")
    if not certain or not first.index or begun.index != first.index:
        return ""
    return f"{first.index}.{schema_version!r}.{page_count!r}"


class LibsqlReader:
    """A reader within a snapshot on a libSQL server. Answers are read whole before the first row is given out."""

    def __init__(
        self, open_stream: Callable[[], Stream], *, title: str, certain: bool, frozen: bool, patience: float
    ) -> None:
        self._open_stream = open_stream
        self._title = title
        self._certain = certain
        self._frozen = frozen
        self._patience = patience
        self._lock = threading.RLock()
        self._widths: dict[str, int] = {}
        self._long: set[str] = set()
        self._closed = False
        self._used = time.monotonic()
        self._stream: Stream | None = open_stream()
        try:
            self._state = _begin(self._stream, certain)
            version, encoding = self._first("SELECT sqlite_version(), encoding FROM pragma_encoding")
            self._encoding = str(encoding).lower().replace("-", "_")
            self._library = tuple(int(part) for part in str(version).split("."))
            self._arguments = self._most_arguments()
        except StreamLost as lost:
            raise Unreachable(f"the stream was lost at once: {lost}", where=title, try_="run it again") from lost
        except BaseException:
            self.close()
            raise

    @property
    def library(self) -> tuple[int, int, int]:
        major, minor, patch = self._library[:3]
        return major, minor, patch

    @property
    def function_arguments(self) -> int:
        return self._arguments

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> Iterator[tuple[Value, ...]]:
        """The rows of one SELECT. SnapshotLost, Refused (with the server's code), SourceError, Unreachable."""
        if not re.match(r"\s*(?:SELECT|WITH|VALUES)\b", sql, re.IGNORECASE):
            yield from self._ask(lambda stream: stream.execute(sql, parameters)).rows
            return
        width = self._width(sql)
        guarded = _guarded(sql, width)
        for row in self._answer(sql, guarded, parameters).rows:
            yield self._decoded(row, width)

    def close(self) -> None:
        """End the transaction and the stream."""
        with self._lock:
            self._closed = True
            if self._stream is not None:
                self._stream.close()
                self._stream = None

    def keep_alive(self) -> None:
        """Use the stream where it has been idle; a loss is left for the next question to find."""
        if time.monotonic() - self._used < PING_SECONDS or not self._lock.acquire(blocking=False):
            return
        try:
            if self._stream is not None:
                self._stream.execute("SELECT 1")
                self._used = time.monotonic()
        except (StreamLost, SourceError, Unreachable):
            self._drop()
        finally:
            self._lock.release()

    def _answer(self, sql: str, guarded: str, parameters: Sequence[Value]) -> Answer:
        if sql not in self._long:
            try:
                return self._ask(lambda stream: stream.execute(guarded, parameters))
            except Refused as error:
                if not too_large(error):
                    raise
                self._long.add(sql)
        return self._ask(lambda stream: stream.execute_long(guarded, parameters))

    def _ask(self, act: Callable[[Stream], Answer]) -> Answer:
        """An answer from within the snapshot, on a new stream where the old one is lost and nothing has changed."""
        with self._lock:
            until = time.monotonic() + self._patience
            while True:
                if self._closed:
                    raise SourceError("the snapshot has ended", where=self._title)
                try:
                    answer = act(self._stream or self._again())
                    self._used = time.monotonic()
                    if answer.within:
                        return answer
                    why: Exception = StreamLost("the server ended the transaction")
                except StreamLost as lost:
                    why = lost
                except Unreachable as gone:
                    why = gone
                except Refused as refused:
                    refused.where = refused.where or self._title
                    if refused.code in ("FORBIDDEN", "BROKEN_UTF8"):
                        self._drop()
                    raise
                self._drop()
                if time.monotonic() >= until:
                    if isinstance(why, Unreachable):
                        raise why
                    raise self._lost(str(why)) from why
                time.sleep(0.5 if isinstance(why, Unreachable) else 0.05)

    def _again(self) -> Stream:
        """A new stream on the same state; SnapshotLost where it cannot be proven to be the same."""
        if not self._state and not self._frozen:
            raise self._lost("the server tells no replication index that could prove that nothing changed")
        stream = self._open_stream()
        try:
            state = _begin(stream, self._certain)
            if not self._frozen:
                # A commit is visible a moment before the server's index counts it.
                time.sleep(_SETTLE_SECONDS)
                index = stream.execute("SELECT 1").index
                if state != self._state or not state.startswith(f"{index}."):
                    raise self._lost("commits were made since")
        except BaseException:
            stream.close()
            raise
        self._stream = stream
        return stream

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _lost(self, why: str) -> SnapshotLost:
        return SnapshotLost(
            f"the snapshot on the libSQL server is lost: {why}",
            where=self._title,
            try_="run the same command again; where it happens again, block writes or migrate from a branch or a copy",
        )

    def _width(self, sql: str) -> int:
        if sql not in self._widths:
            with self._lock:
                self._ask(lambda stream: self._describe(stream, sql))
        return self._widths[sql]

    def _describe(self, stream: Stream, sql: str) -> Answer:
        self._widths[sql] = stream.columns(sql)
        return Answer(rows=iter(()), within=True)

    def _first(self, sql: str) -> tuple[Value, ...]:
        return next((self._stream or self._again()).execute(sql).rows)

    def _most_arguments(self) -> int:
        try:
            self._first(f"SELECT max({','.join('0' * 128)})")
        except Refused:
            return 127
        return 1000

    def _decoded(self, row: tuple[Value, ...], width: int) -> tuple[Value, ...]:
        flags = "".join(str(text) for text in row[width:])
        if flags == "." * width:
            return row[:width]
        return tuple(self._value(value, flag) for value, flag in zip(row, flags, strict=False))

    def _value(self, value: Value, flag: str) -> Value:
        if flag == "t" and isinstance(value, bytes):
            try:
                return value.decode(self._encoding)
            except UnicodeDecodeError as error:
                raise SourceError(
                    f"a text is not {self._encoding}: {error.reason} at byte {error.start}",
                    where=self._title,
                    try_="ask for CAST(x AS BLOB)",
                ) from error
        return {"+": float("inf"), "-": float("-inf")}.get(flag, value)


def _guarded(sql: str, width: int) -> str:
    """The SELECT with each text as its bytes, infinities as NULL, and behind them a letter for each column.

    A server cannot send text that is not UTF-8 (it drops the stream), nor an infinity (it sends null). The letters:
    `t` a text, `+` and `-` an infinity, `.` what it is. Both LIMITs keep SQLite from evaluating the inner
    expressions once for every mention: a subquery with LIMIT is not flattened into a query with LIMIT.
    """
    names = [f"a{number}" for number in range(width)]
    values = [
        f"CASE typeof({name}) WHEN 'text' THEN CAST({name} AS BLOB)"
        f" WHEN 'real' THEN CASE WHEN abs({name}) = 9e999 THEN NULL ELSE {name} END ELSE {name} END"
        for name in names
    ]
    letters = [
        f"CASE typeof({name}) WHEN 'text' THEN 't'"
        f" WHEN 'real' THEN CASE {name} WHEN 9e999 THEN '+' WHEN -9e999 THEN '-' ELSE '.' END ELSE '.' END"
        for name in names
    ]
    flags = ["||".join(letters[at : at + _LETTERS]) for at in range(0, width, _LETTERS)]
    inner = sql.strip().rstrip(";")
    return (
        f"WITH r({', '.join(names)}) AS (SELECT * FROM ({inner}\n) LIMIT -1)"
        f" SELECT {', '.join(values + flags)} FROM r LIMIT -1"
    )


@contextmanager
def _kept_alive(readers: Sequence[LibsqlReader]) -> Iterator[None]:
    """Use the readers' streams from a thread while nobody else does."""
    done = threading.Event()

    def ping() -> None:
        while not done.wait(1.0):
            for reader in readers:
                reader.keep_alive()

    thread = threading.Thread(target=ping, name="libsql keep-alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
