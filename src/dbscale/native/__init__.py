"""dbscale inside SQLite: a loadable extension of one C file, where it was compiled; everything works without it.

`DBSCALE_PURE_SQL=1` in the environment leaves it out.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["ENTRY", "SOURCE", "extension", "file_name"]

ENTRY = "sqlite3_dbscale_init"
SOURCE = Path(__file__).with_name("dbscale_sqlite.c")


def file_name(platform: str = sys.platform) -> str:
    """What the compiled extension is called on a platform."""
    return "dbscale_sqlite" + {"win32": ".dll", "darwin": ".dylib"}.get(platform, ".so")


def extension() -> Path | None:
    """The compiled extension; None where there is none, or where the user wants none."""
    if os.environ.get("DBSCALE_PURE_SQL", "") not in ("", "0"):
        return None
    path = SOURCE.with_name(file_name())
    return path if path.exists() else None
