"""Tokens: how far a reader must be to see what a writer has committed.

A token holds a position for each database (by system identifier) that was written to. It travels in a cookie, a
header or a message as short text.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass

MOST = 64
"""Positions that a token's text may hold: more is not one of ours."""

_POSITION = re.compile(r"(?P<system>\d{1,20})\.(?P<timeline>\d{1,10})\.(?P<lsn>[0-9a-f]{1,16})\.(?P<at>\d{1,12})")


@dataclass(frozen=True, slots=True)
class Position:
    """A place in one database's write-ahead log."""

    system: str
    """The system identifier, which a primary and its standbys share."""
    timeline: int
    lsn: int
    """In bytes, normalised (drivers/replication.py). 0: the server does not tell; then `at` alone counts."""
    at: int
    """When, in seconds since 1970 by the application's clock. Used only where the position cannot be compared."""


@dataclass(frozen=True, slots=True)
class Token:
    """What a read must not be older than; the empty token asks for nothing."""

    positions: tuple[Position, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.positions)

    def __str__(self) -> str:
        return "_".join(f"{p.system}.{p.timeline}.{p.lsn:x}.{p.at}" for p in self.positions)

    @classmethod
    def parse(cls, text: str) -> Token:
        """The token in `text`, as `str(token)` wrote it; ValueError where it is not one."""
        if not text:
            return cls()
        parts = text.split("_")
        if len(parts) > MOST:
            raise ValueError("not a token: too long")
        positions = []
        for part in parts:
            match = _POSITION.fullmatch(part)
            if match is None:
                raise ValueError(f"not a token: {part[:60]!r}")
            positions.append(Position(match["system"], int(match["timeline"]), int(match["lsn"], 16), int(match["at"])))
        return cls.of(positions)

    @classmethod
    def of(cls, positions: Iterable[Position]) -> Token:
        """The token for all `positions`: of each database, the furthest."""
        furthest: dict[str, Position] = {}
        for position in positions:
            known = furthest.get(position.system)
            if known is None or (position.timeline, position.lsn, position.at) > (known.timeline, known.lsn, known.at):
                furthest[position.system] = position
        return cls(tuple(furthest[system] for system in sorted(furthest)))

    def __or__(self, other: Token) -> Token:
        """A token that asks for what both ask for."""
        if not other.positions:
            return self
        return Token.of((*self.positions, *other.positions)) if self.positions else other

    def on(self, system: str) -> Position | None:
        """The position asked for on the database with this system identifier."""
        for position in self.positions:
            if position.system == system:
                return position
        return None


def sealed(token: Token, secret: str) -> str:
    """The token's text, with a signature where there is a secret, so that a client cannot make up its own."""
    text = str(token)
    return f"{text}~{_signature(text, secret)}" if secret and text else text


def opened(text: str, secret: str) -> Token:
    """The token that `sealed` wrote; the empty one where the text is damaged, foreign or forged.

    A token from outside is a wish of the client's: one that cannot be read asks for nothing, it is no error.
    """
    if secret:
        text, _, signature = text.rpartition("~")
        if not hmac.compare_digest(signature.encode(), _signature(text, secret).encode()):
            return Token()
    try:
        return Token.parse(text)
    except ValueError:
        return Token()


def _signature(text: str, secret: str) -> str:
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()[:32]
