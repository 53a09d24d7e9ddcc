"""A throwaway PostgreSQL, template databases on it, and fresh databases made of them."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from dbscale.drivers import postgres
from dbscale.errors import DbscaleError, Missing, Unfinished
from dbscale.schema import literal, quote

QUICK = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "shared_buffers": "64MB"}
"""What a crash would lose is of no interest here."""
IMAGE = "postgres:17"
SERVER = "test"
"""The name of an embedded server."""
FOLLOW_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A streaming replica, and its primary."""

    primary: str
    url: str

    def there(self, url: str) -> str:
        """The URL of a primary's database on the replica."""
        return urlsplit(self.url)._replace(path=urlsplit(url).path).geturl()

    def follow(self, seconds: float = FOLLOW_SECONDS) -> None:
        """Wait until all that the primary has written is replayed; Unfinished where that takes too long."""
        with postgres.connect(self.primary) as primary, postgres.connect(self.url) as replica:
            row = primary.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
            # One more record, and on to the disk: the place just read may be the start of a page, which nobody replays.
            primary.execute("SET synchronous_commit = on; SELECT pg_logical_emit_message(true, 'dbscale', '')")
            deadline = time.monotonic() + seconds
            while replica.execute("SELECT pg_last_wal_replay_lsn() >= %s", row).fetchone() != (True,):
                if time.monotonic() > deadline:
                    raise Unfinished(f"the replica has not caught up in {seconds:.0f} s", where="dbscale_replica",
                                     try_="is it a replica of the server that is tested on?")  # fmt: skip
                time.sleep(0.02)


class Server:
    """Databases on one server: each is made by `fresh`, and dropped by `close` at the latest."""

    def __init__(self, url: str, root: Path | None = None) -> None:
        self.url = url
        """A maintenance database's; the role has to be allowed to create databases."""
        self.root = root
        """Where an embedded server is; None for others."""
        self._numbers = itertools.count(1)
        self._made: list[str] = []
        self._templates: dict[str, str] = {}
        self._asked: Counter[str] = Counter()
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="dbscale-fresh")
        self._spare: dict[str, Future[str]] = {}

    def fresh(self, template: str = "") -> str:
        """The URL of a new database: empty, or a copy of a template's.

        From a template's second copy on, the next one is made in the background while this one is used.
        """
        spare = self._spare.pop(template, None)
        url = spare.result() if spare else self._make(template)
        self._asked[template] += 1
        if template and self._asked[template] > 1:
            self._spare[template] = self._ahead.submit(self._make, template)
        return url

    def _make(self, template: str) -> str:
        name = f"dbscale_test_{os.getpid()}_{next(self._numbers)}"
        with postgres.connect(self.url, name="dbscale testing") as connection, postgres.translating():
            # template0 is empty for sure; a site may have put things into template1.
            connection.execute(f"CREATE DATABASE {quote(name)} TEMPLATE {quote(template or 'template0')}".encode())
            self._made.append(name)
            # ALTER DATABASE … SET is not copied with the template.
            for (set_,) in connection.execute(_SETTINGS, [template]).fetchall():
                setting, _, value = set_.partition("=")
                connection.execute(f"ALTER DATABASE {quote(name)} SET {setting} = {_value(setting, value)}".encode())
        return urlsplit(self.url)._replace(path=f"/{name}").geturl()

    @contextmanager
    def database(self, template: str = "") -> Iterator[str]:
        """A fresh database for a block, dropped at its end."""
        url = self.fresh(template)
        try:
            yield url
        finally:
            self.drop(url)

    def template(self, key: str, fill: Callable[[str], object]) -> str:
        """The name of the database that `fill` made of an empty one; made once for each `key`."""
        if key not in self._templates:
            url = self.fresh()
            try:
                fill(url)
            except BaseException:
                self.drop(url)
                raise
            self._templates[key] = urlsplit(url).path[1:]
            # A template may have no sessions; an application's pool may have left one, and may come back.
            with postgres.connect(self.url, name="dbscale testing") as connection:
                connection.execute(f"ALTER DATABASE {quote(self._templates[key])} ALLOW_CONNECTIONS false".encode())
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [self._templates[key]]
                )
        return self._templates[key]

    def drop(self, url: str) -> None:
        """Drop a database that `fresh` made, whoever is connected to it."""
        name = urlsplit(url).path[1:]
        if name in self._made:
            with postgres.connect(self.url, name="dbscale testing") as connection:
                connection.execute(f"DROP DATABASE IF EXISTS {quote(name)} WITH (FORCE)".encode())
            self._made.remove(name)

    @contextmanager
    def replica(self, place: str) -> Iterator[Replica]:
        """A replica of this server: a URL's, or `embedded` for a new one. Missing where it cannot be made."""
        if place != "embedded":
            yield Replica(primary=self.url, url=place)
            return
        if self.root is None:
            raise Missing("only an embedded server gets a replica here", where="dbscale_replica",
                          try_="--dbscale-server embedded, or the URL of a replica of the server")  # fmt: skip
        from dbscale.drivers import embedded

        settings = {**QUICK, "max_standby_streaming_delay": "1s"}
        made = embedded.up("replica", root=self.root, settings=settings, primary=SERVER)
        try:
            yield Replica(primary=self.url, url=made.url)
        finally:
            embedded.down("replica", root=self.root, remove=True)

    def close(self) -> None:
        """Drop every database that is left."""
        self._ahead.shutdown(cancel_futures=True)
        for name in list(self._made):
            self.drop(urlsplit(self.url)._replace(path=f"/{name}").geturl())


_SETTINGS = """
SELECT unnest(setconfig) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
 WHERE d.datname = %s AND s.setrole = 0
"""
_LISTS = frozenset(("search_path", "temp_tablespaces", "session_preload_libraries", "local_preload_libraries"))


def _value(setting: str, value: str) -> str:
    """A setting's value as SET wants it: lists are stored quoted already."""
    return value or "''" if setting.lower() in _LISTS else literal(value)


@contextmanager
def running(place: str = "") -> Iterator[Server]:
    """A server for the block: a URL's, `embedded`, `container`, or empty for the first of these that is to be had."""
    with ExitStack() as stack:
        server = stack.enter_context(_server(place or os.environ.get("DBSCALE_TEST_URL", "")))
        stack.callback(server.close)
        yield server


@contextmanager
def _server(place: str) -> Iterator[Server]:
    if "://" in place:
        with postgres.connect(place, name="dbscale testing"):
            yield Server(place)
    elif place == "embedded":
        with _embedded() as server:
            yield server
    elif place == "container":
        with _container() as server:
            yield server
    elif place:
        raise Missing(f"{place!r} is no server", where="--dbscale-server", try_="a URL, embedded, or container")
    else:
        with ExitStack() as stack:
            try:
                server = stack.enter_context(_embedded())
            except Missing:
                server = stack.enter_context(_container())
            yield server


@contextmanager
def _embedded() -> Iterator[Server]:
    from dbscale.drivers import embedded

    # Not below pytest's own directory, which is closed to the account that a server of root runs as.
    root = Path(tempfile.mkdtemp(prefix="dbscale-testing-"))
    root.chmod(0o755)
    try:
        yield Server(embedded.up(SERVER, root=root, settings=QUICK).url, root)
    finally:
        for server in embedded.status(root=root):
            if not server.primary:
                embedded.down(server.name, root=root)
        shutil.rmtree(root)


@contextmanager
def _container() -> Iterator[Server]:
    try:
        from testcontainers.community.postgres import PostgresContainer

        container = PostgresContainer(os.environ.get("DBSCALE_TEST_IMAGE", IMAGE), driver=None)
        container.start()
    except Exception as error:
        if isinstance(error, DbscaleError):
            raise
        # The Docker client raises errors of a dozen kinds; every one of them means the same here.
        raise Missing(
            f"there is no PostgreSQL to test on: {error}",
            where="--dbscale-server",
            try_="pip install 'dbscale[embedded]', or start Docker, or --dbscale-server postgresql://…",
        ) from error
    try:
        yield Server(container.get_connection_url())
    finally:
        container.stop()
