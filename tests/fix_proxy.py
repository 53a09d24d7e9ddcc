"""A TCP proxy in front of a server, that can cut, stall and refuse."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest


class Proxy:
    """Forwards connections to the server of `url`; its own `url` leads through it. Starts at once."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname or "127.0.0.1", parts.port or 5432)
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]
        account, at, _ = parts.netloc.rpartition("@")
        self.url = parts._replace(netloc=f"{account}{at}127.0.0.1:{self.port}").geturl()
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._left: int | None = None
        self.connections = 0
        """How many were accepted."""
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Reset every connection; new ones are accepted."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    # Linger 0 makes close() send RST, as a lost machine's successor would.
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RDWR)
                with suppress(OSError):
                    end.close()

    def cut_after(self, sent: int) -> None:
        """Cut every connection once clients have sent `sent` more bytes, all together."""
        with self._lock:
            self._left = sent

    def stall(self) -> None:
        """Forward nothing, and close nothing: a network that swallows packets."""
        self._flowing.clear()

    def refuse(self) -> None:
        """Cut, and refuse new connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def resume(self) -> None:
        """Work again, on the same port."""
        self._flowing.set()
        if self._listener.fileno() == -1:
            self._listener = self._listen(self.port)
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        self._flowing.set()
        self.refuse()

    @staticmethod
    def _listen(port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._server)
            except OSError:
                client.close()
                continue
            self.connections += 1
            with self._lock:
                self._pairs.append((client, server))
            for source, target, counted in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, target, counted), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                self._flowing.wait()
                if counted and self._spent(len(content)):
                    self.cut()
                    return
                target.sendall(content)
        for end, how in ((source, socket.SHUT_RD), (target, socket.SHUT_WR)):
            with suppress(OSError):
                end.shutdown(how)

    def _spent(self, count: int) -> bool:
        with self._lock:
            if self._left is None:
                return False
            self._left -= count
            if self._left > 0:
                return False
            self._left = None
            return True


@pytest.fixture
def proxy() -> Iterator[Callable[[str], Proxy]]:
    """`proxy(url)` puts a Proxy in front of the server of `url`; `proxy(url).url` leads through it."""
    made: list[Proxy] = []

    def through(url: str) -> Proxy:
        made.append(Proxy(url))
        return made[-1]

    yield through
    for each in made:
        each.close()
