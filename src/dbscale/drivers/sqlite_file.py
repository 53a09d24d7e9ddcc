"""What a SQLite file and the files beside it say without opening them as a database.

The main file is read through SQLite's own file layer, never by Python's `open`: closing a descriptor of it would drop
the locks that this process holds on it (https://www.sqlite.org/howtocorrupt.html, 2.2).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import apsw

from dbscale.errors import SourceError

MAGIC = b"SQLite format 3\0"
RECOVER = "restore a backup, or save what can be read: sqlite3 FILE .recover | sqlite3 saved.db"
_CHUNK = 1 << 20
_WAL_HEADER = 32
_FRAME_HEADER = 24
_WAL_CHECKED = 64 << 20

_OTHERS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"** This file contains an SQLite 2", "an SQLite 2 database", "sqlite old.db .dump | sqlite3 new.db"),
    (0, b"\x1f\x8b", "compressed by gzip", "gunzip it first"),
    (0, b"PK\x03\x04", "a zip archive", "unzip it first"),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd", "unzstd it first"),
    (0, b"age-encryption.org", "encrypted by age", "decrypt it with age first"),
    (0, b"PGDMP", "a PostgreSQL dump", "restore it with pg_restore; it needs no migration"),
    (4, b"Standard Jet DB", "a Microsoft Access database", "export it to SQLite first"),
    (4, b"Standard ACE DB", "a Microsoft Access database", "export it to SQLite first"),
    (8, b"DUCK", "a DuckDB database", "export its tables to SQLite first, with DuckDB's sqlite extension"),
    (0, b"\x37\x7f\x06\x82", "a -wal file", "name the database itself, without -wal"),
    (0, b"\x37\x7f\x06\x83", "a -wal file", "name the database itself, without -wal"),
    (0, b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7", "a rollback journal", "name the database itself, without -journal"),
)


def error(section: str, says: str, where: str, try_: str) -> SourceError:
    """SourceError whose explanation is `section` of docs/errors.md."""
    return SourceError(says, where=where, try_=try_, see=f"docs/errors.md#{section}")


def beside(path: Path) -> frozenset[str]:
    """Which of `-wal`, `-shm` and `-journal` stand beside the file (a link's target, as SQLite looks there)."""
    return frozenset(end for end in ("-wal", "-shm", "-journal") if _side(path, end).exists())


def size(path: Path) -> int:
    """Bytes of the file and its -wal; SourceError when there is no such file."""
    try:
        wal = _side(path, "-wal")
        return path.stat().st_size + (wal.stat().st_size if wal.exists() else 0)
    except OSError as problem:
        raise _of_system(problem, path) from problem


def check(path: Path) -> None:
    """SourceError unless `path` is a file that looks like a SQLite database; an empty file is one, without tables."""
    try:
        mode = path.stat().st_mode
    except OSError as problem:
        raise _of_system(problem, path) from problem
    if stat.S_ISDIR(mode):
        raise error("source-not-a-database", "this is a directory", str(path), "name the database file in it")
    if not stat.S_ISREG(mode):
        raise error("source-not-a-database", "this is not a regular file", str(path), "name a SQLite database file")
    if not os.access(path, os.R_OK):
        raise _of_system(PermissionError(), path)
    head, length = read_head(path)
    if length and not head.startswith(MAGIC):
        raise _not_a_database(head, length, path)


def check_readable(path: Path) -> None:
    """SourceError when a file beside the database is there but cannot be read: without it rows would be missing."""
    for end in ("-wal", "-journal"):
        side = _side(path, end)
        if side.exists() and not os.access(side, os.R_OK):
            says = f"{side.name} holds a part of the database, and this user may not read it"
            raise error("source-permission", says, str(side), f"run as the user who owns it, or: chmod a+r {side}")


def check_space(path: Path, directory: Path) -> None:
    """SourceError when `directory` has no room for a copy of the file."""
    needed, free = size(path), shutil.disk_usage(directory).free
    if needed > free:
        says = f"a temporary copy needs {needed:,} bytes, and only {free:,} are free in {directory.parent}"
        raise error("source-no-room", says, str(path), "set TMPDIR to a directory with more room")


def read_head(path: Path, count: int = 512) -> tuple[bytes, int]:
    """The first `count` bytes and the length of the file. SourceError when it cannot be opened."""
    try:
        file = apsw.VFSFile("", os.path.realpath(path), [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])
        try:
            return file.xRead(count, 0), file.xFileSize()
        finally:
            file.xClose()
    except apsw.Error as problem:
        raise explained(problem, path, str(path)) from problem


def read_ahead(path: Path, stopped: Callable[[], bool]) -> bool:
    """Read the whole file once in its own order, so that who reads its trees finds their pages in memory.

    In the order of the trees a disk gives a fraction of that speed. Not done with a file of more than half of the
    machine's memory, which would push itself out again; and whoever reads the trees meets the errors, not this.
    False where it was stopped.
    """
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not on this system
        memory = 2 << 30
    with suppress(apsw.Error):
        file = apsw.VFSFile("", os.path.realpath(path), [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])
        try:
            length = file.xFileSize()
            for place in range(0, length if length <= memory // 2 else 0, _CHUNK):
                if stopped():
                    return False
                file.xRead(_CHUNK, place)
        finally:
            file.xClose()
    return True


def is_wal(path: Path) -> bool:
    """Whether the file is in WAL mode (its header's bytes 18 and 19)."""
    head, _ = read_head(path)
    return head[18:20] == b"\2\2"


def fingerprint(path: Path) -> str:
    """A token of what is committed in the file and its -wal: equal tokens, equal content.

    Of the file: the 100 bytes of its header (with the change counter), length, inode and time of change, for commits
    in WAL mode do not always touch the header. Of the -wal: its salts, and place and checksum of the last commit.
    """
    head, length = read_head(path)
    status = path.stat()
    parts = (head[:100].hex(), length, status.st_mtime_ns, status.st_ino, _last_commit(_side(path, "-wal")))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _last_commit(wal: Path) -> tuple[str, int, str]:
    """Salts of a -wal file, number of its last commit frame, and that frame's checksum (file format, 4.1 to 4.3).

    The frames that count have the header's salts and stand before all others, so the last is found by bisection.
    """
    try:
        with wal.open("rb") as file:
            header = file.read(_WAL_HEADER)
            if len(header) < _WAL_HEADER:
                return ("", 0, "")
            page_size = struct.unpack(">I", header[8:12])[0]
            salts = header[16:24]
            step = page_size + _FRAME_HEADER

            def frame(number: int) -> bytes:
                file.seek(_WAL_HEADER + (number - 1) * step)
                return file.read(_FRAME_HEADER)

            low, high = 0, (wal.stat().st_size - _WAL_HEADER) // step
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if frame(middle)[8:16] == salts else (low, middle - 1)
            while low and frame(low)[4:8] == b"\0\0\0\0":
                low -= 1
            return (salts.hex(), low, frame(low)[16:24].hex() if low else "")
    except FileNotFoundError:
        return ("", 0, "")
    except OSError as problem:
        raise _of_system(problem, wal) from problem


def lost_commits(path: Path) -> int:
    """How many commits in the -wal SQLite passes over in silence, because the file is damaged before them.

    SQLite reads the frames up to the first whose salts or checksum are wrong (file format, 4.2 and 4.3), and takes the
    rest for what a crash left. Left by a crash it holds no commit. 0 too for a -wal over 64 MB, for the time it takes.
    """
    wal = _side(path, "-wal")
    try:
        if not _WAL_HEADER < wal.stat().st_size <= _WAL_CHECKED:
            return 0
        data = wal.read_bytes()
    except FileNotFoundError:
        return 0
    except OSError as problem:
        raise _of_system(problem, wal) from problem
    step = int.from_bytes(data[8:12], "big") + _FRAME_HEADER
    order = ">" if data[3] & 1 else "<"
    salts = data[16:24]
    sums = _checksum(order, data[:24], (0, 0))
    sound = sums == struct.unpack(">2I", data[24:32])
    lost = 0
    for start in range(_WAL_HEADER, len(data) - step + 1, step):
        head = data[start : start + _FRAME_HEADER]
        if sound:
            sums = _checksum(order, head[:8] + data[start + _FRAME_HEADER : start + step], sums)
            sound = head[8:16] == salts and sums == struct.unpack(">2I", head[16:24])
        if not sound and head[8:16] == salts and head[4:8] != b"\0\0\0\0":
            lost += 1
    return lost


def _checksum(order: str, data: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    """SQLite's running checksum of a -wal (file format, 4.2)."""
    one, two = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two


def copy(path: Path, directory: Path, stopped: Callable[[], bool] = lambda: False) -> tuple[Path, str]:
    """A copy of the file with its -wal or -journal in `directory`, and its fingerprint; made again while it changes.

    For files that nobody can open here, and so nobody in this process holds a lock on.
    """
    for _ in range(5):
        before = fingerprint(path)
        for end in ("", "-journal", "-wal"):
            side = _side(path, end)
            twin = directory / ("copy.db" + end)
            twin.unlink(missing_ok=True)
            if side.exists():
                _copy_file(side, twin, stopped)
        if fingerprint(path) == before:
            return directory / "copy.db", before
    says = "it cannot be read where it is, and it changed while it was copied"
    raise error("source-locked", says, str(path), "stop what writes to it, then run the same command again")


def _copy_file(source: Path, target: Path, stopped: Callable[[], bool]) -> None:
    try:
        with source.open("rb") as reading, target.open("wb") as writing:
            while chunk := reading.read(_CHUNK):
                if stopped():
                    raise error("source-stopped", "the copy was stopped", str(source), "run the same command again")
                writing.write(chunk)
    except OSError as problem:
        raise _of_system(problem, source) from problem


def tidy(path: Path, before: frozenset[str]) -> None:
    """Remove the empty -wal and the -shm that reading a WAL database left, unless someone has it open.

    A reader may not remove them. The last connection that may write does so when it closes, under SQLite's own locks;
    with no frame in the -wal it has nothing to write. An empty -wal that was there before holds nothing either: it is
    what another reader left, or one that was killed. Where the -wal has frames and came without its -shm (a copy that
    somebody made), it is the -shm alone that goes: while this connection has the file to itself, nobody has it open.
    """
    wal, shm = _side(path, "-wal"), _side(path, "-shm")
    if not wal.exists() or (wal.stat().st_size and ("-shm" in before or not shm.exists())):
        return
    frames = wal.stat().st_size > 0
    with suppress(apsw.Error, OSError):  # then they stay: not ours to remove, and they do no harm
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            if connection.readonly("main"):
                return
            if frames:
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
            connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
            if frames:
                shm.unlink()
        finally:
            connection.close(True)


def explained(problem: Exception, path: Path, where: str) -> SourceError:
    """What SQLite says about the file, as SourceError."""
    words = str(problem)
    if isinstance(problem, (apsw.BusyError, apsw.LockedError)):
        return error(
            "source-locked",
            "another process is writing to it and has it locked",
            where,
            "run it again when that is done, or stop the application",
        )
    if isinstance(problem, apsw.NotADBError):
        head, length = read_head(path)
        return _not_a_database(head, length, path)
    if isinstance(problem, (apsw.CorruptError, apsw.FormatError)):
        return _damaged(path, where, words)
    if isinstance(problem, (apsw.CantOpenError, apsw.PermissionsError, apsw.ReadOnlyError, apsw.AuthError)):
        return error(
            "source-permission",
            f"SQLite cannot open it: {words}",
            where,
            "check that this user may read the file and its directory",
        )
    if isinstance(problem, apsw.IOError):
        return error(
            "source-damaged",
            f"reading the file failed: {words}",
            where,
            "check the disk, or copy the file to another one and migrate the copy",
        )
    if isinstance(problem, (apsw.TooBigError, apsw.NoMemError, MemoryError)):
        return error("source-too-big", f"a value is too big to read: {words}", where, "leave the table out: --skip")
    return error("source-error", f"SQLite refused: {words}", where, "check the schema: sqlite3 FILE .schema")


def _damaged(path: Path, where: str, words: str) -> SourceError:
    says = f"the file is damaged: {words}"
    head, length = read_head(path)
    if len(head) >= 100 and head.startswith(MAGIC):
        page = int.from_bytes(head[16:18], "big")
        expected = int.from_bytes(head[28:32], "big") * (65536 if page == 1 else page)
        if length < expected:
            says = f"the file is cut off: its header speaks of {expected:,} bytes, and there are {length:,}"
    return error("source-damaged", says, where, RECOVER)


def _not_a_database(head: bytes, length: int, path: Path) -> SourceError:
    for offset, magic, what, try_ in _OTHERS:
        if head[offset : offset + len(magic)] == magic:
            return error("source-not-a-database", f"this is not a SQLite database but {what}", str(path), try_)
    sample = head.decode("utf-8", "ignore")
    if sample and sum(c.isprintable() or c.isspace() for c in sample) > 0.95 * len(head):
        says = "this is a text, not a SQLite database"
        return error("source-not-a-database", says, str(path), "if it is a dump: sqlite3 new.db < FILE, then new.db")
    if length % 512 == 0 and len(set(head)) > 64 * min(len(head), 512) / 512:
        return error(
            "source-encrypted",
            "this is not a SQLite database, or it is encrypted (SQLCipher, SEE or the like)",
            str(path),
            "decrypt it first; SQLCipher: ATTACH 'plain.db' AS plain KEY ''; SELECT sqlcipher_export('plain')",
        )
    return error("source-not-a-database", "this is not a SQLite database", str(path), "is this the right file?")


def _of_system(problem: OSError, path: Path) -> SourceError:
    if isinstance(problem, (FileNotFoundError, NotADirectoryError)):
        taken = "" if path.is_absolute() else f": it is taken from {Path.cwd()}"
        return error("source-missing", "there is no such file", str(path), f"check the path{taken}")
    if isinstance(problem, PermissionError):
        return error(
            "source-permission",
            "this user may not read it",
            str(path),
            f"run as the user who owns it, or: chmod a+r {path}",
        )
    says = problem.strerror or type(problem).__name__
    return error("source-error", f"the system says: {says}", str(path), "check the path and the disk")


def _side(path: Path, end: str) -> Path:
    """A file beside the database; SQLite follows links first."""
    return Path(os.path.realpath(path) + end)
