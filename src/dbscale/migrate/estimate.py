"""How large the target will be, and how long the migration will take: estimates, from counts and a short measurement.

Sizes follow PostgreSQL's page layout (documentation, "Database Page Layout"): a row takes its values, a header of 23
bytes padded to 24, and a line pointer of 4; a B-tree entry takes its key, a header of 8 and a line pointer of 4, and
pages are 90 % full. Time is measured, not guessed: SQLite writes COPY input for part of a second, on this machine and
from this source; the whole of a migration is that pace times a factor that `scripts/bench` shows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from dbscale.drivers.source import Reader
from dbscale.migrate.encode import Encoder
from dbscale.plan import Load
from dbscale.schema import Schema, Table, quote

ROW_OVERHEAD = 28
INDEX_OVERHEAD = 12
INDEX_FILL = 0.9
KEY_BYTES = {"bigint": 8, "integer": 4, "uuid": 16, "timestamptz": 8, "timestamp": 8, "boolean": 1, "date": 4}
OTHER_KEY_BYTES = 20
HNSW_BYTES = 307
"""Of an entry with 16 neighbours, beside its vector: measured with pgvector 0.8."""
PAGE = 8192
WHOLE_TO_ENCODING = 3.0
"""A whole migration with verification, to writing COPY input in one thread: 2.5 to 3.5 in `scripts/bench`."""
SAMPLE_SECONDS = 0.5


def target_bytes(schema: Schema, loads: Sequence[Load]) -> int:
    """About how many bytes tables and indexes will take."""
    return sum(table_bytes(schema.table(load.target), load) for load in loads)


def table_bytes(table: Table, load: Load) -> int:
    """About how many bytes one table and its indexes will take."""
    width = {column.name: KEY_BYTES.get(column.type, OTHER_KEY_BYTES) for column in table.columns}
    keys = [sum(width[name] for name in key.columns) for key in table.keys]
    keys += [OTHER_KEY_BYTES * len(index.terms) for index in table.indexes if index.method != "hnsw"]
    indexes = sum((bytes_ + INDEX_OVERHEAD) / INDEX_FILL for bytes_ in keys)
    vectors = {quote(column.name): column.type for column in table.columns}
    indexes += sum(hnsw_bytes(vectors[index.terms[0]]) for index in table.indexes if index.method == "hnsw")
    return round(load.rows * (ROW_OVERHEAD + indexes) + load.bytes)


def hnsw_bytes(type_: str) -> float:
    """About how many bytes an entry takes of an HNSW index on a `vector(n)`: entries lie within pages."""
    entry = HNSW_BYTES + 4 * int(type_.removeprefix("vector(").removesuffix(")"))
    return PAGE / (PAGE // entry) if entry <= PAGE else 2 * PAGE


def seconds(reader: Reader, loads: Sequence[Load], *, encoding: str, jobs: int) -> float:
    """About how long migrating and verifying will take with `jobs` sessions, by the pace of the largest table."""
    total = sum(load.bytes for load in loads)
    largest = max(loads, key=lambda load: load.bytes, default=None)
    if largest is None or not largest.rows or not largest.bytes:
        return 0.0
    encoder = Encoder(largest, reader.library, reader.function_arguments, encoding=encoding)
    began = time.perf_counter()
    rows = 0
    for batch in encoder.batches(reader):
        rows += batch.rows + len(batch.refused)
        if time.perf_counter() - began > SAMPLE_SECONDS:
            break
    took = time.perf_counter() - began
    pace = rows * largest.bytes / largest.rows / took  # bytes of the source a second
    return total / pace * WHOLE_TO_ENCODING / max(1, min(jobs, 2))
