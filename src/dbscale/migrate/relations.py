"""What a SELECT reads and gives: the sources of its FROM, its columns, and what tells its rows apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dbscale.migrate.comparison import compare
from dbscale.migrate.dialect import Scope, Unsettled, compile_node
from dbscale.migrate.grouping import Grouping
from dbscale.migrate.keys import Equal, Rows, decided
from dbscale.migrate.names import LIMIT
from dbscale.migrate.syntax import Binary, Constant, Name, Node, Output, Source
from dbscale.migrate.values import Untranslatable, Value, ascii_lower
from dbscale.schema import quote


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table, a view or a subquery, as FROM sees it."""

    sql: str
    """What stands in FROM, without an alias."""
    columns: tuple[tuple[str, str, Value], ...]
    """The source's name, the target's name, and a value whose SQL is of no account."""
    key: frozenset[str] = frozenset()
    """The target's names of the primary key, on which PostgreSQL lets all other columns depend."""
    keys: tuple[frozenset[str], ...] = ()
    """Columns, by the target's names, that no two rows share, where NULL counts as a value like any other."""
    rowid: str = ""
    """The source's name of the column that is the rowid."""


@dataclass(frozen=True, slots=True)
class Joined:
    """One source of a FROM."""

    name: str
    """By which the query speaks of it, in lower case."""
    alias: str
    """By which the translation does."""
    relation: Relation
    values: Mapping[str, Value]
    """By the source's column in lower case."""
    hidden: frozenset[str] = frozenset()
    """Columns of USING, which `*` and bare names take from the left."""

    def rows(self) -> Rows:
        """What tells its rows apart, in the translation's SQL."""
        keys = (*self.relation.keys, *([self.relation.key] if self.relation.key else []))
        own = tuple(frozenset(quote(self.alias, name) for name in key) for key in keys)
        return Rows(frozenset(value.sql for value in self.values.values()), own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """One SELECT of a compound."""

    distinct: bool
    columns: list[tuple[str, Value]]
    rest: str
    """All that follows the result columns."""
    scope: Scope
    grouping: Grouping | None
    rows: tuple[Rows, ...]
    equals: tuple[Equal, ...]

    def sql(self, sqls: list[str] | None = None) -> str:
        """The SELECT, its columns' SQL replaced by `sqls` where they are given."""
        found = sqls or [value.sql for _, value in self.columns]
        listed = ", ".join(f"{sql} AS {quote(legal(name))}" for sql, (name, _) in zip(found, self.columns, strict=True))
        return f"SELECT {'DISTINCT ' * self.distinct}{listed}" + (f" {self.rest}" if self.rest else "")

    def settles(self, each: Unsettled) -> bool:
        """True when the order that something depends on is one order, whatever the rows."""
        if each.terms is None:
            return False
        groups = self.grouping.groups if self.grouping is not None else frozenset()
        if self.grouping is not None and each.groups and groups <= each.terms:
            return True
        return decided(each.terms if each.groups else each.terms | groups, self.rows, self.equals)

    def single(self) -> bool:
        """True when it has at most one row."""
        if self.grouping is not None and not self.grouping.groups:
            return True
        return self.settles(Unsettled("", frozenset(), groups=True))

    def keys(self) -> tuple[frozenset[int], ...]:
        """The places of columns that no two of its rows share."""
        chosen = set(range(len(self.columns)))
        if self.distinct:
            return (frozenset(chosen),)
        for place in range(len(self.columns)):
            if self._decided_by(chosen - {place}):
                chosen.discard(place)
        return (frozenset(chosen),) if self._decided_by(chosen) else ()

    def _decided_by(self, places: set[int]) -> bool:
        terms = frozenset(self.columns[place][1].sql for place in places if exact(self.columns[place][1]))
        return self.settles(Unsettled("", terms, groups=True))


def exact(value: Value) -> bool:
    """False for text that SQLite compares by a collation: it is not equal where it is called so."""
    return value.kind != "text" or value.collation in ("", "BINARY")


@dataclass(frozen=True, slots=True)
class Query:
    """A SELECT in PostgreSQL's SQL."""

    sql: str
    columns: list[tuple[str, Value]]
    keys: tuple[frozenset[int], ...] = ()
    """The places of columns that no two of its rows share."""

    def relation(self, sql: str, names: list[str]) -> Relation:
        """What FROM sees of it, with these names."""
        columns = tuple((name, name, value) for name, (_, value) in zip(names, self.columns, strict=True))
        keys = tuple(frozenset(names[place] for place in key) for key in self.keys)
        return Relation(sql=sql, columns=columns, keys=keys)


def legal(name: str) -> str:
    """A name within a view, where it has to be found again; the view's own columns are named from outside."""
    if not name or len(name.encode()) > LIMIT:
        return "?column?"
    return name


def unique(names: list[str], count: int | None = None) -> list[str]:
    """The names of the `count` columns of a subquery; Untranslatable where two are one, or one cannot be."""
    if count not in (None, len(names)):
        raise Untranslatable("WITH names another number of columns than its query has")
    low = [ascii_lower(name) for name in names]
    if len(set(low)) < len(low) or any(not name or len(name.encode()) > LIMIT for name in names):
        raise Untranslatable("the columns of a subquery need names of their own")
    return names


def expanded(outputs: tuple[Output, ...], joined: list[Joined]) -> list[Output]:
    """The result columns with every `*` written out."""
    found: list[Output] = []
    for output in outputs:
        if not output.star:
            found.append(output)
            continue
        items = [item for item in joined if not output.table or item.name == ascii_lower(output.table)]
        if not items:
            raise Untranslatable(f"there is no table {output.table or 'for *'}")
        for item in items:
            hidden = frozenset() if output.table else item.hidden
            names = [name for name, _, _ in item.relation.columns if ascii_lower(name) not in hidden]
            found += [Output(Name((item.name, name)), text=name) for name in names]
    return found


def output_name(output: Output, scope: Scope) -> str:
    """SQLite's name for a result column: the alias, the column's own, or the text of the expression."""
    if output.alias:
        return output.alias
    if isinstance(output.operand, Name) and scope.column(output.operand) is not None:
        return output.operand.parts[-1]
    return output.text


def using(source: Source, joined: list[Joined], item: Joined) -> tuple[str, Joined, list[Equal]]:
    """USING and NATURAL as ON: bare names and `*` then take the column from the left."""
    names = list(source.using)
    if source.natural:
        before = {ascii_lower(name) for each in joined for name, _, _ in each.relation.columns}
        names = [name for name, _, _ in item.relation.columns if ascii_lower(name) in before]
    if names and source.join not in ("INNER", "LEFT", "CROSS"):
        raise Untranslatable(f"{source.join} JOIN with USING")
    tests, equals = [], []
    within = frozenset(value.sql for value in item.values.values()) if source.join == "LEFT" else frozenset()
    for name in names:
        left = next((each.values[ascii_lower(name)] for each in joined if ascii_lower(name) in each.values), None)
        right = item.values.get(ascii_lower(name))
        if left is None or right is None:
            raise Untranslatable(f"USING ({name}) finds no such column")
        tests.append(compare("=", left, right).operand)
        if exact(left) and exact(right) and left.kind == right.kind:
            equals.append(Equal(left.sql, right.sql, within))
    hidden = frozenset(ascii_lower(name) for name in names)
    return " AND ".join(tests), replace(item, hidden=hidden), equals


def grouping_of(groups: list[Value], joined: list[Joined], scope: Scope) -> Grouping:
    known = frozenset(value.sql for value in groups)
    own = frozenset(value.sql for item in joined for value in item.values.values())
    whole = [item for item in joined if item.relation.key]
    free = [item for item in whole if {quote(item.alias, name) for name in item.relation.key} <= known]
    return Grouping(known, own, frozenset(value.sql for item in free for value in item.values.values()), scope)


def equalities(node: Node, scope: Scope, joined: list[Joined], join: str = "INNER") -> list[Equal]:
    """What a condition says to be equal in all rows, with which the last source is joined."""
    if join in ("RIGHT", "FULL"):
        return []
    if isinstance(node, Binary) and node.operator == "AND":
        return equalities(node.left, scope, joined, join) + equalities(node.right, scope, joined, join)
    if not isinstance(node, Binary) or node.operator != "=":
        return []
    sides = compile_node(node.left, scope), compile_node(node.right, scope)
    if not all(exact(side) and not side.mixed for side in sides) or sides[0].kind != sides[1].kind:
        return []
    own = {value.sql for item in joined for value in item.values.values()}
    names = [side.sql if side.sql in own else None for side in sides]
    free = [not each for each in names]
    for place, side in enumerate((node.left, node.right)):
        # A literal, or a column of the query around.
        fixed = isinstance(side, Constant) or (isinstance(side, Name) and names[place] is None)
        if free[place] and not fixed:
            return []
    if all(free):
        return []
    within = frozenset(value.sql for value in joined[-1].values.values()) if join == "LEFT" else frozenset()
    return [Equal(names[0] or names[1] or "", (names[1] or "") if names[0] else "", within)]
