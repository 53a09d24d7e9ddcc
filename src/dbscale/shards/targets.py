"""What a map can be applied to: one table of capabilities, which refusals and the documentation are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Literal, get_args

from dbscale.errors import ConfigError, Finding
from dbscale.plan import Command, Plan, Sql
from dbscale.shards import citus, client, fdw, partitions
from dbscale.shards.facts import Facts, databases
from dbscale.shards.map import Map

Target = Literal["client", "partitions", "fdw", "citus"]
TARGETS: tuple[str, ...] = get_args(Target)

CAPABILITIES: Mapping[str, Mapping[str, str]] = {
    # Empty: it can. Else why it cannot, and what to do.
    "client": {
        "range": "",
        "time": "",
        "list": "",
        "hash": "hash buckets are placed by Citus: use --target citus, or give the map ranges",
    },
    "partitions": {
        "range": "",
        "time": "",
        "list": "",
        "hash": "hash buckets are placed by Citus: use --target citus, or give the map ranges",
    },
    "fdw": {
        "range": "",
        "time": "",
        "list": "",
        "hash": "a foreign partition cannot be pruned by Citus' hash: ask Citus itself",
    },
    "citus": {
        "range": "Citus distributes by hash; its range distribution is deprecated and has no colocation:"
        " write hash = 32 in place of ranges, or use --target client",
        "time": "Citus distributes by hash; partition by time inside it: write hash = 32 with another key,"
        " or use --target client",
        "list": "Citus distributes by hash: write hash = 32 in place of ranges, or use --target client",
        "hash": "",
    },
}
"""What each target can make of each strategy."""


def refuse(map_: Map, target: str) -> None:
    """ConfigError where the target cannot hold such a map."""
    if target not in CAPABILITIES:
        raise ConfigError(f"{target!r} is no target", where="--target", try_="one of: " + ", ".join(TARGETS))
    if reason := CAPABILITIES[target][map_.strategy]:
        says, _, try_ = reason.partition(": ")
        raise ConfigError(f"the target {target} cannot hold a {map_.strategy} map: {says}", where=map_.path, try_=try_)


def plan(
    map_: Map,
    facts: Facts,
    references: Mapping[str, str],
    *,
    now: datetime,
    target: str = "client",
    maintain: bool = False,
) -> Plan:
    """What is to be done for the map to be in effect; no steps where it is.

    `references` says how dbscale.toml refers to each database. With `maintain`, only what time makes due: partitions
    ahead, old ones, copies of reference tables. ConfigError where the target cannot hold the map.
    """
    refuse(map_, target)
    steps = tuple(_steps(map_, facts, now, target, maintain=maintain))
    found = tuple(_findings(map_, facts, now, target))
    names = dict.fromkeys((facts.home, *(step.on for step in steps if step.on)))
    return Plan(
        title=f"{'maintain' if maintain else 'apply'} the shard map {map_.name} ({target})",
        # The database that a plan's runs are written on is called target.
        databases={"target" if name == facts.home else name: references[name] for name in names},
        steps=tuple(replace(step, on="target") if step.on == facts.home else step for step in steps),
        findings=found,
        options={"map": map_.name, "target": target, "state_schema": facts.state_schema},
    )


def _steps(map_: Map, facts: Facts, now: datetime, target: str, *, maintain: bool) -> Iterator[Sql | Command]:
    if target == "citus":
        yield from citus.steps(map_, facts)
    elif target == "fdw":
        yield from fdw.steps(map_, facts)
    elif target == "partitions":
        yield from partitions.by_key(map_, facts)
    else:
        if not maintain:
            yield from client.steps(map_, facts)
        else:
            for database in databases(map_, facts.shards):
                yield from client.copies(map_, facts, database)
        if map_.every:
            yield from partitions.steps(map_, facts, now)


def _findings(map_: Map, facts: Facts, now: datetime, target: str) -> Iterator[Finding]:
    if target == "client":
        yield from client.findings(map_, facts)
        if map_.every:
            yield from partitions.findings(map_, facts, now)
    elif target == "partitions":
        yield from partitions.by_key_findings(map_, facts)
    elif target == "citus":
        yield from citus.findings(map_, facts)
