"""The command line: the only code that prints, asks or exits. One file a noun, loaded when it is called."""

from __future__ import annotations

import importlib
import itertools
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from dbscale import __version__, errors

COMMANDS = {
    "apply": "dbscale.cli.runs:apply_command",
    "assess": "dbscale.cli.assess:assess",
    "doctor": "dbscale.cli.doctor:doctor",
    "indexes": "dbscale.cli.indexes:indexes",
    "local": "dbscale.cli.local:local",
    "migrate": "dbscale.cli.migrate:migrate",
    "pool": "dbscale.cli.pool:pool",
    "replicas": "dbscale.cli.replicas:replicas",
    "shards": "dbscale.cli.shards:shards",
    "status": "dbscale.cli.runs:status",
    "undo": "dbscale.cli.runs:undo",
    "upgrade": "dbscale.cli.upgrade:upgrade",
    "verify": "dbscale.cli.verify:verify",
}
"""Each command and where it is. A module is imported when its command is called, so that `--help` stays quick."""

SUMMARIES = {
    "apply": "Carry out a saved plan.",
    "assess": "Say what a migration of a source will meet: sizes, types, findings, time.",
    "doctor": "Look for what is wrong with the set-up, and say the remedy.",
    "indexes": "Recommend indexes with proof, and build them beside the application's work.",
    "local": "Run PostgreSQL here: up, down, status.",
    "migrate": "Copy a SQLite or Turso database into PostgreSQL, and prove it.",
    "pool": "Show, size and check connection pools; set up PgBouncer, proven.",
    "replicas": "Make replicas, watch them, wait for them, promote one.",
    "shards": "Shard maps: declare, check, apply, route, audit, split and merge.",
    "status": "Show runs: finished, at work, or to be gone on with.",
    "undo": "Take back what a run did.",
    "upgrade": "Run the application's Alembic revisions on every shard and primary.",
    "verify": "Compare every row and the schema of source and target.",
}

# What each kind of error exits with. 0: done or yes. 1: it ran, and the answer is no.
USAGE, DATABASE, STOPPED, BUG, INTERRUPTED = 2, 3, 4, 70, 130
EXIT_CODES: tuple[tuple[type[errors.DbscaleError], int], ...] = (
    (errors.ConfigError, USAGE),
    (errors.SourceError, DATABASE),
    (errors.StalePlan, USAGE),
    (errors.TargetInUse, USAGE),
    (errors.Unreachable, DATABASE),
    (errors.Missing, DATABASE),
    (errors.Unfinished, STOPPED),
    (errors.Unroutable, 1),
)


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUMMARIES[name]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dbscale")
def dbscale() -> None:
    """From SQLite or Turso to PostgreSQL, and on to replicas and shards, one proven step at a time.

    SOURCE and TARGET are a path, a URL, or a name from dbscale.toml.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command line and exit with its status. SIGTERM ends it as Ctrl-C does: nothing is left half-open."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # it came closed (`2>&-`): now no database or socket gets its number
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - for the whole run
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the exit status. Errors are drawn on stderr, and with --json as a document on stdout."""
    from dbscale.cli import output

    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in itertools.takewhile(lambda word: word != "--", words)
    before = output.answers
    problem: errors.DbscaleError
    try:
        _check_utf8(words)
        result = dbscale.main(args=words, prog_name="dbscale", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show(sys.stderr)
        problem, status = errors.ConfigError("a command is wanted", try_=f"{_path(error)} --help"), USAGE
    except Exception as error:  # noqa: BLE001 - the last line of defence: a bug must not look like the answer "no"
        problem, status = _drawn(error)
    except KeyboardInterrupt:
        problem, status = _drawn(click.Abort())
    else:
        return result if isinstance(result, int) else 0
    if as_json and output.answers == before:
        output.answer_json({"error": output.error_json(problem), "exit": status})
    return status


def _check_utf8(words: Sequence[str]) -> None:
    """ConfigError for a word that is not UTF-8: no plan, no answer and no database can hold such a file's name."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise errors.ConfigError(
                "this name is not valid UTF-8",
                where=word.encode(errors="backslashreplace").decode(),
                try_="rename the file, or make a link to it: ln -s FILE app.db",
            ) from error


def _drawn(error: Exception) -> tuple[errors.DbscaleError, int]:
    """What ended a command, drawn on stderr: as one of dbscale's errors, and the exit status."""
    from dbscale.cli import output

    if isinstance(error, click.Abort):
        stopped = errors.DbscaleError(
            "interrupted", try_="the same command goes on from here", see="docs/errors.md#interrupted"
        )
        output.say(f"{stopped.says}; {stopped.try_}")
        return stopped, INTERRUPTED
    if isinstance(error, click.ClickException):
        words = error.format_message().strip().rstrip(".")
        problem: errors.DbscaleError = errors.ConfigError(words, where=_path(error), try_=f"{_path(error)} --help")
    elif isinstance(error, errors.DbscaleError):
        problem = error
    elif isinstance(error, OSError) and error.filename:
        problem = errors.ConfigError(
            str(error.strerror), where=str(error.filename), try_="check the path and its rights"
        )
    elif "psycopg" in sys.modules and (lost := _of_driver(error)):
        problem = lost
    else:
        output.say(errors.redact("".join(traceback.format_exception(error))))
        problem = errors.DbscaleError(
            f"{type(error).__name__}: {error}", try_="please report it with the lines above", see="docs/errors.md#bug"
        )
        output.say("this is a bug in dbscale; please report it with the lines above")
        return problem, BUG
    output.show_error(problem)
    return problem, next((code for kind, code in EXIT_CODES if isinstance(problem, kind)), STOPPED)


def _path(error: click.ClickException) -> str:
    """The command that an error of the command line speaks of: `dbscale pool size`."""
    context = getattr(error, "ctx", None)
    return context.command_path if context else "dbscale"


def _of_driver(error: Exception) -> errors.DbscaleError | None:
    """A lost connection, a privilege or a server that takes no writes, in dbscale's words; None for anything else."""
    from psycopg import OperationalError
    from psycopg.errors import InsufficientPrivilege, ReadOnlySqlTransaction

    from dbscale.drivers.postgres import translated

    known = (OperationalError, InsufficientPrivilege, ReadOnlySqlTransaction)
    return translated(error) if isinstance(error, known) else None
