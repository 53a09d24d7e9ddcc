"""A stand-in for Turso Cloud: its platform API as the documentation has it, and a real sqld for each database.

Programs under test see the true names and TLS: `run` and `start` give them a resolver that leads `*.turso.io` and
`api.turso.tech` to one port here, which tells the hosts apart by the name that TLS asks for. It proves what dbscale
sends and does, and nothing about Turso Cloud itself.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from fix_sqld import Keys, Sqld, serve_file

ORGANIZATION, SECRET = "me", "platform-secret"
_PROGRAM = """
import socket
there = socket.getaddrinfo
def getaddrinfo(host, port, *rest, **more):
    if str(host).endswith((".turso.io", ".turso.tech")):
        host, port = "127.0.0.1", {port}
    return there(host, port, *rest, **more)
socket.getaddrinfo = getaddrinfo
from dbscale.cli import main
main()
"""


class Cloud:
    """Databases by name, in the organization `me`; `shop` is there from the beginning."""

    def __init__(self, home: Path, make: Callable[[sqlite3.Connection], None]) -> None:
        self.home = home
        self.keys = Keys(home)
        self.databases: dict[str, Sqld] = {}
        self.given: list[str] = []
        """Tokens of databases, made on request."""
        self.listed: list[str] = []
        """Names that are listed beside those of `databases`."""
        self.seen: list[tuple[str, str, Any]] = []
        self.refuse: dict[tuple[str, str], tuple[int, str]] = {}
        """By method and the path's last word: the status and the body to answer with instead."""
        self.branched: Callable[[], None] = lambda: None
        """Called when a branch has been made."""
        self.empty = False
        """Branches are made without their seed."""
        self.hold_after: int | None = None
        """Bytes that branches may send, all together, before everything stands still."""
        self.held, self._going = threading.Event(), threading.Event()
        serve_file(home / "shop", make)
        self._serve("shop")
        cloud = self

        class Handler(_Platform):
            of = cloud

        self._api = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._context = _certified(home)
        threading.Thread(target=self._api.serve_forever, daemon=True).start()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def branches(self) -> list[str]:
        return [name for name in self.databases if name != "shop"]

    @property
    def tokens(self) -> list[str]:
        """Every secret that must be in no output."""
        return [SECRET, os.environ["TURSO_AUTH_TOKEN"], *self.given]

    def close(self) -> None:
        self._going.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._api.shutdown()
        self._api.server_close()
        for server in self.databases.values():
            server.stop()

    def release(self) -> None:
        """Let held branches go on."""
        self.hold_after = None
        self._going.set()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The command line, in a process of its own."""
        command = [sys.executable, "-c", _PROGRAM.format(port=self.port), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *arguments: str, code: int = 0) -> str:
        """What it says on stdout and stderr."""
        running = self.start(*arguments)
        out, err = running.communicate(timeout=180)
        assert running.returncode == code, out + err
        for token in self.tokens:
            assert token not in out + err
        return out + err

    def _serve(self, name: str) -> None:
        self.databases[name] = Sqld(self.home / name, ("--auth-jwt-key-file", str(self.keys.public_file))).start()

    def branch(self, name: str, of: str) -> None:
        """A new database with the rows of another."""
        there = self.home / of / "dbs" / "default" / "data"

        def fill(connection: sqlite3.Connection) -> None:
            with closing(sqlite3.connect(f"file:{there}?mode=ro", uri=True)) as source:
                source.backup(connection)

        serve_file(self.home / name, (lambda _: None) if self.empty else fill)
        self._serve(name)
        self.branched()

    def write(self, *statements: str) -> None:
        """Write to `shop`."""
        self.databases["shop"].run(*statements, token=self.keys.token())

    def destroy(self, name: str) -> bool:
        server = self.databases.pop(name, None)
        if server:
            server.stop()
        return server is not None

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                threading.Thread(target=self._connected, args=(plain,), daemon=True).start()

    def _connected(self, plain: socket.socket) -> None:
        with suppress(OSError):
            client = self._context.wrap_socket(plain, server_side=True)
            host: str = client.asked  # type: ignore[attr-defined]
            server = self.databases.get(host.removesuffix(f"-{ORGANIZATION}.turso.io"))
            if host == "api.turso.tech":
                port = self._api.server_address[1]
            elif server:
                port = server.http
            else:
                client.close()
                return
            counted = server is not None and server is not self.databases["shop"]
            there = socket.create_connection(("127.0.0.1", port))
            for each in (client, there):  # a request comes in pieces: without delay
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, target, count in ((client, there, False), (there, client, counted)):
                threading.Thread(target=self._pump, args=(source, target, count), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with suppress(OSError, ValueError):
            while data := source.recv(1 << 16):
                if counted and self.hold_after is not None:
                    self.hold_after -= len(data)
                    if self.hold_after < 0:
                        self.held.set()
                        self._going.wait()
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class _Platform(BaseHTTPRequestHandler):
    of: Cloud

    def _do(self) -> None:
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        content = json.loads(self.rfile.read(length)) if length else None
        self.of.seen.append((self.command, self.path, content))
        head, *rest = url.path.removeprefix(f"/v1/organizations/{ORGANIZATION}/").split("/")
        refused = self.of.refuse.get((self.command, url.path.rpartition("/")[2] if rest[1:] or not rest else "NAME"))
        if self.headers["Authorization"] != f"Bearer {SECRET}" or head != "databases":
            self._answer(401, {"error": "unauthorized"})
        elif refused:
            self._answer(*refused)
        else:
            self._answer(*self._done(rest, content, parse_qs(url.query)))

    def do_GET(self) -> None:
        self._do()

    def do_POST(self) -> None:
        self._do()

    def do_DELETE(self) -> None:
        self._do()

    def _done(self, rest: list[str], content: Any, options: dict[str, list[str]]) -> tuple[int, Any]:
        cloud = self.of
        if (self.command, len(rest)) == ("GET", 0):
            return 200, {"databases": [_entry(name) for name in (*cloud.databases, *cloud.listed)]}
        if (self.command, len(rest)) == ("POST", 0):
            if (
                content["group"] != "default"
                or content["seed"]["type"] != "database"
                or content["name"] in cloud.databases
            ):
                return 400, {"error": "no such group, no such seed, or the name is taken"}
            cloud.branch(content["name"], content["seed"]["name"])
            return 200, {"database": _entry(content["name"])}
        if rest[0] not in cloud.databases and rest[0] not in cloud.listed:
            return 404, {"error": f"could not find database {rest[0]}: record not found"}
        if (self.command, len(rest)) == ("DELETE", 1):
            cloud.destroy(rest[0])
            cloud.listed = [name for name in cloud.listed if name != rest[0]]
            return 200, {"database": rest[0]}
        if self.command == "POST" and rest[1:] == ["auth", "tokens"]:
            cloud.given.append(cloud.keys.token("ro" if options["authorization"] == ["read-only"] else "rw"))
            return 200, {"jwt": cloud.given[-1]}
        if self.command == "GET" and rest[1:] == ["configuration"]:
            return 200, {"block_writes": False}
        return 404, {"error": "not found"}

    def _answer(self, status: int, content: Any) -> None:
        body = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Silent."""


def _entry(name: str) -> dict[str, Any]:
    host = f"{name}-{ORGANIZATION}.turso.io"
    return {"Name": name, "DbId": f"id of {name}", "Hostname": host, "group": "default"}


def _certified(home: Path) -> ssl.SSLContext:
    """A TLS context for the names, with a certificate of its own (`cloud.crt`); sockets keep the name asked for."""
    key, certificate = home / "cloud.key", home / "cloud.crt"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = "subjectAltName=DNS:api.turso.tech,DNS:*.turso.io"
    options = ["-subj", "/CN=cloud", "-addext", names, "-days", "2", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *options], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def named(connection: Any, name: str | None, _: ssl.SSLContext) -> None:
        connection.asked = name or ""

    context.sni_callback = named
    return context


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Cloud]]:
    """`cloud(make)` starts one whose database `shop` is filled by `make`; the environment has all that names it."""
    running: list[Cloud] = []

    def start(make: Callable[[sqlite3.Connection], None]) -> Cloud:
        home = tmp_path / "cloud"
        home.mkdir()
        made = Cloud(home, make)
        running.append(made)
        settings = home / "dbscale.toml"
        settings.write_text(
            '[databases.turso]\nurl = "libsql://shop-me.turso.io"\ntoken = "env:TURSO_AUTH_TOKEN"\n'
            'organization = "me"\nadmin_token = "env:PLATFORM_TOKEN"\n'
        )
        monkeypatch.setenv("DBSCALE_CONFIG", str(settings))
        monkeypatch.setenv("TURSO_AUTH_TOKEN", made.keys.token("ro"))
        monkeypatch.setenv("PLATFORM_TOKEN", SECRET)
        monkeypatch.setenv("SSL_CERT_FILE", str(home / "cloud.crt"))
        return made

    yield start
    for each in running:
        each.close()
