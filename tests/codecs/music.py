"""Something to encode."""

import torch
from torch import Tensor
from torch.nn import functional

from samuel.codecs.mel import HOP


def music(frames: int, seed: int = 0) -> Tensor:
    """(1, 2, S): notes of four harmonics, a new one every fifth of a second, over soft noise."""
    rng = torch.Generator().manual_seed(seed)
    note = torch.arange(frames * HOP) // 8820
    pitch = 110.0 * 2.0 ** (torch.randint(0, 36, (int(note.max()) + 1,), generator=rng) / 12)
    phase = 2 * torch.pi * torch.cumsum(pitch[note].double(), 0) / 44100
    tone = sum(torch.sin(h * phase).float() * 0.2 / h for h in range(1, 5))
    return (tone + 0.01 * torch.randn(1, 2, frames * HOP, generator=rng)).clamp(-1, 1)


def bf16_is_sound() -> bool:
    """Tell whether bf16 convolutions are right: oneDNN's for AMX are not at stride 8 with few channels."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=generator) for shape in ((1, 8, 2048), (16, 8, 16)))
    exact = functional.conv1d(x, weight, stride=8)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = functional.conv1d(x, weight, stride=8).float()
    return bool((rounded - exact).norm() < 0.05 * exact.norm())
