"""Something to encode."""

import torch
from torch import Tensor

from samuel.codecs.mel import HOP


def music(frames: int, seed: int = 0) -> Tensor:
    """(1, 2, S): notes of four harmonics, a new one every fifth of a second, over soft noise."""
    rng = torch.Generator().manual_seed(seed)
    note = torch.arange(frames * HOP) // 8820
    pitch = 110.0 * 2.0 ** (torch.randint(0, 36, (int(note.max()) + 1,), generator=rng) / 12)
    phase = 2 * torch.pi * torch.cumsum(pitch[note].double(), 0) / 44100
    tone = sum(torch.sin(h * phase).float() * 0.2 / h for h in range(1, 5))
    return (tone + 0.01 * torch.randn(1, 2, frames * HOP, generator=rng)).clamp(-1, 1)
