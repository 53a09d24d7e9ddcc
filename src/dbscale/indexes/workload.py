"""What a database is asked, and how often: from pg_stat_statements, a server's log, or a file of SQL.

Statements that differ in their constants only are one `Statement`, with some of the constants kept to be tried.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from dbscale.drivers.postgres import Connection
from dbscale.errors import Missing
from dbscale.query import Query, fingerprint, parse, script

SAMPLES = 3
"""How many sets of constants are kept of one statement."""
VERBS = ("select", "insert", "update", "delete")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    sql: str
    """With `$1` placeholders, or with constants."""
    calls: float = 1
    seconds: float = 0.0
    """The time of all calls together; 0: not known."""
    rows: float = 0.0
    """Rows that all calls returned or changed; 0: not known."""
    samples: tuple[str, ...] = ()
    """The same statement with other constants."""
    constants: bool = False
    """`sql` and `samples` hold the constants that were sent."""

    @property
    def query(self) -> Query:
        return parse(self.sql)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    statements: tuple[Statement, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    """Statements that were left out, and why."""
    sources: tuple[str, ...] = field(default=())
    """Where they come from, for people."""

    @property
    def timed(self) -> bool:
        return any(statement.seconds for statement in self.statements)


def join(workloads: Iterable[Workload]) -> Workload:
    """Several workloads as one: what is alike is added up."""
    workloads = list(workloads)
    return Workload(
        statements=tuple(
            _merged((fingerprint(each.sql), each) for workload in workloads for each in workload.statements)
        ),
        skipped=tuple(item for workload in workloads for item in workload.skipped),
        sources=tuple(source for workload in workloads for source in workload.sources),
    )


def from_server(connection: Connection) -> Workload:
    """The statements that pg_stat_statements has seen in this database; Missing where it is not installed."""
    version = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'pg_stat_statements'").fetchone()
    if version is None:
        raise Missing(
            "pg_stat_statements is not installed in this database",
            where="--from stats",
            try_="CREATE EXTENSION pg_stat_statements; or --from a log or a file of SQL",
        )
    row = connection.execute("SELECT 'pg_stat_statements' = ANY (string_to_array(replace(current_setting("
                             "'shared_preload_libraries', true), ' ', ''), ','))").fetchone()  # fmt: skip
    if row == (False,):
        raise Missing(
            "pg_stat_statements is not loaded by this server",
            where="shared_preload_libraries",
            try_="add it there and restart the server; or --from a log or a file of SQL",
        )
    schema = connection.execute(
        "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
        " WHERE e.extname = 'pg_stat_statements'"
    ).fetchone()
    place = schema[0] if schema else "public"
    total = "total_exec_time" if _at_least(version[0], (1, 8)) else "total_time"
    rows = connection.execute(
        f"SELECT query, calls, {total} / 1000, rows FROM {place}.pg_stat_statements"
        " WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query IS NOT NULL"
    ).fetchall()
    return _build(
        (Statement(sql=sql, calls=calls, seconds=seconds, rows=returned) for sql, calls, seconds, returned in rows),
        f"pg_stat_statements, {len(rows)} entries",
    )


def _at_least(version: str, wanted: tuple[int, ...]) -> bool:
    return tuple(int(part) for part in version.split(".")) >= wanted


def from_sql(text: str, title: str = "SQL") -> Workload:
    """The statements of a file of SQL.

    A comment before a statement may say how often it runs and how long it takes: `-- calls: 40000, ms: 1.2`.
    Placeholders may be `$1`, `:name` or `%s`.
    """
    return _build(
        (Statement(sql=entry.sql, calls=entry.calls, seconds=entry.seconds) for entry in script.entries(text, title)),
        title,
    )


# `LOG:  duration: 12.3 ms  statement: …`, `… execute name: …`, `… plan:` is auto_explain's and not ours.
_ENTRY = re.compile(
    r"duration: (?P<ms>[0-9.]+) ms\s+(?:statement|execute [^:]*): (?P<sql>.*)", re.IGNORECASE | re.DOTALL
)
_PLAIN = re.compile(r"^(?:statement|execute [^:]*): (?P<sql>.*)", re.IGNORECASE | re.DOTALL)
_MARK = re.compile(r"\b(LOG|DETAIL|STATEMENT|ERROR|HINT|CONTEXT|FATAL|WARNING|NOTICE):  ")
_PARAMETER = re.compile(r"\$(\d+) = (NULL|'(?:[^']|'')*')")


def from_log(text: str, title: str = "log") -> Workload:
    """The statements of a PostgreSQL log: stderr with any prefix, csvlog or jsonlog.

    Written with log_min_duration_statement or log_statement. The parameters in a DETAIL line are put in as
    constants. A statement that is logged with its duration counts by it.
    """
    found = []
    for message, detail in _messages(text):
        match = _ENTRY.match(message) or _PLAIN.match(message)
        if not match:
            continue
        sql = match["sql"].strip().rstrip(";")
        values = dict(_PARAMETER.findall(detail))
        if values:
            sql = re.sub(r"\$(\d+)", lambda mark: values.get(mark[1], mark[0]), sql)  # noqa: B023 - used at once
        ms = match.groupdict().get("ms")
        found.append(Statement(sql=sql, seconds=float(ms) / 1000 if ms else 0.0))
    return _build(found, title)


def _messages(text: str) -> Iterator[tuple[str, str]]:
    """Messages and their details."""
    head = text.lstrip()[:1]
    if head == "{":
        for line in text.splitlines():
            entry = json.loads(line) if line.startswith("{") else {}
            yield str(entry.get("message", "")), str(entry.get("detail", ""))
        return
    first = text.lstrip().split("\n", 1)[0]
    if first.count(",") >= 20 and not _MARK.search(first):
        for row in csv.reader(io.StringIO(text)):
            if len(row) > 14:
                yield row[13], row[14]
        return
    yield from _stderr(text)


def _stderr(text: str) -> Iterator[tuple[str, str]]:
    message: list[str] = []
    detail: list[str] = []
    current: list[str] | None = None
    for line in text.splitlines():
        mark = _MARK.search(line) if not line.startswith("\t") else None
        if mark is None:
            if current is not None and line.startswith("\t"):
                current.append(line[1:])
            continue
        rest = line[mark.end() :]
        if mark[1] == "DETAIL":
            detail.append(rest)
            current = detail
            continue
        if message:
            yield "\n".join(message), "\n".join(detail)
        message, detail = ([rest], []) if mark[1] == "LOG" else ([], [])
        current = message if mark[1] == "LOG" else None
    if message:
        yield "\n".join(message), "\n".join(detail)


def from_text(text: str, title: str) -> Workload:
    """A log or a file of SQL, whichever it is."""
    first = text.lstrip()[:2000]
    log = first.startswith("{") or _MARK.search(first) or re.search(r"duration: [0-9.]+ ms", first)
    return from_log(text, title) if log else from_sql(text, title)


def _build(statements: Iterable[Statement], title: str) -> Workload:
    kept: list[tuple[str, Statement]] = []
    skipped: list[tuple[str, str]] = []
    known: dict[str, str | None] = {}  # why those of a mark are left out; None where they are kept
    for statement in statements:
        mark = fingerprint(statement.sql)
        if mark in known:  # a log has many alike: to read each would take seventy times as long
            found, why = replace(statement, constants=not _NUMBERED.search(statement.sql)), known[mark]
        else:
            found = _readable(statement)
            why = _left_out(found.query)
            if mark:
                known[mark] = why
        if why is None:
            kept.append((mark or fingerprint(found.sql), found))
        elif why:
            skipped.append((found.sql, why))
    return Workload(statements=tuple(_merged(kept)), skipped=tuple(skipped), sources=(title,))


_NUMBERED = re.compile(r"\$\d")


def _left_out(query: Query) -> str | None:
    """Why a statement is no part of the workload; empty where nobody needs to know; None where it is one."""
    if query.verb in ("unknown", "merge") or (query.verb in VERBS and query.unsure):
        return "; ".join(query.unsure) or "it is not analysed"
    return None if query.verb in VERBS and not _of_the_system(query) else ""


def _readable(statement: Statement) -> Statement:
    """The statement with `$1` placeholders, whichever style it is written in."""
    query = statement.query
    if query.verb == "unknown" and query.unsure:
        for style in ("named", "format"):
            read = parse(statement.sql, style)
            if read.sql != statement.sql and read.verb != "unknown":
                return replace(statement, sql=read.sql)
    return replace(statement, constants=not _NUMBERED.search(statement.sql))


def _of_the_system(query: Query) -> bool:
    """It asks only about the server or is dbscale's own."""
    return all(
        table.schema in ("pg_catalog", "information_schema", "dbscale") or table.name.startswith("pg_")
        for table in query.tables
    )


def _merged(statements: Iterable[tuple[str, Statement]]) -> list[Statement]:
    """Statements of one mark added up; the most expensive first."""
    found: dict[str, Statement] = {}
    for mark, statement in statements:
        first = found.get(mark)
        if first is None:
            found[mark] = statement
            continue
        others = [first.sql, *first.samples]
        more = tuple(
            sql for sql in (statement.sql, *statement.samples) if sql not in others
        )[: SAMPLES - len(others)] if statement.constants and first.constants else ()  # fmt: skip
        found[mark] = replace(
            first,
            calls=first.calls + statement.calls,
            seconds=first.seconds + statement.seconds,
            rows=first.rows + statement.rows,
            samples=first.samples + more,
        )
    return sorted(found.values(), key=lambda statement: (-statement.seconds, -statement.calls))


__all__ = ["Statement", "Workload", "from_log", "from_server", "from_sql", "from_text", "join"]
