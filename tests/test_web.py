"""The guard of our servers: what passes, and what does not; `tests/flows` attacks real ones."""

from base64 import b64encode

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from samuel.web import Guard

WORD = "samuel:a:word"  # the first colon ends the name
BASIC = ("Authorization", f"Basic {b64encode(WORD.encode()).decode()}")
HERE = "127.0.0.1:4200"


async def inside(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).accept()
    else:
        await PlainTextResponse("inside")(scope, receive, send)


CLIENT = TestClient(Guard(inside, WORD), f"http://{HERE}")


def answers(*headers: tuple[str, str]) -> list[int]:
    """The statuses of GET, POST and WebSocket; 101 where it is accepted."""
    get, post = (CLIENT.request(method, "/", headers=list(headers)) for method in ("GET", "POST"))
    assert all((answer.text == "inside") == answer.is_success for answer in (get, post))
    assert all("X-Frame-Options" in answer.headers for answer in (get, post) if answer.is_success)
    try:
        with CLIENT.websocket_connect(f"ws://{HERE}/socket", headers=dict(headers)):
            return [get.status_code, post.status_code, 101]
    except WebSocketDisconnect as closed:
        return [get.status_code, post.status_code, closed.code]


# A browser's own page: Host and Origin go together, and a tunnel may have changed the port of both.
@pytest.mark.parametrize("headers", [
    {},
    {"Host": HERE, "Origin": f"http://{HERE}", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "empty"},
    {"Host": "localhost:9", "Origin": "http://localhost:9"},
    {"Host": "localhost", "Origin": "https://localhost"},  # behind TLS
    {"Sec-Fetch-Site": "none", "Sec-Fetch-Dest": "document"},  # typed
], ids=str)  # fmt: skip
def test_what_our_own_pages_and_programs_ask_passes(headers: dict[str, str]) -> None:
    assert answers(*headers.items(), BASIC) == [200, 200, 101]


@pytest.mark.parametrize("headers", [
    {"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example"}, {"Host": "localhost."}, {"Host": ""},
    {"Host": "evil.example:4200", "Origin": "http://evil.example:4200"},  # a name that leads here
    {"Origin": "http://evil.example"}, {"Origin": f"http://{HERE}.evil.example"}, {"Origin": ""},
    {"Origin": "null"},  # a frame in a sandbox, a file
    {"Origin": "http://127.0.0.1"}, {"Origin": "http://localhost:4200"},  # another port or name is another's
    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "image"},
    {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
], ids=str)  # fmt: skip
def test_what_is_foreign_is_refused_though_it_has_the_password(headers: dict[str, str]) -> None:
    assert answers(*headers.items(), BASIC) == [403, 403, 1008]


def test_two_names_are_none_and_a_link_may_be_followed_and_no_more() -> None:
    assert answers(("Host", HERE), ("Host", "evil.example"), BASIC)[:2] == [403, 403]
    assert answers(("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Dest", "document"), BASIC) == [
        200,
        403,
        1008,
    ]


@pytest.mark.parametrize("given", ["", "Basic", "Basic ?", "Basic bWU6eA==", "Basic 4pyT", "Bearer x", WORD])
def test_without_the_password_nothing_is_told(given: str) -> None:
    assert answers(("Authorization", given)) == [401, 401, 1008]
