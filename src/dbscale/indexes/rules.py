"""What the schema and the counters alone say about indexes: missing ones, and ones to drop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dbscale.errors import Finding
from dbscale.indexes.candidates import Candidate, needs
from dbscale.indexes.facts import Facts, ForeignKey, Index, Table
from dbscale.indexes.sizes import estimate
from dbscale.indexes.workload import Statement
from dbscale.schema import quote

WINDOW_DAYS = 30.0
"""Days of counters before "never read" means anything."""
DROP_BYTES = 10_000_000
"""Smaller indexes are not worth a drop."""
RARE_SCANS, RARE_WRITES = 1_000, 10_000
"""Read less often and written more often than this in the window: it costs more than it gives."""
BLOAT_BYTES, BLOAT_TIMES = 100_000_000, 2.0
"""A larger index that takes so many times what its rows need is worth a rebuild."""
TIMES = ("timestamptz", "timestamp", "date")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaWant:
    """A statement that the schema itself makes sure to be asked, and the rule that says so."""

    rule: str
    statement: Statement
    because: str
    where: str
    """`table.foreign key`."""

    @property
    def finding(self) -> Finding:
        """What is told where no index was advised for it."""
        return Finding(
            code="index-foreign-key",
            where=self.where,
            says=self.because,
            try_="dbscale indexes recommend --why says what an index would cost; [indexes] makes it all the same",
        )


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
    return SchemaWant(rule="IX101", statement=Statement(sql=sql, calls=calls), because=because,
                      where=f"{table.title}.{key.name}")  # fmt: skip


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


def drops(facts: Facts, *, window_days: float = WINDOW_DAYS) -> Iterator[Drop]:
    """IX102, IX104, IX301, IX302: duplicates, invalid ones, and those that are not read, or seldom."""
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
    if index.attached or index.partitioned or facts.window < window_days * 86_400 or index.bytes < DROP_BYTES:
        return None
    if facts.nodes <= facts.replicas:
        # A replica that was not asked may read it.
        return None
    days, servers = facts.window / 86_400, "this server" if facts.nodes == 1 else f"{facts.nodes} servers"
    if index.scans == 0:
        return drop("IX301", f"nobody has read it for {days:.0f} days, on {servers}")
    writes = table.inserts + table.updates - table.hot_updates
    if index.scans < RARE_SCANS and writes > RARE_WRITES:
        return drop("IX302", f"read {index.scans} times and written {writes} times in {days:.0f} days, on {servers}")
    return None


def superfluous(facts: Facts, made: Iterable[Candidate]) -> Iterator[tuple[Drop, str]]:
    """IX103: indexes whose keys begin a wider one that is there or about to be made; each with the wider one's name.

    To be proven by hiding them: a narrow index may still be read quicker.
    """
    made = list(made)
    for table in facts.tables:
        for index in table.indexes:
            if index.kept or not index.valid or index.building or index.partitioned or index.include:
                continue
            by = next((o.name for o in table.indexes if o.valid and o.predicate == index.predicate
                       and len(o.key_shapes) > len(index.key_shapes)
                       and o.key_shapes[: len(index.key_shapes)] == index.key_shapes), "")  # fmt: skip
            for candidate in made:
                whole = not candidate.where and (candidate.schema, candidate.table) == (table.schema, table.name)
                wider = len(candidate.columns) > len(index.columns)
                plain = candidate.terms == tuple(quote(name) for name in candidate.columns)
                if whole and wider and plain and index.plain and not index.predicate:
                    by = by or (candidate.title if candidate.columns[: len(index.columns)] == index.columns else "")
            if by:
                because = f"{by} begins with the same columns, and no statement that was given gets slower without it"
                yield Drop(rule="IX103", schema=index.schema, table=table.name, name=index.name, because=because,
                           bytes=index.bytes), by  # fmt: skip


def bloated(facts: Facts) -> Iterator[Drop]:
    """IX304: B-trees of plain columns that take twice what their rows need, of 100 MB and more."""
    for table in facts.tables:
        for index in table.indexes:
            if index.bytes < BLOAT_BYTES or not index.valid or index.method != "btree" or index.predicate:
                continue
            if any(table.column(name) is None for name in index.columns) or not table.rows:
                continue
            keys = tuple(quote(name) for name in index.columns)
            needed = estimate(Candidate(table.schema, table.name, keys, index.columns, include=index.include), table)
            if index.bytes >= needed * BLOAT_TIMES:
                because = f"its rows need about {needed / 1e6:.0f} MB, by the statistics"
                yield Drop(rule="IX304", schema=index.schema, table=table.name, name=index.name, because=because,
                           bytes=index.bytes, rebuild=True)  # fmt: skip


__all__ = ["Drop", "SchemaWant", "asked_by_schema", "bloated", "drops", "superfluous", "usable"]
