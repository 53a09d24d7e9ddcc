"""libSQL servers (sqld, Turso Cloud) as a source: consistent snapshots over streams that can be lost at any time.

Every answer proves that the transaction still stands, or the snapshot counts as lost. A lost snapshot goes on only
where it is certain that nothing was committed since it began: a second connection, open since before, saw no commit;
or the replication log and the index in it are the same; or the user says that nobody writes (a branch, blocked
writes). Else `SnapshotLost`.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cached_property

from dbscale.drivers.alive import PING_SECONDS, kept_alive
from dbscale.drivers.guard import guarded, is_explain, is_select, pragma_table
from dbscale.drivers.hrana import Answer, Endpoint, HttpStream, Refused, Stream, StreamLost, parse, too_large
from dbscale.drivers.source import Value
from dbscale.drivers.turso import Admin, writes_blocked
from dbscale.drivers.wal_log import log_id
from dbscale.errors import DbscaleError, Finding, SourceError, Unreachable

MOST_READERS = 4
"""Streams side by side: sqld holds at most 32 MB of answers at a time for all its clients."""
PATIENCE_SECONDS = 20.0
"""How long a server may be away, in the middle of a snapshot, before it counts as unreachable."""
_SETTLE_SECONDS = 0.2
"""A commit is visible a moment before a primary's index counts it, and on a replica perhaps a moment after."""
_STATE = "SELECT schema_version, page_count FROM pragma_schema_version, pragma_page_count"
PAGE_BYTES = 2_000_000
_PAGE_ROWS = 4096
_WIDE_ROWS = 256
_CURSOR_SECONDS = 3.0
_ROUNDS = 50
"""How often readers are opened anew because a commit came between them."""


class SnapshotLost(SourceError):
    """The server gave up the snapshot, and the data may have changed since: reading cannot go on from where it was."""

    section = "snapshot-lost"


class LibsqlSource:
    """A database on a libSQL server (see `drivers.source.Source`).

    `address`: a URL (libsql, https, http, wss, ws); `token`: never printed. `frozen`: the user's word that nobody
    writes (a branch, a copy), so that a lost stream is opened again without asking whether anything changed. `admin`:
    have the server refuse writes as long as a snapshot is open. `timeout`: seconds without a byte after which an
    answer is given up; `patience`: seconds that a server may be away in the middle of a snapshot.
    """

    def __init__(
        self,
        address: str,
        token: str = "",
        *,
        frozen: bool = False,
        admin: Admin | None = None,
        timeout: float = 600.0,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.endpoint: Endpoint = parse(address, token)
        self.frozen = frozen
        self.admin = admin
        self._timeout = timeout
        self._patience = patience
        self._stopped = threading.Event()
        self._readers: Sequence[LibsqlReader] = ()
        self._probe: _Probe | None = None
        self._notes: dict[str, Finding] = {}

    @property
    def title(self) -> str:
        """The server's URL, without the token."""
        return self.endpoint.title

    @property
    def notes(self) -> tuple[Finding, ...]:
        """What was noticed while opening; complete once a snapshot was taken."""
        return tuple(self._notes.values())

    @contextmanager
    def snapshot(self, readers: int = 1) -> Iterator[Sequence[LibsqlReader]]:
        """Up to `readers` readers (at most four) of one state; one where the server cannot prove that it is one.

        Unreachable, SourceError; SnapshotLost while reading.
        """
        if self._readers:
            raise RuntimeError("a snapshot of this source is open already")
        self._stopped.clear()
        with ExitStack() as stack:
            stack.callback(self._forget)
            if self.admin:
                already = stack.enter_context(writes_blocked(self.admin))
                self._notes |= {already.code: already} if already else {}
            self._probe = _Probe(stack.enter_context(closing(self._stream())))
            self._readers = self._open(max(1, min(readers, MOST_READERS)), self._probe)
            for reader in self._readers:
                stack.callback(reader.close)
            token = _named(self._readers[0].state, self.endpoint)
            if token and (self._stopped.wait(_SETTLE_SECONDS) or self._probe.changed()):
                token = ""
            for reader in self._readers:
                reader.state = token
            self._note_limits(readers)
            stack.enter_context(kept_alive([*self._readers, self._probe]))
            yield self._readers

    def fingerprint(self) -> str:
        """The server's replication log and the index in it, of the open snapshot or of now.

        Where the server does not tell them (Turso Cloud, a websocket), or someone committed in that very moment, the
        token equals no other.
        """
        state = self._readers[0].state if self._readers else self._state_now()
        return state or f"unknown-{uuid.uuid4()}"

    def changed_since_snapshot(self) -> bool:
        """Whether anyone has committed since the open snapshot was taken; True where the server cannot tell."""
        if self.frozen or not self._readers or self._probe is None or not self._probe.changed():
            return False
        state = self._readers[0].state
        return not state or self._state_now() != state

    def interrupt(self) -> None:
        """Stop every read, from any thread: each raises SourceError."""
        self._stopped.set()
        for reader in tuple(self._readers):
            reader.interrupt()
        if self._probe:
            self._probe.interrupt()

    def close(self) -> Sequence[Finding]:
        """Nothing is left: streams end with their snapshot."""
        return ()

    def _state_now(self) -> str:
        with closing(self._stream()) as stream:
            return _named(_begin(stream, self.endpoint), self.endpoint)

    def _stream(self) -> Stream:
        if self.endpoint.websocket:
            from dbscale.drivers.websocket import WebSocketStream

            return WebSocketStream(self.endpoint, timeout=self._timeout)
        return HttpStream(self.endpoint, timeout=self._timeout)

    def _reader(self, probe: _Probe) -> LibsqlReader:
        return LibsqlReader(
            self._stream,
            endpoint=self.endpoint,
            probe=probe,
            frozen=self.frozen,
            patience=self._patience,
            stopped=self._stopped,
        )

    def _open(self, count: int, probe: _Probe) -> list[LibsqlReader]:
        """Readers of one state: the probe sees no commit from before the first began until after the last."""
        for _ in range(_ROUNDS):
            with ExitStack() as undo:
                known = probe.look()
                opened = [undo.enter_context(closing(self._reader(probe))) for _ in range(count if known else 1)]
                if len(opened) == 1 or not probe.changed():
                    undo.pop_all()
                    return opened
        return [self._reader(probe)]

    def _forget(self) -> None:
        self._readers = ()
        self._probe = None

    def _note_limits(self, wanted: int) -> None:
        if wanted > 1 and len(self._readers) == 1:
            self._note("libsql-one-reader", "the server could not give several readers one state: one reads alone", "")
        if not self.frozen and self.endpoint.turso_cloud:
            self._note(
                "libsql-short-transactions",
                "Turso Cloud ends a transaction after about five seconds: while others write, a copy may not get done",
                "--copy-first reads an export; or --branch, or --hold-writes",
            )

    def _note(self, code: str, says: str, try_: str) -> None:
        self._notes[code] = Finding(code=code, where=self.title, says=says, try_=try_)


class _Probe:
    """A stream outside every transaction, that sees when others commit."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._version: Value = None

    def look(self) -> bool:
        """Remember the state of now; False where the server does not tell."""
        with self._lock:
            self._version = self._read()
            return self._version is not None

    def changed(self) -> bool:
        """Whether anyone has committed since `look`; True where that cannot be told."""
        with self._lock:
            if self._version is None:
                return True
            version = self._read()
            if version is None:  # another stream would count from another number
                self._version = None
            return version != self._version or version is None

    def keep_alive(self) -> None:
        """Use the stream, which the server drops when it is idle."""
        self.changed()

    def interrupt(self) -> None:
        """Give up the question at work, from any thread."""
        self._stream.abort()

    def _read(self) -> Value:
        with suppress(StreamLost, DbscaleError):
            return next(self._stream.execute("SELECT data_version FROM pragma_data_version").rows)[0]
        return None


def _begin(stream: Stream, endpoint: Endpoint) -> str:
    """Begin a transaction and its snapshot; the index of its state and more, empty where none can be had.

    The index is told before the snapshot begins and after: only where it is the same is it the snapshot's.
    """
    begun, first = stream.begin(_STATE)
    (schema_version, page_count), *_ = first.rows
    if not first.within:
        raise SourceError("the server does not keep transactions open", try_="migrate from a copy of the file")
    if endpoint.turso_cloud or not first.index or begun.index != first.index:
        return ""
    return f"{first.index}.{schema_version!r}.{page_count!r}"


def _named(state: str, endpoint: Endpoint) -> str:
    """The state with the log that its index counts in: a token; empty where the server does not tell the log."""
    log = log_id(endpoint, state.partition(".")[0]) if state else ""
    return f"{log}.{state}" if log else ""


class LibsqlReader:
    """A reader within a snapshot on a libSQL server. Answers are read whole before the first row is given out."""

    def __init__(
        self,
        open_stream: Callable[[], Stream],
        *,
        endpoint: Endpoint,
        probe: _Probe,
        frozen: bool,
        patience: float,
        stopped: threading.Event,
    ) -> None:
        self._open_stream = open_stream
        self._title = endpoint.title
        self._endpoint = endpoint
        self._probe = probe
        self._frozen = frozen
        self._patience = patience
        self._stopped = stopped
        self._lock = threading.RLock()
        self._widths: dict[str, int] = {}
        self._long: dict[str, bool] = {}
        self._closed = False
        self._used = time.monotonic()
        self._stream: Stream | None = open_stream()
        try:
            self.state = _begin(self._stream, endpoint)
        except StreamLost as lost:
            raise Unreachable(f"the stream was lost at once: {lost}", where=self._title, try_="run it again") from lost
        except BaseException:
            self.close()
            raise

    @cached_property
    def library(self) -> tuple[int, int, int]:
        """The version of the server's SQLite."""
        ((version,),) = self.rows("SELECT sqlite_version()")
        major, minor, patch = str(version).split(".")[:3]
        return int(major), int(minor), int(patch)

    @cached_property
    def function_arguments(self) -> int:
        """The most arguments that a function takes there: the server is asked to parse one with 128."""
        try:
            list(self.rows(f"SELECT max({','.join('0' * 128)})"))
        except Refused:
            return 127
        return 1000

    @cached_property
    def _encoding(self) -> str:
        """How the database stores text, by the first character of a text's bytes."""
        ((character,),) = self.rows("SELECT CAST('A' AS BLOB)")
        return {b"A": "utf-8", b"A\0": "utf-16-le", b"\0A": "utf-16-be"}[character]  # type: ignore[index]

    def damage(self) -> tuple[Finding, ...]:
        """None: a server that serves its file has to be asked to check it there."""
        return ()

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> Iterator[tuple[Value, ...]]:
        """The rows of one SELECT. SnapshotLost, Refused (with the server's code), SourceError, Unreachable."""
        sql = pragma_table(sql)
        if is_explain(sql):
            yield from self._ask(lambda stream: stream.execute(sql, parameters)).rows
            return
        if not is_select(sql):
            raise SourceError(f"not a SELECT: {sql[:60]}", where=self._title, try_="SELECT … FROM pragma_…('name')")
        width = self._width(sql, parameters)
        if sql not in self._long:
            try:
                safe = guarded(sql, width)
                answer = self._ask(lambda stream: stream.execute(safe, parameters))
            except Refused as error:
                if not too_large(error):
                    raise
                self._long[sql] = False
            else:
                yield from (self._decoded(row, width) for row in answer.rows)
                return
        yield from self._pages(sql, width, parameters)

    def _pages(self, sql: str, width: int, parameters: Sequence[Value]) -> Iterator[tuple[Value, ...]]:
        """An answer above the server's limit, in parts: of about two megabytes, or by cursors where rows are wide.

        With small rows a cursor takes four times as long (sqld 0.24); and a stream at work on one for ten seconds is
        dropped, so a cursor gets as many rows as take about three. LIMIT is a parameter: one plan reads all parts.
        """
        safe = guarded(sql, width, "LIMIT ? OFFSET ?")
        wide = self._long[sql]
        count, offset = _WIDE_ROWS if wide else _PAGE_ROWS, 0
        while True:
            limits = (*parameters, count, offset)
            began = time.monotonic()
            try:
                if wide:
                    answer = self._ask(lambda stream, limits=limits: stream.execute_long(safe, limits))  # type: ignore[misc]
                else:
                    answer = self._ask(lambda stream, limits=limits: stream.execute(safe, limits))  # type: ignore[misc]
            except Refused as error:
                if not too_large(error) or count == 1:
                    raise
                count = max(1, count // 4) if wide else _WIDE_ROWS
                wide = self._long[sql] = True
                continue
            seconds = max(time.monotonic() - began, 0.001)
            read = 0
            for row in answer.rows:
                yield self._decoded(row, width)
                read += 1
            if read < count:
                return
            offset += read
            growth = _CURSOR_SECONDS / seconds if wide else PAGE_BYTES / max(answer.bytes, 1)
            count = max(1, int(count * min(4.0, growth)))

    def close(self) -> None:
        """End the transaction and the stream."""
        with self._lock:
            self._closed = True
            if self._stream is not None:
                self._stream.close()
                self._stream = None

    def interrupt(self) -> None:
        """Give up the question at work, from any thread."""
        stream = self._stream
        if stream is not None:
            stream.abort()

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

    def _ask(self, act: Callable[[Stream], Answer]) -> Answer:
        """An answer from within the snapshot, on a new stream where the old one is lost and nothing has changed."""
        with self._lock:
            until = time.monotonic() + self._patience
            while True:
                if self._closed or self._stopped.is_set():
                    raise SourceError("the reading was stopped", where=self._title)
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
                if self._stopped.is_set():
                    continue
                if time.monotonic() >= until:
                    if isinstance(why, Unreachable):
                        raise why
                    raise self._lost(str(why)) from why
                time.sleep(0.5 if isinstance(why, Unreachable) else 0.05)

    def _again(self) -> Stream:
        """A new stream on the same state; SnapshotLost where it cannot be proven to be the same."""
        stream = self._open_stream()
        try:
            state = _begin(stream, self._endpoint)
            if not self._frozen and self._probe.changed():
                if not self.state:
                    raise self._lost("nothing proves that the data is still the same")
                stream.close()
                time.sleep(_SETTLE_SECONDS)
                stream = self._open_stream()
                if state != _begin(stream, self._endpoint) or _named(state, self._endpoint) != self.state:
                    raise self._lost("commits were made since, or the server was started anew")
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

    def _width(self, sql: str, parameters: Sequence[Value]) -> int:
        if sql not in self._widths:
            with self._lock:
                self._ask(lambda stream: self._describe(stream, sql, parameters))
        return self._widths[sql]

    def _describe(self, stream: Stream, sql: str, parameters: Sequence[Value]) -> Answer:
        self._widths[sql] = stream.columns(sql, parameters)
        return Answer(rows=iter(()), within=True)

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
