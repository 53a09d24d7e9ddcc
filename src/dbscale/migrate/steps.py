"""The steps of a migration, in the order that is quickest and safest.

Tables without constraints, rows, keys, other indexes, checks and foreign keys (NOT VALID, then validated: the lock of
each is short), identities, views, and at last VACUUM ANALYZE.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from dbscale import schema as ddl
from dbscale.plan import Load, Sql, Step
from dbscale.schema import Schema, Table, literal, quote


def create(
    schema: Schema, loads: Iterable[Load], sequences: Mapping[str, int], *, new_schema: bool
) -> tuple[Step, ...]:
    """The steps that make `schema` and fill it. `sequences`: the last identity value the source gave, by table."""
    return tuple(chain.from_iterable(phases(schema, loads, sequences, new_schema=new_schema)))


def phases(
    schema: Schema, loads: Iterable[Load], sequences: Mapping[str, int], *, new_schema: bool
) -> Iterator[list[Step]]:
    """As `create`, in phases: of several databases, those of one phase can come together. The second has the loads."""
    name = quote(schema.name)
    made = Sql(does=f"create schema {name}", sql=f"CREATE SCHEMA {name}", undo=f"DROP SCHEMA {name}")
    yield [*([made] if new_schema else []), *(_table(schema, table) for table in schema.tables)]
    yield list(loads)
    yield list(_keys(schema))
    yield list(_indexes(schema))
    yield list(_added(schema))
    yield list(_validated(schema))
    yield list(identities(schema, sequences))
    yield [
        Sql(
            does=f"create view {quote(view.name)}",
            sql=ddl.create_view(schema.name, view),
            undo=f"DROP VIEW IF EXISTS {quote(schema.name, view.name)}",
            group="",
        )
        for view in schema.views
    ]
    yield list(analyze(schema))


def _table(schema: Schema, table: Table) -> Sql:
    return Sql(
        does=f"create table {quote(table.name)}",
        sql=ddl.create_table(schema.name, table),
        # Views and foreign keys that lean on it are undone before it, so it falls without CASCADE.
        undo=f"DROP TABLE IF EXISTS {quote(schema.name, table.name)}",
    )


def _keys(schema: Schema) -> Iterator[Sql]:
    """Primary keys and uniques: one step a table, since each takes the whole table's lock."""
    for table in schema.tables:
        if table.keys:
            yield Sql(
                does=f"keys of {quote(table.name)}",
                sql=";\n".join(ddl.add_key(schema.name, table.name, key) for key in table.keys),
                undo=";\n".join(_drop(schema, table, key.name) for key in table.keys),
                group="keys",
                blocks="everything",
            )


def _indexes(schema: Schema) -> Iterator[Sql]:
    for table in schema.tables:
        for index in table.indexes:
            yield Sql(
                does=f"index {quote(index.name)} on {quote(table.name)}",
                sql=ddl.create_index(schema.name, table.name, index),
                undo=f"DROP INDEX IF EXISTS {quote(schema.name, index.name)}",
                group="indexes",
                blocks="writes",
            )


def _added(schema: Schema) -> Iterator[Sql]:
    """Checks and foreign keys, one by one: each locks two tables, for a moment."""
    for table in schema.tables:
        for check in table.checks:
            yield Sql(
                does=f"check {quote(check.name)} on {quote(table.name)}",
                sql=ddl.add_check(schema.name, table.name, check),
                undo=_drop(schema, table, check.name),
            )
        for key in table.foreign_keys:
            yield Sql(
                does=f"foreign key {quote(key.name)} on {quote(table.name)}",
                sql=ddl.add_foreign_key(schema.name, table.name, key),
                undo=_drop(schema, table, key.name),
            )


def _validated(schema: Schema) -> Iterator[Sql]:
    """The same held against the rows, side by side."""
    for table in schema.tables:
        valid = [check.name for check in table.checks if check.valid]
        valid += [key.name for key in table.foreign_keys if key.valid]
        if valid:
            yield Sql(
                does=f"validate constraints of {quote(table.name)}",
                sql=";\n".join(ddl.validate_constraint(schema.name, table.name, name) for name in valid),
                undo="",
                group="validate",
            )


def _drop(schema: Schema, table: Table, constraint: str) -> str:
    return ddl.drop_constraint(schema.name, table.name, constraint)


def identities(schema: Schema, sequences: Mapping[str, int]) -> Iterator[Sql]:
    """Set each identity past the largest value there is, and past the largest the source ever gave."""
    for table in schema.tables:
        for column in table.columns:
            if column.identity:
                yield restart(schema.name, table.name, column.name, sequences.get(table.name, 0))


def restart(schema: str, table: str, column: str, given: int) -> Sql:
    """The next value of an identity or a serial is max + 1, `given` + 1 or 1, whichever is largest.

    After the largest bigint there is none: new rows without a number of their own are then refused.
    """
    place = quote(schema, table)
    last = f"greatest(max({quote(column)}), {max(given, 0)})"
    return Sql(
        does=f"next value of {quote(table)}.{quote(column)}",
        sql=f"SELECT setval(pg_get_serial_sequence({literal(place)}, {literal(column)}),"
        f" greatest({last}, 1), {last} > 0) FROM {place}",
        undo="",
        group="identities",
    )


def analyze(schema: Schema) -> Iterator[Sql]:
    for table in schema.tables:
        yield Sql(
            does=f"vacuum and analyze {quote(table.name)}",
            sql=f"VACUUM (ANALYZE) {quote(schema.name, table.name)}",
            undo="",
            group="analyze",
            alone=True,
        )
