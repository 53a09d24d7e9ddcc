"""The schema read from real SQLite databases."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, given, settings

from dbscale.drivers.source import Reader, Value
from dbscale.drivers.sqlite import SqliteSource
from dbscale.migrate.model import (
    SourceCheck,
    SourceColumn,
    SourceForeignKey,
    SourceKey,
    SourceObject,
    SourceSchema,
    SourceTable,
    SourceTerm,
)
from dbscale.migrate.source import bookkeeping, lost, read_schema
from test_declaration import tables

Schema = Callable[[str], SourceSchema]


def make(path: Path, sql: str) -> Path:
    database = apsw.Connection(str(path))
    database.execute(sql).fetchall()
    database.close()
    return path


def read(path: Path) -> SourceSchema:
    with SqliteSource(path).snapshot() as (reader,):
        return read_schema(reader)


@pytest.fixture
def schema(tmp_path: Path) -> Schema:
    return lambda sql: read(make(tmp_path / "source.db", sql))


def table(schema: Schema, body: str) -> SourceTable:
    (found,) = schema(f"CREATE TABLE t{body}").tables
    return found


def test_columns(schema: Schema) -> None:
    found = table(
        schema,
        "(a, b VARCHAR(10) NOT NULL ON CONFLICT IGNORE DEFAULT 'a,b', c TEXT COLLATE nocase, d,"
        " e INT AS (a * 2), f TEXT GENERATED ALWAYS AS (b || ')') STORED, \"g h\" [My Type] DEFAULT (datetime('now')))",
    )
    assert found.columns == (
        SourceColumn(name="a", declared=""),
        SourceColumn(name="b", declared="VARCHAR(10)", not_null=True, not_null_conflict="IGNORE", default="'a,b'"),
        SourceColumn(name="c", declared="TEXT", collation="NOCASE"),
        SourceColumn(name="d", declared=""),
        SourceColumn(name="e", declared="INT", generated="virtual", expression="a * 2"),
        SourceColumn(name="f", declared="TEXT", generated="stored", expression="b || ')'"),
        SourceColumn(name="g h", declared="My Type", default="datetime('now')"),
    )


@pytest.mark.parametrize(
    ("body", "rowid_column"),
    [
        ("(id INTEGER PRIMARY KEY)", "id"),
        ("(id integer, x, PRIMARY KEY(id))", "id"),
        ("(id INTEGER, PRIMARY KEY(id DESC))", "id"),
        ("(id INTEGER PRIMARY KEY DESC)", ""),
        ("(id INT PRIMARY KEY)", ""),
        ("(id BIGINT PRIMARY KEY)", ""),
        ("(id INTEGER PRIMARY KEY) WITHOUT ROWID", ""),
        ("(a INTEGER, b INTEGER, PRIMARY KEY(a, b))", ""),
        ("(id INTEGER)", ""),
    ],
)
def test_which_primary_key_is_the_rowid(schema: Schema, tmp_path: Path, body: str, rowid_column: str) -> None:
    found = table(schema, body)
    assert found.rowid_column == rowid_column
    if not found.without_rowid:  # SQLite's own word: an alias of the rowid follows it
        database = apsw.Connection(str(tmp_path / "source.db"))
        column = found.columns[0].name
        database.execute(f"INSERT INTO t(rowid) VALUES (7); SELECT {column} IS 7 FROM t").fetchall()
        assert database.execute(f"SELECT {column} IS 7 FROM t").get == bool(rowid_column)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("(a)", "rowid"),
        ("(ROWID TEXT)", "_rowid_"),
        ("(rowid, _rowid_)", "oid"),
        ("(rowid, oid, _rowid_)", ""),
        ("(rowid INTEGER PRIMARY KEY, oid, _rowid_)", "rowid"),
        ("(a PRIMARY KEY) WITHOUT ROWID", ""),
    ],
)
def test_the_name_by_which_the_rowid_can_be_read(schema: Schema, body: str, name: str) -> None:
    assert table(schema, body).rowid_name == name


def test_keys(schema: Schema) -> None:
    found = table(
        schema,
        "(a TEXT, b TEXT COLLATE nocase CONSTRAINT only UNIQUE ON CONFLICT REPLACE, c INT,"
        " CONSTRAINT pk PRIMARY KEY (c, A) ON CONFLICT IGNORE, UNIQUE (b, c),"
        " CONSTRAINT twice UNIQUE (a COLLATE rtrim))",
    )
    assert found.keys == (
        SourceKey(name="pk", columns=("c", "a"), primary=True, on_conflict="IGNORE"),
        SourceKey(name="only", columns=("b",), on_conflict="REPLACE", collations=("NOCASE",)),
        SourceKey(name="", columns=("b", "c"), collations=("NOCASE", "BINARY")),
        SourceKey(name="twice", columns=("a",), collations=("RTRIM",)),
    )
    assert found.primary_key == ("c", "a")


def test_indexes(schema: Schema) -> None:
    (found,) = schema(
        """CREATE TABLE t(a TEXT, b INT, c TEXT COLLATE nocase UNIQUE);
        CREATE INDEX one ON t(a, b DESC) WHERE b IS NOT NULL;
        CREATE UNIQUE INDEX "two (2)" ON t(lower(a || ','), c, a COLLATE rtrim DESC);"""
    ).tables
    one, two = found.indexes
    assert (one.name, one.unique, one.where) == ("one", False, "b IS NOT NULL")
    assert one.terms == (SourceTerm(column="a"), SourceTerm(column="b", descending=True))
    assert (two.name, two.unique, two.where) == ("two (2)", True, "")
    assert two.terms == (
        SourceTerm(expression="lower(a || ',')"),
        SourceTerm(column="c", collation="NOCASE"),
        SourceTerm(column="a", descending=True, collation="RTRIM"),
    )
    assert two.sql.startswith("CREATE UNIQUE INDEX")


def test_foreign_keys(schema: Schema) -> None:
    tables = schema(
        """CREATE TABLE Parent(A INT, B INT, PRIMARY KEY(B, A));
        CREATE TABLE "É"(id INTEGER PRIMARY KEY); CREATE TABLE "é"(nr INTEGER PRIMARY KEY);
        CREATE TABLE child(
          x INT CONSTRAINT fk_x REFERENCES "é" ON DELETE SET DEFAULT ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED,
          y INT REFERENCES gone(id) MATCH FULL, z INT REFERENCES CHILD(X),
          CONSTRAINT fk_p FOREIGN KEY (y, X) REFERENCES parent(b, a) ON DELETE RESTRICT DEFERRABLE,
          FOREIGN KEY (x, y) REFERENCES PARENT);"""
    )
    assert tables.table("CHILD").foreign_keys == (
        SourceForeignKey(
            name="fk_x",
            columns=("x",),
            parent="é",
            parent_columns=("nr",),
            on_delete="SET DEFAULT",
            on_update="CASCADE",
            deferrable="DEFERRED",
        ),
        SourceForeignKey(name="", columns=("y",), parent="gone", parent_columns=()),
        SourceForeignKey(name="", columns=("z",), parent="child", parent_columns=("x",)),
        SourceForeignKey(
            name="fk_p",
            columns=("y", "x"),
            parent="Parent",
            parent_columns=("B", "A"),
            on_delete="RESTRICT",
            deferrable="IMMEDIATE",
        ),
        SourceForeignKey(name="", columns=("x", "y"), parent="Parent", parent_columns=("B", "A")),
    )


def test_checks_and_options(schema: Schema) -> None:
    (found,) = schema(
        "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT CHECK (a <> '),') ,"
        " CONSTRAINT c CHECK (id > 0)) STRICT;"
        "INSERT INTO t VALUES (41, 'x'); DELETE FROM t"
    ).tables
    assert found.checks == (SourceCheck(name="", sql="a <> '),'", column="a"), SourceCheck(name="c", sql="id > 0"))
    assert (found.autoincrement, found.sequence, found.strict, found.without_rowid) == (True, 41, True, False)


def test_a_table_made_bit_by_bit(schema: Schema) -> None:
    (found,) = schema(
        """CREATE TABLE old(a int /* c1, */, -- x)
         b text default 'a,b)' check (b <> '--'), constraint u unique(a,b));
        ALTER TABLE old RENAME TO new; ALTER TABLE new RENAME COLUMN b TO "b 2";
        ALTER TABLE new ADD COLUMN c TEXT DEFAULT 'q' CHECK (c <> 'x');"""
    ).tables
    assert [column.name for column in found.columns] == ["a", "b 2", "c"]
    assert found.keys == (SourceKey(name="u", columns=("a", "b 2")),)
    assert found.checks == (
        SourceCheck(name="", sql="\"b 2\" <> '--'", column="b 2"),
        SourceCheck(name="", sql="c <> 'x'", column="c"),
    )


def test_views_triggers_and_what_is_not_a_table(schema: Schema) -> None:
    found = schema(
        """CREATE TABLE t(a, b); CREATE VIEW v(x) AS SELECT a FROM t; CREATE VIEW broken AS SELECT nope FROM t;
        CREATE TRIGGER tr AFTER UPDATE ON t BEGIN UPDATE t SET b = 1; END;
        CREATE VIRTUAL TABLE f USING fts5(title, body); CREATE VIRTUAL TABLE r USING rtree(id, x0, x1);
        CREATE TABLE f_notes(x); CREATE TABLE sqlitely(a); CREATE TABLE libsql_notes(a); CREATE TABLE _cf_mine(a);
        CREATE TABLE turso_cdc_mine(a); CREATE TABLE _litestream_of_mine(a);
        CREATE TABLE _litestream_seq(id); CREATE TABLE libsql_wasm_func_table(name); CREATE TABLE turso_cdc(id);
        CREATE TABLE _cf_KV(k); CREATE TABLE __drizzle_migrations(id);
        CREATE INDEX i ON t(a); INSERT INTO t VALUES (1, 2); ANALYZE;"""
    )
    own = ["libsql_notes", "_cf_mine", "turso_cdc_mine", "_litestream_of_mine"]
    assert [table.name for table in found.tables] == ["t", "f_notes", "sqlitely", *own, "__drizzle_migrations"]
    told = {finding.where for finding in bookkeeping(found)}
    assert told == {"_litestream_seq", "libsql_wasm_func_table", "turso_cdc", "_cf_KV"}
    assert [(view.name, view.columns) for view in found.views] == [("v", ("x",)), ("broken", ())]
    assert found.views[0].sql == "CREATE VIEW v(x) AS SELECT a FROM t"
    (trigger,) = found.triggers
    assert (trigger.name, trigger.table) == ("tr", "t")
    assert [(virtual.name, virtual.module, virtual.columns) for virtual in found.virtuals] == [
        ("f", "fts5", ("title", "body")),
        ("r", "rtree", ("id", "x0", "x1")),
    ]
    shadows = {item.name: item.table for item in found.skipped if item.kind == "shadow"}
    assert shadows == {
        **{f"f_{end}": "f" for end in ("data", "idx", "content", "docsize", "config")},
        **{f"r_{end}": "r" for end in ("rowid", "node", "parent")},
    }
    internal = {item.name for item in found.skipped if item.kind == "internal"}
    assert {"sqlite_stat1", "_litestream_seq", "libsql_wasm_func_table", "turso_cdc", "_cf_KV"} <= internal
    assert found.unreadable == ()


def test_rows_that_a_virtual_table_keeps_itself_are_counted(schema: Schema) -> None:
    found = schema(
        """CREATE TABLE t(a); INSERT INTO t VALUES ('x'), ('y'); CREATE TABLE "Kept_extra"(a);
        CREATE VIRTUAL TABLE "Kept" USING fts5(a); INSERT INTO "Kept" VALUES ('x'), ('y'), ('z');
        CREATE VIRTUAL TABLE four USING fts4(a); INSERT INTO four VALUES ('x');
        CREATE VIRTUAL TABLE hollow USING fts5(a, content=''); INSERT INTO hollow VALUES ('x');
        CREATE VIRTUAL TABLE over USING fts5(a, content='t'); INSERT INTO over(over) VALUES ('rebuild');
        CREATE VIRTUAL TABLE words USING fts5vocab('Kept', 'row');
        CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1); INSERT INTO boxes VALUES (1, 0, 1), (2, 0, 1);
        PRAGMA writable_schema = ON; INSERT INTO sqlite_master(type, name, tbl_name, rootpage, sql)
        VALUES ('table', 'g', 'g', 0, 'CREATE VIRTUAL TABLE g USING nosuchmod(a)')"""
    )
    kept = {virtual.name: virtual.rows for virtual in found.virtuals}
    assert kept == {"Kept": 3, "four": 1, "hollow": 0, "over": 0, "words": 0, "boxes": 2, "g": None}


class OldLibrary:
    """A reader that passes for a SQLite from before `pragma table_list`, and refuses what that has not."""

    library = (3, 36, 0)
    function_arguments = 127

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> Iterator[tuple[Value, ...]]:
        assert "table_list" not in sql
        return self.reader.rows(sql, parameters)


def test_an_old_library_finds_the_same(tmp_path: Path) -> None:
    path = make(
        tmp_path / "old.db",
        """CREATE TABLE t(a PRIMARY KEY, b) WITHOUT ROWID; CREATE VIRTUAL TABLE f USING fts5(a);
        CREATE VIRTUAL TABLE g USING fts4(a); CREATE VIRTUAL TABLE r USING rtree(id, x0, x1);
        CREATE TABLE s(a INT) STRICT""",
    )
    with SqliteSource(path).snapshot() as (reader,):
        assert read_schema(OldLibrary(reader)) == read_schema(reader)


def test_vector_indexes_keep_their_data_in_tables_that_are_not_the_users(schema: Schema) -> None:
    found = schema(
        """CREATE TABLE t(a F32_BLOB(3)); CREATE TABLE i_shadow(x); CREATE TABLE libsql_vector_meta_shadow(x);
        PRAGMA writable_schema = ON;
        INSERT INTO sqlite_master SELECT 'index', 'i', 't', rootpage, 'CREATE INDEX i ON t(libsql_vector_idx(a))'
          FROM sqlite_master WHERE name = 'i_shadow'"""
    )
    assert [table.name for table in found.tables] == ["t"]
    assert {item.name for item in found.skipped} == {"i_shadow", "libsql_vector_meta_shadow"}


def test_parts_that_this_sqlite_cannot_parse(tmp_path: Path) -> None:
    path = make(
        tmp_path / "strange.db",
        """CREATE TABLE a(x INTEGER PRIMARY KEY, y); INSERT INTO a VALUES (1, 'one'); CREATE TABLE b(x);
        CREATE TABLE c(x); CREATE INDEX i ON c(x); INSERT INTO c VALUES (2); PRAGMA writable_schema = ON;
        UPDATE sqlite_master SET sql = 'CREATE TABLE a(x INTEGER PRIMARY KEY, y) RANDOM ROWID' WHERE name = 'a';
        UPDATE sqlite_master SET sql = 'CREATE TABLE b(x, y'  WHERE name = 'b';
        UPDATE sqlite_master SET sql = 'CREATE INDEX i ON c USING magic(x)' WHERE name = 'i';
        INSERT INTO sqlite_master VALUES ('table', 'g', 'g', 0, 'CREATE VIRTUAL TABLE g USING nosuchmod(a)')""",
    )
    source = SqliteSource(path)
    with source.snapshot(2) as (reader, other):
        found = read_schema(reader)
        rows = list(other.rows("SELECT * FROM c"))
    assert rows == [(2,)]
    assert "c" in {table.name for table in found.tables}
    gone = {item.name for item in found.unreadable}
    assert gone == {"b", "i"}
    assert {finding.where: finding.level for finding in lost(found)} == {"b": "blocker", "c": "behaviour"}
    assert {table.name for table in found.tables} == {"a", "c"}
    assert [(virtual.name, virtual.module) for virtual in found.virtuals] == [("g", "nosuchmod")]
    malformed = {note.where: note.level for note in source.notes if note.code == "malformed-schema"}
    assert malformed == {str(path): "note", f"{path}: a": "data", f"{path}: b": "data"}


def test_a_generated_column_that_would_read_as_null_makes_its_table_unreadable(tmp_path: Path) -> None:
    path = make(
        tmp_path / "unsafe.db",
        """CREATE TABLE t(a, b AS (a)); CREATE TABLE s(a); PRAGMA writable_schema = ON;
        UPDATE sqlite_master SET sql = 'CREATE TABLE t(a, b AS (load_extension(a)))' WHERE name = 't'""",
    )
    found = read(path)
    assert [table.name for table in found.tables] == ["s"]
    (finding,) = lost(found)
    assert (finding.code, finding.level, finding.where) == ("source-unreadable", "blocker", "t")
    assert "load_extension" in finding.original


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    sql = f"""PRAGMA encoding = '{encoding}'; CREATE TABLE "가격 é😀"("열" TEXT);
        INSERT INTO "가격 é😀" VALUES ('값😀')"""
    with SqliteSource(make(tmp_path / "e.db", sql)).snapshot() as (reader,):
        found = read_schema(reader)
        rows = list(reader.rows('SELECT "열" FROM "가격 é😀"'))
    assert found.encoding == encoding
    assert [(table.name, table.columns[0].name) for table in found.tables] == [("가격 é😀", "열")]
    assert rows == [("값😀",)]


def test_awkward_names(schema: Schema) -> None:
    names = ["select", "User", "group", "1st", "a b", "a.b", "é😀", 'q"q', "strq", "", "%s", "$1", "camelCase", "rowid"]
    columns = ", ".join('"' + name.replace('"', '""') + '" int' for name in names)
    (found,) = schema(f'CREATE TABLE "order; --"({columns}); CREATE INDEX "i %s" ON "order; --"("a.b", "")').tables
    assert found.name == "order; --"
    assert [column.name for column in found.columns] == names
    assert [term.column for term in found.indexes[0].terms] == ["a.b", ""]


def test_two_hundred_tables_take_no_time(tmp_path: Path) -> None:
    parts = [
        f"CREATE TABLE t{i}(id INTEGER PRIMARY KEY, a TEXT NOT NULL, b REFERENCES t{i // 2}, c DECIMAL(10,2), d, e, f);"
        f"CREATE INDEX i{i} ON t{i}(a, b); CREATE UNIQUE INDEX u{i} ON t{i}(lower(a)) WHERE b > 0;"
        for i in range(200)
    ]
    path = make(tmp_path / "many.db", "BEGIN;" + "".join(parts) + "COMMIT")
    start = time.monotonic()
    found = read(path)
    assert time.monotonic() - start < 5, "a round trip a table would be noticed on a server, and a quadratic join here"
    assert len(found.tables) == 200
    assert all(len(table.indexes) == 2 and table.foreign_keys[0].parent_columns == ("id",) for table in found.tables)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(tables())
def test_any_legal_table_is_read(tmp_path: Path, made: tuple[str, list[str], list[str]]) -> None:
    sql, names, checks = made
    path = tmp_path / "any.db"
    path.unlink(missing_ok=True)
    (found,) = read(make(path, sql)).tables
    assert len(found.columns) == len(names)
    assert len(found.checks) == len(checks)
    assert found.sql


def test_objects_are_kept_with_their_sql(schema: Schema) -> None:
    found = schema("CREATE TABLE t(a); CREATE VIEW v AS SELECT 1 AS one")
    assert found.views == (
        SourceObject(kind="view", name="v", columns=("one",), sql="CREATE VIEW v AS SELECT 1 AS one"),
    )
