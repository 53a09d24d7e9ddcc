"""A schema, or a plan's statements, as the text of an Alembic revision. Pure: nothing is read or written here.

The statements are the plan's own, so that what a revision makes is what dbscale makes. Each is an `op.execute` of its
own, which every driver takes, asyncpg's too. Lines are broken at 88 columns and the text is as `ruff format` wants it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dbscale import schema as ddl
from dbscale.errors import ConfigError
from dbscale.plan import Plan, Sql
from dbscale.schema import Schema, quote

WIDTH = 88
IRREVERSIBLE = 'raise NotImplementedError("irreversible")'
_LEFT_OUT = ("vacuum", "analyze", "identities")
"""Groups of steps that are about rows, not about the schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a revision stands among the others."""

    revision: str
    down: str | None
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One statement; `alone` ones run outside of a transaction."""

    sql: str
    alone: bool = False


def baseline(schema: Schema, place: Place) -> str:
    """The revision that makes a whole schema, and on the way down drops it."""
    up = [] if schema.name == "public" else [f"CREATE SCHEMA IF NOT EXISTS {quote(schema.name)}"]
    up += [ddl.create_table(schema.name, table) for table in schema.tables]
    for table in schema.tables:
        up += [ddl.add_key(schema.name, table.name, key) for key in table.keys]
        up += [ddl.create_index(schema.name, table.name, index) for index in table.indexes]
        # The tables are empty: a constraint can be valid from the start.
        up += [_valid(ddl.add_check(schema.name, table.name, check), valid=check.valid) for check in table.checks]
    for table in schema.tables:
        up += [_valid(ddl.add_foreign_key(schema.name, table.name, key), valid=key.valid) for key in table.foreign_keys]
    up += [ddl.create_view(schema.name, view) for view in schema.views]
    down = [f"DROP VIEW {quote(schema.name, view.name)}" for view in reversed(schema.views)]
    if schema.tables:
        # All at once: tables that refer to each other have no order.
        tables = ", ".join(quote(schema.name, table.name) for table in reversed(schema.tables))
        down.append(f"DROP TABLE {tables}")
    return text(place, [Action(sql=sql) for sql in up], [Action(sql=sql) for sql in down])


def of_plan(plan: Plan, place: Place) -> str:
    """The revision that does what a plan's statements do. ConfigError where it has steps that are none."""
    wrong = [step.does for step in plan.steps if not isinstance(step, Sql)]
    others = sorted({step.on for step in plan.steps} - {"target"})
    if wrong or others:
        says = f"the step {wrong[0]!r} is no SQL" if wrong else f"the plan has steps for {', '.join(others)} too"
        raise ConfigError(f"{says}: a revision holds statements for one database", try_="dbscale apply, without it")
    return of_steps([step for step in plan.steps if isinstance(step, Sql)], place)


def of_steps(steps: Sequence[Sql], place: Place) -> str:
    """The revision of some steps; one without a way back makes the way down raise NotImplementedError."""
    kept = [step for step in steps if step.group not in _LEFT_OUT]
    up: list[Action] = []
    down: list[Action] | None = []
    for step in kept:
        undo = [Action(sql=sql, alone=step.alone) for sql in statements(step.undo or "")]
        if step.alone and undo and undo[0].sql.startswith("DROP INDEX CONCURRENTLY IF EXISTS"):
            up += undo  # an interrupted build leaves an invalid index of this name
        up += [Action(sql=sql, alone=step.alone) for sql in statements(step.sql)]
        down = None if step.undo is None or down is None else undo + down
    return text(place, up, down)


def statements(script: str) -> list[str]:
    """The statements of a script, each without its semicolon."""
    from postgast import split

    return [sql.strip().rstrip(";") for sql in split(script) if sql.strip()] if script.strip() else []


def text(place: Place, up: Iterable[Action], down: Iterable[Action] | None) -> str:
    """The whole file."""
    return "\n".join(
        [
            f'"""{place.title}"""',
            "",
            "from alembic import op",
            "",
            f"revision = {_string(place.revision)}",
            f"down_revision = {_string(place.down) if place.down else None}",
            "branch_labels = None",
            "depends_on = None",
            "",
            "",
            "def upgrade() -> None:",
            *_calls(up),
            "",
            "",
            "def downgrade() -> None:",
            *([f"    {IRREVERSIBLE}"] if down is None else _calls(down)),
            "",
        ]
    )


def _valid(sql: str, *, valid: bool) -> str:
    return sql.removesuffix(" NOT VALID") if valid else sql


def _calls(actions: Iterable[Action]) -> list[str]:
    lines: list[str] = []
    inside = False
    for action in actions:
        if action.alone and not inside:
            lines.append("    with op.get_context().autocommit_block():")
        inside = action.alone
        lines.append(_call(action.sql, "        " if inside else "    "))
    return lines or ["    pass"]


def _call(sql: str, indent: str) -> str:
    """One `op.execute`, in one line where it fits."""
    sql = _escaped(sql)
    short = f"{indent}op.execute({_string(sql)})"
    if len(short) <= WIDTH and "\n" not in sql and not ('"' in sql and "'" in sql) and "\\" not in sql:
        return short
    raw = "r" if "\\" in sql and '"""' not in sql else ""
    if not raw:
        sql = sql.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    inner = indent + "    "
    if not _breakable(sql):  # its line breaks are part of a text: nothing may be put before a line
        end = "\n" if sql.endswith(('"', "\\")) else ""
        return "\n".join([f"{indent}op.execute(", f'{inner}{raw}"""{sql}{end}"""', f"{indent})"])
    lines = [inner + line for line in _broken(sql, WIDTH - len(inner))]
    return "\n".join([f"{indent}op.execute(", f'{inner}{raw}"""', *lines, f'{inner}"""', f"{indent})"])


def _string(value: str) -> str:
    """As ruff writes a string: with double quotes, unless there are such in it."""
    return f"'{value}'" if '"' in value else f'"{value}"'


_NAMED = re.compile(r"(?<![:\w$\\]):(?=[\w$]+(?![:\w$]))")
_BACKSLASH = re.compile(r"\\(?=:[\w$]*(?![:\w$]))")


def _escaped(sql: str) -> str:
    r"""The statement for SQLAlchemy's `text()`, in which `:name` is a parameter and `\:` a colon."""
    return _NAMED.sub(r"\\:", _BACKSLASH.sub(r"\\\\", sql))


_TOKEN = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\s+|[^\s'"]+""")


def _breakable(sql: str) -> bool:
    """Whether it holds nothing but words and plain quotes: no functions' bodies, comments, escapes, lines of text."""
    odd = "$" in sql or "--" in sql or "/*" in sql or "\\" in sql
    return not odd and not any("\n" in token for token in _TOKEN.findall(sql) if not token.isspace())


def _broken(sql: str, width: int) -> list[str]:
    """The lines of a statement, broken between words and never in what is quoted."""
    lines: list[str] = []
    for given in sql.split("\n"):
        indent = given[: len(given) - len(given.lstrip())]
        line = word = ""
        for token in [*_TOKEN.findall(given.strip()), " "]:
            if not token.isspace():
                word += token
                continue
            if line and len(line) + 1 + len(word) > width:
                lines.append(line)
                line = f"{indent}  {word}"
            else:
                line = f"{line} {word}" if line else indent + word
            word = ""
        lines.append(line)
    return lines
