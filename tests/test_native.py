"""What dbscale's SQLite extension writes is what SQL writes: the same values, the same rows refused, on any input."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import apsw
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbscale import native
from dbscale.cli import doctor, run
from dbscale.copying import Stream
from dbscale.drivers import postgres
from dbscale.drivers.sqlite import SqliteSource
from dbscale.migrate import pgcopy, scan
from dbscale.migrate.encode import Batch, Encoder, Range, Refused
from dbscale.migrate.model import TableProfile
from dbscale.migrate.profile import _MEASURES, NUL, _Column, profile
from dbscale.migrate.shapes import SHAPES, decimal_shapes
from dbscale.migrate.source import read_schema
from dbscale.migrate.verify_records import Records
from dbscale.plan import Conversion, Load, LoadColumn
from dump import dump
from fix_postgres import Postgres
from pitfalls import CASES as PITFALLS
from pitfalls import Case
from test_encode import CASES, READINGS, REFUSED, VALUES, Raw, load, make
from test_pitfalls import MADE_BEFORE, in_schema

pytestmark = pytest.mark.skipif(native.extension() is None, reason="the extension is not compiled")


class Target:
    """Loads a table in either form, and tells what PostgreSQL then holds, as its own text."""

    def __init__(self, url: str) -> None:
        self.connection = postgres.connect(url)

    def load(self, encoder: Encoder, batches: Sequence[Batch]) -> list[tuple[Any, ...]]:
        step = encoder.load
        types = ", ".join(f'"{column.target}" {column.conversion.to}' for column in step.columns)
        self.connection.execute(f"DROP TABLE IF EXISTS t; CREATE TABLE t ({types})".encode())
        with Stream(self.connection, encoder) as stream:
            for batch in batches:
                stream.write(batch)
            stream.end()
        if stream.refusal:
            raise stream.refusal
        assert stream.loaded == sum(batch.rows for batch in batches)
        texts = ", ".join(f'"{column.target}"::text' for column in step.columns)
        return sorted(self.connection.execute(f"SELECT {texts} FROM t".encode()).fetchall(), key=repr)


@pytest.fixture
def target(database: str) -> Iterator[Target]:
    made = Target(database)
    yield made
    made.connection.close()


def both(target: Target, path: Path, step: Load, **more: Any) -> tuple[list[tuple[Any, ...]], list[Refused], int]:
    """The rows and refusals that both forms agree on, and how many rows the extension wrote itself."""
    with SqliteSource(str(path)).snapshot(1) as (reader,):
        assert reader.native
        by_sql = Encoder(step, reader.library, reader.function_arguments, **more)
        by_native = pgcopy.BinaryEncoder(step, reader.library, reader.function_arguments, **more)
        assert type(pgcopy.encoder(step, reader, "UTF-8")) is pgcopy.BinaryEncoder
        slow = list(by_sql.batches(reader, Range()))
        quick = list(by_native.batches(reader, Range()))
    assert sum(batch.rows for batch in slow) == sum(batch.rows for batch in quick)
    refused = [row for batch in quick for row in batch.refused]
    assert refused == [row for batch in slow for row in batch.refused]
    rows = target.load(by_native, quick)
    assert rows == target.load(by_sql, slow)
    own = sum(batch.rows - batch.rest.count(b"\n") for batch in quick)
    return rows, refused, own


@pytest.mark.parametrize(("conversion", "pairs"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@pytest.mark.parametrize("rowid", ["id", ""], ids=["by-rowid", "one-pass"])
def test_each_reading(
    target: Target, tmp_path: Path, conversion: Conversion, pairs: list[tuple[Any, Any]], rowid: str
) -> None:
    make(tmp_path / "x.db", [value for value, _ in pairs])
    rows, refused, _ = both(target, tmp_path / "x.db", load(conversion, rowid=rowid))
    expected = {str(number) for number, (_, value) in enumerate(pairs, 1) if value is not REFUSED}
    assert {row[0] for row in rows} == expected
    assert len(rows) + len(refused) == len(pairs)


@pytest.mark.parametrize("shares", [(), ("s.id%2=0", "s.id%2<>0")], ids=["one", "two"])
def test_gaps_between_rowids(target: Target, tmp_path: Path, shares: tuple[str, ...]) -> None:
    """Ranges of rowids where most are taken, counts of rows where few are: no row is left out, none comes twice."""
    edges = [-(2**63), -5, -4, -3, 2**63 - 1]
    numbers = [
        *edges,
        *range(1, 300),
        *range(1000, 90_000, 700),
        *range(10**12, 10**12 + 200),
        *range(2**62, 2**62 + 9),
    ]
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", [(number, str(number)) for number in numbers])
    both(target, tmp_path / "x.db", load(Conversion(to="text", texts="keep")), batch_bytes=4096, shares=shares)


MORE: dict[str, Conversion] = {
    "smallint": Conversion(to="smallint", integers="keep", reals="whole", texts="number", blobs="digits"),
    "integer": Conversion(to="integer", integers="keep", reals="whole", texts="number", blobs="digits"),
    "real": Conversion(to="real", integers="keep", reals="keep"),
    "numeric(10,2)": Conversion(to="numeric(10,2)", integers="keep", reals="shortest", texts="number", blobs="digits"),
    "numeric(30,10)": Conversion(
        to="numeric(30,10)", integers="keep", reals="shortest", texts="number", blobs="digits"
    ),
    "numeric of whole": Conversion(to="numeric", integers="keep", reals="whole"),
    "boolean": Conversion(to="boolean", integers="bool", texts="bool"),
    "varchar(5)": Conversion(to="varchar(5)", integers="text", reals="text", texts="keep"),
    "replaced": Conversion(to="text", integers="text", reals="text", texts="keep", invalid="replace"),
    "bytes of all": Conversion(to="bytea", integers="text", reals="text", texts="bytes", blobs="keep"),
    "uuid": Conversion(to="uuid", texts="uuid", blobs="uuid"),
    "jsonb": Conversion(to="jsonb", integers="keep", reals="keep", texts="json", blobs="json"),
    "sqlite's jsonb": Conversion(to="jsonb", integers="keep", reals="keep", texts="json", blobs="jsonb"),
    "timestamp s": Conversion(to="timestamp", integers="s", reals="s", texts="iso"),
    "timestamp(3)": Conversion(to="timestamp(3)", integers="ms", reals="ms", texts="iso"),
    "timestamp ns": Conversion(to="timestamp", integers="ns", reals="s", texts="iso", rounded=True),
    "timestamptz by size": Conversion(to="timestamptz", integers="by-size", reals="julian", texts="iso"),
    "timestamptz webkit": Conversion(to="timestamptz", integers="webkit-us", reals="apple-s", texts="iso"),
    "timestamptz apple": Conversion(to="timestamptz", integers="apple-s", reals="ms", texts="iso"),
    "date yyyymmdd": Conversion(to="date", integers="yyyymmdd", reals="julian", texts="iso"),
    "date julian": Conversion(to="date", integers="julian", reals="s", texts="iso"),
    "time": Conversion(to="time", integers="s", reals="s", texts="iso"),
    "empty": Conversion(to="timestamp", texts="iso", empty="null"),
    "vectors": Conversion(to="real[]", blobs="f32"),
    "long vectors": Conversion(to="double precision[]", blobs="f64"),
    "widened vectors": Conversion(to="double precision[]", blobs="f32"),
}
ALL = READINGS | MORE

DIGITS = st.from_regex(r"\A[+-]?[0-9]{0,25}\.?[0-9]{0,25}([eE][+-]?[0-9]{1,3})?\Z")
MOMENTS = st.builds(
    "{:04d}-{:02d}-{:02d}{}{:02d}:{:02d}{}{}".format,
    st.integers(0, 9999),
    st.integers(0, 13),
    st.integers(0, 32),
    st.sampled_from([" ", "T", "t", "  ", ""]),
    st.integers(0, 24),
    st.integers(0, 60),
    st.sampled_from(["", ":05", ":59.5", ":60", ":01.123456", ":01.1234567", ":01.12345670", ":01.", ".5"]),
    st.sampled_from(["", "Z", "z", " Z", "+05:30", "-15:59", "+16:00", "+0530", "-05", " +01:00", " EST", "\0"]),
) | st.dates().map(str)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
).map(lambda value: json.dumps(value, ensure_ascii=False))
MONEY = st.decimals(-(10**11), 10**11, places=2).map(float)
COUNTS = st.integers(-(10**11), 3 * 10**11) | st.integers(0, 3 * 10**14) | st.integers(0, 99991231)
ANY = (
    VALUES
    | DIGITS
    | MOMENTS
    | JSON
    | MONEY
    | COUNTS
    | COUNTS.map(lambda count: count / 1000)
    | st.times().map(str)
    | st.uuids().map(str)
    | st.uuids().map(lambda value: "{" + value.hex.upper() + "}")
    | st.uuids().map(lambda value: value.bytes)
    | st.lists(st.floats(width=32), min_size=1, max_size=4).map(lambda v: struct.pack(f"<{len(v)}f", *v))
    | st.lists(st.floats(), min_size=1, max_size=3).map(lambda v: struct.pack(f"<{len(v)}d", *v) + b"\1")
    | DIGITS.map(str.encode)
    | JSON.map(str.encode)
    | st.floats(0, 6e6)
    | st.sampled_from(["true", "OFF", "No", "y", "{}", "1e400", "-0", "0.00", "1.50", 1e16, 1e15, 1e-5, 123456.5e-9])
)


@pytest.mark.parametrize("to", ALL, ids=list(ALL))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(values=st.lists(ANY.filter(lambda value: not (isinstance(value, str) and _lone(value))), max_size=40))
def test_any_value(target: Target, tmp_path: Path, to: str, values: list[Any]) -> None:
    make(tmp_path / "x.db", values)
    step = load(ALL[to])
    try:
        both(target, tmp_path / "x.db", step, batch_bytes=2048)
    except psycopg.DataError:  # a value that both send, and PostgreSQL alone refuses: each by itself, then
        for value in values:
            make(tmp_path / "x.db", [value])
            assert _sent(target, tmp_path / "x.db", step, pgcopy.BinaryEncoder) == _sent(
                target, tmp_path / "x.db", step, Encoder
            )


def _lone(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _sent(target: Target, path: Path, step: Load, kind: type[Encoder]) -> Any:
    with SqliteSource(str(path)).snapshot(1) as (reader,):
        encoder = kind(step, reader.library, reader.function_arguments)
        batches = list(encoder.batches(reader, Range()))
    try:
        return target.load(encoder, batches), [row for batch in batches for row in batch.refused]
    except psycopg.DataError as error:
        return error.sqlstate


def test_usual_values_are_written_by_the_extension(target: Target, tmp_path: Path) -> None:
    usual: list[tuple[Conversion, Any]] = [
        (ALL["bigint"], 5), (ALL["bigint"], 5.0), (ALL["bigint"], "-5"), (ALL["smallint"], 5), (ALL["integer"], -5),
        (ALL["double precision"], 0.1), (ALL["double precision"], "1.5e3"), (ALL["real"], 0.5),
        (ALL["numeric"], 19.99), (ALL["numeric"], 0.1 + 0.2), (ALL["numeric"], "1.23456789012345678901"),
        (ALL["numeric(10,2)"], 19.99), (ALL["numeric(10,2)"], 3), (ALL["boolean"], 1), (ALL["boolean"], "Yes"),
        (ALL["text"], "é"), (ALL["text"], 2.5), (ALL["text"], 7), (ALL["text"], b"x"), (ALL["varchar(5)"], "é😀é😀é"),
        (ALL["bytea"], b"\0"), (ALL["bytea"], "x"), (ALL["uuid"], "550e8400-e29b-41d4-a716-446655440000"),
        (ALL["uuid"], bytes(16)), (ALL["json"], '{"a": [1]}'), (ALL["jsonb"], '{"a": [1]}'), (ALL["jsonb"], 1.5),
        (ALL["timestamptz"], "2020-01-02T03:04:05.678+09:00"), (ALL["timestamptz"], 1577934245000000),
        (ALL["timestamp s"], 1577934245), (ALL["timestamp s"], 0.25), (ALL["timestamptz by size"], 1577934245000),
        (ALL["timestamptz by size"], 2458849.5), (ALL["date"], "2020-02-29"), (ALL["date"], 18000),
        (ALL["date yyyymmdd"], 20200229), (ALL["time"], "12:30"), (ALL["vectors"], struct.pack("<2f", 1, 2)),
        (ALL["long vectors"], struct.pack("<2d", 1, 2)), (ALL["empty"], ""), (ALL["timestamptz apple"], 5),
        (ALL["timestamptz webkit"], 13307547600000000),
    ]  # fmt: skip
    for conversion, value in usual:
        make(tmp_path / "x.db", [value])
        _, refused, own = both(target, tmp_path / "x.db", load(conversion))
        assert (refused, own) == ([], 1), (conversion, value)


def test_wide_tables_and_wide_values(target: Target, tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / "x.db"))
    names = [f"c{number}" for number in range(300)]
    connection.execute(f"CREATE TABLE t ({', '.join(names)})")
    connection.execute(f"INSERT INTO t VALUES ({','.join('?' * 300)})", [str(number) for number in range(300)])
    connection.execute("INSERT INTO t (c0, c299) VALUES (?, 'after')", ["x" * (5 << 20)])
    connection.close()
    text = Conversion(to="text", texts="keep")
    step = Load(
        does="", table="t", schema="public", target="t", rowid="rowid", widest=5 << 20, rows=2,
        columns=tuple(LoadColumn(source=name, target=name, conversion=text) for name in names),
    )  # fmt: skip
    rows, refused, _ = both(target, tmp_path / "x.db", step)
    assert len(rows) == 2
    assert not refused


def test_raw_text_beside_other_columns(target: Target, tmp_path: Path) -> None:
    make(tmp_path / "x.db", [Raw(b"\xff"), "ok", Raw(b"a\0b"), "fine"])
    rows, refused, own = both(target, tmp_path / "x.db", load(Conversion(to="text", texts="keep")))
    assert [row.key for row in refused] == [(1,), (3,)]
    assert [row[1] for row in rows] == ["ok", "fine"]
    assert own == 2


def test_what_pgcopy_does_not_know_is_left_to_sql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "x.db", [1])
    known = Conversion(to="text", texts="keep")
    with SqliteSource(str(tmp_path / "x.db")).snapshot(1) as (reader,):
        assert type(pgcopy.encoder(load(known), reader, "UTF-8")) is pgcopy.BinaryEncoder
        assert type(pgcopy.encoder(load(known), reader, "UTF-16le")) is Encoder
        assert type(pgcopy.encoder(load(Conversion(to="inet", texts="keep")), reader, "UTF-8")) is Encoder
    monkeypatch.setenv("DBSCALE_PURE_SQL", "1")
    with SqliteSource(str(tmp_path / "x.db")).snapshot(1) as (reader,):
        assert not reader.native
        assert type(pgcopy.encoder(load(known), reader, "UTF-8")) is Encoder


def test_sql_of_the_source_cannot_load_extensions(tmp_path: Path) -> None:
    make(tmp_path / "x.db", [1])
    with SqliteSource(str(tmp_path / "x.db")).snapshot(1) as (reader,):
        assert reader.native
        with pytest.raises(apsw.SQLError, match="not authorized"):
            reader.connection.execute(f"SELECT load_extension('{native.extension()}')").fetchall()
        with pytest.raises(apsw.Error):
            reader.connection.load_extension(str(native.extension()), native.ENTRY)


@pytest.mark.parametrize("sql", ["pgcopy()", "pgcopy('', 1)", "pgcopy('8k', 1, 2)", "pgcopy(NULL, 1, 2)",
                                 "pgcopy('8k-----;8k-----;', 1, 2)", "pgcopy_row()", "pgcopy_row('x')",
                                 "pgcopy_row('8k-----;', 1, 2)", "pgcopy_row(x'00', 1)"])  # fmt: skip
def test_wrong_codes_are_an_error(tmp_path: Path, sql: str) -> None:
    make(tmp_path / "x.db", [1])
    with SqliteSource(str(tmp_path / "x.db")).snapshot(1) as (reader,), pytest.raises(apsw.SQLError, match="codes"):
        reader.connection.execute(f"SELECT {sql} FROM t").fetchall()


# ── profiles ──────────────────────────────────────────────────────────────────────────────────────────────────────

LABELS = (NUL, "integer", "real", "text", "blob", *SHAPES, *decimal_shapes(10, 2), *decimal_shapes(30, 10))
TESTED = [label for label in LABELS if scan.test([label])]


def profiles(path: Path, shapes: Sequence[str]) -> tuple[TableProfile, TableProfile]:
    """The profile of table `t` by the extension, and by SQL."""
    with SqliteSource(str(path)).snapshot(1) as (reader,):
        table = read_schema(reader).table("t")
        wanted = {"v": (*_MEASURES, *shapes)}
        quick = profile(reader, table, wanted)
        reader.native = False
        return quick, profile(reader, table, wanted)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    values=st.lists(
        st.one_of(st.none(), *(st.lists(kind, max_size=5) for kind in (ANY, MONEY, COUNTS, MOMENTS, JSON)))
    ),
    shapes=st.lists(st.sampled_from(list(SHAPES)), max_size=6, unique=True),
    declared=st.sampled_from(["", "TEXT", "INTEGER", "NUMERIC", "REAL", "BLOB", "TEXT NOT NULL"]),
)
def test_profiles_are_equal(tmp_path: Path, values: list[Any], shapes: list[str], declared: str) -> None:
    flat = [value for group in values for value in (group or [None])]
    if "NOT NULL" in declared:
        flat = [value for value in flat if value is not None]
    make(tmp_path / "x.db", flat, declared)
    quick, slow = profiles(tmp_path / "x.db", shapes)
    assert quick == slow


@pytest.mark.parametrize("label", TESTED)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(ANY, min_size=1, max_size=40))
def test_a_test_is_never_laxer_than_its_shape(tmp_path: Path, label: str, values: list[Any]) -> None:
    make(tmp_path / "x.db", values)
    with SqliteSource(str(tmp_path / "x.db")).snapshot(1) as (reader,):
        source = read_schema(reader).table("t").column("v")
        column = _Column(reader, source, (label,) if label not in (NUL, "integer", "real", "text", "blob") else ())
        sql = f"SELECT v, profile(?, v), {column.condition(label)} FROM (SELECT * FROM t ORDER BY id) GROUP BY id"
        for value, data, holds in reader.rows(sql.replace("SELECT v,", "SELECT quote(CAST(v AS BLOB)),"),
                                              (scan.test([label]),)):  # fmt: skip
            assert isinstance(data, bytes)
            counted = sum(struct.unpack_from(">qqqq", data, 16))
            assert counted <= (holds or 0), value


USUAL: list[tuple[str, Any]] = [
    ("text", "é"), ("integer", 5), ("real", 0.5), ("blob", b"x"), ("empty", ""),
    ("iso-date", "2020-02-29"), ("iso-naive", "2020-02-29 12:30:00"), ("iso-naive", "2020-02-29T12:30:00.123456"),
    ("iso-zoned", "2020-02-29T12:30:00Z"), ("iso-zoned", "2020-02-29T12:30:00.678+09:00"),
    ("iso-zoned", "2020-02-29 12:30:00+0900"), ("iso-time", "12:30"), ("zero-date", "0000-00-00 00:00:00"),
    ("bool-text", "TRUE"), ("uuid36", "550E8400-e29b-41d4-a716-446655440000"), ("uuid32", "a" * 32),
    ("uuid-braces", "{550e8400-e29b-41d4-a716-446655440000}"), ("json", '{"a": [1, null, "\\n"]}'), ("json", "1.5e3"),
    ("integer-text", "-9223372036854775808"), ("integer-text", "0"), ("digits-text", "007"), ("decimal-text", "-1.50"),
    ("bool", 1), ("zero", 0), ("epoch-s", 1577934245), ("epoch-ms", 1577934245678), ("yyyymmdd", 20200229),
    ("webkit-us", 13307547600000000), ("integer-fits-10-2", 99999999), ("real-fits-10-2", 67907.24),
    ("real-fits-30-10", 0.1), ("real-infinite", float("inf")), ("real-huge", 1e300), ("real-whole", -3.0),
    ("real-julian", 2458849.5), ("real-epoch-s", 1577934245.123456),
    ("uuid-blob", bytes(16)), ("empty-blob", b""),
]  # fmt: skip


@pytest.mark.parametrize(("label", "value"), USUAL)
def test_usual_values_are_known_to_the_extension(tmp_path: Path, label: str, value: Any) -> None:
    make(tmp_path / "x.db", [value])
    with SqliteSource(str(tmp_path / "x.db")).snapshot(1) as (reader,):
        table = read_schema(reader).table("t")
        packed = scan.tests(reader, {"v": [label]})
        rows, seen = scan.counted(reader, table, packed, {"v": [label]})
    assert (rows, seen["v"]["values"], seen["v"][label]) == (1, 1, 1)


@given(text=JSON | st.text(max_size=20) | st.from_regex(r'\A\{("[ab]":[01],?){0,4}\}\Z'))
def test_json_repeats_misses_no_key(text: str) -> None:
    connection = apsw.Connection(":memory:")
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1)
    connection.load_extension(str(native.extension()), native.ENTRY)
    twice = "EXISTS (SELECT 1 FROM json_tree(?1) WHERE key IS NOT NULL GROUP BY parent, key HAVING count(*) > 1)"
    may, does = connection.execute(f"SELECT json_repeats(?1), CASE WHEN json_valid(?1) THEN {twice} END", (text,)).get
    assert may or not does


# ── packaging and safety ──────────────────────────────────────────────────────────────────────────────────────────

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_sanitizers_find_nothing() -> None:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if sys.platform != "linux" or compiler is None:
        pytest.skip("no C compiler with sanitizers")
    command = [sys.executable, str(ROOT / "scripts" / "fuzz_native"), "--rows", "1000000"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "found nothing" in result.stdout


def test_places_of_sqlites_routines() -> None:
    """The numbers in the C file are those of sqlite3ext.h, where there is one."""
    header = Path("/usr/include/sqlite3ext.h")
    if not header.exists():
        pytest.skip("no header of SQLite")
    body = header.read_text().partition("struct sqlite3_api_routines {")[2].partition("\n};")[0]
    declared = " ".join(re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL).split()).split(";")
    names = [found[1] for line in declared if (found := re.search(r"\(\s*\*\s*(\w+)\s*\)\s*\(", line))]
    assert len(names) == len([line for line in declared if line.strip()])
    used = re.findall(r"#define sqlite_(\w+)\s*\\?\s*ROUTINE\((\d+),", native.SOURCE.read_text())
    assert len(used) == 15
    aliases = {"create_function": "create_function_v2"}
    assert [(name, names[int(place)]) for name, place in used] == [(name, aliases.get(name, name)) for name, _ in used]


@pytest.mark.slow
@pytest.mark.parametrize("pure", ["", "1"])
def test_wheels(tmp_path: Path, pure: str) -> None:
    if not pure and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("no C compiler")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=os.environ | {"DBSCALE_PURE": pure})
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert (f"dbscale/native/{native.file_name()}" in names) is not bool(pure)
    assert wheel.stem.endswith("py3-none-any") is bool(pure)


# ── verify by bytes ───────────────────────────────────────────────────────────────────────────────────────────────

VERIFIED = {
    name: conversion
    for name, conversion in ALL.items()
    if conversion.to not in ("real", "real[]", "double precision[]") and conversion.invalid != "replace"
}


def verified(target: Target, path: Path, step: Load) -> tuple[bool, int | None, int]:
    """What both ways of comparing bytes say of the loaded table, and how many rows the extension left out."""
    with SqliteSource(str(path)).snapshot(1) as (reader,):
        records = Records.of(reader, step, "UTF-8")
        assert records is not None
        found = list(records.compared(reader, target.connection, Range(), '"id"'))
        values = ", ".join(records.encoder.values())
        ((total,),) = reader.rows(f"SELECT record_sums({records.encoder.codes()}, 1, 2, {values}) FROM t AS s")
        left = struct.unpack(">4Q", total)[2] if isinstance(total, bytes) else 0
        return all(equal for *_, equal in found), records.same_rows(reader, target.connection), left


@pytest.mark.parametrize("to", VERIFIED, ids=list(VERIFIED))
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(values=st.lists(ANY.filter(lambda value: not (isinstance(value, str) and _lone(value))), max_size=30))
def test_what_was_loaded_has_the_bytes_expected(target: Target, tmp_path: Path, to: str, values: list[Any]) -> None:
    """Whatever the extension spells for verify is what PostgreSQL sends of the row that the SQL form loaded."""
    make(tmp_path / "x.db", [value + 0.0 if isinstance(value, float) else value for value in values])
    step = load(VERIFIED[to])
    with SqliteSource(str(tmp_path / "x.db")).snapshot(1) as (reader,):
        encoder = Encoder(step, reader.library, reader.function_arguments)
        batches = list(encoder.batches(reader, Range()))
    try:
        target.load(encoder, batches)
    except psycopg.DataError:
        return
    refused = {row.key[0] for batch in batches for row in batch.refused}
    connection = apsw.Connection(str(tmp_path / "x.db"))
    connection.executemany("DELETE FROM t WHERE id = ?", [(key,) for key in refused])
    for value in (id_ for (id_,) in connection.execute("SELECT id FROM t").fetchall() if _left(connection, step, id_)):
        connection.execute("DELETE FROM t WHERE id = ?", (value,))
        target.connection.execute("DELETE FROM t WHERE id = %s", [value])
    (count,) = connection.execute("SELECT count(*) FROM t").fetchall()[0]
    connection.close()
    assert verified(target, tmp_path / "x.db", step) == (True, count, 0)


def _left(connection: apsw.Connection, step: Load, key: int) -> bool:
    """Whether the extension leaves a row to SQL."""
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1)
    connection.load_extension(str(native.extension()), native.ENTRY)
    codes = "".join(pgcopy.code(column.conversion) for column in step.columns)
    values = ", ".join(pgcopy.BinaryEncoder(step, (3, 54, 0), 1000).values())
    sql = f"SELECT record_sums(?, 1, 2, {values}) FROM t AS s WHERE id = ?"
    (data,) = connection.execute(sql, (codes, key)).fetchall()[0]
    return bool(struct.unpack(">4Q", data)[2])


@pytest.mark.parametrize(
    ("to", "value", "other"),
    [
        ("bigint", 5, "6"), ("double precision", 0.1, "0.10000000000000002"), ("numeric", 19.99, "19.990001"),
        ("text", "a", "'b'"), ("text", "", "NULL"), ("bytea", b"a", r"'\x62'"), ("boolean", 1, "false"),
        ("timestamptz", "2020-01-02T03:04:05.678+09:00", "v + interval '1 microsecond'"), ("date", "2020-02-29", "v+1"),
        ("time", "12:30", "v + interval '1 microsecond'"), ("uuid", "a" * 32, f"'{'b' * 32}'"),
        ("jsonb", '{"b": [1.50, "\\u00e9\\n"], "aa": {}}', "'{}'"), ("timestamp s", 1577934245, "v + interval '1 s'"),
        ("timestamp s", 0.25, "v + interval '1 s'"), ("numeric(10,2)", "1.50", "1.51"), ("bigint", None, "0"),
    ],
)  # fmt: skip
def test_every_change_is_seen(target: Target, tmp_path: Path, to: str, value: Any, other: str) -> None:
    path = tmp_path / "x.db"
    make(path, [value, value])
    step = load(ALL[to])
    with SqliteSource(str(path)).snapshot(1) as (reader,):
        encoder = pgcopy.encoder(step, reader, "UTF-8")
        target.load(encoder, list(encoder.batches(reader, Range())))
    assert verified(target, path, step) == (True, 2, 0)
    for change in (f"UPDATE t SET v = {other} WHERE id = 1", "DELETE FROM t WHERE id = 2", "INSERT INTO t TABLE t"):
        with target.connection.transaction(force_rollback=True):
            target.connection.execute(change.encode())
            assert verified(target, path, step) == (False, None, 0)


@pytest.mark.parametrize(
    ("to", "values", "change"),
    [
        # each keeps the sum of hash_record_extended(), which is why rows are hashed by their bytes
        ("bigint", [1, 2], "UPDATE t SET v = 3 - v"),
        ("numeric", [1.5, -2], "UPDATE t SET v = -v"),
        ("bigint", [0], "UPDATE t SET v = 4294967297"),
        ("double precision", [0.0], "UPDATE t SET v = '-0'"),
        ("jsonb", ["[1]"], "UPDATE t SET v = '[[[1]]]'"),
        ("jsonb", ["[1.0]"], "UPDATE t SET v = '[1.00]'"),
        ("text", ["a", "b"], "UPDATE t SET v = CASE v WHEN 'a' THEN 'b' ELSE 'a' END"),
        ("text", [None, "b"], "UPDATE t SET v = CASE WHEN v IS NULL THEN 'b' END"),
    ],
)
def test_changes_that_a_weaker_hash_does_not_see(
    target: Target, tmp_path: Path, to: str, values: list[Any], change: str
) -> None:
    path = tmp_path / "x.db"
    make(path, values)
    step = load(ALL[to])
    with SqliteSource(str(path)).snapshot(1) as (reader,):
        encoder = pgcopy.encoder(step, reader, "UTF-8")
        target.load(encoder, list(encoder.batches(reader, Range())))
    assert verified(target, path, step) == (True, len(values), 0)
    target.connection.execute(change.encode())
    assert verified(target, path, step) == (False, None, 0)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    value=st.integers(0, 60).flatmap(lambda n: st.binary(min_size=n, max_size=n)),
    seeds=st.tuples(*[st.sampled_from([0, 1, -1, 2**32, -(2**63)]) | st.integers(-(2**63), 2**63 - 1)] * 2),
)
def test_the_hash_is_postgresqls(target: Target, value: bytes, seeds: tuple[int, int]) -> None:
    connection = apsw.Connection(":memory:")
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1)
    connection.load_extension(str(native.extension()), native.ENTRY)
    sql = "SELECT record_sums('y--yk--;', ?, ?, v) FROM (SELECT ? AS v UNION ALL SELECT NULL)"
    ((mine,),) = connection.execute(sql, (*seeds, value)).fetchall()
    each = "hash_record_extended(ROW(record_send(ROW(v))), %s)"
    theirs = target.connection.execute(
        f"SELECT sum({each}), sum({each}) FROM (VALUES (%s::bytea), (NULL)) AS t (v)".encode(), (*seeds, value)
    ).fetchone()
    assert theirs is not None
    assert struct.unpack(">4Q", mine) == (*(int(each) % 2**64 for each in theirs), 0, 2)


def test_reals_become_the_decimals_that_python_prints(target: Target) -> None:
    chance = random.Random(7)
    values = [
        0.0,
        0.1 + 0.2,
        2.0**-24,
        2.0**-23,
        5e-7,
        1e8,
        99999999.999999,
        4503599.627370497,
        1e15 + 0.5,
        1e22,
        2.0**70,
    ]
    values += [chance.randrange(1, 10**9) / 10 ** chance.randrange(9) for _ in range(2000)]
    values += [chance.choice([1, 3, 5]) * 2.0 ** chance.randrange(-60, 60) for _ in range(300)]
    values += [math.nextafter(value, chance.choice([0, math.inf])) for value in values if value]
    values += [-value for value in values if value]
    connection = apsw.Connection(":memory:")
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1)
    connection.load_extension(str(native.extension()), native.ENTRY)
    left = 0
    theirs = target.connection.execute(
        "SELECT hash_record_extended(ROW(record_send(ROW(trim_scale(v::numeric)))), 1)"
        " FROM unnest(%s::text[]) WITH ORDINALITY AS t (v, n) ORDER BY n",
        [[repr(value) for value in values]],
    ).fetchall()
    for value, (hashed,) in zip(values, theirs, strict=True):
        ((found,),) = connection.execute("SELECT record_sums('n-h----;', 1, 2, ?)", (value,)).fetchall()
        mine, _, missing, _ = struct.unpack(">4Q", found)
        left += missing
        assert missing or mine == hashed % 2**64, value
    assert left < 150, left  # powers of two whose 17th digit counts, and what is not in plain digits


def test_an_extension_of_another_source_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = native.extension()
    assert made is not None
    source = tmp_path / native.SOURCE.name
    shutil.copy(native.SOURCE, source)
    shutil.copy(made, tmp_path / native.file_name())
    monkeypatch.setattr(native, "SOURCE", source)
    assert native.extension() == tmp_path / native.file_name()
    assert not native.is_stale()
    source.write_bytes(source.read_bytes() + b"\n/* the next version */\n")
    assert native.extension() is None
    assert native.is_stale()
    make(tmp_path / "x.db", [1])
    with SqliteSource(str(tmp_path / "x.db")).snapshot(1) as (reader,):
        assert not reader.native
        assert Records.of(reader, load(ALL["bigint"]), "UTF-8") is None
    assert "compiled from another version's source" in doctor.versions()["extension"]


def test_the_sample_migrates_to_the_same_database_in_both_forms(
    marketplace: Path, new_database: Callable[..., str]
) -> None:
    dumps, forms = [], []
    for pure in ("", "1"):
        url = new_database()
        command = [sys.executable, "-m", "dbscale.cli", "migrate", str(marketplace), url, "--json"]
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | {"DBSCALE_PURE_SQL": pure}
        )
        assert result.returncode == 0, result.stderr
        forms.append({table["form"] for table in json.loads(result.stdout)["tables"]})
        dumps.append(dump(url))
    assert forms == [{"binary"}, {"csv"}]
    assert dumps[0] == dumps[1]


REFUSALS = """SELECT table_name, row_key, column_name, stored_as, raw, reason FROM dbscale.quarantine WHERE run_id = %s
 ORDER BY 1, 2::text, 3"""


@pytest.fixture(scope="module")
def two_databases(server: Postgres) -> Iterator[dict[str, str]]:
    """One database for each form, by the value of DBSCALE_PURE_SQL."""
    urls = {pure: urlsplit(server.url)._replace(path=f"/pitfalls_{pure}").geturl() for pure in ("0", "1")}
    with psycopg.connect(server.url, autocommit=True) as connection:
        for pure in urls:
            connection.execute(f"CREATE DATABASE pitfalls_{pure}".encode())
        yield urls
        for pure in urls:
            connection.execute(f"DROP DATABASE pitfalls_{pure} WITH (FORCE)".encode())


@pytest.mark.slow
@pytest.mark.parametrize("case", PITFALLS, ids=lambda case: case.id)
def test_each_pitfall_ends_the_same_in_both_forms(
    case: Case, two_databases: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    connection = apsw.Connection(f"{case.id}.db")
    connection.execute(case.sql).fetchall()
    connection.close()
    schema, ends = in_schema(case.id), []
    for pure, url in two_databases.items():
        monkeypatch.setenv("DBSCALE_PURE_SQL", pure)
        with psycopg.connect(url, autocommit=True) as target:
            target.execute(f"CREATE SCHEMA {schema}".encode())
            if case.id in MADE_BEFORE:
                target.execute(MADE_BEFORE[case.id].format(schema).encode())
            status = run(["migrate", f"{case.id}.db", url, "--schema", schema, "--json", *case.options])
            said = capsys.readouterr()
            document = json.loads(said.out) if said.out else {}
            tables = document.get("tables", [])
            assert pure == "0" or {table["form"] for table in tables} <= {"csv"}
            refused = target.execute(REFUSALS, [document["run"]]).fetchall() if tables else []
        counts = [[table[name] for name in ("table", "source_rows", "loaded", "quarantined")] for table in tables]
        findings = sorted(document.get("findings", []), key=str)  # steps of a group end in any order
        ends.append((status, findings, counts, refused, dump(url, schema)))
    assert ends[0] == ends[1]
