"""The advice for a database: indexes to make and to drop, each with its evidence, and the plan that does it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from dbscale.errors import ConfigError, Finding
from dbscale.indexes import remarks, rules
from dbscale.indexes.candidates import Candidate
from dbscale.indexes.choose import Choice, Effect, Winner, choose, covers
from dbscale.indexes.facts import Facts, Index, Table
from dbscale.indexes.proof import Proof
from dbscale.indexes.workload import Workload
from dbscale.plan import Plan, Sql
from dbscale.schema import create_index, literal, quote


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One statement that an index serves."""

    sql: str
    calls: float
    seconds: float
    """Of all calls together, as measured by the server; 0: not known."""
    before: float
    """The planner's cost of one call."""
    after: float
    plan_before: tuple[str, ...]
    plan_after: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Advised:
    """An index to make."""

    name: str
    index: str
    """`orders (user_id, created_at)`."""
    rules: tuple[str, ...]
    because: str
    sql: str
    bytes: int
    row_price: float
    """What each new row pays, in the planner's units."""
    writes: float
    """What the workload's own writes pay."""
    saved: float
    """Of the workload's cost, by calls; less what its writes pay."""
    evidence: tuple[Evidence, ...]
    alternatives: tuple[tuple[str, str], ...]
    """Other indexes, and why they lost."""
    candidate: Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class Declined:
    index: str
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    advised: tuple[Advised, ...]
    drops: tuple[rules.Drop, ...]
    declined: tuple[Declined, ...]
    findings: tuple[Finding, ...]
    plan: Plan
    how: str
    """How it was proven."""
    before: float = 0.0
    """The workload's cost by the planner, calls included."""
    after: float = 0.0
    statements: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An index of `[indexes]`."""

    name: str
    candidate: Candidate


_WANTED = re.compile(
    r"(?P<table>[\w.\"]+)\s*(?:using\s+(?P<method>\w+)\s*)?\((?P<terms>.*)\)\s*(?:where\s+(?P<where>.+))?",
    re.IGNORECASE | re.DOTALL,
)


def wanted(indexes: Mapping[str, str], facts: Facts, path: str = "dbscale.toml") -> tuple[list[Wanted], list[Finding]]:
    """The indexes asked for by name; findings for those whose table or column is not there."""
    found: list[Wanted] = []
    findings: list[Finding] = []
    for name, text in indexes.items():
        where = f"{path}: indexes.{name}"
        match = _WANTED.fullmatch(text.strip())
        if not match:
            raise ConfigError(f"not an index: {text!r}", where=where, try_='idx_farms_location = "farms (location)"')
        schema, _, table_name = match["table"].replace('"', "").rpartition(".")
        table = facts.table(table_name, schema)
        if table is None:
            findings.append(Finding(code="index-wanted", where=where, says=f"there is no table {table_name}",
                                    try_="correct the name, or migrate first", level="behaviour"))  # fmt: skip
            continue
        terms, columns = _terms(match["terms"], table)
        if unknown := [term for term, column in zip(terms, columns, strict=True) if not column]:
            findings.append(Finding(code="index-wanted", where=where, level="behaviour",
                                    says=f"{table.title} has no column {', '.join(unknown)}",
                                    try_="columns: " + ", ".join(column.name for column in table.columns)))  # fmt: skip
            continue
        candidate = Candidate(table.schema, table.name, terms, columns, method=(match["method"] or "btree").lower(),
                              where=(match["where"] or "").strip())  # fmt: skip
        found.append(Wanted(name=name, candidate=candidate))
    return found, findings


def _terms(text: str, table: Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The terms of `a, lower(b), c DESC`, and the column that each is about, empty for an unknown one."""
    parts: list[str] = [""]
    depth = 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    terms, columns = [], []
    for part in (part.strip() for part in parts):
        word, _, rest = part.partition(" ")
        name = word.strip('"')
        if table.column(name):
            terms.append(quote(name) + (f" {rest.strip()}" if rest.strip() else ""))
            columns.append(name)
        else:
            inside = [column.name for column in table.columns if re.search(rf"\b{re.escape(column.name)}\b", part)]
            terms.append(part)
            columns.append(inside[0] if inside and not re.fullmatch(r"\w+", part) else "")
    return tuple(terms), tuple(columns)


def advise(
    facts: Facts,
    proof: Proof,
    workload: Workload,
    *,
    indexes: Mapping[str, str] | None = None,
    config_path: str = "dbscale.toml",
    databases: Mapping[str, tuple[str, Facts]] | None = None,
    budget: int | None = None,
    drops: bool = False,
    window_days: float = rules.WINDOW_DAYS,
    sharded: Mapping[str, str] | None = None,
) -> Advice:
    """The advice from schema, wishes and workload.

    `databases` are those that get the indexes, by the plan's names: what refers to each, and its facts; by default the
    one asked alone, as `target`. `drops` puts the drop advice into the plan too. `sharded` has the key column of each
    table of a shard map.
    """
    asked, findings = wanted(indexes or {}, facts, config_path)
    missing = [wish for wish in asked if not _existing(wish.candidate, facts)]
    schema_wants = list(rules.asked_by_schema(facts, workload.statements))
    statements = [*workload.statements, *(item.statement for item in schema_wants)]
    choice = choose(facts, proof, statements, [wish.candidate for wish in missing], budget=budget)
    names = {wish.candidate: wish.name for wish in missing}
    taken = {index.name for table in facts.tables for index in table.indexes} | {table.name for table in facts.tables}
    by_statement = {id(item.statement): item for item in schema_wants}
    advised = []
    for winner in choice.winners:
        name = names.get(winner.candidate) or _name(winner.candidate, taken)
        taken.add(name)
        advised.append(_advised(winner, name, by_statement))
    dropping = tuple(_dropped(facts, proof, workload, choice, window_days))
    served = {id(effect.statement) for winner in choice.winners for effect in winner.effects}
    findings += [*remarks.findings(facts), *_asked_findings(asked, facts), *remarks.sharded(facts, sharded or {})]
    findings += remarks.blocking_hot(facts, workload.statements)
    findings += remarks.passed_over(facts, proof, ((effect.statement, effect.after) for effect in choice.effects))
    findings += [item.finding for item in schema_wants if id(item.statement) not in served]
    findings += [Finding(code="workload-statement", where=source, says=f"left out: {why}", original=sql)
                 for sql, why in (*workload.skipped, *choice.refused)
                 for source in [" and ".join(workload.sources) or "workload"]]  # fmt: skip
    where = databases or {"target": ("target", facts)}
    steps = [step for item, winner in zip(advised, choice.winners, strict=True)
             for step in _steps(item, winner.candidate, where)]  # fmt: skip
    if drops:
        steps += [step for drop in dropping for step in _drop_steps(drop, where)]
    plan = Plan(
        title=_title(len(advised), len(dropping) if drops else 0),
        databases={name: reference for name, (reference, _) in where.items()},
        steps=tuple(steps),
        findings=tuple(findings),
        options={
            "home": "target" if "target" in where else next(iter(where)),
            # What is planned again when the indexes are there.
            "evidence": json.dumps(
                {item.name: [e.sql for e in item.evidence[:3]] for item in advised if item.evidence}, ensure_ascii=False
            ),
        },
    )
    return Advice(
        advised=tuple(advised),
        drops=dropping,
        declined=tuple(_declined(choice, asked, missing, facts)),
        findings=tuple(findings),
        plan=plan,
        how=proof.how,
        before=choice.before,
        after=choice.after,
        statements=len(choice.effects),
    )


def _title(makes: int, drops: int) -> str:
    return f"make {makes} index{'es' * (makes != 1)}" + (f", drop {drops}" if drops else "")


def _dropped(
    facts: Facts, proof: Proof, workload: Workload, choice: Choice, window_days: float
) -> Iterator[rules.Drop]:
    """The drop advice; superfluous indexes only where hiding them makes no statement of the workload slower."""
    told = set()
    for drop in rules.drops(facts, window_days=window_days):
        told.add(drop.name)
        yield drop
    made = [winner.candidate for winner in choice.winners]
    for drop, _ in rules.superfluous(facts, made) if proof.can_hide() and workload.statements else ():
        if drop.name not in told and all(_as_quick(proof, e, made, drop.name) for e in choice.effects):
            yield drop
    yield from rules.bloated(facts)


def _as_quick(proof: Proof, effect: Effect, made: list[Candidate], hidden: str) -> bool:
    """A statement costs at most a tenth more without the index; only those that use it are asked."""
    if hidden not in effect.before.uses | effect.after.uses:
        return True
    return proof.plan(effect.statement.sql, made, hidden=[hidden]).cost <= effect.after.cost * 1.1


def _existing(candidate: Candidate, facts: Facts) -> Index | None:
    """The index that does a candidate's work already."""
    table = facts.table(candidate.table, candidate.schema)
    return next((index for index in table.indexes if covers(index, candidate)), None) if table else None


def _name(candidate: Candidate, taken: set[str]) -> str:
    """PostgreSQL's own way to name an index, in at most 63 bytes and not given yet."""
    stem = "_".join((candidate.table, *candidate.columns))
    for number in range(1000):
        tail = "_idx" + (str(number) if number else "")
        room = 63 - len(tail)
        name = stem.encode()[:room].decode(errors="ignore") + tail
        if name not in taken:
            return name
    return stem[:40] + "_idx"


def _advised(winner: Winner, name: str, schema_wants: Mapping[int, rules.SchemaWant]) -> Advised:
    candidate = winner.candidate
    helped = [effect for effect in winner.effects if id(effect.statement) not in schema_wants]
    from_schema = [schema_wants[id(e.statement)] for e in winner.effects if id(e.statement) in schema_wants]
    codes = tuple(dict.fromkeys([*(item.rule for item in from_schema), *_rules(candidate, helped)]))
    because = []
    if winner.wanted:
        because.append(f"{name} is wanted by name")
    because += [item.because for item in from_schema]
    if helped:
        best = helped[0]
        because.append(
            f"{len(helped)} of the workload's statements {'uses' if len(helped) == 1 else 'use'} it; the cost of one"
            f" falls from {best.before.cost:,.0f} to {best.after.cost:,.0f}"
        )
    return Advised(
        name=name,
        index=candidate.title,
        rules=codes,
        because="; ".join(because) or "no statement that was given uses it",
        sql=create_index(candidate.schema, candidate.table, candidate.index(name), concurrently=True),
        bytes=winner.bytes,
        row_price=winner.row_price,
        writes=winner.writes,
        saved=winner.saved - winner.writes,
        evidence=tuple(_evidence(effect) for effect in winner.effects),
        alternatives=tuple((loser.candidate.title, loser.because) for loser in winner.losers),
        candidate=candidate,
    )


def _evidence(effect: Effect) -> Evidence:
    return Evidence(
        sql=effect.statement.sql,
        calls=effect.statement.calls,
        seconds=effect.statement.seconds,
        before=effect.before.cost,
        after=effect.after.cost,
        plan_before=effect.before.nodes,
        plan_after=effect.after.nodes,
    )


def _rules(candidate: Candidate, effects: Iterable[Effect]) -> Iterator[str]:
    """The rules of the catalogue that an index follows."""
    effects = list(effects)
    if not effects:
        return
    if candidate.method == "gin":
        yield "IX208" if "trgm" in candidate.terms[0] else "IX209"
    elif candidate.method == "brin":
        yield "IX210"
    elif any("(" in term for term in candidate.terms):
        yield "IX207"
    elif any("Sort" in node for e in effects for node in e.before.nodes) and not all(
        "Sort" in node for e in effects for node in e.after.nodes
    ):
        yield "IX202"
    else:
        yield "IX201"
    if any("Nested Loop" in node for e in effects for node in e.after.nodes):
        yield "IX203"
    if len(candidate.terms) > 1:
        yield "IX204"
    if candidate.include:
        yield "IX205"
    if candidate.where:
        yield "IX206"


def _declined(choice: Choice, asked: list[Wanted], missing: list[Wanted], facts: Facts) -> Iterator[Declined]:
    for wish in asked:
        if wish not in missing and (index := _existing(wish.candidate, facts)):
            yield Declined(index=wish.candidate.title, because=f"{index.name} does it already")
    for loser in choice.declined:
        yield Declined(index=loser.candidate.title, because=loser.because)


def _asked_findings(asked: list[Wanted], facts: Facts) -> Iterator[Finding]:
    """IX114: a wanted name that belongs to another index."""
    for wish in asked:
        for table in facts.tables:
            for index in table.indexes:
                if index.name == wish.name and not covers(index, wish.candidate):
                    yield Finding(
                        code="index-drift",
                        where=f"{table.title}.{index.name}",
                        says=f"it is not what dbscale.toml says ({wish.candidate.title}): {index.definition}",
                        try_="rename one of them, or drop the index and apply again",
                        level="blocker",
                    )


def _steps(item: Advised, candidate: Candidate, databases: Mapping[str, tuple[str, Facts]]) -> Iterator[Sql]:
    """The steps of one index on each database that has its table."""
    for on, (_, facts) in databases.items():
        table = facts.table(candidate.table, candidate.schema)
        if table is None or _existing(candidate, facts):
            continue
        if table.kind == "p":
            yield from partitioned(item.name, candidate, table, facts, on)
        else:
            yield build(candidate, item.name, on=on)
        if any(term.startswith("(") for term in candidate.terms):
            # Only ANALYZE tells the planner what values an expression has.
            yield Sql(does=f"gather statistics of {table.title}", sql=f"ANALYZE {table.sql}", undo="", on=on)


def build(candidate: Candidate, name: str, *, on: str = "target") -> Sql:
    """The step that builds one index beside the application's work."""
    relation = literal(quote(candidate.schema, name))
    table = literal(quote(candidate.schema, candidate.table))
    index = f"pg_index i WHERE indexrelid = to_regclass({relation})"
    keys = ""
    if all(term == quote(column) for term, column in zip(candidate.terms, candidate.columns, strict=True)):
        names = ", ".join(literal(column) for column in candidate.columns)
        keys = (
            f" AND ARRAY[{names}]::text[] = ARRAY(SELECT attname::text FROM generate_series(1, indnkeyatts) k"
            " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k - 1] ORDER BY k)"
        )
    return Sql(
        does=f"build the index {name} on {candidate.title}",
        sql=create_index(candidate.schema, candidate.table, candidate.index(name), concurrently=True),
        undo=f"DROP INDEX CONCURRENTLY IF EXISTS {quote(candidate.schema, name)}",
        on=on,
        alone=True,
        holds=f"SELECT indisvalid AND indisready AND indrelid = to_regclass({table}){keys} FROM {index}",
        leftover=f"SELECT NOT indisvalid AND indrelid = to_regclass({table}) FROM {index}",
        clear=f"DROP INDEX CONCURRENTLY IF EXISTS {quote(candidate.schema, name)}",
    )


def partitioned(name: str, candidate: Candidate, table: Table, facts: Facts, on: str) -> Iterator[Sql]:
    """A partitioned table's index: an empty one on the parent, and one on each partition, attached when it is whole."""
    schema = candidate.schema
    yield Sql(
        does=f"declare the index {name} on {table.title}, without its partitions",
        sql=create_index(schema, table.name, candidate.index(name)).replace(" ON ", " ON ONLY ", 1),
        undo=f"DROP INDEX IF EXISTS {quote(schema, name)}",
        on=on,
    )
    for part in facts.partitions(table):
        below = replace(candidate, schema=part.schema, table=part.name)
        taken = {index.name for each in facts.tables for index in each.indexes}
        own = _name(below, taken)
        if part.kind == "p":
            yield from partitioned(own, below, part, facts, on)
        else:
            yield build(below, own, on=on)
        yield Sql(
            does=f"attach {own} to {name}",
            sql=f"ALTER INDEX {quote(schema, name)} ATTACH PARTITION {quote(part.schema, own)}",
            # An attached index cannot be dropped alone: the parent's goes, and takes the attached ones along.
            undo=f"DROP INDEX IF EXISTS {quote(schema, name)}",
            on=on,
        )


def _drop_steps(drop: rules.Drop, databases: Mapping[str, tuple[str, Facts]]) -> Iterator[Sql]:
    for on, (_, facts) in databases.items():
        table = facts.table(drop.table, drop.schema)
        index = next((index for index in table.indexes if index.name == drop.name), None) if table else None
        if index is None or index.kept:
            continue
        again = index.definition.replace("INDEX ", "INDEX CONCURRENTLY ", 1)
        yield Sql(
            does=f"{'rebuild' if drop.rebuild else 'drop'} the index {drop.name}",
            sql=f"REINDEX INDEX CONCURRENTLY {quote(drop.schema, drop.name)}" if drop.rebuild
            else f"DROP INDEX CONCURRENTLY IF EXISTS {quote(drop.schema, drop.name)}",
            undo="" if drop.rebuild or not index.valid else again,
            on=on,
            alone=True,
            holds="" if drop.rebuild
            else f"SELECT to_regclass({literal(quote(drop.schema, drop.name))}) IS NULL",
        )  # fmt: skip


__all__ = ["Advice", "Advised", "Declined", "Evidence", "Wanted", "advise", "build", "wanted"]
