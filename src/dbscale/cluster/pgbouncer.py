"""What stands in pgbouncer.ini and userlist.txt, for the version that is to read them. Pure.

PgBouncer refuses to start on a key that its version does not know, has no way to check a file, and applies half of a
bad one on RELOAD: so the keys are chosen by version here, and cluster/bouncer.py proves the result on a real one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from dbscale.errors import Finding

Version = tuple[int, int, int]
TESTED: tuple[Version, ...] = ((1, 18, 0), (1, 25, 2))
"""The versions that dbscale's own tests have passed on: the oldest that is written for, and the newest there is."""
SCRAM = re.compile(r"SCRAM-SHA-256\$\d+:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a PgBouncer is to do."""

    database: str
    """Clients ask for this name; NAME_admin is the same database in session mode."""
    host: str
    port: int
    dbname: str
    user: str
    directory: str
    """Where the files lie."""
    pool_size: int = 20
    """Server connections for the application."""
    admin_pool_size: int = 2
    """Server connections for migrations and dumps, in session mode."""
    reserve: int = 3
    clients: int = 1000
    listen_addr: str = "127.0.0.1"
    listen_port: int = 6432
    pool_timeout: float = 30.0
    """Seconds that the application's callers wait: nobody waits longer here, as nobody waits for the answer."""
    server_tls: str = "prefer"
    """sslmode towards the server."""
    server_ca: str = ""
    client_tls_key: str = ""
    client_tls_cert: str = ""
    max_prepared: int = 200
    run_as: str = ""
    """An account for a PgBouncer that root starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The two files, and what was noticed."""

    ini: str
    userlist: str = field(repr=False)
    settings: Mapping[str, str]
    """The [pgbouncer] section, to compare with SHOW CONFIG."""
    findings: tuple[Finding, ...] = ()


def version_of(text: str) -> Version:
    """`PgBouncer 1.18.0` as (1, 18, 0); ValueError where there is no version in it."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if found is None:
        raise ValueError(f"no version: {text!r}")
    return int(found[1]), int(found[2]), int(found[3] or 0)


def write(wanted: Wanted, version: Version, secrets: Mapping[str, str]) -> Files:
    """The files for a PgBouncer of this version. `secrets` are users and their SCRAM verifiers or passwords."""
    settings = _settings(wanted, version)
    server = f"host={wanted.host} port={wanted.port} dbname={wanted.dbname}"
    lines = [
        f"; for PgBouncer {_shown(version)}, written by dbscale pool pgbouncer",
        "" if _tested(version) else f"; settings newer than {_shown(TESTED[0])} are untested by dbscale itself",
        "[databases]",
        f"{wanted.database} = {server} pool_size={wanted.pool_size} reserve_pool={wanted.reserve}",
        "; for migrations, pg_dump, LISTEN, advisory locks: what needs a session of its own",
        f"{wanted.database}_admin = {server} pool_mode=session pool_size={wanted.admin_pool_size}",
        "",
        "[pgbouncer]",
        *(f"{key} = {value}" for key, value in settings.items()),
    ]
    userlist = "".join(f'"{_quoted(user)}" "{_quoted(secret)}"\n' for user, secret in sorted(secrets.items()))
    return Files(
        ini="\n".join(line for line in lines if line or lines.index(line) > 1) + "\n",
        userlist=userlist,
        settings=settings,
        findings=tuple(_findings(wanted, version, secrets)),
    )


def _settings(wanted: Wanted, version: Version) -> dict[str, str]:
    settings = {
        "listen_addr": wanted.listen_addr,
        "listen_port": str(wanted.listen_port),
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": f"{wanted.directory}/userlist.txt",
        "logfile": f"{wanted.directory}/pgbouncer.log",
        "pidfile": f"{wanted.directory}/pgbouncer.pid",
        "admin_users": wanted.user,
        "stats_users": wanted.user,
        "pool_mode": "transaction",
        "default_pool_size": str(wanted.pool_size),
        "min_pool_size": "0",
        "reserve_pool_timeout": "5",
        "max_client_conn": str(wanted.clients),
        "max_db_connections": str(wanted.pool_size + wanted.reserve),
        "query_wait_timeout": f"{max(1, round(wanted.pool_timeout))}",
        "server_lifetime": "3600",
        "server_idle_timeout": "600",
        "server_login_retry": "2",
        "server_check_delay": "30",
        "dns_max_ttl": "15",
        "ignore_startup_parameters": "extra_float_digits",
        "server_tls_sslmode": wanted.server_tls,
    }
    if wanted.server_ca:
        settings["server_tls_ca_file"] = wanted.server_ca
    if wanted.client_tls_cert:
        settings["client_tls_sslmode"] = "require"
        settings["client_tls_key_file"] = wanted.client_tls_key
        settings["client_tls_cert_file"] = wanted.client_tls_cert
    if wanted.run_as:
        settings["user"] = wanted.run_as
    if version >= (1, 21, 0):
        settings["max_prepared_statements"] = str(wanted.max_prepared)
    if version >= (1, 25, 0):
        settings["query_wait_notify"] = "5"
    return settings


# From PgBouncer's changelog: what each version mended.
VULNERABLE: tuple[tuple[Version, str], ...] = (
    ((1, 24, 1), "CVE-2025-2291: auth_query let expired passwords in"),
    ((1, 25, 1), "CVE-2025-12819: search_path reaches auth_query, where track_extra_parameters carries it"),
    ((1, 25, 2), "CVE-2026-6664, CVE-2026-6665, CVE-2026-6666, CVE-2026-6667"),
)

CONSOLE_FIRST: tuple[Version, Version] = ((1, 25, 0), (1, 25, 2))
"""These keep a SCRAM verifier's keys at a user's first login alone, and not where that is the console's."""


def _findings(wanted: Wanted, version: Version, secrets: Mapping[str, str]) -> list[Finding]:
    shown = _shown(version)
    found = []
    if version < (1, 21, 0):
        says = f"PgBouncer {shown} does not follow prepared statements: they must be off in every client"
        remedy = (
            "dbscale.open() turns them off by itself; psycopg: prepare_threshold=None; asyncpg: statement_cache_size=0"
        )
        found.append(Finding(code="pgbouncer-prepared", where=shown, says=says, try_=remedy, level="behaviour"))
    elif not _tested(version):
        says = f"written for {shown}; dbscale's own tests run {' and '.join(map(_shown, TESTED))}"
        found.append(Finding(code="pgbouncer-untested", where=shown, says=says))
    for mended, what in VULNERABLE:
        if version < mended:
            remedy = f"PgBouncer {_shown(mended)} or later"
            found.append(Finding(code="pgbouncer-vulnerable", where=shown, says=what, try_=remedy))
    if CONSOLE_FIRST[0] <= version <= CONSOLE_FIRST[1] and any(map(SCRAM.fullmatch, secrets.values())):
        says = (
            f"where the console is the first login of {wanted.user} after a start, its databases refuse it from then on"
        )
        remedy = "watch the console as a user of its own: name it in stats_users and in the userlist"
        found.append(Finding(code="pgbouncer-console-first", where=shown, says=says, try_=remedy, level="behaviour"))
    if any(not SCRAM.fullmatch(secret) for secret in secrets.values()):
        says = "the server does not show its SCRAM verifiers to this role: the userlist holds the password itself"
        remedy = "run it as a superuser, or use auth_query; keep the file's mode 0600"
        found.append(Finding(code="pgbouncer-password", where="userlist.txt", says=says, try_=remedy))
    if wanted.server_tls in ("prefer", "allow", "disable") and wanted.host not in ("127.0.0.1", "localhost", "::1"):
        says = f"server_tls_sslmode is {wanted.server_tls}: the way to {wanted.host} may be in the clear"
        remedy = "sslmode=verify-full and sslrootcert in the database's URL"
        found.append(Finding(code="pgbouncer-tls", where=wanted.host, says=says, try_=remedy, level="behaviour"))
    return found


def _tested(version: Version) -> bool:
    return version <= TESTED[0] or version in TESTED


def _shown(version: Version) -> str:
    return ".".join(map(str, version))


def _quoted(text: str) -> str:
    return text.replace('"', '""')
