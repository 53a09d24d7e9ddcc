"""Carries a plan out: the only module that changes a database, and safe to kill at any moment.

    claim the target ── for each step, in order ── finish
                           │
                           ├── Sql       the statement and its mark "done" commit together
                           ├── Load      rows and their checkpoint commit together (loading.py)
                           ├── Command   run, then marked; asked first whether it is in effect
                           └── File      written whole, then marked

`run` yields what happens as events and prints nothing. A run that was killed is taken up by `run(…, resume=…)`: what is
marked is not done again. `undoing` takes a run back.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import psycopg

from dbscale import building, catalog
from dbscale.catalog import DEFAULT_SCHEMA, Run
from dbscale.drivers import postgres
from dbscale.drivers.postgres import Connection
from dbscale.drivers.source import Source
from dbscale.errors import ConfigError, DbscaleError, Finding, StalePlan, Unfinished
from dbscale.loading import Loaded, Loader, Progress
from dbscale.plan import Command, File, Load, Plan, Sql, Step
from dbscale.schema import quote


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The target is claimed, and the first step is about to begin."""

    run: int
    resumed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStarted:
    number: int
    step: Step


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDone:
    number: int
    step: Step
    seconds: float
    skipped: bool = False
    """It had been done before, by the run that this one goes on with."""
    loaded: int = 0
    quarantined: int = 0
    bytes: int = 0
    form: str = ""
    """Of a load: how the source wrote the rows (see `loading.Loaded`)."""
    finding: Finding | None = None
    """The server has refused it, and the run goes on without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Building:
    """How far an index has come that is built beside other work."""

    number: int
    seen: building.Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Noticed:
    finding: Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    run: int
    seconds: float


Event = Started | StepStarted | Building | Progress | StepDone | Noticed | Finished


@dataclass(slots=True, kw_only=True)
class Context:
    """What the steps of one run share."""

    plan: Plan
    run: int
    urls: Mapping[str, str]
    state_schema: str
    jobs: int
    home: Connection
    beside: frozenset[str] = frozenset()
    """The databases other than home that get rows: they keep the marks of their own steps, beside those."""
    done: dict[int, float] = field(default_factory=dict)
    idle: dict[str, list[Connection]] = field(default_factory=dict)
    """Sessions to use again, by database. Lists, since append and pop are atomic."""

    @property
    def home_name(self) -> str:
        return self.plan.options.get("home", "target")

    @contextmanager
    def session(self, on: str) -> Iterator[Connection]:
        """A session for the time of the block, used again afterwards; closed when the block fails."""
        idle = self.idle.setdefault(on, [])
        try:
            connection = idle.pop()
        except IndexError:
            connection = self.connect(on)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        idle.append(connection)

    def close(self) -> None:
        """Close the idle sessions."""
        for connections in self.idle.values():
            for connection in connections:
                connection.close()

    def connect(self, on: str) -> Connection:
        """A session for the work of this run on one database."""
        connection = postgres.connect(self.urls[on], name=catalog.worker_name(self.state_schema, self.run))
        # A commit that a crash of the server loses takes its checkpoint along: nothing is wrong then, only undone.
        connection.execute("SET synchronous_commit TO off")
        _give_memory(connection)
        return connection


def run(
    plan: Plan,
    *,
    urls: Mapping[str, str],
    source: Source | None = None,
    jobs: int = 2,
    state_schema: str = DEFAULT_SCHEMA,
    resume: Run | None = None,
) -> Iterator[Event]:
    """Carry out `plan`; `urls` says where the databases of `plan.databases` are, by name.

    Yields events. Raises ConfigError for a plan with blockers, TargetInUse when another run is at work, StalePlan
    when a resumed run's source has changed, and Unfinished for whatever stops it once it has begun: what was done is
    marked, and the same plan goes on from there with `resume`.
    """
    if plan.blockers:
        first = plan.blockers[0]
        says, see = f"the plan is blocked: {first.says}", f"docs/errors.md#{first.code}"
        raise ConfigError(says, where=first.where, try_=first.try_, see=see)
    began = time.perf_counter()
    with ExitStack() as stack:
        loads = any(isinstance(step, Load) for step in plan.steps)
        readers = stack.enter_context(source.snapshot(jobs)) if source and loads else ()
        fingerprint = source.fingerprint() if source else ""
        if resume and resume.fingerprint != fingerprint:
            raise StalePlan("the source has changed since the run began", where=f"run {resume.id}")
        home = stack.enter_context(postgres.connect(urls[plan.options.get("home", "target")], name="dbscale"))
        home.execute("SELECT set_config(name, 'local', false) FROM pg_settings"
                     " WHERE name = 'synchronous_commit' AND setting = 'off'")  # fmt: skip
        others = others_of(plan, urls)
        prepare(urls, others, state_schema, home, new=resume is None)
        number = stack.enter_context(catalog.claimed(home, state_schema, plan, fingerprint, resume))
        yield Started(run=number, resumed=resume is not None)
        context = Context(
            plan=plan, run=number, urls=urls, state_schema=state_schema, jobs=jobs, home=home, beside=others
        )
        stack.callback(context.close)
        with _stopping():
            if resume:
                context.done = settle(context)
            for group in _groups(plan.steps):
                if isinstance(group[0][1], Load):
                    yield from _load(context, group, source, readers)
                    _flush(context)
                    if source and source.changed_since_snapshot():
                        yield Noticed(finding=_source_changed(source))
                else:
                    yield from _carry_out(context, group)
            _flush(context)  # what is said to be done is on every disk
    yield Finished(run=number, seconds=time.perf_counter() - began)


@contextmanager
def _stopping() -> Iterator[None]:
    """Whatever stops a run that has begun leaves it unfinished: a source that cannot be read, a privilege, a value."""
    try:
        yield
    except Unfinished:
        raise
    except DbscaleError as error:
        raise Unfinished(error.says, where=error.where, try_=error.try_, see=error.see) from error
    except psycopg.Error as error:
        raise postgres.failed(error, "") from error


def others_of(plan: Plan, urls: Mapping[str, str]) -> frozenset[str]:
    """The databases other than home that get rows."""
    home = urls[plan.options.get("home", "target")]
    return frozenset(step.on for step in plan.steps if isinstance(step, Load) and urls[step.on] != home)


def prepare(urls: Mapping[str, str], others: Iterable[str], state_schema: str, home: Connection, *, new: bool) -> None:
    """dbscale's tables on every database that gets rows: checkpoints lie beside the rows they speak of.

    The number of a new run is one that none of them has seen: what another run left there is not taken for its own.
    """
    postgres.refuse_pooler(home)
    catalog.prepare(home, state_schema)
    with ExitStack() as stack, ThreadPoolExecutor() as pool:

        def prepared(name: str) -> Connection:
            connection = stack.enter_context(postgres.connect(urls[name]))
            postgres.refuse_pooler(connection)
            catalog.prepare(connection, state_schema)
            return connection

        connections = [home, *pool.map(prepared, sorted(others))]
        if new and len(connections) > 1:
            used = max(catalog.last_run(connection, state_schema) for connection in connections)
            for connection in connections:
                # The new run gets used + 1; where runs of another home may begin, theirs come after it.
                catalog.skip_runs(connection, state_schema, used if connection is home else used + 1)


def settle(context: Context) -> dict[int, float]:
    """The steps that are done, on all databases, once what a killed client left behind has ended."""
    catalog.clear_out(context.home, context.state_schema, context.run)
    done = catalog.steps_done(context.home, context.state_schema, context.run)
    for name in sorted(context.beside):
        with postgres.connect(context.urls[name], name="dbscale") as connection:
            catalog.clear_out(connection, context.state_schema, context.run)
            done |= catalog.steps_done(connection, context.state_schema, context.run)
    return done


def _flush(context: Context) -> None:
    """Wait until all that was committed is on the disk of its server, as no commit of the work itself does.

    VACUUM takes only such rows for visible to everybody.
    """
    for name in sorted({context.home_name, *context.beside}):
        with context.session(name) as connection, connection.transaction():
            connection.execute("SET LOCAL synchronous_commit TO local")
            # a transaction that wrote nothing waits for nothing
            connection.execute("SELECT pg_logical_emit_message(true, 'dbscale', '')")


def _groups(steps: Sequence[Step]) -> Iterator[list[tuple[int, Step]]]:
    """Numbered steps, those of one group together; a step without a group stands alone."""
    numbered = list(enumerate(steps, start=1))
    for _, group in groupby(numbered, key=lambda item: item[1].group or item[0]):
        yield list(group)


def _carry_out(context: Context, group: list[tuple[int, Step]]) -> Iterator[Event]:
    """The steps of one group, up to `jobs` at once."""
    waiting = []
    for number, step in group:
        if number in context.done:
            yield StepDone(number=number, step=step, seconds=context.done[number], skipped=True)
        else:
            waiting.append((number, step))
    if len(waiting) <= 1 or context.jobs == 1:
        for number, step in waiting:
            yield StepStarted(number=number, step=step)
            if isinstance(step, Sql) and step.leftover:
                yield from _watched(context, number, step)
            else:
                yield _one(context, number, step)
        return
    with ThreadPoolExecutor(max_workers=context.jobs) as pool:
        futures = {pool.submit(_one, context, number, step) for number, step in waiting}
        try:
            while futures:
                finished, futures = wait(futures, return_when=FIRST_EXCEPTION, timeout=0.1)
                for future in finished:
                    yield future.result()
        except Exception:  # those at work are let finish: what they did is marked
            for other in futures:
                other.cancel()
            raise
        except BaseException:
            _break_off(context, futures, {step.on for _, step in waiting if isinstance(step, Sql)})
            raise


def _watched(context: Context, number: int, step: Sql) -> Iterator[Event]:
    """A step that takes long, with its progress; given up with the run."""
    worker = catalog.worker_name(context.state_schema, context.run)
    with ThreadPoolExecutor(max_workers=1) as pool, context.session(step.on) as watcher:
        future = pool.submit(_one, context, number, step)
        try:
            while not wait([future], timeout=1.0).done:
                if seen := building.progress(watcher, worker):
                    yield Building(number=number, seen=seen)
        except BaseException:
            _break_off(context, {future}, {step.on})
            raise
        yield future.result()


def _break_off(context: Context, futures: Iterable[Future[StepDone]], databases: Iterable[str]) -> None:
    """Begin none of the steps that wait, and have the servers cancel those at work: what they did is rolled back.
    They are asked until they have ended, as one may be between two statements; but one may be clearing up, too."""
    at_work = [future for future in futures if not future.cancel()]
    with suppress(DbscaleError, psycopg.Error):  # a server that is gone ends them, too
        while wait(at_work, timeout=0).not_done:
            for name in databases:
                with context.session(name) as connection:
                    building.cancel(connection, catalog.worker_name(context.state_schema, context.run))
            wait(at_work, timeout=2)


def _one(context: Context, number: int, step: Step) -> StepDone:
    """Carry out one step and mark it."""
    began = time.perf_counter()
    finding = None
    try:
        if isinstance(step, Sql):
            finding = _sql(context, number, step, began)
        else:
            if isinstance(step, Command):
                run_command(step)
            elif isinstance(step, File):
                _write(step)
            catalog.step_done(context.home, context.state_schema, context.run, number, time.perf_counter() - began)
    except psycopg.Error as error:
        raise postgres.failed(error, step.does) from error
    return StepDone(number=number, step=step, seconds=time.perf_counter() - began, finding=finding)


def _sql(context: Context, number: int, step: Sql, began: float) -> Finding | None:
    """A statement on its database, with which its mark commits; right after it where that keeps no marks.

    What is returned tells that the server has refused it, where the run may go on without it.
    """
    refusal = None
    marks = step.on in context.beside or context.urls[step.on] == context.urls[context.home_name]
    with context.session(step.on) as connection:
        if step.alone and step.leftover:
            building.carry_out(connection, step)
        elif step.alone:
            if not building.holds(connection, step.holds):
                connection.execute(step.sql.encode())
        else:
            with connection.transaction():
                refusal = _unless_refused(connection, step)
                if marks:
                    seconds = time.perf_counter() - began
                    catalog.step_done(connection, context.state_schema, context.run, number, seconds)
    if step.alone or not marks:
        # Commits of `home` wait for the disk: while one is on its way there, VACUUM takes no row of the transactions
        # numbered around it for visible to everybody.
        catalog.step_done(context.home, context.state_schema, context.run, number, time.perf_counter() - began)
    return refusal


def _unless_refused(connection: Connection, step: Sql) -> Finding | None:
    """Execute a step's statement. Of what `Sql.without` allows to be refused, a finding, and nothing has changed."""
    if not step.without:
        connection.execute(step.sql.encode())
        return None
    try:
        with connection.transaction():
            connection.execute(step.sql.encode())
    except postgres.REFUSALS as error:
        says, try_ = _WITHOUT[step.without]
        detail = f" ({error.diag.message_detail})" if error.diag.message_detail else ""
        return Finding(
            code=step.without,
            where=step.does,
            says=f"{says}. PostgreSQL: {error.diag.message_primary}{detail}",
            try_=try_,
            level="behaviour",
            original=step.sql,
        )
    return None


_WITHOUT = {
    "index-left-out": (
        "the index is left out: the server refuses a value of it",
        "create a counterpart by hand that takes the value; in SQLite the original goes on as it was",
    ),
    "not-validated": (
        "rows break it, so that it stays NOT VALID: it holds for new and changed rows only",
        "mend the rows on the target, then ALTER TABLE … VALIDATE CONSTRAINT …",
    ),
}
"""What a finding of a code that `Sql.without` has says, and what to do."""


def run_command(step: Command) -> None:
    """Run a program; Unfinished with its last words when it fails."""
    result = subprocess.run(step.argv, capture_output=True, text=True, check=False)
    if result.returncode:
        words = (result.stderr or result.stdout).strip().splitlines()
        raise Unfinished(
            f"{step.argv[0]} ended with status {result.returncode}: {words[-1] if words else 'no output'}",
            where=step.does,
            try_="mend what it says, then run the same command again",
        )


def _write(step: File) -> None:
    """Write a file whole: into a neighbour first, which then takes its place."""
    path = Path(step.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
        file.write(step.text)
    Path(file.name).replace(path)


def _load(
    context: Context, group: Iterable[tuple[int, Step]], source: Source | None, readers: Sequence[object]
) -> Iterator[Event]:
    """The loads of a plan, all of them together: parts of several tables at once."""
    if source is None:
        raise ConfigError("the plan copies rows, and no source was given")
    loads = {}
    for number, step in group:
        assert isinstance(step, Load)  # noqa: S101 - a group is of one kind
        yield StepStarted(number=number, step=step)
        loads[number] = step
    for name in sorted({step.on for step in loads.values()}):
        tables = {number: quote(step.schema, step.target) for number, step in loads.items() if step.on == name}
        with context.session(name) as marks:
            catalog.filling(marks, context.state_schema, context.run, tables)
    loader = Loader(
        loads,
        readers=readers,  # type: ignore[arg-type]
        connect=context.connect,
        interrupt=source.interrupt,
        run_id=context.run,
        state_schema=context.state_schema,
    )
    for event in loader.run(set(context.done)):
        if isinstance(event, Loaded):
            if event.number not in context.done:
                on = loads[event.number].on
                with context.session(on if on in context.beside else context.home_name) as marks:
                    catalog.step_done(marks, context.state_schema, context.run, event.number, event.seconds)
            yield StepDone(
                number=event.number,
                step=loads[event.number],
                seconds=event.seconds,
                skipped=event.number in context.done,
                loaded=event.loaded,
                quarantined=event.quarantined,
                bytes=event.bytes,
                form=event.form,
            )
        else:
            yield event


def _give_memory(connection: Connection) -> None:
    """Let this session build indexes in memory: at least 256 MB, the server's own setting where that is more."""
    connection.execute(
        "SELECT set_config('maintenance_work_mem', '256MB', false) FROM pg_settings"
        " WHERE name = 'maintenance_work_mem' AND setting::bigint < 262144"
    )


def _source_changed(source: Source) -> Finding:
    return Finding(
        code="source-changed",
        where=source.title,
        says="commits were made to the source after the snapshot that was copied; they are not in the target",
        try_="stop the application's writes, take this run back (dbscale undo), and migrate again; or --hold-writes",
        level="data",
    )


__all__ = [
    "Building",
    "Context",
    "Event",
    "Finished",
    "Noticed",
    "Progress",
    "Started",
    "StepDone",
    "StepStarted",
    "others_of",
    "prepare",
    "run",
    "run_command",
    "settle",
]
