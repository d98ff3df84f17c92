"""Vocals for tests."""

import numpy as np

from samuel.audio import Audio


def voice(samples: int, level: float = 0.3) -> Audio:
    """A tone that breathes, (2, samples)."""
    time = np.arange(samples) / 44_100
    tone = level * np.sin(2 * np.pi * 220 * time) * (0.6 + 0.4 * np.sin(2 * np.pi * 0.7 * time))
    return np.stack([tone, tone]).astype(np.float32)


class HalfSeparator:
    """Takes half of a mix for its vocals, or another part."""

    identity = "half/1"

    def __init__(self, factor: float = 0.5) -> None:
        self.factor = factor

    def vocals(self, mix: Audio) -> Audio:
        return mix * np.float32(self.factor)

    def cancel(self) -> None:
        pass
