"""A migration into shards: every row once, on the shard that owns its key, also after the client was killed."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dbscale import loading
from dbscale.cli import run
from dbscale.drivers.sqlite import SqliteReader, SqliteSource
from dbscale.errors import ConfigError
from dbscale.migrate import sharded
from dbscale.plan import Conversion, LoadColumn
from dbscale.shards import file
from dbscale.shards.map import shard_for
from dump import dump

CLIENT = Path(__file__).with_name("crash_client.py")
SOURCE = """
    PRAGMA journal_mode = wal;
    CREATE TABLE crops (code TEXT PRIMARY KEY, label TEXT);
    INSERT INTO crops VALUES ('r', 'rice'), ('w', '밀'), ('x', NULL);
    CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT, favourite INTEGER REFERENCES farms (id));
    CREATE TABLE farms (id INTEGER PRIMARY KEY, owner INTEGER REFERENCES users (id), crop TEXT REFERENCES crops (code),
        name TEXT, area REAL);
    CREATE TABLE predictions (id INTEGER PRIMARY KEY AUTOINCREMENT, farm_id INTEGER NOT NULL REFERENCES farms (id),
        y REAL CHECK (y >= 0));
    CREATE INDEX idx_predictions_farm ON predictions (farm_id);
    CREATE TABLE visits (farm_id INTEGER, day TEXT, note BLOB, PRIMARY KEY (farm_id, day)) WITHOUT ROWID;
    CREATE VIEW addresses AS SELECT email FROM users;
    CREATE VIEW large AS SELECT id FROM farms WHERE area > 5;
    WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 299)
        INSERT INTO users SELECT i + 1, 'u' || i || '@x', NULL FROM n WHERE i < 50;
    WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 299)
        INSERT INTO farms SELECT i, 1 + i % 50, substr('rwx', 1 + i % 3, 1), 'farm ' || i, i / 7.0 FROM n;
    WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 1499)
        INSERT INTO predictions (farm_id, y) SELECT (i * 7919) % 300, i / 3.0 FROM n;
    WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999)
        INSERT INTO visits SELECT i % 300, 'day ' || i, CAST('b' || i AS BLOB) FROM n;
    UPDATE users SET favourite = id;
"""
MAP = """
name = "farms"
key = "bigint"
tables = { farms = "id", predictions = "farm_id", visits = "farm_id" }
reference = ["crops"]
ranges = [
  { id = "f0", from = 0, shard = "s1" },
  { id = "f1", from = 100, shard = "s2" },
  { id = "f2", from = 200, shard = "s1" },
]
until = 300
"""


@dataclass(frozen=True)
class Place:
    folder: Path
    urls: dict[str, str]

    def __call__(self, database: str, sql: str) -> list[Any]:
        with psycopg.connect(self.urls[database], autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    @property
    def words(self) -> list[str]:
        config, map_ = self.folder / "dbscale.toml", self.folder / "shard_maps" / "farms.toml"
        return [str(self.folder / "a.db"), "home", "--shard-map", str(map_), "--config", str(config)]

    def migrate(self, *more: str) -> int:
        return run(["migrate", *self.words, *more])

    def source(self, sql: str) -> list[Any]:
        connection = sqlite3.connect(self.folder / "a.db")
        try:
            return connection.executescript(sql).fetchall() if ";" in sql else connection.execute(sql).fetchall()
        finally:
            connection.commit()
            connection.close()


@pytest.fixture
def place(tmp_path: Path, new_database: Callable[..., str]) -> Place:
    return made(tmp_path, {name: new_database() for name in ("home", "one", "two")})


def made(folder: Path, urls: dict[str, str]) -> Place:
    (folder / "shard_maps").mkdir(parents=True)
    (folder / "shard_maps" / "farms.toml").write_text(MAP)
    entries = "".join(f'[databases.{name}]\nurl = "{url}"\n' for name, url in urls.items())
    (folder / "dbscale.toml").write_text(f'{entries}[shards]\ns1 = "one"\ns2 = "two"\nhome = "home"\n')
    found = Place(folder, urls)
    found.source(SOURCE)
    return found


@pytest.mark.every_server
def test_every_row_is_on_its_shard(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.migrate() == 0
    assert "verified: the same" in capsys.readouterr().out
    first = "NOT (farm_id BETWEEN 100 AND 199)"
    for database, condition in (("one", first), ("two", f"NOT ({first})")):
        for table in ("predictions", "visits"):
            columns = "farm_id, id, y" if table == "predictions" else "farm_id, day, note"
            sql = f"SELECT {columns} FROM {table} WHERE {{}} ORDER BY 1, 2"
            assert place(database, sql.format("true")) == place.source(sql.format(condition)), (database, table)
        farms = "SELECT id, owner, crop, name, area FROM farms WHERE {} ORDER BY 1"
        assert place(database, farms.format("true")) == place.source(farms.format(condition.replace("farm_id", "id")))
        assert place(database, "SELECT * FROM crops ORDER BY 1") == place.source("SELECT * FROM crops ORDER BY 1")
        assert place(database, "SELECT to_regclass('users')") == [(None,)]
    assert place("home", "SELECT count(*), count(favourite) FROM users") == [(50, 50)]
    assert place("home", "SELECT to_regclass('farms'), to_regclass('large'), to_regclass('addresses') IS NULL") == [
        (None, None, False)
    ]
    assert place("two", "SELECT range_id, epoch, state FROM dbscale.owned_ranges") == [("f1", 1, "owned")]
    with pytest.raises(psycopg.errors.CheckViolation):
        place("two", "INSERT INTO predictions (farm_id, y) VALUES (5, 1)")
    # Foreign keys of the group hold, to another server there is none.
    keys = "SELECT conname FROM pg_constraint WHERE contype = 'f' AND conname NOT LIKE 'owned%' ORDER BY 1"
    assert place("one", keys) == [("farms_crop_fkey",), ("predictions_farm_id_fkey",)]


def test_a_source_in_utf16(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (place.folder / "a.db").unlink()
    place.source("PRAGMA encoding = 'UTF-16be';" + SOURCE)
    assert place.source("PRAGMA encoding") == [("UTF-16be",)]
    assert place.migrate() == 0
    assert "verified: the same" in capsys.readouterr().out
    assert place("two", "SELECT min(id), max(id), count(*) FROM farms") == [(100, 199, 100)]


def test_one_server_with_a_partition_for_each_range(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Logical sharding, straight from SQLite: every row in its range's partition, compared, and taken back."""
    before = dump(place.urls["home"])
    assert place.migrate("--shard-target", "partitions") == 0
    assert "verified: the same" in capsys.readouterr().out
    for number, low in enumerate((0, 100, 200)):
        where = f"farm_id >= {low} AND farm_id < {low + 100}"
        for table in ("visits", "predictions"):
            columns = "farm_id, day, note" if table == "visits" else "farm_id, id, y"
            expected = place.source(f"SELECT {columns} FROM {table} WHERE {where} ORDER BY 1, 2")
            assert place("home", f"SELECT {columns} FROM {table}_f{number} ORDER BY 1, 2") == expected
    assert place("one", "SELECT to_regclass('farms')") == [(None,)]
    assert place("home", "SELECT count(*) FROM large") == place.source("SELECT count(*) FROM large")
    keys = "SELECT conname, convalidated FROM pg_constraint WHERE contype = 'f' AND conparentid = 0 AND connamespace ="
    assert place("home", f"{keys} 'public'::regnamespace ORDER BY 1") == [
        ("farms_crop_fkey", True), ("farms_owner_fkey", True), ("predictions_farm_id_fkey", True),
        ("users_favourite_fkey", True),
    ]  # fmt: skip
    assert place(
        "home", "INSERT INTO predictions (farm_id, y) VALUES (150, 1) RETURNING id, tableoid::regclass::text"
    ) == [(1501, "predictions_f1")]
    maps = ["--maps", str(place.folder / "shard_maps"), "--config", str(place.folder / "dbscale.toml")]
    capsys.readouterr()
    assert run(["shards", "plan", "farms", "--target", "partitions", *maps]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert run(["verify", *place.words, "--shard-target", "partitions"]) == 1
    assert "predictions" in capsys.readouterr().out
    place("home", "DELETE FROM predictions WHERE id = 1501")
    assert run(["verify", *place.words, "--shard-target", "partitions"]) == 0
    ((number,),) = place("home", "SELECT max(id) FROM dbscale.runs")
    assert run(["undo", str(number), "home", "--yes", "--config", str(place.folder / "dbscale.toml")]) == 0
    assert dump(place.urls["home"]) == before


def test_a_table_that_is_partitioned_later_is_the_same(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Its key got the time as a further column, which `verify` says, and does not count as a difference."""
    place.source("CREATE TABLE sales (id INTEGER PRIMARY KEY, day DATE NOT NULL, code TEXT UNIQUE NOT NULL);")
    place.source("INSERT INTO sales VALUES (1, '2026-01-31', 'a'), (2, '2026-02-01', 'b');")
    words = [str(place.folder / "a.db"), "home", "--config", str(place.folder / "dbscale.toml")]
    assert run(["migrate", *words]) == 0
    maps = place.folder / "shard_maps"
    (maps / "farms.toml").write_text(
        'name = "sales"\nkey = "date"\ntables = { sales = "day" }\nevery = "month"\n'
        'ranges = [{ id = "all", shard = "home" }]\n'
    )
    apply = ["shards", "apply", "sales", "--maps", str(maps), "--config", str(place.folder / "dbscale.toml"), "--yes"]
    assert run(apply) == 0
    capsys.readouterr()
    assert run(["verify", *words]) == 0
    said = "".join(capsys.readouterr())
    assert said.count("[verify-key-wider]") == 2
    place("home", "ALTER TABLE sales DROP CONSTRAINT sales_code_key, ADD CONSTRAINT sales_code_key UNIQUE (day)")
    assert run(["verify", *words]) == 1
    assert "its columns are day, not code" in "".join(capsys.readouterr())


def test_keys_of_no_partition_block(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.source("INSERT INTO farms (id, name) VALUES (300, 'too far'), (-1, 'too low');")
    assert place.migrate("--shard-target", "partitions", "--dry-run") == 2
    assert "2 rows have a key that no range of the map farms owns" in capsys.readouterr().out
    assert place.migrate("--shard-target", "partitions", "--on-bad-row", "quarantine") == 1
    assert "verified: the same" in capsys.readouterr().out
    assert place("home", "SELECT row_key FROM dbscale.quarantine ORDER BY 1::text") == [({"id": -1},), ({"id": 300},)]


@pytest.mark.every_server
def test_the_map_is_in_effect(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """What `shards apply` would do is done, and ids go on after the greatest of their range."""
    assert place.migrate() == 0
    maps = ["--maps", str(place.folder / "shard_maps"), "--config", str(place.folder / "dbscale.toml")]
    capsys.readouterr()
    assert run(["shards", "plan", "farms", *maps]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert run(["shards", "check", "farms", *maps]) == 0
    place("two", "DELETE FROM predictions WHERE farm_id = 199; DELETE FROM farms WHERE id = 199")
    with pytest.raises(psycopg.errors.SequenceGeneratorLimitExceeded):
        place("two", "INSERT INTO farms (name) VALUES ('no id is left')")


def test_what_is_wrong_is_found(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Missing, twice, changed, and on the wrong shard."""
    assert place.migrate("--no-verify") == 0
    own = "dbscale_owns_farms"
    for statements in (
        ("two", f"ALTER TABLE visits DROP CONSTRAINT {own}; INSERT INTO visits VALUES (5, 'day 5', 'b5')"),
        ("two", "INSERT INTO predictions (id, farm_id, y) VALUES (9000, 150, 2)"),
        ("one", "UPDATE farms SET name = 'other' WHERE id = 7"),
        ("one", "DELETE FROM crops WHERE code = 'x'; DELETE FROM visits WHERE farm_id = 3"),
        ("one", "DELETE FROM predictions WHERE id = (SELECT min(id) FROM predictions)"),
    ):
        capsys.readouterr()
        if "DELETE FROM crops" in statements[1]:
            place("one", "ALTER TABLE farms DROP CONSTRAINT farms_crop_fkey")
        before = json_of(capsys, run(["verify", *place.words, "--json"]))
        place(*statements)
        after = json_of(capsys, run(["verify", *place.words, "--json"]))
        count = [sum(t["missing"] + t["extra"] + t["different"] for t in each["tables"]) for each in (before, after)]
        assert count[1] > count[0], statements
        assert not after["same"]


def json_of(capsys: pytest.CaptureFixture[str], status: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["same"] == (status == 0)
    return found


def test_keys_without_an_owner_block(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.source("INSERT INTO farms (id, name) VALUES (300, 'too far'); INSERT INTO visits VALUES ('abc', 'd', NULL);")
    assert place.migrate("--dry-run") == 2
    assert "1 rows have a key that no range of the map farms owns (300, say)" in capsys.readouterr().out
    # Rows apart are counted, kept, and not expected on any shard.
    assert place.migrate("--on-bad-row", "quarantine", "--skip", "visits") == 2
    text = (place.folder / "shard_maps" / "farms.toml").read_text().replace(', visits = "farm_id"', "")
    (place.folder / "shard_maps" / "farms.toml").write_text(text)
    assert place.migrate("--on-bad-row", "quarantine", "--skip", "visits") == 1
    assert "verified: the same" in capsys.readouterr().out
    assert place("one", "SELECT table_name, row_key, reason ~ 'dbscale_owns_farms' FROM dbscale.quarantine") == [
        ("farms", {"id": 300}, True)
    ]
    assert place("one", "SELECT count(*) FROM farms WHERE id >= 300") == [(0,)]


def test_a_map_of_another_schema_blocks(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.migrate("--schema", "shop", "--json") == 2
    said = json.loads(capsys.readouterr().out)
    assert said["error"]["see"] == "docs/errors.md#shard-table-missing"
    assert 'let the map say "shop.farms"' in str(said)
    keys = {"farms": "id", "predictions": "farm_id", "visits": "farm_id"}
    tables = ", ".join(f'"shop.{name}" = "{key}"' for name, key in keys.items())
    map_ = place.folder / "shard_maps" / "farms.toml"
    map_.write_text(re.sub("tables = .*", f"tables = {{ {tables} }}", MAP).replace('"crops"', '"shop.crops"'))
    assert place.migrate("--schema", "shop") == 0
    assert [place(name, "SELECT count(*) FROM shop.farms") for name in ("one", "two")] == [[(200,)], [(100,)]]


def test_undo_and_again(place: Place) -> None:
    """What a run took back leaves nothing; a shard's own runs and those of another home are told apart."""
    place("one", "CREATE SCHEMA other")
    before = {name: dump(url) for name, url in place.urls.items()}
    flat = [str(place.folder / "a.db"), "one", "--schema", "other", "--config", str(place.folder / "dbscale.toml")]
    assert run(["migrate", *flat]) == 0
    assert place.migrate() == 0
    ((number,),) = place("home", "SELECT max(id) FROM dbscale.runs")
    assert number > 1  # 1 is the shard's own
    assert run(["undo", str(number), "home", "--yes", "--config", str(place.folder / "dbscale.toml")]) == 0
    assert {name: dump(url) for name, url in place.urls.items()} == before
    assert place("one", f"SELECT count(*) FROM dbscale.loads WHERE run_id = {number}") == [(0,)]
    assert place.migrate() == 0


def test_undo_that_one_shard_refuses_changes_none(place: Place) -> None:
    assert place.migrate() == 0
    place("two", "CREATE TABLE own (farm bigint REFERENCES farms (id))")
    before = dumps(place)
    ((number,),) = place("home", "SELECT max(id) FROM dbscale.runs")
    words = ["undo", str(number), "home", "--yes", "--config", str(place.folder / "dbscale.toml")]
    assert run(words) == 2
    assert dumps(place) == before
    assert place("home", f"SELECT state FROM dbscale.runs WHERE id = {number}") == [("done",)]
    place("two", "DROP TABLE own")
    assert run(words) == 0


def client(number: int | str, when: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CLIENT), str(number), when, "200", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def dumps(place: Place) -> dict[str, str]:
    return {name: dump(url) for name, url in place.urls.items()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_marks(when: str, tmp_path: Path, new_database: Callable[..., str]) -> None:
    """kill -9 at every seventh mark, over all servers; the same command then ends as if nothing had happened."""

    def fresh(name: str) -> Place:
        return made(tmp_path / name, {each: new_database() for each in ("home", "one", "two")})

    calm = fresh("calm")
    done = client(0, when, "migrate", *calm.words, "--no-verify")
    assert done.returncode == 0, done.stderr
    expected, marks = dumps(calm), int(done.stderr.split()[-1])
    assert marks > 60
    for number in range(1, marks + 1, 7):
        place = fresh(f"{when}{number}")
        died = client(number, when, "migrate", *place.words, "--no-verify", "--jobs", "1")
        assert died.returncode == -signal.SIGKILL, (number, died.stderr)
        again = client(0, when, "migrate", *place.words)
        assert again.returncode == 0, (number, again.stderr, again.stdout)
        assert dumps(place) == expected, number
        for url in place.urls.values():
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("DROP SCHEMA public, dbscale CASCADE")


def test_killed_between_the_commits_of_two_databases(tmp_path: Path, new_database: Callable[..., str]) -> None:
    """A part is on one of its databases and not on the other: it is read again for that one alone."""

    def fresh(name: str) -> Place:
        return made(tmp_path / name, {each: new_database() for each in ("home", "one", "two")})

    calm = fresh("calm")
    done = client(0, "before", "migrate", *calm.words, "--no-verify", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    expected = dumps(calm)
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("parts ")]
    parts = [(int(step), part) for step, part in (each.split(":") for each in told.split()[1:])]
    pairs = [(first, second) for first, second in pairwise(parts) if first[1] == second[1] != ".."]
    assert len(pairs) >= 10  # farms and predictions
    whole = [(first, second) for first, second in pairwise(parts) if first[1] == second[1] == ".."]
    for first, second in (pairs[0], pairs[-1], whole[0], whole[-1]):
        name = "{}:{}".format(*second)
        place = fresh(name.replace(":", "_"))
        died = client(name, "before", "migrate", *place.words, "--no-verify", "--jobs", "1")
        assert died.returncode == -signal.SIGKILL, (name, died.stderr)
        arrived = {row for each in place.urls for row in place(each, "SELECT step, part FROM dbscale.loads")}
        assert first in arrived
        assert second not in arrived
        again = client(0, "before", "migrate", *place.words)
        assert again.returncode == 0, (name, again.stderr, again.stdout)
        assert dumps(place) == expected, name


@pytest.mark.parametrize("pure", ["", "1"])
def test_the_source_is_read_once(
    pure: str, place: Place, new_database: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many statements write rows for three databases as for one."""
    monkeypatch.setenv("DBSCALE_PURE_SQL", pure)
    asked: list[str] = []
    rows = SqliteReader.rows

    def noted(self: SqliteReader, sql: str, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        asked.append(sql)
        return rows(self, sql, parameters)

    monkeypatch.setattr(SqliteReader, "rows", noted)
    monkeypatch.setattr(loading, "PART_ROWS", 400)

    def reads() -> Counter[str]:
        writing = [sql for sql in asked if re.search(r"pgcopy|group_concat\(r,|SELECT [^,]+, CAST\(CASE", sql)]
        asked.clear()
        return Counter(found for sql in writing for found in re.findall(r'FROM "(\w+)" AS s', sql))

    assert run(["migrate", str(place.folder / "a.db"), new_database(), "--no-verify", *place.words[-2:]]) == 0
    once = reads()
    assert place.migrate("--no-verify") == 0
    assert reads() == once
    assert once["predictions"] >= 4
    assert once.keys() == {"crops", "users", "farms", "predictions", "visits"}


def test_a_server_that_ends_idle_transactions(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database may wait for its first row of a part for as long as the others' are read."""
    rows = SqliteReader.rows

    def slowly(self: SqliteReader, sql: str, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        if re.search(r"pgcopy|group_concat\(r,", sql):
            time.sleep(0.2)
        return rows(self, sql, parameters)

    monkeypatch.setattr(SqliteReader, "rows", slowly)
    for name in place.urls:
        place(name, f"ALTER DATABASE {place(name, 'SELECT current_database()')[0][0]}"
              " SET idle_in_transaction_session_timeout = '50ms'")  # fmt: skip
    assert place.migrate() == 0


def _map(kind: str, starts: list[Any], **more: Any) -> Any:
    ranges = [{"id": f"r{n}", "from": start, "shard": f"s{n}"} for n, start in enumerate(starts)]
    return file.parse({"name": "m", "key": kind, "tables": {"t": "k"}, "ranges": ranges, **more}, "m.toml")


KEYS: dict[str, tuple[Any, Conversion, list[Any]]] = {
    "uuid": (
        _map("uuid", ["00000000-0000-0000-0000-000000000000", "80000000-0000-0000-0000-000000000000"]),
        Conversion(to="uuid", texts="uuid", blobs="uuid"),
        [uuid.UUID(int=(n * 0x1234567_89ABCDEF_01234567_89ABCDEF) % (1 << 128)) for n in range(400)],
    ),
    "text": (
        _map("text", ["", "m", "\u00e9", "\ud55c"]),
        Conversion(to="text", texts="keep"),
        ["", "a", "M", "m", "mm", "z", "\u00e9", "e\u0301", "\u00ff", "\ud55c\uae00", "\U0001f33e", "l\uffff", "it's"],
    ),
    "date": (
        _map("date", [date(1, 1, 1), date(1970, 1, 1), date(2000, 1, 1), date(2026, 3, 1)]),
        Conversion(to="date", texts="iso"),
        [date(1900, 1, 1) + timedelta(days=97 * n) for n in range(500)]
        + [date(1999, 12, 31), date(2000, 1, 1), date(2026, 2, 28), date(2026, 3, 1)],
    ),
    "timestamptz": (
        _map("timestamptz", [datetime(1, 1, 1, tzinfo=UTC), datetime(2000, 1, 1, tzinfo=UTC),
                             datetime(2026, 3, 1, tzinfo=UTC)]),
        Conversion(to="timestamptz", texts="iso"),
        [datetime(1990, 1, 1, tzinfo=UTC) + timedelta(hours=1111 * n, microseconds=n) for n in range(400)]
        + [datetime(2026, 2, 28, 23, 59, 59, 999999, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
def test_keys_of_every_type(kind: str, encoding: str, tmp_path: Path) -> None:
    """SQLite's condition chooses, for each stored key, the shard that the map names."""
    map_, conversion, keys = KEYS[kind]
    path = tmp_path / "keys.db"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA encoding = '{encoding}'")
    connection.execute("CREATE TABLE t (k TEXT)")
    connection.executemany("INSERT INTO t VALUES (?)", [(_stored(key),) for key in keys])
    connection.commit()
    connection.close()
    column = LoadColumn(source="k", target="k", conversion=conversion)
    with SqliteSource(path).snapshot(1) as (reader,):
        utf8 = encoding == "UTF-8"
        if kind == "text" and not utf8:
            with pytest.raises(ConfigError, match="another order"):
                sharded.condition(map_, column, [map_.ranges[0]], reader.library, utf8=utf8)
            return
        for range_ in map_.ranges:
            sql = sharded.condition(map_, column, [range_], reader.library, utf8=utf8)
            found = {row[0] for row in reader.rows(f"SELECT k FROM t AS s WHERE {sql}")}
            assert found == {_stored(key) for key in keys if shard_for(map_, key) == range_}, range_.id


def _stored(key: Any) -> str:
    if isinstance(key, datetime):
        return key.isoformat(sep=" ")
    return str(key).upper() if isinstance(key, uuid.UUID) and key.int % 2 else str(key)
