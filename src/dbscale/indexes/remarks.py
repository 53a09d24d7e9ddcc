"""What is wrong with the indexes and foreign keys that are there, by catalog, statistics and counters.

Each rule is a finding with its remedy. Indexes that keep rows out or back something (`Index.kept`) are spared by the
rules that would have them otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from dbscale.errors import Finding
from dbscale.indexes.candidates import needs
from dbscale.indexes.choose import FEW_VALUES, LEAST_COST
from dbscale.indexes.facts import Facts, Index, Table
from dbscale.indexes.proof import Planned, Proof
from dbscale.indexes.workload import Statement
from dbscale.schema import quote

MOST_INDEXES, MOST_COLUMNS = 8, 4
LARGE_BYTES = 10_000_000
"""What smaller indexes waste is not worth a remark."""
MOSTLY_NULL = 0.5
WHOLE = frozenset(("jsonb", "tsvector", "xml"))
"""Types whose values a B-tree compares whole only; arrays and ranges too."""
TIMES = frozenset(("timestamptz", "timestamp", "date"))
SCANNED_ROWS, SCANS, SCANS_AN_HOUR, INDEX_SHARE = 10_000, 100, 1.0, 0.95
"""A table of so many rows that is read whole so often (each index that is built reads it once), and by an index in less
than this share of all scans."""
MANY_UPDATES, HOT_SHARE = 10_000, 0.5
"""After so many updates a share of heap-only ones below this is no accident."""
SSD_PAGE_COST = 1.1

_Rule = Callable[[Table, Index], Iterator[Finding]]


def findings(facts: Facts) -> Iterator[Finding]:
    """What the catalog, the statistics and the counters say."""
    for table in facts.tables:
        for index in table.indexes:
            for rule in _INDEX_RULES:
                yield from rule(table, index)
        yield from _too_many(table)
        yield from _read_whole(table, facts.window)
        for key in table.foreign_keys:
            if different := [f"{a} and {b}" for a, b in key.types if a != b]:
                yield Finding(
                    code="foreign-key-types",
                    where=f"{table.title}.{key.name}",
                    says=f"its sides differ in type ({', '.join(different)}): joins cast, and may pass indexes over",
                    try_="give both columns one type",
                )


def sharded(facts: Facts, keys: Mapping[str, str]) -> Iterator[Finding]:
    """IX113: unique indexes that leave out the shard key; `keys` has the key column of each table of a shard map."""
    for table in facts.tables:
        key = keys.get(table.title)
        for index in table.indexes if key else ():
            if index.unique and not table.parent and key not in index.columns:
                yield Finding(
                    code="shard-unique",
                    where=f"{table.title}.{index.name}",
                    says=f"({', '.join(index.columns)}) leaves out the key {key}: it holds on each shard by itself",
                    try_=f"a key over ({key}, {', '.join(index.columns)}), or values that no two shards can give",
                    level="behaviour",
                )


def blocking_hot(facts: Facts, statements: Iterable[Statement]) -> Iterator[Finding]:
    """IX303: indexes of a column that the workload updates, on tables whose updates are seldom heap-only."""
    told: set[str] = set()
    for statement in statements:
        sets = {name for name, _ in statement.query.sets}
        for mention in statement.query.tables if sets else ():
            table = facts.table(mention.name, mention.schema) if mention.writes else None
            if table is None or table.updates < MANY_UPDATES or table.hot_updates >= HOT_SHARE * table.updates:
                continue
            for index in table.indexes:
                touched = sorted(sets & {*index.columns, *index.include})
                if touched and not index.kept and index.valid and index.name not in told:
                    told.add(index.name)
                    yield Finding(
                        code="index-blocks-hot",
                        where=f"{table.title}.{index.name}",
                        says=f"updates of {', '.join(touched)} cannot be heap-only for it, and write to all"
                        f" {len(table.indexes)} indexes; {table.hot_updates / table.updates:.0%} of {table.updates}"
                        " updates were heap-only",
                        try_="if few statements need the column, a partial index, or none; compare with --why",
                    )


def passed_over(
    facts: Facts, proof: Proof, planned: Iterable[tuple[Statement, Planned]]
) -> Iterator[Finding]:  # fmt: skip
    """IX213: statements that read a table whole though an index is there: for want of statistics, or by a cost setting.

    The cost setting is only named where the planner, asked with the price of an SSD, does take the index.
    """
    told: set[str] = set()
    dear = float(facts.settings.get("random_page_cost", 4)) > SSD_PAGE_COST
    for statement, plan in planned:
        for table, index in _passed_over(facts, statement, plan):
            if index.name in told or plan.cost < LEAST_COST:
                continue
            cheap = proof.plan(statement.sql, settings={"random_page_cost": str(SSD_PAGE_COST)}) if dear else plan
            if table.blind:
                says, try_ = "the planner has no statistics of the table", f"ANALYZE {table.sql}"
            elif index.name in cheap.uses:
                says = f"with random_page_cost = {SSD_PAGE_COST}, the price of an SSD, the planner takes it"
                try_ = f"ALTER SYSTEM SET random_page_cost = {SSD_PAGE_COST}; SELECT pg_reload_conf()"
            else:
                continue
            told.add(index.name)
            yield Finding(code="index-not-taken", where=f"{table.title}.{index.name}", original=statement.sql,
                          says=f"the statement reads all of {table.title}: {says}", try_=try_)  # fmt: skip


def _passed_over(facts: Facts, statement: Statement, plan: Planned) -> Iterator[tuple[Table, Index]]:
    """The indexes whose first column a statement compares, on tables that its plan reads whole."""
    for need in needs(statement.query, facts):
        if f"Seq Scan {need.table.name}" in plan.nodes:
            for index in need.table.indexes:
                if index.valid and not index.predicate and index.columns[0] in (*need.equal, *need.ranges):
                    yield need.table, index


def _read_whole(table: Table, window: float) -> Iterator[Finding]:
    """IX211. Once an hour and more: nightly dumps and reports are no reason for an index."""
    scans = table.sequential_scans + table.index_scans
    often = table.sequential_scans >= max(SCANS, window / 3600 * SCANS_AN_HOUR)
    each = table.sequential_rows / table.sequential_scans if table.sequential_scans else 0
    if table.rows >= SCANNED_ROWS and often and each >= SCANNED_ROWS and table.index_scans < INDEX_SHARE * scans:
        yield Finding(
            code="table-scanned",
            where=table.title,
            says=f"read from end to end {table.sequential_scans} times, {each:,.0f} rows each time; by an index"
            f" {table.index_scans} times",
            try_="dbscale indexes recommend --from stats, or a log, says which statements do it, and what they need",
        )


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


def _whole_values(table: Table, index: Index) -> Iterator[Finding]:
    """IX106."""
    for name in index.columns if index.method == "btree" and not index.kept else ():
        column = table.column(name)
        if column and (column.base in WHOLE or column.category in ("A", "R")):
            yield Finding(
                code="index-type",
                where=f"{table.title}.{index.name}",
                says=f"a B-tree compares the values of {name} ({column.type}) whole: it finds none by what is in it",
                try_=f"CREATE INDEX … USING {'gist' if column.category == 'R' else 'gin'} ({quote(name)})",
            )


def _few_values(table: Table, index: Index) -> Iterator[Finding]:
    """IX107, IX108: an index by one column of which a few values, or NULL, are most of what it holds."""
    column = table.column(index.columns[0]) if index.columns else None
    if column is None or len(index.columns) > 1 or index.kept or index.predicate or index.bytes < LARGE_BYTES:
        return
    values, name = column.values(table.rows), quote(column.name)
    if 0 < values <= FEW_VALUES:
        rare = min(zip(column.frequencies, column.common, strict=False), default=(1.0, ""))
        says = f"{column.name} has {values:.0f} different values: the index helps to find the rare ones only"
        where = f"{name} = '{rare[1]}'" if rare[0] <= 0.2 else "…"
    elif column.nulls >= MOSTLY_NULL:
        says = f"{column.nulls:.0%} of its entries are NULL"
        where = f"{name} IS NOT NULL"
    else:
        return
    yield Finding(
        code="index-share",
        where=f"{table.title}.{index.name}",
        says=says,
        try_=f"if no statement asks for the others, a partial one is smaller: … ({name}) WHERE {where}",
    )


def _needless_predicate(table: Table, index: Index) -> Iterator[Finding]:
    """IX109."""
    bare = re.fullmatch(r"\((\w+) IS NOT NULL\)", index.predicate)
    column = table.column(bare[1]) if bare else None
    if column and column.not_null:
        yield Finding(
            code="index-predicate",
            where=f"{table.title}.{index.name}",
            says=f"its condition is true of every row: {column.name} is NOT NULL",
            try_="build it without the condition: statements need not repeat it then",
        )


def _time_first(table: Table, index: Index) -> Iterator[Finding]:
    """IX110. Time is mostly compared by range, after which no further column narrows the search."""
    columns = [table.column(name) for name in index.columns]
    kinds = [column.base in TIMES if column else False for column in columns]
    if len(kinds) > 1 and kinds[0] and not all(kinds) and not index.kept and index.bytes >= LARGE_BYTES:
        yield Finding(
            code="index-order",
            where=f"{table.title}.{index.name}",
            says=f"it begins with a time: for a range of {index.columns[0]}, {index.columns[1]} does not narrow it",
            try_="put what is compared by = first; keep it where the time itself is compared by =",
        )


def _too_many(table: Table) -> Iterator[Finding]:
    """IX111."""
    own = [index for index in table.indexes if index.valid]
    wide = [index.name for index in own if len(index.columns) > MOST_COLUMNS and not index.kept]
    if len(own) > MOST_INDEXES:
        yield Finding(
            code="index-count",
            where=table.title,
            says=f"{len(own)} indexes: each insert, and each update that is not heap-only, writes to all of them",
            try_="dbscale indexes recommend --from stats says which are not read",
        )
    if wide:
        yield Finding(
            code="index-count",
            where=f"{table.title}: {', '.join(wide)}",
            says=f"more than {MOST_COLUMNS} key columns: the last ones seldom narrow a search",
            try_="keep what is compared; put what is only read into INCLUDE",
        )


_INDEX_RULES: tuple[_Rule, ...] = (_invalid, _whole_values, _few_values, _needless_predicate, _time_first)

__all__ = ["blocking_hot", "findings", "passed_over", "sharded"]
