"""The keys that a database owns as an SQL condition, and such a condition read back into a set of keys."""

from __future__ import annotations

from collections.abc import Iterable

from dbscale.query import parse
from dbscale.schema import quote
from dbscale.shards import keys
from dbscale.shards.keys import HIGHEST, LOWEST, NOTHING, Keys
from dbscale.shards.map import Map, Maps, Range
from dbscale.shards.route import condition_keys


def owned(map_: Map, ranges: Iterable[Range]) -> Keys:
    """The keys of several ranges together."""
    found = NOTHING
    for range_ in ranges:
        found |= map_.keys(range_)
    return found


def condition(map_: Map, column: str, ranges: Iterable[Range]) -> str:
    """True for the rows whose key one of `ranges` owns. Neighbours are joined: a split changes nothing."""
    name = quote(column)
    found = tuple(ranges)
    if map_.strategy == "list":
        values = ", ".join(keys.sql(map_.key, value) for range_ in found for value in range_.values)
        return f"{name} IS NOT NULL AND {name} IN ({values})"
    parts = []
    for start, end in owned(map_, found).intervals:
        low = "" if start == LOWEST else f"{name} >= {keys.sql(map_.key, start[1])}"
        high = "" if end == HIGHEST else f"{name} < {keys.sql(map_.key, end[1])}"
        if low or high:
            parts.append(" AND ".join(filter(None, (low, high))))
    joined = parts[0] if len(parts) == 1 else " OR ".join(f"({part})" for part in parts)
    # A CHECK lets NULL pass.
    return f"{name} IS NOT NULL" + (f" AND ({joined})" if joined else "")


def read(map_: Map, table: str, definition: str) -> Keys:
    """The keys that a constraint `CHECK (…)` lets in, as far as it is of the form that `condition` writes."""
    text = definition.removeprefix("CHECK ").removesuffix(" NOT VALID")
    query = parse(f"SELECT FROM {quote(*table.split('.'))} WHERE {text}")
    return condition_keys(Maps(maps=(map_,)), query)
