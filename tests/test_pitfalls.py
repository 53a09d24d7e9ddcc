"""Every known way in which a migration from SQLite goes wrong, by the real command on a real server.

Each case says what is expected of it; `tests/pitfalls.py` is the table.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import apsw
import psycopg
import pytest

from dbscale.cli import run
from fix_postgres import Postgres
from pitfalls import CASES, Case

OF_EVERY_FILE = "source-blocks-writers"
COLUMNS = """
SELECT c.relname || '.' || a.attname,
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'not null' END,
                 CASE WHEN a.attidentity <> '' THEN 'identity' END,
                 CASE a.attgenerated WHEN '' THEN 'default ' ELSE 'generated ' END
                 || pg_get_expr(d.adbin, d.adrelid))
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE c.relnamespace = to_regnamespace(%(schema)s) AND c.relkind IN ('r', 'v')
"""
DEFINITIONS = """
SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = to_regnamespace(%(schema)s)
UNION ALL
SELECT pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class c ON c.oid = indexrelid
 WHERE c.relnamespace = to_regnamespace(%(schema)s)
"""
MADE_BEFORE = {"G18": "CREATE TABLE {}.users (isactive boolean, id serial PRIMARY KEY)"}


@pytest.fixture(scope="module")
def shared(server: Postgres) -> Iterator[str]:
    """A database for all cases, each of which takes a schema of its own."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS pitfalls")
        connection.execute("CREATE DATABASE pitfalls")
    yield urlsplit(server.url)._replace(path="/pitfalls").geturl()
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE pitfalls WITH (FORCE)")


def make(path: Path, sql: str) -> Path:
    """A SQLite file that `sql` fills."""
    database = apsw.Connection(str(path))
    database.execute(sql).fetchall()
    database.close()
    return path


def in_schema(name: str) -> str:
    return re.sub(r"\W", "_", name.lower())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_case(
    case: Case, shared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    schema = in_schema(case.id)
    make(tmp_path / f"{case.id}.db", case.sql)
    with psycopg.connect(shared, autocommit=True) as connection:
        if case.id in MADE_BEFORE:
            connection.execute(f"CREATE SCHEMA {schema}".encode())
            connection.execute(MADE_BEFORE[case.id].format(schema).encode())
        status = run(["migrate", f"{case.id}.db", shared, "--schema", schema, "--json", *case.options])
        captured = capsys.readouterr()
        assert status == case.status, captured.err
        if case.says:
            assert case.says in captured.err
            if status == 2:  # nothing was done
                assert connection.execute(COLUMNS, {"schema": schema}).fetchall() == []
            return
        document = json.loads(captured.out)
        behind = [each for each in document["findings"] if each["code"] == "virtual-table-rows"]
        assert document["verify"]["same"] == (case.same and not behind), document["verify"]
        assert not case.same or document["verify"]["findings"] == behind
        for table in document["tables"]:
            assert table["source_rows"] == table["loaded"] + table["quarantined"]
        holds(case, schema, connection, document)


def holds(case: Case, schema: str, connection: psycopg.Connection[Any], document: dict[str, Any]) -> None:
    """The target is what the case demands, and the findings are those and no others."""
    noticed = {(each["code"], Path(each["where"]).name) for each in document["findings"]}
    assert noticed - {(OF_EVERY_FILE, f"{case.id}.db")} == case.findings
    if case.types:
        expected = {column: type_.replace("%s", schema) for column, type_ in case.types.items()}
        assert dict(connection.execute(COLUMNS, {"schema": schema}).fetchall()) == expected
    definitions = "\n".join(row[0] for row in connection.execute(DEFINITIONS, {"schema": schema}))
    for part in case.has:
        assert part.replace("%s", schema) in definitions
    for part in case.lacks:
        assert part not in definitions
    connection.execute(f"SET search_path = {schema}; SET TimeZone = 'UTC'".encode())
    for query, rows in case.rows.items():
        assert sorted(as_text(connection, query), key=repr) == sorted(rows, key=repr), query


def as_text(connection: psycopg.Connection[Any], query: str) -> list[tuple[str | None, ...]]:
    """The rows of a query as the server spells them; booleans in full."""
    cursor = connection.execute(query.encode())
    spelled = {"t": "true", "f": "false"}
    booleans = [column.type_code == 16 for column in cursor.description or ()]
    result = cursor.pgresult
    assert result is not None
    rows = []
    for row in range(result.ntuples):
        values = [result.get_value(row, column) for column in range(result.nfields)]
        texts = [None if value is None else value.decode() for value in values]
        rows.append(
            tuple(
                spelled[text] if boolean and text is not None else text
                for text, boolean in zip(texts, booleans, strict=True)
            )
        )
    return rows


def test_rows_of_a_virtual_table_left_behind_are_in_every_exit_status(
    shared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make(
        tmp_path / "notes.db",
        "CREATE TABLE t(a TEXT); INSERT INTO t VALUES ('x'); CREATE VIRTUAL TABLE notes USING fts5(body);"
        "INSERT INTO notes VALUES ('only here'), ('and here')",
    )
    assert migrate("notes.db", shared, "left", "--no-verify") == 1
    said = capsys.readouterr().err
    assert "data: notes: a virtual table of the module fts5 is not carried over: 2 rows are left behind" in said
    assert 'CREATE TABLE "notes_rows" AS SELECT rowid, * FROM "notes", then --skip notes. PostgreSQL has' in said
    assert run(["verify", "notes.db", shared, "--schema", "left"]) == 1
    assert "verified: NOT the same" in capsys.readouterr().out
    assert migrate("notes.db", shared, "left", "--into-existing", "--truncate", "--yes") == 1
    assert "[virtual-table-rows]" in capsys.readouterr().out
    assert run(["verify", "notes.db", shared, "--schema", "left", "--skip", "notes"]) == 0
    assert migrate("notes.db", shared, "left_again", "-o", "plan.json") == 0
    monkeypatch.setenv("PGPASSWORD", urlsplit(shared).password or "")
    assert run(["apply", "plan.json", "--yes"]) == 1
    make(tmp_path / "notes.db", 'CREATE TABLE "notes_rows" AS SELECT rowid, * FROM "notes"')
    assert migrate("notes.db", shared, "rescued", "--skip", "notes") == 0
    assert ask(shared, "SELECT * FROM rescued.notes_rows") == [("1", "only here"), ("2", "and here")]


# ── H: the state of the file and of the server ────────────────────────────────────────────────────────────────────


def migrate(source: str | Path, url: str, schema: str, *more: str) -> int:
    return run(["migrate", str(source), url, "--schema", schema, *more])


def ask(url: str, query: str) -> list[tuple[str | None, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return as_text(connection, query)


def test_h01_rows_that_are_in_the_wal_alone(shared: str, tmp_path: Path) -> None:
    writer = apsw.Connection(str(tmp_path / "live.db"))
    writer.execute("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t(a)").fetchall()
    writer.execute("INSERT INTO t VALUES (1), (2)").fetchall()
    assert migrate(tmp_path / "live.db", shared, "h01") == 0
    assert ask(shared, "SELECT a FROM h01.t") == [("1",), ("2",)]
    writer.close()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"hello, this is no database\n" * 100, "not a SQLite database"),
        (bytes(range(256)) * 64, "not a SQLite database"),
        (b"", "the file is empty"),
        (None, "directory"),
    ],
)
def test_h02_what_is_no_database(
    content: bytes | None, says: str, shared: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file.db"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    status = migrate(file, shared, "h02")
    said = capsys.readouterr().err
    assert status == (0 if content == b"" else 3), said
    assert "Traceback" not in said
    assert says in said


def test_h03_a_hot_journal(shared: str, tmp_path: Path) -> None:
    """What a crash left half written is rolled back in a copy; the file stays as it is."""
    file = make(
        tmp_path / "hot.db",
        "CREATE TABLE t(a); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
        " INSERT INTO t SELECT i FROM n",
    )
    program = (
        "import os, sqlite3; c = sqlite3.connect('hot.db', isolation_level=None);"
        "c.execute('PRAGMA cache_size = 5'); c.execute('BEGIN'); c.execute('UPDATE t SET a = -1'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    assert (tmp_path / "hot.db-journal").stat().st_size
    before = file.read_bytes()
    assert migrate(file, shared, "h03") == 0
    assert ask(shared, "SELECT count(*), min(a), sum(a) FROM h03.t") == [("20000", "1", "200010000")]
    assert file.read_bytes() == before


def test_h04_a_fleet_of_files_in_schemas_of_one_database(shared: str, tmp_path: Path) -> None:
    for name in ("north", "south"):
        file = make(
            tmp_path / f"{name}.db", f"CREATE TABLE t(id INTEGER PRIMARY KEY, a); INSERT INTO t(a) VALUES ('{name}')"
        )
        assert migrate(file, shared, f"h04_{name}") == 0
    assert ask(shared, "SELECT a FROM h04_north.t UNION ALL SELECT a FROM h04_south.t") == [("north",), ("south",)]


def test_h05_files_of_a_fleet_that_have_drifted_apart(
    shared: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = make(tmp_path / "first.db", "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT); INSERT INTO t VALUES (1, 'x')")
    drifted = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b TEXT); INSERT INTO t VALUES (2, 'y', 'z')"
    second = make(tmp_path / "second.db", drifted)
    assert migrate(first, shared, "h05") == 0
    assert migrate(second, shared, "h05", "--into-existing", "--truncate", "--yes") == 2
    assert "t.b" in capsys.readouterr().err
    assert ask(shared, "SELECT * FROM h05.t") == [("1", "x")]


def test_h06_vectors_and_tables_of_libsql(shared: str, tmp_path: Path) -> None:
    file = make(
        tmp_path / "libsql.db",
        "CREATE TABLE v(id INTEGER PRIMARY KEY, e F32_BLOB(3)); INSERT INTO v VALUES (1, x'0000803f0000004000004040');"
        "CREATE TABLE libsql_vector_meta_shadow(name TEXT); CREATE TABLE r(a);  INSERT INTO r VALUES (5);"
        "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = 'CREATE TABLE r(a) RANDOM ROWID' WHERE name = 'r'",
    )
    assert migrate(file, shared, "h06") == 0
    assert ask(shared, "SELECT e, pg_typeof(e) FROM h06.v") in (
        [("{1,2,3}", "real[]")],
        [("[1,2,3]", "vector")],
    )
    assert ask(shared, "SELECT a FROM h06.r") == [("5",)]


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_h07_a_server_database_that_is_not_in_utf8(
    encoding: str, server: Postgres, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = make(tmp_path / "file.db", "CREATE TABLE t(a); INSERT INTO t VALUES ('é')")
    name = f"encoded_{encoding.lower()}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0".encode())
        try:
            assert migrate(file, urlsplit(server.url)._replace(path=f"/{name}").geturl(), "public") == 3
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
    assert "UTF8" in capsys.readouterr().err
