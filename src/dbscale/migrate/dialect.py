"""SQLite's expressions as PostgreSQL's, for the types chosen: the same answer, or a refusal that says why.

Values are compared as the chosen types mean them: a column that became a timestamp compares by time, one that
became boolean is true or false. Beyond that nothing is assumed. One difference is let pass: a whole number past 2**53
beside a real one is compared and calculated with as a real one in PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dbscale.migrate import functions, json_values, windows
from dbscale.migrate.comparison import comparable, compare, order_term
from dbscale.migrate.grammar import parse_expression
from dbscale.migrate.model import Choice, ColumnProfile, SourceColumn
from dbscale.migrate.patterns import glob, like
from dbscale.migrate.syntax import (
    Between,
    Binary,
    Call,
    Case,
    Cast,
    Collate,
    Constant,
    Exists,
    In,
    Match,
    Name,
    Node,
    Scalar,
    Select,
    Unary,
    Window,
    names,
)
from dbscale.migrate.tokens import NotUnderstood
from dbscale.migrate.values import (
    MOMENTS,
    Kind,
    Untranslatable,
    Value,
    affinity_of,
    as_float,
    as_number,
    as_text,
    as_truth,
    ascii_lower,
    bit,
    constant_value,
    is_bit,
    kind_of,
    unify,
)

__all__ = ["Scope", "Untranslatable", "Value", "column_value", "condition", "fitted", "order_term", "translate"]

NULL = constant_value(Constant(None))
_ROWID = frozenset({"rowid", "_rowid_", "oid"})
_CLASSES = {"integers": "integer", "reals": "real", "texts": "text", "blobs": "blob"}


@dataclass(frozen=True, slots=True)
class Unsettled:
    """Something that depends on which row comes first."""

    what: str
    terms: frozenset[str] | None = None
    """The SQL of what the rows are ordered by, and of what divides them before; None where nothing could settle it."""
    groups: bool = False
    """It orders groups where there are groups; else the rows that go into them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What an expression may name, and where it is to stand."""

    columns: Mapping[str, Value] = field(default_factory=dict)
    """By name in lower case (ASCII). A name that several tables share is absent."""
    tables: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    """The same by table or alias, in lower case."""
    ambiguous: frozenset[str] = frozenset()
    immutable: bool = True
    """For indexes, generated columns and CHECKs: the answer may depend on the row alone."""
    aggregates: bool = False
    """Aggregate functions may stand here."""
    windows: Mapping[str, Window] | None = None
    """Those of the WINDOW clause, in lower case; None where no window function may stand."""
    picked: Mapping[str, Value] = field(default_factory=dict)
    """Beside groups: what stands for a column that is neither grouped nor aggregated, by the column's SQL."""
    unsettled: list[Unsettled] = field(default_factory=list)
    """Told of whatever depends on the order of rows."""
    outer: Scope | None = None
    """Of the query around this one."""
    subquery: Callable[[Select, Scope, bool], tuple[str, list[tuple[str, Value]]]] | None = None
    """Translates a subquery, or its first row alone, that may name this scope's columns; None where none may stand."""

    def column(self, name: Name) -> Value | None:
        """The column that is meant; None when there is none. Untranslatable when it could be several."""
        word = ascii_lower(name.parts[-1])
        known = self.columns if len(name.parts) == 1 else self.tables.get(ascii_lower(name.parts[0]), {})
        if len(name.parts) == 1 and word in self.ambiguous:
            raise Untranslatable(f"{name.parts[-1]} could be a column of several tables")
        if word in known:
            if known[word].calculated and not self.aggregates:
                raise Untranslatable(f"{name.parts[-1]} is an aggregate or a window function, which cannot stand here")
            return known[word]
        return self.outer.column(name) if self.outer is not None else None


def column_value(
    column: SourceColumn, choice: Choice, sql: str, *, strict: bool = False, profile: ColumnProfile | None = None
) -> Value:
    """A source's column as an operand; `sql` is how PostgreSQL names it. The profile tells the storage classes."""
    kind = kind_of(choice.type)
    affinity = affinity_of(column.declared, strict=strict)
    held = {name: getattr(profile or choice.conversion, name) for name in _CLASSES}
    return Value(
        sql=sql,
        kind=kind,
        affinity=affinity,
        collation=column.collation.upper() or "BINARY",
        narrow=choice.type in ("integer", "smallint"),
        real=kind in ("float", "numeric") and (affinity == "REAL" or not held["integers"]),
        mixed=(kind == "text" or kind in MOMENTS) and any(held[name] for name in ("integers", "reals", "blobs")),
        classes=_classes(kind, affinity, frozenset(word for name, word in _CLASSES.items() if held[name])),
        conversion=choice.conversion,
    )


def _classes(kind: Kind, affinity: str, found: frozenset[str]) -> frozenset[str]:
    """What typeof() can say of the column, when it is one class alone."""
    if kind == "float" and affinity == "REAL":
        return frozenset({"real"})
    own = {"int": "integer", "bytea": "blob"}.get(kind, "text" if affinity == "TEXT" and kind == "text" else None)
    if own is not None and found <= {own}:
        return frozenset({own})
    return found if len(found) == 1 else frozenset()


def translate(expression: str, scope: Scope) -> Value:
    """`expression` for `scope`. Untranslatable when PostgreSQL cannot be told to give the same answer."""
    try:
        return compile_node(parse_expression(expression), scope)
    except NotUnderstood as error:
        raise Untranslatable(f"it is not understood: {error}") from error
    except RecursionError:
        raise Untranslatable("it is nested too deeply") from None


def condition(expression: str, scope: Scope) -> Value:
    """`expression` as a condition: PostgreSQL's boolean. `always` says that a CHECK of it would check nothing."""
    return as_truth(translate(expression, scope))


def fitted(value: Value, type_: str, *, immutable: bool) -> str:
    """The SQL of `value` for a column of `type_`; Untranslatable when it is not surely of that type."""
    kind = kind_of(type_)
    if value.kind in ("null", kind) or (value.kind, kind) in {("int", "float"), ("int", "numeric"), ("truth", "bool")}:
        return value.sql
    if kind == "int" and value.kind in ("bool", "truth"):
        return as_number(value).sql
    if kind == "bool" and is_bit(value):
        return bit(value)
    if kind == "numeric" and value.kind == "float":
        return f"{as_float(value)}::text::numeric" if value.constant is None else value.sql
    if kind == "float" and value.kind == "numeric":
        return as_float(value)
    if kind == "text":
        return as_text(value, immutable=immutable).sql
    raise Untranslatable(f"it gives {value.kind}, and the column is {type_}")


def compile_node(node: Node, scope: Scope) -> Value:
    """The translation of a tree. Untranslatable when PostgreSQL cannot be told to give the same answer."""
    value = _node(node, scope)
    # PostgreSQL gives text to an expression that is NULL throughout; a bare NULL takes any type.
    return NULL if value.kind == "null" else value


def _node(node: Node, scope: Scope) -> Value:  # noqa: C901, PLR0912 - one branch a kind of node
    """One node; `functions.py` has the calls, `views.py` the subqueries."""
    match node:
        case Constant():
            return constant_value(node)
        case Name():
            return _name(node, scope)
        case Unary():
            return _unary(node, scope)
        case Binary("AND" | "OR"):
            return _logic(node, scope)
        case Binary("IS" | "IS NOT"):
            return _identical(node, scope)
        case Binary("=" | "<>", Call("typeof", (operand,)), Constant(str(word))):
            return _of_class(compile_node(operand, scope), {word}, negated=node.operator == "<>")
        case Binary("=" | "<>" | "<" | "<=" | ">" | ">="):
            return compare(node.operator, compile_node(node.left, scope), compile_node(node.right, scope))
        case Binary("||"):
            left, right = (as_text(compile_node(side, scope), immutable=scope.immutable) for side in _sides(node))
            if "null" in (left.kind, right.kind):
                return NULL
            repeatable = left.repeatable and right.repeatable
            return Value(sql=f"{left.operand} || {right.operand}", kind="text", atom=False, repeatable=repeatable)
        case Binary("->" | "->>"):
            return json_values.json_arrow(
                node.operator, compile_node(node.left, scope), compile_node(node.right, scope)
            )
        case Binary():
            return _arithmetic(node.operator, compile_node(node.left, scope), compile_node(node.right, scope))
        case Match():
            return _match(node, scope)
        case Between():
            return _between(node, scope)
        case In(Call("typeof", (operand,)), tuple(items)) if all(isinstance(item, Constant) for item in items):
            words = {item.value for item in items if isinstance(item, Constant)}
            return _of_class(compile_node(operand, scope), words, negated=node.negated)
        case In():
            return _in(node, scope)
        case Case():
            return _case(node, scope)
        case Cast():
            return functions.cast(compile_node(node.operand, scope), node.type, immutable=scope.immutable)
        case Collate():
            if node.collation not in ("BINARY", "NOCASE", "RTRIM"):
                raise Untranslatable(f"the collation {node.collation} is not SQLite's own")
            return replace(compile_node(node.operand, scope), collation=node.collation, explicit=True)
        case Call():
            return _call(node, scope)
        case Exists() | Scalar():
            return _subquery(node, scope)


def _of_class(value: Value, words: set[Any], *, negated: bool) -> Value:
    """`typeof(value) IN words`: the column's type says which class it can be, so that only NULL is open."""
    if len(value.classes) != 1:
        raise Untranslatable("the type does not tell in which storage class SQLite held the value")
    possible = (bool(value.classes & words) != negated, ("null" in words) != negated)
    if possible in ((True, True), (False, False)):
        return Value(sql="TRUE" if possible[0] else "FALSE", kind="truth", always=possible[0])
    test = "IS NOT NULL" if possible[0] else "IS NULL"
    return Value(sql=f"{value.operand} {test}", kind="truth", atom=False, repeatable=value.repeatable)


def _sides(node: Binary) -> tuple[Node, Node]:
    return node.left, node.right


def _name(node: Name, scope: Scope) -> Value:
    column = scope.column(node)
    if column is not None:
        return scope.picked.get(column.sql, column)
    if node.maybe_text:
        return constant_value(Constant(node.parts[0]))
    word = node.parts[-1]
    if len(node.parts) == 1 and word.upper() in ("TRUE", "FALSE"):
        return constant_value(Constant(int(word.upper() == "TRUE"), word))
    if ascii_lower(word) in _ROWID:
        raise Untranslatable("the table has no column for the rowid")
    raise Untranslatable(f"there is no column {word}")


def _unary(node: Unary, scope: Scope) -> Value:
    value = compile_node(node.operand, scope)
    if node.operator == "NOT":
        truth = as_truth(value)
        return Value(sql=f"NOT {truth.operand}", kind="truth", atom=False, repeatable=truth.repeatable)
    if node.operator == "+":
        return replace(value, affinity="", collation="")
    number = as_number(value)
    if number.kind == "null":
        return NULL
    if node.operator == "~" and number.kind != "int":
        raise Untranslatable("~ of what is not a whole number")
    sql = as_float(number) if number.kind == "numeric" else number.operand
    kind: Kind = "float" if number.kind == "numeric" else number.kind
    wide = f"{sql}::bigint" if number.narrow and number.constant is None else sql
    return Value(sql=f"{node.operator}{wide}", kind=kind, atom=False, real=number.real, repeatable=number.repeatable)


def _logic(node: Binary, scope: Scope) -> Value:
    """AND and OR: a chain of one operator is written without brackets."""
    chain: list[Node] = []
    rest: Node = node
    while isinstance(rest, Binary) and rest.operator == node.operator:
        chain.append(rest.right)
        rest = rest.left
    parts = [as_truth(compile_node(part, scope)) for part in [rest, *reversed(chain)]]
    # Never false: all parts of an AND, or one part of an OR.
    always = all(part.always for part in parts) if node.operator == "AND" else any(part.always for part in parts)
    sql = f" {node.operator} ".join(part.operand for part in parts)
    return Value(sql=sql, kind="truth", atom=False, always=always,
                 repeatable=all(part.repeatable for part in parts))  # fmt: skip


def _identical(node: Binary, scope: Scope) -> Value:
    negated = node.operator == "IS NOT"
    left = compile_node(node.left, scope)
    word = node.right.parts[0].upper() if isinstance(node.right, Name) and len(node.right.parts) == 1 else ""
    if word in ("TRUE", "FALSE") and scope.column(Name((word,))) is None:
        sql = f"{as_truth(left).operand} {node.operator} {word}"
        return Value(sql=sql, kind="truth", atom=False, repeatable=left.repeatable)
    right = compile_node(node.right, scope)
    if right.kind == "null" or left.kind == "null":
        value = left if right.kind == "null" else right
        return Value(sql=f"{value.operand} {node.operator} NULL", kind="truth", atom=False, repeatable=left.repeatable)
    return compare("IS DISTINCT FROM" if negated else "IS NOT DISTINCT FROM", left, right)


def _arithmetic(operator: str, left: Value, right: Value) -> Value:
    """Numbers: whole ones stay whole, as in SQLite; others are double precision; x / 0 is NULL."""
    left, right = as_number(left), as_number(right)
    repeatable = left.repeatable and right.repeatable
    if "null" in (left.kind, right.kind):
        return NULL
    whole = left.kind == right.kind == "int"
    if operator in ("&", "|", "<<", ">>", "%") and not whole:
        raise Untranslatable(f"{operator} of what is not a whole number")
    if operator in ("<<", ">>") and not (right.constant is not None and 0 <= int(right.constant.value or 0) < 64):
        raise Untranslatable("a shift by what is not a number from 0 to 63")
    if whole:
        first = (
            f"{left.operand}::bigint" if (left.narrow and right.narrow) or operator in ("<<", ">>") else left.operand
        )
        second = right.operand
    else:
        if operator == "/" and not (left.real or right.real):
            raise Untranslatable("SQLite divides whole or not by how each value is stored")
        first, second = as_float(left), as_float(right)
    if operator in ("/", "%") and not (right.constant is not None and right.constant.value):
        second = f"NULLIF({second}, 0)"
    if operator in ("<<", ">>"):
        second = f"{second}::int"
    real = not whole and (left.real or right.real)
    kind: Kind = "int" if whole else "float"
    return Value(sql=f"{first} {operator} {second}", kind=kind, atom=False, real=real, repeatable=repeatable)


# -- patterns, lists, cases ------------------------------------------------------------------------------------


def _match(node: Match, scope: Scope) -> Value:
    left = as_text(compile_node(node.left, scope), immutable=scope.immutable)
    pattern = as_text(compile_node(node.pattern, scope), immutable=scope.immutable)
    if "null" in (left.kind, pattern.kind):
        return NULL
    word = "NOT " if node.negated else ""
    repeatable = left.repeatable and pattern.repeatable
    if node.operator == "LIKE":
        sql = like(left, pattern, _escape(node, scope), word)
    elif node.operator == "GLOB":
        text = pattern.constant.value if pattern.constant is not None else None
        if not isinstance(text, str):
            raise Untranslatable("GLOB with a pattern that is not a literal")
        sql = glob(left, text, negated=node.negated)
    else:
        raise Untranslatable(f"SQLite has no {node.operator} of its own")
    return Value(sql=sql, kind="truth", atom=False, repeatable=repeatable)


def _escape(node: Match, scope: Scope) -> str:
    if node.escape is None:
        return ""
    value = compile_node(node.escape, scope).constant
    if value is None or not isinstance(value.value, str) or len(value.value) != 1:
        raise Untranslatable("ESCAPE takes one character")
    return value.value


def _between(node: Between, scope: Scope) -> Value:
    value, low, high = (compile_node(part, scope) for part in (node.operand, node.low, node.high))
    if value.kind == "null":
        return NULL
    first, bottom = comparable(">=", value, low)
    again, top = comparable("<=", value, high)
    if first != again or (
        {"date", "time", "timestamp", "timestamptz"} & {value.kind} and "null" in (low.kind, high.kind)
    ):
        raise Untranslatable("BETWEEN compares its two bounds in different ways")
    word = "NOT BETWEEN" if node.negated else "BETWEEN"
    return Value(sql=f"{first} {word} {bottom} AND {top}", kind="truth", atom=False, repeatable=value.repeatable)


def _in(node: In, scope: Scope) -> Value:
    value = compile_node(node.operand, scope)
    if not isinstance(node.items, tuple):
        return _in_subquery(value, node.items, scope, negated=node.negated)
    items = [compile_node(item, scope) for item in node.items]
    if not items:
        return Value(sql="TRUE" if node.negated else "FALSE", kind="truth")
    if value.kind == "null":
        return NULL
    # IN compares by the left side's affinity and collation alone.
    pairs = [comparable("=", value, replace(item, affinity="", collation="", explicit=False)) for item in items]
    if len({one for one, _ in pairs}) > 1:
        raise Untranslatable("IN compares its items in different ways")
    always = value.kind == "bool" and not node.negated and {"TRUE", "FALSE"} <= {two for _, two in pairs}
    word = "NOT IN" if node.negated else "IN"
    sql = f"{pairs[0][0]} {word} ({', '.join(two for _, two in pairs)})"
    return Value(sql=sql, kind="truth", atom=False, always=always, repeatable=value.repeatable)


def _selected(select: Select, scope: Scope, *, first: bool = False) -> tuple[str, list[tuple[str, Value]]]:
    if scope.subquery is None:
        raise Untranslatable("it has a subquery")
    return scope.subquery(select, scope, first)


def _subquery(node: Exists | Scalar, scope: Scope) -> Value:
    # SQLite takes the first row where there are several; PostgreSQL would raise an error.
    sql, columns = _selected(node.select, scope, first=isinstance(node, Scalar))
    if isinstance(node, Exists):
        return Value(sql=f"EXISTS ({sql})", kind="truth", repeatable=False)
    if len(columns) != 1:
        raise Untranslatable("a subquery with several columns stands for one value")
    return replace(columns[0][1], sql=f"({sql})", atom=True, constant=None, repeatable=False, aggregate=False)


def _in_subquery(value: Value, select: Select, scope: Scope, *, negated: bool) -> Value:
    sql, columns = _selected(select, scope)
    if len(columns) != 1:
        raise Untranslatable("IN a subquery with several columns")
    item = replace(columns[0][1], sql="x", atom=True, constant=None, affinity=columns[0][1].affinity or "x")
    one, two = comparable("=", value, item)
    if two != "x":
        raise Untranslatable("IN a subquery whose values are compared by a collation or converted")
    word = "NOT IN" if negated else "IN"
    return Value(sql=f"{one} {word} ({sql})", kind="truth", atom=False, repeatable=False)


def _case(node: Case, scope: Scope) -> Value:
    operand = compile_node(node.operand, scope) if node.operand is not None else None
    if operand is not None and not operand.repeatable:
        raise Untranslatable("CASE of a value that would be calculated more than once")
    conditions = []
    for when, _ in node.branches:
        value = compile_node(when, scope)
        conditions.append((compare("=", operand, value) if operand is not None else as_truth(value)).sql)
    results = [compile_node(then, scope) for _, then in node.branches]
    if node.otherwise is not None:
        results.append(compile_node(node.otherwise, scope))
    kind, sqls = unify(results)
    parts = [f"WHEN {when} THEN {then}" for when, then in zip(conditions, sqls, strict=False)]
    if node.otherwise is not None:
        parts.append(f"ELSE {sqls[-1]}")
    repeatable = all(value.repeatable for value in results)
    real = all(value.real for value in results if value.kind != "null")
    return Value(sql=f"CASE {' '.join(parts)} END", kind=kind, real=real, repeatable=repeatable)


def _call(node: Call, scope: Scope) -> Value:
    within = scope
    if node.window is not None:
        within = replace(scope, windows=None)
    elif functions.is_aggregate(node):
        own, named = replace(scope, outer=None), names(node)
        if scope.outer is not None and named and all(own.column(each) is None for each in named):
            raise Untranslatable(f"{node.name}() in a subquery is an aggregate of the query around it")
        within = replace(scope, picked={})
    values = [compile_node(argument, within) for argument in node.arguments]
    test = as_truth(compile_node(node.filter, within)).sql if node.filter is not None else ""
    if node.window is not None:
        return _windowed(node, values, test, scope, within)
    order = ""
    if functions.is_aggregate(node) and node.name in ("group_concat", "string_agg"):
        terms = [(term, compile_node(term.operand, within)) for term in node.order]
        order = ", ".join(windows.ordered(term, value) for term, value in terms)
        keys = frozenset(value.sql for _, value in terms)
        if values and values[0].sql not in keys:
            scope.unsettled.append(Unsettled(f"{node.name}()", keys))
    return functions.call(node, values, test, immutable=scope.immutable, aggregates=scope.aggregates, order=order)


def _windowed(node: Call, values: list[Value], test: str, scope: Scope, within: Scope) -> Value:
    if scope.windows is None:
        raise Untranslatable("a window function cannot stand here")
    window = windows.over(node, scope.windows, lambda each: compile_node(each, within))
    if not window.settled(node.name, values):
        scope.unsettled.append(Unsettled(f"{node.name}() OVER its window", window.terms, groups=True))
    if node.name in windows.FUNCTIONS:
        return windows.call(node, values, window)
    return functions.windowed(node, values, test, window)


def table_scope(columns: Mapping[str, Value], *, table: str = "", rowid: str = "") -> Scope:
    """The scope of an expression that belongs to one table, with `columns` by the source's names."""
    known = {ascii_lower(name): value for name, value in columns.items()}
    for word in sorted(_ROWID):
        if rowid:
            known.setdefault(word, known[ascii_lower(rowid)])
    return Scope(columns=known, tables={ascii_lower(table): known})
