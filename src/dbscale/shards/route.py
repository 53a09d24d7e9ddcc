"""Which shard a key or a statement belongs to. Pure: a parsed statement, its arguments and the maps say it all.

For every mention of a table on a map, the keys that its rows may need are computed as a superset; from them, the
shards. A statement goes to one shard when all its tables do. It may go to several only when it reads, and when its
tables are tied by equality of their keys, so that rows that meet live together. Everything else is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dbscale.errors import Unroutable
from dbscale.query import And, Block, Column, Compare, Condition, Opaque, Or, Parameter, Query, Value, keep_rows
from dbscale.query import Literal as Constant
from dbscale.query.functions import STABLE, VOLATILE
from dbscale.shards.answer import Kind, Route
from dbscale.shards.keys import (
    ANYTHING,
    HIGHEST,
    INTEGERS,
    LOWEST,
    NOTHING,
    Keys,
    after,
    before,
    between,
    describe,
    points,
    span,
)
from dbscale.shards.map import Map, Maps, Range, key_of, shard_for, shards_between


def route(maps: Maps, table: str, key: object) -> Route:
    """Where the rows of `table` with this key are. Unroutable where the key is of a wrong type or on no range.

    A table on no map is on `home`, whatever the key.
    """
    map_ = maps.of(*reversed(table.split(".", 1)))
    if map_ is None:
        return Route(kind="single", shards=(maps.home,), why=f"{table} is on no map")
    range_ = shard_for(map_, key_of(map_, key))
    return Route(kind="single", shards=(range_.shard,), ranges=(range_.id,), map=map_.name, why=f"the key is {key}")


def route_statement(
    maps: Maps, query: Query, arguments: Sequence[Any] | Mapping[str, Any] = (), *, shard: str = ""
) -> Route:
    """Where a statement goes. Unroutable, with the reason, where the text and its arguments do not prove it.

    `shard`: the caller knows that it concerns rows of this shard alone, and sends it there; then it is Unroutable only
    where it provably belongs elsewhere, or would put a row where it does not belong.
    """
    pin = maps.pinned.get(query.sql)
    if pin is None:
        if len(maps.pinned) >= 4096:
            maps.pinned.clear()
        pin = maps.pinned[query.sql] = _pin(maps, query)
    if pin and arguments:
        map_, number = pin
        value = query.arguments(arguments)[number - 1]
        if type(value) is int and map_.key in INTEGERS:
            range_ = shard_for(map_, value)
            return Route(
                kind="single", shards=(range_.shard,), ranges=(range_.id,), map=map_.name, why=f"the key is {value}"
            )
    return _Router(maps, query, query.arguments(arguments) if arguments else (), shard).route()


def split_insert(
    maps: Maps, query: Query, arguments: Sequence[Any] | Mapping[str, Any] = ()
) -> dict[str, tuple[str, tuple[Any, ...]]]:
    """An INSERT of several rows as one for each shard: SQL with `$1` and its arguments. Rows keep their order.

    Unroutable where a row's key is not known. The parts are separate transactions on separate servers: not atomic.
    """
    router = _Router(maps, query, query.arguments(arguments))
    router.understood()
    if query.insert is None or query.insert.select is not None:
        raise Unroutable("only INSERT … VALUES can be split by shard", try_="insert row by row, or copy")
    places = [range_.shard for range_ in router.inserted()]
    values = query.arguments(arguments)
    parts = {}
    for shard in dict.fromkeys(places):
        sql, numbers = keep_rows(query, [row for row, place in enumerate(places) if place == shard])
        parts[shard] = (sql, tuple(values[number - 1] for number in numbers))
    return parts


def condition_keys(maps: Maps, query: Query) -> Keys:
    """The keys that the only table of a SELECT without arguments may need; anything where that is not understood."""
    return _Router(maps, query, ()).only()


def _pin(maps: Maps, query: Query) -> tuple[Map, int] | tuple[()]:
    """The map and the parameter that alone decides where a statement goes: every table of it is on the map, with a
    key that must equal that parameter. Then one bisection routes it; where there is none, it is worked out each time.
    """
    router = _Router(maps, query, ())
    columns = {column for column, _ in query.sets}
    plain = query.verb in ("select", "update", "delete") and not query.unsure and not query.insert
    if not plain or len(router.sharded) != len(query.tables) or not router.sharded or columns & set(router.columns):
        return ()
    if any(function not in _HARMLESS for function in query.functions) or len({id(map_) for map_ in router.on}) > 1:
        return ()
    pins: dict[int, frozenset[int]] = dict.fromkeys(router.sharded, frozenset())
    for _ in router.sharded:
        for block in query.blocks:
            for filter_ in block.filters:
                for place in filter_.restricts & pins.keys():
                    pins[place] |= router.pins(filter_.condition, place, pins)
    common = frozenset.intersection(*pins.values())
    map_ = router.on[0]
    return (map_, min(common)) if common and map_ is not None else ()


class _Router:
    def __init__(self, maps: Maps, query: Query, arguments: tuple[Any, ...], shard: str = "") -> None:
        self.maps, self.query, self.arguments, self.shard = maps, query, arguments, shard
        self.on = [maps.of(table.name, table.schema) for table in query.tables]
        self.columns = [maps.column(table.name, table.schema) for table in query.tables]
        self.sharded = [place for place, column in enumerate(self.columns) if column]

    def route(self) -> Route:
        self.understood()
        query = self.query
        self._reference_writes()
        if not self.sharded:
            return self._unsharded()
        keys = self._keys()
        if query.insert is not None and query.insert.table in self.sharded:
            self._inserts(keys)
        self._changes_key(keys)
        ranges = {place: self._ranges(place, keys[place]) for place in self.sharded}
        shards = {place: tuple(dict.fromkeys(range_.shard for range_ in found)) for place, found in ranges.items()}
        home = [t.name for t, map_ in zip(query.tables, self.on, strict=True) if map_ is None]
        needed = dict.fromkeys(shard for found in shards.values() for shard in found)
        if home:
            needed[self.maps.home] = None
        self._reference_reads(needed)
        map_: Any = self.on[self.sharded[0]]
        if not needed:
            # No row can match: any shard says so.
            needed[map_.shards[0]] = None
        ids = tuple(dict.fromkeys(range_.id for found in ranges.values() for range_ in found))
        if len(needed) == 1:
            return Route(kind="single", shards=tuple(needed), ranges=ids, map=map_.name, why=self._why(keys))
        if home:
            names = ", ".join(query.tables[place].name for place in self.sharded)
            theirs = ", ".join(dict.fromkeys(shard for found in shards.values() for shard in found))
            raise self._refused(f"{home[0]} is on {self.maps.home}, {names} on {theirs}", _JOIN)
        return self._several(keys, tuple(needed), ids)

    def only(self) -> Keys:
        """The keys of the one table there is."""
        return self._keys()[0] if self.sharded == [0] and not self.query.unsure else ANYTHING

    def understood(self) -> None:
        """Unroutable where the statement is not fully understood, or does what is of a session, not of a shard."""
        query = self.query
        if query.unsure:
            raise self._refused(query.unsure[0], "name the table and the key: cluster.write(table, key=…)")
        for function in query.functions:
            if function not in _HARMLESS:
                raise self._refused(f"{function}() may read or write other rows", "name the table and the key")

    def _refused(self, says: str, try_: str) -> Unroutable:
        return Unroutable(says, where=" ".join(self.query.sql.split())[:120], try_=try_)

    def _unsharded(self) -> Route:
        reference = [map_ for map_ in self.on if map_ is not None]
        if not reference or len(reference) < len(self.on) or any(table.writes for table in self.query.tables):
            return Route(kind="single", shards=(self.maps.home,), why="its tables are on no map")
        shards = dict.fromkeys(shard for shard in reference[0].shards)
        for map_ in reference[1:]:
            shards = {shard: None for shard in shards if shard in map_.shards}
        return Route(kind="any", shards=(*shards, self.maps.home), why="it reads reference tables only")

    def _reference_writes(self) -> None:
        """Reference tables are written on `home`, and copied from there."""
        for table, map_, column in zip(self.query.tables, self.on, self.columns, strict=True):
            if table.writes and map_ is not None and not column and self.sharded:
                raise self._refused(f"{table.name} is a reference table, written on home alone", "write it by itself")

    def _reference_reads(self, needed: Mapping[str, None]) -> None:
        for table, map_, column in zip(self.query.tables, self.on, self.columns, strict=True):
            if map_ is not None and not column and not set(needed) <= {*map_.shards, self.maps.home}:
                says = f"{table.name} is copied to {', '.join(map_.shards)}, and the rows are on {', '.join(needed)}"
                raise self._refused(says, "make it a reference table of the other map")

    # Keys

    def _keys(self) -> dict[int, Keys]:
        """The keys that each mention of a table on a map may need, narrowed until nothing changes."""
        keys = dict.fromkeys(self.sharded, ANYTHING)
        filters = [filter_ for block in self.query.blocks for filter_ in block.filters]
        for _ in range(len(self.sharded) + 1):
            before_ = dict(keys)
            for place in self.sharded:
                for filter_ in filters:
                    if place in filter_.restricts:
                        keys[place] &= self._narrowed(filter_.condition, place, keys)
            if keys == before_:
                break
        return keys

    def _narrowed(self, condition: Condition, place: int, keys: dict[int, Keys]) -> Keys:
        """The keys that rows of the table at `place` have where the condition may be true."""
        if isinstance(condition, And):
            found = ANYTHING
            for part in condition.parts:
                found &= self._narrowed(part, place, keys)
            return found
        if isinstance(condition, Or):
            found = NOTHING
            for part in condition.parts:
                found |= self._narrowed(part, place, keys)
            return found
        if isinstance(condition, Opaque):
            return ANYTHING
        mine = self._is_key(condition.column) == place
        if condition.op == "=" and condition.values and isinstance(condition.values[0], Column):
            other = self._is_key(condition.values[0])
            pair = {self._is_key(condition.column), other}
            if place in pair and len(pair) == 2 and None not in pair and self._together(*pair):
                (peer,) = pair - {place}
                return keys[peer]  # type: ignore[index]
            return ANYTHING
        return self._compared(condition, place) if mine else ANYTHING

    def pins(self, condition: Condition, place: int, known: Mapping[int, frozenset[int]]) -> frozenset[int]:
        """The parameters that the key of the table at `place` must equal where the condition is true."""
        if isinstance(condition, And):
            return frozenset().union(*(self.pins(part, place, known) for part in condition.parts))
        if not isinstance(condition, Compare) or condition.op != "=":
            return frozenset()
        value, mine = condition.values[0], self._is_key(condition.column) == place
        if isinstance(value, Column):
            other = self._is_key(value)
            peer = other if mine else self._is_key(condition.column) if other == place else None
            return known.get(peer, frozenset()) if peer is not None and self._together(place, peer) else frozenset()
        return (
            frozenset((value.number,))
            if mine and isinstance(value, Parameter) and value.type in ("", *INTEGERS)
            else frozenset()
        )

    def _is_key(self, column: Column) -> int | None:
        """The mention of a table whose key `column` certainly is."""
        places = column.candidates if column.table is None else (column.table,)
        return next((place for place in places if self.columns[place] == column.name), None)

    def _together(self, one: int | None, other: int | None) -> bool:
        return one is not None and other is not None and self.on[one] is self.on[other]

    def _compared(self, condition: Compare, place: int) -> Keys:
        map_: Any = self.on[place]
        op, values = condition.op, condition.values
        if op == "is null":
            # A key is NOT NULL, but an outer join makes it NULL where no row was.
            return ANYTHING if self.query.tables[place].nullable else NOTHING
        if op in ("=", "in", "is"):
            return self._any([self._bound(map_, value) for value in values], null=ANYTHING if op == "is" else NOTHING)
        if op == "any":
            return self._array(map_, values[0])
        if op not in ("<", "<=", ">", ">="):
            return ANYTHING
        bound = self._bound(map_, values[0])
        if bound in (None, "null"):
            return NOTHING if bound == "null" else ANYTHING
        first, last = bound
        if op in ("<", "<="):
            return between(LOWEST, before(last) if op == "<" and first == last else after(last))
        return between(after(first) if op == ">" and first == last else before(first), HIGHEST)

    def _any(self, bounds: Sequence[Any], *, null: Keys = NOTHING) -> Keys:
        found = NOTHING
        for bound in bounds:
            if bound is None:
                return ANYTHING
            found |= null if bound == "null" else between(before(bound[0]), after(bound[1]))
        return found

    def _array(self, map_: Map, value: Value) -> Keys:
        if not isinstance(value, Parameter):
            return ANYTHING
        elements = self._argument(value)
        if elements is None:
            return NOTHING
        cast = value.type.removesuffix("[]")
        if not isinstance(elements, list | tuple | set | frozenset):
            return ANYTHING
        return self._any(["null" if item is None else span(map_.key, item, cast) for item in elements])

    def _argument(self, value: Parameter) -> Any:
        if value.number > len(self.arguments):
            raise self._refused(f"${value.number} has no value", "give the statement's arguments")
        return self.arguments[value.number - 1]

    def _bound(self, map_: Map, value: Value) -> Any:
        """Between which keys a value lies, `"null"`, or None where it may be anything."""
        if isinstance(value, Parameter):
            found = self._argument(value)
            return "null" if found is None else span(map_.key, found, value.type)
        if isinstance(value, Constant):
            return "null" if value.value is None else span(map_.key, value.value, value.type)
        return None

    def _ranges(self, place: int, keys: Keys) -> tuple[Range, ...]:
        map_: Any = self.on[place]
        found = shards_between(map_, keys)
        if self.shard:
            here = self.maps.shards.get(self.shard)
            found = tuple(each for each in found if self.maps.shards.get(each.shard) == here) or found
        if keys and not found:
            start = keys.intervals[0][0]
            key = start[1] if len(start) > 1 else "its key"
            raise self._refused(f"{key} is outside every range of the map {map_.name}", "check the key, or the map")
        return found

    # Writes

    def inserted(self) -> list[Range]:
        """The range of each row of INSERT … VALUES; Unroutable where a row's key is not known."""
        insert: Any = self.query.insert
        map_: Any = self.on[insert.table]
        column = self.columns[insert.table]
        if not column:
            return [Range(id="", shard=self.maps.home)] * len(insert.rows)
        place = self._position(insert.columns, column)
        found = []
        for number, row in enumerate(insert.rows, 1):
            bound = self._bound(map_, row[place]) if place < len(row) else None
            if bound in (None, "null") or bound[0] != bound[1]:
                says = "is NULL" if bound == "null" else "is not in the statement"
                raise self._refused(f"row {number}: the key {column} {says}", f"give {column} a value")
            found.append(shard_for(map_, bound[0]))
        return found

    def _position(self, columns: tuple[str, ...], column: str) -> int:
        if not columns:
            raise self._refused("INSERT names no columns", f"INSERT INTO … ({column}, …)")
        if column not in columns:
            raise self._refused(f"INSERT gives the key {column} no value", f"add {column} to the columns")
        return columns.index(column)

    def _inserts(self, keys: dict[int, Keys]) -> None:
        """Set the keys of an INSERT's target from its rows, or from the query it takes them from."""
        insert: Any = self.query.insert
        column = self.columns[insert.table]
        if insert.conflict and column not in insert.conflict:
            says = f"ON CONFLICT ({', '.join(insert.conflict)}) sees one shard only: it leaves out the key {column}"
            raise self._refused(says, f"a unique constraint that contains {column}")
        alone = len(self.on[insert.table].shards) == 1 and not self.on[insert.table].hash
        if alone and insert.columns and column not in insert.columns:
            return  # its default makes the key, and whichever it is, the row is there
        if insert.select is None or insert.rows:
            ranges = self.inserted()
            if len({range_.shard for range_ in ranges}) > 1:
                says = f"its {len(ranges)} rows belong to {len({range_.shard for range_ in ranges})} shards"
                raise self._refused(says, "insert each shard's rows by themselves (shards.route.split_insert)")
            map_: Any = self.on[insert.table]
            keys[insert.table] = Keys(())
            for range_ in ranges:
                keys[insert.table] |= map_.keys(range_) if not map_.hash else ANYTHING
            return
        place = self._position(insert.columns, column)
        output = insert.outputs[place] if insert.outputs and place < len(insert.outputs) else None
        source = self._is_key(output) if isinstance(output, Column) else None
        if source is not None and self._together(insert.table, source):
            keys[insert.table] = keys[source]
            return
        bound = None if output is None or isinstance(output, Column) else self._bound(self.on[insert.table], output)
        if bound in (None, "null"):
            raise self._refused(f"where the key {column} comes from is not known", f"select a value for {column}")
        keys[insert.table] = between(before(bound[0]), after(bound[1]))

    def _changes_key(self, keys: dict[int, Keys]) -> None:
        """Refuse to change a key, but for one that provably stays in its range."""
        targets = [place for place in self.sharded if self.query.tables[place].writes]
        for column, value in self.query.sets:
            for place in targets:
                if self.columns[place] != column:
                    continue
                map_: Any = self.on[place]
                bound: Any = None if isinstance(value, Column) else self._bound(map_, value)
                stays = bound not in (None, "null") and bound[0] == bound[1]
                ranges = shards_between(map_, keys[place] | points([bound[0]])) if stays else ()
                if len(ranges) != 1 and not (
                    isinstance(value, Column) and value.table == place and value.name == column
                ):
                    says = f"it changes the key {column}: the row would stay on the wrong shard"
                    raise self._refused(says, "delete the row and insert it with its new key")

    # Several shards

    def _several(self, keys: dict[int, Keys], shards: tuple[str, ...], ids: tuple[str, ...]) -> Route:
        query = self.query
        if query.verb != "select" or any(table.writes for table in query.tables):
            raise self._refused(f"it writes to {len(shards)} shards: {', '.join(shards)}", _WRITE)
        if not query.reads:
            raise self._refused(f"{query.because}, and it needs {len(shards)} shards", _WRITE)
        ties = self._ties()
        if len({ties[place] for place in self.sharded}) > 1:
            names = ", ".join(dict.fromkeys(query.tables[place].name for place in self.sharded))
            raise self._refused(f"{names} are not tied by their keys, and on {len(shards)} shards", _JOIN)
        map_: Any = self.on[self.sharded[0]]
        unlimited = all(keys[place] == ANYTHING for place in self.sharded)
        kind: Kind = "scatter" if unlimited else "targeted"
        return Route(kind=kind, shards=shards, ranges=ids, map=map_.name, why=self._why(keys), combine=self._combine())

    def _ties(self) -> dict[int, int]:
        """For each mention of a table on a map, the first one it is tied to by equality of keys."""
        leader = {place: place for place in self.sharded}
        for block in self.query.blocks:
            for filter_ in block.filters:
                for one, other in self._equalities(filter_.condition):
                    low, high = sorted((leader[one], leader[other]))
                    leader = {place: low if first == high else first for place, first in leader.items()}
        return leader

    def _equalities(self, condition: Condition) -> list[tuple[int, int]]:
        if isinstance(condition, And):
            return [pair for part in condition.parts for pair in self._equalities(part)]
        if isinstance(condition, Compare) and condition.op == "=" and isinstance(condition.values[0], Column):
            one, other = self._is_key(condition.column), self._is_key(condition.values[0])
            if one is not None and other is not None and one != other and self._together(one, other):
                return [(one, other)]
        return []

    def _combine(self) -> str:
        """Why the rows of several shards cannot just be put together; empty where they can."""
        outer = self.query.blocks[0]
        rows = set(outer.tables)
        for filter_ in outer.filters:
            rows |= filter_.restricts
        if not any(place in rows and not self.query.tables[place].nullable for place in self.sharded):
            return "each shard would answer with rows that are not of its own keys"
        for number, block in enumerate(self.query.blocks):
            inner = {place for place in self.sharded if self._inside(self.query.tables[place].block, number)}
            if not inner or (number and self._correlated(number, inner)):
                continue
            if says := self._per_shard(block, outermost=number == 0):
                return says
        return ""

    def _correlated(self, number: int, inner: set[int]) -> bool:
        """True for a subquery that is tied to a table of an outer query: it computes within one key."""
        pairs = [pair for filter_ in self.query.blocks[number].filters for pair in self._equalities(filter_.condition)]
        return any((one in inner) != (other in inner) for one, other in pairs)

    def _inside(self, block: int | None, number: int) -> bool:
        while block is not None:
            if block == number:
                return True
            block = self.query.blocks[block].parent
        return False

    def _per_shard(self, block: Block, *, outermost: bool) -> str:
        """What of a block means something else on each shard than on all."""
        by_key = any(self._is_key(column) is not None for column in block.group_by)
        if block.set_operation:
            return "a set operation works on each shard's rows by themselves"
        if (block.aggregates or block.grouped) and not by_key:
            return "an aggregate gives one result a shard"
        if block.windows:
            return "a window function sees one shard's rows"
        if block.distinct:
            return "DISTINCT sees one shard's rows"
        if block.limit is not None or block.offset is not None:
            return "LIMIT and OFFSET count one shard's rows"
        return "rows are ordered within each shard only" if outermost and block.ordered else ""

    def _why(self, keys: dict[int, Keys]) -> str:
        parts = []
        for place in self.sharded:
            table = self.query.tables[place]
            parts.append(f"{table.alias or table.name}.{self.columns[place]} {describe(keys[place])}")
        return "; ".join(parts)


_JOIN = "join on the shard key, or ask the coordinator of the fdw target (docs/shards.md)"
_WRITE = "one statement for each shard, with the key in it"
_HARMLESS = VOLATILE | STABLE | {"nextval", "currval", "lastval", "pg_sleep"}
