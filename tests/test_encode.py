# ruff: noqa: DTZ001 - times without a zone are what is tested; one case a line reads best
"""Every value of the source reaches PostgreSQL unchanged, or is refused; an oracle in plain Python says what it is."""

from __future__ import annotations

import dataclasses
import json
import math
import sqlite3
import struct
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import apsw
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbscale.drivers import postgres
from dbscale.drivers.source import TooLarge, Value
from dbscale.drivers.sqlite import SqliteReader, SqliteSource
from dbscale.errors import SourceError
from dbscale.migrate import cells, pgcopy
from dbscale.migrate.encode import Batch, Encoder, Range, Refused, ranges
from dbscale.plan import Conversion, Load, LoadColumn


class OldReader:
    """The standard library's SQLite, whichever version that is, with the limits of SQLite 3.40."""

    function_arguments = 127
    library = sqlite3.sqlite_version_info

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        self.connection.setlimit(sqlite3.SQLITE_LIMIT_FUNCTION_ARG, 127)

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> Iterator[tuple[Value, ...]]:
        try:
            yield from self.connection.execute(sql, tuple(parameters))
        except sqlite3.Error as error:
            raise SourceError(str(error)) from error


def make(path: Path, values: Sequence[Any], declared: str = "", encoding: str = "UTF-8") -> None:
    """A table `t` with one column `v` that holds `values`; bytes stand for blobs, `Raw` for text as it is stored."""
    path.unlink(missing_ok=True)
    connection = apsw.Connection(str(path))
    connection.execute(f"PRAGMA encoding='{encoding}'")
    connection.execute(f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {declared})")
    with connection:
        for number, value in enumerate(values, 1):
            if isinstance(value, Raw):
                connection.execute("INSERT INTO t VALUES (?, CAST(? AS TEXT))", (number, value.bytes))
            else:
                connection.execute("INSERT INTO t VALUES (?, ?)", (number, value))
    connection.close()


@dataclasses.dataclass(frozen=True)
class Raw:
    """Text given by its bytes."""

    bytes: bytes


def load(conversion: Conversion, **more: Any) -> Load:
    columns = (
        LoadColumn(source="id", target="id", conversion=Conversion(to="bigint", integers="keep")),
        LoadColumn(source="v", target="v", conversion=conversion),
    )
    return Load(
        does="", table="t", schema="public", target="t", columns=columns, **({"key": ("id",), "rowid": "id"} | more)
    )


def read(path: Path, step: Load, *, old: bool = False, encoding: str = "UTF-8", **more: Any) -> list[Batch]:
    if old:
        reader = OldReader(path)
        return list(Encoder(step, reader.library, 127, encoding=encoding, **more).batches(reader, Range()))
    with SqliteSource(str(path)).snapshot(1) as (reader_,):
        encoder = Encoder(step, reader_.library, reader_.function_arguments, encoding=encoding, **more)
        return list(encoder.batches(reader_, Range()))


class Target:
    """A table `t` in PostgreSQL, made anew for each load."""

    def __init__(self, url: str) -> None:
        self.connection = postgres.connect(url)

    def load(self, step: Load, batches: Sequence[Batch]) -> dict[int, Any]:
        """What PostgreSQL holds after COPY, by id."""
        types = ", ".join(f'"{column.target}" {column.conversion.to}' for column in step.columns)
        self.connection.execute(f"DROP TABLE IF EXISTS t; CREATE TABLE t ({types})")
        encoder = Encoder(step, (3, 54, 0), 1000)
        with self.connection.cursor() as cursor:
            with cursor.copy(encoder.copy_sql) as copy:
                for batch in batches:
                    copy.write(batch.data)
            assert cursor.rowcount == sum(batch.rows for batch in batches)
        return dict(self.connection.execute("SELECT id, v FROM t").fetchall())


@pytest.fixture
def target(database: str) -> Iterator[Target]:
    made = Target(database)
    yield made
    made.connection.close()


REFUSED = object()


def outcome(
    target: Target, path: Path, conversion: Conversion, values: Sequence[Any], *, old: bool = False, **more: Any
) -> list[Any]:
    """What became of each value: what PostgreSQL holds, or REFUSED."""
    make(path, values, **more)
    step = load(conversion)
    batches = read(path, step, old=old, encoding=more.get("encoding", "UTF-8"))
    held = target.load(step, batches)
    refused = {row.key[0] for batch in batches for row in batch.refused}
    assert refused.isdisjoint(held)
    assert refused | held.keys() == set(range(1, len(values) + 1))
    assert all(row.reason and row.column == "v" for batch in batches for row in batch.refused)
    return [REFUSED if number in refused else held[number] for number in range(1, len(values) + 1)]


# ── every reading of a Conversion, value by value ─────────────────────────────────────────────────────────────────

OFFSET = timezone(timedelta(hours=5, minutes=30))
CASES: list[tuple[str, Conversion, list[tuple[Any, Any]]]] = [
    (
        "integers",
        Conversion(to="bigint", integers="keep"),
        [
            (1, 1),
            (-(2**63), -(2**63)),
            (2**63 - 1, 2**63 - 1),
            (None, None),
            ("1", REFUSED),
            (1.5, REFUSED),
            (b"1", REFUSED),
        ],
    ),
    (
        "smallint",
        Conversion(to="smallint", integers="keep"),
        [(32767, 32767), (32768, REFUSED), (-32768, -32768), (-32769, REFUSED)],
    ),
    (
        "whole reals",
        Conversion(to="bigint", integers="keep", reals="whole"),
        [(3.0, 3), (3.5, REFUSED), (9.3e18, REFUSED), (-9223372036854775808.0, -(2**63)), (math.inf, REFUSED), (7, 7)],
    ),
    (
        "integers as floats",
        Conversion(to="double precision", integers="keep", reals="keep"),
        [
            (2**53, float(2**53)),
            (2**53 + 1, REFUSED),
            (2**60, float(2**60)),
            (0.1, 0.1),
            (math.inf, math.inf),
            (-math.inf, -math.inf),
        ],
    ),
    (
        "booleans",
        Conversion(to="boolean", integers="bool", texts="bool"),
        [
            (0, False),
            (1, True),
            (2, REFUSED),
            ("t", True),
            ("False", False),
            ("YES", True),
            (" t", REFUSED),
            ("", REFUSED),
            ("t\0", REFUSED),
        ],
    ),
    (
        "decimals",
        Conversion(to="numeric(10,2)", integers="keep", reals="shortest", texts="number"),
        [
            (19.99, Decimal("19.99")),
            (3, Decimal("3.00")),
            (3.14159, REFUSED),
            (99999999.99, Decimal("99999999.99")),
            (100000000.0, REFUSED),
            (99999999.995, REFUSED),
            (-0.01, Decimal("-0.01")),
            (10**8, REFUSED),
            ("1.10", Decimal("1.10")),
            ("1.105", REFUSED),
            ("1.100", Decimal("1.10")),
            (" 1", REFUSED),
            ("0x10", REFUSED),
            ("NaN", REFUSED),
            ("1_000", REFUSED),
            (math.inf, REFUSED),
            ("1.5\0", REFUSED),
        ],
    ),
    (
        "numbers of any scale",
        Conversion(to="numeric", integers="keep", reals="shortest", texts="number"),
        [
            (19.99, Decimal("19.99")),
            (0.1 + 0.2, Decimal("0.30000000000000004")),
            (0.7496392831642303, Decimal("0.7496392831642303")),
            (1e22, Decimal("1e22")),
            (5e-324, Decimal("5e-324")),
            (math.inf, Decimal("Infinity")),
            ("12345678901234567890.1230", Decimal("12345678901234567890.1230")),
            ("1e3", Decimal(1000)),
            ("", REFUSED),
            ("infinity", REFUSED),
        ],
    ),
    (
        "text",
        Conversion(to="text", integers="text", reals="text", texts="keep", blobs="text"),
        [
            ("it's", "it's"),
            ("", ""),
            ("NULL", "NULL"),
            ("\\N", "\\N"),
            ("\\.", "\\."),
            ("a\tb\nc\rd\\x41", "a\tb\nc\rd\\x41"),
            ("é😀", "é😀"),
            ("a\0b", REFUSED),
            (Raw(b"fi\xe9"), REFUSED),
            (Raw(b"\xed\xa0\x80"), REFUSED),
            (b"plain", "plain"),
            (b"\xff\x00", REFUSED),
            (b"a\x00b", REFUSED),
            (5, "5"),
            (2.5, "2.5"),
            (100.0, "100.0"),
            (1e22, "1.0e+22"),
            (None, None),
        ],
    ),
    (
        "text put right",
        Conversion(to="text", texts="keep", invalid="replace"),
        [("a\0b", "a\ufffdb"), (Raw(b"fi\xe9x"), "fi\ufffdx"), ("ok", "ok"), (b"x", REFUSED)],
    ),
    (
        "varchar",
        Conversion(to="varchar(3)", texts="keep"),
        [("abc", "abc"), ("abcd", REFUSED), ("abc ", REFUSED), ("é😀x", "é😀x")],
    ),
    (
        "empty text as NULL",
        Conversion(to="bigint", integers="keep", empty="null"),
        [("", None), (1, 1), (" ", REFUSED)],
    ),
    (
        "bytes",
        Conversion(to="bytea", blobs="keep", texts="bytes"),
        [(b"\x00\xff", b"\x00\xff"), (b"", b""), ("é", "é".encode()), ("a\0b", b"a\0b"), (1, REFUSED)],
    ),
    (
        "uuids",
        Conversion(to="uuid", texts="uuid", blobs="uuid"),
        [
            ("550e8400-e29b-41d4-a716-446655440000", uuid.UUID("550e8400-e29b-41d4-a716-446655440000")),
            ("550E8400E29B41D4A716446655440000", uuid.UUID("550e8400-e29b-41d4-a716-446655440000")),
            ("{550e8400-e29b-41d4-a716-446655440000}", uuid.UUID("550e8400-e29b-41d4-a716-446655440000")),
            (bytes(range(16)), uuid.UUID(bytes=bytes(range(16)))),
            ("550e8400-e29b-41d4-a716-44665544000", REFUSED),
            ("550e-8400e29b-41d4-a716-446655440000", REFUSED),
            (b"short", REFUSED),
            ("550e8400-e29b-41d4-a716-446655440000\0", REFUSED),
        ],
    ),
    (
        "json",
        Conversion(to="jsonb", texts="json", blobs="json"),
        [
            ('{"a": [1, 2.50, "é"]}', {"a": [1, 2.5, "é"]}),
            ("{a:1}", REFUSED),
            ("", REFUSED),
            ("null", None),
            (b'"x"', "x"),
            ("NaN", REFUSED),
            ("it's", REFUSED),
            ('"it\'s"', "it's"),
        ],
    ),
    (
        "days",
        Conversion(to="date", texts="iso", integers="days"),
        [
            ("2020-02-29", date(2020, 2, 29)),
            ("2020-02-30", REFUSED),
            ("0000-00-00", REFUSED),
            ("2020-1-2", REFUSED),
            ("now", REFUSED),
            ("infinity", REFUSED),
            ("2020-01-02 03:04:05", REFUSED),
            ("0001-01-01", date(1, 1, 1)),
            ("9999-12-31", date(9999, 12, 31)),
            (0, date(1970, 1, 1)),
            (18262, date(2020, 1, 1)),
            (-1, date(1969, 12, 31)),
            (10**7, REFUSED),
        ],
    ),
    (
        "yyyymmdd",
        Conversion(to="date", integers="yyyymmdd"),
        [(20200102, date(2020, 1, 2)), (20200230, REFUSED), (2020, REFUSED)],
    ),
    (
        "times of day",
        Conversion(to="time", texts="iso", integers="s"),
        [
            ("12:30", time(12, 30)),
            ("12:30:01.5", time(12, 30, 1, 500000)),
            ("24:00:00", REFUSED),
            ("12:60", REFUSED),
            (3600, time(1)),
            (86400, REFUSED),
            ("allballs", REFUSED),
        ],
    ),
    (
        "moments without a zone",
        Conversion(to="timestamp", texts="iso", integers="s"),
        [
            ("2020-01-02 03:04:05", datetime(2020, 1, 2, 3, 4, 5)),
            ("2020-01-02T03:04:05", datetime(2020, 1, 2, 3, 4, 5)),
            ("2020-01-02 03:04:05.123456", datetime(2020, 1, 2, 3, 4, 5, 123456)),
            ("2020-01-02 03:04", datetime(2020, 1, 2, 3, 4)),
            ("2020-01-02", datetime(2020, 1, 2)),
            ("2020-01-02 03:04:05.1234567", REFUSED),
            ("2020-01-02 03:04:05.1234560", datetime(2020, 1, 2, 3, 4, 5, 123456)),
            ("2020-01-02 03:04:05Z", REFUSED),
            ("2020-01-02T03:04:05+05:30", REFUSED),
            ("2020-01-02 24:00:00", REFUSED),
            ("2020-01-02 03:04:60", REFUSED),
            ("2020-02-30 00:00:00", REFUSED),
            ("2020-01-02  03:04:05", REFUSED),
            ("2020-01-02 03:04:05 ", REFUSED),
            ("10000-01-01 00:00:00", REFUSED),
            ("-471-01-01 00:00:00", REFUSED),
            ("01/02/2020", REFUSED),
            ("2458849.5", REFUSED),
            ("2020-01-02 03:04:05\0", REFUSED),
            ("2020-01-02 03:04:05.", REFUSED),
            (1577934245, datetime(2020, 1, 2, 3, 4, 5)),
            (-1, datetime(1969, 12, 31, 23, 59, 59)),
            (253402300800, REFUSED),
            (-62135596801, REFUSED),
        ],
    ),
    (
        "moments with a zone",
        Conversion(to="timestamptz", texts="iso", integers="ms"),
        [
            ("2020-01-02 03:04:05", datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)),
            ("2020-01-02T03:04:05.678Z", datetime(2020, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)),
            ("2020-01-02T03:04:05+05:30", datetime(2020, 1, 2, 3, 4, 5, tzinfo=OFFSET)),
            ("2020-01-02 03:04:05.000001-05:30", datetime(2020, 1, 2, 8, 34, 5, 1, tzinfo=UTC)),
            ("2020-01-02 03:04:05+0530", datetime(2020, 1, 2, 3, 4, 5, tzinfo=OFFSET)),
            ("2020-01-02 03:04:05+05", datetime(2020, 1, 1, 22, 4, 5, tzinfo=UTC)),
            ("2020-01-02 03:04:05+99:00", REFUSED),
            ("2020-01-02 03:04:05 EST", REFUSED),
            ("now", REFUSED),
            ("2020-01-02", datetime(2020, 1, 2, tzinfo=UTC)),
            (1577934245678, datetime(2020, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)),
            (-1, datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)),
        ],
    ),
    (
        "rounded moments",
        Conversion(to="timestamp", texts="iso", integers="ns", rounded=True),
        [
            ("2020-01-02 03:04:05.1234567", datetime(2020, 1, 2, 3, 4, 5, 123457)),
            ("2020-01-02 03:04:59.9999999", datetime(2020, 1, 2, 3, 5)),
            (1577934245000000900, datetime(2020, 1, 2, 3, 4, 5, 1)),
        ],
    ),
    (
        "microseconds",
        Conversion(to="timestamptz", integers="us"),
        [(-1, datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC))],
    ),
    (
        "nanoseconds",
        Conversion(to="timestamptz", integers="ns"),
        [(1000, datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)), (1001, REFUSED)],
    ),
    (
        "webkit",
        Conversion(to="timestamptz", integers="webkit-us"),
        [(13307547600000000, datetime(2022, 9, 13, 13, tzinfo=UTC))],
    ),
    (
        "apple",
        Conversion(to="timestamptz", integers="apple-s", reals="apple-s"),
        [(0, datetime(2001, 1, 1, tzinfo=UTC)), (671234567.25, datetime(2022, 4, 9, 22, 2, 47, 250000, tzinfo=UTC))],
    ),
    (
        "by size",
        Conversion(to="timestamptz", integers="by-size"),
        [(10 ** (9 + shift), datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)) for shift in (0, 3, 6, 9)],
    ),
    (
        "julian days",
        Conversion(to="timestamp", reals="julian", integers="julian"),
        [(2458849.5, datetime(2020, 1, 1)), (2458849, datetime(2019, 12, 31, 12)), (-1.0, REFUSED)],
    ),
    (
        "seconds with a fraction",
        Conversion(to="timestamp", reals="s"),
        [
            (1577934245.25, datetime(2020, 1, 2, 3, 4, 5, 250000)),
            (1577934245.0000001, datetime(2020, 1, 2, 3, 4, 5)),
            (0.1234567891, REFUSED),
        ],
    ),
    (
        "digits",
        Conversion(to="bigint", blobs="digits"),
        [(b"9007199254740993", 9007199254740993), (b"1.5", REFUSED), (b"9" * 30, REFUSED), (b"", REFUSED)],
    ),
    (
        "vectors",
        Conversion(to="real[]", blobs="f32"),
        [
            (struct.pack("<3f", 1, 0.1, -2.5), [1.0, 0.1, -2.5]),
            (b"abc", REFUSED),
            (struct.pack("<f", math.nan), REFUSED),
        ],
    ),
    (
        "long vectors",
        Conversion(to="double precision[]", blobs="f64"),
        [(struct.pack("<2d", 0.1, 1e300) + b"\x02", [0.1, 1e300])],
    ),
]


@pytest.mark.parametrize("old", [False, True], ids=["apsw", "old"])
@pytest.mark.parametrize(("conversion", "pairs"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_reading(
    target: Target, tmp_path: Path, conversion: Conversion, pairs: list[tuple[Any, Any]], old: bool
) -> None:
    found = outcome(target, tmp_path / "x.db", conversion, [value for value, _ in pairs], old=old)
    for (value, expected), got in zip(pairs, found, strict=True):
        shown = "REFUSED" if got is REFUSED else got
        assert got == expected or got is expected, f"{value!r}: {shown!r}, not {expected!r}"


def test_sqlite_jsonb(target: Target, tmp_path: Path) -> None:
    blob = apsw.Connection(":memory:").execute("SELECT jsonb('{\"a\":[1,2]}')").get
    conversion = Conversion(to="jsonb", blobs="jsonb")
    assert outcome(target, tmp_path / "x.db", conversion, [blob, b"\xff\xff", None, blob]) == [
        {"a": [1, 2]},
        REFUSED,
        None,
        {"a": [1, 2]},
    ]


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_utf16_files(target: Target, tmp_path: Path, encoding: str) -> None:
    values = ["é😀", "it's", "", None, "a\0b", "한국어\n"]
    conversion = Conversion(to="text", texts="keep")
    found = outcome(target, tmp_path / "x.db", conversion, values, encoding=encoding)
    assert found == ["é😀", "it's", "", None, REFUSED, "한국어\n"]
    as_bytes = Conversion(to="bytea", texts="bytes", blobs="keep")
    assert outcome(target, tmp_path / "x.db", as_bytes, ["é", b"\x00"], encoding=encoding) == ["é".encode(), b"\x00"]


# ── any value at all ──────────────────────────────────────────────────────────────────────────────────────────────

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["now", "today", "2020-01-01", "12:00", "1e5", "t", "\\N", "'", '"', "NULL", "\\.", "{}", "[1]", "infinity", "12"]
)
VALUES = (
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | TEXTS
    | st.binary(max_size=40)
    | st.binary(max_size=10).map(Raw)
)
READINGS = {
    "bigint": Conversion(to="bigint", integers="keep", reals="whole", texts="number", blobs="digits"),
    "double precision": Conversion(to="double precision", integers="keep", reals="keep", texts="number"),
    "numeric": Conversion(to="numeric", integers="keep", reals="shortest", texts="number", blobs="digits"),
    "text": Conversion(to="text", integers="text", reals="text", texts="keep", blobs="text"),
    "bytea": Conversion(to="bytea", texts="bytes", blobs="keep"),
    "timestamptz": Conversion(to="timestamptz", integers="us", texts="iso"),
    "date": Conversion(to="date", integers="days", texts="iso"),
    "json": Conversion(to="json", texts="json", blobs="json"),
}


def meaning(value: Any, to: str) -> Any:
    """What a value is in PostgreSQL, or REFUSED where it has to be; None where either will do."""
    if isinstance(value, Raw):
        try:
            value = value.bytes.decode()
        except UnicodeDecodeError:
            return REFUSED if to != "bytea" else value.bytes
    if value is None:
        return None
    if to == "bytea":
        return value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else REFUSED
    if to == "text" and isinstance(value, str):
        return REFUSED if "\0" in value else value
    if to == "text" and isinstance(value, bytes):
        try:
            return meaning(value.decode(), "text")
        except UnicodeDecodeError:
            return REFUSED
    if to in ("bigint", "numeric") and isinstance(value, int):
        return value
    if to == "text" and isinstance(value, int):
        return str(value)
    if to == "double precision" and isinstance(value, float):
        return value
    if to == "double precision" and isinstance(value, int):
        return float(value) if int(float(value)) == value else REFUSED
    if to == "numeric" and isinstance(value, float):
        return Decimal(repr(value))
    if to == "bigint" and isinstance(value, float):
        return int(value) if value == value // 1 and abs(value) < 2**63 else REFUSED
    if to == "timestamptz" and isinstance(value, int):
        inside = -62135596800 * 10**6 <= value < 253402300800 * 10**6
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value) if inside else REFUSED
    if to == "date" and isinstance(value, int):
        return date(1970, 1, 1) + timedelta(days=value) if -719162 <= value <= 2932896 else REFUSED
    return ...


@pytest.mark.parametrize("to", READINGS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(VALUES, min_size=1, max_size=30))
def test_any_value_arrives_or_is_refused(target: Target, tmp_path: Path, to: str, values: list[Any]) -> None:
    for value, got in zip(values, outcome(target, tmp_path / "x.db", READINGS[to], values), strict=True):
        expected = meaning(value, to)
        if expected is ...:
            # text that may be a number, a time or JSON: what comes of it must say the same
            assert got is REFUSED or same_words(value, got, to), f"{value!r} became {got!r}"
        elif isinstance(expected, float):
            assert struct.pack(">d", got) == struct.pack(">d", expected), f"{value!r} became {got!r}"
        else:
            assert got is expected or got == expected, f"{value!r} became {got!r}, not {expected!r}"


def same_words(value: Any, got: Any, to: str) -> bool:
    text = value.bytes.decode() if isinstance(value, Raw) else value.decode() if isinstance(value, bytes) else value
    if to == "json":
        return bool(json.loads(text) == got)
    if to == "timestamptz":
        parsed = datetime.fromisoformat(text)
        return bool((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)) == got)
    if to == "date":
        return bool(date.fromisoformat(text) == got)
    if to == "text":
        return float(text if isinstance(text, str) else got) == float(got) == value
    return bool(float(text) == got) if to == "double precision" else Decimal(text) == Decimal(got)


@settings(max_examples=100, deadline=None)
@given(numbers=st.lists(st.floats(allow_nan=False), min_size=20, max_size=200))
@pytest.mark.parametrize("old", [False, True], ids=["apsw", "old"])
def test_floats_keep_their_bits(numbers: list[float], old: bool) -> None:
    """What each SQLite prints of a float is read back as the same float."""
    library = sqlite3.sqlite_version_info if old else (3, 54, 0)
    cell = cells.cell("?1", Conversion(to="double precision", reals="keep"), library)
    connection: Any = sqlite3.connect(":memory:") if old else apsw.Connection(":memory:")
    for number in numbers:
        (fits, printed) = connection.execute(f"SELECT {cell.test}, {cell.argument}", (number,)).fetchone()
        assert float(printed) == number
        assert not fits or struct.pack(">d", float(printed)) == struct.pack(">d", number)
        assert fits or not number


# ── batches, ranges, refusals ─────────────────────────────────────────────────────────────────────────────────────


def test_refusals_name_row_column_and_value(tmp_path: Path) -> None:
    make(tmp_path / "x.db", [1, "many", b"\x00\xff", 2.5])
    (batch,) = read(tmp_path / "x.db", load(Conversion(to="bigint", integers="keep")))
    found = [(row.rowid, row.key, row.column, row.storage, row.raw) for row in batch.refused]
    assert found == [
        (2, (2,), "v", "text", b"many"),
        (3, (3,), "v", "blob", b"\x00\xff"),
        (4, (4,), "v", "real", b"2.5"),
    ]
    assert batch.refused[0].reason == "the text 'many' is no bigint"


def test_batches_are_small_and_ranges_cover_every_row(tmp_path: Path) -> None:
    make(tmp_path / "x.db", ["x" * 1000] * 5000)
    connection = apsw.Connection(str(tmp_path / "x.db"))
    connection.execute("UPDATE t SET id = id * 1000 WHERE id > 2500")
    connection.execute("INSERT INTO t VALUES (-9223372036854775808, 'first'), (9223372036854775807, 'last')")
    connection.close()
    step = load(Conversion(to="text", texts="keep"), rows=5002, bytes=5_100_000, widest=1000)
    with SqliteSource(str(tmp_path / "x.db")).snapshot(1) as (reader,):
        encoder = Encoder(step, reader.library, reader.function_arguments)
        parts = ranges(reader, step, 1000)
        batches = [list(encoder.batches(reader, part)) for part in parts]
    assert len(parts) == 6
    assert [sum(batch.rows for batch in part) for part in batches] == [1000, 1000, 1000, 1000, 1000, 2]
    assert max(len(batch.data) for part in batches for batch in part) < 3 << 20
    assert sum(batch.data.count(b"\n") for part in batches for batch in part) == 5002


def test_wide_values_come_few_at_a_time(target: Target, tmp_path: Path) -> None:
    wide = ["a" * 5_000_000, "é" * 3_000_000, b"\x01" * 6_000_000]
    step = load(Conversion(to="text", texts="keep", blobs="text"), rows=103, bytes=17_000_000, widest=6_000_000)
    make(tmp_path / "x.db", [*wide, *["small"] * 100])
    batches = read(tmp_path / "x.db", step)
    assert max(len(batch.data) for batch in batches) < 17_000_000
    held = target.load(step, batches)
    assert [held[1], held[2], held[3].encode()] == wide
    assert len(held) == 103


def test_many_columns(tmp_path: Path, target: Target) -> None:
    """More columns than a function takes arguments, and deeper than a chain of ANDs may be."""
    path = tmp_path / "x.db"
    names = [f"c{i}" for i in range(1500)]
    connection = apsw.Connection(str(path))
    connection.execute(f"CREATE TABLE t ({', '.join(names)})")
    connection.execute(f"INSERT INTO t VALUES ({', '.join(str(i) for i in range(1500))})")
    connection.execute("INSERT INTO t (c7) VALUES ('odd')")
    connection.close()
    keep = Conversion(to="bigint", integers="keep")
    columns = tuple(LoadColumn(source=name, target=name, conversion=keep) for name in names)
    step = Load(does="", table="t", schema="public", target="t", columns=columns, rowid="rowid")
    for old in (False, True):
        (batch,) = read(path, step, old=old)
        assert batch.data == b",".join(b"%d" % i for i in range(1500)) + b"\n"
        assert [row.column for row in batch.refused] == ["c7"]


def test_tables_without_rowid(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE t (id, v, PRIMARY KEY (id, v)) WITHOUT ROWID")
    connection.executemany("INSERT INTO t VALUES (?, ?)", [(i, f"v{i}") for i in range(1000)])
    connection.execute("INSERT INTO t VALUES (2000, x'ff')")
    connection.execute("INSERT INTO t VALUES ('odd', 'x')")
    connection.close()
    step = load(Conversion(to="text", texts="keep"), rowid="", key=("id", "v"), rows=1002, bytes=1002 * 100_000)
    batches = read(path, step)
    assert len(batches) > 10
    assert [(row.key, row.column) for batch in batches for row in batch.refused] == [
        ((2000, b"\xff"), "v"),
        (("odd", "x"), "id"),
    ]
    assert target.load(step, batches) == {i: f"v{i}" for i in range(1000)}


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le"])
@pytest.mark.parametrize("rowid", ["id", ""])
def test_shares_together_are_what_each_is_alone(native: bool, encoding: str, rowid: str, tmp_path: Path) -> None:
    """One read gives each share the rows, in their order, and the refusals that a read of its own gives."""
    path = tmp_path / "x.db"
    values = [None if n % 7 == 0 else f"v{n}" for n in range(2000)] + [b"\xff", 1.5, 9, "é" * 9, b"\xc3\xa9"] * 200
    connection = apsw.Connection(str(path))
    connection.execute(f"PRAGMA encoding = '{encoding}'")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
    connection.executemany("INSERT INTO t VALUES (?, ?)", list(enumerate(values)))
    connection.close()
    shares = ("(s.id%5=1 OR s.id%5=3) IS NOT TRUE", "s.id%5=1", "s.id%5=3", "s.id<0")
    conversion = Conversion(to="text", integers="text", texts="keep", blobs="text")
    step = load(conversion, rowid=rowid, rows=3000, bytes=300_000)
    with SqliteSource(str(path)).snapshot(1) as (reader,):
        make_ = pgcopy.encoder if native else _by_sql
        together = list(make_(step, reader, encoding, shares).batches(reader, Range()))
        for share, where in enumerate(shares):
            alone = list(make_(dataclasses.replace(step, where=where), reader, encoding).batches(reader, Range()))
            assert _all_of(each for each in together if each.share == share) == _all_of(alone)
    assert {each.share for each in together} == {0, 1, 2}
    assert sum(each.rows + len(each.refused) for each in together) == 3000
    assert sum(len(each.refused) for each in together) >= 400


def _by_sql(step: Load, reader: SqliteReader, encoding: str, shares: Sequence[str] = ()) -> Encoder:
    return Encoder(step, reader.library, reader.function_arguments, encoding=encoding, shares=shares)


def _all_of(batches: Iterable[Batch]) -> tuple[bytes, bytes, int, list[Refused]]:
    found = list(batches)
    data, rest = b"".join(each.data for each in found), b"".join(each.rest for each in found)
    if not any(each.binary for each in found):
        data = b"".join(sorted(data.splitlines(keepends=True)))  # rows that Python writes come after their batch
    return data, rest, sum(each.rows for each in found), [row for each in found for row in each.refused]


def test_a_row_alone_is_of_its_share(tmp_path: Path) -> None:
    """A source that refuses to make a batch is asked for one row at a time, and for whose it is."""
    make(tmp_path / "x.db", ["a", "b", "c"])
    step = load(Conversion(to="text", texts="keep"), rows=3)
    with SqliteSource(str(tmp_path / "x.db")).snapshot(1) as (reader,):
        encoder = _by_sql(step, reader, "UTF-8", ("(s.id=2) IS NOT TRUE", "s.id=2"))
        rows = reader.rows

        def few(sql: str, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
            if "group_concat" in sql and parameters[0] <= 3:
                raise TooLarge("too much")
            return rows(sql, parameters)

        found = [(each.share, each.data) for each in encoder.batches(cast("Any", SimpleNamespace(rows=few)), Range())]
    assert found == [(0, b"'1','a'\n"), (1, b"'2','b'\n"), (0, b"'3','c'\n")]


def test_singles_find_the_row_that_postgresql_refuses(target: Target, tmp_path: Path) -> None:
    """JSON that SQLite takes and jsonb does not."""
    make(tmp_path / "x.db", ['{"a": 1}', '"\\u0000"', "[2]"])
    step = load(Conversion(to="jsonb", texts="json"))
    with SqliteSource(str(tmp_path / "x.db")).snapshot(1) as (reader,):
        encoder = Encoder(step, reader.library, reader.function_arguments)
        (batch,) = encoder.batches(reader, Range())
        with pytest.raises(psycopg.DataError):
            target.load(step, [batch])
        refused = []
        for row, single in encoder.singles(reader, batch):
            try:
                target.load(step, [single])
            except psycopg.DataError as error:
                refused.append(encoder.refused(row, str(error.diag.message_primary), "v"))
    assert [(row.key, row.raw) for row in refused] == [((2,), b'"\\u0000"')]


def test_collations_do_not_soften_the_tests(target: Target, tmp_path: Path) -> None:
    for declared in ("COLLATE NOCASE", "COLLATE RTRIM", "TEXT", "NUMERIC", "BLOB"):
        conversion = Conversion(to="timestamp", texts="iso", empty="null")
        values = ["2020-01-02T03:04:05", "2020-01-02t03:04:05", "2020-01-02 03:04:05  ", "", "   "]
        found = outcome(target, tmp_path / "x.db", conversion, values, declared=declared)
        assert found[0] == datetime(2020, 1, 2, 3, 4, 5)
        assert found[1] in (REFUSED, datetime(2020, 1, 2, 3, 4, 5))
        assert found[2:] == [REFUSED, None, REFUSED]
