"""dbscale's own tables: the script that makes them anew is what Alembic prints."""

from __future__ import annotations

import re

from dbscale import catalog


def plain(script: str) -> str:
    """A script without its comments, each run of white space one space."""
    return re.sub(r"\s+", " ", re.sub(r"^--.*$", "", script, flags=re.MULTILINE)).strip()


def test_the_script_for_new_tables_is_what_alembic_prints() -> None:
    script = (catalog.folder() / "new.sql").read_text(encoding="utf-8")
    assert script.startswith(f"-- revision {catalog.head()}:")
    assert plain(script) == plain(catalog.printed_sql(""))
    assert catalog.upgrade_sql("") == script


def test_older_tables_are_brought_up_by_alembic() -> None:
    newest = catalog.upgrade_sql("0001")
    assert "CREATE TABLE shard_maps" in newest
    assert "CREATE TABLE runs" not in newest
