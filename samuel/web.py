"""Who may speak to a server of ours on this machine: nobody but its own pages, and who knows its password.

Loopback is not private: every page that a browser has open can send requests there, under a foreign Origin
or under a name of its own that leads to this machine, and so can other accounts.
"""

import base64
import hmac
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST, USER = "127.0.0.1", "samuel"
NAMES = (HOST, "localhost")
SAFE = ("GET", "HEAD")
HARDENED = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
}


class Guard:
    """ASGI middleware that answers 403 to a foreign Host or Origin and 401 without the password.

    It stands before every route, for HTTP and WebSocket alike. A link on another page may lead here, and no
    more: what that page loads, sends or frames by itself is refused.
    """

    def __init__(
        self, app: ASGIApp, port: int, password: str | None = None, names: Collection[str] = NAMES
    ) -> None:
        """Guard an app at `port` of this machine; `password` for HTTP's Basic, by the user `samuel`."""
        self._app = app
        self._hosts = {f"{name}:{port}" for name in names} | (set(names) if port == 80 else set())
        self._origins = {f"http://{host}" for host in self._hosts}
        self._credentials = password and f"{USER}:{password}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] not in ("http", "websocket"):  # "lifespan"
            await self._app(scope, receive, send)
        elif refused := self._refusal(scope):
            if scope["type"] == "websocket":  # closed before it is accepted, which is a 403
                await send({"type": "websocket.close", "code": 1008})
            else:
                await refused(scope, receive, send)
        else:
            await self._app(scope, receive, _hardened(send))

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if headers.getlist("host") != [headers.get("host")] or headers["host"].lower() not in self._hosts:
            return PlainTextResponse("This server has another name.", 403)
        if any(origin not in self._origins for origin in headers.getlist("origin")):
            return PlainTextResponse("Another site's page has no business here.", 403)
        navigates = headers.get("sec-fetch-mode") == "navigate" and scope.get("method") in SAFE
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not navigates:
            return PlainTextResponse("Another site's page has no business here.", 403)
        if self._credentials and not hmac.compare_digest(_basic(headers), self._credentials):
            return PlainTextResponse("Password?", 401, {"WWW-Authenticate": 'Basic realm="SAMUeL"'})
        return None


def _basic(headers: Headers) -> bytes:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    try:
        return base64.b64decode(given, validate=True) if scheme.lower() == "basic" else b""
    except ValueError:
        return b""


def _hardened(send: Send) -> Send:
    async def send_hardened(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HARDENED.items():
                headers.setdefault(name, value)
        await send(message)

    return send_hardened
