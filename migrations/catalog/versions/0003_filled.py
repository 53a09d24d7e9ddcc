"""Which tables a run filled, by their numbers: a name may have gone to another table since."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "filled",
        sa.Column("run_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("relation", pg.OID, nullable=False, comment="of pg_class, on this database"),
    )


def downgrade() -> None:
    op.drop_table("filled")
