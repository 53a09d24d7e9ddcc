"""Pools: the sizing, the rules, PgBouncer for real, the metrics and their alarms."""

from __future__ import annotations

import heapq
import json
import math
import random
import shutil
import statistics
import subprocess
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import dbscale
from dbscale import config
from dbscale.cli.pool import pool
from dbscale.cluster import bouncer, pgbouncer
from dbscale.cluster.check import Activity, Bouncer, Facts, Fleet, check
from dbscale.cluster.metrics import EDGES
from dbscale.cluster.pgbouncer import Files, Wanted, version_of, write
from dbscale.cluster.sizing import (
    Server,
    Workload,
    chance_to_wait,
    connections_for,
    deadlock_bound,
    size,
    wait_quantile,
)
from dbscale.errors import Missing
from fix_postgres import Postgres, absent


@pytest.mark.parametrize(("count", "milliseconds"), [(11, 85), (12, 38), (13, 22), (14, 14), (15, 9), (16, 6), (18, 1)])
def test_waiting_time_of_a_known_load(count: int, milliseconds: int) -> None:
    """500 checkouts a second, each of 20 ms."""
    assert round(wait_quantile(count, 500, 0.02) * 1000) == pytest.approx(milliseconds, abs=1)


@pytest.mark.parametrize(("count", "percent"), [(5, 55), (10, 41), (15, 32), (20, 26), (50, 9)])
def test_the_chance_to_wait_at_80_percent(count: int, percent: int) -> None:
    assert round(chance_to_wait(count, 0.8 * count) * 100) == percent


@given(st.integers(1, 300), st.floats(0.01, 250))
def test_the_chance_to_wait_agrees_with_the_sum(count: int, load: float) -> None:
    """Against the textbook's formula, in logarithms."""
    if load >= count:
        assert chance_to_wait(count, load) == 1
        return
    logs = [k * math.log(load) - math.lgamma(k + 1) for k in range(count)]
    last = count * math.log(load) - math.lgamma(count + 1) + math.log(count / (count - load))
    top = max(*logs, last)
    expected = math.exp(last - top) / (sum(math.exp(x - top) for x in logs) + math.exp(last - top))
    assert chance_to_wait(count, load) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("servers", "load", "probability"),
    [
        # From tables of Erlang's C formula in textbooks of queueing theory.
        (1, 0.5, 0.5000),
        (2, 1.0, 0.3333),
        (2, 1.6, 0.7111),
        (3, 2.0, 0.4444),
        (5, 4.0, 0.5541),
        (10, 8.0, 0.4092),
        (14, 10.0, 0.1741),
    ],
)
def test_erlang_c_as_published(servers: int, load: float, probability: float) -> None:
    assert chance_to_wait(servers, load) == pytest.approx(probability, abs=6e-5)


@pytest.mark.parametrize(("count", "load"), [(1, 0.5), (4, 2.8), (8, 6.4), (20, 17.0)])
def test_the_formulas_agree_with_a_queue_that_is_played_through(count: int, load: float) -> None:
    """400,000 callers who come at random moments and hold a connection for a random time; each takes the first free.

    Knows nothing of the formulas. On a real server: `scripts/bench pool`.
    """
    chance, rate = random.Random(20260101), load / 0.02
    free, now, waits = [0.0] * count, 0.0, []
    for _ in range(400_000):
        now += chance.expovariate(rate)
        begin = max(now, heapq.heappop(free))
        heapq.heappush(free, begin + chance.expovariate(1 / 0.02))
        waits.append(begin - now)
    assert sum(wait > 0 for wait in waits) / len(waits) == pytest.approx(chance_to_wait(count, load), rel=0.03)
    p99 = statistics.quantiles(waits, n=100)[98]
    assert wait_quantile(count, rate, 0.02) == pytest.approx(p99, rel=0.06)
    assert connections_for(rate, 0.02, p99 * 1.06) == count


@given(st.floats(0.1, 2000), st.floats(0.001, 0.2), st.floats(0.001, 0.5))
def test_the_fewest_connections_are_the_fewest(rate: float, hold: float, wait: float) -> None:
    count = connections_for(rate, hold, wait)
    if count < 1000:
        assert wait_quantile(count, rate, hold) <= wait
    if count > 1:
        assert wait_quantile(count - 1, rate, hold) > wait


def test_a_small_application_is_bound_by_its_workload() -> None:
    sizing = size(Server(max_connections=100), Workload(rate=100, hold=0.02, instances=2, workers=2))
    assert (sizing.bound, sizing.fits) == ("workload", True)
    assert sizing.pool * 8 <= 94


def test_many_processes_ask_for_a_pgbouncer() -> None:
    sizing = size(Server(max_connections=100), Workload(rate=800, hold=0.02, instances=16, workers=4))
    assert sizing.bound == "pgbouncer"
    assert 0 < sizing.server_pool <= 94


def test_a_load_beyond_the_server_does_not_fit() -> None:
    sizing = size(Server(max_connections=100), Workload(rate=10000, hold=0.05, instances=4, workers=4))
    assert (sizing.bound, sizing.fits, sizing.wait_p99) == ("server", False, math.inf)


def test_nested_checkouts_bound_the_pool() -> None:
    sizing = size(Server(max_connections=500), Workload(rate=1, hold=0.01, threads=20, nested=2))
    assert (sizing.bound, sizing.pool) == ("deadlock", deadlock_bound(20, 2))


def test_a_connection_limit_bounds_the_budget() -> None:
    assert Server(max_connections=100, limit=20).budget == 20
    assert Server(max_connections=100, reserved=5, other=10).budget == 79
    assert Server(max_connections=5).budget == 0


# PgBouncer, written for every version and proven on the one that is here.

WANTED = Wanted(database="shop", host="127.0.0.1", port=5432, dbname="shop", user="app", directory="/etc/pgbouncer")
VERIFIER = "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy"


def test_a_version_gets_no_key_that_it_does_not_know() -> None:
    old = write(WANTED, (1, 18, 0), {"app": VERIFIER})
    new = write(WANTED, (1, 25, 2), {"app": VERIFIER})
    assert "max_prepared_statements" not in old.settings
    assert new.settings["max_prepared_statements"] == "200"
    assert {finding.code for finding in old.findings} == {"pgbouncer-prepared", "pgbouncer-vulnerable"}
    assert {finding.code for finding in new.findings} == {"pgbouncer-console-first"}
    between = write(WANTED, (1, 24, 1), {"app": VERIFIER})
    assert "pgbouncer-untested" in {finding.code for finding in between.findings}
    assert "untested" in between.ini
    assert "untested" not in old.ini


def test_the_userlist_holds_the_verifier_and_is_not_shown() -> None:
    files = write(WANTED, (1, 18, 0), {'we"ird': VERIFIER})
    assert files.userlist == f'"we""ird" "{VERIFIER}"\n'
    assert VERIFIER not in repr(files)
    plain = write(WANTED, (1, 25, 2), {"app": "a password"})
    assert "pgbouncer-password" in {finding.code for finding in plain.findings}


def test_a_server_elsewhere_without_tls_is_noticed() -> None:
    codes = {f.code for f in write(replace(WANTED, host="db.internal"), (1, 25, 2), {"app": VERIFIER}).findings}
    assert "pgbouncer-tls" in codes
    safe = replace(WANTED, host="db.internal", server_tls="verify-full", server_ca="/ca.pem")
    files = write(safe, (1, 25, 2), {"app": VERIFIER})
    assert "pgbouncer-tls" not in {f.code for f in files.findings}
    assert files.settings["server_tls_ca_file"] == "/ca.pem"


@pytest.mark.parametrize("text", ["PgBouncer 1.18.0\nlibevent 2.1.12", "1.25.2"])
def test_versions_are_read(text: str) -> None:
    assert version_of(text) in ((1, 18, 0), (1, 25, 2))


@pytest.fixture
def program() -> str:
    try:
        return bouncer.program()
    except Missing as error:
        return absent(error.says)


@pytest.fixture
def wanted(server: Postgres) -> Wanted:
    parts = urlsplit(server.url)
    return Wanted(
        database="shop",
        host=parts.hostname or "",
        port=parts.port or 0,
        dbname=parts.path[1:],
        user=parts.username or "",
        directory="/nowhere",
        pool_size=4,
    )


def secrets(server: Postgres) -> tuple[dict[str, str], str]:
    with psycopg.connect(server.url) as connection:
        password = connection.info.password
        return bouncer.secrets_of(connection, connection.info.user, password), password


def test_pgbouncer_does_what_its_file_says(server: Postgres, wanted: Wanted, program: str) -> None:
    known, password = secrets(server)
    assert next(iter(known.values())).startswith("SCRAM-SHA-256$")
    checks = bouncer.prove(wanted, known, password, program)
    assert {check.name for check in checks} >= {"starts", "SHOW CONFIG", "SHOW DATABASES", "transaction mode"}
    assert [check for check in checks if not check.good] == []


def test_a_wrong_file_fails_the_proof(
    server: Postgres, wanted: Wanted, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof can fail: an unknown key does not start, a wrong value is seen."""
    known, password = secrets(server)
    real = pgbouncer.write

    def unknown_key(*arguments: Any) -> Files:
        files = real(*arguments)
        return replace(files, ini=files.ini + "no_such_setting = 1\n")

    monkeypatch.setattr(pgbouncer, "write", unknown_key)
    (check,) = bouncer.prove(wanted, known, password, program)
    assert (check.name, check.good) == ("starts", False)

    def other_value(*arguments: Any) -> Files:
        files = real(*arguments)
        return replace(files, ini=files.ini.replace("query_wait_timeout = 30", "query_wait_timeout = 120"))

    monkeypatch.setattr(pgbouncer, "write", other_value)
    wrong = [check for check in bouncer.prove(wanted, known, password, program) if not check.good]
    assert [check.name for check in wrong] == ["SHOW CONFIG"]
    assert "query_wait_timeout" in wrong[0].says


def test_a_cluster_works_through_pgbouncer(server: Postgres, wanted: Wanted, program: str, tmp_path: Path) -> None:
    """Transaction mode, a version without prepared statements: they are off by themselves."""
    known, password = secrets(server)
    place = Path(tempfile.mkdtemp(prefix="dbscale-test-"))
    here = replace(wanted, directory=str(place), listen_port=bouncer._free_port())
    files = pgbouncer.write(here, bouncer.version(program), known)
    with bouncer._running(files, place, program, here.listen_port) as start:
        assert start.good
        url = f"postgresql://{here.user}:{password}@127.0.0.1:{here.listen_port}/shop"
        settings = config.Config(databases={"shop": config.Database(name="shop", url=url)})
        for driver, statement in (("sqlalchemy", sa.text("SELECT :n")), ("psycopg", "SELECT %(n)s::text")):
            with dbscale.open(settings, driver=driver) as cluster:
                for number in range(30):
                    with cluster.read() as connection:
                        assert connection.execute(statement, {"n": str(number)}).fetchone()[0] == str(number)
                assert cluster.groups["home"].primary.pooled is True
        console = f"postgresql://{here.user}:{password}@127.0.0.1:{here.listen_port}/pgbouncer"
        runner = CliRunner()
        file = tmp_path / "dbscale.toml"
        file.write_text(f'[databases.shop]\nurl = "{server.url}"\n')
        done = runner.invoke(pool, ["check", "--config", str(file), "--pgbouncer", console, "--json"])
        rules = {rule["code"]: rule for rule in json.loads(done.stdout)["rules"]}
        assert list(rules) == [f"PL{number:02}" for number in range(1, 13)]
        follows = bouncer.version(program) >= (1, 21, 0)
        assert rules["PL06"]["verdict"] == ("good" if follows else "wrong")
        assert rules["PL04"]["verdict"] == "wrong"  # 30 connections a process before 4
    shutil.rmtree(place)


# The rules.


def facts(**changed: Any) -> Facts:
    good: dict[str, Any] = {
        "pool": config.Pool(size=5, overflow=5, timeout=10.0),
        "fleet": Fleet(instances=2, workers=2, threads=5, request_timeout=30),
        "server": Server(max_connections=100),
        "settings": {"statement_timeout": "9000", "idle_in_transaction_session_timeout": "60000"},
        "activity": (Activity(name="shop", user="app", total=4, active=1, idle=3, in_transaction=0, oldest=0.0),),
    }
    return Facts(**(good | changed))


def bouncing(version: tuple[int, int, int] = (1, 25, 2), **changed: str) -> Bouncer:
    known = {
        "default_pool_size": "20",
        "query_wait_timeout": "10",
        "server_lifetime": "3600",
        "max_prepared_statements": "200",
        "min_pool_size": "2",
    }
    return Bouncer(
        version=version,
        config=known | changed,
        databases=({"name": "shop", "pool_size": 20, "reserve_pool": 0, "max_connections": 0},),
        pools=({"database": "shop", "user": "app"},),
    )


def verdicts(given: Facts) -> dict[str, str]:
    return {ruling.code: ruling.verdict for ruling in check(given)}


def test_good_pools_break_no_rule() -> None:
    assert set(verdicts(facts()).values()) <= {"good", "unknown"}
    assert set(verdicts(facts(bouncer=bouncing())).values()) == {"good"}


@pytest.mark.parametrize(
    ("code", "given"),
    [
        ("PL01", facts(fleet=Fleet(instances=4, workers=4))),
        ("PL02", facts(bouncer=replace(bouncing(), pools=tuple({"database": "shop", "user": u} for u in "abcde")))),
        (
            "PL03",
            facts(
                bouncer=replace(
                    bouncing(),
                    databases=({"name": "shop", "pool_size": 0, "reserve_pool": 0, "max_connections": 0},),
                )
            ),
        ),
        ("PL04", facts(bouncer=bouncing(default_pool_size="6"))),
        ("PL05", facts(settings={"statement_timeout": "0", "idle_in_transaction_session_timeout": "1"})),
        ("PL05", facts(fleet=Fleet(request_timeout=5))),
        ("PL05", facts(bouncer=bouncing(query_wait_timeout="120"))),
        ("PL06", facts(bouncer=bouncing((1, 18, 0)))),
        ("PL06", facts(bouncer=bouncing(max_prepared_statements="0"))),
        (
            "PL08",
            facts(
                activity=(Activity(name="x", user="app", total=1, active=0, idle=0, in_transaction=1, oldest=100.0),)
            ),
        ),
        ("PL08", facts(settings={"statement_timeout": "9000", "idle_in_transaction_session_timeout": "0"})),
        ("PL09", facts(fleet=Fleet(threads=10, nested=2))),
        ("PL10", facts(activity=(Activity(name="", user="a", total=1, active=0, idle=1, in_transaction=0, oldest=0),))),
        ("PL11", facts(pool=config.Pool(size=5, overflow=5, pre_ping=False, timeout=10), replicas=1)),
    ],
)
def test_each_rule_can_be_broken(code: str, given: Facts) -> None:
    assert verdicts(given)[code] == "wrong"


def test_cold_starts_are_told() -> None:
    assert verdicts(facts(bouncer=bouncing(min_pool_size="0")))["PL12"] == "unknown"


def test_rules_have_a_section() -> None:
    text = Path(__file__).parent.parent.joinpath("docs/errors.d/cluster.md")
    sections = (text if text.exists() else text.parent.parent / "errors.md").read_text(encoding="utf-8")
    for number in range(1, 13):
        assert f"## pl{number:02}\n" in sections


# The command line, on a live server.


@pytest.fixture
def toml(database: str, tmp_path: Path) -> Path:
    file = tmp_path / "dbscale.toml"
    file.write_text(f'[databases.shop]\nurl = "{database}"\n[pool]\nsize = 3\noverflow = 2\n')
    return file


def test_show_tells_who_uses_connections(toml: Path, database: str) -> None:
    with psycopg.connect(database, application_name="a tester"):
        done = CliRunner().invoke(pool, ["show", "--config", str(toml), "--json"])
    (node,) = json.loads(done.stdout)["nodes"]
    names = {entry["name"]: entry for entry in node["activity"]}
    assert names["a tester"]["total"] == 1
    assert node["used"] >= 1


def test_size_asks_the_server(toml: Path) -> None:
    arguments = ["size", "--config", str(toml), "--rate", "100", "--hold", "20", "--json"]
    done = CliRunner().invoke(pool, arguments)
    answer = json.loads(done.stdout)
    assert answer["fits"] is True
    assert answer["terms"][0]["name"] == "budget"
    assert answer["terms"][0]["value"] == 60 - 3 - 3


def test_metrics_are_served_and_read_back(toml: Path, database: str) -> None:
    pytest.importorskip("prometheus_client")
    port = bouncer._free_port()
    settings = config.load(toml)
    with dbscale.open(settings) as cluster:
        serving = cluster.serve_metrics(port)
        try:
            url = f"http://127.0.0.1:{port}/metrics"
            over = threading.Event()
            reads = threading.Semaphore(0)

            def work() -> None:
                while not over.is_set():
                    with cluster.read() as connection:
                        connection.execute(sa.text("SELECT pg_sleep(0.01)"))
                    reads.release()

            threads = [threading.Thread(target=work) for _ in range(2)]
            for thread in threads:
                thread.start()
            for _ in range(20):  # so many that what a new connection asks for does not count
                assert reads.acquire(timeout=30)
            shown = CliRunner().invoke(pool, ["show", "--config", str(toml), "--metrics", url, "--json"])
            arguments = ["size", "--config", str(toml), "--metrics", url, "--seconds", "1.5", "--json"]
            sized = CliRunner().invoke(pool, arguments)
            over.set()
            for thread in threads:
                thread.join()
        finally:
            serving.shutdown()
    selects = next(each for each in json.loads(shown.stdout)["statements"] if each["kind"] == "select")
    assert (selects["node"], selects["role"], selects["over_500_ms"]) == ("shop", "primary", 0)
    assert selects["count"] > 0
    assert 10 <= selects["p95_ms"] <= 500
    (pools,) = json.loads(shown.stdout)["pools"]
    assert (pools["node"], pools["pool"], pools["max"]) == ("shop", "sync", 5)
    busy = {term["name"]: term["value"] for term in json.loads(sized.stdout)["terms"]}["busy"]
    assert 1 <= busy <= 2.2  # two threads that hold a connection nearly all the time


def test_queries_are_timed_with_an_edge_at_500_ms(toml: Path) -> None:
    with dbscale.open(config.load(toml)) as cluster:
        with cluster.read() as connection:
            connection.execute(sa.text("SELECT pg_sleep(0.3)"))
            connection.execute(sa.text("SELECT pg_sleep(0.6)"))
        histogram = cluster.metrics.histogram("dbscale_query_seconds", node="shop", role="primary", kind="select")
        counts = dict(zip((*EDGES, float("inf")), histogram.buckets, strict=True))
    assert (counts[0.5], counts[1.0]) == (1, 1)


def test_alert_rules_pass_promtool(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        absent("promtool is not on this machine")
    done = CliRunner().invoke(pool, ["alerts"])
    (tmp_path / "alerts.yml").write_text(done.stdout)
    shutil.copy(Path(__file__).parent / "alerts_test.yml", tmp_path)
    result = subprocess.run(
        [str(promtool), "test", "rules", "alerts_test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
