"""SQLite's JSON operators and paths as PostgreSQL's, for columns of json and jsonb."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from dbscale.migrate.values import Untranslatable, Value
from dbscale.schema import literal

_PATH = re.compile(r'\.(?:"([^"\\]+)"|([A-Za-z_][A-Za-z0-9_]*))|\[(\d+)\]')


def json_steps(path: str, *, arrow: bool) -> list[str]:
    """The keys of a JSON path, `$.a[0]`; after an arrow also `a` or a number alone."""
    if arrow and not path.startswith("$"):
        if not path:
            raise Untranslatable("an empty JSON key")
        return [path]
    steps, place = [], 1
    while path.startswith("$") and place < len(path):
        match = _PATH.match(path, place)
        if match is None:
            break
        steps.append(next(group for group in match.groups() if group is not None))
        place = match.end()
    if not path.startswith("$") or place < len(path) or not steps:
        raise Untranslatable(f"the JSON path {path!r}")
    return steps


def json_path(value: Value, path: Value, *, arrow: bool = False, document: bool = False) -> Value:
    """What stands at `path` within a json or jsonb `value`: a document, or SQL's value of it."""
    if value.kind not in ("json", "jsonb"):
        raise Untranslatable(f"it reads JSON out of {value.kind}; give the column the type jsonb")
    constant = path.constant.value if path.constant is not None else None
    if isinstance(constant, int) and arrow and constant >= 0:
        steps = [str(constant)]
    elif isinstance(constant, str):
        steps = json_steps(constant, arrow=arrow)
    else:
        raise Untranslatable("a JSON path that is not a literal")
    operand = value.operand if value.kind == "jsonb" else f"{value.operand}::jsonb"
    array = "{" + ",".join('"' + step.replace("\\", "\\\\").replace('"', '\\"') + '"' for step in steps) + "}"
    sql = f"{operand} #> {literal(array)}"
    if document:
        return Value(sql=sql, kind="jsonb", atom=False, repeatable=value.repeatable)
    return Value(sql=f"NULLIF({sql}, 'null'::jsonb)", kind="dynamic", repeatable=value.repeatable)


def json_text(value: Value) -> Value:
    """A value out of JSON as text, `j #>> path`, for an index: that is how PostgreSQL's own queries ask for it."""
    sql = value.sql.removeprefix("NULLIF(").removesuffix(", 'null'::jsonb)")
    return replace(value, sql=sql.replace(" #> ", " #>> ", 1), kind="text", atom=False)


def json_arrow(operator: str, left: Value, right: Value) -> Value:
    """`->` gives a document, `->>` SQL's value."""
    return json_path(left, right, arrow=True, document=operator == "->")


def compare_json(operator: str, left: Value, right: Value) -> tuple[str, str]:
    """A value out of JSON beside a literal: equal when it is the same JSON. Order differs from row to row."""
    if left.kind != "dynamic":
        other, one = compare_json(operator, right, left)
        return one, other
    constant = right.constant.value if right.constant is not None else None
    if operator not in ("=", "<>", "IS DISTINCT FROM", "IS NOT DISTINCT FROM") or isinstance(constant, bytes | None):
        raise Untranslatable("a value out of JSON is compared with what is not a literal, or by order")
    if isinstance(constant, int | float) and constant in (0, 1):
        raise Untranslatable("0 and 1 out of JSON are also SQLite's false and true")
    if isinstance(constant, str) and constant[:1] in ("{", "["):
        raise Untranslatable("a JSON document is compared as text")
    return left.operand, literal(json.dumps(constant, ensure_ascii=False)) + "::jsonb"


_DIGITS = literal("^[ \t\n\v\f\r]*([+-]?[0-9]+)")
_LEAST, _GREATEST = -(1 << 63), (1 << 63) - 1


def json_integer(value: Value) -> Value:
    """CAST of a value out of JSON to INTEGER: a text as far as it is a whole number, no more than 64 bits."""
    one = value.sql
    number = f"({one})::numeric"
    whole = f"CASE WHEN trunc({number}) = {number} THEN {number} ELSE trunc(({number})::float8)::numeric END"
    text = f"COALESCE(substring({one} #>> '{{}}' FROM {_DIGITS})::numeric, 0)"
    found = (
        f"CASE jsonb_typeof({one}) WHEN 'number' THEN {whole} WHEN 'string' THEN {text} "
        f"WHEN 'boolean' THEN ({one})::boolean::int::numeric WHEN 'array' THEN 0 WHEN 'object' THEN 0 END"
    )
    # LEAST and GREATEST would make a number of NULL.
    sql = f"(CASE WHEN {one} IS NOT NULL THEN LEAST(GREATEST({found}, {_LEAST}), {_GREATEST}) END)::bigint"
    return Value(sql=sql, kind="int", affinity="INTEGER", repeatable=value.repeatable)
