#!/usr/bin/env python3
"""Reads after own writes under faults, and what the split costs: figures from real servers.

scripts/bench cluster storm --reads 100000      two replicas, one delayed, one killed and restarted at random
scripts/bench cluster overhead                  a read through the split against a direct one, paired
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import sqlalchemy as sa

import dbscale
from dbscale import config
from dbscale.cluster import pools
from dbscale.drivers import embedded

SETTINGS = {"fsync": "off", "shared_buffers": "64MB", "max_connections": "100"}


@dataclass
class Figures:
    """What a storm showed."""

    reads: int = 0
    stale: int = 0
    failed_reads: int = 0
    writes: int = 0
    failed_writes: int = 0
    kills: int = 0
    seconds: float = 0.0
    on_replicas: int = 0
    on_primary: int = 0
    begun_again: int = 0
    while_online: float = 0.0
    """The share of reads on the frail replica while it was online."""
    online_seconds: float = 0.0
    routes: dict[str, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


@contextmanager
def servers(delay: str) -> Iterator[tuple[embedded.Server, embedded.Server, embedded.Server, Path]]:
    """A primary, a replica that applies `delay` late, and one that can be killed."""
    root = Path(tempfile.mkdtemp(prefix="dbscale-bench-"))
    root.chmod(0o755)
    try:
        primary = embedded.up("main", root=root, settings=SETTINGS)
        late = embedded.up("late", root=root, primary="main", settings=SETTINGS | {"recovery_min_apply_delay": delay})
        frail = embedded.up("frail", root=root, primary="main", settings=SETTINGS)
        yield primary, late, frail, root
    finally:
        if any(server.name == "main" for server in embedded.status(root=root)):
            embedded.down("main", root=root)
        shutil.rmtree(root)


def configured(primary: embedded.Server, *replicas: embedded.Server) -> config.Config:
    """The configuration of these servers."""
    urls = tuple(config.Replica(url=replica.url) for replica in replicas)
    return config.Config(databases={"shop": config.Database(name="shop", url=primary.url, replicas=urls)})


class Storm:
    """Writers that count up, each its own row; readers that must see what their writer committed last."""

    def __init__(self, cluster: dbscale.Cluster, *, pairs: int, reads: int, tokens: bool) -> None:
        self.cluster, self.pairs, self.tokens = cluster, pairs, tokens
        self.figures = Figures()
        self.left = reads
        self.lock = threading.Lock()
        self.latest: list[tuple[int, str]] = [(0, "")] * pairs
        self.over = threading.Event()

    def write(self, number: int) -> None:
        value = 0
        statement = sa.text("UPDATE counters SET value = :value WHERE id = :id")
        while not self.over.is_set():
            try:
                with self.cluster.write() as connection:
                    connection.execute(statement, {"value": value + 1, "id": number})
            except Exception as error:  # noqa: BLE001 - counted and shown
                self.note("write", error)
            else:
                value += 1
                self.latest[number] = (value, str(self.cluster.token))
                with self.lock:
                    self.figures.writes += 1
            time.sleep(random.uniform(0, 0.01))

    def read(self, number: int) -> None:
        statement = sa.text("SELECT value FROM counters WHERE id = :id")
        while True:
            with self.lock:
                if self.left <= 0:
                    return
                self.left -= 1
            value, token = self.latest[number]
            try:
                with self.cluster.read(after=token if self.tokens else "") as connection:
                    seen = connection.execute(statement, {"id": number}).scalar_one()
            except Exception as error:  # noqa: BLE001 - counted and shown
                self.note("read", error)
                continue
            with self.lock:
                self.figures.reads += 1
                self.figures.stale += seen < value

    def note(self, what: str, error: Exception) -> None:
        with self.lock:
            if what == "read":
                self.figures.failed_reads += 1
            else:
                self.figures.failed_writes += 1
            if len(self.figures.errors) < 10:
                self.figures.errors.append(f"{what}: {error!r}"[:300])

    def kill(self, server: embedded.Server, root: Path) -> None:
        while not self.over.wait(random.uniform(1, 6)):
            if pid := server.pid:
                os.kill(pid, signal.SIGKILL)
                self.figures.kills += 1
            self.over.wait(random.uniform(0.1, 2))
            embedded.up(server.name, root=root)

    def watch(self, name: str) -> None:
        """Count where reads go while the replica `name` is online."""
        node = self.cluster.groups["home"].nodes[name]
        there = everywhere = 0.0
        before = self._routed(name)
        while not self.over.is_set():
            online, start = node.view.state == "online", time.perf_counter()
            time.sleep(0.02)
            now = self._routed(name)
            if online and node.view.state == "online":
                there += now[0] - before[0]
                everywhere += now[1] - before[1]
                self.figures.online_seconds += time.perf_counter() - start
            before = now
        self.figures.while_online = round(there / everywhere, 3) if everywhere else 0.0
        self.figures.online_seconds = round(self.figures.online_seconds, 1)

    def _routed(self, name: str) -> tuple[float, float]:
        """Reads so far: on the node `name`, and on all."""
        routes = [dict(s.labels) | {"n": s.value} for s in self.cluster.metrics.samples() if s.name == "dbscale_route"]
        reads = [route for route in routes if route["reason"] != "write"]
        return sum(r["n"] for r in reads if r["node"] == name), sum(r["n"] for r in reads)


def storm(*, reads: int, pairs: int = 8, delay: str = "3s", kill: bool = True, tokens: bool = True) -> Figures:
    """Run it; `tokens=False` reads without them, to show that the storm does make stale reads."""
    with servers(delay) as (primary, late, frail, root), dbscale.open(configured(primary, late, frail)) as cluster:
        with cluster.write() as connection:
            connection.execute(sa.text("CREATE TABLE counters (id int PRIMARY KEY, value int NOT NULL)"))
            connection.execute(sa.text(f"INSERT INTO counters SELECT g, 0 FROM generate_series(0, {pairs - 1}) g"))
        time.sleep(4)  # the delayed replica has the table too
        made = Storm(cluster, pairs=pairs, reads=reads, tokens=tokens)
        writers = [threading.Thread(target=made.write, args=(number,)) for number in range(pairs)]
        readers = [threading.Thread(target=made.read, args=(number,)) for number in range(pairs)]
        others = [threading.Thread(target=made.watch, args=("shop.replica2",))]
        if kill:
            others.append(threading.Thread(target=made.kill, args=(frail, root)))
        start = time.perf_counter()
        for thread in (*writers, *readers, *others):
            thread.start()
        for thread in readers:
            thread.join()
        made.figures.seconds = round(time.perf_counter() - start, 1)
        made.over.set()
        for thread in (*writers, *others):
            thread.join()
        return _with_routes(made.figures, cluster)


def _with_routes(figures: Figures, cluster: dbscale.Cluster) -> Figures:
    for sample in cluster.metrics.samples():
        labels = dict(sample.labels)
        if sample.name == "dbscale_route" and labels["reason"] != "write":
            figures.routes[f"{labels['node']} {labels['reason']}"] = sample.value
            if "replica" in labels["node"]:
                figures.on_replicas += int(sample.value)
            else:
                figures.on_primary += int(sample.value)
        if sample.name == "dbscale_retries":
            figures.begun_again += int(sample.value)
    return figures


def overhead(calls: int, *, ping: bool) -> dict[str, float]:
    """The median time of a read through the split over that of a direct one, `calls` of each in turn.

    Both try a connection before its use (`ping`), or neither does.
    """
    with servers("0") as (primary, late, _frail, _root):
        settings = configured(primary, late)
        settings = replace(settings, pool=replace(settings.pool, pre_ping=ping))
        with dbscale.open(settings) as cluster:
            with cluster.write() as connection:
                connection.execute(
                    sa.text(
                        "CREATE TABLE items AS SELECT g AS id, md5(g::text) AS name FROM generate_series(1, 10000) g"
                    )
                )
                connection.execute(sa.text("ALTER TABLE items ADD PRIMARY KEY (id)"))
            time.sleep(1)
            pools.TRUSTED_SECONDS = -1.0  # with `ping`, each connection is tried, as directly
            return _paired(cluster, late.url, settings.pool, calls)


def _paired(cluster: dbscale.Cluster, url: str, pool: config.Pool, calls: int) -> dict[str, float]:
    direct = sa.create_engine(
        url.replace("postgresql://", "postgresql+psycopg://"),
        pool_size=pool.size,
        max_overflow=pool.overflow,
        pool_pre_ping=pool.pre_ping,
        pool_recycle=pool.recycle,
    )
    statement = sa.text("SELECT name FROM items WHERE id = :id")

    def straight() -> None:
        with direct.connect() as connection:
            connection.execute(statement, {"id": random.randrange(10000)}).fetchone()

    def split() -> None:
        with cluster.read(after="") as connection:
            connection.execute(statement, {"id": random.randrange(10000)}).fetchone()

    def own() -> None:
        with cluster.read() as connection:
            connection.execute(statement, {"id": random.randrange(10000)}).fetchone()

    works = (straight, split, own)
    for work in works * 200:
        work()
    # Ten calls of each in turn, in changing order: what slows the machine down hits all three alike, and the caches
    # are as warm as a busy server's.
    times: dict[str, list[float]] = {work.__name__: [] for work in works}
    for number in range(calls // 10):
        for place in range(30):
            work = works[(number + place // 10) % 3]
            start = time.perf_counter()
            work()
            times[work.__name__].append((time.perf_counter() - start) * 1e6)
    direct.dispose()
    middle = {name: statistics.median(values) for name, values in times.items()}
    return {
        "direct_us": round(middle["straight"], 1),
        "split_us": round(middle["split"], 1),
        "split_with_token_us": round(middle["own"], 1),
        "ratio": round(middle["split"] / middle["straight"], 3),
        "ratio_with_token": round(middle["own"] / middle["straight"], 3),
    }


def main() -> int:
    """Run what was asked for; 1 where the promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    storming = commands.add_parser("storm")
    storming.add_argument("--reads", type=int, default=100_000)
    storming.add_argument("--no-tokens", action="store_true", help="without tokens, to see the storm make stale reads")
    paired = commands.add_parser("overhead")
    paired.add_argument("--calls", type=int, default=5000)
    wanted = parser.parse_args()
    if wanted.command == "overhead":
        ratios = {
            name: overhead(wanted.calls, ping=ping) for name, ping in (("neither pings", False), ("both ping", True))
        }
        print(json.dumps(ratios, indent=2))
        return int(any(ratio["ratio"] > 1.10 for ratio in ratios.values()))
    figures = storm(reads=wanted.reads, tokens=not wanted.no_tokens)
    print(json.dumps(asdict(figures), indent=2))
    return int(bool(figures.failed_reads or (figures.stale and not wanted.no_tokens)))


if __name__ == "__main__":
    sys.exit(main())
