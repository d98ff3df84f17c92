"""The forward process and the objective (paper §IV-C, §V).

Shapes: B batch, C channels, T frames; t is int64 (B,), 0 the least noise.
"""

from math import pi

import torch
from torch import Tensor, nn

from samuel.config import LossWeight

MAX_BETA = 0.999  # the cap of Nichol and Dhariwal and of diffusers: β would reach 1 at the last step


class CosineSchedule(nn.Module):
    """Cosine noise schedule (paper §V: 800 steps, s = 0.008).

        f(u) = cos²((u + s) / (1 + s) · π/2),   β_t = min(1 - f((t + 1)/N) / f(t/N), 0.999),   ᾱ_t = Π (1 - β)

    Each is (N,), computed in float64 and kept in a float32 buffer outside the state dict: no checkpoint can
    disagree with the settings. β has no floor: s already keeps it above zero (ᾱ_0 = 1 - 5.3e-5).
    """

    def __init__(self, timesteps: int = 800, offset: float = 0.008) -> None:
        super().__init__()
        self.timesteps = timesteps
        u = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
        f = torch.cos((u + offset) / (1 + offset) * pi / 2) ** 2
        betas = (1 - f[1:] / f[:-1]).clamp(max=MAX_BETA)
        alpha_bar = torch.cumprod(1 - betas, dim=0)
        self.betas = nn.Buffer(betas.float(), persistent=False)
        self.alpha_bar = nn.Buffer(alpha_bar.float(), persistent=False)
        self.sqrt_alpha_bar = nn.Buffer(alpha_bar.sqrt().float(), persistent=False)
        # Of its own: 1 - ᾱ_t in float32 loses digits near t = 0.
        self.sqrt_one_minus_alpha_bar = nn.Buffer((1 - alpha_bar).sqrt().float(), persistent=False)

    def levels(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(√ᾱ_t, √(1 - ᾱ_t)), each (B, 1, 1), on the device and in the dtype of `like` (B, C, T)."""
        pair = (self.sqrt_alpha_bar, self.sqrt_one_minus_alpha_bar)
        signal, noise = (table[t.to(table.device)].to(like)[:, None, None] for table in pair)
        return signal, noise


def q_sample(schedule: CosineSchedule, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Noise clean latents (paper §IV-C), all (B, C, T): x_t = √ᾱ_t · x0 + √(1 - ᾱ_t) · ε."""
    signal, noise = schedule.levels(t, x0)
    return signal * x0 + noise * eps


def v_target(schedule: CosineSchedule, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """What the network predicts (paper §IV-C, eq. 4): v_t = √ᾱ_t · ε - √(1 - ᾱ_t) · x0, all (B, C, T)."""
    signal, noise = schedule.levels(t, x0)
    return signal * eps - noise * x0


def x0_from_v(schedule: CosineSchedule, x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """Clean latents behind a prediction (inverse of eq. 4), (B, C, T): x0 = √ᾱ_t · x_t - √(1 - ᾱ_t) · v."""
    signal, noise = schedule.levels(t, x_t)
    return signal * x_t - noise * v


def eps_from_v(schedule: CosineSchedule, x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """Noise behind a prediction (inverse of eq. 4), (B, C, T): ε = √(1 - ᾱ_t) · x_t + √ᾱ_t · v."""
    signal, noise = schedule.levels(t, x_t)
    return noise * x_t + signal * v


def loss_weight(name: LossWeight, alpha_bar: Tensor, snr_clip: float) -> Tensor:
    """Weight w(t) of ‖v - v̂‖² (paper §V, eq. 6), of the shape of ᾱ_t: w(t) = SNR = ᾱ_t / (1 - ᾱ_t).

    Differs from the paper: `"snr"` is bounded by `snr_clip`, because the bare ratio runs from 19,000 to
    4e-9 and leaves nothing to learn but the last few steps. `"min_snr"` is min(SNR, clip) / (SNR + 1), the
    min-SNR weight of x0 (arXiv 2303.09556) carried over to v; `"uniform"` is eq. 5.
    """
    if name == "uniform":
        return torch.ones_like(alpha_bar)
    snr = alpha_bar / (1 - alpha_bar)
    clipped = snr.clamp(max=snr_clip)
    return clipped if name == "snr" else clipped / (snr + 1)


def drop_condition(batch: int, probability: float, generator: torch.Generator) -> Tensor:
    """Which items train without their vocal (paper §V: 10 %), each drawn on its own: bool (B,)."""
    return torch.rand(batch, generator=generator, device=generator.device) < probability
