"""Whether all values of a column become values of a type, and how: the one judge for choices and overrides alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dbscale.migrate.cells import APPLE_SECONDS, FIRST_SECOND, LAST_SECOND, WEBKIT_SECONDS
from dbscale.migrate.model import ColumnProfile
from dbscale.migrate.profile import CLASSES, ENDS, INEXACT, LONGEST, NUL, UNFIT_JSON, UTF8_BLOB
from dbscale.migrate.shapes import BLOBS, DATES, EPOCHS, NUMBERS, REAL_TIMES, UUIDS, decimal_shapes, shape, vector_shape
from dbscale.plan import Conversion

_TYPE = re.compile(
    r"\s*([a-z_0-9 ]+?)\s*(?:\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\))?\s*((?:with(?:out)? time zone)?)\s*(\[(\d*)\])?\s*"
)
_ALIASES = {
    **dict.fromkeys(("int8", "bigserial"), "bigint"),
    **dict.fromkeys(("int", "int4", "serial"), "integer"),
    "int2": "smallint",
    **dict.fromkeys(("float8", "float", "double"), "double precision"),
    "float4": "real",
    "decimal": "numeric",
    "bool": "boolean",
    "character varying": "varchar",
    "timestamp with time zone": "timestamptz",
    "timestamp without time zone": "timestamp",
    "time without time zone": "time",
    **dict.fromkeys(("blob", "bytes"), "bytea"),
}
_LIMITS = {"bigint": 63, "integer": 31, "smallint": 15}
_UNITS = ("s", "ms", "us", "ns")
_INTEGER_TIMES = (*_UNITS, "webkit-us", "apple-s", "days", "yyyymmdd", "julian", "by-size")
_REAL_TIMES = {"real-julian": "julian", "real-epoch-s": "s", "real-epoch-s-fine": "s"}
_REAL_READINGS = ("s", "ms", "julian", "apple-s")
_NOUNS = {"integer": "integer", "real": "real number", "text": "text", "blob": "blob"}


@dataclass(frozen=True, slots=True)
class Misfit:
    """Values that do not become values of the type: how many, what they are, and a few of them."""

    count: int
    what: str
    samples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fit:
    """How values become values of the type, and the first that do not, if any: the conversion refuses those."""

    conversion: Conversion
    misfit: Misfit | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A type, and how the user wants the values read (`timestamptz from ms, empty as null`)."""

    type: str
    reading: str = ""
    """A reading of numbers, of plan.Conversion: `s`, `ms`, `julian` …"""
    empty_as_null: bool = False
    chosen: bool = False
    """The user named the type: epochs may become a timestamp without zone, in UTC."""


def parse(text: str) -> Asked:
    """`TYPE [from READING] [, empty as null]`, as `[migrate.types]` has it; ValueError where it is not that."""
    kind, *rest = (part.strip() for part in re.split(r",(?![^(]*\))", text.strip()))
    for part in rest:
        if part.lower().split() != ["empty", "as", "null"]:
            raise ValueError(f"`{part}` is not understood; `empty as null` is")
    kind, _, reading = (part.strip() for part in kind.partition(" from "))
    if reading and reading not in {*_INTEGER_TIMES, *_REAL_READINGS}:
        raise ValueError(f"`{reading}` is no way to read a time; there are {', '.join(_INTEGER_TIMES)}")
    if not kind:
        raise ValueError("a type is missing")
    return Asked(kind, reading, bool(rest), chosen=True)


def base(type_: str) -> tuple[str, int | None, int | None]:
    """A type's plain name and its parameters: `numeric(10, 2)` is `("numeric", 10, 2)`."""
    found = _TYPE.fullmatch(type_.lower())
    if not found:
        return type_, None, None
    name, first, second, zone, array, length = found.groups()
    name = f"{name} {zone}".strip()
    name = _ALIASES.get(name, name) + ("[]" if array else "")
    return name, int(first or length) if first or length else None, int(second) if second else None


def shapes_for(type_: str) -> tuple[str, ...]:
    """The shapes that `fit` needs to know of for this type, the likelier first."""
    name, size, scale = base(type_)
    if name in _LIMITS:
        ends = () if name == "bigint" else (ENDS,)
        return (*ends, "integer-text", "empty", "real-huge", "real-infinite", "real-whole", "digits-blob")
    if name == "numeric":
        fits = decimal_shapes(size, scale or 0) if size else ()
        return ("real-infinite", *fits, *NUMBERS, "digits-blob")
    if name in ("vector", "real[]", "double precision[]"):
        double = name.startswith("double")
        return (vector_shape(8 if double else 4, size or 0, 2 if double else 1),)
    return _SHAPES.get(name, ())


_SHAPES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("double precision", "real"), (ENDS, INEXACT, "integer-text", "decimal-text", "empty")),
    "boolean": ("bool", "bool-text", "empty"),
    "varchar": (LONGEST, UTF8_BLOB),
    "text": (UTF8_BLOB,),
    **dict.fromkeys(("timestamp", "timestamptz"), (ENDS, *DATES, *EPOCHS, *REAL_TIMES)),
    "date": (ENDS, "iso-date", *DATES, "yyyymmdd", *EPOCHS, *REAL_TIMES),
    "time": ("iso-time", "empty"),
    "uuid": (*UUIDS, "uuid-blob"),
    "bytea": BLOBS,
    **dict.fromkeys(("json", "jsonb"), ("json", "json-escaped", "empty", *BLOBS, "real-infinite")),
}


def fit(asked: Asked, seen: ColumnProfile) -> Fit:
    """How the values of a column become values of `asked.type`, by the shapes that `shapes_for` named."""
    name, size, scale = base(asked.type)
    of = _Readings(asked, seen)
    if name in _LIMITS:
        return _integers(of, _LIMITS[name])
    if name == "numeric":
        return _numerics(of, size, scale or 0)
    if name in ("text", "varchar"):
        return _texts(of, size if name == "varchar" else None)
    if name in ("timestamp", "timestamptz", "date"):
        return _times(of, name)
    return _SIMPLE.get(name, _as_text)(of)


class _Readings:
    """What is known of the values, and the making of a Fit from one reading a storage class."""

    def __init__(self, asked: Asked, seen: ColumnProfile) -> None:
        self.asked, self.seen = asked, seen

    def count(self, *shapes: str) -> int:
        return sum(self.seen.shapes.get(name, 0) for name in shapes)

    def give(
        self,
        *,
        integers: tuple[str, ...] = ("",),
        reals: tuple[str, ...] = ("",),
        texts: tuple[str, ...] = ("",),
        blobs: tuple[str, ...] = ("",),
        misfit: Misfit | None = None,
        rounded: bool = False,
    ) -> Fit:
        """The conversion with these readings, each followed by the shapes it covers (the class itself means all).

        `misfit`, or else the first values that no reading covers, is what does not fit.
        """
        if self.asked.empty_as_null:
            texts = (texts[0] or "keep", *texts[1:], "empty")
        seen = self.seen
        totals = (seen.integers, seen.reals, seen.texts, seen.blobs)
        for storage, (reading, *shapes), total in zip(CLASSES, (integers, reals, texts, blobs), totals, strict=True):
            covered = total if storage in shapes else self.count(*dict.fromkeys(shapes))
            left = total - (covered if reading else 0)
            if left > 0 and misfit is None:
                misfit = Misfit(left, _NOUNS[storage], self._samples(storage, shapes if reading else ()))
        conversion = Conversion(
            to=re.sub(r"\[\d+\]$", "[]", self.asked.type),
            integers=integers[0],
            reals=reals[0],
            texts=texts[0],
            blobs=blobs[0],
            empty="null" if self.asked.empty_as_null else "keep",
            rounded=rounded,
        )
        return Fit(conversion, misfit)

    def _samples(self, storage: str, covered: Iterable[str]) -> tuple[str, ...]:
        """Samples of the values of a class that are of none of the shapes covered."""
        kept: list[str] = []
        for label, shown in self.seen.samples.items():
            own = label == storage or (label not in (*CLASSES, NUL) and shape(label).storage == storage)
            kept += shown if own and label not in covered else ()
        return tuple(kept[:4])


def _integers(of: _Readings, bits: int) -> Fit:
    least, greatest = of.seen.least, of.seen.greatest
    misfit = None
    if bits < 63 and least is not None and greatest is not None and not (-(2**bits) <= least and greatest < 2**bits):
        misfit = Misfit(of.seen.integers, f"integers from {least} to {greatest}")
    reals = ("whole", "real-whole") if of.count("real-whole") else ("",)
    texts = ("number", "integer-text") if of.count("integer-text") else ("",)
    blobs = ("digits", "digits-blob") if of.count("digits-blob") else ("",)
    return of.give(integers=("keep", "integer"), reals=reals, texts=texts, blobs=blobs, misfit=misfit)


def _doubles(of: _Readings) -> Fit:
    inexact = of.count("inexact")
    misfit = Misfit(inexact, "integers that no double holds", of.seen.samples.get("inexact", ())) if inexact else None
    texts = ("number", "integer-text") if of.count("integer-text") else ("",)
    return of.give(integers=("keep", "integer"), reals=("keep", "real"), texts=texts, misfit=misfit)


def _numerics(of: _Readings, precision: int | None, scale: int) -> Fit:
    if precision is not None:
        integer, real = decimal_shapes(precision, scale)
        return of.give(integers=("keep", integer), reals=("shortest", real))
    infinite = of.count("real-infinite")
    misfit = Misfit(infinite, "infinite numbers", of.seen.samples.get("real-infinite", ())) if infinite else None
    texts = ("number", *NUMBERS[:3]) if of.count(*NUMBERS[:3]) else ("",)
    blobs = ("digits", "digits-blob") if of.count("digits-blob") else ("",)
    return of.give(integers=("keep", "integer"), reals=("shortest", "real"), texts=texts, blobs=blobs, misfit=misfit)


def _booleans(of: _Readings) -> Fit:
    return of.give(integers=("bool", "bool"), texts=("bool", "bool-text") if of.count("bool-text") else ("",))


def _texts(of: _Readings, length: int | None) -> Fit:
    # Of blobs only the bytes are known, and they are as many as the characters or more.
    longest = max(of.seen.longest, of.seen.widest if of.seen.blobs else 0)
    # Numbers are spelled in digits: as many as their ends have, where those are known.
    ends = [value for value in (of.seen.least, of.seen.greatest) if isinstance(value, int)]
    if of.seen.integers:
        longest = max(longest, *(len(str(value)) for value in ends)) if len(ends) == 2 else max(longest, 20)
    if of.seen.reals:
        longest = max(longest, 24)
    misfit = Misfit(1, f"text of up to {longest} characters") if length is not None and longest > length else None
    blobs = ("text", UTF8_BLOB) if of.count(UTF8_BLOB) else ("",)
    return of.give(
        integers=("text", "integer"), reals=("text", "real"), texts=("keep", "text"), blobs=blobs, misfit=misfit
    )


def _bytes(of: _Readings) -> Fit:
    """Numbers become bytes, as the digits that SQLite prints, only where there are blobs or texts beside them."""
    mixed = of.seen.blobs + of.seen.texts > 0
    integers = ("text", "integer") if of.seen.integers and mixed else ("",)
    reals = ("text", "real") if of.seen.reals and mixed else ("",)
    return of.give(blobs=("keep", "blob"), texts=("bytes", "text"), integers=integers, reals=reals)


def _uuids(of: _Readings) -> Fit:
    return of.give(texts=("uuid", *UUIDS[:3]), blobs=("uuid", "uuid-blob") if of.count("uuid-blob") else ("",))


def _jsons(of: _Readings) -> Fit:
    misfit = None
    if of.count("real-infinite"):
        misfit = Misfit(of.count("real-infinite"), "infinite numbers", of.seen.samples.get("real-infinite", ()))
    if base(of.asked.type)[0] == "jsonb" and of.count(UNFIT_JSON):
        shown = of.seen.samples.get("json-escaped", ())
        misfit = Misfit(of.count(UNFIT_JSON), "JSON with \\u0000 or half of a surrogate pair", shown)
    blobs: tuple[str, ...] = ("",)
    if of.count("json-blob", "digits-blob"):
        blobs = ("json", "json-blob", "digits-blob")
    elif of.count("jsonb-blob"):
        blobs = ("jsonb", "jsonb-blob")
    integers = ("keep", "integer") if of.seen.integers else ("",)
    reals = ("keep", "real") if of.seen.reals else ("",)
    texts = ("json", "json", "json-escaped")
    return of.give(texts=texts, integers=integers, reals=reals, blobs=blobs, misfit=misfit)


def _vectors(of: _Readings) -> Fit:
    reading = "f64" if of.asked.type.startswith("double") else "f32"
    return of.give(blobs=(reading, *shapes_for(of.asked.type)))


def _times(of: _Readings, name: str) -> Fit:
    texts = {
        "date": (
            ENDS,
            "iso-date",
        ),
        "timestamp": ("iso-date", "iso-naive", "iso-naive-fine"),
        "timestamptz": ("iso-date", "iso-naive", "iso-naive-fine", "iso-zoned", "iso-zoned-fine"),
    }[name]
    integers, reals = _integer_times(of, name), _real_times(of, name)
    fine = of.count("iso-naive-fine", "iso-zoned-fine", "real-epoch-s-fine") > 0
    rounded = name != "date" and (fine or reals[0] == "apple-s" or (bool(reals[0]) and of.asked.reading != ""))
    return of.give(integers=integers, reals=reals, texts=("iso", *texts), rounded=rounded)


def _integer_times(of: _Readings, name: str) -> tuple[str, ...]:
    """The reading of a time column's integers: what the user said, else what their magnitudes say."""
    reading = of.asked.reading
    if not of.seen.integers:
        return ("",)
    if reading in _INTEGER_TIMES:
        every = reading in ("by-size", "yyyymmdd")
        shapes = ("yyyymmdd",) if reading == "yyyymmdd" else tuple(f"epoch-{unit}" for unit in _UNITS)
        return (reading, *shapes) if every else (reading, "integer") if _in_span(of, reading) else (reading,)
    if name == "date" and (of.count("yyyymmdd") or not of.asked.chosen):
        return ("yyyymmdd", "yyyymmdd") if of.count("yyyymmdd") else ("",)
    if name == "timestamp" and not of.asked.chosen:
        return ("",)
    units = [unit for unit in _UNITS if of.count(f"epoch-{unit}")]
    if of.count("webkit-us"):
        return ("webkit-us", "webkit-us")
    if not units:
        return ("",)
    if len(units) == 1:
        return (units[0], f"epoch-{units[0]}", "zero")
    return ("by-size", *(f"epoch-{unit}" for unit in units))


def _in_span(of: _Readings, reading: str) -> bool:
    """Whether numbers read that way are times of the years 1 to 9999."""
    least, greatest = of.seen.least, of.seen.greatest
    if least is None or greatest is None:
        return True
    if reading in ("days", "julian"):
        return least >= -2_440_588 and greatest <= 106_000_000
    per = {"ms": 10**3, "us": 10**6, "webkit-us": 10**6, "ns": 10**9}.get(reading, 1)
    shift = {"webkit-us": -WEBKIT_SECONDS, "apple-s": APPLE_SECONDS}.get(reading, 0)
    return (FIRST_SECOND - shift) * per <= least and greatest <= (LAST_SECOND - shift) * per


def _real_times(of: _Readings, name: str) -> tuple[str, ...]:
    if not of.seen.reals or not (name == "timestamptz" or of.asked.chosen):
        return ("",)
    if of.asked.reading in _REAL_READINGS:
        sure = not of.count("real-infinite") and _is_exact(of, of.asked.reading)
        return (of.asked.reading, "real") if sure else ("",)
    readings = {_REAL_TIMES[label] for label in REAL_TIMES if of.count(label)}
    if len(readings) != 1:
        return ("",)
    (reading,) = readings
    return (reading, *(label for label in REAL_TIMES if _REAL_TIMES[label] == reading))


def _is_exact(of: _Readings, reading: str) -> bool:
    """Whether doubles of that size still tell microseconds apart; Julian days are read to the millisecond."""
    most = max(abs(end) for end in (of.seen.least or 0, of.seen.greatest or 0))
    return reading == "julian" or most * (1000 if reading == "ms" else 10**6) <= 2**53


def _clock(of: _Readings) -> Fit:
    return of.give(texts=("iso", "iso-time"))


def _as_text(of: _Readings) -> Fit:
    """For a type that dbscale does not know: PostgreSQL reads its text form, or refuses the row."""
    return of.give(texts=("keep", "text"))


_SIMPLE: dict[str, Callable[[_Readings], Fit]] = {
    **dict.fromkeys(("double precision", "real"), _doubles),
    "time": _clock,
    "boolean": _booleans,
    "bytea": _bytes,
    "uuid": _uuids,
    **dict.fromkeys(("json", "jsonb"), _jsons),
    **dict.fromkeys(("vector", "real[]", "double precision[]"), _vectors),
}
