"""Foreign keys: those that PostgreSQL can hold, and why the others cannot be."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from dbscale import schema as pg
from dbscale.migrate.draft import Draft
from dbscale.migrate.model import SourceForeignKey, SourceTable
from dbscale.migrate.names import object_name
from dbscale.migrate.values import kind_of


def with_foreign_keys(draft: Draft, source: SourceTable, drafted: Mapping[str, pg.Table]) -> pg.Table:
    """The table with the foreign keys whose parents are there; `drafted` by the source's names."""
    own = drafted[source.name]
    keys = [_foreign_key(draft, source, place, key, drafted) for place, key in enumerate(source.foreign_keys)]
    return replace(own, foreign_keys=tuple(key for key in keys if key is not None))


def _foreign_key(
    draft: Draft, source: SourceTable, place: int, key: SourceForeignKey, drafted: Mapping[str, pg.Table]
) -> pg.ForeignKey | None:
    where = f"{source.name} ({', '.join(key.columns)})"
    parent = next((name for name in drafted if name.lower() == key.parent.lower()), None)
    if parent is None or not key.parent_columns:
        _no_parent(draft, where, key, drafted)
        return None
    parent_source = draft.source.table(parent)
    columns = tuple(draft.names.column(source.name, source.column(name).name) for name in key.columns)
    try:
        parents = tuple(draft.names.column(parent, parent_source.column(name).name) for name in key.parent_columns)
    except KeyError as error:
        draft.note("foreign-key-left-out", where, f"{parent} has no column {error}", level="behaviour")
        return None
    obstacle = _obstacle(key, parent, (drafted[source.name], columns), (drafted[parent], parents))
    if obstacle is not None:
        says, try_ = obstacle
        draft.note("foreign-key-left-out", where, says, try_=try_, level="behaviour")
        return None
    otherwise = object_name(draft.names.table(source.name), "_".join(columns), "fkey")
    return pg.ForeignKey(
        name=draft.names.constraint(source.name, key.name, otherwise),
        columns=columns,
        parent=draft.names.table(parent),
        parent_columns=parents,
        on_delete=cast("pg.Action", key.on_delete.upper() or "NO ACTION"),
        on_update=cast("pg.Action", key.on_update.upper() or "NO ACTION"),
        deferrable=key.deferrable,
        valid=not _orphans(draft, source, place, where, parent),
    )


_Side = tuple[pg.Table, tuple[str, ...]]
"""A table and the columns of it that a foreign key is about."""


def _obstacle(key: SourceForeignKey, parent_name: str, child: _Side, other: _Side) -> tuple[str, str] | None:
    """Why PostgreSQL cannot hold the foreign key, and what to do; None when it can."""
    (table, columns), (parent, parents) = child, other
    if not _comparable(table, columns, parent, parents):
        says = f"its columns and those of {parent_name} have types that PostgreSQL does not compare"
        return says, "give both the same type in [migrate.types]"
    if not _unique(parent, parents):
        place = f"{parent_name} ({', '.join(key.parent_columns)})"
        says = f"nothing holds {place} unique, as PostgreSQL demands"
        return says, f"add a unique index on {place} in SQLite and migrate again"
    actions = {key.on_update.upper(), f"DELETE {key.on_delete.upper()}"}
    if actions & _WRITING and any(table.column(name).generated for name in columns):
        return "its action would write a generated column, which PostgreSQL does not allow", "do it with a trigger"
    return None


def _orphans(draft: Draft, source: SourceTable, place: int, where: str, parent: str) -> int:
    orphans = draft.facts.orphans.get((source.name, place), 0)
    if orphans:
        draft.note(
            "orphans",
            where,
            f"{orphans} rows refer to rows of {parent} that do not exist, so the foreign key stays NOT VALID: "
            "it holds for new and changed rows only",
            try_="remove or mend those rows, then ALTER TABLE … VALIDATE CONSTRAINT …",
            level="behaviour",
        )
    return orphans


_WRITING = frozenset({"CASCADE", "SET NULL", "SET DEFAULT", "DELETE SET NULL", "DELETE SET DEFAULT"})


def _no_parent(draft: Draft, where: str, key: SourceForeignKey, drafted: Mapping[str, pg.Table]) -> None:
    near = difflib.get_close_matches(key.parent, drafted, n=1)
    near = near or [name for name in drafted if key.parent.lower().startswith(name.lower() + "_")]
    hint = f"; there is {near[0]}" if near else ""
    draft.note(
        "foreign-key-left-out",
        where,
        f"it refers to {key.parent}, which is not among the tables{hint}",
        try_="migrate that table too, or mend the reference in SQLite",
        level="behaviour",
    )


def _comparable(table: pg.Table, columns: tuple[str, ...], parent: pg.Table, parents: tuple[str, ...]) -> bool:
    """PostgreSQL needs an equality of the two types in one operator family; whole numbers and texts have that."""
    if len(columns) != len(parents):
        return False
    for column, other in zip(columns, parents, strict=True):
        kinds = kind_of(table.column(column).type), kind_of(parent.column(other).type)
        if kinds[0] != kinds[1] and not (kinds[0] == "int" and kinds[1] in ("numeric", "float")):
            return False
    return True


def _unique(parent: pg.Table, columns: tuple[str, ...]) -> bool:
    wanted = set(columns)
    quoted = {pg.quote(name) for name in columns}
    return any(set(key.columns) == wanted and len(key.columns) == len(columns) for key in parent.keys) or any(
        index.unique and not index.where and set(index.terms) == quoted and len(index.terms) == len(columns)
        for index in parent.indexes
    )
