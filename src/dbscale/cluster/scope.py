"""What belongs together, a request say: which writes its reads must see, and which replica it reads from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from dbscale.cluster.token import Token

NOTHING = Token()


@dataclass(slots=True)
class Scope:
    """Shared by all threads and tasks that begin inside it: they copy the context, and find this same object."""

    token: Token = NOTHING
    """What was written, or what the client brought along."""
    nodes: dict[str, str] = field(default_factory=dict)
    """By shard, the replica that reads come from, so that time never runs backwards within a scope."""
    bounded: bool = False
    """It has an end (a request). Outside of one, reads are not tied to a replica."""
    writes: bool = False
    """Its work will write: automatic sessions stay on the primary."""

    def remember(self, token: Token) -> None:
        """Later reads of this scope see what the token stands for."""
        self.token = self.token | token


_scope: ContextVar[Scope] = ContextVar("dbscale-scope")


def current() -> Scope:
    """The scope of this context; one of the thread's or task's own where none was opened."""
    scope = _scope.get(None)
    if scope is None:
        scope = Scope()
        _scope.set(scope)
    return scope


def enter(scope: Scope) -> None:
    """Make `scope` the one of this context."""
    _scope.set(scope)


@contextmanager
def inside(scope: Scope) -> Iterator[Scope]:
    """Make `scope` the one of this context until the block ends."""
    before = _scope.set(scope)
    try:
        yield scope
    finally:
        _scope.reset(before)
