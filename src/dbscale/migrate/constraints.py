"""A source's table as PostgreSQL's: columns, keys, indexes, foreign keys and checks, with what could not follow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from dbscale import schema as pg
from dbscale.migrate import defaults, json_values, vectors
from dbscale.migrate.affinity import affinity
from dbscale.migrate.dialect import Scope, compile_node, condition, fitted, translate
from dbscale.migrate.draft import Draft
from dbscale.migrate.facts import MOST_COLUMNS, MOST_KEYS, PAGE_ROW
from dbscale.migrate.grammar import names_in, parse_expression
from dbscale.migrate.model import (
    Choice,
    SourceColumn,
    SourceIndex,
    SourceKey,
    SourceTable,
    SourceTerm,
)
from dbscale.migrate.names import object_name
from dbscale.migrate.syntax import Node
from dbscale.migrate.tokens import NotUnderstood
from dbscale.migrate.values import Untranslatable, Value, ascii_lower, by_collation, kind_of
from dbscale.plan import LoadColumn

WIDEST_KEY = 2704
"""Bytes that a B-tree's entry may take: a third of a page (BTMaxItemSize, src/include/access/nbtree.h)."""


def table(draft: Draft, source: SourceTable) -> pg.Table:
    """The table without its foreign keys, which need all tables to be there."""
    _limits(draft, source)
    _collations(draft, source)
    columns = tuple(_columns(draft, source))
    keys, key_indexes = _keys(draft, source)
    keys += tuple(_keys_for_children(draft, source))
    indexes = tuple(_indexes(draft, source))
    checks = tuple(_checks(draft, source))
    return pg.Table(
        name=draft.names.table(source.name),
        columns=columns,
        keys=keys,
        indexes=(*key_indexes, *indexes),
        checks=checks,
    )


def _limits(draft: Draft, source: SourceTable) -> None:
    """Blockers for tables that PostgreSQL cannot hold, and a finding for NOT NULL's ON CONFLICT."""
    if len(source.columns) > MOST_COLUMNS:
        draft.note(
            "too-many-columns",
            source.name,
            f"it has {len(source.columns)} columns, and PostgreSQL takes {MOST_COLUMNS}",
            try_="split it into two tables in SQLite, or leave it out with --skip",
            level="blocker",
        )
    wide = draft.facts.wide_rows.get(source.name, 0)
    if wide:
        draft.note(
            "row-too-wide",
            source.name,
            f"{wide} rows take more than the {PAGE_ROW} bytes of a page even with all long values stored aside",
            try_="split it into two tables in SQLite, or leave it out with --skip",
            level="blocker",
        )
    for column in source.columns:
        if column.not_null_conflict:
            draft.note(
                "on-conflict",
                f"{source.name}.{column.name}",
                f"NOT NULL ON CONFLICT {column.not_null_conflict} has no counterpart: PostgreSQL raises an error",
                try_="see to it in the statements that rely on it",
                level="behaviour",
                original=source.sql,
            )


# -- columns ---------------------------------------------------------------------------------------------------


def _columns(draft: Draft, source: SourceTable) -> Iterator[pg.Column]:
    load = []
    generated = _generated(draft, source)
    for column in source.columns:
        choice = draft.choice(source.name, column.name)
        name = draft.names.column(source.name, column.name)
        if column.name not in generated:
            load.append(LoadColumn(source=column.name, target=name, conversion=choice.conversion))
        if column.name == source.rowid_column and source.name in draft.facts.exhausted:
            draft.note(
                "identity-exhausted",
                f"{source.name}.{column.name}",
                "it holds the largest number there is, after which SQLite draws lots and PostgreSQL refuses new rows",
                try_="give that row another number, or set the sequence to a gap: ALTER TABLE … RESTART WITH",
                level="behaviour",
            )
        identity = bool(column.name) and column.name == source.rowid_column and kind_of(choice.type) == "int"
        yield pg.Column(
            name=name,
            type=choice.type,
            nullable=not _not_null(draft, source, column),
            default="" if identity or column.generated else _default(draft, source, column, choice),
            generated=generated.get(column.name, ""),
            identity=identity,
            collation=draft.collation if kind_of(choice.type) == "text" else "",
        )
    draft.load[source.name] = tuple(load)


def _collations(draft: Draft, source: SourceTable) -> None:
    """One finding for the columns of text whose own collation takes different texts for equal."""
    found = [
        column
        for column in source.columns
        if column.collation in ("NOCASE", "RTRIM") and kind_of(draft.choice(source.name, column.name).type) == "text"
    ]
    if not found:
        return
    names = ", ".join(f"{column.name} ({column.collation})" for column in found)
    tells = {"NOCASE": "tell upper from lower case", "RTRIM": "heed spaces at the end"}
    differs = " and ".join(tells[each] for each in tells if any(column.collation == each for column in found))
    name = draft.names.column(source.name, found[0].name)
    form = by_collation(Value(sql=pg.quote(name), kind="text", atom=True), found[0].collation)
    draft.note(
        "collation-left-out",
        source.name,
        f"{names}: in PostgreSQL their comparisons, order, GROUP BY and DISTINCT {differs}",
        try_=f"compare {form} on both sides, or give the column the type citext or an ICU collation with"
        " deterministic = false (PostgreSQL's CREATE COLLATION)",
        level="behaviour",
        original=source.sql,
    )


def _default(draft: Draft, source: SourceTable, column: SourceColumn, choice: Choice) -> str:
    where = f"{source.name}.{column.name}"
    try:
        sql, remark = defaults.translate(column, choice, strict=source.strict)
    except Untranslatable as error:
        draft.note(
            "default-left-out",
            where,
            f"the default is left out: {error.reason}",
            try_="name the value in INSERT, or set a default in PostgreSQL by hand",
            level="behaviour",
            original=column.default or "",
        )
        return ""
    if remark:
        draft.note("default-local-time", where, remark, level="behaviour", original=column.default or "")
    return sql


def _not_null(draft: Draft, source: SourceTable, column: SourceColumn) -> bool:
    """NOT NULL where the source says so and keeps to it; a primary key brings its own."""
    profile = draft.profile(source.name, column.name)
    if column.not_null and profile is not None and profile.nulls:
        draft.note(
            "not-null-broken",
            f"{source.name}.{column.name}",
            f"{profile.nulls} rows hold NULL though the column is NOT NULL, so PostgreSQL's column may be NULL",
            try_="give those rows a value in SQLite and migrate again",
            level="behaviour",
        )
        return False
    return column.not_null


def _generated(draft: Draft, source: SourceTable) -> dict[str, str]:
    """The expressions of the columns that PostgreSQL can generate; the others are filled with SQLite's values.

    One may not refer to another in PostgreSQL, so that an expression takes the place of each name.
    """
    found: dict[str, str] = {}
    pending = {ascii_lower(column.name): column for column in source.columns if column.generated}
    while pending:
        ready = [column for column in pending.values() if not names_in(column.expression) & pending.keys()]
        if not ready:
            for column in pending.values():
                _not_generated(draft, source, column, "it refers to itself")
            return found
        for column in ready:
            del pending[ascii_lower(column.name)]
            try:
                value = translate(column.expression, draft.scope(source, inline=True))
                if value.kind == "int" and _outgrown(draft, source, column):
                    raise Untranslatable("some of its integers outgrow 64 bits, where SQLite goes on with real numbers")
                type_ = draft.choice(source.name, column.name).type
                found[column.name] = sql = fitted(value, type_, immutable=True)
            except Untranslatable as error:
                _not_generated(draft, source, column, error.reason)
                continue
            own = draft.values(source)[column.name]
            draft.inlined[source.name, column.name] = replace(own, sql=sql, atom=False)
    return found


def _outgrown(draft: Draft, source: SourceTable, column: SourceColumn) -> bool:
    """Whether real numbers came of an expression of integers, and not of the column's affinity."""
    profile = draft.profile(source.name, column.name)
    return profile is not None and profile.reals > 0 and affinity(column.declared) != "REAL"


def _not_generated(draft: Draft, source: SourceTable, column: SourceColumn, reason: str) -> None:
    draft.note(
        "generated-column",
        f"{source.name}.{column.name}",
        f"PostgreSQL does not generate it: {reason}. It is a plain column that holds SQLite's values",
        try_="let the application or a trigger fill it for new rows",
        level="behaviour",
        original=column.expression,
    )


# -- keys ------------------------------------------------------------------------------------------------------


def _keys(draft: Draft, source: SourceTable) -> tuple[tuple[pg.Key, ...], tuple[pg.Index, ...]]:
    keys: list[pg.Key] = []
    indexes: list[pg.Index] = []
    for key in sorted(source.keys, key=lambda each: not each.primary):
        if key.on_conflict and key.on_conflict.upper() != "ABORT":
            _on_conflict(draft, source, key)
        if _duplicates(draft, source, key.columns):
            continue
        if len(key.columns) > MOST_KEYS:
            draft.note(
                "index-left-out",
                f"{source.name} ({', '.join(key.columns)})",
                f"the {'primary key' if key.primary else 'unique constraint'} is left out: {_too_many(key.columns)}",
                try_="hold fewer columns unique, or a digest of them all",
                level="behaviour",
            )
            continue
        made = _key(draft, source, key)
        if isinstance(made, pg.Key):
            keys.append(made)
        if not isinstance(made, pg.Key) or _collated(draft, source, key):
            indexes.append(made if isinstance(made, pg.Index) else _key_index(draft, source, key, (), label="key"))
    return tuple(keys), tuple(indexes)


def _too_many(terms: Sequence[object]) -> str:
    return f"it has {len(terms)} columns, and PostgreSQL takes {MOST_KEYS}"


def _key(draft: Draft, source: SourceTable, key: SourceKey) -> pg.Key | pg.Index:
    """The constraint; or a unique index where no constraint can say the same."""
    columns = tuple(draft.names.column(source.name, source.column(name).name) for name in key.columns)
    wide = _wide(draft, source, key.columns)
    if wide:
        _too_wide(draft, source, ", ".join(key.columns), "its uniqueness is kept by MD5 digests")
        return _key_index(draft, source, key, wide, label="key")
    primary = key.primary and not _null_keys(draft, source, key)
    collated = _collated(draft, source, key)
    if collated and not primary and not _referred(draft, source, key.columns):
        return _key_index(draft, source, key, (), label="key")
    table_name = draft.names.table(source.name)
    otherwise = object_name(table_name, "" if primary else "_".join(columns), "pkey" if primary else "key")
    name = draft.names.constraint(source.name, key.name, otherwise, key=True)
    return pg.Key(name=name, columns=columns, primary=primary)


def _key_index(draft: Draft, source: SourceTable, key: SourceKey, wide: tuple[str, ...], *, label: str) -> pg.Index:
    """A unique index that holds a key's columns unique by their collation, wide ones by their digest."""
    collations = key.collations or tuple("BINARY" for _ in key.columns)
    terms = []
    for name, collation in zip(key.columns, collations, strict=True):
        value = draft.values(source)[source.column(name).name]
        terms.append(_digest(value, collation) if name in wide else _term_sql(value, collation))
    columns = "_".join(draft.names.column(source.name, source.column(name).name) for name in key.columns)
    otherwise = object_name(draft.names.table(source.name), columns, label)
    return pg.Index(name=draft.names.index(source.name, "", otherwise), terms=tuple(terms), unique=True)


def _keys_for_children(draft: Draft, source: SourceTable) -> Iterator[pg.Key]:
    """UNIQUE for what foreign keys refer to, where the values are unique and only the constraint is missing."""
    for owner, columns in sorted(draft.facts.unique_parents):
        if owner == source.name and not _wide(draft, source, columns):
            given = tuple(draft.names.column(source.name, name) for name in columns)
            otherwise = object_name(draft.names.table(source.name), "_".join(given), "key")
            name = draft.names.constraint(source.name, "", otherwise, key=True)
            draft.note(
                "unique-added",
                f"{source.name} ({', '.join(columns)})",
                "foreign keys refer to it, so that PostgreSQL needs it UNIQUE; its values are, and it is made so",
                try_="leave out the foreign keys in SQLite if the values may repeat",
                level="behaviour",
            )
            yield pg.Key(name=name, columns=given)


def _collated(draft: Draft, source: SourceTable, key: SourceKey) -> bool:
    """True when a collation makes more values equal than PostgreSQL's own equality does."""
    return any(
        collation.upper() not in ("", "BINARY")
        and kind_of(draft.choice(source.name, source.column(name).name).type) == "text"
        for name, collation in zip(key.columns, key.collations, strict=False)
    )


def _referred(draft: Draft, source: SourceTable, columns: tuple[str, ...]) -> bool:
    """True when a foreign key refers to exactly these columns."""
    wanted = {name.lower() for name in columns}
    return any(
        key.parent.lower() == source.name.lower() and {name.lower() for name in key.parent_columns} == wanted
        for table in draft.source.tables
        for key in table.foreign_keys
    )


def _null_keys(draft: Draft, source: SourceTable, key: SourceKey) -> bool:
    """True, with a finding, when rows hold NULL in a primary key, which SQLite lets pass."""
    for name in key.columns:
        column = source.column(name)
        profile = draft.profile(source.name, column.name)
        if profile is not None and profile.nulls and column.name != source.rowid_column:
            draft.note(
                "null-in-primary-key",
                f"{source.name}.{column.name}",
                f"{profile.nulls} rows hold NULL in the primary key, so it becomes UNIQUE, which allows NULLs",
                try_="give those rows a key in SQLite and migrate again",
                level="behaviour",
            )
            return True
    return False


def _duplicates(draft: Draft, source: SourceTable, columns: tuple[str, ...]) -> bool:
    count = draft.facts.duplicates.get((source.name, columns), 0)
    if count:
        draft.note(
            "duplicates-after-conversion",
            f"{source.name} ({', '.join(columns)})",
            f"{count} values occur more than once after their conversion, so the key is left out",
            try_="choose other types for these columns in [migrate.types], or make the values differ in SQLite",
            level="behaviour",
        )
    return bool(count)


def _on_conflict(draft: Draft, source: SourceTable, key: SourceKey) -> None:
    draft.note(
        "on-conflict",
        f"{source.name} ({', '.join(key.columns)})",
        f"ON CONFLICT {key.on_conflict.upper()} has no counterpart in a constraint: PostgreSQL raises an error",
        try_="write INSERT … ON CONFLICT … in the statements that rely on it",
        level="behaviour",
        original=source.sql,
    )


# -- indexes ---------------------------------------------------------------------------------------------------


def _indexes(draft: Draft, source: SourceTable) -> Iterator[pg.Index]:
    """Indexes as they are. Where NULLs stand is left to PostgreSQL, so that its ORDER BY can use them."""
    for index in source.indexes:
        columns = tuple(term.column for term in index.terms if term.column)
        if index.unique and len(columns) == len(index.terms) and _duplicates(draft, source, columns):
            continue
        if vectors.is_vector_index(index):
            made = vectors.vector_index(draft, source, index)
            yield from [made] if made else []
            continue
        try:
            yield _index(draft, source, index)
        except Untranslatable as error:
            draft.note(
                "index-left-out",
                f"{source.name}.{index.name}",
                f"the {'unique ' * index.unique}index is left out: {error.reason}",
                try_="create its counterpart in PostgreSQL by hand",
                level="behaviour",
                original=index.sql,
            )


def _index(draft: Draft, source: SourceTable, index: SourceIndex) -> pg.Index:
    if len(index.terms) > MOST_KEYS:
        raise Untranslatable(_too_many(index.terms))
    scope = draft.scope(source)
    wide = _wide(draft, source, tuple(term.column for term in index.terms if term.column))
    terms, labels = [], []
    for term in index.terms:
        terms.append(_term(scope, term, digest=term.column in wide and (index.unique or len(index.terms) > 1)))
        labels.append(draft.names.column(source.name, source.column(term.column).name) if term.column else "expr")
    where = condition(index.where, scope).sql if index.where else ""
    method = "btree"
    if wide and not index.unique and len(index.terms) == 1:
        method, terms = "hash", [terms[0].removesuffix(" DESC")]
        _too_wide(draft, source, wide[0], f"the index {index.name} is a hash index, which finds equal values only")
    elif wide:
        _too_wide(draft, source, ", ".join(wide), f"the index {index.name} holds MD5 digests of it")
    otherwise = object_name(draft.names.table(source.name), "_".join(labels), "idx")
    name = draft.names.index(source.name, index.name, otherwise)
    return pg.Index(name=name, terms=tuple(terms), unique=index.unique, where=where, method=method)


def _term(scope: Scope, term: SourceTerm, *, digest: bool) -> str:
    if term.column:
        value = scope.columns[ascii_lower(term.column)]
        sql = _digest(value, term.collation) if digest else _term_sql(value, term.collation)
    else:
        value = compile_node(_parsed(term.expression), scope)
        if value.kind == "dynamic":
            value = json_values.json_text(value)
        if value.kind in ("null", "json") or value.constant is not None:
            raise Untranslatable(f"a B-tree does not order {value.kind}")
        collation = term.collation if value.kind == "text" else "BINARY"
        sql = f"({_sql_in(value, collation)})"
    return sql + (" DESC" if term.descending else "")


def _parsed(expression: str) -> Node:
    try:
        return parse_expression(expression)
    except NotUnderstood as error:
        raise Untranslatable(f"it is not understood: {error}") from error


def _sql_in(value: Value, collation: str) -> str:
    return (
        by_collation(value, collation.upper()) if value.kind == "text" and collation.upper() != "BINARY" else value.sql
    )


def _term_sql(value: Value, collation: str) -> str:
    """A column as an index's term: a type without order is refused, a collation is made an expression."""
    if value.kind in ("json", "other"):
        raise Untranslatable(f"PostgreSQL's B-tree does not order {value.kind}")
    return _sql_in(value, collation)


def _digest(value: Value, collation: str) -> str:
    if value.kind not in ("text", "bytea"):
        raise Untranslatable(f"values of {value.kind} are too wide for a B-tree")
    return f"md5({_sql_in(value, collation)})"


def _wide(draft: Draft, source: SourceTable, columns: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the columns that make an entry too wide for a B-tree; the widest ones first."""
    widths = {}
    for name in columns:
        column = source.column(name)
        profile = draft.profile(source.name, column.name)
        if kind_of(draft.choice(source.name, column.name).type) in ("text", "bytea", "jsonb"):
            widths[name] = profile.widest if profile is not None else 0
    found = []
    for name in sorted(widths, key=lambda each: -widths[each]):
        if sum(widths.values()) + 8 * len(columns) <= WIDEST_KEY:
            break
        found.append(name)
        widths[name] = 36
    return tuple(found)


def _too_wide(draft: Draft, source: SourceTable, columns: str, says: str) -> None:
    draft.note(
        "too-wide-for-index",
        f"{source.name} ({columns})",
        f"it holds values wider than the {WIDEST_KEY} bytes that a B-tree takes; {says}",
        try_="search by the digest (md5(column) = md5(value)), or index a beginning of the value: left(column, 200)",
        level="behaviour",
    )


# -- checks ----------------------------------------------------------------------------------------------------


def _checks(draft: Draft, source: SourceTable) -> Iterator[pg.Check]:
    scope = draft.scope(source)
    for check in source.checks:
        where = f"{source.name}.{check.name or check.column or 'CHECK'}"
        try:
            value = condition(check.sql, scope)
            if value.sql == "FALSE":
                raise Untranslatable("for the type chosen it would refuse every row")
        except Untranslatable as error:
            draft.note(
                "check-left-out",
                where,
                f"the CHECK is left out: {error.reason}",
                try_="add its counterpart in PostgreSQL by hand",
                level="behaviour",
                original=check.sql,
            )
            continue
        if value.always:
            says = "the CHECK is left out: the column's type allows nothing else"
            draft.note("check-by-type", where, says, level="note", original=check.sql)
            continue
        column = draft.names.column(source.name, source.column(check.column).name) if check.column else ""
        otherwise = object_name(draft.names.table(source.name), column, "check")
        yield pg.Check(name=draft.names.constraint(source.name, check.name, otherwise), sql=value.sql)
