"""Compiles the SQLite extension (src/dbscale/native) where there is a C compiler; else the package is pure Python.

`DBSCALE_PURE=1` asks for the pure package. The compiler is `$CC`, or else cc, gcc or clang; SQLite's headers are not
needed. An editable install gets the extension in place.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging import tags

NATIVE = Path("src/dbscale/native")
OLDEST_GLIBC = 17
"""manylinux_2_17 is the oldest that installers are asked to know."""


class CustomBuildHook(BuildHookInterface[Any]):
    """Adds the compiled extension to wheels, and says on which machines they then run."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; called by hatchling before it makes a wheel, `version` is `standard` or `editable`."""
        if os.environ.get("DBSCALE_PURE", "") not in ("", "0"):
            return
        library = compiled(Path(self.root))
        if library is None:
            self.app.display_info("no C compiler: the package is pure Python, and SQL does all of the work")
        elif version == "standard":
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform_of(library)}"
            build_data["force_include"][str(library)] = f"dbscale/native/{library.name}"


def compiled(root: Path) -> Path | None:
    """The extension of the source tree at `root`, compiled anew if made from another source; None without compiler."""
    source = root / NATIVE / "dbscale_sqlite.c"
    library = source.with_suffix({"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so"))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:32]  # dbscale.native asks for it before it is loaded
    if library.exists() and f"dbscale source {digest}".encode() in library.read_bytes():
        return library
    compiler = next((name for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name and found(name)), None)
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        # made aside and moved: a process that has the old one open keeps it
        made = Path(folder) / library.name
        flags = ["-std=c99", "-O2", "-shared", *([] if sys.platform == "win32" else ["-fPIC"])]
        command = [*shlex.split(compiler), *flags, f'-DDBSCALE_SOURCE="{digest}"', "-o", str(made), str(source)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            return None
        made.replace(library)
    return library


def found(command: str) -> bool:
    """Whether a compiler's command line begins with a program that is there."""
    return shutil.which(shlex.split(command)[0]) is not None


def platform_of(library: Path) -> str:
    """The platform tag of a wheel with this library: on Linux with glibc, by the versions that its symbols name."""
    first = next(iter(tags.platform_tags()))
    minors = [int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", library.read_bytes())]
    if not first.startswith(("manylinux", "linux")) or not minors:
        return first
    return f"manylinux_2_{max(OLDEST_GLIBC, *minors)}_{platform.machine()}"
