"""An application's own Alembic environment: its revisions, run against a database that the caller names.

Environments find their database in many ways: `sqlalchemy.url`, an environment variable, a Flask application, a
settings object with an asyncpg URL. Whatever env.py asks SQLAlchemy to connect to, inside `run_on` the connection leads
to the named database, by the driver that the environment uses. So no environment has to be changed for tests or for
shards, and a test can never reach the database that the environment has in its settings.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dbscale.errors import ConfigError, DbscaleError, Unfinished, redact

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

VARIABLES = ("DATABASE_URL", "SQLALCHEMY_DATABASE_URI")
"""Environment variables that applications read; set to the named database unless they name a PostgreSQL already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One revision of an application's migrations."""

    id: str
    down: tuple[str, ...]
    """The revisions before it; none for a first one, several for a merge."""
    path: Path
    text: str
    title: str
    labels: frozenset[str] = frozenset()

    def says(self, word: str) -> set[str]:
        """What stands behind `dbscale: WORD` in the revision's text: `dbscale: changes users.email`."""
        marks = (line.partition(f"dbscale: {word}")[2] for line in self.text.splitlines())
        return {name.strip(",\"'") for mark in marks for name in mark.split()}


@dataclass(frozen=True, slots=True)
class Environment:
    """An Alembic environment: an alembic.ini, a pyproject.toml with [tool.alembic], or a folder with env.py."""

    place: Path
    app: str = ""
    """How Flask finds the application, for environments that ask for one: `module:factory`."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Further environment variables; `{address}` in a value becomes `user:password@host:port/database`."""

    def config(self, url: str = "") -> Config:
        """Alembic's configuration; with `url`, its `sqlalchemy.url` too."""
        from alembic.config import Config

        if not self.place.exists():
            raise ConfigError("there is no such place", where=str(self.place), try_="name alembic.ini or its folder")
        ini = self.place / "alembic.ini" if self.place.is_dir() else self.place
        toml = ini if ini.suffix == ".toml" else None
        config = Config(toml_file=toml) if toml else Config(str(ini) if ini.is_file() else None)
        config.print_stdout = lambda *_args: None  # type: ignore[method-assign]
        if not config.get_alembic_option("script_location"):
            folder = self.place if self.place.is_dir() else ini.parent
            config.set_main_option("script_location", str(folder).replace("%", "%%"))
        if url:
            named = config.get_alembic_option("sqlalchemy.url") or ""
            driver = named.partition("://")[0] if named.startswith("postgresql+") else "postgresql+psycopg"
            config.set_main_option("sqlalchemy.url", f"{driver}://{_address(url)}".replace("%", "%%"))
        return config

    @property
    def script(self) -> ScriptDirectory:
        """Alembic's directory of revisions; ConfigError where it cannot be read."""
        from alembic.script import ScriptDirectory
        from alembic.util import CommandError

        try:
            script = ScriptDirectory.from_config(self.config())
            script.get_heads()
        except CommandError as error:
            raise ConfigError(str(error), where=str(self.place), try_="alembic heads") from error
        return script

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(self.script.get_heads())

    @property
    def revisions(self) -> tuple[Revision, ...]:
        """All revisions, each after those that it builds on."""
        found = []
        for script in reversed(list(self.script.walk_revisions())):
            down = script.down_revision
            found.append(
                Revision(
                    id=script.revision,
                    down=(down,) if isinstance(down, str) else tuple(down or ()),
                    path=Path(script.path),
                    text=Path(script.path).read_text(encoding="utf-8"),
                    title=script.doc,
                    labels=frozenset(script.branch_labels),
                )
            )
        return tuple(found)

    def write(self, title: str, text: Callable[[str, str | None], str]) -> Path:
        """Add a revision after the head; `text` makes it of its id and the one before. The file that was written.

        Ids go on as they are: numbers of four digits where the others are such, or where there are none yet.
        ConfigError where there is more than one head.
        """
        script = self.script
        heads = script.get_heads()
        if len(heads) > 1:
            raise ConfigError(
                f"{len(heads)} heads: {', '.join(heads)}", where=str(self.place), try_="alembic merge heads"
            )
        taken = [revision.id for revision in self.revisions]
        numbered = all(re.fullmatch(r"[0-9]{4}", id_) for id_ in taken)
        new = f"{int(max(taken, default='0')) + 1:04d}" if numbered else secrets.token_hex(6)
        slug = re.sub(r"[^a-z0-9]+", "_", title.lower())[:40].strip("_")
        path = Path(script.versions) / f"{new}_{slug}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(new, heads[0] if heads else None), encoding="utf-8")
        return path

    def upgrade(self, url: str, to: str = "heads") -> None:
        """Bring the database to a revision. Unfinished, with the database's own words, where one fails."""
        from alembic import command

        self._run(url, lambda config: command.upgrade(config, to))

    def downgrade(self, url: str, to: str) -> None:
        """Take the database back to a revision, or to `base`."""
        from alembic import command

        self._run(url, lambda config: command.downgrade(config, to))

    def stamp(self, url: str, to: str = "heads") -> None:
        """Note that the database is at a revision; nothing of it is run."""
        from alembic import command

        self._run(url, lambda config: command.stamp(config, to))

    def sql(self, url: str, start: str, to: str) -> str:
        """The statements of an upgrade, without running them (`alembic upgrade --sql`)."""
        from alembic import command

        script = StringIO()

        def render(config: Config) -> None:
            config.output_buffer = script
            command.upgrade(config, f"{start}:{to}", sql=True)

        self._run(url, render)
        return script.getvalue()

    def metadata(self, url: str) -> tuple[Any, ...]:
        """The models that env.py hands to Alembic as `target_metadata`; empty where it has none."""
        seen = self._context(url).opts.get("target_metadata")
        return () if seen is None else tuple(seen) if isinstance(seen, (list, tuple)) else (seen,)

    def current(self, url: str) -> tuple[str, ...]:
        """The revisions that the database is at; empty before the first."""
        return tuple(sorted(self._context(url).heads))

    def _context(self, url: str) -> _Seen:
        """What env.py configures, and where the database is, learnt by a run that does nothing."""
        from alembic.runtime.environment import EnvironmentContext
        from alembic.script import ScriptDirectory

        seen = _Seen()

        def look(revision: tuple[str, ...], context: Any) -> list[Any]:
            seen.heads, seen.opts = revision, context.opts
            return []

        def run(config: Config) -> None:
            script = ScriptDirectory.from_config(config)
            with EnvironmentContext(config, script, fn=look, dont_mutate=True):
                script.run_env()

        self._run(url, run)
        return seen

    def _run(self, url: str, what: Callable[[Config], None]) -> None:
        with ExitStack() as stack:
            stack.enter_context(_logging_kept())
            stack.enter_context(_variables(url, self.variables))
            stack.enter_context(run_on(url))
            if self._asks_for_flask():
                stack.enter_context(_flask(self.app))
            try:
                what(self.config(url))
            except DbscaleError:
                raise
            except Exception as error:
                # Revisions are the application's code: they may raise whatever they like.
                says = redact(str(getattr(error, "orig", None) or error).strip() or type(error).__name__)
                raise Unfinished(says, where=_where(error, self.place), try_="alembic upgrade head --sql") from error

    def _asks_for_flask(self) -> bool:
        env = Path(self.script.env_py_location)
        return env.exists() and "current_app" in env.read_text(encoding="utf-8")


@dataclass(slots=True)
class _Seen:
    heads: tuple[str, ...] = ()
    opts: Mapping[str, Any] = field(default_factory=dict)


def find(folder: Path) -> Environment | None:
    """The Alembic environment of a project, where it usually is; None where there is none."""
    for place in ("alembic.ini", "migrations/alembic.ini", "migrations/env.py", "alembic/env.py"):
        if (folder / place).is_file():
            return Environment((folder / place).parent if place.endswith("env.py") else folder / place)
    project = folder / "pyproject.toml"
    if project.is_file() and "[tool.alembic]" in project.read_text(encoding="utf-8"):
        return Environment(project)
    return None


@contextmanager
def run_on(url: str) -> Iterator[None]:
    """Inside, every connection that SQLAlchemy opens to PostgreSQL leads to `url`; others are refused."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine
    from sqlalchemy.exc import DisconnectionError
    from sqlalchemy.pool import Pool

    def lead(dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
        if dialect.name != "postgresql":
            raise ConfigError(
                f"the environment connects to {dialect.name}, not to PostgreSQL",
                where="env.py",
                try_=f"let it read {VARIABLES[0]}, or name its variable in dbscale_variables",
            )
        del _arguments[:]
        parameters.clear()
        parameters.update(_parameters(url, dialect.driver))

    def mark(_connection: Any, record: Any) -> None:
        record.info["dbscale"] = url

    def same(_connection: Any, record: Any, _proxy: Any) -> None:
        if record.info.get("dbscale") != url:  # left in the application's pool by an earlier run
            raise DisconnectionError

    listeners = ((Engine, "do_connect", lead), (Pool, "connect", mark), (Pool, "checkout", same))
    for target, name, function in listeners:
        event.listen(target, name, function)
    try:
        yield
    finally:
        for target, name, function in listeners:
            event.remove(target, name, function)


def _parameters(url: str, driver: str) -> dict[str, Any]:
    """What a driver's `connect` takes to get to `url`."""
    from psycopg.conninfo import conninfo_to_dict

    parts = {name: value for name, value in conninfo_to_dict(url).items() if value is not None}
    if driver.startswith("psycopg"):
        return parts
    renamed = {"dbname": "database", "sslmode": "ssl"}
    known: tuple[str, ...] = ("host", "port", "user", "password", "dbname", "sslmode")
    if driver != "asyncpg":  # pg8000 takes a context of the ssl module in place of a mode
        known = known[:-1]
    taken: dict[str, Any] = {renamed.get(name, name): parts[name] for name in known if name in parts}
    return taken | {"port": int(parts.get("port", 5432))}


def _address(url: str) -> str:
    """`user:password@host:port/database?…` of a libpq URL or connection string."""
    from psycopg.conninfo import conninfo_to_dict

    if "://" in url:
        return url.partition("://")[2]
    parts = {name: quote(str(value), safe="") for name, value in conninfo_to_dict(url).items() if value is not None}
    user = f"{parts.get('user', '')}:{parts['password']}@" if "password" in parts else f"{parts.get('user', '')}@"
    return f"{user.lstrip('@')}{parts.get('host', '')}:{parts.get('port', '5432')}/{parts.get('dbname', '')}"


@contextmanager
def _variables(url: str, further: Mapping[str, str]) -> Iterator[None]:
    address = _address(url)
    wanted = {name: text.replace("{address}", address) for name, text in further.items()}
    for name in VARIABLES:
        if not os.environ.get(name, "").startswith(("postgres://", "postgresql")):
            wanted.setdefault(name, f"postgresql+psycopg://{address}")
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _flask(app: str) -> Iterator[None]:
    from flask.cli import ScriptInfo

    info = ScriptInfo(app_import_path=app or os.environ.get("FLASK_APP"))
    with info.load_app().app_context():
        yield


@contextmanager
def _logging_kept() -> Iterator[None]:
    """env.py configures logging as if the process were Alembic's own; ours is put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    loggers = [logger for logger in root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    disabled = {logger: logger.disabled for logger in loggers}
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for logger, was in disabled.items():
            logger.disabled = was


def _where(error: BaseException, place: Path) -> str:
    """The innermost line of the application's own files that the error went through: `0002_x.py:17`."""
    folder, found = str(place.parent.resolve()), ""
    trace = error.__traceback__
    while trace:
        name = trace.tb_frame.f_code.co_filename
        if name.startswith(folder) and "site-packages" not in name:
            found = f"{name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found or str(place)
