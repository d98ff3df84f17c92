"""A vocal on disk → its latents. Shapes: C = 64 latent channels, T frames, S samples at 44.1 kHz."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from samuel.audio import Audio
from samuel.codec import HOP, Codec
from samuel.codec.windows import encode_windows
from samuel.generate.vocal import Vocal


def encoded(
    vocal: Vocal, codec: Codec, least_frames: int, on_read: Callable[[int, int], object] | None = None
) -> Tensor:
    """Codec latents of a vocal, a stretch at a time.

    Args:
        vocal: The vocal; one that is shorter than `least_frames` goes on in silence.
        codec: Any.
        least_frames: T at least.
        on_read: Called with (samples read, samples in all) before every stretch is encoded.

    Returns:
        (1, C, T) on the CPU.
    """
    samples = max(vocal.samples, least_frames * HOP)

    def read(start: int, stop: int) -> Audio:
        if on_read is not None:
            on_read(stop, samples)
        return _padded(vocal, start, stop)

    return encode_windows(codec, read, samples)


def _padded(vocal: Vocal, start: int, stop: int) -> Audio:
    """(2, stop - start) of a vocal, silent after its end."""
    sung = vocal.read(start, min(stop, vocal.samples)) if start < vocal.samples else np.zeros((2, 0))
    return np.pad(sung, ((0, 0), (0, stop - start - sung.shape[1]))).astype(np.float32)
