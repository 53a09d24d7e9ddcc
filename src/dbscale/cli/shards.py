"""`dbscale shards`: maps, what they are applied to, and where statements go."""

from __future__ import annotations

import contextlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from dbscale import catalog
from dbscale import config as configuration
from dbscale.cli import output, places
from dbscale.config import Config
from dbscale.errors import ConfigError, Missing
from dbscale.plan import Plan
from dbscale.shards import file
from dbscale.shards import map as mapping
from dbscale.shards.keys import INTEGERS, Key, show
from dbscale.shards.map import Map, Maps

MAPS = click.option("--maps", "folder", default=file.FOLDER, show_default=True, help="The folder of the shard maps.")
STATE = click.option("--state-schema", default=catalog.DEFAULT_SCHEMA, show_default=True, help="dbscale's own tables.")
TARGET = click.option(
    "--target",
    type=click.Choice(["client", "partitions", "fdw", "citus"]),
    default=None,
    help="What to apply it to; client for ranges, citus for hash maps, unless said.",
)


@click.group("shards", context_settings={"help_option_names": ["-h", "--help"]})
def shards() -> None:
    """Shard maps: declare, check, apply, route, and keep up."""


def _load(config: str | None, folder: str) -> tuple[Config, Maps]:
    settings = configuration.load(config)
    maps = file.load(folder, settings)
    if not maps.maps:
        raise ConfigError("there are no shard maps", where=folder, try_="write one: docs/shards.md")
    return settings, maps


def _chosen(maps: Maps, name: str | None) -> tuple[Map, ...]:
    return (maps.named(name),) if name else maps.maps


@shards.command("show")
@click.argument("name", metavar="MAP", required=False)
@MAPS
@output.common
def show_command(name: str | None, *, folder: str, as_json: bool, config: str | None) -> None:
    """Each map's tables, and its ranges with their owners."""
    settings, maps = _load(config, folder)
    chosen = _chosen(maps, name)
    if as_json:
        output.answer_json([mapping.content(map_) | {"checksum": map_.checksum} for map_ in chosen])
        return
    for number, map_ in enumerate(chosen):
        output.answer(("\n" if number else "") + _headline(map_))
        rows = [
            (range_.id, *_span(map_, range_), range_.shard, settings.shards.get(range_.shard, ""))
            for range_ in map_.ranges
        ]
        if rows:
            output.answer(output.table(("range", "from", "to below", "shard", "database"), rows))


def _headline(map_: Map) -> str:
    tables = ", ".join(f"{table} by {column}" for table, column in map_.tables.items())
    more = [f"reference: {', '.join(map_.reference)}"] if map_.reference else []
    more += [f"a partition a {map_.every}, {map_.premake} ahead"] if map_.every else []
    more += [f"kept for {map_.retain}"] if map_.retain else []
    more += [f"{map_.hash} hash buckets on {map_.shard}"] if map_.hash else []
    return f"{map_.name} ({map_.key}): {'; '.join((tables, *more))}"


def _span(map_: Map, range_: mapping.Range) -> tuple[str, str]:
    if range_.values:
        return ", ".join(show(value) for value in range_.values), ""
    return show(range_.start) or "the beginning", show(map_.end(range_)) or "the end"


def _facts(
    settings: Config, maps: Maps, map_: Map, state_schema: str, config: str | None
) -> tuple[Any, dict[str, str]]:
    """The servers' facts, and the URL of each database."""
    from dataclasses import replace

    from dbscale.shards.gather import gather

    if not maps.shards:
        raise ConfigError("dbscale.toml names no shards", where="[shards]", try_='shard_1 = "NAME OF A DATABASE"')
    from dbscale.shards.facts import databases

    names = dict.fromkeys((settings.shards.get("home", ""), *databases(map_, maps.shards)))
    urls = {name: places.open_target(settings, name).url for name in names if name}

    def catalog_sql(revision: str) -> str:
        return "" if revision == catalog.head() else catalog.upgrade_sql(revision)

    replicas = {name: url for name in urls if (url := _replica(settings, name))}
    facts = gather(map_, maps.shards, urls, replicas=replicas, catalog_sql=catalog_sql, state_schema=state_schema)
    return replace(facts, config=("--config", config) if config else ()), urls


def _replica(settings: Config, name: str) -> str:
    """The URL of a database's replica for long reads: one of the role analytics before others; empty without any."""
    database = settings.databases.get(name)
    found = sorted(database.replicas if database else (), key=lambda replica: replica.role != "analytics")
    return places.open_target(settings, found[0].url).url if found else ""


def _now(urls: dict[str, str], home: str) -> datetime:
    """The server's clock: partitions follow it, not the clock of whoever plans."""
    from dbscale.drivers import postgres

    with postgres.connect(urls[home]) as connection:
        row: Any = connection.execute("SELECT now()").fetchone()
        found: datetime = row[0]
        return found


@shards.command("check")
@click.argument("name", metavar="MAP", required=False)
@MAPS
@STATE
@output.looking
def check_command(name: str | None, *, folder: str, state_schema: str, as_json: bool, config: str | None) -> int:
    """Prove that the servers are what the maps say; exit status 1 when they are not."""
    from dbscale.shards.check import check

    settings, maps = _load(config, folder)
    found = []
    for map_ in _chosen(maps, name):
        if map_.hash:
            output.say(f"{map_.name}: Citus keeps its own account of a hash map")
            continue
        facts, _ = _facts(settings, maps, map_, state_schema, config)
        found += check(map_, facts)
    if as_json:
        output.answer_json(output.findings_json(found))
    else:
        output.show_findings(found, err=False, gravest="differs")
        output.answer(f"{len(found)} findings" if found else "the servers are what the maps say")
    return 1 if any(finding.level in ("blocker", "data") for finding in found) else 0


def _plan(
    settings: Config,
    maps: Maps,
    map_: Map,
    *,
    target: str | None,
    state_schema: str,
    config: str | None,
    maintain: bool = False,
) -> tuple[Plan, dict[str, str]]:
    from dbscale.shards import targets

    target = target or ("citus" if map_.hash else "client")
    targets.refuse(map_, target)
    facts, urls = _facts(settings, maps, map_, state_schema, config)
    now = _now(urls, facts.home)
    plan = targets.plan(map_, facts, {name: name for name in urls}, now=now, target=target, maintain=maintain)
    return plan, {**urls, "target": urls[facts.home]}


@shards.command("plan")
@click.argument("name", metavar="MAP")
@TARGET
@click.option("-o", "--out", metavar="FILE", help="Write the plan as JSON to FILE (- for stdout).")
@click.option("--sql", "as_sql", is_flag=True, help="Show the plan as SQL.")
@MAPS
@STATE
@output.looking
def plan_command(
    name: str, *, target: str | None, out: str | None, as_sql: bool, folder: str, state_schema: str, as_json: bool,
    config: str | None,
) -> int:  # fmt: skip
    """What is to be done for MAP to be in effect."""
    settings, maps = _load(config, folder)
    plan, _ = _plan(settings, maps, maps.named(name), target=target, state_schema=state_schema, config=config)
    return _show(plan, out=out, as_sql=as_sql, as_json=as_json)


def _show(plan: Plan, *, out: str | None = None, as_sql: bool = False, as_json: bool = False) -> int:
    if out or as_sql or as_json:
        output.show_blockers(plan)
    if out:
        output.saved(plan, out, as_json=as_json)
    elif as_json:
        output.answer(plan.to_json())
    elif as_sql:
        output.answer(plan.to_sql())
    else:
        output.answer(
            f"plan {plan.id}: {plan.title}: " + (f"{len(plan.steps)} steps" if plan.steps else "nothing to do")
        )
        for step in plan.steps:
            blocks = getattr(step, "blocks", "nothing")
            marks = ([f"blocks {blocks}"] if blocks != "nothing" else []) + (
                ["irreversible"] if step.undo is None else []
            )
            output.answer(f"  {step.does}" + (f" ({', '.join(marks)})" if marks else ""))
        output.show_findings(plan.findings, err=False)
    return 2 if plan.blockers else 0


@shards.command("apply")
@click.argument("name", metavar="MAP")
@TARGET
@MAPS
@STATE
@output.changing
@output.common
def apply_command(
    name: str, *, target: str | None, folder: str, state_schema: str, dry_run: bool, yes: bool, as_json: bool,
    config: str | None,
) -> int:  # fmt: skip
    """Make MAP take effect on its servers. An interrupted run goes on when the same command is given again."""
    settings, maps = _load(config, folder)
    map_ = maps.named(name)
    plan, urls = _plan(settings, maps, map_, target=target, state_schema=state_schema, config=config)
    status, document = _carry_out(plan, urls, dry_run=dry_run, yes=yes, quiet=as_json)
    if as_json:
        output.answer_json(document)
    return status


@shards.command("maintain")
@click.argument("name", metavar="MAP", required=False)
@MAPS
@STATE
@output.changing
@output.common
def maintain_command(
    name: str | None, *, folder: str, state_schema: str, dry_run: bool, yes: bool, as_json: bool, config: str | None
) -> int:
    """What time makes due: partitions ahead, old ones, copies of reference tables. For a daily job, with --yes."""
    settings, maps = _load(config, folder)
    status, documents = 0, []
    for map_ in _chosen(maps, name):
        if map_.hash:
            continue
        plan, urls = _plan(
            settings, maps, map_, target="client", state_schema=state_schema, config=config, maintain=True
        )
        one, document = _carry_out(plan, urls, dry_run=dry_run, yes=yes, quiet=as_json)
        status = max(status, one)
        documents.append(document)
    if as_json:
        output.answer_json(documents)
    return status


def _carry_out(
    plan: Plan, urls: dict[str, str], *, dry_run: bool, yes: bool, quiet: bool
) -> tuple[int, dict[str, Any]]:
    """Show a plan, or carry it out: the exit status, and the document for --json; `quiet`: say nothing else."""
    from dbscale import apply
    from dbscale.cli.progress import screen
    from dbscale.drivers import postgres

    if not quiet:
        _show(plan)
    if dry_run or plan.blockers:
        return 2 if plan.blockers else 0, json.loads(plan.to_json())
    done = 0
    if plan.steps:
        output.confirm(f"Carry out plan {plan.id}?", yes=yes)
        with screen(plan, quiet=quiet) as drawing:
            for event in apply.run(plan, urls=urls, jobs=1, state_schema=plan.options["state_schema"]):
                done += isinstance(event, apply.StepDone)
                drawing.show(event)
        if not quiet:
            output.answer(f"{plan.options['map']}: {done} steps done")
    with postgres.connect(urls["target"], name="dbscale shards") as connection:
        catalog.finish_earlier(connection, plan.options["state_schema"], plan)
    findings = output.findings_json(plan.findings)
    return 0, {"plan": plan.id, "map": plan.options["map"], "steps": done, "findings": findings}


@shards.command("route", context_settings={"ignore_unknown_options": True})  # -5 is a key, no option
@click.argument("table", required=False)
@click.argument("key", required=False)
@click.option("--sql", help="A statement instead of a table and a key.")
@click.option("--arg", "arguments", multiple=True, help="The value of the statement's next placeholder.")
@click.option(
    "--style",
    type=click.Choice(["numeric", "format", "named"]),
    default="numeric",
    show_default=True,
    help="Placeholders: $1, %s and %(name)s, or :name.",
)
@click.option("--explain", is_flag=True, help="Say what decided.")
@MAPS
@output.common
def route_command(
    table: str | None, key: str | None, *, sql: str | None, arguments: tuple[str, ...], style: Any, explain: bool,
    folder: str, as_json: bool, config: str | None,
) -> int:  # fmt: skip
    """Where the rows of TABLE with KEY are, or where a statement goes. Exit status 1 when it is refused."""
    from dataclasses import asdict

    from dbscale.query import parse
    from dbscale.shards import route

    settings, maps = _load(config, folder)
    if sql:
        query = parse(sql, style)
        values = [_argument(text) for text in arguments]
        found = route.route_statement(maps, query, dict(zip(query.parameters, values, strict=False)) if query.parameters
                                      else values)  # fmt: skip
    elif table and key is not None:
        map_ = maps.of(*reversed(table.split(".", 1)))
        if map_ is None:
            names = ", ".join(name for each in maps.maps for name in (*each.tables, *each.reference))
            output.say(f"{table} is on no map, and such tables are on {maps.home}; the maps have {names}")
        found = route.route(maps, table, _key(map_, key) if map_ else key)
    else:
        raise ConfigError("a table and a key are wanted, or --sql", try_="dbscale shards route farms 42")
    if as_json:
        output.answer_json({**asdict(found), "databases": [settings.shards.get(shard, "") for shard in found.shards]})
        return 0
    output.answer(" ".join(found.shards))
    if explain:
        output.answer(f"  kind     {found.kind}")
        output.answer(f"  map      {found.map or 'none'}")
        output.answer(f"  ranges   {', '.join(found.ranges) or 'none'}")
        output.answer(f"  because  {found.why}")
        if found.combine:
            output.answer(f"  but      {found.combine}: ask the coordinator of the fdw target")
    return 0


def _argument(text: str) -> Any:
    """A value of the command line: a number where it looks like one, NULL, a list with [a, b], else text."""
    if text == "NULL":
        return None
    if text.startswith("[") and text.endswith("]"):
        return [_argument(part.strip()) for part in text[1:-1].split(",") if part.strip()]
    with contextlib.suppress(ValueError):
        return int(text)
    return text


def _key(map_: Map, text: str) -> Key:
    """A key as written on the command line."""
    from dbscale.shards.keys import exact
    from dbscale.shards.partitions import day

    try:
        if map_.key in INTEGERS:
            return exact(map_.key, int(text.replace("_", "")))
        if map_.key in ("date", "timestamptz"):
            moment = day(text)
            return moment.date() if map_.key == "date" else moment
        return exact(map_.key, text)
    except ValueError as error:
        raise ConfigError(f"{text!r} is no {map_.key}: {error}", where=f"key of {map_.name}") from error


@shards.command("audit")
@click.option("--from", "origin", required=True, metavar="DATABASE|FILE", help="pg_stat_statements there, or SQL.")
@click.option("--top", type=click.IntRange(0), default=20, show_default=True, help="How many statements to show.")
@MAPS
@output.looking
def audit_command(origin: str, *, top: int, folder: str, as_json: bool, config: str | None) -> int:
    """How a real workload would route: single, targeted, scatter or refused. Exit status 1 when some is refused."""
    from dbscale.shards import audit

    settings, maps = _load(config, folder)
    verdicts = audit.audit(maps, _workload(settings, origin))
    totals: dict[str, list[float]] = {outcome: [0, 0, 0.0] for outcome in audit.ORDER}
    for verdict in verdicts:
        total = totals[verdict.outcome]
        total[0] += 1
        total[1] += verdict.statement.calls
        total[2] += verdict.statement.seconds
    if as_json:
        output.answer_json(
            {
                "totals": {key: {"statements": n, "calls": c, "seconds": s} for key, (n, c, s) in totals.items()},
                "statements": [
                    {"sql": v.statement.sql, "calls": v.statement.calls, "seconds": v.statement.seconds,
                     "outcome": v.outcome, "why": v.why} for v in verdicts
                ],
            }
        )  # fmt: skip
    else:
        calls = sum(total[1] for total in totals.values()) or 1
        rows = [
            (key, output.count(n), output.count(c), f"{c / calls:.1%}", output.seconds(s))
            for key, (n, c, s) in totals.items()
        ]
        output.answer(output.table(("", "statements", "calls", "share", "time"), rows, right=(1, 2, 3, 4)))
        shown = [verdict for verdict in verdicts if verdict.outcome != "single"][:top]
        for verdict in shown:
            output.answer(f"\n{verdict.outcome}: {' '.join(verdict.statement.sql.split())[:160]}")
            output.answer(f"  {output.count(verdict.statement.calls)} calls; {verdict.why}")
    return 1 if totals["refused"][0] else 0


def _workload(settings: Config, origin: str) -> Any:
    from dbscale.drivers import postgres
    from dbscale.shards import audit

    if origin not in settings.databases and Path(origin).is_file():
        return audit.from_text(Path(origin).read_text(encoding="utf-8", errors="replace"), origin)
    target = places.open_target(settings, origin)
    with postgres.connect(target.url) as connection, postgres.reading(connection):
        row = connection.execute("SELECT to_regclass('pg_stat_statements')").fetchone()
        if row == (None,):
            raise Missing(
                "pg_stat_statements is not there",
                where=target.title,
                try_="shared_preload_libraries = 'pg_stat_statements', then CREATE EXTENSION pg_stat_statements",
            )
        return audit.from_server(connection)


@shards.command("split")
@click.argument("name", metavar="MAP")
@click.argument("range_id", metavar="RANGE")
@click.option("--at", required=True, help="The first key of the new range.")
@click.option("--id", "new_id", required=True, help="The new range's id.")
@MAPS
@output.changing
@output.common
def split_command(
    name: str, range_id: str, *, at: str, new_id: str, folder: str, dry_run: bool, yes: bool, as_json: bool,
    config: str | None,
) -> None:  # fmt: skip
    """Cut RANGE in two in the map's file; both keep the owner, and no row moves. Then: dbscale shards apply MAP."""
    _, maps = _load(config, folder)
    map_ = maps.named(name)
    _rewrite(map_, mapping.split(map_, range_id, _key(map_, at), new_id), dry_run=dry_run, yes=yes, as_json=as_json)


@shards.command("merge")
@click.argument("name", metavar="MAP")
@click.argument("first", metavar="RANGE")
@click.argument("second", metavar="NEXT")
@MAPS
@output.changing
@output.common
def merge_command(
    name: str, first: str, second: str, *, folder: str, dry_run: bool, yes: bool, as_json: bool, config: str | None
) -> None:
    """Unite RANGE and the one that follows it, of the same owner, in the map's file. Then: dbscale shards apply MAP."""
    _, maps = _load(config, folder)
    map_ = maps.named(name)
    _rewrite(map_, mapping.merge(map_, first, second), dry_run=dry_run, yes=yes, as_json=as_json)


def _rewrite(old: Map, new: Map, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    text = file.rewritten(old.path, new)
    if as_json:
        output.answer_json(mapping.content(new))
    else:
        for change in mapping.difference(old, new):
            output.answer(change.says)
    if dry_run:
        return
    output.confirm(f"Write {old.path}?", yes=yes)
    Path(old.path).write_bytes(text)
    output.say(f"{old.path} is written; now: dbscale shards apply {new.name}")


@shards.command("credentials", hidden=True)
@click.argument("databases", nargs=-1, required=True)
@click.option("--on", required=True, metavar="DATABASE")
@output.common
def credentials_command(databases: tuple[str, ...], *, on: str, as_json: bool, config: str | None) -> None:
    """A step of the fdw target's plan: this role's user and password on each foreign server, from dbscale.toml."""
    from psycopg import conninfo

    from dbscale.drivers import postgres
    from dbscale.shards import fdw

    settings = configuration.load(config)
    home = places.open_target(settings, on)
    with postgres.connect(home.url) as connection, connection.transaction():
        for database in databases:
            parts = conninfo.conninfo_to_dict(places.open_target(settings, database).url)
            sql = fdw.mapping(database, str(parts.get("user", "")), str(parts.get("password") or ""))
            connection.execute(sql.encode())
    if as_json:
        output.answer_json({"on": on, "databases": databases})
