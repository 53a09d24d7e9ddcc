"""The `with` blocks in which an application has a connection."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Any

from psycopg import OperationalError
from psycopg.pq import TransactionStatus

from dbscale.cluster import engines
from dbscale.cluster import scope as scopes
from dbscale.cluster.choose import Want
from dbscale.cluster.connections import note
from dbscale.cluster.token import Token

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from dbscale.cluster.cluster import Cluster
    from dbscale.cluster.groups import Group
    from dbscale.cluster.keyed import Guard
    from dbscale.cluster.nodes import Node

After = Token | str | None


class Writing:
    """`with cluster.write() as connection:`"""

    __slots__ = ("_cluster", "_connection", "_driver", "_group", "_guard", "_node")

    def __init__(self, cluster: Cluster, group: Group, guard: Guard | None = None) -> None:
        self._cluster, self._group, self._guard = cluster, group, guard

    def __enter__(self) -> Any:
        if self._cluster.kind == "psycopg":
            self._node, self._connection = self._group.write("psycopg")
        else:
            self._connection = self._cluster.routed(self._group, "sync", read=False).connect()
        if self._guard is not None:
            psycopg_ = self._cluster.kind == "psycopg"
            self._driver = self._connection if psycopg_ else self._connection.connection.driver_connection
            self._driver.guard = self._guard
        return self._connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection = self._connection
        if self._guard is not None:
            self._driver.guard = None
        if self._cluster.kind != "psycopg":
            try:
                connection.commit() if kind is None else connection.rollback()
            finally:
                connection.close()
            return
        try:
            if kind is not None:
                connection.rollback()
            elif connection.info.transaction_status != TransactionStatus.IDLE:
                connection.commit()
            elif connection.on_commit is not None:
                self._note(connection)
        finally:
            self._group.pool(self._node, "psycopg").give(connection)

    @staticmethod
    def _note(connection: Any) -> None:
        """Where the caller committed by `connection.transaction()`: the position now is at or behind its commit."""
        connection.autocommit = True
        try:
            note(connection)
        finally:
            connection.autocommit = False


class Reading:
    """`with cluster.read() as connection:`"""

    __slots__ = ("_after", "_analytics", "_cluster", "_connection", "_group", "_max_lag", "_node")

    def __init__(
        self, cluster: Cluster, group: Group, max_lag: float | None, after: After, *, analytics: bool = False
    ) -> None:
        self._cluster, self._group, self._max_lag, self._after = cluster, group, max_lag, after
        self._analytics = analytics

    def __enter__(self) -> Any:
        cluster, group = self._cluster, self._group
        if not group.started:
            group.start()
        want = cluster.want(group, self._max_lag, self._after, analytics=self._analytics)
        if cluster.kind == "psycopg":
            self._node, self._connection = group.read("psycopg", want)
        else:
            before = engines.wanted.set(want)
            try:
                self._connection = cluster.routed(group, "sync", read=True).connect()
            finally:
                engines.wanted.reset(before)
            self._node = self._connection.node
        _stay(group, self._node)
        return self._connection

    def __exit__(self, *_: object) -> None:
        if self._cluster.kind == "psycopg":
            try:
                self._connection.rollback()
            except OperationalError as error:  # what was read was read
                self._group.lost(self._node, error)
            finally:
                self._group.pool(self._node, "psycopg").give(self._connection)
        else:
            self._connection.close()


class AsyncWriting:
    """`async with cluster.async_write() as connection:`"""

    __slots__ = ("_cluster", "_connection", "_driver", "_group", "_guard")

    def __init__(self, cluster: Cluster, group: Group, guard: Guard | None = None) -> None:
        self._cluster, self._group, self._guard = cluster, group, guard
        self._driver: Any = None

    async def __aenter__(self) -> AsyncConnection:
        self._connection = await _connected(self._cluster, self._group, None)
        if self._guard is not None:
            self._driver = (await self._connection.get_raw_connection()).driver_connection
            self._driver.guard = self._guard
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._guard is not None:
            self._driver.guard = None
        try:
            if kind is None:
                await self._connection.commit()
            else:
                await self._connection.rollback()
        finally:
            await self._connection.close()


class AsyncReading:
    """`async with cluster.async_read() as connection:`"""

    __slots__ = ("_after", "_analytics", "_cluster", "_connection", "_group", "_max_lag")

    def __init__(self, cluster: Cluster, group: Group, max_lag: float | None, after: After) -> None:
        self._cluster, self._group, self._max_lag, self._after = cluster, group, max_lag, after

    async def __aenter__(self) -> AsyncConnection:
        if not self._group.started:
            await asyncio.to_thread(self._group.start)
        want = self._cluster.want(self._group, self._max_lag, self._after)
        self._connection = await _connected(self._cluster, self._group, want)
        _stay(self._group, engines.node_of(await self._connection.get_raw_connection()))
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()


async def _connected(cluster: Cluster, group: Group, want: Want | None) -> AsyncConnection:
    from sqlalchemy.ext.asyncio import AsyncEngine

    engine = AsyncEngine(cluster.routed(group, "async", read=want is not None))
    with engines.wanting(want):
        connection: AsyncConnection = await engine.connect()
    return connection


def _stay(group: Group, node: Node) -> None:
    """Within a scope that has an end, later reads come from the same node, so that time never runs backwards."""
    scope = scopes.current()
    if scope.bounded:
        scope.nodes[group.shard] = node.name
