"""scripts/marketplace.py: the same rows each time, and what the sample promises to hold."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from dbscale.cli import run
from fix_marketplace import GENERATOR

ROOT = Path(__file__).parent.parent


def test_same_size_and_seed_give_the_same_file(tmp_path: Path, marketplace: Path) -> None:
    again = tmp_path / "again.db"
    subprocess.run([sys.executable, str(GENERATOR), str(again), "--transactions", "2000"], check=True)
    assert again.read_bytes() == marketplace.read_bytes()


def test_another_seed_gives_other_rows(tmp_path: Path, marketplace: Path) -> None:
    other = tmp_path / "other.db"
    subprocess.run([sys.executable, str(GENERATOR), str(other), "--transactions", "2000", "--seed", "2"], check=True)
    assert other.read_bytes() != marketplace.read_bytes()


def test_does_not_replace_a_file(tmp_path: Path) -> None:
    file = tmp_path / "kept.db"
    file.write_text("mine")
    done = subprocess.run([sys.executable, str(GENERATOR), str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "--force" in done.stderr
    assert file.read_text() == "mine"


def test_holds_what_it_promises(marketplace: Path) -> None:
    database = sqlite3.connect(marketplace)

    def one(sql: str) -> object:
        return database.execute(sql).fetchone()[0]

    assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    assert one("PRAGMA integrity_check") == "ok"
    for table in ("users", "transactions"):
        assert one(f"SELECT seq > (SELECT max(id) FROM {table}) FROM sqlite_sequence WHERE name = '{table}'")
    assert one("SELECT count(DISTINCT typeof(unit_price)) FROM transactions") == 2, "prices are integers and reals"
    assert one("SELECT max(receipt) > 1 << 53 FROM transactions")
    assert one("SELECT count(*) FROM transactions WHERE note LIKE '%' || char(10) || '%'")
    assert one("SELECT count(*) FROM transactions WHERE note LIKE '%' || char(9) || '%'")
    assert one("SELECT count(*) FROM transactions WHERE note LIKE '%\\%'")
    assert one("SELECT count(*) FROM transactions WHERE note = ''")
    assert one("SELECT count(*) FROM users WHERE full_name GLOB '*[가-힣]*'")
    assert one("SELECT count(*) FROM users WHERE referred_by IS NOT NULL")
    assert one("SELECT count(*) FROM farm_yields") == one("SELECT count(*) FROM farms")
    assert one("SELECT sum(json_valid(metadata)) = count(metadata) FROM transactions")
    assert one("SELECT count(*) FROM users WHERE instr(avatar, x'00')")


def test_leaves_out_the_indexes_that_are_to_be_recommended(marketplace: Path) -> None:
    database = sqlite3.connect(marketplace)
    first = {
        (table, column)
        for (table,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        for (index,) in database.execute("SELECT name FROM pragma_index_list(?)", (table,))
        for (column,) in database.execute("SELECT name FROM pragma_index_info(?) WHERE seqno = 0", (index,))
    }
    wanted = {("farms", "location"), ("transactions", "created_at"), ("predictions", "crop_type")}
    assert not first & {*wanted, ("analysis_history", "user_id")}


def test_the_shipped_configuration_maps_and_sample_fit(
    marketplace: Path, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """dbscale.toml as it is, but for the server: migrate, then partition the transactions by the map of time."""
    shipped = (ROOT / "dbscale.toml").read_text(encoding="utf-8")
    assert shipped.count('url = "embedded" ') == 1
    folder = marketplace.parent
    (folder / "dbscale.toml").write_text(shipped.replace('url = "embedded" ', f'url = "{database}" '))
    (folder / "shard_maps").symlink_to(ROOT / "shard_maps")
    monkeypatch.chdir(folder)
    assert run(["migrate", "sqlite", "postgres"]) == 0
    assert run(["shards", "apply", "transactions", "--dry-run"]) == 0, capsys.readouterr().err
    assert run(["shards", "apply", "transactions", "--yes"]) == 0, capsys.readouterr().err
    assert run(["shards", "check", "transactions"]) == 0
    capsys.readouterr()
    assert run(["verify", "sqlite", "postgres", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert all(table["same"] for table in report["tables"])
    assert [finding["code"] for finding in report["findings"]] == ["verify-key-wider"]  # id is (id, created_at) now
    assert run(["shards", "apply", "transactions", "--dry-run"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert run(["indexes", "apply", "--dry-run"]) == 0
