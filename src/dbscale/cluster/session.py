"""SQLAlchemy sessions that read from replicas until they write, where the statement is certain to read only."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event, inspect, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import InstanceState, Session, SessionTransaction

from dbscale import query
from dbscale.cluster import engines
from dbscale.cluster import scope as scopes
from dbscale.errors import DbscaleError

if TYPE_CHECKING:
    from dbscale.cluster.cluster import Cluster
    from dbscale.cluster.groups import Group
    from dbscale.cluster.keyed import Guard


class FromReplica(DbscaleError):
    """An object that was read from a replica is to be changed: it may be older than what it would overwrite."""

    section = "from-replica"


class SplitSession(Session):
    """Statements that certainly only read go to a replica, until the session writes; everything else to the primary.

    An object that came from a replica cannot be changed here, because the primary's may be newer by now: flush raises
    FromReplica. For that, open the session with `write=True`, or inside a request that changes things.
    """

    def __init__(
        self,
        cluster: Cluster,
        group: Group,
        *,
        kind: str,
        write: bool | None,
        guard: Guard | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._cluster, self._group, self._kind = cluster, group, kind
        self._guarded = engines.write_engine(group, kind, guard) if guard else None
        self._always = scopes.current().writes if write is None else write
        self._writing = self._always
        self._replicas: weakref.WeakSet[InstanceState[Any]] = weakref.WeakSet()
        event.listen(self, "loaded_as_persistent", self._loaded)
        event.listen(self, "before_flush", self._check)
        event.listen(self, "after_transaction_end", self._ended)

    def get_bind(self, mapper: Any = None, *, clause: Any = None, **_: Any) -> Engine:  # noqa: ARG002 - Session's
        """The engine for a statement: the primary's from the first that may write on."""
        if not self._writing and (self._flushing or clause is None or not only_reads(clause)):
            self._writing = True
        if self._guarded is not None and self._writing:
            return self._guarded
        return self._cluster.routed(self._group, self._kind, read=not self._writing)

    def _loaded(self, _session: Session, instance: Any) -> None:
        if not self._writing:
            self._replicas.add(inspect(instance))

    def _check(self, _session: Session, _context: Any, _instances: Any) -> None:
        for instance in (*self.deleted, *self.dirty):
            changed = instance in self.deleted or self.is_modified(instance)
            if changed and inspect(instance) in self._replicas:
                raise FromReplica(
                    f"a {type(instance).__name__} read from a replica is to be changed; the primary's may be newer",
                    where=self._group.shard,
                    try_="read it in cluster.session(write=True), which stays on the primary",
                )

    def _ended(self, _session: Session, transaction: SessionTransaction) -> None:
        if transaction.parent is None:
            self._writing = self._always


_known: OrderedDict[Any, bool] = OrderedDict()
_MADE: Any = make_url("postgresql+psycopg://").get_dialect()
DIALECT = _MADE(paramstyle="pyformat")


def only_reads(clause: Any) -> bool:
    """True where the statement certainly changes nothing, takes no locks, and does not ask about its server.

    Judged by its text with PostgreSQL's grammar; kept by SQLAlchemy's cache key, so that it is done once a form.
    """
    made = clause._generate_cache_key() if hasattr(clause, "_generate_cache_key") else None  # noqa: SLF001
    key = made.key if made is not None else None
    if key is not None and key in _known:
        return _known[key]
    try:
        compiled = clause.compile(dialect=DIALECT, compile_kwargs={"render_postcompile": True})
    except SQLAlchemyError:
        return False
    reads = query.parse(str(compiled), "format").reads
    if key is not None:
        _known[key] = reads
        if len(_known) > 2000:
            _known.popitem(last=False)
    return reads
