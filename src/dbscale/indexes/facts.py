"""What the server knows of its tables and indexes: catalog, planner statistics, counters. Nothing is written.

`read` asks one database; `merge_counters` adds what its replicas and shards counted, so that "unused" means unused
everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from dbscale.drivers.postgres import Connection
from dbscale.schema import quote

BLOCK = 8192
"""Bytes of a page; servers built with another size are rare, and only estimates depend on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column, with what ANALYZE found out about it."""

    name: str
    number: int
    type: str
    """As PostgreSQL spells it, with its modifier."""
    base: str
    """The name of the type in pg_type (`int8`, `text`, `_text`); of a domain, its base type's."""
    category: str
    """pg_type.typcategory: N number, S text, D time, B boolean, A array, U other."""
    not_null: bool
    collation: str = ""
    """The collation's name; `C` for columns that sort by bytes."""
    width: int = 0
    """Average bytes; 0: not analysed."""
    distinct: float = 0.0
    """pg_stats.n_distinct: a count, or less than 0 for a share of the rows; 0: not known."""
    nulls: float = 0.0
    correlation: float = 0.0
    common: tuple[str, ...] = ()
    """The most common values, as text."""
    frequencies: tuple[float, ...] = ()

    def values(self, rows: float) -> float:
        """How many different values there are about; 0 where that is not known."""
        return -self.distinct * rows if self.distinct < 0 else self.distinct


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    oid: int
    name: str
    schema: str
    method: str
    definition: str
    """pg_get_indexdef."""
    columns: tuple[str, ...]
    """The key columns in order; an expression stands as the expression itself."""
    plain: bool
    """All keys are plain columns, in ascending order with the default operator class and the column's collation."""
    include: tuple[str, ...] = ()
    shape: str = ""
    """What makes two indexes of a table the same: keys, classes, collations, orders, expressions, predicate."""
    key_shapes: tuple[str, ...] = ()
    """The same for each key alone."""
    predicate: str = ""
    unique: bool = False
    primary: bool = False
    constraint: str = ""
    """The constraint that it backs."""
    referenced: bool = False
    """A foreign key of another table relies on it."""
    identity: bool = False
    """It is the table's replica identity."""
    clustered: bool = False
    valid: bool = True
    ready: bool = True
    building: bool = False
    """A session is at work on it now."""
    attached: bool = False
    """It is a part of a partitioned index."""
    partitioned: bool = False
    bytes: int = 0
    rows: float = 0.0
    scans: int = 0
    last_scan: datetime | None = None

    @property
    def kept(self) -> str:
        """Why it may never be dropped as unused or superfluous; empty where nothing speaks for it."""
        if self.primary:
            return "it is the primary key"
        if self.constraint:
            return f"it backs the constraint {self.constraint}"
        if self.identity:
            return "it is the table's replica identity"
        if self.referenced:
            return "a foreign key relies on it"
        if self.unique:
            return "it is unique: it keeps rows out, whether or not it is read"
        if self.clustered:
            return "the table is clustered by it"
        return "it belongs to a partitioned index" if self.attached else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    name: str
    columns: tuple[str, ...]
    parent: str
    """`schema.table`."""
    parent_columns: tuple[str, ...]
    on_delete: str
    """a no action, r restrict, c cascade, n set null, d set default."""
    types: tuple[tuple[str, str], ...] = ()
    """The types of each pair of columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    oid: int
    schema: str
    name: str
    kind: str
    """r table, p partitioned, m materialised view."""
    parent: str = ""
    """The partitioned table that it is a partition of, as `sql` quotes it."""
    rows: float = 0.0
    """pg_class.reltuples; 0 where it was never analysed."""
    pages: int = 0
    visible: int = 0
    """Pages of which every row is visible to all."""
    bytes: int = 0
    analysed: datetime | None = None
    replica_identity: str = "d"
    columns: tuple[Column, ...] = ()
    indexes: tuple[Index, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    inserts: int = 0
    updates: int = 0
    hot_updates: int = 0
    deletes: int = 0
    sequential_scans: int = 0
    sequential_rows: int = 0
    index_scans: int = 0
    dead: int = 0

    @property
    def title(self) -> str:
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"

    @property
    def sql(self) -> str:
        return quote(self.schema, self.name)

    @property
    def blind(self) -> bool:
        """There are pages of rows, and no ANALYZE or VACUUM has counted them: the planner guesses."""
        return self.analysed is None and not self.rows and self.bytes >= 50 * BLOCK

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    schema: str
    name: str
    column: str
    """`table.column` that owns it, or empty."""
    last: int
    limit: int
    """The smaller of its maximum and what the column's type can hold."""
    cycles: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    version: int
    """server_version_num."""
    tables: tuple[Table, ...]
    settings: dict[str, str] = field(default_factory=dict)
    extensions: dict[str, str] = field(default_factory=dict)
    """Installed ones and their versions."""
    available: frozenset[str] = frozenset()
    """Extensions that could be installed."""
    window: float = 0.0
    """Seconds over which the counters ran."""
    standby: bool = False
    replicas: int = 0
    """Standbys that stream from this server."""
    nodes: int = 1
    """On how many servers the counters were read."""
    sequences: tuple[Sequence, ...] = ()
    collations: tuple[str, ...] = ()
    """Indexes whose collation's version has changed since they were built, as `index (collation old → new)`."""

    def partitions(self, table: Table) -> list[Table]:
        return [each for each in self.tables if each.parent == table.sql]

    def leaves(self, table: Table) -> list[Table]:
        """The tables that hold its rows: itself, or the partitions at the end of each branch."""
        if table.kind != "p":
            return [table]
        return [leaf for part in self.partitions(table) for leaf in self.leaves(part)]

    def table(self, name: str, schema: str = "") -> Table | None:
        """The table a statement means: by schema where it names one, else public's first."""
        found = [table for table in self.tables if table.name == name and schema in ("", table.schema)]
        return min(found, key=lambda table: table.schema != "public") if found else None


_SKIPPED = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'"

_TABLES = f"""
SELECT c.oid::int8, n.nspname, c.relname, c.relkind::text,
       coalesce((SELECT format('"%%s"."%%s"', replace(pn.nspname, '"', '""'), replace(p.relname, '"', '""'))
                   FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
                        JOIN pg_namespace pn ON pn.oid = p.relnamespace
                  WHERE i.inhrelid = c.oid AND c.relispartition LIMIT 1), ''),
       greatest(c.reltuples, 0)::float8, c.relpages, c.relallvisible, pg_table_size(c.oid),
       greatest(s.last_analyze, s.last_autoanalyze), c.relreplident::text,
       coalesce(s.n_tup_ins, 0), coalesce(s.n_tup_upd, 0), coalesce(s.n_tup_hot_upd, 0), coalesce(s.n_tup_del, 0),
       coalesce(s.seq_scan, 0), coalesce(s.seq_tup_read, 0), coalesce(s.idx_scan, 0), coalesce(s.n_dead_tup, 0)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
 WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND {_SKIPPED} AND n.nspname <> ALL (%s)
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                       AND d.deptype = 'e')
 ORDER BY 2, 3
"""
_TABLE_FIELDS = (
    "oid", "schema", "name", "kind", "parent", "rows", "pages", "visible", "bytes", "analysed", "replica_identity",
    "inserts", "updates", "hot_updates", "deletes", "sequential_scans", "sequential_rows", "index_scans", "dead",
)  # fmt: skip

_COLUMNS = """
SELECT a.attrelid::int8, a.attname, a.attnum, format_type(a.atttypid, a.atttypmod),
       coalesce(b.typname, t.typname)::text, coalesce(b.typcategory, t.typcategory)::text, a.attnotnull,
       coalesce(CASE WHEN l.collname = 'default'
                     THEN (SELECT CASE WHEN d.datcollate IN ('C', 'POSIX') THEN 'C' ELSE 'default' END
                             FROM pg_database d WHERE d.datname = current_database())
                     ELSE l.collname END, '')::text,
       coalesce(s.avg_width, 0), coalesce(s.n_distinct, 0)::float8, coalesce(s.null_frac, 0)::float8,
       coalesce(s.correlation, 0)::float8, coalesce(s.most_common_vals::text::text[], '{}'),
       coalesce(s.most_common_freqs::float8[], '{}')
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
       JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type b ON b.oid = nullif(t.typbasetype, 0)
       LEFT JOIN pg_collation l ON l.oid = a.attcollation
       LEFT JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname
                           AND s.inherited = (c.relkind = 'p')
 WHERE a.attrelid = ANY (%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum
"""
_COLUMN_FIELDS = (
    "name", "number", "type", "base", "category", "not_null", "collation", "width", "distinct", "nulls",
    "correlation", "common", "frequencies",
)  # fmt: skip

_INDEXES = """
SELECT i.indrelid::int8, c.oid::int8, c.relname, n.nspname, m.amname, pg_get_indexdef(c.oid),
       ARRAY(SELECT CASE WHEN i.indkey[k - 1] = 0 THEN pg_get_indexdef(c.oid, k, true) ELSE a.attname::text END
               FROM generate_series(1, i.indnkeyatts) k
               LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k - 1] ORDER BY k),
       m.amname = 'btree' AND i.indexprs IS NULL AND NOT EXISTS (
           SELECT FROM generate_series(1, i.indnkeyatts) k
             JOIN pg_opclass o ON o.oid = i.indclass[k - 1]
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k - 1]
            WHERE NOT o.opcdefault OR i.indoption[k - 1] <> 0 OR i.indcollation[k - 1] <> a.attcollation),
       ARRAY(SELECT a.attname::text FROM generate_series(i.indnkeyatts + 1, i.indnatts) k
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k - 1] ORDER BY k),
       concat_ws('|', m.amname, i.indkey, i.indclass, i.indcollation, i.indoption, i.indnkeyatts,
                 pg_get_expr(i.indexprs, i.indrelid), pg_get_expr(i.indpred, i.indrelid)),
       ARRAY(SELECT concat_ws('|', m.amname, pg_get_indexdef(c.oid, k, true), i.indclass[k - 1],
                              i.indcollation[k - 1], i.indoption[k - 1]) FROM generate_series(1, i.indnkeyatts) k
              ORDER BY k),
       coalesce(pg_get_expr(i.indpred, i.indrelid), ''), i.indisunique, i.indisprimary,
       coalesce((SELECT o.conname::text FROM pg_constraint o WHERE o.conindid = c.oid AND o.conrelid = i.indrelid
                    AND o.contype IN ('p', 'u', 'x') LIMIT 1), ''),
       EXISTS (SELECT FROM pg_constraint o WHERE o.conindid = c.oid AND o.contype = 'f'),
       i.indisreplident, i.indisclustered, i.indisvalid, i.indisready,
       EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = c.oid),
       EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = c.oid), c.relkind = 'I',
       CASE WHEN c.relkind = 'I' THEN 0 ELSE pg_relation_size(c.oid) END, greatest(c.reltuples, 0)::float8,
       coalesce(s.idx_scan, 0), {last_scan}
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
       JOIN pg_am m ON m.oid = c.relam LEFT JOIN pg_stat_all_indexes s ON s.indexrelid = c.oid
 WHERE i.indrelid = ANY (%s::oid[])
 ORDER BY c.relname
"""
_INDEX_FIELDS = (
    "oid", "name", "schema", "method", "definition", "columns", "plain", "include", "shape", "key_shapes", "predicate",
    "unique", "primary", "constraint", "referenced", "identity", "clustered", "valid", "ready", "building", "attached",
    "partitioned", "bytes", "rows", "scans", "last_scan",
)  # fmt: skip

_FOREIGN_KEYS = """
SELECT o.conrelid::int8, o.conname,
       ARRAY(SELECT a.attname::text FROM unnest(o.conkey) WITH ORDINALITY k(n, place)
               JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.n ORDER BY k.place),
       n.nspname || '.' || c.relname,
       ARRAY(SELECT a.attname::text FROM unnest(o.confkey) WITH ORDINALITY k(n, place)
               JOIN pg_attribute a ON a.attrelid = o.confrelid AND a.attnum = k.n ORDER BY k.place),
       o.confdeltype::text,
       ARRAY(SELECT ARRAY[format_type(a.atttypid, a.atttypmod), format_type(b.atttypid, b.atttypmod)]
               FROM unnest(o.conkey, o.confkey) WITH ORDINALITY k(n, m, place)
               JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.n
               JOIN pg_attribute b ON b.attrelid = o.confrelid AND b.attnum = k.m ORDER BY k.place)
  FROM pg_constraint o JOIN pg_class c ON c.oid = o.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE o.contype = 'f' AND o.conparentid = 0 AND o.conrelid = ANY (%s::oid[])
 ORDER BY o.conname
"""

_SEQUENCES = f"""
SELECT n.nspname, c.relname, coalesce(t.relname || '.' || a.attname, ''), coalesce(s.last_value, 0),
       least(s.max_value, CASE a.atttypid WHEN 'int2'::regtype THEN 32767 WHEN 'int4'::regtype THEN 2147483647
                          ELSE 9223372036854775807 END), s.cycle
  FROM pg_sequences s JOIN pg_namespace n ON n.nspname = s.schemaname
       JOIN pg_class c ON c.relname = s.sequencename AND c.relnamespace = n.oid AND c.relkind = 'S'
       LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
                            AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
       LEFT JOIN pg_class t ON t.oid = d.refobjid
       LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
 WHERE {_SKIPPED} AND s.increment_by > 0
"""

# Each index with a collation whose library sorts otherwise than when the collation, or the database, was made.
_COLLATIONS = """
SELECT DISTINCT i.indexrelid::regclass::text || ' (' || l.collname || ' ' || l.collversion || ' → '
       || pg_collation_actual_version(l.oid) || ')'
  FROM pg_index i CROSS JOIN LATERAL unnest(i.indcollation) AS k(oid) JOIN pg_collation l ON l.oid = k.oid
 WHERE l.collversion <> pg_collation_actual_version(l.oid)
"""
_DATABASE_COLLATION = """
SELECT DISTINCT i.indexrelid::regclass::text || ' (' || coalesce(d.datcollate, 'default') || ' ' || d.datcollversion
       || ' → ' || pg_database_collation_actual_version(d.oid) || ')'
  FROM pg_database d, pg_index i CROSS JOIN LATERAL unnest(i.indcollation) AS k(oid)
       JOIN pg_class c ON c.oid = i.indrelid
 WHERE d.datname = current_database() AND k.oid = 'pg_catalog."default"'::regcollation AND c.oid >= 16384
       AND d.datcollversion <> pg_database_collation_actual_version(d.oid)
"""
_SETTINGS = (
    "random_page_cost", "seq_page_cost", "shared_buffers", "work_mem", "maintenance_work_mem", "effective_cache_size",
    "max_connections", "superuser_reserved_connections", "autovacuum", "fsync", "full_page_writes", "track_counts",
    "autovacuum_freeze_max_age", "wal_level", "shared_preload_libraries",
    "enable_seqscan", "enable_indexscan", "enable_bitmapscan", "synchronous_commit",
)  # fmt: skip


def read(connection: Connection, *, hidden: Iterable[str] = ("dbscale",)) -> Facts:
    """The facts of one database, but for the schemas in `hidden`. To be called in a READ ONLY transaction."""
    version = connection.info.server_version
    tables = {
        row[0]: Table(**dict(zip(_TABLE_FIELDS, row, strict=True)))
        for row in connection.execute(_TABLES, [list(hidden)])
    }
    oids = list(tables)
    columns = _by_table(connection.execute(_COLUMNS, [oids]), _COLUMN_FIELDS, Column)
    last_scan = "s.last_idx_scan" if version >= 160_000 else "NULL::timestamptz"
    indexes = _by_table(connection.execute(_INDEXES.format(last_scan=last_scan), [oids]), _INDEX_FIELDS, Index)
    names = ("name", "columns", "parent", "parent_columns", "on_delete", "types")
    keys = _by_table(connection.execute(_FOREIGN_KEYS, [oids]), names, ForeignKey)
    window, standby, replicas = _one(
        connection,
        "SELECT extract(epoch FROM now() - coalesce(s.stats_reset, pg_postmaster_start_time()))::float8,"
        " pg_is_in_recovery(), (SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming')"
        " FROM pg_stat_database s WHERE s.datname = current_database()",
    )
    stale = [row[0] for row in connection.execute(_COLLATIONS)]
    if version >= 150_000:
        stale += [row[0] for row in connection.execute(_DATABASE_COLLATION)]
    return Facts(
        version=version,
        tables=tuple(
            replace(
                table,
                columns=tuple(columns.get(oid, ())),
                indexes=tuple(indexes.get(oid, ())),
                foreign_keys=tuple(keys.get(oid, ())),
            )
            for oid, table in tables.items()
        ),
        settings=dict(
            connection.execute("SELECT name, setting FROM pg_settings WHERE name = ANY (%s)", [list(_SETTINGS)])
        ),
        extensions=dict(connection.execute("SELECT extname, extversion FROM pg_extension")),
        available=frozenset(row[0] for row in connection.execute("SELECT name FROM pg_available_extensions")),
        window=window,
        standby=standby,
        replicas=replicas,
        sequences=tuple(Sequence(
            schema=row[0], name=row[1], column=row[2], last=row[3], limit=row[4], cycles=row[5]
        ) for row in connection.execute(_SEQUENCES)),
        collations=tuple(stale),
    )  # fmt: skip


def merge_counters(primary: Facts, others: Iterable[Facts]) -> Facts:
    """`primary` with the index scans of its replicas added; the window is the shortest of them all."""
    others = list(others)
    scans: dict[tuple[str, str], int] = {}
    last: dict[tuple[str, str], datetime] = {}
    for facts in others:
        for index in (index for table in facts.tables for index in table.indexes):
            key = (index.schema, index.name)
            scans[key] = scans.get(key, 0) + index.scans
            if index.last_scan and (key not in last or index.last_scan > last[key]):
                last[key] = index.last_scan

    def merged(index: Index) -> Index:
        key = (index.schema, index.name)
        seen = [moment for moment in (index.last_scan, last.get(key)) if moment]
        return replace(index, scans=index.scans + scans.get(key, 0), last_scan=max(seen, default=None))

    return replace(
        primary,
        tables=tuple(replace(table, indexes=tuple(map(merged, table.indexes))) for table in primary.tables),
        window=min([primary.window, *(facts.window for facts in others)]),
        nodes=1 + len(others),
    )


def _by_table(rows: Iterable[Any], fields: tuple[str, ...], kind: Any) -> dict[int, list[Any]]:
    """Rows whose first value is the table's oid, as objects by table; lists become tuples."""
    found: dict[int, list[Any]] = {}
    for oid, *values in rows:
        content = {
            name: tuple(tuple(item) if isinstance(item, list) else item for item in value)
            if isinstance(value, list)
            else value
            for name, value in zip(fields, values, strict=True)
        }
        found.setdefault(oid, []).append(kind(**content))
    return found


def _one(connection: Connection, sql: str) -> Any:
    return connection.execute(sql.encode()).fetchone()


__all__ = ["BLOCK", "Column", "Facts", "ForeignKey", "Index", "Sequence", "Table", "merge_counters", "read"]
