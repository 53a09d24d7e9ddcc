"""Rows compared by their bytes: PostgreSQL's `record_send` against the same worked out by dbscale's SQLite extension.

What the extension writes here shares no calculation with what it loads by (dbscale_sqlite.c, `records`): dates are
counted by another rule, decimals and jsonb are compared as the text that PostgreSQL prints. Bytes that are equal are
equal values; where they are not, or the extension leaves a row out, the rows are compared by the lines of SQL
(verify_rows.py), which decide. So a fault here can cost time, and no difference can be missed but one that `pgcopy`,
`records` and PostgreSQL's own output functions all three agree on.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg

from dbscale.drivers.postgres import Connection
from dbscale.drivers.source import Reader, Value
from dbscale.migrate import cells, encode, pgcopy
from dbscale.migrate.encode import Range
from dbscale.plan import Load, LoadColumn
from dbscale.schema import quote

_UNKNOWN = ("vector", "real", "real[]", "double precision[]")
PAGES = 512
"""Pages of the target that are read at once: 4 MB."""
_WIDEST = 100_000
"""With larger values, pages say little about how much a part of the target holds."""


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
        if not isinstance(encoder, pgcopy.BinaryEncoder) or load.widest > _WIDEST or types.intersection(_UNKNOWN):
            return None
        return cls(load, encoder)

    # ── by range of the key ───────────────────────────────────────────────────────────────────────────────────────

    def compared(
        self, reader: Reader, connection: Connection, part: Range, key: str
    ) -> Iterator[tuple[int, int, int, bool]]:
        """Ranges of the rowid that together leave no number out: first, last, rows, and whether they are equal.

        `key` is the target's column with the rowid, quoted.
        """
        pending: tuple[int, int, int, Future[bool]] | None = None
        # PostgreSQL reads one batch while SQLite reads the next
        with ThreadPoolExecutor(max_workers=1) as other:
            for first, last, rows, data in self._batches(reader, part):
                if pending:
                    yield *pending[:3], pending[3].result()
                pending = (first, last, rows, other.submit(self._equal, connection, key, (first, last), rows, data))
            if pending:
                yield *pending[:3], pending[3].result()

    def _batches(self, reader: Reader, part: Range) -> Iterator[tuple[int, int, int, bytes | None]]:
        """First and last number, rows, and their bytes; None where the extension left one out."""
        rowid = f"s.{quote(self.load.rowid)}"
        among = (
            f"FROM {quote(self.load.table)} AS s WHERE {rowid} BETWEEN ? AND ?{self.encoder.only}"
            f" ORDER BY {rowid} LIMIT ?"
        )
        values = self.encoder.values()
        names = [f"c{place}" for place in range(len(values))]
        columns = ", ".join(f"{value} AS {name}" for value, name in zip(values, names, strict=True))
        sql = (
            f"SELECT records({self.encoder.codes()}, {', '.join(names)}), count(*), max(k)"
            f" FROM (SELECT {rowid} AS k, {columns} {among})"
        )
        first = -(2**63) if part.lower is None else part.lower
        upper = 2**63 - 1 if part.upper is None else part.upper - 1
        while first <= upper:
            most = self.encoder.fitting(reader, among, (first, upper))
            found, rows, last = _one(reader, sql, (first, upper, most))
            data = found if isinstance(found, bytes) else bytes(16)
            (left,) = struct.unpack_from(">Q", data, len(data) - 16)
            end = encode.as_int(last) if rows else upper
            yield first, end, encode.as_int(rows), None if left else data[:-16]
            first = end + 1

    def _equal(self, connection: Connection, key: str, ends: tuple[int, int], rows: int, data: bytes | None) -> bool:
        """Whether the target holds just these rows between their ends."""
        if data is None:
            return False
        sql = (
            "SELECT count(*), string_agg(record_send(t),''::bytea) FROM"
            f" (SELECT {self._cells()} FROM {quote(self.load.schema, self.load.target)}"
            f" WHERE {key} BETWEEN {ends[0]} AND {ends[1]} ORDER BY {key}) AS t"
        )
        found = _asked(connection, sql)
        return found == (rows, data if rows else None)

    def _cells(self) -> str:
        """The target's columns, in the forms in which bytes are compared."""
        return ", ".join(map(_cell, self.load.columns))

    # ── as a multiset ─────────────────────────────────────────────────────────────────────────────────────────────

    def same_rows(self, reader: Reader, connection: Connection, target: str) -> int | None:
        """How many rows both sides hold, the same on both; None where that is not so, or cannot be told in this way.

        128 bits of each row's hash are added up, in whatever order the rows come.
        """
        sql = f"SELECT record_total({self.encoder.codes()}, {', '.join(self.encoder.values())}) FROM"
        (found,) = _one(reader, f"{sql} {quote(self.load.table)} AS s WHERE {self.load.where or '1'}", ())
        *sums, left, rows = struct.unpack(">4Q", found) if isinstance(found, bytes) else (0, 0, 0, 0)
        size = _asked(
            connection,
            f"SELECT pg_relation_size(oid) / current_setting('block_size')::int FROM pg_class"
            f" WHERE oid = '{target.replace(chr(39), chr(39) * 2)}'::regclass AND relkind = 'r'",
        )
        if left or size is None:
            return None
        total = [0, 0, 0]
        for page in range(0, size[0], PAGES):
            data = _asked(
                connection,
                f"SELECT string_agg(record_send(t),''::bytea) FROM (SELECT {self._cells()} FROM {target}"
                f" WHERE ctid >= '({page},0)' AND ctid < '({page + PAGES},0)') AS t",
            )
            if data is None:
                return None
            if data[0]:
                (counted,) = _one(reader, "SELECT record_sums(?)", (data[0],))
                if not isinstance(counted, bytes):
                    return None
                total = [a + b for a, b in zip(total, struct.unpack(">3Q", counted), strict=True)]
        equal = total[0] == rows and [part % 2**64 for part in total[1:]] == sums
        return rows if equal else None


def _cell(column: LoadColumn) -> str:
    name = quote(column.target)
    to = cells.parse_type(column.conversion.to)
    if to.name == "numeric":
        return f"trim_scale({name})::text"
    return f"{name}::text" if to.name == "jsonb" or to.family == "text" else name


def _one(reader: Reader, sql: str, parameters: Sequence[Value]) -> tuple[Value, ...]:
    return next(reader.rows(sql, parameters))


def _asked(connection: Connection, sql: str) -> tuple[Any, ...] | None:
    """The one row of a query; None where the target does not have the types for it."""
    try:
        with connection.transaction():
            return connection.execute(sql.encode(), binary=True).fetchone()
    except psycopg.OperationalError:
        raise
    except psycopg.Error:
        return None
