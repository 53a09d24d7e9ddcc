"""Batches in COPY's binary form, which SQLite writes by `pgcopy` (dbscale.native): two to three times as fast as text.

The values are those of the SQL form (cells.py). Rows with a value that has no usual form are left out there, too, and
then read raw and written by `convert.py`: as CSV, by a COPY of their own within the same transaction.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator, Sequence

from dbscale.drivers.source import Reader, Value
from dbscale.migrate import cells, encode
from dbscale.migrate.encode import Batch, Encoder
from dbscale.plan import Conversion, Load
from dbscale.schema import columns_sql, literal, quote

MOST_DIVIDING = 2_000
"""Characters of SQL that say whose a row is, where they are worked out once for each database."""
BATCH_BYTES = 256 << 10
"""What stays in a processor's cache while it is written, handed over and sent: with 2 MB the client takes a fifth more
time. For each database that rows go to, up to the size of the SQL form, which asks for batches over networks too."""
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"

_TYPES = {
    "smallint": "2", "integer": "4", "bigint": "8", "real": "f", "double precision": "d", "numeric": "n",
    "boolean": "b", "bytea": "y", "uuid": "u", "json": "j", "jsonb": "J", "timestamp": "p", "timestamptz": "P",
    "date": "D", "time": "T", "text": "t", "varchar": "t", "vector": "v", "real[]": "E", "double precision[]": "F",
}  # fmt: skip
_INTEGERS = {
    "": "-", "keep": "k", "bool": "b", "s": "s", "ms": "m", "us": "u", "ns": "n", "webkit-us": "w", "apple-s": "a",
    "days": "d", "yyyymmdd": "y", "julian": "j", "by-size": "z", "text": "x",
}  # fmt: skip
_REALS = {
    "": "-", "keep": "k", "whole": "w", "shortest": "h", "s": "s", "ms": "m", "apple-s": "a", "julian": "j",
    "text": "x",
}  # fmt: skip
_TEXTS = {"": "-", "keep": "k", "number": "n", "bool": "b", "iso": "i", "uuid": "u", "json": "j", "bytes": "y"}
_BLOBS = {
    "": "-", "keep": "k", "text": "x", "uuid": "u", "json": "j", "jsonb": "j", "digits": "d", "f32": "f", "f64": "g",
}  # fmt: skip


def encoder(load: Load, reader: Reader, encoding: str, shares: Sequence[str] = ()) -> Encoder:
    """What writes the rows of `load` fastest: `pgcopy` where it is and knows the table's types, else SQL.

    `shares`: as `Encoder` takes them.
    """
    made = Encoder(load, reader.library, reader.function_arguments, encoding=encoding, shares=shares)
    codes = "".join(code(column.conversion) or "?" for column in load.columns)
    own = getattr(reader, "native", False) and made.encoding == "UTF-8" and "?" not in codes
    if not own or not load.columns or len(load.columns) + 2 > reader.function_arguments:
        return made
    size = min(BATCH_BYTES * max(1, len(shares)), encode.BATCH_BYTES)
    return BinaryEncoder(
        load, reader.library, reader.function_arguments, encoding=encoding, batch_bytes=size, shares=shares
    )


def code(conversion: Conversion) -> str:
    """A conversion as `pgcopy` reads it; empty where it has none."""
    to = cells.parse_type(conversion.to)
    letters = (
        _TYPES.get(to.name),
        _INTEGERS.get(conversion.integers),
        _REALS.get(conversion.reals),
        _TEXTS.get(conversion.texts),
        _BLOBS.get(conversion.blobs),
        "n" if conversion.empty == "null" else "-",
        "r" if conversion.rounded else "-",
    )
    if None in letters or any(modifier < 0 for modifier in to.modifiers):
        return ""
    return "".join(filter(None, letters)) + "".join(map("{}{}".format, ":.", to.modifiers)) + ";"


def binary_sql(load: Load) -> str:
    """The COPY statement for batches that are binary."""
    names = columns_sql(tuple(column.target for column in load.columns))
    return f"COPY {quote(load.schema, load.target)} ({names}) FROM STDIN (FORMAT binary)"


class BinaryEncoder(Encoder):
    """Writes the rows of one table in COPY's binary form. See `encoder` for when that can be."""

    form = "binary"

    def _row_sql(self) -> str:
        return f"pgcopy_row({', '.join([self.codes(), *self.values()])})"

    def codes(self) -> str:
        """The conversions as an SQL string, for `pgcopy` and `record_sums`."""
        return literal("".join(code(column.conversion) for column in self.load.columns))

    def values(self) -> list[str]:
        """The columns as `pgcopy` takes them: SQLite's own JSON becomes text by SQLite's own function."""
        values = []
        for column in self.load.columns:
            x = f"s.{quote(column.source)}"
            if column.conversion.blobs == "jsonb":
                x = (
                    f"CASE typeof({x}) WHEN 'blob' THEN CASE WHEN json_valid({x},8) THEN CAST(json({x}) AS BLOB)"
                    f" ELSE x'' END ELSE {x} END"
                )
            values.append(x)
        return values

    def _batch_sql(self, rowid: str, among: str) -> str:
        values = self.values()
        names = [f"c{place}" for place in range(len(values))]
        columns = ", ".join(f"{value} AS {name}" for value, name in zip(values, names, strict=True))
        of_all = ", ".join(f"pgcopy({self.codes()}, k, {', '.join(names)}){of_it}" for of_it in self._filters())
        return f"SELECT min(k), max(k), {of_all} FROM (SELECT {rowid} AS k, {self._share} AS o, {columns} {among})"

    def _spanned_sql(self) -> str:
        """Without the subquery, out of which SQLite would copy every value: it takes a quarter less time. Among many
        databases, or by a time, the owner would be worked out too often."""
        if len(self.shares) * len(self._share) > MOST_DIVIDING:
            return ""
        rowid = f"s.{quote(self.load.rowid)}"
        written = f"pgcopy({self.codes()}, {rowid}, {', '.join(self.values())})"
        of_all = ", ".join(written + of_it for of_it in self._filters(self._share))
        return f"SELECT ?1, ?2, {of_all} FROM {self._table} NOT INDEXED WHERE {rowid} BETWEEN ?1 AND ?2{self.only}"

    def _batches(self, reader: Reader, found: Sequence[Value]) -> Iterator[Batch]:
        least, greatest, *of_all = found
        for share, data in enumerate(of_all):
            if isinstance(data, bytes):
                place = Batch(data=b"", rows=0, first=encode.as_int(least), last=encode.as_int(greatest), share=share)
                yield self._of_share(reader, place, data)

    def _of_share(self, reader: Reader, place: Batch, data: bytes) -> Batch:
        """The batch at `place` of which `pgcopy` gave `data`."""
        left, written = struct.unpack_from(">QQ", data, len(data) - 16)
        end = len(data) - 16 - 8 * left
        rest = place
        if left:
            keys = ",".join(map(str, struct.unpack_from(f">{left}q", data, end)))
            rest = self._written(self._raw(reader, place, f"AND s.{quote(self.load.rowid)} IN ({keys})"), place)
        return dataclasses.replace(rest, data=data[:end], binary=True, rest=rest.data, rows=written + rest.rows)

    def _completed(self, reader: Reader, batch: Batch, rows: int) -> Batch:
        batch = dataclasses.replace(batch, binary=True)
        if rows == batch.rows:
            return batch
        rest = self._written(self._raw(reader, batch, f"AND {self._row} IS NULL"), batch)
        return dataclasses.replace(rest, data=batch.data, binary=True, rest=rest.data, rows=batch.rows + rest.rows)
