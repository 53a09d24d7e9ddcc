"""`dbscale migrate`, `apply`, `undo`, `status`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dbscale import apply, catalog
from dbscale import config as configuration
from dbscale.apply import Event, Finished, Noticed, Started, StepDone, StepStarted
from dbscale.catalog import Run
from dbscale.cli import output, places
from dbscale.cli.places import Target
from dbscale.cli.progress import label, screen
from dbscale.cli.revision import REVISION, write_revision
from dbscale.drivers import postgres
from dbscale.drivers.source import Source
from dbscale.errors import ConfigError, Finding, without_secrets
from dbscale.migrate import plan as planning
from dbscale.migrate.plan import Migration, Options
from dbscale.plan import Load, Plan, Sql

if TYPE_CHECKING:
    from dbscale.shards.map import Maps

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class Outcome:
    """What the events of a run add up to."""

    run: int = 0
    resumed: bool = False
    seconds: float = 0.0
    steps: list[StepDone] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    plan_seconds: float = 0.0
    load_seconds: float = 0.0
    """From the first load's start to the last one's end."""
    _loading_since: float = 0.0

    def take(self, event: Event) -> None:
        """Add one event."""
        if isinstance(event, StepStarted | StepDone) and isinstance(event.step, Load):
            self._loading_since = self._loading_since or time.perf_counter()
            self.load_seconds = time.perf_counter() - self._loading_since
        if isinstance(event, Started):
            self.run, self.resumed = event.run, event.resumed
        elif isinstance(event, StepDone):
            self.steps.append(event)
        elif isinstance(event, Noticed):
            self.findings.append(event.finding)
        elif isinstance(event, Finished):
            self.seconds = event.seconds

    @property
    def loads(self) -> list[StepDone]:
        """In the plan's order, whichever was done first."""
        return sorted((done for done in self.steps if isinstance(done.step, Load)), key=lambda done: done.number)

    @property
    def quarantined(self) -> int:
        return sum(done.quarantined for done in self.loads)

    @property
    def complete(self) -> bool:
        """Every row of the source is in the target, as far as the run can tell."""
        return not self.quarantined and not any(finding.code == "source-changed" for finding in self.findings)


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


SHARD_MAP = click.option(
    "--shard-map", multiple=True, metavar="FILE", help="Spread the rows over the shards of this map (again for more)."
)


@click.command()
@click.argument("source")
@click.argument("target")
@selection
@SHARD_MAP
@click.option(
    "--on-bad-row",
    type=click.Choice(["stop", "quarantine"]),
    default="stop",
    show_default=True,
    help="A row that the target's types cannot hold.",
)
@click.option("--truncate", is_flag=True, help="With --into-existing: empty the tables first.")
@click.option("--copy-first", is_flag=True, help="Copy the SQLite file to a temporary place and read the copy.")
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
    copy_first: bool,
    hold_writes: bool,
    jobs: int,
    state_schema: str,
    shard_map: tuple[str, ...],
    revision: str | None,
    **chosen: Any,
) -> int:
    """Copy SOURCE (SQLite or Turso) into TARGET (PostgreSQL), and prove that every row arrived.

    The plan is shown first: --dry-run stops there. A run that was interrupted goes on when the same command is given
    again.
    """
    settings = configuration.load(config)
    opened = places.open_source(settings, source, copy_first=copy_first, hold_writes=hold_writes)
    destination = places.open_target(settings, target)
    spreading = Spreading.read(settings, destination, shard_map)
    urls = spreading.urls
    options = make_options(settings, chosen, spreading, jobs=jobs, state_schema=state_schema)

    def make(*, ignore_rows: bool) -> Migration:
        made = planning.make(
            opened,
            destination.url,
            options,
            source_reference=source,
            target_reference=target,
            ignore_rows=ignore_rows,
            say=(lambda _: None) if as_json else output.say,
        )
        return spreading.spread(made, opened, ignore_rows=ignore_rows)

    if revision:
        return write_revision(revision, make(ignore_rows=True))
    if out or as_sql or dry_run:
        migration = make(ignore_rows=False)
        return show_plan(migration.plan, migration, out=out, as_sql=as_sql, as_json=as_json)
    earlier = settle_earlier(source, options.as_strings(), opened, urls, state_schema, yes=yes)
    if earlier and earlier.state == "done":
        output.say(f"run {earlier.id} has done this already")
        migration, outcome = make(ignore_rows=True), Outcome(run=earlier.id)
    elif earlier:
        plan = Plan.from_json(earlier.plan)
        outcome = carry_out(plan, opened, urls, state_schema, jobs=jobs, resume=earlier, quiet=as_json)
        migration = make(ignore_rows=True)
    else:
        began = time.perf_counter()
        migration = make(ignore_rows=False)
        planned = time.perf_counter() - began
        if not as_json:
            output.say(headline(migration.plan))
            output.show_findings(migration.plan.findings)
        if options.truncate:
            output.confirm("Empty the target's tables and fill them from the source?", yes=yes)
        outcome = carry_out(migration.plan, opened, urls, state_schema, jobs=jobs, resume=None, quiet=as_json)
        outcome.plan_seconds = planned
    if outcome.loads and not as_json:
        output.answer(summary(outcome))
    return conclude(migration, opened, urls, outcome, as_json=as_json, no_verify=no_verify)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spreading:
    """What `--shard-map` says, and where the databases are; without it, just the target."""

    urls: Mapping[str, str]
    """By name in the plan."""
    maps: Maps | None = None
    home: str = ""
    """The target's name in dbscale.toml."""

    @classmethod
    def read(cls, settings: configuration.Config, target: Target, files: Sequence[str]) -> Spreading:
        """ConfigError where a map is wrong, or the target is not the home of the shards."""
        if not files:
            return cls(urls={"target": target.url})
        from dbscale.shards import client, file

        loaded = [map_ for path in files for map_ in file.load(path, settings).maps]
        if not loaded:
            raise ConfigError("there is no such map", where=", ".join(files), try_="--shard-map shard_maps/NAME.toml")
        if not settings.shards:
            raise ConfigError("dbscale.toml names no shards", where="[shards]", try_='shard_1 = "NAME OF A DATABASE"')
        maps = file.together(loaded, settings.shards)
        home = settings.shards.get("home", target.reference)
        if "home" in settings.shards and places.open_target(settings, home).url != target.url:
            raise ConfigError(
                f"the tables on no map go to {home}, the home of the shards",
                where=f"{settings.path}: shards.home",
                try_=f"dbscale migrate SOURCE {home} --shard-map …",
            )
        names = dict.fromkeys(name for map_ in maps.maps for name in client.databases(map_, maps.shards))
        urls = {name: places.open_target(settings, name).url for name in names if name != home}
        return cls(urls={"target": target.url, **urls}, maps=maps, home=home)

    def spread(self, migration: Migration, source: Source, *, ignore_rows: bool) -> Migration:
        """The migration over all databases; the same one without maps."""
        if self.maps is None:
            return migration
        from dbscale.migrate import sharded

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
        **chosen,
    )


def carry_out(
    plan: Plan,
    source: Source | None,
    urls: Mapping[str, str],
    state_schema: str,
    *,
    jobs: int,
    resume: Run | None,
    quiet: bool,
) -> Outcome:
    """Run a plan with its progress on stderr."""
    outcome = Outcome()
    with screen(plan, quiet=quiet) as drawing:
        for event in apply.run(plan, urls=urls, source=source, jobs=jobs, state_schema=state_schema, resume=resume):
            outcome.take(event)
            drawing.show(event)
    return outcome


def settle_earlier(
    reference: str, options: dict[str, str], source: Source, urls: Mapping[str, str], state_schema: str, *, yes: bool
) -> Run | None:
    """What an earlier run from this source left: one to go on with, or a done one with nothing to add, or None.

    A run that was interrupted and whose source has changed since is undone first: it is to be loaded anew. So is one
    that had other options, once the user agrees.
    """
    with postgres.connect(urls["target"]) as connection:
        runs = catalog.runs(connection, state_schema)
    earlier = next((run for run in runs if run.state != "undone" and run.source == without_secrets(reference)), None)
    if earlier is None:
        return None
    plan = Plan.from_json(earlier.plan)
    unchanged = earlier.fingerprint == source.fingerprint()
    if plan.options == options and unchanged:
        return earlier
    if not earlier.unfinished:
        return None
    if plan.options != options:
        output.say(f"run {earlier.id} is unfinished, with other options: {earlier.title}")
        output.confirm(f"Take run {earlier.id} back and begin anew?", yes=yes)
    else:
        output.say(f"the source has changed since run {earlier.id} was interrupted: what it loaded is loaded anew")
    for event in apply.undo(earlier, plan, urls=urls, state_schema=state_schema):
        if isinstance(event, Noticed):
            output.show_findings([event.finding])
    return None


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
    if out and out != "-":
        Path(out).write_text(plan.to_json() + "\n", encoding="utf-8")
        output.say(f"plan {plan.id} written to {out}; carry it out with: dbscale apply {out}")
    elif out or as_json:
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


def summary(outcome: Outcome) -> str:
    """The table at the end of a run: per table rows, bytes, copy and index time; then wall clock and rows/s."""
    index_seconds: dict[tuple[str, str], float] = {}
    for done in outcome.steps:
        if isinstance(done.step, Sql) and done.step.group in ("keys", "indexes", "validate"):
            for load in outcome.loads:
                assert isinstance(load.step, Load)  # noqa: S101 - by the property
                place = (load.step.on, load.step.target)
                if done.step.on == load.step.on and done.step.does.removesuffix(f" on {load.step.on}").endswith(
                    f'"{load.step.target}"'
                ):
                    index_seconds[place] = index_seconds.get(place, 0.0) + done.seconds
    rows: list[Sequence[object]] = []
    for done in outcome.loads:
        assert isinstance(done.step, Load)  # noqa: S101 - by the property
        rows.append(
            (
                label(done.step),
                output.count(done.loaded),
                output.count(done.quarantined),
                output.size(done.bytes),
                output.seconds(done.seconds),
                output.seconds(index_seconds.get((done.step.on, done.step.target), 0.0)),
            )
        )
    loaded = sum(done.loaded for done in outcome.loads)
    rate = f", {output.count(loaded / outcome.seconds)} rows/s" if outcome.seconds else ""
    table = output.table(
        ("table", "rows", "quarantined", "copied", "copy", "keys and indexes"), rows, right=range(1, 6)
    )
    return f"{table}\n{output.count(loaded)} rows in {output.seconds(outcome.seconds)}{rate}"


def conclude(
    migration: Migration,
    source: Source,
    urls: Mapping[str, str],
    outcome: Outcome,
    *,
    as_json: bool,
    no_verify: bool,
) -> int:
    """Verify unless told not to, and answer with the exit status: 1 when a row is missing or differs."""
    report = None
    if not no_verify:
        from dbscale.cli import verify as verifying

        report = verifying.check(migration, source, urls, run=outcome.run, quiet=as_json)
    if as_json:
        output.answer_json(
            {
                "plan": migration.plan.id,
                "run": outcome.run,
                "resumed": outcome.resumed,
                "seconds": round(outcome.seconds, 3),
                "plan_seconds": round(outcome.plan_seconds, 3),
                "load_seconds": round(outcome.load_seconds, 3),
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
                "findings": output.findings_json((*migration.plan.findings, *outcome.findings)),
                "verify": verifying.as_json(report) if report else None,
            }
        )
    else:
        output.show_findings(outcome.findings)
        if outcome.quarantined:
            output.say(f"{outcome.quarantined} rows are kept apart in {migration.options.state_schema}.quarantine")
        if report:
            verifying.show(report)
    return 0 if outcome.complete and (report is None or report.same) else 1


@click.command("apply")
@click.argument("plan_file", metavar="PLAN|-")
@click.option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Sessions at once.")
@REVISION
@output.changing
@output.common
def apply_command(
    plan_file: str, *, jobs: int, revision: str | None, dry_run: bool, yes: bool, as_json: bool, config: str | None
) -> int:
    """Carry out a saved plan: a file, or - for stdin."""
    settings = configuration.load(config)
    plan = Plan.from_json(sys.stdin.read() if plan_file == "-" else read_file(plan_file))
    if revision:
        return write_revision(revision, plan)
    if dry_run:
        output.answer(plan.to_json() if as_json else plan.to_sql())
        return 2 if plan.blockers else 0
    urls = places.urls(settings, plan)
    source = places.open_source(settings, plan.databases["source"]) if "source" in plan.databases else None
    state_schema = plan.options.get("state_schema", catalog.DEFAULT_SCHEMA)
    if source:
        planning.check_basis(plan, source)
    output.confirm(f"Carry out plan {plan.id}: {plan.title}?", yes=yes)
    resume = (
        settle_earlier(plan.databases["source"], dict(plan.options), source, urls, state_schema, yes=yes)
        if source
        else None
    )
    if resume and resume.state == "done":
        output.say(f"run {resume.id} has done this already")
        return 0
    outcome = carry_out(plan, source, urls, state_schema, jobs=jobs, resume=resume, quiet=as_json)
    if as_json:
        output.answer_json({"plan": plan.id, "run": outcome.run, "seconds": round(outcome.seconds, 3)})
    elif outcome.loads:
        output.answer(summary(outcome))
        output.say(f"now: dbscale verify {plan.databases['source']} {plan.databases['target']}")
    else:
        output.answer(f"run {outcome.run}: {len(outcome.steps)} steps in {output.seconds(outcome.seconds)}")
    output.show_findings(outcome.findings)
    return 0 if outcome.complete else 1


def read_file(path: str) -> str:
    """The text of a file; ConfigError where there is none to read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the plan cannot be read: {error}", try_="dbscale migrate SOURCE TARGET -o FILE") from error


@click.command()
@click.argument("run", type=int)
@click.argument("target", default="postgres")
@click.option("--state-schema", default=catalog.DEFAULT_SCHEMA, show_default=True)
@output.changing
@output.common
def undo(
    run: int, target: str, *, state_schema: str, dry_run: bool, yes: bool, as_json: bool, config: str | None
) -> int:
    """Take back what RUN did on TARGET (a number from `dbscale status`)."""
    settings = configuration.load(config)
    destination = places.open_target(settings, target)
    with postgres.connect(destination.url) as connection:
        found = next((each for each in catalog.runs(connection, state_schema) if each.id == run), None)
    if found is None:
        raise ConfigError(f"there is no run {run} here", where=destination.title, try_=f"dbscale status {target}")
    if found.state == "undone":
        output.say(f"run {run} is undone already")
        return 0
    plan = Plan.from_json(found.plan)
    if dry_run:
        for step in reversed(plan.steps):
            output.answer(step.undo or f"-- {step.does}: " + ("nothing to do" if step.undo == "" else "irreversible"))
        return 0
    output.confirm(f"Take back run {run} ({found.title}), with every row in the tables that it made?", yes=yes)
    outcome = Outcome()
    others = {name: url for name, url in places.urls(settings, plan).items() if name != "target"}
    for event in apply.undo(found, plan, urls={**others, "target": destination.url}, state_schema=state_schema):
        outcome.take(event)
    if as_json:
        output.answer_json({"run": run, "undone": len(outcome.steps)})
    else:
        output.show_findings(outcome.findings)
        output.answer(f"run {run} is undone: {len(outcome.steps)} steps in {output.seconds(outcome.seconds)}")
    return 0


@click.command()
@click.argument("target", default="postgres")
@click.option("--state-schema", default=catalog.DEFAULT_SCHEMA, show_default=True)
@output.common
def status(target: str, *, state_schema: str, as_json: bool, config: str | None) -> int:
    """Show the runs on TARGET, newest first, and the command that goes on with an unfinished one."""
    settings = configuration.load(config)
    destination = places.open_target(settings, target)
    with postgres.connect(destination.url) as connection:
        runs = catalog.runs(connection, state_schema)
    if as_json:
        output.answer_json(
            [
                {
                    "run": run.id,
                    "state": run.state,
                    "title": run.title,
                    "plan": run.plan_id,
                    "source": run.source,
                    "started_at": run.started_at.isoformat(),
                    "finished_at": run.finished_at.isoformat() if run.finished_at else None,
                    "error": run.error or None,
                }
                for run in runs
            ]
        )
        return 0
    if not runs:
        output.answer(f"no runs on {destination.title}")
        return 0
    rows = [(run.id, run.state, run.plan_id, f"{run.started_at:%Y-%m-%d %H:%M:%S}", run.title) for run in runs]
    output.answer(output.table(("run", "state", "plan", "started", "what"), rows, right=(0,)))
    for run in runs:
        if run.unfinished and run.state != "running":
            if run.error:
                output.answer(f"run {run.id}: {run.error}")
            output.answer(f"go on: dbscale migrate {run.source} {without_secrets(target)}")
            output.answer(f"or take it back: dbscale undo {run.id} {without_secrets(target)}")
    return 0
