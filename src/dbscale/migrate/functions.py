"""SQLite's functions, casts and JSON operators as PostgreSQL's: a table of those whose answers can be made equal."""
# ruff: noqa: ARG001 - the functions of a table share one signature

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from dbscale.migrate import moments
from dbscale.migrate.comparison import compare
from dbscale.migrate.json_values import json_integer, json_path
from dbscale.migrate.syntax import Call, Constant
from dbscale.migrate.values import (
    MOMENTS,
    Untranslatable,
    Value,
    affinity_of,
    as_float,
    as_number,
    as_text,
    as_truth,
    by_collation,
    constant_value,
    unify,
)
from dbscale.migrate.windows import Over
from dbscale.schema import literal

Arguments = list[Value]


def call(node: Call, values: Arguments, condition: str, *, immutable: bool, aggregates: bool, order: str = "") -> Value:
    """A function's call. `condition` is its FILTER, `order` what an aggregate is ordered by, where that matters.

    Untranslatable for functions that are not in the tables.
    """
    name, count = node.name, len(values)
    if is_aggregate(node):
        if not aggregates:
            raise Untranslatable(f"the aggregate {name}() cannot stand here")
        if order and node.distinct:
            raise Untranslatable(f"{name}(DISTINCT) with ORDER BY")
        tail = f" FILTER (WHERE {condition})" if condition else ""
        value = _AGGREGATES[name](node, values, _Tail(f" ORDER BY {order}" if order else "", tail))
        return replace(value, aggregate=True, repeatable=False)
    if node.distinct or node.star or condition or node.order:
        raise Untranslatable(f"{name}() with DISTINCT, *, ORDER BY or FILTER")
    if name in moments.FUNCTIONS:
        return moments.call(name, values, immutable=immutable)
    scalar = _SCALARS.get(name)
    if scalar is None:
        raise Untranslatable(f"PostgreSQL has no counterpart of {name}() that is sure to give the same")
    least, most, translate = scalar
    if not least <= count <= most:
        raise Untranslatable(f"{name}() with {count} arguments")
    if name not in _TAKES_NULL and any(value.kind == "null" for value in values):
        return constant_value(Constant(None))
    value = translate(values, immutable)
    return replace(value, repeatable=value.repeatable and all(argument.repeatable for argument in values))


def is_aggregate(node: Call) -> bool:
    """True for an aggregate's call, as min() and max() of one value are; over a window it is none."""
    return node.window is None and _aggregates(node)


def _aggregates(node: Call) -> bool:
    return node.name in _AGGREGATES and (len(node.arguments) < 2 or node.name in ("group_concat", "string_agg"))


def windowed(node: Call, values: Arguments, condition: str, window: Over) -> Value:
    """An aggregate over a window; Untranslatable for what is no aggregate, and where SQLite knows no such call."""
    if not _aggregates(node) or node.distinct or node.order:
        raise Untranslatable(f"{node.name}() over a window, with DISTINCT or ORDER BY")
    frame = window.frame
    if node.name in ("group_concat", "string_agg") and frame and frame.start.kind != "UNBOUNDED PRECEDING":
        # SQLite takes what leaves the frame off the front of its text, with NULLs and é by wrong lengths.
        raise Untranslatable(f"{node.name}() over a frame that moves on")
    test = f" FILTER (WHERE {condition})" if condition else ""
    value = _AGGREGATES[node.name](node, values, _Tail("", f"{test} {window.sql}"))
    return replace(value, repeatable=all(value.repeatable for value in values))


@dataclass(frozen=True, slots=True)
class _Tail:
    """What follows an aggregate's arguments."""

    within: str
    """Before the closing bracket: ORDER BY."""
    after: str
    """Behind it: FILTER, OVER."""

    def __str__(self) -> str:
        return self.after


# -- text ------------------------------------------------------------------------------------------------------


def _text(value: Value, immutable: bool) -> Value:
    return as_text(value, immutable=immutable)


def _lower(values: Arguments, immutable: bool) -> Value:
    text = _text(values[0], immutable)
    if text.atom and text.sql.startswith("upper(COALESCE(encode("):
        # lower(hex(x)): encode() writes small letters by itself.
        return replace(text, sql=text.sql.removeprefix("upper(").removesuffix(")"))
    return Value(sql=f'lower({text.operand} COLLATE "C")', kind="text")


def _upper(values: Arguments, immutable: bool) -> Value:
    return Value(sql=f'upper({_text(values[0], immutable).operand} COLLATE "C")', kind="text")


def _length(values: Arguments, immutable: bool) -> Value:
    if values[0].kind == "bytea":
        return Value(sql=f"octet_length({values[0].sql})", kind="int", narrow=True)
    return Value(sql=f"length({_text(values[0], immutable).sql})", kind="int", narrow=True)


def _trim(name: str) -> Callable[[Arguments, bool], Value]:
    def translate(values: Arguments, immutable: bool) -> Value:
        texts = [_text(value, immutable).sql for value in values]
        return Value(sql=f"{name}({', '.join(texts)})" if len(texts) > 1 else f"{name}({texts[0]}, ' ')", kind="text")

    return translate


def _replace(values: Arguments, immutable: bool) -> Value:
    return Value(sql=f"replace({', '.join(_text(value, immutable).sql for value in values)})", kind="text")


def _instr(values: Arguments, immutable: bool) -> Value:
    if "bytea" in {value.kind for value in values}:
        raise Untranslatable("instr() of bytes")
    one, two = (_text(value, immutable).sql for value in values)
    return Value(sql=f"strpos({one}, {two})", kind="int", narrow=True)


def _integer(value: Value) -> int | None:
    """The whole number that a literal says; None for what is not one."""
    constant = value.constant.value if value.constant is not None else None
    return constant if isinstance(constant, int) else None


def _substr(values: Arguments, immutable: bool) -> Value:
    """Positions count from 1, negative ones from the end; a length that may be negative takes what stands before."""
    text = _text(values[0], immutable)
    start = _integer(values[1])
    size = _integer(values[2]) if len(values) == 3 else None
    if size is not None and size < 0:
        raise Untranslatable("substr() with a negative length")
    if len(values) == 3 and size is None:
        if start != 1 or values[2].kind not in ("int", "null") or not values[2].repeatable:
            raise Untranslatable("substr() with a length that is not a literal")
        # From the first character on, a negative length leaves nothing.
        length = f"CASE WHEN {values[2].operand} < 0 THEN 0 ELSE {values[2].sql} END"
        return Value(sql=f"substr({text.sql}, 1, ({length})::int)", kind="text")
    tail = f", {size}" if size is not None else ""
    if start is None:
        if values[1].kind != "int" or not (values[1].repeatable and text.repeatable) or tail:
            raise Untranslatable("substr() from a place that is not a literal")
        place = f"{values[1].operand}::int"
        sql = (
            f"CASE WHEN {values[1].operand} < 0 THEN right({text.sql}, -({place})) ELSE substr({text.sql}, {place}) END"
        )
        return Value(sql=sql, kind="text")
    if start >= 0:
        return Value(sql=f"substr({text.sql}, {start}{tail})", kind="text")
    if not tail:
        return Value(sql=f"right({text.sql}, {-start})", kind="text")
    return Value(sql=f"substr({text.sql}, length({text.sql}) - {-start - 1}{tail})", kind="text")


def _hex(values: Arguments, immutable: bool) -> Value:
    if values[0].kind == "bytea":
        return Value(sql=f"upper(COALESCE(encode({values[0].sql}, 'hex'), ''))", kind="text")
    if immutable:
        raise Untranslatable("PostgreSQL's way from text to bytes is not immutable")
    text = _text(values[0], immutable).sql
    return Value(sql=f"upper(COALESCE(encode(convert_to({text}, 'UTF8'), 'hex'), ''))", kind="text")


def _unicode(values: Arguments, immutable: bool) -> Value:
    return Value(sql=f"NULLIF(ascii({_text(values[0], immutable).sql}), 0)", kind="int", narrow=True)


def _char(values: Arguments, immutable: bool) -> Value:
    codes = [_integer(value) for value in values]
    if not all(code is not None and (0 < code < 0xD800 or 0xDFFF < code < 0x110000) for code in codes):
        raise Untranslatable("char() of what is not a literal, or of NUL")
    return constant_value(Constant("".join(chr(code or 0) for code in codes)))


_PADDED = re.compile(r"%0(\d{1,2})d")
_FORMAT = re.compile(r"%%|%d|%i|%s|%[^a-zA-Z%]*[a-zA-Z%]?")


def _printf(values: Arguments, immutable: bool) -> Value:
    """`%d`, `%05d`, `%,d` of whole numbers, `%s` of these and text, `%%`; NULL is nothing to %s, and 0 to %d."""
    template = values[0].constant.value if values[0].constant is not None else None
    if not isinstance(template, str):
        raise Untranslatable("printf() with a format that is not a literal")
    rest = values[1:]
    parts, place = [], 0
    for mark in _FORMAT.finditer(template):
        if mark.start() > place:
            parts.append(literal(template[place : mark.start()]))
        place = mark.end()
        if mark.group() == "%%":
            parts.append(literal("%"))
        elif rest and (mark.group() in ("%d", "%i", "%s", "%,d") or _PADDED.fullmatch(mark.group())):
            parts.append(_printed(mark.group(), rest.pop(0), immutable))
        else:
            raise Untranslatable(f"printf() with {mark.group()}")
    if place < len(template) or not parts:
        parts.append(literal(template[place:]))
    return Value(sql=" || ".join(parts), kind="text", atom=len(parts) == 1)


def _printed(mark: str, value: Value, immutable: bool) -> str:
    if mark == "%s":
        return f"COALESCE({_text(value, immutable).sql}, '')"
    number = as_number(value)
    if number.kind not in ("int", "null") or not number.repeatable:
        raise Untranslatable("printf() of what is not a whole number, or is calculated more than once")
    whole = f"COALESCE({number.operand}, 0)"
    padded = _PADDED.fullmatch(mark)
    if padded is not None:
        text = f"ltrim({whole}::text, '-')"
        size = f"greatest(length({text}), {int(padded[1])} - ({whole} < 0)::int)"
        return f"CASE WHEN {whole} < 0 THEN '-' ELSE '' END || lpad({text}, {size}, '0')"
    if mark == "%,d":
        if immutable:
            raise Untranslatable("PostgreSQL's to_char() is not immutable")
        return f"to_char({whole}, 'FM9,999,999,999,999,999,999')"
    return f"{whole}::text"


# -- numbers ---------------------------------------------------------------------------------------------------


def _abs(values: Arguments, immutable: bool) -> Value:
    number = as_number(values[0])
    wide = f"{number.operand}::bigint" if number.narrow else number.sql
    sql = f"abs({as_float(number) if number.kind == 'numeric' else wide})"
    return Value(sql=sql, kind="float" if number.kind == "numeric" else number.kind, real=number.real)


def _round(values: Arguments, immutable: bool) -> Value:
    """Whole numbers only become real; SQLite rounds real ones by their decimal digits, which differ by version."""
    number = as_number(values[0])
    if number.kind not in ("int", "null"):
        raise Untranslatable("round() of a real number: the two round halves differently")
    return Value(sql=f"{number.operand}::float8", kind="float", real=True)


def _sign(values: Arguments, immutable: bool) -> Value:
    return Value(sql=f"sign({as_float(values[0])})::int", kind="int", narrow=True)


def _extreme(name: str, function: str) -> Callable[[Arguments, bool], Value]:
    """min() and max() of several: NULL when any is, where LEAST and GREATEST leave NULLs out."""

    def translate(values: Arguments, immutable: bool) -> Value:
        kind, sqls = unify(values)
        if kind not in ("int", "numeric", "float", "text", "null") or any(value.mixed for value in values):
            raise Untranslatable(f"{name}() of {kind}")
        if kind == "text":
            if {value.collation or "BINARY" for value in values} != {"BINARY"}:
                raise Untranslatable(f"{name}() with a collation")
            sqls = [f'{values[0].operand} COLLATE "C"', *sqls[1:]]
        if kind in ("numeric", "int", "float") and len({value.kind for value in values}) > 1:
            raise Untranslatable(f"{name}() of numbers of different kinds")
        if not all(value.repeatable for value in values):
            raise Untranslatable(f"{name}() of a value that would be calculated more than once")
        tests = [f"{value.operand} IS NULL" for value in values if value.constant is None]
        extreme = f"{function}({', '.join(sqls)})"
        if not tests:
            return Value(sql=extreme, kind=kind)
        return Value(sql=f"CASE WHEN {' OR '.join(tests)} THEN NULL ELSE {extreme} END", kind=kind)

    return translate


# -- NULLs, choices, types -------------------------------------------------------------------------------------


def _coalesce(values: Arguments, immutable: bool) -> Value:
    kind, sqls = unify(values)
    real = all(value.real for value in values if value.kind != "null")
    standard = all(value.standard for value in values if value.kind != "null")
    return Value(sql=f"COALESCE({', '.join(sqls)})", kind=kind, real=real, standard=standard,
                 collation=values[0].collation, mixed=any(value.mixed for value in values))  # fmt: skip


def _nullif(values: Arguments, immutable: bool) -> Value:
    # A function compares its arguments without giving them affinity.
    truth = compare("=", *(replace(value, affinity="") for value in values))
    if not values[0].repeatable:
        raise Untranslatable("nullif() of a value that would be calculated more than once")
    sql = f"CASE WHEN {truth.sql} THEN NULL ELSE {values[0].sql} END"
    return replace(values[0], sql=sql, affinity="", constant=None, atom=True, always=False)


def _iif(values: Arguments, immutable: bool) -> Value:
    kind, sqls = unify(values[1:])
    otherwise = f" ELSE {sqls[1]}" if len(sqls) == 2 else ""
    real = all(value.real for value in values[1:] if value.kind != "null")
    return Value(sql=f"CASE WHEN {as_truth(values[0]).sql} THEN {sqls[0]}{otherwise} END", kind=kind, real=real)


def _typeof(values: Arguments, immutable: bool) -> Value:
    value = values[0]
    if value.kind == "null":
        return constant_value(Constant("null"))
    if len(value.classes) != 1 or not value.repeatable:
        raise Untranslatable("the type does not tell in which storage class SQLite held the value")
    (word,) = value.classes
    return Value(sql=f"CASE WHEN {value.operand} IS NULL THEN 'null' ELSE '{word}' END", kind="text")


def _json_extract(values: Arguments, immutable: bool) -> Value:
    return json_path(values[0], values[1])


def _json_valid(values: Arguments, immutable: bool) -> Value:
    """A json or jsonb column holds nothing else."""
    if values[0].kind not in ("json", "jsonb"):
        raise Untranslatable("PostgreSQL tests text for JSON only from version 16 on; give the column the type jsonb")
    value = values[0].operand
    return Value(sql=f"CASE WHEN {value} IS NOT NULL THEN TRUE END", kind="truth", always=True)


_RANDOM_BYTES = "sha256(gen_random_uuid()::text::bytea)"
"""32 bytes that carry the 122 random bits of a UUID; without an extension PostgreSQL has no others."""


def _random(values: Arguments, immutable: bool) -> Value:
    if immutable:
        raise Untranslatable("it is random")
    sql = f"('x' || left(encode({_RANDOM_BYTES}, 'hex'), 16))::bit(64)::bigint"
    return Value(sql=sql, kind="int", repeatable=False)


def _randomblob(values: Arguments, immutable: bool) -> Value:
    size = _integer(values[0])
    if immutable or size is None or not 1 <= size <= 32:
        raise Untranslatable("randomblob() of more than 32 bytes, or of a size that is not a literal")
    return Value(sql=f"substr({_RANDOM_BYTES}, 1, {size})", kind="bytea", repeatable=False)


_Scalar = tuple[int, int, Callable[[Arguments, bool], Value]]
_SCALARS: dict[str, _Scalar] = {
    "abs": (1, 1, _abs),
    "char": (1, 100, _char),
    "coalesce": (2, 100, _coalesce),
    "format": (1, 100, _printf),
    "hex": (1, 1, _hex),
    "ifnull": (2, 2, _coalesce),
    "iif": (2, 3, _iif),
    "instr": (2, 2, _instr),
    "json_extract": (2, 2, _json_extract),
    "json_valid": (1, 1, _json_valid),
    "length": (1, 1, _length),
    "lower": (1, 1, _lower),
    "ltrim": (1, 2, _trim("ltrim")),
    "max": (2, 100, _extreme("max", "GREATEST")),
    "min": (2, 100, _extreme("min", "LEAST")),
    "nullif": (2, 2, _nullif),
    "printf": (1, 100, _printf),
    "random": (0, 0, _random),
    "randomblob": (1, 1, _randomblob),
    "replace": (3, 3, _replace),
    "round": (1, 1, _round),
    "rtrim": (1, 2, _trim("rtrim")),
    "sign": (1, 1, _sign),
    "substr": (2, 3, _substr),
    "substring": (2, 3, _substr),
    "trim": (1, 2, _trim("btrim")),
    "typeof": (1, 1, _typeof),
    "unicode": (1, 1, _unicode),
    "upper": (1, 1, _upper),
}
_TAKES_NULL = frozenset({"coalesce", "format", "hex", "ifnull", "iif", "json_extract", "nullif", "printf", "typeof"})
"""The others give NULL when an argument is NULL, which PostgreSQL does not always know to be of a type."""

# -- aggregates ------------------------------------------------------------------------------------------------


def _argument(node: Call, value: str) -> str:
    return f"DISTINCT {value}" if node.distinct else value


def _count(node: Call, values: Arguments, tail: _Tail) -> Value:
    if node.star or not values:
        return Value(sql=f"count(*){tail}", kind="int", repeatable=False)
    if node.distinct and (values[0].kind == "text" and (values[0].collation or "BINARY") != "BINARY"):
        values = [replace(values[0], sql=by_collation(values[0], values[0].collation))]
    return Value(sql=f"count({_argument(node, values[0].sql)}){tail}", kind="int")


def _summand(value: Value) -> Value:
    number = as_number(value)
    return replace(number, sql="NULL::bigint", kind="int") if number.kind == "null" else number


def _sum(node: Call, values: Arguments, tail: _Tail) -> Value:
    number = _summand(values[0])
    sql = f"sum({_argument(node, number.sql)}){tail}"
    if number.kind == "int":
        return Value(sql=f"({sql})::bigint", kind="int", repeatable=False)
    return Value(sql=sql, kind=number.kind, real=number.real, repeatable=False)


def _total(node: Call, values: Arguments, tail: _Tail) -> Value:
    number = _summand(values[0])
    sql = f"COALESCE((sum({_argument(node, number.sql)}){tail})::float8, 0)"
    return Value(sql=sql, kind="float", real=True, repeatable=False)


def _avg(node: Call, values: Arguments, tail: _Tail) -> Value:
    number = _summand(values[0])
    sql = f"(avg({_argument(node, number.sql)}){tail})::float8"
    return Value(sql=sql, kind="float", real=True, repeatable=False)


def _aggregate_extreme(name: str) -> Callable[[Call, Arguments, _Tail], Value]:
    def translate(node: Call, values: Arguments, tail: _Tail) -> Value:
        value = values[0]
        if value.mixed or value.kind in ("uuid", "json", "jsonb", "dynamic", "bytea", "other"):
            raise Untranslatable(f"{name}() of {value.kind}")
        if value.kind == "bool":
            function = "bool_and" if name == "min" else "bool_or"
            return Value(sql=f"{function}({value.sql}){tail}", kind="bool", repeatable=False)
        if value.kind == "text":
            if (value.collation or "BINARY") != "BINARY":
                raise Untranslatable(f"{name}() with a collation")
            sql = f'{name}({value.operand} COLLATE "C"){tail}'
            return Value(sql=sql, kind="text", repeatable=False)
        number = value if value.kind in MOMENTS else _summand(value)
        return replace(number, sql=f"{name}({number.sql}){tail}", atom=True, affinity="", repeatable=False)

    return translate


def _group_concat(node: Call, values: Arguments, tail: _Tail) -> Value:
    if node.distinct and len(values) > 1:
        raise Untranslatable("group_concat(DISTINCT) with a separator")
    text = as_text(values[0], immutable=False).sql
    separator = as_text(values[1], immutable=False).sql if len(values) == 2 else "','"
    return Value(
        sql=f"string_agg({_argument(node, text)}, {separator}{tail.within}){tail}", kind="text", repeatable=False
    )


_AGGREGATES: dict[str, Callable[[Call, Arguments, _Tail], Value]] = {
    "avg": _avg,
    "count": _count,
    "group_concat": _group_concat,
    "max": _aggregate_extreme("max"),
    "min": _aggregate_extreme("min"),
    "string_agg": _group_concat,
    "sum": _sum,
    "total": _total,
}

# -- casts --------------------------------------------------------------------------------------------


def cast(value: Value, type_: str, *, immutable: bool) -> Value:
    """CAST(x AS type), by the type's affinity. Text into numbers is refused: SQLite reads as far as it can."""
    affinity = affinity_of(type_)
    if value.kind == "null":
        return value
    if affinity == "TEXT":
        return replace(as_text(value, immutable=immutable), affinity="TEXT", collation="", explicit=False)
    if affinity == "INTEGER" and value.kind == "dynamic":
        return json_integer(value)
    if affinity in ("INTEGER", "REAL", "NUMERIC"):
        number = as_number(value)
        if affinity == "REAL":
            return Value(sql=as_float(number), kind="float", affinity="REAL", real=True, repeatable=value.repeatable)
        if number.kind == "int" or affinity == "NUMERIC":
            return replace(number, affinity=affinity, constant=None, collation="")
        sql = f"trunc({number.sql})::bigint"
        return Value(sql=sql, kind="int", affinity="INTEGER", repeatable=value.repeatable)
    if value.kind == "bytea":
        return replace(value, affinity="BLOB")
    raise Untranslatable(f"CAST of {value.kind} to {type_}")
