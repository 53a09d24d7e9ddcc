"""What a declared type means: SQLite's affinity, exactly, and what the word says beyond it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Affinity = Literal["INTEGER", "TEXT", "BLOB", "REAL", "NUMERIC"]
Kind = Literal[
    "integer",
    "real",
    "decimal",
    "boolean",
    "text",
    "blob",
    "timestamp",
    "date",
    "time",
    "uuid",
    "json",
    "vector",
    "any",
]

_PARAMETERS = re.compile(r"\(\s*([+-]?\d+)\s*(?:,\s*([+-]?\d+)\s*)?\)")
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("BOOL", "BOOLEAN"), "boolean"),
    **dict.fromkeys(("DECIMAL", "DEC", "NUMERIC", "NUMBER", "FIXED"), "decimal"),
    **dict.fromkeys(
        ("DATETIME", "DATETIME2", "SMALLDATETIME", "DATETIMEOFFSET", "TIMESTAMP", "TIMESTAMPTZ", "DATETIME_CHAR"),
        "timestamp",
    ),
    **dict.fromkeys(
        ("TIMESTAMP WITH TIME ZONE", "TIMESTAMP WITHOUT TIME ZONE", "TIMESTAMP WITH LOCAL TIME ZONE"), "timestamp"
    ),
    **dict.fromkeys(("DATE", "DATE_CHAR"), "date"),
    **dict.fromkeys(("TIME", "TIME_CHAR", "TIME WITHOUT TIME ZONE"), "time"),
    **dict.fromkeys(("UUID", "GUID", "UNIQUEIDENTIFIER"), "uuid"),
    **dict.fromkeys(("JSON", "JSONB", "JSON_TEXT", "JSONTEXT"), "json"),
    **dict.fromkeys(("STRING", "STR"), "text"),
    **dict.fromkeys(("BYTEA", "BINARY", "VARBINARY", "BINARY VARYING", "IMAGE"), "blob"),
    "ANY": "any",
    "": "any",
}
_SIZED = re.compile(r"N?(?:VAR)?CHAR2?|(?:NATIVE )?CHARACTER(?: VARYING)?|VARYING CHARACTER|NATIONAL VARCHAR")
VECTORS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("F32_BLOB", "FLOAT32"), (4, 1)),
    **dict.fromkeys(("F64_BLOB", "FLOAT64"), (8, 2)),
    **dict.fromkeys(("F16_BLOB", "FLOAT16"), (2, 5)),
    **dict.fromkeys(("FB16_BLOB", "FLOATB16"), (2, 6)),
    **dict.fromkeys(("F8_BLOB", "FLOAT8"), (1, 4)),
    **dict.fromkeys(("F1BIT_BLOB", "FLOAT1BIT"), (0, 3)),
}
"""libSQL's vector types: bytes a number takes, and the byte at the end of a value that names the type."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a declaration asks for."""

    affinity: Affinity
    kind: Kind
    word: str
    """The declared type without its parameters, upper case, single spaces."""
    size: int | None = None
    """The first parameter: characters of VARCHAR, precision of DECIMAL, dimensions of a vector."""
    scale: int | None = None


def affinity(declared: str) -> Affinity:
    """The affinity of a column of an ordinary table, by SQLite's five rules in their order (datatype3.html, 3.1)."""
    upper = declared.upper()
    if "INT" in upper:
        return "INTEGER"
    if any(part in upper for part in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if "BLOB" in upper or not upper.strip():
        return "BLOB"
    if any(part in upper for part in ("REAL", "FLOA", "DOUB")):
        return "REAL"
    return "NUMERIC"


def wish(declared: str) -> Wish:
    """What `declared` asks for: its word where that is a known one, else its affinity."""
    found = _PARAMETERS.search(declared)
    size, scale = (int(part) if part else None for part in found.groups()) if found else (None, None)
    word = " ".join(_PARAMETERS.sub(" ", declared).upper().split())
    kind = _KINDS.get(word)
    if word in VECTORS and size:
        kind = "vector"
    by_affinity: dict[Affinity, Kind] = {
        "INTEGER": "integer",
        "TEXT": "text",
        "BLOB": "blob",
        "REAL": "real",
        "NUMERIC": "any",
    }
    own = affinity(declared)
    return Wish(own, kind or by_affinity[own], word, size, scale)


def is_sized_text(asked: Wish) -> bool:
    """Whether the length in the declaration is one of characters: VARCHAR(20), not TEXT or STRING."""
    return asked.affinity == "TEXT" and asked.size is not None and _SIZED.fullmatch(asked.word) is not None
