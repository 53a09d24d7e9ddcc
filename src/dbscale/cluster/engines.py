"""SQLAlchemy engines whose connections come from whichever node fits, and connections that move to another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors
from sqlalchemy import Connection, Engine, exc
from sqlalchemy.pool import PoolProxiedConnection

from dbscale.cluster.choose import Want

if TYPE_CHECKING:
    from dbscale.cluster.groups import Group
    from dbscale.cluster.keyed import ShardGuard
    from dbscale.cluster.nodes import Node

wanted: ContextVar[Want | None] = ContextVar("wanted", default=None)
"""What the connection that is being opened is for; None: what the cluster asks for by default."""
_failed: ContextVar[tuple[str, ...]] = ContextVar("failed", default=())

MOVES = 4
"""How often one read is begun again before its error is the caller's."""


@contextmanager
def wanting(want: Want | None) -> Iterator[None]:
    """Connections opened inside are for `want`."""
    before = wanted.set(want)
    try:
        yield
    finally:
        wanted.reset(before)


class RoutedEngine(Engine):
    """An engine over a group's nodes. `take` chooses a node and takes a connection from its pool."""

    take: Callable[[], tuple[Node, Any]]
    group: Group
    kind: str
    movable = False
    guard: ShardGuard | None = None
    """What watches over the statements of its connections."""
    _ready = False

    def raw_connection(self) -> PoolProxiedConnection:
        return self._taken()[1]

    def connect(self) -> Connection:
        node, raw = self._taken()
        return MovableConnection(self, raw, node) if self.movable else Connection(self, raw)

    def _taken(self) -> tuple[Node, PoolProxiedConnection]:
        node, raw = self.take()
        if not self._ready:
            # SQLAlchemy sets a dialect up at its engine's first connection: this node's has had it now.
            self.dialect, self._ready = self.group.pool(node, self.kind).dialect, True
        raw.driver_connection.guard = self.guard
        return node, raw


def write_engine(group: Group, kind: str, guard: ShardGuard | None = None) -> RoutedEngine:
    """An engine on the group's primary, whichever node that is; a guard has one connection at a time."""
    engine = _like(group, kind)
    engine.guard = guard
    engine.take = lambda: group.write(kind)
    return engine


def read_engine(group: Group, kind: str, default: Callable[[], Want]) -> RoutedEngine:
    """An engine on a node of the group that holds what is wanted."""
    engine = _like(group, kind)

    def take() -> tuple[Node, Any]:
        return group.read(kind, wanted.get() or default(), _failed.get())

    engine.take, engine.movable = take, True
    return engine


class _EachItsOwn:
    """In the place of an engine's pool: a connection that is lost discredits its own node's pool, and no other's."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    @staticmethod
    def _invalidate(connection: Any, exception: BaseException | None = None, _checkin: bool = True) -> None:
        connection._pool._invalidate(connection, exception, _checkin)  # noqa: SLF001 - as Connection itself does


def _like(group: Group, kind: str) -> RoutedEngine:
    pool: Any = group.pool(group.primary, kind)
    stand_in: Any = _EachItsOwn(pool.engine.pool)
    engine = RoutedEngine(stand_in, pool.dialect, pool.engine.url)
    engine.group, engine.kind = group, kind
    return engine


class MovableConnection(Connection):
    """A connection for reading that starts again on another node when its own fails before it has answered.

    Once it has answered, errors are the caller's: what was read belongs to one snapshot of one node.
    """

    engine: RoutedEngine
    _answered = False

    def __init__(self, engine: RoutedEngine, connection: PoolProxiedConnection, node: Node) -> None:
        super().__init__(engine, connection)
        self._want = wanted.get()
        self.node = node

    def execute(self, *arguments: Any, **options: Any) -> Any:
        return self._moving(super().execute, arguments, options)

    def scalar(self, *arguments: Any, **options: Any) -> Any:
        return self._moving(super().scalar, arguments, options)

    def scalars(self, *arguments: Any, **options: Any) -> Any:
        return self._moving(super().scalars, arguments, options)

    def exec_driver_sql(self, *arguments: Any, **options: Any) -> Any:
        return self._moving(super().exec_driver_sql, arguments, options)

    def close(self) -> None:
        """Give the connection back. A node that goes away now takes nothing with it: what was read was read."""
        try:
            super().close()
        except exc.DBAPIError as error:
            if not at_fault(error.orig, lost=error.connection_invalidated):
                raise
            self.engine.group.lost(self.node, error.orig or error)
            super().close()

    def _moving(self, run: Callable[..., Any], arguments: Any, options: Any) -> Any:
        if self._answered:
            return run(*arguments, **options)
        failed: tuple[str, ...] = ()
        while True:
            try:
                result = run(*arguments, **options)
            except exc.DBAPIError as error:
                begun = getattr(self, "_trans_context_manager", None) is not None
                if begun or len(failed) >= MOVES or not at_fault(error.orig, lost=error.connection_invalidated):
                    raise
                failed = (*failed, self.node.name)
                self._move(error, failed)
            else:
                self._answered = True
                return result

    def _move(self, error: exc.DBAPIError, failed: tuple[str, ...]) -> None:
        """Let go of the node, and take a connection from another than those that failed."""
        group = self.engine.group
        if error.connection_invalidated:
            group.lost(self.node, error.orig or error)
        group.metrics.count("dbscale_retries", shard=group.shard, node=self.node.name)
        if self.in_transaction():
            self.rollback()
        if not self.invalidated:
            self.invalidate()
        before = _failed.set(failed)
        try:
            with wanting(self._want):
                self.node = node_of(self.connection)
        finally:
            _failed.reset(before)


def node_of(connection: Any) -> Node:
    """The node that a pool's connection leads to."""
    node: Node = connection.driver_connection.node
    return node


def at_fault(error: BaseException | None, *, lost: bool) -> bool:
    """True where the node is at fault, not the statement: it is gone or going, or its recovery got in the way."""
    if lost or isinstance(error, (errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow)):
        return True
    if isinstance(error, (errors.SerializationFailure, errors.DeadlockDetected)):
        return "recovery" in str(error)
    return isinstance(error, psycopg.OperationalError) and error.sqlstate is None
