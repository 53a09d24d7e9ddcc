"""`dbscale indexes`: which indexes to make and to drop, proven, and making them beside the application's work."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dbscale import building, catalog
from dbscale import config as configuration
from dbscale.cli import output, places
from dbscale.config import Config, Database
from dbscale.drivers import postgres
from dbscale.errors import ConfigError
from dbscale.plan import Plan, Sql

if TYPE_CHECKING:
    from dbscale.indexes.advise import Advice
    from dbscale.indexes.facts import Facts
    from dbscale.indexes.workload import Workload


@click.group("indexes", context_settings={"help_option_names": ["-h", "--help"]})
def indexes() -> None:
    """Recommend indexes, with proof, and build them concurrently."""


SHARDS = click.option(
    "--shards", "everywhere", is_flag=True, help="Build on every database of [shards] that has the table."
)


@indexes.command("recommend")
@click.argument("target", default="postgres")
@click.option(
    "--from",
    "origins",
    multiple=True,
    metavar="stats|FILE",
    help="The workload: pg_stat_statements, a log, or SQL. Several add up.",
)
@click.option("--why", is_flag=True, help="Say too what was declined, and why.")
@click.option("--drops", is_flag=True, help="Put the drop advice into the plan too.")
@click.option(
    "--window-days",
    type=output.Number(),
    default=30.0,
    show_default=True,
    help="Days without a read before an index is called unused.",
)
@SHARDS
@click.option("--budget", metavar="MB", type=output.Number(), help="The most that new indexes may take.")
@click.option("-o", "--out", metavar="FILE", help="Write the plan as JSON to FILE (- for stdout).")
@click.option("--sql", "as_sql", is_flag=True, help="Show the plan as SQL.")
@output.looking
def recommend(
    target: str, *, origins: tuple[str, ...], why: bool, drops: bool, window_days: float, budget: float | None,
    everywhere: bool, out: str | None, as_sql: bool, as_json: bool, config: str | None,
) -> int:  # fmt: skip
    """Which indexes TARGET needs, on what evidence, and what they cost. Changes nothing.

    Exit status 1 when there is something to do.
    """
    settings = configuration.load(config)
    advice = look(settings, target, origins, drops=drops, window_days=window_days, budget=budget, everywhere=everywhere)
    if out:
        output.saved(advice.plan, out, command="dbscale indexes apply")
    if out == "-":
        pass
    elif as_json:
        output.answer_json(content(advice))
    elif as_sql:
        output.answer(advice.plan.to_sql())
    else:
        show(advice, why=why)
    return 2 if advice.plan.blockers else 1 if advice.plan.steps or advice.drops else 0


def look(
    settings: Config, target: str, origins: tuple[str, ...], *, drops: bool = False, window_days: float = 30.0,
    budget: float | None = None, everywhere: bool = False,
) -> Advice:  # fmt: skip
    """The advice for one database; with `everywhere`, for every database of [shards] that has its tables."""
    from dbscale.indexes import advise, facts, proof

    place = places.open_target(settings, target)
    with postgres.connect(place.url, name="dbscale indexes") as connection, postgres.reading(connection):
        known = facts.read(connection)
        known = facts.merge_counters(known, [_facts(url) for url in _replicas(settings, target)])
        others = [name for name in dict.fromkeys(settings.shards.values()) if everywhere and name != target]
        databases = {name: (name, _facts(places.open_target(settings, name).url)) for name in others}
        asked = _workload(connection, origins)
        with proof.proving(connection, place.url, known) as prover:
            return advise.advise(
                known, prover, asked, indexes=settings.indexes, config_path=settings.path,
                databases={"target": (target, known), **databases}, drops=drops, window_days=window_days,
                budget=int(budget * 1_000_000) if budget is not None else None, sharded=_sharded(settings),
            )  # fmt: skip


def _sharded(settings: Config) -> dict[str, str]:
    """The key column of each table of the shard maps, where there are any."""
    from dbscale.shards import file

    if not any(Path(file.FOLDER).glob("*.toml")):
        return {}
    return {table: key for each in file.load(file.FOLDER, settings).maps for table, key in each.tables.items()}


def _facts(url: str) -> Facts:
    from dbscale.indexes import facts

    with postgres.connect(url, name="dbscale indexes") as connection, postgres.reading(connection):
        return facts.read(connection)


def _replicas(settings: Config, target: str) -> list[str]:
    """The URLs of the replicas that the configuration names; what they read counts too."""
    from dbscale.cluster.cluster import url_of

    found = []
    for number, replica in enumerate(settings.database(target).replicas):
        name = f"{target}.replicas[{number}]"
        found.append(url_of(Database(name=name, url=replica.url)))
    return found


def _workload(connection: postgres.Connection, origins: tuple[str, ...]) -> Workload:
    from dbscale.indexes import workload

    found = []
    for origin in origins:
        if origin == "stats":
            found.append(workload.from_server(connection))
            continue
        try:
            text = Path(origin).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise ConfigError(
                f"the workload cannot be read: {error}", where="--from", try_="--from stats, or a file"
            ) from error
        found.append(workload.from_text(text, Path(origin).name))
    return workload.join(found)


def content(advice: Advice) -> dict[str, object]:
    """The advice as a JSON document."""
    return {
        "how": advice.how,
        "statements": advice.statements,
        "cost_before": round(advice.before, 1),
        "cost_after": round(advice.after, 1),
        "advised": [asdict(item) for item in advice.advised],
        "drops": [asdict(item) for item in advice.drops],
        "declined": [asdict(item) for item in advice.declined],
        "findings": output.findings_json(advice.findings),
        "plan": advice.plan.id,
    }


def show(advice: Advice, *, why: bool) -> None:
    """The advice for people."""
    for item in advice.advised:
        output.answer(f"make {item.index}  [{' '.join(item.rules) or 'wanted'}]")
        output.answer(f"  as       {item.name}, about {output.size(item.bytes)}")
        output.answer(f"  because  {item.because}")
        for evidence in item.evidence[:3]:
            time = f", {output.seconds(evidence.seconds)}" if evidence.seconds else ""
            cost = f"{evidence.before:,.0f} -> {evidence.after:,.0f}"
            calls = f"{output.count(evidence.calls)} calls{time}"
            output.answer(f"  serves   {cost}  {calls}: {_short(evidence.sql)}")
        if len(item.evidence) > 3:
            output.answer(f"           and {len(item.evidence) - 3} more")
        output.answer(
            f"  saves    {item.saved + item.writes:,.0f} in all; each new row pays {item.row_price:g},"
            f" the workload's own writes {item.writes:,.0f}"
        )
        if why:
            for title, because in item.alternatives:
                output.answer(f"  not      {title}: {because}")
    for drop in advice.drops:
        deed = "rebuild" if drop.rebuild else "drop"
        size = output.size(drop.bytes)
        output.answer(f"{deed} {drop.name} on {drop.table}  [{drop.rule}]: {drop.because} ({size})")
    if why:
        for declined in advice.declined:
            output.answer(f"not {declined.index}: {declined.because}")
    output.show_findings(advice.findings, err=False)
    if advice.statements:
        cost = f"{advice.before:,.0f} before, {advice.after:,.0f} after"
        output.answer(f"{advice.statements} statements, by the planner's cost (1: a page read in order): {cost}")
    output.answer(f"proven by {advice.how}; plan {advice.plan.id}: {len(advice.plan.steps)} steps")
    if advice.plan.steps:
        output.answer("nothing was changed; to make them: dbscale indexes apply, with the same options")


def _short(sql: str, most: int = 90) -> str:
    text = " ".join(sql.split())
    return text if len(text) <= most else text[: most - 1] + "…"


@indexes.command("apply")
@click.argument("plan_file", metavar="[PLAN|-]", required=False)
@click.option("--target", default="postgres", show_default=True, help="The database, where no plan is given.")
@click.option("--from", "origins", multiple=True, metavar="stats|FILE", help="The workload, where no plan is given.")
@SHARDS
@click.option("--state-schema", default=catalog.DEFAULT_SCHEMA, show_default=True, help="dbscale's own tables.")
@output.changing
@output.common
def apply_command(
    plan_file: str | None, *, target: str, origins: tuple[str, ...], everywhere: bool, state_schema: str,
    dry_run: bool, yes: bool, as_json: bool, config: str | None,
) -> int:  # fmt: skip
    """Carry out a plan of `indexes recommend -o`, or what it recommends now. Indexes are built concurrently.

    Without a plan, a run that was not finished goes on first.
    """
    from dbscale import apply
    from dbscale.cli.progress import screen
    from dbscale.cli.runs import read_file

    settings = configuration.load(config)
    if plan_file:
        plan = Plan.from_json(sys.stdin.read() if plan_file == "-" else read_file(plan_file))
    else:
        plan = _begun(settings, target, state_schema) or look(settings, target, origins, everywhere=everywhere).plan
    if dry_run or plan.blockers or not plan.steps:
        output.answer(plan.to_json() if as_json else plan.to_sql())
        return 2 if plan.blockers else 0
    urls = places.urls(settings, plan)
    home = urls[plan.options.get("home", "target")]
    with postgres.connect(home) as connection:
        earlier = [run for run in catalog.runs(connection, state_schema) if run.plan_id == plan.id]
    resume = earlier[0] if earlier and earlier[0].unfinished else None
    number = earlier[0].id if earlier and earlier[0].state == "done" else 0
    if number and _in_effect(plan, urls):  # another run would own, and its undo take away, what this one made
        if as_json:
            output.answer_json({"plan": plan.id, "run": number, "steps": 0, "used": _used(home, plan)})
        else:
            output.answer(f"nothing to do: run {number} has done all of plan {plan.id}")
        return 0
    output.confirm(f"{'Go on with' if resume else 'Carry out'} plan {plan.id}: {plan.title}?", yes=yes)
    with screen(plan, quiet=as_json) as drawing:
        for event in apply.run(plan, urls=urls, jobs=1, state_schema=state_schema, resume=resume):
            number = event.run if isinstance(event, apply.Started) else number
            drawing.show(event)
    used = _used(home, plan)
    if as_json:
        output.answer_json({"plan": plan.id, "run": number, "steps": len(plan.steps), "used": used})
    else:
        for name, read in used.items():
            output.answer(f"{name}: the planner {'uses it' if read else 'does not use it for what it was made'}")
        output.answer(f"run {number}: {len(plan.steps)} steps done; to take it back: dbscale undo {number}")
    return 0 if all(used.values()) else 1


def _begun(settings: Config, target: str, state_schema: str) -> Plan | None:
    """The plan of the newest index run where that was not finished; what is half done would not be recommended now."""
    with postgres.connect(places.open_target(settings, target).url, name="dbscale indexes") as connection:
        for run in catalog.runs(connection, state_schema):
            plan = Plan.from_json(run.plan)
            if "evidence" in plan.options:
                if not run.unfinished:
                    return None
                output.say(f"run {run.id} was not finished: it goes on, and then ask again (or: dbscale undo {run.id})")
                return plan
    return None


def _in_effect(plan: Plan, urls: Mapping[str, str]) -> bool:
    """Whether there is nothing left to do of a plan."""
    steps = [step for step in plan.steps if isinstance(step, Sql)]
    for name in {step.on for step in steps}:
        with postgres.connect(urls[name], name="dbscale indexes") as connection:
            if not all(building.holds(connection, step.holds) for step in steps if step.on == name):
                return False
    return True


def _used(url: str, plan: Plan) -> dict[str, bool]:
    """Each new index, and whether a statement that it was made for uses it now."""
    import json

    from dbscale.indexes.proof import Asked, spoken

    found: dict[str, bool] = {}
    with postgres.connect(url, name="dbscale indexes") as connection, postgres.reading(connection):
        asked = Asked(connection, spoken(connection))
        for name, statements in json.loads(plan.options.get("evidence", "{}")).items():
            used = [index for sql in statements for index in asked.ask(sql).uses]
            # A plan names the indexes of partitions; it is the partitioned one that was made.
            row = connection.execute(
                "SELECT EXISTS (SELECT FROM pg_class c LEFT JOIN pg_class r ON r.oid = pg_partition_root(c.oid)"
                " WHERE c.relname = ANY (%s) AND c.relkind IN ('i', 'I') AND coalesce(r.relname, c.relname) = %s)",
                [used, name],
            ).fetchone()
            found[name] = row == (True,)
    return found
