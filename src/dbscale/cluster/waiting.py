"""Waiting, in a thread or in an event loop: the code between is the same for both (SQLAlchemy's greenlets)."""

from __future__ import annotations

import time
from collections.abc import Callable


def sleep(kind: str, seconds: float) -> None:
    """Pause; for pools of the kind `async`, without holding up the event loop."""
    if kind != "async":
        time.sleep(seconds)
        return
    import asyncio

    from sqlalchemy.util import await_only

    await_only(asyncio.sleep(seconds))


def outside(kind: str, function: Callable[[], None]) -> None:
    """Run what blocks; for pools of the kind `async` in a thread."""
    if kind != "async":
        function()
        return
    import asyncio

    from sqlalchemy.util import await_only

    await_only(asyncio.to_thread(function))
