"""GROUP BY as both databases understand it, and where they do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dbscale.migrate import functions
from dbscale.migrate.dialect import Scope, compile_node
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
        if node is None or isinstance(node, Constant) or (isinstance(node, Call) and functions.is_aggregate(node)):
            return
        if isinstance(node, Scalar | Exists) or (isinstance(node, In) and not isinstance(node.items, tuple)):
            raise Untranslatable("a subquery beside an aggregate")
        value = compile_node(node, self.scope)
        if value.sql in self.groups or value.constant is not None:
            return
        if isinstance(node, Name):
            # An alias stands for a result column, which is checked itself; an outer column is one value here.
            if value.sql in self.decided or value.sql not in self.own:
                return
            raise Untranslatable(f"{node.parts[-1]} is neither grouped nor aggregated: SQLite takes it from any row")
        for child in children(node):
            self.check(child)
