"""What is going to be done: steps as frozen data, that print as text, as SQL and as JSON, and have an id.

A plan is made by `migrate`, `indexes`, `cluster` and `shards`, shown by `cli`, and carried out by `apply` alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
import types
import typing
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from dbscale.errors import ConfigError, Finding, redact, without_secrets

Blocks = Literal["nothing", "writes", "everything"]
ROWS_LEFT_BEHIND = "virtual-table-rows"
"""The code of the findings for which a run that went well ends with the exit status 1: not all rows arrived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """How one column's stored values become values of the target's type, by the class SQLite stores them in.

    A class whose reading is empty is not expected: a row with such a value is refused, and then stops the run or
    is quarantined. NULL always stays NULL. `migrate/types.py` chooses, `migrate/encode.py` writes it as SQL,
    `migrate/verify.py` writes the canonical form of it a second time and independently.
    """

    to: str
    """The type, as PostgreSQL spells it: `bigint`, `numeric(10,2)`, `timestamptz`, `vector(3)`."""
    integers: str = ""
    """keep | bool | s | ms | us | ns | webkit-us | apple-s | days | yyyymmdd | julian | by-size | text.

    `keep` is the number itself; the times count from 1970 but for webkit (1601) and apple (2001); `by-size` reads
    each value as s, ms, us or ns by its magnitude."""
    reals: str = ""
    """keep | whole | shortest | s | ms | julian | apple-s | text.

    `whole` is refused where it has a fraction; `shortest` is the shortest decimal that reads back the same."""
    texts: str = ""
    """keep | number | bool | iso | uuid | json | bytes. `iso` is a date, a time or both, as the target's type asks."""
    blobs: str = ""
    """keep | text | uuid | json | jsonb | digits | f32 | f64. `text` and `json` are UTF-8, `jsonb` is SQLite's."""
    empty: Literal["keep", "null"] = "keep"
    """What empty text becomes; `null` only where the user chose it."""
    invalid: Literal["refuse", "replace"] = "refuse"
    """Text with NUL or broken UTF-8: refuse the row, or put U+FFFD in place, where the user chose it."""
    rounded: bool = False
    """Of times: fractions finer than a microsecond are rounded to it. Of jsonb: of equal keys the last one is kept.
    The plan reports how many values that changes; without it they are refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadColumn:
    source: str
    """The source's column."""
    target: str
    """The target's column."""
    conversion: Conversion


@dataclass(frozen=True, slots=True, kw_only=True)
class Sql:
    """A statement for one database."""

    does: str
    sql: str
    undo: str | None
    """What takes it back; None where nothing can, which is shown as irreversible."""
    on: str = "target"
    """The database, by its name in `Plan.databases`."""
    group: str = ""
    """Neighbouring steps of one group do not depend on each other: they may run side by side."""
    blocks: Blocks = "nothing"
    alone: bool = False
    """It cannot run in a transaction (VACUUM, CREATE INDEX CONCURRENTLY)."""
    holds: str = ""
    """A query whose one value is true when an `alone` step is already in effect."""
    leftover: str = ""
    """A query whose one value is true when a failed attempt left something: `clear` then removes it."""
    clear: str = ""
    without: str = ""
    """The code of the finding that tells of it where the server refuses it for what the rows hold: the run then goes on
    without it. Empty: the run stops."""
    kind: Literal["Sql"] = "Sql"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One table's rows, read from `source` and copied into a table on `on`."""

    does: str
    table: str
    """The source's table."""
    schema: str
    target: str
    """The target's table."""
    columns: tuple[LoadColumn, ...]
    key: tuple[str, ...] = ()
    """The source's columns that name a row in findings and in the quarantine: the primary key, else empty."""
    rowid: str = ""
    """The name by which the source's rowid can be read (`rowid`, `_rowid_`, `oid`); empty: the table has none."""
    rows: int = 0
    """How many the source held when the plan was made."""
    bytes: int = 0
    """About how many bytes the source's table takes."""
    widest: int = 0
    """The largest value, in bytes."""
    on_bad_row: Literal["stop", "quarantine"] = "stop"
    where: str = ""
    """A condition in SQLite's SQL over the table `AS s`: only its rows are meant. Empty: all.

    Of several loads of one table, either the conditions are the same, or each row fulfils one of them and no other."""
    on: str = "target"
    undo: str | None = None
    group: str = "load"
    blocks: Blocks = "nothing"
    kind: Literal["Load"] = "Load"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program to run (pg_basebackup, say)."""

    does: str
    argv: tuple[str, ...]
    undo: str | None = None
    on: str = ""
    group: str = ""
    blocks: Blocks = "nothing"
    kind: Literal["Command"] = "Command"


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file to write, whole."""

    does: str
    path: str
    text: str
    undo: str | None = None
    on: str = ""
    group: str = ""
    blocks: Blocks = "nothing"
    kind: Literal["File"] = "File"


Step = Sql | Load | Command | File
_KINDS: dict[str, type[Any]] = {"Sql": Sql, "Load": Load, "Command": Command, "File": File}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Steps in order, what was noticed while planning, and what the plan relies on."""

    title: str
    databases: dict[str, str] = field(default_factory=dict, hash=False)
    """`source`, `target` and others by name: a name from dbscale.toml, a path or a URL, without passwords."""
    steps: tuple[Step, ...] = ()
    findings: tuple[Finding, ...] = ()
    basis: dict[str, str] = field(default_factory=dict, hash=False)
    """Hashes of the schemas the plan was made for, by database; apply refuses when one has changed."""
    options: dict[str, str] = field(default_factory=dict, hash=False)
    """Settings that apply needs to know: `schema`, `state_schema`, `jobs` …"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", redact(self.title))
        object.__setattr__(self, "databases", {name: without_secrets(url) for name, url in self.databases.items()})

    @property
    def id(self) -> str:
        """The first 12 hex digits of the SHA-256 of the content: the same plan has the same id."""
        return hashlib.sha256(self.to_json(indent=None).encode()).hexdigest()[:12]

    @property
    def blockers(self) -> tuple[Finding, ...]:
        """The findings for which the plan must not be applied."""
        return tuple(finding for finding in self.findings if finding.level == "blocker")

    @property
    def left_behind(self) -> tuple[Finding, ...]:
        """The findings that tell of rows of the source that the plan carries nowhere, though nobody chose so."""
        return tuple(finding for finding in self.findings if finding.code == ROWS_LEFT_BEHIND)

    def withheld(self, done: Collection[int]) -> tuple[Sql, ...]:
        """The steps still to come that bring back what a step of `done` (numbers from 1) took away for the load."""
        steps = [(number, step) for number, step in enumerate(self.steps, start=1) if isinstance(step, Sql)]
        taken = {step.sql for number, step in steps if number in done and step.undo}
        return tuple(step for number, step in steps if number not in done and step.undo in taken)

    def to_json(self, indent: int | None = 2) -> str:
        """The plan as a JSON document; `from_json` gives an equal plan."""
        content = {"dbscale-plan": 1, **dataclasses.asdict(self)}
        return json.dumps(content, indent=indent, ensure_ascii=False, sort_keys=indent is None)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan in a document that `to_json` wrote; ConfigError where it is not one."""
        try:
            content = json.loads(text)
            if not isinstance(content, dict) or "dbscale-plan" not in content:
                raise ValueError("it does not say dbscale-plan")
            if content.pop("dbscale-plan") != 1:
                raise ConfigError("the plan was written by another version of dbscale", try_="make the plan again")
            content.pop("id", None)
            steps = tuple(_build(_KINDS[step["kind"]], step) for step in content.pop("steps"))
            findings = tuple(Finding(**finding) for finding in content.pop("findings"))
            return cls(steps=steps, findings=findings, **content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"this is not a plan: {error}", try_="dbscale migrate … -o plan.json") from error

    def to_sql(self) -> str:
        """The plan as a script that a person can read; loads, files and commands (for a shell) are comments in it."""
        lines = [f"-- {self.title}", f"-- plan {self.id}"]
        for step in self.steps:
            lines += ["", f"-- {step.does}" + ("" if step.undo is not None else " (irreversible)")]
            if isinstance(step, Sql):
                lines.append(step.sql.rstrip(";") + ";")
            elif isinstance(step, Command):
                lines.append("-- run: " + shlex.join(step.argv))
            elif isinstance(step, File):
                lines += [f"-- write {step.path}:", *(f"--   {line}" for line in step.text.splitlines())]
        return "\n".join(lines) + "\n"


def _build(kind: Any, content: Any) -> Any:
    """A dataclass from what `dataclasses.asdict` made of it, through JSON."""
    if dataclasses.is_dataclass(kind) and isinstance(content, dict):
        hints = typing.get_type_hints(kind)
        return kind(**{name: _build(hints[name], value) for name, value in content.items()})  # type: ignore[operator]
    if typing.get_origin(kind) is tuple:
        return tuple(_build(typing.get_args(kind)[0], item) for item in content)
    if isinstance(kind, types.UnionType) and content is not None:
        return _build(typing.get_args(kind)[0], content)
    return content
