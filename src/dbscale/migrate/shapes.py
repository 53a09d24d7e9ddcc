"""The shapes that values are asked about, each an SQL condition over one stored value.

A shape speaks of one storage class, and of text without a NUL character only. Within one request the first shape
of a list that holds is a value's shape, so counts of shapes add up. All conditions run on SQLite 3.40 and later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

StorageClass = Literal["integer", "real", "text", "blob"]

WINDOWS: dict[str, tuple[int, int]] = {
    "s": (100_000_000, 4_000_000_000),
    "ms": (100_000_000_000, 4_000_000_000_000),
    "us": (100_000_000_000_000, 4_000_000_000_000_000),
    "ns": (100_000_000_000_000_000, 4_000_000_000_000_000_000),
}
"""Unix times from 1973 to 2096, by their unit, both ends included. They do not overlap, so `by-size` is sure."""
WINDOWS_REAL = (1_000_000_000.0, 4_000_000_000.0)
"""Seconds with a fraction from 2001 on: earlier ones look like seconds since 2001, as Apple counts them."""
JULIAN = (1_721_425.5, 2_600_000.0)
"""Julian day numbers from AD 1 to AD 2406: PostgreSQL reads no ISO date before that."""
WEBKIT = (12_600_000_000_000_000, 15_600_000_000_000_000)
"""Microseconds since 1601, as WebKit counts them, from 2000 to 2095."""
EXACT = 2**53
"""Up to here every integer is a double."""
SMALL_BLOB = 65_536
"""Blobs larger than this are not looked into: reading them all could take longer than the copy."""


@dataclass(frozen=True, slots=True)
class Shape:
    storage: StorageClass
    sql: str
    """A condition on `{x}`; never NULL for a value of the class."""


_DAY = (  # a real day of years 1 to 9999 and an hour to 23, where SQLite itself takes day 31 of any month and hour 24
    "{x}>='0001' AND substr({x},12,2)<'24' AND "
    "(substr({x},9,2)<'29' OR date(substr({x},1,10),'+0 days')=substr({x},1,10))"
)
_REAL = f"julianday({{x}}) IS NOT NULL AND {_DAY}"
# Before 3.46 SQLite rounds to milliseconds first, and then knows no time in the last half of the last one.
_NAIVE = f"(julianday({{x}}) IS NOT NULL OR {{x}} GLOB '9999-12-31[ T]23:59:59.999[5-9]*') AND {_DAY}"
_MINUTE = "????-??-??[ T][0-2]?:??"
_PLAIN = f"({{x}} GLOB '{_MINUTE}:??' OR {{x}} GLOB '{_MINUTE}')"
_FRACTION = f"({{x}} GLOB '{_MINUTE}:??.[0-9]*' AND substr({{x}},21) NOT GLOB '*[^0-9]*')"
# What would be rounded up to the year 10000 is no time.
_FINE = "ltrim(substr({x},27),'0') GLOB '[1-9]*'"
_ROUNDS = f"{_FINE} AND {{x}} NOT GLOB '9999-12-31[ T]23:59:59.999999[5-9]*'"
_ZONE = f"({{x}} GLOB '{_MINUTE}*[Zz]' OR {{x}} GLOB '{_MINUTE}*[+-]??:??') AND instr(substr({{x}},12),' ')=0"
# Zones as PostgreSQL and strftime's %z write them, which SQLite's own functions do not read: +00, +0000.
_SHORT_ZONES = (("[+-][01][0-9][0-5][0-9]", 5), ("[+-][01][0-9]", 3))


def _short_zone(fine: str) -> str:
    forms = []
    for zone, size in _SHORT_ZONES:
        bare = f"substr({{x}},1,length({{x}})-{size})"
        moment = " AND ".join((f"({_PLAIN} OR {_FRACTION})", _NAIVE, fine)).replace("{x}", bare)
        forms.append(f"{{x}} GLOB '{_MINUTE}*{zone}' AND {moment}")
    return " OR ".join(forms)


def _zoned(fine: str) -> str:
    return f"({_ZONE} AND {_REAL} AND {fine} OR {_short_zone(fine)})"


_HEX = "{x} NOT GLOB '*[^0-9a-fA-F]*'"
_GROUPS = "{x} GLOB '????????-????-????-????-????????????' AND length(replace({x},'-',''))=32"
_JSON_ESCAPE = "(instr({x},'\\u')>0 AND (instr({x},'\\u0000')>0 OR {x} GLOB '*\\u[dD][89a-fA-F]*'))"
_UNSIGNED = "(CASE WHEN substr({x},1,1)='-' THEN substr({x},2) ELSE {x} END)"
_DIGITS = f"({_UNSIGNED} GLOB '[0-9]*' AND {_UNSIGNED} NOT GLOB '*[^0-9]*' AND length({{x}})<1000)"
_INT64 = f"({_DIGITS} AND length({{x}})<21 AND CAST(CAST({{x}} AS INTEGER) AS TEXT)={{x}})"
_DECIMAL = (
    f"({_UNSIGNED} GLOB '[0-9]*[0-9]' AND {_UNSIGNED} NOT GLOB '*[^0-9.]*' AND {_UNSIGNED} GLOB '*.*' "
    f"AND {_UNSIGNED} NOT GLOB '*.*.*' AND length({{x}})<1000)"
)
_TEXT = "CAST({x} AS TEXT)"


def _between(ends: tuple[float, float]) -> str:
    return f"{{x}} BETWEEN {ends[0]!r} AND {ends[1]!r}"


SHAPES: dict[str, Shape] = {
    # Text. `iso-…`: YYYY-MM-DD[(space|T)HH:MM[:SS[.digits]][zone]], a real day of years 0001 to 9999, hours to 23.
    "empty": Shape("text", "length({x})=0"),
    "iso-date": Shape("text", f"({{x}} GLOB '????-??-??' AND {_REAL})"),
    "iso-naive": Shape("text", f"(({_PLAIN} OR {_FRACTION} AND NOT {_FINE}) AND {_NAIVE})"),
    "iso-zoned": Shape("text", _zoned(f"NOT {_FINE}")),
    "iso-naive-fine": Shape("text", f"({_FRACTION} AND {_ROUNDS} AND {_NAIVE})"),
    "iso-zoned-fine": Shape("text", _zoned(_ROUNDS)),
    "iso-time": Shape(
        "text",
        "(({x} GLOB '[0-2]?:??' OR {x} GLOB '[0-2]?:??:??' OR {x} GLOB '[0-2]?:??:??.*') AND length({x})<16 AND "
        "{x}<'24' AND {x} NOT GLOB '*[^0-9:.]*' AND julianday({x}) IS NOT NULL)",
    ),
    "zero-date": Shape("text", "{x} GLOB '0000-00-00*'"),
    "bool-text": Shape("text", "lower({x}) IN ('0','1','t','f','true','false','y','n','yes','no','on','off')"),
    "uuid36": Shape("text", f"(length({{x}})=36 AND {_GROUPS} AND {_HEX.replace('0-9', '0-9-')})"),
    "uuid32": Shape("text", f"(length({{x}})=32 AND {_HEX})"),
    "uuid-braces": Shape(
        "text",
        "(length({x})=38 AND {x} GLOB '{????????-????-????-????-????????????}' AND "
        "length(replace({x},'-',''))=34 AND substr({x},2,36) NOT GLOB '*[^0-9a-fA-F-]*')",
    ),
    "json": Shape("text", f"(length({{x}})>0 AND json_valid({{x}}) AND NOT {_JSON_ESCAPE})"),
    "json-escaped": Shape("text", f"(length({{x}})>0 AND json_valid({{x}}) AND {_JSON_ESCAPE})"),
    "integer-text": Shape("text", _INT64),
    "digits-text": Shape("text", _DIGITS),
    "decimal-text": Shape("text", _DECIMAL),
    # Integers.
    "bool": Shape("integer", "{x} IN (0,1)"),
    "zero": Shape("integer", "{x}=0"),
    **{f"epoch-{unit}": Shape("integer", _between(WINDOWS[unit])) for unit in WINDOWS},
    # PostgreSQL keeps microseconds: finer ones stay numbers, so that nothing is rounded
    "epoch-ns": Shape("integer", f"({_between(WINDOWS['ns'])} AND {{x}}%1000=0)"),
    "yyyymmdd": Shape(
        "integer",
        "({x} BETWEEN 10000101 AND 99991231 AND date(printf('%d-%02d-%02d',{x}/10000,{x}/100%100,{x}%100),'+0 days')"
        "=printf('%d-%02d-%02d',{x}/10000,{x}/100%100,{x}%100))",
    ),
    "webkit-us": Shape("integer", _between(WEBKIT)),
    "inexact": Shape("integer", f"{{x}} NOT BETWEEN -{EXACT} AND {EXACT} AND CAST({{x}} AS REAL)<>{{x}}"),
    # Reals.
    "real-infinite": Shape("real", "{x} IN (9e999,-9e999)"),
    "real-huge": Shape("real", "({x} >= 9223372036854775808.0 OR {x} < -9223372036854775808.0)"),
    "real-whole": Shape("real", "{x}=CAST({x} AS INTEGER)"),
    "real-julian": Shape("real", _between(JULIAN)),
    "real-epoch-s": Shape("real", f"({_between(WINDOWS_REAL)} AND round({{x}},6)={{x}})"),
    "real-epoch-s-fine": Shape("real", f"({_between(WINDOWS_REAL)} AND round({{x}},6)<>{{x}})"),
    # Blobs.
    "uuid-blob": Shape("blob", "length({x})=16"),
    "digits-blob": Shape(
        "blob",
        f"(length({{x}}) BETWEEN 1 AND 999 AND instr({{x}},x'00')=0 AND "
        f"{_DIGITS.replace('{x}', _TEXT)} AND json_valid({_TEXT}))",
    ),
    "json-blob": Shape(
        "blob",
        f"(length({{x}}) BETWEEN 1 AND {SMALL_BLOB} AND instr({{x}},x'00')=0 AND json_valid({_TEXT}) AND "
        f"NOT {_JSON_ESCAPE.replace('{x}', _TEXT)})",
    ),
    "jsonb-blob": Shape("blob", f"(length({{x}}) BETWEEN 1 AND {SMALL_BLOB} AND json_valid({{x}},8))"),
    "empty-blob": Shape("blob", "length({x})=0"),
}

DATES = ("iso-naive", "iso-zoned", "iso-date", "iso-naive-fine", "iso-zoned-fine", "zero-date", "empty")
UUIDS = ("uuid36", "uuid32", "uuid-braces", "empty")
NUMBERS = ("integer-text", "digits-text", "decimal-text", "empty")
EPOCHS = ("epoch-s", "epoch-ms", "epoch-us", "epoch-ns", "webkit-us", "yyyymmdd", "zero")
BLOBS = ("digits-blob", "json-blob", "jsonb-blob")
REAL_TIMES = ("real-epoch-s", "real-epoch-s-fine", "real-julian")


def decimal_shapes(precision: int, scale: int) -> tuple[str, str]:
    """The names of the shapes `integer fits numeric(p,s)` and `real fits numeric(p,s)`."""
    return f"integer-fits-{precision}-{scale}", f"real-fits-{precision}-{scale}"


def vector_shape(bytes_each: int, dimensions: int, tail: int) -> str:
    """The name of the shape of a libSQL vector: so many numbers of so many bytes (0: any number of them),
    and the byte that may name the type at the end."""
    return f"vector-{bytes_each}-{dimensions}-{tail}"


def shape(name: str) -> Shape:
    """The shape called `name`, also where the name carries numbers; KeyError when there is none."""
    if name in SHAPES:
        return SHAPES[name]
    kind, _, numbers = name.partition("-fits-")
    if numbers:
        precision, scale = (int(number) for number in numbers.split("-"))
        whole = precision - scale
        if kind == "integer":
            limit = 10**whole
            return Shape("integer", "{x}={x}" if whole > 18 else f"{{x}} BETWEEN {1 - limit} AND {limit - 1}")
        # A double with at most 15 significant digits reads back from its decimal form; more is not claimed.
        limit = 10 ** min(whole, 15 - min(scale, 15))
        return Shape("real", f"(abs({{x}})<{limit} AND round({{x}},{min(scale, 15)})={{x}})")
    if name.startswith("vector-"):
        each, dimensions, tail = (int(number) for number in name.split("-")[1:])
        plain = f"length({{x}})={each * dimensions}" if dimensions else f"length({{x}})%{each}=0"
        tailed = f"length({{x}})={each * dimensions + 1}" if dimensions else f"length({{x}})%{each}=1"
        bare = plain if tail == 1 else "0"
        return Shape("blob", f"(length({{x}})>1 AND ({bare} OR {tailed} AND substr({{x}},-1)=x'{tail:02x}'))")
    raise KeyError(name)
