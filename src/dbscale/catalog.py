"""dbscale's own tables on the target (schema "dbscale"): runs, steps, checkpoints, quarantine.

The tables come from the Alembic environment in migrations/catalog, also from an installed wheel. Alembic is imported
only for tables of an older version: to make them anew, what it prints lies beside it (new.sql), since importing it
takes longer than a small migration. Every function takes an open connection; nothing here opens one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any
from zlib import crc32

import psycopg

from dbscale import __version__
from dbscale.drivers.postgres import Connection
from dbscale.errors import Missing, TargetInUse
from dbscale.plan import Plan
from dbscale.schema import literal, quote

DEFAULT_SCHEMA = "dbscale"
TAKING_BACK = "taking the run back was begun and not finished"
"""How the error of a run begins that is half undone, or whose undoing was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One row of `runs`."""

    id: int
    plan_id: str
    title: str
    source: str
    fingerprint: str
    state: str
    """running, done, failed, interrupted or undone; `lost` for one whose holder is gone."""
    error: str
    started_at: datetime
    finished_at: datetime | None
    plan: str
    """The plan's JSON document."""

    @property
    def unfinished(self) -> bool:
        return self.state not in ("done", "undone")

    @property
    def half_undone(self) -> bool:
        """Somebody began to take it back."""
        return self.unfinished and self.error.startswith(TAKING_BACK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One row of `loads`: a range of a table's rows that has arrived."""

    part: str
    loaded: int
    quarantined: int
    bytes: int
    seconds: float


def folder() -> Path:
    """Where the Alembic environment is: inside the package when installed, else at the top of the checkout."""
    package = Path(__file__).parent
    for place in (package / "migrations" / "catalog", package.parents[1] / "migrations" / "catalog"):
        if (place / "env.py").exists():
            return place
    raise Missing("dbscale's own migrations are not installed", where=str(package), try_="reinstall dbscale")


def head() -> str:
    """The newest revision: files are named by it, and sort by it."""
    return max(path.name.partition("_")[0] for path in (folder() / "versions").glob("[0-9]*.py"))


def revision(connection: Connection, schema: str) -> str:
    """The revision the tables are at; empty when there are none. Missing where this role may not read them."""
    table = f"{quote(schema)}.alembic_version"
    try:
        if connection.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,):
            return ""
        row = connection.execute(f"SELECT version_num FROM {table}").fetchone()
    except psycopg.errors.InsufficientPrivilege as error:
        raise Missing(
            f"this role may not read dbscale's own tables: {error.diag.message_primary}",
            where=f"schema {schema}",
            try_=f"use the role that migrated, or GRANT USAGE ON SCHEMA {quote(schema)} and SELECT ON ALL TABLES IN it;"
            " or name a schema of this role's own: --state-schema NAME",
        ) from error
    return str(row[0]) if row else ""


def prepare(connection: Connection, schema: str) -> None:
    """Create the tables, or bring them up to date. Safe when two do it at once.

    Missing when the role may not create the schema: then an administrator creates one for it to name.
    """
    if revision(connection, schema) == head():
        return
    try:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('dbscale.catalog'))")
            if connection.execute("SELECT to_regnamespace(%s)", [quote(schema)]).fetchone() == (None,):
                connection.execute(f"CREATE SCHEMA {quote(schema)}")
            connection.execute(f"SET LOCAL search_path TO {quote(schema)}")
            at = revision(connection, schema)
            if at != head():  # else another run was quicker
                connection.execute(upgrade_sql(at).encode())
    except psycopg.errors.InsufficientPrivilege as error:
        raise Missing(
            f"this role may not create the schema {schema!r} for dbscale's own tables",
            where=str(error.diag.message_primary),
            try_="name one that it owns: --state-schema NAME",
        ) from error


def upgrade_sql(at: str) -> str:
    """The statements that take the tables from revision `at` (empty: from nothing) to the newest."""
    if not at:
        text = (folder() / "new.sql").read_text(encoding="utf-8")
        if text.startswith(f"-- revision {head()}:"):
            return text
    return printed_sql(at)


def printed_sql(at: str) -> str:
    """The same, as Alembic prints it."""
    from alembic.command import upgrade
    from alembic.config import Config

    script = StringIO()
    config = Config(output_buffer=script, stdout=StringIO())
    config.set_main_option("script_location", str(folder()).replace("%", "%%"))
    upgrade(config, f"{at or 'base'}:head", sql=True)
    return script.getvalue()


_RUN = (
    "SELECT id, plan_id, title, source, fingerprint,"
    " CASE WHEN state = 'running' AND NOT {alive} THEN 'lost' ELSE state END,"
    " coalesce(error, ''), started_at, finished_at, plan FROM {schema}.runs"
)
# A backend's pid alone could have been given out anew; with its start it names one session. Another role's start
# is hidden from us (NULL): then the pid has to do.
_ALIVE = (
    "EXISTS (SELECT FROM pg_stat_activity WHERE pid = holder_pid"
    " AND (backend_start IS NULL OR backend_start = holder_start))"
)


def runs(connection: Connection, schema: str = DEFAULT_SCHEMA) -> list[Run]:
    """All runs, newest first; none when dbscale has no tables here."""
    if not revision(connection, schema):
        return []
    rows = connection.execute(_RUN.format(schema=quote(schema), alive=_ALIVE) + " ORDER BY id DESC").fetchall()
    names = ("id", "plan_id", "title", "source", "fingerprint", "state", "error", "started_at", "finished_at", "plan")
    return [Run(**dict(zip(names, row, strict=True))) for row in rows]


def claim(connection: Connection, schema: str, plan: Plan, fingerprint: str, resume: Run | None) -> int:
    """Take the target for one run, new or resumed, as long as `connection` lives; the run's id.

    TargetInUse when another run is at work: its holder's session is still there.
    """
    table = quote(schema)
    with connection.transaction():
        connection.execute(f"LOCK TABLE {table}.runs IN SHARE ROW EXCLUSIVE MODE")
        refuse_at_work(connection, schema)
        connection.execute(f"UPDATE {table}.runs SET state = 'interrupted' WHERE state = 'running'")
        holder = "(SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())"
        if resume:
            connection.execute(
                f"UPDATE {table}.runs SET state = 'running', error = NULL, holder_pid = pg_backend_pid(),"
                f" holder_start = {holder}, version = %s WHERE id = %s",
                [__version__, resume.id],
            )
            return resume.id
        row = connection.execute(
            f"INSERT INTO {table}.runs (plan_id, title, plan, source, fingerprint, state, version, holder_pid,"
            f" holder_start) VALUES (%s, %s, %s, %s, %s, 'running', %s, pg_backend_pid(), {holder}) RETURNING id",
            [
                plan.id,
                plan.title,
                plan.to_json(indent=None),
                plan.databases.get("source", ""),
                fingerprint,
                __version__,
            ],
        ).fetchone()
        assert row is not None  # noqa: S101 - INSERT … RETURNING gives a row
        return int(row[0])


def refuse_at_work(connection: Connection, schema: str) -> None:
    """TargetInUse when a run is at work: its holder's session is there."""
    other = connection.execute(
        f"SELECT id, title, holder_pid FROM {quote(schema)}.runs WHERE state = 'running' AND {_ALIVE} LIMIT 1"
    ).fetchone()
    if other:
        raise TargetInUse(
            f"run {other[0]} is at work on this target ({other[1]})",
            where=f"{schema}.runs, backend {other[2]}",
            try_="wait for it (dbscale status); if its client is gone: "
            f"psql -c 'select pg_terminate_backend({other[2]})'",
        )


def last_run(connection: Connection, schema: str) -> int:
    """The largest number of a run that a database has seen, as its home or with rows that a run brought; 0: none."""
    seen = [f"SELECT max({column}) FROM {quote(schema)}.{table}" for table, column in _NUMBERED]
    given = "SELECT pg_sequence_last_value(pg_get_serial_sequence(%s, 'id'))"
    row = connection.execute(
        f"SELECT coalesce(max(n), 0) FROM ({' UNION ALL '.join([*seen, given])}) AS t (n)", [f"{quote(schema)}.runs"]
    ).fetchone()
    assert row is not None  # noqa: S101 - an aggregate has a row
    return int(row[0])


_NUMBERED = (("runs", "id"), ("loads", "run_id"), ("steps", "run_id"), ("quarantine", "run_id"), ("filled", "run_id"))


def skip_runs(connection: Connection, schema: str, number: int) -> None:
    """Let this database's own runs have numbers above `number`."""
    if number > 0:
        table = f"{quote(schema)}.runs"
        connection.execute("SELECT setval(pg_get_serial_sequence(%s, 'id'), %s)", [table, number])


def finish(connection: Connection, schema: str, run: int, state: str, error: str = "") -> None:
    """Write down how a run ended."""
    connection.execute(
        f"UPDATE {quote(schema)}.runs SET state = %s, error = nullif(%s, ''), finished_at = now() WHERE id = %s",
        [state, error, run],
    )


def finish_earlier(connection: Connection, schema: str, plan: Plan) -> None:
    """Call done what earlier runs left unfinished, for a plan of what is missing (a shard map's) that is in effect."""
    for run in runs(connection, schema):
        same = run.title == plan.title and Plan.from_json(run.plan).options == plan.options
        if same and run.unfinished and not run.half_undone and run.state != "running":
            finish(connection, schema, run.id, "done")


def take_back(connection: Connection, schema: str, run: int) -> None:
    """Write down that a claimed run is being taken back."""
    connection.execute(f"UPDATE {quote(schema)}.runs SET error = %s WHERE id = %s", [TAKING_BACK, run])


def release(connection: Connection, schema: str, run: Run) -> None:
    """Give a claimed run its former state back: nothing was changed."""
    state = "interrupted" if run.state in ("lost", "running") else run.state
    connection.execute(
        f"UPDATE {quote(schema)}.runs SET state = %s, error = nullif(%s, ''), finished_at = %s WHERE id = %s",
        [state, run.error, run.finished_at, run.id],
    )


def worker_name(schema: str, run: int) -> str:
    """What a run's sessions call themselves in pg_stat_activity: each `--state-schema` of a database has a run 1.

    ASCII, and short: the server replaces anything else in a name, and cuts it.
    """
    return f"dbscale run {run}" + (f" of {crc32(schema.encode()):08x}" if schema != DEFAULT_SCHEMA else "")


def clear_out(connection: Connection, schema: str, run: int, seconds: float = 20) -> bool:
    """End what sessions of `run` a killed client left behind, and wait until they are gone; False if they are not.

    Such a session may still be about to commit a part; the primary key of `loads` would catch that, but waiting is
    quicker than failing.
    """
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
        " AND usename = current_user AND datname = current_database() AND pid <> pg_backend_pid()",
        [worker_name(schema, run)],
    )
    for _ in range(int(seconds * 20)):
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()"
            " AND pid <> pg_backend_pid()",
            [worker_name(schema, run)],
        ).fetchone()
        if row == (0,):
            return True
        connection.execute("SELECT pg_sleep(0.05)")
    return False


def steps_done(connection: Connection, schema: str, run: int) -> dict[int, float]:
    """The numbers of the steps that a run has done, and the seconds each took."""
    return dict(connection.execute(f"SELECT number, seconds FROM {quote(schema)}.steps WHERE run_id = %s", [run]))


def step_done(connection: Connection, schema: str, run: int, number: int, seconds: float) -> None:
    """Write down that a step is done; in the step's own transaction where it has one."""
    connection.execute(
        f"INSERT INTO {quote(schema)}.steps (run_id, number, seconds) VALUES (%s, %s, %s)"
        " ON CONFLICT (run_id, number) DO NOTHING",
        [run, number, seconds],
    )


def step_undone(connection: Connection, schema: str, run: int, number: int) -> None:
    """Forget that a step is done; in the transaction that takes it back where there is one."""
    connection.execute(f"DELETE FROM {quote(schema)}.steps WHERE run_id = %s AND number = %s", [run, number])
    connection.execute(f"DELETE FROM {quote(schema)}.filled WHERE run_id = %s AND step = %s", [run, number])


def filling(connection: Connection, schema: str, run: int, tables: Mapping[int, str]) -> None:
    """Write down which tables (quoted names, by step) a run begins to fill; what is written down stays."""
    with connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {quote(schema)}.filled (run_id, step, relation) VALUES (%s, %s, %s::regclass::oid)"
            " ON CONFLICT (run_id, step) DO NOTHING",
            [(run, step, name) for step, name in tables.items()],
        )


def replaced(connection: Connection, schema: str, run: int, tables: Mapping[int, str]) -> dict[str, str]:
    """Those of the tables (quoted names, by step) whose name has gone to another table since the run filled them, or
    that are called otherwise now; with what the run's own is called, empty where it is gone.

    None are known where the catalog is of a version that did not write down what a run filled."""
    if connection.execute("SELECT to_regclass(%s)", [f"{quote(schema)}.filled"]).fetchone() == (None,):
        return {}
    found = connection.execute(
        "SELECT t.name, coalesce(f.relation::regclass::text, '') FROM unnest(%s::int[], %s::text[]) AS t (step, name)"
        f" JOIN (SELECT step, c.oid AS relation, f.relation AS was FROM {quote(schema)}.filled f"
        " LEFT JOIN pg_class c ON c.oid = f.relation AND c.relkind IN ('r', 'p') WHERE run_id = %s) AS f USING (step)"
        " WHERE to_regclass(t.name)::oid <> f.was OR (to_regclass(t.name) IS NULL AND f.relation IS NOT NULL)",
        [[*tables], [*tables.values()], run],
    )
    return dict(found.fetchall())


def parts_done(connection: Connection, schema: str, run: int, step: int) -> dict[str, Part]:
    """The parts of a load that have arrived."""
    rows = connection.execute(
        f"SELECT part, loaded, quarantined, bytes, seconds FROM {quote(schema)}.loads WHERE run_id = %s AND step = %s",
        [run, step],
    )
    return {row[0]: Part(part=row[0], loaded=row[1], quarantined=row[2], bytes=row[3], seconds=row[4]) for row in rows}


def part_done(connection: Connection, schema: str, run: int, step: int, part: Part) -> None:
    """Write down a part, in the transaction that loads its rows.

    A unique violation means that a session thought dead has loaded it: this transaction must then be rolled back.
    """
    connection.execute(
        f"INSERT INTO {quote(schema)}.loads (run_id, step, part, loaded, quarantined, bytes, seconds)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s)",
        [run, step, part.part, part.loaded, part.quarantined, part.bytes, part.seconds],
    )


def forget_parts(connection: Connection, schema: str, run: int, step: int, table: str) -> None:
    """Forget the parts of a load, and what was kept apart from its table."""
    connection.execute(f"DELETE FROM {quote(schema)}.loads WHERE run_id = %s AND step = %s", [run, step])
    connection.execute(f"DELETE FROM {quote(schema)}.quarantine WHERE run_id = %s AND table_name = %s", [run, table])


def quarantine(connection: Connection, schema: str, run: int, table: str, rows: list[dict[str, Any]]) -> None:
    """Keep rows apart, each a dict of `row_key`, `column_name`, `stored_as`, `raw`, `reason`."""
    with connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {quote(schema)}.quarantine (run_id, table_name, row_key, column_name, stored_as, raw, reason)"
            f" VALUES ({int(run)}, {literal(table).replace('%', '%%')}, %(row_key)s, %(column_name)s,"
            " %(stored_as)s, %(raw)s, %(reason)s)",
            rows,
        )


def quarantined(connection: Connection, schema: str, run: int) -> dict[str, int]:
    """How many rows of each of the source's tables a run keeps apart."""
    return dict(
        connection.execute(
            f"SELECT table_name, count(*) FROM {quote(schema)}.quarantine WHERE run_id = %s GROUP BY 1", [run]
        )
    )


def reset(connection: Connection, schema: str, run: int) -> None:
    """Forget the checkpoints and the quarantined rows of a run that was undone; the row in `runs` stays."""
    for table in ("loads", "steps", "quarantine", "filled"):
        connection.execute(f"DELETE FROM {quote(schema)}.{table} WHERE run_id = %s", [run])


@contextmanager
def claimed(connection: Connection, schema: str, plan: Plan, fingerprint: str, resume: Run | None) -> Iterator[int]:
    """`claim`, and at the end of the block `finish` with how it ended: done, interrupted or failed."""
    run = claim(connection, schema, plan, fingerprint, resume)
    try:
        yield run
    except BaseException as error:
        state = "failed" if isinstance(error, Exception) else "interrupted"
        if not connection.closed:
            # Should the server be gone, the run shows as lost, and resumes all the same.
            with suppress(psycopg.Error):
                finish(connection, schema, run, state, str(error))
        raise
    finish(connection, schema, run, "done")
