"""`--branch`: a branch at Turso Cloud is made, read and destroyed, whatever comes in between.

The platform is a stand-in (fix_cloud.py); the databases behind it are real sqlds, and a branch is a real copy.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from dbscale.drivers import turso_branch
from dump import dump
from fix_cloud import Cloud
from test_turso import fill, migrate

START = Callable[..., Cloud]
NEW = Callable[..., str]
ROWS = 60_000


def many(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
    connection.executemany("INSERT INTO t VALUES (?, ?)", ((i, f"row {i} " + "x" * 90) for i in range(ROWS)))


def tables(target: str) -> int:
    with psycopg.connect(target) as connection:
        row = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert row is not None
    return int(row[0])


def dead() -> int:
    """The number of a process that is no more."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    return gone.pid


def left(process: int, machine: str = "") -> str:
    return f"dbscale-shop-{machine or turso_branch._machine()}-{process}-0a1b2c"


def test_a_branch_gives_the_file_whatever_is_written_meanwhile(cloud: START, new_database: NEW, tmp_path: Path) -> None:
    """Plan, rows and verification are of the branch's one state; the requests have the documented form."""
    with sqlite3.connect(tmp_path / "app.db") as connection:
        fill(connection)
    of_file, of_branch = new_database(), new_database()
    here = cloud(fill)
    here.branched = lambda: here.write("DELETE FROM pair")
    migrate(str(tmp_path / "app.db"), of_file)
    output = here.run("migrate", "turso", of_branch, "--branch", "--yes")
    assert "verified: the same" in output
    assert "source-unwatched" in output
    assert dump(of_branch) == dump(of_file)
    assert here.branches == []
    listing, made, token, destroyed = here.seen
    path = "/v1/organizations/me/databases"
    name = made[2]["name"]
    assert name.startswith("dbscale-shop-")
    assert len(name) <= 48
    assert listing == ("GET", path, None)
    assert made == ("POST", path, {"name": name, "group": "default", "seed": {"type": "database", "name": "shop"}})
    assert token == ("POST", f"{path}/{name}/auth/tokens?expiration=7d&authorization=read-only", None)
    assert destroyed == ("DELETE", f"{path}/{name}", None)
    with psycopg.connect(of_branch) as connection:
        kept = str(connection.execute("SELECT runs::text FROM dbscale.runs").fetchall())
    assert not [secret for secret in here.tokens if secret in kept]
    # what was deleted since is what a verification by another branch finds; assess needs no target
    assert "pair" in here.run("verify", "turso", of_branch, "--branch", code=1)
    assert "300 rows" not in here.run("assess", "turso", "--branch", "--json")
    assert here.branches == []


def test_a_branch_that_is_not_made_leaves_nothing(cloud: START, new_database: NEW) -> None:
    here, target = cloud(fill), new_database()
    for word, status, says, code in (
        ("databases", 403, "upgrade your plan", 3),
        ("databases", 400, "group not found", 2),
        ("databases", 503, "try later", 3),
        ("tokens", 500, "no keys just now", 3),
        ("tokens", 200, "{}", 3),
    ):
        here.seen.clear()
        here.refuse = {("POST", word): (status, says)}
        output = here.run("migrate", "turso", target, "--branch", "--yes", code=code)
        assert all(part in output for part in ("error: ", "  in ", "  see  docs/errors.md#")), output
        assert says in output or says == "{}"
        assert here.branches == []
        assert [each[0] for each in here.seen].count("DELETE") == 1
        assert tables(target) == 0


def test_a_branch_without_the_tables_is_not_taken_for_a_copy(
    cloud: START, new_database: NEW, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An API that does not know the seed's form makes an empty database: migrated, that would be nothing at all."""
    here = cloud(fill)
    here.empty = True
    target = new_database()
    source = turso_branch.BranchSource
    from dbscale.drivers.hrana import parse
    from dbscale.drivers.turso import Admin
    from dbscale.errors import SourceError

    resolve(monkeypatch, here)
    admin = Admin(organization="me", database="shop-me.turso.io", token="platform-secret")
    opened = source(parse("libsql://shop-me.turso.io", os.environ["TURSO_AUTH_TOKEN"]), admin, ready_seconds=1)
    with pytest.raises(SourceError, match="other tables") as caught, opened.snapshot():
        pass
    assert caught.value.anchor == "branch-not-made"
    assert here.branches
    assert opened.close() == []
    assert here.branches == []
    assert tables(target) == 0


def resolve(monkeypatch: pytest.MonkeyPatch, cloud: Cloud) -> None:
    """Lead this process's own connections to the stand-in, as `Cloud.run` does for others."""
    import socket

    there = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *rest: int, **more: int) -> object:
        if str(host).endswith((".turso.io", ".turso.tech")):
            host, port = "127.0.0.1", cloud.port
        return there(host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_a_branch_that_is_not_destroyed_is_a_finding(cloud: START, new_database: NEW) -> None:
    """The rows have arrived and are verified, and the exit status is 1: something is still to be done."""
    here, target = cloud(fill), new_database()
    here.refuse["DELETE", "NAME"] = (409, "delete protection is enabled")
    for words in (
        ("migrate", "turso", target, "--yes"),
        ("migrate", "turso", new_database(), "--yes", "--json"),
        ("verify", "turso", target, "--json"),
        ("assess", "turso", "--json"),
    ):
        output = here.run(*words, "--branch", code=1)
        (name,) = here.branches
        assert here.destroy(name)
        for part in (f"turso db destroy {name}", "delete protection is enabled", "branch-left"):
            assert part in output
        if "--json" not in words:
            assert "verified: the same" in output
            continue
        document = json.loads(output[output.index("{\n") :])
        found = [each for each in document["findings"] if each["code"] == "branch-left"]
        assert [each["where"] for each in found] == [name]
        assert words[0] == "assess" or document.get("verify", document)["same"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle_of_the_load(cloud: START, new_database: NEW, number: signal.Signals) -> None:
    """Ctrl-C destroys the branch, as SIGTERM does; what a kill leaves, doctor shows and the same command destroys."""
    here = cloud(many)
    target = new_database()
    here.hold_after = 3_000_000
    running = here.start("migrate", "turso", target, "--branch", "--yes")
    assert here.held.wait(120)
    (orphan,) = here.branches
    running.send_signal(number)
    output = "".join(running.communicate(timeout=60))
    assert running.returncode == (-9 if number == signal.SIGKILL else 130), output
    assert here.branches == ([orphan] if number == signal.SIGKILL else [])
    here.release()
    if number == signal.SIGKILL:
        assert orphan in here.run("doctor", "turso", code=1)
    output = here.run("migrate", "turso", target, "--branch", "--yes")
    assert "verified: the same" in output
    assert (orphan in output) == (number == signal.SIGKILL)
    assert here.branches == []
    with psycopg.connect(target) as connection:
        row = connection.execute("SELECT count(*), count(DISTINCT id), max(length(v)) FROM t").fetchone()
    assert row == (ROWS, ROWS, 100)


def test_whose_branches_are_destroyed(cloud: START, new_database: NEW) -> None:
    """Those of dead processes of this machine; not those of living ones, nor of other machines, nor other databases."""
    here = cloud(fill)
    gone, alive, elsewhere, other = left(dead()), left(os.getpid()), left(dead(), "0123abcd"), "dbscale-shop-copy"
    here.listed = [gone, alive, elsewhere, other]
    output = here.run("migrate", "turso", new_database(), "--branch", "--yes")
    assert here.listed == [alive, elsewhere, other]
    assert f"{gone}: a dbscale that was killed had left it: it is destroyed [branch-left]" in output
    assert f"turso db destroy {elsewhere}" in output
    assert alive not in output
    assert other not in output
    assert elsewhere in here.run("doctor", "turso", code=1)


def test_a_stream_that_is_lost_goes_on(cloud: START, new_database: NEW) -> None:
    """The branch's server is killed in the middle of the load: nobody writes to it, so reading goes on."""
    here = cloud(many)
    target = new_database()
    here.hold_after = 3_000_000
    running = here.start("migrate", "turso", target, "--branch", "--yes")
    assert here.held.wait(120)
    (name,) = here.branches
    here.databases[name].kill()
    here.databases[name].start()
    here.release()
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0, out + err
    assert "verified: the same" in out
    assert here.branches == []


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("http://127.0.0.1:9", (), "a server of your own has no branches"),
        ("app.db", (), "--branch is for a database at Turso Cloud"),
        ("turso", ("--copy-first",), "goes with none of"),
        ("turso", ("--frozen",), "goes with none of"),
        ("turso", ("--hold-writes",), "goes with none of"),
        ("libsql://other-me.turso.io", (), "TURSO_ORGANIZATION"),
    ],
)
def test_what_has_no_branch_says_so(  # noqa: PLR0917 - fixtures
    new_database: NEW,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    options: tuple[str, ...],
    says: str,
) -> None:
    settings = tmp_path / "dbscale.toml"
    settings.write_text('[databases.turso]\nurl = "libsql://shop-me.turso.io"\n')
    monkeypatch.setenv("DBSCALE_CONFIG", str(settings))
    monkeypatch.chdir(tmp_path)
    with sqlite3.connect("app.db") as connection:
        fill(connection)
    output = migrate(source, new_database(), "--branch", *options, code=2)
    assert says in output
    assert "  try  " in output
