"""What `dbscale doctor` finds: each finding on a real server that is in that state, and none when it is mended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from dbscale.cli import run
from dbscale.drivers import embedded, postgres
from dbscale.errors import Finding
from dbscale.indexes import facts, health
from fix_postgres import QUICK, binaries


def found(url: str) -> dict[str, Finding]:
    """What is wrong with a database, by code."""
    with postgres.connect(url) as connection, postgres.reading(connection):
        return {each.code: each for each in health.check(connection, facts.read(connection), "db")}


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def failed_build(url: str) -> None:
    """A unique index built concurrently over duplicates: it fails, and is left behind."""
    execute(url, "CREATE TABLE t (id int PRIMARY KEY, a int)", "INSERT INTO t VALUES (1, 1), (2, 1)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        execute(url, "CREATE UNIQUE INDEX CONCURRENTLY t_a ON t (a)")


def made(*statements: str) -> Callable[[str], None]:
    return lambda url: execute(url, *statements)


DEAD = ("CREATE TABLE t (id int PRIMARY KEY) WITH (autovacuum_enabled = off)",
        "INSERT INTO t SELECT generate_series(1, 40000)", "ANALYZE t", "DELETE FROM t WHERE id % 2 = 0",
        "SELECT pg_stat_force_next_flush()")  # fmt: skip
BLIND = ("CREATE TABLE t (id int PRIMARY KEY, a text) WITH (autovacuum_enabled = off)",
         "INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series(1, 2000) n")  # fmt: skip

STATES = [
    # the code, how it comes about, what is said, and what mends it
    ("index-invalid", failed_build, "t.t_a", "DROP INDEX CONCURRENTLY t_a"),
    ("table-without-key", made("CREATE TABLE t (a int)"), "t", "ALTER TABLE t ADD PRIMARY KEY (a)"),
    ("replica-identity", made("CREATE TABLE t (a int)"), "t", "ALTER TABLE t REPLICA IDENTITY FULL"),
    ("replica-identity", made("CREATE TABLE t (a int PRIMARY KEY)", "ALTER TABLE t REPLICA IDENTITY NOTHING"), "t",
     "ALTER TABLE t REPLICA IDENTITY DEFAULT"),
    ("sequence-full", made("CREATE TABLE t (id smallserial PRIMARY KEY)", "SELECT setval('t_id_seq', 30000)"),
     "92% of its numbers", "ALTER TABLE t ALTER id TYPE bigint; ALTER SEQUENCE t_id_seq AS bigint"),
    ("sequence-full", made("CREATE TABLE t (id int PRIMARY KEY DEFAULT 1)", "CREATE SEQUENCE s MAXVALUE 10",
                           "SELECT setval('s', 8)"), "80% of its numbers", "ALTER SEQUENCE s MAXVALUE 100"),
    ("table-bloat", made(*DEAD), "20000 rows are dead (", "VACUUM t"),
    ("never-analysed", made(*BLIND), "t", "ANALYZE t"),
    ("index-predicate", made("CREATE TABLE t (a int PRIMARY KEY)", "CREATE INDEX i ON t (a) WHERE a IS NOT NULL"),
     "a is NOT NULL", "DROP INDEX i"),
    ("foreign-key-types", made("CREATE TABLE p (id bigint PRIMARY KEY, b int REFERENCES p)"),
     "bigint", "ALTER TABLE p ALTER b TYPE bigint"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "state", "says", "mend"), STATES, ids=[f"{each[0]}-{each[2]}" for each in STATES])
def test_each_state_is_found_and_gone_when_mended(
    code: str, state: Callable[[str], None], says: str, mend: str, database: str
) -> None:
    assert set(found(database)) <= {"setting"}, "the test server runs without fsync"
    state(database)
    finding = found(database)[code]
    assert says in f"{finding.where} {finding.says}"
    assert finding.try_
    execute(database, mend)
    assert code not in found(database)


def test_a_transaction_that_is_left_open(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "IDLE_SECONDS", 0.0)
    with psycopg.connect(database) as other:
        other.execute("SELECT 1")
        assert "1 sessions" in found(database)["idle-transaction"].where
        other.rollback()
        assert "idle-transaction" not in found(database)


@pytest.mark.embedded
def test_a_library_that_sorts_otherwise(server_root: Path) -> None:
    """On Debian's server: the others here are built without ICU."""
    root = server_root / "sorted"
    root.mkdir()
    url = embedded.up("sorted", root=root, binaries=binaries("15"), settings=QUICK).url
    try:
        execute(
            url, "CREATE COLLATION c (provider = icu, locale = 'de')", "CREATE TABLE t (a text COLLATE c PRIMARY KEY)"
        )
        assert "index-collation" not in found(url)
        execute(url, "UPDATE pg_collation SET collversion = '1' WHERE collname = 'c'")
        assert "t_pkey (c 1" in found(url)["index-collation"].where
        execute(url, "REINDEX TABLE t", "ALTER COLLATION c REFRESH VERSION")
        assert "index-collation" not in found(url)
    finally:
        embedded.down("sorted", root=root, remove=True)


def test_versions_that_corrupt_indexes(database: str) -> None:
    with postgres.connect(database) as connection, postgres.reading(connection):
        known = facts.read(connection)
    versions = {140_000: True, 140_003: True, 140_004: False, 130_020: False}
    for version, wrong in versions.items():
        codes = {each.code for each in health.settings(replace(known, version=version), "db")}
        assert ("index-corruption" in codes) is wrong


@pytest.fixture(scope="module")
def poor(server_root: Path) -> Iterator[str]:
    """A server of few connections, that never vacuums, and freezes early."""
    settings = {**QUICK, "max_connections": "10", "autovacuum": "off", "autovacuum_freeze_max_age": "100000",
                "enable_indexscan": "off"}  # fmt: skip
    root = server_root / "poor"
    root.mkdir(exist_ok=True)
    yield embedded.up("poor", root=root, binaries=binaries("18"), settings=settings).url
    embedded.down("poor", root=root, remove=True)


@pytest.mark.embedded
def test_a_server_in_a_poor_state(
    poor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command: settings, transaction ids that run out, and connections that are taken."""
    # Each pass through a block with EXCEPTION that writes takes a transaction id of its own.
    burn = """DO $$ BEGIN FOR n IN 1..200000 LOOP
        BEGIN INSERT INTO burnt VALUES (n); EXCEPTION WHEN unique_violation THEN NULL; END; END LOOP; END $$"""
    execute(poor, "CREATE TABLE t (a int PRIMARY KEY)", "CREATE TABLE burnt (a int)")
    (tmp_path / "dbscale.toml").write_text(f'[databases.main]\nurl = "{poor}"\n')
    monkeypatch.chdir(tmp_path)

    def doctor() -> tuple[int, dict[str, list[str]]]:
        status = run(["doctor", "main", "--json"])
        said: dict[str, list[str]] = {}
        for each in json.loads(capsys.readouterr().out)["findings"]:
            said.setdefault(each["code"], []).append(f"{each['where']} {each['says']}")
            assert each["try"], each
        return status, said

    with ExitStack() as stack:
        old = stack.enter_context(psycopg.connect(poor))
        old.execute("INSERT INTO t VALUES (1)")  # left open, it keeps even the vacuum against wraparound from freezing
        execute(poor, burn)
        for _ in range(4):
            stack.enter_context(psycopg.connect(poor))
        status, said = doctor()
    assert status == 1
    assert "6 of 7 connections are taken" in said["connection-budget"][0]
    assert all("20" in each and "transactions old" in each for each in said["vacuum-age"]), said
    assert {"fsync", "autovacuum", "enable_indexscan"} <= {each.split()[1] for each in said["setting"]}
    execute(poor, "VACUUM (FREEZE)", *(f"ALTER SYSTEM SET {name} = on" for name in ("autovacuum", "enable_indexscan")))
    execute(poor, "SELECT pg_reload_conf()")
    _, said = doctor()
    assert not {"vacuum-age", "connection-budget"} & set(said)
    assert not {"autovacuum", "enable_indexscan"} & {each.split()[1] for each in said["setting"]}
