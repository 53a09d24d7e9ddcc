#!/usr/bin/env python3
"""What the sizing of pools foretells, beside a queue on a real server.

    scripts/bench pool --rounds 3 --seconds 25

pgbench sends transactions at random moments (`--rate`) over so many connections, each at work for a random time around
20 ms (`pg_sleep`): its schedule lag is how long a caller waits for a connection. Shown are the share of callers that
wait and the time within which 99 of 100 get one, measured and foretold from what arrived and how long it was held;
medians of the rounds. Waits come in bursts and a busy machine adds to them, so that one round of 25 s may well show
twice what was foretold; the formulas themselves are tested against a long simulation (tests/test_pool.py).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from dbscale.cluster.sizing import chance_to_wait, wait_quantile
from dbscale.drivers import embedded, programs

SERVER = "bench_pool"
WORK = "\\set us random_exponential(0, 200000, 10)\nSELECT pg_sleep(:us / 1e6);\n"
HELD = 0.02
CASES = ((4, 0.5), (4, 0.7), (8, 0.7), (8, 0.8))
"""Connections, and the share of them that is at work on average."""


def measured(pgbench: Path, url: str, count: int, rate: float, seconds: int) -> tuple[float, ...]:
    """One round: the share that waited and the one foretold, p99 in seconds and the one foretold."""
    with tempfile.TemporaryDirectory(prefix="dbscale-bench-") as folder:
        script = Path(folder, "work.sql")
        script.write_text(WORK, encoding="utf-8")
        options = ["-n", "-f", script, "-c", count, "-j", 1, "-R", rate, "-T", seconds, "-M", "simple", "-l"]
        command = [pgbench, *options, "--log-prefix", Path(folder, "log"), url]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
        # client, transaction, µs since it was due, script, time, µs, schedule lag in µs
        lines = [line.split() for log in Path(folder).glob("log*") for line in log.read_text().splitlines()]
    lags = [int(line[6]) / 1e6 for line in lines]
    held = statistics.mean(int(line[2]) / 1e6 for line in lines) - statistics.mean(lags)
    arrived = len(lags) / seconds
    return (
        sum(lag > 0.001 for lag in lags) / len(lags),
        chance_to_wait(count, arrived * held),
        statistics.quantiles(lags, n=100)[98],
        wait_quantile(count, arrived, held),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=25, help="of each round")
    options = parser.parse_args()
    pgbench = programs.find() / "pgbench"
    if not pgbench.exists():
        print(f"error: no pgbench beside the other programs of PostgreSQL in {pgbench.parent}", file=sys.stderr)
        return 2
    server = embedded.up(SERVER)
    try:
        titles = "connections", "at work", "waited", "foretold", "p99 ms", "foretold"
        print("".join(f"{title:>14}" for title in titles))
        for count, share in CASES:
            rate = count * share / HELD
            rounds = [measured(pgbench, server.url, count, rate, options.seconds) for _ in range(options.rounds)]
            waited, foretold, p99, bound = map(statistics.median, zip(*rounds, strict=True))
            parts = f"{count:>14}{share:>14.0%}{waited:>14.3f}{foretold:>14.3f}"
            print(f"{parts}{p99 * 1000:>14.1f}{bound * 1000:>14.1f}")
    finally:
        embedded.down(SERVER, remove=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
