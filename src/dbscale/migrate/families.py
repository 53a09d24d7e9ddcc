"""Columns that foreign keys join: PostgreSQL wants one type for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dbscale.errors import Finding
from dbscale.migrate.fit import Asked, base, fit
from dbscale.migrate.model import Choice, SourceSchema, TableProfile

Member = tuple[str, str]
"""A column, by its table's name and its own."""


@dataclass(frozen=True, slots=True)
class Family:
    """Columns that foreign keys join, directly or through others; parents before their children."""

    members: tuple[Member, ...]
    identity: bool
    """Whether one of them is a rowid alias, whose type is an integer whatever the others hold."""


def families(schema: SourceSchema) -> tuple[Family, ...]:
    """All families of the schema. A foreign key without a parent joins nothing."""
    joined: list[list[Member]] = []
    for parent, child in _pairs(schema):
        touched = [family for family in joined if parent in family or child in family]
        merged = dict.fromkeys([parent, *(member for family in touched for member in family), child])
        joined = [*(family for family in joined if family not in touched), list(merged)]
    aliases = {(table.name, table.rowid_column) for table in schema.tables if table.rowid_column}
    return tuple(Family(tuple(members), bool(aliases.intersection(members))) for members in joined)


def unite(
    families_: tuple[Family, ...],
    profiles: Mapping[str, TableProfile],
    choices: Mapping[Member, Choice],
    chosen: Mapping[Member, Asked],
) -> tuple[dict[Member, Choice], list[Finding]]:
    """The choices with one type for each family, where one holds the values of all its columns.

    What the user chose for a member goes for all; else the parent's type is tried first, then the others' and text.
    """
    result = dict(choices)
    found: list[Finding] = []
    for family in families_:
        if len({_comparable(result[member].type) for member in family.members}) < 2:
            continue
        type_ = next((type_ for type_ in _candidates(family, choices, chosen) if _holds(type_, family, profiles)), "")
        if not type_:
            found.append(_differing(family, result))
            continue
        for member in family.members:
            if _comparable(result[member].type) == _comparable(type_) or member in chosen:
                continue
            says = f"{type_} rather than {result[member].type}, as the columns that foreign keys join it to"
            found.append(Finding(code="type-of-family", where=".".join(member), says=says, level="behaviour"))
            conversion = fit(Asked(type_), profiles[member[0]].columns[member[1]]).conversion
            result[member] = Choice(type=type_, conversion=conversion, evidence=says)
    return result, found


def _pairs(schema: SourceSchema) -> Iterator[tuple[Member, Member]]:
    """Parent and child of each column of each foreign key whose parent exists."""
    for table in schema.tables:
        for key in table.foreign_keys:
            try:
                parent = schema.table(key.parent)
                for child, own in zip(key.columns, key.parent_columns, strict=False):
                    yield (parent.name, parent.column(own).name), (table.name, table.column(child).name)
            except KeyError:
                continue


def _comparable(type_: str) -> str:
    """Types that a foreign key may join are the same here: lengths do not matter, nor varchar against text."""
    name = base(type_)[0]
    return {"varchar": "text", "integer": "bigint", "smallint": "bigint"}.get(name, name)


def _candidates(family: Family, choices: Mapping[Member, Choice], chosen: Mapping[Member, Asked]) -> list[str]:
    own = [chosen[member].type for member in family.members if member in chosen]
    if own:
        return own[:1]
    if family.identity:
        return ["bigint"]
    return list(dict.fromkeys([*(choices[member].type for member in family.members), "text", "bytea"]))


def _holds(type_: str, family: Family, profiles: Mapping[str, TableProfile]) -> bool:
    columns = (profiles[table].columns[column] for table, column in family.members)
    return all(fit(Asked(type_), column).misfit is None for column in columns)


def _differing(family: Family, choices: Mapping[Member, Choice]) -> Finding:
    types = "; ".join(f"{'.'.join(member)} is {choices[member].type}" for member in family.members)
    says = f"foreign keys join these columns, and no one type holds the values of all: {types}"
    try_ = "mend the values in the source: the foreign key is left out otherwise"
    return Finding(code="family-differs", where=".".join(family.members[-1]), says=says, try_=try_, level="behaviour")
