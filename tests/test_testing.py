"""`pytest --dbscale` on three small projects, each as it should be and broken in every way that has to be caught."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from dbscale.drivers import postgres
from dbscale.testing import seed
from dbscale.testing.servers import Server
from dbscale.testing.snapshot import differences, snapshot
from fix_postgres import Postgres, absent, image

PROJECTS = Path(__file__).parent / "projects"
FASTAPI, FLASK, PLAIN = "fastapi_async", "flask_migrate", "plain"
VERSIONS = {FASTAPI: "alembic/versions", FLASK: "migrations/versions", PLAIN: "migrations"}


@dataclass(frozen=True)
class Trial:
    status: int
    text: str
    outcomes: dict[str, str]


@pytest.fixture
def trial(server: Postgres, tmp_path: Path) -> Callable[..., Trial]:
    """Runs pytest on a project with the plugin, as a user does, and reads its JUnit file."""

    def run(project: Path, *arguments: str, dbscale: bool = True, **variables: str) -> Trial:
        report = tmp_path / "junit.xml"
        options = ["--dbscale", "--dbscale-server", server.url] if dbscale else []
        command = [sys.executable, "-m", "pytest", "-p", "dbscale.testing.plugin", *options, *arguments]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "GITHUB"))}
        done = subprocess.run(
            [*command, "-c", "pytest.ini", f"--junitxml={report}", "-p", "no:cacheprovider"],
            cwd=project,
            env={**kept, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        cases = ET.parse(report).getroot().iter("testcase") if report.exists() else []
        outcomes = {
            case.attrib["name"]: next((child.tag for child in case if child.tag in ("failure", "skipped")), "passed")
            for case in cases
        }
        return Trial(done.returncode, done.stdout + done.stderr, outcomes)

    return run


def copy(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(PROJECTS / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__")))


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize("name", [FASTAPI, FLASK, PLAIN])
def test_a_sound_project_passes(name: str, tmp_path: Path, trial: Callable[..., Trial]) -> None:
    done = trial(copy(name, tmp_path))
    assert done.status == 0, done.text
    run = {check for check, outcome in done.outcomes.items() if outcome == "passed"}
    assert {"single_head", "up_from_empty", "up_down_up", "seeded_data_survives", "killed_anywhere"} <= run
    assert ("models_match" in run) == (name != PLAIN)


VALIDATE = '    op.execute("ALTER TABLE accounts VALIDATE CONSTRAINT ck_accounts_balance_positive")\n'
DROP_FIRST = '        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_analyses_account_created")\n'
CREATE = '        op.execute("CREATE'
UPDATE = """op.execute("UPDATE accounts SET email = 'x' || id")\n    op.create_check"""
ASK = "    op.get_bind().execute(sa.text('SELECT 1')).scalar_one()\n    op.create_index"
ADD = '    op.add_column("users"'
DELETE = '    op.execute("DELETE FROM users")\n'
DROP_COLUMN = '    op.drop_column("users", "username")\n'
INDEX = 'op.f("ix_posts_user_id"), "post'
NOT_NULL = "ALTER TABLE users ADD phone text NOT NULL;\n-- down"
REWRITE_SQL = "ALTER TABLE users ADD n uuid DEFAULT gen_random_uuid();\nCREATE FUNCTION"
REWRITE = '    op.execute("ALTER TABLE users ADD n uuid DEFAULT gen_random_uuid()")\n    op.create_index'
REWRITE_ALONE = "ALTER TABLE orders ALTER total TYPE float8;\n-- down"
NOT_VALID = ", postgresql_not_valid=True"
DROP_ORDERS = "DROP INDEX CONCURRENTLY IF EXISTS orders_user;\nCREATE"

BROKEN = [
    # project, revision, what is there, what is put in its place, the check that fails, and what it says
    (FASTAPI, "0001_accounts.py", '    op.execute("DROP TYPE account_state")\n', "", "up_down_up", "account_state"),
    (FASTAPI, "0001_accounts.py", '"active", "closed", name', '"active", name', "models_match", "account_state"),
    (FASTAPI, "0002_analyses.py", '"balance >= 0", post', '"balance >= -1", post', "models_match", "balance"),
    (FASTAPI, "0003_analyses_index.py", "(account_id, created_at)", "(account_id)", "models_match", "ix_analyses"),
    (FASTAPI, "0003_analyses_index.py", 'down_revision = "0002"', 'down_revision = "0001"', "single_head", "2 heads"),
    (FASTAPI, "0003_analyses_index.py", DROP_FIRST + CREATE, CREATE, "killed_anywhere", "kill at statement"),
    (FASTAPI, "0003_analyses_index.py", VALIDATE, "", "nothing_invalid", "ck_accounts_balance_positive"),
    (FASTAPI, "0002_analyses.py", "op.create_check", UPDATE, "seeded_data_survives", "accounts.email"),
    (FLASK, "b2_posts.py", "nullable=True", "nullable=False", "seeded_data_survives", "about"),
    (FLASK, "b2_posts.py", ADD, DELETE + ADD, "seeded_data_survives", "users had 2 rows"),
    (FLASK, "b2_posts.py", INDEX, INDEX.replace("post", "postz"), "up_from_empty", "postz"),
    (FLASK, "b2_posts.py", '    op.drop_column("users", "about")\n', "", "up_down_up", "users.about"),
    (FLASK, "b2_posts.py", "    op.create_index", ASK, "renders_offline", "SQL"),
    (FLASK, "b2_posts.py", ADD, DROP_COLUMN + ADD, "lint", "drop-column"),
    (FLASK, "b2_posts.py", "    op.create_index", REWRITE, "tables_stay_usable", "users is rewritten while nobody"),
    (PLAIN, "0002_orders.sql", "CREATE FUNCTION", REWRITE_SQL, "tables_stay_usable", "users is rewritten while nobody"),
    (PLAIN, "0003_orders_user.sql", "-- down", REWRITE_ALONE, "tables_stay_usable", "orders is rewritten while nobody"),
    (FASTAPI, "0002_analyses.py", NOT_VALID, "", "tables_stay_usable", "accounts is read from end to end while nobody"),
    (PLAIN, "0002_orders.sql", "DROP FUNCTION paid(orders);\n", "DROP TABLE nothing;\n", "up_down_up", "nothing"),
    (PLAIN, "0001_users.sql", "DROP TYPE role;\n", "", "up_down_up", "role"),
    (PLAIN, "0003_orders_user.sql", DROP_ORDERS, "CREATE", "killed_anywhere", "orders_user"),
    (PLAIN, "0003_orders_user.sql", "-- down", NOT_NULL, "seeded_data_survives", "phone"),
    (PLAIN, "0002_orders.sql", "REFERENCES users", "REFERENCES people", "up_from_empty", "people"),
]


@pytest.mark.parametrize(("name", "revision", "old", "new", "check", "says"), BROKEN)
def test_a_fault_is_caught_where_it_is(  # noqa: PLR0917 - pytest names them
    name: str, revision: str, old: str, new: str, check: str, says: str, tmp_path: Path, trial: Callable[..., Trial]
) -> None:
    project = copy(name, tmp_path)
    replace(project / VERSIONS[name] / revision, old, new)
    done = trial(project, "-k", check, GITHUB_ACTIONS="true")
    assert done.outcomes == {check: "failure"}, done.text
    assert says in done.text
    notes = [line for line in done.text.splitlines() if line.startswith("::error file=")]
    # What the models lack has no line of its own: the newest revision stands for it.
    wanted = f"file={VERSIONS[name]}/" + ("" if check == "models_match" else f"{revision},")
    assert any(wanted in note and f"dbscale {check} [" in note for note in notes), done.text


def test_what_is_meant_can_be_said(tmp_path: Path, trial: Callable[..., Trial]) -> None:
    project = copy(FLASK, tmp_path)
    replace(
        project / VERSIONS[FLASK] / "b2_posts.py",
        'op.add_column("users"',
        'op.execute("DELETE FROM users")  # dbscale: changes users\n    op.add_column("users"',
    )
    assert trial(project, "-k", "seeded").outcomes == {"seeded_data_survives": "passed"}


def test_the_deployed_application_goes_on_working(tmp_path: Path, trial: Callable[..., Trial]) -> None:
    project = copy(FLASK, tmp_path)
    (project / "pytest.ini").write_text("[pytest]\ndbscale_since = a1\n")
    assert trial(project, "-k", "old_application").outcomes == {"old_application": "passed"}
    replace(project / VERSIONS[FLASK] / "b2_posts.py", "nullable=True", "nullable=False, server_default='x'")
    assert trial(project, "-k", "old_application").outcomes == {"old_application": "passed"}
    replace(project / VERSIONS[FLASK] / "b2_posts.py", ", server_default='x'", "")
    done = trial(project, "-k", "old_application")
    assert done.outcomes == {"old_application": "failure"}
    assert "about" in done.text


def test_a_small_table_may_be_locked_where_that_is_said(tmp_path: Path, trial: Callable[..., Trial]) -> None:
    project = copy(FLASK, tmp_path)
    said = REWRITE.replace('()")', '()")  # dbscale: locks users')
    replace(project / VERSIONS[FLASK] / "b2_posts.py", "    op.create_index", said)
    assert trial(project, "-k", "stay").outcomes == {"tables_stay_usable": "passed"}


def test_writers_do_not_wait_behind_a_revision_with_a_time_out(tmp_path: Path, trial: Callable[..., Trial]) -> None:
    project = copy(FLASK, tmp_path)
    assert trial(project, "-k", "writers").outcomes == {"writers_go_on": "skipped"}
    (project / "pytest.ini").write_text("[pytest]\ndbscale_blocked = 0.5\n")
    done = trial(project, "-k", "writers")
    assert done.outcomes == {"writers_go_on": "failure"}
    assert "a write to public.users waited" in done.text
    timed = "op.execute(\"SET lock_timeout = '100ms'\")\n    op.create_table"
    replace(project / VERSIONS[FLASK] / "b2_posts.py", "op.create_table", timed)
    done = trial(project, "-k", "writers", "-rA")
    assert done.outcomes == {"writers_go_on": "passed"}, done.text
    assert "gave up in time" in done.text


@pytest.mark.slow
@pytest.mark.embedded
def test_readers_on_a_replica_are_not_cut_off(tmp_path: Path, trial: Callable[..., Trial]) -> None:
    project = copy(FASTAPI, tmp_path)
    place = ("--dbscale-server", "embedded", "-k", "replicas")
    assert trial(project, *place).outcomes == {"replicas_go_on": "skipped"}
    (project / "pytest.ini").write_text("[pytest]\ndbscale_replica = embedded\n")
    done = trial(project, *place)
    assert done.outcomes == {"replicas_go_on": "failure"}
    assert [line for line in done.text.splitlines() if "[migration-replica]" in line and "0002_analyses" in line]
    assert not [line for line in done.text.splitlines() if "[migration-replica]" in line and "0003_analyses" in line]
    revision = project / VERSIONS[FASTAPI] / "0002_analyses.py"
    revision.write_text(revision.read_text() + "# dbscale: locks accounts\n")
    assert trial(project, *place).outcomes == {"replicas_go_on": "passed"}


def test_beside_pytest_alembic(tmp_path: Path, trial: Callable[..., Trial]) -> None:
    """The files of docs/ci.md, on the throwaway server."""
    if importlib.util.find_spec("pytest_alembic") is None:
        absent("pytest-alembic is not installed")
    project = copy(FASTAPI, tmp_path)
    (project / "tests").mkdir()
    page = (PROJECTS.parent.parent / "docs" / "ci.md").read_text()
    for name, text in re.findall(r"```python\n# tests/(\w+\.py)\n(.*?)```", page, re.DOTALL):
        (project / "tests" / name).write_text(text)
    (project / "pytest.ini").write_text("[pytest]\npytest_alembic_enabled =\n")
    replace(project / "alembic" / "env.py", "    asyncio.run(run_async_migrations())", GIVEN_ENGINE)
    done = trial(project, "-p", "pytest_alembic.plugin", "-k", "test_")
    assert done.outcomes == dict.fromkeys(
        ("test_model_definitions_match_ddl", "test_single_head_revision", "test_up_down_consistency", "test_upgrade"),
        "passed",
    ), done.text


GIVEN_ENGINE = """
    if engine := context.config.attributes.get("connection"):
        with engine.connect() as connection:
            do_run_migrations(connection)
    else:
        asyncio.run(run_async_migrations())
"""
"""How pytest-alembic asks env.py to take its engine."""


@pytest.mark.container
def test_a_container_is_a_server_too(tmp_path: Path, trial: Callable[..., Trial]) -> None:
    done = trial(copy(PLAIN, tmp_path), "--dbscale-server", "container", TESTCONTAINERS_RYUK_DISABLED="true",
                 DBSCALE_TEST_IMAGE=image())  # fmt: skip
    assert done.status == 0, done.text
    assert done.outcomes["up_down_up"] == "passed"


def test_the_projects_own_database_is_never_reached(tmp_path: Path, trial: Callable[..., Trial], database: str) -> None:
    own = database.replace("postgresql://", "postgresql+asyncpg://")
    assert trial(copy(FASTAPI, tmp_path), "-k", "up_", APP_DATABASE_URL=own).status == 0
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


def test_another_kind_of_database_is_refused(tmp_path: Path, trial: Callable[..., Trial]) -> None:
    project = copy(FLASK, tmp_path)
    replace(project / "app.py", 'os.environ.get("DATABASE_URL", "sqlite:///app.db")', '"sqlite:///app.db"')
    done = trial(project, "-k", "up_from_empty")
    assert done.outcomes == {"up_from_empty": "failure"}
    assert "sqlite" in done.text
    assert not list(project.rglob("app.db"))


def test_a_sqlite_file_is_migrated_and_verified(tmp_path: Path, trial: Callable[..., Trial]) -> None:
    project = copy(PLAIN, tmp_path)
    with sqlite3.connect(project / "app.db") as connection:
        connection.executescript("CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT); INSERT INTO t VALUES (1, 'a')")
    (project / "pytest.ini").write_text("[pytest]\ndbscale_sqlite = app.db\n")
    assert trial(project, "-k", "sqlite").outcomes == {"sqlite_migrates": "passed"}
    with sqlite3.connect(project / "app.db") as connection:
        connection.execute("INSERT INTO t VALUES (2, 'a' || char(0) || 'b')")
    done = trial(project, "-k", "sqlite")
    assert done.outcomes == {"sqlite_migrates": "failure"}
    assert "NUL" in done.text


def test_shard_maps_are_held_against_the_schema(tmp_path: Path, trial: Callable[..., Trial]) -> None:
    project = copy(PLAIN, tmp_path)
    (project / "shard_maps").mkdir()
    file = project / "shard_maps" / "orders.toml"
    file.write_text(
        'name = "orders"\nkey = "bigint"\ntables = { orders = "id" }\n'
        'ranges = [ { id = "a", from = 0, shard = "one" }, { id = "b", from = 1000, shard = "two" } ]\n'
    )
    assert trial(project, "-k", "shard").outcomes == {"shard_maps_fit": "passed"}
    replace(file, "{ orders =", '{ users = "id", nobody =')
    done = trial(project, "-k", "shard")
    assert done.outcomes == {"shard_maps_fit": "failure"}
    assert "nobody" in done.text


def test_nothing_happens_without_the_option(tmp_path: Path, trial: Callable[..., Trial]) -> None:
    assert trial(copy(PLAIN, tmp_path), dbscale=False).status == pytest.ExitCode.NO_TESTS_COLLECTED
    heavy = "{'psycopg', 'alembic', 'sqlalchemy', 'dbscale.drivers.embedded', 'testcontainers'}"
    program = f"import sys, dbscale.testing.plugin; assert not {heavy} & set(sys.modules), set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_check_can_be_left_out_and_a_wrong_name_is_said(tmp_path: Path, trial: Callable[..., Trial]) -> None:
    project = copy(PLAIN, tmp_path)
    assert "lint" not in trial(project, "-k", "lint or single").outcomes
    (project / "pytest.ini").write_text("[pytest]\ndbscale_skip = limt\n")
    done = trial(project)
    assert done.status == pytest.ExitCode.USAGE_ERROR
    assert "'limt'" in done.text


def test_the_fixture_gives_a_database_at_head(tmp_path: Path, trial: Callable[..., Trial]) -> None:
    project = copy(PLAIN, tmp_path)
    (project / "test_own.py").write_text(
        "import psycopg\n\n\ndef test_one(dbscale_database):\n    with psycopg.connect(dbscale_database) as c:\n"
        "        c.execute(\"INSERT INTO users (email) VALUES ('a-b')\")\n"
        "        assert c.execute('SELECT count(*) FROM users').fetchone() == (1,)\n\n\ntest_two = test_one\n"
    )
    done = trial(project, "-k", "test_")
    assert done.outcomes == {"test_one": "passed", "test_two": "passed"}, done.text


# Databases


def test_a_fresh_database_takes_less_than_150_ms(server: Postgres) -> None:
    made = Server(server.url)
    try:
        template = made.template("t", lambda url: psycopg.connect(url, autocommit=True).execute(
            "CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n").connection.close())  # fmt: skip
        seconds = []
        for _ in range(9):
            began = time.perf_counter()
            made.fresh(template)
            seconds.append(time.perf_counter() - began)
            time.sleep(0.05)  # a test: meanwhile the next database is made
        assert min(seconds) < 0.150, seconds  # the least: what else the machine does is not measured
    finally:
        made.close()
    with psycopg.connect(server.url) as connection:
        left = connection.execute(
            "SELECT count(*) FROM pg_database WHERE datname LIKE %s", [f"dbscale_test_{os.getpid()}%"]
        )
        assert left.fetchone() == (0,)


def test_a_copy_has_the_settings_of_its_template(server: Postgres) -> None:
    made = Server(server.url)
    settings = ("ALTER DATABASE {} SET search_path = app, \"$user\", public", "ALTER DATABASE {} SET timezone = 'UTC'",
                "ALTER DATABASE {} SET app.name = 'it''s'")  # fmt: skip

    def fill(url: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            for setting in settings:
                connection.execute(setting.format(connection.info.dbname).encode())

    try:
        template = made.template("t", fill)
        with pytest.raises(psycopg.OperationalError, match="not currently accepting connections"):
            psycopg.connect(server.url.rpartition("/")[0] + f"/{template}")
        for _ in range(3):  # made when asked for, and ahead
            with psycopg.connect(made.fresh(template)) as connection:
                shown = [connection.execute(f"SHOW {name}").fetchone() for name in ("search_path", "app.name")]
            assert shown == [('app, "$user", public',), ("it's",)]
    finally:
        made.close()


BASE = """
CREATE TYPE mood AS ENUM ('a', 'b'); CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE SEQUENCE s;
CREATE TABLE t (id bigint PRIMARY KEY, x text CHECK (x <> ''), y int DEFAULT 1); CREATE INDEX i ON t (x);
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();
CREATE VIEW v AS SELECT id FROM t; CREATE POLICY p ON t USING (y > 0); CREATE TABLE alembic_version (v text);
"""


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ("ALTER TYPE mood ADD VALUE 'c'", "type public.mood"),
        ("ALTER DOMAIN positive SET NOT NULL", "type public.positive"),
        ("ALTER SEQUENCE s INCREMENT 2", "sequence public.s"),
        ("ALTER TABLE t ALTER y SET DEFAULT 2", "column public.t.y"),
        ("ALTER TABLE t ALTER x TYPE varchar(9) COLLATE \"C\"", "column public.t.x"),
        ("ALTER TABLE t DROP CONSTRAINT t_x_check, ADD CONSTRAINT t_x_check CHECK (x <> 'y')", "constraint public.t"),
        ("ALTER TABLE t DROP CONSTRAINT t_x_check, ADD CONSTRAINT t_x_check CHECK (x <> '') NOT VALID", "NOT VALID"),
        ("DROP INDEX i; CREATE INDEX i ON t (x DESC)", "index public.i"),
        ("DROP INDEX i; CREATE INDEX i ON t (x) WHERE y > 0", "index public.i"),
        ("CREATE OR REPLACE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'", "function"),
        ("ALTER TABLE t DISABLE TRIGGER g", "trigger public.t.g"),
        ("CREATE OR REPLACE VIEW v AS SELECT id FROM t WHERE y > 0", "view public.v"),
        ("ALTER POLICY p ON t USING (y > 1)", "policy public.t.p"),
        ("ALTER TABLE t ENABLE ROW LEVEL SECURITY", "table public.t"),
        ("ALTER TABLE t REPLICA IDENTITY FULL", "table public.t"),
        ("COMMENT ON COLUMN t.y IS 'why'", "comment column y of table"),
        ("CREATE TABLE u (); DROP TABLE u; CREATE SCHEMA extra", "schema extra"),
    ],
)  # fmt: skip
def test_the_snapshot_sees_every_change(change: str, seen: str, database: str) -> None:
    with postgres.connect(database) as connection:
        connection.execute(BASE)
        before = snapshot(connection)
        assert differences(before, snapshot(connection)) == []
        connection.execute(change.encode())
        found = differences(before, snapshot(connection))
    assert any(seen in each.text("before", "after") for each in found)


def test_every_kind_of_column_gets_rows(database: str) -> None:
    with postgres.connect(database) as connection:
        connection.execute(
            "CREATE TYPE mood AS ENUM ('a', 'b');"
            "CREATE TABLE parent (id int PRIMARY KEY, self int REFERENCES parent, code char(3) UNIQUE NOT NULL);"
            "CREATE TABLE child (a uuid PRIMARY KEY, b int NOT NULL REFERENCES parent, c mood NOT NULL,"
            " d date NOT NULL, e timestamptz NOT NULL, f time NOT NULL, g bytea NOT NULL,"
            " h jsonb NOT NULL, i inet NOT NULL,"
            " j numeric(4,2) NOT NULL, k text[] NOT NULL, l varchar(2) NOT NULL,"
            " m boolean NOT NULL,"
            " n interval NOT NULL, o text NOT NULL CHECK (o IN ('x', 'y')), p int GENERATED ALWAYS AS (b * 2) STORED);"
            "CREATE TABLE odd (n int CHECK (n = 77) NOT NULL)"
        )
        done = seed.fill(connection)
        assert {table[1]: len(rows) for table, rows in done.inserts.items()} == {"parent": 2, "child": 2, "odd": 0}
        assert list(done.empty) == [("public", "odd")]
        assert seed.contents(connection)["public.child"]["count(*)"] == "2"
