"""config.py: the file, and every form in which people write down where a database is."""

from __future__ import annotations

import string
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import conninfo

from dbscale import config
from dbscale.config import Config, Database, Location, Replica, locate, parse
from dbscale.errors import ConfigError

SAMPLE = Path(__file__).parent.parent / "dbscale.toml"


def at(url: str, token: str = "") -> Location:
    return locate(Database(name="x", url=url, token=token))


# The file


def test_the_sample_file_is_read() -> None:
    sample = config.load(SAMPLE)
    assert {"sqlite", "turso", "postgres", "farms_1", "farms_2"} <= set(sample.databases)
    assert locate(sample.database("sqlite")).address == "marketplace.db"
    assert locate(sample.database("postgres")) == Location(kind="embedded", address="main", title="embedded")
    assert locate(sample.database("farms_1")).address == "farms_1"
    assert sample.shards == {"shard_1": "farms_1", "shard_2": "farms_2", "home": "postgres"}
    assert sample.indexes["idx_transactions_timestamp"] == "transactions (created_at)"


def test_without_a_file_there_are_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DBSCALE_CONFIG", raising=False)
    assert config.load() == Config()


def test_a_named_file_has_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no .*other\.toml"):
        config.load(tmp_path / "other.toml")
    monkeypatch.setenv("DBSCALE_CONFIG", str(tmp_path / "named.toml"))
    with pytest.raises(ConfigError, match=r"named\.toml"):
        config.load()


def test_a_file_of_a_windows_editor(tmp_path: Path) -> None:
    file = tmp_path / "dbscale.toml"
    file.write_bytes(b"\xef\xbb\xbf[databases.app]\r\nurl = 'app.db'\r\n")
    assert config.load(file).database("app").url == "app.db"


@pytest.mark.parametrize("content", [b"[databases", b"a = ", b"\xff\xfe"])
def test_what_is_not_toml_is_named(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "dbscale.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="not TOML") as caught:
        config.load(file)
    assert caught.value.where == str(file)


def test_everything_that_can_be_said() -> None:
    got = parse(
        {
            "databases": {
                "t": {"url": "libsql://h", "token": "env:T"},
                "p": {
                    "url": "env:URL",
                    "replicas": [{"url": "env:A", "region": "eu", "weight": 2}, {"url": "env:B", "role": "analytics"}],
                },
            },
            "pool": {"size": 5, "overflow": 0, "recycle": 60, "timeout": 1, "pre_ping": False},
            "shards": {"home": "p"},
            "migrate": {"types": {"a.b": "text"}},
            "indexes": {"i": "t (c)"},
        }
    )
    assert got.databases["p"].replicas == (
        Replica(url="env:A", region="eu", weight=2),
        Replica(url="env:B", role="analytics"),
    )
    assert got.pool == config.Pool(size=5, overflow=0, recycle=60, timeout=1.0, pre_ping=False)


@pytest.mark.parametrize(
    ("content", "where", "says"),
    [
        ({"database": {}}, "database", "databases"),
        ({"databases": {"a": {"ur": "x"}}}, "databases.a.ur", "url"),
        ({"databases": {"a": {}}}, "databases.a", "url"),
        ({"databases": {"a": "x"}}, "databases.a", "table"),
        ({"databases": {"a": {"url": 1}}}, "databases.a.url", "text"),
        ({"databases": {"a": {"url": " "}}}, "databases.a", "url is missing"),
        ({"databases": {"a": {"url": "x", "token": "secret"}}}, "databases.a.token", "env:"),
        ({"databases": {"a": {"url": "x", "replicas": [{}]}}}, "databases.a.replicas[0]", "url"),
        ({"databases": {"a": {"url": "x", "replicas": ["x"]}}}, "databases.a.replicas[0]", "table"),
        ({"databases": {"a": {"url": "x", "replicas": [{"url": "x", "wait": 1}]}}}, "replicas[0].wait", "weight"),
        ({"databases": {"a": {"url": "x", "replicas": [{"url": "x", "weight": -1}]}}}, "replicas[0].weight", "0"),
        ({"databases": {"a": {"url": "x", "replicas": [{"url": "x", "weight": True}]}}}, "weight", "whole"),
        ({"databases": {"a": {"url": "x", "replicas": [{"url": "x", "role": "bi"}]}}}, "role", "analytics"),
        ({"pool": {"sise": 1}}, "pool.sise", "size"),
        ({"pool": {"size": 0}}, "pool.size", "1"),
        ({"pool": {"size": "10"}}, "pool.size", "whole"),
        ({"pool": {"pre_ping": 1}}, "pool.pre_ping", "true"),
        ({"databases": {"farm": {"url": "x"}}, "shards": {"s": "farms"}}, "shards.s", "farm"),
        ({"migrate": {"type": {}}}, "migrate.type", "types"),
        ({"migrate": {"types": {"a.b": 1}}}, "migrate.types.a.b", "text"),
        ({"indexes": {"i": []}}, "indexes.i", "text"),
        ({"indexes": []}, "indexes", "table"),
    ],
)
def test_what_is_wrong_is_named_with_its_key_and_a_remedy(content: dict[str, Any], where: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(content)
    assert where in caught.value.where
    assert caught.value.where.startswith("dbscale.toml: ")
    assert says in caught.value.says + caught.value.try_


def test_references() -> None:
    known = parse({"databases": {"postgres": {"url": "embedded"}}})
    assert known.database("postgres").url == "embedded"
    assert known.database("app.db").url == "app.db"
    assert known.database("env:URL").url == "env:URL"
    with pytest.raises(ConfigError) as caught:
        known.database("postgre")
    assert "'postgres'" in caught.value.try_


def test_environment_is_looked_up_late(monkeypatch: pytest.MonkeyPatch) -> None:
    read = parse({"databases": {"p": {"url": "env:SHOP_URL"}}})
    monkeypatch.delenv("SHOP_URL", raising=False)
    with pytest.raises(ConfigError, match="SHOP_URL") as caught:
        locate(read.database("p"))
    assert "export SHOP_URL" in caught.value.try_
    monkeypatch.setenv("SHOP_URL", "postgres://h/shop")
    assert locate(read.database("p")).address == "postgresql://h/shop"


# URLs


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("app.db", "app.db"),
        ("./a/b.sqlite3", "./a/b.sqlite3"),
        ("/srv/app.db", "/srv/app.db"),
        ("sqlite:///app.db", "app.db"),
        ("sqlite:///./app.db", "./app.db"),
        ("sqlite:////srv/app.db", "/srv/app.db"),
        ("sqlite:///./x.db?timeout=30&check_same_thread=False", "./x.db"),
        ("sqlite+aiosqlite:///./x.db", "./x.db"),
        ("sqlite+pysqlite:////srv/x.db", "/srv/x.db"),
        ("sqlite:app.db", "app.db"),
        ("sqlite:///with%20space.db", "with space.db"),
        ("sqlite:///file:x.db?mode=ro&uri=true", "x.db"),
        ("file:app.db", "app.db"),
        ("file:app.db?mode=ro", "app.db"),
        ("file:///srv/app.db?cache=shared", "/srv/app.db"),
        ("file://localhost/srv/app.db", "/srv/app.db"),
    ],
)
def test_sqlite_in_every_form(url: str, path: str) -> None:
    location = at(url)
    assert (location.kind, location.address) == ("sqlite", path)


def test_options_of_others_are_dropped_with_a_note() -> None:
    notes = " ".join(at("sqlite+aiosqlite:///x.db?timeout=30&check_same_thread=False").notes)
    assert "aiosqlite" in notes
    assert "timeout" in notes
    assert "check_same_thread" in notes
    assert at("x.db").notes == ()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        ":memory:",
        "sqlite:",
        "sqlite+aiosqlite://",
        "file:a.db?mode=memory&cache=shared",
    ],
)
def test_memory_cannot_be_migrated(url: str) -> None:
    with pytest.raises(ConfigError, match="memory"):
        at(url)


@pytest.mark.parametrize("url", ["mysql://u@h/db", "mongodb+srv://h", "oracle://x"])
def test_databases_that_dbscale_does_not_know(url: str) -> None:
    with pytest.raises(ConfigError, match="not a database that dbscale knows"):
        at(url)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("postgres://u@h/db", "postgresql://u@h/db"),
        ("postgresql://u:p@h:5433/db?sslmode=require", "postgresql://u:p@h:5433/db?sslmode=require"),
        ("postgresql+psycopg://u@h/db", "postgresql://u@h/db"),
        ("postgresql+psycopg2://u@h/db", "postgresql://u@h/db"),
        ("postgresql+asyncpg://u@h/db?ssl=require", "postgresql://u@h/db?sslmode=require"),
        ("postgresql+asyncpg://u@h/db?prepared_statement_cache_size=0", "postgresql://u@h/db"),
        ("postgresql://u@h/db?schema=public&pgbouncer=true", "postgresql://u@h/db"),
        ("postgresql:///db?host=/var/run/postgresql", "postgresql:///db?host=%2Fvar%2Frun%2Fpostgresql"),
        ("postgresql://h/db?options=-c%20x.y%3Don", "postgresql://h/db?options=-c%20x.y%3Don"),
        ("postgresql://h/db?password=a+b", "postgresql://h/db?password=a%2Bb"),
        ("postgresql+psycopg://h/db?options=-c+x.y%3Don", "postgresql://h/db?options=-c%20x.y%3Don"),
        ("postgresql://a:1,b:2/db?target_session_attrs=any", "postgresql://a:1,b:2/db?target_session_attrs=any"),
        ("host=localhost dbname=db", "host=localhost dbname=db"),
    ],
)
def test_postgres_in_every_form(url: str, address: str) -> None:
    location = at(url)
    assert (location.kind, location.address) == ("postgres", address)
    assert conninfo.conninfo_to_dict(location.address), "libpq takes it"


@pytest.mark.parametrize(
    ("url", "address", "token"),
    [
        ("libsql://shop.turso.io", "libsql://shop.turso.io", ""),
        ("libsql://shop.turso.io?authToken=abc", "libsql://shop.turso.io", "abc"),
        ("sqlite+libsql://shop.turso.io/?authToken=abc&secure=true", "libsql://shop.turso.io/", "abc"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080", ""),
        ("ws://127.0.0.1:8080", "ws://127.0.0.1:8080", ""),
        ("libsql://127.0.0.1:8080?tls=0", "libsql://127.0.0.1:8080?tls=0", ""),
    ],
)
def test_libsql_in_every_form(url: str, address: str, token: str) -> None:
    location = at(url)
    assert (location.kind, location.address, location.token) == ("libsql", address, token)
    assert "abc" not in location.title


@pytest.mark.parametrize(
    ("url", "name"), [("embedded", "main"), ("embedded:", "main"), ("embedded:farms_1", "farms_1")]
)
def test_embedded(url: str, name: str) -> None:
    assert (at(url).kind, at(url).address) == ("embedded", name)


path_text = st.text(alphabet=string.ascii_letters + string.digits + " é가_-+%#&=~'", min_size=1, max_size=20)


@given(st.lists(path_text, min_size=1, max_size=3), st.sampled_from(["sqlite", "sqlite3", "sqlite+aiosqlite"]))
def test_a_quoted_path_comes_back(parts: list[str], scheme: str) -> None:
    path = "/".join(parts) + ".db"
    assert at(f"{scheme}:///{quote(path)}").address == path
    assert at(f"{scheme}:////{quote(path)}?timeout=5").address == "/" + path


@given(st.lists(path_text, min_size=1, max_size=3))
def test_a_plain_path_is_taken_as_it_is(parts: list[str]) -> None:
    path = "./" + "/".join(parts) + ".db"
    assert at(path).address == path


secret = st.text(alphabet=string.ascii_letters + string.digits + "@:/?#%& +é", min_size=1, max_size=20)


@given(user=secret, password=secret, driver=st.sampled_from(["", "+psycopg", "+asyncpg", "+psycopg2"]))
def test_credentials_reach_libpq_as_they_were(user: str, password: str, driver: str) -> None:
    url = f"postgresql{driver}://{quote(user, safe='')}:{quote(password, safe='')}@h.example:5433/db?sslmode=require"
    location = at(url)
    got = conninfo.conninfo_to_dict(location.address)
    assert (got["user"], got["password"], got["host"], got["port"]) == (user, password, "h.example", "5433")
    assert (got["dbname"], got["sslmode"]) == ("db", "require")
    assert f":{quote(password, safe='')}@" not in location.title


@given(st.text(max_size=40))
def test_any_text_is_a_place_or_a_clear_refusal(text: str) -> None:
    with suppress(ConfigError):
        assert at(text).address


@pytest.mark.parametrize("url", ["postgres//u:hunter2@h/d", "postgresql:/u:hunter2@h/d", "https//u:hunter2@h/d"])
def test_a_slip_in_a_scheme_is_no_path(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        locate(Database(name=url, url=url))
    assert "not followed by ://" in caught.value.says
    assert "hunter2" not in caught.value.where + caught.value.says


@pytest.mark.parametrize("text", ["host=db1 dbname=app", "service=app", "dbname = 'a b'"])
def test_a_connection_string_is_a_place(text: str) -> None:
    assert locate(Config().database(text)).kind == "postgres"
