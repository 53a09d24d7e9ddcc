"""How large pools should be. Pure: every term is shown, and which of them binds.

Sources of the formulas: Little's law (L = λ W); Erlang's C formula for the chance to wait and its exponential tail for
the waiting time in M/M/c (any textbook of queueing theory); `2 × cores + spindles` for connections at work at once is
the rule of thumb of the PostgreSQL wiki ("Number Of Database Connections").
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

MOST = 1000
"""No pool of a process is larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What a server allows."""

    max_connections: int
    superuser_reserved: int = 3
    reserved: int = 0
    """reserved_connections, from version 16."""
    limit: int = -1
    """CONNECTION LIMIT of the role or the database, the lower one; -1: none."""
    other: int = 0
    """Connections of others that stay: tools, jobs, other services."""
    headroom: int = 3
    """Kept for people with psql in an emergency."""
    cores: int = 0
    """0: not known."""
    spindles: int = 1

    @property
    def budget(self) -> int:
        """Connections that the application may have, all its processes together."""
        free = self.max_connections - self.superuser_reserved - self.reserved - self.headroom - self.other
        return max(0, min(free, self.limit) if self.limit >= 0 else free)

    @property
    def useful(self) -> int:
        """Connections at work at once beyond which a server gets slower; 0: not known."""
        return 2 * self.cores + self.spindles if self.cores else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the application does, all its processes together."""

    rate: float
    """Checkouts a second (λ)."""
    hold: float
    """Seconds from checkout to checkin, the application's own time in between included (W)."""
    instances: int = 1
    workers: int = 1
    """Processes in each instance; every one has a pool of its own."""
    surge: float = 1.0
    """Share of instances that a rolling deployment runs beside the old ones: 1.0 doubles them."""
    wait: float = 0.05
    """Seconds within which 99 of 100 callers get a connection."""
    threads: int = 0
    """Threads of a process that take connections; 0: not known."""
    nested: int = 1
    """Connections that one thread holds at once."""


@dataclass(frozen=True, slots=True)
class Term:
    """One line of the calculation."""

    name: str
    value: float
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """A pool of each process, and what decided it."""

    size: int
    overflow: int
    bound: str
    """What binds: workload, server, deadlock or pgbouncer."""
    says: str
    fits: bool
    """The workload is served as wished."""
    wait_p99: float
    """Seconds, with this pool; inf where it cannot keep up."""
    server_pool: int = 0
    """default_pool_size of a PgBouncer, where one is needed; else 0."""
    terms: tuple[Term, ...] = field(default=())

    @property
    def pool(self) -> int:
        """The most connections of one process."""
        return self.size + self.overflow


def chance_to_wait(servers: int, load: float) -> float:
    """Erlang's C: the share of callers that wait, with `servers` connections and a load of λW; 1 from saturation on.

    By the recursion of Erlang's B, which stays within floats for any size.
    """
    if servers <= load:
        return 1.0
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def wait_quantile(servers: int, rate: float, hold: float, quantile: float = 0.99) -> float:
    """Seconds within which the share `quantile` of callers gets a connection; inf where they never catch up.

    P(wait > t) = C exp(−(c/W − λ) t).
    """
    load = rate * hold
    if servers <= load:
        return math.inf
    waiting = chance_to_wait(servers, load)
    if waiting <= 1 - quantile:
        return 0.0
    return math.log(waiting / (1 - quantile)) / (servers / hold - rate)


def connections_for(rate: float, hold: float, wait: float) -> int:
    """The fewest connections with which 99 of 100 callers wait at most `wait` seconds."""
    count = max(1, math.floor(rate * hold) + 1)
    while count < MOST and wait_quantile(count, rate, hold) > wait:
        count += 1
    return count


def deadlock_bound(threads: int, nested: int) -> int:
    """The fewest connections with which threads that hold several at once cannot block each other: T (C − 1) + 1."""
    return threads * (nested - 1) + 1


def size(server: Server, load: Workload) -> Sizing:
    """The pool for each process of this application on this server, every term, and which one binds."""
    processes = load.instances * load.workers
    at_most = math.ceil(load.instances * (1 + load.surge)) * load.workers
    share = server.budget // at_most
    rate = load.rate / processes
    wanted = connections_for(rate, load.hold, load.wait)
    safe = deadlock_bound(load.threads, load.nested) if load.threads else 1
    together = connections_for(load.rate, load.hold, load.wait)
    terms = (
        Term("budget", server.budget, _budget(server)),
        Term(
            "processes",
            at_most,
            f"{load.instances} instances × {load.workers} workers, × (1 + {load.surge:g}) in a deployment",
        ),
        Term("share", share, "budget / processes: connections that each may open"),
        Term("busy", round(load.rate * load.hold, 2), "λ W: connections in use on average, all processes together"),
        Term("wanted", wanted, f"Erlang C: 99 of 100 callers of a process wait at most {load.wait * 1000:g} ms"),
        Term("together", together, "the same, were all processes to share one pool (PgBouncer)"),
        Term(
            "useful", server.useful, "2 × cores + spindles: at work at once before the server slows down (0: not known)"
        ),
        Term("deadlock", safe, "T (C − 1) + 1: threads that hold several connections cannot block each other"),
    )
    need = max(wanted, safe)
    if need <= share:
        bound = "deadlock" if safe > wanted else "workload"
        says = f"the {bound} asks for {need} in each process; the server would allow {share}"
        return _sizing(bound, says, need, rate=rate, load=load, terms=terms)
    if together <= server.budget:
        says = (
            f"each process would need {need}, the server allows {share}: a PgBouncer with {together} server connections"
            " serves them all"
        )
        return _sizing("pgbouncer", says, need, rate=rate, load=load, terms=terms, server_pool=together)
    says = f"each process needs {need}, the server allows {share}, and even one shared pool would need {together}"
    return _sizing("server", says, max(1, share), rate=rate, load=load, terms=terms)


def _sizing(
    bound: str,
    says: str,
    pool: int,
    *,
    rate: float,
    load: Workload,
    terms: tuple[Term, ...],
    server_pool: int = 0,
) -> Sizing:
    """Size for the usual (the mean and one standard deviation of a Poisson load), overflow for peaks."""
    busy = rate * load.hold
    kept = min(pool, math.ceil(busy + math.sqrt(busy)) or 1)
    wait = wait_quantile(pool, rate, load.hold)
    return Sizing(
        size=kept,
        overflow=pool - kept,
        bound=bound,
        says=says,
        fits=bound != "server" and wait <= load.wait,
        wait_p99=wait,
        server_pool=server_pool,
        terms=terms,
    )


def _budget(server: Server) -> str:
    parts = [f"{server.max_connections} max_connections", f"− {server.superuser_reserved} for superusers"]
    if server.reserved:
        parts.append(f"− {server.reserved} reserved")
    if server.other:
        parts.append(f"− {server.other} of others")
    parts.append(f"− {server.headroom} for people")
    text = " ".join(parts)
    return f"{text}, at most {server.limit} by CONNECTION LIMIT" if server.limit >= 0 else text
