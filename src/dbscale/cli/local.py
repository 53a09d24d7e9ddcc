"""`dbscale local`: PostgreSQL servers on this machine. `local url` is the one command that prints a password."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dbscale.cli import output
from dbscale.errors import ConfigError, without_secrets

if TYPE_CHECKING:
    from dbscale.drivers.embedded import Server


as_json_option = click.option("--json", "as_json", is_flag=True, help="Answer with one JSON document on stdout.")


@click.group()
def local() -> None:
    """Run PostgreSQL here: up, down, status, url.

    The data stay in .dbscale/ (for root in /var/lib/dbscale, as PostgreSQL refuses to run as root). A server is named
    `main` unless you say otherwise; `embedded` in a URL's place means it, and `embedded:NAME` another one.
    """


@local.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--shards", type=click.IntRange(0, 64), default=0, help="Also run shard_1 … shard_N.", metavar="N")
@click.option("--replicas", type=click.IntRange(0, 8), default=0, help="Replicas of each of these.", metavar="N")
@as_json_option
def up(names: tuple[str, ...], shards: int, replicas: int, as_json: bool) -> None:
    """Make the servers where they are not there yet, and start them; then print where they are.

    The URL with its password, for psql and your application, is what `dbscale local url` prints.

    Safe to run again: a server that runs is left alone, and nothing is ever taken away.
    """
    from dbscale.drivers import embedded

    started = []
    for name in [*(names or ("main",)), *(f"shard_{number}" for number in range(1, shards + 1))]:
        started.append(embedded.up(name))
        started += [embedded.up(f"{name}_replica_{number}", primary=name) for number in range(1, replicas + 1)]
    _show(started, as_json)
    output.say(f"with the password: dbscale local url{'' if started[0].name == 'main' else ' ' + started[0].name}")


@local.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--remove", is_flag=True, help="Delete their data as well.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json_option
def down(names: tuple[str, ...], remove: bool, yes: bool, as_json: bool) -> None:
    """Stop the servers, or those named, with their replicas. The data stay, unless you say --remove."""
    from dbscale.drivers import embedded

    servers = {server.name: server for server in embedded.status()}
    if unknown := [name for name in names if name not in servers]:
        raise ConfigError(
            f"there is no embedded server {unknown[0]!r} here",
            where=str(embedded.default_root()),
            try_=f"one of: {', '.join(servers)}" if servers else "dbscale local up",
        )
    chosen = [servers[name] for name in names] if names else [s for s in servers.values() if not s.primary]
    if remove and chosen:
        output.confirm(f"Delete all data of {', '.join(server.name for server in chosen)}?", yes=yes)
    for server in chosen:
        if server.folder.exists():  # a replica may have gone with its primary
            embedded.down(server.name, remove=remove)
    if remove and chosen and not as_json:
        output.say(f"{', '.join(server.name for server in chosen)}: removed, with all data")
    _show(embedded.status(), as_json)


@local.command()
@as_json_option
def status(as_json: bool) -> None:
    """Show the servers, where they are, and whether they run."""
    from dbscale.drivers import embedded

    _show(embedded.status(), as_json)


@local.command()
@click.argument("name", default="main")
@as_json_option
def url(name: str, as_json: bool) -> None:
    """Print the URL of a server, with its password: psql "$(dbscale local url)". It is started where need be."""
    from dbscale.drivers import embedded

    found = embedded.url(name)
    if as_json:
        output.answer_json({"name": name, "url": found})
    else:
        output.answer(found)


def _show(servers: list[Server], as_json: bool) -> None:
    if as_json:
        output.answer_json([_facts(server) for server in servers])
    elif not servers:
        output.say("there is no embedded server here; dbscale local up makes one")
    else:
        rows = [
            (each["name"], "running" if each["running"] else "stopped", each["primary"] or "-", each["url"])
            for each in map(_facts, servers)
        ]
        output.answer(output.table(("server", "state", "follows", "url"), rows))


def _facts(server: Server) -> dict[str, Any]:
    return {
        "name": server.name,
        "running": server.running,
        "primary": server.primary or None,
        "url": without_secrets(server.url),
        "version": server.version,
        "data": str(server.data),
        "log": str(server.log),
    }
