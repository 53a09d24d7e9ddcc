"""Comparisons as SQLite makes them: by affinity, by collation, and moments by time."""

from __future__ import annotations

import datetime
import re

from dbscale.migrate.json_values import compare_json
from dbscale.migrate.syntax import Constant
from dbscale.migrate.values import (
    MOMENTS,
    NUMBERS,
    Untranslatable,
    Value,
    as_number,
    bit,
    by_collation,
    constant_value,
    is_bit,
    number_in,
)


def compare(operator: str, left: Value, right: Value) -> Value:
    """`left operator right` as SQLite compares: by affinity, then by collation."""
    one, two = comparable(operator, left, right)
    repeatable = left.repeatable and right.repeatable
    if (operator in ("=", "<>") and "TRUE" in (one, two)) or ("FALSE" in (one, two) and operator in ("=", "<>")):
        return _boolean(operator, one, two, repeatable=repeatable)
    return Value(sql=f"{one} {operator} {two}", kind="truth", atom=False, repeatable=repeatable)


def _boolean(operator: str, one: str, two: str, *, repeatable: bool) -> Value:
    """`b = TRUE` is `b`, and so on."""
    value, constant = (two, one) if one in ("TRUE", "FALSE") else (one, two)
    if (constant == "TRUE") == (operator == "="):
        return Value(sql=value, kind="truth", repeatable=repeatable)
    return Value(sql=f"NOT {value}", kind="truth", atom=False, repeatable=repeatable)


def comparable(operator: str, left: Value, right: Value) -> tuple[str, str]:
    """The two sides' SQL for a comparison that PostgreSQL makes as SQLite does."""
    if "null" in (left.kind, right.kind):
        return left.operand, right.operand
    if "dynamic" in (left.kind, right.kind):
        return compare_json(operator, left, right)
    left, right = _by_affinity(left, right), _by_affinity(right, left)
    ordering = operator in ("<", "<=", ">", ">=")
    kinds = {left.kind, right.kind}
    if kinds == {"bool"} or ("bool" in kinds and (is_bit(left) or is_bit(right)) and not ordering):
        return _truth_side(left), _truth_side(right)
    if kinds <= NUMBERS:
        return as_number(left).operand, as_number(right).operand
    if kinds == {"text"}:
        return _texts(left, right, ordering=ordering)
    if kinds & MOMENTS:
        return _moments(operator, left, right)
    if (len(kinds) == 1 and kinds <= {"bytea"}) or (kinds == {"uuid"} and not ordering):
        return left.operand, right.operand
    raise Untranslatable(f"it compares {left.kind} with {right.kind}")


def _truth_side(value: Value) -> str:
    return bit(value) if is_bit(value) else value.operand


def _by_affinity(value: Value, other: Value) -> Value:
    """A literal `value` as SQLite converts it before it is compared with `other` (datatype3.html, 4.2)."""
    constant = value.constant
    if constant is None or value.affinity:
        return value
    if other.affinity in ("INTEGER", "REAL", "NUMERIC") and isinstance(constant.value, str):
        number = number_in(constant.value)
        if number is not None and other.kind in NUMBERS:
            return constant_value(Constant(number, constant.value))
    if other.affinity == "TEXT" and other.kind == "text" and isinstance(constant.value, int):
        return constant_value(Constant(str(constant.value)))
    return value


def _texts(left: Value, right: Value, *, ordering: bool) -> tuple[str, str]:
    if left.mixed or right.mixed or _numeric(left) or _numeric(right):
        raise Untranslatable("the values are of several storage classes, which SQLite tells apart")
    collation = collation_of(left, right)
    one, two = by_collation(left, collation), by_collation(right, collation)
    if ordering and collation != "NOCASE":
        one = f'{one} COLLATE "C"'
    return one, two


def _numeric(value: Value) -> bool:
    """A column that SQLite gives numeric affinity, but that holds text."""
    return value.affinity in ("INTEGER", "REAL", "NUMERIC")


def collation_of(left: Value, right: Value) -> str:
    """Which collation decides (datatype3.html, 7.1): COLLATE, else the left column's, else the right one's."""
    for side in (left, right):
        if side.explicit:
            return side.collation
    return left.collation or right.collation or "BINARY"


_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_TIME = re.compile(r"\d\d:\d\d:\d\d")


def _moments(operator: str, left: Value, right: Value) -> tuple[str, str]:
    """Moments compare by time, with each other and with a literal that says the same in every format."""
    if left.mixed != right.mixed or (left.mixed and not right.kind == left.kind):
        raise Untranslatable("SQLite compares a time that it holds as a number with one that it holds as text")
    if left.kind == right.kind:
        if left.kind == "timestamp" and left.fixed != right.fixed and not left.standard & right.standard:
            raise Untranslatable("datetime() is compared as text in SQLite, with times that may be written otherwise")
        return left.operand, right.operand
    if left.kind in MOMENTS and right.constant is not None:
        return left.operand, _moment(operator, left, right)
    if right.kind in MOMENTS and left.constant is not None:
        turned = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(operator, operator)
        return _moment(turned, right, left), right.operand
    raise Untranslatable(f"it compares {left.kind} with {right.kind}")


def _moment(operator: str, column: Value, constant: Value) -> str:
    """A literal beside a moment, as PostgreSQL's literal of that type."""
    text = constant.constant.value if constant.constant is not None else None
    if not isinstance(text, str):
        raise Untranslatable(f"it compares {column.kind} with a number")
    date, _, time = text.partition(" ")
    if not _real_moment(text):
        raise Untranslatable(f"{text!r} is no {column.kind} in the form YYYY-MM-DD HH:MM:SS")
    if column.kind == "date" and _DATE.fullmatch(text):
        return f"'{text}'::date"
    if column.kind == "time" and _TIME.fullmatch(text):
        return f"'{text}'::time"
    if column.kind in ("timestamp", "timestamptz") and _DATE.fullmatch(date):
        # As text, a day's first second comes after the day's name: only >= and < do not see the difference.
        if not time and operator not in (">=", "<"):
            raise Untranslatable("a date compares with a time as text in SQLite, and as midnight in PostgreSQL")
        zone = "+00" if column.kind == "timestamptz" else ""
        return f"'{date} {time or '00:00:00'}{zone}'::{column.kind}"
    raise Untranslatable(f"it compares {column.kind} with {text!r}")


def _real_moment(text: str) -> bool:
    try:
        if _TIME.fullmatch(text):
            datetime.time.fromisoformat(text)
        elif _DATE.fullmatch(text[:10]) and (len(text) == 10 or (text[10] == " " and _TIME.fullmatch(text[11:]))):
            datetime.datetime.fromisoformat(text)
        else:
            return False
    except ValueError:
        return False
    return True


def order_term(value: Value) -> str:
    """`value` as an ordering key that follows SQLite's collation; NULLs are the caller's to place."""
    if value.kind == "text":
        if value.mixed:
            raise Untranslatable("the values are of several storage classes, which SQLite orders one after another")
        text = by_collation(value, value.collation)
        return text if value.collation == "NOCASE" else f'{text} COLLATE "C"'
    if value.kind in NUMBERS | MOMENTS or value.kind in ("bytea", "null"):
        return value.sql
    raise Untranslatable(f"SQLite orders {value.kind} as text")
