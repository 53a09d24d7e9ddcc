"""`dbscale migrate` from a libSQL server, by every way there is to it, and with everything that can be in the way."""

from __future__ import annotations

import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from dump import dump
from fix_sqld import Keys, Sqld, serve_file, websockets
from test_libsql import OWN
from test_turso import fill, migrate

START = Callable[..., Sqld]
NEW = Callable[..., str]


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dbscale.toml of this test's own, not the one of the current directory."""
    file = tmp_path / "dbscale.toml"
    file.write_text("")
    monkeypatch.setenv("DBSCALE_CONFIG", str(file))
    return file


def dbscale(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from dbscale.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


# Ways


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], int]]:
    """Puts TLS before a port of this machine: the port that speaks it. Its certificate is trusted meanwhile."""
    key, certificate = tmp_path / "tls.key", tmp_path / "tls.crt"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    subprocess.run([*command, "-keyout", key, "-out", certificate, *name], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listeners: list[socket.socket] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def serve(listener: socket.socket, port: int) -> None:
        with suppress(OSError):
            while True:
                plain, _ = listener.accept()
                with suppress(OSError):
                    client = context.wrap_socket(plain, server_side=True)
                    server = socket.create_connection(("127.0.0.1", port))
                    for end in (client, server):  # a request comes in pieces: without delay
                        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    for pair in ((client, server), (server, client)):
                        threading.Thread(target=pump, args=pair, daemon=True).start()

    def before(port: int) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threading.Thread(target=serve, args=(listener, port), daemon=True).start()
        return int(listener.getsockname()[1])

    yield before
    for listener in listeners:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize("scheme", ["libsql", "https", "wss", "libsql+tls=0", "copy", "copy over TLS"])
def test_every_scheme_gives_the_file(
    sqld: START, new_database: NEW, tmp_path: Path, tls: Callable[[int], int], scheme: str
) -> None:
    """`http` and `ws` are in test_turso. The token is wanted, and given in the ways in which URLs have it."""
    if scheme == "wss":
        websockets()
    file = serve_file(tmp_path / "served", fill)
    of_file, of_server = new_database(), new_database()
    migrate(str(file), of_file)
    keys = Keys(tmp_path)
    server = sqld("served", "--auth-jwt-key-file", str(keys.public_file))
    token = keys.token("ro")
    url, *options = {
        "libsql": lambda: (f"libsql://localhost:{tls(server.http)}?authToken={token}",),
        "https": lambda: (f"https://localhost:{tls(server.http)}/?authToken={token}",),
        "wss": lambda: (f"wss://localhost:{tls(server.hrana)}?authToken={token}",),
        "libsql+tls=0": lambda: (f"libsql://127.0.0.1:{server.http}?tls=0&authToken={token}",),
        "copy": lambda: (f"{server.url}?authToken={token}", "--copy-first"),
        "copy over TLS": lambda: (f"libsql://localhost:{tls(server.http)}?authToken={token}", "--copy-first"),
    }[scheme]()
    output = migrate(url, of_server, *options)
    assert "verified" in output
    assert token not in output
    assert dump(of_server) == dump(of_file)


# Tokens


def places(of: str) -> Iterator[str]:
    """Every text that a migration keeps in the target's catalog."""
    with psycopg.connect(of) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'dbscale'").fetchall()
        for (table,) in tables:
            yield str(connection.execute(f'SELECT t::text FROM dbscale."{table}" t'.encode()).fetchall())


@pytest.mark.parametrize("form", ["env", "authToken", "password"])
def test_a_token_is_in_no_output(  # noqa: PLR0917 - fixtures
    sqld: START, new_database: NEW, tmp_path: Path, settings: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Right or wrong, in text, JSON, plan files, the catalog, status, doctor, and in what goes wrong."""
    serve_file(tmp_path / "served", fill)
    keys = Keys(tmp_path)
    server = sqld("served", "--auth-jwt-key-file", str(keys.public_file))
    target = new_database()
    password = urlsplit(target).password
    assert password
    right, wrong = keys.token("ro"), Keys(tmp_path / "other").token()
    settings.write_text(f'[databases.turso]\nurl = "{server.url}"\ntoken = "env:TURSO_AUTH_TOKEN"\n')

    def source(token: str) -> str:
        monkeypatch.setenv("TURSO_AUTH_TOKEN", token)
        return {
            "env": "turso",
            "authToken": f"{server.url}?authToken={token}",
            "password": server.url.replace("://", f"://user:{token}@"),
        }[form]

    plan = tmp_path / "plan.json"
    every = form == "env"
    for token in (wrong, right):
        name = source(token)
        for words in (
            ("migrate", name, target, "-o", str(plan)),
            ("assess", name, "--copy-first"),
            ("migrate", name, target, "--hold-writes", "--yes"),
            ("migrate", name, target, "--yes", "--json"),
            *((("migrate", name, target, "--dry-run", "--json"), ("verify", name, target)) if every else ()),
            *((("status", target), ("doctor",)) if every else ()),
            ("doctor", name, target),
        ):
            done = dbscale(*words)
            assert "this is a bug" not in done.stderr, done.stderr
            assert token not in done.stdout + done.stderr, words
            assert password not in done.stdout + done.stderr, words
            if token == wrong and words[0] in ("migrate", "assess", "verify") and "--hold-writes" not in words:
                assert done.returncode == 3, done.stderr
                assert "token" in done.stdout + done.stderr
    assert right not in plan.read_text()
    assert all(right not in text and wrong not in text for text in places(target))
    with psycopg.connect(target) as connection:
        assert connection.execute("SELECT count(*) FROM memory").fetchone() == (300,)


# Values above the server's limit


def large(connection: sqlite3.Connection) -> None:
    connection.executescript(
        "CREATE TABLE small (id INTEGER PRIMARY KEY, v TEXT); INSERT INTO small VALUES (1, 'x');"
        "CREATE TABLE doc (a TEXT, b INTEGER, body TEXT, raw BLOB, PRIMARY KEY (a, b)) WITHOUT ROWID;"
    )
    rows = [("x", 1, "y" * 10, b"1"), ("x", 2, "é" * 3_000_000, b"2"), ("z", 3, "w", bytes(5_500_000))]
    connection.executemany("INSERT INTO doc VALUES (?, ?, ?, ?)", rows)


def test_values_above_the_servers_limit_are_named_and_copied(sqld: START, new_database: NEW, tmp_path: Path) -> None:
    serve_file(tmp_path / "served", large)
    server = sqld("served")
    target = new_database()
    output = " ".join(migrate(server.url, target, code=3).split())
    assert "body: 6,000,000 bytes in the row with a = 'x', b = 2" in output
    assert "raw: 5,500,000 bytes in the row with a = 'z', b = 3" in output
    assert "--copy-first" in output
    assert "errors.md#source-value-too-large" in output
    assert "verified" in migrate(server.url, target, "--copy-first")
    with psycopg.connect(target) as connection:
        found = connection.execute("SELECT a, b, octet_length(body), octet_length(raw) FROM doc ORDER BY b").fetchall()
    assert found == [("x", 1, 10, 1), ("x", 2, 6_000_000, 1), ("z", 3, 1, 5_500_000)]


# Servers that are away


@pytest.mark.parametrize("how", ["in SQL", "copied"])
def test_a_killed_server_and_the_same_command_again(
    sqld: START, new_database: NEW, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """kill -9 in the middle of the copy: an error with all its parts, and then the same command arrives at the file's
    rows, once each."""

    def many(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", ((i, f"row {i} " + "x" * 90) for i in range(250_000)))

    serve_file(tmp_path / "served", many)
    server = sqld("served")
    target = new_database()
    options = ["--copy-first"] if how == "copied" else []
    command = [sys.executable, "-c", "from dbscale.cli import main; main()", "migrate", server.url, target, "--yes"]
    running = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with psycopg.connect(target, autocommit=True) as connection:
        until = time.monotonic() + 60
        begun = "SELECT to_regclass('dbscale.loads') IS NOT NULL"
        while connection.execute(begun).fetchone() == (False,) and time.monotonic() < until:
            time.sleep(0.01)
        while connection.execute("SELECT count(*) FROM dbscale.loads").fetchone() == (0,):
            if running.poll() is not None or time.monotonic() > until:
                break
            time.sleep(0.01)
    server.kill()
    output, _ = running.communicate(timeout=120)
    if how == "copied":  # what was copied needs no server; that nobody wrote since cannot be told any more
        assert running.returncode == 1, output
        assert "source-changed" in output
    else:
        assert running.returncode in (3, 4), output
        assert all(part in output for part in (server.url, "try", "errors.md#")), output
        server.start()
        assert "verified" in migrate(server.url, target)
    with psycopg.connect(target) as connection:
        row = connection.execute("SELECT count(*), count(DISTINCT id), min(v), max(length(v)) FROM t").fetchone()
    assert row == (250_000, 250_000, "row 0 " + "x" * 90, 101)


class Answering:
    """A server that answers every request with one status: what stands before a libSQL server while it is away."""

    def __init__(self, status: int, text: str) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.answer = f"HTTP/1.1 {status} x\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}".encode()
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                with client, suppress(OSError):
                    client.recv(1 << 16)
                    client.sendall(self.answer)


@pytest.mark.parametrize("options", [(), ("--copy-first",)], ids=["sql", "copied"])
@pytest.mark.parametrize("status", [429, 502, 500, 200, 0])
def test_what_is_no_libsql_server_just_now(new_database: NEW, status: int, options: tuple[str, ...]) -> None:
    """What is, where, what to do, where to read on; exit status 3, soon, and no traceback."""
    standing = Answering(status, "<html>upstream is away</html>") if status else None
    url = standing.url if standing else "http://127.0.0.1:9"
    began = time.monotonic()
    done = dbscale("assess", url, *options)
    assert done.returncode == 3, done.stderr
    assert "bug" not in done.stderr
    assert url in done.stderr
    assert "try" in done.stderr
    assert "docs/errors.md#" in done.stderr
    assert time.monotonic() - began < 40


# What is libSQL's own


VECTORS = (
    """CREATE TABLE v (id INTEGER PRIMARY KEY, f32 F32_BLOB(3), f64 FLOAT64(2), f16 F16_BLOB(2), fb16 FLOATB16(2),
    f8 F8_BLOB(4), f1 F1BIT_BLOB(8))""",
    """INSERT INTO v VALUES (1, vector32('[1, 2.5, -3]'), vector64('[0.1, -1e300]'), vector16('[1, -0.5]'),
    vectorb16('[1, -2]'), vector8('[0, 1, 2, 3]'), vector1bit('[1, -1, 1, 1, -1, -1, 1, -1]')),
    (2, NULL, NULL, NULL, NULL, NULL, NULL)""",
    "CREATE INDEX v_f32 ON v (libsql_vector_idx(f32, 'metric=l2'))",
)


@pytest.mark.parametrize("way", ["http", "file", "copied"])
def test_what_is_libsqls_own_arrives(sqld: START, new_database: NEW, way: str) -> None:
    """Vectors of every kind, RANDOM ROWID, rows that ALTER COLUMN left, and the bookkeeping that stays behind."""
    server = sqld()
    server.run(*OWN, *VECTORS, "CREATE TABLE _litestream_seq (id)", "CREATE TABLE turso_cdc (id)")
    (before,) = server.run("SELECT hex(f16), hex(fb16), hex(f8), hex(f1) FROM v WHERE id = 1")
    target = new_database()
    source = server.url
    if way == "file":
        server.stop()
        source = str(server.home / "dbs" / "default" / "data")
    output = migrate(source, target, *(["--copy-first"] if way == "copied" else []))
    assert "verified" in output
    assert "note: _litestream_seq: it is the bookkeeping" in output
    assert "note: turso_cdc: it is the bookkeeping" in output
    with psycopg.connect(target) as connection:
        pgvector = connection.execute("SELECT count(*) FROM pg_extension WHERE extname = 'vector'").fetchone() == (1,)
        tables = {name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
        assert tables == {"random", "embedding", "parent", "altered", "later", "v"}
        assert connection.execute("SELECT id, v FROM random ORDER BY id").fetchall() == [(1, "a"), (2, "b")]
        assert connection.execute("SELECT id, a FROM altered ORDER BY id").fetchall() == [(1, None), (2, "x")]
        row = connection.execute("SELECT f32::text, f64, f16, fb16, f8, f1 FROM v WHERE id = 1").fetchone()
        assert row is not None
        assert row[0] == "[1,2.5,-3]" if pgvector else row[0] == "{1,2.5,-3}"
        assert row[1] == [0.1, -1e300]
        found = [bytes.fromhex(cell["value"]) for cell in before["rows"][0]]
        assert [bytes(value) for value in row[2:]] == found
        assert "v_f32" in output
        assert "index-left-out" in output
        nulls = connection.execute("SELECT num_nulls(f32, f64, f16, fb16, f8, f1) FROM v WHERE id = 2").fetchone()
        assert nulls == (6,)


# Better Auth, into the schema that an ORM made for PostgreSQL


WORDS = {
    "Drizzle": ("email_verified", "created_at", "expires_at", "user_id", "account_id", "rate_limit", "last_request"),
    "Kysely": ("emailVerified", "createdAt", "expiresAt", "userId", "accountId", "rateLimit", "lastRequest"),
}
MOMENT = "2026-11-21T02:01:04.193Z"
MILLISECONDS = 1795226464193


def better_auth(adapter: str, *, postgres: bool) -> str:
    """The tables as the adapter declares them: Drizzle's CLI, or Better Auth's own by Kysely."""
    verified, created, expires, user, account, limit, last = WORDS[adapter]
    if postgres:
        flag, time = "boolean NOT NULL", "timestamp" if adapter == "Drizzle" else "timestamptz"
    else:
        flag, time = "integer NOT NULL", "integer" if adapter == "Drizzle" else "date"
    count, last_type = ("integer", "bigint") if postgres else ("integer", "integer")
    return f"""
CREATE TABLE "user" (id text PRIMARY KEY NOT NULL, name text NOT NULL, email text NOT NULL UNIQUE,
  "{verified}" {flag}, image text, "{created}" {time} NOT NULL);
CREATE TABLE session (id text PRIMARY KEY NOT NULL, "{expires}" {time} NOT NULL, token text NOT NULL UNIQUE,
  "{created}" {time} NOT NULL, "{user}" text NOT NULL REFERENCES "user" (id) ON DELETE CASCADE);
CREATE TABLE account (id text PRIMARY KEY NOT NULL, "{account}" text NOT NULL,
  "{user}" text NOT NULL REFERENCES "user" (id) ON DELETE CASCADE, password text, "{expires}" {time});
CREATE TABLE verification (id text PRIMARY KEY NOT NULL, identifier text NOT NULL, value text NOT NULL,
  "{expires}" {time} NOT NULL);
CREATE TABLE "{limit}" (id text PRIMARY KEY NOT NULL, key text, count {count}, "{last}" {last_type});
"""


@pytest.mark.parametrize("adapter", ["Drizzle", "Kysely"])
def test_better_auth_into_the_schema_that_its_adapter_made(
    sqld: START, new_database: NEW, tmp_path: Path, adapter: str
) -> None:
    """Every value, by both adapters: a session that expired an hour off would log everybody out."""
    at: Any = MILLISECONDS if adapter == "Drizzle" else MOMENT

    def make(connection: sqlite3.Connection) -> None:
        connection.executescript(better_auth(adapter, postgres=False))
        if adapter == "Drizzle":
            connection.execute(
                "CREATE TABLE __drizzle_migrations (id SERIAL PRIMARY KEY, hash text, created_at numeric)"
            )
            connection.execute("INSERT INTO __drizzle_migrations VALUES (NULL, 'abc', 1795226464193)")
        for i in range(50):
            connection.execute(
                'INSERT INTO "user" VALUES (?, ?, ?, ?, NULL, ?)', (f"u{i}", "é 🌾", f"{i}@x", i % 2, at)
            )
            connection.execute("INSERT INTO session VALUES (?, ?, ?, ?, ?)", (f"s{i}", at, f"t{i}", at, f"u{i}"))
            connection.execute("INSERT INTO account VALUES (?, 'a', ?, 'salt:hash', NULL)", (f"a{i}", f"u{i}"))
            connection.execute("INSERT INTO verification VALUES (?, 'x', 'y', ?)", (f"v{i}", at))
            limit = WORDS[adapter][5]
            connection.execute(f"INSERT INTO \"{limit}\" VALUES (?, 'k', ?, ?)", (f"r{i}", i, MILLISECONDS + i))

    serve_file(tmp_path / "served", make)
    server = sqld("served")
    target = new_database()
    with psycopg.connect(target, autocommit=True) as connection:
        connection.execute(better_auth(adapter, postgres=True).encode())
    assert "verified" in migrate(server.url, target, "--into-existing")
    verified, created, expires, _, _, limit, last = WORDS[adapter]
    utc = "" if adapter == "Drizzle" else " AT TIME ZONE 'UTC'"
    with psycopg.connect(target) as connection:
        connection.execute("SET TimeZone = 'Asia/Seoul'")
        moments = {
            str(row[0])
            for query in (
                f'SELECT "{created}"{utc} FROM "user"',
                f'SELECT "{expires}"{utc} FROM session UNION SELECT "{created}"{utc} FROM session',
                f'SELECT "{expires}"{utc} FROM verification',
            )
            for row in connection.execute(query.encode())
        }
        assert moments == {"2026-11-21 02:01:04.193000"}
        users = connection.execute(f'SELECT id, name, "{verified}" FROM "user"'.encode()).fetchall()
        assert sorted(users) == sorted((f"u{i}", "é 🌾", i % 2 == 1) for i in range(50))
        limits = connection.execute(f'SELECT id, count, "{last}" FROM "{limit}"'.encode()).fetchall()
        assert sorted(limits) == sorted((f"r{i}", i, MILLISECONDS + i) for i in range(50))
        accounts = connection.execute(f'SELECT password, "{expires}" FROM account'.encode()).fetchall()
        assert accounts == [("salt:hash", None)] * 50
