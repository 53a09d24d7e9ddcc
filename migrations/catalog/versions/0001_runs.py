"""Runs, their steps, the checkpoints of loads, and rows that were kept apart.

`runs` has its rows on the database a plan calls home; checkpoints and quarantine lie beside the rows they speak of,
on whichever database that is, so `run_id` is not a foreign key.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

now = sa.text("now()")


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("plan_id", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("plan", sa.Text, nullable=False, comment="the JSON document, to the letter: its hash is plan_id"),
        sa.Column("source", sa.Text, nullable=False, server_default=""),
        sa.Column("fingerprint", sa.Text, nullable=False, server_default=""),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("holder_pid", sa.Integer, comment="the backend that the run lives by"),
        sa.Column("holder_start", sa.DateTime(timezone=True)),
        sa.Column("version", sa.Text, nullable=False, comment="of dbscale"),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint("state in ('running', 'done', 'failed', 'interrupted', 'undone')", name="runs_state_check"),
    )
    op.create_table(
        "steps",
        sa.Column("run_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
    )
    op.create_table(
        "loads",
        sa.Column("run_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("part", sa.Text, primary_key=True, comment="the range of the source's keys, as text"),
        sa.Column("loaded", sa.BigInteger, nullable=False),
        sa.Column("quarantined", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
    )
    op.create_table(
        "quarantine",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("run_id", sa.BigInteger, nullable=False, index=True),
        sa.Column("table_name", sa.Text, nullable=False, comment="as the source calls it"),
        sa.Column("row_key", pg.JSONB, nullable=False, comment="the source's primary key, or its rowid"),
        sa.Column("column_name", sa.Text),
        sa.Column("stored_as", sa.Text, comment="integer, real, text or blob"),
        sa.Column("raw", sa.LargeBinary, comment="the bytes as stored; a number's digits"),
        sa.Column("reason", sa.Text, nullable=False),
    )


def downgrade() -> None:
    for table in ("quarantine", "loads", "steps", "runs"):
        op.drop_table(table)
