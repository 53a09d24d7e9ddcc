"""`dbscale migrate` from a libSQL server gives what it gives from the same data as a file."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dump import dump
from fix_sqld import Keys, Sqld, serve_file, websockets

# As Drizzle declares its columns, with the tables of Better Auth
DRIZZLE = """
CREATE TABLE user (id text PRIMARY KEY NOT NULL, name text NOT NULL, email text NOT NULL UNIQUE,
  email_verified integer DEFAULT false NOT NULL, image text,
  created_at integer DEFAULT (cast(unixepoch('subsecond') * 1000 as integer)) NOT NULL, updated_at integer NOT NULL);
CREATE TABLE session (id text PRIMARY KEY NOT NULL, expires_at integer NOT NULL, token text NOT NULL UNIQUE,
  user_id text NOT NULL, FOREIGN KEY (user_id) REFERENCES user(id) ON UPDATE no action ON DELETE cascade);
CREATE TABLE account (id text PRIMARY KEY NOT NULL, account_id text NOT NULL, provider_id text NOT NULL,
  user_id text NOT NULL REFERENCES user(id), password text, created_at integer NOT NULL);
CREATE TABLE verification (id text PRIMARY KEY NOT NULL, identifier text NOT NULL, value text NOT NULL,
  expires_at integer NOT NULL);
CREATE TABLE rate_limit (id text PRIMARY KEY NOT NULL, key text, count integer, last_request integer);
CREATE TABLE memory (id integer PRIMARY KEY AUTOINCREMENT NOT NULL, user_id text REFERENCES user(id), body text,
  tags text, score real, weight numeric, raw blob, remembered_at integer DEFAULT (unixepoch()));
CREATE TABLE pair (a text NOT NULL, b integer NOT NULL, note text, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE INDEX session_user ON session (user_id);
"""


def fill(connection: sqlite3.Connection) -> None:
    connection.executescript(DRIZZLE)
    for i in range(300):
        at = 1_706_933_106_789 + i * 86_400_000
        connection.execute(
            "INSERT INTO user VALUES (?, ?, ?, ?, ?, ?, ?)",
            (f"{i:032x}", f"이름 {i} 'quoted' \\ \u2028 🌾", f"u{i}@x.org", i % 2, None, at, at + 5),
        )
        connection.execute("INSERT INTO session VALUES (?, ?, ?, ?)", (f"s{i}", at + 999, f"t{i}", f"{i:032x}"))
        connection.execute("INSERT INTO rate_limit VALUES (?, ?, ?, ?)", (f"r{i}", f"k{i}", i, at))
        connection.execute(
            "INSERT INTO memory (user_id, body, tags, score, weight, raw, remembered_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                f"{i:032x}" if i % 3 else None,
                "line\r\nend\ttab" * (i % 50),
                json.dumps({"n": i, "é": [None, True, 1.5]}, ensure_ascii=False),
                [0.1, -0.0, 1e-300, 1e300, float("inf"), float("-inf"), 2.0 / 3][i % 7],
                [i, i / 4][i % 2],
                bytes([i % 256, 0, 255]) * (i % 9),
                1_706_933_106 + i,
            ),
        )
        connection.execute("INSERT INTO pair VALUES (?, ?, ?)", (f"p{i // 3}", i, None if i % 5 else ""))


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dbscale.toml of this test's own, not the one of the current directory."""
    file = tmp_path / "dbscale.toml"
    file.write_text("")
    monkeypatch.setenv("DBSCALE_CONFIG", str(file))
    return file


def migrate(source: str, target: str, *options: str, code: int = 0) -> str:
    """Run the command; what it says on stdout and stderr."""
    command = [
        sys.executable,
        "-c",
        "from dbscale.cli import main; main()",
        "migrate",
        source,
        target,
        "--yes",
        *options,
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.mark.parametrize("way", ["http", "ws"])
def test_a_server_and_its_file_give_equal_databases(
    sqld: Callable[..., Sqld], new_database: Callable[..., str], tmp_path: Path, way: str
) -> None:
    if way == "ws":
        websockets()
    file = shutil.copy(serve_file(tmp_path / "served", fill), tmp_path / "app.db")
    server = sqld("served")
    of_file, of_server = new_database(), new_database()
    migrate(str(file), of_file)
    output = migrate(server.url if way == "http" else f"ws://127.0.0.1:{server.hrana}", of_server)
    assert "verified" in output
    found = dump(of_server)
    assert found == dump(of_file)
    with psycopg.connect(of_server) as connection:
        types: dict[Any, Any] = dict(
            connection.execute(
                "SELECT attrelid::regclass || '.' || attname, format_type(atttypid, atttypmod) FROM pg_attribute"
                " WHERE attnum > 0 AND attrelid IN ('\"user\"'::regclass, 'session'::regclass, 'rate_limit'::regclass)"
            ).fetchall()
        )
    assert types['"user".email_verified'] == "boolean"
    assert types['"user".created_at'] == types["session.expires_at"] == "timestamp with time zone"
    assert types["rate_limit.last_request"] == "bigint"


def test_the_marketplace_from_a_read_only_token(
    sqld: Callable[..., Sqld],
    new_database: Callable[..., str],
    marketplace: Path,
    settings: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = settings.parent
    with sqlite3.connect(marketplace) as connection:
        spot = serve_file(home / "served", connection.backup)
    assert spot.stat().st_size
    keys = Keys(home)
    server = sqld("served", "--auth-jwt-key-file", str(keys.public_file))
    of_file, of_server = new_database(), new_database()
    migrate(str(marketplace), of_file)
    settings.write_text(f'[databases.turso]\nurl = "{server.url}"\ntoken = "env:TURSO_AUTH_TOKEN"\n')
    token = keys.token("ro")
    monkeypatch.setenv("TURSO_AUTH_TOKEN", token)
    output = migrate("turso", of_server)
    assert "verified" in output
    assert token not in output
    assert dump(of_server) == dump(of_file)
    with psycopg.connect(of_server) as connection:
        kept = connection.execute("SELECT runs::text FROM dbscale.runs").fetchall()
    assert token not in str(kept)


def test_a_wrong_token_says_so(sqld: Callable[..., Sqld], new_database: Callable[..., str], tmp_path: Path) -> None:
    server = sqld("locked", "--auth-jwt-key-file", str(Keys(tmp_path).public_file))
    token = Keys(tmp_path / "other").token()
    output = migrate(f"{server.url}?authToken={token}", new_database(), code=3)
    assert "does not accept the token" in output
    assert token not in output


def test_writes_are_held_on_request(
    sqld: Callable[..., Sqld],
    new_database: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serve_file(tmp_path / "served", fill)
    server = sqld("served")
    assert "SQLD_ADMIN_URL" in migrate(server.url, new_database(), "--hold-writes", code=2)
    monkeypatch.setenv("SQLD_ADMIN_URL", f"http://127.0.0.1:{server.admin}")
    assert "verified" in migrate(server.url, new_database(), "--hold-writes")
    server.run("DELETE FROM pair")
