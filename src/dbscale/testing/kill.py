"""Watches a migration's statements, and ends it at a chosen one, as a killed process or a lost connection would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dbscale.testing import scripts

Ask = Callable[..., list[Any]]
Watcher = Callable[[str, Ask], None]


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
    """Sees every statement; raises Killed after number `last`."""
    seen: list[str] = []

    def note(statement: str, _ask: Ask) -> None:
        seen.append(statement)
        if len(seen) == last:
            raise Killed

    with watching(note):
        yield seen


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Calls `watcher` after every statement of SQLAlchemy and of dbscale's own scripts.

    It gets the statement, and a function that asks the same session something: SQL with %s, and its values.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    asking = False

    def after(connection: Any, _cursor: Any, statement: str, _parameters: Any, _context: Any, _many: Any) -> None:
        nonlocal asking

        def ask(sql: str, *values: Any) -> list[Any]:
            nonlocal asking
            asking = True
            try:
                return list(connection.exec_driver_sql(_numbered(sql, connection), tuple(values)).fetchall())
            finally:
                asking = False

        if not asking:
            watcher(statement, ask)

    def script(statement: str, connection: Any) -> None:
        watcher(statement, lambda sql, *values: list(connection.execute(sql, values).fetchall()))

    event.listen(Engine, "after_cursor_execute", after)
    scripts.watchers.append(script)
    try:
        yield
    finally:
        scripts.watchers.remove(script)
        event.remove(Engine, "after_cursor_execute", after)


def _numbered(sql: str, connection: Any) -> str:
    """The SQL with the driver's own placeholders."""
    if connection.dialect.paramstyle != "numeric_dollar":
        return sql
    parts = sql.split("%s")
    return "".join(part + (f"${place}" if place < len(parts) else "") for place, part in enumerate(parts, 1))
