"""Middleware that carries tokens between requests, in a cookie and a header, for ASGI and WSGI applications.

    app.add_middleware(AsgiTokens, secret=os.environ["TOKEN_SECRET"])        # FastAPI, Starlette
    app.wsgi_app = WsgiTokens(app.wsgi_app, secret=…)                        # Flask

Each request is a scope of its own: it sees what the client wrote in earlier requests, stays on one replica, and with
a method that changes things (POST, PUT, PATCH, DELETE) automatic sessions stay on the primary. What is written after
the response has begun cannot be told to the client any more: commit before you answer.
"""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

from dbscale.cluster import scope as scopes
from dbscale.cluster.token import Token, opened, sealed

SAFE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
"""Methods that by HTTP's own definition change nothing."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class _Carrier:
    """How tokens travel: the names, and the signature."""

    def __init__(
        self,
        app: Any,
        *,
        secret: str | None = None,
        cookie: str = "dbscale-token",
        header: str = "X-Dbscale-Token",
        max_age: int = 3600,
        secure: bool = True,
    ) -> None:
        """`secret` signs the tokens, so that clients cannot send their reads to the primary at will; the header is
        for programs, the cookie (HttpOnly, `max_age` seconds, over TLS only unless `secure=False`) for browsers.

        ValueError for an empty secret, which would sign nothing; without one, tokens go unsigned.
        """
        if secret == "":
            raise ValueError("the secret is empty: is its environment variable set?")
        self.app, self.secret, self.cookie, self.header = app, secret or "", cookie, header
        self.max_age, self.secure = max_age, secure

    def arriving(self, method: str, cookies: str, header: str) -> scopes.Scope:
        """The scope of a request with this Cookie header and this token header."""
        token = opened(header, self.secret) if header else Token()
        try:
            morsel = SimpleCookie(cookies).get(self.cookie)
        except CookieError:
            morsel = None
        if morsel is not None:
            token |= opened(morsel.value, self.secret)
        return scopes.Scope(token=token, bounded=True, writes=method not in SAFE)

    def leaving(self, before: Token, after: Token) -> list[tuple[str, str]]:
        """The headers of a response; none where nothing was written."""
        if after == before:
            return []
        text = sealed(after, self.secret)
        cookie = f"{self.cookie}={text}; Path=/; Max-Age={self.max_age}; HttpOnly; SameSite=Lax"
        return [(self.header, text), ("Set-Cookie", cookie + ("; Secure" if self.secure else ""))]


class AsgiTokens(_Carrier):
    """Middleware for ASGI applications."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            key = name.decode("latin-1").lower()
            headers[key] = f"{headers[key]}; {value.decode('latin-1')}" if key in headers else value.decode("latin-1")
        method = scope.get("method", "GET")
        request = self.arriving(method, headers.get("cookie", ""), headers.get(self.header.lower(), ""))
        before = request.token

        async def carrying(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in self.leaving(before, request.token)]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        with scopes.inside(request):
            await self.app(scope, receive, carrying)


class WsgiTokens(_Carrier):
    """Middleware for WSGI applications."""

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        given = environ.get("HTTP_" + self.header.upper().replace("-", "_"), "")
        request = self.arriving(environ.get("REQUEST_METHOD", "GET"), environ.get("HTTP_COOKIE", ""), given)
        before = request.token

        def starting(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, [*headers, *self.leaving(before, request.token)], *rest)

        # The body may be a generator that reads while the server iterates over it, after this call has returned:
        # it runs in the request's own context.
        context = contextvars.copy_context()
        context.run(scopes.enter, request)
        return _Body(context.run(self.app, environ, starting), context)


class _Body:
    """A response's body, iterated and closed in the request's context."""

    def __init__(self, body: Iterable[bytes], context: contextvars.Context) -> None:
        self._body, self._context = body, context

    def __iter__(self) -> Iterator[bytes]:
        iterator = self._context.run(iter, self._body)
        while True:
            try:
                yield self._context.run(next, iterator)
            except StopIteration:
                return

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            self._context.run(close)
