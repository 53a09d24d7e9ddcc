"""What only the source's data can tell of its schema: rows that break a key or a foreign key.

The one module beside `profile.py` that reads data; what it returns is plain, and `target.build` decides on it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from dbscale.drivers.source import Reader
from dbscale.migrate import canonical
from dbscale.migrate.affinity import affinity
from dbscale.migrate.cells import TRUE_WORDS, parse_type
from dbscale.migrate.model import (
    Choice,
    ColumnProfile,
    SourceColumn,
    SourceForeignKey,
    SourceSchema,
    SourceTable,
    TableProfile,
)
from dbscale.plan import Conversion
from dbscale.schema import quote

MOST_COLUMNS = 1600
"""Columns of a table (MaxHeapAttributeNumber, src/include/access/htup_details.h)."""
MOST_KEYS = 32
"""Columns and expressions of an index (INDEX_MAX_KEYS, src/include/pg_config_manual.h)."""
LARGEST_BIGINT = 2**63 - 1
PAGE_ROW = 8160
"""Bytes of a row that fit in a page (MaxHeapTupleSize, the same)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Counts of rows, empty where nothing is amiss."""

    orphans: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """Rows without a parent, by table and position in `SourceTable.foreign_keys`."""
    unique_parents: frozenset[tuple[str, tuple[str, ...]]] = frozenset()
    """Table and columns that a foreign key refers to, that no constraint holds unique, but whose values are."""
    duplicates: Mapping[tuple[str, tuple[str, ...]], int] = field(default_factory=dict)
    """Values that occur more than once after their conversion, by table and columns of a key."""
    wide_rows: Mapping[str, int] = field(default_factory=dict)
    """Rows that cannot fit in a page of PostgreSQL however their values are stored aside."""
    exhausted: frozenset[str] = frozenset()
    """Tables whose largest rowid is the largest there is, so that an identity has no next value."""


def read(
    reader: Reader,
    schema: SourceSchema,
    choices: Mapping[tuple[str, str], Choice],
    profiles: Mapping[str, TableProfile],
) -> Facts:
    """The facts of `schema`'s tables, for the types chosen. SourceError where the source cannot answer."""
    orphans = {
        (table.name, place): count
        for table in schema.tables
        for place, key in enumerate(table.foreign_keys)
        if not _within(reader, schema, table, key, profiles) and (count := _orphans(reader, schema, table, key))
    }
    duplicates = {
        (table.name, columns): count
        for table in schema.tables
        for columns in _unique_columns(table)
        if (count := _duplicates(reader, table, columns, choices, profiles[table.name]))
    }
    return Facts(
        orphans=orphans,
        unique_parents=frozenset(_unique_parents(reader, schema)),
        duplicates=duplicates,
        wide_rows={table.name: count for table in schema.tables if (count := _wide_rows(reader, table))},
        exhausted=frozenset(table.name for table in schema.tables if _is_exhausted(reader, table)),
    )


def _within(
    reader: Reader,
    schema: SourceSchema,
    table: SourceTable,
    key: SourceForeignKey,
    profiles: Mapping[str, TableProfile],
) -> bool:
    """Whether the profiles tell already that every row has its parent: integers, between the ends of ids without gaps.

    Where a parent was deleted, or it is not its rowid that is referred to, they do not.
    """
    parent = _table(schema, key.parent)
    if parent is None or not parent.rowid_column or not _has(table, key.columns):
        return False
    if [name.lower() for name in key.parent_columns] != [parent.rowid_column.lower()] or len(key.columns) != 1:
        return False
    seen = profiles[table.name].columns[table.column(key.columns[0]).name]
    if not isinstance(seen.least, int) or not isinstance(seen.greatest, int) or seen.reals or seen.texts or seen.blobs:
        return False
    id_ = quote(parent.rowid_column)
    # Asked for one end, SQLite reads one page; asked for both at once, the whole table.
    first, last = (_count(reader, f"SELECT {end}({id_}) FROM {quote(parent.name)}") for end in ("min", "max"))
    rows = profiles[parent.name].rows
    return rows > 0 and last - first + 1 == rows and first <= seen.least and seen.greatest <= last


def _orphans(reader: Reader, schema: SourceSchema, table: SourceTable, key: SourceForeignKey) -> int:
    """Rows whose values, none of them NULL, no parent has: compared byte by byte, as PostgreSQL will.

    `pragma foreign_key_check` compares by the parent's collation, and fails where no index holds the parent unique.
    """
    parent = _table(schema, key.parent)
    if parent is None or not _has(table, key.columns) or not _has(parent, key.parent_columns):
        return 0
    columns = [f"c.{quote(name)} COLLATE BINARY" for name in key.columns]
    filled = " AND ".join(f"c.{quote(name)} IS NOT NULL" for name in key.columns)
    parents = ", ".join(f"p.{quote(name)}" for name in key.parent_columns)
    # Without a condition SQLite looks the values up in the parent's own index.
    open_ = [name for name in key.parent_columns if name != parent.rowid_column and not parent.column(name).not_null]
    present = " WHERE " + " AND ".join(f"p.{quote(name)} IS NOT NULL" for name in open_) if open_ else ""
    left = f"({', '.join(columns)})" if len(columns) > 1 else columns[0]
    return _count(
        reader,
        f"SELECT count(*) FROM {quote(table.name)} AS c WHERE {filled} AND {left} NOT IN"
        f" (SELECT {parents} FROM {quote(parent.name)} AS p{present})",
    )


def _unique_parents(reader: Reader, schema: SourceSchema) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What foreign keys refer to and no key or index holds unique, but is unique as it stands."""
    asked = set()
    for table in schema.tables:
        for key in table.foreign_keys:
            parent = _table(schema, key.parent)
            if parent is None or not _has(parent, key.parent_columns) or _held_unique(parent, key.parent_columns):
                continue
            columns = tuple(parent.column(name).name for name in key.parent_columns)
            if (parent.name, columns) in asked:
                continue
            asked.add((parent.name, columns))
            names = ", ".join(f"{quote(name)} COLLATE BINARY" for name in columns)
            filled = " AND ".join(f"{quote(name)} IS NOT NULL" for name in columns)
            twice = f"SELECT 1 FROM {quote(parent.name)} WHERE {filled} GROUP BY {names} HAVING count(*) > 1 LIMIT 1"
            if not _count(reader, f"SELECT count(*) FROM ({twice})"):
                yield parent.name, columns


def _unique_columns(table: SourceTable) -> Iterator[tuple[str, ...]]:
    """The columns of every key and plain unique index."""
    for key in table.keys:
        if not (table.rowid_column and key.columns == (table.rowid_column,)):
            yield key.columns
    for index in table.indexes:
        if index.unique and not index.where and all(term.column for term in index.terms):
            yield tuple(term.column for term in index.terms)


def _duplicates(
    reader: Reader,
    table: SourceTable,
    columns: tuple[str, ...],
    choices: Mapping[tuple[str, str], Choice],
    seen: TableProfile,
) -> int:
    """How many values of a key occur more than once when they are converted; 0 where conversion keeps them apart."""
    owned = [table.column(name) for name in columns]
    conversions = [choices[table.name, column.name].conversion for column in owned]
    count = 0
    forms = [
        "" if _all_integers(seen.columns[column.name], conversion) else _one_form(reader, column, conversion)
        for column, conversion in zip(owned, conversions, strict=True)
    ]
    kept = [name for name, _ in takewhile(lambda pair: not pair[1], zip(columns, forms, strict=True))]
    if any(forms) and not _apart(reader, table, kept):
        terms = [form or f"{quote(column.name)} COLLATE BINARY" for form, column in zip(forms, owned, strict=True)]
        filled = " AND ".join(f"{quote(column.name)} IS NOT NULL" for column in owned)
        twice = f"SELECT 1 FROM {quote(table.name)} WHERE {filled} GROUP BY {', '.join(terms)} HAVING count(*) > 1"
        count = _count(reader, f"SELECT count(*) FROM ({twice})")
    if any(conversion.invalid == "replace" for conversion in conversions):
        count += _replaced_alike(reader, table, columns)
    return count


def _apart(reader: Reader, table: SourceTable, columns: Sequence[str]) -> bool:
    """Whether the first columns of a key, which keep their form, are unique by themselves.

    The key's own index has their order: SQLite reads along it, and stops at the first value that comes twice.
    """
    if not columns:
        return False
    terms = ", ".join(f"{quote(name)} COLLATE BINARY" for name in columns)
    filled = " AND ".join(f"{quote(name)} IS NOT NULL" for name in columns)
    twice = f"SELECT 1 FROM {quote(table.name)} WHERE {filled} GROUP BY {terms} HAVING count(*) > 1 LIMIT 1"
    return not _count(reader, f"SELECT count(*) FROM ({twice})")


def _replaced_alike(reader: Reader, table: SourceTable, columns: tuple[str, ...]) -> int:
    """How many values of a key become another row's once what is no text in them is replaced by U+FFFD.

    Two passes, since SQL does not see broken UTF-8: what is replaced is held in memory, and no other value is.
    """
    (encoding,) = next(reader.rows("PRAGMA encoding"))
    raw = ", ".join(
        f"CASE typeof({x}) WHEN 'text' THEN CAST({x} AS BLOB) ELSE {x} END, typeof({x})" for x in map(quote, columns)
    )

    def keys() -> Iterator[tuple[tuple[object, ...], bool]]:
        for row in reader.rows(f"SELECT {raw} FROM {quote(table.name)}"):
            values = list(zip(row[::2], row[1::2], strict=True))
            texts = [
                value.decode(str(encoding), "replace").replace("\0", "\ufffd")
                if isinstance(value, bytes) and kind == "text"
                else value
                for value, kind in values
            ]
            changed = any(
                isinstance(text, str) and text.encode(str(encoding)) != value
                for text, (value, _) in zip(texts, values, strict=True)
            )
            if None not in texts:
                yield tuple(texts), changed

    found = Counter(key for key, changed in keys() if changed)
    if not found:
        return 0
    found.update(key for key, changed in keys() if not changed and key in found)
    return sum(1 for count in found.values() if count > 1)


def _all_integers(seen: ColumnProfile, conversion: Conversion) -> bool:
    """Whether a column holds integers alone, of which no two become one value: two units may, and rounding."""
    alone = seen.integers > 0 and seen.integers == seen.values
    return alone and conversion.integers != "by-size" and not conversion.rounded


def _one_form(reader: Reader, column: SourceColumn, conversion: Conversion) -> str:
    """SQL that gives one form to values that become one; empty where SQLite's own equality tells the same."""
    x = quote(column.name)
    family = parse_type(conversion.to).family
    if family == "boolean" and conversion.texts:
        words = ", ".join(f"'{word}'" for word in TRUE_WORDS)
        return f"lower({x}) IN ({words})"
    if family == "uuid":
        digits = f"lower(replace(replace(replace({x}, '-', ''), '{{', ''), '}}', ''))"
        return f"CASE typeof({x}) WHEN 'blob' THEN lower(hex({x})) ELSE {digits} END"
    if family == "timestamp" and conversion.texts == "iso":
        # As it is compared after the load; what SQL cannot spell, such as real numbers, stands for itself.
        plain = dataclasses.replace(conversion, rounded=False)
        spelled = canonical.source_sql(x, plain, reader.library, floats=False)
        return f"CASE WHEN {spelled.test} THEN {spelled.text} ELSE {x} END"
    if family in ("integer", "numeric", "float") and conversion.texts:
        return f"CAST({x} AS NUMERIC)"
    several = sum(map(bool, (conversion.integers or conversion.reals, conversion.texts, conversion.blobs))) > 1
    if family in ("text", "bytea") and several and (conversion.blobs or affinity(column.declared) != "TEXT"):
        return f"CAST({x} AS BLOB)"
    return ""


INLINE = 18
"""Bytes of a value that PostgreSQL stores aside (a TOAST pointer); no smaller value is moved."""


def _wide_rows(reader: Reader, table: SourceTable) -> int:
    """Rows that stay larger than a page when all that can be is stored aside: only very many columns make them."""
    if len(table.columns) * INLINE < PAGE_ROW or len(table.columns) > MOST_COLUMNS:
        return 0
    sizes = [
        f"CASE typeof({quote(column.name)}) WHEN 'null' THEN 0 WHEN 'integer' THEN 8 WHEN 'real' THEN 8"
        f" ELSE min(length(CAST({quote(column.name)} AS BLOB)) + 1, {INLINE}) END"
        for column in table.columns
    ]
    while len(sizes) > 1:
        # A flat sum of a thousand terms would be deeper than SQLite reads.
        sizes = [f"({' + '.join(sizes[place : place + 50])})" for place in range(0, len(sizes), 50)]
    header = 24 + len(table.columns) // 8
    return _count(reader, f"SELECT count(*) FROM {quote(table.name)} WHERE {header} + {sizes[0]} > {PAGE_ROW}")


def _is_exhausted(reader: Reader, table: SourceTable) -> bool:
    return bool(table.rowid_column) and last_rowid(reader, table) == LARGEST_BIGINT


def last_rowid(reader: Reader, table: SourceTable) -> int:
    """The largest rowid of a table, which is quickly told; 0 where there is none."""
    return _count(reader, f"SELECT max({quote(table.rowid_name)}) FROM {quote(table.name)}") if table.rowid_name else 0


def _held_unique(table: SourceTable, columns: tuple[str, ...]) -> bool:
    wanted = {name.lower() for name in columns}
    if any({name.lower() for name in key.columns} == wanted for key in table.keys):
        return True
    return any(
        index.unique and not index.where and {term.column.lower() for term in index.terms} == wanted
        for index in table.indexes
    )


def _table(schema: SourceSchema, name: str) -> SourceTable | None:
    try:
        return schema.table(name)
    except KeyError:
        return None


def _has(table: SourceTable, columns: tuple[str, ...]) -> bool:
    known = {column.name.lower() for column in table.columns}
    return bool(columns) and all(name.lower() in known for name in columns)


def _count(reader: Reader, sql: str) -> int:
    for (count,) in reader.rows(sql):
        return int(count or 0)
    return 0
