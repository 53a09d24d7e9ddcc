"""What happened, counted in memory: pools, queries by node and kind, where reads went, replica lag.

`pool show` and `replicas show` read them from an application's Prometheus endpoint (extra `metrics`), which `serve`
opens; a program reads them through `Cluster.metrics`.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from dbscale.errors import Missing

EDGES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper edges of the buckets, in seconds; 0.5 is the alarm's (response above 500 ms)."""


FOLD = 256
"""As many durations are kept as they came before they are put into buckets."""


class Histogram:
    """Durations in buckets. `observe` is safe from any thread, and cheap: appending to a deque needs no lock."""

    __slots__ = ("_buckets", "_fresh", "_lock", "_total")

    def __init__(self) -> None:
        self._buckets = [0] * (len(EDGES) + 1)
        self._total = 0.0
        self._fresh: deque[float] = deque()
        self._lock = threading.Lock()

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._fresh.append(seconds)
        if len(self._fresh) >= FOLD:
            self.read()

    def read(self) -> tuple[tuple[int, ...], float]:
        """How many durations each bucket holds, and the sum of all, in seconds."""
        with self._lock:
            for _ in range(len(self._fresh)):
                seconds = self._fresh.popleft()
                self._buckets[bisect_left(EDGES, seconds)] += 1
                self._total += seconds
            return tuple(self._buckets), self._total

    @property
    def buckets(self) -> tuple[int, ...]:
        """How many durations each bucket holds; the last one those above all EDGES."""
        return self.read()[0]

    @property
    def count(self) -> int:
        """How many durations there were."""
        return sum(self.buckets)

    def quantile(self, q: float) -> float:
        """The upper edge of the bucket in which the quantile `q` (0 to 1) lies, in seconds; 0 when empty."""
        buckets = self.buckets
        wanted = q * sum(buckets)
        seen = 0
        for place, number in enumerate(buckets):
            seen += number
            if seen >= wanted and number:
                return EDGES[place] if place < len(EDGES) else float("inf")
        return 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading of a gauge or a counter."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Metrics:
    """The counters of one cluster."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._histograms: dict[tuple[str, tuple[tuple[str, str], ...]], Histogram] = {}
        self._gauges: list[Callable[[], Iterable[Sample]]] = []

    def count(self, name: str, **labels: str) -> None:
        """Add one to the counter `name` with these labels."""
        self.add(name, tuple(labels.items()))

    def add(self, name: str, labels: tuple[tuple[str, str], ...]) -> None:
        """As `count`, with the labels as they are kept."""
        key = (name, labels)
        with self._lock:
            self._counters[key] = self._counters.get(key, 0) + 1

    def histogram(self, name: str, **labels: str) -> Histogram:
        """The histogram `name` with these labels; the same one for the same labels."""
        key = (name, tuple(labels.items()))
        found = self._histograms.get(key)
        if found is None:
            with self._lock:
                found = self._histograms.setdefault(key, Histogram())
        return found

    def watch(self, read: Callable[[], Iterable[Sample]]) -> None:
        """Let `read` be asked for gauges whenever somebody looks."""
        self._gauges.append(read)

    def samples(self) -> Iterator[Sample]:
        """Gauges and counters as they are now."""
        for read in self._gauges:
            yield from read()
        with self._lock:
            counters = dict(self._counters)
        for (name, labels), value in counters.items():
            yield Sample(name, labels, value)

    def histograms(self) -> Iterator[tuple[str, tuple[tuple[str, str], ...], Histogram]]:
        """Each histogram with its name and labels."""
        with self._lock:
            found = dict(self._histograms)
        for (name, labels), histogram in found.items():
            yield name, labels, histogram

    def value(self, name: str, **labels: str) -> float:
        """The sum of a gauge or counter over the samples that carry these labels."""
        wanted = set(labels.items())
        return sum(s.value for s in self.samples() if s.name == name and wanted <= set(s.labels))


HELP = {
    "dbscale_pool_connections": "Connections of this process, by state: used or idle.",
    "dbscale_pool_max": "The most connections that this pool opens: size and overflow.",
    "dbscale_pool_pending_requests": "Callers that wait for a connection now.",
    "dbscale_pool_timeouts": "Callers that gave up waiting for a connection.",
    "dbscale_pool_wait_seconds": "How long callers waited for a connection.",
    "dbscale_pool_use_seconds": "How long callers kept a connection.",
    "dbscale_query_seconds": "How long statements took, by node, role and kind.",
    "dbscale_replica_lag_seconds": "Proven lag: the replica holds everything committed up to so long ago.",
    "dbscale_replica_lag_bytes": "WAL that the replica has not replayed.",
    "dbscale_replica_state": "1 for the state the replica is in.",
    "dbscale_route": "Where work was sent, and why.",
    "dbscale_retries": "Reads begun again on another node.",
    "dbscale_failovers": "Times the primary was found to be another node.",
    "dbscale_primaries": "Nodes that accept writes; more than one is a split brain.",
}


class _Collector:
    """The metrics in the form that prometheus_client asks for."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        families: dict[str, Any] = {}
        counted = {"dbscale_pool_timeouts", "dbscale_route", "dbscale_retries", "dbscale_failovers"}
        for sample in self.metrics.samples():
            kind = CounterMetricFamily if sample.name in counted else GaugeMetricFamily
            names = [name for name, _ in sample.labels]
            family = families.setdefault(sample.name, kind(sample.name, HELP[sample.name], labels=names))
            family.add_metric([value for _, value in sample.labels], sample.value)
        for name, labels, histogram in self.metrics.histograms():
            names = [label for label, _ in labels]
            family = families.setdefault(name, HistogramMetricFamily(name, HELP[name], labels=names))
            buckets, seen = [], 0
            numbers, total = histogram.read()
            for edge, number in zip((*EDGES, "+Inf"), numbers, strict=True):
                seen += number
                buckets.append((str(edge), seen))
            family.add_metric([value for _, value in labels], buckets=buckets, sum_value=total)
        yield from families.values()


def collector(metrics: Metrics) -> Any:
    """A collector to register with a prometheus_client registry. Missing without the extra `metrics`."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError as error:
        raise Missing("prometheus-client is not installed", try_='pip install "dbscale[metrics]"') from error
    return _Collector(metrics)


def serve(metrics: Metrics, port: int, address: str = "127.0.0.1") -> Any:
    """Open http://address:port/metrics in a thread of its own; the server, whose `shutdown()` ends it."""
    made = collector(metrics)
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(made)
    server, _ = start_http_server(port, address, registry)
    return server
