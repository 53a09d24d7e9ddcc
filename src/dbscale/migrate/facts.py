"""What only the source's data can tell of its schema: rows that break a key or a foreign key.

The one module beside `profile.py` that reads data; what it returns is plain, and `target.build` decides on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from dbscale.drivers.source import Reader
from dbscale.migrate.model import Choice, SourceForeignKey, SourceSchema, SourceTable
from dbscale.schema import quote


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


def read(reader: Reader, schema: SourceSchema, choices: Mapping[tuple[str, str], Choice]) -> Facts:
    """The facts of `schema`'s tables, for the types chosen. SourceError where the source cannot answer."""
    orphans = {
        (table.name, place): count
        for table in schema.tables
        for place, key in enumerate(table.foreign_keys)
        if (count := _orphans(reader, schema, table, key))
    }
    return Facts(orphans=orphans, unique_parents=frozenset(_unique_parents(reader, schema)))


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
    present = " AND ".join(f"p.{quote(name)} IS NOT NULL" for name in key.parent_columns)
    left = f"({', '.join(columns)})" if len(columns) > 1 else columns[0]
    return _count(
        reader,
        f"SELECT count(*) FROM {quote(table.name)} AS c WHERE {filled} AND {left} NOT IN"
        f" (SELECT {parents} FROM {quote(parent.name)} AS p WHERE {present})",
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
