"""What applications tell at their metrics endpoints: pools, statements, and where reads went."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

from dbscale.errors import ConfigError, Missing, Unreachable


def families(url: str) -> list[Any]:
    """The metrics at an application's endpoint; Unreachable where it does not answer, Missing without the extra."""
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError as error:
        raise Missing("prometheus-client is not installed", try_='pip install "dbscale[metrics]"') from error
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{url!r} is no URL of a metrics endpoint", try_="http://app:9464/metrics")
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - http and https alone, see above
            text = answer.read().decode()
    except OSError as error:
        raise Unreachable(str(error), where=url, try_="is the endpoint served (Cluster.serve_metrics)?") from error
    return list(text_string_to_metric_families(text))


def pools(url: str) -> list[dict[str, Any]]:
    """The pools at an endpoint, by node and kind: connections, callers that wait, and how long (ms)."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    buckets: dict[tuple[str, str], list[tuple[float, float]]] = {}
    places = {
        "dbscale_pool_max": "max",
        "dbscale_pool_pending_requests": "waiting",
        "dbscale_pool_timeouts_total": "timeouts",
    }
    for family in families(url):
        for sample in family.samples:
            key = (sample.labels.get("node", ""), sample.labels.get("pool", ""))
            if sample.name == "dbscale_pool_connections":
                _entry(found, key)[sample.labels["state"]] = int(sample.value)
            elif sample.name in places:
                _entry(found, key)[places[sample.name]] = int(sample.value)
            elif sample.name == "dbscale_pool_wait_seconds_bucket":
                buckets.setdefault(key, []).append((float(sample.labels["le"]), sample.value))
    for key, counts in buckets.items():
        _entry(found, key)["wait_p99_ms"] = _edge(counts, 0.99)
    return list(found.values())


def _entry(found: dict[tuple[str, str], dict[str, Any]], key: tuple[str, str]) -> dict[str, Any]:
    empty = {"used": 0, "idle": 0, "max": 0, "waiting": 0, "timeouts": 0, "wait_p99_ms": 0}
    return found.setdefault(key, {"node": key[0], "pool": key[1], **empty})


def _edge(counts: Sequence[tuple[float, float]], share: float) -> float:
    """The upper edge, in ms, of the bucket in which a quantile lies; 0 where there is nothing."""
    total = counts[-1][1]
    return next((le for le, count in counts if count >= share * total), 0.0) * 1000 if total else 0.0


def statements(url: str) -> list[dict[str, Any]]:
    """The statements at an endpoint, by node, role and kind: how many, their 95th percentile, how many over 500 ms."""
    buckets: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for labels, value in _samples(url, "dbscale_query_seconds_bucket"):
        key = (labels["node"], labels["role"], labels["kind"])
        buckets.setdefault(key, []).append((float(labels["le"]), value))
    return [
        {
            "node": node,
            "role": role,
            "kind": kind,
            "count": int(counts[-1][1]),
            "p95_ms": _edge(counts, 0.95),
            "over_500_ms": int(counts[-1][1] - dict(counts)[0.5]),
        }
        for (node, role, kind), counts in sorted(buckets.items())
    ]


def routes(url: str) -> list[dict[str, Any]]:
    """Where an application's work went, by shard, node and reason: how often."""
    return [{**labels, "count": int(value)} for labels, value in _samples(url, "dbscale_route_total")]


def _samples(url: str, name: str) -> Iterator[tuple[dict[str, str], float]]:
    for family in families(url):
        for sample in family.samples:
            if sample.name == name:
                yield dict(sample.labels), sample.value


def workload(urls: Sequence[str], seconds: float) -> tuple[float, float]:
    """Checkouts a second and how long they are held, in ms: from two looks at the endpoints, `seconds` apart."""

    def look() -> tuple[float, float]:
        count = total = 0.0
        for url in urls:
            for family in families(url):
                for sample in family.samples:
                    count += sample.value if sample.name == "dbscale_pool_use_seconds_count" else 0
                    total += sample.value if sample.name == "dbscale_pool_use_seconds_sum" else 0
        return count, total

    start = time.monotonic()
    before = look()
    time.sleep(seconds)
    after = look()
    passed, count = time.monotonic() - start, after[0] - before[0]
    if count <= 0:
        raise ConfigError(f"nothing was done in {seconds:g} s at {', '.join(urls)}", try_="measure under load")
    return count / passed, (after[1] - before[1]) / count * 1000
