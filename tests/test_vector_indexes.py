"""libSQL's vector indexes, from a server and from its file, into a target with pgvector and into one without."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from dbscale.migrate import estimate
from fix_postgres import absent
from fix_sqld import Sqld
from test_turso import migrate

START = Callable[..., Sqld]
NEW = Callable[..., str]
MADE = (
    "CREATE TABLE v (id INTEGER PRIMARY KEY, a F32_BLOB(3), b FLOAT32(2), c F64_BLOB(2), wide F32_BLOB(2001))",
    "CREATE INDEX by_cosine ON v (libsql_vector_idx(a))",
    "CREATE INDEX by_l2 ON v (libsql_vector_idx(\"b\", 'metric=l2', 'max_neighbors=20')) WHERE id > 0",
    "CREATE INDEX by_double ON v (libsql_vector_idx(c, 'metric=cosine'))",
    "CREATE INDEX by_wide ON v (libsql_vector_idx(wide))",
    """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
    INSERT INTO v SELECT i, vector32('[' || i || ',' || (i % 7 + 1) || ',-1]'),
    vector32('[' || (i % 20) || ',' || i || ']'),
    vector64('[0.5,' || i || ']'), NULL FROM n""",
    "INSERT INTO v (id) VALUES (301)",
)
"""A vector index of each kind; `by_double` and `by_wide` have no counterpart anywhere."""


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dbscale.toml of this test's own, not the one of the current directory."""
    file = tmp_path / "dbscale.toml"
    file.write_text("")
    monkeypatch.setenv("DBSCALE_CONFIG", str(file))


@pytest.fixture
def with_pgvector(new_database: NEW) -> str:
    """A database that has the extension."""
    url = new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        there = connection.execute("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'").fetchone()
        if there == (0,):
            absent("the server has no pgvector")
        connection.execute("CREATE EXTENSION vector")
    return url


def verify(source: str, target: str, *, code: int) -> str:
    command = [sys.executable, "-c", "from dbscale.cli import main; main()", "verify", source, target]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == code, done.stdout
    return " ".join(done.stdout.split())


def indexes(target: str) -> dict[str, str]:
    with psycopg.connect(target) as connection:
        found = connection.execute("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'").fetchall()
    return dict(found)


def findings(output: str) -> dict[str, str]:
    """The code of each finding about an index, by its place."""
    return dict(re.findall(r"behaviour: v\.(\w+): [^[]*(?:\[\][^[]*)*\[(index-left-out|vector-index)\]", output))


@pytest.mark.parametrize("way", ["server", "file"])
def test_they_become_hnsw_indexes_of_pgvector(sqld: START, with_pgvector: str, way: str) -> None:
    server = sqld()
    server.run(*MADE)
    (libsql,) = server.run("SELECT id FROM vector_top_k('by_cosine', vector32('[100,3,-1]'), 5)")
    source = server.url
    if way == "file":
        server.stop()
        source = str(server.home / "dbs" / "default" / "data")
    output = " ".join(migrate(source, with_pgvector).split())
    assert "verified" in output
    assert findings(output) == {
        "by_cosine": "vector-index",
        "by_l2": "vector-index",
        "by_double": "index-left-out",
        "by_wide": "index-left-out",
    }
    assert "answers may differ" in output
    assert "wide has 2,001 dimensions, and an HNSW index takes 2,000" in output
    assert "c is double precision[] in the target" in output
    assert indexes(with_pgvector) == {
        "v_pkey": "CREATE UNIQUE INDEX v_pkey ON public.v USING btree (id)",
        "by_cosine": "CREATE INDEX by_cosine ON public.v USING hnsw (a vector_cosine_ops)",
        "by_l2": "CREATE INDEX by_l2 ON public.v USING hnsw (b vector_l2_ops) WHERE (id > 0)",
    }
    query = "SELECT id FROM v ORDER BY a <=> '[100,3,-1]' LIMIT 5"
    with psycopg.connect(with_pgvector) as connection:
        connection.execute("SET enable_seqscan = off")
        plan = str(connection.execute(f"EXPLAIN {query}".encode()).fetchall())
        assert "Index Scan using by_cosine" in plan
        assert connection.execute(query.encode()).fetchall() == [(int(row[0]["value"]),) for row in libsql["rows"]]
    assert "the same" in verify(source, with_pgvector, code=0)


@pytest.mark.parametrize(("dimensions", "rows"), [(3, 2000), (128, 1000), (768, 100), (2000, 50)])
def test_the_size_of_one_is_estimated(with_pgvector: str, dimensions: int, rows: int) -> None:
    vector = f"(SELECT array_agg(random() + 0 * g * i) FROM generate_series(1, {dimensions}) i)"
    with psycopg.connect(with_pgvector) as connection:
        made = f"CREATE TABLE t AS SELECT {vector}::vector({dimensions}) v FROM generate_series(1, {rows}) g"
        connection.execute(made.encode())
        connection.execute("CREATE INDEX i ON t USING hnsw (v vector_cosine_ops)")
        size = connection.execute("SELECT pg_relation_size('i')").fetchone()
    assert size
    assert rows * estimate.hnsw_bytes(f"vector({dimensions})") == pytest.approx(size[0], rel=0.15)


def test_verify_knows_the_index(sqld: START, with_pgvector: str) -> None:
    """By its being there, its method and its operator class."""
    server = sqld()
    server.run(*MADE)
    migrate(server.url, with_pgvector)
    for made, said in (
        ("USING hnsw (a vector_l2_ops)", "its operator class is vector_l2_ops, not vector_cosine_ops"),
        ("USING ivfflat (a vector_cosine_ops)", "it is ivfflat, not hnsw"),
        ("", "the index is not there"),
    ):
        with psycopg.connect(with_pgvector, autocommit=True) as connection:
            connection.execute("DROP INDEX by_cosine")
            connection.execute(f"CREATE INDEX {'by_cosine' if made else ''} ON v {made or '(id)'}".encode())
        output = verify(server.url, with_pgvector, code=1)
        assert "verify-index" in output
        assert said in output


@pytest.mark.parametrize("way", ["server", "file"])
def test_without_pgvector_they_are_arrays_and_have_none(sqld: START, new_database: NEW, way: str) -> None:
    server = sqld()
    server.run(*MADE)
    source = server.url
    if way == "file":
        server.stop()
        source = str(server.home / "dbs" / "default" / "data")
    target = new_database()
    output = " ".join(migrate(source, target).split())
    assert "verified" in output
    assert findings(output) == dict.fromkeys(("by_cosine", "by_l2", "by_double", "by_wide"), "index-left-out")
    assert "CREATE EXTENSION vector in the target" in output
    assert indexes(target).keys() == {"v_pkey"}
    with psycopg.connect(target) as connection:
        row = connection.execute("SELECT pg_typeof(a)::text, a, b, c FROM v WHERE id = 8").fetchone()
        assert row == ("real[]", [8, 2, -1], [8, 8], [0.5, 8])
        assert connection.execute("SELECT count(*), count(a) FROM v").fetchone() == (301, 300)
    assert "the same" in verify(source, target, code=0)


def test_a_pgvector_from_before_hnsw(sqld: START, with_pgvector: str) -> None:
    """0.4 has the type, and no such indexes: the target of one has vectors, and a finding."""
    with psycopg.connect(with_pgvector, autocommit=True) as connection:
        connection.execute("ALTER EXTENSION vector DROP ACCESS METHOD hnsw")
        operators = connection.execute(
            "SELECT opcname, opcnamespace::regnamespace::text FROM pg_opclass JOIN pg_am a ON a.oid = opcmethod"
            " WHERE amname = 'hnsw'"
        ).fetchall()
        for name, schema in operators:
            connection.execute(f"ALTER EXTENSION vector DROP OPERATOR CLASS {schema}.{name} USING hnsw".encode())
            connection.execute(f"ALTER EXTENSION vector DROP OPERATOR FAMILY {schema}.{name} USING hnsw".encode())
        connection.execute("DROP ACCESS METHOD hnsw CASCADE")
    server = sqld()
    server.run(*MADE)
    output = " ".join(migrate(server.url, with_pgvector).split())
    assert "verified" in output
    assert findings(output) == dict.fromkeys(("by_cosine", "by_l2", "by_double", "by_wide"), "index-left-out")
    assert "no HNSW index" in output
    assert indexes(with_pgvector).keys() == {"v_pkey"}


def test_vectors_of_more_dimensions_than_pgvector_has(sqld: START, with_pgvector: str) -> None:
    """libSQL has 65,536 of them, pgvector's type 16,000."""
    server = sqld()
    server.run(
        "CREATE TABLE v (id INTEGER PRIMARY KEY, most F32_BLOB(16000), more F32_BLOB(16001))",
        "CREATE INDEX by_more ON v (libsql_vector_idx(more))",
        "INSERT INTO v VALUES (1, zeroblob(64000), zeroblob(64004))",
    )
    output = " ".join(migrate(server.url, with_pgvector).split())
    assert "verified" in output
    assert "more has 16,001 dimensions" in output
    with psycopg.connect(with_pgvector) as connection:
        row = connection.execute("SELECT pg_typeof(most)::text, pg_typeof(more)::text, cardinality(more) FROM v")
        assert row.fetchone() == ("vector", "real[]", 16_001)
