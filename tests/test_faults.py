"""Bad input and faults: each a clear error in four parts, its exit status, and nothing half-done that stays."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

NOBODY = "postgresql://nobody:wrong@127.0.0.1:1/nowhere"


def dbscale(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """One command line, in a process of its own."""
    command = [sys.executable, "-m", "dbscale.cli", *arguments]
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**surroundings, **environment},
        cwd=tempfile.gettempdir(),
    )


def refused(result: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """The error has its four parts and these words, and the exit status is `status`."""
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    assert "error: " in result.stderr
    assert "  try  " in result.stderr
    assert "  see  docs/errors.md#" in result.stderr
    for word in words:
        assert word in result.stderr, result.stderr
    assert result.stdout == ""


def tables(url: str) -> int:
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace")
        return int((found.fetchone() or (0,))[0])


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "small.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)")
        connection.executemany("INSERT INTO t (name) VALUES (?)", [("a",), ("b",)])
    return file


def test_no_such_file(database: str) -> None:
    refused(dbscale("migrate", "/nowhere/app.db", database), 3, "/nowhere/app.db")


def test_a_directory(tmp_path: Path, database: str) -> None:
    refused(dbscale("migrate", str(tmp_path), database), 3, "directory")


def test_not_a_database(tmp_path: Path, database: str) -> None:
    file = tmp_path / "letter.db"
    file.write_text("Dear SQLite, " * 500)
    refused(dbscale("migrate", str(file), database), 3, "not a SQLite database")
    assert tables(database) == 0


def test_encrypted(tmp_path: Path, database: str) -> None:
    file = tmp_path / "secret.db"
    file.write_bytes(os.urandom(8192))
    refused(dbscale("migrate", str(file), database), 3, "encrypt")


def test_truncated(marketplace: Path, database: str) -> None:
    os.truncate(marketplace, marketplace.stat().st_size // 2)
    result = dbscale("migrate", str(marketplace), database)
    refused(result, 3)
    assert tables(database) == 0


def test_empty_file_is_an_empty_database(tmp_path: Path, database: str) -> None:
    file = tmp_path / "empty.db"
    file.touch()
    result = dbscale("migrate", str(file), database)
    assert result.returncode == 0, result.stderr


@pytest.mark.one_server  # ten seconds of waiting
def test_locked_by_a_writer(small: Path, database: str) -> None:
    writer = sqlite3.connect(small, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    try:
        refused(dbscale("migrate", str(small), database), 3, "lock")
    finally:
        writer.close()


def test_rows_in_the_wal_arrive(small: Path, database: str) -> None:
    writer = sqlite3.connect(small)
    writer.execute("PRAGMA journal_mode = wal")
    writer.execute("INSERT INTO t (name) VALUES ('in the wal')")
    writer.commit()
    result = dbscale("migrate", str(small), database)
    writer.close()
    assert result.returncode == 0, result.stderr
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (3,)


def test_target_unreachable(small: Path) -> None:
    result = dbscale("migrate", str(small), NOBODY)
    refused(result, 3, "127.0.0.1:1")
    assert "wrong" not in result.stderr


def test_wrong_password(small: Path, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DO $$ BEGIN CREATE ROLE careful LOGIN PASSWORD 'right'; EXCEPTION WHEN OTHERS THEN END $$")
    url = urlsplit(database)._replace(netloc=f"careful:not-it@127.0.0.1:{urlsplit(database).port}").geturl()
    result = dbscale("migrate", str(small), url)
    if result.returncode == 0:
        pytest.skip("this server asks for no passwords")
    refused(result, 3, "password")
    assert "not-it" not in result.stderr


@pytest.mark.parametrize("command", [["migrate"], ["verify"], ["status"]])
def test_an_at_in_a_password_that_is_not_escaped(small: Path, command: list[str]) -> None:
    source = [] if command == ["status"] else [str(small)]
    result = dbscale(*command, *source, "postgresql://u:hunter@two@127.0.0.1:1/x")
    refused(result, 2, "there is an @ in the user or the password", "%40")
    assert "hunter" not in result.stderr
    assert "two" not in result.stderr


def test_no_right_to_create(small: Path, database: str) -> None:
    role = f"reader_{os.getpid()}"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'r'")
        connection.execute("REVOKE CREATE ON SCHEMA public FROM public")
        try:
            url = urlsplit(database)._replace(netloc=f"{role}:r@127.0.0.1:{urlsplit(database).port}").geturl()
            refused(dbscale("migrate", str(small), url), 3, "create tables", "GRANT")
        finally:
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_state_schema_for_a_role_that_may_not_create_one(small: Path, database: str) -> None:
    role = f"tenant_{os.getpid()}"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'r'")
        connection.execute(f"CREATE SCHEMA mine AUTHORIZATION {role}")
        try:
            url = urlsplit(database)._replace(netloc=f"{role}:r@127.0.0.1:{urlsplit(database).port}").geturl()
            refused(dbscale("migrate", str(small), url, "--schema", "mine"), 3, "--state-schema")
            result = dbscale("migrate", str(small), url, "--schema", "mine", "--state-schema", "mine")
            assert result.returncode == 0, result.stderr
        finally:
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_target_not_empty(small: Path, database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE t (mine int)")
    refused(dbscale("migrate", str(small), database), 2, "there already", "--into-existing")
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_source_and_target_swapped(small: Path, database: str) -> None:
    refused(dbscale("migrate", database, str(small)), 2, "PostgreSQL")


def test_unknown_name(small: Path) -> None:
    refused(
        dbscale("migrate", str(small), "postgrse", DBSCALE_CONFIG=str(Path(__file__).parent.parent / "dbscale.toml")),
        2,
        "postgres",
    )


def test_unknown_table(small: Path, database: str) -> None:
    refused(dbscale("migrate", str(small), database, "--only", "users"), 2, "--only", "t")


def test_nothing_is_asked_without_a_terminal(small: Path, database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE t (id bigint PRIMARY KEY, name text)")
        connection.execute("INSERT INTO t VALUES (9, 'mine')")
    refused(dbscale("migrate", str(small), database, "--into-existing", "--truncate"), 2, "--yes")


@pytest.fixture
def full_disk(server: object, server_root: Path) -> Iterator[Path]:
    """A directory on a file system of 6 MB, which the server's account may write to."""
    place = server_root / "full"
    place.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("mounting a small file system takes root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.embedded  # the small file system has to be where the server sees it
def test_disk_full(full_disk: Path, marketplace: Path, new_database: Callable[..., str]) -> None:
    """The run stops with exit status 4, and goes on once there is room."""
    url = new_database()
    name = urlsplit(url).path[1:]
    with psycopg.connect(url, autocommit=True) as connection:
        owner = connection.execute("SELECT setting FROM pg_settings WHERE name = 'data_directory'").fetchone()
        assert owner
        stat = Path(owner[0]).stat()
        os.chown(full_disk, stat.st_uid, stat.st_gid)
        connection.execute(f"CREATE TABLESPACE small_{os.getpid()} LOCATION '{full_disk}'")
        connection.execute(f'ALTER DATABASE "{name}" SET default_tablespace = small_{os.getpid()}')
        connection.execute(f"SET default_tablespace = small_{os.getpid()}")
        connection.execute("CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 4900)")
    try:
        refused(dbscale("migrate", str(marketplace), url), 4, "No space left")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f'ALTER DATABASE "{name}" RESET default_tablespace')
            connection.execute("DROP TABLE filler")
            connection.execute(
                f"DO $$ DECLARE t record; BEGIN FOR t IN SELECT oid::regclass AS c FROM pg_class WHERE relkind = 'r'"
                f" AND reltablespace = (SELECT oid FROM pg_tablespace WHERE spcname = 'small_{os.getpid()}')"
                f" LOOP EXECUTE format('ALTER TABLE %s SET TABLESPACE pg_default', t.c); END LOOP; END $$"
            )
        again = dbscale("migrate", str(marketplace), url)
        assert again.returncode == 0, again.stderr
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA public, dbscale CASCADE")
            connection.execute(f"DROP TABLESPACE small_{os.getpid()}")


def test_server_gone_in_the_middle(marketplace: Path, database: str, proxy: Callable[[str], object]) -> None:
    """A network that swallows packets: the client gives up when it is told to, and the next run gets through."""
    through = proxy(database)
    timer = threading.Timer(1.2, through.refuse)  # type: ignore[attr-defined]
    timer.start()
    result = dbscale("migrate", str(marketplace), through.url, "--jobs", "1")  # type: ignore[attr-defined]
    timer.join()
    assert result.returncode in (0, 3, 4), result.stderr
    assert "Traceback" not in result.stderr
    again = dbscale("migrate", str(marketplace), database)
    assert again.returncode == 0, again.stderr
