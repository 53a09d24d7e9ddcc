"""The part of the analysis that reads expressions: names, values and conditions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from dbscale.query import (
    And,
    Column,
    Compare,
    Condition,
    Literal,
    Opaque,
    Or,
    Parameter,
    Unknown,
    Value,
)
from dbscale.query.functions import AGGREGATES

_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "<>": "<>"}
_NEGATED = {"<": ">=", ">": "<=", "<=": ">", ">=": "<", "=": "<>", "<>": "="}
_SHORT_TYPES = {"int2": "smallint", "int4": "integer", "int8": "bigint", "float4": "real", "float8": "double precision"}
_SHORT_TYPES |= {"bool": "boolean", "varchar": "character varying", "bpchar": "character"}


@dataclass(slots=True)
class Derived:
    """What a subquery or a CTE yields: its columns as those of the tables below it, where a condition on them may be
    moved below. The tables are those that such a condition restricts."""

    columns: dict[str, Column] = field(default_factory=dict)
    star: Level | None = None
    tables: frozenset[int] = frozenset()
    values: tuple[Value, ...] | None = None

    def column(self, name: str) -> Column:
        if name in self.columns:
            return self.columns[name]
        return self.star.bare(name, outermost=False) if self.star else Column(None, name)


@dataclass(slots=True)
class Level:
    """The names that one FROM makes visible."""

    items: list[tuple[str, int | Derived]] = field(default_factory=list)
    merged: dict[str, Column] = field(default_factory=dict)
    natural: bool = False

    def named(self, alias: str, name: str) -> Column | None:
        for known, item in self.items:
            if known == alias:
                return Column(item, name) if isinstance(item, int) else item.column(name)
        return None

    def bare(self, name: str, *, outermost: bool) -> Column:
        if name in self.merged:
            return self.merged[name]
        if self.natural:
            return Column(None, name)
        if len(self.items) == 1:
            item = self.items[0][1]
            if not isinstance(item, int):
                return item.column(name)
            return Column(item, name) if outermost else Column(None, name, (item,))
        return Column(None, name, tuple(item for _, item in self.items if isinstance(item, int)))


class Expressions:
    """Reads expressions in the names that `levels` make visible, innermost last. `Reader` adds the statements."""

    def __init__(self) -> None:
        from postgast import pg_query_pb2

        self.pb: Any = pg_query_pb2
        self.levels: list[Level] = []
        self.semijoined: frozenset[int] = frozenset()

    def _select(self, node: Any, parent: int | None) -> Derived:
        """Analyse a subquery."""
        raise NotImplementedError

    # Conditions

    def _condition(self, node: Any, number: int, *, negated: bool = False) -> Condition:
        kind = node.WhichOneof("node")
        if kind == "bool_expr":
            if node.bool_expr.boolop == self.pb.NOT_EXPR:
                return self._condition(node.bool_expr.args[0], number, negated=not negated)
            parts = tuple(self._condition(part, number, negated=negated) for part in node.bool_expr.args)
            # De Morgan: NOT (a AND b) is NOT a OR NOT b, also where NULL is about.
            return And(parts) if (node.bool_expr.boolop == self.pb.AND_EXPR) != negated else Or(parts)
        if kind == "null_test":
            missing = (node.null_test.nulltesttype == self.pb.IS_NULL) != negated
            column = self._column(node.null_test.arg)
            return Compare(column, "is null" if missing else "is not null") if column else self._opaque(node, number)
        if kind == "a_const":
            value = self._value(node)
            if isinstance(value, Literal) and isinstance(value.value, bool | None):
                return And() if value.value is (not negated) else Or()
        if kind == "column_ref":
            return Compare(self._reference(node.column_ref), "=", (Literal(not negated, "boolean"),))
        if kind == "a_expr":
            return self._comparison(node, number, negated=negated)
        if kind == "sub_link" and node.sub_link.sub_link_type == self.pb.ANY_SUBLINK and not negated:
            return self._semijoin(node.sub_link, node, number)
        return self._opaque(node, number)

    def _semijoin(self, link: Any, node: Any, number: int) -> Condition:
        """`column IN (SELECT …)`: equality with what the subquery yields."""
        column = self._column(link.testexpr)
        if column is None or [name.string.sval for name in link.oper_name] not in ([], ["="]):
            return self._opaque(node, number)
        derived = self._select(link.subselect.select_stmt, number)
        values = derived.values
        self.semijoined |= derived.tables
        value = values[0] if values and len(values) == 1 else Unknown("a subquery")
        return Compare(column, "in", (value,)) if isinstance(value, Unknown) else Compare(column, "=", (value,))

    def _comparison(self, node: Any, number: int, *, negated: bool) -> Condition:
        expression = node.a_expr
        self._subqueries([expression.lexpr, expression.rexpr], number)
        found = self._compared(expression, negated)
        return found if found is not None else self._opaque(node, None)

    def _compared(self, expression: Any, negated: bool) -> Condition | None:
        """The comparison in an operator's expression; None where it has no plain column."""
        pb, kind = self.pb, expression.kind
        operator = expression.name[-1].string.sval
        left, right = expression.lexpr, expression.rexpr
        if kind == pb.AEXPR_OP and left.WhichOneof("node") == "row_expr":
            return self._rows(left.row_expr, operator, right, negated)
        column = self._column(left)
        if kind == pb.AEXPR_OP:
            if column is None and (column := self._column(right)) is not None:
                if operator not in _FLIPPED:
                    return None
                operator, right = _FLIPPED[operator], left
            if column is None:
                return None
            operator = _NEGATED.get(operator, f"not {operator}") if negated else operator
            return Compare(column, operator, (self._value(right),))
        if column is None:
            return None
        if kind in (pb.AEXPR_IN, pb.AEXPR_OP_ANY, pb.AEXPR_OP_ALL):
            return self._listed(kind, column, operator, right, negated)
        if kind in (pb.AEXPR_LIKE, pb.AEXPR_ILIKE):
            word = "like" if kind == pb.AEXPR_LIKE else "ilike"
            return Compare(
                column, f"not {word}" if operator.startswith("!") != negated else word, (self._value(right),)
            )
        if (kind == pb.AEXPR_NOT_DISTINCT and not negated) or (kind == pb.AEXPR_DISTINCT and negated):
            return Compare(column, "is", (self._value(right),))
        between = (pb.AEXPR_BETWEEN, pb.AEXPR_NOT_BETWEEN, pb.AEXPR_BETWEEN_SYM, pb.AEXPR_NOT_BETWEEN_SYM)
        if kind not in between:
            return None
        low, high = (self._value(bound) for bound in right.list.items)
        outside = (kind in (pb.AEXPR_NOT_BETWEEN, pb.AEXPR_NOT_BETWEEN_SYM)) != negated
        pairs = [(low, high), (high, low)] if kind in between[2:] else [(low, high)]
        if outside:
            return And(tuple(Or((Compare(column, "<", (a,)), Compare(column, ">", (b,)))) for a, b in pairs))
        within = tuple(And((Compare(column, ">=", (a,)), Compare(column, "<=", (b,)))) for a, b in pairs)
        return within[0] if len(within) == 1 else Or(within)

    def _listed(self, kind: int, column: Column, operator: str, right: Any, negated: bool) -> Condition | None:
        """IN, = ANY, <> ALL and their negations."""
        array = right.WhichOneof("node") == "a_array_expr"
        if kind == self.pb.AEXPR_IN:
            values = tuple(self._value(item) for item in right.list.items)
            return Compare(column, "not in" if (operator == "<>") != negated else "in", values)
        anything = kind == self.pb.AEXPR_OP_ANY
        if operator != ("=" if anything else "<>"):
            return None
        word = "not " if anything == negated else ""
        if array and not any(item.WhichOneof("node") == "a_array_expr" for item in right.a_array_expr.elements):
            return Compare(column, word + "in", tuple(self._value(item) for item in right.a_array_expr.elements))
        return Compare(column, word + "any", (self._value(right),))

    def _rows(self, left: Any, operator: str, right: Any, negated: bool) -> Condition | None:
        """`(a, b) = (1, 2)` part by part; `(a, b) > (1, 2)` says at least a >= 1."""
        if right.WhichOneof("node") != "row_expr" or negated:
            return None
        columns = [self._column(part) for part in left.args]
        values = [self._value(part) for part in right.row_expr.args]
        if operator == "=" and None not in columns:
            pairs = zip(columns, values, strict=True)
            return And(tuple(Compare(column, "=", (value,)) for column, value in pairs if column is not None))
        if operator in ("<", "<=", ">", ">=") and columns[0] is not None:
            # Not the whole truth, so the rest of it is kept as opaque.
            weak = Compare(columns[0], operator[0] + "=", (values[0],))
            return And((weak, Opaque(tuple(column for column in columns if column is not None))))
        return None

    def _opaque(self, node: Any, number: int | None) -> Opaque:
        if number is not None:
            self._subqueries([node], number)
        parts = [part for part in self._own(node) if type(part).__name__ == "ColumnRef"]
        return Opaque(tuple(self._reference(part) for part in parts))

    # Values and columns

    def _value(self, node: Any) -> Value:
        kind = node.WhichOneof("node")
        if kind == "a_const":
            return self._constant(node.a_const)
        if kind == "param_ref":
            return Parameter(node.param_ref.number)
        if kind == "column_ref":
            return self._reference(node.column_ref)
        if kind == "type_cast":
            inner = self._value(node.type_cast.arg)
            if isinstance(inner, Literal | Parameter) and not inner.type:
                return replace(inner, type=self._type(node.type_cast.type_name))
            return Unknown("a cast")
        if kind == "a_expr" and node.a_expr.name[-1].string.sval == "+" and not node.a_expr.HasField("lexpr"):
            return self._value(node.a_expr.rexpr)
        if kind == "set_to_default":
            return Unknown("DEFAULT")
        return Unknown("an expression")

    def _constant(self, node: Any) -> Value:
        kind = node.WhichOneof("val")
        if node.isnull:
            return Literal(None)
        if kind == "fval":
            text = node.fval.fval
            if re.fullmatch(r"-?[0-9_]+", text):
                return Literal(int(text))
            return Literal(Decimal(text)) if re.fullmatch(r"-?[0-9_.]+([eE][+-]?[0-9]+)?", text) else Unknown(text)
        if kind == "ival":
            return Literal(int(node.ival.ival))
        if kind == "boolval":
            return Literal(bool(node.boolval.boolval))
        return Literal(str(node.sval.sval)) if kind == "sval" else Unknown("a bit string")

    def _type(self, node: Any) -> str:
        name = ".".join(word.string.sval for word in node.names).removeprefix("pg_catalog.")
        arguments = ",".join(str(item.a_const.ival.ival) for item in node.typmods)
        name = _SHORT_TYPES.get(name, name) + (f"({arguments})" if arguments else "")
        return name + "[]" * len(node.array_bounds)

    def _column(self, node: Any) -> Column | None:
        return self._reference(node.column_ref) if node.WhichOneof("node") == "column_ref" else None

    def _reference(self, node: Any) -> Column:
        words = [word.string.sval for word in node.fields]
        if len(words) == 1:
            level = self.levels[-1] if self.levels else Level()
            return level.bare(words[0], outermost=len(self.levels) <= 1)
        for level in reversed(self.levels):
            if (column := level.named(words[-2], words[-1])) is not None:
                return column
        return Column(None, words[-1])

    def _term(self, node: Any, outputs: list[tuple[str, Any]], *, first: bool) -> Column | None:
        """The column that a term of ORDER BY or GROUP BY means, by place or name; in ORDER BY outputs go `first`."""
        kind = node.WhichOneof("node")
        if kind == "a_const" and node.a_const.WhichOneof("val") == "ival":
            place = node.a_const.ival.ival - 1
            return self._column(outputs[place][1]) if 0 <= place < len(outputs) else None
        column = self._column(node)
        if first and column is not None and len(node.column_ref.fields) == 1:
            for name, value in outputs:
                if name == column.name:
                    return self._column(value)
        return column

    def _outputs(self, node: Any, level: Level) -> tuple[dict[str, Column], Level | None, tuple[Value, ...] | None]:
        """The plain columns that a SELECT yields, the FROM its `*` stands for, and all its values, without `*`."""
        columns: dict[str, Column] = {}
        stars: list[Level] = []
        for target in node.target_list:
            value = target.res_target.val
            if value.WhichOneof("node") != "column_ref":
                continue
            if value.column_ref.fields[-1].WhichOneof("node") == "a_star":
                words = [word.string.sval for word in value.column_ref.fields][:-1]
                items = [item for item in level.items if not words or item[0] == words[-1]]
                stars.append(Level(items=items, merged=level.merged, natural=level.natural))
            else:
                column = self._reference(value.column_ref)
                columns[target.res_target.name or column.name] = column
        values = tuple(self._value(target.res_target.val) for target in node.target_list)
        return columns, stars[0] if len(stars) == 1 else None, None if stars or not values else values

    def _aggregate(self, call: Any) -> bool:
        marked = call.agg_star or call.agg_distinct or call.agg_within_group or call.agg_order
        known = call.funcname[-1].string.sval in AGGREGATES
        return bool(marked or known or call.HasField("agg_filter")) and not call.HasField("over")

    def _own(self, node: Any) -> Iterator[Any]:
        """The parts of a tree, without those of the subqueries in it."""
        stack = [node]
        while stack:
            part = stack.pop()
            yield part
            for description, value in part.ListFields():
                if description.type == description.TYPE_MESSAGE:
                    parts = [value] if hasattr(value, "ListFields") else list(value)
                    inner = [
                        getattr(item, item.WhichOneof("node")) if type(item).__name__ == "Node" else item
                        for item in parts
                        if type(item).__name__ != "Node" or item.WhichOneof("node")
                    ]
                    stack += [item for item in reversed(inner) if type(item).__name__ != "SelectStmt"]

    def _subqueries(self, nodes: Iterable[Any], number: int) -> None:
        """Analyse the subqueries in expressions; nothing is known of what the outer query does with their rows."""
        for node in nodes:
            for part in self._own(node):
                if type(part).__name__ == "SubLink":
                    self._select(part.subselect.select_stmt, number)
