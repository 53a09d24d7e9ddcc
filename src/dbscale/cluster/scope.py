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


@contextmanager
def scope(token: Token = NOTHING, *, writes: bool = False) -> Iterator[Scope]:
    """A new scope, for a request or a job. `token` is what its reads must see from the start."""
    opened = Scope(token=token, bounded=True, writes=writes)
    before = _scope.set(opened)
    try:
        yield opened
    finally:
        _scope.reset(before)
