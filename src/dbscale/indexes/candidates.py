"""Which indexes could serve a statement: what it compares, joins and sorts, as keys in the order that a B-tree wants.

Equality first, then sorting, then ranges. Nothing here decides: `proof` prices the candidates, `advise` chooses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from dbscale import query as queries
from dbscale.indexes.facts import Column, Facts, Table
from dbscale.indexes.workload import Statement
from dbscale.query import And, Compare, Condition, Literal, Or, Query, Unknown
from dbscale.schema import Index, literal, quote

WIDEST = 4
"""Key columns that a recommended index has at most."""
IN_ORDER, LARGE = 0.9, 1_000_000_000
"""A BRIN index is tried where the column's correlation and the table's bytes are at least so."""
MOST_INCLUDED, INCLUDED_BYTES = 3, 32
"""Columns that an index includes at most, and their average bytes together."""
ALL_VISIBLE = 0.8
"""The share of a table's pages without which an index-only scan goes to the table after all."""
PARTIAL_SHARE = 0.2
"""A constant condition makes a partial index worthwhile where at most this share of the rows meets it."""


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """An index that might be made."""

    schema: str
    table: str
    terms: tuple[str, ...]
    """Ready to print: `"a"`, `"b" DESC`, `lower("c")`."""
    columns: tuple[str, ...]
    """The columns of the terms, for people and for comparing."""
    method: str = "btree"
    where: str = ""
    include: tuple[str, ...] = ()

    def index(self, name: str) -> Index:
        return Index(name=name, terms=self.terms, method=self.method, where=self.where, include=self.include)

    @property
    def title(self) -> str:
        """`orders (user_id, created_at DESC)`."""
        name = self.table if self.schema == "public" else f"{self.schema}.{self.table}"
        method = "" if self.method == "btree" else f" using {self.method}"
        include = f" include ({', '.join(self.include)})" if self.include else ""
        where = f" where {self.where.replace(chr(34), '')}" if self.where else ""
        return f"{name}{method} ({', '.join(term.replace(chr(34), '') for term in self.terms)}){include}{where}"

    @property
    def width(self) -> int:
        return len(self.terms) + len(self.include)


@dataclass(slots=True)
class Need:
    """What one statement wants of one table."""

    table: Table
    equal: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    joins: list[str] = field(default_factory=list)
    sort: list[tuple[str, bool, bool]] = field(default_factory=list)
    """Columns, descending, NULLs first."""
    limited: bool = False
    groups: list[str] = field(default_factory=list)
    constants: dict[str, Literal] = field(default_factory=dict)
    """Columns compared with a constant of the statement's text."""
    prefixes: list[str] = field(default_factory=list)
    """LIKE 'abc%'."""
    parts: list[str] = field(default_factory=list)
    """LIKE '%abc%' and ILIKE."""
    contains: list[tuple[str, str]] = field(default_factory=list)
    """Columns and operators of JSON and arrays."""


def needs(query: Query, facts: Facts) -> list[Need]:
    """What a statement wants of each of its tables; an OR's arms want for themselves."""
    tables = [facts.table(table.name, table.schema) for table in query.tables]
    found = {place: Need(table) for place, table in enumerate(tables) if table}
    arms: list[Need] = []
    for block in query.blocks:
        for filter_ in block.filters:
            if filter_.source == "having":
                continue
            for condition in _parts(filter_.condition):
                if isinstance(condition, Compare):
                    _compare(condition, tables, found)
                elif isinstance(condition, Or):
                    arms += _arms(condition, tables)
        _sorting(block, tables, found)
    return [*found.values(), *arms]


def _parts(condition: Condition) -> Iterator[Condition]:
    if isinstance(condition, And):
        for part in condition.parts:
            yield from _parts(part)
    else:
        yield condition


def _arms(condition: Or, tables: list[Table | None]) -> list[Need]:
    """Each arm of an OR as a need of its own: a bitmap scan joins their indexes."""
    made: list[Need] = []
    for arm in condition.parts:
        found = {place: Need(table) for place, table in enumerate(tables) if table}
        for part in _parts(arm):
            if isinstance(part, Compare):
                _compare(part, tables, found)
        made += [need for need in found.values() if need.equal or need.ranges or need.prefixes or need.parts]
    return made


def _resolve(column: queries.Column, tables: list[Table | None]) -> tuple[int, Column] | None:
    """The table mention and the column that a name means."""
    places = [column.table] if column.table is not None else list(column.candidates)
    for place in places:
        table = tables[place]
        if table and (known := table.column(column.name)):
            return place, known
    return None


def _compare(condition: Compare, tables: list[Table | None], found: dict[int, Need]) -> None:
    resolved = _resolve(condition.column, tables)
    if resolved is None:
        return
    place, column = resolved
    need = found[place]
    value = condition.values[0] if condition.values else None
    if isinstance(value, queries.Column):
        other = _resolve(value, tables)
        if condition.op == "=" and other and other[0] != place:
            _add(need.joins, column.name)
            _add(found[other[0]].joins, other[1].name)
        return
    if condition.op in ("=", "in", "any", "is", "is null"):
        if condition.op == "in" and isinstance(value, Unknown):
            _add(need.joins, column.name)
            return
        _add(need.equal, column.name)
        if condition.op == "=" and isinstance(value, Literal):
            need.constants[column.name] = value
    elif condition.op in ("<", "<=", ">", ">="):
        _add(need.ranges, column.name)
    elif condition.op in ("like", "ilike"):
        _pattern(condition, value, column, need)
    elif condition.op in ("@>", "?", "?|", "?&", "&&", "<@", "@@"):
        need.contains.append((column.name, condition.op))


def _pattern(condition: Compare, value: object, column: Column, need: Need) -> None:
    text = value.value if isinstance(value, Literal) else None
    if not isinstance(text, str):
        _add(need.parts, column.name)
        return
    head = text.split("%", 1)[0].split("_", 1)[0]
    if condition.op == "like" and head:
        _add(need.prefixes, column.name)
    elif max((len(part) for part in text.replace("_", "%").split("%")), default=0) >= 3:
        # Fewer than three letters in a row make no trigram.
        _add(need.parts, column.name)


def _sorting(block: queries.Block, tables: list[Table | None], found: dict[int, Need]) -> None:
    resolved = [_resolve(order.column, tables) for order in block.order_by]
    places = {item[0] for item in resolved if item}
    if resolved and all(resolved) and len(places) == 1 and not block.grouped:
        need = found[places.pop()]
        need.sort = [
            (item[1].name, order.descending, order.nulls_first)
            for item, order in zip(resolved, block.order_by, strict=True)
            if item
        ]
        need.limited = block.limit is not None
    groups = [_resolve(column, tables) for column in block.group_by]
    if groups and all(groups) and len({item[0] for item in groups if item}) == 1:
        place = next(item[0] for item in groups if item)
        found[place].groups = [item[1].name for item in groups if item]


def _add(names: list[str], name: str) -> None:
    if name not in names:
        names.append(name)


def candidates(statement: Statement, facts: Facts, popular: dict[tuple[int, str], float]) -> list[Candidate]:
    """The indexes that might serve a statement; `popular` says how often each column is compared for equality."""
    found: dict[Candidate, None] = {}
    for need in needs(statement.query, facts):
        if need.table.kind in ("r", "p", "m"):
            for candidate in (*_of(need, popular), *_blocks(need)):
                found[candidate] = None
    for candidate in _expressions(statement, facts):
        found[candidate] = None
    for candidate in _covering(statement, facts, list(found)):
        found[candidate] = None
    return list(found)


def _covering(statement: Statement, facts: Facts, plain: list[Candidate]) -> Iterator[Candidate]:
    """IX205: the same indexes with the few further columns that the statement reads: it need not go to the table.

    Only where most pages are known to be visible to all: else the table is read anyway. The chooser weighs the price:
    an update of an included column cannot be heap-only.
    """
    import postgast

    query = statement.query
    table = facts.table(query.tables[0].name, query.tables[0].schema) if len(query.tables) == 1 else None
    if table is None or query.verb != "select" or not table.pages or table.visible < ALL_VISIBLE * table.pages:
        return
    parts = list(postgast.walk(postgast.parse(statement.sql)))
    if any(type(part).__name__ == "A_Star" for _, part in parts):
        return
    # count(*) has no A_Star, and * among the columns has.
    read = {part.fields[-1].string.sval for _, part in parts if type(part).__name__ == "ColumnRef"}
    columns = [column for column in table.columns if column.name in read]
    for candidate in plain:
        further = [column for column in columns if column.name not in candidate.columns]
        if candidate.method != "btree" or candidate.where or not 0 < len(further) <= MOST_INCLUDED:
            continue
        if sum(column.width or 8 for column in further) <= INCLUDED_BYTES:
            yield replace(candidate, include=tuple(column.name for column in further))


def _blocks(need: Need) -> Iterator[Candidate]:
    """BRIN for ranges over a large table that lies in the column's order."""
    for name in need.ranges:
        column = need.table.column(name)
        if column and abs(column.correlation) >= IN_ORDER and need.table.bytes >= LARGE:
            yield Candidate(need.table.schema, need.table.name, (quote(name),), (name,), method="brin")


def _expressions(statement: Statement, facts: Facts) -> Iterator[Candidate]:
    """`lower(email) = …`: an index of the expression itself, for statements on one table.

    Whether it may be indexed (its functions are IMMUTABLE) is left to the server, which refuses the candidate else.
    """
    import postgast

    query = statement.query
    table = facts.table(query.tables[0].name, query.tables[0].schema) if len(query.tables) == 1 else None
    if table is None:
        return
    for _, node in postgast.walk(postgast.parse(statement.sql)):
        if (
            type(node).__name__ != "A_Expr"
            or not node.name
            or node.name[-1].string.sval not in ("=", "<", ">", "<=", ">=")
        ):
            continue
        for side, other in ((node.lexpr, node.rexpr), (node.rexpr, node.lexpr)):
            kinds = {type(part).__name__ for _, part in postgast.walk(other)}
            if side.WhichOneof("node") in ("func_call", "a_expr") and not kinds & {"ColumnRef", "SubLink"}:
                yield from _expression(side, table)


def _expression(node: Any, table: Table) -> Iterator[Candidate]:
    """The candidate for one expression, its columns without the table's alias."""
    import postgast

    copy = type(node).FromString(node.SerializeToString())
    columns = []
    for _, part in postgast.walk(copy):
        if type(part).__name__ in ("ParamRef", "SubLink"):
            return
        if type(part).__name__ == "ColumnRef":
            columns.append(part.fields[-1].string.sval)
            del part.fields[:-1]
    if not columns or not all(table.column(name) for name in columns):
        return
    tree = postgast.parse("SELECT 1")
    tree.stmts[0].stmt.select_stmt.target_list[0].res_target.val.CopyFrom(copy)
    text = postgast.deparse(tree).removeprefix("SELECT ").strip()
    yield Candidate(table.schema, table.name, (f"({text})",), tuple(columns[:1]))


def _of(need: Need, popular: dict[tuple[int, str], float]) -> Iterator[Candidate]:
    table = need.table
    equal = sorted(need.equal, key=lambda name: (-popular.get((table.oid, name), 0), -_values(table, name), name))
    keys: list[tuple[str, ...]] = [(name,) for name in (*equal, *need.ranges, *need.joins)]
    sort = _sort_terms(need)
    if equal:
        keys.append(tuple(equal))
    for join in need.joins:
        keys += [(join, *equal), (*equal, join)]
        keys += [(join, name) for name in need.ranges]
    keys += [(*equal, name) for name in need.ranges]
    if need.groups:
        keys.append((*equal, *(name for name in need.groups if name not in equal)))
    for names in dict.fromkeys(keys):
        yield from _btree(table, names)
    if sort is not None:
        for head in ((), tuple(equal), *((join, *equal) for join in need.joins)):
            yield from _btree(table, head, tail=tuple(item for item in sort if item[0] not in head))
    yield from _partial(need, equal, sort)
    yield from _patterns(need, equal)
    yield from _contained(need)


def _values(table: Table, name: str) -> float:
    column = table.column(name)
    return column.values(table.rows) if column else 0.0


def _sort_terms(need: Need) -> list[tuple[str, str]] | None:
    """Columns and what follows them in the index; all of one direction are read backwards from a plain index."""
    if not need.sort:
        return None
    plain = {(down, first) for _, down, first in need.sort} <= {(False, False), (True, True)}
    if plain and len({down for _, down, _ in need.sort}) == 1:
        return [(name, "") for name, _, _ in need.sort]
    terms = []
    for name, down, first in need.sort:
        nulls = "" if down == first else " NULLS FIRST" if first else " NULLS LAST"
        terms.append((name, (" DESC" if down else "") + nulls))
    return terms


_NO_BTREE = frozenset(("json", "jsonb", "xml", "point", "box", "circle", "polygon", "path", "line", "lseg", "tsvector"))


def _btree(table: Table, names: tuple[str, ...], *, tail: tuple[tuple[str, str], ...] = (), where: str = "",
           ) -> Iterator[Candidate]:  # fmt: skip
    keys = [(name, "") for name in dict.fromkeys(names)] + list(tail)
    columns = [table.column(name) for name, _ in keys]
    if not keys or len(keys) > WIDEST or any(column is None or column.base in _NO_BTREE for column in columns):
        return
    # A btree entry holds at most 2704 bytes: wide text would make inserts fail.
    if any(column and column.width > 400 for column in columns):
        return
    yield Candidate(
        table.schema,
        table.name,
        tuple(quote(name) + suffix for name, suffix in keys),
        tuple(name for name, _ in keys),
        where=where,
    )


def _partial(need: Need, equal: list[str], sort: list[tuple[str, str]] | None) -> Iterator[Candidate]:
    """Indexes on the rest of the conditions, of only the rows that meet a constant one."""
    table = need.table
    for name, value in need.constants.items():
        column = table.column(name)
        if (
            column is None
            or value.value is None
            or _share(column, value) > PARTIAL_SHARE
            or column.values(table.rows) > 20
        ):
            continue
        where = _condition(column, value)
        rest = tuple(other for other in equal if other != name)
        for names in dict.fromkeys(
            [rest, *((*rest, other) for other in need.ranges), *((join,) for join in need.joins)]
        ):
            yield from _btree(table, names, where=where)
        if sort is not None:
            yield from _btree(table, rest, tail=tuple(item for item in sort if item[0] not in rest), where=where)


def _share(column: Column, value: Literal) -> float:
    text = ("t" if value.value else "f") if isinstance(value.value, bool) else str(value.value)
    for known, frequency in zip(column.common, column.frequencies, strict=False):
        if known == text:
            return frequency
    return max(0.0, 1.0 - sum(column.frequencies) - column.nulls) if column.common else 1.0


def _condition(column: Column, value: Literal) -> str:
    if isinstance(value.value, bool) and column.base == "bool":
        return quote(column.name) if value.value else f"NOT {quote(column.name)}"
    constant = literal(value.value) if isinstance(value.value, str) else str(value.value)
    return f"{quote(column.name)} = {constant}"


def _patterns(need: Need, equal: Iterable[str]) -> Iterator[Candidate]:
    table = need.table
    for name in need.prefixes:
        column = table.column(name)
        if column is None or column.category != "S":
            continue
        suffix = (
            ""
            if column.collation in ("C", "POSIX", "C.UTF-8")
            else f" {_PATTERN_CLASS.get(column.base, 'text_pattern_ops')}"
        )
        for head in ((), tuple(equal)):
            yield from _btree(table, head, tail=((name, suffix),))
    for name in need.parts:
        column = table.column(name)
        if column is not None and column.category == "S":
            yield Candidate(table.schema, table.name, (f"{quote(name)} gin_trgm_ops",), (name,), method="gin")


_PATTERN_CLASS = {"varchar": "varchar_pattern_ops", "bpchar": "bpchar_pattern_ops"}


def _contained(need: Need) -> Iterator[Candidate]:
    table = need.table
    for name, operator in need.contains:
        column = table.column(name)
        if column is None:
            continue
        if column.base == "jsonb" and operator in ("@>", "?", "?|", "?&", "@@"):
            suffix = " jsonb_path_ops" if operator in ("@>", "@@") else ""
        elif (column.category == "A" and operator in ("@>", "<@", "&&")) or (
            column.base == "tsvector" and operator == "@@"
        ):
            suffix = ""
        else:
            continue
        yield Candidate(table.schema, table.name, (quote(name) + suffix,), (name,), method="gin")


def popularity(statements: Iterable[Statement], facts: Facts) -> dict[tuple[int, str], float]:
    """How often each column is compared for equality, in calls: it decides which of several goes first in a key."""
    found: dict[tuple[int, str], float] = {}
    for statement in statements:
        for need in needs(statement.query, facts):
            for name in need.equal:
                key = (need.table.oid, name)
                found[key] = found.get(key, 0) + statement.calls
    return found


__all__ = ["WIDEST", "Candidate", "Need", "candidates", "needs", "popularity"]
