"""make 3 indexes"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute('DROP INDEX CONCURRENTLY IF EXISTS "public"."idx_farms_location"')
        op.execute(
            """
            CREATE INDEX CONCURRENTLY "idx_farms_location" ON "public"."farms"
              ("location")
            """
        )
        op.execute(
            """
            DROP INDEX CONCURRENTLY IF EXISTS "public"."idx_predictions_crop_type"
            """
        )
        op.execute(
            """
            CREATE INDEX CONCURRENTLY "idx_predictions_crop_type" ON
              "public"."predictions" ("crop_type")
            """
        )
        op.execute(
            """
            DROP INDEX CONCURRENTLY IF EXISTS "public"."idx_transactions_timestamp"
            """
        )
        op.execute(
            """
            CREATE INDEX CONCURRENTLY "idx_transactions_timestamp" ON
              "public"."transactions" ("created_at")
            """
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(
            """
            DROP INDEX CONCURRENTLY IF EXISTS "public"."idx_transactions_timestamp"
            """
        )
        op.execute(
            """
            DROP INDEX CONCURRENTLY IF EXISTS "public"."idx_predictions_crop_type"
            """
        )
        op.execute('DROP INDEX CONCURRENTLY IF EXISTS "public"."idx_farms_location"')
