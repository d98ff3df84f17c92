"""`make serve`: what it starts, keeps alive, registers and serves; processes are killed under its runs."""

import base64
import contextlib
import http.client
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile
import yaml
from playwright.sync_api import Browser, sync_playwright
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.states import Cancelling, Completed, Pending, Running
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from flows import serve, server
from flows.processes import exit_words, spawn, stop
from flows.serve import crash_orphaned_tasks, crash_silent_runs, end_cancelled_processes
from flows.server import ServerError
from samuel.config import Settings
from samuel.popdb import stages
from samuel.popdb.acquire import acquire_songs
from samuel.popdb.parts import Parts
from samuel.popdb.songs import list_songs
from samuel.popdb.writer import write_popdb
from tests.flows.runs import PASSWORD, ROOT, digests, folder_settings, wait_for
from tests.flows.serving import Served, free_port, serving

ENGINE, WORKER, SERVER = "-m prefect.engine", "-m prefect worker start", "-m flows.server"
pytestmark = pytest.mark.timeout(900)  # each run boots its own Python
SHORT = timedelta(seconds=1)
Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture
def client(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncPrefectClient]:
    """A client of the server, which our own requests go to as well."""
    monkeypatch.setattr(server, "API_URL", served.environment["PREFECT_API_URL"])
    monkeypatch.setenv(server.PASSWORD, served.password)
    with served.client() as client:
        yield client


# What is registered.


def prefect(served: Served, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "prefect", *arguments]
    environment = {**served.environment, "COLUMNS": "200", **variables}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_deployments_run_by_the_names_of_the_readme(served: Served) -> None:
    with served.client() as client:
        parameters = {deployment.name: deployment.parameters for deployment in client.read_deployments()}
    paper = {"preset": "paper"}
    assert parameters == {"build-popdb": paper, "train-and-eval": paper, "ablate": paper, "demo": {}}
    later = ("--start-in", "10 hours", "--param", 'settings={"training": {"steps": 5}}')
    run = prefect(served, "deployment", "run", "build-popdb", *later)
    assert run.returncode == 0, run.stdout + run.stderr
    with served.client() as client:
        (submitted,) = [run for run in client.read_flow_runs() if run.state_name == "Scheduled"]
        client.delete_flow_run(submitted.id)
    assert submitted.parameters == {"preset": "paper", "settings": {"training": {"steps": 5}}}
    nowhere = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    run = prefect(served, "deployment", "run", "build-popdb", **nowhere)
    assert run.returncode == 1
    assert "no Prefect server answers at http://127.0.0.1:9/api" in run.stderr
    assert "start one with `make serve`" in run.stderr
    assert "Traceback" not in run.stderr


def test_wrong_parameters_are_refused_before_a_run_exists(client: SyncPrefectClient) -> None:
    found = client.read_deployment_by_name("train-and-eval/demo")
    before = len(client.read_flow_runs())
    for words, parameters in {
        "settings.training.steps": {"settings": {"training": {"steps": 0}}},
        "'stepps' was unexpected": {"settings": {"training": {"stepps": 5}}},
        "preset": {"preset": "papers"},
        "settings.popdb.path": {"settings": {"popdb": {"path": "s3://me:secret@bucket/x"}}},
        "settings.download.proxy": {"settings": {"download": {"proxy": "http://me:secret@host:1"}}},
    }.items():
        with pytest.raises(Exception, match=re.escape(words)):
            client.create_flow_run_from_deployment(found.id, parameters=parameters)
    assert len(client.read_flow_runs()) == before


def test_the_commands_of_deploy_are_those_of_the_code() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    own, worker = compose["services"]["server"], compose["services"]["worker"]
    unit = (ROOT / "deploy" / "samuel.service").read_text()
    lines = [own["command"], worker["command"], own["healthcheck"]["test"], unit]
    for line in lines:
        for module in re.findall(r"python -m ([\w.]+)", line):
            assert importlib.util.find_spec(module), module
        for module, name in re.findall(r"from ([\w.]+) import (\w+)", line):
            assert hasattr(importlib.import_module(module), name), (module, name)
    options = re.findall(r"flows\.serve (--\S+)", worker["command"])
    told = subprocess.check_output([sys.executable, "-m", "flows.serve", "--help"], cwd=ROOT, text=True)
    assert options == [option for option in options if option in told] != []
    assert "prefect server start" not in str(compose)  # which has no guard
    copied = re.findall(r"^COPY (.+) \S+$", compose["x-samuel"]["build"]["dockerfile_inline"], re.MULTILINE)
    assert [name for line in copied for name in line.split() if not (ROOT / name).exists()] == []
    host = own["environment"]["PREFECT_SERVER_DATABASE_CONNECTION_URL"].partition("@")[2]
    port = re.search(r"port=(\d+)", compose["services"]["database"]["command"])
    assert port
    assert host == f"127.0.0.1:{port[1]}/{compose['services']['database']['environment']['POSTGRES_DB']}"


# Who may speak to it.

FOREIGN: list[dict[str, str]] = [
    {"Host": "evil.example:4200"},  # a name that leads here
    {"Origin": "http://evil.example"},
    {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
]


@pytest.fixture
def command(client: SyncPrefectClient, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The path and the body of a POST that has the worker run a command; none may be run, nor be planned."""
    found, mark = client.read_deployment_by_name("build-popdb/demo"), tmp_path / "mark"
    before = len(client.read_flow_runs())
    variables = {"command": f"touch {mark}"}
    body = json.dumps({"state": {"type": "SCHEDULED"}, "job_variables": variables, "parameters": {}})
    yield f"/api/deployments/{found.id}/create_flow_run", body
    assert len(client.read_flow_runs()) == before
    assert not mark.exists()


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_what_is_foreign_gets_403_before_any_route(
    served: Served, command: tuple[str, str], headers: dict[str, str]
) -> None:
    for authorization in ({}, {"Authorization": basic(served.password)}):
        given = {"Authorization": "", **headers, **authorization}
        assert ask(served.port, command[0], "POST", command[1], **given)[0] == 403
        for path in ("/", "/ui-settings", "/docs", "/api/health", "/api/admin/version", "/nowhere"):
            assert ask(served.port, path, **given)[0] == 403
            assert ask(served.port, path, "OPTIONS", **given)[0] == 403
        if "Sec-Fetch-Site" not in given:
            with pytest.raises(InvalidStatus) as refused:
                listen(served, "/api/events/out", headers)
            assert refused.value.response.status_code == 403


@pytest.mark.parametrize("password", ["", "samuel:x", PASSWORD])
def test_without_its_password_nothing_is_told(
    served: Served, command: tuple[str, str], password: str
) -> None:
    assert ask(served.port, command[0], "POST", command[1], Authorization=basic(password))[0] == 401
    assert ask(served.port, "/api/admin/version", Authorization=basic(password))[0] == 401
    for path in ("/api/events/out", "/api/events/in", "/api/logs/out"):
        with pytest.raises(ConnectionClosed) as closed:
            listen(served, path, {}, password)
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1008
        with pytest.raises(InvalidStatus):  # as clients of old did it, who send none
            connect(f"ws://127.0.0.1:{served.port}{path}")
        assert listen(served, path, {}, served.password) == {"type": "auth_success"}


def listen(served: Served, path: str, headers: dict[str, str], password: str = "") -> Any:
    """What a WebSocket of Prefect's protocol answers first."""
    name, _, _ = headers.get("Host", "127.0.0.1").partition(":")
    with (
        socket.create_connection(("127.0.0.1", served.port)) as route,
        connect(
            f"ws://{name}:{served.port}{path}", sock=route, origin=headers.get("Origin"),  # type: ignore[arg-type]
            subprotocols=["prefect"],  # type: ignore[list-item]
        ) as websocket,
    ):  # fmt: skip
        websocket.send(json.dumps({"type": "auth", "token": password or None}))
        return json.loads(websocket.recv(timeout=20))


@pytest.mark.parametrize(("content", "mode"), [("a:b", 0o640), ("", 0o600), ("word", 0o600), ("s:ö", 0o600)])
def test_a_password_that_others_read_or_nobody_can_type_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, mode: int
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    server.password_file().write_text(content)
    server.password_file().chmod(mode)
    remedy = "remove it" if mode != 0o600 else "set it to user:password"
    with pytest.raises(ServerError, match=rf"{tmp_path}/password .*: {remedy}"):
        server.auth_string()


def test_the_first_use_makes_one_password_for_all_and_for_your_eyes_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "new" / "home"))
    with ThreadPoolExecutor(8) as threads:
        (password,) = set(threads.map(lambda _: server.auth_string(), range(64)))
    assert re.fullmatch(r"samuel:[\w-]{32}", password)
    assert [path.name for path in server.home().iterdir()] == ["password"]
    assert [path.stat().st_mode & 0o777 for path in (server.home(), server.password_file())] == [0o700, 0o600]
    assert server.environment()[server.PASSWORD] == password


# As a person sees it, and as a page does that this person has open.


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no chromium on this machine")
    arguments = ["--no-sandbox", "--host-resolver-rules=MAP evil.example 127.0.0.1"]
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=arguments)


@pytest.mark.browser
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_ui_takes_the_password_and_shows_the_runs(
    served: Served, client: SyncPrefectClient, chromium: Browser, name: str
) -> None:
    run = flow_run(client, Completed())
    page = chromium.new_page()
    page.goto(f"http://{name}:{served.port}/runs")
    page.locator("input[type=password]").fill(served.password)
    page.keyboard.press("Enter")
    page.get_by_text(run.name).first.wait_for()
    assert page.url == f"http://{name}:{served.port}/runs"
    page.close()


# What a page may try; it then looks at what came through: an answer, an open socket, a picture, a sound.
ATTACKS = """async ([server, path, body, reports]) => {
    const came = (made, words) => new Promise((done) => {
        made.onopen = made.onload = made.onloadedmetadata = () => done(words);
        made.onerror = () => done("nothing");
    });
    const fetched = (url, options) => fetch(url, options).then(() => url, () => "nothing");
    const framed = document.body.appendChild(document.createElement("iframe"));
    await fetched(`http://${server}${path}`, {method: "POST", mode: "no-cors", body: new Blob([body])});
    await came(Object.assign(framed, {src: `${reports}/report.html`}));  // of which it sees nothing anyway
    return await Promise.all([
        fetched(`http://${server}/api/admin/version`),
        fetched(`${reports}/report.html`, {credentials: "include"}),
        came(new WebSocket(`ws://${server}/api/events/out`, "prefect"), "events"),
        came(new WebSocket(`ws://${server}/api/logs/out`, "prefect"), "logs"),
        came(Object.assign(new Image(), {src: `${reports}/a.png`}), "picture"),
        came(new Audio(`${reports}/a.wav`), "sound"),
    ]);
}"""


@pytest.mark.browser
@pytest.mark.parametrize("name", ["127.0.0.1", "evil.example"])
def test_a_page_of_another_port_gets_nothing_but_may_link_to_a_report(
    served: Served, command: tuple[str, str], port: int, chromium: Browser, name: str
) -> None:
    ours, reports = f"127.0.0.1:{served.port}", f"http://127.0.0.1:{port}/run/report"
    user, _, word = PASSWORD.partition(":")
    context = chromium.new_context(http_credentials={"username": user, "password": word})
    page, statuses = context.new_page(), dict[str, int]()
    page.goto(f"{reports}/report.html")  # the browser has the password from now on
    assert page.eval_on_selector("img", "image => image.naturalWidth") == 1
    page.wait_for_function("document.querySelector('audio').duration > 0")
    page.on("response", lambda answer: statuses.update({answer.url: answer.status}))
    with answering({"/": "a page"}, anonymous="a page") as (foreign, _):
        page.goto(f"http://{name}:{foreign}/")
        assert page.evaluate(ATTACKS, [ours, *command, reports]) == ["nothing"] * 6
        assert {status for url, status in statuses.items() if ours in url or reports in url} == {403}
        page.evaluate("url => location.assign(url)", f"{reports}/report.html")
        page.get_by_text("heard").wait_for()
    answer = page.goto(f"http://evil.example:{served.port}/api/admin/version")
    assert answer
    assert answer.status == 403
    context.close()


# Runs whose process is gone.


@flow
def nothing() -> None:
    pass


@task
def part() -> None:
    pass


def flow_run(client: SyncPrefectClient, state: "State[None]") -> FlowRun:
    return client.create_flow_run(nothing, state=state)


def task_run(client: SyncPrefectClient, run: FlowRun, state: "State[None]") -> TaskRun:
    return client.create_task_run(part, run.id, dynamic_key=state.name or "", state=state)


def end(client: SyncPrefectClient, run: FlowRun) -> None:
    client.set_flow_run_state(run.id, Completed(), force=True)


def test_a_silent_run_is_crashed_and_told_what_to_do_and_a_heard_one_lives(client: SyncPrefectClient) -> None:
    def watched(silence: timedelta) -> bool:
        with contextlib.suppress(OSError):  # as the watch does it, which looks again where SQLite is busy
            crash_silent_runs(silence)
            return True
        return False

    silent, unborn, alive = (flow_run(client, state) for state in (Running(), Pending(), Running()))
    for _ in range(2):  # again leaves one automation
        wait_for(lambda: watched(timedelta(seconds=15)))
    (found,) = client.read_automations_by_name(serve.AUTOMATION)
    assert found.enabled
    event = {"event": serve.HEARTBEAT, "resource": {"prefect.resource.id": f"prefect.flow-run.{alive.id}"}}
    for _ in range(2):
        time.sleep(9)
        server.ask("/events", [event | {"occurred": server.now(), "id": str(serve.uuid4())}])
    for run in (silent, unborn):
        wait_for(lambda: client.read_flow_run(run.id).state_name == "Crashed")  # noqa: B023
        message = str(client.read_flow_run(run.id).state.message)  # type: ignore[union-attr]
        assert "Nothing was heard of this run for 15 s" in message
        assert "Start it again: what is done stays done" in message
    state = client.read_flow_run(alive.id).state_name
    end(client, alive)
    wait_for(lambda: watched(serve.SILENCE))
    assert state == "Running"


def test_tasks_and_processes_end_with_their_flow_run(client: SyncPrefectClient) -> None:
    over, cancelled, alive = (flow_run(client, Running()) for _ in range(3))
    tasks = [task_run(client, run, state) for run in (over, alive) for state in (Running(), Pending())]
    done = task_run(client, over, Completed())
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    deaf, other = (
        subprocess.Popen(command, env={**os.environ, "PREFECT__FLOW_RUN_ID": str(run.id)})
        for run in (cancelled, alive)
    )
    try:
        end(client, over)
        client.set_flow_run_state(cancelled.id, Cancelling(), force=True)
        crash_orphaned_tasks()
        assert client.read_task_run(tasks[0].id).state_name == "Running"  # its last words may be on their way
        assert end_cancelled_processes() == 0  # it may be about to end by itself
        time.sleep(1.5)
        crash_orphaned_tasks(SHORT)
        names = [client.read_task_run(run.id).state_name for run in (*tasks, done)]
        assert names == ["Crashed", "Crashed", "Running", "Pending", "Completed"]
        assert "ended without it" in str(client.read_task_run(tasks[0].id).state)
        assert end_cancelled_processes(SHORT) == 1
        assert deaf.wait(timeout=30) == -signal.SIGTERM
        assert other.poll() is None
    finally:
        for process, run in ((deaf, cancelled), (other, alive)):
            process.kill()
            process.wait()
            end(client, run)


# Kills under a run.


def entries(root: Path) -> dict[Path, tuple[int, int]]:
    """Every finished piece, with what changes when it is made again."""
    found = {path: path.stat() for path in root.glob("data/*/[!.]*/entry.json")}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in found.items()}


def process_of(served: Served, run: FlowRun) -> psutil.Process | None:
    """The process that runs a flow; that of the run before may not be gone yet."""
    for process in served.everyone():
        with contextlib.suppress(psutil.Error):
            ours = process.environ().get("PREFECT__FLOW_RUN_ID") == str(run.id)
            if ours and ENGINE in " ".join(process.cmdline()):
                return process
    return None


def at_work(served: Served, settings: Settings, pieces: int) -> tuple[FlowRun, psutil.Process]:
    """A run that has made so many pieces, and its process."""
    run = served.run("build-popdb/demo", settings)
    process = wait_for(lambda: process_of(served, run), served.said)
    served.until_state(run, "Running")
    wait_for(lambda: len(entries(settings.data.parent)) >= pieces, served.said)
    return run, process


def test_killed_in_three_ways_a_build_goes_on_to_the_same_bytes_and_can_be_cancelled(
    served: Served, songs_folder: Path, tmp_path: Path
) -> None:
    undisturbed = folder_settings(tmp_path / "undisturbed", songs_folder)
    parts, listed = Parts(undisturbed), list_songs(undisturbed.songs, undisturbed.data).songs
    songs = stages.encode_songs(stages.separate_songs(acquire_songs(listed, parts), parts), parts)
    write_popdb(songs, undisturbed)
    killed = folder_settings(tmp_path / "killed", songs_folder)

    run, process = at_work(served, killed, 1)
    process.kill()
    served.until_state(run, "Crashed")
    made = entries(tmp_path / "killed")

    run, process = at_work(served, killed, len(made) + 1)
    served.child(WORKER).kill()
    process.wait(timeout=60)
    served.until_state(run, "Crashed")
    served.until_said("the worker ended with SIGKILL; it starts again")
    made_by_two = entries(tmp_path / "killed")

    run, process = at_work(served, killed, len(made_by_two))
    first = served.child(SERVER)
    first.kill()
    served.until_said("the server ended with SIGKILL; it starts again")
    assert served.until_state(run, "Completed") == "6 pairs from 3 of 6 songs"
    assert served.child(SERVER).pid != first.pid

    after = entries(tmp_path / "killed")
    assert made.items() <= made_by_two.items() <= after.items(), "something was done twice"
    assert digests(Path(killed.popdb_path)) == digests(Path(undisturbed.popdb_path))

    cancelled = folder_settings(tmp_path / "cancelled", songs_folder)
    run, process = at_work(served, cancelled, 1)
    family = [process, *process.children(recursive=True)]
    with served.client() as client:
        client.set_flow_run_state(run.id, Cancelling())
    served.until_state(run, "Cancelled")
    assert psutil.wait_procs(family, timeout=5)[1] == []
    assert "Failed to initialize plugins" not in served.said()
    assert whereabouts(served.password.partition(":")[2], served, tmp_path) == [served.home / "password"]


def whereabouts(password: str, served: Served, made: Path) -> list[Path | str]:
    """The files and command lines of a server, and of what its runs have made, that hold a password."""
    files = [path for path in (*served.home.rglob("*"), *made.rglob("*")) if path.is_file()]
    lines = [" ".join(process.cmdline()) for process in served.everyone()]
    assert min(len(files), len(lines)) >= 4
    told = [line for line in lines if password in line]
    return [*told, *(path for path in files if password.encode() in path.read_bytes())]


def unfinished(served: Served) -> list[str]:
    """Flow runs and task runs that are shown as not ended."""
    with served.client() as client:
        runs = [*client.read_flow_runs(), *client.read_task_runs()]
    return [f"{run.name}: {run.state}" for run in runs if not run.state or not run.state.is_final()]


@pytest.mark.slow  # it waits for the silence of 180 s
def test_all_killed_at_once_nothing_is_shown_as_running_for_ever(
    songs_folder: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("home")
    with serving(home, PREFECT_SERVER_API_AUTH_STRING=PASSWORD) as served:
        settings = folder_settings(tmp_path, songs_folder)
        run, _ = at_work(served, settings, 1)
        everyone = served.everyone()
        served.process.kill()
        for other in everyone:
            with contextlib.suppress(psutil.NoSuchProcess):
                other.kill()
        served.process.wait()
        psutil.wait_procs(everyone, timeout=10)
        served.process = served.start("flows.serve")
        served.until_said("Worker '.*' started", times=2)
        assert "Start it again: what is done stays done" in served.until_state(run, "Crashed")
        wait_for(lambda: not unfinished(served), lambda: unfinished(served))
        served.until_state(served.run("build-popdb/demo", settings), "Completed")
        assert not (home / "password").exists()
        assert whereabouts(PASSWORD, served, tmp_path) == []  # the environment's is never written down
        assert served.end() == 0


def test_killed_it_takes_its_children_along(served: Served) -> None:
    left = served.everyone()
    assert len(left) >= 4  # server and worker, and what ends each with us
    served.process.kill()
    served.process.wait()
    assert psutil.wait_procs(left, timeout=40)[1] == []


# Whose server answers at our port, and processes that end with the one that started them.


def at_port(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setattr(server, "API_URL", f"http://127.0.0.1:{port}/api")
    monkeypatch.setattr(server, "PORT", port)


@contextmanager
def greeting(words: bytes) -> Iterator[int]:
    """A program that takes connections, says `words` and nothing more; its port."""
    with socket.create_server(("127.0.0.1", 0)) as ours:

        def greet() -> None:
            with contextlib.suppress(OSError):
                while True:
                    caller, _ = ours.accept()
                    with caller:
                        caller.sendall(words)
                        caller.recv(1000)

        threading.Thread(target=greet, daemon=True).start()
        yield ours.getsockname()[1]
        ours.shutdown(socket.SHUT_RDWR)


@contextmanager
def answering(answers: dict[str, Any], anonymous: Any = 401) -> Iterator[tuple[int, list[str | None]]]:
    """An HTTP server with these answers: JSON, or a status. Its port, and the Authorization headers."""
    credentials: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            credentials.append(self.headers["Authorization"])
            answer = answers.get(self.path, 404) if self.headers["Authorization"] else anonymous
            self.send_response(answer if type(answer) is int else 200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as ours:
        threading.Thread(target=ours.serve_forever, args=(0.02,), daemon=True).start()
        yield ours.server_port, credentials
        ours.shutdown()


def test_whose_server_is_at_the_port_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    at_port(monkeypatch, free_port())
    assert server.take_port()
    for words, complaint in ((b"", "gives no answer"), (b"SSH-2.0-OpenSSH_9.6\r\n", "is no Prefect server")):
        with greeting(words) as port:
            at_port(monkeypatch, port)
            with pytest.raises(
                ServerError, match=rf"port {port} is taken.*{complaint}.*set SAMUEL_PREFECT_P"
            ):
                server.take_port()
    ours = version("prefect")
    for health, found, complaint in (
        (404, 404, "is no Prefect server"),
        ({"status": "fine"}, "1", "is no Prefect server"),
        (True, "3.1.4", f"server of Prefect 3.1.4, and {ours}"),
        (True, 401, "wants another authentication string"),
    ):
        with answering({"/api/health": health, "/api/admin/version": found}) as (port, _):
            at_port(monkeypatch, port)
            with pytest.raises(ServerError, match=complaint):
                server.take_port()
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "me:word")  # serves both sides
    healthy = {"/api/health": True, "/api/admin/version": ours}
    with answering(healthy) as (port, credentials):
        at_port(monkeypatch, port)
        assert not server.take_port()
    assert credentials == ["Basic bWU6d29yZA==", "Basic bWU6d29yZA==", None]
    with answering(healthy, anonymous=ours) as (port, _):
        at_port(monkeypatch, port)
        with pytest.raises(ServerError, match="has no password, so any page"):
            server.take_port()
    assert server.environment()["PREFECT_API_AUTH_STRING"] == "me:word"


def test_a_server_that_stops_at_once_says_why(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "prefect.db")) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.execute("INSERT INTO alembic_version VALUES ('0123456789ab')")
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path), "SAMUEL_PREFECT_PORT": str(free_port())}
    command = [sys.executable, "-m", "flows.serve"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Can't locate revision identified by '0123456789ab'; did another Prefect write its" in done.stderr
    assert "Traceback" not in done.stderr


# Starts a process in a session of its own, as Prefect's worker and torchrun do, and says which.
STRAY = """
import subprocess, sys, os, signal, time
stray = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(stray.pid, flush=True)
"""


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(9)"])
def test_nothing_is_left_of_a_command_that_ends(tmp_path: Path, end: str) -> None:
    process = spawn([sys.executable, "-c", STRAY + end], log=tmp_path / "log")
    assert exit_words(process.wait(timeout=60)) == ("SIGKILL" if "KILL" in end else "exit code 9")
    assert not psutil.pid_exists(int((tmp_path / "log").read_text()))


@pytest.mark.parametrize("how", ["stopped", "parent killed"])
def test_nothing_is_left_of_a_command_whose_parent_ends(tmp_path: Path, how: str) -> None:
    log, command = tmp_path / "log", [sys.executable, "-c", STRAY + "time.sleep(600)"]
    if how == "stopped":
        process = spawn(command, log=log)
        wait_for(lambda: log.exists() and log.read_text().endswith("\n"))
        stop(process)
        assert exit_words(process.returncode) == "SIGTERM"
    else:
        spawning = "from flows.processes import spawn; from pathlib import Path; import time;"
        spawning += f"spawn({command!r}, log=Path({str(log)!r})); time.sleep(600)"
        parent = subprocess.Popen([sys.executable, "-c", spawning], cwd=ROOT)
        wait_for(lambda: log.exists() and log.read_text().endswith("\n"))
        parent.kill()
        parent.wait()
    wait_for(lambda: not psutil.pid_exists(int(log.read_text())))


# Reports and their audio, by a real socket.

SECRET, AUDIO = b"not for the browser", bytes(range(256)) * 40
PAGE = "<!doctype html><p>heard</p><img src=a.png><audio src=a.wav preload=metadata>"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> int:
    root, port = tmp_path_factory.mktemp("pages"), free_port()
    (root / "secret.txt").write_bytes(SECRET)
    report = root / "artifacts" / "run" / "report"
    (report / "audio").mkdir(parents=True)
    (report / "report.html").write_text(PAGE)
    (report / "a.png").write_bytes(base64.b64decode(PNG))
    soundfile.write(report / "a.wav", np.zeros(8000), 8000)
    (report / "audio" / "a b.flac").write_bytes(AUDIO)
    (report / "link.txt").symlink_to(root / "secret.txt")
    (report / "folder").symlink_to(root)
    serve.serve_reports(root / "artifacts", port, PASSWORD)
    return port


def basic(password: str) -> str:
    return f"Basic {base64.b64encode(password.encode()).decode()}"


def ask(port: int, path: str, method: str = "GET", body: str | None = None, **headers: str) -> Answer:
    """The answer to a request whose path nobody has tidied."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, body, {"Authorization": basic(PASSWORD), **headers})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content


def test_pages_come_as_what_they_are_and_audio_in_parts(port: int) -> None:
    status, headers, body = ask(port, "/run/report/report.html")
    assert (status, body) == (200, PAGE.encode())
    assert headers["content-type"].startswith("text/html")
    assert headers["x-content-type-options"] == "nosniff"
    status, headers, body = ask(port, "/run/report/audio/a%20b.flac", Range="bytes=100-199")
    assert (status, body) == (206, AUDIO[100:200])
    assert headers["content-type"] == "audio/flac"
    assert headers["content-range"] == f"bytes 100-199/{len(AUDIO)}"
    assert headers["x-content-type-options"] == "nosniff"
    assert ask(port, "/run/report/audio/a%20b.flac", "HEAD")[1]["content-length"] == str(len(AUDIO))


def test_nothing_else_is_there(port: int) -> None:
    for path in (
        "/../secret.txt", "/run/../../secret.txt", "/%2e%2e/secret.txt", "/run/%2e%2e%2f%2e%2e%2fsecret.txt",
        "/..%5csecret.txt", "//etc/passwd", "/%2fetc/passwd", "/run/report/link.txt",
        "/run/report/folder/secret.txt", "/run/report/report.html%00.png", "/" + "a" * 5000, "/",
        "/run/report/", "/run/report",
    ):  # fmt: skip
        status, _, body = ask(port, path)
        assert status == 404, path
        assert SECRET not in body
        assert b"report.html" not in body  # no folder is listed


def test_it_only_reads_and_only_for_this_machine(port: int) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(port, "/run/report/report.html", method)[0] == 405
    for status, foreign in ((403, {"Host": "evil.example"}), (401, {"Authorization": basic("samuel:x")})):
        found, _, body = ask(port, "/run/report/report.html", **foreign)
        assert (found, b"heard" in body) == (status, False)
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    bound = {entry[1] for entry in lines if entry[1].endswith(f":{port:04X}") and entry[3] == "0A"}
    assert bound == {f"0100007F:{port:04X}"}
