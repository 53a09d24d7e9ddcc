"""Every row of a table and its copy compared, by the spelling that `canonical.py` gives each value.

Where the source's rowid is a column of the target, rows are compared range by range: SQLite joins some thousand lines,
PostgreSQL hashes the same lines (SHA-256), and only the hash travels; a range that differs is looked at row by row, by
its key. Other tables are compared as multisets: each row's hash is added up in a bucket, on both sides in one pass, and
buckets that differ are looked at. Measured on 500,000 rows of 11 columns: PostgreSQL hashes 0.7 M rows/s, as many as
it sends in a COPY (0.8 M) that moves 100 bytes a row to the client where the hash moves none.
"""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import psycopg

from dbscale.drivers.postgres import Connection
from dbscale.drivers.source import Reader, Value
from dbscale.errors import SourceError
from dbscale.migrate import canonical, encode
from dbscale.migrate.encode import STORAGES, WIDE, Encoder, Range, Row
from dbscale.migrate.row_key import canonical_key, row_key
from dbscale.migrate.verify_records import Records
from dbscale.plan import Load
from dbscale.schema import quote

Kind = Literal["missing", "extra", "different"]
Spelled = tuple[str | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One row that is not the same on both sides."""

    kind: Kind
    """missing: not in the target; extra: not in the source; different: in both, with another value."""
    key: str
    """`id = 5`; for a table without a key, the row's values."""
    column: str = ""
    """The target's column, where the kind is `different`."""
    source: str = ""
    target: str = ""
    """Both values, printable and cut to 80 characters."""


@dataclass(slots=True, kw_only=True)
class RowsReport:
    """What was found out about one table."""

    table: str
    target: str
    source_rows: int = 0
    target_rows: int = 0
    quarantined: int = 0
    """Rows of the source that were kept apart, and are not expected in the target."""
    missing: int = 0
    extra: int = 0
    different: int = 0
    samples: list[Difference] = field(default_factory=list)
    complete: bool = True
    """False: more rows differ than were looked at, and the counts are the least that there are."""
    seconds: float = 0.0

    @property
    def same(self) -> bool:
        """Whether every row is in both, with the same values."""
        return not (self.missing or self.extra or self.different) and self.complete

    def add(self, other: RowsReport, samples: int) -> None:
        """Take in what was found in another part of the table."""
        self.source_rows += other.source_rows
        self.target_rows += other.target_rows
        self.quarantined += other.quarantined
        self.missing += other.missing
        self.extra += other.extra
        self.different += other.different
        self.samples = (self.samples + other.samples)[:samples]
        self.complete &= other.complete
        self.seconds += other.seconds


@dataclass(frozen=True, slots=True)
class _Lines:
    """Neighbouring rows of the source, spelled: every row of the numbers from `first` to `last`."""

    first: int
    last: int
    rows: int
    usual: bool
    """Whether SQLite could spell every row, and none of them was kept apart."""
    lines: bytes
    documents: tuple[Value, ...]
    """For each jsonb column, its documents."""


class TableCheck:
    """Compares one table. Shared by threads: each call brings a reader and a connection of its own."""

    def __init__(
        self,
        reader: Reader,
        load: Load,
        *,
        encoding: str,
        floats: bool,
        apart: Collection[str] = (),
        samples: int = 20,
    ) -> None:
        self.load = load
        self.encoder = Encoder(load, reader.library, reader.function_arguments, encoding=encoding)
        self.encoding = self.encoder.encoding
        self._apart = frozenset(apart)
        self.samples = samples
        self._step = reader.function_arguments - 1
        self.target = quote(load.schema, load.target)
        self.plain = [column for column in load.columns if not canonical.is_jsonb(column.conversion)]
        self.json = [column for column in load.columns if canonical.is_jsonb(column.conversion)]
        self._number = self._rowid_column(reader)
        self._apart_numbers = sorted(json.loads(key)[load.key[0]] for key in apart) if self._number else []
        self.line = self._line_sql(reader.library, floats=floats)
        self.records = Records.of(reader, load, encoding)
        self.target_line = canonical.target_line(
            [(quote(column.target), column.conversion.to) for column in self.plain]
        )

    @property
    def by_range(self) -> bool:
        """Whether the table can be compared range by range, several at once."""
        return bool(self._number)

    def report(self) -> RowsReport:
        """An empty report on this table."""
        return RowsReport(table=self.load.table, target=f"{self.load.schema}.{self.load.target}")

    def _rowid_column(self, reader: Reader) -> str:
        """The target's column that holds the source's rowid as it is; empty when there is none."""
        if not self.load.rowid or len(self.load.key) != 1:
            return ""
        column = next((column for column in self.load.columns if column.source == self.load.key[0]), None)
        if column is None or column.conversion.integers != "keep" or column.conversion.to != "bigint":
            return ""
        # only an alias of the rowid is looked up in the table's own tree
        sql = f"EXPLAIN QUERY PLAN SELECT 1 FROM {quote(self.load.table)} WHERE {quote(column.source)} = 1"
        alias = any("INTEGER PRIMARY KEY" in str(row[-1]) for row in reader.rows(sql))
        return column.target if alias else ""

    def _line_sql(self, library: tuple[int, int, int], *, floats: bool) -> str:
        """The source's row as a line; NULL where SQLite cannot spell a value."""
        utf8 = self.encoding == "UTF-8"
        spellings = [
            canonical.source_sql(f"s.{quote(column.source)}", column.conversion, library, floats=floats, utf8=utf8)
            for column in self.load.columns
        ]
        tests = [spelling.test for spelling in spellings]
        if self.load.widest > WIDE:
            tests += [
                f"ifnull(length(CAST(s.{quote(column.source)} AS BLOB)),0)<={WIDE}" for column in self.load.columns
            ]
        plain = [
            spelling for column, spelling in zip(self.load.columns, spellings, strict=True) if column in self.plain
        ]
        parts = [plain[start : start + self._step] for start in range(0, len(plain), self._step)]
        pieces = [
            f"format('{','.join('%Q' if spelling.quoted else '%s' for spelling in part)}',"
            f"{','.join(spelling.text for spelling in part)})"
            for part in parts
        ]
        line = "||','||".join(pieces) or "''"
        return f"CASE WHEN {encode.all_of(tests)} THEN {line} END"

    # ── by range ──────────────────────────────────────────────────────────────────────────────────────────────────

    def check_range(
        self, reader: Reader, connection: Connection, part: Range, progress: Callable[[int], None] = lambda _: None
    ) -> RowsReport:
        """Compare the rows of a range of rowids. `progress` hears how many rows were compared since the last call."""
        if self.records is None:
            return self._by_lines(reader, connection, part, progress)
        report = self.report()
        key = quote(self._number)
        if not self.has_apart and (same := self.records.same_rows(reader, connection, part, key)) is not None:
            report.source_rows = report.target_rows = same
            progress(same)
            return report
        for first, last, rows, equal in self.records.compared(reader, connection, part, key):
            if equal and not self._holds_apart(first, last):
                report.source_rows += rows
                report.target_rows += rows
            else:
                around = Range(first, last + 1 if last < 2**63 - 1 else None)
                report.add(self._by_lines(reader, connection, around), self.samples)
            progress(rows)
        return report

    def _by_lines(
        self, reader: Reader, connection: Connection, part: Range, progress: Callable[[int], None] = lambda _: None
    ) -> RowsReport:
        """`check_range` by lines that SQL spells."""
        report = self.report()
        pending: tuple[_Lines, Future[bool]] | None = None
        # PostgreSQL hashes one batch while SQLite spells the next
        with ThreadPoolExecutor(max_workers=1) as other:
            for batch in chain(self._batches(reader, part), [None]):
                if pending:
                    before, equal = pending
                    self._settle(reader, connection, before, report, equal=equal.result())
                    progress(before.rows)
                pending = (batch, other.submit(self._equal, connection, batch)) if batch else None
        return report

    def _settle(
        self, reader: Reader, connection: Connection, batch: _Lines, report: RowsReport, *, equal: bool
    ) -> None:
        if equal:
            report.source_rows += batch.rows
            report.target_rows += batch.rows
        else:
            self._compare_rows(reader, connection, (batch.first, batch.last), report)

    def _batches(self, reader: Reader, part: Range) -> Iterator[_Lines]:
        """The lines of a range; the ends of the batches leave no number out, whether there are rows or not."""
        rowid = f"s.{quote(self.load.rowid)}"
        among = (
            f"FROM {quote(self.load.table)} AS s WHERE {rowid} BETWEEN ? AND ?{self.encoder.only}"
            f" ORDER BY {rowid} LIMIT ?"
        )
        documents = [canonical.source_json(f"s.{quote(column.source)}", column.conversion) for column in self.json]
        inner = "".join(f", {document} AS j{i}" for i, document in enumerate(documents))
        outer = "".join(f", CAST(group_concat(j{i},',') AS BLOB)" for i in range(len(documents)))
        sql = (
            f"SELECT CAST(group_concat(r,char(10)) AS BLOB), count(*), count(r), max(k){outer}"
            f" FROM (SELECT {rowid} AS k, {self.line} AS r{inner} {among})"
        )
        counted = f"SELECT NULL, count(*), -1, max(k) FROM (SELECT {rowid} AS k {among})"
        first = -(2**63) if part.lower is None else part.lower
        upper = 2**63 - 1 if part.upper is None else part.upper - 1
        while first <= upper:
            most = self.encoder.fitting(reader, among, (first, upper))
            lines, rows, regular, last, *texts = self._read(reader, sql, counted, (first, upper, most))
            end = last if isinstance(last, int) else upper
            count = rows if isinstance(rows, int) else 0
            usual = rows == regular and not self._holds_apart(first, end)
            yield _Lines(first, end, count, usual, self.utf8(lines), tuple(texts))
            first = end + 1

    def _read(self, reader: Reader, sql: str, counted: str, parameters: tuple[int, int, int]) -> tuple[Value, ...]:
        """One batch of lines; of fewer rows where the source cannot make that many, and last only their count.

        A libSQL server makes no value above its limit, and a blob that is no JSONB stops json().
        """
        first, upper, most = parameters
        while most:
            try:
                return next(reader.rows(sql, (first, upper, most)))
            except SourceError:
                most //= 2
        return next(reader.rows(counted, (first, upper, 1)))

    def _holds_apart(self, first: int, last: int) -> bool:
        place = bisect.bisect_left(self._apart_numbers, first)
        return place < len(self._apart_numbers) and self._apart_numbers[place] <= last

    def _equal(self, connection: Connection, batch: _Lines) -> bool:
        """Whether the target holds just these rows between their ends."""
        if not batch.usual:
            return False
        key = quote(self._number)
        sums = [f"string_agg(r, E'\\n' ORDER BY {key})"]
        sums += [f"string_agg(coalesce(j{i}::text,''), E'\\n' ORDER BY {key})" for i in range(len(self.json))]
        hashes = ", ".join(f"sha256(convert_to({total},'UTF8'))" for total in sums)
        names = "".join(f", {quote(column.target)} AS j{i}" for i, column in enumerate(self.json))
        sql = (
            f"SELECT count(*), {hashes} FROM (SELECT {key}, {self.target_line} AS r{names}"
            f" FROM {self.target} WHERE {key} BETWEEN {batch.first} AND {batch.last}) AS t"
        )
        count, *found = one(connection, sql)
        if count != batch.rows or not count:
            return bool(count == batch.rows)
        if found[0] != hashlib.sha256(batch.lines).digest():
            return False
        return all(
            hash_ == self._documents_hash(connection, document)
            for hash_, document in zip(found[1:], batch.documents, strict=True)
        )

    def _documents_hash(self, connection: Connection, documents: Value) -> bytes | None:
        """The hash of a jsonb column's values as PostgreSQL prints them; None where it does not take them."""
        sql = (
            "SELECT sha256(convert_to(string_agg(coalesce((e->0)::text,''), E'\\n' ORDER BY n),'UTF8'))"
            " FROM jsonb_array_elements(%s::text::jsonb) WITH ORDINALITY AS x(e,n)"
        )
        try:
            with connection.transaction():
                (found,) = one(connection, sql, f"[{self.utf8(documents).decode()}]")
        except (psycopg.DataError, UnicodeDecodeError):
            return None
        return bytes(found)

    def utf8(self, lines: Value) -> bytes:
        """What SQLite cast to a blob, in UTF-8; of broken text something that equals nothing."""
        raw = lines if isinstance(lines, bytes) else b""
        return raw if self.encoding == "UTF-8" else raw.decode(self.encoding, "replace").encode()

    def _compare_rows(self, reader: Reader, connection: Connection, ends: tuple[int, int], report: RowsReport) -> None:
        """Compare row by row, by the key."""
        source: dict[int, Row] = {}
        for row in self.encoder.stored(reader, *ends):
            report.source_rows += 1
            if self.is_apart(row):
                report.quarantined += 1
            elif row.rowid is not None:
                source[row.rowid] = row
        key = quote(self._number)
        between = f"WHERE {key} BETWEEN {ends[0]} AND {ends[1]}"
        sql = f"SELECT {key}, {', '.join(self.target_cells())} FROM {self.target} {between}"
        for number, *cells in connection.execute(sql.encode()):
            report.target_rows += 1
            row_ = source.pop(number, None)
            label = f"{self._number} = {number}"
            if row_ is None:
                report.extra += 1
                self.sample(report, Difference(kind="extra", key=label))
                continue
            columns = self.differing(row_, cells)
            report.different += bool(columns)
            for place in columns if len(report.samples) < self.samples else ():
                self.sample(report, self.difference(connection, row_, place, f"{key} = {number}", label))
        report.missing += len(source)
        for number in list(source)[: self.samples]:
            self.sample(report, Difference(kind="missing", key=f"{self._number} = {number}"))

    def target_cells(self) -> list[str]:
        """SQL for each of the target's columns as verify spells it."""
        return [
            canonical.target_sql(quote(column.target), column.conversion.to, whole=False)
            for column in self.load.columns
        ]

    def spelled(self, row: Row) -> Spelled:
        """A source's row, spelled by Python."""
        return tuple(
            canonical.spell(value, STORAGES[tag], column.conversion, self.encoding)  # type: ignore[arg-type]
            for value, tag, column in zip(row.values, row.tags, self.load.columns, strict=True)
        )

    def differing(self, row: Row, cells: Sequence[str | None]) -> list[int]:
        """The places of the columns in which a source's row and the target's spelled cells differ."""
        places = []
        for place, (column, mine, theirs) in enumerate(zip(self.load.columns, self.spelled(row), cells, strict=True)):
            to = column.conversion.to
            if canonical.is_jsonb(column.conversion) and theirs is not None:
                theirs = canonical.json_spelling(theirs)  # noqa: PLW2901
            if canonical.shortened(mine, to) != theirs:
                places.append(place)
        return places

    def difference(self, connection: Connection, row: Row, place: int, where: str, label: str) -> Difference:
        column = self.load.columns[place]
        sql = f"SELECT left({quote(column.target)}::text, 81) FROM {self.target} WHERE {where} LIMIT 1"
        (theirs,) = one(connection, sql)
        return Difference(
            kind="different",
            key=label,
            column=column.target,
            source=printable(row.values[place], row.tags[place], self.encoding),
            target="NULL" if theirs is None else cut(str(theirs)),
        )

    def sample(self, report: RowsReport, difference: Difference) -> None:
        if len(report.samples) < self.samples:
            report.samples.append(difference)

    @property
    def has_apart(self) -> bool:
        """Whether rows of the table were kept apart."""
        return bool(self._apart)

    def is_apart(self, row: Row) -> bool:
        """Whether a source's row was kept apart."""
        return bool(self._apart) and canonical_key(row_key(self.load, row)) in self._apart


def printable(value: Value, tag: str, encoding: str) -> str:
    """A stored value for people: text as it is, a blob in hex, at most 80 characters."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        if tag == "b":
            return cut(f"x'{value[:48].hex()}'") if len(value) <= 48 else f"x'{value[:36].hex()}…'"
        return cut(value[:400].decode(encoding, "replace"))
    return str(value)


def cut(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"


def one(connection: Connection, sql: str, *parameters: str) -> tuple[Any, ...]:
    """The one row of a query."""
    row = connection.execute(sql.encode(), parameters or None).fetchone()
    assert row is not None  # noqa: S101 - an aggregate has a row
    return row
