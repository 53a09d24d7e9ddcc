"""WITH that names itself: which queries of SQLite's kind PostgreSQL's WITH RECURSIVE answers with the same rows."""

from __future__ import annotations

from dbscale.migrate.syntax import Select, Source
from dbscale.migrate.values import Value, ascii_lower

_CASTS = {"int": "bigint", "float": "double precision", "bool": "boolean", "null": "text"}


def reads_itself(name: str, query: Select) -> bool:
    """True when a SELECT of `query` has `name` in its FROM."""
    wanted = ascii_lower(name)
    return any(_is(source, wanted) for core in query.cores for source in core.sources)


def _is(source: Source, wanted: str) -> bool:
    return source.select is None and not source.qualified and ascii_lower(source.name) == wanted


def by_row(name: str, query: Select) -> bool:
    """True when `query` names itself once, in the FROM of its last SELECT, where no outer join may leave it out.

    ORDER BY and LIMIT would tell SQLite which row of its queue comes next, and when to stop: PostgreSQL has neither.
    """
    wanted = ascii_lower(name)
    places = [
        (core, place)
        for core, each in enumerate(query.cores)
        for place, source in enumerate(each.sources)
        if _is(source, wanted)
    ]
    if query.named or query.order or query.limit is not None or query.offset is not None:
        return False
    if len(places) != 1 or len(query.cores) < 2 or query.operators[-1] not in ("UNION", "UNION ALL"):
        return False
    ((core, place),) = places
    sources = query.cores[core].sources
    sides = {source.join for source in sources}
    return core == len(query.cores) - 1 and sources[place].join != "LEFT" and not sides & {"RIGHT", "FULL"}


def cast(sql: str, kind: str) -> str:
    """`sql` with the type written out: PostgreSQL wants the first SELECT to have exactly that of all."""
    if kind == "text":
        return f'({sql})::text COLLATE "default"'
    return f"({sql})::{_CASTS.get(kind, kind)}"


def shape(value: Value) -> tuple[object, ...]:
    """What decides how a column is translated where it is used."""
    return (value.kind, value.affinity, value.collation, value.narrow, value.real, value.mixed, value.standard,
            value.classes, value.conversion)  # fmt: skip
