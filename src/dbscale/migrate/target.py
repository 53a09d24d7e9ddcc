"""The PostgreSQL schema for a source's schema and the types chosen: whole tables, views, names, and findings.

Pure: what needs the data is handed in as profiles (`profile.py`) and facts (`facts.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from dbscale import schema as pg
from dbscale.errors import Finding
from dbscale.migrate import constraints, objects, references
from dbscale.migrate.draft import Draft
from dbscale.migrate.facts import Facts
from dbscale.migrate.model import Choice, SourceSchema, SourceTable, TableProfile
from dbscale.migrate.names import Identifiers, Names, object_name
from dbscale.migrate.values import kind_of
from dbscale.plan import LoadColumn


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A column that numbers new rows. It must go on after the largest of `sequence` and the loaded values."""

    table: str
    """The target's names."""
    column: str
    sequence: int | None = None
    """The source's entry in sqlite_sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    schema: pg.Schema
    tables: Mapping[str, str]
    """Tables and views by the source's name."""
    load: Mapping[str, tuple[LoadColumn, ...]]
    """By the source's table, in the target's order of columns; without those that PostgreSQL generates."""
    identities: tuple[Identity, ...] = ()
    views: tuple[objects.ViewColumns, ...] = ()
    """The views that were carried over, each with the reading of its columns, for comparing their rows."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Every name that differs, for the rename map: `users`, `users.Name`, `users.idx` and their new names."""
    findings: tuple[Finding, ...] = ()


def build(
    source: SourceSchema,
    choices: Mapping[tuple[str, str], Choice],
    *,
    schema_name: str = "public",
    identifiers: Identifiers = "preserve",
    collation: str = "",
    only: Collection[str] = (),
    skip: Collection[str] = (),
    profiles: Mapping[str, TableProfile] | None = None,
    facts: Facts | None = None,
    hnsw: bool = True,
) -> Target:
    """The target for `source`, with the type of every column from `choices` (by table and column).

    `only` and `skip` are names of tables, ignoring ASCII case. `collation` is given to every text column (empty:
    the database's own). `hnsw`: pgvector, where it is there, has HNSW indexes. Whatever is not
    carried over is a finding that carries the original SQL.
    """
    draft = Draft(
        source=source,
        choices=choices,
        names=Names(identifiers),
        schema_name=schema_name,
        collation=collation,
        profiles=profiles or {},
        facts=facts or Facts(),
        hnsw=hnsw,
    )
    chosen = [table for table in source.tables if wanted(table.name, only, skip)]
    views_chosen = [view for view in source.views if wanted(view.name, only, skip)]
    draft.name_tables(chosen, views_chosen)
    drafted = {table.name: constraints.table(draft, table) for table in chosen}
    tables = tuple(references.with_foreign_keys(draft, table, drafted) for table in chosen)
    views, view_columns = objects.views(draft, views_chosen, drafted)
    objects.left_out(draft)
    return Target(
        schema=pg.Schema(name=schema_name, tables=_creatable(tables), views=views),
        tables=dict(draft.names.tables),
        load={table.name: draft.load[table.name] for table in chosen},
        views=view_columns,
        identities=tuple(_identities(draft, chosen)),
        renamed=draft.names.renamed(),
        findings=(*draft.names.findings, *draft.findings),
    )


def wanted(name: str, only: Collection[str], skip: Collection[str]) -> bool:
    """True when `--only` and `--skip` leave the table in; names are compared ignoring case."""
    low = name.lower()
    return (not only or low in {each.lower() for each in only}) and low not in {each.lower() for each in skip}


def _creatable(tables: tuple[pg.Table, ...]) -> tuple[pg.Table, ...]:
    """The tables in an order in which no identity's sequence takes the name of a table that is yet to come."""
    sequences = {
        object_name(table.name, column.name, "seq") for table in tables for column in table.columns if column.identity
    }
    return tuple(sorted(tables, key=lambda table: table.name not in sequences))


def _identities(draft: Draft, chosen: Iterable[SourceTable]) -> Iterable[Identity]:
    for table in chosen:
        if table.rowid_column and kind_of(draft.choice(table.name, table.rowid_column).type) == "int":
            column = draft.names.column(table.name, table.rowid_column)
            yield Identity(table=draft.names.table(table.name), column=column, sequence=table.sequence)
