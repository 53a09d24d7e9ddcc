"""The walk through a statement's syntax tree that gathers what `Query` says of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dbscale.query import (
    Block,
    Column,
    Compare,
    Filter,
    Insert,
    Literal,
    Order,
    Parameter,
    Query,
    Table,
    Unknown,
    Value,
)
from dbscale.query.expressions import Derived, Expressions, Level
from dbscale.query.functions import AGGREGATES, OF_THE_SERVER, PLAIN, READABLE


class Reader(Expressions):
    """Walks one statement's tree and gathers what `Query` says of it."""

    def __init__(self, sql: str, parameters: tuple[str, ...] | None) -> None:
        import postgast

        super().__init__()
        self.sql, self.parameters = sql, parameters
        self.walk = postgast.walk
        self.tables: list[Table] = []
        self.blocks: list[Block] = []
        self.ctes: list[dict[str, Any]] = [{}]
        self.unsure: list[str] = []
        self.insert: Insert | None = None
        self.sets: list[tuple[str, Value]] = []

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

    def _select(self, node: Any, parent: int | None) -> Derived:
        number = self._block(parent)
        self._with(node, number)
        if node.op != self.pb.SETOP_NONE:
            for arm in (node.larg, node.rarg):
                self._select(arm, number)
            self.blocks[number] = Block(parent=parent, set_operation=True, **self._end(node, []))
            self.ctes.pop()
            return Derived()
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

    def _shape(self, node: Any, number: int, level: Level, tables: frozenset[int]) -> Derived:
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
            return Derived(values=values)
        if groups:
            columns = {name: column for name, column in columns.items() if column in block.group_by}
            star = None
        return Derived(columns=columns, star=star, tables=tables, values=values)

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
            rows = self._listed_rows(source)
            self.levels.append(level)
        found = Insert(table=table, columns=columns, rows=rows, select=select, outputs=outputs, conflict=conflict)
        if conflict is not None:
            self._assign(node.on_conflict_clause.target_list, number)
        if parent is None:
            self.insert = found
        self._finish(node, number, parent, ())

    def _listed_rows(self, source: Any) -> tuple[tuple[Value, ...], ...]:
        """The rows of `SELECT a::t, … FROM (VALUES …) AS v (a, …)`, as SQLAlchemy inserts many; none of other forms."""
        plain = (
            len(source.from_clause) == 1 and not source.HasField("where_clause") and not source.HasField("limit_count")
        )
        listed = source.from_clause[0] if plain and not source.HasField("limit_offset") else None
        if listed is None or listed.WhichOneof("node") != "range_subselect":
            return ()
        inner = listed.range_subselect.subquery.select_stmt
        names = [name.string.sval for name in listed.range_subselect.alias.colnames]
        places: list[tuple[int, str]] = []
        for target in source.target_list:
            value, type_ = target.res_target.val, ""
            if value.WhichOneof("node") == "type_cast":
                value, type_ = value.type_cast.arg, self._type(value.type_cast.type_name)
            words = [word.string.sval for word in value.column_ref.fields]
            if len(words) != 1 or words[0] not in names:
                return ()
            places.append((names.index(words[0]), type_))
        if not inner.values_lists or inner.limit_count.WhichOneof("node") or source.distinct_clause:
            return ()
        return tuple(
            tuple(self._cast(row.list.items[place], type_) for place, type_ in places) for row in inner.values_lists
        )

    def _cast(self, node: Any, type_: str) -> Value:
        value = self._value(node)
        if type_ and isinstance(value, Literal | Parameter):
            return replace(value, type=type_) if value.type in ("", type_) else Unknown("a cast of a cast")
        return value

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

    def _cte(self, name: str, number: int) -> Derived | None:
        """What the CTE called `name` yields; None where there is none of that name."""
        for scope in reversed(self.ctes):
            if name not in scope:
                continue
            if scope[name] is None:
                return Derived()
            cte, ctes, levels = scope[name]
            if len(self.blocks) > 500:
                self.unsure.append("too many CTEs that read each other")
                return Derived()
            before = self.ctes, self.levels
            self.ctes, self.levels = ctes, levels
            derived = self._select(cte.ctequery.select_stmt, number)
            self.ctes, self.levels = before
            return derived if not cte.aliascolnames else Derived()
        return None

    def _from(self, nodes: Any, level: Level, filters: list[Filter], number: int) -> frozenset[int]:
        found: frozenset[int] = frozenset()
        for node in nodes:
            found |= self._item(node, level, filters, number)
        return found

    def _item(self, node: Any, level: Level, filters: list[Filter], number: int) -> frozenset[int]:
        """Add one item of FROM to `level`; the tables that conditions on it restrict."""
        kind = node.WhichOneof("node")
        item = getattr(node, kind)
        if kind == "join_expr":
            return self._join(item, level, filters, number)
        if kind == "range_table_sample":
            self._subqueries([*item.args, item.repeatable], number)
            return self._item(item.relation, level, filters, number)
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
            derived = Derived()
            self._subqueries([node], number)
        if item.alias.colnames:
            derived = Derived()
        level.items.append((item.alias.aliasname or getattr(item, "relname", ""), derived))
        return derived.tables

    def _join(self, node: Any, level: Level, filters: list[Filter], number: int) -> frozenset[int]:
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
            sides = [Level(items=items) for items in (level.items[start:middle], level.items[middle:])]
            pair = [side.bare(name, outermost=True) for side in sides]
            filters.append(Filter(condition=Compare(pair[0], "=", (pair[1],)), restricts=within, source="on"))
            kept = {self.pb.JOIN_INNER: pair[0], self.pb.JOIN_LEFT: pair[0], self.pb.JOIN_RIGHT: pair[1]}
            level.merged[name] = kept.get(kind, Column(None, name))
        if node.HasField("quals"):
            # ON sees the two sides of its own join only.
            self.levels[-1] = Level(items=level.items[start:], merged=level.merged, natural=level.natural)
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

    def _open(self) -> Level:
        self.levels.append(Level())
        return self.levels[-1]

    def _of(self, number: int) -> tuple[int, ...]:
        return tuple(place for place, table in enumerate(self.tables) if table.block == number)
