"""The tokenizer and the parser of SQLite's DDL, against texts of every awkward kind and against SQLite itself."""

from __future__ import annotations

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbscale.migrate.declaration import (
    Check,
    Column,
    Index,
    Key,
    Reference,
    Table,
    Term,
    collations,
    fold,
    parse_index,
    parse_module,
    parse_table,
    text_of,
    tokens,
    view_query,
)

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)


def kinds(sql: str) -> list[tuple[str, str]]:
    return [(token.kind, token.text) for token in tokens(sql) if token.kind != "space"]


@given(st.text())
def test_the_texts_of_all_tokens_are_the_sql(sql: str) -> None:
    found = list(tokens(sql))
    assert "".join(token.text for token in found) == sql
    assert [token.start for token in found] == [sum(len(t.text) for t in found[:i]) for i in range(len(found))]


@given(st.text(alphabet="'\"`[]()-/*,;.x0a \n"))
def test_no_text_makes_the_parsers_fail(sql: str) -> None:
    for text in (
        sql,
        f"CREATE TABLE {sql}",
        f"CREATE TABLE t({sql}",
        f"CREATE INDEX i ON t({sql}",
        f"CREATE VIEW {sql}",
    ):
        parse_table(text)
        parse_index(text)
        parse_module(text)
        view_query(text)
        collations(text)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("a -- b'\nc", [("word", "a"), ("comment", "-- b'"), ("word", "c")]),
        ("/* ' */'x''y'", [("comment", "/* ' */"), ("string", "'x''y'")]),
        ("/* no end", [("comment", "/* no end")]),
        ('"q""q"`b``b`[c"d]', [("name", '"q""q"'), ("name", "`b``b`"), ("name", '[c"d]')]),
        ("x'0aF1' x '1'", [("blob", "x'0aF1'"), ("word", "x"), ("string", "'1'")]),
        (
            "1.5e-3 .5 0xFF 1_000 7.",
            [("number", "1.5e-3"), ("number", ".5"), ("number", "0xFF"), ("number", "1_000"), ("number", "7.")],
        ),
        ("a->>'b'||c<>d", [("word", "a"), ("operator", "->>"), ("string", "'b'"), ("operator", "||"), ("word", "c"),
                           ("operator", "<>"), ("word", "d")]),
        ("?1 :a @b $c", [("parameter", "?1"), ("parameter", ":a"), ("parameter", "@b"), ("parameter", "$c")]),
        ("가격 é$1", [("word", "가격"), ("word", "é$1")]),
        ("'open", [("other", "'"), ("word", "open")]),
    ],
)  # fmt: skip
def test_tokens(sql: str, expected: list[tuple[str, str]]) -> None:
    assert kinds(sql) == expected


@given(NAMES, st.sampled_from(['"', "`", "["]))
def test_a_quoted_name_reads_back(name: str, quote: str) -> None:
    if quote == "[":
        name = name.replace("]", "")
        written = f"[{name}]"
    else:
        written = quote + name.replace(quote, quote * 2) + quote
    (token,) = tokens(written)
    assert (token.kind, token.value) == ("name", name)
    assert parse_table(f"CREATE TABLE {written}({written} int)") == Table(
        name=name, columns=(Column(name=name, type="int"),)
    )


def test_a_quoted_word_is_no_keyword() -> None:
    table = parse_table('CREATE TABLE t("check" int, "unique" text, "constraint", [primary] int PRIMARY KEY)')
    assert [column.name for column in table.columns] == ["check", "unique", "constraint", "primary"]
    assert table.keys == (Key(columns=("primary",), primary=True),)


def test_a_table_with_everything() -> None:
    table = parse_table(
        """CREATE TABLE IF NOT EXISTS main."my table" ( -- the (first), comment
          id INTEGER CONSTRAINT pk PRIMARY KEY ON CONFLICT REPLACE AUTOINCREMENT,
          a VARCHAR (10 , 2) /* c1, */ COLLATE nocase DEFAULT 'a,b)' CONSTRAINT a_ok CHECK (a <> '--)') ,
          b "double" precision NOT NULL ON CONFLICT IGNORE DEFAULT -1.5 UNIQUE,
          c text GENERATED ALWAYS AS (a || ',') STORED, d AS (b + 1), e DEFAULT (datetime('now', 'utc')),
          f REFERENCES p ON DELETE SET NULL ON UPDATE CASCADE MATCH FULL NOT NULL DEFERRABLE INITIALLY DEFERRED,
          CONSTRAINT u UNIQUE (a COLLATE rtrim DESC, b) ON CONFLICT FAIL
          CONSTRAINT fk FOREIGN KEY (a, b) REFERENCES [p 2](x, y) ON DELETE NO ACTION DEFERRABLE,
          CHECK (a IN ('x', 'y(') /* ) */ AND b > 0)
        ) STRICT, WITHOUT ROWID"""
    )
    assert table == Table(
        name="my table",
        columns=(
            Column(name="id", type="INTEGER"),
            Column(name="a", type="VARCHAR(10 , 2)", collation="nocase", default="'a,b)'"),
            Column(name="b", type="double precision", not_null_conflict="IGNORE", default="-1.5"),
            Column(name="c", type="text", generated="stored", expression="a || ','"),
            Column(name="d", generated="virtual", expression="b + 1"),
            Column(name="e", default="(datetime('now', 'utc'))"),
            Column(name="f"),
        ),
        keys=(
            Key(columns=("id",), name="pk", primary=True, on_conflict="REPLACE"),
            Key(columns=("b",)),
            Key(columns=("a", "b"), name="u", on_conflict="FAIL"),
        ),
        checks=(
            Check(sql="a <> '--)'", name="a_ok", column="a"),
            Check(sql="a IN ('x', 'y(')   AND b > 0"),
        ),
        references=(
            Reference(columns=("f",), parent="p", deferrable="DEFERRED"),
            Reference(columns=("a", "b"), parent="p 2", parent_columns=("x", "y"), name="fk", deferrable="IMMEDIATE"),
        ),
        autoincrement=True,
        strict=True,
        without_rowid=True,
    )


@pytest.mark.parametrize(
    ("clause", "expected"),
    [
        ("", ""),
        ("DEFERRABLE", "IMMEDIATE"),
        ("DEFERRABLE INITIALLY IMMEDIATE", "IMMEDIATE"),
        ("DEFERRABLE INITIALLY DEFERRED", "DEFERRED"),
        ("NOT DEFERRABLE", ""),
        ("NOT DEFERRABLE INITIALLY DEFERRED", ""),
        ("NOT NULL", ""),
        ("NOT NULL DEFERRABLE INITIALLY DEFERRED", "DEFERRED"),
    ],
)
def test_deferrable(clause: str, expected: str) -> None:
    (reference,) = parse_table(f"CREATE TABLE t(a REFERENCES p(id) ON DELETE CASCADE {clause}, b)").references
    assert reference.deferrable == expected


def test_autoincrement_is_not_seen_where_it_is_only_spoken_of() -> None:
    spoken = (
        "CREATE TABLE t(id INTEGER PRIMARY KEY /* AUTOINCREMENT */, \"autoincrement\" TEXT DEFAULT 'AUTOINCREMENT')"
    )
    assert not parse_table(spoken).autoincrement
    assert parse_table("CREATE TABLE t(id INTEGER, PRIMARY KEY(id AUTOINCREMENT))").autoincrement


def test_an_index() -> None:
    sql = (
        "CREATE UNIQUE INDEX IF NOT EXISTS main.\"i,1\" ON [t t](lower(a || ')') DESC, b COLLATE nocase ASC,"
        " json_extract(c, '$.x') /* , */) WHERE a IS NOT NULL -- and so on\n AND b <> ';';"
    )
    assert parse_index(sql) == Index(
        name="i,1",
        table="t t",
        unique=True,
        terms=(
            Term(sql="lower(a || ')')", descending=True),
            Term(sql="b", collation="nocase"),
            Term(sql="json_extract(c, '$.x')"),
        ),
        where="a IS NOT NULL  \n AND b <> ';'",
    )


@pytest.mark.parametrize("sql", ["", "SELECT 1", "CREATE", "CREATE VIEW v AS SELECT 1", "DROP TABLE t"])
def test_text_that_declares_nothing(sql: str) -> None:
    assert parse_table(sql) == Table()
    assert parse_index(sql) == Index()
    assert parse_module(sql) == ""


def test_views_and_modules() -> None:
    assert view_query('CREATE TEMP VIEW IF NOT EXISTS "a b"(x, y) AS SELECT 1, ")" ;') == 'SELECT 1, ")"'
    assert parse_module("CREATE VIRTUAL TABLE IF NOT EXISTS main.f USING fts5(a, content='')") == "fts5"
    assert collations("SELECT a COLLATE unicase /* COLLATE no */ FROM t ORDER BY b COLLATE 'B'") == {"unicase", "B"}


def test_names_fold_as_in_sqlite() -> None:
    database = apsw.Connection(":memory:")
    database.execute('CREATE TABLE "É"(a); CREATE TABLE "é"(a)').fetchall()
    assert fold("ABCé") == fold("abcé")
    assert fold("É") != fold("é")


NAME = st.sampled_from(["a", "B", '"c d"', "[e,f]", "`g(h`", '"i""j"', "'k'", "'l''m'", "가", '"check"', '"--"'])
SPACE = st.sampled_from([" ", "\n", " /* , ( ' */ ", " -- ) ' \n"])
TYPE = st.sampled_from(["", "INTEGER", "VARCHAR(10)", "DECIMAL ( 10 , 2 )", "double precision", '"My Type"'])
EXPRESSION = st.sampled_from(["1", "'),('", "(1 + (2))", "x'00'", "length('--')", "'a' || /* ( */ ')'", "1 IN (1, 2)"])


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, list[str], list[str]]:
    """A legal CREATE TABLE, the texts of its columns' names, and its CHECK expressions."""
    names = draw(st.lists(NAME, min_size=1, max_size=6, unique=True))
    lines, checks = [], []
    for name in names:
        parts = [name, draw(TYPE)]
        if draw(st.booleans()):
            parts.append(f"DEFAULT ({draw(EXPRESSION)})")
        if draw(st.booleans()):
            parts.append("NOT NULL")
        if draw(st.booleans()):
            checks.append(draw(EXPRESSION))
            parts.append(f"CONSTRAINT {draw(NAME)} CHECK ({checks[-1]})")
        if draw(st.booleans()):
            parts.append(f"REFERENCES {draw(NAME)} ON DELETE SET NULL")
        if draw(st.booleans()):
            parts.append("COLLATE nocase UNIQUE")
        lines.append(draw(SPACE).join(parts))
    if draw(st.booleans()):
        lines.append(f"UNIQUE{draw(SPACE)}({', '.join(names)})")
    space = draw(SPACE)
    return f"CREATE{space}TABLE{space}t{space}({(',' + space).join(lines)}{space})", names, checks


@given(tables())
def test_what_sqlite_accepts_is_read_as_sqlite_reads_it(made: tuple[str, list[str], list[str]]) -> None:
    sql, names, checks = made
    database = apsw.Connection(":memory:")
    database.execute(sql).fetchall()
    found = parse_table(database.execute("SELECT sql FROM sqlite_master WHERE name = 't'").get)
    columns = database.execute("SELECT name, type, dflt_value FROM pragma_table_xinfo('t')").fetchall()
    assert [column.name for column in found.columns] == [name for name, _, _ in columns]
    assert len(found.columns) == len(names)
    assert [check.sql for check in found.checks] == [text_of(list(tokens(check))) for check in checks]
    references = database.execute(
        'SELECT "from", "table" FROM pragma_foreign_key_list(\'t\') ORDER BY id DESC'
    ).fetchall()
    assert [(reference.columns[0], reference.parent) for reference in found.references] == references
    uniques = database.execute("SELECT count(*) FROM pragma_index_list('t')").get
    assert len({key.columns for key in found.keys}) == uniques
