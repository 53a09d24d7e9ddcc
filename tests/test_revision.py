"""Revisions that dbscale writes: they make what dbscale makes, and are as ruff wants them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql

from dbscale.cli import run
from dbscale.drivers import postgres
from dbscale.environment import Environment
from dbscale.errors import ConfigError
from dbscale.migrate import revision
from dbscale.migrate.revision import Action, Place
from dbscale.plan import File, Plan, Sql
from dbscale.testing.snapshot import differences, snapshot

ROOT = Path(__file__).parent.parent
MARKETPLACE = ROOT / "migrations" / "marketplace"
PLACE = Place(revision="0001", down=None, title="first")


def catalog(url: str) -> dict[tuple[str, str], str]:
    with postgres.connect(url) as connection:
        return dict(snapshot(connection))


def ruff(file: Path) -> None:
    tool = str(Path(sys.executable).with_name("ruff"))
    for arguments in (("format", "--check"), ("check",)):
        done = subprocess.run([tool, *arguments, "--isolated", str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    place = tmp_path / "migrations"
    (place / "versions").mkdir(parents=True)
    shutil.copy(MARKETPLACE / "env.py", place)
    return Environment(place)


@given(st.text(st.sampled_from(":\\%'\" $ab1?\n"), max_size=30))
def test_sqlalchemy_sends_what_was_written(sql: str) -> None:
    dialect = postgresql.dialect(paramstyle="named")
    assert str(sa.text(revision._escaped(sql)).compile(dialect=dialect)) == sql


def test_a_baseline_makes_the_schema_that_a_migration_makes(
    marketplace: Path, new_database: Callable[..., str], environment: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    migrated, upgraded = new_database(), new_database()
    assert run(["migrate", str(marketplace), migrated, "--yes"]) == 0
    empty = catalog(upgraded)
    capsys.readouterr()
    assert run(["migrate", str(marketplace), upgraded, "--revision", str(environment.place)]) == 0
    file = Path(capsys.readouterr().out.strip())
    assert catalog(upgraded) == empty  # written, not run
    ruff(file)
    environment.upgrade(upgraded)
    assert differences(catalog(migrated), catalog(upgraded)) == []
    environment.downgrade(upgraded, "base")
    assert differences(empty, catalog(upgraded)) == []


def test_the_sample_applications_revisions_are_what_dbscale_writes(
    marketplace: Path, new_database: Callable[..., str], environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # dbscale.toml says the type of farms.created_at
    assert run(["migrate", str(marketplace), new_database(), "--revision", str(environment.place)]) == 0
    [written] = (environment.place / "versions").glob("*.py")
    kept = MARKETPLACE / "versions" / written.name
    assert written.read_text() == kept.read_text()
    for file in (MARKETPLACE / "versions").glob("*.py"):
        ruff(file)
    database = new_database()
    Environment(MARKETPLACE).upgrade(database)
    names = {name for kind, name in catalog(database) if kind == "index"}
    wanted = {"idx_farms_location", "idx_transactions_timestamp", "idx_predictions_crop_type"}
    assert {f"public.{name}" for name in wanted} <= names


def test_a_concurrent_index_of_a_plan_survives_an_interrupted_build(
    tmp_path: Path, database: str, environment: Environment
) -> None:
    with postgres.connect(database) as connection:
        connection.execute("CREATE TABLE t (x int); INSERT INTO t VALUES (1), (1)")
        with pytest.raises(Exception, match="duplicate"):
            connection.execute("CREATE UNIQUE INDEX CONCURRENTLY i ON t (x)")  # leaves an invalid index
        connection.execute("DELETE FROM t")
    step = Sql(
        does="index i", sql="CREATE UNIQUE INDEX CONCURRENTLY i ON t (x)", undo="DROP INDEX CONCURRENTLY IF EXISTS i",
        alone=True,
    )  # fmt: skip
    (tmp_path / "plan.json").write_text(Plan(title="an index", databases={"target": database}, steps=(step,)).to_json())
    assert run(["apply", str(tmp_path / "plan.json"), "--revision", str(environment.place)]) == 0
    [file] = (environment.place / "versions").glob("*.py")
    ruff(file)
    assert "autocommit_block" in file.read_text()
    environment.upgrade(database)
    assert "INVALID" not in catalog(database)["index", "public.i"]
    environment.downgrade(database, "base")
    assert ("index", "public.i") not in catalog(database)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE t (a text DEFAULT ':x %s %% \\: \"\"\" \\n', b text CHECK (b LIKE '%a%'))",
        'CREATE TABLE "we""ird" ("a:b" int)',
        "CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $$\nBEGIN\n  RETURN 'a:b' || E'\\'';\nEND\n$$",
        "CREATE VIEW v AS SELECT 'two\nlines' AS a, '" + "long " * 30 + "' AS b",
        "SELECT 'ends with a quote\"'",
        "SELECT 1",
        "COMMENT ON SCHEMA public IS 'it''s \"here\"'",
    ],
)
def test_every_statement_arrives_as_it_is(
    sql: str, tmp_path: Path, new_database: Callable[..., str], environment: Environment
) -> None:
    file = environment.write("one", lambda *_: revision.text(PLACE, [Action(sql=sql)], []))
    ruff(file)
    direct, upgraded = new_database(), new_database()
    with postgres.connect(direct) as connection:
        connection.execute(sql.encode())
    environment.upgrade(upgraded)
    assert differences(catalog(direct), catalog(upgraded)) == []


def test_what_cannot_be_taken_back_says_so(environment: Environment, database: str) -> None:
    steps = [Sql(does="one", sql="CREATE TABLE a (x int); CREATE TABLE b (x int)", undo=None)]
    file = environment.write("one", lambda *_: revision.of_steps(steps, PLACE))
    assert file.read_text().count("op.execute") == 2
    environment.upgrade(database)
    with pytest.raises(Exception, match="irreversible"):
        environment.downgrade(database, "base")


def test_a_plan_for_several_databases_is_refused() -> None:
    with pytest.raises(ConfigError, match="other"):
        revision.of_plan(Plan(title="t", steps=(Sql(does="x", sql="SELECT 1", undo="", on="other"),)), PLACE)
    with pytest.raises(ConfigError, match="no SQL"):
        revision.of_plan(Plan(title="t", steps=(File(does="a file", path="x", text=""),)), PLACE)


def test_ids_go_on_as_they_are(environment: Environment) -> None:
    first = environment.write(
        "One Thing!", lambda id_, down: revision.text(Place(revision=id_, down=down, title="a"), [], [])
    )
    second = environment.write(
        "two", lambda id_, down: revision.text(Place(revision=id_, down=down, title="b"), [], [])
    )
    assert (first.name, second.name) == ("0001_one_thing.py", "0002_two.py")
    assert [each.down for each in environment.revisions] == [(), ("0001",)]
