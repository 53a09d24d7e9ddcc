#!/usr/bin/env python3
"""What index advice is worth, in seconds: a workload before and after, beside two simpler ways to advise.

    scripts/bench indexes --rounds 5

The marketplace with 1,000,000 transactions, or another `--source`, is migrated into an embedded server, once, which is
taken away at the end. Then the ways come in turns: the indexes of one are built, every statement of
scripts/marketplace_workload.sql runs (writing ones in a transaction that is rolled back), and the median of its times
over the rounds counts as often as the statement is called. The other two ways, in the rules that their authors
describe: *one column each* (every column of the query's tables; taken when the planner uses it) and *one rule* (columns
of the query, then pairs; taken when a statement of cost 100 or more falls by half).
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from dbscale.drivers import embedded, postgres
from dbscale.indexes import advise, candidates, facts, proof, workload
from dbscale.indexes.candidates import Candidate
from dbscale.indexes.facts import Facts
from dbscale.indexes.proof import Proof
from dbscale.schema import create_index, quote

HERE = Path(__file__).resolve().parent
SERVER = "bench_indexes"
FILLED = {
    # A row of each table as the application writes them: what an index costs its writers.
    "transactions": "INSERT INTO transactions (buyer_id, farm_id, crop_type, quantity, unit_price, created_at)"
    " SELECT 1 + n % 29000, 1 + n % 19000, 'apple', 3, 12500, timestamp '2026-01-01' + n * interval '1 second'"
    " FROM generate_series(1, 20000) n",
    "analysis_history": "INSERT INTO analysis_history (id, user_id, kind, created_at)"
    " SELECT gen_random_uuid(), 1 + n % 29000, 'yield', timestamptz '2026-01-01' + n * interval '1 second'"
    " FROM generate_series(1, 20000) n",
}


def columns_of(statement: workload.Statement, known: Facts) -> dict[Any, list[str]]:
    """The columns that a statement speaks of in conditions and order, by table."""
    found: dict[Any, list[str]] = {}
    for need in candidates.needs(statement.query, known):
        names = found.setdefault(need.table, [])
        for name in (*need.equal, *need.ranges, *need.joins, *(term[0] for term in need.sort), *need.groups):
            if name not in names:
                names.append(name)
    return found


def plain(table: Any, *names: str) -> Candidate:
    return Candidate(table.schema, table.name, tuple(map(quote, names)), names)


def fresh(table: Any, *names: str) -> bool:
    """No index has exactly these columns already."""
    return not any(index.columns == names and not index.predicate for index in table.indexes)


def one_column_each(known: Facts, prover: Proof, statements: list[workload.Statement]) -> list[Candidate]:
    """Every column of the query's tables alone; advised when it stands in the plan."""
    chosen: dict[Candidate, None] = {}
    for statement in statements:
        tables = {known.table(table.name, table.schema) for table in statement.query.tables}
        tried = [plain(t, c.name) for t in tables if t for c in t.columns if fresh(t, c.name) and c.category in "NSDB"]
        prover.prepare(tried)
        planned = prover.plan(statement.sql, tried)
        chosen |= dict.fromkeys(each for each in tried if prover.name(each) in planned.uses)
    return list(chosen)


def one_rule(known: Facts, prover: Proof, statements: list[workload.Statement]) -> list[Candidate]:
    """The query's columns alone, then in pairs; advised when a cost of 100 or more falls by half."""
    chosen: dict[Candidate, None] = {}
    for statement in statements:
        columns = columns_of(statement, known)
        singles = [plain(t, name) for t, names in columns.items() for name in names if fresh(t, name)]
        pairs = [plain(t, *two) for t, names in columns.items() for two in itertools.permutations(names, 2)
                 if fresh(t, *two)]  # fmt: skip
        prover.prepare([*singles, *pairs])
        cost = prover.plan(statement.sql).cost
        for tried in (singles, pairs):
            planned = prover.plan(statement.sql, tried)
            if cost < 100 or planned.cost > cost * 0.5:
                break
            used = [each for each in tried if prover.name(each) in planned.uses]
            if tried is pairs:
                for each in used:
                    for narrow in singles:
                        if narrow.table == each.table and narrow.columns[0] in each.columns:
                            chosen.pop(narrow, None)
            chosen |= dict.fromkeys(used)
            cost = planned.cost
    return list(chosen)


@contextmanager
def built(connection: psycopg.Connection[Any], wanted: list[Candidate]) -> Iterator[list[str]]:
    """The indexes of one way, under these names; taken away again."""
    names = [f"bench_{number}" for number, _ in enumerate(wanted)]
    for name, candidate in zip(names, wanted, strict=True):
        connection.execute(create_index(candidate.schema, candidate.table, candidate.index(name)).encode())
    connection.execute("ANALYZE")
    yield names
    for name in names:
        connection.execute(f"DROP INDEX {quote(name)}".encode())


def timed(connection: psycopg.Connection[Any], statement: workload.Statement) -> float:
    """Seconds of one call whose pages are in memory; nothing that is written stays."""
    for _ in range(2):
        with connection.transaction(force_rollback=True):
            began = time.perf_counter()
            answer = connection.execute(statement.sql.encode())
            if statement.query.verb == "select":
                answer.fetchall()
            seconds = time.perf_counter() - began
    return seconds


def written(connection: psycopg.Connection[Any]) -> dict[str, float]:
    """Microseconds for each row written into the largest tables."""
    found = {}
    for table, sql in FILLED.items():
        times = []
        for _ in range(3):
            with connection.transaction(force_rollback=True):
                began = time.perf_counter()
                connection.execute(sql.encode())
                times.append((time.perf_counter() - began) / 20_000 * 1e6)
        found[table] = round(statistics.median(times), 1)
        connection.execute(f"VACUUM {table}".encode())
    return found


def used(connection: psycopg.Connection[Any], statements: list[workload.Statement]) -> set[str]:
    """The indexes that the planner takes for these statements."""
    return {name for statement in statements for name in proof.explain(connection, statement.sql).uses}


def race(
    connection: psycopg.Connection[Any],
    ways: dict[str, list[Candidate]],
    statements: list[workload.Statement],
    rounds: int,
) -> list[dict[str, Any]]:
    """The ways in turns, each round with new indexes and new statistics: medians of the rounds for each statement."""
    times: dict[str, list[list[float]]] = {title: [] for title in ways}
    for _ in range(rounds):
        for title, wanted in ways.items():
            with built(connection, wanted):
                times[title].append([timed(connection, statement) for statement in statements])
    found = []
    for title, wanted in ways.items():
        medians = [statistics.median(each) for each in zip(*times[title], strict=True)]
        each = [median * statement.calls for median, statement in zip(medians, statements, strict=True)]
        with built(connection, wanted) as names:
            taken = used(connection, statements)
            size = "SELECT pg_relation_size(%s::regclass)"
            sizes = [connection.execute(size, [name]).fetchone()[0] for name in names]  # type: ignore[index]
            found.append({
                "way": title,
                "indexes": [candidate.title for candidate in wanted],
                "seconds": round(sum(each), 1),
                "statements": {one.sql: round(spent, 2) for one, spent in zip(statements, each, strict=True)},
                "bytes": sum(sizes),
                "sizes": {candidate.title: size for candidate, size in zip(wanted, sizes, strict=True)},
                "unused": [candidate.title for name, candidate in zip(names, wanted, strict=True) if name not in taken],
                "write_us": written(connection),
            })  # fmt: skip
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="a database of scripts/marketplace.py; made when not given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dbscale-bench-") as folder:
        source = options.source or Path(folder, "marketplace.db")
        if options.source is None:
            command = [sys.executable, str(HERE / "marketplace.py"), str(source), "--transactions", "1000000"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        server = embedded.up(SERVER)
        try:
            command = [sys.executable, "-m", "dbscale.cli", "migrate", str(source), f"embedded:{SERVER}", "--yes"]
            subprocess.run([*command, "--no-verify"], check=True)
            measure(server.url, options)
        finally:
            embedded.down(SERVER, remove=True)
    return 0


def measure(url: str, options: argparse.Namespace) -> None:
    """Each way to advise, tried in the migrated database; prints what they are worth."""
    with postgres.connect(url) as connection:
        asked = workload.from_text((HERE / "marketplace_workload.sql").read_text(encoding="utf-8"), "workload")
        statements = list(asked.statements)
        with postgres.reading(connection):
            known = facts.read(connection)
            with proof.proving(connection, url, known) as prover:
                began = time.perf_counter()
                advice = advise.advise(known, prover, asked)
                seconds = time.perf_counter() - began
                ours = [item.candidate for item in advice.advised]
                sizes = {item.index: item.bytes for item in advice.advised}
                ways = {
                    "none": [],
                    "one column each": one_column_each(known, prover, statements),
                    "one rule": one_rule(known, prover, statements),
                    "dbscale": ours,
                }
        found = race(connection, ways, statements, options.rounds)
    if options.json:
        print(json.dumps({"ways": found, "estimated": sizes, "advice_seconds": round(seconds, 2)}, indent=2))
        return
    print(f"{len(statements)} statements, {sum(s.calls for s in statements):,.0f} calls; advice in {seconds:.1f} s")
    for way in found:
        print(f"\n{way['way']}: {way['seconds']:,.1f} s, {way['bytes'] / 1e6:.1f} MB, {len(way['indexes'])} indexes,"
              f" {len(way['unused'])} unused; us a row written: {way['write_us']}")  # fmt: skip
        for title, size in way["sizes"].items():
            mark = " UNUSED" if title in way["unused"] else ""
            guess = f", estimated {sizes[title] / 1e6:.2f}" if way["way"] == "dbscale" else ""
            print(f"  {title}: {size / 1e6:.2f} MB{guess}{mark}")


if __name__ == "__main__":
    sys.exit(main())
