"""SQLite's DDL text: a tokenizer, and a small parser for what pragmas do not tell.

Pragmas are the truth for columns, types, keys and indexes. Only the text knows the names of constraints, CHECK
expressions, DEFERRABLE, ON CONFLICT, AUTOINCREMENT, the expressions of generated columns and of indexes, and WHERE.
The text has passed SQLite's own parser, so the parser here is lenient: what it does not know it steps over.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["space", "comment", "word", "name", "string", "blob", "number", "parameter", "operator", "other"]

_TOKENS = re.compile(
    r"""
      (?P<space>[ \t\n\f\r\ufeff]+)
    | (?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))
    | (?P<blob>[xX]'[0-9a-fA-F]*')
    | (?P<string>'(?:[^']|'')*')
    | (?P<name>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])
    | (?P<number>0[xX][0-9a-fA-F_]+|(?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d[\d_]*)?)
    | (?P<parameter>\?\d*|[:@#$][A-Za-z0-9_$\x80-\U0010ffff]+)
    | (?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*)
    | (?P<operator>->>|->|\|\||==|!=|<>|<=|>=|<<|>>|[-+*/%&|~<>=(),.;])
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)


_FOLD = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def fold(name: str) -> str:
    """A name as SQLite compares it: ASCII letters in lower case, all others as they are (É is not é)."""
    return name.translate(_FOLD)


@dataclass(frozen=True, slots=True)
class Token:
    """One token, as written: the texts of all tokens joined are the SQL."""

    kind: Kind
    text: str
    start: int

    @property
    def value(self) -> str:
        """A word, name or string without its quotes; other tokens as written."""
        if self.kind in {"string", "name"}:
            quote, inner = self.text[0], self.text[1:-1]
            return inner if quote == "[" else inner.replace(quote * 2, quote)
        return self.text

    def is_(self, *words: str) -> bool:
        """Whether it is one of these words or operators, given in upper case. A quoted word is never a keyword."""
        return self.kind in {"word", "operator"} and self.text.upper() in words


def tokens(sql: str) -> Iterator[Token]:
    """The tokens of `sql`, spaces and comments too, by SQLite's rules. Never fails: `other` is what is no token."""
    for match in _TOKENS.finditer(sql):
        yield Token(match.lastgroup, match[0], match.start())  # type: ignore[arg-type]


def text_of(part: Sequence[Token]) -> str:
    """SQL of some tokens, without comments, without space at the ends."""
    return "".join(" " if token.kind == "comment" else token.text for token in part).strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A PRIMARY KEY or UNIQUE constraint, on a column's line or on its own."""

    columns: tuple[str, ...]
    name: str = ""
    primary: bool = False
    on_conflict: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    sql: str
    name: str = ""
    column: str = ""
    """The column on whose line it stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A foreign key."""

    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...] = ()
    name: str = ""
    deferrable: Literal["", "IMMEDIATE", "DEFERRED"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    name: str
    type: str = ""
    collation: str = ""
    default: str = ""
    generated: Literal["", "virtual", "stored"] = ""
    expression: str = ""
    not_null_conflict: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What CREATE TABLE says. `keys`, `checks` and `references` stand in the order of the text."""

    name: str = ""
    columns: tuple[Column, ...] = ()
    keys: tuple[Key, ...] = ()
    checks: tuple[Check, ...] = ()
    references: tuple[Reference, ...] = ()
    autoincrement: bool = False
    without_rowid: bool = False
    strict: bool = False

    def column(self, name: str) -> Column:
        """The column called `name`, ignoring case; an empty one when the text has none."""
        return next((column for column in self.columns if fold(column.name) == fold(name)), Column(name=name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One term of CREATE INDEX: the expression alone, without COLLATE and ASC or DESC at its end."""

    sql: str
    collation: str = ""
    descending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    name: str = ""
    table: str = ""
    unique: bool = False
    terms: tuple[Term, ...] = ()
    where: str = ""


def parse_table(sql: str) -> Table:
    """What `CREATE TABLE …` says. Text that is none gives an empty Table."""
    return _TableParser(sql).table()


def parse_index(sql: str) -> Index:
    """What `CREATE INDEX …` says. Text that is none gives an empty Index."""
    at = _Cursor(sql)
    if not at.take("CREATE"):
        return Index()
    unique = at.take("UNIQUE")
    if not at.take("INDEX"):
        return Index()
    name = at.object_name()
    if not at.take("ON"):
        return Index(name=name, unique=unique)
    table = at.name()
    terms = tuple(_term(part) for part in _split(at.bracket()))
    where = text_of(at.rest()) if at.take("WHERE") else ""
    return Index(name=name, table=table, unique=unique, terms=terms, where=where.rstrip("; \n"))


def parse_module(sql: str) -> str:
    """The module that `CREATE VIRTUAL TABLE … USING module(…)` names; empty for other text."""
    at = _Cursor(sql)
    if not (at.take("CREATE") and at.take("VIRTUAL") and at.take("TABLE")):
        return ""
    at.object_name()
    return at.name() if at.take("USING") else ""


def view_query(sql: str) -> str:
    """The SELECT of `CREATE VIEW name [(columns)] AS SELECT …`; empty for other text."""
    at = _Cursor(sql)
    if not at.take("CREATE"):
        return ""
    at.take("TEMP") or at.take("TEMPORARY")
    if not at.take("VIEW"):
        return ""
    at.object_name()
    at.bracket()
    return text_of(at.rest()).rstrip("; \n") if at.take("AS") else ""


def collations(sql: str) -> frozenset[str]:
    """The collations that any statement names after COLLATE."""
    meaning = [token for token in tokens(sql) if token.kind not in {"space", "comment"}]
    pairs = itertools.pairwise(meaning)
    return frozenset(name.value for word, name in pairs if word.is_("COLLATE") and name.kind in _NAMES)


_NAMES = {"word", "name", "string"}
_TABLE_CONSTRAINTS = ("CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN")
_COLUMN_CONSTRAINTS = (
    "CONSTRAINT", "PRIMARY", "NOT", "NULL", "UNIQUE", "CHECK", "DEFAULT", "COLLATE", "REFERENCES", "DEFERRABLE",
    "GENERATED", "AS", "ON", "INITIALLY", "AUTOINCREMENT",
)  # fmt: skip


class _Cursor:
    """A place among the tokens of a statement. Spaces are kept for the texts that are cut out, and stepped over."""

    def __init__(self, sql: str | Sequence[Token]) -> None:
        self.tokens = list(tokens(sql)) if isinstance(sql, str) else list(sql)
        self.at = 0
        self._step_over()

    def _step_over(self) -> None:
        while self.at < len(self.tokens) and self.tokens[self.at].kind in {"space", "comment"}:
            self.at += 1

    def peek(self) -> Token | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def next(self) -> Token | None:
        token = self.peek()
        if token is not None:
            self.at += 1
            self._step_over()
        return token

    def sees(self, *words: str) -> bool:
        token = self.peek()
        return token is not None and token.is_(*words)

    def take(self, *words: str) -> bool:
        """Step over the next token if it is one of `words`."""
        if self.sees(*words):
            self.next()
            return True
        return False

    def name(self) -> str:
        """A name, quoted or not; empty when the next token is none."""
        token = self.peek()
        if token is None or token.kind not in _NAMES:
            return ""
        self.next()
        return token.value

    def object_name(self) -> str:
        """[IF NOT EXISTS] [schema.]name."""
        if self.take("IF"):
            self.take("NOT")
            self.take("EXISTS")
        name = self.name()
        return self.name() if self.take(".") else name

    def bracket(self) -> list[Token]:
        """The tokens between a bracket here and its partner; none when there is no bracket here."""
        if not self.sees("("):
            return []
        self.at += 1
        start, depth = self.at, 1
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            depth += (token.is_("(")) - (token.is_(")"))
            if depth == 0:
                inside = self.tokens[start : self.at]
                self.next()
                return inside
            self.at += 1
        return self.tokens[start:]

    def names(self) -> tuple[str, ...]:
        """`(a, b COLLATE x DESC)`: a and b."""
        return tuple(_Cursor(part).name() for part in _split(self.bracket()))

    def rest(self) -> list[Token]:
        part = self.tokens[self.at :]
        self.at = len(self.tokens)
        return part

    def conflict(self) -> str:
        """[ON CONFLICT x]: x, in upper case; empty for the default."""
        if not self.sees("ON"):
            return ""
        self.next()
        self.take("CONFLICT")
        resolution = self.name().upper()
        return "" if resolution == "ABORT" else resolution


def _split(part: Sequence[Token]) -> list[list[Token]]:
    """A list at its commas, those within brackets excepted."""
    if not any(token.kind not in {"space", "comment"} for token in part):
        return []
    pieces: list[list[Token]] = [[]]
    depth = 0
    for token in part:
        depth += (token.is_("(")) - (token.is_(")"))
        if depth == 0 and token.is_(","):
            pieces.append([])
        else:
            pieces[-1].append(token)
    return pieces


def _term(part: Sequence[Token]) -> Term:
    meaning = [token for token in part if token.kind not in {"space", "comment"}]
    end, descending, collation = len(part), False, ""
    if len(meaning) > 1 and meaning[-1].is_("ASC", "DESC"):
        descending = meaning.pop().is_("DESC")
        end = max(i for i, token in enumerate(part) if token.is_("ASC", "DESC"))
    if len(meaning) > 2 and meaning[-2].is_("COLLATE") and meaning[-1].kind in _NAMES:
        collation = meaning[-1].value
        end = part.index(meaning[-2])
    return Term(sql=text_of(part[:end]), collation=collation, descending=descending)


@dataclass
class _ColumnParts:
    """A column while it is read."""

    name: str
    facts: dict[str, str] = field(default_factory=dict)


class _TableParser:
    """CREATE TABLE, statement to `Table`. SQLite lets table constraints follow each other without commas."""

    def __init__(self, sql: str) -> None:
        self.at = _Cursor(sql)
        self.columns: list[Column] = []
        self.keys: list[Key] = []
        self.checks: list[Check] = []
        self.references: list[Reference] = []
        self.autoincrement = False

    def table(self) -> Table:
        at = self.at
        if not at.take("CREATE"):
            return Table()
        at.take("TEMP") or at.take("TEMPORARY")
        if not at.take("TABLE"):
            return Table()
        name = at.object_name()
        body = at.bracket()
        options = [token.text.upper() for token in at.rest() if token.kind == "word"]
        for part in _split(body):
            self.at = _Cursor(part)
            if self.at.sees(*_TABLE_CONSTRAINTS):
                self._table_constraints()
            else:
                self._column()
        return Table(
            name=name,
            columns=tuple(self.columns),
            keys=tuple(self.keys),
            checks=tuple(self.checks),
            references=tuple(self.references),
            autoincrement=self.autoincrement,
            without_rowid="WITHOUT" in options,
            strict="STRICT" in options,
        )

    def _table_constraints(self) -> None:
        at, name = self.at, ""
        while (token := at.next()) is not None:
            if token.is_("CONSTRAINT"):
                name = at.name()
                continue
            if token.is_("PRIMARY", "UNIQUE"):
                self._table_key(name, primary=token.is_("PRIMARY"))
            elif token.is_("CHECK"):
                self.checks.append(Check(sql=text_of(at.bracket()), name=name))
                at.conflict()
            elif token.is_("FOREIGN"):
                at.take("KEY")
                columns = at.names()
                at.take("REFERENCES")
                self._reference(name, columns)
            name = ""

    def _table_key(self, name: str, *, primary: bool) -> None:
        at = self.at
        at.take("KEY")
        terms = _split(at.bracket())
        if terms and any(token.is_("AUTOINCREMENT") for token in terms[-1]):
            self.autoincrement = True
        columns = tuple(_Cursor(term).name() for term in terms)
        self.keys.append(Key(columns=columns, name=name, primary=primary, on_conflict=at.conflict()))

    def _reference(self, name: str, columns: tuple[str, ...]) -> None:
        """What follows REFERENCES: parent, columns, actions, MATCH. DEFERRABLE comes on its own."""
        at = self.at
        parent, parent_columns = at.name(), at.names()
        while at.take("ON", "MATCH"):
            event = at.next()  # DELETE, UPDATE, or the name after MATCH
            if event is not None and event.is_("DELETE", "UPDATE", "INSERT"):
                at.take("SET", "NO")
                at.next()
        self.references.append(
            Reference(
                columns=columns, parent=parent, parent_columns=parent_columns, name=name, deferrable=self._deferral()
            )
        )

    def _deferral(self) -> Literal["", "IMMEDIATE", "DEFERRED"]:
        """[NOT] DEFERRABLE [INITIALLY DEFERRED|IMMEDIATE], if it stands here."""
        at, start = self.at, self.at.at
        negated = at.take("NOT")
        if not at.take("DEFERRABLE"):
            at.at = start
            return ""
        deferred = False
        if at.take("INITIALLY"):
            deferred = at.sees("DEFERRED")
            at.next()
        if negated:
            return ""
        return "DEFERRED" if deferred else "IMMEDIATE"

    def _column(self) -> None:
        at = self.at
        column = _ColumnParts(at.name())
        column.facts["type"] = self._type()
        name = ""
        while (token := at.next()) is not None:
            if token.is_("CONSTRAINT"):
                name = at.name()
                continue
            self._column_constraint(token, column, name)
            name = ""
        facts = column.facts
        self.columns.append(
            Column(
                name=column.name,
                type=facts["type"],
                collation=facts.get("collation", ""),
                default=facts.get("default", ""),
                generated=facts.get("generated", ""),  # type: ignore[arg-type]
                expression=facts.get("expression", ""),
                not_null_conflict=facts.get("not_null_conflict", ""),
            )
        )

    def _type(self) -> str:
        """The words of the type and its bracket, as SQLite joins them: with single spaces."""
        at, words = self.at, []
        while (token := at.peek()) is not None and token.kind in _NAMES and not token.is_(*_COLUMN_CONSTRAINTS):
            words.append(token.value)
            at.next()
        size = f"({text_of(at.bracket())})" if words and at.sees("(") else ""
        return " ".join(words) + size

    def _column_constraint(self, token: Token, column: _ColumnParts, name: str) -> None:
        at, facts = self.at, column.facts
        if token.is_("PRIMARY", "UNIQUE"):
            at.take("KEY")
            at.take("ASC", "DESC")
            conflict = at.conflict()
            self.autoincrement |= at.take("AUTOINCREMENT")
            primary = token.is_("PRIMARY")
            self.keys.append(Key(columns=(column.name,), name=name, primary=primary, on_conflict=conflict))
        elif token.is_("NOT", "NULL"):
            if token.is_("NOT") and at.take("NULL"):
                facts["not_null_conflict"] = at.conflict()
        elif token.is_("DEFERRABLE") and self.references:  # apart from its REFERENCES: of the last one
            at.at = at.tokens.index(token)
            self.references[-1] = dataclasses.replace(self.references[-1], deferrable=self._deferral())
        elif token.is_("CHECK"):
            self.checks.append(Check(sql=text_of(at.bracket()), name=name, column=column.name))
        elif token.is_("DEFAULT"):
            facts["default"] = self._default()
        elif token.is_("COLLATE"):
            facts["collation"] = at.name()
        elif token.is_("REFERENCES"):
            self._reference(name, (column.name,))
        elif token.is_("GENERATED", "AS"):
            if token.is_("GENERATED"):
                at.take("ALWAYS")
                at.take("AS")
            facts["expression"] = text_of(at.bracket())
            facts["generated"] = "stored" if at.sees("STORED") else "virtual"
            at.take("STORED", "VIRTUAL")

    def _default(self) -> str:
        at = self.at
        if at.sees("("):
            return f"({text_of(at.bracket())})"
        sign = at.next()
        if sign is None:
            return ""
        if sign.is_("+", "-"):
            number = at.next()
            return sign.text + (number.text if number else "")
        return sign.text
