"""The walk through a statement's syntax tree that gathers what `Query` says of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from dbscale.query import (
    And,
    Block,
    Column,
    Compare,
    Condition,
    Filter,
    Insert,
    Literal,
    Opaque,
    Or,
    Order,
    Parameter,
    Query,
    Table,
    Unknown,
    Value,
)
from dbscale.query.functions import AGGREGATES, OF_THE_SERVER, PLAIN, READABLE

_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "<>": "<>"}
_NEGATED = {"<": ">=", ">": "<=", "<=": ">", ">=": "<", "=": "<>", "<>": "="}
_SHORT_TYPES = {"int2": "smallint", "int4": "integer", "int8": "bigint", "float4": "real", "float8": "double precision"}
_SHORT_TYPES |= {"bool": "boolean", "varchar": "character varying", "bpchar": "character"}


@dataclass(slots=True)
class _Derived:
    """What a subquery or a CTE yields: its columns as those of the tables below it, where a condition on them may be
    moved below. The tables are those that such a condition restricts."""

    columns: dict[str, Column] = field(default_factory=dict)
    star: _Level | None = None
    tables: frozenset[int] = frozenset()
    values: tuple[Value, ...] | None = None

    def column(self, name: str) -> Column:
        if name in self.columns:
            return self.columns[name]
        return self.star.bare(name, outermost=False) if self.star else Column(None, name)


@dataclass(slots=True)
class _Level:
    """The names that one FROM makes visible."""

    items: list[tuple[str, int | _Derived]] = field(default_factory=list)
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


class Reader:
    """Walks one statement's tree and gathers what `Query` says of it."""

    def __init__(self, sql: str, parameters: tuple[str, ...] | None) -> None:
        import postgast
        from postgast import pg_query_pb2

        self.sql, self.parameters = sql, parameters
        self.pb: Any = pg_query_pb2
        self.walk = postgast.walk
        self.tables: list[Table] = []
        self.blocks: list[Block] = []
        self.levels: list[_Level] = []
        self.ctes: list[dict[str, Any]] = [{}]
        self.unsure: list[str] = []
        self.insert: Insert | None = None
        self.sets: list[tuple[str, Value]] = []
        self.semijoined: frozenset[int] = frozenset()

    def read(self, statement: Any) -> Query:
        kind = statement.WhichOneof("node")
        node = getattr(statement, kind)
        verb = kind.removesuffix("_stmt")
        returning = False
        if verb in ("select", "insert", "update", "delete"):
            getattr(self, f"_{verb}")(node, None)
            returning = verb != "select" and bool(node.returning_clause.exprs)
        else:
            self.unsure.append(f"{verb.replace('_', ' ').upper()} is not analysed")
            self._mentions(node)
        functions = self._functions(statement)
        because = self._because(verb, statement, functions)
        return Query(
            sql=self.sql,
            verb=verb,
            tables=tuple(self.tables),
            blocks=tuple(self.blocks),
            insert=self.insert,
            sets=tuple(self.sets),
            returning=returning,
            parameters=self.parameters,
            functions=tuple(sorted(functions - PLAIN - AGGREGATES)),
            reads=not because,
            because=because,
            unsure=tuple(self.unsure),
        )

    def _mentions(self, node: Any) -> None:
        """The tables of a statement that is not analysed further."""
        for _, part in self.walk(node):
            if type(part).__name__ == "RangeVar":
                self.tables.append(Table(name=part.relname, schema=part.schemaname, writes=True))

    def _functions(self, node: Any) -> set[str]:
        names = set()
        for _, part in self.walk(node):
            kind = type(part).__name__
            if kind == "FuncCall":
                words = [word.string.sval for word in part.funcname]
                names.add(words[-1] if words[:-1] in ([], ["pg_catalog"]) else ".".join(words))
            elif kind == "SQLValueFunction":
                names.add("now")
        return names

    def _because(self, verb: str, statement: Any, functions: set[str]) -> str:
        if verb != "select":
            return f"it is {verb.replace('_', ' ').upper()}"
        for _, part in self.walk(statement):
            kind = type(part).__name__
            if kind in ("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"):
                return "a CTE writes"
            if kind == "LockingClause":
                return "it locks rows"
            if kind == "IntoClause":
                return "SELECT INTO makes a table"
            if kind == "A_Expr" and len(part.name) > 1 and part.name[0].string.sval != "pg_catalog":
                return "it uses an operator of a schema of its own"
        if unknown := sorted(functions - READABLE):
            return f"{unknown[0]}() is not known to leave the data alone"
        for table in self.tables:
            if table.name.startswith(OF_THE_SERVER):
                return f"{table.name} speaks of the server it is read on"
        return ""

    # Statements

    def _select(self, node: Any, parent: int | None) -> _Derived:
        number = self._block(parent)
        self._with(node, number)
        if node.op != self.pb.SETOP_NONE:
            for arm in (node.larg, node.rarg):
                self._select(arm, number)
            self.blocks[number] = Block(parent=parent, set_operation=True, **self._end(node, []))
            self.ctes.pop()
            return _Derived()
        level = self._open()
        filters: list[Filter] = []
        tables = self._from(node.from_clause, level, filters, number)
        self._where(node, tables, filters, number)
        if node.HasField("having_clause"):
            filters.append(self._filter(node.having_clause, number, frozenset(), "having"))
        self._subqueries([*node.target_list, *node.values_lists, *node.sort_clause, *node.group_clause], number)
        self.blocks[number] = Block(parent=parent, tables=self._of(number), filters=tuple(filters))
        derived = self._shape(node, number, level, tables)
        self.levels.pop()
        self.ctes.pop()
        return derived

    def _shape(self, node: Any, number: int, level: _Level, tables: frozenset[int]) -> _Derived:
        """Fill in the block of a SELECT, and say what it yields."""
        calls = [part for part in self._own(node) if type(part).__name__ == "FuncCall"]
        outputs = [(target.res_target.name, target.res_target.val) for target in node.target_list]
        groups = [self._term(term, outputs, first=False) for term in node.group_clause]
        block = replace(
            self.blocks[number],
            group_by=tuple(column for column in groups if column is not None),
            grouped=bool(groups),
            aggregates=any(self._aggregate(call) for call in calls),
            windows=bool(node.window_clause) or any(call.HasField("over") for call in calls),
            distinct=bool(node.distinct_clause),
            **self._end(node, outputs),
        )
        self.blocks[number] = block
        columns, star, values = self._outputs(node, level)
        sets = any(term.WhichOneof("node") == "grouping_set" for term in node.group_clause)
        distinct_on = any(term.WhichOneof("node") for term in node.distinct_clause)
        if block.limit or block.offset or block.windows or distinct_on or sets or (block.aggregates and not groups):
            return _Derived(values=values)
        if groups:
            columns = {name: column for name, column in columns.items() if column in block.group_by}
            star = None
        return _Derived(columns=columns, star=star, tables=tables, values=values)

    def _end(self, node: Any, outputs: list[tuple[str, Any]]) -> dict[str, Any]:
        """ORDER BY, LIMIT and OFFSET."""
        orders = []
        for sort in node.sort_clause:
            column = self._term(sort.sort_by.node, outputs, first=True)
            if column is None:
                break
            descending = sort.sort_by.sortby_dir == self.pb.SORTBY_DESC
            nulls = sort.sort_by.sortby_nulls
            first = nulls == self.pb.SORTBY_NULLS_FIRST or (descending and nulls != self.pb.SORTBY_NULLS_LAST)
            orders.append(Order(column=column, descending=descending, nulls_first=first))
        return {
            "order_by": tuple(orders),
            "ordered": bool(node.sort_clause),
            "limit": self._value(node.limit_count) if node.HasField("limit_count") else None,
            "offset": self._value(node.limit_offset) if node.HasField("limit_offset") else None,
        }

    def _insert(self, node: Any, parent: int | None) -> None:
        number = self._block(parent)
        self._with(node, number)
        table = self._table(node.relation, number, writes=True)
        columns = tuple(column.res_target.name for column in node.cols)
        conflict = None
        if node.HasField("on_conflict_clause"):
            clause = node.on_conflict_clause
            conflict = tuple(element.index_elem.name for element in clause.infer.index_elems)
        source = node.select_stmt.select_stmt
        level = self._open()
        level.items.append((self._alias(node.relation), table))
        rows: tuple[tuple[Value, ...], ...] = ((),)
        select = outputs = None
        if source.values_lists:
            rows = tuple(tuple(self._value(item) for item in row.list.items) for row in source.values_lists)
            self._subqueries(source.values_lists, number)
            self._with(source, number)
            self.ctes.pop()
        elif node.HasField("select_stmt"):
            self.levels.pop()
            rows, select = (), len(self.blocks)
            outputs = self._select(source, number).values
            self.levels.append(level)
        found = Insert(table=table, columns=columns, rows=rows, select=select, outputs=outputs, conflict=conflict)
        if conflict is not None:
            self._assign(node.on_conflict_clause.target_list, number)
        if parent is None:
            self.insert = found
        self._finish(node, number, parent, ())

    def _update(self, node: Any, parent: int | None) -> None:
        self._change(node, node.from_clause, parent)

    def _delete(self, node: Any, parent: int | None) -> None:
        self._change(node, node.using_clause, parent)

    def _change(self, node: Any, sources: Any, parent: int | None) -> None:
        """UPDATE and DELETE."""
        number = self._block(parent)
        self._with(node, number)
        level, filters = self._open(), list[Filter]()
        target = self._table(node.relation, number, writes=True)
        level.items.append((self._alias(node.relation), target))
        tables = self._from(sources, level, filters, number) | {target}
        self._where(node, tables, filters, number)
        if type(node).__name__ == "UpdateStmt":
            self._assign(node.target_list, number)
        self._finish(node, number, parent, tuple(filters))

    def _assign(self, targets: Any, number: int) -> None:
        for target in targets:
            value = target.res_target.val
            if value.WhichOneof("node") == "multi_assign_ref":
                row, place = value.multi_assign_ref.source, value.multi_assign_ref.colno - 1
                known = row.WhichOneof("node") == "row_expr"
                assigned = self._value(row.row_expr.args[place]) if known else Unknown("a subquery")
            else:
                assigned = self._value(value)
            self.sets.append((target.res_target.name, assigned))
        self._subqueries(targets, number)

    def _finish(self, node: Any, number: int, parent: int | None, filters: tuple[Filter, ...]) -> None:
        self._subqueries(node.returning_clause.exprs, number)
        self.blocks[number] = Block(parent=parent, tables=self._of(number), filters=filters)
        self.levels.pop()
        self.ctes.pop()

    # FROM

    def _with(self, node: Any, parent: int) -> None:
        """Make the CTEs of a statement known. One that only reads is analysed at each mention, as if written there."""
        self.ctes.append({})
        for item in node.with_clause.ctes:
            cte = item.common_table_expr
            verb = cte.ctequery.WhichOneof("node").removesuffix("_stmt")
            if verb == "select" and not node.with_clause.recursive:
                self.ctes[-1][cte.ctename] = (cte, [*self.ctes[:-1], dict(self.ctes[-1])], list(self.levels))
                continue
            self.ctes[-1][cte.ctename] = None
            if verb in ("select", "insert", "update", "delete"):
                getattr(self, f"_{verb}")(getattr(cte.ctequery, f"{verb}_stmt"), parent)
            else:
                self.unsure.append(f"a CTE of {verb.upper()} is not analysed")

    def _cte(self, name: str, number: int) -> _Derived | None:
        """What the CTE called `name` yields; None where there is none of that name."""
        for scope in reversed(self.ctes):
            if name not in scope:
                continue
            if scope[name] is None:
                return _Derived()
            cte, ctes, levels = scope[name]
            if len(self.blocks) > 500:
                self.unsure.append("too many CTEs that read each other")
                return _Derived()
            before = self.ctes, self.levels
            self.ctes, self.levels = ctes, levels
            derived = self._select(cte.ctequery.select_stmt, number)
            self.ctes, self.levels = before
            return derived if not cte.aliascolnames else _Derived()
        return None

    def _from(self, nodes: Any, level: _Level, filters: list[Filter], number: int) -> frozenset[int]:
        found: frozenset[int] = frozenset()
        for node in nodes:
            found |= self._item(node, level, filters, number)
        return found

    def _item(self, node: Any, level: _Level, filters: list[Filter], number: int) -> frozenset[int]:
        """Add one item of FROM to `level`; the tables that conditions on it restrict."""
        kind = node.WhichOneof("node")
        item = getattr(node, kind)
        if kind == "join_expr":
            return self._join(item, level, filters, number)
        if kind == "range_var":
            derived = None if item.schemaname else self._cte(item.relname, number)
            if derived is None:
                place = self._table(item, number)
                level.items.append((self._alias(item), place))
                return frozenset((place,))
        elif kind == "range_subselect":
            # Without LATERAL a subquery sees the outer queries, not its neighbours.
            hidden = None if item.lateral else self.levels.pop()
            derived = self._select(item.subquery.select_stmt, number)
            if hidden is not None:
                self.levels.append(hidden)
        else:
            derived = _Derived()
            self._subqueries([node], number)
            if kind == "range_table_sample":
                self._item(item.relation, _Level(), filters, number)
        if item.alias.colnames if kind != "range_table_sample" else False:
            derived = _Derived()
        level.items.append((item.alias.aliasname or getattr(item, "relname", ""), derived))
        return derived.tables

    def _join(self, node: Any, level: _Level, filters: list[Filter], number: int) -> frozenset[int]:
        start, first = len(level.items), len(self.tables)
        left = self._item(node.larg, level, filters, number)
        middle, second = len(level.items), len(self.tables)
        right = self._item(node.rarg, level, filters, number)
        kind = node.jointype
        if kind in (self.pb.JOIN_RIGHT, self.pb.JOIN_FULL):
            self._fill_up(first, second)
        if kind in (self.pb.JOIN_LEFT, self.pb.JOIN_FULL):
            self._fill_up(second, len(self.tables))
        restricts = {self.pb.JOIN_INNER: left | right, self.pb.JOIN_LEFT: right, self.pb.JOIN_RIGHT: left}
        within = restricts.get(kind, frozenset())
        if node.is_natural:
            level.natural = True
        for word in node.using_clause:
            name = word.string.sval
            sides = [_Level(items=items) for items in (level.items[start:middle], level.items[middle:])]
            pair = [side.bare(name, outermost=True) for side in sides]
            filters.append(Filter(condition=Compare(pair[0], "=", (pair[1],)), restricts=within, source="on"))
            kept = {self.pb.JOIN_INNER: pair[0], self.pb.JOIN_LEFT: pair[0], self.pb.JOIN_RIGHT: pair[1]}
            level.merged[name] = kept.get(kind, Column(None, name))
        if node.HasField("quals"):
            # ON sees the two sides of its own join only.
            self.levels[-1] = _Level(items=level.items[start:], merged=level.merged, natural=level.natural)
            filters.append(self._filter(node.quals, number, within, "on"))
            self.levels[-1] = level
        return left | right

    def _fill_up(self, start: int, stop: int) -> None:
        for place in range(start, stop):
            self.tables[place] = replace(self.tables[place], nullable=True)

    def _where(self, node: Any, tables: frozenset[int], filters: list[Filter], number: int) -> None:
        if node.HasField("where_clause"):
            filters.append(self._filter(node.where_clause, number, tables, "where"))

    def _filter(self, node: Any, number: int, tables: frozenset[int], source: Any) -> Filter:
        """A condition; it restricts the tables of an `IN (SELECT …)` in it too."""
        before, self.semijoined = self.semijoined, frozenset()
        condition = self._condition(node, number)
        found = Filter(condition=condition, restricts=tables | self.semijoined, source=source)
        self.semijoined = before
        return found

    def _table(self, node: Any, number: int, *, writes: bool = False) -> int:
        alias = node.alias.aliasname
        self.tables.append(Table(name=node.relname, schema=node.schemaname, alias=alias, block=number, writes=writes))
        if node.alias.colnames:
            self.unsure.append(f"the columns of {node.relname} are renamed in FROM")
        return len(self.tables) - 1

    def _alias(self, node: Any) -> str:
        return str(node.alias.aliasname or node.relname)

    def _block(self, parent: int | None) -> int:
        self.blocks.append(Block(parent=parent))
        return len(self.blocks) - 1

    def _open(self) -> _Level:
        self.levels.append(_Level())
        return self.levels[-1]

    def _of(self, number: int) -> tuple[int, ...]:
        return tuple(place for place, table in enumerate(self.tables) if table.block == number)

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
            level = self.levels[-1] if self.levels else _Level()
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

    def _outputs(self, node: Any, level: _Level) -> tuple[dict[str, Column], _Level | None, tuple[Value, ...] | None]:
        """The plain columns that a SELECT yields, the FROM its `*` stands for, and all its values, without `*`."""
        columns: dict[str, Column] = {}
        stars: list[_Level] = []
        for target in node.target_list:
            value = target.res_target.val
            if value.WhichOneof("node") != "column_ref":
                continue
            if value.column_ref.fields[-1].WhichOneof("node") == "a_star":
                words = [word.string.sval for word in value.column_ref.fields][:-1]
                items = [item for item in level.items if not words or item[0] == words[-1]]
                stars.append(_Level(items=items, merged=level.merged, natural=level.natural))
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
