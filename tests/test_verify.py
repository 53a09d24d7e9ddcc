# ruff: noqa: E501 - one case a line reads best
"""A value changed in the target, whatever its type, is found and named; what is the same is never reported."""

from __future__ import annotations

import dataclasses
import json
import operator
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from by_hand import control_c_behind_a_lock
from dbscale import native
from dbscale.cli import run
from dbscale.drivers import postgres
from dbscale.drivers.sqlite import SqliteSource
from dbscale.errors import SourceError
from dbscale.migrate import canonical, verify_buckets, verify_views
from dbscale.migrate.cells import BY_SIZE
from dbscale.migrate.encode import Encoder, Range
from dbscale.migrate.verify import Report, verify
from dbscale.migrate.verify_rows import canonical_key
from dbscale.plan import Conversion, Load, LoadColumn

KEEP = Conversion(to="bigint", integers="keep")
TEXT = Conversion(to="text", texts="keep")
VECTOR = struct.pack("<2f", 0.5, -1.25)

# name, conversion, a value of the source, and another value in the target
COLUMNS: list[tuple[str, Conversion, Any, str]] = [
    ("integer_", KEEP, 2**53 + 1, "9007199254740992"),
    ("small", Conversion(to="smallint", integers="keep"), -7, "7"),
    ("float_", Conversion(to="double precision", reals="keep", integers="keep"), 0.1, "0.10000000000000002"),
    ("whole", Conversion(to="bigint", reals="whole", integers="keep"), 3.0, "4"),
    ("price", Conversion(to="numeric(10,2)", reals="shortest", integers="keep"), 19.99, "19.98"),
    ("exact", Conversion(to="numeric", texts="number", reals="shortest"), "12345678901234567890.10", "12345678901234567890.11"),
    ("long_real", Conversion(to="numeric", reals="shortest"), 0.1 + 0.2, "0.30000000000000003"),
    ("flag", Conversion(to="boolean", integers="bool", texts="bool"), 1, "false"),
    ("word", Conversion(to="boolean", integers="bool", texts="bool"), "no", "true"),
    ("text_", TEXT, "it's\n한국어 \\N\t", "'it''s\n한국어 \\N'"),
    ("empty", TEXT, "", "NULL"),
    ("null_", TEXT, None, "''"),
    ("limited", Conversion(to="varchar(5)", texts="keep"), "abc", "'abc '"),
    ("bytes_", Conversion(to="bytea", blobs="keep", texts="bytes"), b"\x00\xff", r"'\x00fe'"),
    ("uuid_", Conversion(to="uuid", texts="uuid", blobs="uuid"), "550E8400-E29B-41D4-A716-446655440000", "'550e8400-e29b-41d4-a716-446655440001'"),
    ("document", Conversion(to="jsonb", texts="json"), '{"b": 1.10, "a": [1, null, "é"]}', """'{"a": [1, null, "e"], "b": 1.1}'"""),
    ("zeros", Conversion(to="jsonb", texts="json"), "[1.10]", "'[true]'"),
    ("json_", Conversion(to="json", texts="json"), '{"b": 1, "a": 2}', """'{"a": 2, "b": 1}'"""),
    ("moment", Conversion(to="timestamp", texts="iso"), "2020-01-02 03:04:05.678901", "'2020-01-02 03:04:05.678902'"),
    ("zoned", Conversion(to="timestamptz", texts="iso"), "2020-01-02T03:04:05+05:30", "'2020-01-02 03:04:05+00'"),
    ("seconds", Conversion(to="timestamptz", integers="s"), 1577934245, "'2020-01-02 03:04:06+00'"),
    ("millis", Conversion(to="timestamptz", integers="ms"), -1, "'1970-01-01 00:00:00+00'"),
    ("sized", Conversion(to="timestamptz", integers="by-size"), 1577934245000000, "'2020-01-02 03:04:06+00'"),
    ("fraction", Conversion(to="timestamptz", reals="s", integers="s", texts="iso"), 1577934245.678901, "'2020-01-02 03:04:05.678902+00'"),
    ("fine_millis", Conversion(to="timestamp", reals="ms"), 1577934245678.5, "'2020-01-02 03:04:05.6785'::timestamp + '1 us'"),
    ("apple", Conversion(to="timestamptz", reals="apple-s"), 599627045.5, "'2020-01-02 03:04:06.5+00'"),
    ("rounded", Conversion(to="timestamp", texts="iso", rounded=True), "2020-01-02 03:04:05.1234567", "'2020-01-02 03:04:05.123456'"),
    ("day", Conversion(to="date", texts="iso"), "2020-02-29", "'2020-03-01'"),
    ("days", Conversion(to="date", integers="days"), 18262, "'2020-01-02'"),
    ("clock", Conversion(to="time", texts="iso"), "12:30", "'12:30:00.000001'"),
    ("julian", Conversion(to="timestamp", reals="julian"), 2458849.75, "'2020-01-01 06:00:00.001'"),
    ("vector", Conversion(to="real[]", blobs="f32"), VECTOR, "'{0.5,-1.5}'"),
    ("number_text", Conversion(to="text", reals="text", integers="text"), 2.5, "'2.50'"),
]  # fmt: skip
NAMES = [column[0] for column in COLUMNS]


@pytest.fixture
def target(database: str) -> Iterator[postgres.Connection]:
    connection = postgres.connect(database)
    yield connection
    connection.close()


@dataclasses.dataclass
class Pair:
    """A table `t` on both sides."""

    path: Path
    url: str
    load: Load

    def verify(self, **more: Any) -> Report:
        return verify(SqliteSource(str(self.path)), lambda: postgres.connect(self.url), [self.load], None, **more)

    def found(self, **more: Any) -> list[tuple[str, str, str]]:
        """Kind, key and column of every difference; that the counts agree with the samples is checked on the way."""
        report = self.verify(**more)
        (table,) = report.tables
        assert not report.findings
        assert report.same == (not table.samples)
        kinds = [sample.kind for sample in table.samples]
        assert (table.missing, table.extra) == (kinds.count("missing"), kinds.count("extra"))
        assert table.different == len({sample.key for sample in table.samples if sample.kind == "different"})
        return sorted((sample.kind, sample.key, sample.column) for sample in table.samples)


def pair(path: Path, url: str, columns: list[tuple[str, Conversion]], rows: list[tuple[Any, ...]], **more: Any) -> Pair:
    """The table made, filled and copied. `more`: the table's `key`, `rowid`, and `sql` that creates it."""
    names = [name for name, _ in columns]
    sql = more.pop("sql", f"CREATE TABLE t (id INTEGER PRIMARY KEY, {', '.join(names[1:])})")
    encoding = more.pop("encoding", "UTF-8")
    path.unlink(missing_ok=True)
    source = apsw.Connection(str(path))
    source.execute(f"PRAGMA encoding='{encoding}'")
    source.execute(sql)
    with source:
        source.executemany(f"INSERT INTO t ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})", rows)
    source.close()
    load = Load(
        does="",
        table="t",
        schema="public",
        target="t",
        columns=tuple(LoadColumn(source=name, target=name, conversion=conversion) for name, conversion in columns),
        rows=len(rows),
        bytes=len(rows) * 100,
        **({"key": ("id",), "rowid": "id"} | more),
    )
    with postgres.connect(url) as target, SqliteSource(str(path)).snapshot(1) as (reader,):
        types = ", ".join(f"{name} {conversion.to}" for name, conversion in columns)
        target.execute(f"DROP TABLE IF EXISTS t; CREATE TABLE t ({types})")
        encoder = Encoder(load, reader.library, reader.function_arguments, encoding=encoding)
        with target.cursor() as cursor, cursor.copy(encoder.copy_sql) as copy:
            for batch in encoder.batches(reader, Range()):
                assert not batch.refused
                copy.write(batch.data)
    return Pair(path=path, url=url, load=load)


def every_type(path: Path, url: str, **more: Any) -> Pair:
    columns = [("id", KEEP), *((name, conversion) for name, conversion, _, _ in COLUMNS)]
    values = [value for _, _, value, _ in COLUMNS]
    return pair(path, url, columns, [(number, *values) for number in range(1, 6)], **more)


@pytest.mark.parametrize("keyless", [False, True], ids=["by range", "as multiset"])
def test_every_type_unchanged_and_changed(
    database: str, target: postgres.Connection, tmp_path: Path, keyless: bool
) -> None:
    more = (
        {"sql": f"CREATE TABLE t (id, {', '.join(NAMES)}, PRIMARY KEY (id)) WITHOUT ROWID", "rowid": ""}
        if keyless
        else {}
    )
    both = every_type(tmp_path / "x.db", database, **more)
    assert both.found() == []
    for name, _, _, other in COLUMNS:
        (before,) = target.execute(f"SELECT {name}::text FROM t WHERE id = 3").fetchone() or ()
        target.execute(f"UPDATE t SET {name} = {other} WHERE id = 3")
        assert both.found() == [("different", "id = 3", name)], name
        (sample,) = both.verify().tables[0].samples
        assert sample.source != sample.target, name
        (after,) = target.execute(f"SELECT {name}::text FROM t WHERE id = 3").fetchone() or ()
        assert sample.target == ("NULL" if after is None else after)
        target.execute(f"UPDATE t SET {name} = %s::text::{_type(name)} WHERE id = 3", [before])
    assert both.found() == []


def _type(name: str) -> str:
    return next(conversion.to for column, conversion, _, _ in COLUMNS if column == name)


def test_both_zeros_arrive(database: str, target: postgres.Connection, tmp_path: Path) -> None:
    columns = [("id", KEEP), ("v", Conversion(to="double precision", reals="keep"))]
    both = pair(tmp_path / "x.db", database, columns, [(1, -0.0), (2, 0.0)])
    assert target.execute("SELECT v::text FROM t ORDER BY id").fetchall() == [("-0",), ("0",)]
    assert both.found() == []
    target.execute("UPDATE t SET v = -v")
    assert both.found() == [("different", "id = 1", "v"), ("different", "id = 2", "v")]


def test_values_that_are_null_on_one_side(database: str, target: postgres.Connection, tmp_path: Path) -> None:
    both = every_type(tmp_path / "x.db", database)
    names = [name for name in NAMES if name not in ("null_", "empty")]
    target.execute(f"UPDATE t SET {', '.join(f'{name} = NULL' for name in names)} WHERE id = 2")
    assert both.found(samples=100) == sorted(("different", "id = 2", name) for name in names)


@pytest.mark.parametrize("pure", ["", "1"])
@pytest.mark.parametrize("more", [{}, {"sql": "CREATE TABLE t (id, b, v)", "rowid": "rowid", "key": ()}])
def test_nothing_and_null_are_two_values(  # noqa: PLR0917 - fixtures
    database: str,
    target: postgres.Connection,
    tmp_path: Path,
    pure: str,
    more: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DBSCALE_PURE_SQL", pure)
    columns = [("id", KEEP), ("b", Conversion(to="bytea", blobs="keep")), ("v", TEXT)]
    both = pair(tmp_path / "x.db", database, columns, [(1, None, None), (2, b"", ""), (3, b"x", "x")], **more)
    assert both.found() == []
    for sql in ("b = '' WHERE id = 1", "b = NULL WHERE id = 2", "v = '' WHERE id = 1", "v = NULL WHERE id = 2"):
        target.execute(f"CREATE TABLE kept AS TABLE t; UPDATE t SET {sql}".encode())
        assert both.found(), sql
        target.execute("TRUNCATE t; INSERT INTO t SELECT * FROM kept; DROP TABLE kept")


ROWS = [(number, f"row {number}") for number in range(1, 3001)]
CHANGES = [
    ("DELETE FROM t WHERE id = 1500", [("missing", "id = 1500", "")]),
    ("DELETE FROM t WHERE id IN (1, 3000)", [("missing", "id = 1", ""), ("missing", "id = 3000", "")]),
    ("INSERT INTO t VALUES (0, 'x'), (3001, 'y')", [("extra", "id = 0", ""), ("extra", "id = 3001", "")]),
    ("INSERT INTO t VALUES (-9223372036854775808, 'x')", [("extra", "id = -9223372036854775808", "")]),
    ("INSERT INTO t SELECT * FROM t WHERE id = 7", [("extra", "id = 7", "")]),
    (
        "UPDATE t SET v = 'row ' || 2001 - id WHERE id IN (1000, 1001)",
        [("different", "id = 1000", "v"), ("different", "id = 1001", "v")],
    ),
    ("UPDATE t SET id = -5 WHERE id = 5", [("extra", "id = -5", ""), ("missing", "id = 5", "")]),
    ("TRUNCATE t", None),
]


@pytest.mark.parametrize("mode", ["by range", "text key", "no key"])
def test_rows_deleted_added_doubled_and_swapped(
    database: str, target: postgres.Connection, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_buckets, "ROWS_A_BUCKET", 100)
    more: dict[str, Any] = {
        "by range": {},
        "text key": {"sql": "CREATE TABLE t (id PRIMARY KEY, v) WITHOUT ROWID", "rowid": ""},
        "no key": {"sql": "CREATE TABLE t (id, v)", "rowid": "rowid", "key": ()},
    }[mode]
    both = pair(tmp_path / "x.db", database, [("id", KEEP), ("v", TEXT)], ROWS, **more)
    assert both.found() == []
    for sql, expected in CHANGES:
        target.execute("BEGIN")
        target.execute("CREATE TABLE kept AS TABLE t")
        target.execute("COMMIT")
        target.execute(sql)
        if expected is None:
            (table,) = both.verify().tables
            assert (table.missing, table.source_rows, table.target_rows) == (3000, 3000, 0)
            assert len(table.samples) == 20
        elif mode == "no key":
            rows = {key.split(" = ")[1] for _, key, _ in expected}
            assert {key.split(", ")[0].split(" = ")[1] for _, key, _ in both.found()} == rows, sql
        else:
            assert both.found() == expected, sql
        target.execute("TRUNCATE t; INSERT INTO t SELECT * FROM kept; DROP TABLE kept")
    assert both.found() == []


def test_duplicates_count(database: str, target: postgres.Connection, tmp_path: Path) -> None:
    rows = [(1, "a"), (1, "a"), (1, "a"), (None, None)]
    more = {"sql": "CREATE TABLE t (id, v)", "rowid": "rowid", "key": ()}
    both = pair(tmp_path / "x.db", database, [("id", KEEP), ("v", TEXT)], rows, **more)
    assert both.found() == []
    target.execute("DELETE FROM t WHERE ctid = (SELECT max(ctid) FROM t WHERE id = 1)")
    assert both.found() == [("missing", "id = 1, v = a", "")]


def test_lines_are_not_confused(database: str, target: postgres.Connection, tmp_path: Path) -> None:
    """Quotes, commas and line ends in values do not make two different tables look the same."""
    rows = [(1, "a,'b", "c"), (2, "x\n3", "'y'"), (3, "NULL", None), (4, "", "','")]
    columns = [("id", KEEP), ("v", TEXT), ("w", TEXT)]
    both = pair(tmp_path / "x.db", database, columns, rows)
    assert both.found() == []
    for number, (v, w) in {1: ("a", "'b,c"), 2: ("x", "3\n'y'"), 3: (None, "NULL"), 4: ("','", "")}.items():
        target.execute("UPDATE t SET v = %s, w = %s WHERE id = %s", [v, w, number])
        assert {key for _, key, _ in both.found()} == {f"id = {n}" for n in range(1, number + 1)}


def test_utf16_files(database: str, target: postgres.Connection, tmp_path: Path) -> None:
    rows = [(1, "é😀"), (2, "한국어")]
    both = pair(tmp_path / "x.db", database, [("id", KEEP), ("v", TEXT)], rows, encoding="UTF-16le")
    assert both.found() == []
    target.execute("UPDATE t SET v = 'é' WHERE id = 1")
    assert both.found() == [("different", "id = 1", "v")]


def test_large_values(database: str, target: postgres.Connection, tmp_path: Path) -> None:
    binary = Conversion(to="bytea", blobs="keep", texts="bytes")
    columns = [("id", KEEP), ("v", TEXT), ("w", binary)]
    rows = [(1, "é" * 3_000_000, b"\x01" * 5_000_000), (2, "small", b"")]
    both = pair(tmp_path / "x.db", database, columns, rows, widest=6_000_000)
    assert both.found() == []
    target.execute("UPDATE t SET v = left(v, -1) || 'e' WHERE id = 1")
    target.execute(r"UPDATE t SET w = set_byte(w, 4999999, 2) WHERE id = 1")
    assert both.found() == [("different", "id = 1", "v"), ("different", "id = 1", "w")]


@pytest.mark.parametrize("keyless", [False, True])
def test_rows_kept_apart_are_not_expected(
    database: str, target: postgres.Connection, tmp_path: Path, keyless: bool
) -> None:
    more = {"sql": "CREATE TABLE t (id PRIMARY KEY, v) WITHOUT ROWID", "rowid": ""} if keyless else {}
    both = pair(tmp_path / "x.db", database, [("id", KEEP), ("v", TEXT)], [(1, "a"), (2, "b"), (3, "c")], **more)
    target.execute("DELETE FROM t WHERE id = 2")
    source = apsw.Connection(str(both.path))
    source.execute("UPDATE t SET v = x'ff' WHERE id = 2")
    source.close()
    assert both.found() == [("missing", "id = 2", "")]
    report = both.verify(quarantined={"t": [canonical_key({"id": 2})]})
    assert report.same
    (table,) = report.tables
    assert (table.source_rows, table.target_rows, table.quarantined) == (3, 2, 1)


def test_a_value_that_its_conversion_does_not_read_is_never_the_same(
    database: str, target: postgres.Connection, tmp_path: Path
) -> None:
    both = pair(
        tmp_path / "x.db",
        database,
        [("id", KEEP), ("v", Conversion(to="timestamp", texts="iso"))],
        [(1, "2020-03-01 00:00:00")],
    )
    source = apsw.Connection(str(both.path))
    for value in (
        "2020-02-30 00:00:00",
        "2020-03-01 00:00:00 ",
        "now",
        "2020-02-29 24:00:00",
        1583020800,
        b"2020-03-01",
    ):
        source.execute("UPDATE t SET v = ?", (value,))
        assert both.found() == [("different", "id = 1", "v")], value
    source.close()


def test_many_differences_are_counted(
    database: str, target: postgres.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_buckets, "MOST_LOOKED_AT", 500)
    monkeypatch.setattr(verify_buckets, "ROWS_A_BUCKET", 100)
    more = {"sql": "CREATE TABLE t (id PRIMARY KEY, v) WITHOUT ROWID", "rowid": ""}
    both = pair(tmp_path / "x.db", database, [("id", KEEP), ("v", TEXT)], ROWS, **more)
    target.execute("UPDATE t SET v = v || '!'")
    (table,) = both.verify(samples=3).tables
    assert not table.complete
    assert not table.same
    assert 0 < table.different < 3000
    assert len(table.samples) == 3


def test_several_jobs_and_progress(database: str, tmp_path: Path) -> None:
    both = pair(tmp_path / "x.db", database, [("id", KEEP), ("v", TEXT)], ROWS)
    seen: list[int] = []
    report = both.verify(jobs=3, progress=lambda _table, rows: seen.append(rows))
    assert report.same
    assert sum(seen) == len(ROWS)


def test_a_table_that_cannot_be_compared(database: str, target: postgres.Connection, tmp_path: Path) -> None:
    both = pair(tmp_path / "x.db", database, [("id", KEEP), ("v", TEXT)], ROWS[:5])
    target.execute("ALTER TABLE t RENAME COLUMN v TO other")
    report = both.verify()
    assert [finding.code for finding in report.findings] == ["verify-not-compared"]
    assert not report.same


def test_a_source_that_breaks_off(database: str, tmp_path: Path) -> None:
    both = pair(tmp_path / "x.db", database, [("id", KEEP), ("v", TEXT)], ROWS)
    content = bytearray(both.path.read_bytes())
    content[8192:20480] = b"\xff" * 12288
    both.path.write_bytes(content)
    with pytest.raises(SourceError):
        both.verify()


def test_control_c_waits_for_no_table(database: str, tmp_path: Path) -> None:
    both = pair(tmp_path / "x.db", database, [("id", KEEP), ("v", TEXT)], ROWS)
    with control_c_behind_a_lock(database, "t"):
        both.verify()
    assert both.verify().same


# ── spellings ─────────────────────────────────────────────────────────────────────────────────────────────────────

VALUES = (
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.builds(operator.add, st.sampled_from([sign * end for sign in (1, -1) for end in BY_SIZE]), st.integers(-2, 2))
    | st.floats(allow_nan=False)
    | st.builds(round, st.floats(-1e12, 1e12), st.integers(1, 7))
    | st.text(max_size=20)
    | st.datetimes().map(str)
    | st.binary(max_size=20)
)


@pytest.mark.parametrize("conversion", [column[1] for column in COLUMNS], ids=NAMES)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(VALUES, min_size=1, max_size=20))
def test_sqlite_and_python_spell_alike(conversion: Conversion, values: list[Any]) -> None:
    """Where SQLite spells a value, Python spells it the same."""
    if canonical.is_jsonb(conversion):
        return
    import apsw.sqlite_extra

    connection = apsw.Connection(":memory:")
    apsw.sqlite_extra.load(connection, "ieee754")
    connection.execute("CREATE TABLE t (v)")
    spelling = canonical.source_sql("t.v", conversion, (3, 54, 0), floats=True)
    for value in values:
        stored = value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        connection.execute("DELETE FROM t")
        connection.execute("INSERT INTO t VALUES (?)", (stored,))
        storage, fits, text = connection.execute(
            f"SELECT typeof(v), CASE WHEN {spelling.test} THEN 1 END, CASE WHEN {spelling.test} THEN {spelling.text} END FROM t"
        ).get
        if fits:
            raw = stored.encode() if isinstance(stored, str) else stored
            mine = canonical.spell(raw, storage, conversion, "UTF-8")
            assert (None if text is None else str(text)) == mine, repr(stored)


# ── the command, and the schema ───────────────────────────────────────────────────────────────────────────────────

SCHEMA = """
CREATE TABLE parents (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, born DATE DEFAULT '2000-01-01');
CREATE TABLE children (
  id INTEGER PRIMARY KEY, parent_id INTEGER REFERENCES parents (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
  age INTEGER CHECK (age BETWEEN 0 AND 150), active BOOLEAN NOT NULL DEFAULT 1, price DECIMAL(10,2),
  doubled INTEGER GENERATED ALWAYS AS (age * 2) STORED);
CREATE INDEX children_age ON children (age DESC, parent_id);
CREATE UNIQUE INDEX children_active ON children (parent_id) WHERE active = 1;
CREATE VIEW grown AS SELECT id, age FROM children WHERE age >= 18;
INSERT INTO parents (id, name) VALUES (1, 'a'), (9, 'b');
DELETE FROM parents WHERE id = 9;
INSERT INTO children (id, parent_id, age, active, price) VALUES (1, 1, 20, 1, 9.95), (2, NULL, 3, 0, 1);
"""
TAMPERED = [
    ("DROP INDEX children_age", "verify-index"),
    ("DROP INDEX children_age; CREATE INDEX children_age ON children (age, parent_id)", "verify-index"),
    ("DROP INDEX children_active; CREATE UNIQUE INDEX children_active ON children (parent_id)", "verify-index"),
    ("ALTER TABLE children ALTER active DROP NOT NULL", "verify-column"),
    ("ALTER TABLE children ALTER active DROP DEFAULT", "verify-default"),
    ("ALTER TABLE children ALTER active SET DEFAULT false", "verify-default"),
    ("ALTER TABLE children ALTER price TYPE numeric(12,2)", "verify-column"),
    ("ALTER TABLE children DROP CONSTRAINT {check}", "verify-check"),
    (
        "ALTER TABLE children DROP CONSTRAINT {check}; ALTER TABLE children ADD CONSTRAINT {check} CHECK (age >= 0)",
        "verify-check",
    ),
    ("ALTER TABLE children DROP CONSTRAINT {foreign}", "verify-foreign-key"),
    (
        "ALTER TABLE children DROP CONSTRAINT {foreign}; ALTER TABLE children ADD CONSTRAINT {foreign} FOREIGN KEY (parent_id) REFERENCES parents (id)",
        "verify-foreign-key",
    ),
    (
        "ALTER TABLE children DROP CONSTRAINT {foreign}; ALTER TABLE children ADD CONSTRAINT {foreign} FOREIGN KEY (parent_id) REFERENCES parents (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED NOT VALID",
        "verify-foreign-key",
    ),
    (
        "ALTER TABLE children DROP CONSTRAINT {check}; ALTER TABLE children ADD CONSTRAINT {check} CHECK (age BETWEEN 0 AND 150) NOT VALID",
        "verify-check",
    ),
    ("ALTER TABLE parents DROP CONSTRAINT {unique}", "verify-key"),
    ("ALTER TABLE children DROP CONSTRAINT {primary}", "verify-key"),
    ("ALTER TABLE parents ALTER id RESTART WITH 5", "verify-identity"),
    ("ALTER TABLE parents ALTER id DROP IDENTITY", "verify-identity"),
    ("DROP VIEW grown", "verify-view-missing"),
    ("CREATE OR REPLACE VIEW grown AS SELECT id, age FROM children WHERE age >= 3", "verify-view"),
    ("DROP VIEW grown; DROP TABLE children", "verify-table-missing"),
]


@pytest.fixture
def migrated(database: str, tmp_path: Path) -> Path:
    path = tmp_path / "family.db"
    connection = apsw.Connection(str(path))
    connection.execute(SCHEMA)
    connection.close()
    assert run(["migrate", str(path), database, "--yes", "--no-verify"]) == 0
    return path


def test_the_schema(
    migrated: Path, database: str, target: postgres.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    def codes() -> set[str]:
        capsys.readouterr()
        status = run(["verify", str(migrated), database, "--json"])
        answer = json.loads(capsys.readouterr().out)
        assert status == (0 if answer["same"] else 1)
        assert not [finding for finding in answer["findings"] if "None" in finding["says"]]
        return {finding["code"] for finding in answer["findings"] if finding["level"] != "note"}

    assert codes() == set()
    names = dict(
        target.execute(
            "SELECT CASE contype WHEN 'c' THEN 'check' WHEN 'f' THEN 'foreign' WHEN 'u' THEN 'unique' ELSE 'primary' END,"
            " quote_ident(conname) FROM pg_constraint WHERE contype IN ('c', 'f', 'u')"
            " OR contype = 'p' AND conrelid = 'children'::regclass"
        ).fetchall()
    )
    for sql, code in TAMPERED:
        with postgres.connect(database) as other:
            before = _dump(other)
        target.execute(sql.format(**names))
        assert code in codes(), sql
        _restore(database, migrated, target)
        with postgres.connect(database) as other:
            assert _dump(other) == before


def test_what_makes_the_target_behave_otherwise(
    migrated: Path, database: str, target: postgres.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    target.execute(
        "ALTER TABLE children ADD COLUMN more text; ALTER TABLE children ENABLE ROW LEVEL SECURITY;"
        "ALTER TABLE children SET UNLOGGED; ALTER TABLE children DISABLE TRIGGER ALL"
    )
    capsys.readouterr()
    assert run(["verify", str(migrated), database, "--json"]) == 1
    found = {finding["code"]: finding["where"] for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert found.pop("verify-foreign-key").startswith("public.children: ")
    assert found == {
        "verify-column": "public.children.more",
        "verify-row-security": "public.children",
        "verify-unlogged": "public.children",
    }
    assert run(["verify", str(migrated), database]) == 1
    assert "differs: public.children: it is UNLOGGED" in capsys.readouterr().out
    target.execute("ALTER TABLE children ENABLE TRIGGER ALL; ALTER TABLE parents DISABLE TRIGGER ALL")
    assert run(["verify", str(migrated), database]) == 1
    assert "its triggers are disabled" in capsys.readouterr().out


def test_what_the_application_has_added_is_a_note(
    migrated: Path, database: str, target: postgres.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    target.execute(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER mine BEFORE INSERT ON children FOR EACH ROW EXECUTE FUNCTION f();"
        "CREATE TRIGGER off BEFORE INSERT ON children FOR EACH ROW EXECUTE FUNCTION f();"
        "ALTER TABLE children DISABLE TRIGGER off; CREATE RULE kept AS ON DELETE TO children DO INSTEAD NOTHING;"
        "ALTER TABLE children ALTER age SET DEFAULT 3; ALTER TABLE children ADD CONSTRAINT born CHECK (age > 0);"
        "CREATE UNIQUE INDEX once ON children (price); CREATE INDEX often ON children (price)"
    )
    capsys.readouterr()
    assert run(["verify", str(migrated), database, "--json"]) == 0
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["code"], finding["level"], finding["where"]) == ("verify-added", "note", "public.children")
    added = ("trigger mine", "rule kept", 'default of "age"', 'check "born"', 'unique index "once"')
    assert finding["says"].startswith("beyond the plan it has " + ", ".join(f"the {each}" for each in added) + ":")


def test_numbers_in_json_and_days_in_views(database: str, tmp_path: Path) -> None:
    """A REAL in a jsonb key with more than 15 digits, and a view on Julian days."""
    path = tmp_path / "numbers.db"
    connection = apsw.Connection(str(path))
    connection.execute(
        "CREATE TABLE t (a JSON PRIMARY KEY, b DATETIME);"
        "INSERT INTO t VALUES (1.222589827195201e+19, 1721425.5), (1e21, 2460000.25), (1e-7, NULL), ('[1.50]', 2440587.5);"
        "CREATE VIEW v AS SELECT b FROM t"
    )
    connection.close()
    assert run(["migrate", str(path), database, "--yes"]) == 0


def test_json_s_null_in_a_view(database: str, tmp_path: Path) -> None:
    """JSON's null is a value, NULL is none; a driver that reads JSON makes them one."""
    path = tmp_path / "null.db"
    connection = apsw.Connection(str(path))
    connection.execute(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, j JSON);"
        """INSERT INTO t VALUES (1, '[1, {"b": 2.50, "a": null}]'), (2, 'null'), (3, NULL), (4, '"x"'), (5, '7');"""
        "CREATE VIEW v AS SELECT id, j FROM t"
    )
    connection.close()
    assert run(["migrate", str(path), database, "--yes"]) == 0


def test_views_on_the_time_and_on_chance(database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chance.db"
    connection = apsw.Connection(str(path))
    connection.execute(
        "CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1), (2);"
        "CREATE VIEW chance AS SELECT id, random() AS n FROM t;"
        "CREATE VIEW moment AS SELECT id, strftime('%Y-%m-%d %H:%M:%f', 'now') AS at FROM t;"
        "CREATE VIEW on_it AS SELECT at FROM moment WHERE id = 1"
    )
    connection.close()
    assert run(["migrate", str(path), database, "--yes"]) == 0
    capsys.readouterr()
    assert run(["verify", str(path), database, "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {finding["code"] for finding in findings} == {"verify-view-open"}
    assert {finding["where"] for finding in findings} == {"public.chance", "public.moment", "public.on_it"}


def test_a_view_with_a_row_that_was_kept_apart(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dbscale.toml").write_text('[migrate.types]\n"t.at" = "timestamp"\n')
    connection = apsw.Connection("apart.db")
    connection.execute(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, at DATETIME); CREATE VIEW v AS SELECT id, at FROM t;"
        "INSERT INTO t VALUES (1, '2024-01-01 00:00:00'), (2, x'00')"
    )
    connection.close()
    assert run(["migrate", "apart.db", database, "--on-bad-row", "quarantine", "--yes"]) == 1
    assert "public.v: it has 1 rows, and 2 in the source" in capsys.readouterr().out


def _dump(connection: postgres.Connection) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT relname, relkind::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    ).fetchall()


def _restore(url: str, source: Path, target: postgres.Connection) -> None:
    """The target anew, as the migration makes it."""
    target.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public; DROP SCHEMA dbscale CASCADE")
    assert run(["migrate", str(source), url, "--yes", "--no-verify"]) == 0


def test_a_view_that_reads_many_rows_is_compared_when_asked_for(
    migrated: Path,
    database: str,
    target: postgres.Connection,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target.execute("CREATE OR REPLACE VIEW grown AS SELECT id, age FROM children WHERE age >= 3")
    monkeypatch.setattr(verify_views, "MOST_HANDLED", -1)
    for options, status, codes in (((), 0, {"verify-view-not-compared"}), (("--all-views",), 1, {"verify-view"})):
        capsys.readouterr()
        assert run(["verify", str(migrated), database, "--json", *options]) == status
        findings = json.loads(capsys.readouterr().out)["findings"]
        assert {finding["code"] for finding in findings} == codes


@pytest.mark.skipif(native.extension() is None, reason="the SQLite extension was not compiled")
def test_the_rows_of_a_view_are_fetched_only_where_they_differ(
    migrated: Path, database: str, target: postgres.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[object] = []
    difference = verify_views._Sides.difference
    monkeypatch.setattr(verify_views._Sides, "difference", lambda sides: fetched.append(sides) or difference(sides))
    assert run(["verify", str(migrated), database]) == 0
    assert not fetched
    target.execute("CREATE OR REPLACE VIEW grown AS SELECT id, age FROM children WHERE age >= 3")
    assert run(["verify", str(migrated), database]) == 1
    assert len(fetched) == 1


def test_the_command_names_rows_and_values(
    migrated: Path, database: str, target: postgres.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    target.execute("UPDATE children SET price = 9.96 WHERE id = 1")
    target.execute("DELETE FROM children WHERE id = 2")
    capsys.readouterr()
    assert run(["verify", str(migrated), database]) == 1
    out = capsys.readouterr().out
    assert "public.children: id = 1: different: price: 9.95 became 9.96" in out
    assert "public.children: id = 2: missing" in out
    assert "NOT the same" in out


def test_generated_columns_are_compared(
    migrated: Path, database: str, target: postgres.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    target.execute("ALTER TABLE children ALTER doubled DROP EXPRESSION")
    target.execute("UPDATE children SET doubled = 41 WHERE id = 1")
    capsys.readouterr()
    assert run(["verify", str(migrated), database]) == 1
    assert "children: id = 1: different: doubled: 40 became 41" in capsys.readouterr().out


def test_nothing_is_written(migrated: Path, database: str, target: postgres.Connection) -> None:
    """A role that may only read is enough."""
    role = f"reader_{database.rsplit('_', 1)[1]}"
    target.execute(f"CREATE ROLE {role} LOGIN; GRANT pg_read_all_data TO {role}")
    try:
        reader = postgres.connect(database)
        reader.execute(f"SET ROLE {role}")
        both = Pair(migrated, database, Load(does="", table="parents", schema="public", target="parents", columns=(
            LoadColumn(source="id", target="id", conversion=KEEP),), key=("id",), rowid="id"))  # fmt: skip

        def connect() -> postgres.Connection:
            connection = postgres.connect(database)
            connection.execute(f"SET ROLE {role}")
            return connection

        assert verify(SqliteSource(str(migrated)), connect, [both.load], None).same
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("DELETE FROM parents")
        reader.close()
    finally:
        target.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
