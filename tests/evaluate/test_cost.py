from pathlib import Path

import pytest
import torch

from samuel.artifacts import Artifact, find_artifact
from samuel.audio import SAMPLE_RATE
from samuel.checkpoint import load_model
from samuel.codecs import load_codec
from samuel.codecs.base import HOP
from samuel.config import CodecConfig, Settings
from samuel.evaluate import cost
from samuel.evaluate.cost import FRAMES, make_cost
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


def test_a_track_of_the_papers_length_is_made_and_timed(
    model: Artifact, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, lengths = load_codec(CodecConfig(), CPU), []
    decode = codec.decode
    monkeypatch.setattr(codec, "decode", lambda latents: lengths.append(latents.shape[-1]) or decode(latents))
    found = make_cost(lambda: (load_model(model.folder, CPU), codec), model, settings, tmp_path).record
    network = load_model(model.folder, CPU).network
    assert found["parameters"] == sum(weights.numel() for weights in network.parameters())
    assert found["track_s"] == pytest.approx(47.55, abs=0.01)
    assert found["real_time_factor"] == pytest.approx(found["seconds_per_track"] / found["track_s"])
    assert found["seconds_per_track"] > 0
    assert found["device"] == "cpu"
    assert found["peak_memory_bytes"] > 2 * FRAMES * HOP * 4
    assert lengths == [FRAMES] * 4  # one before it counts
    assert found["track_s"] == FRAMES * HOP / SAMPLE_RATE


def test_it_is_measured_once_for_model_and_settings(
    model: Artifact, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "FRAMES", 64)
    loaded = []

    def load():  # noqa: ANN202
        loaded.append(1)
        return load_model(model.folder, CPU), load_codec(CodecConfig(), CPU)

    first = make_cost(load, model, settings, tmp_path)
    assert make_cost(load, model, settings, tmp_path).record == first.record
    other = settings.model_copy(update={"sampling": settings.sampling.model_copy(update={"steps": 2})})
    make_cost(load, model, other, tmp_path)
    assert len(loaded) == 2
