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
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

import psycopg

from dbscale import catalog
from dbscale.drivers import postgres
from dbscale.drivers.postgres import Connection
from dbscale.drivers.source import Reader
from dbscale.errors import DbscaleError, SourceError, Unfinished
from dbscale.migrate import convert, encode, pgcopy
from dbscale.migrate.encode import Batch, Encoder, Range, Refused, Row
from dbscale.migrate.row_key import row_key
from dbscale.plan import Load
from dbscale.schema import quote

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
    form: str = ""
    """How SQLite wrote the rows: `binary` (dbscale's extension) or `csv` (SQL alone); empty where none were left."""


@dataclass(slots=True)
class _Tally:
    """What has arrived of one load."""

    waiting: int = 0
    loaded: int = 0
    quarantined: int = 0
    bytes: int = 0
    seconds: float = 0.0
    form: str = ""

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
        for task in _in_turns(self._plan(done, tallies)):
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
        encoding = str(next(self.readers[0].rows("PRAGMA encoding"))[0])
        with ExitStack() as stack:
            sessions: dict[str, Connection] = {}
            for number, load in sorted(self.loads.items(), key=lambda item: -max(item[1].bytes, item[1].rows)):
                if load.on not in sessions:
                    sessions[load.on] = stack.enter_context(self.connect(load.on))
                parts = catalog.parts_done(sessions[load.on], self.state_schema, self.run_id, number)
                reader = self.readers[0]
                ranges = [] if number in done else encode.ranges(reader, load, PART_ROWS)
                if ranges and not parts.keys() <= {_name(rows) for rows in ranges}:
                    # Another version of dbscale cut the table in other places: begin it anew.
                    self._clear(sessions[load.on], number, load)
                    parts = {}
                for part in parts.values():
                    tallies[number].add(part)
                encoder = pgcopy.encoder(load, reader, encoding)
                tallies[number].form = encoder.form if ranges else ""
                for rows in ranges:
                    if _name(rows) not in parts:
                        yield _Task(number, load, encoder, rows)

    def _clear(self, session: Connection, number: int, load: Load) -> None:
        """Forget what has arrived of a load, rows and checkpoints together. The table was empty when the run began."""
        with session.transaction():
            session.execute(f"TRUNCATE {quote(load.schema, load.target)}".encode())
            catalog.forget_parts(session, self.state_schema, self.run_id, number, load.table)

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
                copier.copy()
                if copier.apart:
                    catalog.quarantine(session, self.state_schema, self.run_id, task.load.table, copier.apart)
                part = catalog.Part(
                    part=_name(task.range),
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
                return catalog.parts_done(session, self.state_schema, self.run_id, task.number)[_name(task.range)]
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

    def copy(self) -> None:
        """Copy the part in one stream. Where PostgreSQL refuses a row, copy it batch by batch, around that row."""
        try:
            with self.session.transaction():
                loaded, size, refused = self._stream(self._batches())
        except (psycopg.DataError, psycopg.IntegrityError):
            for batch in self._batches():
                self._around(batch)
        else:
            self.loaded, self.bytes = loaded, size
            for row in refused:
                self._set_apart(row)

    def _batches(self) -> Iterator[Batch]:
        for batch in self.task.encoder.batches(self.reader, self.task.range):
            if self.stop.is_set():
                raise _Stopped
            yield batch

    def _stream(self, batches: Iterable[Batch]) -> tuple[int, int, list[Refused]]:
        """COPY some batches: rows loaded, bytes sent, and the rows that the guards left out."""
        written = size = counted = 0
        refused: list[Refused] = []

        def passing() -> Iterator[Batch]:
            nonlocal written, size
            for batch in batches:
                yield batch
                written += batch.rows
                size += len(batch.data) + len(batch.rest)
                refused.extend(batch.refused)

        with self.session.cursor() as cursor:
            for statement, rows in self.task.encoder.copies(passing()):
                with cursor.copy(statement.encode()) as copy:
                    for data in rows:
                        copy.write(data)
                counted += cursor.rowcount
        if counted != written:
            raise Unfinished(
                f"{written} rows were sent, and PostgreSQL counted {counted}",
                where=f"{self.task.load.table}, part {_name(self.task.range)}",
                try_="a trigger or a rule on the target's table swallows rows: drop it for the load",
            )
        return written, size, refused

    def _around(self, batch: Batch) -> None:
        """Copy a batch; if PostgreSQL refuses a row of it, halve it until that row stands alone."""
        if not self._taken(batch):
            rows = list(self.task.encoder.singles(self.reader, replace(batch, refused=())))
            self._halve(rows)
            return
        for row in batch.refused:
            self._set_apart(row)

    def _halve(self, rows: Sequence[tuple[Row, Batch]]) -> None:
        """Copy rows that stand for a batch that was refused, each half by itself."""
        middle = len(rows) // 2
        for half in (rows[:middle], rows[middle:]):
            if not half:
                continue
            joined = Batch(
                data=b"".join(single.data for _, single in half),
                rows=sum(single.rows for _, single in half),
                refused=tuple(row for _, single in half for row in single.refused),
            )
            error = self._error(joined)
            if error is None:
                for refused in joined.refused:
                    self._set_apart(refused)
            elif len(half) == 1:
                reason = f"PostgreSQL: {error.diag.message_primary or error}"
                self._set_apart(self.task.encoder.refused(half[0][0], reason, error.diag.column_name or ""))
            else:
                self._halve(half)

    def _taken(self, batch: Batch) -> bool:
        return self._error(batch) is None

    def _error(self, batch: Batch) -> psycopg.Error | None:
        """Copy one batch; what PostgreSQL says against it, with nothing of it loaded then."""
        try:
            with self.session.transaction():
                loaded, size, _ = self._stream([batch])
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            return error
        self.loaded += loaded
        self.bytes += size
        return None

    def _set_apart(self, row: Refused) -> None:
        """Keep a row for the quarantine, or stop with it where the user did not ask for one."""
        load = self.task.load
        key = row_key(load, row)
        if load.on_bad_row == "stop":
            place = f"{load.table}.{row.column}" if row.column else load.table
            raise SourceError(
                f"{place}: {row.reason}: {shown(row)}" if row.column else f"{place}: {row.reason}",
                where=f"the row with {', '.join(f'{name} = {value}' for name, value in key.items())}",
                try_="--on-invalid-text replace, bytea or quarantine"
                if row.reason.startswith(convert.NOT_UTF8)
                else f'--on-bad-row quarantine, or [migrate.types] "{place}" = "text"',
            )
        self.apart.append(
            {
                "row_key": json.dumps(key),
                "column_name": row.column or None,
                "stored_as": row.storage if row.column else None,
                "raw": row.raw if row.column else None,
                "reason": row.reason,
            }
        )


def shown(row: Refused) -> str:
    """The refused value in at most 60 characters: text as Python writes it, bytes in hex."""
    if row.storage == "blob":
        return f"x'{row.raw[:24].hex()}{'…' if len(row.raw) > 24 else ''}'"
    if row.storage == "text":
        text = row.raw[:60].decode(errors="backslashreplace")
        return repr(text) + ("…" if len(row.raw) > 60 else "")
    return row.raw.decode()


def _in_turns(tasks: Iterable[_Task]) -> Iterator[_Task]:
    """The tasks of the databases in turns, so that several servers work side by side; each one's in their order."""
    of: dict[str, list[_Task]] = {}
    for task in tasks:
        of.setdefault(task.load.on, []).append(task)
    return (task for turn in zip_longest(*of.values()) for task in turn if task is not None)


def _name(part: Range) -> str:
    """A part's name in the checkpoints: `100000..200000`, open ends empty."""
    return f"{'' if part.lower is None else part.lower}..{'' if part.upper is None else part.upper}"


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
        form=tally.form,
    )
