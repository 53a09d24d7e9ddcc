"""What is wrong with a PostgreSQL database, as far as catalog, settings and counters tell: for `dbscale doctor`.

Every check is a finding with its remedy. Nothing is written. Thresholds are constants, and stand in docs/indexes.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dbscale.drivers.postgres import Connection
from dbscale.errors import Finding, Level
from dbscale.indexes import remarks
from dbscale.indexes.facts import Facts, Table

SEQUENCE_SHARE = 0.8
"""A sequence that is used up to this share needs a wider column soon."""
DEAD_ROWS, DEAD_SHARE = 10_000, 0.2
"""A table with more dead rows than both needs VACUUM."""
AGE_SHARE = 0.8
"""Beyond autovacuum_freeze_max_age by this share: autovacuum should have frozen the table by now, and has not."""
IDLE_SECONDS = 600
"""A transaction that has been open and idle so long holds VACUUM and index builds up."""
BUDGET_SHARE = 0.8
"""Of the connections that are not reserved."""
SHOWN = 10
"""How many tables one finding names."""


def check(connection: Connection, facts: Facts, name: str) -> Iterator[Finding]:
    """Everything that is wrong with the database `name`. To be called in a READ ONLY transaction."""
    yield from remarks.findings(facts)
    yield from keys(facts, name)
    yield from sequences(facts, name)
    yield from bloat(facts, name)
    yield from settings(facts, name)
    yield from ages(connection, facts, name)
    yield from connections(connection, facts, name)


def keys(facts: Facts, name: str) -> Iterator[Finding]:
    """Tables without a primary key, and tables whose changes cannot be replicated logically."""
    plain = [table for table in facts.tables if table.kind in ("r", "p") and not table.parent]
    if bare := [table for table in plain if not any(index.primary for index in table.indexes)]:
        says = "no primary key: a row cannot be named, verified by key, or moved to a shard"
        yield _found("table-without-key", name, _names(bare), says, f"ALTER TABLE {bare[0].sql} ADD PRIMARY KEY (…)")
    if mute := [table for table in plain if not _replicates(table)]:
        says = "no replica identity: once it is published, UPDATE and DELETE on it fail"
        try_ = f"add a primary key, or ALTER TABLE {mute[0].sql} REPLICA IDENTITY FULL"
        yield _found("replica-identity", name, _names(mute), says, try_, level="note")


def _replicates(table: Table) -> bool:
    if table.replica_identity == "d":
        return any(index.primary for index in table.indexes)
    if table.replica_identity == "i":
        return any(index.identity for index in table.indexes)
    return table.replica_identity == "f"


def sequences(facts: Facts, name: str) -> Iterator[Finding]:
    """IX116: sequences that come to their end, or to the end of the column that they number."""
    for sequence in facts.sequences:
        share = sequence.last / sequence.limit if sequence.limit else 0.0
        if share >= SEQUENCE_SHARE and not sequence.cycles:
            column = sequence.column or f"{sequence.schema}.{sequence.name}"
            says = f"{share:.0%} of its numbers are given ({sequence.last} of {sequence.limit}); then inserts fail"
            try_ = "ALTER the column and its sequence to bigint (it rewrites the table: plan for it now)"
            yield _found("sequence-full", name, column, says, try_)


def bloat(facts: Facts, name: str) -> Iterator[Finding]:
    """Tables whose dead rows VACUUM has not removed."""
    for table in facts.tables:
        if table.dead > DEAD_ROWS and table.dead > DEAD_SHARE * (table.rows + table.dead):
            share = table.dead / (table.rows + table.dead)
            says = f"{table.dead} rows are dead ({share:.0%}): scans read them, and the space is not used again"
            try_ = f"VACUUM (ANALYZE) {table.sql}; if it stays, look for old transactions and replication slots"
            yield _found("table-bloat", name, table.title, says, try_)


_WRONG: tuple[tuple[str, str, str, Level], ...] = (
    ("fsync", "off", "a crash of the machine loses the database", "behaviour"),
    ("full_page_writes", "off", "a crash of the machine may tear pages", "behaviour"),
    ("autovacuum", "off", "dead rows stay, statistics age, and transaction ids run out", "behaviour"),
    ("track_counts", "off", "autovacuum and the advice on unused indexes know nothing", "behaviour"),
    ("enable_seqscan", "off", "the planner takes indexes where reading the table is quicker", "note"),
    ("enable_indexscan", "off", "the planner does not take indexes", "behaviour"),
)
"""Settings, the value with which data or plans go wrong, how, and how bad that is."""


def settings(facts: Facts, name: str) -> Iterator[Finding]:
    """Settings with which data or plans go wrong, tables without statistics, and indexes that a version spoilt."""
    for setting, value, says, level in _WRONG:
        if facts.settings.get(setting) == value:
            try_ = f"ALTER SYSTEM RESET {setting}; SELECT pg_reload_conf()"
            yield _found("setting", name, f"{setting} = {value}", says, try_, level=level)
    price = facts.settings.get("random_page_cost", "4")
    if float(price) >= 4:
        says = "that is the price of a spinning disk: on SSDs the planner passes indexes over"
        try_ = "ALTER SYSTEM SET random_page_cost = 1.1; SELECT pg_reload_conf()"
        yield _found("setting", name, f"random_page_cost = {price}", says, try_, level="note")
    blind = [t for t in facts.tables if t.kind in ("r", "m") and t.blind]
    if blind:
        says = "the planner has no statistics and guesses"
        yield _found("never-analysed", name, _names(blind), says, f"ANALYZE {blind[0].sql}")
    if 140_000 <= facts.version < 140_004:
        says = "PostgreSQL 14.0 to 14.3 can corrupt indexes that are built concurrently"
        try_ = "update to 14.4 or later, then REINDEX what was built concurrently"
        yield _found("index-corruption", name, f"version {facts.version}", says, try_)
    if facts.collations:
        says = "the library that sorts text has changed since it was built: lookups may miss rows"
        try_ = "REINDEX INDEX CONCURRENTLY each; then ALTER DATABASE … REFRESH COLLATION VERSION"
        yield _found("index-collation", name, ", ".join(facts.collations[:SHOWN]), says, try_, level="data")


def ages(connection: Connection, facts: Facts, name: str) -> Iterator[Finding]:
    """Transaction ids that run out, and transactions left open."""
    most = int(facts.settings.get("autovacuum_freeze_max_age", 200_000_000))
    rows: Any = connection.execute(
        "SELECT c.oid::regclass::text, age(c.relfrozenxid) FROM pg_class c WHERE c.relkind IN ('r', 'm', 't')"
        " AND age(c.relfrozenxid) > %s ORDER BY 2 DESC LIMIT 3",
        [int(most * (1 + AGE_SHARE))],
    ).fetchall()
    for relation, age in rows:
        says = f"{age} transactions old, {age / 2_147_483_648:.0%} of what there are; at the end writes stop"
        try_ = f"VACUUM (FREEZE) {relation}; look for old transactions, prepared ones, and replication slots"
        yield _found("vacuum-age", name, relation, says, try_)
    count, longest = _row(
        connection,
        "SELECT count(*), coalesce(max(extract(epoch FROM now() - state_change)), 0)::int8 FROM pg_stat_activity"
        " WHERE state LIKE 'idle in transaction%%' AND now() - state_change > %s * interval '1 second'",
        IDLE_SECONDS,
    )
    if count:
        says = f"open and idle for up to {longest // 60} minutes: VACUUM and concurrent index builds wait for them"
        try_ = "end them; set idle_in_transaction_session_timeout = '5min'"
        yield _found("idle-transaction", name, f"{count} sessions", says, try_)


def connections(connection: Connection, facts: Facts, name: str) -> Iterator[Finding]:
    """How much of the server's connections is taken."""
    asked = facts.settings
    most = int(asked.get("max_connections", 100)) - int(asked.get("superuser_reserved_connections", 3))
    (taken,) = _row(connection, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
    if taken >= BUDGET_SHARE * most:
        says = f"{taken} of {most} connections are taken"
        try_ = "dbscale pool size; a pooler in front: dbscale pool pgbouncer"
        yield _found("connection-budget", name, "connections", says, try_)


def _found(code: str, name: str, what: str, says: str, try_: str, *, level: Level = "behaviour") -> Finding:
    """A finding about something in the database `name`."""
    return Finding(code=code, where=f"{name}: {what}", says=says, try_=try_, level=level)


def _row(connection: Connection, sql: str, *values: object) -> Any:
    return connection.execute(sql, values or None).fetchone()


def _names(tables: list[Table]) -> str:
    more = f" and {len(tables) - SHOWN} more" if len(tables) > SHOWN else ""
    return ", ".join(table.title for table in tables[:SHOWN]) + more


__all__ = ["bloat", "check", "connections", "keys", "sequences", "settings"]
