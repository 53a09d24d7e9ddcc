"""Batches of COPY input that SQLite writes itself: Python sees one `bytes` per some thousand rows, and never a row.

A row whose cells all have a usual form becomes a line of CSV; any other makes `CASE WHEN … END` NULL, which
`group_concat` leaves out and `count` tells. Those are read again as raw values, and `convert.py` writes or refuses
them. The inner SELECT has a LIMIT, so SQLite runs it as a co-routine and works the row out once, though it is counted
beside being joined (1.2 M rows/s on one core of a sample with 11 columns, as fast as without the counts).

Where a table's rows go to several databases, the inner SELECT works out each row's share beside it, and each share has
aggregates of its own (FILTER): one read of the source gives a batch for each.
"""

from __future__ import annotations

import binascii
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import cast

from dbscale.drivers.source import Reader, TooLarge, Value
from dbscale.errors import SourceError
from dbscale.migrate import cells, convert
from dbscale.migrate.convert import Refusal
from dbscale.plan import Load, LoadColumn
from dbscale.schema import columns_sql, quote

COPY_OPTIONS = "FORMAT csv, QUOTE '''', ESCAPE '''', NULL 'NULL', ENCODING 'UTF8'"
BATCH_BYTES = 2 << 20
MOST_ROWS = 16_384
WIDE = 4 << 20
"""Values of more bytes are read raw, one row at a time, so that SQLite makes no copies of them."""
MEMORY = 48 << 20
"""The most bytes of values that one batch reads."""
OCTET_LENGTH = (3, 43)
TAGS = {"null": "n", "integer": "i", "real": "r", "text": "t", "blob": "b"}
STORAGES = {tag: storage for storage, tag in TAGS.items()}


@dataclass(frozen=True, slots=True)
class Range:
    """Rows whose rowid is at least `lower` and below `upper`; None is no bound. Both None: the whole table."""

    lower: int | None = None
    upper: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A row that is not written, and the value for which it is not."""

    rowid: int | None
    key: tuple[Value, ...]
    """The values of `Load.key`; text as str where it is UTF-8, else bytes."""
    column: str
    storage: str
    raw: bytes
    """The value: a blob or text as stored, a number as its digits."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Neighbouring rows. `rows` counts those in `data`; with the refused ones they are all that the source holds."""

    data: bytes
    rows: int
    rest: bytes = b""
    """Rows that come after those in `data`, as CSV where `data` is binary; `rows` counts them, too."""
    binary: bool = False
    """`data` is in COPY's binary form (pgcopy.py), without its header and trailer."""
    refused: tuple[Refused, ...] = ()
    first: int | None = None
    """With `last`, the rowids between which all rows of the batch lie; without a rowid, how many rows came before."""
    last: int | None = None
    share: int = 0
    """Whose rows they are: a place in the encoder's `shares`."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it is stored: text as its bytes, and for each value the first letter of its class."""

    rowid: int | None
    key: tuple[Value, ...]
    tags: str
    values: tuple[Value, ...]


class Encoder:
    """Writes the rows of one table as input of `copy_sql`.

    `library` and `function_arguments` are the reader's; `encoding` is the source's (`pragma encoding`). `shares` are
    conditions as `Load.where` has them, of which one is true of each row: each batch is of one share. None: all are.
    """

    form = "csv"

    def __init__(
        self,
        load: Load,
        library: tuple[int, int, int],
        function_arguments: int,
        *,
        encoding: str = "UTF-8",
        batch_bytes: int = BATCH_BYTES,
        shares: Sequence[str] = (),
    ) -> None:
        self.load = load
        self.encoding = encoding.upper()
        self._library = library
        self._arguments = function_arguments
        average = load.bytes / load.rows if load.rows else 256
        self.most = max(1, min(MOST_ROWS, int(batch_bytes / max(average, 1))))
        self._table = f"{quote(load.table)} AS s"
        self.only = f" AND ({load.where})" if load.where else ""
        self.shares = tuple(shares) or ("",)
        # Since every row is in one, that with the longest condition need not be asked for.
        left = max(range(len(self.shares)), key=lambda share: len(self.shares[share]))
        cases = " ".join(f"WHEN {sql} THEN {share}" for share, sql in enumerate(self.shares) if share != left)
        self._share = f"CASE {cases} ELSE {left} END" if cases else "0"
        self._row = self._row_sql()

    @property
    def copy_sql(self) -> str:
        """The COPY statement whose input the batches are."""
        names = columns_sql(tuple(column.target for column in self.load.columns))
        return f"COPY {quote(self.load.schema, self.load.target)} ({names}) FROM STDIN ({COPY_OPTIONS})"

    def batches(self, reader: Reader, part: Range = Range()) -> Iterator[Batch]:
        """The rows of `part`, in batches of about `batch_bytes`."""
        if self.load.rowid:
            return self._by_rowid(reader, part)
        return self._in_one_pass(reader)

    def singles(self, reader: Reader, batch: Batch) -> Iterator[tuple[Row, Batch]]:
        """The rows of a batch one by one, each as a batch of its own: to find the one that PostgreSQL refuses."""
        for row in self._raw(reader, batch):
            yield row, self._written([row], batch)

    def stored(self, reader: Reader, first: int, last: int) -> Iterator[Row]:
        """The rows from `first` to `last` (rowids, or places in the pass) as they are stored."""
        return self._raw(reader, Batch(data=b"", rows=0, first=first, last=last))

    def refused(self, row: Row, reason: str, column: str = "") -> Refused:
        """What to record of a row that PostgreSQL refused; `column` is the target's, empty when it did not say."""
        place = next((i for i, entry in enumerate(self.load.columns) if entry.target == column), None)
        if place is None:
            return Refused(rowid=row.rowid, key=row.key, column="", storage="null", raw=b"", reason=reason)
        return self._refused(row, place, reason)

    def _row_sql(self) -> str:
        """A row's line, NULL when a cell has no usual form."""
        written = [
            cells.cell(_name(column), column.conversion, self._library, utf8=self.encoding == "UTF-8")
            for column in self.load.columns
        ]
        tests = [cell.test for cell in written]
        if self.load.widest > WIDE:
            tests += [
                f"({self._length(column)} IS NULL OR {self._length(column)}<={WIDE})" for column in self.load.columns
            ]
        pieces = []
        step = self._arguments - 1
        for start in range(0, len(written), step):
            part = written[start : start + step]
            end = "," if start + step < len(written) else "\n"
            directives = ",".join(cell.directive for cell in part)
            pieces.append(f"format('{directives}{end}',{','.join(cell.argument for cell in part)})")
        return f"CASE WHEN {all_of(tests)} THEN {'||'.join(pieces)} END"

    def _length(self, column: LoadColumn) -> str:
        """The bytes of a value, without reading it where SQLite can tell."""
        name = _name(column)
        return f"octet_length({name})" if self._library >= OCTET_LENGTH else f"length(CAST({name} AS BLOB))"

    def _by_rowid(self, reader: Reader, part: Range) -> Iterator[Batch]:
        rowid = f"s.{quote(self.load.rowid)}"
        among = f"FROM {self._table} WHERE {rowid} BETWEEN ? AND ?{self.only} ORDER BY {rowid} LIMIT ?"
        sql, spanned = self._batch_sql(rowid, among), self._spanned_sql()
        dense = could_be = bool(spanned) and self.most * self.load.widest <= MEMORY
        first, last = _inclusive(part)
        limit = self.most
        while first <= last:
            most = min(limit, self.fitting(reader, among, (first, last)))
            until = min(last, first + most - 1)
            asked = (spanned, (first, until)) if dense else (sql, (first, last, most))
            try:
                batches = list(self._batches(reader, next(reader.rows(*asked))))
            except TooLarge:  # what SQL joins, or makes of one value, is above the source's limit
                if most > 1:
                    limit = most // 2
                    continue
                batches, dense = [self._alone(reader, first, last)], False
            yield from batches
            if not dense:
                until = as_int(batches[0].last) if batches else last
            rows = sum(batch.rows + len(batch.refused) for batch in batches)
            dense = could_be and rows * 2 > until - first
            first = until + 1
            limit = min(self.most, limit * 2)

    def _spanned_sql(self) -> str:
        """A SELECT that writes all rows between two rowids, for where most rowids are taken; empty where the form of
        `_batch_sql` is as fast."""
        return ""

    def _batch_sql(self, rowid: str, among: str) -> str:
        """A SELECT that writes the next rows; `among` names them."""
        of_all = (
            f"CAST(group_concat(r,''){of_it} AS BLOB), count(*){of_it}, count(r){of_it}" for of_it in self._filters()
        )
        return (
            f"SELECT min(k), max(k), {', '.join(of_all)}"
            f" FROM (SELECT {rowid} AS k, {self._row} AS r, {self._share} AS o {among})"
        )

    def _filters(self, owner: str = "o") -> list[str]:
        """What makes an aggregate one of each share in turn; `owner` is the SQL of a row's share."""
        if len(self.shares) == 1:
            return [""]
        return [f" FILTER (WHERE {owner}={share})" for share in range(len(self.shares))]

    def _batches(self, reader: Reader, found: Sequence[Value]) -> Iterator[Batch]:
        """The batches that `_batch_sql` wrote, with the rows it left out; none where there are no more rows."""
        least, greatest, *of_all = found
        if least is None:
            return
        for share in range(len(self.shares)):
            data, rows, written = of_all[3 * share : 3 * share + 3]
            if rows:
                raw = data if isinstance(data, bytes) else b""
                place = Batch(data=raw, rows=as_int(written), first=as_int(least), last=as_int(greatest), share=share)
                yield self._completed(reader, place, as_int(rows))

    def _alone(self, reader: Reader, first: int, last: int) -> Batch:
        """The next row, from its raw values."""
        rowid = f"s.{quote(self.load.rowid)}"
        sql = f"SELECT {rowid}, {self._share} FROM {self._table} WHERE {rowid} BETWEEN ? AND ?{self.only}"
        number, share = map(as_int, next(reader.rows(f"{sql} ORDER BY {rowid} LIMIT 1", (first, last))))
        place = Batch(data=b"", rows=0, first=number, last=number, share=share)
        try:
            return self._written(self._raw(reader, place), place)
        except TooLarge as error:
            raise SourceError(
                f"the source does not give out row {number}: {error.says}",
                where=self.load.table,
                try_=error.try_ or "migrate from a copy of the database's file",
            ) from error

    def fitting(self, reader: Reader, among: str, parameters: tuple[int, int]) -> int:
        """How many of the next rows one batch may take, so that wide values do not come many at a time.

        `among` is what follows the SELECT list of a query over the table `AS s`, and ends in `LIMIT ?`.
        """
        most = self.most
        if most * self.load.widest <= MEMORY:
            return most
        lengths = "+".join(f"ifnull({self._length(column)},0)" for column in self.load.columns)
        total = taken = 0
        for (length,) in reader.rows(f"SELECT {lengths} {among}", (*parameters, most)):
            total += as_int(length)
            if total > MEMORY // 4 and taken:
                break
            taken += 1
        return max(taken, 1)

    def _completed(self, reader: Reader, batch: Batch, rows: int) -> Batch:
        """A batch that SQL wrote of `rows` rows, with those it left out; all of it from raw values if not UTF-8."""
        try:
            if self.encoding != "UTF-8":
                batch = dataclasses.replace(batch, data=batch.data.decode(self.encoding).encode())
            else:
                convert.check_utf8(batch.data)
        except UnicodeDecodeError:
            return self._written(self._raw(reader, batch), batch)
        if rows == batch.rows:
            return batch
        rest = self._written(self._raw(reader, batch, f"AND ({self._row}) IS NULL"), batch)
        data = batch.data + rest.data if batch.data else rest.data
        return dataclasses.replace(rest, data=data, rows=batch.rows + rest.rows)

    def _in_one_pass(self, reader: Reader) -> Iterator[Batch]:
        """A table without a rowid, row by row: there is no number by which to ask for the next thousand."""
        lines = reader.rows(f"SELECT {self._share}, CAST({self._row} AS BLOB) FROM {self._table}{self.order}")
        done = 0
        while taken := list(islice(lines, self.most)):
            for share in range(len(self.shares)):
                of_it = [line for owner, line in taken if owner == share]
                written = [line for line in of_it if line is not None]
                data = b"".join(written)  # type: ignore[arg-type]
                last = done + len(taken) - 1
                if of_it:
                    batch = Batch(data=data, rows=len(written), first=done, last=last, share=share)
                    yield self._completed(reader, batch, len(of_it))
            done += len(taken)

    @property
    def order(self) -> str:
        """Which rows a pass without rowids takes, in an order in which it can be taken up again at a count of rows:
        by the key, or as the table is stored."""
        keys = ",".join(f"s.{quote(name)}" for name in self.load.key)
        rows = f" WHERE ({self.load.where})" if self.load.where else ""
        return rows + (f" ORDER BY {keys}" if keys and not self.load.rowid else "")

    def _raw(self, reader: Reader, batch: Batch, condition: str = "") -> Iterator[Row]:
        """The values of a batch's rows as they are stored."""
        if self.shares[batch.share]:
            condition = f"AND ({self.shares[batch.share]}) {condition}"
        names = [f"s.{quote(name)}" for name in self.load.key] + [_name(column) for column in self.load.columns]
        selected = [f"CASE WHEN typeof({name})='text' THEN CAST({name} AS BLOB) ELSE {name} END" for name in names]
        for place, column in enumerate(self.load.columns, len(self.load.key)):
            if column.conversion.blobs == "jsonb" and self._library >= cells.JSONB:
                name = names[place]
                selected[place] = (
                    f"CASE WHEN json_valid({name},8) THEN CAST(json({name}) AS BLOB) ELSE {selected[place]} END"
                )
        tags = [f"substr(typeof({name}),1,1)" for name in names]
        rowid = f"s.{quote(self.load.rowid)}" if self.load.rowid else "NULL"
        sql = f"SELECT {rowid}, {_concatenated(tags, self._arguments)}, {', '.join(selected)} FROM"
        assert batch.first is not None  # noqa: S101 - every batch that has rows says which
        assert batch.last is not None  # noqa: S101
        if self.load.rowid:
            found = reader.rows(
                f"{sql} {self._table} WHERE {rowid} BETWEEN ? AND ?{self.only} {condition}", (batch.first, batch.last)
            )
        else:
            inner = f"(SELECT * FROM {self._table}{self.order} LIMIT ? OFFSET ?) AS s"
            limits = (batch.last - batch.first + 1, batch.first)
            found = reader.rows(f"{sql} {inner} WHERE 1 {condition}", limits)
        if batch.first == batch.last:
            found = iter(list(found))  # SQLite lets go of a value that may be large
        keys = len(self.load.key)
        for number, marks, *values in found:
            assert isinstance(marks, str)  # noqa: S101 - typeof is never NULL
            key = tuple(_key_value(*each, self.encoding) for each in zip(values[:keys], marks, strict=False))
            yield Row(number if isinstance(number, int) else None, key, marks[keys:], tuple(values[keys:]))

    def _written(self, rows: Iterable[Row], place: Batch) -> Batch:
        """Rows of the batch `place` that Python writes, value by value."""
        lines: list[bytes] = []
        refused: list[Refused] = []
        for row in rows:
            try:
                lines.append(self._line(row))
            except _RefusedCell as refusal:
                refused.append(self._refused(row, refusal.place, str(refusal)))
        return Batch(
            data=lines[0] if len(lines) == 1 else b"".join(lines),
            rows=len(lines),
            refused=tuple(refused),
            first=place.first,
            last=place.last,
            share=place.share,
        )

    def _line(self, row: Row) -> bytes:
        """A row of CSV. A large value is written piece by piece, so that it is held once as read and once as sent."""
        line = bytearray()
        for place, (column, value, tag) in enumerate(zip(self.load.columns, row.values, row.tags, strict=True)):
            assert not isinstance(value, str)  # noqa: S101 - text was asked for as its bytes
            conversion = column.conversion
            if tag == "b" and isinstance(value, bytes) and convert.is_plain_bytes(conversion):
                line += b"'\\x"
                for start in range(0, len(value), convert.PIECE):
                    line += binascii.hexlify(value[start : start + convert.PIECE])
                line += b"',"
                continue
            try:
                cell = convert.convert(value, STORAGES[tag], conversion, self.encoding)
            except Refusal as refusal:
                raise _RefusedCell(str(refusal), place) from refusal
            if cell is None:
                line += b"NULL,"
                continue
            line += b"'"
            for start in range(0, len(cell), convert.PIECE):
                line += cell[start : start + convert.PIECE].replace(b"'", b"''")
            line += b"',"
        line[-1:] = b"\n"
        # what takes it takes any buffer: a large one is not copied once more
        return cast("bytes", line) if len(line) > WIDE else bytes(line)

    def _refused(self, row: Row, place: int, reason: str) -> Refused:
        value = row.values[place]
        return Refused(
            rowid=row.rowid,
            key=row.key,
            column=self.load.columns[place].source,
            storage=STORAGES[row.tags[place]],
            raw=value if isinstance(value, bytes) else b"" if value is None else str(value).encode(),
            reason=reason,
        )


class _RefusedCell(Refusal):
    def __init__(self, reason: str, place: int) -> None:
        super().__init__(reason)
        self.place = place


def ranges(reader: Reader, load: Load, target_rows: int) -> list[Range]:
    """Ranges of rowids of about `target_rows` rows each, which together hold every row that there can be.

    The whole table is one range where there is no rowid, or where it is small.
    """
    if not load.rowid or load.rows <= target_rows:
        return [Range()]
    rowid = quote(load.rowid)
    least, greatest = (_end(reader, load, rowid, order) for order in ("", " DESC"))
    if not isinstance(least, int) or not isinstance(greatest, int):
        return [Range()]
    parts = -(-load.rows // target_rows)
    if greatest - least < 2 * load.rows or load.where:
        # Few gaps: even steps do. With a condition a pass that counts would cost more than uneven parts do.
        bounds = [least + (greatest - least + 1) * part // parts for part in range(1, parts)]
    else:
        bounds = _counted_bounds(reader, load, least, target_rows)
    return [Range(lower, upper) for lower, upper in zip([None, *bounds], [*bounds, None], strict=True)]


def _end(reader: Reader, load: Load, rowid: str, order: str) -> Value:
    """The first rowid in an order, without reading on; None where there is no row."""
    rows = f" WHERE {load.where}" if load.where else ""
    sql = f"SELECT {rowid} FROM {quote(load.table)} AS s{rows} ORDER BY {rowid}{order} LIMIT 1"
    return next((found for (found,) in reader.rows(sql)), None)


def _counted_bounds(reader: Reader, load: Load, least: int, target_rows: int) -> list[int]:
    """Every `target_rows`th rowid: one pass over the table's tree."""
    rowid = quote(load.rowid)
    sql = f"SELECT {rowid} FROM {quote(load.table)} WHERE {rowid} >= ? ORDER BY {rowid} LIMIT 1 OFFSET ?"
    bounds: list[int] = []
    while found := list(reader.rows(sql, (bounds[-1] if bounds else least, target_rows))):
        bounds.append(as_int(found[0][0]))
    return bounds


def _inclusive(part: Range) -> tuple[int, int]:
    first = -(2**63) if part.lower is None else part.lower
    return first, 2**63 - 1 if part.upper is None else part.upper - 1


def _name(column: LoadColumn) -> str:
    # qualified: a quoted name that is no column would be read as a string
    return f"s.{quote(column.source)}"


def all_of(tests: Sequence[str]) -> str:
    """The tests joined by AND as a balanced tree: SQLite allows an expression a depth of 1000."""
    if len(tests) == 1:
        return tests[0]
    middle = len(tests) // 2
    return f"({all_of(tests[:middle])} AND {all_of(tests[middle:])})"


def _concatenated(terms: Sequence[str], arguments: int) -> str:
    """Texts, one after the other."""
    step = arguments - 1
    parts = [terms[start : start + step] for start in range(0, len(terms), step)]
    return "||".join(f"format('{'%s' * len(part)}',{','.join(part)})" for part in parts)


def _key_value(value: Value, tag: str, encoding: str) -> Value:
    if not isinstance(value, bytes) or tag != "t":
        return value
    try:
        return value.decode(encoding)
    except UnicodeDecodeError:
        return value


def as_int(value: Value) -> int:
    assert isinstance(value, int)  # noqa: S101 - asked of a count or a rowid
    return value
