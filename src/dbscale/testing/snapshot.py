"""All there is in a database's catalog, as data: two databases with equal snapshots have the same schema.

What Alembic's autogenerate does not see is here as well: enums, domains, functions, triggers, views, policies, checks'
texts, index definitions, sequences, partitions, comments, and what is NOT VALID or invalid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from dbscale.drivers.postgres import Connection

Snapshot = Mapping[tuple[str, str], str]
"""The definition of each object, by its kind and name: `("column", "public.users.email")`: `text NOT NULL`."""

BOOKKEEPING = ("alembic_version",)
"""Tables of the tools themselves, which are no part of the application's schema."""

_SCHEMAS = (
    "n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'dbscale')"
    " AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = '{classid}'::regclass AND e.objid = {oid}"
    " AND e.deptype = 'e')"
)
_RELATION = "format('%s.%s', n.nspname, c.relname)"
_OF_CLASS = (
    "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace {join} WHERE "
    + _SCHEMAS.format(classid="pg_class", oid="c.oid")
    + " AND {where}"
)


def _classes(name: str, definition: str, *, where: str, join: str = "") -> str:
    return f"SELECT {name}, {definition} " + _OF_CLASS.format(join=join, where=where)


_QUERIES: Mapping[str, str] = {
    "schema": "SELECT n.nspname, '' FROM pg_namespace n WHERE " + _SCHEMAS.format(classid="pg_namespace", oid="n.oid"),
    "extension": "SELECT extname, '' FROM pg_extension WHERE extname <> 'plpgsql'",
    "table": _classes(
        _RELATION,
        "concat_ws(' ', CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED' END,"
        " 'PARTITION BY ' || pg_get_partkeydef(c.oid), pg_get_expr(c.relpartbound, c.oid),"
        " CASE WHEN c.relrowsecurity THEN 'ROW SECURITY' END, 'REPLICA IDENTITY ' || nullif(c.relreplident::text, 'd'),"
        " 'WITH ' || c.reloptions::text,"
        " (SELECT 'INHERITS ' || string_agg(i.inhparent::regclass::text, ',' ORDER BY i.inhseqno)"
        "    FROM pg_inherits i WHERE i.inhrelid = c.oid))",
        where="c.relkind IN ('r', 'p', 'f')",
    ),
    "column": _classes(
        "format('%s.%s.%s', n.nspname, c.relname, a.attname)",
        "concat_ws(' ', format_type(a.atttypid, a.atttypmod), 'COLLATE ' || nullif(l.collname::text, 'default'),"
        " CASE WHEN a.attnotnull THEN 'NOT NULL' END,"
        " CASE a.attgenerated WHEN '' THEN 'DEFAULT ' ELSE 'GENERATED ' END || pg_get_expr(d.adbin, d.adrelid),"
        " 'IDENTITY ' || nullif(a.attidentity::text, ''))",
        join="JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
        " LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum"
        " LEFT JOIN pg_collation l ON l.oid = a.attcollation",
        where="c.relkind IN ('r', 'p', 'f', 'c')",
    ),
    "constraint": _classes(
        "format('%s.%s.%s', n.nspname, c.relname, o.conname)",
        "pg_get_constraintdef(o.oid)",
        join="JOIN pg_constraint o ON o.conrelid = c.oid AND o.contype <> 'n'",
        where="true",
    ),
    "index": _classes(
        _RELATION,
        "pg_get_indexdef(c.oid) || CASE WHEN i.indisvalid THEN '' ELSE ' INVALID' END",
        join="JOIN pg_index i ON i.indexrelid = c.oid",
        where="NOT EXISTS (SELECT FROM pg_constraint o WHERE o.conindid = c.oid AND o.contype IN ('p', 'u', 'x'))",
    ),
    "sequence": _classes(
        _RELATION,
        "concat_ws(' ', format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcycle)",
        join="JOIN pg_sequence s ON s.seqrelid = c.oid",
        where="true",
    ),
    "view": _classes(_RELATION, "pg_get_viewdef(c.oid)", where="c.relkind IN ('v', 'm')"),
    "trigger": _classes(
        "format('%s.%s.%s', n.nspname, c.relname, t.tgname)",
        "pg_get_triggerdef(t.oid) || ' ' || t.tgenabled::text",
        join="JOIN pg_trigger t ON t.tgrelid = c.oid AND NOT t.tgisinternal",
        where="true",
    ),
    "rule": _classes(
        "format('%s.%s.%s', n.nspname, c.relname, r.rulename)",
        "pg_get_ruledef(r.oid)",
        join="JOIN pg_rewrite r ON r.ev_class = c.oid AND r.rulename <> '_RETURN'",
        where="true",
    ),
    "policy": _classes(
        "format('%s.%s.%s', n.nspname, c.relname, p.polname)",
        "concat_ws(' ', p.polcmd, p.polpermissive, p.polroles::regrole[]::text,"
        " pg_get_expr(p.polqual, p.polrelid), 'CHECK ' || pg_get_expr(p.polwithcheck, p.polrelid))",
        join="JOIN pg_policy p ON p.polrelid = c.oid",
        where="true",
    ),
    "statistics": "SELECT format('%s.%s', n.nspname, x.stxname), pg_get_statisticsobjdef(x.oid)"
    " FROM pg_statistic_ext x JOIN pg_namespace n ON n.oid = x.stxnamespace WHERE "
    + _SCHEMAS.format(classid="pg_statistic_ext", oid="x.oid"),
    "function": "SELECT format('%s.%s(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),"
    " CASE WHEN p.prokind IN ('f', 'p') THEN pg_get_functiondef(p.oid) ELSE p.prokind::text END"
    " FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE "
    + _SCHEMAS.format(classid="pg_proc", oid="p.oid"),
    "type": "SELECT format('%s.%s', n.nspname, t.typname),"
    " CASE t.typtype WHEN 'e' THEN 'ENUM ' || (SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder)"
    " FROM pg_enum WHERE enumtypid = t.oid)"
    " WHEN 'd' THEN concat_ws(' ', 'DOMAIN', format_type(t.typbasetype, t.typtypmod),"
    " CASE WHEN t.typnotnull THEN 'NOT NULL' END, t.typdefault,"
    " (SELECT string_agg(pg_get_constraintdef(oid), ' ' ORDER BY conname) FROM pg_constraint"
    "   WHERE contypid = t.oid AND contype <> 'n'))"
    " ELSE t.typtype::text END"
    " FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid"
    " WHERE (t.typtype IN ('e', 'd', 'r') OR c.relkind = 'c') AND " + _SCHEMAS.format(classid="pg_type", oid="t.oid"),
    "comment": "SELECT pg_describe_object(d.classoid, d.objoid, d.objsubid), d.description"
    " FROM pg_description d LEFT JOIN pg_class c ON d.classoid = 'pg_class'::regclass AND c.oid = d.objoid"
    " LEFT JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE d.objoid >= 16384 AND (c.oid IS NULL OR n.nspname <> 'dbscale') AND d.classoid <> 'pg_extension'::regclass",
}

DECLARED = frozenset(
    ("schema", "table", "column", "constraint", "index", "sequence", "type", "comment", "trigger", "function", "view")
)
"""Every kind that models can declare; of the last three, SQLAlchemy's models seldom do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """An object that is not alike in two snapshots."""

    kind: str
    name: str
    first: str | None
    """Its definition; None where it is missing."""
    second: str | None

    def text(self, first: str, second: str) -> str:
        """For people; `first` and `second` name the two sides."""
        if self.first is None or self.second is None:
            there, absent = (second, first) if self.first is None else (first, second)
            definition = self.second if self.first is None else self.first
            return f"{self.kind} {self.name}: {there}, not {absent}" + (f" ({definition})" if definition else "")
        return f"{self.kind} {self.name}: {first} it is {self.first!r}, {second} {self.second!r}"


def snapshot(connection: Connection, *, leave_out: Iterable[str] = BOOKKEEPING) -> Snapshot:
    """What the catalog holds, but for the server's own objects, those of extensions, and the tables in `leave_out`."""
    skipped = {f"public.{name}" if "." not in name else name for name in leave_out}
    found: dict[tuple[str, str], str] = {}
    with connection.transaction():
        connection.execute("SET LOCAL search_path = ''")  # so that every name is printed with its schema
        for kind, query in _QUERIES.items():
            for name, definition in connection.execute(query.encode()):
                found[(kind, name)] = definition or ""
    return {key: text for key, text in found.items() if not _belongs(key, text, skipped)}


def _belongs(key: tuple[str, str], definition: str, tables: set[str]) -> bool:
    kind, name = key
    if kind == "index":
        return any(f" ON {table} " in definition for table in tables)
    if kind == "comment":
        return any(name.endswith(f"table {table}") for table in tables)
    return any(name == table or name.startswith(f"{table}.") for table in tables)


def differences(first: Snapshot, second: Snapshot) -> list[Difference]:
    """Every object that is not the same in both, without the parts of a table that is missing itself."""
    found = [
        Difference(kind=kind, name=name, first=first.get((kind, name)), second=second.get((kind, name)))
        for kind, name in sorted({*first, *second})
        if first.get((kind, name)) != second.get((kind, name))
    ]
    return list(_without_parts(found))


def _without_parts(found: list[Difference]) -> Iterator[Difference]:
    gone = {each.name for each in found if each.kind == "table" and (each.first is None or each.second is None)}
    for each in found:
        part = each.kind not in ("table", "type", "function", "view", "sequence") and any(
            each.name.startswith(f"{table}.") or f" ON {table} " in (each.first or each.second or "") for table in gone
        )
        if not part:
            yield each
