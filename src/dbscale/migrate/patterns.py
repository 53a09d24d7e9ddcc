"""LIKE and GLOB as SQLite reads them."""

from __future__ import annotations

import re

from dbscale.migrate.values import Untranslatable, Value, by_collation
from dbscale.schema import literal


def like(left: Value, pattern: Value, escape: str, word: str) -> str:
    """SQLite's LIKE folds A to Z only, and knows no escape unless one is named."""
    text = pattern.constant.value if pattern.constant is not None else None
    if escape:
        if not isinstance(text, str) or escape.isalpha() or escape in "%_":
            raise Untranslatable("ESCAPE with a letter, a wildcard, or a pattern that is not a literal")
        if re.search(f"(?<!{re.escape(escape)})(?:{re.escape(escape) * 2})*{re.escape(escape)}$", text):
            raise Untranslatable("the pattern ends in its escape character")
    one = by_collation(left, "NOCASE")
    two = by_collation(pattern, "NOCASE")
    return f"{one} {word}LIKE {two} ESCAPE {literal(escape)}"


def glob(left: Value, pattern: str, *, negated: bool) -> str:
    """GLOB is exact in case; without brackets it is LIKE, with them a regular expression."""
    if "[" not in pattern:
        text = re.sub(r"([%_\\])", r"\\\1", pattern).replace("*", "%").replace("?", "_")
        return f"{left.operand} {'NOT ' * negated}LIKE {literal(text)}" + (r" ESCAPE E'\\'" if "\\" in text else "")
    return f'{left.operand} COLLATE "C" {"!~" if negated else "~"} {literal("^" + _glob_regex(pattern) + "$")}'


def _glob_regex(pattern: str) -> str:
    parts, place = [], 0
    while place < len(pattern):
        letter = pattern[place]
        place += 1
        if letter == "[":
            close = pattern.find("]", place + (2 if pattern[place : place + 1] == "^" else 1))
            if close < 0:
                raise Untranslatable("a bracket in the pattern is not closed")
            inside, place = pattern[place:close], close + 1
            negated = inside.startswith("^")
            escaped = "".join("\\" + mark if not mark.isalnum() and mark != "-" and mark.isascii() else mark
                              for mark in inside[negated:])  # fmt: skip
            if re.search(r"-.-|^-|-$|--|(.)-(?!\1)(?=.)", inside[negated:]) and not _ranges(inside[negated:]):
                raise Untranslatable("a range in the pattern is not understood")
            parts.append(f"[{'^' * negated}{escaped}]")
        else:
            parts.append({"*": ".*", "?": "."}.get(letter, "\\" + letter if not letter.isalnum() and letter.isascii()
                                                   else letter))  # fmt: skip
    return "".join(parts)


def _ranges(inside: str) -> bool:
    """True where every hyphen stands between two letters or digits in order."""
    plain = re.sub(r"([0-9A-Za-z])-([0-9A-Za-z])", lambda m: "" if m[1] <= m[2] else "--", inside)
    return "-" not in plain
