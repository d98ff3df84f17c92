"""Griffin-Lim for half-overlapping frames against torchaudio's, and how far a frame is heard."""

import pytest
import torch
from torch import Tensor
from torchaudio.functional import griffinlim

from samuel.codecs.mel import BLOCK, griffin_lim
from tests.codecs.music import music

HOP = 64
WINDOW = torch.hann_window(2 * HOP)


def magnitude(frames: int, seed: int = 0) -> Tensor:
    """(2, frames, 65), no spectrum of any signal."""
    return torch.rand(2, frames, HOP + 1, generator=torch.Generator().manual_seed(seed))


def spectrum(samples: Tensor) -> Tensor:
    """(B, (T + 1) · 64) → (B, T, 65)."""
    return torch.stft(samples, 2 * HOP, HOP, window=WINDOW, center=False, return_complex=True).abs().mT


@pytest.mark.parametrize("rounds", [0, 1, 5])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("frames", [BLOCK - 1, 2 * BLOCK + 3])
def test_equals_torchaudios_inside(rounds: int, momentum: float, frames: int) -> None:
    target = magnitude(frames)
    theirs = griffinlim(
        target.mT, WINDOW, 2 * HOP, HOP, 2 * HOP, power=1.0, n_iter=rounds, momentum=momentum,
        length=(frames - 1) * HOP, rand_init=False,
    )  # fmt: skip
    ours = griffin_lim(target, WINDOW, rounds, momentum)[:, 1:-1].flatten(1)
    inside = slice((rounds + 1) * HOP, -(rounds + 1) * HOP)  # the two treat the ends differently
    assert torch.allclose(ours[:, inside], theirs[:, inside], atol=1e-4 * float(theirs.std()))


def test_finds_a_signal_of_these_magnitudes() -> None:
    target = spectrum(music(4)[0, :, : 200 * HOP])
    errors = [
        float((spectrum(griffin_lim(target, WINDOW, rounds, 0.9).flatten(1)) - target).norm() / target.norm())
        for rounds in (0, 32)
    ]
    assert errors[1] < 0.15
    assert errors[1] < 0.5 * errors[0]


def test_a_frame_is_heard_within_rounds_and_one_more() -> None:
    rounds, frames, changed = 4, 40, 20
    one = magnitude(frames)
    other = one.clone()
    other[:, changed] *= 2.0
    heard = griffin_lim(one, WINDOW, rounds, 0.9) - griffin_lim(other, WINDOW, rounds, 0.9)
    hops = heard.abs().amax(dim=(0, 2)).nonzero().flatten()
    # Frame t covers the hops t and t + 1, and each round adds one frame on either side.
    assert hops.tolist() == list(range(changed - rounds, changed + rounds + 2))


def test_silence_stays_silent() -> None:
    assert griffin_lim(torch.zeros(1, 3, HOP + 1), WINDOW, 3, 0.9).abs().max() == 0.0


def test_items_of_a_batch_do_not_touch() -> None:
    both = magnitude(9)
    alone = griffin_lim(both[1:], WINDOW, 3, 0.9)
    assert torch.allclose(griffin_lim(both, WINDOW, 3, 0.9)[1:], alone, atol=1e-6)
