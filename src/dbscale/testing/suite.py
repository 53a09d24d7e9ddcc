"""Every check, in the order in which they are run; a name in `dbscale_skip` leaves one out."""

from __future__ import annotations

from dbscale.testing import checks, live

CHECKS: tuple[checks.Check, ...] = (
    checks.single_head,
    checks.up_from_empty,
    checks.up_down_up,
    checks.models_match,
    checks.seeded_data_survives,
    checks.killed_anywhere,
    checks.old_application,
    checks.renders_offline,
    checks.lint,
    live.tables_stay_usable,
    live.writers_go_on,
    live.replicas_go_on,
    checks.nothing_invalid,
    checks.sqlite_migrates,
    checks.shard_maps_fit,
)
