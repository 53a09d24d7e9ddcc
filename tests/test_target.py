"""The target's schema, created on a real server from real SQLite databases."""
# ruff: noqa: E501 - the SQL of the sources is wide

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbscale import schema as ddl
from dbscale.drivers.sqlite import SqliteSource
from dbscale.migrate import facts, target
from dbscale.migrate.facts import Facts
from dbscale.migrate.model import (
    Choice,
    SourceCheck,
    SourceColumn,
    SourceForeignKey,
    SourceIndex,
    SourceKey,
    SourceSchema,
    SourceTable,
    SourceTerm,
)
from dbscale.migrate.source import read_schema
from dbscale.plan import Conversion
from migrated import Migrated, constraints, migrate

EXAMPLES = int(os.environ.get("DBSCALE_TEST_EXAMPLES", "150"))
"""Random schemas to create."""

CONSTRAINTS = """SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND contype IN ('p', 'u', 'f', 'c') ORDER BY conname COLLATE "C" """
INDEXES = """SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY indexname COLLATE "C" """


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as made:
        yield made


@pytest.fixture
def made(connection: psycopg.Connection[Any], tmp_path: Path) -> Any:
    return lambda sql, **options: migrate(tmp_path, sql, connection, **options)


def columns(migrated: Migrated, table: str) -> dict[str, tuple[str, bool, str]]:
    """Type, NOT NULL and `generated` or `identity` of a table's columns, from the catalog."""
    found = migrated.ask(
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull, attgenerated::text || attidentity::text"
        f" FROM pg_attribute WHERE attrelid = '\"{table}\"'::regclass AND attnum > 0"
    )
    words = {"s": "generated", "d": "identity", "": ""}
    return {name: (type_, not_null, words[kind]) for name, type_, not_null, kind in found}


# -- keys ------------------------------------------------------------------------------------------------------


def test_the_rowid_becomes_an_identity(made: Any) -> None:
    found = made(
        "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a); INSERT INTO t VALUES (100, 'x'); DELETE FROM t; INSERT INTO t VALUES (5, 'y')"
    )
    assert columns(found, "t")["id"] == ("bigint", True, "identity")
    assert dict(found.ask(CONSTRAINTS)) == {"t_pkey": "PRIMARY KEY (id)"}
    (identity,) = found.target.identities
    assert (identity.table, identity.column, identity.sequence) == ("t", "id", 100)


def test_int_primary_key_is_no_rowid_and_may_hold_null(made: Any) -> None:
    found = made(
        "CREATE TABLE a(id INT PRIMARY KEY, x); INSERT INTO a VALUES (NULL, 1), (NULL, 2);"
        "CREATE TABLE b(id INTEGER PRIMARY KEY DESC, x); INSERT INTO b VALUES (NULL, 1); CREATE TABLE c(id INT PRIMARY KEY)"
    )
    assert columns(found, "a")["id"] == ("bigint", False, "")
    assert dict(found.ask(CONSTRAINTS)) == {
        "a_id_key": "UNIQUE (id)",
        "b_id_key": "UNIQUE (id)",
        "c_pkey": "PRIMARY KEY (id)",
    }
    assert [finding.where for finding in found.finding("null-in-primary-key")] == ["a.id", "b.id"]
    assert found.target.identities == ()


def test_composite_keys_keep_their_order(made: Any) -> None:
    found = made(
        "CREATE TABLE t(a INT, b INT, c INT, PRIMARY KEY(c, a), CONSTRAINT u UNIQUE (b, a)) WITHOUT ROWID; INSERT INTO t VALUES (1, 2, 3)"
    )
    assert dict(found.ask(CONSTRAINTS)) == {"t_pkey": "PRIMARY KEY (c, a)", "u": "UNIQUE (b, a)"}


def test_nocase_uniques_fold_ascii_only(made: Any, connection: psycopg.Connection[Any]) -> None:
    found = made(
        "CREATE TABLE t(a TEXT UNIQUE, b TEXT COLLATE NOCASE UNIQUE); INSERT INTO t VALUES ('x', 'É'), ('x ', 'é')"
    )
    assert 'lower((b COLLATE "C"))' in dict(found.ask(INDEXES))["t_b_key"]
    connection.execute("INSERT INTO t VALUES ('y', 'ann')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute("INSERT INTO t VALUES ('z', 'ANN')")


def test_columns_that_no_longer_ignore_case_are_told_once_a_table(made: Any) -> None:
    found = made(
        "CREATE TABLE t(k TEXT COLLATE NOCASE, n INT COLLATE NOCASE, j TEXT COLLATE RTRIM, b TEXT);"
        "INSERT INTO t VALUES ('a', 1, 'x', 'y'), ('A', 2, 'x ', 'y'); CREATE TABLE u(a TEXT)"
    )
    (told,) = found.finding("collation-left-out")
    assert (told.where, told.level) == ("t", "behaviour")
    assert told.says.startswith("k (NOCASE), j (RTRIM): in PostgreSQL")
    form = 'lower("k" COLLATE "C")'
    assert told.try_.startswith(f"compare {form} on both sides")
    assert found.ask("SELECT count(*) FROM t WHERE k = 'A'") == [(1,)]
    assert found.ask(f"SELECT count(*) FROM t WHERE {form} = lower('A' COLLATE \"C\")") == [(2,)]


def test_a_nocase_key_that_is_referred_to_is_both(made: Any) -> None:
    found = made(
        "CREATE TABLE p(k TEXT COLLATE NOCASE PRIMARY KEY); CREATE TABLE c(k TEXT REFERENCES p(k)); INSERT INTO p VALUES ('a'); INSERT INTO c VALUES ('a'), ('A')"
    )
    assert dict(found.ask(CONSTRAINTS))["p_pkey"] == "PRIMARY KEY (k)"
    assert set(dict(found.ask(INDEXES))) == {"p_pkey", "p_k_key"}
    (orphans,) = found.finding("orphans")
    assert orphans.says.startswith("1 rows")


def test_keys_that_conversion_makes_equal_are_left_out(made: Any) -> None:
    found = made(
        "CREATE TABLE u(k BLOB PRIMARY KEY); INSERT INTO u VALUES (1), ('1'), (x'31'), ('2'); CREATE TABLE v(k BLOB PRIMARY KEY); INSERT INTO v VALUES (1), ('2')"
    )
    assert [finding.where for finding in found.finding("duplicates-after-conversion")] == ["u (k)"]
    assert "v_pkey" in dict(found.ask(CONSTRAINTS))


def test_equal_times_in_two_spellings(made: Any) -> None:
    rows = "('2024-01-01 00:00:00'), ('2024-01-01T00:00:00'), ('2024-01-01 00:00:00.5'), ('2024-01-01 00:00:00.500000')"
    found = made(f"CREATE TABLE t(at DATETIME UNIQUE); INSERT INTO t VALUES {rows}")
    (finding,) = found.finding("duplicates-after-conversion")
    assert finding.says.startswith("2 values")


@pytest.mark.parametrize(
    ("one", "other"), [("1700000000", "1700000000000"), ("1700000000.5", "'2023-11-14 22:13:20.5'")]
)
def test_one_moment_in_two_forms(made: Any, one: str, other: str) -> None:
    found = made(f"CREATE TABLE t(at DATETIME UNIQUE); INSERT INTO t VALUES ({one}), ({other})")
    (finding,) = found.finding("duplicates-after-conversion")
    assert (finding.where, finding.says.split(" ")[0]) == ("t (at)", "1")


def test_on_conflict_is_told(made: Any) -> None:
    found = made(
        "CREATE TABLE t(a UNIQUE ON CONFLICT REPLACE, b NOT NULL ON CONFLICT IGNORE, c INTEGER PRIMARY KEY ON CONFLICT REPLACE); INSERT INTO t VALUES (1, 2, 3)"
    )
    assert sorted(finding.where for finding in found.finding("on-conflict")) == ["t (a)", "t (c)", "t.b"]


def test_values_too_wide_for_a_btree(made: Any, connection: psycopg.Connection[Any]) -> None:
    wide = "(SELECT group_concat(hex(randomblob(100)), '') FROM (SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5))"
    filler = f"{wide} || {wide} || {wide} || {wide}"
    found = made(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, u TEXT UNIQUE, v TEXT, w TEXT); CREATE INDEX iv ON t(v); CREATE INDEX iw ON t(id, w);"
        f"INSERT INTO t(u, v, w) VALUES ({filler}, {filler}, {filler})"
    )
    indexes = dict(found.ask(INDEXES))
    assert "hash (v)" in indexes["iv"]
    assert "md5(w)" in indexes["iw"]
    assert "md5(u)" in indexes["t_u_key"]
    assert len(found.finding("too-wide-for-index")) == 3
    with pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute("INSERT INTO t(id, u) SELECT 2, u FROM t")


# -- foreign keys ----------------------------------------------------------------------------------------------


def test_actions_names_and_deferrability(made: Any) -> None:
    found = made(
        "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(a INT DEFAULT 1 CONSTRAINT fk_a REFERENCES p(id) ON DELETE SET DEFAULT"
        " ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED, b INT, CONSTRAINT fk_b FOREIGN KEY(b) REFERENCES p(id) ON DELETE RESTRICT)"
    )
    assert dict(found.ask(CONSTRAINTS)) == {
        "fk_a": "FOREIGN KEY (a) REFERENCES p(id) ON UPDATE CASCADE ON DELETE SET DEFAULT DEFERRABLE INITIALLY DEFERRED",
        "fk_b": "FOREIGN KEY (b) REFERENCES p(id) ON DELETE RESTRICT",
        "p_pkey": "PRIMARY KEY (id)",
    }


def test_cycles_implicit_parents_and_spelling(made: Any) -> None:
    found = made(
        "CREATE TABLE a(id INTEGER PRIMARY KEY, b REFERENCES b); CREATE TABLE b(id INTEGER PRIMARY KEY, a REFERENCES A, s REFERENCES b);"
        "CREATE TABLE P(A INT, B INT, PRIMARY KEY(A, B)); CREATE TABLE d(x INT, y INT, FOREIGN KEY(x, y) REFERENCES p(a, b));"
        "INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 1, 1); INSERT INTO P VALUES (1, 2); INSERT INTO d VALUES (1, 2), (1, NULL)"
    )
    constraints = dict(found.ask(CONSTRAINTS))
    assert {name for name in constraints if name.endswith("fkey")} == {"a_b_fkey", "b_a_fkey", "b_s_fkey", "d_x_y_fkey"}
    assert constraints["d_x_y_fkey"] == 'FOREIGN KEY (x, y) REFERENCES "P"("A", "B")'
    assert not [name for name, definition in constraints.items() if "NOT VALID" in definition]


def test_orphans_leave_it_not_valid(made: Any, connection: psycopg.Connection[Any]) -> None:
    found = made(
        "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(id INTEGER PRIMARY KEY, pid REFERENCES p(id)); INSERT INTO c VALUES (1, 99), (2, NULL)"
    )
    assert dict(found.ask(CONSTRAINTS))["c_pid_fkey"].endswith("NOT VALID")
    assert found.finding("orphans")[0].where == "c (pid)"
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        connection.execute("INSERT INTO c VALUES (3, 98)")


@pytest.mark.parametrize(
    ("parents", "children", "count"),
    [
        ("(1), (2), (3)", "(1), (3), (NULL)", 0),
        ("(1), (2), (4)", "(3), (4)", 1),
        ("(1), (2), (4)", "(1), (4)", 0),
        ("(2), (3)", "(1), (2), (4)", 2),
        ("(-1), (0), (1)", "(-1), (-2)", 1),
    ],
)
def test_orphans_are_counted_with_gaps_and_without(made: Any, parents: str, children: str, count: int) -> None:
    found = made(
        f"CREATE TABLE p(id INTEGER PRIMARY KEY); INSERT INTO p VALUES {parents};"
        f"CREATE TABLE c(id INTEGER PRIMARY KEY, pid INTEGER REFERENCES p(id)); INSERT INTO c(pid) VALUES {children}"
    )
    schema = found.target.schema.table("c")
    assert all(key.valid == (count == 0) for key in schema.foreign_keys)
    assert [finding.says.split()[0] for finding in found.finding("orphans")] == ([str(count)] if count else [])


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        ("('a', '2020-01-01 10:00:00'), ('b', '2020-01-01T10:00:00')", True),
        ("('a', '2020-01-01 10:00:00'), ('a', '2020-01-01T10:00:00')", False),
        (
            "('a', '2020-01-01 10:00:00'), ('a', '2020-01-01 10:00:01'), (NULL, '2020-01-01'), (NULL, '2020-01-01')",
            True,
        ),
    ],
)
def test_keys_of_several_columns_of_which_one_is_converted(made: Any, rows: str, kept: bool) -> None:
    found = made(f"CREATE TABLE t(a TEXT, at DATETIME, UNIQUE (a, at)); INSERT INTO t VALUES {rows}")
    assert bool(found.target.schema.table("t").keys) == kept


def test_parents_that_are_missing_or_not_unique(made: Any) -> None:
    found = made(
        "CREATE TABLE p(id INTEGER PRIMARY KEY, x INT, y INT, z INT); CREATE UNIQUE INDEX pz ON p(z); INSERT INTO p VALUES (1, 7, 1, 1), (2, 7, 2, 2);"
        "CREATE TABLE c(x REFERENCES p(x), y REFERENCES p(y), z REFERENCES p(z), w REFERENCES nope(id), v REFERENCES p_old(id));"
        "INSERT INTO c VALUES (7, 1, 2, NULL, NULL)"
    )
    left_out = {finding.where: finding.says for finding in found.finding("foreign-key-left-out")}
    assert set(left_out) == {"c (x)", "c (w)", "c (v)"}
    assert "there is p" in left_out["c (v)"]
    constraints = dict(found.ask(CONSTRAINTS))
    assert constraints["p_y_key"] == "UNIQUE (y)"
    assert {"c_y_fkey", "c_z_fkey"} <= constraints.keys()
    assert [finding.where for finding in found.finding("unique-added")] == ["p (y)"]


# -- columns, checks, indexes ----------------------------------------------------------------------------------


def test_generated_columns(made: Any) -> None:
    found = made(
        "CREATE TABLE t(a INT, b INT GENERATED ALWAYS AS (a*2) VIRTUAL, c TEXT AS (a||'x') STORED, d INT AS (b+1), e AS (json_extract(f,'$.x')),"
        " f TEXT, g INT AS (d * b), i AS (e || 'y')); INSERT INTO t(a, f) VALUES (1, '{\"x\":5}')"
    )
    kinds = {name: kind for name, (_, _, kind) in columns(found, "t").items()}
    assert kinds == {
        "a": "",
        "b": "generated",
        "c": "generated",
        "d": "generated",
        "e": "",
        "f": "",
        "g": "generated",
        "i": "generated",
    }
    assert found.ask("SELECT a, b, c, d, e, g, i FROM t") == [(1, 2, "1x", 3, 5, 6, "5y")]
    assert "e" in [finding.where.partition(".")[2] for finding in found.finding("generated-column")]


def test_checks(made: Any, connection: psycopg.Connection[Any]) -> None:
    found = made(
        "CREATE TABLE t(a TEXT CHECK(a IN ('x','y')), b INT CHECK(typeof(b)='integer'), c INTEGER CHECK(length(c)<=3), d BOOLEAN CHECK (t.d IN (0,1) OR \"t\".\"d\" IS NULL),"
        " e TEXT CHECK(e GLOB 'a*'), f TEXT CHECK(f LIKE 'A%'), g INT CHECK(g), h INT CHECK(h & 1), i TEXT CHECK(i <> \"\"),"
        " j TEXT CONSTRAINT jx CHECK(j == 'x' OR NULL), k TEXT CHECK(k NOT LIKE 'a' ESCAPE 'z'), CONSTRAINT ck CHECK (a || e != ''));"
    )
    names = set(dict(found.ask(CONSTRAINTS)))
    assert names == {
        "t_a_check",
        "t_b_check",
        "t_c_check",
        "t_e_check",
        "t_f_check",
        "t_g_check",
        "t_h_check",
        "t_i_check",
        "jx",
        "ck",
    }
    assert [finding.where for finding in found.finding("check-by-type")] == ["t.d"]
    (left_out,) = found.finding("check-left-out")
    assert (left_out.where, left_out.original) == ("t.k", "k NOT LIKE 'a' ESCAPE 'z'")
    good = {
        "a": "'x'",
        "b": "1",
        "c": "999",
        "d": "true",
        "e": "'ab'",
        "f": "'about'",
        "g": "-1",
        "h": "3",
        "i": "'z'",
        "j": "'y'",
    }
    connection.execute(f"INSERT INTO t ({', '.join(good)}) VALUES ({', '.join(good.values())})")  # type: ignore[call-overload]
    bad = {"a": "'z'", "c": "1000", "e": "'Ab'", "f": "'b'", "g": "0", "h": "2", "i": "''"}
    for name, value in bad.items():
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute(
                f"INSERT INTO t ({', '.join(good)}) VALUES ({', '.join((good | {name: value}).values())})"
            )  # type: ignore[call-overload]


def test_indexes(made: Any) -> None:
    found = made(
        "CREATE TABLE t(a TEXT, b INT, c JSON, d BOOLEAN); CREATE INDEX i1 ON t(a) WHERE b IS NOT NULL; CREATE UNIQUE INDEX i2 ON t(lower(a), b DESC);"
        "CREATE INDEX i3 ON t(a COLLATE NOCASE DESC); CREATE INDEX i4 ON t(json_extract(c, '$.x')); CREATE INDEX i5 ON t(substr(a, 1, 3)) WHERE a LIKE 'A%';"
        "CREATE INDEX i6 ON t(b) WHERE d; CREATE INDEX i7 ON t(b) WHERE d = 1 AND a = \"x\"; CREATE INDEX i8 ON t(strftime('%Y', a)); CREATE INDEX i9 ON t(a COLLATE RTRIM);"
        "INSERT INTO t VALUES ('Apple', 1, '{\"x\": 1}', 1), (NULL, NULL, NULL, 0)"
    )
    indexes = {name: definition.partition("USING ")[2] for name, definition in found.ask(INDEXES)}
    assert indexes == {
        "i1": "btree (a) WHERE (b IS NOT NULL)",
        "i2": 'btree (lower((a COLLATE "C")), b DESC)',
        "i3": 'btree (lower((a COLLATE "C")) DESC)',
        "i4": "btree (((c #>> '{x}'::text[])))",
        "i5": "btree (substr(a, 1, 3)) WHERE (lower((a COLLATE \"C\")) ~~ like_escape('a%'::text, ''::text))",
        "i6": "btree (b) WHERE d",
        "i7": "btree (b) WHERE (d AND (a = 'x'::text))",
        "i9": "btree (rtrim(a, ' '::text))",
    }
    (left_out,) = found.finding("index-left-out")
    assert left_out.where == "t.i8"
    assert left_out.original.startswith("CREATE INDEX i8")


def test_names_in_one_schema(made: Any) -> None:
    found = made(
        "CREATE TABLE users(a, id INTEGER PRIMARY KEY); CREATE INDEX a ON users(a); CREATE TABLE users_pkey(id INTEGER PRIMARY KEY);"
        'CREATE TABLE users_id_seq(id INTEGER PRIMARY KEY); CREATE TABLE t(ctid INT, xmin INT, "" INT, "a%b" INT UNIQUE); CREATE INDEX t_ctid_idx ON t(ctid)'
    )
    assert {table.name for table in found.target.schema.tables} == {"users", "users_pkey", "users_id_seq", "t"}
    assert set(columns(found, "t")) == {"ctid_", "xmin_", "unnamed", "a%b"}
    assert found.target.renamed == {"t.ctid": "ctid_", "t.xmin": "xmin_", "t.": "unnamed"}
    assert len(found.finding("renamed")) == 3


@pytest.mark.parametrize("identifiers", ["preserve", "lower", "snake"])
def test_styles_of_names_hold_throughout(made: Any, identifiers: str) -> None:
    found = made(
        'CREATE TABLE "UserAccount"("userId" INTEGER PRIMARY KEY, "fullName" TEXT CHECK ("fullName" <> \'\'), FULLNAME2 TEXT AS (fullname || \'!\'));'
        'CREATE INDEX "byName" ON "UserAccount"("fullName") WHERE "userId" > 5; CREATE TABLE "É"(a); CREATE TABLE "é"(a);'
        'CREATE TABLE child("accountId" REFERENCES UserAccount); INSERT INTO "UserAccount"("userId", "fullName") VALUES (1, \'x\'); INSERT INTO child VALUES (1)',
        identifiers=identifiers,
    )
    table = {"preserve": "UserAccount", "lower": "useraccount", "snake": "user_account"}[identifiers]
    assert found.target.tables["UserAccount"] == table
    assert found.ask(f'SELECT count(*) FROM "{table}"') == [(1,)]
    assert len(found.target.schema.tables) == 4


def test_collation_is_given_to_text_columns(made: Any) -> None:
    found = made(
        "CREATE TABLE t(a TEXT, b INT, c VARCHAR(5)); INSERT INTO t VALUES ('b', 1, 'x'), ('A', 2, 'y'), ('a', 3, 'z'); CREATE VIEW v AS SELECT a FROM t ORDER BY a",
        collation="C",
    )
    assert found.ask("SELECT a FROM t ORDER BY a") == [("A",), ("a",), ("b",)]
    assert found.ask("SELECT a FROM v") == [("A",), ("a",), ("b",)]


@pytest.mark.parametrize(
    ("type_", "now", "key"),
    [
        ("TIMESTAMP", "CURRENT_TIMESTAMP", "new.id"),
        ("TEXT", "datetime('now')", 'OLD."id"'),
        ("DATETIME", "(strftime('%Y-%m-%d %H:%M:%S', 'now'))", "NEW.id"),
    ],
)
def test_a_trigger_that_keeps_the_time_of_the_last_change_is_drafted(
    made: Any, connection: psycopg.Connection[Any], type_: str, now: str, key: str
) -> None:
    """The finding's text runs as it stands, and does what SQLite's trigger does."""
    found = made(
        f"CREATE TABLE t(id INTEGER PRIMARY KEY, a, Updated {type_}); INSERT INTO t VALUES (1, 'x', '2020-01-01 00:00:00');"
        f'CREATE TRIGGER "touch it" AFTER UPDATE ON "t" FOR EACH ROW BEGIN UPDATE t SET updated = {now} WHERE id = {key}; END'
    )
    (trigger,) = found.finding("trigger-left-out")
    connection.execute(trigger.try_.encode())
    connection.execute("UPDATE t SET a = 'y'")
    ((age,),) = found.ask("""SELECT now() AT TIME ZONE 'utc' - "Updated"::timestamp FROM t""")
    assert abs(age.total_seconds()) < 5


def test_triggers_and_virtual_tables_are_told_with_their_original(made: Any) -> None:
    found = made(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, updated_at); CREATE TRIGGER tr AFTER UPDATE OF a ON t BEGIN UPDATE t SET updated_at=datetime('now') WHERE id=new.id; END;"
        "CREATE VIRTUAL TABLE f USING fts5(title, body); CREATE VIRTUAL TABLE r USING rtree(id, x0, x1)"
    )
    (trigger,) = found.finding("trigger-left-out")
    assert trigger.where == "t.tr"
    assert trigger.original.startswith("CREATE TRIGGER tr")
    assert trigger.try_ == "write its counterpart: a BEFORE UPDATE trigger that sets NEW's column"
    virtual = {finding.where: finding.try_ for finding in found.finding("virtual-table-left-out")}
    assert "tsvector" in virtual["f"]
    assert "GiST" in virtual["r"]
    assert not found.finding("virtual-table-rows")
    assert [table.name for table in found.target.schema.tables] == ["t"]


def test_too_many_columns_and_too_wide_rows_block(made: Any, tmp_path: Path) -> None:
    many = SourceTable(name="t", columns=tuple(SourceColumn(name=f"c{n}", declared="INT") for n in range(1601)))
    choices = {("t", column.name): Choice(type="bigint", conversion=Conversion(to="bigint")) for column in many.columns}
    blocked = target.build(SourceSchema(tables=(many,)), choices, facts=Facts(wide_rows={"t": 3}))
    assert [finding.code for finding in blocked.findings if finding.level == "blocker"] == [
        "too-many-columns",
        "row-too-wide",
    ]


def test_rows_too_wide_are_found_in_the_data(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(600)]
    database = apsw.Connection(str(tmp_path / "wide.db"))
    for table in ("full", "sparse"):
        database.execute(f"CREATE TABLE {table}({', '.join(f'{name} TEXT' for name in names)})")
    database.execute(f"INSERT INTO full VALUES ({', '.join(['hex(randomblob(20))'] * 600)})")
    database.execute("INSERT INTO full (c1) VALUES ('x')")
    database.execute(f"INSERT INTO sparse VALUES ({', '.join(['1'] * 100 + ['NULL'] * 500)})")
    database.close()
    with SqliteSource(tmp_path / "wide.db").snapshot(1) as (reader,):
        schema = read_schema(reader)
        choice = Choice(type="text", conversion=Conversion(to="text", texts="keep"))
        choices = {(table.name, name): choice for table in schema.tables for name in names}
        found = facts.read(reader, schema, choices, {})
    assert found.wide_rows == {"full": 1}


# -- any schema ------------------------------------------------------------------------------------------------

_NAMES = st.sampled_from(["a", "b", "A b", "select", "ctid", "", "é" * 40, "x" * 70, "x" * 71, 'q"q', "%s", ":x", "id"])
_TYPES = st.sampled_from(
    ["bigint", "text", "double precision", "numeric", "boolean", "timestamp", "date", "jsonb", "uuid", "bytea"]
)
_SQL = st.sampled_from(
    ["a > 0", "a", "b LIKE 'x%'", "length(a) < 5", "date('now')", "nothere = 1", "a == \"x\"", "(", "typeof(a) = 'integer'", "a IN (0, 1)",
     "coalesce(a, b)", "lower(b) || a", "CURRENT_TIMESTAMP", "'x'", "5", "x'00'", "(a, b) = (1, 2)", "", "'", "\x00", "SELECT 1"]
)  # fmt: skip


@st.composite
def _tables(draw: st.DrawFn, name: str) -> SourceTable:
    names = draw(st.lists(_NAMES, min_size=1, max_size=5, unique_by=str.lower))
    column = st.builds(
        SourceColumn,
        name=st.just(""),
        declared=st.sampled_from(["", "INTEGER", "TEXT", "BLOB", "REAL", "DECIMAL(5,2)", "DATETIME", "BOOLEAN"]),
        not_null=st.booleans(),
        default=st.none() | _SQL,
        collation=st.sampled_from(["BINARY", "NOCASE", "RTRIM", "UNICASE"]),
    )
    made = []
    for each in names:
        drawn = draw(column)
        generated = draw(st.sampled_from(["", "", "virtual"]))
        made.append(SourceColumn(name=each, declared=drawn.declared, not_null=drawn.not_null, default=None if generated else drawn.default,
                                 collation=drawn.collation, generated=generated, expression=draw(_SQL) if generated else ""))  # fmt: skip
    some = st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True).map(tuple)
    keys = [
        SourceKey(name=draw(_NAMES), columns=draw(some), primary=place == 0) for place in range(draw(st.integers(0, 2)))
    ]
    terms = st.builds(
        SourceTerm, column=st.sampled_from(names), collation=st.sampled_from(["BINARY", "NOCASE"])
    ) | st.builds(SourceTerm, expression=_SQL)
    indexes = st.builds(
        SourceIndex,
        name=_NAMES,
        terms=st.lists(terms, min_size=1, max_size=2).map(tuple),
        unique=st.booleans(),
        where=st.just("") | _SQL,
    )
    references = st.builds(
        SourceForeignKey, name=_NAMES, columns=some, parent=st.sampled_from(["t", "u", "gone"]), parent_columns=some
    )
    return SourceTable(
        name=name,
        columns=tuple(made),
        keys=tuple(keys),
        indexes=tuple(draw(st.lists(indexes, max_size=2))),
        foreign_keys=tuple(draw(st.lists(references, max_size=2))),
        checks=tuple(SourceCheck(name=draw(_NAMES), sql=sql) for sql in draw(st.lists(_SQL, max_size=2))),
    )


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), _tables("t"), _tables("u"))
def test_any_schema_gives_a_target_that_can_be_created(
    server: Any, data: st.DataObject, one: SourceTable, two: SourceTable
) -> None:
    """Whatever the expressions say: what is not carried over is told, and what is can be created."""
    source = SourceSchema(tables=(one, two))
    choices = {
        (table.name, column.name): Choice(type=type_, conversion=Conversion(to=type_, integers="keep", texts="keep"))
        for table in source.tables
        for column in table.columns
        for type_ in [data.draw(_TYPES)]
    }
    made = target.build(source, choices, schema_name="any")
    again = target.build(source, choices, schema_name="any")
    assert made == again
    with psycopg.connect(server.url) as connection:
        connection.execute('CREATE SCHEMA "any"')
        for table in made.schema.tables:
            connection.execute(ddl.create_table("any", table))  # type: ignore[call-overload]
        for statement in constraints(made):
            connection.execute(statement)  # type: ignore[call-overload]
        connection.rollback()
