"""SQLite's date and time functions as PostgreSQL's, for columns that became dates and times, and for now.

SQLite calculates in UTC, in milliseconds, and lets a day overflow: `date('2020-01-31', '+1 month')` is March 2nd,
where PostgreSQL's interval would say February 29th (lang_datefunc.html).
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime

from dbscale.migrate.values import Untranslatable, Value

FUNCTIONS = frozenset(
    {
        "date",
        "time",
        "datetime",
        "strftime",
        "julianday",
        "unixepoch",
        "current_timestamp",
        "current_date",
        "current_time",
    }
)
FIRST_SECOND, LAST_SECOND = -210866760000, 253402300799
"""The range of SQLite's date functions, from 4714 BC to the end of 9999; they give NULL beyond it."""
UTC_NOW = "now() AT TIME ZONE 'utc'"

_SHIFT = re.compile(r"([+-]?)(\d{1,9}) (second|minute|hour|day|month|year)s?")
_LITERAL = re.compile(r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d(?::\d\d)?))?")
_FORMATS = {"Y": "YYYY", "m": "MM", "d": "DD", "H": "HH24", "M": "MI", "S": "SS", "j": "DDD", "F": "YYYY-MM-DD",
            "T": "HH24:MI:SS", "R": "HH24:MI"}  # fmt: skip


def call(name: str, values: list[Value], *, immutable: bool) -> Value:
    """A date function's call; Untranslatable where the row does not decide what it gives, or the machine does."""
    if name.startswith("current_"):
        name = {"current_timestamp": "datetime", "current_date": "date", "current_time": "time"}[name]
        values = []
    template = ""
    if name == "strftime":
        constant = values[0].constant.value if values and values[0].constant is not None else None
        if not isinstance(constant, str):
            raise Untranslatable("strftime() with a format that is not a literal")
        template, values = constant, values[1:]
    moment = _moment(values, immutable=immutable)
    repeatable = all(value.repeatable for value in values)
    fixed = bool(values) and values[0].constant is not None and "now()" not in moment
    return replace(_written(name, template, moment, immutable=immutable), repeatable=repeatable, fixed=fixed)


def _moment(values: list[Value], *, immutable: bool) -> str:
    """The moment that the arguments say, as a timestamp in UTC, for an operand."""
    words = [value.constant.value if value.constant is not None else None for value in values]
    modifiers: list[object] = list(words[1:])
    if not values or (isinstance(words[0], str) and words[0].lower() == "now"):
        if immutable:
            raise Untranslatable("it depends on the time at which it is asked")
        sql = f"({UTC_NOW})"
    elif isinstance(words[0], str):
        sql = _written_out(words[0])
    elif values[0].mixed:
        sql = _counted(values[0], modifiers)
        modifiers = modifiers[1:]
    elif values[0].kind in ("timestamp", "date"):
        sql = values[0].operand if values[0].kind == "timestamp" else f"{values[0].operand}::timestamp"
    elif values[0].kind == "timestamptz":
        sql = f"({values[0].operand} AT TIME ZONE 'utc')"
    elif values[0].kind == "int" and modifiers[:1] == ["unixepoch"]:
        if not values[0].repeatable:
            raise Untranslatable("a moment out of a value that would be calculated more than once")
        within = f"{values[0].operand} BETWEEN {FIRST_SECOND} AND {LAST_SECOND}"
        sql = f"(CASE WHEN {within} THEN to_timestamp({values[0].sql}) END AT TIME ZONE 'utc')"
        modifiers = modifiers[1:]
    else:
        raise Untranslatable(f"it reads a moment out of {values[0].kind}; give the column a type of date or time")
    for modifier in modifiers:
        sql = _modified(sql, modifier)
    return sql


def _written_out(text: str) -> str:
    """A literal in the forms that say the same everywhere, as a timestamp; a date alone is its midnight."""
    match = _LITERAL.fullmatch(text.strip())
    try:
        moment = datetime.fromisoformat(f"{match[1]} {match[2] or '00:00'}") if match else None
    except ValueError:
        moment = None
    if moment is None:
        raise Untranslatable(f"{text!r} is no moment in the form YYYY-MM-DD HH:MM:SS")
    return f"'{moment.isoformat(sep=' ')}'::timestamp"


def _counted(value: Value, modifiers: list[object]) -> str:
    """A column of seconds that became a time: SQLite has to be told that it counts seconds."""
    reading = value.conversion.integers if value.conversion is not None else ""
    if reading != "s" or modifiers[:1] != ["unixepoch"] or value.kind not in ("timestamp", "timestamptz"):
        raise Untranslatable("SQLite would read a Julian day out of a time that it holds as a number")
    return f"({value.operand} AT TIME ZONE 'utc')" if value.kind == "timestamptz" else value.operand


def _modified(sql: str, modifier: object) -> str:
    if not isinstance(modifier, str):
        raise Untranslatable("a date modifier that is not a literal")
    word = modifier.strip().lower()
    if word in ("start of day", "start of month", "start of year"):
        return f"date_trunc('{word.removeprefix('start of ')}', {sql})"
    match = _SHIFT.fullmatch(word)
    if match is None:
        raise Untranslatable(f"the date modifier {modifier!r}")
    sign, count, unit = match[1] or "+", int(match[2]), match[3]
    if unit in ("month", "year"):
        # The day of the month is added again to the first of the month that is reached, and may overflow it.
        first = f"date_trunc('month', {sql})"
        return f"({first} {sign} interval '{count} {unit}' + ({sql} - {first}))"
    return f"({sql} {sign} interval '{count} {unit}')"


def _written(name: str, template: str, sql: str, *, immutable: bool) -> Value:
    if name == "date":
        return Value(sql=f"{sql}::date", kind="date")
    if name == "time":
        return Value(sql=f"date_trunc('second', {sql})::time", kind="time")
    if name == "datetime":
        return Value(sql=f"date_trunc('second', {sql})", kind="timestamp", standard=True)
    if name == "unixepoch":
        return Value(sql=f"floor(extract(epoch FROM {sql}))::bigint", kind="int")
    if name == "julianday":
        # SQLite's own: whole milliseconds since noon of November 24th, 4714 BC, by a day's.
        milliseconds = f"floor(extract(epoch FROM {sql}) * 1000) + 210866760000000"
        return Value(sql=f"({milliseconds})::float8 / 86400000", kind="float", atom=False, real=True)
    return _formatted(template, sql, immutable=immutable)


def to_char_template(template: str) -> str:
    """strftime's format as to_char's; Untranslatable for a letter that has no exact counterpart."""
    parts: list[str] = []
    for mark in re.finditer(r"%(.)|([^%]+)|%$", template, re.DOTALL):
        letter, plain = mark[1], mark[2]
        if plain or letter == "%":
            text = (plain or "%").replace("\\", "\\\\").replace('"', '\\"')
            parts.append(f'"{text}"' if re.search(r"[A-Za-z\\\"]", text) else text)
        elif letter in _FORMATS:
            parts.append(_FORMATS[letter])
        elif letter == "f":
            parts.append("SS.MS")
        else:
            raise Untranslatable(f"strftime() with %{letter or ''}")
    return "".join(parts)


def _formatted(template: str, sql: str, *, immutable: bool) -> Value:
    if template == "%s":
        return Value(sql=f"floor(extract(epoch FROM {sql}))::bigint::text", kind="text")
    if template == "%w":
        return Value(sql=f"extract(dow FROM {sql})::int::text", kind="text")
    if template == "%J":
        raise Untranslatable("strftime() with %J")
    if immutable:
        raise Untranslatable("PostgreSQL's to_char() is not immutable")
    from dbscale.schema import literal

    return Value(sql=f"to_char({sql}, {literal(to_char_template(template))})", kind="text")
