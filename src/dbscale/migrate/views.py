"""A view's SELECT as PostgreSQL's, for the relations that were created: the same rows, or a refusal that says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from dbscale.migrate import functions
from dbscale.migrate.comparison import compare
from dbscale.migrate.dialect import Scope, compile_node, order_term
from dbscale.migrate.names import LIMIT
from dbscale.migrate.syntax import (
    Call,
    Constant,
    Core,
    Exists,
    In,
    Name,
    Node,
    OrderTerm,
    Output,
    Scalar,
    Select,
    Source,
    children,
)
from dbscale.migrate.values import Untranslatable, Value, as_float, as_number, as_truth, ascii_lower, unify
from dbscale.schema import columns_sql, quote

_TYPES = {"int": "bigint", "float": "double precision", "numeric": "numeric", "text": "text", "bool": "boolean",
          "null": "text"}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table, a view or a subquery, as FROM sees it."""

    sql: str
    """What stands in FROM, without an alias."""
    columns: tuple[tuple[str, str, Value], ...]
    """The source's name, the target's name, and a value whose SQL is of no account."""
    key: frozenset[str] = frozenset()
    """The target's names of the primary key, on which PostgreSQL lets all other columns depend."""
    rowid: str = ""
    """The source's name of the column that is the rowid."""


Lookup = Callable[[str], Relation]
"""The relation of a name; Untranslatable where there is none in the target."""


@dataclass(frozen=True, slots=True)
class _Joined:
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


@dataclass(frozen=True, slots=True)
class _Compiled:
    """One SELECT of a compound."""

    distinct: bool
    columns: list[tuple[str, Value]]
    rest: str
    """All that follows the result columns."""
    scope: Scope
    grouping: _Grouping | None

    def sql(self, sqls: list[str] | None = None) -> str:
        """The SELECT, its columns' SQL replaced by `sqls` where they are given."""
        found = sqls or [value.sql for _, value in self.columns]
        listed = ", ".join(
            f"{sql} AS {quote(_legal(name))}" for sql, (name, _) in zip(found, self.columns, strict=True)
        )
        return f"SELECT {'DISTINCT ' * self.distinct}{listed}" + (f" {self.rest}" if self.rest else "")


def compile_view(select: Select, lookup: Lookup) -> tuple[str, list[tuple[str, Value]]]:
    """The query of a view, and its columns in order. Untranslatable with the reason."""
    return _Compiler(lookup).select(select)


@dataclass(slots=True)
class _Compiler:
    lookup: Lookup
    aliases: set[str] = field(default_factory=set)

    def select(self, select: Select, outer: Scope | None = None) -> tuple[str, list[tuple[str, Value]]]:
        """The SQL of a whole SELECT, and its columns by name."""
        if select.named:
            prefix, inner = self.with_clause(select, outer)
            sql, columns = inner.select(replace(select, named=()), outer)
            return prefix + sql, columns
        cores = [self.core(core, outer) for core in select.cores]
        first = cores[0]
        if len(cores) == 1 and not first.distinct:
            body, columns = first.sql(), first.columns
            order = _ordering(select.order, columns, first.scope, first.grouping)
        else:
            body, columns = _compound(cores, select.operators)
            body, order = self.ordered(body, columns, select.order)
        return body + order + _limits(select), columns

    def with_clause(self, select: Select, outer: Scope | None) -> tuple[str, _Compiler]:
        parts: list[str] = []
        named: dict[str, Relation] = {}
        inner = _Compiler(lambda name: named.get(ascii_lower(name)) or self.lookup(name), self.aliases)
        for name, names, query in select.named:
            sql, columns = inner.select(query, outer)
            if names and len(names) != len(columns):
                raise Untranslatable(f"WITH {name} names another number of columns")
            found = _unique(list(names) or [column for column, _ in columns])
            given = self.fresh(name)
            parts.append(f"{quote(given)} ({columns_sql(tuple(found))}) AS ({sql})")
            values = tuple((column, column, value) for column, (_, value) in zip(found, columns, strict=True))
            named[ascii_lower(name)] = Relation(sql=quote(given), columns=values)
        return f"WITH {', '.join(parts)} ", inner

    def ordered(self, body: str, columns: list[tuple[str, Value]], order: tuple[OrderTerm, ...]) -> tuple[str, str]:
        """DISTINCT and UNION are ordered from outside, where a term may be more than a column."""
        if not order:
            return body, ""
        _unique([name for name, _ in columns])
        alias = self.fresh("q")
        outside = [(name, replace(value, sql=quote(alias, name), atom=True)) for name, value in columns]
        scope = Scope(columns={ascii_lower(name): value for name, value in outside}, immutable=False)
        return f"SELECT * FROM ({body}) AS {quote(alias)}", _ordering(order, outside, scope, None)

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

    def core(self, core: Core, outer: Scope | None) -> _Compiled:
        joined, text = self.sources(core.sources, outer)
        scope = self.scope(joined, outer)
        outputs = [self.output(output, scope) for output in _expanded(core.outputs, joined)]
        named = {ascii_lower(output.alias): value for output, value in outputs if output.alias}
        columns = [(_output_name(output, scope), value) for output, value in outputs]
        # A name is a column's first, and only then an alias.
        scope = replace(scope, columns={**named, **scope.columns})
        plain = replace(scope, aggregates=False)
        parts = [text] if text else []
        if core.where is not None:
            parts.append(f"WHERE {as_truth(compile_node(core.where, plain)).sql}")
        groups = [_group(term, columns, plain) for term in core.group]
        if groups:
            parts.append("GROUP BY " + ", ".join(value.operand for value in groups))
        if core.having is not None:
            parts.append(f"HAVING {as_truth(compile_node(core.having, scope)).sql}")
        grouping = None
        if groups or core.having is not None or any(aggregates(output.operand) for output, _ in outputs):
            grouping = _Grouping(frozenset(value.sql for value in groups), joined, scope)
            for output, _ in outputs:
                grouping.check(output.operand)
            grouping.check(core.having)
        if core.distinct:
            _only_plain([value for _, value in columns], "DISTINCT")
        return _Compiled(core.distinct, columns, " ".join(parts), scope, grouping)

    def output(self, output: Output, scope: Scope) -> tuple[Output, Value]:
        """A result column; its translation is of a type that PostgreSQL can name."""
        value = compile_node(output.operand or Constant(None), scope)
        return output, result(value)

    def sources(self, sources: tuple[Source, ...], outer: Scope | None) -> tuple[list[_Joined], str]:
        joined: list[_Joined] = []
        parts: list[str] = []
        for source in sources:
            item = self.source(source)
            text = f"{item.relation.sql} AS {quote(item.alias)}"
            on = ""
            if source.using:
                on, item = _using(source, joined, item)
            joined.append(item)
            if source.on is not None:
                on = as_truth(compile_node(source.on, replace(self.scope(joined, outer), aggregates=False))).sql
            if not source.join:
                parts.append(f"FROM {text}")
            elif source.join in ("INNER", "CROSS"):
                parts.append(f"JOIN {text} ON {on}" if on else f"CROSS JOIN {text}")
            else:
                parts.append(f"{source.join} JOIN {text} ON {on or 'TRUE'}")
        return joined, " ".join(parts)

    def source(self, source: Source) -> _Joined:
        if source.select is not None:
            sql, columns = self.select(source.select)
            _unique([name for name, _ in columns])
            relation = Relation(sql=f"({sql})", columns=tuple((name, name, value) for name, value in columns))
        else:
            relation = self.lookup(source.name)
        alias = self.fresh(source.alias or source.name)
        values = {
            ascii_lower(name): replace(value, sql=quote(alias, given), atom=True, constant=None, repeatable=True)
            for name, given, value in relation.columns
        }
        for word in ("rowid", "_rowid_", "oid"):
            if relation.rowid:
                values.setdefault(word, values[ascii_lower(relation.rowid)])
        return _Joined(ascii_lower(source.alias or source.name), alias, relation, values)

    def scope(self, joined: list[_Joined], outer: Scope | None) -> Scope:
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
            subquery=self.select,
        )


def result(value: Value) -> Value:
    """`value` as a result column: of a type that a column can have, a comparison as 0 or 1."""
    if value.kind == "truth":
        return as_number(value)
    if value.kind == "dynamic":
        raise Untranslatable("a value out of JSON has no one type; CAST it in the view")
    if value.kind == "float" and value.constant is not None:
        return replace(value, sql=as_float(value), constant=None)
    if value.kind == "null":
        return replace(value, sql="NULL::text", constant=None)
    return value


def _legal(name: str) -> str:
    """A name within a view, where it has to be found again; the view's own columns are named from outside."""
    if not name or len(name.encode()) > LIMIT:
        return "?column?"
    return name


def _unique(names: list[str]) -> list[str]:
    """The names of a subquery's columns; Untranslatable where two are one, or one cannot be."""
    low = [ascii_lower(name) for name in names]
    if len(set(low)) < len(low) or any(not name or len(name.encode()) > LIMIT for name in names):
        raise Untranslatable("the columns of a subquery need names of their own")
    return names


def _expanded(outputs: tuple[Output, ...], joined: list[_Joined]) -> list[Output]:
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


def _output_name(output: Output, scope: Scope) -> str:
    """SQLite's name for a result column: the alias, the column's own, or the text of the expression."""
    if output.alias:
        return output.alias
    if isinstance(output.operand, Name) and scope.column(output.operand) is not None:
        return output.operand.parts[-1]
    return output.text


def _using(source: Source, joined: list[_Joined], item: _Joined) -> tuple[str, _Joined]:
    """USING as ON: bare names and `*` then take the column from the left."""
    if source.join not in ("INNER", "LEFT", "CROSS"):
        raise Untranslatable(f"{source.join} JOIN with USING")
    tests = []
    for name in source.using:
        left = next((each.values[ascii_lower(name)] for each in joined if ascii_lower(name) in each.values), None)
        right = item.values.get(ascii_lower(name))
        if left is None or right is None:
            raise Untranslatable(f"USING ({name}) finds no such column")
        tests.append(compare("=", left, right).operand)
    return " AND ".join(tests), replace(item, hidden=frozenset(ascii_lower(name) for name in source.using))


# -- groups ----------------------------------------------------------------------------------------------------


def _group(term: Node, columns: list[tuple[str, Value]], scope: Scope) -> Value:
    if isinstance(term, Constant) and isinstance(term.value, int) and 1 <= term.value <= len(columns):
        value = columns[term.value - 1][1]
    else:
        value = compile_node(term, scope)
    if value.constant is not None or value.kind in ("json", "dynamic", "other"):
        raise Untranslatable("GROUP BY a constant, or what PostgreSQL cannot group")
    _only_plain([value], "GROUP BY")
    return value


def _only_plain(values: list[Value], where: str) -> None:
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


@dataclass(frozen=True, slots=True)
class _Grouping:
    """What may stand beside GROUP BY or an aggregate: SQLite takes any column, from a row of its choice."""

    groups: frozenset[str]
    joined: list[_Joined]
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
            if self.decided(value) or not self.own(value):
                return
            raise Untranslatable(f"{node.parts[-1]} is neither grouped nor aggregated: SQLite takes it from any row")
        for child in children(node):
            self.check(child)

    def own(self, value: Value) -> bool:
        return any(value.sql == own.sql for item in self.joined for own in item.values.values())

    def decided(self, value: Value) -> bool:
        """True when `value` is a column of a table whose whole primary key is grouped by."""
        for item in self.joined:
            if item.relation.key and any(value.sql == own.sql for own in item.values.values()):
                return {quote(item.alias, name) for name in item.relation.key} <= self.groups
        return False


# -- compounds and order ---------------------------------------------------------------------------------------


def _compound(cores: list[_Compiled], operators: tuple[str, ...]) -> tuple[str, list[tuple[str, Value]]]:
    """The cores with UNION and the like between them, from left to right, their columns of one type each."""
    if len({len(core.columns) for core in cores}) > 1:
        raise Untranslatable("the parts of a UNION have different numbers of columns")
    columns: list[tuple[str, Value]] = []
    sqls: list[list[str]] = [[] for _ in cores]
    for place, (name, first) in enumerate(cores[0].columns):
        values = [core.columns[place][1] for core in cores]
        if set(operators) - {"UNION ALL"}:
            _only_plain(values, "UNION")
        kind, texts = unify(values)
        for own, text in zip(sqls, texts, strict=True):
            own.append(f"NULL::{_TYPES.get(kind, 'text')}" if text.startswith("NULL") and kind in _TYPES else text)
        columns.append((name, replace(first, kind=kind, mixed=any(value.mixed for value in values))))
    parts = [core.sql(texts) for core, texts in zip(cores, sqls, strict=True)]
    body = parts[0]
    for place, (operator, part) in enumerate(zip(operators, parts[1:], strict=True)):
        body = f"({body}) {operator} {part}" if place else f"{body} {operator} {part}"
    return body, columns


def _ordering(
    terms: tuple[OrderTerm, ...], columns: list[tuple[str, Value]], scope: Scope, grouping: _Grouping | None
) -> str:
    """ORDER BY; SQLite puts NULLs before all values, PostgreSQL after them."""
    parts = []
    for term in terms:
        node = term.operand
        alias = ascii_lower(node.parts[0]) if isinstance(node, Name) and len(node.parts) == 1 else None
        named = [value for name, value in columns if alias is not None and ascii_lower(name) == alias]
        if isinstance(node, Constant) and isinstance(node.value, int) and 1 <= node.value <= len(columns):
            value = columns[node.value - 1][1]
        elif named:
            value = named[0]
        else:
            if grouping is not None:
                grouping.check(node)
            value = compile_node(node, scope)
        nulls = term.nulls or ("LAST" if term.descending else "FIRST")
        parts.append(f"{order_term(value)}{' DESC' * term.descending} NULLS {nulls}")
    return f" ORDER BY {', '.join(parts)}" if parts else ""


def _limits(select: Select) -> str:
    """LIMIT and OFFSET of literal numbers; a negative limit is none."""
    text = ""
    for word, node in (("LIMIT", select.limit), ("OFFSET", select.offset)):
        if node is None:
            continue
        if not isinstance(node, Constant) or not isinstance(node.value, int):
            raise Untranslatable(f"{word} that is not a literal")
        if not select.order:
            raise Untranslatable(f"{word} without ORDER BY takes whichever rows come first")
        if node.value >= 0:
            text += f" {word} {node.value}"
    return text
