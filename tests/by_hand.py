"""What tests do to databases themselves, past dbscale."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg


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
