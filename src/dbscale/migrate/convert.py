"""One value of the source as PostgreSQL's input text, or the reason why it cannot be: the whole of `plan.Conversion`.

SQL writes the values of usual form (`cells.py`); what it leaves out comes here, row by row. Strict on purpose: nothing
is passed on that PostgreSQL would read as something else ('now', ' 12 ', 24:00:00, digits beyond a scale).
"""

from __future__ import annotations

import binascii
import codecs
import dataclasses
import json
import math
import re
import struct
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Context, Decimal

from dbscale.migrate import cells
from dbscale.migrate.cells import Type
from dbscale.plan import Conversion

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - counted in UTC throughout
JULIAN_EPOCH_MS = 210_866_760_000_000
"""Milliseconds from Julian day 0 to 1970-01-01."""
PIECE = 1 << 20
NOT_UTF8 = "not UTF-8"
"""How the reason of a refusal begins, where the text is not what its encoding says."""
_DIGITS = Context(prec=200_000)
_UNITS = {"s": 1, "ms": 1000, "us": 10**6, "ns": 10**9, "webkit-us": 10**6, "apple-s": 1}
_SHIFTS = {"webkit-us": -cells.WEBKIT_SECONDS, "apple-s": cells.APPLE_SECONDS}
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
_UUID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_TIME = re.compile(r"([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?")
_ZONE = re.compile(r"(?:[Zz]|[+-](?:0[0-9]|1[0-5])(?::?[0-5][0-9])?)")
_MOMENT = re.compile(
    rf"(?P<date>{_DATE.pattern})(?:[T ](?P<time>{_TIME.pattern})(?: ?(?P<zone>{_ZONE.pattern}))?)?", re.IGNORECASE
)
_LAST_MOMENT = re.compile("9999-12-31[T ]23:59:59.999999[5-9]", re.IGNORECASE)


class Refusal(ValueError):
    """Why a value is not written; its text is the reason, for people."""


def convert(value: int | float | bytes | None, storage: str, conversion: Conversion, encoding: str) -> bytes | None:
    """The value as PostgreSQL's input text in UTF-8, None for NULL. Refusal where there is no faithful one.

    `storage` is SQLite's class; text comes as the bytes that the file holds, in `encoding`.
    """
    if value is None:
        return None
    to = cells.parse_type(conversion.to)
    if isinstance(value, int):
        return _integer(value, conversion, to).encode()
    if isinstance(value, float):
        return _real(value, conversion, to).encode()
    if storage == "blob":
        return _blob(value, conversion, to)
    if not value and conversion.empty == "null":
        return None
    return _text(value, conversion, to, encoding)


def _integer(value: int, conversion: Conversion, to: Type) -> str:
    reading = conversion.integers
    if reading == "keep" and to.family == "integer":
        return _ranged(value, to)
    if reading == "keep" and to.family == "float" and int(float(value)) == value:
        return str(value)
    if reading == "keep" and to.family == "numeric":
        return _scaled(Decimal(value), to)
    if reading == "bool" and value in (0, 1):
        return str(value)
    if reading in ("text", "keep") and to.family == "text":
        return _limited(str(value), to)
    if reading == "keep" and to.family == "json":
        return str(value)
    if reading == "text" and to.family == "bytea":
        return _hex(str(value).encode()).decode()
    if reading == "yyyymmdd":
        digits = f"{value:08d}"
        return _moment(f"{digits[:-4]}-{digits[-4:-2]}-{digits[-2:]}", to, rounded=False)
    if reading == "days":
        return _counted(value * 86400, 1, to, conversion)
    if reading == "julian":
        return _counted(value * 86_400_000 - JULIAN_EPOCH_MS, 1000, to, conversion)
    if reading == "by-size":
        unit = next((10 ** (3 * i) for i, least in enumerate(cells.BY_SIZE) if abs(value) < least), 10**9)
        return _counted(value, unit, to, conversion)
    if reading in _UNITS:
        unit = _UNITS[reading]
        return _counted(value + _SHIFTS.get(reading, 0) * unit, unit, to, conversion)
    raise Refusal(f"the integer {value} is no {conversion.to}")


def _real(value: float, conversion: Conversion, to: Type) -> str:
    reading = conversion.reals
    if reading == "keep" and to.name == "double precision":
        return repr(value)
    if reading == "keep" and to.name == "real" and _single(value) == value:
        return repr(value)
    if reading == "whole" and math.isfinite(value) and value == int(value):
        return _ranged(int(value), to) if to.family == "integer" else _scaled(Decimal(int(value)), to)
    if reading == "shortest" and to.family == "numeric":
        if math.isinf(value) and not to.modifiers:
            return repr(value)
        if math.isfinite(value):
            return _scaled(Decimal(repr(value)), to)
    if reading == "text" and to.family == "text":
        return _limited(real_text(value), to)
    if reading == "keep" and to.family == "json" and math.isfinite(value):
        return real_text(value)
    if reading == "text" and to.family == "bytea":
        return _hex(real_text(value).encode()).decode()
    if reading in ("s", "ms", "apple-s", "julian") and math.isfinite(value):
        return _real_time(value, conversion, to)
    raise Refusal(f"the number {value!r} is no {conversion.to}")


def is_plain_bytes(conversion: Conversion) -> bool:
    """Whether blobs are written as they are, in hexadecimal digits: `convert` need not be asked."""
    return conversion.blobs == "keep" and cells.parse_type(conversion.to).family == "bytea"


def real_text(value: float) -> str:
    """A float as SQLite spells it, with the shortest digits that read back the same: `100.0`, `1.0e+22`, `Inf`."""
    if math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    mantissa, mark, exponent = repr(value).partition("e")
    return mantissa + (".0" if "." not in mantissa else "") + (f"e{exponent}" if mark else "")


def _real_time(value: float, conversion: Conversion, to: Type) -> str:
    """A count with a fraction: the nearest microsecond, which without `rounded` must read back as the same count."""
    if conversion.reals == "julian":
        # as SQLite's own date functions read it, to the millisecond
        if not abs(value) < 1e12:
            raise Refusal("it is beyond any calendar")
        return _counted(int(value * 86_400_000.0 + 0.5) - JULIAN_EPOCH_MS, 1000, to, conversion)
    scale = 1000.0 if conversion.reals == "ms" else 1_000_000.0
    if abs(value) * scale > 2**53:
        raise Refusal(f"the time {value!r} is too large for a double to tell its microseconds")
    microseconds = round(value * scale)
    if not conversion.rounded and microseconds / scale != value:
        raise Refusal(f"the time {value!r} is finer than a microsecond")
    return _counted(microseconds + _SHIFTS.get(conversion.reals, 0) * 10**6, 10**6, to, conversion)


def _counted(count: int, unit: int, to: Type, conversion: Conversion) -> str:
    """A count of 1/`unit` seconds since 1970 as ISO text."""
    seconds, fraction = divmod(count, unit)
    if not cells.FIRST_SECOND <= seconds <= cells.LAST_SECOND:
        raise Refusal(f"the time {count} is outside the years 1 to 9999")
    digits = f"{fraction:0{len(str(unit)) - 1}d}" if unit > 1 else ""
    moment = (EPOCH + timedelta(seconds=seconds)).isoformat(" ")
    if to.family == "time":
        if not 0 <= seconds < 86400:
            raise Refusal(f"{count} is longer than a day, no {conversion.to}")
        return _moment(moment[11:] + (f".{digits}" if digits else ""), to, rounded=conversion.rounded)
    if to.family == "date":
        if fraction or seconds % 86400:
            raise Refusal(f"{moment} has a time of day, which a date would lose")
        return moment[:10]
    return _moment(moment + (f".{digits}" if digits else ""), to, rounded=conversion.rounded)


def _moment(text: str, to: Type, *, rounded: bool) -> str:
    """A date, a time or both, checked and with its zone said."""
    if to.family == "time":
        match = _TIME.fullmatch(text)
        if not match:
            raise Refusal(f"{text!r} is no time of day")
        _clock(match, text, to, rounded=rounded)
        return text
    match = _MOMENT.fullmatch(text)
    if not match:
        raise Refusal(f"{text!r} is no date in ISO form")
    try:
        day = date(*(int(part) for part in match["date"].split("-")))
    except ValueError:
        raise Refusal(f"{text!r} is no date of the calendar") from None
    if to.family == "date":
        if match["time"]:
            raise Refusal(f"{text!r} has a time of day, which a date would lose")
        return day.isoformat()
    if to.family != "timestamp":
        raise Refusal(f"{text!r} cannot become {to.name}")
    clock = _TIME.fullmatch(match["time"] or "00:00:00")
    assert clock is not None  # noqa: S101 - the pattern is part of the one that matched
    _clock(clock, text, to, rounded=rounded)
    if rounded and _LAST_MOMENT.match(text):
        raise Refusal(f"{text!r} would be rounded up to the year 10000")
    if match["zone"] and to.name == "timestamp":
        raise Refusal(f"{text!r} has a zone, which a timestamp without one would lose")
    zone = (match["zone"] or "Z") if to.name == "timestamptz" else ""
    return f"{day.isoformat()} {clock[0]}{zone}"


def _clock(clock: re.Match[str], text: str, to: Type, *, rounded: bool) -> None:
    """Refusal where a time of day is impossible, or finer than its type and not to be rounded."""
    hour, minute, second, digits = clock.groups()
    if int(hour) > 23 or int(minute) > 59 or int(second or 0) > 59:
        raise Refusal(f"{text!r} has an impossible time of day")
    places = to.modifiers[0] if to.modifiers else 6
    if digits and not rounded and digits[places:].strip("0"):
        raise Refusal(f"{text!r} is finer than {'a microsecond' if places == 6 else f'{places} digits'}")


def _text(raw: bytes, conversion: Conversion, to: Type, encoding: str) -> bytes:
    reading = conversion.texts
    padded = to.name in cells.BLANK_PADDED
    if reading == "keep" and to.family == "text" and not (to.modifiers or padded) and encoding == "UTF-8":
        return _plain(raw, conversion)
    try:
        text = raw.decode(encoding, "replace" if conversion.invalid == "replace" else "strict")
    except UnicodeDecodeError as error:
        raise Refusal(f"not {encoding}: {error.reason} at byte {error.start}") from None
    if "\0" in text and conversion.invalid == "replace":
        text = text.replace("\0", "�")
    if "\0" in text and reading != "bytes":
        raise Refusal("the text holds a NUL character")
    if reading == "bytes" and to.family == "bytea":
        return _hex(text.encode())
    write = _TEXTS.get(reading)
    if not write:
        raise Refusal(f"the text {_short(text)} is no {conversion.to}")
    return write(text, conversion, to).encode()


def _plain(raw: bytes, conversion: Conversion) -> bytes:
    """UTF-8 text as it is, checked piece by piece: a large value is not held a second time."""
    try:
        check_utf8(raw)
    except UnicodeDecodeError as error:
        if conversion.invalid != "replace":
            raise Refusal(f"{NOT_UTF8}: {error.reason}") from None
        raw = raw.decode("utf-8", "replace").encode()
    if b"\0" in raw:
        if conversion.invalid != "replace":
            raise Refusal("the text holds a NUL character")
        raw = raw.replace(b"\0", "\ufffd".encode())
    return raw


def check_utf8(raw: bytes) -> None:
    """UnicodeDecodeError where `raw` is not UTF-8, by the strict rules that PostgreSQL has, too."""
    if len(raw) < PIECE:
        raw.decode()
        return
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    for start in range(0, len(raw), PIECE):
        decoder.decode(raw[start : start + PIECE], start + PIECE >= len(raw))


def _keep(text: str, _conversion: Conversion, to: Type) -> str:
    if to.family != "text":
        raise Refusal(f"the text {_short(text)} is no {to.name}")
    return _limited(text, to)


def _number(text: str, conversion: Conversion, to: Type) -> str:
    if to.family == "integer" and _INTEGER.fullmatch(text):
        return _ranged(int(text), to)
    if not _NUMBER.fullmatch(text) or to.family not in ("numeric", "float"):
        raise Refusal(f"the text {_short(text)} is no {conversion.to}")
    if to.family == "numeric" and to.modifiers:
        return _scaled(Decimal(text), to)
    if to.family == "float" and math.isinf(float(text)):
        raise Refusal(f"{_short(text)} is beyond the range of {conversion.to}")
    return text


def _word(text: str, conversion: Conversion, to: Type) -> str:
    if to.family != "boolean" or text.lower() not in cells.TRUE_WORDS + cells.FALSE_WORDS:
        raise Refusal(f"the text {_short(text)} is no {conversion.to}")
    return text


def _iso(text: str, conversion: Conversion, to: Type) -> str:
    return _moment(text, to, rounded=conversion.rounded)


def _uuid(text: str, conversion: Conversion, to: Type) -> str:
    bare = text[1:-1] if text[:1] == "{" and text[-1:] == "}" else text
    if to.family != "uuid" or not _UUID.fullmatch(bare):
        raise Refusal(f"the text {_short(text)} is no {conversion.to}")
    return bare


def _json(text: str, conversion: Conversion, to: Type) -> str:
    pairs = _once if to.name == "jsonb" and not conversion.rounded else None
    try:
        json.loads(text, parse_constant=_no_constant, parse_int=str, parse_float=str, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"not JSON: {error}") from None
    if to.family not in ("json", "text"):
        raise Refusal(f"JSON cannot become {conversion.to}")
    return text


def _once(pairs: list[tuple[str, object]]) -> None:
    """ValueError where an object has a key twice: jsonb would keep the last of them alone."""
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("an object has a key twice, and jsonb keeps the last one alone")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_TEXTS: dict[str, Callable[[str, Conversion, Type], str]] = {
    "keep": _keep,
    "number": _number,
    "bool": _word,
    "iso": _iso,
    "uuid": _uuid,
    "json": _json,
}


def _blob(raw: bytes, conversion: Conversion, to: Type) -> bytes:
    reading = conversion.blobs
    if reading == "keep" and to.family == "bytea":
        return _hex(raw)
    if reading == "uuid" and to.family == "uuid" and len(raw) == 16:
        return binascii.hexlify(raw)
    if reading in ("f32", "f64"):
        return _vector(raw, reading, to).encode()
    if reading in ("text", "json", "jsonb"):
        # `jsonb` comes here as the text that SQLite reads in it
        as_text = dataclasses.replace(conversion, texts="keep" if reading == "text" else "json")
        return _text(raw, as_text, to, "UTF-8")
    if reading == "digits" and re.fullmatch(rb"-?[0-9]{1,1000}", raw):
        number = int(raw)
        return (_ranged(number, to) if to.family == "integer" else _scaled(Decimal(number), to)).encode()
    raise Refusal(f"the blob x'{raw[:16].hex()}{'…' if len(raw) > 16 else ''}' is no {conversion.to}")


def _vector(raw: bytes, reading: str, to: Type) -> str:
    """Little-endian floats, behind which libSQL may put one byte that tells the kind."""
    width, code = (4, "f") if reading == "f32" else (8, "d")
    count, rest = divmod(len(raw), width)
    if rest > 1 or not count:
        raise Refusal(f"a blob of {len(raw)} bytes is no vector of {width}-byte floats")
    numbers = struct.unpack(f"<{count}{code}", raw[: count * width])
    if not all(map(math.isfinite, numbers)):
        raise Refusal("the vector holds a number that is not finite")
    if to.modifiers and to.modifiers[0] != count:
        raise Refusal(f"a vector of {count} dimensions is no {to.name}({to.modifiers[0]})")
    opening, closing = "[]" if to.name in ("vector", "halfvec") else "{}"
    return opening + ",".join(map(repr, numbers)) + closing


def _ranged(value: int, to: Type) -> str:
    bits = cells.INTEGER_BITS.get(to.name, 64)
    if not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
        raise Refusal(f"{value} is beyond the range of {to.name}")
    return str(value)


def _scaled(value: Decimal, to: Type) -> str:
    """A number in plain digits; Refusal where numeric(p,s) would round it or has no room for it."""
    if to.family != "numeric":
        raise Refusal(f"{value} is no {to.name}")
    if to.modifiers:
        precision, scale = to.modifiers[0], to.modifiers[1] if len(to.modifiers) > 1 else 0
        exponent = value.normalize(_DIGITS).as_tuple().exponent
        if not isinstance(exponent, int) or -exponent > scale or abs(value) >= Decimal(10) ** (precision - scale):
            raise Refusal(f"{value} does not fit numeric({precision},{scale})")
    return str(value)


def _limited(text: str, to: Type) -> str:
    if to.name in cells.BLANK_PADDED and text.endswith(" "):
        raise Refusal(f"{_short(text)} ends in blanks, which {to.name} does not keep")
    if to.modifiers and len(text) > to.modifiers[0]:
        raise Refusal(f"{len(text)} characters do not fit {to.name}({to.modifiers[0]})")
    return text


def _single(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.nan


def _hex(raw: bytes) -> bytes:
    return b"\\x" + binascii.hexlify(raw)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")
