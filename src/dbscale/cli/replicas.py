"""`dbscale replicas`: make replicas, see what they are doing, wait for them, promote one."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from dbscale import config as configuration
from dbscale.cli import output
from dbscale.errors import ConfigError, Finding, Missing

if TYPE_CHECKING:
    from dbscale.cluster.survey import Member, Survey
    from dbscale.config import Config, Database
    from dbscale.plan import Plan


@click.group()
def replicas() -> None:
    """Make replicas, see what they are doing, wait for them, promote one.

    DATABASE is a name from dbscale.toml or a URL; without it, the only PostgreSQL database there (or the shard home).
    """


@replicas.command()
@click.argument("database", required=False)
@click.option("--metrics", multiple=True, metavar="URL", help="An application's metrics endpoint (again for more).")
@output.looking
def show(database: str | None, metrics: tuple[str, ...], as_json: bool, config: str | None) -> int:
    """Show state, timeline, lag and slot of every replica. Exit 1 where one is not streaming.

    A lag in seconds is proven by positions, so it is right on an idle primary and for a replica that has lost its
    connection; `≤` marks a bound, by the time of the last commit that was replayed. With --metrics also where
    applications sent their reads and writes, and why.
    """
    from dbscale.cluster import scrape
    from dbscale.cluster.cluster import shards_of
    from dbscale.cluster.replicas import notices

    settings = configuration.load(config)
    entries = {entry.name: entry for entry in shards_of(settings, database).values()}
    found = [(name, _survey(entry)) for name, entry in entries.items()]
    routes = [route for url in metrics for route in scrape.routes(url)]
    findings: list[Finding] = []
    for _, result in found:
        if result.sending is not None:
            findings += notices(result.statuses, result.sending, result.standbys)
    if as_json:
        output.answer_json(
            {
                "databases": [
                    {
                        "database": name,
                        "primary": asdict(result.primary) if result.primary else None,
                        "error": result.error,
                        "replicas": [asdict(status) for status in result.statuses],
                    }
                    for name, result in found
                ],
                "routes": routes,
                "findings": output.findings_json(findings),
            }
        )
    else:
        output.answer(
            output.table(
                ("node", "role", "state", "timeline", "position", "lag", "behind", "slot", "kept"),
                [row for name, result in found for row in _rows(name, result)],
                right=(3, 5, 6, 8),
            )
        )
        if routes:
            rows = [(route["shard"], route["node"], route["reason"], route["count"]) for route in routes]
            output.answer("\n" + output.table(("shard", "node", "why", "times"), rows, right=(3,)))
        output.show_findings(findings)
    good = all(
        result.primary is not None and all(status.state == "streaming" for status in result.statuses)
        for _, result in found
    )
    return 0 if good else 1


def _survey(entry: Database) -> Survey:
    """What the servers of one database answer; of an embedded one that was never made, that."""
    from dbscale.cluster import survey
    from dbscale.drivers import embedded

    try:
        _, url, members = _database(entry)
    except embedded.Stopped as error:
        return survey.Survey(primary=None, error=error.says, sending=None, statuses=(), places={}, standbys={})
    return survey.survey(url, members)


def _rows(name: str, result: Survey) -> list[tuple[str, ...]]:
    from dbscale.drivers.replication import as_text

    place = result.primary
    state = "unreachable" if place is None else "standby" if place.recovery else "primary"
    where = (str(place.timeline), as_text(place.lsn)) if place else ("-", "-")
    rows: list[tuple[str, ...]] = [(name, "primary", state, *where, "-", "-", "-", "-")]
    for status in result.statuses:
        if status.lag_seconds is not None:
            lag = f"{status.lag_seconds:.2f} s"
        else:
            lag = "-" if status.lag_bound is None else f"≤ {output.seconds(status.lag_bound)}"
        rows.append(
            (
                status.name,
                status.role,
                status.state,
                str(status.timeline or "-"),
                status.lsn or "-",
                lag,
                "-" if status.lag_bytes is None else output.size(status.lag_bytes),
                status.slot or "-",
                "-" if status.retained is None else output.size(status.retained),
            )
        )
    return rows


@replicas.command()
@click.argument("database", required=False)
@click.option("--max-lag", type=output.Number(above=True), default=1.0, show_default=True, metavar="SECONDS")
@click.option(
    "--timeout", type=output.Number(), default=60.0, show_default=True, metavar="SECONDS", help="Give up after this."
)
@output.looking
def wait(database: str | None, max_lag: float, timeout: float, as_json: bool, config: str | None) -> int:
    """Wait until every replica is proven to be at most --max-lag seconds behind. Exit 1 when --timeout is over."""
    from dbscale.cluster import survey

    lags: dict[str, float] = {}
    settings = configuration.load(config)
    found = [each for each in _databases(settings, database) if each[2]]
    if not found:
        raise ConfigError(
            f"{database or 'no database'} has {'no' if database else 'any'} replicas",
            where=settings.path,
            try_="dbscale replicas add",
        )
    for _, url, members in found:
        lags |= survey.wait(url, members, max_lag=max_lag, timeout=timeout)
    good = all(lag <= max_lag for lag in lags.values())
    if as_json:
        told = {name: None if math.isinf(lag) else round(lag, 3) for name, lag in lags.items()}
        output.answer_json({"caught_up": good, "max_lag": max_lag, "lag_seconds": told})
    else:
        for name, lag in lags.items():
            output.answer(f"{name}: {'nothing proven' if math.isinf(lag) else f'at most {lag:.2f} s behind'}")
    return 0 if good else 1


@replicas.command()
@click.argument("database", required=False)
@click.option("--name", default="", help="The replica's name: its slot and application_name.  [default: replica_N]")
@click.option("--data", default="/var/lib/postgresql/replica", show_default=True, help="Its data directory there.")
@click.option("--bin", "binaries", default="", metavar="DIR", help="Where PostgreSQL's programs are there.")
@click.option("--analytics", default="", metavar="ROLE", help="Instead: make ROLE one that can read and not write.")
@click.option("-o", "--out", metavar="FILE", help="Write the plan as JSON to FILE (- for stdout) and stop.")
@output.changing
@output.common
def add(
    database: str | None,
    *,
    name: str,
    data: str,
    binaries: str,
    analytics: str,
    out: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    config: str | None,
) -> int:
    """Make a replica: slot, base backup, settings, start.

    For an embedded server (`dbscale local`) it is done here. For any other, the plan is for the replica's machine:
    save it with -o, and run `dbscale apply` on it there.
    """
    settings = configuration.load(config)
    reference, url, _ = _one(settings, database)
    place = configuration.locate(settings.database(reference))
    embedded = place.kind == "embedded"
    if analytics:
        plan = _analytics(reference, url, analytics)
    elif embedded:
        plan = _embedded(reference, place.address)
    else:
        plan = _server(reference, url, name, data, binaries)
    if out:
        output.saved(plan, out, as_json=as_json)
        return 2 if plan.blockers else 0
    if not plan.steps:
        output.say("nothing to do: it is so already")
        if as_json:
            output.answer_json({"done": True, "plan": plan.id})
        return 0
    carried_out = (embedded or bool(analytics)) and not dry_run and not plan.blockers
    _draw(plan, as_json=as_json, answer=not (as_json and carried_out))
    if plan.blockers:
        return 2
    if dry_run or not (embedded or analytics):
        if not dry_run:
            output.say("save it with -o replica.json, and on the replica's machine: dbscale apply replica.json")
        return 0
    output.confirm(f"{plan.title}: go on?", yes=yes)
    _apply(plan, url)
    if embedded and not analytics:
        server = str(plan.steps[0].undo).split(" down ")[1].split()[0]
        output.say(f'in dbscale.toml: replicas = [ {{ url = "embedded:{server}" }} ]')
    if as_json:
        output.answer_json({"done": True, "plan": plan.id})
    return 0


def _embedded(reference: str, server: str) -> Plan:
    from dbscale.cluster.replicas import plan_embedded
    from dbscale.drivers import embedded

    return plan_embedded(reference, server, [known.name for known in embedded.status()])


def _server(reference: str, url: str, name: str, data: str, binaries: str) -> Plan:
    from dbscale.cluster import survey
    from dbscale.cluster.replicas import ROLE, plan_server
    from dbscale.drivers import replication

    with survey.connected(url) as connection:
        sending = replication.sending(connection)
        known = connection.execute("SELECT FROM pg_roles WHERE rolname = %s AND rolreplication", (ROLE,)).fetchone()
    count = 1 + sum(slot.name.startswith("replica_") for slot in sending.slots)
    return plan_server(
        reference,
        url,
        name=name or f"replica_{count}",
        directory=data,
        sending=sending,
        role_exists=known is not None,
        binaries=binaries,
    )


def _analytics(reference: str, url: str, role: str) -> Plan:
    from dbscale.catalog import DEFAULT_SCHEMA
    from dbscale.cluster import survey
    from dbscale.cluster.analytics import plan_analytics, read_grants

    with survey.connected(url) as connection:
        grants = read_grants(connection, role, DEFAULT_SCHEMA)
        row = connection.execute("SELECT current_database(), current_user").fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM
    return plan_analytics(reference, role, grants, name=row[0], owner=row[1])


def _apply(plan: Plan, url: str) -> None:
    from dbscale import apply

    for event in apply.run(plan, urls={"target": url}):
        if isinstance(event, apply.StepDone):
            output.say(f"done: {event.step.does}")
        elif isinstance(event, apply.Noticed):
            output.show_findings([event.finding])


@replicas.command()
@click.argument("replica")
@click.option("--database", help="Whose replica it is.")
@click.option("--timeout", type=click.IntRange(1), default=60, show_default=True, metavar="SECONDS")
@click.option("--stop-primary", is_flag=True, help="Stop the primary first (embedded servers).")
@output.changing
@output.common
def promote(
    replica: str,
    *,
    database: str | None,
    timeout: int,
    stop_primary: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    config: str | None,
) -> int:
    """Make REPLICA (as `show` names it) the primary, once it is certain that nothing is lost by it.

    Refused (exit status 2) while the primary still accepts writes, while another replica has replayed more, or while
    its replay is paused. An embedded primary is stopped first with --stop-primary, where REPLICA streams from it.
    """
    from dbscale.cluster import survey
    from dbscale.cluster.replicas import plan_promotion

    settings = configuration.load(config)
    reference, url, members = _one(settings, database)
    chosen = next((m for m in members if m.name in (replica, f"{reference}.{replica}")), None)
    if chosen is None:
        names = ", ".join(member.name for member in members) or "it has none"
        raise ConfigError(f"{replica!r} is no replica of {reference}", try_=f"one of: {names}")
    seen = survey.survey(url, members)
    if chosen.name not in seen.places:
        says = next(status.says for status in seen.statuses if status.name == chosen.name)
        raise Missing(f"{chosen.name} does not answer: {says}", where=chosen.name)
    plan = plan_promotion(
        chosen.name,
        place=seen.places[chosen.name],
        standby=seen.standbys.get(chosen.name),
        primary=seen.primary,
        stops=stop_primary,
        others={name: place for name, place in seen.places.items() if name != chosen.name},
    )
    if not plan.steps:
        output.say(f"{chosen.name} is a primary already")
        if as_json:
            output.answer_json({"promoted": chosen.name, "timeline": seen.places[chosen.name].timeline})
        return 0
    _draw(plan, as_json=as_json, answer=dry_run or bool(plan.blockers) or not as_json)
    if plan.blockers or dry_run:
        return 2 if plan.blockers else 0
    output.confirm(f"{plan.title}?", yes=yes)
    if stop_primary:
        timeline = _switch(settings, reference, chosen.name, timeout)
    else:
        timeline = survey.promote(chosen.url, seconds=timeout).timeline
    if as_json:
        output.answer_json({"promoted": chosen.name, "timeline": timeline})
    else:
        output.answer(f"{chosen.name} is the primary now, on timeline {timeline}")
        output.say(f"in dbscale.toml, make its URL the one of databases.{reference}")
    return 0


def _switch(settings: Config, reference: str, name: str, timeout: int) -> int:
    """Stop an embedded primary and promote its replica; the new timeline."""
    from dbscale.cluster import survey
    from dbscale.drivers import embedded, replication

    number = int(name.rpartition("replica")[2])
    replica = settings.database(reference).replicas[number - 1]
    place = configuration.locate(configuration.Database(name=name, url=replica.url))
    if place.kind != "embedded":
        raise ConfigError("--stop-primary is for embedded servers", where=name, try_="pg_ctl stop -m fast, on its host")
    server = embedded.promote(place.address, seconds=timeout)
    with survey.connected(server.url) as connection:
        return replication.look(connection).timeline


# What stands in dbscale.toml.


def _databases(settings: Config, database: str | None) -> list[tuple[str, str, tuple[Member, ...]]]:
    """Name, URL and replicas: of the database named, else of each shard's."""
    from dbscale.cluster.cluster import shards_of

    entries = {entry.name: entry for entry in shards_of(settings, database).values()}
    return [_database(entry) for entry in entries.values()]


def _database(entry: Database) -> tuple[str, str, tuple[Member, ...]]:
    from dbscale.cluster.survey import Member

    members = []
    for number, replica in enumerate(entry.replicas, 1):
        place = configuration.Database(name=f"{entry.name}.replica{number}", url=replica.url)
        role = replica.role or "replica"
        members.append(Member(name=place.name, url=_url(place), role=role, region=replica.region))
    return entry.name, _url(entry), tuple(members)


def _url(entry: configuration.Database) -> str:
    """The URL of a server; an embedded one that is stopped stays so: looking changes nothing."""
    from dbscale.cluster.cluster import url_of

    place = configuration.locate(entry)
    if place.kind == "embedded":
        from dbscale.drivers import embedded

        for server in embedded.status():
            if server.name == place.address:
                return server.url
    return url_of(entry)


def _one(settings: Config, database: str | None) -> tuple[str, str, tuple[Member, ...]]:
    found = _databases(settings, database or settings.shards.get("home"))
    if len(found) != 1:
        names = ", ".join(name for name, _, _ in found)
        raise ConfigError(f"which database is meant is not clear: {names}", try_="name one")
    return found[0]


def _draw(plan: Plan, *, as_json: bool, answer: bool) -> None:
    """Show a plan; where it is carried out and the answer is JSON, its findings alone."""
    if answer:
        output.answer(plan.to_json() if as_json else plan.to_sql().rstrip())
    output.show_findings(plan.findings)
