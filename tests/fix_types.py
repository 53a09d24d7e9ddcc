"""A SQLite database from a script, profiled and given types: by the newest SQLite, or by the standard library's."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from dbscale.drivers.source import Value
from dbscale.errors import Finding, SourceError
from dbscale.migrate.model import Choice, ColumnProfile, SourceSchema, TableProfile
from dbscale.migrate.profile import profile
from dbscale.migrate.source import read_schema
from dbscale.migrate.types import Options, choose, wanted


class Newest:
    """A Reader over apsw's SQLite, in memory."""

    function_arguments = 1000

    def __init__(self, script: str) -> None:
        self.connection = apsw.Connection(":memory:")
        self.connection.execute(script)
        self.statements: list[str] = []

    @property
    def library(self) -> tuple[int, int, int]:
        major, minor, patch = apsw.sqlite_lib_version().split(".")
        return int(major), int(minor), int(patch)

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> Iterator[tuple[Value, ...]]:
        self.statements.append(sql)
        try:
            yield from self.connection.execute(sql, parameters)
        except UnicodeDecodeError as error:
            raise SourceError(str(error)) from error


class Oldest:
    """A Reader over the standard library's SQLite, in memory; 3.40 with Python 3.11 on Debian 12."""

    function_arguments = 127
    library = sqlite3.sqlite_version_info

    def __init__(self, script: str) -> None:
        self.connection = sqlite3.connect(":memory:")
        self.connection.executescript(script)

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> Iterator[tuple[Any, ...]]:
        return iter(self.connection.execute(sql, parameters))


@dataclass(frozen=True)
class Survey:
    schema: SourceSchema
    profiles: dict[str, TableProfile]
    choices: dict[tuple[str, str], Choice]
    findings: tuple[Finding, ...]

    def seen(self, place: str) -> ColumnProfile:
        table, column = place.split(".")
        return self.profiles[table].columns[column]

    def choice(self, place: str) -> Choice:
        table, column = place.split(".")
        return self.choices[table, column]

    def codes(self, place: str) -> set[str]:
        """The codes of the findings about a column."""
        return {finding.code for finding in self.findings if finding.where == place}

    def finding(self, code: str) -> Finding:
        return next(finding for finding in self.findings if finding.code == code)


def survey(
    source: str | Newest | Oldest, overrides: Mapping[str, str] | None = None, options: Options | None = None
) -> Survey:
    """All of it for a script or a reader."""
    reader = Newest(source) if isinstance(source, str) else source
    schema = read_schema(reader)
    asked = wanted(schema, overrides, options)
    profiles = {table.name: profile(reader, table, asked[table.name]) for table in schema.tables}
    choices, findings = choose(schema, profiles, overrides=overrides, options=options)
    return Survey(schema, profiles, choices, findings)


def column(declared: str, values: Sequence[str], overrides: str = "", options: Options | None = None) -> Survey:
    """A table `t` with an id and a column `a` of the declared type, with values given as SQL."""
    rows = "".join(f"INSERT INTO t(a) VALUES ({value});" for value in values)
    script = f"CREATE TABLE t(id INTEGER PRIMARY KEY, a {declared}); {rows}"
    return survey(script, {"t.a": overrides} if overrides else None, options)
