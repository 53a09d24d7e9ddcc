"""What a project's migrations are held to: each check takes a `Project` and yields a finding for each fault."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg

from dbscale.drivers import postgres
from dbscale.environment import Environment, Revision
from dbscale.errors import ConfigError, DbscaleError, Finding, redact
from dbscale.schema import columns_sql, quote
from dbscale.testing import kill, seed
from dbscale.testing.scripts import Scripts
from dbscale.testing.servers import Server
from dbscale.testing.snapshot import BOOKKEEPING, DECLARED, Difference, Snapshot, differences, snapshot

LEFT_OUT = (*BOOKKEEPING, "dbscale_scripts")
STYLE = (
    "prefer-robust-stmts", "prefer-bigint-over-int", "prefer-bigint-over-smallint", "prefer-identity",
    "prefer-text-field", "prefer-timestamp-tz", "require-timeout-settings",
)  # fmt: skip
"""squawk's rules about taste, which say nothing of danger; `dbscale_lint_exclude` adds to them."""


class Skip(Exception):
    """The project gives this check nothing to look at; the text says what it would need."""


@dataclass(slots=True, kw_only=True)
class Project:
    """A project's migrations, what they are tried on, and how strictly."""

    root: Path
    migrations: Environment | Scripts
    server: Server
    models: str = ""
    """`module:attribute`, for migrations that do not name their models themselves."""
    branches: frozenset[str] = frozenset()
    """Labels of branches whose heads may stand beside the main one."""
    since: str = ""
    """The revision that is deployed: it and those before it are not walked down, linted, or killed."""
    seconds: float = 0.0
    """The longest that one revision may take on an empty database; 0: as long as it likes."""
    seed: str = ""
    """SQL that puts in rows which `seed` cannot make up; run at head."""
    blocked: float = 0.0
    """The longest that a writer may wait behind a revision, in seconds; 0: not tried."""
    replica: str = ""
    """A replica of the server, by URL, or `embedded`; empty: not tried."""
    sqlite: str = ""
    sqlite_options: tuple[str, ...] = ()
    maps: str = "shard_maps"
    lint_exclude: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    """What a check found worth telling although it passed."""
    _before: dict[str, Snapshot] = field(default_factory=dict)

    def at(self, revision: str) -> str:
        """The name of a template database at a revision; `base` for one before the first."""

        def fill(url: str) -> None:
            if revision != "base":
                self.migrations.upgrade(url, revision)

        return self.server.template(f"at {revision}", fill)

    def catalog(self, url: str) -> Snapshot:
        """The schema that a database has."""
        with postgres.connect(url, name="dbscale testing") as connection:
            return snapshot(connection, leave_out=LEFT_OUT)

    def linear(self) -> tuple[Revision, ...]:
        """The revisions, each with one before it at most; Skip where branches make the order a choice."""
        found = self.migrations.revisions
        if not found:
            raise Skip("there are no revisions")
        straight = all(after.down == (before.id,) for before, after in itertools.pairwise(found))
        if not straight:
            raise Skip("the revisions have branches: there is no one order to walk them in")
        return found

    def recent(self) -> tuple[Revision, ...]:
        """The revisions after `since`."""
        found = self.linear()
        places = [number for number, each in enumerate(found) if self.since and each.id.startswith(self.since)]
        if self.since and not places:
            raise ConfigError(f"there is no revision {self.since!r}", where="dbscale_since", try_="alembic history")
        return found[places[0] + 1 :] if places else found


Check = Callable[[Project], Iterator[Finding]]


def single_head(project: Project) -> Iterator[Finding]:
    """T01: one head, beside those of declared branches."""
    revisions = {revision.id: revision for revision in project.migrations.revisions}
    heads = [revisions[head] for head in project.migrations.heads]
    undeclared = [head for head in heads if not head.labels & project.branches]
    if len(undeclared) > 1:
        yield Finding(
            code="migration-heads",
            where=str(undeclared[-1].path),
            says=f"{len(undeclared)} heads: {', '.join(head.id for head in undeclared)}",
            try_="alembic merge heads, or point down_revision at the other; dbscale_branches allows labelled ones",
            level="blocker",
        )


def up_from_empty(project: Project) -> Iterator[Finding]:
    """T02: every revision runs on an empty database, within its time."""
    try:
        revisions = project.linear()
    except Skip:
        with project.server.database() as url:
            project.migrations.upgrade(url)
        return
    with project.server.database() as url:
        for revision in revisions:
            began = time.perf_counter()
            try:
                project.migrations.upgrade(url, revision.id)
            except DbscaleError as error:
                yield failed(revision, error, "migration-fails", "on an empty database")
                return
            took = time.perf_counter() - began
            project.notes.append(f"{took * 1000:7.0f} ms  {revision.path.name}")
            if project.seconds and took > project.seconds:
                yield Finding(
                    code="migration-slow",
                    where=str(revision.path),
                    says=f"it took {took:.2f} s on an empty database; dbscale_seconds allows {project.seconds:g} s",
                    level="blocker",
                )


def up_down_up(project: Project) -> Iterator[Finding]:
    """T04, T05: up, down, up: the way down leaves no trace, and the second way up gives the same catalog."""
    for revision in project.recent():
        before = revision.down[0] if revision.down else "base"
        with project.server.database(project.at(before)) as url:
            start = project.catalog(url)
            project.migrations.upgrade(url, revision.id)
            first = project.catalog(url)
            try:
                project.migrations.downgrade(url, before)
            except (NotImplementedError, DbscaleError) as error:
                if isinstance(error.__cause__ or error, NotImplementedError):
                    project.notes.append(f"{revision.path.name} has no way back")
                    continue
                yield failed(revision, error, "migration-downgrade", "on the way down")
                continue
            for each in differences(start, project.catalog(url)):
                if each.first == f"{each.second} NOT VALID":
                    continue  # there is no way to unvalidate
                yield differing(revision, each, "before", "after the way down", "migration-trace")
            try:
                project.migrations.upgrade(url, revision.id)
            except DbscaleError as error:
                yield failed(revision, error, "migration-downgrade", "on the way up again, after the way down")
                continue
            for each in differences(first, project.catalog(url)):
                yield differing(revision, each, "the first time", "the second time", "migration-trace")


def models_match(project: Project) -> Iterator[Finding]:
    """T03: the models' own tables and the migrated ones are the same in PostgreSQL's catalog."""
    with project.server.database(project.at("heads")) as url, project.server.database() as other:
        models = _models(project, url)
        migrated = project.catalog(url)
        _create(models, migrated, other)
        declared = project.catalog(other)
    for each in differences(declared, migrated):
        # What models seldom declare (views, say) is missing on their side for a reason.
        if each.first is None and (each.kind not in DECLARED or each.kind in ("trigger", "function", "view")):
            continue
        yield Finding(
            code="model-drift",
            where=str(project.migrations.revisions[-1].path),
            says=each.text("in the models", "in the migrations"),
            try_="alembic revision --autogenerate, then look whether it saw this; or change the model",
            level="blocker",
        )


def _models(project: Project, url: str) -> tuple[Any, ...]:
    if not project.models:
        found = project.migrations.metadata(url)
        if not found:
            raise Skip("there are no models: env.py has no target_metadata; dbscale_models = module:Base.metadata")
        return found
    module, _, path = project.models.partition(":")
    try:
        value: Any = importlib.import_module(module)
        for name in (path or "metadata").split("."):
            value = getattr(value, name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(str(error), where="dbscale_models", try_="module:Base.metadata") from error
    return (value,)


def _create(models: tuple[Any, ...], migrated: Snapshot, url: str) -> None:
    """Make the models' tables; the schemas and extensions that they need are taken from the migrated side."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.engine import make_url
    from sqlalchemy.pool import NullPool

    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    with engine.begin() as connection:
        for kind, name in migrated:
            if kind in ("extension", "schema") and name != "public":
                connection.execute(text(f'CREATE {kind.upper()} IF NOT EXISTS "{name}"'))
        for metadata in models:
            metadata.create_all(connection)


def seeded_data_survives(project: Project) -> Iterator[Finding]:
    """T06, T07: each revision runs on tables with rows, and loses and changes none that it does not say."""
    for revision in project.recent():
        before = revision.down[0] if revision.down else "base"
        with project.server.database(project.at(before)) as url:
            with postgres.connect(url) as connection:
                head = before in project.migrations.heads
                seeded = seed.fill(connection, script=project.seed if head else "")
                project.notes += [f"{table[1]} stays empty: {why}" for table, why in seeded.empty.items()]
                first = seed.contents(connection)
            try:
                project.migrations.upgrade(url, revision.id)
            except DbscaleError as error:
                yield failed(revision, error, "migration-fails", "on tables with rows")
                continue
            with postgres.connect(url) as connection:
                yield from _lost(revision, first, seed.contents(connection), "migration-loses-rows")
                second = seed.contents(connection)
            try:
                project.migrations.downgrade(url, before)
                project.migrations.upgrade(url, revision.id)
            except (NotImplementedError, DbscaleError) as error:
                if not isinstance(error.__cause__ or error, NotImplementedError):
                    yield failed(revision, error, "migration-downgrade", "down and up again, on tables with rows")
                continue
            with postgres.connect(url) as connection:
                after = seed.contents(connection)
            # A column that the way down drops comes back empty, which is what dropping means.
            kept = {table: _only(content, first.get(table, {})) for table, content in second.items() if table in first}
            yield from _lost(revision, kept, after, "migration-loses-rows")


def _only(content: Mapping[str, str], columns: Mapping[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in content.items() if name in columns}


def _lost(
    revision: Revision, first: Mapping[str, Mapping[str, str]], second: Mapping[str, Mapping[str, str]], code: str
) -> Iterator[Finding]:
    meant = revision.says("changes")
    for table, columns in first.items():
        for column in sorted(columns.keys() & second.get(table, {}).keys()):
            place = table if column == "count(*)" else f"{table}.{column}"
            plain = place.removeprefix("public.")
            if columns[column] == second[table][column] or meant & {place, plain, plain.partition(".")[0]}:
                continue
            what = "rows" if column == "count(*)" else "values"
            says = f"the {what} of {plain} are not those before"
            if column == "count(*)":
                says = f"{plain} had {columns[column]} rows, and has {second[table][column]}"
            yield Finding(
                code=code,
                where=str(revision.path),
                says=says,
                try_=f"if that is meant, say so in the revision: # dbscale: changes {plain}",
                level="blocker",
            )


def killed_anywhere(project: Project) -> Iterator[Finding]:
    """T11: killed at any statement, a revision can be run again, and gives the same catalog.

    In one transaction nothing is left, so one kill is tried; outside of one, every statement.
    """
    for revision in project.recent():
        before = revision.down[0] if revision.down else "base"
        with project.server.database(project.at(before)) as url:
            count = kill.count(lambda url=url, revision=revision: project.migrations.upgrade(url, revision.id))  # type: ignore[misc]
            wanted = project.catalog(url)
        alone = re.search(r"autocommit_block|CONCURRENTLY|dbscale: alone", revision.text, re.IGNORECASE)
        for number in range(1, count + 1) if alone else [count]:
            with project.server.database(project.at(before)) as url:
                kill.at(number, lambda url=url, revision=revision: project.migrations.upgrade(url, revision.id))  # type: ignore[misc]
                try:
                    project.migrations.upgrade(url, revision.id)
                except DbscaleError as error:
                    yield failed(revision, error, "migration-not-again", f"again, after a kill at statement {number}")
                    break
                found = differences(wanted, project.catalog(url))
                for each in found:
                    yield differing(
                        revision, each, "without a kill", f"after one at statement {number}", "migration-not-again"
                    )
                if found:
                    break


def old_application(project: Project) -> Iterator[Finding]:
    """T12: what the application of the deployed revision writes and reads still works at head."""
    if not project.since:
        raise Skip("dbscale_since names no deployed revision")
    if not project.recent():
        raise Skip("the deployed revision is the newest")
    meant = {name for revision in project.recent() for name in revision.says("contracts")}
    deployed = next(each for each in project.linear() if each.id.startswith(project.since))
    with project.server.database(project.at(deployed.id)) as url, postgres.connect(url) as connection:
        wanted = seed.needs(connection)
        inserts = seed.fill(connection).inserts
    with project.server.database(project.at("heads")) as url, postgres.connect(url) as connection:
        for table, columns in wanted.tables.items():
            statements = [f"SELECT {columns_sql(tuple(c.name for c in columns))} FROM {quote(*table)}"]
            statements += inserts.get(table, ())[:1]
            for statement in statements:
                try:
                    connection.execute(statement.encode())
                except psycopg.Error as error:
                    if table[1] not in meant:
                        yield Finding(
                            code="old-application",
                            where=str(project.recent()[-1].path),
                            says=f"{statement}: {error.diag.message_primary} (worked at {deployed.id})",
                            try_="add first, remove in a later release; or # dbscale: contracts TABLE in the revision",
                            level="blocker",
                        )
                    break


def renders_offline(project: Project) -> Iterator[Finding]:
    """T13: each revision can be written as SQL, for those who run it by hand."""
    with project.server.database() as url:
        for revision in project.recent():
            try:
                project.migrations.sql(url, revision.down[0] if revision.down else "base", revision.id)
            except DbscaleError as error:
                yield failed(revision, error, "migration-offline", "as SQL (--sql)")


def lint(project: Project) -> Iterator[Finding]:
    """T08: squawk finds nothing dangerous in the SQL of the revisions."""
    squawk = shutil.which("squawk") or shutil.which("squawk", path=str(Path(sys.executable).parent))
    if not squawk:
        raise Skip("squawk is not installed: pip install squawk-cli")
    excluded = ",".join((*STYLE, *project.lint_exclude))
    with project.server.database() as url:
        for revision in project.recent():
            sql = project.migrations.sql(url, revision.down[0] if revision.down else "base", revision.id)
            done = subprocess.run(
                [squawk, "--reporter", "Json", "--exclude", excluded, "--stdin-filepath", revision.path.name],
                input=sql, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode > 1 or not done.stdout.strip().startswith("["):
                raise ConfigError(f"squawk: {(done.stderr or done.stdout).strip()}", where="dbscale_lint_exclude")
            for each in json.loads(done.stdout):
                yield Finding(
                    code="migration-lint",
                    where=str(revision.path),
                    says=f"{each.get('rule_name')}: {each.get('message')}",
                    try_=str(each.get("help") or "dbscale_lint_exclude leaves a rule out"),
                    level="blocker",
                )


def nothing_invalid(project: Project) -> Iterator[Finding]:
    """T14: at head no index is invalid, and no constraint is left NOT VALID."""
    query = (
        "SELECT 'index ' || indexrelid::regclass FROM pg_index WHERE NOT indisvalid OR NOT indisready UNION ALL "
        "SELECT format('constraint %s of %s', conname, conrelid::regclass) FROM pg_constraint WHERE NOT convalidated"
    )
    with project.server.database(project.at("heads")) as url, postgres.connect(url) as connection:
        for (name,) in connection.execute(query.encode()):
            yield Finding(
                code="left-invalid",
                where=str(project.migrations.revisions[-1].path),
                says=f"{name} is not valid at head",
                try_="a later revision has to VALIDATE it, or make it anew",
                level="blocker",
            )


def sqlite_migrates(project: Project) -> Iterator[Finding]:
    """The given SQLite file migrates to PostgreSQL, and every row is compared."""
    if not project.sqlite:
        raise Skip("dbscale_sqlite names no file")
    into = "--into-existing" in project.sqlite_options
    with project.server.database(project.at("heads") if into else "") as url:
        command = [sys.executable, "-m", "dbscale.cli", "migrate", project.sqlite, "env:DBSCALE_TEST_TARGET", "--json"]
        done = subprocess.run(
            [*command, *project.sqlite_options],
            cwd=project.root,
            env={**os.environ, "DBSCALE_TEST_TARGET": url},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        said = redact(done.stderr.strip() or done.stdout.strip())
        yield Finding(
            code="sqlite-migration",
            where=project.sqlite,
            says=f"dbscale migrate ended with {done.returncode}: {said[-2000:]}",
            try_=f"dbscale migrate {project.sqlite} TARGET --dry-run",
            level="blocker",
        )


def shard_maps_fit(project: Project) -> Iterator[Finding]:
    """The shard maps are valid, and fit the schema at head: tables, keys and uniques."""
    from dbscale import config
    from dbscale.shards import file
    from dbscale.shards.client import findings
    from dbscale.shards.facts import databases
    from dbscale.shards.gather import gather

    folder = project.root / project.maps
    if not any(folder.glob("*.toml")):
        raise Skip(f"there are no shard maps in {project.maps}")
    settings = project.root / "dbscale.toml"
    maps = file.load(folder, config.load(settings) if settings.exists() else None)
    with project.server.database(project.at("heads")) as url:
        for map_ in maps.maps:
            shards = dict(maps.shards) or {shard: shard for shard in map_.shards}
            home = shards.get("home") or next(iter(databases(map_, shards)))
            facts = gather(map_, shards, dict.fromkeys((home, *databases(map_, shards)), url))
            for finding in dict.fromkeys(findings(map_, facts)):
                if finding.level == "blocker":
                    yield finding


def failed(revision: Revision, error: BaseException, code: str, when: str) -> Finding:
    """A revision did not run."""
    where = getattr(error, "where", "")
    return Finding(
        code=code,
        where=where if where.startswith(str(revision.path)) else str(revision.path),
        says=f"{revision.id} fails {when}: {error}",
        try_="",
        level="blocker",
    )


def differing(revision: Revision, each: Difference, first: str, second: str, code: str) -> Finding:
    """An object is not the same as it was."""
    return Finding(code=code, where=str(revision.path), says=each.text(first, second), level="blocker")


def here(finding: Finding, root: Path) -> tuple[Finding, str, int]:
    """The finding with its place from the root; its file and line."""
    path, _, line = finding.where.partition(": ")[0].rpartition(":")
    if not line.isdigit():
        path, line = finding.where.partition(": ")[0], "1"
    relative = os.path.relpath(path, root) if Path(path).is_absolute() else path
    return replace(finding, where=finding.where.replace(path, relative)), relative, int(line)
