#!/usr/bin/env python3
"""What routing costs: a key among 1,024 ranges, a statement that was seen before, and one that was not.

    scripts/bench shards [URL] [--migrate MILLIONS] [--shards N] [--pairs N]

With the URL of a database that may be filled, also what a routed point query costs over one that is not routed, on
the same pool of the same server, in pairs. With `--migrate`, also what a migration of the marketplace with so many
millions of transactions takes straight into N shards beside one into a single database, in turns, on embedded servers.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import dbscale
from dbscale.cli import run
from dbscale.cluster.blocks import Reading, Writing
from dbscale.query import parse
from dbscale.shards.map import Map, Maps, Range, shard_for
from dbscale.shards.route import route, route_statement

HERE = Path(__file__).resolve().parent
RANGES = 1024
STATEMENT = (
    "SELECT f.name, p.crop_type FROM farms f JOIN predictions p ON p.farm_id = f.id WHERE f.id = $1 AND p.yield > 5"
)


def microseconds(work: Callable[[], object], number: int, rounds: int = 7) -> tuple[float, float]:
    """The best and the median time of one call."""
    times = [seconds / number * 1e6 for seconds in timeit.repeat(work, number=number, repeat=rounds)]
    return min(times), statistics.median(times)


def main() -> None:
    ranges = tuple(Range(id=f"r{n}", shard=f"shard_{n % 8}", start=n * 1000) for n in range(RANGES))
    map_ = Map(
        name="farms", key="bigint", tables={"farms": "id", "predictions": "farm_id"}, ranges=ranges, until=RANGES * 1000
    )
    maps = Maps(maps=(map_,))
    query = parse(STATEMENT)
    rows = [
        ("shard_for, a key among 1,024 ranges", lambda: shard_for(map_, 777_777), 100_000),
        ("route, a table and a key", lambda: route(maps, "farms", 777_777), 50_000),
        ("parse, seen before", lambda: parse(STATEMENT), 50_000),
        ("parse, new", lambda: parse.__globals__["_parse"].__wrapped__(STATEMENT, "numeric"), 200),
        ("route_statement, a join of two tables", lambda: route_statement(maps, query, (777_777,)), 2_000),
    ]
    print(f"{'':42}{'best':>10}{'median':>10}  microseconds")
    for title, work, number in rows:
        best, median = microseconds(work, number)
        print(f"{title:42}{best:10.2f}{median:10.2f}")


def paired(one: Callable[[int], object], other: Callable[[int], object], pairs: int = 4000) -> tuple[float, float]:
    """The median time of each in microseconds; they take turns, so that both meet the same machine."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(pairs + 200):
        order = (0, 1) if number % 2 else (1, 0)
        for which in order:
            began = time.perf_counter()
            (one, other)[which](number % 1000)
            if number >= 200:
                times[which].append(time.perf_counter() - began)
    return statistics.median(times[0]) * 1e6, statistics.median(times[1]) * 1e6


def on_a_server(url: str) -> None:
    """Point queries and point updates, routed and not. The tables are made in the database of `url`, and stay."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS farms (id bigint PRIMARY KEY, name text)")
        connection.execute("INSERT INTO farms SELECT n, 'farm' FROM generate_series(0, 999) n ON CONFLICT DO NOTHING")
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "dbscale.toml"
        config.write_text(f'[databases.one]\nurl = "{url}"\n[shards]\ns1 = "one"\nhome = "one"\n')
        maps = Path(folder) / "shard_maps"
        maps.mkdir()
        ranges = "".join(f'{{ id = "f{n}", from = {n}, shard = "s1" }},' for n in range(1024))
        text = f'name = "farms"\nkey = "bigint"\ntables = {{ farms = "id" }}\nuntil = 1024\nranges = [{ranges}]\n'
        (maps / "farms.toml").write_text(text)
        run(["shards", "apply", "farms", "--maps", str(maps), "--config", str(config), "--yes", "--json"])
        with dbscale.open(config, driver="psycopg") as cluster:
            _compare(cluster)


def _compare(cluster: dbscale.Cluster) -> None:
    group = cluster.groups["s1"]
    point, update = "SELECT name FROM farms WHERE id = %s", "UPDATE farms SET name = 'x' WHERE id = %s"

    def inside(block: Any, sql: str, key: int) -> None:
        with block as connection:
            cursor = connection.execute(sql, (key,))
            if cursor.description:
                cursor.fetchall()

    cases: list[tuple[str, Callable[[int], object], Callable[[int], object]]] = [
        ("point query, read(table, key)", lambda key: inside(Reading(cluster, group, None, None), point, key),
         lambda key: inside(cluster.read("farms", key), point, key)),
        ("point query, execute(sql)", lambda key: cluster.execute(point, (key,), table="farms", key=key),
         lambda key: cluster.execute(point, (key,))),
        ("point update, write(table, key), fenced", lambda key: inside(Writing(cluster, group), update, key),
         lambda key: inside(cluster.write("farms", key), update, key)),
    ]  # fmt: skip
    print(f"\n{'':42}{'direct':>10}{'routed':>10}{'over':>8}  microseconds, medians of pairs")
    for title, direct, routed in cases:
        one, two = paired(direct, routed)
        print(f"{title:42}{one:10.1f}{two:10.1f}{two / one - 1:8.1%}")


def straight_into_shards(millions: float, shards: int, pairs: int) -> None:
    """Whole migrations into one database and into shards, each a server of its own; the medians of the pairs."""
    with tempfile.TemporaryDirectory(prefix="dbscale-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # as root, the servers run as another user
        bench = ShardedMigration(folder, shards)
        rows = round(millions * 1_000_000)
        bench.call(str(HERE / "marketplace.py"), str(bench.source), "--transactions", str(rows))
        farms = int(bench.query("SELECT max(id) FROM farms"))
        step = farms // shards + 1
        ranges = "".join(f'{{ id = "f{n}", from = {n * step}, shard = "s{n}" }},' for n in range(shards))
        keys = {"farms": "id"} | dict.fromkeys(("farm_tags", "transactions", "predictions"), "farm_id")
        tables = ", ".join(f'"bench.{table}" = "{key}"' for table, key in keys.items())
        (folder / "farms.toml").write_text(
            f'name = "farms"\nkey = "bigint"\ntables = {{ {tables} }}\nuntil = {step * shards}\nranges = [{ranges}]\n'
        )
        try:
            times = [(bench.migrate(), bench.migrate("--shard-map", "farms.toml")) for _ in range(pairs)]
        finally:
            bench.call("-m", "dbscale.cli", "local", "down", "--remove", "--yes")
    print(f"\n{'migration, seconds':42}{'single':>10}{f'{shards} shards':>10}{'ratio':>8}  medians of {pairs} pairs")
    for title, place in (("whole", 0), ("load", 1)):
        one, many = (statistics.median(pair[which][place] for pair in times) for which in (0, 1))
        ratio = statistics.median(pair[1][place] / pair[0][place] for pair in times)
        print(f"{title:42}{one:10.2f}{many:10.2f}{ratio:8.3f}")


class ShardedMigration:
    """A folder with a source, a configuration and servers: `home`, and one for each shard."""

    def __init__(self, folder: Path, shards: int) -> None:
        self.folder = folder
        self.source = folder / "marketplace.db"
        self.names = ["home", *(f"s{n}" for n in range(shards))]
        databases = "".join(f'[databases.{name}]\nurl = "embedded:{name}"\n' for name in self.names)
        entries = "".join(f'{name} = "{name}"\n' for name in self.names[1:])
        (folder / "dbscale.toml").write_text(f'{databases}[shards]\nhome = "home"\n{entries}')

    def call(self, *arguments: str) -> str:
        """A Python program in the folder; what it prints."""
        environment = {**os.environ, "DBSCALE_DATA": str(self.folder / "data")}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def query(self, sql: str) -> Any:
        with closing(sqlite3.connect(self.source)) as connection:
            return connection.execute(sql).fetchone()[0]

    def migrate(self, *more: str) -> tuple[float, float]:
        """The seconds of a migration into empty databases: all of it, and its load."""
        import psycopg

        for name in self.names:
            url = self.call("-m", "dbscale.cli", "local", "url", name).strip()
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("SET client_min_messages TO error")
                connection.execute("DROP SCHEMA IF EXISTS bench CASCADE")
                connection.execute("DROP SCHEMA IF EXISTS dbscale CASCADE")
                connection.execute("CHECKPOINT")
        self.query("SELECT count(*) FROM transactions")
        command = [
            "-m",
            "dbscale.cli",
            "migrate",
            "marketplace.db",
            "home",
            "--schema",
            "bench",
            "--no-verify",
            "--json",
        ]
        began = time.perf_counter()
        told = json.loads(self.call(*command, *more))
        return time.perf_counter() - began, told["load_seconds"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", help="a database that may be filled")
    parser.add_argument(
        "--migrate", type=float, metavar="MILLIONS", help="also migrate so many millions of transactions"
    )
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    main()
    if options.url:
        on_a_server(options.url)
    if options.migrate:
        straight_into_shards(options.migrate, options.shards, options.pairs)
