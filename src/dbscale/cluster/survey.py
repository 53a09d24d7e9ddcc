"""Asking a primary and its replicas how they are: for `replicas show`, `wait` and `promote`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from dbscale.cluster.choose import NEVER, Samples
from dbscale.cluster.replicas import Status, assess
from dbscale.drivers import postgres, replication
from dbscale.drivers.postgres import Connection
from dbscale.drivers.replication import Place, Sending, Standby
from dbscale.errors import DbscaleError, Unreachable

CONNECT_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A replica, as configured."""

    name: str
    url: str = field(repr=False)
    role: str = "replica"
    region: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What the servers of one database answered."""

    primary: Place | None
    error: str
    """Why the primary did not answer; empty where it did."""
    sending: Sending | None
    statuses: tuple[Status, ...]
    places: dict[str, Place]
    standbys: dict[str, Standby]


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """A connection for looking; the driver's errors become Unreachable and Missing."""
    connection = postgres.connect(url, name="dbscale replicas", connect_timeout=CONNECT_SECONDS)
    try:
        yield connection
    except psycopg.Error as error:
        raise postgres.translated(error, url) from error
    finally:
        connection.close()


def survey(primary_url: str, members: tuple[Member, ...]) -> Survey:
    """Ask the primary, then every replica. What does not answer is told, not raised."""
    primary, sending, error, sampled = None, None, "", time.monotonic()
    try:
        with connected(primary_url) as connection:
            sampled = time.monotonic()
            primary = replication.look(connection)
            sending = None if primary.recovery else replication.sending(connection)
    except DbscaleError as failure:
        error = failure.says
    statuses, places, standbys = [], {}, {}
    for member in members:
        try:
            with connected(member.url) as connection:
                place = places[member.name] = replication.look(connection)
                now = time.monotonic()
                standby = replication.standby(connection) if place.recovery else None
        except DbscaleError as failure:
            statuses.append(Status(name=member.name, role=member.role, region=member.region, says=failure.says))
            continue
        if standby is not None:
            standbys[member.name] = standby
        if primary is None or sending is None:
            state = "disconnected" if place.receiving is False else "no primary"
            shown = replication.as_text(place.lsn)
            bound = standby.since_commit if standby else None
            status = Status(
                name=member.name,
                role=member.role,
                region=member.region,
                state=state if place.recovery else "promoted",
                timeline=place.timeline,
                lsn=shown,
                lag_bound=bound,
                slot=standby.slot if standby else "",
            )
        else:
            status = assess(
                member.name,
                member.role,
                member.region,
                primary=primary,
                sampled=sampled,
                place=place,
                standby=standby,
                sending=sending,
                now=now,
            )
        statuses.append(status)
    return Survey(
        primary=primary, error=error, sending=sending, statuses=tuple(statuses), places=places, standbys=standbys
    )


def wait(
    primary_url: str, members: tuple[Member, ...], *, max_lag: float, timeout: float, interval: float = 0.2
) -> dict[str, float]:
    """Wait until every replica is proven to be at most `max_lag` seconds behind; each one's lag as it then is.

    Returns what is known when `timeout` seconds are over too: `inf` for one that nothing is proven of. Unreachable
    where the primary does not answer.
    """
    deadline = time.monotonic() + timeout
    samples = Samples()
    open_: dict[str, Connection] = {}
    lags = dict.fromkeys((member.name for member in members), float("inf"))
    with connected(primary_url) as primary:
        try:
            while True:
                at = time.monotonic()
                place = replication.look(primary)
                if place.recovery:
                    raise Unreachable("this server is a standby, not the primary", where=postgres.display(primary_url))
                samples.add(at, place.lsn, place.flushed, place.flush_seconds)
                for member in members:
                    lags[member.name] = _lag(member, open_, samples, place)
                if all(lag <= max_lag for lag in lags.values()) or time.monotonic() >= deadline:
                    return lags
                time.sleep(min(interval, max_lag / 2 or interval))
        finally:
            for connection in open_.values():
                connection.close()


def _lag(member: Member, open_: dict[str, Connection], samples: Samples, primary: Place) -> float:
    """The proven lag of one replica in seconds; inf where it does not answer or belongs to another timeline."""
    try:
        if member.name not in open_:
            open_[member.name] = postgres.connect(member.url, name="dbscale replicas", connect_timeout=CONNECT_SECONDS)
        place = replication.look(open_[member.name])
    except (DbscaleError, psycopg.Error):
        if broken := open_.pop(member.name, None):
            broken.close()
        return float("inf")
    if (place.system, place.timeline, place.recovery) != (primary.system, primary.timeline, True):
        return float("inf")
    as_of = samples.as_of(place.lsn)
    return float("inf") if as_of == NEVER else time.monotonic() - as_of


def promote(url: str, *, seconds: int = 60) -> Place:
    """Make the standby at `url` a primary; its new place. Unreachable where it has not become one in time."""
    with connected(url) as connection:
        done = replication.promote(connection, seconds)
        place = replication.look(connection)
    if not done or place.recovery:
        raise Unreachable(
            f"it is still a standby after {seconds} s",
            where=postgres.display(url),
            try_="read its log; a promotion goes on by itself once it was asked for",
        )
    return place
