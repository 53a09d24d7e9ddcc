"""Whether the servers are what a map says: each difference a finding, none where all is in effect."""

from __future__ import annotations

from collections.abc import Iterator

from dbscale.errors import Finding
from dbscale.schema import quote
from dbscale.shards import client
from dbscale.shards.client import generated, sequence_name
from dbscale.shards.facts import Facts, databases, finding
from dbscale.shards.live import Live, LiveTable
from dbscale.shards.map import Map

ALARM = 0.8
"""The share of a range's ids that may be used before it is a finding."""


def check(map_: Map, facts: Facts) -> list[Finding]:
    """What stands between the servers and the map, and what will soon; empty: the live state equals the map."""
    found = list(client.findings(map_, facts))
    found += [
        finding(
            "data", "shard-not-applied", step.on, f"not in effect: {step.does}", f"dbscale shards apply {map_.name}"
        )
        for step in client.steps(map_, facts)
    ]
    lives = [facts.lives[name] for name in databases(map_, facts.shards)]
    found += [*_alike(lives), *_columns(map_, lives), *_unproven(lives)]
    found += [*_epochs(map_, lives), *_ids(map_, facts), *_states(map_, lives)]
    return found


def _alike(lives: list[Live]) -> Iterator[Finding]:
    """Settings that make one statement mean different things on two servers."""
    for what, code, values in (
        ("encoding", "shard-encoding", {live.database: live.encoding for live in lives}),
        ("time zone", "shard-time-zone", {live.database: live.zone for live in lives}),
        ("collation", "shard-collation", {live.database: live.collation for live in lives}),
        ("major version", "shard-version", {live.database: str(live.version // 10000) for live in lives}),
    ):
        if len(set(values.values())) > 1:
            says = f"the {what} differs: " + ", ".join(f"{name} {value}" for name, value in values.items())
            yield finding("behaviour", code, ", ".join(values), says, f"give all the same {what}")


def _columns(map_: Map, lives: list[Live]) -> Iterator[Finding]:
    """Tables of the group that have other columns, keys or indexes on another server."""
    for name in (*map_.tables, *map_.reference):
        having = [(live.database, live.tables[name]) for live in lives if name in live.tables]
        for database, table in having[1:]:
            first, other = having[0]
            for what, one, two in (
                ("columns", _column_facts(other), _column_facts(table)),
                ("constraints", _constraint_facts(map_, other), _constraint_facts(map_, table)),
                ("indexes", set(other.indexes), set(table.indexes)),
            ):  # fmt: skip
                if one != two:
                    differing = ", ".join(sorted(str(part) for part in one ^ two)[:4])
                    yield finding(
                        "data",
                        "shard-schema-differs",
                        f"{database}: {name}",
                        f"its {what} are not those on {first}: {differing}",
                        "run the same migrations on every shard (dbscale upgrade)",
                    )


def _column_facts(table: LiveTable) -> set[tuple[object, ...]]:
    return {(c.name, c.type, c.nullable, c.generated, c.collation) for c in table.columns}


def _constraint_facts(map_: Map, table: LiveTable) -> set[str]:
    """Keys, exclusions, and the foreign keys that every shard can hold: those within the group."""
    held = {*map_.tables, *map_.reference}
    return {c.definition for c in table.constraints if c.kind in "pux" or (c.kind == "f" and c.parent in held)}


def _unproven(lives: list[Live]) -> Iterator[Finding]:
    """Constraints that the rows were never held against: a row may have no parent on its shard."""
    for live in lives:
        for name, table in live.tables.items():
            for constraint in table.constraints:
                if not constraint.valid:
                    yield finding(
                        "behaviour",
                        "shard-not-valid",
                        f"{live.database}: {name}.{constraint.name}",
                        "it is NOT VALID: rows that were there before may break it",
                        f"ALTER TABLE {table.sql} VALIDATE CONSTRAINT {quote(constraint.name)}",
                    )


def _epochs(map_: Map, lives: list[Live]) -> Iterator[Finding]:
    epochs = {live.database: live.epochs.get(map_.name, 0) for live in lives}
    if len(set(epochs.values())) > 1:
        says = "the map's epoch differs: " + ", ".join(f"{name} {epoch}" for name, epoch in epochs.items())
        yield finding("data", "shard-epoch", map_.name, says, f"dbscale shards apply {map_.name}")


def _states(map_: Map, lives: list[Live]) -> Iterator[Finding]:
    """Ranges that no operation finished with, and ranges that two servers say they own."""
    owners: dict[str, str] = {}
    for live in lives:
        for row in live.owned:
            if row.map != map_.name:
                continue
            where = f"{live.database}: {row.range_id}"
            if row.state != "owned":
                says = f"it is {row.state}: writes to it are refused until the operation is finished or taken back"
                yield finding("data", "shard-fenced", where, says, "finish the move")
            elif row.range_id in owners:
                says = f"{owners[row.range_id]} says that it owns it too"
                yield finding("data", "shard-two-owners", where, says, f"dbscale shards apply {map_.name}")
            else:
                owners[row.range_id] = live.database


def _ids(map_: Map, facts: Facts) -> Iterator[Finding]:
    """Ranges whose ids run out."""
    table = generated(map_, facts)
    for database, ranges in databases(map_, facts.shards).items():
        for range_ in ranges:
            sequence = facts.lives[database].sequences.get(sequence_name(table.rpartition(".")[2], range_))
            if not table or sequence is None or sequence.last is None:
                continue
            used = (sequence.last - sequence.least + 1) / (sequence.greatest - sequence.least + 1)
            if used >= ALARM:
                yield finding(
                    "behaviour",
                    "shard-ids",
                    f"{database}: {sequence.name}",
                    f"{used:.0%} of the ids of {range_.id} are given: {sequence.last} of {sequence.greatest}",
                    "add a range to the map and give new ids from it",
                )
