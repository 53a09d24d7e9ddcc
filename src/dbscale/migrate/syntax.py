"""The tree of SQLite's SQL: expressions, and the SELECT statements of views. Every name is as the source has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal as OneOf


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal. `value` is None, int, float, str or bytes; `text` is a number as written."""

    value: int | float | str | bytes | None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Name:
    """A column, maybe with its table: `("t", "a")`. `maybe_text`: in double quotes, which SQLite may take as text."""

    parts: tuple[str, ...]
    maybe_text: bool = False


@dataclass(frozen=True, slots=True)
class Unary:
    operator: str
    operand: Node


@dataclass(frozen=True, slots=True)
class Binary:
    operator: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Match:
    """LIKE, GLOB, REGEXP or MATCH."""

    operator: str
    left: Node
    pattern: Node
    escape: Node | None = None
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Between:
    operand: Node
    low: Node
    high: Node
    negated: bool = False


@dataclass(frozen=True, slots=True)
class In:
    operand: Node
    items: tuple[Node, ...] | Select
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    operand: Node | None
    branches: tuple[tuple[Node, Node], ...]
    otherwise: Node | None = None


@dataclass(frozen=True, slots=True)
class Cast:
    operand: Node
    type: str


@dataclass(frozen=True, slots=True)
class Collate:
    operand: Node
    collation: str


@dataclass(frozen=True, slots=True)
class OrderTerm:
    operand: Node
    descending: bool = False
    nulls: OneOf["", "FIRST", "LAST"] = ""


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of a frame: `UNBOUNDED PRECEDING`, `PRECEDING`, `CURRENT ROW`, `FOLLOWING` or `UNBOUNDED FOLLOWING`."""

    kind: str
    offset: Node | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    unit: str
    """`ROWS`, `RANGE` or `GROUPS`."""
    start: Bound
    end: Bound
    exclude: str = ""
    """`NO OTHERS`, `CURRENT ROW`, `GROUP` or `TIES`; empty where nothing is said."""


@dataclass(frozen=True, slots=True)
class Window:
    """What stands after OVER, or under a name in a WINDOW clause."""

    base: str = ""
    """The name of the window it is, or adds to."""
    alone: bool = False
    """`OVER name`, without brackets: that window, and nothing more."""
    partition: tuple[Node, ...] = ()
    order: tuple[OrderTerm, ...] = ()
    frame: Frame | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A function's call; its name in lower case. `star` is `count(*)`."""

    name: str
    arguments: tuple[Node, ...] = ()
    distinct: bool = False
    star: bool = False
    filter: Node | None = None
    order: tuple[OrderTerm, ...] = ()
    """In which an aggregate takes its values: `group_concat(x ORDER BY y)`."""
    window: Window | None = None
    """What follows OVER."""


@dataclass(frozen=True, slots=True)
class Exists:
    select: Select


@dataclass(frozen=True, slots=True)
class Scalar:
    """A SELECT in the place of a value."""

    select: Select


@dataclass(frozen=True, slots=True)
class Output:
    """One result column. `star` is `*`, or `t.*` with the table's name."""

    operand: Node | None
    alias: str = ""
    star: bool = False
    table: str = ""
    text: str = ""
    """As written: SQLite's name for a column without an alias."""


@dataclass(frozen=True, slots=True)
class Source:
    """One table, view or subquery of FROM, and how it is joined to those before it."""

    name: str = ""
    select: Select | None = None
    alias: str = ""
    join: str = ""
    """Empty for the first, else `INNER`, `LEFT`, `RIGHT`, `FULL` or `CROSS`."""
    on: Node | None = None
    using: tuple[str, ...] = ()
    qualified: bool = False
    """Its schema is named, `main.t`, so that it is none of WITH's."""
    natural: bool = False
    """Joined by all columns whose names are on both sides."""


@dataclass(frozen=True, slots=True)
class Core:
    outputs: tuple[Output, ...]
    sources: tuple[Source, ...] = ()
    where: Node | None = None
    group: tuple[Node, ...] = ()
    having: Node | None = None
    distinct: bool = False
    windows: tuple[tuple[str, Window], ...] = ()
    """Of the WINDOW clause, by name."""


@dataclass(frozen=True, slots=True)
class Select:
    cores: tuple[Core, ...]
    operators: tuple[str, ...] = ()
    """Between the cores: `UNION`, `UNION ALL`, `INTERSECT`, `EXCEPT`."""
    order: tuple[OrderTerm, ...] = ()
    limit: Node | None = None
    offset: Node | None = None
    named: tuple[tuple[str, tuple[str, ...], Select], ...] = field(default=())
    """WITH: name, columns, query. It may name itself, with or without the word RECURSIVE."""


Node = (
    Constant | Name | Unary | Binary | Match | Between | In | Case | Cast | Collate | Call | Exists | Scalar
)  # fmt: skip


def children(node: Node) -> tuple[Node, ...]:
    """The expressions directly within `node`; those of subqueries are not counted."""
    found: tuple[Node | None, ...] = ()
    match node:
        case Unary() | Cast() | Collate():
            found = (node.operand,)
        case Binary():
            found = (node.left, node.right)
        case Match():
            found = (node.left, node.pattern, node.escape)
        case Between():
            found = (node.operand, node.low, node.high)
        case In():
            found = (node.operand, *(node.items if isinstance(node.items, tuple) else ()))
        case Case():
            found = (node.operand, *(part for branch in node.branches for part in branch), node.otherwise)
        case Call():
            within = node.window or Window()
            terms = (*node.order, *within.order)
            found = (*node.arguments, node.filter, *within.partition, *(term.operand for term in terms))
        case _:
            pass
    return tuple(child for child in found if child is not None)


def names(node: Node) -> list[Name]:
    """The columns that `node` names; those of subqueries are not counted."""
    found, waiting = [], [node]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Name):
            found.append(each)
        waiting += children(each)
    return found
