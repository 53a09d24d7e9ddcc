"""From the source's names to names that PostgreSQL can hold: pure, and the same for the same schema every time.

A name is changed only where it has to be: longer than 63 bytes, empty, a system column's, or taken. A changed
name ends in eight hex digits of the SHA-256 of the original, so that it does not depend on what else is there.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Literal

from dbscale.errors import Finding

Identifiers = Literal["preserve", "lower", "snake"]

LIMIT = 63
"""Bytes in a name: NAMEDATALEN - 1, as every PostgreSQL is built."""

SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
"""Names that every table has already (PostgreSQL, 5.6 System Columns)."""

_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NOT_WORD = re.compile(r"[\W_]+")


def style(name: str, identifiers: Identifiers) -> str:
    """`name` in the style asked for: as it is, in lower case, or in snake_case. It may come out empty."""
    if identifiers == "lower":
        return name.lower()
    if identifiers == "snake":
        return _NOT_WORD.sub("_", _WORDS.sub("_", name)).strip("_").lower()
    return name


def clip(name: str, size: int) -> str:
    """The longest beginning of `name` that takes at most `size` bytes of UTF-8; no character is cut."""
    return name.encode()[:size].decode(errors="ignore")


def digested(name: str, identity: str) -> str:
    """`name` with a suffix made from `identity`, in at most 63 bytes."""
    suffix = "_" + hashlib.sha256(identity.encode()).hexdigest()[:8]
    return clip(name, LIMIT - len(suffix)) + suffix


def object_name(first: str, second: str = "", label: str = "") -> str:
    """The name that PostgreSQL itself would choose: `t_a_key`, `t_a_fkey`.

    The longer of the two parts is shortened until all fits (makeObjectName in src/backend/commands/indexcmds.c).
    """
    overhead = sum(len(part.encode()) + 1 for part in (label,) if part) + (1 if second else 0)
    room = LIMIT - overhead
    one, two = len(first.encode()), len(second.encode())
    while one + two > room:
        if one > two:
            one -= 1
        else:
            two -= 1
    parts = [clip(first, one), clip(second, two), label]
    return "_".join(part for part in parts if part)


@dataclass(slots=True)
class Namespace:
    """Names of which each may be given once: the relations of a schema, the columns or constraints of a table."""

    reserved: frozenset[str] = frozenset()
    taken: set[str] = field(default_factory=set)

    def holds(self, name: str) -> bool:
        return name in self.taken or name in self.reserved


def claim(wanted: str, identity: str, *spaces: Namespace) -> tuple[str, str]:
    """A legal name, free in all `spaces` and now taken there, as near to `wanted` as can be; and why it differs.

    `identity` says what the name is for. The reason is empty when the name is the one wanted.
    """
    name, reason = wanted, ""
    if not name:
        name, reason = "unnamed", "PostgreSQL has no empty names"
    if len(name.encode()) > LIMIT:
        name, reason = digested(name, identity), f"it is longer than {LIMIT} bytes"
    if any(name in space.reserved for space in spaces):
        name, reason = name + "_", "every table has a system column of that name"
    base, count = name, 0
    while any(space.holds(name) for space in spaces):
        reason = reason or "the name is taken"
        name = digested(base, f"{identity}#{count}" if count else identity)
        count += 1
    for space in spaces:
        space.taken.add(name)
    return name, reason


def numbered(wanted: str, *spaces: Namespace) -> str:
    """A free name for what the source does not name, numbered as PostgreSQL does: `t_a_key`, `t_a_key1`."""
    name, count = clip(wanted, LIMIT), 0
    while any(space.holds(name) for space in spaces):
        count += 1
        name = clip(wanted, LIMIT - len(str(count))) + str(count)
    for space in spaces:
        space.taken.add(name)
    return name


@dataclass(slots=True)
class Names:
    """The rename map of one migration, filled in while the target is built: tables first, then what hangs on them."""

    identifiers: Identifiers = "preserve"
    relations: Namespace = field(default_factory=Namespace)
    """Tables, views, indexes, the indexes of keys, and sequences share one namespace per schema."""
    tables: dict[str, str] = field(default_factory=dict)
    """Tables and views, from the source's name to the target's."""
    columns: dict[tuple[str, str], str] = field(default_factory=dict)
    """By the source's table and column."""
    objects: dict[tuple[str, str], str] = field(default_factory=dict)
    """Indexes and constraints that the source names, by its table and name."""
    findings: list[Finding] = field(default_factory=list)
    _columns: dict[str, Namespace] = field(default_factory=dict)
    _constraints: dict[str, Namespace] = field(default_factory=dict)

    def table(self, name: str) -> str:
        """The target's name for a table or a view, claimed at the first call."""
        if name not in self.tables:
            self.tables[name] = self._claim(name, name, self.relations)
        return self.tables[name]

    def column(self, table: str, name: str) -> str:
        """The target's name for a column, claimed at the first call."""
        if (table, name) not in self.columns:
            space = self._columns.setdefault(table, Namespace(SYSTEM_COLUMNS))
            self.columns[table, name] = self._claim(name, f"{table}.{name}", space)
        return self.columns[table, name]

    def reserve_sequence(self, table: str, column: str) -> str:
        """Keeps the name that PostgreSQL gives to an identity's sequence from being given to another."""
        return numbered(object_name(self.tables[table], self.columns[table, column], "seq"), self.relations)

    def reserve_not_null(self, table: str, column: str) -> None:
        """Keeps the name that PostgreSQL 18 gives to a NOT NULL constraint from being given to another."""
        numbered(object_name(self.tables[table], self.columns[table, column], "not_null"), self._space(table))

    def index(self, table: str, name: str, otherwise: str) -> str:
        """The target's name for an index: the source's, or `otherwise` where that is empty."""
        return self._object(table, name, otherwise, self.relations)

    def constraint(self, table: str, name: str, otherwise: str, *, key: bool = False) -> str:
        """The target's name for a constraint; a `key` brings an index of its name with it."""
        spaces = (self._space(table), self.relations) if key else (self._space(table),)
        return self._object(table, name, otherwise, *spaces)

    def renamed(self) -> dict[str, str]:
        """Every name that differs from the source's: `users`, `users.Name` for columns, indexes and constraints."""
        changed = {name: given for name, given in self.tables.items() if name != given}
        for known in (self.columns, self.objects):
            changed |= {f"{table}.{name}": given for (table, name), given in known.items() if name != given}
        return changed

    def _space(self, table: str) -> Namespace:
        return self._constraints.setdefault(table, Namespace())

    def _object(self, table: str, name: str, otherwise: str, *spaces: Namespace) -> str:
        if not name:
            return numbered(otherwise, *spaces)
        self.objects[table, name] = self._claim(name, f"{table}.{name}", *spaces)
        return self.objects[table, name]

    def _claim(self, name: str, identity: str, *spaces: Namespace) -> str:
        given, reason = claim(style(name, self.identifiers), identity, *spaces)
        if reason:
            says = f"it is called {given!r} in PostgreSQL: {reason}"
            try_ = "use the new name in the application's queries"
            where = f"{identity}(no name)" if not name else identity
            self.findings.append(Finding(code="renamed", where=where, says=says, try_=try_, level="behaviour"))
        return given
