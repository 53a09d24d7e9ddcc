"""Views of random rows, migrated and verified: windows, WITH that names itself, and what leaves its order open."""
# ruff: noqa: E501 - the lists of queries are wide

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import apsw
import pytest

from dbscale.cli import run
from test_dialect import listed

TABLES = """
CREATE TABLE t (id INTEGER PRIMARY KEY, g TEXT, n INTEGER, r REAL, d DECIMAL(8,2), s TEXT, k TEXT COLLATE NOCASE,
                b BOOLEAN, day DATE, at DATETIME, mixed, parent INTEGER REFERENCES t(id));
CREATE TABLE edge (a INTEGER, b INTEGER);
CREATE TABLE tag (t_id INTEGER NOT NULL REFERENCES t(id), label TEXT NOT NULL, weight INTEGER, UNIQUE (t_id, label));
"""
WORDS = ("가", "나다", "가나", "a", "A", "b", "", "É", "10", "9", "zz", None)

SETTLED = r"""
SELECT id, row_number() OVER (ORDER BY id) AS p FROM t ¦ SELECT id, ROW_NUMBER() OVER (PARTITION BY g ORDER BY n DESC, id) p FROM t ¦ SELECT id, rank() OVER (ORDER BY n) AS a, dense_rank() OVER (ORDER BY n) AS b FROM t ¦ SELECT id, rank() OVER (PARTITION BY g ORDER BY s DESC NULLS FIRST) FROM t
SELECT id, rank() OVER (ORDER BY n NULLS LAST) AS a, rank() OVER (ORDER BY n DESC) AS b, rank() OVER () AS c FROM t ¦ SELECT id, percent_rank() OVER (PARTITION BY g ORDER BY r) AS p, cume_dist() OVER (ORDER BY n) AS c FROM t ¦ SELECT id, ntile(4) OVER (ORDER BY n, id) FROM t
SELECT id, lag(n) OVER (ORDER BY id) AS a, lead(n) OVER (ORDER BY id) AS b, lag(n, 2, -1) OVER (PARTITION BY g ORDER BY id) AS c, lead(s, 3, '없음') OVER (ORDER BY id) AS d, lag(n, 0) OVER (ORDER BY id) e FROM t ¦ SELECT id, lag(day) OVER (ORDER BY id) AS a, lead(at) OVER (ORDER BY id DESC) AS b, lag(b, 1, 0) OVER (ORDER BY id) AS c, lag(d) OVER (ORDER BY id) AS e, lag(k) OVER (ORDER BY id) AS f FROM t
SELECT id, first_value(s) OVER (ORDER BY id) AS a, last_value(s) OVER (ORDER BY id) AS b, last_value(n) OVER (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS c, nth_value(n, 2) OVER (PARTITION BY g ORDER BY id) AS d FROM t ¦ SELECT id, first_value(n) OVER (PARTITION BY g ORDER BY n) AS lowest, last_value(n) OVER (PARTITION BY g ORDER BY n) AS own FROM t
SELECT id, sum(n) OVER (ORDER BY n) AS a, count(*) OVER (ORDER BY n) AS b, avg(n) OVER (PARTITION BY g ORDER BY day) AS c, total(n) OVER (PARTITION BY g) AS d, count(s) OVER () AS e FROM t ¦ SELECT id, min(n) OVER w AS a, max(s) OVER w AS b, min(day) OVER w AS c, max(b) OVER w AS d, sum(d) OVER w AS e FROM t WINDOW w AS (PARTITION BY g ORDER BY n)
SELECT id, sum(n) OVER (ORDER BY id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS a, avg(r) OVER (ORDER BY id ROWS 6 PRECEDING) AS b, max(n) OVER (ORDER BY id ROWS BETWEEN 1 FOLLOWING AND 3 FOLLOWING) AS c, min(s) OVER (ORDER BY id DESC ROWS BETWEEN 3 PRECEDING AND 1 PRECEDING) AS d FROM t
SELECT id, sum(n) OVER (ORDER BY n RANGE BETWEEN 2 PRECEDING AND 1 FOLLOWING) AS a, count(*) OVER (ORDER BY n DESC RANGE BETWEEN 3 PRECEDING AND CURRENT ROW) AS b, count(*) OVER (ORDER BY n NULLS LAST RANGE BETWEEN UNBOUNDED PRECEDING AND 2 FOLLOWING) AS c FROM t
SELECT id, sum(n) OVER (ORDER BY g GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING) AS a, count(*) OVER (ORDER BY n GROUPS BETWEEN CURRENT ROW AND 2 FOLLOWING EXCLUDE CURRENT ROW) AS b, sum(n) OVER (ORDER BY g GROUPS 1 PRECEDING EXCLUDE TIES) AS c, count(*) OVER (ORDER BY n ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING EXCLUDE GROUP) AS d, sum(n) OVER (ORDER BY s RANGE UNBOUNDED PRECEDING EXCLUDE NO OTHERS) AS e FROM t
SELECT id, count(*) FILTER (WHERE n > 0) OVER (PARTITION BY g) AS a, sum(n) FILTER (WHERE b) OVER (ORDER BY id) AS b FROM t ¦ SELECT id, sum(n) OVER (w ORDER BY id) AS a, row_number() OVER (w ORDER BY id DESC) AS b, count(*) OVER w AS c FROM t WINDOW w AS (PARTITION BY g) ¦ SELECT id, sum(n) OVER late FROM t WINDOW base AS (PARTITION BY g), late AS (base ORDER BY id ROWS 1 PRECEDING)
SELECT g, sum(n) AS total, rank() OVER (ORDER BY sum(n) DESC) AS place FROM t GROUP BY g ¦ SELECT g, row_number() OVER (ORDER BY count(*) DESC, g) AS place FROM t GROUP BY g ¦ SELECT g, sum(sum(n)) OVER (ORDER BY g) AS running FROM t GROUP BY g ORDER BY running, g ¦ SELECT g, count(*) * 100.0 / sum(count(*)) OVER () AS share FROM t GROUP BY g
SELECT * FROM (SELECT id, g, n, row_number() OVER (PARTITION BY g ORDER BY n DESC, id DESC) AS rn FROM t) x WHERE rn = 1 ¦ WITH ranked AS (SELECT *, row_number() OVER (PARTITION BY g ORDER BY at, id) AS rn FROM t) SELECT r.id, r.s, e.s AS other FROM ranked r LEFT JOIN t e ON e.id = r.parent WHERE r.rn <= 2 ¦ SELECT id, n - lag(n) OVER (ORDER BY id) AS change, CASE WHEN n > lag(n) OVER (ORDER BY id) THEN 'up' ELSE 'down' END AS way FROM t
SELECT t.id, tag.label, row_number() OVER (ORDER BY tag.weight, t.id, tag.label) AS p FROM t JOIN tag ON tag.t_id = t.id ¦ SELECT tag.t_id, tag.label, t.s, row_number() OVER (PARTITION BY tag.t_id ORDER BY tag.label) AS p FROM tag JOIN t ON t.id = tag.t_id ¦ SELECT c.id, p.s, row_number() OVER (ORDER BY c.n, c.id) AS q FROM t c LEFT JOIN t p ON c.parent = p.id
SELECT DISTINCT first_value(g) OVER (ORDER BY g) AS lowest, count(*) OVER () AS n FROM t ¦ SELECT id, n FROM t ORDER BY row_number() OVER (ORDER BY id DESC) ¦ SELECT id, sum(n) OVER (PARTITION BY n % 2 ORDER BY -id) AS x FROM t ¦ SELECT id, rank() OVER (PARTITION BY k ORDER BY n) AS a, rank() OVER (ORDER BY k) AS b, rank() OVER (ORDER BY k DESC) c FROM t ¦ SELECT id, n / 2 AS half, sum(n / 3) OVER (ORDER BY id) AS x FROM t ¦ SELECT g, group_concat(s, '/') OVER (PARTITION BY g ORDER BY id) AS path FROM t
SELECT x.label, row_number() OVER (ORDER BY x.total DESC, x.label) AS place FROM (SELECT label, sum(weight) AS total FROM tag GROUP BY label) x ¦ SELECT row_number() OVER (ORDER BY x.s) AS p, x.s FROM (SELECT DISTINCT s FROM t) x ¦ SELECT row_number() OVER (ORDER BY u.v) AS p FROM (SELECT n AS v FROM t UNION SELECT weight FROM tag) u ¦ SELECT g, group_concat(s, ',' ORDER BY s) AS l FROM t GROUP BY g ¦ SELECT group_concat(s ORDER BY n DESC, id) AS l FROM t ¦ SELECT string_agg(s, '-' ORDER BY id) FROM t
WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 30) SELECT x, x * x AS y FROM c ¦ WITH RECURSIVE c(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM c WHERE x < 5) SELECT c.x, t.s FROM c LEFT JOIN t ON t.n = c.x ¦ WITH c AS (SELECT 1 AS x UNION ALL SELECT x * 2 FROM c WHERE x < 1000) SELECT sum(x) FROM c
WITH RECURSIVE tree(id, depth, path) AS (SELECT id, 0, ifnull(s, '') FROM t WHERE parent IS NULL UNION ALL SELECT t.id, tree.depth + 1, tree.path || '/' || ifnull(t.s, '뿌리') FROM t JOIN tree ON t.parent = tree.id) SELECT * FROM tree ¦ WITH RECURSIVE up(id, above) AS (SELECT id, parent FROM t UNION ALL SELECT up.id, t.parent FROM up JOIN t ON t.id = up.above) SELECT id, count(above) AS depth FROM up GROUP BY id
WITH RECURSIVE reach(a, b) AS (SELECT a, b FROM edge UNION SELECT reach.a, edge.b FROM reach JOIN edge ON edge.a = reach.b) SELECT * FROM reach ¦ WITH RECURSIVE near(x, steps) AS (SELECT 1, 0 UNION SELECT edge.b, steps + 1 FROM near, edge WHERE edge.a = near.x AND steps < 4) SELECT x, min(steps) AS steps FROM near GROUP BY x ¦ WITH RECURSIVE r(a) AS (SELECT 1 UNION SELECT 2 UNION SELECT edge.b FROM edge JOIN r ON edge.a = r.a) SELECT a FROM r
WITH RECURSIVE sums(id, total) AS (SELECT id, 0 FROM t WHERE parent IS NULL UNION ALL SELECT t.id, sums.total + ifnull(t.r, 0.5) FROM sums JOIN t ON t.parent = sums.id) SELECT id, total FROM sums ¦ WITH RECURSIVE n(x, y) AS (SELECT id, NULL FROM t WHERE parent IS NULL UNION ALL SELECT t.id, n.x FROM t JOIN n ON t.parent = n.x) SELECT * FROM n ¦ WITH RECURSIVE d(id, b, day, at, k) AS (SELECT id, b, day, at, g FROM t WHERE parent IS NULL UNION ALL SELECT t.id, t.b, d.day, d.at, d.k FROM t JOIN d ON t.parent = d.id) SELECT * FROM d
WITH RECURSIVE a AS (SELECT id, g FROM t WHERE n > 0), c(x) AS (SELECT min(id) FROM a UNION ALL SELECT x + 1 FROM c WHERE x < (SELECT max(id) FROM a)) SELECT c.x, a.g FROM c LEFT JOIN a ON a.id = c.x ¦ WITH RECURSIVE s(rest, part) AS (SELECT 'a,b,나,', '' UNION ALL SELECT substr(rest, instr(rest, ',') + 1), substr(rest, 1, instr(rest, ',') - 1) FROM s WHERE rest <> '') SELECT part FROM s WHERE part <> ''
SELECT g, s, max(id) AS last FROM t GROUP BY g ¦ SELECT s, day, min(id) FROM t ¦ SELECT g, n, max(id) AS last, count(*) AS c FROM t GROUP BY g HAVING count(*) > 1 ORDER BY n, g ¦ SELECT t.id, t.s, count(tag.label) AS c FROM t JOIN tag ON tag.t_id = t.id GROUP BY tag.t_id ¦ SELECT p.s, p.n + 1 AS m, sum(c.n) AS total FROM t c JOIN t p ON p.id = c.parent GROUP BY c.parent ¦ SELECT g, (SELECT count(*) FROM tag) AS tags, count(*) AS c, (SELECT count(*) FROM t o WHERE o.g = t.g) AS again FROM t GROUP BY g
SELECT g, count(*) AS c, rank() OVER (ORDER BY max(id)) AS place, s FROM t GROUP BY g ¦ SELECT id, label FROM t NATURAL JOIN (SELECT t_id AS id, label FROM tag) ¦ SELECT * FROM t NATURAL LEFT JOIN (SELECT t_id AS id, label FROM tag WHERE weight = 1) x
SELECT julianday('2024-03-01') - julianday(day) AS days FROM t ¦ SELECT id FROM t WHERE day >= date('2024-02-01', '-15 days') ¦ SELECT id, at < datetime(day, '+1 day') AS early FROM t ¦ WITH RECURSIVE c(d) AS (SELECT date('2024-02-27') UNION ALL SELECT date(d, '+1 day') FROM c WHERE d < '2024-03-03') SELECT c.d, count(t.id) AS n FROM c LEFT JOIN t ON t.day = c.d GROUP BY c.d
SELECT * FROM (VALUES (1, 'a'), (2, '나'), (NULL, 'c')) ¦ VALUES (1, 'x'), (2, NULL) ¦ SELECT v.column1, t.id FROM (VALUES (1), (2)) v JOIN t ON t.id = v.column1 ¦ SELECT id FROM t WHERE n IN (VALUES (1), (2), (3)) ¦ SELECT 1.5 AS x UNION ALL SELECT n FROM t ¦ SELECT id, (SELECT label FROM tag WHERE t_id = t.id ORDER BY label LIMIT 1) AS first FROM t ¦ SELECT id, (SELECT p.s FROM t p WHERE p.id = t.parent) AS above FROM t ¦ SELECT * FROM t ORDER BY n, id LIMIT 7 ¦ SELECT n FROM t ORDER BY n LIMIT 5
"""

OPEN = r"""
SELECT id, row_number() OVER (ORDER BY n) FROM t ¦ SELECT id, row_number() OVER () FROM t ¦ SELECT id, lag(id) OVER (PARTITION BY g ORDER BY n) FROM t ¦ SELECT id, sum(id) OVER (ORDER BY n ROWS UNBOUNDED PRECEDING) FROM t ¦ SELECT id, first_value(s) OVER (ORDER BY n) FROM t ¦ SELECT id, ntile(3) OVER (ORDER BY g) FROM t ¦ SELECT id, row_number() OVER (ORDER BY k) FROM t
SELECT id FROM t ORDER BY n LIMIT 3 ¦ SELECT id, (SELECT weight FROM tag WHERE t_id = t.id) FROM t ¦ SELECT id, (SELECT label FROM tag WHERE t_id = t.id ORDER BY weight) FROM t ¦ SELECT g, group_concat(s) FROM t GROUP BY g ¦ SELECT g, group_concat(s, '/' ORDER BY n) FROM t GROUP BY g ¦ SELECT tag.label, row_number() OVER (ORDER BY t.id) FROM t JOIN tag ON tag.t_id = t.id ¦ SELECT t.id, row_number() OVER (ORDER BY t.id) FROM t LEFT JOIN tag ON tag.t_id = t.id AND tag.weight = 1
SELECT g, id, max(n) FROM t GROUP BY g ¦ SELECT a, row_number() OVER (ORDER BY a, b) FROM edge ¦ SELECT row_number() OVER (ORDER BY x.n) FROM (SELECT n FROM t UNION ALL SELECT id FROM t) x ¦ SELECT row_number() OVER (ORDER BY a.id) FROM t a, t b
"""

REFUSED = r"""
SELECT rank() OVER (ORDER BY mixed) FROM t ¦ SELECT count(*) OVER (PARTITION BY mixed) FROM t ¦ SELECT sum(n) OVER (ORDER BY r RANGE 1 PRECEDING) FROM t ¦ SELECT sum(n) OVER (ORDER BY day RANGE 1 PRECEDING) FROM t ¦ SELECT lag(n, id) OVER (ORDER BY id) FROM t ¦ SELECT lag(n, 1, 'x') OVER (ORDER BY id) FROM t ¦ SELECT group_concat(s) OVER (ORDER BY id ROWS 1 PRECEDING) FROM t ¦ SELECT median(n) OVER (ORDER BY id) FROM t
WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 5) SELECT x FROM c ¦ WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 5 ORDER BY 1) SELECT x FROM c ¦ WITH RECURSIVE c(x) AS (SELECT 1 UNION SELECT a FROM edge, c WHERE b = x UNION SELECT b FROM edge, c WHERE a = x) SELECT x FROM c ¦ WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT DISTINCT edge.b FROM edge, c WHERE edge.a = x AND x < 2) SELECT x FROM c
WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT t.id FROM t LEFT JOIN c ON t.id = c.x + 1 WHERE t.id < 3 AND c.x < 2) SELECT x FROM c ¦ WITH RECURSIVE c(x, y) AS (SELECT 1, 'a' UNION ALL SELECT x + 1, x FROM c WHERE x < 3) SELECT x FROM c ¦ WITH RECURSIVE c(x) AS (SELECT k FROM t UNION SELECT x FROM c) SELECT x FROM c ¦ WITH t AS (SELECT * FROM t) SELECT id FROM t ¦ WITH a AS (SELECT * FROM edge), edge AS (SELECT 1 AS a, 2 AS b) SELECT * FROM a
SELECT id, row_number() OVER (ORDER BY id) AS p FROM t WHERE p = 1 ¦ SELECT g, s, max(n), min(n) FROM t GROUP BY g ¦ SELECT g, (SELECT count(*) FROM tag WHERE t_id = t.id), count(*) FROM t GROUP BY g ¦ SELECT id FROM t WHERE at > datetime('2024-01-02') ¦ SELECT count(*) AS c FROM t WHERE c > 1 ¦ SELECT sum(n) AS c FROM t GROUP BY 1
"""


def rows(random_: random.Random) -> list[str]:
    """The rows of a database: NULLs, the same twice, texts of several languages, moments, a tree and a graph."""

    def text(value: Any) -> str:
        return "NULL" if value is None else "'" + str(value) + "'" if isinstance(value, str) else str(value)

    found = []
    for key in range(1, random_.randrange(60, 90)):
        day = random_.choice([None, f"2024-0{random_.randrange(1, 4)}-1{random_.randrange(3)}"])
        at = random_.choice([None, f"2024-01-0{random_.randrange(1, 4)} 0{random_.randrange(3)}:00:00"])
        values = [key, random_.choice(["x", "y", "서울", None]), random_.choice([None, *range(-4, 6)]),
                  random_.choice([None, -1.5, 0.0, 0.25, 2.5, 1e9]), random_.choice([None, 19.99, 0.1, 5, -3.5]),
                  random_.choice(WORDS), random_.choice(WORDS), random_.choice([None, 0, 1]), day, at,
                  random_.choice([1, 2.5, "1", "가"]), random_.choice([None, random_.randrange(1, key)]) if key > 1 else None]  # fmt: skip
        found.append(f"INSERT INTO t VALUES ({', '.join(map(text, values))})")
        labels = random_.sample(["a", "b", "다"], random_.randrange(3))
        found += [f"INSERT INTO tag VALUES ({key}, '{each}', {text(random_.choice([None, 1, 2]))})" for each in labels]
    ends = [(random_.randrange(1, 9), random_.choice([None, *range(1, 9)])) for _ in range(25)]
    found += [f"INSERT INTO edge VALUES ({a}, {text(b)})" for a, b in ends]
    return found


CALLS = [
    "row_number()",
    "rank()",
    "dense_rank()",
    "percent_rank()",
    "cume_dist()",
    "ntile(3)",
    "lag(n)",
    "lead(s)",
    "lag(n,2,0)",
    "lead(day)",
    "first_value(n)",
    "last_value(s)",
    "nth_value(d,2)",
    "sum(n)",
    "sum(r)",
    "avg(n)",
    "avg(r)",
    "count(*)",
    "count(s)",
    "min(n)",
    "max(s)",
    "min(day)",
    "max(b)",
    "total(n)",
    "sum(d)",
    "sum(b)",
]
TERMS = (
    "id",
    "g",
    "n",
    "r",
    "d",
    "s",
    "k",
    "b",
    "day",
    "at",
    "parent",
    "n % 3",
    "ifnull(n, 0)",
    "length(s)",
    "-n",
    "lower(g)",
)
DIRECTIONS = ("", " DESC", " NULLS LAST", " DESC NULLS FIRST")


def windows(random_: random.Random, count: int) -> list[str]:
    """Queries with windows at random: any function over any partition, order and frame, some of which SQLite refuses."""
    found = []
    for _ in range(count):
        far = random_.random() < 0.2  # RANGE by a distance has one term, a number
        picked = [random_.choice(("id", "n", "parent"))] if far else random_.sample(TERMS, random_.randrange(4))
        terms = [term + random_.choice(DIRECTIONS) for term in picked] + ["id"] * (not far and random_.random() < 0.5)
        unit = random_.choice(("ROWS", "RANGE", "GROUPS"))
        bounds = (
            [f"{random_.randrange(4)} PRECEDING", f"{random_.randrange(4)} FOLLOWING"] if far or unit != "RANGE" else []
        )
        start = random_.choice(["UNBOUNDED PRECEDING", "CURRENT ROW", *bounds])
        end = random_.choice(["UNBOUNDED FOLLOWING", "CURRENT ROW", *bounds])
        exclude = random_.choice(
            ("", "", " EXCLUDE NO OTHERS", " EXCLUDE CURRENT ROW", " EXCLUDE GROUP", " EXCLUDE TIES")
        )
        parts = [random_.choice(("", "PARTITION BY g", "PARTITION BY g, b", "PARTITION BY k", "PARTITION BY n % 2"))]
        parts.append("ORDER BY " + ", ".join(terms) if terms else "")
        parts.append(f"{unit} BETWEEN {start} AND {end}{exclude}" if random_.random() < 0.6 else "")
        window = " ".join(filter(None, parts))
        found.append(
            f"SELECT id, {random_.choice(CALLS)} OVER ({window}) AS a, {random_.choice(CALLS)} OVER w AS b FROM t WINDOW w AS ({window})"
        )
    return found


@pytest.mark.parametrize("seed", range(3))
def test_windows_and_recursion_have_the_same_rows(
    seed: int, database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every view is compared by `dbscale verify`: only those that leave their order open may differ."""
    blocks = {"settled": listed(SETTLED), "open": listed(OPEN), "refused": listed(REFUSED)}
    path = tmp_path / "views.db"
    connection = apsw.Connection(str(path))
    connection.execute(TABLES)
    for statement in rows(random.Random(seed)):
        connection.execute(statement)
    for block, queries in blocks.items():
        for place, query in enumerate(queries):
            connection.execute(f"CREATE VIEW {block}_{place} AS {query}")
    for place, query in enumerate(windows(random.Random(seed), 60)):
        with contextlib.suppress(apsw.SQLError):
            connection.execute(query)
            connection.execute(f"CREATE VIEW random_{place} AS {query}")
    ((made,),) = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'random%'")
    assert made > 40
    connection.close()
    assert run(["migrate", str(path), database, "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)["findings"]
    told = {
        code: {each["where"] for each in planned if each["code"] == code}
        for code in ("view-left-out", "view-order-open")
    }
    reasons = {each["where"]: each["says"] for each in planned if each["where"].startswith("settled_")}
    assert not reasons, [(blocks["settled"][int(name[8:])], says) for name, says in reasons.items()]
    listed_only = {code: {name for name in names if "random" not in name} for code, names in told.items()}
    assert listed_only["view-left-out"] == {f"refused_{place}" for place in range(len(blocks["refused"]))}
    assert listed_only["view-order-open"] == {f"open_{place}" for place in range(len(blocks["open"]))}
    assert len(told["view-left-out"] - listed_only["view-left-out"]) < 10
    assert run(["migrate", str(path), database, "--yes", "--no-verify"]) == 0
    capsys.readouterr()
    status = run(["verify", str(path), database, "--json", "--all-views"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    wrong = [each for each in findings if each["code"] != "verify-view-open"]
    assert not wrong, wrong
    assert status == 0
    assert {each["where"].removeprefix("public.") for each in findings} <= told["view-order-open"]
