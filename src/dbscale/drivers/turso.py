"""What a libSQL server does beside answering SQL: its owner can have it refuse writes, or export the database.

Self-hosted servers refuse writes through sqld's admin API, Turso Cloud through the platform API. What is said here to
Turso Cloud follows its published API and its program `turso`.
"""

from __future__ import annotations

import http.client
import json
import os
import platform
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from dbscale.config import Database, resolve
from dbscale.errors import ConfigError, DbscaleError, Finding, Missing, SourceError, Unfinished, Unreachable, redact

PLATFORM = "https://api.turso.tech"
REASON = "dbscale copies this database"
_SECONDS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Admin:
    """Who can block a database's writes, or make a branch of it."""

    url: str = PLATFORM
    """The address of sqld's admin API (`--admin-listen-addr`), or of the platform API."""
    organization: str = ""
    """Turso Cloud: whose database it is. Empty: a self-hosted server."""
    database: str = "default"
    """The namespace of a self-hosted server; for Turso Cloud, the database's name or its host."""
    token: str = field(default="", repr=False)


def admin_of(
    host: str,
    database: Database | None = None,
    environment: Mapping[str, str] = os.environ,
    *,
    wanted_to: str = "have it refuse writes",
) -> Admin:
    """Who can block the writes of the database at `host`, or branch it; ConfigError where nothing says it.

    Its entry in dbscale.toml has `admin_url` and `admin_token` (self-hosted), or `organization` and `admin_token`
    (Turso Cloud). What is not there comes from the environment: `SQLD_ADMIN_URL` and `SQLD_ADMIN_KEY`, or
    `TURSO_ORGANIZATION` and `TURSO_API_TOKEN`.
    """
    cloud = host.endswith(".turso.io")
    place, key = ("TURSO_ORGANIZATION", "TURSO_API_TOKEN") if cloud else ("SQLD_ADMIN_URL", "SQLD_ADMIN_KEY")
    where = (database.organization if cloud else database.admin_url) if database else ""
    where = resolve(where) or environment.get(place, "")
    token = resolve(database.admin_token if database else "") or environment.get(key, "")
    wanted = {place: where, key: token} if cloud else {place: where}
    for name, value in wanted.items():
        if not value:
            keys = "organization and admin_token" if cloud else "admin_url"
            raise ConfigError(
                f"to {wanted_to}, {' and '.join(wanted)} must be set, or {keys} in dbscale.toml",
                where=f"{host}: {name}",
                try_=f"export {name}=…; or --copy-first, which needs none of them",
            )
    if cloud:
        return Admin(organization=where, database=host, token=token)
    return Admin(url=where, token=token)


@contextmanager
def writes_blocked(admin: Admin) -> Iterator[Finding | None]:
    """The server refuses writes until the block ends, and is then as it was before.

    Missing where the token does not allow it, Unreachable, ConfigError for what is not there; Unfinished where the
    server cannot be made to take writes again. A server whose writes were blocked already stays so, and the finding
    says it; but for a block that a dbscale left that was killed on this machine: it ends here.
    """
    path = _path(admin)
    before = ask(admin, "GET", path)
    if before.get("block_writes"):
        if not _of_the_dead(before.get("block_reason") or ""):
            yield _still_blocked(admin, path, before)
            return
        before |= {"block_writes": False, "block_reason": None}
    after = {"block_writes": False} if admin.organization else before
    with ExitStack() as stack:
        stack.callback(_let_write, admin, path, after)  # first: an interrupt may come while the server is asked
        try:
            _set(admin, path, _blocked(admin, before))
        except DbscaleError:
            stack.pop_all()
            with suppress(DbscaleError):
                _set(admin, path, after)
            raise
        yield None


def left_blocked(admin: Admin) -> Finding | None:
    """A finding where the server refuses writes, be it that a killed dbscale left it so; else None."""
    path = _path(admin)
    found = ask(admin, "GET", path)
    return _still_blocked(admin, path, found) if found.get("block_writes") else None


def _still_blocked(admin: Admin, path: str, found: dict[str, Any]) -> Finding:
    reason = found.get("block_reason")
    return Finding(
        code="writes-blocked",
        where=redact(admin.url),
        says="the server refuses writes, and did so before" + (f": {reason}" if reason else ""),
        try_=f"where nobody needs it so: {release(admin, path)}",
        level="behaviour",
    )


def _of_the_dead(reason: str) -> bool:
    """Whether a block is of a dbscale on this machine that is no more."""
    made = re.fullmatch(re.escape(f"{REASON} ({platform.node()}, process ") + r"(\d+)\)", reason)
    return made is not None and is_dead(int(made[1]))


def is_dead(process: int) -> bool:
    """Whether no process of this machine has this number; False where that cannot be told."""
    if os.name != "posix":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _let_write(admin: Admin, path: str, settings: dict[str, Any]) -> None:
    try:
        _set(admin, path, settings)
    except DbscaleError as error:
        raise Unfinished(
            f"the server still refuses writes: {error.says}",
            where=error.where,
            try_=release(admin, path),
            see="docs/errors.md#writes-blocked",
        ) from error


def release(admin: Admin, path: str) -> str:
    """The command that lets a database take writes again, for people."""
    method, word = ("-X PATCH ", "Bearer TOKEN") if admin.organization else ("", "basic KEY")
    key = f" -H 'Authorization: {word}'" if admin.token else ""
    body = json.dumps({"block_writes": False} | ({} if admin.organization else {"block_reads": False}))
    return f"curl {method}{redact(admin.url).rstrip('/')}{path}{key} -H 'Content-Type: application/json' -d '{body}'"


def export(host: str, path: Path) -> None:
    """Have the program `turso` write the database at a host of Turso Cloud to a file, with its -wal beside it.

    Missing where there is no such program, or its account has no such database; SourceError where it fails.
    """
    program = shutil.which("turso")
    if program is None:
        raise Missing(
            "a copy of a database at Turso Cloud is made by the program turso, which is not on the PATH",
            where=host,
            try_="install it and log in (turso auth login); or --branch, or leave --copy-first away",
        )
    listing = _turso(program, host, "db", "list")
    name = next((line.split()[0] for line in listing.splitlines() if line.rstrip().endswith(f"//{host}")), "")
    if not name:
        raise Missing(
            "`turso db list` does not have this database", where=host, try_="turso auth login; turso org switch NAME"
        )
    _turso(program, host, "db", "export", name, "--output-file", str(path), "--overwrite")
    if not path.exists():
        raise SourceError("`turso db export` wrote no file", where=host, try_="turso update")


def _turso(program: str, host: str, *arguments: str) -> str:
    """What the program says on stdout."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        says = " ".join((done.stderr or done.stdout).split())[:300]
        raise SourceError(f"`turso {' '.join(arguments[:2])}` failed: {says}", where=host, try_="turso auth login")
    return done.stdout


def _blocked(admin: Admin, before: dict[str, Any]) -> dict[str, Any]:
    """The configuration with writes blocked: only that for the platform, all of it for sqld, which replaces it."""
    if admin.organization:
        return {"block_writes": True}
    return before | {"block_writes": True, "block_reason": f"{REASON} ({platform.node()}, process {os.getpid()})"}


def _set(admin: Admin, path: str, settings: dict[str, Any]) -> None:
    ask(admin, "PATCH" if admin.organization else "POST", path, settings)


def _path(admin: Admin) -> str:
    if not admin.organization:
        return f"/v1/namespaces/{quote(admin.database, safe='')}/config"
    return databases_path(admin, entry_of(admin, databases(admin))["Name"], "configuration")


def databases_path(admin: Admin, *parts: str) -> str:
    """The platform API's path to an organization's databases, or to something of one of them."""
    return "/".join(
        ("/v1/organizations", quote(admin.organization, safe=""), "databases", *(quote(p, "") for p in parts))
    )


def databases(admin: Admin) -> list[dict[str, Any]]:
    """The organization's databases as the platform API lists them (`Name`, `Hostname`, `group` and more)."""
    found: list[dict[str, Any]] = []
    path = databases_path(admin)
    cursor = ""
    while True:
        answer = ask(admin, "GET", f"{path}?cursor={quote(cursor, safe='')}" if cursor else path)
        found += answer.get("databases", [])
        cursor = (answer.get("pagination") or {}).get("next") or ""
        if not cursor:
            return found


def entry_of(admin: Admin, listed: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The entry of `admin.database`, of which the name or the host is given; ConfigError where there is none."""
    for entry in listed:
        if admin.database in (entry.get("Name"), entry.get("Hostname")):
            return entry
    raise ConfigError(
        f"the organization {admin.organization!r} has no database {admin.database!r}",
        where=admin.url,
        try_="turso db list; turso org list",
    )


def ask(
    admin: Admin, method: str, path: str, content: dict[str, Any] | None = None, *, seconds: float = _SECONDS
) -> dict[str, Any]:
    """The JSON that the API answers with, within `seconds`; nothing where there is no such thing to delete.

    Unreachable where it does not answer, Missing where the token does not do, ConfigError for what it refuses.
    """
    place = urlsplit(admin.url)
    headers = {"Content-Type": "application/json"}
    if admin.token:
        headers["Authorization"] = f"Bearer {admin.token}" if admin.organization else f"basic {admin.token}"
    try:
        connection = (
            http.client.HTTPSConnection(place.netloc, timeout=seconds, context=ssl.create_default_context())
            if place.scheme == "https"
            else http.client.HTTPConnection(place.netloc, timeout=seconds)
        )
        try:
            body = None if content is None else json.dumps(content)
            connection.request(method, place.path.rstrip("/") + path, body, headers)
            response = connection.getresponse()
            status, text = response.status, response.read()
        finally:
            connection.close()
        answer = json.loads(text) if text.strip() and status == http.HTTPStatus.OK else {}
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unreachable(f"the API does not answer: {error}", where=redact(admin.url)) from error
    if method == "DELETE" and status == http.HTTPStatus.NOT_FOUND:
        return {}
    says = " ".join(text.decode("utf-8", "replace").split())[:200]
    if status in (401, 403):
        raise Missing(
            f"the API does not accept the token (HTTP {status}: {says})",
            where=redact(admin.url),
            try_="turso auth api-tokens mint dbscale" if admin.organization else "the key of sqld's --admin-auth-key",
        )
    if status == http.HTTPStatus.TOO_MANY_REQUESTS or status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
        raise Unreachable(f"the API answers {status} to {method} {path}: {says}", where=redact(admin.url))
    if status != http.HTTPStatus.OK:
        raise ConfigError(f"the API answers {status} to {method} {path}: {says}", where=redact(admin.url))
    return answer if isinstance(answer, dict) else {}
