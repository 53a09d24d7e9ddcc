"""`dbscale assess`: what is in a source, what PostgreSQL makes of it, and what to decide before migrating."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from dbscale import config as configuration
from dbscale.cli import output, places
from dbscale.cli.migrate import make_options, reading, selection, tables_text
from dbscale.drivers.source import Way
from dbscale.errors import Finding
from dbscale.migrate import plan as planning
from dbscale.migrate.plan import Assessment

HEADINGS = {
    "blocker": "Blockers: to decide before the migration",
    "data": "Values that will differ",
    "behaviour": "What will work differently",
    "note": "Good to know",
}


@click.command()
@click.argument("source")
@selection
@click.option("--html", "html_file", metavar="FILE", help="Also write a self-contained page to FILE.")
@reading
@output.common
def assess(
    source: str,
    *,
    html_file: str | None,
    way: Way,
    jobs: int,
    state_schema: str,
    as_json: bool,
    config: str | None,
    **chosen: Any,
) -> int:
    """Read SOURCE and say what a migration to PostgreSQL will meet: sizes, types, findings, time.

    No target is needed, and nothing is changed. Exit status 1 when something blocks the migration, or when a
    branch that was made for it is still there.
    """
    settings = configuration.load(config)
    options = make_options(settings, chosen, jobs=jobs, state_schema=state_schema)
    with places.opened(settings, source, way) as opened:
        assessment = planning.assess(opened, options, say=(lambda _: None) if as_json else output.say)
        left = opened.close()
    assessment = replace(assessment, findings=(*assessment.findings, *left))
    if html_file:
        from dbscale.cli.assess_page import page

        output.save(html_file, page(assessment))
        output.say(f"written to {html_file}")
    if as_json:
        output.answer_json(document(assessment))
    else:
        show(assessment)
    return 1 if left or any(finding.level == "blocker" for finding in assessment.findings) else 0


def show(assessment: Assessment) -> None:
    """The assessment as text."""
    output.answer(
        f"{assessment.title}: {len(assessment.loads)} tables, "
        f"{output.count(sum(load.rows for load in assessment.loads))} rows"
    )
    output.answer("")
    output.answer(tables_text(assessment.loads))
    rows = [
        (place, declared or "(none)", choice.type, choice.evidence)
        for place, declared, choice in assessment.types
        if choice.evidence
    ]
    if rows:
        output.answer("\n" + output.table(("column", "declared", "becomes", "because"), rows))
    for level, findings in by_level(assessment.findings).items():
        output.answer(f"\n{HEADINGS[level]} ({len(findings)})")
        output.show_findings(findings, err=False)
    output.answer(
        f"\nabout {output.size(assessment.target_bytes)} in PostgreSQL; "
        f"about {output.seconds(assessment.seconds)} to migrate and verify, at the pace measured here"
    )


def by_level(findings: tuple[Finding, ...]) -> dict[str, list[Finding]]:
    """Findings by level, the gravest first; levels without any are left out."""
    grouped: dict[str, list[Finding]] = {
        level: [finding for finding in findings if finding.level == level] for level in HEADINGS
    }
    return {level: found for level, found in grouped.items() if found}


def document(assessment: Assessment) -> dict[str, Any]:
    """The assessment for a JSON document."""
    return {
        "source": assessment.title,
        "tables": [
            {"table": load.table, "rows": load.rows, "bytes": load.bytes, "columns": len(load.columns)}
            for load in assessment.loads
        ],
        "types": [
            {"column": place, "declared": declared, "type": choice.type, "evidence": choice.evidence or None}
            for place, declared, choice in assessment.types
        ],
        "findings": output.findings_json(assessment.findings),
        "target_bytes": assessment.target_bytes,
        "seconds": round(assessment.seconds, 1),
    }
