#!/usr/bin/env python3
"""Measure dbscale beside its peers and beside the limit: the same work, in turns, medians. Prints one table.

    scripts/bench [--transactions N] [--rounds N] [--only NAME …] [--scale 0.1,1,5,10] [--no-verify]

The work is the sample marketplace. The server is PostgreSQL from the embedded wheel, with its usual settings (fsync
on), on this machine. "Limit" is COPY of the same rows from files encoded beforehand, into the same bare tables, over
the same number of connections. `--scale` shows time and memory at several sizes, in millions of transactions.

A peer that is not there is left out, and the reason said. pgloader is Debian's; the others are taken from the Python
that DBSCALE_BENCH_PYTHON names, so that they need not be installed beside dbscale:

    python -m venv peers && peers/bin/pip install 'psycopg[binary]' duckdb==1.4.4 duckdb-ext duckdb-ext-sqlite \\
        duckdb-ext-postgres adbc-driver-sqlite adbc-driver-postgresql pyarrow
    DBSCALE_BENCH_PYTHON=peers/bin/python scripts/bench
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from dbscale.drivers import embedded

HERE = Path(__file__).resolve().parent
TABLES = ("users", "farms", "farm_tags", "transactions", "predictions", "analysis_history")
CONNECTIONS = 2
Result = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactions", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="0: no race, only --scale")
    parser.add_argument("--only", nargs="*", default=[], help="names of the contenders to run")
    parser.add_argument("--scale", default="", help="also show time and memory at these millions of transactions")
    parser.add_argument("--no-verify", action="store_true", help="migrate alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dbscale-bench-") as folder:
        Path(folder).chmod(0o755)  # as root, the server runs as another user
        bench = Bench(Path(folder), verify=not options.no_verify)
        with bench.server():
            if options.rounds:
                bench.make(options.transactions)
                bench.race(options.rounds, set(options.only))
            if options.scale:
                bench.growth([round(float(size) * 1e6) for size in options.scale.split(",")])
            bench.help_time()


class Bench:
    """One server, one sample database, and everything that copies the one into the other."""

    def __init__(self, folder: Path, *, verify: bool) -> None:
        self.folder = folder
        self.verify = verify
        self.source = folder / "marketplace.db"
        self.url = ""
        self.rows = 0

    def make(self, transactions: int) -> None:
        """The sample database."""
        self.rows = make_marketplace(self.source, transactions)

    @contextmanager
    def server(self) -> Iterator[None]:
        """An embedded server for the time of the block, in a place of its own."""
        root = self.folder / "pg"
        os.environ["DBSCALE_DATA"] = str(root)
        name = f"bench{os.getpid()}"
        try:
            self.url = embedded.url(name)
            yield
        finally:
            embedded.down(name)
            shutil.rmtree(root, ignore_errors=True)

    def race(self, rounds: int, only: set[str]) -> None:
        """Every contender in turn, round after round; the table of medians."""
        contenders: dict[str, Callable[[], Result]] = {
            "dbscale": self.dbscale,
            "limit: COPY of text files": lambda: self.limit("text"),
            "limit: COPY of binary files": lambda: self.limit("binary"),
            "DuckDB": self.duckdb,
            "ADBC": self.adbc,
            "pgloader": self.pgloader,
            "psycopg write_row": self.write_row,
            "psycopg executemany (1/10)": self.executemany,
        }
        wanted = {
            name: contender
            for name, contender in contenders.items()
            if not only or any(name.startswith(each) for each in only)
        }
        results: dict[str, list[Result]] = {}
        self.dbscale()  # makes the tables whose rows the limit copies; also warms the caches
        if any(name.startswith("limit") for name in wanted):
            self.encode()
        for _ in range(rounds):
            for name, contender in wanted.items():
                try:
                    results.setdefault(name, []).append(contender())
                except Skipped as reason:
                    print(f"{name}: not measured: {reason}", file=sys.stderr)
        self.show(results, rounds)

    def show(self, results: dict[str, list[Result]], rounds: int) -> None:
        """Medians, the ratios that the targets speak of, and the phases of dbscale's run."""
        medians = {
            name: {key: statistics.median(each[key] for each in runs if key in each) for key in runs[0]}
            for name, runs in results.items()
            if runs
        }
        print(
            f"\n{self.rows:,} rows, {self.source.stat().st_size / 1e6:.0f} MB; {os.cpu_count()} cores,"
            f" {platform.processor() or platform.machine()}; PostgreSQL {self.version()},"
            f" Python {platform.python_version()}; medians of {rounds} rounds in turns, seconds;"
            f" load average {os.getloadavg()[1]:.1f}\n"
        )
        print(f"{'':32} {'whole':>8} {'load':>8} {'verify':>8} {'rows/s of load':>16}   {'least to greatest':>17}")
        for name, median in medians.items():
            cells = [f"{median[key]:8.2f}" if key in median else " " * 8 for key in ("whole", "load", "verify")]
            rate = f"{median['rows'] / median['load']:16,.0f}" if "load" in median else " " * 16
            times = [each.get("whole", each.get("load", 0)) for each in results[name]]
            print(f"{name:32} {' '.join(cells)} {rate}   {min(times):8.2f} {max(times):8.2f}")
        if "dbscale" in medians:
            print()
            self.show_ratios(results)
            self.show_phases(medians["dbscale"])

    def show_ratios(self, results: dict[str, list[Result]]) -> None:
        """Medians of the ratios of runs that came one after the other."""
        ours = results["dbscale"]
        for says, theirs, key in (
            ("whole migration : pgloader", "pgloader", "whole"),
            ("load : COPY of text files", "limit: COPY of text files", "load"),
            ("load : COPY of binary files", "limit: COPY of binary files", "load"),
            ("load : DuckDB's copy", "DuckDB", "load"),
            ("load : ADBC's", "ADBC", "load"),
            ("load : psycopg write_row", "psycopg write_row", "load"),
        ):
            if pairs := list(zip(ours, results.get(theirs, ()), strict=False)):
                print(f"{says:32} {statistics.median(mine[key] / other[key] for mine, other in pairs):8.2f}")
        if self.verify:
            print(f"{'verify : load':32} {statistics.median(each['verify'] / each['load'] for each in ours):8.2f}")
        print(f"{'memory of migrate, peak':32} {max(each['memory'] for each in ours) / 1e6:8.0f} MB")
        if self.verify:
            print(f"{'memory of verify, peak':32} {max(each['verify memory'] for each in ours) / 1e6:8.0f} MB")

    def show_phases(self, median: Result) -> None:
        """Where the time of a whole run goes."""
        print("\nphase                             seconds")
        phases = {key.removeprefix("phase "): value for key, value in median.items() if key.startswith("phase ")}
        for name, seconds in phases.items():
            print(f"{name:32} {seconds:8.2f}")
        print(f"{'start and end of the process':32} {median['whole'] - sum(phases.values()):8.2f}")

    # The contenders. Each clears the target first, and times only its own work.

    def dbscale(self, source: Path | None = None) -> Result:
        """`dbscale migrate` and `dbscale verify`, as processes."""
        self.clear()
        source = source or self.source
        command = [sys.executable, "-m", "dbscale.cli", "migrate", str(source), self.url, "--json", "--no-verify"]
        whole, document, memory = timed(command)
        result = {
            "whole": whole,
            "load": document["load_seconds"],
            "rows": sum(table["loaded"] for table in document["tables"]),
            "memory": memory,
            **{f"phase {name}": seconds for name, seconds in document["phases"].items()},
        }
        if self.verify:
            command = [sys.executable, "-m", "dbscale.cli", "verify", str(source), self.url, "--json"]
            _, report, result["verify memory"] = timed(command)
            result["verify"] = report["seconds"]
        return result

    def encode(self) -> None:
        """The files that the limit copies, from the tables that dbscale filled: in parts, as dbscale copies them."""
        with psycopg.connect(self.url) as connection:
            for form in ("text", "binary"):
                for table in TABLES:
                    self._encode(connection, table, form)
            for table in TABLES:
                connection.execute(f"CREATE TABLE public.bare_{table} AS TABLE public.{table} WITH NO DATA")
        self.bare = {table: self.definition(f"bare_{table}") for table in TABLES}

    def _encode(self, connection: psycopg.Connection, table: str, form: str) -> None:
        parts = [("", table)]
        if table == "transactions":
            low, high = connection.execute("SELECT min(id), max(id) FROM transactions").fetchone() or (0, 0)
            step = max((high - low + 1) // 10, 1)
            parts = [
                (f" WHERE id >= {at} AND id < {at + step}", f"{table}.{i}")
                for i, at in enumerate(range(low, high + 1, step))
            ]
        for where, name in parts:
            with connection.cursor() as cursor, (self.folder / f"{name}.{form}").open("wb") as file:
                query = f"COPY (SELECT * FROM {table}{where}) TO STDOUT (FORMAT {form})"
                with cursor.copy(query) as copy:
                    for data in copy:
                        file.write(data)

    def definition(self, table: str) -> str:
        """CREATE TABLE of a bare table."""
        with psycopg.connect(self.url) as connection:
            rows = connection.execute(
                "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
                " WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
                [f"public.{table}"],
            ).fetchall()
        columns = ", ".join(f'"{name}" {kind}' for name, kind in rows)
        return f"CREATE TABLE public.{table.removeprefix('bare_')} ({columns})"

    def limit(self, form: str) -> Result:
        """COPY of the encoded files over the same number of connections."""
        self.clear()
        with psycopg.connect(self.url) as connection:
            for table in TABLES:
                connection.execute(self.bare[table])
        files: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for path in sorted(self.folder.glob(f"*.{form}"), key=lambda path: -path.stat().st_size):
            files.put(path)

        def work() -> None:
            with psycopg.connect(self.url) as connection:
                while not files.empty():
                    try:
                        path = files.get_nowait()
                    except queue.Empty:
                        return
                    table = path.name.partition(".")[0]
                    statement = f"COPY {table} FROM STDIN (FORMAT {form})"
                    with (
                        connection.transaction(),
                        connection.cursor() as cursor,
                        cursor.copy(statement) as copy,
                        path.open("rb") as file,
                    ):
                        while data := file.read(1 << 20):
                            copy.write(data)

        began = time.perf_counter()
        run_threads([work] * CONNECTIONS)
        return {"load": time.perf_counter() - began, "rows": self.rows}

    def duckdb(self) -> Result:
        """DuckDB reads SQLite and writes PostgreSQL (binary COPY), tables only."""
        self.clear()
        script = f"""
import duckdb, duckdb_ext, time
con = duckdb.connect()
duckdb_ext.init(con)
con.execute("LOAD sqlite; LOAD postgres")
con.execute("ATTACH '{self.source}' AS s (TYPE sqlite, READ_ONLY)")
con.execute("ATTACH '{self.url}' AS p (TYPE postgres)")
began = time.perf_counter()
for table in {TABLES!r}:
    con.execute(f"CREATE TABLE p.public.{{table}} AS SELECT * FROM s.{{table}}")
print(time.perf_counter() - began)
"""
        return {"load": peer(script), "rows": self.rows}

    def adbc(self) -> Result:
        """ADBC's SQLite reader into ADBC's PostgreSQL ingest."""
        self.clear()
        script = f"""
import adbc_driver_sqlite.dbapi as sqlite, adbc_driver_postgresql.dbapi as postgres, time
began = time.perf_counter()
with sqlite.connect("file:{self.source}?mode=ro") as s, postgres.connect("{self.url}") as p:
    for table in {TABLES!r}:
        with s.cursor() as reader, p.cursor() as writer:
            reader.execute(f"SELECT * FROM {{table}}")
            writer.adbc_ingest(table, reader.fetch_record_batch(), mode="create")
        p.commit()
print(time.perf_counter() - began)
"""
        return {"load": peer(script), "rows": self.rows}

    def pgloader(self) -> Result:
        """pgloader's whole migration, of a copy with the same rows from which is taken what it fails on."""
        if not shutil.which("pgloader"):
            raise Skipped("it is not installed (Debian's package pgloader)")
        source = self.simpler()
        self.clear()
        began = time.perf_counter()
        command = ["timeout", "--kill-after=1", "300", "pgloader", str(source), self.url.partition("?")[0]]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        whole = time.perf_counter() - began
        with psycopg.connect(self.url) as connection:
            rows = sum((connection.execute(f"SELECT count(*) FROM {t}").fetchone() or (0,))[0] for t in TABLES)
        if rows != self.rows:
            raise Skipped(f"{rows} of {self.rows} rows arrived: {result.stdout[-300:]}")
        return {"whole": whole, "rows": self.rows}

    def simpler(self) -> Path:
        """The sample without what stops pgloader 3.6: a default of datetime('now'), a generated column, an index on
        an expression, and epoch seconds in a column declared TIMESTAMP."""
        copy = self.folder / "simpler.db"
        if not copy.exists():
            import sqlite3

            shutil.copy(self.source, copy)
            with sqlite3.connect(copy) as connection:
                connection.executescript(
                    """
                    DROP INDEX users_email;
                    PRAGMA writable_schema = on;
                    UPDATE sqlite_master SET sql = replace(replace(replace(sql, 'DEFAULT (datetime(''now''))', ''),
                      'GENERATED ALWAYS AS (quantity * fee_cents) STORED', ''),
                      'created_at TIMESTAMP NOT NULL', 'created_at INTEGER NOT NULL');
                    PRAGMA writable_schema = reset;
                    """
                )
        return copy

    def write_row(self) -> Result:
        """The standard library's sqlite3 and psycopg's COPY, row by row, as a script would."""
        return self._scripted("copy", 1)

    def executemany(self) -> Result:
        """The standard library's sqlite3 and psycopg's executemany, a tenth of the rows."""
        return self._scripted("insert", 10)

    def _scripted(self, way: str, part: int) -> Result:
        self.clear()
        script = f"""
import sqlite3, psycopg, time
s = sqlite3.connect("file:{self.source}?mode=ro", uri=True)
kinds = {{"INTEGER": "bigint", "REAL": "float8", "FLOAT": "float8", "DOUBLE": "float8", "BLOB": "bytea"}}
rows = 0
began = time.perf_counter()
with psycopg.connect("{self.url}") as p:
    for table in {TABLES!r}:
        columns = [(c[1], kinds.get(c[2], "text")) for c in s.execute(f"pragma table_info({{table}})")]
        p.execute(f"CREATE TABLE {{table}} (" + ", ".join(f'"{{n}}" {{k}}' for n, k in columns) + ")")
        texts = [f'CAST("{{n}}" AS TEXT)' if k == "text" else f'"{{n}}"' for n, k in columns]
        limit = s.execute(f"select count(*) / {part} from {{table}}").fetchone()[0]
        found = s.execute(f"select {{', '.join(texts)}} from {{table}} limit {{limit}}")
        rows += limit
        with p.cursor() as cursor:
            if {way!r} == "copy":
                with cursor.copy(f"COPY {{table}} FROM STDIN") as copy:
                    for row in found:
                        copy.write_row(row)
            else:
                cursor.executemany(f"INSERT INTO {{table}} VALUES ({{', '.join(['%s'] * len(columns))}})", found)
print(time.perf_counter() - began)
"""
        return {"load": peer(script), "rows": self.rows / part}

    def growth(self, sizes: list[int]) -> None:
        """Time and memory at several sizes: time in proportion to rows, memory flat."""
        print(f"\n{'transactions':>14} {'rows':>12} {'whole':>8} {'load':>8} {'us/row':>8} {'migrate':>11}", end="")
        print(f" {'verify':>8} {'verify':>11}" if self.verify else "")
        for size in sizes:
            source = self.folder / f"m{size}.db"
            rows = make_marketplace(source, size)
            result = self.dbscale(source)
            source.unlink()
            print(
                f"{size:14,} {rows:12,} {result['whole']:8.2f} {result['load']:8.2f}"
                f" {result['whole'] / rows * 1e6:8.2f} {result['memory'] / 1e6:8.0f} MB",
                end=f" {result['verify']:8.2f} {result['verify memory'] / 1e6:8.0f} MB\n" if self.verify else "\n",
                flush=True,
            )

    def help_time(self) -> None:
        """How long `dbscale --help` takes, beside Python's own start."""
        ours = [timed_plain([sys.executable, "-m", "dbscale.cli", "--help"]) for _ in range(7)]
        python = [timed_plain([sys.executable, "-c", "pass"]) for _ in range(7)]
        print(f"\ndbscale --help {statistics.median(ours):.3f} s (python alone {statistics.median(python):.3f} s)")

    def clear(self) -> None:
        """An empty target."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SET client_min_messages TO error")
            connection.execute("DROP SCHEMA IF EXISTS public, dbscale CASCADE")
            connection.execute("CREATE SCHEMA public")
            connection.execute("CHECKPOINT")

    def version(self) -> str:
        with psycopg.connect(self.url) as connection:
            row = connection.execute("SHOW server_version").fetchone()
        return str(row[0]) if row else ""


class Skipped(Exception):
    """A contender that cannot run here, with the reason."""


def make_marketplace(path: Path, transactions: int) -> int:
    """Make the sample database; its number of rows."""
    script = [sys.executable, str(HERE / "marketplace.py"), str(path), "--transactions", str(transactions)]
    subprocess.run(script, check=True, stdout=subprocess.DEVNULL)
    import sqlite3

    with sqlite3.connect(path) as connection:
        return sum(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES)


def timed(command: list[str]) -> tuple[float, Any, float]:
    """Run a command that answers in JSON: seconds, the document, and the peak memory in bytes.

    Not in the caller's directory, whose dbscale.toml may choose types, which are then tried out first.
    """
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/")
    assert process.stdout is not None
    assert process.stderr is not None
    answer = process.stdout.read()
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors.decode()}{answer.decode()[:2000]}")
    scale = 1 if sys.platform == "darwin" else 1024
    return seconds, json.loads(answer), usage.ru_maxrss * scale


def timed_plain(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def peer(script: str) -> float:
    """Run a peer's script in the peers' Python; the seconds that it prints."""
    python = os.environ.get("DBSCALE_BENCH_PYTHON", sys.executable)
    result = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
    if result.returncode:
        raise Skipped(result.stderr.strip().splitlines()[-1] if result.stderr.strip() else "it failed")
    return float(result.stdout.split()[-1])


def run_threads(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    main()
