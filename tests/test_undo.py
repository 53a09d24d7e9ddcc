"""`dbscale undo`: all of a run is taken back, or nothing is changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from by_hand import execute, make, rows
from dbscale import undoing
from dbscale.cli import run
from dump import dump

USAGE = 2


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return make(tmp_path / "z.db", "CREATE TABLE z (a INTEGER PRIMARY KEY); INSERT INTO z VALUES (1), (2);")


def states(url: str) -> list[tuple[Any, ...]]:
    return rows(url, "SELECT id, state, error FROM dbscale.runs ORDER BY id")


def test_rows_that_refer_to_the_loaded_ones_stop_it_before_anything_is_changed(
    source: str, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(database, "CREATE TABLE z (a int PRIMARY KEY); CREATE TABLE keep (id int, z int REFERENCES z)")
    assert run(["migrate", source, database, "--into-existing", "--yes"]) == 0
    execute(database, "INSERT INTO keep VALUES (1, 1)")
    before = dump(database)
    capsys.readouterr()
    assert run(["undo", "1", database, "--yes"]) == USAGE
    said = capsys.readouterr().err
    assert "keep_z_fkey" in said
    assert "nothing was changed" in said
    assert dump(database) == before
    assert states(database) == [(1, "done", None)]
    execute(database, "DELETE FROM keep")
    assert run(["undo", "1", database, "--yes"]) == 0
    assert rows(database, "SELECT count(*) FROM z") == [(0,)]
    assert rows(database, "SELECT convalidated FROM pg_constraint WHERE conname = 'keep_z_fkey'") == [(True,)]


def test_a_key_of_somebodys_own_table_stops_it_before_anything_is_changed(
    tmp_path: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    script = """
        CREATE TABLE dept (id INTEGER PRIMARY KEY, head INTEGER REFERENCES emp (id), name TEXT UNIQUE);
        CREATE TABLE emp (id INTEGER PRIMARY KEY, dept INTEGER REFERENCES dept (id));
        CREATE INDEX by_dept ON emp (dept);
        INSERT INTO dept VALUES (1, 1, 'a'); INSERT INTO emp VALUES (1, 1);
    """
    cyclic = make(tmp_path / "cyclic.db", script)
    assert run(["migrate", cyclic, database]) == 0
    execute(database, "CREATE TABLE k (e bigint REFERENCES dept (id)); INSERT INTO k VALUES (1)")
    before = dump(database)
    assert run(["undo", "1", database, "--yes"]) == USAGE
    assert "k_e_fkey" in capsys.readouterr().err
    assert dump(database) == before
    assert states(database) == [(1, "done", None)]
    assert run(["verify", cyclic, database]) == 0
    execute(database, "DROP TABLE k")
    assert run(["undo", "1", database, "--yes"]) == 0
    assert rows(database, "SELECT to_regclass('dept'), to_regclass('emp')") == [(None, None)]
    assert rows(database, "SELECT count(*) FROM dbscale.steps") == [(0,)]


def test_what_a_newer_run_loaded_is_not_taken_away(
    source: str, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(database, "CREATE TABLE z (a int PRIMARY KEY)")
    assert run(["migrate", source, database, "--into-existing", "--yes"]) == 0
    assert run(["migrate", source, database, "--into-existing", "--truncate", "--yes"]) == 0
    capsys.readouterr()
    assert run(["undo", "1", database, "--yes"]) == USAGE
    assert "dbscale undo 2" in capsys.readouterr().err
    assert rows(database, "SELECT count(*) FROM z") == [(2,)]
    assert [state for _, state, _ in states(database)] == ["done", "done"]
    assert run(["undo", "2", database, "--yes"]) == 0
    assert run(["undo", "1", database, "--yes"]) == 0


def test_a_table_that_a_newer_run_made_is_not_dropped(source: str, database: str, tmp_path: Path) -> None:
    other = make(tmp_path / "other.db", "CREATE TABLE z (b TEXT); INSERT INTO z VALUES ('x');")
    assert run(["migrate", source, database]) == 0
    execute(database, "DROP TABLE z")
    assert run(["migrate", other, database]) == 0
    assert run(["undo", "1", database, "--yes"]) == USAGE
    assert rows(database, "SELECT b FROM z") == [("x",)]


@pytest.mark.parametrize("words", [["--dry-run"], []], ids=["dry run", "no terminal to ask on"])
def test_refusals_come_before_the_question(
    words: list[str], source: str, database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make(tmp_path / "other.db", "CREATE TABLE z (b TEXT); INSERT INTO z VALUES ('x');")
    assert run(["migrate", source, database]) == 0
    execute(database, "ALTER TABLE z RENAME TO kept")
    assert run(["undo", "1", database, *words]) == USAGE
    assert "called kept now" in capsys.readouterr().err
    assert run(["migrate", other, database]) == 0
    assert run(["undo", "1", database, *words]) == USAGE
    assert "run 2, which is newer, wrote to the same tables" in capsys.readouterr().err
    execute(database, "UPDATE dbscale.runs SET state = 'running' WHERE id = 2")
    with psycopg.connect(database) as at_work:
        at_work.execute(
            "UPDATE dbscale.runs SET holder_pid = pid, holder_start = backend_start FROM pg_stat_activity"
            " WHERE id = 2 AND pid = pg_backend_pid()"
        )
        at_work.commit()
        for refused in (["undo", "1", database, *words], ["migrate", source, database, "--schema", "other"]):
            assert run(refused) == USAGE
            assert "run 2 is at work" in capsys.readouterr().err


def test_a_dry_run_needs_no_note_of_what_was_filled(source: str, database: str) -> None:
    """A catalog of an older version has none."""
    assert run(["migrate", source, database]) == 0
    execute(database, "DROP TABLE dbscale.filled")
    assert run(["undo", "1", database, "--dry-run"]) == 0


@pytest.mark.parametrize("into", ["new", "existing"])
def test_somebodys_own_table_of_the_name_is_left_alone(
    into: str, source: str, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if into == "existing":
        execute(database, "CREATE TABLE z (a int PRIMARY KEY)")
    words = ["--into-existing"] if into == "existing" else []
    assert run(["migrate", source, database, *words, "--yes"]) == 0
    execute(database, "DROP TABLE z; CREATE TABLE z (a int PRIMARY KEY); INSERT INTO z VALUES (7), (8)")
    before = dump(database)
    assert run(["undo", "1", database, "--yes"]) == USAGE
    assert "is not the table that the run filled: that one is gone" in capsys.readouterr().err
    assert dump(database) == before
    assert states(database) == [(1, "done", None)]
    if into == "new":
        execute(database, "CREATE SCHEMA mine; ALTER TABLE z SET SCHEMA mine")
        assert run(["undo", "1", database, "--yes"]) == 0
        assert rows(database, "SELECT a FROM mine.z ORDER BY 1") == [(7,), (8,)]


def test_a_table_that_was_rewritten_is_still_the_run_s(source: str, database: str) -> None:
    assert run(["migrate", source, database]) == 0
    before = rows(database, "SELECT pg_relation_filenode('z')")
    execute(database, "VACUUM FULL z")
    assert rows(database, "SELECT pg_relation_filenode('z')") != before
    assert run(["undo", "1", database, "--yes"]) == 0
    assert rows(database, "SELECT to_regclass('z')") == [(None,)]


def test_a_table_that_was_renamed_is_not_half_taken_back(
    source: str, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["migrate", source, database]) == 0
    execute(database, "ALTER TABLE z RENAME TO kept")
    before = dump(database)
    assert run(["undo", "1", database, "--yes"]) == USAGE
    assert "called kept now" in capsys.readouterr().err
    assert dump(database) == before
    execute(database, "DROP TABLE kept")
    assert run(["undo", "1", database, "--yes"]) == 0


def test_half_undone_status_says_undo_again_and_migrate_does_what_is_missing(
    source: str, database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if one database's part had been committed, and another's not."""
    assert run(["migrate", source, database]) == 0
    undo_one = undoing._undo_one

    def stopping(context: Any, back: Any, number: int, step: Any) -> None:
        if step.kind == "Load":
            back.commit()
            raise KeyboardInterrupt
        undo_one(context, back, number, step)

    with monkeypatch.context() as patched:
        patched.setattr(undoing, "_undo_one", stopping)
        assert run(["undo", "1", database, "--yes"]) == 130
    assert rows(database, "SELECT count(*) FROM pg_constraint WHERE conrelid = 'z'::regclass AND contype = 'p'") == [
        (0,)
    ]
    capsys.readouterr()
    assert run(["status", database]) == 0
    said = capsys.readouterr().out
    assert "go on taking it back: dbscale undo 1" in said
    assert "or do again what was taken back: dbscale migrate" in said
    assert run(["migrate", source, database]) == 0
    assert states(database) == [(1, "done", None)]
    assert run(["verify", source, database]) == 0
    assert run(["undo", "1", database, "--yes"]) == 0
    assert rows(database, "SELECT to_regclass('z')") == [(None,)]


def test_interrupted_before_the_commit_nothing_is_changed(
    source: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["migrate", source, database]) == 0
    before = dump(database)

    def stopping(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(undoing._Back, "commit", stopping)
        assert run(["undo", "1", database, "--yes"]) == 130
    assert dump(database) == before
    assert states(database) == [(1, "done", None)]
    assert run(["undo", "1", database, "--yes"]) == 0
