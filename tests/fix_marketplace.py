"""The sample marketplace as a SQLite file, made once a session."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GENERATOR = Path(__file__).parent.parent / "scripts" / "marketplace.py"


@pytest.fixture(scope="session")
def marketplace_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("marketplace") / "marketplace.db"
    subprocess.run([sys.executable, str(GENERATOR), str(file), "--transactions", "2000"], check=True)
    return file


@pytest.fixture
def marketplace(marketplace_made: Path, tmp_path: Path) -> Path:
    """A copy of the sample database with 2,000 transactions, for this test to do with as it likes."""
    return Path(shutil.copy(marketplace_made, tmp_path / "marketplace.db"))
