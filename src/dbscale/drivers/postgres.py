"""PostgreSQL through psycopg 3: connections, read-only transactions, and errors in dbscale's words."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg import conninfo, errors

from dbscale.errors import ConfigError, DbscaleError, Missing, Unfinished, Unreachable, redact

Connection = psycopg.Connection[tuple[Any, ...]]

CONNECT_SECONDS = 10
REFUSALS = (
    psycopg.DataError,
    psycopg.IntegrityError,
    errors.ProgramLimitExceeded,  # a row too large for a page or an index, a value too large for its type
    errors.StatementTooComplex,  # JSON too deep
)
"""What the server says against values, and not against the statement."""
# What the text of results depends on, and what ends a session that waits for the other side or for a busy server: a
# role or a database may have settings of its own for each.
_SETTINGS = {
    "DateStyle": "ISO, YMD",
    "TimeZone": "UTC",
    "IntervalStyle": "iso_8601",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
}


def _setting(values: Mapping[str, str], *, local: bool) -> str:
    """An expression that sets these, those that the server's version has; for the transaction alone where `local`."""
    return " || ".join(
        f"CASE WHEN current_setting('{name}', true) IS NOT NULL THEN set_config('{name}', '{value}', {local}) END"
        for name, value in values.items()
    )


def connect(
    url: str, *, name: str = "dbscale", autocommit: bool = True, connect_timeout: int = CONNECT_SECONDS
) -> Connection:
    """A connection to `url` (a libpq URL or connection string). Unreachable where there is none to be had.

    The session speaks UTF-8, ISO dates, UTC, exact floats, has no time-outs but for locks, and names itself `name` in
    pg_stat_activity. A stalled network is noticed by TCP keepalives within about a minute.
    """
    _refuse_split_password(url)
    try:
        connection = psycopg.connect(
            url,
            autocommit=autocommit,
            connect_timeout=connect_timeout,
            application_name=name,
            client_encoding="utf8",
            keepalives_idle=15,
            keepalives_interval=5,
            keepalives_count=6,
            tcp_user_timeout=60_000,
        )
        # Behind a transaction pooler a session is not ours to set: there `reading` does it, for its transaction.
        own, settings = f"pg_backend_pid() = {connection.info.backend_pid}", _setting(_SETTINGS, local=False)
        connection.execute(f"SELECT CASE WHEN {own} THEN {settings} END".encode())
        if not autocommit:
            connection.commit()
    except psycopg.ProgrammingError as error:
        raise ConfigError(
            "this is no connection string that libpq takes", where=display(url), try_="postgresql://user@host:5432/name"
        ) from error
    except psycopg.Error as error:
        raise translated(error, url) from error
    connection.prepare_threshold = None
    return connection


def _refuse_split_password(url: str) -> None:
    """ConfigError for a password with an @ in it: libpq takes what is behind the first for the host, and shows it."""
    with suppress(psycopg.ProgrammingError):
        if _AT_IN_HOST.search(str(conninfo.conninfo_to_dict(url).get("host") or "")):
            raise ConfigError(
                "there is an @ in the user or the password",
                where=display(url),
                try_="write it as %40 in a URL; or leave the password to PGPASSWORD or ~/.pgpass",
            )


_AT_IN_HOST = re.compile(r"(?<=[^,])@")
"""Not the first character: that makes the name of a socket of Linux's abstract ones."""


def refuse_pooler(connection: Connection) -> None:
    """Missing where a pooler stands before the server: a run's claim and settings are a session's."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    if row != (connection.info.backend_pid,):  # a pooler answers with a process id of its own making
        raise Missing(
            "there is a pooler in front of this server: a run needs sessions of its own",
            where=f"{connection.info.host}:{connection.info.port}",
            try_="give the URL of the server itself",
        )


@contextmanager
def reading(connection: Connection) -> Iterator[Connection]:
    """A READ ONLY transaction with one snapshot; rolled back at the end. It may wait while another side is read."""
    settings = _setting(_SETTINGS, local=True)
    connection.execute(f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT {settings}".encode())
    try:
        yield connection
    finally:
        if not connection.closed:
            connection.execute("ROLLBACK")


@contextmanager
def translating(where: str = "") -> Iterator[None]:
    """Driver errors in the block leave it in dbscale's words."""
    try:
        yield
    except psycopg.Error as error:
        raise translated(error, where=where) from error


def display(url: str) -> str:
    """Where a URL leads, without secrets: `db1.internal:5432/shop`."""
    try:
        parts = conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return redact(url)
    host = str(parts.get("host") or parts.get("hostaddr") or "")
    if _AT_IN_HOST.search(host):  # of a password
        host = host.rpartition("@")[2]
    if ":" in host:  # an IPv6 address
        host = f"[{host}]"
    elif not host and (service := parts.get("service") or os.environ.get("PGSERVICE")):
        return f"service {service}"
    host = host or os.environ.get("PGHOST") or "local socket"
    port = f":{parts['port']}" if parts.get("port") else ""
    name = parts.get("dbname") or os.environ.get("PGDATABASE") or parts.get("user") or ""
    return f"{host}{port}/{name}"


def translated(error: psycopg.Error, url: str = "", *, where: str = "") -> DbscaleError:
    """A driver's error as one of dbscale's, with what to do about it. The caller raises it `from` the first."""
    place = where or (display(url) if url else "")
    says = redact(_first_line(error))
    if isinstance(error, errors.InsufficientPrivilege):
        return Missing(says, where=place, try_="grant the privilege, or use a role that has it")
    if isinstance(error, errors.ReadOnlySqlTransaction):
        remedy = "name the primary's URL: dbscale replicas show tells which server that is"
        return Unreachable(says, where=place, try_=remedy, see="docs/errors.md#read-only")
    if isinstance(error, errors.DiskFull):
        return Unfinished(says, where=place, try_="free disk space on the server, then run the same command again")
    if is_gone(error):
        remedy = next(remedy for pattern, remedy in _REMEDIES if re.search(pattern, says))
        return Unreachable(says, where=place, try_=remedy)
    return Unfinished(says, where=place, try_="see the server's words above; then run the same command again")


def is_gone(error: psycopg.Error) -> bool:
    """Whether there is no session any more, or none was to be had; not where it refused a statement."""
    state = error.sqlstate or ""
    return isinstance(error, psycopg.OperationalError) and (not state or state.startswith(_GONE))


def failed(error: psycopg.Error, where: str) -> DbscaleError:
    """What a step that met a database error raises: the server's words, the step, and what to do."""
    told = translated(error, where=where)
    if is_gone(error):
        return Unfinished(told.says, where=where, try_="when the server is back, run the same command again")
    if detail := error.diag.message_detail:
        told.says += f" ({detail})"
    return told


# Classes and codes of SQLSTATE: connection exceptions, authorization, too many connections, shutdowns and crashes.
_GONE = ("08", "28", "53300", "57P")
# A connection that is refused comes without a code: its words have to do.
_REMEDIES = (
    (
        "password|authentication failed|role .* does not exist",
        "check user and password; PGPASSWORD and ~/.pgpass are read",
    ),
    ("database .* does not exist", "createdb, or name another database in the URL"),
    ("permission denied for database", "GRANT CONNECT ON DATABASE … TO …, or use another role"),
    ("pg_hba.conf", "let this host and role in, in the server's pg_hba.conf, or connect from where it lets them in"),
    ("support SSL|SSL error|certificate|sslmode", "check sslmode and sslrootcert in the URL, and ssl on the server"),
    (
        "too many (clients|connections)|connection slots",
        "wait until others have gone, or raise max_connections; dbscale pool show tells who",
    ),
    (
        "is starting up|is shutting down|in recovery mode|not yet accepting",
        "wait until the server is up, then run it again",
    ),
    (
        "configuration parameter|definition of service",
        "check the options of the URL; PGSERVICE, PGOPTIONS and their like are read too",
    ),
    ("", "is the server running, and is this its address? then run it again"),
)


def _first_line(error: psycopg.Error) -> str:
    text = error.diag.message_primary or str(error)
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
