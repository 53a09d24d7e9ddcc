"""Ends a migration at a chosen statement, as a killed process or a lost connection would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dbscale.testing import scripts


class Killed(BaseException):
    """Not an Exception: no handler of the application's may catch it and go on."""


def count(run: Callable[[], object]) -> int:
    """How many statements `run` sends."""
    with _counting(0) as seen:
        run()
    return len(seen)


def at(number: int, run: Callable[[], object]) -> None:
    """Run until statement `number` has been sent, and no further."""
    with _counting(number) as seen:
        try:
            run()
        except Killed:
            return
        except Exception:
            # What the driver says of the connection that is gone may come in place of our own word.
            if len(seen) < number:
                raise


@contextmanager
def _counting(last: int) -> Iterator[list[str]]:
    """Sees every statement of SQLAlchemy and of dbscale's own scripts; raises Killed after number `last`."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    seen: list[str] = []

    def after(_connection: Any, _cursor: Any, statement: str, _parameters: Any, _context: Any, _many: Any) -> None:
        note(statement)

    def note(statement: str) -> None:
        seen.append(statement)
        if len(seen) == last:
            raise Killed

    event.listen(Engine, "after_cursor_execute", after)
    scripts.watchers.append(note)
    try:
        yield seen
    finally:
        scripts.watchers.remove(note)
        event.remove(Engine, "after_cursor_execute", after)
