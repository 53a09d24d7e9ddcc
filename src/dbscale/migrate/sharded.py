"""A migration spread over shards: every row on the shard that owns its key, and the tables on no map on `home`.

A table on a map has one load for each database, with a condition on its key in SQLite's SQL. The first database's
condition is the negation of all others', so that together they hold every row once, whatever is stored; a row whose
key nobody owns goes to the first, where the ownership CHECK, which is there before the rows are, refuses it by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from itertools import zip_longest
from uuid import UUID

from dbscale.drivers import postgres
from dbscale.drivers.source import Reader, Source
from dbscale.errors import ConfigError, Finding, Missing
from dbscale.migrate import canonical, room, steps
from dbscale.migrate.encode import as_int
from dbscale.migrate.plan import Migration
from dbscale.plan import Load, LoadColumn, Plan, Sql, Step
from dbscale.schema import Column, Schema, Table, View, columns_sql, literal, quote
from dbscale.shards import client, live, predicates, targets
from dbscale.shards.facts import Facts, databases
from dbscale.shards.keys import HIGHEST, INTEGERS, LOWEST, Key, Keys
from dbscale.shards.live import Constraint, Live, LiveTable
from dbscale.shards.map import Map, Maps, Range

SAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """The databases that a migration is spread over."""

    urls: Mapping[str, str]
    """By name in dbscale.toml."""
    home: str


@dataclass(slots=True, kw_only=True)
class _Spread:
    """What is known while a migration is spread."""

    migration: Migration
    maps: Maps
    servers: Servers
    lives: dict[str, Live]
    new_schema: dict[str, bool]
    findings: list[Finding]

    @property
    def schema(self) -> Schema:
        assert self.migration.target is not None  # noqa: S101 - `spread` has refused tables that exist
        return self.migration.target.schema

    def databases(self, map_: Map) -> dict[str, tuple[Range, ...]]:
        return databases(map_, self.maps.shards)

    def map_of(self, table: str) -> Map | None:
        return self.maps.of(table, self.schema.name)

    def key_of(self, table: str) -> str:
        """The key column of a table on a map; empty for any other."""
        return self.maps.column(table, self.schema.name)

    def places(self, table: str) -> tuple[str, ...]:
        """The databases that get a table's rows, or some of them."""
        map_ = self.map_of(table)
        if map_ is None:
            return (self.servers.home,)
        owners = tuple(self.databases(map_))
        return owners if self.key_of(table) else tuple(dict.fromkeys((self.servers.home, *owners)))

    @property
    def names(self) -> tuple[str, ...]:
        """Every database, home first."""
        owners = (database for map_ in self.maps.maps for database in self.databases(map_))
        return tuple(dict.fromkeys((self.servers.home, *owners)))

    def on(self, database: str) -> str:
        """A database as the plan's steps name it."""
        return "target" if database == self.servers.home else database


def spread(migration: Migration, source: Source, maps: Maps, servers: Servers, *, ignore_rows: bool) -> Migration:
    """The migration over the databases of `maps`: its plan has the steps of all, its `parts` are what each gets.

    The source is read once more, for how many rows each shard gets. Nothing is changed. ConfigError where a map
    cannot be held by independent servers, or tables exist; what else stands in the way is a blocker of the plan.
    """
    if migration.target is None:
        raise ConfigError("--into-existing and --shard-map do not go together", try_="give one of them")
    for map_ in maps.maps:
        targets.refuse(map_, "client")
    work = _Spread(migration=migration, maps=maps, servers=servers, lives={}, new_schema={}, findings=[])
    for name in work.names:
        _look(work, name, ignore_rows=ignore_rows)
    with source.snapshot(1) as (reader,):
        loads = tuple(load for each in migration.loads for load in _loads(work, reader, each))
    schemas = {name: _schema(work, name) for name in work.names}
    facts = Facts(
        lives={name: _expected(work, name, schemas[name]) for name in work.names},
        shards=dict(maps.shards),
        home=servers.home,
        state_schema=migration.options.state_schema,
    )
    for map_ in maps.maps:
        work.findings += (_in_its_schema(finding, work.schema.name) for finding in client.findings(map_, facts))
        work.findings += later(map_)
    made = Plan(
        title=f"{migration.plan.title}, by {', '.join(map_.name for map_ in maps.maps)}",
        databases=migration.plan.databases | {name: name for name in work.names if name != servers.home},
        steps=tuple(_steps(work, facts, schemas, loads)),
        findings=tuple(dict.fromkeys((*migration.plan.findings, *work.findings))),
        basis=migration.plan.basis,
        options=migration.plan.options,
    )
    return replace(migration, plan=made, loads=loads, parts=_parts(work, facts, schemas, loads))


def _in_its_schema(finding: Finding, schema: str) -> Finding:
    """A table that is not there may be one that the map means in another schema."""
    table = finding.where.rpartition(".")[2]
    if finding.code != "shard-table-missing" or schema == "public":
        return finding
    return replace(finding, try_=f'the migration fills the schema {schema}: let the map say "{schema}.{table}"')


def _look(work: _Spread, name: str, *, ignore_rows: bool) -> None:
    """What a database knows of maps; a finding where it has tables of these names already."""
    schema = work.schema.name
    with postgres.connect(work.servers.urls[name], name="dbscale plan") as connection, postgres.reading(connection):
        work.lives[name] = live.read(connection, name, (), work.migration.options.state_schema)
        if name == work.servers.home:
            work.new_schema[name] = any(
                isinstance(step, Sql) and step.sql.startswith("CREATE SCHEMA") for step in work.migration.plan.steps
            )
            return
        room.check_server(connection)
        work.new_schema[name] = not room.exists(connection, schema)
        vectors = any(column.type.startswith("vector") for table in work.schema.tables for column in table.columns)
        if vectors and "vector" not in work.lives[name].extensions:
            raise Missing("the extension vector is not there", where=name, try_="CREATE EXTENSION vector")
        if not ignore_rows:
            room.check_writable(connection)
            room.check_privileges(connection, schema, new_schema=work.new_schema[name])
            own = replace(work.schema, tables=_tables(work, name), views=())
            found = room.clashes(room.relations(connection, schema), own)
            work.findings += [replace(finding, where=f"{name}: {finding.where}") for finding in found]


# Rows


def _loads(work: _Spread, reader: Reader, load: Load) -> Iterator[Load]:
    """A table's loads: one for each database that gets rows of it."""
    map_, key = work.map_of(load.target), work.key_of(load.target)
    names = work.places(load.target)
    column = next((column for column in load.columns if column.target == key), None)
    if map_ is None or column is None or (len(names) == 1 and map_.until is None and map_.ranges[0].start is None):
        for name in names:
            yield _placed(work, load, name)
        return
    texts, utf8 = has_texts(work.migration, load, column), work.migration.survey.schema.encoding == "UTF-8"
    owned = {name: condition(map_, column, ranges, reader.library, texts=texts, utf8=utf8)
             for name, ranges in work.databases(map_).items()}  # fmt: skip
    first, *others = owned
    wheres = {first: f"({' OR '.join(f'({owned[name]})' for name in others)}) IS NOT TRUE" if others else ""}
    wheres |= {name: owned[name] for name in others}
    sums = ", ".join(f"ifnull(sum({sql}),0)" for sql in owned.values())
    found = next(reader.rows(f"SELECT count(*), {sums} FROM {quote(load.table)} AS s"))
    total, *counts = (as_int(count) for count in found)
    rows = dict(zip(owned, counts, strict=True))
    if strays := total - sum(counts):
        unowned = f"({' OR '.join(f'({sql})' for sql in owned.values())}) IS NOT TRUE"
        work.findings.append(unowned_rows(reader, load, column, map_, unowned, strays))
        rows[first] += strays
    for name, count in rows.items():
        size = load.bytes * count // max(load.rows, 1)
        yield replace(_placed(work, load, name), where=wheres[name], rows=count, bytes=size)


def _placed(work: _Spread, load: Load, name: str) -> Load:
    on = work.on(name)
    return replace(load, on=on, does=load.does if on == "target" else f"{load.does} to {on}")


def has_texts(migration: Migration, load: Load, column: LoadColumn) -> bool:
    """Text is stored in the key's column, too."""
    return bool(migration.survey.profiles[load.table].columns[column.source].texts)


def unowned_rows(  # noqa: PLR0917
    reader: Reader, load: Load, column: LoadColumn, map_: Map, unowned: str, count: int
) -> Finding:
    """Rows whose key nobody owns: `unowned` is true of them in SQLite."""
    name = f"s.{quote(column.source)}"
    sql = f"SELECT DISTINCT substr(quote({name}),1,40) FROM {quote(load.table)} AS s WHERE {unowned} LIMIT ?"
    shown = ", ".join(_texts(reader, sql))
    apart = load.on_bad_row == "quarantine"
    return Finding(
        code="shard-no-owner",
        where=f"{load.table}.{column.source}",
        says=f"{count} rows have a key that no range of the map {map_.name} owns ({shown}, say)"
        + (": they are kept apart" if apart else ""),
        try_="add a range for them to the map, correct them, or --on-bad-row quarantine",
        level="data" if apart else "blocker",
    )


def _texts(reader: Reader, sql: str) -> Iterator[str]:
    """The first few rows of a query for one text."""
    for (value,) in reader.rows(sql, (SAMPLES,)):
        yield value if isinstance(value, str) else repr(value)


def condition(
    map_: Map,
    column: LoadColumn,
    ranges: Iterable[Range],
    library: tuple[int, int, int],
    *,
    texts: bool = False,
    utf8: bool = True,
) -> str:
    """True in SQLite, over the table `AS s`, for the rows whose key one of `ranges` owns.

    `texts`: numbers are stored as text, too; `utf8`: the source is in UTF-8. A stored value that is no key of the
    map's type is in no range or in any one: the ownership CHECK has the last word. ConfigError for ranges of text in
    UTF-16, which SQLite orders by its bytes.
    """
    found = tuple(ranges)
    if map_.key == "text" and not utf8 and map_.strategy != "list":
        raise ConfigError(
            "the source is in UTF-16, in which SQLite sorts text in another order than the map's ranges",
            where=column.source,
            try_="migrate from a copy in UTF-8: sqlite3 app.db .dump | sqlite3 copy.db",
        )
    if map_.key in INTEGERS or map_.key == "text":
        return _among(map_, found, _plain(map_.key, column, texts=texts))
    spelling = canonical.source_sql(f"s.{quote(column.source)}", column.conversion, library, floats=False, utf8=utf8)
    text = f"CASE WHEN {spelling.test} THEN {spelling.text} END"
    if map_.key == "uuid":
        return _among(map_, found, f"({text})")
    # Times are spelled in two's complement: what is before 2000 sorts below the rest with a 0 in front. To spell one
    # takes half as long as to write its row: a subquery with a LIMIT does it once.
    value = "(CASE WHEN v<'8' THEN '1' ELSE '0' END||v)"
    return f"(SELECT {_among(map_, found, value)} FROM (SELECT {text} AS v LIMIT 1))"


def _among(map_: Map, ranges: Sequence[Range], value: str) -> str:
    """True where one of `ranges` owns `value`, a key in a form whose order in SQLite is the order of keys."""
    if map_.strategy == "list":
        return f"{value} IN ({', '.join(_bound(value) for range_ in ranges for value in range_.values)})"
    owned: Keys = predicates.owned(map_, ranges)
    parts = []
    for start, end in owned.intervals:
        low = [] if start == LOWEST else [f"{value}>={_bound(start[1])}"]
        high = [] if end == HIGHEST else [f"{value}<{_bound(end[1])}"]
        parts.append(" AND ".join([*low, *high]) or f"{value} IS NOT NULL")
    return parts[0] if len(parts) == 1 else " OR ".join(f"({part})" for part in parts)


def _plain(key: str, column: LoadColumn, *, texts: bool) -> str:
    """A stored number or text in a form whose order in SQLite is the order of keys."""
    name = f"s.{quote(column.source)}"
    if key == "text":
        return f"({name} COLLATE BINARY)"
    return f"CASE typeof({name}) WHEN 'text' THEN CAST({name} AS INTEGER) ELSE {name} END" if texts else name


def _bound(key: Key) -> str:
    """A key as SQLite's constant in the same form."""
    if isinstance(key, int):
        return str(key)
    if isinstance(key, str):
        return "'" + key.replace("'", "''") + "'"
    if isinstance(key, UUID):
        return f"'{key.hex}'"
    if isinstance(key, datetime):
        count, digits = canonical.microseconds(key), 16
    else:
        count, digits = (key - date(2000, 1, 1)).days, 8
    return f"'{int(count >= 0)}{count & ((1 << 4 * digits) - 1):0{digits}x}'"


# Tables


def _tables(work: _Spread, name: str) -> tuple[Table, ...]:
    """The tables that a database gets, with the foreign keys that it can hold."""
    return tuple(_table(work, table, name) for table in work.schema.tables if name in work.places(table.name))


def _table(work: _Spread, table: Table, name: str) -> Table:
    key = work.key_of(table.name)
    map_ = work.map_of(table.name)
    columns = table.columns
    if key and map_ is not None and map_.key == "text":
        columns = tuple(replace(each, collation="C") if each.name == key else each for each in columns)
    kept = []
    for foreign in table.foreign_keys:
        parent = work.key_of(foreign.parent)
        tied = not parent or (
            work.map_of(foreign.parent) is map_
            and (key, parent) in zip(foreign.columns, foreign.parent_columns, strict=True)
        )
        if name in work.places(foreign.parent) and tied:
            kept.append(foreign)
        elif not key:
            work.findings.append(
                Finding(
                    code="shard-foreign-key",
                    where=f"{name}: {table.name}.{foreign.name}",
                    says=f"it refers to {foreign.parent}, whose rows are on other servers: it is left out",
                    try_=f"put {table.name} on the map of {foreign.parent} too, or check it in the application",
                    level="behaviour",
                )
            )
    return replace(table, columns=columns, foreign_keys=tuple(kept))


def _schema(work: _Spread, name: str) -> Schema:
    views = _views(work) if name == work.servers.home else ()
    return replace(work.schema, tables=_tables(work, name), views=views)


def _views(work: _Spread) -> tuple[View, ...]:
    """The views over tables that are whole on home."""
    elsewhere = {table.name for table in work.schema.tables if work.key_of(table.name)}
    elsewhere = {name for name in elsewhere if work.places(name) != (work.servers.home,)}
    kept = []
    for view in work.schema.views:
        found = sorted(name for name in elsewhere if quote(work.schema.name, name) in view.reads)
        if not found:
            kept.append(view)
            continue
        elsewhere.add(view.name)
        work.findings.append(
            Finding(
                code="shard-view",
                where=view.name,
                says=f"the view reads {', '.join(found)}, whose rows are on several servers: it is left out",
                try_="dbscale shards apply MAP --target fdw, then create it over the schema sharded",
                level="behaviour",
            )
        )
    return tuple(kept)


def later(map_: Map) -> Iterator[Finding]:
    """What a time map leaves to be done after the migration."""
    if map_.every:
        yield Finding(
            code="shard-partitions-later",
            where=map_.path or map_.name,
            says=f"its tables are not partitioned by {map_.every} yet",
            try_=f"dbscale shards apply {map_.name}, after the migration",
            level="note",
        )


# Steps


def _expected(work: _Spread, name: str, schema: Schema) -> Live:
    """A database as it is once the rows are there: its tables, and the CHECKs, which come with them."""
    return replace(
        work.lives[name], tables={_map_name(work, table): _live(work, name, table) for table in schema.tables}
    )


def _map_name(work: _Spread, table: Table) -> str:
    """A table's name as its map has it; `farms` is public.farms."""
    map_, full = work.map_of(table.name), f"{work.schema.name}.{table.name}"
    on_it = map_ is not None and full in (*map_.tables, *map_.reference)
    return full if on_it or work.schema.name != "public" else table.name


def _live(work: _Spread, name: str, table: Table) -> LiveTable:
    found = LiveTable(
        schema=work.schema.name,
        name=table.name,
        kind="r",
        columns=tuple(_live_column(column) for column in table.columns),
        constraints=tuple(_constraints(work, table)),
    )
    map_ = work.map_of(table.name)
    if map_ is None or not work.key_of(table.name):
        return found
    ranges = work.databases(map_)[name]
    sql = f"CHECK ({predicates.condition(map_, work.key_of(table.name), ranges)})"
    owns = Constraint(name=client.check_name(map_), kind="c", columns=(work.key_of(table.name),), definition=sql)
    return replace(found, constraints=(*found.constraints, owns))


def _live_column(column: Column) -> Column:
    """As `format_type` spells it."""
    return replace(column, type={"timestamptz": "timestamp with time zone"}.get(column.type, column.type))


def _constraints(work: _Spread, table: Table) -> Iterator[Constraint]:
    for key in table.keys:
        kind = "PRIMARY KEY" if key.primary else "UNIQUE"
        yield Constraint(
            name=key.name, kind=kind[0].lower(), columns=key.columns, definition=f"{kind} ({columns_sql(key.columns)})"
        )
    # Those of the whole schema: what a shard cannot hold is a finding.
    for foreign in work.schema.table(table.name).foreign_keys:
        yield Constraint(
            name=foreign.name,
            kind="f",
            columns=foreign.columns,
            definition="",
            parent=foreign.parent,
            parent_columns=foreign.parent_columns,
        )


def _steps(work: _Spread, facts: Facts, schemas: Mapping[str, Schema], loads: Sequence[Load]) -> Iterator[Step]:
    """The steps of all databases, phase by phase; ownership is written down once the rows are where they belong."""
    target = work.migration.target
    given = {each.table: each.sequence for each in target.identities if each.sequence} if target else {}
    phases = [
        (
            work.on(name),
            steps.phases(
                schema,
                [load for load in loads if load.on == work.on(name)],
                given,
                new_schema=work.new_schema[name],
            ),
        )
        for name, schema in schemas.items()
    ]
    for number in range(PHASES):
        # In turns, so that within a group the largest tables of all databases come first.
        of = [[step if isinstance(step, Load) else _moved(step, on) for step in next(phase)] for on, phase in phases]
        yield from (step for turn in zip_longest(*of) for step in turn if step is not None)
        if number == 0:
            yield from _checks(work, facts)
        if number == IDENTITIES:
            for map_ in work.maps.maps:
                for step in client.steps(map_, facts):
                    yield replace(step, on=work.on(step.on))


PHASES, IDENTITIES = 10, 8


def _moved(step: Step, on: str) -> Step:
    return replace(step, on=on, does=step.does if on == "target" else f"{step.does} on {on}")


def _checks(work: _Spread, facts: Facts) -> Iterator[Sql]:
    for map_ in work.maps.maps:
        for database, ranges in work.databases(map_).items():
            for table in map_.tables:
                found = facts.lives[database].tables.get(table)
                if found is not None:
                    bare = tuple(each for each in found.constraints if each.name != client.check_name(map_))
                    for step in client.check(map_, replace(found, constraints=bare), database, ranges):
                        yield replace(step, on=work.on(database))


def _parts(work: _Spread, facts: Facts, schemas: Mapping[str, Schema], loads: Sequence[Load]) -> dict[str, Migration]:
    """What each database is to hold, for `verify`."""
    found = {}
    target = work.migration.target
    assert target is not None  # noqa: S101 - `spread` has refused tables that exist
    for name, schema in schemas.items():
        tables = tuple(_with_range_ids(work, facts, name, table) for table in schema.tables)
        found[work.on(name)] = replace(
            work.migration,
            loads=tuple(load for load in loads if load.on == work.on(name)),
            target=replace(target, schema=replace(schema, tables=tables)),
        )
    return found


def _with_range_ids(work: _Spread, facts: Facts, name: str, table: Table) -> Table:
    """The table that gives the keys has them from a range's sequence, not from an identity."""
    map_ = work.map_of(table.name)
    if map_ is None or client.generated(map_, facts).rpartition(".")[2] != table.name:
        return table
    ranges = [range_ for range_ in work.databases(map_)[name] if range_.start is not None]
    if not ranges:
        return table
    sequence = literal(quote(work.schema.name, client.sequence_name(table.name, ranges[0])))
    columns = tuple(
        replace(column, identity=False, default=f"nextval({sequence}::regclass)")
        if column.name == work.key_of(table.name)
        else column
        for column in table.columns
    )
    return replace(table, columns=columns)
