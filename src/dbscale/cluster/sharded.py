"""A SQLAlchemy session over all shards of a map, with the map's rules: what the map cannot answer is refused.

SQLAlchemy's own sharded session sends a statement to every shard that it is told of and puts the rows one after the
other, leaves an object whose key has changed on its old shard, and commits shard by shard. Here the statement's own
comparisons say where it goes, and each of those is an error with what to do instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, inspect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.horizontal_shard import ShardedSession
from sqlalchemy.orm import ORMExecuteState, RelationshipDirection, Session, SessionTransaction

from dbscale import query
from dbscale.cluster.engines import write_engine
from dbscale.cluster.keyed import ShardGuard
from dbscale.cluster.session import DIALECT
from dbscale.errors import Unroutable
from dbscale.shards.map import key_of, shard_for
from dbscale.shards.route import route_statement

if TYPE_CHECKING:
    from dbscale.cluster.cluster import Cluster
    from dbscale.cluster.keyed import Epochs
    from dbscale.shards.map import Map

_SEVERAL = "commit between them, or one session a key: cluster.session(table, key)"


class MapSession(ShardedSession):
    """A session whose objects live where the shard map says, on the primaries.

    Unroutable, before anything is sent, for: a statement of several shards whose rows cannot just be put together
    (ORDER BY, LIMIT, an aggregate); joins that no key ties; a new object without its key; a key that moves to another
    shard; `get` by a primary key that leaves out the shard key; changes on two shards in one transaction, which no
    commit makes together; changes to a reference table's row that was read from a copy. After StaleMap, roll back and
    `expunge_all()`: where objects are was known by the old map.
    """

    def __init__(self, cluster: Cluster, epochs: Epochs, *, kind: str, **options: Any) -> None:
        self._epochs = epochs
        # Shards of one database are one: they share its transactions.
        self._one = {shard: group.shard for shard, group in cluster.groups.items()}
        self._written: set[str] = set()
        engines = {
            shard: write_engine(cluster.groups[shard], kind, ShardGuard(epochs, epochs.maps, shard))
            for shard in dict.fromkeys(self._one.values())
        }
        super().__init__(
            shard_chooser=self._of_instance,
            identity_chooser=self._of_identity,
            execute_chooser=self._of_statement,
            shards=engines,
            **options,
        )
        event.listen(self, "before_flush", self._check)
        event.listen(self, "after_transaction_end", self._ended)

    def get_bind(self, mapper: Any = None, *, shard_id: str | None = None, instance: Any = None, **more: Any) -> Any:
        """The engine of a shard; Unroutable where nothing says which."""
        if shard_id is None and instance is None:
            raise Unroutable(
                "a session over shards has no connection of its own",
                try_='name the shard: bind_arguments={"shard_id": "NAME"}, or cluster.write(table, key)',
            )
        return super().get_bind(mapper, shard_id=shard_id, instance=instance, **more)

    # Where things are

    def _place(self, mapper: Any) -> tuple[Map | None, str]:
        """The map of a mapped table, and the attribute that holds its key; empty for a reference table."""
        table = mapper.local_table
        map_, column = self._epochs.maps.place(f"{table.schema}.{table.name}" if table.schema else table.name)
        return map_, mapper.get_property_by_column(table.c[column]).key if column else ""

    def _owner(self, map_: Map, key: Any) -> str:
        return self._one[shard_for(map_, key_of(map_, key)).shard]

    @property
    def _home(self) -> str:
        return self._one[self._epochs.maps.home]

    def _of_instance(self, mapper: Any, instance: Any, clause: Any = None) -> str:  # noqa: ARG002 - SQLAlchemy's
        map_, attribute = self._place(mapper)
        if map_ is None or not attribute:
            return self._home
        key = _key(mapper, instance, attribute)
        if key is None:
            raise Unroutable(
                f"a new {type(instance).__name__} has no {attribute}, which says on which shard it is to be",
                where=map_.name,
                try_=f"set {attribute} before it is flushed; an id from the server is one of a shard's range",
            )
        return self._owner(map_, key)

    def _of_identity(self, mapper: Any, primary_key: Any, **_: Any) -> tuple[str, ...]:
        map_, attribute = self._place(mapper)
        if map_ is None or not attribute:
            return (self._home,)
        names = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
        if attribute not in names:
            raise Unroutable(
                f"the primary key of {mapper.class_.__name__} leaves out {attribute}, which says on which shard it is",
                where=map_.name,
                try_=f"select({mapper.class_.__name__}).where({mapper.class_.__name__}.{attribute} == …)",
            )
        values = primary_key if isinstance(primary_key, tuple | list) else (primary_key,)
        return (self._owner(map_, values[names.index(attribute)]),)

    def _of_statement(self, context: ORMExecuteState) -> tuple[str, ...]:
        if context.is_insert and context.is_orm_statement and context.parameters:
            raise Unroutable(
                "SQLAlchemy inserts no rows in bulk over shards",
                try_="session.add_all(…), or insert(Model.__table__) with rows of one shard",
            )
        shards: dict[str, None] = {}
        for parsed, arguments in _analysed(context):
            route = route_statement(self._epochs.maps, parsed, arguments)
            if route.combine:
                raise Unroutable(
                    f"{route.combine}, and it needs {', '.join(route.shards)}",
                    where=" ".join(parsed.sql.split())[:120],
                    try_="name the key, or ask the coordinator of the fdw target (docs/shards.md)",
                )
            needed = route.shards[-1:] if route.kind == "any" else route.shards  # copies: home, which is last
            shards |= dict.fromkeys(self._one[shard] for shard in needed)
        if not parsed.reads and len(shards) > 1:
            raise Unroutable(
                f"its rows belong to {', '.join(shards)}",
                where=" ".join(parsed.sql.split())[:120],
                try_="one statement for each shard, each in a transaction of its own",
            )
        if not parsed.reads:
            self._write(shards)
        return tuple(shards)

    # What a transaction may do

    def _check(self, _session: Session, _context: Any, _instances: Any) -> None:
        """Before a flush: no key moves, no copy is changed, and all is on one shard."""
        shards: dict[str, None] = {}
        for instance in self.new:
            shards[inspect(instance).identity_token or self._of_instance(inspect(instance).mapper, instance)] = None
        for instance in (*self.deleted, *(each for each in self.dirty if self.is_modified(each))):
            state = inspect(instance)
            map_, attribute = self._place(state.mapper)
            if map_ is not None and not attribute and state.identity_token != self._home:
                raise Unroutable(
                    f"a {type(instance).__name__} of {state.identity_token} is a copy: its table is written on home",
                    where=map_.name,
                    try_=f"session.get({type(instance).__name__}, key), which reads it on home",
                )
            if map_ is not None and attribute and (key := getattr(instance, attribute)) is not None:
                owner = self._owner(map_, key)
                if owner != state.identity_token:
                    raise Unroutable(
                        f"{attribute} becomes {key}, which is on {owner}; the row would stay on {state.identity_token}",
                        where=map_.name,
                        try_="delete the object, commit, and add it with its new key",
                    )
            shards[state.identity_token] = None
        self._write(shards)

    def _write(self, shards: Mapping[str, None]) -> None:
        """Note where the transaction writes; Unroutable where that is more than one database."""
        both = self._written | shards.keys()
        if len(both) > 1:
            raise Unroutable(f"one transaction cannot change rows on {', '.join(sorted(both))}", try_=_SEVERAL)
        self._written = both

    def _ended(self, _session: Session, transaction: SessionTransaction) -> None:
        if transaction.parent is None:
            self._written = set()


def _key(mapper: Any, instance: Any, attribute: str) -> Any:
    """The shard key of a new object: its own, or that of the object it refers to, which it gets in the flush."""
    if (key := getattr(instance, attribute)) is not None:
        return key
    for relation in mapper.relationships:
        for local, remote in (
            relation.local_remote_pairs if relation.direction is RelationshipDirection.MANYTOONE else ()
        ):
            parent = getattr(instance, relation.key)
            if parent is not None and mapper.get_property_by_column(local).key == attribute:
                return getattr(parent, relation.mapper.get_property_by_column(remote).key)
    return None


def _analysed(context: ORMExecuteState) -> list[tuple[query.Query, Mapping[str, Any]]]:
    """For each execution, the statement's text as the server gets it, analysed, and its placeholders' values."""
    statement: Any = context.statement
    given: Any = context.parameters or {}
    rows: list[Any] = given if isinstance(given, list) else [given]
    names = list(rows[0]) if context.is_insert else None
    if context.is_insert:  # the ORM's form cannot be compiled by itself
        statement = statement._clone()  # noqa: SLF001 - SQLAlchemy's own way to a copy
        statement._propagate_attrs = {}  # noqa: SLF001
    try:
        compiled = statement.compile(dialect=DIALECT, column_keys=names or None)
        states = [compiled.construct_expanded_state(dict(row)) for row in rows]
    except SQLAlchemyError as error:
        raise Unroutable(
            f"SQLAlchemy does not say what it sends: {error}", try_="bind_arguments name a shard"
        ) from error
    return [(query.parse(state.statement, "format"), state.parameters) for state in states]
