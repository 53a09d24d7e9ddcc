"""errors.py: the four parts of an error, and that no secret gets out."""

from __future__ import annotations

import re
import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbscale import errors
from dbscale.cli import EXIT_CODES
from dbscale.errors import DbscaleError, redact, without_secrets

# Long enough and of letters that no other part of a URL below has, so that finding it is no chance.
secrets = st.text(alphabet="QXZ0987-_.~!$*", min_size=6, max_size=30)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://user:hunter2@host:5432/db",
        "postgres://user:hunter2@host/db?sslmode=require",
        "postgresql+psycopg://user:hunter2@host/db",
        "postgresql://:hunter2@host/db",
        "postgresql://user:p@hunter2@host/db",
        "postgresql://user:hunter2/x@host/db",
        "postgresql://user:x/hunter2@host/db?sslmode=require",
        "postgresql://host/db?sslpassword=hunter2",
        "PGPASSWORD=hunter2 psql",
        "libsql://name.example.com?authToken=hunter2",
        "libsql://name.example.com?x=1&authToken=hunter2&tls=0",
        "host=localhost user=x password=hunter2 dbname=y",
        "host=localhost user=x password='hunter2' dbname=y",
        "host=localhost user=x password = 'a hunter2' dbname=y",
        "postgresql://host/db?user=x&password=hunter2",
        "two: postgresql://a:hunter2@h/d and postgresql://b:hunter2@h/d",
    ],
)
def test_secrets_are_taken_out(text: str) -> None:
    assert "hunter2" not in redact(text)
    if not text.startswith(("two:", "PG")):
        assert "hunter2" not in without_secrets(text)


@pytest.mark.parametrize(
    ("url", "left"),
    [
        ("postgresql://u:hunter2@h:5432/d?sslmode=require", "postgresql://u@h:5432/d?sslmode=require"),
        ("postgresql://h/d?user=u&password=hunter2&sslmode=require", "postgresql://h/d?user=u&sslmode=require"),
        ("host=h password='a b' dbname=d", "host=h dbname=d"),
        ("libsql://h?authToken=hunter2", "libsql://h"),
        ("postgresql://h:5432/d?application_name=a@b", "postgresql://h:5432/d?application_name=a@b"),
        ("app.db", "app.db"),
    ],
)
def test_a_url_without_secrets_is_still_one(url: str, left: str) -> None:
    assert without_secrets(url) == left


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no URL at all",
        "postgresql://user@host:5432/db",
        "https://example.com/a:b@c",
        "postgresql://h:5432/db?user=a@b",
        "postgresql://h:5432/a@b",
        "sqlite:///a/b.db",
        "12:30",
    ],
)
def test_what_holds_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@given(secrets, st.sampled_from(["postgresql", "postgres", "postgresql+asyncpg", "libsql", "https"]))
def test_no_password_of_a_url_survives(secret: str, scheme: str) -> None:
    redacted = redact(f"cannot open {scheme}://user:{quote(secret, safe='')}@host:5432/db: refused")
    assert quote(secret, safe="") not in redacted
    assert redacted.startswith("cannot open ")
    assert redacted.endswith("@host:5432/db: refused")


@given(secrets, st.sampled_from(["password", "authToken", "auth_token", "PASSWORD"]))
def test_no_secret_parameter_survives(secret: str, name: str) -> None:
    assert secret not in redact(f"x://host/db?a=1&{name}={secret}&b=2")


# Passwords as people have them: "QX" between any characters, so that a part that is left is found too.
raw = st.lists(st.sampled_from([*" @:/?#%&='\"\\+,;!$*()[]{}|<>^~`-_.7", "%40", "://", "@@", "a=b"]), max_size=8).map(
    lambda parts: "QX" + "".join(f"{part}QX" for part in parts)
)


@given(
    raw,
    st.sampled_from(
        [
            "postgresql://u:{}@host:5432/db",
            "postgres://u:{}@host/db?sslmode=require&application_name=x",
            "postgresql+asyncpg://some%40one:{}@[::1]:5432,host2/db",
            "libsql://:{}@host",
            "postgres//u:{}@host/db",
            "postgres:/u:{}@host/db",
            "postgres:///u:{}@host/db",
            "postgres;//u:{}@host:1/db",
            "postgresql/u:{}@host:1/db",
        ],
    ),
    st.sampled_from(["{}", "cannot open {}: refused", "'{}'", "try psql {}\nand postgresql://u:other@host/db"]),
)
def test_no_part_of_a_password_survives(secret: str, url: str, text: str) -> None:
    for form in (secret, quote(secret), quote(secret, safe="")):
        assert "QX" not in redact(text.format(url.format(form)))
        if not url.startswith(("postgres//", "postgres:/u", "postgres:///", "postgres;", "postgresql/")):
            assert "QX" not in without_secrets(url.format(form))


@given(raw, st.sampled_from(["host=h password={} dbname=d", "password = {}", "dbname=d user=u PASSWORD={} port=1"]))
def test_no_part_of_a_password_in_a_connection_string_survives(secret: str, text: str) -> None:
    escaped = secret.replace("\\", "\\\\").replace("'", "\\'")
    for form in (f"'{escaped}'", re.sub(r"([\s'\\])", r"\\\1", secret)):
        assert "QX" not in redact(text.format(form))
        assert "QX" not in redact(f"cannot open {text.format(form)}")
        assert "QX" not in without_secrets(text.format(form))
        assert "QX" not in redact(repr(text.format(form)))


@given(st.text(alphabet=string.printable))
def test_redacting_twice_changes_nothing(text: str) -> None:
    assert redact(redact(text)) == redact(text)


def test_errors_redact_every_part() -> None:
    url = "postgresql://u:hunter2@h/d"
    error = DbscaleError(f"no answer from {url}", where=url, try_=f"psql {url}")
    assert "hunter2" not in f"{error}{error.says}{error.where}{error.try_}{error.args}"


def test_every_error_has_an_exit_code_and_a_section() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DbscaleError)]
    kinds.remove(DbscaleError)
    assert {kind for kind, _ in EXIT_CODES} == set(kinds)
    sections = [kind.section for kind in kinds]
    assert len(set(sections)) == len(kinds)
    assert errors.Unreachable("x").see == "docs/errors.md#unreachable"
