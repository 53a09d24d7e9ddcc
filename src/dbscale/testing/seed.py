"""Rows for every table, made from the catalog alone: what a migration has to be tried on is a database that is in use.

Values follow the columns' types; foreign keys take the parent's row; a check that lists its values is read. A table
whose checks ask for more stays empty, which is said; `dbscale_seed` names a SQL file with rows for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from dbscale.drivers.postgres import Connection
from dbscale.schema import columns_sql, quote
from dbscale.testing.snapshot import BOOKKEEPING

ROWS = 2
"""Two: enough for a new unique constraint on a column with a default to fail, as it would on a table in use."""

_COLUMNS = """
SELECT n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod), t.typtype::text, t.typcategory::text,
       a.attnotnull, a.atthasdef OR a.attidentity <> '', a.attgenerated <> '' OR a.attidentity = 'a',
       CASE WHEN a.atttypmod > 4 AND t.typname IN ('varchar', 'bpchar') THEN a.atttypmod - 4 END,
       (SELECT array_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
  JOIN pg_type t ON t.oid = a.atttypid
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'dbscale') AND c.relname <> ALL (%s)
   AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.objid = c.oid AND e.deptype = 'e')
 ORDER BY c.oid, a.attnum
"""
_FOREIGN = """
SELECT n.nspname, c.relname, pn.nspname, p.relname,
       (SELECT array_agg(a.attname ORDER BY k.i) FROM unnest(o.conkey) WITH ORDINALITY k (n, i)
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.n),
       (SELECT array_agg(a.attname ORDER BY k.i) FROM unnest(o.confkey) WITH ORDINALITY k (n, i)
          JOIN pg_attribute a ON a.attrelid = p.oid AND a.attnum = k.n)
  FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class p ON p.oid = o.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
 WHERE o.contype = 'f' AND o.conparentid = 0
"""
_CHECKED = """
SELECT n.nspname, c.relname, a.attname, pg_get_constraintdef(o.oid)
  FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (o.conkey)
 WHERE o.contype = 'c'
"""
_LITERAL = re.compile(r"'((?:[^']|'')*)'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    name: str
    type: str
    kind: str
    category: str
    required: bool
    has_default: bool
    generated: bool
    length: int | None
    labels: Sequence[str] | None


Table = tuple[str, str]
"""Schema and name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What rows of a database's tables have to meet."""

    tables: Mapping[Table, Sequence[Column]]
    foreign: Mapping[tuple[Table, str], tuple[Table, str]]
    """Each referring column, and the column that it refers to."""
    listed: Mapping[tuple[Table, str], Sequence[str]]
    """The constants in the checks of a column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeded:
    """What was put in: statements that can be given again, and the tables that stayed empty, with the reason."""

    inserts: Mapping[Table, Sequence[str]]
    empty: Mapping[Table, str]


def needs(connection: Connection) -> Needs:
    """Read what rows have to meet from the catalog."""
    tables: dict[Table, list[Column]] = {}
    for schema, table, *rest in connection.execute(_COLUMNS.encode(), [[*BOOKKEEPING, "dbscale_scripts"]]):
        names = ("name", "type", "kind", "category", "required", "has_default", "generated", "length", "labels")
        tables.setdefault((schema, table), []).append(Column(**dict(zip(names, rest, strict=True))))
    foreign = {}
    for schema, table, parent_schema, parent, columns, targets in connection.execute(_FOREIGN.encode()):
        for column, target in zip(columns, targets, strict=True):
            foreign[((schema, table), column)] = ((parent_schema, parent), target)
    listed: dict[tuple[Table, str], list[str]] = {}
    for schema, table, column, text in connection.execute(_CHECKED.encode()):
        listed.setdefault(((schema, table), column), []).extend(_LITERAL.findall(text))
    return Needs(tables=tables, foreign=foreign, listed=listed)


def fill(connection: Connection, *, script: str = "") -> Seeded:
    """Put rows into every table that has none, after running `script`; in one transaction each."""
    if script:
        connection.execute(script.encode())
    wanted = needs(connection)
    inserts: dict[Table, list[str]] = {}
    empty: dict[Table, str] = {}
    for table in _ordered(wanted):
        row: Any = connection.execute(f"SELECT EXISTS (SELECT FROM {quote(*table)})".encode()).fetchone()
        if row[0]:
            continue
        inserts[table] = []
        for number in range(1, ROWS + 1):
            statement = insert(wanted, table, number)
            try:
                with connection.transaction():
                    connection.execute(statement.encode())
                inserts[table].append(statement)
            except psycopg.Error as error:
                if number == 1:
                    empty[table] = error.diag.message_primary or str(error)
                break
    return Seeded(inserts=inserts, empty=empty)


def contents(connection: Connection) -> dict[str, dict[str, str]]:
    """For each table the count of its rows and, by column, a hash of its values, whatever their order."""
    found: dict[str, dict[str, str]] = {}
    for table, columns in needs(connection).tables.items():
        hashes = [f"md5(string_agg({quote(c.name)}::text, ',' ORDER BY {quote(c.name)}::text))" for c in columns]
        query = f"SELECT {', '.join(['count(*)', *hashes])} FROM {quote(*table)}"
        row: Any = connection.execute(query.encode()).fetchone()
        names = ["count(*)", *(f"{column.name}" for column in columns)]
        found[".".join(table)] = {name: str(value) for name, value in zip(names, row, strict=True)}
    return found


def insert(wanted: Needs, table: Table, number: int) -> str:
    """The statement for a table's row `number`."""
    cells = dict(_cells(wanted, table, number))
    if not cells:
        return f"INSERT INTO {quote(*table)} DEFAULT VALUES"
    return f"INSERT INTO {quote(*table)} ({columns_sql(tuple(cells))}) VALUES ({', '.join(cells.values())})"


def _cells(wanted: Needs, table: Table, number: int) -> Iterator[tuple[str, str]]:
    for column in wanted.tables[table]:
        if column.generated:
            continue
        if reference := wanted.foreign.get((table, column.name)):
            parent, target = reference
            if parent != table:
                yield (
                    column.name,
                    f"(SELECT {quote(target)} FROM {quote(*parent)} ORDER BY 1 LIMIT 1 OFFSET {number - 1})",
                )
            elif column.required:
                yield column.name, value(column, number, ())
        elif not column.has_default:
            yield column.name, value(column, number, wanted.listed.get((table, column.name), ()))


def value(column: Column, number: int, listed: Sequence[str]) -> str:
    """A constant of the column's type, another one for each `number`."""
    base = column.type.partition("(")[0].removesuffix("[]")
    if column.type.endswith("[]"):
        return "'{}'"
    if column.kind == "e" and column.labels:
        return _constant(column.labels[(number - 1) % len(column.labels)])
    if listed and column.category == "S":
        return _constant(listed[(number - 1) % len(listed)].replace("''", "'"))
    known = {
        "boolean": "true",
        "uuid": f"'00000000-0000-4000-8000-{number:012d}'",
        "json": f"'{{\"n\": {number}}}'",
        "jsonb": f"'{{\"n\": {number}}}'",
        "bytea": f"'\\x{number:02x}'",
        "inet": f"'192.0.2.{number}'",
        "cidr": f"'192.0.2.{number}/32'",
        "xml": f"'<n>{number}</n>'",
        "interval": f"'{number} days'",
        "date": f"'2024-01-{number:02d}'",
        "bit": "B'0'",
        "tsvector": f"'n{number}'",
    }
    if base in known:
        return known[base]
    if base.startswith("time"):
        return f"'2024-01-{number:02d} 12:00:00+00'" if base.startswith("timestamp") else f"'12:00:{number:02d}'"
    if column.category == "N":
        return str(number)
    if column.category == "S":
        return _constant(f"{column.name}-{number}"[-(column.length or 80) :])
    return "DEFAULT"


def _constant(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _ordered(wanted: Needs) -> list[Table]:
    """Parents before children; in a circle, as they come."""
    left = list(wanted.tables)
    done: list[Table] = []
    while left:
        ready = [
            table
            for table in left
            if all(
                parent in done or parent == table or parent not in wanted.tables
                for (child, _), (parent, _) in wanted.foreign.items()
                if child == table
            )
        ]
        done += ready or left[:1]
        left = [table for table in left if table not in done]
    return done
