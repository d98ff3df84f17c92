"""The embedded codec: spectrum kept, deterministic, mono, every frame its own samples."""

import pytest
import torch

from samuel.codecs import load_codec
from samuel.codecs.base import Codec
from samuel.codecs.mel import HOP
from samuel.config import CodecConfig
from tests.codecs.music import music


@pytest.fixture(scope="module")
def mel() -> Codec:
    return load_codec(CodecConfig(), torch.device("cpu"))


def test_mel_round_trip_keeps_the_spectrum(mel: Codec) -> None:
    latents = mel.encode(music(128))
    again = mel.encode(mel.decode(latents))
    assert (again - latents).abs().mean() < 0.25
    loud = latents > -4
    assert (again - latents)[loud].abs().mean() < 0.12


def test_mel_is_deterministic_and_leaves_the_generator_alone(mel: Codec) -> None:
    latents = mel.encode(music(16))
    state = torch.get_rng_state()
    assert torch.equal(mel.decode(latents), mel.decode(latents))
    assert torch.equal(torch.get_rng_state(), state)


def test_mel_of_silence_is_finite_and_decodes_to_silence(mel: Codec) -> None:
    latents = mel.encode(torch.zeros(1, 2, 8 * HOP))
    assert torch.isfinite(latents).all()
    assert mel.decode(latents).abs().max() < 1e-6


def test_mel_frame_holds_its_own_samples(mel: Codec) -> None:
    audio = torch.zeros(1, 2, 12 * HOP)
    audio[..., 5 * HOP + HOP // 2] = 1.0
    assert int(mel.encode(audio)[0].sum(0).argmax()) == 5


def test_mel_is_mono(mel: Codec) -> None:
    decoded = mel.decode(mel.encode(music(8)))
    assert torch.equal(decoded[:, 0], decoded[:, 1])
