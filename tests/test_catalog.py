"""dbscale's own tables: the script that makes them anew is what Alembic prints."""

from __future__ import annotations

import re

import psycopg
import pytest

from dbscale import catalog
from dbscale.drivers import postgres


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


def test_only_this_catalog_s_sessions_are_ended(database: str) -> None:
    """Each schema of dbscale's tables has a run 1; a name beyond ASCII, or a long one, is as good as any."""
    schema = "état_" * 12
    with postgres.connect(database) as connection:
        for mine, other in ((catalog.DEFAULT_SCHEMA, schema), (schema, catalog.DEFAULT_SCHEMA)):
            with (
                postgres.connect(database, name=catalog.worker_name(mine, 1)) as left_behind,
                postgres.connect(database, name=catalog.worker_name(other, 1)) as at_work,
            ):
                assert catalog.clear_out(connection, mine, 1)
                assert at_work.execute("SELECT 1").fetchone() == (1,)
                with pytest.raises(psycopg.OperationalError):
                    left_behind.execute("SELECT 1")
