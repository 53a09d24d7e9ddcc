"""The words of SQLite's SQL, and the literals among them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dbscale.migrate.syntax import Constant, Node, Unary


class NotUnderstood(Exception):
    """The text is not SQL that this parser reads; its argument says at which word."""


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


RESERVED = frozenset(
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
"""Words that are not read as names where they stand bare."""


_ALSO_NAMES = frozenset(
    ("ASC", "DESC", "OFFSET", "NULLS", "WINDOW", "END", "LIKE", "GLOB", "REGEXP", "MATCH", "INDEXED")
)
_ALSO_NAMES |= {"OUTER", "LEFT", "RIGHT", "FULL", "INNER", "CROSS", "NATURAL"}
"""Of the reserved words those that SQLite takes for a name where nothing else could stand."""


class Words:
    """A place in the words of a statement, and what can be read there."""

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

    def identifier(self, *, clearly: bool = False) -> str:
        """The name at hand; `clearly`: after a dot or AS, or where an operand begins, some words are names as well."""
        token = self.token
        reserved = RESERVED - _ALSO_NAMES if clearly else RESERVED
        if token.kind == "word" and token.text.upper() in reserved:
            raise NotUnderstood(f"a name is expected, not {token.text!r}")
        if token.kind not in ("word", "double", "quoted", "text"):
            raise NotUnderstood(f"a name is expected, not {token.text!r}")
        self.place += 1
        return unquote(token)

    def names_in_brackets(self) -> tuple[str, ...]:
        self.expect_operator("(")
        names = [self.identifier()]
        while self.accept_operator(","):
            names.append(self.identifier())
        self.expect_operator(")")
        return tuple(names)
