"""The Alembic environment of the sample application, whose revisions dbscale wrote itself.

    dbscale migrate sqlite postgres --revision migrations/marketplace
    dbscale indexes recommend postgres -o - | dbscale apply - --revision migrations/marketplace
    dbscale upgrade --migrations migrations/marketplace

The application's tables stand on servers beside dbscale's own, which are in another schema.
"""

from __future__ import annotations

import os

from alembic import context
from sqlalchemy import create_engine, pool

url = os.environ.get("DATABASE_URL", "postgresql+psycopg:///marketplace")

if context.is_offline_mode():
    context.configure(url=url, literal_binds=True, dialect_opts={"paramstyle": "named"})
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(url, poolclass=pool.NullPool).connect() as connection:
        context.configure(connection=connection, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()
