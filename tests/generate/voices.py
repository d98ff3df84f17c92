"""Vocals for tests."""

import numpy as np

from samuel.audio import Audio


def voice(samples: int, level: float = 0.3) -> Audio:
    """A tone that breathes, (2, samples)."""
    time = np.arange(samples) / 44_100
    tone = level * np.sin(2 * np.pi * 220 * time) * (0.6 + 0.4 * np.sin(2 * np.pi * 0.7 * time))
    return np.stack([tone, tone]).astype(np.float32)
