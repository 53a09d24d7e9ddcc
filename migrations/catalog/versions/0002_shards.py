"""Shard maps as they are in effect, and the ranges of keys that this database owns.

`shard_maps` is the same on every shard of a map. `owned_ranges` has this database's own ranges only: a client that
has an older epoch than its range's is refused, and a range that is being moved is fenced by its state. Bounds are the
key's text form: half-open, NULL without an end; `listed` holds the keys of a list map's range.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

now = sa.text("now()")


def upgrade() -> None:
    op.create_table(
        "shard_maps",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("content", pg.JSONB, nullable=False),
        sa.Column("checksum", sa.Text, nullable=False),
        sa.Column("applied_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
        sa.CheckConstraint("epoch > 0", name="shard_maps_epoch_check"),
    )
    op.create_table(
        "owned_ranges",
        sa.Column("map", sa.Text, primary_key=True),
        sa.Column("range_id", sa.Text, primary_key=True),
        sa.Column("shard", sa.Text, nullable=False),
        sa.Column("lower", sa.Text),
        sa.Column("upper", sa.Text),
        sa.Column("listed", pg.ARRAY(sa.Text)),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="owned"),
        sa.ForeignKeyConstraint(["map"], ["shard_maps.name"], name="owned_ranges_map_fkey"),
        sa.CheckConstraint("state in ('owned', 'receiving', 'fenced', 'moved')", name="owned_ranges_state_check"),
    )


def downgrade() -> None:
    op.drop_table("owned_ranges")
    op.drop_table("shard_maps")
