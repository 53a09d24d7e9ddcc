"""What is wrong with a PostgreSQL database, as far as catalog, settings and counters tell: for `dbscale doctor`.

Every check is a finding with its remedy. Nothing is written. Thresholds are constants, and stand in docs/indexes.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dbscale.drivers.postgres import Connection
from dbscale.errors import Finding
from dbscale.indexes import remarks
from dbscale.indexes.facts import Facts, Table

SEQUENCE_SHARE = 0.8
"""A sequence that is used up to this share needs a wider column soon."""
DEAD_ROWS, DEAD_SHARE = 10_000, 0.2
"""A table with more dead rows than both needs VACUUM."""
AGE_SHARE = 0.8
"""Of autovacuum_freeze_max_age: above it, a database or table should have been frozen by now."""
IDLE_SECONDS = 600
"""A transaction that has been open and idle so long holds VACUUM and index builds up."""
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
    bare = [table for table in plain if not any(index.primary for index in table.indexes)]
    if bare:
        yield Finding(
            code="table-without-key",
            where=f"{name}: {_names(bare)}",
            says="no primary key: a row cannot be named, verified by key, or moved to a shard",
            try_=f"ALTER TABLE {bare[0].sql} ADD PRIMARY KEY (…)",
            level="behaviour",
        )
    mute = [table for table in plain if not _replicates(table)]
    if mute:
        yield Finding(
            code="replica-identity",
            where=f"{name}: {_names(mute)}",
            says="no replica identity: once it is published, UPDATE and DELETE on it fail",
            try_=f"add a primary key, or ALTER TABLE {mute[0].sql} REPLICA IDENTITY FULL",
        )


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
            yield Finding(
                code="sequence-full",
                where=f"{name}: {column}",
                says=f"{share:.0%} of its numbers are given ({sequence.last} of {sequence.limit}); then inserts fail",
                try_="ALTER the column and its sequence to bigint (it rewrites the table: plan for it now)",
                level="behaviour",
            )


def bloat(facts: Facts, name: str) -> Iterator[Finding]:
    """Tables whose dead rows VACUUM has not removed."""
    for table in facts.tables:
        if table.dead > DEAD_ROWS and table.dead > DEAD_SHARE * (table.rows + table.dead):
            share = table.dead / (table.rows + table.dead)
            yield Finding(
                code="table-bloat",
                where=f"{name}: {table.title}",
                says=f"{table.dead} rows are dead ({share:.0%}): scans read them, and the space is not used again",
                try_=f"VACUUM (ANALYZE) {table.sql}; if it stays, look for old transactions and replication slots",
                level="behaviour",
            )


def settings(facts: Facts, name: str) -> Iterator[Finding]:
    """Settings with which data or plans go wrong, and tables without statistics."""
    wrong = (
        ("fsync", "off", "a crash of the machine loses the database", "behaviour"),
        ("full_page_writes", "off", "a crash of the machine may tear pages", "behaviour"),
        ("autovacuum", "off", "dead rows stay, statistics age, and transaction ids run out", "behaviour"),
        ("track_counts", "off", "autovacuum and the advice on unused indexes know nothing", "behaviour"),
        ("enable_seqscan", "off", "the planner takes indexes where reading the table is quicker", "note"),
        ("enable_indexscan", "off", "the planner does not take indexes", "behaviour"),
    )
    for setting, value, says, level in wrong:
        if facts.settings.get(setting) == value:
            yield Finding(code="setting", where=f"{name}: {setting} = {value}", says=says,
                          try_=f"ALTER SYSTEM RESET {setting}; SELECT pg_reload_conf()", level=level)  # type: ignore[arg-type]  # fmt: skip
    if float(facts.settings.get("random_page_cost", 4)) >= 4:
        yield Finding(
            code="setting",
            where=f"{name}: random_page_cost = {facts.settings.get('random_page_cost')}",
            says="that is the price of a spinning disk: on SSDs the planner passes indexes over",
            try_="ALTER SYSTEM SET random_page_cost = 1.1; SELECT pg_reload_conf()",
        )
    blind = [t for t in facts.tables if t.kind in ("r", "m") and t.pages >= 50 and t.analysed is None and not t.rows]
    if blind:
        yield Finding(code="never-analysed", where=f"{name}: {_names(blind)}", level="behaviour",
                      says="the planner has no statistics and guesses", try_=f"ANALYZE {blind[0].sql}")  # fmt: skip
    if 140_000 <= facts.version < 140_004:
        yield Finding(code="index-corruption", where=name, level="behaviour",
                      says="PostgreSQL 14.0 to 14.3 can corrupt indexes that are built concurrently",
                      try_="update to 14.4 or later, then REINDEX what was built concurrently")  # fmt: skip
    if facts.collations:
        yield Finding(
            code="index-collation",
            where=f"{name}: {', '.join(facts.collations[:SHOWN])}",
            says="the library that sorts text has changed since it was built: lookups may miss rows",
            try_="REINDEX INDEX CONCURRENTLY each; then ALTER DATABASE … REFRESH COLLATION VERSION",
            level="data",
        )


def ages(connection: Connection, facts: Facts, name: str) -> Iterator[Finding]:
    """Transaction ids that run out, and transactions left open."""
    most = int(facts.settings.get("autovacuum_freeze_max_age", 200_000_000))
    rows: Any = connection.execute(
        "SELECT c.oid::regclass::text, age(c.relfrozenxid) FROM pg_class c WHERE c.relkind IN ('r', 'm', 't')"
        " AND age(c.relfrozenxid) > %s ORDER BY 2 DESC LIMIT 3",
        [int(most * (1 + AGE_SHARE))],
    ).fetchall()
    for relation, age in rows:
        yield Finding(
            code="vacuum-age",
            where=f"{name}: {relation}",
            says=f"{age} transactions old, {age / 2_147_483_648:.0%} of what there are; at the end writes stop",
            try_=f"VACUUM (FREEZE) {relation}; look for old transactions, prepared ones, and replication slots",
            level="behaviour",
        )
    row: Any = connection.execute(
        "SELECT count(*), coalesce(max(extract(epoch FROM now() - state_change)), 0)::int8 FROM pg_stat_activity"
        " WHERE state LIKE 'idle in transaction%%' AND now() - state_change > %s * interval '1 second'",
        [IDLE_SECONDS],
    ).fetchone()
    if row[0]:
        yield Finding(
            code="idle-transaction",
            where=f"{name}: {row[0]} sessions",
            says=f"open and idle for up to {row[1] // 60} minutes: VACUUM and concurrent index builds wait for them",
            try_="end them; set idle_in_transaction_session_timeout = '5min'",
            level="behaviour",
        )


def connections(connection: Connection, facts: Facts, name: str) -> Iterator[Finding]:
    """How much of the server's connections is taken."""
    most = int(facts.settings.get("max_connections", 100)) - int(
        facts.settings.get("superuser_reserved_connections", 3)
    )
    row: Any = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    ).fetchone()
    if row[0] >= 0.8 * most:
        yield Finding(
            code="connection-budget",
            where=name,
            says=f"{row[0]} of {most} connections are taken",
            try_="dbscale pool size; a pooler in front: dbscale pool pgbouncer",
            level="behaviour",
        )


def _names(tables: list[Table]) -> str:
    more = f" and {len(tables) - SHOWN} more" if len(tables) > SHOWN else ""
    return ", ".join(table.title for table in tables[:SHOWN]) + more


__all__ = ["bloat", "check", "connections", "keys", "sequences", "settings"]
