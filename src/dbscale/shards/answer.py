"""Where a key or a statement goes: what `route` answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dbscale.errors import Unroutable

Kind = Literal["single", "targeted", "scatter", "any"]
"""One shard; several, limited by a key; all of the map's; any one of them, as it reads reference tables only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    kind: Kind
    shards: tuple[str, ...]
    """Where it goes; for `any`, where it may go."""
    ranges: tuple[str, ...] = ()
    """The ranges it may touch; none for tables on no map."""
    map: str = ""
    why: str = ""
    """What decided, for people."""
    combine: str = ""
    """For several shards: why their rows cannot just be put together; empty where they can."""

    @property
    def shard(self) -> str:
        """The one shard; Unroutable where there are several."""
        if self.kind in ("single", "any"):
            return self.shards[0]
        raise Unroutable(f"it needs {len(self.shards)} shards: {', '.join(self.shards)}", try_=_SEVERAL)


_SEVERAL = "name the key in the statement, or ask the coordinator of the fdw target (docs/shards.md)"
