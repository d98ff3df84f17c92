from pathlib import Path

import pytest
import torch

from benchmarks import machine
from tests.popdb.latents import small_settings


@pytest.mark.parametrize(("device", "measured"), [("cpu", False), ("cuda", True)])
def test_what_needs_a_gpu_is_measured_on_a_gpu_alone(
    device: str, measured: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "resolve_device", lambda _: torch.device(device))
    for rows in ("network_rows", "gpu_rows"):
        monkeypatch.setattr(machine, rows, lambda *_, rows=rows: [(rows, "")])
    monkeypatch.setattr(machine, "audio_rows", lambda _: [("audio_rows", "")])
    names = [name for name, _ in machine.machine_rows(small_settings(tmp_path))]
    assert names == ["network_rows", *(["gpu_rows"] if measured else []), "audio_rows"]
