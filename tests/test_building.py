"""Indexes built concurrently: time-outs, remains of failed builds, names that are taken, partitions."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from by_hand import control_c_behind_a_lock
from dbscale import apply, building, undoing
from dbscale.drivers import postgres
from dbscale.errors import Unfinished
from dbscale.indexes import advise, facts
from dbscale.indexes.candidates import Candidate
from dbscale.plan import Plan, Sql
from fix_postgres import Postgres

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

        list(undoing.undo(catalog.runs(connection)[0], plan, urls={"target": database}))
        assert connection.execute("SELECT count(*) FROM pg_indexes WHERE tablename ~ '^t'").fetchone() == (0,)


def test_control_c_waits_for_no_step_of_a_group(table: str) -> None:
    """Those at work are cancelled, and those that wait are not begun: a large database's indexes take hours."""
    steps = tuple(Sql(does=f"index {n}", sql=f"CREATE INDEX t_{n} ON t (b)", undo=None, group="g") for n in range(5))
    plan = Plan(title="x", databases={"target": "t"}, steps=steps)
    with control_c_behind_a_lock(table, "t"):
        list(apply.run(plan, urls={"target": table}, jobs=2))
    with psycopg.connect(table) as connection:
        assert connection.execute("SELECT count(*) FROM pg_indexes WHERE tablename = 't'").fetchone() == (1,)
        assert connection.execute("SELECT state FROM dbscale.runs").fetchone() == ("interrupted",)


def test_what_is_cancelled_is_this_database_s(table: str, new_database: Callable[..., str]) -> None:
    """A run of another database of the server may have the same number."""
    active = "SELECT FROM pg_stat_activity WHERE application_name = 'dbscale run 1' AND state = 'active'"
    with (
        postgres.connect(new_database(), name="dbscale run 1") as other,
        postgres.connect(table) as watcher,
        ThreadPoolExecutor() as pool,
    ):
        asleep = pool.submit(other.execute, "SELECT pg_sleep(1)")
        wait(lambda: watcher.execute(active).fetchone() is not None)
        building.cancel(watcher, "dbscale run 1")
        assert asleep.result().fetchone() == ("",)


@pytest.fixture
def project(table: str, tmp_path: Path) -> Path:
    """A dbscale.toml that wants two indexes on a table."""
    (tmp_path / "dbscale.toml").write_text(
        f'[databases.postgres]\nurl = "{table}"\n[indexes]\nt_b = "t (b)"\nt_ba = "t (b, a)"\n'
    )
    return tmp_path


def command(project: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dbscale.cli", *arguments], cwd=project, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait(until: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_killed_in_the_middle_of_a_build_the_same_command_goes_on_and_undo_takes_all_back(
    table: str, project: Path
) -> None:
    # Once it waits, what it has entered into the catalog is committed.
    building_now = "SELECT true FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for %'"
    with psycopg.connect(table, autocommit=True) as watching, psycopg.connect(table) as other:
        other.execute("INSERT INTO t VALUES (0, 0)")  # an open transaction: the build waits for its end
        first = command(project, "indexes", "apply", "--yes")
        wait(lambda: watching.execute(building_now).fetchone())
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert valid(table) is False
        # The server has not noticed, and goes on for nobody; the second command has to come by it.
        second = command(project, "indexes", "apply", "--yes", "--json")
        time.sleep(1)
        other.rollback()
        said, errors = second.communicate(timeout=120)
        assert second.returncode in (0, 1), errors  # 1: a table of 1000 rows is read as quickly whole
        assert [valid(table, name) for name in ("t_b", "t_ba")] == [True, True]
        left = watching.execute("SELECT count(*) FROM pg_index WHERE NOT indisvalid").fetchone()
        assert left == (0,)
        run = json.loads(said)["run"]
        undone = command(project, "undo", str(run), "postgres", "--yes")
        undone.communicate(timeout=60)
        assert undone.returncode == 0
        assert [valid(table, name) for name in ("t_b", "t_ba")] == [None, None]


def test_a_build_waits_for_a_replica_that_lags(table: str, replica: Postgres) -> None:
    follower = replica.url
    with psycopg.connect(follower, autocommit=True) as paused, postgres.connect(table) as builder:
        paused.execute("SELECT pg_wal_replay_pause()")
        try:
            wait(lambda: paused.execute("SELECT pg_get_wal_replay_pause_state() = 'paused'").fetchone() == (True,))
            builder.execute("SET synchronous_commit = on")
            builder.execute("INSERT INTO t SELECT n, n FROM generate_series(2000, 40000) n")
            with pytest.raises(Unfinished, match="still to replay"):
                building.wait_for_replicas(builder, lag_bytes=1_000_000, seconds=0.5)
            assert valid(table) is None
            thread = threading.Thread(target=building.carry_out, args=[builder, STEP], kwargs={"lag_bytes": 1_000_000})
            thread.start()
            thread.join(1.5)
            assert thread.is_alive()
            assert valid(table) is None, "it has begun while the replica lagged"
        finally:
            paused.execute("SELECT pg_wal_replay_resume()")
        thread.join(60)
    assert valid(table) is True
