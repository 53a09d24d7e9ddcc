"""Reads what planning and checking a map need to know of its servers, each in one read-only transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from dbscale.drivers import postgres
from dbscale.drivers.postgres import Connection
from dbscale.errors import ConfigError
from dbscale.schema import quote
from dbscale.shards import live as reading
from dbscale.shards import predicates
from dbscale.shards.client import check_name
from dbscale.shards.facts import STATE_SCHEMA, Copy, Facts, Latest, databases
from dbscale.shards.keys import ANYTHING
from dbscale.shards.live import Live, LiveTable
from dbscale.shards.map import Map

LARGEST_COPY = 10_000
"""The most rows of a table that is copied whole to every shard by a plan."""


def gather(
    map_: Map,
    shards: Mapping[str, str],
    urls: Mapping[str, str],
    *,
    replicas: Mapping[str, str] = MappingProxyType({}),
    catalog_sql: Callable[[str], str] = lambda _: "",
    state_schema: str = STATE_SCHEMA,
) -> Facts:
    """The facts of the databases that a map names, and of home.

    `urls` has each database's; `replicas` has the one that a coordinator reads it from, where there is one;
    `catalog_sql` says what takes dbscale's own tables from a revision to the newest.
    Unreachable where a server does not answer. Nothing is changed.
    """
    home = shards.get("home") or next(iter(databases(map_, shards)))
    names = dict.fromkeys((home, *databases(map_, shards)))
    facts = Facts(lives={}, shards=dict(shards), home=home, state_schema=state_schema)
    lives: dict[str, Live] = {}
    strangers: dict[tuple[str, str], int] = {}
    latest: dict[tuple[str, str], Latest] = {}
    copies: dict[str, Copy] = {}
    digests: dict[tuple[str, str], str] = {}
    for name in names:
        with postgres.connect(urls[name]) as connection, postgres.reading(connection):
            found = reading.read(connection, name, (*map_.tables, *map_.reference), state_schema)
            lives[name] = found
            strangers |= {(name, table): n for table, n in _strangers(connection, map_, found, shards).items()}
            latest |= {(name, table): time for table, time in _latest(connection, map_, found)}
            for table in map_.reference:
                if table in found.tables:
                    copy = _copy(connection, found.tables[table], table, rows=name == home)
                    copies |= {table: copy} if name == home else {}
                    digests[name, table] = copy.digest
    # Home's tables are brought up to date by whoever carries the plan out: its runs are written there.
    places = {name: _place(replicas.get(name, urls[name])) for name in names}
    sql = {name: text for name, one in lives.items() if name != home and (text := catalog_sql(one.revision))}
    return replace(facts, lives=lives, strangers=strangers, latest=latest, copies=copies, digests=digests,
                   catalog_sql=sql, places=places)  # fmt: skip


def _place(url: str) -> dict[str, str]:
    """Host, port and database of a URL, without user and password."""
    from psycopg import conninfo

    parts = conninfo.conninfo_to_dict(url)
    return {key: str(parts[key]) for key in ("host", "port", "dbname") if parts.get(key)}


def _strangers(connection: Connection, map_: Map, found: Live, shards: Mapping[str, str]) -> dict[str, int]:
    """How many rows of each table have a key that another database owns; a valid CHECK answers without reading."""
    ranges = databases(map_, shards).get(found.database)
    counts: dict[str, int] = {}
    for name, column in map_.tables.items():
        table = found.tables.get(name)
        if table is None or table.column(column) is None:
            continue
        if not ranges:
            row: Any = connection.execute(f"SELECT count(*) FROM {table.sql}".encode()).fetchone()
            counts |= {name: row[0]} if row[0] else {}
            continue
        wanted = predicates.owned(map_, ranges)
        present = table.constraint(check_name(map_))
        proven = present and present.valid and predicates.read(map_, name, present.definition) == wanted
        if proven or wanted == ANYTHING:
            continue
        condition = predicates.condition(map_, column, ranges)
        row = connection.execute(f"SELECT count(*) FROM {table.sql} WHERE NOT ({condition})".encode()).fetchone()
        if row[0]:
            counts[name] = row[0]
    return counts


def _latest(connection: Connection, map_: Map, found: Live) -> Iterator[tuple[str, Latest]]:
    """The greatest time of each table that is to be partitioned by time, and has rows."""
    for name, column in map_.tables.items() if map_.every else ():
        table = found.tables.get(name)
        if table is None or table.kind != "r" or table.column(column) is None:
            continue
        row: Any = connection.execute(
            f"SELECT extract(epoch FROM last)::float8, last::text FROM (SELECT max({quote(column)}) FROM {table.sql})"
            " AS t(last)".encode()
        ).fetchone()
        if row[1] is not None:
            yield name, Latest(seconds=row[0], shown=row[1])


def _copy(connection: Connection, table: LiveTable, name: str, *, rows: bool) -> Copy:
    """A reference table's digest, and its rows where they are wanted. ConfigError where it is too large."""
    row: Any = connection.execute(
        "SELECT count(*), coalesce(md5(string_agg(t::text, chr(10) ORDER BY t::text COLLATE \"C\")), '') FROM"
        f" (SELECT * FROM {table.sql} LIMIT {LARGEST_COPY + 1}) t".encode()
    ).fetchone()
    if row[0] > LARGEST_COPY:
        raise ConfigError(
            f"the reference table {name} has more than {LARGEST_COPY} rows",
            where=f"reference: {name}",
            try_="give it a key column and put it among the map's tables",
        )
    body: Any = ("",)
    if rows:
        body = connection.execute(f"SELECT coalesce(json_agg(t), '[]')::text FROM {table.sql} t".encode()).fetchone()
    return Copy(table=name, rows=body[0], digest=row[1], count=row[0])
