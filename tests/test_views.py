"""Views on both databases: the same rows, or left out with the reason and the original."""
# ruff: noqa: E501 - the lists of queries are wide

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from migrated import migrate
from test_dialect import listed, plain

TABLES = """
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT COLLATE NOCASE, active BOOLEAN, joined DATE, at DATETIME);
CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER REFERENCES users(id), total DECIMAL(10,2), qty INTEGER, note TEXT, state TEXT);
CREATE TABLE "Odd Table" ("Key" TEXT, "select" INTEGER, "a%b" INTEGER, PRIMARY KEY ("Key", "select"));
INSERT INTO users VALUES (1, 'Ann', 'Ann@x.org', 1, '2024-01-31', '2024-01-31 10:00:00'), (2, 'bob', 'bob@x.org', 0, '2023-05-05', '2023-05-05 00:00:00'),
  (3, 'Çelik', NULL, NULL, NULL, NULL), (4, 'ann', 'ANN@X.ORG', 1, '2024-02-29', '2024-02-29 23:59:59');
INSERT INTO orders VALUES (1, 1, 10.5, 2, 'a', 'new'), (2, 1, 20, 1, NULL, 'paid'), (3, 2, 0.1, 7, 'b', 'paid'), (4, NULL, NULL, NULL, '100%', 'new'), (5, 4, 99.99, 3, 'a', NULL);
INSERT INTO "Odd Table" VALUES ('k', 1, 5), ('k', 2, NULL), ('', 1, 7);
"""

SAME = r"""
SELECT * FROM users ¦ SELECT name, active FROM users WHERE active ¦ SELECT u.*, o.total FROM users u JOIN orders o ON o.user_id = u.id
SELECT u.name, o.qty FROM users u LEFT JOIN orders o ON o.user_id = u.id AND o.qty > 1 ¦ SELECT a.id, b.id FROM users a, users b WHERE a.id < b.id
SELECT user_id, count(*) AS n, sum(qty) AS q, total(qty) t FROM orders GROUP BY user_id ¦ SELECT state, max(qty) FROM orders GROUP BY state HAVING count(*) > 1
SELECT u.id, u.name, count(o.id) FROM users u LEFT JOIN orders o ON u.id = o.user_id GROUP BY u.id ¦ SELECT u.name, sum(o.qty) FROM users u JOIN orders o ON u.id = o.user_id GROUP BY u.id ORDER BY 2 DESC, u.id
SELECT count(*) FROM orders ¦ SELECT count(*), min(qty), max(note) FROM orders WHERE qty > 100 ¦ SELECT DISTINCT state FROM orders ¦ SELECT DISTINCT note, state FROM orders ORDER BY note
SELECT id FROM users UNION SELECT user_id FROM orders ¦ SELECT id, 'u' AS kind FROM users UNION ALL SELECT id, 'o' FROM orders ORDER BY kind, id ¦ SELECT id FROM users EXCEPT SELECT user_id FROM orders
SELECT id FROM users INTERSECT SELECT user_id FROM orders UNION SELECT 9 ¦ SELECT NULL AS x UNION ALL SELECT qty FROM orders ¦ SELECT 1 AS x UNION SELECT 2.5
SELECT * FROM users ORDER BY name ¦ SELECT * FROM users ORDER BY name DESC ¦ SELECT name FROM users ORDER BY joined, id LIMIT 2 ¦ SELECT id FROM orders ORDER BY qty DESC LIMIT 2 OFFSET 1 ¦ SELECT id FROM orders ORDER BY id LIMIT 1, 2
SELECT id FROM orders ORDER BY qty NULLS LAST, id ¦ SELECT id FROM orders ORDER BY id LIMIT -1 ¦ SELECT name AS n FROM users ORDER BY n ¦ SELECT email FROM users ORDER BY email, id
SELECT x.n FROM (SELECT name AS n FROM users WHERE active = 1) x ¦ SELECT s.total * 2 FROM (SELECT user_id, sum(qty) AS total FROM orders GROUP BY user_id) AS s
WITH big AS (SELECT * FROM orders WHERE qty > 1) SELECT u.name, b.qty FROM users u JOIN big b ON b.user_id = u.id ¦ WITH a(x, y) AS (SELECT id, name FROM users), b AS (SELECT x FROM a) SELECT * FROM b
SELECT name FROM users u WHERE EXISTS (SELECT 1 FROM orders o WHERE o.user_id = u.id AND o.qty > 2) ¦ SELECT name FROM users WHERE id IN (SELECT user_id FROM orders) ¦ SELECT name FROM users WHERE id NOT IN (SELECT user_id FROM orders WHERE user_id IS NOT NULL)
SELECT name, (SELECT max(qty) FROM orders o WHERE o.user_id = users.id) AS most FROM users ¦ SELECT (SELECT name FROM users ORDER BY id DESC LIMIT 1) AS last ¦ SELECT id, (SELECT count(*) FROM users) AS all_users FROM users
SELECT id, qty > 1 AS big, qty IS NULL AS missing FROM orders ¦ SELECT id, CASE WHEN qty > 1 THEN 'big' ELSE 'small' END size FROM orders ¦ SELECT id, ifnull(note, '') || '!' AS shout FROM orders
SELECT "no such" AS t, id FROM users ¦ SELECT 'it''s 100% :x ?' AS t ¦ SELECT "select", "a%b" + 1 AS "p%q" FROM "Odd Table" ¦ SELECT [Key] FROM `odd table` WHERE "a%b" IS NOT NULL ¦ SELECT rowid, name FROM users ¦ SELECT u._rowid_ FROM users u
SELECT total > 10 AS dear FROM orders ¦ SELECT total FROM orders WHERE total >= 0.1 ¦ SELECT avg(qty) FROM orders ¦ SELECT date(at) AS d, count(*) FROM users GROUP BY date(at) ¦ SELECT strftime('%Y-%m', at) AS month, count(*) AS n FROM users GROUP BY 1 ORDER BY month
SELECT strftime('%Y', joined) y, count(*) FROM users GROUP BY y ¦ SELECT name FROM users WHERE joined >= '2024-01-01' AND at < '2024-02-01' ¦ SELECT max(at), min(joined) FROM users ¦ SELECT julianday(at) - julianday(joined) AS days FROM users
SELECT state, count(*) AS n FROM orders GROUP BY state ORDER BY n DESC, state ¦ SELECT qty AS q FROM orders WHERE q > 1 ¦ SELECT user_id, count(*) c FROM orders GROUP BY 1 HAVING c > 1 ¦ SELECT coalesce(state, 'none') AS s, count(*) FROM orders GROUP BY coalesce(state, 'none')
SELECT u.id FROM users u JOIN orders o USING (id) ¦ SELECT id, qty FROM users JOIN orders USING (id) ¦ SELECT * FROM (SELECT id, name FROM users) a LEFT JOIN (SELECT id, qty FROM orders) b USING (id) ¦ SELECT o.id FROM orders o CROSS JOIN users u ON u.id = o.user_id
SELECT count(DISTINCT state), count(*) FILTER (WHERE qty > 1) FROM orders ¦ SELECT name FROM users WHERE email = 'ANN@X.ORG' ¦ SELECT name FROM users WHERE name LIKE 'a%' ¦ SELECT group_concat(DISTINCT qty) FROM orders WHERE qty = 1 ¦ SELECT u1.name FROM users u1 JOIN users u2 ON u1.email = u2.email AND u1.id <> u2.id
SELECT u.name, o.qty, w.id FROM users u JOIN (orders o JOIN users w ON w.id = o.user_id OR o.qty = 7) ON o.user_id = u.id ¦ SELECT o.id, w.id FROM ((users u JOIN orders o ON o.user_id = u.id) LEFT JOIN users w ON w.id = o.qty) ¦ SELECT u.id, orders.id FROM users u LEFT JOIN (orders) ON orders.user_id = u.id ¦ SELECT * FROM users u JOIN (orders o, "Odd Table" k) ON o.user_id = u.id AND k."select" = o.id
SELECT o.desc, desc AS end FROM (SELECT note AS desc, id FROM orders) o WHERE desc IS NOT NULL ORDER BY o.desc, o.id ¦ SELECT name, max(id) FROM users ¦ SELECT active, count(*) FROM users GROUP BY active ¦ SELECT sum(active) FROM users ¦ SELECT id FROM users WHERE NOT active ¦ SELECT id, active = 1 AS yes FROM users ¦ SELECT max(active) FROM users ¦ SELECT 1 AS one, NULL AS nought, 2.5 AS real, x'00' AS blob
"""


class Views:
    def __init__(self, directory: Path, connection: psycopg.Connection[Any]) -> None:
        self.directory, self.connection, self.count = directory, connection, 0

    def create(self, *views: str, **options: Any) -> Any:
        self.count += 1
        sql = TABLES + ";\n".join(views)
        return migrate(self.directory, sql, self.connection, schema_name=f"s{self.count}", **options)


@pytest.fixture(scope="module")
def views(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Views]:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS test_views WITH (FORCE)")
        connection.execute("CREATE DATABASE test_views")
    with psycopg.connect(server.url.rsplit("/", 1)[0] + "/test_views", autocommit=True) as connection:
        yield Views(tmp_path_factory.mktemp("views"), connection)


def rows(found: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [tuple(round(value, 9) if isinstance(value, float) else value for value in map(plain, row)) for row in found]


def test_views_have_the_same_rows(views: Views) -> None:
    """All of them in one database: a view that is missing, or differs, is named."""
    queries = listed(SAME)
    made = views.create(*(f"CREATE VIEW v{place} AS {query}" for place, query in enumerate(queries)))
    left_out = {finding.where: finding.says for finding in made.finding("view-left-out")}
    for place, query in enumerate(queries):
        assert f"v{place}" not in left_out, (query, left_out[f"v{place}"])
        ours = rows(made.ask(f'SELECT * FROM s{views.count}."v{place}"'))
        theirs = rows(made.ask_source(f"SELECT * FROM v{place}"))
        if "ORDER BY" not in query or "max(qty)" in query:
            ours, theirs = sorted(ours, key=repr), sorted(theirs, key=repr)
        sql = next(view.sql for view in made.target.schema.views if view.name == f"v{place}")
        assert ours == theirs, (query, sql)


LEFT_OUT = r"""
SELECT name, count(*) FROM users GROUP BY active ¦ SELECT name, max(id), min(id) FROM users ¦ SELECT (SELECT max(users.id) FROM orders) AS x FROM users ¦ SELECT name, max(id) FILTER (WHERE active) FROM users ¦ SELECT * FROM users LIMIT 1 ¦ SELECT email, count(*) FROM users GROUP BY email
SELECT DISTINCT email FROM users ¦ SELECT * FROM json_each('[1]') ¦ SELECT id FROM users UNION SELECT name FROM users ¦ SELECT value FROM generate_series(1, 3)
SELECT name FROM users NATURAL FULL JOIN orders ¦ SELECT id FROM users LIMIT (SELECT 1) ¦ SELECT strftime('%W', at) FROM users ¦ SELECT round(total, 1) FROM orders ¦ SELECT id FROM users ORDER BY random() LIMIT 1 + 1
SELECT users.id FROM users, orders WHERE name = state AND id = 1 ¦ SELECT u.id FROM users u LEFT JOIN (orders o JOIN users w ON w.id = o.user_id) ON o.user_id = u.id
"""


def test_what_cannot_be_told_truly_is_left_out(views: Views) -> None:
    queries = listed(LEFT_OUT)
    made = views.create(*(f"CREATE VIEW v{place} AS {query}" for place, query in enumerate(queries)))
    assert made.target.schema.views == ()
    left_out = {finding.where: finding for finding in made.finding("view-left-out")}
    for place, query in enumerate(queries):
        assert left_out[f"v{place}"].original == f"CREATE VIEW v{place} AS {query}"
        assert left_out[f"v{place}"].says.startswith("the view is left out: ")


def test_views_follow_those_they_read(views: Views) -> None:
    made = views.create(
        "CREATE VIEW a AS SELECT x + 1 AS y FROM b",
        "CREATE VIEW b(x) AS SELECT max(id) FROM users",
        "CREATE VIEW lost AS SELECT median(id) AS m FROM users",
        "CREATE VIEW leans AS SELECT m FROM lost",
        "CREATE VIEW ring AS SELECT 1 AS one FROM ring",
    )
    assert [view.name for view in made.target.schema.views] == ["b", "a"]
    assert made.ask(f"SELECT y FROM s{views.count}.a") == [(5,)]
    left_out = made.finding("view-left-out")
    assert {finding.where for finding in left_out} == {"lost", "leans", "ring"}
    assert all(finding.original.startswith("CREATE VIEW") for finding in left_out)


def test_renamed_tables_are_found(views: Views) -> None:
    made = views.create('CREATE VIEW "Big View" AS SELECT u."NAME" AS "Full Name" FROM Users u', identifiers="snake")
    assert made.ask(f'SELECT full_name FROM s{views.count}.big_view ORDER BY full_name COLLATE "C"')[0] == ("Ann",)
    (columns,) = made.target.views
    assert (columns.source, columns.target) == ("Big View", "big_view")
    assert [(each.source, each.target, each.conversion.to) for each in columns.columns] == [
        ("Full Name", "full_name", "text")
    ]


def test_columns_tell_how_they_read(views: Views) -> None:
    made = views.create(
        "CREATE VIEW v AS SELECT active, at, qty * 2 AS twice, total, date(at) AS d FROM users JOIN orders ON user_id = users.id"
    )
    (columns,) = made.target.views
    found = {
        each.source: (each.conversion.to, each.conversion.integers, each.conversion.texts) for each in columns.columns
    }
    assert found["active"][:2] == ("boolean", "bool")
    assert found["at"] == ("timestamp", "", "iso")
    assert found["twice"] == ("bigint", "keep", "")
    assert found["d"] == ("date", "", "iso")
