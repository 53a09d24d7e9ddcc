"""The plan of a migration: reads the source and the target, and decides everything before anything is changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from queue import SimpleQueue
from typing import Any, Literal, TypeVar

from dbscale.drivers import postgres
from dbscale.drivers.postgres import Connection
from dbscale.drivers.source import Reader, Source, TooLarge
from dbscale.errors import ConfigError, Finding, StalePlan, Unreachable
from dbscale.migrate import estimate, existing, facts, objects, oversize, rehearsal, steps, target, types
from dbscale.migrate.declaration import fold
from dbscale.migrate.model import Choice, SourceSchema, SourceTable, TableProfile
from dbscale.migrate.names import Identifiers
from dbscale.migrate.profile import DUPLICATE_KEYS, profile, with_broken
from dbscale.migrate.room import check_server, check_writable, clashes, empty, has_extension, look, shadowed
from dbscale.migrate.source import bookkeeping, lost, read_schema, unknown_collations
from dbscale.migrate.target import Target
from dbscale.plan import Load, LoadColumn, Plan
from dbscale.schema import Schema, quote

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user asked for."""

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    schema: str = "public"
    identifiers: Identifiers = "preserve"
    collate: str = ""
    types: Mapping[str, str] = field(default_factory=dict)
    """`table.column` and the type wanted for it."""
    on_bad_row: Literal["stop", "quarantine"] = "stop"
    on_invalid_text: Literal["stop", "replace", "bytea", "quarantine"] = "stop"
    into_existing: bool = False
    truncate: bool = False
    jobs: int = 2
    state_schema: str = "dbscale"
    shard_maps: Mapping[str, str] = field(default_factory=dict)
    """The maps that the rows are spread by: each with its checksum."""
    shard_target: Literal["", "partitions"] = ""
    """`partitions`: the maps' ranges become partitions of one server."""

    def as_strings(self) -> dict[str, str]:
        """All that decides what the plan does, for `Plan.options`: two runs with equal strings do the same."""
        return {
            "only": json.dumps(sorted(self.only)),
            "skip": json.dumps(sorted(self.skip)),
            "schema": self.schema,
            "identifiers": self.identifiers,
            "collate": self.collate,
            "types": json.dumps(dict(self.types), sort_keys=True),
            "on_bad_row": self.on_bad_row,
            "on_invalid_text": self.on_invalid_text,
            "into_existing": str(self.into_existing).lower(),
            "truncate": str(self.truncate).lower(),
            "state_schema": self.state_schema,
            **({"shard_maps": json.dumps(dict(self.shard_maps), sort_keys=True)} if self.shard_maps else {}),
            **({"shard_target": self.shard_target} if self.shard_target else {}),
        }

    @classmethod
    def from_strings(cls, strings: Mapping[str, str]) -> Options:
        """The options that `as_strings` gave; the others are as by default."""
        kinds = {"only": tuple, "skip": tuple, "types": dict, "shard_maps": dict}
        flags = ("into_existing", "truncate")
        names = {each.name for each in fields(cls)} & strings.keys()
        found: dict[str, Any] = {name: strings[name] for name in names}
        found |= {name: kinds[name](json.loads(strings[name])) for name in names & kinds.keys()}
        found |= {name: strings[name] == "true" for name in names.intersection(flags)}
        return cls(**found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What was read from the source, and the types chosen for it."""

    schema: SourceSchema
    profiles: Mapping[str, TableProfile]
    choices: Mapping[tuple[str, str], Choice]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """A plan, and what it was made from: `verify` needs both."""

    plan: Plan
    options: Options
    survey: Survey
    loads: tuple[Load, ...]
    target: Target | None
    """None when the rows go into tables that exist."""
    parts: Mapping[str, Migration] = field(default_factory=dict)
    """Of a migration into shards: what each database gets, by its name in the plan."""

    @property
    def choices(self) -> Mapping[tuple[str, str], Choice]:
        return self.survey.choices

    def declared(self, table: str, column: str) -> str:
        """The type that the source declares."""
        return self.survey.schema.table(table).column(column).declared


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What a source holds and what a migration of it would meet."""

    title: str
    loads: tuple[Load, ...]
    types: tuple[tuple[str, str, Choice], ...]
    """Each column as `table.column`, its declared type, and the type chosen."""
    schema: Schema
    findings: tuple[Finding, ...]
    target_bytes: int
    seconds: float


def assess(source: Source, options: Options, *, say: Callable[[str], None] = lambda _: None) -> Assessment:
    """Read the source and say what a migration would meet; no target is needed."""
    survey, made = survey_source(source, options, vector=True, say=say, thorough=True)
    loads = tuple(_loads(survey, made.load, options, {table: made.tables[table] for table in made.load}))
    with source.snapshot(1) as readers:
        took = estimate.seconds(readers[0], loads, encoding=survey.schema.encoding, jobs=options.jobs)
    return Assessment(
        title=source.title,
        loads=loads,
        types=tuple(
            (f"{table}.{column}", survey.schema.table(table).column(column).declared, choice)
            for (table, column), choice in survey.choices.items()
        ),
        schema=made.schema,
        findings=_unique([*survey.findings, *made.findings, *source.notes]),
        target_bytes=estimate.target_bytes(made.schema, loads),
        seconds=took,
    )


def make(
    source: Source,
    url: str,
    options: Options,
    *,
    source_reference: str,
    target_reference: str,
    ignore_rows: bool = False,
    stopped: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> Migration:
    """Read both sides and plan. Nothing is changed on either.

    `stopped`: why the target has no `url` now; the plan then takes it to be empty, and says so in a finding.
    `ignore_rows`: do not mind what the target holds already, nor whether it can be written to (for verify). `say` hears
    what is being read. Raises what the drivers raise; whatever else stands in the way becomes a blocker among the
    plan's findings.
    """
    _check_schema_name(options)
    if options.into_existing:
        if stopped:
            raise Unreachable(stopped, where=target_reference, try_="dbscale local up, then the same command")
        with postgres.connect(url, name="dbscale plan") as connection, postgres.reading(connection):
            check_server(connection)
            if not ignore_rows:
                check_writable(connection)
            return _into_existing(
                source, connection, options, source_reference, target_reference, ignore_rows=ignore_rows, say=say
            )
    room = (
        empty(target_reference, stopped, options.schema)
        if stopped
        else look(url, options.schema, options.state_schema, options.collate, reading=ignore_rows)
    )
    survey, made = survey_source(source, options, vector=room.vector, hnsw=room.hnsw, say=say)
    loads = tuple(_loads(survey, made.load, options, {table: made.tables[table] for table in made.load}))
    sequences = {each.table: each.sequence for each in made.identities if each.sequence}
    findings = [*room.findings, *survey.findings, *made.findings, *source.notes]
    if not ignore_rows:
        chosen = [load for each in loads if (load := _chosen(each, options)).columns]
        if chosen and not stopped:
            with postgres.connect(url, name="dbscale plan") as connection, postgres.reading(connection):
                findings = rehearsal.rehearsed(source, connection, chosen, survey.schema.encoding, findings)
        findings += clashes(room.present, made.schema)
    plan = Plan(
        title=f"{source.title} into {postgres.display(url) if url else target_reference}",
        databases={"source": source_reference, "target": target_reference},
        steps=steps.create(made.schema, loads, sequences, new_schema=room.new_schema),
        findings=_unique(findings),
        basis={"source": schema_digest(survey.schema)},
        options=options.as_strings(),
    )
    return Migration(plan=plan, options=options, survey=survey, loads=loads, target=made)


def _into_existing(
    source: Source,
    connection: Connection,
    options: Options,
    source_reference: str,
    target_reference: str,
    *,
    ignore_rows: bool,
    say: Callable[[str], None],
) -> Migration:
    """The plan of `--into-existing`: the target's tables and types are given, only rows move."""
    live = existing.read(connection, options.schema)
    vector = has_extension(connection, "vector")
    with source.snapshot(1) as readers:
        schema = _selected(read_schema(readers[0]), options)
    matches, findings = existing.match(schema, live, options.types)
    wanted = {
        f"{each.source.name}.{name}": options.types.get(f"{each.source.name}.{name}", column.type)
        for each in matches
        for name, column in each.columns
    }
    narrowed = replace(options, types=wanted, only=tuple(each.source.name for each in matches), skip=())
    survey, _ = survey_source(source, narrowed, vector=vector, say=say)
    columns = {
        each.source.name: tuple(
            LoadColumn(
                source=name,
                target=column.name,
                conversion=survey.choices[(each.source.name, name)].conversion,
            )
            for name, column in each.columns
            if (each.source.name, name) in survey.choices
        )
        for each in matches
    }
    names = {each.source.name: each.live.name for each in matches}
    loads = tuple(_loads(survey, columns, options, names))
    sequences = {each.source.name: each.source.sequence or 0 for each in matches}
    findings = (*findings, *objects.virtual_tables(schema))
    noticed = [*shadowed(connection, options.state_schema), *findings, *survey.findings, *source.notes]
    if not ignore_rows:
        encoding = survey.schema.encoding
        noticed = rehearsal.rehearsed(source, connection, loads, encoding, noticed)
        noticed += rehearsal.broken(source, connection, matches, loads, survey.profiles, encoding)
        in_the_way = existing.referring(options.schema, matches, live) if options.truncate else None
        noticed += existing.in_the_way(matches) if in_the_way is None else in_the_way
    plan = Plan(
        title=f"{source.title} into the tables of {target_reference}",
        databases={"source": source_reference, "target": target_reference},
        steps=existing.steps(options.schema, matches, loads, sequences, live=live, truncate=options.truncate),
        findings=_unique(noticed),
        basis={"source": schema_digest(survey.schema)},
        options=options.as_strings(),
    )
    return Migration(plan=plan, options=options, survey=survey, loads=loads, target=None)


def survey_source(
    source: Source,
    options: Options,
    *,
    vector: bool,
    say: Callable[[str], None],
    hnsw: bool = True,
    thorough: bool = False,
) -> tuple[Survey, Target]:
    """Read the source's schema and values within one snapshot, choose types, and build the target's schema.

    `thorough`: look for broken UTF-8 too, which takes a pass of its own; without it the load finds it.
    """
    with source.snapshot(options.jobs) as readers:
        schema = _selected(read_schema(readers[0]), options)
        policies = types.Options(on_bad_row=options.on_bad_row, on_invalid_text=options.on_invalid_text, vectors=vector)
        wanted = {place: type_ for place, type_ in options.types.items() if type_ != existing.SKIP}
        shapes = types.wanted(schema, wanted, policies)
        say(f"reading {len(schema.tables)} tables of {source.title}")
        broken = thorough or options.on_invalid_text != "stop"
        damage, profiles = _read_through(readers, source.interrupt, schema, shapes, broken=broken)
        choices, findings = types.choose(schema, profiles, overrides=wanted, options=policies)
        known = facts.read(readers[0], schema, choices, profiles)
        made = target.build(
            schema,
            choices,
            schema_name=options.schema,
            identifiers=options.identifiers,
            collation=options.collate,
            profiles=profiles,
            facts=known,
            hnsw=hnsw,
        )
    findings = (
        *damage,
        *lost(schema),
        *bookkeeping(schema),
        *unknown_collations(schema, source.title),
        *findings,
        *_repeated_keys(choices, profiles),
    )
    return Survey(schema=schema, profiles=profiles, choices=choices, findings=findings), made


def _read_through(
    readers: Sequence[Reader],
    interrupt: Callable[[], None],
    schema: SourceSchema,
    shapes: Mapping[str, Mapping[str, Sequence[str]]],
    *,
    broken: bool,
) -> tuple[tuple[Finding, ...], dict[str, TableProfile]]:
    """The damage to the source and the profiles of its tables, as many at once as there are readers, longest first.

    `broken`: with the broken texts counted. An error stops them all, by `interrupt`.
    """
    free: SimpleQueue[Reader] = SimpleQueue()
    for reader in readers:
        free.put(reader)

    def with_reader(work: Callable[[Reader], _T]) -> _T:
        reader = free.get()
        try:
            return work(reader)
        finally:
            free.put(reader)

    def one(table: SourceTable) -> TableProfile:
        def read(reader: Reader) -> TableProfile:
            try:
                seen = profile(reader, table, shapes[table.name])
                return with_broken(reader, table, seen) if broken else seen
            except TooLarge as error:
                raise oversize.named(reader, table, error) from error

        return with_reader(read)

    largest_first = sorted(schema.tables, key=lambda table: -facts.last_rowid(readers[0], table))
    with ThreadPoolExecutor(max_workers=len(readers)) as pool:
        try:
            damage = pool.submit(with_reader, lambda reader: reader.damage())
            found = dict(zip((table.name for table in largest_first), pool.map(one, largest_first), strict=True))
            return damage.result(), {table.name: found[table.name] for table in schema.tables}
        except BaseException:
            interrupt()
            raise


def _loads(
    survey: Survey,
    columns: Mapping[str, Sequence[LoadColumn]],
    options: Options,
    names: Mapping[str, str],
) -> Iterator[Load]:
    quarantine = options.on_bad_row == "quarantine" or options.on_invalid_text == "quarantine"
    for table in survey.schema.tables:
        if table.name not in columns:
            continue
        seen = survey.profiles[table.name]
        yield Load(
            does=f"copy {quote(table.name)}",
            table=table.name,
            schema=options.schema,
            target=names[table.name],
            columns=tuple(columns[table.name]),
            key=table.primary_key,
            rowid=table.rowid_name,
            rows=seen.rows,
            bytes=seen.bytes,
            widest=max((column.widest for column in seen.columns.values()), default=0),
            on_bad_row="quarantine" if quarantine else "stop",
            undo=f"TRUNCATE {quote(options.schema, names[table.name])}" if options.into_existing else "",
        )


def _chosen(load: Load, options: Options) -> Load:
    """A load of the columns alone whose types were chosen by the user: the others fit what is in them."""
    columns = (each for each in load.columns if f"{load.table}.{each.source}" in options.types)
    return replace(load, columns=tuple(columns))


def _repeated_keys(
    choices: Mapping[tuple[str, str], Choice], profiles: Mapping[str, TableProfile]
) -> Iterator[Finding]:
    """What jsonb, asked for or given by a table that exists, will not keep of the source's objects."""
    for (table, column), choice in choices.items():
        count = profiles[table].columns[column].shapes.get(DUPLICATE_KEYS, 0)
        if choice.type == "jsonb" and count:
            yield Finding(
                code="json-keys-lost",
                where=f"{table}.{column}",
                says=f"{count} values have a key twice in an object: jsonb keeps the last of them alone",
                try_=f'the type json keeps the text as it is: [migrate.types] "{table}.{column}" = "json"',
                level="data",
            )


def _check_schema_name(options: Options) -> None:
    """ConfigError for a schema that tables of an application, or dbscale's own, cannot go into."""
    for flag, name in (("--schema", options.schema), ("--state-schema", options.state_schema)):
        if not 0 < len(name.encode()) < 64:
            raise ConfigError("a schema's name has 1 to 63 bytes", where=f"{flag} {name!r}", try_="another name")
    if options.schema.startswith("pg_") or options.schema == "information_schema":
        raise ConfigError(f"the schema {options.schema!r} is PostgreSQL's own", where="--schema", try_="another name")
    if options.schema == options.state_schema == "dbscale":
        raise ConfigError(
            "the schema 'dbscale' holds dbscale's own tables", where="--schema", try_="another name, or --state-schema"
        )


def _selected(schema: SourceSchema, options: Options) -> SourceSchema:
    """The schema with the tables that --only and --skip leave; ConfigError for a name that is not there."""
    known = {fold(table.name) for table in schema.tables}
    known |= {fold(each.name) for each in (*schema.views, *schema.virtuals, *schema.unreadable)}
    for flag, names in (("--only", options.only), ("--skip", options.skip)):
        for name in names:
            if fold(name) not in known:
                raise ConfigError(
                    f"the source has no table {name!r}",
                    where=flag,
                    try_="one of: " + ", ".join(sorted(table.name for table in schema.tables)[:20]),
                )
    tables = tuple(table for table in schema.tables if target.wanted(table.name, options.only, options.skip))
    views = tuple(view for view in schema.views if target.wanted(view.name, options.only, options.skip))
    triggers = tuple(each for each in schema.triggers if target.wanted(each.table, options.only, options.skip))
    unreadable = tuple(
        each for each in schema.unreadable if target.wanted(each.table or each.name, options.only, options.skip)
    )
    virtuals = tuple(each for each in schema.virtuals if target.wanted(each.name, options.only, options.skip))
    if (schema.tables or schema.views) and not (tables or views):
        raise ConfigError(
            "they leave no table", where="--only, --skip", try_="name a table in --only, or leave them away"
        )
    return replace(schema, tables=tables, views=views, triggers=triggers, virtuals=virtuals, unreadable=unreadable)


def schema_digest(schema: SourceSchema) -> str:
    """A hash of the source's declarations: what a plan relies on, beside the values that the guards watch."""
    declared = sorted((table.name, table.sql) for table in schema.tables)
    return hashlib.sha256(repr(declared).encode()).hexdigest()[:16]


def check_basis(plan: Plan, source: Source) -> None:
    """StalePlan when the source's schema is not the one that the plan was made for."""
    with source.snapshot(1) as readers:
        schema = read_schema(readers[0])
    options = Options.from_strings(plan.options)
    if plan.basis.get("source") not in (None, schema_digest(_selected(schema, options))):
        raise StalePlan(
            "the source's schema has changed since the plan was made",
            where=source.title,
            try_="make the plan again: dbscale migrate SOURCE TARGET -o plan.json",
        )


def _unique(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(dict.fromkeys(findings))
