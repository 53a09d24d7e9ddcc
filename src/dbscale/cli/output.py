"""How answers, findings and errors are drawn. Answers go to stdout, everything else to stderr."""

from __future__ import annotations

import functools
import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dbscale.errors import ConfigError, DbscaleError, Finding

if TYPE_CHECKING:
    from dbscale.plan import Plan

F = TypeVar("F", bound=Callable[..., Any])

MARKS = {"blocker": "blocked", "data": "data", "behaviour": "behaviour", "note": "note"}
COLOURS = {"blocker": "red", "data": "yellow", "behaviour": "yellow", "note": "cyan"}


class Number(click.FloatRange):
    """A number from 0 (above it, where `above`) to a thousand million: no NaN and no infinity, which float() reads."""

    name = "number"

    def __init__(self, *, above: bool = False) -> None:
        super().__init__(min=0, max=1e9, min_open=above)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if math.isnan(number := float(super().convert(value, param, ctx))):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number

    def _describe_range(self) -> str:
        return "0<x<=1e9" if self.min_open else "0<=x<=1e9"


def common(command: F) -> F:
    """The options that every command takes: --config and --json."""
    command = click.option("--json", "as_json", is_flag=True, help="Answer with one JSON document on stdout.")(command)
    return click.option("--config", metavar="FILE", help="Read FILE instead of ./dbscale.toml.")(command)


def looking(command: F) -> F:
    """The options of every command, for one that only looks at databases: no embedded server is started for it."""

    @functools.wraps(command)
    def careful(*arguments: Any, **options: Any) -> Any:
        from dbscale.drivers import embedded

        with embedded.only_looking():
            return command(*arguments, **options)

    return common(careful)  # type: ignore[return-value]


def changing(command: F) -> F:
    """The options of commands that change something: --dry-run and --yes.

    A dry run starts no embedded server, nor does what only shows a plan (`as_sql`) or writes it to a file (`out`).
    """

    @functools.wraps(command)
    def careful(*arguments: Any, **options: Any) -> Any:
        from dbscale.drivers import embedded

        only_looking = options["dry_run"] or options.get("as_sql") or options.get("out")
        with embedded.only_looking() if only_looking else nullcontext():
            return command(*arguments, **options)

    changed: F = click.option("--yes", is_flag=True, help="Do not ask.")(careful)  # type: ignore[assignment]
    return click.option("--dry-run", is_flag=True, help="Show the plan and stop.")(changed)


answers = 0
"""How many times something was written to stdout: an error is a document of its own only where there is no other."""


def say(text: str = "") -> None:
    """A line for people, on stderr."""
    _write(text, err=True)


def answer(text: str) -> None:
    """A line of the answer, on stdout."""
    global answers  # noqa: PLW0603 - stdout is one for the process too
    answers += 1
    _write(text, err=False)


def answer_json(content: Any) -> None:
    """The answer as one JSON document, on stdout."""
    utf8 = "utf" in str(getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    answer(json.dumps(content, indent=2, ensure_ascii=not utf8, default=str))


def _write(text: str, *, err: bool) -> None:
    """A line. Where its reader has gone (`| head -1`) the rest is for nobody, and the work goes on to its end."""
    stream = sys.stderr if err else sys.stdout
    if encoding := getattr(stream, "encoding", None):  # what it cannot show, it shows escaped
        text = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        click.echo(text, err=err)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except OSError as error:
        if err:
            return  # there is no place left to say so
        raise DbscaleError(f"the answer cannot be written: {error.strerror}", where="stdout") from error


def save(path: str, text: str) -> None:
    """Write a file that the user named; ConfigError where it cannot be written."""
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the file cannot be written: {error.strerror}", where=path, try_="name another") from error


def show_blockers(plan: Plan) -> None:
    """What blocks a plan that is shown in another form than findings, on stderr; nothing where it is not blocked."""
    if plan.blockers:
        show_findings(plan.blockers)
        say(f"{len(plan.blockers)} findings block this plan: dbscale apply refuses it")


def saved(plan: Plan, path: str, *, command: str = "dbscale apply", as_json: bool = False) -> None:
    """Write a plan as JSON to the file `path` (`-`: stdout), and say what carries it out where nothing blocks it."""
    if path == "-":
        answer(plan.to_json())
        return
    save(path, plan.to_json() + "\n")
    then = "" if plan.blockers else f"; carry it out with: {command} {shlex.quote(path)}"
    say(f"plan {plan.id} written to {path}{then}")
    if as_json:
        answer_json({"plan": plan.id, "written": path, "blockers": findings_json(plan.blockers)})


def confirm(question: str, *, yes: bool) -> None:
    """Go on only when the user agrees; without a terminal, ConfigError that names the flag to add."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"{question} There is no terminal to ask on", try_="add --yes, or --dry-run to only look")
    if not click.confirm(question, err=True):
        raise click.Abort


def show_error(error: DbscaleError) -> None:
    """An error in its four parts: what is, where, what to do, where to read on."""
    say(_coloured("error: ", "red") + error.says)
    for label, text in (("in", error.where), ("try", error.try_), ("see", error.see)):
        if text:
            say(f"  {label:<4} {text}")


def _coloured(text: str, colour: str) -> str:
    """`text` in a colour, which click leaves out where no terminal is; NO_COLOR (no-color.org) leaves it out too."""
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=colour)


def error_json(error: DbscaleError) -> dict[str, str]:
    """An error for a JSON document: its code, which is its section in docs/errors.md, and its four parts."""
    parts = {"says": error.says, "where": error.where, "try": error.try_, "see": error.see}
    return {"code": error.anchor, **parts}


def show_findings(
    findings: Iterable[Finding], *, err: bool = True, most: int = 10, gravest: str = MARKS["blocker"]
) -> None:
    """Findings, the gravest first; more than `most` of one code become a line with their count.

    `gravest`: how those are labelled that would block a plan, where they are about something else.
    """
    write = say if err else answer
    order = {level: place for place, level in enumerate(MARKS)}
    shown: dict[str, int] = {}
    for finding in sorted(findings, key=lambda finding: (order[finding.level], finding.code)):
        shown[finding.code] = shown.get(finding.code, 0) + 1
        if shown[finding.code] > most:
            continue
        label = gravest if finding.level == "blocker" else MARKS[finding.level]
        mark = _coloured(f"{label}: ", COLOURS[finding.level])
        write(f"{mark}{finding.where}: {finding.says} [{finding.code}]")
        if finding.try_:
            write(f"  try  {finding.try_}")
    for code, count in shown.items():
        if count > most:
            write(f"  … and {count - most} more [{code}]; all of them with --json")


def findings_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Findings for a JSON document."""
    return [{name.rstrip("_"): value for name, value in asdict(finding).items()} for finding in findings]


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[int] = ()) -> str:
    """A plain table: columns two spaces apart, those in `right` aligned to the right, no frame."""
    body = [[str(cell) for cell in row] for row in rows]
    lines = [list(headers), *body]
    widths = [max(_width(line[i]) for line in lines) for i in range(len(headers))]
    return "\n".join(
        "  ".join(
            " " * (widths[i] - _width(cell)) + cell if i in right else cell + " " * (widths[i] - _width(cell))
            for i, cell in enumerate(line)
        ).rstrip()
        for line in lines
    )


def count(number: float) -> str:
    """1234567 as `1 234 567`."""
    return f"{number:,.0f}".replace(",", " ")


def size(number: float) -> str:
    """Bytes in the unit that suits them: `64 kB`, `1.2 GB` (units of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def seconds(number: float) -> str:
    """A duration: `0.42 s`, `12.3 s`, `4 min 05 s`."""
    if number < 10:
        return f"{number:.2f} s"
    if number < 120:
        return f"{number:.1f} s"
    return f"{int(number // 60)} min {int(number % 60):02d} s"


def _width(text: str) -> int:
    """Columns that `text` takes on a terminal: East Asian wide characters take two."""
    import unicodedata

    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in click.unstyle(text))
