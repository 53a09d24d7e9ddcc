"""Every awkward database that libSQL can hold gives from a server what it gives from its file.

Both are migrated by the real command into real servers; findings, exit status, rejects and the whole target are
compared. A server's SQLite is older than the file's (3.45 in sqld 0.24), so this also shows that none of it leaks.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from dbscale.cli import run
from dump import dump
from fix_postgres import Postgres
from fix_sqld import Sqld, serve_file
from pitfalls import CASES, Case
from test_pitfalls import MADE_BEFORE, in_schema

pytestmark = pytest.mark.slow

COPIED = {"D09": "a value of 20 MB, and a server gives out none above 5: --copy-first has no such limit"}
"""Cases that need another way than SQL over the network, with the reason. There are no other exemptions."""
SIDES = ("of_file", "of_server")
REJECTS = """
SELECT concat_ws(' | ', table_name, row_key, column_name, stored_as, raw, reason) FROM dbscale.quarantine
 WHERE run_id = (SELECT max(id) FROM dbscale.runs) ORDER BY 1
"""


@dataclass(frozen=True)
class Outcome:
    """What a migration came to."""

    status: int
    error: str
    findings: list[tuple[str, str, str]] = field(default_factory=list)
    tables: list[tuple[str, int, int]] = field(default_factory=list)
    rejects: list[str] = field(default_factory=list)
    content: str = ""


@pytest.fixture(scope="module")
def targets(server: Postgres) -> Iterator[dict[str, str]]:
    """Two databases of the same making, for what comes of the files and of the servers; a schema for each case."""
    made = {}
    with psycopg.connect(server.url, autocommit=True) as connection:
        for name in SIDES:
            connection.execute(f"DROP DATABASE IF EXISTS {name}".encode())
            connection.execute(f"CREATE DATABASE {name}".encode())
            made[name] = urlsplit(server.url)._replace(path=f"/{name}").geturl()
    yield made
    with psycopg.connect(server.url, autocommit=True) as connection:
        for name in SIDES:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_pitfall_from_a_server_is_what_it_is_from_its_file(  # noqa: PLR0917 - fixtures
    case: Case,
    sqld: Callable[..., Sqld],
    targets: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    file = serve_file(tmp_path / "served", lambda connection: fill(connection, case.sql))
    schema = in_schema(case.id)

    def outcome(side: str, source: str, *options: str) -> Outcome:
        target = targets[side]
        with psycopg.connect(target, autocommit=True) as connection:
            if case.id in MADE_BEFORE:
                connection.execute(f"CREATE SCHEMA {schema}; {MADE_BEFORE[case.id].format(schema)}".encode())
            status = run(["migrate", source, target, "--schema", schema, "--json", *case.options, *options])
            said = capsys.readouterr()
            document = json.loads(said.out)
            rejects = [str(row) for (row,) in connection.execute(REJECTS)] if "tables" in document else []
            present = connection.execute("SELECT to_regnamespace(%s) IS NOT NULL", [schema]).fetchone() == (True,)
            # The next case's server may get this one's port: a run that was not finished would be taken for its own.
            if connection.execute("SELECT to_regclass('dbscale.runs')").fetchone() != (None,):
                connection.execute("TRUNCATE dbscale.runs CASCADE")
        named = [(each["code"], each["where"], each["says"]) for each in document.get("findings", [])]
        return Outcome(
            status=status,
            error=said.err.replace(source, "SOURCE") if status not in (0, 1) else "",
            findings=sorted(
                (code, where.replace(source, "SOURCE"), says.replace(source, "SOURCE")) for code, where, says in named
            ),
            tables=sorted((each["table"], each["loaded"], each["quarantined"]) for each in document.get("tables", [])),
            rejects=rejects,
            content=dump(target, schema) if present else "",
        )

    of_file = outcome("of_file", str(file))
    of_server = outcome("of_server", sqld("served").url, *(["--copy-first"] if case.id in COPIED else []))
    assert of_server == of_file
    assert of_file.status == case.status
    assert of_file.content or case.status


def test_there_are_so_many_cases() -> None:
    assert len({case.id for case in CASES}) >= 80


def fill(connection: sqlite3.Connection, sql: str) -> None:
    connection.executescript(sql)
