import mmap
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from samuel.artifacts import Artifact, find_artifact
from samuel.checkpoint import load_model
from samuel.codecs import load_codec
from samuel.config import CodecConfig, Settings
from samuel.errors import InputError
from samuel.evaluate import cost
from samuel.evaluate.cost import (
    TABLE_I,
    TABLE_II,
    TRACK_S,
    Peak,
    make_cost,
    measure,
    measure_efficiency,
    stated_efficiency,
)
from samuel.evaluate.scores import AUDIOBOX, Evaluation
from samuel.evaluate.systems import Lineup, System, SystemRecord
from tests.models import small_model
from tests.popdb.latents import small_settings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    entry = find_artifact(small_model(tmp_path_factory.mktemp("model")))
    assert entry
    return entry


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return small_settings(tmp_path)


def test_a_track_of_the_papers_length_is_made_and_timed_once_for_model_and_settings(
    model: Artifact, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, lengths, vocals = load_codec(CodecConfig(), CPU), list[int](), list[int]()
    monkeypatch.setattr(cost, "REPEATS", 1)
    monkeypatch.setattr(cost, "TRACK_S", 6.0)  # the paper's 47.55 s take as long
    encode, decode = codec.encode, codec.decode
    monkeypatch.setattr(codec, "encode", lambda audio: vocals.append(audio.shape[-1]) or encode(audio))
    monkeypatch.setattr(codec, "decode", lambda latents: lengths.append(latents.shape[-1]) or decode(latents))

    def load() -> Any:
        return load_model(model.folder, CPU), codec

    found = make_cost(load, model, settings, tmp_path).record
    network = load_model(model.folder, CPU).network
    assert found["parameters"] == sum(weights.numel() for weights in network.parameters())
    assert found["track_s"] == 128 * 2048 / 44_100
    assert found["real_time_factor"] == pytest.approx(found["seconds_per_track"] / found["track_s"])
    assert (found["device"], found["peak_memory_bytes"] > 2 * 128 * 2048 * 4) == ("cpu", True)
    assert (lengths, vocals) == ([128] * 2, [128 * 2048] * 2)  # one before it counts
    assert make_cost(load, model, settings, tmp_path).record == found
    assert len(lengths) == 2


on_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells it there")


def test_the_median_counts_and_the_first_call_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    pauses = iter([8.0, 1.0, 4.0, 2.0])

    def render() -> None:
        now[0] += next(pauses)

    found = measure(render, 0.5, 3, CPU)
    assert list(pauses) == []
    assert found["seconds_per_track"] == 2.0
    assert found["real_time_factor"] == 4.0
    assert found["device"] == "cpu"


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
    idle = measure(lambda: None, 1.0, 1, CPU)["peak_memory_bytes"]
    busy = measure(lambda: held_for_a_moment(2**28), 1.0, 1, CPU)["peak_memory_bytes"]
    assert idle == pytest.approx(before, abs=2**26)
    assert busy == pytest.approx(before + 2**28, abs=2**26)


@pytest.mark.gpu
def test_the_memory_of_a_gpu_is_that_of_its_tensors() -> None:
    device = torch.device("cuda")
    found = measure(lambda: torch.ones(2**28, dtype=torch.uint8, device=device), 1.0, 2, device)
    assert found["memory"] == "of the GPU"
    assert found["peak_memory_bytes"] is not None
    assert 2**28 <= found["peak_memory_bytes"] < 2**29
    assert found["machine"] == torch.cuda.get_device_name(device)


def other_system(**record: Any) -> System:
    return System("Other", {n: Path(f"{n}.flac") for n in "abc"}, SystemRecord.model_validate(record))


def test_a_stated_time_is_the_median_over_tracks_of_any_length(settings: Settings, tmp_path: Path) -> None:
    tracks = {
        "a": {"seconds": 30.0, "duration_s": 10.0},
        "b": {"seconds": 20.0, "duration_s": 10.0},
        "c": {"seconds": 2.0, "duration_s": 2.0},
        "elsewhere": {"seconds": 1.0, "duration_s": 1000.0},
    }
    stated = other_system(parameters=7, device="cpu", tracks=tracks)
    row = stated_efficiency(stated)
    assert row
    assert row["real_time_factor"] == 2.0
    assert row["seconds_per_track"] == pytest.approx(95.1)
    assert (row["parameters"], row["device"], row["tracks"], row["machine"]) == (7, "cpu", 3, None)
    assert row["source"] == "stated"
    assert "seconds_per_track" not in (stated_efficiency(other_system(parameters=7)) or {})
    assert stated_efficiency(System("Other", {})) is None
    lineup = Lineup((), (stated, System("Silent", {})))
    costs = {"SAMUeL": {"tracks": 1}}
    found = measure_efficiency(Evaluation(lineup, 0, settings.evaluation, tmp_path, costs))
    assert found.by_system == {"efficiency": {"Other": row, **costs}}
    with pytest.raises(InputError, match="no system states what it cost"):
        measure_efficiency(Evaluation(Lineup((), ()), 0, settings.evaluation, tmp_path))


def test_the_papers_tables_are_those_of_the_paper() -> None:
    assert list(TABLE_I["SAMUeL"].values()) == [5.73, 5.14, 2.93, 4.97]
    assert all(tuple(row) == AUDIOBOX for row in TABLE_I.values())
    assert [name for name, row in TABLE_II.items() if row["at_least"]] == ["Jukebox"]
    assert TABLE_II["SAMUeL"]["real_time_factor"] == pytest.approx(21 / 47.55)
    assert abs(TRACK_S - 1024 * 2048 / 44100) < 0.01
