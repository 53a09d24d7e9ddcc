"""The same expression on both databases: equal on every row, or refused."""
# ruff: noqa: E501 - the lists of expressions are wide

from __future__ import annotations

import contextlib
import datetime
import decimal
import math
import os
from collections.abc import Iterator
from typing import Any

import apsw
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbscale.migrate.dialect import Scope, Untranslatable, column_value, table_scope, translate
from dbscale.migrate.model import Choice, SourceColumn
from dbscale.plan import Conversion
from dbscale.schema import quote

EXAMPLES = int(os.environ.get("DBSCALE_TEST_EXAMPLES", "300"))
"""Random expressions to compare; each is asked of both databases."""

COLUMNS = {
    # name: declared type, collation, PostgreSQL's type, conversion
    "id": ("INTEGER", "BINARY", "bigint", Conversion(to="bigint", integers="keep")),
    "i": ("INTEGER", "BINARY", "bigint", Conversion(to="bigint", integers="keep")),
    "j": ("INT", "BINARY", "bigint", Conversion(to="bigint", integers="keep")),
    "r": ("REAL", "BINARY", "double precision", Conversion(to="double precision", integers="keep", reals="keep")),
    "n": ("DECIMAL(10,2)", "BINARY", "numeric", Conversion(to="numeric", integers="keep", reals="shortest")),
    "s": ("TEXT", "BINARY", "text", Conversion(to="text", texts="keep")),
    "k": ("VARCHAR(20)", "BINARY", "varchar(20)", Conversion(to="varchar(20)", texts="keep")),
    "u": ("TEXT", "NOCASE", "text", Conversion(to="text", texts="keep")),
    "v": ("TEXT", "RTRIM", "text", Conversion(to="text", texts="keep")),
    "b": ("BOOLEAN", "BINARY", "boolean", Conversion(to="boolean", integers="bool")),
    "d": ("DATE", "BINARY", "date", Conversion(to="date", texts="iso")),
    "ts": ("DATETIME", "BINARY", "timestamp", Conversion(to="timestamp", texts="iso")),
    "x": ("BLOB", "BINARY", "bytea", Conversion(to="bytea", blobs="keep")),
    "js": ("JSON", "BINARY", "jsonb", Conversion(to="jsonb", texts="json")),
    "odd name %s": ("INTEGER", "BINARY", "bigint", Conversion(to="bigint", integers="keep")),
}
# Whole numbers stay below 2**53: beside a real number PostgreSQL compares larger ones as real ones, SQLite exactly.
ROWS = (
    (1, 10, 3, 1.5, 10, "Apple", "apple", "APPLE", "a", 1, "2024-01-31", "2024-01-31 23:59:59", b"\x00\xff",
     '{"a": 5, "b": "x", "c": {"d": [1, 2]}, "e": true}', 1),
    (2, -7, 0, -0.25, 0.1, "banana", "Banana", "banana", "a  ", 0, "2020-02-29", "2020-02-29 00:00:00", b"abc",
     '{"a": 5.5, "b": "5", "c": null}', 2),
    (3, 0, 5, 0.0, 19.99, "", "", "", " a", None, "1999-12-31", "1999-12-31 12:30:00", b"", "[1, 2, 3]", 3),
    (4, None, None, None, None, None, None, None, None, None, None, None, None, None, None),
    (5, 5, 2, 2.0, -3, "Éclair %s_x", "éclair", "É", "A", 1, "2024-02-01", "2024-02-01 08:05:09", b"\xe9", '"x"', 5),
    (6, 1, 1, 1e10, 100.5, "a_b%c\\d", "A_B", "a_b%", "b", 0, "2023-03-01", "2023-03-01 00:00:01", b"a", "5", 6),
    (7, 4503599627370497, 64, 0.1, 1, "it's", "ZZ", "it''s", "", 1, "2024-12-31", "2024-12-31 23:00:00", b"Z",
     '{"a": "5", "b": false}', 7),
    (8, 65, -64, -1.5, 2.5, "10", "10", "  padded  ", "10", 0, "2024-01-01", "2024-01-01 00:00:00", b"10", "{}", 8),
)  # fmt: skip


def scope(*, immutable: bool = True, aggregates: bool = False) -> Scope:
    values = {
        name: column_value(
            SourceColumn(name=name, declared=declared, collation=collation),
            Choice(type=type_, conversion=conversion),
            quote(name),
        )
        for name, (declared, collation, type_, conversion) in COLUMNS.items()
    }
    made = table_scope(values, rowid="id")
    return Scope(columns=made.columns, tables={"t": made.columns}, immutable=immutable, aggregates=aggregates)


class Pair:
    """One table in both databases."""

    def __init__(self, url: str) -> None:
        self.sqlite = apsw.Connection(":memory:")
        self.postgres = psycopg.connect(url, autocommit=True)
        declared = ", ".join(f"{quote(name)} {own[0]} COLLATE {own[1]}" for name, own in COLUMNS.items())
        self.sqlite.execute(f"CREATE TABLE t ({declared.replace('INTEGER COLLATE BINARY', 'INTEGER PRIMARY KEY', 1)})")
        marks = ", ".join("?" for _ in COLUMNS)
        self.sqlite.executemany(f"INSERT INTO t VALUES ({marks})", ROWS)
        typed = ", ".join(f"{quote(name)} {own[2]}" for name, own in COLUMNS.items())
        self.postgres.execute(f"CREATE TABLE t ({typed})")  # type: ignore[call-overload]
        bool_at = list(COLUMNS).index("b")
        for row in ROWS:
            given = [
                None if value is None else bool(value) if place == bool_at else value for place, value in enumerate(row)
            ]
            with self.postgres.cursor() as cursor:
                cursor.execute(f"INSERT INTO t VALUES ({', '.join('%s' for _ in given)})", given)  # type: ignore[call-overload]

    def ask_sqlite(self, expression: str, tail: str = "ORDER BY t.id") -> list[Any]:
        return [row[0] for row in self.sqlite.execute(f"SELECT {expression} FROM t {tail}")]

    def ask_postgres(self, sql: str, tail: str = "ORDER BY t.id") -> list[Any]:
        # No parameters are given, so that psycopg leaves % and ? alone, as it does with a plan's SQL.
        return [plain(row[0]) for row in self.postgres.execute(f"SELECT {sql} FROM t {tail}")]  # type: ignore[call-overload]


def plain(value: Any) -> Any:
    """A value of PostgreSQL's as SQLite would hold it."""
    match value:
        case bool():
            return int(value)
        case decimal.Decimal():
            return float(value)
        case datetime.datetime():
            return value.isoformat(sep=" ")
        case datetime.date() | datetime.time():
            return value.isoformat()
        case memoryview():
            return bytes(value)
    return value


EQUAL = r"""
i = 10 ¦ i == 10 ¦ i <> 10 ¦ i != 10 ¦ i IS 10 ¦ i IS NOT 10 ¦ i IS NULL ¦ i NOTNULL ¦ i IS NOT NULL ¦ i ISNULL
i IS NOT DISTINCT FROM j ¦ i IS DISTINCT FROM j ¦ i IS j ¦ i IN (1, 5, NULL) ¦ i NOT IN (1, 5) ¦ i IN () ¦ i NOT IN ()
i > '5' ¦ i = '10' ¦ s = 10 ¦ s > 'b' ¦ s < 'a' ¦ s = 'Apple' ¦ s >= k ¦ s BETWEEN 'A' AND 'b' ¦ i BETWEEN 0 AND 10
i NOT BETWEEN 0 AND j ¦ r > 0.1 ¦ r = 0.1 ¦ n = 19.99 ¦ n > 0.1 ¦ n BETWEEN 0.1 AND 19.99 ¦ n <> 10 ¦ i < r ¦ r = i
u = 'APPLE' ¦ u IN ('APPLE', 'zz') ¦ u > 'B' ¦ u = s ¦ s = u ¦ s = u COLLATE NOCASE ¦ v = 'a' ¦ v <> 'a' ¦ v >= 'a'
u COLLATE BINARY = 'apple' ¦ s COLLATE NOCASE = 'apple' ¦ s COLLATE RTRIM = 'x' ¦ u IS 'BANANA' ¦ u < k
i + j ¦ i - j ¦ j * 3 ¦ j / 2 ¦ i / j ¦ j % 3 ¦ i % j ¦ -j ¦ +j ¦ ~j ¦ - - j ¦ j * -2 ¦ 86400 * 1000 * 1000 + j
r + 1 ¦ r * 2 ¦ r / 2 ¦ i / 2.0 ¦ r / 0 ¦ i / 0 ¦ i % 0 ¦ n + 1 ¦ n * 2 ¦ n / 2.0 ¦ r - n ¦ j + r ¦ -n ¦ -r ¦ abs(n)
j & 3 ¦ j | 4 ¦ j << 2 ¦ j >> 1 ¦ j & 1 = 1 ¦ j << 0 ¦ (j & 6) >> 1 ¦ 1 << 40
s || k ¦ i || 'x' ¦ s || i ¦ 'a' || NULL ¦ b || 'x' ¦ s || k || i ¦ (i > 3) || '' ¦ j || '' = '3'
i > 3 AND j < 4 ¦ i > 3 OR j IS NULL ¦ NOT i ¦ NOT (i > 3) ¦ NOT i > 3 ¦ i AND j ¦ r OR b ¦ NOT b ¦ b AND 1 ¦ 0 OR j
b ¦ b = 1 ¦ b = 0 ¦ b <> 0 ¦ b IS 1 ¦ b IN (0, 1) ¦ b IN (1) ¦ b + 1 ¦ b > 0 ¦ NOT b = 1 ¦ b IS NULL ¦ b == TRUE ¦ b IS TRUE
b IS NOT TRUE ¦ b IS FALSE ¦ i IS TRUE ¦ i IS NOT FALSE ¦ b * i ¦ b = (i > 3) ¦ (i > 3) = 1 ¦ (i > 3) + 1 ¦ TRUE ¦ i = FALSE
b BETWEEN 0 AND 1 ¦ -b ¦ b = b ¦ b < 1 ¦ 1 = b ¦ 0 <> b
s LIKE 'a%' ¦ s LIKE 'A%' ¦ s LIKE '%É%' ¦ s LIKE '%é%' ¦ s NOT LIKE 'a%' ¦ s LIKE 'a_b%' ¦ s LIKE '%\%' ¦ i LIKE '1%'
s LIKE 'a!_b!%c%' ESCAPE '!' ¦ s LIKE 'a\_b\%%' ESCAPE '\' ¦ s LIKE k ¦ s LIKE u || '%' ¦ s LIKE '' ¦ NOT s LIKE '%a%'
s GLOB 'A*' ¦ s GLOB 'a*' ¦ s GLOB '[a-z]*' ¦ s GLOB '[^a-z]*' ¦ s GLOB '?pp*' ¦ s NOT GLOB 'a*' ¦ s GLOB '*_b%*' ¦ i GLOB '1*'
s GLOB '*\*' ¦ s GLOB '[0-9][0-9]' ¦ s GLOB '*[%]*' ¦ s GLOB '*.*' ¦ s GLOB '[]x]*' ¦ s GLOB '[A-Z]*' ¦ s GLOB '[É]*'
ifnull(i, 0) ¦ coalesce(i, j, 7) ¦ ifnull(s, '') ¦ iif(i > 3, 'a', 'b') ¦ iif(i, j, 0) ¦ nullif(i, 5) ¦ nullif(s, 'banana')
nullif(u, 'APPLE') ¦ ifnull(b, 0) ¦ coalesce(b, 1) ¦ ifnull(r, 0) ¦ ifnull(n, 0) ¦ ifnull(NULL, s) ¦ iif(b, 1, 0) ¦ coalesce(s, u)
CASE i WHEN 10 THEN 'ten' WHEN 5 THEN 'five' ELSE 'other' END ¦ CASE WHEN i > 3 THEN i END ¦ CASE u WHEN 'APPLE' THEN 1 END
CASE WHEN b THEN 'yes' ELSE 'no' END ¦ CASE WHEN i THEN 1 ELSE 0 END ¦ CASE b WHEN 1 THEN 'on' WHEN 0 THEN 'off' END
lower(hex(x)) ¦ hex(x) || lower(hex(x)) ¦ length(s) ¦ length(i) ¦ length(x) ¦ length(b) ¦ length('') ¦ lower(s) ¦ upper(s) ¦ upper(u) ¦ trim(k) ¦ ltrim(k) ¦ rtrim(k)
trim(k, 'a ') ¦ ltrim(s, 'Aa') ¦ rtrim(s, 'ae') ¦ replace(s, 'a', 'b') ¦ replace(s, '', 'x') ¦ replace(s, '%s', '$1')
substr(s, 2) ¦ substr(s, 1, 3) ¦ substr(s, -3) ¦ substr(s, -3, 2) ¦ substr(s, 0, 2) ¦ substr(s, -10, 8) ¦ substr(s, 3, 0)
substr(i, 1, 1) ¦ substr(s, j) ¦ substr(s, 1, instr(s, 'a') - 1) ¦ substr(s, instr(s, 'a') + 1) ¦ substr(s, 0) ¦ substring(s, 2, 2)
instr(s, 'a') ¦ instr(s, '') ¦ instr(s, k) ¦ instr(i, 1) ¦ hex(x) ¦ unicode(s) ¦ char(65, 66) ¦ char(233) ¦ sign(i) ¦ sign(r)
abs(i) ¦ abs(r) ¦ abs(-3) ¦ round(i) ¦ max(i, j) ¦ min(i, j) ¦ max(i, 5, j) ¦ min(s, k) ¦ max(s, 'b') ¦ max(r, 1.5)
printf('%05d', i) ¦ printf('%02d:%02d', j, i) ¦ printf('<%03d>', -7) ¦ printf('%01d', i) ¦ printf('%d-%s', i, s) ¦ printf('%%') ¦ format('x%dy', j) ¦ printf('%s', i) ¦ printf('a:b ? $1 %s', s)
cast(i AS TEXT) ¦ cast(r AS INTEGER) ¦ cast(n AS INTEGER) ¦ cast(i AS REAL) ¦ cast(i AS REAL) / 4 ¦ cast(s AS TEXT) ¦ cast(b AS INTEGER)
cast(i AS NUMERIC) ¦ cast(j AS INT) ¦ cast(NULL AS INTEGER) ¦ cast(i AS VARCHAR(10)) || 'x'
typeof(i) ¦ typeof(s) ¦ typeof(r) ¦ typeof(x) ¦ typeof(i) = 'integer' ¦ typeof(s) <> 'text' ¦ typeof(i) IN ('integer', 'null')
typeof(r) = 'real' ¦ typeof(i) = 'text' ¦ typeof(s) IN ('text') ¦ typeof(NULL)
"quoted text" ¦ s = "Apple" ¦ "s" ¦ "no such column %s" || s ¦ "it's" ¦ s = "it's" ¦ [i] ¦ `i` ¦ t.i ¦ "t"."i"
'a%b:x ? $1 %(y)s' ¦ '%' ¦ ':x' ¦ '''' ¦ 'back\slash' ¦ "odd name %s" + 1 ¦ [odd name %s] = 5 ¦ x'00ff' ¦ x = x'616263' ¦ x <> x'' ¦ x'' = x'00'
0x10 ¦ 1e3 ¦ .5 ¦ 9223372036854775807 ¦ -9223372036854775808 ¦ 1_000 ¦ 5 - -3 ¦ - 5 ¦ 3.0
rowid ¦ _rowid_ + 1 ¦ oid = id
d = '2024-01-31' ¦ d > '2020-02-29' ¦ d BETWEEN '2020-01-01' AND '2024-01-31' ¦ d IN ('2024-01-31', '1999-12-31') ¦ d IS NOT NULL
ts > '2020-02-29 00:00:00' ¦ ts >= '2024-01-01' ¦ ts < '2024-01-01' ¦ ts = '2024-01-31 23:59:59' ¦ ts IS NULL ¦ '2024-01-01' <= ts
date(ts) ¦ date(ts) = '2024-01-31' ¦ datetime(ts) ¦ time(ts) ¦ date(d) ¦ datetime(d) ¦ date(ts, '+1 day') ¦ date(d, '+1 month')
date(d, '-1 month') ¦ date(d, '+12 months') ¦ date(d, '+1 year') ¦ date(d, '-4 years') ¦ date(ts, 'start of month') ¦ date(d, '+1 month', '-1 day')
datetime(ts, '+90 minutes') ¦ datetime(ts, 'start of day', '+3 hours') ¦ datetime(d, 'start of year') ¦ unixepoch(ts) ¦ julianday(ts)
julianday(ts) - julianday(d) ¦ strftime('%s', ts) ¦ strftime('%w', d) ¦ unixepoch(d) - unixepoch(ts) ¦ datetime(i, 'unixepoch') > '1970-01-01 00:00:01'
ts > datetime(d) ¦ date(ts, '-30 days') < d
js -> 'a' IS NULL ¦ js ->> 'a' = 5 ¦ js ->> '$.b' = 'x' ¦ json_extract(js, '$.b') = '5' ¦ json_extract(js, '$.c.d[1]') = 2
json_extract(js, '$.a') <> 5 ¦ js ->> 'b' IN ('x', '5') ¦ json_extract(js, '$.zzz') IS NULL ¦ json_extract(js, '$.c') IS NOT NULL ¦ js IS NULL
cast(js ->> 'a' AS INTEGER) ¦ CAST(json_extract(js, '$.b') AS INT) ¦ cast(js ->> 'e' AS INTEGER) + 1 ¦ cast(js -> 'c' ->> 'd' AS INTEGER) ¦ cast(json_extract(js, '$.c') AS INTEGER) ¦ cast(json_extract(js, '$[1]') AS INTEGER) >= i
json_valid(js) ¦ js ->> 'a' IS 5 ¦ '5' = js ->> 'a' ¦ js -> 'c' ->> 'd' IS NULL
"""


def listed(text: str) -> list[str]:
    """The expressions of a block."""
    return [part.strip() for line in text.strip().split("\n") for part in line.split(" ¦ ")]


@pytest.fixture(scope="session")
def pair(server: Any) -> Iterator[Pair]:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS test_dialect WITH (FORCE)")
        connection.execute("CREATE DATABASE test_dialect")
    made = Pair(server.url.rsplit("/", 1)[0] + "/test_dialect")
    yield made
    made.postgres.close()


@pytest.mark.parametrize("expression", listed(EQUAL))
def test_gives_the_same_on_both(expression: str, pair: Pair) -> None:
    value = translate(expression, scope(immutable=False))
    assert pair.ask_postgres(value.sql) == pair.ask_sqlite(expression), value.sql


def test_times_held_as_numbers(pair: Pair) -> None:
    """A column of seconds that became timestamptz: SQLite's own reading of it decides what can be told."""
    seconds = SourceColumn(name="at", declared="INTEGER")
    choice = Choice(type="timestamptz", conversion=Conversion(to="timestamptz", integers="s"))
    made = Scope(columns={"at": column_value(seconds, choice, '"at"')}, immutable=False)
    assert translate("datetime(at, 'unixepoch')", made).sql == "date_trunc('second', (\"at\" AT TIME ZONE 'utc'))"
    assert translate("at IS NOT NULL", made).sql == '"at" IS NOT NULL'
    for expression in ("date(at)", "at > '2024-01-01 00:00:00'", "at > 1700000000", "strftime('%Y', at)", "at + 1"):
        with pytest.raises(Untranslatable):
            translate(expression, made)


JSON_VALUES = ("5", "-5.9", "5.999999", "1e3", "1e30", "-1e30", "9223372036854775807", "-9223372036854775808",
               "99999999999999999999", "true", "false", "null", "[5]", "{}", '""', '" 12abc"', '"+7"', '"-8.9"', '"- 8"',
               '"\\t9"', '"1e3"', '"0x10"', '"99999999999999999999"', '"\u0665"', '"가"')  # fmt: skip


@pytest.mark.parametrize("json", JSON_VALUES)
def test_a_value_out_of_json_as_a_whole_number(json: str, pair: Pair) -> None:
    document = '{"a": ' + json + "}"
    sql = translate("CAST(json_extract(js, '$.a') AS INTEGER)", scope()).sql.replace('"js"', "doc")
    ours = pair.postgres.execute(f"SELECT {sql} FROM (SELECT %b::jsonb AS doc) x".encode(), [document]).fetchone()
    theirs = next(pair.sqlite.execute("SELECT CAST(json_extract(?, '$.a') AS INTEGER)", [document]))
    assert ours == theirs


def test_text_keeps_every_character(pair: Pair) -> None:
    text = "tab\there\nline\r 'quoted' \\ back % %s ? $1 :x é😀"
    expression = "'" + text.replace("'", "''") + "'"
    assert pair.ask_postgres(translate(expression, scope()).sql) == [text] * len(ROWS)


REFUSED = r"""
i = s ¦ s + 1 ¦ 'a' > 1 ¦ x = 'abc' ¦ s AND 1 ¦ NOT s ¦ CASE WHEN s THEN 1 END ¦ r || '' ¦ n || '' ¦ n / 4 ¦ n / j ¦ r % 2 ¦ ts || ''
s MATCH 'x' ¦ s REGEXP 'x' ¦ s GLOB k ¦ s LIKE 'a' ESCAPE 'ab' ¦ s LIKE 'aa' ESCAPE 'a' ¦ s LIKE 'x!' ESCAPE '!' ¦ s GLOB '[a'
ifnull(i, '') ¦ coalesce(s, 0) ¦ iif(b, 'x', 1) ¦ CASE WHEN b THEN s ELSE i END ¦ max(i, s) ¦ min(u, 'x') ¦ max(i, r)
cast(s AS INTEGER) ¦ cast(r AS TEXT) ¦ cast(x AS TEXT) ¦ round(r) ¦ round(n, 2) ¦ printf('%.2f', r) ¦ printf('%5d', i) ¦ printf(s, i)
substr(s, 2, -1) ¦ substr(s, 2, j) ¦ instr(x, 'a') ¦ char(i) ¦ char(0) ¦ quote(s) ¦ soundex(s) ¦ zeroblob(3) ¦ likely(i) ¦ my_function(i)
date(s) ¦ datetime(i) ¦ date(ts, 'localtime') ¦ date(ts, 'weekday 0') ¦ date(ts, s) ¦ strftime('%W', ts) ¦ strftime(s, ts)
ts > '2024-01-01' ¦ ts = '2024-01-01' ¦ ts <= '2024-01-01' ¦ ts = 5 ¦ ts > 'now' ¦ d = 'today' ¦ d = '2024-02-30' ¦ d > '2024' ¦ ts > '2024-01-01T00:00:00' ¦ d = ts
js = '{}' ¦ js ->> 'a' > 5 ¦ js ->> 'a' = 1 ¦ js ->> 'e' = '[1]' ¦ json_extract(s, '$.a') ¦ json_extract(js, s) ¦ json_extract(js, '$[#-1]') ¦ js || 'x' ¦ json_valid(s)
nothere ¦ nothere.i ¦ t.nothere ¦ count(*) ¦ sum(i) ¦ (SELECT 1) ¦ EXISTS (SELECT 1) ¦ i IN (SELECT 1) ¦ i IN other ¦ (i, j) = (1, 2) ¦ s COLLATE unicase = 'x'
i << j ¦ i << 64 ¦ r & 1 ¦ ~r ¦ i + ¦ i = = 3 ¦ ? ¦ ?1 ¦ :x ¦ @x ¦ $x ¦ i; DROP TABLE t ¦ i) ¦ 'open ¦ "open ¦ raise(abort, 'x') ¦ -s ¦ abs(s) ¦ b = 'true' ¦ char(55296)
current_timestamp ¦ current_date ¦ date('now') ¦ random() ¦ strftime('%Y', ts) ¦ hex(s) ¦ d || ''
"""


@pytest.mark.parametrize("expression", listed(REFUSED))
def test_is_refused_with_a_reason(expression: str) -> None:
    """For an index or a CHECK; the last line's would do in a view."""
    with pytest.raises(Untranslatable) as caught:
        translate(expression, scope(immutable=True))
    assert caught.value.reason


IN_A_VIEW = r"""
printf('%,d', i) ¦ printf('%,d|%,d', j * 1000003, -j) ¦ strftime('%Y', ts) ¦ strftime('%Y-%m', ts) ¦ strftime('%d.%m.%Y %H:%M:%S', ts) ¦ strftime('%j', d) ¦ strftime('week of %Y "q" %%', d)
strftime('%Y-%m-%dT%H:%M:%fZ', ts) ¦ hex(s) ¦ d || '' ¦ 'on ' || date(ts) ¦ datetime(ts) || 'Z' ¦ substr(d, 1, 4) ¦ d LIKE '2024%' ¦ length(date(ts))
"""


@pytest.mark.parametrize("expression", listed(IN_A_VIEW))
def test_gives_the_same_in_a_view(expression: str, pair: Pair) -> None:
    value = translate(expression, scope(immutable=False))
    assert pair.ask_postgres(value.sql) == pair.ask_sqlite(expression), value.sql


AGGREGATES = r"""
count(*) ¦ count(i) ¦ count(DISTINCT b) ¦ count(DISTINCT u) ¦ sum(i) ¦ sum(b) ¦ sum(r) ¦ total(i) ¦ avg(j) ¦ min(s) ¦ max(s) ¦ min(d) ¦ max(ts) ¦ max(b) ¦ min(b)
total(NULL) ¦ sum(i > 3) ¦ avg(b) ¦ max(i) - min(i) ¦ sum(j) * 1.0 / count(j) ¦ count(i) FILTER (WHERE i > 3) ¦ sum(j) FILTER (WHERE b) ¦ group_concat(DISTINCT b)
count(CASE WHEN b THEN 1 END) ¦ ifnull(sum(NULL), 0) ¦ max(length(s)) ¦ sum(n) > 10 ¦ min(r) ¦ total(j) FILTER (WHERE j > 100)
"""


@pytest.mark.parametrize("expression", listed(AGGREGATES))
def test_aggregates_the_same(expression: str, pair: Pair) -> None:
    value = translate(expression, scope(immutable=False, aggregates=True))
    ours, theirs = pair.ask_postgres(value.sql, ""), pair.ask_sqlite(expression, "")
    if expression == "group_concat(DISTINCT b)":
        ours, theirs = [sorted(str(ours[0]).split(","))], [sorted(str(theirs[0]).split(","))]
    assert ours == theirs, value.sql


@pytest.mark.parametrize("expression", [e for e in listed(EQUAL) if "unixepoch'" not in e])
def test_can_stand_in_an_index(expression: str, pair: Pair) -> None:
    """What is translated for an index is immutable in PostgreSQL's own eyes."""
    value = translate(expression, scope(immutable=True))
    with pair.postgres.transaction(force_rollback=True):
        pair.postgres.execute("CREATE TABLE fresh (LIKE t)")
        type_ = pair.postgres.execute(f"SELECT pg_typeof({value.sql}) FROM t LIMIT 1").fetchone()  # type: ignore[call-overload]
        assert type_ is not None
        if type_[0] != "unknown":
            pair.postgres.execute(
                f"ALTER TABLE fresh ADD COLUMN made {type_[0]} GENERATED ALWAYS AS ({value.sql}) STORED"
            )  # type: ignore[call-overload]


# -- expressions at random -------------------------------------------------------------------------------------

_ATOMS = st.sampled_from(
    ["id", "i", "j", "r", "n", "s", "k", "u", "v", "b", "d", "ts", "x", "js", "0", "1", "2", "-3", "0.5", "5", "NULL",
     "'a'", "'Apple'", "''", "'10'", "'%a_'", "'2024-01-31'", "TRUE", "'x'", "x'61'"]
)  # fmt: skip
_BINARY = (
    "=",
    "<>",
    "<",
    ">=",
    "IS",
    "IS NOT",
    "AND",
    "OR",
    "+",
    "-",
    "*",
    "/",
    "%",
    "||",
    "&",
    "|",
    "LIKE",
    "NOT LIKE",
    "==",
    "->>",
)


def _more(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    one = st.sampled_from(
        ["NOT {}", "-{}", "({})", "~{}", "{} IS NULL", "{} COLLATE NOCASE", "length({})", "lower({})", "upper({})", "abs({})",
         "typeof({})", "trim({})", "hex({})", "substr({}, 2)", "substr({}, -2)", "date({})", "CAST({} AS TEXT)",
         "CAST({} AS INTEGER)", "CAST({} AS REAL)", "{} NOTNULL", "{} GLOB '*a*'", "{} IN (1, 0)", "round({})", "datetime({})"]
    )  # fmt: skip
    two = st.sampled_from(
        ["ifnull({}, {})", "nullif({}, {})", "max({}, {})", "min({}, {})", "instr({}, {})", "{} IN ({}, 1)", "iif(b, {}, {})",
         "coalesce({}, {}, 1)", "{} BETWEEN {} AND 5", "CASE WHEN {} THEN {} END", "CASE {} WHEN {} THEN 1 END", "{} IS {}", "substr({}, {})", "replace({}, {}, 'z')"]
    )  # fmt: skip
    return st.one_of(
        st.tuples(inner, st.sampled_from(_BINARY), inner).map(lambda t: f"{t[0]} {t[1]} {t[2]}"),
        st.tuples(inner, st.sampled_from(_BINARY), inner).map(lambda t: f"({t[0]}) {t[1]} ({t[2]})"),
        st.tuples(one, inner).map(lambda t: t[0].format(t[1])),
        st.tuples(two, inner, inner).map(lambda t: t[0].format(t[1], t[2])),
    )


EXPRESSIONS = st.recursive(_ATOMS, _more, max_leaves=6)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(EXPRESSIONS)
def test_any_expression_is_equal_or_refused(pair: Pair, expression: str) -> None:
    try:
        value = translate(expression, scope(immutable=False))
    except Untranslatable:
        return
    if value.kind in ("json", "jsonb", "dynamic"):
        return  # equal as documents, not as text
    try:
        theirs = pair.ask_sqlite(expression)
    except apsw.Error:
        return  # not an expression that a source can hold
    try:
        ours = pair.ask_postgres(value.sql)
    except (psycopg.errors.NumericValueOutOfRange, psycopg.errors.FloatingPointException):
        return  # past 64 bits SQLite goes on in floating point; PostgreSQL says so
    # The two may differ in the last digits of a real number, and SQLite calculates with whole numbers where a
    # decimal column happens to hold one.
    assert all(map(_close, ours, theirs)), f"{value.sql}: {ours} {theirs}"


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-12)
    return bool(one == other)


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=40)
    | st.lists(
        st.sampled_from(
            [
                "i",
                "=",
                "(",
                ")",
                "'a'",
                '"b"',
                ",",
                "CASE",
                "WHEN",
                "END",
                "IN",
                "+",
                "-",
                "||",
                "x'0'",
                "1",
                "NOT",
                "NULL",
                "IS",
            ]
        )
    ).map(" ".join)
)
def test_any_text_is_translated_or_refused(text: str) -> None:
    with contextlib.suppress(Untranslatable):
        assert translate(text, scope()).sql


def test_nesting_without_end_is_refused() -> None:
    with pytest.raises(Untranslatable):
        translate("(" * 100_000 + "1" + ")" * 100_000, scope())


def test_a_long_chain_of_conditions_is_translated(pair: Pair) -> None:
    expression = " OR ".join(f"i = {number}" for number in range(900))
    assert pair.ask_postgres(translate(expression, scope()).sql) == pair.ask_sqlite(expression)
