"""SELECTs in a form whose answer a libSQL server can send, whatever the values are."""

from __future__ import annotations

import re

_LETTERS = 100
"""Columns whose letters come as one text, so that no expression nests too deep."""
_SELECT = re.compile(r"\s*(?:SELECT|WITH|VALUES)\b", re.IGNORECASE)
_EXPLAIN = re.compile(r"\s*EXPLAIN\s+QUERY\s+PLAN\s+SELECT\b", re.IGNORECASE)
_PRAGMA = re.compile(r"\s*PRAGMA\s+(?P<name>\w+)\s*(?P<argument>\([^()]*\))?\s*;?\s*", re.IGNORECASE)


def is_select(sql: str) -> bool:
    """Whether it begins as a statement that reads; what else could begin so does not fit into `guarded`."""
    return _SELECT.match(sql) is not None


def is_explain(sql: str) -> bool:
    """Whether it asks for the plan of a SELECT."""
    return _EXPLAIN.match(sql) is not None


def pragma_table(sql: str) -> str:
    """A pragma as a SELECT from its table, which read-only tokens may read; anything else as it is."""
    pragma = _PRAGMA.fullmatch(sql)
    return f"SELECT * FROM pragma_{pragma['name']}{pragma['argument'] or ''}" if pragma else sql


def guarded(sql: str, width: int, limit: str = "LIMIT -1") -> str:
    """The SELECT with each text as its bytes, infinities as NULL, and behind them a letter for each column.

    A server cannot send text that is not UTF-8 (it drops the stream), nor an infinity (it sends null). The letters:
    `t` a text, `+` and `-` an infinity, `.` what it is. Both LIMITs keep SQLite from evaluating the inner
    expressions once for every mention: a subquery with LIMIT is not flattened into a query with LIMIT.
    """
    names = [f"a{number}" for number in range(width)]
    values = [
        f"CASE typeof({name}) WHEN 'text' THEN CAST({name} AS BLOB)"
        f" WHEN 'real' THEN CASE WHEN abs({name}) = 9e999 THEN NULL ELSE {name} END ELSE {name} END"
        for name in names
    ]
    letters = [
        f"CASE typeof({name}) WHEN 'text' THEN 't'"
        f" WHEN 'real' THEN CASE {name} WHEN 9e999 THEN '+' WHEN -9e999 THEN '-' ELSE '.' END ELSE '.' END"
        for name in names
    ]
    flags = ["||".join(letters[at : at + _LETTERS]) for at in range(0, width, _LETTERS)]
    inner = sql.strip().rstrip(";")
    return (
        f"WITH r({', '.join(names)}) AS (SELECT * FROM ({inner}\n) {limit})"
        f" SELECT {', '.join(values + flags)} FROM r LIMIT -1"
    )
