"""A node: one server of a group, with what was last seen of it and its pools."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from dbscale.cluster.choose import View
from dbscale.cluster.metrics import Histogram, Metrics, Sample

if TYPE_CHECKING:
    from dbscale.drivers.replication import Place

Role = Literal["primary", "replica", "analytics"]


@dataclass(eq=False, kw_only=True)
class Node:
    """One server, as configured. Whether it is the primary now is its group's to say."""

    name: str
    url: str = field(repr=False)
    shard: str
    configured: Role
    region: str = ""
    weight: int = 1
    metrics: Metrics = field(repr=False)

    place: Place | None = None
    """What the last look showed; None before the first."""
    looked: float = float("-inf")
    """When the last look began, monotonic."""
    pooled: bool | None = None
    """A pooler stands before the server, so a connection does not end with it. None: not known yet."""
    error: str = ""
    """Why the last look failed, empty where it did not."""
    lost_at: float = float("-inf")
    """When a look or a use last failed, by time.perf_counter(): connections from before may be dead."""

    def __post_init__(self) -> None:
        self.view = View(self.name, region=self.region, weight=self.weight)
        self.lock = threading.Lock()
        self.pools: dict[str, Any] = {}
        self._queries: dict[str, Histogram] = {}
        self.metrics.watch(self.samples)

    def queries(self, kind: str) -> Histogram:
        """The histogram of this node's statements of one kind."""
        found = self._queries.get(kind)
        if found is None:
            found = self.metrics.histogram(
                "dbscale_query_seconds", node=self.name, role="primary" if self.writable else "replica", kind=kind
            )
            self._queries[kind] = found
        return found

    @property
    def writable(self) -> bool:
        """True where the last look showed a server that is not a standby; before it, where it is configured so."""
        return not self.place.recovery if self.place else self.configured == "primary"

    def saw(self, place: Place, at: float) -> None:
        """Note what a look showed."""
        if self.place is not None and self.place.recovery != place.recovery:
            self._queries.clear()  # its role is one of their labels
        self.place, self.looked, self.error = place, at, ""

    def samples(self) -> Iterator[Sample]:
        """The gauges of its pools."""
        for kind, pool in self.pools.items():
            labels = (("node", self.name), ("pool", kind))
            numbers = pool.numbers()
            yield Sample("dbscale_pool_connections", (*labels, ("state", "used")), numbers.used)
            yield Sample("dbscale_pool_connections", (*labels, ("state", "idle")), numbers.idle)
            yield Sample("dbscale_pool_max", labels, numbers.most)
            yield Sample("dbscale_pool_pending_requests", labels, numbers.waiting)
            yield Sample("dbscale_pool_timeouts", labels, numbers.timeouts)
