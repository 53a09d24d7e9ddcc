"""`dbscale apply`, `undo` and `status`: plans carried out, taken back and looked at."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from dbscale import apply, catalog, undoing
from dbscale import config as configuration
from dbscale.apply import Event, Finished, Noticed, Started, StepDone, StepStarted
from dbscale.catalog import Run
from dbscale.cli import output, places
from dbscale.cli.places import Target
from dbscale.cli.progress import label, screen
from dbscale.cli.revision import REVISION, write_revision
from dbscale.drivers import postgres
from dbscale.drivers.source import Source
from dbscale.errors import ConfigError, Finding, StalePlan, TargetInUse, without_secrets
from dbscale.migrate import plan as planning
from dbscale.migrate.steps import drop_table
from dbscale.plan import Load, Plan, Sql
from dbscale.schema import quote
from dbscale.shards.file import FOLDER


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
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds that went by for the steps of each group, in order; `schema` are those of none."""
    _loading_since: float = 0.0
    _since: float = 0.0

    def take(self, event: Event) -> None:
        """Add one event."""
        now = time.perf_counter()
        if isinstance(event, StepDone):
            phase = event.step.group or "schema"
            self.phases[phase] = self.phases.get(phase, 0.0) + now - self._since
        if isinstance(event, Started | StepDone):
            self._since = now
        if isinstance(event, StepStarted | StepDone) and isinstance(event.step, Load):
            self._loading_since = self._loading_since or time.perf_counter()
            self.load_seconds = time.perf_counter() - self._loading_since
        if isinstance(event, Started):
            self.run, self.resumed = event.run, event.resumed
        elif isinstance(event, StepDone):
            self.steps.append(event)
            self.findings += [event.finding] if event.finding else []
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
    try:
        with screen(plan, quiet=quiet) as drawing:
            for event in apply.run(plan, urls=urls, source=source, jobs=jobs, state_schema=state_schema, resume=resume):
                outcome.take(event)
                drawing.show(event)
    except BaseException:
        for line in outstanding(plan, {done.number for done in outcome.steps})[1:]:
            output.say(line)
        raise
    return outcome


def outstanding(plan: Plan, done: Collection[int]) -> list[str]:
    """Lines for people: how far a run has come, and what it took away for the load and has not brought back."""
    next_ = next((step.does for number, step in enumerate(plan.steps, start=1) if number not in done), "")
    lines = [f"{len(done)} of {len(plan.steps)} steps are done" + (f"; the next one: {next_}" if next_ else "")]
    if withheld := plan.withheld(done):
        lines.append(f"taken away for the load until the run goes on or is undone: {len(withheld)} to come back")
        lines += [f"  {step.does}" for step in withheld]
    return lines


def settle_earlier(
    reference: str, options: dict[str, str], source: Source, urls: Mapping[str, str], state_schema: str, *, yes: bool
) -> Run | None:
    """What an earlier run from this source left: one to go on with, or a done one with nothing to add, or None.

    A run that was interrupted, and whose source has changed or whose tables have gone since, is undone first: it is to
    be loaded anew. So is one that had other options, once the user agrees. A done one whose tables are all gone is
    passed by; TargetInUse where some are, and where a run is at work.
    """
    with postgres.connect(urls["target"]) as connection:
        if runs := catalog.runs(connection, state_schema):
            catalog.refuse_at_work(connection, state_schema)
    earlier = next((run for run in runs if run.state != "undone" and run.source == without_secrets(reference)), None)
    if earlier is None:
        return None
    plan = Plan.from_json(earlier.plan)
    unchanged = earlier.fingerprint == source.fingerprint()
    gone = _gone(earlier, plan, urls, state_schema) if earlier.unfinished else []
    if plan.options == options and unchanged and not gone:
        return None if earlier.state == "done" and _taken_away(earlier, plan, urls) else earlier
    if not earlier.unfinished:
        return None
    if plan.options != options:
        output.say(f"run {earlier.id} is unfinished, with other options: {earlier.title}")
        output.confirm(f"Take run {earlier.id} back and begin anew?", yes=yes)
    elif unchanged:
        tables = f"{', '.join(gone[:5])}{' …' if len(gone) > 5 else ''}"
        output.say(f"tables that run {earlier.id} had made are gone since ({tables}): what it loaded is loaded anew")
    else:
        output.say(f"the source has changed since run {earlier.id} was interrupted: what it loaded is loaded anew")
    for event in undoing.undo(earlier, plan, urls=urls, state_schema=state_schema):
        if isinstance(event, Noticed):
            output.show_findings([event.finding])
    return None


def _gone(run: Run, plan: Plan, urls: Mapping[str, str], state_schema: str) -> list[str]:
    """The tables that an unfinished run had made, and that somebody has dropped since."""
    gone: list[str] = []
    for name in sorted({step.on for step in plan.steps if isinstance(step, Load)}):
        with postgres.connect(urls[name]) as connection:
            done = catalog.steps_done(connection, state_schema, run.id)
            undone_by = {step.undo for number, step in enumerate(plan.steps, start=1) if number in done}
            made = [
                quote(step.schema, step.target)
                for step in plan.steps
                if isinstance(step, Load) and step.on == name and drop_table(step.schema, step.target) in undone_by
            ]
            sql = "SELECT name FROM unnest(%s::text[]) AS t (name) WHERE to_regclass(name) IS NULL ORDER BY name"
            gone += [table for (table,) in connection.execute(sql, [made])]
    return gone


def _taken_away(run: Run, plan: Plan, urls: Mapping[str, str]) -> bool:
    """Whether somebody has dropped the tables of a run that is done; TargetInUse for a part of them."""
    loads = [step for step in plan.steps if isinstance(step, Load)]
    gone: list[str] = []
    for name in sorted({step.on for step in loads}):
        places_ = [quote(step.schema, step.target) for step in loads if step.on == name]
        with postgres.connect(urls[name]) as connection:
            sql = "SELECT name FROM unnest(%s::text[]) AS t (name) WHERE to_regclass(name) IS NULL ORDER BY name"
            gone += [table for (table,) in connection.execute(sql, [places_])]
    tables = f"{', '.join(gone[:5])}{' …' if len(gone) > 5 else ''}"
    if gone and len(gone) < len(loads):
        target = plan.databases["target"]
        raise TargetInUse(
            f"run {run.id} had done this already, and some of its tables are gone since: {tables}",
            where=target,
            try_=f"dbscale undo {run.id} {shlex.quote(target)} takes away what is left of it; then the same command",
            see="docs/errors.md#tables-gone",
        )
    if gone:
        output.say(f"run {run.id} had done this already, and its tables are gone since ({tables}): it is done anew")
    return bool(gone)


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


@click.command("apply")
@click.argument("plan_file", metavar="PLAN|-")
@click.option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Sessions at once.")
@click.option("--no-verify", is_flag=True, help="Do not compare source and target afterwards.")
@REVISION
@output.changing
@output.common
def apply_command(
    plan_file: str,
    *,
    jobs: int,
    no_verify: bool,
    revision: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    config: str | None,
) -> int:
    """Carry out a saved plan: a file, or - for stdin. A migration is verified at its end."""
    settings = configuration.load(config)
    plan = Plan.from_json(sys.stdin.read() if plan_file == "-" else read_file(plan_file))
    if revision:
        return write_revision(revision, plan, as_json=as_json)
    if dry_run:
        output.answer(plan.to_json() if as_json else plan.to_sql())
        return 2 if plan.blockers else 0
    output.show_findings(plan.blockers[1:])  # the first is the error that it is about to be
    urls = places.urls(settings, plan)
    source = places.open_source(settings, plan.databases["source"]) if "source" in plan.databases else None
    state_schema = plan.options.get("state_schema", catalog.DEFAULT_SCHEMA)
    if source:
        planning.check_basis(plan, source)
    if any(step.undo is None for step in plan.steps):
        output.confirm(f"Carry out plan {plan.id}: {plan.title}? Not all of it can be taken back.", yes=yes)
    resume = (
        settle_earlier(plan.databases["source"], dict(plan.options), source, urls, state_schema, yes=yes)
        if source
        else None
    )
    if resume and resume.unfinished and resume.plan_id != plan.id:
        raise StalePlan(
            f"run {resume.id} is unfinished, and was begun with another plan, {resume.plan_id}: this one is {plan.id}",
            where=plan.databases["target"],
            try_=f"dbscale undo {resume.id} {plan.databases['target']}, then the same command; or go on with its plan",
        )
    if resume and resume.state == "done":
        output.say(f"run {resume.id} has done this already")
        outcome = Outcome(run=resume.id)
    else:
        outcome = carry_out(plan, source, urls, state_schema, jobs=jobs, resume=resume, quiet=as_json)
    if outcome.loads and not as_json:
        output.answer(summary(outcome))
    if source and "shard_maps" not in plan.options:
        return _conclude(plan, source, urls, outcome, jobs=jobs, as_json=as_json, no_verify=no_verify)
    if as_json:
        output.answer_json({"plan": plan.id, "run": outcome.run, "seconds": round(outcome.seconds, 3)})
    elif source:
        output.say(
            f"now: dbscale verify {plan.databases['source']} {plan.databases['target']}"
            + flags(plan.options, verifying=True)
            + " --shard-map FILE"
        )
    else:
        output.answer(f"run {outcome.run}: {len(outcome.steps)} steps in {output.seconds(outcome.seconds)}")
    output.show_findings((*plan.left_behind, *outcome.findings))
    return 0 if outcome.complete and not plan.left_behind else 1


def _conclude(
    plan: Plan,
    source: Source,
    urls: Mapping[str, str],
    outcome: Outcome,
    *,
    jobs: int,
    as_json: bool,
    no_verify: bool,
) -> int:
    """As `migrate` ends: source and target compared, by what the plan's options make of the source now."""
    from dbscale.cli.migrate import conclude

    made = planning.make(
        source,
        urls["target"],
        replace(planning.Options.from_strings(plan.options), jobs=jobs),
        source_reference=plan.databases["source"],
        target_reference=plan.databases["target"],
        ignore_rows=True,
    )
    return conclude(replace(made, plan=plan), source, urls, outcome, as_json=as_json, no_verify=no_verify)


def flags(options: Mapping[str, str], *, verifying: bool = False) -> str:
    """The options of a plan as they are typed, with a space before each; for `verify`, without what only loads take."""
    words: list[str] = []
    for key, flag in (("only", "--only"), ("skip", "--skip")):
        for name in json.loads(options.get(key, "[]")):
            words += [flag, name]
    defaults = {"schema": "public", "identifiers": "preserve", "collate": "", "on_invalid_text": "stop"}
    defaults |= {"state_schema": catalog.DEFAULT_SCHEMA} | ({} if verifying else {"on_bad_row": "stop"})
    for key, default in defaults.items():
        if options.get(key, default) != default:
            words += ["--" + key.replace("_", "-"), options[key]]
    if options.get("into_existing") == "true":
        words.append("--into-existing")
    if options.get("truncate") == "true" and not verifying:
        words.append("--truncate")
    for name in json.loads(options.get("shard_maps", "{}")):
        words += ["--shard-map", f"{FOLDER}/{name}.toml"]
    if target := options.get("shard_target"):
        words += ["--shard-target", target]
    return "".join(" " + shlex.quote(word) for word in words)


def again(run: Run, plan: Plan, target: str, config: str | None) -> str:
    """The command that goes on with an unfinished run."""
    end = f" --config {shlex.quote(config)}" if config else ""
    if run.source:
        return f"dbscale migrate {shlex.quote(run.source)} {target}{flags(plan.options)}{end}"
    if map_ := plan.options.get("map"):
        return f"dbscale shards apply {shlex.quote(map_)}{end}"
    return "give the command that began it again"


def read_file(path: str) -> str:
    """The text of a file; ConfigError where there is none to read."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the plan cannot be read: {error}", try_="dbscale migrate SOURCE TARGET -o FILE") from error


def strangers(url: str, state_schema: str, run: Run, plan: Plan) -> list[str]:
    """A line for each table that holds other rows than the run loaded: undoing takes those away too."""
    lines = []
    with postgres.connect(url) as connection:
        for number, step in enumerate(plan.steps, start=1):
            if not isinstance(step, Load) or step.on != "target":
                continue
            place = quote(step.schema, step.target)
            if connection.execute("SELECT to_regclass(%s)", [place]).fetchone() == (None,):
                continue
            loaded = sum(part.loaded for part in catalog.parts_done(connection, state_schema, run.id, number).values())
            (there,) = connection.execute(f"SELECT count(*) FROM {place}".encode()).fetchone() or (0,)
            if there != loaded:
                lines.append(f"{place} holds {output.count(there)} rows; the run loaded {output.count(loaded)}")
    return lines


def _no_such_run(number: int, target: Target, runs: Sequence[Run]) -> ConfigError:
    there = ", ".join(f"{run.id} ({run.state})" for run in runs[:10])
    return ConfigError(
        f"there is no run {number} here",
        where=target.title,
        try_=f"dbscale status {without_secrets(target.reference)} shows them: {there}"
        if runs
        else "no run was ever made on this target: name the one that the migration went into",
    )


def show_undo(plan: Plan, run: int, *, as_json: bool) -> None:
    """What undoing would execute, the last step first; a step that cannot be taken back says so."""
    steps = list(reversed(plan.steps))
    if as_json:
        output.answer_json({"run": run, "steps": [{"does": step.does, "undo": step.undo} for step in steps]})
        return
    for step in steps:
        output.answer(step.undo or f"-- {step.does}: " + ("nothing to do" if step.undo == "" else "irreversible"))


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
        runs = catalog.runs(connection, state_schema)
    found = next((each for each in runs if each.id == run), None)
    if found is None:
        raise _no_such_run(run, destination, runs)
    if found.state == "undone":
        output.say(f"run {run} is undone already")
        if as_json:
            output.answer_json({"run": run, "undone": 0})
        return 0
    plan = Plan.from_json(found.plan)
    urls = {**places.urls(settings, plan), "target": destination.url}
    undoing.check(found, plan, urls=urls, state_schema=state_schema)
    if dry_run:
        show_undo(plan, run, as_json=as_json)
        return 0
    for line in strangers(destination.url, state_schema, found, plan):
        output.say(line)
    output.confirm(f"Take back run {run} ({found.title}), with every row in the tables that it filled?", yes=yes)
    outcome = Outcome()
    for event in undoing.undo(found, plan, urls=urls, state_schema=state_schema):
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
@output.looking
def status(target: str, *, state_schema: str, as_json: bool, config: str | None) -> int:
    """Show the runs on TARGET, newest first, and the command that goes on with an unfinished one."""
    settings = configuration.load(config)
    destination = places.open_target(settings, target)
    with postgres.connect(destination.url) as connection:
        runs = catalog.runs(connection, state_schema)
        done = {run.id: catalog.steps_done(connection, state_schema, run.id) for run in runs if run.unfinished}
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
                    "outstanding": outstanding(Plan.from_json(run.plan), done[run.id]) if run.unfinished else [],
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
            plan = Plan.from_json(run.plan)
            for line in outstanding(plan, done[run.id]):
                output.answer(line)
            place = shlex.quote(without_secrets(target))
            forth, back = again(run, plan, place, config), f"dbscale undo {run.id} {place}"
            if run.half_undone:
                output.answer(f"go on taking it back: {back}")
                output.answer(f"or do again what was taken back: {forth}")
            else:
                output.answer(f"go on: {forth}")
                output.answer(f"or take it back: {back}")
    return 0
