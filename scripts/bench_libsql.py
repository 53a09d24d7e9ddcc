#!/usr/bin/env python3
"""Measure `dbscale migrate` from a libSQL server on the loopback, beside the file and beside a dump. Prints tables.

    scripts/bench_libsql.py [--transactions N] [--rounds N] [--sizes 200000,1000000] [--sqld PROGRAM]

The work is the sample marketplace's transactions, served by sqld. Every contender loads the same rows in turn into an
embedded PostgreSQL; the dump is sqld's own (`GET /dump`, what `turso db shell .dump` prints), turned into COPY input
and piped to psql as a person would do it: into bare columns of numbers and text, nothing converted or checked. Medians.
The seconds of the CPU, of dbscale and of sqld, speak of the work where the clock speaks of what else the machine does.
DBSCALE_SQLD names the server's program.
"""

from __future__ import annotations

import argparse
import http.client
import os
import platform
import re
import resource
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg
from bench_migrate import Result, make_marketplace, timed

from dbscale.drivers import embedded

TABLE = "transactions"
BARE = """id bigint, buyer_id bigint, farm_id bigint, crop_type text, quantity bigint, unit_price numeric,
  fee_cents bigint, currency text, status text, paid int, receipt bigint, metadata text, note text, paid_at bigint,
  created_at timestamp"""
"""The columns that the dump has: all but the generated one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactions", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", default="", help="also show time and memory at these sizes")
    parser.add_argument("--sqld", default=os.environ.get("DBSCALE_SQLD", ""), help="the server's program")
    options = parser.parse_args()
    if not options.sqld:
        parser.error("name the server's program: --sqld PROGRAM, or DBSCALE_SQLD")
    with tempfile.TemporaryDirectory(prefix="dbscale-bench-") as folder:
        Path(folder).chmod(0o755)  # as root, the server runs as another user
        with target(Path(folder)) as url:
            race(Path(folder), url, options.sqld, options.transactions, options.rounds)
            sizes = [int(size) for size in options.sizes.split(",") if size]
            if sizes:
                growth(Path(folder), url, options.sqld, sizes)


class Server(NamedTuple):
    """A libSQL server at work."""

    url: str
    pid: int

    def cpu(self) -> float:
        """Seconds of the CPU that it has used; 0 where there is no /proc."""
        stat = Path(f"/proc/{self.pid}/stat")
        fields = stat.read_text().rpartition(")")[2].split() if stat.exists() else ["0"] * 13
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def target(folder: Path) -> Iterator[str]:
    """An embedded PostgreSQL for the time of the block."""
    os.environ["DBSCALE_DATA"] = str(folder / "pg")
    name = f"bench{os.getpid()}"
    try:
        yield embedded.url(name)
    finally:
        embedded.down(name)


@contextmanager
def served(program: str, file: Path, home: Path) -> Iterator[Server]:
    """A libSQL server with a copy of the file."""
    spot = home / "dbs" / "default"
    spot.mkdir(parents=True)
    (home / ".version").write_text("0.24.32")
    with sqlite3.connect(file) as source, sqlite3.connect(spot / "data") as copy:
        copy.execute("PRAGMA journal_mode = WAL")
        source.backup(copy)
        copy.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    port = 20_000 + os.getpid() % 20_000
    address = f"127.0.0.1:{port}"
    log = (home / "log").open("wb")
    process = subprocess.Popen(
        [program, "--no-welcome", "-d", str(home), "--http-listen-addr", address], stdout=log, stderr=log
    )
    try:
        for _ in range(300):
            try:
                connection = http.client.HTTPConnection(address, timeout=1)
                connection.request("GET", "/health")
                connection.getresponse()
                break
            except OSError:
                time.sleep(0.1)
        yield Server(f"http://{address}", process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        log.close()
        shutil.rmtree(home)


def race(folder: Path, url: str, program: str, transactions: int, rounds: int) -> None:
    """Every contender in turn, round after round; the table of medians."""
    file = folder / "marketplace.db"
    make_marketplace(file, transactions)
    with served(program, file, folder / "served") as server:
        contenders: dict[str, Callable[[], Result]] = {
            "server, SQL": lambda: migrated(url, server.url, server=server),
            "server, --copy-first": lambda: migrated(url, server.url, "--copy-first", server=server),
            "file": lambda: migrated(url, str(file)),
            "dump to psql": lambda: dumped(url, server),
        }
        results: dict[str, list[Result]] = {name: [] for name in contenders}
        migrated(url, str(file))  # warms the caches
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA IF EXISTS dumped CASCADE; CREATE SCHEMA dumped")
            connection.execute(f"CREATE TABLE dumped.{TABLE} ({BARE})")
        for _ in range(rounds):
            for name, contender in contenders.items():
                results[name].append(contender())
    print(
        f"\n{transactions:,} transactions; {os.cpu_count()} cores, {platform.machine()}; medians of {rounds} rounds\n"
    )
    print(f"{'':24} {'whole':>8} {'load':>8} {TABLE + '/s':>16} {'memory':>8} {'CPU':>8} {'of sqld':>8}")
    for name, runs in results.items():
        whole, load, rate, memory, cpu, of_server = (
            statistics.median(run[key] for run in runs) for key in ("whole", "load", "rate", "memory", "cpu", "server")
        )
        cells = f"{whole:8.2f} {load:8.2f} {rate:16,.0f} {memory / 1e6:5.0f} MB {cpu:8.2f} {of_server:8.2f}"
        print(f"{name:24} {cells}")


def growth(folder: Path, url: str, program: str, sizes: list[int]) -> None:
    """Time and peak memory at several sizes."""
    print(f"\n{TABLE:>14} {'way':>14} {'whole':>8} {TABLE + '/s':>16} {'memory':>8}")
    for size in sizes:
        file = folder / f"m{size}.db"
        make_marketplace(file, size)
        with served(program, file, folder / f"served{size}") as server:
            for way in ((), ("--copy-first",)):
                result = migrated(url, server.url, *way, server=server)
                name = way[0] if way else "SQL"
                cells = f"{result['whole']:8.2f} {result['rate']:16,.0f} {result['memory'] / 1e6:5.0f} MB"
                print(f"{size:14,} {name:>14} {cells}")
        file.unlink()


def migrated(url: str, source: str, *options: str, server: Server | None = None) -> Result:
    """`dbscale migrate` as a process, into an empty target, with the CPU's seconds of it and of the server."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS dbscale CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    command = [sys.executable, "-m", "dbscale.cli", "migrate", source, url, "--yes", "--json", "--no-verify"]
    command += ["--only", TABLE, *options]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), server.cpu() if server else 0.0
    whole, document, memory = timed(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    (table,) = (each for each in document["tables"] if each["table"] == TABLE)
    return {
        "whole": whole,
        "load": document["load_seconds"],
        "rate": table["loaded"] / document["load_seconds"],
        "memory": memory,
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "server": server.cpu() - began if server else 0.0,
    }


_REPLACED = re.compile(rb"(?:replace\(){1,2}('(?:[^']|'')*')((?:,'\\[nr]',char\(1[03]\)\)){1,2})")
"""A text with line ends, as sqld's dump writes it: replace('…\\n…','\\n',char(10))."""


def _unescaped(found: re.Match[bytes]) -> bytes:
    return found[1].replace(rb"\r", b"\r").replace(rb"\n", b"\n")


def dumped(url: str, server: Server) -> Result:
    """The server's dump, of which a filter makes COPY input for psql: only this table, and no constraint."""
    psql = shutil.which("psql") or "psql"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"TRUNCATE dumped.{TABLE}")
    command = [
        psql,
        "-q",
        "-v",
        "ON_ERROR_STOP=1",
        url,
        "-c",
        f"COPY dumped.{TABLE} FROM STDIN (FORMAT csv, QUOTE '''')",
    ]
    began, used = time.perf_counter(), server.cpu()
    loading = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert loading.stdin is not None
    connection_ = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=600)
    connection_.request("GET", "/dump")
    head = f"INSERT INTO {TABLE} VALUES(".encode()
    rows = 0
    for line in connection_.getresponse():
        if line.startswith(head):
            values = _REPLACED.sub(_unescaped, line[len(head) : -3])
            loading.stdin.write(re.sub(rb"(?<=,)NULL(?=,|$)", b"", values) + b"\n")
            rows += 1
    loading.stdin.close()
    if loading.wait():
        raise SystemExit("psql refused the dump")
    seconds = time.perf_counter() - began
    with psycopg.connect(url) as connection:
        (arrived,) = connection.execute(f"SELECT count(*) FROM dumped.{TABLE}").fetchone() or (0,)
        if arrived != rows:
            raise SystemExit(f"{rows} rows were dumped, {arrived} arrived")
    return {
        "whole": seconds,
        "load": seconds,
        "rate": rows / seconds,
        "memory": 0,
        "cpu": 0,
        "server": server.cpu() - used,
    }


if __name__ == "__main__":
    main()
