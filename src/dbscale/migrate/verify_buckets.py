"""Tables whose rows cannot be asked for by number, compared as multisets: keys of any kind, or none, and duplicates.

Each row's line is hashed, and 128 bits of the hash are added up in the bucket that its first bits name; on both sides
in one pass, in whatever order. Buckets whose count or sums differ are looked at row by row.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import psycopg

from dbscale.drivers.postgres import Connection
from dbscale.drivers.source import Reader, Value
from dbscale.migrate import canonical
from dbscale.migrate.encode import Row
from dbscale.migrate.verify_rows import Difference, RowsReport, TableCheck, cut, one, printable
from dbscale.plan import Conversion
from dbscale.schema import quote

ROWS_A_BUCKET = 2000
MOST_BUCKETS = 32_768
MOST_LOOKED_AT = 100_000
"""Rows of differing buckets that are looked at one by one; with more, the counts are the least there are."""


_REAL = "real:"
"""Before a document that is a number with a fraction: no array begins so."""

_PARTS = struct.Struct(">H6xqq8x")
"""Of a hash: the bits that choose the bucket, and the two numbers that are added up."""


def check_table(
    check: TableCheck, reader: Reader, connection: Connection, progress: Callable[[int], None] = lambda _: None
) -> RowsReport:
    """Compare one whole table. `progress` hears how many rows were compared since the last call."""
    report = check.report()
    rows = check.records.same_rows(reader, connection) if check.records and not check.has_apart else None
    if rows is not None:
        report.source_rows = report.target_rows = rows
        progress(rows)
        return report
    buckets = min(MOST_BUCKETS, 1 + check.load.rows // ROWS_A_BUCKET)
    mine: dict[int, list[int]] = {}
    for _, hashes, apart in _hashes(check, reader, connection):
        for bits, first, second in map(_PARTS.unpack, hashes):
            sums = mine.setdefault(bits % buckets, [0, 0, 0])
            sums[0] += 1
            sums[1] += first
            sums[2] += second
        report.source_rows += len(hashes) + apart
        report.quarantined += apart
        progress(len(hashes) + apart)
    theirs = _target_sums(check, connection, buckets)
    report.target_rows = sum(sums[0] for sums in theirs.values())
    differing = [bucket for bucket in mine.keys() | theirs.keys() if mine.get(bucket) != theirs.get(bucket)]
    if differing:
        looked_at = _few_enough(differing, mine, theirs, report)
        missing, extra = _unmatched(check, reader, connection, looked_at, buckets)
        _pair(check, report, missing, extra)
    return report


def _hashed_sql(check: TableCheck, columns: str = "") -> str:
    """Every row of the target with the hash of its line, in hex; OFFSET 0 has it worked out once."""
    line = check.target_line + "".join(f"||E'\\n'||coalesce({quote(each.target)}::text,'')" for each in check.json)
    return f"SELECT encode(sha256(convert_to({line},'UTF8')),'hex') AS h{columns} FROM {check.target} OFFSET 0"


def _bucket_sql(buckets: int) -> str:
    return f"('x'||left(h,4))::bit(16)::int % {buckets}"


def _target_sums(check: TableCheck, connection: Connection, buckets: int) -> dict[int, list[int]]:
    sql = (
        f"SELECT {_bucket_sql(buckets)}, count(*),"
        " sum(('x'||substr(h,17,16))::bit(64)::bigint), sum(('x'||substr(h,33,16))::bit(64)::bigint)"
        f" FROM ({_hashed_sql(check)}) AS t GROUP BY 1"
    )
    found = connection.execute(sql.encode())
    return {bucket: [count, int(first), int(second)] for bucket, count, first, second in found}


def _few_enough(
    differing: Sequence[int], mine: dict[int, list[int]], theirs: dict[int, list[int]], report: RowsReport
) -> list[int]:
    """As many of the differing buckets as may be looked at."""
    chosen: list[int] = []
    rows = 0
    for bucket in sorted(differing):
        rows += max(mine.get(bucket, [0])[0], theirs.get(bucket, [0])[0])
        if chosen and rows > MOST_LOOKED_AT:
            report.complete = False
            break
        chosen.append(bucket)
    return chosen


def _unmatched(
    check: TableCheck, reader: Reader, connection: Connection, differing: list[int], buckets: int
) -> tuple[list[Row], list[tuple[Any, ...]]]:
    """The rows of some buckets that the source has alone, and those that the target has alone."""
    # no parameters: the line's format('%s') would be taken for one
    chosen = "{" + ",".join(map(str, differing)) + "}"
    sql = f"SELECT h FROM ({_hashed_sql(check)}) AS t WHERE {_bucket_sql(buckets)} = ANY('{chosen}'::int[])"
    theirs = Counter(bytes.fromhex(hash_) for (hash_,) in connection.execute(sql.encode()))
    wanted = set(differing)
    places: list[int] = []
    for chunk, hashes, _ in _hashes(check, reader, connection):
        for place, hash_ in zip(chunk, hashes, strict=True):
            if _PARTS.unpack(hash_)[0] % buckets not in wanted:
                continue
            if theirs[hash_]:
                theirs[hash_] -= 1
            else:
                places.append(place)
    missing = [next(check.encoder.stored(reader, place, place)) for place in places]
    return missing, _extra_rows(check, connection, +theirs)


def _extra_rows(check: TableCheck, connection: Connection, hashes: Counter[bytes]) -> list[tuple[Any, ...]]:
    """The target's rows that the source does not have: spelled cells, then the values as PostgreSQL prints them."""
    if not hashes:
        return []
    shown = ", ".join(f"left({quote(column.target)}::text, 81) AS v{i}" for i, column in enumerate(check.load.columns))
    cells = ", ".join(f"{cell} AS c{i}" for i, cell in enumerate(check.target_cells()))
    wanted = "{" + ",".join(hash_.hex() for hash_ in hashes) + "}"
    sql = f"SELECT * FROM ({_hashed_sql(check, f', {cells}, {shown}')}) AS t WHERE h = ANY('{wanted}')"
    left = Counter({hash_.hex(): count for hash_, count in hashes.items()})
    found = []
    for hash_, *cells_and_values in connection.execute(sql.encode()):
        if left[hash_] > 0:
            left[hash_] -= 1
            found.append(tuple(cells_and_values))
    return found


def _pair(check: TableCheck, report: RowsReport, missing: list[Row], extra: list[tuple[Any, ...]]) -> None:
    """Rows with the same key on both sides are different; the others are missing or extra."""
    width = len(check.load.columns)
    key = [place for place, column in enumerate(check.load.columns) if column.source in check.load.key]
    by_key: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for cells in extra:
        by_key.setdefault(tuple(cells[place] for place in key) if key else (), []).append(cells)
    # A row that Python spells as the target does is no difference: SQLite hashes broken text as it is stored.
    there = Counter(cells[:width] for cells in extra)
    types = [column.conversion.to for column in check.load.columns]
    spelling = [(row, tuple(map(canonical.shortened, check.spelled(row), types))) for row in missing]
    alike = there & Counter(spelled for _, spelled in spelling)
    for row, spelled in spelling:
        partners = by_key.get(tuple(spelled[place] for place in key), [])
        if alike[spelled]:
            alike[spelled] -= 1
            partners.remove(next(cells for cells in partners if cells[:width] == spelled))
            continue
        if not key:
            partners = []
        stored = zip(row.values, row.tags, strict=True)
        label = _label(check, key, [printable(value, tag, check.encoding) for value, tag in stored])
        if not partners:
            report.missing += 1
            check.sample(report, Difference(kind="missing", key=label))
            continue
        cells = partners.pop()
        report.different += 1
        for place in check.differing(row, cells[:width]):
            shown = cells[width + place]
            check.sample(
                report,
                Difference(
                    kind="different",
                    key=label,
                    column=check.load.columns[place].target,
                    source=printable(row.values[place], row.tags[place], check.encoding),
                    target="NULL" if shown is None else cut(shown),
                ),
            )
    for cells in (cells for partners in by_key.values() for cells in partners):
        report.extra += 1
        shown_cells = ["NULL" if value is None else cut(value) for value in cells[width:]]
        check.sample(report, Difference(kind="extra", key=_label(check, key, shown_cells)))


def _label(check: TableCheck, key: list[int], values: Sequence[str]) -> str:
    """`a = 1, b = x`: the key, or the first columns where there is none."""
    places = key or range(min(4, len(values)))
    return ", ".join(f"{check.load.columns[place].target} = {values[place]}" for place in places)


# ── the source, hashed row by row ─────────────────────────────────────────────────────────────────────────────────


def _hashes(check: TableCheck, reader: Reader, connection: Connection) -> Iterator[tuple[list[int], list[bytes], int]]:
    """The source's rows in chunks: where each is, its line's hash, and how many of the chunk were kept apart."""
    for places, lines, documents in _chunks(check, reader):
        rows: dict[int, Row] = {}
        if check.has_apart or any(line is None for line in lines):
            stored = check.encoder.stored(reader, places[0], places[-1])
            rows = dict(zip(places, stored, strict=True))
        apart = {place for place, row in rows.items() if check.is_apart(row)}
        kept = [at for at, place in enumerate(places) if place not in apart]
        written = [_line(check, lines[at], rows.get(places[at])) for at in kept]
        for column in documents:
            for at, text in enumerate(_printed(check, connection, [column[i] for i in kept])):
                written[at] += b"\n" + text
        yield [places[at] for at in kept], [hashlib.sha256(line).digest() for line in written], len(apart)


def _chunks(check: TableCheck, reader: Reader) -> Iterator[tuple[list[int], list[Value], list[list[Value]]]]:
    """Places, lines and, for each jsonb column, its documents, of some thousand rows at a time."""
    documents = [_document_sql(f"s.{quote(each.source)}", each.conversion) for each in check.json]
    selected = f"CAST({check.line} AS BLOB)" + "".join(f", CAST({document} AS BLOB)" for document in documents)
    load = check.load
    if load.rowid:
        rowid = f"s.{quote(load.rowid)}"
        among = (
            f"FROM {quote(load.table)} AS s WHERE {rowid} BETWEEN ? AND ?{check.encoder.only} ORDER BY {rowid} LIMIT ?"
        )
        lower, upper = -(2**63), 2**63 - 1
        while True:
            most = check.encoder.fitting(reader, among, (lower, upper))
            found = list(reader.rows(f"SELECT {rowid}, {selected} {among}", (lower, upper, most)))
            if not found:
                return
            places = [int(row[0]) for row in found]  # type: ignore[arg-type]
            yield places, [row[1] for row in found], [[row[i] for row in found] for i in range(2, len(documents) + 2)]
            if places[-1] == upper:
                return
            lower = places[-1] + 1
    lines = reader.rows(f"SELECT {selected} FROM {quote(load.table)} AS s{check.encoder.order}")
    done = 0
    while found := list(islice(lines, check.encoder.most)):
        places = list(range(done, done + len(found)))
        yield places, [row[0] for row in found], [[row[i] for row in found] for i in range(1, len(documents) + 1)]
        done += len(found)


def _document_sql(column: str, conversion: Conversion) -> str:
    """As `canonical.source_json`, but for reals, of which SQLite's text keeps 15 digits: `_document` spells them."""
    text = canonical.source_json(column, conversion)
    return f"CASE typeof({column}) WHEN 'real' THEN '{_REAL}'||quote({column}) ELSE {text} END"


def _document(text: bytes) -> bytes:
    real = text.removeprefix(_REAL.encode())
    return text if real == text else f"[{canonical.real_spelling(float(real))}]".encode()


def _line(check: TableCheck, line: Value, row: Row | None) -> bytes:
    """A row's line, without its jsonb columns; by Python where SQLite had none."""
    if line is not None or row is None:
        return check.utf8(line)
    cells = []
    for column, spelling in zip(check.load.columns, check.spelled(row), strict=True):
        if column in check.json:
            continue
        if canonical.is_quoted(column.conversion.to):
            cells.append("NULL" if spelling is None else "'" + spelling.replace("'", "''") + "'")
        else:
            cells.append(spelling or "")
    return ",".join(cells).encode()


def _printed(check: TableCheck, connection: Connection, documents: Sequence[Value]) -> list[bytes]:
    """Each `[document]` or `[]` as PostgreSQL prints the jsonb in it; what it does not take is left as it is."""
    sql = (
        "SELECT array_agg(coalesce((e->0)::text,'') ORDER BY n)"
        " FROM jsonb_array_elements(%s::text::jsonb) WITH ORDINALITY AS x(e,n)"
    )
    if not documents:
        return []
    texts = [_document(check.utf8(document)) for document in documents]
    try:
        with connection.transaction():
            (printed,) = one(connection, sql, f"[{b','.join(texts).decode()}]")
        if len(printed) == len(texts):
            return [text.encode() for text in printed]
    except (psycopg.DataError, UnicodeDecodeError):
        pass
    if len(texts) == 1:
        return [canonical.ODD.encode() + texts[0]]
    middle = len(texts) // 2
    return _printed(check, connection, documents[:middle]) + _printed(check, connection, documents[middle:])
