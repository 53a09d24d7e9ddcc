"""A migration that is killed, cut off or starved ends, when it is given again, as one that was left in peace."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from dbscale.drivers import embedded
from dump import dump
from fix_postgres import Postgres, binaries
from fix_proxy import Proxy

CLIENT = Path(__file__).with_name("crash_client.py")
PART_ROWS = 300
KILLS = int(os.environ.get("DBSCALE_TEST_KILLS", "200"))


def client(number: int, when: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, that dies at its mark `number` (0: not at all)."""
    command = [sys.executable, str(CLIENT), str(number), when, str(PART_ROWS), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def migrate(source: Path, url: str, *more: str) -> tuple[str, ...]:
    return ("migrate", str(source), url, "--no-verify", *more)


@pytest.fixture
def undisturbed(marketplace: Path, new_database: Callable[..., str]) -> tuple[str, int]:
    """The dump that a migration left in peace gives, and how many marks it makes."""
    url = new_database()
    result = client(0, "before", *migrate(marketplace, url))
    assert result.returncode == 0, result.stderr
    return dump(url), int(result.stderr.split()[-1])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_mark(
    when: str, marketplace: Path, undisturbed: tuple[str, int], new_database: Callable[..., str]
) -> None:
    expected, marks = undisturbed
    assert marks > 50
    for number in range(1, marks + 1):
        url = new_database()
        died = client(number, when, *migrate(marketplace, url, "--jobs", "1"))
        assert died.returncode == -signal.SIGKILL, (number, died.stderr)
        again = client(0, when, *migrate(marketplace, url))
        assert again.returncode == 0, (number, again.stderr)
        assert dump(url) == expected, number
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA public, dbscale CASCADE")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_random_moments(
    marketplace: Path,
    undisturbed: tuple[str, int],
    new_database: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each migration is killed again and again until it gets through; no row is lost or doubled."""
    expected, _ = undisturbed
    dice = random.Random(20)
    kills = rounds = 0
    while kills < KILLS:
        url = new_database()
        rounds += 1
        while _killed_somewhere(migrate(marketplace, url), dice):
            kills += 1
        assert dump(url) == expected
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA public, dbscale CASCADE")
    with capsys.disabled():
        print(f"\n{kills} kills in {rounds} migrations, 0 rows lost or doubled")


def _killed_somewhere(arguments: tuple[str, ...], dice: random.Random) -> bool:
    """Run a client and kill it a moment after one of its next marks; False when it was done before that."""
    command = [sys.executable, str(CLIENT), "0", "before", str(PART_ROWS), *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    wanted, seen, said = dice.randrange(0, 12), 0, []
    for line in process.stderr:
        said.append(line)
        seen += line == "mark\n"
        if seen >= wanted:
            time.sleep(dice.uniform(0, 0.03))
            process.kill()
            break
    process.stderr.close()
    status = process.wait(timeout=60)
    assert status in (0, -signal.SIGKILL), "".join(said)
    return status == -signal.SIGKILL


@pytest.mark.parametrize("sent", [1_000, 100_000, 250_000])
def test_connection_cut(
    sent: int, marketplace: Path, undisturbed: tuple[str, int], database: str, proxy: Callable[[str], Proxy]
) -> None:
    through = proxy(database)
    through.cut_after(sent)
    cut = client(0, "before", *migrate(marketplace, through.url))
    assert cut.returncode in (3, 4), cut.stderr
    assert "error: " in cut.stderr
    assert "Traceback" not in cut.stderr
    again = client(0, "before", *migrate(marketplace, database))
    assert again.returncode == 0, again.stderr
    assert dump(database) == undisturbed[0]


def test_interrupted_by_the_user(marketplace: Path, undisturbed: tuple[str, int], database: str) -> None:
    """Ctrl-C: exit status 130, and the same command goes on."""
    command = [sys.executable, str(CLIENT), "0", "before", "20", *migrate(marketplace, database)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with psycopg.connect(database, autocommit=True) as connection:
        for _ in range(400):
            if connection.execute("SELECT to_regclass('dbscale.loads')").fetchone() != (None,):
                found = connection.execute("SELECT count(*) FROM dbscale.loads").fetchone()
                if found and found[0] > 2:
                    break
            time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    again = client(0, "before", *migrate(marketplace, database))
    assert again.returncode == 0, again.stderr


def test_two_at_once(marketplace: Path, database: str) -> None:
    """The second refuses, and says which run is at work."""
    command = [sys.executable, str(CLIENT), "0", "before", "10", *migrate(marketplace, database)]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        with psycopg.connect(database) as held:
            for _ in range(400):
                if held.execute("SELECT to_regclass('dbscale.loads')").fetchone() != (None,):
                    break
                held.rollback()
                time.sleep(0.02)
            # The first waits with its next checkpoint for as long as this transaction is open.
            held.execute("LOCK TABLE dbscale.loads IN SHARE MODE")
            second = client(0, "before", *migrate(marketplace, database))
        assert second.returncode == 2, second.stderr
        assert "is at work on this target" in second.stderr
    finally:
        _, said = first.communicate(timeout=60)
    assert first.returncode == 0, said


# ── the server's death, and a network that swallows packets ───────────────────────────────────────────────────────


@pytest.fixture
def durable(server: Postgres, server_root: Path) -> Iterator[embedded.Server]:
    """A server of this test's own, with fsync as in production."""
    assert server.embedded
    name = f"mortal{os.getpid()}"
    settings = {"shared_buffers": "32MB", "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    yield embedded.up(name, root=server_root, binaries=binaries(server.version), settings=settings)
    embedded.down(name, root=server_root)


def postmaster(directory: Path) -> int:
    return int((directory / "postmaster.pid").read_text().splitlines()[0])


@pytest.mark.embedded
@pytest.mark.timeout(600)
def test_server_killed_in_the_middle(
    marketplace: Path, undisturbed: tuple[str, int], durable: embedded.Server, server: Postgres, server_root: Path
) -> None:
    """SIGKILL to every process of the server while rows are on their way; it recovers, and the run goes on."""
    expected, marks = undisturbed
    dice = random.Random(7)
    kills = 0
    for wanted in (3, marks // 3, marks // 2, marks - 10):
        kills += _server_killed_after(wanted, marketplace, durable, dice)
        embedded.up(durable.name, root=server_root, binaries=binaries(server.version))
    again = client(0, "before", *migrate(marketplace, durable.url))
    assert again.returncode == 0, again.stderr
    assert dump(durable.url) == expected
    assert kills > 1
    print(f"\nserver killed {kills} times in one migration, 0 rows lost or doubled")


def _server_killed_after(wanted: int, source: Path, durable: embedded.Server, dice: random.Random) -> bool:
    """Kill the server a moment after the client's mark `wanted`; False when the client was done before that."""
    command = [sys.executable, str(CLIENT), "0", "before", str(PART_ROWS), *migrate(source, durable.url)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    seen = 0
    for line in process.stderr:
        seen += line == "mark\n"
        if seen >= wanted:
            break
    time.sleep(dice.uniform(0, 0.02))
    main = postmaster(durable.data)
    children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    for pid in (main, *map(int, children)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    said = process.stderr.read()
    process.stderr.close()
    status = process.wait(timeout=60)
    assert "Traceback" not in said, said
    assert status in (0, 3, 4), said
    return status != 0


def test_stalled_network(
    marketplace: Path, undisturbed: tuple[str, int], database: str, proxy: Callable[[str], Proxy]
) -> None:
    """Packets that go nowhere for a while: the load waits, and goes on when they flow again."""
    through = proxy(database)
    command = [sys.executable, str(CLIENT), "0", "before", str(PART_ROWS), *migrate(marketplace, through.url)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    seen = 0
    for line in process.stderr:
        seen += line == "mark\n"
        if seen == 20:
            break
    through.stall()
    time.sleep(2)
    assert process.poll() is None, "it waits"
    through.resume()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0, said
    assert dump(database) == undisturbed[0]
