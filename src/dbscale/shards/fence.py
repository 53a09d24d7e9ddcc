"""The fence against an old map: a transaction first asserts that its range is owned there, at the epoch it knows.

The row of the range is locked FOR SHARE, as a plain read would see an old version of it under REPEATABLE READ: while a
transaction holds it, nobody can fence the range off. The role needs SELECT and UPDATE on `owned_ranges` for that.
"""

from __future__ import annotations

import json

from dbscale.drivers.postgres import Connection
from dbscale.errors import Unroutable
from dbscale.schema import literal, quote
from dbscale.shards import file
from dbscale.shards.facts import STATE_SCHEMA
from dbscale.shards.map import Map


class StaleMap(Unroutable):
    """The server does not own the range at this epoch: read the epochs anew, route again, and run it again."""

    section = "stale-map"


def holding(schema: str, map_name: str, range_id: str, epoch: int | str) -> str:
    """SQL that holds a range to the end of the transaction; it yields a row where the range is owned at `epoch`."""
    names = [name if name.startswith("$") else literal(name) for name in (map_name, range_id)]
    return (
        f"SELECT true FROM {quote(schema, 'owned_ranges')} WHERE map = {names[0]} AND range_id = {names[1]}"
        f" AND epoch = {epoch} AND state = 'owned' FOR SHARE"
    )


def preparing(schema: str) -> str:
    """SQL that prepares `executing` in a session: planned once, it costs half."""
    return f"PREPARE dbscale_hold (text, text, bigint) AS {holding(schema, '$1', '$2', '$3')}"


def executing(map_name: str, range_id: str, epoch: int) -> str:
    """As `holding`, in a session where `preparing` was run."""
    return f"EXECUTE dbscale_hold ({literal(map_name)}, {literal(range_id)}, {epoch})"


def there(schema: str) -> str:
    """SQL that says whether a map was ever applied to this server."""
    return f"SELECT to_regclass({literal(quote(schema, 'shard_maps'))}) IS NOT NULL"


def asking(schema: str, map_name: str) -> str:
    """SQL for the map in effect, as `read` takes it."""
    return f"SELECT epoch, content::text FROM {quote(schema, 'shard_maps')} WHERE name = {literal(map_name)}"


def read(row: tuple[bytes, ...]) -> tuple[int, Map]:
    """What `asking` found, as libpq has it: the epoch, and the map."""
    return int(row[0]), file.restore(json.loads(row[1]))


def hold(connection: Connection, map_name: str, range_id: str, epoch: int, *, state_schema: str = STATE_SCHEMA) -> None:
    """Hold the range for the rest of the connection's transaction. StaleMap where it is not owned here at `epoch`."""
    if connection.execute(holding(state_schema, map_name, range_id, epoch).encode()).fetchone() is None:
        raise stale(map_name, range_id, epoch)


def stale(map_name: str, range_id: str, epoch: int) -> StaleMap:
    """The error of a transaction whose range is not owned at the epoch that it knows."""
    return StaleMap(
        f"this server does not own {range_id} of the map {map_name} at epoch {epoch}",
        where=range_id,
        try_="run it again: the map has changed since it was read",
    )
