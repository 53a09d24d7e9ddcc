"""A branch of a database at Turso Cloud as the source: `--branch`.

A branch is a database of its own, with the state of the moment in which it was made, and nobody else writes to it. It
is made when it is first read, and destroyed at the end. Its name says which process made it: what a killed one has left
is found in the list of databases, by the next process on the same machine or by `dbscale doctor`.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from dbscale.drivers.hrana import Endpoint
from dbscale.drivers.libsql import LibsqlReader, LibsqlSource
from dbscale.drivers.source import Value
from dbscale.drivers.turso import Admin, ask, databases, databases_path, entry_of, is_dead
from dbscale.errors import DbscaleError, Finding, SourceError, Unreachable

_MAKING_SECONDS = 120.0
_READY_SECONDS = 60.0
_PAUSES = (1.0, 3.0, 0.0)
"""Seconds after the attempts to destroy a branch."""
_NAME = re.compile(r"dbscale-.*-(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{6}")


class BranchSource(LibsqlSource):
    """A database at Turso Cloud, read from a branch that the first snapshot makes and `close` destroys.

    `admin`: who may make one. All snapshots see the branch's one state; whatever is committed to the database after it
    was made is neither read nor noticed.
    """

    def __init__(self, endpoint: Endpoint, admin: Admin, *, ready_seconds: float = _READY_SECONDS) -> None:
        super().__init__(endpoint.title, endpoint.token, frozen=True)
        self._origin = self.endpoint
        self._platform = admin
        self._ready_seconds = ready_seconds
        self._name = ""
        self._token = f"branch-{uuid.uuid4()}"

    @property
    def title(self) -> str:
        """The URL of the database, not of the branch."""
        return self._origin.title

    @contextmanager
    def snapshot(self, readers: int = 1) -> Iterator[Sequence[LibsqlReader]]:
        """See `LibsqlSource.snapshot`. Missing, ConfigError, Unreachable or SourceError where there comes no branch."""
        if self.endpoint is self._origin:
            self._make()
        with super().snapshot(readers) as opened:
            yield opened

    def fingerprint(self) -> str:
        """The branch's token: it equals no other, since another branch may have another state."""
        return self._token

    def close(self) -> Sequence[Finding]:
        """Destroy the branch; a finding where it may still be there."""
        name, self._name = self._name, ""
        self.endpoint = self._origin
        left = _destroy(self._platform, name) if name else None
        return [left] if left else []

    def _make(self) -> None:
        listed = databases(self._platform)
        entry = entry_of(self._platform, listed)
        self._notes |= {each.where: each for each in _clear(self._platform, listed)}
        tables = _tables(self._origin)
        self._name = _new_name(entry["Name"])  # from here on `close` has something to destroy, whatever happens
        content = {
            "name": self._name,
            "group": entry.get("group") or "default",
            "seed": {"type": "database", "name": entry["Name"]},
        }
        made = ask(self._platform, "POST", databases_path(self._platform), content, seconds=_MAKING_SECONDS)
        path = databases_path(self._platform, self._name, "auth", "tokens")
        token = ask(self._platform, "POST", f"{path}?expiration=7d&authorization=read-only").get("jwt")
        host = made.get("database", {}).get("Hostname")
        if not host or not token:
            raise self._not_made("the platform API's answer has no host name, or no token")
        branch = replace(self._origin, host=host, token=token)
        self._wait(branch, tables)
        self.endpoint = branch
        self._note(
            "source-unwatched",
            f"it is read from the branch {self._name}: commits made since are neither copied nor noticed",
            "for the cut-over, stop the application first, or read with --hold-writes instead",
        )

    def _wait(self, branch: Endpoint, tables: list[tuple[Value, ...]]) -> None:
        """Until the branch answers, and has the database's tables: an empty one must not pass for a copy."""
        until = time.monotonic() + self._ready_seconds
        while True:
            try:
                if _tables(branch) == tables:
                    return
                why = "it has other tables than the database"
            except DbscaleError as error:
                why = error.says
            if time.monotonic() >= until:
                raise self._not_made(why)
            time.sleep(0.5)

    def _not_made(self, why: str) -> SourceError:
        return SourceError(
            f"the branch {self._name} does not become one to read from: {why}",
            where=self.title,
            try_="run the same command again; or --copy-first, which reads an export",
            see="docs/errors.md#branch-not-made",
        )


def left_branches(admin: Admin) -> list[Finding]:
    """A finding for each branch in the organization that a killed dbscale has left, or may have left."""
    return [_left(name, dead) for name, dead in _strangers(databases(admin))]


def _clear(admin: Admin, listed: Iterable[dict[str, Any]]) -> Iterator[Finding]:
    """Destroy what dead processes of this machine have left; a finding for each such branch, and for others' ones."""
    for name, dead in _strangers(listed):
        if not dead:
            yield _left(name, dead)
        elif left := _destroy(admin, name):
            yield left
        else:
            yield Finding(code="branch-left", where=name, says="a dbscale that was killed had left it: it is destroyed")


def _strangers(listed: Iterable[dict[str, Any]]) -> Iterator[tuple[str, bool]]:
    """dbscale's branches that no process of this machine is at work on, and whether their process is known to be dead.

    That of another machine may be at work.
    """
    for entry in listed:
        made = _NAME.fullmatch(str(entry.get("Name")))
        if made is None:
            continue
        here = made["machine"] == _machine()
        dead = here and is_dead(int(made["process"]))
        if dead or not here:
            yield made[0], dead


def _left(name: str, dead: bool) -> Finding:
    says = (
        "a branch that a killed dbscale left"
        if dead
        else "a branch that a dbscale on another machine reads from, or left"
    )
    return Finding(
        code="branch-left",
        where=name,
        says=f"{says}: it counts as a database of yours",
        try_=f"where no dbscale is at work on it: turso db destroy {name}",
        level="behaviour",
    )


def _destroy(admin: Admin, name: str) -> Finding | None:
    """None when it is destroyed, or was not there; else a finding with the command that does it."""
    says = ""
    try:
        for pause in _PAUSES:
            try:
                ask(admin, "DELETE", databases_path(admin, name))
            except Unreachable as error:
                says = error.says
                time.sleep(pause)
            else:
                return None
    except DbscaleError as error:
        says = error.says
    except KeyboardInterrupt:
        says = "interrupted"
    return Finding(
        code="branch-left",
        where=name,
        says=f"the branch could not be destroyed, and counts as a database of yours: {says}",
        try_=f"turso db destroy {name}",
        level="behaviour",
    )


def _tables(place: Endpoint) -> list[tuple[Value, ...]]:
    """What is in a database's schema."""
    with LibsqlSource(place.title, place.token, patience=1).snapshot() as (reader,):
        return list(reader.rows("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name"))


def _new_name(database: str) -> str:
    """At most 48 characters, and lower-case letters, digits and dashes alone: what the platform takes."""
    about = re.sub(r"[^a-z0-9-]", "", database.lower())[:16]
    return f"dbscale-{about}-{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]
