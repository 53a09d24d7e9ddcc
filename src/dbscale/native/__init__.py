"""dbscale inside SQLite: a loadable extension of one C file, where it was compiled; everything works without it.

`DBSCALE_PURE_SQL=1` in the environment leaves it out. So is one that was compiled from another C file than the one that
is here: it would calculate by the rules of another version.
"""

from __future__ import annotations

import hashlib
import os
import sys
from functools import cache
from pathlib import Path

__all__ = ["ENTRY", "SOURCE", "extension", "file_name", "is_stale"]

ENTRY = "sqlite3_dbscale_init"
SOURCE = Path(__file__).with_name("dbscale_sqlite.c")


def file_name(platform: str = sys.platform) -> str:
    """What the compiled extension is called on a platform."""
    return "dbscale_sqlite" + {"win32": ".dll", "darwin": ".dylib"}.get(platform, ".so")


def extension() -> Path | None:
    """The compiled extension; None where there is none, where it is stale, or where the user wants none."""
    if os.environ.get("DBSCALE_PURE_SQL", "") not in ("", "0"):
        return None
    path = SOURCE.with_name(file_name())
    return path if path.exists() and not is_stale() else None


def is_stale() -> bool:
    """Whether there is a compiled extension, but of another C file."""
    path = SOURCE.with_name(file_name())
    return path.exists() and not _made_from(path, path.stat().st_mtime_ns, SOURCE, SOURCE.stat().st_mtime_ns)


@cache
def _made_from(path: Path, _written: int, source: Path, _changed: int) -> bool:
    """Whether the compiler was given this source's digest (hatch_build.py)."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:32]
    return f"dbscale source {digest}".encode() in path.read_bytes()
