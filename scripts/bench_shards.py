#!/usr/bin/env python3
"""What routing costs: a key among 1,024 ranges, a statement that was seen before, and one that was not."""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable

from dbscale.query import parse
from dbscale.shards.map import Map, Maps, Range, shard_for
from dbscale.shards.route import route, route_statement

RANGES = 1024
STATEMENT = (
    "SELECT f.name, p.crop_type FROM farms f JOIN predictions p ON p.farm_id = f.id WHERE f.id = $1 AND p.yield > 5"
)


def microseconds(work: Callable[[], object], number: int, rounds: int = 7) -> tuple[float, float]:
    """The best and the median time of one call."""
    times = [seconds / number * 1e6 for seconds in timeit.repeat(work, number=number, repeat=rounds)]
    return min(times), statistics.median(times)


def main() -> None:
    ranges = tuple(Range(id=f"r{n}", shard=f"shard_{n % 8}", start=n * 1000) for n in range(RANGES))
    map_ = Map(
        name="farms", key="bigint", tables={"farms": "id", "predictions": "farm_id"}, ranges=ranges, until=RANGES * 1000
    )
    maps = Maps(maps=(map_,))
    query = parse(STATEMENT)
    rows = [
        ("shard_for, a key among 1,024 ranges", lambda: shard_for(map_, 777_777), 100_000),
        ("route, a table and a key", lambda: route(maps, "farms", 777_777), 50_000),
        ("parse, seen before", lambda: parse(STATEMENT), 50_000),
        ("parse, new", lambda: parse.__globals__["_parse"].__wrapped__(STATEMENT, "numeric"), 200),
        ("route_statement, a join of two tables", lambda: route_statement(maps, query, (777_777,)), 2_000),
    ]
    print(f"{'':42}{'best':>10}{'median':>10}  microseconds")
    for title, work, number in rows:
        best, median = microseconds(work, number)
        print(f"{title:42}{best:10.2f}{median:10.2f}")


if __name__ == "__main__":
    main()
