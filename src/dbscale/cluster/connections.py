"""The connections an application gets: psycopg's own, which time their statements and tell how far a commit went."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors, generators, pq
from psycopg.abc import PQGen

if TYPE_CHECKING:
    from dbscale.cluster.keyed import ShardGuard
    from dbscale.cluster.nodes import Node

OnCommit = Callable[["Node", int, int], None]
"""Called after a commit that wrote, with the node, its timeline and its WAL position (not yet normalised)."""

# One message, one round trip more than nothing: whether the transaction wrote, its end, and the position behind it.
# The position is taken after COMMIT: one from before does not cover the commit record. The insert position, not the
# written or flushed one, which trail it where synchronous_commit is off.
COMMIT = (
    b"SELECT pg_current_xact_id_if_assigned() IS NOT NULL; COMMIT;"
    b" SELECT left(pg_walfile_name(l), 8), (l - '0/0')::text FROM (SELECT CASE WHEN pg_is_in_recovery()"
    b" THEN NULL ELSE pg_current_wal_insert_lsn() END) AS p (l)"
)
POSITION = COMMIT.rpartition(b";")[2].strip().decode()

UNTOLD = (None, None)
"""In place of a row of POSITION, where the server does not tell."""

ASK = "SELECT pg_is_in_recovery(), (pg_last_wal_replay_lsn() - '0/0')::bigint"
"""A standby's replay position."""

PID = "SELECT pg_backend_pid()"
"""A pooler answers the connection itself, with a number of its own: then this one differs from the connection's."""

KINDS = {"select": "select", "insert": "insert", "update": "update", "delete": "delete", "with": "with"}
HEAD = 64
"""So many characters tell statements' kinds apart, and take no memory when they are kept."""
OWN = frozenset(own[:HEAD] for own in ("", ";", ASK, POSITION, PID))
"""The heads of the pools' and dbscale's own statements, which are not the application's queries."""


@lru_cache(maxsize=1024)
def kind_of(head: str) -> str:
    """The kind of a statement for the metrics, by its HEAD: its first word, where that is a common one.

    Empty for a statement of OWN.
    """
    return "" if head in OWN else KINDS.get(head.lstrip()[:6].lower().strip(), "other")


def _timed(cursor: Any, query: Any, start: float) -> None:
    if kind := kind_of(query[:HEAD]) if isinstance(query, str) else "other":
        cursor.connection.node.queries(kind).observe(time.perf_counter() - start)


class NodeCursor(psycopg.Cursor[Any]):
    """A cursor that times its statements, and asks its connection's guard before each."""

    connection: NodeConnection

    def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        if (guard := self.connection.guard) is not None:
            guard.before(self.connection, query, params)
        start = time.perf_counter()
        try:
            return super().execute(query, params, **options)
        finally:
            _timed(self, query, start)

    def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
        if (guard := self.connection.guard) is not None:
            params_seq = list(params_seq)
            for params in params_seq:
                guard.before(self.connection, query, params)
        super().executemany(query, params_seq, **options)

    def stream(self, query: Any, params: Any = None, **options: Any) -> Iterator[Any]:
        if (guard := self.connection.guard) is not None:
            guard.before(self.connection, query, params)
        yield from super().stream(query, params, **options)

    @contextmanager
    def copy(self, statement: Any, params: Any = None, **options: Any) -> Iterator[psycopg.Copy]:
        if (guard := self.connection.guard) is not None:
            guard.before(self.connection, statement, params)
        with super().copy(statement, params, **options) as copy:
            yield copy


class AsyncNodeCursor(psycopg.AsyncCursor[Any]):
    """A cursor that times its statements, and asks its connection's guard before each."""

    connection: AsyncNodeConnection

    async def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        if (guard := self.connection.guard) is not None:
            await guard.before_async(self.connection, query, params)
        start = time.perf_counter()
        try:
            return await super().execute(query, params, **options)
        finally:
            _timed(self, query, start)

    async def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
        if (guard := self.connection.guard) is not None:
            params_seq = list(params_seq)
            for params in params_seq:
                await guard.before_async(self.connection, query, params)
        await super().executemany(query, params_seq, **options)

    async def stream(self, query: Any, params: Any = None, **options: Any) -> AsyncIterator[Any]:
        if (guard := self.connection.guard) is not None:
            await guard.before_async(self.connection, query, params)
        async for row in super().stream(query, params, **options):
            yield row

    @asynccontextmanager
    async def copy(self, statement: Any, params: Any = None, **options: Any) -> AsyncIterator[psycopg.AsyncCopy]:
        if (guard := self.connection.guard) is not None:
            await guard.before_async(self.connection, statement, params)
        async with super().copy(statement, params, **options) as copy:
            yield copy


class NodeConnection(psycopg.Connection[Any]):
    """A connection to a node. `commit` reports the position behind it."""

    node: Node
    connected_at: float
    taken_at: float
    """From a psycopg pool, by time.perf_counter()."""
    on_commit: OnCommit | None = None
    guard: ShardGuard | None = None
    hold_prepared = False
    """The statement that holds a range is prepared in this session (`cluster.keyed`)."""

    def _get_tx_start_command(self) -> bytes:
        if self.guard is not None:
            self.guard.began()
        return super()._get_tx_start_command()

    @contextmanager
    def pipeline(self) -> Iterator[psycopg.Pipeline]:
        """psycopg's; a guarded transaction holds its range before it begins."""
        if self.guard is not None:
            self.guard.before(self, None, None)
        with super().pipeline() as pipeline:
            yield pipeline

    def commit(self) -> None:
        if self._plain():
            super().commit()
            if self.autocommit and self.on_commit is not None:  # SQLAlchemy's isolation level AUTOCOMMIT
                note(self)
            return
        with self.lock:
            self.wait(_commit(self))

    def _plain(self) -> bool:
        return _is_plain(self, self._num_transactions or self._tpc)


class AsyncNodeConnection(psycopg.AsyncConnection[Any]):
    """A connection to a node. `commit` reports the position behind it."""

    node: Node
    connected_at: float
    on_commit: OnCommit | None = None
    guard: ShardGuard | None = None
    hold_prepared = False
    """The statement that holds a range is prepared in this session (`cluster.keyed`)."""

    def _get_tx_start_command(self) -> bytes:
        if self.guard is not None:
            self.guard.began()
        return super()._get_tx_start_command()

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[psycopg.AsyncPipeline]:
        """psycopg's; a guarded transaction holds its range before it begins."""
        if self.guard is not None:
            await self.guard.before_async(self, None, None)
        async with super().pipeline() as pipeline:
            yield pipeline

    async def commit(self) -> None:
        if self._plain():
            await super().commit()
            if self.autocommit and self.on_commit is not None:
                try:
                    position = await (await self.execute(POSITION)).fetchone()
                except psycopg.Error:
                    position = UNTOLD
                _tell(self, position)
            return
        async with self.lock:
            await self.wait(_commit(self))

    def _plain(self) -> bool:
        return _is_plain(self, self._num_transactions or self._tpc)


def _is_plain(connection: NodeConnection | AsyncNodeConnection, nested: Any) -> bool:
    """True where psycopg's own commit serves: nobody asks for the position, or there is no plain transaction."""
    pgconn = connection.pgconn
    return (
        connection.on_commit is None
        or bool(nested)
        or pgconn.transaction_status == pq.TransactionStatus.IDLE
        or pgconn.pipeline_status != pq.PipelineStatus.OFF
    )


def _commit(connection: NodeConnection | AsyncNodeConnection) -> PQGen[None]:
    """COMMIT and the position behind it; what follows a COMMIT that succeeded never makes it look failed."""
    connection.pgconn.send_query(COMMIT)
    results = yield from generators.execute(connection.pgconn)
    committed = len(results) > 1 and results[1].command_status == b"COMMIT"
    if not committed:
        raise errors.error_from_result(results[-1], encoding=connection.info.encoding)
    wrote = results[0].get_value(0, 0) == b"t"
    if wrote and connection.on_commit is not None:
        last = results[-1]
        told = len(results) == 3 and last.status == pq.ExecStatus.TUPLES_OK
        _tell(connection, (last.get_value(0, 0), last.get_value(0, 1)) if told else UNTOLD)


def note(connection: NodeConnection) -> None:
    """Report the position after a commit that was not `commit`'s own, outside a transaction.

    What was committed is committed: where the position cannot be had, the time alone counts.
    """
    try:
        position = connection.execute(POSITION).fetchone()
    except psycopg.Error:
        position = UNTOLD
    _tell(connection, position)


def _tell(connection: NodeConnection | AsyncNodeConnection, position: Any) -> None:
    """Report a row of POSITION: nothing in it where the server does not tell."""
    walfile, lsn = position
    if connection.on_commit is not None:
        connection.on_commit(connection.node, int(walfile or "0", 16), int(lsn or 0))


def introduce(connection: NodeConnection, node: Node, on_commit: OnCommit | None) -> NodeConnection:
    """The new connection with what it must know of its node; behind a pooler without prepared statements."""
    stamp(connection, node, on_commit)
    if node.pooled is None:
        row = connection.execute(PID).fetchone()
        connection.rollback()
        node.pooled = row is not None and row[0] != connection.info.backend_pid
    if node.pooled:
        connection.prepare_threshold = None
    return connection


async def introduce_async(
    connection: AsyncNodeConnection, node: Node, on_commit: OnCommit | None
) -> AsyncNodeConnection:
    """As `introduce`."""
    stamp(connection, node, on_commit)
    if node.pooled is None:
        row = await (await connection.execute(PID)).fetchone()
        await connection.rollback()
        node.pooled = row is not None and row[0] != connection.info.backend_pid
    if node.pooled:
        connection.prepare_threshold = None
    return connection


def stamp(connection: NodeConnection | AsyncNodeConnection, node: Node, on_commit: OnCommit | None) -> None:
    """Tell a new connection of its node."""
    connection.node = node
    connection.connected_at = time.monotonic()
    connection.on_commit = on_commit
