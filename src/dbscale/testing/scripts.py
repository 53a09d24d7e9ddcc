"""Migrations that are plain SQL files, run in the order of their names.

    0001_users.sql      with 0001_users.down.sql beside it, or a section `-- down` (`-- migrate:down`, `-- +goose Down`)
    0002_orders.up.sql  0002_orders.down.sql

A file is sent to the server as it is, in one transaction, unless it holds CONCURRENTLY or `-- dbscale: alone`: then
statement by statement. What a real runner keeps as its list of what was done is kept in the table `dbscale_scripts`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from dbscale.drivers import postgres
from dbscale.environment import Revision
from dbscale.errors import ConfigError, Unfinished

LIST = "dbscale_scripts"
watchers: list[Callable[[str, postgres.Connection], None]] = []
"""Called with each statement after it has been sent, and with the connection that it was sent on."""
_NAME = re.compile(r"[Vv]?(?P<id>[0-9]+)[_.-].*(?<!\.down)\.sql$")
_UP = re.compile(r"^--\s*(?:migrate:|\+goose\s+)?up\b.*$", re.MULTILINE | re.IGNORECASE)
_DOWN = re.compile(r"^--\s*(?:migrate:|\+goose\s+)?down\b.*$", re.MULTILINE | re.IGNORECASE)
_ALONE = re.compile(r"\bCONCURRENTLY\b|--\s*dbscale: alone", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Scripts:
    """A folder of SQL files, with the same surface as `environment.Environment`."""

    place: Path

    @property
    def revisions(self) -> tuple[Revision, ...]:
        """The files in order; ConfigError where two have one number."""
        found: list[Revision] = []
        files = sorted(
            (int(match["id"]), path) for path in self.place.glob("*.sql") if (match := _NAME.match(path.name))
        )
        for number, path in files:
            before = found[-1] if found else None
            if before and int(before.id) == number:
                raise ConfigError(f"{before.path.name} has the same number", where=str(path), try_="give it the next")
            found.append(
                Revision(
                    id=str(number),
                    down=(before.id,) if before else (),
                    path=path,
                    text=path.read_text(encoding="utf-8"),
                    title=path.stem,
                )
            )
        return tuple(found)

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(revision.id for revision in self.revisions[-1:])

    def upgrade(self, url: str, to: str = "heads") -> None:
        """Run the files up to a number; Unfinished, with the server's words, where one fails."""
        last = int(self.heads[0]) if to in ("head", "heads") else int(to)
        done = self.current(url)
        for revision in self.revisions:
            if int(revision.id) <= last and (not done or int(revision.id) > int(done[0])):
                _run(url, revision, _up(revision.text), f"INSERT INTO {LIST} VALUES ({revision.id})")

    def downgrade(self, url: str, to: str) -> None:
        """Run the ways back down to a number, or to `base`. NotImplementedError where a file has none."""
        floor = 0 if to == "base" else int(to)
        done = self.current(url)
        for revision in reversed(self.revisions):
            if done and floor < int(revision.id) <= int(done[0]):
                _run(url, revision, _down(revision), f"DELETE FROM {LIST} WHERE id = {revision.id}")

    def sql(self, url: str, start: str, to: str) -> str:  # noqa: ARG002 - the surface of Environment
        """The text of the files after `start` up to `to`."""
        floor = 0 if start == "base" else int(start)
        return "\n".join(_up(each.text) for each in self.revisions if floor < int(each.id) <= int(to))

    def metadata(self, url: str) -> tuple[Any, ...]:  # noqa: ARG002 - the surface of Environment
        """None: SQL files come without models; name them with `dbscale_models`."""
        return ()

    def current(self, url: str) -> tuple[str, ...]:
        """The newest number that was run here."""
        with postgres.connect(url, name="dbscale testing") as connection:
            connection.execute(f"CREATE TABLE IF NOT EXISTS {LIST} (id bigint PRIMARY KEY)".encode())
            row = connection.execute(f"SELECT max(id) FROM {LIST}".encode()).fetchone()
        return (str(row[0]),) if row and row[0] is not None else ()


def find(folder: Path) -> Scripts | None:
    """The folder of SQL migrations of a project, where it usually is; None where there is none."""
    for place in ("migrations", "db/migrations", "sql/migrations", "sql"):
        if any(_NAME.match(path.name) for path in (folder / place).glob("*.sql")):
            return Scripts(folder / place)
    return None


def statements(script: str) -> list[str]:
    """The statements of a script, as PostgreSQL's own grammar splits it."""
    from postgast import split

    return [statement for statement in split(script) if statement.strip()]


def _up(text: str) -> str:
    above = _DOWN.split(text, maxsplit=1)[0]
    return _UP.split(above, maxsplit=1)[-1]


def _down(revision: Revision) -> str:
    beside = revision.path.with_name(re.sub(r"(\.up)?\.sql$", ".down.sql", revision.path.name))
    if beside.exists():
        return beside.read_text(encoding="utf-8")
    parts = _DOWN.split(revision.text, maxsplit=1)
    if len(parts) == 1:
        raise NotImplementedError(f"{revision.path.name} has no way back")
    return parts[1]


def _run(url: str, revision: Revision, script: str, note: str) -> None:
    with postgres.connect(url, name="dbscale testing") as connection:
        try:
            if _ALONE.search(script):
                for statement in [*statements(script), note]:
                    _send(connection, statement)
            else:
                with connection.transaction():
                    _send(connection, script)
                    _send(connection, note)
        except psycopg.Error as error:
            says = error.diag.message_primary or str(error)
            raise Unfinished(says, where=str(revision.path), try_=f"psql -f {revision.path.name}") from error


def _send(connection: postgres.Connection, statement: str) -> None:
    connection.execute(statement.encode())
    for watcher in watchers:
        watcher(statement, connection)
