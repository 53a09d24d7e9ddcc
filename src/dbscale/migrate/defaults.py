"""A column's default for its chosen type: what is constant, what SQLite computes, and never a frozen `now`.

SQLite gives a default the column's affinity before it stores it, and then the column's conversion applies. The
clock's forms are recognised as a whole, so that each becomes what its type wants; PostgreSQL's `now()` is the
transaction's start in place of SQLite's statement.
"""

from __future__ import annotations

import datetime
import json
import re
import uuid
from dataclasses import dataclass

from dbscale.migrate import moments
from dbscale.migrate.dialect import Scope, compile_node, fitted
from dbscale.migrate.grammar import parse_expression
from dbscale.migrate.model import Choice, SourceColumn
from dbscale.migrate.syntax import Binary, Call, Cast, Constant, Name, Node
from dbscale.migrate.tokens import NotUnderstood
from dbscale.migrate.values import Kind, Untranslatable, affinity_of, kind_of, number_in
from dbscale.schema import literal

TRUE_WORDS = frozenset({"1", "t", "true", "y", "yes", "on"})
FALSE_WORDS = frozenset({"0", "f", "false", "n", "no", "off"})

_UUID_4 = re.compile(
    r"(?i)(?P<lower>lower\s*\()?.*hex\s*\(\s*randomblob\s*\(\s*4\s*\)\s*\).*'-'.*'-?4'.*substr\s*\(\s*'(?:89ab|ab89)'",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Clock:
    """What a default reads off the clock: `datetime`, `date`, `time`, `s`, `ms`, `julian` or `format`."""

    unit: str
    template: str = ""
    local: bool = False
    """In the machine's time zone, not in UTC."""


def translate(column: SourceColumn, choice: Choice, *, strict: bool = False) -> tuple[str, str]:
    """The default's SQL (empty for none), and a remark on it (empty for none). Untranslatable with the reason."""
    if column.default is None:
        return "", ""
    try:
        node = parse_expression(column.default)
    except NotUnderstood as error:
        raise Untranslatable(f"it is not understood: {error}") from error
    if isinstance(node, Name) and node.parts[-1].upper() in ("TRUE", "FALSE") and not node.maybe_text:
        node = Constant(int(node.parts[-1].upper() == "TRUE"))
    elif isinstance(node, Name) and len(node.parts) == 1:
        node = Constant(node.parts[0])  # a bare or double-quoted word is text
    if isinstance(node, Constant):
        return constant(node.value, affinity_of(column.declared, strict=strict), choice), ""
    if _UUID_4.search(column.default) and kind_of(choice.type) in ("uuid", "text"):
        return _uuid(column.default, kind_of(choice.type)), ""
    clock = read_clock(node)
    if clock is not None:
        remark = "it is in the session's time zone, as SQLite's is in the machine's" if clock.local else ""
        return clock_sql(clock, choice), remark
    return fitted(compile_node(node, Scope(immutable=False)), choice.type, immutable=False), ""


def _uuid(text: str, kind: Kind) -> str:
    if kind == "uuid":
        return "gen_random_uuid()"
    lower = re.match(r"\(*\s*lower\s*\(", text, re.IGNORECASE)
    return "gen_random_uuid()::text" if lower else "upper(gen_random_uuid()::text)"


# -- constants -------------------------------------------------------------------------------------------------


def constant(value: int | float | str | bytes | None, affinity: str, choice: Choice) -> str:
    """A literal default, stored by `affinity` and then converted as the column's values are."""
    if value is None:
        return ""
    held = _stored(value, affinity)
    kind = kind_of(choice.type)
    if kind == "bool":
        return _boolean(held)
    if kind in ("int", "numeric", "float"):
        return _number(held, kind)
    if kind == "text":
        return _text(held)
    if kind == "bytea":
        data = held if isinstance(held, bytes) else _plain(held).encode()
        return rf"'\x{data.hex()}'::bytea"
    if kind in ("json", "jsonb"):
        return _json(held, kind)
    if kind == "uuid":
        return _uuid_constant(held)
    if kind in ("date", "time", "timestamp", "timestamptz"):
        return _moment(held, kind, choice)
    raise Untranslatable(f"a constant for a column of {choice.type}")


def _stored(value: int | float | str | bytes, affinity: str) -> int | float | str | bytes:
    """What SQLite stores for `value` in a column of `affinity`."""
    if affinity == "TEXT" and isinstance(value, int | float):
        return _plain(value)
    if affinity in ("INTEGER", "REAL", "NUMERIC") and isinstance(value, str):
        number = number_in(value)
        return value if number is None else number
    return value


def _plain(value: int | float | str | bytes) -> str:
    """The text SQLite makes of a number; Untranslatable for a real one with more than 15 digits or an exponent."""
    if isinstance(value, bytes):
        raise Untranslatable("bytes for a column of text")
    if isinstance(value, float) and ("e" in repr(value) or len(repr(value)) > 16):
        raise Untranslatable("the text that SQLite makes of this number")
    return str(value)


def _text(held: int | float | str | bytes) -> str:
    text = _plain(held)
    if "\0" in text:
        raise Untranslatable("PostgreSQL's text cannot hold a NUL character")
    return literal(text)


def _boolean(held: int | float | str | bytes) -> str:
    word = str(int(held)) if held in (0, 1) else held
    if isinstance(word, str) and word.lower() in TRUE_WORDS:
        return "TRUE"
    if isinstance(word, str) and word.lower() in FALSE_WORDS:
        return "FALSE"
    raise Untranslatable(f"{held!r} is neither true nor false")


def _number(held: int | float | str | bytes, kind: Kind) -> str:
    if isinstance(held, int) or (isinstance(held, float) and kind != "int"):
        if isinstance(held, float) and abs(held) == float("inf"):
            return f"'{'-' * (held < 0)}Infinity'"
        return repr(held) if held != -(1 << 63) else f"'{held}'"
    if isinstance(held, float) and held.is_integer() and abs(held) < 1 << 63:
        return str(int(held))
    raise Untranslatable(f"{held!r} is not a number of the column's type")


def _json(held: int | float | str | bytes, kind: Kind) -> str:
    text = _plain(held)
    try:
        json.loads(text, parse_constant=_no_constant)
    except ValueError:
        raise Untranslatable(f"{text!r} is not JSON") from None
    if "\\u0000" in text or re.search(r"\\ud[89a-f]", text, re.IGNORECASE):
        raise Untranslatable("JSON with NUL or half a character")
    return f"{literal(text)}::{kind}"


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _uuid_constant(held: int | float | str | bytes) -> str:
    try:
        value = uuid.UUID(bytes=held) if isinstance(held, bytes) else uuid.UUID(_plain(held))
    except ValueError:
        raise Untranslatable(f"{held!r} is not a UUID") from None
    return f"'{value}'::uuid"


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_SCALES = {"s": 1, "ms": 1_000, "us": 1_000_000}


def _moment(held: int | float | str | bytes, kind: Kind, choice: Choice) -> str:
    """A date or a time: ISO text, or a number by the column's own reading of numbers."""
    if isinstance(held, int) and choice.conversion.integers in _SCALES and kind in ("timestamp", "timestamptz"):
        try:
            moment = _EPOCH + datetime.timedelta(seconds=held / _SCALES[choice.conversion.integers])
        except OverflowError:
            raise Untranslatable(f"{held!r} is no time") from None
        return f"'{moment:%Y-%m-%d %H:%M:%S.%f}{'+00' * (kind == 'timestamptz')}'::{kind}"
    if not isinstance(held, str):
        raise Untranslatable(f"{held!r} is no {kind}")
    try:
        if kind == "time":
            return f"'{datetime.time.fromisoformat(held).isoformat()}'::time"
        if kind == "date":
            return f"'{datetime.date.fromisoformat(held).isoformat()}'::date"
        moment = datetime.datetime.fromisoformat(held)
    except ValueError:
        raise Untranslatable(f"{held!r} is no {kind}") from None
    if kind == "timestamptz":
        aware = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
        return f"'{aware.isoformat(sep=' ')}'::timestamptz"
    if moment.tzinfo:
        raise Untranslatable(f"{held!r} has a time zone, and the column has none")
    return f"'{moment.isoformat(sep=' ')}'::timestamp"


# -- the clock -------------------------------------------------------------------------------------------------


def read_clock(node: Node) -> Clock | None:
    """What `node` reads off the clock, when it is one of the forms in use; None for others."""
    match node:
        case Call("current_timestamp", ()):
            return Clock("datetime")
        case Call("current_date", ()):
            return Clock("date")
        case Call("current_time", ()):
            return Clock("time")
        case Call("datetime" | "date" | "time" | "julianday" | "unixepoch" as name, arguments):
            return _plain_clock(name, _words(arguments))
        case Call("strftime", (Constant(str(template)), *arguments)):
            return _formatted_clock(template, _words(tuple(arguments)))
        case Cast(operand, type_) if affinity_of(type_) == "INTEGER":
            return _whole_clock(operand)
        case Call("round", (operand,)):
            return _whole_clock(operand)
        case Binary("*", left, Constant(1000 | 1000.0)) if (clock := _seconds(left)) is not None:
            return Clock("ms", local=clock.local)
        case Binary("||", Call("strftime"), Call("substr", (Call("strftime"), Constant(4)))):
            return _milliseconds_as_text(node)
        case _:
            return None


def _words(arguments: tuple[Node, ...]) -> list[str] | None:
    """Literal arguments in lower case; None when one is not."""
    words = [argument.value for argument in arguments if isinstance(argument, Constant)]
    if len(words) != len(arguments) or not all(isinstance(word, str) for word in words):
        return None
    return [str(word).lower() for word in words]


def _plain_clock(name: str, words: list[str] | None) -> Clock | None:
    if words is None or (words and words[0] not in ("now", "subsec", "subsecond")):
        return None
    modifiers = [word for word in words if word != "now"]
    fine = any(word in ("subsec", "subsecond") for word in modifiers)
    local = "localtime" in modifiers
    if [word for word in modifiers if word not in ("localtime", "subsec", "subsecond")]:
        return None
    if name == "unixepoch":
        return None if local else Clock("s.f" if fine else "s")
    if name == "julianday":
        return None if local or fine else Clock("julian")
    if fine and name == "datetime":
        return Clock("format", "%Y-%m-%d %H:%M:%f", local)
    return None if fine else Clock(name, local=local)


def _formatted_clock(template: str, words: list[str] | None) -> Clock | None:
    if words is None or (words and words[0] != "now") or [word for word in words[1:] if word != "localtime"]:
        return None
    local = "localtime" in words
    if template == "%s":
        return None if local else Clock("s")
    return Clock("format", template, local)


def _seconds(node: Node) -> Clock | None:
    clock = read_clock(node)
    return clock if clock is not None and clock.unit in ("s", "s.f") else None


def _whole_clock(node: Node) -> Clock | None:
    """CAST(… AS INTEGER) of seconds, or of the Julian day counted from 1970 in days, seconds or milliseconds."""
    match node:
        case Call("round", (operand,)):
            return _whole_clock(operand)
        case Binary("*", Binary("-", Call("julianday", arguments), Constant(2440587.5)), factor):
            scale = _product(factor)
            units = {86400.0: "s", 86400000.0: "ms"}
            return Clock(units[scale]) if _words(arguments) in (["now"], []) and scale in units else None
        case Binary("*", Binary("*", left, Constant(float() | int() as one)), Constant(float() | int() as two)):
            return _whole_clock(Binary("*", left, Constant(one * two)))
    clock = read_clock(node)
    if clock is None or clock.unit not in ("s", "s.f", "ms"):
        return None
    return Clock("s" if clock.unit == "s.f" else clock.unit)


def _product(node: Node) -> float:
    match node:
        case Constant(int() | float() as number):
            return float(number)
        case Binary("*", left, right):
            return _product(left) * _product(right)
    return 0.0


def _milliseconds_as_text(node: Node) -> Clock | None:
    """`strftime('%s','now') || substr(strftime('%f','now'), 4)`: milliseconds, put together as text."""
    match node:
        case Binary(
            "||",
            Call("strftime", (Constant("%s"), Constant("now"))),
            Call("substr", (Call("strftime", (Constant("%f"), Constant("now"))), Constant(4))),
        ):
            return Clock("ms")
    return None


def clock_sql(clock: Clock, choice: Choice) -> str:
    """The clock as a default of the chosen type; Untranslatable where the column's values mean something else."""
    kind = kind_of(choice.type)
    now = "LOCALTIMESTAMP" if clock.local else moments.UTC_NOW
    if clock.unit in ("s", "ms", "s.f", "julian"):
        return _counted(clock, kind, choice)
    if kind in ("timestamp", "timestamptz", "date", "time") and _says(clock, kind):
        if kind == "timestamptz":
            return "now()"
        if clock.unit == "date" and kind == "timestamp":
            return f"date_trunc('day', {now})"
        return {"timestamp": now if clock.local else f"({now})", "date": f"({now})::date", "time": f"({now})::time(0)"}[
            kind
        ]
    if kind == "text":
        templates = {"datetime": "%Y-%m-%d %H:%M:%S", "date": "%Y-%m-%d", "time": "%H:%M:%S"}
        template = moments.to_char_template(templates.get(clock.unit, clock.template))
        return f"to_char({now}, {literal(template)})"
    if kind == "int" and re.fullmatch(r"(%[YmdHMSj])+", clock.template):
        # Digits alone: the column's affinity makes a number of them.
        return f"to_char({now}, {literal(moments.to_char_template(clock.template))})::bigint"
    raise Untranslatable(f"SQLite would store text in it, and the column is {choice.type}")


def _says(clock: Clock, kind: Kind) -> bool:
    """True when the text that the clock gives is a whole value of `kind`."""
    if clock.unit == "format":
        whole = {"date": r"%Y-%m-%d|%F", "time": r"%H:%M:%[Sf]|%T"}
        moment = r"(%Y-%m-%d|%F)[ T](%H:%M:%[Sf]|%H:%M|%T|%R)(Z|\+00:?00)?"
        return re.fullmatch(whole.get(kind, moment), clock.template) is not None
    return {"datetime": kind.startswith("timestamp"), "date": kind in ("date", "timestamp"), "time": kind == "time"}[
        clock.unit
    ]


def _counted(clock: Clock, kind: Kind, choice: Choice) -> str:
    """Seconds, milliseconds or days, for numbers and for columns whose numbers are read as times."""
    reading = choice.conversion.integers
    if kind in ("timestamp", "timestamptz") and clock.unit in ("s", "ms") and reading in (clock.unit, "by-size"):
        return "now()" if kind == "timestamptz" else f"({moments.UTC_NOW})"
    seconds = "extract(epoch FROM now())"
    exact = {"s": f"floor({seconds})", "ms": f"floor({seconds} * 1000)", "s.f": f"round({seconds}::numeric, 3)"}.get(
        clock.unit
    )
    if exact is None:
        exact = f"(floor({seconds} * 1000) + 210866760000000)::float8 / 86400000"
    if kind == "int" and clock.unit in ("s", "ms"):
        return f"{exact}::bigint"
    if kind == "numeric":
        return f"({exact})::numeric"
    if kind == "float":
        return f"({exact})::float8"
    if kind == "text" and clock.unit in ("s", "ms"):
        return f"{exact}::bigint::text"
    raise Untranslatable(f"it counts {clock.unit}, and the column is {choice.type}")
