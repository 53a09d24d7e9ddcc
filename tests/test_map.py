"""Shard maps: what a file may say, and the algebra: total and disjoint, half-open, changes are what they say."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dbscale.config import parse as parse_config
from dbscale.errors import ConfigError, Unroutable
from dbscale.shards import file
from dbscale.shards.keys import ANYTHING, HIGHEST, LOWEST, NOTHING, Keys, after, before, between, points
from dbscale.shards.map import Map, Range, content, difference, key_of, merge, shard_for, shards_between, split

ROOT = Path(__file__).parents[1]
FARMS: dict[str, Any] = {
    "name": "farms",
    "key": "bigint",
    "tables": {"farms": "id"},
    "ranges": [{"id": "a", "from": 0, "shard": "s1"}, {"id": "b", "from": 100, "shard": "s2"}],
    "until": 200,
}

KEYS: dict[str, st.SearchStrategy[Any]] = {
    "smallint": st.integers(-(1 << 15), (1 << 15) - 1),
    "bigint": st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-5, 5),
    "uuid": st.uuids(),
    "text": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4),
    "date": st.dates(),
    "timestamptz": st.datetimes(timezones=st.just(UTC)),
}


@st.composite
def maps(draw: Any) -> Map:
    kind = draw(st.sampled_from(list(KEYS)))
    starts = sorted(draw(st.sets(KEYS[kind], min_size=1, max_size=7)))
    until = draw(st.none() | KEYS[kind])
    first = draw(st.booleans())
    ranges = [Range(id=f"r{n}", shard=draw(st.sampled_from("xyz")), start=start) for n, start in enumerate(starts)]
    if first:
        ranges[0] = replace(ranges[0], start=None)
    last: Any = ranges[-1].start
    assume(until is None or last is None or until > last)
    return Map(name="m", key=kind, tables={"t": "k"}, ranges=tuple(ranges), until=until)


@st.composite
def maps_and_keys(draw: Any) -> tuple[Map, Any]:
    map_ = draw(maps())
    bounds = [range_.start for range_ in map_.ranges if range_.start is not None]
    bounds += [map_.until] if map_.until is not None else []
    return map_, draw(KEYS[map_.key] | st.sampled_from(bounds)) if bounds else draw(KEYS[map_.key])


def owners(map_: Map, key: Any) -> list[str]:
    """By the definition: a range holds what is not before its start, and before the next one's."""
    found = []
    for place, range_ in enumerate(map_.ranges):
        end: Any = map_.ranges[place + 1].start if place + 1 < len(map_.ranges) else map_.until
        start: Any = range_.start
        if (start is None or start <= key) and (end is None or key < end):
            found.append(range_.id)
    return found


@given(maps_and_keys())
def test_a_key_has_one_owner_or_is_an_error(case: tuple[Map, Any]) -> None:
    map_, key = case
    found = owners(map_, key)
    assert len(found) <= 1
    if found:
        assert shard_for(map_, key).id == found[0]
        assert [range_.id for range_ in shards_between(map_, points([key]))] == found
    else:
        with pytest.raises(Unroutable):
            shard_for(map_, key)
        assert shards_between(map_, points([key])) == ()


@given(maps_and_keys(), st.data())
def test_ranges_between_are_those_that_hold_a_key_of_the_interval(case: tuple[Map, Any], data: Any) -> None:
    map_, low = case
    high: Any = data.draw(KEYS[map_.key])
    assume(low <= high)
    key: Any = data.draw(KEYS[map_.key])
    for keys, inside in (
        (between(before(low), before(high)), low <= key < high),
        (between(after(low), after(high)), low < key <= high),
        (between(LOWEST, before(high)), key < high),
        (between(after(low), HIGHEST), key > low),
    ):
        found = [range_.id for range_ in shards_between(map_, keys)]
        assert found == [range_.id for range_ in map_.ranges if map_.keys(range_) & keys]
        if inside:
            assert set(owners(map_, key)) <= set(found)


@given(maps_and_keys(), st.data())
def test_a_split_changes_no_owner_and_a_merge_takes_it_back(case: tuple[Map, Any], data: Any) -> None:
    map_, at = case
    assume(owners(map_, at))
    range_ = shard_for(map_, at)
    assume(range_.start != at)
    cut = split(map_, range_.id, at, "new")
    assert shard_for(cut, at).id == "new"
    assert {change.kind for change in difference(map_, cut)} == {"bounds"}
    assert difference(map_, map_) == ()
    key: Any = data.draw(KEYS[map_.key])
    if owners(map_, key):
        assert shard_for(cut, key).shard == shard_for(map_, key).shard
    else:
        assert owners(cut, key) == []
    assert merge(cut, range_.id, "new") == map_
    assert cut.checksum != map_.checksum


@given(maps(), st.data())
def test_a_difference_names_each_owner_that_changes(map_: Map, data: Any) -> None:
    place = data.draw(st.integers(0, len(map_.ranges) - 1))
    moved = replace(map_.ranges[place], shard="other")
    other = replace(map_, ranges=(*map_.ranges[:place], moved, *map_.ranges[place + 1 :]))
    assert [change.kind for change in difference(map_, other)] == ["owner"]
    if len(map_.ranges) > 1 and map_.ranges[0].start is not None:
        assert "lost" in {change.kind for change in difference(map_, replace(map_, ranges=map_.ranges[1:]))}
        assert {change.kind for change in difference(replace(map_, ranges=map_.ranges[1:]), map_)} == {"gained"}


@given(maps())
def test_the_catalog_gives_back_the_map_and_so_does_the_file(map_: Map) -> None:
    assert file.restore(content(map_)) == map_
    assume(map_.key not in ("uuid", "text") and map_.ranges[0].start is not None)
    document = (
        'name = "m"\nkey = "%s"\ntables = { t = "k" }\nranges = [ # kept\n  { id = "q", from = %s, shard = "x" } ]\n'
    )
    text = document % (map_.key, file._toml(map_, map_.ranges[0].start))
    assert file.parse(tomllib.loads(file.rewrite(text, replace(map_, path="m.toml")))) == map_


def test_a_file_of_a_windows_editor_stays_one(tmp_path: Path) -> None:
    place = tmp_path / "farms.toml"
    text = (
        '# ours\nname = "farms"\nkey = "bigint"\ntables = { farms = "id" }\n'
        'ranges = [\n  { id = "f0", from = 0, shard = "s" },\n]\n'
    )
    place.write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    (map_,) = file.load(place).maps
    done = file.rewritten(str(place), split(map_, "f0", 50, "f1"))
    assert done.startswith(b"\xef\xbb\xbf# ours\r\nname")
    assert b'  { id = "f1", from = 50, shard = "s" },\r\n]\r\n' in done
    assert done.count(b"\n") == done.count(b"\r\n") == text.count("\n") + 1


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=5),
       st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=5))  # fmt: skip
def test_sets_of_keys(one: list[tuple[int, int]], two: list[tuple[int, int]]) -> None:
    def made(pairs: list[tuple[int, int]]) -> tuple[Keys, set[int]]:
        keys, plain = NOTHING, set[int]()
        for low, high in pairs:
            keys |= between(before(low), before(high))
            plain |= set(range(low, high))
        return keys, plain

    (a, plain_a), (b, plain_b) = made(one), made(two)
    for keys, plain in ((a | b, plain_a | plain_b), (a & b, plain_a & plain_b)):
        assert {key for key in range(31) if keys & points([key])} == plain
        assert all(start < end for start, end in keys.intervals)
        assert list(keys.intervals) == sorted(keys.intervals)
    assert a & ANYTHING == a
    assert a | NOTHING == a


def test_the_shipped_maps_are_those_of_the_sample_deployment() -> None:
    settings = parse_config(tomllib.loads((ROOT / "dbscale.toml").read_text()))
    found = file.load(ROOT / "shard_maps", settings)
    farms, transactions = found.maps
    assert [shard_for(farms, key).shard for key in (0, 999_999, 1_000_000, 1_999_999)] == [
        "shard_1", "shard_1", "shard_2", "shard_2",
    ]  # fmt: skip
    assert (farms.strategy, transactions.strategy, transactions.every) == ("range", "time", "month")
    with pytest.raises(Unroutable, match="2000000 is outside"):
        shard_for(farms, 2_000_000)


def test_inclusive_ids_are_the_same_map() -> None:
    ids = [{"id": "a", "ids": "0-99", "shard": "s1"}, {"id": "b", "ids": "100-199", "shard": "s2"}]
    sugar = {key: value for key, value in FARMS.items() if key != "until"} | {"ranges": ids}
    assert file.parse(sugar) == file.parse(FARMS)


def test_a_list_map_and_a_hash_map() -> None:
    ranges = [{"id": "a", "values": ["kr", "jp"], "shard": "s1"}, {"id": "b", "values": ["de"], "shard": "s2"}]
    listed = file.parse({"name": "m", "key": "text", "tables": {"t": "country"}, "ranges": ranges})
    assert listed.strategy == "list"
    assert shard_for(listed, "jp").shard == "s1"
    assert [range_.id for range_ in shards_between(listed, points(["de", "xx"]))] == ["b"]
    with pytest.raises(Unroutable):
        shard_for(listed, "xx")
    hashed = file.parse({"name": "m", "key": "bigint", "tables": {"t": "id"}, "hash": 32})
    assert (hashed.strategy, shard_for(hashed, 5).shard) == ("hash", "home")
    assert file.restore(content(hashed)) == hashed
    assert file.restore(content(listed)) == listed


@pytest.mark.parametrize(
    ("change", "where", "says"),
    [
        ({"colour": 1}, "m.toml: colour", "unknown key"),
        ({"rangs": []}, "m.toml: rangs", "unknown key"),
        ({"name": "a b"}, "m.toml: name", "a name is"),
        ({"key": "numeric"}, "m.toml: key", "no type of a shard key"),
        ({"tables": {}}, "m.toml: tables", "without tables"),
        ({"tables": {"farms": 1}}, "m.toml: tables.farms", "text in quotes"),
        ({"reference": ["farms"]}, "m.toml: reference[0]", "stands here twice"),
        ({"ranges": []}, "m.toml: ranges", "without ranges"),
        ({"ranges": [{"id": "a", "from": 0}]}, "m.toml: ranges[0]", "shard is missing"),
        ({"ranges": [{"from": 0, "shard": "x"}]}, "m.toml: ranges[0]", "id is missing"),
        ({"ranges": [{"id": "a", "form": 0, "shard": "x"}]}, "m.toml: ranges[0].form", "unknown key"),
        ({"ranges": [*FARMS["ranges"], {"id": "a", "from": 150, "shard": "x"}]}, "m.toml: ranges[2].id", "twice"),
        ({"ranges": [*FARMS["ranges"], {"id": "c", "from": 100, "shard": "x"}]}, "m.toml: ranges[2].from", "after"),
        ({"ranges": [*FARMS["ranges"], {"id": "c", "from": 5, "shard": "x"}]}, "m.toml: ranges[2].from", "after"),
        ({"ranges": [*FARMS["ranges"], {"id": "c", "shard": "x"}]}, "m.toml: ranges[2]", "only the first range"),
        ({"ranges": [{"id": "a", "from": "0", "shard": "x"}]}, "m.toml: ranges[0].from", "is no bigint"),
        ({"ranges": [{"id": "a", "from": 1 << 63, "shard": "x"}]}, "m.toml: ranges[0].from", "outside bigint"),
        ({"ranges": [{"id": "a", "from": True, "shard": "x"}]}, "m.toml: ranges[0].from", "is no bigint"),
        ({"until": 100}, "m.toml: until", "does not come after"),
        ({"until": 1 << 64}, "m.toml: until", "outside bigint"),
        ({"every": "month"}, "m.toml: every", "keys that are times"),
        ({"premake": 3}, "m.toml: premake", "without every"),
        ({"hash": 32}, "m.toml: ranges", "a hash map has no ranges"),
        ({"shard": "x"}, "m.toml: shard", "only a hash map"),
        ({"ranges": [{"id": "a", "ids": "0-9", "shard": "x"}]}, "m.toml: until", "ids say"),
        ({"ranges": [{"id": "a", "values": [1], "shard": "x"}]}, "m.toml: until", "no until"),
    ],
)
def test_a_wrong_file_is_told_where_and_why(change: dict[str, Any], where: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        file.parse({**FARMS, **change}, "m.toml")
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (["0-99", "101-199"], "a gap"),
        (["0-99", "99-199"], "an overlap"),
        (["9-0"], "comes before"),
        (["0..9"], "two whole numbers"),
        (["0-9", None], "all ranges of a map have ids"),
    ],
)
def test_wrong_ids(ids: list[Any], says: str) -> None:
    ranges = [{"id": f"r{n}", "shard": "x"} | ({"ids": text} if text else {"from": 3}) for n, text in enumerate(ids)]
    with pytest.raises(ConfigError, match=says):
        file.parse({"name": "m", "key": "bigint", "tables": {"t": "id"}, "ranges": ranges})


def test_times_need_a_zone_and_days_are_utc() -> None:
    def parsed(start: object, kind: str = "timestamptz") -> Map:
        ranges = [{"id": "a", "from": start, "shard": "x"}]
        return file.parse({"name": "m", "key": kind, "tables": {"t": "k"}, "ranges": ranges})

    assert parsed(date(2026, 1, 1)).ranges[0].start == datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.raises(ConfigError, match="no time zone"):
        parsed(datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(ConfigError, match="is no date"):
        parsed(datetime(2026, 1, 1, tzinfo=UTC), "date")
    with pytest.raises(Unroutable, match="no time zone"):
        key_of(parsed(date(2026, 1, 1)), datetime(2026, 1, 1))  # noqa: DTZ001
    assert parsed(str(UUID(int=1)), "uuid").ranges[0].start == UUID(int=1)


def test_maps_are_checked_against_each_other_and_the_topology() -> None:
    one, two = file.parse(FARMS, "a.toml"), file.parse({**FARMS, "name": "other"}, "b.toml")
    with pytest.raises(ConfigError, match="stands on the map farms too") as caught:
        file.together([one, two], {})
    assert caught.value.where == "b.toml: tables.farms"
    with pytest.raises(ConfigError, match="is taken by"):
        file.together([one, replace(one, path="c.toml")], {})
    with pytest.raises(ConfigError, match="no shard is called 's2'") as caught:
        file.together([one], {"s1": "db", "s22": "db"})
    assert caught.value.where == "a.toml: ranges[1].shard"
    assert caught.value.try_ == "did you mean 's22'?"


@pytest.mark.parametrize("name", ["nothing", "a.b.c", "postgresql://127.0.0.1:5432/x", ""])
def test_a_name_that_no_map_has(name: str) -> None:
    maps = file.load(ROOT / "shard_maps", parse_config(tomllib.loads((ROOT / "dbscale.toml").read_text())))
    assert maps.named("public.farms") is maps.named("farms")
    with pytest.raises(ConfigError, match="no shard map is called"):
        maps.named(name)


def test_what_cannot_be_split_or_merged() -> None:
    map_ = file.parse(FARMS)
    for at, words in ((100, "is not inside b"), (200, "is not inside b"), (5, "is not inside b")):
        with pytest.raises(ConfigError, match=words):
            split(map_, "b", at, "c")
    with pytest.raises(ConfigError, match="a range 'a' already"):
        split(map_, "b", 150, "a")
    with pytest.raises(ConfigError, match="a is on s1, b on s2"):
        merge(map_, "a", "b")
    with pytest.raises(ConfigError, match="does not follow"):
        merge(map_, "b", "a")
    with pytest.raises(ConfigError, match="no range 'x'"):
        map_.range("x")
