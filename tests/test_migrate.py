"""`dbscale migrate` and its kin as a user runs them, on real servers."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from click.testing import CliRunner

from by_hand import execute, make, rows
from dbscale.cli import dbscale, run
from dbscale.drivers import postgres
from dump import dump

SHOP = """
CREATE TABLE users (Id INTEGER PRIMARY KEY AUTOINCREMENT, Name TEXT NOT NULL, IsActive INTEGER, Joined TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER REFERENCES users (Id), total REAL, note TEXT);
CREATE TABLE alembic_version (version_num VARCHAR(32));
INSERT INTO users VALUES (1, 'Ann', 1, '2024-01-02 03:04:05'), (7, '김', 0, '2024-01-02 03:04:06');
DELETE FROM users WHERE Id = 7;
INSERT INTO users VALUES (3, '김', 0, NULL);
INSERT INTO orders VALUES (10, 1, 19.99, NULL), (11, 3, 0.1, 'a\nb');
INSERT INTO alembic_version VALUES ('abc');
"""

APPLICATION = """
CREATE TABLE users (id serial PRIMARY KEY, name varchar(20) NOT NULL, isactive boolean, joined timestamptz,
                    updated_at timestamptz DEFAULT now());
CREATE SEQUENCE order_numbers;
CREATE TABLE orders (id bigint PRIMARY KEY DEFAULT nextval('order_numbers'), note text, total numeric(10,2),
                     user_id integer NOT NULL REFERENCES users ON DELETE CASCADE);
CREATE TABLE alembic_version (version_num varchar(32));
INSERT INTO alembic_version VALUES ('xyz');
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN NEW.name := 'touched'; RETURN NEW; END $$;
CREATE TRIGGER touching BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION touch();
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "shop.db"
    with sqlite3.connect(file) as connection:
        connection.executescript(SHOP)
    return file


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """A command line with --json: its status and its document."""
    status = run([*arguments, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_every_row_is_accounted_for(shop: Path, database: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, document = answer(capsys, "migrate", str(shop), database)
    assert status == 0
    assert {table["table"]: table["loaded"] for table in document["tables"]} == {
        "users": 2,
        "orders": 2,
        "alembic_version": 1,
    }
    assert all(table["source_rows"] == table["loaded"] + table["quarantined"] for table in document["tables"])
    assert document["verify"]["same"] is True
    assert rows(database, "SELECT total, note FROM orders ORDER BY id") == [(19.99, None), (0.1, "a\nb")]


def test_new_rows_get_numbers_beyond_the_last_ever_given(shop: Path, database: str) -> None:
    assert run(["migrate", str(shop), database]) == 0
    assert rows(database, """INSERT INTO users ("Name") VALUES ('new') RETURNING "Id" """) == [(8,)]
    assert rows(database, "INSERT INTO orders (total) VALUES (1) RETURNING id") == [(12,)]


def test_every_row_is_on_the_disk_and_known_to_be_visible(shop: Path, database: str) -> None:
    """VACUUM passes over rows whose commit is not flushed, and nothing else flushes it here for ten seconds."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
        connection.execute("SELECT pg_reload_conf()")
        try:
            assert run(["migrate", str(shop), database, "--no-verify"]) == 0
        finally:
            connection.execute("ALTER SYSTEM RESET wal_writer_delay")
            connection.execute("SELECT pg_reload_conf()")
        assert connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            " AND relallvisible < relpages"
        ).fetchall() == []  # fmt: skip


def test_undo_brings_the_first_state_back(shop: Path, database: str) -> None:
    execute(database, "CREATE TABLE mine (a int); INSERT INTO mine VALUES (1)")
    before = dump(database)
    assert run(["migrate", str(shop), database]) == 0
    assert dump(database) != before
    assert run(["undo", "1", database, "--yes"]) == 0
    assert dump(database) == before
    assert run(["migrate", str(shop), database]) == 0


def test_again_there_is_nothing_to_do(shop: Path, database: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["migrate", str(shop), database]) == 0
    after = dump(database)
    assert run(["migrate", str(shop), database]) == 0
    assert "run 1 has done this already" in capsys.readouterr().err
    assert dump(database) == after


def test_again_where_all_tables_are_gone_copies_anew(
    shop: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["migrate", str(shop), database]) == 0
    execute(database, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    capsys.readouterr()
    assert run(["migrate", str(shop), database]) == 0
    assert "run 1 had done this already, and its tables are gone since" in capsys.readouterr().err
    assert rows(database, "SELECT id, state FROM dbscale.runs ORDER BY 1") == [(1, "done"), (2, "done")]
    assert run(["verify", str(shop), database]) == 0
    for number in ("2", "1"):
        assert run(["undo", number, database, "--yes"]) == 0


@pytest.mark.parametrize(
    "drop", ["DROP SCHEMA new CASCADE", "DROP TABLE new.users CASCADE", "DROP TABLE new.orders, new.users"]
)
def test_again_where_tables_of_an_interrupted_run_are_gone(
    shop: Path, database: str, drop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with sqlite3.connect(shop) as connection:
        connection.execute("CREATE TABLE broken AS SELECT 1 AS id, CAST(x'ff' AS TEXT) AS a")
    command = ["migrate", str(shop), database, "--schema", "new", "--on-bad-row"]
    assert run([*command, "stop"]) == 4
    execute(database, drop)
    assert run([*command, "stop"]) == 4
    assert "tables that run 1 had made are gone since" in capsys.readouterr().err
    assert rows(database, "SELECT id, state FROM dbscale.runs ORDER BY 1") == [(1, "undone"), (2, "failed")]
    execute(database, drop)
    assert run([*command, "quarantine", "--on-invalid-text", "quarantine", "--yes"]) == 1
    assert rows(database, "SELECT count(*) FROM new.users") == [(2,)]


@pytest.mark.parametrize("saved", [False, True])
def test_again_where_some_tables_are_gone_says_what_to_do(
    saved: bool,
    shop: Path,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = str(shop.with_name("plan.json"))
    monkeypatch.setenv("PGPASSWORD", str(urlsplit(database).password))  # plans carry none
    assert run(["migrate", str(shop), database, "-o", plan]) == 0
    command = ["apply", plan] if saved else ["migrate", str(shop), database]
    assert run([*command, "--yes"]) == 0
    execute(database, "DROP TABLE orders CASCADE")
    before = dump(database)
    capsys.readouterr()
    assert run([*command, "--yes"]) == 2
    said = capsys.readouterr().err
    assert 'some of its tables are gone since: "public"."orders"' in said
    assert "dbscale undo 1" in said
    assert "docs/errors.md#tables-gone" in said
    assert dump(database) == before
    assert run(["undo", "1", database, "--yes"]) == 0
    assert run([*command, "--yes"]) == 0


@pytest.mark.parametrize(("words", "way"), [([], "dbscale undo 1 "), (["--into-existing"], "--truncate")])
def test_again_where_rows_have_changed_says_how_to_copy_anew(
    words: list[str], way: str, shop: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if words:
        execute(database, APPLICATION)
    assert run(["migrate", str(shop), database, *words]) == 0
    execute(database, "DELETE FROM orders")
    capsys.readouterr()
    assert run(["migrate", str(shop), database, *words]) == 1
    assert way in capsys.readouterr().err.splitlines()[-1]


def test_dry_run_changes_nothing(shop: Path, database: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = dump(database)
    assert run(["migrate", str(shop), database, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "3 tables, 5 rows" in shown
    assert "nothing is blocked" in shown
    assert dump(database) == before
    assert rows(database, "SELECT to_regnamespace('dbscale')") == [(None,)]


def test_a_role_s_own_settings_change_nothing(
    shop: Path, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(shop)) as source:
        source.executescript(
            "CREATE TABLE floats (id INTEGER PRIMARY KEY, real REAL, day DATE, bytes BLOB, at TIMESTAMP);"
            "INSERT INTO floats VALUES (1, 0.1, '2020-02-01', x'00ff5c', '2020-02-01 12:00:00+05:30');"
            "CREATE VIEW sums AS SELECT id, real * 3 AS much, day, at FROM floats"
        )
    settings = (
        "datestyle = 'SQL, DMY'",
        "timezone = 'Asia/Kolkata'",
        "extra_float_digits = -5",
        "bytea_output = escape",
        "intervalstyle = sql_standard",
        "standard_conforming_strings = off",
        "search_path = nosuch",
        "idle_in_transaction_session_timeout = 100",
        "idle_session_timeout = 100",
        "statement_timeout = '1s'",
    )
    name = urlsplit(database).path.removeprefix("/")
    execute(database, ";".join(f"ALTER DATABASE {name} SET {each}" for each in settings))
    assert run(["migrate", str(shop), database]) == 0
    assert run(["verify", str(shop), database]) == 0
    assert run(["status", database]) == 0
    assert "  1  done" in capsys.readouterr().out
    with postgres.connect(database) as connection, postgres.reading(connection):
        connection.execute("SELECT 1")
        time.sleep(0.3)  # as when the source takes long
        connection.execute("SELECT pg_sleep(1.2)")  # as on a busy server
        assert connection.execute("SELECT 0.1::float8 + 0.2::float8, timestamptz 'epoch'").fetchone() == (
            0.1 + 0.2,
            datetime(1970, 1, 1, tzinfo=UTC),
        )
    with postgres.connect(database) as connection, connection.transaction():
        connection.execute("SELECT pg_sleep(1.2)")
        time.sleep(0.3)
        connection.execute("SELECT 1")
    with postgres.connect(database) as connection:  # the claim of a run, while rows are loaded
        time.sleep(0.3)
        connection.execute("SELECT 1")
    assert run(["doctor", database]) == 1  # fsync is off here
    assert run(["undo", "1", database, "--yes"]) == 0


@pytest.mark.parametrize("words", [[], ["--into-existing"]])
def test_a_server_that_takes_no_writes_stops_the_plan(
    words: list[str], shop: Path, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("PGOPTIONS", "-c default_transaction_read_only=on")
        assert run(["migrate", str(shop), database, "--dry-run", *words]) == 3
    said = capsys.readouterr().err
    assert "default_transaction_read_only is on" in said
    assert "docs/errors.md#read-only" in said


@pytest.mark.parametrize("words", [["--schema", ""], ["--schema", "é" * 32], ["--state-schema", ""]])
def test_a_schema_s_name_that_postgresql_would_not_take_as_it_is(
    words: list[str], shop: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["migrate", str(shop), database, *words]) == 2
    assert "1 to 63 bytes" in capsys.readouterr().err
    assert rows(database, "SELECT to_regnamespace('dbscale')") == [(None,)]


def test_a_selection_that_leaves_nothing_is_refused(
    shop: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["migrate", str(shop), database, "--only", "users", "--skip", "Users"]) == 2
    assert "they leave no table" in capsys.readouterr().err


@pytest.mark.parametrize("form", [["-o", "plan.json"], ["--sql"], ["--dry-run", "--json"]])
def test_what_blocks_a_plan_is_told_in_every_form(
    form: list[str], database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect("nul.db")) as source:
        source.executescript("CREATE TABLE t(a TEXT); INSERT INTO t VALUES ('a' || char(0) || 'b')")
    assert run(["migrate", "nul.db", database, *form]) == 2
    said = capsys.readouterr().err
    assert said.count("[nul-in-text]") == 1
    assert "1 findings block this plan: dbscale apply refuses it" in said
    assert "carry it out with" not in said
    assert run(["migrate", "nul.db", database]) == 2
    said = capsys.readouterr().err
    assert said.count("have a NUL character") == 1
    assert "see  docs/errors.md#nul-in-text" in said


def test_saved_plan(shop: Path, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan carries no password: libpq finds it where it always does."""
    plan = tmp_path / "plan.json"
    password = urlsplit(database).password
    assert password
    assert run(["migrate", str(shop), database, "-o", str(plan)]) == 0
    assert password not in plan.read_text()
    monkeypatch.setenv("PGPASSWORD", password)
    assert run(["apply", str(plan), "--yes"]) == 0
    assert rows(database, "SELECT count(*) FROM orders") == [(2,)]


def test_a_saved_plan_is_verified(
    shop: Path,
    database: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGPASSWORD", urlsplit(database).password or "")
    (tmp_path / "dbscale.toml").write_text('[migrate.types]\n"users.IsActive" = "boolean"\n')
    options = ("--only", "users", "--identifiers", "snake", "--schema", "shop", "-o", "plan.json")
    assert run(["migrate", str(shop), database, *options]) == 0
    (tmp_path / "dbscale.toml").unlink()
    capsys.readouterr()
    status, document = answer(capsys, "apply", "plan.json")
    assert status == 0
    assert document["verify"]["same"] is True
    assert [table["target"] for table in document["verify"]["tables"]] == ["shop.users"]
    execute(database, "UPDATE shop.users SET name = 'x' WHERE id = 1")
    assert run(["apply", "plan.json"]) == 1
    assert "name: Ann became x" in capsys.readouterr().out
    assert run(["apply", "plan.json", "--no-verify"]) == 0
    assert "verified" not in capsys.readouterr().out


def test_a_plan_for_another_schema_is_stale(shop: Path, database: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    assert run(["migrate", str(shop), database, "-o", str(plan)]) == 0
    with sqlite3.connect(shop) as connection:
        connection.execute("ALTER TABLE orders ADD COLUMN paid INTEGER")
    assert run(["apply", str(plan), "--yes"]) == 2


def test_sql_of_the_plan_runs_by_itself(shop: Path, database: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["migrate", str(shop), database, "--sql"]) == 0
    script = capsys.readouterr().out
    for statement in script.split(";\n"):
        execute(database, statement)
    assert rows(database, "SELECT count(*) FROM users") == [(0,)]


def test_only_and_skip(shop: Path, database: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, document = answer(capsys, "migrate", str(shop), database, "--only", "users")
    assert status == 0
    assert [table["table"] for table in document["tables"]] == ["users"]
    status, document = answer(
        capsys, "migrate", str(shop), database, "--schema", "new", "--skip", "users", "--identifiers", "lower"
    )
    assert status == 0
    assert [table["target"] for table in document["tables"]] == ["new.orders", "new.alembic_version"]


def test_into_existing(shop: Path, database: str) -> None:
    execute(database, APPLICATION)
    before = dump(database)
    assert run(["migrate", str(shop), database, "--into-existing"]) == 0
    assert rows(database, "SELECT id, name, isactive, joined FROM users ORDER BY id") == rows(
        database,
        "VALUES (1, 'Ann'::varchar, true, timestamptz '2024-01-02 03:04:05+00'), (3, '김', false, NULL)",
    )
    assert rows(database, "SELECT version_num FROM alembic_version") == [("xyz",)]
    definitions = [line for line in dump(database).splitlines() if line.startswith(("constraint", "trigger"))]
    assert definitions == [line for line in before.splitlines() if line.startswith(("constraint", "trigger"))]
    assert rows(database, "INSERT INTO users (name) VALUES ('new') RETURNING id, name") == [(8, "touched")]
    assert rows(database, "INSERT INTO orders (user_id) VALUES (1) RETURNING id") == [(12,)]


def test_undo_of_into_existing(shop: Path, database: str) -> None:
    execute(database, APPLICATION)
    constraints = [line for line in dump(database).splitlines() if not line.split(" ")[0].endswith("_seq")]
    assert run(["migrate", str(shop), database, "--into-existing"]) == 0
    assert run(["undo", "1", database, "--yes"]) == 0
    after = [line for line in dump(database).splitlines() if not line.split(" ")[0].endswith("_seq")]
    assert [line for line in after if "order_numbers" not in line] == [
        line for line in constraints if "order_numbers" not in line
    ]


def test_a_row_that_an_index_does_not_take(tmp_path: Path, database: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A text above what a B-tree holds is that row's fault, not the server's."""
    path = tmp_path / "wide.db"
    wide = random.Random(1).randbytes(5000).hex()
    make(
        path, f"CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t VALUES (1, 'a'), (2, '{wide}'), (3, 'c')"
    )
    execute(database, "CREATE TABLE t (id bigint PRIMARY KEY, v text UNIQUE)")
    assert run(["migrate", str(path), database, "--into-existing"]) == 4
    said = capsys.readouterr().err
    assert "t: PostgreSQL: index row requires" in said
    assert "the row with id = 2" in said
    assert run(["migrate", str(path), database, "--into-existing", "--on-bad-row", "quarantine", "--yes"]) == 1
    assert rows(database, "SELECT id FROM t ORDER BY id") == [(1,), (3,)]
    assert rows(database, "SELECT row_key FROM dbscale.quarantine") == [({"id": 2},)]


def test_into_existing_refuses_rows_until_told(shop: Path, database: str) -> None:
    execute(database, APPLICATION)
    execute(database, "INSERT INTO users (id, name) VALUES (1, 'seed')")
    assert run(["migrate", str(shop), database, "--into-existing"]) == 2
    assert rows(database, "SELECT count(*) FROM users") == [(1,)]
    assert run(["migrate", str(shop), database, "--into-existing", "--truncate", "--yes"]) == 0
    assert rows(database, "SELECT count(*) FROM users") == [(2,)]


def test_into_existing_names_what_does_not_fit(shop: Path, database: str, capsys: pytest.CaptureFixture[str]) -> None:
    execute(database, APPLICATION.replace("isactive boolean", "isactive boolean, must text NOT NULL"))
    execute(database, "ALTER TABLE orders DROP COLUMN note")
    assert run(["migrate", str(shop), database, "--into-existing"]) == 2
    said = capsys.readouterr().err
    assert "orders.note" in said
    assert "users.must" in said


def test_a_column_left_out_as_asked(shop: Path, database: str, tmp_path: Path) -> None:
    execute(database, APPLICATION)
    execute(database, "ALTER TABLE orders DROP COLUMN note")
    (tmp_path / "dbscale.toml").write_text('[migrate.types]\n"orders.note" = "skip"\n')
    assert run(["migrate", str(shop), database, "--into-existing"]) == 0


def test_bad_rows_stop_or_are_kept_apart(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with sqlite3.connect("bad.db") as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", [(i, f"text {i}") for i in range(1, 5001)])
        connection.execute("UPDATE t SET a = CAST(x'66ff' AS TEXT) WHERE id IN (7, 4000)")
    assert run(["migrate", "bad.db", database]) == 4
    said = capsys.readouterr().err
    assert "t.a" in said
    assert "7" in said
    status, document = answer(capsys, "migrate", "bad.db", database, "--on-invalid-text", "quarantine", "--yes")
    assert status == 1
    (table,) = document["tables"]
    assert (table["source_rows"], table["loaded"], table["quarantined"]) == (5000, 4998, 2)
    assert document["verify"]["same"] is True
    kept = rows(database, "SELECT row_key, column_name, raw FROM dbscale.quarantine ORDER BY id")
    assert kept == [({"id": 7}, "a", b"f\xff"), ({"id": 4000}, "a", b"f\xff")]


def test_the_quarantine_names_rows_so_that_nothing_is_lost(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with sqlite3.connect("bad.db") as connection:
        connection.execute("CREATE TABLE t (k TEXT PRIMARY KEY, a TEXT)")
        connection.execute("CREATE TABLE b (k BLOB PRIMARY KEY, a TEXT)")
        connection.execute("CREATE TABLE r (k REAL PRIMARY KEY, a TEXT)")
        bad = "CAST(x'ff' AS TEXT)"
        connection.execute(
            f"INSERT INTO t VALUES (CAST(x'66ff' AS TEXT), 'x'), ('ok', 'y'), ('\\x66ff', {bad}),"
            f" (CAST(x'610062' AS TEXT), 'z'), ('\\', {bad})"
        )
        connection.execute(f"INSERT INTO b VALUES (x'66ff', {bad}), (CAST('ab' AS BLOB), {bad}), (x'00', 'y')")
        connection.execute(f"INSERT INTO r VALUES (1, 'y'), (0.1, {bad}), (-9e999, {bad}), (1e20, {bad})")
    status, document = answer(capsys, "migrate", "bad.db", database, "--on-invalid-text", "quarantine")
    assert (status, document["verify"]["same"]) == (1, True)
    assert sorted((table["table"], table["quarantined"]) for table in document["tables"]) == [
        ("b", 2),
        ("r", 3),
        ("t", 4),
    ]
    assert sorted(rows(database, "SELECT table_name, row_key ->> 'k' FROM dbscale.quarantine")) == [
        ("b", r"\x6162"),
        ("b", r"\x66ff"),
        ("r", "0.1"),
        ("r", "100000000000000000000"),
        ("r", r"\-Infinity"),
        ("t", r"\\"),
        ("t", r"\\x66ff"),
        ("t", r"\x610062"),
        ("t", r"\x66ff"),
    ]


def test_a_changed_source_is_loaded_anew(
    shop: Path, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dbscale import apply

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(apply, "_carry_out", _stop_after_loads(apply._carry_out))
        assert run(["migrate", str(shop), database]) == 130
    with sqlite3.connect(shop) as connection:
        connection.execute("UPDATE orders SET total = 5")
    assert run(["migrate", str(shop), database]) == 0
    assert "loaded anew" in capsys.readouterr().err
    assert rows(database, "SELECT DISTINCT total FROM orders") == [(5.0,)]


def _stop_after_loads(carry_out: Callable[..., Any]) -> Callable[..., Any]:
    def stopping(context: Any, group: Any) -> Any:
        if group[0][1].group == "keys":
            raise KeyboardInterrupt
        return carry_out(context, group)

    return stopping


def test_status_tells_how_to_go_on(
    shop: Path, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dbscale import apply

    with monkeypatch.context() as patched:
        patched.setattr(apply, "_carry_out", _stop_after_loads(apply._carry_out))
        assert run(["migrate", str(shop), database]) == 130
    capsys.readouterr()
    assert run(["status", database]) == 0
    shown = capsys.readouterr().out
    assert "interrupted" in shown
    assert "dbscale migrate" in shown
    assert "dbscale undo 1" in shown


def test_help_of_every_command() -> None:
    for name in dbscale.list_commands(None):  # type: ignore[arg-type]
        result = CliRunner().invoke(dbscale, [name, "--help"])
        assert result.exit_code == 0, result.output
        assert "Usage: " in result.output


@pytest.mark.parametrize("pure", ["", "1"], ids=["binary", "sql"])
def test_a_large_value_is_not_held_many_times(tmp_path: Path, database: str, pure: str) -> None:
    """The client's memory grows by less than four times the largest value, in both forms, verify included."""
    sizes = (1, 40_000_000)
    peaks = []
    for size in sizes:
        with sqlite3.connect(tmp_path / f"{size}.db") as connection:
            connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a BLOB)")
            connection.execute("INSERT INTO t VALUES (1, ?)", [os.urandom(size)])
        code = (
            "import resource, sys; from dbscale.cli import run; status = run(sys.argv[1:]);"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024); sys.exit(status)"
        )
        arguments = ["migrate", str(tmp_path / f"{size}.db"), database, "--schema", f"s{size}"]
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={**os.environ, "DBSCALE_PURE_SQL": pure},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 4 * sizes[1]
