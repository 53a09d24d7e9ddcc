"""One part of a table on its way into one database: its rows, what was refused and its checkpoint commit together.

    BEGIN ── SAVEPOINT, COPY ── refused rows ─> quarantine ── checkpoint ── COMMIT
                       │             ^
                       └ a row that PostgreSQL refuses: all of it once more, batch by batch, around that row

A part whose rows go to several databases has an `Arrival` in each. They commit one after the other: a client killed
between two of them leaves the part done on the first, and to be read again for the second alone.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self

import psycopg

from dbscale import catalog
from dbscale.drivers import postgres
from dbscale.drivers.postgres import Connection
from dbscale.drivers.source import Reader
from dbscale.errors import SourceError, Unfinished
from dbscale.migrate import convert, pgcopy
from dbscale.migrate.encode import Batch, Encoder, Range, Refused, Row
from dbscale.migrate.row_key import row_key
from dbscale.plan import Load
from dbscale.schema import quote


class Stopped(Exception):
    """The run ends; this part is not finished."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a load's rows go."""

    number: int
    """The load's, in the plan."""
    load: Load
    encoder: Encoder
    """What writes the rows of this load, and no other's."""


@dataclass(frozen=True, slots=True)
class Run:
    """What all parts of a run share."""

    id: int
    state_schema: str
    stop: threading.Event


def batches(reader: Reader, encoder: Encoder, part: Range, run: Run) -> Iterator[Batch]:
    """The rows of a part; Stopped once the run ends."""
    for batch in encoder.batches(reader, part):
        if run.stop.is_set():
            raise Stopped
        yield batch


def part_name(part: Range) -> str:
    """A part's name in the checkpoints: `100000..200000`, open ends empty."""
    return f"{'' if part.lower is None else part.lower}..{'' if part.upper is None else part.upper}"


class Stream:
    """Batches on their way into a table, in a transaction of their own: one COPY for as long as all is of one form.

    Where PostgreSQL refuses a row, nothing of the stream is loaded, and no more is sent: `refusal` has the error.
    """

    def __init__(self, session: Connection, encoder: Encoder) -> None:
        self.loaded = self.bytes = 0
        self.left_out: list[Refused] = []
        """The rows that were refused before PostgreSQL saw them."""
        self.refusal: psycopg.Error | None = None
        self._encoder = encoder
        self._counted = 0
        self._copy: psycopg.Copy | None = None
        self._binary = False
        self._open = ExitStack()
        self._open.enter_context(session.transaction())
        self._cursor = self._open.enter_context(session.cursor())
        self._copying = self._open.enter_context(ExitStack())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: Any) -> None:
        """Take back what has not ended."""
        self._open.__exit__(*raised)

    def write(self, batch: Batch) -> None:
        """Send a batch."""
        if self.refusal:
            return
        with self._refusable():
            if batch.data:
                self._send(batch.data, binary=batch.binary)
            if batch.rest:
                self._send(batch.rest, binary=False)
        self.loaded += batch.rows
        self.bytes += len(batch.data) + len(batch.rest)
        self.left_out += batch.refused

    def end(self) -> None:
        """Have PostgreSQL take what was sent; Unfinished where it counts other rows than those."""
        if self.refusal:
            return
        with self._refusable():
            self._end_copy()
            if self._counted != self.loaded:
                raise Unfinished(
                    f"{self.loaded} rows were sent, and PostgreSQL counted {self._counted}",
                    where=self._encoder.load.table,
                    try_="a trigger or a rule on the target's table swallows rows: drop it for the load",
                )
            self._open.close()

    def _send(self, data: bytes, *, binary: bool) -> None:
        if self._copy and binary is not self._binary:
            self._end_copy()
        if not self._copy:
            sql = pgcopy.binary_sql(self._encoder.load) if binary else self._encoder.copy_sql
            self._copy, self._binary = self._copying.enter_context(self._cursor.copy(sql.encode())), binary
            if binary:
                self._copy.write(pgcopy.HEADER)
        self._copy.write(data)

    def _end_copy(self) -> None:
        if self._copy:
            if self._binary:
                self._copy.write(pgcopy.TRAILER)
            self._copy = None
            self._copying.close()
            self._counted += self._cursor.rowcount

    @contextmanager
    def _refusable(self) -> Iterator[None]:
        try:
            yield
        except postgres.REFUSALS as error:
            self.refusal = error
            self._open.__exit__(type(error), error, error.__traceback__)


@dataclass(slots=True)
class Arrival:
    """The rows of one part that one database gets. To be entered, given its batches, and completed."""

    reader: Reader
    session: Connection
    destination: Destination
    part: Range
    run: Run
    loaded: int = 0
    bytes: int = 0
    apart: list[dict[str, Any]] = field(default_factory=list)
    _began: float = field(default_factory=time.perf_counter)
    _open: ExitStack = field(default_factory=ExitStack)
    _stream: Stream = field(init=False)

    def __enter__(self) -> Self:
        with self._named():
            self._open.enter_context(self.session.transaction())
            self._stream = self._open.enter_context(Stream(self.session, self.destination.encoder))
        return self

    def __exit__(self, *raised: Any) -> None:
        """Take back what is not complete."""
        self._open.__exit__(*raised)

    def take(self, batch: Batch) -> None:
        """Send one of the part's batches."""
        with self._named():
            self._stream.write(batch)

    def complete(self) -> catalog.Part:
        """Commit all that came, with the checkpoint that tells of it.

        SourceError for a row that either side refuses where `Load.on_bad_row` is `stop`.
        """
        number, state_schema = self.destination.number, self.run.state_schema
        try:
            with self._named(), self._open:
                self._arrive()
                if self.apart:
                    table = self.destination.load.table
                    catalog.quarantine(self.session, state_schema, self.run.id, table, self.apart)
                part = catalog.Part(
                    part=part_name(self.part),
                    loaded=self.loaded,
                    quarantined=len(self.apart),
                    bytes=self.bytes,
                    seconds=time.perf_counter() - self._began,
                )
                catalog.part_done(self.session, state_schema, self.run.id, number, part)
        except _AlreadyThere:
            return catalog.parts_done(self.session, state_schema, self.run.id, number)[part_name(self.part)]
        return part

    def _arrive(self) -> None:
        """End the stream. Where PostgreSQL refused a row, copy the part batch by batch, around that row."""
        self._stream.end()
        if not self._stream.refusal:
            self._add(self._stream)
            return
        for batch in batches(self.reader, self.destination.encoder, self.part, self.run):
            self._around(batch)

    def _add(self, stream: Stream) -> None:
        self.loaded += stream.loaded
        self.bytes += stream.bytes
        for row in stream.left_out:
            self._set_apart(row)

    def _around(self, batch: Batch) -> None:
        """Copy a batch; if PostgreSQL refuses a row of it, halve it until that row stands alone."""
        if self._refusal(batch):
            singles = self.destination.encoder.singles(self.reader, replace(batch, refused=()))
            self._halve(list(singles))

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
            error = self._refusal(joined)
            if error and len(half) == 1:
                reason = f"PostgreSQL: {error.diag.message_primary or error}"
                self._set_apart(self.destination.encoder.refused(half[0][0], reason, error.diag.column_name or ""))
            elif error:
                self._halve(half)

    def _refusal(self, batch: Batch) -> psycopg.Error | None:
        """Copy one batch; what PostgreSQL says against it, with nothing of it loaded then."""
        with Stream(self.session, self.destination.encoder) as stream:
            stream.write(batch)
            stream.end()
        if not stream.refusal:
            self._add(stream)
        return stream.refusal

    def _set_apart(self, row: Refused) -> None:
        """Keep a row for the quarantine, or stop with it where the user did not ask for one."""
        load = self.destination.load
        key = row_key(load, row)
        if load.on_bad_row == "stop":
            place = f"{load.table}.{row.column}" if row.column else load.table
            otherwise = f', or [migrate.types] "{place}" = "text"' if row.column else ""
            raise SourceError(
                f"{place}: {row.reason}: {shown(row)}" if row.column else f"{place}: {row.reason}",
                where=f"the row with {', '.join(f'{name} = {value}' for name, value in key.items())}",
                try_="--on-invalid-text replace, bytea or quarantine"
                if row.reason.startswith(convert.NOT_UTF8)
                else f"--on-bad-row quarantine{otherwise}",
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

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors of the database, as what they mean for the run."""
        load = self.destination.load
        where = f"{load.table} into {quote(load.schema, load.target)}"
        try:
            yield
        except psycopg.errors.UniqueViolation as error:
            if error.diag.schema_name == self.run.state_schema and error.diag.table_name == "loads":
                # A session of a client killed before this run committed the same part in the meantime: its rows are
                # there, ours were rolled back.
                raise _AlreadyThere from error
            raise postgres.failed(error, where) from error
        except psycopg.Error as error:
            raise postgres.failed(error, where) from error


class _AlreadyThere(Exception):
    """The part has arrived, by another session."""


def shown(row: Refused) -> str:
    """The refused value in at most 60 characters: text as Python writes it, bytes in hex."""
    if row.storage == "blob":
        return f"x'{row.raw[:24].hex()}{'…' if len(row.raw) > 24 else ''}'"
    if row.storage == "text":
        text = row.raw[:60].decode(errors="backslashreplace")
        return repr(text) + ("…" if len(row.raw) > 60 else "")
    return row.raw.decode()
