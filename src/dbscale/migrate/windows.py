"""SQLite's window functions as PostgreSQL's.

Both follow the same standard: the default frame, GROUPS, EXCLUDE and FILTER mean the same. They differ in where NULLs
are sorted, which is written out, and in the frames of ranking functions, which have none. What neither says is which of
two rows comes first that a window's order leaves equal; `Over.settled` tells where the answer does not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from dbscale.migrate.comparison import order_term
from dbscale.migrate.syntax import Bound, Call, Frame, Node, OrderTerm, Window
from dbscale.migrate.values import Untranslatable, Value, as_number, ascii_lower, by_collation, unify

_RANKS = {"rank": "int", "dense_rank": "int", "percent_rank": "float", "cume_dist": "float", "row_number": "int"}
_PLACES = {"first_value": 1, "last_value": 1, "nth_value": 2}
_STEPS = frozenset({"lag", "lead"})
_BY_PEERS = frozenset({"rank", "dense_rank", "percent_rank", "cume_dist"})
FUNCTIONS = frozenset(_RANKS) | frozenset(_PLACES) | _STEPS | {"ntile"}
"""Those that are nothing but window functions; aggregates can be one too."""
_FRAMED = frozenset(_PLACES)


@dataclass(frozen=True, slots=True)
class Over:
    """A window in PostgreSQL's SQL."""

    sql: str
    """With OVER."""
    terms: frozenset[str]
    """The SQL of what it is partitioned and ordered by."""
    frame: Frame | None

    def settled(self, name: str, values: list[Value]) -> bool:
        """True when the function gives the same, whichever of equal rows comes first."""
        rows = self.frame is not None and self.frame.unit == "ROWS"
        if name in _BY_PEERS:
            return True
        if name in ("first_value", "last_value"):
            return not rows and values[0].sql in self.terms
        if name in FUNCTIONS or name in ("group_concat", "string_agg"):
            return False
        whole = self.frame is not None and self.frame.start.kind == "UNBOUNDED PRECEDING"
        return not rows or (whole and self.frame is not None and self.frame.end.kind == "UNBOUNDED FOLLOWING")


def over(node: Call, named: Mapping[str, Window], translate: Callable[[Node], Value]) -> Over:
    """The window of a call; `named` are those of the WINDOW clause in lower case. Untranslatable as elsewhere."""
    assert node.window is not None  # noqa: S101 - the caller asks for windows only
    window = _resolved(node.window, named, len(named) + 1)
    partition = [_partition(translate(each)) for each in window.partition]
    order = [_ordered(term, translate(term.operand)) for term in window.order]
    framed = node.name not in FUNCTIONS or node.name in _FRAMED
    frame = window.frame if framed else None
    parts = []
    if partition:
        parts.append("PARTITION BY " + ", ".join(sql for sql, _ in partition))
    if order:
        parts.append("ORDER BY " + ", ".join(sql for sql, _ in order))
    if frame is not None:
        parts.append(_frame(frame, [translate(term.operand) for term in window.order]))
    terms = frozenset(term for _, term in partition + order)
    return Over(f"OVER ({' '.join(parts)})", terms, frame)


def _resolved(window: Window, named: Mapping[str, Window], depth: int) -> Window:
    if not window.base:
        return window
    base = named.get(ascii_lower(window.base))
    if base is None or not depth:
        raise Untranslatable(f"there is no window {window.base}")
    base = _resolved(base, named, depth - 1)
    if window.alone:
        return base
    if base.frame is not None or window.partition or (base.order and window.order):
        raise Untranslatable(f"the window {window.base} cannot be added to like this")
    return replace(base, order=base.order or window.order, frame=window.frame)


def _partition(value: Value) -> tuple[str, str]:
    """PARTITION BY's SQL, and the value's own."""
    if value.mixed or value.kind in ("json", "jsonb", "dynamic", "other"):
        raise Untranslatable(f"PARTITION BY of {value.kind}, or of values of several storage classes")
    if value.kind != "text":
        return value.operand, value.sql
    sql = by_collation(value, value.collation)
    return sql, value.sql if sql == value.operand else sql


def ordered(term: OrderTerm, value: Value) -> str:
    """A term of ORDER BY; SQLite puts NULLs before all values, PostgreSQL after them."""
    nulls = term.nulls or ("LAST" if term.descending else "FIRST")
    return f"{order_term(value)}{' DESC' * term.descending} NULLS {nulls}"


def _ordered(term: OrderTerm, value: Value) -> tuple[str, str]:
    if value.mixed:
        raise Untranslatable("ORDER BY of values of several storage classes")
    plain = value.kind != "text" or by_collation(value, value.collation) == value.operand
    return ordered(term, value), value.sql if plain else order_term(value)


def _frame(frame: Frame, order: list[Value]) -> str:
    if frame.unit == "GROUPS" and not order:
        raise Untranslatable("GROUPS without ORDER BY")
    far = frame.unit == "RANGE" and (frame.start.offset is not None or frame.end.offset is not None)
    # SQLite takes two texts for equal whatever their distance; PostgreSQL has no distance of text.
    if far and (len(order) != 1 or order[0].kind != "int" or order[0].constant is not None):
        raise Untranslatable("RANGE by a distance of what is not a whole number")
    exclude = f" EXCLUDE {frame.exclude}" if frame.exclude else ""
    return f"{frame.unit} BETWEEN {_bound(frame.start)} AND {_bound(frame.end)}{exclude}"


def _bound(bound: Bound) -> str:
    if bound.offset is None:
        return bound.kind
    return f"{_count(bound.offset, 'a frame')} {bound.kind}"


def _count(node: Node, what: str, least: int = 0) -> int:
    """The whole number that a literal says."""
    value = getattr(node, "value", None)
    if not isinstance(value, int) or value < least:
        raise Untranslatable(f"{what} with a number that is not a literal of {least} or more")
    return value


def call(node: Call, values: list[Value], window: Over) -> Value:
    """The call of a function in FUNCTIONS; Untranslatable where its arguments are not of its form."""
    if node.distinct or node.star or node.order or node.filter is not None:
        raise Untranslatable(f"{node.name}() with DISTINCT, *, ORDER BY or FILTER")
    if node.name in _RANKS:
        _arguments(node, 0, 0)
        if _RANKS[node.name] == "float":
            return Value(sql=f"{node.name}() {window.sql}", kind="float", real=True)
        return Value(sql=f"{node.name}() {window.sql}", kind="int")
    if node.name == "ntile":
        _arguments(node, 1, 1)
        count = _count(node.arguments[0], "ntile()", 1)
        return Value(sql=f"ntile({count}) {window.sql}", kind="int", narrow=True)
    return _valued(node, values, window)


def _arguments(node: Call, least: int, most: int) -> None:
    if not least <= len(node.arguments) <= most:
        raise Untranslatable(f"{node.name}() with {len(node.arguments)} arguments")


def _valued(node: Call, values: list[Value], window: Over) -> Value:
    """lag(), lead(), first_value(), last_value() and nth_value(): a value of another row."""
    steps = node.name in _STEPS
    _arguments(node, 1 if steps else _PLACES[node.name], 3 if steps else _PLACES[node.name])
    value = as_number(values[0]) if values[0].kind == "truth" else values[0]
    if value.kind in ("null", "json", "dynamic", "other") or value.constant is not None:
        raise Untranslatable(f"{node.name}() of {value.kind}, or of a literal")
    extra = [str(_count(node.arguments[1], f"{node.name}()", 0 if steps else 1))] if len(values) > 1 else []
    sqls, real = [value.sql], value.real
    kind = value.kind
    if len(values) == 3 and values[2].kind != "null":
        kind, sqls = unify([value, values[2]])
        real = value.real and values[2].real
        if kind != value.kind or value.kind not in ("int", "float", "text", "bool", "numeric"):
            raise Untranslatable(f"{node.name}() with a default of another type")
    sql = f"{node.name}({', '.join([sqls[0], *extra, *sqls[1:]])}) {window.sql}"
    return replace(value, sql=sql, kind=kind, atom=True, affinity="", collation="", explicit=False, real=real,
                   narrow=False, always=False, standard=value.standard and len(values) < 3,
                   classes=value.classes if len(values) < 3 else frozenset())  # fmt: skip
