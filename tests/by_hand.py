"""What tests do to databases themselves, past dbscale."""

from __future__ import annotations

import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest


def make(path: Path, script: str) -> str:
    """A SQLite file that `script` fills; its path."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(script)
    return str(path)


def execute(url: str, script: str) -> None:
    """Run a script in PostgreSQL, as one transaction unless it says otherwise."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(script.encode())


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query in PostgreSQL; no parameters, so that % stands for itself."""
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


@contextmanager
def control_c_behind_a_lock(url: str, table: str) -> Iterator[None]:
    """The block meets a lock on a table, and a second later Ctrl-C, which has to end it before the lock goes."""
    with psycopg.connect(url) as other:
        other.execute(f"LOCK TABLE {table}".encode())
        too_late = threading.Timer(10, other.rollback)
        too_late.start()
        threading.Timer(1, signal.pthread_kill, (threading.get_ident(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            yield
        assert too_late.is_alive(), "it waited for the lock"
        too_late.cancel()
