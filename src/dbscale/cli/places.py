"""From what stands on the command line to an open source and a target's URL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import click

from dbscale import config as configuration
from dbscale.cli import output
from dbscale.config import Config, Location
from dbscale.drivers.source import AS_IT_IS, Source, Way
from dbscale.errors import ConfigError
from dbscale.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    reference: str
    """As written on the command line; plans carry it, without a password."""
    url: str
    """For libpq; empty: an embedded server that does not run, while only looking."""
    title: str
    stopped: str = ""
    """Where there is no URL: what is the matter."""


def location(config: Config, reference: str) -> Location:
    """Where a name, a path or a URL leads; notes about dropped options are said on stderr."""
    place = configuration.locate(config.database(reference))
    for note in place.notes:
        output.say(f"note: {note}")
    return place


@contextmanager
def opened(config: Config, reference: str, way: Way = AS_IT_IS) -> Iterator[Source]:
    """As `open_source`, and closed when the block ends: what could not be given back is said, and the status is 1.

    Where the block has closed it, it has said so itself.
    """
    source = open_source(config, reference, way)
    try:
        yield source
    except BaseException:
        output.show_findings(source.close())
        raise
    if left := source.close():
        output.show_findings(left)
        raise click.exceptions.Exit(1)


def open_source(config: Config, reference: str, way: Way = AS_IT_IS) -> Source:
    """The source that `reference` means; ConfigError where it is a database that dbscale only writes to."""
    place = location(config, reference)
    if place.kind == "sqlite":
        if way.frozen or way.branch:
            raise ConfigError(
                "--branch is for a database at Turso Cloud"
                if way.branch
                else "--frozen is for a libSQL server: of a file it is seen whether somebody writes",
                where=place.title,
                try_="leave it away; --hold-writes keeps writers out",
            )
        from dbscale.drivers.sqlite import SqliteSource

        return SqliteSource(place.address, copy_first=way.copy_first, hold_writes=way.hold_writes)
    if place.kind == "libsql":
        from dbscale.drivers.libsql_ways import open_source as open_libsql

        return open_libsql(place, config.database(reference), way)
    raise ConfigError(
        f"{place.title} is PostgreSQL: the source is a SQLite or libSQL database",
        where=reference,
        try_="the source comes first: dbscale migrate SOURCE TARGET",
    )


def open_target(config: Config, reference: str) -> Target:
    """The PostgreSQL database that `reference` means; an embedded server is started if it does not run."""
    place = location(config, reference)
    if place.kind == "embedded":
        from dbscale.drivers import embedded

        return Target(reference=reference, url=embedded.url(place.address), title=place.title)
    if place.kind == "postgres":
        return Target(reference=reference, url=place.address, title=place.title)
    raise ConfigError(
        f"{place.title} is not PostgreSQL: the target has to be",
        where=reference,
        try_="postgresql://…, or a name in dbscale.toml; dbscale migrate takes SOURCE first, then TARGET",
    )


def look_target(config: Config, reference: str) -> Target:
    """As `open_target`, but an embedded server that does not run is no error while only looking: it has no URL."""
    from dbscale.drivers import embedded

    try:
        return open_target(config, reference)
    except embedded.Stopped as error:
        return Target(reference=reference, url="", title=location(config, reference).title, stopped=error.says)


def urls(config: Config, plan: Plan) -> Mapping[str, str]:
    """The URLs of a saved plan's databases but its source, looked up again: plans carry no passwords."""
    return {name: open_target(config, reference).url for name, reference in plan.databases.items() if name != "source"}
