"""What was read from the source: its schema as declared, and a profile of its values.

Names are spelled as the source spells them. All of it is frozen data: `source.py` and `profile.py` fill it in,
`types.py`, `dialect.py` and `plan.py` read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dbscale.migrate.declaration import fold
from dbscale.plan import Conversion


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceColumn:
    name: str
    declared: str
    """The declared type, as written; empty when there is none."""
    not_null: bool = False
    not_null_conflict: str = ""
    """Of `NOT NULL ON CONFLICT x`: `REPLACE`, `IGNORE` …; empty when it is the default, ABORT."""
    default: str | None = None
    """The default's SQL, as `pragma table_xinfo` gives it; None when there is none."""
    generated: Literal["", "virtual", "stored"] = ""
    expression: str = ""
    """The SQL of a generated column."""
    collation: str = "BINARY"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceKey:
    """A PRIMARY KEY or UNIQUE constraint."""

    name: str
    """As in `CONSTRAINT name`; empty when it has none."""
    columns: tuple[str, ...]
    primary: bool = False
    on_conflict: str = ""
    """`REPLACE`, `IGNORE` …; empty when it is the default, ABORT."""
    collations: tuple[str, ...] = ()
    """One a column, from `pragma index_xinfo`; empty means BINARY throughout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTerm:
    """One term of an index."""

    column: str = ""
    """A column's name, or empty when the term is an expression."""
    expression: str = ""
    descending: bool = False
    collation: str = "BINARY"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceIndex:
    """An index that CREATE INDEX made."""

    name: str
    terms: tuple[SourceTerm, ...]
    unique: bool = False
    where: str = ""
    sql: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceForeignKey:
    name: str
    columns: tuple[str, ...]
    parent: str
    """Spelled as the parent itself is; as written when there is no such table."""
    parent_columns: tuple[str, ...]
    """Resolved: the parent's primary key where none are named; empty when the parent does not exist."""
    on_delete: str = "NO ACTION"
    on_update: str = "NO ACTION"
    deferrable: Literal["", "IMMEDIATE", "DEFERRED"] = ""
    """Empty: not deferrable; else what it is INITIALLY."""
    match: str = "NONE"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCheck:
    name: str
    sql: str
    """The expression, without the outer brackets."""
    column: str = ""
    """The column on whose line it stands; empty for a table's constraint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTable:
    name: str
    columns: tuple[SourceColumn, ...]
    keys: tuple[SourceKey, ...] = ()
    indexes: tuple[SourceIndex, ...] = ()
    foreign_keys: tuple[SourceForeignKey, ...] = ()
    checks: tuple[SourceCheck, ...] = ()
    rowid_column: str = ""
    """The column that is the rowid (`INTEGER PRIMARY KEY`); empty when there is none."""
    rowid_name: str = "rowid"
    """The name by which the rowid can be read; empty: WITHOUT ROWID, or all three names are columns."""
    without_rowid: bool = False
    strict: bool = False
    autoincrement: bool = False
    sequence: int | None = None
    """The table's entry in sqlite_sequence."""
    sql: str = ""

    @property
    def primary_key(self) -> tuple[str, ...]:
        """The columns of the primary key, in the key's order; empty when there is none."""
        return next((key.columns for key in self.keys if key.primary), ())

    def column(self, name: str) -> SourceColumn:
        """The column called `name`, ignoring ASCII case as SQLite does; KeyError when there is none."""
        for column in self.columns:
            if fold(column.name) == fold(name):
                return column
        raise KeyError(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceObject:
    """A view, a trigger or a virtual table: something that is more than rows."""

    kind: Literal["view", "trigger", "virtual", "shadow", "internal", "unreadable"]
    name: str
    table: str = ""
    """The table a trigger belongs to, or the virtual table that a shadow table serves."""
    module: str = ""
    """A virtual table's module: `fts5`, `rtree` …"""
    columns: tuple[str, ...] = ()
    """The columns of a view or a virtual table, where SQLite can tell."""
    rows: int | None = None
    """Of a virtual table: the rows that it keeps itself, which no other table need have; None: it is not known."""
    sql: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSchema:
    tables: tuple[SourceTable, ...]
    views: tuple[SourceObject, ...] = ()
    triggers: tuple[SourceObject, ...] = ()
    virtuals: tuple[SourceObject, ...] = ()
    skipped: tuple[SourceObject, ...] = ()
    """Shadow tables and the bookkeeping of SQLite, libSQL, Litestream and the like."""
    unreadable: tuple[SourceObject, ...] = ()
    """Tables and indexes whose definition this SQLite cannot parse: their rows or rules would be missing."""
    encoding: str = "UTF-8"

    def table(self, name: str) -> SourceTable:
        """The table called `name`, ignoring ASCII case; KeyError when there is none."""
        for table in self.tables:
            if fold(table.name) == fold(name):
                return table
        raise KeyError(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnProfile:
    """What the values of one column are. Counts are of rows; shapes are counted only where they were asked for."""

    nulls: int = 0
    integers: int = 0
    reals: int = 0
    texts: int = 0
    blobs: int = 0
    least: int | float | None = None
    """Of the stored numbers."""
    greatest: int | float | None = None
    longest: int = 0
    """Characters in the longest text."""
    widest: int = 0
    """Bytes of the largest value."""
    empty: int = 0
    """Texts that are empty."""
    nul: int = 0
    """Texts with a NUL character."""
    broken: int = 0
    """Texts that are not in the database's encoding; counted where the user has said what becomes of them."""
    shapes: dict[str, int] = field(default_factory=dict)
    """How many values have the named shape (see profile.py); a shape that was not asked for is absent."""
    samples: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """A few values, printable, for findings, by storage class or shape."""

    @property
    def values(self) -> int:
        """How many are not NULL."""
        return self.integers + self.reals + self.texts + self.blobs


@dataclass(frozen=True, slots=True, kw_only=True)
class TableProfile:
    rows: int
    bytes: int
    """About how many bytes the table takes in the file."""
    columns: dict[str, ColumnProfile]
    """By column name. A column that needs no scan (a rowid alias, STRICT INTEGER) has only counts that are sure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The type chosen for one column, and why."""

    type: str
    conversion: Conversion
    evidence: str = ""
    """Why it differs from the declaration, with counts; empty where it is what the declaration means."""
