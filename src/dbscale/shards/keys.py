"""The values of a shard key, and sets of them as sorted half-open intervals.

A key is an int, a `uuid.UUID`, a str (ordered as by COLLATE "C": Python compares code points, which is the order of
UTF-8's bytes), a `date` or a `datetime` in UTC. A cut is a place between two keys: `(0, key, 0)` just before the key,
`(0, key, 1)` just after it, `LOWEST` and `HIGHEST` at the ends. Cuts compare as tuples.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from dbscale.schema import literal

Key = int | UUID | str | date | datetime
Cut = tuple[Any, ...]

LOWEST: Cut = (-1,)
HIGHEST: Cut = (1,)
INTEGERS = {"smallint": 15, "integer": 31, "bigint": 63}
"""Integer types, and how many bits a positive value has."""
TYPES = (*INTEGERS, "uuid", "text", "date", "timestamptz")
ZONE = timedelta(hours=16)
"""More than any offset that PostgreSQL accepts: how far off a time without zone may be from the same in UTC."""


@dataclass(frozen=True, slots=True)
class Keys:
    """A set of keys: disjoint intervals `[from cut, to cut)`, sorted."""

    intervals: tuple[tuple[Cut, Cut], ...]

    def __or__(self, other: Keys) -> Keys:
        joined: list[tuple[Cut, Cut]] = []
        for start, end in sorted((*self.intervals, *other.intervals)):
            if joined and start <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
            else:
                joined.append((start, end))
        return Keys(tuple(joined))

    def __and__(self, other: Keys) -> Keys:
        common = []
        mine, theirs = iter(self.intervals), iter(other.intervals)
        a, b = next(mine, None), next(theirs, None)
        while a and b:
            start, end = max(a[0], b[0]), min(a[1], b[1])
            if start < end:
                common.append((start, end))
            if a[1] <= b[1]:
                a = next(mine, None)
            else:
                b = next(theirs, None)
        return Keys(tuple(common))

    def __bool__(self) -> bool:
        return bool(self.intervals)


NOTHING = Keys(())
ANYTHING = Keys(((LOWEST, HIGHEST),))


def before(key: Key) -> Cut:
    return (0, key, 0)


def after(key: Key) -> Cut:
    """The cut just after `key`; where a next key exists, the cut before that, so that both compare equal."""
    if isinstance(key, int):
        return (0, key + 1, 0)
    try:
        if isinstance(key, UUID):
            return (0, UUID(int=key.int + 1), 0)
        if isinstance(key, datetime):
            return (0, key + timedelta(microseconds=1), 0)
        if isinstance(key, date):
            return (0, key + timedelta(days=1), 0)
    except (ValueError, OverflowError):
        return HIGHEST
    return (0, key, 1)


def points(keys: Iterable[Key]) -> Keys:
    """Exactly these keys."""
    found = NOTHING
    for key in keys:
        found |= Keys(((before(key), after(key)),))
    return found


def between(start: Cut, end: Cut) -> Keys:
    return Keys(((start, end),)) if start < end else NOTHING


def exact(kind: str, value: object) -> Key:
    """The key of type `kind` that a Python value is; ValueError where it is none, saying why."""
    if kind in INTEGERS:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise ValueError(f"{value!r} is no {kind}")
        number = operator.index(value)
        if not -(1 << INTEGERS[kind]) <= number < 1 << INTEGERS[kind]:
            raise ValueError(f"{number} is outside {kind}")
        return number
    if kind == "uuid" and isinstance(value, UUID | str):
        return value if isinstance(value, UUID) else UUID(value)
    if kind == "text" and isinstance(value, str):
        if "\0" in value:
            raise ValueError("text holds no NUL")
        value.encode()
        return value
    if kind == "date" and isinstance(value, date) and not isinstance(value, datetime):
        return value
    if kind == "timestamptz" and isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{value.isoformat()} has no time zone")
        return value.astimezone(UTC)
    raise ValueError(f"{value!r} is no {kind}")


def span(kind: str, value: object, cast: str = "") -> tuple[Key, Key] | None:
    """Between which keys lies what PostgreSQL compares a column of type `kind` with, when a statement says `value`,
    perhaps with a cast: first and last, alike where the text alone says which; None where it could be any.
    """
    if value is None or isinstance(value, bool | float):
        return None
    if kind in INTEGERS:
        return _integer(value, cast)
    if kind == "uuid":
        return _same(_uuid(value)) if cast in ("", "uuid") else None
    if kind == "text":
        plain = isinstance(value, str) and cast in ("", "text", "character varying") and "\0" not in value
        return _same(value) if plain else None
    moment = _moment(value, cast)
    if moment is None:
        return None
    first, last = moment
    if kind == "timestamptz":
        return first, last
    # A date compared with a time becomes midnight in the session's zone: a day either way is enough.
    exact_day = first.time() == last.time() and last - first == 2 * ZONE and _is_day(value, cast)
    if exact_day:
        day = (first + ZONE).date()
        return day, day
    return first.date() - timedelta(days=1), last.date() + timedelta(days=1)


def _same(value: Any) -> tuple[Key, Key] | None:
    return None if value is None else (value, value)


def _integer(value: object, cast: str) -> tuple[Key, Key] | None:
    if cast not in ("", "smallint", "integer", "bigint", "numeric"):
        return None
    if isinstance(value, Decimal):
        # 5.7::bigint is 6: a cast rounds, so only whole numbers are followed.
        return _same(int(value)) if value.is_finite() and value == value.to_integral_value() else None
    if isinstance(value, str):
        return _same(int(value)) if re.fullmatch(r"\s*[+-]?[0-9]+\s*", value) and cast != "numeric" else None
    return _same(operator.index(value)) if hasattr(value, "__index__") else None


def _uuid(value: object) -> UUID | None:
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _is_day(value: object, cast: str) -> bool:
    """True for what is a date without time and zone."""
    day = isinstance(value, date) and not isinstance(value, datetime)
    return cast in ("", "date") and (day or (isinstance(value, str) and bool(_DAY.fullmatch(value.strip()))))


_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[ T]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?))?"
    r"\s*(Z|z|UTC|[+-][0-9]{2}(?::?[0-9]{2})?)?"
)
_TIME_TYPES = ("", "date", "timestamptz", "timestamp", "timestamp with time zone", "timestamp without time zone")


def _moment(value: object, cast: str) -> tuple[datetime, datetime] | None:
    """First and last UTC moment that a value may mean: a time without zone depends on the session's."""
    if cast not in (_TIME_TYPES if isinstance(value, str) else ("", _TIME_TYPES[isinstance(value, datetime) + 1])):
        return None
    if isinstance(value, str):
        if not (match := _TIME.fullmatch(value.strip())):
            return None
        zone = {"Z": "+00", "z": "+00", "UTC": "+00", None: ""}.get(match[3], match[3])
        try:
            # '2026-01-05 23:00+02'::date drops time and zone.
            clock = "00:00" if cast == "date" else f"{match[2] or '00:00'}{zone}"
            found = datetime.fromisoformat(f"{match[1]}T{clock}")
        except ValueError:
            return None
    elif isinstance(value, datetime):
        found = value
    elif isinstance(value, date):
        found = datetime(value.year, value.month, value.day)  # noqa: DTZ001 - has no zone, which is the point
    else:
        return None
    zoned = found.tzinfo is not None and cast in ("", "timestamptz", "timestamp with time zone")
    try:
        moment = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
        if zoned:
            return moment, moment
        if found.tzinfo is not None and isinstance(value, str):
            # '… +02'::timestamp drops the zone that is written.
            moment = found.replace(tzinfo=UTC)
        return moment - ZONE, moment + ZONE
    except OverflowError:
        return None


def sql(kind: str, key: Key) -> str:
    """The key as an SQL constant with its type, the same whatever the session's settings are."""
    if kind in INTEGERS:
        return f"'{key}'::{kind}"
    if kind == "timestamptz":
        assert isinstance(key, datetime)  # noqa: S101 - the map has checked it
        return f"'{key.astimezone(UTC).strftime('%Y-%m-%d %H:%M:%S.%f').rstrip('0').rstrip('.')}+00'::timestamptz"
    return f"{literal(str(key))}::{kind}"


def show(key: Key | None) -> str:
    """The key for people: ISO form for times."""
    if isinstance(key, datetime):
        return key.isoformat().replace("+00:00", "Z")
    return "" if key is None else str(key)


def describe(keys: Keys) -> str:
    """A set of keys for people."""
    if keys == ANYTHING:
        return "may be anything"
    if not keys:
        return "matches nothing"
    shown = []
    for start, end in keys.intervals[:4]:
        if len(start) > 1 and end == after(start[1]):
            shown.append(f"is {show(start[1])}")
        else:
            low = f"from {show(start[1])}" if len(start) > 1 else ""
            shown.append(" ".join(filter(None, (low, f"to below {show(end[1])}" if len(end) > 1 else ""))))
    return " or ".join(shown) + (" …" if len(keys.intervals) > 4 else "")
