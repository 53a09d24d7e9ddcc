"""The steps of a migration, in the order that is quickest and safest.

Tables without constraints, rows, VACUUM, indexes, keys from the unique ones, ANALYZE, checks and foreign keys (NOT
VALID, then validated: the lock of each is short), identities, views.

VACUUM comes first, while the rows are in memory and there is no index to clean: it marks the pages whose rows all see,
which what reads them afterwards has the good of. A key is built as a unique index: CREATE INDEX lets others on the same
table be built beside it, ADD PRIMARY KEY would not. Foreign keys are validated once ANALYZE has told what is in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain

from dbscale import schema as ddl
from dbscale.plan import Load, Sql, Step
from dbscale.schema import Check, ForeignKey, Schema, Table, literal, quote


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
    loads = list(loads)
    sizes = {load.target: max(load.bytes, load.rows) for load in loads}
    by_size = replace(schema, tables=tuple(sorted(schema.tables, key=lambda table: -sizes.get(table.name, 0))))
    made = Sql(does=f"create schema {name}", sql=f"CREATE SCHEMA {name}", undo=f"DROP SCHEMA IF EXISTS {name}")
    yield [*([made] if new_schema else []), *(_table(schema, table) for table in schema.tables)]
    yield list(loads)
    yield list(_maintained(by_size, "VACUUM", "vacuum"))
    yield list(_indexes(by_size))
    yield list(_keys(schema))
    yield list(_maintained(by_size, "ANALYZE", "analyze"))
    yield list(_added(schema))
    yield list(_validated(by_size))
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


def _table(schema: Schema, table: Table) -> Sql:
    return Sql(
        does=f"create table {quote(table.name)}",
        sql=ddl.create_table(schema.name, table),
        # Views and foreign keys that lean on it are undone before it, so it falls without CASCADE.
        undo=drop_table(schema.name, table.name),
    )


def drop_table(schema: str, table: str) -> str:
    """What takes back the step that made a table, and tells it from others."""
    return f"DROP TABLE IF EXISTS {quote(schema, table)}"


def _indexes(schema: Schema) -> Iterator[Sql]:
    """All indexes, those of primary keys and uniques among them: side by side, the largest table's first."""
    for table in schema.tables:
        keys = () if table.partition_by else tuple(ddl.index_of(key) for key in table.keys)
        for index in (*keys, *table.indexes):
            yield Sql(
                does=f"index {quote(index.name)} on {quote(table.name)}",
                sql=ddl.create_index(schema.name, table.name, index),
                undo=f"DROP INDEX IF EXISTS {quote(schema.name, index.name)}",
                group="indexes",
                blocks="writes",
                without="" if index in keys else "index-left-out",
            )


def _keys(schema: Schema) -> Iterator[Sql]:
    """Primary keys and uniques, made of their indexes: one step a table, since each takes the whole table's lock.

    A partitioned table's come with their indexes, as they cannot be made of any.
    """
    for table in schema.tables:
        key_sql = ddl.add_key if table.partition_by else ddl.key_of_index
        if table.keys:
            yield Sql(
                does=f"keys of {quote(table.name)}",
                sql=";\n".join(key_sql(schema.name, table.name, key) for key in table.keys),
                undo=";\n".join(_drop(schema, table, key.name) for key in table.keys),
                group="keys",
                blocks="everything",
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
            sql = ddl.add_foreign_key(schema.name, table.name, key)
            yield Sql(
                does=f"foreign key {quote(key.name)} on {quote(table.name)}",
                # A partitioned table's are held against its rows at once: it knows no NOT VALID before version 18.
                sql=sql.removesuffix(" NOT VALID") if table.partition_by else sql,
                undo=_drop(schema, table, key.name),
            )


def _validated(schema: Schema) -> Iterator[Sql]:
    """The same held against the rows, side by side."""
    for table in schema.tables:
        for constraint in chain[Check | ForeignKey](table.checks, table.foreign_keys):
            if constraint.valid:
                yield Sql(
                    does=f"validate {quote(constraint.name)} on {quote(table.name)}",
                    sql=ddl.validate_constraint(schema.name, table.name, constraint.name),
                    undo="",
                    group="validate",
                    without="not-validated",
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


def _maintained(schema: Schema, command: str, group: str) -> Iterator[Sql]:
    """VACUUM or ANALYZE of every table."""
    for table in schema.tables:
        yield Sql(
            does=f"{group} {quote(table.name)}",
            sql=f"{command} {quote(schema.name, table.name)}",
            undo="",
            group=group,
            alone=True,
        )
