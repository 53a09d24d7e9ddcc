"""The fixtures themselves: what they promise to the other tests has to be true."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psycopg
import pytest

from fix_postgres import Postgres
from fix_proxy import Proxy

Through = Callable[[str], Proxy]


def connect(url: str) -> psycopg.Connection:
    return psycopg.connect(url, autocommit=True, connect_timeout=5)


def test_each_version_is_what_it_says(server: Postgres) -> None:
    with connect(server.url) as connection:
        found = connection.info.server_version // 10000
    assert server.version in ("container", str(found))


def test_each_test_has_a_database_of_its_own(database: str, new_database: Callable[..., str]) -> None:
    with connect(database) as connection:
        connection.execute("CREATE TABLE here AS SELECT 1 AS n")
        name = connection.info.dbname
    copy = new_database(template=name)
    assert copy != database
    with connect(copy) as connection:
        assert connection.execute("SELECT n FROM here").fetchall() == [(1,)]
    with connect(new_database()) as connection:
        assert connection.execute("SELECT to_regclass('here')").fetchone() == (None,)


@pytest.mark.container
def test_a_server_in_a_container(container_url: str) -> None:
    with connect(container_url) as connection:
        assert connection.execute("SELECT current_user, current_database()").fetchone() == ("postgres", "dbscale")
    with pytest.raises(psycopg.OperationalError, match="password"):
        connect(container_url.replace(":secret@", ":wrong@"))


def test_a_proxy_forwards(database: str, proxy: Through) -> None:
    with connect(proxy(database).url) as connection:
        [[text]] = connection.execute("SELECT repeat('x', 1000000)").fetchall()
    assert len(text) == 1_000_000


def test_a_proxy_cuts(database: str, proxy: Through) -> None:
    between = proxy(database)
    with connect(between.url) as connection:
        between.cut()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with connect(between.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert between.connections == 2


def test_a_proxy_cuts_in_mid_copy(database: str, proxy: Through) -> None:
    between = proxy(database)
    with connect(between.url) as connection:
        connection.execute("CREATE TABLE t (x text)")
        between.cut_after(1_000_000)
        with pytest.raises(psycopg.OperationalError), connection.cursor().copy("COPY t FROM STDIN") as copy:  # noqa: PT012
            for _ in range(1000):
                copy.write(b"x" * 9999 + b"\n")
    with connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_a_proxy_refuses_and_resumes(database: str, proxy: Through) -> None:
    between = proxy(database)
    with connect(between.url) as connection:
        between.refuse()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="refused"):
        connect(between.url)
    between.resume()
    connect(between.url).close()


def test_a_proxy_stalls_and_resumes(database: str, proxy: Through) -> None:
    between = proxy(database)
    answers: list[object] = []
    with connect(between.url) as connection:
        between.stall()
        asking = threading.Thread(target=lambda: answers.append(connection.execute("SELECT 1").fetchone()))
        asking.start()
        time.sleep(0.3)
        assert not answers
        between.resume()
        asking.join(timeout=10)
    assert answers == [(1,)]
