"""Loading into tables that an application's own migrations have made: what is there, and the steps around the load.

Tables and columns are matched by name, exactly or else ignoring case. While rows are copied, foreign keys among the
tables are dropped and user triggers are off: keys would make the order of tables matter and cycles impossible, and
triggers would change rows. Both are steps of the plan, with the way back, so a run that dies in between brings them
back when it goes on or is undone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dbscale.drivers.postgres import Connection
from dbscale.errors import Finding
from dbscale.migrate.model import SourceSchema, SourceTable
from dbscale.plan import Load, Sql, Step
from dbscale.schema import literal, quote

T = TypeVar("T")

SKIP = "skip"
"""In `[migrate.types]`: leave this column out."""

BOOKKEEPING = frozenset(
    (
        "alembic_version",
        "django_migrations",
        "_prisma_migrations",
        "__drizzle_migrations",
        "schema_migrations",
        "ar_internal_metadata",
        "__efmigrationshistory",
        "migrations",
        "typeorm_metadata",
        "knex_migrations",
        "knex_migrations_lock",
        "kysely_migration",
        "kysely_migration_lock",
        "atlas_schema_revisions",
        "_sqlx_migrations",
        "goose_db_version",
        "flyway_schema_history",
        "_migrations",
        "d1_migrations",
    )
)
"""Tables in which frameworks list their own migrations, in lower case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveColumn:
    name: str
    type: str
    """As `format_type` spells it, in the words of plan.Conversion where those are shorter (`timestamptz`)."""
    nullable: bool
    default: str
    generated: bool
    identity: bool
    sequence: str
    """The sequence behind an identity, a serial, or a default of `nextval(…)`: a quoted name, or empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveForeignKey:
    name: str
    definition: str
    """`pg_get_constraintdef`."""
    valid: bool
    columns: tuple[str, ...]
    parent_schema: str
    parent: str
    parent_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveTable:
    name: str
    columns: tuple[LiveColumn, ...]
    empty: bool
    foreign_keys: tuple[LiveForeignKey, ...] = ()
    uniques: tuple[tuple[str, ...], ...] = ()
    """The columns of each primary key, and of each unique key or index over plain columns of all rows."""
    triggers: tuple[str, ...] = ()
    """User triggers that are on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A source's table and the target's of that name, with the columns that go together."""

    source: SourceTable
    live: LiveTable
    columns: tuple[tuple[str, LiveColumn], ...]


_SHORT = {
    "timestamp with time zone": "timestamptz",
    "timestamp without time zone": "timestamp",
    "time without time zone": "time",
    "character varying": "varchar",
    "character": "char",
}

_COLUMNS = """
SELECT c.relname, a.attname,
       CASE t.typtype WHEN 'd' THEN format_type(t.typbasetype, t.typtypmod)
                      ELSE format_type(a.atttypid, a.atttypmod) END,
       NOT (a.attnotnull OR t.typnotnull),
       coalesce(pg_get_expr(d.adbin, d.adrelid), ''), a.attgenerated <> '', a.attidentity <> '',
       coalesce(pg_get_serial_sequence(format('%%I.%%I', n.nspname, c.relname), a.attname), '')
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE n.nspname = %s AND c.relkind IN ('r', 'p') AND NOT c.relispartition
 ORDER BY c.relname, a.attnum
"""

_FOREIGN_KEYS = """
SELECT c.relname, k.conname, pg_get_constraintdef(k.oid), k.convalidated,
       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS key (number, place)
               JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = key.number ORDER BY key.place),
       m.nspname, p.relname,
       ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY AS key (number, place)
               JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = key.number ORDER BY key.place)
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace m ON m.oid = p.relnamespace
 WHERE k.contype = 'f' AND n.nspname = %s AND k.conparentid = 0
 ORDER BY c.relname, k.conname
"""

_UNIQUES = """
SELECT c.relname, ARRAY(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY AS key (number, place)
                          JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = key.number
                         WHERE key.place <= i.indnkeyatts ORDER BY key.place)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL AND n.nspname = %s AND NOT c.relispartition
 ORDER BY i.indisprimary DESC, i.indexrelid
"""

_TRIGGERS = """
SELECT c.relname, t.tgname
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND n.nspname = %s
 ORDER BY c.relname, t.tgname
"""


def read(connection: Connection, schema: str) -> tuple[LiveTable, ...]:
    """The tables of one schema of the target."""
    columns: dict[str, list[LiveColumn]] = {}
    for table, name, type_, nullable, default, generated, identity, sequence in connection.execute(_COLUMNS, [schema]):
        called = re.search(r"nextval\('((?:[^']|'')+)'", default)
        columns.setdefault(table, []).append(
            LiveColumn(
                name=name,
                type=short_type(type_),
                nullable=nullable,
                default="" if generated else default,
                generated=generated,
                identity=identity,
                sequence=sequence or (called[1].replace("''", "'") if called else ""),
            )
        )
    keys: dict[str, list[LiveForeignKey]] = {}
    for table, name, definition, valid, columns_, parent_schema, parent, parent_columns in connection.execute(
        _FOREIGN_KEYS, [schema]
    ):
        key = LiveForeignKey(
            name=name,
            definition=definition,
            valid=valid,
            columns=tuple(columns_),
            parent_schema=parent_schema,
            parent=parent,
            parent_columns=tuple(parent_columns),
        )
        keys.setdefault(table, []).append(key)
    uniques: dict[str, list[tuple[str, ...]]] = {}
    for table, names in connection.execute(_UNIQUES, [schema]):
        uniques.setdefault(table, []).append(tuple(names))
    triggers: dict[str, list[str]] = {}
    for table, name in connection.execute(_TRIGGERS, [schema]):
        triggers.setdefault(table, []).append(name)
    return tuple(
        LiveTable(
            name=name,
            columns=tuple(columns[name]),
            empty=connection.execute(f"SELECT NOT EXISTS (SELECT FROM {quote(schema, name)})".encode()).fetchone()
            == (True,),
            foreign_keys=tuple(keys.get(name, ())),
            uniques=tuple(uniques.get(name, ())),
            triggers=tuple(triggers.get(name, ())),
        )
        for name in columns
    )


def short_type(spelled: str) -> str:
    """`timestamp(3) with time zone` as `timestamptz(3)`, `character varying(20)` as `varchar(20)`."""
    bare = re.sub(r"\(.*?\)", "", spelled)
    size = re.search(r"\(.*?\)", spelled)
    short = _SHORT.get(bare)
    return spelled if short is None else short + (size[0] if size else "")


def match(
    schema: SourceSchema, live: Sequence[LiveTable], overrides: Mapping[str, str]
) -> tuple[tuple[Match, ...], tuple[Finding, ...]]:
    """The tables and columns that go together; blockers for what has no counterpart.

    `overrides` may leave a column out: `"table.column" = "skip"`. A framework's list of its own migrations is left
    alone: the one on the target says what made these tables.
    """
    matches: list[Match] = []
    findings: list[Finding] = []
    for table in schema.tables:
        if table.name.lower() in BOOKKEEPING:
            says = "it is the framework's list of its own migrations: the target keeps its own"
            findings.append(Finding(code="bookkeeping-left-out", where=table.name, says=says))
            continue
        found = _named(table.name, {each.name: each for each in live})
        if found is None:
            findings.append(
                Finding(
                    code="no-such-table",
                    where=table.name,
                    says="the target has no table of this name",
                    try_=f"run the application's migrations on the target first, or --skip {table.name}",
                    level="blocker",
                )
            )
            continue
        columns, more = _match_columns(table, found, overrides)
        findings += more
        matches.append(Match(source=table, live=found, columns=columns))
    return tuple(matches), tuple(findings)


def _match_columns(
    table: SourceTable, live: LiveTable, overrides: Mapping[str, str]
) -> tuple[tuple[tuple[str, LiveColumn], ...], list[Finding]]:
    pairs: list[tuple[str, LiveColumn]] = []
    findings: list[Finding] = []
    by_name = {column.name: column for column in live.columns}
    for column in table.columns:
        where = f"{table.name}.{column.name}"
        found = _named(column.name, by_name)
        if overrides.get(where) == SKIP:
            findings.append(Finding(code="column-left-out", where=where, says="left out, as asked", level="data"))
        elif found is None and column.generated:
            continue
        elif found is None:
            findings.append(
                Finding(
                    code="no-such-column",
                    where=where,
                    says=f"the target's table {live.name} has no such column",
                    try_=f'add it there, or leave it out: [migrate.types] "{where}" = "skip"',
                    level="blocker",
                )
            )
        elif not found.generated:
            pairs.append((column.name, found))
    filled = {column.name for _, column in pairs}
    findings += [
        Finding(
            code="column-without-source",
            where=f"{live.name}.{column.name}",
            says="the source has no such column, and it must not be NULL and has no default",
            try_="give it a default on the target",
            level="blocker",
        )
        for column in live.columns
        if column.name not in filled and not (column.nullable or column.default or column.generated or column.identity)
    ]
    return tuple(pairs), findings


def _named(name: str, things: Mapping[str, T]) -> T | None:
    """The thing of that name: exactly, or else the only one that is the same ignoring case."""
    if name in things:
        return things[name]
    close = [thing for key, thing in things.items() if key.lower() == name.lower()]
    return close[0] if len(close) == 1 else None


def references(schema: str, matches: Sequence[Match], live: Sequence[LiveTable]) -> list[tuple[str, LiveForeignKey]]:
    """The foreign keys of the tables that are loaded, and those by which other tables of the schema refer to them:
    while these are there, PostgreSQL empties no table."""
    loaded = {each.live.name for each in matches}
    return [
        (table.name, key)
        for table in live
        for key in table.foreign_keys
        if table.name in loaded or (key.parent_schema == schema and key.parent in loaded)
    ]


def referring(schema: str, matches: Sequence[Match], live: Sequence[LiveTable]) -> Iterable[Finding]:
    """A blocker for each table that is not loaded, and whose rows refer to a table that is to be emptied."""
    full = {each.live.name for each in matches if not each.live.empty}
    loaded = {each.live.name for each in matches}
    rows = {table.name for table in live if not table.empty}
    for table, key in references(schema, matches, live):
        if table in rows - loaded and key.parent in full:
            says = f"its rows refer to {key.parent}, which is to be emptied"
            yield Finding(code="target-not-empty", where=table, says=says, try_=f"empty {table} first", level="blocker")


def in_the_way(matches: Sequence[Match]) -> tuple[Finding, ...]:
    """A blocker for each table that holds rows already."""
    return tuple(
        Finding(
            code="target-not-empty",
            where=each.live.name,
            says="the target's table holds rows",
            try_="--truncate to empty it first",
            level="blocker",
        )
        for each in matches
        if not each.live.empty
    )


def steps(
    schema: str,
    matches: Sequence[Match],
    loads: Sequence[Load],
    sequences: Mapping[str, int],
    *,
    live: Sequence[LiveTable],
    truncate: bool,
) -> tuple[Step, ...]:
    """Keys and triggers out of the way, the load, keys and triggers back, sequences past what was loaded.

    `live`: all tables of the schema; others than those of `matches` may refer to them.
    """
    before: list[Step] = []
    after: list[Step] = []
    for name, key in references(schema, matches, live):
        table = quote(schema, name)
        drop = f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {quote(key.name)}"
        add = f"ALTER TABLE {table} ADD CONSTRAINT {quote(key.name)} {key.definition}"
        unchecked = add if add.endswith(" NOT VALID") else f"{add} NOT VALID"
        title = f"foreign key {quote(key.name)} on {quote(name)}"
        before.append(Sql(does=f"drop {title} for the load", sql=drop, undo=add, blocks="everything"))
        after.append(Sql(does=f"bring back {title}", sql=unchecked, undo=drop, blocks="writes"))
        if key.valid:
            check = f"ALTER TABLE {table} VALIDATE CONSTRAINT {quote(key.name)}"
            after.append(Sql(does=f"validate {title}", sql=check, undo=""))
    for each in matches:
        table = quote(schema, each.live.name)
        for name in each.live.triggers:
            off = f"ALTER TABLE {table} DISABLE TRIGGER {quote(name)}"
            on = f"ALTER TABLE {table} ENABLE TRIGGER {quote(name)}"
            title = f"trigger {quote(name)} on {quote(each.live.name)}"
            before.append(Sql(does=f"switch off {title} for the load", sql=off, undo=on, blocks="writes"))
            after.append(Sql(does=f"switch on {title}", sql=on, undo=off, blocks="writes"))
    full = [quote(schema, each.live.name) for each in matches if not each.live.empty]
    if truncate and full:
        before.append(Sql(does="empty the tables", sql=f"TRUNCATE {', '.join(full)}", undo=None, blocks="everything"))
    after += _restarts(schema, matches, sequences)
    after += [
        Sql(
            does=f"vacuum and analyze {quote(each.live.name)}",
            sql=f"VACUUM (ANALYZE) {quote(schema, each.live.name)}",
            undo="",
            group="analyze",
            alone=True,
        )
        for each in matches
    ]
    return (*before, *loads, *after)


def _restarts(schema: str, matches: Sequence[Match], sequences: Mapping[str, int]) -> Iterable[Sql]:
    """Every identity, serial and `nextval` default: past the largest value there is."""
    for each in matches:
        for column in each.live.columns:
            if column.sequence:
                given = max(sequences.get(each.source.name, 0), 0) if column.name == _identity_of(each) else 0
                place = quote(schema, each.live.name)
                yield Sql(
                    does=f"next value of {quote(each.live.name)}.{quote(column.name)}",
                    sql=f"SELECT setval({literal(column.sequence)}::regclass,"
                    f" greatest(coalesce(max({quote(column.name)}), 0), {given}) + 1, false) FROM {place}",
                    undo="",
                    group="identities",
                )


def _identity_of(each: Match) -> str:
    """The target's column that takes the source's rowid."""
    return next((live.name for name, live in each.columns if name == each.source.rowid_column), "")
