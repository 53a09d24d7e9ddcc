"""Hrana 3 over HTTP: the protocol in which libSQL servers (sqld, Turso Cloud) answer SQL.

A stream is one connection of the server. It lives from request to request by its baton, a token that each answer
gives for the next request. A stream idle for ten seconds is gone, and so is its transaction. Wherever an answer does
not prove that the stream lives on, it is taken for lost: `StreamLost`.

Protocol: HRANA_3_SPEC.md in the libSQL repository.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from dbscale.drivers.source import TooLarge, Value
from dbscale.errors import ConfigError, DbscaleError, SourceError, Unreachable, redact

CONNECT_SECONDS = 10
SPOOL_BYTES = 16_000_000
"""What a long answer may take in memory before it goes to a temporary file."""


class StreamLost(Exception):
    """The server no longer has the stream, nor its transaction. Never seen outside the drivers."""


class Refused(SourceError):
    """The server refused a statement; `code` is the server's word for why (`SQLITE_TOOBIG`, say)."""

    section = "source-refused"

    def __init__(self, says: str, *, code: str = "", where: str = "", try_: str = "") -> None:
        super().__init__(says, where=where, try_=try_ or _ADVICE.get(code, ""))
        self.code = code


class RefusedTooLarge(Refused, TooLarge):
    """A value larger than the server's SQLite makes or reads."""

    section = "source-value-too-large"


_TOO_LARGE = "RESPONSE_TOO_LARGE"
_ADVICE = {
    "SQLITE_TOOBIG": "the server reads no value above its limit (5 MB): migrate from a copy of the file instead",
    "BLOCKED": "the server blocks statements of this database: is a quota used up, or are reads blocked?",
    "SQLITE_BUSY": "another connection holds the database; run the same command again",
    "FORBIDDEN": "the token does not allow this; `SELECT * FROM pragma_…()` reads with a read-only token",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a libSQL server listens."""

    host: str
    port: int
    tls: bool
    path: str = ""
    """What stands before `/v3/pipeline`, without a slash at the end."""
    websocket: bool = False
    token: str = field(default="", repr=False)

    @property
    def title(self) -> str:
        """For people, and for errors: without the token."""
        scheme = {(False, False): "http", (False, True): "https", (True, False): "ws", (True, True): "wss"}
        usual = 443 if self.tls else 80
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == usual else f":{self.port}"
        return f"{scheme[self.websocket, self.tls]}://{host}{port}{self.path}"

    @property
    def turso_cloud(self) -> bool:
        """True for a database at Turso: no websocket there, short transactions, and no meaning in its indexes."""
        return self.host == "turso.io" or self.host.endswith(".turso.io")


def parse(address: str, token: str = "") -> Endpoint:
    """The endpoint that a URL means: libsql://, https://, http://, wss:// or ws://. ConfigError for another.

    `libsql://` is HTTPS, or HTTP with `?tls=0`. A websocket URL of Turso Cloud, which has none, is HTTPS too.
    """
    try:
        url = urlsplit(address)
        scheme, host, port = url.scheme.lower(), url.hostname or "", url.port
    except ValueError as error:
        raise ConfigError(f"not a URL: {error}", where=redact(address)) from error
    if scheme not in ("libsql", "https", "http", "wss", "ws") or not host:
        raise ConfigError("not the URL of a libSQL server", where=redact(address), try_="libsql://name.turso.io")
    options = dict(parse_qsl(url.query))
    tls = scheme in ("https", "wss") or (scheme == "libsql" and options.get("tls") != "0")
    if options.get("tls") in ("0", "1") and (options["tls"] == "1") != tls:
        raise ConfigError(f"?tls={options['tls']} contradicts {scheme}://", where=redact(address), try_="leave it out")
    endpoint = Endpoint(
        host=host,
        port=port or (443 if tls else 80),
        tls=tls,
        path=url.path.rstrip("/"),
        websocket=scheme in ("ws", "wss"),
        token=token or url.password or "",
    )
    if endpoint.websocket and endpoint.turso_cloud:
        return Endpoint(host=host, port=port or 443, tls=True, path=endpoint.path, token=endpoint.token)
    return endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a statement gave."""

    rows: Iterator[tuple[Value, ...]]
    within: bool
    """The stream was within its transaction when the last row was read."""
    index: str = ""
    """The server's replication index; empty where it tells none."""
    bytes: int = 0
    """About how many bytes it took on the way."""


class Stream(Protocol):
    """One connection of a libSQL server, whatever carries it. Not to be shared by threads at the same time."""

    def begin(self, sql: str) -> tuple[Answer, Answer]:
        """The answers to BEGIN and to `sql`, asked in that order; the second begins the snapshot."""

    def execute(self, sql: str, parameters: Sequence[Value] = ()) -> Answer:
        """The answer to one statement, held in memory. Refused, StreamLost, Unreachable."""

    def execute_long(self, sql: str, parameters: Sequence[Value] = ()) -> Answer:
        """The same, without the limit on a response where the protocol has a way; for answers of few rows."""

    def columns(self, sql: str, parameters: Sequence[Value] = ()) -> int:
        """How many columns a SELECT has."""

    def abort(self) -> None:
        """Give up the request at work, from any thread: it raises StreamLost or Unreachable."""

    def close(self) -> None:
        """End the stream and its transaction. Raises nothing."""


def refusal(error: dict[str, Any], where: str = "") -> Refused:
    """The error that a server's error object means."""
    code = error.get("code") or ""
    kind = RefusedTooLarge if code == "SQLITE_TOOBIG" or "string or blob too big" in error["message"] else Refused
    return kind(error["message"], code=code, where=where)


def too_large(error: Refused) -> bool:
    """True where the answer, but no value in it, was too large: in parts it can still be had."""
    return error.code == _TOO_LARGE


class HttpStream:
    """A stream over HTTP. `timeout`: seconds without a byte after which the server is given up."""

    def __init__(self, endpoint: Endpoint, *, timeout: float = 600.0) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        self._place = endpoint
        self._connection: http.client.HTTPConnection | None = None
        self._baton: str | None = None
        self._received = 0
        self._aborted = False

    def begin(self, sql: str) -> tuple[Answer, Answer]:
        begun, first, state = self._pipeline(_execute("BEGIN"), _execute(sql), {"type": "get_autocommit"})
        within = not state["is_autocommit"]
        return _answer(begun, within), _answer(first, within)

    def execute(self, sql: str, parameters: Sequence[Value] = ()) -> Answer:
        result, state = self._pipeline(_execute(sql, parameters), {"type": "get_autocommit"})
        return _answer(result, not state["is_autocommit"], self._received)

    def columns(self, sql: str, parameters: Sequence[Value] = ()) -> int:  # noqa: ARG002
        (result,) = self._pipeline({"type": "describe", "sql": sql})
        return len(result["result"]["cols"])

    def execute_long(self, sql: str, parameters: Sequence[Value] = ()) -> Answer:
        """Through a cursor, whose whole body is read before anything else is asked or given out.

        A request on a stream whose cursor is not read to its end can stop the whole server, and a slow reader loses
        the stream; so the body goes to a temporary file at the network's speed. The statements beside the SELECT run
        only within a transaction and so prove it; a stream that expires meanwhile does no harm to these rows.
        """
        guard = {"stmt": {"sql": "SELECT 1"}, "condition": {"type": "not", "cond": {"type": "is_autocommit"}}}
        steps = [guard, {"stmt": statement(sql, parameters)}, guard]
        spool: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115
        try:
            self._post("/v3/cursor", {"baton": self._baton, "batch": {"steps": steps}}, spool)
            spool.seek(0)
            head = spool.readline()
            try:
                self._take(json.loads(head))
            except (ValueError, TypeError, KeyError) as error:
                raise _of_no_server(head, self._endpoint) from error
            begin = spool.tell()
            within = _check_cursor(spool)
        except BaseException:
            spool.close()
            raise
        spool.seek(begin)
        return Answer(rows=_cursor_rows(spool), within=within)

    def abort(self) -> None:
        self._aborted = True
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        try:
            if self._baton is not None and self._connection is not None:
                self._connection.timeout = 2
                if self._connection.sock is not None:
                    self._connection.sock.settimeout(2)
                self._post("/v3/pipeline", {"baton": self._baton, "requests": [{"type": "close"}]}, None)
        except (StreamLost, DbscaleError):
            pass  # the server ends a stream that nobody uses
        finally:
            self._baton = None
            self._disconnect()

    def _pipeline(self, *requests: dict[str, Any]) -> list[dict[str, Any]]:
        """The results of some requests in one round trip; Refused with the first error among them."""
        body = self._post("/v3/pipeline", {"baton": self._baton, "requests": requests}, None)
        self._received = len(body)
        try:
            answer = json.loads(body)
            self._take(answer)
            results = answer["results"]
        except (ValueError, TypeError, KeyError) as error:
            raise _of_no_server(body, self._endpoint) from error
        for result in results:
            if result["type"] != "ok":
                raise refusal(result["error"], self._endpoint.title)
        if len(results) != len(requests):
            raise StreamLost("the server answered only a part of the request")
        return [result["response"] for result in results]

    def _take(self, answer: dict[str, Any]) -> None:
        """Keep the baton, and the address that the next request must go to."""
        self._baton = answer["baton"]
        if base := answer.get("base_url"):
            place = parse(base, self._endpoint.token)
            if place.tls < self._endpoint.tls:
                raise Refused("the server sends us from https to http", where=self._endpoint.title)
            if place != self._place:
                self._disconnect()
                self._place = place

    def _post(self, path: str, content: dict[str, Any], spool: IO[bytes] | None) -> bytes:
        """The body of the answer, or into `spool`. A connection that broke is tried once more: a baton serves once,
        so the server cannot do a request twice."""
        body = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
        for again in (True, False):
            if self._aborted:
                raise StreamLost(f"{self._endpoint.title}: given up")
            reused = self._connection is not None
            try:
                response = self._send(path, body)
                return self._receive(response, spool)
            except (OSError, http.client.HTTPException) as error:
                self._disconnect()
                if isinstance(error, TimeoutError) or (spool is not None and spool.tell()):
                    raise StreamLost(f"{self._endpoint.title}: {_words(error)}") from error
                if again and reused:
                    continue
                raise Unreachable(
                    f"the libSQL server does not answer: {_words(error)}",
                    where=self._endpoint.title,
                    try_="is the server running, and is this its address?",
                ) from error
        raise AssertionError  # pragma: no cover

    def _send(self, path: str, body: bytes) -> http.client.HTTPResponse:
        if self._connection is None:
            self._connection = connect(self._place, self._timeout)
        headers = {"Content-Type": "application/json"}
        if self._endpoint.token:
            headers["Authorization"] = f"Bearer {self._endpoint.token}"
        self._connection.request("POST", self._place.path + path, body, headers)
        return self._connection.getresponse()

    def _receive(self, response: http.client.HTTPResponse, spool: IO[bytes] | None) -> bytes:
        if response.status != http.HTTPStatus.OK:
            had, self._baton = self._baton, None
            raise _http_error(response.status, response.read(65536), had is not None, self._endpoint)
        if spool is None:
            return response.read()
        while chunk := response.read(1 << 18):
            spool.write(chunk)
        return b""

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def connect(place: Endpoint, timeout: float) -> http.client.HTTPConnection:
    """A TCP connection on which a stalled network is noticed by keepalives within about a minute."""
    if place.tls:
        context = ssl.create_default_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            place.host, place.port, timeout=CONNECT_SECONDS, context=context
        )
    else:
        connection = http.client.HTTPConnection(place.host, place.port, timeout=CONNECT_SECONDS)
    connection.connect()
    connection.sock.settimeout(timeout)
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 6)):
        if hasattr(socket, option):
            connection.sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return connection


def _http_error(status: int, body: bytes, had_stream: bool, endpoint: Endpoint) -> Exception:
    """What an answer other than 200 means."""
    says = _error_text(body)
    place = endpoint.title
    if status == http.HTTPStatus.UNAUTHORIZED:
        return refused_token(says, endpoint)
    if status == http.HTTPStatus.FORBIDDEN:
        return Refused(says, code="FORBIDDEN", where=place)
    if "utf-8" in says.lower():
        return Refused(says, code="BROKEN_UTF8", where=place, try_="ask for CAST(x AS BLOB)")
    if had_stream:
        return StreamLost(f"{place}: {status} {says}")
    if status == http.HTTPStatus.NOT_FOUND:
        return SourceError(
            f"the server knows no such database, or does not speak Hrana 3 (HTTP 404: {says})",
            where=place,
            try_="check the URL; a libSQL server before 0.22 can be read through ws://",
        )
    if status in (429, 502, 503, 504):
        return Unreachable(f"the server is not ready: {status} {says}", where=place, try_="run the same command again")
    return SourceError(f"the server answers {status}: {says}", where=place, try_="check the URL; see the server's log")


def _of_no_server(body: bytes, endpoint: Endpoint) -> SourceError:
    """The error for an answer in none of the protocol's forms."""
    return SourceError(
        f"what answers is no libSQL server: {_error_text(body)[:100]!r}",
        where=endpoint.title,
        try_="check the URL, and what stands between",
    )


def refused_token(says: str, endpoint: Endpoint) -> Unreachable:
    """The error for a token that the server does not accept, or that it misses."""
    return Unreachable(
        f"the libSQL server does not accept the token: {says}" if endpoint.token else "the server wants a token",
        where=endpoint.title,
        try_='name one: token = "env:TURSO_AUTH_TOKEN" in dbscale.toml; `turso db tokens create NAME --read-only`',
    )


def _error_text(body: bytes) -> str:
    """The server's words, out of the JSON in which it wraps them in several ways."""
    text = body.decode("utf-8", "replace").strip()
    try:
        content = json.loads(text)
    except ValueError:
        return " ".join(text.split())[:300]
    content = content.get("error", content) if isinstance(content, dict) else content
    return str(content.get("message", text) if isinstance(content, dict) else content)[:300]


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def statement(sql: str, parameters: Sequence[Value] = ()) -> dict[str, Any]:
    """A statement in the protocol's form."""
    return {"sql": sql, "args": [_encoded(value) for value in parameters], "want_rows": True}


def _execute(sql: str, parameters: Sequence[Value] = ()) -> dict[str, Any]:
    return {"type": "execute", "stmt": statement(sql, parameters)}


def _encoded(value: Value) -> dict[str, Any]:
    if value is None:
        return {"type": "null"}
    if isinstance(value, int):
        return {"type": "integer", "value": str(int(value))}
    if isinstance(value, float):
        return {"type": "float", "value": value}
    if isinstance(value, str):
        return {"type": "text", "value": value}
    return {"type": "blob", "base64": base64.b64encode(value).decode()}


def decoded(cell: dict[str, Any]) -> Value:
    """A value out of the protocol's form. Refused for an infinite number, whose sign the protocol drops."""
    kind = cell["type"]
    if kind == "null":
        return None
    if kind == "integer":
        return int(cell["value"])
    if kind == "text":
        return str(cell["value"])
    if kind == "blob":
        text = cell["base64"]
        return base64.b64decode(text + "=" * (-len(text) % 4))
    if cell["value"] is None:
        raise Refused("the server sent an infinite number, and not whether it is positive", code="INFINITY")
    return float(cell["value"])


def _answer(response: dict[str, Any], within: bool, size: int = 0) -> Answer:
    result = response["result"]
    rows = (tuple(map(decoded, row)) for row in result["rows"])
    return Answer(rows=rows, within=within, index=str(result.get("replication_index") or ""), bytes=size)


def _check_cursor(spool: IO[bytes]) -> bool:
    """Read a cursor's body through. True where both guards ran; Refused and StreamLost where it says or shows so.

    A line ends with LF alone: JSON leaves U+2028 and its like as they are. The last line of a whole body is the
    replication index, which follows an error too.
    """
    guards, ended = set(), False
    for line in spool:
        if line.startswith(b'{"type":"row"'):
            continue
        entry = json.loads(line)
        kind = entry["type"]
        if kind in ("step_error", "error"):
            raise refusal(entry["error"])
        if kind == "step_begin":
            guards.add(entry["step"])
        ended = kind == "replication_index"
    if not ended:
        raise StreamLost("the server's answer stops in the middle")
    return {0, 2} <= guards


def _cursor_rows(spool: IO[bytes]) -> Iterator[tuple[Value, ...]]:
    """The rows of the cursor's middle step."""
    step = 0
    with spool:
        for line in spool:
            entry = json.loads(line)
            if entry["type"] == "step_begin":
                step = entry["step"]
            elif entry["type"] == "row" and step == 1:
                yield tuple(map(decoded, entry["row"]))
