"""Partitions inside one server: by time, made ahead and retired, and by key, for a map that is tried on one server.

Slots of time are half-open and bounded in UTC, whatever the session's zone, and computed as times: a partition's name
is a label only. There is no DEFAULT partition: it would take the rows that a missing one should have refused, and then
stand in the way of making it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

from dbscale.errors import Finding
from dbscale.plan import Sql
from dbscale.schema import Column, literal, quote
from dbscale.shards import keys
from dbscale.shards.client import create, drop_empty
from dbscale.shards.facts import Facts, finding
from dbscale.shards.keys import Key
from dbscale.shards.live import Constraint, LiveTable
from dbscale.shards.map import Map, Range

_BOUND = re.compile(r"FOR VALUES FROM \((?P<low>.*)\) TO \((?P<high>.*)\)")


def slot(map_: Map, moment: datetime) -> datetime:
    """Where the slot that holds `moment` starts, in UTC. Weeks start on Monday."""
    day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if map_.every == "week":
        return day - timedelta(days=day.weekday())
    if map_.every == "month":
        return day.replace(day=1)
    return day.replace(month=1, day=1) if map_.every == "year" else day


def following(map_: Map, start: datetime, count: int = 1) -> datetime:
    """Where the slot `count` after the one at `start` starts; before it, where `count` is negative."""
    if map_.every in ("day", "week"):
        return start + timedelta(days=count * (7 if map_.every == "week" else 1))
    months = start.year * 12 + start.month - 1 + count * (12 if map_.every == "year" else 1)
    return start.replace(year=months // 12, month=months % 12 + 1)


def name(map_: Map, table: str, start: datetime) -> str:
    """The partition's name: `transactions_2026_11`."""
    form = {"day": "%Y_%m_%d", "week": "%G_w%V", "month": "%Y_%m", "year": "%Y"}[map_.every]
    return f"{table[: 62 - 10]}_{start.strftime(form)}"


def oldest(map_: Map, now: datetime) -> datetime | None:
    """The start of the oldest slot that is kept; None where all are."""
    if not map_.retain:
        return None
    number, unit = map_.retain.removesuffix("s").split()
    start = slot(replace(map_, every=unit), now)  # type: ignore[arg-type]
    return slot(map_, following(replace(map_, every=unit), start, -int(number)))  # type: ignore[arg-type]


def _key(map_: Map, moment: datetime) -> Key:
    return moment.date() if map_.key == "date" else moment


def _bound(map_: Map, moment: datetime) -> str:
    return keys.sql(map_.key, _key(map_, moment)).partition("::")[0]


def bounds(partition: str) -> tuple[datetime | None, datetime | None]:
    """The bounds in a partition's definition, read in a session in UTC; None for MINVALUE and MAXVALUE."""
    match = _BOUND.fullmatch(partition)

    def moment(text: str) -> datetime | None:
        if text in ("MINVALUE", "MAXVALUE"):
            return None
        found = datetime.fromisoformat(text.strip("'"))
        return found if found.tzinfo else found.replace(tzinfo=UTC)

    return (moment(match["low"]), moment(match["high"])) if match else (None, None)


def steps(map_: Map, facts: Facts, now: datetime) -> Iterator[Sql]:
    """What a time map's tables lack on its databases: partitioning itself, slots ahead of now, and the retirement of
    those past `retain`."""
    for database in dict.fromkeys(facts.shards[range_.shard] for range_ in map_.ranges):
        for table, column in map_.tables.items():
            found = facts.lives[database].tables.get(table)
            if found is None:
                continue
            first = _first(map_, facts, (database, table), now)
            if found.kind == "r":
                yield _convert(map_, found, column, database, first)
            yield from _premake(map_, found, database, now, first)
            yield from _retire(map_, found, database, now)


def _first(map_: Map, facts: Facts, place: tuple[str, str], now: datetime) -> datetime:
    """Where the first new slot of a table begins: after now, and after the rows that it has already."""
    first, end = following(map_, slot(map_, now)), _end(map_, now)
    latest = facts.latest.get(place)
    while latest and latest.seconds >= first.timestamp() and first < end:
        first = following(map_, first)
    return first


def _end(map_: Map, now: datetime) -> datetime:
    """Where the slots end that are made ahead."""
    return following(map_, slot(map_, now), map_.premake + 1)


def findings(map_: Map, facts: Facts, now: datetime) -> Iterator[Finding]:
    """Why a table cannot be partitioned by time."""
    for database in dict.fromkeys(facts.shards[range_.shard] for range_ in map_.ranges):
        for table, column in map_.tables.items():
            found = facts.lives[database].tables.get(table)
            if found is None or found.kind != "r":
                continue
            yield from _obstacles(found, column, f"{database}: {table}")
            latest, end = facts.latest.get((database, table)), _end(map_, now)
            if latest and latest.seconds >= end.timestamp():
                says = f"its rows go up to {latest.shown}, and slots are made ahead up to {end:%Y-%m-%d} alone"
                try_ = "a larger premake in the map, where such times are real; else give those rows another time"
                yield finding("blocker", "partition-later", f"{database}: {table}", says, try_)


def _obstacles(table: LiveTable, column: str, where: str) -> Iterator[Finding]:
    """Why a table cannot be partitioned by `column` as it is, each with the statements that clear the way."""
    for dependent in table.dependents:
        says = f"{dependent.what} hangs on it, and would not follow to the partitioned table of its name"
        again = dependent.again
        if dependent.columns and column not in dependent.columns:
            again = ""
            says += f", where ({', '.join(dependent.columns)}) alone is no key any more"
        try_ = f"{dependent.drop}; apply the map{f', then {again}' if again else ''}"
        yield finding("blocker", "partition-dependent", where, says, try_)
    for name, columns in table.uniques.items():
        if column not in columns:
            says = f"the unique index {name} leaves out {column}, and no partitioned table can have it"
            plain = table.indexes[name].replace("CREATE UNIQUE INDEX", "CREATE INDEX", 1)
            try_ = f"DROP INDEX {quote(table.schema, name)}; for lookups, after the map is applied: {plain}"
            yield finding("blocker", "partition-index", where, says, try_)
    for constraint in table.constraints:
        if constraint.kind == "x":
            says = f"{constraint.name} excludes rows, which no partitioned table can"
            try_ = f"ALTER TABLE {table.sql} DROP CONSTRAINT {quote(constraint.name)}"
            yield finding("blocker", "partition-exclude", where, says, try_)
        if constraint.kind in ("p", "u") and column not in constraint.columns:
            yield finding(
                "behaviour",
                "partition-key",
                where,
                f"{constraint.name} ({', '.join(constraint.columns)}) becomes"
                f" ({', '.join((*constraint.columns, column))}): a partitioned table's keys hold its key column",
                "ids stay unique as long as their sequence gives them",
            )


def _convert(map_: Map, table: LiveTable, column: str, database: str, first: datetime) -> Sql:
    """Make the table a partitioned one whose first partition it is, with all the rows it has: none is moved.

    Its rows are read once, under a lock, to prove that they are of the time before `first`, the first new slot.
    """
    old = f"{table.name[:50]}_before_{first.strftime('%Y_%m_%d')}"
    before, parent = quote(table.schema, old), table.sql
    keys_ = [constraint for constraint in table.constraints if constraint.kind in ("p", "u")]
    wider = replace(table, constraints=tuple(_wider(constraint, column) for constraint in table.constraints))
    statements = [
        f"LOCK TABLE {parent} IN ACCESS EXCLUSIVE MODE",
        f"ALTER TABLE {parent} ALTER COLUMN {quote(column)} SET NOT NULL",
        *(f"ALTER TABLE {parent} DROP CONSTRAINT {quote(constraint.name)}" for constraint in keys_),
        f"ALTER TABLE {parent} RENAME TO {quote(old)}",
        *(f"ALTER INDEX {quote(table.schema, index)} RENAME TO {quote(_old(index))}" for index in table.indexes),
        *create(wider, suffix=f" PARTITION BY RANGE ({quote(column)})"),
        *(grant % parent for grant in table.grants),
        *(
            f"ALTER TABLE {parent} ADD CONSTRAINT {quote(constraint.name)} {constraint.definition}"
            for constraint in table.constraints
            if constraint.kind == "f"
        ),
        *_hand_over(table, old),
        f"ALTER TABLE {parent} ATTACH PARTITION {before} FOR VALUES FROM (MINVALUE) TO ({_bound(map_, first)})",
    ]
    stored = ", ".join(quote(c.name) for c in table.columns if not c.generated)
    undo = [
        *_remember(table, parent),
        f"ALTER TABLE {parent} DETACH PARTITION {before}",
        f"INSERT INTO {before} ({stored}) SELECT {stored} FROM {parent}",
        f"DROP TABLE {parent}",
        f"ALTER TABLE {before} RENAME TO {quote(table.name)}",
        *(f"ALTER INDEX {quote(table.schema, _old(index))} RENAME TO {quote(index)}" for index in table.indexes),
        *_old_keys(table),
    ]
    for key in _numbered(table):
        if key.identity:
            undo.append(f"ALTER TABLE {parent} ALTER COLUMN {quote(key.name)} ADD GENERATED BY DEFAULT AS IDENTITY")
        undo.append(_go_on(table, key.name))
    return Sql(
        does=f"partition {table.name} on {database} by {column}, its rows as the first partition",
        sql=";\n".join(statements),
        undo=";\n".join(undo),
        on=database,
        blocks="everything",
    )


def _old(index: str) -> str:
    return f"{index[:58]}_old"


def _with(columns: tuple[str, ...], column: str) -> tuple[str, ...]:
    return columns if column in columns else (*columns, column)


def _definition(kind: str, columns: tuple[str, ...]) -> str:
    return f"{'PRIMARY KEY' if kind == 'p' else 'UNIQUE'} ({', '.join(map(quote, columns))})"


def _wider(constraint: Constraint, column: str) -> Constraint:
    """A key with the partitioning column in it; any other constraint as it is."""
    if constraint.kind not in ("p", "u"):
        return constraint
    columns = _with(constraint.columns, column)
    return replace(constraint, columns=columns, definition=_definition(constraint.kind, columns))


def _hand_over(table: LiveTable, old: str) -> Iterator[str]:
    """Give the numbers to the partitioned table: a partition has no identity of its own.

    They go on where the old ones were, which may be beyond the rows: numbers of deleted rows do not come again.
    """
    place = quote(table.schema, old)
    yield from _remember(table, place)
    for column in _numbered(table):
        yield _go_on(table, column.name, rows_of=place)
        if column.identity:
            yield f"ALTER TABLE {place} ALTER COLUMN {quote(column.name)} DROP IDENTITY"


def _numbered(table: LiveTable) -> tuple[Column, ...]:
    """The columns that a sequence fills."""
    return tuple(column for column in table.columns if column.identity or column.default.startswith("nextval("))


def _remember(table: LiveTable, place: str) -> Iterator[str]:
    """Keep, for the rest of the transaction, the number before the next one that each sequence of a table gives."""
    for column in _numbered(table):
        sequence = f"pg_get_serial_sequence({literal(place)}, {literal(column.name)})"
        last = f"coalesce((nextval({sequence}) - 1)::text, '')"
        yield f"SELECT set_config({literal(_last(table, column.name))}, {last}, true)"


def _last(table: LiveTable, column: str) -> str:
    """The setting in which `_remember` keeps a number."""
    return f"dbscale.last_{[each.name for each in table.columns].index(column)}"


def _go_on(table: LiveTable, column: str, *, rows_of: str = "") -> str:
    """Let an identity go on after the greatest number there is, and after the one that `_remember` kept."""
    sequence = f"pg_get_serial_sequence({literal(table.sql)}, {literal(column)})"
    kept = f"nullif(nullif(current_setting({literal(_last(table, column))}, true), '')::bigint, 0)"
    greatest = f"SELECT greatest({kept}, max({quote(column)})) AS last FROM {rows_of or table.sql}"
    return f"SELECT setval({sequence}, coalesce(last, 1), last IS NOT NULL) FROM ({greatest}) AS given"


def _old_keys(table: LiveTable) -> Iterator[str]:
    """Drop the keys and foreign keys that ATTACH made, by asking for their names, and give back the table's own."""
    target = literal(table.sql)
    yield (
        "DO $$DECLARE c record; BEGIN FOR c IN SELECT conname FROM pg_constraint"
        f" WHERE conrelid = {target}::regclass AND contype IN ('p', 'u') LOOP"
        f" EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', {target}, c.conname); END LOOP; END$$"
    )
    for constraint in table.constraints:
        if constraint.kind in ("p", "u"):
            yield f"ALTER TABLE {table.sql} ADD CONSTRAINT {quote(constraint.name)} {constraint.definition}"


def _premake(map_: Map, table: LiveTable, database: str, now: datetime, first: datetime) -> Iterator[Sql]:
    """The slots from now on that no partition holds yet, as the table itself does up to `first` where it has none."""
    taken = [bounds(partition.definition) for partition in table.partitions]
    start = slot(map_, now)
    if table.kind == "r":
        taken = [(None, first)]
    for number in range(map_.premake + 1):
        low = following(map_, start, number)
        high = following(map_, low)
        if any((begin is None or begin < high) and (end is None or low < end) for begin, end in taken):
            continue
        part = quote(table.schema, name(map_, table.name, low))
        yield Sql(
            does=f"make the partition {name(map_, table.name, low)} on {database}",
            sql=f"CREATE TABLE {part} PARTITION OF {table.sql}"
            f" FOR VALUES FROM ({_bound(map_, low)}) TO ({_bound(map_, high)})",
            # Where the table becomes partitioned in the same plan, taking that back takes the rows of all partitions.
            undo="" if table.kind == "r" else drop_empty(part),
            on=database,
        )


def _retire(map_: Map, table: LiveTable, database: str, now: datetime) -> Iterator[Sql]:
    """Take away the partitions all of whose slot is older than `retain`."""
    kept = oldest(map_, now)
    for partition in table.partitions:
        end = bounds(partition.definition)[1]
        if kept is None or end is None or end > kept:
            continue
        yield Sql(
            does=f"drop {partition.name} on {database}: its rows are older than {map_.retain}",
            sql=f"DROP TABLE {quote(table.schema, partition.name)}",
            undo=None,
            on=database,
            blocks="writes",
        )


def day(text: str) -> datetime:
    """A date or time of the command line, in UTC where it names no zone."""
    found = (
        datetime.fromisoformat(text)
        if len(text) > 10
        else datetime.combine(date.fromisoformat(text), datetime.min.time())
    )
    return found if found.tzinfo else found.replace(tzinfo=UTC)


# One server: a range of keys is a partition


def partition_bounds(map_: Map, range_: Range) -> str:
    """The FOR VALUES of a range's partition."""
    if range_.values:
        return "IN (" + ", ".join(keys.sql(map_.key, value).partition("::")[0] for value in range_.values) + ")"
    end = map_.end(range_)
    low = "MINVALUE" if range_.start is None else keys.sql(map_.key, range_.start).partition("::")[0]
    return f"FROM ({low}) TO ({'MAXVALUE' if end is None else keys.sql(map_.key, end).partition('::')[0]})"


def by_key(map_: Map, facts: Facts) -> Iterator[Sql]:
    """The whole map on the home database: a partition for each range. Tables that are not so yet are made anew, with
    their rows, all of the group in one transaction."""
    live = facts.lives[facts.home]
    tables = [(live.tables[name], column) for name, column in map_.tables.items() if name in live.tables]
    changed = [(t, c) for t, c in tables if not _is_by_key(map_, t)]
    if not changed:
        return
    group = {table.name for table, _ in changed}
    ties = [
        (t, c) for t, _ in tables for c in t.constraints if c.kind == "f" and (t.name in group or c.parent in group)
    ]
    form = "LIST" if map_.strategy == "list" else "RANGE"
    forth: list[str] = []
    back: list[str] = []
    for table, constraint in ties:
        forth.append(f"ALTER TABLE {table.sql} DROP CONSTRAINT {quote(constraint.name)}")
    for table, column in changed:
        suffix = f" PARTITION BY {form} ({quote(column)})"
        wider = replace(table, constraints=tuple(_wider(constraint, column) for constraint in table.constraints))
        parts = [
            f"CREATE TABLE {quote(table.schema, f'{table.name}_{range_.id}')} PARTITION OF {table.sql}"
            f" FOR VALUES {partition_bounds(map_, range_)}"
            for range_ in map_.ranges
        ]
        was = [f"CREATE TABLE {quote(table.schema, p.name)} PARTITION OF {table.sql} {p.definition}"
               for p in table.partitions]  # fmt: skip
        forth += _made_anew(table, wider, suffix, parts)
        back += _made_anew(table, table, f" PARTITION BY {table.partitioned_by}" if table.partitioned_by else "", was)
    again = [f"ALTER TABLE {t.sql} ADD CONSTRAINT {quote(c.name)} {c.definition}" for t, c in ties]
    yield Sql(
        does=f"partition {', '.join(table.name for table, _ in changed)} on {facts.home} by the map {map_.name}",
        sql=";\n".join((*forth, *again)),
        undo=";\n".join((*forth[: len(ties)], *back, *again)),
        on=facts.home,
        blocks="everything",
    )


def _is_by_key(map_: Map, table: LiveTable) -> bool:
    """The table's partitions are the map's ranges."""
    wanted = {f"FOR VALUES {partition_bounds(map_, range_)}" for range_ in map_.ranges}
    return {partition.definition for partition in table.partitions} == wanted


def _made_anew(table: LiveTable, like: LiveTable, suffix: str, parts: list[str]) -> Iterator[str]:
    """Statements that put a table of another form in the place of one, with its rows."""
    old = quote(table.schema, f"{table.name[:54]}_before")
    stored = ", ".join(quote(column.name) for column in table.columns if not column.generated)
    # Names of constraints and indexes are free again once the old table is gone.
    copy = quote(table.schema, f"{table.name[:54]}_rows")
    yield f"ALTER TABLE {table.sql} RENAME TO {quote(f'{table.name[:54]}_before')}"
    yield f"CREATE TABLE {copy} AS SELECT {stored} FROM {old}"
    yield from _remember(table, old)
    yield f"DROP TABLE {old}"
    yield from create(like, suffix=suffix)
    yield from parts
    yield from (grant % table.sql for grant in table.grants)
    yield f"INSERT INTO {table.sql} ({stored}) OVERRIDING SYSTEM VALUE SELECT {stored} FROM {copy}"
    yield f"DROP TABLE {copy}"
    for column in _numbered(table):
        yield _go_on(table, column.name)


def by_key_findings(map_: Map, facts: Facts) -> Iterator[Finding]:
    """Why the group cannot be partitioned by its key on the home database."""
    live = facts.lives[facts.home]
    for name, column in map_.tables.items():
        table = live.tables.get(name)
        where = f"{facts.home}: {name}"
        if table is None:
            says = f"{facts.home} has no table {name}"
            yield finding("blocker", "shard-table-missing", where, says, "create it there")
            continue
        if _is_by_key(map_, table):
            continue
        inner = {f"the foreign key {c.name} of {t}" for t in map_.tables if t in live.tables
                 for c in live.tables[t].constraints if c.kind == "f"}  # fmt: skip
        apart = replace(
            table,
            dependents=tuple(each for each in table.dependents if each.what not in inner or column not in each.columns),
        )
        yield from _obstacles(apart, column, where)
