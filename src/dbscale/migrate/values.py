"""A translated expression: its PostgreSQL SQL beside what SQLite would know of it, affinity and collation.

From these two the operators decide what PostgreSQL has to be told so that it answers as SQLite does, or that it
cannot be told. All of it is pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from dbscale.migrate.affinity import affinity
from dbscale.migrate.syntax import Constant
from dbscale.plan import Conversion
from dbscale.schema import literal

Kind = Literal[
    "null", "int", "numeric", "float", "bool", "truth", "text", "bytea", "date", "time", "timestamp", "timestamptz",
    "uuid", "json", "jsonb", "dynamic", "other",
]  # fmt: skip
"""What PostgreSQL calculates with. `bool` is a boolean column, `truth` the 0 or 1 of a comparison; `dynamic` is a
scalar out of JSON, as jsonb, whose class differs from row to row."""

NUMBERS = frozenset({"int", "numeric", "float", "bool", "truth"})
MOMENTS = frozenset({"date", "time", "timestamp", "timestamptz"})

_KINDS: dict[str, Kind] = {
    "bigint": "int", "integer": "int", "int": "int", "smallint": "int", "int8": "int", "int4": "int", "int2": "int",
    "numeric": "numeric", "decimal": "numeric", "double precision": "float", "float8": "float", "real": "float",
    "boolean": "bool", "bool": "bool", "text": "text", "varchar": "text", "character varying": "text",
    "bytea": "bytea", "date": "date", "time": "time", "time without time zone": "time", "timestamp": "timestamp",
    "timestamp without time zone": "timestamp", "timestamptz": "timestamptz",
    "timestamp with time zone": "timestamptz", "uuid": "uuid", "json": "json", "jsonb": "jsonb",
}  # fmt: skip


class Untranslatable(Exception):
    """PostgreSQL cannot be told to do the same; its argument says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    sql: str
    kind: Kind
    atom: bool = True
    """It needs no brackets as an operand."""
    affinity: str = ""
    """`INTEGER`, `REAL`, `NUMERIC`, `TEXT` or `BLOB` for a column or a cast; empty for other expressions."""
    collation: str = ""
    """`BINARY`, `NOCASE` or `RTRIM` for a column or after COLLATE; empty for other expressions."""
    explicit: bool = False
    """The collation was asked for by COLLATE."""
    constant: Constant | None = None
    narrow: bool = False
    """A whole number that PostgreSQL calculates in 32 bits."""
    real: bool = False
    """A number that SQLite surely holds as REAL, so that a division by it is not a whole one."""
    mixed: bool = False
    """Text, or a moment, that SQLite holds not as text alone."""
    standard: bool = False
    """A moment that SQLite writes as `YYYY-MM-DD HH:MM:SS`, whatever the row."""
    fixed: bool = False
    """A moment that the query writes out: `datetime('2024-01-01')`."""
    always: bool = False
    """A condition that no value but NULL can make false: the type sees to it."""
    classes: frozenset[str] = frozenset()
    """What typeof() says of a column's values that are not NULL; empty when it is not known."""
    aggregate: bool = False
    """One value from all rows of a group."""
    calculated: bool = False
    """An alias of an aggregate or of a window function, which cannot stand in WHERE or GROUP BY."""
    conversion: Conversion | None = None
    """Of the column that this is; None for other expressions."""
    repeatable: bool = True
    """It may stand twice in an expression: it has no subquery and no random part."""

    @property
    def operand(self) -> str:
        """Its SQL, in brackets where it needs them beside an operator."""
        return self.sql if self.atom else f"({self.sql})"


def kind_of(type_: str) -> Kind:
    """What PostgreSQL calculates with for a type as PostgreSQL spells it."""
    return _KINDS.get(re.sub(r"\(.*?\)", "", type_.lower()).strip(), "other")


def affinity_of(declared: str, *, strict: bool = False) -> str:
    """SQLite's affinity of a declared type; STRICT's ANY keeps what it is given."""
    return "BLOB" if strict and declared.upper() == "ANY" else affinity(declared)


def number_in(text: str) -> int | float | None:
    """The number that SQLite makes of a whole text by numeric affinity; None when it leaves it as text."""
    if re.fullmatch(r"\s*[+-]?\d+\s*", text) and abs(int(text)) < 1 << 63:
        return int(text)
    if re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", text):
        number = float(text)
        return int(number) if number == int(number) and abs(number) < 1 << 51 else number
    return None


def ascii_lower(text: str) -> str:
    """SQLite's lower(): the letters A to Z, and no others."""
    return "".join(chr(ord(letter) + 32) if "A" <= letter <= "Z" else letter for letter in text)


def constant_value(constant: Constant) -> Value:
    """A literal as PostgreSQL writes it."""
    value = constant.value
    if value is None:
        return Value(sql="NULL", kind="null", constant=constant)
    if isinstance(value, bytes):
        return Value(sql=rf"'\x{value.hex()}'::bytea", kind="bytea", constant=constant)
    if isinstance(value, str):
        if "\0" in value:
            raise Untranslatable("PostgreSQL's text cannot hold a NUL character")
        return Value(sql=literal(value), kind="text", constant=constant)
    return number_value(value, constant)


def number_value(value: int | float, constant: Constant) -> Value:
    if isinstance(value, int):
        if value == -(1 << 63):
            return Value(sql=f"'{value}'::bigint", kind="int", constant=constant)
        return Value(sql=str(value), kind="int", atom=value >= 0, constant=constant, narrow=abs(value) < 1 << 31)
    if value in (float("inf"), float("-inf")):
        sign = "-" if value < 0 else ""
        return Value(sql=f"'{sign}Infinity'::float8", kind="float", constant=constant, real=True)
    return Value(sql=repr(value), kind="float", atom=value >= 0, constant=constant, real=True)


def as_number(value: Value) -> Value:
    """`value` where SQLite wants a number; text is refused, since SQLite reads numbers out of it."""
    if value.kind in ("bool", "truth"):
        return Value(sql=f"{value.operand}::int", kind="int", narrow=True, repeatable=value.repeatable)
    if value.kind in ("int", "numeric", "float", "null"):
        return value
    raise Untranslatable(f"SQLite would read a number out of {value.kind} here")


def as_float(value: Value) -> str:
    """The number as PostgreSQL's double precision, for an operand."""
    number = as_number(value)
    if number.kind == "float" and number.constant is None:
        return number.operand
    return f"{number.operand}::float8"


def as_truth(value: Value) -> Value:
    """`value` where a condition is wanted: SQLite takes a number other than 0 for true."""
    if value.kind in ("bool", "truth", "null"):
        return value
    if value.constant is not None and isinstance(value.constant.value, int | float):
        return Value(sql="TRUE" if value.constant.value else "FALSE", kind="truth", always=bool(value.constant.value))
    if value.kind in ("int", "numeric", "float"):
        return Value(sql=f"{value.operand} <> 0", kind="truth", atom=False, repeatable=value.repeatable)
    raise Untranslatable(f"SQLite would read a condition out of {value.kind} here")


def as_text(value: Value, *, immutable: bool) -> Value:
    """`value` as the text that SQLite makes of it. A real number is refused: the two write it differently."""
    if value.kind in ("text", "null"):
        return value
    if value.constant is not None and isinstance(value.constant.value, int):
        return constant_value(Constant(str(value.constant.value)))
    if value.kind in ("int", "bool", "truth"):
        return replace(as_number(value), sql=f"{as_number(value).operand}::text", kind="text", atom=True, affinity="")
    if value.kind == "date" and not immutable:
        return Value(sql=f"to_char({value.sql}, 'YYYY-MM-DD')", kind="text", repeatable=value.repeatable)
    if value.kind == "timestamp" and value.standard and not immutable:
        sql = f"to_char({value.sql}, 'YYYY-MM-DD HH24:MI:SS')"
        return Value(sql=sql, kind="text", repeatable=value.repeatable)
    raise Untranslatable(f"the text that SQLite makes of {value.kind} is not the one PostgreSQL makes")


def by_collation(value: Value, collation: str) -> str:
    """Text in the form in which `collation` compares it for equality."""
    text = value.constant.value if value.constant is not None else None
    if collation in ("", "BINARY"):
        return value.operand
    if collation == "NOCASE":
        return literal(ascii_lower(text)) if isinstance(text, str) else f'lower({value.operand} COLLATE "C")'
    if collation == "RTRIM":
        return literal(text.rstrip(" ")) if isinstance(text, str) else f"rtrim({value.operand}, ' ')"
    raise Untranslatable(f"the collation {collation} is not SQLite's own")


def unify(values: list[Value]) -> tuple[Kind, list[str]]:
    """One kind for values that come out of one expression (COALESCE, CASE), and their SQL in it."""
    kinds = {value.kind for value in values if value.kind != "null"}
    if not kinds:
        return "null", [value.sql for value in values]
    if len(kinds) == 1:
        kind = kinds.pop()
        if kind == "float":
            return kind, [value.sql if value.kind == "null" else as_float(value) for value in values]
        return kind, [value.sql for value in values]
    if "bool" in kinds and all(value.kind in ("bool", "null") or is_bit(value) for value in values):
        return "bool", [bit(value) if is_bit(value) else value.sql for value in values]
    if kinds <= NUMBERS:
        if "float" in kinds:
            return "float", ["NULL" if value.kind == "null" else as_float(value) for value in values]
        return ("numeric" if "numeric" in kinds else "int"), [as_number(value).sql for value in values]
    raise Untranslatable(f"{' and '.join(sorted(kinds))} come out of one expression, and PostgreSQL wants one type")


def is_bit(value: Value) -> bool:
    """A literal 0 or 1."""
    return value.constant is not None and value.constant.value in (0, 1) and value.kind == "int"


def bit(value: Value) -> str:
    return "TRUE" if value.constant is not None and value.constant.value else "FALSE"
