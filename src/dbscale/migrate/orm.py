"""Which object-relational mappers wrote a database, and what they mean by the types they declare.

Most leave a bookkeeping table behind; what each one stores differently from what it declares stands in `MAPPERS`,
one entry each. A hint is only used where every value agrees with it, and is always shown with its evidence.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from dbscale.errors import Finding
from dbscale.migrate.affinity import wish
from dbscale.migrate.model import SourceColumn, SourceSchema, SourceTable


@dataclass(frozen=True, slots=True)
class Hint:
    """What a column probably means."""

    type: str
    """The PostgreSQL type, as `[migrate.types]` spells it."""
    evidence: str
    sure: bool = False
    """True: this is how the mapper always stores that type. False: it is only suggested."""
    reading: str = ""
    """A reading of numbers, of plan.Conversion, where the mapper has only one."""
    by_size: bool = False
    """The size of the numbers goes before `reading`: other programs may have written seconds among milliseconds."""


Rule = Callable[[SourceTable, SourceColumn], Hint | None]


@dataclass(frozen=True, slots=True)
class Mapper:
    """One object-relational mapper: how it is told, and what it means by its columns."""

    name: str
    tables: tuple[str, ...]
    """Bookkeeping tables, any of which gives it away; a trailing `*` stands for anything."""
    rule: Rule
    stores: str = ""
    """How it stores what SQLite has no type for, in a few words."""


_TIME_NAME = re.compile(
    r"(?:^|_)(?:created|updated|deleted|modified|expires|expired|published|started|finished|ended|timestamp|date|time|at|on)"
    r"(?:_|$)|[a-z](?:At|Date|Time|On|Until)$|_until$|^(?:expires|banExpires)$",
)
_NOT_TIMES = re.compile(r"(?i)^(?:last_?request|duration|timeout|time_?limit|run_?time)$")
_EPOCH_DEFAULT = re.compile(r"unixepoch|strftime\s*\(\s*'%s'|julianday", re.IGNORECASE)
_BOOLEAN_DEFAULT = re.compile(r"\(?\s*(?:true|false)\s*\)?", re.IGNORECASE)
_BETTER_AUTH = {
    "user": ("email", "emailverified"),
    "session": ("token", "expiresat", "userid"),
    "account": ("accountid", "providerid", "userid"),
    "verification": ("identifier", "value", "expiresat"),
}
_BETTER_AUTH_BOOLEANS = frozenset(
    [
        "emailverified",
        "banned",
        "twofactorenabled",
        "phonenumberverified",
        "isanonymous",
        "enabled",
        "ratelimitenabled",
        "disabled",
    ]
)


def fingerprints(schema: SourceSchema) -> tuple[str, ...]:
    """The names of the mappers that left their marks, in the order of `MAPPERS`."""
    names = [table.name for table in schema.tables] + [skipped.name for skipped in schema.skipped]
    found = [mapper.name for mapper in MAPPERS if any(_matches(pattern, names) for pattern in mapper.tables)]
    if _is_better_auth(schema):
        found.append("Better Auth")
    return tuple(found)


def evidence(schema: SourceSchema) -> tuple[Finding, ...]:
    """One note for each mapper that was recognised: by what, and what follows from it."""
    names = [table.name for table in schema.tables] + [skipped.name for skipped in schema.skipped]
    found = []
    for mapper in MAPPERS:
        marks = [mark for pattern in mapper.tables if (mark := _matches(pattern, names))]
        if marks:
            says = f"{mapper.name} wrote this database: it has the table {marks[0]}. {mapper.stores}"
            found.append(Finding(code="mapper-recognised", where=marks[0], says=says.strip()))
    if _is_better_auth(schema):
        says = "Better Auth's tables user, session, account and verification are here, with its columns"
        found.append(Finding(code="mapper-recognised", where="session", says=says))
    return tuple(found)


def hint(found: tuple[str, ...], table: SourceTable, column: SourceColumn) -> Hint | None:
    """What the mappers in `found` mean by a column; else what its name and default suggest; None for nothing."""
    if "Better Auth" in found and (known := _better_auth(table, column)):
        return known
    for mapper in MAPPERS:
        if mapper.name in found and (known := mapper.rule(table, column)):
            return known
    return _by_name(table, column)


def _matches(pattern: str, names: list[str]) -> str:
    for name in names:
        if name.lower() == pattern.lower() or (pattern.endswith("*") and name.lower().startswith(pattern[:-1].lower())):
            return name
    return ""


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _is_better_auth(schema: SourceSchema) -> bool:
    tables = {
        _plain(table.name).removesuffix("s"): {_plain(column.name) for column in table.columns}
        for table in schema.tables
    }
    return all(set(wanted) <= tables.get(name, set()) for name, wanted in _BETTER_AUTH.items())


def _is_time_name(name: str) -> bool:
    return bool(_TIME_NAME.search(name)) and not _NOT_TIMES.match(name)


def _by_name(table: SourceTable, column: SourceColumn) -> Hint | None:
    """What name and default suggest where no mapper is known."""
    asked = wish(column.declared)
    if asked.kind == "integer":
        if _EPOCH_DEFAULT.search(column.default or ""):
            return Hint("timestamptz", f"its default is {column.default}")
        if _BOOLEAN_DEFAULT.fullmatch(column.default or ""):
            return Hint("boolean", f"its default is {column.default}")
        if asked.word == "TINYINT" and asked.size == 1:
            return Hint("boolean", "TINYINT(1) is MySQL's boolean")
        if _is_time_name(column.name) and column.name != table.rowid_column:
            return Hint("timestamptz", "its name and the size of its values are those of times")
    if asked.kind == "text" and asked.size in (32, 36) and asked.word in ("CHAR", "CHARACTER", "NCHAR", "VARCHAR"):
        return Hint("uuid", f"{column.declared} is as long as a UUID")
    if asked.kind == "text" and re.search(r"(?i)(?:^|_)(?:uuid|guid)$|[a-z]U(?:uid|UID)$", column.name):
        return Hint("uuid", "its name says so")
    if asked.kind == "text" and (re.search(r"(?i)json", column.name) or _checks_json(table, column)):
        return Hint("jsonb", "its name or a CHECK says that it holds JSON", sure=_checks_json(table, column))
    if asked.kind == "text" and re.search(r"(?i)(?:^|_)(?:price|amount|total|balance|cost|decimal)$", column.name):
        return Hint("numeric", "its name is that of an amount")
    return None


def _checks_json(table: SourceTable, column: SourceColumn) -> bool:
    wanted = re.compile(r"(?i)json_valid\s*\(\s*[\"`\[]?" + re.escape(column.name) + r"[\"`\]]?\s*\)")
    return any(wanted.search(check.sql) for check in table.checks)


def _django(table: SourceTable, column: SourceColumn) -> Hint | None:
    asked = wish(column.declared)
    if asked.word == "CHAR" and asked.size == 32:
        return Hint("uuid", "Django declares UUIDField as char(32) and stores 32 hex digits", sure=True)
    if asked.kind == "text" and _checks_json(table, column):
        return Hint("jsonb", "Django declares JSONField as text with a CHECK of JSON_VALID", sure=True)
    if asked.word == "BIGINT" and re.search(r"(?i)duration|interval|elapsed|timeout", column.name):
        return Hint("interval", "Django stores DurationField as microseconds in a bigint")
    return None


def _sqlalchemy(_table: SourceTable, column: SourceColumn) -> Hint | None:
    asked = wish(column.declared)
    if asked.word == "CHAR" and asked.size == 32:
        return Hint("uuid", "SQLAlchemy declares Uuid as CHAR(32) and stores 32 hex digits", sure=True)
    return None


def _prisma(_table: SourceTable, column: SourceColumn) -> Hint | None:
    if wish(column.declared).word == "DATETIME":
        return Hint(
            "timestamptz",
            "Prisma stores DateTime as milliseconds since 1970, or as ISO text",
            sure=True,
            reading="ms",
            by_size=True,
        )
    return None


def _drizzle(table: SourceTable, column: SourceColumn) -> Hint | None:
    asked = wish(column.declared)
    default = column.default or ""
    if asked.kind == "integer" and column.name != table.rowid_column:
        if _BOOLEAN_DEFAULT.fullmatch(default):
            return Hint("boolean", f"Drizzle stores booleans as 0 and 1, and the default is {default}", sure=True)
        if _EPOCH_DEFAULT.search(default) or (_is_time_name(column.name) and not default):
            why = f"the default {default}" if default else "its name"
            return Hint("timestamptz", f"Drizzle stores timestamps as integers, and {why} is that of a time", sure=True)
    if asked.kind == "blob":
        return Hint("jsonb", "Drizzle's blob columns in json mode hold JSON as UTF-8")
    if asked.kind == "text":
        return Hint("jsonb", "Drizzle's text columns in json mode hold JSON") if _looks_json(column.name) else None
    return None


def _looks_json(name: str) -> bool:
    return bool(
        re.search(
            r"(?i)json|data$|meta|payload|settings|preferences|options|attributes|config|context|details|tags$", name
        )
    )


def _better_auth(table: SourceTable, column: SourceColumn) -> Hint | None:
    name = _plain(column.name)
    kind = wish(column.declared).kind
    if name == "lastrequest":
        return Hint("bigint", "Better Auth keeps lastRequest as milliseconds in a bigint on PostgreSQL too", sure=True)
    if kind == "integer" and name in _BETTER_AUTH_BOOLEANS:
        return Hint("boolean", "Better Auth stores this boolean as 0 and 1", sure=True)
    if kind in ("integer", "date", "timestamp") and column.name != table.rowid_column and _is_time_name(column.name):
        return Hint("timestamptz", "Better Auth stores its times as milliseconds or as ISO text", sure=True)
    return None


def _core_data(_table: SourceTable, column: SourceColumn) -> Hint | None:
    if wish(column.declared).word == "TIMESTAMP":
        return Hint("timestamptz", "Core Data stores times as seconds since 2001", sure=True, reading="apple-s")
    return None


def _none(_table: SourceTable, _column: SourceColumn) -> Hint | None:
    return None


MAPPERS: tuple[Mapper, ...] = (
    Mapper("Django", ("django_migrations", "django_content_type"), _django, "It stores UUIDs as 32 hex digits."),
    Mapper("SQLAlchemy", ("alembic_version",), _sqlalchemy, "It stores UUIDs as 32 hex digits, times without offset."),
    Mapper("Prisma", ("_prisma_migrations",), _prisma, "It stores times as milliseconds or as ISO text."),
    Mapper("Drizzle", ("__drizzle_migrations",), _drizzle, "It stores booleans and times as integers."),
    Mapper("Rails", ("ar_internal_metadata",), _none, "It stores times as text in UTC."),
    Mapper("TypeORM", ("typeorm_metadata",), _none, "It stores times as text in UTC."),
    Mapper("EF Core", ("__EFMigrationsHistory",), _none, "It stores decimals, UUIDs and times as text."),
    Mapper(
        "Strapi",
        ("strapi_*", "core_store"),
        _none,
        "It stores times as milliseconds, or as text where a default fired.",
    ),
    Mapper("Core Data", ("Z_METADATA",), _core_data, "It stores times as seconds since 2001."),
    Mapper("PocketBase", ("_collections",), _none, "It stores times as text in UTC, and empty text for none."),
)
