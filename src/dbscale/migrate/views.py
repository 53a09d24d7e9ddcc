"""A view's SELECT as PostgreSQL's, for the relations that were created: the same rows, or a refusal that says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from dbscale.migrate import recursion
from dbscale.migrate.compounds import limits, ordering, union
from dbscale.migrate.dialect import Scope, Unsettled, compile_node
from dbscale.migrate.grouping import aggregates, extremes, group, only_plain, windowed
from dbscale.migrate.keys import Equal, same
from dbscale.migrate.names import LIMIT
from dbscale.migrate.relations import (
    Compiled,
    Joined,
    Query,
    Relation,
    equalities,
    expanded,
    grouping_of,
    output_name,
    unique,
    using,
)
from dbscale.migrate.syntax import Constant, Core, Node, OrderTerm, Output, Select, Source
from dbscale.migrate.values import Untranslatable, Value, as_float, as_number, as_truth, ascii_lower
from dbscale.schema import columns_sql, quote

Lookup = Callable[[str], Relation]
"""The relation of a name; Untranslatable where there is none in the target."""


def compile_view(select: Select, lookup: Lookup) -> tuple[Query, tuple[str, ...]]:
    """The query of a view, and what in it depends on an order that it does not settle. Untranslatable: the reason."""
    compiler = _Compiler(lookup, lookup)
    query = compiler.select(select)
    return query, tuple(compiler.unsettled)


@dataclass(slots=True)
class _Compiler:
    tables: Lookup
    """Of tables and views."""
    lookup: Lookup
    """Of these and of what WITH names."""
    aliases: set[str] = field(default_factory=set)
    unsettled: dict[str, None] = field(default_factory=dict)

    def select(self, select: Select, outer: Scope | None = None, *, first: bool = False) -> Query:
        """A whole SELECT; of its `first` row alone where that is asked for."""
        if select.named:
            prefix, inner = self.with_clause(select, outer)
            query = inner.select(replace(select, named=()), outer, first=first)
            return replace(query, sql=prefix + query.sql)
        alone = select.order if len(select.cores) == 1 else ()
        cores = [self.core(core, outer, alone) for core in select.cores]
        one = cores[0]
        if len(cores) == 1 and not one.distinct:
            body, columns, keys, outside = one.sql(), one.columns, one.keys(), one.columns
            order, terms = ordering(select.order, columns, one.scope, one.grouping)
            single = one.single()
        else:
            body, columns = union(cores, select.operators)
            whole = frozenset(range(len(columns)))
            keys = (whole,) if not select.operators or select.operators[-1] != "UNION ALL" else ()
            body, order, terms, outside = self.ordered(body, columns, select.order)
            single = False
        tail = limits(select, first=first and not single)
        if tail and not terms >= {value.sql for _, value in outside}:
            said = "LIMIT" if select.limit is not None else "a subquery that stands for one value and may have more"
            one.scope.unsettled.append(Unsettled(said, terms if len(cores) == 1 and terms else None, groups=True))
        for core in cores:
            self.unsettled |= dict.fromkeys(each.what for each in core.scope.unsettled if not core.settles(each))
        return Query(body + order + tail, columns, keys)

    def subquery(self, select: Select, outer: Scope, first: bool) -> tuple[str, list[tuple[str, Value]]]:
        query = self.select(select, outer, first=first)
        return query.sql, query.columns

    def with_clause(self, select: Select, outer: Scope | None) -> tuple[str, _Compiler]:
        parts: list[str] = []
        named: dict[str, Relation] = {}
        waiting = {ascii_lower(name) for name, _, _ in select.named}

        def lookup(name: str) -> Relation:
            if ascii_lower(name) in waiting:
                raise Untranslatable(f"WITH reads {name} within itself, or before it is named")
            return named.get(ascii_lower(name)) or self.lookup(name)

        inner = _Compiler(self.tables, lookup, self.aliases, self.unsettled)
        word = "WITH"
        for name, names, query in select.named:
            given = self.fresh(name)
            if recursion.reads_itself(name, query):
                word = "WITH RECURSIVE"
                made = inner.recursive(name, given, names, query, outer)
            else:
                made = inner.select(query, outer)
            found = unique(list(names) or [column for column, _ in made.columns], len(made.columns))
            parts.append(f"{quote(given)} ({columns_sql(tuple(found))}) AS ({made.sql})")
            named[ascii_lower(name)] = made.relation(quote(given), found)
            waiting.discard(ascii_lower(name))
        return f"{word} {', '.join(parts)} ", inner

    def recursive(self, name: str, given: str, names: tuple[str, ...], query: Select, outer: Scope | None) -> Query:
        """A query that names itself in its last SELECT.

        SQLite takes one row at a time from a queue, PostgreSQL all rows of the last round: the same rows come out where
        the SELECT treats each row by itself. A column has one type in PostgreSQL, so that of a round's result is
        tried until it is that of what goes into it.
        """
        if not recursion.by_row(name, query):
            raise Untranslatable("a WITH that names itself in another way than once in FROM of its last SELECT")
        anchors = [self.core(core, outer) for core in query.cores[:-1]]
        _, columns = union(anchors, query.operators[:-1])
        labels = unique(list(names) or [column for column, _ in columns], len(columns))
        for _ in range(5):
            relation = Query("", columns).relation(quote(given), labels)
            inner = _Compiler(
                self.tables,
                lambda each, own=relation: own if ascii_lower(each) == ascii_lower(name) else self.lookup(each),  # type: ignore[misc]
                self.aliases,
                self.unsettled,
            )
            last = inner.core(query.cores[-1], outer)
            if (
                last.grouping is not None
                or last.distinct
                or any(windowed(each.operand) for each in query.cores[-1].outputs)
            ):
                raise Untranslatable("an aggregate, DISTINCT or a window within what WITH repeats")
            sql, found = union([*anchors, last], query.operators, cast=True)
            if [recursion.shape(value) for _, value in found] == [recursion.shape(value) for _, value in columns]:
                return Query(sql, found)
            columns = found
        raise Untranslatable("the columns of a WITH that names itself do not come to one type")

    def ordered(
        self, body: str, columns: list[tuple[str, Value]], order: tuple[OrderTerm, ...]
    ) -> tuple[str, str, frozenset[str], list[tuple[str, Value]]]:
        """DISTINCT and UNION are ordered from outside, where a term may be more than a column."""
        if not order:
            return body, "", frozenset(), columns
        unique([name for name, _ in columns])
        alias = self.fresh("q")
        outside = [(name, replace(value, sql=quote(alias, name), atom=True)) for name, value in columns]
        scope = Scope(columns={ascii_lower(name): value for name, value in outside}, immutable=False)
        text, terms = ordering(order, outside, scope, None)
        return f"SELECT * FROM ({body}) AS {quote(alias)}", text, terms, outside

    def fresh(self, wanted: str) -> str:
        """An alias that nothing else in the view has, so that an outer column stays in sight."""
        if not wanted or len(wanted.encode()) > LIMIT - 4:
            wanted = "q"
        name, count = wanted, 1
        while ascii_lower(name) in self.aliases:
            count += 1
            name = f"{wanted}_{count}"
        self.aliases.add(ascii_lower(name))
        return name

    def core(self, core: Core, outer: Scope | None, order: tuple[OrderTerm, ...] = ()) -> Compiled:
        """One SELECT; `order` is what its rows are ordered by."""
        joined, text, equals = self.sources(core.sources, outer)
        windows = {ascii_lower(name): window for name, window in core.windows}
        if len(windows) < len(core.windows):
            raise Untranslatable("two windows have one name")
        within = replace(self.scope(joined, outer), windows=windows)
        listed = expanded(core.outputs, joined)
        columns, scope = self.outputs(listed, within)
        plain = replace(scope, aggregates=False, windows=None)
        parts = [text] if text else []
        if core.where is not None:
            parts.append(f"WHERE {as_truth(compile_node(core.where, plain)).sql}")
            equals += equalities(core.where, plain, joined)
        operands = [output.operand for output in listed]
        groups = [group(term, columns, plain, [_calculated(each) for each in operands]) for term in core.group]
        if groups:
            parts.append("GROUP BY " + ", ".join(value.operand for value in groups))
        grouping, rows = None, tuple(item.rows() for item in joined)
        if groups or core.having is not None or any(aggregates(operand) for operand in operands):
            grouping = grouping_of(groups, joined, scope)
            calls = extremes([*operands, core.having, *(term.operand for term in order)])
            picks = grouping.picks([*operands, core.having], calls, same(grouping.groups, rows, equals))
            if picks:
                columns, scope = self.outputs(listed, replace(within, picked=picks))
                grouping = replace(grouping, decided=grouping.decided | picks.keys())
        if core.having is not None:
            parts.append(f"HAVING {as_truth(compile_node(core.having, replace(scope, windows=None))).sql}")
        if core.distinct:
            only_plain([value for _, value in columns], "DISTINCT")
        return Compiled(distinct=core.distinct, columns=columns, rest=" ".join(parts), scope=scope,
                        grouping=grouping, rows=rows, equals=tuple(equals))  # fmt: skip

    def outputs(self, listed: list[Output], scope: Scope) -> tuple[list[tuple[str, Value]], Scope]:
        """The result columns by name, and what the rest of the SELECT may name."""
        found = [self.output(output, scope) for output in listed]
        named = {
            ascii_lower(output.alias): replace(value, calculated=_calculated(output.operand))
            for output, value in found
            if output.alias
        }
        # A name is a column's first, and only then an alias.
        further = replace(scope, columns={**named, **scope.columns})
        return [(output_name(output, scope), value) for output, value in found], further

    def output(self, output: Output, scope: Scope) -> tuple[Output, Value]:
        """A result column; its translation is of a type that PostgreSQL can name."""
        value = compile_node(output.operand or Constant(None), scope)
        return output, result(value)

    def sources(self, sources: tuple[Source, ...], outer: Scope | None) -> tuple[list[Joined], str, list[Equal]]:
        joined: list[Joined] = []
        parts: list[str] = []
        equals: list[Equal] = []
        for source in sources:
            item = self.source(source)
            text = f"{item.relation.sql} AS {quote(item.alias)}"
            on = ""
            if source.using or source.natural:
                on, item, same = using(source, joined, item)
                equals += same
            joined.append(item)
            if source.on is not None:
                scope = replace(self.scope(joined, outer), aggregates=False)
                on = as_truth(compile_node(source.on, scope)).sql
                equals += equalities(source.on, scope, joined, source.join)
            if not source.join:
                parts.append(f"FROM {text}")
            elif source.join in ("INNER", "CROSS"):
                parts.append(f"JOIN {text} ON {on}" if on else f"CROSS JOIN {text}")
            else:
                parts.append(f"{source.join} JOIN {text} ON {on or 'TRUE'}")
        return joined, " ".join(parts), equals

    def source(self, source: Source) -> Joined:
        if source.select is not None:
            query = self.select(source.select)
            relation = query.relation(f"({query.sql})", unique([name for name, _ in query.columns]))
        else:
            relation = (self.tables if source.qualified else self.lookup)(source.name)
        alias = self.fresh(source.alias or source.name)
        values = {
            ascii_lower(name): replace(
                value, sql=quote(alias, given), atom=True, constant=None, repeatable=True, aggregate=False
            )
            for name, given, value in relation.columns
        }
        for word in ("rowid", "_rowid_", "oid"):
            if relation.rowid:
                values.setdefault(word, values[ascii_lower(relation.rowid)])
        return Joined(ascii_lower(source.alias or source.name), alias, relation, values)

    def scope(self, joined: list[Joined], outer: Scope | None) -> Scope:
        bare: dict[str, Value] = {}
        ambiguous: set[str] = set()
        tables: dict[str, Mapping[str, Value]] = {}
        for item in joined:
            tables.setdefault(item.name, item.values)
            for name, value in item.values.items():
                if name in bare and name not in item.hidden:
                    ambiguous.add(name)
                bare.setdefault(name, value)
        return Scope(
            columns=bare,
            tables=tables,
            ambiguous=frozenset(ambiguous),
            immutable=False,
            aggregates=True,
            outer=outer,
            subquery=self.subquery,
        )


def _calculated(node: Node | None) -> bool:
    return aggregates(node) or windowed(node)


def result(value: Value) -> Value:
    """`value` as a result column: of a type that a column can have, a comparison as 0 or 1."""
    if value.kind == "truth":
        return as_number(value)
    if value.kind == "dynamic":
        raise Untranslatable("a value out of JSON has no one type; CAST it AS INTEGER in the view, or compare it")
    if value.kind == "float" and value.constant is not None:
        return replace(value, sql=as_float(value), constant=None)
    if value.kind == "null":
        return replace(value, sql="NULL::text", constant=None)
    return value
