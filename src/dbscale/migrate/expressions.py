"""Expressions of SQLite's SQL, read into a tree; `grammar.py` reads the SELECT statements around and within them."""

from __future__ import annotations

from typing import Literal as OneOf

from dbscale.migrate.syntax import (
    Between,
    Binary,
    Bound,
    Call,
    Case,
    Cast,
    Collate,
    Constant,
    Core,
    Exists,
    Frame,
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
    Window,
)
from dbscale.migrate.tokens import RESERVED, NotUnderstood, Words, constant, signed

# From the loosest to the tightest; NOT stands between AND and the comparisons.
_LEVELS: tuple[tuple[str, ...], ...] = (
    ("<", "<=", ">", ">="),
    ("&", "|", "<<", ">>"),
    ("+", "-"),
    ("*", "/", "%"),
    ("||", "->", "->>"),
)


class Expressions(Words):
    def select(self) -> Select:
        raise NotImplementedError

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
        parts = [self.identifier(clearly=True)]
        while self.accept_operator("."):
            parts.append(self.identifier(clearly=True))
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
        order: tuple[OrderTerm, ...] = ()
        if self.accept_operator("*"):
            star = True
            self.expect_operator(")")
        elif not self.accept_operator(")"):
            distinct = self.accept("DISTINCT")
            arguments, order = self.arguments()
        condition = None
        if self.word() == "FILTER" and self.tokens[self.place + 1].text == "(":
            self.place += 2
            self.expect("WHERE")
            condition = self.expression()
            self.expect_operator(")")
        return Call(name, arguments, distinct, star, condition, order, self.over())

    def arguments(self) -> tuple[tuple[Node, ...], tuple[OrderTerm, ...]]:
        """A function's arguments up to the closing bracket, and past it, with the order of an aggregate's."""
        items = [self.expression()]
        while self.accept_operator(","):
            items.append(self.expression())
        order = self.ordering() if self.accept("ORDER", "BY") else ()
        self.expect_operator(")")
        return tuple(items), order

    # -- windows -----------------------------------------------------------------------------------------------

    def over(self) -> Window | None:
        """What follows OVER; None where no OVER follows, which may also be a column's name."""
        following = self.tokens[min(self.place + 1, len(self.tokens) - 1)]
        named = following.kind in ("word", "double", "quoted", "text") and following.text.upper() not in RESERVED
        if self.word() != "OVER" or not (named or following.text == "("):
            return None
        self.place += 1
        if self.token.text != "(":
            return Window(self.identifier(), alone=True)
        return self.window()

    def window(self) -> Window:
        """A window's definition, in its brackets."""
        self.expect_operator("(")
        plain = self.token.kind in ("word", "double", "quoted", "text")
        base = ""
        if plain and self.word() not in ("PARTITION", "ORDER", "ROWS", "RANGE", "GROUPS"):
            base = self.identifier()
        partition: list[Node] = []
        if self.accept("PARTITION", "BY"):
            partition.append(self.expression())
            while self.accept_operator(","):
                partition.append(self.expression())
        order = self.ordering() if self.accept("ORDER", "BY") else ()
        frame = self.frame(self.word()) if self.word() in ("ROWS", "RANGE", "GROUPS") else None
        self.expect_operator(")")
        return Window(base, partition=tuple(partition), order=order, frame=frame)

    def frame(self, unit: str) -> Frame:
        self.place += 1
        if self.accept("BETWEEN"):
            start = self.bound()
            self.expect("AND")
            end = self.bound()
        else:
            start, end = self.bound(), Bound("CURRENT ROW")
        exclude = ""
        if self.accept("EXCLUDE"):
            choices = (("NO", "OTHERS"), ("CURRENT", "ROW"), ("GROUP",), ("TIES",))
            exclude = next((" ".join(words) for words in choices if self.accept(*words)), "")
            if not exclude:
                raise NotUnderstood(f"EXCLUDE {self.token.text!r} is not read")
        return Frame(unit, start, end, exclude)

    def bound(self) -> Bound:
        for words in (("UNBOUNDED", "PRECEDING"), ("UNBOUNDED", "FOLLOWING"), ("CURRENT", "ROW")):
            if self.accept(*words):
                return Bound(" ".join(words))
        offset = self.expression()
        if self.accept("PRECEDING"):
            return Bound("PRECEDING", offset)
        self.expect("FOLLOWING")
        return Bound("FOLLOWING", offset)

    # -- order -------------------------------------------------------------------------------------------------

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
