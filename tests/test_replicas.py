"""Replicas: made, looked at where the common formulas lie, waited for, promoted; and a role that only reads."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from click.testing import CliRunner

from dbscale import apply, cli
from dbscale.cli.replicas import replicas
from dbscale.cluster import bouncer
from dbscale.cluster.analytics import plan_analytics, read_grants
from dbscale.cluster.groups import TwoPrimaries
from dbscale.cluster.replicas import (
    ROLE,
    assess,
    notices,
    plan_embedded,
    plan_promotion,
    plan_server,
)
from dbscale.cluster.session import FromReplica
from dbscale.cluster.survey import Member, survey, wait
from dbscale.drivers import embedded, programs, replication
from dbscale.drivers.replication import Place, Sender, Sending, Slot, Standby, normalised
from dbscale.errors import TargetInUse
from dbscale.plan import Command, Plan
from fix_postgres import QUICK, absent

pytestmark = pytest.mark.usefixtures("own_servers")

PRIMARY = Place(system="1", timeline=1, recovery=False, lsn=1000, receiving=None)
REPLICA = Place(system="1", timeline=1, recovery=True, lsn=1000, receiving=True)
STANDBY = Standby(paused=False, delay_ms=0, slot="r", since_commit=3600.0, settings={}, version=180000)
SENDING = Sending(
    senders=(Sender(name="r", state="streaming", replayed=1000, sync="async"),),
    slots=(Slot(name="r", active=True, retained=64, status="reserved"),),
    settings={
        "wal_level": "replica",
        "max_wal_senders": "10",
        "max_replication_slots": "10",
        "max_slot_wal_keep_size": "1024",
        "wal_log_hints": "on",
        "max_connections": "100",
    },
    version=180000,
    free_senders=9,
)


def assessed(place: Place = REPLICA, standby: Standby | None = STANDBY, primary: Place = PRIMARY) -> Any:
    return assess(
        "r1", "replica", "", primary=primary, sampled=10.0, place=place, standby=standby, sending=SENDING, now=10.02
    )


def test_on_an_idle_primary_a_replica_is_not_behind() -> None:
    """The last commit is an hour old; the lag is not."""
    status = assessed()
    assert (status.state, status.lag_bytes, status.lag_bound) == ("streaming", 0, None)
    assert status.lag_seconds == pytest.approx(0.02)


def test_a_replica_that_lost_its_connection_is_behind() -> None:
    status = assessed(replace(REPLICA, lsn=400, receiving=False))
    assert (status.state, status.lag_bytes, status.lag_seconds, status.lag_bound) == ("disconnected", 600, None, 3600.0)


def test_what_a_replica_may_be() -> None:
    assert assessed(replace(REPLICA, system="2")).state == "foreign"
    assert assessed(replace(REPLICA, recovery=False), None).state == "promoted"
    assert assessed(standby=replace(STANDBY, paused=True)).state == "paused"
    assert "timeline 1" in assessed(primary=replace(PRIMARY, timeline=2)).says
    assert assessed(primary=replace(PRIMARY, timeline=2)).lag_seconds is None
    assert "3 s late" in assessed(standby=replace(STANDBY, delay_ms=3000)).says


def test_what_is_noticed() -> None:
    dead = replace(SENDING, slots=(Slot(name="gone", active=False, retained=10**9, status="extended"),))
    unlimited = replace(dead, settings=dead.settings | {"max_slot_wal_keep_size": "-1"})
    assert {
        f.code for f in notices([assessed()], SENDING, {"r1": replace(STANDBY, settings=SENDING.settings)})
    } == set()
    assert {f.code for f in notices([], dead, {})} == {"slot-inactive"}
    assert {f.code for f in notices([], unlimited, {})} == {"slot-inactive", "slot-unlimited"}
    low = replace(STANDBY, settings={"max_connections": "50"})
    codes = [f.code for f in notices([assessed(replace(REPLICA, receiving=False))], SENDING, {"r1": low})]
    assert "replica-not-streaming" in codes
    assert "replica-setting" in codes


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (0x3000028, 0x3000000),  # 40 behind a segment's start
        (0x3002018, 0x3002000),  # 24 behind a page's start
        (0x3002028, 0x3002028),  # 40 behind a page's start is a record
        (0x3000018, 0x3000000),
        (0x3000100, 0x3000100),
    ],
)
def test_positions_at_page_boundaries(raw: int, expected: int) -> None:
    assert normalised(raw) == expected


def test_positions_as_text() -> None:
    assert replication.as_number(replication.as_text(0x1_2345_6789)) == 0x1_2345_6789


# Promotion, as a plan.


def promotion(**changed: Any) -> Plan:
    given: dict[str, Any] = {"place": REPLICA, "standby": STANDBY, "primary": None, "others": {}}
    return plan_promotion("r1", **(given | changed))


def test_a_promotion_when_all_is_well() -> None:
    plan = promotion()
    assert not plan.blockers
    assert [step.sql for step in plan.steps] == ["SELECT pg_promote(true, 60)"]  # type: ignore[union-attr]
    assert plan.steps[0].undo is None


@pytest.mark.parametrize(
    ("code", "changed"),
    [
        ("primary-alive", {"primary": PRIMARY}),
        ("replica-behind", {"others": {"r2": replace(REPLICA, lsn=2000)}}),
        ("replica-behind", {"others": {"r2": replace(REPLICA, timeline=2)}}),
        ("replica-behind", {"primary": PRIMARY, "stops": True, "place": replace(REPLICA, receiving=False)}),
        ("replica-paused", {"standby": replace(STANDBY, paused=True)}),
    ],
)
def test_what_blocks_a_promotion(code: str, changed: dict[str, Any]) -> None:
    assert [finding.code for finding in promotion(**changed).blockers] == [code]


def test_a_primary_that_is_shut_down_sends_the_rest() -> None:
    ahead = {"r2": replace(REPLICA, lsn=2000)}  # for a moment: the next record is on its way
    assert not promotion(primary=PRIMARY, stops=True, others=ahead).blockers
    assert promotion(primary=None, stops=True, others=ahead).blockers


def test_a_primary_is_not_promoted_again() -> None:
    assert promotion(place=PRIMARY, standby=None).steps == ()


def test_what_keeps_a_primary_from_feeding_another_replica() -> None:
    full = replace(SENDING, free_senders=1, settings=SENDING.settings | {"wal_level": "minimal"})
    plan = plan_server("shop", "postgresql://db/shop", name="r9", directory="/d", sending=full, role_exists=True)
    assert [finding.code for finding in plan.blockers] == ["replica-obstacle", "replica-obstacle"]


def test_the_plan_holds_no_password() -> None:
    url = "postgresql://app:geheim@db:5433/shop?sslmode=verify-full"
    plan = plan_server("shop", url, name="r9", directory="/d", sending=SENDING, role_exists=False)
    assert "geheim" not in plan.to_json()
    backup = next(step for step in plan.steps if isinstance(step, Command))
    assert "host=db port=5433 sslmode=verify-full" in " ".join(backup.argv)
    assert Plan.from_json(plan.to_json()) == plan


def test_the_next_embedded_replica_takes_a_free_name() -> None:
    (step,) = plan_embedded("shop", "main", ["main", "main_replica_1"]).steps
    assert "main_replica_2" in step.does


# Real servers.


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A directory of embedded servers of its own, and a dbscale.toml for a database `shop` with one replica."""
    root = Path(tempfile.mkdtemp(prefix="dbscale-test-"))
    root.chmod(0o755)
    monkeypatch.setenv("DBSCALE_DATA", str(root))
    embedded.up("shop", settings=QUICK)
    yield root
    for server in embedded.status():
        if not server.primary:
            embedded.down(server.name)
    shutil.rmtree(root)


def toml(place: Path, *names: str) -> Path:
    file = place / "dbscale.toml"
    entries = ", ".join(f'{{ url = "embedded:{name}" }}' for name in names)
    file.write_text(f'[databases.shop]\nurl = "embedded:shop"\nreplicas = [ {entries} ]\n')
    return file


def call(*arguments: str) -> Any:
    return CliRunner().invoke(replicas, list(arguments), catch_exceptions=False, standalone_mode=False)


def test_a_replica_is_added_shown_awaited_and_promoted(place: Path) -> None:
    file = toml(place)
    shown = call("add", "--config", str(file), "--dry-run")
    assert "shop_replica_1" in shown.stdout
    assert [server.name for server in embedded.status()] == ["shop"]

    assert call("add", "--config", str(file), "--yes").return_value == 0
    toml(place, "shop_replica_1")
    waited = call("wait", "--config", str(file), "--max-lag", "1", "--json")
    assert waited.return_value == 0
    assert json.loads(waited.stdout)["lag_seconds"]["shop.replica1"] <= 1
    seen = json.loads(call("show", "--config", str(file), "--json").stdout)["databases"][0]["replicas"][0]
    assert (seen["state"], seen["slot"]) == ("streaming", "shop_replica_1")
    assert seen["lag_seconds"] < 5

    refused = call("promote", "replica1", "--config", str(file), "--yes")
    assert refused.return_value == 2
    assert "primary-alive" in refused.stderr
    promoted = call("promote", "replica1", "--config", str(file), "--stop-primary", "--yes", "--json")
    assert json.loads(promoted.stdout) == {"promoted": "shop.replica1", "timeline": 2}
    servers = {server.name: server for server in embedded.status()}
    assert (servers["shop"].running, servers["shop_replica_1"].primary) == (False, "")
    with psycopg.connect(servers["shop_replica_1"].url) as connection:
        connection.execute("CREATE TABLE written (n int)")


def test_a_disconnected_replica_is_shown_behind_and_not_waited_for(place: Path) -> None:
    """Received and replayed agree on it, so the usual formula says 0."""
    primary = embedded.up("shop")
    replica = embedded.up("shop_replica_1", primary="shop", settings=QUICK)
    members = (Member(name="r1", url=replica.url),)
    with psycopg.connect(primary.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE seen (n int)")
    time.sleep(1)  # flushed
    assert wait(primary.url, members, max_lag=1, timeout=20)["r1"] <= 1
    time.sleep(2.5)  # the primary is idle, so the last commit that the replica has replayed grows old
    (idle,) = survey(primary.url, members).statuses
    assert (idle.state, idle.lag_bytes) == ("streaming", 0)
    assert idle.lag_seconds is not None
    assert idle.lag_seconds < 2
    with psycopg.connect(replica.url, autocommit=True) as connection:
        lie = connection.execute("SELECT now() - pg_last_xact_replay_timestamp() > interval '2 s'").fetchone()
        assert lie == (True,)
        connection.execute("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'")
        connection.execute("SELECT pg_reload_conf()")
    with psycopg.connect(primary.url, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
        time.sleep(0.5)
        connection.execute("CREATE TABLE unseen AS SELECT generate_series(1, 10000)")
        time.sleep(1)  # its commit, an asynchronous one, is flushed
    seen = survey(primary.url, members)
    (status,) = seen.statuses
    assert status.state == "disconnected"
    assert status.slot == "shop_replica_1"
    assert status.retained is not None
    assert status.retained > 100_000  # the primary keeps what it has not had
    assert seen.sending is not None
    assert "slot-inactive" in {found.code for found in notices(seen.statuses, seen.sending, seen.standbys)}
    assert status.lag_bytes is not None
    assert status.lag_bytes > 100_000
    assert status.lag_seconds is None
    with psycopg.connect(replica.url) as connection:
        lie = connection.execute("SELECT pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()").fetchone()
    assert lie == (True,)
    assert wait(primary.url, members, max_lag=0.5, timeout=1.5)["r1"] > 0.5


def test_a_command_that_would_write_to_a_standby_says_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embedded.up("shop")
    replica = embedded.up("shop_replica_1", primary="shop", settings=QUICK)
    assert cli.run(["replicas", "add", replica.url, "--analytics", "bi", "--yes"]) == 3
    said = capsys.readouterr().err
    assert "read-only transaction" in said
    assert "docs/errors.md#read-only" in said


def test_what_applications_raise_has_an_exit_code_too() -> None:
    assert [cli._drawn(kind("x"))[1] for kind in (FromReplica, TwoPrimaries)] == [cli.STOPPED, cli.DATABASE]


def test_servers_that_do_not_answer_are_told(place: Path) -> None:
    primary = embedded.up("shop")
    found = survey(primary.url, (Member(name="r1", url="postgresql://x@127.0.0.1:1/x"),))
    assert found.statuses[0].state == "unreachable"
    gone = survey("postgresql://x@127.0.0.1:1/x", (Member(name="r1", url=primary.url),))
    assert gone.primary is None
    assert gone.error
    assert gone.statuses[0].state == "promoted"


def test_a_role_for_analytics_reads_everything_and_writes_nothing(place: Path) -> None:
    primary = embedded.up("shop")
    replica = embedded.up("shop_replica_1", primary="shop", settings=QUICK)
    with psycopg.connect(primary.url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA sales")
        connection.execute("CREATE TABLE public.items AS SELECT 1 AS n")
        connection.execute("CREATE TABLE sales.orders AS SELECT 2 AS n")

        def planned() -> Plan:
            grants = read_grants(connection, "bi", "dbscale")
            return plan_analytics("shop", "bi", grants, name="shop", owner=connection.info.user)

        plan = planned()
        assert not plan.blockers
        list(apply.run(plan, urls={"target": primary.url}))
        assert planned().steps == ()
        connection.execute("CREATE TABLE public.later AS SELECT 3 AS n")
        connection.execute("ALTER ROLE bi PASSWORD 'only for this test'")
        assert planned().steps == ()
        connection.execute("GRANT UPDATE ON sales.orders TO bi")
        assert [step.does for step in planned().steps] == ["It does not write sales.orders"]
        list(apply.run(planned(), urls={"target": primary.url}))
    time.sleep(1)  # commits here are asynchronous: flushed within 0.6 s
    assert wait(primary.url, (Member(name="r", url=replica.url),), max_lag=1, timeout=20)["r"] <= 1
    for server in (primary, replica):
        parts = urlsplit(server.url)
        url = f"postgresql://bi:only%20for%20this%20test@127.0.0.1:{parts.port}/shop"
        with psycopg.connect(url, autocommit=True) as connection:
            for table in ("public.items", "sales.orders", "public.later"):
                assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,)
            if server is primary:
                connection.execute("SET default_transaction_read_only = off")
                for statement in ("INSERT INTO public.items VALUES (1)", "UPDATE sales.orders SET n = 3"):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        connection.execute(statement)
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute("CREATE TABLE public.mine (n int)")
            else:
                with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                    connection.execute("INSERT INTO public.items VALUES (1)")


@pytest.mark.slow
def test_the_plan_for_another_machine_makes_a_replica_that_streams(
    place: Path, own_servers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each statement and command of the plan, as it is, against a server that is not dbscale's to start."""
    primary = embedded.up("shop")
    account = programs.account_for(place)
    programs_ = programs.usable(own_servers, account)
    directory = place / "replica"
    with psycopg.connect(primary.url, autocommit=True) as connection:
        sending = replication.sending(connection)
        plan = plan_server(
            "shop",
            primary.url,
            name="elsewhere",
            directory=str(directory),
            sending=sending,
            role_exists=False,
            binaries=str(programs_),
        )
        assert not plan.blockers
        hba = primary.data / "pg_hba.conf"
        hba.write_text(hba.read_text() + f"host replication {ROLE} 127.0.0.1/32 scram-sha-256\n")
        connection.execute("SELECT pg_reload_conf()")
        *made, start = plan.steps
        role, *rest = made
        list(apply.run(replace(plan, steps=(role,)), urls={"target": primary.url}))
        connection.execute(f"ALTER ROLE {ROLE} PASSWORD 'secret'")
        passfile = place / "pgpass"
        passfile.write_text(f"*:*:*:{ROLE}:secret\n")
        passfile.chmod(0o600)
        monkeypatch.setenv("PGPASSFILE", str(passfile))
        list(apply.run(replace(plan, steps=tuple(rest)), urls={"target": primary.url}))
    # The rest of the machine's set-up, which a package has done elsewhere: owner, port, password file.
    conf = directory / "postgresql.conf"
    conf.write_text(conf.read_text() + "port = 15999\nunix_socket_directories = ''\n")
    (directory / "dbscale.conf").write_text(
        (directory / "dbscale.conf").read_text() + "port = 15999\nlisten_addresses = '127.0.0.1'\n"
    )
    if account:
        for path in (passfile, directory, *directory.rglob("*")):
            os.chown(path, account.pw_uid, account.pw_gid)
    assert isinstance(start, Command)
    uid = account.pw_uid if account else None
    subprocess.run(start.argv, check=True, capture_output=True, cwd="/", user=uid, extra_groups=[] if account else None)
    try:
        url = urlsplit(primary.url)._replace(netloc=urlsplit(primary.url).netloc.rpartition(":")[0] + ":15999").geturl()
        member = Member(name="elsewhere", url=url)
        assert wait(primary.url, (member,), max_lag=1, timeout=20)["elsewhere"] <= 1
        (status,) = survey(primary.url, (member,)).statuses
        assert (status.state, status.slot) == ("streaming", "elsewhere")
    finally:
        stop = [start.argv[0], "stop", "-D", str(directory), "-m", "immediate"]
        subprocess.run(stop, check=False, capture_output=True, cwd="/", user=uid, extra_groups=[] if account else None)


def test_other_commands_take_embedded_replicas_too(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embedded.up("shop")
    embedded.up("shop_replica_1", primary="shop", settings=QUICK)
    file = str(toml(place, "shop_replica_1"))
    revisions = str(Path(__file__).parent.parent / "migrations" / "marketplace")
    assert cli.run(["upgrade", "--migrations", revisions, "--config", file, "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["replicas"] == ["embedded:shop_replica_1"]
    assert cli.run(["indexes", "recommend", "shop", "--config", file, "--json"]) in (0, 1)
    assert "error" not in json.loads(capsys.readouterr().out)


def test_a_primary_is_not_stopped_for_a_replica_that_does_not_stream(place: Path) -> None:
    primary = embedded.up("shop")
    replica = embedded.up("shop_replica_1", primary="shop", settings=QUICK)
    assert wait(primary.url, (Member(name="r1", url=replica.url),), max_lag=1, timeout=20)["r1"] <= 1
    with psycopg.connect(replica.url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'")
        connection.execute("SELECT pg_reload_conf()")
        while connection.execute("SELECT count(*) FROM pg_stat_wal_receiver").fetchone() != (0,):
            time.sleep(0.05)
    with psycopg.connect(primary.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE later AS SELECT generate_series(1, 1000) AS n")
    refused = call("promote", "replica1", "--config", str(toml(place, replica.name)), "--stop-primary", "--yes")
    assert refused.return_value == 2
    assert "it does not stream" in refused.stderr
    with pytest.raises(TargetInUse, match="bytes of the log of shop: their commits would be lost"):
        embedded.promote(replica.name)
    with psycopg.connect(primary.url) as connection:  # it runs again
        assert connection.execute("SELECT count(*) FROM later").fetchone() == (1000,)
    with psycopg.connect(replica.url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM RESET primary_conninfo")
        connection.execute("SELECT pg_reload_conf()")
    assert wait(primary.url, (Member(name="r1", url=replica.url),), max_lag=1, timeout=30)["r1"] <= 1
    with psycopg.connect(embedded.promote(replica.name).url) as connection:
        assert connection.execute("SELECT count(*) FROM later").fetchone() == (1000,)


def test_the_replica_that_has_less_is_not_promoted(place: Path) -> None:
    """The primary is gone. One replica is paused and has replayed less: refused for both; the other takes over."""
    primary = embedded.up("shop")
    urls = [embedded.up(f"shop_replica_{n}", primary="shop", settings=QUICK).url for n in (1, 2)]
    members = tuple(Member(name=f"r{n}", url=url) for n, url in enumerate(urls, 1))
    assert max(wait(primary.url, members, max_lag=1, timeout=20).values()) <= 1
    with psycopg.connect(urls[0], autocommit=True) as connection:
        connection.execute("SELECT pg_wal_replay_pause()")
    with psycopg.connect(primary.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE later AS SELECT generate_series(1, 1000) AS n")
    time.sleep(1)  # flushed
    assert wait(primary.url, members[1:], max_lag=1, timeout=20)["r2"] <= 1
    assert primary.pid is not None
    os.kill(primary.pid, signal.SIGQUIT)
    file = place / "dbscale.toml"
    replicas_ = ", ".join(f'{{ url = "{url}" }}' for url in urls)
    file.write_text(f'[databases.shop]\nurl = "{primary.url}"\nreplicas = [ {replicas_} ]\n')
    refused = call("promote", "replica1", "--config", str(file), "--yes")
    assert refused.return_value == 2
    assert "[replica-paused]" in refused.stderr
    assert "[replica-behind]" in refused.stderr
    promoted = call("promote", "replica2", "--config", str(file), "--yes", "--json")
    assert json.loads(promoted.stdout) == {"promoted": "shop.replica2", "timeline": 2}
    with psycopg.connect(urls[1]) as connection:
        connection.execute("INSERT INTO later VALUES (0)")
        assert connection.execute("SELECT count(*) FROM later").fetchone() == (1001,)
    again = call("promote", "replica2", "--config", str(file), "--yes")
    assert "is a primary already" in again.stderr


def printed(text: str) -> Iterator[tuple[str, str]]:
    """What a plan prints, in order: SQL, commands, and files with their text."""
    lines = iter(text.splitlines())
    file: tuple[str, list[str]] | None = None
    for line in lines:
        if file and line.startswith("--   "):
            file[1].append(line.removeprefix("--   "))
            continue
        if file:
            yield f"write {file[0]}", "".join(f"{each}\n" for each in file[1])
            file = None
        if line.startswith("-- run: "):
            yield "run", line.removeprefix("-- run: ")
        elif line.startswith("-- write "):
            file = (line.removeprefix("-- write ").rstrip(":"), [])
        elif line and not line.startswith("--"):
            yield "sql", line


@pytest.mark.slow
def test_the_printed_plan_makes_a_replica_of_a_debian_server(tmp_path: Path) -> None:
    """Line by line, as it is printed, by the account postgres: its settings are in another place than its data."""
    if os.geteuid() != 0 or shutil.which("pg_createcluster") is None:
        absent("pg_createcluster is Debian's, and only root may become postgres")
    root = Path(tempfile.mkdtemp(prefix="dbscale-test-"))
    shutil.chown(root, "postgres")
    root.chmod(0o755)
    port, second = (bouncer._free_port() for _ in range(2))
    # Where Debian's clusters are known is kept apart from this machine's own.
    known = {"PG_CLUSTER_CONF_ROOT": f"{root}/etc/postgresql", "PGPORT": str(second), "PGPASSFILE": f"{root}/.pgpass"}

    def run(command: str, given: str = "", **also: str) -> str:
        done = subprocess.run(
            ["runuser", "-u", "postgres", "--", "sh", "-c", command],
            input=given,
            capture_output=True,
            text=True,
            cwd="/",
            env={"PATH": os.environ["PATH"], **known, **also},
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def sql(statement: str) -> str:
        return run(f"psql -X -h {root} -p {port} -d postgres -v ON_ERROR_STOP=1 -At", statement)

    run(f"mkdir -p {root}/etc/postgresql")
    run(f"pg_createcluster 15 shop -d {root}/main -s {root} -l {root}/main.log -p {port} --start-conf=manual")
    run("pg_ctlcluster 15 shop start")
    try:
        sql("ALTER ROLE postgres PASSWORD 'p'; CREATE TABLE items AS SELECT generate_series(1, 1000) AS n;")
        url = f"postgresql://postgres:p@127.0.0.1:{port}/postgres"
        file = tmp_path / "dbscale.toml"
        file.write_text(f'[databases.shop]\nurl = "{url}"\n')
        shown = call("add", "--config", str(file), "--name", "beside", "--data", f"{root}/beside")
        assert shown.return_value == 0
        steps = list(printed(shown.stdout))
        assert [kind.partition(" ")[0] for kind, _ in steps] == ["sql", "sql", "run", "write", "run", "run"]
        # What the plan and its findings ask of a person.
        line = f"host replication {ROLE} 127.0.0.1/32 scram-sha-256"
        assert line.replace("127.0.0.1", "REPLICA_ADDRESS") in shown.stderr
        run(f"echo '{line}' >> {root}/etc/postgresql/15/shop/pg_hba.conf")
        run(f"echo '*:*:*:{ROLE}:secret' > {root}/.pgpass && chmod 600 {root}/.pgpass")
        sql("SELECT pg_reload_conf()")
        for kind, text in steps:
            if kind == "sql":
                sql(text)
                if "CREATE ROLE" in text:
                    sql(f"ALTER ROLE {ROLE} PASSWORD 'secret'")
            elif kind == "run":
                run(text)
            else:
                run(f"cat > {kind.partition(' ')[2]}", text)
        try:
            there = f"postgresql://postgres:p@127.0.0.1:{second}/postgres"
            file.write_text(f'[databases.shop]\nurl = "{url}"\nreplicas = [ {{ url = "{there}" }} ]\n')
            assert call("wait", "--config", str(file), "--max-lag", "1", "--timeout", "20").return_value == 0
            seen = json.loads(call("show", "--config", str(file), "--json").stdout)["databases"][0]["replicas"][0]
            assert (seen["state"], seen["slot"], seen["wal_status"]) == ("streaming", "beside", "reserved")
            with psycopg.connect(there) as connection:
                assert connection.execute("SELECT count(*) FROM items").fetchone() == (1000,)
        finally:
            run(f"/usr/lib/postgresql/15/bin/pg_ctl stop -D {root}/beside -m immediate")
    finally:
        run("pg_ctlcluster 15 shop stop -m immediate")
        shutil.rmtree(root)
