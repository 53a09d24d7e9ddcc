"""Reads after own writes, faults and failover on a primary with real replicas; the middleware in real applications."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

import dbscale
from dbscale import config
from dbscale.drivers import embedded, replication
from fix_postgres import QUICK

Servers = tuple[embedded.Server, embedded.Server]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, server_root: Path) -> Servers:
    """A primary and a streaming replica."""
    settings = QUICK | {"synchronous_commit": "on"}
    primary = embedded.up("pair", root=server_root, settings=settings)
    replica = embedded.up("pair_replica", root=server_root, primary="pair", settings=settings)
    with psycopg.connect(primary.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL)")
        connection.execute("INSERT INTO items SELECT g, 'item ' || g FROM generate_series(1, 100) g")
    return primary, replica


def configured(primary: str, *replicas: str, **pool: Any) -> config.Config:
    entries = tuple(config.Replica(url=url) for url in replicas)
    wanted = config.Pool(**({"size": 5, "overflow": 5, "timeout": 5.0} | pool))
    return config.Config(databases={"shop": config.Database(name="shop", url=primary, replicas=entries)}, pool=wanted)


@pytest.fixture(params=["sqlalchemy", "psycopg"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cluster(pair: Servers) -> Iterator[dbscale.Cluster]:
    with dbscale.open(configured(pair[0].url, pair[1].url)) as opened:
        yield opened


def rows(connection: Any, sql: str) -> list[Any]:
    return list(connection.execute(sa.text(sql) if isinstance(connection, sa.Connection) else sql).fetchall())


def run(connection: Any, sql: str) -> None:
    connection.execute(sa.text(sql) if isinstance(connection, sa.Connection) else sql)


def replica_reads(cluster: dbscale.Cluster) -> float:
    return cluster.metrics.value("dbscale_route", node="shop.replica1")


def wait_for(condition: Callable[[], Any], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


@pytest.fixture
def paused(pair: Servers) -> Iterator[None]:
    """The replica replays nothing."""
    with psycopg.connect(pair[1].url, autocommit=True) as connection:
        connection.execute("SELECT pg_wal_replay_pause()")
        wait_for(lambda: connection.execute("SELECT pg_get_wal_replay_pause_state()").fetchone() == ("paused",))
        try:
            yield
        finally:
            connection.execute("SELECT pg_wal_replay_resume()")


def test_reads_go_to_the_replica_and_see_own_writes(pair: Servers, driver: str) -> None:
    with dbscale.open(configured(pair[0].url, pair[1].url), driver=driver) as cluster:
        for number in range(50):
            with cluster.write() as connection:
                run(connection, f"UPDATE items SET name = 'own {driver} {number}' WHERE id = 1")
            with cluster.read() as connection:
                assert rows(connection, "SELECT name FROM items WHERE id = 1") == [(f"own {driver} {number}",)]
        assert replica_reads(cluster) >= 40


def test_a_paused_replica_is_not_believed(cluster: dbscale.Cluster, paused: None) -> None:
    with cluster.write() as connection:
        run(connection, "UPDATE items SET name = 'paused' WHERE id = 2")
    for _ in range(20):
        with cluster.read() as connection:
            assert rows(connection, "SELECT name FROM items WHERE id = 2") == [("paused",)]
    assert cluster.metrics.value("dbscale_route", reason="behind") >= 20


def test_without_a_token_the_paused_replica_is_read(cluster: dbscale.Cluster, paused: None) -> None:
    with cluster.write() as connection:
        run(connection, "UPDATE items SET name = 'unseen' WHERE id = 3")
    with cluster.read(after="") as connection:
        assert rows(connection, "SELECT name FROM items WHERE id = 3") != [("unseen",)]


def test_max_lag_is_kept(cluster: dbscale.Cluster, paused: None) -> None:
    with cluster.read() as connection:
        rows(connection, "SELECT 1")
    with cluster.write() as connection:
        run(connection, "UPDATE items SET name = 'lagging' WHERE id = 4")
    time.sleep(1.5)
    before = replica_reads(cluster)
    with cluster.read(max_lag=1.0, after="") as connection:
        assert rows(connection, "SELECT name FROM items WHERE id = 4") == [("lagging",)]
    assert replica_reads(cluster) == before
    with cluster.read(max_lag=60, after="") as connection:
        assert rows(connection, "SELECT name FROM items WHERE id = 4") != [("lagging",)]


def test_on_an_idle_primary_the_replica_is_not_behind(cluster: dbscale.Cluster) -> None:
    with cluster.read() as connection:
        rows(connection, "SELECT 1")
    time.sleep(2)
    lag = cluster.metrics.value("dbscale_replica_lag_seconds", node="shop.replica1")
    assert 0 <= lag < 1.2


def test_a_token_travels_as_text(pair: Servers, cluster: dbscale.Cluster, paused: None) -> None:
    with cluster.write() as connection:
        run(connection, "UPDATE items SET name = 'travelled' WHERE id = 5")
    text = str(cluster.token)
    seen: list[Any] = []

    def elsewhere() -> None:
        with dbscale.open(configured(pair[0].url, pair[1].url)) as other, other.read(after=text) as connection:
            seen.extend(rows(connection, "SELECT name FROM items WHERE id = 5"))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [("travelled",)]


def test_a_transaction_that_wrote_nothing_makes_no_token(cluster: dbscale.Cluster) -> None:
    with cluster.scope():
        with cluster.write() as connection:
            rows(connection, "SELECT count(*) FROM items")
        assert not cluster.token


def test_a_rolled_back_transaction_makes_no_token(cluster: dbscale.Cluster) -> None:
    with cluster.scope():
        with pytest.raises(ZeroDivisionError), cluster.write() as connection:  # noqa: PT012
            run(connection, "UPDATE items SET name = 'never' WHERE id = 6")
            raise ZeroDivisionError
        assert not cluster.token
        with cluster.read() as connection:
            assert rows(connection, "SELECT name FROM items WHERE id = 6") == [("item 6",)]


def test_a_commit_that_fails_is_an_error_and_no_token(pair: Servers, driver: str) -> None:
    with dbscale.open(configured(pair[0].url, pair[1].url), driver=driver) as cluster, cluster.scope():
        with cluster.write() as connection:
            run(connection, "CREATE TABLE IF NOT EXISTS late (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        token = cluster.token
        with pytest.raises((sa.exc.IntegrityError, psycopg.errors.UniqueViolation)), cluster.write() as connection:
            run(connection, "INSERT INTO late VALUES (1), (1)")
        assert cluster.token == token
        with cluster.write() as connection:  # the connection is in order
            assert rows(connection, "SELECT count(*) FROM late") == [(0,)]


def test_psycopgs_own_transaction_blocks_make_tokens(pair: Servers, paused: None) -> None:
    with dbscale.open(configured(pair[0].url, pair[1].url), driver="psycopg") as cluster, cluster.scope():
        with cluster.write() as connection, connection.transaction():
            run(connection, "UPDATE items SET name = 'nested' WHERE id = 7")
        assert cluster.token
        with cluster.read() as connection:
            assert rows(connection, "SELECT name FROM items WHERE id = 7") == [("nested",)]


def test_reading_cannot_write_even_on_the_primary(pair: Servers, driver: str) -> None:
    with dbscale.open(configured(pair[0].url), driver=driver) as cluster:
        with (
            pytest.raises((sa.exc.InternalError, psycopg.errors.ReadOnlySqlTransaction)),
            cluster.read() as connection,
        ):
            run(connection, "DELETE FROM items")
        with cluster.write() as connection:
            run(connection, "UPDATE items SET name = name WHERE id = 1")


def test_page_boundaries_do_not_send_readers_away(cluster: dbscale.Cluster) -> None:
    """A commit whose record ends exactly on a WAL page makes a token that the replica can reach."""
    home = cluster.groups["home"]
    with cluster.read() as connection:
        rows(connection, "SELECT 1")
    hits = 0
    with psycopg.connect(home.primary.url, autocommit=True) as probe:
        for number in range(3000):
            with cluster.write() as connection:
                run(connection, f"UPDATE items SET name = repeat('x', {number % 900}) WHERE id = 8")
            row = probe.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").fetchone()
            if row is None or row[0] % replication.WAL_BLOCK != 24:
                continue
            hits += 1
            assert cluster.token.positions[0].lsn % replication.WAL_BLOCK == 0
            before = replica_reads(cluster)
            with cluster.read() as connection:
                rows(connection, "SELECT 1")
            assert replica_reads(cluster) == before + 1
            if hits == 2:
                return
    pytest.fail(f"{hits} of 3000 commits ended on a page boundary")
