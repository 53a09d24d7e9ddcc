"""Takes a run back, the last step first: all of it, or nothing that could not be brought back.

    claim the target ── refuse what others wrote since ── for each step, in reverse ── COMMIT, each database
                                                              │
                                                              ├── Sql, Load   in the one transaction of its database
                                                              └── Command, File, or outside of transactions: at once

With each step goes its mark, in the same transaction. So what is left of a run is always what its marks say: `undo`
again takes back the rest, and `apply.run` does again what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from dbscale import catalog
from dbscale.apply import (
    Context,
    Event,
    Finished,
    Noticed,
    Started,
    StepDone,
    StepStarted,
    others_of,
    prepare,
    run_command,
    settle,
)
from dbscale.catalog import DEFAULT_SCHEMA, Run
from dbscale.drivers import postgres
from dbscale.drivers.postgres import Connection
from dbscale.errors import DbscaleError, Finding, TargetInUse
from dbscale.plan import Command, File, Load, Plan, Sql, Step
from dbscale.schema import quote


def undo(run_: Run, plan: Plan, *, urls: Mapping[str, str], state_schema: str = DEFAULT_SCHEMA) -> Iterator[Event]:
    """Take back what a run did, the last step first; steps that have no way back are left and noticed.

    A migration goes back whole: one transaction for each database, with the marks. Raises TargetInUse when that would
    take away what a newer run wrote, or something depends on what the run made: nothing was changed then, and the
    run is what it was. Raises Unfinished when it stopped half way: `undo` again goes on, and so does `run`.
    """
    began = time.perf_counter()
    with postgres.connect(urls[plan.options.get("home", "target")], name="dbscale") as home, ExitStack() as stack:
        prepare(urls, others_of(plan, urls), state_schema, home, new=False)
        number = catalog.claim(home, state_schema, plan, run_.fingerprint, run_)
        context = Context(
            plan=plan, run=number, urls=urls, state_schema=state_schema, jobs=1, home=home, beside=others_of(plan, urls)
        )
        stack.callback(context.close)
        back = _Back(context)
        try:
            # Should this client be killed, `status` knows by it what was at work.
            catalog.take_back(home, state_schema, number)
            context.done = settle(context)
            _refuse_newer(context)
            _refuse_replaced(context)
            yield Started(run=number, resumed=True)
            yield from _take_back(context, back)
        except BaseException as error:
            back.give_up()
            # Should the server be gone, the run shows as lost, and being taken back.
            with suppress(psycopg.Error):
                if back.changed:
                    catalog.finish(home, state_schema, number, "failed", f"{catalog.TAKING_BACK}: {error}")
                else:
                    catalog.release(home, state_schema, run_)
            raise
    yield Finished(run=number, seconds=time.perf_counter() - began)


def check(run_: Run, plan: Plan, *, urls: Mapping[str, str], state_schema: str = DEFAULT_SCHEMA) -> None:
    """TargetInUse where `undo` would refuse at once: a run is at work, a newer one loaded the same tables, or a table
    is not the one that the run filled. It only reads; what depends on the tables, the server says when they go."""
    with postgres.connect(urls[plan.options.get("home", "target")], name="dbscale") as home, ExitStack() as stack:
        postgres.refuse_pooler(home)
        catalog.refuse_at_work(home, state_schema)
        context = Context(
            plan=plan,
            run=run_.id,
            urls=urls,
            state_schema=state_schema,
            jobs=1,
            home=home,
            beside=others_of(plan, urls),
        )
        stack.callback(context.close)
        _refuse_newer(context)
        _refuse_replaced(context)


@dataclass(slots=True)
class _Back:
    """The open transactions in which a run is taken back, one for each database."""

    context: Context
    sessions: dict[str, Connection] = field(default_factory=dict)
    """By URL: two sessions for two names of one database would wait for each other."""
    changed: bool = False
    """Something was taken back for good."""

    def on(self, name: str) -> Connection:
        """The session for a database, in its transaction."""
        url = self.context.urls[name]
        if url not in self.sessions:
            connection = self.sessions[url] = self.context.connect(name)
            connection.execute("RESET synchronous_commit")
            connection.execute("BEGIN")
        return self.sessions[url]

    def commit(self) -> None:
        """Commit them all, home's last: the marks of databases that keep none are there."""
        home = self.context.urls[self.context.home_name]
        for url in sorted(self.sessions, key=lambda url: url == home):
            # Before it: whether a COMMIT that lost its server took effect, nobody knows.
            self.changed = True
            self.sessions[url].execute("COMMIT")
            self.sessions.pop(url).close()

    def give_up(self) -> None:
        """Roll back what is open."""
        while self.sessions:
            self.sessions.popitem()[1].close()


def _refuse_newer(context: Context) -> None:
    """TargetInUse when a newer run that is not undone loaded one of the tables: its rows would go."""

    def places(plan: Plan, home: str) -> set[tuple[str, str, str]]:
        names = {"target": home, plan.options.get("home", "target"): home}
        loads = [step for step in plan.steps if isinstance(step, Load)]
        return {(names.get(step.on, step.on), step.schema, step.target) for step in loads}

    mine = places(context.plan, context.home_name)
    for name in (context.home_name, *sorted(context.beside)):
        with context.session(name) as connection:
            newer = [run for run in catalog.runs(connection, context.state_schema) if run.id > context.run]
        for run in newer:
            if run.state != "undone" and (both := mine & places(Plan.from_json(run.plan), name)):
                tables = ", ".join(sorted(quote(schema, table) for _, schema, table in both))
                raise TargetInUse(
                    f"run {run.id}, which is newer, wrote to the same tables: {tables}; nothing was changed",
                    where=f"run {context.run}",
                    try_=f"take run {run.id} back first: dbscale undo {run.id} {context.plan.databases.get(name, '')}",
                    see="docs/errors.md#undo-refused",
                )


def _refuse_replaced(context: Context) -> None:
    """TargetInUse when another table has the name of one that the run filled, or that has another name."""
    loads = [(number, step) for number, step in enumerate(context.plan.steps, start=1) if isinstance(step, Load)]
    for name in sorted({step.on for _, step in loads}):
        tables = {number: quote(step.schema, step.target) for number, step in loads if step.on == name}
        with context.session(name) as connection:
            found = catalog.replaced(connection, context.state_schema, context.run, tables)
        for table, now in found.items():
            raise TargetInUse(
                f"{table} is not the table that the run filled: that one is "
                + (f"called {now} now" if now else "gone")
                + "; nothing was changed",
                where=context.plan.databases.get(name, name),
                try_="rename it back, or drop it"
                if now
                else "move the new one away (ALTER TABLE … SET SCHEMA …), or first take back the run that made it",
                see="docs/errors.md#undo-refused",
            )


def _take_back(context: Context, back: _Back) -> Iterator[Event]:
    """Undo the steps that are marked, and the loads that have begun, with their marks."""
    steps = [item for item in reversed(list(enumerate(context.plan.steps, start=1))) if _begun(context, *item)]
    # A migration goes back whole, and a shard map: tables that have rows by now keep their CHECKs and their owner.
    # Elsewhere a step may need what the one before it has committed (Citus, say).
    together = any(isinstance(step, Load) for step in context.plan.steps)
    together |= context.plan.options.get("target") in ("client", "partitions")
    for number, step in steps:
        if step.undo is None:
            says = f"{step.does}: this cannot be taken back"
            yield Noticed(finding=Finding(code="irreversible-step", where=f"step {number}", says=says))
            continue
        began = time.perf_counter()
        yield StepStarted(number=number, step=step)
        try:
            _undo_one(context, back, number, step)
            if not together:
                back.commit()
        except psycopg.Error as error:
            raise _not_taken_back(back, error, f"undo: {step.does}") from error
        yield StepDone(number=number, step=step, seconds=time.perf_counter() - began)
    try:
        for name in (*sorted(context.beside), context.home_name):
            catalog.reset(back.on(name), context.state_schema, context.run)
        catalog.finish(back.on(context.home_name), context.state_schema, context.run, "undone")
        back.commit()
    except psycopg.Error as error:
        raise _not_taken_back(back, error, f"undo of run {context.run}") from error


def _begun(context: Context, number: int, step: Step) -> bool:
    """Whether there is something of a step to take back."""
    if number in context.done or not isinstance(step, Load):
        return number in context.done
    with context.session(step.on) as connection:
        return bool(catalog.parts_done(connection, context.state_schema, context.run, number))


def _undo_one(context: Context, back: _Back, number: int, step: Step) -> None:
    """Take one step back, and its mark with it."""
    marks = context.home_name
    if isinstance(step, Sql | Load):
        if step.on in context.beside:
            marks = step.on
        if step.undo and isinstance(step, Sql) and step.alone:
            back.commit()
            with context.session(step.on) as connection:
                connection.execute(step.undo.encode())
            back.changed = True
        elif step.undo:
            back.on(step.on).execute(step.undo.encode())
        if isinstance(step, Load):
            catalog.forget_parts(back.on(marks), context.state_schema, context.run, number, step.table)
    elif step.undo or isinstance(step, File):
        back.commit()
        if isinstance(step, File):
            Path(step.path).unlink(missing_ok=True)
        else:
            run_command(Command(does=f"undo: {step.does}", argv=("sh", "-c", step.undo or "")))
        back.changed = True
    catalog.step_undone(back.on(marks), context.state_schema, context.run, number)


def _not_taken_back(back: _Back, error: psycopg.Error, where: str) -> DbscaleError:
    """What `undo` raises for a database error, and whether anything was changed."""
    told = postgres.failed(error, where)
    if back.changed:
        told.says += "; what was taken back before it stays so"
        told.try_ = f"mend what it says, then dbscale undo {back.context.run} again"
        return told
    told.says += "; nothing was changed"
    if isinstance(error, psycopg.OperationalError):
        told.try_ = error.diag.message_hint or "run the same command again"
        return told
    return TargetInUse(
        told.says,
        where=where,
        try_="change or remove what the server names, then run the same command again",
        see="docs/errors.md#undo-refused",
    )


__all__ = ["check", "undo"]
