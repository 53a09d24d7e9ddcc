"""The schema that a plan makes, compared with what the target's catalog says it has.

Expressions are compared as the server itself prints them: EXPLAIN VERBOSE of `SELECT (expected), (there)`, which
plans and runs nothing, writes both in one way. What the target has beyond the plan is a note where it decides over
writes, and left alone where it does not (an index, say); a column more is a difference, as a row more is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import psycopg

from dbscale.drivers.postgres import Connection
from dbscale.drivers.source import Reader
from dbscale.errors import Finding, SourceError
from dbscale.plan import Load
from dbscale.schema import Check, Column, ForeignKey, Index, Key, Schema, Table, quote

_ACTIONS = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}
_CONSTRAINT_KINDS = {
    "p": "primary key",
    "u": "unique constraint",
    "f": "foreign key",
    "c": "check",
    "x": "exclusion constraint",
}
_Facts = dict[str, tuple[Any, ...]]
"""Rows of the catalog by name, without the name."""
_TERM = re.compile(
    r"(?P<sql>.*?)(?: COLLATE (?P<collation>\"(?:[^\"]|\"\")+\"))?(?: ASC| (?P<desc>DESC))?"
    r"(?: NULLS (?P<nulls>FIRST|LAST))?",
    re.DOTALL,
)
_TABLE = """
SELECT c.relpersistence = 'u', c.relrowsecurity,
       ARRAY(SELECT 'the trigger ' || quote_ident(tgname) FROM pg_trigger
              WHERE tgrelid = c.oid AND NOT tgisinternal AND tgenabled <> 'D' ORDER BY tgname),
       ARRAY(SELECT 'the rule ' || quote_ident(rulename) FROM pg_rewrite
              WHERE ev_class = c.oid AND ev_enabled <> 'D' ORDER BY rulename)
  FROM pg_class c WHERE c.oid = %(relation)s::regclass"""
_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
       pg_get_expr(d.adbin, d.adrelid), coalesce(l.collname, ''),
       CASE WHEN a.attidentity <> '' THEN pg_get_serial_sequence(%(relation)s, a.attname) END
  FROM pg_attribute a
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  LEFT JOIN pg_collation l ON l.oid = a.attcollation
 WHERE a.attrelid = %(relation)s::regclass AND a.attnum > 0 AND NOT a.attisdropped"""
_CONSTRAINTS = """
SELECT k.conname, k.contype::text, k.convalidated, k.condeferrable, k.condeferred, k.confupdtype::text,
       k.confdeltype::text, p.relname, pg_get_expr(k.conbin, k.conrelid),
       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS u(n, i)
             JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n ORDER BY u.i),
       ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY AS u(n, i)
             JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.n ORDER BY u.i),
       EXISTS (SELECT FROM pg_trigger t WHERE t.tgconstraint = k.oid AND t.tgenabled = 'D')
  FROM pg_constraint k LEFT JOIN pg_class p ON p.oid = k.confrelid
 WHERE k.conrelid = %(relation)s::regclass AND k.conparentid = 0"""
_INDEXES = """
SELECT c.relname, i.indisunique, i.indisvalid, m.amname, pg_get_expr(i.indpred, i.indrelid), i.indnkeyatts,
       ARRAY(SELECT pg_get_indexdef(i.indexrelid, n, true) FROM generate_series(1, i.indnatts) AS n),
       i.indoption::int2[]::int[],
       ARRAY(SELECT coalesce(l.collname::text, '') FROM unnest(i.indcollation::oid[]) WITH ORDINALITY AS u(o, n)
             LEFT JOIN pg_collation l ON l.oid = u.o ORDER BY u.n),
       ARRAY(SELECT DISTINCT o.opcname::text FROM pg_opclass o WHERE o.oid = ANY (i.indclass::oid[]))
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
 WHERE i.indrelid = %(relation)s::regclass"""


def compare(reader: Reader, connection: Connection, schema: Schema, loads: Sequence[Load]) -> list[Finding]:
    """Every difference as a finding; none when the target is as planned. Rows of views are `verify_views`' business."""
    sources = {load.target: load.table for load in loads}
    found: list[Finding] = []
    for table in schema.tables:
        found += _Live(connection, schema.name, table).differences(reader, sources.get(table.name, ""))
    present = _relations(connection, schema.name)
    for view in schema.views:
        if view.name not in present:
            found.append(_finding("verify-view-missing", f"{schema.name}.{view.name}", "the view is not there"))
    return found


def _finding(code: str, where: str, says: str, **more: Any) -> Finding:
    return Finding(code=code, where=where, says=says, level=more.pop("level", "blocker"), **more)


def _relations(connection: Connection, schema: str) -> set[str]:
    sql = "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s"
    return {name for (name,) in connection.execute(sql, [schema])}


@dataclass(frozen=True, slots=True)
class _Live:
    """One table as it should be, and the connection to look at it as it is."""

    connection: Connection
    schema: str
    table: Table

    @property
    def relation(self) -> str:
        return quote(self.schema, self.table.name)

    @property
    def place(self) -> str:
        return f"{self.schema}.{self.table.name}"

    def differences(self, reader: Reader, source: str) -> Iterator[Finding]:
        """What differs; `source` is the source's table, empty when it is unknown."""
        if not self._rows("SELECT 1 WHERE to_regclass(%(relation)s) IS NOT NULL"):
            try_ = "was it migrated with another --schema, --identifiers, --only or --skip?"
            yield _finding("verify-table-missing", self.place, "there is no such table", try_=try_)
            return
        ((unlogged, secured, *triggers),) = self._rows(_TABLE)
        if unlogged:
            says = "it is UNLOGGED: a crash of the server empties it, and no replica has its rows"
            yield _finding("verify-unlogged", self.place, says, try_=f"ALTER TABLE {self.relation} SET LOGGED")
        if secured:
            says = "row level security is on: roles see, and change, only the rows that its policies allow"
            yield _finding("verify-row-security", self.place, says)
        columns = {row[0]: row[1:] for row in self._rows(_COLUMNS)}
        for name in sorted(columns.keys() - {column.name for column in self.table.columns}):
            yield _finding("verify-column", f"{self.place}.{name}", "the column is not of the plan")
        for column in self.table.columns:
            if column.name not in columns:
                yield _finding("verify-column", f"{self.place}.{column.name}", "the column is not there")
                continue
            yield from self._column(column, columns[column.name])
            if column.identity and (sequence := columns[column.name][6]):
                yield from self._identity(reader, column, sequence, source)
        constraints = {row[0]: row[1:] for row in self._rows(_CONSTRAINTS)}
        for key in self.table.keys:
            yield from self._key(key, constraints.get(key.name))
        for foreign in self.table.foreign_keys:
            yield from self._foreign_key(foreign, constraints.get(foreign.name))
        for check in self.table.checks:
            yield from self._check(check, constraints.get(check.name))
        indexes = {row[0]: row[1:] for row in self._rows(_INDEXES)}
        for index in self.table.indexes:
            yield from self._index(index, indexes.get(index.name))
        if added := [*chain(*triggers), *self._added(columns, constraints, indexes)]:
            says = f"beyond the plan it has {', '.join(added)}: what is written may be refused or changed by it"
            yield _finding("verify-added", self.place, says, level="note")

    def _added(self, columns: _Facts, constraints: _Facts, indexes: _Facts) -> Iterator[str]:
        """What decides over writes and is not of the plan: defaults, constraints and unique indexes."""
        table = self.table
        for column in table.columns:
            _, _, _, generated, default, *_ = columns.get(column.name, (None,) * 5)
            if default and not (generated or column.default or column.generated):
                yield f"the default of {quote(column.name)}"
        planned = {each.name for each in chain[Key | ForeignKey | Check](table.keys, table.foreign_keys, table.checks)}
        for name, constraint in constraints.items():
            if name not in planned and constraint[0] in _CONSTRAINT_KINDS:
                yield f"the {_CONSTRAINT_KINDS[constraint[0]]} {quote(name)}"
        for name in sorted(indexes.keys() - constraints.keys() - {index.name for index in table.indexes}):
            if indexes[name][0]:
                yield f"the unique index {quote(name)}"

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(sql, {"relation": self.relation}).fetchall()

    def _column(self, column: Column, live: tuple[Any, ...]) -> Iterator[Finding]:
        spelled, not_null, identity, generated, default, collation, _ = live
        where = f"{self.place}.{column.name}"
        (wanted,) = self._one("SELECT format_type(to_regtype(%s), NULL)", re.sub(r"\([^)]*\)", "", column.type))
        modifiers = re.search(r"\([^)]*\)", column.type)
        expected = _with_modifiers(wanted or column.type, modifiers[0].replace(" ", "") if modifiers else "")
        if spelled != expected:
            yield _finding("verify-column", where, f"the type is {spelled}, not {expected}")
        if not_null == column.nullable and not (not_null and column.name in self.table.primary_key):
            yield _finding("verify-column", where, "it is NOT NULL" if not_null else "it is not NOT NULL")
        if column.identity and not identity:
            yield _finding("verify-identity", where, "it does not number new rows")
        if column.collation and column.collation != collation:
            yield _finding("verify-column", where, f"the collation is {collation or 'none'}, not {column.collation}")
        if bool(column.generated) != (generated == "s"):
            yield _finding("verify-column", where, "it is generated" if generated else "it is not generated")
        elif (column.generated or column.default) and not column.identity:
            sql = column.generated or column.default
            if not self._same_sql(sql, default or "", spelled):
                name = "expression" if column.generated else "default"
                yield _finding("verify-default", where, f"the {name} is {default or 'missing'}", original=sql)

    def _identity(self, reader: Reader, column: Column, sequence: str, source: str) -> Iterator[Finding]:
        """The next number lies past every number there is, and past every one that the source has given out."""
        last, called = self._one(f"SELECT last_value, is_called FROM {sequence}")
        (greatest,) = self._one(f"SELECT max({quote(column.name)}) FROM {self.relation}")
        given = _given_out(reader, source) if source else 0
        next_ = last + 1 if called else last
        if next_ <= max(greatest or 0, given):
            yield _finding(
                "verify-identity",
                f"{self.place}.{column.name}",
                f"the next row would get {next_}, and {max(greatest or 0, given)} is given out already",
            )

    def _key(self, key: Key, live: tuple[Any, ...] | None) -> Iterator[Finding]:
        kind = "primary key" if key.primary else "unique constraint"
        where = f"{self.place}: {key.name}"
        if live is None or live[0] != ("p" if key.primary else "u"):
            yield _finding("verify-key", where, f"the {kind} ({', '.join(key.columns)}) is not there")
        elif set(live[8]) - set(key.columns) and (*key.columns, *self._partitioned_by()) == tuple(live[8]):
            says = (
                f"it is ({', '.join(live[8])}): the table has been partitioned, and its keys hold the partitions' key"
            )
            yield _finding("verify-key-wider", where, says, level="note")
        elif tuple(live[8]) != key.columns:
            yield _finding("verify-key", where, f"its columns are {', '.join(live[8])}, not {', '.join(key.columns)}")

    def _partitioned_by(self) -> tuple[str, ...]:
        """The columns that the table is partitioned by; none where it is not."""
        sql = (
            "SELECT attname FROM pg_partitioned_table, unnest(partattrs::int2[]) WITH ORDINALITY AS of (number, place)"
            " JOIN pg_attribute ON attnum = number"
            " WHERE partrelid = %(relation)s::regclass AND attrelid = partrelid ORDER BY place"
        )
        return tuple(name for (name,) in self._rows(sql))

    def _foreign_key(self, key: ForeignKey, live: tuple[Any, ...] | None) -> Iterator[Finding]:
        where = f"{self.place}: {key.name}"
        if live is None or live[0] != "f":
            yield _finding("verify-foreign-key", where, f"the foreign key to {key.parent} is not there")
            return
        _, valid, deferrable, deferred, on_update, on_delete, parent, _, columns, parent_columns, off = live
        facts = [
            ("columns", ", ".join(columns), ", ".join(key.columns)),
            ("parent", f"{parent} ({', '.join(parent_columns)})", f"{key.parent} ({', '.join(key.parent_columns)})"),
            ("ON DELETE", _ACTIONS[on_delete], key.on_delete),
            ("ON UPDATE", _ACTIONS[on_update], key.on_update),
            ("deferrable", ("DEFERRED" if deferred else "IMMEDIATE") if deferrable else "", key.deferrable),
        ]
        for name, is_, wanted in facts:
            if is_ != wanted:
                yield _finding("verify-foreign-key", where, f"{name}: {is_ or 'no'}, not {wanted or 'no'}")
        if key.valid and not valid:
            yield _finding("verify-foreign-key", where, "it is not validated: rows may break it")
        if off:
            tables = f"{self.relation} and {quote(self.schema, key.parent)}"
            try_ = (
                f"ALTER TABLE … ENABLE TRIGGER ALL, for {tables}; then drop it and add it again, so that it is checked"
            )
            yield _finding("verify-foreign-key", where, "it is not enforced: its triggers are disabled", try_=try_)

    def _check(self, check: Check, live: tuple[Any, ...] | None) -> Iterator[Finding]:
        where = f"{self.place}: {check.name}"
        if live is None or live[0] != "c":
            yield _finding("verify-check", where, "the check is not there", original=check.sql)
        elif not self._same_sql(check.sql, live[7]):
            yield _finding("verify-check", where, f"it checks {live[7]}", original=check.sql)
        elif check.valid and not live[1]:
            yield _finding("verify-check", where, "it is not validated: rows may break it")

    def _index(self, index: Index, live: tuple[Any, ...] | None) -> Iterator[Finding]:
        where = f"{self.place}: {index.name}"
        if live is None:
            yield _finding("verify-index", where, "the index is not there")
            return
        unique, valid, method, predicate, keys, terms, options, collations, classes = live
        if not valid:
            yield _finding(
                "verify-index", where, "it is not valid", try_=f"REINDEX INDEX {quote(self.schema, index.name)}"
            )
        if unique != index.unique:
            yield _finding("verify-index", where, "it is unique" if unique else "it is not unique")
        if method != index.method:
            yield _finding("verify-index", where, f"it is {method}, not {index.method}")
        if not self._same_sql(index.where, predicate or ""):
            says = f"it covers rows WHERE {predicate}" if predicate else "it covers all rows"
            yield _finding("verify-index", where, says, original=index.where)
        if keys != len(index.terms) or tuple(terms[keys:]) != tuple(_plain(name) for name in index.include):
            yield _finding("verify-index", where, f"its columns are {', '.join(terms)}")
            return
        if index.operator_class and classes != [index.operator_class]:
            says = f"its operator class is {', '.join(classes)}, not {index.operator_class}"
            yield _finding("verify-index", where, says)
        for term, is_, option, collation in zip(index.terms, terms, options, collations, strict=False):
            if not self._same_term(term, is_, option, collation):
                yield _finding("verify-index", where, f"{is_} stands where {term} should be", original=term)

    def _same_term(self, term: str, live: str, option: int, collation: str) -> bool:
        match = _TERM.fullmatch(term)
        assert match is not None  # noqa: S101 - every part but the first is optional, and that takes anything
        descending = bool(match["desc"])
        first = match["nulls"] == "FIRST" if match["nulls"] else descending
        if (descending, first) != (bool(option & 1), bool(option & 2)):
            return False
        if match["collation"] and match["collation"].strip('"') != collation:
            return False
        return self._same_sql(match["sql"], live)

    def _same_sql(self, wanted: str, live: str, cast: str = "") -> bool:
        """Whether two expressions over the table are one and the same to the server."""
        if not wanted or not live or wanted == live:
            return wanted == live
        suffix = f"::{cast}" if cast else ""
        sql = f"SELECT ({wanted}){suffix}, ({live}){suffix} FROM ONLY {self.relation}"
        try:
            with self.connection.transaction():
                (plan,) = self._one(f"EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) {sql}")
        except psycopg.Error:
            return False
        first, second = plan[0]["Plan"]["Output"]
        return bool(first == second)

    def _one(self, sql: str, *parameters: object) -> tuple[Any, ...]:
        row = self.connection.execute(sql.encode(), parameters or None).fetchone()
        assert row is not None  # noqa: S101 - none of these queries can be without a row
        return row


def _with_modifiers(spelled: str, modifiers: str) -> str:
    """`timestamp with time zone` and `(3)`: the modifiers go behind the first word of the times, else to the end."""
    if modifiers and spelled.startswith(("timestamp ", "time ")):
        head, _, rest = spelled.partition(" ")
        return f"{head}{modifiers} {rest}"
    return spelled + modifiers


def _plain(name: str) -> str:
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else quote(name)


def _given_out(reader: Reader, table: str) -> int:
    """The source's entry in sqlite_sequence."""
    try:
        found = list(reader.rows("SELECT max(seq) FROM sqlite_sequence WHERE name = ?", (table,)))
    except SourceError:
        return 0
    return found[0][0] if found and isinstance(found[0][0], int) else 0
