"""`pytest --dbscale`: a project's migrations, tried on a real PostgreSQL that is thrown away.

Nothing is imported or collected without the option, but for the fixtures `dbscale_server` and `dbscale_database`, which
give a test of the project's own a fresh database at the newest revision.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dbscale.errors import Finding
    from dbscale.testing.checks import Check, Project
    from dbscale.testing.servers import Server

_INI = (
    ("migrations", "string", "alembic.ini, a folder with env.py, or a folder of SQL files; found where it usually is"),
    ("server", "string", "postgresql://…, embedded or container; also --dbscale-server and DBSCALE_TEST_URL"),
    ("models", "string", "module:Base.metadata, where env.py has no target_metadata"),
    ("app", "string", "module:factory of a Flask application, where FLASK_APP does not say it"),
    ("variables", "linelist", "NAME=VALUE for env.py; {address} is user:password@host:port/database"),
    ("branches", "args", "labels of branches whose heads may stand beside the main one"),
    ("since", "string", "the deployed revision: only later ones are walked down, linted and killed"),
    ("seconds", "string", "the longest that one revision may take on an empty database"),
    ("seed", "string", "a SQL file with rows that cannot be made up from the catalog"),
    ("blocked", "string", "the longest that a writer may wait behind a revision, in seconds; else it is not tried"),
    ("replica", "string", "a replica of the server, by URL, or embedded; else replicas are not tried"),
    ("sqlite", "string", "a SQLite file whose migration to PostgreSQL is to be verified"),
    ("sqlite_options", "args", "options of dbscale migrate for it: --into-existing"),
    ("maps", "string", "the folder of the shard maps (shard_maps)"),
    ("lint_exclude", "args", "rules of squawk that do not matter here"),
    ("skip", "args", "checks to leave out"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dbscale", "dbscale: database migrations")
    group.addoption("--dbscale", action="store_true", help="Try the project's migrations on a throwaway PostgreSQL.")
    group.addoption("--dbscale-server", metavar="URL|embedded|container", default="", help="Where to try them.")
    for name, kind, says in _INI:
        parser.addini(f"dbscale_{name}", says, type=kind, default=[] if kind in ("args", "linelist") else "")  # type: ignore[arg-type]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "dbscale: a check of the project's migrations")
    if config.getoption("--dbscale"):
        config.pluginmanager.register(_Session(config), "dbscale-session")


class _Session:
    """What one run of pytest keeps: the server, started when the first check asks for it."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.failures: list[tuple[str, Finding]] = []
        self._server: Any = None
        self._project: Project | None = None

    @property
    def server(self) -> Server:
        from dbscale.testing.servers import running

        if self._server is None:
            place = self.config.getoption("--dbscale-server") or self.config.getini("dbscale_server")
            self._server = running(place)
            self._running: Server = self._server.__enter__()
        return self._running

    @property
    def project(self) -> Project:
        if self._project is None:
            self._project = _project(self.config, self.server)
        return self._project

    @pytest.hookimpl(tryfirst=True)  # before -k and -m choose among the items
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        from dbscale.testing.suite import CHECKS

        skipped = self.config.getini("dbscale_skip")
        known = {check.__name__ for check in CHECKS}
        if wrong := [name for name in skipped if name not in known]:
            raise pytest.UsageError(f"dbscale_skip: {wrong[0]!r} is none of {', '.join(sorted(known))}")
        migrations: Any = Migrations.from_parent(session, name="dbscale", nodeid="dbscale")
        items += [
            CheckItem.from_parent(migrations, name=check.__name__, check=check, keep=self)
            for check in CHECKS
            if check.__name__ not in skipped
        ]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if os.environ.get("GITHUB_ACTIONS") != "true":
            return
        from dbscale.testing.checks import here

        for name, finding in self.failures:
            shown, file, line = here(finding, self.config.rootpath)
            says = _escaped(f"{shown.says}\n{shown.try_}".strip())
            terminalreporter.write_line(f"::error file={file},line={line},title=dbscale {name} [{shown.code}]::{says}")

    def pytest_unconfigure(self) -> None:
        if self._server is not None:
            self._server.__exit__(None, None, None)


class Migrations(pytest.Collector):
    """The node above the checks in pytest's tree."""

    def collect(self) -> list[pytest.Item]:
        return []


class CheckItem(pytest.Item):
    """One check as a test."""

    def __init__(self, *, check: Check, keep: _Session, **options: Any) -> None:
        super().__init__(**options)
        self.check, self.keep = check, keep
        self.add_marker("dbscale")

    def runtest(self) -> None:
        from dbscale.errors import DbscaleError, Finding
        from dbscale.testing.checks import Skip

        project = self.keep.project
        project.notes.clear()
        try:
            findings = list(self.check(project))
        except Skip as reason:
            pytest.skip(str(reason))
        except DbscaleError as error:
            findings = [Finding(code=error.section, where=error.where, says=error.says, try_=error.try_)]
        if project.notes:
            self.add_report_section("call", "dbscale", "\n".join(dict.fromkeys(project.notes)))
        if findings:
            self.keep.failures += [(self.name, finding) for finding in findings]
            raise Failed(findings)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if not isinstance(excinfo.value, Failed):
            return super().repr_failure(excinfo, style)
        from dbscale.testing.checks import here

        return "\n".join(_text(here(finding, self.config.rootpath)[0]) for finding in excinfo.value.findings)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.config.rootpath, None, f"dbscale: {self.name}"


class Failed(Exception):
    """A check found faults."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("; ".join(finding.says for finding in findings))
        self.findings = findings


def _text(finding: Finding) -> str:
    return f"{finding.where}: {finding.says} [{finding.code}]" + (f"\n  try  {finding.try_}" if finding.try_ else "")


def _escaped(text: str) -> str:
    """As GitHub's workflow commands want their message."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _project(config: pytest.Config, server: Server) -> Project:
    from dbscale import environment
    from dbscale.errors import ConfigError
    from dbscale.testing import scripts
    from dbscale.testing.checks import Project

    ini: dict[str, Any] = {name: config.getini(f"dbscale_{name}") for name, _, _ in _INI}
    root = config.rootpath
    variables = dict(line.partition("=")[::2] for line in ini["variables"])
    named = root / ini["migrations"] if ini["migrations"] else None
    if named and named.is_dir() and not (named / "env.py").exists():
        migrations: Any = scripts.Scripts(named)
    else:
        alembic = environment.Environment(named) if named else environment.find(root)
        migrations = alembic and environment.Environment(alembic.place, ini["app"], variables)
    migrations = migrations or scripts.find(root)
    if migrations is None:
        raise ConfigError(
            "there are no migrations here", where=str(root), try_="dbscale_migrations = PATH in pytest's ini"
        )
    return Project(
        root=root,
        migrations=migrations,
        server=server,
        models=ini["models"],
        branches=frozenset(ini["branches"]),
        since=ini["since"],
        seconds=float(ini["seconds"] or 0),
        seed=(root / ini["seed"]).read_text(encoding="utf-8") if ini["seed"] else "",
        blocked=float(ini["blocked"] or 0),
        replica=ini["replica"],
        sqlite=ini["sqlite"],
        sqlite_options=tuple(ini["sqlite_options"]),
        maps=ini["maps"] or "shard_maps",
        lint_exclude=tuple(ini["lint_exclude"]),
    )


@pytest.fixture(scope="session")
def dbscale_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A throwaway PostgreSQL: `fresh()`, `database()` and `template(key, fill)` make databases on it."""
    kept = request.config.pluginmanager.get_plugin("dbscale-session")
    if kept:
        yield kept.server
        return
    from dbscale.testing.servers import running

    place = request.config.getoption("--dbscale-server") or request.config.getini("dbscale_server")
    with running(place) as server:
        yield server


@pytest.fixture(scope="session")
def _dbscale_project(request: pytest.FixtureRequest, dbscale_server: Server) -> Project:
    return _project(request.config, dbscale_server)


@pytest.fixture
def dbscale_database(_dbscale_project: Project) -> Iterator[str]:
    """The URL of a fresh database at the newest revision, dropped after the test."""
    with _dbscale_project.server.database(_dbscale_project.at("heads")) as url:
        yield url
