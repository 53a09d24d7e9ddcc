"""The rows that a view gives in the source and in the target, compared as multisets.

A view's columns have no declared type, and sums of floats depend on the order of their rows: numbers are compared to 12
digits, times by their microsecond, everything else as it is.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from datetime import UTC, date, datetime, time
from decimal import Decimal
from itertools import islice
from typing import Any

import psycopg
from psycopg.types.json import set_json_loads

from dbscale.drivers.postgres import Connection
from dbscale.drivers.source import Reader
from dbscale.errors import Finding, SourceError
from dbscale.migrate import canonical, cells, convert
from dbscale.migrate.model import SourceObject
from dbscale.plan import Conversion
from dbscale.schema import quote

MOST_ROWS = 100_000
_AS_TEXT = Conversion(to="text", integers="text", reals="text")


class _Json(str):
    """JSON as the server spells it: read as values, JSON's null could not be told from NULL."""

    @classmethod
    def of(cls, data: str | bytes) -> _Json:
        return cls(data if isinstance(data, str) else data.decode())


def compare(reader: Reader, connection: Connection, schema: str, name: str, view: SourceObject) -> list[Finding]:
    """Compare the source's `view` with the target's, called `name`.

    A finding where the rows differ, or where they could not be compared.
    """
    place, relation = f"{schema}.{name}", quote(schema, name)
    try:
        mine = list(islice(reader.rows(f"SELECT * FROM {quote(view.name)}"), MOST_ROWS + 1))
        with connection.transaction():
            cursor = connection.cursor()
            set_json_loads(_Json.of, cursor)
            theirs = cursor.execute(f"SELECT * FROM {relation} LIMIT {MOST_ROWS + 1}".encode()).fetchall()
    except (SourceError, psycopg.Error) as error:
        return [_note(place, f"its rows were not compared: {error}")]
    if max(len(mine), len(theirs)) > MOST_ROWS:
        return [_note(place, f"its rows were not compared: there are more than {MOST_ROWS}")]
    kinds = [
        next((type(row[place_]) for row in theirs if row[place_] is not None), type(None))
        for place_ in range(len(theirs[0]) if theirs else 0)
    ]
    vectors = [at for at, kind in enumerate(kinds) if issubclass(kind, list)]
    if any(isinstance(row[at], bytes) for row in mine for at in vectors):
        return [_note(place, "its rows were not compared: they hold vectors, which are compared in their table")]
    if len(mine) == len(theirs):
        left = Counter(tuple(_spelled(value, kind) for value, kind in zip(row, kinds, strict=False)) for row in mine)
        left.subtract(tuple(_spelled(value, kind) for value, kind in zip(row, kinds, strict=False)) for row in theirs)
        differing = sorted(((row, count) for row, count in left.items() if count), key=repr)
        if not differing:
            return []
        only = [row for row, count in differing if count > 0][:1] + [row for row, count in differing if count < 0][:1]
        says = f"{sum(count for _, count in differing if count > 0)} of {len(mine)} rows differ: "
        says += " became ".join(", ".join(map(str, row)) for row in only)
    else:
        says = f"it has {len(theirs)} rows, and {len(mine)} in the source"
    return [Finding(code="verify-view", where=place, says=says[:400], level="behaviour", original=view.sql)]


def _note(place: str, says: str) -> Finding:
    return Finding(code="verify-view-not-compared", where=place, says=says, level="note")


def _spelled(value: Any, kind: type) -> Any:
    """A value of either side in one form, by the type that the target's column has."""
    if value is None:
        return None
    try:
        if issubclass(kind, bool):
            return int(value) if not isinstance(value, str) else int(value.lower() in cells.TRUE_WORDS)
        if issubclass(kind, (int, float, Decimal)):
            return f"{float(value):.12g}"
        if issubclass(kind, (datetime, date, time)):
            return _moment(value)
        if issubclass(kind, uuid.UUID):
            return uuid.UUID(bytes=value) if isinstance(value, bytes) else uuid.UUID(str(value))
        if issubclass(kind, _Json):
            return canonical.json_spelling(str(value))
        if issubclass(kind, (str, bytes)):
            return _text(value, kind)
        if issubclass(kind, list):
            return canonical.json_spelling(value if isinstance(value, str) else json.dumps(value))
    except (ValueError, OverflowError):
        return value
    return bytes(value) if isinstance(value, (bytearray, memoryview)) else value


def _text(value: Any, kind: type) -> Any:
    """A number as SQLite prints it, bytes as the text they are, and for bytes the bytes of either."""
    if isinstance(value, (int, float)):
        storage = "integer" if isinstance(value, int) else "real"
        value = (convert.convert(value, storage, _AS_TEXT, "UTF-8") or b"").decode()
    if isinstance(value, str) and issubclass(kind, bytes):
        return value.encode()
    if not isinstance(value, str) and issubclass(kind, str):
        return bytes(value).decode()
    return value if isinstance(value, str) else bytes(value)


def _moment(value: Any) -> Any:
    """A time of day as it is, a day or a moment as UTC; counts since 1970 by their size."""
    if isinstance(value, (int, float)):
        unit = next((10 ** (3 * i) for i, least in enumerate(cells.BY_SIZE) if abs(value) < least), 10**9)
        value = datetime.fromtimestamp(value / unit, UTC)
    if isinstance(value, str):
        value = time.fromisoformat(value) if value[2:3] == ":" else datetime.fromisoformat(value)
    if isinstance(value, time):
        return value.isoformat()
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    return value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC).isoformat(timespec="milliseconds")
