"""How a real workload would route: single, targeted, scatter or refused, by calls and time, before anything is sharded.

Statements come as pg_stat_statements keeps them, with `$1` for constants. Their values are not known, so each is
tried with keys of different ranges for its parameters, and the worst outcome counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from dbscale.drivers.postgres import Connection
from dbscale.errors import Unroutable
from dbscale.query import And, Compare, Condition, Or, Parameter, Query, Style, fingerprint, parse, script
from dbscale.shards.keys import INTEGERS, Key
from dbscale.shards.map import Map, Maps, Range
from dbscale.shards.route import route_statement

Outcome = Literal["single", "targeted", "scatter", "refused"]
ORDER: tuple[Outcome, ...] = ("single", "targeted", "scatter", "refused")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    sql: str
    calls: int = 1
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    statement: Statement
    outcome: Outcome
    why: str
    """What decided, or why it is refused."""


def audit(maps: Maps, statements: Iterable[Statement], style: Style = "numeric") -> list[Verdict]:
    """What becomes of each statement, the most expensive first."""
    found = [_verdict(maps, statement, style) for statement in statements]
    return sorted(found, key=lambda verdict: (-verdict.statement.seconds, -verdict.statement.calls))


def _verdict(maps: Maps, statement: Statement, style: Style) -> Verdict:
    query = parse(statement.sql, style)
    worst: tuple[Outcome, str] = ("single", "")
    for arguments in _samples(maps, query):
        try:
            route = route_statement(maps, query, arguments)
            kind: Outcome = "single" if route.kind in ("single", "any") else route.kind  # type: ignore[assignment]
            outcome = (kind, "; ".join(filter(None, (route.why, route.combine))))
        except Unroutable as error:
            outcome = ("refused", error.says)
        if not worst[1] or ORDER.index(outcome[0]) > ORDER.index(worst[0]):
            worst = outcome
    return Verdict(statement=statement, outcome=worst[0], why=worst[1])


def _samples(maps: Maps, query: Query) -> Iterator[Any]:
    """Arguments for a statement: keys of different ranges in rising order, then in falling order."""
    numbers = _parameters(query)
    count = max((number for number, _ in numbers), default=0)
    lists = {number for number, array in numbers if array}
    keys = next((found for table in query.tables if (map_ := maps.of(table.name, table.schema))
                 and (found := sample_keys(map_))), [1])  # fmt: skip
    for step in (1, -1):
        ring = keys[::step]
        values = [ring[place % len(ring)] for place in range(count)]
        chosen = [ring if number in lists else value for number, value in enumerate(values, 1)]
        yield dict(zip(query.parameters, chosen, strict=False)) if query.parameters else chosen


def sample_keys(map_: Map) -> list[Key]:
    """A key of each range, for ranges on different shards first."""
    found: dict[str, Key] = {}
    for range_ in map_.ranges:
        key = _inside(map_, range_)
        if key is not None:
            found.setdefault(range_.shard, key)
    return list(found.values())


def _inside(map_: Map, range_: Range) -> Key | None:
    if range_.values:
        return range_.values[0]
    if range_.start is not None:
        return range_.start
    end: Any = map_.end(range_)
    if map_.key in INTEGERS:
        return 0 if end is None else end - 1
    if map_.key == "timestamptz":
        return datetime.fromisoformat("2000-01-01T00:00:00+00:00") if end is None else None
    return None


def _parameters(query: Query) -> set[tuple[int, bool]]:
    """The numbers of the parameters, and whether each is an array."""
    found: set[tuple[int, bool]] = set()

    def visit(condition: Condition) -> None:
        if isinstance(condition, And | Or):
            for part in condition.parts:
                visit(part)
        elif isinstance(condition, Compare):
            array = condition.op in ("any", "not any")
            found.update((value.number, array) for value in condition.values if isinstance(value, Parameter))

    for block in query.blocks:
        for filter_ in block.filters:
            visit(filter_.condition)
    rows = query.insert.rows if query.insert else ()
    for value in (*(value for row in rows for value in row), *(value for _, value in query.sets)):
        if isinstance(value, Parameter):
            found.add((value.number, False))
    return found


def from_server(connection: Connection) -> list[Statement]:
    """The statements that pg_stat_statements has seen in this database. The caller has checked that it is there."""
    rows: Any = connection.execute(
        "SELECT query, calls, total_exec_time / 1000 FROM pg_stat_statements"
        " WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    found = [Statement(sql=_SQUASHED.sub(_whole, row[0]), calls=row[1], seconds=row[2]) for row in rows]
    return _routed(found)


_ROUTED = ("select", "insert", "update", "delete", "merge", "copy", "truncate", "unknown")
"""What an application sends to a shard; it has no say in where BEGIN, SET or CREATE TABLE go."""
_SQUASHED = re.compile(r"(NOT\s+)?IN\s*\((\$[0-9]+) /\*, \.\.\. \*/\)", re.IGNORECASE)


def _whole(match: re.Match[str]) -> str:
    """Since version 18 it keeps `IN ($1 /*, ... */)` of a list of constants: any number of them, so an array."""
    return f"{'<> ALL' if match[1] else '= ANY'} ({match[2]})"


def from_text(text: str, title: str = "SQL") -> list[Statement]:
    """The statements of a file of SQL; those that are alike but for their constants are counted together.

    A comment before one may say `-- calls: 40000, ms: 1.2`. ConfigError where it is no SQL.
    """
    found: dict[str, Statement] = {}
    for entry in script.entries(text, title):
        mark = fingerprint(entry.sql) or entry.sql
        first = found.get(mark, Statement(sql=entry.sql, calls=0))
        found[mark] = replace(first, calls=first.calls + round(entry.calls), seconds=first.seconds + entry.seconds)
    return _routed(found.values())


def _routed(statements: Iterable[Statement]) -> list[Statement]:
    return [statement for statement in statements if parse(statement.sql).verb in _ROUTED]
