"""The fence against an old map: a transaction first asserts that its range is owned there, at the epoch it knows."""

from __future__ import annotations

from typing import Any

from dbscale.drivers.postgres import Connection
from dbscale.errors import Unroutable
from dbscale.schema import literal, quote
from dbscale.shards import file
from dbscale.shards.client import STATE_SCHEMA
from dbscale.shards.map import Map


class StaleMap(Unroutable):
    """The server does not own the range at this epoch: read the epochs anew, route again, and run it again."""

    section = "stale-map"


OWNED, MAPS = quote(STATE_SCHEMA, "owned_ranges"), quote(STATE_SCHEMA, "shard_maps")
HOLD = f"SELECT true FROM {OWNED} WHERE map = %s AND range_id = %s AND epoch = %s AND state = 'owned' FOR SHARE"
THERE = f"SELECT to_regclass({literal(MAPS)}) IS NOT NULL"
MAP = f"SELECT epoch, content FROM {MAPS} WHERE name = %s"


def epochs(connection: Connection, map_name: str, *, state_schema: str = STATE_SCHEMA) -> dict[str, int]:
    """The ranges that this server owns, each with its epoch; none where the map was never applied to it."""
    table = quote(state_schema, "owned_ranges")
    if connection.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,):
        return {}
    query = f"SELECT range_id, epoch FROM {table} WHERE map = %s AND state = 'owned'"
    return dict(connection.execute(query, [map_name]).fetchall())


def current(connection: Connection, map_name: str) -> tuple[int, Map] | None:
    """The map in effect on this server, with its epoch; None where it was never applied to it."""
    if connection.execute(THERE).fetchone() != (True,):
        return None
    return read(connection.execute(MAP, [map_name]).fetchone())


def read(row: Any) -> tuple[int, Map] | None:
    """What `MAP` found."""
    return (int(row[0]), file.restore(row[1])) if row else None


def hold(connection: Connection, map_name: str, range_id: str, epoch: int, *, state_schema: str = STATE_SCHEMA) -> None:
    """Hold the range for the rest of the transaction: no move can fence it off before the transaction ends.

    The row is locked FOR SHARE, as a plain read would see an old version of it under REPEATABLE READ; the role
    needs UPDATE on the table for that. StaleMap where the range is not owned here at `epoch`.
    """
    sql = HOLD.replace(OWNED, quote(state_schema, "owned_ranges"))
    if connection.execute(sql, [map_name, range_id, epoch]).fetchone() is None:
        raise stale(map_name, range_id, epoch)


def stale(map_name: str, range_id: str, epoch: int) -> StaleMap:
    """The error of a transaction whose range is not owned at the epoch that it knows."""
    return StaleMap(
        f"this server does not own {range_id} of the map {map_name} at epoch {epoch}",
        where=range_id,
        try_="run it again: the map has changed since it was read",
    )
