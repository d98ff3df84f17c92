"""The embedded codec: spectrum kept, deterministic, mono, every frame its own samples; and Griffin-Lim for
half-overlapping frames against torchaudio's, and how far a frame is heard."""

import pytest
import torch
from torch import Tensor
from torchaudio.functional import griffinlim

from samuel.codecs import load_codec
from samuel.codecs.base import Codec
from samuel.codecs.mel import BLOCK, HOP, griffin_lim
from samuel.config import CodecConfig
from tests.codecs.music import music

STEP = 64
WINDOW = torch.hann_window(2 * STEP)


def magnitude(frames: int, seed: int = 0) -> Tensor:
    """(2, frames, 65), no spectrum of any signal."""
    return torch.rand(2, frames, STEP + 1, generator=torch.Generator().manual_seed(seed))


def spectrum(samples: Tensor) -> Tensor:
    """(B, (T + 1) · 64) → (B, T, 65)."""
    return torch.stft(samples, 2 * STEP, STEP, window=WINDOW, center=False, return_complex=True).abs().mT


@pytest.mark.parametrize(("rounds", "momentum"), [(0, 0.9), (1, 0.0), (5, 0.9)])
@pytest.mark.parametrize("frames", [BLOCK - 1, 2 * BLOCK + 3])
def test_equals_torchaudios_inside(rounds: int, momentum: float, frames: int) -> None:
    target = magnitude(frames)
    theirs = griffinlim(
        target.mT, WINDOW, 2 * STEP, STEP, 2 * STEP, power=1.0, n_iter=rounds, momentum=momentum,
        length=(frames - 1) * STEP, rand_init=False,
    )  # fmt: skip
    ours = griffin_lim(target, WINDOW, rounds, momentum)[:, 1:-1].flatten(1)
    inside = slice((rounds + 1) * STEP, -(rounds + 1) * STEP)  # the two treat the ends differently
    assert torch.allclose(ours[:, inside], theirs[:, inside], atol=1e-4 * float(theirs.std()))


def test_a_frame_is_heard_within_rounds_and_one_more() -> None:
    rounds, frames, changed = 4, 40, 20
    one = magnitude(frames)
    other = one.clone()
    other[:, changed] *= 2.0
    heard = griffin_lim(one, WINDOW, rounds, 0.9) - griffin_lim(other, WINDOW, rounds, 0.9)
    hops = heard.abs().amax(dim=(0, 2)).nonzero().flatten()
    # Frame t covers the hops t and t + 1, and each round adds one frame on either side.
    assert hops.tolist() == list(range(changed - rounds, changed + rounds + 2))


@pytest.fixture(scope="module")
def mel() -> Codec:
    return load_codec(CodecConfig(), torch.device("cpu"))


def test_mel_round_trip_keeps_the_spectrum(mel: Codec) -> None:
    latents = mel.encode(music(128))
    again = mel.encode(mel.decode(latents))
    assert (again - latents).abs().mean() < 0.25
    loud = latents > -4
    assert (again - latents)[loud].abs().mean() < 0.12


def test_mel_of_silence_is_finite_and_decodes_to_silence(mel: Codec) -> None:
    latents = mel.encode(torch.zeros(1, 2, 8 * HOP))
    assert torch.isfinite(latents).all()
    assert mel.decode(latents).abs().max() < 1e-6
