"""A migration into one server whose tables are partitioned by a map: shards for the application, one database still.

Each range of the map is a partition, and PostgreSQL puts every row where it belongs. Keys get the shard key as a
further column where they leave it out, as a partitioned table's have to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dbscale.drivers.source import Reader, Source
from dbscale.errors import ConfigError, Finding
from dbscale.migrate import sharded, steps
from dbscale.migrate.encode import as_int
from dbscale.migrate.plan import Migration
from dbscale.plan import Load
from dbscale.schema import ForeignKey, Schema, Table, quote
from dbscale.shards import targets
from dbscale.shards.facts import finding
from dbscale.shards.map import Map, Maps
from dbscale.shards.partitions import partition_bounds


def partition(migration: Migration, source: Source, maps: Maps) -> Migration:
    """The migration with the tables of `maps` partitioned by their keys.

    The source is read once more, for keys that no range owns. ConfigError where a map cannot be partitions, or tables
    exist; what else stands in the way is a blocker of the plan.
    """
    target = migration.target
    if target is None:
        raise ConfigError("--into-existing and --shard-map do not go together", try_="give one of them")
    found: list[Finding] = []
    for map_ in maps.maps:
        targets.refuse(map_, "partitions")
        found += sharded.later(map_)
    schema = _partitioned(target.schema, maps, found)
    with source.snapshot(1) as (reader,):
        for load in migration.loads:
            found += _unowned(migration, reader, load, maps)
    given = {each.table: each.sequence for each in target.identities if each.sequence}
    first = migration.plan.steps[0] if migration.plan.steps else None
    new_schema = first is not None and getattr(first, "sql", "").startswith("CREATE SCHEMA")
    plan = replace(
        migration.plan,
        title=f"{migration.plan.title}, partitioned by {', '.join(map_.name for map_ in maps.maps)}",
        steps=steps.create(schema, migration.loads, given, new_schema=new_schema),
        findings=(*migration.plan.findings, *found),
    )
    return replace(migration, plan=plan, target=replace(target, schema=schema))


def _partitioned(schema: Schema, maps: Maps, found: list[Finding]) -> Schema:
    tables = tuple(_table(schema, table, maps, found) for table in schema.tables)
    keys = {table.name: {key.columns for key in table.keys} for table in tables}
    whole = replace(schema, tables=tables)
    return replace(whole, tables=tuple(replace(t, foreign_keys=tuple(_kept(t, keys, found))) for t in tables))


def _table(schema: Schema, table: Table, maps: Maps, found: list[Finding]) -> Table:
    map_, column = maps.of(table.name, schema.name), maps.column(table.name, schema.name)
    if map_ is None or not column:
        return table
    for key in table.keys:
        if column not in key.columns:
            says = (
                f"({', '.join(key.columns)}) becomes ({', '.join((*key.columns, column))}): a partitioned table's keys"
            )
            where = f"{table.name}.{key.name}"
            found.append(
                finding("behaviour", "partition-key", where, f"{says} hold its key", "ids stay unique as given")
            )
    unique = [index for index in table.indexes if index.unique and quote(column) not in index.terms]
    for index in unique:
        says = f"it leaves out the key {column}: a partitioned table cannot have it"
        found.append(finding("behaviour", "partition-key", f"{table.name}.{index.name}", says, "it is left out"))
    form = "LIST" if map_.strategy == "list" else "RANGE"
    return replace(
        table,
        columns=tuple(
            replace(each, nullable=False, collation="C" if map_.key == "text" else each.collation)
            if each.name == column
            else each
            for each in table.columns
        ),
        keys=tuple(
            key if column in key.columns else replace(key, columns=(*key.columns, column)) for key in table.keys
        ),
        indexes=tuple(index for index in table.indexes if index not in unique),
        partition_by=f"{form} ({quote(column)})",
        partitions=tuple(
            (f"{table.name}_{range_.id}", f"FOR VALUES {partition_bounds(map_, range_)}") for range_ in map_.ranges
        ),
    )


def _kept(table: Table, keys: dict[str, set[tuple[str, ...]]], found: list[Finding]) -> Iterator[ForeignKey]:
    """The foreign keys that the parents' keys still allow, and that hold for all rows where partitions have them."""
    for key in table.foreign_keys:
        says = ""
        if key.parent_columns not in keys.get(key.parent, {key.parent_columns}):
            says = f"({', '.join(key.parent_columns)}) alone is no key of {key.parent} any more: it is left out"
        elif table.partition_by and not key.valid:
            says = "rows of the source break it, and a partitioned table knows no NOT VALID: it is left out"
        if says:
            try_ = "refer to the parent's whole key, or check it in the application"
            found.append(finding("behaviour", "shard-foreign-key", f"{table.name}.{key.name}", says, try_))
        else:
            yield key


def _unowned(migration: Migration, reader: Reader, load: Load, maps: Maps) -> Iterator[Finding]:
    """A finding where rows have keys that no range owns."""
    map_: Map | None = maps.of(load.target, load.schema)
    key = maps.column(load.target, load.schema)
    column = next((column for column in load.columns if column.target == key), None)
    if map_ is None or column is None:
        return
    texts = sharded.has_texts(migration, load, column)
    utf8 = migration.survey.schema.encoding == "UTF-8"
    owned = sharded.condition(map_, column, map_.ranges, reader.library, texts=texts, utf8=utf8)
    unowned = f"({owned}) IS NOT TRUE"
    count = as_int(next(reader.rows(f"SELECT count(*) FROM {quote(load.table)} AS s WHERE {unowned}"))[0])
    if count:
        yield sharded.unowned_rows(reader, load, column, map_, unowned, count)
