"""The rules of `pool check`, PL01 to PL12: pure, over what was read from the server, a PgBouncer and `[pool]`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from dbscale import config
from dbscale.cluster.pgbouncer import Version
from dbscale.cluster.pools import KEEPALIVE
from dbscale.cluster.sizing import Server, deadlock_bound

Verdict = Literal["good", "wrong", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """How many processes there are, and how they use connections."""

    instances: int = 1
    workers: int = 1
    surge: float = 1.0
    request_timeout: float = 0.0
    """Seconds after which the application's own callers give up; 0: not known."""
    threads: int = 0
    """Threads of a process that take connections; 0: not known."""
    nested: int = 1
    """Connections that one of them holds at once."""
    held: float = 30.0
    """Seconds in a transaction without a statement that count as a leak."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What pg_stat_activity shows of one application_name and role."""

    name: str
    user: str
    total: int
    active: int
    idle: int
    in_transaction: int
    oldest: float
    """Seconds of the longest `idle in transaction`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bouncer:
    """What a PgBouncer's console shows."""

    version: Version
    config: dict[str, str]
    databases: tuple[dict[str, Any], ...]
    pools: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the rules look at."""

    pool: config.Pool
    fleet: Fleet
    server: Server
    settings: dict[str, str]
    """statement_timeout, idle_in_transaction_session_timeout, in milliseconds."""
    activity: tuple[Activity, ...]
    pooled: bool = False
    """The database's URL leads to a pooler."""
    replicas: int = 0
    bouncer: Bouncer | None = None
    transport: bool = False
    """The URL asks for TLS."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What one rule says."""

    code: str
    verdict: Verdict
    says: str
    try_: str = ""


def check(facts: Facts) -> list[Ruling]:
    """All twelve rules, in order."""
    return [Ruling(rule.__name__.upper(), *rule(facts)) for rule in RULES]


Said = tuple[Verdict, str] | tuple[Verdict, str, str]


def pl01(facts: Facts) -> Said:
    """All pools of all processes, also during a deployment, fit into the server."""
    fleet, each = facts.fleet, facts.pool.size + facts.pool.overflow
    now = fleet.instances * fleet.workers * each
    most = int(now * (1 + fleet.surge))
    budget = facts.server.budget
    says = (
        f"{fleet.instances} instances × {fleet.workers} workers × {each} connections = {now}, {most} in a deployment;"
        f" the server has {budget}"
    )
    if facts.pooled:
        return "good", f"{says}, but they end at a pooler (PL02)"
    if most > budget:
        return "wrong", says, "dbscale pool size; smaller pools, or a PgBouncer (dbscale pool pgbouncer)"
    return "good", says


def pl02(facts: Facts) -> Said:
    """PgBouncer's pools, one for each database and user, fit into the server."""
    if facts.bouncer is None:
        return "unknown", "no PgBouncer was named (--pgbouncer URL)"
    users = {(row["database"], row["user"]) for row in facts.bouncer.pools if row["database"] != "pgbouncer"}
    total = 0
    for row in facts.bouncer.databases:
        if row["name"] != "pgbouncer":
            count = max(1, sum(database == row["name"] for database, _ in users))
            each = int(row["pool_size"]) + int(row.get("reserve_pool") or row.get("reserve_pool_size") or 0)
            limit = int(row["max_connections"] or 0)
            total += min(count * each, limit) if limit else count * each
    says = (
        f"PgBouncer may open {total} server connections over {len(users)} pools; the server has {facts.server.budget}"
    )
    if total > facts.server.budget:
        return "wrong", says, "a lower pool_size, or max_db_connections"
    return "good", says


def pl03(facts: Facts) -> Said:
    """No pool is without a bound."""
    if facts.bouncer is not None:
        free = [
            row["name"] for row in facts.bouncer.databases if not int(row["pool_size"]) and row["name"] != "pgbouncer"
        ]
        if free:
            return "wrong", f"pool_size 0 is without a bound: {', '.join(free)}", "pool_size = 20"
    return (
        "good",
        f"at most {facts.pool.size + facts.pool.overflow} connections a process: [pool] admits no unbounded pool",
    )


def pl04(facts: Facts) -> Said:
    """An application's pool before a pooler is not larger than what the pooler has."""
    if facts.bouncer is None:
        return (
            ("unknown", "a pooler answers; name its console to compare: --pgbouncer URL")
            if facts.pooled
            else (
                "good",
                "no pooler in between",
            )
        )
    each, share = facts.pool.size + facts.pool.overflow, int(facts.bouncer.config.get("default_pool_size", "20"))
    says = f"a process opens up to {each} connections, PgBouncer has {share} for all"
    if each > share:
        return "wrong", says, f"[pool] size = {max(1, share // 2)}, overflow = {share - max(1, share // 2)}"
    return "good", says


def pl05(facts: Facts) -> Said:
    """Time-outs, from the inside out: connect < wait for a connection < the request; statements end before it does."""
    pool, request = facts.pool, facts.fleet.request_timeout
    statement = int(facts.settings.get("statement_timeout", "0")) / 1000
    wrong = []
    if KEEPALIVE["connect_timeout"] > pool.timeout:
        wrong.append(f"connecting may take {KEEPALIVE['connect_timeout']} s, callers wait {pool.timeout:g} s")
    if request and pool.timeout >= request:
        wrong.append(f"callers wait {pool.timeout:g} s for a connection, requests end after {request:g} s")
    if request and statement and statement >= request:
        wrong.append(f"statement_timeout is {statement:g} s, requests end after {request:g} s")
    if not statement:
        wrong.append("statement_timeout is 0: a statement nobody waits for any more runs on")
    if facts.bouncer is not None:
        wait = float(facts.bouncer.config.get("query_wait_timeout", "120"))
        life = float(facts.bouncer.config.get("server_lifetime", "3600"))
        if wait == 0 or wait > pool.timeout:
            wrong.append(f"PgBouncer's query_wait_timeout is {wait:g} s, callers are gone after {pool.timeout:g} s")
        if pool.recycle >= life:
            wrong.append(f"[pool] recycle is {pool.recycle} s, PgBouncer's server_lifetime {life:g} s")
    if wrong:
        return (
            "wrong",
            "; ".join(wrong),
            "ALTER ROLE app SET statement_timeout = '10s'; [pool] timeout below the request's",
        )
    return (
        "good",
        f"connect {KEEPALIVE['connect_timeout']} s < wait {pool.timeout:g} s; statements end at {statement:g} s",
    )


def pl06(facts: Facts) -> Said:
    """Prepared statements are off where the pooler does not follow them."""
    if facts.bouncer is None:
        return (
            ("unknown", "a pooler answers; its version is not known: --pgbouncer URL")
            if facts.pooled
            else (
                "good",
                "no pooler in between",
            )
        )
    kept = int(facts.bouncer.config.get("max_prepared_statements", "0"))
    shown = ".".join(map(str, facts.bouncer.version))
    if facts.bouncer.version < (1, 21, 0) or not kept:
        says = f"PgBouncer {shown} does not follow prepared statements; dbscale.open() turns them off, others must"
        return "wrong", says, "PgBouncer 1.21 with max_prepared_statements, or prepare_threshold=None in every client"
    return "good", f"PgBouncer {shown} follows {kept} of each connection"


def pl07(_facts: Facts) -> Said:
    """A forked process does not use its parent's connections."""
    return "good", "dbscale's pools start anew in a forked process; other engines need dispose(close=False) there"


def pl08(facts: Facts) -> Said:
    """No connection is kept in a transaction without being used."""
    held = [a for a in facts.activity if a.oldest > facts.fleet.held]
    limit = int(facts.settings.get("idle_in_transaction_session_timeout", "0"))
    if held:
        worst = max(held, key=lambda activity: activity.oldest)
        says = f"{worst.name or worst.user}: idle in transaction for {worst.oldest:.0f} s ({len(held)} in all)"
        return (
            "wrong",
            says,
            "end transactions before waiting for something else; look at who holds it: dbscale pool show",
        )
    if not limit:
        says = "idle_in_transaction_session_timeout is 0: a transaction that is forgotten holds its locks for ever"
        return "wrong", says, "ALTER ROLE app SET idle_in_transaction_session_timeout = '60s'"
    return (
        "good",
        f"none idle in a transaction over {facts.fleet.held:g} s; the server ends them after {limit / 1000:g} s",
    )


def pl09(facts: Facts) -> Said:
    """Threads that hold several connections at once cannot block each other."""
    fleet, each = facts.fleet, facts.pool.size + facts.pool.overflow
    if not fleet.threads:
        return "unknown", "threads and connections a thread holds are not known (--threads, --nested)"
    bound = deadlock_bound(fleet.threads, fleet.nested)
    says = f"{fleet.threads} threads with {fleet.nested} each need {bound}, the pool has {each}"
    return ("wrong", says, "hold one connection at a time, or a larger pool") if each < bound else ("good", says)


def pl10(facts: Facts) -> Said:
    """Connections say whose they are."""
    nameless = sum(activity.total for activity in facts.activity if not activity.name)
    if nameless:
        return "wrong", f"{nameless} connections have no application_name", 'dbscale.open(name="shop-web")'
    return "good", f"all of {sum(a.total for a in facts.activity)} connections have an application_name"


def pl11(facts: Facts) -> Said:
    """Dead connections are noticed where something may cut them."""
    pool = facts.pool
    if pool.pre_ping:
        return "good", f"pre_ping is on; connections are replaced after {pool.recycle} s"
    if facts.pooled or facts.replicas or facts.bouncer is not None:
        says = "pre_ping is off, and a pooler or a failover may cut connections"
        return "wrong", says, "[pool] pre_ping = true (one round trip a checkout)"
    return "good", f"pre_ping is off; nothing stands between, and connections are replaced after {pool.recycle} s"


def pl12(facts: Facts) -> Said:
    """The first callers after a quiet hour do not all wait for new connections."""
    if facts.bouncer is not None:
        least = int(facts.bouncer.config.get("min_pool_size", "0"))
        if least:
            return "good", f"PgBouncer keeps {least} server connections (with a forced user or a client only)"
        return (
            "unknown",
            "PgBouncer's min_pool_size is 0: it begins with none; clients of a running pool keep some open",
        )
    return "good", f"up to {facts.pool.size} connections of a process stay open once they were"


RULES: tuple[Callable[[Facts], Any], ...] = (pl01, pl02, pl03, pl04, pl05, pl06, pl07, pl08, pl09, pl10, pl11, pl12)


# Reading the facts.


def read_server(connection: Any, *, cores: int = 0) -> Server:
    """The budget of the connected server, for the connected role and database."""
    row = connection.execute(
        "SELECT current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int,"
        " coalesce(current_setting('reserved_connections', true), '0')::int,"
        " (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user),"
        " (SELECT datconnlimit FROM pg_database WHERE datname = current_database()),"
        " (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)"
    ).fetchone()
    most, superusers, reserved, role, database, superuser = row
    limits = [limit for limit in (role, database) if limit >= 0 and not superuser]
    return Server(
        max_connections=most,
        superuser_reserved=superusers,
        reserved=reserved,
        limit=min(limits, default=-1),
        cores=cores,
    )


def read_settings(connection: Any) -> dict[str, str]:
    """The time-outs that apply to the connected role, in milliseconds; not our own session's, which has none."""
    found = connection.execute(
        "SELECT name, reset_val FROM pg_settings WHERE name = ANY(%s)",
        (["statement_timeout", "idle_in_transaction_session_timeout", "lock_timeout"],),
    )
    return dict(found.fetchall())


def read_activity(connection: Any) -> tuple[Activity, ...]:
    """Client connections by application_name and role, our own left out."""
    found = connection.execute(
        "SELECT application_name, usename, count(*), count(*) FILTER (WHERE state = 'active'),"
        " count(*) FILTER (WHERE state = 'idle'), count(*) FILTER (WHERE state LIKE 'idle in transaction%'),"
        " coalesce(max(extract(epoch FROM clock_timestamp() - state_change))"
        "  FILTER (WHERE state LIKE 'idle in transaction%'), 0)::float8"
        " FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        " GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"
    ).fetchall()
    return tuple(
        Activity(name=n or "", user=u or "", total=t, active=a, idle=i, in_transaction=x, oldest=o)
        for n, u, t, a, i, x, o in found
    )


def read_bouncer(console: Any, show: Callable[[Any, str], list[dict[str, Any]]], version: Version) -> Bouncer:
    """What the console of a PgBouncer shows."""
    return Bouncer(
        version=version,
        config={str(row["key"]): str(row["value"] or "") for row in show(console, "CONFIG")},
        databases=tuple(show(console, "DATABASES")),
        pools=tuple(show(console, "POOLS")),
    )
