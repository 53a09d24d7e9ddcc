"""What every source of rows offers, whether a SQLite file or a libSQL server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from dbscale.errors import Finding, SourceError

Value = None | int | float | str | bytes


class TooLarge(SourceError):
    """The source makes no value this large (a libSQL server: 5 MB): ask for fewer rows, or for less of a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a source is to be read."""

    copy_first: bool = False
    """Copy it to a temporary file, and read that."""
    branch: bool = False
    """Turso Cloud: make a branch, read that, and destroy it at the end."""
    frozen: bool = False
    """A libSQL server: nobody writes to it, at the user's word."""
    hold_writes: bool = False
    """Keep writers out while it is read."""


AS_IT_IS = Way()


def unknown_collation(name: str, title: str) -> Finding:
    """The finding for a collation of the source `title` that SQLite does not have."""
    return Finding(
        code="unknown-collation",
        where=title,
        says=f"the collation {name} exists only in the application; rows were read without it",
        try_=f"order and equality under {name} are the application's: check the keys and indexes that use it",
        level="note",
    )


class Reader(Protocol):
    """One connection that reads within a snapshot. Not to be shared by threads at the same time."""

    @property
    def library(self) -> tuple[int, int, int]:
        """The version of the SQLite that runs the statements; (3, 45, 1), say."""

    @property
    def function_arguments(self) -> int:
        """The most arguments that a function takes (127 or 1000)."""

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> Iterator[tuple[Value, ...]]:
        """The rows of one SELECT, lazily. SourceError where the source cannot answer.

        TEXT comes as str, and a value that is not UTF-8 raises SourceError: where that can be, ask for
        `CAST(x AS BLOB)`.
        """

    def damage(self) -> tuple[Finding, ...]:
        """Blockers for what a check of the source's structure finds; none where it cannot be checked from here."""


class Source(Protocol):
    """A database to migrate from. It is never written to."""

    @property
    def title(self) -> str:
        """Its path or URL, without secrets."""

    def snapshot(self, readers: int = 1) -> AbstractContextManager[Sequence[Reader]]:
        """`readers` connections that all see the same committed state, until the block ends."""

    def fingerprint(self) -> str:
        """A token of the committed state: the snapshot's while one is open, else what is there now.

        Equal tokens mean that nothing was committed in between; a change of token need not mean a change of data.
        """

    def changed_since_snapshot(self) -> bool:
        """Whether anyone has committed since the open snapshot was taken. To be asked while it is open."""

    def interrupt(self) -> None:
        """Stop every read, from any thread: each raises SourceError soon."""

    def close(self) -> Sequence[Finding]:
        """Give back what was made for the reading; findings for what could not be. Nothing is left for a second one."""

    @property
    def notes(self) -> tuple[Finding, ...]:
        """What a user should know about how the source was opened and read."""
