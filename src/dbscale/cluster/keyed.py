"""What `cluster.write(table, key)` watches over: the range's epoch at the transaction's start, and each statement.

The first statement of a transaction is preceded by the fence (`shards.fence`), so that no old map writes to a range
that has moved on. Statements that provably belong to other ranges are refused before they are sent; what cannot be
told from the text passes, as the caller has named the key, and the server's ownership CHECK has the last word.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

from psycopg.pq import TransactionStatus

from dbscale import query as queries
from dbscale.errors import Unroutable
from dbscale.shards import fence
from dbscale.shards.map import Map, Maps, Range, key_of, shard_for
from dbscale.shards.route import route_statement

if TYPE_CHECKING:
    from dbscale.shards.route import Route


@dataclass(slots=True)
class Epochs:
    """The maps in effect as the servers know them: read at the first write to a map, and again when one is stale."""

    maps: Maps
    _known: dict[tuple[str, str], int | None] = field(default_factory=dict)
    """By map and shard; None where the map was never applied to it, and there is nothing to hold."""
    _lock: Lock = field(default_factory=Lock)

    def known(self, map_: str, shard: str) -> tuple[bool, int | None]:
        """Whether it has been asked, and the epoch."""
        return (map_, shard) in self._known, self._known.get((map_, shard))

    def learn(self, map_: Map, shard: str, found: tuple[int, Map] | None) -> None:
        """Keep what a server says. StaleMap where its map is another than ours, which it replaces."""
        with self._lock:
            self._known[map_.name, shard] = found[0] if found else None
            if found is None or found[1].checksum == map_.checksum:
                return
            others = tuple(found[1] if each.name == map_.name else each for each in self.maps.maps)
            self.maps = Maps(maps=others, shards=self.maps.shards, home=self.maps.home)
        raise fence.StaleMap(
            f"the map {map_.name} in effect (epoch {found[0]}) is not the one that was read from its file",
            where=map_.path or map_.name,
            try_="run it again: the map in effect is known now; then bring the file up to date",
        )

    def forget(self, map_: str) -> None:
        """Ask again for a map's epochs: one of them was old."""
        with self._lock:
            for known in [key for key in self._known if key[0] == map_]:
                del self._known[known]


@dataclass(slots=True)
class Guard:
    """Of one connection, for the time of its block."""

    epochs: Epochs
    maps: Maps
    map: Map
    range: Range
    _busy: bool = False

    def before(self, connection: Any, sql: Any, parameters: Any) -> None:
        """Called before each statement. StaleMap, and Unroutable for a statement that belongs elsewhere."""
        if self._busy:
            return
        self._check(connection, sql, parameters)
        if connection.info.transaction_status == TransactionStatus.IDLE and not connection.autocommit:
            self._busy = True
            try:
                self._hold(connection)
            finally:
                self._busy = False

    async def before_async(self, connection: Any, sql: Any, parameters: Any) -> None:
        """As `before`."""
        if self._busy:
            return
        self._check(connection, sql, parameters)
        if connection.info.transaction_status == TransactionStatus.IDLE and not connection.autocommit:
            self._busy = True
            try:
                asked, epoch = self.epochs.known(self.map.name, self.range.shard)
                if not asked:
                    there = await (await connection.execute(fence.THERE)).fetchone()
                    row = await (await connection.execute(fence.MAP, [self.map.name])).fetchone() if there[0] else None
                    self.epochs.learn(self.map, self.range.shard, fence.read(row))
                    epoch = self.epochs.known(self.map.name, self.range.shard)[1]
                if epoch is not None:
                    held = await connection.execute(fence.HOLD, [self.map.name, self.range.id, epoch])
                    self._held(await held.fetchone(), epoch)
            finally:
                self._busy = False

    def _hold(self, connection: Any) -> None:
        asked, epoch = self.epochs.known(self.map.name, self.range.shard)
        if not asked:
            self.epochs.learn(self.map, self.range.shard, fence.current(connection, self.map.name))
            epoch = self.epochs.known(self.map.name, self.range.shard)[1]
        if epoch is not None:
            self._held(connection.execute(fence.HOLD, [self.map.name, self.range.id, epoch]).fetchone(), epoch)

    def _held(self, row: Any, epoch: int) -> None:
        if row is None:
            self.epochs.forget(self.map.name)
            raise fence.stale(self.map.name, self.range.id, epoch)

    def _check(self, connection: Any, sql: Any, parameters: Any) -> None:
        text = sql if isinstance(sql, str) else sql.decode() if isinstance(sql, bytes) else sql.as_string(connection)
        parsed = queries.parse(text, "format" if parameters is not None else "numeric")
        if not parsed.tables or parsed.unsure:
            return
        try:
            route = route_statement(self.maps, parsed, parameters or ())
        except Unroutable:
            if parsed.insert is not None and not parsed.insert.columns:
                return  # no columns are named: the CHECK sees the key
            raise
        if not self._here(route):
            raise Unroutable(
                f"it belongs to {', '.join(route.ranges or route.shards)}, and this connection to {self.range.id}",
                where=" ".join(text.split())[:120],
                try_=f"cluster.write with a key of its own; this one is for {self.map.name} on {self.range.shard}",
            )

    def _here(self, route: Route) -> bool:
        if route.kind == "any":
            return self.range.shard in route.shards
        shard = self.maps.shards.get(self.range.shard, self.range.shard)
        there = {self.maps.shards.get(each, each) for each in route.shards}
        return there == {shard} and (route.map != self.map.name or set(route.ranges) <= {self.range.id})


def guard(epochs: Epochs, table: str, key: Any) -> Guard | None:
    """What watches over writes to a table's row with this key; None for a table that has no key on a map.

    Unroutable where no range owns the key.
    """
    maps = epochs.maps
    map_, column = maps.place(table)
    if map_ is None or not column or key is None or map_.hash:
        return None
    return Guard(epochs, maps, map_, shard_for(map_, key_of(map_, key)))
