"""A source that is written to while it is migrated: one state of it arrives, and later commits are not passed over."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest

from dbscale import loading
from dbscale.cli import run

ROWS = 30_000
ACCOUNTS = """
CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
CREATE TABLE transfer(id INTEGER PRIMARY KEY, source INTEGER REFERENCES account(id),
                      target INTEGER REFERENCES account(id), amount INTEGER NOT NULL);
CREATE TABLE counter(transfers INTEGER NOT NULL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) INSERT INTO account SELECT i, 1000 FROM n;
INSERT INTO transfer(source, target, amount) SELECT id, id, 0 FROM account;
INSERT INTO counter SELECT count(*) FROM transfer;
"""
# Each transfer touches three tables' rows in one transaction: no state between may ever be seen.
WRITER = """
import random, sys, time, apsw
c = apsw.Connection(sys.argv[1]); c.set_busy_timeout(int(sys.argv[2])); rows = int(sys.argv[3])
c.execute("PRAGMA synchronous = OFF").fetchall()
longest = 0.0
print("started", flush=True)
while True:
    a, b, n = random.randint(1, rows), random.randint(1, rows), random.randint(1, 9)
    began = time.perf_counter()
    c.execute("BEGIN IMMEDIATE")
    c.execute("UPDATE account SET balance = balance - ? WHERE id = ?", (n, a))
    c.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (n, b))
    c.execute("INSERT INTO transfer(source, target, amount) VALUES (?, ?, ?)", (a, b, n))
    c.execute("UPDATE counter SET transfers = transfers + 1")
    c.execute("COMMIT")
    longest = max(longest, time.perf_counter() - began)
    print(longest, flush=True)
    time.sleep(0.002)
"""
INVARIANT = """
SELECT (SELECT sum(balance) FROM s.account), (SELECT count(*) FROM s.transfer) - (SELECT transfers FROM s.counter),
       (SELECT count(*) FROM s.account a WHERE balance <> 1000
               - coalesce((SELECT sum(amount) FROM s.transfer WHERE source = a.id), 0)
               + coalesce((SELECT sum(amount) FROM s.transfer WHERE target = a.id), 0))
"""


class Writer:
    """A process that transfers amounts between accounts until it is stopped."""

    def __init__(self, path: Path, patience: int) -> None:
        command = [sys.executable, "-c", WRITER, str(path), str(patience), str(ROWS)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "started\n"
        self.process.stdout.readline()  # it has committed once

    def stop(self) -> tuple[int, float]:
        """How many transactions it has committed, and the longest of them in seconds."""
        assert self.process.poll() is None, "the writer was held up for longer than it waits for a lock"
        self.process.kill()
        said, _ = self.process.communicate()
        waits = [float(line) for line in said.splitlines() if line]
        return len(waits), waits[-1] if waits else 0.0


@pytest.fixture
def writing() -> Iterator[Callable[..., Writer]]:
    started: list[Writer] = []

    def start(path: Path, patience: int = 60_000) -> Writer:
        started.append(Writer(path, patience))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


def accounts(path: Path, mode: str) -> Path:
    database = apsw.Connection(str(path))
    database.execute(f"PRAGMA journal_mode = {mode};" + ACCOUNTS % ROWS).fetchall()
    database.execute("CREATE INDEX i ON transfer(source); CREATE INDEX j ON transfer(target)").fetchall()
    database.close()
    return path


def migrate(
    file: Path, url: str, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[int, dict[str, Any], set[str]]:
    """Its status, its document, and the codes of its findings."""
    status = run(["migrate", str(file), url, "--schema", "s", "--json", "--jobs", "3", *options])
    captured = capsys.readouterr()
    assert captured.out, captured.err
    document = json.loads(captured.out)
    return status, document, {finding["code"] for finding in document["findings"]}


def one_state(url: str) -> None:
    with psycopg.connect(url) as connection:
        assert connection.execute(INVARIANT.encode()).fetchone() == (1000 * ROWS, 0, 0)


@pytest.fixture(autouse=True)
def many_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Parts of 5,000 rows, so that threads and transactions take turns all over the tables."""
    monkeypatch.setattr(loading, "PART_ROWS", 5_000)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("options", [(), ("--copy-first",)], ids=["in place", "copy first"])
def test_wal_one_state_arrives_and_later_commits_are_told(
    options: tuple[str, ...],
    tmp_path: Path,
    database: str,
    writing: Callable[..., Writer],
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = accounts(tmp_path / "live.db", "WAL")
    writer = writing(file, patience=50)  # milliseconds: readers of ours never hold it up for longer
    status, document, codes = migrate(file, database, capsys, "--no-verify", *options)
    commits, longest = writer.stop()
    one_state(database)
    assert status == 1
    assert "source-changed" in codes
    assert all(table["source_rows"] == table["loaded"] for table in document["tables"])
    assert commits > 20
    print(f"\nWAL {options}: {commits} transactions meanwhile, the longest {1000 * longest:.0f} ms")


def test_rollback_mode_in_place_the_writer_waits(
    tmp_path: Path, database: str, writing: Callable[..., Writer], capsys: pytest.CaptureFixture[str]
) -> None:
    file = accounts(tmp_path / "live.db", "DELETE")
    writer = writing(file)
    _, _, codes = migrate(file, database, capsys, "--no-verify")
    commits, longest = writer.stop()
    one_state(database)
    assert "source-blocks-writers" in codes
    print(f"\nrollback: {commits} transactions, the longest {1000 * longest:.0f} ms")


def test_rollback_mode_copied_first_the_writer_goes_on(
    tmp_path: Path, database: str, writing: Callable[..., Writer], capsys: pytest.CaptureFixture[str]
) -> None:
    file = accounts(tmp_path / "live.db", "DELETE")
    writer = writing(file)
    status, _, codes = migrate(file, database, capsys, "--no-verify", "--copy-first")
    commits, longest = writer.stop()
    one_state(database)
    assert status == 1
    assert "source-changed" in codes
    assert "source-blocks-writers" not in codes
    assert commits > 20
    print(f"\nrollback, copied first: {commits} transactions, the longest {1000 * longest:.0f} ms")


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_writers_held_until_the_end(
    mode: str,
    tmp_path: Path,
    database: str,
    writing: Callable[..., Writer],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No commit comes between the snapshot and the end of the load; the writer goes on afterwards."""
    file = accounts(tmp_path / "live.db", mode)
    writer = writing(file)
    status, document, codes = migrate(file, database, capsys, "--no-verify", "--hold-writes")
    assert "source-changed" not in codes
    assert status == 0
    commits, _ = writer.stop()
    one_state(database)
    assert commits > 0
    with psycopg.connect(database) as connection:
        (loaded,) = connection.execute("SELECT count(*) FROM s.transfer").fetchone() or (0,)
    assert {table["table"]: table["loaded"] for table in document["tables"]}["transfer"] == loaded


def test_verify_passes_once_the_writer_has_stopped(
    tmp_path: Path, database: str, writing: Callable[..., Writer], capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run after the first had missed commits finds the target filled, and says how to go on."""
    file = accounts(tmp_path / "live.db", "WAL")
    writer = writing(file)
    status, _, codes = migrate(file, database, capsys, "--no-verify")
    assert (status, "source-changed" in codes) == (1, True)
    writer.stop()
    assert run(["verify", str(file), database, "--schema", "s"]) == 1
    assert run(["undo", "1", database, "--yes"]) == 0
    capsys.readouterr()
    status, document, codes = migrate(file, database, capsys)
    assert (status, document["verify"]["same"], "source-changed" in codes) == (0, True, False)
    one_state(database)
