"""Ports of this machine for servers of dbscale's own."""

from __future__ import annotations

import socket
from collections.abc import Container

from dbscale.errors import Missing

FIRST, COUNT = 15432, 4000
"""Below the range from which systems draw the ports of outgoing connections, so that a port stays free."""


def free(start: int, taken: Container[int] = ()) -> int:
    """A port that nobody listens on and that is not `taken`; the search begins at `start`. Missing without one."""
    for number in range(COUNT):
        port = FIRST + (start + number) % COUNT
        if port not in taken and is_free(port):
            return port
    raise Missing(f"no free port from {FIRST} to {FIRST + COUNT - 1}", where="127.0.0.1")


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1 there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
