"""Indexes built concurrently: time-outs, remains of failed builds, names that are taken, partitions."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from dbscale import apply, building
from dbscale.drivers import postgres
from dbscale.errors import Unfinished
from dbscale.indexes import advise, facts
from dbscale.indexes.candidates import Candidate
from dbscale.plan import Plan

CANDIDATE = Candidate("public", "t", ('"b"',), ("b",))
STEP = advise.build(CANDIDATE, "t_b")


@pytest.fixture
def table(database: str) -> str:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a int PRIMARY KEY, b int)")
        connection.execute("INSERT INTO t SELECT n, n FROM generate_series(1, 1000) n")
    return database


def valid(url: str, name: str = "t_b") -> bool | None:
    with psycopg.connect(url) as connection:
        row: Any = connection.execute(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [name]
        ).fetchone()
        return row[0] if row else None


def test_an_invalid_remainder_is_dropped_and_built_again(table: str) -> None:
    with postgres.connect(table) as builder:
        with psycopg.connect(table) as other:
            other.execute("INSERT INTO t VALUES (0, 0)")  # an open transaction: the build waits for its end
            builder.execute("SET lock_timeout = 200")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                builder.execute(STEP.sql.encode())
        assert valid(table) is False
        builder.execute(STEP.sql.replace("CONCURRENTLY", "CONCURRENTLY IF NOT EXISTS").encode())
        assert valid(table) is False, "the trap: IF NOT EXISTS takes the invalid index for done"
        building.carry_out(builder, STEP)
        assert valid(table) is True


def test_a_build_that_fails_for_good_leaves_nothing(table: str) -> None:
    with postgres.connect(table) as builder, psycopg.connect(table) as other:
        other.execute("INSERT INTO t VALUES (0, 0)")
        step_tries = 2
        with pytest.raises(psycopg.errors.LockNotAvailable):
            building.carry_out(builder, STEP, lock_seconds=0.2, tries=step_tries, pause=0.05)
        other.rollback()
        building.clear(builder, STEP)
    assert valid(table) is None


def test_a_name_that_another_index_has_is_an_error_and_never_taken_for_done(table: str) -> None:
    with psycopg.connect(table, autocommit=True) as connection:
        connection.execute("CREATE INDEX t_b ON t (a)")
    plan = Plan(title="x", databases={"target": "t"}, steps=(STEP,))
    with pytest.raises(Unfinished, match="already exists"):
        list(apply.run(plan, urls={"target": table}))
    assert valid(table) is True


def test_partitions_get_their_own_builds_and_the_parent_becomes_valid(database: str) -> None:
    with postgres.connect(database) as connection:
        connection.execute("CREATE TABLE t (a int, b int) PARTITION BY RANGE (a)")
        for start in (0, 100):
            connection.execute(f"CREATE TABLE t_{start} PARTITION OF t FOR VALUES FROM ({start}) TO ({start + 100})")
        with postgres.reading(connection):
            known = facts.read(connection)
        table = known.table("t")
        assert table is not None
        steps = tuple(advise.partitioned("t_b", CANDIDATE, table, known, "target"))
        plan = Plan(title="x", databases={"target": "t"}, steps=steps)
        list(apply.run(plan, urls={"target": database}))
        assert valid(database) is True
        assert connection.execute("SELECT count(*) FROM pg_indexes WHERE tablename ~ '^t_'").fetchone() == (2,)
        from dbscale import catalog

        list(apply.undo(catalog.runs(connection)[0], plan, urls={"target": database}))
        assert connection.execute("SELECT count(*) FROM pg_indexes WHERE tablename ~ '^t'").fetchone() == (0,)
