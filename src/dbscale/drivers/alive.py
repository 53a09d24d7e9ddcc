"""Streams to a server that drops idle ones, used now and then by a thread of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

PING_SECONDS = 4.0
"""A stream is used at least so often: after ten idle seconds the server drops it."""

_GRACE_SECONDS = 2.0


class Idle(Protocol):
    def keep_alive(self) -> None:
        """Use the stream, if nobody did for `PING_SECONDS`."""

    def interrupt(self) -> None:
        """Give up what the stream waits for."""


@contextmanager
def kept_alive(streams: Sequence[Idle]) -> Iterator[None]:
    """Use the streams from a thread while nobody else does."""
    done = threading.Event()

    def ping() -> None:
        while not done.wait(PING_SECONDS / 4):
            for stream in streams:
                stream.keep_alive()

    thread = threading.Thread(target=ping, name="libsql keep-alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(_GRACE_SECONDS)
        if thread.is_alive():  # a server that stalls
            for stream in streams:
                stream.interrupt()
            thread.join()
