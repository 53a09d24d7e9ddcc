"""UNION and the like, ORDER BY and LIMIT."""

from __future__ import annotations

from dataclasses import replace

from dbscale.migrate import recursion
from dbscale.migrate.dialect import Scope, compile_node
from dbscale.migrate.grouping import Grouping, only_plain
from dbscale.migrate.relations import Compiled, exact
from dbscale.migrate.syntax import Constant, Name, OrderTerm, Select
from dbscale.migrate.values import Kind, Untranslatable, Value, ascii_lower, unify
from dbscale.migrate.windows import ordered

_TYPES = {"int": "bigint", "float": "double precision", "numeric": "numeric", "text": "text", "bool": "boolean",
          "null": "text"}  # fmt: skip


def union(
    cores: list[Compiled], operators: tuple[str, ...], *, cast: bool = False
) -> tuple[str, list[tuple[str, Value]]]:
    """The cores with UNION and the like between them, from left to right, their columns of one type each.

    `cast` writes that type out in every core.
    """
    if len({len(core.columns) for core in cores}) > 1:
        raise Untranslatable("the parts of a UNION have different numbers of columns")
    columns: list[tuple[str, Value]] = []
    sqls: list[list[str]] = [[] for _ in cores]
    for place, (name, _) in enumerate(cores[0].columns):
        values = [core.columns[place][1] for core in cores]
        if set(operators) - {"UNION ALL"}:
            only_plain(values, "UNION")
        kind, texts = unify(values)
        for own, text in zip(sqls, texts, strict=True):
            if cast:
                own.append(recursion.cast(text, kind))
            else:
                own.append(f"NULL::{_TYPES.get(kind, 'text')}" if text.startswith("NULL") and kind in _TYPES else text)
        columns.append((name, common(values, kind)))
    parts = [core.sql(texts) for core, texts in zip(cores, sqls, strict=True)]
    body = parts[0]
    for place, (operator, part) in enumerate(zip(operators, parts[1:], strict=True)):
        body = f"({body}) {operator} {part}" if place else f"{body} {operator} {part}"
    return body, columns


def common(values: list[Value], kind: Kind) -> Value:
    """What is known of a column whose values come from several SELECTs; collation and affinity are the first's."""
    first, *others = values
    if not others:
        return replace(first, kind=kind)
    filled = [value for value in values if value.kind != "null"]
    alike = {value.classes for value in filled}
    conversions = {value.conversion for value in filled}
    return replace(
        first,
        kind=kind,
        constant=None,
        narrow=all(value.narrow for value in filled),
        real=all(value.real for value in filled),
        mixed=any(value.mixed for value in values),
        standard=all(value.standard for value in filled),
        always=False,
        classes=alike.pop() if len(alike) == 1 else frozenset(),
        conversion=conversions.pop() if len(conversions) == 1 else None,
    )


def ordering(
    terms: tuple[OrderTerm, ...], columns: list[tuple[str, Value]], scope: Scope, grouping: Grouping | None
) -> tuple[str, frozenset[str]]:
    """ORDER BY, and the SQL of the values that it orders by."""
    parts: list[str] = []
    found: set[str] = set()
    for term in terms:
        node = term.operand
        alias = ascii_lower(node.parts[0]) if isinstance(node, Name) and len(node.parts) == 1 else None
        named = [value for name, value in columns if alias is not None and ascii_lower(name) == alias]
        if isinstance(node, Constant) and isinstance(node.value, int) and 1 <= node.value <= len(columns):
            value = columns[node.value - 1][1]
        elif named:
            value = named[0]
        else:
            if grouping is not None:
                grouping.check(node)
            value = compile_node(node, scope)
        if value.constant is not None:
            continue  # it orders nothing, and PostgreSQL would take a number for a column's place
        parts.append(ordered(term, value))
        if exact(value) and not value.mixed:
            found.add(value.sql)
    return f" ORDER BY {', '.join(parts)}" if parts else "", frozenset(found)


def limits(select: Select, *, first: bool) -> str:
    """LIMIT and OFFSET of literal numbers; a negative limit is none. `first`: one row, whatever it says."""
    text = ""
    limit = select.limit
    if first and not (isinstance(limit, Constant) and limit.value == 0):
        limit = Constant(1) if limit is None or isinstance(limit, Constant) else limit
    for word, node, written in (("LIMIT", limit, select.limit), ("OFFSET", select.offset, select.offset)):
        if node is None:
            continue
        if not isinstance(node, Constant) or not isinstance(node.value, int):
            raise Untranslatable(f"{word} that is not a literal")
        if written is not None and not select.order:
            raise Untranslatable(f"{word} without ORDER BY takes whichever rows come first")
        if node.value >= 0:
            text += f" {word} {node.value}"
    return text
