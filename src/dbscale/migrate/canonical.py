"""One spelling for each value, written the same by SQLite, by PostgreSQL and by Python: what `verify` compares.

It says what a value means, and has nothing in common with the text that is loaded: times are microseconds since 2000,
floats their bits, numerics their digits without zeros at the end. The source's side is written from the conversion that
the plan declares; the target's side from the column's type alone.

jsonb has no spelling of its own: PostgreSQL is asked to read the source's text, and prints both the same way.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from dbscale.migrate.cells import (
    APPLE_SECONDS,
    BY_SIZE,
    FALSE_WORDS,
    JSONB,
    REAL_DAYS,
    TRUE_WORDS,
    WEBKIT_SECONDS,
    Type,
    parse_type,
)
from dbscale.plan import Conversion

LARGE = 1 << 16
"""Values of more bytes are compared by their SHA-256 when rows are compared one by one."""
VECTORS = ("vector", "real[]", "double precision[]")
"""What libSQL's vectors become, spelled by their numbers. Other arrays are text to their source, and spelled so."""
ODD = "!"
"""In front of the spelling of a value that its conversion does not read: it never equals anything in the target."""
_2000 = datetime(2000, 1, 1)  # noqa: DTZ001 - counted in UTC throughout
SECONDS_TO_2000 = 946_684_800
_MILLION = 1_000_000
_JULIAN_2000_MS = 211_813_444_800_000
_ISO = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(?: ?([Zz]|[+-]\d\d(?::?\d\d)?))?)?", re.ASCII
)
_CLOCK = re.compile(r"(\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?", re.ASCII)


def is_jsonb(conversion: Conversion) -> bool:
    """Whether PostgreSQL has to be asked for the column's spelling."""
    return parse_type(conversion.to).name == "jsonb"


# ── the target ────────────────────────────────────────────────────────────────────────────────────────────────────


def target_sql(column: str, spelled: str, *, whole: bool = True) -> str:
    """The spelling of a target's column, as SQL of PostgreSQL; NULL for NULL.

    With `whole` false, what is large is spelled by its length and hash.
    """
    to = parse_type(spelled)
    if to.family == "float":
        return f"encode(float8send({column}::float8),'hex')"
    if to.family == "numeric":
        return f"trim_scale({column})::text"
    if to.family == "boolean":
        return f"{column}::int::text"
    if to.family in ("uuid", "date", "time", "timestamp"):
        return f"encode({to.name}_send({column}),'hex')"
    if to.family == "integer":
        return f"{column}::text"
    if to.name in VECTORS:
        return f"encode(array_send({column}::{'float8' if spelled.startswith('double') else 'real'}[]),'hex')"
    if to.family == "bytea":
        text, raw = f"encode({column},'hex')", column
    else:
        text, raw = f"{column}::text", f"convert_to({column}::text,'UTF8')"
    if whole or to.name == "jsonb":
        return text
    return (
        f"CASE WHEN octet_length({raw})>{LARGE} THEN '#'||octet_length({raw})||encode(sha256({raw}),'hex')"
        f" ELSE {text} END"
    )


def is_quoted(spelled: str) -> bool:
    """Whether the spelling may hold any character, or none as no bytes do, so that a line must put it in quotes."""
    to = parse_type(spelled)
    return to.family in ("text", "json", "bytea") and to.name not in VECTORS


def target_line(columns: list[tuple[str, str]]) -> str:
    """One row of `(column, type)` as a line: SQL that gives what `source_line` gives for an equal row."""
    cells = []
    for column, spelled in columns:
        text = target_sql(column, spelled)
        if is_quoted(spelled):
            text = f"coalesce(''''||replace({text},'''','''''')||'''','NULL')"
        cells.append(text)
    # format() prints NULL as nothing, which no spelling without quotes is
    parts = [cells[start : start + 90] for start in range(0, len(cells), 90)]
    return "||','||".join(f"format('{','.join(['%s'] * len(part))}',{','.join(part)})" for part in parts) or "''"


# ── the source, by SQLite ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Spelling:
    """How SQLite spells a column: `test` says where it can; elsewhere the row is spelled by Python."""

    test: str
    text: str
    quoted: bool


def source_sql(
    column: str, conversion: Conversion, library: tuple[int, int, int], *, floats: bool, utf8: bool = True
) -> Spelling:
    """The spelling of a source's column. `floats`: SQLite has `ieee754_to_blob`; `utf8`: the database is in UTF-8.

    In UTF-16, SQLite's bytes of a text, and its text of bytes, are not those that were loaded: Python spells them.
    """
    to = parse_type(conversion.to)
    x = f"nullif({column} COLLATE BINARY,'')" if conversion.empty == "null" else column
    forms = {
        "integer": _integer_sql(x, conversion, to, floats=floats),
        "real": _real_sql(x, conversion, to, floats=floats),
        "text": _text_sql(x, conversion, to, library),
        "blob": _blob_sql(x, conversion, to, library),
    }
    if not utf8 and conversion.texts == "bytes":
        forms["text"] = None
    if not utf8 and conversion.blobs == "text":
        forms["blob"] = None
    known = {storage: form for storage, form in forms.items() if form}
    # AND and OR stop early only where they decide a branch: as the value of a CASE, all of it would be worked out
    tests = "".join(f" OR typeof({x})='{storage}' AND ({form[0]})" for storage, form in known.items())
    texts = {form[1] for form in known.values()}
    branches = "".join(f" WHEN '{storage}' THEN {form[1]}" for storage, form in known.items())
    text = texts.pop() if len(texts) == 1 else f"CASE typeof({x}){branches} END" if known else "NULL"
    if to.family == "bytea" or not is_quoted(conversion.to):  # SQLite's hex(NULL) is ''
        text = f"CASE WHEN {x} IS NOT NULL THEN {text} END"
    return Spelling(f"({x} IS NULL{tests})", text, is_quoted(conversion.to))


Form = tuple[str, str] | None


def _moment_sql(microseconds: str, to: Type) -> str:
    shift = SECONDS_TO_2000 * _MILLION
    return f"format('%016x',{microseconds}-{shift})" if to.family == "timestamp" else "NULL"


def _integer_sql(x: str, conversion: Conversion, to: Type, *, floats: bool) -> Form:
    reading = conversion.integers
    if reading == "keep" and to.family in ("integer", "numeric"):
        return "1", x
    if reading == "keep" and to.family == "float" and floats:
        return f"{x} BETWEEN {-(2**53)} AND {2**53}", f"lower(hex(ieee754_to_blob(CAST({x} AS REAL))))"
    if reading == "bool" and to.family == "boolean":
        return f"{x} IN (0,1)", x
    if reading in ("text", "keep") and to.family == "text":
        return "1", f"CAST({x} AS TEXT)"
    if reading == "keep" and to.name == "jsonb":
        return "1", "NULL"
    scales = {"s": (_MILLION, 0), "ms": (1000, 0), "us": (1, 0), "apple-s": (_MILLION, APPLE_SECONDS)}
    scales["webkit-us"] = (1, -WEBKIT_SECONDS)
    if to.family == "timestamp" and reading in scales:
        scale, shift = scales[reading]
        # 10^11 seconds are some 3,000 years: within them no product overflows, and PostgreSQL has a date
        most = 10**11 * _MILLION // scale - 1  # not by abs(), which SQLite refuses for the least integer
        return f"{x} BETWEEN {-most} AND {most}", _moment_sql(f"({x}*{scale}{shift * _MILLION:+d})", to)
    if to.family == "timestamp" and reading == "by-size":
        ends = [f"{x} BETWEEN {1 - least} AND {least - 1}" for least in BY_SIZE]
        units = zip(ends, (_MILLION, 1000, 1), strict=True)
        sized = f"CASE {' '.join(f'WHEN {within} THEN {x}*{factor}' for within, factor in units)} ELSE {x}/1000 END"
        return f"({ends[-1]} OR {x}%1000=0)", _moment_sql(sized, to)
    return None


def _real_sql(x: str, conversion: Conversion, to: Type, *, floats: bool) -> Form:
    reading = conversion.reals
    if reading == "keep" and to.name == "double precision" and floats:
        return "1", f"lower(hex(ieee754_to_blob({x})))"
    if reading == "whole" and to.family == "integer":
        return f"abs({x})<9e18 AND CAST({x} AS INTEGER)={x}", f"CAST({x} AS INTEGER)"
    if reading == "shortest" and to.family == "numeric":
        usual = f"abs({x})<1e15 AND ({x}=0 OR abs({x})>1e-4)"
        plain = f"rtrim(rtrim(format('%!.15g',{x}),'0'),'.')"
        reads_back = f"CAST(format('%!.15g',{x}) AS REAL)={x}"
        # beyond 15 digits SQLite and Python need not choose the same of two that read back the same
        return f"{usual} AND {reads_back}", plain
    if to.family == "timestamp" and reading in ("s", "ms", "apple-s"):
        scale, shift = ("1e3" if reading == "ms" else "1e6"), (APPLE_SECONDS if reading == "apple-s" else 0)
        count = f"CAST(round({x}*{scale}) AS INTEGER)"
        return f"abs({x}*{scale})<={2**53} AND {count}/{scale}={x}", _moment_sql(f"({count}+{shift * _MILLION})", to)
    return None


def _text_sql(x: str, conversion: Conversion, to: Type, library: tuple[int, int, int]) -> Form:
    reading = conversion.texts
    clean = f"NOT instr({x},char(0))"
    if to.name == "jsonb":
        return (f"json_valid({x}) AND {clean}", "NULL") if reading == "json" else None
    if (reading == "keep" and to.family == "text" and to.name not in ("char", "character")) or (
        reading == "json" and to.family == "json"
    ):
        return clean, x
    if reading == "bool" and to.family == "boolean":
        words = ",".join(f"'{word}'" for word in TRUE_WORDS + FALSE_WORDS)
        return f"lower({x}) IN ({words})", f"(lower({x}) IN ({','.join(repr(word) for word in TRUE_WORDS)}))"
    if reading == "uuid" and to.family == "uuid":
        bare = f"replace({x},'-','')"
        return f"length({x}) IN (32,36) AND length({bare})=32 AND {x} NOT GLOB '*[^0-9a-fA-F-]*'", f"lower({bare})"
    if reading == "bytes" and to.family == "bytea":
        return "1", f"lower(hex({x}))"
    if reading == "number" and to.family == "numeric":
        digits = f"{x} NOT GLOB '*[^0-9.-]*' AND {x} NOT GLOB '-0*' AND {clean} AND json_valid({x})"
        return digits, f"CASE WHEN instr({x},'.') THEN rtrim(rtrim({x},'0'),'.') ELSE {x} END"
    if reading != "iso" or conversion.rounded:
        return None
    if to.family == "date":
        days = f"CAST(julianday({x})-2451544.5 AS INTEGER)"
        return f"length({x})=10 AND date(julianday({x}))={x}", f"format('%08x',{days}&4294967295)"
    if to.family != "timestamp":
        return None
    if to.name == "timestamp":
        tail, zone = "0", "''"
    else:
        tail = f"CASE WHEN substr({x},-1)='Z' THEN 1 WHEN substr({x},-6,1) IN ('+','-') THEN 6 ELSE 0 END"
        zone = f"substr({x},20+length({x})-19-{tail})"
    fraction = f"substr({x},20,length({x})-19-{tail})"
    # back from the seconds to the same text: the day exists, and nothing is read as something else
    there = f"datetime(unixepoch(substr({x},1,19)),'unixepoch')=replace(substr({x},1,19),'T',' ')"
    digits = f"{fraction}='' OR {fraction} GLOB '.[0-9]*' AND {fraction} NOT GLOB '.*[^0-9]*' AND length({fraction})<8"
    fits = f"{clean} AND ({digits}) AND unixepoch(substr({x},1,19)||{zone}) IS NOT NULL"
    plain = f"length({x})=19 AND {f'datetime({x})={x} COLLATE BINARY' if library >= REAL_DAYS else there}"
    seconds = f"unixepoch(CASE length({x}) WHEN 19 THEN {x} ELSE substr({x},1,19)||{zone} END)"
    parts = f"CAST(substr(substr({fraction},2)||'000000',1,6) AS INTEGER)"
    finer = f"CASE length({x}) WHEN 19 THEN 0 ELSE {parts} END"
    return f"({plain} OR length({x})>18 AND {there} AND {fits})", _moment_sql(f"({seconds}*{_MILLION}+{finer})", to)


def _blob_sql(x: str, conversion: Conversion, to: Type, library: tuple[int, int, int]) -> Form:
    reading = conversion.blobs
    if reading == "keep" and to.family == "bytea":
        return "1", f"lower(hex({x}))"
    if reading == "uuid" and to.family == "uuid":
        return f"length({x})=16", f"lower(hex({x}))"
    if reading == "text" and to.family == "text":
        return f"NOT instr({x},x'00')", f"CAST({x} AS TEXT)"
    if reading == "jsonb" and to.name == "jsonb" and library >= JSONB:
        return f"json_valid({x},8)", "NULL"
    return None


def source_json(column: str, conversion: Conversion) -> str:
    """The JSON text of a jsonb column as an array of one element, `[]` for NULL: several make one document."""
    x = f"nullif({column} COLLATE BINARY,'')" if conversion.empty == "null" else column
    text = f"CASE typeof({x}) WHEN 'blob' THEN json({x}) ELSE {x} END" if conversion.blobs == "jsonb" else x
    return f"CASE WHEN {x} IS NULL THEN '[]' ELSE '['||{text}||']' END"


def microseconds(moment: datetime) -> int:
    """How many microseconds a moment is after 2000-01-01 in UTC; without a zone, as if it were UTC."""
    plain = moment.replace(tzinfo=None) - (moment.utcoffset() or timedelta())
    return (plain - _2000) // timedelta(microseconds=1)


# ── the source, by Python ─────────────────────────────────────────────────────────────────────────────────────────


def spell(value: int | float | bytes | None, storage: str, conversion: Conversion, encoding: str) -> str | None:
    """The spelling of one stored value; what its conversion does not read is spelled with ODD in front."""
    if value is None or (storage == "text" and not value and conversion.empty == "null"):
        return None
    to = parse_type(conversion.to)
    try:
        if isinstance(value, int):
            return _integer(value, conversion, to)
        if isinstance(value, float):
            return _real(value, conversion, to)
        if storage == "blob":
            return _blob(value, conversion, to)
        text = value.decode(encoding, "replace" if conversion.invalid == "replace" else "strict")
        if conversion.invalid == "replace":
            text = text.replace("\0", "�")
        return _text(text, conversion.texts, conversion, to)
    except (ValueError, OverflowError, InvalidOperation, struct.error):
        return ODD + (value.hex() if isinstance(value, (bytes, float)) else str(value))


def _integer(value: int, conversion: Conversion, to: Type) -> str:
    reading = conversion.integers
    if reading == "keep" and to.family == "float":
        if int(float(value)) != value:
            raise ValueError
        return struct.pack(">d", value).hex()
    if reading == "keep" and to.family == "json":
        return json_spelling(str(value)) if to.name == "jsonb" else str(value)
    if reading == "text" and to.family == "bytea":
        return str(value).encode().hex()
    if (reading == "keep" and to.family != "timestamp") or reading == "text":
        return str(value)
    if reading == "bool" and value in (0, 1):
        return str(value)
    if reading == "yyyymmdd":
        return _text(f"{value // 10000:04d}-{value // 100 % 100:02d}-{value % 100:02d}", "iso", conversion, to)
    microseconds: dict[str, Callable[[int], int]] = {
        "s": lambda n: n * _MILLION,
        "ms": lambda n: n * 1000,
        "us": lambda n: n,
        "ns": lambda n: _halved(n, 1000),
        "webkit-us": lambda n: n - WEBKIT_SECONDS * _MILLION,
        "apple-s": lambda n: (n + APPLE_SECONDS) * _MILLION,
        "days": lambda n: n * 86400 * _MILLION,
        "julian": lambda n: (n * 86_400_000 - _JULIAN_2000_MS) * 1000 + SECONDS_TO_2000 * _MILLION,
    }
    if reading == "by-size":
        reading = ("s", "ms", "us", "ns")[sum(abs(value) >= least for least in BY_SIZE)]
    if reading not in microseconds:
        raise ValueError
    return _moment(microseconds[reading](value), to)


def _halved(count: int, unit: int) -> int:
    """A count in a coarser unit; halves go to the even neighbour, as PostgreSQL rounds them."""
    return round(Decimal(count) / unit)


def _moment(microseconds: int, to: Type) -> str:
    """A time, in microseconds since 1970, as PostgreSQL holds it."""
    count = microseconds - SECONDS_TO_2000 * _MILLION
    if to.family == "timestamp":
        return struct.pack(">q", count).hex()
    if to.family == "time" and 0 <= microseconds < 86400 * _MILLION:
        return struct.pack(">q", microseconds).hex()
    if to.family == "date" and count % (86400 * _MILLION) == 0:
        return struct.pack(">i", count // (86400 * _MILLION)).hex()
    raise ValueError


def _real(value: float, conversion: Conversion, to: Type) -> str:
    reading = conversion.reals
    if reading == "keep" and to.family == "float":
        return struct.pack(">d", value).hex()
    if reading == "whole" and value == int(value):
        return str(int(value))
    if reading == "shortest" and to.family == "numeric":
        return "Infinity" if value == float("inf") else "-Infinity" if value == -float("inf") else _digits(repr(value))
    if reading == "text" or (reading == "keep" and to.family == "json"):
        spelled = real_spelling(value)
        if to.family == "bytea":
            return spelled.encode().hex()
        return json_spelling(spelled) if to.name == "jsonb" else spelled
    if reading == "julian":
        if not abs(value) < 1e12:  # beyond any calendar, and perhaps beyond what can be multiplied
            raise ValueError
        milliseconds = int(value * 86_400_000.0 + 0.5) - _JULIAN_2000_MS
        return _moment(milliseconds * 1000 + SECONDS_TO_2000 * _MILLION, to)
    scale = {"s": _MILLION, "ms": 1000, "apple-s": _MILLION}[reading] if reading in ("s", "ms", "apple-s") else 0
    microseconds = round(value * float(scale or float("nan")))
    if not conversion.rounded and microseconds / float(scale) != value:
        raise ValueError
    return _moment(microseconds + (APPLE_SECONDS * _MILLION if reading == "apple-s" else 0), to)


def real_spelling(value: float) -> str:
    """A REAL as text: the fewest digits that read back the same, with a point, as SQLite prints one."""
    mantissa, mark, exponent = repr(value).partition("e")
    spelled = mantissa + ("" if "." in mantissa else ".0") + mark + exponent
    return {"inf.0": "Inf", "-inf.0": "-Inf"}.get(spelled, spelled)


def _digits(text: str) -> str:
    """A decimal in plain digits, without zeros at the end: as `trim_scale` prints it."""
    number = Decimal(text)
    if not number:
        return "0"
    plain = f"{number:f}"
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def _text(text: str, reading: str, conversion: Conversion, to: Type) -> str:
    if "\0" in text and reading != "bytes":
        raise ValueError
    if reading == "json":
        return json_spelling(text) if to.name == "jsonb" else text
    if reading == "keep" and to.family == "text":
        return text.rstrip(" ") if to.name in ("char", "character") else text
    if reading == "bytes":
        return text.encode().hex()
    if reading == "bool":
        return str(int((*TRUE_WORDS, *FALSE_WORDS).index(text.lower()) < len(TRUE_WORDS)))
    if reading == "uuid":
        return f"{int(text.strip('{}').replace('-', ''), 16):032x}"
    if reading == "number":
        if to.family == "float":
            return struct.pack(">d", float(text)).hex()
        return str(int(text)) if to.family == "integer" else _digits(text)
    if reading == "iso":
        return _iso(text, conversion, to)
    raise ValueError


def _iso(text: str, conversion: Conversion, to: Type) -> str:
    if to.family == "time":
        clock = _CLOCK.fullmatch(text)
        if not clock or int(clock[1]) > 23 or int(clock[2]) > 59 or int(clock[3] or 0) > 59:
            raise ValueError
        seconds = int(clock[1]) * 3600 + int(clock[2]) * 60 + int(clock[3] or 0)
        return _moment(seconds * _MILLION + _fraction(clock[4], conversion), to)
    match = _ISO.fullmatch(text)
    if not match or (match[6] and to.name != "timestamptz") or (match[2] and to.family == "date"):
        raise ValueError
    day, hour, minute, second, digits, zone = match.groups()
    moment = datetime.fromisoformat(f"{day}T{hour or '00'}:{minute or '00'}:{second or '00'}")
    microseconds = (moment - _2000) // timedelta(microseconds=1) + SECONDS_TO_2000 * _MILLION
    offset = 0
    if zone and zone not in "Zz":
        bare = zone[1:].replace(":", "")
        offset = (int(bare[:2]) * 60 + int(bare[2:] or 0)) * (-1 if zone[0] == "-" else 1)
    return _moment(microseconds - offset * 60 * _MILLION + _fraction(digits, conversion), to)


def _fraction(digits: str | None, conversion: Conversion) -> int:
    """Microseconds of a fraction of a second; finer ones as PostgreSQL rounds them, which is in floating point."""
    if not digits:
        return 0
    if not digits[6:].strip("0"):
        return int(digits[:6].ljust(6, "0"))
    if not conversion.rounded:
        raise ValueError
    return round(float(f".{digits}") * 1e6)


def _blob(raw: bytes, conversion: Conversion, to: Type) -> str:
    reading = conversion.blobs
    if reading == "keep" or (reading == "uuid" and len(raw) == 16):
        return raw.hex()
    if reading in ("text", "json", "jsonb"):
        return _text(raw.decode(), "keep" if reading == "text" else "json", conversion, to)
    if reading == "digits":
        return str(int(raw))
    if reading in ("f32", "f64"):
        width, code, oid = (4, "f", 700) if reading == "f32" else (8, "d", 701)
        numbers = struct.unpack(f"<{len(raw) // width}{code}", raw[: len(raw) // width * width])
        head = struct.pack(">iiIii", 1, 0, oid, len(numbers), 1)
        return (head + b"".join(struct.pack(f">i{code}", width, number) for number in numbers)).hex()
    raise ValueError


def large(raw: bytes) -> str:
    """What stands for a value too large to carry about: its length and SHA-256."""
    return f"#{len(raw)}{hashlib.sha256(raw).hexdigest()}"


def shortened(spelling: str | None, spelled: str) -> str | None:
    """A spelling as `target_sql(whole=False)` gives it."""
    if spelling is None or len(spelling) * 4 <= LARGE or spelled == "jsonb" or spelling.startswith(ODD):
        return spelling
    if parse_type(spelled).family == "bytea":
        raw = bytes.fromhex(spelling)
    elif is_quoted(spelled):
        raw = spelling.encode()
    else:
        return spelling
    return large(raw) if len(raw) > LARGE else spelling


def json_spelling(text: str) -> str:
    """JSON by what it says: keys sorted, of equal keys the last one, numbers by value."""
    return json.dumps(_tagged(json.loads(text, parse_float=Decimal, parse_int=Decimal)), ensure_ascii=False)


def _tagged(content: Any) -> Any:
    if isinstance(content, dict):
        return {"o": [[key, _tagged(content[key])] for key in sorted(content)]}
    if isinstance(content, list):
        return [_tagged(item) for item in content]
    return {"n": _digits(str(content))} if isinstance(content, Decimal) else content
