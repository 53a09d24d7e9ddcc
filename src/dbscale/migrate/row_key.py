"""How the quarantine names a row of the source: the values of its key, as JSON that loses nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from dbscale.migrate.encode import Refused, Row
from dbscale.plan import Load


def row_key(load: Load, row: Refused | Row) -> dict[str, Any]:
    """The primary key's columns and values, or else the rowid; each value as `spelled` writes it."""
    if load.key:
        return {name: spelled(value) for name, value in zip(load.key, row.key, strict=True)}
    return {load.rowid: row.rowid} if load.rowid else {}


def spelled(value: object) -> str | int | float | None:
    """A value for jsonb, from which it can be had back.

    Numbers and text stay as they are. What jsonb's text cannot hold is written in hex, as PostgreSQL writes bytea:
    `\\x66ff` for a blob, for text that is not UTF-8, and for text with NUL. So that nothing else looks like it, text
    that begins with a backslash gets another one. Infinities are `\\Infinity` and `\\-Infinity`.
    """
    if isinstance(value, str) and "\0" in value:
        value = value.encode()
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, str):
        return "\\" + value if value.startswith("\\") else value
    if isinstance(value, float):
        if math.isinf(value):
            return "\\Infinity" if value > 0 else "\\-Infinity"
        return int(value) if value.is_integer() else value  # jsonb has one kind of number: 2.0 comes back as 2
    assert value is None or isinstance(value, int)  # noqa: S101 - SQLite has no other class
    return value


def canonical_key(key: Mapping[str, Any]) -> str:
    """A key as JSON in one spelling."""
    return json.dumps(key, sort_keys=True)
