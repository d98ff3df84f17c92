"""Global concurrency limits on a real server: over threads, flow runs and processes."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from prefect.client.orchestration import get_client

from flows.tasks import create_limit, gpu_slot, slot
from samuel.config import Settings, parse

ROOT = Path(__file__).resolve().parent.parent.parent
# Holds a slot of the limit and writes when it had it.
HOLDER = """
import sys, time
from pathlib import Path
from flows.tasks import slot
name, out, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
with slot(name):
    begin = time.time()
    out.with_suffix(".holds").touch()
    time.sleep(seconds)
    out.write_text(f"{begin} {time.time()}")
"""


def holder(server: str, name: str, out: Path, seconds: float) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PREFECT_API_URL": server, "PREFECT_LOGGING_LEVEL": "ERROR"}
    command = [sys.executable, "-c", HOLDER, name, str(out), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, env=environment)


def active(name: str) -> int:
    with get_client(sync_client=True) as client:
        return client.read_global_concurrency_limit_by_name(name).active_slots


def test_a_limit_holds_over_processes(server: str, tmp_path: Path) -> None:
    processes = [holder(server, "samuel-test-two", tmp_path / str(n), 1.0) for n in range(3)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    times = sorted(tuple(map(float, (tmp_path / str(n)).read_text().split())) for n in range(3))
    assert all(end <= begin for (_, end), (begin, _) in pairwise(times))
    assert active("samuel-test-two") == 0


def test_more_slots_let_more_in(server: str, tmp_path: Path) -> None:
    create_limit("samuel-test-wide", slots=2)
    create_limit("samuel-test-wide")  # whoever changed it knew why
    with slot("samuel-test-wide"), slot("samuel-test-wide"):
        assert active("samuel-test-wide") == 2


def test_a_cpu_is_shared(server: str) -> None:
    with gpu_slot(parse({"device": "cpu"})), get_client(sync_client=True) as client:
        assert not [c for c in client.read_global_concurrency_limits() if c.name.startswith("samuel-gpu")]


def test_a_gpu_belongs_to_one_task_by_whatever_name_it_is_called(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.tasks.resolve_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda n: SimpleNamespace(uuid="AB"[n]))
    with gpu_slot(Settings()):
        assert active("samuel-gpu-B") == 1
    with gpu_slot(Settings(), gpus=2):
        assert (active("samuel-gpu-A"), active("samuel-gpu-B")) == (1, 1)
    assert (active("samuel-gpu-A"), active("samuel-gpu-B")) == (0, 0)
