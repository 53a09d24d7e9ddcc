"""dbscale: from SQLite or Turso to PostgreSQL, and on to replicas and shards, one proven step at a time.

An application needs one name: `dbscale.open()`, which gives the cluster that dbscale.toml describes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbscale.cluster.cluster import Cluster, open  # noqa: A004 - dbscale.open()
    from dbscale.cluster.token import Token

__version__ = "0.1.0"
__all__ = ["Cluster", "Token", "__version__", "open"]


def __getattr__(name: str) -> Any:
    """`open` and what it returns come with SQLAlchemy: imported when they are asked for, so that the rest is light."""
    if name in ("Cluster", "open"):
        from dbscale.cluster import cluster

        return getattr(cluster, name)
    if name == "Token":
        from dbscale.cluster.token import Token

        return Token
    raise AttributeError(f"module 'dbscale' has no attribute {name!r}")
