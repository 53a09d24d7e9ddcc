"""How the rows of a plan's loads are copied: parts of tables, side by side, each read once for all who get of it.

    reader (SQLite encodes) ── batches of COPY input ──┬──> Arrival: a session of one database (copying.py)
                                                       └──> Arrival: another's, where the table is on several

A part is a range of the source's keys. Its rows, the rows kept apart and its checkpoint commit together on each
database: a client killed at any moment leaves whole parts, and a second run does the others.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest

import psycopg

from dbscale import catalog
from dbscale.copying import Arrival, Destination, Run, batches, part_name
from dbscale.drivers.postgres import Connection
from dbscale.drivers.source import Reader
from dbscale.migrate import encode, pgcopy
from dbscale.migrate.encode import Encoder, Range
from dbscale.plan import Load
from dbscale.schema import quote

PART_ROWS = 100_000
"""Rows of one part. Smaller costs commits, larger loses more work to a kill: at 100,000 neither is felt."""

_PATIENCE = 10.0
"""Seconds that a broken-off run waits for its threads; they are daemons, and their transactions are not committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How much of a load has arrived so far; bytes are of COPY text."""

    number: int
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A load is complete: the rows and bytes of all its runs, and the seconds its sessions were busy with it.

    Sessions of several databases that get the rows of one read are busy at the same time.
    """

    number: int
    loaded: int
    quarantined: int
    bytes: int
    seconds: float
    form: str = ""
    """How SQLite wrote the rows: `binary` (dbscale's extension) or `csv` (SQL alone); empty where none were left."""


@dataclass(slots=True)
class _Tally:
    """What has arrived of one load."""

    waiting: int = 0
    loaded: int = 0
    quarantined: int = 0
    bytes: int = 0
    seconds: float = 0.0
    form: str = ""

    def add(self, part: catalog.Part) -> None:
        self.loaded += part.loaded
        self.quarantined += part.quarantined
        self.bytes += part.bytes
        self.seconds += part.seconds


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of the source, and who gets its rows."""

    load: Load
    """What reads the rows of all."""
    encoder: Encoder
    shares: tuple[tuple[Destination, ...], ...]
    """Who gets the batches of each of the encoder's shares: one database of its own rows, or several of all rows."""


@dataclass(frozen=True, slots=True)
class _Task:
    """A part to be read once, by whom, and for whom (see `_Table`)."""

    part: Range
    encoder: Encoder
    shares: tuple[tuple[Destination, ...], ...]


@dataclass(slots=True)
class Loader:
    """Copies loads with as many threads as there are readers."""

    loads: Mapping[int, Load]
    readers: Sequence[Reader]
    connect: Callable[[str], Connection]
    interrupt: Callable[[], None]
    run_id: int
    state_schema: str
    _tasks: queue.SimpleQueue[_Task] = field(default_factory=queue.SimpleQueue)
    _events: queue.SimpleQueue[tuple[int, catalog.Part] | BaseException | None] = field(
        default_factory=queue.SimpleQueue
    )
    _stop: threading.Event = field(default_factory=threading.Event)
    _sessions: list[Connection] = field(default_factory=list)

    def run(self, done: set[int]) -> Iterator[Progress | Loaded]:
        """Copy every load but those in `done`; yields progress, and each load once it is complete."""
        tallies = {number: _Tally() for number in self.loads}
        for task in _in_turns(self._plan(done, tallies)):
            self._tasks.put(task)
            for each in chain(*task.shares):
                tallies[each.number].waiting += 1
        for number, tally in tallies.items():
            if not tally.waiting:
                yield _loaded(number, tally)
        threads = [
            threading.Thread(target=self._work, args=(reader,), name=f"load-{i}", daemon=True)
            for i, reader in enumerate(self.readers)
        ]
        for thread in threads:
            thread.start()
        complete = False
        try:
            yield from self._report(tallies, len(threads))
            complete = True
        finally:
            self._stop.set()
            if not complete:
                self._break_off()
            for thread in threads:
                thread.join(timeout=None if complete else _PATIENCE)

    def _break_off(self) -> None:
        """Stop what the threads wait for: SQLite at its next step, PostgreSQL by a cancel request."""
        self.interrupt()
        for session in tuple(self._sessions):
            with suppress(psycopg.Error, OSError):
                session.cancel_safe(timeout=2)

    def _plan(self, done: set[int], tallies: dict[int, _Tally]) -> Iterator[_Task]:
        """The parts that are still to copy, largest tables first; what has arrived before goes into the tallies."""
        reader = self.readers[0]
        encoding = str(next(reader.rows("PRAGMA encoding"))[0])
        tables = [_table(loads, reader, encoding) for loads in _by_table(self.loads)]
        with ExitStack() as stack:
            sessions = {
                on: stack.enter_context(self.connect(on)) for on in sorted({load.on for load in self.loads.values()})
            }
            for table in sorted(tables, key=lambda table: -max(table.load.bytes, table.load.rows)):
                numbers = {each.number for each in chain(*table.shares)}
                parts = [] if numbers <= done else encode.ranges(reader, table.load, PART_ROWS)
                found = {}
                for each in chain(*table.shares):
                    names = None if each.number in done else {part_name(part) for part in parts}
                    found[each.number] = self._arrived(sessions[each.load.on], each, names)
                    for arrived in found[each.number].values():
                        tallies[each.number].add(arrived)
                    tallies[each.number].form = "" if each.number in done else table.encoder.form
                for part in parts:
                    there = {number for number in numbers if number in done or part_name(part) in found[number]}
                    yield from _tasks(table, part, there)

    def _arrived(self, session: Connection, at: Destination, names: set[str] | None) -> dict[str, catalog.Part]:
        """What has arrived of a load, by part; `names` are those of the parts that are going to be copied."""
        parts = catalog.parts_done(session, self.state_schema, self.run_id, at.number)
        if names is None or parts.keys() <= names:
            return parts
        # Another version of dbscale cut the table in other places: begin it anew.
        self._clear(session, at.number, at.load)
        return {}

    def _clear(self, session: Connection, number: int, load: Load) -> None:
        """Forget what has arrived of a load, rows and checkpoints together. The table was empty when the run began."""
        with session.transaction():
            session.execute(f"TRUNCATE {quote(load.schema, load.target)}".encode())
            catalog.forget_parts(session, self.state_schema, self.run_id, number, load.table)

    def _report(self, tallies: dict[int, _Tally], threads: int) -> Iterator[Progress | Loaded]:
        while threads:
            event = self._events.get()
            if event is None:
                threads -= 1
            elif isinstance(event, BaseException):
                raise event
            else:
                number, news = event
                tally = tallies[number]
                tally.add(news)
                tally.waiting -= 1
                yield Progress(number=number, rows=tally.loaded + tally.quarantined, bytes=tally.bytes)
                if not tally.waiting:
                    yield _loaded(number, tally)

    def _work(self, reader: Reader) -> None:
        """One thread: take parts until there are none. An error ends the whole run."""
        sessions: dict[str, Connection] = {}
        try:
            while not self._stop.is_set():
                try:
                    task = self._tasks.get_nowait()
                except queue.Empty:
                    break
                for each in chain(*task.shares):
                    if each.load.on not in sessions:
                        sessions[each.load.on] = self.connect(each.load.on)
                        self._sessions.append(sessions[each.load.on])
                self._copy(reader, sessions, task)
        except BaseException as error:  # noqa: BLE001 - handed over to the thread that waits for it
            if not self._stop.is_set():
                self._events.put(error)
        finally:
            for session in sessions.values():
                with suppress(psycopg.Error):
                    session.close()
            self._events.put(None)

    def _copy(self, reader: Reader, sessions: Mapping[str, Connection], task: _Task) -> None:
        """Copy one part: every batch to all who get it, then each database commits what it got."""
        run = Run(self.run_id, self.state_schema, self._stop)
        with ExitStack() as stack:
            shares = [
                [stack.enter_context(Arrival(reader, sessions[each.load.on], each, task.part, run)) for each in share]
                for share in task.shares
            ]
            for batch in batches(reader, task.encoder, task.part, run):
                for arrival in shares[batch.share]:
                    arrival.take(batch)
            for arrival in chain(*shares):
                self._events.put((arrival.destination.number, arrival.complete()))


def _by_table(loads: Mapping[int, Load]) -> Iterable[dict[int, Load]]:
    """The loads, by what they read: those that differ only in who gets which rows go together."""
    found: dict[Load, dict[int, Load]] = {}
    for number, load in loads.items():
        found.setdefault(replace(load, does="", on="", where="", rows=0, bytes=0), {})[number] = load
    return found.values()


def _table(loads: Mapping[int, Load], reader: Reader, encoding: str) -> _Table:
    """How the rows that `loads` get are read at once."""
    shares: dict[str, list[Destination]] = {}
    for number, load in loads.items():
        at = Destination(number, load, pgcopy.encoder(load, reader, encoding))
        shares.setdefault(load.where, []).append(at)
    firsts = [share[0] for share in shares.values()]
    load, encoder = firsts[0].load, firsts[0].encoder
    if len(firsts) > 1:
        rows, size = sum(each.load.rows for each in firsts), sum(each.load.bytes for each in firsts)
        load = replace(load, where="", rows=rows, bytes=size)
        encoder = pgcopy.encoder(load, reader, encoding, tuple(shares))
    return _Table(load, encoder, tuple(map(tuple, shares.values())))


def _tasks(table: _Table, part: Range, there: set[int]) -> Iterator[_Task]:
    """What is to be done for a part; `there` has the loads that need it no more.

    What a killed client left on some of its databases alone is read again for each of the others.
    """
    if not there:
        yield _Task(part, table.encoder, table.shares)
        return
    for each in chain(*table.shares):
        if each.number not in there:
            yield _Task(part, each.encoder, ((each,),))


def _in_turns(tasks: Iterable[_Task]) -> Iterator[_Task]:
    """The tasks of the databases in turns, so that several servers work side by side; each one's in their order."""
    of: dict[tuple[str, ...], list[_Task]] = {}
    for task in tasks:
        of.setdefault(tuple(each.load.on for each in chain(*task.shares)), []).append(task)
    return (task for turn in zip_longest(*of.values()) for task in turn if task is not None)


def _loaded(number: int, tally: _Tally) -> Loaded:
    return Loaded(
        number=number,
        loaded=tally.loaded,
        quarantined=tally.quarantined,
        bytes=tally.bytes,
        seconds=tally.seconds,
        form=tally.form,
    )
