"""`dbscale doctor`: what is wrong with the set-up, and the remedy."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import suppress

import click

from dbscale import __version__, catalog
from dbscale import config as configuration
from dbscale.cli import output, places
from dbscale.cli.runs import again
from dbscale.config import Config, Database, Location
from dbscale.drivers import postgres
from dbscale.errors import ConfigError, DbscaleError, Finding, redact
from dbscale.indexes import facts, health
from dbscale.migrate import room
from dbscale.plan import Plan


@click.command()
@click.argument("databases", nargs=-1)
@click.option("--state-schema", default=catalog.DEFAULT_SCHEMA, show_default=True)
@output.common
def doctor(databases: tuple[str, ...], *, state_schema: str, as_json: bool, config: str | None) -> int:
    """Look at DATABASES (all of dbscale.toml where none are named), and say what is wrong and what to do.

    Nothing is changed or started. A database whose variables are not set is a note, unless you name it. Exit status 1
    when something has to be done.
    """
    settings = configuration.load(config)
    names = databases or tuple(settings.databases)
    programs = versions()
    findings: list[Finding] = []
    looked: dict[str, str] = {}
    for name in names:
        looked[redact(name)], found = _looked(settings, name, state_schema, asked=bool(databases))
        findings += found
    wrong = any(finding.level != "note" for finding in findings)
    if as_json:
        content = {"versions": programs, "databases": looked, "findings": output.findings_json(findings)}
        output.answer_json(content)
    else:
        output.answer(", ".join(f"{name} {version}" for name, version in programs.items()))
        for name, says in looked.items():
            output.answer(f"{name}: {says}")
        output.show_findings(findings, err=False, gravest="wrong")
        output.answer("something has to be done" if wrong else "all is well")
    return 1 if wrong else 0


def _looked(settings: Config, name: str, state_schema: str, *, asked: bool) -> tuple[str, list[Finding]]:
    """One line about a database, and what is wrong with it; what is only not set up yet is a note, unless asked for."""
    from dbscale.drivers import embedded

    database = settings.database(name)
    unset = [] if asked else [each for each in (database.url, database.token) if not configuration.is_set(each)]
    if unset:
        says = f"{', '.join(each.removeprefix('env:') for each in unset)} is not set: this database was passed by"
        return "not set up", [Finding(code="not-set-up", where=name, says=says, try_=f"dbscale doctor {name}")]
    try:
        with embedded.only_looking():
            return look(settings, database, state_schema)
    except embedded.Stopped as error:
        return error.says, []
    except DbscaleError as error:
        where = error.where or name
        return "not to be had", [
            Finding(code=error.anchor, where=where, says=error.says, try_=error.try_, level="blocker")
        ]


def versions() -> dict[str, str]:
    """What runs here."""
    import apsw
    import psycopg

    return {
        "dbscale": __version__,
        "Python": platform.python_version(),
        "SQLite": apsw.sqlite_lib_version(),
        "extension": _extension(),
        "psycopg": f"{psycopg.__version__} ({psycopg.pq.__impl__})",
    }


def _extension() -> str:
    from dbscale import native

    if native.extension():
        return "compiled"
    if native.is_stale():
        return "compiled from another version's source, so all is done in SQL; install dbscale again to compile it"
    return "none, all is done in SQL"


def look(settings: Config, database: Database, state_schema: str) -> tuple[str, list[Finding]]:
    """One line about a database, and what is wrong with it."""
    place = places.location(settings, database.name)
    if place.kind in ("sqlite", "libsql"):
        source = places.open_source(settings, database.name)
        with source.snapshot(1) as readers:
            version = ".".join(str(part) for part in readers[0].library)
            (tables,) = next(
                readers[0].rows(
                    "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'"
                )
            )
        findings = [*source.notes, *(_left_behind(place, database) if place.kind == "libsql" else ())]
        # To read it all would keep its writers waiting, where it is not in WAL mode.
        says = f"{place.title}: {tables!r} tables, by SQLite {version}; rows were not read, dbscale assess does that"
        return says, findings
    target = places.open_target(settings, database.name)
    with postgres.connect(target.url, name="dbscale doctor") as connection, postgres.reading(connection):
        server = connection.info.parameter_status("server_version") or ""
        findings = [*_server(connection, database.name), *_runs(connection, database.name, state_schema)]
        findings += health.check(connection, facts.read(connection, hidden=(state_schema,)), database.name)
    return f"{postgres.display(target.url)}: PostgreSQL {server}", findings


def _left_behind(place: Location, database: Database) -> Iterator[Finding]:
    """Blocked writes and branches that a killed dbscale has left, where somebody is named who may ask."""
    from dbscale.drivers import turso
    from dbscale.drivers.hrana import parse
    from dbscale.drivers.turso_branch import left_branches

    with suppress(ConfigError):
        admin = turso.admin_of(parse(place.address).host, database)
        left = turso.left_blocked(admin)
        if left:
            yield left
        if admin.organization:
            yield from left_branches(admin)


def _server(connection: postgres.Connection, name: str) -> Iterator[Finding]:
    """What would keep this server from being a target."""
    try:
        room.check_server(connection)
    except DbscaleError as error:
        yield Finding(code=error.anchor, where=name, says=error.says, try_=error.try_, level="blocker")


def _runs(connection: postgres.Connection, name: str, state_schema: str) -> Iterator[Finding]:
    """Runs that were not finished."""
    for run in catalog.runs(connection, state_schema):
        if run.unfinished and run.state != "running":
            yield Finding(
                code="unfinished-run",
                where=name,
                says=f"run {run.id} was not finished: {run.title}" + (f" ({run.error})" if run.error else ""),
                try_=f"{again(run, Plan.from_json(run.plan), name, None)}; or dbscale undo {run.id} {name}",
                level="behaviour",
            )
