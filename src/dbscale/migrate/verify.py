"""Proof that a target holds what the source holds: every row, every column, and the schema.

Only reads: PostgreSQL in READ ONLY transactions, SQLite within one snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue

import apsw
import apsw.sqlite_extra
import psycopg

from dbscale.drivers import postgres
from dbscale.drivers.postgres import Connection
from dbscale.drivers.source import Reader, Source
from dbscale.errors import Finding, SourceError
from dbscale.migrate import encode, verify_buckets, verify_schema, verify_views
from dbscale.migrate.encode import Range
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


_Result = RowsReport | list[Finding]


@dataclass(frozen=True, slots=True)
class _Task:
    """One comparison that a thread can make by itself."""

    place: str
    work: Callable[[Reader, Connection], _Result]
    bytes: float = 0
    """About how much it reads."""


def verify(
    source: Source,
    connect: Callable[[], Connection],
    loads: Sequence[Load],
    schema: Schema | None,
    *,
    jobs: int = 2,
    quarantined: Mapping[str, Collection[str]] | None = None,
    views: Mapping[str, verify_views.View] | None = None,
    all_views: bool = False,
    samples: int = SAMPLES,
    progress: Callable[[str, int], None] = lambda _table, _rows: None,
) -> Report:
    """Compare `source` with the target that `connect` opens connections to.

    `loads` say which tables went where, and by which conversions; `schema` is what the target should look like, None
    to compare rows only. `quarantined` names, by table, rows that were kept apart (`row_key.canonical_key` of
    the quarantine's row_key): they are counted, and not expected in the target. `views` are the source's, by the
    target's name, whose rows are compared too; with `all_views` also of those that read many rows. `progress` hears
    of rows that were compared, from several threads.

    SourceError and Unreachable where a side cannot be read; a table that is missing is a finding.
    """
    began = time.perf_counter()
    report = Report()
    with source.snapshot(jobs) as readers, ExitStack() as stack:
        connections = [_session(stack, connect) for _ in readers]
        if schema is not None:
            report.findings += verify_schema.compare(readers[0], connections[0], schema, loads)
        absent = {finding.where for finding in report.findings if finding.code.endswith("-missing")}
        present = [load for load in loads if f"{load.schema}.{load.target}" not in absent]
        tasks, reports = [], {}
        if schema is not None:  # first, as a view cannot be divided among the sessions
            planned = {view.name for view in schema.views}
            tasks += [
                _Task(f"{schema.name}.{name}", partial(_compare_view, (schema.name, name), view, costly=all_views))
                for name, view in (views or {}).items()
                if name in planned and f"{schema.name}.{name}" not in absent
            ]
        of_rows: list[_Task] = []
        for load in present:
            check = _check(readers[0], load, (quarantined or {}).get(load.table, ()), samples)
            reports[load.table] = check.report()
            of_rows += _row_tasks(readers[0], check, progress)
        tasks += sorted(of_rows, key=lambda task: -task.bytes)  # at the end, all sessions are to be done at once
        for result in _run(tasks, readers, connections, source.interrupt):
            if isinstance(result, RowsReport):
                reports[result.table].add(result, samples)
            else:
                report.findings += result
        report.tables = [reports[load.table] for load in present]
    report.seconds = time.perf_counter() - began
    return report


def _session(stack: ExitStack, connect: Callable[[], Connection]) -> Connection:
    """A connection within a READ ONLY transaction, which ends with `stack`."""
    connection = stack.enter_context(connect())
    stack.enter_context(postgres.reading(connection))
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


def _row_tasks(reader: Reader, check: TableCheck, progress: Callable[[str, int], None]) -> Iterator[_Task]:
    """A table's comparison, in as many parts as it can be made in."""
    load = check.load
    place = f"{load.schema}.{load.target}"
    heard = partial(progress, load.table)
    if not check.by_range:
        whole = partial(verify_buckets.check_table, check, progress=heard)
        yield _Task(place, whole, load.bytes)
        return
    parts = encode.ranges(reader, load, PART_ROWS)
    for part in parts:
        yield _Task(place, partial(_compare_range, check, part, heard), load.bytes / len(parts))


def _compare_range(
    check: TableCheck, part: Range, heard: Callable[[int], None], reader: Reader, connection: Connection
) -> RowsReport:
    return check.check_range(reader, connection, part, heard)


def _compare_view(
    relation: tuple[str, str], view: verify_views.View, reader: Reader, connection: Connection, *, costly: bool
) -> list[Finding]:
    return verify_views.compare(reader, connection, relation, view, costly=costly)


def _run(
    tasks: Sequence[_Task],
    readers: Sequence[Reader],
    connections: Sequence[Connection],
    interrupt: Callable[[], None],
) -> Iterator[_Result]:
    """Every task's result, as many tasks at once as there are readers. An error stops them all, the source's reads by
    `interrupt`."""
    free: SimpleQueue[tuple[Reader, Connection]] = SimpleQueue()
    for reader, connection in zip(readers, connections, strict=True):
        float_bits(reader)
        free.put((reader, connection))

    def one(task: _Task) -> _Result:
        reader, connection = free.get()
        began = time.perf_counter()
        try:
            with connection.transaction():
                result = task.work(reader, connection)
        except psycopg.Error as error:
            return [_not_compared(task.place, error)]
        finally:
            free.put((reader, connection))
        if isinstance(result, RowsReport):
            result.seconds = time.perf_counter() - began
        return result

    with ThreadPoolExecutor(max_workers=len(readers)) as pool:
        futures = [pool.submit(one, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            interrupt()
            for connection in connections:
                with suppress(psycopg.Error, OSError):
                    connection.cancel_safe(timeout=2)
            raise


def _not_compared(place: str, error: psycopg.Error) -> Finding:
    """A finding; an error where it is the server that failed, and not what was asked of it."""
    if isinstance(error, psycopg.OperationalError):
        raise postgres.translated(error) from error
    return Finding(
        code="verify-not-compared",
        where=place,
        says=f"the rows could not be compared: {error.diag.message_primary or error}",
        try_="the table does not have the columns or types of the plan; see the other findings",
        level="blocker",
    )
