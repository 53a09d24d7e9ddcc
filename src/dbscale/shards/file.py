"""Shard maps as files: TOML read strictly, each error naming file and key, and the ranges written back."""

from __future__ import annotations

import re
import tomllib
from codecs import BOM_UTF8
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, get_args

from dbscale.config import Config, _At
from dbscale.errors import ConfigError
from dbscale.shards.keys import INTEGERS, TYPES, Key, exact, show
from dbscale.shards.map import Every, Map, Maps, Range, content

FOLDER = "shard_maps"
_KEYS = ("name", "key", "tables", "reference", "ranges", "until", "every", "premake", "retain", "hash", "shard")
_RETAIN = re.compile(r"[1-9][0-9]* (day|week|month|year)s?")
_IDS = re.compile(r"\s*(-?[0-9_]+)\s*-\s*(-?[0-9_]+)\s*")


def load(folder: str | Path = FOLDER, config: Config | None = None) -> Maps:
    """The maps of every `*.toml` in a folder, or of one file, checked against each other and the topology.

    ConfigError where a file is wrong, a table stands on two maps, or a shard is not in `[shards]` of dbscale.toml.
    """
    place = Path(folder)
    files = [place] if place.is_file() else sorted(place.glob("*.toml"))
    maps = []
    for file in files:
        try:
            maps.append(parse(tomllib.loads(file.read_text(encoding="utf-8-sig")), str(file)))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"not TOML: {error}", where=str(file)) from error
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", where=str(file)) from error
    shards = dict(config.shards) if config else {}
    return together(maps, shards)


def together(maps: list[Map], shards: Mapping[str, str]) -> Maps:
    """`maps` as one deployment; an empty topology is not checked."""
    seen: dict[str, Map] = {}
    names: dict[str, Map] = {}
    for map_ in maps:
        if (other := names.setdefault(map_.name, map_)) is not map_:
            raise ConfigError(f"the name {map_.name!r} is taken by {other.path}", where=f"{map_.path}: name")
        for table in (*map_.tables, *map_.reference):
            plain = table.removeprefix("public.")
            if plain in seen:
                where = f"{map_.path}: {'tables' if table in map_.tables else 'reference'}.{table}"
                raise ConfigError(
                    f"the table stands on the map {seen[plain].name} too",
                    where=where,
                    try_="a table has one map; take it from the other",
                )
            seen[plain] = map_
        _known_shards(map_, shards)
    return Maps(maps=tuple(maps), shards=dict(shards))


def _known_shards(map_: Map, shards: Mapping[str, str]) -> None:
    places = [(f"ranges[{number}].shard", range_.shard) for number, range_ in enumerate(map_.ranges)]
    for key, shard in places or [("shard", map_.shard)]:
        if shards and shard not in shards:
            at = _At(map_.path)
            guess = at.guess(shard, tuple(shards))
            raise ConfigError(
                f"no shard is called {shard!r}",
                where=at.key(key).text,
                try_=guess or f"add it to [shards] in dbscale.toml; there are: {', '.join(shards)}",
            )


def parse(content_: Mapping[str, Any], path: str = "map.toml") -> Map:
    """The map that a parsed TOML document says; ConfigError where it is wrong, with file and key path."""
    at = _At(path)
    at.known(content_, _KEYS)
    for key in ("name", "key", "tables"):
        if key not in content_:
            raise ConfigError(f"{key} is missing", where=path, try_=_EXAMPLES[key])
    name, key = at.typed(content_, "name", str, ""), at.typed(content_, "key", str, "")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,39}", name):
        raise ConfigError("a name is up to 40 letters, digits, _ and -", where=at.key("name").text)
    if key not in TYPES:
        try_ = at.guess(key, TYPES) or "one of: " + ", ".join(TYPES)
        raise ConfigError(f"{key!r} is no type of a shard key", where=at.key("key").text, try_=try_)
    tables = at.strings(content_["tables"], "tables")
    if not tables:
        raise ConfigError("a map without tables", where=at.key("tables").text, try_=_EXAMPLES["tables"])
    map_ = Map(name=name, key=key, tables=tables, reference=_reference(at, content_, tables), path=path)
    if "hash" in content_:
        return _hash(at, content_, map_)
    if "shard" in content_:
        raise ConfigError("only a hash map has one shard", where=at.key("shard").text, try_="give each range a shard")
    map_ = _time(at, content_, map_)
    return _ranges(at, content_, map_)


_EXAMPLES = {"name": 'name = "farms"', "key": 'key = "bigint"', "tables": 'tables = { farms = "id" }'}


def _reference(at: _At, content_: Mapping[str, Any], tables: Mapping[str, str]) -> tuple[str, ...]:
    names = at.typed(content_, "reference", list, [])
    for number, name in enumerate(names):
        spot = at.key(f"reference[{number}]")
        if not isinstance(name, str):
            raise ConfigError("a table's name in quotes is wanted here", where=spot.text)
        if name in tables or name in names[:number]:
            raise ConfigError(f"the table {name} stands here twice", where=spot.text, try_="take one away")
    return tuple(names)


def _hash(at: _At, content_: Mapping[str, Any], map_: Map) -> Map:
    for key in ("ranges", "until", "every", "premake", "retain"):
        if key in content_:
            raise ConfigError(f"a hash map has no {key}: Citus places its buckets", where=at.key(key).text)
    buckets = at.typed(content_, "hash", int, 0)
    if not 1 <= buckets <= 64000:
        raise ConfigError("1 to 64000 buckets", where=at.key("hash").text, try_="hash = 32")
    shard = at.typed(content_, "shard", str, "home")
    return replace(map_, hash=buckets, shard=shard)


def _time(at: _At, content_: Mapping[str, Any], map_: Map) -> Map:
    """`every`, `premake`, `retain`."""
    every = at.typed(content_, "every", str, "")
    if not every:
        for key in ("premake", "retain"):
            if key in content_:
                raise ConfigError(f"{key} without every", where=at.key(key).text, try_='every = "month"')
        return map_
    if every not in get_args(Every):
        raise ConfigError(f"{every!r} is no interval", where=at.key("every").text, try_="day, week, month or year")
    if map_.key not in ("date", "timestamptz"):
        raise ConfigError(f"every is for keys that are times, not {map_.key}", where=at.key("every").text)
    premake, retain = at.typed(content_, "premake", int, 3), at.typed(content_, "retain", str, "")
    if not 1 <= premake <= 100:
        raise ConfigError("1 to 100 partitions ahead", where=at.key("premake").text, try_="premake = 3")
    if retain and not _RETAIN.fullmatch(retain):
        raise ConfigError(f"{retain!r} is no duration", where=at.key("retain").text, try_='retain = "24 months"')
    return replace(map_, every=every, premake=premake, retain=retain)


def _ranges(at: _At, content_: Mapping[str, Any], map_: Map) -> Map:
    entries = at.typed(content_, "ranges", list, [])
    if not entries:
        raise ConfigError("a map without ranges", where=at.key("ranges").text, try_="give at least one range")
    sugar = any(isinstance(entry, dict) and "ids" in entry for entry in entries)
    ranges: list[Range] = []
    until = _key(at.key("until"), map_, content_["until"]) if "until" in content_ else None
    for number, entry in enumerate(entries):
        spot = at.key(f"ranges[{number}]")
        if not isinstance(entry, dict):
            raise ConfigError(
                "a table is wanted here", where=spot.text, try_='{ id = "a", from = 0, shard = "shard_1" }'
            )
        spot.known(entry, ("id", "from", "ids", "values", "shard"))
        for key in ("id", "shard"):
            if not spot.typed(entry, key, str, ""):
                raise ConfigError(f"{key} is missing", where=spot.text, try_=f'{key} = "{map_.name}-{number}"')
        if any(range_.id == entry["id"] for range_ in ranges):
            raise ConfigError(
                f"the id {entry['id']!r} is there twice", where=spot.key("id").text, try_="choose another"
            )
        if sugar:
            start, following = _ids(spot, map_, entry, until if number else None)
            if number == 0 and "until" in content_:
                raise ConfigError("ids say where the last range ends", where=at.key("until").text, try_="remove until")
            ranges.append(Range(id=entry["id"], shard=entry["shard"], start=start))
            until = following
        else:
            ranges.append(_range(spot, map_, entry, ranges))
    return _checked(at, replace(map_, ranges=tuple(ranges), until=until))


def _range(spot: _At, map_: Map, entry: Mapping[str, Any], before: list[Range]) -> Range:
    id_, shard = entry["id"], entry["shard"]
    if "values" in entry or (before and before[0].values):
        if "from" in entry or "values" not in entry or (before and not before[0].values):
            raise ConfigError("all ranges of a map have values, or none", where=spot.text, try_='values = ["kr"]')
        values = tuple(
            _key(spot.key(f"values[{place}]"), map_, value)
            for place, value in enumerate(spot.typed(entry, "values", list, []))
        )
        if not values:
            raise ConfigError("no values", where=spot.key("values").text, try_='values = ["kr"]')
        taken = [value for range_ in before for value in range_.values]
        for place, value in enumerate(values):
            if value in taken or value in values[:place]:
                says = f"{show(value)} is owned already"
                raise ConfigError(says, where=spot.key(f"values[{place}]").text, try_="a key has one owner")
        return Range(id=id_, shard=shard, values=values)
    if "from" not in entry:
        if before:
            raise ConfigError("only the first range may be without from", where=spot.text, try_="say where it starts")
        return Range(id=id_, shard=shard)
    start = _key(spot.key("from"), map_, entry["from"])
    last: Any = before[-1].start if before else None
    if last is not None and start <= last:
        says = f"{show(start)} does not come after {show(last)}"
        raise ConfigError(says, where=spot.key("from").text, try_="list the ranges by where they start")
    return Range(id=id_, shard=shard, start=start)


def _ids(spot: _At, map_: Map, entry: Mapping[str, Any], expected: Key | None) -> tuple[int, int]:
    """`ids = "0-999999"`, both ends included: the start, and the first key after it."""
    where = spot.key("ids").text
    if "from" in entry or "values" in entry or "ids" not in entry:
        raise ConfigError("all ranges of a map have ids, or none", where=spot.text, try_='ids = "0-999999"')
    match = _IDS.fullmatch(spot.typed(entry, "ids", str, ""))
    if not match or map_.key not in INTEGERS:
        raise ConfigError("ids are two whole numbers, for integer keys", where=where, try_='ids = "0-999999"')
    first, last = int(match[1]), int(match[2])
    if last < first:
        raise ConfigError(f"{last} comes before {first}", where=where, try_=f'ids = "{last}-{first}"')
    _key(spot.key("ids"), map_, last)
    if expected is not None and first != expected:
        what = "a gap" if first > int(str(expected)) else "an overlap"
        raise ConfigError(
            f"{what}: the range before ends with {int(str(expected)) - 1}",
            where=where,
            try_=f'ids = "{expected}-{max(last, int(str(expected)))}"',
        )
    return int(str(_key(spot.key("ids"), map_, first))), last + 1


def _key(spot: _At, map_: Map, value: object) -> Key:
    """A bound as the file has it. A day bounds a time at its midnight in UTC."""
    if map_.key == "timestamptz" and isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    try:
        return exact(map_.key, value)
    except ValueError as error:
        tries = {"timestamptz": "2026-01-01T00:00:00Z", "date": "2026-01-01", "uuid": '"0192…"', "text": '"kr"'}
        raise ConfigError(str(error), where=spot.text, try_=tries.get(map_.key, f"a {map_.key}")) from error


def _checked(at: _At, map_: Map) -> Map:
    last: Any = map_.ranges[-1].start
    until: Any = map_.until
    if map_.strategy == "list" and until is not None:
        raise ConfigError("a list map has no until", where=at.key("until").text, try_="remove it")
    if until is not None and last is not None and until <= last:
        says = f"{show(until)} does not come after the last range's start, {show(last)}"
        raise ConfigError(says, where=at.key("until").text, try_="the last range ends there")
    return map_


def restore(data: Mapping[str, Any], path: str = "the catalog") -> Map:
    """The map that `map.content` made plain data of."""
    kind = data["key"]

    def key(text: str) -> Key:
        if kind in INTEGERS:
            return int(text)
        return exact(kind, {"date": date.fromisoformat, "timestamptz": datetime.fromisoformat}.get(kind, str)(text))

    return Map(
        name=data["name"],
        key=kind,
        tables=dict(data["tables"]),
        reference=tuple(data.get("reference", ())),
        ranges=tuple(
            Range(
                id=entry["id"],
                shard=entry["shard"],
                start=key(entry["from"]) if "from" in entry else None,
                values=tuple(key(value) for value in entry.get("values", ())),
            )
            for entry in data.get("ranges", ())
        ),
        until=key(data["until"]) if "until" in data else None,
        every=data.get("every", ""),
        premake=data.get("premake", 3),
        retain=data.get("retain", ""),
        hash=data.get("hash", 0),
        shard=data.get("shard", ""),
        path=path,
    )


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|#[^\n]*|[][]')
_UNTIL = re.compile(r"^until\s*=[^\n]*\n", re.MULTILINE)


def rewritten(path: str, map_: Map) -> bytes:
    """As `rewrite`, the whole content of the file, with the line ends and the mark that it has."""
    content_ = Path(path).read_bytes()
    text = rewrite(content_.decode("utf-8-sig").replace("\r\n", "\n"), map_)
    ends = "\r\n" if b"\r\n" in content_ else "\n"
    return text.replace("\n", ends).encode("utf-8-sig" if content_.startswith(BOM_UTF8) else "utf-8")


def rewrite(text: str, map_: Map) -> str:
    """A map's file with the ranges of `map_`; everything else, comments too, stays. ConfigError where that fails."""
    lines = []
    for range_ in map_.ranges:
        start = "" if range_.start is None else f"from = {_toml(map_, range_.start)}, "
        lines.append(f'  {{ id = "{range_.id}", {start}shard = "{range_.shard}" }},')
    block = "ranges = [\n" + "\n".join(lines) + "\n]"
    if map_.until is not None and not _UNTIL.search(text):
        block += f"\nuntil = {_toml(map_, map_.until)}"
    try:
        first, last = _array(text)
        written = text[:first] + block + text[last:]
        same = content(parse(tomllib.loads(written), map_.path)) == content(map_)
    except (tomllib.TOMLDecodeError, ConfigError):
        same = False
    if not same:
        raise ConfigError(
            "its ranges cannot be rewritten in place", where=map_.path, try_=f"write them by hand:\n{block}"
        )
    return written


def _array(text: str) -> tuple[int, int]:
    """Where `ranges = […]` stands in a TOML document; ConfigError where it does not."""
    match = re.search(r"^ranges\s*=\s*(?=\[)", text, re.MULTILINE)
    depth = 0
    for token in _TOKEN.finditer(text, match.end()) if match else ():
        depth += {"[": 1, "]": -1}.get(token[0], 0)
        if match and depth == 0 and token[0] == "]":
            return match.start(), token.end()
    raise ConfigError("there is no ranges = […]")


def _toml(map_: Map, key: Key) -> str:
    if map_.key in INTEGERS:
        return f"{key:_}"
    return show(key) if map_.key in ("date", "timestamptz") else '"' + show(key).replace('"', '\\"') + '"'
