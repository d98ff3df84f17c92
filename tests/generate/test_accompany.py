import dataclasses

import numpy as np
import pytest
import torch

from samuel.audio import Audio
from samuel.checkpoint import TrainedModel, load_model
from samuel.codec import HOP, load_codec
from samuel.config import CodecConfig, SamplingConfig, Settings
from samuel.errors import CheckpointError, InputError, NotBuiltError
from samuel.generate import CHUNK_FRAMES, accompany, accompany_latents, mix
from samuel.popdb.shards import Popdb, write_popdb
from samuel.train import fit
from tests.popdb.latents import encoded_song, small_settings

CPU = torch.device("cpu")
CODEC = load_codec(CodecConfig(), CPU)
SAMPLING = SamplingConfig(steps=2)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return small_settings(tmp_path_factory.mktemp("run"), training={"steps": 3})


@pytest.fixture(scope="module")
def popdb(settings: Settings) -> Popdb:
    return write_popdb([encoded_song(settings.data, name) for name in "ab"], settings)


@pytest.fixture(scope="module")
def model(settings: Settings, popdb: Popdb) -> TrainedModel:
    entry = fit(popdb, settings, settings.artifacts / "run", lambda _: None)
    return dataclasses.replace(load_model(entry.folder, CPU), codec=CODEC.identity)


def voice(samples: int, level: float = 0.3) -> Audio:
    tone = level * np.sin(2 * np.pi * 220 * np.arange(samples) / 44_100)
    return np.stack([tone, tone]).astype(np.float32)


def test_an_accompaniment_is_as_long_as_its_vocal(model: TrainedModel) -> None:
    accompaniment = accompany(voice(100_001), model, CODEC, SAMPLING)
    assert accompaniment.shape == (2, 100_001)
    assert accompaniment.dtype == np.float32
    assert np.isfinite(accompaniment).all()
    assert np.abs(accompaniment).max() <= 1.0


def test_the_seed_and_nothing_else_chooses_the_take(model: TrainedModel, popdb: Popdb) -> None:
    vocal, _ = popdb.read(popdb.index[:1])
    takes = [accompany_latents(vocal, model, SamplingConfig(steps=2, seed=seed)) for seed in (0, 0, 1)]
    assert torch.equal(takes[0], takes[1])
    assert not torch.equal(takes[0], takes[2])


def test_latents_come_back_in_the_scale_of_the_codec(model: TrainedModel, popdb: Popdb) -> None:
    vocal, _ = popdb.read(popdb.index[:1])
    latents = accompany_latents(vocal, model, SamplingConfig(steps=20, guidance_scale=1.0))
    # The latents of this dataset have mean c in channel c (tests/popdb/latents.py).
    assert latents.mean(dim=(0, 2)).tolist() == pytest.approx(list(range(64)), abs=9.0)


def test_progress_is_reported(model: TrainedModel, popdb: Popdb) -> None:
    seen: list[tuple[int, int]] = []
    vocal, _ = popdb.read(popdb.index[:1])
    accompany_latents(vocal, model, SAMPLING, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_an_empty_vocal_is_refused(model: TrainedModel) -> None:
    with pytest.raises(InputError, match="no samples"):
        accompany(voice(0), model, CODEC, SAMPLING)


def test_a_vocal_with_nan_is_refused(model: TrainedModel) -> None:
    vocal = voice(1000)
    vocal[0, 10] = np.nan
    with pytest.raises(InputError, match="NaN"):
        accompany(vocal, model, CODEC, SAMPLING)


def test_a_vocal_longer_than_a_chunk_says_what_is_built(model: TrainedModel) -> None:
    with pytest.raises(NotBuiltError, match=r"47\.55 s"):
        accompany(voice(CHUNK_FRAMES * HOP + 1), model, CODEC, SAMPLING)


def test_another_codec_is_refused(model: TrainedModel) -> None:
    with pytest.raises(CheckpointError, match="the model learned latents of 'other/1'"):
        accompany(voice(1000), dataclasses.replace(model, codec="other/1"), CODEC, SAMPLING)


def test_a_mix_is_the_sum_and_never_clips() -> None:
    quiet = voice(100, 0.2)
    assert np.array_equal(mix(quiet, quiet), quiet + quiet)
    loud = mix(voice(44_100, 0.9), voice(44_100, 0.9))
    assert np.abs(loud).max() == pytest.approx(1.0)
