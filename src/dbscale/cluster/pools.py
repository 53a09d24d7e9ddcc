"""Pools of one node's connections: SQLAlchemy's, sync and async, and psycopg's, sized by `[pool]` and measured."""

from __future__ import annotations

import time
from collections import deque
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg_pool
import sqlalchemy
from sqlalchemy import event, exc
from sqlalchemy.pool import AsyncAdaptedQueuePool, QueuePool

from dbscale import config
from dbscale.cluster.connections import (
    AsyncNodeConnection,
    AsyncNodeCursor,
    NodeConnection,
    NodeCursor,
    OnCommit,
    introduce,
    introduce_async,
)
from dbscale.cluster.metrics import Histogram
from dbscale.cluster.nodes import Node

KEEPALIVE = {
    "connect_timeout": 5,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""A network that swallows packets is noticed within 20 seconds, a server that refuses at once."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """A pool at one moment."""

    used: int
    idle: int
    most: int
    waiting: int
    timeouts: int


class Pool(Protocol):
    """What a cluster needs of a pool."""

    dialect: Any

    def take(self, *, trusting: bool = False) -> Any:
        """A connection; psycopg.Error where the server does not answer, TimeoutError (of the pool) where it is full.

        `trusting`: one that was used within the last second need not be tried first.
        """

    def give(self, connection: Any) -> None: ...

    def numbers(self) -> Numbers: ...

    def drop(self, *, close: bool) -> None:
        """Forget all connections; `close=False` in a forked child, whose parent still uses them."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How connections of one cluster are made."""

    pool: config.Pool
    name: str
    """application_name."""
    on_commit: OnCommit | None


_trusted: ContextVar[float] = ContextVar("trusted", default=float("inf"))
"""Connections that were given back after this time (of time.perf_counter) need not be tried first."""
TRUSTED_SECONDS = 1.0
"""A connection used so lately is not tried first where its use can begin again on another: for reading."""


class _Measured:
    """What QueuePool does not tell: how long callers wait, how many do, and how long they keep a connection."""

    waits: Histogram
    uses: Histogram
    pending: deque[None]
    """As long as there are callers that are about to get a connection: a deque needs no lock."""
    timeouts = 0

    def _do_get(self) -> Any:
        self.pending.append(None)
        start = time.perf_counter()
        try:
            record = super()._do_get()  # type: ignore[misc]
        except exc.TimeoutError:
            self.timeouts += 1
            self.waits.observe(time.perf_counter() - start)
            raise
        finally:
            self.pending.pop()
        now = time.perf_counter()
        info = record.info
        self.waits.observe(now - start - info.pop("creating", 0.0))
        info["taken"] = now
        if info.get("given", 0.0) > _trusted.get():
            record.fresh = True  # SQLAlchemy's pre-ping passes over fresh connections
        return record

    def _create_connection(self) -> Any:
        start = time.perf_counter()
        record = super()._create_connection()  # type: ignore[misc]
        record.info["creating"] = time.perf_counter() - start
        return record

    def _do_return_conn(self, record: Any) -> None:
        taken = record.info.pop("taken", None)
        now = record.info["given"] = time.perf_counter()
        if taken is not None:
            self.uses.observe(now - taken)
        super()._do_return_conn(record)  # type: ignore[misc]

    def recreate(self) -> Any:
        again = super().recreate()  # type: ignore[misc]
        again.waits, again.uses, again.pending, again.timeouts = self.waits, self.uses, deque(), self.timeouts
        return again


class MeasuredPool(_Measured, QueuePool):
    """SQLAlchemy's pool, measured."""


class AsyncMeasuredPool(_Measured, AsyncAdaptedQueuePool):
    """SQLAlchemy's pool for asyncio, measured."""


class AlchemyPool:
    """A node's SQLAlchemy engine and its pool."""

    def __init__(self, node: Node, settings: Settings, *, asynchronous: bool = False) -> None:
        wanted = settings.pool
        self._node = node
        options: dict[str, Any] = {
            "pool_size": wanted.size,
            "max_overflow": wanted.overflow,
            "pool_recycle": wanted.recycle,
            "pool_timeout": wanted.timeout,
            "pool_pre_ping": wanted.pre_ping,
            "pool_use_lifo": True,
        }
        if asynchronous:
            from sqlalchemy.ext.asyncio import create_async_engine  # needs greenlet: only those who use it

            options["poolclass"] = AsyncMeasuredPool
            self.engine = create_async_engine("postgresql+psycopg://", **options).sync_engine
            event.listen(self.engine, "do_connect", _async_connect(node, settings))
        else:
            options["poolclass"] = MeasuredPool
            self.engine = sqlalchemy.create_engine("postgresql+psycopg://", **options)
            event.listen(self.engine, "do_connect", _connect(node, settings))
        self.dialect = self.engine.dialect
        pool: Any = self.engine.pool
        pool.pending = deque()
        kind = "async" if asynchronous else "sync"
        pool.waits = node.metrics.histogram("dbscale_pool_wait_seconds", node=node.name, pool=kind)
        pool.uses = node.metrics.histogram("dbscale_pool_use_seconds", node=node.name, pool=kind)
        self._most = wanted.size + wanted.overflow

    def take(self, *, trusting: bool = False) -> Any:
        latest = max(time.perf_counter() - TRUSTED_SECONDS, self._node.lost_at)
        _trusted.set(latest if trusting else float("inf"))
        return self.engine.pool.connect()

    def give(self, connection: Any) -> None:
        connection.close()

    def numbers(self) -> Numbers:
        pool: Any = self.engine.pool
        used = pool.checkedout()
        return Numbers(
            used=used,
            idle=pool.checkedin(),
            most=self._most,
            waiting=len(pool.pending) if used >= self._most else 0,
            timeouts=pool.timeouts,
        )

    def drop(self, *, close: bool) -> None:
        # An async engine's connections can be closed by its event loop alone: async_drop().
        self.engine.dispose(close=close and not self.engine.dialect.is_async)

    async def async_drop(self) -> None:
        """Close the connections of an async engine."""
        from sqlalchemy.ext.asyncio import AsyncEngine

        await AsyncEngine(self.engine).dispose()


class PsycopgPool:
    """A node's psycopg_pool."""

    dialect = None

    def __init__(self, node: Node, settings: Settings) -> None:
        wanted = settings.pool
        self._node = node
        self._arguments: dict[str, Any] = {
            "conninfo": node.url,
            "connection_class": NodeConnection,
            "kwargs": {**_options(settings), "cursor_factory": NodeCursor},
            "configure": lambda connection: _introduced(connection, node, settings),
            "min_size": wanted.size,
            "max_size": wanted.size + wanted.overflow,
            "max_lifetime": wanted.recycle,
            # A caller that could be served by another node must not wait for a dead one.
            "timeout": wanted.timeout if node.configured == "primary" else min(wanted.timeout, 2.0),
            "check": psycopg_pool.ConnectionPool.check_connection if wanted.pre_ping else None,
            "name": node.name,
            "open": True,
        }
        self.waits = node.metrics.histogram("dbscale_pool_wait_seconds", node=node.name, pool="psycopg")
        self.uses = node.metrics.histogram("dbscale_pool_use_seconds", node=node.name, pool="psycopg")
        self._pool = psycopg_pool.ConnectionPool(**self._arguments)

    def take(self, *, trusting: bool = False) -> Any:  # noqa: ARG002 - psycopg's pool tries all or none
        start = time.perf_counter()
        try:
            connection = self._pool.getconn()
        finally:
            now = time.perf_counter()
            self.waits.observe(now - start)
        connection.taken_at = now
        return connection

    def give(self, connection: Any) -> None:
        self.uses.observe(time.perf_counter() - connection.taken_at)
        self._pool.putconn(connection)

    def numbers(self) -> Numbers:
        stats = self._pool.get_stats()
        idle = stats.get("pool_available", 0)
        return Numbers(
            used=stats.get("pool_size", 0) - idle,
            idle=idle,
            most=stats.get("pool_max", 0),
            waiting=stats.get("requests_waiting", 0),
            timeouts=stats.get("requests_errors", 0),
        )

    def drop(self, *, close: bool) -> None:
        if close:
            self._pool.close()
        else:
            self._pool = psycopg_pool.ConnectionPool(**self._arguments)


def make(kind: str, node: Node, settings: Settings) -> Pool:
    """The node's pool of a kind: `sync`, `async` (both SQLAlchemy's) or `psycopg`."""
    if kind == "psycopg":
        return PsycopgPool(node, settings)
    return AlchemyPool(node, settings, asynchronous=kind == "async")


def _options(settings: Settings) -> dict[str, Any]:
    return {**KEEPALIVE, "application_name": settings.name, "client_encoding": "utf8"}


def _introduced(connection: Any, node: Node, settings: Settings) -> None:
    introduce(connection, node, settings.on_commit)


def _connect(node: Node, settings: Settings) -> Any:
    """A listener that makes SQLAlchemy's connections; `parameters` carry its type adapters."""

    def connect(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> Any:
        options = {**parameters, **_options(settings), "cursor_factory": NodeCursor}
        return introduce(NodeConnection.connect(node.url, **options), node, settings.on_commit)

    return connect


def _async_connect(node: Node, settings: Settings) -> Any:
    async def create(*_: Any, **parameters: Any) -> Any:
        options = {**parameters, **_options(settings), "cursor_factory": AsyncNodeCursor}
        connection = await AsyncNodeConnection.connect(node.url, **options)
        return await introduce_async(connection, node, settings.on_commit)

    def connect(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
        parameters["async_creator_fn"] = create

    return connect
