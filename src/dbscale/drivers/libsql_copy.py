"""A libSQL server's database as a temporary file of one state: `--copy-first`.

A self-hosted primary sends its pages (drivers/wal_log.py); of a database at Turso Cloud, whose log is not open to
others, the program `turso` makes an export. From then on it is a SQLite file, whatever happens to the server.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dbscale.drivers import sqlite_file, wal_log
from dbscale.drivers.hrana import Endpoint
from dbscale.drivers.sqlite import SqliteReader, SqliteSource
from dbscale.drivers.turso import Admin, export, writes_blocked
from dbscale.errors import Finding, SourceError

PATIENCE_SECONDS = 20.0
_SCHEMA_COOKIE, _PAGES = slice(40, 44), slice(28, 32)


class CopiedSource(SqliteSource):
    """A database on a libSQL server, of which the first snapshot makes a copy that all further ones read.

    The copy is removed with the source, or when the process ends. `admin`: have the server refuse writes as long as a
    snapshot is open. `frozen`: the user's word that nobody writes. `patience`: seconds without progress after which a
    server that broke off is given up.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        admin: Admin | None = None,
        frozen: bool = False,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._directory = Path(tempfile.gettempdir()) / f"dbscale-{uuid.uuid4().hex}"
        super().__init__(self._directory / "copy.db")
        self.endpoint = endpoint
        self.admin = admin
        self.frozen = frozen
        self._patience = patience
        self._state = ""

    @property
    def title(self) -> str:
        """The server's URL, without the token."""
        return self.endpoint.title

    @contextmanager
    def snapshot(self, readers: int = 1) -> Iterator[Sequence[SqliteReader]]:
        """See `SqliteSource.snapshot`. SourceError, Missing or Unreachable where the server gives out no copy."""
        with ExitStack() as stack:
            if self.admin:
                already = stack.enter_context(writes_blocked(self.admin))
                self._notes |= {already.code: already} if already else {}
            if not self._state:
                self._stopped.clear()
                self._state = self._copied()
            yield stack.enter_context(super().snapshot(readers))

    def fingerprint(self) -> str:
        """The server's replication log and the index in it at which the copy was made, or of now while there is none.

        The same token as the server itself would be given. One that equals no other for an export of Turso Cloud.
        """
        from dbscale.drivers.libsql import LibsqlSource

        return self._state or LibsqlSource(self.endpoint.title, self.endpoint.token).fingerprint()

    def changed_since_snapshot(self) -> bool:
        """Whether anyone has committed since the copy was made; True where a self-hosted server does not tell."""
        if self.frozen or self.endpoint.turso_cloud:
            return False
        return not self._state.startswith(f"{wal_log.state(self.endpoint)}.")

    def close(self) -> Sequence[Finding]:
        """Remove the copy."""
        self._state = ""
        shutil.rmtree(self._directory, ignore_errors=True)
        return ()

    def _copied(self) -> str:
        """Make the copy; the token of its state."""
        if self.endpoint.websocket:
            raise SourceError(
                "a copy comes over HTTP, not over a websocket",
                where=self.title,
                try_="give the server's http:// URL, or leave --copy-first away",
                see="docs/errors.md#source-not-copied",
            )
        self._directory.mkdir(mode=0o700, exist_ok=True)
        weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        if self.endpoint.turso_cloud:
            export(self.endpoint.host, self.path)
            sqlite_file.check(self.path)
            self._note(
                "source-unwatched",
                "it was exported by `turso db export`; commits made since are neither copied nor noticed",
                "for the cut-over, stop the application first, or add --hold-writes",
            )
            return f"unknown-{uuid.uuid4()}"
        state = wal_log.copy(self.endpoint, self.path, patience=self._patience, stopped=self._stopped.is_set)
        head, size = sqlite_file.read_head(self.path)
        pages = int.from_bytes(head[_PAGES])
        if pages * wal_log.PAGE_BYTES != size:
            raise SourceError(
                f"the copy has {size:,} bytes, and {pages:,} pages of {wal_log.PAGE_BYTES} were to come",
                where=self.title,
                try_="run the same command again; if it stays so, copy the server's file and migrate that",
                see="docs/errors.md#source-not-copied",
            )
        return f"{state}.{int.from_bytes(head[_SCHEMA_COOKIE])}.{pages}"

    def _note_blocked_writers(self) -> None:
        """Nobody waits for a copy."""
