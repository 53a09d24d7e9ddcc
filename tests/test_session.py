"""The session in the README is run as it is printed, and what it prints is compared."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dbscale.drivers import embedded, programs

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def commands() -> list[tuple[str, str]]:
    """Each command of the README's console blocks, and what is printed below it."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            found.append((command, printed))
    return found


def settled(text: str) -> list[str]:
    """Lines with what differs from run to run taken out: durations, paces, sizes, ports, ids, widths of columns."""
    text = re.sub(r"\d+(\.\d+)? (s|ms)\b|\d[\d ]* rows/s", "<pace>", text)
    # The bytes copied depend on the form of COPY, binary or text, which depends on there being a C compiler.
    text = re.sub(r"\d+(\.\d+)? (B|kB|MB)\b", "<size>", text)
    text = re.sub(r"127\.0\.0\.1:\d+", "<server>", text)
    text = re.sub(r"\b[0-9a-f]{12}\b", "<id>", re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "<time>", text))
    # Tables are copied side by side, so which is done first differs too.
    return sorted(re.sub(r" {2,}", "  ", line).rstrip() for line in text.splitlines() if line.strip())


def played(command: str, folder: Path, environment: dict[str, str]) -> tuple[str, int]:
    """Run one line of the session as a shell would; both streams, as a terminal shows them, and the status."""
    result = subprocess.run(
        ["bash", "-c", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
        cwd=folder,
        env=environment,
    )
    return result.stdout, result.returncode


@pytest.fixture
def environment(server_root: Path, tmp_path: Path) -> dict[str, str]:
    """An environment in which `dbscale` and `python` are this one's, with embedded servers of its own."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name, line in (("dbscale", "-m dbscale.cli"), ("python", "")):
        script = bin_ / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {line} "$@"\n')
        script.chmod(0o755)
    root = server_root / "session"
    return {**os.environ, "PATH": f"{bin_}:{programs.find()}:{os.environ['PATH']}", "DBSCALE_DATA": str(root)}


def test_the_readme_s_session(tmp_path: Path, environment: dict[str, str]) -> None:
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "dbscale.toml").write_text((ROOT / "dbscale.toml").read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    session = commands()
    assert len(session) >= 5
    try:
        for command, printed in session:
            shown, _ = played(command, folder, environment)
            assert settled(shown) == settled(printed), command
    finally:
        for server in embedded.status(root=Path(environment["DBSCALE_DATA"])):
            embedded.down(server.name, root=Path(environment["DBSCALE_DATA"]))
