"""Phases for magnitudes: Griffin-Lim for frames that overlap by half.

torchaudio's does the same in a dozen passes over memory per round, and takes four times as long.
Legend: B batch, T frames, H hop, half a frame.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

BLOCK = 128
"""Frames at a time, so that what lies between two steps of a round stays in the processor's cache."""
TINY = 1e-32
"""Least squared magnitude whose phase is believed: the silent keep theirs finite."""


def griffin_lim(magnitude: Tensor, window: Tensor, rounds: int, momentum: float) -> Tensor:
    """Samples whose short-time spectrum has nearly these magnitudes; the first phases are zero.

    Source: Perraudin, Balazs and Søndergaard, "A fast Griffin-Lim algorithm" (2013), α = `momentum`. Each
    round carries what a frame holds one frame further, and the sum at the end into the half that it shares
    with the next: two windows of one song agree wherever `rounds` + 1 frames on either side are the same.

    Args:
        magnitude: (B, T, H + 1). Frame t covers the hops t and t + 1.
        window: (2 H), of analysis and synthesis alike.
        rounds: Corrections of the phases.
        momentum: At 0, the algorithm of Griffin and Lim (1984).

    Returns:
        (B, T + 1, H); the first hop and the last, which one frame alone covers, fade.
    """
    hop = len(window) // 2
    synthesis = window / window.square().view(2, hop).sum(0).repeat(2)
    previous = torch.zeros(magnitude.shape, dtype=torch.complex64, device=magnitude.device)
    signal = magnitude.new_zeros(magnitude.shape[0], magnitude.shape[1] + 1, hop)
    _overlap_add(signal, (part.to(torch.complex64) for part in magnitude.split(BLOCK, dim=1)), synthesis)
    for _ in range(rounds):
        spectra = _corrected(signal, magnitude, previous, window, momentum)
        signal = _overlap_add(torch.zeros_like(signal), spectra, synthesis)
    return signal


def _corrected(
    signal: Tensor, magnitude: Tensor, previous: Tensor, window: Tensor, momentum: float
) -> Iterator[Tensor]:
    """The magnitudes with the phases of `signal`'s own spectrum, pushed on; that goes into `previous`.

    The sum of equation 2, c + α (c − previous c), is divided by 1 + α: its phase is all that counts.
    """
    start = 0
    for target, last in zip(magnitude.split(BLOCK, dim=1), previous.split(BLOCK, dim=1), strict=True):
        stop = start + target.shape[1]
        samples = signal[:, start : stop + 1].flatten(1)
        rebuilt = torch.fft.rfft(samples.unfold(-1, len(window), signal.shape[-1]) * window)
        spectrum = torch.sub(rebuilt, last, alpha=momentum / (1 + momentum))
        last.copy_(rebuilt)
        squares = torch.view_as_real(spectrum).square()
        spectrum *= (squares[..., 0] + squares[..., 1]).add_(TINY).rsqrt_().mul_(target)
        yield spectrum
        start = stop


def _overlap_add(signal: Tensor, spectra: Iterable[Tensor], synthesis: Tensor) -> Tensor:
    """Add to `signal` (B, T + 1, H) the frames of successive spectra (B, ·, H + 1)."""
    start = 0
    for spectrum in spectra:
        frames = torch.fft.irfft(spectrum, n=len(synthesis)).mul_(synthesis)
        first, second = frames.chunk(2, dim=-1)
        stop = start + frames.shape[1]
        signal[:, start:stop] += first
        signal[:, start + 1 : stop + 1] += second
        start = stop
    return signal
