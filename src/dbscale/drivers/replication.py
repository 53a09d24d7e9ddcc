"""Where a PostgreSQL server is in its write-ahead log: role, timeline, position, and the standbys it feeds.

Positions are integers (bytes since the log began), normalised so that a standby which has replayed everything
reports the primary's number.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WAL_BLOCK = 8192
WAL_SEGMENT = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What one look at a server showed."""

    system: str
    """The cluster's system identifier: a primary and its standbys share it. Empty: the server does not tell."""
    timeline: int
    """Grows with every promotion. On a standby, the highest one it is known to follow."""
    recovery: bool
    """True for a standby."""
    lsn: int
    """A primary's insert position (normalised), a standby's replay position."""
    receiving: bool | None
    """On a standby: a WAL receiver is at work. None: a primary, or the role may not see it."""
    segment: int = WAL_SEGMENT
    block: int = WAL_BLOCK
    flushed: int = 0
    """A primary's flushed position. On an idle primary a record that is no commit may stay unflushed for 15 seconds,
    and no standby can get it before; commits are flushed within `flush_seconds`, also with synchronous_commit off."""
    flush_seconds: float = 0.6
    """Three times wal_writer_delay."""


# pg_walfile_name() begins with the timeline. On a standby the control file knows the timeline late (at the next
# restart point), the WAL receiver at once, where the role may see it (pg_monitor).
LOOK = """
SELECT s.system_identifier::text,
       CASE WHEN pg_is_in_recovery()
            THEN greatest(c.timeline_id, r.min_recovery_end_timeline, w.received_tli)
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int END,
       pg_is_in_recovery(),
       (CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_replay_lsn(), '0/0')
             ELSE pg_current_wal_insert_lsn() END - '0/0'::pg_lsn)::bigint,
       CASE WHEN pg_is_in_recovery() THEN w.pid IS NOT NULL AND coalesce(w.status, 'streaming') = 'streaming' END,
       pg_size_bytes(current_setting('wal_segment_size')),
       current_setting('wal_block_size')::int,
       CASE WHEN pg_is_in_recovery() THEN 0 ELSE (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint END,
       3 * extract(epoch FROM current_setting('wal_writer_delay')::interval)::float8
  FROM pg_control_system() s, pg_control_checkpoint() c, pg_control_recovery() r
       LEFT JOIN pg_stat_wal_receiver w ON true
"""


def look(connection: Any) -> Place:
    """The server's place, by one statement on a psycopg connection (or a cursor) outside a transaction."""
    row = connection.execute(LOOK).fetchone()
    system, timeline, recovery, lsn, receiving, segment, block, flushed, flush_seconds = row
    return Place(
        system=system,
        timeline=timeline,
        recovery=recovery,
        lsn=lsn if recovery else normalised(lsn, segment, block),
        receiving=receiving,
        segment=segment,
        block=block,
        flushed=normalised(flushed, segment, block),
        flush_seconds=flush_seconds,
    )


def normalised(lsn: int, segment: int = WAL_SEGMENT, block: int = WAL_BLOCK) -> int:
    """An insert position without the header of a page that holds no record yet.

    Where the last record ended exactly on a page boundary, the insert position stands behind the next page's header
    (24 bytes; 40 at the start of a segment), while a standby that has replayed that record reports the boundary.
    Compared as they are, the standby would look behind until the next record is written.
    """
    if lsn % segment == 40:
        return lsn - 40
    if lsn % block == 24:
        return lsn - 24
    return lsn


def as_text(lsn: int) -> str:
    """A position as PostgreSQL writes it: `0/16B3748`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def as_number(text: str) -> int:
    """The position in `0/16B3748`; ValueError where it is none."""
    high, slash, low = text.partition("/")
    if not slash:
        raise ValueError(f"not a WAL position: {text!r}")
    return (int(high, 16) << 32) + int(low, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """A standby as its primary sees it (pg_stat_replication)."""

    name: str
    state: str
    replayed: int
    sync: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A replication slot."""

    name: str
    active: bool
    retained: int
    """Bytes of WAL kept for it."""
    status: str
    """reserved, extended, unreserved or lost (from version 13)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """What a primary does for its standbys."""

    senders: tuple[Sender, ...]
    slots: tuple[Slot, ...]
    settings: dict[str, str]
    version: int
    free_senders: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standby:
    """What a standby tells of itself."""

    paused: bool
    delay_ms: int
    slot: str
    since_commit: float | None
    """Seconds since the last replayed commit was made, by this server's clock: an upper bound of its lag."""
    settings: dict[str, str]
    version: int


MUST_MATCH = (
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
)
"""A standby does not start where one of these is lower than its primary's."""
_SETTINGS = (
    *MUST_MATCH,
    "wal_level",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "hot_standby",
    "hot_standby_feedback",
    "max_standby_streaming_delay",
    "wal_log_hints",
    "data_checksums",
    "synchronous_standby_names",
    "port",
    "config_file",
)


def sending(connection: Any) -> Sending:
    """A primary's standbys and slots. Columns that the role may not see come out empty (grant pg_monitor)."""
    senders = connection.execute(
        "SELECT coalesce(application_name, ''), coalesce(state, ''),"
        " coalesce((replay_lsn - '0/0'::pg_lsn)::bigint, 0), coalesce(sync_state, '') FROM pg_stat_replication"
        " WHERE coalesce(state, '') <> 'backup' ORDER BY 1"
    ).fetchall()
    slots = connection.execute(
        "SELECT slot_name, active, coalesce((pg_current_wal_lsn() - restart_lsn)::bigint, 0),"
        " coalesce(wal_status, '') FROM pg_replication_slots WHERE slot_type = 'physical' ORDER BY 1"
    ).fetchall()
    known = settings(connection)
    return Sending(
        senders=tuple(Sender(name=n, state=s, replayed=r, sync=y) for n, s, r, y in senders),
        slots=tuple(Slot(name=n, active=a, retained=r, status=s) for n, a, r, s in slots),
        settings=known,
        version=connection.info.server_version,
        free_senders=int(known.get("max_wal_senders", "0")) - len(senders),
    )


def standby(connection: Any) -> Standby:
    """What a standby tells of itself."""
    paused, since, slot = connection.execute(
        "SELECT pg_is_wal_replay_paused(),"
        " extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8,"
        " coalesce(current_setting('primary_slot_name', true), '')"
    ).fetchone()
    delay = connection.execute(
        "SELECT setting::bigint FROM pg_settings WHERE name = 'recovery_min_apply_delay'"
    ).fetchone()
    return Standby(
        paused=paused,
        delay_ms=delay[0] if delay else 0,
        slot=slot,
        since_commit=since,
        settings=settings(connection),
        version=connection.info.server_version,
    )


def settings(connection: Any) -> dict[str, str]:
    """The settings that matter for replication."""
    found = connection.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", (list(_SETTINGS),))
    return dict(found.fetchall())


def stopped_at(data: Path) -> int:
    """Where a stopped primary's log ends: the position of its shutdown's checkpoint; 0 where it was not shut down.

    By the beginning of ControlFileData in PostgreSQL's catalog/pg_control.h, the same in all versions.
    """
    head = struct.Struct("=QIIi4xqQ")
    *_, state, _, checkpoint = head.unpack((data / "global" / "pg_control").read_bytes()[: head.size])
    return int(checkpoint) if state == _SHUT_DOWN else 0


_SHUT_DOWN = 1  # DB_SHUTDOWNED


def lacking(connection: Any, end: int, quiet: float = 2.0) -> int:
    """Bytes of the log before and with the record at `end` that a standby has not; 0: it has all.

    What it has received already it may have yet to read again: it is waited for while it gets on, and `quiet` seconds.
    """
    last, since = -1, time.monotonic()
    while True:
        (got,) = connection.execute(
            "SELECT (greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(), '0/0') - '0/0')::bigint"
        ).fetchone()
        if got > end:
            return 0
        if got > last:
            last, since = got, time.monotonic()
        elif time.monotonic() - since > quiet:
            return max(1, end - int(got))
        time.sleep(0.05)


def promote(connection: Any, seconds: int = 60) -> bool:
    """Make a standby a primary; True when it has become one within `seconds`."""
    row = connection.execute("SELECT pg_promote(true, %s)", (seconds,)).fetchone()
    return bool(row and row[0])
