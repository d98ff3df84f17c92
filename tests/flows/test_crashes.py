"""Processes are killed while deployments run under `make serve`; nothing is lost, or shown wrongly."""

import contextlib
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from samuel.config import Settings
from tests.flows.serving import Served, serving, until
from tests.popdb.latents import small_settings

# Each is the last of those that match: the fence round the worker has its command line too, and is older.
ENGINE, WORKER, SERVER = "-m prefect.engine", "-m prefect worker start", "-m prefect server start"
PASSWORD = "somebody:a-word-that-nobody-else-writes"
pytestmark = pytest.mark.timeout(900)  # each run boots its own Python
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


def settings_in(root: Path, songs: Path) -> Settings:
    return small_settings(root, songs={"source": "folder", "path": songs})


def entries(root: Path) -> dict[Path, tuple[int, int]]:
    """Every finished piece, with what changes when it is made again."""
    found = {path: path.stat() for path in root.glob("data/*/*/entry.json")}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in found.items()}


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


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
    process = until(lambda: process_of(served, run), served.said)
    served.until_state(run, "Running")
    until(lambda: len(entries(settings.data.parent)) >= pieces, served.said)
    return run, process


def unfinished(served: Served) -> list[str]:
    """Flow runs and task runs that are shown as not ended."""
    with served.client() as client:
        runs = [*client.read_flow_runs(), *client.read_task_runs()]
    return [f"{run.name}: {run.state}" for run in runs if not run.state or not run.state.is_final()]


@pytest.fixture(scope="module")
def undisturbed(
    served: Served, songs_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Digests of the dataset of a run that nothing disturbed."""
    settings = settings_in(tmp_path_factory.mktemp("undisturbed"), songs_folder)
    served.until_state(served.run("build-popdb/demo", settings), "Completed")
    return digests(Path(settings.popdb_path))


def test_two_runs_over_one_folder_share_the_work(
    served: Served, undisturbed: dict[str, str], songs_folder: Path, tmp_path: Path
) -> None:
    settings = settings_in(tmp_path, songs_folder)
    runs = [served.run("build-popdb/demo", settings) for _ in range(2)]
    messages = {served.until_state(run, "Completed") for run in runs}
    assert messages == {"6 pairs from 3 of 6 songs"}
    assert digests(Path(settings.popdb_path)) == undisturbed


def test_killed_in_three_ways_a_build_goes_on_to_the_same_bytes(
    served: Served, undisturbed: dict[str, str], songs_folder: Path, tmp_path: Path
) -> None:
    killed = settings_in(tmp_path / "killed", songs_folder)

    run, process = at_work(served, killed, 1)
    process.kill()
    served.until_state(run, "Crashed")
    made = entries(tmp_path / "killed")

    run, process = at_work(served, killed, len(made) + 1)
    served.child(WORKER).kill()
    process.wait(timeout=60)
    served.until_state(run, "Crashed")
    made_by_two = entries(tmp_path / "killed")

    run, process = at_work(served, killed, len(made_by_two))
    served.child(SERVER).kill()
    served.until_state(run, "Completed")

    after = entries(tmp_path / "killed")
    assert made.items() <= made_by_two.items() <= after.items(), "something was done twice"
    assert digests(Path(killed.popdb_path)) == undisturbed


@pytest.mark.slow  # a minute
def test_a_server_that_is_silent_for_a_minute_ends_no_run(
    served: Served, undisturbed: dict[str, str], songs_folder: Path, tmp_path: Path
) -> None:
    settings = settings_in(tmp_path, songs_folder)
    run, _ = at_work(served, settings, 1)
    server = served.child(SERVER)
    server.suspend()
    time.sleep(60)
    server.resume()
    assert served.until_state(run, "Completed") == "6 pairs from 3 of 6 songs"
    assert digests(Path(settings.popdb_path)) == undisturbed
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))

    def ended() -> list[str | None]:
        with served.client() as client:
            return [task.state_name for task in client.read_task_runs(flow_run_filter=of_run)]

    until(lambda: set(ended()) == {"Completed"}, ended)
    assert len(ended()) == 3 + 3 * 3  # check, list, write; three groups through three stages


@pytest.mark.slow  # it waits for the silence of 180 s
def test_all_killed_at_once_nothing_is_shown_as_running_for_ever(
    songs_folder: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with serving(tmp_path_factory.mktemp("home")) as served:
        settings = settings_in(tmp_path, songs_folder)
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
        until(lambda: not unfinished(served), lambda: unfinished(served))
        served.until_state(served.run("build-popdb/demo", settings), "Completed")


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
    until(lambda: served.child(SERVER).pid != first.pid, served.said)
    holder.kill()
    holder.wait()
    until(lambda: answers(served) and taken() == 0, served.said)


def answers(served: Served) -> bool:
    try:
        return httpx.get(f"{served.environment['PREFECT_API_URL']}/health").is_success
    except httpx.HTTPError:
        return False


@pytest.mark.slow  # a server of its own
def test_with_a_password_all_works_and_it_stands_nowhere(
    songs_folder: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("home")
    with serving(home, PREFECT_SERVER_API_AUTH_STRING=PASSWORD) as served:
        url = served.environment["PREFECT_API_URL"]
        assert httpx.post(f"{url}/flow_runs/filter").status_code == 401
        served.until_state(served.run("build-popdb/demo", settings_in(tmp_path, songs_folder)), "Completed")
        lines = [" ".join(process.cmdline()) for process in served.everyone()]
        written = [path for path in (*home.rglob("*"), *tmp_path.rglob("*")) if path.is_file()]
        assert len(written) > 10
        assert not [path for path in written if PASSWORD.encode() in path.read_bytes()]
        assert not [line for line in lines if PASSWORD in line]


def test_a_cancelled_run_leaves_no_process(served: Served, songs_folder: Path, tmp_path: Path) -> None:
    settings = settings_in(tmp_path, songs_folder)
    run, process = at_work(served, settings, 1)
    family = [process, *process.children(recursive=True)]
    with served.client() as client:
        client.set_flow_run_state(run.id, Cancelling())
    served.until_state(run, "Cancelled")
    assert psutil.wait_procs(family, timeout=5)[1] == []
    served.until_state(served.run("build-popdb/demo", settings), "Completed")
    assert "Failed to initialize plugins" not in served.said()
