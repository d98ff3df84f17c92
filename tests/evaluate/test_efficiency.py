import math
import mmap
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from samuel.config import Settings
from samuel.errors import InputError
from samuel.evaluate import cost as efficiency
from samuel.evaluate.cost import (
    TABLE_I,
    TABLE_II,
    TRACK_S,
    Peak,
    machine_name,
    measure,
    parameters_of,
    resident_bytes,
)
from samuel.model.unet import SamuelUNet, parameter_count

CPU = torch.device("cpu")
on_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells it there")


def test_the_median_counts_and_the_first_call_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    pauses = iter([8.0, 1.0, 4.0, 2.0])

    def render() -> None:
        now[0] += next(pauses)

    found = measure(render, 0.5, 3, CPU)
    assert list(pauses) == []
    assert found.seconds_per_track == 2.0
    assert found.real_time_factor == 4.0
    assert found.device == "cpu"


@pytest.mark.parametrize(("repeats", "track_s"), [(0, 1.0), (1, 0.0), (1, math.nan)])
def test_nothing_to_measure_is_refused(repeats: int, track_s: float) -> None:
    with pytest.raises(InputError, match="give at least 1"):
        measure(lambda: None, track_s, repeats, CPU)


def held_for_a_moment(size: int) -> None:
    """Take pages from the system: malloc would give what it keeps of earlier tests, resident already."""
    with mmap.mmap(-1, size) as pages:
        np.frombuffer(pages, np.uint8).fill(1)


@on_linux
def test_what_was_held_for_a_moment_counts_and_what_was_before_does_not() -> None:
    if Peak(CPU).memory != "of the process":
        pytest.skip("this kernel does not let the mark start anew")
    held_for_a_moment(2**29)
    before = psutil.Process().memory_info().rss
    idle = measure(lambda: None, 1.0, 1, CPU).peak_memory_bytes
    busy = measure(lambda: held_for_a_moment(2**28), 1.0, 1, CPU).peak_memory_bytes
    assert idle == pytest.approx(before, abs=2**26)
    assert busy == pytest.approx(before + 2**28, abs=2**26)


def test_a_mark_that_cannot_start_anew_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficiency, "CLEAR_REFS", tmp_path / "absent" / "clear_refs")
    peak = Peak(CPU)
    assert peak.memory == "of the process since it began"
    found = peak.bytes()
    assert found is not None
    assert found >= 0.9 * psutil.Process().memory_info().rss


def test_another_system_tells_its_own_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATUS", "CLEAR_REFS", "CPUINFO"):
        monkeypatch.setattr(efficiency, name, tmp_path / name)
    assert resident_bytes("VmRSS") is None
    peak = Peak(CPU)
    assert peak.memory == "of the process since it began"
    found = peak.bytes()
    assert found is not None
    assert 0.9 * psutil.Process().memory_info().rss <= found < psutil.virtual_memory().total
    assert machine_name(CPU)


@on_linux
def test_a_child_does_not_begin_with_what_its_parent_held() -> None:
    held = np.ones(2**30, np.uint8)
    code = "from samuel.evaluate.cost import *; import torch; print(Peak(torch.device('cpu')).bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 2**26 < int(done.stdout) < 2**30
    assert held[-1]


@on_linux
def test_resident_memory_is_that_of_psutil() -> None:
    assert resident_bytes("VmRSS") == pytest.approx(psutil.Process().memory_info().rss, rel=0.02)


@on_linux
def test_the_machine_has_a_name_and_cores() -> None:
    name, cores = machine_name(CPU).rsplit(", ", 1)
    models = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    assert name in models or not models
    assert cores == f"{torch.get_num_threads()} core{'s' * (torch.get_num_threads() > 1)}"


@pytest.mark.gpu
def test_the_memory_of_a_gpu_is_that_of_its_tensors() -> None:
    device = torch.device("cuda")
    found = measure(lambda: torch.ones(2**28, dtype=torch.uint8, device=device), 1.0, 2, device)
    assert found.memory == "of the GPU"
    assert found.peak_memory_bytes is not None
    assert 2**28 <= found.peak_memory_bytes < 2**29
    assert found.machine == torch.cuda.get_device_name(device)


def test_parameters_are_all_counted_once() -> None:
    first = nn.Linear(3, 4)
    frozen = nn.Linear(4, 5, bias=False).requires_grad_(False)
    assert parameters_of(nn.Sequential(first, frozen, first)) == 3 * 4 + 4 + 4 * 5
    network = SamuelUNet(Settings().model, Settings().diffusion)
    assert parameters_of(network) == parameter_count(network)


def test_the_papers_tables_are_those_of_the_paper() -> None:
    means = {row.system: list(row.by_axis().values()) for row in TABLE_I}
    assert means["SAMUeL"] == [5.73, 5.14, 2.93, 4.97]
    assert list(TABLE_I[0].by_axis()) == ["PQ", "PC", "CE", "CU"]
    assert all(1 <= value <= 10 for values in means.values() for value in values)
    slowest, ours = TABLE_II[0], TABLE_II[-1]
    assert (slowest.system, slowest.at_least) == ("Jukebox", True)
    assert (ours.system, ours.at_least) == ("SAMUeL", False)
    assert ours.real_time_factor == pytest.approx(21 / 47.55)
    assert abs(TRACK_S - 1024 * 2048 / 44100) < 0.01
