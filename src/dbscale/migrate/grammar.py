"""SQLite's SQL read into a tree: expressions, and the SELECT statements of views.

The precedence is SQLite's own (its lang_expr.html), where `||` binds tighter than `*`, and `=`, IS, LIKE and IN
stand on one level below `<`. A general SQL parser reads such expressions differently without a word, and rewrites
functions into its own forms; here every name stays as the source has it. What is not understood raises
`NotUnderstood`; nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal as OneOf
from typing import TypeVar

T = TypeVar("T")


class NotUnderstood(Exception):
    """The text is not SQL that this parser reads; its argument says at which word."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal. `value` is None, int, float, str or bytes; `text` is a number as written."""

    value: int | float | str | bytes | None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Name:
    """A column, maybe with its table: `("t", "a")`. `maybe_text`: in double quotes, which SQLite may take as text."""

    parts: tuple[str, ...]
    maybe_text: bool = False


@dataclass(frozen=True, slots=True)
class Unary:
    operator: str
    operand: Node


@dataclass(frozen=True, slots=True)
class Binary:
    operator: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Match:
    """LIKE, GLOB, REGEXP or MATCH."""

    operator: str
    left: Node
    pattern: Node
    escape: Node | None = None
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Between:
    operand: Node
    low: Node
    high: Node
    negated: bool = False


@dataclass(frozen=True, slots=True)
class In:
    operand: Node
    items: tuple[Node, ...] | Select
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    operand: Node | None
    branches: tuple[tuple[Node, Node], ...]
    otherwise: Node | None = None


@dataclass(frozen=True, slots=True)
class Cast:
    operand: Node
    type: str


@dataclass(frozen=True, slots=True)
class Collate:
    operand: Node
    collation: str


@dataclass(frozen=True, slots=True)
class OrderTerm:
    operand: Node
    descending: bool = False
    nulls: OneOf["", "FIRST", "LAST"] = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A function's call; its name in lower case. `star` is `count(*)`."""

    name: str
    arguments: tuple[Node, ...] = ()
    distinct: bool = False
    star: bool = False
    filter: Node | None = None
    window: bool = False


@dataclass(frozen=True, slots=True)
class Exists:
    select: Select


@dataclass(frozen=True, slots=True)
class Scalar:
    """A SELECT in the place of a value."""

    select: Select


@dataclass(frozen=True, slots=True)
class Output:
    """One result column. `star` is `*`, or `t.*` with the table's name."""

    operand: Node | None
    alias: str = ""
    star: bool = False
    table: str = ""
    text: str = ""
    """As written: SQLite's name for a column without an alias."""


@dataclass(frozen=True, slots=True)
class Source:
    """One table, view or subquery of FROM, and how it is joined to those before it."""

    name: str = ""
    select: Select | None = None
    alias: str = ""
    join: str = ""
    """Empty for the first, else `INNER`, `LEFT`, `RIGHT`, `FULL` or `CROSS`."""
    on: Node | None = None
    using: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Core:
    outputs: tuple[Output, ...]
    sources: tuple[Source, ...] = ()
    where: Node | None = None
    group: tuple[Node, ...] = ()
    having: Node | None = None
    distinct: bool = False


@dataclass(frozen=True, slots=True)
class Select:
    cores: tuple[Core, ...]
    operators: tuple[str, ...] = ()
    """Between the cores: `UNION`, `UNION ALL`, `INTERSECT`, `EXCEPT`."""
    order: tuple[OrderTerm, ...] = ()
    limit: Node | None = None
    offset: Node | None = None
    named: tuple[tuple[str, tuple[str, ...], Select], ...] = field(default=())
    """WITH: name, columns, query."""


Node = (
    Constant | Name | Unary | Binary | Match | Between | In | Case | Cast | Collate | Call | Exists | Scalar
)  # fmt: skip


def children(node: Node) -> tuple[Node, ...]:
    """The expressions directly within `node`; those of subqueries are not counted."""
    found: tuple[Node | None, ...] = ()
    match node:
        case Unary() | Cast() | Collate():
            found = (node.operand,)
        case Binary():
            found = (node.left, node.right)
        case Match():
            found = (node.left, node.pattern, node.escape)
        case Between():
            found = (node.operand, node.low, node.high)
        case In():
            found = (node.operand, *(node.items if isinstance(node.items, tuple) else ()))
        case Case():
            found = (node.operand, *(part for branch in node.branches for part in branch), node.otherwise)
        case Call():
            found = (*node.arguments, node.filter)
        case _:
            pass
    return tuple(child for child in found if child is not None)


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


_TOKEN = re.compile(
    r"""
    (?P<space>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))
  | (?P<blob>[xX]'(?:[0-9a-fA-F]{2})*')
  | (?P<text>'(?:[^']|'')*')
  | (?P<double>"(?:[^"]|"")*")
  | (?P<quoted>`(?:[^`]|``)*`|\[[^\]]*\])
  | (?P<number>0[xX][0-9a-fA-F]+|(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d+)?)
  | (?P<word>[^\W\d]\w*(?:\$\w*)*)
  | (?P<operator>->>|->|\|\||<<|>>|<=|>=|<>|!=|==|[-+*/%&|~<>=(),.;])
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    start: int
    end: int


def tokens(sql: str) -> list[Token]:
    """The words of `sql`, without spaces and comments. NotUnderstood at a character that belongs to none."""
    found, place = [], 0
    while place < len(sql):
        match = _TOKEN.match(sql, place)
        if match is None:
            raise NotUnderstood(f"unexpected {sql[place]!r}")
        if match.lastgroup != "space":
            found.append(Token(str(match.lastgroup), match.group(), match.start(), match.end()))
        place = match.end()
    return found


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
_STOP = frozenset(
    [
        "AS",
        "FROM",
        "WHERE",
        "GROUP",
        "HAVING",
        "ORDER",
        "LIMIT",
        "OFFSET",
        "UNION",
        "INTERSECT",
        "EXCEPT",
        "ON",
        "USING",
        "JOIN",
        "LEFT",
        "RIGHT",
        "FULL",
        "INNER",
        "CROSS",
        "NATURAL",
        "OUTER",
        "WHEN",
        "THEN",
        "ELSE",
        "END",
        "AND",
        "OR",
        "NOT",
        "IN",
        "IS",
        "LIKE",
        "GLOB",
        "REGEXP",
        "MATCH",
        "BETWEEN",
        "ESCAPE",
        "COLLATE",
        "ISNULL",
        "NOTNULL",
        "ASC",
        "DESC",
        "NULLS",
        "WINDOW",
        "SELECT",
        "CASE",
        "EXISTS",
        "DISTINCT",
        "SET",
        "VALUES",
        "INDEXED",
    ]
)


class _Parser:
    def __init__(self, sql: str) -> None:
        self.sql = sql
        self.tokens = [*tokens(sql), Token("end", "the end", len(sql), len(sql))]
        self.place = 0

    @property
    def token(self) -> Token:
        return self.tokens[self.place]

    def word(self, ahead: int = 0) -> str:
        """The word at hand in upper case; empty when it is none."""
        token = self.tokens[min(self.place + ahead, len(self.tokens) - 1)]
        return token.text.upper() if token.kind == "word" else ""

    def accept(self, *words: str) -> bool:
        """True, and past them, when the next words are these."""
        if all(self.word(ahead) == word for ahead, word in enumerate(words)):
            self.place += len(words)
            return True
        return False

    def accept_operator(self, operator: str) -> bool:
        if self.token.kind == "operator" and self.token.text == operator:
            self.place += 1
            return True
        return False

    def expect(self, *words: str) -> None:
        if not self.accept(*words):
            raise NotUnderstood(f"{' '.join(words)} is expected, not {self.token.text!r}")

    def expect_operator(self, operator: str) -> None:
        if not self.accept_operator(operator):
            raise NotUnderstood(f"{operator!r} is expected, not {self.token.text!r}")

    def identifier(self) -> str:
        token = self.token
        if token.kind == "word" and token.text.upper() in _STOP:
            raise NotUnderstood(f"a name is expected, not {token.text!r}")
        if token.kind not in ("word", "double", "quoted", "text"):
            raise NotUnderstood(f"a name is expected, not {token.text!r}")
        self.place += 1
        return unquote(token)

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
        if token.kind == "word" and self.tokens[self.place + 1].text == "(" and word not in _STOP - {"LIKE", "GLOB"}:
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

    def names_in_brackets(self) -> tuple[str, ...]:
        self.expect_operator("(")
        names = [self.identifier()]
        while self.accept_operator(","):
            names.append(self.identifier())
        self.expect_operator(")")
        return tuple(names)

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
        if self.token.kind == "word" and self.word() not in _STOP:
            return self.identifier()
        return ""

    def sources(self) -> tuple[Source, ...]:
        found = [self.source("")]
        while (join := self.join()) is not None:
            found.append(self.source(join))
        return tuple(found)

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

    def source(self, join: str) -> Source:
        name, select = "", None
        if self.accept_operator("("):
            if self.word() not in ("SELECT", "WITH", "VALUES"):
                raise NotUnderstood("brackets around joins are not read")
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
        return Source(name, select, alias, join, on, using)


def signed(operator: str, operand: Node) -> Node:
    """A sign before `operand`; before a number it is part of the number, so that -2**63 is a whole one."""
    if operator == "-" and isinstance(operand, Constant) and operand.text:
        if operand.text == str(1 << 63):
            return Constant(-(1 << 63), f"-{operand.text}")
        if isinstance(operand.value, int | float) and not operand.text.startswith("-"):
            return Constant(-operand.value, f"-{operand.text}")
    if operator == "+" and isinstance(operand, Constant):
        return operand
    return Unary(operator, operand)


def unquote(token: Token) -> str:
    """What a name or a text says, without its quotes."""
    quote = token.text[0]
    if token.kind in ("text", "double", "quoted") and quote in "'\"`":
        return token.text[1:-1].replace(quote * 2, quote)
    return token.text[1:-1] if token.kind == "quoted" else token.text


def constant(token: Token) -> Constant:
    """The literal that a token stands for."""
    if token.kind == "text":
        return Constant(unquote(token))
    if token.kind == "blob":
        return Constant(bytes.fromhex(token.text[2:-1]))
    text = token.text.replace("_", "")
    if text[:2].lower() == "0x":
        number = int(text, 16)
        number = number - (1 << 64) if number >= 1 << 63 else number
        return Constant(number, str(number))
    if text.isdigit():
        # Past 64 bits SQLite reads a whole number as a real one.
        return Constant(int(text), text) if int(text) < 1 << 63 else Constant(float(text), text)
    return Constant(float(text), text)
