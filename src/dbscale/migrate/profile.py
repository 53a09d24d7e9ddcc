"""What the values of a table are: counts by storage class and by shape, in one scan where all is as expected.

A few rows tell what each column seems to hold. One scan then counts, for every column, how many values are just
that, with two to five cheap aggregates. Only columns where that is not all of them are scanned again, for the
counts of everything else and for sample rows. A rowid alias and STRICT INTEGER and REAL columns need no scan.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

from dbscale.drivers.source import Reader, Value
from dbscale.errors import SourceError
from dbscale.migrate import scan
from dbscale.migrate.cells import repeated_keys
from dbscale.migrate.model import ColumnProfile, SourceColumn, SourceTable, TableProfile
from dbscale.migrate.shapes import EXACT, SHAPES, StorageClass, shape
from dbscale.schema import quote

CLASSES: tuple[StorageClass, ...] = ("integer", "real", "text", "blob")
NUL = "nul"
"""The label of text with a NUL character, ahead of every shape."""
BROKEN = "broken"
"""The label of samples of text that is not in the database's encoding."""
UTF8_BLOB = "utf8-blob"
"""Asked like a shape: blobs that are UTF-8 without NUL. Python looks, since SQL cannot see it."""
DUPLICATE_KEYS = "json-duplicate-keys"
"""Asked like a shape: JSON texts in which an object has a key twice."""
LONGEST = "longest"
"""Asked like a shape: fills `ColumnProfile.longest`."""
ENDS = "ends"
"""Asked like a shape: fills `ColumnProfile.least` and `greatest`."""
INEXACT = "inexact"
"""Asked like a shape: integers that are no double, where there are real numbers too or the ends were asked for."""
UNFIT_JSON = "json-unfit"
"""Counted with `json-escaped`: those that jsonb refuses (\\u0000, half of a surrogate pair)."""
COLLISIONS = "collisions"
"""Asked like a shape: how many values are another value again once all are text (1 and '1'), for keys."""
UUID_COLLISIONS = "uuid-collisions"
"""Asked like a shape: how many values are another value again once all are UUIDs (A0… and a0…), for keys."""
_MEASURES = (COLLISIONS, UUID_COLLISIONS, UTF8_BLOB, DUPLICATE_KEYS, LONGEST, ENDS, INEXACT)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SNIFF = 200
_AGGREGATES = 900
"""A SELECT: a libSQL server and SQLite take 2000 result columns; registers and SQL length stay small at half."""
_PAIRED = re.compile(r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|[^u])")
_UNFIT = re.compile(r"\\u(?:0000|[dD][89a-fA-F][0-9a-fA-F]{2})")
_AS_TEXT = "CAST({x} AS TEXT) COLLATE BINARY"
_AS_UUID = "CASE typeof({x}) WHEN 'blob' THEN hex({x}) ELSE upper(replace(trim({x},'{}'),'-','')) END"


def profile(reader: Reader, table: SourceTable, wanted: Mapping[str, Sequence[str]]) -> TableProfile:
    """What the values of `table` are.

    `wanted` gives for each column to scan the names of the shapes to count (shapes.py, and the measures above),
    the likelier first; a column that it does not name is not looked at. SourceError where the source cannot answer.
    """
    columns = [_Column(reader, each, tuple(wanted[each.name])) for each in table.columns if each.name in wanted]
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
    terms = [quote(column), *(quote(key) if key in table.primary_key else key for key in keys)]
    source = f"FROM {quote(table.name)} WHERE {condition} LIMIT {int(count)}"
    return tuple(_sample(row) for row in _texts(reader, [_printable(term) for term in terms], source))


def _texts(reader: Reader, terms: Sequence[str], source: str) -> list[tuple[Value, ...]]:
    """The rows of a SELECT; where a text is not UTF-8, all texts come with what is wrong in them written out."""
    try:
        return list(reader.rows(f"SELECT {', '.join(terms)} {source}"))
    except SourceError:
        raw = ", ".join(f"CASE typeof({x}) WHEN 'text' THEN CAST({x} AS BLOB) ELSE {x} END" for x in terms)
        rows = reader.rows(f"SELECT {raw} {source}")
        return [tuple(x.decode(errors="backslashreplace") if isinstance(x, bytes) else x for x in row) for row in rows]


def table_bytes(reader: Reader, table: SourceTable) -> int:
    """About how many bytes the table takes in the file; 0 where SQLite was built without dbstat."""
    if reader.library == (0, 0, 0):
        return 0
    try:
        rows = reader.rows("SELECT pgsize FROM dbstat WHERE name = ? AND aggregate = 1", (table.name,))
        return next((size for (size,) in rows if isinstance(size, int)), 0)
    except SourceError:
        return 0


class _Column:
    """A column to scan: its SQL name, the labels its values can have, in order, and the SQL that labels a value."""

    def __init__(self, reader: Reader, source: SourceColumn, wanted: tuple[str, ...]) -> None:
        self.name = name = source.name
        self.not_null = source.not_null
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
        if asked.storage != "text":
            return f"(typeof({self.x})='{asked.storage}' AND {asked.sql.replace('{x}', self.x)})"
        # The sign keeps a column's NUMERIC affinity from making numbers of the strings it is compared with.
        sql = asked.sql.replace("{x}", f"+{self.x}")
        return f"(typeof({self.x})='text' AND instr({self.x},char(0))=0 AND {sql})"

    def label(self) -> str:
        """SQL for the position of a value's label in `labels`; NULL for NULL."""
        arms = " ".join(f"WHEN {self.condition(label)} THEN {at}" for at, label in enumerate(self.labels))
        return f"CASE WHEN {self.x} IS NULL THEN NULL {arms} END"

    def hides(self, label: str) -> bool:
        """Whether a label's condition holds for values of other labels, too: a class of which shapes were asked for.

        Of blobs they are only asked for to make suggestions, for which the first rows have to do.
        """
        return label in CLASSES and label != "blob" and self.is_odd(label)

    def is_odd(self, label: str) -> bool:
        """Whether a label is one to show samples of, though it is all that there is: none of the shapes hoped for."""
        first = next((name for name in self.shapes if self.shapes[name].storage == self.storage(label)), label)
        return label != first

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


def _sniff(reader: Reader, table: SourceTable, columns: Sequence[_Column]) -> dict[str, tuple[str, ...]]:
    """What the first rows hold: for each column the commonest label of each storage class that was seen."""
    expected: dict[str, tuple[str, ...]] = {}
    for some in _portions(columns, 40):
        counts = {column.name: [0] * len(column.labels) for column in some}
        labels = ", ".join(column.label() for column in some)
        for row in reader.rows(f"SELECT {labels} FROM {quote(table.name)} LIMIT {_SNIFF}"):
            for column, at in zip(some, row, strict=True):
                if isinstance(at, int):
                    counts[column.name][at] += 1
        for column in some:
            tally = dict(zip(column.labels, counts[column.name], strict=True))
            seen = sorted((label for label in tally if tally[label]), key=tally.__getitem__)
            best = {column.storage(label): label for label in seen}
            if any("-fits-" in label for label in seen):
                # 12.50 is stored as a real number and 12.00 as an integer: one does not come without the other
                best |= {column.storage(label): label for label in column.labels if "-fits-" in label}
            expected[column.name] = tuple(best.values()) or (column.labels[-2],)
    return expected


def _first_scan(
    reader: Reader, table: SourceTable, columns: Sequence[_Column], expected: Mapping[str, tuple[str, ...]]
) -> tuple[int, dict[str, ColumnProfile]]:
    """The number of rows, and the profiles of the columns that hold only what is expected of them."""
    quick = scan.tests(reader, expected)
    rows, seen = scan.counted(reader, table, quick, expected)
    rest = [column for column in columns if not scan.whole(seen.get(column.name), expected[column.name])]
    if rest or not quick:
        rows, more = _counted(reader, table, rest, expected)
        seen |= more
    found: dict[str, ColumnProfile] = {}
    for column in columns:
        own = {term: seen[column.name][term] for term in _first_terms(column, expected[column.name])}
        counts = {label: _int(own[label]) for label in expected[column.name]}
        if sum(counts.values()) == _int(own["values"]) and not any(
            counts[each] and column.hides(each) for each in counts
        ):
            shown = {
                label: samples(reader, table, column.name, column.condition(label))
                for label in counts
                if counts[label] and column.is_odd(label)
            }
            found[column.name] = _profile(column, counts, rows, own, shown)
            if counts.get("json") and seen[column.name].get("repeated") == 0:
                found[column.name].shapes[DUPLICATE_KEYS] = 0
    return rows, found


def _counted(
    reader: Reader, table: SourceTable, columns: Sequence[_Column], expected: Mapping[str, tuple[str, ...]]
) -> tuple[int, dict[str, dict[str, Value]]]:
    """The number of rows, and what `_first_terms` asks of each column, by SQL."""
    rows = 0
    seen: dict[str, dict[str, Value]] = {}
    for some in _portions(columns, _AGGREGATES // 8) or [[]]:
        terms = [_first_terms(column, expected[column.name]) for column in some]
        every = ["count(*)", *(sql for own in terms for sql in own.values())]
        (row,) = reader.rows(f"SELECT {', '.join(every)} FROM {quote(table.name)}")
        values = iter(row)
        rows = _int(next(values))
        for column, own in zip(some, terms, strict=True):
            seen[column.name] = dict(zip(own, islice(values, len(own)), strict=True))
    return rows, seen


def _first_terms(column: _Column, expected: Sequence[str]) -> dict[str, str]:
    """The aggregates over one column, by what they tell: counts by label, and the measures that make sense.

    AND and OR evaluate both sides where a value is asked for, and only what is needed in a WHEN.
    """
    x, classes = column.x, {column.storage(label) for label in expected}
    terms = {"values": "count(*)" if column.not_null else f"count({x})"}
    terms |= {label: f"count(CASE WHEN {column.condition(label)} THEN 1 END)" for label in expected}
    if classes & {"text", "blob"}:
        terms["widest"] = f"max(length({x}))" if classes == {"blob"} else f"max(length(CAST({x} AS BLOB)))"
    if {ENDS, INEXACT} & {*column.measures} and classes & {"integer", "real"}:
        number = x if classes <= {"integer", "real"} else f"CASE WHEN typeof({x}) IN ('integer','real') THEN {x} END"
        terms |= {"least": f"min({number})", "greatest": f"max({number})"}
    if LONGEST in column.measures and "text" in classes:
        terms["longest"] = f"max(CASE WHEN typeof({x})='text' THEN length({x}) END)"
    return terms


def _second_scan(reader: Reader, table: SourceTable, columns: Sequence[_Column]) -> dict[str, ColumnProfile]:
    """Whole profiles, with samples, of the columns that hold different things."""
    found: dict[str, ColumnProfile] = {}
    for some in _portions(columns, 30):
        labels = ", ".join(f"{column.x} AS v{at}, {column.label()} AS l{at}" for at, column in enumerate(some))
        terms = ["count(*)"]
        for at, column in enumerate(some):
            terms += [f"total(l{at}={label})" for label in range(len(column.labels))]
            number = f"CASE WHEN typeof(v{at}) IN ('integer','real') THEN v{at} END"
            longest = f"max(CASE WHEN typeof(v{at})='text' THEN length(v{at}) END)"
            terms += [f"min({number})", f"max({number})", f"max(length(CAST(v{at} AS BLOB)))", longest]
        # LIMIT keeps SQLite from merging the two SELECTs, which would label a value once for every count.
        inner = f"SELECT {labels} FROM {quote(table.name)} LIMIT -1"
        (row,) = reader.rows(f"SELECT {', '.join(terms)} FROM ({inner})")
        values = iter(row)
        rows = _int(next(values))
        for column in some:
            counts = dict(zip(column.labels, map(_int, islice(values, len(column.labels))), strict=True))
            seen = dict(zip(("least", "greatest", "widest", "longest"), islice(values, 4), strict=True))
            shown = {
                label: samples(reader, table, column.name, f"{column.label()}={at}")
                for at, label in enumerate(column.labels)
                if counts[label]
            }
            found[column.name] = _profile(column, counts, rows, seen, shown)
    return found


def _profile(
    column: _Column,
    counts: Mapping[str, int],
    rows: int,
    seen: Mapping[str, Value],
    shown: Mapping[str, tuple[str, ...]],
) -> ColumnProfile:
    by_class: dict[str, int] = dict.fromkeys(CLASSES, 0)
    for label, count in counts.items():
        by_class[column.storage(label)] += count
    return ColumnProfile(
        nulls=rows - sum(by_class.values()),
        integers=by_class["integer"],
        reals=by_class["real"],
        texts=by_class["text"],
        blobs=by_class["blob"],
        least=_number(seen.get("least")),
        greatest=_number(seen.get("greatest")),
        longest=_int(seen.get("longest")),
        widest=_int(seen.get("widest")) or (8 if by_class["integer"] + by_class["real"] else 0),
        empty=counts.get("empty", 0),
        nul=counts.get(NUL, 0),
        shapes={label: counts.get(label, 0) for label in column.shapes},
        samples=dict(shown),
    )


def _measured(reader: Reader, table: SourceTable, column: _Column, seen: ColumnProfile) -> ColumnProfile:
    """The profile with what was asked for beyond shapes, each only where there is something to measure."""
    shapes = dict(seen.shapes)
    x, source = column.x, quote(table.name)
    mixed = seen.integers and (seen.reals or ENDS in column.measures)
    if INEXACT in column.measures and mixed and _beyond(seen, EXACT):
        ((value,),) = reader.rows(
            f"SELECT total({SHAPES[INEXACT].sql.replace('{x}', x)}) FROM {source} WHERE typeof({x})='integer'"
        )
        shapes[INEXACT] = _int(value)
    for measure, form in ((COLLISIONS, _AS_TEXT), (UUID_COLLISIONS, _AS_UUID)):
        if measure in column.measures and (measure == UUID_COLLISIONS or _is_mixed(seen)):
            distinct = f"count(DISTINCT {x} COLLATE BINARY) - count(DISTINCT {form.replace('{x}', x)})"
            ((value,),) = reader.rows(f"SELECT {distinct} FROM {source}")
            shapes[measure] = _int(value)
    jsons = shapes.get("json", 0) + shapes.get("json-escaped", 0)
    if DUPLICATE_KEYS in column.measures and DUPLICATE_KEYS not in shapes and jsons:
        likely = f"json_repeats({x}) AND" if scan.native(reader) else ""
        valid = f"typeof({x})='text' AND {likely} json_valid({x}) AND {repeated_keys(x)}"
        ((value,),) = reader.rows(f"SELECT count(*) FROM {source} WHERE {valid}")
        shapes[DUPLICATE_KEYS] = _int(value)
    if shapes.get("json-escaped"):
        texts = _texts(reader, [x], f"FROM {source} WHERE {column.condition('json-escaped')}")
        shapes[UNFIT_JSON] = sum(1 for (text,) in texts if isinstance(text, str) and not fits_jsonb(text))
    if UTF8_BLOB in column.measures and seen.blobs:
        blobs = reader.rows(f"SELECT {x} FROM {source} WHERE typeof({x})='blob'")
        shapes[UTF8_BLOB] = sum(
            1 for (blob,) in blobs if isinstance(blob, bytes) and b"\0" not in blob and _is_text(blob)
        )
    return replace(seen, shapes=shapes)


def with_broken(reader: Reader, table: SourceTable, seen: TableProfile) -> TableProfile:
    """`seen`, with the texts counted that are not in the database's encoding. Python looks, since SQL cannot see it."""
    names = [name for name, column in seen.columns.items() if column.texts]
    if not names:
        return seen
    (encoding,) = next(reader.rows("PRAGMA encoding"))
    raw = ", ".join(f"CASE typeof({quote(name)}) WHEN 'text' THEN CAST({quote(name)} AS BLOB) END" for name in names)
    found: dict[str, list[str]] = {name: [] for name in names}
    for row in reader.rows(f"SELECT {raw} FROM {quote(table.name)}"):
        for name, value in zip(names, row, strict=True):
            if isinstance(value, bytes) and not _is_text(value, str(encoding)):
                found[name].append(repr(value[:24])[1:] if len(found[name]) < 3 else "")
    columns = {
        name: replace(column, broken=len(texts), samples={**column.samples, BROKEN: tuple(texts[:3])})
        if (texts := found.get(name))
        else column
        for name, column in seen.columns.items()
    }
    return replace(seen, columns=columns)


def fits_jsonb(text: str) -> bool:
    """Whether valid JSON has no escape that jsonb refuses: `\\u0000`, or half of a surrogate pair."""
    return _UNFIT.search(_PAIRED.sub("", text)) is None


def _is_text(raw: bytes, encoding: str = "UTF-8") -> bool:
    try:
        raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _sure(table: SourceTable, name: str, rows: int) -> ColumnProfile:
    """The profile of a column that was not scanned: a rowid alias has no NULL and no other class."""
    if name == table.rowid_column:
        return ColumnProfile(integers=rows)
    return ColumnProfile()


def _portions(columns: Sequence[_Column], size: int) -> list[Sequence[_Column]]:
    return [columns[start : start + size] for start in range(0, len(columns), size)]


def _printable(x: str) -> str:
    """SQL for a value as a person can read it, cut to fit a line."""
    return (
        f"CASE typeof({x}) WHEN 'blob' THEN 'x''' || hex(substr({x},1,24)) || '''' "
        f"WHEN 'text' THEN '''' || substr({x},1,60) || '''' "
        f"WHEN 'real' THEN {x} ELSE quote({x}) END"  # SQLite's own word for a real depends on its version
    )


def _sample(row: Sequence[Value]) -> str:
    """`key: value` of a row of `_printable` terms; a key of text is shown without its quotation marks."""
    value, *key = (_CONTROL.sub(lambda found: repr(found[0])[1:-1], str(item)) for item in row)
    shown = ", ".join(part[1:-1] if part.startswith("'") else part for part in key)
    return f"{shown}: {value}" if key else value


def _is_mixed(seen: ColumnProfile) -> bool:
    return sum(1 for count in (seen.integers, seen.reals, seen.texts, seen.blobs) if count) > 1


def _beyond(seen: ColumnProfile, limit: int) -> bool:
    """Whether a number may be larger than `limit`, either way."""
    return max(abs(end) if end is not None else limit + 1 for end in (seen.least, seen.greatest)) > limit


def _int(value: Value) -> int:
    return int(value) if isinstance(value, int | float) else 0


def _number(value: Value) -> int | float | None:
    return value if isinstance(value, int | float) else None
