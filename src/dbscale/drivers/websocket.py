"""A libSQL stream over a websocket, carried by the `libsql-client` package (extra `turso`).

For self-hosted servers whose HTTP port cannot be reached, and those before Hrana 3. The package's public interface
refuses messages above 4 MiB, infinite numbers and the replication index, so its protocol layer is used beneath it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from dbscale.drivers.hrana import (
    CONNECT_SECONDS,
    Answer,
    Endpoint,
    Refused,
    StreamLost,
    decoded,
    refusal,
    statement,
)
from dbscale.drivers.source import Value
from dbscale.errors import Missing, Unreachable

MESSAGE_BYTES = 64_000_000
"""More than a server sends in one message (10 MB by default)."""
_POINT = "dbscale_snapshot"

T = TypeVar("T")


class WebSocketStream:
    """See `hrana.Stream`. Hrana 2, which this speaks, cannot be asked whether a transaction stands: a savepoint can."""

    def __init__(self, endpoint: Endpoint, *, timeout: float = 600.0) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="libsql websocket", daemon=True)
        self._thread.start()
        self._asked: concurrent.futures.Future[Any] | None = None
        self._session: Any = None
        self._connection: Any = None
        self._stream: Any = None
        self._begun = False
        try:
            self._wait(self._connect(), CONNECT_SECONDS)
        except BaseException:
            self.close()
            raise

    def begin(self, sql: str) -> tuple[Answer, Answer]:
        begun, _, first = self._results([statement("BEGIN"), statement(f"SAVEPOINT {_POINT}"), statement(sql)])
        self._begun = True
        return _answer(begun, True), _answer(first, True)

    def execute(self, sql: str, parameters: Sequence[Value] = ()) -> Answer:
        guard = [statement(f"ROLLBACK TO {_POINT}")] if self._begun else []
        try:
            result, *_ = self._results([statement(sql, parameters), *guard])
        except Refused as error:
            if _POINT in error.says:
                raise StreamLost("the server ended the transaction") from error
            raise
        return _answer(result, self._begun)

    def execute_long(self, sql: str, parameters: Sequence[Value] = ()) -> Answer:
        """Hrana 2 has no cursor: the same as `execute`."""
        return self.execute(sql, parameters)

    def columns(self, sql: str, parameters: Sequence[Value] = ()) -> int:
        (result,) = self._results([statement(f"SELECT * FROM ({sql}\n) LIMIT 0", parameters)])
        return len(result["cols"])

    def close(self) -> None:
        self.abort()
        if self._loop.is_closed():
            return
        try:
            self._wait(self._disconnect(), 2)
        except (StreamLost, Refused, Unreachable):
            pass
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)
            if not self._thread.is_alive():
                self._loop.close()

    def abort(self) -> None:
        """Give up the request at work, from any thread: it raises StreamLost."""
        if self._asked is not None:
            self._asked.cancel()

    async def _connect(self) -> None:
        try:
            import aiohttp
            from libsql_client.hrana.conn import HranaConn
        except ImportError as error:
            raise Missing(
                "a websocket URL needs the package libsql-client",
                where=self._endpoint.title,
                try_="pip install 'dbscale[turso]', or give the server's http:// URL",
            ) from error
        self._session = aiohttp.ClientSession()
        self._connection = HranaConn(_WideSession(self._session), self._endpoint.title, self._endpoint.token or None)
        await self._connection.wait_connected()
        self._stream = self._connection.open_stream()

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.close()
        if self._session is not None:
            await self._session.close()

    def _results(self, statements: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The results of statements sent together; the first error where there is one."""

        async def ask() -> list[Any]:
            asked = [self._stream.execute(each) for each in statements]
            return await asyncio.gather(*asked, return_exceptions=True)

        found = self._wait(ask(), self._timeout)
        for result in found:
            if isinstance(result, BaseException):
                raise self._translated(result) from result
        return found

    def _wait(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._asked = future
        try:
            return future.result(seconds)
        except (TimeoutError, concurrent.futures.CancelledError) as error:
            future.cancel()
            raise StreamLost(f"{self._endpoint.title}: no answer") from error
        except (Missing, Refused, StreamLost):
            raise
        except Exception as error:
            raise self._translated(error) from error
        finally:
            self._asked = None

    def _translated(self, error: BaseException) -> Exception:
        """An error of the package, or of aiohttp beneath it, as one of ours."""
        place = self._endpoint.title
        code = str(getattr(error, "code", ""))
        if code.startswith("AUTH_"):
            return Unreachable(
                f"the libSQL server does not accept the token: {error}", where=place, try_="check the token"
            )
        if isinstance(error, OSError) or type(error).__name__ == "WSServerHandshakeError":
            return Unreachable(
                f"no websocket to the libSQL server: {error}",
                where=place,
                try_="is the server running? Turso Cloud and most proxies have none: give an https:// URL",
            )
        if type(error).__name__ == "LibsqlError" and not code.startswith(("HRANA_", "STREAM_", "CLIENT_")):
            return refusal({"message": str(error), "code": code}, place)
        return StreamLost(f"{place}: {error or type(error).__name__}")


class _WideSession:
    """An aiohttp session whose websockets take messages of any size that a server sends."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def ws_connect(self, url: str, **options: Any) -> Any:
        import aiohttp

        # closing waits for the server's part in it, 10 s by default, before the error that led to it is told
        options["timeout"] = aiohttp.ClientWSTimeout(ws_close=1.0)
        return self._session.ws_connect(url, max_msg_size=MESSAGE_BYTES, **options)


def _answer(result: dict[str, Any], within: bool) -> Answer:
    cells = result["rows"]
    size = len(json.dumps(cells[:64])) * len(cells) // max(1, min(64, len(cells)))
    rows = (tuple(map(decoded, row)) for row in cells)
    return Answer(rows=rows, within=within, index=str(result.get("replication_index") or ""), bytes=size)
