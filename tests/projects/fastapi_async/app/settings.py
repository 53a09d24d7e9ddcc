"""Where the application finds its database, as its deployment says."""

import os

DATABASE_URL = os.environ.get("APP_DATABASE_URL", "postgresql+asyncpg://app:app@db.internal/app")
