import signal
import subprocess
import sys

import pytest

from flows.service import supervision
from flows.service.supervision import Child, SupervisionError
from tests.flows.serving import until


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
