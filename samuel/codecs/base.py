"""Songs of any length through a codec, in memory that does not grow with them.

A song goes through in stretches of a few of the codec's own windows, the same that it would be cut into
whole: nothing is computed twice, and nothing comes out differently. Legend: S samples at 44.1 kHz, T frames.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from samuel.audio import Audio

logger = logging.getLogger(__name__)


# What every codec is. Legend: B batch, S samples at 44.1 kHz, T latent frames.


HOP = 2048
LATENT_CHANNELS = 64
REACH = 8
"""Frames on either side on which a latent frame depends, at most, in any codec."""


class Codec(Protocol):
    """Stereo audio to latents and back; frame t stands for the samples [t · 2048, (t + 1) · 2048).

    Several threads may ask at a time.
    """

    @property
    def identity(self) -> str:
        """Short text that changes whenever the latents of the same audio would."""
        ...

    @property
    def window(self) -> int:
        """Frames that suit it best: a longer song is computed in windows of so many."""
        ...

    @property
    def decode_reach(self) -> int:
        """Frames on either side on which the samples of a frame depend, at most."""
        ...

    def encode(self, audio: Tensor) -> Tensor:
        """(B, 2, S) in [-1, 1] → (B, 64, ceil(S / 2048)), float32, on the device `audio` is on."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 64, T) → (B, 2, T · 2048), float32, on the device `latents` are on; may overshoot ±1."""
        ...

    def cancel(self) -> None:
        """End what other threads wait for, each with a StoppedError."""
        ...


def frame_count(samples: int) -> int:
    """Latent frames that cover `samples` samples."""
    return -(-samples // HOP)


def pad_to_frames(audio: Tensor) -> Tensor:
    """(…, S) → (…, ceil(S / 2048) · 2048), silence at the end."""
    samples = audio.shape[-1]
    return functional.pad(audio, (0, frame_count(samples) * HOP - samples))


# Are latents those of the codec at hand?


PUBLISHED = "published"
"""In the place of a codec's version and weights, where latents came without either."""


def made_by(stated: str, codec: Codec) -> bool:
    """True where latents of the identity `stated` are the codec's own.

    Published latents state the codec's name alone. They are taken for those of any codec of that name, with a
    warning: whether its weights made them shows only when they are decoded.
    """
    name, _, rest = stated.partition("/")
    believed = rest == PUBLISHED and codec.identity.partition("/")[0] == name
    if believed:
        logger.warning(
            "latents were published as those of %s, by weights unknown; they are taken for those of %s",
            name,
            codec.identity,
        )
    return believed or stated == codec.identity


WINDOWS = 4
"""Of a stretch: enough that a margin is little beside it."""


def encode_windows(codec: Codec, read: Callable[[int, int], Audio], samples: int) -> Tensor:
    """Latents of a song that is read as it is needed.

    They equal `codec.encode` of the whole, except where the settings ask for samples of the posterior: those
    are other samples, the same each time.

    Args:
        codec: Any.
        read: (start, stop) → the song's samples [start, stop), (2, stop - start) in [-1, 1].
        samples: S, of the whole song.

    Returns:
        (1, 64, ceil(S / 2048)) float32 on the CPU.
    """
    frames = frame_count(samples)
    latents = torch.empty(1, LATENT_CHANNELS, frames)
    for keep, stretch in stretches_of(frames, codec.window, REACH):
        audio = read(stretch.start * HOP, min(stretch.stop * HOP, samples))
        encoded = codec.encode(torch.tensor(audio)[None])
        first = keep.start - stretch.start
        latents[..., keep.start : keep.stop] = encoded[..., first : first + len(keep)]
    return latents


def decode_windows(codec: Codec, latents: Tensor, samples: int) -> Iterator[Audio]:
    """The first `samples` samples of `codec.decode` of the whole song, one stretch after the other.

    Args:
        codec: Any.
        latents: (1, 64, T), on any device.
        samples: At most T · 2048.

    Yields:
        (2, n) float32, `samples` in all; may overshoot ±1.
    """
    for keep, stretch in stretches_of(latents.shape[-1], codec.window, codec.decode_reach):
        wanted = min(keep.stop * HOP, samples) - keep.start * HOP
        if wanted <= 0:
            return
        decoded = codec.decode(latents[..., stretch.start : stretch.stop])
        first = (keep.start - stretch.start) * HOP
        yield decoded[0, :, first : first + wanted].cpu().numpy()


def stretches_of(frames: int, width: int, reach: int) -> list[tuple[range, range]]:
    """`windows_of` in groups of four: what to keep, and what to compute it from.

    Cut into windows of its own, a stretch gives those of the whole song again.
    """
    windows = windows_of(frames, width, reach)
    groups = [windows[first : first + WINDOWS] for first in range(0, len(windows), WINDOWS)]
    return [
        (range(group[0][0].start, group[-1][0].stop), range(group[0][1].start, group[-1][1].stop))
        for group in groups
    ]


def windows_of(frames: int, width: int, reach: int) -> list[tuple[range, range]]:
    """Successive stretches of frames to keep, each with the stretch to compute it from.

    What is computed is always `width` frames, or all of them where there are fewer, so that windows of
    different songs can share a batch; what is kept lies `reach` frames inside, or at an end of the song.
    """
    windows: list[tuple[range, range]] = []
    kept = 0
    while kept < frames:
        start = max(min(kept - reach, frames - width), 0)
        stop = min(start + width, frames)
        keep = range(kept, frames if stop == frames else stop - reach)
        windows.append((keep, range(start, stop)))
        kept = keep.stop
    return windows
