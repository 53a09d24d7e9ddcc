"""Which columns of a query's sources tell each of its rows from all others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rows:
    """One source of a FROM."""

    columns: frozenset[str]
    """The SQL of its columns."""
    keys: tuple[frozenset[str], ...]
    """Those that no two of its rows share, where NULL counts as a value like any other."""


@dataclass(frozen=True, slots=True)
class Equal:
    """A condition that holds for all rows: two columns are equal, or one is a single value (`other` is empty)."""

    column: str
    other: str
    within: frozenset[str] = frozenset()
    """Of a LEFT JOIN: the columns of what is joined, for which alone it holds, and only beside whole rows."""


def decided(known: Iterable[str], sources: Sequence[Rows], equals: Sequence[Equal]) -> bool:
    """True when rows that agree in the columns `known` are one row."""
    return not _closure(known, sources, equals)[1]


def same(known: Iterable[str], sources: Sequence[Rows], equals: Sequence[Equal]) -> frozenset[str]:
    """The columns in which all rows agree that agree in `known`."""
    return _closure(known, sources, equals)[0]


def _closure(
    known: Iterable[str], sources: Sequence[Rows], equals: Sequence[Equal]
) -> tuple[frozenset[str], list[Rows]]:
    """What follows from `known`, and the sources of which no one row follows."""
    found = {"", *known}
    rest = list(sources)
    whole: set[str] = {""}
    while True:
        before = len(found), len(rest)
        for each in equals:
            for column, other in ((each.column, each.other), (each.other, each.column)):
                if each.within and (column not in each.within or other not in whole):
                    continue
                if other in found and column:
                    found.add(column)
        for source in list(rest):
            if any(key <= found for key in source.keys):
                rest.remove(source)
                found |= source.columns
                whole |= source.columns
        if not rest or (len(found), len(rest)) == before:
            return frozenset(found), rest
