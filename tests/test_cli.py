"""The command line's contract: one JSON document with --json whatever happens, four parts of an error, exit codes."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from psycopg.conninfo import conninfo_to_dict

from dbscale import errors
from dbscale.cli import BUG, COMMANDS, DATABASE, INTERRUPTED, STOPPED, USAGE, dbscale, output, run
from dbscale.drivers.postgres import display


def commands(
    group: click.Group = dbscale, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command of the whole table, the hidden ones too, with the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context) if path else sorted(COMMANDS):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


TABLE = dict(commands())


def test_the_table_is_whole() -> None:
    assert len(TABLE) > 25
    assert {path[0] for path in TABLE} == set(COMMANDS)


@pytest.mark.parametrize("path", TABLE, ids=" ".join)
def test_every_command_takes_json(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert "--json" in {flag for option in TABLE[path].params for flag in option.opts}
    assert run([*path, "--json", "--no-such-option"]) == USAGE
    document = json.loads(capsys.readouterr().out)
    assert document["exit"] == USAGE
    assert document["error"]["code"] == "config-error"
    if not TABLE[path].context_settings.get(
        "ignore_unknown_options"
    ):  # where a key may be a negative number, it is taken for a key
        assert document["error"]["where"] == " ".join(("dbscale", *path))
        assert "--no-such-option" in document["error"]["says"]


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make `dbscale boom --json` a command that raises `error`."""

    @click.command()
    @click.option("--json", is_flag=True)
    @click.option("--answer", is_flag=True)
    def boom(json: bool, answer: bool) -> None:
        if answer:
            output.answer_json({"half": True})
        raise error

    monkeypatch.setitem(COMMANDS, "boom", "test_cli:boom")
    monkeypatch.setattr(sys.modules[__name__], "boom", boom, raising=False)


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (errors.ConfigError("x", where="here", try_="this"), "config-error", 2),
        (errors.SourceError("x", see="docs/errors.md#source-damaged"), "source-damaged", 3),
        (errors.Unreachable("no answer from postgresql://u:hunter2@h/d"), "unreachable", 3),
        (errors.Unfinished("x"), "unfinished", STOPPED),
        (errors.Unroutable("x"), "unroutable", 1),
        (PermissionError(13, "Permission denied", "plan.json"), "config-error", 2),
        (ZeroDivisionError("postgresql://u:hunter2@h/d"), "bug", BUG),
        (KeyboardInterrupt(), "interrupted", INTERRUPTED),
        (click.UsageError("x"), "config-error", 2),
    ],
)
def test_an_error_is_a_document_with_json(
    error: BaseException, code: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, error)
    assert run(["boom", "--json"]) == status
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert (document["error"]["code"], document["exit"]) == (code, status)
    assert set(document["error"]) == {"code", "says", "where", "try", "see"}
    assert told.err
    assert "hunter2" not in told.out + told.err

    assert run(["boom"]) == status  # without --json stdout stays empty
    assert capsys.readouterr().out == ""
    assert run(["boom", "--json", "--answer"]) == status  # what was answered stays the only document
    assert json.loads(capsys.readouterr().out) == {"half": True}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
        connection.executemany("INSERT INTO t (a) VALUES (?)", [("x",)] * 10)
    return path


def shell(line: str, folder: Path) -> tuple[int, str]:
    """The status of `dbscale` itself in a line of bash where `$d` stands for it, and what was printed."""
    program = f"{sys.executable} -m dbscale.cli"
    found = subprocess.run(
        ["bash", "-c", f'd="{program}"; {line}; echo "status ${{PIPESTATUS[0]}}"'],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )
    said = found.stdout + found.stderr
    return int(found.stdout.rpartition("status ")[2]), said


def test_a_closed_pipe_does_not_stop_the_work(source: Path, database: str) -> None:
    """`| head -1` takes a line and goes: the migration is finished and verified all the same, and its status kept."""
    status, said = shell(f"$d migrate {source} '{database}' 2>&1 | true", source.parent)
    assert status == 0, said
    import psycopg

    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT state FROM dbscale.runs").fetchall() == [("done",)]
        connection.execute("DELETE FROM t WHERE id = 3")
    status, said = shell(f"$d verify {source} '{database}' | true", source.parent)
    assert status == 1
    assert "Broken" not in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_an_answer_that_cannot_be_written_is_an_error(source: Path) -> None:
    status, said = shell(f"$d assess {source} > /dev/full", source.parent)
    assert status == STOPPED
    assert "the answer cannot be written" in said
    assert "Traceback" not in said


def test_closed_streams_are_no_bug(source: Path, database: str) -> None:
    assert shell(f"$d migrate {source} '{database}' <&- >&- 2>&-", source.parent)[0] == 0
    assert shell("$d apply - <&-", source.parent)[0] == USAGE
    status, said = shell(f"$d undo 1 '{database}' <&-", source.parent)
    assert (status, "There is no terminal to ask on" in said) == (USAGE, True)


def test_what_stdout_cannot_show_is_escaped(source: Path) -> None:
    copy = source.rename(source.with_name("김.db"))
    status, said = shell(f"PYTHONIOENCODING=latin-1 $d assess {copy}", source.parent)
    assert (status, r"\uae40.db: 1 tables" in said) == (0, True)
    status, said = shell(f"PYTHONIOENCODING=latin-1 $d assess {copy} --json 2>/dev/null", source.parent)
    assert json.loads(said.rpartition("status ")[0])["source"] == str(copy)


def test_a_name_that_is_not_utf8_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["assess", os.fsdecode(b"caf\xe9.db"), "--json"]) == USAGE
    assert json.loads(capsys.readouterr().out)["error"]["where"] == r"caf\udce9.db"


def test_a_path_that_is_not_there_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("no/such.db", "~nosuchuser/such.db"):
        assert run(["assess", path]) == DATABASE
        assert f"it is taken from {tmp_path}" in capsys.readouterr().err


def test_a_role_without_rights_is_told_which(
    source: Path, database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    def execute(script: str) -> None:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(script.encode())

    role = f"role_{database.rsplit('/', 1)[1]}"
    assert run(["migrate", str(source), database]) == 0
    execute(f"CREATE ROLE {role}")
    try:
        monkeypatch.setenv("PGOPTIONS", f"-c role={role}")
        for words in (["status"], ["undo", "1"], ["verify", str(source)], ["migrate", str(source)]):
            capsys.readouterr()
            assert run([*words, database]) == DATABASE
            assert "GRANT USAGE ON SCHEMA" in capsys.readouterr().err, words
        assert run(["doctor", database]) == 1
        assert "GRANT USAGE ON SCHEMA" in capsys.readouterr().out
        monkeypatch.delenv("PGOPTIONS")
        execute(f"GRANT USAGE ON SCHEMA dbscale TO {role}; GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {role}")
        execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA dbscale, public TO {role}")
        monkeypatch.setenv("PGOPTIONS", f"-c role={role}")
        assert run(["verify", str(source), database]) == 0
        capsys.readouterr()
        assert run(["undo", "1", database, "--yes"]) == DATABASE
        assert "permission denied" in capsys.readouterr().err
    finally:
        monkeypatch.delenv("PGOPTIONS")
        execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_where_a_url_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGDATABASE", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    assert display("postgresql://u:secret@[::1]:5433/shop") == "[::1]:5433/shop"
    assert display("postgresql:///shop") == "local socket/shop"
    assert display("service=shop") == "service shop"
    monkeypatch.setenv("PGHOST", "db1")
    monkeypatch.setenv("PGDATABASE", "shop")
    assert display("postgresql://") == "db1/shop"
    monkeypatch.setenv("PGSERVICE", "far")
    assert display("postgresql://") == "service far"


@pytest.mark.parametrize(
    ("end", "remedy"),
    [
        ("_no_such", "createdb"),
        ("?sslmode=require", "check sslmode"),
        ("?options=-c%20nothing%3D1", "check the options of the URL"),
        ("?user=nobody_there", "check user and password"),
    ],
)
def test_a_refused_connection_says_what_to_do(
    end: str, remedy: str, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["status", database + end]) == DATABASE
    assert f"try  {remedy}" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["assess", "app.db", "--html"]])
def test_a_file_that_cannot_be_written(
    words: list[str], source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(source.parent)
    assert run([*words, "no/such/place", "--json"]) == USAGE
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["error"]["where"] == "no/such/place"


def test_no_such_run_says_which_there_are(source: Path, database: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["undo", "99", database, "--json"]) == USAGE
    assert "no run was ever made" in json.loads(capsys.readouterr().out)["error"]["try"]
    assert run(["migrate", str(source), database, "--no-verify"]) == 0
    capsys.readouterr()
    assert run(["undo", "99", database, "--json"]) == USAGE
    assert "1 (done)" in json.loads(capsys.readouterr().out)["error"]["try"]
    for words in (["undo", "1", database, "--dry-run"], ["undo", "1", database, "--yes"], ["undo", "1", database]):
        assert run([*words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["run"] == 1


@pytest.mark.parametrize("words", [["migrate", "", ""], ["migrate", "app.db", ""], ["status", " "], ["assess", ""]])
def test_an_empty_name_is_no_database(
    words: list[str], source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(source.parent)
    assert run(words) == USAGE
    assert "the text is empty" in capsys.readouterr().err


def test_the_way_on_names_all_that_the_run_was_given() -> None:
    from dbscale.cli.runs import flags
    from dbscale.migrate.plan import Options

    given = Options(
        only=("a b",), schema="s", into_existing=True, truncate=True, on_bad_row="quarantine", shard_maps={"farms": "x"}
    ).as_strings()
    assert flags(given) == (
        " --only 'a b' --schema s --on-bad-row quarantine --into-existing --truncate --shard-map shard_maps/farms.toml"
    )
    assert flags(given, verifying=True).endswith(" --into-existing --shard-map shard_maps/farms.toml")


def test_a_collation_that_is_not_there_stops_the_plan(
    source: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["migrate", str(source), database, "--collate", "nosuch"]) == USAGE
    assert "no collation 'nosuch'" in capsys.readouterr().err
    assert run(["migrate", str(source), database, "--collate", "C"]) == 0


def test_a_plan_does_not_go_on_with_another_plan_s_run(
    source: Path, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The steps of the two are numbered alike, and are not the same."""
    monkeypatch.chdir(source.parent)
    assert run(["migrate", str(source), database, "-o", "plan.json"]) == 0
    plan = json.loads(Path("plan.json").read_text())
    monkeypatch.setenv("PGPASSWORD", str(conninfo_to_dict(database)["password"]))  # a plan carries no password
    plan["steps"][-1]["sql"] = "SELECT 1 / 0"
    Path("edited.json").write_text(json.dumps(plan))
    assert run(["apply", "edited.json", "--yes"]) == STOPPED
    capsys.readouterr()
    assert run(["apply", "plan.json", "--yes"]) == USAGE
    assert "was begun with another plan" in capsys.readouterr().err
    assert run(["undo", "1", database, "--yes"]) == 0
    assert run(["apply", "plan.json", "--yes"]) == 0


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["pool", "size", "--rate", "nan", "--hold", "20"], "'nan' is not a number"),
        (["pool", "size", "--rate", "-5", "--hold", "20"], "-5.0 is not in the range"),
        (["pool", "size", "--rate", "5", "--hold", "20", "--surge", "inf"], "inf is not in the range"),
        (["indexes", "recommend", "--budget", "inf"], "inf is not in the range"),
        (["replicas", "wait", "--max-lag", "0"], "0.0 is not in the range"),
    ],
)
def test_a_number_is_a_number(words: list[str], wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    assert wrong in capsys.readouterr().err


def test_no_colour_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(click.utils, "should_strip_ansi", lambda *_: False)  # as on a terminal
    monkeypatch.setattr("click._compat.should_strip_ansi", lambda *_: False)
    for setting, coloured in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", setting)
        output.show_error(errors.ConfigError("x"))
        assert ("\x1b[" in capsys.readouterr().err) is coloured


def test_one_database_is_meant_where_none_is_named(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside shards it is their home, and the other shards are no replicas of it."""
    entries = "".join(f'[databases.{name}]\nurl = "{database}"\n' for name in ("first", "main"))
    (tmp_path / "dbscale.toml").write_text(f'{entries}[shards]\ns1 = "first"\nhome = "main"\n')
    monkeypatch.chdir(tmp_path)
    run(["pool", "check", "--json"])
    assert json.loads(capsys.readouterr().out)["database"] == "main"
    assert run(["pool", "show", "--json"]) == 0
    assert [node["node"] for node in json.loads(capsys.readouterr().out)["nodes"]] == ["first", "main"]
    assert run(["replicas", "wait"]) == USAGE
    assert "no database has any replicas" in capsys.readouterr().err
