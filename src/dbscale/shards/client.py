"""The `client` target: a map over independent servers, to which the application's own connections lead.

What there is to do is what is missing: the group's tables, a CHECK that keeps every other key out, sequences that
give ids within one range, copies of reference tables, and the map with its epoch in dbscale's own tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from dbscale.errors import Finding
from dbscale.plan import Sql
from dbscale.schema import column_sql, literal, quote
from dbscale.shards import predicates
from dbscale.shards.facts import Facts, databases, finding, template
from dbscale.shards.keys import ANYTHING, HIGHEST, INTEGERS, Cut, show
from dbscale.shards.live import LiveTable, Sequence
from dbscale.shards.map import Map, Range, content, difference


def steps(map_: Map, facts: Facts) -> Iterator[Sql]:
    """What is to be done on every database of the map, in order; nothing where all is in effect."""
    epoch = next_epoch(map_, facts)
    for database, ranges in databases(map_, facts.shards).items():
        if sql := facts.catalog_sql.get(database):
            does = f"make dbscale's own tables on {database}"
            yield Sql(does=does, sql=_in_schema(sql, facts.state_schema), undo=None, on=database)
        yield from _tables(map_, facts, database)
        for table in map_.tables:
            yield from check(map_, facts.lives[database].tables.get(table) or template(facts, table), database, ranges)
        yield from _sequences(map_, facts, database, ranges)
        yield from copies(map_, facts, database)
    for database, ranges in databases(map_, facts.shards).items():
        yield from _ownership(map_, facts, database, ranges, epoch)


def _in_schema(sql: str, schema: str) -> str:
    return f"CREATE SCHEMA IF NOT EXISTS {quote(schema)};\nSET LOCAL search_path TO {quote(schema)};\n{sql}"


def next_epoch(map_: Map, facts: Facts) -> int:
    """The epoch that the map has once it is applied: the live one, or the next where it says something else."""
    lives = [facts.lives[name] for name in databases(map_, facts.shards)]
    live = max((one.epochs.get(map_.name, 0) for one in lives), default=0)
    newest = next((one.maps[map_.name] for one in lives if one.epochs.get(map_.name) == live and live), None)
    return live if newest is not None and newest.checksum == map_.checksum else live + 1


def findings(map_: Map, facts: Facts) -> Iterator[Finding]:
    """Why the map cannot be applied, and what to know before it is."""
    yield from dict.fromkeys(_findings(map_, facts))


def _findings(map_: Map, facts: Facts) -> Iterator[Finding]:
    where = map_.path or map_.name
    for database, ranges in databases(map_, facts.shards).items():
        live = facts.lives[database]
        if (known := live.maps.get(map_.name)) is not None:
            yield from moves(known, map_)
        for table, column in map_.tables.items():
            found = live.tables.get(table) or template(facts, table)
            if found is None:
                yield finding(
                    "blocker",
                    "shard-table-missing",
                    f"{where}: tables.{table}",
                    f"no database has the table {table}",
                    "create it on one of them, or migrate into it, then plan again",
                )
                continue
            yield from _key_column(map_, found, column, f"{table}.{column}")
            if len(databases(map_, facts.shards)) > 1:
                yield from _uniques(found, column)
                yield from _foreign_keys(map_, found)
            if count := facts.strangers.get((database, table)):
                yield finding(
                    "blocker",
                    "shard-strangers",
                    f"{database}: {table}",
                    f"{count} rows have a key that {', '.join(range_.id for range_ in ranges)} do not own",
                    "move them to their shard (or delete them) first: dbscale moves no rows between servers yet",
                )

    for table in map_.tables:
        if facts.home not in databases(map_, facts.shards) and (count := facts.strangers.get((facts.home, table))):
            yield finding(
                "data",
                "shard-left-behind",
                f"{facts.home}: {table}",
                f"{count} rows are here, where no statement for {table} is routed to",
                "copy them to their shards, then empty the table",
            )


def moves(live: Map, wanted: Map) -> Iterator[Finding]:
    """Refusals of changes that would need rows to move."""
    for change in difference(live, wanted):
        if change.kind in ("owner", "lost", "key"):
            yield finding(
                "blocker",
                "shard-move",
                wanted.path or wanted.name,
                change.says,
                "a map's edit moves no rows: keep the owner; split, merge and new ranges are possible",
            )


def _key_column(map_: Map, table: LiveTable, column: str, where: str) -> Iterator[Finding]:
    found = table.column(column)
    if found is None:
        says = f"{table.name} has no column {column}"
        yield finding("blocker", "shard-key-missing", where, says, "name its key column")
        return
    kinds = {"timestamptz": "timestamp with time zone"}
    if found.type != kinds.get(map_.key, map_.key) and not (map_.key == "text" and "char" in found.type):
        yield finding(
            "blocker",
            "shard-key-type",
            where,
            f"it is {found.type}, the map's key is {map_.key}",
            f'key = "{found.type}" in the map, or change the column; a group has one type',
        )
    if map_.key == "text" and found.collation != "C":
        yield finding(
            "blocker",
            "shard-key-collation",
            where,
            "a text key must sort alike everywhere, and its collation is not C",
            f'ALTER TABLE {table.sql} ALTER COLUMN {quote(column)} TYPE text COLLATE "C"',
        )


def _uniques(table: LiveTable, column: str) -> Iterator[Finding]:
    for constraint in table.constraints:
        if constraint.kind in ("p", "u") and column not in constraint.columns:
            yield finding(
                "behaviour",
                "shard-unique",
                f"{table.name}.{constraint.name}",
                f"({', '.join(constraint.columns)}) leaves out the key {column}: it holds on each shard "
                "by itself, and two shards may have the same values",
                f"a key over ({column}, {', '.join(constraint.columns)}), or values that no two shards can give",
            )


def _foreign_keys(map_: Map, table: LiveTable) -> Iterator[Finding]:
    for constraint in table.constraints:
        if constraint.kind != "f" or constraint.parent in map_.reference:
            continue
        key = map_.tables.get(constraint.parent)
        own = map_.tables.get(table.name, "")
        tied = key is not None and (own, key) in zip(constraint.columns, constraint.parent_columns, strict=True)
        if tied:
            continue
        yield finding(
            "behaviour",
            "shard-foreign-key",
            f"{table.name}.{constraint.name}",
            f"it refers to {constraint.parent}, whose rows "
            + ("are tied by no key" if key is not None else "are not on this map")
            + ": it cannot be held across servers, and is left out where the table is made",
            f"put {constraint.parent} on the map too, or among its reference tables",
        )


def _tables(map_: Map, facts: Facts, database: str) -> Iterator[Sql]:
    """The tables that a database lacks, as another one has them; with their foreign keys in one step.

    What is there counts as made: a table that was committed without its foreign keys would never get them.
    """
    missing = [table for table in (*map_.reference, *map_.tables) if table not in facts.lives[database].tables]
    made = [found for table in missing if (found := template(facts, table)) is not None]
    if not made:
        return
    held = {*map_.reference, *map_.tables}
    keys = [
        (table, constraint)
        for table in made
        for constraint in table.constraints
        if constraint.kind == "f" and constraint.parent in held
        and not any(_foreign_keys(map_, replace(table, constraints=(constraint,))))
    ]  # fmt: skip
    yield Sql(
        does=f"create {', '.join(table.name for table in made)} on {database}",
        sql=";\n".join(
            [statement for table in made for statement in create(table)]
            + [f"ALTER TABLE {table.sql} ADD CONSTRAINT {quote(key.name)} {key.definition}" for table, key in keys]
        ),
        undo=";\n".join(
            [f"ALTER TABLE {table.sql} DROP CONSTRAINT {quote(key.name)}" for table, key in reversed(keys)]
            + [drop_empty(table.sql) for table in reversed(made)]
        ),
        on=database,
    )


def drop_empty(table: str) -> str:
    """Drop a table that dbscale made; refused where it holds rows by now."""
    says = literal(f"{table} holds rows: move them away first")
    return (
        f"DO $$BEGIN\n  IF EXISTS (SELECT FROM {table}) THEN RAISE EXCEPTION USING MESSAGE = {says}; END IF;\n"
        f"  DROP TABLE {table};\nEND$$"
    )


def create(table: LiveTable, *, suffix: str = "") -> Iterator[str]:
    """The statements that make an empty table like `table`, without its foreign keys and dbscale's own CHECK."""
    columns = [
        replace(column, identity=True, default="") if column.default.startswith("nextval(") else column
        for column in table.columns
    ]
    yield f"CREATE TABLE {table.sql} (\n" + ",\n".join(f"  {column_sql(c)}" for c in columns) + f"\n){suffix}"
    for constraint in table.constraints:
        if constraint.kind in ("p", "u", "c", "x") and not constraint.name.startswith("dbscale_owns"):
            yield f"ALTER TABLE {table.sql} ADD CONSTRAINT {quote(constraint.name)} {constraint.definition}"
    yield from table.indexes.values()


def check_name(map_: Map) -> str:
    return f"dbscale_owns_{map_.name}"


def check(map_: Map, table: LiveTable | None, database: str, ranges: tuple[Range, ...]) -> Iterator[Sql]:
    """The CHECK that lets in the keys of `ranges` alone, where the table does not have it."""
    if table is None:
        return
    column = next(key for name, key in map_.tables.items() if name.rpartition(".")[2] == table.name)
    name = check_name(map_)
    wanted = predicates.owned(map_, ranges)
    present = table.constraint(name)
    if wanted == ANYTHING:
        return
    condition = predicates.condition(map_, column, ranges)
    if present and present.valid:
        # The same text, as of a table that is about to be made, need not be read: the grammar takes long to import.
        same = present.definition == f"CHECK ({condition})"
        if same or predicates.read(map_, _map_name(map_, table), present.definition) == wanted:
            return
    drop = f"DROP CONSTRAINT IF EXISTS {quote(name)}"
    before = f", ADD CONSTRAINT {quote(name)} {present.definition}" if present else ""
    yield Sql(
        does=f"let {', '.join(range_.id for range_ in ranges)} alone into {table.name} on {database}",
        sql=f"ALTER TABLE {table.sql} {drop}, ADD CONSTRAINT {quote(name)} CHECK ({condition}) NOT VALID",
        undo=f"ALTER TABLE {table.sql} {drop}{before}",
        on=database,
        blocks="everything",
    )
    yield Sql(
        does=f"hold {table.name}'s rows on {database} against it",
        sql=f"ALTER TABLE {table.sql} VALIDATE CONSTRAINT {quote(name)}",
        undo="",
        on=database,
    )


def _map_name(map_: Map, table: LiveTable) -> str:
    return next(name for name in map_.tables if name.rpartition(".")[2] == table.name)


def sequence_name(table: str, range_: Range) -> str:
    return f"{table}_ids_{range_.id}"


def generated(map_: Map, facts: Facts) -> str:
    """The table that makes the keys: the one whose key column is an identity, a serial, or its primary key alone."""
    if map_.key not in INTEGERS or map_.strategy != "range":
        return ""
    for table, column in map_.tables.items():
        found = template(facts, table)
        key = found.column(column) if found else None
        alone = found and any(c.kind == "p" and c.columns == (column,) for c in found.constraints)
        if key and (key.identity or key.default.startswith("nextval(")) and alone:
            return table
    return ""


def _sequences(map_: Map, facts: Facts, database: str, ranges: tuple[Range, ...]) -> Iterator[Sql]:
    """A sequence for each range, which gives no id outside it, and goes on after the greatest that is there."""
    table = generated(map_, facts)
    found = facts.lives[database].tables.get(table) or template(facts, table)
    if not table or found is None:
        return
    column = map_.tables[table]
    for range_ in ranges:
        name, end = sequence_name(found.name, range_), map_.cuts(range_)[1]
        if range_.start is None:
            continue
        full = quote(found.schema, name)
        if (present := facts.lives[database].sequences.get(name)) is not None:
            yield from _rebounded(present, range_, end, database)
            continue
        last = "" if end == HIGHEST else f" MAXVALUE {int(str(end[1])) - 1}"
        where = f"{quote(column)} >= {range_.start}" + ("" if end == HIGHEST else f" AND {quote(column)} < {end[1]}")
        yield Sql(
            does=f"ids of {range_.id} from a sequence on {database}",
            sql=f"CREATE SEQUENCE {full} MINVALUE {range_.start}{last} START {range_.start} NO CYCLE;\n"
            f"COMMENT ON SEQUENCE {full} IS {literal(f'dbscale: ids of {range_.id} of the map {map_.name}')};\n"
            f"SELECT setval({literal(full)}, coalesce(max({quote(column)}), {range_.start}), count(*) > 0)"
            f" FROM {found.sql} WHERE {where}",
            undo=f"DROP SEQUENCE {full}",
            on=database,
        )
    yield from _default(found, column, database, ranges)


def _rebounded(sequence: Sequence, range_: Range, end: Cut, database: str) -> Iterator[Sql]:
    """Give a range's sequence its new bounds after a split or a merge; what it has given counts as given."""
    least = int(str(range_.start))
    greatest = (1 << 63) - 1 if end == HIGHEST else int(str(end[1])) - 1
    if (sequence.least, sequence.greatest) == (least, greatest):
        return
    full = quote(sequence.schema, sequence.name)

    def bounded(low: int, high: int) -> str:
        return (
            "DO $$DECLARE given bigint; used boolean;\nBEGIN\n"
            f"  SELECT last_value, is_called INTO given, used FROM {full};\n"
            f"  ALTER SEQUENCE {full} MINVALUE {low} MAXVALUE {high} START {low} RESTART {low};\n"
            f"  PERFORM setval({literal(full)}, least(greatest(given, {low}), {high}), used OR given > {high});\n"
            "END$$"
        )

    yield Sql(
        does=f"bound {sequence.name} on {database} by {least} and {greatest}",
        sql=bounded(least, greatest),
        undo=bounded(sequence.least, sequence.greatest),
        on=database,
    )


def _default(table: LiveTable, column: str, database: str, ranges: tuple[Range, ...]) -> Iterator[Sql]:
    """New ids come from the sequence of a range that the database owns, not from an identity that knows no ranges."""
    key = table.column(column)
    names = [sequence_name(table.name, range_) for range_ in ranges if range_.start is not None]
    if key is None or not names or any(f"nextval('{name}'" in key.default.replace('"', "") for name in names):
        return
    sequence = literal(quote(table.schema, names[0]))
    before = f"SET DEFAULT {key.default}" if key.default and not key.identity else "DROP DEFAULT"
    back = f"ALTER TABLE {table.sql} ALTER COLUMN {quote(column)} {before}"
    if key.identity:
        back += (
            f";\nALTER TABLE {table.sql} ALTER COLUMN {quote(column)} ADD GENERATED BY DEFAULT AS IDENTITY;\n"
            f"SELECT setval(pg_get_serial_sequence({literal(table.sql)}, {literal(column)}),"
            f" coalesce(max({quote(column)}), 1), count(*) > 0) FROM {table.sql}"
        )
    yield Sql(
        does=f"let {table.name} on {database} take new ids from {names[0]}",
        sql=f"ALTER TABLE {table.sql} ALTER COLUMN {quote(column)} DROP IDENTITY IF EXISTS,"
        f" ALTER COLUMN {quote(column)} SET DEFAULT nextval({sequence})",
        undo=back,
        on=database,
        blocks="everything",
    )


def copies(map_: Map, facts: Facts, database: str) -> Iterator[Sql]:
    """The reference tables whose rows differ from home's."""
    for table in map_.reference:
        copy = facts.copies.get(table)
        if copy is None or database == facts.home or facts.digests.get((database, table)) == copy.digest:
            continue
        found = facts.lives[database].tables.get(table) or template(facts, table)
        if found is None:
            continue
        kept = facts.digests.get((database, table), "")
        yield Sql(
            does=f"copy {table} ({copy.count} rows) to {database}",
            sql=f"DELETE FROM {found.sql};\nINSERT INTO {found.sql} OVERRIDING SYSTEM VALUE\n"
            f"SELECT * FROM json_populate_recordset(NULL::{found.sql}, {literal(copy.rows)})",
            undo=None if kept else f"DELETE FROM {found.sql}",
            on=database,
            blocks="writes",
        )


def _ownership(map_: Map, facts: Facts, database: str, ranges: tuple[Range, ...], epoch: int) -> Iterator[Sql]:
    """The map and the ranges owned, in dbscale's own tables: what a client's epoch is held against."""
    live = facts.lives[database]
    rows = {row.range_id: (row.shard, row.lower, row.upper, row.listed, row.state)
            for row in live.owned if row.map == map_.name}  # fmt: skip
    wanted = {range_.id: (range_.shard, *_bounds(map_, range_), "owned") for range_ in ranges}
    if live.epochs.get(map_.name) == epoch and rows == wanted:
        return
    before = live.maps.get(map_.name)
    old = {row.range_id: (row.shard, row.lower, row.upper, row.listed) for row in live.owned if row.map == map_.name}
    new = {id_: row[:4] for id_, row in wanted.items()}
    yield Sql(
        does=f"write down on {database} that it owns {', '.join(wanted)}, epoch {epoch}",
        sql=_written(facts.state_schema, map_, epoch, new),
        undo=_written(facts.state_schema, before, live.epochs[map_.name], old)
        if before
        else _forgotten(facts.state_schema, map_),
        on=database,
    )


_Rows = Mapping[str, tuple[str, str | None, str | None, tuple[str, ...]]]


def _forgotten(schema: str, map_: Map) -> str:
    return ";\n".join(
        f"DELETE FROM {quote(schema, table)} WHERE {column} = {literal(map_.name)}"
        for table, column in (("owned_ranges", "map"), ("shard_maps", "name"))
    )


def _written(schema: str, map_: Map, epoch: int, rows: _Rows) -> str:
    name = literal(map_.name)
    values = ",\n".join(
        f"  ({name}, {literal(id_)}, {literal(shard)}, {_text(lower)}, {_text(upper)}, {_array(listed)}, {epoch})"
        for id_, (shard, lower, upper, listed) in rows.items()
    )
    body = literal(json.dumps(content(map_), ensure_ascii=False))
    return (
        f"{_forgotten(schema, map_)};\n"
        f"INSERT INTO {quote(schema, 'shard_maps')} (name, epoch, content, checksum)\n"
        f"VALUES ({name}, {epoch}, {body}, {literal(map_.checksum)});\n"
        f"INSERT INTO {quote(schema, 'owned_ranges')} (map, range_id, shard, lower, upper, listed, epoch)\n"
        f"VALUES\n{values}"
    )


def _bounds(map_: Map, range_: Range) -> tuple[str | None, str | None, tuple[str, ...]]:
    if range_.values:
        return None, None, tuple(show(value) for value in range_.values)
    start, end = range_.start, map_.end(range_)
    return None if start is None else show(start), None if end is None else show(end), ()


def _text(value: str | None) -> str:
    return "NULL" if value is None else literal(value)


def _array(values: Iterable[str]) -> str:
    return f"ARRAY[{', '.join(literal(value) for value in values)}]::text[]" if values else "NULL"
