"""Rows compared by hashes of their bytes: PostgreSQL hashes each row's `record_send`, and dbscale's SQLite extension
hashes what it expects those bytes to be; both add the hashes up, and only the sums travel.

What the extension writes here shares no calculation with what it loads by (dbscale_sqlite.c, `v_cell`): dates are
counted by another rule, decimals and jsonb are compared as the text that PostgreSQL prints. Where the sums are not
equal, or the extension leaves a row out, the rows are compared by the lines of SQL (verify_rows.py), which decide. So a
fault here can cost time. A difference is missed only if `pgcopy`, `record_sums` and PostgreSQL's own output functions
agree on it, or if two independent sums of 64 bits are equal by chance: once in 2^128 times.

The whole row is hashed as one piece of bytes. PostgreSQL's `hash_record_extended` of the row itself would be cheaper
and prove less: it leaves out the sign of decimals, folds 64 bits of a number to 32 and adds up the columns' hashes, so
that two rows which exchange a value keep their sum.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import psycopg

from dbscale.drivers.postgres import Connection
from dbscale.drivers.source import Reader, Value
from dbscale.migrate import cells, encode, pgcopy
from dbscale.migrate.encode import Range
from dbscale.plan import Load, LoadColumn
from dbscale.schema import quote

SEEDS = (0x6462_7363_616C_6501, 0x2B99_2DDF_A232_49D6)
_UNKNOWN = ("vector", "real", "real[]", "double precision[]")


WHOLE = Range()


class Sums(NamedTuple):
    """What stands for some rows: their number, and for each seed the sum of their hashes modulo 2^64."""

    rows: int
    first: int
    second: int


@dataclass(frozen=True, slots=True)
class Records:
    """How the rows of one table are compared by their bytes."""

    load: Load
    encoder: pgcopy.BinaryEncoder

    @classmethod
    def of(cls, reader: Reader, load: Load, encoding: str) -> Records | None:
        """For `load`; None where the extension is not there or does not know one of its types."""
        encoder = pgcopy.encoder(load, reader, encoding)
        types = {cells.parse_type(column.conversion.to).name for column in load.columns}
        if any(column.conversion.invalid == "replace" for column in load.columns):
            return None
        if not isinstance(encoder, pgcopy.BinaryEncoder) or types.intersection(_UNKNOWN):
            return None
        return cls(load, encoder) if len(load.columns) + 3 <= reader.function_arguments else None

    def same_rows(self, reader: Reader, connection: Connection, part: Range = WHOLE, key: str = "") -> int | None:
        """How many rows both sides hold, the same on both in whatever order; None where that is not so, or cannot be
        told in this way. Of the whole table, or a part; the target has the rowid in its column `key`, quoted.

        Both sides work at once.
        """
        with ThreadPoolExecutor(max_workers=1) as other:
            theirs = other.submit(self._target_sums, connection, _within(key, part))
            among = (
                f"FROM {quote(self.load.table)} AS s {_within(f's.{quote(self.load.rowid)}', part)}{self.encoder.only}"
            )
            (found,) = next(reader.rows(f"{self._sums_sql(self.encoder.values())} {among}", SEEDS))
            mine = _read(found)
            return mine.rows if mine is not None and mine == theirs.result() else None

    def compared(
        self, reader: Reader, connection: Connection, part: Range, key: str
    ) -> Iterator[tuple[int, int, int, bool]]:
        """Ranges of the rowid that together leave no number out: first, last, rows, and whether they are equal.

        `key` is the target's column with the rowid, quoted.
        """
        pending: tuple[int, int, int, Future[bool]] | None = None
        # PostgreSQL hashes one batch while SQLite hashes the next
        with ThreadPoolExecutor(max_workers=1) as other:
            for first, last, rows, sums in self._batches(reader, part):
                if pending:
                    yield *pending[:3], pending[3].result()
                condition = f"WHERE {key} BETWEEN {first} AND {last}"
                pending = (first, last, rows, other.submit(self._equal, connection, condition, sums))
            if pending:
                yield *pending[:3], pending[3].result()

    def _batches(self, reader: Reader, part: Range) -> Iterator[tuple[int, int, int, Sums | None]]:
        """First and last number, rows, and their sums; None where the extension left one out."""
        rowid = f"s.{quote(self.load.rowid)}"
        values = self.encoder.values()
        names = [f"c{place}" for place in range(len(values))]
        columns = ", ".join(f"{value} AS {name}" for value, name in zip(values, names, strict=True))
        sql = (
            f"{self._sums_sql(names)}, count(*), max(k) FROM (SELECT {rowid} AS k, {columns}"
            f" FROM {quote(self.load.table)} AS s WHERE {rowid} BETWEEN ? AND ?{self.encoder.only}"
            f" ORDER BY {rowid} LIMIT ?)"
        )
        first = -(2**63) if part.lower is None else part.lower
        upper = 2**63 - 1 if part.upper is None else part.upper - 1
        while first <= upper:
            found, rows, last = next(reader.rows(sql, (*SEEDS, first, upper, encode.MOST_ROWS)))
            end = encode.as_int(last) if rows else upper
            yield first, end, encode.as_int(rows), _read(found)
            first = end + 1

    def _sums_sql(self, values: Sequence[str]) -> str:
        """The source's side, up to FROM; its parameters are the seeds."""
        return f"SELECT record_sums({self.encoder.codes()}, ?, ?, {', '.join(values)})"

    def _equal(self, connection: Connection, condition: str, sums: Sums | None) -> bool:
        """Whether the target holds just these rows under a condition."""
        return sums is not None and self._target_sums(connection, condition) == sums

    def _target_sums(self, connection: Connection, condition: str) -> Sums | None:
        """The target's side; None where the target does not have the types for it."""
        columns = ", ".join(map(_cell, self.load.columns))
        first, second = (f"sum({_hash(connection)}(r,{seed}))" for seed in SEEDS)
        row = "record_send(t)" if connection.info.server_version >= BYTEA_HASHED else "ROW(record_send(t))"
        # OFFSET 0 has each row written once, and not once for each hash
        sql = (
            f"SELECT count(*), {first}, {second} FROM (SELECT {row} AS r FROM"
            f" (SELECT {columns} FROM {quote(self.load.schema, self.load.target)} {condition}) AS t OFFSET 0) AS u"
        )
        try:
            with connection.transaction():
                found = connection.execute(sql.encode()).fetchone()
        except psycopg.OperationalError:
            raise
        except psycopg.Error:
            return None
        assert found is not None  # noqa: S101 - an aggregate has a row
        rows, *sums = found
        return Sums(rows, *(int(each or 0) % 2**64 for each in sums))


BYTEA_HASHED = 180000
"""The first version of PostgreSQL that has a hash of bytes; before, only a row of them has one, which is the same."""


def _within(number: str, part: Range) -> str:
    """That a number is in a part, as a condition for either side."""
    ends = [f" AND {number} >= {part.lower}"] if part.lower is not None else []
    ends += [f" AND {number} < {part.upper}"] if part.upper is not None else []
    return f"WHERE 1=1{''.join(ends)}"


def _hash(connection: Connection) -> str:
    return "hashbyteaextended" if connection.info.server_version >= BYTEA_HASHED else "hash_record_extended"


def _read(found: Value) -> Sums | None:
    """What `record_sums` gave: nothing for no rows; None where it left rows out."""
    if not isinstance(found, bytes):
        return Sums(0, 0, 0)
    first, second, left, rows = struct.unpack(">4Q", found)
    return None if left else Sums(rows, first, second)


def _cell(column: LoadColumn) -> str:
    """A target's column, in the form in which bytes are compared."""
    name = quote(column.target)
    to = cells.parse_type(column.conversion.to)
    if to.name == "numeric" and not to.modifiers:
        return f"trim_scale({name})"
    return f"{name}::text" if to.family == "text" else name
