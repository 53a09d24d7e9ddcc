"""The assessment as one HTML page, with nothing to fetch: sizes, types, findings, and how the tables hang together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from html import escape

from dbscale.cli import output
from dbscale.cli.assess import HEADINGS, by_level
from dbscale.errors import Finding
from dbscale.migrate.plan import Assessment
from dbscale.schema import Schema

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #667085; --line: #e3e6ec; --page: #fbfbfd; --card: #fff;
  --bar: #3b6fd4; --blocker: #c0362c; --data: #b26a00; --behaviour: #7a5cc7; --note: #2f7d6b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #2b3242; --page: #12161f;
  --card: #1a202c; --bar: #6f9bf0; --blocker: #ff8177; --data: #f0b35a; --behaviour: #b9a2f5; --note: #6cc5ae; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 18px; margin: 40px 0 12px; }
.lead { color: var(--soft); margin: 4px 0 20px; }
.figures { display: flex; flex-wrap: wrap; gap: 12px; }
.figure { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 18px;
  flex: 1 1 130px; }
.figure b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; } .figure span { color: var(--soft); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; color: var(--soft); font-weight: 500; }
th, td { padding: 7px 14px; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code, .mono { font-family: ui-monospace, monospace; font-size: 13px; overflow-wrap: anywhere; }
.bar { background: var(--bar); height: 10px; border-radius: 5px; min-width: 2px; } .soft { color: var(--soft); }
.finding { padding: 10px 14px; border-bottom: 1px solid var(--line); border-left: 4px solid var(--c); }
.finding { overflow-wrap: anywhere; } td { overflow-wrap: break-word; min-width: 5em; } td .bar { margin-top: 6px; }
details > summary { padding: 10px 14px; cursor: pointer; color: var(--soft); border-left: 4px solid var(--c); }
details[open] > summary { border-bottom: 1px solid var(--line); }
.finding:last-child { border-bottom: 0; } .finding pre { margin: 6px 0 0; white-space: pre-wrap; color: var(--soft); }
.blocker { --c: var(--blocker); } .data { --c: var(--data); }
.behaviour { --c: var(--behaviour); } .note { --c: var(--note); }
svg text { font: 13px system-ui, sans-serif; fill: var(--ink); } svg .box { fill: var(--card); stroke: var(--line); }
svg .edge { stroke: var(--soft); fill: none; } svg marker path { fill: var(--soft); }
"""

SHOWN = 5
"""Findings of one code that are not folded."""
BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y = 170, 34, 90, 18


def page(assessment: Assessment) -> str:
    """The whole page. Everything from the source is escaped."""
    parts = [
        _head(assessment),
        _findings(assessment),
        _tables(assessment),
        _graph(assessment.schema),
        _types(assessment),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(assessment.title)}: assessment</title><style>{STYLE}</style></head>\n"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _head(assessment: Assessment) -> str:
    figures = (
        (output.count(len(assessment.loads)), "tables"),
        (output.count(sum(load.rows for load in assessment.loads)), "rows"),
        (output.size(sum(load.bytes for load in assessment.loads)), "in SQLite"),
        (output.size(assessment.target_bytes), "in PostgreSQL, about"),
        (output.seconds(assessment.seconds), "to migrate and verify, about"),
    )
    cards = "".join(f'<div class="figure"><b>{escape(n)}</b><span>{escape(what)}</span></div>' for n, what in figures)
    blockers = sum(finding.level == "blocker" for finding in assessment.findings)
    verdict = f"{blockers} findings block the migration" if blockers else "Nothing blocks the migration"
    return (
        f'<h1>{escape(assessment.title)}</h1><p class="lead">{verdict}. Every row will be compared afterwards.</p>'
        f'<div class="figures">{cards}</div>'
    )


def _findings(assessment: Assessment) -> str:
    """By level and code; of many with one code, the first few, and the others folded."""
    parts = []
    for level, findings in by_level(assessment.findings).items():
        groups: dict[str, list[str]] = {}
        for finding in findings:
            groups.setdefault(finding.code, []).append(_finding(finding))
        items = ""
        for code, shown in groups.items():
            folded = shown[SHOWN:] if len(shown) > SHOWN + 1 else []
            items += "".join(shown[: len(shown) - len(folded)])
            if folded:
                summary = f"{len(folded)} more of these [{escape(code)}]"
                items += f'<details class="{level}"><summary>{summary}</summary>{"".join(folded)}</details>'
        parts.append(f'<h2>{HEADINGS[level]} ({len(findings)})</h2><div class="card">{items}</div>')
    return "".join(parts)


def _finding(finding: Finding) -> str:
    return (
        f'<div class="finding {finding.level}"><b class="mono">{escape(finding.where)}</b> {escape(finding.says)}'
        f' <span class="soft mono">[{escape(finding.code)}]</span>'
        + (f'<br><span class="soft">try</span> <code>{escape(finding.try_)}</code>' if finding.try_ else "")
        + (f"<pre>{escape(finding.original)}</pre>" if finding.original else "")
        + "</div>"
    )


def _tables(assessment: Assessment) -> str:
    most = max((load.bytes for load in assessment.loads), default=0) or 1
    rows = "".join(
        f'<tr><td class="mono">{escape(load.table)}</td><td class="n">{output.count(load.rows)}</td>'
        f'<td class="n">{output.size(load.bytes)}</td>'
        f'<td style="width:45%"><div class="bar" style="width:{100 * load.bytes / most:.1f}%"></div></td></tr>'
        for load in sorted(assessment.loads, key=lambda load: -load.bytes)
    )
    return (
        '<h2>Tables</h2><div class="card"><table><tr><th>table</th><th class="n">rows</th>'
        '<th class="n">size</th><th></th></tr>'
        f"{rows}</table></div>"
    )


def _types(assessment: Assessment) -> str:
    rows = "".join(
        f'<tr><td class="mono">{escape(place)}</td><td class="mono">{escape(declared) or "(none)"}</td>'
        f'<td class="mono">{escape(choice.type)}</td><td>{escape(choice.evidence)}</td></tr>'
        for place, declared, choice in assessment.types
    )
    return (
        '<h2>Types</h2><div class="card"><table><tr><th>column</th><th>declared</th><th>becomes</th><th>because</th>'
        f"</tr>{rows}</table></div>"
    )


def _graph(schema: Schema) -> str:
    """Tables as boxes in layers, parents to the left, foreign keys as arrows from child to parent."""
    parents = {
        table.name: {key.parent for key in table.foreign_keys if key.parent != table.name} for table in schema.tables
    }
    if not any(parents.values()):
        return ""
    joined = {name for name, found in parents.items() if found} | {name for found in parents.values() for name in found}
    layers: dict[int, list[str]] = defaultdict(list)
    for name, depth in _depths({name: parents[name] & joined for name in sorted(joined)}).items():
        layers[depth].append(name)
    place = {
        name: (20 + depth * (BOX_WIDTH + GAP_X), 20 + row * (BOX_HEIGHT + GAP_Y))
        for depth, names in layers.items()
        for row, name in enumerate(names)
    }
    width = 40 + (max(layers) + 1) * (BOX_WIDTH + GAP_X) - GAP_X
    height = 40 + max(len(names) for names in layers.values()) * (BOX_HEIGHT + GAP_Y) - GAP_Y
    edges = "".join(
        _edge(place[name], place[parent])
        for name in place
        for parent in sorted(parents.get(name, ()))
        if parent in place
    )
    boxes = "".join(
        f'<rect class="box" x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="7"/>'
        f'<text x="{x + 12}" y="{y + 22}">{escape(_short(name))}</text>'
        for name, (x, y) in place.items()
    )
    return (
        '<h2>Foreign keys</h2><div class="card">'
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" aria-label="foreign keys">'
        '<defs><marker id="arrow" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 Z"/></marker></defs>{edges}{boxes}</svg></div>'
    )


def _depths(parents: Mapping[str, set[str]]) -> dict[str, int]:
    """For each table the longest way to a table without parents; a cycle begins with its first table."""
    depths: dict[str, int] = {}
    depth = 0
    while len(depths) < len(parents):
        left = [name for name in parents if name not in depths]
        ready = [name for name in left if parents[name] <= depths.keys()] or left[:1]
        depths |= dict.fromkeys(ready, depth)
        depth += 1
    return depths


def _edge(child: tuple[int, int], parent: tuple[int, int]) -> str:
    x1, y1 = child[0], child[1] + BOX_HEIGHT // 2
    x2, y2 = parent[0] + BOX_WIDTH, parent[1] + BOX_HEIGHT // 2
    if child[0] <= parent[0]:  # within a cycle: around the right side
        x1 = child[0] + BOX_WIDTH
    bend = max(abs(x1 - x2) // 2, 40)
    way = f"M{x1} {y1} C{x1 - bend} {y1} {x2 + bend} {y2} {x2} {y2}"
    return f'<path class="edge" marker-end="url(#arrow)" d="{way}"/>'


def _short(name: str) -> str:
    return name if len(name) <= 20 else name[:19] + "…"
