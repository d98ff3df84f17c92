import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from flows.service import supervision
from flows.service.processes import exit_words
from flows.service.supervision import Child, SupervisionError
from tests.flows.serving import ROOT, Served, serving, until

pytestmark = pytest.mark.timeout(600)  # a server boots four times


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("home")) as served:
        yield served


def healthy(served: Served) -> bool:
    try:
        return httpx.get(f"{served.environment['PREFECT_API_URL']}/health").json() is True
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize(("name", "words"), [("server", "server start"), ("worker", "prefect worker start")])
def test_who_is_killed_is_started_again(served: Served, name: str, words: str) -> None:
    first = served.child(words)
    first.kill()
    served.until_said(f"the {name} ended with SIGKILL; it starts again in 1 s")
    until(lambda: served.child(words).pid != first.pid and healthy(served), served.said)
    if name == "worker":
        served.until_said("Worker '.*' started", times=2)


def test_automation_and_deployments_are_registered(served: Served) -> None:
    with served.client() as client:
        (found,) = client.read_automations_by_name("samuel: runs without heartbeat")
        assert found.enabled
        assert {deployment.name for deployment in client.read_deployments()} >= {"build-popdb", "demo"}


def test_a_second_one_uses_the_server_of_the_first(served: Served) -> None:
    second = served.start("flows.serve")
    served.until_said("Prefect UI", times=2)
    children = [" ".join(child.cmdline()) for child in psutil.Process(second.pid).children()]
    second.send_signal(signal.SIGTERM)
    assert second.wait(timeout=60) == 0
    assert children
    assert not [line for line in children if "server start" in line]
    assert healthy(served)


def test_killed_it_takes_its_children_along_and_starts_again(tmp_path: Path, served: Served) -> None:
    left = served.everyone()
    assert len(left) >= 4  # server, worker with its fence, watch
    served.process.kill()
    served.process.wait()
    assert psutil.wait_procs(left, timeout=40)[1] == []
    served.process = served.start("flows.serve")
    served.until_said("Prefect UI", times=3)
    assert healthy(served)
    left = served.everyone()
    assert served.end() == 0
    assert psutil.wait_procs(left, timeout=1)[1] == []


def test_who_dies_again_and_again_is_given_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervision, "FIRST_PAUSE_S", 0.01)
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    child = Child("worker", lambda: subprocess.Popen(command, start_new_session=True), "its log")
    with pytest.raises(SupervisionError, match=r"worker died 5 times within 180 s.*exit code 3; see its log"):
        until(child.keep, lambda: "still alive")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0] == "the worker ended with exit code 3; it starts again in 0 s"


def test_who_nobody_waits_for_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "FIRST_PAUSE_S", 0.01)
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    start = lambda: subprocess.Popen(command, start_new_session=True)  # noqa: E731
    child = Child("page of reports", start, "its log", essential=False)

    def died_seven_times() -> bool:
        child.keep()
        return len(child.deaths) == 7

    until(died_seven_times, lambda: "still alive")
    child.end()


def test_nothing_is_left_of_what_stands_inside_a_fence(tmp_path: Path) -> None:
    """A worker that is killed leaves its flow runs, in sessions of their own; the fence ends them."""
    stray = "import time; print('here', flush=True); time.sleep(600)"
    worker = (
        "import subprocess, sys, os, signal\n"
        f"stray = subprocess.Popen([sys.executable, '-c', {stray!r}], start_new_session=True, stdout=-1)\n"
        "stray.stdout.readline()\n"
        "print(stray.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "flows.service.processes", sys.executable, "-c", worker],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert exit_words(done.returncode) == "SIGKILL"
    assert not psutil.pid_exists(int(done.stdout))


def test_nobody_is_started_before_what_it_needs_is_there() -> None:
    there: list[bool] = []
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    start = lambda: subprocess.Popen(command, start_new_session=True)  # noqa: E731
    child = Child("worker", start, "its log", needed=lambda: bool(there))
    child.keep()
    assert child.process is None
    there.append(True)
    child.keep()
    assert child.process
    child.end()
    assert child.process.returncode == -signal.SIGTERM
