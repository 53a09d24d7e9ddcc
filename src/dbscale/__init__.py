"""dbscale: from SQLite or Turso to PostgreSQL, and on to replicas and shards, one proven step at a time."""

__version__ = "0.1.0"
__all__ = ["__version__"]
