"""Which PostgreSQL type each column gets, and how its values become values of it.

Two stages: `wanted` says what to ask the values, `choose` decides. A column gets the type that its declaration
means if every value fits; else the nearest type that holds every value, with a finding. Nothing is narrowed on a
guess: what would be nicer but is not certain is suggested, with the line for `[migrate.types]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from dbscale.errors import Finding
from dbscale.migrate import orm
from dbscale.migrate.affinity import VECTORS, Wish, is_sized_text, wish
from dbscale.migrate.fit import Asked, Fit, Misfit, base, fit, parse, shapes_for
from dbscale.migrate.model import Choice, ColumnProfile, SourceColumn, SourceSchema, SourceTable, TableProfile
from dbscale.migrate.profile import DUPLICATE_KEYS
from dbscale.plan import Conversion

Columns = dict[tuple[str, str], Choice]
LARGEST = 1_000_000_000
"""Bytes of a value: PostgreSQL's limit is 1 GiB for a value and for a line of COPY, which has other columns too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user chose for values that PostgreSQL cannot hold."""

    on_invalid_text: Literal["stop", "replace", "bytea", "quarantine"] = "stop"
    on_bad_row: Literal["stop", "quarantine"] = "stop"
    vectors: bool = True
    """Whether the target has pgvector; without it vectors become arrays."""


def wanted(
    schema: SourceSchema, overrides: Mapping[str, str] | None = None, options: Options | None = None
) -> dict[str, dict[str, tuple[str, ...]]]:
    """What to ask of the values, by table and column: the second argument of `profile.profile`.

    A rowid alias and STRICT's INTEGER and REAL are left out unless something may be read from their numbers.
    """
    found = orm.fingerprints(schema)
    asked = _asked(schema, overrides or {})[0]
    parents = _parents(schema)
    result: dict[str, dict[str, tuple[str, ...]]] = {}
    for table in schema.tables:
        result[table.name] = {}
        for column in table.columns:
            hint = orm.hint(found, table, column)
            types = [asked[table.name, column.name].type] if (table.name, column.name) in asked else []
            types += [hint.type] if hint else []
            if not types and _is_sure(table, column):
                continue
            shapes = [name for type_ in types for name in shapes_for(type_)]
            shapes += _shapes(column, options or Options())
            if (table.name, column.name) in parents:
                shapes += ["integer-text"]
            result[table.name][column.name] = tuple(dict.fromkeys(shapes))
    return result


def choose(
    schema: SourceSchema,
    profiles: Mapping[str, TableProfile],
    *,
    overrides: Mapping[str, str] | None = None,
    options: Options | None = None,
) -> tuple[Columns, tuple[Finding, ...]]:
    """A type and a conversion for every column of every table, and what there is to say about them.

    `profiles` are by table name, from shapes that `wanted` asked for with the same overrides.
    """
    options = options or Options()
    asked, findings = _asked(schema, overrides or {})
    found = orm.fingerprints(schema)
    findings += orm.evidence(schema)
    choices: Columns = {}
    for table in schema.tables:
        profile = profiles[table.name]
        for column in table.columns:
            at = _At(table, column, profile.columns[column.name], options, orm.hint(found, table, column))
            choice, noticed = _override(at, asked[at.key]) if at.key in asked else _column(at)
            choice, also = _limits(at, choice)
            choices[at.key] = choice
            findings += [*noticed, *also]
    joined, about = _families(schema, profiles, choices, set(asked))
    return joined, (*findings, *about)


@dataclass(frozen=True, slots=True)
class _At:
    """One column with all that is known of it."""

    table: SourceTable
    column: SourceColumn
    seen: ColumnProfile
    options: Options
    hint: orm.Hint | None

    @property
    def key(self) -> tuple[str, str]:
        return self.table.name, self.column.name

    @property
    def where(self) -> str:
        return f"{self.table.name}.{self.column.name}"

    def line(self, type_: str) -> str:
        """The line for dbscale.toml that chooses a type."""
        return f'[migrate.types]: "{self.where}" = "{type_}"'


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
        if name.lower() not in names:
            says = "there is no such table and column in the source"
            findings.append(Finding(code="type-for-nothing", where=where, says=says, level="blocker"))
            continue
        try:
            asked[names[name.lower()]] = parse(text)
        except ValueError as error:
            try_ = "write a PostgreSQL type, such as `timestamptz from ms, empty as null`"
            findings.append(
                Finding(code="type-not-understood", where=where, says=str(error), try_=try_, level="blocker")
            )
    return asked, findings


def _is_sure(table: SourceTable, column: SourceColumn) -> bool:
    """Whether the declaration alone says what all values are."""
    word = wish(column.declared).word
    return column.name == table.rowid_column or (table.strict and word in ("INTEGER", "INT", "REAL"))


def _targets(column: SourceColumn, options: Options) -> tuple[str, ...]:
    """The types that a declaration means, the narrower first; empty where only the values can tell."""
    asked = wish(column.declared)
    if asked.kind == "decimal":
        precision = asked.size or 0
        fits = 0 < precision <= 1000 and 0 <= (asked.scale or 0) <= precision
        return (f"numeric({precision},{asked.scale or 0})", "numeric") if fits else ("numeric",)
    if asked.kind == "text":
        return (f"varchar({asked.size})", "text") if is_sized_text(asked) and asked.size else ("text",)
    if asked.kind == "vector":
        return _vector_types(asked, options)
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


def _vector_types(asked: Wish, options: Options) -> tuple[str, ...]:
    """pgvector's vector for 32 bit numbers, an array for 64 bit ones; the other forms stay bytes."""
    size = VECTORS[asked.word][0]
    if size == 4:
        return (f"vector({asked.size})" if options.vectors else "real[]",)
    return ("double precision[]",) if size == 8 else ("bytea",)


def _shapes(column: SourceColumn, options: Options) -> list[str]:
    shapes = [name for type_ in _targets(column, options) for name in shapes_for(type_)]
    asked = wish(column.declared)
    if asked.kind == "json":
        shapes.append(DUPLICATE_KEYS)
    if asked.affinity in ("BLOB", "NUMERIC", "INTEGER") and asked.kind in ("any", "integer"):
        shapes.append("inexact")
    return shapes


def _column(at: _At) -> tuple[Choice, list[Finding]]:
    """The choice where the user made none."""
    if _is_sure(at.table, at.column) and not at.hint:
        kind = wish(at.column.declared).kind
        type_ = "double precision" if kind == "real" else "bigint"
        return Choice(type=type_, conversion=fit(Asked(type_), at.seen).conversion), []
    if at.hint and at.hint.sure:
        own = fit(Asked(at.hint.type, at.hint.reading), at.seen)
        if own.misfit is None and own.conversion.integers != "by-size":
            return _hinted(at, at.hint, own)
    choice, findings = _declared(at)
    return choice, [*findings, *_suggestions(at, choice)]


def _hinted(at: _At, hint: orm.Hint, own: Fit) -> tuple[Choice, list[Finding]]:
    """The type a mapper means, with its evidence; nothing to say where it is the declared one anyway."""
    choice = Choice(type=hint.type, conversion=own.conversion, evidence=hint.evidence)
    plain, _ = _declared(at)
    if plain.type == choice.type and plain.conversion == choice.conversion:
        return plain, _about(at, plain)
    says = f"{hint.evidence}; all {at.seen.values} values agree: {hint.type}"
    try_ = f"to keep {plain.type}: {at.line(plain.type)}"
    finding = Finding(code="type-from-mapper", where=at.where, says=says, try_=try_)
    return choice, [finding, *_about(at, choice)]


def _declared(at: _At) -> tuple[Choice, list[Finding]]:
    """The type the declaration means where all values fit, else one that holds them all."""
    first: Misfit | None = None
    targets = _targets(at.column, at.options)
    for type_ in targets:
        own = fit(Asked(type_), at.seen)
        if own.misfit is None and not (type_ == "jsonb" and at.seen.shapes.get(DUPLICATE_KEYS)):
            choice = Choice(type=type_, conversion=own.conversion)
            return choice, _about(at, choice)
        first = first or own.misfit
    type_, conversion = _holding(at)
    misfit = first or Misfit(at.seen.values, "value")
    if not targets:
        choice = Choice(type=type_, conversion=conversion, evidence=_counts(at.seen))
        return choice, _mixed(at, choice)
    evidence = f"{misfit.count} values are not {targets[0]}: {misfit.what}"
    return Choice(type=type_, conversion=conversion, evidence=evidence), [_misfit(at, targets[0], type_, misfit)]


def _holding(at: _At) -> tuple[str, Conversion]:
    """The nearest type that holds every value, whatever was declared."""
    order: tuple[str, ...] = ("text", "bytea")
    if not at.seen.texts and not at.seen.blobs and at.seen.values:
        order = ("double precision", "numeric", *order) if at.seen.reals else ("bigint", *order)
    elif at.seen.blobs and wish(at.column.declared).affinity != "TEXT":
        order = ("bytea",)
    for type_ in order:
        own = fit(Asked(type_), at.seen)
        if own.misfit is None:
            return type_, own.conversion
    return "bytea", fit(Asked("bytea"), at.seen).conversion


def _misfit(at: _At, meant: str, type_: str, misfit: Misfit) -> Finding:
    """What to say where values do not fit the declaration."""
    empties = at.seen.empty and at.seen.empty == misfit.count and misfit.what == "text"
    kind = wish(at.column.declared).kind
    code = {
        "integer": "real-in-integer" if misfit.what == "real number" else "text-in-integer",
        "real": "text-in-real",
        "decimal": "text-in-decimal",
        "boolean": "not-boolean",
        "timestamp": "ambiguous-epoch" if misfit.what in ("integer", "real number") else "not-a-time",
        "date": "ambiguous-epoch" if misfit.what in ("integer", "real number") else "not-a-time",
        "time": "not-a-time",
        "uuid": "not-uuid",
        "json": "not-json",
        "vector": "not-a-vector",
        "text": "blob-in-text",
    }.get(kind, "mixed-storage")
    if kind == "integer" and at.seen.shapes.get("real-huge"):
        code = "integer-beyond-64-bits"
    if misfit.what == "blob" and kind != "text":
        code = "mixed-storage"
    shown = f" ({'; '.join(misfit.samples)})" if misfit.samples else ""
    says = f"{misfit.count} of {at.seen.values} values are {misfit.what}, not {meant}{shown}: kept as {type_}"
    try_ = f"mend them in the source, or choose: {at.line(type_)}"
    if empties:
        code = "empty-text"
        says = f"{misfit.count} of {at.seen.values} values are empty text, which is no {meant}: kept as {type_}"
        try_ = f"to load them as NULL: {at.line(meant + ', empty as null')}"
    return Finding(code=code, where=at.where, says=says, try_=try_, level="behaviour", original=at.column.declared)


def _counts(seen: ColumnProfile) -> str:
    classes = (("integers", seen.integers), ("reals", seen.reals), ("texts", seen.texts), ("blobs", seen.blobs))
    return ", ".join(f"{count} {name}" for name, count in classes if count)


def _mixed(at: _At, choice: Choice) -> list[Finding]:
    """A finding where a column without a telling declaration holds values of more than one class."""
    classes = sum(1 for count in (at.seen.integers + at.seen.reals, at.seen.texts, at.seen.blobs) if count)
    if classes < 2:
        return []
    says = f"it holds {_counts(at.seen)}: kept as {choice.type}"
    return [Finding(code="mixed-storage", where=at.where, says=says, level="behaviour", try_=at.line(choice.type))]


def _about(at: _At, choice: Choice) -> list[Finding]:
    """What a conversion that covers every value changes all the same."""
    found: list[Finding] = []
    shapes, conversion = at.seen.shapes, choice.conversion
    fine = shapes.get("iso-naive-fine", 0) + shapes.get("iso-zoned-fine", 0)
    if conversion.rounded and fine:
        says = f"{fine} values have fractions finer than a microsecond, and are rounded to it"
        found.append(
            Finding(
                code="time-rounded", where=at.where, says=says, try_=f"to keep them: {at.line('text')}", level="data"
            )
        )
    naive = sum(shapes.get(name, 0) for name in ("iso-naive", "iso-naive-fine", "iso-date"))
    other = at.seen.integers + at.seen.reals + shapes.get("iso-zoned", 0) + shapes.get("iso-zoned-fine", 0)
    if choice.type == "timestamptz" and naive and other:
        says = f"{naive} times have no offset and {other} have one or are epochs: those without are taken as UTC"
        found.append(Finding(code="naive-as-utc", where=at.where, says=says, level="behaviour"))
    if choice.type == "timestamptz" and conversion.integers and at.seen.integers:
        says = (
            f"{at.seen.integers} integers from {at.seen.least} to {at.seen.greatest} are read as {conversion.integers}"
        )
        found.append(
            Finding(code="epoch-as-time", where=at.where, says=says, try_=f"to keep them: {at.line('bigint')}")
        )
    return found


def _suggestions(at: _At, choice: Choice) -> list[Finding]:
    """What the column could be, where every value would fit and only the user can know."""
    if not at.hint or at.hint.sure or not at.seen.values or base(at.hint.type)[0] == base(choice.type)[0]:
        return []
    own = fit(Asked(at.hint.type, at.hint.reading), at.seen)
    if own.misfit or own.conversion.integers == "by-size":
        return []
    line = at.hint.type + (
        f" from {own.conversion.integers}" if choice.type == "bigint" and at.hint.type[0] == "t" else ""
    )
    says = f"all {at.seen.values} values could be {at.hint.type}: {at.hint.evidence}"
    return [Finding(code="type-suggested", where=at.where, says=says, try_=at.line(line))]


def _override(at: _At, asked: Asked) -> tuple[Choice, list[Finding]]:
    """The user's type; a blocker where values do not convert to it."""
    own = fit(asked, at.seen)
    choice = Choice(type=asked.type, conversion=own.conversion, evidence="chosen in [migrate.types]")
    if own.misfit is None:
        return choice, [finding for finding in _about(at, choice) if finding.code == "time-rounded"]
    shown = f" ({'; '.join(own.misfit.samples)})" if own.misfit.samples else ""
    says = f"{own.misfit.count} of {at.seen.values} values are {own.misfit.what} that is no {asked.type}{shown}"
    quarantine = at.options.on_bad_row == "quarantine"
    try_ = (
        "they go to the quarantine table" if quarantine else "mend them in the source, or add --on-bad-row quarantine"
    )
    level: Literal["data", "blocker"] = "data" if quarantine else "blocker"
    return choice, [Finding(code="type-does-not-fit", where=at.where, says=says, try_=try_, level=level)]


def _limits(at: _At, choice: Choice) -> tuple[Choice, list[Finding]]:
    """The choice under the user's policy for text that PostgreSQL cannot hold, and what stops the plan."""
    found: list[Finding] = []
    policy = at.options.on_invalid_text
    if choice.conversion.texts == "keep" and policy == "replace":
        choice = replace(choice, conversion=replace(choice.conversion, invalid="replace"))
    if at.seen.nul and choice.type != "bytea":
        shown = "; ".join(at.seen.samples.get("nul", ()))
        says = f"{at.seen.nul} texts have a NUL character, which PostgreSQL's text cannot hold ({shown})"
        if policy == "bytea":
            choice = Choice(type="bytea", conversion=fit(Asked("bytea"), at.seen).conversion, evidence=says)
        try_ = "--on-invalid-text replace, bytea or quarantine"
        level: Literal["data", "blocker"] = "blocker" if policy == "stop" else "data"
        found.append(Finding(code="nul-in-text", where=at.where, says=says, try_=try_, level=level))
    size = at.seen.widest * (2 if choice.type == "bytea" else 1)
    if size > LARGEST:
        says = f"a value of {at.seen.widest} bytes is too large for PostgreSQL (1 GB, and half of that for bytea)"
        level = "data" if at.options.on_bad_row == "quarantine" else "blocker"
        try_ = "keep it in a file, or add --on-bad-row quarantine"
        found.append(Finding(code="value-too-large", where=at.where, says=says, try_=try_, level=level))
    return choice, found


def _parents(schema: SourceSchema) -> set[tuple[str, str]]:
    """All columns that stand in a foreign key, on either side."""
    return {member for pair in _pairs(schema) for member in pair}


def _pairs(schema: SourceSchema) -> Iterable[tuple[tuple[str, str], tuple[str, str]]]:
    """Parent and child of each column of each foreign key whose parent exists."""
    for table in schema.tables:
        for key in table.foreign_keys:
            try:
                parent = schema.table(key.parent)
                for child, own in zip(key.columns, key.parent_columns, strict=False):
                    yield (parent.name, parent.column(own).name), (table.name, table.column(child).name)
            except KeyError:
                continue


def _families(
    schema: SourceSchema, profiles: Mapping[str, TableProfile], choices: Columns, fixed: set[tuple[str, str]]
) -> tuple[Columns, list[Finding]]:
    """The choices with columns that foreign keys join given one type, the parent's where all values fit it."""
    found: list[Finding] = []
    result = dict(choices)
    for family in _components(_pairs(schema)):
        types = {base(result[member].type)[0].replace("varchar", "text") for member in family}
        if len(types) < 2 or any(member in fixed for member in family):
            continue
        candidates = [*dict.fromkeys(choices[member].type for member in family), "text", "bytea"]
        for type_ in candidates:
            fits = {member: fit(Asked(type_), profiles[member[0]].columns[member[1]]) for member in family}
            if all(own.misfit is None for own in fits.values()):
                for member, own in fits.items():
                    if result[member].type != type_:
                        says = f"{type_} rather than {result[member].type}, as the columns that foreign keys join it to"
                        found.append(
                            Finding(code="type-of-family", where=".".join(member), says=says, level="behaviour")
                        )
                        result[member] = Choice(type=type_, conversion=own.conversion, evidence=says)
                break
    return result, found


def _components(pairs: Iterable[tuple[tuple[str, str], tuple[str, str]]]) -> list[list[tuple[str, str]]]:
    """The columns that are joined, directly or through others; parents before their children."""
    families: list[list[tuple[str, str]]] = []
    for parent, child in pairs:
        joined = [family for family in families if parent in family or child in family]
        rest = [family for family in families if family not in joined]
        merged = dict.fromkeys([parent, *(member for family in joined for member in family), child])
        families = [*rest, list(merged)]
    return families
