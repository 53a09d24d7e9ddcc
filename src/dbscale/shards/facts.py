"""What planning and checking a map need to know of its servers, as `gather` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dbscale.errors import Finding, Level
from dbscale.shards.live import Live, LiveTable
from dbscale.shards.map import Map, Range

STATE_SCHEMA = "dbscale"


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A reference table's rows, read where it is written."""

    table: str
    rows: str
    """A JSON array of the rows."""
    digest: str
    """Of the rows, whatever their order."""
    count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Latest:
    """The greatest time of some rows."""

    seconds: float
    """Since 1970 in UTC; inf for PostgreSQL's own `infinity`."""
    shown: str
    """As PostgreSQL spells it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What planning needs to know of the servers."""

    lives: Mapping[str, Live]
    """Each database by its name in dbscale.toml."""
    shards: Mapping[str, str]
    """Each shard's database."""
    home: str
    """The database of the tables on no map; the reference tables are written there."""
    catalog_sql: Mapping[str, str] = field(default_factory=dict)
    """What brings dbscale's own tables up to date, by database; nothing where they are."""
    strangers: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """How many rows of a table on a database belong to another one."""
    latest: Mapping[tuple[str, str], Latest] = field(default_factory=dict)
    """The greatest time of a table on a database, where it is to be partitioned by time."""
    copies: Mapping[str, Copy] = field(default_factory=dict)
    digests: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """The digest of a reference table's copy, by database and table."""
    places: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """host, port and dbname by which a coordinator reads each database."""
    config: tuple[str, ...] = ()
    """How a command of dbscale's own is told of the configuration file: `--config FILE`."""
    state_schema: str = STATE_SCHEMA


def finding(level: Level, code: str, where: str, says: str, try_: str) -> Finding:
    """A finding; `code` has a section in docs/errors.md."""
    return Finding(level=level, code=code, where=where, says=says, try_=try_)


def databases(map_: Map, shards: Mapping[str, str]) -> dict[str, tuple[Range, ...]]:
    """The databases of a map with the ranges each of them owns; for a hash map, Citus' coordinator."""
    if map_.hash:
        return {shards[map_.shard]: ()}
    found: dict[str, tuple[Range, ...]] = {}
    for range_ in map_.ranges:
        database = shards[range_.shard]
        found[database] = (*found.get(database, ()), range_)
    return found


def template(facts: Facts, table: str) -> LiveTable | None:
    """The table as some database has it: home first."""
    order = (facts.home, *facts.shards.values())
    return next((facts.lives[name].tables[table] for name in order if table in _tables_of(facts, name)), None)


def _tables_of(facts: Facts, name: str) -> Mapping[str, LiveTable]:
    return facts.lives[name].tables if name in facts.lives else {}
