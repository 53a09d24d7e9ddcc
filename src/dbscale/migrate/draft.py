"""What the parts of `target.py` share while a target is drawn up: the source, the choices made, names and findings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dbscale.errors import Finding, Level
from dbscale.migrate.dialect import Scope, column_value, table_scope
from dbscale.migrate.facts import Facts
from dbscale.migrate.model import Choice, ColumnProfile, SourceObject, SourceSchema, SourceTable, TableProfile
from dbscale.migrate.names import Names
from dbscale.migrate.values import Value
from dbscale.plan import LoadColumn
from dbscale.schema import quote


@dataclass(slots=True, kw_only=True)
class Draft:
    source: SourceSchema
    choices: Mapping[tuple[str, str], Choice]
    names: Names
    schema_name: str
    collation: str
    profiles: Mapping[str, TableProfile]
    facts: Facts
    hnsw: bool = True
    """Whether the target's pgvector has HNSW indexes."""
    load: dict[str, tuple[LoadColumn, ...]] = field(default_factory=dict)
    inlined: dict[tuple[str, str], Value] = field(default_factory=dict)
    """Generated columns by their expression: PostgreSQL does not let one refer to another."""
    findings: list[Finding] = field(default_factory=list)

    def name_tables(self, tables: Iterable[SourceTable], views: Iterable[SourceObject]) -> None:
        """Claims every name that is seen from outside, tables first, so that what hangs on them gives way."""
        tables = list(tables)
        for table in tables:
            self.names.table(table.name)
            for column in table.columns:
                self.names.column(table.name, column.name)
        for view in views:
            self.names.table(view.name)
        for table in tables:
            for column in table.columns:
                if column.not_null or column.name in table.primary_key:
                    self.names.reserve_not_null(table.name, column.name)
            if table.rowid_column:
                self.names.reserve_sequence(table.name, table.rowid_column)

    def note(self, code: str, where: str, says: str, *, try_: str = "", level: Level, original: str = "") -> None:
        self.findings.append(Finding(code=code, where=where, says=says, try_=try_, level=level, original=original))

    def choice(self, table: str, column: str) -> Choice:
        return self.choices[table, column]

    def profile(self, table: str, column: str) -> ColumnProfile | None:
        """What is known of a column's values; None where it was not profiled."""
        known = self.profiles.get(table)
        return known.columns.get(column) if known is not None else None

    def values(self, table: SourceTable, alias: str = "") -> dict[str, Value]:
        """The table's columns as operands, by the source's name; `alias` goes before each."""
        found = {}
        for column in table.columns:
            name = self.names.column(table.name, column.name)
            sql = quote(alias, name) if alias else quote(name)
            found[column.name] = column_value(
                column,
                self.choice(table.name, column.name),
                sql,
                strict=table.strict,
                profile=self.profile(table.name, column.name),
            )
        return found

    def scope(self, table: SourceTable, *, inline: bool = False) -> Scope:
        """What an expression of `table` may name; `inline` puts generated columns' expressions in their place."""
        values = self.values(table)
        if inline:
            values |= {name: value for (owner, name), value in self.inlined.items() if owner == table.name}
        return table_scope(values, table=table.name, rowid=table.rowid_column)
