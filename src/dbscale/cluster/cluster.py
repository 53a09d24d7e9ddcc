"""The connections of an application: `open(config)`, then `write()` and `read()`, with or without shards."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
import sqlalchemy

from dbscale import config as configuration
from dbscale import query
from dbscale.cluster import engines, pools
from dbscale.cluster import scope as scopes
from dbscale.cluster.blocks import After, AsyncReading, AsyncWriting, Reading, Writing
from dbscale.cluster.choose import Limits, Want
from dbscale.cluster.groups import Group
from dbscale.cluster.metrics import Metrics
from dbscale.cluster.nodes import Node, Role
from dbscale.cluster.token import Token
from dbscale.errors import ConfigError, Unroutable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

    from dbscale.cluster.keyed import Epochs, Guard
    from dbscale.cluster.session import SplitSession
    from dbscale.cluster.sharded import MapSession
    from dbscale.shards.map import Maps

T = TypeVar("T")


def open(  # noqa: A001 - dbscale.open(), as one opens a file
    config: configuration.Config | str | Path | None = None,
    *,
    database: str | None = None,
    driver: str = "sqlalchemy",
    name: str = "dbscale",
    region: str | None = None,
    max_lag: float = 10.0,
    wait: float = 0.05,
    sticky: float = 5.0,
    interval: float = 0.5,
    state_schema: str = "dbscale",
) -> Cluster:
    """The cluster that a configuration describes: dbscale.toml, or the file or Config given.

    `database` names the entry of `[databases]` to use; by default that of the shard `home`, else the only PostgreSQL
    one. `driver` is what `read` and `write` yield: connections of `sqlalchemy` or of `psycopg`. `name` is the
    application_name. `region` (or DBSCALE_REGION) prefers replicas of that region. Replicas whose proven lag is over
    `max_lag` seconds are not read from; a reader of its own writes waits up to `wait` seconds for a replica before it
    goes to the primary; where positions cannot be had, a writer reads from the primary for `sticky` seconds. Nodes are
    looked at every `interval` seconds, from the first use on. `state_schema` is where `dbscale shards apply` has put
    dbscale's own tables. Connects to nothing yet. ConfigError where no database
    or more than one fits.
    """
    settings = config if isinstance(config, configuration.Config) else configuration.load(config)
    if driver not in ("sqlalchemy", "psycopg"):
        raise ConfigError(f"unknown driver {driver!r}", try_='driver="sqlalchemy" or driver="psycopg"')
    limits = Limits(lag=max_lag, wait=wait, sticky=sticky, stale=max(3.0, 6 * interval))
    metrics = Metrics()
    groups: dict[str, Group] = {}
    made: dict[str, Group] = {}
    for shard, entry in shards_of(settings, database).items():
        if entry.name not in made:  # shards of one database share its pools
            nodes = nodes_of(shard, entry, metrics)
            made[entry.name] = Group(shard, nodes, limits=limits, interval=interval, metrics=metrics, app=name)
        groups[shard] = made[entry.name]
    return Cluster(
        groups,
        maps=None if database is not None else maps_of(settings),
        settings=settings,
        kind="sync" if driver == "sqlalchemy" else "psycopg",
        name=name,
        region=region if region is not None else os.environ.get("DBSCALE_REGION", ""),
        metrics=metrics,
        state_schema=state_schema,
    )


def shards_of(config: configuration.Config, database: str | None) -> dict[str, configuration.Database]:
    """Each shard's database; without shards, the one named or the only one there is, as `home`."""
    if database is not None:
        return {"home": config.database(database)}
    if config.shards:
        return {shard: config.databases[name] for shard, name in config.shards.items()}
    fitting = [d for d in config.databases.values() if configuration.locate(d).kind in ("postgres", "embedded")]
    if len(fitting) != 1:
        names = ", ".join(d.name for d in fitting) or "none"
        raise ConfigError(
            f"which PostgreSQL database to open is not clear: {names}",
            where=f"{config.path}: [databases]",
            try_='dbscale.open(database="NAME"), or [shards] home = "NAME"',
        )
    return {"home": fitting[0]}


def maps_of(config: configuration.Config) -> Maps | None:
    """The shard maps beside dbscale.toml; None where it names no shards."""
    if not config.shards:
        return None
    from dbscale.shards.file import FOLDER, load

    return load(Path(config.path).parent / FOLDER, config)


def nodes_of(shard: str, database: configuration.Database, metrics: Metrics) -> list[Node]:
    """The nodes of a database: its primary, and its replicas in the order of the file."""
    nodes = [Node(name=database.name, url=url_of(database), shard=shard, configured="primary", metrics=metrics)]
    for number, replica in enumerate(database.replicas, 1):
        role: Role = "analytics" if replica.role == "analytics" else "replica"
        place = configuration.Database(name=f"{database.name}.replica{number}", url=replica.url)
        nodes.append(
            Node(
                name=place.name,
                url=url_of(place),
                shard=shard,
                configured=role,
                region=replica.region,
                weight=replica.weight,
                metrics=metrics,
            )
        )
    return nodes


def url_of(database: configuration.Database) -> str:
    """The URL that psycopg takes; ConfigError where the database is no PostgreSQL."""
    location = configuration.locate(database)
    if location.kind == "postgres":
        return location.address
    if location.kind == "embedded":
        from dbscale.drivers import embedded

        return embedded.url(location.address)
    raise ConfigError(f"{database.name} is not a PostgreSQL database", where=database.name, try_="postgresql://…")


class Cluster:
    """The databases of an application: one group of servers per shard, or one altogether."""

    def __init__(
        self,
        groups: dict[str, Group],
        *,
        maps: Maps | None,
        settings: configuration.Config,
        kind: str,
        name: str,
        region: str,
        metrics: Metrics,
        state_schema: str,
    ) -> None:
        self.groups = groups
        self.epochs: Epochs | None = None
        if maps is not None:
            from dbscale.cluster.keyed import Epochs

            self.epochs = Epochs(maps, state_schema)
        self.metrics = metrics
        self.region = region
        self.kind = kind
        self._default = Want(region=region)
        self._engines: dict[tuple[str, str, bool], engines.RoutedEngine] = {}
        for group in groups.values():
            on_commit = None if group.alone else self._committed
            group.configure(pools.Settings(pool=settings.pool, name=name, on_commit=on_commit))
        _open.add(self)

    @property
    def maps(self) -> Maps | None:
        """The shard maps: those of the files, until a server says that another version is in effect."""
        return self.epochs.maps if self.epochs else None

    # -- connections

    def write(self, table: str | None = None, key: Any = None) -> Writing:
        """A connection on the primary, in a transaction: committed at the end, rolled back on an exception.

        Reads of the same scope (thread, task or request) see what was committed. Unreachable where there is no
        primary; Unroutable where the shard is not clear.

        With a table on a shard map and a key, the transaction holds the key's range at the epoch that is known
        (StaleMap where it has moved on: `run` begins again then), and statements of other ranges are Unroutable.
        """
        guard = self.guard(table, key)
        return Writing(self, self.group(table, key, writes=True), guard)

    def guard(self, table: str | None, key: Any) -> Guard | None:
        """What watches over writes for a key; None where no map has the table."""
        if self.epochs is None or table is None or key is None:
            return None
        from dbscale.cluster.keyed import guard

        return guard(self.epochs, table, key)

    def run(self, work: Callable[[Any], T], table: str, key: Any, *, attempts: int = 4) -> T:
        """`work(connection)` within `write(table, key)`, begun again from the start where the shard map was stale.

        What `work` returns. Nothing of an attempt that met a stale map has been committed. StaleMap after `attempts`.
        """
        from dbscale.shards.fence import StaleMap

        for attempt in range(attempts):
            try:
                with self.write(table, key) as connection:
                    return work(connection)
            except StaleMap:
                if attempt == attempts - 1:
                    raise
                time.sleep(0.05 * 2**attempt)
        raise ValueError(f"attempts is {attempts}: 1 or more is wanted")

    def read(
        self, table: str | None = None, key: Any = None, max_lag: float | None = None, after: After = None
    ) -> Reading:
        """A connection for reading, on a replica where one proves recent enough, else on the primary.

        It holds what this scope has written, or what `after` stands for (a token, or its text; `""` asks for
        nothing), and is at most `max_lag` seconds behind. Unreachable where no node can.
        """
        return Reading(self, self.group(table, key), max_lag, after)

    def analytics(self, table: str | None = None, key: Any = None) -> Reading:
        """A connection on a replica of the role `analytics`, however far behind; ConfigError where none has it."""
        return Reading(self, self.group(table, key), None, "", analytics=True)

    def async_write(self, table: str | None = None, key: Any = None) -> AsyncWriting:
        """As `write`, for `async with`: yields SQLAlchemy's AsyncConnection."""
        return AsyncWriting(self, self.group(table, key, writes=True), self.guard(table, key))

    def async_read(
        self, table: str | None = None, key: Any = None, max_lag: float | None = None, after: After = None
    ) -> AsyncReading:
        """As `read`, for `async with`: yields SQLAlchemy's AsyncConnection."""
        return AsyncReading(self, self.group(table, key), max_lag, after)

    def session(
        self,
        table: str | None = None,
        key: Any = None,
        *,
        write: bool | None = None,
        shard: str = "home",
        **options: Any,
    ) -> SplitSession:
        """A SQLAlchemy session that reads from replicas until it writes; with `write=True` on the primary only.

        With a table and a key, on the shard that owns the key: guarded there as `write(table, key)` is. By default
        (None) it writes inside a request that changes things (see `cluster.middleware`). `options` are Session's own.
        """
        from dbscale.cluster.session import SplitSession

        return SplitSession(self, **self._split(table, key, shard), kind="sync", write=write, **options)

    def async_session(
        self,
        table: str | None = None,
        key: Any = None,
        *,
        write: bool | None = None,
        shard: str = "home",
        **options: Any,
    ) -> AsyncSession:
        """As `session`, for asyncio."""
        from sqlalchemy.ext.asyncio import AsyncSession

        from dbscale.cluster.session import SplitSession

        split: dict[str, Any] = {"cluster": self, "kind": "async", "write": write, **self._split(table, key, shard)}
        return AsyncSession(sync_session_class=SplitSession, **split, **options)

    def _split(self, table: str | None, key: Any, shard: str) -> dict[str, Any]:
        if table is None:
            return {"group": self.groups[shard]}
        return {"group": self.group(table, key, writes=True), "guard": self.guard(table, key)}

    def sharded_session(self, **options: Any) -> MapSession:
        """A SQLAlchemy session over all shards, by the maps' rules (`cluster.sharded`). ConfigError without shards."""
        from dbscale.cluster.sharded import MapSession

        return MapSession(self, self._mapped(), kind="sync", **options)

    def async_sharded_session(self, **options: Any) -> AsyncSession:
        """As `sharded_session`, for asyncio."""
        from sqlalchemy.ext.asyncio import AsyncSession

        from dbscale.cluster.sharded import MapSession

        own: dict[str, Any] = {"cluster": self, "epochs": self._mapped(), "kind": "async"}
        return AsyncSession(sync_session_class=MapSession, **own, **options)

    def _mapped(self) -> Epochs:
        if self.epochs is None:
            raise ConfigError("there are no shards", where="[shards]", try_='shard_1 = "DATABASE", and shard_maps/')
        return self.epochs

    def execute(
        self,
        sql: str,
        parameters: Any = None,
        *,
        table: str | None = None,
        key: Any = None,
        max_lag: float | None = None,
        after: After = None,
    ) -> list[Any]:
        """Run one statement where it belongs, and return its rows: on a replica where it certainly only reads.

        Placeholders are those of the driver: `:name` for SQLAlchemy, `%s` and `%(name)s` for psycopg. A read whose
        node goes away is begun again on another. With shards, the statement's own comparisons say where it goes; a
        read that concerns several runs on each, where their rows can just be put together. Unroutable otherwise.
        """
        want = (max_lag, after)
        parsed = query.parse(sql, "format" if self.kind == "psycopg" else "named")
        if table is not None or self.maps is None:
            return self._run(self.group(table, key, writes=not parsed.reads), parsed.reads, sql, parameters, want)
        from dbscale.shards.route import route_statement

        route = route_statement(self.maps, parsed, parameters or ())
        if not parsed.reads or route.kind in ("single", "any"):
            return self._run(self.groups[route.shard], parsed.reads, sql, parameters, want)
        if route.combine:
            raise Unroutable(route.combine, try_="ask the coordinator of the fdw target (docs/shards.md)")
        return [row for shard in route.shards for row in self._run(self.groups[shard], True, sql, parameters, want)]

    def _run(self, group: Group, reads: bool, sql: str, parameters: Any, want: tuple[float | None, After]) -> list[Any]:
        """Run a statement on a group: a read again on another node, where its own goes away."""
        alchemy = self.kind != "psycopg"
        if not reads:
            with Writing(self, group) as connection:
                return _rows(connection, sql, parameters, alchemy=alchemy)
        failure: Exception | None = None
        for _ in range(1 if alchemy else engines.MOVES):
            try:
                with Reading(self, group, *want) as connection:
                    return _rows(connection, sql, parameters, alchemy=alchemy)
            except psycopg.Error as error:
                lost = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
                if not engines.at_fault(error, lost=lost):
                    raise
                failure = error
        assert failure is not None  # noqa: S101 - the loop returns or has failed
        raise failure

    def scope(self, token: Token | str = "", *, writes: bool = False) -> AbstractContextManager[scopes.Scope]:
        """A scope for a job, as each request has one: reads inside see what `token` stands for, and what was written
        inside, and stay on one replica."""
        known = Token.parse(token) if isinstance(token, str) else token
        return scopes.inside(scopes.Scope(token=known, bounded=True, writes=writes))

    def group(self, table: str | None = None, key: Any = None, *, writes: bool = False) -> Group:
        """The servers on which the table's row with this key lives; without a table, those of the shard `home`.

        Unroutable where a table on a map comes without its key. Reference tables are read from any shard, and written
        on `home`, from where `dbscale shards maintain` copies them.
        """
        map_, column = self.epochs.maps.place(table) if self.epochs and table else (None, "")
        if map_ is None:
            return self._home()
        if not column:
            return self._home() if writes else self.groups[map_.shards[0]]
        if key is None:
            raise Unroutable(
                f"{table} is on the map {map_.name}: its key says which shard",
                try_=f'cluster.read("{table}", key=…)',
            )
        from dbscale.shards.map import key_of, shard_for

        return self.groups[shard_for(map_, key_of(map_, key)).shard]

    def _home(self) -> Group:
        if "home" not in self.groups:
            raise ConfigError("no shard is called home", where="[shards]", try_='home = "DATABASE"')
        return self.groups["home"]

    def engine(self, *, read: bool = False, shard: str = "home") -> engines.RoutedEngine:
        """A SQLAlchemy engine: on the primary, or with `read=True` on whichever node fits."""
        return self.routed(self.groups[shard], "sync", read=read)

    def async_engine(self, *, read: bool = False, shard: str = "home") -> AsyncEngine:
        """As `engine`, for asyncio."""
        from sqlalchemy.ext.asyncio import AsyncEngine

        return AsyncEngine(self.routed(self.groups[shard], "async", read=read))

    def routed(self, group: Group, kind: str, *, read: bool) -> engines.RoutedEngine:
        """The engine over a group's pools of one kind."""
        key = (group.shard, kind, read)
        engine = self._engines.get(key)
        if engine is None:
            if read:
                engine = engines.read_engine(group, kind, lambda: self.want(group, None, None))
            else:
                engine = engines.write_engine(group, kind)
            self._engines[key] = engine
        return engine

    # -- what was written

    @property
    def token(self) -> Token:
        """What this scope has written, for a cookie, a header or a message: `str(token)`."""
        return scopes.current().token

    def remember(self, token: Token | str) -> None:
        """Let this scope's reads see what the token stands for; ValueError where its text is none."""
        scopes.current().remember(Token.parse(token) if isinstance(token, str) else token)

    def want(self, group: Group, max_lag: float | None, after: After, *, analytics: bool = False) -> Want:
        """What a reader of this scope asks of a group."""
        if analytics:
            return ANALYTICS
        if max_lag is not None and not max_lag >= 0:
            raise ValueError(f"max_lag is {max_lag}: seconds are wanted, 0 or more")
        scope = scopes.current()
        token = scope.token if after is None else Token.parse(after) if isinstance(after, str) else after
        if max_lag is None and not token.positions and not scope.bounded:
            return self._default
        return Want(
            max_lag=max_lag,
            position=token.on(group.system) if token.positions else None,
            region=self.region,
            prefer=scope.nodes.get(group.shard, "") if scope.bounded else "",
        )

    def _committed(self, node: Node, timeline: int, lsn: int) -> None:
        scopes.current().remember(self.groups[node.shard].committed(node, timeline, lsn))

    def serve_metrics(self, port: int, address: str = "127.0.0.1") -> Any:
        """Open http://address:port/metrics for Prometheus, in a thread; `shutdown()` of what is returned ends it.

        Missing without the extra `metrics`.
        """
        from dbscale.cluster import metrics

        return metrics.serve(self.metrics, port, address)

    # -- the end

    def close(self) -> None:
        """End the watching and close all pools."""
        for group in self.groups.values():
            group.stop()
            for node in group.nodes.values():
                for pool in node.pools.values():
                    pool.drop(close=True)

    async def async_close(self) -> None:
        """As `close`, where asyncio was used: its connections are closed by its event loop."""
        for group in self.groups.values():
            for node in group.nodes.values():
                pool = node.pools.get("async")
                if isinstance(pool, pools.AlchemyPool):
                    await pool.async_drop()
        self.close()

    async def __aenter__(self) -> Cluster:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.async_close()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _rows(connection: Any, sql: str, parameters: Any, *, alchemy: bool) -> list[Any]:
    if not alchemy:
        cursor = connection.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else []
    result = connection.execute(sqlalchemy.text(sql), parameters or {})
    return list(result) if result.returns_rows else []


ANALYTICS = Want(analytics=True)
_open: weakref.WeakSet[Cluster] = weakref.WeakSet()


def _after_fork() -> None:
    """In a forked child: the parent's connections are not ours, and its threads are not here."""
    for cluster in list(_open):
        for group in cluster.groups.values():
            group.forked()
            for node in group.nodes.values():
                for pool in node.pools.values():
                    pool.drop(close=False)


os.register_at_fork(after_in_child=_after_fork)
