"""Who is read from: versions, weights, regions, shares, clients during a failover, breakers, bad networks, shards."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from socket import create_server
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

import dbscale
from dbscale import config
from dbscale.cli.replicas import replicas
from dbscale.cluster import bouncer, scrape
from dbscale.cluster.choose import View, after_failure
from dbscale.drivers import embedded
from dbscale.errors import ConfigError
from fix_postgres import QUICK, binaries
from fix_proxy import Proxy

pytestmark = pytest.mark.usefixtures("own_servers")
SETTINGS = QUICK | {"synchronous_commit": "on"}
Servers = tuple[embedded.Server, embedded.Server]


def made(root: Path, name: str, place: Path | None = None) -> Servers:
    """A primary with a table and a replica that has it."""
    primary = embedded.up(name, root=root, binaries=place, settings=SETTINGS)
    replica = embedded.up(f"{name}_replica", root=root, binaries=place, primary=name, settings=SETTINGS)
    with psycopg.connect(primary.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE items (id bigint PRIMARY KEY, name text NOT NULL)")
        connection.execute("INSERT INTO items SELECT g, 'item ' || g FROM generate_series(1, 100) g")
    with psycopg.connect(replica.url, autocommit=True) as connection:
        wait_for(lambda: connection.execute("SELECT to_regclass('items')").fetchone() != (None,))
        wait_for(lambda: connection.execute("SELECT count(*) FROM items").fetchone() == (100,))
    return primary, replica


@pytest.fixture(scope="module")
def pair(own_servers: Path, server_root: Path) -> Servers:
    return made(server_root, "split")


@pytest.fixture(scope="module")
def second(own_servers: Path, server_root: Path) -> Servers:
    """Another database's servers: another system identifier."""
    return made(server_root, "second")


def wait_for(condition: Callable[[], Any], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def configured(primary: str, *replicas: config.Replica, **pool: Any) -> config.Config:
    wanted = config.Pool(**({"size": 5, "overflow": 5, "timeout": 5.0} | pool))
    return config.Config(databases={"shop": config.Database(name="shop", url=primary, replicas=replicas)}, pool=wanted)


def shares(cluster: dbscale.Cluster) -> Counter[str]:
    """Reads so far by node."""
    found: Counter[str] = Counter()
    for sample in cluster.metrics.samples():
        labels = dict(sample.labels)
        if sample.name == "dbscale_route" and labels["reason"] != "write":
            found[labels["node"]] += int(sample.value)
    return found


def name_of(connection: Any, number: int) -> str:
    sql = f"SELECT name FROM items WHERE id = {number}"
    statement = sa.text(sql) if isinstance(connection, sa.Connection) else sql
    return str(connection.execute(statement).fetchone()[0])


def rename(connection: Any, number: int, name: str) -> None:
    sql = f"UPDATE items SET name = '{name}' WHERE id = {number}"
    connection.execute(sa.text(sql) if isinstance(connection, sa.Connection) else sql)


def paused(server: embedded.Server) -> psycopg.Connection[Any]:
    """Let a replica replay nothing, until the connection is asked to resume."""
    connection = psycopg.connect(server.url, autocommit=True)
    connection.execute("SELECT pg_wal_replay_pause()")
    wait_for(lambda: connection.execute("SELECT pg_get_wal_replay_pause_state()").fetchone() == ("paused",))
    return connection


# Every version.


def test_reads_split_and_a_promotion_is_followed(each_version: str, server_root: Path) -> None:
    """The whole in short, on each version of `--pg`."""
    name = f"v{each_version}"
    primary, replica = made(server_root, name, binaries(each_version))
    settings = configured(primary.url, config.Replica(url=replica.url))
    try:
        with dbscale.open(settings, interval=0.2) as cluster:
            for number in range(200):
                with cluster.write() as connection:
                    rename(connection, 1, f"own {number}")
                with cluster.read() as connection:
                    assert name_of(connection, 1) == f"own {number}"
            assert cluster.groups["home"].primary.place is not None
            assert shares(cluster)["shop.replica1"] > 100
            with cluster.write() as connection:
                version = connection.execute(sa.text("SHOW server_version_num")).scalar_one()
            assert version[:2] == each_version
            embedded.promote(f"{name}_replica", root=server_root)
            with cluster.write() as connection:
                rename(connection, 1, "promoted")
            with cluster.read() as connection:
                assert name_of(connection, 1) == "promoted"
    finally:
        embedded.down(name, root=server_root, remove=True)
        embedded.down(f"{name}_replica", root=server_root, remove=True)


# Weights, regions, fallbacks.


@pytest.mark.parametrize("driver", ["sqlalchemy", "psycopg"])
def test_what_was_last_seen_of_a_replica_is_enough(pair: Servers, driver: str) -> None:
    """Without a token, and once a connection is open, no question more than a direct read."""
    settings = configured(pair[0].url, config.Replica(url=pair[1].url), size=1)
    with dbscale.open(settings, driver=driver, interval=0.2) as cluster, cluster.scope():
        with cluster.read(after="") as connection:
            name_of(connection, 1)
        time.sleep(0.5)  # a look after the connection was opened
        with cluster.read(after="") as connection:
            driver_ = connection if driver == "psycopg" else connection.connection.driver_connection
            asked = psycopg.connect(pair[1].url, autocommit=True)
            with asked:
                row = asked.execute(
                    "SELECT query FROM pg_stat_activity WHERE pid = %s", (driver_.info.backend_pid,)
                ).fetchone()
            assert row is not None
            assert "pg_last_wal_replay_lsn" not in row[0]
            name_of(connection, 1)
        assert shares(cluster) == {"shop.replica1": 2}


def test_reads_are_spread_by_weight(pair: Servers) -> None:
    primary, replica = pair
    three = [config.Replica(url=replica.url, weight=weight) for weight in (3, 1, 0)]
    with dbscale.open(configured(primary.url, *three)) as cluster:
        for _ in range(400):
            with cluster.read(after="") as connection:
                name_of(connection, 1)
        seen = shares(cluster)
    # 300 of 400 are expected; five standard deviations are 43.
    assert 257 <= seen["shop.replica1"] <= 343
    assert seen["shop.replica1"] + seen["shop.replica2"] == 400


def test_what_no_node_can_answer_is_said(pair: Servers) -> None:
    primary, replica = pair
    for nodes in ((), (config.Replica(url=replica.url),)):
        with dbscale.open(configured(primary.url, *nodes)) as cluster:
            with pytest.raises(ConfigError, match=r"no replica of .* has the role analytics"), cluster.analytics():
                pass
            for wrong in (float("nan"), -1.0):
                with pytest.raises(ValueError, match="seconds are wanted"), cluster.read(max_lag=wrong):
                    pass


def test_replicas_show_tells_where_reads_went(pair: Servers, tmp_path: Path) -> None:
    """And the endpoint has each measure, a bucket edge at 500 ms among them."""
    pytest.importorskip("prometheus_client")
    primary, replica = pair
    file = tmp_path / "dbscale.toml"
    file.write_text(f'[databases.shop]\nurl = "{primary.url}"\nreplicas = [ {{ url = "{replica.url}" }} ]\n')
    port = bouncer._free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    with dbscale.open(file) as cluster, cluster.scope():
        serving = cluster.serve_metrics(port)
        try:
            for _ in range(3):
                with cluster.read(after="") as connection:
                    name_of(connection, 1)
            with cluster.write() as connection:
                rename(connection, 4, "measured")
            done = CliRunner().invoke(replicas, ["show", "--config", str(file), "--metrics", url, "--json"])
            samples = {
                (sample.name, sample.labels.get("le"), sample.labels.get("node"))
                for family in scrape.families(url)
                for sample in family.samples
            }
        finally:
            serving.shutdown()
    routes = {(r["node"], r["reason"]): r["count"] for r in json.loads(done.stdout)["routes"]}
    assert routes == {("shop.replica1", "replica"): 3, ("shop", "write"): 1}
    for name in ("pool_connections", "pool_max", "pool_pending_requests", "pool_timeouts", "route_total"):
        assert (f"dbscale_{name}", None, "shop") in samples or (f"dbscale_{name}_total", None, "shop") in samples
    for name in ("replica_lag_seconds", "replica_lag_bytes", "replica_state"):
        assert (f"dbscale_{name}", None, "shop.replica1") in samples
    for name in ("pool_wait_seconds", "pool_use_seconds", "query_seconds"):
        for node in ("shop", "shop.replica1"):
            assert (f"dbscale_{name}_bucket", "0.5", node) in samples


def test_another_region_serves_while_the_own_is_gone(pair: Servers, proxy: Callable[[str], Proxy]) -> None:
    primary, replica = pair
    through = proxy(replica.url)
    settings = configured(
        primary.url,
        config.Replica(url=through.url, region="seoul"),
        config.Replica(url=replica.url, region="osaka"),
        config.Replica(url=replica.url, region="osaka", weight=0),
    )
    with dbscale.open(settings, region="seoul", interval=0.2) as cluster:

        def read(times: int) -> Counter[str]:
            before = shares(cluster)
            for _ in range(times):
                with cluster.read(after="") as connection:
                    name_of(connection, 1)
            return shares(cluster) - before

        assert read(20) == {"shop.replica1": 20}
        through.refuse()
        gone = read(20)
        assert gone["shop.replica2"] >= 19  # the first may have begun on the one that is gone
        assert set(gone) <= {"shop.replica1", "shop.replica2"}
        through.resume()
        wait_for(lambda: cluster.groups["home"].nodes["shop.replica1"].view.state == "online")
        assert read(20) == {"shop.replica1": 20}


def test_where_positions_cannot_be_had_a_writer_reads_from_the_primary_for_a_time(pair: Servers) -> None:
    """The role that a transaction took on may not ask for them: the commit is whole, and the time counts."""
    primary, replica = pair
    with psycopg.connect(primary.url, autocommit=True) as admin:
        admin.execute("CREATE ROLE limited")
        admin.execute("GRANT UPDATE, SELECT ON items TO limited")
        admin.execute("REVOKE EXECUTE ON FUNCTION pg_current_wal_insert_lsn() FROM PUBLIC")
        try:
            for driver in ("sqlalchemy", "psycopg"):
                settings = configured(primary.url, config.Replica(url=replica.url))
                with dbscale.open(settings, driver=driver, sticky=1.5) as cluster, cluster.scope():
                    with cluster.read(after="") as connection:
                        name_of(connection, 1)
                    with cluster.write() as connection:
                        connection.execute(
                            sa.text("SET ROLE limited") if driver == "sqlalchemy" else "SET ROLE limited"
                        )
                        rename(connection, 2, f"sticky {driver}")
                    assert [p.lsn for p in cluster.token.positions] == [0]
                    for _ in range(5):
                        with cluster.read() as connection:
                            assert name_of(connection, 2) == f"sticky {driver}"
                    assert cluster.metrics.value("dbscale_route", node="shop", reason="recent-write") == 5
                    time.sleep(2.6)  # the token's time is in whole seconds
                    with cluster.read() as connection:
                        assert name_of(connection, 2) == f"sticky {driver}"
                    assert cluster.metrics.value("dbscale_route", node="shop", reason="recent-write") == 5
                    assert cluster.metrics.value("dbscale_route", node="shop.replica1") == 2
        finally:
            admin.execute("GRANT EXECUTE ON FUNCTION pg_current_wal_insert_lsn() TO PUBLIC")
            admin.execute("DROP OWNED BY limited")
            admin.execute("DROP ROLE limited")


def test_writes_without_a_transaction_make_tokens(pair: Servers) -> None:
    primary, replica = pair
    held = paused(replica)
    try:
        with dbscale.open(configured(primary.url, config.Replica(url=replica.url))) as cluster, cluster.scope():
            with cluster.write() as connection:
                rename(connection.execution_options(isolation_level="AUTOCOMMIT"), 3, "at once")
            assert cluster.token
            with cluster.read() as connection:
                assert name_of(connection, 3) == "at once"

            async def work() -> str:
                async with cluster.async_write() as connection:
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    await connection.execute(sa.text("UPDATE items SET name = 'at once, async' WHERE id = 3"))
                async with cluster.async_read() as connection:
                    return str((await connection.execute(sa.text("SELECT name FROM items WHERE id = 3"))).scalar_one())

            async def whole() -> str:
                try:
                    return await work()
                finally:
                    await cluster.async_close()

            assert asyncio.run(whole()) == "at once, async"
    finally:
        held.execute("SELECT pg_wal_replay_resume()")
        held.close()


# Faults.


def test_clients_that_run_while_a_replica_is_promoted(server_root: Path) -> None:
    """No read fails, writes go on at the new primary, and nothing that was committed is lost."""
    old, new = made(server_root, "over")
    committed: dict[int, list[int]] = {number: [] for number in range(4)}
    refused: list[tuple[float, str]] = []
    failures: list[str] = []
    done = [0]
    finished = threading.Event()
    with dbscale.open(configured(old.url, config.Replica(url=new.url)), interval=0.2) as cluster:
        with cluster.write() as connection:
            connection.execute(sa.text("CREATE TABLE log (writer int, n int, PRIMARY KEY (writer, n))"))

        def write(writer: int) -> None:
            n = 0
            while not finished.is_set():
                n += 1
                try:
                    with cluster.write() as connection:
                        connection.execute(sa.text(f"INSERT INTO log VALUES ({writer}, {n})"))
                    committed[writer].append(n)
                except Exception as error:  # noqa: BLE001 - counted
                    refused.append((time.monotonic(), type(error).__name__))
                    time.sleep(0.02)

        def read() -> None:
            while not finished.is_set():
                try:
                    with cluster.read() as connection:
                        name_of(connection, 1)
                    done[0] += 1
                except Exception as error:  # noqa: BLE001 - told by the assertion
                    failures.append(repr(error))

        threads = [threading.Thread(target=write, args=(w,)) for w in committed]
        threads += [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        embedded.promote("over_replica", root=server_root)
        promoted = time.monotonic()
        counted = {writer: len(numbers) for writer, numbers in committed.items()}
        wait_for(lambda: all(len(committed[w]) > counted[w] for w in committed), 10)
        took = time.monotonic() - promoted
        time.sleep(0.5)
        finished.set()
        for thread in threads:
            thread.join()
        assert failures == []
        assert done[0] > 50
        assert took < 5, f"writes went on {took:.1f} s after the promotion"
        assert cluster.metrics.value("dbscale_failovers") == 1
    with psycopg.connect(new.url) as connection:
        there = set(connection.execute("SELECT writer, n FROM log").fetchall())
    assert {(writer, n) for writer, numbers in committed.items() for n in numbers} <= there
    embedded.down("over", root=server_root, remove=True)
    embedded.down("over_replica", root=server_root, remove=True)


def test_a_replica_that_is_down_is_left_alone(pair: Servers) -> None:
    """The circuit breaker: readers do not try it; the looks do, ever more rarely."""
    primary, _ = pair
    accepted: list[float] = []
    with closing(create_server(("127.0.0.1", 0))) as listener:

        def hang_up() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                accepted.append(time.monotonic())
                client.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        url = f"postgresql://nobody@127.0.0.1:{listener.getsockname()[1]}/shop"
        with dbscale.open(configured(primary.url, config.Replica(url=url)), interval=0.1) as cluster:
            start, reads = time.monotonic(), 0
            while time.monotonic() - start < 3:
                with cluster.read() as connection:
                    name_of(connection, 1)
                reads += 1
        listener.shutdown(2)
    assert reads > 100
    # libpq tries twice a look where TLS is refused; looks after 0, 0.25, 0.75, 1.75 and 3.75 s, spread by a quarter.
    assert 2 <= len(accepted) <= 16


def test_pauses_between_looks_grow_to_two_seconds() -> None:
    view, now, pauses = View("r"), 100.0, []
    for _ in range(6):
        view = after_failure(view, now, 0.5)
        pauses.append(view.retry_at - now)
        assert after_failure(view, now, 0.5) is view  # those who fail at the same time count once
        now = view.retry_at
    assert pauses == pytest.approx([0.25, 0.5, 1, 2, 2, 2])


@pytest.mark.parametrize("fault", ["cut", "refuse"])
def test_a_network_that_breaks_in_the_middle_of_a_read(
    pair: Servers, proxy: Callable[[str], Proxy], fault: str
) -> None:
    """The statement is on its way when the line goes: it is begun again elsewhere, and answers."""
    primary, replica = pair
    through = proxy(replica.url)
    with dbscale.open(configured(primary.url, config.Replica(url=through.url)), interval=0.2) as cluster:
        with cluster.read() as connection:
            name_of(connection, 1)
        wait_for(lambda: cluster.groups["home"].nodes["shop.replica1"].view.state == "online")
        with cluster.read() as connection:
            assert connection.node.name == "shop.replica1"
            breaking = threading.Timer(0.4, getattr(through, fault))
            breaking.start()
            start = time.monotonic()
            answer = connection.execute(sa.text("SELECT pg_sleep(1), 42 AS n")).one().n
            took = time.monotonic() - start
            breaking.join()
            assert answer == 42
            assert connection.node.name == "shop"
        assert 1.3 < took < 4  # 0.4 s there, and 1 s here
        assert cluster.metrics.value("dbscale_retries", node="shop.replica1") == 1


def test_a_replica_that_is_lost_takes_no_connection_of_the_primarys_with_it(
    pair: Servers, proxy: Callable[[str], Proxy]
) -> None:
    primary, replica = pair
    through = proxy(replica.url)

    def pid(connection: Any) -> int:
        return int(connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one())

    with dbscale.open(configured(primary.url, config.Replica(url=through.url)), interval=0.2) as cluster:
        with cluster.write() as connection:
            before = pid(connection)
        with cluster.read(after="") as connection:
            assert connection.node.name == "shop.replica1"
            through.cut()
            assert pid(connection) == before  # begun again on the primary, and its own connection
        wait_for(lambda: cluster.groups["home"].nodes["shop.replica1"].view.state == "online")
        with cluster.read(after="") as connection:
            assert connection.node.name == "shop.replica1"
            pid(connection)
            assert connection.node.name == "shop.replica1"
        with cluster.write() as connection:
            assert pid(connection) == before


def test_a_network_that_swallows_packets_in_the_middle_of_a_read(pair: Servers, proxy: Callable[[str], Proxy]) -> None:
    """Others are served by the primary meanwhile; the one that hangs is ended by TCP's own time-out, or goes on."""
    primary, replica = pair
    through = proxy(replica.url)
    with dbscale.open(configured(primary.url, config.Replica(url=through.url)), interval=0.2) as cluster:
        with cluster.read() as connection:
            name_of(connection, 1)
        node = cluster.groups["home"].nodes["shop.replica1"]
        wait_for(lambda: node.view.state == "online")
        seen: list[Any] = []

        def hang() -> None:
            with cluster.read() as connection:
                seen.append(connection.node.name)
                seen.append(connection.execute(sa.text("SELECT pg_sleep(0.5), 42 AS n")).one().n)

        reader = threading.Thread(target=hang)
        reader.start()
        wait_for(lambda: seen)
        through.stall()
        wait_for(lambda: node.view.at < time.monotonic() - cluster.groups["home"].limits.stale, 10)
        slowest = 0.0
        for _ in range(50):
            start = time.monotonic()
            with cluster.read() as connection:
                assert name_of(connection, 5) == "item 5"
                assert connection.node.name == "shop"
            slowest = max(slowest, time.monotonic() - start)
        assert slowest < 1
        assert len(seen) == 1  # it hangs
        through.resume()
        reader.join(timeout=10)
        assert seen == ["shop.replica1", 42]


# Tokens over shards.


def sharded(tmp_path: Path, homes: dict[str, Servers]) -> Path:
    """dbscale.toml with a map of items: ids below 50 on the shard one, the others on two."""
    (tmp_path / "shard_maps").mkdir()
    (tmp_path / "shard_maps" / "items.toml").write_text(
        'name = "items"\nkey = "bigint"\ntables = { items = "id" }\nuntil = 1000\n'
        'ranges = [ { id = "a", from = 0, shard = "one" }, { id = "b", from = 50, shard = "two" } ]\n'
    )
    databases = "".join(
        f'[databases.{name}]\nurl = "{primary.url}"\nreplicas = [ {{ url = "{replica.url}" }} ]\n'
        for name, (primary, replica) in homes.items()
    )
    file = tmp_path / "dbscale.toml"
    file.write_text(databases + '[shards]\nhome = "one"\none = "one"\ntwo = "two"\n')
    return file


def test_a_cookie_carries_what_was_written_on_several_shards(pair: Servers, second: Servers, tmp_path: Path) -> None:
    """FastAPI, asyncio, two databases: both writes are seen, though neither replica has replayed its own."""
    fastapi = pytest.importorskip("fastapi")
    httpx = pytest.importorskip("httpx")
    from dbscale.cluster.middleware import AsgiTokens

    app = fastapi.FastAPI()
    app.add_middleware(AsgiTokens, secret="a secret", secure=False)
    cluster = dbscale.open(sharded(tmp_path, {"one": pair, "two": second}))

    @app.put("/items/{number}")
    async def put(number: int, name: str) -> str:
        async with cluster.async_write("items", number) as connection:
            await connection.execute(sa.text(f"UPDATE items SET name = '{name}' WHERE id = {number}"))
        return name

    @app.get("/items/{number}")
    async def get(number: int) -> str:
        async with cluster.async_read("items", number) as connection:
            return str((await connection.execute(sa.text(f"SELECT name FROM items WHERE id = {number}"))).scalar_one())

    def client() -> Any:
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://testserver")

    async def work() -> None:
        async with client() as writer, client() as stranger:
            for number in (10, 60):
                assert (await writer.get(f"/items/{number}")).status_code == 200  # watched from now on
            held = [await asyncio.to_thread(paused, replica) for _, replica in (pair, second)]
            try:
                for number in (10, 60):
                    assert (await writer.put(f"/items/{number}?name=mine")).status_code == 200
                token, _, signature = writer.cookies["dbscale-token"].partition("~")
                assert (len(token.split("_")), len(signature)) == (2, 32)
                answers = await asyncio.gather(*(writer.get(f"/items/{n}") for n in (10, 60) * 10))
                assert {answer.json() for answer in answers} == {"mine"}
                for number in (10, 60):
                    assert (await stranger.get(f"/items/{number}")).json() == f"item {number}"
                    swapped = {"X-Dbscale-Token": f"{token}~{'0' * 32}"}  # not signed by us
                    assert (await stranger.get(f"/items/{number}", headers=swapped)).json() == f"item {number}"
            finally:
                for connection in held:
                    connection.execute("SELECT pg_wal_replay_resume()")
                    connection.close()
        await cluster.async_close()

    asyncio.run(work())


@pytest.mark.parametrize("shards", [False, True], ids=["one-database", "shards"])
@pytest.mark.parametrize("driver", ["sqlalchemy", "psycopg"])
def test_the_same_code_with_and_without_shards(
    pair: Servers, second: Servers, tmp_path: Path, shards: bool, driver: str
) -> None:
    if shards:
        opened = dbscale.open(sharded(tmp_path, {"one": pair, "two": second}), driver=driver)
    else:
        opened = dbscale.open(configured(pair[0].url, config.Replica(url=pair[1].url)), driver=driver)
    mark = ":id" if driver == "sqlalchemy" else "%(id)s"
    with opened as cluster, cluster.scope():
        for number in (20, 70):
            value = f"{driver} {shards} {number}"
            with cluster.write("items", number) as connection:
                rename(connection, number, value)
            with cluster.read("items", number) as connection:
                assert name_of(connection, number) == value
            with cluster.read("items", number, max_lag=30, after=str(cluster.token)) as connection:
                assert name_of(connection, number) == value
            cluster.run(lambda connection, n=number: rename(connection, n, "run"), "items", number)
            ((seen,),) = (
                tuple(row) for row in cluster.execute(f"SELECT name FROM items WHERE id = {mark}", {"id": number})
            )
            assert seen == "run"
        assert len(cluster.token.positions) == (2 if shards else 1)
        if driver == "sqlalchemy":
            asyncio.run(_asynchronously(cluster))


async def _asynchronously(cluster: dbscale.Cluster) -> None:
    for number in (20, 70):
        async with cluster.async_write("items", number) as connection:
            await connection.execute(sa.text(f"UPDATE items SET name = 'async' WHERE id = {number}"))
        async with cluster.async_read("items", number) as connection:
            seen = await connection.execute(sa.text(f"SELECT name FROM items WHERE id = {number}"))
            assert seen.scalar_one() == "async"
    await cluster.async_close()
