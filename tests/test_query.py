"""What statements are said to do, in a table; and that nothing makes the analysis fail."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dbscale.errors import ConfigError
from dbscale.query import (
    And,
    Column,
    Compare,
    Literal,
    Opaque,
    Or,
    Order,
    Parameter,
    Unknown,
    keep_rows,
    parse,
    placeholders,
)
from dbscale.query.functions import AGGREGATES, PLAIN, STABLE, VOLATILE

A, B = Column(0, "a"), Column(0, "b")
ONE, TWO = Literal(1), Literal(2)


@pytest.mark.parametrize(
    ("where", "condition"),
    [
        ("a = 1", Compare(A, "=", (ONE,))),
        ("1 < a", Compare(A, ">", (ONE,))),
        ("a = $1", Compare(A, "=", (Parameter(1),))),
        ("a = $2::bigint", Compare(A, "=", (Parameter(2, "bigint"),))),
        ("a = -1", Compare(A, "=", (Literal(-1),))),
        ("a = +1", Compare(A, "=", (ONE,))),
        ("a = 1.50", Compare(A, "=", (Literal(Decimal("1.50")),))),
        ("a = 12345678901234567890", Compare(A, "=", (Literal(12345678901234567890),))),
        ("a = 'x'", Compare(A, "=", (Literal("x"),))),
        ("a = 'it''s'", Compare(A, "=", (Literal("it's"),))),
        ("a = date '2026-01-01'", Compare(A, "=", (Literal("2026-01-01", "date"),))),
        ("a = '5'::int8", Compare(A, "=", (Literal("5", "bigint"),))),
        ("a = 'x'::char(3)", Compare(A, "=", (Literal("x", "character(3)"),))),
        ("a = NULL", Compare(A, "=", (Literal(None),))),
        ("a = now()", Compare(A, "=", (Unknown("an expression"),))),
        ("a = b", Compare(A, "=", (B,))),
        ("a IN (1, 2)", Compare(A, "in", (ONE, TWO))),
        ("a NOT IN (1, 2)", Compare(A, "not in", (ONE, TWO))),
        ("NOT a IN (1, 2)", Compare(A, "not in", (ONE, TWO))),
        ("a = ANY($1)", Compare(A, "any", (Parameter(1),))),
        ("a = ANY(ARRAY[1, 2])", Compare(A, "in", (ONE, TWO))),
        ("a <> ALL(ARRAY[1, 2])", Compare(A, "not in", (ONE, TWO))),
        ("NOT a <> ALL(ARRAY[1, 2])", Compare(A, "in", (ONE, TWO))),
        ("a = ALL(ARRAY[1, 2])", Opaque((A,))),
        ("a BETWEEN 1 AND 2", And((Compare(A, ">=", (ONE,)), Compare(A, "<=", (TWO,))))),
        ("a NOT BETWEEN 1 AND 2", And((Or((Compare(A, "<", (ONE,)), Compare(A, ">", (TWO,)))),))),
        ("a IS NULL", Compare(A, "is null")),
        ("NOT a IS NULL", Compare(A, "is not null")),
        ("a IS NOT DISTINCT FROM 1", Compare(A, "is", (ONE,))),
        ("a IS DISTINCT FROM 1", Opaque((A,))),
        ("a LIKE 'x%'", Compare(A, "like", (Literal("x%"),))),
        ("a NOT ILIKE 'x%'", Compare(A, "not ilike", (Literal("x%"),))),
        ("a ~ 'x'", Compare(A, "~", (Literal("x"),))),
        ("a @> '{}'", Compare(A, "@>", (Literal("{}"),))),
        ("a", Compare(A, "=", (Literal(True, "boolean"),))),
        ("NOT a", Compare(A, "=", (Literal(False, "boolean"),))),
        ("true", And()),
        ("NOT true", Or()),
        ("lower(a) = 'x'", Opaque((A,))),
        ("a::text = '1'", Opaque((A,))),
        ("a COLLATE \"C\" < 'x'", Opaque((A,))),
        ("a + 1 = 2", Opaque((A,))),
        ("(a, b) = (1, 2)", And((Compare(A, "=", (ONE,)), Compare(B, "=", (TWO,))))),
        ("(a, b) < (1, 2)", And((Compare(A, "<=", (ONE,)), Opaque((A, B))))),
        ("NOT (a = 1 AND b < 2)", Or((Compare(A, "<>", (ONE,)), Compare(B, ">=", (TWO,))))),
        ("NOT (a = 1 OR NOT b = 2)", And((Compare(A, "<>", (ONE,)), Compare(B, "=", (TWO,))))),
        ("a IN (SELECT 1)", Compare(A, "=", (ONE,))),
        ("a NOT IN (SELECT 1)", Opaque((A,))),
        ("a = (SELECT 1)", Compare(A, "=", (Unknown("an expression"),))),
        ("EXISTS (SELECT 1)", Opaque()),
        ("a IS TRUE", Opaque((A,))),
    ],
)
def test_conditions(where: str, condition: Any) -> None:
    query = parse(f"SELECT * FROM t WHERE {where}")
    assert not query.unsure
    assert query.blocks[0].filters[0].condition == condition


@pytest.mark.parametrize(
    ("sql", "because"),
    [
        ("SELECT * FROM t", ""),
        ("SELECT lower(a), count(*), now(), random() FROM t GROUP BY 1", ""),
        ("SELECT pg_catalog.lower(a) FROM t", ""),
        ("WITH x AS (SELECT 1) SELECT * FROM x", ""),
        ("VALUES (1), (2)", ""),
        ("TABLE t", ""),
        ("SELECT * FROM t WHERE a LIKE 'x!%' ESCAPE '!' AND extract(year FROM b) = 2026", ""),
        ("SELECT b AT TIME ZONE 'UTC', trim(a), coalesce(a, ''), nullif(a, ''), greatest(1, 2) FROM t", ""),
        ("SELECT * FROM t FOR UPDATE", "it locks rows"),
        ("SELECT * FROM (SELECT * FROM t FOR SHARE) x", "it locks rows"),
        ("SELECT * INTO u FROM t", "SELECT INTO makes a table"),
        ("WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x", "a CTE writes"),
        ("SELECT nextval('s')", "nextval() is not known to leave the data alone"),
        ("SELECT set_config('a.b', '1', false)", "set_config() is not known to leave the data alone"),
        ("SELECT my.lower('x')", "my.lower() is not known to leave the data alone"),
        ("SELECT pg_advisory_lock(1)", "pg_advisory_lock() is not known to leave the data alone"),
        ("SELECT * FROM make_rows()", "make_rows() is not known to leave the data alone"),
        ("SELECT a OPERATOR(my.+) 1 FROM t", "it uses an operator of a schema of its own"),
        ("SELECT * FROM pg_stat_activity", "pg_stat_activity speaks of the server it is read on"),
        ("INSERT INTO t VALUES (1)", "it is INSERT"),
        ("EXPLAIN ANALYZE DELETE FROM t", "it is EXPLAIN"),
        ("SET search_path = x", "it is VARIABLE SET"),
        ("BEGIN", "it is TRANSACTION"),
        ("CREATE TABLE t (a int)", "it is CREATE"),
        ("DO $$ BEGIN END $$", "it is DO"),
        ("COPY t TO STDOUT", "it is COPY"),
        ("CALL p()", "it is CALL"),
        ("EXECUTE x", "it is EXECUTE"),
        ("SELECT 1; SELECT 2", "2 statements in one"),
        ("", "no statement"),
        ("SELECT (", "it does not parse: syntax error at end of input"),
    ],
)
def test_whether_it_only_reads(sql: str, because: str) -> None:
    query = parse(sql)
    assert query.because == because
    assert query.reads == (not because)


def test_tables_aliases_and_outer_joins() -> None:
    query = parse("SELECT * FROM s.t AS x LEFT JOIN u ON u.a = x.a, v WHERE u.b = v.b AND c = 1")
    assert [(table.schema, table.name, table.alias, table.nullable) for table in query.tables] == [
        ("s", "t", "x", False),
        ("", "u", "", True),
        ("", "v", "", False),
    ]
    on, where = query.blocks[0].filters
    assert on.restricts == {1}
    assert on.condition == Compare(Column(1, "a"), "=", (Column(0, "a"),))
    assert where.restricts == {0, 1, 2}
    assert where.condition == And(
        (Compare(Column(1, "b"), "=", (Column(2, "b"),)), Compare(Column(None, "c", (0, 1, 2)), "=", (ONE,)))
    )


def test_order_group_limit() -> None:
    query = parse("SELECT b AS x, count(*) FROM t GROUP BY x ORDER BY 1 DESC, lower(b) LIMIT 5 OFFSET $1")
    block = query.blocks[0]
    assert block.group_by == (Column(0, "x"),)  # a column x of t would go before the alias
    assert block.order_by == (Order(column=B, descending=True, nulls_first=True),)
    assert (block.grouped, block.aggregates, block.ordered, block.limit, block.offset) == (
        True, True, True, Literal(5), Parameter(1),
    )  # fmt: skip
    assert parse("SELECT DISTINCT rank() OVER w FROM t WINDOW w AS (ORDER BY a)").blocks[0].windows


def test_a_subquery_and_a_cte_pass_columns_through_only_where_a_condition_could_be_moved_below() -> None:
    for sql, table in {
        "SELECT * FROM (SELECT * FROM t) x WHERE x.a = 1": 0,
        "WITH x AS (SELECT a AS b, a FROM t) SELECT * FROM x WHERE x.b = 1": 0,
        "SELECT * FROM (SELECT a, count(*) FROM t GROUP BY a) x WHERE x.a = 1": 0,
        "SELECT * FROM (SELECT DISTINCT a FROM t) x WHERE x.a = 1": 0,
        "SELECT * FROM (SELECT * FROM t LIMIT 1) x WHERE x.a = 1": None,
        "SELECT * FROM (SELECT a, rank() OVER () FROM t) x WHERE x.a = 1": None,
        "SELECT * FROM (SELECT DISTINCT ON (b) a FROM t) x WHERE x.a = 1": None,
        "SELECT * FROM (SELECT b, max(a) AS a FROM t GROUP BY b) x WHERE x.a = 1": None,
        "SELECT * FROM (SELECT a FROM t GROUP BY ROLLUP (a)) x WHERE x.a = 1": None,
        "SELECT * FROM (SELECT a FROM t UNION SELECT a FROM u) x WHERE x.a = 1": None,
        "SELECT * FROM (SELECT a FROM t) x(b) WHERE x.a = 1": None,
        "WITH RECURSIVE x AS (SELECT a FROM t UNION SELECT a FROM x) SELECT * FROM x WHERE x.a = 1": None,
        "WITH x AS (DELETE FROM t RETURNING a) SELECT * FROM x WHERE x.a = 1": None,
    }.items():
        condition: Any = parse(sql).blocks[0].filters[0].condition
        found = condition.column
        assert (found.table if found.table is not None else next(iter(found.candidates), None)) == table, sql


def test_a_cte_read_twice_is_two_mentions() -> None:
    query = parse("WITH x AS (SELECT * FROM t) SELECT * FROM x a JOIN x b ON a.p = b.q")
    assert [table.name for table in query.tables] == ["t", "t"]


def test_insert() -> None:
    query = parse(
        "INSERT INTO t AS x (a, b) VALUES (1, $1), (DEFAULT, 'y') ON CONFLICT (a) DO UPDATE SET b = excluded.b"
    )
    insert = query.insert
    assert insert is not None
    assert insert.columns == ("a", "b")
    assert insert.rows == ((ONE, Parameter(1)), (Unknown("DEFAULT"), Literal("y")))
    assert insert.conflict == ("a",)
    assert query.sets == (("b", Column(None, "b")),)
    assert parse("INSERT INTO t SELECT a, 1 FROM u").insert.outputs == (Column(1, "a"), ONE)  # type: ignore[union-attr]
    assert parse("INSERT INTO t DEFAULT VALUES").insert.rows == ((),)  # type: ignore[union-attr]


def test_update() -> None:
    query = parse("UPDATE t SET a = 1, (b, c) = (2, $1), d = (SELECT 1), a = a + 1 WHERE t.a = 1 RETURNING *")
    assert query.sets == (
        ("a", ONE), ("b", TWO), ("c", Parameter(1)), ("d", Unknown("an expression")), ("a", Unknown("an expression")),
    )  # fmt: skip
    assert query.returning
    assert query.tables[0].writes


@pytest.mark.parametrize(
    ("sql", "style", "converted", "names"),
    [
        ("SELECT %s, '%%', %s", "format", "SELECT $1, '%', $2", None),
        ("SELECT %(b)s, %(a)s, %(b)s", "format", "SELECT $1, $2, $1", ("b", "a")),
        ("SELECT :b, :a, :b, x::int, ':no', a[1:n], a[:i] -- :c", "named",
         "SELECT $1, $2, $1, x::int, ':no', a[1:n], a[$3] -- :c", ("b", "a", "i")),
        ("SELECT '한국', :x", "named", "SELECT '한국', $1", ("x",)),
        ("SELECT 10 % 3", "numeric", "SELECT 10 % 3", None),
    ],
)  # fmt: skip
def test_placeholders(sql: str, style: Any, converted: str, names: Any) -> None:
    assert placeholders(sql, style) == (converted, names)


def test_arguments_by_name_and_place() -> None:
    query = parse("SELECT %(b)s, %(a)s", "format")
    assert query.arguments({"a": 1, "b": 2}) == (2, 1)
    with pytest.raises(ConfigError, match="no value for b"):
        query.arguments({"a": 1})
    with pytest.raises(ConfigError, match="have names"):
        query.arguments([1, 2])
    with pytest.raises(ConfigError, match="no names"):
        parse("SELECT $1").arguments({"a": 1})
    assert not parse("SELECT %x", "format").reads


def test_rows_are_kept_with_their_parameters() -> None:
    query = parse("INSERT INTO t (a, b) VALUES ($1, $2), ($3, $1), (5, $4)")
    assert keep_rows(query, [1, 2]) == ("INSERT INTO t (a, b) VALUES ($1, $2), (5, $3)", (3, 1, 4))


def test_the_lists_of_functions_are_true(server: Any) -> None:
    with psycopg.connect(server.url) as connection:
        rows = connection.execute(
            "SELECT proname, bool_or(provolatile = 'v'), bool_or(prokind = 'a')"
            " FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace GROUP BY proname"
        ).fetchall()
    volatile, aggregates = {row[0] for row in rows if row[1]}, {row[0] for row in rows if row[2]}
    known = {row[0] for row in rows}
    newer = {"uuidv4", "uuidv7", "any_value", "random_normal", "range_agg", "unistr", "range_intersect_agg"}
    assert (PLAIN | STABLE | VOLATILE | AGGREGATES) - known <= newer
    assert (PLAIN | STABLE | AGGREGATES) & volatile == set()
    hypothetical = {"rank", "dense_rank", "percent_rank", "cume_dist"}  # aggregates by WITHIN GROUP alone
    assert aggregates & (PLAIN | STABLE | VOLATILE) == hypothetical
    assert AGGREGATES - newer <= aggregates


def test_long_and_deep_statements_are_told_as_not_understood_or_analysed() -> None:
    flat = parse("SELECT * FROM t WHERE " + " OR ".join(f"a = {number}" for number in range(5000)))
    assert len(flat.blocks[0].filters[0].condition.parts) == 5000  # type: ignore[union-attr]
    deep = parse("SELECT " + "(" * 3000 + "1" + ")" * 3000)
    nested = parse("SELECT " + "(SELECT " * 200 + "1" + ")" * 200)
    for query in (deep, nested):
        assert query.reads or query.unsure


WORDS = st.sampled_from(
    """SELECT FROM WHERE WITH x AS ( ) , . * = < IN ANY NOT NULL t u a b 1 'x' $1 JOIN LEFT ON USING GROUP BY ORDER
    LIMIT UNION INSERT INTO VALUES UPDATE SET DELETE RETURNING EXISTS count(*) LATERAL RECURSIVE DISTINCT CASE
    WHEN""".split()  # noqa: SIM905
)


@given(st.lists(WORDS, max_size=25).map(" ".join) | st.text(max_size=40))
@example("SELECT '%é'")
@settings(deadline=None)  # the first example imports the grammar
def test_nothing_makes_it_fail(sql: str) -> None:
    for style in ("numeric", "format", "named"):
        query = parse(sql, style)  # type: ignore[arg-type]
        assert query.blocks or query.unsure


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM t TABLESAMPLE SYSTEM (1) WHERE a=1",
        "SELECT * FROM ROWS FROM (generate_series(1,2), unnest(ARRAY[1])) WITH ORDINALITY AS x",
        "SELECT * FROM t, LATERAL (SELECT * FROM u WHERE u.a=t.a) x",
        "SELECT * FROM (VALUES (1),(2)) v(a)",
        "SELECT * FROM XMLTABLE('/a' PASSING '<a/>' COLUMNS x int PATH 'b')",
        "SELECT * FROM JSON_TABLE('[]', '$' COLUMNS (a int PATH '$.a')) j",
        "MERGE INTO t USING u ON t.a=u.a WHEN MATCHED THEN DELETE",
        "WITH x AS (MERGE INTO t USING u ON t.a=u.a WHEN MATCHED THEN DELETE RETURNING t.a) SELECT * FROM x",
        "UPDATE t SET a[1]=2, b.c=3 WHERE CURRENT OF cur",
        "INSERT INTO t (a[1], b.c) VALUES (1,2)",
        "INSERT INTO t SELECT * FROM u UNION SELECT * FROM v",
        "INSERT INTO t WITH x AS (SELECT 1) SELECT * FROM x",
        "INSERT INTO t TABLE u",
        "INSERT INTO t (a) VALUES ((SELECT max(a) FROM t))",
        "SELECT a FROM t WHERE (a,b) IN ((1,2),(3,4))",
        "SELECT a FROM t WHERE (a,b) IN (SELECT 1,2)",
        "SELECT a FROM t WHERE a > ALL (SELECT 1)",
        "SELECT a FROM t WHERE ROW(a,b) = ROW(1,2) AND (a,b) OVERLAPS (1,2)",
        "SELECT * FROM t JOIN (u JOIN v USING (b)) AS j USING (a)",
        "SELECT * FROM t JOIN u USING (a) AS x WHERE x.a=1",
        "SELECT t FROM t",
        "SELECT t.* FROM t ORDER BY t.*",
        "SELECT count(*) FROM t GROUP BY GROUPING SETS ((a),())",
        "SELECT CASE WHEN a=1 THEN (SELECT 1 FROM u) END FROM t",
        "VALUES (1)",
        "SELECT * FROM only (t)",
        'SELECT * FROM t WHERE a = $1 COLLATE "C"',
        "DELETE FROM t USING u WHERE t.a=u.a RETURNING *",
        "SELECT 1e400, 0x1F, 0b11, 1_000, B'10'",
        "SELECT * FROM a.b.c WHERE a.b.c.d=1",
        "INSERT INTO t DEFAULT VALUES ON CONFLICT ON CONSTRAINT x DO NOTHING",
        "SELECT * FROM t WHERE NOT (a,b) = (1,2) AND a IS JSON",
        "TABLE t",
        "SELECT FROM t",
        "UPDATE t SET (a,b) = (SELECT 1,2)",
        "SELECT a.b.c FROM t",
        "SELECT (t).a FROM t",
        "SELECT * FROM t WHERE a = 0x1F AND b=1_000",
        "select * from f(1) as (a int)",
        "select * from t where a operator(pg_catalog.=) 1",
    ],
)
def test_the_odd_corners_of_the_grammar(sql: str) -> None:
    query = parse(sql)
    assert query.verb != "unknown"
    assert query.blocks or query.unsure
    assert all(table.name in "tuvc" for table in query.tables)
