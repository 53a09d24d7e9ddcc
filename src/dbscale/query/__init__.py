"""What a PostgreSQL statement does: its tables, what their columns are compared with, and whether it writes.

Parsed with PostgreSQL's own grammar, which is imported when the first statement is parsed, and cached by text. It
knows no schema, so it claims only what the text alone proves. What it cannot prove is `Unknown`, `Opaque` or a
column without a table, which callers take in the safe way: routing refuses or takes more shards, reads go to the
primary, and no index is advised.

Conditions are in negation normal form: NOT is pushed down to the comparisons, BETWEEN is two of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any
from typing import Literal as OneOf

from dbscale.errors import ConfigError

Style = OneOf["numeric", "format", "named"]
"""How placeholders are written: `$1`, psycopg's `%s` and `%(name)s`, or `:name`."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant. Text in quotes without a type takes the type of what it is compared with."""

    value: int | Decimal | str | bool | None
    type: str = ""
    """The type of a cast around it, as PostgreSQL spells it, or empty."""


@dataclass(frozen=True, slots=True)
class Parameter:
    number: int
    """From 1, as in `$1`."""
    type: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    table: int | None
    """The place in `Query.tables`; None where the text does not say which table it is of."""
    name: str
    candidates: tuple[int, ...] = ()
    """Where `table` is None: the tables of the innermost FROM that could have it. In a valid statement a bare
    name is never ambiguous, so it belongs to the one of them that is known to have such a column."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value that is not known before the server evaluates it."""

    says: str


Value = Literal | Parameter | Column | Unknown


@dataclass(frozen=True, slots=True)
class Compare:
    """`column op values`.

    `op` is an operator as written (`=`, `<`, `@>`, `~`), or one of `in`, `not in` (one value each), `any`, `not any`
    (one value, an array), `like`, `not like`, `ilike`, `not ilike`, `is null`, `is not null` (no value), `is`
    (IS NOT DISTINCT FROM). The column stands on the left, whichever way it was written.
    """

    column: Column
    op: str
    values: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True)
class And:
    """All of `parts`; without parts, true."""

    parts: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Or:
    """Any of `parts`; without parts, false."""

    parts: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Opaque:
    """A condition that is not a comparison of a plain column; it may be true for any row."""

    columns: tuple[Column, ...] = ()
    """The columns it speaks of."""


Condition = Compare | And | Or | Opaque


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One mention of a table; a table mentioned twice stands twice."""

    name: str
    schema: str = ""
    alias: str = ""
    block: int = 0
    writes: bool = False
    nullable: bool = False
    """On the side of an outer join that may be filled up with NULLs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A condition and the tables of which no other rows are needed than those for which it is true."""

    condition: Condition
    restricts: frozenset[int]
    source: OneOf["where", "on", "having"] = "where"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    column: Column
    descending: bool = False
    nulls_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One SELECT, or the part of INSERT, UPDATE or DELETE that chooses rows. `Query.blocks[0]` is the outermost."""

    parent: int | None = None
    tables: tuple[int, ...] = ()
    """The tables of its own FROM, and the target of UPDATE and DELETE; not those of subqueries."""
    filters: tuple[Filter, ...] = ()
    order_by: tuple[Order, ...] = ()
    ordered: bool = False
    """There is an ORDER BY, though perhaps by something that is no plain column."""
    group_by: tuple[Column, ...] = ()
    grouped: bool = False
    aggregates: bool = False
    windows: bool = False
    distinct: bool = False
    set_operation: bool = False
    limit: Value | None = None
    offset: Value | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Insert:
    table: int
    columns: tuple[str, ...] = ()
    """Empty: in the order of the table's columns."""
    rows: tuple[tuple[Value, ...], ...] = ()
    """Of VALUES, also of a SELECT that does nothing but name the columns of VALUES in its FROM."""
    select: int | None = None
    """The block whose rows are inserted."""
    outputs: tuple[Value, ...] | None = None
    """What that block yields in each column; None where it is not known."""
    conflict: tuple[str, ...] | None = None
    """The columns of ON CONFLICT (…); empty where it names none; None without ON CONFLICT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    sql: str
    """The statement with `$1` placeholders."""
    verb: str = "unknown"
    """select, insert, update, delete, merge, copy, truncate, explain, transaction, variable_set …"""
    tables: tuple[Table, ...] = ()
    blocks: tuple[Block, ...] = ()
    insert: Insert | None = None
    sets: tuple[tuple[str, Value], ...] = ()
    """What UPDATE and ON CONFLICT DO UPDATE assign, by column."""
    returning: bool = False
    parameters: tuple[str, ...] | None = None
    """The names of `$1`, `$2` … where placeholders have names."""
    functions: tuple[str, ...] = ()
    """The functions it calls that are not known to depend on nothing but the data: volatile ones and unknown ones."""
    reads: bool = False
    """It certainly changes nothing, takes no row locks, and does not ask about the server it runs on."""
    because: str = ""
    """Why it may not be said to read only."""
    unsure: tuple[str, ...] = ()
    """What was not understood; routing refuses such a statement."""

    def arguments(self, parameters: Sequence[Any] | Mapping[str, Any]) -> tuple[Any, ...]:
        """The values of `$1`, `$2` … in order; ConfigError where one is missing."""
        if self.parameters is None:
            if isinstance(parameters, Mapping):
                if not parameters:
                    return ()
                raise ConfigError("the statement's placeholders have no names", try_="give the values as a list")
            return tuple(parameters)
        if not isinstance(parameters, Mapping):
            raise ConfigError("the statement's placeholders have names", try_="give the values by name")
        missing = [name for name in self.parameters if name not in parameters]
        if missing:
            raise ConfigError(f"no value for {', '.join(missing)}", try_="give every placeholder a value")
        return tuple(parameters[name] for name in self.parameters)


def parse(sql: str, style: Style = "numeric") -> Query:
    """What `sql` does. Never raises for odd SQL: what is not understood stands in `Query.unsure`."""
    return _parse(sql, style) if len(sql) <= 20_000 else _parse.__wrapped__(sql, style)


@lru_cache(maxsize=4096)
def _parse(sql: str, style: Style) -> Query:
    import postgast
    from google.protobuf.message import DecodeError
    from psycopg import Error

    from dbscale.query.reader import Reader

    try:
        text, parameters = placeholders(sql, style)
        statements = postgast.parse(text).stmts
    except (postgast.PgQueryError, DecodeError, Error) as error:
        return _not_understood(sql, f"it does not parse: {error}")
    if len(statements) != 1:
        return _not_understood(text, f"{len(statements)} statements in one" if statements else "no statement")
    return Reader(text, parameters).read(statements[0].stmt)


def fingerprint(sql: str) -> str:
    """The same for statements that differ in their constants only; empty for what PostgreSQL's grammar does not take,
    such as other styles of placeholders."""
    import postgast

    try:
        return str(postgast.fingerprint(sql).hex)
    except (postgast.PgQueryError, UnicodeError):
        return ""


def _not_understood(sql: str, why: str) -> Query:
    return Query(sql=sql, because=why, unsure=(why,))


def placeholders(sql: str, style: Style) -> tuple[str, tuple[str, ...] | None]:
    """`sql` with `$1` placeholders, and their names in that order where they have names."""
    if style == "numeric":
        return sql, None
    if style == "named":
        return _named(sql)
    # psycopg's own conversion, so that what is analysed is what psycopg will send.
    from psycopg import ProgrammingError
    from psycopg._queries import _query2pg

    try:
        converted, _, order, _ = _query2pg(sql.encode(), "utf-8")
    except UnicodeDecodeError as error:  # its own message cuts a character after % in two
        raise ProgrammingError("only '%s', '%b', '%t' are allowed as placeholders") from error
    return converted.decode(), None if order is None else tuple(order)


def _named(sql: str) -> tuple[str, tuple[str, ...] | None]:
    """`:name` into `$1`, by PostgreSQL's own scanner: not in strings and comments, nor in `::` and `[1:n]`."""
    import postgast

    encoded = sql.encode()
    names: dict[str, int] = {}
    chunks: list[bytes] = []
    end = 0
    tokens = postgast.scan(sql).tokens
    for before, colon, word in zip([None, *tokens], tokens, tokens[1:], strict=False):
        text = encoded[word.start : word.end].decode()
        touches = before is not None and before.end == colon.start and re.match(rb"[\w:]", encoded[before.end - 1 :])
        if encoded[colon.start : colon.end] != b":" or word.start != colon.end or touches or not text.isidentifier():
            continue
        number = names.setdefault(text, len(names) + 1)
        chunks += [encoded[end : colon.start], b"$%d" % number]
        end = word.end
    chunks.append(encoded[end:])
    return b"".join(chunks).decode(), tuple(names) or None


def keep_rows(query: Query, rows: Iterable[int]) -> tuple[str, tuple[int, ...]]:
    """An INSERT … VALUES with only `rows` (from 0) of its list, and the old numbers of its parameters."""
    import postgast

    tree = postgast.parse(query.sql)
    values = tree.stmts[0].stmt.insert_stmt.select_stmt.select_stmt.values_lists
    kept = [values[row] for row in rows]
    copies = [type(value).FromString(value.SerializeToString()) for value in kept]
    del values[:]
    values.extend(copies)
    numbers: dict[int, int] = {}
    for _, node in postgast.walk(tree):
        if type(node).__name__ == "ParamRef":
            node.number = numbers.setdefault(node.number, len(numbers) + 1)
    return postgast.deparse(tree), tuple(numbers)
