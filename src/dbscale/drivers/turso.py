"""What a libSQL server does beside answering SQL: its owner can have it refuse writes while a database is copied.

Self-hosted servers do so through sqld's admin API, Turso Cloud through the platform API.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from dbscale.errors import ConfigError, Missing, Unreachable, redact

PLATFORM = "https://api.turso.tech"
REASON = "dbscale copies this database"
_SECONDS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Admin:
    """Who can block a database's writes."""

    url: str = PLATFORM
    """The address of sqld's admin API (`--admin-listen-addr`), or of the platform API."""
    organization: str = ""
    """Turso Cloud: whose database it is. Empty: a self-hosted server."""
    database: str = "default"
    """The namespace of a self-hosted server; for Turso Cloud, the database's name or its host."""
    token: str = field(default="", repr=False)


def admin_of(host: str, environment: Mapping[str, str] = os.environ) -> Admin:
    """Who can block the writes of the database at `host`, by environment variables; ConfigError where they say nothing.

    Turso Cloud: `TURSO_ORGANIZATION` and `TURSO_API_TOKEN`. Self-hosted: `SQLD_ADMIN_URL`, and `SQLD_ADMIN_KEY` where
    the server wants one.
    """
    cloud = host.endswith(".turso.io")
    wanted = ("TURSO_ORGANIZATION", "TURSO_API_TOKEN") if cloud else ("SQLD_ADMIN_URL",)
    for name in wanted:
        if not environment.get(name):
            raise ConfigError(
                f"to have {host} refuse writes, {' and '.join(wanted)} must be set",
                where=name,
                try_=f"export {name}=…; or read a branch or a copy, without --hold-writes",
            )
    if cloud:
        organization, token = (environment[name] for name in wanted)
        return Admin(organization=organization, database=host, token=token)
    return Admin(url=environment["SQLD_ADMIN_URL"], token=environment.get("SQLD_ADMIN_KEY", ""))


@contextmanager
def writes_blocked(admin: Admin) -> Iterator[None]:
    """The server refuses writes until the block ends, and is then as it was before.

    Missing where the token does not allow it, Unreachable, ConfigError for what is not there. A server whose writes
    were blocked already stays so.
    """
    path = _path(admin)
    before = _ask(admin, "GET", path)
    if before.get("block_writes"):
        yield
        return
    _ask(admin, "PATCH" if admin.organization else "POST", path, _blocked(admin, before))
    try:
        yield
    finally:
        after = {"block_writes": False} if admin.organization else before
        _ask(admin, "PATCH" if admin.organization else "POST", path, after)


def _blocked(admin: Admin, before: dict[str, Any]) -> dict[str, Any]:
    """The configuration with writes blocked: only that for the platform, all of it for sqld, which replaces it."""
    if admin.organization:
        return {"block_writes": True}
    return before | {"block_writes": True, "block_reason": REASON}


def _path(admin: Admin) -> str:
    if not admin.organization:
        return f"/v1/namespaces/{quote(admin.database, safe='')}/config"
    databases = f"/v1/organizations/{quote(admin.organization, safe='')}/databases"
    for entry in _ask(admin, "GET", databases).get("databases", []):
        if admin.database in (entry.get("Name"), entry.get("Hostname")):
            return f"{databases}/{quote(entry['Name'], safe='')}/configuration"
    raise ConfigError(
        f"the organization {admin.organization!r} has no database {admin.database!r}",
        where=admin.url,
        try_="turso db list; turso org list",
    )


def _ask(admin: Admin, method: str, path: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON that the API answers with."""
    place = urlsplit(admin.url)
    headers = {"Content-Type": "application/json"}
    if admin.token:
        headers["Authorization"] = f"Bearer {admin.token}" if admin.organization else f"basic {admin.token}"
    try:
        connection = (
            http.client.HTTPSConnection(place.netloc, timeout=_SECONDS, context=ssl.create_default_context())
            if place.scheme == "https"
            else http.client.HTTPConnection(place.netloc, timeout=_SECONDS)
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
    if status in (401, 403):
        raise Missing(
            f"the API does not accept the token (HTTP {status})",
            where=redact(admin.url),
            try_="turso auth api-tokens mint dbscale" if admin.organization else "the key of sqld's --admin-auth-key",
        )
    if status != http.HTTPStatus.OK:
        says = " ".join(text.decode("utf-8", "replace").split())[:200]
        raise ConfigError(f"the API answers {status} to {method} {path}: {says}", where=redact(admin.url))
    return answer if isinstance(answer, dict) else {}
