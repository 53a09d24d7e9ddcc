"""Files of SQL as a workload: their statements, and how often each runs by the comment before it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from dbscale.errors import ConfigError

_CALLS = re.compile(r"--[^\n]*?\bcalls?\s*[:=]\s*([0-9_]+(?:\.[0-9]+)?)", re.IGNORECASE)
_MEAN = re.compile(r"--[^\n]*?\bms\s*[:=]\s*([0-9_]+(?:\.[0-9]+)?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Entry:
    sql: str
    calls: float
    """1 where no comment says how often."""
    seconds: float
    """Of all calls together; 0: not known."""


def entries(text: str, title: str = "SQL") -> Iterator[Entry]:
    """The statements of a file of SQL, also those that do not parse; ConfigError where it is no SQL at all.

    A comment before a statement may say how often it runs and how long it takes: `-- calls: 40000, ms: 1.2`.
    """
    for comment, sql in _split(text, title):
        calls, mean = _CALLS.findall(comment), _MEAN.findall(comment)
        count = float(calls[-1]) if calls else 1.0
        yield Entry(sql=sql, calls=count, seconds=count * float(mean[-1]) / 1000 if mean else 0.0)


def _split(text: str, title: str) -> Iterator[tuple[str, str]]:
    """Statements, each with the comments before it, by PostgreSQL's own scanner; also those that do not parse."""
    import postgast

    encoded = text.encode()
    comments: list[str] = []
    start = end = -1
    try:
        tokens = postgast.scan(text).tokens
    except postgast.PgQueryError as error:
        raise ConfigError(f"this is neither a log nor SQL: {error}", where=title) from error
    for token in tokens:
        word = encoded[token.start : token.end]
        if word.startswith((b"--", b"/*")):
            if start < 0:
                comments.append(word.decode())
        elif word == b";":
            if start >= 0:
                yield "\n".join(comments), encoded[start:end].decode()
            comments, start = [], -1
        else:
            start, end = (token.start if start < 0 else start), token.end
    if start >= 0:
        yield "\n".join(comments), encoded[start:end].decode()
