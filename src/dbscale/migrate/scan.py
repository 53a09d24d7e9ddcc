"""The first scan of a profile by `profile` (dbscale.native): all columns in one pass, several times as fast as SQL.

Each column is asked about the shapes that are expected in it, one a storage class. The extension's tests are never
laxer than the conditions of shapes.py, so a column that passes has the profile that SQL would give; one that does not
is scanned by SQL.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from dbscale.drivers.source import Reader, Value
from dbscale.migrate.model import SourceTable
from dbscale.migrate.shapes import EPOCHS, JULIAN, WEBKIT, WINDOWS, WINDOWS_REAL
from dbscale.schema import quote

_COLUMN = ">qqqqqqqqqqdd"
_TEXTS = {
    "text": "*", "empty": "e", "iso-date": "D", "iso-naive": "n", "iso-zoned": "z", "iso-time": "T",
    "zero-date": "0", "bool-text": "b", "uuid36": "u", "uuid32": "v", "uuid-braces": "w", "json": "j",
    "integer-text": "i", "digits-text": "d", "decimal-text": "f",
}  # fmt: skip
_BLOBS = {"blob": "*", "uuid-blob": "u", "empty-blob": "e"}
_INTEGERS: dict[str, tuple[int, int]] = {
    "bool": (0, 1),
    "zero": (0, 0),
    "webkit-us": WEBKIT,
    # not nanoseconds: whether they are whole microseconds is left to SQL
    **{label: WINDOWS[label[6:]] for label in EPOCHS if label.startswith("epoch-") and label != "epoch-ns"},
}
_REALS: dict[str, tuple[str, float, float, int]] = {
    "real": ("*", 0, 0, 0),
    "real-whole": ("w", 0, 0, 0),
    "real-infinite": ("I", 0, 0, 0),
    "real-huge": ("h", 0, 0, 0),
    "real-julian": ("r", *JULIAN, 0),
    "real-epoch-s": ("d", *WINDOWS_REAL, 6),
    # not real-epoch-s-fine: the extension knows no test for what is left over
}


def native(reader: Reader) -> bool:
    """Whether the extension is in the reader's SQLite, and reads its text as it is stored."""
    return getattr(reader, "native", False) and next(reader.rows("PRAGMA encoding"))[0] == "UTF-8"


def tests(reader: Reader, expected: Mapping[str, Sequence[str]]) -> dict[str, bytes]:
    """For each column, by name, the test for the labels expected in it, where the extension knows all of them."""
    if not expected or not native(reader):
        return {}
    made = {name: test(labels) for name, labels in expected.items()}
    return {name: packed for name, packed in made.items() if packed}


def test(labels: Sequence[str]) -> bytes:
    """Labels, at most one a storage class, as the extension reads them; empty where it does not know one."""
    letters = dict.fromkeys(("integer", "real", "text", "blob"), "-")
    bounds, ends, scale = (0, 0), (0.0, 0.0), 0
    for label in labels:
        if label in _TEXTS:
            letters["text"] = _TEXTS[label]
        elif label in _BLOBS:
            letters["blob"] = _BLOBS[label]
        elif label in _REALS:
            letters["real"], *ends, scale = _REALS[label]  # type: ignore[assignment]
        elif label.startswith("real-fits-"):
            letters["real"], (*ends, scale) = "d", _real_fits(label)  # type: ignore[assignment]
        elif label in ("integer", "yyyymmdd"):
            letters["integer"] = "*" if label == "integer" else "y"
        elif label in _INTEGERS or label.startswith("integer-fits-"):
            letters["integer"], bounds = "r", _INTEGERS.get(label) or _integer_fits(label)
        else:
            return b""
    return "".join(letters.values()).encode() + struct.pack(">iqqdd", scale, *bounds, *ends)


def _integer_fits(label: str) -> tuple[int, int]:
    precision, scale = map(int, label.removeprefix("integer-fits-").split("-"))
    limit = min(10 ** max(precision - scale, 0), 2**63)
    return max(1 - limit, -(2**63)), limit - 1


def _real_fits(label: str) -> tuple[float, float, int]:
    precision, scale = map(int, label.removeprefix("real-fits-").split("-"))
    limit = math.nextafter(10.0 ** min(precision - scale, 15 - min(scale, 15)), 0)
    return -limit, limit, min(scale, 15)


def counted(
    reader: Reader, table: SourceTable, columns: Mapping[str, bytes], expected: Mapping[str, Sequence[str]]
) -> tuple[int, dict[str, dict[str, Value]]]:
    """The number of rows, and of each of `columns` (what `tests` gave) all that a first scan by SQL may ask."""
    rows = 0
    seen: dict[str, dict[str, Value]] = {}
    names = list(columns)
    step = reader.function_arguments - 1
    for start in range(0, len(names), step):
        some = names[start : start + step]
        sql = f"SELECT profile(?, {', '.join(map(quote, some))}) FROM {quote(table.name)}"
        ((found,),) = reader.rows(sql, (b"".join(columns[name] for name in some),))
        data = found if isinstance(found, bytes) else bytes(8 + struct.calcsize(_COLUMN) * len(some))
        (rows,) = struct.unpack_from(">q", data)
        for name, fields in zip(some, struct.iter_unpack(_COLUMN, data[8:]), strict=True):
            seen[name] = _terms(expected[name], fields)
            if table.column(name).not_null:
                seen[name]["values"] = rows
    return rows, seen


def whole(seen: Mapping[str, Value] | None, labels: Sequence[str]) -> bool:
    """Whether all values of a column passed its tests, so that SQL has nothing to add."""
    return seen is not None and seen["values"] == sum(int(seen[label] or 0) for label in labels)


def _terms(labels: Sequence[str], fields: tuple[Any, ...]) -> dict[str, Value]:
    """The fields of a column, in the order in which the extension writes them, by what they tell."""
    values, integers, reals, texts, blobs, widest, longest, repeated, least, greatest, low, high = fields
    found: dict[str, Value] = {"values": values, "widest": widest, "longest": longest, "repeated": repeated}
    for label in labels:
        found[label] = (
            texts if label in _TEXTS else blobs if label in _BLOBS else reals if label.startswith("real") else integers
        )
    ends = [(least, greatest)] * (integers > 0) + [(low, high)] * (reals > 0)
    found["least"] = min((end[0] for end in ends), default=None)
    found["greatest"] = max((end[1] for end in ends), default=None)
    return found
