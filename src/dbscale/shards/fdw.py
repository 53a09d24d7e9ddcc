"""The `fdw` target: a coordinator that reads over all shards, through PostgreSQL's own foreign partitions.

The tables stand in a schema of their own, `sharded`, on the home database: `SET search_path = sharded, public`, and
SQL spans the shards. It reads only: across postgres_fdw an UPDATE of the key leaves the row on its old shard, and
COMMIT is not atomic.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from dbscale.plan import Command, Sql
from dbscale.schema import literal, quote
from dbscale.shards import predicates
from dbscale.shards.facts import Facts, databases
from dbscale.shards.live import LiveTable
from dbscale.shards.map import Map, Range
from dbscale.shards.partitions import partition_bounds

SCHEMA = "sharded"
OPTIONS = "updatable 'false', async_capable 'true', fetch_size '10000', use_remote_estimate 'true'"


def server_name(database: str) -> str:
    return f"dbscale_{database}"


def steps(map_: Map, facts: Facts) -> Iterator[Sql | Command]:
    """What the coordinator lacks: servers, credentials, and for each table of the map a parent and its partitions."""
    home = facts.lives[facts.home]
    owners = databases(map_, facts.shards)
    if "postgres_fdw" not in home.extensions:
        yield Sql(
            does="install postgres_fdw",
            sql="CREATE EXTENSION postgres_fdw",
            undo="DROP EXTENSION postgres_fdw",
            on=facts.home,
        )
    yield from _servers(facts, owners)
    for table, column in map_.tables.items():
        found = next((facts.lives[name].tables[table] for name in owners if table in facts.lives[name].tables), None)
        wanted = frozenset(f"FOR VALUES {partition_bounds(map_, range_)}" for range_ in map_.ranges)
        if found is None or home.sharded.get(found.name) == wanted:
            continue
        for database in owners:
            yield from _views(map_, found, column, database, facts)
        yield _parent(map_, found, column, facts)


def _servers(facts: Facts, owners: dict[str, tuple[Range, ...]]) -> Iterator[Sql | Command]:
    """A foreign server for each database, and the credentials of this role on it.

    Passwords are in no plan: a command of dbscale's own looks them up where dbscale.toml says.
    """
    missing = [name for name in owners if server_name(name) not in facts.lives[facts.home].servers]
    for name in missing:
        place = facts.places.get(name, {})
        options = ", ".join(f"{key} {literal(value)}" for key, value in place.items())
        yield Sql(
            does=f"name {name} a foreign server",
            sql=f"CREATE SERVER {quote(server_name(name))} FOREIGN DATA WRAPPER postgres_fdw"
            f" OPTIONS ({options}, {OPTIONS})",
            undo=f"DROP SERVER {quote(server_name(name))} CASCADE",
            on=facts.home,
        )
    if missing:
        run = "from dbscale.cli import main; main()"
        yield Command(
            does=f"give this role its credentials on {', '.join(missing)}",
            argv=(sys.executable, "-c", run, "shards", "credentials", *facts.config, "--on", facts.home, *missing),
            undo="",
        )


def _view(map_: Map, table: LiveTable, range_: Range) -> str:
    return f"{table.name}_{map_.name}_{range_.id}"


def _views(map_: Map, table: LiveTable, column: str, database: str, facts: Facts) -> Iterator[Sql]:
    """Where a database owns several ranges, a view of each: a foreign partition reads all that its table yields."""
    ranges = databases(map_, facts.shards)[database]
    for range_ in ranges if len(ranges) > 1 else ():
        full = quote(facts.state_schema, _view(map_, table, range_))
        condition = predicates.condition(map_, column, [range_])
        yield Sql(
            does=f"show {range_.id} of {table.name} by itself on {database}",
            sql=f"CREATE OR REPLACE VIEW {full} AS SELECT * FROM {table.sql} WHERE {condition}",
            undo=f"DROP VIEW {full}",
            on=database,
        )


def _parent(map_: Map, table: LiveTable, column: str, facts: Facts) -> Sql:
    """The partitioned table of the coordinator, with a foreign partition for each range."""
    columns = ",\n".join(
        f"  {quote(c.name)} {c.type}" + (f" COLLATE {quote(c.collation)}" if c.collation else "") for c in table.columns
    )
    parent = quote(SCHEMA, table.name)
    form = "LIST" if map_.strategy == "list" else "RANGE"
    before = table.name in facts.lives[facts.home].sharded
    statements = [
        f"CREATE SCHEMA IF NOT EXISTS {quote(SCHEMA)}",
        *([f"DROP TABLE {parent}"] if before else []),
        f"CREATE TABLE {parent} (\n{columns}\n) PARTITION BY {form} ({quote(column)})",
    ]
    for database, ranges in databases(map_, facts.shards).items():
        for range_ in ranges:
            several = len(ranges) > 1
            remote = _view(map_, table, range_) if several else table.name
            schema = facts.state_schema if several else table.schema
            statements.append(
                f"CREATE FOREIGN TABLE {quote(SCHEMA, f'{table.name}_{range_.id}')} PARTITION OF {parent}"
                f" FOR VALUES {partition_bounds(map_, range_)} SERVER {quote(server_name(database))}"
                f" OPTIONS (schema_name {literal(schema)}, table_name {literal(remote)})"
            )
    return Sql(
        does=f"span {table.name} over {len(map_.ranges)} ranges in the schema {SCHEMA}",
        sql=";\n".join(statements),
        undo=None if before else f"DROP TABLE {parent}",
        on=facts.home,
    )


def mapping(database: str, user: str, password: str) -> str:
    """The statement that gives the current role its credentials on a foreign server. It holds a password."""
    options = f"user {literal(user)}" + (f", password {literal(password)}" if password else "")
    server = quote(server_name(database))
    return (
        f"DROP USER MAPPING IF EXISTS FOR CURRENT_USER SERVER {server};"
        f" CREATE USER MAPPING FOR CURRENT_USER SERVER {server} OPTIONS ({options})"
    )
