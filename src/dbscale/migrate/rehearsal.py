"""What a load into given tables and types would meet, found before anything is changed.

The rows are encoded as the load will encode them, and thrown away: what the guards refuse there they refuse here.
Of types that dbscale does not know, the server is asked whether it reads the values. The target's own NOT NULL,
unique keys and foreign keys are held against the source's rows. CHECKs alone are left to the load, which stops at the
first row that breaks one, or keeps it apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg

from dbscale.drivers.postgres import Connection
from dbscale.drivers.source import Reader, Source
from dbscale.errors import Finding, Level
from dbscale.migrate import canonical, convert, encode, pgcopy
from dbscale.migrate.cells import parse_type
from dbscale.migrate.encode import Refused, as_int
from dbscale.migrate.existing import LiveForeignKey, Match
from dbscale.migrate.model import ColumnProfile, SourceTable, TableProfile
from dbscale.migrate.profile import samples
from dbscale.plan import Conversion, Load, LoadColumn
from dbscale.schema import quote

KNOWN_TEXTS = frozenset(("text", "varchar", "char", "bpchar", "name", "citext"))
"""Types that read any text that is short enough; of others that are no family of `cells` the server is asked."""
ASKED_AT_ONCE = 5000
INPUT_IS_VALID = 160000
"""PostgreSQL 16 has pg_input_is_valid."""
REFUSED = (psycopg.DataError, psycopg.NotSupportedError, psycopg.InternalError)
"""What a server raises that does not read a value."""
_FIRST, _LAST = -(2**63), 2**63 - 1


def rehearsed(
    source: Source, connection: Connection, loads: Sequence[Load], encoding: str, noticed: Sequence[Finding]
) -> list[Finding]:
    """`noticed` with what the values of `loads` meet; of the same column, what the rehearsal counted stands alone.

    `encoding` is the source's. One pass over the tables, about as long as reading them for the load.
    """
    found: list[Finding] = []
    with source.snapshot(1) as (reader,):
        for load in loads:
            found += refusals(reader, load, encoding)
            found += unread(connection, reader, load, encoding)
    told = {each.where for each in noticed if each.code == "nul-in-text"}
    found = [each for each in found if each.where not in told]
    counted = {(each.code, each.where) for each in found}
    return [*(each for each in noticed if (each.code, each.where) not in counted), *found]


def broken(  # noqa: PLR0917
    source: Source,
    connection: Connection,
    matches: Sequence[Match],
    loads: Sequence[Load],
    profiles: Mapping[str, TableProfile],
    encoding: str,
) -> list[Finding]:
    """What of the target's own constraints the source's rows break."""
    with source.snapshot(1) as (reader,):
        rows = Rows(
            reader=reader,
            matches={each.live.name: each for each in matches},
            loads={load.target: load for load in loads},
            profiles=profiles,
            encoding=encoding,
        )
        return [*nulls(rows), *collisions(rows), *orphans(connection, rows)]


# ── values ────────────────────────────────────────────────────────────────────────────────────────────────────────


def refusals(reader: Reader, load: Load, encoding: str) -> Iterator[Finding]:
    """A finding for each column of which the load would refuse values: how many, why, and the first one's key."""
    counts: Counter[str] = Counter()
    first: dict[str, Refused] = {}
    for batch in pgcopy.encoder(load, reader, encoding).batches(reader):
        for row in batch.refused:
            counts[row.column] += 1
            first.setdefault(row.column, row)
    types = {column.source: column.conversion.to for column in load.columns}
    for column, count in counts.items():
        reason = first[column].reason
        says = f"{count} of {load.rows} values are not loaded as {types[column]}: {reason}, {_row(load, first[column])}"
        yield _misfit(load, column, says, broken=reason.startswith(convert.NOT_UTF8))


def unread(connection: Connection, reader: Reader, load: Load, encoding: str) -> Iterator[Finding]:
    """A finding for each column of a type of the server's own (an enum, an interval …) that it does not read."""
    asked = {at: column for at, column in enumerate(load.columns) if _is_foreign(column.conversion.to)}
    if not asked:
        return
    counts: Counter[int] = Counter()
    shown: dict[int, str] = {}
    waiting: dict[int, dict[str, list[str]]] = {at: {} for at in asked}

    def ask(at: int) -> None:
        for text in _invalid(connection, list(waiting[at]), asked[at].conversion.to):
            counts[at] += len(waiting[at][text])
            shown.setdefault(at, f"{text[:60]!r}, {waiting[at][text][0]}")
        waiting[at].clear()

    made = encode.Encoder(load, reader.library, reader.function_arguments, encoding=encoding)
    ends = (_FIRST, _LAST) if load.rowid else (0, 2**62)
    for row in made.stored(reader, *ends):
        for at, column in asked.items():
            value = row.values[at]
            assert not isinstance(value, str)  # noqa: S101 - text comes as its bytes
            try:
                text = convert.convert(value, encode.STORAGES[row.tags[at]], column.conversion, encoding)
            except convert.Refusal:
                continue  # one of `refusals`
            if text is not None:
                waiting[at].setdefault(text.decode(), []).append(_row(load, row))
                if len(waiting[at]) >= ASKED_AT_ONCE:
                    ask(at)
    for at in asked:
        ask(at)
    for at, count in counts.items():
        column = asked[at]
        says = f"PostgreSQL does not read {count} of {load.rows} values as {column.conversion.to}: {shown[at]}"
        yield _misfit(load, column.source, says)


def _is_foreign(spelled: str) -> bool:
    to = parse_type(spelled)
    return to.family == "text" and to.name not in KNOWN_TEXTS


def _invalid(connection: Connection, texts: list[str], type_: str) -> Iterator[str]:
    """Those of `texts` that are no input of a type."""
    if connection.info.server_version >= INPUT_IS_VALID:
        sql = "SELECT v FROM unnest(%s::text[]) AS v WHERE NOT pg_input_is_valid(v, %s)"
        # Some types raise an error all the same: xml where the server has no libxml, those of extensions.
        with suppress(*REFUSED):
            with connection.transaction():
                found = connection.execute(sql, [texts, type_]).fetchall()
            yield from (text for (text,) in found)
            return
    if texts and not _reads(connection, texts, type_):
        middle = len(texts) // 2
        if not middle:
            yield from texts
            return
        yield from _invalid(connection, texts[:middle], type_)
        yield from _invalid(connection, texts[middle:], type_)


def _reads(connection: Connection, texts: list[str], type_: str) -> bool:
    """Whether the server reads all of `texts`; the spelling of the type is its own."""
    try:
        with connection.transaction():
            connection.execute(f"SELECT count(v::{type_}) FROM unnest(%s::text[]) AS v".encode(), [texts])
    except REFUSED:
        return False
    return True


def _misfit(load: Load, column: str, says: str, *, broken: bool = False) -> Finding:
    apart = load.on_bad_row == "quarantine"
    try_ = "a type that holds them, mend them in the source, or --on-bad-row quarantine"
    if broken:
        try_ = "choose what becomes of it: --on-invalid-text replace, bytea or quarantine"
    return Finding(
        code="broken-utf8" if broken else "type-does-not-fit",
        where=f"{load.table}.{column}",
        says=says,
        try_="they go to the quarantine table" if apart else try_,
        level="data" if apart else "blocker",
    )


def _row(load: Load, row: Refused | encode.Row) -> str:
    """`the row with id = 2`; empty where nothing names the row."""
    names = zip(load.key, row.key, strict=True) if load.key else [(load.rowid, row.rowid)] if load.rowid else []
    return "the row with " + ", ".join(f"{name} = {value!r}" for name, value in names) if names else "a row"


# ── constraints ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Rows:
    """The source's rows as the load reads them."""

    reader: Reader
    matches: Mapping[str, Match]
    """By the target's table."""
    loads: Mapping[str, Load]
    """By the target's table."""
    profiles: Mapping[str, TableProfile]
    encoding: str

    def column(self, table: str, name: str) -> LoadColumn | None:
        """What is loaded into a column of the target."""
        return next((column for column in self.loads[table].columns if column.target == name), None)

    def seen(self, table: str, column: LoadColumn) -> ColumnProfile:
        return self.profiles[self.loads[table].table].columns[column.source]

    def form(self, table: str, column: LoadColumn, alias: str = "") -> str:
        """SQL in which values that the load makes equal are equal; NULL where SQLite cannot tell."""
        x = f"{alias}{quote(column.source)}"
        if _is_plain(column.conversion, self.seen(table, column)):
            return f"{x} COLLATE BINARY"
        utf8 = self.encoding == "UTF-8"
        spelled = canonical.source_sql(x, column.conversion, self.reader.library, floats=False, utf8=utf8)
        return f"CASE WHEN {spelled.test} THEN CAST({spelled.text} AS TEXT) END"

    def count(self, sql: str) -> int:
        return as_int(next(self.reader.rows(sql))[0])

    def one(self, source: SourceTable, column: str, condition: str) -> str:
        """`key: value` of a row for which a condition holds."""
        return "; ".join(samples(self.reader, source, column, condition, 1))


def _is_plain(conversion: Conversion, seen: ColumnProfile) -> bool:
    """Whether SQLite's own equality is that of the values as they are loaded."""
    if conversion.empty == "null" or seen.reals or seen.blobs or parse_type(conversion.to).name in ("char", "bpchar"):
        return False
    if seen.texts:
        return not seen.integers and conversion.texts == "keep" and conversion.invalid == "refuse"
    return conversion.integers in ("keep", "")


def nulls(rows: Rows) -> Iterator[Finding]:
    """A finding for each column that must not be NULL on the target, and is in the source."""
    for table, match in rows.matches.items():
        for name, live in match.columns:
            column = rows.column(table, live.name)
            if live.nullable or column is None or name == match.source.rowid_column:
                continue
            empty = f" OR {quote(name)}=''" if column.conversion.empty == "null" else ""
            condition = f"({quote(name)} IS NULL{empty})"
            count = rows.count(f"SELECT count(*) FROM {quote(match.source.name)} WHERE {condition}")
            if count:
                says = f"{count} rows have NULL here ({rows.one(match.source, name, condition)}), which the target"
                try_ = "drop NOT NULL there, or fill them in the source"
                yield _refused(rows.loads[table], "not-null-broken", name, f"{says} refuses", try_)


def collisions(rows: Rows) -> Iterator[Finding]:
    """A finding for each unique key of the target that values of the source occur in more than once."""
    for table, match in rows.matches.items():
        own = match.source
        for key in match.live.uniques:
            columns = [column for name in key if (column := rows.column(table, name))]
            names = tuple(column.source for column in columns)
            if len(columns) < len(key) or names == (own.rowid_column,):
                continue
            if _is_held(own, names) and all(_is_plain(c.conversion, rows.seen(table, c)) for c in columns):
                continue
            forms = [rows.form(table, column) for column in columns]
            filled = " AND ".join(f"{form} IS NOT NULL" for form in forms)
            twice = f"FROM {quote(own.name)} WHERE {filled} GROUP BY {', '.join(forms)} HAVING count(*) > 1"
            count = rows.count(f"SELECT count(*) FROM (SELECT 1 {twice})")
            if count:
                picked = ", ".join(f"max(substr(quote({quote(name)}),1,60))" for name in names)
                shown = ", ".join(map(str, next(rows.reader.rows(f"SELECT {picked} {twice} LIMIT 1"))))
                says = f"{count} values occur more than once ({shown}), and the target holds them unique"
                try_ = "mend them in the source, or drop the key there"
                yield _refused(rows.loads[table], "keys-collide", ", ".join(names), says, try_)


def _is_held(table: SourceTable, columns: tuple[str, ...]) -> bool:
    return any(set(key.columns) <= set(columns) for key in table.keys)


def orphans(connection: Connection, rows: Rows) -> Iterator[Finding]:
    """A blocker for each foreign key of the target that rows of the source break."""
    for table, match in rows.matches.items():
        for key in match.live.foreign_keys:
            columns = [column for name in key.columns if (column := rows.column(table, name))]
            if not key.valid or len(columns) < len(key.columns):
                continue
            names = ", ".join(column.source for column in columns)
            if key.parent in rows.matches and key.parent_schema == rows.loads[table].schema:
                found = _orphans_here(rows, table, key, columns)
            elif len(columns) == 1 and not _is_foreign(columns[0].conversion.to):
                found = _orphans_there(connection, rows, table, key, columns[0])
            else:
                continue
            if found[0]:
                yield Finding(
                    code="orphans",
                    where=f"{match.source.name} ({names})",
                    says=f"{found[0]} rows refer to rows of {key.parent} that do not exist ({found[1]}), and the"
                    f" target's foreign key {key.name} demands them",
                    try_="mend them in the source, or make the target's key NOT VALID: it is brought back as it was",
                    level="blocker",
                )


def _orphans_here(rows: Rows, table: str, key: LiveForeignKey, columns: Sequence[LoadColumn]) -> tuple[int, str]:
    """How many rows have no parent among the rows that are loaded, and one of them."""
    parents = [column for name in key.parent_columns if (column := rows.column(key.parent, name))]
    if len(parents) < len(columns):
        return 0, ""
    own, other = rows.matches[table].source, rows.matches[key.parent].source
    forms = [rows.form(table, column) for column in columns]
    wanted = [rows.form(key.parent, column, "p.") for column in parents]
    filled = " AND ".join(f"{form} IS NOT NULL" for form in forms)
    there = " AND ".join(f"{form} IS NOT NULL" for form in wanted)
    left = f"({', '.join(forms)})" if len(forms) > 1 else forms[0]
    condition = f"{filled} AND {left} NOT IN (SELECT {', '.join(wanted)} FROM {quote(other.name)} AS p WHERE {there})"
    count = rows.count(f"SELECT count(*) FROM {quote(own.name)} WHERE {condition}")
    return count, rows.one(own, columns[0].source, condition) if count else ""


def _orphans_there(
    connection: Connection, rows: Rows, table: str, key: LiveForeignKey, column: LoadColumn
) -> tuple[int, str]:
    """How many values have no parent in a table of the target that is not loaded, and one of them."""
    x, own = quote(column.source), rows.matches[table].source
    raw = f"CASE typeof({x}) WHEN 'text' THEN CAST({x} AS BLOB) ELSE {x} END"
    sql = f"SELECT {raw}, typeof({x}), count(*) FROM {quote(own.name)} WHERE {x} IS NOT NULL GROUP BY {x}"
    counts: Counter[str] = Counter()
    for value, storage, count in rows.reader.rows(sql):
        assert not isinstance(value, str)  # noqa: S101 - text comes as its bytes
        try:
            text = convert.convert(value, str(storage), column.conversion, rows.encoding)
        except convert.Refusal:
            continue
        if text is not None:
            counts[text.decode()] += as_int(count)
    place, parent = quote(key.parent_schema, key.parent), quote(key.parent_columns[0])
    match = f"p.{parent} = v::{column.conversion.to}"
    missing = f"WHERE NOT EXISTS (SELECT FROM {place} AS p WHERE {match})".replace("%", "%%")
    missing = f"SELECT v FROM unnest(%s::text[]) AS v {missing}"
    found = [text for (text,) in connection.execute(missing.encode(), [list(counts)])]
    return sum(counts[text] for text in found), f"{column.source} = {found[0][:60]!r}" if found else ""


def _refused(load: Load, code: str, column: str, says: str, try_: str) -> Finding:
    """What the server would refuse row by row: a blocker, unless such rows are kept apart."""
    apart = load.on_bad_row == "quarantine"
    level: Level = "data" if apart else "blocker"
    return Finding(
        code=code,
        where=f"{load.table} ({column})" if ", " in column else f"{load.table}.{column}",
        says=says,
        try_="such rows go to the quarantine table" if apart else try_,
        level=level,
    )
