"""Every known way in which a migration from SQLite goes wrong, by the real command on a real server.

`pytest -s tests/test_pitfalls.py` prints each case with its outcome.
"""

from __future__ import annotations

import json
import re
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
        assert document["verify"]["same"], document["verify"]
        assert document["verify"]["findings"] == []
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
