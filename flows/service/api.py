"""What is asked of a Prefect server without Prefect, whose import takes seconds."""

import base64
import http.client
import json
import os
import urllib.error
import urllib.request
from datetime import datetime
from importlib.metadata import version
from typing import Any

HOST = "127.0.0.1"
PORT = int(os.environ.get("SAMUEL_PREFECT_PORT", "4200"))
UI_URL = f"http://{HOST}:{PORT}"
API_URL = f"{UI_URL}/api"
PASSWORD = "PREFECT_API_AUTH_STRING"  # noqa: S105  (a name)
SERVER_PASSWORD = "PREFECT_SERVER_API_AUTH_STRING"  # noqa: S105
ELSEWHERE = "; stop it, or set SAMUEL_PREFECT_PORT"


class ServerError(RuntimeError):
    """The server does not come up, or is not what it should be."""


def credentials() -> dict[str, str]:
    """The authentication string as the client's variable, where only the server's is set."""
    password = os.environ.get(PASSWORD) or os.environ.get(SERVER_PASSWORD)
    return {PASSWORD: password} if password else {}


def healthy() -> bool:
    """True when a Prefect server of the installed version answers at our address.

    Raises:
        ServerError: Something else answers there.
    """
    try:
        if ask("/health") is not True:
            raise ServerError(_occupied("an answer that is not Prefect's"))
        found = ask("/admin/version")
    except urllib.error.HTTPError as error:
        raise ServerError(_refused(error)) from error
    except OSError:  # also of a server that ends just now, so before HTTPException
        return False
    except (json.JSONDecodeError, UnicodeDecodeError, http.client.HTTPException) as error:
        raise ServerError(_occupied("an answer that is not JSON")) from error
    if found != (ours := version("prefect")):
        raise ServerError(
            f"port {PORT} has a server of Prefect {found}, and {ours} is installed here{ELSEWHERE}"
        )
    return True


def ask(path: str, body: dict[str, Any] | None = None) -> Any:
    """What the server answers to a GET, or to a POST of `body`."""
    headers = {"Content-Type": "application/json"}
    if password := credentials().get(PASSWORD):
        headers["Authorization"] = f"Basic {base64.b64encode(password.encode()).decode()}"
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(API_URL + path, content, headers)  # noqa: S310  (http, ours)
    with urllib.request.urlopen(request, timeout=10 if body else 2) as answer:  # noqa: S310
        return json.load(answer)


def unfinished_tasks(since: datetime) -> int:
    """How many task runs that began after `since` have not ended."""
    unfinished = {
        "state": {"type": {"any_": ["PENDING", "RUNNING"]}},
        "start_time": {"after_": since.isoformat()},
    }
    return ask("/task_runs/count", {"task_runs": unfinished})


def _refused(error: urllib.error.HTTPError) -> str:
    if error.code == http.client.UNAUTHORIZED:
        return f"the server at {UI_URL} wants another authentication string: set {PASSWORD} to its own"
    return _occupied(f"HTTP {error.code}")


def _occupied(answer: str) -> str:
    return f"port {PORT} is taken by something that is no Prefect server ({answer}); set SAMUEL_PREFECT_PORT"
