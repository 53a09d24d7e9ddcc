"""dbscale.toml, and the forms in which people write down where a database is.

Unknown keys are errors that name the key and guess what was meant. Secrets stand in the file only as `env:NAME`
and are looked up when a database is opened, never when the file is read.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode

from dbscale.errors import ConfigError, redact

Kind = Literal["sqlite", "libsql", "postgres", "embedded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    url: str = field(repr=False)
    region: str = ""
    weight: int = 1
    role: Literal["", "analytics"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """One entry of `[databases]`, or what a path or a URL on the command line means."""

    name: str
    url: str = field(repr=False)
    """As written, `env:NAME` not yet looked up."""
    token: str = field(default="", repr=False)
    replicas: tuple[Replica, ...] = ()
    frozen: bool = False
    """libSQL: nobody writes to it, since it is a branch or a copy."""
    admin_url: str = ""
    """sqld's admin API, which `--hold-writes` asks; `env:NAME` not yet looked up."""
    organization: str = ""
    """At Turso Cloud, whose database it is."""
    admin_token: str = field(default="", repr=False)
    """`env:NAME` of the key of sqld's admin API, or of a token of Turso's platform API."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    size: int = 10
    overflow: int = 20
    recycle: int = 1800
    """Seconds after which a connection is replaced."""
    timeout: float = 30.0
    """Seconds that a caller waits for a connection."""
    pre_ping: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    path: str = "dbscale.toml"
    databases: dict[str, Database] = field(default_factory=dict)
    pool: Pool = Pool()
    shards: dict[str, str] = field(default_factory=dict)
    """A shard's name and its database's name; `home` holds the tables on no map."""
    types: dict[str, str] = field(default_factory=dict)
    """`[migrate.types]`: `table.column` and the type wanted for it."""
    indexes: dict[str, str] = field(default_factory=dict)
    """`[indexes]`: an index's name and `table (columns)`."""

    def database(self, reference: str) -> Database:
        """The database that a name, a path or a URL means; ConfigError where it means none."""
        if not reference.strip():
            raise ConfigError("no database is named: the text is empty", try_="is a variable of your shell not set?")
        if reference in self.databases:
            return self.databases[reference]
        if reference.startswith("env:") or looks_like_place(reference):
            return Database(name=reference, url=reference)
        guess = difflib.get_close_matches(reference, self.databases, 1)
        raise ConfigError(
            f"{reference!r} is neither a file, nor a URL, nor a name in {self.path}",
            where=f"{self.path}: [databases]",
            try_=f"did you mean {guess[0]!r}?" if guess else f"add [databases.{reference}] or give a path or a URL",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a database is, once `env:` is looked up and the URL is in its driver's own form."""

    kind: Kind
    address: str = field(repr=False)
    """A path (sqlite), a URL (libsql, postgres), or a name of an embedded server."""
    title: str
    """For people: without secrets."""
    token: str = field(default="", repr=False)
    notes: tuple[str, ...] = ()
    """What was dropped from the URL, and why."""


def load(path: str | Path | None = None) -> Config:
    """The configuration in `path`, or in `DBSCALE_CONFIG`, or in ./dbscale.toml; without a file, the defaults.

    ConfigError names the file and the key path of what is wrong.
    """
    named = path or os.environ.get("DBSCALE_CONFIG")
    file = Path(named or "dbscale.toml")
    if not file.exists():
        if named:
            raise ConfigError(f"there is no {file}", try_="name an existing file with --config")
        return Config()
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8-sig"))  # some of Windows' editors write a mark first
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not TOML: {error}", where=str(file)) from error
    return parse(content, str(file))


def parse(content: Mapping[str, Any], path: str = "dbscale.toml") -> Config:
    """The configuration that a parsed TOML document means."""
    at = _At(path)
    at.known(content, ("databases", "pool", "shards", "migrate", "indexes"))
    databases = {
        name: _database(at.key(f"databases.{name}"), name, at.table(entry, f"databases.{name}"))
        for name, entry in at.table(content.get("databases", {}), "databases").items()
    }
    shards = at.strings(content.get("shards", {}), "shards")
    for shard, database in shards.items():
        if database not in databases:
            raise ConfigError(
                f"{database!r} is no database of this file",
                where=f"{path}: shards.{shard}",
                try_=at.guess(database, tuple(databases)) or f"add [databases.{database}]",
            )
    migrate = at.table(content.get("migrate", {}), "migrate")
    at.key("migrate").known(migrate, ("types",))
    return Config(
        path=path,
        databases=databases,
        pool=_pool(at.key("pool"), at.table(content.get("pool", {}), "pool")),
        shards=shards,
        types=at.strings(migrate.get("types", {}), "migrate.types"),
        indexes=at.strings(content.get("indexes", {}), "indexes"),
    )


_KINDS = {str: "text in quotes", int: "a whole number", float: "a number", bool: "true or false", list: "a list"}


@dataclass(frozen=True, slots=True)
class _At:
    """A place in the file, for error messages."""

    path: str
    keys: str = ""

    def key(self, name: str) -> _At:
        return _At(self.path, f"{self.keys}.{name}" if self.keys else name)

    @property
    def text(self) -> str:
        return f"{self.path}: {self.keys}" if self.keys else self.path

    def known(self, entry: Mapping[str, Any], names: tuple[str, ...]) -> None:
        for key in entry:
            if key not in names:
                raise ConfigError(
                    f"unknown key {key!r}",
                    where=self.key(key).text,
                    try_=self.guess(key, names) or "one of: " + ", ".join(names),
                )

    def guess(self, word: str, names: tuple[str, ...]) -> str:
        close = difflib.get_close_matches(word, names, 1)
        return f"did you mean {close[0]!r}?" if close else ""

    def table(self, value: Any, key: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ConfigError("a table is wanted here", where=f"{self.path}: {key}", try_=f"[{key}]")
        return value

    def strings(self, value: Any, key: str) -> dict[str, str]:
        table = self.table(value, key)
        for name, text in table.items():
            if not isinstance(text, str):
                raise ConfigError("text in quotes is wanted here", where=f"{self.path}: {key}.{name}")
        return table

    def typed(self, entry: Mapping[str, Any], key: str, kind: type[Any], default: Any) -> Any:
        value = entry.get(key, default)
        right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not right:
            raise ConfigError(f"{_KINDS[kind]} is wanted here, not {value!r}", where=self.key(key).text)
        return value


def _database(at: _At, name: str, entry: dict[str, Any]) -> Database:
    at.known(entry, ("url", "token", "replicas", "frozen", "admin_url", "organization", "admin_token"))
    if not at.typed(entry, "url", str, "").strip():
        raise ConfigError("url is missing", where=at.text, try_='url = "env:DATABASE_URL"')
    for key in ("token", "admin_token"):
        secret = at.typed(entry, key, str, "")
        if secret and not secret.startswith("env:"):
            raise ConfigError("a token is not kept in the file", where=at.key(key).text, try_=f'{key} = "env:NAME"')
    replicas = []
    for number, replica in enumerate(at.typed(entry, "replicas", list, [])):
        spot = at.key(f"replicas[{number}]")
        if not isinstance(replica, dict):
            raise ConfigError("a table is wanted here", where=spot.text, try_='{ url = "env:REPLICA_URL" }')
        spot.known(replica, ("url", "region", "weight", "role"))
        if "url" not in replica:
            raise ConfigError("url is missing", where=spot.text, try_='{ url = "env:REPLICA_URL" }')
        role = spot.typed(replica, "role", str, "")
        if role not in ("", "analytics"):
            raise ConfigError(f"unknown role {role!r}", where=spot.key("role").text, try_='role = "analytics"')
        weight = spot.typed(replica, "weight", int, 1)
        if weight < 0:
            raise ConfigError("a weight is 0 or more", where=spot.key("weight").text)
        replicas.append(
            Replica(
                url=spot.typed(replica, "url", str, ""),
                region=spot.typed(replica, "region", str, ""),
                weight=weight,
                role=role,
            )
        )
    return Database(
        name=name,
        url=at.typed(entry, "url", str, ""),
        token=entry.get("token", ""),
        replicas=tuple(replicas),
        frozen=at.typed(entry, "frozen", bool, False),
        admin_url=at.typed(entry, "admin_url", str, ""),
        organization=at.typed(entry, "organization", str, ""),
        admin_token=entry.get("admin_token", ""),
    )


def _pool(at: _At, entry: dict[str, Any]) -> Pool:
    at.known(entry, ("size", "overflow", "recycle", "timeout", "pre_ping"))
    defaults = Pool()
    pool = Pool(
        size=at.typed(entry, "size", int, defaults.size),
        overflow=at.typed(entry, "overflow", int, defaults.overflow),
        recycle=at.typed(entry, "recycle", int, defaults.recycle),
        timeout=at.typed(entry, "timeout", float, defaults.timeout),
        pre_ping=at.typed(entry, "pre_ping", bool, defaults.pre_ping),
    )
    for key, least in (("size", 1), ("overflow", 0), ("recycle", 1), ("timeout", 0)):
        if getattr(pool, key) < least:
            raise ConfigError(f"{least} or more is wanted here", where=at.key(key).text)
    return pool


def looks_like_place(text: str) -> bool:
    """True for a URL, and for what can only be a path: one with a slash, a dot, or that exists."""
    return (
        "://" in text
        or "/" in text
        or "\\" in text
        or "." in text
        or text == "embedded"
        or text.startswith(("embedded:", "sqlite:", "file:"))
        or is_connection_string(text)
        or Path(text).exists()
    )


def is_connection_string(text: str) -> bool:
    """True for libpq's form: `host=db1 dbname=app`."""
    return re.match(r"\s*[a-z_]+\s*=", text) is not None


_POSTGRES = re.compile(r"postgres(?:ql)?(?:\+(?P<driver>[a-z0-9_]+))?://", re.IGNORECASE)
_SQLITE = re.compile(r"(?:sqlite3?)(?:\+(?P<driver>[a-z0-9_]+))?:(?://(?P<host>[^/]*)(?=/|$))?", re.IGNORECASE)
_TYPO = re.compile(r"(?:postgres\w*|libsql|https?|wss?|mysql)(?:\+\w+)?[:;,]?/", re.IGNORECASE)
"""How a URL begins that lacks a character; a folder of that name is reached by ./postgres/app.db."""
_LIBSQL = re.compile(r"(?:sqlite\+)?(?:libsql|wss?|https?)://", re.IGNORECASE)


def locate(database: Database) -> Location:
    """Look up `env:`, and bring the URL into the form that its driver takes.

    Driver suffixes (`postgresql+asyncpg://`) and options that only SQLAlchemy or SQLite's Python module know are
    dropped, with a note. ConfigError where the URL cannot be understood.
    """
    url = resolve(database.url, where=database.name)
    token = resolve(database.token, where=f"{database.name}.token") if database.token else ""
    if url == "embedded" or url.startswith("embedded:"):
        name = url.partition(":")[2] or "main"
        return Location(kind="embedded", address=name, title=url)
    if match := _POSTGRES.match(url):
        return _postgres(url, match)
    if is_connection_string(url):
        return Location(kind="postgres", address=url, title=redact(url))
    if _LIBSQL.match(url):
        return _libsql(url, token)
    return _sqlite(url)


def is_set(text: str) -> bool:
    """Whether `text` is written out, or names an environment variable that is set."""
    return not text.startswith("env:") or bool(os.environ.get(text.removeprefix("env:")))


def resolve(text: str, *, where: str = "") -> str:
    """`text`, or the value of the environment variable where it is `env:NAME`."""
    if not text.startswith("env:"):
        return text
    name = text.removeprefix("env:")
    if not name:
        raise ConfigError("env: names no variable", where=where, try_='"env:DATABASE_URL"')
    value = os.environ.get(name)
    if not value:
        raise ConfigError(f"the environment variable {name} is not set", where=where, try_=f"export {name}=…")
    return value


_ASYNCPG_ONLY = ("prepared_statement_cache_size", "prepared_statement_name_func", "async_fallback")


def _postgres(url: str, match: re.Match[str]) -> Location:
    notes = []
    if driver := match["driver"]:
        notes.append(f"driver +{driver} dropped: dbscale connects through psycopg")
    rest = url[match.end() :]
    address, mark, query = rest.partition("?")
    kept = []
    # To libpq a plus sign is one; to SQLAlchemy, whose URLs name a driver, it is a blank.
    for key, value in parse_qsl(query if driver else query.replace("+", "%2B"), keep_blank_values=True):
        if key in _ASYNCPG_ONLY or key in ("pgbouncer", "schema", "connection_limit", "pool_timeout"):
            notes.append(f"option {key} dropped: it is another driver's")
        elif key == "ssl":
            kept.append(("sslmode", {"true": "require", "false": "disable"}.get(value.lower(), value)))
        else:
            kept.append((key, value))
    address = f"postgresql://{address}" + (f"?{urlencode(kept, quote_via=quote)}" if mark and kept else "")
    return Location(kind="postgres", address=address, title=redact(address), notes=tuple(notes))


def _libsql(url: str, token: str) -> Location:
    address, mark, query = url.removeprefix("sqlite+").partition("?")
    kept = []
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key.lower() == "authtoken":
            token = token or value
        elif key.lower() != "secure":
            kept.append((key, value))
        elif value.lower() == "false":
            kept.append(("tls", "0"))
    address += f"?{urlencode(kept)}" if mark and kept else ""
    return Location(kind="libsql", address=address, title=redact(address), token=token)


def _sqlite(url: str) -> Location:
    notes: list[str] = []
    path = url
    if url.startswith("file:"):
        path, _, query = url.removeprefix("file:").partition("?")
        path = unquote(re.sub(r"^//(localhost)?(?=/)", "", path))
    elif match := _SQLITE.match(url):
        if driver := match["driver"]:
            notes.append(f"driver +{driver} dropped: dbscale reads the file itself")
        path, _, query = url[match.end() :].partition("?")
        path = unquote(path)
        # sqlite:///x.db is relative, sqlite:////x.db absolute: the first slash ends the (empty) host
        if match["host"] is not None:
            path = match["host"] + path if match["host"] else path.removeprefix("/")
        # `…?uri=true` puts a file: URL where the path goes
        if path.startswith("file:"):
            path = unquote(path.removeprefix("file:"))
    elif "://" in url or _TYPO.match(url):
        scheme = url.partition("/")[0].rstrip(":;,")
        raise ConfigError(
            f"{scheme}:// is not a database that dbscale knows"
            if "://" in url
            else f"this looks like a URL whose scheme is not followed by ://: {scheme}",
            where=url,
            try_="sqlite:///app.db, libsql://…, postgresql://…, or a path",
        )
    else:
        query = ""
    options = parse_qsl(query, True)
    notes += [f"option {key} dropped: dbscale reads the file itself" for key, _ in options]
    if not path or path == ":memory:" or ("mode", "memory") in options:
        raise ConfigError("a database in memory cannot be migrated", where=url, try_="save it to a file first")
    return Location(kind="sqlite", address=path, title=path, notes=tuple(notes))
