"""What the schema and the counters alone say about indexes: missing ones, wrong ones, and ones to drop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dbscale.errors import Finding
from dbscale.indexes.candidates import needs
from dbscale.indexes.facts import Facts, ForeignKey, Index, Table
from dbscale.indexes.workload import Statement
from dbscale.schema import quote

WINDOW_DAYS = 30.0
"""Days of counters before "never read" means anything."""
DROP_BYTES = 10_000_000
"""Smaller indexes are not worth a drop."""
MOST_INDEXES, MOST_COLUMNS = 8, 4
TIMES = ("timestamptz", "timestamp", "date")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaWant:
    """A statement that the schema itself makes sure to be asked, and the rule that says so."""

    rule: str
    statement: Statement
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """An index to drop, or to build anew."""

    rule: str
    schema: str
    table: str
    name: str
    because: str
    bytes: int
    rebuild: bool = False
    level: str = "note"


def asked_by_schema(facts: Facts, statements: Iterable[Statement]) -> Iterator[SchemaWant]:
    """IX101: foreign keys without an index, as the statement that PostgreSQL runs for each row of the parent.

    With a time column beside the owner (`user_id`, `created_at`), as the list of an owner's newest rows: that index
    serves the foreign key too.
    """
    statements = list(statements)
    joined = {
        (need.table.oid, name)
        for s in statements
        for need in needs(s.query, facts)
        for name in (*need.joins, *need.equal)
    }
    for table in facts.tables:
        for key in table.foreign_keys:
            if table.parent or usable(table, key) or not _matters(table, key, facts, joined):
                continue
            yield _want(table, key, facts, with_time=not statements)


def _want(table: Table, key: ForeignKey, facts: Facts, *, with_time: bool) -> SchemaWant:
    parent = facts.table(*reversed(key.parent.split(".", 1)))
    conditions = " AND ".join(f"{quote(name)} = ${place}" for place, name in enumerate(key.columns, 1))
    # Each deleted row of the parent asks once; one at least, for who would ask were it never.
    calls = max(1.0, float(parent.deletes) if parent else 1.0)
    time = next((c for c in table.columns if c.base in TIMES and c.not_null and c.name.startswith("created")), None)
    deed = {"c": "deletes", "n": "empties", "d": "resets"}.get(key.on_delete, "looks for")
    because = f"the foreign key {key.name} has no index: a delete in {key.parent.split('.')[-1]} {deed} its rows by reading all of {table.title}"  # noqa: E501 - one sentence
    if with_time and time and len(key.columns) == 1:
        sql = f"SELECT * FROM {table.sql} WHERE {conditions} ORDER BY {quote(time.name)} DESC LIMIT 20"
        because += f"; with {time.name}, it lists an owner's newest rows too"
    else:
        sql = f"SELECT 1 FROM ONLY {table.sql} WHERE {conditions} FOR KEY SHARE"
    return SchemaWant(rule="IX101", statement=Statement(sql=sql, calls=calls), because=because)


def usable(table: Table, key: ForeignKey) -> Index | None:
    """An index whose first columns are the key's, in any order, and that holds every row the key speaks of."""
    count = len(key.columns)
    for index in table.indexes:
        whole = not index.predicate or _only_not_null(index, key)
        if index.valid and whole and index.method == "btree" and set(index.columns[:count]) == set(key.columns):
            return index
    return None


def _only_not_null(index: Index, key: ForeignKey) -> bool:
    bare = index.predicate.replace("(", "").replace(")", "").replace('"', "")
    return set(bare.split(" AND ")) <= {f"{name} IS NOT NULL" for name in key.columns}


def _matters(table: Table, key: ForeignKey, facts: Facts, joined: set[tuple[int, str]]) -> bool:
    """False where the parent never loses a row, and nothing joins by the key."""
    if key.on_delete in "cnd":
        return True
    parent = facts.table(*reversed(key.parent.split(".", 1)))
    return bool(parent and parent.deletes) or any((table.oid, name) in joined for name in key.columns)


def findings(facts: Facts) -> Iterator[Finding]:
    """What is wrong with the indexes that are there."""
    for table in facts.tables:
        for index in table.indexes:
            yield from _invalid(table, index)


def _invalid(table: Table, index: Index) -> Iterator[Finding]:
    """IX104."""
    if index.valid or index.building or index.attached:
        return
    if index.partitioned:
        says, try_ = "it waits for a partition's index to be attached", "ALTER INDEX … ATTACH PARTITION …"
    else:
        price = "it is not read, but every write pays for it" if index.ready else "it is neither read nor written"
        says = f"it is INVALID: a concurrent build has failed; {price}"
        try_ = f"DROP INDEX CONCURRENTLY {quote(index.schema, index.name)}, then build it again"
    yield Finding(code="index-invalid", where=f"{table.title}.{index.name}", says=says, try_=try_, level="behaviour")


def drops(facts: Facts, *, window_days: float = WINDOW_DAYS) -> Iterator[Drop]:
    """IX102, IX103, IX104, IX301: duplicates, superfluous prefixes, invalid ones, and those that nobody reads."""
    for table in facts.tables:
        for index in table.indexes:
            if index.kept or index.building:
                continue
            if drop := _drop(table, index, facts, window_days):
                yield drop


def _drop(table: Table, index: Index, facts: Facts, window_days: float) -> Drop | None:
    def drop(rule: str, because: str) -> Drop:
        return Drop(
            rule=rule, schema=index.schema, table=table.name, name=index.name, because=because, bytes=index.bytes
        )

    if not index.valid and not index.partitioned:
        return drop("IX104", "it is invalid: a concurrent build has failed")
    twin = next((o for o in table.indexes if o.valid and o.oid != index.oid and o.shape == index.shape
                 and (o.kept or o.oid < index.oid)), None)  # fmt: skip
    if twin:
        return drop("IX102", f"{twin.name} is the same")
    if index.scans == 0 and facts.window >= window_days * 86_400 and index.bytes >= DROP_BYTES:
        return drop("IX301", f"nobody has read it for {facts.window / 86_400:.0f} days, on {facts.nodes} servers")
    return None


__all__ = ["Drop", "SchemaWant", "asked_by_schema", "drops", "findings", "usable"]
