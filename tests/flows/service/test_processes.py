import subprocess
import sys

import psutil

from flows.service.processes import exit_words
from tests.flows.serving import ROOT


def test_nothing_is_left_of_what_stands_inside_a_fence() -> None:
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
