"""Damaged files: whatever is flipped, cut or swapped, the answer is SourceError or rows, soon, and never a crash.

The files are read in a process of their own, so that a crash of the SQLite library itself would be seen.
Run as a program: `python test_corrupt.py DIRECTORY FIRST LAST` prints one line a file.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from dbscale.drivers.sqlite import SqliteSource
from dbscale.errors import SourceError
from dbscale.migrate.source import read_schema
from dbscale.schema import quote

SECONDS_A_FILE = 20.0

CONTENT = """
CREATE TABLE plain(id INTEGER PRIMARY KEY, name TEXT NOT NULL, price REAL, note, UNIQUE (name, id));
CREATE TABLE child(id INTEGER PRIMARY KEY AUTOINCREMENT, plain REFERENCES plain ON DELETE CASCADE, body TEXT,
  twice INT AS (plain * 2), upper TEXT AS (upper(body)) STORED, CHECK (plain > 0));
CREATE TABLE "without rowid"(k TEXT, n INT, v BLOB, PRIMARY KEY (k, n)) WITHOUT ROWID;
CREATE INDEX partial ON child(plain DESC, lower(body)) WHERE plain IS NOT NULL;
CREATE VIEW both AS SELECT * FROM plain JOIN child ON plain.id = child.plain;
CREATE TRIGGER tr AFTER UPDATE ON plain BEGIN UPDATE child SET body = new.name; END;
CREATE VIRTUAL TABLE words USING fts5(body); CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
  INSERT INTO plain
  SELECT i, 'name ' || i, i / 7.0, CASE i % 4 WHEN 0 THEN NULL WHEN 1 THEN x'00ff' ELSE '값' END FROM n;
INSERT INTO child(plain, body) SELECT id, printf('%.*c', id * 11 % 3000, 'é') FROM plain;
INSERT INTO "without rowid" SELECT name, id, zeroblob(id % 700) FROM plain;
INSERT INTO words SELECT body FROM child WHERE id < 50; INSERT INTO boxes SELECT id, id, id + 1 FROM plain;
DELETE FROM child WHERE id % 5 = 0; ANALYZE;
"""

SETTINGS = (
    "",
    "PRAGMA page_size = 512; PRAGMA auto_vacuum = FULL;",
    "PRAGMA encoding = 'UTF-16le'; PRAGMA page_size = 1024;",
    "PRAGMA page_size = 65536;",
)


def make_bases(directory: Path) -> None:
    """Sound databases of several layouts; the last has half of its rows in its -wal alone."""
    for number, setting in enumerate(SETTINGS):
        database = apsw.Connection(str(directory / f"base{number}.db"))
        database.execute(setting + "BEGIN;" + CONTENT.replace("ANALYZE;", "COMMIT;ANALYZE;")).fetchall()
        database.close()
    database = apsw.Connection(str(directory / "live.db"))
    database.execute("PRAGMA journal_mode = WAL").fetchall()
    database.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
    database.execute(CONTENT).fetchall()
    number = len(SETTINGS)
    for end in ("", "-wal"):
        (directory / f"base{number}.db{end}").write_bytes((directory / f"live.db{end}").read_bytes())
    database.close()


Damage = Callable[[random.Random, bytearray], None]


def flip(chance: random.Random, data: bytearray) -> None:
    for _ in range(chance.choice((1, 2, 5, 20, 100))):
        data[chance.randrange(len(data))] = chance.randrange(256)


def flip_near_the_start(chance: random.Random, data: bytearray) -> None:
    """In the header and the schema, where each byte matters."""
    for _ in range(chance.choice((1, 2, 5, 20))):
        data[chance.randrange(16, min(len(data), 5000))] = chance.randrange(256)


def flip_headers_of_pages(chance: random.Random, data: bytearray) -> None:
    size = int.from_bytes(data[16:18], "big") % 65535 + (65535 if data[16:18] == b"\0\1" else 0)
    size = size if size >= 512 else 4096
    for _ in range(chance.choice((1, 3, 10))):
        page = chance.randrange(max(1, len(data) // size))
        data[min(page * size + chance.randrange(12), len(data) - 1)] = chance.randrange(256)


def overwrite(chance: random.Random, data: bytearray) -> None:
    start = chance.randrange(len(data))
    length = min(chance.choice((16, 512, 4096, 20_000)), len(data) - start)
    filler = chance.choice((bytes(length), b"\xff" * length, chance.randbytes(length)))
    data[start : start + length] = filler


def cut(chance: random.Random, data: bytearray) -> None:
    del data[chance.randrange(len(data)) :]


def swap_pages(chance: random.Random, data: bytearray) -> None:
    """Sound pages in the wrong places: shared children, cycles, pages of another kind."""
    size = chance.choice((512, 1024, 4096))
    pages = len(data) // size
    for _ in range(chance.choice((1, 2, 10))):
        here, there = chance.randrange(pages) * size, chance.randrange(pages) * size
        data[here : here + size] = data[there : there + size]


DAMAGES: tuple[Damage, ...] = (flip, flip_near_the_start, flip_headers_of_pages, overwrite, cut, swap_pages)


def damage(directory: Path, seed: int) -> Path:
    """A damaged copy of one of the bases; the same for the same seed."""
    chance = random.Random(seed)
    base = directory / f"base{chance.randrange(len(SETTINGS) + 1)}.db"
    path = directory / "damaged.db"
    for end in ("", "-wal", "-shm", "-journal"):
        Path(f"{path}{end}").unlink(missing_ok=True)
    files = [end for end in ("", "-wal") if Path(f"{base}{end}").exists()]
    hit = chance.choice(files)
    for end in files:
        data = bytearray(Path(f"{base}{end}").read_bytes())
        if end == hit:
            chance.choice(DAMAGES)(chance, data)
        Path(f"{path}{end}").write_bytes(data)
    return path


def told(error: SourceError) -> bool:
    """True; fails where the error does not say where and what to do."""
    assert error.where, str(error)
    assert error.try_, str(error)
    return True


def read_all(path: Path) -> str:
    """What became of reading everything: `whole`, `refused` as a file, or how many `parts` were refused."""
    source = SqliteSource(path, busy_seconds=1)
    refused = 0
    try:
        with source.snapshot(2) as (reader, other):
            schema = read_schema(reader)
            refused += len(schema.unreadable)
            for name in [table.name for table in schema.tables] + [virtual.name for virtual in schema.virtuals]:
                try:
                    for _ in other.rows(f"SELECT * FROM {quote(name)}"):
                        pass
                except SourceError as error:
                    refused += told(error)
    except SourceError as error:
        return "refused" if told(error) else ""
    return f"{refused} parts" if refused else "whole"


def main(directory: Path, first: int, last: int) -> None:
    for seed in range(first, last):
        path = damage(directory, seed)
        sys.stdout.write(f"{seed} ")
        sys.stdout.flush()
        start = time.monotonic()
        outcome = read_all(path)
        sys.stdout.write(f"{time.monotonic() - start:.2f} {outcome}\n")
        sys.stdout.flush()


def fuzz(directory: Path, first: int, count: int) -> Counter[str]:
    """Read `count` damaged files in a process; what became of them. Fails on a crash, a traceback or a hang."""
    make_bases(directory)
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", __file__, str(directory), str(first), str(first + count)],
        capture_output=True,
        text=True,
        timeout=SECONDS_A_FILE * 3 + count * 0.3,
        check=False,
    )
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"seed {lines[-1][0]}: exit {done.returncode}\n{done.stderr[-4000:]}"
    assert len(lines) == count
    slow = [line for line in lines if float(line[1]) > SECONDS_A_FILE]
    assert not slow
    return Counter(outcome if outcome in {"whole", "refused"} else "parts refused" for _, _, outcome in lines)


def test_sound_files_are_read_whole(tmp_path: Path) -> None:
    make_bases(tmp_path)
    for number in range(len(SETTINGS) + 1):
        assert read_all(tmp_path / f"base{number}.db") == "whole"
        assert counted(tmp_path / f"base{number}.db")[1] is False


def test_damaged_files(tmp_path: Path) -> None:
    outcomes = fuzz(tmp_path, 0, 60)
    assert set(outcomes) == {"whole", "refused", "parts refused"}, "all three happen, or the damage does not bite"


@pytest.mark.slow
def test_rows_that_damage_hides_are_noticed(tmp_path: Path) -> None:
    """A damaged tree may give fewer rows, or more, without an error: `damage` finds it where reading does not."""
    make_bases(tmp_path)
    sound = counted(tmp_path / "base0.db")
    hidden = 0
    for seed in range(600):
        if random.Random(seed).randrange(len(SETTINGS) + 1) == len(SETTINGS):
            continue  # of a damaged -wal SQLite reads what comes before the damage: an older state, but a sound one
        try:
            rows, found = counted(damage(tmp_path, seed))
        except SourceError:
            continue
        if rows != sound[0]:
            assert found, f"seed {seed}: {rows}"
            hidden += 1
    assert hidden


def counted(path: Path) -> tuple[dict[str, int], bool]:
    """The rows of each table as a scan finds them, and whether damage is found."""
    with SqliteSource(path).snapshot() as (reader,):
        keys = {"plain": "id", "child": "id", "without rowid": "k, n"}
        rows = {
            name: sum(1 for _ in reader.rows(f"SELECT {key} FROM {quote(name)} NOT INDEXED"))
            for name, key in keys.items()
        }
        return rows, bool(reader.damage())


@pytest.mark.slow
def test_a_thousand_damaged_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = fuzz(tmp_path, 1000, 1000)
    with capsys.disabled():
        print(f"\n{sum(outcomes.values())} damaged files, no crash, hang or traceback: {dict(outcomes)}")
    assert sum(outcomes.values()) == 1000
    assert min(outcomes["whole"], outcomes["refused"], outcomes["parts refused"]) > 50, outcomes


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
