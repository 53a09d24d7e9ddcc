"""`dbscale pool`: see, size and check connection pools; write and prove a PgBouncer's configuration."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbscale import config as configuration
from dbscale.cli import output
from dbscale.errors import ConfigError, DbscaleError, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dbscale.config import Config, Database
    from dbscale.drivers.postgres import Connection


@click.group()
def pool() -> None:
    """Show, size and check connection pools; set up PgBouncer, proven.

    DATABASE is a name from dbscale.toml or a URL; without it, the only PostgreSQL database there (or the shard home).
    """


def _fleet(command: Any) -> Any:
    options = (
        click.option(
            "--instances", type=click.IntRange(1), default=1, show_default=True, help="Machines or containers."
        ),
        click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes in each."),
        click.option(
            "--surge",
            type=output.Number(),
            default=1.0,
            show_default=True,
            help="Share of instances that a deployment runs beside the old ones.",
        ),
        click.option("--threads", type=click.IntRange(0), default=0, help="Threads of a process that use connections."),
        click.option("--nested", type=click.IntRange(1), default=1, help="Connections that one of them holds at once."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@pool.command()
@click.argument("database", required=False)
@click.option("--metrics", multiple=True, metavar="URL", help="An application's metrics endpoint (again for more).")
@output.looking
def show(database: str | None, metrics: tuple[str, ...], as_json: bool, config: str | None) -> int:
    """Show who uses connections now, on every node; with --metrics also what applications wait for."""
    from dbscale.cluster import check, scrape

    nodes: list[dict[str, Any]] = []
    for name, entry in _nodes(configuration.load(config), database):
        try:
            with _connected(entry) as connection:
                server, activity = check.read_server(connection), check.read_activity(connection)
        except DbscaleError as error:
            nodes.append({"node": name, "error": error.says, "activity": []})
            continue
        used = sum(entry.total for entry in activity)
        nodes.append(
            {
                "node": name,
                "max_connections": server.max_connections,
                "budget": server.budget,
                "used": used,
                "activity": [asdict(entry) for entry in activity],
            }
        )
    pools = [entry for url in metrics for entry in scrape.pools(url)]
    statements = [entry for url in metrics for entry in scrape.statements(url)]
    if as_json:
        output.answer_json({"nodes": nodes, "pools": pools, "statements": statements})
    else:
        _draw_use(nodes, pools, statements)
    return 1 if any("error" in node for node in nodes) else 0


def _draw_use(nodes: list[dict[str, Any]], pools: list[dict[str, Any]], statements: list[dict[str, Any]]) -> None:
    rows: list[tuple[object, ...]] = []
    for node in nodes:
        if "error" in node:
            rows.append((node["node"], node["error"], "-", "-", "-", "-", "-"))
            continue
        rows.append((node["node"], f"{node['used']} of {node['max_connections']}", "", "", "", "", ""))
        rows += [
            ("", e["name"] or "(no name)", e["user"], e["total"], e["active"], e["idle"], e["in_transaction"])
            for e in node["activity"]
        ]
    headers = ("node", "application", "role", "total", "active", "idle", "in transaction")
    output.answer(output.table(headers, rows, right=(3, 4, 5, 6)))
    if pools:
        output.answer("")
        shown = [
            (p["node"], p["pool"], p["used"], p["idle"], p["max"], p["waiting"], p["timeouts"], p["wait_p99_ms"])
            for p in pools
        ]
        titles = ("node", "pool", "used", "idle", "max", "waiting", "timed out", "wait p99, ms")
        output.answer(output.table(titles, shown, right=(2, 3, 4, 5, 6, 7)))
    if statements:
        output.answer("")
        columns = ("node", "role", "statement", "count", "p95, ms", "over 500 ms")
        output.answer(output.table(columns, [tuple(each.values()) for each in statements], right=(3, 4, 5)))


@pool.command()
@click.argument("database", required=False)
@click.option("--rate", type=output.Number(above=True), help="Checkouts a second, all processes together.")
@click.option("--hold", type=output.Number(above=True), metavar="MS", help="Milliseconds from checkout to checkin.")
@click.option("--metrics", multiple=True, metavar="URL", help="Measure both at an application's endpoint instead.")
@click.option("--seconds", type=output.Number(above=True), default=10.0, show_default=True, help="How long to measure.")
@click.option(
    "--wait", type=output.Number(), default=50.0, show_default=True, metavar="MS", help="99 of 100 wait at most this."
)
@click.option("--cores", type=click.IntRange(0), default=0, help="Processor cores of the server.")
@click.option("--other", type=click.IntRange(0), default=0, help="Connections of others that stay.")
@click.option("--max-connections", type=click.IntRange(1), help="Do not ask a server: this is what it has.")
@_fleet
@output.looking
def size(
    database: str | None,
    *,
    rate: float | None,
    hold: float | None,
    metrics: tuple[str, ...],
    seconds: float,
    wait: float,
    cores: int,
    other: int,
    max_connections: int | None,
    instances: int,
    workers: int,
    surge: float,
    threads: int,
    nested: int,
    as_json: bool,
    config: str | None,
) -> int:
    """Work out how large each process's pool should be, and what binds it. Exit 1 where the load does not fit."""
    from dbscale.cluster import check, scrape, sizing

    if metrics:
        rate, hold = scrape.workload(metrics, seconds)
        output.say(f"measured: {rate:.1f} checkouts a second, held {hold:.2f} ms")
    if not rate or not hold:
        raise ConfigError("the workload is not known", try_="--rate 200 --hold 15, or --metrics http://…/metrics")
    if max_connections:
        server = sizing.Server(max_connections=max_connections, cores=cores, other=other)
    else:
        _, entry = _one(configuration.load(config), database)[0]
        with _connected(entry) as connection:
            server = replace(check.read_server(connection, cores=cores), other=other)
    load = sizing.Workload(
        rate=rate,
        hold=hold / 1000,
        instances=instances,
        workers=workers,
        surge=surge,
        wait=wait / 1000,
        threads=threads,
        nested=nested,
    )
    found = sizing.size(server, load)
    if as_json:
        output.answer_json(asdict(found))
        return 0 if found.fits else 1
    output.answer(
        output.table(
            ("term", "value", "what it is"), [(t.name, f"{t.value:g}", t.says) for t in found.terms], right=(1,)
        )
    )
    output.answer("")
    output.answer(f"bound by: {found.bound}: {found.says}")
    output.answer(f"[pool]\nsize = {found.size}\noverflow = {found.overflow}")
    if found.server_pool:
        output.answer(f"dbscale pool pgbouncer --pool-size {found.server_pool}")
    if not found.fits:
        output.say("it does not fit: hold connections for a shorter time, add replicas for reads, or shard")
    return 0 if found.fits else 1


@pool.command()
@click.argument("database", required=False)
@click.option("--pgbouncer", metavar="URL", help="A PgBouncer's URL, with a user of its admin_users or stats_users.")
@click.option(
    "--request-timeout",
    type=output.Number(),
    default=0.0,
    metavar="SECONDS",
    help="When the application's callers give up.",
)
@click.option(
    "--held",
    type=output.Number(),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="A transaction idle so long is a leak.",
)
@_fleet
@output.looking
def check(
    database: str | None,
    *,
    pgbouncer: str | None,
    request_timeout: float,
    held: float,
    as_json: bool,
    config: str | None,
    **fleet: Any,
) -> int:
    """Check pools against a live server, by twelve rules (docs/pool.md). Exit 1 where one is broken."""
    from dbscale.cluster import check as rules

    settings = configuration.load(config)
    nodes = _one(settings, database)
    name, entry = nodes[0]
    with _connected(entry) as connection:
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
        facts = rules.Facts(
            pool=settings.pool,
            fleet=rules.Fleet(request_timeout=request_timeout, held=held, **fleet),
            server=rules.read_server(connection),
            settings=rules.read_settings(connection),
            activity=rules.read_activity(connection),
            pooled=row is not None and row[0] != connection.info.backend_pid,
            replicas=len(nodes) - 1,
            bouncer=_bouncer(pgbouncer) if pgbouncer else None,
        )
    rulings = rules.check(facts)
    wrong = [ruling for ruling in rulings if ruling.verdict == "wrong"]
    if as_json:
        output.answer_json({"database": name, "rules": [asdict(ruling) for ruling in rulings], "wrong": len(wrong)})
    else:
        output.answer(
            output.table(("rule", "verdict", "what was found"), [(r.code, r.verdict, r.says) for r in rulings])
        )
        output.show_findings(
            Finding(code=r.code.lower(), where=name, says=r.says, try_=r.try_, level="behaviour") for r in wrong
        )
    return 1 if wrong else 0


def _bouncer(url: str) -> Any:
    from dbscale.cluster import bouncer, check, pgbouncer

    with bouncer.console(configuration.resolve(url)) as console:
        shown = next(iter(bouncer.show(console, "VERSION")[0].values()))
        return check.read_bouncer(console, bouncer.show, pgbouncer.version_of(str(shown)))


@pool.command()
@click.argument("database", required=False)
@click.option("--out", "folder", default="pgbouncer", show_default=True, metavar="DIR", help="Where the files go.")
@click.option("--listen", default="127.0.0.1:6432", show_default=True, metavar="ADDRESS:PORT")
@click.option("--pool-size", type=click.IntRange(1), default=20, show_default=True, help="Server connections.")
@click.option("--clients", type=click.IntRange(1), default=1000, show_default=True, help="max_client_conn.")
@click.option("--client-cert", default="", metavar="FILE", help="With --client-key: TLS towards clients.")
@click.option("--client-key", default="", metavar="FILE")
@click.option("--for-version", metavar="X.Y.Z", help="Write for this version, unproven. [default: the one found here]")
@output.changing
@output.common
def pgbouncer(
    database: str | None,
    *,
    folder: str,
    listen: str,
    pool_size: int,
    clients: int,
    client_cert: str,
    client_key: str,
    for_version: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    config: str | None,
) -> int:
    """Write pgbouncer.ini and userlist.txt, and prove them on a real PgBouncer: its settings, and traffic.

    NAME is served in transaction mode, NAME_admin in session mode, for migrations and dumps. Exit 1 where the proof
    fails; then nothing is written.
    """
    from dbscale.cluster import bouncer
    from dbscale.cluster import pgbouncer as files
    from dbscale.cluster.cluster import url_of

    settings = configuration.load(config)
    name, entry = _one(settings, database)[0]
    with _connected(entry) as connection:
        parts = connection.info
        wanted = _wanted(settings, name, url_of(entry), connection=connection, folder=folder, listen=listen)
        wanted = replace(wanted, pool_size=pool_size, clients=clients, **_pair(client_cert, client_key))
        secrets = bouncer.secrets_of(connection, parts.user, parts.password)
        password = parts.password
    binary = "" if for_version else bouncer.program()
    found = _version(for_version) if for_version else bouncer.version(binary)
    checks = bouncer.prove(wanted, secrets, password, binary) if binary and password else []
    written = files.write(wanted, found, secrets)
    proven = bool(checks) and all(check.good for check in checks)
    if not checks:
        output.say("not proven: " + ("the version is not the one here" if for_version else "the password is not known"))
    if as_json:
        output.answer_json(
            {
                "version": ".".join(map(str, found)),
                "proven": proven,
                "checks": [asdict(check) for check in checks],
                "findings": output.findings_json(written.findings),
                "ini": written.ini,
            }
        )
    else:
        if dry_run:
            output.answer(written.ini)
        rows = [(check.name, "proven" if check.good else "WRONG", check.says) for check in checks]
        if rows:
            output.answer(output.table(("what", "verdict", "what was seen"), rows))
        output.show_findings(written.findings)
    if checks and not proven:
        return 1
    if not dry_run:
        target = Path(folder)
        if (target / "pgbouncer.ini").exists():
            output.confirm(f"Replace the files in {target}?", yes=yes)
        bouncer.save(written, target)
        output.say(f"written: {target}/pgbouncer.ini and userlist.txt; start: pgbouncer {target}/pgbouncer.ini")
    return 0


def _version(text: str) -> tuple[int, int, int]:
    from dbscale.cluster import pgbouncer as files

    try:
        return files.version_of(text)
    except ValueError as error:
        raise ConfigError(f"{text!r} is no version", where="--for-version", try_="--for-version 1.25.2") from error


def _pair(cert: str, key: str) -> dict[str, str]:
    """The files for TLS towards clients, by their full paths: PgBouncer runs elsewhere."""
    if bool(cert) != bool(key):
        raise ConfigError("a certificate needs its key, and a key its certificate", try_="--client-cert --client-key")
    return {"client_tls_cert": str(Path(cert).absolute()), "client_tls_key": str(Path(key).absolute())} if cert else {}


def _wanted(settings: Config, name: str, url: str, *, connection: Connection, folder: str, listen: str) -> Any:
    from psycopg import conninfo

    from dbscale.cluster import pgbouncer as files

    address, _, port = listen.rpartition(":")
    if not address or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"{listen!r} is no address and port", try_="--listen 127.0.0.1:6432")
    info, parts = connection.info, conninfo.conninfo_to_dict(url)
    return files.Wanted(
        database=name.replace("-", "_") if name.isprintable() and "/" not in name else info.dbname,
        host=info.host,
        port=info.port,
        dbname=info.dbname,
        user=info.user,
        directory=str(Path(folder).absolute()),
        listen_addr=address,
        listen_port=int(port),
        pool_timeout=settings.pool.timeout,
        server_tls=str(parts.get("sslmode") or "prefer"),
        server_ca=str(parts.get("sslrootcert") or ""),
    )


@pool.command()
@output.common
def alerts(as_json: bool, config: str | None) -> None:  # noqa: ARG001 - no command is without them
    """Print alert rules for Prometheus: pool saturation, slow responses, replica lag.

    dbscale pool alerts > dbscale.rules.yml
    """
    from importlib.resources import files

    rules = files("dbscale.cluster").joinpath("alerts.yml").read_text(encoding="utf-8").rstrip()
    output.answer_json({"rules": rules}) if as_json else output.answer(rules)


# Where the numbers come from.


def _one(settings: Config, database: str | None) -> list[tuple[str, Database]]:
    """One database's servers with their names, the primary first: of the home of the shards unless one is named."""
    return _nodes(settings, database or settings.shards.get("home"))


def _nodes(settings: Config, database: str | None) -> list[tuple[str, Database]]:
    """Every server with its name: each database's primary, and its replicas."""
    from dbscale.cluster.cluster import shards_of

    found: dict[str, Database] = {}
    for entry in shards_of(settings, database).values():
        found[entry.name] = entry
        for number, replica in enumerate(entry.replicas, 1):
            name = f"{entry.name}.replica{number}"
            found[name] = configuration.Database(name=name, url=replica.url)
    return list(found.items())


@contextmanager
def _connected(entry: Database) -> Iterator[Connection]:
    from dbscale.cluster.cluster import url_of
    from dbscale.cluster.survey import connected

    with connected(url_of(entry)) as connection:
        yield connection
