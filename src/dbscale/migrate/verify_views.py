"""The rows that a view gives in the source and in the target, compared as multisets.

A view's columns have no declared type, and sums of floats depend on the order of their rows: numbers are compared to 12
digits, times by their microsecond, everything else as it is.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.types.json import set_json_loads

from dbscale.drivers.postgres import Connection
from dbscale.drivers.source import Reader
from dbscale.errors import Finding, SourceError
from dbscale.migrate import canonical, cells, convert
from dbscale.migrate.model import SourceObject
from dbscale.migrate.verify_records import Records
from dbscale.plan import Conversion, Load, LoadColumn
from dbscale.schema import quote

MOST_ROWS = 100_000
MOST_HANDLED = 1_000_000
"""Rows that the steps of a view's plan give, as PostgreSQL estimates them: the view of a large table can take longer
than to compare all of the table, and says no more about its translation than it does where the tables are small."""
_BATCH_BYTES = 2 << 20
_FLEETING = re.compile(r"\b(?:now|gen_random_uuid)\(\)")
"""What a view's 'now' and random() became."""
_AS_TEXT = Conversion(to="text", integers="text", reals="text")


class _Json(str):
    """JSON as the server spells it: read as values, JSON's null could not be told from NULL."""

    @classmethod
    def of(cls, data: str | bytes) -> _Json:
        return cls(data if isinstance(data, str) else data.decode())


class _NotCompared(Exception):
    """Why a view's rows cannot be compared."""


@dataclass(frozen=True, slots=True)
class View:
    """A view to compare."""

    source: SourceObject
    columns: tuple[LoadColumn, ...] = ()
    """Its columns in order: by their conversions numbers are read as times."""
    unsettled: tuple[str, ...] = ()
    """What in it depends on which row comes first, so that both databases may be right and differ."""


def compare(
    reader: Reader, connection: Connection, relation: tuple[str, str], view: View, *, costly: bool = False
) -> list[Finding]:
    """Compare the source's `view` with the target's, `relation` by schema and name; `costly`: whatever it reads.

    A finding where the rows differ, or where they could not be compared.
    """
    place, target = ".".join(relation), quote(*relation)
    try:
        handled, width, fleeting = _explained(connection, target)
        if not costly and handled > MOST_HANDLED:
            says = f"its rows were not compared: it goes through some {handled} rows"
            return [_note(place, says, "dbscale verify --all-views compares it, however long that takes")]
        if _same_bytes(reader, connection, relation, view):
            return []
        sides = _Sides(reader, connection, f"SELECT * FROM {quote(view.source.name)}", f"SELECT * FROM {target}")
        sides.conversions = [column.conversion for column in view.columns]
        sides.at_once = max(1, min(1000, _BATCH_BYTES // max(width, 1)))
        with connection.transaction():
            says = sides.difference()
    except (SourceError, psycopg.Error, _NotCompared) as error:
        return [_note(place, f"its rows were not compared: {error}")]
    if not says:
        return []
    why = try_ = ""
    if view.unsettled:
        why = f"the view leaves open which row comes first: {'; '.join(view.unsettled)}"
        try_ = "end the ORDER BY with columns that no two rows share, such as the primary key"
    elif fleeting:
        why = "the view depends on the moment at which it is read, or on chance"
    if why:
        says = f"{says[:300]}; {why}"
        return [Finding(code="verify-view-open", where=place, says=says, try_=try_, original=view.source.sql)]
    return [Finding(code="verify-view", where=place, says=says[:400], level="behaviour", original=view.source.sql)]


def _same_bytes(reader: Reader, connection: Connection, relation: tuple[str, str], view: View) -> bool:
    """Whether both sides give the same rows to the last bit, as is usual: told as for tables, no row is fetched."""
    schema, target = relation
    load = Load(does="", table=view.source.name, schema=schema, target=target, columns=view.columns)
    (encoding,) = next(reader.rows("PRAGMA encoding"))
    records = Records.of(reader, load, str(encoding))
    return records is not None and records.same_rows(reader, connection) is not None


def _explained(connection: Connection, relation: str) -> tuple[int, int, bool]:
    """What the planner tells of a view: how many rows all steps of its plan give together, the bytes of a row, and
    whether it asks for the time or for chance, itself or a view below it."""
    with connection.transaction():
        found = connection.execute(f"EXPLAIN (FORMAT json, VERBOSE) SELECT * FROM {relation}".encode()).fetchone()
    assert found is not None  # noqa: S101 - EXPLAIN has a row
    steps = [found[0][0]["Plan"]]
    for step in steps:
        steps += step.get("Plans", [])
    fleeting = _FLEETING.search(json.dumps(steps[0])) is not None
    return sum(int(step["Plan Rows"]) for step in steps), int(steps[0]["Plan Width"]), fleeting


class _Sides:
    """The rows of a view on both sides, read one by one: only a hash of each is kept."""

    def __init__(self, reader: Reader, connection: Connection, mine: str, theirs: str) -> None:
        self._reader, self._connection = reader, connection
        self._mine, self._theirs = mine, theirs
        self.at_once = 100
        """Rows that the target sends at once."""
        self.conversions: Sequence[Conversion] = ()
        self._kinds: list[type] = []

    def difference(self) -> str:
        """In what the sides differ; empty if in nothing. _NotCompared where they cannot be held together."""
        left: Counter[bytes] = Counter()
        counts = []
        for sign, rows in ((-1, self._target_rows()), (1, self._source_rows())):
            count = 0
            with closing(rows):
                for count, row in enumerate(rows, 1):
                    if count > MOST_ROWS:
                        raise _NotCompared(f"there are more than {MOST_ROWS}")
                    left[_hash(row)] += sign
            counts.append(count)
        theirs, mine = counts
        if mine != theirs:
            return f"it has {theirs} rows, and {mine} in the source"
        if not any(left.values()):
            return ""
        only = []
        for sign, rows in ((1, self._source_rows()), (-1, self._target_rows())):
            with closing(rows):
                only.append(next((row for row in rows if sign * left[_hash(row)] > 0), ()))
        says = f"{sum(count for count in left.values() if count > 0)} of {mine} rows differ: "
        return says + " became ".join(", ".join(map(str, row)) or "what is other with each reading" for row in only)

    def _target_rows(self) -> Generator[tuple[Any, ...], None, None]:
        """The target's rows, spelled; they tell the kind of each column."""
        with self._connection.cursor(name="dbscale_view") as cursor:
            cursor.itersize = self.at_once
            set_json_loads(_Json.of, cursor)
            cursor.execute(f"{self._theirs} LIMIT {MOST_ROWS + 1}".encode())
            for row in cursor:
                self._kinds = self._kinds or [type(None)] * len(row)
                for at, value in enumerate(row):
                    if value is not None and self._kinds[at] is type(None):
                        self._kinds[at] = type(value)
                yield self._row(row)

    def _source_rows(self) -> Generator[tuple[Any, ...], None, None]:
        vectors = [at for at, kind in enumerate(self._kinds) if issubclass(kind, list)]
        for row in self._reader.rows(self._mine):
            if any(isinstance(row[at], bytes) for at in vectors):
                raise _NotCompared("they hold vectors, which are compared in their table")
            yield self._row([self._moment(value, at) for at, value in enumerate(row)])

    def _moment(self, value: Any, at: int) -> Any:
        """A number that stands for a time, as the time that the column's conversion makes of it."""
        times = at < len(self._kinds) and issubclass(self._kinds[at], (datetime, date, time))
        if not times or at >= len(self.conversions) or not isinstance(value, (int, float)):
            return value
        try:
            storage = "integer" if isinstance(value, int) else "real"
            return (convert.convert(value, storage, self.conversions[at], "UTF-8") or b"").decode()
        except convert.Refusal:
            return value

    def _row(self, row: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(_spelled(value, kind) for value, kind in zip(row, self._kinds, strict=False))


def _hash(row: tuple[Any, ...]) -> bytes:
    return hashlib.blake2b(repr(row).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _note(place: str, says: str, try_: str = "") -> Finding:
    return Finding(code="verify-view-not-compared", where=place, says=says, try_=try_, level="note")


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
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, str):
        value = time.fromisoformat(value) if value[2:3] == ":" else datetime.fromisoformat(value)
    if isinstance(value, time):
        return value.isoformat()
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    return value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC).isoformat(timespec="milliseconds")
