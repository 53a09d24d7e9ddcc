"""analyses are read by account, newest first; the check of 0002 holds for every row"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("ALTER TABLE accounts VALIDATE CONSTRAINT ck_accounts_balance_positive")
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_analyses_account_created")
        op.execute("CREATE INDEX CONCURRENTLY ix_analyses_account_created ON analyses (account_id, created_at)")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_analyses_account_created")
