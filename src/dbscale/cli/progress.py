"""What a run looks like while it is under way: bars on a terminal, a line now and then in a log. All on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from dbscale.apply import Building, Event, Finished, Progress, Started, StepDone, StepStarted
from dbscale.cli import output
from dbscale.plan import Load, Plan

LOG_SECONDS = 10


def label(load: Load) -> str:
    """A load's table, and its database where that is not the target."""
    return load.table if load.on == "target" else f"{load.table} on {load.on}"


class Screen(Protocol):
    """Something that shows events as they come."""

    def show(self, event: Event) -> None:
        """Draw one event."""


class Quiet:
    """Shows nothing: for --json."""

    def show(self, event: Event) -> None:
        """Nothing."""


class Log:
    """Lines for a log: each group of steps as it is done, and loads at most every 10 seconds."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._last = time.monotonic()
        self._rows: dict[int, int] = {}

    def show(self, event: Event) -> None:
        """One line, where there is something to say."""
        if isinstance(event, Started):
            output.say(f"run {event.run}{' goes on' if event.resumed else ''}: {self._plan.title}")
        elif isinstance(event, StepDone) and isinstance(event.step, Load):
            already = " (before)" if event.skipped else ""
            output.say(f"  {label(event.step)}: {output.count(event.loaded)} rows{already}")
        elif isinstance(event, Progress):
            self._rows[event.number] = event.rows
            if time.monotonic() - self._last >= LOG_SECONDS:
                self._last = time.monotonic()
                output.say(f"  {output.count(sum(self._rows.values()))} rows so far")
        elif isinstance(event, Building):
            if time.monotonic() - self._last >= LOG_SECONDS:
                self._last = time.monotonic()
                output.say(f"  {building_text(event)}")
        elif isinstance(event, Finished):
            output.say(f"run {event.run} done in {output.seconds(event.seconds)}")


class Bars:
    """A bar per table with rows/s and time left, then one for the steps after the load."""

    def __init__(self, plan: Plan) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._plan = plan
        self._others = sum(not isinstance(step, Load) for step in plan.steps)
        self.bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[rows]}", justify="right"),
            TextColumn("{task.fields[rate]}", justify="right"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
        )
        self._steps = self.bars.add_task("steps", total=self._others, rows="", rate="")
        self._tasks = {
            number: self.bars.add_task(label(step), total=step.rows, rows="", rate="", start=False)
            for number, step in enumerate(plan.steps, start=1)
            if isinstance(step, Load)
        }
        self._began: dict[int, tuple[float, int]] = {}

    def show(self, event: Event) -> None:
        """Move the bar that the event speaks of."""
        if isinstance(event, Progress):
            self._move(event.number, event.rows)
        elif isinstance(event, Building):
            self.bars.update(self._steps, description=building_text(event)[:60])
        elif isinstance(event, StepStarted) and not isinstance(event.step, Load):
            self.bars.update(self._steps, description=event.step.does[:40])
        elif isinstance(event, StepDone):
            if isinstance(event.step, Load):
                self._move(event.number, event.loaded + event.quarantined, done=True)
            else:
                self.bars.update(self._steps, advance=1)

    def _move(self, number: int, rows: int, *, done: bool = False) -> None:
        now = time.monotonic()
        if number not in self._began:
            self._began[number] = (now, rows)
            self.bars.start_task(self._tasks[number])
        since, first = self._began[number]
        rate = f"{output.count((rows - first) / (now - since))} rows/s" if now - since > 0.2 and rows > first else ""
        task = self._tasks[number]
        self.bars.update(task, completed=rows, rows=output.count(rows))
        if rate:
            self.bars.update(task, rate=rate)
        if done:
            self.bars.update(task, total=max(rows, 1), completed=max(rows, 1))


def building_text(event: Building) -> str:
    """`building index: scanning table, 43 %; waits for process 4711`."""
    seen = event.seen
    share = f", {seen.done / seen.total:.0%}" if seen.total else ""
    return seen.phase + share + (f"; waits for process {seen.waits_for}" if seen.waits_for else "")


@contextmanager
def screen(plan: Plan, *, quiet: bool) -> Iterator[Screen]:
    """The screen that fits where stderr goes."""
    if quiet:
        yield Quiet()
    elif sys.stderr.isatty():
        bars = Bars(plan)
        with bars.bars:
            yield bars
    else:
        yield Log(plan)
