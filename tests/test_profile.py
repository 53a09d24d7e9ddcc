"""Profiles: counts, shapes and samples, each against what a plain SELECT says; and what a scan costs."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from by_hand import make
from dbscale.drivers.sqlite import SqliteSource
from dbscale.migrate import profile as profiles
from dbscale.migrate.profile import DUPLICATE_KEYS, LONGEST, UNFIT_JSON, UTF8_BLOB, fits_jsonb, profile, samples
from dbscale.migrate.shapes import DATES, SHAPES, WINDOWS, decimal_shapes, shape, vector_shape
from dbscale.migrate.source import read_schema
from dbscale.migrate.types import wanted
from fix_types import Newest, Oldest, survey


def seen(reader: Newest | Oldest, shapes: dict[str, tuple[str, ...]]) -> profiles.TableProfile:
    return profile(reader, read_schema(reader).tables[0], shapes)


@pytest.mark.parametrize("kind", [Newest, Oldest])
def test_classes_shapes_ends_and_samples(kind: type[Newest] | type[Oldest]) -> None:
    reader = kind(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a DATETIME, n INT, s VARCHAR(9), b BLOB);"
        "INSERT INTO t VALUES (1,'2020-01-02 03:04:05',-5,'é😀',x'00ff'), (2,1577836800,7,'',x''),"
        "(3,'',NULL,'x'||char(0)||'yz',zeroblob(70000)), (4,'nonsense',9,NULL,NULL), (5,2458849.5,8,'abc','text')"
    )
    found = seen(reader, {"a": (*DATES, "epoch-s", "real-julian"), "n": ("zero",), "s": (LONGEST,), "b": ()})
    a, n, s, b = (found.columns[name] for name in "ansb")
    assert (a.integers, a.reals, a.texts, a.empty) == (1, 1, 3, 1)
    assert (a.shapes["iso-naive"], a.shapes["epoch-s"], a.shapes["real-julian"]) == (1, 1, 1)
    assert a.samples["text"] == ("4: 'nonsense'",)
    assert a.samples["epoch-s"] == ("2: 1577836800",)
    assert (n.nulls, n.integers, n.least, n.greatest) == (1, 4, -5, 9)
    assert (s.nul, s.longest, s.texts) == (1, 3, 4)
    assert (b.blobs, b.texts, b.nulls, b.widest) == (3, 1, 1, 70000)
    assert found.columns["id"].integers == found.rows == 5


@pytest.mark.parametrize("kind", [Newest, Oldest])
def test_what_comes_after_the_first_rows_is_counted(kind: type[Newest] | type[Oldest]) -> None:
    rows = (
        "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM r WHERE i<1000) INSERT INTO t SELECT i, i FROM r;"
    )
    reader = kind(f"CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER); {rows} UPDATE t SET n='late' WHERE id=777")
    found = seen(reader, {"n": ("integer-text", "empty")}).columns["n"]
    assert (found.integers, found.texts, found.samples["text"]) == (999, 1, ("777: 'late'",))
    assert (found.least, found.greatest) == (1, 1000)


def test_a_clean_table_is_scanned_once() -> None:
    reader = Newest(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, n INT, d DECIMAL(9,2), ok BOOL, at DATETIME, s TEXT);"
        "INSERT INTO t VALUES (1,2,3,1,'2020-01-02','x'), (2,3,4.25,0,'2020-01-03','y')"
    )
    found = survey(reader)
    scans = [sql for sql in reader.statements if "count(*)" in sql and "LIMIT" not in sql and '"t"' in sql]
    assert len(scans) == 1
    assert [choice.type for choice in found.choices.values()] == [
        *("bigint", "bigint", "numeric(9,2)", "boolean", "timestamp", "text")
    ]


@pytest.mark.parametrize("count", [1, 170, 1200])
@pytest.mark.parametrize("kind", [Newest, Oldest])
def test_many_columns(kind: type[Newest] | type[Oldest], count: int) -> None:
    names = ", ".join(f"c{at} DATETIME" for at in range(count))
    reader = kind(f"CREATE TABLE t({names}); INSERT INTO t(c0) VALUES ('x'),('2020-01-01')")
    found = survey(reader)
    assert found.choice("t.c0").type == "text"
    assert all(found.choice(f"t.c{at}").type == "timestamp" for at in range(1, count))


def test_names_that_need_quotes() -> None:
    found = survey(
        'CREATE TABLE "a ""b"("x y" INTEGER, "select" DATETIME, "{x}" TEXT); INSERT INTO "a ""b" VALUES (1, 5, 7)'
    )
    assert [choice.type for choice in found.choices.values()] == ["bigint", "bigint", "text"]


def test_tables_without_rowid_and_without_rows() -> None:
    found = survey(
        "CREATE TABLE k(a TEXT, b INT, v INTEGER, PRIMARY KEY(b, a)) WITHOUT ROWID; CREATE TABLE e(x DATETIME);"
        "INSERT INTO k VALUES ('p', 1, 'odd'), ('q', 2, 3)"
    )
    assert found.finding("text-in-integer").says.count("1, p: 'odd'") == 1
    assert found.profiles["e"].rows == 0
    assert found.choice("e.x").type == "timestamp"


def test_samples_are_printable_and_short() -> None:
    reader = Newest(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a);"
        "INSERT INTO t VALUES (1, CAST(x'66ff' AS TEXT)), (2, zeroblob(100)),"
        "(3, NULL), (4, replace(hex(zeroblob(500)),'0','x')), (5, 1.5)"
    )
    table = read_schema(reader).tables[0]
    shown = samples(reader, table, "a", "1", 9)
    assert shown[0] == r"1: 'f\xff'"
    assert shown[1] == "2: x'" + "00" * 24 + "'"
    assert shown[2] == "3: NULL"
    assert len(shown[3]) < 70
    assert shown[4] == "5: 1.5"


@pytest.mark.parametrize("kind", [Newest, Oldest])
@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_utf16_files_are_the_same(kind: type[Newest] | type[Oldest], encoding: str) -> None:
    found = survey(
        kind(
            f"""PRAGMA encoding='{encoding}';
            CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, d DATETIME, j JSON, u UUID, v VARCHAR(2));
            INSERT INTO t VALUES (1, 'é😀', '2020-01-02 03:04:05', '"\\ud83d\\ude00"', '{"12" * 15}ab', 'é😀'),
              (2, 'a'||char(0), 'nie', NULL, NULL, NULL)"""
        )
    )
    types = [choice.type for choice in found.choices.values()]
    assert types == ["bigint", "text", "text", "jsonb", "uuid", "varchar(2)"]
    assert "(2: 'nie')" in found.finding("not-a-time").says
    assert found.seen("t.a").nul == 1


def test_json_that_jsonb_refuses_and_keys_twice() -> None:
    reader = Newest(
        r"""CREATE TABLE t(a JSON);
        INSERT INTO t VALUES ('"\ud83d\ude00"'), ('"\ud83d"'), ('"\u0000"'), ('"\\u0000"'),
          ('{"a":1,"b":{"a":2}}'), ('[[{"k":1,"k":1}]]')"""
    )
    found = seen(reader, {"a": ("json", "json-escaped", DUPLICATE_KEYS)}).columns["a"]
    assert (found.shapes[UNFIT_JSON], found.shapes[DUPLICATE_KEYS]) == (2, 1)
    assert found.shapes["json"] + found.shapes["json-escaped"] == 6


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('{"a":1,"b":{"a":2},"c":[{"a":1},{"a":1}]}', 0),
        ('{"a":[],"":{},"b":"\\u0061"}', 0),
        ('[{"x":{"k":1,"l":[{"k":2}],"k":3}}]', 1),
        ('{"a":1,"\\u0061":2}', 1),
        ('{"감":1,"감":2}', 1),
        ('{"' + '":0,"'.join(map(str, range(600))) + '":1}', 0),
    ],
)
def test_keys_that_come_twice(text: str, count: int) -> None:
    reader = Newest("CREATE TABLE t(a JSON)")
    list(reader.rows("INSERT INTO t VALUES (?)", (text,)))
    shapes = seen(reader, {"a": ("json", DUPLICATE_KEYS)}).columns["a"].shapes
    assert (shapes["json"], shapes[DUPLICATE_KEYS]) == (1, count)


@given(st.text(alphabet="\\u0d89abcDE", max_size=14))
def test_escapes_are_read_as_json_reads_them(inner: str) -> None:
    import json

    text = f'"{inner}"'
    try:
        value = json.loads(text)
    except ValueError:
        return
    refused = "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value)
    assert fits_jsonb(text) is not refused


def test_utf8_blobs_are_counted() -> None:
    reader = Newest("CREATE TABLE t(a TEXT); INSERT INTO t VALUES (x'c3a9'), (x'ff'), (x'6100'), ('x')")
    assert seen(reader, {"a": (UTF8_BLOB,)}).columns["a"].shapes[UTF8_BLOB] == 1


@pytest.mark.parametrize("kind", [Newest, Oldest])
def test_every_shape_is_a_condition_that_is_never_null(kind: type[Newest] | type[Oldest]) -> None:
    reader = kind(
        "CREATE TABLE v(x); INSERT INTO v VALUES (''),('x'),('{'),(0),(-5),(9e999),(1.5),(x''),(x'00'),(x'ff')"
    )
    names = [*SHAPES, *decimal_shapes(10, 2), *decimal_shapes(40, 30), vector_shape(4, 3, 1), vector_shape(8, 3, 2)]
    for name in names:
        if name == "jsonb-blob" and reader.library < (3, 45, 0):
            continue
        asked = shape(name)
        sql = f"SELECT count(*) FROM v WHERE typeof(x)='{asked.storage}' AND ({asked.sql.replace('{x}', 'x')}) IS NULL"
        assert list(reader.rows(sql)) == [(0,)], name


def test_windows_of_epochs_do_not_overlap() -> None:
    ends = [end for window in WINDOWS.values() for end in window]
    assert ends == sorted(ends)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 15), st.data())
def test_a_decimal_that_fits_is_exact(precision: int, data: st.DataObject) -> None:
    from decimal import Decimal

    scale = data.draw(st.integers(0, precision))
    value = data.draw(st.one_of(st.floats(-1e16, 1e16), st.integers(-(10**15), 10**15).map(lambda n: n / 10**scale)))
    connection = apsw.Connection(":memory:")
    sql = shape(decimal_shapes(precision, scale)[1]).sql.replace("{x}", "?1")
    ((fits,),) = connection.execute(f"SELECT {sql}", (value,))
    exact = Decimal(repr(value))
    if fits:
        assert exact == exact.quantize(Decimal(1).scaleb(-scale))
        assert abs(exact) < 10 ** (precision - scale)


def test_a_real_file_with_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE t(a TEXT); CREATE TABLE u(a)")
    connection.execute("INSERT INTO t SELECT hex(randomblob(2000)) FROM json_each('[1,2,3,4,5,6,7,8,9]')")
    connection.close()
    with SqliteSource(str(path)).snapshot(1) as (reader,):
        schema = read_schema(reader)
        found = {table.name: profile(reader, table, wanted(schema)[table.name]) for table in schema.tables}
    assert 36_000 < found["t"].bytes < 80_000
    assert found["t"].columns["a"].widest == 4000


@pytest.mark.slow
def test_a_million_rows_take_seconds() -> None:
    """The usual columns, in processor time, which other work on the machine does not change much."""
    reader = Newest(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, user_id INT, price DECIMAL(10,2), paid BOOLEAN, at DATETIME, s TEXT);"
        "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM r WHERE i<1000000)"
        "INSERT INTO t SELECT i, i%1000, (i%9999)/100.0, i%2, datetime(1700000000+i,'unixepoch'), 'note '||i FROM r"
    )
    schema = read_schema(reader)
    start = time.process_time()
    profile(reader, schema.tables[0], wanted(schema)["t"])
    assert time.process_time() - start < 4


def test_control_c_waits_for_no_scan(tmp_path: Path) -> None:
    """A plan reads all of a database, which can take long: here each value takes milliseconds to be worked out."""
    path = make(
        tmp_path / "slow.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY);"
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 5000) INSERT INTO t SELECT i FROM n;"
        "ALTER TABLE t ADD COLUMN v AS (length(replace(hex(zeroblob(id % 2 + 200000)), '0', 'ab')))",
    )
    with subprocess.Popen(
        [sys.executable, "-m", "dbscale.cli", "assess", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            assert "reading 1 tables" in process.stderr.readline()
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode == 130, said
