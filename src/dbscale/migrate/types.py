"""Which PostgreSQL type each column gets, and how its values become values of it.

Two stages: `wanted` says what to ask the values, `choose` decides. A column gets the type that its declaration
means if every value fits; else the nearest type that holds every value, with a finding. Nothing is narrowed on a
guess: what would be nicer but is not certain is suggested, with the line for `[migrate.types]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from dbscale.errors import Finding
from dbscale.migrate import orm, remarks
from dbscale.migrate.affinity import VECTORS, Wish, is_sized_text, wish
from dbscale.migrate.families import families, unite
from dbscale.migrate.fit import Asked, Fit, Misfit, base, fit, parse, shapes_for
from dbscale.migrate.model import Choice, SourceColumn, SourceSchema, SourceTable, TableProfile
from dbscale.migrate.profile import COLLISIONS, DUPLICATE_KEYS, INEXACT, UUID_COLLISIONS
from dbscale.migrate.remarks import Place

Choices = dict[tuple[str, str], Choice]
LARGEST = 1_000_000_000
"""Bytes of a value: PostgreSQL's limit is 1 GiB for a value and for a line of COPY, which has other columns too."""
MOST_DIGITS = 1000
"""Of numeric(p,s) (NUMERIC_MAX_PRECISION, src/include/utils/numeric.h); numeric by itself takes 131,072."""
MOST_CHARACTERS = 10_485_760
"""Of varchar(n) (MaxAttrSize, src/include/access/htup_details.h); text takes as many as a value has bytes."""
MOST_DIMENSIONS = 16_000
"""Of pgvector's `vector` (VECTOR_MAX_DIM, src/vector.h); libSQL takes 65,536."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user chose for values that PostgreSQL cannot hold, and what the target has."""

    on_invalid_text: Literal["stop", "replace", "bytea", "quarantine"] = "stop"
    on_bad_row: Literal["stop", "quarantine"] = "stop"
    vectors: bool = True
    """Whether the target has pgvector; without it vectors become arrays."""


def wanted(
    schema: SourceSchema, overrides: Mapping[str, str] | None = None, options: Options | None = None
) -> dict[str, dict[str, tuple[str, ...]]]:
    """What to ask of the values, by table and column: the third argument of `profile.profile`.

    `overrides` are `[migrate.types]`. A rowid alias and STRICT's INTEGER and REAL are left out unless their numbers
    may be read as something else. Columns that foreign keys join are asked for what any of them is asked for.
    """
    found = orm.fingerprints(schema)
    asked, _ = _asked(schema, overrides or {})
    result: dict[str, dict[str, tuple[str, ...]]] = {}
    for table in schema.tables:
        result[table.name] = {}
        for column in table.columns:
            hint = orm.hint(found, table, column)
            types = [asked[table.name, column.name].type] if (table.name, column.name) in asked else []
            types += [hint.type] if hint else []
            if types or not _is_sure(table, column):
                shapes = _shapes(table, column, types, options or Options())
                result[table.name][column.name] = tuple(dict.fromkeys(shapes))
    for family in families(schema):
        members = [(place, name) for place, name in family.members if name in result[place]]
        joined = [shape for place, name in members for shape in result[place][name]]
        joined += ["integer-text"] if family.identity else []
        for place, name in members:
            result[place][name] = tuple(dict.fromkeys((*result[place][name], *joined)))
    return result


def choose(
    schema: SourceSchema,
    profiles: Mapping[str, TableProfile],
    *,
    overrides: Mapping[str, str] | None = None,
    options: Options | None = None,
) -> tuple[Choices, tuple[Finding, ...]]:
    """A type and a conversion for every column of every table, and what there is to say about them.

    `profiles` are by table name, from the shapes that `wanted` asked for with the same overrides.
    """
    options = options or Options()
    asked, findings = _asked(schema, overrides or {})
    found = orm.fingerprints(schema)
    findings += orm.evidence(schema)
    choices: Choices = {}
    places = {}
    for table in schema.tables:
        for column in table.columns:
            at = Place(table, column, profiles[table.name].columns[column.name], orm.hint(found, table, column))
            places[at.key] = at
            choice, noticed = _override(at, asked[at.key], options) if at.key in asked else _column(at, options)
            choices[at.key] = choice
            findings += noticed
    united, about = unite(families(schema), profiles, choices, asked)
    for key, choice in united.items():
        united[key], also = _limits(places[key], choice, options)
        findings += also
    return united, (*findings, *about)


def _asked(schema: SourceSchema, overrides: Mapping[str, str]) -> tuple[dict[tuple[str, str], Asked], list[Finding]]:
    """The overrides by table and column, and a blocker for each that names nothing or cannot be read."""
    asked: dict[tuple[str, str], Asked] = {}
    findings: list[Finding] = []
    names = {
        f"{table.name}.{column.name}".lower(): (table.name, column.name)
        for table in schema.tables
        for column in table.columns
    }
    for name, text in overrides.items():
        where = f'[migrate.types] "{name}"'
        try:
            asked[names[name.lower()]] = parse(text)
        except KeyError:
            findings.append(_for_nothing(schema, name, where))
        except ValueError as error:
            try_ = "write a PostgreSQL type, such as `timestamptz from ms, empty as null`"
            finding = Finding(code="type-not-understood", where=where, says=str(error), try_=try_, level="blocker")
            findings.append(finding)
    return asked, findings


def _for_nothing(schema: SourceSchema, name: str, where: str) -> Finding:
    """A line that names nothing: a blocker in a table that is here; else it may be meant for another source."""
    here = any(name.lower().startswith(f"{table.name}.".lower()) for table in schema.tables)
    says = "the table has no such column" if here else "there is no such table among those to be migrated"
    try_ = "write it as table.column, with the source's names"
    level: Literal["blocker", "note"] = "blocker" if here else "note"
    return Finding(code="type-for-nothing", where=where, says=says, try_=try_, level=level)


def _is_sure(table: SourceTable, column: SourceColumn) -> bool:
    """Whether the declaration alone says what all values are."""
    return column.name == table.rowid_column or (
        table.strict and wish(column.declared).word in ("INTEGER", "INT", "REAL")
    )


def _targets(column: SourceColumn, options: Options) -> tuple[str, ...]:
    """The types that a declaration means, the narrower first; empty where only the values can tell."""
    asked = wish(column.declared)
    if asked.kind == "decimal":
        precision, scale = asked.size or 0, asked.scale or 0
        exact = 0 <= scale <= precision and 0 < precision <= MOST_DIGITS
        return (f"numeric({precision},{scale})", "numeric") if exact else ("numeric",)
    if asked.kind == "text":
        sized = is_sized_text(asked) and 0 < (asked.size or 0) <= MOST_CHARACTERS
        return (f"varchar({asked.size})", "text") if sized else ("text",)
    if asked.kind == "vector":
        return (_vector_type(asked, options),)
    return {
        "integer": ("bigint",),
        "real": ("double precision",),
        "boolean": ("boolean",),
        "blob": ("bytea",),
        "timestamp": ("timestamp", "timestamptz"),
        "date": ("date", "timestamp", "timestamptz"),
        "time": ("time",),
        "uuid": ("uuid",),
        "json": ("jsonb", "json"),
        "any": (),
    }[asked.kind]


def _vector_type(asked: Wish, options: Options) -> str:
    """pgvector's vector for 32 bit numbers, an array for 64 bit ones; the other forms stay bytes."""
    size = VECTORS[asked.word][0]
    if size == 4:
        fits = options.vectors and (asked.size or 0) <= MOST_DIMENSIONS
        return f"vector({asked.size})" if fits else f"real[{asked.size}]"
    return f"double precision[{asked.size}]" if size == 8 else "bytea"


def _shapes(table: SourceTable, column: SourceColumn, types: list[str], options: Options) -> list[str]:
    """What to ask of one column, for the types it may become."""
    meant = wish(column.declared)
    shapes = [name for type_ in (*types, *_targets(column, options)) for name in shapes_for(type_)]
    if meant.kind == "json" or "jsonb" in types:
        shapes.append(DUPLICATE_KEYS)
    if meant.affinity != "TEXT":
        shapes.append(INEXACT)
    if any(column.name in key.columns and len(key.columns) == 1 for key in table.keys):
        shapes.append(COLLISIONS)
        if "uuid" in (*types, *_targets(column, options)):
            shapes.append(UUID_COLLISIONS)
    return shapes


def _column(at: Place, options: Options) -> tuple[Choice, list[Finding]]:
    """The choice where the user made none."""
    if at.hint and at.hint.sure:
        repeats = at.count(DUPLICATE_KEYS) if at.hint.type == "jsonb" else 0
        hint = replace(at.hint, type="json") if repeats else at.hint
        readings = ("", hint.reading) if hint.by_size else (hint.reading,)
        for own in (fit(Asked(hint.type, reading), at.seen) for reading in readings):
            if own.misfit is None and own.conversion.integers != "by-size":
                choice, findings = _hinted(at, hint, own, options)
                return choice, [*findings, *([remarks.repeated_keys(at)] if repeats else [])]
    choice, findings = _declared(at, options)
    return choice, [*findings, *remarks.suggestions(at, choice)]


def _hinted(at: Place, hint: orm.Hint, own: Fit, options: Options) -> tuple[Choice, list[Finding]]:
    """The type a mapper means, with its evidence; nothing to say where it is the declared one anyway."""
    choice = Choice(type=hint.type, conversion=own.conversion, evidence=hint.evidence)
    plain, findings = _declared(at, options)
    if plain.type == choice.type and plain.conversion == choice.conversion:
        return plain, findings
    says = f"{hint.evidence}; all {at.seen.values} values agree: {hint.type}"
    finding = at.finding("type-from-mapper", says, f"to keep {plain.type}: {at.choose(plain.type)}")
    return choice, [finding, *remarks.about(at, choice)]


def _declared(at: Place, options: Options) -> tuple[Choice, list[Finding]]:
    """The type the declaration means where all values fit, else one that holds them all."""
    targets = _targets(at.column, options)
    nearest: Misfit | None = None
    for type_ in targets:
        own = fit(Asked(type_), at.seen)
        if own.misfit is None and not (type_ == "jsonb" and at.count(DUPLICATE_KEYS)):
            return _fitting(at, Choice(type=own.conversion.to, conversion=own.conversion), targets[0], nearest)
        if own.misfit and (nearest is None or own.misfit.count <= nearest.count):
            nearest = own.misfit
    choice = _holding(at)
    if not targets or nearest is None:
        choice = replace(choice, evidence=remarks.counts(at.seen))
        return choice, [*remarks.mixed(at, choice), *remarks.about(at, choice)]
    if told := remarks.decided(at, targets[0], choice.type, nearest):
        return replace(choice, evidence=remarks.counts(at.seen)), [told, *remarks.about(at, choice)]
    choice = replace(
        choice, evidence=f"{nearest.count} of {at.seen.values} values are no {targets[-1]}: {nearest.what}"
    )
    return choice, [remarks.misfit(at, targets[0], choice.type, nearest), *remarks.about(at, choice)]


def _fitting(at: Place, choice: Choice, first: str, nearest: Misfit | None) -> tuple[Choice, list[Finding]]:
    """A type the declaration means, and what to say where it is not the narrowest such type, or no vector."""
    if wish(at.column.declared).kind == "vector":
        return choice, [*remarks.no_vector(at, choice), *remarks.about(at, choice)]
    if choice.type in (first, first.partition("[")[0] + "[]") or (first, choice.type) == ("timestamp", "timestamptz"):
        return choice, remarks.about(at, choice)
    finding = remarks.widened(at, first, choice.type, nearest)
    return replace(choice, evidence=finding.says), [finding, *remarks.about(at, choice)]


def _holding(at: Place) -> Choice:
    """The nearest type that holds every value, whatever was declared."""
    order: tuple[str, ...] = ("text", "bytea")
    if at.seen.values and not at.seen.texts and not at.seen.blobs:
        order = ("double precision", "numeric", *order) if at.seen.reals else ("bigint", *order)
    elif at.seen.blobs and wish(at.column.declared).affinity != "TEXT":
        order = ("bytea",)
    fits = ((type_, fit(Asked(type_), at.seen)) for type_ in order)
    return next(Choice(type=own.conversion.to, conversion=own.conversion) for type_, own in fits if own.misfit is None)


def _override(at: Place, asked: Asked, options: Options) -> tuple[Choice, list[Finding]]:
    """The user's type; a blocker where values do not convert to it."""
    own = fit(asked, at.seen)
    repeats = base(asked.type)[0] == "jsonb" and at.count(DUPLICATE_KEYS) > 0
    conversion = replace(own.conversion, rounded=True) if repeats else own.conversion
    choice = Choice(type=conversion.to, conversion=conversion, evidence="chosen in [migrate.types]")
    findings = [each for each in remarks.about(at, choice) if each.level in ("data", "blocker")]
    if own.misfit:
        quarantine = options.on_bad_row == "quarantine"
        findings.append(remarks.unfit_override(at, asked, own.misfit, quarantine=quarantine))
    if asked.empty_as_null and at.seen.empty:
        says = f"{at.seen.empty} empty texts become NULL"
        clash = at.column.not_null
        try_ = "the column is NOT NULL: choose another type" if clash else ""
        findings.append(at.finding("empty-as-null", says, try_, "blocker" if clash else "data"))
    return choice, findings


def _limits(at: Place, choice: Choice, options: Options) -> tuple[Choice, list[Finding]]:
    """The choice under the user's policy for text that PostgreSQL cannot hold, and what stops the plan."""
    found: list[Finding] = []
    policy = options.on_invalid_text
    if base(choice.type)[0] != "bytea":
        found += remarks.invalid_text(at, policy)
        if found and policy == "bytea":
            choice = Choice(type="bytea", conversion=fit(Asked("bytea"), at.seen).conversion, evidence=found[0].says)
        if policy == "replace" and choice.conversion.texts == "keep":
            choice = replace(choice, conversion=replace(choice.conversion, invalid="replace"))
    if at.seen.widest * (2 if choice.type == "bytea" else 1) > LARGEST:
        says = f"a value has {at.seen.widest} bytes, and PostgreSQL takes 1 GB at most, of bytea half of that"
        quarantine = options.on_bad_row == "quarantine"
        try_ = "it goes to the quarantine table" if quarantine else "keep it in a file, or --on-bad-row quarantine"
        found.append(at.finding("value-too-large", says, try_, "data" if quarantine else "blocker"))
    return choice, found
