"""Where migrations from SQLite go wrong: one small database a case, and what has to come of it in PostgreSQL.

The letters group them: A numbers and storage classes, B booleans, C dates and times, D text, JSON and UUIDs, E keys,
F foreign keys, G definitions and names. Cases about the state of a file or a server (H) are in test_pitfalls.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One database and its outcome."""

    id: str
    title: str
    sql: str
    options: tuple[str, ...] = ()
    status: int = 0
    same: bool = True
    """Whether the schema is as planned: what the server refuses once the rows are there is missing."""
    says: str = ""
    """In the error, where the status tells of one."""
    types: dict[str, str] = field(default_factory=dict)
    """`table.column` to its type, with `not null`, `default …`, `generated` and `identity` where it has them."""
    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    """A query, with the schema first on the search path, and its rows as text, in any order."""
    has: tuple[str, ...] = ()
    """Parts of definitions of constraints, indexes and views."""
    lacks: tuple[str, ...] = ()
    findings: frozenset[tuple[str, str]] = frozenset()
    """All of them: code and place. What is said of every file is left out."""


def found(*pairs: str) -> frozenset[tuple[str, str]]:
    """`code place` each."""
    return frozenset((code, place) for code, _, place in (pair.partition(" ") for pair in pairs))


UUID = "550e8400-e29b-41d4-a716-446655440000"
LONG = "col_very_long_name_that_exceeds_postgresql_identifier_limit_aaa"

NUMBERS = (
    Case(
        id="A15",
        title="Powers of two as text: of 16 digits the second nearest reads back",
        sql="CREATE TABLE t(a BLOB); INSERT INTO t VALUES (5.9604644775390625e-08), (9007199254740992.0), ('x');",
        types={"t.a": "bytea"},
        rows={
            "SELECT convert_from(a, 'UTF8') FROM t": [("5.960464477539063e-08",), ("9007199254740992.0",), ("x",)],
        },
        findings=found("text-in-blob t.a"),
    ),
    Case(
        id="A01",
        title="Text in an INTEGER column",
        sql="CREATE TABLE t(id INTEGER PRIMARY KEY, qty INTEGER NOT NULL);"
        "INSERT INTO t VALUES (1, 10), (2, 'lots-of-it'), (3, 5);",
        types={"t.id": "bigint not null identity", "t.qty": "text not null"},
        rows={"SELECT * FROM t": [("1", "10"), ("2", "lots-of-it"), ("3", "5")]},
        findings=found("text-in-integer t.qty"),
    ),
    Case(
        id="A02",
        title="Numeric-looking text is converted by SQLite; '', '0x10' and '1_000' are not",
        sql="CREATE TABLE t(a INTEGER); INSERT INTO t VALUES ('12'), (' 12 '), ('1e3'), ('0x10'), ('1_000'), ('');",
        types={"t.a": "text"},
        rows={"SELECT a FROM t": [("12",), ("12",), ("1000",), ("0x10",), ("1_000",), ("",)]},
        findings=found("text-in-integer t.a"),
    ),
    Case(
        id="A03",
        title="Integers beyond four bytes in INT, TINYINT and SMALLINT",
        sql="CREATE TABLE t(a INT, b INTEGER, c TINYINT, d SMALLINT, e MEDIUMINT);"
        "INSERT INTO t VALUES (3000592982016, 3000592982016, 300, 70000, 9000000000);",
        types=dict.fromkeys(("t.a", "t.b", "t.c", "t.d", "t.e"), "bigint"),
        rows={"SELECT * FROM t": [("3000592982016", "3000592982016", "300", "70000", "9000000000")]},
    ),
    Case(
        id="A04",
        title="Integers beyond 64 bits are real numbers in SQLite",
        sql="CREATE TABLE t(a INTEGER, b UNSIGNED_BIG_INT, c 'UNSIGNED BIG INT');"
        "INSERT INTO t VALUES ('9223372036854775808', 18446744073709551615, 18446744073709551615);",
        types=dict.fromkeys(("t.a", "t.b", "t.c"), "double precision"),
        rows={"SELECT a = 2::float8 ^ 63, b = 2::float8 ^ 64, c = 2::float8 ^ 64 FROM t": [("true",) * 3]},
        findings=found(*(f"integer-beyond-64-bits t.{column}" for column in "abc")),
    ),
    Case(
        id="A05",
        title="Real numbers in an INTEGER column",
        sql="CREATE TABLE t(a INTEGER); INSERT INTO t VALUES (1), (3.0), (3.5);",
        types={"t.a": "double precision"},
        rows={"SELECT a FROM t": [("1",), ("3",), ("3.5",)]},
        findings=found("real-in-integer t.a"),
    ),
    Case(
        id="A06",
        title="REAL has eight bytes in SQLite and four in PostgreSQL",
        sql="CREATE TABLE t(a REAL, b FLOAT);"
        "INSERT INTO t VALUES (0.1, 0.1), (16777217, 16777217), (1e-320, 1.7976931348623157e308);",
        types={"t.a": "double precision", "t.b": "double precision"},
        rows={
            "SELECT * FROM t": [("0.1", "0.1"), ("16777217", "16777217"), ("1e-320", "1.7976931348623157e+308")],
        },
    ),
    Case(
        id="A07",
        title="NUMERIC(p,s) does not hold SQLite to anything",
        sql="CREATE TABLE t(a DECIMAL(10,2), b NUMERIC(4,1));"
        "INSERT INTO t VALUES (3.14159, 99.95), (123456789.12, 999.95), ('12345678901234567890.123', 1);",
        types={"t.a": "numeric", "t.b": "numeric"},
        rows={
            "SELECT * FROM t": [("3.14159", "99.95"), ("123456789.12", "999.95"), ("12345678901234567000", "1")],
        },
        findings=found("decimal-rounding t.a", "decimal-rounding t.b"),
    ),
    Case(
        id="A08",
        title="Decimals kept as text",
        sql="CREATE TABLE t(price TEXT, amount DECIMAL_TEXT(10,2));"
        "INSERT INTO t VALUES ('1.10', '1.10'), ('0.30', '100.00');",
        types={"t.price": "text", "t.amount": "text"},
        rows={"SELECT * FROM t": [("1.10", "1.10"), ("0.30", "100.00")]},
        findings=found("type-suggested t.price", "type-suggested t.amount"),
    ),
    Case(
        id="A09",
        title="Infinity; NaN is NULL in SQLite",
        sql="CREATE TABLE t(a REAL, b NUMERIC);"
        "INSERT INTO t VALUES (9e999, 9e999), (-9e999, -9e999), (9e999 - 9e999, 1);",
        types={"t.a": "double precision", "t.b": "double precision"},
        rows={"SELECT * FROM t": [("Infinity", "Infinity"), ("-Infinity", "-Infinity"), (None, "1")]},
        findings=found("text-in-decimal t.b"),
    ),
    Case(
        id="A10",
        title="Names of types that mislead: SQLite goes by parts of them",
        sql="CREATE TABLE t(a CHARINT, b 'FLOATING POINT', c POINT, d STRING, e INTEGER_OR_TEXT,"
        " f 'VARYING CHARACTER(255)', g 'NATIVE CHARACTER(70)', h 'DOUBLE PRECISION', i XBLOBY, j 'TEXT\nN',"
        " k 'LONG VARCHAR', l DATETEXT, m BIGBOOL);"
        "INSERT INTO t VALUES ('003', '1.0', 2.5, '00123', 'EPSG', 1, 1, 1, 1, 1, 1, 1, 1);",
        types={
            "t.a": "bigint",
            "t.b": "bigint",
            "t.c": "double precision",
            "t.d": "text",
            "t.e": "text",
            "t.f": "character varying(255)",
            "t.g": "character varying(70)",
            "t.h": "double precision",
            "t.i": "bigint",
            "t.j": "text",
            "t.k": "text",
            "t.l": "text",
            "t.m": "bigint",
        },
        rows={"SELECT * FROM t": [("3", "1", "2.5", "123", "EPSG", "1", "1", "1", "1", "1", "1", "1", "1")]},
        findings=found("real-in-integer t.c", "number-in-text t.d", "text-in-integer t.e", "mixed-storage t.i"),
    ),
    Case(
        id="A11",
        title="Columns without a type hold anything",
        sql="CREATE TABLE t(a, b, c ANY); INSERT INTO t VALUES (1, 'x', x'00'), ('1', 2.5, NULL);",
        types={"t.a": "text", "t.b": "text", "t.c": "bytea"},
        rows={"SELECT * FROM t": [("1", "x", "\\x00"), ("1", "2.5", None)]},
        findings=found("mixed-storage t.a", "mixed-storage t.b"),
    ),
    Case(
        id="A12",
        title="STRICT tables, and ANY in them",
        sql="CREATE TABLE t(id INTEGER PRIMARY KEY, a ANY, b TEXT, c REAL, d BLOB, e INT) STRICT;"
        "INSERT INTO t VALUES (1, 'x', 'y', 1, x'00', 2);",
        types={
            "t.id": "bigint not null identity",
            "t.a": "text",
            "t.b": "text",
            "t.c": "double precision",
            "t.d": "bytea",
            "t.e": "bigint",
        },
        rows={"SELECT * FROM t": [("1", "x", "y", "1", "\\x00", "2")]},
        findings=found("type-suggested t.d"),
    ),
    Case(
        id="A13",
        title="Keys that differ in SQLite and are equal once they have one type",
        sql="CREATE TABLE t(k TEXT PRIMARY KEY); CREATE TABLE u(k BLOB PRIMARY KEY);"
        "INSERT INTO u VALUES (1), ('1'), (x'31');",
        status=2,
        says="2 values that differ in SQLite are equal as bytea, and this column is a key",
    ),
    Case(
        id="A14",
        title="Integers that a double cannot hold",
        sql="CREATE TABLE t(a INTEGER); INSERT INTO t VALUES (9007199254740993), (9223372036854775807);",
        types={"t.a": "bigint"},
        rows={"SELECT a FROM t": [("9007199254740993",), ("9223372036854775807",)]},
    ),
    Case(
        id="B01",
        title="BOOLEAN that holds words, '' and 2",
        sql="CREATE TABLE t(a BOOLEAN, b BOOL DEFAULT 0, c TINYINT(1));"
        "INSERT INTO t VALUES (1, 0, 1), (0, 1, 0), ('true', 't', 1), ('f', 'yes', 2), ('', NULL, NULL);",
        types={"t.a": "text", "t.b": "boolean default false", "t.c": "bigint"},
        rows={
            "SELECT * FROM t": [
                ("1", "false", "1"),
                ("0", "true", "0"),
                ("true", "true", "1"),
                ("f", "true", "2"),
                ("", None, None),
            ]
        },
        findings=found("empty-text t.a"),
    ),
    Case(
        id="B02",
        title="CHECK (x IN (0, 1)) on what becomes a boolean",
        sql="CREATE TABLE t(d BOOLEAN NOT NULL CHECK (d IN (0,1))); INSERT INTO t VALUES (0), (1);",
        types={"t.d": "boolean not null"},
        rows={"SELECT d FROM t": [("false",), ("true",)]},
        findings=found("check-by-type t.d"),
    ),
    Case(
        id="B03",
        title="Defaults of booleans: 0, 'true', FALSE, and FALSE for a number",
        sql="CREATE TABLE t(a BOOLEAN DEFAULT 0, b BOOLEAN DEFAULT 'true', c BOOL DEFAULT FALSE,"
        " d NUMERIC DEFAULT false); INSERT INTO t DEFAULT VALUES;",
        types={
            "t.a": "boolean default false",
            "t.b": "boolean default true",
            "t.c": "boolean default false",
            "t.d": "numeric default 0",
        },
        rows={"SELECT * FROM t": [("false", "true", "false", "0")]},
    ),
)

TIMES = (
    Case(
        id="C01",
        title="DATETIME with ISO text, seconds, milliseconds and Julian days in one column",
        sql="CREATE TABLE t(id INTEGER PRIMARY KEY, a DATETIME); INSERT INTO t(a) VALUES ('2020-01-02 03:04:05'),"
        "(1577836800), (1577836800000), (2458849.5), ('2020-01-02T03:04:05.678Z'), ('2020-01-02');",
        types={"t.id": "bigint not null identity", "t.a": "timestamp with time zone"},
        rows={
            "SELECT id, a AT TIME ZONE 'UTC' FROM t": [
                ("1", "2020-01-02 03:04:05"),
                ("2", "2020-01-01 00:00:00"),
                ("3", "2020-01-01 00:00:00"),
                ("4", "2020-01-01 00:00:00"),
                ("5", "2020-01-02 03:04:05.678"),
                ("6", "2020-01-02 00:00:00"),
            ]
        },
        findings=found("naive-as-utc t.a", "epoch-as-time t.a"),
    ),
    Case(
        id="C02",
        title="Dates that do not exist, and empty ones",
        sql="CREATE TABLE t(a DATETIME, b DATE); INSERT INTO t VALUES ('0000-00-00 00:00:00', '0000-00-00'),"
        "('', '2020-02-30'), ('1900-01-00', NULL), ('9999-12-31 23:59:59', '0001-01-01');",
        types={"t.a": "text", "t.b": "text"},
        rows={
            "SELECT * FROM t": [
                ("0000-00-00 00:00:00", "0000-00-00"),
                ("", "2020-02-30"),
                ("1900-01-00", None),
                ("9999-12-31 23:59:59", "0001-01-01"),
            ]
        },
        findings=found("not-a-time t.a", "not-a-time t.b"),
    ),
    Case(
        id="C03",
        title="Words that PostgreSQL reads as times",
        sql="CREATE TABLE t(a DATETIME); INSERT INTO t VALUES ('now'), ('today'), ('epoch'), ('allballs');",
        types={"t.a": "text"},
        rows={"SELECT a FROM t": [("now",), ("today",), ("epoch",), ("allballs",)]},
        findings=found("not-a-time t.a"),
    ),
    Case(
        id="C04",
        title="Offsets, and days before months",
        sql="CREATE TABLE t(a TIMESTAMP); INSERT INTO t VALUES ('2020-01-02T03:04:05+05:30'),"
        "('2020-01-02T03:04:05Z'), ('01/02/2020'), ('2/1/2020 5:00 PM');"
        "CREATE TABLE u(a TIMESTAMP); INSERT INTO u SELECT a FROM t WHERE a LIKE '2020%';",
        types={"t.a": "text", "u.a": "timestamp with time zone"},
        rows={
            "SELECT a FROM t": [
                ("2020-01-02T03:04:05+05:30",),
                ("2020-01-02T03:04:05Z",),
                ("01/02/2020",),
                ("2/1/2020 5:00 PM",),
            ],
            "SELECT a AT TIME ZONE 'UTC' FROM u": [("2020-01-01 21:34:05",), ("2020-01-02 03:04:05",)],
        },
        findings=found("not-a-time t.a"),
    ),
    Case(
        id="C05",
        title="Nanoseconds, 24:00, second 60, years beyond 9999 and before 1",
        sql="CREATE TABLE t(a DATETIME); INSERT INTO t VALUES ('2020-01-02 03:04:05.1234567'),"
        "('2020-01-02 24:00:00'), ('2020-01-02 03:04:60'), ('10000-01-01'), ('-4713-11-24 12:00:00'),"
        "('2023-08-28 07:39:20.062750226+00:00'); CREATE TABLE u(a DATETIME);"
        "INSERT INTO u VALUES ('2020-01-02 03:04:05.1234567'), ('2023-08-28 07:39:20.0627495');",
        types={"t.a": "text", "u.a": "timestamp without time zone"},
        rows={
            "SELECT a FROM t": [
                ("2020-01-02 03:04:05.1234567",),
                ("2020-01-02 24:00:00",),
                ("2020-01-02 03:04:60",),
                ("10000-01-01",),
                ("-4713-11-24 12:00:00",),
                ("2023-08-28 07:39:20.062750226+00:00",),
            ],
            "SELECT a FROM u": [("2020-01-02 03:04:05.123457",), ("2023-08-28 07:39:20.06275",)],
        },
        findings=found("not-a-time t.a", "time-rounded u.a"),
    ),
    Case(
        id="C06",
        title="Times of day, dates written as numbers, durations",
        sql="CREATE TABLE t(a TIME, b DATE, c DATE, d TEXT);"
        "INSERT INTO t VALUES ('12:30', 20200102, '2020-1-2', '1.02:03:04.0000000');",
        types={"t.a": "time without time zone", "t.b": "date", "t.c": "text", "t.d": "text"},
        rows={"SELECT * FROM t": [("12:30:00", "2020-01-02", "2020-1-2", "1.02:03:04.0000000")]},
        findings=found("epoch-as-time t.b", "not-a-time t.c"),
    ),
    Case(
        id="C07",
        title="Numbers that may be times, of three epochs",
        sql="CREATE TABLE t(created_at INTEGER, last_visit_time INTEGER, ZCREATIONDATE TIMESTAMP);"
        "INSERT INTO t VALUES (1703073600, 13307547600000000, 671234567.25);",
        types={"t.created_at": "bigint", "t.last_visit_time": "bigint", "t.ZCREATIONDATE": "double precision"},
        rows={"SELECT * FROM t": [("1703073600", "13307547600000000", "671234567.25")]},
        findings=found(
            "type-suggested t.created_at", "type-suggested t.last_visit_time", "ambiguous-epoch t.ZCREATIONDATE"
        ),
    ),
)

KEPT_APART = (
    "SELECT row_key, column_name, raw FROM dbscale.quarantine WHERE run_id = (SELECT max(id) FROM dbscale.runs)"
)
NUL = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT); INSERT INTO t(a) VALUES ('a' || char(0) || 'b'), ('ok');"
BROKEN = (
    "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT); INSERT INTO t(a) VALUES (CAST(x'66696c6596' AS TEXT)),"
    "(CAST(x'eda080' AS TEXT)), (CAST(x'c080' AS TEXT)), ('ok');"
)

TEXTS = (
    Case(id="D01", title="NUL in text", sql=NUL, status=2, says="--on-invalid-text replace, bytea or quarantine"),
    Case(
        id="D01-replace",
        title="NUL in text, replaced",
        sql=NUL,
        options=("--on-invalid-text", "replace"),
        types={"t.id": "bigint not null identity", "t.a": "text"},
        rows={"SELECT * FROM t": [("1", "a\ufffdb"), ("2", "ok")]},
        findings=found("nul-in-text t.a"),
    ),
    Case(
        id="D01-bytea",
        title="NUL in text, as bytes",
        sql=NUL,
        options=("--on-invalid-text", "bytea"),
        types={"t.id": "bigint not null identity", "t.a": "bytea"},
        rows={"SELECT * FROM t": [("1", "\\x610062"), ("2", "\\x6f6b")]},
        findings=found("nul-in-text t.a"),
    ),
    Case(
        id="D01-quarantine",
        title="NUL in text, set apart",
        sql=NUL,
        options=("--on-invalid-text", "quarantine"),
        status=1,
        types={"t.id": "bigint not null identity", "t.a": "text"},
        rows={
            "SELECT * FROM t": [("2", "ok")],
            KEPT_APART: [('{"id": 1}', "a", "\\x610062")],
        },
        findings=found("nul-in-text t.a"),
    ),
    Case(id="D02", title="Broken UTF-8", sql=BROKEN, status=4, says="--on-invalid-text replace, bytea or quarantine"),
    Case(
        id="D02-replace",
        title="Broken UTF-8, replaced",
        sql=BROKEN,
        options=("--on-invalid-text", "replace"),
        types={"t.id": "bigint not null identity", "t.a": "text"},
        rows={
            "SELECT * FROM t": [("1", "file\ufffd"), ("2", "\ufffd\ufffd\ufffd"), ("3", "\ufffd\ufffd"), ("4", "ok")],
        },
        findings=found("broken-utf8 t.a"),
    ),
    Case(
        id="D02-bytea",
        title="Broken UTF-8, as bytes",
        sql=BROKEN,
        options=("--on-invalid-text", "bytea"),
        types={"t.id": "bigint not null identity", "t.a": "bytea"},
        rows={"SELECT * FROM t": [("1", "\\x66696c6596"), ("2", "\\xeda080"), ("3", "\\xc080"), ("4", "\\x6f6b")]},
        findings=found("broken-utf8 t.a"),
    ),
    Case(
        id="D02-quarantine",
        title="Broken UTF-8, set apart",
        sql=BROKEN,
        options=("--on-invalid-text", "quarantine"),
        status=1,
        types={"t.id": "bigint not null identity", "t.a": "text"},
        rows={
            "SELECT * FROM t": [("4", "ok")],
            KEPT_APART: [
                ('{"id": 1}', "a", "\\x66696c6596"),
                ('{"id": 2}', "a", "\\xeda080"),
                ('{"id": 3}', "a", "\\xc080"),
            ],
        },
        findings=found("broken-utf8 t.a"),
    ),
    Case(
        id="D03",
        title="Bytes in a TEXT column, text in a BLOB column",
        sql="CREATE TABLE t(a TEXT, b BLOB);"
        "INSERT INTO t VALUES (x'ff00', 'plain text'), (x'68656c6c6f', x'00ff'), (NULL, 'aGVsbG8=');",
        types={"t.a": "bytea", "t.b": "bytea"},
        rows={
            "SELECT a, encode(b, 'escape') FROM t": [
                ("\\xff00", "plain text"),
                ("\\x68656c6c6f", "\\000\\377"),
                (None, "aGVsbG8="),
            ]
        },
        findings=found("blob-in-text t.a", "text-in-blob t.b"),
    ),
    Case(
        id="D04",
        title="A database in UTF-16",
        sql="PRAGMA encoding = 'UTF-16le'; CREATE TABLE t(a TEXT); INSERT INTO t VALUES ('é😀');"
        "CREATE TABLE u(a TIME); INSERT INTO u VALUES ('é'), (x'fd');",
        types={"t.a": "text", "u.a": "bytea"},
        rows={"SELECT a FROM t": [("é😀",)], "SELECT a FROM u": [("\\xc3a9",), ("\\xfd",)]},
        findings=found("mixed-storage u.a"),
    ),
    Case(
        id="D04-big",
        title="A database in UTF-16, big end first, with SQLite's own collations",
        sql="PRAGMA encoding = 'UTF-16be'; CREATE TABLE t(a TEXT COLLATE NOCASE PRIMARY KEY);"
        "INSERT INTO t VALUES ('é😀'); CREATE VIEW v AS SELECT * FROM t;",
        types={"t.a": "text not null", "v.a": "text"},
        rows={"SELECT a FROM t": [("é😀",)]},
        findings=found("collation-left-out t"),
    ),
    Case(
        id="D05",
        title="Longer than VARCHAR(n), spaces at the end, CHAR(n)",
        sql="CREATE TABLE t(a VARCHAR(3), b CHAR(5)); INSERT INTO t VALUES ('abcdef', 'x'), ('abc   ', 'abc  ');",
        types={"t.a": "text", "t.b": "character varying(5)"},
        rows={"SELECT * FROM t": [("abcdef", "x"), ("abc   ", "abc  ")]},
        findings=found("longer-than-declared t.a"),
    ),
    Case(
        id="D06",
        title="JSON that is none, with \\u0000, half pairs, a key twice, great numbers",
        sql="""CREATE TABLE t(a JSON, b JSON, c JSON); INSERT INTO t VALUES ('{"a":1,"a":2}', '{"a":1,"a":2}', '[1]'),
            ('{a:1}', '"\\u0000"', '{"n":1.10,"b":12345678901234567890}'), ('', '"\\ud800"', NULL);""",
        types={"t.a": "text", "t.b": "json", "t.c": "jsonb"},
        rows={
            "SELECT * FROM t": [
                ('{"a":1,"a":2}', '{"a":1,"a":2}', "[1]"),
                ("{a:1}", '"\\u0000"', '{"b": 12345678901234567890, "n": 1.10}'),
                ("", '"\\ud800"', None),
            ]
        },
        findings=found("not-json t.a", "json-not-jsonb t.b"),
    ),
    Case(
        id="D07",
        title="SQLite's own JSONB",
        sql="CREATE TABLE t(a BLOB); INSERT INTO t VALUES (x'4c17611331');",
        types={"t.a": "bytea"},
        rows={"SELECT a FROM t": [("\\x4c17611331",)]},
        findings=found("type-suggested t.a"),
    ),
    Case(
        id="D08",
        title="UUIDs in five spellings",
        sql="CREATE TABLE t(a CHAR(32), b CHAR(36), c BLOB, d UUID, e TEXT); INSERT INTO t VALUES"
        f"('{UUID.replace('-', '')}', '{UUID}', x'{UUID.replace('-', '')}', '{{{UUID.upper()}}}', '{UUID.upper()}');",
        types={
            "t.a": "character varying(32)",
            "t.b": "character varying(36)",
            "t.c": "bytea",
            "t.d": "uuid",
            "t.e": "text",
        },
        rows={
            "SELECT * FROM t": [(UUID.replace("-", ""), UUID, "\\x" + UUID.replace("-", ""), UUID, UUID.upper())],
        },
        findings=found("type-suggested t.a", "type-suggested t.b"),
    ),
    Case(
        id="D09",
        title="Values of 20 MB",
        sql="CREATE TABLE t(a BLOB); INSERT INTO t VALUES (zeroblob(20000000));",
        types={"t.a": "bytea"},
        rows={"SELECT length(a) FROM t": [("20000000",)]},
    ),
    Case(
        id="D10",
        title="Backslashes, tabs, line ends, \\N and \\. in text",
        sql="CREATE TABLE t(a TEXT); INSERT INTO t VALUES ('\\N'), ('\\.'), ('a\tb\nc\r\nd'), ('\\x41'), ('\"'), ('');",
        types={"t.a": "text"},
        rows={"SELECT a FROM t": [("\\N",), ("\\.",), ("a\tb\nc\r\nd",), ("\\x41",), ('"',), ("",)]},
    ),
)

KEYS = (
    Case(
        id="E01",
        title="AUTOINCREMENT whose last row is gone",
        sql="CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a);"
        "INSERT INTO t VALUES (100, 'x'); DELETE FROM t; INSERT INTO t VALUES (5, 'y');"
        "CREATE TABLE none(id INTEGER PRIMARY KEY AUTOINCREMENT);",
        types={"t.id": "bigint not null identity", "t.a": "text", "none.id": "bigint not null identity"},
        rows={
            "INSERT INTO t(a) VALUES ('new') RETURNING id": [("101",)],
            "INSERT INTO none DEFAULT VALUES RETURNING id": [("1",)],
        },
        has=("PRIMARY KEY (id)",),
    ),
    Case(
        id="E02",
        title="Negative ids, and the largest of all",
        sql="CREATE TABLE a(id INTEGER PRIMARY KEY, x); INSERT INTO a VALUES (-5, 0);"
        "CREATE TABLE b(id INTEGER PRIMARY KEY); INSERT INTO b VALUES (9223372036854775807);",
        types={"a.id": "bigint not null identity", "a.x": "bigint", "b.id": "bigint not null identity"},
        rows={
            "INSERT INTO a(x) VALUES (1) RETURNING id": [("1",)],
            "SELECT id FROM b": [("9223372036854775807",)],
        },
        findings=found("identity-exhausted b.id"),
    ),
    Case(
        id="E03",
        title="INT PRIMARY KEY and INTEGER PRIMARY KEY DESC are no rowids, and take NULL",
        sql="CREATE TABLE a(id INT PRIMARY KEY, x); INSERT INTO a VALUES (NULL, 1), (NULL, 2);"
        "CREATE TABLE b(id INTEGER PRIMARY KEY DESC, x); INSERT INTO b VALUES (NULL, 1);",
        types={"a.id": "bigint", "a.x": "bigint", "b.id": "bigint", "b.x": "bigint"},
        rows={"SELECT * FROM a": [(None, "1"), (None, "2")], "SELECT * FROM b": [(None, "1")]},
        has=("a_id_key UNIQUE (id)", "b_id_key UNIQUE (id)"),
        lacks=("PRIMARY KEY",),
        findings=found("null-in-primary-key a.id", "null-in-primary-key b.id"),
    ),
    Case(
        id="E04",
        title="NULLs in a composite primary key",
        sql="CREATE TABLE t(a TEXT, b INT, c, PRIMARY KEY(a, b));"
        "INSERT INTO t VALUES (NULL, 1, 'x'), (NULL, 1, 'y'), ('k', NULL, 'z');",
        types={"t.a": "text", "t.b": "bigint", "t.c": "text"},
        rows={"SELECT * FROM t": [(None, "1", "x"), (None, "1", "y"), ("k", None, "z")]},
        has=("UNIQUE (a, b)",),
        lacks=("PRIMARY KEY",),
        findings=found("null-in-primary-key t.a"),
    ),
    Case(
        id="E05",
        title="A primary key in an order of its own",
        sql="CREATE TABLE t(a INT, b INT, c INT, PRIMARY KEY(c, a)); INSERT INTO t VALUES (1, 2, 3);",
        types={"t.a": "bigint not null", "t.b": "bigint", "t.c": "bigint not null"},
        rows={"SELECT * FROM t": [("1", "2", "3")]},
        has=("PRIMARY KEY (c, a)",),
    ),
    Case(
        id="E06",
        title="No key and equal rows; columns called rowid, oid and _rowid_",
        sql="CREATE TABLE t(a, b); INSERT INTO t VALUES (1, 1), (1, 1);"
        "CREATE TABLE u(rowid TEXT, oid, _rowid_); INSERT INTO u VALUES ('x', 1, 2);",
        types={"t.a": "bigint", "t.b": "bigint", "u.rowid": "text", "u.oid": "bigint", "u._rowid_": "bigint"},
        rows={"SELECT * FROM t": [("1", "1"), ("1", "1")], "SELECT * FROM u": [("x", "1", "2")]},
    ),
    Case(
        id="E07",
        title="WITHOUT ROWID with a composite key",
        sql="CREATE TABLE t(k TEXT, v, n INT, PRIMARY KEY(k, n)) WITHOUT ROWID; INSERT INTO t VALUES ('a', x'00', 1);",
        types={"t.k": "text not null", "t.v": "bytea", "t.n": "bigint not null"},
        rows={"SELECT * FROM t": [("a", "\\x00", "1")]},
        has=("PRIMARY KEY (k, n)",),
    ),
    Case(
        id="E08",
        title="The rowid as a number that the application uses",
        sql="CREATE TABLE notes(body TEXT); INSERT INTO notes VALUES ('a'), ('b');"
        "CREATE VIEW v AS SELECT rowid, * FROM notes;",
        types={"notes.body": "text"},
        rows={"SELECT body FROM notes": [("a",), ("b",)]},
        findings=found("view-left-out v"),
    ),
    Case(
        id="E09",
        title="UNIQUE under NOCASE, which folds ASCII alone",
        sql="CREATE TABLE t(a TEXT UNIQUE, b TEXT COLLATE NOCASE UNIQUE);INSERT INTO t VALUES ('x', 'É'), ('x ', 'é');",
        types={"t.a": "text", "t.b": "text"},
        rows={"SELECT * FROM t": [("x", "É"), ("x ", "é")]},
        has=("UNIQUE (a)", 'CREATE UNIQUE INDEX t_b_key ON %s.t USING btree (lower((b COLLATE "C")))'),
        findings=found("collation-left-out t"),
    ),
    Case(
        id="E10",
        title="ON CONFLICT in constraints",
        sql="CREATE TABLE t(a UNIQUE ON CONFLICT REPLACE, b NOT NULL ON CONFLICT IGNORE,"
        " c INTEGER PRIMARY KEY ON CONFLICT REPLACE); INSERT INTO t VALUES (1, 2, 3);",
        types={"t.a": "bigint", "t.b": "bigint not null", "t.c": "bigint not null identity"},
        rows={"SELECT * FROM t": [("1", "2", "3")]},
        has=("UNIQUE (a)", "PRIMARY KEY (c)"),
        findings=found("on-conflict t.b", "on-conflict t (c)", "on-conflict t (a)"),
    ),
)

REFERENCES = (
    Case(
        id="F01",
        title="Rows whose parent is missing",
        sql="CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(id INTEGER PRIMARY KEY, pid REFERENCES p(id));"
        "INSERT INTO c VALUES (1, 99), (2, NULL);",
        types={"p.id": "bigint not null identity", "c.id": "bigint not null identity", "c.pid": "bigint"},
        rows={"SELECT * FROM c": [("1", "99"), ("2", None)]},
        has=("FOREIGN KEY (pid) REFERENCES %s.p(id) NOT VALID",),
        findings=found("orphans c (pid)"),
    ),
    Case(
        id="F02",
        title="References to a key not named, to a missing table, to itself, in a circle",
        sql="CREATE TABLE a(id INTEGER PRIMARY KEY, b REFERENCES b);"
        "CREATE TABLE b(id INTEGER PRIMARY KEY, a REFERENCES a, s REFERENCES b); INSERT INTO a VALUES (1, 2);"
        "INSERT INTO b VALUES (2, 1, 2); CREATE TABLE c(x REFERENCES nope(id));",
        types={
            "a.id": "bigint not null identity",
            "a.b": "bigint",
            "b.id": "bigint not null identity",
            "b.a": "bigint",
            "b.s": "bigint",
            "c.x": "text",
        },
        rows={"SELECT a.b, b.a, b.s FROM a JOIN b ON a.b = b.id": [("2", "1", "2")]},
        has=(
            "a_b_fkey FOREIGN KEY (b) REFERENCES %s.b(id)",
            "b_a_fkey FOREIGN KEY (a) REFERENCES %s.a(id)",
            "b_s_fkey FOREIGN KEY (s) REFERENCES %s.b(id)",
        ),
        lacks=("NOT VALID",),
        findings=found("foreign-key-left-out c (x)"),
    ),
    Case(
        id="F03",
        title="A reference to a column that is not unique",
        sql="CREATE TABLE p(id INTEGER PRIMARY KEY, x INT); CREATE TABLE c(x REFERENCES p(x));"
        "INSERT INTO p VALUES (1, 7), (2, 7); INSERT INTO c VALUES (7);",
        types={"p.id": "bigint not null identity", "p.x": "bigint", "c.x": "bigint"},
        rows={"SELECT x FROM c": [("7",)], "SELECT * FROM p": [("1", "7"), ("2", "7")]},
        lacks=("FOREIGN KEY",),
        findings=found("foreign-key-left-out c (x)"),
    ),
    Case(
        id="F04",
        title="A reference of another type than its key",
        sql="CREATE TABLE p(id TEXT PRIMARY KEY); CREATE TABLE c(pid INTEGER REFERENCES p(id));"
        "INSERT INTO p VALUES ('1'); INSERT INTO c VALUES (1);",
        types={"p.id": "text not null", "c.pid": "text"},
        rows={"SELECT pid FROM c JOIN p ON pid = id": [("1",)]},
        has=("FOREIGN KEY (pid) REFERENCES %s.p(id)",),
        lacks=("NOT VALID",),
        findings=found("type-of-family c.pid"),
    ),
    Case(
        id="F05",
        title="Actions, deferred checks, names",
        sql="CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(a INT DEFAULT 1 CONSTRAINT fk_a REFERENCES p(id)"
        " ON DELETE SET DEFAULT ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED, b INT,"
        " CONSTRAINT fk_b FOREIGN KEY(b) REFERENCES p(id) ON DELETE RESTRICT);",
        types={"p.id": "bigint not null identity", "c.a": "bigint default 1", "c.b": "bigint"},
        has=(
            "fk_a FOREIGN KEY (a) REFERENCES %s.p(id) ON UPDATE CASCADE ON DELETE SET DEFAULT DEFERRABLE INITIALLY DEF",
            "fk_b FOREIGN KEY (b) REFERENCES %s.p(id) ON DELETE RESTRICT",
        ),
    ),
    Case(
        id="F06",
        title="Composite references, spelled in another case",
        sql="CREATE TABLE P(A INT, B INT, PRIMARY KEY(A, B));"
        "CREATE TABLE c(x INT, y INT, FOREIGN KEY(x, y) REFERENCES p(a, b));",
        types={"P.A": "bigint not null", "P.B": "bigint not null", "c.x": "bigint", "c.y": "bigint"},
        has=('FOREIGN KEY (x, y) REFERENCES %s."P"("A", "B")',),
    ),
    Case(
        id="F07",
        title="A reference to a name that the parent once had",
        sql="CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(pid REFERENCES p_old(id));",
        types={"p.id": "bigint not null identity", "c.pid": "text"},
        lacks=("FOREIGN KEY",),
        findings=found("foreign-key-left-out c (pid)"),
    ),
)

OBJECTS = (
    Case(
        id="G01",
        title="Generated columns that lean on each other, and one that PostgreSQL does not generate",
        sql="CREATE TABLE t(a INT, b INT GENERATED ALWAYS AS (a*2) VIRTUAL, c TEXT AS (a||'x') STORED, d INT AS (b+1),"
        " e AS (json_extract(f,'$.x')), f TEXT); INSERT INTO t(a, f) VALUES (1, '{\"x\":5}');",
        types={
            "t.a": "bigint",
            "t.b": "bigint generated (a * 2)",
            "t.c": "text generated ((a)::text || 'x'::text)",
            "t.d": "bigint generated ((a * 2) + 1)",
            "t.e": "bigint",
            "t.f": "text",
        },
        rows={"SELECT * FROM t": [("1", "2", "1x", "3", "5", '{"x":5}')]},
        findings=found("generated-column t.e"),
    ),
    Case(
        id="G02",
        title="Indexes: partial, on expressions, descending, NOCASE",
        sql="CREATE TABLE t(a TEXT, b INT, c TEXT); CREATE INDEX i1 ON t(a) WHERE b IS NOT NULL;"
        "CREATE UNIQUE INDEX i2 ON t(lower(a), b DESC); CREATE INDEX i3 ON t(a COLLATE NOCASE);"
        "CREATE INDEX i4 ON t(json_extract(c, '$.x')); CREATE INDEX i5 ON t(substr(a,1,3)) WHERE a LIKE 'A%';",
        types={"t.a": "text", "t.b": "bigint", "t.c": "text"},
        has=(
            "INDEX i1 ON %s.t USING btree (a) WHERE (b IS NOT NULL)",
            'UNIQUE INDEX i2 ON %s.t USING btree (lower((a COLLATE "C")), b DESC)',
            'INDEX i3 ON %s.t USING btree (lower((a COLLATE "C")))',
            "INDEX i5 ON %s.t USING btree (substr(a, 1, 3)) WHERE (lower((a COLLATE \"C\")) ~~ like_escape('a%'::text,",
        ),
        lacks=(" i4 ",),
        findings=found("index-left-out t.i4"),
    ),
    Case(
        id="G03",
        title="Names of indexes: those of tables, and longer than 63 bytes",
        sql="CREATE TABLE users(a); CREATE INDEX a ON users(a); CREATE TABLE a_idx(x); CREATE INDEX"
        f" {'verylongindexname_' * 4} ON users(a);",
        types={"users.a": "text", "a_idx.x": "text"},
        has=("INDEX a ON %s.users", "INDEX verylongindexname_verylongindexname_verylongindexname_"),
        findings=found(f"renamed users.{'verylongindexname_' * 4}"),
    ),
    Case(
        id="G04",
        title="Values too wide for a B-tree",
        sql="CREATE TABLE t(u TEXT); CREATE INDEX iu ON t(u);"
        "INSERT INTO t VALUES (replace(hex(randomblob(3000)), '0', 'g'));",
        types={"t.u": "text"},
        rows={"SELECT length(u) FROM t": [("6000",)]},
        has=("INDEX iu ON %s.t USING hash (u)",),
        findings=found("too-wide-for-index t (u)"),
    ),
    Case(
        id="G05",
        title="Defaults that are the present moment, in eight spellings",
        sql="CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT DEFAULT CURRENT_TIMESTAMP,"
        " b DATETIME DEFAULT (datetime('now')), c INTEGER DEFAULT (strftime('%s','now')), d DATE DEFAULT"
        " (date('now')), e DATETIME DEFAULT (datetime('now','localtime')),"
        " f DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),"
        " g INTEGER DEFAULT (cast((julianday('now') - 2440587.5)*86400000 as integer)),"
        " h INTEGER DEFAULT (unixepoch()));",
        types={
            "t.id": "bigint not null identity",
            "t.a": "text default to_char((now() AT TIME ZONE 'utc'::text), 'YYYY-MM-DD HH24:MI:SS'::text)",
            "t.b": "timestamp without time zone default (now() AT TIME ZONE 'utc'::text)",
            "t.c": "bigint default (floor(EXTRACT(epoch FROM now())))::bigint",
            "t.d": "date default ((now() AT TIME ZONE 'utc'::text))::date",
            "t.e": "timestamp without time zone default LOCALTIMESTAMP",
            "t.f": "text default to_char((now() AT TIME ZONE 'utc'::text), 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'::text)",
            "t.g": "bigint default (floor((EXTRACT(epoch FROM now()) * (1000)::numeric)))::bigint",
            "t.h": "bigint default (floor(EXTRACT(epoch FROM now())))::bigint",
        },
        rows={
            "INSERT INTO t DEFAULT VALUES RETURNING a ~ '^\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d$',"
            " f ~ '^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z$', g - c * 1000 BETWEEN 0 AND 999, c = h,"
            " d = b::date": [("true",) * 5]
        },
        findings=found("default-local-time t.e"),
    ),
    Case(
        id="G06",
        title="Defaults in every quote, bytes, signs, random ones",
        sql="CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT DEFAULT \"abc\", b DEFAULT 'x''y', c DEFAULT abc,"
        " d INT DEFAULT '5', e INT DEFAULT \"0\", f BLOB DEFAULT x'00ff', g DEFAULT -1, h DEFAULT +1.5,"
        ' i INTEGER DEFAULT (random()), j TEXT DEFAULT (lower(hex(randomblob(16)))), k TEXT DEFAULT "",'
        " l DEFAULT NULL, m BOOL DEFAULT TRUE, n DEFAULT (1+2), o TEXT DEFAULT '{}');",
        rows={
            "INSERT INTO t DEFAULT VALUES RETURNING a, b, c, d, e, f, g, h, i IS NOT NULL, j ~ '^[0-9a-f]{32}$', k, l,"
            " m, n, o": [
                ("abc", "x'y", "abc", "5", "0", "\\x00ff", "-1", "1.5", "true", "true", "", None, "true", "3", "{}")
            ]
        },
    ),
    Case(
        id="G07",
        title="CHECKs in SQLite's SQL",
        sql="CREATE TABLE t(a TEXT CHECK (a IN ('x','y')), b CHECK (typeof(b)='integer'),"
        " c INTEGER CHECK (length(c)<=10), d TEXT CHECK (json_valid(d)), e TEXT CHECK (e GLOB 'a*'),"
        " f TEXT CHECK (f LIKE 'A%'), g INT CHECK (g), h INT CHECK (g & 1), i TEXT CHECK (i <> \"\"),"
        " j TEXT CHECK (j == 'x' OR NULL), CONSTRAINT ck CHECK (a || b != ''));",
        types={
            "t.a": "text",
            "t.b": "text",
            "t.c": "bigint",
            "t.d": "jsonb",
            "t.e": "text",
            "t.f": "text",
            "t.g": "bigint",
            "t.h": "bigint",
            "t.i": "text",
            "t.j": "text",
        },
        has=(
            "CHECK (((a || b) <> ''::text))",
            "CHECK ((a = ANY (ARRAY['x'::text, 'y'::text])))",
            "CHECK ((length((c)::text) <= 10))",
            "CHECK ((e ~~ 'a%'::text))",
            "CHECK ((lower((f COLLATE \"C\")) ~~ like_escape('a%'::text, ''::text)))",
            "CHECK ((g <> 0))",
            "CHECK (((g & (1)::bigint) <> 0))",
            "CHECK ((i <> ''::text))",
            "CHECK (((j = 'x'::text) OR NULL::boolean))",
        ),
        findings=found("type-from-mapper t.d", "check-left-out t.b", "check-by-type t.d"),
    ),
    Case(
        id="G08",
        title="Views in SQLite's SQL",
        sql="CREATE TABLE t(a INT, b TEXT, c INT); INSERT INTO t VALUES (1, 'Anna', 2), (1, 'b', 3), (3, 'a', 4);"
        "CREATE VIEW v1 AS SELECT \"abc\" AS s, ifnull(b,'')||a AS k, group_concat(b) g, strftime('%Y',b) y FROM t"
        " GROUP BY a; CREATE VIEW v2(x, y) AS SELECT a, max(c) FROM t GROUP BY a HAVING a > 0 ORDER BY a LIMIT 1, 2;"
        "CREATE VIEW v3 AS SELECT * FROM t WHERE b LIKE 'a%' AND a IS NOT 3 AND a == 1;"
        'CREATE VIEW "V 4" AS SELECT a AS "A", a AS a2 FROM v3;',
        types={
            "t.a": "bigint",
            "t.b": "text",
            "t.c": "bigint",
            "v2.x": "bigint",
            "v2.y": "bigint",
            "v3.a": "bigint",
            "v3.b": "text",
            "v3.c": "bigint",
            "V 4.A": "bigint",
            "V 4.a2": "bigint",
        },
        rows={
            "SELECT * FROM v2": [("3", "4")],
            "SELECT * FROM v3": [("1", "Anna", "2")],
            'SELECT * FROM "V 4"': [("1", "1")],
        },
        findings=found("view-left-out v1"),
    ),
    Case(
        id="G09",
        title="Triggers",
        sql="CREATE TABLE t(id INTEGER PRIMARY KEY, a, updated_at); CREATE TRIGGER tr AFTER UPDATE OF a ON t"
        " WHEN old.a IS NOT new.a BEGIN UPDATE t SET updated_at = datetime('now') WHERE id = new.id; END;"
        "CREATE TRIGGER tr2 BEFORE INSERT ON t BEGIN SELECT CASE WHEN new.a IS NULL THEN raise(ABORT,'no') END; END;"
        "CREATE VIEW v AS SELECT * FROM t;"
        "CREATE TRIGGER tr3 INSTEAD OF INSERT ON v BEGIN INSERT INTO t(a) VALUES (new.a); END;",
        types={
            "t.id": "bigint not null identity",
            "t.a": "text",
            "t.updated_at": "text",
            "v.id": "bigint",
            "v.a": "text",
            "v.updated_at": "text",
        },
        findings=found("trigger-left-out t.tr", "trigger-left-out t.tr2", "trigger-left-out v.tr3"),
    ),
    Case(
        id="G10",
        title="Full-text search and R-trees, with their shadow tables",
        sql="CREATE VIRTUAL TABLE f USING fts5(title, body, content='', tokenize='porter');"
        "INSERT INTO f(title, body) VALUES ('a', 'b'); CREATE VIRTUAL TABLE r USING rtree(id, x0, x1, y0, y1);"
        "INSERT INTO r VALUES (1, 0, 1, 0, 1); CREATE VIRTUAL TABLE f4 USING fts4(c0);"
        "INSERT INTO f4 VALUES ('hello'); CREATE TABLE t(a TEXT);",
        status=1,
        types={"t.a": "text"},
        findings=found("virtual-table-left-out f", "virtual-table-rows r", "virtual-table-rows f4"),
    ),
    Case(
        id="G10-skipped",
        title="Full-text search that the user leaves out, and one over another table's rows",
        sql="CREATE TABLE t(a TEXT); INSERT INTO t VALUES ('x'); CREATE VIRTUAL TABLE f USING fts5(a, content='t');"
        "INSERT INTO f(f) VALUES ('rebuild'); CREATE VIRTUAL TABLE \"my notes\" USING fts5(body);"
        "INSERT INTO \"my notes\" VALUES ('only here');",
        options=("--skip", "My Notes"),
        rows={"SELECT a FROM t": [("x",)]},
        findings=found("virtual-table-left-out f"),
    ),
    Case(
        id="G11",
        title="A collation and a module that only the application knows",
        sql="CREATE TABLE t(a TEXT); INSERT INTO t VALUES ('x'), ('X'); CREATE INDEX i ON t(a);"
        "PRAGMA writable_schema = ON;"
        "UPDATE sqlite_master SET sql = 'CREATE TABLE t(a text COLLATE unicase)' WHERE name = 't';"
        "INSERT INTO sqlite_master(type, name, tbl_name, rootpage, sql)"
        " VALUES ('table', 'g', 'g', 0, 'CREATE VIRTUAL TABLE g USING nosuchmod(a)');",
        types={"t.a": "text"},
        rows={"SELECT a FROM t": [("x",), ("X",)]},
        findings=found("index-left-out t.i", "virtual-table-left-out g", "unknown-collation G11.db"),
    ),
    Case(
        id="G12",
        title="Names that are words of SQL, have spaces, quotes, dots and emoji, or are empty",
        sql='CREATE TABLE "order"("select" INT, "User" INT, [group] INT, `limit` INT, "1st" INT, "a b" INT,'
        ' "a.b" INT, "é😀" INT, "q""q" INT, \'strq\' INT, "" INT, "%s" INT, "$1" INT, "camelCase" INT);'
        'INSERT INTO "order" VALUES (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14);',
        types={
            f"order.{name}": "bigint"
            for name in (
                "select",
                "User",
                "group",
                "limit",
                "1st",
                "a b",
                "a.b",
                "é😀",
                'q"q',
                "strq",
                "unnamed",
                "%s",
                "$1",
                "camelCase",
            )
        },
        rows={'SELECT * FROM "order"': [tuple(str(number) for number in range(1, 15))]},
        findings=found("renamed order.(no name)"),
    ),
    Case(
        id="G13",
        title="Names longer than 63 bytes; names that differ in case alone",
        sql=f'CREATE TABLE t({LONG}x INT, {LONG}y INT, {"é" * 37} INT);CREATE TABLE "É"(a); CREATE TABLE "é"(a);',
        types={
            f"t.{LONG[:54]}_afcb018f": "bigint",
            f"t.{LONG[:54]}_1434d158": "bigint",
            f"t.{'é' * 27}_70ee4152": "bigint",
            "É.a": "text",
            "é.a": "text",
        },
        findings=found(f"renamed t.{LONG}x", f"renamed t.{LONG}y", f"renamed t.{'é' * 37}"),
    ),
    Case(
        id="G14",
        title="Names of PostgreSQL's system columns, and of its types",
        sql="CREATE TABLE t(ctid INT, xmin INT, xmax INT, cmin INT, cmax INT, tableoid INT, oid INT);"
        'CREATE TABLE "user"(a); CREATE TABLE "table"(a);',
        types={
            **{f"t.{name}_": "bigint" for name in ("ctid", "xmin", "xmax", "cmin", "cmax", "tableoid")},
            "t.oid": "bigint",
            "user.a": "text",
            "table.a": "text",
        },
        findings=found(*(f"renamed t.{name}" for name in ("ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"))),
    ),
    Case(
        id="G15",
        title="More than 1600 columns",
        sql=f"CREATE TABLE wide({', '.join(f'c{number} TEXT' for number in range(1700))});",
        status=2,
        says="it has 1700 columns, and PostgreSQL takes 1600",
    ),
    Case(
        id="G16",
        title="Comments, commas and brackets within a definition; columns added later; CREATE TABLE AS",
        sql="CREATE TABLE comm(a INT /* c1, */, -- x)\n b TEXT DEFAULT 'a,b)' CHECK (b <> '--'), \"c\"\"d\" INT,"
        " CONSTRAINT u UNIQUE(a, b)); ALTER TABLE comm ADD COLUMN z TEXT DEFAULT 'q';"
        "CREATE TABLE cta AS SELECT 1 AS n, 'x' AS s;",
        types={
            "comm.a": "bigint",
            "comm.b": "text default 'a,b)'::text",
            'comm.c"d': "bigint",
            "comm.z": "text default 'q'::text",
            "cta.n": "bigint",
            "cta.s": "text",
        },
        rows={"SELECT * FROM cta": [("1", "x")]},
        has=("CHECK ((b <> '--'::text))", "u UNIQUE (a, b)"),
    ),
    Case(
        id="G17",
        title="The bookkeeping of SQLite, Litestream and libSQL",
        sql="CREATE TABLE t(a); CREATE INDEX i ON t(a); INSERT INTO t VALUES (1); ANALYZE;"
        "CREATE TABLE _litestream_seq(id INTEGER PRIMARY KEY, seq INTEGER);"
        "CREATE TABLE _litestream_lock(id INTEGER); CREATE TABLE libsql_wasm_func_table(name TEXT, body TEXT);",
        findings=found(
            "bookkeeping-skipped _litestream_seq",
            "bookkeeping-skipped _litestream_lock",
            "bookkeeping-skipped libsql_wasm_func_table",
        ),
        types={"t.a": "bigint"},
        rows={"SELECT a FROM t": [("1",)]},
        has=("INDEX i ON %s.t",),
    ),
    Case(
        id="G18",
        title="Tables that the application has made on the target",
        sql="CREATE TABLE users(Id INTEGER PRIMARY KEY, IsActive INTEGER); INSERT INTO users VALUES (1, 1);",
        options=("--into-existing",),
        types={
            "users.isactive": "boolean",
            "users.id": "integer not null default nextval('%s.users_id_seq'::regclass)",
        },
        rows={
            "SELECT id, isactive FROM users": [("1", "true")],
            "INSERT INTO users(id) VALUES (DEFAULT) RETURNING id": [("2",)],
        },
    ),
)

LATER = (
    Case(
        id="G19",
        title="Values that an index's expression cannot take: text too wide for a B-tree, products beyond 64 bits",
        sql="CREATE TABLE t(u TEXT); CREATE INDEX iu ON t(lower(u));"
        "INSERT INTO t VALUES (replace(hex(randomblob(6000)), '0', 'g')); CREATE TABLE n(a INT, b INT);"
        "CREATE INDEX im ON n(a * b); CREATE INDEX ia ON n(a); INSERT INTO n VALUES (1 << 40, 1 << 40);",
        status=1,
        same=False,
        rows={"SELECT length(u) FROM t": [("12000",)], "SELECT a FROM n": [("1099511627776",)]},
        has=("INDEX ia ON %s.n",),
        lacks=(" iu ", " im "),
        findings=found('index-left-out index "iu" on "t"', 'index-left-out index "im" on "n"'),
    ),
    Case(
        id="G20",
        title="Rows that break a CHECK",
        sql="CREATE TABLE t(a INT CHECK (a > 0), b INT CHECK (b > 0)); PRAGMA ignore_check_constraints = ON;"
        "INSERT INTO t VALUES (0, 1);",
        status=1,
        same=False,
        rows={"SELECT * FROM t": [("0", "1")]},
        has=("t_a_check CHECK ((a > 0)) NOT VALID", "t_b_check CHECK ((b > 0))"),
        findings=found('not-validated validate "t_a_check" on "t"'),
    ),
    Case(
        id="G21",
        title="Indexes and keys of more than 32 columns",
        sql=f"CREATE TABLE t({', '.join(f'c{number} INT' for number in range(33))});"
        f"CREATE INDEX i ON t({', '.join(f'c{number}' for number in range(33))}); INSERT INTO t(c0) VALUES (1);"
        f"CREATE TABLE k({', '.join(f'c{number} INT' for number in range(33))},"
        f" UNIQUE ({', '.join(f'c{number}' for number in range(33))}));",
        rows={"SELECT c0 FROM t": [("1",)]},
        lacks=(" i ", "UNIQUE"),
        findings=found("index-left-out t.i", f"index-left-out k ({', '.join(f'c{number}' for number in range(33))})"),
    ),
    Case(
        id="G22",
        title="Lengths and digits that PostgreSQL's types do not take",
        sql="CREATE TABLE t(a DECIMAL(1001, 2), b DECIMAL(1000, 2), c VARCHAR(10485761), d VARCHAR(10485760),"
        " e VARCHAR(-5), f VARCHAR(0)); INSERT INTO t VALUES (1.5, 1.5, 'c', 'd', 'e', 'f');",
        types={
            "t.a": "numeric",
            "t.b": "numeric(1000,2)",
            "t.c": "text",
            "t.d": "character varying(10485760)",
            "t.e": "text",
            "t.f": "text",
        },
        rows={"SELECT * FROM t": [("1.5", "1.50", "c", "d", "e", "f")]},
    ),
    Case(
        id="G23",
        title="A generated column whose integers outgrow 64 bits",
        sql="CREATE TABLE t(a INT, b INT AS (a * a) STORED, c REAL AS (a / 2), d INT AS (a - 1));"
        "INSERT INTO t VALUES (1 << 40), (3);",
        types={
            "t.a": "bigint",
            "t.b": "double precision",
            "t.c": "double precision generated (a / 2)",
            "t.d": "bigint generated (a - 1)",
        },
        rows={"SELECT b = 2::float8 ^ 80, d FROM t WHERE a > 3": [("true", "1099511627775")]},
        findings=found("integer-beyond-64-bits t.b", "generated-column t.b"),
    ),
    Case(
        id="C08",
        title="A time that would be rounded up to the year 10000",
        sql="CREATE TABLE t(id INTEGER PRIMARY KEY, a DATETIME); CREATE TABLE u(id INTEGER PRIMARY KEY, a DATETIME);"
        "INSERT INTO t VALUES (1, '9999-12-31 23:59:59.9999999'), (2, '2024-01-01 00:00:00');"
        "INSERT INTO u VALUES (1, '9999-12-31 23:59:59.9999994'), (2, '2024-01-01 00:00:00.0000005');",
        types={
            "t.id": "bigint not null identity",
            "t.a": "text",
            "u.id": "bigint not null identity",
            "u.a": "timestamp without time zone",
        },
        rows={
            "SELECT a FROM t": [("9999-12-31 23:59:59.9999999",), ("2024-01-01 00:00:00",)],
            "SELECT a FROM u": [("9999-12-31 23:59:59.999999",), ("2024-01-01 00:00:00",)],
        },
        findings=found("not-a-time t.a", "time-rounded u.a"),
    ),
    Case(
        id="C09",
        title="Seconds since 2001 beyond what a double tells to the microsecond",
        sql="CREATE TABLE Z_METADATA(Z_VERSION INTEGER PRIMARY KEY);"
        "CREATE TABLE ZNOTE(Z_PK INTEGER PRIMARY KEY, ZNEAR TIMESTAMP, ZFAR TIMESTAMP);"
        "INSERT INTO ZNOTE VALUES (1, 700000000.125, 9500000000.123457);",
        types={
            "Z_METADATA.Z_VERSION": "bigint not null identity",
            "ZNOTE.Z_PK": "bigint not null identity",
            "ZNOTE.ZNEAR": "timestamp with time zone",
            "ZNOTE.ZFAR": "double precision",
        },
        rows={'SELECT "ZNEAR", "ZFAR" FROM "ZNOTE"': [("2023-03-08 20:26:40.125+00", "9500000000.123457")]},
        findings=found(
            "mapper-recognised Z_METADATA",
            "type-from-mapper ZNOTE.ZNEAR",
            "epoch-as-time ZNOTE.ZNEAR",
            "ambiguous-epoch ZNOTE.ZFAR",
        ),
    ),
    Case(
        id="D11",
        title="JSON by a CHECK, with a key twice",
        sql="CREATE TABLE t(id INTEGER PRIMARY KEY, data TEXT CHECK (json_valid(data)));"
        """INSERT INTO t VALUES (1, '{"a":1,"a":2}'), (2, '{}');""",
        types={"t.id": "bigint not null identity", "t.data": "json"},
        rows={"SELECT data FROM t": [('{"a":1,"a":2}',), ("{}",)]},
        findings=found("type-from-mapper t.data", "json-not-jsonb t.data", "check-by-type t.data"),
    ),
    Case(
        id="E11",
        title="Keys that are one time in two spellings: text and seconds, with and without an offset",
        sql="CREATE TABLE t(n INTEGER, at DATETIME PRIMARY KEY); CREATE TABLE z(n INTEGER, at TIMESTAMP UNIQUE);"
        "INSERT INTO t VALUES (1, '2024-01-01 00:00:00'), (2, 1704067200), (3, '2024-01-01 00:00:00.5');"
        "INSERT INTO z VALUES (1, '2024-01-01T00:00:00Z'), (2, '2024-01-01 01:00:00+01:00'),"
        " (3, '2024-01-01T00:00:01Z');",
        rows={"SELECT count(*), count(DISTINCT at) FROM t": [("3", "2")]},
        lacks=("PRIMARY KEY", "UNIQUE"),
        findings=found(
            "naive-as-utc t.at",
            "epoch-as-time t.at",
            "duplicates-after-conversion t (at)",
            "duplicates-after-conversion z (at)",
        ),
    ),
    Case(
        id="E12",
        title="Keys that are one text once what is broken in them is replaced",
        sql="CREATE TABLE t(k TEXT PRIMARY KEY, v TEXT); CREATE TABLE o(k TEXT PRIMARY KEY);"
        "INSERT INTO t VALUES (CAST(x'66ff' AS TEXT), 'a'), (CAST(x'66fe' AS TEXT), 'b'), ('g', 'c');"
        "INSERT INTO o VALUES (CAST(x'66ff' AS TEXT)), ('f');",
        options=("--on-invalid-text", "replace"),
        rows={"SELECT k, v FROM t": [("f\ufffd", "a"), ("f\ufffd", "b"), ("g", "c")]},
        has=("o_pkey PRIMARY KEY (k)",),
        lacks=("t_pkey",),
        findings=found("broken-utf8 t.k", "broken-utf8 o.k", "duplicates-after-conversion t (k)"),
    ),
)

CASES = (*LATER, *NUMBERS, *TIMES, *TEXTS, *KEYS, *REFERENCES, *OBJECTS)
