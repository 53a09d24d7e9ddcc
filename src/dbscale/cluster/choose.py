"""Which node a read goes to: pure, from what was last seen of each and what the reader asks for.

A replica's lag is proven, not estimated: the primary's position is sampled with the time just before it was asked
for; a replica that has replayed a sample's position holds everything committed up to the sample's time. This is
right on an idle primary and for a disconnected replica, where the usual formulas over `pg_last_xact_replay_timestamp`
or received-against-replayed are not, and it needs no common clock.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dbscale.cluster.token import Position

NEVER = float("-inf")
OTHER_TIMELINE_SECONDS = 60
"""How long a token of another timeline sends its reader to the primary: positions of two timelines do not compare."""
LATE_SECONDS = 0.1
"""How long a replica that did not catch up within a reader's wait is not waited for."""

State = Literal["online", "lagging", "probation", "offline"]
Reason = Literal["replica", "caught-up", "no-replica", "behind", "timeline", "recent-write", "failed", "analytics"]


@dataclass(frozen=True, slots=True)
class View:
    """What is known of a replica; times are of a monotonic clock."""

    name: str
    region: str = ""
    weight: int = 1
    state: State = "offline"
    timeline: int = 0
    lsn: int = 0
    """Replayed up to here at `at`."""
    at: float = NEVER
    as_of: float = NEVER
    """It holds everything committed up to then."""
    failures: int = 0
    """In a row."""
    retry_at: float = NEVER
    late_at: float = NEVER
    """When a reader last waited for it in vain."""


@dataclass(frozen=True, slots=True)
class Want:
    """What a reader asks for."""

    max_lag: float | None = None
    """Seconds; None: the cluster's own limit, which gives way when the primary is gone too."""
    position: Position | None = None
    region: str = ""
    prefer: str = ""
    """The replica this session read from before: it stays there while it can, so that time never runs backwards."""
    analytics: bool = False
    """A replica of the role `analytics`, however far behind, and no other node."""


@dataclass(frozen=True, slots=True)
class Limits:
    lag: float = 10.0
    """Seconds up to which a replica is believed by default."""
    stale: float = 3.0
    """Seconds without a look at a replica after which it counts as offline."""
    sticky: float = 5.0
    """Seconds for which a writer reads from the primary where positions cannot be had."""
    wait: float = 0.05
    """Seconds a reader waits for a replica to catch up."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One node to try. An empty name is the primary."""

    name: str
    reason: Reason
    proof: Literal["seen", "ask", "position", "none"] = "none"
    """What a replica must show first: what was last seen of it is enough; it is asked on the connection itself;
    it is asked for its position alone, however far behind it may be; or nothing (better an older answer than none)."""


def satisfies(view: View, want: Want, timeline: int, limits: Limits, now: float) -> bool:
    """True where what is known of a replica proves that it holds what is wanted."""
    limit = limits.lag if want.max_lag is None else want.max_lag
    if now - view.as_of > limit or (timeline and view.timeline != timeline):
        return False
    return want.position is None or view.lsn >= want.position.lsn


def primary_only(want: Want, timeline: int, limits: Limits, clock: float) -> Reason | None:
    """Why this reader must go to the primary, if it must. `clock` is in seconds since 1970."""
    position = want.position
    if position is None:
        return None
    if position.lsn == 0:
        return "recent-write" if clock - position.at < limits.sticky else None
    if position.timeline != timeline and clock - position.at < OTHER_TIMELINE_SECONDS:
        return "timeline"
    return None


def attempts(
    views: Sequence[View],
    want: Want,
    timeline: int,
    limits: Limits,
    *,
    now: float,
    clock: float,
    random: Callable[[], float],
) -> Iterator[Attempt]:
    """The nodes to try, the best first, the primary before those that are only better than nothing.

    Order: replicas proven to hold what is wanted (the session's own, then of the reader's region, by weight), the
    one nearest to it, which may be there by now; the primary. Where the primary fails and the reader set no bound
    of its own, any replica that answers.
    """
    position = want.position
    if must := primary_only(want, timeline, limits, clock):
        yield Attempt("", must)
        return
    if position is not None and (position.lsn == 0 or position.timeline != timeline):
        want = replace(want, position=None)  # its time is over
    position = want.position
    usable = [v for v in views if v.weight and v.state in ("online", "lagging") and now - v.at <= limits.stale]
    proven = [v for v in usable if satisfies(v, want, timeline, limits, now)]
    reason: Reason = "replica" if position is None else "caught-up"
    for view in _ordered(proven, want, random):
        yield Attempt(view.name, reason, "seen")
    if len(proven) < len(usable):
        near = [v for v in usable if v not in proven and _near(v, want, timeline, limits, now)]
        if near:
            yield Attempt(max(near, key=lambda v: v.lsn).name, "caught-up", "ask")
    yield Attempt("", "behind" if usable and not proven else "failed" if proven else "no-replica")
    if want.max_lag is None and position is None:
        rest = [v for v in views if v not in proven and v.state != "offline"]
        for view in sorted(rest, key=lambda v: -v.as_of):
            yield Attempt(view.name, "failed")
        for view in views:
            if view.state == "offline":
                yield Attempt(view.name, "failed")
    elif position is not None:
        for view in views:
            if view not in proven:
                yield Attempt(view.name, "caught-up", "position" if want.max_lag is None else "ask")


def _near(view: View, want: Want, timeline: int, limits: Limits, now: float) -> bool:
    """True where a replica may be there within the wait: no reader has just waited for it in vain."""
    if (timeline and view.timeline != timeline) or now - view.late_at < LATE_SECONDS:
        return False
    limit = limits.lag if want.max_lag is None else want.max_lag
    return view.at - view.as_of <= max(limits.wait, 1.0) and (want.position is not None or now - view.as_of > limit)


def _ordered(views: Sequence[View], want: Want, random: Callable[[], float]) -> Iterator[View]:
    """`views` without repetition: the preferred, then those of the region, each drawn by its weight."""
    if len(views) == 1:
        yield views[0]
        return
    left = list(views)
    for view in left:
        if want.prefer and view.name == want.prefer:
            yield view
            left.remove(view)
            break
    while left:
        near = [v for v in left if v.region == want.region] if want.region else left
        drawn = _drawn(near or left, random)
        yield drawn
        left.remove(drawn)


def _drawn(views: Sequence[View], random: Callable[[], float]) -> View:
    point = random() * sum(view.weight for view in views)
    for view in views:
        point -= view.weight
        if point < 0:
            return view
    return views[-1]


class Samples:
    """The primary's positions over time, for telling as of when a replica is complete.

    Written by one thread, read by many without a lock.
    """

    def __init__(self) -> None:
        self._inserted, self._flushed = _Line(), _Line()

    def add(self, at: float, lsn: int, flushed: int = 0, flush_seconds: float = 0.0) -> None:
        """The primary was at `lsn` when asked at `at` (taken before asking), and had flushed up to `flushed`.

        What is flushed holds every commit older than `flush_seconds`.
        """
        self._inserted.add(at, lsn)
        if flushed:
            self._flushed.add(at - flush_seconds, flushed)

    def clear(self) -> None:
        """Forget them: after a promotion positions do not compare."""
        self._inserted, self._flushed = _Line(), _Line()

    def as_of(self, lsn: int) -> float:
        """A node that has replayed `lsn` holds everything committed up to this time; NEVER where nothing proves it."""
        return max(self._inserted.as_of(lsn), self._flushed.as_of(lsn))


class _Line:
    """Positions and times, both rising."""

    KEEP = 7200

    def __init__(self) -> None:
        self._kept: tuple[list[int], list[float]] = ([], [])

    def add(self, at: float, lsn: int) -> None:
        lsns, times = self._kept
        if lsns and lsn < lsns[-1]:
            return  # an answer overtaken by a later one
        if lsns and lsn == lsns[-1]:
            times[-1] = max(times[-1], at)
            return
        if len(lsns) >= self.KEEP:
            lsns, times = lsns[self.KEEP // 2 :], times[self.KEEP // 2 :]
            self._kept = lsns, times
        times.append(at)  # before its position: a reader that finds the position must find its time
        lsns.append(lsn)

    def as_of(self, lsn: int) -> float:
        lsns, times = self._kept
        place = bisect_right(lsns, lsn)
        return times[place - 1] if place else NEVER


def after_look(view: View, *, timeline: int, lsn: int, at: float, as_of: float, limits: Limits) -> View:
    """The view after a look that succeeded: back from offline by way of probation, lagging with hysteresis."""
    lag = at - as_of
    state: State
    if view.state == "offline":
        state = "probation"
    elif view.state == "lagging":
        state = "online" if lag <= limits.lag / 2 else "lagging"
    else:
        state = "online" if lag <= limits.lag else "lagging"
    return replace(view, state=state, timeline=timeline, lsn=lsn, at=at, as_of=as_of, failures=0)


def after_failure(view: View, now: float, jitter: float) -> View:
    """The view after a failed look or a failed use: offline, the next look after 0.25, 0.5, 1, 2 s, spread by `jitter`.

    `jitter` is between 0 and 1. Callers that fail together count once.
    """
    if view.state == "offline" and now < view.retry_at:
        return view
    pause = min(2.0, 0.25 * 2.0 ** min(view.failures, 10)) * (0.75 + jitter / 2)
    return replace(view, state="offline", failures=view.failures + 1, retry_at=now + pause)
