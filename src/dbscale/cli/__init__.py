"""The command line: the only code that prints, asks or exits. One file a noun, loaded when it is called."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

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
    """Run one command line and exit with its status."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the exit status. Errors are drawn on stderr."""
    from dbscale.cli import output

    try:
        result = dbscale.main(args=arguments, prog_name="dbscale", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        error.show(sys.stderr)
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        output.say("interrupted; the same command goes on from here")
        return INTERRUPTED
    except errors.DbscaleError as error:
        output.show_error(error)
        return _exit_code(error)
    except BrokenPipeError:
        # The reader of our output has gone (| head): say nothing more, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the last line of defence: a bug must not look like the answer "no"
        if "psycopg" in sys.modules and (lost := _of_driver(error)):
            output.show_error(lost)
            return _exit_code(lost)
        output.say(errors.redact(traceback.format_exc()))
        output.say("this is a bug in dbscale; please report it with the lines above")
        return BUG
    return result if isinstance(result, int) else 0


def _exit_code(error: errors.DbscaleError) -> int:
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), STOPPED)


def _of_driver(error: Exception) -> errors.DbscaleError | None:
    """A connection that was lost in the middle of reading, in dbscale's words; None for anything else."""
    from psycopg import OperationalError

    from dbscale.drivers.postgres import translated

    return translated(error) if isinstance(error, OperationalError) else None
