"""The `citus` target: a hash map as Citus' distributed tables, colocated by their common key."""

from __future__ import annotations

from collections.abc import Iterator

from dbscale.errors import Finding
from dbscale.plan import Sql
from dbscale.schema import literal, quote
from dbscale.shards.facts import Facts, finding
from dbscale.shards.live import LiveTable
from dbscale.shards.map import Map


def steps(map_: Map, facts: Facts) -> Iterator[Sql]:
    """Distribute the tables of the map on the coordinator; the rows they have go to the nodes.

    Tables that are distributed already are known by their trigger-less entry in pg_dist_partition, which only a
    database with the extension has: there the steps ask it themselves and do nothing twice.
    """
    database = facts.shards[map_.shard]
    live = facts.lives[database]
    if "citus" not in live.extensions:
        yield Sql(
            does=f"install Citus on {database}", sql="CREATE EXTENSION citus", undo="DROP EXTENSION citus", on=database
        )
    for table in map_.reference:
        if (found := live.tables.get(table)) and table not in live.distributed:
            yield _call(f"copy {table} to every node", f"create_reference_table({_name(found)})", found, database)
    first = ""
    for table, column in map_.tables.items():
        found = live.tables.get(table)
        if found is None:
            continue
        if table not in live.distributed:
            more = f", colocate_with => {literal(first)}" if first else f", shard_count => {map_.hash}"
            call = f"create_distributed_table({_name(found)}, {literal(column)}{more})"
            yield _call(f"distribute {table} by {column}", call, found, database)
        first = first or found.sql


def _call(does: str, call: str, table: LiveTable, database: str) -> Sql:
    # What hangs together by foreign keys can only be taken back together: its other steps then find nothing to undo.
    undo = f"SELECT undistribute_table({_name(table)}, cascade_via_foreign_keys => true) FROM pg_dist_partition"
    return Sql(
        does=f"{does} on {database}",
        sql=f"SELECT {call}",
        undo=f"{undo} WHERE logicalrelid = {_name(table)}::regclass",
        on=database,
        blocks="writes",
    )


def _name(table: LiveTable) -> str:
    return literal(table.sql)


def findings(map_: Map, facts: Facts) -> Iterator[Finding]:
    """What Citus would refuse: keys without the distribution column, foreign keys to tables that it does not hold,
    tables that are not there."""
    database = facts.shards[map_.shard]
    live = facts.lives[database]
    for table, column in map_.tables.items():
        found = live.tables.get(table)
        if found is None:
            says = f"{database} has no table {table}"
            yield finding("blocker", "shard-table-missing", map_.path, says, "create it there")
            continue
        for constraint in found.constraints:
            if constraint.kind in ("p", "u") and column not in constraint.columns:
                yield finding(
                    "blocker",
                    "shard-unique",
                    f"{database}: {table}",
                    f"{constraint.name} ({', '.join(constraint.columns)}) leaves out {column}: Citus refuses it",
                    f"a key over ({column}, {', '.join(constraint.columns)})",
                )
            if constraint.kind == "f" and constraint.parent not in (*map_.tables, *map_.reference):
                says = f"{constraint.name} refers to {constraint.parent}, which is not on the map: Citus refuses it"
                try_ = (
                    f'reference = ["{constraint.parent}"] in the map,'
                    f" or ALTER TABLE {found.sql} DROP CONSTRAINT {quote(constraint.name)}"
                )
                yield finding("blocker", "shard-foreign-key", f"{database}: {table}", says, try_)
