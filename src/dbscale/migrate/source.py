"""The schema of a SQLite database, read through any `Reader`: a file's or a libSQL server's.

Pragmas are asked in their table-valued form (a libSQL server allows a read-only token no other), all tables in one
query each, so that a schema costs a handful of round trips. What pragmas do not say comes from the DDL's text.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from dbscale.drivers.source import Reader, unknown_collation
from dbscale.errors import Finding, SourceError
from dbscale.migrate import declaration
from dbscale.migrate.declaration import fold
from dbscale.migrate.model import (
    SourceCheck,
    SourceColumn,
    SourceForeignKey,
    SourceIndex,
    SourceKey,
    SourceObject,
    SourceSchema,
    SourceTable,
    SourceTerm,
)
from dbscale.schema import quote

Row = tuple[Any, ...]

_INTERNAL = re.compile(
    r"sqlite_.*|libsql_(?:wasm_func_table|vector_meta_shadow|vector_index)|_litestream_(?:seq|lock)"
    r"|_cf_(?:kv|metadata|alarm)|turso_cdc(?:_version)?|turso_sync_last_change_id|__turso_internal_.*",
    re.IGNORECASE | re.DOTALL,
)
"""Whole names: an application may well have a table libsql_notes."""
_SHADOWS = {
    "fts3": ("content", "segments", "segdir", "docsize", "stat"),
    "fts4": ("content", "segments", "segdir", "docsize", "stat"),
    "fts5": ("data", "idx", "content", "docsize", "config"),
    "rtree": ("node", "parent", "rowid"),
    "rtree_i32": ("node", "parent", "rowid"),
    "geopoly": ("node", "parent", "rowid"),
}
"""The tables that keep a virtual table's data, by module: for SQLite before 3.37, whose table_list does not tell."""

_ROWS = {
    **dict.fromkeys(("fts3", "fts4", "fts5"), "content"),
    **dict.fromkeys(("rtree", "rtree_i32", "geopoly"), "rowid"),
}
"""The shadow table with a row for each row that a virtual table keeps itself. Full-text search makes none where it has
no content of its own: https://sqlite.org/fts5.html#external_content_and_contentless_tables"""
_WITHOUT_ROWS = frozenset(("csv", "dbstat", "fts3aux", "fts4aux", "fts5vocab", "fts3tokenize", "generate_series"))
"""Modules that calculate their rows from something else."""

_VECTOR_INDEX = re.compile(r"\blibsql_vector_idx\s*\(", re.IGNORECASE)


def read_schema(reader: Reader) -> SourceSchema:
    """The schema that `reader` sees. SourceError where it cannot be read.

    Tables stand in the order in which they were created. Names are the source's own, also where another object
    refers to them in another case.
    """
    return _SchemaReader(reader).schema()


def lost(schema: SourceSchema) -> tuple[Finding, ...]:
    """A finding for each object that this SQLite cannot use: a table is a blocker, an index is missing afterwards."""
    return tuple(
        Finding(
            code="source-unreadable",
            where=each.table or each.name,
            says=f"SQLite cannot use the definition of the {'index' if each.table else 'table'} {each.name}",
            try_="mend it with the program that made it, or leave it out: --skip",
            level="behaviour" if each.table else "blocker",
            original=each.sql,
        )
        for each in schema.unreadable
    )


def bookkeeping(schema: SourceSchema) -> tuple[Finding, ...]:
    """A finding for each table that is not copied since it is the bookkeeping of a program, but SQLite's own."""
    return tuple(
        Finding(
            code="bookkeeping-skipped",
            where=each.name,
            says="it is the bookkeeping of libSQL, Turso, Litestream or Cloudflare, and is not copied",
            try_="is it the application's own? rename it in the source, then migrate",
        )
        for each in schema.skipped
        if each.kind == "internal" and not each.name.lower().startswith("sqlite_")
    )


def unknown_collations(schema: SourceSchema, title: str) -> tuple[Finding, ...]:
    """A finding for each collation that is none of SQLite's own, under the source's name."""
    names: dict[str, str] = {}
    for table in schema.tables:
        found = [column.collation for column in table.columns]
        found += [name for key in table.keys for name in key.collations]
        found += [term.collation for index in table.indexes for term in index.terms]
        names |= {name.lower(): name for name in found if name.upper() not in ("BINARY", "NOCASE", "RTRIM")}
    return tuple(unknown_collation(name, title) for name in names.values())


class _SchemaReader:
    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.master = self._rows("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_master ORDER BY rowid")
        if not all(isinstance(value, str) for row in self.master for value in row):
            raise SourceError(
                "the list of its tables is damaged: a name or a definition in sqlite_master is not text",
                where="sqlite_master",
                try_="restore a backup, or save what can be read: sqlite3 FILE .recover | sqlite3 saved.db",
                see="docs/errors.md#source-damaged",
            )
        self.sql = {(kind, name): sql for kind, name, _, sql in self.master}

    def _rows(self, sql: str) -> list[Row]:
        return list(self.reader.rows(sql))

    def schema(self) -> SourceSchema:
        kinds = self._kinds()
        skipped, unreadable = [], []
        malformed: frozenset[str] = getattr(self.reader, "malformed", frozenset())  # only a file can be
        plain = [name for name, kind in kinds.items() if kind == "table"]
        facts = _Facts(self.reader, {name: sql for (kind, name), sql in self.sql.items() if kind == "index"})
        tables = []
        for name in plain:
            sql = self.sql["table", name]
            table = _table(name, sql, facts) if name in facts.columns else None
            if table is None or (name in malformed and any(column.generated for column in table.columns)):
                unreadable.append(SourceObject(kind="unreadable", name=name, sql=sql))
            else:
                tables.append(table)
        tables = [_with_parents(table, tables) for table in tables]
        for name, kind in kinds.items():
            if kind in {"shadow", "internal"}:
                owner = _owner(name, kinds) if kind == "shadow" else ""
                skipped.append(SourceObject(kind=kind, name=name, table=owner, sql=self.sql["table", name]))
        unreadable += self._lost_indexes(tables)
        return SourceSchema(
            tables=tuple(tables),
            views=tuple(self._view(name, sql) for kind, name, _, sql in self.master if kind == "view"),
            triggers=tuple(
                SourceObject(kind="trigger", name=name, table=table, sql=sql)
                for kind, name, table, sql in self.master
                if kind == "trigger"
            ),
            virtuals=tuple(self._virtual(name) for name, kind in kinds.items() if kind == "virtual"),
            skipped=tuple(skipped),
            unreadable=tuple(unreadable),
            encoding=str(self._rows("SELECT encoding FROM pragma_encoding")[0][0]),
        )

    def _kinds(self) -> dict[str, Literal["table", "virtual", "shadow", "internal"]]:
        """What each table of sqlite_master is."""
        listed: dict[str, str] = {}
        if self.reader.library >= (3, 37, 0):
            listed = dict(self._rows("SELECT name, type FROM pragma_table_list WHERE schema = 'main'"))
        names = [(name, sql) for kind, name, _, sql in self.master if kind == "table"]
        modules = {name: fold(module) for name, sql in names if (module := declaration.parse_module(sql))}
        shadows = {
            fold(f"{name}_{end}") for name, module in modules.items() for end in _SHADOWS.get(module, ())
        } | self._vector_shadows()
        kinds: dict[str, Literal["table", "virtual", "shadow", "internal"]] = {}
        for name, _ in names:
            if name in modules:
                kinds[name] = "virtual"
            elif _INTERNAL.fullmatch(name):
                kinds[name] = "internal"
            elif listed.get(name) == "shadow" or fold(name) in shadows:
                kinds[name] = "shadow"
            else:
                kinds[name] = "table"
        return kinds

    def _vector_shadows(self) -> set[str]:
        """The tables that libSQL keeps for its vector indexes; its table_list calls them plain tables."""
        vectors = [fold(name) for kind, name, _, sql in self.master if kind == "index" and _VECTOR_INDEX.search(sql)]
        return {f"{name}_shadow" for name in vectors}

    def _view(self, name: str, sql: str) -> SourceObject:
        return SourceObject(kind="view", name=name, columns=self._columns_of(name), sql=sql)

    def _virtual(self, name: str) -> SourceObject:
        sql = self.sql["table", name]
        module = declaration.parse_module(sql)
        columns, rows = self._columns_of(name), self._rows_of(name, fold(module))
        return SourceObject(kind="virtual", name=name, module=module, columns=columns, rows=rows, sql=sql)

    def _rows_of(self, name: str, module: str) -> int | None:
        """How many rows a virtual table keeps itself; None where that is not known."""
        if module not in _ROWS:
            return 0 if module in _WITHOUT_ROWS else None
        shadow = fold(f"{name}_{_ROWS[module]}")
        found = next((table for kind, table, _, _ in self.master if kind == "table" and fold(table) == shadow), None)
        if found is None:
            return 0 if module.startswith("fts") else None
        try:
            return int(self._rows(f"SELECT count(*) FROM {quote(found)}")[0][0])
        except SourceError:
            return None

    def _columns_of(self, name: str) -> tuple[str, ...]:
        """The visible columns of a view or virtual table; none where SQLite cannot tell (a broken view, say)."""
        try:
            found = self.reader.rows("SELECT name FROM pragma_table_xinfo(?) WHERE hidden <> 1 ORDER BY cid", (name,))
            return tuple(str(column) for (column,) in found)
        except SourceError:
            return ()

    def _lost_indexes(self, tables: Iterable[SourceTable]) -> list[SourceObject]:
        """Indexes of readable tables that this SQLite could not parse."""
        known = {index.name for table in tables for index in table.indexes}
        names = {fold(table.name) for table in tables}
        return [
            SourceObject(kind="unreadable", name=name, table=table, sql=sql)
            for kind, name, table, sql in self.master
            if kind == "index" and sql and name not in known and fold(table) in names
        ]


class _Facts:
    """What the pragmas say about all plain tables, grouped by table or index."""

    def __init__(self, reader: Reader, index_sql: dict[str, str]) -> None:
        self.index_sql = index_sql
        tables = "sqlite_master AS m, {} AS p WHERE m.type = 'table' AND m.rootpage > 0"

        def ask(columns: str, pragma: str, order: str) -> dict[str, list[Row]]:
            sql = f"SELECT m.name, {columns} FROM {tables.format(pragma)} ORDER BY m.rowid, {order}"
            return _grouped(reader.rows(sql))

        self.columns = ask(
            'p.name, p.type, p."notnull", p.dflt_value, p.pk, p.hidden', "pragma_table_xinfo(m.name)", "p.cid"
        )
        self.indexes = ask('p.name, p."unique", p.origin', "pragma_index_list(m.name)", "p.seq DESC")
        self.references = ask(
            'p.id, p.seq, p."table", p."from", p."to", p.on_update, p.on_delete, p."match"',
            "pragma_foreign_key_list(m.name)",
            "p.id DESC, p.seq",
        )
        self.terms = _grouped(
            reader.rows(
                'SELECT m.name, p.cid, p.name, p."desc", p.coll'
                " FROM sqlite_master AS m, pragma_index_xinfo(m.name) AS p"
                " WHERE m.type = 'index' AND p.key = 1 ORDER BY m.rowid, p.seqno"
            )
        )
        self.sequences: dict[str, Any] = {}
        if list(reader.rows("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'")):
            found = reader.rows("SELECT name, max(seq) FROM sqlite_sequence WHERE typeof(seq) = 'integer' GROUP BY 1")
            self.sequences = {str(name): seq for name, seq in found}


def _grouped(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for name, *values in rows:
        groups[name].append(tuple(values))
    return dict(groups)


def _table(name: str, sql: str, facts: _Facts) -> SourceTable:
    declared = declaration.parse_table(sql)
    rows = facts.columns[name]
    columns = tuple(_column(row, declared) for row in rows)
    listed = facts.indexes.get(name, [])
    keys = _keys(rows, listed, facts.terms, declared)
    primary = next((key for key in keys if key.primary), None)
    alias = primary and not declared.without_rowid and not any(origin == "pk" for _, _, origin in listed)
    rowid_column = primary.columns[0] if primary and alias else ""
    taken = {fold(column.name) for column in columns}
    free = next((word for word in ("rowid", "_rowid_", "oid") if word not in taken), "")
    return SourceTable(
        name=name,
        columns=columns,
        keys=keys,
        indexes=tuple(
            _index(index, bool(unique), facts)
            for index, unique, origin in listed
            if origin == "c" and index in facts.terms
        ),
        foreign_keys=_references(facts.references.get(name, []), declared),
        checks=tuple(SourceCheck(name=check.name, sql=check.sql, column=check.column) for check in declared.checks),
        rowid_column=rowid_column,
        rowid_name="" if declared.without_rowid else free or rowid_column,
        without_rowid=declared.without_rowid,
        strict=declared.strict,
        autoincrement=declared.autoincrement,
        sequence=facts.sequences.get(name),
        sql=sql,
    )


def _column(row: Row, declared: declaration.Table) -> SourceColumn:
    name, type_, not_null, default, _, hidden = row
    text = declared.column(name)
    generated: dict[int, Literal["virtual", "stored"]] = {2: "virtual", 3: "stored"}
    return SourceColumn(
        name=name,
        declared=type_ or "",
        not_null=bool(not_null),
        not_null_conflict=text.not_null_conflict,
        default=default,
        generated=generated.get(hidden, ""),
        expression=text.expression,
        collation=_collation(text.collation),
    )


def _collation(name: str | None) -> str:
    """SQLite's own collations in upper case, others as written."""
    return (name or "BINARY").upper() if (name or "").upper() in {"", "BINARY", "NOCASE", "RTRIM"} else str(name)


def _keys(
    rows: Sequence[Row], listed: Sequence[Row], terms: dict[str, list[Row]], declared: declaration.Table
) -> tuple[SourceKey, ...]:
    """The primary key, then the UNIQUE constraints in the order of their creation."""
    names = [key for key in declared.keys if not key.primary]
    keys = []
    if primary := [row[0] for row in sorted((row for row in rows if row[4]), key=lambda row: row[4])]:
        text = next((key for key in declared.keys if key.primary), declaration.Key(columns=()))
        index = next((name for name, _, origin in listed if origin == "pk"), "")
        keys.append(
            SourceKey(
                name=text.name,
                columns=tuple(primary),
                primary=True,
                on_conflict=text.on_conflict,
                collations=_collations(terms.get(index, [])),
            )
        )
    for index, _, origin in listed:
        if origin != "u" or index not in terms:
            continue
        columns = tuple(str(term[1]) for term in terms[index])
        text = next((key for key in names if _same(key.columns, columns)), declaration.Key(columns=()))
        collations = _collations(terms[index])
        keys.append(SourceKey(name=text.name, columns=columns, on_conflict=text.on_conflict, collations=collations))
    return tuple(keys)


def _collations(terms: Sequence[Row]) -> tuple[str, ...]:
    found = tuple(_collation(term[3]) for term in terms)
    return () if all(name == "BINARY" for name in found) else found


def _same(one: Sequence[str], other: Sequence[str]) -> bool:
    return [fold(name) for name in one] == [fold(name) for name in other]


def _index(name: str, unique: bool, facts: _Facts) -> SourceIndex:
    """An index; its expressions and WHERE come from its text, whose terms stand in the pragma's order."""
    sql = facts.index_sql.get(name, "")
    declared = declaration.parse_index(sql)
    terms = []
    for place, (cid, column, descending, collation) in enumerate(facts.terms[name]):
        text = declared.terms[place].sql if place < len(declared.terms) else ""
        terms.append(
            SourceTerm(
                column=column if cid >= 0 else "",
                expression=text if cid < 0 else "",
                descending=bool(descending),
                collation=_collation(collation),
            )
        )
    return SourceIndex(name=name, terms=tuple(terms), unique=unique, where=declared.where, sql=sql)


def _references(rows: Sequence[Row], declared: declaration.Table) -> tuple[SourceForeignKey, ...]:
    """Foreign keys in the order of the text, their columns in the order of `seq`; parents are not resolved yet."""
    groups: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[0]].append(row)
    texts = list(declared.references)
    keys = []
    for group in groups.values():
        _, _, parent, _, _, on_update, on_delete, match = group[0]
        columns = tuple(str(row[3]) for row in group)
        text = next((ref for ref in texts if _same(ref.columns, columns) and _same([ref.parent], [parent])), None)
        if text:
            texts.remove(text)
        keys.append(
            SourceForeignKey(
                name=text.name if text else "",
                columns=columns,
                parent=parent,
                parent_columns=tuple(str(row[4]) for row in group if row[4] is not None),
                on_delete=on_delete,
                on_update=on_update,
                deferrable=text.deferrable if text else "",
                match=match,
            )
        )
    return tuple(keys)


def _with_parents(table: SourceTable, tables: Iterable[SourceTable]) -> SourceTable:
    """`table` with its foreign keys' parents spelled as the parents are, and implicit parent keys filled in."""
    parents = {fold(parent.name): parent for parent in tables}
    keys = []
    for key in table.foreign_keys:
        parent = parents.get(fold(key.parent))
        if parent is None:
            keys.append(dataclasses.replace(key, parent_columns=()))
            continue
        spelled = {fold(column.name): column.name for column in parent.columns}
        columns = tuple(spelled.get(fold(name), name) for name in key.parent_columns) or parent.primary_key
        keys.append(dataclasses.replace(key, parent=parent.name, parent_columns=columns))
    return dataclasses.replace(table, foreign_keys=tuple(keys))


def _owner(name: str, kinds: dict[str, Literal["table", "virtual", "shadow", "internal"]]) -> str:
    """The virtual table that a shadow table serves: the longest of whose name it is an extension."""
    owners = [other for other, kind in kinds.items() if kind == "virtual" and fold(name).startswith(fold(other) + "_")]
    return max(owners, key=len, default="")
