"""Awkward databases, whose rows are compared without any of dbscale: the standard library's sqlite3, and psycopg."""
# ruff: noqa: E501 - the SQL of the sources is wide

from __future__ import annotations

import sqlite3
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from dbscale.cli import run

DATABASES = {
    "generated columns that read each other": """
        CREATE TABLE t (id INTEGER PRIMARY KEY, a INT, b INT AS (a * 2) STORED, c INT AS (b + 1), d TEXT AS (printf('%05d', a)) STORED);
        INSERT INTO t (id, a) VALUES (1, 5), (2, -7), (3, NULL);""",
    "cycles of composite keys": """
        CREATE TABLE a (x INT, y TEXT, bx INT, by TEXT, PRIMARY KEY (x, y), FOREIGN KEY (bx, by) REFERENCES b (x, y) DEFERRABLE INITIALLY DEFERRED);
        CREATE TABLE b (x INT, y TEXT, ax INT, ay TEXT, PRIMARY KEY (x, y), FOREIGN KEY (ax, ay) REFERENCES a);
        CREATE TABLE s (k INT, l TEXT, p INT, q TEXT, PRIMARY KEY (k, l), FOREIGN KEY (p, q) REFERENCES s (k, l) ON DELETE CASCADE);
        INSERT INTO a VALUES (1, 'a', 1, 'b'), (2, 'a', NULL, 'z'); INSERT INTO b VALUES (1, 'b', 1, 'a'), (3, 'c', NULL, NULL);
        INSERT INTO s VALUES (1, 'a', 1, 'a'), (2, 'b', 1, 'a'), (3, 'c', NULL, 'q');""",
    "names of PostgreSQL's own": """
        CREATE TABLE t (ctid INT, xmin TEXT, xmax INT, tableoid INT, oid TEXT, rowid INT, _rowid_ TEXT); INSERT INTO t VALUES (1, 'a', 2, 5, 'o', 7, 'r');
        CREATE TABLE pg_class (oid INTEGER PRIMARY KEY, relname TEXT); INSERT INTO pg_class VALUES (1, 'x');
        CREATE TABLE "user" (id INTEGER PRIMARY KEY, "select" TEXT, "order" INT, "end" TEXT, "analyse" INT); INSERT INTO "user" VALUES (1, 'a', 2, 'e', 9);
        CREATE TABLE "authorization" ("current_user" TEXT); INSERT INTO "authorization" VALUES ('me');""",
    "names with marks of every kind": """
        CREATE TABLE "a""b'c" ("x""y" INTEGER PRIMARY KEY, "p'q" TEXT, "a b" INT, "ü%s" TEXT, ":x" INT, "%" TEXT, "back\\slash" TEXT, "$1" INT, "{}" TEXT);
        INSERT INTO "a""b'c" VALUES (1, 'a', 2, 'ü', 3, '%s', '\\', 4, '{}'); CREATE INDEX "i""x" ON "a""b'c" ("p'q", "ü%s");
        CREATE TABLE "sp ace." ("dot.ted" TEXT, "semi;colon" TEXT, "new\nline" TEXT, "tab	x" INT); INSERT INTO "sp ace." VALUES ('a', 'b', 'c', 1);""",
    "text that COPY could misread": r"""
        CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b BLOB);
        INSERT INTO t VALUES (1, 'a' || char(10) || 'b', x''), (2, 'a' || char(9), x'00'), (3, '\N', x'5c4e'), (4, 'NULL', NULL), (5, '\.', x'5c2e0a'),
            (6, char(65533), x'ff'), (7, char(13, 10), x'27'), (8, char(127, 1), x'2c'), (9, char(55295, 57344, 1114111), x'22'), (10, '''', x'0a'), (11, '', NULL), (12, ' ', x'20');""",
    "rowids at the ends": """
        CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT); INSERT INTO t VALUES (-9223372036854775808, 'least'), (-5, 'n'), (0, 'z'), (9223372036854775807, 'most');
        CREATE TABLE u (a TEXT); INSERT INTO u (rowid, a) VALUES (-9223372036854775808, 'x'), (0, 'y'), (9223372036854775807, 'm');
        CREATE TABLE d (id INTEGER PRIMARY KEY DESC, a TEXT); INSERT INTO d VALUES (3, 'a'), (1, 'b'), (NULL, 'c'), (NULL, 'd');
        CREATE TABLE w (a TEXT, b INT, c BLOB, PRIMARY KEY (b DESC, a)) WITHOUT ROWID; INSERT INTO w VALUES ('x', 1, x'00'), ('y', 1, NULL), ('x', 2, x'ff');""",
    "columns added, renamed and dropped": """
        CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT); INSERT INTO t VALUES (1, 'v'), (2, 'v'); ALTER TABLE t ADD COLUMN b INT DEFAULT 5;
        ALTER TABLE t ADD COLUMN c TEXT DEFAULT 'x' NOT NULL; ALTER TABLE t ADD COLUMN d REAL DEFAULT 1; INSERT INTO t (id, a) VALUES (1000, 'n');
        ALTER TABLE t DROP COLUMN a; ALTER TABLE t RENAME COLUMN b TO bb; CREATE TABLE o (a INT, r INT REFERENCES t); INSERT INTO o VALUES (1, 1); ALTER TABLE t RENAME TO t2; ANALYZE;""",
    "keys without regard to blanks or case": """
        CREATE TABLE t (a TEXT COLLATE RTRIM PRIMARY KEY, b TEXT COLLATE NOCASE UNIQUE); INSERT INTO t VALUES ('a', 'X '), ('b  ', 'y'), (' a', 'É'), ('c', 'é');
        CREATE TABLE c (a TEXT REFERENCES t (a)); INSERT INTO c VALUES ('a'), ('b'), ('b   ');
        CREATE TABLE n (a TEXT, b INT, UNIQUE (a, b)); INSERT INTO n VALUES (NULL, 1), (NULL, 1), ('x', NULL), ('x', NULL), ('', 1), ('', NULL);""",
    "numbers at the ends": """
        CREATE TABLE t (id INTEGER PRIMARY KEY, r REAL, i INT);
        INSERT INTO t VALUES (1, 5e-324, 9223372036854775807), (2, 1.7976931348623157e308, -9223372036854775808), (3, 0.1, 0), (4, 1e22, 1), (5, 9e999, 2), (6, -9e999, 3), (7, 123456789.123456789, NULL);""",
}


def plain(value: Any) -> Any:
    """A value by its class and content; numbers with a fraction by their bits."""
    if isinstance(value, float):
        return struct.pack(">d", value)
    return bytes(value) if isinstance(value, memoryview) else value


@pytest.mark.parametrize("form", ["binary", "sql"])
@pytest.mark.parametrize("name", DATABASES)
@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16be"])
def test_rows_are_the_same(  # noqa: PLR0917 - fixtures
    encoding: str, name: str, form: str, tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form == "sql":
        monkeypatch.setenv("DBSCALE_PURE_SQL", "1")
    source = sqlite3.connect(tmp_path / "a.db")
    source.execute(f"PRAGMA encoding = '{encoding}'")
    source.execute("CREATE TABLE minus (id INTEGER PRIMARY KEY, r DOUBLE)")
    source.executemany("INSERT INTO minus VALUES (?, ?)", [(1, -0.0), (2, 0.5)])
    source.executescript(DATABASES[name])
    source.commit()
    assert run(["migrate", str(tmp_path / "a.db"), database, "--no-verify"]) == 0
    tables = [
        row[0]
        for row in source.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
    ]
    with psycopg.connect(database) as target:
        for table in tables:
            columns = [row[0] for row in source.execute("SELECT name FROM pragma_table_xinfo(?)", [table])]
            names = ", ".join('"' + column.replace('"', '""') + '"' for column in columns)
            quoted = '"' + table.replace('"', '""') + '"'
            expected = Counter(tuple(map(plain, row)) for row in source.execute(f"SELECT {names} FROM {quoted}"))
            found = target.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier("public", table)))
            assert Counter(tuple(map(plain, row)) for row in found) == expected, table
    source.close()
