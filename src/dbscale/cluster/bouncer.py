"""The proof that PgBouncer does what its file says: a real one, on a port of its own, with real traffic."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import conninfo

from dbscale.cluster import pgbouncer
from dbscale.cluster.pgbouncer import Files, Version, Wanted
from dbscale.drivers import postgres
from dbscale.drivers.programs import write_private
from dbscale.errors import Missing, Unfinished

START_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was proven, or not."""

    name: str
    good: bool
    says: str


def program() -> str:
    """The pgbouncer on this machine; Missing where there is none."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Missing("pgbouncer is not on this machine", try_="apt-get install pgbouncer, or --for-version 1.25.2")
    return found


def version(binary: str) -> Version:
    """The version of a pgbouncer program."""
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    try:
        return pgbouncer.version_of(done.stdout)
    except ValueError as error:
        raise Missing(f"{binary} does not tell its version", where=binary) from error


def secrets_of(connection: Any, user: str, password: str) -> dict[str, str]:
    """The userlist's entry for `user`: the server's own SCRAM verifier where this role may read it, else the password.

    The verifier has to be the server's, byte by byte: PgBouncer logs in with what the client has shown it.
    """
    with suppress(psycopg.errors.InsufficientPrivilege):
        row = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (user,)).fetchone()
        if row and row[0] and pgbouncer.SCRAM.fullmatch(row[0]):
            return {user: row[0]}
    if not password:
        raise Missing(
            f"neither the SCRAM verifier nor the password of {user} is known",
            try_="put the password into the URL, or connect as a superuser",
        )
    return {user: password}


def prove(wanted: Wanted, secrets: dict[str, str], password: str, binary: str) -> list[Check]:
    """Start this PgBouncer in a throw-away directory and on a free port, and look whether it does what is wanted."""
    found = version(binary)
    with tempfile.TemporaryDirectory(prefix="dbscale-pgbouncer-") as directory:
        here = replace(wanted, directory=directory, listen_addr="127.0.0.1", listen_port=_free_port(), run_as="")
        files = pgbouncer.write(here, found, secrets)
        with _running(files, Path(directory), binary, here.listen_port) as start:
            checks = [start]
            if not start.good:
                return checks
            checks.append(_login(here, password))  # before the console's: see pgbouncer.CONSOLE_FIRST
            if not checks[-1].good:
                return checks
            with _client(here, password, "pgbouncer") as console:
                checks += [_version(console, found), _config(console, files), _databases(console, here)]
            checks += [_traffic(here, password), _session(here, password)]
            if found >= (1, 21, 0):
                checks.append(_prepared(here, password))
            if here.client_tls_cert or here.server_tls in ("require", "verify-ca", "verify-full"):
                checks.append(_transport(here, password))
    return checks


@contextmanager
def _running(files: Files, directory: Path, binary: str, port: int) -> Iterator[Check]:
    """A PgBouncer with these files; as root under another account, since it refuses to run as root."""
    account = _account()
    for name, text in (("pgbouncer.ini", files.ini), ("userlist.txt", files.userlist)):
        file = directory / name
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as out:
            out.write(text)
        if account:
            os.chown(file, account.pw_uid, account.pw_gid)
    if account:
        os.chown(directory, account.pw_uid, account.pw_gid)
    process = subprocess.Popen(
        [binary, str(directory / "pgbouncer.ini")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and not _answers(port) and time.monotonic() < deadline:
            time.sleep(0.02)
        good = process.poll() is None and _answers(port)
        yield Check("starts", good, f"{binary} on port {port}" if good else _last_words(directory))
    finally:
        # SIGINT waits for clients' queries, and from 1.23 SIGTERM for the clients themselves: this is a throw-away.
        process.kill()
        process.wait()


def _last_words(directory: Path) -> str:
    log = directory / "pgbouncer.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    bad = [line for line in lines if any(word in line for word in ("ERROR", "FATAL", "WARNING"))]
    return (bad or lines or ["it gave no reason"])[0]


def _account() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise Missing("PgBouncer does not run as root", try_="run dbscale as another user")


@contextmanager
def _client(wanted: Wanted, password: str, database: str, sslmode: str = "") -> Iterator[psycopg.Connection[Any]]:
    connection = psycopg.connect(
        conninfo.make_conninfo(
            host="127.0.0.1",
            port=wanted.listen_port,
            user=wanted.user,
            password=password,
            dbname=database,
            connect_timeout=5,
            # By the number of a machine no certificate can be checked: the proof is that it is TLS.
            sslmode=sslmode or ("require" if wanted.client_tls_cert else "prefer"),
        ),
        autocommit=True,
        prepare_threshold=None,
        cursor_factory=psycopg.ClientCursor,
    )
    try:
        yield connection
    finally:
        connection.close()


def show(console: psycopg.Connection[Any], what: str) -> list[dict[str, Any]]:
    """What the console answers to SHOW, as rows by name."""
    cursor = console.execute(f"SHOW {what}")
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@contextmanager
def console(url: str) -> Iterator[psycopg.Connection[Any]]:
    """The administration console of the PgBouncer at `url`; Unreachable where it does not let us in."""
    try:
        connection = psycopg.connect(
            conninfo.make_conninfo(url, dbname="pgbouncer", connect_timeout=5),
            autocommit=True,
            prepare_threshold=None,
            cursor_factory=psycopg.ClientCursor,
        )
    except psycopg.Error as error:
        raise postgres.translated(error, url) from error
    try:
        yield connection
    finally:
        connection.close()


def _version(console: psycopg.Connection[Any], found: Version) -> Check:
    shown = next(iter(show(console, "VERSION")[0].values()))
    return Check("version", pgbouncer.version_of(shown) == found, shown)


def _config(console: psycopg.Connection[Any], files: Files) -> Check:
    shown = {str(row["key"]): str(row["value"] or "") for row in show(console, "CONFIG")}
    wrong = [
        f"{key} is {shown.get(key)!r}, not {value!r}"
        for key, value in files.settings.items()
        if not _same(shown.get(key), value)
    ]
    return Check("SHOW CONFIG", not wrong, "; ".join(wrong) or f"all {len(files.settings)} settings are in effect")


def _same(shown: str | None, wanted: str) -> bool:
    if shown == wanted:
        return True
    try:
        return shown is not None and float(shown) == float(wanted)
    except ValueError:
        return False


def _databases(console: psycopg.Connection[Any], wanted: Wanted) -> Check:
    shown = {row["name"]: row for row in show(console, "DATABASES")}
    main, admin = shown.get(wanted.database), shown.get(f"{wanted.database}_admin")
    good = (
        main is not None
        and admin is not None
        and (main["host"], int(main["port"]), main["database"]) == (wanted.host, wanted.port, wanted.dbname)
        and int(main["pool_size"]) == wanted.pool_size
        and admin["pool_mode"] == "session"
        and int(admin["pool_size"]) == wanted.admin_pool_size
    )
    says = f"{wanted.database} in transaction mode, {wanted.database}_admin in session mode"
    return Check("SHOW DATABASES", good, says if good else f"{main} {admin}")


def _traffic(wanted: Wanted, password: str) -> Check:
    """One transaction more than the pool holds: exactly one client waits, and gets its turn."""
    with ExitStack() as stack:
        console = stack.enter_context(_client(wanted, password, "pgbouncer"))
        clients = [stack.enter_context(_client(wanted, password, wanted.database)) for _ in range(wanted.pool_size + 1)]
        servers = set()
        for client in clients[:-1]:
            row = client.execute("BEGIN; SELECT pg_backend_pid()")
            row.nextset()
            servers.add(row.fetchone()[0])  # type: ignore[index]
        clients[-1].pgconn.send_query(b"SELECT pg_backend_pid()")
        waiting = 0
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline and not waiting:
            pools = [row for row in show(console, "POOLS") if row["database"] == wanted.database]
            waiting = sum(int(row["cl_waiting"]) for row in pools)
        clients[0].execute("COMMIT")
        result = clients[-1].pgconn.get_result()
        served = result is not None and int(result.get_value(0, 0) or 0) in servers
        for client in clients[1:-1]:
            client.execute("COMMIT")
    good = len(servers) == wanted.pool_size and waiting == 1 and served
    says = (
        f"{wanted.pool_size} transactions on {len(servers)} server connections, the next one waits and is served"
        if good
        else f"{len(servers)} servers for {wanted.pool_size} transactions, {waiting} waiting, served: {served}"
    )
    return Check("transaction mode", good, says)


def _session(wanted: Wanted, password: str) -> Check:
    """The alias for migrations keeps what a session sets, from transaction to transaction."""
    with (
        _client(wanted, password, f"{wanted.database}_admin") as first,
        _client(wanted, password, f"{wanted.database}_admin") as second,
    ):
        first.execute("SET lock_timeout = '4321ms'")
        pids = set()
        for _ in range(3):
            second.execute("SELECT 1")
            row = first.execute("SELECT pg_backend_pid(), current_setting('lock_timeout')").fetchone()
            pids.add(row)
    good = len(pids) == 1 and next(iter(pids))[1] == "4321ms"  # type: ignore[index]
    return Check("session alias", good, f"{wanted.database}_admin keeps SET lock_timeout" if good else f"{pids}")


def _login(wanted: Wanted, password: str) -> Check:
    """A client of the database gets in, and a server connection behind it."""
    try:
        with _client(wanted, password, wanted.database) as client:
            row = client.execute("SELECT current_user").fetchone()
    except psycopg.Error as error:
        return Check("login", False, str(error).strip().partition("\n")[0])
    return Check("login", row == (wanted.user,), f"{wanted.user}, by SCRAM")


def _transport(wanted: Wanted, password: str) -> Check:
    """TLS on both ways, as far as wanted; and to clients nothing else."""
    said = []
    with (
        _client(wanted, password, "pgbouncer") as console,
        _client(wanted, password, wanted.database) as client,
    ):
        client.execute("SELECT 1")
        if wanted.client_tls_cert:
            said.append((bool(client.pgconn.ssl_in_use), "to clients"))
            said.append((not _admits(wanted, password, "disable"), "to clients alone"))
        if wanted.server_tls in ("require", "verify-ca", "verify-full"):
            servers = [row for row in show(console, "SERVERS") if row["database"] == wanted.database]
            said.append((bool(servers) and all(row["tls"] for row in servers), f"to the server ({wanted.server_tls})"))
    wrong = [says for good, says in said if not good]
    return Check("TLS", not wrong, f"not {', '.join(wrong)}" if wrong else ", ".join(says for _, says in said))


def _admits(wanted: Wanted, password: str, sslmode: str) -> bool:
    try:
        with _client(wanted, password, wanted.database, sslmode):
            return True
    except psycopg.OperationalError:
        return False


def _prepared(wanted: Wanted, password: str) -> Check:
    """Two clients that prepare the same statement, in turn on the same server connections."""
    try:
        with ExitStack() as stack:
            clients = [stack.enter_context(_client(wanted, password, wanted.database)) for _ in range(2)]
            for _ in range(3):
                for client in clients:
                    psycopg.Cursor(client).execute("SELECT %s::int", (1,), prepare=True)
    except psycopg.Error as error:
        return Check("prepared statements", False, str(error))
    return Check("prepared statements", True, "followed from client to client")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def save(files: Files, directory: Path) -> None:
    """Write both files, readable by their owner alone; Unfinished where that fails."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in (("pgbouncer.ini", files.ini), ("userlist.txt", files.userlist)):
            write_private(directory / name, text)
    except OSError as error:
        raise Unfinished(f"cannot write: {error.strerror}", where=str(directory), try_="--out DIRECTORY") from error
