"""What a load into tables that exist would meet is found by the plan, and what such a load took away comes back."""

# ruff: noqa: E501 - the SQL of the sources is wide

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from by_hand import execute, make, rows
from dbscale.cli import run

VALUES = [
    # the target's type; the source's values of rows 1, 2, …; how many are refused; what the finding says of one
    ("char(5)", "'abc'), ('abcdefg'", 1, "7 characters do not fit char(5), the row with id = 2"),
    ("char(5)", "'abc'), ('ab '", 1, "ends in blanks"),
    ("varchar(5)", "'abcdef'), ('abcdefg'), ('a'", 2, "the row with id = 1"),
    ("varchar(5)", "'a'), ('abcde  '", 1, "the row with id = 2"),
    ("real", "0.5), (0.1), (16777217.0", 2, "0.1"),
    ("timestamp(0)", "'2024-01-01 00:00:00'), ('2024-01-01 00:00:00.5'", 1, "finer than 0 digits"),
    ("timestamptz(3)", "'2024-01-01 00:00:00.123Z'), ('2024-01-01 00:00:00.1234Z'", 1, "finer than 3 digits"),
    ("time(3)", "'10:00:00.123'), ('10:00:00.1234'", 1, "finer than 3 digits"),
    ("smallint", "5), (70000), (-70000", 2, "70000 is beyond the range of smallint, the row with id = 2"),
    ("integer", "5), (3000000000", 1, "3000000000"),
    ("numeric(6,2)", "1.25), (1.255), (1e9", 2, "1.255"),
    ("bit(3)", "'101'), ('1011'", 1, "4 characters"),
    ("mood", "'ok'), ('bad'), ('worse'), ('fine'), ('bad'", 3, "'bad', the row with id = 2"),
    ("interval", "'1 day'), ('one day'", 1, "'one day', the row with id = 2"),
    ("text[]", "'{a,b}'), ('a,b'", 1, "'a,b'"),
    ("short", "'ab'), ('abc'", 1, "varchar(2)"),
    ("date", "'2024-01-01'), ('2024-01-01 10:00'", 1, "has a time of day"),
    ("text", "'a'), (x'00ff'", 1, "x'00ff'"),
]


def keys(url: str) -> list[tuple[Any, ...]]:
    """The foreign keys in `public`, and whether they are validated."""
    return rows(
        url,
        "SELECT conname, convalidated FROM pg_constraint WHERE contype = 'f'"
        " AND connamespace = 'public'::regnamespace ORDER BY 1",
    )


def planned(
    capsys: pytest.CaptureFixture[str], source: str, url: str, *options: str
) -> tuple[int, dict[str, dict[str, Any]]]:
    """The status of `--dry-run`, and the plan's blockers by code."""
    status = run(["migrate", source, url, "--into-existing", "--dry-run", "--json", *options])
    findings = json.loads(capsys.readouterr().out)["findings"]
    return status, {each["code"]: each for each in findings if each["level"] == "blocker"}


@pytest.mark.parametrize(("type_", "values", "count", "says"), VALUES)
def test_values_that_a_type_of_the_target_does_not_hold(  # noqa: PLR0917 - fixtures
    type_: str, values: str, count: int, says: str, tmp_path: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = (
        "" if type_ in ("text", "mood") else "REAL" if type_ == "real" else "NUMERIC" if values[0].isdigit() else ""
    )
    source = make(
        tmp_path / "a.db",
        f"CREATE TABLE t (id INTEGER PRIMARY KEY, a {stored}); INSERT INTO t (a) VALUES ({values});",
    )
    execute(
        database,
        "CREATE TYPE mood AS ENUM ('ok', 'fine'); CREATE DOMAIN short AS varchar(2);"
        f"CREATE TABLE t (id bigint PRIMARY KEY, a {type_})",
    )
    status, blockers = planned(capsys, source, database)
    assert status == 2
    assert list(blockers) == ["type-does-not-fit"]
    finding = blockers["type-does-not-fit"]
    assert finding["where"] == "t.a"
    assert f"{count} of" in finding["says"]
    assert says in finding["says"]
    # kept apart instead, as many as the plan has counted
    options = ("--into-existing", "--on-bad-row", "quarantine", "--yes")
    assert run(["migrate", source, database, *options]) == 1
    assert rows(database, "SELECT count(*) FROM dbscale.quarantine") == [(count,)]


def test_what_the_targets_constraints_refuse(tmp_path: Path, database: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = make(
        tmp_path / "a.db",
        """CREATE TABLE p (id INTEGER PRIMARY KEY, code TEXT, region TEXT, at TEXT);
        CREATE TABLE c (id INTEGER PRIMARY KEY, p_id INTEGER, code TEXT, region TEXT, up INT, kept INT, name TEXT);
        INSERT INTO p VALUES (1, 'a', 'x', '2024-01-01 00:00:00Z'), (2, 'b', 'y', '2024-01-01 01:00:00+01:00');
        INSERT INTO c VALUES (1, 1, 'a', 'x', NULL, 7, 'n'), (2, 9, 'a', 'y', 1, 8, NULL), (3, 2, NULL, 'z', 5, 9, 'n');""",
    )
    execute(
        database,
        """CREATE TABLE other (id smallint PRIMARY KEY); INSERT INTO other VALUES (7), (8);
        CREATE TABLE p (id integer PRIMARY KEY, code varchar(9), region text, at timestamptz UNIQUE,
                        UNIQUE (code, region));
        CREATE TABLE c (id bigint PRIMARY KEY, p_id integer REFERENCES p, code varchar(9), region text,
                        up bigint REFERENCES c, kept smallint REFERENCES other, name text NOT NULL,
                        FOREIGN KEY (code, region) REFERENCES p (code, region));""",
    )
    before = keys(database)
    status = run(["migrate", source, database, "--into-existing", "--dry-run", "--json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert status == 2
    said = {(each["code"], each["where"]): each["says"] for each in findings if each["level"] == "blocker"}
    assert set(said) == {
        ("orphans", "c (p_id)"),
        ("orphans", "c (code, region)"),
        ("orphans", "c (up)"),
        ("orphans", "c (kept)"),
        ("not-null-broken", "c.name"),
        ("keys-collide", "p.at"),
    }
    assert "1 rows refer to rows of p" in said["orphans", "c (p_id)"]
    assert "2: 9" in said["orphans", "c (p_id)"]
    assert "kept = '9'" in said["orphans", "c (kept)"]
    assert run(["migrate", source, database, "--into-existing"]) == 2
    assert keys(database) == before


def test_orphans_of_a_key_that_is_not_validated_are_nobodys_business(tmp_path: Path, database: str) -> None:
    source = make(
        tmp_path / "a.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE c (id INTEGER PRIMARY KEY, p INT); INSERT INTO c VALUES (1, 9);",
    )
    execute(
        database,
        "CREATE TABLE p (id bigint PRIMARY KEY); CREATE TABLE c (id bigint PRIMARY KEY, p bigint);"
        "ALTER TABLE c ADD CONSTRAINT fk FOREIGN KEY (p) REFERENCES p NOT VALID",
    )
    assert run(["migrate", source, database, "--into-existing"]) == 0
    assert keys(database) == [("fk", False)]


def test_a_chosen_type_is_tried_too(
    tmp_path: Path, database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(
        tmp_path / "a.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT); INSERT INTO t VALUES (1, '1.2.3.4', 'abcd'), (2, 'x', '');",
    )
    Path("dbscale.toml").write_text('[migrate.types]\n"t.a" = "inet"\n"t.b" = "char(3)"\n')
    assert run(["migrate", "a.db", database, "--dry-run", "--json"]) == 2
    findings = json.loads(capsys.readouterr().out)["findings"]
    said = {each["where"]: each["says"] for each in findings if each["level"] == "blocker"}
    assert said == {
        "t.a": "PostgreSQL does not read 1 of 2 values as inet: 'x', the row with id = 2",
        "t.b": "1 of 2 values are not loaded as char(3): 4 characters do not fit char(3), the row with id = 1",
    }


def test_keys_dropped_for_a_load_that_fails_are_told_of_and_come_back(
    tmp_path: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make(
        tmp_path / "a.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY, n INT); INSERT INTO p VALUES (1, 5), (2, -5);"
        "CREATE TABLE c (id INTEGER PRIMARY KEY, p INT); INSERT INTO c VALUES (1, 1);",
    )
    execute(
        database,
        """CREATE TABLE p (id bigint PRIMARY KEY, n int CHECK (n > 0));
        CREATE TABLE c (id bigint PRIMARY KEY, p bigint REFERENCES p);
        CREATE TABLE besides (p bigint REFERENCES p);
        CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
        CREATE TRIGGER watching BEFORE INSERT ON c FOR EACH ROW EXECUTE FUNCTION nothing();""",
    )
    assert run(["migrate", source, database, "--into-existing"]) == 4
    said = capsys.readouterr().err
    assert keys(database) == []
    for line in ('bring back foreign key "c_p_fkey" on "c"', 'switch on trigger "watching" on "c"'):
        assert line in said
    assert run(["status", database]) == 0
    told = capsys.readouterr().out
    assert 'bring back foreign key "besides_p_fkey" on "besides"' in told
    assert f"go on: dbscale migrate {source}" in told
    assert "--into-existing" in told
    assert run(["status", database, "--json"]) == 0
    assert '  switch on trigger "watching" on "c"' in json.loads(capsys.readouterr().out)[0]["outstanding"]
    with sqlite3.connect(source) as connection:
        connection.execute("UPDATE p SET n = 1")
    assert run(["migrate", source, database, "--into-existing"]) == 0
    assert keys(database) == [("besides_p_fkey", True), ("c_p_fkey", True)]
    assert rows(database, "SELECT tgenabled FROM pg_trigger WHERE NOT tgisinternal") == [("O",)]
    assert run(["status", database]) == 0
    assert "bring back" not in capsys.readouterr().out


def test_undo_of_a_load_that_failed_brings_the_keys_back(tmp_path: Path, database: str) -> None:
    source = make(
        tmp_path / "a.db", "CREATE TABLE p (id INTEGER PRIMARY KEY, n INT); INSERT INTO p VALUES (1, 5), (2, -5);"
    )
    execute(
        database,
        "CREATE TABLE p (id bigint PRIMARY KEY, n int CHECK (n > 0)); CREATE TABLE besides (p bigint REFERENCES p)",
    )
    assert run(["migrate", source, database, "--into-existing"]) == 4
    assert run(["undo", "1", database, "--yes"]) == 0
    assert keys(database) == [("besides_p_fkey", True)]


def test_tables_that_others_refer_to_are_emptied_only_if_those_are_empty(
    tmp_path: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make(tmp_path / "a.db", "CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1);")
    execute(
        database,
        "CREATE TABLE p (id bigint PRIMARY KEY); INSERT INTO p VALUES (5);"
        "CREATE TABLE besides (p bigint REFERENCES p); INSERT INTO besides VALUES (5)",
    )
    status, blockers = planned(capsys, source, database, "--truncate")
    assert status == 2
    assert blockers["target-not-empty"]["where"] == "besides"
    execute(database, "TRUNCATE besides")
    assert run(["migrate", source, database, "--into-existing", "--truncate", "--yes"]) == 0
    assert keys(database) == [("besides_p_fkey", True)]


def test_a_type_that_the_server_cannot_read_at_all(
    tmp_path: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The embedded servers have no libxml; one that has reads neither value either."""
    source = make(tmp_path / "a.db", "CREATE TABLE t (a TEXT); INSERT INTO t VALUES ('<a>'), ('</b');")
    execute(database, "CREATE TABLE t (a xml)")
    status, blockers = planned(capsys, source, database)
    assert status == 2
    assert "PostgreSQL does not read 2 of 2 values as xml" in blockers["type-does-not-fit"]["says"]


def test_arrays_of_the_target_are_compared_as_their_text(tmp_path: Path, database: str) -> None:
    source = make(
        tmp_path / "a.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT, c TEXT); CREATE TABLE n (a TEXT, b TEXT, c TEXT);"
        "INSERT INTO t (a, b, c) VALUES ('{a,b}', '{t,f}', '{1,2}'), (NULL, '{}', '{NULL}');"
        "INSERT INTO n SELECT a, b, c FROM t;",
    )
    columns = "a text[], b boolean[], c integer[]"
    execute(database, f"CREATE TABLE t (id bigint PRIMARY KEY, {columns}); CREATE TABLE n ({columns})")
    assert run(["migrate", source, database, "--into-existing"]) == 0
    execute(database, "UPDATE t SET a = '{b,a}' WHERE id = 1; UPDATE n SET c = '{2,1}' WHERE c = '{1,2}'")
    assert run(["verify", source, database, "--into-existing", "--only", "t"]) == 1
    assert run(["verify", source, database, "--into-existing", "--only", "n"]) == 1
