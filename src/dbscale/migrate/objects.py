"""Views, triggers and virtual tables: what of them can follow, and findings with the original for the rest."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from dbscale import schema as pg
from dbscale.errors import Finding
from dbscale.migrate.draft import Draft
from dbscale.migrate.grammar import parse_view
from dbscale.migrate.model import SourceObject, SourceSchema
from dbscale.migrate.relations import Relation
from dbscale.migrate.tokens import NotUnderstood
from dbscale.migrate.values import Untranslatable, Value, ascii_lower, kind_of
from dbscale.migrate.views import compile_view
from dbscale.plan import ROWS_LEFT_BEHIND, Conversion, LoadColumn

_CONVERSIONS = {
    "int": Conversion(to="bigint", integers="keep"),
    "float": Conversion(to="double precision", integers="keep", reals="keep"),
    "numeric": Conversion(to="numeric", integers="keep", reals="shortest", texts="number"),
    "text": Conversion(to="text", texts="keep"),
    "null": Conversion(to="text", texts="keep"),
    "bytea": Conversion(to="bytea", blobs="keep"),
    "bool": Conversion(to="boolean", integers="bool", texts="bool"),
    "date": Conversion(to="date", texts="iso"),
    "time": Conversion(to="time", texts="iso"),
    "timestamp": Conversion(to="timestamp", texts="iso"),
    "timestamptz": Conversion(to="timestamptz", texts="iso"),
}
"""How a calculated column of a view reads, by its kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewColumns:
    """One view, for comparing its rows on both sides."""

    source: str
    target: str
    columns: tuple[LoadColumn, ...]
    unsettled: tuple[str, ...] = ()
    """What in it depends on which of several rows comes first, and leaves that open."""


@dataclass(slots=True)
class _Views:
    draft: Draft
    tables: Mapping[str, pg.Table]
    """By the source's name in lower case."""
    wanted: Mapping[str, SourceObject]
    """The same."""
    made: dict[str, tuple[pg.View, list[tuple[str, Value]]]]
    """In the order in which they can be created."""
    failed: dict[str, str]
    columns: list[ViewColumns]
    unsettled: dict[str, tuple[str, ...]]
    """By the target's quoted name."""
    keys: dict[str, tuple[frozenset[int], ...]]
    """The places of columns that no two rows of a view share."""

    def relation(self, name: str) -> Relation:
        low = ascii_lower(name)
        if low in self.tables:
            return self.table(low)
        view = self.wanted.get(low)
        if view is None:
            raise Untranslatable(f"{name} is not among the tables and views of the target")
        if low not in self.made:
            if low in self.failed:
                raise Untranslatable(f"it reads {name}, which is left out")
            self.make(view)
        if low not in self.made:
            raise Untranslatable(f"it reads {name}, which is left out")
        made, columns = self.made[low]
        found = tuple((column, given, value) for (column, value), given in zip(columns, made.columns, strict=True))
        keys = tuple(frozenset(made.columns[place] for place in key) for key in self.keys.get(low, ()))
        return Relation(sql=pg.quote(self.draft.schema_name, made.name), columns=found, keys=keys)

    def table(self, low: str) -> Relation:
        source = self.draft.source.table(low)
        target = self.tables[low]
        values = self.draft.values(source)
        columns = tuple((name, self.draft.names.column(source.name, name), value) for name, value in values.items())
        key = frozenset(target.primary_key)
        sql = pg.quote(self.draft.schema_name, target.name)
        return Relation(sql=sql, columns=columns, key=key, keys=_unique(target), rowid=source.rowid_column)

    def make(self, view: SourceObject) -> None:
        low = ascii_lower(view.name)
        self.failed[low] = "it reads itself"
        reads = set()

        def relation(name: str) -> Relation:
            found = self.relation(name)
            reads.add(found.sql)
            return found

        try:
            names, select = parse_view(view.sql)
            query, unsettled = compile_view(select, relation)
            columns = query.columns
            spelled = view.columns or names or tuple(name for name, _ in columns)
            if len(spelled) != len(columns):
                raise Untranslatable("its columns are not those that SQLite finds")
        except (Untranslatable, NotUnderstood, RecursionError) as error:
            self.failed[low] = str(error) or "it is nested too deeply"
            self.draft.note(
                "view-left-out",
                view.name,
                f"the view is left out: {self.failed[low]}",
                try_="create its counterpart in PostgreSQL by hand",
                level="behaviour",
                original=view.sql,
            )
            return
        del self.failed[low]
        given = tuple(self.draft.names.column(view.name, name) for name in spelled)
        name = self.draft.names.table(view.name)
        named = [(column, value) for column, (_, value) in zip(spelled, columns, strict=True)]
        self.keys[low] = query.keys
        self.made[low] = (pg.View(name=name, sql=query.sql, columns=given, reads=frozenset(reads)), named)
        loads = tuple(
            LoadColumn(source=column, target=target, conversion=_conversion(value))
            for (column, value), target in zip(named, given, strict=True)
        )
        lent = tuple(each for place in reads for each in self.unsettled.get(place, ()))
        unsettled = tuple(dict.fromkeys(unsettled + lent))
        self.unsettled[pg.quote(self.draft.schema_name, name)] = unsettled
        self.columns.append(ViewColumns(source=view.name, target=name, columns=loads, unsettled=unsettled))
        if unsettled:
            self.draft.note(
                "view-order-open",
                view.name,
                f"the view leaves open which row comes first: {'; '.join(unsettled)}. Each database may take another",
                try_="end the ORDER BY with columns that no two rows share, such as the primary key",
                level="behaviour",
                original=view.sql,
            )


def views(
    draft: Draft, wanted: list[SourceObject], tables: Mapping[str, pg.Table]
) -> tuple[tuple[pg.View, ...], tuple[ViewColumns, ...]]:
    """The views that PostgreSQL can have, each after those that it reads; `tables` by the source's names."""
    found = _Views(
        draft,
        {ascii_lower(name): table for name, table in tables.items()},
        {ascii_lower(view.name): view for view in wanted},
        {},
        {},
        [],
        {},
        {},
    )
    for view in wanted:
        if ascii_lower(view.name) not in found.made and ascii_lower(view.name) not in found.failed:
            found.make(view)
    return tuple(view for view, _ in found.made.values()), tuple(found.columns)


def _unique(table: pg.Table) -> tuple[frozenset[str], ...]:
    """The columns of keys and unique indexes that hold no NULL."""
    filled = {column.name for column in table.columns if not column.nullable} | set(table.primary_key)
    plain = {pg.quote(name): name for name in filled}
    indexes = [each.terms for each in table.indexes if each.unique and not each.where and set(each.terms) <= set(plain)]
    found = [frozenset(key.columns) for key in table.keys if filled.issuperset(key.columns)]
    return (*found, *(frozenset(plain[term] for term in terms) for terms in indexes))


def _conversion(value: Value) -> Conversion:
    if value.conversion is not None and kind_of(value.conversion.to) == value.kind:
        return value.conversion
    return _CONVERSIONS.get(value.kind, Conversion(to="text", texts="keep"))


_COUNTERPARTS = {
    "fts": "a generated tsvector column with a GIN index: to_tsvector(…) @@ websearch_to_tsquery(…)",
    "rtree": "a box or PostGIS geometry column with a GiST index",
    "geopoly": "a polygon or PostGIS geometry column with a GiST index",
    "spellfix1": "the extension pg_trgm, or fuzzystrmatch",
    "vec0": "the extension pgvector: a vector column with an HNSW index",
    "csv": "the extension file_fdw",
    "dbstat": "pg_class and pg_total_relation_size()",
    "json": "jsonb_each() and jsonb_array_elements()",
}
_TRIGGERS = (
    (r"\braise\s*\(", "a function in PL/pgSQL with RAISE EXCEPTION, or a CHECK"),
    (r"\binstead\s+of\b", "an INSTEAD OF trigger with a function in PL/pgSQL"),
    (
        r"(current_timestamp|datetime\s*\(|strftime\s*\(|unixepoch\s*\()",
        "a BEFORE UPDATE trigger that sets NEW's column",
    ),
    (r"insert\s+into\s+\S*fts|\(\s*'delete'", "nothing: a generated tsvector column follows its row by itself"),
)


_NAME = r"""(?:"(?:[^"]|"")+"|`[^`]+`|\[[^\]]+\]|\w+)"""
_NOW = r"""(?:current_timestamp|datetime\s*\(\s*'now'\s*\)|strftime\s*\(\s*'%Y-%m-%d %H:%M:%S'\s*,\s*'now'\s*\))"""
_TOUCH = re.compile(
    rf"create\s+(?:temp(?:orary)?\s+)?trigger\s+(?:if\s+not\s+exists\s+)?{_NAME}\s+after\s+update\s+on\s+({_NAME})"
    rf"(?:\s+for\s+each\s+row)?\s+begin\s+update\s+({_NAME})\s+set\s+({_NAME})\s*=\s*\(?\s*{_NOW}\s*\)?"
    rf"\s+where\s+({_NAME})\s*=\s*(?:new|old)\s*\.\s*({_NAME})\s*;\s*end\s*;?\s*",
    re.IGNORECASE,
)
"""A trigger that writes down when its own row was changed."""
_TIMES = {
    "timestamptz": "now()",
    "timestamp": "now() AT TIME ZONE 'utc'",
    "text": "to_char(now() AT TIME ZONE 'utc', 'YYYY-MM-DD HH24:MI:SS')",
}


def _drafted(draft: Draft, trigger: SourceObject) -> str:
    """PL/pgSQL for a trigger that keeps the time of a row's last change; empty for any other."""
    match = _TOUCH.fullmatch(trigger.sql.strip())
    if not match:
        return ""
    on, updated, column, key, same = (ascii_lower(name.strip('"`[]')) for name in match.groups())
    table = next((each for each in draft.source.tables if ascii_lower(each.name) == on), None)
    if (
        table is None
        or updated != on
        or key != same
        or column not in {ascii_lower(each.name) for each in table.columns}
    ):
        return ""
    if key not in ("rowid", ascii_lower(table.rowid_column)):
        return ""
    name = table.column(column).name
    now = _TIMES.get(draft.choice(table.name, name).type)
    if not now:
        return ""
    place = pg.quote(draft.schema_name, draft.names.table(table.name))
    function = pg.quote(draft.schema_name, trigger.name)
    return (
        f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN NEW.{pg.quote(draft.names.column(table.name, name))} := {now}; RETURN NEW; END $$;"
        f" CREATE TRIGGER {pg.quote(trigger.name)} BEFORE UPDATE ON {place}"
        f" FOR EACH ROW EXECUTE FUNCTION {function}();"
    )


def left_out(draft: Draft) -> None:
    """Findings for triggers, virtual tables and whatever else is not carried over, each with its original."""
    for trigger in draft.source.triggers:
        counterpart = next(
            (text for pattern, text in _TRIGGERS if re.search(pattern, trigger.sql, re.IGNORECASE)),
            "a trigger with a function in PL/pgSQL",
        )
        draft.note(
            "trigger-left-out",
            f"{trigger.table}.{trigger.name}",
            "triggers are not carried over: what it did for new rows no longer happens",
            try_=_drafted(draft, trigger) or f"write its counterpart: {counterpart}",
            level="behaviour",
            original=trigger.sql,
        )
    draft.findings += virtual_tables(draft.source)


def virtual_tables(source: SourceSchema) -> tuple[Finding, ...]:
    """A finding for each virtual table: one of the level `data` where rows stay behind that it alone may have."""
    return tuple(_virtual(each) for each in source.virtuals)


def _virtual(table: SourceObject) -> Finding:
    module = table.module.lower()
    counterpart = next((text for name, text in _COUNTERPARTS.items() if module.startswith(name)), "")
    instead = f"PostgreSQL has {counterpart}" if counterpart else "rebuild it in PostgreSQL from the tables it reads"
    says = f"a virtual table of the module {table.module or '(unknown)'} is not carried over"
    if not table.rows:
        says += "" if table.rows == 0 else "; whether it has rows that no other table has is not known"
        return Finding(
            code="virtual-table-left-out",
            where=table.name,
            says=says,
            try_=instead,
            level="behaviour",
            original=table.sql,
        )
    skip = f"--skip {shlex.quote(table.name)}"
    terms = "rowid, *" if module.startswith("fts") else "*"
    plain = f"CREATE TABLE {pg.quote(f'{table.name}_rows')} AS SELECT {terms} FROM {pg.quote(table.name)}"
    return Finding(
        code=ROWS_LEFT_BEHIND,
        where=table.name,
        says=f"{says}: {table.rows} rows are left behind, and no other table need have them",
        try_=f"{skip} where it can be rebuilt from other tables; else make a plain table of them in the source first: "
        f"{plain}, then {skip}. {instead}",
        level="data",
        original=table.sql,
    )
