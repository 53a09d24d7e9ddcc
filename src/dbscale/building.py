"""Carrying out a step that leaves remains when it fails: an index built concurrently.

    wait for the replicas ── what a failed attempt left is removed ── the statement ── is it in effect? ── else again

A concurrent build waits for every older transaction of the database, and fails with a lock time-out, a deadlock or a
unique violation; what it leaves is an INVALID index of the wanted name, which `IF NOT EXISTS` would take for done.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import psycopg

from dbscale.drivers.postgres import Connection
from dbscale.errors import Unfinished
from dbscale.plan import Sql

LOCK_SECONDS = 600
"""The time-out of a build's own locks. Its waiting holds nobody up, so it may be long."""
TRIES = 3
PAUSE_SECONDS = 2.0
LAG_BYTES = 256 * 1024 * 1024
"""A replica that has more than this still to replay is waited for before the next build."""
LAG_SECONDS = 600
AGAIN = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """How far a build has come, from pg_stat_progress_create_index."""

    phase: str
    done: int
    total: int
    """Of blocks or rows, as the phase has them; 0: the phase does not count."""
    waits_for: int
    """The process id of the session that holds it up; 0: none."""


def carry_out(
    connection: Connection, step: Sql, *, lock_seconds: float = LOCK_SECONDS, tries: int = TRIES,
    pause: float = PAUSE_SECONDS, lag_bytes: int = LAG_BYTES,
) -> None:  # fmt: skip
    """Bring `step` into effect, or leave nothing of it. Raises what the last attempt met, or Unfinished."""
    connection.execute(f"SET lock_timeout = {int(lock_seconds * 1000)}".encode())
    try:
        for attempt in range(1, tries + 1):
            if holds(connection, step.holds):
                return
            clear(connection, step)
            wait_for_replicas(connection, lag_bytes)
            try:
                connection.execute(step.sql.encode())
            except psycopg.Error as error:
                if not connection.closed:
                    clear(connection, step)
                if attempt == tries or not isinstance(error, AGAIN):
                    raise
                time.sleep(pause * attempt)
                continue
            if step.holds and not holds(connection, step.holds):
                raise Unfinished(
                    "the statement succeeded, and yet it is not in effect",
                    where=step.does,
                    try_="look for something else of that name; then run the same command again",
                )
            return
    finally:
        if not connection.closed:
            connection.execute("RESET lock_timeout")


def clear(connection: Connection, step: Sql) -> None:
    """Remove what a failed attempt left."""
    if holds(connection, step.leftover):
        connection.execute(step.clear.encode())


def wait_for_replicas(connection: Connection, lag_bytes: int, seconds: float = LAG_SECONDS) -> None:
    """Wait until no replica has more than `lag_bytes` to replay; Unfinished where that takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        row: Any = connection.execute(
            "SELECT coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)), 0)::int8 FROM pg_stat_replication"
            " WHERE state = 'streaming'"
        ).fetchone()
        if row[0] <= lag_bytes:
            return
        if time.monotonic() >= deadline:
            raise Unfinished(
                f"a replica has {row[0] / 1e6:.0f} MB still to replay",
                where="pg_stat_replication",
                try_="dbscale replicas show; run the same command again when it has caught up",
            )
        time.sleep(0.5)


def progress(connection: Connection, name: str) -> Seen | None:
    """How far the build of this database's sessions called `name` has come; None where none is building."""
    row: Any = connection.execute(
        "SELECT p.phase, CASE WHEN p.blocks_total > 0 THEN p.blocks_done ELSE p.tuples_done END,"
        " CASE WHEN p.blocks_total > 0 THEN p.blocks_total ELSE p.tuples_total END, p.current_locker_pid"
        " FROM pg_stat_progress_create_index p JOIN pg_stat_activity a USING (pid)"
        " WHERE a.application_name = %s AND a.datname = current_database()",
        [name],
    ).fetchone()
    return Seen(phase=row[0], done=row[1], total=row[2], waits_for=row[3] or 0) if row else None


def cancel(connection: Connection, name: str) -> None:
    """Ask this database's other sessions called `name` to give up what they do: another's run may have the number."""
    connection.execute(
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = %s AND datname = current_database() AND state = 'active'"
        " AND pid <> pg_backend_pid()",
        [name],
    )


def holds(connection: Connection, query: str) -> bool:
    """Whether the one value of a query is true; False for no query."""
    row = connection.execute(query.encode()).fetchone() if query else None
    return bool(row and row[0])


__all__ = ["Seen", "cancel", "carry_out", "clear", "holds", "progress", "wait_for_replicas"]
