"""The ways to a database on a libSQL server: its SQL, a copy of its pages, or a branch."""

from __future__ import annotations

from dbscale.config import Database, Location
from dbscale.drivers.hrana import Endpoint, parse
from dbscale.drivers.libsql import LibsqlSource
from dbscale.drivers.libsql_copy import CopiedSource
from dbscale.drivers.source import AS_IT_IS, Source, Way
from dbscale.drivers.turso import admin_of
from dbscale.drivers.turso_branch import BranchSource
from dbscale.errors import ConfigError


def open_source(
    location: Location,
    database: Database,
    way: Way = AS_IT_IS,
) -> Source:
    """The source at a location of kind `libsql`; nothing is asked of the server yet.

    ConfigError where nothing names who may block writes or make a branch (see `turso.admin_of`), and for a branch of
    what is not at Turso Cloud.
    """
    endpoint = parse(location.address, location.token)
    frozen = way.frozen or database.frozen
    if way.branch:
        return _branch(endpoint, database, way)
    admin = admin_of(endpoint.host, database) if way.hold_writes else None
    if way.copy_first:
        return CopiedSource(endpoint, admin=admin, frozen=frozen)
    return LibsqlSource(location.address, location.token, frozen=frozen, admin=admin)


def _branch(endpoint: Endpoint, database: Database, way: Way) -> Source:
    if not endpoint.turso_cloud:
        raise ConfigError(
            "--branch is for a database at Turso Cloud: a server of your own has no branches",
            where=endpoint.title,
            try_="--copy-first, which copies it page for page",
        )
    if way.copy_first or way.frozen or way.hold_writes:
        raise ConfigError(
            "--branch goes with none of --copy-first, --frozen and --hold-writes: each is a way of its own",
            where=endpoint.title,
            try_="docs/turso.md has them in order of preference",
        )
    return BranchSource(endpoint, admin_of(endpoint.host, database, wanted_to="make a branch"))
