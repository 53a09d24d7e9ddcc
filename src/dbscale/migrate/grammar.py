"""SQLite's SQL read into a tree: expressions, and the SELECT statements of views.

The precedence is SQLite's own (its lang_expr.html), where `||` binds tighter than `*`, and `=`, IS, LIKE and IN
stand on one level below `<`. A general SQL parser reads such expressions differently without a word, and rewrites
functions into its own forms; here every name stays as the source has it. What is not understood raises
`NotUnderstood`; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from dbscale.migrate.expressions import Expressions
from dbscale.migrate.syntax import (
    Binary,
    Core,
    Node,
    Output,
    Select,
    Source,
    Window,
    names,
)
from dbscale.migrate.tokens import RESERVED, NotUnderstood

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


class _Parser(Expressions):
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
        cores = list(self.cores())
        operators = ["UNION ALL"] * (len(cores) - 1)
        while self.word() in ("UNION", "INTERSECT", "EXCEPT"):
            operator = self.word()
            self.place += 1
            operators.append(operator + (" ALL" if operator == "UNION" and self.accept("ALL") else ""))
            further = self.cores()
            if len(further) > 1 and operators[-1] != "UNION ALL":
                raise NotUnderstood(f"{operators[-1]} with several rows of VALUES is not read")
            operators += ["UNION ALL"] * (len(further) - 1)
            cores += further
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
        self.accept("RECURSIVE")
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

    def cores(self) -> tuple[Core, ...]:
        """One SELECT, or the rows of VALUES as one SELECT each."""
        if not self.accept("VALUES"):
            return (self.core(),)
        rows = []
        while True:
            self.expect_operator("(")
            items = self.listed()
            rows.append(Core(tuple(Output(item, f"column{place}") for place, item in enumerate(items, 1))))
            if not self.accept_operator(","):
                return tuple(rows)

    def core(self) -> Core:
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
        return Core(tuple(outputs), sources, where, group, having, distinct, self.windows())

    def windows(self) -> tuple[tuple[str, Window], ...]:
        """The WINDOW clause; empty where there is none."""
        named: list[tuple[str, Window]] = []
        if not self.accept("WINDOW"):
            return ()
        while True:
            name = self.identifier()
            self.expect("AS")
            named.append((name, self.window()))
            if not self.accept_operator(","):
                return tuple(named)

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
        if self.accept("AS"):
            return self.identifier(clearly=True)
        if self.token.kind in ("double", "quoted", "text"):
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
        if self.accept("NATURAL"):
            join = self.join()
            if join is None or join.startswith("NATURAL"):
                raise NotUnderstood("NATURAL without JOIN")
            return f"NATURAL {join}"
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
        natural, join = join.startswith("NATURAL "), join.removeprefix("NATURAL ")
        name, select, qualified = "", None, False
        if self.accept_operator("("):
            if self.word() not in ("SELECT", "WITH", "VALUES"):
                if natural:
                    raise NotUnderstood("NATURAL JOIN with brackets is not read")
                return self.join_in_brackets(join)
            select = self.select()
            self.expect_operator(")")
        else:
            name = self.identifier()
            qualified = self.accept_operator(".")
            if qualified and name.lower() != "main":
                raise NotUnderstood(f"it reads another database, {name}")
            name = self.identifier() if qualified else name
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
        return (Source(name, select, alias, join, on, using, qualified, natural),)

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
            each.join in ("INNER", "CROSS") and not each.using and not each.natural for each in others
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
        return frozenset(name.parts[-1].lower() for name in names(parse_expression(expression)))
    except NotUnderstood:
        return frozenset()
