"""GROUP BY as both databases understand it, and where they do not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dbscale.migrate import functions
from dbscale.migrate.comparison import order_term
from dbscale.migrate.dialect import Scope, Unsettled, compile_node
from dbscale.migrate.syntax import Call, Constant, Exists, In, Name, Node, Scalar, children
from dbscale.migrate.values import Untranslatable, Value


def group(term: Node, columns: list[tuple[str, Value]], scope: Scope, calculated: Sequence[bool]) -> Value:
    """A term of GROUP BY; `calculated` tells which columns are of an aggregate or a window function."""
    if isinstance(term, Constant) and isinstance(term.value, int) and 1 <= term.value <= len(columns):
        if calculated[term.value - 1]:
            raise Untranslatable("GROUP BY of an aggregate or a window function")
        value = columns[term.value - 1][1]
    else:
        value = compile_node(term, scope)
    if value.constant is not None or value.kind in ("json", "dynamic", "other"):
        raise Untranslatable("GROUP BY a constant, or what PostgreSQL cannot group")
    only_plain([value], "GROUP BY")
    return value


def only_plain(values: list[Value], where: str) -> None:
    """Equal values are one only where both databases call the same values equal."""
    for value in values:
        if value.kind == "text" and (value.collation not in ("", "BINARY") or value.mixed):
            raise Untranslatable(f"{where} of text with a collation, or of several storage classes")
        if value.kind in ("json", "jsonb", "dynamic", "other"):
            raise Untranslatable(f"{where} of {value.kind}")


def aggregates(node: Node | None) -> bool:
    """True when an aggregate function is called in `node`, not counting its subqueries."""
    if node is None:
        return False
    if isinstance(node, Call) and functions.is_aggregate(node):
        return True
    return any(aggregates(child) for child in children(node))


def windowed(node: Node | None) -> bool:
    """True when a window function is called in `node`, not counting its subqueries."""
    if node is None:
        return False
    if isinstance(node, Call) and node.window is not None:
        return True
    return any(windowed(child) for child in children(node))


@dataclass(frozen=True, slots=True)
class Grouping:
    """What may stand beside GROUP BY or an aggregate: SQLite takes any column, from a row of its choice."""

    groups: frozenset[str]
    own: frozenset[str]
    """The SQL of every column of FROM."""
    decided: frozenset[str]
    """Those of a table whose whole primary key is grouped by."""
    scope: Scope

    def check(self, node: Node | None) -> None:
        """Untranslatable when `node` has a column that the groups do not decide."""
        for name in self.bare(node):
            raise Untranslatable(f"{name} is neither grouped nor aggregated: SQLite takes it from any row")

    def picks(self, nodes: Sequence[Node | None], calls: set[Call], alike: frozenset[str]) -> dict[str, Value]:
        """What stands for the columns in `nodes` that are neither grouped nor aggregated, by their SQL.

        A column in `alike` is the same in all rows of a group. Others come from the row with the minimum or maximum
        where `calls`, the min() and max() of the query, are one: that is SQLite's rule. Untranslatable otherwise.
        """
        found = {}
        for name, value in (each for node in nodes for each in self.bare(node).items()):
            extreme = None
            if value.sql not in alike:
                if len(calls) != 1:
                    raise Untranslatable(f"{name} is neither grouped nor aggregated: SQLite takes it from any row")
                (extreme,) = calls
            found[value.sql] = picked(value, extreme, self.scope)
        return found

    def bare(self, node: Node | None) -> dict[str, Value]:
        """The columns in `node` that the groups do not decide, by name. Untranslatable for those in a subquery."""
        if node is None or isinstance(node, Constant) or (isinstance(node, Call) and functions.is_aggregate(node)):
            return {}
        value = compile_node(node, self.scope)
        if value.sql in self.groups or value.constant is not None:
            return {}
        free = self.own - self.groups - self.decided
        if isinstance(node, Scalar | Exists) or (isinstance(node, In) and not isinstance(node.items, tuple)):
            # Every alias is the only one of its name, so that a column is known by its text.
            if any(sql in value.sql for sql in free):
                raise Untranslatable("a subquery reads a column that is neither grouped nor aggregated")
            return {}
        if isinstance(node, Name):
            # An alias stands for a result column, which is looked at itself; an outer column is one value here.
            return {node.parts[-1]: value} if value.sql in free else {}
        return {name: each for child in children(node) for name, each in self.bare(child).items()}


def extremes(nodes: Iterable[Node | None]) -> set[Call]:
    """The min() and max() of one value that are called in `nodes`."""
    found: set[Call] = set()
    waiting = [node for node in nodes if node is not None]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Call) and functions.is_aggregate(node) and node.name in ("min", "max"):
            found.add(node)
        waiting += children(node)
    return found


def picked(value: Value, extreme: Call | None, scope: Scope) -> Value:
    """A column beside groups: of any row where all of a group have the same, else of the row with `extreme`."""
    order = ""
    if extreme is not None:
        by = compile_node(extreme.arguments[0], scope)
        if extreme.filter is not None or by.mixed:
            raise Untranslatable(f"a column beside {extreme.name}() of some rows, or of several storage classes")
        scope.unsettled.append(Unsettled(f"a column of the row with {extreme.name}()", frozenset({by.sql})))
        order = f" ORDER BY {order_term(by)}{' DESC' * (extreme.name == 'max')} NULLS LAST"
    return replace(value, sql=f"(array_agg({value.sql}{order}))[1]", atom=True, repeatable=False)
