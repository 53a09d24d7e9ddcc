"""Which values a libSQL server does not give out, since they are above its limit: table, column, key and size."""

from __future__ import annotations

from collections.abc import Iterator

from dbscale.drivers.source import Reader, TooLarge
from dbscale.errors import SourceError
from dbscale.migrate.model import SourceColumn, SourceTable
from dbscale.schema import quote

_NAMED = 5
"""Values of a column that are named."""


def named(reader: Reader, table: SourceTable, error: TooLarge) -> SourceError:
    """The error for a table of which the source did not give out all, with the values for which it did not."""
    keys = table.primary_key or ((table.rowid_name,) if table.rowid_name else ())
    found = [(column.name, key, size) for column in table.columns for key, size in _above(reader, table, column, keys)]
    listed = "; ".join(f"{column}: {size:,} bytes in the row with {key}" for column, key, size in found)
    columns = list(dict.fromkeys(column for column, _, _ in found))
    return SourceError(
        f"the source does not give out some values: {error.says}" + (f" ({listed})" if listed else ""),
        where=f"{table.name}.{columns[0]}" if len(columns) == 1 else table.name,
        try_=f"--copy-first, which has no such limit; or a copy of the database's file; or --skip {table.name}",
        see="docs/errors.md#source-value-too-large",
    )


def _above(
    reader: Reader, table: SourceTable, column: SourceColumn, keys: tuple[str, ...]
) -> Iterator[tuple[str, int]]:
    """Key and bytes of the largest values of a column, as long as they cannot be read: octet_length reads none."""
    x, name = quote(column.name), quote(table.name)
    terms = [quote(key) if key in table.primary_key else key for key in keys]
    if not terms:
        return
    order = f"ORDER BY size DESC LIMIT {_NAMED}"
    try:
        rows = list(reader.rows(f"SELECT octet_length({x}) AS size, {', '.join(terms)} FROM {name} {order}"))
    except SourceError:  # a key that is above the limit itself, or a SQLite before 3.43
        return
    one_row = " AND ".join(f"{term} IS ?" for term in terms)
    for size, *key in rows:
        try:
            list(reader.rows(f"SELECT substr({x}, 1, 1) FROM {name} WHERE {one_row}", key))
        except TooLarge:
            shown = ", ".join(f"{key_name} = {value!r}" for key_name, value in zip(keys, key, strict=True))
            yield shown, int(size) if isinstance(size, int) else 0
        else:
            return
