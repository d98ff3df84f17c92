"""The guard of our servers, on a real one: what passes, and what does not."""

import socket
import threading
from base64 import b64encode
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from samuel.web import Guard

WORD = "samuel:a:word"  # the first colon ends the name
BASIC = ("Authorization", f"Basic {b64encode(WORD.encode()).decode()}")
UPGRADE = (
    ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
)  # fmt: skip


async def page(request: Request) -> PlainTextResponse:
    return PlainTextResponse("inside")


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A guarded app's."""
    app = Starlette(routes=[Route("/", page, methods=["GET", "POST"]), WebSocketRoute("/socket", echo)])
    server = uvicorn.Server(uvicorn.Config(Guard(app, WORD), log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listening:  # and who comes too early waits
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join()


def ask(port: int, method: str, *headers: tuple[str, str]) -> tuple[int, str]:
    """The status and the text of an answer; of an upgrade where the method is "WEBSOCKET"."""
    upgrade = method == "WEBSOCKET"
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest("GET" if upgrade else method, "/socket" if upgrade else "/", skip_host=True)
    if "Host" not in dict(headers):
        headers = (*headers, ("Host", f"127.0.0.1:{port}"))
    for name, value in (*headers, *(UPGRADE if upgrade else ())):
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    text = "" if answer.status == 101 else answer.read().decode()
    if answer.status == 200:
        assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
    connection.close()
    return answer.status, text


# By a browser: an own page's Host and Origin go together, and a tunnel may have changed the port of both.
OWN = [
    {},
    {"Host": "127.0.0.1:4200", "Origin": "http://127.0.0.1:4200", "Sec-Fetch-Site": "same-origin"},
    {"Host": "localhost:9", "Origin": "http://localhost:9"},
    {"Host": "localhost", "Origin": "https://localhost"},  # behind TLS
    {"Sec-Fetch-Site": "none", "Sec-Fetch-Dest": "document"},  # typed
]
FOREIGN = [
    {"Host": "evil.example"},
    {"Host": "evil.example:4200", "Origin": "http://evil.example:4200"},  # a name that leads here
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "localhost."},
    {"Host": ""},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},  # a frame in a sandbox, a file
    {"Origin": ""},
    {"Origin": "http://localhost"},  # another port is another's page
    {"Host": "localhost:1", "Origin": "http://127.0.0.1:1"},
    {"Host": "localhost:1", "Origin": "http://localhost:1.evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "image"},
    {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
]


@pytest.mark.parametrize("headers", OWN, ids=str)
def test_what_our_own_pages_and_programs_ask_passes(port: int, headers: dict[str, str]) -> None:
    for method, status in (("GET", 200), ("POST", 200), ("WEBSOCKET", 101)):
        assert ask(port, method, *headers.items(), BASIC)[0] == status


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_what_is_foreign_is_refused_though_it_has_the_password(port: int, headers: dict[str, str]) -> None:
    for method in ("GET", "POST", "WEBSOCKET"):
        status, text = ask(port, method, *headers.items(), BASIC)
        assert status == 403
        assert "inside" not in text


def test_two_names_are_none(port: int) -> None:
    for method in ("GET", "POST", "WEBSOCKET"):
        assert ask(port, method, ("Host", "127.0.0.1"), ("Host", "evil.example"), BASIC)[0] in (400, 403)


def test_a_link_may_be_followed_and_nothing_more(port: int) -> None:
    link = (("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Dest", "document"), BASIC)
    assert ask(port, "GET", *link) == (200, "inside")
    assert ask(port, "POST", *link)[0] == ask(port, "WEBSOCKET", *link)[0] == 403  # a form


@pytest.mark.parametrize("given", ["", "Basic", "Basic ?", "Basic bWU6eA==", "Basic 4pyT", "Bearer x", WORD])
def test_without_the_password_nothing_is_told(port: int, given: str) -> None:
    for method, status in (("GET", 401), ("POST", 401), ("WEBSOCKET", 403)):
        assert ask(port, method, ("Authorization", given)) == (status, "Password?" * (status == 401))
