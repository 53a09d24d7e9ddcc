"""dbscale's command line, that kills itself with SIGKILL at the N-th mark it makes: `crash_client.py N when ARGUMENTS`.

`when` is `before` or `after`: the mark ("this step is done", "this part has arrived") is not yet, or just, sent to the
server. Either way the transaction that it belongs to is not committed yet. `STEP:PART` in place of N, `28:150..`, is
the mark of a part of a load; a client that lives tells those it made in the end, and how many marks there were.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from dbscale import catalog, loading
from dbscale.cli import run

made = itertools.count(1)
"""The marks' numbers: taken in one operation, as several threads make marks."""
parts: list[str] = []


def dying(mark: Callable[..., Any], at: str, when: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        names = [str(next(made))]
        if isinstance(arguments[-1], catalog.Part):
            parts.append(f"{arguments[3]}:{arguments[-1].part}")
            names.append(parts[-1])
        print("mark", file=sys.stderr, flush=True)
        if at in names and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = mark(*arguments)
        if at in names and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


if __name__ == "__main__":
    number, moment, part_rows, *arguments = sys.argv[1:]
    loading.PART_ROWS = int(part_rows)
    catalog.step_done = dying(catalog.step_done, number, moment)
    catalog.part_done = dying(catalog.part_done, number, moment)
    status = run(arguments)
    print("parts", *parts, file=sys.stderr)
    print(f"marks {next(made) - 1}", file=sys.stderr)
    sys.exit(status)
