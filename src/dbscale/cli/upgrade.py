"""`dbscale upgrade`: the application's Alembic revisions on every database, one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from dbscale import config as configuration
from dbscale import environment
from dbscale.cli import output, places
from dbscale.config import Config, Database
from dbscale.drivers import postgres
from dbscale.environment import Environment
from dbscale.errors import ConfigError, DbscaleError, TargetInUse, Unfinished, Unreachable

REPLICA_SECONDS = 60


@dataclass(slots=True, kw_only=True)
class At:
    """One database, and the revision it is at."""

    database: str
    shards: tuple[str, ...]
    before: str = ""
    now: str = ""
    state: str = "waits"
    """waits, there (nothing to do), done, failed."""
    says: str = ""
    """Why it failed."""
    seconds: float = 0.0
    replicas: list[str] = field(default_factory=list)


@click.command()
@click.option("--migrations", metavar="PLACE", default="", help="alembic.ini, or a folder with env.py.")
@click.option("--to", default="heads", show_default=True, help="The revision to go to.")
@click.option("--stamp", is_flag=True, help="Run nothing: only note the revision, where the schema is there already.")
@click.option("--canary", metavar="NAME", default="", help="The shard or database that goes first.")
@click.option("--only", multiple=True, metavar="NAME", help="Only this database or shard (again for more).")
@click.option("--skip", multiple=True, metavar="NAME", help="Not this one (again for more).")
@output.changing
@output.common
def upgrade(
    *,
    migrations: str,
    to: str,
    stamp: bool,
    canary: str,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
    config: str | None,
) -> int:
    """Run the application's Alembic revisions on every shard and primary of dbscale.toml.

    One database goes first, the canary; the first failure stops the rest. Given again, the command goes on from there:
    a database that is at the revision is left alone. Exit status 4 when it stopped.
    """
    settings = configuration.load(config)
    alembic = Environment(Path(migrations)) if migrations else environment.find(Path.cwd())
    if alembic is None:
        raise ConfigError("there is no Alembic environment here", where=str(Path.cwd()), try_="--migrations PLACE")
    wanted = _resolved(alembic, to)
    found = order(settings, canary=canary, only=only, skip=skip)
    urls = {at.database: places.open_target(settings, at.database).url for at in found}
    for at in found:
        at.before = at.now = _revision(alembic, urls[at.database], at.database)
        at.state = "there" if _reached(alembic, at.now, wanted) else "waits"
    waiting = [at for at in found if at.state == "waits"]
    if dry_run or not waiting:
        _answer(found, as_json=as_json)
        return 0
    output.confirm(
        f"{'Note' if stamp else 'Bring'} {len(waiting)} of {len(found)} databases to {', '.join(wanted)}?", yes=yes
    )
    stopped: DbscaleError | None = None
    for at in waiting:
        try:
            _one(alembic, at, urls[at.database], to, settings.databases[at.database], stamp=stamp)
        except DbscaleError as error:
            at.state, at.says, stopped = "failed", error.says, error
            try:
                at.now = _revision(alembic, urls[at.database], at.database)
            except DbscaleError:
                at.now = "unknown"
            break
        if not as_json:
            output.say(f"{at.database}: {at.before or 'empty'} -> {at.now} in {output.seconds(at.seconds)}")
    _answer(found, as_json=as_json)
    if stopped:
        left = sum(at.state == "waits" for at in found)
        raise Unfinished(
            f"{next(at.database for at in found if at.state == 'failed')}: {stopped.says}; {left} more were not tried",
            where=stopped.where,
            try_="mend the revision or the database, then run the same command again",
        ) from stopped
    return 0


def order(settings: Config, *, canary: str = "", only: tuple[str, ...] = (), skip: tuple[str, ...] = ()) -> list[At]:
    """The databases in the order they are upgraded: the canary, the other shards, home, other primaries.

    ConfigError where a name is none of them.
    """
    shards: dict[str, list[str]] = {}
    for shard, database in sorted(settings.shards.items(), key=lambda item: item[0] == "home"):
        shards.setdefault(database, []).append(shard)
    for name, entry in settings.databases.items():
        if name not in shards and _is_postgres(entry):
            shards[name] = []
    for name in (*only, *skip, *([canary] if canary else [])):
        if name not in shards and not any(name in each for each in shards.values()):
            known = ", ".join(shards)
            raise ConfigError(f"{name!r} is no PostgreSQL database of {settings.path}", try_=f"one of: {known}")

    def named(at: At, names: tuple[str, ...]) -> bool:
        return at.database in names or bool(set(at.shards) & set(names))

    found = [At(database=database, shards=tuple(names)) for database, names in shards.items()]
    chosen = [at for at in found if (not only or named(at, only)) and not named(at, skip)]
    if not chosen:
        raise ConfigError("there is no PostgreSQL database to upgrade", where=settings.path, try_="[databases.NAME]")
    return sorted(chosen, key=lambda at: not (canary and named(at, (canary,))))


def _is_postgres(database: Database) -> bool:
    """Whether it is one that Alembic can be run on; a variable that is not set is an error, not a reason to pass by."""
    return configuration.locate(database).kind in ("postgres", "embedded") if not _is_source(database) else False


def _is_source(database: Database) -> bool:
    return database.url.startswith(("sqlite", "file:", "libsql:", "ws:", "wss:", "http:", "https:")) or bool(
        database.token
    )


def _resolved(alembic: Environment, to: str) -> tuple[str, ...]:
    """The revisions that `to` means; ConfigError where it means none."""
    from alembic.util import CommandError

    try:
        return tuple(sorted(each.revision for each in alembic.script.get_revisions(to) if each))
    except CommandError as error:
        raise ConfigError(str(error), where="--to", try_="alembic history") from error


def _reached(alembic: Environment, now: str, wanted: tuple[str, ...]) -> bool:
    """Whether the revisions a database is at hold all that is wanted."""
    at = [name for name in now.split(", ") if name]
    past = {each.revision for name in at for each in alembic.script.iterate_revisions(name, "base")}
    return set(wanted) <= past


def _revision(alembic: Environment, url: str, name: str) -> str:
    """The revision that a database is at. Unreachable where it does not answer, which env.py would say its own way."""
    try:
        postgres.connect(url, name="dbscale upgrade").close()
    except Unreachable as error:
        error.says = f"{name}: {error.says}"
        raise
    return ", ".join(alembic.current(url))


def _one(alembic: Environment, at: At, url: str, to: str, database: Database, *, stamp: bool) -> None:
    from dbscale.cluster.cluster import url_of

    began = time.perf_counter()
    with _alone(url, at.database):
        (alembic.stamp if stamp else alembic.upgrade)(url, to)
        at.now = ", ".join(alembic.current(url))
    at.seconds = time.perf_counter() - began
    at.state = "done"
    for number, replica in enumerate(database.replicas):
        entry = Database(name=f"{at.database}.replicas[{number}]", url=replica.url)
        title = configuration.locate(entry).title
        _follow(alembic, url_of(entry), at.now, f"{at.database}: replica {title}")
        at.replicas.append(title)


def _follow(alembic: Environment, url: str, wanted: str, title: str) -> None:
    """Wait until a replica has the revision too; Unfinished where it does not get there."""
    deadline = time.monotonic() + REPLICA_SECONDS
    while (now := _at_replica(alembic, url, title, deadline)) != wanted:
        if time.monotonic() > deadline:
            raise Unfinished(
                f"{title} is at {now or 'nothing'} after {REPLICA_SECONDS} s, its primary at {wanted}",
                try_="dbscale replicas show",
            )
        time.sleep(0.2)


def _at_replica(alembic: Environment, url: str, title: str, deadline: float) -> str:
    """The revision of a replica; of one that does not let us in yet (its database may be new), nothing."""
    try:
        return _revision(alembic, url, title)
    except Unreachable:
        if time.monotonic() > deadline:
            raise
        return ""


@contextmanager
def _alone(url: str, name: str) -> Iterator[None]:
    """TargetInUse where another upgrade is at work on this database."""
    with postgres.connect(url, name="dbscale upgrade") as connection:
        row: Any = connection.execute("SELECT pg_try_advisory_lock(hashtext('dbscale upgrade'))").fetchone()
        if not row[0]:
            raise TargetInUse("another upgrade is at work on it", where=name, try_="wait for it, then run this again")
        yield


def _answer(found: list[At], *, as_json: bool) -> None:
    if as_json:
        output.answer_json([asdict(at) for at in found])
        return
    rows = [(at.database, ", ".join(at.shards), at.before or "empty", at.now or "empty", at.state) for at in found]
    output.answer(output.table(("database", "shards", "was at", "is at", "state"), rows))
