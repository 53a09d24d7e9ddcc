"""The page of `dbscale assess --html`: whole, escaped, and quick for schemas of any shape."""

from __future__ import annotations

import re
import sqlite3
import time
from pathlib import Path

import pytest

from dbscale.cli import run
from dbscale.cli.assess_page import SHOWN


def page(folder: Path, sql: str) -> str:
    with sqlite3.connect(folder / "a.db") as connection:
        connection.executescript(sql)
    assert run(["assess", str(folder / "a.db"), "--html", str(folder / "a.html")]) == 0
    return (folder / "a.html").read_text(encoding="utf-8")


def test_what_comes_from_the_source_is_escaped(tmp_path: Path) -> None:
    text = page(
        tmp_path,
        """CREATE TABLE "<script>alert(1)</script>" (id INTEGER PRIMARY KEY, "<b>" INT);
        INSERT INTO "<script>alert(1)</script>" VALUES (1, '<img src=x>');
        CREATE TABLE c (id INTEGER PRIMARY KEY, p INT REFERENCES "<script>alert(1)</script>" (id));""",
    )
    assert "&lt;img src=x&gt;" in text
    assert not re.search(r"<(script|img|b>alert)", text)


def test_many_findings_of_one_kind_are_folded(tmp_path: Path) -> None:
    text = page(
        tmp_path, "".join(f"CREATE TABLE t{n} (a INT); INSERT INTO t{n} VALUES ('x');" for n in range(SHOWN + 7))
    )
    assert "7 more of these [text-in-integer]" in text
    assert text.count("[text-in-integer]") == SHOWN + 7 + 1


@pytest.mark.parametrize("shape", ["dense", "chain", "cycle"])
def test_foreign_keys_of_any_shape(shape: str, tmp_path: Path) -> None:
    """Ways through forty tables that all refer to all before them are more than can be counted one by one."""
    refers = {
        "dense": lambda n: ", ".join(f"r{m} INT REFERENCES t{m} (id)" for m in range(n)),
        "chain": lambda n: f"r INT REFERENCES t{n - 1} (id)" if n else "",
        "cycle": lambda n: f"r INT REFERENCES t{(n + 1) % 40} (id)",
    }[shape]
    columns = [", ".join(filter(None, ("id INTEGER PRIMARY KEY", refers(n)))) for n in range(40)]
    began = time.monotonic()
    text = page(tmp_path, "".join(f"CREATE TABLE t{n} ({columns[n]});" for n in range(40)))
    assert time.monotonic() - began < 20
    assert text.count('class="box"') == 40
    assert text.count('class="edge"') == {"dense": 40 * 39 // 2, "chain": 39, "cycle": 40}[shape]


def test_without_foreign_keys_there_is_no_graph(tmp_path: Path) -> None:
    assert "<svg" not in page(tmp_path, "CREATE TABLE t (a INT);")
