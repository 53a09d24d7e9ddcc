"""SQLite's SQL read into a tree: expressions, and the SELECT statements of views.

The precedence is SQLite's own (its lang_expr.html), where `||` binds tighter than `*`, and `=`, IS, LIKE and IN
stand on one level below `<`. A general SQL parser reads such expressions differently without a word, and rewrites
functions into its own forms; here every name stays as the source has it. What is not understood raises
`NotUnderstood`; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal as OneOf
from typing import TypeVar

from dbscale.migrate.syntax import (
    Between,
    Binary,
    Call,
    Case,
    Cast,
    Collate,
    Constant,
    Core,
    Exists,
    In,
    Match,
    Name,
    Node,
    OrderTerm,
    Output,
    Scalar,
    Select,
    Source,
    Unary,
    children,
)
from dbscale.migrate.tokens import RESERVED, NotUnderstood, Words, constant, signed

T = TypeVar("T")


def parse_expression(sql: str) -> Node:
    """The tree of an expression; NotUnderstood where it is none, or has parts that are not read."""
    return _whole(sql, lambda parser: parser.expression())


def parse_select(sql: str) -> Select:
    """The tree of a SELECT statement, with or without WITH; NotUnderstood otherwise."""
    return _whole(sql, lambda parser: parser.select())


def parse_view(sql: str) -> tuple[tuple[str, ...], Select]:
    """The named columns and the query of a CREATE VIEW statement; NotUnderstood otherwise."""
    return _whole(sql, lambda parser: parser.view())


def _whole(sql: str, read: Callable[[_Parser], T]) -> T:
    parser = _Parser(sql)
    try:
        result = read(parser)
    except RecursionError:
        raise NotUnderstood("it is nested too deeply") from None
    parser.accept_operator(";")
    if parser.token.kind != "end":
        raise NotUnderstood(f"unexpected {parser.token.text!r}")
    return result


# From the loosest to the tightest; NOT stands between AND and the comparisons.
_LEVELS: tuple[tuple[str, ...], ...] = (
    ("<", "<=", ">", ">="),
    ("&", "|", "<<", ">>"),
    ("+", "-"),
    ("*", "/", "%"),
    ("||", "->", "->>"),
)


class _Parser(Words):
    # -- expressions -------------------------------------------------------------------------------------------

    def expression(self) -> Node:
        left = self.conjunction()
        while self.accept("OR"):
            left = Binary("OR", left, self.conjunction())
        return left

    def conjunction(self) -> Node:
        left = self.negation()
        while self.accept("AND"):
            left = Binary("AND", left, self.negation())
        return left

    def negation(self) -> Node:
        if self.word() == "NOT" and self.word(1) != "EXISTS":
            self.place += 1
            return Unary("NOT", self.negation())
        if self.accept("NOT"):
            return Unary("NOT", self.negation())
        return self.equality()

    def equality(self) -> Node:
        left = self.binary(0)
        while (further := self.compared(left)) is not None:
            left = further
        return left

    def compared(self, left: Node) -> Node | None:
        """`left` with one more operator of the level of `=`; None when none follows."""
        if self.token.kind == "operator" and self.token.text in ("=", "==", "<>", "!="):
            operator = "=" if self.token.text in ("=", "==") else "<>"
            self.place += 1
            return Binary(operator, left, self.binary(0))
        if self.accept("ISNULL"):
            return Binary("IS", left, Constant(None))
        if self.accept("NOTNULL") or self.accept("NOT", "NULL"):
            return Binary("IS NOT", left, Constant(None))
        if self.accept("IS"):
            return self.identical(left)
        negated = self.word() == "NOT" and self.word(1) in ("LIKE", "GLOB", "REGEXP", "MATCH", "BETWEEN", "IN")
        self.place += negated
        word = self.word()
        if word in ("LIKE", "GLOB", "REGEXP", "MATCH"):
            self.place += 1
            pattern = self.binary(0)
            escape = self.binary(0) if self.accept("ESCAPE") else None
            return Match(word, left, pattern, escape, negated)
        if self.accept("BETWEEN"):
            low = self.binary(0)
            self.expect("AND")
            return Between(left, low, self.binary(0), negated)
        if self.accept("IN"):
            return self.member(left, negated=negated)
        return None

    def identical(self, left: Node) -> Node:
        negated = self.accept("NOT")
        if self.accept("DISTINCT", "FROM"):
            negated = not negated
        return Binary("IS NOT" if negated else "IS", left, self.binary(0))

    def member(self, left: Node, *, negated: bool) -> Node:
        if not self.accept_operator("("):
            table = self.identifier()
            everything = Core((Output(None, star=True),), (Source(table),))
            return In(left, Select((everything,)), negated)
        if self.word() in ("SELECT", "WITH", "VALUES"):
            select = self.select()
            self.expect_operator(")")
            return In(left, select, negated)
        if self.accept_operator(")"):
            return In(left, (), negated)
        return In(left, self.listed(), negated)

    def listed(self) -> tuple[Node, ...]:
        """Expressions up to the closing bracket, and past it."""
        items = [self.expression()]
        while self.accept_operator(","):
            items.append(self.expression())
        self.expect_operator(")")
        return tuple(items)

    def binary(self, level: int) -> Node:
        if level == len(_LEVELS):
            return self.collated()
        left = self.binary(level + 1)
        while self.token.kind == "operator" and self.token.text in _LEVELS[level]:
            operator = self.token.text
            self.place += 1
            left = Binary(operator, left, self.binary(level + 1))
        return left

    def collated(self) -> Node:
        left = self.unary()
        while self.accept("COLLATE"):
            left = Collate(left, self.identifier().upper())
        return left

    def unary(self) -> Node:
        if self.token.kind == "operator" and self.token.text in "-+~":
            operator = self.token.text
            self.place += 1
            return signed(operator, self.unary())
        return self.primary()

    def primary(self) -> Node:
        token = self.token
        if token.kind in ("number", "text", "blob"):
            self.place += 1
            return constant(token)
        if self.accept_operator("("):
            return self.bracketed()
        word = self.word()
        if word == "NULL":
            self.place += 1
            return Constant(None)
        if word == "CASE":
            return self.case()
        if word == "CAST" and self.tokens[self.place + 1].text == "(":
            return self.cast()
        if self.accept("EXISTS"):
            self.expect_operator("(")
            select = self.select()
            self.expect_operator(")")
            return Exists(select)
        if word in ("CURRENT_TIMESTAMP", "CURRENT_DATE", "CURRENT_TIME"):
            self.place += 1
            return Call(word.lower())
        if token.kind == "word" and self.tokens[self.place + 1].text == "(" and word not in RESERVED - {"LIKE", "GLOB"}:
            return self.call()
        return self.name()

    def bracketed(self) -> Node:
        if self.word() in ("SELECT", "WITH", "VALUES"):
            select = self.select()
            self.expect_operator(")")
            return Scalar(select)
        items = self.listed()
        if len(items) > 1:
            raise NotUnderstood("row values are not read")
        return items[0]

    def name(self) -> Node:
        token = self.token
        parts = [self.identifier()]
        while self.accept_operator("."):
            parts.append(self.identifier())
        if token.kind == "text" and len(parts) == 1:
            raise NotUnderstood("unexpected text")
        return Name(tuple(parts[-2:]), maybe_text=token.kind == "double" and len(parts) == 1)

    def case(self) -> Node:
        self.expect("CASE")
        operand = None if self.word() == "WHEN" else self.expression()
        branches = []
        while self.accept("WHEN"):
            condition = self.expression()
            self.expect("THEN")
            branches.append((condition, self.expression()))
        otherwise = self.expression() if self.accept("ELSE") else None
        self.expect("END")
        return Case(operand, tuple(branches), otherwise)

    def cast(self) -> Node:
        self.place += 2
        operand = self.expression()
        self.expect("AS")
        start = self.token.start
        depth = 0
        while self.token.kind != "end" and (depth or self.token.text != ")"):
            depth += {"(": 1, ")": -1}.get(self.token.text, 0)
            self.place += 1
        end = self.token.start
        self.expect_operator(")")
        return Cast(operand, self.sql[start:end].strip())

    def call(self) -> Node:
        name = self.token.text.lower()
        self.place += 2
        star = distinct = False
        arguments: tuple[Node, ...] = ()
        if self.accept_operator("*"):
            star = True
            self.expect_operator(")")
        elif not self.accept_operator(")"):
            distinct = self.accept("DISTINCT")
            arguments = self.listed()
        condition = None
        if self.word() == "FILTER" and self.tokens[self.place + 1].text == "(":
            self.place += 2
            self.expect("WHERE")
            condition = self.expression()
            self.expect_operator(")")
        if self.word() == "OVER":
            raise NotUnderstood("window functions are not read")
        return Call(name, arguments, distinct, star, condition)

    # -- SELECT ------------------------------------------------------------------------------------------------

    def view(self) -> tuple[tuple[str, ...], Select]:
        self.expect("CREATE")
        if not self.accept("TEMP"):
            self.accept("TEMPORARY")
        self.expect("VIEW")
        self.accept("IF", "NOT", "EXISTS")
        self.identifier()
        if self.accept_operator("."):
            self.identifier()
        columns: tuple[str, ...] = self.names_in_brackets() if self.token.text == "(" else ()
        self.expect("AS")
        return columns, self.select()

    def select(self) -> Select:
        named = self.with_clause() if self.accept("WITH") else ()
        cores, operators = [self.core()], []
        while self.word() in ("UNION", "INTERSECT", "EXCEPT"):
            operator = self.word()
            self.place += 1
            operators.append(operator + (" ALL" if operator == "UNION" and self.accept("ALL") else ""))
            cores.append(self.core())
        order = self.ordering() if self.accept("ORDER", "BY") else ()
        limit = offset = None
        if self.accept("LIMIT"):
            limit = self.expression()
            if self.accept("OFFSET"):
                offset = self.expression()
            elif self.accept_operator(","):
                limit, offset = self.expression(), limit
        return Select(tuple(cores), tuple(operators), order, limit, offset, named)

    def with_clause(self) -> tuple[tuple[str, tuple[str, ...], Select], ...]:
        if self.accept("RECURSIVE"):
            raise NotUnderstood("WITH RECURSIVE is not read")
        named = []
        while True:
            name = self.identifier()
            columns = self.names_in_brackets() if self.token.text == "(" else ()
            self.expect("AS")
            if not self.accept("NOT", "MATERIALIZED"):
                self.accept("MATERIALIZED")
            self.expect_operator("(")
            named.append((name, columns, self.select()))
            self.expect_operator(")")
            if not self.accept_operator(","):
                return tuple(named)

    def ordering(self) -> tuple[OrderTerm, ...]:
        terms = []
        while True:
            operand = self.expression()
            descending = self.accept("DESC") or (self.accept("ASC") and False)
            nulls: OneOf["", "FIRST", "LAST"] = ""
            if self.accept("NULLS", "FIRST"):
                nulls = "FIRST"
            elif self.accept("NULLS", "LAST"):
                nulls = "LAST"
            terms.append(OrderTerm(operand, descending, nulls))
            if not self.accept_operator(","):
                return tuple(terms)

    def core(self) -> Core:
        if self.accept("VALUES"):
            raise NotUnderstood("VALUES is not read")
        self.expect("SELECT")
        distinct = self.accept("DISTINCT") or (self.accept("ALL") and False)
        outputs = [self.output()]
        while self.accept_operator(","):
            outputs.append(self.output())
        sources = self.sources() if self.accept("FROM") else ()
        where = self.expression() if self.accept("WHERE") else None
        group: tuple[Node, ...] = ()
        if self.accept("GROUP", "BY"):
            terms = [self.expression()]
            while self.accept_operator(","):
                terms.append(self.expression())
            group = tuple(terms)
        having = self.expression() if self.accept("HAVING") else None
        if self.word() == "WINDOW":
            raise NotUnderstood("window functions are not read")
        return Core(tuple(outputs), sources, where, group, having, distinct)

    def output(self) -> Output:
        if self.accept_operator("*"):
            return Output(None, star=True)
        following = self.tokens[self.place + 1 : self.place + 3]
        if [token.text for token in following] == [".", "*"]:
            table = self.identifier()
            self.place += 2
            return Output(None, star=True, table=table)
        start = self.token.start
        operand = self.expression()
        text = self.sql[start : self.tokens[self.place - 1].end]
        return Output(operand, self.alias(), text=text)

    def alias(self) -> str:
        if self.accept("AS") or self.token.kind in ("double", "quoted", "text"):
            return self.identifier()
        if self.token.kind == "word" and self.word() not in RESERVED:
            return self.identifier()
        return ""

    def sources(self) -> tuple[Source, ...]:
        found = self.source("")
        while (join := self.join()) is not None:
            found += self.source(join)
        return found

    def join(self) -> str | None:
        """The kind of the join that follows; None when none does."""
        if self.accept_operator(","):
            return "CROSS"
        if self.word() == "NATURAL":
            raise NotUnderstood("NATURAL JOIN is not read")
        if self.accept("JOIN") or self.accept("INNER", "JOIN"):
            return "INNER"
        if self.accept("CROSS", "JOIN"):
            return "CROSS"
        for side in ("LEFT", "RIGHT", "FULL"):
            if self.accept(side, "JOIN") or self.accept(side, "OUTER", "JOIN"):
                return side
        return None

    def source(self, join: str) -> tuple[Source, ...]:
        """What stands on the right of a join (of none: the first of FROM); several where brackets hold a join."""
        name, select = "", None
        if self.accept_operator("("):
            if self.word() not in ("SELECT", "WITH", "VALUES"):
                return self.join_in_brackets(join)
            select = self.select()
            self.expect_operator(")")
        else:
            name = self.identifier()
            if self.accept_operator("."):
                name = self.identifier()
            if self.token.text == "(":
                raise NotUnderstood(f"the table function {name} is not read")
        alias = self.alias()
        if self.word() == "INDEXED" or (self.word() == "NOT" and self.word(1) == "INDEXED"):
            raise NotUnderstood("INDEXED BY is not read")
        on: Node | None = None
        using: tuple[str, ...] = ()
        if join and self.accept("ON"):
            on = self.expression()
        elif join and self.accept("USING"):
            using = self.names_in_brackets()
        return (Source(name, select, alias, join, on, using),)

    def join_in_brackets(self, join: str) -> tuple[Source, ...]:
        """A join in brackets, without them: they change nothing on the left, nor among inner joins.

        `a JOIN (b JOIN c ON p) ON q` becomes `a CROSS JOIN b JOIN c ON p AND q`.
        """
        first, *others = self.sources()
        self.expect_operator(")")
        if self.alias():
            raise NotUnderstood("a name for a join in brackets is not read")
        if not join:
            return (first, *others)
        inner = join in ("INNER", "CROSS") and all(
            each.join in ("INNER", "CROSS") and not each.using for each in others
        )
        if (others and not inner) or self.word() == "USING":
            raise NotUnderstood("brackets around an outer join or one with USING are not read")
        on = self.expression() if self.accept("ON") else None
        if not others:
            return (replace(first, join=join, on=on),)
        *between, last = others
        tests = [each for each in (last.on, on) if each is not None]
        joined = Binary("AND", tests[0], tests[1]) if len(tests) > 1 else tests[0] if tests else None
        return (replace(first, join="CROSS"), *between, replace(last, on=joined, join="INNER" if joined else "CROSS"))


def names_in(expression: str) -> frozenset[str]:
    """The columns that `expression` names, in lower case, as far as it is understood."""
    try:
        nodes = [parse_expression(expression)]
    except NotUnderstood:
        return frozenset()
    found = set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, Name):
            found.add(node.parts[-1].lower())
        nodes += children(node)
    return frozenset(found)
