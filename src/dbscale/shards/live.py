"""What the servers are: the tables of a map as a database has them, and the map and ranges it knows of.

Everything is read in the caller's transaction, by catalog queries alone; no row of a table is read here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dbscale.drivers.postgres import Connection
from dbscale.schema import Column, quote
from dbscale.shards import file
from dbscale.shards.map import Map


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    name: str
    kind: str
    """p primary key, u unique, f foreign key, c check, x exclusion."""
    columns: tuple[str, ...]
    definition: str
    """As `pg_get_constraintdef` has it: what follows ADD CONSTRAINT name."""
    valid: bool = True
    parent: str = ""
    """The table that a foreign key refers to, `schema.table` where it is not on the search path's."""
    parent_columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    name: str
    definition: str
    """`FOR VALUES FROM (…) TO (…)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependent:
    """What hangs on a table itself and would not follow to another of its name."""

    what: str
    """For people: `the view public.large`."""
    drop: str
    """The statement that takes it away."""
    again: str = ""
    """The one that makes it again; empty where PostgreSQL does not say."""
    columns: tuple[str, ...] = ()
    """The table's columns that a foreign key refers to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveTable:
    schema: str
    name: str
    kind: str
    """`r` a table, `p` a partitioned one, `f` a foreign one, `v` a view."""
    columns: tuple[Column, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    indexes: dict[str, str] = field(default_factory=dict, hash=False)
    """Indexes that no constraint made, with their CREATE INDEX."""
    uniques: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """Those of them that are unique, with their key columns (expressions left out)."""
    partitioned_by: str = ""
    """`RANGE (created_at)`."""
    partitions: tuple[Partition, ...] = ()
    rows: float = 0
    """The planner's estimate; negative where the table was never analysed."""
    dependents: tuple[Dependent, ...] = ()
    """Triggers, views, policies, publications, and foreign keys of other tables."""
    grants: tuple[str, ...] = ()
    """The statements that give another table the same owner and rights; `%s` stands for its name."""

    @property
    def sql(self) -> str:
        """The quoted name with its schema."""
        return quote(self.schema, self.name)

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)

    def constraint(self, name: str) -> Constraint | None:
        return next((constraint for constraint in self.constraints if constraint.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    name: str
    schema: str
    last: int | None
    least: int
    greatest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """One row of `owned_ranges`."""

    map: str
    range_id: str
    shard: str
    lower: str | None
    upper: str | None
    listed: tuple[str, ...]
    epoch: int
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """One database, as far as shard maps concern it."""

    database: str
    """Its name in dbscale.toml."""
    version: int = 0
    encoding: str = ""
    collation: str = ""
    zone: str = ""
    """The time zone that a session has when it sets none."""
    tables: dict[str, LiveTable] = field(default_factory=dict)
    """By the name that the map has."""
    sequences: dict[str, Sequence] = field(default_factory=dict)
    """dbscale's own, by name."""
    epochs: dict[str, int] = field(default_factory=dict)
    maps: dict[str, Map] = field(default_factory=dict)
    owned: tuple[Owned, ...] = ()
    revision: str = ""
    """Of dbscale's own tables; empty: there are none."""
    extensions: dict[str, str] = field(default_factory=dict)
    servers: tuple[str, ...] = ()
    """Foreign servers."""
    sharded: dict[str, frozenset[str]] = field(default_factory=dict)
    """The tables of the schema `sharded`, which span all shards, with the definitions of their partitions."""
    distributed: tuple[str, ...] = ()
    """The tables that Citus distributes, by the name that the map has."""


def read(connection: Connection, database: str, names: tuple[str, ...], state_schema: str = "dbscale") -> Live:
    """The state of one database, for the tables called `names` (`table` or `schema.table`)."""
    row: Any = connection.execute(
        "SELECT current_setting('server_version_num')::int, pg_encoding_to_char(encoding), datcollate,"
        " (SELECT reset_val FROM pg_settings WHERE name = 'TimeZone') FROM pg_database"
        " WHERE datname = current_database()"
    ).fetchone()
    revision, maps, epochs, owned = _state(connection, state_schema)
    extensions: dict[str, str] = dict(connection.execute("SELECT extname, extversion FROM pg_extension").fetchall())
    distributed: tuple[str, ...] = ()
    if "citus" in extensions:
        query = "SELECT name FROM unnest(%s::text[]) name JOIN pg_dist_partition ON logicalrelid = to_regclass(name)"
        distributed = tuple(name for (name,) in connection.execute(query, [list(names)]))
    return Live(
        database=database,
        version=row[0],
        encoding=row[1],
        collation=row[2],
        zone=row[3],
        tables={name: table for name in names if (table := _table(connection, name))},
        sequences=_sequences(connection),
        epochs=epochs,
        maps=maps,
        owned=owned,
        revision=revision,
        extensions=extensions,
        distributed=distributed,
        sharded={
            name: frozenset(definitions)
            for name, definitions in connection.execute(
                "SELECT p.relname, array_agg(pg_get_expr(c.relpartbound, c.oid)) FROM pg_class p"
                " JOIN pg_inherits ON inhparent = p.oid JOIN pg_class c ON c.oid = inhrelid"
                " WHERE p.relnamespace = to_regnamespace('sharded') AND p.relkind = 'p' GROUP BY 1"
            )
        },
        servers=tuple(name for (name,) in connection.execute("SELECT srvname FROM pg_foreign_server")),
    )


def _state(connection: Connection, schema: str) -> tuple[str, dict[str, Map], dict[str, int], tuple[Owned, ...]]:
    """The revision of dbscale's tables, the maps in effect with their epochs, and the ranges owned."""
    prefix = quote(schema)
    if connection.execute("SELECT to_regclass(%s)", [f"{prefix}.alembic_version"]).fetchone() == (None,):
        return "", {}, {}, ()
    at: Any = connection.execute(f"SELECT version_num FROM {prefix}.alembic_version").fetchone()
    if connection.execute("SELECT to_regclass(%s)", [f"{prefix}.owned_ranges"]).fetchone() == (None,):
        return at[0] if at else "", {}, {}, ()
    maps, epochs = {}, {}
    for name, epoch, content in connection.execute(f"SELECT name, epoch, content FROM {prefix}.shard_maps"):
        maps[name], epochs[name] = file.restore(content), epoch
    rows = connection.execute(
        f"SELECT map, range_id, shard, lower, upper, coalesce(listed, '{{}}'), epoch, state FROM {prefix}.owned_ranges"
        " ORDER BY map, range_id"
    )
    owned = tuple(
        Owned(map=r[0], range_id=r[1], shard=r[2], lower=r[3], upper=r[4], listed=tuple(r[5]), epoch=r[6], state=r[7])
        for r in rows
    )
    return at[0] if at else "", maps, epochs, owned


def _table(connection: Connection, name: str) -> LiveTable | None:
    schema, _, table = name.rpartition(".")
    row = connection.execute(
        "SELECT c.oid, n.nspname, c.relname, c.relkind, c.reltuples, coalesce(pg_get_partkeydef(c.oid), '')"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%s)",
        [quote(schema, table) if schema else quote(table)],
    ).fetchone()
    if row is None:
        return None
    oid = row[0]
    return LiveTable(
        schema=row[1],
        name=row[2],
        kind=row[3] if isinstance(row[3], str) else row[3].decode(),
        columns=_columns(connection, oid),
        constraints=_constraints(connection, oid),
        indexes=dict(
            connection.execute(
                "SELECT i.relname, pg_get_indexdef(i.oid) FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid"
                " WHERE x.indrelid = %s AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.oid"
                " AND conrelid = x.indrelid AND contype <> 'f') ORDER BY 1",
                [oid],
            ).fetchall()
        ),
        uniques={name: tuple(found) for name, found in connection.execute(_UNIQUES, [oid])},
        partitioned_by=row[5],
        partitions=tuple(
            Partition(name=found[0], definition=found[1])
            for found in connection.execute(
                "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits h"
                " JOIN pg_class c ON c.oid = h.inhrelid WHERE h.inhparent = %s AND c.relispartition ORDER BY 1",
                [oid],
            )
        ),
        rows=row[4],
        dependents=tuple(
            Dependent(what=found[0], drop=found[1], again=found[2], columns=tuple(found[3]))
            for found in connection.execute(_DEPENDENTS, {"oid": oid})
        ),
        grants=tuple(found[0] for found in connection.execute(_GRANTS, {"oid": oid})),
    )


_UNIQUES = """
    SELECT c.relname, ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = indrelid
                            AND attnum = ANY (indkey[0:indnkeyatts - 1]) ORDER BY attnum)
      FROM pg_index JOIN pg_class c ON c.oid = indexrelid
     WHERE indrelid = %s AND indisunique AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid
           AND conrelid = indrelid AND contype <> 'f')
     ORDER BY 1"""
_DEPENDENTS = """
    SELECT 'the trigger ' || tgname, format('DROP TRIGGER %%I ON %%s', tgname, tgrelid::regclass),
           pg_get_triggerdef(oid), '{}'::text[]
      FROM pg_trigger WHERE tgrelid = %(oid)s AND NOT tgisinternal
    UNION SELECT 'the policy ' || polname, format('DROP POLICY %%I ON %%s', polname, polrelid::regclass), '', '{}'
      FROM pg_policy WHERE polrelid = %(oid)s
    UNION SELECT 'the publication ' || pubname, format('ALTER PUBLICATION %%I DROP TABLE %%s', pubname,
           prrelid::regclass), format('ALTER PUBLICATION %%I ADD TABLE %%s', pubname, prrelid::regclass), '{}'
      FROM pg_publication_rel JOIN pg_publication p ON p.oid = prpubid WHERE prrelid = %(oid)s
    UNION SELECT 'the foreign key ' || conname || ' of ' || conrelid::regclass,
           format('ALTER TABLE %%s DROP CONSTRAINT %%I', conrelid::regclass, conname),
           format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', conrelid::regclass, conname, pg_get_constraintdef(oid)),
           ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = confrelid AND attnum = ANY (confkey))
      FROM pg_constraint WHERE confrelid = %(oid)s AND contype = 'f' AND conparentid = 0
    UNION SELECT format('the %%sview %%s', kind, c.oid::regclass), format('DROP %%sVIEW %%s', upper(kind),
           c.oid::regclass), format('CREATE %%sVIEW %%s AS %%s', upper(kind), c.oid::regclass,
           rtrim(pg_get_viewdef(c.oid), ';')), '{}'
      FROM pg_depend JOIN pg_rewrite r ON r.oid = objid JOIN pg_class c ON c.oid = ev_class,
           LATERAL (SELECT CASE relkind WHEN 'm' THEN 'materialized ' ELSE '' END AS kind) AS of
     WHERE classid = 'pg_rewrite'::regclass AND refobjid = %(oid)s AND ev_class <> %(oid)s
    ORDER BY 1"""
_GRANTS = """
    SELECT format('ALTER TABLE %%%%s OWNER TO %%I', pg_get_userbyid(relowner)) FROM pg_class
        WHERE oid = %(oid)s AND relowner <> current_user::regrole
    UNION ALL SELECT format('GRANT %%s ON TABLE %%%%s TO %%s%%s', privilege_type,
            CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
            CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM pg_class, aclexplode(relacl) WHERE oid = %(oid)s AND grantee <> relowner"""


def _columns(connection: Connection, oid: int) -> tuple[Column, ...]:
    rows = connection.execute(
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull, a.attidentity <> '',"
        " CASE WHEN a.attgenerated = '' THEN coalesce(pg_get_expr(d.adbin, d.adrelid), '') ELSE '' END,"
        " CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) ELSE '' END,"
        " CASE WHEN a.attcollation <> t.typcollation THEN l.collname ELSE '' END"
        " FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
        " LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
        " LEFT JOIN pg_collation l ON l.oid = a.attcollation"
        " WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        [oid],
    )
    return tuple(
        Column(
            name=row[0], type=row[1], nullable=row[2], identity=row[3], default=row[4], generated=row[5],
            collation=row[6] or "",
        )
        for row in rows
    )  # fmt: skip


def _constraints(connection: Connection, oid: int) -> tuple[Constraint, ...]:
    names = (
        "ARRAY(SELECT attname::text FROM unnest({keys}) WITH ORDINALITY k(num, place)"
        " JOIN pg_attribute ON attrelid = {table} AND attnum = num ORDER BY place)"
    )
    rows = connection.execute(
        f"SELECT conname, contype, {names.format(keys='conkey', table='conrelid')}, pg_get_constraintdef(oid),"
        f" convalidated, CASE WHEN confrelid <> 0 THEN confrelid::regclass::text ELSE '' END,"
        f" {names.format(keys='confkey', table='confrelid')}"
        " FROM pg_constraint WHERE conrelid = %s AND contype IN ('p', 'u', 'f', 'c', 'x')"
        " AND (conparentid = 0 OR contype <> 'f') ORDER BY contype, conname",
        [oid],
    )
    return tuple(
        Constraint(
            name=row[0],
            kind=row[1] if isinstance(row[1], str) else row[1].decode(),
            columns=tuple(row[2]),
            definition=row[3],
            valid=row[4],
            parent=row[5].replace('"', ""),
            parent_columns=tuple(row[6]),
        )
        for row in rows
    )


def _sequences(connection: Connection) -> dict[str, Sequence]:
    """The sequences that give ids within one range: their names end in `_ids_…`, and their comment says dbscale."""
    rows = connection.execute(
        "SELECT s.sequencename, s.schemaname, s.last_value, s.min_value, s.max_value FROM pg_sequences s"
        " WHERE obj_description(format('%I.%I', s.schemaname, s.sequencename)::regclass, 'pg_class') LIKE 'dbscale: %'"
    )
    return {row[0]: Sequence(name=row[0], schema=row[1], last=row[2], least=row[3], greatest=row[4]) for row in rows}
