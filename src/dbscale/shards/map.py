"""Shard maps: which shard owns which keys. The TOML of `shard_maps/`, read strictly, and the algebra of maps.

A range says where it starts and ends where the next one starts, so that gaps and overlaps cannot be written. All
functions are pure. Versions of a map (epochs) live in the catalog on the servers, never in the file.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from dbscale.errors import ConfigError, Unroutable
from dbscale.shards.keys import HIGHEST, INTEGERS, LOWEST, Cut, Key, Keys, before, exact, points, show

Strategy = Literal["range", "time", "list", "hash"]
Every = Literal["", "day", "week", "month", "year"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A part of the keys that has one owner; the unit of split, merge and move, known by its `id`."""

    id: str
    shard: str
    start: Key | None = None
    """The first key; None: from the beginning. Not used by list maps."""
    values: tuple[Key, ...] = ()
    """The keys of a list map's entry."""


@dataclass(frozen=True, kw_only=True)
class Map:
    """One key space, the tables that live together in it, and the owner of each range of keys."""

    name: str
    key: str
    """The type of the key: smallint, integer, bigint, uuid, text, date or timestamptz."""
    tables: dict[str, str] = field(hash=False)
    """Each table with its key column; a table of another schema than the search path's is `schema.table`."""
    ranges: tuple[Range, ...] = ()
    until: Key | None = None
    """The first key that no range owns any more; None: no end."""
    reference: tuple[str, ...] = ()
    """Small tables copied whole to every shard."""
    every: Every = ""
    """How long a partition inside a shard is, for keys that are times."""
    premake: int = 3
    """How many partitions are made ahead of now."""
    retain: str = ""
    """How long partitions are kept: `24 months`; empty: for ever."""
    hash: int = 0
    """How many buckets a hash map has. Citus places them; every statement goes to the coordinator, `shard`."""
    shard: str = ""
    path: str = field(default="", compare=False)
    """The file it was read from."""

    @property
    def strategy(self) -> Strategy:
        if self.hash:
            return "hash"
        if any(range_.values for range_ in self.ranges):
            return "list"
        return "time" if self.every else "range"

    @property
    def shards(self) -> tuple[str, ...]:
        """The shards it names, each once, in the order of their ranges."""
        return tuple(dict.fromkeys(range_.shard for range_ in self.ranges)) or (self.shard,)

    @cached_property
    def _starts(self) -> list[Any]:
        return [range_.start for range_ in self.ranges if range_.start is not None]

    @cached_property
    def _open(self) -> int:
        """1 where the first range has no start, else 0."""
        return int(bool(self.ranges) and self.ranges[0].start is None)

    @cached_property
    def _edges(self) -> list[Cut]:
        """The cuts where the ranges start, and the one where the last ends."""
        starts = [LOWEST if range_.start is None else before(range_.start) for range_ in self.ranges]
        return [*starts, HIGHEST if self.until is None else before(self.until)]

    @cached_property
    def _listed(self) -> dict[Key, Range]:
        return {value: range_ for range_ in self.ranges for value in range_.values}

    @cached_property
    def _whole(self) -> Range:
        return Range(id=self.name, shard=self.shard)

    @cached_property
    def checksum(self) -> str:
        """A hash of what the map says: alike for files that differ in comments and order only."""
        return hashlib.sha256(json.dumps(content(self), sort_keys=True).encode()).hexdigest()[:16]

    def cuts(self, range_: Range) -> tuple[Cut, Cut]:
        """Where a range begins and ends; not for list maps."""
        place = self.ranges.index(range_)
        return self._edges[place], self._edges[place + 1]

    def end(self, range_: Range) -> Key | None:
        """The first key after a range; None: no end."""
        cut = self.cuts(range_)[1]
        return None if cut == HIGHEST else cut[1]

    def keys(self, range_: Range) -> Keys:
        """The keys of a range as a set."""
        if range_.values:
            return points(range_.values)
        return Keys((self.cuts(range_),))

    def range(self, id_: str) -> Range:
        """The range called `id_`; ConfigError where there is none."""
        for range_ in self.ranges:
            if range_.id == id_:
                return range_
        known = ", ".join(range_.id for range_ in self.ranges)
        raise ConfigError(f"the map {self.name} has no range {id_!r}", where=self.path, try_=f"one of: {known}")


def shard_for(map_: Map, key: Key) -> Range:
    """The range that owns `key`, which must be of the map's type already (`keys.exact`): one bisection.

    Unroutable where no range does: a key outside every range is an error, never a scatter.
    """
    if map_.hash:
        return map_._whole  # noqa: SLF001 - a function, so that the dataclass stays data
    if listed := map_._listed:  # noqa: SLF001
        if (found := listed.get(key)) is not None:
            return found
    else:
        until: Any = map_.until
        place = bisect_right(map_._starts, key) - 1 + map_._open  # noqa: SLF001
        if place >= 0 and (until is None or key < until):
            return map_.ranges[place]
    raise Unroutable(
        f"{show(key)} is outside every range of the map {map_.name}",
        where=map_.path or map_.name,
        try_="add a range for it to the map, or check the key",
    )


def shards_between(map_: Map, keys: Keys) -> tuple[Range, ...]:
    """The ranges that may own a key of the set, in order."""
    if map_.hash:
        return (map_._whole,) if keys else ()  # noqa: SLF001
    if map_.strategy == "list":
        return tuple(range_ for range_ in map_.ranges if map_.keys(range_) & keys)
    edges = map_._edges  # noqa: SLF001
    found: dict[int, Range] = {}
    for start, end in keys.intervals:
        place = max(bisect_right(edges, start) - 1, 0)
        while place < len(map_.ranges) and edges[place] < end:
            if edges[place + 1] > start:
                found[place] = map_.ranges[place]
            place += 1
    return tuple(found.values())


def split(map_: Map, id_: str, at: Key, new_id: str) -> Map:
    """The map with the range `id_` cut in two at `at`, which becomes the start of `new_id`; no owner changes."""
    range_ = map_.range(id_)
    if map_.strategy in ("list", "hash"):
        raise ConfigError(f"a {map_.strategy} map has no ranges to split", where=map_.path)
    low, high = map_.cuts(range_)
    if not low < before(at) < high:
        bounds = f"{show(range_.start) or 'the beginning'} and {show(map_.end(range_)) or 'the end'}"
        raise ConfigError(f"{show(at)} is not inside {id_}", where=map_.path, try_=f"a key between {bounds}")
    if any(other.id == new_id for other in map_.ranges):
        raise ConfigError(f"there is a range {new_id!r} already", where=map_.path, try_="choose another id")
    place = map_.ranges.index(range_) + 1
    new = Range(id=new_id, shard=range_.shard, start=at)
    return replace(map_, ranges=(*map_.ranges[:place], new, *map_.ranges[place:]))


def merge(map_: Map, first: str, second: str) -> Map:
    """The map with two neighbouring ranges of one owner united under the first one's id; no owner changes."""
    left, right = map_.range(first), map_.range(second)
    if map_.strategy in ("list", "hash"):
        raise ConfigError(f"a {map_.strategy} map has no ranges to merge", where=map_.path)
    if map_.ranges.index(right) != map_.ranges.index(left) + 1:
        raise ConfigError(f"{second} does not follow {first}", where=map_.path, try_="name two neighbours, in order")
    if left.shard != right.shard:
        raise ConfigError(
            f"{first} is on {left.shard}, {second} on {right.shard}",
            where=map_.path,
            try_="only ranges of one owner can be merged, as no data moves",
        )
    return replace(map_, ranges=tuple(range_ for range_ in map_.ranges if range_ is not right))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One way in which a map differs from another."""

    kind: Literal["owner", "lost", "gained", "bounds", "key", "tables"]
    """owner: keys change their shard; lost: keys have no owner any more; gained: keys have one now; bounds: ranges
    are cut otherwise, with the same owners; key, tables: of another type, or in other tables."""
    says: str


def difference(live: Map, wanted: Map) -> tuple[Change, ...]:
    """What must change for `live` to become `wanted`; empty where they say the same."""
    changes = []
    if (live.key, live.hash) != (wanted.key, wanted.hash):
        return (Change(kind="key", says=f"the key was {live.key}, and is {wanted.key}"),)
    if live.tables != wanted.tables or live.reference != wanted.reference:
        changes.append(Change(kind="tables", says=f"tables were {_tables(live)}, and are {_tables(wanted)}"))
    for was, will, keys in _pieces(live, wanted):
        where = ", ".join(_interval(start, end) for start, end in keys.intervals)
        if was and will:
            changes.append(Change(kind="owner", says=f"{where} moves from {was} to {will}"))
        elif was:
            changes.append(Change(kind="lost", says=f"{where} was on {was}, and has no owner now"))
        elif will:
            changes.append(Change(kind="gained", says=f"{where} is new, on {will}"))
    if not changes and _names(live) != _names(wanted):
        changes.append(Change(kind="bounds", says=f"ranges were {_names(live)}, and are {_names(wanted)}"))
    return tuple(changes)


def _pieces(live: Map, wanted: Map) -> list[tuple[str, str, Keys]]:
    """Sets of keys whose owner differs, with both owners; empty for none."""
    found: dict[tuple[str, str], Keys] = {}
    sides = [_owned(live), _owned(wanted)]
    everything = Keys(((LOWEST, HIGHEST),))
    for side in sides:
        side[""] = _without(everything, side.values())
    for was, theirs in sides[0].items():
        for will, ours in sides[1].items():
            if was != will and (common := theirs & ours):
                found[was, will] = common
    return [(was, will, keys) for (was, will), keys in found.items()]


def _owned(map_: Map) -> dict[str, Keys]:
    owned: dict[str, Keys] = {}
    for range_ in map_.ranges:
        owned[range_.shard] = owned.get(range_.shard, Keys(())) | map_.keys(range_)
    return owned


def _without(whole: Keys, parts: Iterable[Keys]) -> Keys:
    taken = Keys(())
    for part in parts:
        taken |= part
    rest, at = [], whole.intervals[0][0]
    for start, end in taken.intervals:
        if at < start:
            rest.append((at, start))
        at = end
    if at < whole.intervals[-1][1]:
        rest.append((at, whole.intervals[-1][1]))
    return Keys(tuple(rest))


def _interval(start: Cut, end: Cut) -> str:
    low = "the beginning" if start == LOWEST else show(start[1])
    return f"{low} to {'the end' if end == HIGHEST else show(end[1])}"


def _names(map_: Map) -> str:
    """The ranges with their starts or values."""
    return ", ".join(
        f"{range_.id} ({'|'.join(map(show, range_.values)) or show(range_.start) or 'the beginning'})"
        for range_ in map_.ranges
    )


def _tables(map_: Map) -> str:
    return ", ".join(f"{table} by {column}" for table, column in map_.tables.items())


def content(map_: Map) -> dict[str, Any]:
    """The map as plain data, keys as text: for the catalog, the checksum and --json. `file.restore` reads it."""
    ranges = [
        {"id": range_.id, "shard": range_.shard}
        | ({} if range_.start is None else {"from": show(range_.start)})
        | ({"values": [show(value) for value in range_.values]} if range_.values else {})
        for range_ in map_.ranges
    ]
    whole = {
        "name": map_.name,
        "key": map_.key,
        "tables": dict(map_.tables),
        "reference": list(map_.reference),
        "ranges": ranges,
        "until": None if map_.until is None else show(map_.until),
        "every": map_.every,
        "premake": map_.premake,
        "retain": map_.retain,
        "hash": map_.hash,
        "shard": map_.shard,
    }
    return {
        key: value for key, value in whole.items() if value not in (None, "", 0, []) or (key, value) == ("until", "")
    }


@dataclass(frozen=True, kw_only=True)
class Maps:
    """All maps of a deployment, and where each shard is. Without maps, everything lives on `home`."""

    maps: tuple[Map, ...] = ()
    shards: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Each shard with the name of its database."""
    home: str = "home"
    """The shard of the tables on no map."""

    def of(self, table: str, schema: str = "") -> Map | None:
        """The map that holds a table, or None: it lives on `home`."""
        return self._places.get((schema or "public", table), (None, ""))[0]

    def place(self, table: str) -> tuple[Map | None, str]:
        """The map and the key column of `table` or `schema.table`; no map: it lives on `home`."""
        schema, _, name = table.rpartition(".")
        return self._places.get((schema or "public", name), (None, ""))

    def column(self, table: str, schema: str = "") -> str:
        """The key column of a table that is on a map; empty for a reference table."""
        return self._places.get((schema or "public", table), (None, ""))[1]

    @cached_property
    def _places(self) -> dict[tuple[str, str], tuple[Map, str]]:
        """Each table's map and key column, by schema and name."""
        found = {}
        for map_ in self.maps:
            for name in (*map_.tables, *map_.reference):
                schema, _, table = name.rpartition(".")
                found[schema or "public", table] = (map_, map_.tables.get(name, ""))
        return found

    @cached_property
    def pinned(self) -> dict[str, Any]:
        """What `route` found out about statements, by their text; it fills this in."""
        return {}

    def named(self, name: str) -> Map:
        """The map called `name`, or the one that holds the table `name`; ConfigError where there is none."""
        found = next((map_ for map_ in self.maps if map_.name == name), None) or self.place(name)[0]
        if found is None:
            known = ", ".join(map_.name for map_ in self.maps) or "there are none"
            raise ConfigError(f"no shard map is called {name!r}", where="shard_maps/", try_=f"maps: {known}")
        return found


def bounds(map_: Map) -> tuple[int, int] | None:
    """The least key and the first one past the greatest that an integer key's type holds; None for other types."""
    if map_.key not in INTEGERS:
        return None
    return -(1 << INTEGERS[map_.key]), 1 << INTEGERS[map_.key]


def key_of(map_: Map, value: object) -> Key:
    """A caller's value as a key of the map; Unroutable where it is none."""
    if type(value) is int and map_.key == "bigint" and -(1 << 63) <= value < 1 << 63:
        return value
    try:
        return exact(map_.key, value)
    except ValueError as error:
        raise Unroutable(str(error), where=map_.path or map_.name, try_=f"give a key of type {map_.key}") from error
