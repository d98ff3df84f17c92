"""Batches and windows against the libraries' own loops, on the same networks of full size: error and time."""

from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.clock import seconds
from benchmarks.pipeline import Row, music
from benchmarks.weights import random_autoencoder, random_htdemucs
from samuel.audio import Audio
from samuel.codecs.stable_audio_open import PUBLISHED_INFO, StableAudioCodec
from samuel.config import CodecConfig, Precision, Settings
from samuel.device import inference, resolve_device
from samuel.hub import quietly
from samuel.separators.demucs import OVERLAP, SOURCE, DemucsSeparator

FRAMES = {"cpu": 528, "cuda": 4030, "mps": 528}
"""Latent frames: two whole windows, or sixteen and 32 segments, which fill a GPU's batches."""

ROUNDS = 3


def exactness_rows(settings: Settings, *, bf16: bool | None = None) -> Iterator[Row]:
    """Yield (what, figure): the largest deviation over the result's own, and time over the library's.

    Args:
        settings: device.
        bf16: Whether to measure bf16, which takes minutes on most CPUs; none: on a GPU.
    """
    device = resolve_device(settings.device)
    mix = music(PUBLISHED_INFO.duration_s(FRAMES[device.type]))
    rounded = device.type == "cuda" if bf16 is None else bf16
    yield from _separation(mix, device, bf16=rounded)
    yield from _encoding(mix, device, bf16=rounded)


def _separation(mix: Audio, device: torch.device, *, bf16: bool) -> Iterator[Row]:
    network = random_htdemucs()
    separator = DemucsSeparator(network, "random", device)

    def ours() -> Tensor:
        return torch.from_numpy(separator.vocals(mix))

    yield "separation against apply_model", _compared(ours, lambda: apply_model_vocals(network, mix, device))
    if bf16:
        rounded = DemucsSeparator(network, "random", device, precision="bf16")
        yield "separation in bf16", f"{_error(torch.from_numpy(rounded.vocals(mix)), ours()):.2%} error"


def _encoding(mix: Audio, device: torch.device, *, bf16: bool) -> Iterator[Row]:
    audio, network = torch.from_numpy(mix)[None], random_autoencoder().to(device)

    def one_pass() -> Tensor:
        with inference(device, "fp32"):
            return network.encode(audio.to(device), skip_bottleneck=True).chunk(2, dim=1)[0].cpu()

    def codec(precision: Precision) -> StableAudioCodec:
        config = CodecConfig(name="stable-audio-open", precision=precision)
        return StableAudioCodec(random_autoencoder(), "random", device, config)

    exact = codec("fp32")
    yield "encoding against one pass", _compared(lambda: exact.encode(audio), one_pass)
    if bf16:
        yield "encoding in bf16", f"{_error(codec('bf16').encode(audio), exact.encode(audio)):.2%} error"


def apply_model_vocals(network: Any, mix: Audio, device: torch.device) -> Tensor:
    """(2, S) → vocals (2, S) by demucs' own loop, one segment after the other, normalised as its API does."""
    with quietly():
        from demucs.apply import apply_model

    wave = torch.from_numpy(mix)
    middle = wave.mean(0)
    mean, deviation = middle.mean(), middle.std() + 1e-8
    with inference(device, "fp32"):
        stems = apply_model(
            network, ((wave - mean) / deviation)[None], shifts=0, overlap=OVERLAP, device=device
        )[0]
    return stems[network.sources.index(SOURCE)] * deviation + mean


def _compared(ours: Callable[[], Tensor], theirs: Callable[[], Tensor]) -> str:
    """In turns, after one that does not count; both end on the CPU, so that a GPU is waited for."""
    result, expected = ours(), theirs()
    deviation = float((result - expected).abs().max() / expected.std())
    times = [(seconds(ours), seconds(theirs)) for _ in range(ROUNDS)]
    our_s, their_s = (median(column) for column in zip(*times, strict=True))
    return f"differs by {deviation:.1e}, {our_s / their_s:.2f} × its time"


def _error(rounded: Tensor, exact: Tensor) -> float:
    return float((rounded - exact).norm() / exact.norm())
