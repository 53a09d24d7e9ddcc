"""libSQL's vector indexes as HNSW indexes of pgvector."""

from __future__ import annotations

from dbscale import schema as pg
from dbscale.migrate.affinity import wish
from dbscale.migrate.dialect import condition
from dbscale.migrate.draft import Draft
from dbscale.migrate.grammar import parse_expression
from dbscale.migrate.model import SourceColumn, SourceIndex, SourceTable
from dbscale.migrate.names import object_name
from dbscale.migrate.syntax import Call, Constant, Name
from dbscale.migrate.tokens import NotUnderstood
from dbscale.migrate.values import Untranslatable

MOST_DIMENSIONS = 2000
"""What an HNSW index takes of the type `vector` (HNSW_MAX_DIM, src/hnsw.h of pgvector)."""
_FUNCTION = "libsql_vector_idx"
_CLASSES = {"cosine": ("vector_cosine_ops", "<=>"), "l2": ("vector_l2_ops", "<->")}
"""The operator class for each of libSQL's metrics, and the operator that a query has to order by."""


def is_vector_index(index: SourceIndex) -> bool:
    """Whether it is libSQL's `CREATE INDEX … ON t (libsql_vector_idx(column, …))`."""
    return any(term.expression.lower().startswith(_FUNCTION) for term in index.terms)


def vector_index(draft: Draft, source: SourceTable, index: SourceIndex) -> pg.Index | None:
    """Its counterpart, with a finding that answers may differ; None, with a finding why, where there is none."""
    try:
        name, metric = _asked(index)
        column = source.column(name)
        obstacle, try_ = _obstacle(draft, column, draft.choice(source.name, column.name).type)
        predicate = condition(index.where, draft.scope(source)).sql if index.where else ""
    except Untranslatable as error:
        obstacle, try_ = error.reason, "create its counterpart in PostgreSQL by hand"
    where = f"{source.name}.{index.name}"
    if obstacle:
        says = f"the vector index is left out: {obstacle}"
        draft.note("index-left-out", where, says, try_=try_, level="behaviour", original=index.sql)
        return None
    class_, operator = _CLASSES[metric]
    draft.note(
        "vector-index",
        where,
        f"libSQL's index becomes one of pgvector's (HNSW, {class_}): both are approximate, so answers may differ",
        try_=f"ORDER BY column {operator} $1 LIMIT k in place of vector_top_k(); hnsw.ef_search makes it more exact",
        level="behaviour",
        original=index.sql,
    )
    given = draft.names.column(source.name, column.name)
    otherwise = object_name(draft.names.table(source.name), given, "idx")
    name = draft.names.index(source.name, index.name, otherwise)
    return pg.Index(name=name, terms=(pg.quote(given),), where=predicate, method="hnsw", operator_class=class_)


def _asked(index: SourceIndex) -> tuple[str, str]:
    """The column and the metric (cosine, as in libSQL, where none is named)."""
    try:
        node = parse_expression(index.terms[0].expression)
    except NotUnderstood as error:
        raise Untranslatable(f"it is not understood: {error}") from error
    match node:
        case Call(name, (Name((column,)), *settings)) if name == _FUNCTION and len(index.terms) == 1:
            pass
        case _:
            raise Untranslatable("it is not one of one column")
    texts = [each.value for each in settings if isinstance(each, Constant) and isinstance(each.value, str)]
    given = dict(text.lower().replace(" ", "").partition("=")[::2] for text in texts)
    metric = given.get("metric", "cosine")
    if metric not in _CLASSES:
        raise Untranslatable(f"pgvector has no operator class for the metric {metric}")
    return column, metric


def _obstacle(draft: Draft, column: SourceColumn, type_: str) -> tuple[str, str]:
    """Why pgvector cannot have the index, and what to do; empty where it can."""
    size = wish(column.declared).size or 0
    if size > MOST_DIMENSIONS:
        says = f"{column.name} has {size:,} dimensions, and an HNSW index takes {MOST_DIMENSIONS:,}"
        return says, "up to 4,000: CREATE INDEX … USING hnsw ((column::halfvec(n)) halfvec_cosine_ops)"
    if type_ == "real[]":
        says = f"{column.name} is real[], for the target does not have the extension vector"
        return says, "CREATE EXTENSION vector in the target, and plan again"
    if not type_.startswith("vector("):
        says = f"{column.name} is {type_} in the target, and pgvector's index is one of the type vector"
        return (
            says,
            "declare it F32_BLOB in the source, or index an expression: ((column::vector(n)) vector_cosine_ops)",
        )
    if not draft.hnsw:
        return "the target's pgvector has no HNSW index, which came with 0.5", "ALTER EXTENSION vector UPDATE"
    return "", ""
