"""A SQLite database taken to PostgreSQL by the parts that a plan is made of, for tests of those parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import psycopg

from dbscale import schema as ddl
from dbscale.drivers.sqlite import SqliteSource
from dbscale.errors import Finding
from dbscale.migrate import facts, target, types
from dbscale.migrate.encode import Encoder
from dbscale.migrate.profile import profile
from dbscale.migrate.source import read_schema
from dbscale.migrate.target import Target
from dbscale.plan import Load


@dataclass(frozen=True, slots=True)
class Migrated:
    target: Target
    source: Path
    connection: psycopg.Connection[Any]

    def finding(self, code: str) -> list[Finding]:
        return [finding for finding in self.target.findings if finding.code == code]

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of PostgreSQL; no parameters, so that % stands for itself."""
        return self.connection.execute(sql).fetchall()  # type: ignore[call-overload, no-any-return]

    def ask_source(self, sql: str) -> list[tuple[Any, ...]]:
        connection = apsw.Connection(str(self.source))
        try:
            return list(connection.execute(sql))
        finally:
            connection.close()


def migrate(
    directory: Path,
    sql: str,
    connection: psycopg.Connection[Any],
    *,
    overrides: Mapping[str, str] | None = None,
    **options: Any,
) -> Migrated:
    """The database that `sql` makes, in PostgreSQL: tables, rows, keys, indexes, checks, references and views."""
    path = directory / f"source{len(list(directory.glob('*.db')))}.db"
    database = apsw.Connection(str(path))
    database.execute(sql).fetchall()
    database.close()
    with SqliteSource(path).snapshot(1) as (reader,):
        schema = read_schema(reader)
        shapes = types.wanted(schema, overrides or {})
        profiles = {table.name: profile(reader, table, shapes[table.name]) for table in schema.tables}
        choices, _ = types.choose(schema, profiles, overrides=overrides or {})
        known = facts.read(reader, schema, choices, profiles)
        made = target.build(schema, choices, profiles=profiles, facts=known, **options)
        connection.execute("CREATE SCHEMA IF NOT EXISTS " + ddl.quote(made.schema.name))  # type: ignore[call-overload]
        for table in made.schema.tables:
            connection.execute(ddl.create_table(made.schema.name, table))  # type: ignore[call-overload]
        for source in schema.tables:
            load = Load(
                does="",
                table=source.name,
                schema=made.schema.name,
                target=made.tables[source.name],
                columns=made.load[source.name],
                rowid=source.rowid_name,
            )
            encoder = Encoder(load, reader.library, reader.function_arguments, encoding=schema.encoding)
            with connection.cursor() as cursor, cursor.copy(encoder.copy_sql) as copy:  # type: ignore[call-overload]
                for batch in encoder.batches(reader):
                    assert not batch.refused, batch.refused
                    copy.write(batch.data)
    for statement in constraints(made):
        connection.execute(statement)  # type: ignore[call-overload]
    return Migrated(made, path, connection)


def constraints(made: Target) -> list[str]:
    """What comes after the load, in its order; foreign keys and checks are validated where they say they hold."""
    schema = made.schema
    found: list[str] = []
    for table in schema.tables:
        found += [ddl.add_key(schema.name, table.name, key) for key in table.keys]
    for table in schema.tables:
        found += [ddl.create_index(schema.name, table.name, index) for index in table.indexes]
        for check in table.checks:
            found.append(ddl.add_check(schema.name, table.name, check))
            found.append(ddl.validate_constraint(schema.name, table.name, check.name))
    for table in schema.tables:
        for key in table.foreign_keys:
            found.append(ddl.add_foreign_key(schema.name, table.name, key))
            if key.valid:
                found.append(ddl.validate_constraint(schema.name, table.name, key.name))
    return found + [ddl.create_view(schema.name, view) for view in schema.views]
