#!/usr/bin/env python3
"""Make the sample marketplace: a SQLite database as applications have them, of any size.

    python scripts/marketplace.py marketplace.db --transactions 1000000

The same size and seed give the same rows. For 1,000,000 transactions it has 1.65 million rows: for each 100
transactions 3 users, 2 farms, 4 tags, 20 predictions and 36 analyses. What it holds on purpose: decimals, booleans as
0 and 1, times as ISO text with and without offset and as epoch seconds and milliseconds, JSON, Korean text, notes of
several lines with tabs and backslashes, blobs, NULLs and empty text, keys whose maximum was deleted, integers beyond
2^53, a reference of a table to itself, a table without rowid, every kind of index, a generated column, and views. It
has no index on farms.location, transactions.created_at, predictions.crop_type and analysis_history (user_id,
created_at), which its queries ask for.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

Row = tuple[Any, ...]

TABLES = """
CREATE TABLE users (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  username TEXT NOT NULL COLLATE NOCASE UNIQUE,
  email VARCHAR(120) NOT NULL,
  full_name TEXT,
  role TEXT NOT NULL DEFAULT 'buyer' CHECK (role IN ('buyer', 'farmer', 'admin')),
  is_active BOOLEAN NOT NULL DEFAULT 1 CHECK (is_active IN (0, 1)),
  balance DECIMAL(10,2) NOT NULL DEFAULT 0,
  settings JSON,
  avatar BLOB,
  referred_by INTEGER REFERENCES users (id) ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED,
  last_login INTEGER,                       -- epoch seconds
  created_at DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP,
  deleted_at DATETIME
);
CREATE TABLE farms (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  owner_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  name TEXT NOT NULL CHECK (length(name) > 0),
  location TEXT NOT NULL,
  latitude DOUBLE,
  longitude DOUBLE,
  area_ha REAL CHECK (area_ha > 0),
  organic BOOLEAN DEFAULT 0,
  founded DATE,
  description TEXT,
  photo BLOB,
  created_at DATETIME NOT NULL DEFAULT (datetime('now')),
  updated_at DATETIME
);
CREATE TABLE farm_tags (
  farm_id INTEGER NOT NULL REFERENCES farms (id) ON DELETE CASCADE,
  tag TEXT NOT NULL,
  PRIMARY KEY (farm_id, tag)
) WITHOUT ROWID;
CREATE TABLE transactions (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  buyer_id INTEGER REFERENCES users (id) ON DELETE SET NULL,
  farm_id INTEGER NOT NULL REFERENCES farms (id) ON DELETE RESTRICT ON UPDATE CASCADE,
  crop_type TEXT NOT NULL,
  quantity INTEGER NOT NULL DEFAULT 1 CHECK (quantity > 0),
  unit_price DECIMAL(10,2) NOT NULL,
  fee_cents INTEGER NOT NULL DEFAULT 0,
  fee_total INTEGER GENERATED ALWAYS AS (quantity * fee_cents) STORED,
  currency CHAR(3) NOT NULL DEFAULT 'KRW',
  status TEXT NOT NULL DEFAULT 'pending',
  paid BOOLEAN NOT NULL DEFAULT 0,
  receipt BIGINT,
  metadata JSON,
  note TEXT,
  paid_at INTEGER,                          -- epoch milliseconds
  created_at DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP,
  CONSTRAINT transactions_status CHECK (status IN ('pending', 'paid', 'shipped', 'cancelled'))
);
CREATE TABLE predictions (
  id INTEGER PRIMARY KEY,
  farm_id INTEGER NOT NULL REFERENCES farms (id) ON DELETE CASCADE,
  crop_type TEXT NOT NULL,
  harvest_date DATE NOT NULL,
  predicted_yield REAL NOT NULL,
  confidence FLOAT CHECK (confidence BETWEEN 0 AND 1),
  model VARCHAR(40) NOT NULL DEFAULT 'yield-v2',
  features JSON,
  created_at TIMESTAMP NOT NULL,            -- epoch seconds
  UNIQUE (farm_id, created_at)
);
CREATE TABLE analysis_history (
  id TEXT PRIMARY KEY NOT NULL,             -- UUID
  user_id INTEGER REFERENCES users (id) ON DELETE SET NULL,
  prediction_id INTEGER REFERENCES predictions (id) ON DELETE CASCADE,
  kind TEXT NOT NULL,
  question TEXT,
  result JSON,
  duration_ms REAL,
  succeeded BOOLEAN NOT NULL DEFAULT 1,
  created_at DATETIME NOT NULL              -- ISO with offset
);
"""

INDEXES = """
CREATE UNIQUE INDEX users_email ON users (lower(email));
CREATE INDEX users_active ON users (created_at) WHERE is_active = 1 AND deleted_at IS NULL;
CREATE INDEX farms_owner ON farms (owner_id);
CREATE INDEX farms_name ON farms (name COLLATE NOCASE);
CREATE INDEX transactions_farm ON transactions (farm_id, id DESC);
CREATE INDEX transactions_unpaid ON transactions (buyer_id) WHERE paid = 0;
CREATE UNIQUE INDEX transactions_receipt ON transactions (receipt, created_at); -- partitioned by time later
CREATE INDEX analysis_history_prediction ON analysis_history (prediction_id);
CREATE VIEW active_users AS
  SELECT id, username, email, balance FROM users WHERE is_active = 1 AND deleted_at IS NULL;
CREATE VIEW farm_yields AS
  SELECT f.id, f.name, f.location, count(p.id) AS predictions, coalesce(max(p.predicted_yield), 0) AS best
  FROM farms AS f LEFT JOIN predictions AS p ON p.farm_id = f.id AND p.confidence > 0.5
  GROUP BY f.id, f.name, f.location;
"""

START = datetime(2023, 1, 1)  # noqa: DTZ001 - SQLite's own times are naive
EPOCH = 1_672_531_200  # START in UTC
DAYS = 1095

FAMILY = ["김", "이", "박", "최", "정", "강", "조", "윤", "장", "임"]
GIVEN = ["민준", "서연", "도윤", "하은", "시우", "지아", "주원", "서현", "예준", "수아"]
LATIN = ["Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald", "Frances", "Ken", "Radia", "Linus"]
PLACES = [
    "전남 나주",
    "전북 김제",
    "경북 상주",
    "충남 논산",
    "강원 평창",
    "제주 서귀포",
    "Almería",
    "Yakima Valley",
    "Hawke's Bay",
]
CROPS = ["rice", "cabbage", "apple", "pear", "garlic", "onion", "strawberry", "pepper", "potato", "soybean"]
TAGS = ["organic", "greenhouse", "family", "export", "csa", "친환경", "직거래", "GAP"]
MODELS = ("yield-v1", "yield-v2", "yield-v3-beta")
NOTES = (
    "문 앞에 놓아 주세요.\n경비실\t502호",
    "Leave at gate\nCode: 12\\34\tthen ring",
    "C:\\orders\\new\\\\share",
    "\\.",
    "\\N",
    "",
    'She said "fresh", didn\'t she?',
    "사과 🍎 3상자, 배 🍐 2상자",
    "  spaces kept  ",
    "Zeile eins\r\nZeile zwei\r\n",
    "a,b;c|d 100% $5 {x} :name ?",
)


def users(draw: random.Random, count: int) -> Iterator[Row]:
    """Rows of users, in the order of their table's columns."""
    rand = draw.random
    for number in range(1, count + 1):
        korean = rand() < 0.7
        name = _of(draw, FAMILY) + _of(draw, GIVEN) if korean else _of(draw, LATIN)
        made = int(rand() * DAYS * 86400)
        settings = {"theme": _of(draw, ("dark", "light")), "lang": "ko" if korean else "en", "alerts": rand() < 0.5}
        yield (
            number,
            f"{_of(draw, ('User', 'farmer', 'BUYER'))}{number}",
            f"{_of(draw, LATIN)}.{number}@Example{int(rand() * 5)}.com",
            None if rand() < 0.03 else name,
            "farmer" if number % 3 == 0 else "admin" if number % 997 == 0 else "buyer",
            int(rand() < 0.93),
            int(rand() * 5_000_000) / 100,
            None if rand() < 0.2 else json.dumps(settings, ensure_ascii=False),
            None if rand() < 0.8 else draw.randbytes(int(rand() * 64)),
            1 + int(rand() * (number - 1)) if number > 1 and rand() < 0.25 else None,
            None if rand() < 0.1 else EPOCH + made + int(rand() * 30_000_000),
            _iso(made),
            _iso(made + 86_400) if rand() < 0.02 else None,
        )


def farms(draw: random.Random, count: int, owners: int) -> Iterator[Row]:
    """Rows of farms."""
    rand = draw.random
    for number in range(1, count + 1):
        made = int(rand() * DAYS * 86400)
        yield (
            number,
            1 + int(rand() * owners),
            f"{_of(draw, FAMILY)}{_of(draw, GIVEN)} 농장 {number}" if rand() < 0.8 else f"Farm O'{_of(draw, LATIN)}",
            f"{_of(draw, PLACES)} {int(rand() * 40)}",
            33 + rand() * 5,
            126 + rand() * 3,
            round(rand() * 40 + 0.1, 2),
            int(rand() < 0.4) if rand() < 0.95 else None,
            _day(int(rand() * 20000) - 18000),
            _of(draw, NOTES) if rand() < 0.5 else None,
            draw.randbytes(128) if rand() < 0.05 else None,
            _iso(made),
            _iso(made + 1000) if rand() < 0.5 else None,
        )


def farm_tags(draw: random.Random, farms: int) -> Iterator[Row]:
    """Rows of farm_tags: two of each farm."""
    for farm in range(1, farms + 1):
        first = int(draw.random() * len(TAGS))
        for tag in sorted((first, (first + 1 + int(draw.random() * (len(TAGS) - 1))) % len(TAGS))):
            yield farm, TAGS[tag]


def transactions(draw: random.Random, count: int, buyers: int, sellers: int) -> Iterator[Row]:
    """Rows of transactions, in time's order. A few farms sell much more than the others."""
    rand = draw.random
    metadata = [
        json.dumps({"channel": channel, "coupon": coupon, "items": [1, 2.5, None]}, ensure_ascii=False)
        for channel in ("app", "web", "전화")
        for coupon in (None, "SPRING\t10", "추석")
    ]
    states = ("pending", "paid", "paid", "shipped", "shipped", "shipped", "shipped", "cancelled")
    for number in range(1, count + 1):
        made = number * DAYS * 86400 // (count + 1)
        status = states[int(rand() * 8)]
        paid = status in ("paid", "shipped")
        yield (
            number,
            1 + int(rand() * buyers) if rand() < 0.98 else None,
            1 + int(rand() * rand() * sellers),
            CROPS[int(rand() * 10)],
            1 + int(rand() * 20),
            int(rand() * 10_000_000) / 100,
            int(rand() * 300),
            "KRW" if rand() < 0.95 else "USD",
            status,
            int(paid),
            9_000_000_000_000_000_000 + number * 7 if rand() < 0.9 else None,
            metadata[int(rand() * 9)] if rand() < 0.2 else None,
            NOTES[int(rand() * 11)] if rand() < 0.15 else None,
            (EPOCH + made) * 1000 + int(rand() * 60_000) if paid else None,
            _iso(made),
        )


def predictions(draw: random.Random, count: int, farms: int) -> Iterator[Row]:
    """Rows of predictions."""
    rand = draw.random
    for number in range(1, count + 1):
        rain = rand() * 300
        yield (
            number,
            1 + int(rand() * farms),
            CROPS[int(rand() * 10)],
            _day(int(rand() * DAYS)),
            rand() * 9000,
            rand() if rand() < 0.97 else None,
            MODELS[int(rand() * 3)],
            f'{{"rain_mm": {rain:.3f}, "soil": ["loam", "점토"], "frost": {"true" if rain < 20 else "false"}}}',
            EPOCH + number * DAYS * 86400 // (count + 1),
        )


def analyses(draw: random.Random, count: int, users: int, predictions: int) -> Iterator[Row]:
    """Rows of analysis_history."""
    rand = draw.random
    bits = draw.getrandbits
    questions = ("올해 쌀 수확량은?", "Which crop next?\nShow three.", "가격 전망 \\ 추세", None)
    for number in range(1, count + 1):
        made = number * DAYS * 86400 // (count + 1)
        yield (
            str(UUID(int=bits(128), version=4)),
            1 + int(rand() * users) if rand() < 0.99 else None,
            1 + int(rand() * predictions) if predictions and rand() < 0.6 else None,
            ("yield", "price", "weather")[int(rand() * 3)],
            questions[int(rand() * 4)],
            f'{{"score": {rand():.4f}, "n": {number}}}' if rand() < 0.8 else None,
            rand() * 2000,
            int(rand() < 0.96),
            f"{_iso(made, 'T')}.{int(rand() * 1_000_000):06d}+00:00",
        )


def make(file: Path, transactions_count: int, seed: int) -> int:
    """Write the database to `file`, whole or not at all; the number of its rows."""
    part = file.with_name(file.name + ".part")
    part.unlink(missing_ok=True)
    database = sqlite3.connect(part, isolation_level=None)
    database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -200000;")
    database.executescript(TABLES)
    draw = random.Random(seed)
    n = transactions_count
    people, places = max(n * 3 // 100, 5), max(n * 2 // 100, 5)
    guesses, looks = n * 20 // 100, n * 36 // 100
    database.execute("BEGIN")
    written = 0
    for table, rows in (
        ("users", users(draw, people)),
        ("farms", farms(draw, places, people)),
        ("farm_tags", farm_tags(draw, places)),
        ("transactions", transactions(draw, n, people, places)),
        ("predictions", predictions(draw, guesses, places)),
        ("analysis_history", analyses(draw, looks, people, guesses)),
    ):
        columns = [name for _, name, *_, hidden in database.execute(f"PRAGMA table_xinfo({table})") if not hidden]
        marks = ", ".join("?" * len(columns))
        insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"
        written += database.executemany(insert, rows).rowcount
    # The newest rows went: sqlite_sequence remembers their numbers, which must not be given again.
    database.execute(
        "INSERT INTO users (id, username, email, created_at) VALUES (?, 'gone', 'gone@example.com', ?)",
        (people + 1000, _iso(0)),
    )
    database.execute("DELETE FROM users WHERE username = 'gone'")
    database.execute(
        "INSERT INTO transactions (id, farm_id, crop_type, unit_price) VALUES (?, 1, 'rice', 1)", (n + 50,)
    )
    database.execute("DELETE FROM transactions WHERE id = ?", (n + 50,))
    database.execute("COMMIT")
    database.executescript(INDEXES)
    database.executescript("PRAGMA journal_mode = DELETE;")
    database.close()
    part.replace(file)
    return written


def _of(draw: random.Random, words: Any) -> Any:
    return words[int(draw.random() * len(words))]


_days: dict[int, str] = {}


def _day(number: int) -> str:
    """The ISO date `number` days after START."""
    if number not in _days:
        _days[number] = (START + timedelta(days=number)).date().isoformat()
    return _days[number]


def _iso(seconds: int, between: str = " ") -> str:
    """The ISO time `seconds` after START."""
    day, rest = divmod(seconds, 86400)
    return f"{_day(day)}{between}{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("out", type=Path, help="the SQLite file to make")
    parser.add_argument("--transactions", type=int, default=20_000, metavar="N", help="(default: 20000)")
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other rows (default: 1)")
    parser.add_argument("--force", action="store_true", help="replace the file where it is there already")
    arguments = parser.parse_args()
    if arguments.out.exists() and not arguments.force:
        print(f"{arguments.out} is there already; --force replaces it", file=sys.stderr)
        return 1
    began = time.perf_counter()
    rows = make(arguments.out, arguments.transactions, arguments.seed)
    size = arguments.out.stat().st_size / 1e6
    print(f"{arguments.out}: {rows:,} rows, {size:.1f} MB, {time.perf_counter() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
