"""How the rows of a plan's loads are copied: parts of tables, side by side, each with its checkpoint.

    reader (SQLite encodes) ── batches of COPY text ──> session (PostgreSQL)     one pair a thread
                                                           │
                          BEGIN; COPY; what was refused ─> quarantine; checkpoint; COMMIT

A part is a range of the source's keys. Its rows, the rows kept apart and its checkpoint commit together: a client
killed at any moment leaves whole parts, and a second run does the others.
"""

from __future__ import annotations

import json
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg

from dbscale import catalog
from dbscale.drivers import postgres
from dbscale.drivers.postgres import Connection
from dbscale.drivers.source import Reader
from dbscale.errors import DbscaleError, SourceError, Unfinished
from dbscale.migrate import encode
from dbscale.migrate.encode import Encoder, Range
from dbscale.plan import Load
from dbscale.schema import columns_sql, quote

PART_ROWS = 100_000
"""Rows of one part. Smaller costs commits, larger loses more work to a kill: at 100,000 neither is felt."""

_PATIENCE = 10.0
"""Seconds that a broken-off run waits for its threads; they are daemons, and their transactions are not committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How much of a load has arrived so far; bytes are of COPY text."""

    number: int
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A load is complete: the rows and bytes of all its runs, and the seconds its sessions were busy with it."""

    number: int
    loaded: int
    quarantined: int
    bytes: int
    seconds: float


@dataclass(slots=True)
class _Tally:
    """What has arrived of one load."""

    waiting: int = 0
    loaded: int = 0
    quarantined: int = 0
    bytes: int = 0
    seconds: float = 0.0

    def add(self, part: catalog.Part) -> None:
        self.loaded += part.loaded
        self.quarantined += part.quarantined
        self.bytes += part.bytes
        self.seconds += part.seconds


@dataclass(frozen=True, slots=True)
class _Task:
    number: int
    load: Load
    encoder: Encoder
    range: Range


@dataclass(slots=True)
class Loader:
    """Copies loads with as many threads as there are readers."""

    loads: Mapping[int, Load]
    readers: Sequence[Reader]
    connect: Callable[[str], Connection]
    interrupt: Callable[[], None]
    run_id: int
    state_schema: str
    _tasks: queue.SimpleQueue[_Task] = field(default_factory=queue.SimpleQueue)
    _events: queue.SimpleQueue[tuple[int, catalog.Part] | BaseException | None] = field(
        default_factory=queue.SimpleQueue
    )
    _stop: threading.Event = field(default_factory=threading.Event)
    _sessions: list[Connection] = field(default_factory=list)

    def run(self, done: set[int]) -> Iterator[Progress | Loaded]:
        """Copy every load but those in `done`; yields progress, and each load once it is complete."""
        tallies = {number: _Tally() for number in self.loads}
        for task in self._plan(done, tallies):
            self._tasks.put(task)
            tallies[task.number].waiting += 1
        for number, tally in tallies.items():
            if not tally.waiting:
                yield _loaded(number, tally)
        threads = [
            threading.Thread(target=self._work, args=(reader,), name=f"load-{i}", daemon=True)
            for i, reader in enumerate(self.readers)
        ]
        for thread in threads:
            thread.start()
        complete = False
        try:
            yield from self._report(tallies, len(threads))
            complete = True
        finally:
            self._stop.set()
            if not complete:
                self._break_off()
            for thread in threads:
                thread.join(timeout=None if complete else _PATIENCE)

    def _break_off(self) -> None:
        """Stop what the threads wait for: SQLite at its next step, PostgreSQL by a cancel request."""
        self.interrupt()
        for session in tuple(self._sessions):
            with suppress(psycopg.Error, OSError):
                session.cancel_safe(timeout=2)

    def _plan(self, done: set[int], tallies: dict[int, _Tally]) -> Iterator[_Task]:
        """The parts that are still to copy, largest tables first; what has arrived before goes into the tallies."""
        with ExitStack() as stack:
            sessions: dict[str, Connection] = {}
            for number, load in sorted(self.loads.items(), key=lambda item: -max(item[1].bytes, item[1].rows)):
                if load.on not in sessions:
                    sessions[load.on] = stack.enter_context(self.connect(load.on))
                parts = catalog.parts_done(sessions[load.on], self.state_schema, self.run_id, number)
                for part in parts.values():
                    tallies[number].add(part)
                if number in done:
                    continue
                reader = self.readers[0]
                encoder = Encoder(load, library=reader.library, function_arguments=reader.function_arguments)
                for part_range in encode.ranges(reader, load, PART_ROWS):
                    if str(part_range) not in parts:
                        yield _Task(number, load, encoder, part_range)

    def _report(self, tallies: dict[int, _Tally], threads: int) -> Iterator[Progress | Loaded]:
        while threads:
            event = self._events.get()
            if event is None:
                threads -= 1
            elif isinstance(event, BaseException):
                raise event
            else:
                number, news = event
                tally = tallies[number]
                tally.add(news)
                tally.waiting -= 1
                yield Progress(number=number, rows=tally.loaded + tally.quarantined, bytes=tally.bytes)
                if not tally.waiting:
                    yield _loaded(number, tally)

    def _work(self, reader: Reader) -> None:
        """One thread: take parts until there are none. An error ends the whole run."""
        sessions: dict[str, Connection] = {}
        try:
            while not self._stop.is_set():
                try:
                    task = self._tasks.get_nowait()
                except queue.Empty:
                    break
                if task.load.on not in sessions:
                    sessions[task.load.on] = self.connect(task.load.on)
                    self._sessions.append(sessions[task.load.on])
                part = self._copy(reader, sessions[task.load.on], task)
                self._events.put((task.number, part))
        except BaseException as error:  # noqa: BLE001 - handed over to the thread that waits for it
            if not self._stop.is_set():
                self._events.put(error)
        finally:
            for session in sessions.values():
                with suppress(psycopg.Error):
                    session.close()
            self._events.put(None)

    def _copy(self, reader: Reader, session: Connection, task: _Task) -> catalog.Part:
        """Copy one part, in one transaction with its checkpoint."""
        began = time.perf_counter()
        copier = _Copier(reader, session, task, self._stop)
        try:
            with session.transaction():
                copier.copy(task.range)
                if copier.apart:
                    catalog.quarantine(session, self.state_schema, self.run_id, task.load.table, copier.apart)
                part = catalog.Part(
                    part=str(task.range),
                    loaded=copier.loaded,
                    quarantined=len(copier.apart),
                    bytes=copier.bytes,
                    seconds=time.perf_counter() - began,
                )
                catalog.part_done(session, self.state_schema, self.run_id, task.number, part)
        except psycopg.errors.UniqueViolation as error:
            if error.diag.schema_name == self.state_schema and error.diag.table_name == "loads":
                # A session of a client killed before this run committed the same part in the meantime: its rows are
                # there, ours were rolled back.
                return catalog.parts_done(session, self.state_schema, self.run_id, task.number)[str(task.range)]
            raise _refused(error, task.load) from error
        except psycopg.Error as error:
            raise _refused(error, task.load) from error
        return part


class _Stopped(Exception):
    """The run ends; this part is not finished."""


@dataclass(slots=True)
class _Copier:
    """One part on its way: streams batches, and sets apart the rows that either side refuses."""

    reader: Reader
    session: Connection
    task: _Task
    stop: threading.Event
    loaded: int = 0
    bytes: int = 0
    apart: list[dict[str, Any]] = field(default_factory=list)

    def copy(self, part: Range) -> None:
        """Copy the rows of `part`; those the guards leave out and those COPY refuses are kept apart or stop it."""
        try:
            with self.session.transaction():
                read, loaded, size = self._stream(part)
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            self._around(part, error)
            return
        self.loaded += loaded
        self.bytes += size
        if loaded != read:
            refused = list(encode.refused(self.reader, self.task.encoder, part))
            if len(refused) != read - loaded:
                raise Unfinished(
                    f"{read} rows were read, {loaded} arrived, and {len(refused)} were found to be refused",
                    where=f"{self.task.load.table}, part {part}",
                    try_="report this: the guard and the search for refused rows disagree",
                )
            for row in refused:
                self._set_apart(row)

    def _stream(self, part: Range) -> tuple[int, int, int]:
        """COPY the batches of a part: rows read, rows that PostgreSQL took, bytes sent."""
        load = self.task.load
        columns = columns_sql(tuple(column.target for column in load.columns))
        statement = f"COPY {quote(load.schema, load.target)} ({columns}) FROM STDIN"
        read = size = 0
        with self.session.cursor() as cursor:
            with cursor.copy(statement.encode()) as copy:
                for batch, rows in encode.batches(self.reader, self.task.encoder, part):
                    if self.stop.is_set():
                        raise _Stopped
                    copy.write(batch)
                    read += rows
                    size += len(batch)
            return read, cursor.rowcount, size

    def _around(self, part: Range, error: psycopg.Error) -> None:
        """PostgreSQL refused a row of `part`: find it, keep it apart, and copy what stands before and after it."""
        found = re.search(r"^COPY .*?, line (\d+)", error.diag.context or "", re.MULTILINE)
        row = encode.row_at(self.reader, self.task.encoder, part, int(found[1])) if found else None
        if row is None:
            raise error
        self._set_apart(row.because(_reason(error)))
        for piece in part.without(row.position):
            self.copy(piece)

    def _set_apart(self, row: encode.RefusedRow) -> None:
        """Keep a row for the quarantine, or stop with it where the user did not ask for one."""
        load = self.task.load
        if load.on_bad_row == "stop":
            raise SourceError(
                f"{load.table}.{row.column}: {row.shown} {row.reason}" if row.column else f"{load.table}: {row.reason}",
                where=f"row {row.key_shown}",
                try_=f'--on-bad-row quarantine, or [migrate.types] "{load.table}.{row.column}" = "text"',
            )
        self.apart.append(
            {
                "row_key": json.dumps(row.key, ensure_ascii=True),
                "column_name": row.column or None,
                "stored_as": row.stored_as or None,
                "raw": row.raw,
                "reason": row.reason,
                "row_data": json.dumps(row.data, ensure_ascii=True),
            }
        )


def _reason(error: psycopg.Error) -> str:
    return f"PostgreSQL: {error.diag.message_primary or error}"


def _refused(error: psycopg.Error, load: Load) -> DbscaleError:
    """A database error in the middle of a load, as what it means for the run."""
    where = f"{load.table} into {quote(load.schema, load.target)}"
    translated = postgres.translated(error, where=where)
    if isinstance(error, psycopg.OperationalError) and not isinstance(error, psycopg.errors.DiskFull):
        return Unfinished(translated.says, where=where, try_="when the server is back, run the same command again")
    return translated


def _loaded(number: int, tally: _Tally) -> Loaded:
    return Loaded(
        number=number,
        loaded=tally.loaded,
        quarantined=tally.quarantined,
        bytes=tally.bytes,
        seconds=tally.seconds,
    )
