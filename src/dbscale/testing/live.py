"""Checks of what an application at work would feel of a revision: locks, waiting writers, replicas' readers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psycopg

from dbscale.drivers import postgres
from dbscale.environment import Revision
from dbscale.errors import DbscaleError, Finding
from dbscale.schema import quote
from dbscale.testing import kill, seed
from dbscale.testing.checks import Project, Skip, failed

STRONG = {
    "ShareLock": "nobody writes",
    "ShareRowExclusiveLock": "nobody writes",
    "ExclusiveLock": "nobody writes",
    "AccessExclusiveLock": "nobody reads or writes",
}
"""Locks that keep an application from its work, weakest first, and what they mean."""

# Table locks of this session's open transaction with the file and the full scans of each table.
_HELD = """
SELECT c.oid::int8, pg_relation_filenode(c.oid)::int8, s.seq_scan,
       (SELECT max(array_position(%s::text[], l.mode)) FROM pg_locks l
         WHERE l.pid = pg_backend_pid() AND l.relation = c.oid AND l.granted)
  FROM pg_class c LEFT JOIN pg_stat_xact_all_tables s ON s.relid = c.oid WHERE c.oid = ANY (%s::oid[])
"""


@dataclass(frozen=True, slots=True)
class Felt:
    """What one statement did to a table that was there before."""

    table: str
    statement: str
    lock: str
    rewritten: bool
    """Else it was read from end to end."""


def tables_stay_usable(project: Project) -> Iterator[Finding]:
    """T09: no statement rewrites a table that was there, or reads all of it, under a lock that keeps others out.

    Asked of the server after each statement, in its transaction: which locks it holds, whether a table's file is
    another, and whether a table was read whole. Of statements outside a transaction only rewrites are seen.
    """
    for revision in project.recent():
        with _seeded(project, revision) as (url, tables):
            with postgres.connect(url) as connection:
                # A search by key reads a table of two rows whole; what has to read it all does so all the same.
                connection.execute(f"ALTER DATABASE {quote(connection.info.dbname)} SET enable_seqscan = off".encode())
                files = {oid: file for oid, file, *_ in connection.execute(_HELD, [list(STRONG), list(tables)])}
            felt: list[Felt] = []
            with kill.watching(_tracer(tables, files, felt)):
                try:
                    project.migrations.upgrade(url, revision.id)
                except DbscaleError as error:
                    yield failed(revision, error, "migration-fails", "on tables with rows")
                    continue
        meant = revision.says("locks")
        for each in dict.fromkeys(felt):
            if meant & {each.table, each.table.removeprefix("public.")}:
                continue
            name = each.table.removeprefix("public.")
            deed = "is rewritten" if each.rewritten else "is read from end to end"
            yield Finding(
                code="migration-locks",
                where=str(revision.path),
                says=f"{name} {deed} while {STRONG[each.lock]} it: {_short(each.statement)}",
                try_="build it CONCURRENTLY, or NOT VALID and VALIDATE later; for a small table:"
                f" # dbscale: locks {name}",
                level="blocker",
            )


def _tracer(tables: Mapping[int, str], files: Mapping[int, int], felt: list[Felt]) -> kill.Watcher:
    """A watcher that notes what each statement did. Counters of one transaction go on from statement to statement."""
    now = dict(files)
    scans: dict[int, int] = {}

    def watch(statement: str, ask: kill.Ask) -> None:
        for oid, file, scanned, place in ask(_HELD, list(STRONG), list(tables)):
            before, scans[oid] = scans.get(oid, 0), scanned or 0
            rewritten, now[oid] = file != now[oid], file
            # After a commit the counters begin again.
            read = scans[oid] > (before if scans[oid] >= before else 0)
            if rewritten or (read and place):
                # Every rewrite keeps everybody out, also one whose transaction has ended with it.
                lock = "AccessExclusiveLock" if rewritten else list(STRONG)[place - 1]
                felt.append(Felt(tables[oid], statement, lock, rewritten))

    return watch


@contextmanager
def _seeded(project: Project, revision: Revision) -> Iterator[tuple[str, dict[int, str]]]:
    """A database just before a revision, its tables filled: its URL, and the tables with rows by oid."""
    before = revision.down[0] if revision.down else "base"
    with project.server.database(project.at(before)) as url:
        with postgres.connect(url) as connection:
            seed.fill(connection, script=project.seed if before in project.migrations.heads else "")
            filled = [table for table, content in seed.contents(connection).items() if content["count(*)"] != "0"]
            rows = connection.execute(
                "SELECT to_regclass(format('%%I.%%I', split_part(t, '.', 1), split_part(t, '.', 2)))::oid::int8, t"
                " FROM unnest(%s::text[]) t",
                [filled],
            ).fetchall()
        yield url, {oid: name for oid, name in rows if oid}


def writers_go_on(project: Project) -> Iterator[Finding]:
    """T10: while a report reads every table, and a revision waits for it, no writer waits longer than allowed.

    A revision that waits for a lock makes all who come after it wait too. With a lock_timeout it gives up in time,
    which is right, and has to succeed when the report is done.
    """
    if not project.blocked:
        raise Skip("dbscale_blocked names no time, in seconds, that a writer may wait")
    for revision in project.recent():
        with _seeded(project, revision) as (url, tables):
            if not tables:
                continue
            with _report(url, list(tables.values()), project.blocked * 2) as done, _writing(url, tables) as waited:
                gave_up = _gave_up(project, revision, url)
                done.wait()
            longest, table = max(waited, default=(0.0, ""))
            project.notes.append(f"{longest * 1000:7.0f} ms  {revision.path.name}: the longest that a writer waited")
            if gave_up:
                project.notes.append(f"{revision.path.name} gave up in time: {gave_up.says}")
                try:
                    project.migrations.upgrade(url, revision.id)
                except DbscaleError as error:
                    yield failed(revision, error, "migration-not-again", "again, after it gave up")
        if longest > project.blocked:
            yield Finding(
                code="migration-blocks",
                where=str(revision.path),
                says=f"a write to {table} waited {longest:.1f} s behind it, while a report read the table;"
                f" dbscale_blocked allows {project.blocked:g} s",
                try_="SET lock_timeout = '2s' in env.py, and try again where it gives up",
                level="blocker",
            )


def _gave_up(project: Project, revision: Revision, url: str) -> DbscaleError | None:
    """Run a revision; the error with which it gave up waiting for a lock. Other errors are told by other checks."""
    try:
        project.migrations.upgrade(url, revision.id)
    except DbscaleError as error:
        return error
    return None


@contextmanager
def _report(url: str, tables: list[str], seconds: float) -> Iterator[threading.Event]:
    """Somebody who reads every table in one transaction, and ends it after `seconds`: then the event is set."""
    done = threading.Event()
    with postgres.connect(url, name="dbscale report") as connection:
        connection.execute("BEGIN")
        for table in tables:
            connection.execute(f"SELECT FROM {quote(*table.split('.', 1))} LIMIT 1".encode())

        def end() -> None:
            connection.execute("ROLLBACK")
            done.set()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            yield done
        finally:
            timer.join()


@contextmanager
def _writing(url: str, tables: Mapping[int, str]) -> Iterator[list[tuple[float, str]]]:
    """Writers at work on each table for the block; how long each write took, and of which table."""
    over = threading.Event()
    waited: list[tuple[float, str]] = []

    def write(table: str) -> None:
        name = quote(*table.split(".", 1))
        with postgres.connect(url, name="dbscale writer") as connection:
            while not over.wait(0.05):
                began = time.perf_counter()
                try:
                    # No row changes; the locks are those of every DELETE.
                    connection.execute(f"DELETE FROM {name} WHERE false".encode())
                except psycopg.Error:
                    return  # the table is gone: other checks tell
                waited.append((time.perf_counter() - began, table))

    threads = [threading.Thread(target=write, args=[table]) for table in tables.values()]
    for thread in threads:
        thread.start()
    try:
        yield waited
    finally:
        over.set()
        for thread in threads:
            thread.join()


def replicas_go_on(project: Project) -> Iterator[Finding]:
    """T16: on a replica, no reader is cut off by a revision's replay, and the schema arrives as it is."""
    if not project.replica:
        raise Skip("dbscale_replica names no replica")
    with ExitStack() as stack:
        replica = stack.enter_context(project.server.replica(project.replica))
        for revision in project.recent():
            with _seeded(project, revision) as (url, tables):
                there = replica.there(url)
                replica.follow()
                with postgres.connect(there, name="dbscale report") as reader:
                    reader.execute("BEGIN")
                    for table in tables.values():
                        reader.execute(f"SELECT FROM {quote(*table.split('.', 1))} LIMIT 1".encode())
                    try:
                        project.migrations.upgrade(url, revision.id)
                    except DbscaleError as error:
                        yield failed(revision, error, "migration-fails", "on tables with rows")
                        continue
                    replica.follow()
                    cut = _cut_off(reader)
                same = project.catalog(there) == project.catalog(url)
            meant = bool(revision.says("locks"))
            if (cut and not meant) or not same:
                yield Finding(
                    code="migration-replica",
                    where=str(revision.path),
                    says=f"a reader on a replica is cut off: {cut}" if same else "the replica has another schema",
                    try_="deploy it when no reports run; that is meant: # dbscale: locks TABLE" if same else "",
                    level="blocker",
                )


def _cut_off(reader: postgres.Connection) -> str:
    """The server's words for the end of a reader's transaction; empty where it goes on."""
    try:
        reader.execute("SELECT 1")
    except psycopg.Error as error:
        return error.diag.message_detail or error.diag.message_primary or str(error)
    return ""


def _short(statement: str, most: int = 120) -> str:
    text = " ".join(statement.split())
    return text if len(text) <= most else text[: most - 1] + "…"


__all__ = ["replicas_go_on", "tables_stay_usable", "writers_go_on"]
