"""The Alembic environment of dbscale's own tables.

`dbscale.catalog` runs it in offline mode, for the SQL, and executes that on its own connection in one transaction.
The schema's name is a setting (`--state-schema`), so revisions name no schema: the search path leads to it.
"""

from __future__ import annotations

from alembic import context

context.configure(
    dialect_name="postgresql",
    dialect_opts={"paramstyle": "named"},
    literal_binds=True,
    transactional_ddl=False,
)
context.run_migrations()
