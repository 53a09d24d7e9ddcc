"""Types from values: one line a case, the declared type, the values as SQL, and what must become of them."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dbscale.migrate.affinity import affinity, is_sized_text, wish
from dbscale.migrate.convert import Refusal, convert
from dbscale.migrate.fit import Asked, base, parse
from dbscale.migrate.types import Options
from fix_types import Newest, Oldest, Survey, column, survey

U36 = "'550e8400-e29b-41d4-a716-446655440000'"
U32 = "'550e8400e29b41d4a716446655440000'"
BRACES = "'{550E8400-E29B-41D4-A716-446655440001}'"


def readings(found: Survey, place: str = "t.a") -> str:
    """The readings of the classes that are present, `integers=keep texts=iso`."""
    seen, conversion = found.seen(place), found.choice(place).conversion
    classes = ("integers", "reals", "texts", "blobs")
    return " ".join(f"{name}={getattr(conversion, name)}" for name in classes if getattr(seen, name))


CASES: list[tuple[str, str, list[str], str, str, set[str]]] = [
    # numbers
    ("text in INTEGER", "INTEGER", ["10", "'lots'", "5"], "text", "integers=text texts=keep", {"text-in-integer"}),
    ("text like numbers", "INTEGER", ["'12'", "' 12 '", "'1e3'", "'0x10'", "''"], "text", "", {"text-in-integer"}),
    ("only empty text", "INT", ["1", "''"], "text", "integers=text texts=keep", {"empty-text"}),
    ("beyond 4 bytes", "SMALLINT", ["3000592982016"], "bigint", "integers=keep", set()),
    ("beyond 2^53", "INTEGER", ["9007199254740993", "9223372036854775807"], "bigint", "integers=keep", set()),
    (
        "beyond int64",
        "INTEGER",
        ["'9223372036854775808'"],
        "double precision",
        "reals=keep",
        {"integer-beyond-64-bits"},
    ),
    ("reals in INTEGER", "INTEGER", ["1", "3.0", "3.5"], "double precision", "", {"real-in-integer"}),
    ("reals beside 2^53+1", "INTEGER", ["9007199254740993", "3.5"], "numeric", "", {"real-in-integer"}),
    ("REAL", "REAL", ["0.1", "16777217", "1e-320"], "double precision", "reals=keep", set()),
    ("FLOAT", "FLOAT", ["1.7976931348623157e308"], "double precision", "reals=keep", set()),
    ("infinity", "REAL", ["9e999", "-9e999"], "double precision", "reals=keep", set()),
    ("infinity in NUMERIC", "NUMERIC", ["9e999", "1"], "double precision", "", {"text-in-decimal"}),
    ("decimals that fit", "DECIMAL(10,2)", ["19.99", "-5", "0.1", "99999999.99"], "numeric(10,2)", "", set()),
    ("decimals that do not", "DECIMAL(10,2)", ["3.14159", "1"], "numeric", "", {"decimal-rounding"}),
    ("decimals too large", "NUMERIC(4,1)", ["999.5", "1000"], "numeric", "", {"decimal-rounding"}),
    ("digits lost before", "DECIMAL(10,2)", ["'12345678901234567890.123'"], "numeric", "", {"decimal-rounding"}),
    ("NUMERIC", "NUMERIC", ["1", "2.5"], "numeric", "integers=keep reals=shortest", set()),
    ("text in DECIMAL", "DECIMAL(5,2)", ["1.5", "'n/a'"], "text", "", {"text-in-decimal"}),
    ("text in REAL", "REAL", ["1.5", "'n/a'"], "text", "", {"text-in-real"}),
    ("decimals as text", "TEXT", ["'1.10'", "'0.30'"], "text", "texts=keep", set()),
    ("CHARINT", "CHARINT", ["'003'"], "bigint", "integers=keep", set()),
    ("FLOATING POINT", "'FLOATING POINT'", ["'1.0'"], "bigint", "integers=keep", set()),
    ("POINT", "POINT", ["2.5"], "double precision", "reals=keep", {"real-in-integer"}),
    ("STRING", "STRING", ["'00123'", "'x'"], "text", "integers=text texts=keep", {"number-in-text"}),
    ("INTEGER_OR_TEXT", "INTEGER_OR_TEXT", ["'EPSG'", "1"], "text", "", {"text-in-integer"}),
    ("VARYING CHARACTER", "'VARYING CHARACTER(255)'", ["'x'"], "varchar(255)", "texts=keep", set()),
    ("XBLOBY", "XBLOBY", ["1"], "bigint", "integers=keep", {"mixed-storage"}),
    ("text with line end", "'TEXT\nN'", ["'x'"], "text", "texts=keep", set()),
    ("no type, alike", "", ["1", "2"], "bigint", "integers=keep", set()),
    ("no type, texts", "", ["'x'"], "text", "texts=keep", set()),
    ("no type, mixed", "", ["1", "'1'"], "text", "integers=text texts=keep", {"mixed-storage"}),
    ("no type, reals and texts", "", ["2.5", "'x'"], "text", "reals=text texts=keep", {"mixed-storage"}),
    ("no type, blobs and texts", "", ["x'00'", "'x'"], "bytea", "texts=bytes blobs=keep", {"mixed-storage"}),
    ("no type, numbers", "", ["1", "2.5"], "double precision", "integers=keep reals=keep", set()),
    ("no value", "INTEGER", [], "bigint", "", set()),
    ("no value, no type", "", ["NULL"], "text", "", set()),
    # booleans
    ("0 and 1", "BOOLEAN", ["0", "1", "NULL"], "boolean", "integers=bool", set()),
    ("words", "BOOL", ["1", "'t'", "'FALSE'", "'yes'"], "boolean", "integers=bool texts=bool", set()),
    ("two", "BOOLEAN", ["0", "2"], "bigint", "integers=keep", {"not-boolean"}),
    ("empty", "BOOLEAN", ["0", "''"], "text", "", {"empty-text"}),
    ("other words", "BOOLEAN", ["'maybe'", "1"], "text", "", {"not-boolean"}),
    ("TINYINT(1)", "TINYINT(1)", ["0", "1"], "bigint", "integers=keep", {"type-suggested"}),
    ("TINYINT(1) with 2", "TINYINT(1)", ["0", "2"], "bigint", "integers=keep", set()),
    # times
    ("naive", "DATETIME", ["'2020-01-02 03:04:05'", "'2020-01-02T03:04:05.678'"], "timestamp", "texts=iso", set()),
    ("dates in DATETIME", "DATETIME", ["'2020-01-02'", "'2020-01-02 03:04'"], "timestamp", "texts=iso", set()),
    (
        "zoned",
        "TIMESTAMP",
        ["'2020-01-02T03:04:05Z'", "'2020-01-02 03:04:05+05:30'"],
        "timestamptz",
        "texts=iso",
        set(),
    ),
    (
        "short zones",
        "TIMESTAMP",
        ["'2020-01-02 03:04:05+00'", "'2020-01-02 03:04:05.5-0930'"],
        "timestamptz",
        "",
        set(),
    ),
    (
        "naive and zoned",
        "DATETIME",
        ["'2020-01-02 03:04:05'", "'2020-01-02T03:04:05Z'"],
        "timestamptz",
        "",
        {"naive-as-utc"},
    ),
    ("seconds", "DATETIME", ["1577836800", "0"], "timestamptz", "integers=s", {"epoch-as-time"}),
    ("milliseconds", "DATETIME", ["1577836800000"], "timestamptz", "integers=ms", {"epoch-as-time"}),
    ("microseconds", "DATETIME", ["1577836800000000"], "timestamptz", "integers=us", {"epoch-as-time"}),
    ("nanoseconds", "DATETIME", ["1577836800000000000"], "timestamptz", "integers=ns", {"epoch-as-time"}),
    ("webkit", "DATETIME", ["13307547600000000"], "timestamptz", "integers=webkit-us", {"epoch-as-time"}),
    ("julian", "DATETIME", ["2458849.5"], "timestamptz", "reals=julian", {"epoch-as-time"}),
    (
        "all sorts",
        "DATETIME",
        [
            "'2020-01-02 03:04:05'",
            "1577836800",
            "1577836800000",
            "2458849.5",
            "'2020-01-02T03:04:05.678Z'",
            "'2020-01-02'",
        ],
        "timestamptz",
        "integers=by-size reals=julian texts=iso",
        {"naive-as-utc", "epoch-as-time"},
    ),
    ("years", "DATETIME", ["2020", "2021"], "bigint", "integers=keep", {"ambiguous-epoch"}),
    ("yyyymmdd in DATETIME", "DATETIME", ["20200102"], "bigint", "integers=keep", {"ambiguous-epoch"}),
    ("years and text", "DATETIME", ["2020", "'2020-01-02'"], "text", "", {"ambiguous-epoch"}),
    ("apple or unix", "TIMESTAMP", ["671234567.25"], "double precision", "reals=keep", {"ambiguous-epoch"}),
    ("unix with fraction", "TIMESTAMP", ["1700000000.25"], "timestamptz", "reals=s", {"epoch-as-time"}),
    ("zero date", "DATETIME", ["'0000-00-00 00:00:00'", "'2020-01-02'"], "text", "texts=keep", {"not-a-time"}),
    ("empty time", "DATETIME", ["''", "'2020-01-02'"], "text", "texts=keep", {"empty-text"}),
    ("impossible day", "DATE", ["'2020-02-30'"], "text", "texts=keep", {"not-a-time"}),
    ("leap days", "DATE", ["'2020-02-29'", "'2000-02-29'"], "date", "texts=iso", set()),
    ("no leap day", "DATE", ["'1900-02-29'"], "text", "texts=keep", {"not-a-time"}),
    ("day 0", "DATETIME", ["'1900-01-00'"], "text", "texts=keep", {"not-a-time"}),
    ("ends of time", "DATETIME", ["'9999-12-31 23:59:59'", "'0001-01-01'"], "timestamp", "texts=iso", set()),
    (
        "words of PostgreSQL",
        "DATETIME",
        ["'now'", "'today'", "'epoch'", "'allballs'"],
        "text",
        "texts=keep",
        {"not-a-time"},
    ),
    ("day first", "TIMESTAMP", ["'01/02/2020'", "'2/1/2020 5:00 PM'"], "text", "texts=keep", {"not-a-time"}),
    ("seven digits", "DATETIME", ["'2020-01-02 03:04:05.1234567'"], "timestamp", "texts=iso", {"time-rounded"}),
    ("seven digits, last 0", "DATETIME", ["'2020-01-02 03:04:05.1234560'"], "timestamp", "texts=iso", set()),
    ("nine digits, zoned", "DATETIME", ["'2023-08-28 07:39:20.062750226+00:00'"], "timestamptz", "", {"time-rounded"}),
    ("hour 24", "DATETIME", ["'2020-01-02 24:00:00'"], "text", "texts=keep", {"not-a-time"}),
    ("second 60", "DATETIME", ["'2020-01-02 03:04:60'"], "text", "texts=keep", {"not-a-time"}),
    ("year 10000, BC", "DATETIME", ["'10000-01-01'", "'-4713-11-24 12:00:00'"], "text", "texts=keep", {"not-a-time"}),
    ("spaces", "DATETIME", ["'2020-01-02  03:04:05'", "' 2020-01-02'", "'2020-01-02 '"], "text", "", {"not-a-time"}),
    ("TIME", "TIME", ["'12:30'", "'23:59:59.5'"], "time", "texts=iso", set()),
    ("not TIME", "TIME", ["'24:00'", "'1:30'"], "text", "texts=keep", {"not-a-time"}),
    ("DATE", "DATE", ["'2020-01-02'"], "date", "texts=iso", set()),
    (
        "DATE with times",
        "DATE",
        ["'2020-01-02'", "'2020-01-02 03:04:05'"],
        "timestamp",
        "texts=iso",
        {"date-with-time"},
    ),
    ("DATE with zones", "DATE", ["'2026-11-21T02:01:04.193Z'"], "timestamptz", "texts=iso", {"date-with-time"}),
    ("DATE as number", "DATE", ["20200102", "'2020-01-02'"], "date", "integers=yyyymmdd texts=iso", {"epoch-as-time"}),
    ("DATE as no number", "DATE", ["20200230"], "bigint", "integers=keep", {"ambiguous-epoch"}),
    ("DATE with one digit", "DATE", ["'2020-1-2'"], "text", "texts=keep", {"not-a-time"}),
    ("durations", "TEXT", ["'1.02:03:04.0000000'"], "text", "texts=keep", set()),
    # text, blobs, JSON and UUIDs
    ("VARCHAR that fits", "VARCHAR(3)", ["'abc'", "'é😀x'"], "varchar(3)", "texts=keep", set()),
    ("VARCHAR too long", "VARCHAR(3)", ["'abc   '"], "text", "texts=keep", {"longer-than-declared"}),
    ("CHAR is never padded", "CHAR(5)", ["'x'"], "varchar(5)", "texts=keep", set()),
    ("blob in TEXT, UTF-8", "TEXT", ["x'68656c6c6f'", "'x'"], "text", "texts=keep blobs=text", {"blob-in-text"}),
    ("blob in TEXT, other", "TEXT", ["x'ff00'", "'x'"], "bytea", "texts=bytes blobs=keep", {"blob-in-text"}),
    ("text in BLOB", "BLOB", ["'plain'", "x'00ff'"], "bytea", "texts=bytes blobs=keep", {"text-in-blob"}),
    ("number in BLOB", "BLOB", ["1", "x'00ff'"], "bytea", "integers=text blobs=keep", {"text-in-blob"}),
    ("JSON", "JSON", ['\'{"a":[1,"é"]}\'', "'\"\\u00e9\"'", "'1'"], "jsonb", "integers=keep texts=json", set()),
    ("JSON with emoji escapes", "JSON", ["'\"\\ud83d\\ude00 \\\\u0000\"'"], "jsonb", "texts=json", set()),
    ("JSON with NUL", "JSON", ["'\"\\u0000\"'"], "json", "texts=json", {"json-not-jsonb"}),
    ("JSON with half a pair", "JSON", ["'\"\\ud800\"'"], "json", "texts=json", {"json-not-jsonb"}),
    ("JSON with a key twice", "JSON", ['\'[{"a":1,"a":2}]\''], "json", "texts=json", {"json-not-jsonb"}),
    ("same key in two objects", "JSON", ['\'[{"a":1},{"a":2}]\''], "jsonb", "texts=json", set()),
    ("JSON5", "JSON", ["'{a:1}'"], "text", "texts=keep", {"not-json"}),
    ("JSON, empty", "JSON", ["''", "'{}'"], "text", "texts=keep", {"empty-text"}),
    ("JSONB blobs", "JSON", ["jsonb('{\"a\":1}')"], "jsonb", "blobs=jsonb", set()),
    ("JSONB in BLOB", "BLOB", ["jsonb('{\"a\":1}')"], "bytea", "blobs=keep", {"type-suggested"}),
    ("UUID", "UUID", [U36, U32, BRACES], "uuid", "texts=uuid", set()),
    ("UUID in CHAR(36)", "CHAR(36)", [U36], "varchar(36)", "texts=keep", {"type-suggested"}),
    ("UUID in CHAR(32)", "CHAR(32)", [U32], "varchar(32)", "texts=keep", {"type-suggested"}),
    ("UUID that is none", "UUID", [U36, "'x'"], "text", "texts=keep", {"not-uuid"}),
    ("UUID in 16 bytes", "UUID", ["x'550e8400e29b41d4a716446655440000'"], "uuid", "blobs=uuid", set()),
    ("escapes", "TEXT", ["'\\N'", "'\\.'", "'a\tb\nc'", "'\"'"], "text", "texts=keep", set()),
    # libSQL's vectors
    ("vector", "F32_BLOB(2)", ["x'0000803f00002040'"], "vector(2)", "blobs=f32", set()),
    ("vector with its byte", "FLOAT32(2)", ["x'0000803f0000204001'"], "vector(2)", "blobs=f32", set()),
    (
        "vector of 64 bits",
        "F64_BLOB(1)",
        ["x'000000000000f03f02'"],
        "double precision[]",
        "blobs=f64",
        {"vector-without-pgvector"},
    ),
    ("vector of 16 bits", "FLOAT16(1)", ["x'003c05'"], "bytea", "blobs=keep", {"vector-without-pgvector"}),
    ("vector too short", "F32_BLOB(2)", ["x'0000803f'"], "bytea", "blobs=keep", {"not-a-vector"}),
]


@pytest.mark.parametrize(
    ("declared", "values", "type_", "expected", "codes"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_a_column_gets_its_type(declared: str, values: list[str], type_: str, expected: str, codes: set[str]) -> None:
    found = column(declared, values)
    assert found.choice("t.a").type == type_
    assert found.choice("t.a").conversion.to == type_
    if expected:
        assert readings(found) == expected
    assert found.codes("t.a") == codes
    every_value_is_accepted(found, Newest(script(declared, values)))


def script(declared: str, values: list[str]) -> str:
    rows = "".join(f"INSERT INTO t(a) VALUES ({value});" for value in values)
    return f"CREATE TABLE t(id INTEGER PRIMARY KEY, a {declared}); {rows}"


def every_value_is_accepted(found: Survey, reader: Newest) -> None:
    """No value of `t.a` is refused by the conversion that was chosen for it."""
    conversion = found.choice("t.a").conversion
    for storage, value in reader.rows(
        "SELECT typeof(a), CASE typeof(a) WHEN 'text' THEN CAST(a AS BLOB) ELSE a END FROM t"
    ):
        raw = value
        if storage == "blob" and conversion.blobs == "jsonb":
            continue  # SQLite itself reads JSONB
        try:
            convert(raw, str(storage), conversion, "UTF-8")  # type: ignore[arg-type]
        except Refusal as refusal:
            raise AssertionError(f"{value!r} is refused by {conversion}: {refusal}") from None


DECLARED = st.sampled_from(
    [
        "INTEGER",
        "INT",
        "REAL",
        "NUMERIC",
        "DECIMAL(6,2)",
        "BOOLEAN",
        "DATETIME",
        "TIMESTAMP",
        "DATE",
        "TIME",
        "TEXT",
        "VARCHAR(4)",
        "JSON",
        "UUID",
        "BLOB",
        "",
        "STRING",
        "F32_BLOB(2)",
    ]
)
DIGITS = st.sampled_from("0123456789")
MOMENTS = st.builds(
    lambda day, gap, clock, zone: day + (gap + clock + zone if clock else ""),
    st.sampled_from(["2020-02-29", "2021-02-29", "2020-01-31", "2020-04-31", "0000-01-01", "0001-01-01", "9999-12-31"]),
    st.sampled_from([" ", "T", "  ", "t"]),
    st.sampled_from(
        ["", "03:04", "03:04:05", "03:04:05.1", "24:00:00", "23:59:60", "3:04", "03:04:05.1234567", "03:04:05."]
    ),
    st.sampled_from(["", "Z", "z", "+05:30", "-0930", "+00", " Z", "+15:00", "+5", " UTC"]),
)
TEXTS = st.one_of(
    MOMENTS,
    st.text(max_size=6).filter(lambda text: text.isprintable()),
    st.from_regex(r"-?[0-9]{1,21}(\.[0-9]{0,3})?", fullmatch=True),
    st.sampled_from(
        ["", "t", "F", "yes", "{}", '{"a":1}', "[1", "null", "12:30", U36[1:-1], BRACES[1:-1], U32[1:-1].upper()]
    ),
)
NUMBERS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, 2, 20200102, 20200230, 1577836800, 1577836800000, 13307547600000000, 2**53 + 1]),
    st.floats(allow_nan=False),
    st.sampled_from([2458849.5, 1700000000.25, 1700000000.1234567, 0.1, 19.99, 9999.99, 1e18]),
)
VALUES = st.lists(st.one_of(st.none(), TEXTS, NUMBERS, st.binary(max_size=9)), max_size=6)


@settings(max_examples=400, deadline=None)
@given(
    DECLARED,
    st.one_of(VALUES, st.lists(TEXTS, max_size=4), st.lists(MOMENTS, max_size=4), st.lists(NUMBERS, max_size=4)),
)
@example("DATETIME", [1700000000.1234567])
@example("BOOLEAN", [2**53 + 1, 2.0**63])
@example("DECIMAL(6,2)", [1e-7, 9999.995])
@example("UUID", ["{550E8400-E29B-41D4-A716-446655440001}", b"0123456789abcdef"])
def test_whatever_is_chosen_takes_every_value(declared: str, values: list[object]) -> None:
    reader = Newest(f"CREATE TABLE t(id INTEGER PRIMARY KEY, a {declared})")
    for value in values:
        reader.connection.execute("INSERT INTO t(a) VALUES (?)", (value,))
    found = survey(reader)
    if found.choice("t.a").conversion.blobs != "jsonb":
        every_value_is_accepted(found, reader)
    seen = found.seen("t.a")
    counts = dict(reader.connection.execute("SELECT typeof(a), count(*) FROM t GROUP BY 1"))
    assert [seen.nulls, seen.integers, seen.reals, seen.texts, seen.blobs] == [
        counts.get(name, 0) for name in ("null", "integer", "real", "text", "blob")
    ]


def test_nul_stops_the_plan_until_the_user_chooses() -> None:
    values = ["'a'||char(0)||'b'", "'ok'"]
    stopped = column("TEXT", values)
    assert stopped.finding("nul-in-text").level == "blocker"
    assert "1 texts" in stopped.finding("nul-in-text").says
    replaced = column("TEXT", values, options=Options(on_invalid_text="replace"))
    assert replaced.choice("t.a").conversion.invalid == "replace"
    assert replaced.finding("nul-in-text").level == "data"
    as_bytes = column("TEXT", values, options=Options(on_invalid_text="bytea"))
    assert as_bytes.choice("t.a").conversion.texts == "bytes"
    assert as_bytes.choice("t.a").type == "bytea"
    apart = column("TEXT", values, options=Options(on_invalid_text="quarantine", on_bad_row="quarantine"))
    assert (apart.choice("t.a").type, apart.choice("t.a").conversion.invalid) == ("text", "refuse")


def test_nul_behind_a_valid_form_is_seen() -> None:
    assert column("DATETIME", ["'2020-01-02'||char(0)||'x'"]).choice("t.a").type == "text"
    assert column("UUID", [f"{U36}||char(0)"]).choice("t.a").type == "text"
    assert column("BOOLEAN", ["'true'||char(0)"]).choice("t.a").type == "text"


def test_overrides_are_held_against_every_value() -> None:
    fits = column("INTEGER", ["1703073600", "1703073601"], "timestamptz from s")
    assert (fits.choice("t.a").type, readings(fits), fits.codes("t.a")) == ("timestamptz", "integers=s", set())
    wrong = column("TEXT", ["'12'", "'x'", "'y'"], "bigint")
    finding = wrong.finding("type-does-not-fit")
    assert (finding.level, "2 of 3" in finding.says, "2: 'x'" in finding.says) == ("blocker", True, True)
    kept = column("TEXT", ["'12'", "'x'"], "bigint", Options(on_bad_row="quarantine"))
    assert kept.finding("type-does-not-fit").level == "data"
    assert kept.choice("t.a").conversion.texts == "number"
    narrow = column("INTEGER", ["1", "3000000000"], "integer")
    assert narrow.finding("type-does-not-fit").level == "blocker"


def test_overrides_that_are_wrong_stop_the_plan() -> None:
    found = survey("CREATE TABLE t(a)", {"t.b": "text", "other.a": "text", "t.a": "timestamptz from noon"})
    assert [(finding.code, finding.level) for finding in found.findings] == [
        ("type-for-nothing", "blocker"),
        ("type-for-nothing", "note"),
        ("type-not-understood", "blocker"),
    ]


def test_empty_text_becomes_null_only_where_chosen() -> None:
    found = column("DATETIME", ["''", "'2020-01-02'"], "timestamp, empty as null")
    assert (found.choice("t.a").type, found.choice("t.a").conversion.empty) == ("timestamp", "null")
    assert found.finding("empty-as-null").says == "1 empty texts become NULL"
    clash = column("DATETIME NOT NULL", ["''"], "timestamp, empty as null")
    assert clash.finding("empty-as-null").level == "blocker"


def test_epochs_go_into_a_timestamp_that_the_user_names() -> None:
    found = column("INTEGER", ["1703073600000"], "timestamp(3) without time zone")
    assert readings(found) == "integers=ms"
    assert not found.findings


def test_keys_that_become_equal_stop_the_plan() -> None:
    mixed = survey("CREATE TABLE u(k BLOB PRIMARY KEY); INSERT INTO u VALUES (1),('1'),(x'31')")
    assert mixed.finding("keys-collide").level == "blocker"
    upper = f"CREATE TABLE u(k UUID PRIMARY KEY); INSERT INTO u VALUES ({U36}),(upper({U36}))"
    assert survey(upper).finding("keys-collide").level == "blocker"
    assert "keys-collide" not in survey("CREATE TABLE u(k PRIMARY KEY); INSERT INTO u VALUES (1),('2')").codes("u.k")


FAMILIES = """
CREATE TABLE p(id TEXT PRIMARY KEY); CREATE TABLE c(pid INTEGER REFERENCES p(id));
INSERT INTO p VALUES ('1'); INSERT INTO c VALUES (1);
CREATE TABLE r(id INTEGER PRIMARY KEY); CREATE TABLE s(rid TEXT REFERENCES r, other REFERENCES r(id));
INSERT INTO r VALUES (7); INSERT INTO s VALUES ('7', 7);
CREATE TABLE x(id INTEGER PRIMARY KEY); CREATE TABLE y(xid TEXT REFERENCES x(id)); INSERT INTO y VALUES ('none');
CREATE TABLE g(id UUID PRIMARY KEY); CREATE TABLE h(gid TEXT REFERENCES g(id));
INSERT INTO g VALUES ('550e8400-e29b-41d4-a716-446655440000');
INSERT INTO h VALUES ('550e8400-e29b-41d4-a716-446655440000');
"""


def test_columns_of_foreign_keys_are_typed_together() -> None:
    found = survey(FAMILIES)
    types = {".".join(place): choice.type for place, choice in found.choices.items()}
    assert types == {
        "p.id": "text",
        "c.pid": "text",
        "r.id": "bigint",
        "s.rid": "bigint",
        "s.other": "bigint",
        "x.id": "bigint",
        "y.xid": "text",
        "g.id": "uuid",
        "h.gid": "uuid",
    }
    assert found.choice("s.rid").conversion.texts == "number"
    assert found.codes("y.xid") == {"family-differs"}
    assert found.codes("c.pid") == found.codes("s.rid") == found.codes("h.gid") == {"type-of-family"}


def test_what_the_user_chose_goes_for_the_family() -> None:
    found = survey(FAMILIES, {"h.gid": "text"})
    assert (found.choice("g.id").type, found.choice("h.gid").type) == ("text", "text")


def test_vectors_without_pgvector_become_arrays() -> None:
    found = column("F32_BLOB(2)", ["x'0000803f00002040'"], options=Options(vectors=False))
    assert (found.choice("t.a").type, readings(found)) == ("real[]", "blobs=f32")
    assert found.codes("t.a") == {"vector-without-pgvector"}
    chosen = column("BLOB", ["x'0000803f00002040'", "x'0000803f01'"], "real[]")
    assert (readings(chosen), chosen.findings) == ("blobs=f32", ())


def test_strict_integers_are_not_scanned() -> None:
    reader = Newest(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, n INT, r REAL, s TEXT) STRICT; INSERT INTO t VALUES (1,2,3,'x')"
    )
    found = survey(reader)
    assert [choice.type for choice in found.choices.values()] == ["bigint", "bigint", "double precision", "text"]
    assert not any('"n"' in sql or '"r"' in sql for sql in reader.statements if "CASE WHEN" in sql)


@pytest.mark.parametrize(
    ("declared", "values", "says"),
    [
        (
            "INTEGER",
            ["1", "'abc'", "x'616263'", "2.5"],
            "it holds 1 integers, 1 reals, 1 texts, 1 blobs, more than bigint",
        ),
        ("INTEGER", ["1", "'abc'", "x'616263'", "2.5"], "kept as bytea for its 1 blobs; a text and a blob of the same"),
        ("INTEGER", ["1", "'abc'", "2.5"], "kept as text for its 1 texts; a number and a text of its digits"),
        ("INTEGER", ["1", "'abc'", "'b'"], "2 of 3 values are text, no bigint"),
        ("INTEGER", ["49", "x'3439'", "x'00'"], "values are blob, no bigint"),
    ],
)
def test_what_decided_on_text_or_bytes_is_told_as_a_change_of_data(declared: str, values: list[str], says: str) -> None:
    (told,) = column(declared, values).findings
    assert says in told.says
    assert told.level == "data"


def test_times_to_the_microsecond_are_not_told_as_rounded() -> None:
    found = column("TIMESTAMP", ["1700000000.123456789", "1700000001.5", "1700000002.123457"])
    (told,) = [finding for finding in found.findings if finding.code == "time-rounded"]
    assert told.says == "1 values are finer than a microsecond, and are rounded to it (1: 1700000000.1234567)"


@pytest.mark.parametrize("reader", [Newest, Oldest])
def test_old_and_new_sqlite_choose_alike(reader: type[Newest] | type[Oldest]) -> None:
    for name, declared, values, type_, _, codes in CASES:
        if any("jsonb(" in value for value in values):
            continue
        found = survey(reader(script(declared, values)))
        assert (found.choice("t.a").type, found.codes("t.a")) == (type_, codes), name


def test_affinity_is_sqlites_own() -> None:
    reader = Newest("SELECT 1")
    for declared in (
        "INT",
        "CHARINT",
        "FLOATING POINT",
        "CHAR(5)",
        "CLOB",
        "XBLOBY",
        "",
        "DOUBLE",
        "STRING",
        "DATE",
        "ANY",
        "REAL",
    ):
        reader.connection.execute(f"CREATE TABLE a(x {declared}); INSERT INTO a VALUES ('1.5'), (2), ('3')")
        stored = [kind for (kind,) in reader.rows("SELECT typeof(x) FROM a")]
        reader.connection.execute("DROP TABLE a")
        expected = {
            "INTEGER": ["real", "integer", "integer"],
            "NUMERIC": ["real", "integer", "integer"],
            "REAL": ["real", "real", "real"],
            "TEXT": ["text", "text", "text"],
            "BLOB": ["text", "integer", "text"],
        }
        assert stored == expected[affinity(declared)], declared


def test_declared_words() -> None:
    assert wish("  decimal ( 10 , 2 ) ").kind == "decimal"
    assert (wish("DECIMAL(10,2)").size, wish("DECIMAL(10,2)").scale) == (10, 2)
    assert wish("timestamp  with time zone").kind == "timestamp"
    assert is_sized_text(wish("NVARCHAR(20)"))
    assert not is_sized_text(wish("TEXT(20)"))
    assert base("timestamp(3) without time zone") == ("timestamp", 3, None)
    assert parse("numeric(10, 2), empty as null") == Asked("numeric(10, 2)", "", empty_as_null=True, chosen=True)
