"""The fence against an old map: a transaction first asserts that its range is owned there, at the epoch it knows."""

from __future__ import annotations

from dbscale.drivers.postgres import Connection
from dbscale.errors import Unroutable
from dbscale.schema import quote
from dbscale.shards.client import STATE_SCHEMA


class StaleMap(Unroutable):
    """The server does not own the range at this epoch: read the epochs anew, route again, and run it again."""


def epochs(connection: Connection, map_name: str, *, state_schema: str = STATE_SCHEMA) -> dict[str, int]:
    """The ranges that this server owns, each with its epoch; none where the map was never applied to it."""
    table = quote(state_schema, "owned_ranges")
    if connection.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,):
        return {}
    query = f"SELECT range_id, epoch FROM {table} WHERE map = %s AND state = 'owned'"
    return dict(connection.execute(query, [map_name]).fetchall())


def hold(connection: Connection, map_name: str, range_id: str, epoch: int, *, state_schema: str = STATE_SCHEMA) -> None:
    """Hold the range for the rest of the transaction: no move can fence it off before the transaction ends.

    The row is locked FOR SHARE, as a plain read would see an old version of it under REPEATABLE READ; the role
    needs UPDATE on the table for that. StaleMap where the range is not owned here at `epoch`.
    """
    query = (
        f"SELECT FROM {quote(state_schema, 'owned_ranges')}"
        " WHERE map = %s AND range_id = %s AND epoch = %s AND state = 'owned' FOR SHARE"
    )
    if connection.execute(query, [map_name, range_id, epoch]).fetchone() is None:
        raise StaleMap(
            f"this server does not own {range_id} of the map {map_name} at epoch {epoch}",
            where=range_id,
            try_="run it again: the map has changed since it was read",
        )
