"""What the planner would do with an index that does not exist: asked of the planner, without building the index.

Two ways. HypoPG, where it is installed in the database: its own session sees indexes that are not there. Else a
clone: a throwaway server with the same tables and the same statistics, whose files are as long as the real ones and
empty (sparse, so they take no space). The planner looks at the length of files and at statistics, never at rows, so
its costs there are the real database's. Candidates are real indexes there, switched on and off in the catalog.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import psycopg
from psycopg import conninfo

from dbscale.drivers import embedded, postgres, programs
from dbscale.drivers.postgres import Connection
from dbscale.errors import DbscaleError, Missing, redact
from dbscale.indexes.candidates import Candidate
from dbscale.indexes.facts import BLOCK, Facts, Table
from dbscale.indexes.sizes import estimate, share
from dbscale.schema import create_index, quote

SEGMENT = 131_072
"""Pages of one file of a table: PostgreSQL begins a new one at 1 GB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One statement's plan."""

    cost: float
    uses: frozenset[str] = frozenset()
    """The names of the indexes in it; candidates under the names that the proof gave them."""
    nodes: tuple[str, ...] = ()
    """The plan's nodes from the top, with their tables: `Seq Scan farms`."""


class Proof(Protocol):
    """A planner that can be asked."""

    how: str
    refused: dict[Candidate, str]
    """Candidates that cannot be tried here, and why."""

    def prepare(self, wanted: Iterable[Candidate]) -> None:
        """Make candidates known."""

    def plan(
        self, sql: str, chosen: Iterable[Candidate] = (), *, hidden: Iterable[str] = (),
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> Planned:  # fmt: skip
        """The plan of a statement with `settings`, if the indexes `chosen` existed and those in `hidden` did not."""

    def name(self, candidate: Candidate) -> str:
        """What a candidate is called in plans."""

    def can_hide(self) -> bool:
        """True where existing indexes can be hidden."""


@contextmanager
def proving(connection: Connection, url: str, facts: Facts, *, clone: bool | None = None) -> Iterator[Proof]:
    """The best proof there is for the database at `url`, to which `connection` is open in a READ ONLY transaction.

    `clone` asks for one way: False for HypoPG, True for a clone. Missing where neither is to be had.
    """
    if "hypopg" in facts.extensions and not clone:
        yield Hypothetical(connection, facts)
        return
    if clone is False:
        raise Missing("hypopg is not installed in this database", try_="CREATE EXTENSION hypopg")
    with tempfile.TemporaryDirectory(prefix="dbscale-", dir=_place()) as folder:
        Path(folder).chmod(0o755)
        proof = Clone(url, facts, Path(folder))
        try:
            proof.start(connection)
            yield proof
        finally:
            proof.stop()


def _place() -> str | None:
    """Where an account other than root can reach."""
    return None if Path(tempfile.gettempdir()).stat().st_mode & 0o001 else "/var/tmp"  # noqa: S108 - made by mkdtemp


def explain(connection: Connection, sql: str) -> Planned:
    """The plan of a statement, which is not executed; psycopg.Error where the server refuses it."""
    if "$1" not in sql:
        row: Any = connection.execute(f"EXPLAIN (FORMAT JSON) {sql}".encode()).fetchone()
    elif connection.info.server_version >= 160_000:
        row = connection.execute(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {sql}".encode()).fetchone()
    else:
        row = _generic(connection, sql)
    return read_plan(row[0][0]["Plan"])


def _generic(connection: Connection, sql: str) -> Any:
    """A generic plan on servers without EXPLAIN (GENERIC_PLAN): a prepared statement, never executed."""
    connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
    connection.execute(f"PREPARE dbscale_asked AS {sql}".encode())
    try:
        row: Any = connection.execute(
            "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'dbscale_asked'"
        ).fetchone()
        values = ", ".join(["NULL"] * row[0])
        call = f"EXECUTE dbscale_asked ({values})" if values else "EXECUTE dbscale_asked"
        return connection.execute(f"EXPLAIN (FORMAT JSON) {call}".encode()).fetchone()
    finally:
        with suppress(psycopg.errors.InFailedSqlTransaction):
            connection.execute("DEALLOCATE dbscale_asked")


def read_plan(node: Mapping[str, Any]) -> Planned:
    """What EXPLAIN (FORMAT JSON) says."""
    uses: set[str] = set()
    nodes: list[str] = []

    def walk(part: Mapping[str, Any]) -> None:
        if index := part.get("Index Name"):
            uses.add(str(index))
        named = " ".join(filter(None, (part["Node Type"], part.get("Relation Name"), part.get("Index Name"))))
        nodes.append(named)
        for child in part.get("Plans", ()):
            walk(child)

    walk(node)
    return Planned(cost=float(node["Total Cost"]), uses=frozenset(uses), nodes=tuple(nodes))


def spoken(source: Connection) -> dict[str, str]:
    """How the application's sessions read literals. A session of dbscale has settings of its own for that."""
    names = "'DateStyle', 'TimeZone', 'IntervalStyle', 'standard_conforming_strings'"
    return dict(source.execute(f"SELECT name, reset_val FROM pg_settings WHERE name IN ({names})").fetchall())


class Asked:
    """What both ways share: a savepoint around each question, so that a refused statement spoils nothing."""

    def __init__(self, connection: Connection, spoken: Mapping[str, str] = MappingProxyType({})) -> None:
        self.connection = connection
        self._spoken = spoken

    def ask(self, sql: str, settings: Mapping[str, str] = MappingProxyType({})) -> Planned:
        """The plan of a statement under these settings; psycopg.Error where the server refuses it."""
        # Rolled back: with the transaction goes what was set for it.
        with self.connection.transaction(force_rollback=True):
            for name, value in {**self._spoken, **settings}.items():
                self.connection.execute("SELECT set_config(%s, %s, true)", [name, value])
            return explain(self.connection, sql)


class Hypothetical(Asked):
    """HypoPG in the database itself."""

    def __init__(self, connection: Connection, facts: Facts) -> None:
        super().__init__(connection, spoken(connection))
        self.how = f"HypoPG {facts.extensions['hypopg']}"
        self.refused: dict[Candidate, str] = {}
        self._made: dict[Candidate, tuple[int, str]] = {}
        self._hides = tuple(int(part) for part in facts.extensions["hypopg"].split(".")[:2]) >= (1, 4)
        self._oids = {(index.schema, index.name): index.oid for table in facts.tables for index in table.indexes}

    def prepare(self, wanted: Iterable[Candidate]) -> None:
        """Try each once, so that what HypoPG cannot imagine is known."""
        for candidate in wanted:
            if candidate not in self.refused:
                self._make(candidate)
        self._reset()

    def _make(self, candidate: Candidate) -> None:
        sql = create_index(candidate.schema, candidate.table, candidate.index("dbscale_candidate"))
        try:
            with self.connection.transaction():
                row = self.connection.execute("SELECT indexrelid::int8, indexname FROM hypopg_create_index(%s)", [sql])
                self._made[candidate] = row.fetchone()  # type: ignore[assignment]
        except psycopg.Error as error:
            self.refused[candidate] = f"HypoPG: {error.diag.message_primary or error}"

    def _reset(self) -> None:
        self.connection.execute("SELECT hypopg_reset()")
        self._made.clear()

    def plan(
        self, sql: str, chosen: Iterable[Candidate] = (), *, hidden: Iterable[str] = (),
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> Planned:  # fmt: skip
        wanted = {candidate for candidate in chosen if candidate not in self.refused}
        if not wanted <= self._made.keys() or len(wanted) != len(self._made):
            self._reset()
            for candidate in sorted(wanted):
                self._make(candidate)
        hide = [self._oids[name] for name in self._oids if name[1] in set(hidden)]
        if hide and not self._hides:
            raise Missing("this HypoPG cannot hide indexes", try_="use HypoPG 1.4, or a clone")
        for oid in hide:
            self.connection.execute("SELECT hypopg_hide_index(%s)", [oid])
        try:
            return self.ask(sql, settings)
        finally:
            if hide:
                self.connection.execute("SELECT hypopg_unhide_all_indexes()")

    def name(self, candidate: Candidate) -> str:
        return self._made[candidate][1] if candidate in self._made else ""

    def can_hide(self) -> bool:
        return self._hides


@dataclass(slots=True)
class Clone:
    """A throwaway server with the tables and statistics of another, and no rows."""

    url: str = field(repr=False)
    facts: Facts
    folder: Path
    how: str = ""
    refused: dict[Candidate, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    """Tables that could not be cloned."""
    _connection: Connection | None = None
    _names: dict[Candidate, str] = field(default_factory=dict)
    _trees: dict[str, list[int]] = field(default_factory=dict)
    """The index of each name and, where its table is partitioned, those of the partitions."""
    _parents: dict[str, str] = field(default_factory=dict)
    """What an index of a partition is a part of, by name."""
    _shown: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
    _data: Path | None = None

    def start(self, source: Connection) -> None:
        """Make the server and the tables. Missing where there is no PostgreSQL 18 here, whose tools copy statistics."""
        binaries = _binaries()
        settings = {"autovacuum": "off", "fsync": "off", "shared_buffers": "32MB", "full_page_writes": "off",
                    "max_wal_size": "256MB", "shared_preload_libraries": ""}  # fmt: skip
        server = embedded.up("clone", root=self.folder, binaries=binaries, settings=settings)
        self._data = server.data
        failed = _copy(binaries, self.url, server.url)
        self._connection = postgres.connect(server.url, name="dbscale proof")
        self._settle(source)
        made = {row[0] for row in self._connection.execute(
            "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind IN ('r', 'p', 'm')"
        )}  # fmt: skip
        self.missing = tuple(t.title for t in self.facts.tables if f"{t.schema}.{t.name}" not in made)
        if self.missing and len(self.missing) == len(self.facts.tables):
            raise Missing(f"the tables could not be cloned: {failed}", try_="CREATE EXTENSION hypopg in the database")
        for table in self.facts.tables:
            if table.title not in self.missing:
                self._grow(table)
        version = self._connection.info.server_version // 10_000
        self.how = f"a clone with the data's statistics, planned by PostgreSQL {version}"

    def _settle(self, source: Connection) -> None:
        """The planner's settings of the source, and how its literals are read."""
        assert self._connection is not None  # noqa: S101 - start() has opened it
        rows = source.execute(
            "SELECT name, current_setting(name) FROM pg_settings WHERE (category LIKE 'Query Tuning%%' OR name IN"
            " ('work_mem', 'hash_mem_multiplier', 'max_parallel_workers', 'max_parallel_workers_per_gather',"
            " 'search_path')) AND name <> 'plan_cache_mode' AND context = 'user'"
        ).fetchall()
        for name, value in [*rows, *spoken(source).items()]:
            with suppress(psycopg.Error):
                self._connection.execute("SELECT set_config(%s, %s, false)", [name, value])

    def _grow(self, table: Table) -> None:
        """Give the files of a table and its indexes the length of the real ones."""
        if table.kind != "p":
            self._extend(table.sql, table.pages)
        for index in table.indexes:
            if not index.partitioned:
                self._extend(quote(index.schema, index.name), index.bytes // BLOCK)

    def _extend(self, relation: str, pages: int) -> None:
        assert self._connection is not None and self._data is not None  # noqa: S101, PT018 - start() has set them
        row = self._connection.execute("SELECT pg_relation_filepath(to_regclass(%s))", [relation]).fetchone()
        if row is None or row[0] is None:
            return
        owner = self._data.stat()
        for number in range(max(1, math.ceil(pages / SEGMENT))):
            file = self._data / (row[0] + (f".{number}" if number else ""))
            new = not file.exists()
            with file.open("ab") as opened:
                size = min(SEGMENT, pages - number * SEGMENT) * BLOCK
                # Never shorter: the first page of an index is its own.
                opened.truncate(max(size, file.stat().st_size))
            if new and os.geteuid() == 0:
                os.chown(file, owner.st_uid, owner.st_gid)
                file.chmod(0o600)

    def prepare(self, wanted: Iterable[Candidate]) -> None:
        """Make candidates as indexes that the planner does not see yet."""
        fresh = [c for c in dict.fromkeys(wanted) if c not in self._names and c not in self.refused]
        tables = {(candidate.schema, candidate.table) for candidate in fresh}
        for key in sorted(tables):
            table = self.facts.table(key[1], key[0])
            if table is None:
                continue
            self._shrunk(table, [candidate for candidate in fresh if (candidate.schema, candidate.table) == key])

    def _shrunk(self, table: Table, fresh: list[Candidate]) -> None:
        """Build on empty files, which is quick, and restore their length and statistics afterwards."""
        assert self._connection is not None and self._data is not None  # noqa: S101, PT018
        leaves = self.facts.leaves(table)
        for leaf in leaves:
            row: Any = self._connection.execute("SELECT pg_relation_filepath(to_regclass(%s))", [leaf.sql]).fetchone()
            files = sorted(self._data.glob(f"{row[0]}*")) if row and row[0] else []
            for file in (file for file in files if "_" not in file.name):
                os.truncate(file, 0)
        for candidate in fresh:
            self._build(candidate)
        for leaf in leaves:
            self._grow(leaf)
            self._restore(leaf.schema, leaf.name, leaf.rows, leaf.pages, leaf.visible)
        if table.kind == "p":
            self._restore(table.schema, table.name, table.rows, table.pages, table.visible)

    def _restore(self, schema: str, name: str, rows: float, pages: int, visible: int) -> None:
        assert self._connection is not None  # noqa: S101
        self._connection.execute(
            "SELECT pg_restore_relation_stats('schemaname', %s::text, 'relname', %s::text, 'relpages', %s::int,"
            " 'reltuples', %s::real, 'relallvisible', %s::int)",
            [schema, name, pages, rows, visible],
        )

    def _build(self, candidate: Candidate) -> None:
        assert self._connection is not None  # noqa: S101
        name = f"dbscale_candidate_{len(self._names) + len(self.refused)}"
        try:
            self._connection.execute(create_index(candidate.schema, candidate.table, candidate.index(name)).encode())
        except psycopg.Error as error:
            self.refused[candidate] = str(error.diag.message_primary or error)
            return
        self._names[candidate] = name
        tree: list[Any] = self._connection.execute(
            "SELECT i.oid, n.nspname, i.relname, t.relname FROM (SELECT %(name)s::regclass AS relid"
            " UNION SELECT relid FROM pg_partition_tree(%(name)s::regclass)) r JOIN pg_class i ON i.oid = relid"
            " JOIN pg_namespace n ON n.oid = i.relnamespace JOIN pg_index ON indexrelid = i.oid"
            " JOIN pg_class t ON t.oid = indrelid",
            {"name": quote(candidate.schema, name)},
        ).fetchall()
        self._trees[name] = [oid for oid, *_ in tree]
        self._show(self._trees[name], visible=False)
        for _, schema, index, of in tree:
            self._parents[index] = name
            part = self.facts.table(of, schema)  # an index is in its table's schema
            if part is not None and part.kind != "p":
                pages = estimate(candidate, part) // BLOCK
                self._restore(schema, index, part.rows * share(candidate, part), pages, 0)
                self._extend(quote(schema, index), pages)

    def _show(self, indexes: Iterable[int], *, visible: bool) -> None:
        """Let the planner see indexes, or not."""
        assert self._connection is not None  # noqa: S101
        sql = "UPDATE pg_index SET indisvalid = %s WHERE indexrelid = ANY (%s)"
        self._connection.execute(sql, [visible, list(indexes)])

    def plan(
        self, sql: str, chosen: Iterable[Candidate] = (), *, hidden: Iterable[str] = (),
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> Planned:  # fmt: skip
        assert self._connection is not None  # noqa: S101
        shown = frozenset(self._names[candidate] for candidate in chosen if candidate in self._names)
        away = frozenset(hidden)
        if (shown, away) != self._shown:
            before, hidden_before = self._shown
            for names, valid in (
                (before - shown | away - hidden_before, False),
                (shown - before | hidden_before - away, True),
            ):
                if names:
                    self._show([oid for name in sorted(names) for oid in self._oids(name)], visible=valid)
            self._shown = (shown, away)
        found = Asked(self._connection).ask(sql, settings)
        return replace(found, uses=frozenset(self._parents.get(name, name) for name in found.uses))

    def _oids(self, name: str) -> list[int]:
        """The indexes of a name: a candidate's, or those of the database that are called so."""
        assert self._connection is not None  # noqa: S101
        if name not in self._trees:
            sql = "SELECT oid FROM pg_class WHERE relname = %s AND relkind IN ('i', 'I')"
            self._trees[name] = [oid for (oid,) in self._connection.execute(sql, [name])]
        return self._trees[name]

    def name(self, candidate: Candidate) -> str:
        return self._names.get(candidate, "")

    def can_hide(self) -> bool:
        return True

    def stop(self) -> None:
        """End the server and remove what it left."""
        if self._connection is not None:
            self._connection.close()
        with suppress(DbscaleError):
            embedded.down("clone", root=self.folder, remove=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _binaries() -> Path:
    """PostgreSQL 18 or later, whose pg_dump takes statistics along."""
    binaries = programs.find()
    if programs.major(binaries) < 18:
        binaries = programs.find(18)
    return binaries


def _copy(binaries: Path, source: str, target: str) -> str:
    """The schema and the statistics, by pg_dump and psql; what psql complained of, in short."""
    from_, from_password = _hidden(source)
    to, to_password = _hidden(target)
    dump = subprocess.run(
        [str(binaries / "pg_dump"), "--no-data", "--statistics", "--no-owner", "--no-privileges", "--no-publications",
         "--no-subscriptions", "--no-comments", "--no-security-labels", "--no-tablespaces", "-d", from_],
        capture_output=True, text=True, check=False, env={**os.environ, **from_password},
    )  # fmt: skip
    if dump.returncode:
        words = redact(dump.stderr.strip().splitlines()[-1] if dump.stderr.strip() else "no output")
        raise Missing(
            f"the schema could not be copied for the proof: {words}",
            where="pg_dump",
            try_="use a role that may read every table, or CREATE EXTENSION hypopg in the database",
        )
    loaded = subprocess.run(
        [str(binaries / "psql"), "-qX", "-d", to],
        input=dump.stdout, capture_output=True, text=True, check=False, env={**os.environ, **to_password},
    )  # fmt: skip
    return (loaded.stderr.strip().splitlines() or [""])[0]


def _hidden(url: str) -> tuple[str, dict[str, str]]:
    """A connection string without its password, which goes into the environment: arguments are for all to see."""
    parts = conninfo.conninfo_to_dict(url)
    password = parts.pop("password", None)
    return conninfo.make_conninfo(**parts), {"PGPASSWORD": str(password)} if password else {}  # type: ignore[arg-type]


__all__ = [
    "Asked",
    "Clone",
    "Hypothetical",
    "Planned",
    "Proof",
    "explain",
    "proving",
    "read_plan",
    "spoken",
]
