"""dbscale's command line, that kills itself with SIGKILL at the N-th mark it makes: `crash_client.py N when ARGUMENTS`.

`when` is `before` or `after`: the mark ("this step is done", "this part has arrived") is not yet, or just, sent to the
server. Either way the transaction that it belongs to is not committed yet; for `committed`, it is.
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


def dying(mark: Callable[..., Any], at: int, when: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        number = next(made)
        print("mark", file=sys.stderr, flush=True)
        if number == at and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = mark(*arguments)
        if number == at and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


if __name__ == "__main__":
    number, moment, part_rows, *arguments = sys.argv[1:]
    loading.PART_ROWS = int(part_rows)
    catalog.step_done = dying(catalog.step_done, int(number), moment)
    catalog.part_done = dying(catalog.part_done, int(number), moment)
    status = run(arguments)
    print(f"marks {next(made) - 1}", file=sys.stderr)
    sys.exit(status)
