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
JULIAN = (1_700_000.0, 2_600_000.0)
"""Julian day numbers from about 59 BC to AD 2406."""
EXACT = 2**53
"""Up to here every integer is a double."""
SMALL_BLOB = 65_536
"""Blobs larger than this are not looked into: reading them all could take longer than the copy."""


@dataclass(frozen=True, slots=True)
class Shape:
    storage: StorageClass
    sql: str
    """A condition on `{x}`; never NULL for a value of the class."""


_DAY = "({x}>'' AND substr({x},5,1)='-' AND substr({x},1,4)>'0000' AND julianday({x}) IS NOT NULL AND "
_DAY += "(substr({x},9,2)<'29' OR date(substr({x},1,10),'+0 days')=substr({x},1,10)))"
_CLOCK = "(length({x})>15 AND substr({x},11,1) IN (' ','T') AND substr({x},12,2) BETWEEN '00' AND '23' "
_CLOCK += "AND rtrim({x})={x} AND substr({x},20,1) IN ('','.','Z','z','+','-')"
_CLOCK += " AND substr({x},17,1) IN ('',':','Z','z','+','-'))"
_ZONE = "(substr({x},-1) IN ('Z','z') OR substr({x},-6,1) IN ('+','-'))"
_FINE = "(substr({x},20,1)='.' AND ltrim(substr({x},27),'0') GLOB '[1-9]*')"
# Zones as PostgreSQL and strftime's %z write them, which SQLite's own functions do not read: +00, +0000.
_SHORT_ZONE = (
    "(({x} GLOB '*[0-9][+-][0-9][0-9]' AND substr({x},-2)<'15' AND length({x})>18) OR "
    "({x} GLOB '*[0-9][+-][0-9][0-9][0-9][0-9]' AND substr({x},-4,2)<'15' AND substr({x},-2)<'60' AND length({x})>20))"
)
_BARE = "substr({x},1,length({x})-CASE WHEN substr({x},-3,1) IN ('+','-') THEN 3 ELSE 5 END)"


def _with_short_zone(sql: str) -> str:
    return f"({_SHORT_ZONE} AND {sql.replace('{x}', _BARE)} AND NOT {_ZONE.replace('{x}', _BARE)})"


def _zoned(fine: str) -> str:
    head = f"{_DAY} AND {_CLOCK} AND {fine}"
    return f"(({head} AND {_ZONE}) OR {_with_short_zone(head)})"


_NAIVE = f"({_DAY} AND {_CLOCK} AND NOT {_ZONE}"
_HEX = "{x} NOT GLOB '*[^0-9a-fA-F]*'"
_GROUPS = "{x} GLOB '????????-????-????-????-????????????' AND length(replace({x},'-',''))=32"
_JSON_ESCAPE = "(instr({x},'\\u')>0 AND (instr({x},'\\u0000')>0 OR {x} GLOB '*\\u[dD][89a-fA-F]*'))"
_UNSIGNED = "(CASE WHEN substr({x},1,1)='-' THEN substr({x},2) ELSE {x} END)"
_DIGITS = f"({_UNSIGNED}<>'' AND {_UNSIGNED} NOT GLOB '*[^0-9]*' AND length({{x}})<1000)"
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
    "empty": Shape("text", "{x}=''"),
    "iso-date": Shape("text", f"(length({{x}})=10 AND {_DAY})"),
    "iso-naive": Shape("text", f"{_NAIVE} AND NOT {_FINE})"),
    "iso-zoned": Shape("text", _zoned(f"NOT {_FINE}")),
    "iso-naive-fine": Shape("text", f"{_NAIVE} AND {_FINE})"),
    "iso-zoned-fine": Shape("text", _zoned(_FINE)),
    "iso-time": Shape(
        "text",
        "(length({x}) BETWEEN 5 AND 15 AND substr({x},3,1)=':' AND substr({x},1,2)<'24' AND rtrim({x})={x} AND "
        "{x} NOT GLOB '*[^0-9:.]*' AND julianday({x}) IS NOT NULL)",
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
    "json": Shape("text", f"({{x}}<>'' AND json_valid({{x}}) AND NOT {_JSON_ESCAPE})"),
    "json-escaped": Shape("text", f"({{x}}<>'' AND json_valid({{x}}) AND {_JSON_ESCAPE})"),
    "integer-text": Shape("text", _INT64),
    "digits-text": Shape("text", _DIGITS),
    "decimal-text": Shape("text", _DECIMAL),
    # Integers.
    "bool": Shape("integer", "{x} IN (0,1)"),
    "zero": Shape("integer", "{x}=0"),
    **{f"epoch-{unit}": Shape("integer", _between(WINDOWS[unit])) for unit in WINDOWS},
    "yyyymmdd": Shape(
        "integer",
        "({x} BETWEEN 10000101 AND 99991231 AND date(printf('%d-%02d-%02d',{x}/10000,{x}/100%100,{x}%100),'+0 days')"
        "=printf('%d-%02d-%02d',{x}/10000,{x}/100%100,{x}%100))",
    ),
    "webkit-us": Shape("integer", "{x} BETWEEN 12600000000000000 AND 15600000000000000"),
    "inexact": Shape("integer", f"{{x}} NOT BETWEEN -{EXACT} AND {EXACT} AND CAST({{x}} AS REAL)<>{{x}}"),
    # Reals.
    "real-infinite": Shape("real", "{x} IN (9e999,-9e999)"),
    "real-huge": Shape("real", "({x} >= 9223372036854775808.0 OR {x} < -9223372036854775808.0)"),
    "real-whole": Shape("real", "{x}=CAST({x} AS INTEGER)"),
    "real-julian": Shape("real", _between(JULIAN)),
    "real-epoch-s": Shape("real", _between(WINDOWS["s"])),
    "real-epoch-ms": Shape("real", _between(WINDOWS["ms"])),
    # Blobs.
    "uuid-blob": Shape("blob", "length({x})=16"),
    "digits-blob": Shape(
        "blob", f"(length({{x}}) BETWEEN 1 AND 999 AND instr({{x}},x'00')=0 AND {_DIGITS.replace('{x}', _TEXT)})"
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
EPOCHS = ("epoch-s", "epoch-ms", "epoch-us", "epoch-ns", "yyyymmdd", "zero")
REAL_TIMES = ("real-julian", "real-epoch-s", "real-epoch-ms")


def decimal_shapes(precision: int, scale: int) -> tuple[str, str]:
    """The names of the shapes `integer fits numeric(p,s)` and `real fits numeric(p,s)`."""
    return f"integer-fits-{precision}-{scale}", f"real-fits-{precision}-{scale}"


def vector_shape(bytes_each: int, dimensions: int, tail: int) -> str:
    """The name of the shape of a libSQL vector: so many numbers of so many bytes, and the byte that names the type."""
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
        size = each * dimensions
        plain = f"length({{x}})={size}" if tail == 1 else "0"
        tailed = f"(length({{x}})={size + 1} AND substr({{x}},-1)=x'{tail:02x}')"
        return Shape("blob", f"({plain} OR {tailed})")
    raise KeyError(name)
