"""A role that reads every table and writes none, by grants: for analytics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dbscale.errors import Finding
from dbscale.plan import Plan, Sql
from dbscale.schema import quote


@dataclass(frozen=True, slots=True, kw_only=True)
class Grants:
    """What a role may do in a database, as far as it matters here."""

    exists: bool = False
    superuser: bool = False
    member_of: tuple[str, ...] = ()
    """Roles it belongs to that may write."""
    unread: tuple[tuple[str, str], ...] = ()
    """Tables (schema, name) that it cannot read."""
    written: tuple[tuple[str, str, str], ...] = ()
    """Privileges (schema, table, privilege) by which it can write."""
    creating: tuple[str, ...] = ()
    """Schemas in which it can create."""
    schemas: tuple[str, ...] = ()
    """All schemas with tables."""
    closed: tuple[str, ...] = ()
    """Those of them that it may not use."""
    defaults: bool = False
    """Tables made later will be readable too."""
    read_only: bool = False


def read_grants(connection: Any, role: str, state_schema: str) -> Grants:
    """What `role` may do in the connected database; dbscale's own tables, in `state_schema`, do not count."""
    row = connection.execute("SELECT rolsuper, rolconfig FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
    schemas = [
        name
        for (name,) in connection.execute(
            "SELECT DISTINCT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema'"
            " AND NOT starts_with(n.nspname, 'pg_') AND n.nspname <> %s ORDER BY 1",
            (state_schema,),
        ).fetchall()
    ]
    if row is None:
        return Grants(schemas=tuple(schemas))
    tables = (
        "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')"
        " AND n.nspname = ANY(%(schemas)s)"
    )
    given = {"role": role, "schemas": schemas}
    unread = connection.execute(
        f"SELECT n.nspname, c.relname FROM {tables} WHERE NOT has_table_privilege(%(role)s, c.oid, 'SELECT')"
        " ORDER BY 1, 2",
        given,
    ).fetchall()
    written = connection.execute(
        f"SELECT n.nspname, c.relname, p FROM {tables}"
        " CROSS JOIN unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) p"
        " WHERE has_table_privilege(%(role)s, c.oid, p) ORDER BY 1, 2, 3",
        given,
    ).fetchall()
    places = connection.execute(
        "SELECT nspname, has_schema_privilege(%(role)s, oid, 'CREATE'), has_schema_privilege(%(role)s, oid, 'USAGE')"
        " FROM pg_namespace WHERE nspname = ANY(%(schemas)s || '{public}'::text[]) ORDER BY 1",
        given,
    ).fetchall()
    writers, defaults = _standing(connection, role)
    return Grants(
        exists=True,
        superuser=row[0],
        member_of=tuple(name for (name,) in writers) if not row[0] else (),
        unread=tuple(unread),
        written=tuple(written),
        creating=tuple(name for name, create, _ in places if create),
        schemas=tuple(schemas),
        closed=tuple(name for name, _, usage in places if not usage and name in schemas),
        defaults=bool(defaults and defaults[0]),
        read_only="default_transaction_read_only=on" in (row[1] or ()),
    )


def _standing(connection: Any, role: str) -> tuple[list[tuple[str]], tuple[int] | None]:
    """The roles it belongs to that may write, and how many default privileges to read it has."""
    writers = connection.execute(
        "SELECT rolname FROM pg_roles WHERE pg_has_role(%(role)s, oid, 'MEMBER') AND rolname <> %(role)s"
        " AND rolname NOT IN ('pg_read_all_data', 'pg_monitor', 'pg_read_all_settings', 'pg_read_all_stats',"
        " 'pg_stat_scan_tables') ORDER BY 1",
        {"role": role},
    ).fetchall()
    defaults = connection.execute(
        "SELECT count(*) FROM pg_default_acl, aclexplode(defaclacl) a WHERE defaclobjtype = 'r'"
        " AND a.grantee = %(role)s::regrole AND a.privilege_type = 'SELECT'",
        {"role": quote(role)},
    ).fetchone()
    return writers, defaults


def plan_analytics(database: str, role: str, grants: Grants, *, name: str, owner: str) -> Plan:
    """Make `role` one that reads every table of the database `name` and writes none; empty where it is so already.

    `owner` is the role whose later tables are readable too. Grants forbid the writing, on the primary as well; the
    read-only default is a courtesy beside them.
    """
    who = quote(role)
    steps = (
        *_role_steps(role, grants, name),
        *(step for schema in grants.schemas for step in _schema_steps(who, schema, grants)),
        *_table_steps(who, grants, owner),
    )
    return Plan(
        title=f"A role for analytics on {database}: {role}",
        databases={"target": database},
        steps=steps,
        findings=tuple(_can_write(role, grants)),
    )


def _role_steps(role: str, grants: Grants, name: str) -> Iterator[Sql]:
    """The role itself, that it may connect, and the courtesy of read-only transactions."""
    who = quote(role)
    if not grants.exists:
        yield Sql(
            does=f"The role; give it a password with \\password {role}",
            sql=f"CREATE ROLE {who} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION",
            undo=f"DROP ROLE {who}",
        )
        yield Sql(
            does="It may connect",
            sql=f"GRANT CONNECT ON DATABASE {quote(name)} TO {who}",
            undo=f"REVOKE CONNECT ON DATABASE {quote(name)} FROM {who}",
        )
    if not grants.read_only:
        yield Sql(
            does="Its transactions are read-only unless it says otherwise",
            sql=f"ALTER ROLE {who} SET default_transaction_read_only = on",
            undo=f"ALTER ROLE {who} RESET default_transaction_read_only",
        )


def _schema_steps(who: str, schema: str, grants: Grants) -> Iterator[Sql]:
    """What lets the role read all there is in one schema."""
    place = quote(schema)
    if schema in grants.closed or not grants.exists:
        yield Sql(
            does=f"It sees what is in {schema}",
            sql=f"GRANT USAGE ON SCHEMA {place} TO {who}",
            undo=f"REVOKE USAGE ON SCHEMA {place} FROM {who}",
        )
    if not grants.exists or any(unread == schema for unread, _ in grants.unread):
        yield Sql(
            does=f"It reads every table of {schema}",
            sql=f"GRANT SELECT ON ALL TABLES IN SCHEMA {place} TO {who}",
            undo=f"REVOKE SELECT ON ALL TABLES IN SCHEMA {place} FROM {who}",
        )


def _table_steps(who: str, grants: Grants, owner: str) -> Iterator[Sql]:
    """Tables made later are readable; what the role could write, it no longer can."""
    if not grants.defaults:
        yield Sql(
            does=f"And those that {owner} will make",
            sql=f"ALTER DEFAULT PRIVILEGES FOR ROLE {quote(owner)} GRANT SELECT ON TABLES TO {who}",
            undo=f"ALTER DEFAULT PRIVILEGES FOR ROLE {quote(owner)} REVOKE SELECT ON TABLES FROM {who}",
        )
    for schema, table, privilege in grants.written:
        yield Sql(
            does=f"It does not write {schema}.{table}",
            sql=f"REVOKE {privilege} ON {quote(schema)}.{quote(table)} FROM {who}",
            undo=f"GRANT {privilege} ON {quote(schema)}.{quote(table)} TO {who}",
        )


def _can_write(role: str, grants: Grants) -> list[Finding]:
    """What grants to this role alone cannot forbid."""
    found = []
    if grants.superuser:
        says = "it is a superuser: no grant holds it back"
        found.append(Finding(code="analytics-can-write", where=role, says=says, try_="another role", level="blocker"))
    if grants.member_of:
        says = f"it belongs to {', '.join(grants.member_of)}, and may do what they may"
        remedy = f"REVOKE {quote(grants.member_of[0])} FROM {quote(role)}"
        found.append(Finding(code="analytics-can-write", where=role, says=says, try_=remedy, level="blocker"))
    if grants.creating:
        says = f"everyone may create in {', '.join(grants.creating)}"
        remedy = f"REVOKE CREATE ON SCHEMA {quote(grants.creating[0])} FROM PUBLIC"
        found.append(Finding(code="analytics-can-write", where=role, says=says, try_=remedy, level="behaviour"))
    return found
