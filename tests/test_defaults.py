"""Defaults on both databases: the same value for a row that names none, or left out."""
# ruff: noqa: E501 - the SQL is wide

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dbscale.migrate.defaults import Clock, read_clock, translate
from dbscale.migrate.grammar import parse_expression
from dbscale.migrate.model import Choice, SourceColumn
from dbscale.migrate.values import Untranslatable
from dbscale.plan import Conversion
from migrated import migrate
from test_dialect import plain

TEXT, BIGINT = Conversion(to="text", texts="keep"), Conversion(to="bigint", integers="keep")


def sql_of(declared: str, default: str, type_: str, **conversion: Any) -> str:
    choice = Choice(type=type_, conversion=Conversion(to=type_, **conversion))
    return translate(SourceColumn(name="c", declared=declared, default=default), choice)[0]


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as made:
        yield made


CONSTANTS = """
CREATE TABLE t (id INTEGER PRIMARY KEY,
  a TEXT DEFAULT "abc", b TEXT DEFAULT 'x''y', c TEXT DEFAULT abc, d INT DEFAULT '5', e INT DEFAULT "0", f BLOB DEFAULT x'00ff',
  g INTEGER DEFAULT -1, h REAL DEFAULT +1.5, i TEXT DEFAULT "", j TEXT DEFAULT NULL, k BOOL DEFAULT TRUE, l INTEGER DEFAULT (1+2),
  m TEXT DEFAULT '{}', n NUMERIC DEFAULT false, o BOOLEAN DEFAULT 0, p TEXT DEFAULT '100% :x ? $1 %s', q TEXT DEFAULT 5,
  r DECIMAL(10,2) DEFAULT 19.99, s INTEGER DEFAULT 0x10, t INTEGER DEFAULT 9223372036854775807, u TEXT DEFAULT 'back\\slash',
  v TEXT DEFAULT ('a' || 'b'), w INTEGER DEFAULT (length('four')), x DATE DEFAULT '2024-02-29', y REAL DEFAULT 5,
  z INTEGER DEFAULT (-9223372036854775808), aa TEXT DEFAULT ('tab	and' || char(10) || 'line'), bb TEXT DEFAULT 1.5,
  cc INTEGER DEFAULT (abs(-5)), dd TEXT DEFAULT (lower('ABC')), ee REAL DEFAULT 1e3, ff BOOLEAN DEFAULT (1 > 0))
"""


def test_constants_are_the_same(connection: psycopg.Connection[Any], tmp_path: Path) -> None:
    rows = "; INSERT INTO t (x, k, o, r) VALUES ('2024-01-01', 1, 0, 1.25); DELETE FROM t WHERE 0; INSERT INTO t(id) VALUES (7)"
    made = migrate(tmp_path, CONSTANTS + rows, connection)
    assert not made.finding("default-left-out")
    connection.execute('INSERT INTO "t" (id) VALUES (8)')
    ours = [plain(value) for value in made.ask("SELECT * FROM t WHERE id = 8")[0]]
    (theirs,) = made.ask_source("SELECT * FROM t WHERE id = 7")
    assert ours[1:] == list(theirs[1:])


def test_defaults_of_a_boolean() -> None:
    words = {
        "0": "FALSE",
        "1": "TRUE",
        "'true'": "TRUE",
        "'f'": "FALSE",
        "FALSE": "FALSE",
        '"no"': "FALSE",
        "'0'": "FALSE",
    }
    assert {default: sql_of("BOOLEAN", default, "boolean", integers="bool") for default in words} == words
    for default in ("2", "'maybe'", "x'01'", "''"):
        with pytest.raises(Untranslatable):
            sql_of("BOOLEAN", default, "boolean", integers="bool")


@pytest.mark.parametrize(
    ("default", "clock"),
    [
        ("CURRENT_TIMESTAMP", Clock("datetime")),
        ("current_date", Clock("date")),
        ("datetime('now')", Clock("datetime")),
        ("datetime()", Clock("datetime")),
        ("DATETIME('NOW', 'localtime')", Clock("datetime", local=True)),
        ("date('now')", Clock("date")),
        ("time('now')", Clock("time")),
        ("strftime('%s','now')", Clock("s")),
        ("cast(strftime('%s','now') as integer)", Clock("s")),
        ("unixepoch()", Clock("s")),
        ("unixepoch('now') * 1000", Clock("ms")),
        ("strftime('%s', 'now') * 1000", Clock("ms")),
        ("cast(unixepoch('subsec') * 1000 as integer)", Clock("ms")),
        ("cast((julianday('now') - 2440587.5)*86400000 as integer)", Clock("ms")),
        ("CAST((julianday('now') - 2440587.5) * 86400.0 * 1000 AS INTEGER)", Clock("ms")),
        ("cast(round((julianday('now') - 2440587.5)*86400) as int)", Clock("s")),
        ("strftime('%s','now') || substr(strftime('%f','now'),4)", Clock("ms")),
        ("julianday('now')", Clock("julian")),
        ("strftime('%Y-%m-%dT%H:%M:%fZ','now')", Clock("format", "%Y-%m-%dT%H:%M:%fZ")),
        ("datetime('now', '+1 day')", None),
        ("date('2020-01-01')", None),
        ("strftime('%s', created)", None),
        ("random()", None),
    ],
)
def test_forms_of_the_clock(default: str, clock: Clock | None) -> None:
    assert read_clock(parse_expression(default)) == clock


CLOCKS = """
CREATE TABLE t (id INTEGER PRIMARY KEY, keep INTEGER,
  a TEXT DEFAULT CURRENT_TIMESTAMP, b DATETIME DEFAULT (datetime('now')), c INTEGER DEFAULT (strftime('%s','now')),
  d DATE DEFAULT (date('now')), f TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
  g INTEGER DEFAULT (cast((julianday('now') - 2440587.5)*86400000 as integer)), h INTEGER DEFAULT (unixepoch()),
  i TEXT DEFAULT CURRENT_DATE, j TEXT DEFAULT (time('now')), k TIMESTAMP DEFAULT CURRENT_TIMESTAMP, l REAL DEFAULT (julianday('now')),
  m INTEGER DEFAULT (unixepoch('now') * 1000), n TEXT DEFAULT (strftime('%d.%m.%Y', 'now')), o DATE DEFAULT CURRENT_DATE,
  p TEXT DEFAULT (date('now', '+7 days')), q DATETIME DEFAULT (datetime('now', '+1 hour')), r DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')))
"""


def test_clocks_go_on_and_agree(connection: psycopg.Connection[Any], tmp_path: Path) -> None:
    """Both databases fill a row within a few seconds of each other; none of the defaults is frozen."""
    connection.execute("SET TimeZone = 'Asia/Seoul'")
    made = migrate(tmp_path, CLOCKS + "; INSERT INTO t (id) VALUES (1)", connection)
    assert not made.finding("default-left-out")
    connection.execute('INSERT INTO "t" (id) VALUES (2)')
    names = [column.name for column in made.target.schema.table("t").columns]
    ours = dict(zip(names, map(plain, made.ask("SELECT * FROM t WHERE id = 2")[0]), strict=True))
    (row,) = made.ask_source("SELECT * FROM t WHERE id = 1")
    theirs = dict(zip(names, row, strict=True))
    for name in names[2:]:
        one, other = moment(ours[name]), moment(theirs[name])
        assert abs(one - other) <= 120 or abs(abs(one - other) - 86400) <= 120, (name, ours[name], theirs[name])
        if isinstance(theirs[name], str) and name in "afijnp":
            assert re.sub(r"\d", "0", ours[name]) == re.sub(r"\d", "0", theirs[name])
    for (default,) in made.ask("SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef"):
        assert not re.search(r"'\d{4}-\d\d-\d\d", default), default


def moment(value: Any) -> float:
    """Seconds since 1970 of a value in any of the forms."""
    if isinstance(value, float):
        return (value - 2440587.5) * 86400
    if isinstance(value, int):
        return value / 1000 if value > 1e11 else value
    if re.fullmatch(r"\d\d:\d\d:\d\d", value):
        hours, minutes, seconds = map(int, value.split(":"))
        return hours * 3600 + minutes * 60 + seconds
    if re.fullmatch(r"\d\d\.\d\d\.\d{4}", value):
        value = "-".join(reversed(value.split(".")))
    return datetime.datetime.fromisoformat(value).replace(tzinfo=datetime.UTC).timestamp()


def test_epochs_fill_columns_that_became_times(connection: psycopg.Connection[Any]) -> None:
    ms = sql_of("INTEGER", "(unixepoch() * 1000)", "timestamptz", integers="ms")
    assert ms == "now()"
    assert sql_of("DATETIME", "CURRENT_TIMESTAMP", "timestamptz", integers="ms", texts="iso") == "now()"
    assert sql_of("DATETIME", "0", "timestamp", integers="s") == "'1970-01-01 00:00:00.000000'::timestamp"
    with pytest.raises(Untranslatable):
        sql_of("INTEGER", "(unixepoch())", "timestamptz", integers="ms")


def test_local_time_is_remarked_on() -> None:
    column = SourceColumn(name="c", declared="DATETIME", default="datetime('now','localtime')")
    sql, remark = translate(column, Choice(type="timestamp", conversion=Conversion(to="timestamp", texts="iso")))
    assert sql == "LOCALTIMESTAMP"
    assert "time zone" in remark


def test_random_values(connection: psycopg.Connection[Any]) -> None:
    hexadecimal = sql_of("TEXT", "(lower(hex(randomblob(16))))", "text", texts="keep")
    number = sql_of("INTEGER", "(random())", "bigint", integers="keep")
    version_4 = (
        "(lower(hex(randomblob(4))) || '-' || lower(hex(randomblob(2))) || '-4' || substr(lower(hex(randomblob(2))),2) || '-'"
        " || substr('89ab',abs(random()) % 4 + 1, 1) || substr(lower(hex(randomblob(2))),2) || '-' || lower(hex(randomblob(6))))"
    )
    identifier = sql_of("TEXT", version_4, "text", texts="keep")
    found = connection.execute(f"SELECT {hexadecimal}, {number}, {identifier} FROM generate_series(1, 200)").fetchall()  # type: ignore[call-overload]
    assert all(re.fullmatch("[0-9a-f]{32}", row[0]) for row in found)
    assert all(
        re.fullmatch("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", row[2]) for row in found
    )
    assert all(len({row[place] for row in found}) == 200 for place in range(3))
    assert min(row[1] for row in found) < -(1 << 60) < 1 << 60 < max(row[1] for row in found)
    assert sql_of("TEXT", version_4, "uuid", texts="uuid") == "gen_random_uuid()"


@pytest.mark.parametrize(
    ("declared", "default", "type_", "conversion"),
    [
        ("DATETIME", "'now'", "timestamp", {"texts": "iso"}),
        ("DATE", "'today'", "date", {"texts": "iso"}),
        ("DATE", "''", "date", {"texts": "iso"}),
        ("DATETIME", "'0000-00-00 00:00:00'", "timestamp", {"texts": "iso"}),
        ("INTEGER", "CURRENT_TIMESTAMP", "bigint", {"integers": "keep"}),
        ("INTEGER", "'abc'", "bigint", {"integers": "keep"}),
        ("TEXT", "x'00'", "text", {"texts": "keep"}),
        ("JSON", "'{'", "jsonb", {"texts": "json"}),
        ("UUID", "'none'", "uuid", {"texts": "uuid"}),
        ("TEXT", "(my_function())", "text", {"texts": "keep"}),
        ("TEXT", "(SELECT 1)", "text", {"texts": "keep"}),
    ],
)
def test_what_has_no_counterpart_is_left_out(
    declared: str, default: str, type_: str, conversion: dict[str, str]
) -> None:
    with pytest.raises(Untranslatable) as caught:
        sql_of(declared, default, type_, **conversion)
    assert caught.value.reason
