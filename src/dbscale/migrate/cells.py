"""The SQL by which SQLite itself writes one cell of COPY input, for the forms that values usually have.

What is not of such a form is left to `convert.py`, which decides in Python whether the value is written after all or
refused; so a test here may be too strict, but never too lax. COPY's CSV form with a single quote as its quotation
mark is what SQLite's `%Q` writes: one call escapes a value and tells NULL from 'NULL' (replacing backslashes, tabs and
line ends for the text form took twice as long).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Literal

from dbscale.plan import Conversion

EXACT_FLOATS = (3, 54)
"""From this version on SQLite writes 17 digits of a float exactly; before, it takes 20 to be sure."""
REAL_DAYS = (3, 54)
"""From this version on `date('2020-02-30')` is the first of March; before, it takes a modifier to make it so."""
JSONB = (3, 45)
BY_SIZE = (10**11, 10**14, 10**17)
"""Times of unknown unit: below the first they are seconds, then milliseconds, microseconds, nanoseconds."""
WEBKIT_SECONDS = 11_644_473_600
"""From 1601-01-01 to 1970-01-01."""
APPLE_SECONDS = 978_307_200
"""From 1970-01-01 to 2001-01-01."""
FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799
"""0001-01-01 00:00:00 and 9999-12-31 23:59:59, the range of SQLite's own date functions."""
TRUE_WORDS = ("t", "true", "y", "yes", "on", "1")
FALSE_WORDS = ("f", "false", "n", "no", "off", "0")
BLANK_PADDED = ("char", "bpchar")
"""Types that take no notice of blanks at the end."""
INTEGER_BITS = {"smallint": 16, "integer": 32, "bigint": 64}

Family = Literal["integer", "float", "numeric", "boolean", "bytea", "uuid", "json", "timestamp", "date", "time", "text"]

_ALIASES = {
    "int2": "smallint",
    "int4": "integer",
    "int": "integer",
    "int8": "bigint",
    "float8": "double precision",
    "float4": "real",
    "decimal": "numeric",
    "bool": "boolean",
    "timestamp with time zone": "timestamptz",
    "timestamp without time zone": "timestamp",
    "time without time zone": "time",
    "character varying": "varchar",
    "character": "char",
}
_FAMILIES: dict[str, Family] = {
    "smallint": "integer",
    "integer": "integer",
    "bigint": "integer",
    "double precision": "float",
    "real": "float",
    "numeric": "numeric",
    "boolean": "boolean",
    "bytea": "bytea",
    "uuid": "uuid",
    "json": "json",
    "jsonb": "json",
    "timestamp": "timestamp",
    "timestamptz": "timestamp",
    "date": "date",
    "time": "time",
}
_TYPE = re.compile(
    r"([a-z0-9_ ]+?)\s*(?:\(\s*(\d+)\s*(?:,\s*(-?\d+)\s*)?\))?\s*(with(?:out)? time zone)?", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Type:
    """A PostgreSQL type taken apart: `numeric(10,2)` is numeric with (10, 2)."""

    name: str
    family: Family
    modifiers: tuple[int, ...] = ()


@functools.cache
def parse_type(spelled: str) -> Type:
    """The parts of a type's name; what is not known by name is treated as text."""
    match = _TYPE.fullmatch(spelled.strip())
    if not match:
        return Type(spelled, "text")
    name = " ".join(filter(None, (match[1].lower(), (match[4] or "").lower())))
    name = _ALIASES.get(name, name)
    modifiers = tuple(int(part) for part in (match[2], match[3]) if part is not None)
    return Type(name, _FAMILIES.get(name, "text"), modifiers)


@dataclass(frozen=True, slots=True)
class Form:
    """How the values of one storage class are written: when `test` holds, as `text`; `quoted` may need escaping."""

    storage: str
    test: str
    text: str
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """One column: the test that the row's guard takes in, and the format directive and argument that write it."""

    test: str
    directive: str
    argument: str


def cell(column: str, conversion: Conversion, library: tuple[int, int, int], *, utf8: bool = True) -> Cell:
    """The cell of `column`, an SQL expression that names the source's column."""
    value = f"nullif({column} COLLATE BINARY,'')" if conversion.empty == "null" else column
    written = _forms(value, conversion, library, utf8=utf8)
    tests = [f"{value} IS NULL", *(_test(value, form) for form in written)]
    texts = {form.text for form in written}
    if not written:
        argument = "NULL"
    elif len(texts) == 1:
        argument = written[0].text
    else:
        branches = "".join(f" WHEN '{form.storage}' THEN {form.text}" for form in written)
        argument = f"CASE typeof({value}){branches} END"
    if any(form.quoted for form in written):
        return Cell(f"({' OR '.join(tests)})", "%Q", argument)
    return Cell(f"({' OR '.join(tests)})", "%s", f"CASE WHEN {value} IS NULL THEN 'NULL' ELSE {argument} END")


def repeated_keys(x: str) -> str:
    """Whether an object in the JSON `x` has a key twice."""
    return f"EXISTS (SELECT 1 FROM json_tree({x}) WHERE key IS NOT NULL GROUP BY parent, key HAVING count(*) > 1)"


def _test(value: str, form: Form) -> str:
    kind = f"typeof({value})='{form.storage}'"
    return f"{kind} AND {form.test}" if form.test else kind


def _forms(x: str, conversion: Conversion, library: tuple[int, int, int], *, utf8: bool) -> list[Form]:
    """The forms of each storage class that SQL writes; what has none here goes through `convert.py`."""
    to = parse_type(conversion.to)
    forms = [
        _integer(x, conversion.integers, to),
        _real(x, conversion.reals, to, library),
        _text(x, conversion, to, library, utf8=utf8),
        _blob(x, conversion.blobs, to, library, utf8=utf8),
    ]
    return [form for form in forms if form]


def _integer(x: str, reading: str, to: Type) -> Form | None:
    def form(text: str, test: str = "") -> Form:
        return Form("integer", test, text)

    if reading == "keep" and to.family == "integer":
        bits = INTEGER_BITS[to.name]
        return form(x, "" if bits == 64 else f"{x} BETWEEN {-(2 ** (bits - 1))} AND {2 ** (bits - 1) - 1}")
    if reading == "keep" and to.family == "float" and to.name != "real":
        return form(x, f"{x} BETWEEN {-(2**53)} AND {2**53}")
    if reading == "keep" and to.family == "numeric":
        return form(x, _within(x, to))
    if reading == "bool" and to.family == "boolean":
        return form(x, f"{x} IN (0,1)")
    if reading == "text" and not to.modifiers and to.family == "text":
        return form(x)
    if reading == "days" and to.family == "date":
        return form(f"date({x}*86400,'unixepoch')", f"{x} BETWEEN {FIRST_SECOND // 86400} AND {LAST_SECOND // 86400}")
    if to.family != "timestamp" or to.modifiers:
        return None
    units = {"s": (1, 0), "ms": (1000, 0), "us": (10**6, 0)}
    units |= {"webkit-us": (10**6, WEBKIT_SECONDS), "apple-s": (1, -APPLE_SECONDS)}
    if reading not in units:
        return None
    unit, shift = units[reading]
    within = f"{x} BETWEEN {(FIRST_SECOND + shift) * unit} AND {(LAST_SECOND + shift) * unit}"
    return form(_epoch(x, unit, shift, "Z" if to.name == "timestamptz" else ""), within)


def _epoch(x: str, unit: int, shift: int, zone: str) -> str:
    """ISO text of a count of 1/`unit` seconds that starts `shift` seconds before 1970."""
    if unit == 1:
        moment = f"datetime({x}{-shift:+d},'unixepoch')" if shift else f"datetime({x},'unixepoch')"
        return f"{moment}||'{zone}'" if zone else moment
    digits = len(str(unit)) - 1
    # % keeps the sign of its left side: shifted by a whole number of seconds, the count is never negative
    count = f"({x}{(-FIRST_SECOND - shift) * unit:+d})"
    return f"format('%s.%0{digits}d{zone}',datetime({count}/{unit}{FIRST_SECOND:+d},'unixepoch'),{count}%{unit})"


def _within(x: str, to: Type) -> str:
    """Whether a number has no more digits before the point than numeric(p,s) takes."""
    if not to.modifiers:
        return ""
    whole = to.modifiers[0] - (to.modifiers[1] if len(to.modifiers) > 1 else 0)
    return "" if whole > 18 else f"{x}>-1e{max(whole, 0)} AND {x}<1e{max(whole, 0)}"


def _real(x: str, reading: str, to: Type, library: tuple[int, int, int]) -> Form | None:
    if reading == "keep" and to.family == "float" and to.name != "real":
        # SQLite prints -0.0 without its sign; only the angle tells the two zeros apart
        signed = f"({x}<>0 OR atan2({x},-1)>0)" if library >= EXACT_FLOATS else f"{x}<>0"
        return Form("real", signed, f"format('%!.{17 if library >= EXACT_FLOATS else 20}g',{x})")
    if reading == "whole" and to.name == "bigint":
        test = f"{x}>=-9223372036854775808.0 AND {x}<9223372036854775808.0 AND CAST({x} AS INTEGER)={x}"
        return Form("real", test, f"CAST({x} AS INTEGER)")
    if reading == "shortest" and to.family == "numeric":
        if to.modifiers:
            scale = to.modifiers[1] if len(to.modifiers) > 1 else 0
            # 15 digits are what every decimal keeps through a float: with them 19.99 is written as it once was
            whole = min(to.modifiers[0], 15) - scale
            test = f"abs({x})<1e{whole} AND round({x},{scale})={x}" if scale >= 0 and whole > 0 else "0"
            return Form("real", test, f"format('%.{scale}f',{x})")
        # More digits are left to Python: of two that read back the same, SQLite does not always print the nearer
        usual = f"abs({x})<1e15 AND ({x}=0 OR abs({x})>1e-4)"
        return Form("real", f"{usual} AND CAST(format('%!.15g',{x}) AS REAL)={x}", f"format('%!.15g',{x})")
    return None


def _text(x: str, conversion: Conversion, to: Type, library: tuple[int, int, int], *, utf8: bool) -> Form | None:
    reading = conversion.texts
    whole = f"NOT instr({x},char(0))"
    if reading == "keep" and to.family == "text":
        if to.modifiers:
            whole = f"{whole} AND length({x})<={to.modifiers[0]}"
        if to.name in BLANK_PADDED:
            whole = f"{whole} AND {x} NOT GLOB '* '"
        return Form("text", whole, x, quoted=True)
    if reading == "json" and to.family == "json":
        once = f" AND NOT {repeated_keys(x)}" if to.name == "jsonb" and not conversion.rounded else ""
        return Form("text", f"json_valid({x}) AND {whole}{once}", x, quoted=True)
    if reading == "bool" and to.family == "boolean":
        words = ",".join(f"'{word}'" for word in TRUE_WORDS + FALSE_WORDS)
        return Form("text", f"{x} COLLATE NOCASE IN ({words})", x)
    if reading == "number" and to.family in ("numeric", "float") and not to.modifiers and to.name != "real":
        return Form("text", f"{x} NOT GLOB '*[^0-9.-]*' AND {whole} AND json_valid({x})", x)
    if reading == "number" and to.name == "bigint":
        return Form("text", f"length({x}) BETWEEN 1 AND 18 AND {x} NOT GLOB '*[^0-9]*' AND {whole}", x)
    if reading == "uuid" and to.family == "uuid":
        digit = "[0-9a-fA-F]"
        dashed = "-".join(digit * count for count in (8, 4, 4, 4, 12))
        return Form("text", f"({x} GLOB '{dashed}' OR {x} GLOB '{digit * 32}') AND {whole}", x)
    if reading == "iso":
        return _iso(x, to, "" if library >= REAL_DAYS else ",'+0 days'")
    if reading == "bytes" and to.family == "bytea" and utf8:
        return Form("text", "", f"'\\x'||hex({x})")
    return None


def _iso(x: str, to: Type, modifier: str) -> Form | None:
    """Dates and times in ISO form: SQLite's functions give back the text they were given only if it is a real date."""
    if to.modifiers:
        return None
    if to.family == "date":
        return Form("text", f"date({x}{modifier})={x} COLLATE BINARY AND {x}>='0001'", x)
    if to.family == "time":
        return Form("text", f"time({x}{modifier})={x} COLLATE BINARY", x)
    if to.family != "timestamp":
        return None
    plain = f"datetime({x}{modifier})={x} COLLATE BINARY"
    # SQLite's own functions stop reading at a NUL
    whole = f"NOT instr({x},char(0))"
    head = f"datetime(substr({x},1,19){modifier})=replace(substr({x},1,19),'T',' ')"
    rest = f"ltrim(substr({x},21),'0123456789')"
    naive = f"substr({x},20,1)='.' AND {rest}='' AND length({x}) BETWEEN 21 AND 26"
    if to.name == "timestamp":
        return Form("text", f"({plain} OR {head} AND ({naive} OR length({x})=19) AND {whole}) AND {x}>='0001'", x)
    utc = f"substr({x},20)='Z' OR substr({x},20,1)='.' AND {rest}='Z' AND length({x}) BETWEEN 22 AND 27"
    zone = f"(substr({x},-6) GLOB '[+-]0[0-9]:[0-5][0-9]' OR substr({x},-6) GLOB '[+-]1[0-5]:[0-5][0-9]')"
    digits = f"substr({x},20,1)='.' AND ltrim(substr({x},21,length({x})-26),'0123456789')=''"
    offset = f"{zone} AND (length({x})=25 OR {digits} AND length({x}) BETWEEN 27 AND 32)"
    tail = f"{naive} OR length({x})=19 OR {utc} OR {offset}"
    # A time without a zone is UTC, whatever the session's time zone may be
    text = (
        f"CASE WHEN substr({x},-1)='Z' OR length({x})>24 AND substr({x},-6,1) IN ('+','-') THEN {x} ELSE {x}||'Z' END"
    )
    return Form("text", f"({plain} OR {head} AND ({tail}) AND {whole}) AND {x}>='0001'", text)


def _blob(x: str, reading: str, to: Type, library: tuple[int, int, int], *, utf8: bool) -> Form | None:
    if reading == "keep" and to.family == "bytea":
        return Form("blob", "", f"'\\x'||hex({x})")
    if reading == "uuid" and to.family == "uuid":
        return Form("blob", f"length({x})=16", f"hex({x})")
    if reading == "jsonb" and to.family == "json" and library >= JSONB:
        # its text is what PostgreSQL reads, which keeps the last of equal keys alone
        once = f" AND NOT {repeated_keys(x)}" if to.name == "jsonb" else ""
        return Form("blob", f"json_valid({x},8){once}", f"json({x})", quoted=True)
    if reading == "text" and to.family == "text" and not to.modifiers and to.name not in BLANK_PADDED and utf8:
        return Form("blob", f"NOT instr({x},x'00')", f"CAST({x} AS TEXT)", quoted=True)
    return None
