"""`--revision`: what a command would do, as an Alembic revision of the application's own environment."""

from __future__ import annotations

from pathlib import Path

import click

from dbscale.cli import output
from dbscale.errors import ConfigError
from dbscale.migrate.plan import Migration
from dbscale.plan import Plan

REVISION = click.option(
    "--revision",
    is_flag=False,
    flag_value=".",
    metavar="[PLACE]",
    help="Write the schema as an Alembic revision (of the environment at PLACE) and stop.",
)


def write_revision(place: str, what: Migration | Plan, *, as_json: bool = False) -> int:
    """A migration's schema, or a plan's statements, as a revision after the head of an Alembic environment."""
    from dbscale import environment
    from dbscale.migrate import revision

    plan = what if isinstance(what, Plan) else what.plan
    if blockers := plan.blockers:
        output.show_findings(blockers)
        if as_json:
            output.answer_json({"written": None, "findings": output.findings_json(plan.findings)})
        return 2
    given = Path(place)
    found = (
        environment.Environment(given) if (given / "env.py").exists() or given.is_file() else environment.find(given)
    )
    if found is None:
        raise ConfigError("there is no Alembic environment", where=place, try_="alembic init migrations")
    title = plan.title if isinstance(what, Plan) else "Baseline: the schema as dbscale made it"

    def text(id_: str, down: str | None) -> str:
        spot = revision.Place(revision=id_, down=down, title=title)
        if isinstance(what, Plan):
            return revision.of_plan(what, spot)
        if what.target is None:
            raise ConfigError("with --into-existing there is no schema to write", try_="leave --into-existing out")
        return revision.baseline(what.target.schema, spot)

    file = found.write(title.partition(":")[0], text)
    output.show_findings(plan.findings)
    if as_json:
        output.answer_json({"written": str(file), "findings": output.findings_json(plan.findings)})
    else:
        output.answer(str(file))
    output.say("now: dbscale upgrade; with --stamp where a database has this already")
    return 0
