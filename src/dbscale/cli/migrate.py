"""`dbscale migrate`."""

from __future__ import annotations

import functools
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dbscale import catalog
from dbscale import config as configuration
from dbscale.cli import output, places
from dbscale.cli.places import Target
from dbscale.cli.progress import label
from dbscale.cli.revision import REVISION, write_revision
from dbscale.drivers.source import Source, Way
from dbscale.errors import ConfigError, Unreachable
from dbscale.migrate import plan as planning
from dbscale.migrate.plan import Migration, Options
from dbscale.plan import Load, Plan, Sql

if TYPE_CHECKING:
    from dbscale.shards.map import Maps
from dbscale.cli.runs import Outcome, carry_out, settle_earlier, summary

F = TypeVar("F", bound=Callable[..., Any])


def selection(command: F) -> F:
    """The options that say what of the source is meant, and what becomes of it. `verify` takes them too."""
    options = (
        click.option("--only", multiple=True, metavar="TABLE", help="Only this table (again for more)."),
        click.option("--skip", multiple=True, metavar="TABLE", help="Not this table (again for more)."),
        click.option("--schema", default="public", show_default=True, help="The target's schema."),
        click.option(
            "--identifiers",
            type=click.Choice(["preserve", "lower", "snake"]),
            default="preserve",
            show_default=True,
            help="Names as they are, in lower case, or in snake_case.",
        ),
        click.option("--collate", default="", metavar="NAME", help="A collation for text; C sorts as SQLite does."),
        click.option(
            "--on-invalid-text",
            type=click.Choice(["stop", "replace", "bytea", "quarantine"]),
            default="stop",
            show_default=True,
            help="Text with NUL or broken UTF-8.",
        ),
        click.option(
            "--into-existing", is_flag=True, help="Load only, into tables that the application's migrations made."
        ),
        click.option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Sessions at once."),
        click.option(
            "--state-schema", default=catalog.DEFAULT_SCHEMA, show_default=True, help="Where dbscale keeps its tables."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def reading(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how the source is read; the command gets them as one `way`."""

    @click.option("--copy-first", is_flag=True, help="Copy SOURCE to a temporary file and read the copy.")
    @click.option("--branch", is_flag=True, help="Make a branch of SOURCE at Turso Cloud, read it, and destroy it.")
    @click.option("--frozen", is_flag=True, help="Nobody writes to SOURCE, a branch on a libSQL server.")
    @functools.wraps(command)
    def with_way(*arguments: Any, copy_first: bool, branch: bool, frozen: bool, **options: Any) -> Any:
        return command(*arguments, way=Way(copy_first=copy_first, branch=branch, frozen=frozen), **options)

    return with_way


SHARD_MAP = click.option(
    "--shard-map", multiple=True, metavar="FILE", help="Spread the rows over the shards of this map (again for more)."
)

SHARD_TARGET = click.option(
    "--shard-target",
    type=click.Choice(["client", "partitions"]),
    default="client",
    show_default=True,
    help="Of --shard-map: servers of their own, or partitions of one.",
)


@click.command()
@click.argument("source")
@click.argument("target")
@selection
@SHARD_MAP
@SHARD_TARGET
@click.option(
    "--on-bad-row",
    type=click.Choice(["stop", "quarantine"]),
    default="stop",
    show_default=True,
    help="A row that the target's types cannot hold.",
)
@click.option("--truncate", is_flag=True, help="With --into-existing: empty the tables first.")
@reading
@click.option("--hold-writes", is_flag=True, help="Keep writers out of the source until the end.")
@click.option("--no-verify", is_flag=True, help="Do not compare source and target afterwards.")
@click.option("-o", "--out", metavar="FILE", help="Write the plan as JSON to FILE (- for stdout) and stop.")
@click.option("--sql", "as_sql", is_flag=True, help="Show the plan as SQL and stop.")
@REVISION
@output.changing
@output.common
def migrate(
    source: str,
    target: str,
    *,
    out: str | None,
    as_sql: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    config: str | None,
    no_verify: bool,
    way: Way,
    hold_writes: bool,
    jobs: int,
    state_schema: str,
    shard_map: tuple[str, ...],
    shard_target: str,
    revision: str | None,
    **chosen: Any,
) -> int:
    """Copy SOURCE (SQLite or Turso) into TARGET (PostgreSQL), and prove that every row arrived.

    The plan is shown first: --dry-run stops there. A run that was interrupted goes on when the same command is given
    again.
    """
    settings = configuration.load(config)
    with places.opened(settings, source, replace(way, hold_writes=hold_writes)) as opened:
        destination = places.look_target(settings, target)
        spreading = Spreading.read(settings, destination, shard_map, shard_target)
        options = make_options(settings, chosen, spreading, jobs=jobs, state_schema=state_schema)

        def make(*, ignore_rows: bool) -> Migration:
            made = planning.make(
                opened,
                destination.url,
                options,
                source_reference=source,
                target_reference=target,
                ignore_rows=ignore_rows,
                stopped=destination.stopped,
                say=(lambda _: None) if as_json else output.say,
            )
            return spreading.spread(made, opened, ignore_rows=ignore_rows)

        if revision:
            return write_revision(revision, make(ignore_rows=True), as_json=as_json)
        if out or as_sql or dry_run:
            migration = make(ignore_rows=False)
            return show_plan(migration.plan, migration, out=out, as_sql=as_sql, as_json=as_json)
        migration, outcome = _carried_out(make, opened, source, options, spreading.urls, yes=yes, quiet=as_json)
        if outcome.loads and not as_json:
            output.answer(summary(outcome))
        return conclude(migration, opened, spreading.urls, outcome, as_json=as_json, no_verify=no_verify)


def _carried_out(
    make: Callable[..., Migration],
    source: Source,
    reference: str,
    options: Options,
    urls: Mapping[str, str],
    *,
    yes: bool,
    quiet: bool,
) -> tuple[Migration, Outcome]:
    """Go on with the run that an earlier command began, or make a plan and carry it out."""
    earlier = settle_earlier(reference, options.as_strings(), source, urls, options.state_schema, yes=yes)
    if earlier and earlier.state == "done":
        output.say(f"run {earlier.id} has done this already")
        return make(ignore_rows=True), Outcome(run=earlier.id)
    if earlier:
        plan = Plan.from_json(earlier.plan)
        outcome = carry_out(plan, source, urls, options.state_schema, jobs=options.jobs, resume=earlier, quiet=quiet)
        return make(ignore_rows=True), outcome
    began = time.perf_counter()
    migration = make(ignore_rows=False)
    planned = time.perf_counter() - began
    if not quiet:
        output.say(headline(migration.plan))
        told = migration.plan.blockers[:1]  # by the error that it is about to be
        output.show_findings(each for each in migration.plan.findings if each not in told)
    if options.truncate:
        output.confirm("Empty the target's tables and fill them from the source?", yes=yes)
    outcome = carry_out(migration.plan, source, urls, options.state_schema, jobs=options.jobs, resume=None, quiet=quiet)
    outcome.plan_seconds = planned
    return migration, outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Spreading:
    """What `--shard-map` says, and where the databases are; without it, just the target."""

    urls: Mapping[str, str]
    """By name in the plan."""
    maps: Maps | None = None
    home: str = ""
    """The target's name in dbscale.toml."""
    partitions: bool = False
    """The maps' ranges become partitions of the target."""

    @classmethod
    def read(cls, settings: configuration.Config, target: Target, files: Sequence[str], kind: str) -> Spreading:
        """ConfigError where a map is wrong, or the target is not the home of the shards."""
        if not files:
            return cls(urls={"target": target.url})
        if target.stopped:
            raise Unreachable(target.stopped, where=target.reference, try_="dbscale local up, then the same command")
        from dbscale.shards import file
        from dbscale.shards.facts import databases

        loaded = [map_ for path in files for map_ in file.load(path, settings).maps]
        if not loaded:
            raise ConfigError("there is no such map", where=", ".join(files), try_="--shard-map shard_maps/NAME.toml")
        if not settings.shards:
            raise ConfigError("dbscale.toml names no shards", where="[shards]", try_='shard_1 = "NAME OF A DATABASE"')
        maps = file.together(loaded, settings.shards)
        if kind == "partitions":
            return cls(urls={"target": target.url}, maps=maps, partitions=True)
        home = settings.shards.get("home", target.reference)
        if "home" in settings.shards and places.open_target(settings, home).url != target.url:
            raise ConfigError(
                f"the tables on no map go to {home}, the home of the shards",
                where=f"{settings.path}: shards.home",
                try_=f"dbscale migrate SOURCE {home} --shard-map …",
            )
        names = dict.fromkeys(name for map_ in maps.maps for name in databases(map_, maps.shards))
        urls = {name: places.open_target(settings, name).url for name in names if name != home}
        return cls(urls={"target": target.url, **urls}, maps=maps, home=home)

    def spread(self, migration: Migration, source: Source, *, ignore_rows: bool) -> Migration:
        """The migration over all databases; the same one without maps."""
        if self.maps is None:
            return migration
        from dbscale.migrate import partitioned, sharded

        if self.partitions:
            return partitioned.partition(migration, source, self.maps)

        servers = sharded.Servers(urls={**self.urls, self.home: self.urls["target"]}, home=self.home)
        return sharded.spread(migration, source, self.maps, servers, ignore_rows=ignore_rows)


def make_options(
    settings: configuration.Config,
    chosen: dict[str, Any],
    spreading: Spreading | None = None,
    *,
    jobs: int,
    state_schema: str,
) -> Options:
    """The command line's options and dbscale.toml's as the plan takes them."""
    maps = spreading.maps.maps if spreading and spreading.maps else ()
    if chosen.get("truncate") and not chosen.get("into_existing"):
        raise ConfigError("--truncate goes with --into-existing", where="command line", try_="add --into-existing")
    return Options(
        types=settings.types,
        jobs=jobs,
        state_schema=state_schema,
        shard_maps={map_.name: map_.checksum for map_ in maps},
        shard_target="partitions" if spreading and spreading.partitions else "",
        **chosen,
    )


def headline(plan: Plan) -> str:
    """`plan 9778c19beeaa: 14 tables, 2 031 554 rows, 22 indexes`."""
    loads = [step for step in plan.steps if isinstance(step, Load)]
    indexes = sum(1 for step in plan.steps if isinstance(step, Sql) and step.group == "indexes")
    tables = len({load.table for load in loads})
    rows = output.count(sum(load.rows for load in loads))
    size = output.size(sum(load.bytes for load in loads))
    return f"plan {plan.id}: {plan.title}: {tables} tables, {rows} rows, {size}, {indexes} indexes"


def show_plan(plan: Plan, migration: Migration, *, out: str | None, as_sql: bool, as_json: bool) -> int:
    """The plan on stdout or in a file. Exit status 2 when it is blocked."""
    if out or as_json or as_sql:
        output.show_findings(each for each in plan.findings if each.code == "target-stopped")
        output.show_blockers(plan)
    if out:
        output.saved(plan, out, as_json=as_json)
    elif as_json:
        output.answer(plan.to_json())
    elif as_sql:
        output.answer(plan.to_sql())
    else:
        output.answer(headline(plan))
        output.answer("")
        output.answer(tables_text(migration.loads))
        types = types_text(migration)
        if types:
            output.answer("\n" + types)
        output.answer("")
        output.show_findings(plan.findings, err=False)
        blocked = len(plan.blockers)
        output.answer(f"{blocked} findings block this plan" if blocked else "nothing is blocked")
    return 2 if plan.blockers else 0


def tables_text(loads: Sequence[Load]) -> str:
    """One line a table: rows, bytes, columns."""
    rows = [(label(load), output.count(load.rows), output.size(load.bytes), len(load.columns)) for load in loads]
    return output.table(("table", "rows", "size", "columns"), rows, right=(1, 2, 3))


def types_text(migration: Migration) -> str:
    """The types that differ from what the declaration means, with the evidence."""
    rows = [
        (f"{table}.{column}", migration.declared(table, column) or "(none)", choice.type, choice.evidence)
        for (table, column), choice in migration.choices.items()
        if choice.evidence
    ]
    return output.table(("column", "declared", "becomes", "because"), rows) if rows else ""


def conclude(
    migration: Migration,
    source: Source,
    urls: Mapping[str, str],
    outcome: Outcome,
    *,
    as_json: bool,
    no_verify: bool,
) -> int:
    """Verify unless told not to, close the source, and answer with the exit status.

    It is 1 when a row is missing, left behind or differs, and when something made for the reading is still there.
    """
    report = None
    if not no_verify:
        from dbscale.cli import verify as verifying

        report = verifying.check(migration, source, urls, run=outcome.run, quiet=as_json)
    left = source.close()
    if as_json:
        output.answer_json(
            {
                "plan": migration.plan.id,
                "run": outcome.run,
                "resumed": outcome.resumed,
                "seconds": round(outcome.seconds, 3),
                "plan_seconds": round(outcome.plan_seconds, 3),
                "load_seconds": round(outcome.load_seconds, 3),
                "phases": {
                    name: round(seconds, 3)
                    for name, seconds in {"plan": outcome.plan_seconds, **outcome.phases}.items()
                },
                "tables": [
                    {
                        "table": done.step.table,
                        "on": done.step.on,
                        "target": f"{done.step.schema}.{done.step.target}",
                        "source_rows": done.loaded + done.quarantined,
                        "loaded": done.loaded,
                        "quarantined": done.quarantined,
                        "bytes": done.bytes,
                        "seconds": round(done.seconds, 3),
                        "form": done.form,
                    }
                    for done in sorted(outcome.loads, key=lambda done: done.number)
                    if isinstance(done.step, Load)
                ],
                "findings": output.findings_json((*migration.plan.findings, *outcome.findings, *left)),
                "verify": verifying.as_json(report) if report else None,
            }
        )
    else:
        output.show_findings((*outcome.findings, *left))
        if outcome.quarantined:
            output.say(f"{outcome.quarantined} rows are kept apart in {migration.options.state_schema}.quarantine")
        if report:
            verifying.show(report)
            if not outcome.steps and not report.same:
                output.say(_anew(migration, outcome.run))
    arrived = outcome.complete and not migration.plan.left_behind and not left
    return 0 if arrived and (report is None or report.same) else 1


def _anew(migration: Migration, run: int) -> str:
    """What to do where a run was done before, and source and target differ now."""
    if migration.options.into_existing and not migration.options.truncate:
        return f"run {run} is not repeated; to copy anew, give the same command with --truncate"
    undo = f"dbscale undo {run} {shlex.quote(migration.plan.databases['target'])}"
    return f"run {run} is not repeated; to copy anew: {undo}, then the same command"
