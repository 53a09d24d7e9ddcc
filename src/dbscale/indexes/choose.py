"""Which candidates, together, serve a workload best: greedy by what they save less what they cost, then thinned out.

Costs are the planner's, times calls. An index costs what each written row pays for it; it has to save more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import psycopg

from dbscale.indexes.candidates import Candidate, Need, candidates, needs, popularity
from dbscale.indexes.facts import Facts, Index, Table
from dbscale.indexes.proof import Planned, Proof
from dbscale.indexes.sizes import estimate
from dbscale.indexes.workload import Statement
from dbscale.schema import quote

LEAST_ROWS, LEAST_PAGES = 1000, 50
"""A smaller table is read as quickly as its index."""
FEW_VALUES = 3
"""A column with so few values is no key by itself (IX107)."""
LEAST_COST = 100.0
"""A statement that costs less, in the planner's units, is quick already."""
LEAST_SAVING = 0.5
"""An index has to take at least this share off one statement …"""
LEAST_SHARE = 0.05
"""… or this share off the whole workload, as it is with those chosen before."""
NEAR = 0.05
"""Of candidates that save about as much, to this share, the smallest is taken."""
WRITE_FACTOR = 1.5
"""An index must save this many times what writing it costs."""
APPEND, SCATTERED, GIN = 1.0, 2.0, 10.0
"""What one written row costs in an index, in the planner's units (1 is reading a page in order): at the end of a
B-tree, anywhere in it, and in a GIN index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What the chosen indexes do to one statement."""

    statement: Statement
    before: Planned
    after: Planned

    @property
    def saved(self) -> float:
        return (self.before.cost - self.after.cost) * self.statement.calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Loser:
    candidate: Candidate
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Winner:
    candidate: Candidate
    wanted: bool = False
    """It was asked for by name: it is not weighed."""
    effects: tuple[Effect, ...] = ()
    """The statements that use it, the most saved first."""
    writes: float = 0.0
    """What writing it costs over the workload."""
    row_price: float = 0.0
    """What each new row costs."""
    bytes: int = 0
    losers: tuple[Loser, ...] = ()

    @property
    def saved(self) -> float:
        return sum(effect.saved for effect in self.effects)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    winners: tuple[Winner, ...] = ()
    declined: tuple[Loser, ...] = ()
    effects: tuple[Effect, ...] = ()
    """Every statement of the workload, with all winners in place."""
    refused: tuple[tuple[str, str], ...] = ()
    """Statements that could not be planned, and why."""

    @property
    def before(self) -> float:
        return sum(effect.before.cost * effect.statement.calls for effect in self.effects)

    @property
    def after(self) -> float:
        return sum(effect.after.cost * effect.statement.calls for effect in self.effects)


@dataclass(slots=True)
class Chooser:
    """The state of one choice."""

    facts: Facts
    proof: Proof
    statements: list[Statement]
    budget: int | None = None
    """Bytes that all chosen indexes may take."""
    chosen: list[Candidate] = field(default_factory=list)
    forced: frozenset[Candidate] = frozenset()
    pool: dict[Candidate, list[int]] = field(default_factory=dict)
    """Candidates, and the statements that each might serve."""
    refused: dict[int, str] = field(default_factory=dict)
    unfit: dict[Candidate, str] = field(default_factory=dict)
    """Candidates that need no proof to be declined, and why."""
    losers: dict[Candidate, list[Loser]] = field(default_factory=dict)
    _plans: dict[tuple[int, frozenset[Candidate]], Planned] = field(default_factory=dict)

    def run(self, wanted: Iterable[Candidate] = ()) -> Choice:
        """Choose."""
        wanted = tuple(wanted)
        self.forced = frozenset(wanted)
        self._gather()
        self.chosen = [candidate for candidate in wanted if candidate not in self.proof.refused]
        # A share of what is left, not of what there was: with these indexes built, the next advice asks for no more.
        while self._step(LEAST_SHARE * self._total()):
            pass
        self._thin_out()
        return self._result()

    def _gather(self) -> None:
        """The candidates that each statement asks for, and all that might serve it too."""
        popular = popularity(self.statements, self.facts)
        found: dict[Candidate, None] = dict.fromkeys(sorted(self.forced))
        wants: list[dict[int, set[str]]] = []
        for statement in self.statements:
            wants.append(_columns(needs(statement.query, self.facts)))
            insert = statement.query.insert
            if insert is None or insert.select is not None:
                found |= dict.fromkeys(candidates(statement, self.facts, popular))
        self.unfit = {each: why for each in found if each not in self.forced and (why := self._unfit(each))}
        kept = [candidate for candidate in found if candidate not in self.unfit]
        self.proof.prepare(kept)
        for candidate in kept:
            if candidate in self.proof.refused:
                continue
            table = self._table(candidate)
            self.pool[candidate] = [
                number
                for number, columns in enumerate(wants)
                if candidate.columns[0] in columns.get(table.oid, ())
                or (table.oid in columns and (candidate.where or candidate.terms[0].startswith("(")))
            ]

    def _unfit(self, candidate: Candidate) -> str:
        """Why a candidate is not worth a try; empty where it is."""
        table = self._table(candidate)
        if index := next((index for index in table.indexes if covers(index, candidate)), None):
            return f"{index.name} does it already"
        if table.blind:
            return f"{table.title} was never analysed: ANALYZE {table.sql}, and ask again"
        if table.rows < LEAST_ROWS or (table.pages < LEAST_PAGES and table.kind != "p"):
            return f"{table.title} is small ({table.rows:.0f} rows, {table.pages} pages): it is read as quickly whole"
        first = table.column(candidate.columns[0])
        values = first.values(table.rows) if first else 0
        if 0 < values <= FEW_VALUES and candidate.terms == (quote(candidate.columns[0]),) and not candidate.where:
            return f"{candidate.columns[0]} has {values:.0f} different values: each is a large part of the table"
        if candidate.method == "gin" and "trgm" in candidate.terms[0] and "pg_trgm" not in self.facts.extensions:
            return "it needs the extension pg_trgm: CREATE EXTENSION pg_trgm, and ask again"
        return ""

    def _table(self, candidate: Candidate) -> Table:
        table = self.facts.table(candidate.table, candidate.schema)
        assert table is not None  # noqa: S101 - candidates are made of the facts' tables
        return table

    def plan(self, number: int, chosen: Iterable[Candidate]) -> Planned | None:
        """The plan of a statement, its cost the mean over its samples; None where the server refuses it."""
        if number in self.refused:
            return None
        known = frozenset(c for c in chosen if number in self.pool.get(c, ()))
        if (number, known) not in self._plans:
            statement = self.statements[number]
            try:
                plans = [self.proof.plan(sql, known) for sql in (statement.sql, *statement.samples)]
            except psycopg.Error as error:
                self.refused[number] = str(error.diag.message_primary or error)
                return None
            named = {self.proof.name(candidate): candidate.title for candidate in known}
            self._plans[number, known] = Planned(
                cost=sum(plan.cost for plan in plans) / len(plans),
                uses=frozenset(named.get(name, name) for plan in plans for name in plan.uses),
                nodes=tuple(_renamed(node, named) for node in plans[0].nodes),
            )
        return self._plans[number, known]

    def _cost(self, number: int, chosen: Iterable[Candidate]) -> float:
        plan = self.plan(number, chosen)
        return plan.cost * self.statements[number].calls if plan else 0.0

    def _total(self) -> float:
        return sum(self._cost(number, self.chosen) for number in range(len(self.statements)))

    def _gain(self, candidate: Candidate) -> tuple[float, bool]:
        """What a candidate saves beside those chosen, and whether it makes a real difference to any statement."""
        gain, helps = 0.0, False
        for number in self.pool[candidate]:
            now, then = self.plan(number, self.chosen), self.plan(number, [*self.chosen, candidate])
            if now is None or then is None or candidate.title not in then.uses:
                continue
            gain += (now.cost - then.cost) * self.statements[number].calls
            helps = helps or (now.cost >= LEAST_COST and then.cost <= now.cost * (1 - LEAST_SAVING))
        return gain, helps

    def _step(self, least: float) -> bool:
        """Choose one more, which saves `least` or takes half off a statement; False where none is worth it.

        Included columns make an index several times as large, and help only while few rows change: they have to save
        `least` more than the same index does without them.
        """
        worth: list[tuple[float, Candidate]] = []
        for candidate in self.pool:
            if candidate in self.chosen or self._covering(candidate):
                continue
            gain, helps = self._gain(candidate)
            net = gain - WRITE_FACTOR * self.writes(candidate)
            if candidate.include and gain - self._gain(replace(candidate, include=()))[0] < least:
                continue
            if net > 0 and (helps or gain >= least) and self._fits(candidate):
                worth.append((net, candidate))
        if not worth:
            return False
        best = max(net for net, _ in worth)
        near = [(net, candidate) for net, candidate in worth if net >= best * (1 - NEAR)]
        net, taken = min(
            near, key=lambda item: (self._sorted(item[1]), self.size(item[1]), item[1].width, -item[0], item[1])
        )
        self.losers[taken] = [
            Loser(candidate=other, because=self._lost(taken, net, other, theirs))
            for theirs, other in sorted(worth, key=lambda item: -item[0])
            if other != taken and (other.schema, other.table) == (taken.schema, taken.table)
            and set(self.pool[other]) & set(self.pool[taken])
        ]  # fmt: skip
        self.chosen.append(taken)
        return True

    def _covering(self, candidate: Candidate) -> str:
        """The chosen index that does a candidate's work, as `covers` will say of it once it is built; empty: none."""
        if not _plain(candidate):
            return ""
        mine, width = (candidate.schema, candidate.table, candidate.method), len(candidate.columns)
        return next(
            (chosen.title for chosen in self.chosen if _plain(chosen) and chosen.columns[:width] == candidate.columns
             and (chosen.schema, chosen.table, chosen.method) == mine), ""
        )  # fmt: skip

    def _sorted(self, candidate: Candidate) -> float:
        """Calls that would still sort for their LIMIT: what grows with the rows of each key."""
        calls = 0.0
        for number in self.pool[candidate]:
            statement = self.statements[number]
            if any(block.limit is not None and block.order_by for block in statement.query.blocks):
                plan = self.plan(number, [*self.chosen, candidate])
                calls += statement.calls if plan and any("Sort" in node for node in plan.nodes) else 0
        return calls

    def _fits(self, candidate: Candidate) -> bool:
        return self.budget is None or self.size(candidate) + sum(map(self.size, self.chosen)) <= self.budget

    def _lost(self, taken: Candidate, net: float, other: Candidate, theirs: float) -> str:
        if self._sorted(other) > self._sorted(taken):
            return f"saves {theirs / net:.0%} of it, and leaves a sort that grows with the rows of each key"
        if theirs >= net * (1 - NEAR):
            space = self.size(other) / self.size(taken)
            return f"saves about as much ({theirs / net:.0%}) and takes {space:.1f} times the space"
        return f"saves {theirs / net:.0%} of what {taken.title} saves"

    def size(self, candidate: Candidate) -> int:
        return estimate(candidate, self._table(candidate))

    def writes(self, candidate: Candidate) -> float:
        """What the workload's own writes pay for an index, in the planner's units."""
        table = self._table(candidate)
        total = 0.0
        for statement in self.statements:
            query = statement.query
            written = [t for t in query.tables if t.writes and self.facts.table(t.name, t.schema) is table]
            if not written:
                continue
            rows = max(statement.rows, statement.calls * _rows_of(statement))
            sets = {name for name, _ in query.sets}
            touched = sets & {*candidate.columns, *candidate.include}
            if query.verb == "insert" or touched:
                total += rows * self.row_price(candidate) * (1 if query.verb == "insert" else self._lost_hot(table))
        return total

    def row_price(self, candidate: Candidate) -> float:
        """What one new row costs."""
        if candidate.method == "gin":
            return GIN
        first = self._table(candidate).column(candidate.columns[0])
        append = bool(first and first.correlation >= 0.9 and first.distinct < -0.1)
        return (APPEND if append else SCATTERED) * _share_written(candidate)

    def _lost_hot(self, table: Table) -> int:
        """An update of an indexed column cannot be heap-only: then every index of the table gets an entry."""
        hot = table.hot_updates / table.updates if table.updates else 1.0
        return 1 + (len(table.indexes) if hot > 0.5 else 0)

    def _thin_out(self) -> None:
        """Leave out what the others make superfluous."""
        for candidate in list(self.chosen):
            if candidate in self.forced:
                continue
            others = [other for other in self.chosen if other != candidate]
            loss = sum(self._cost(number, others) - self._cost(number, self.chosen) for number in self.pool[candidate])
            used = any(
                (plan := self.plan(number, self.chosen)) and candidate.title in plan.uses
                for number in self.pool[candidate]
            )
            if not used or loss <= max(WRITE_FACTOR * self.writes(candidate), 0.01 * self._total()):
                self.chosen = others
                by = next((other.title for other in others if other.table == candidate.table), "")
                because = f"beside {by or 'those advised'} it saves {max(loss, 0):.0f} of {self._total():.0f} only"
                self.losers.setdefault(candidate, []).append(Loser(candidate=candidate, because=because))

    def _result(self) -> Choice:
        effects = []
        for number, statement in enumerate(self.statements):
            before, after = self.plan(number, ()), self.plan(number, self.chosen)
            if before and after:
                effects.append(Effect(statement=statement, before=before, after=after))
        winners = []
        for candidate in self.chosen:
            users = [effect for effect in effects if candidate.title in effect.after.uses]
            winners.append(
                Winner(
                    candidate=candidate,
                    wanted=candidate in self.forced,
                    effects=tuple(sorted(users, key=lambda effect: -effect.saved)),
                    writes=self.writes(candidate),
                    row_price=self.row_price(candidate),
                    bytes=self.size(candidate),
                    losers=tuple(self.losers.get(candidate, ())),
                )
            )
        return Choice(
            winners=tuple(winners),
            declined=tuple(self._declined()),
            effects=tuple(effects),
            refused=tuple((self.statements[number].sql, why) for number, why in self.refused.items()),
        )

    def _declined(self) -> Iterable[Loser]:
        for candidate, why in self.unfit.items():
            yield Loser(candidate=candidate, because=why)
        for candidate, why in self.proof.refused.items():
            yield Loser(candidate=candidate, because=f"it cannot be made: {why}")
        told = {loser.candidate for winner in self.chosen for loser in self.losers.get(winner, ())}
        for candidate in self.pool:
            if candidate in self.chosen or candidate in told or not self.pool[candidate]:
                continue
            if mine := [loser for loser in self.losers.get(candidate, ()) if loser.candidate == candidate]:
                yield mine[0]
                continue
            yield Loser(candidate=candidate, because=self._why_not(candidate))

    def _why_not(self, candidate: Candidate) -> str:
        if by := self._covering(candidate):
            return f"{by} does it already"
        gain, _ = self._gain(candidate)
        writes = self.writes(candidate)
        used = any(
            (plan := self.plan(number, [*self.chosen, candidate])) and candidate.title in plan.uses
            for number in self.pool[candidate]
        )
        if not used:
            return "the planner does not use it" + (" beside those advised" if self.chosen else "")
        if gain <= 0:
            return "it saves nothing beside those advised"
        if gain <= WRITE_FACTOR * writes:
            return (
                f"writing it costs {writes:.0f}, and it saves {max(gain, 0):.0f}: less than {WRITE_FACTOR} times that"
            )
        if candidate.include:
            return f"what it covers saves less than {LEAST_SHARE:.0%} of the workload beside the same without INCLUDE"
        if not self._fits(candidate):
            return "it does not fit the storage budget"
        return f"it takes less than {LEAST_SAVING:.0%} off any statement beside those advised"


def covers(index: Index, candidate: Candidate) -> bool:
    """An index that exists begins with the candidate's keys: it does the same work."""
    if not index.valid or index.method != candidate.method or index.predicate:
        return False
    return index.plain and _plain(candidate) and index.columns[: len(candidate.columns)] == candidate.columns


def _plain(candidate: Candidate) -> bool:
    """Every key is a column in ascending order, and every row is in it."""
    terms = tuple(f'"{column}"' for column in candidate.columns)
    return not candidate.where and candidate.terms == terms


def _columns(found: list[Need]) -> dict[int, set[str]]:
    """The columns that a statement compares, joins or sorts, by table."""
    columns: dict[int, set[str]] = {}
    for need in found:
        names = columns.setdefault(need.table.oid, set())
        names |= {*need.equal, *need.ranges, *need.joins, *need.groups, *need.prefixes, *need.parts}
        names |= {name for name, _, _ in need.sort} | {name for name, _ in need.contains}
    return columns


def _renamed(node: str, named: Mapping[str, str]) -> str:
    for name, title in named.items():
        node = node.replace(name, title)
    return node


def _rows_of(statement: Statement) -> float:
    """Rows that one call writes, as far as the text tells."""
    insert = statement.query.insert
    return float(len(insert.rows) or 1) if insert else 1.0


def _share_written(candidate: Candidate) -> float:
    return 0.2 if candidate.where else 1.0


def choose(
    facts: Facts, proof: Proof, statements: Iterable[Statement], wanted: Iterable[Candidate] = (), *,
    budget: int | None = None,
) -> Choice:  # fmt: skip
    """The set of indexes for a workload; `wanted` ones are in it whatever they cost."""
    return Chooser(facts=facts, proof=proof, statements=list(statements), budget=budget).run(wanted)


__all__ = ["Choice", "Effect", "Loser", "Winner", "choose", "covers"]
