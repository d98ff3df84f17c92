import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from samuel.checkpoint import TrainedModel
from samuel.codecs.base import Codec
from samuel.config import SamplingConfig
from samuel.errors import CheckpointError
from samuel.generate import accompany, accompany_latents, mix
from samuel.model.sample import Kept
from tests.generate.voices import voice

SAMPLING = SamplingConfig(steps=2)


@pytest.mark.parametrize("samples", [9, 64 * 2048 + 1, 441_001])
def test_an_accompaniment_is_as_long_as_its_vocal(samples: int, model: TrainedModel, codec: Codec) -> None:
    accompaniment = accompany(voice(samples), model, codec, SAMPLING)
    assert accompaniment.shape == (2, samples)
    assert accompaniment.dtype == np.float32
    assert np.isfinite(accompaniment).all()
    assert np.abs(accompaniment).max() <= 1.0


def test_latents_come_back_in_the_scale_of_the_codec(model: TrainedModel) -> None:
    vocal = torch.randn(1, 64, 64) - 3
    latents = accompany_latents(vocal, model, SamplingConfig(steps=20, guidance_scale=1.0))
    # Those it was trained on have mean -3 and deviation 3 (tests/models.py).
    assert latents.mean().item() == pytest.approx(-3, abs=1)
    assert 1 < latents.std().item() < 9


def test_kept_latents_are_those_of_the_codec(model: TrainedModel) -> None:
    x0, mask = 5 * torch.randn(1, 64, 300) + 20, torch.arange(300) < 100
    latents = accompany_latents(torch.randn(1, 64, 300), model, SamplingConfig(), kept=Kept(x0, mask))
    torch.testing.assert_close(latents[..., :100], x0[..., :100], atol=0.02, rtol=1e-3)
    assert (latents[..., 100:] - x0[..., 100:]).abs().mean() > 1


def test_another_codec_is_refused_before_anything_is_read(model: TrainedModel, codec: Codec) -> None:
    with pytest.raises(CheckpointError, match="the model learned latents of other/"):
        accompany(
            Path("absent.wav"),
            dataclasses.replace(model, codec=codec.info.model_copy(update={"name": "other"})),
            codec,
            SAMPLING,
        )


def test_a_mix_is_the_sum_and_never_clips() -> None:
    quiet = voice(100, 0.2)
    assert np.array_equal(mix(quiet, quiet), quiet + quiet)
    loud = mix(voice(44_100, 0.9), voice(44_100, 0.9))
    assert np.abs(loud).max() == pytest.approx(1.0)
