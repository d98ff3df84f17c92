"""Speeds on this machine, as ratios within one run: to a matrix product, or to the duration of the audio."""

from collections.abc import Iterator

import torch

from benchmarks.network import FRAMES, Work, fastest, gpu_rows, network_rows
from samuel.audio import SAMPLE_RATE
from samuel.codecs import load_codec
from samuel.config import CodecConfig, SeparatorConfig, Settings
from samuel.device import resolve_device
from samuel.separators import load_separator
from samuel.synthetic.song import compose


def machine_rows(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield (what, figure): the network against a 2048³ product, the embedded parts against real time."""
    device = resolve_device(settings.device)
    yield from network_rows(settings, device)
    if device.type == "cuda":
        yield from gpu_rows(settings, device)
    yield from audio_rows(device)


def audio_rows(device: torch.device) -> list[tuple[str, str]]:
    """The embedded separator and codec on a synthetic song, in seconds of audio per second."""
    song = compose(seed=0, index=0)
    codec = load_codec(CodecConfig(name="mel"), device)
    chunk = torch.from_numpy(song.mix[None, :, : codec.info.samples(FRAMES)])
    separator = load_separator(SeparatorConfig(name="repet"), device)
    latents = codec.encode(chunk)
    chunk_s = chunk.shape[-1] / SAMPLE_RATE
    return [
        ("repet", _real_time(lambda: separator.vocals(song.mix), song.duration_s, device)),
        ("mel, encode", _real_time(lambda: codec.encode(chunk), chunk_s, device)),
        ("mel, decode", _real_time(lambda: codec.decode(latents), chunk_s, device)),
    ]


def _real_time(work: Work, audio_s: float, device: torch.device) -> str:
    return f"{audio_s / fastest({'': work}, device, rounds=3)['']:.1f} × real time"
