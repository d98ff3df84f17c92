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

HOST = "127.0.0.1"
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
    more: what that page loads, sends or frames by itself is refused. Any port will do, as a tunnel may have
    changed it: a browser takes the Host from the address that it asks, and an Origin has to be the same.
    """

    def __init__(self, app: ASGIApp, credentials: str | None = None, names: Collection[str] = NAMES) -> None:
        """Guard an app that is known by these `names`; `credentials` for HTTP's Basic, as `user:password`."""
        self._app, self._names = app, names
        self._credentials = credentials.encode() if credentials else None

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
        (host,) = hosts if len(hosts := headers.getlist("host")) == 1 else ("",)
        if host.lower().partition(":")[0] not in self._names:
            return PlainTextResponse("This server has another name.", 403)
        own = (f"http://{host}", f"https://{host}")  # TLS may stand in front of it
        # A link may be followed, but only to a page of its own: not into a frame, and not to change anything.
        followed = headers.get("sec-fetch-dest") == "document" and scope.get("method") in SAFE
        foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site") and not followed
        if foreign or any(origin not in own for origin in headers.getlist("origin")):
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
