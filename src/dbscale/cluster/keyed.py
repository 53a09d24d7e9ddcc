"""What `cluster.write(table, key)` watches over: the range's epoch at the transaction's start, and each statement.

The first statement of a transaction is preceded by the fence (`shards.fence`), so that no old map writes to a range
that has moved on. Statements that provably belong to other ranges are refused before they are sent; what cannot be
told from the text passes, as the caller has named the key, and the server's ownership CHECK has the last word.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

from psycopg import errors, generators
from psycopg.abc import PQGen
from psycopg.pq import ExecStatus, TransactionStatus

from dbscale import query as queries
from dbscale.errors import Unroutable
from dbscale.query import Query
from dbscale.shards import fence
from dbscale.shards.map import Map, Maps, Range, key_of, shard_for
from dbscale.shards.route import route_statement

if TYPE_CHECKING:
    from dbscale.shards.answer import Route


@dataclass(slots=True)
class Epochs:
    """The maps in effect as the servers know them: read at the first write to a map, and again when one is stale."""

    maps: Maps
    schema: str
    """Where dbscale's own tables are on the servers."""
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


Wanted = tuple[tuple[Map, Range], ...]
"""Ranges that a statement's transaction must hold."""


@dataclass(slots=True)
class ShardGuard:
    """Of a connection that may write to all ranges of one shard: each is held before the first write to it."""

    epochs: Epochs
    maps: Maps
    shard: str
    held: set[tuple[str, str]] = field(default_factory=set)
    """The ranges that the connection's transaction holds, by map."""

    def before(self, connection: Any, sql: Any, parameters: Any) -> None:
        """Called before each statement. StaleMap, and Unroutable for a statement that belongs elsewhere."""
        if wanted := self._due(connection, sql, parameters):
            with connection.lock:
                connection.wait(self._hold(connection, wanted))

    async def before_async(self, connection: Any, sql: Any, parameters: Any) -> None:
        """As `before`."""
        if wanted := self._due(connection, sql, parameters):
            async with connection.lock:
                await connection.wait(self._hold(connection, wanted))

    def began(self) -> None:
        """Called where a transaction begins: what the last one held, this one does not."""
        self.held.clear()

    def check(self, query: Query, parameters: Any) -> Wanted:
        """The ranges that a statement writes to. Unroutable where it belongs elsewhere."""
        if not query.tables or query.unsure:
            return ()
        route = route_statement(self.maps, query, parameters or (), shard=self.shard)
        self.here(query, route)
        map_ = next((each for each in self.maps.maps if each.name == route.map), None)
        return () if query.reads or map_ is None else tuple((map_, map_.range(id_)) for id_ in route.ranges)

    def here(self, query: Query, route: Route) -> None:
        """Unroutable where a route leads elsewhere."""
        if route.kind == "any":
            there = self.shard in route.shards
        else:
            own = self.maps.shards.get(self.shard, self.shard)
            there = {self.maps.shards.get(each, each) for each in route.shards} == {own} and self._owns(route)
        if not there:
            raise Unroutable(
                f"it belongs to {', '.join(route.ranges or route.shards)}, and this connection to {self._name()}",
                where=" ".join(query.sql.split())[:120],
                try_=f"cluster.write with a key of its own; this one is for {self._name()}",
            )

    def _owns(self, route: Route) -> bool:  # noqa: ARG002 - Guard's
        return True

    def _name(self) -> str:
        return self.shard

    def _due(self, connection: Any, sql: Any, parameters: Any) -> Wanted:
        """The ranges that are to be held before a statement; without one, those that any would need."""
        query = _NO_STATEMENT if sql is None else _parsed(connection, sql, parameters)
        if query.verb == "transaction":
            # ROLLBACK TO lets go of what was held since; the next statement finds out.
            self.held.clear()
            return ()
        wanted = self.check(query, parameters)
        status = connection.pgconn.transaction_status
        if status == TransactionStatus.IDLE:
            return () if connection.autocommit else wanted
        if status != TransactionStatus.INTRANS:
            return ()
        return tuple(each for each in wanted if (each[0].name, each[1].id) not in self.held)

    def _hold(self, connection: Any, wanted: Wanted) -> PQGen[None]:
        """Hold ranges in the connection's transaction, which begins with the first where there is none."""
        schema = self.epochs.schema
        for map_, range_ in wanted:
            asked, epoch = self.epochs.known(map_.name, range_.shard)
            if not asked:
                there = yield from _ask(connection, fence.there(schema))
                found = (yield from _ask(connection, fence.asking(schema, map_.name))) if there == (b"t",) else None
                self.epochs.learn(map_, range_.shard, fence.read(found) if found else None)
                epoch = self.epochs.known(map_.name, range_.shard)[1]
            if epoch is not None:
                row = yield from _held(connection, schema, (map_.name, range_.id, epoch))
                if row is None:
                    self.epochs.forget(map_.name)
                    raise fence.stale(map_.name, range_.id, epoch)
            if connection._num_transactions <= 1:  # noqa: SLF001 - what is held within a savepoint goes with it
                self.held.add((map_.name, range_.id))


@dataclass(slots=True, kw_only=True)
class Guard(ShardGuard):
    """Of a connection that is for one range."""

    map: Map
    range: Range

    def check(self, query: Query, parameters: Any) -> Wanted:
        """The ranges that a statement needs. Unroutable where it provably belongs elsewhere."""
        if query.tables and not query.unsure:
            try:
                route = route_statement(self.maps, query, parameters or ())
            except Unroutable:
                if query.insert is None or query.insert.columns:
                    raise
            else:  # an INSERT that names no columns passes: the CHECK sees the key
                self.here(query, route)
        return ((self.map, self.range),)

    def _owns(self, route: Route) -> bool:
        return route.map != self.map.name or set(route.ranges) <= {self.range.id}

    def _name(self) -> str:
        return f"{self.range.id} on {self.shard}"


_NO_STATEMENT = Query(sql="")


def _parsed(connection: Any, sql: Any, parameters: Any) -> Query:
    text = sql if isinstance(sql, str) else sql.decode() if isinstance(sql, bytes) else sql.as_string(connection)
    return queries.parse(text, "format" if parameters is not None else "numeric")


def _held(connection: Any, schema: str, names: tuple[str, str, int]) -> PQGen[tuple[bytes, ...] | None]:
    """The row of a range that is held from now on. A new transaction begins in the same message, so that this costs no
    round trip; and with a prepared statement, where sessions are the client's own.
    """
    if connection.pgconn.transaction_status != TransactionStatus.IDLE or connection.node.pooled:
        return (yield from _ask(connection, fence.holding(schema, *names)))
    if connection.hold_prepared:
        try:
            return (yield from _ask(connection, fence.executing(*names)))
        except errors.InvalidSqlStatementName:  # DEALLOCATE ALL, DISCARD ALL
            connection.pgconn.send_query(b"ROLLBACK")
            yield from generators.execute(connection.pgconn)
    connection.hold_prepared = True
    return (yield from _ask(connection, f"{fence.preparing(schema)}; {fence.executing(*names)}"))


def _ask(connection: Any, sql: str) -> PQGen[tuple[bytes, ...] | None]:
    """The row that a query yields, sent with the BEGIN of its transaction where it is the first."""
    pgconn = connection.pgconn
    if pgconn.transaction_status == TransactionStatus.IDLE:
        begin = connection._get_tx_start_command().decode()  # noqa: SLF001 - with the caller's isolation level
        sql = f"{begin}; {sql}"
    pgconn.send_query(sql.encode())
    result = (yield from generators.execute(pgconn))[-1]
    if result.status != ExecStatus.TUPLES_OK:
        raise errors.error_from_result(result, encoding=connection.info.encoding)
    return tuple(result.get_value(0, place) for place in range(result.nfields)) if result.ntuples else None


def guard(epochs: Epochs, table: str, key: Any) -> Guard | None:
    """What watches over writes to a table's row with this key; None for a table that has no key on a map.

    Unroutable where no range owns the key.
    """
    maps = epochs.maps
    map_, column = maps.place(table)
    if map_ is None or not column or key is None or map_.hash:
        return None
    range_ = shard_for(map_, key_of(map_, key))
    return Guard(epochs, maps, range_.shard, map=map_, range=range_)
