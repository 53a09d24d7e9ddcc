"""What the values of a table are: counts by storage class and by shape, in one scan where all is as expected.

A few rows tell what each column seems to hold. One scan then counts, for every column, how many values are just
that, with two to five cheap aggregates. Only columns where that is not all of them are scanned again, for the
counts of everything else and for sample rows. A rowid alias and STRICT INTEGER and REAL columns need no scan.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice

from dbscale.drivers.source import Reader, Value
from dbscale.errors import SourceError
from dbscale.migrate.model import ColumnProfile, SourceTable, TableProfile
from dbscale.migrate.shapes import StorageClass, shape
from dbscale.schema import quote

CLASSES: tuple[StorageClass, ...] = ("integer", "real", "text", "blob")
NUL = "nul"
"""The label of text with a NUL character, ahead of every shape."""
UTF8_BLOB = "utf8-blob"
"""Asked like a shape: blobs that are UTF-8 without NUL. Python looks, since SQL cannot see it."""
DUPLICATE_KEYS = "json-duplicate-keys"
"""Asked like a shape: JSON texts in which an object has a key twice."""
LONGEST = "longest"
"""Asked like a shape: fills `ColumnProfile.longest`."""
UNFIT_JSON = "json-unfit"
"""Counted with `json-escaped`: those that jsonb refuses (\\u0000, half of a surrogate pair)."""
_MEASURES = (UTF8_BLOB, DUPLICATE_KEYS, LONGEST)
_SNIFF = 200
_AGGREGATES = 900
"""A SELECT: a libSQL server and SQLite take 2000 result columns; registers and SQL length stay small at half."""
_PAIRED = re.compile(r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|[^u])")
_UNFIT = re.compile(r"\\u(?:0000|[dD][89a-fA-F][0-9a-fA-F]{2})")
_DUPLICATES = "EXISTS (SELECT 1 FROM json_tree({x}) WHERE key IS NOT NULL GROUP BY parent, key HAVING count(*) > 1)"


def profile(reader: Reader, table: SourceTable, wanted: Mapping[str, Sequence[str]]) -> TableProfile:
    """What the values of `table` are.

    `wanted` gives for each column to scan the names of the shapes to count (shapes.py, and the measures above),
    the likelier first; a column that it does not name is not looked at. SourceError where the source cannot answer.
    """
    columns = [_Column(reader, name, tuple(wanted[name])) for name in _names(table) if name in wanted]
    expected = _sniff(reader, table, columns)
    rows, found = _first_scan(reader, table, columns, expected)
    odd = [column for column in columns if column.name not in found]
    found |= _second_scan(reader, table, odd)
    for column in columns:
        found[column.name] = _measured(reader, table, column, found[column.name])
    profiles = {name: found.get(name) or _sure(table, name, rows) for name in _names(table)}
    return TableProfile(rows=rows, bytes=table_bytes(reader, table), columns=profiles)


def samples(reader: Reader, table: SourceTable, column: str, condition: str, count: int = 3) -> tuple[str, ...]:
    """Up to `count` rows for which `condition` (SQL) holds, each as `key: value`, cut to fit a line."""
    keys = table.primary_key or ((table.rowid_name,) if table.rowid_name else ())
    shown = ", ".join(_printable(quote(key) if key in table.primary_key else key) for key in keys)
    sql = (
        f"SELECT {_printable(quote(column))}{', ' if shown else ''}{shown} FROM {quote(table.name)} "
        f"WHERE {condition} LIMIT {int(count)}"
    )
    return tuple(_sample(row) for row in reader.rows(sql))


def table_bytes(reader: Reader, table: SourceTable) -> int:
    """About how many bytes the table takes in the file; 0 where SQLite was built without dbstat."""
    if reader.library == (0, 0, 0):
        return 0
    try:
        rows = reader.rows("SELECT pgsize FROM dbstat WHERE name = ? AND aggregate", (table.name,))
        return next((size for (size,) in rows if isinstance(size, int)), 0)
    except SourceError:
        return 0


class _Column:
    """A column to scan: its SQL name, the labels its values can have, in order, and the SQL that labels a value."""

    def __init__(self, reader: Reader, name: str, wanted: tuple[str, ...]) -> None:
        self.name = name
        self.x = quote(name)
        self.measures = tuple(item for item in wanted if item in _MEASURES)
        shapes = [item for item in wanted if item not in _MEASURES and _known(reader, item)]
        self.shapes = {item: shape(item) for item in shapes}
        self.labels: tuple[str, ...] = (NUL, *self.shapes, *CLASSES)

    def condition(self, label: str) -> str:
        """SQL that holds for a value of this class and shape, whatever shapes come before it."""
        if label == NUL:
            return f"(typeof({self.x})='text' AND instr({self.x},char(0))>0)"
        if label in CLASSES:
            return f"typeof({self.x})='{label}'" + (f" AND instr({self.x},char(0))=0" if label == "text" else "")
        asked = self.shapes[label]
        clean = f"instr({self.x},char(0))=0 AND " if asked.storage == "text" else ""
        return f"(typeof({self.x})='{asked.storage}' AND {clean}{asked.sql.replace('{x}', self.x)})"

    def label(self) -> str:
        """SQL for the position of a value's label in `labels`; NULL for NULL."""
        arms = " ".join(f"WHEN {self.condition(label)} THEN {at}" for at, label in enumerate(self.labels))
        return f"CASE WHEN {self.x} IS NULL THEN NULL {arms} END"

    def storage(self, label: str) -> str:
        """The storage class of the values with a label."""
        if label == NUL:
            return "text"
        return label if label in CLASSES else self.shapes[label].storage


def _known(reader: Reader, name: str) -> bool:
    """Whether this SQLite can judge a shape: JSONB came with 3.45."""
    return name != "jsonb-blob" or reader.library >= (3, 45, 0)


def _names(table: SourceTable) -> list[str]:
    return [column.name for column in table.columns]


def _sniff(reader: Reader, table: SourceTable, columns: Sequence[_Column]) -> dict[str, str]:
    """The commonest label of each column in the first rows, by which the first scan is made."""
    expected: dict[str, str] = {}
    for some in _portions(columns, 40):
        counts = {column.name: [0] * len(column.labels) for column in some}
        labels = ", ".join(column.label() for column in some)
        for row in reader.rows(f"SELECT {labels} FROM {quote(table.name)} LIMIT {_SNIFF}"):
            for column, at in zip(some, row, strict=True):
                if isinstance(at, int):
                    counts[column.name][at] += 1
        for column in some:
            tally = counts[column.name]
            best = max(range(len(tally)), key=tally.__getitem__)
            expected[column.name] = column.labels[best] if tally[best] else column.labels[-2]
    return expected


def _first_scan(
    reader: Reader, table: SourceTable, columns: Sequence[_Column], expected: Mapping[str, str]
) -> tuple[int, dict[str, ColumnProfile]]:
    """The number of rows, and the profiles of the columns that hold only what is expected of them."""
    found: dict[str, ColumnProfile] = {}
    rows = 0
    for some in _portions(columns, _AGGREGATES // 5) or [[]]:
        terms = ["count(*)"]
        for column in some:
            label, x = expected[column.name], column.x
            kind = column.storage(label)
            least, greatest = (f"min({x})", f"max({x})") if kind in ("integer", "real") else ("NULL", "NULL")
            widest = f"max(length(CAST({x} AS BLOB)))" if kind == "text" else "NULL"
            widest = f"max(length({x}))" if kind == "blob" else widest
            terms += [f"count({x})", f"total({column.condition(label)})", least, greatest, widest]
        (counts,) = reader.rows(f"SELECT {', '.join(terms)} FROM {quote(table.name)}")
        rows = _int(counts[0])
        for at, column in enumerate(some):
            values, good, least_, greatest_, widest_ = counts[1 + 5 * at : 6 + 5 * at]
            label = expected[column.name]
            if _int(values) == _int(good):
                found[column.name] = _profile(
                    column, {label: _int(values)}, rows, (_number(least_), _number(greatest_)), _int(widest_)
                )
    return rows, found


def _second_scan(reader: Reader, table: SourceTable, columns: Sequence[_Column]) -> dict[str, ColumnProfile]:
    """Whole profiles, with samples, of the columns that hold different things."""
    found: dict[str, ColumnProfile] = {}
    for some in _portions(columns, 30):
        labels = ", ".join(f"{column.x} AS v{at}, {column.label()} AS l{at}" for at, column in enumerate(some))
        terms = ["count(*)"]
        for at, column in enumerate(some):
            terms += [f"total(l{at}={label})" for label in range(len(column.labels))]
            number = f"CASE WHEN typeof(v{at}) IN ('integer','real') THEN v{at} END"
            terms += [f"min({number})", f"max({number})", f"max(length(CAST(v{at} AS BLOB)))"]
        # LIMIT keeps SQLite from merging the two SELECTs, which would label a value once for every count.
        inner = f"SELECT {labels} FROM {quote(table.name)} LIMIT -1"
        (row,) = reader.rows(f"SELECT {', '.join(terms)} FROM ({inner})")
        numbers = iter(row)
        rows = _int(next(numbers))
        for column in some:
            counts = dict(zip(column.labels, map(_int, islice(numbers, len(column.labels))), strict=True))
            least, greatest, widest = islice(numbers, 3)
            shown = {
                label: samples(reader, table, column.name, f"{column.label()}={at}")
                for at, label in enumerate(column.labels)
                if counts[label]
            }
            ends = (_number(least), _number(greatest))
            found[column.name] = _profile(column, counts, rows, ends, _int(widest), shown=shown)
    return found


def _profile(
    column: _Column,
    counts: Mapping[str, int],
    rows: int,
    ends: tuple[int | float | None, int | float | None],
    widest: int,
    *,
    shown: Mapping[str, tuple[str, ...]] | None = None,
) -> ColumnProfile:
    by_class = dict.fromkeys(CLASSES, 0)
    for label, count in counts.items():
        by_class[column.storage(label)] += count  # type: ignore[index]
    return ColumnProfile(
        nulls=rows - sum(by_class.values()),
        integers=by_class["integer"],
        reals=by_class["real"],
        texts=by_class["text"],
        blobs=by_class["blob"],
        least=ends[0],
        greatest=ends[1],
        widest=widest or (8 if by_class["integer"] + by_class["real"] else 0),
        empty=counts.get("empty", 0),
        nul=counts.get(NUL, 0),
        shapes={label: counts.get(label, 0) for label in column.shapes},
        samples=dict(shown or {}),
    )


def _measured(reader: Reader, table: SourceTable, column: _Column, seen: ColumnProfile) -> ColumnProfile:
    """The profile with what was asked for beyond shapes, each only where there is something to measure."""
    shapes = dict(seen.shapes)
    longest = seen.longest
    x, source = column.x, quote(table.name)
    if LONGEST in column.measures and seen.texts:
        ((value,),) = reader.rows(f"SELECT max(length({x})) FROM {source} WHERE typeof({x})='text'")
        longest = _int(value)
    if DUPLICATE_KEYS in column.measures and shapes.get("json", 0) + shapes.get("json-escaped", 0):
        valid = f"typeof({x})='text' AND json_valid({x}) AND {_DUPLICATES.replace('{x}', x)}"
        ((value,),) = reader.rows(f"SELECT count(*) FROM {source} WHERE {valid}")
        shapes[DUPLICATE_KEYS] = _int(value)
    if shapes.get("json-escaped"):
        texts = reader.rows(f"SELECT {x} FROM {source} WHERE {column.condition('json-escaped')}")
        shapes[UNFIT_JSON] = sum(1 for (text,) in texts if isinstance(text, str) and not fits_jsonb(text))
    if UTF8_BLOB in column.measures and seen.blobs:
        blobs = reader.rows(f"SELECT {x} FROM {source} WHERE typeof({x})='blob'")
        shapes[UTF8_BLOB] = sum(1 for (blob,) in blobs if isinstance(blob, bytes) and _is_text(blob))
    if shapes == seen.shapes and longest == seen.longest:
        return seen
    fields = {name: getattr(seen, name) for name in seen.__dataclass_fields__}
    return ColumnProfile(**(fields | {"shapes": shapes, "longest": longest}))


def fits_jsonb(text: str) -> bool:
    """Whether valid JSON has no escape that jsonb refuses: `\\u0000`, or half of a surrogate pair."""
    return _UNFIT.search(_PAIRED.sub("", text)) is None


def _is_text(blob: bytes) -> bool:
    try:
        return "\0" not in blob.decode()
    except UnicodeDecodeError:
        return False


def _sure(table: SourceTable, name: str, rows: int) -> ColumnProfile:
    """The profile of a column that was not scanned: a rowid alias has no NULL and no other class."""
    if name == table.rowid_column:
        return ColumnProfile(integers=rows)
    return ColumnProfile()


def _portions(columns: Sequence[_Column], size: int) -> list[Sequence[_Column]]:
    return [columns[start : start + size] for start in range(0, len(columns), size)]


def _printable(x: str) -> str:
    """SQL for a value as a person can read it: text as it is where it has no NUL, else as hex."""
    return (
        f"CASE typeof({x}) WHEN 'blob' THEN 'x''' || hex(substr({x},1,24)) || '''' "
        f"WHEN 'text' THEN CAST(substr({x},1,60) AS BLOB) ELSE quote({x}) END"
    )


def _sample(row: Sequence[Value]) -> str:
    """`key: value` of a row of `_printable` terms."""
    value, *key = (item.decode(errors="backslashreplace") if isinstance(item, bytes) else item for item in row)
    shown = repr(value) if isinstance(row[0], bytes) else str(value)
    return f"{', '.join(str(part) for part in key)}: {shown}" if key else shown


def _int(value: Value) -> int:
    return int(value) if isinstance(value, int | float) else 0


def _number(value: Value) -> int | float | None:
    return value if isinstance(value, int | float) else None
