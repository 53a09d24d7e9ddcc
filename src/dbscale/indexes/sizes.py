"""How large an index would be, from what the catalog says of its columns."""

from __future__ import annotations

import math

from dbscale.indexes.candidates import Candidate
from dbscale.indexes.facts import BLOCK, Table
from dbscale.schema import quote


def share(candidate: Candidate, table: Table) -> float:
    """The share of a table's rows that an index holds."""
    if not candidate.where:
        return 1.0
    for column in table.columns:
        if f"{quote(column.name)}" in candidate.where:
            value = candidate.where.partition(" = ")[2].strip("'")
            text = value or ("f" if candidate.where.startswith("NOT ") else "t")
            return dict(zip(column.common, column.frequencies, strict=False)).get(text, 0.1)
    return 0.1


def estimate(candidate: Candidate, table: Table) -> int:
    """About how many bytes an index takes.

    A B-tree entry is 8 bytes, its columns aligned to 8, and a line pointer of 4; leaves are 90 % full. Rows of equal
    keys share an entry and add 6 bytes each (deduplication), which it takes where an entry's rows are more than one.
    """
    columns = [table.column(name) for name in (*candidate.columns, *candidate.include)]
    width = sum((column.width or 8) for column in columns if column)
    rows = table.rows * share(candidate, table)
    if candidate.method == "brin":
        return max(3, int(table.pages / 128 * (2 * width + 16) / BLOCK) + 3) * BLOCK
    if candidate.method == "gin":
        return int(max(BLOCK, rows * (width * 1.5 + 6)))
    entry = 8 + 8 * math.ceil(max(width, 1) / 8) + 4
    distinct = 1.0
    for column in columns:
        distinct *= (column.values(table.rows) or table.rows) if column else 1.0
    distinct = max(1.0, min(distinct, rows))
    if rows > distinct and not candidate.include:
        # Posting lists are cut at about a third of a page.
        lists = max(distinct, rows * 6 / 2700)
        total = lists * entry + rows * 6
    else:
        total = rows * entry
    return int(max(2, math.ceil(total / (0.9 * (BLOCK - 40)) * 1.01) + 1) * BLOCK)
