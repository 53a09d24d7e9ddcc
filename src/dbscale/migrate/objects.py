"""Views, triggers and virtual tables: what of them can follow, and findings with the original for the rest."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from dbscale import schema as pg
from dbscale.migrate.draft import Draft


def views(draft: Draft, tables: Mapping[str, pg.Table]) -> tuple[pg.View, ...]:
    return ()


def left_out(draft: Draft, only: Collection[str], skip: Collection[str]) -> None:
    return None
