"""Batches and windows against the libraries' own loops, on the same networks of full size: error and time."""

from collections.abc import Iterator
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Figure, Work, seconds
from benchmarks.pipeline import music
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


def rows(settings: Settings, *, bf16: bool | None = None) -> Iterator[Figure]:
    """Yield (what, figure): the largest deviation over the result's own, and time over the library's.

    bf16 too, which takes minutes on most CPUs, if asked for; none: on a GPU.
    """
    device = resolve_device(settings.device)
    mix = music(PUBLISHED_INFO.duration_s(FRAMES[device.type]))
    demucs, audio = random_htdemucs(), torch.from_numpy(mix)[None]
    autoencoder = random_autoencoder().to(device)

    def separated(precision: Precision) -> Work:
        separator = DemucsSeparator(demucs, "random", device, precision=precision)
        return lambda: torch.from_numpy(separator.vocals(mix))

    def encoded(precision: Precision) -> Work:
        config = CodecConfig(name="stable-audio-open", precision=precision)
        codec = StableAudioCodec(random_autoencoder(), "random", device, config)
        return lambda: codec.encode(audio)

    def one_pass() -> Tensor:
        with inference(device, "fp32"):
            return autoencoder.encode(audio.to(device)).latent_dist.mean.cpu()

    for what, against, ours, theirs in (
        ("separation", "apply_model", separated, lambda: apply_model_vocals(demucs, mix, device)),
        ("encoding", "one pass", encoded, one_pass),
    ):
        exact = ours("fp32")
        result: Any = exact()
        expected = theirs()
        deviation = float((result - expected).abs().max() / expected.std())
        times = [(seconds(exact), seconds(theirs)) for _ in range(ROUNDS)]  # in turns; both end on the CPU
        our_s, their_s = (median(column) for column in zip(*times, strict=True))
        yield f"{what} against {against}", f"differs by {deviation:.1e}, {our_s / their_s:.2f} × its time"
        if device.type == "cuda" if bf16 is None else bf16:
            rounded: Any = ours("bf16")()
            yield f"{what} in bf16", f"{float((rounded - result).norm() / result.norm()):.2%} error"


def apply_model_vocals(network: Any, mix: Audio, device: torch.device) -> Tensor:
    """(2, S) → vocals (2, S) by demucs' own loop, one segment after the other, normalised as its API does."""
    with quietly():
        from demucs.apply import apply_model

    wave = torch.from_numpy(mix)
    middle = wave.mean(0)
    mean, deviation = middle.mean(), middle.std() + 1e-8
    normal = ((wave - mean) / deviation)[None]
    with inference(device, "fp32"):
        stems = apply_model(network, normal, shifts=0, overlap=OVERLAP, device=device)[0]
    return stems[network.sources.index(SOURCE)] * deviation + mean
