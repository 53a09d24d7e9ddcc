"""Pools at work: PgBouncer with TLS, each rule broken on real servers, the sizing against a real queue."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
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

from dbscale import cli
from dbscale.cli.pool import pool
from dbscale.cluster import bouncer, pgbouncer
from dbscale.cluster.pgbouncer import Wanted
from dbscale.drivers import embedded, programs
from dbscale.errors import Missing
from fix_postgres import QUICK, absent, binaries

pytestmark = pytest.mark.usefixtures("own_servers")


@pytest.fixture(scope="module")
def program() -> str:
    try:
        return bouncer.program()
    except Missing as error:
        return absent(error.says)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the servers' account can reach."""
    made = Path(tempfile.mkdtemp(prefix="dbscale-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def wanted_for(url: str, **changed: Any) -> Wanted:
    parts = urlsplit(url)
    made = Wanted(
        database="shop",
        host=parts.hostname or "",
        port=parts.port or 0,
        dbname=parts.path[1:],
        user=parts.username or "",
        directory="/nowhere",
        pool_size=4,
    )
    return replace(made, **changed)


def secrets(url: str) -> tuple[dict[str, str], str]:
    with psycopg.connect(url) as connection:
        password = connection.info.password
        return bouncer.secrets_of(connection, connection.info.user, password), password


@contextlib.contextmanager
def running(
    wanted: Wanted, known: dict[str, str], program: str, place: Path, *, changed: dict[str, str] | None = None
) -> Iterator[Wanted]:
    """A PgBouncer of these files, with some lines changed."""
    folder = Path(tempfile.mkdtemp(dir=place))
    here = replace(wanted, directory=str(folder), listen_port=bouncer._free_port())
    files = pgbouncer.write(here, bouncer.version(program), known)
    for before, after in (changed or {}).items():
        assert before in files.ini
        files = replace(files, ini=files.ini.replace(before, after))
    with bouncer._running(files, folder, program, here.listen_port) as start:
        assert start.good, start.says
        yield here


# TLS.


def certificate(place: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate of localhost and its key, which the servers' account can read."""
    if shutil.which("openssl") is None:
        absent("openssl is not on this machine")
    cert, key = place / f"{name}.crt", place / f"{name}.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    key.chmod(0o600)
    if account := programs.account_for(place):
        for path in (cert, key):
            os.chown(path, account.pw_uid, account.pw_gid)
    return cert, key


def test_tls_to_clients_and_to_the_server(server_root: Path, place: Path, program: str) -> None:
    cert, key = certificate(place, "good")
    other, _ = certificate(place, "other")
    settings = QUICK | {"ssl": "on", "ssl_cert_file": str(cert), "ssl_key_file": str(key)}
    # Those of the wheels know no TLS.
    primary = embedded.up("tls", root=server_root, binaries=binaries("15"), settings=settings)
    known, password = secrets(primary.url)
    both = wanted_for(
        primary.url,
        server_tls="verify-full",
        server_ca=str(cert),
        client_tls_cert=str(cert),
        client_tls_key=str(key),
    )
    checks = {check.name: check for check in bouncer.prove(both, known, password, program)}
    assert [check for check in checks.values() if not check.good] == []
    assert checks["TLS"].says == "to clients, to clients alone, to the server (verify-full)"

    def client(port: int, **how: str) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host="localhost", port=port, user=both.user, password=password, dbname="shop", prepare_threshold=None, **how
        )

    with running(both, known, program, place) as here:
        with client(here.listen_port, sslmode="verify-full", sslrootcert=str(cert)) as connection:
            assert connection.pgconn.ssl_in_use
            row = connection.execute("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
            assert row is not None
            assert (row[0], row[1][:5]) == (True, "TLSv1")
        for refused in ({"sslmode": "verify-full", "sslrootcert": str(other)}, {"sslmode": "disable"}):
            with pytest.raises(psycopg.OperationalError):
                client(here.listen_port, **refused)
    # A server that shows another certificate than the wanted one is not spoken to, and the proof says so.
    (_, login) = bouncer.prove(replace(both, server_ca=str(other)), known, password, program)
    assert (login.name, login.good) == ("login", False)
    embedded.down("tls", root=server_root, remove=True)


def test_a_certificate_needs_its_key(database: str, tmp_path: Path) -> None:
    file = tmp_path / "dbscale.toml"
    file.write_text(f'[databases.shop]\nurl = "{database}"\n')
    done = CliRunner().invoke(pool, ["pgbouncer", "--config", str(file), "--client-cert", "a.crt", "--yes"])
    assert "needs its key" in str(done.exception)
    assert not (tmp_path / "pgbouncer").exists()


# The rules, each broken on real servers.


def rulings(file: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    done = CliRunner().invoke(pool, ["check", "--config", str(file), *arguments, "--json"])
    assert done.stdout, done.output
    return {rule["code"]: rule for rule in json.loads(done.stdout)["rules"]}


def toml(tmp_path: Path, url: str, section: str = "size = 3\noverflow = 2\ntimeout = 10") -> Path:
    file = tmp_path / "dbscale.toml"
    file.write_text(f'[databases.shop]\nurl = "{url}"\n[pool]\n{section}\n')
    return file


@pytest.fixture
def role(database: str) -> Iterator[str]:
    """The URL of a role that may log in to `database` and nothing else."""
    name = urlsplit(database).path[1:]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'p'")
        yield urlsplit(database)._replace(netloc=f"{name}:p@{urlsplit(database).netloc.rpartition('@')[2]}").geturl()
        connection.execute(f"DROP OWNED BY {name}")
        connection.execute(f"DROP ROLE {name}")


def test_rules_about_the_fleet_and_the_server(role: str, database: str, tmp_path: Path) -> None:
    """PL01, PL05, PL08, PL09, PL10: first as they should be, then each as it should not."""
    name = urlsplit(role).username
    with psycopg.connect(database, autocommit=True) as admin:
        for setting, value in (("statement_timeout", "'8s'"), ("idle_in_transaction_session_timeout", "'60s'")):
            admin.execute(f"ALTER ROLE {name} SET {setting} = {value}")
        file = toml(tmp_path, role)
        admin.execute("SELECT set_config('application_name', 'admin', false)")
        fine = rulings(file, "--request-timeout", "30", "--threads", "5")
        assert {fine[code]["verdict"] for code in ("PL01", "PL05", "PL08", "PL09")} == {"good"}
        assert rulings(file, "--instances", "8", "--workers", "2")["PL01"]["verdict"] == "wrong"
        admin.execute(f"ALTER ROLE {name} CONNECTION LIMIT 7")  # two workers of five, while a deployment runs: 20
        assert "the server has 7" in rulings(file, "--workers", "2")["PL01"]["says"]
        admin.execute(f"ALTER ROLE {name} CONNECTION LIMIT -1")
        assert rulings(file, "--request-timeout", "9")["PL05"]["verdict"] == "wrong"
        admin.execute(f"ALTER ROLE {name} SET statement_timeout = 0")
        assert "statement_timeout is 0" in rulings(file, "--request-timeout", "30")["PL05"]["says"]
        with psycopg.connect(role, application_name="forgetful") as forgotten:
            forgotten.execute("SELECT 1")
            time.sleep(0.1)
            assert rulings(file, "--held", "0.05")["PL08"]["verdict"] == "wrong"
            forgotten.rollback()
        admin.execute(f"ALTER ROLE {name} RESET idle_in_transaction_session_timeout")
        assert rulings(file)["PL08"]["verdict"] == "wrong"
        assert rulings(file, "--threads", "10", "--nested", "2")["PL09"]["verdict"] == "wrong"
        with psycopg.connect(role, application_name=""):
            assert rulings(file)["PL10"]["verdict"] == "wrong"


def test_rules_about_a_pooler(
    database: str, program: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PL02 to PL06, PL11 and PL12, on a PgBouncer that is set up as it should not be, then as it should."""
    known, password = secrets(database)
    changed = {
        "pool_size=4": "pool_size=70",
        "max_db_connections = 7": "max_db_connections = 0",
        "query_wait_timeout = 30": "query_wait_timeout = 120",
        "server_lifetime = 3600": "server_lifetime = 60",
    }
    follows = bouncer.version(program) >= (1, 21, 0)
    if follows:
        changed["max_prepared_statements = 200"] = "max_prepared_statements = 0"

    def urls(here: Wanted) -> tuple[str, str]:
        base = f"postgresql://{here.user}:{password}@127.0.0.1:{here.listen_port}"
        return f"{base}/shop", f"{base}/pgbouncer"

    wanted = wanted_for(database)
    with running(wanted, known, program, place, changed=changed) as here:
        url, console = urls(here)
        file = toml(tmp_path, url, "size = 10\noverflow = 20\ntimeout = 10\npre_ping = false")
        # Without its console a pooler is recognised all the same, by its answers; and runs ask for the server itself.
        source = str(tmp_path / "a.db")
        with sqlite3.connect(source) as connection:
            connection.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
        assert cli.run(["migrate", source, database]) == 0
        for words in (["undo", "1", url, "--dry-run"], ["undo", "1", url, "--yes"], ["migrate", source, url]):
            capsys.readouterr()
            assert cli.run(words) == cli.DATABASE
            assert "there is a pooler in front" in capsys.readouterr().err
        assert {rulings(file)[code]["verdict"] for code in ("PL02", "PL04", "PL06")} == {"unknown"}
        found = rulings(file, "--pgbouncer", console)
        broken = {code for code, rule in found.items() if rule["verdict"] == "wrong"}
        assert {"PL02", "PL04", "PL05", "PL06", "PL11"} <= broken
        assert "may open 7" in found["PL02"]["says"]  # 70 and 3 in reserve, and those of the session alias
        assert "server_lifetime" in found["PL05"]["says"]
        assert "query_wait_timeout" in found["PL05"]["says"]
        assert found["PL12"]["verdict"] == "unknown"
    right = {"query_wait_timeout = 30": "query_wait_timeout = 10", "min_pool_size = 0": "min_pool_size = 1"}
    with running(replace(wanted, pool_size=20), known, program, place, changed=right) as here:
        url, console = urls(here)
        with psycopg.connect(url, prepare_threshold=None) as client:
            client.execute("SELECT 1")
            found = rulings(toml(tmp_path, url), "--pgbouncer", console)
        assert {found[code]["verdict"] for code in ("PL02", "PL03", "PL04", "PL11", "PL12")} == {"good"}
        assert found["PL06"]["verdict"] == ("good" if follows else "wrong")
    if follows:  # from 1.24 on, 0 is no bound
        with running(wanted, known, program, place, changed={"pool_size=4": "pool_size=0"}) as here:
            url, console = urls(here)
            with psycopg.connect(url, prepare_threshold=None) as client:
                client.execute("SELECT 1")
            assert rulings(toml(tmp_path, url), "--pgbouncer", console)["PL03"]["verdict"] == "wrong"
