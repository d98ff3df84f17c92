"""What every codec is. Legend: B batch, S samples at 44.1 kHz, T latent frames."""

from typing import Protocol

from torch import Tensor
from torch.nn import functional

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
