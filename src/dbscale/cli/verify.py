"""`dbscale verify`: every row, every column and the schema of source and target compared."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import click
import psycopg

from dbscale import catalog
from dbscale import config as configuration
from dbscale.cli import output, places
from dbscale.cli.migrate import SHARD_MAP, SHARD_TARGET, Spreading, make_options, reading, selection
from dbscale.drivers import postgres
from dbscale.drivers.source import Source, Way
from dbscale.errors import Finding
from dbscale.migrate import plan as planning
from dbscale.migrate.plan import Migration
from dbscale.migrate.row_key import canonical_key
from dbscale.migrate.verify import Report
from dbscale.migrate.verify import verify as compare
from dbscale.migrate.verify_views import View
from dbscale.plan import Load, LoadColumn, Plan
from dbscale.schema import quote

MOST_SHOWN = 20


@click.command()
@click.argument("source")
@click.argument("target")
@selection
@SHARD_MAP
@SHARD_TARGET
@reading
@click.option("--all-views", is_flag=True, help="Compare the rows of views that read many rows, too.")
@output.looking
def verify(
    source: str,
    target: str,
    *,
    way: Way,
    all_views: bool,
    jobs: int,
    state_schema: str,
    shard_map: tuple[str, ...],
    shard_target: str,
    as_json: bool,
    config: str | None,
    **chosen: Any,
) -> int:
    """Compare every row, every column and the schema of SOURCE and TARGET.

    Nothing is written on either side. The exit status is 1 when they differ; then the rows are shown, by key and
    column, with both values. Give the options that the migration was given.
    """
    settings = configuration.load(config)
    with places.opened(settings, source, way) as opened:
        destination = places.open_target(settings, target)
        spreading = Spreading.read(settings, destination, shard_map, shard_target)
        options = make_options(settings, chosen, spreading, jobs=jobs, state_schema=state_schema)
        migration = planning.make(
            opened,
            destination.url,
            options,
            source_reference=source,
            target_reference=target,
            ignore_rows=True,
            say=(lambda _: None) if as_json else output.say,
        )
        migration = spreading.spread(migration, opened, ignore_rows=True)
        report = check(migration, opened, spreading.urls, run=None, quiet=as_json, all_views=all_views)
        left = opened.close()
    return _answer(report, left, json=as_json)


def _answer(report: Report, left: Sequence[Finding], *, json: bool) -> int:
    """`left`: what was made for the reading and is still there. It makes no difference, but the status is 1."""
    if json:
        document = as_json(report)
        output.answer_json({**document, "findings": document["findings"] + output.findings_json(left)})
    else:
        output.show_findings(left)
        show(report)
    return 0 if report.same and not left else 1


def check(
    migration: Migration,
    source: Source,
    urls: Mapping[str, str],
    *,
    run: int | None,
    quiet: bool,
    all_views: bool = False,
) -> Report:
    """Compare what a migration was to bring about with what is there. Rows that `run` kept apart are not expected.

    Without a run, it is the newest one that was done from the same source. `urls`: the databases of the plan.
    """
    if run is None:
        run = _newest(migration, urls["target"])
    if not migration.parts:
        report = _check_one(migration, source, urls["target"], run=run, quiet=quiet, all_views=all_views)
        report.findings += migration.plan.left_behind
        return report
    began = time.perf_counter()
    report = Report()
    for name, part in migration.parts.items():
        found = _check_one(part, source, urls[name], run=run, quiet=quiet, all_views=all_views)
        if name != "target":
            for table in found.tables:
                table.target = f"{name}: {table.target}"
            found.findings = [replace(finding, where=f"{name}: {finding.where}") for finding in found.findings]
        report.tables += found.tables
        report.findings += found.findings
    report.findings += migration.plan.left_behind
    report.seconds = time.perf_counter() - began
    return report


def _newest(migration: Migration, url: str) -> int | None:
    """The newest run that filled this place from the migration's source; None: there is none.

    Only what that run kept apart may be missing here: another run's quarantine speaks of another schema.
    """
    reference = migration.plan.databases["source"]
    with postgres.connect(url, name="dbscale verify") as connection, postgres.reading(connection):
        runs = catalog.runs(connection, migration.options.state_schema)
    wanted = migration.plan.options
    return next(
        (
            each.id
            for each in runs
            if each.source == reference
            and each.state != "undone"
            and all(Plan.from_json(each.plan).options.get(key) == wanted[key] for key in ("schema", "identifiers"))
        ),
        None,
    )


def _check_one(
    migration: Migration, source: Source, url: str, *, run: int | None, quiet: bool, all_views: bool
) -> Report:
    """Compare the part of the source that one database got with what it holds."""
    views = {}
    if migration.target:
        known = {view.name: view for view in migration.survey.schema.views}
        made = {view.name for view in migration.target.schema.views}
        views = {
            view.target: View(known[view.source], view.columns, view.unsettled)
            for view in migration.target.views
            if view.source in known and view.target in made
        }
    with _progress(migration, quiet=quiet) as progress:
        return compare(
            source,
            lambda: postgres.connect(url, name="dbscale verify"),
            _with_generated(migration),
            migration.target.schema if migration.target else None,
            jobs=migration.options.jobs,
            quarantined=_kept_apart(migration, url, run),
            views=views,
            all_views=all_views,
            progress=progress,
        )


def _with_generated(migration: Migration) -> list[Load]:
    """The loads, with the columns that PostgreSQL generates: not loaded, but to hold what the source's hold."""
    if migration.target is None:
        return list(migration.loads)
    loads = []
    for load in migration.loads:
        loaded = {column.source for column in load.columns}
        made = {column.name for column in migration.target.schema.table(load.target).columns if column.generated}
        extra = tuple(
            LoadColumn(
                source=column.name, target=name, conversion=migration.choices[load.table, column.name].conversion
            )
            for column in migration.survey.schema.table(load.table).columns
            if column.generated and column.name not in loaded
            for name in [migration.target.renamed.get(f"{load.table}.{column.name}", column.name)]
            if name in made and (load.table, column.name) in migration.choices
        )
        loads.append(replace(load, columns=load.columns + extra))
    return loads


def _kept_apart(migration: Migration, url: str, run: int | None) -> dict[str, list[str]]:
    """The keys of quarantined rows, by the source's table."""
    schema = migration.options.state_schema
    if run is None:
        return {}
    with postgres.connect(url, name="dbscale verify") as connection, postgres.reading(connection):
        try:
            found = connection.execute(
                f"SELECT table_name, row_key FROM {quote(schema)}.quarantine WHERE run_id = %s".encode(), [run]
            )
        except psycopg.errors.UndefinedTable:
            return {}
        keys: dict[str, list[str]] = {}
        for table, key in found:
            keys.setdefault(table, []).append(canonical_key(key))
        return keys


@contextmanager
def _progress(migration: Migration, *, quiet: bool) -> Iterator[Callable[[str, int], None]]:
    """How far the comparison is, on stderr: a bar on a terminal, a line every ten seconds elsewhere."""
    total = sum(load.rows for load in migration.loads)
    if quiet:
        yield lambda _table, _rows: None
        return
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("verify"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("verify", total=total)
            yield lambda _table, rows: bar.advance(task, rows)
        return
    lock, done, last = threading.Lock(), 0, time.monotonic()

    def line(_table: str, rows: int) -> None:
        nonlocal done, last
        with lock:
            done += rows
            if time.monotonic() - last >= 10:
                last = time.monotonic()
                output.say(f"  verify: {output.count(done)} of {output.count(total)} rows")

    yield line


def as_json(report: Report) -> dict[str, Any]:
    """A report for a JSON document."""
    return {
        "same": report.same,
        "seconds": round(report.seconds, 3),
        "tables": [
            {**asdict(table), "same": table.same, "seconds": round(table.seconds, 3)} for table in report.tables
        ],
        "findings": output.findings_json(report.findings),
    }


def show(report: Report) -> None:
    """A report for people: the verdict on stdout, and before it every table and row that differs."""
    output.show_findings(report.findings, err=False, gravest="differs")
    wrong = [table for table in report.tables if not table.same]
    if wrong:
        rows = [
            (
                table.target,
                output.count(table.source_rows),
                output.count(table.target_rows),
                *(
                    f"{'' if table.complete else '≥ '}{output.count(n)}"
                    for n in (table.missing, table.extra, table.different)
                ),
            )
            for table in wrong
        ]
        headers = ("table", "source", "target", "missing", "extra", "different")
        output.answer(output.table(headers, rows, right=range(1, 6)))
    for table in wrong:
        for sample in table.samples[:MOST_SHOWN]:
            detail = f": {sample.column}: {sample.source} became {sample.target}" if sample.column else ""
            output.answer(f"{table.target}: {sample.key}: {sample.kind}{detail}")
    compared = sum(table.source_rows for table in report.tables)
    apart = sum(table.quarantined for table in report.tables)
    rate = f", {output.count(compared / report.seconds)} rows/s" if report.seconds > 0.1 else ""
    kept = f", {output.count(apart)} of them kept apart" if apart else ""
    verdict = "the same" if report.same else "NOT the same"
    output.answer(
        f"verified: {verdict}: {output.count(compared)} rows in {len(report.tables)} tables{kept}"
        f" ({output.seconds(report.seconds)}{rate})"
    )
