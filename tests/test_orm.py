"""Object-relational mappers: how each is told, and what its columns become, with evidence."""

from __future__ import annotations

import pytest

from dbscale.migrate import orm
from fix_types import Survey, survey

HEX = "550e8400e29b41d4a716446655440000"


def types(found: Survey, table: str) -> dict[str, str]:
    return {column: choice.type for (of, column), choice in found.choices.items() if of == table}


DJANGO = f"""
CREATE TABLE "django_migrations" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "app" varchar(255) NOT NULL);
CREATE TABLE "shop_order" ("id" char(32) NOT NULL PRIMARY KEY, "paid" bool NOT NULL, "at" datetime NOT NULL,
  "total" decimal NOT NULL, "data" text NOT NULL CHECK ((JSON_VALID("data") OR "data" IS NULL)),
  "duration" bigint NOT NULL, "count" integer unsigned NOT NULL CHECK ("count" >= 0));
CREATE TABLE "shop_line" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT,
  "order_id" char(32) NOT NULL REFERENCES "shop_order" ("id") DEFERRABLE INITIALLY DEFERRED);
INSERT INTO shop_order VALUES ('{HEX}', 1, '2024-02-03 02:05:06.789000', 12.30, '{{"a": 1}}', 93784000000, 3);
INSERT INTO shop_line VALUES (1, '{HEX}');
"""


def test_django() -> None:
    found = survey(DJANGO)
    assert types(found, "shop_order") == {
        "id": "uuid",
        "paid": "boolean",
        "at": "timestamp",
        "total": "numeric",
        "data": "jsonb",
        "duration": "bigint",
        "count": "bigint",
    }
    assert types(found, "shop_line")["order_id"] == "uuid"
    assert "32 hex digits" in found.finding("type-from-mapper").says
    assert "django_migrations" in found.finding("mapper-recognised").says


def test_one_value_that_disagrees_keeps_the_declared_type() -> None:
    found = survey(DJANGO + "INSERT INTO shop_order VALUES ('not hex', 1, '2024-02-03', 1, '{}', 1, 1)")
    assert found.choice("shop_order.id").type == "varchar(32)"
    assert found.choice("shop_line.order_id").type == "varchar(32)" or found.choice("shop_line.order_id").type == "text"


def test_sqlalchemy() -> None:
    found = survey(
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL);"
        "CREATE TABLE u (id CHAR(32) NOT NULL, price NUMERIC(10, 2), meta JSON, ok BOOLEAN, at DATETIME,"
        "PRIMARY KEY (id));"
        "INSERT INTO alembic_version VALUES ('ae1027a6acf');"
        f"INSERT INTO u VALUES ('{HEX}', 12.3, '{{\"k\": null}}', 1, '2024-02-03 04:05:06.789000')"
    )
    assert types(found, "u") == {
        "id": "uuid",
        "price": "numeric(10,2)",
        "meta": "jsonb",
        "ok": "boolean",
        "at": "timestamp",
    }
    assert types(found, "alembic_version") == {"version_num": "varchar(32)"}


def test_prisma_mixes_milliseconds_and_text() -> None:
    found = survey(
        'CREATE TABLE _prisma_migrations (id TEXT); CREATE TABLE "User" ("id" INTEGER NOT NULL PRIMARY KEY,'
        '"createdAt" DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP, "born" DATETIME, "active" BOOLEAN NOT NULL);'
        "INSERT INTO User VALUES (1, 1706933106789, -86400000, 1), (2, '2024-02-03 04:05:06', 5000, 0),"
        "(3, '2024-02-03T04:05:06.789Z', NULL, 1)"
    )
    conversion = found.choice("User.createdAt").conversion
    assert (conversion.to, conversion.integers, conversion.texts) == ("timestamptz", "ms", "iso")
    born = found.choice("User.born")
    assert (born.type, born.conversion.integers) == ("timestamptz", "ms")
    assert "type-from-mapper" in found.codes("User.born")


DRIZZLE = """
CREATE TABLE __drizzle_migrations (id SERIAL PRIMARY KEY, hash text NOT NULL, created_at numeric);
CREATE TABLE `posts` (`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL, `done` integer DEFAULT false NOT NULL,
  `created_at` integer DEFAULT (unixepoch()) NOT NULL, `seen_at` integer, `likes` integer NOT NULL, `title` text(20),
  `metadata` text, `settings` blob, `views` blob, `raw` blob, `runtime` integer,
  `updated` integer DEFAULT (cast((julianday('now') - 2440587.5)*86400000 as integer)));
INSERT INTO posts VALUES (1, 0, 1706933106, 1706933106789, 1, 'a', '{"a":[1]}', CAST('{"x":1}' AS BLOB),
  CAST('12345678901234567890' AS BLOB), x'ff00', 1706933106, 1706933106789);
INSERT INTO posts VALUES (2, 1, 1706933107, NULL, 0, NULL, NULL, NULL, CAST('-5' AS BLOB), x'01', 12, 1706933106790);
"""


def test_drizzle() -> None:
    found = survey(DRIZZLE)
    assert types(found, "posts") == {
        "id": "bigint",
        "done": "boolean",
        "created_at": "timestamptz",
        "seen_at": "timestamptz",
        "likes": "bigint",
        "title": "text",
        "metadata": "text",
        "settings": "bytea",
        "views": "bytea",
        "raw": "bytea",
        "runtime": "bigint",
        "updated": "timestamptz",
    }
    readings = {
        name: found.choice(f"posts.{name}").conversion.integers for name in ("created_at", "seen_at", "updated")
    }
    assert readings == {"created_at": "s", "seen_at": "ms", "updated": "ms"}
    suggested = {finding.where: finding.try_ for finding in found.findings if finding.code == "type-suggested"}
    assert suggested == {
        "posts.metadata": '[migrate.types] "posts.metadata" = "jsonb"',
        "posts.settings": '[migrate.types] "posts.settings" = "jsonb"',
        "posts.views": '[migrate.types] "posts.views" = "numeric"',
    }


def test_what_is_suggested_can_be_chosen() -> None:
    found = survey(DRIZZLE, {"posts.views": "numeric", "posts.settings": "jsonb", "posts.metadata": "jsonb"})
    assert found.choice("posts.views").conversion.blobs == "digits"
    assert found.choice("posts.settings").conversion.blobs == "json"
    assert not [finding for finding in found.findings if finding.level == "blocker"]


BETTER_AUTH = """
CREATE TABLE {user} (id text PRIMARY KEY NOT NULL, email text NOT NULL, {verified} integer NOT NULL, banned integer,
  {created} {time} NOT NULL);
CREATE TABLE session (id text PRIMARY KEY NOT NULL, token text NOT NULL, {expires} {time} NOT NULL,
  {userid} text NOT NULL REFERENCES {user}(id));
CREATE TABLE account (id text PRIMARY KEY NOT NULL, {account} text, {provider} text, {userid} text);
CREATE TABLE verification (id text PRIMARY KEY NOT NULL, identifier text, value text, {expires} {time} NOT NULL);
CREATE TABLE {limit} (id text PRIMARY KEY, key text, count integer, {last} integer);
INSERT INTO {user} VALUES ('u1', 'a@b.c', 1, NULL, {now}), ('u2', 'd@e.f', 0, 1, {now});
INSERT INTO session VALUES ('s1', 't', {now}, 'u1'); INSERT INTO {limit} VALUES ('r', 'k', 1, 1795226468459);
INSERT INTO verification VALUES ('v1', 'i', 'x', {now});
"""
SNAKE = {
    "user": "user", "verified": "email_verified", "created": "created_at", "expires": "expires_at", "userid": "user_id",
    "account": "account_id", "provider": "provider_id", "limit": "rate_limit", "last": "last_request",
}  # fmt: skip
CAMEL = {
    "user": '"user"', "verified": '"emailVerified"', "created": '"createdAt"', "expires": '"expiresAt"',
    "userid": '"userId"',
    "account": '"accountId"', "provider": '"providerId"', "limit": '"rateLimit"', "last": '"lastRequest"',
}  # fmt: skip


@pytest.mark.parametrize(
    ("names", "time", "now", "reading"),
    [(SNAKE, "integer", "1795226464193", "integers"), (CAMEL, "date", "'2026-11-21T02:01:04.193Z'", "texts")],
    ids=["Drizzle", "Kysely"],
)
def test_better_auth(names: dict[str, str], time: str, now: str, reading: str) -> None:
    found = survey(BETTER_AUTH.format(time=time, now=now, **names))
    plain = {key: name.strip('"') for key, name in names.items()}
    user = types(found, "user")
    assert (user["id"], user[plain["verified"]], user["banned"]) == ("text", "boolean", "boolean")
    for place in (f"user.{plain['created']}", f"session.{plain['expires']}", f"verification.{plain['expires']}"):
        assert found.choice(place).type == "timestamptz"
        assert getattr(found.choice(place).conversion, reading) == {"integers": "ms", "texts": "iso"}[reading]
    assert found.choice(f"{plain['limit']}.{plain['last']}").type == "bigint"
    assert "Better Auth" in orm.fingerprints(found.schema)
    assert "type-suggested" not in found.codes(f"{plain['limit']}.{plain['last']}")


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("Rails", "ar_internal_metadata"),
        ("TypeORM", "typeorm_metadata"),
        ("EF Core", "__EFMigrationsHistory"),
        ("Strapi", "strapi_webhooks"),
        ("PocketBase", "_collections"),
    ],
)
def test_others_are_told_by_their_tables(name: str, table: str) -> None:
    found = survey(f'CREATE TABLE "{table}" (a)')
    assert orm.fingerprints(found.schema) == (name,)


def test_core_data_counts_from_2001() -> None:
    found = survey(
        "CREATE TABLE Z_METADATA (Z_VERSION INTEGER); CREATE TABLE ZNOTE (Z_PK INTEGER PRIMARY KEY, ZDATE TIMESTAMP);"
        "INSERT INTO ZNOTE VALUES (1, 671234567.25), (2, 671234567)"
        "; CREATE TABLE ZTAG (Z_PK INTEGER PRIMARY KEY, ZDATE TIMESTAMP); INSERT INTO ZTAG VALUES (1, 671234567)"
    )
    conversion = found.choice("ZNOTE.ZDATE").conversion
    assert (conversion.to, conversion.integers, conversion.reals) == ("timestamptz", "apple-s", "apple-s")
    assert found.choice("ZTAG.ZDATE").conversion.integers == "apple-s"


@pytest.mark.parametrize(
    "name", ["created_at", "updatedAt", "expires", "last_visit_time", "timestamp", "banExpires", "start_date"]
)
def test_names_of_times(name: str) -> None:
    found = survey(f"CREATE TABLE t ({name} INTEGER); INSERT INTO t VALUES (1703073600)")
    assert found.choice(f"t.{name}").type == "bigint"
    assert found.codes(f"t.{name}") == {"type-suggested"}


@pytest.mark.parametrize("name", ["last_request", "duration", "status", "format", "runtime", "candidate", "lifetime"])
def test_names_of_other_things(name: str) -> None:
    found = survey(f"CREATE TABLE t ({name} INTEGER); INSERT INTO t VALUES (1703073600)")
    assert not found.codes(f"t.{name}")


def test_a_database_of_nobody() -> None:
    assert not survey(
        "CREATE TABLE user (id INTEGER PRIMARY KEY, email TEXT); CREATE TABLE session (id, token)"
    ).findings
