"""A group: a primary and its replicas, watched; it hands out connections on the node that fits."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import psycopg
import psycopg_pool
from sqlalchemy import exc

from dbscale.cluster import pools, waiting
from dbscale.cluster.choose import (
    Attempt,
    Limits,
    Samples,
    View,
    Want,
    after_failure,
    after_look,
    attempts,
    satisfies,
)
from dbscale.cluster.connections import ASK
from dbscale.cluster.metrics import Metrics, Sample
from dbscale.cluster.nodes import Node
from dbscale.cluster.token import Position, Token
from dbscale.cluster.watch import Watch
from dbscale.drivers.replication import Place, normalised
from dbscale.errors import ConfigError, DbscaleError, Unreachable

FIRST_LOOK_SECONDS = 3.0


class TwoPrimaries(Unreachable):
    """Two nodes of one group accept writes, and nothing says which is right."""

    section = "two-primaries"


class Group:
    """One shard's servers."""

    def __init__(
        self, shard: str, nodes: Sequence[Node], *, limits: Limits, interval: float, metrics: Metrics, app: str
    ) -> None:
        self.shard = shard
        self.nodes = {node.name: node for node in nodes}
        self.limits = limits
        self.interval = interval
        self.metrics = metrics
        self.app = app
        self.samples = Samples()
        self.primary = next(node for node in nodes if node.configured == "primary")
        self.timeline = 0
        self.system = ""
        self._readers = [node for node in nodes if node.configured != "analytics"]
        self._watches: list[Watch] = []
        self._lock = threading.RLock()
        self._looked = threading.Condition(self._lock)
        self._settings: pools.Settings | None = None
        metrics.watch(self._gauges)

    @property
    def alone(self) -> bool:
        """True for a single server: nothing to choose, nothing to watch."""
        return len(self._readers) == 1

    # -- what is known

    @property
    def started(self) -> bool:
        """True once the nodes are watched, or where there is nothing to watch."""
        return bool(self._watches) or len(self.nodes) == 1

    def start(self) -> None:
        """Begin to watch the nodes, and wait for the first look at each (or its failure)."""
        with self._lock:
            if self.started:
                return
            self._watches = [Watch(self, node, self.interval) for node in self.nodes.values()]
            for watch in self._watches:
                watch.start()
        self._await(lambda node: node.place is not None or bool(node.error))
        with self._lock:
            self._settle()
            for node in self.nodes.values():  # they were seen before the primary's first sample was there
                if node.place is not None and node is not self.primary:
                    self._seen(node, node.place, node.looked)

    def stop(self) -> None:
        """End the watching."""
        with self._lock:
            watches, self._watches = self._watches, []
        for watch in watches:
            watch.stop()

    def forked(self) -> None:
        """In a forked child: its parent's threads are not here; what was seen holds until they are begun anew."""
        self._watches = []
        self._lock = threading.RLock()
        self._looked = threading.Condition(self._lock)

    def look_again(self) -> None:
        """Look at every node now, and wait for the answers."""
        since = time.monotonic()
        for watch in self._watches:
            watch.wake.set()
        self._await(lambda node: node.looked >= since or bool(node.error))

    def _await(self, done: Callable[[Node], bool]) -> None:
        with self._looked:
            self._looked.wait_for(lambda: all(done(n) for n in self.nodes.values()), FIRST_LOOK_SECONDS)

    def saw(self, node: Node, place: Place, at: float) -> None:
        """A look at `node` that began at `at` showed `place`."""
        with self._looked:
            node.saw(place, at)
            if not place.recovery:
                self._settle()
            self._seen(node, place, at)
            self._looked.notify_all()

    def _seen(self, node: Node, place: Place, at: float) -> None:
        if node is self.primary and not place.recovery:
            if (place.system, place.timeline) != (self.system, self.timeline):
                self.samples.clear()
                self.system, self.timeline = place.system, place.timeline
            self.samples.add(at, place.lsn, place.flushed, place.flush_seconds)
        foreign = bool(self.system) and place.system != self.system
        if foreign or not place.recovery:
            node.view = replace(node.view, state="offline", at=at)
            return
        as_of = self.samples.as_of(place.lsn) if place.timeline == self.timeline else node.view.as_of
        node.view = after_look(
            node.view, timeline=place.timeline, lsn=place.lsn, at=at, as_of=as_of, limits=self.limits
        )

    def lost(self, node: Node, error: BaseException) -> None:
        """A look at `node` or its use failed."""
        with self._looked:
            node.error = str(error).strip().partition("\n")[0] or type(error).__name__
            node.lost_at = time.perf_counter()
            node.view = after_failure(node.view, time.monotonic(), random.random())  # noqa: S311 - jitter
            if node is self.primary:
                self._settle()
            self._looked.notify_all()

    def _settle(self) -> None:
        """Find the primary: stay with the one that writes; where it is gone, the promoted of the highest timeline."""
        writing = [n for n in self._readers if n.place and not n.place.recovery and not n.error]
        if self.primary in writing or not writing:
            return
        found = max(writing, key=lambda node: node.place.timeline if node.place else 0)
        known = self.primary.place
        if known is not None and found.place is not None and found.place.system != known.system:
            return  # another database's server at a replica's address is no successor
        self.primary = found
        self.metrics.count("dbscale_failovers", shard=self.shard)

    def two_primaries(self) -> list[Node]:
        """The nodes that accept writes, where more than one does."""
        writing = [n for n in self._readers if n.place and not n.place.recovery and not n.error]
        return writing if len(writing) > 1 else []

    # -- connections

    def configure(self, settings: pools.Settings) -> None:
        """How connections are made; before the first is taken."""
        self._settings = settings

    def pool(self, node: Node, kind: str) -> pools.Pool:
        """The node's pool of this kind, made at its first use."""
        pool: pools.Pool | None = node.pools.get(kind)
        if pool is None:
            with node.lock:
                pool = node.pools.get(kind)
                if pool is None:
                    assert self._settings is not None  # noqa: S101 - configure() is called by open()
                    pool = node.pools[kind] = pools.make(kind, node, self._settings)
        return pool

    def write(self, kind: str) -> tuple[Node, Any]:
        """A connection on the primary. Looks for a new primary where the known one fails before it is used."""
        if not self.started:
            waiting.outside(kind, self.start)
        error: Exception | None = None
        for again in (False, True):
            if again:
                waiting.outside(kind, self.look_again)
            if both := self.two_primaries():
                error = self._split(both)
                continue  # the old one may have gone since it was last looked at
            node = self.primary
            if node.place is not None and node.place.recovery:
                error = Unreachable("the primary has become a standby")
                continue
            try:
                raw = self._take(node, kind, read_only=False)
            except psycopg_pool.PoolTimeout as failure:
                error = failure
                break
            except psycopg.Error as failure:
                self.lost(node, failure)
                error = failure
                if self.alone:
                    break
                continue
            self.metrics.count("dbscale_route", shard=self.shard, node=node.name, reason="write")
            return node, raw
        raise self._nobody("write to", error) from error

    def read(self, kind: str, want: Want, but: Sequence[str] = ()) -> tuple[Node, Any]:
        """A connection on a node that holds what is wanted; those named in `but` come last."""
        if not self.started:
            waiting.outside(kind, self.start)
        error: Exception | None = None
        for attempt in self._attempts(want, but):
            node = self.nodes[attempt.name] if attempt.name else self.primary
            if not attempt.name and node.place is not None and node.place.recovery:
                continue  # it has become a standby, and its successor is not known yet
            try:
                raw = self._take(node, kind, read_only=True)
            except psycopg_pool.PoolTimeout as failure:
                error = failure
                continue
            except psycopg.Error as failure:
                self.lost(node, failure)
                error = failure
                continue
            try:
                held = attempt.proof == "none" or self._holds(node, raw, want, attempt, kind)
            except (psycopg.Error, exc.DBAPIError) as failure:
                self.lost(node, failure)
                self._drop(node, kind, raw)
                error = failure
                continue
            if not held:
                self.pool(node, kind).give(raw)
                continue
            labels = (("shard", self.shard), ("node", node.name), ("reason", attempt.reason))
            self.metrics.add("dbscale_route", labels)
            return node, raw
        raise self._nobody("read from", error) from error

    def _attempts(self, want: Want, but: Sequence[str]) -> Iterator[Attempt]:
        if want.analytics:
            own = [Attempt(n.name, "analytics") for n in self.nodes.values() if n.configured == "analytics"]
            if not own:
                says = f"no replica of {self.shard} has the role analytics"
                raise ConfigError(says, where="dbscale.toml", try_='replicas = [{ url = "…", role = "analytics" }]')
            return iter(own)
        if self.alone:
            return iter([Attempt("", "no-replica")])
        primary = self.primary
        views = [node.view for node in self._readers if node is not primary]
        found = attempts(
            views, want, self.timeline, self.limits, now=time.monotonic(), clock=time.time(), random=random.random
        )
        if not but:
            return found
        return iter(sorted(found, key=lambda attempt: (attempt.name or primary.name) in but))

    def _holds(self, node: Node, raw: Any, want: Want, attempt: Attempt, kind: str) -> bool:
        """Whether the replica holds what is wanted, told by this very connection where the last look cannot tell.

        A standby that crashed may come back behind where it was. So what was seen counts only for a connection that
        was open before the look: a crash would have ended it.
        """
        driver = getattr(raw, "driver_connection", raw)
        if attempt.proof == "seen" and not node.pooled and driver.connected_at < node.view.at:
            return True
        if attempt.proof == "position":
            want = replace(want, max_lag=float("inf"))
        deadline = time.monotonic() + self.limits.wait
        pause = 0.001
        while True:
            at = time.monotonic()
            recovery, lsn = _ask(raw)
            if not recovery:
                return False
            view = self._asked(node, lsn, at)
            if satisfies(view, want, self.timeline, self.limits, time.monotonic()):
                return True
            if want.position is None or time.monotonic() + pause > deadline:
                node.view = replace(node.view, late_at=time.monotonic())
                return False
            waiting.sleep(kind, pause)
            pause *= 2

    def _asked(self, node: Node, lsn: int, at: float) -> View:
        """The view of a replica that told its position at `at`: as good as a look, for other readers too."""
        with self._lock:
            if at > node.view.at:
                node.view = replace(node.view, lsn=lsn, at=at, as_of=max(node.view.as_of, self.samples.as_of(lsn)))
            return replace(node.view, lsn=lsn, as_of=self.samples.as_of(lsn))

    def _take(self, node: Node, kind: str, *, read_only: bool) -> Any:
        pool = self.pool(node, kind)
        raw = pool.take(trusting=read_only)
        # A standby's transactions are READ ONLY as it is, and BEGIN READ ONLY takes 50 µs more than BEGIN.
        standby = node.place is not None and node.place.recovery
        wanted = True if read_only and not standby else None
        if pool.dialect is None:
            if raw.read_only is not wanted:
                raw.read_only = wanted
        elif pool.dialect.get_readonly(raw.dbapi_connection) is not wanted:
            pool.dialect.set_readonly(raw.dbapi_connection, wanted)
        return raw

    def _drop(self, node: Node, kind: str, raw: Any) -> None:
        """Give back a connection that failed."""
        if self.pool(node, kind).dialect is None:
            raw.close()
            self.pool(node, kind).give(raw)
        else:
            raw.invalidate()
            raw.close()

    def committed(self, node: Node, timeline: int, lsn: int) -> Token:
        """The token for a commit on `node` that ended at `lsn` (0: it did not tell)."""
        place = node.place
        system = place.system if place else self.system
        if place is not None and lsn:
            lsn = normalised(lsn, place.segment, place.block)
        return Token((Position(system or "0", timeline, lsn, int(time.time())),))

    # -- for people

    def _nobody(self, verb: str, error: Exception | None) -> DbscaleError:
        if isinstance(error, DbscaleError):
            return error
        states = "; ".join(f"{n.name}: {n.error or n.view.state}" for n in self.nodes.values())
        return Unreachable(
            f"there is no node to {verb} ({states})" if not self.alone else f"cannot {verb} the database: {error}",
            where=self.shard,
            try_="dbscale replicas show says what each node is doing; a wider max_lag lets more replicas answer",
        )

    def _split(self, both: list[Node]) -> TwoPrimaries:
        names = " and ".join(f"{n.name} (timeline {n.place.timeline if n.place else '?'})" for n in both)
        return TwoPrimaries(
            f"{names} both accept writes",
            where=self.shard,
            try_="stop the one that was replaced (pg_ctl stop), then rebuild it: dbscale replicas add",
        )

    def _gauges(self) -> Iterator[Sample]:
        if self.alone:
            return
        now = time.monotonic()
        yield Sample("dbscale_primaries", (("shard", self.shard),), max(1, len(self.two_primaries())))
        newest = self.primary.place.lsn if self.primary.place else 0
        for node in self.nodes.values():
            if node is self.primary:
                continue
            labels = (("shard", self.shard), ("node", node.name))
            for state in ("online", "lagging", "probation", "offline"):
                yield Sample("dbscale_replica_state", (*labels, ("state", state)), float(node.view.state == state))
            yield Sample("dbscale_replica_lag_seconds", labels, max(0.0, now - node.view.as_of))
            if newest:
                yield Sample("dbscale_replica_lag_bytes", labels, max(0, newest - node.view.lsn))


def _ask(raw: Any) -> tuple[bool, int]:
    """Role and replay position, outside a transaction: inside one, the snapshot could be older than the answer."""
    connection = getattr(raw, "dbapi_connection", raw)
    connection.autocommit = True
    try:
        cursor = connection.cursor()
        cursor.execute(ASK)
        recovery, lsn = cursor.fetchone()
        cursor.close()
    finally:
        if not connection.closed:
            connection.autocommit = False
    return recovery, lsn or 0
