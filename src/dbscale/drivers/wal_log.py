"""The replication log of a libSQL server (sqld): whose log it is, and a copy of the database, page for page.

A replica asks its primary for the log's frames over gRPC; gRPC-web, which needs no HTTP/2, is served on the port for
SQL. A frame is a page as one commit left it. Once all frames up to the newest commit are written to their places, the
file is the database at that commit: values of any size and kind as they are, at the speed of the network.

Protocol: libsql-replication/proto/replication_log.proto in the libSQL repository; frames: src/frame.rs there.
"""

from __future__ import annotations

import base64
import http.client
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from dbscale.drivers.hrana import CONNECT_SECONDS, Endpoint, connect, refused_token
from dbscale.errors import SourceError, Unreachable

PAGE_BYTES = 4096
"""The only size of page that libSQL's log knows."""
_FRAME = struct.Struct("<QQII")
"""Number, checksum, page, and the database's pages after the commit that the frame ends (else 0)."""
_NAMESPACE = base64.b64encode(b"default").decode().rstrip("=")
_GREETING = b"\x08\x01"
_HELLO_LOG, _HELLO_SESSION, _HELLO_INDEX = 3, 4, 5
_SILENCE_SECONDS = 60.0
_SNAPSHOT_WAIT_SECONDS = 1.0
_TRAILER = 0x80


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What a primary answers to a replica's greeting."""

    log: str
    """The log's identity: a server that was killed begins a new one on its next start."""
    index: int
    """The number of the newest committed frame; -1 for a database in which nothing was ever written."""
    session: str
    """To be shown with every further question."""


def state(endpoint: Endpoint) -> str:
    """The newest commit of now, as `<log>.<index>`; empty where the server does not tell, or does not answer."""
    try:
        with closing(connect(endpoint, CONNECT_SECONDS)) as connection:
            hello = _hello(connection, endpoint)
    except (OSError, http.client.HTTPException, LookupError, ValueError, _Status):
        return ""
    return f"{hello.log}.{hello.index}"


def log_id(endpoint: Endpoint, index: str) -> str:
    """The identity of the log that a replication index counts in; empty where the server does not tell.

    Believed where the log it speaks of is at `index`: a log begun anew counts from a number that the last one may
    have had.
    """
    log, _, newest = state(endpoint).partition(".")
    return log if newest == index else ""


def copy(endpoint: Endpoint, path: Path, *, patience: float, stopped: Callable[[], bool]) -> str:
    """Write the database at the newest commit to the file `path`; the state that it is of, as `<log>.<index>`.

    A connection that breaks is opened again for `patience` seconds without progress. SourceError where the server
    gives out no pages, or the file cannot be written; Unreachable; SourceError once `stopped` says so.
    """
    try:
        with path.open("wb+") as file:
            copying = _Copying(endpoint, file, stopped)
            until = time.monotonic() + patience
            while True:
                before = copying.next
                try:
                    return copying.go_on()
                except (OSError, http.client.HTTPException) as error:
                    if isinstance(error, OSError) and error.filename is None and error.errno in _OF_DISK:
                        raise
                    if copying.next > before:
                        until = time.monotonic() + patience
                    if time.monotonic() >= until:
                        raise Unreachable(
                            f"the libSQL server does not answer: {str(error) or type(error).__name__}",
                            where=endpoint.title,
                            try_="is the server running, and is this its address?",
                        ) from error
                time.sleep(0.5)
    except OSError as error:
        raise SourceError(
            f"the copy cannot be written: {error.strerror or error}",
            where=str(path),
            try_="set TMPDIR to a directory with more room",
            see="docs/errors.md#source-no-room",
        ) from error
    except _Status as status:
        raise _explained(status, endpoint) from status


_OF_DISK = frozenset({27, 28, 30, 122})
"""EFBIG, ENOSPC, EROFS, EDQUOT: errors of the file and not of the network."""


class _Status(Exception):
    """A gRPC status that is no success, or an HTTP status in its place."""

    def __init__(self, number: int, says: str, *, http_status: int = 0) -> None:
        super().__init__(says)
        self.number = number
        self.http_status = http_status


class _Copying:
    """A file on its way to being the database: goes on with the frame where it was interrupted, in the same log."""

    def __init__(self, endpoint: Endpoint, file: BinaryIO, stopped: Callable[[], bool]) -> None:
        self._endpoint = endpoint
        self._file = file
        self._stopped = stopped
        self._log = ""
        self.next = 0
        """The number of the next frame."""

    def go_on(self) -> str:
        """Fetch what is left, up to the newest commit of now; the state."""
        with closing(connect(self._endpoint, _SILENCE_SECONDS)) as connection:
            hello = _hello(connection, self._endpoint)
        if hello.log != self._log:  # begun anew: its frames are others
            self._log, self.next = hello.log, 0
        pages = 0
        while hello.index >= 0:
            try:
                pages = self._entries(hello)
            except _Status as status:
                if "NO_HELLO" in str(status):  # the server's configuration was changed: greet it again
                    raise ConnectionResetError("the server ended the session") from status
                if "NEED_SNAPSHOT" not in str(status):
                    raise
                pages = self._snapshot(hello)  # the log was compacted: its beginning is a snapshot
            if pages:
                break
        self._file.truncate(pages * PAGE_BYTES)
        self._file.flush()
        return f"{hello.log}.{self.next - 1}"

    def _entries(self, hello: Hello) -> int:
        """Write the frames of the log from `next` on; the database's pages at the first commit at or after the
        newest that `hello` knows. The server would go on waiting for others."""
        with closing(connect(self._endpoint, _SILENCE_SECONDS)) as connection:
            for number, page, after, content in self._frames(connection, "LogEntries", hello):
                self._write(page, content)
                self.next = number + 1
                if after and number >= hello.index:
                    return after
        return 0

    def _snapshot(self, hello: Hello) -> int:
        """Write a snapshot from `next` on. Its frames come newest first and each page once, but for the last, which
        carries the number of pages; its numbers all belong to one commit."""
        newest, after = self.next, 0
        try:
            with closing(connect(self._endpoint, _SILENCE_SECONDS)) as connection:
                for number, page, after, content in self._frames(connection, "Snapshot", hello):  # noqa: B007
                    self._write(page, content)
                    newest = max(newest, number + 1)
        except _Status as status:
            if status.number != _UNAVAILABLE:
                raise
            time.sleep(_SNAPSHOT_WAIT_SECONDS)  # it is still being written
            return 0
        if after:
            self.next = newest
        return after if newest > hello.index else 0

    def _write(self, page: int, content: memoryview) -> None:
        self._file.seek((page - 1) * PAGE_BYTES)
        self._file.write(content)

    def _frames(
        self, connection: http.client.HTTPConnection, method: str, hello: Hello
    ) -> Iterator[tuple[int, int, int, memoryview]]:
        response = _ask(connection, self._endpoint, method, b"\x08" + _varint(self.next), hello.session)
        for message in _messages(response):
            if self._stopped():
                raise SourceError("the reading was stopped", where=self._endpoint.title)
            frame = _fields(message).get(1)
            if not isinstance(frame, bytes) or len(frame) != _FRAME.size + PAGE_BYTES:
                raise _Status(0, f"its pages are not of {PAGE_BYTES} bytes")
            number, _, page, after = _FRAME.unpack_from(frame)
            yield number, page, after, memoryview(frame)[_FRAME.size :]


_UNAVAILABLE = 14
_UNAUTHENTICATED = (7, 16)


def _hello(connection: http.client.HTTPConnection, endpoint: Endpoint) -> Hello:
    (message,) = _messages(_ask(connection, endpoint, "Hello", _GREETING))
    fields = _fields(message)
    log, session, index = fields[_HELLO_LOG], fields[_HELLO_SESSION], fields.get(_HELLO_INDEX, -1)
    if not isinstance(log, bytes) or not isinstance(session, bytes) or not isinstance(index, int):
        raise ValueError("no greeting of a primary")
    return Hello(log=log.decode("ascii"), index=index, session=session.decode("ascii"))


def _ask(
    connection: http.client.HTTPConnection, endpoint: Endpoint, method: str, message: bytes, session: str = ""
) -> http.client.HTTPResponse:
    headers = {"Content-Type": "application/grpc-web+proto", "X-Namespace-Bin": _NAMESPACE}
    if endpoint.token:
        headers["Authorization"] = f"Bearer {endpoint.token}"
    if session:
        headers["X-Session-Token"] = session
    body = b"\0" + len(message).to_bytes(4) + message
    connection.request("POST", f"{endpoint.path}/wal_log.ReplicationLog/{method}", body, headers)
    response = connection.getresponse()
    if response.status != http.HTTPStatus.OK:
        raise _Status(-1, f"HTTP {response.status}", http_status=response.status)
    _check(response.getheader("grpc-status"), response.getheader("grpc-message"))
    if not (response.getheader("content-type") or "").startswith("application/grpc-web"):
        raise _Status(-1, "what answers does not speak gRPC")
    return response


def _messages(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The messages of an answer as they arrive. _Status for the error in its trailer; OSError where it breaks off."""
    while head := response.read(5):
        if len(head) < 5:
            break
        length = int.from_bytes(head[1:])
        content = response.read(length)
        if len(content) < length:
            break
        if head[0] & _TRAILER:
            lines = dict(line.split(":", 1) for line in content.decode("latin-1").splitlines() if ":" in line)
            _check(lines.get("grpc-status"), lines.get("grpc-message"))
            return
        yield content
    raise ConnectionResetError("the server's answer stops in the middle")


def _check(status: str | None, says: str | None) -> None:
    if status is None or status.strip() == "0":
        return
    reason = unquote((says or "").strip())
    if "(os error 2)" in reason:  # sqld opens a snapshot that it is just putting together with others
        raise ConnectionResetError(f"the server rewrites its log: {reason}")
    raise _Status(int(status), reason)


def _explained(status: _Status, endpoint: Endpoint) -> Exception:
    """A status as an error that says what to do."""
    if status.number in _UNAUTHENTICATED or status.http_status in (401, 403) or "auth header" in str(status):
        return refused_token(str(status), endpoint)
    reason = str(status) or f"gRPC status {status.number}"
    return SourceError(
        f"the server does not give out a copy of its database: {reason}",
        where=endpoint.title,
        try_="leave --copy-first away; or copy the server's file and migrate that",
        see="docs/errors.md#source-not-copied",
    )


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def _fields(message: bytes) -> dict[int, int | bytes]:
    """The fields of a protobuf message, by number; ValueError or IndexError where it is none."""

    def varint(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            value |= (message[at] & 127) << shift
            at, more, shift = at + 1, message[at] > 127, shift + 7
            if not more:
                return value, at

    fields: dict[int, int | bytes] = {}
    at = 0
    while at < len(message):
        tag, at = varint(at)
        value, at = varint(at)
        if tag & 7 == 2:
            fields[tag >> 3], at = message[at : at + value], at + value
        elif tag & 7 == 0:
            fields[tag >> 3] = value
        else:
            raise ValueError(f"field {tag >> 3} has wire type {tag & 7}")
    return fields
