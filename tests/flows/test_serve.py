"""`make serve`: what it starts, keeps alive, registers and serves; processes are killed under its runs."""

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.states import Cancelling, Completed, Pending, Running

from flows import serve
from flows.serve import crash_orphaned_tasks, end_cancelled_processes, expect_heartbeats, register_automation
from samuel.config import Settings
from tests.flows.runs import digests, folder_settings, wait_for
from tests.flows.serving import ROOT, Served, free_port, serving

# Each is the last of those that match: the process that fences it in has its command line too, and is older.
ENGINE, WORKER, SERVER = "-m prefect.engine", "-m prefect worker start", "-m prefect server start"
PASSWORD = "somebody:a-word-that-nobody-else-writes"
pytestmark = pytest.mark.timeout(900)  # each run boots its own Python
SHORT = timedelta(seconds=1)
HOLD = """
import time
from prefect.concurrency.sync import concurrency
with concurrency("held", lease_duration=60, strict=True):
    print("holding", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("home")) as served:
        yield served


@pytest.fixture
def client(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncPrefectClient]:
    """A client of the server, which our own requests go to as well."""
    monkeypatch.setattr("flows.server.API_URL", served.environment["PREFECT_API_URL"])
    with served.client() as client:
        yield client


# What is registered.


def prefect(served: Served, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "prefect", *arguments]
    environment = {**served.environment, "COLUMNS": "200"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_deployments_run_by_the_names_of_the_readme(served: Served) -> None:
    with served.client() as client:
        found = client.read_deployments()
    parameters = {deployment.name: deployment.parameters for deployment in found}
    assert parameters == {
        "build-popdb": {"preset": "paper"}, "train-and-eval": {"preset": "paper"},
        "ablate": {"preset": "paper"}, "demo": {},
    }  # fmt: skip
    soon = ("--start-in", "10 hours")
    for name in ("build-popdb", "train-and-eval/demo"):
        run = prefect(
            served, "deployment", "run", name, *soon, "--param", 'settings={"training": {"steps": 5}}'
        )
        assert run.returncode == 0, run.stdout + run.stderr
        assert "Created flow run" in run.stdout
    assert prefect(served, "deployment", "run", "no-such-flow").returncode == 1
    with served.client() as client:
        submitted = [run for run in client.read_flow_runs() if run.state_name == "Scheduled"]
        given = sorted((run.parameters for run in submitted), key=len)
        for run in submitted:
            client.delete_flow_run(run.id)
    over = {"settings": {"training": {"steps": 5}}}
    assert given == [over, {"preset": "paper", **over}]


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("settings.training.steps", "settings", {"training": {"steps": 0}}),
        ("'stepps' was unexpected", "settings", {"training": {"stepps": 5}}),
        ("preset", "preset", "papers"),
        ("settings.store", "settings", {"store": "s3://me:secret@bucket/x"}),
        ("settings.popdb.path", "settings", {"popdb": {"path": "s3://me:secret@bucket/x"}}),
        ("settings.download.proxy", "settings", {"download": {"proxy": "http://me:secret@host:1"}}),
    ],
)
def test_wrong_parameters_are_refused_before_a_run_exists(
    client: SyncPrefectClient, words: str, name: str, value: Any
) -> None:
    found = client.read_deployment_by_name("train-and-eval/demo")
    before = len(client.read_flow_runs())
    with pytest.raises(Exception, match=re.escape(words)):
        client.create_flow_run_from_deployment(found.id, parameters={name: value})
    assert len(client.read_flow_runs()) == before


def test_without_a_server_a_short_name_says_what_to_start(served: Served, tmp_path: Path) -> None:
    environment = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "prefect", "deployment", "run", "build-popdb"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "no Prefect server answers at http://127.0.0.1:9/api" in run.stderr
    assert "make serve" in run.stderr
    assert "Traceback" not in run.stderr


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
    silent, unborn, alive = (flow_run(client, state) for state in (Running(), Pending(), Running()))
    for _ in range(2):  # again leaves one automation
        wait_for(lambda: registered(timedelta(seconds=15)))
    (found,) = client.read_automations_by_name(serve.AUTOMATION)
    assert found.enabled
    expect_heartbeats()
    for _ in range(2):
        time.sleep(9)
        beat(alive.id)
    for run in (silent, unborn):
        wait_for(lambda: client.read_flow_run(run.id).state_name == "Crashed")  # noqa: B023
        message = str(client.read_flow_run(run.id).state.message)  # type: ignore[union-attr]
        assert "Nothing was heard of this run for 15 s" in message
        assert "Start it again: what is done stays done" in message
    state = client.read_flow_run(alive.id).state_name
    end(client, alive)
    wait_for(lambda: registered(serve.SILENCE))
    assert state == "Running"


def registered(silence: timedelta) -> bool:
    """As the watch does it, which looks again where a busy SQLite has the server answer 503."""
    with contextlib.suppress(OSError):
        register_automation(silence)
        return True
    return False


def beat(run: UUID) -> None:
    event = {"event": serve.HEARTBEAT, "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"}}
    serve.ask("/events", [event | {"occurred": serve.now(), "id": str(serve.uuid4())}])


def test_tasks_end_with_their_flow_run(client: SyncPrefectClient) -> None:
    over, alive = flow_run(client, Running()), flow_run(client, Running())
    tasks = [task_run(client, run, state) for run in (over, alive) for state in (Running(), Pending())]
    done = task_run(client, over, Completed())
    end(client, over)
    crash_orphaned_tasks()
    assert client.read_task_run(tasks[0].id).state_name == "Running"  # its last words may be on their way
    time.sleep(1.5)
    crash_orphaned_tasks(SHORT)
    names = [client.read_task_run(run.id).state_name for run in (*tasks, done)]
    end(client, alive)
    assert names == ["Crashed", "Crashed", "Running", "Pending", "Completed"]
    assert "ended without it" in str(client.read_task_run(tasks[0].id).state)


def test_a_process_that_did_not_hear_of_its_cancellation_is_ended(client: SyncPrefectClient) -> None:
    cancelled, alive = flow_run(client, Running()), flow_run(client, Running())
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    deaf, other = (
        subprocess.Popen(command, env={**os.environ, "PREFECT__FLOW_RUN_ID": str(run.id)})
        for run in (cancelled, alive)
    )
    try:
        client.set_flow_run_state(cancelled.id, Cancelling(), force=True)
        assert end_cancelled_processes() == 0  # it may be about to end by itself
        time.sleep(1.5)
        assert end_cancelled_processes(SHORT) == 1
        assert deaf.wait(timeout=30) == -signal.SIGTERM
        assert other.poll() is None
    finally:
        for process in (deaf, other):
            process.kill()
            process.wait()
        end(client, cancelled)
        end(client, alive)


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


@pytest.fixture(scope="module")
def undisturbed(
    served: Served, songs_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Digests of the dataset of two runs over one folder, which share the work."""
    settings = folder_settings(tmp_path_factory.mktemp("undisturbed"), songs_folder)
    runs = [served.run("build-popdb/demo", settings) for _ in range(2)]
    assert {served.until_state(run, "Completed") for run in runs} == {"6 pairs from 3 of 6 songs"}
    return digests(Path(settings.popdb_path))


def test_killed_in_three_ways_a_build_goes_on_to_the_same_bytes_and_can_be_cancelled(
    served: Served, undisturbed: dict[str, str], songs_folder: Path, tmp_path: Path
) -> None:
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
    served.until_state(run, "Completed")
    assert served.child(SERVER).pid != first.pid

    after = entries(tmp_path / "killed")
    assert made.items() <= made_by_two.items() <= after.items(), "something was done twice"
    assert digests(Path(killed.popdb_path)) == undisturbed

    cancelled = folder_settings(tmp_path / "cancelled", songs_folder)
    run, process = at_work(served, cancelled, 1)
    family = [process, *process.children(recursive=True)]
    with served.client() as client:
        client.set_flow_run_state(run.id, Cancelling())
    served.until_state(run, "Cancelled")
    assert psutil.wait_procs(family, timeout=5)[1] == []
    assert "Failed to initialize plugins" not in served.said()


@pytest.mark.slow  # a minute
def test_a_server_that_is_silent_for_a_minute_ends_no_run(
    served: Served, undisturbed: dict[str, str], songs_folder: Path, tmp_path: Path
) -> None:
    settings = folder_settings(tmp_path, songs_folder)
    run, _ = at_work(served, settings, 1)
    server = served.child(SERVER)
    server.suspend()
    time.sleep(60)
    server.resume()
    assert served.until_state(run, "Completed") == "6 pairs from 3 of 6 songs"
    assert digests(Path(settings.popdb_path)) == undisturbed


def unfinished(served: Served) -> list[str]:
    """Flow runs and task runs that are shown as not ended."""
    with served.client() as client:
        runs = [*client.read_flow_runs(), *client.read_task_runs()]
    return [f"{run.name}: {run.state}" for run in runs if not run.state or not run.state.is_final()]


@pytest.mark.slow  # it waits for the silence of 180 s
def test_all_killed_at_once_nothing_is_shown_as_running_for_ever(
    songs_folder: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with serving(tmp_path_factory.mktemp("home")) as served:
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
        assert served.end() == 0


@pytest.mark.slow  # a lease lasts a minute at least
def test_a_slot_comes_back_though_holder_and_server_were_killed(served: Served, tmp_path: Path) -> None:
    with served.client() as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="held", limit=1))
    (tmp_path / "hold.py").write_text(HOLD)
    served.environment["PYTHONPATH"] = str(tmp_path)
    holder = served.start("hold")

    def taken() -> int:
        with served.client() as client:
            return client.read_global_concurrency_limit_by_name("held").active_slots

    served.until_said("holding")
    assert taken() == 1
    first = served.child(SERVER)
    first.kill()
    wait_for(lambda: served.child(SERVER).pid != first.pid, served.said)
    holder.kill()
    holder.wait()
    wait_for(lambda: served.healthy() and taken() == 0, served.said)


@pytest.mark.slow  # a server of its own
def test_with_a_password_all_works_and_it_stands_nowhere(
    songs_folder: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("home")
    with serving(home, PREFECT_SERVER_API_AUTH_STRING=PASSWORD) as served:
        assert ask(served.port, "/api/flow_runs/filter", "POST")[0] == 401
        run = served.run("build-popdb/demo", folder_settings(tmp_path, songs_folder))
        served.until_state(run, "Completed")
        lines = [" ".join(process.cmdline()) for process in served.everyone()]
        written = [path for path in (*home.rglob("*"), *tmp_path.rglob("*")) if path.is_file()]
        assert len(written) > 10
        assert not [path for path in written if PASSWORD.encode() in path.read_bytes()]
        assert not [line for line in lines if PASSWORD in line]


def test_killed_it_takes_its_children_along(served: Served) -> None:
    left = served.everyone()
    assert len(left) >= 4  # server and worker, and what ends each with us
    served.process.kill()
    served.process.wait()
    assert psutil.wait_procs(left, timeout=40)[1] == []


# Reports and their audio, by a real socket.

SECRET, AUDIO = b"not for the browser", bytes(range(256)) * 40


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> int:
    root, port = tmp_path_factory.mktemp("pages"), free_port()
    (root / "secret.txt").write_bytes(SECRET)
    report = root / "artifacts" / "run" / "report"
    (report / "audio").mkdir(parents=True)
    (report / "report.html").write_text("<!doctype html><p>heard</p>")
    (report / "audio" / "a b.flac").write_bytes(AUDIO)
    (report / "link.txt").symlink_to(root / "secret.txt")
    (report / "folder").symlink_to(root)
    serve.serve_reports(root / "artifacts", port)
    return port


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """The answer to a request whose path nobody has tidied."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


def test_pages_come_as_what_they_are_and_audio_in_parts(port: int) -> None:
    status, headers, body = ask(port, "/run/report/report.html")
    assert (status, body) == (200, b"<!doctype html><p>heard</p>")
    assert headers["content-type"].startswith("text/html")
    assert headers["x-content-type-options"] == "nosniff"
    status, headers, body = ask(port, "/run/report/audio/a%20b.flac", Range="bytes=100-199")
    assert (status, body) == (206, AUDIO[100:200])
    assert headers["content-type"] == "audio/flac"
    assert headers["content-range"] == f"bytes 100-199/{len(AUDIO)}"
    assert headers["x-content-type-options"] == "nosniff"
    assert ask(port, "/run/report/audio/a%20b.flac", "HEAD")[1]["content-length"] == str(len(AUDIO))


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt", "/run/../../secret.txt", "/%2e%2e/secret.txt", "/run/%2e%2e%2f%2e%2e%2fsecret.txt",
        "/..%5csecret.txt", "//etc/passwd", "/%2fetc/passwd", "/run/report/link.txt",
        "/run/report/folder/secret.txt", "/run/report/report.html%00.png", "/" + "a" * 5000, "/",
        "/run/report/", "/run/report",
    ],
)  # fmt: skip
def test_nothing_else_is_there(port: int, path: str) -> None:
    status, _, body = ask(port, path)
    assert status == 404
    assert SECRET not in body
    assert b"report.html" not in body  # no folder is listed


def test_it_only_reads_and_only_for_this_machine(port: int) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(port, "/run/report/report.html", method)[0] == 405
    status, _, body = ask(port, "/run/report/report.html", Host="evil.example")
    assert status == 400
    assert b"heard" not in body
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    bound = {entry[1] for entry in lines if entry[1].endswith(f":{port:04X}") and entry[3] == "0A"}
    assert bound == {f"0100007F:{port:04X}"}
