"""The target before a migration: whether it can be one, and what is there already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dbscale.drivers import postgres
from dbscale.drivers.postgres import Connection
from dbscale.errors import ConfigError, Finding, Missing, Unreachable
from dbscale.schema import Schema, quote

OLDEST_SERVER = 130000
"""PostgreSQL 13, the oldest that is tested for behaviour dbscale relies on (`DROP EXPRESSION`, sane identities)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a plan for new tables has to know of its target."""

    vector: bool
    hnsw: bool
    """Whether there is pgvector, and whether it has HNSW indexes."""
    present: frozenset[str]
    new_schema: bool
    findings: tuple[Finding, ...] = ()


def look(url: str, schema: str, state_schema: str, collation: str = "", *, reading: bool = False) -> Room:
    """What a server says; Missing where it cannot be a target, ConfigError where it lacks the collation.

    `reading`: nothing is to be made there, so no privileges are needed for that.
    """
    with postgres.connect(url, name="dbscale plan") as connection, postgres.reading(connection):
        check_server(connection)
        check_collation(connection, collation)
        new_schema = not exists(connection, schema)
        if not reading:
            check_writable(connection)
            check_privileges(connection, schema, new_schema=new_schema)
        return Room(
            vector=has_extension(connection, "vector"),
            hnsw=bool(_value(connection, "SELECT EXISTS (SELECT FROM pg_am WHERE amname = 'hnsw')")),
            present=relations(connection, schema),
            new_schema=new_schema,
            findings=tuple(shadowed(connection, state_schema)),
        )


def check_collation(connection: Connection, name: str) -> None:
    """ConfigError where the server does not have the collation that is asked for."""
    if name and not _value(connection, "SELECT EXISTS (SELECT FROM pg_collation WHERE collname = %s)", name):
        raise ConfigError(
            f"the server has no collation {name!r}", where="--collate", try_="C, or one that pg_collation names"
        )


def empty(reference: str, stopped: str, schema: str) -> Room:
    """A target that cannot be looked at now."""
    finding = Finding(
        code="target-stopped",
        where=reference,
        says=f"{stopped}: this plan takes it to be empty",
        try_="dbscale local up, and plan again, to see what it holds",
    )
    return Room(vector=False, hnsw=False, present=frozenset(), new_schema=schema != "public", findings=(finding,))


def check_server(connection: Connection) -> None:
    """Missing where the server cannot be a target: too old, not UTF-8, or behind a pooler."""
    version = connection.info.server_version
    if version < OLDEST_SERVER:
        raise Missing(f"PostgreSQL {version // 10000} is too old", try_="PostgreSQL 13 or newer")
    encoding = _value(connection, "SELECT current_setting('server_encoding')")
    if encoding != "UTF8":
        raise Missing(
            f"the database's encoding is {encoding}: it cannot hold every text of SQLite",
            try_="createdb --encoding=UTF8 --template=template0 NAME",
        )
    postgres.refuse_pooler(connection)


def check_writable(connection: Connection) -> None:
    """Unreachable where the server takes no writes from this role."""
    if _value(connection, "SELECT pg_is_in_recovery()"):
        says, try_ = "this server is a standby: it takes no writes", "name the primary's URL"
    elif _value(connection, "SELECT current_setting('default_transaction_read_only')") == "on":
        says = "this server takes no writes: default_transaction_read_only is on"
        try_ = "switch it off for this role and database; a managed server sets it where its disk is full"
    else:
        return
    where = f"{connection.info.host}:{connection.info.port}"
    raise Unreachable(says, where=where, try_=try_, see="docs/errors.md#read-only")


def check_privileges(connection: Connection, schema: str, *, new_schema: bool) -> None:
    """Missing where this role may not create what the plan needs."""
    if new_schema:
        allowed = _value(connection, "SELECT has_database_privilege(current_database(), 'CREATE')")
        what, grant = f"create the schema {schema!r}", "GRANT CREATE ON DATABASE … TO …"
    else:
        allowed = _value(connection, "SELECT has_schema_privilege(%s, 'CREATE')", schema)
        what, grant = f"create tables in the schema {schema!r}", f"GRANT CREATE ON SCHEMA {quote(schema)} TO …"
    if not allowed:
        role = _value(connection, "SELECT current_user")
        raise Missing(f"the role {role!r} may not {what}", try_=f"{grant}, or name another with --schema")


def shadowed(connection: Connection, state_schema: str) -> Iterator[Finding]:
    """A finding when this role's own name leads its search path to dbscale's tables before the application's."""
    if _value(connection, "SELECT current_user") == state_schema:
        yield Finding(
            code="state-schema-first",
            where=f"schema {state_schema}",
            says="this role has the name of the schema of dbscale's tables, so its search path ($user, public) finds"
            " those before the application's: alembic_version, say",
            try_="--state-schema NAME, or connect the application as another role",
            level="behaviour",
        )


def relations(connection: Connection, schema: str) -> frozenset[str]:
    """The names of the relations in a schema: tables, views, indexes and sequences share one namespace."""
    rows = connection.execute(
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s", [schema]
    )
    return frozenset(name for (name,) in rows)


def clashes(present: frozenset[str], schema: Schema) -> list[Finding]:
    """Blockers for names that the target's schema has already."""
    wanted = [table.name for table in schema.tables] + [view.name for view in schema.views]
    taken = sorted(present.intersection(wanted))
    if not taken:
        return []
    return [
        Finding(
            code="target-not-empty",
            where=f"schema {schema.name}",
            says=f"{len(taken)} of the tables and views are there already: {', '.join(taken[:5])}"
            + (" …" if len(taken) > 5 else ""),
            try_="--schema NEW, or --into-existing to load into them, or dbscale undo RUN to take an earlier run back",
            level="blocker",
        )
    ]


def exists(connection: Connection, schema: str) -> bool:
    """Whether there is such a schema."""
    return bool(_value(connection, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = %s)", schema))


def has_extension(connection: Connection, name: str) -> bool:
    """Whether the extension is in this database."""
    return bool(_value(connection, "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = %s)", name))


def _value(connection: Connection, query: str, *parameters: object) -> Any:
    row = connection.execute(query.encode(), parameters).fetchone()
    return row[0] if row else None
