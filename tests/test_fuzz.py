"""Random schemas with random values, by the real command: every row arrives and verifies, or a clear refusal."""

from __future__ import annotations

import io
import itertools
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import apsw
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbscale.cli import run
from dbscale.schema import literal, quote
from fix_postgres import Postgres

EXAMPLES = int(os.environ.get("DBSCALE_TEST_EXAMPLES", "100"))
TYPES = (
    "INTEGER,INT,BIGINT,TINYINT(1),REAL,DOUBLE,NUMERIC,DECIMAL(8\x002),TEXT,VARCHAR(5),CHAR(3),CLOB,BLOB,,STRING,"
    "BOOLEAN,DATETIME,TIMESTAMP,DATE,TIME,UUID,JSON,ANY,POINT,TEXT COLLATE NOCASE,F32_BLOB(2)"
).replace("\x00", ", ")
DECLARED = [*re.split(r",(?! )", TYPES), ""]
NAMES = ["a", "B", "c d", "order", 'q"q', "é😀", "ctid", "x" * 70, "%s", "id", "Id2", "rowid", "user", "a.b", "$1", "'"]
TEXTS = [
    "", " ", "abc", "ABC", "É", "é", "a\tb\n\\N", "\\.", "'", '"', "12", " 12 ", "1e3", "1.50", "0x10", "true", "f",
    "yes", "2020-01-02", "2020-01-02 03:04:05", "2020-01-02T03:04:05.123456789Z", "2020-02-30", "24:00:00", "12:30",
    "2020-01-02 03:04:05+05:30", "now", "infinity", '{"a": 1, "a": 2}', '"\\u0000"', "[1.0, null]", "{a:1}", "NULL",
    "550e8400-e29b-41d4-a716-446655440000", "{550E8400-E29B-41D4-A716-446655440000}", "\ufeff", "x" * 3000,
]  # fmt: skip
VALUES = st.one_of(
    st.none(),
    st.sampled_from([0, 1, 2, -1, 20200102, 1577836800, 1577836800000, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)]),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.sampled_from([0.1, -0.0, 3.0, 2458849.5, float("inf"), 1e-320, 99.95]),
    st.sampled_from(TEXTS),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
    st.sampled_from([b"", b"\x00\xff", b"hello", bytes(range(16)), b"\x00\x00\x80?\x00\x00\x00@"]),
    st.binary(max_size=20),
)
FEW = 12
Parents = list[tuple[str, str]]


def spelled(value: Any) -> str:
    """A value in SQLite's SQL."""
    return str(apsw.format_sql_value(value))


@st.composite
def columns(draw: st.DrawFn) -> list[tuple[str, str, st.SearchStrategy[Any]]]:
    """Name, declaration, and where its values come from: of one kind most of the time, as in real tables."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique_by=str.lower))
    made = []
    for name in names:
        pool: st.SearchStrategy[Any] = VALUES
        if draw(st.integers(0, 3)):
            few = draw(st.lists(VALUES, min_size=1, max_size=4))
            pool = st.sampled_from([each for each in few if type(each) in (type(few[0]), type(None))])
        default = f" DEFAULT {draw(st.sampled_from(SIMPLE_DEFAULTS))}" if not draw(st.integers(0, 4)) else ""
        made.append((name, draw(st.sampled_from(DECLARED)) + default, pool))
    return made


SIMPLE_DEFAULTS = ["0", "1", "'x'", "''", "NULL", "CURRENT_TIMESTAMP", "(datetime('now'))", "-1.5", "TRUE", "x'00'"]


@st.composite
def tables(draw: st.DrawFn, name: str, parents: Parents) -> tuple[list[str], tuple[str, str]]:
    """The statements that make and fill one table, and the column that others may refer to."""
    made = draw(columns())
    kind = draw(st.sampled_from(["rowid", "autoincrement", "composite", "without rowid", "none"]))
    lines, options, key = [f"{quote(column)} {declared}" for column, declared, _ in made], "", made[0][0]
    if kind in ("rowid", "autoincrement"):
        key = "key"
        lines.insert(0, "key INTEGER PRIMARY KEY" + " AUTOINCREMENT" * (kind == "autoincrement"))
    elif kind in ("composite", "without rowid"):
        chosen = made[: draw(st.integers(1, 2))]
        lines.append(f"PRIMARY KEY ({', '.join(quote(column) for column, _, _ in chosen)})")
        options = " WITHOUT ROWID" if kind == "without rowid" else ""
    if draw(st.booleans()):
        lines.append(f"UNIQUE ({quote(draw(st.sampled_from(made))[0])})")
    if draw(st.booleans()) and parents:
        parent, column = draw(st.sampled_from(parents))
        action = draw(st.sampled_from(["", " ON DELETE CASCADE", " ON UPDATE SET NULL DEFERRABLE INITIALLY DEFERRED"]))
        child = quote(draw(st.sampled_from(made))[0])
        lines.append(f"FOREIGN KEY ({child}) REFERENCES {quote(parent)} ({quote(column)}){action}")
    if draw(st.booleans()):
        lines.append(f"CHECK ({quote(made[-1][0])} IS NOT {literal('never')})")
    statements = [f"CREATE TABLE {quote(name)} ({', '.join(lines)}){options}"]
    index = quote(draw(st.sampled_from(made))[0])
    form = draw(
        st.sampled_from(["", "({0})", "({0} DESC)", "({0} COLLATE NOCASE)", "(lower({0}))", "({0}) WHERE {0} > 0"])
    )
    if form:
        statements.append(f"CREATE INDEX {quote('i ' + name)} ON {quote(name)} {form.format(index)}")
    listed = ", ".join(quote(column) for column, _, _ in made)
    for _ in range(draw(st.integers(0, FEW))):
        values = ", ".join(spelled(draw(pool)) for _, _, pool in made)
        statements.append(f"INSERT OR IGNORE INTO {quote(name)} ({listed}) VALUES ({values})")
    return statements, (name, key)


@st.composite
def databases(draw: st.DrawFn) -> list[str]:
    """The statements of a whole database."""
    encoding = draw(st.sampled_from(["UTF-8", "UTF-8", "UTF-16le", "UTF-16be"]))
    parents: Parents = []
    statements = [f"PRAGMA encoding = '{encoding}'"]
    for name in draw(st.lists(st.sampled_from(["t", "T 2", "order", "dbscale"]), min_size=1, max_size=3, unique=True)):
        own, key = draw(tables(name, parents))
        statements += own
        parents.append(key)
    if draw(st.booleans()):
        statements.append(f"CREATE VIEW v AS SELECT * FROM {quote(parents[0][0])}")
    return statements


@pytest.fixture(scope="module")
def shared(server: Postgres) -> Iterator[str]:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS fuzz")
        connection.execute("CREATE DATABASE fuzz")
    yield urlsplit(server.url)._replace(path="/fuzz").geturl()
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE fuzz WITH (FORCE)")


_numbers = itertools.count(1)


def command(*arguments: str) -> tuple[int, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = run(list(arguments))
    return status, out.getvalue() + err.getvalue()


def check(statements: list[str], url: str, outcomes: Counter[str]) -> None:
    """Migrate the database; it is the same, or a finding said beforehand why it cannot be."""
    with tempfile.TemporaryDirectory(prefix="dbscale-fuzz-") as directory:
        file = Path(directory) / f"{next(_numbers)}.db"
        database = apsw.Connection(str(file))
        for statement in statements:
            with suppress(apsw.MismatchError):  # a rowid takes nothing but integers
                database.execute(statement).fetchall()
        database.close()
        status, said = command("migrate", str(file), url, "--schema", "fuzz", "--json")
    script = ";\n".join(statements)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS fuzz CASCADE")
    assert "Traceback" not in said, script
    if status == 2:
        assert "the plan is blocked" in said, f"{said}\n{script}"
        outcomes[re.sub(r"\d+", "N", said.splitlines()[0])[:60]] += 1
        return
    differing = said[said.find("verify") :]
    assert status == 0, f"{status}: {differing}\n{script}"
    outcomes["the same"] += 1


def fuzz(examples: int, url: str) -> Counter[str]:
    """What became of so many random databases."""
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(databases())
    def each(statements: list[str]) -> None:
        check(statements, url, outcomes)

    each()
    return outcomes


def test_random_databases(shared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    print("\n", dict(fuzz(EXAMPLES, shared)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_random_databases(shared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    print("\n", dict(fuzz(3 * EXAMPLES, shared)))
