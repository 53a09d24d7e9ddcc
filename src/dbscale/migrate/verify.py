"""Proof that a target holds what the source holds: every row, every column, and the schema.

Only reads: PostgreSQL in READ ONLY transactions, SQLite within one snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from queue import SimpleQueue

import apsw
import apsw.sqlite_extra
import psycopg

from dbscale.drivers import postgres
from dbscale.drivers.postgres import Connection
from dbscale.drivers.source import Reader, Source
from dbscale.errors import Finding, SourceError
from dbscale.migrate import encode, verify_buckets, verify_schema
from dbscale.migrate.encode import Range
from dbscale.migrate.model import SourceObject
from dbscale.migrate.verify_rows import RowsReport, TableCheck
from dbscale.plan import Load
from dbscale.schema import Schema

PART_ROWS = 200_000
SAMPLES = 20


@dataclass(slots=True, kw_only=True)
class Report:
    """What was compared, and every way in which the two sides differ."""

    tables: list[RowsReport] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    """Differences of the schema, and tables that could not be compared."""
    seconds: float = 0.0

    @property
    def same(self) -> bool:
        """Whether there is no difference at all."""
        grave = any(finding.level != "note" for finding in self.findings)
        return not grave and all(table.same for table in self.tables)


@dataclass(frozen=True, slots=True)
class _Task:
    check: TableCheck
    part: Range


def verify(
    source: Source,
    connect: Callable[[], Connection],
    loads: Sequence[Load],
    schema: Schema | None,
    *,
    jobs: int = 2,
    quarantined: Mapping[str, Collection[str]] | None = None,
    views: Mapping[str, SourceObject] | None = None,
    samples: int = SAMPLES,
    progress: Callable[[str, int], None] = lambda _table, _rows: None,
) -> Report:
    """Compare `source` with the target that `connect` opens connections to.

    `loads` say which tables went where, and by which conversions; `schema` is what the target should look like, None
    to compare rows only. `quarantined` names, by table, rows that were kept apart (`verify_rows.canonical_key` of
    the quarantine's row_key): they are counted, and not expected in the target. `views` are the source's, by the
    target's name, whose rows are compared too. `progress` hears of rows that were compared, from several threads.

    SourceError and Unreachable where a side cannot be read; a table that is missing is a finding.
    """
    began = time.perf_counter()
    report = Report()
    with source.snapshot(jobs) as readers, ExitStack() as stack:
        connections = [_session(stack, connect) for _ in readers]
        if schema is not None:
            report.findings += verify_schema.compare(readers[0], connections[0], schema, loads, views or {})
        missing = {finding.where for finding in report.findings if finding.code == "verify-table-missing"}
        tasks, reports = [], {}
        for load in sorted(loads, key=lambda load: -load.bytes):
            if load.target in missing:
                continue
            check = _check(readers[0], load, (quarantined or {}).get(load.table, ()), samples)
            reports[load.table] = check.report()
            parts = encode.ranges(readers[0], load, PART_ROWS) if check.by_range else [Range()]
            tasks += [_Task(check, part) for part in parts]
        for part in _run(tasks, readers, connections, progress, report):
            reports[part.table].add(part, samples)
        report.tables = [reports[load.table] for load in loads if load.table in reports]
    report.seconds = time.perf_counter() - began
    return report


def _session(stack: ExitStack, connect: Callable[[], Connection]) -> Connection:
    """A connection within a READ ONLY transaction, which ends with `stack`."""
    connection = stack.enter_context(connect())
    stack.enter_context(postgres.reading(connection))
    connection.execute("SET LOCAL statement_timeout = 0")
    return connection


def _check(reader: Reader, load: Load, apart: Collection[str], samples: int) -> TableCheck:
    (encoding,) = next(reader.rows("PRAGMA encoding"))
    floats = float_bits(reader)
    return TableCheck(reader, load, encoding=str(encoding), floats=floats, apart=apart, samples=samples)


def float_bits(reader: Reader) -> bool:
    """Whether SQLite can give a float's bits (`ieee754_to_blob`), after loading the function where that can be done."""
    try:
        return list(reader.rows("SELECT hex(ieee754_to_blob(1.0))")) == [("3FF0000000000000",)]
    except SourceError:
        connection = getattr(reader, "connection", None)
    if not isinstance(connection, apsw.Connection) or not apsw.sqlite_extra.has("ieee754"):
        return False
    apsw.sqlite_extra.load(connection, "ieee754")
    return True


def _run(
    tasks: Sequence[_Task],
    readers: Sequence[Reader],
    connections: Sequence[Connection],
    progress: Callable[[str, int], None],
    report: Report,
) -> list[RowsReport]:
    """Every task's report, as many tasks at once as there are readers."""
    free: SimpleQueue[tuple[Reader, Connection]] = SimpleQueue()
    for reader, connection in zip(readers, connections, strict=True):
        float_bits(reader)
        free.put((reader, connection))

    def one(task: _Task) -> RowsReport:
        reader, connection = free.get()
        began = time.perf_counter()
        try:
            table = task.check.load.table
            found = _compare(task, reader, connection, lambda rows: progress(table, rows))
        finally:
            free.put((reader, connection))
        found.seconds = time.perf_counter() - began
        return found

    done: list[RowsReport] = []
    with ThreadPoolExecutor(max_workers=len(readers)) as pool:
        futures = {pool.submit(one, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                try:
                    done.append(future.result())
                except psycopg.Error as error:
                    report.findings.append(_not_compared(futures[future].check.load, error))
        except BaseException:
            for future in futures:
                future.cancel()
            raise
    return done


def _compare(task: _Task, reader: Reader, connection: Connection, progress: Callable[[int], None]) -> RowsReport:
    with connection.transaction():
        if task.check.by_range:
            return task.check.check_range(reader, connection, task.part, progress)
        return verify_buckets.check_table(task.check, reader, connection, progress)


def _not_compared(load: Load, error: psycopg.Error) -> Finding:
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        raise postgres.translated(error) from error
    return Finding(
        code="verify-not-compared",
        where=f"{load.schema}.{load.target}",
        says=f"the rows could not be compared: {error.diag.message_primary or error}",
        try_="the table does not have the columns or types of the plan; see the other findings",
        level="blocker",
    )
