"""The U-Net: temporal FiLM and soft-alignment attention on a pyramid of four resolutions (paper §IV-A).

Shapes: B batch, C channels, T frames, E channels of the timestep embedding.

    accompaniment  (64, T) → (128, T/2) → (256, T/4) → (512, T/8) → bottleneck → back, with skips
    vocal          (32, T) → (64, T/2)  → (128, T/4) → (256, T/8), read by FiLM and by attention

Attention stands at T/2, T/4, T/8 and in the bottleneck. With `up_attention` it stands on the way up as well,
at T/4, T/2 and T; not by default, as at T alone it costs half as much as the whole default network.
"""

from copy import deepcopy
from math import log
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import silu

from samuel.config import DiffusionConfig, Film, ModelConfig
from samuel.errors import InputError
from samuel.model.attention import RotaryEmbedding, SoftAlignmentAttention, group_norm
from samuel.model.diffusion import CosineSchedule

STRIDE = 8  # three halvings
TIME_BASE = 10_000.0


def conv3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv1d:
    """Convolution over three frames that keeps T, or halves it."""
    return nn.Conv1d(inputs, outputs, 3, stride=stride, padding=1)


def time_width(config: ModelConfig) -> int:
    """Channels E of the timestep embedding."""
    return 4 * max(4, config.channels[0])


class TimeEmbedding(nn.Module):
    """Timestep (B,) → (B, E): sines and cosines, then Linear, SiLU, Linear, SiLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 4
        rates = torch.exp(-log(TIME_BASE) * torch.arange(half, dtype=torch.float64) / half)
        self.rates = nn.Buffer(rates.float(), persistent=False)
        self.project = nn.Sequential(
            nn.Linear(2 * half, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )

    def forward(self, t: Tensor) -> Tensor:
        """Embed t, int64 (B,), as (B, E)."""
        angles = t[:, None].float() * self.rates
        return self.project(torch.cat((angles.cos(), angles.sin()), dim=-1))


class TemporalFiLM(nn.Module):
    """Scale and shift that vary along the frames (paper §IV-A, §IV-C).

        FiLM(h) = (1 + γ) · h + β,   (γ, β) = Conv(vocal) + Linear(time embedding)

    Differs from the released code, where the vocal is averaged over the frames (`pooled`).
    """

    def __init__(self, channels: int, vocal_channels: int, time_width: int, pooled: bool = False) -> None:
        super().__init__()
        self.pooled = pooled
        self.vocal = nn.Conv1d(vocal_channels, 2 * channels, 1)
        self.time = nn.Linear(time_width, 2 * channels)

    def forward(self, h: Tensor, time: Tensor, vocal: Tensor) -> Tensor:
        """Modulate h, (B, C, T), by the embedding (B, E) and the vocal stream (B, vocal channels, T)."""
        if self.pooled:  # the mean of the convolution
            vocal = vocal.mean(dim=-1, keepdim=True)
        scale, shift = (self.vocal(vocal) + self.time(time)[:, :, None]).chunk(2, dim=1)
        return torch.addcmul(h + shift, h, scale)


class ResidualBlock(nn.Module):
    """Two Conv1d, GroupNorm, SiLU, one FiLM, a residual connection (paper §IV-A); (B, C, T) → (B, C, T)."""

    def __init__(self, channels: int, vocal_channels: int, time_width: int, film: Film) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(channels), group_norm(channels)
        self.conv1, self.conv2 = conv3(channels, channels), conv3(channels, channels)
        self.film = TemporalFiLM(channels, vocal_channels, time_width, pooled=film == "pooled")

    def forward(self, x: Tensor, time: Tensor, vocal: Tensor) -> Tensor:
        """Transform x, knowing the timestep and the vocal of every frame."""
        h = self.conv1(silu(self.norm1(x)))
        h = silu(self.film(self.norm2(h), time, vocal))
        return x + self.conv2(h)


class DownBlock(nn.Module):
    """Halve the frames, transform, look at the vocal: (B, C, T) → (B, C', T/2)."""

    def __init__(
        self, inputs: int, outputs: int, vocal_channels: int, config: ModelConfig, rotary: RotaryEmbedding
    ) -> None:
        super().__init__()
        self.down = conv3(inputs, outputs, stride=2)
        self.block = ResidualBlock(outputs, vocal_channels, time_width(config), config.film)
        self.attention = SoftAlignmentAttention(outputs, vocal_channels, config, rotary)

    def forward(self, x: Tensor, time: Tensor, vocal: Tensor, sqrt_alpha_bar: Tensor) -> Tensor:
        """`vocal` is the vocal stream at T/2."""
        return self.attention(self.block(self.down(x), time, vocal), vocal, sqrt_alpha_bar)


class Bottleneck(nn.Module):
    """Block, attention, block at the coarsest resolution: (B, C, T/8) → (B, C, T/8)."""

    def __init__(
        self, channels: int, vocal_channels: int, config: ModelConfig, rotary: RotaryEmbedding
    ) -> None:
        super().__init__()
        self.block1 = ResidualBlock(channels, vocal_channels, time_width(config), config.film)
        self.attention = SoftAlignmentAttention(channels, vocal_channels, config, rotary)
        self.block2 = ResidualBlock(channels, vocal_channels, time_width(config), config.film)

    def forward(self, x: Tensor, time: Tensor, vocal: Tensor, sqrt_alpha_bar: Tensor) -> Tensor:
        """`vocal` is the vocal stream at T/8."""
        h = self.attention(self.block1(x, time, vocal), vocal, sqrt_alpha_bar)
        return self.block2(h, time, vocal)


class UpBlock(nn.Module):
    """Double the frames, merge the skip, transform: (B, C, T) and skip (B, C', 2T) → (B, C', 2T).

    The doubling is sub-pixel: a convolution at T makes two frames out of one. The skip joins as a sum of two
    projections, which equals concatenation and a convolution.
    """

    def __init__(
        self, inputs: int, outputs: int, vocal_channels: int, config: ModelConfig, rotary: RotaryEmbedding
    ) -> None:
        super().__init__()
        self.up = conv3(inputs, 2 * outputs)
        self.skip = nn.Conv1d(outputs, outputs, 1)
        self.block = ResidualBlock(outputs, vocal_channels, time_width(config), config.film)
        wanted = config.up_attention
        self.attention = SoftAlignmentAttention(outputs, vocal_channels, config, rotary) if wanted else None

    def forward(self, x: Tensor, skip: Tensor, time: Tensor, vocal: Tensor, sqrt_alpha_bar: Tensor) -> Tensor:
        """`vocal` is the vocal stream at 2T."""
        doubled = self.up(x).unflatten(1, (-1, 2)).transpose(2, 3).flatten(2)
        h = self.block(doubled + self.skip(skip), time, vocal)
        return h if self.attention is None else self.attention(h, vocal, sqrt_alpha_bar)


class VocalLevel(nn.Module):
    """One resolution of the vocal encoder: a convolution, then a residual one."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.enter = conv3(inputs, outputs, stride)
        self.norm = group_norm(outputs)
        self.conv = conv3(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) → (B, C', T / stride)."""
        h = self.enter(x)
        return h + self.conv(silu(self.norm(h)))


class VocalEncoder(nn.Module):
    """The vocal stream at every resolution: (B, 64, T) → four tensors, from T down to T/8."""

    def __init__(self, latent_channels: int, widths: list[int]) -> None:
        super().__init__()
        sizes = zip([latent_channels, *widths[:-1]], widths, (1, 2, 2, 2), strict=True)
        self.levels = nn.ModuleList(VocalLevel(*size) for size in sizes)

    def forward(self, vocal: Tensor) -> list[Tensor]:
        """Encode the vocal latents, finest resolution first."""
        stream = []
        for level in self.levels:
            vocal = level(vocal)
            stream.append(vocal)
        return stream


class SamuelUNet(nn.Module):
    """The denoiser v̂ = v_θ(x_t, t, c) (paper §IV, eq. 5), zero at the start: 15.1 M parameters."""

    def __init__(self, config: ModelConfig, diffusion: DiffusionConfig | None = None) -> None:
        super().__init__()
        diffusion = diffusion or DiffusionConfig()
        widths, vocal = list(config.channels), [max(1, width // 2) for width in config.channels]
        self.rotary = RotaryEmbedding(config.head_dim)
        self.schedule = CosineSchedule(diffusion.timesteps, diffusion.cosine_offset)
        self.null_condition = nn.Parameter(torch.zeros(config.latent_channels, 1))
        self.time = TimeEmbedding(time_width(config))
        self.vocal_encoder = VocalEncoder(config.latent_channels, vocal)
        self.enter = conv3(config.latent_channels, widths[0])
        self.down = nn.ModuleList(
            DownBlock(widths[i], widths[i + 1], vocal[i + 1], config, self.rotary) for i in range(3)
        )
        self.bottleneck = Bottleneck(widths[3], vocal[3], config, self.rotary)
        self.up = nn.ModuleList(
            UpBlock(widths[i + 1], widths[i], vocal[i], config, self.rotary) for i in reversed(range(3))
        )
        self.norm = group_norm(widths[0])
        self.leave = conv3(widths[0], config.latent_channels)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)

    def condition(self, vocal: Tensor, drop_mask: Tensor) -> Tensor:
        """Replace the vocal (B, 64, T) of every dropped item, bool (B,), by the null condition (paper §V)."""
        dropped = drop_mask.to(vocal.device)[:, None, None]
        return torch.where(dropped, self.null_condition.to(vocal.dtype), vocal)

    def forward(self, x_t: Tensor, t: Tensor, vocal: Tensor | None) -> Tensor:
        """Predict v̂ from x_t, t int64 (B,) and the vocal, None the null condition; latents are (B, 64, T)."""
        frames = x_t.shape[-1]
        if frames < STRIDE or frames % STRIDE:
            raise InputError(f"{frames} latent frames: pad or cut to a multiple of {STRIDE}")
        self.rotary.reserve(frames)
        if vocal is None:
            vocal = self.null_condition.to(x_t.dtype).expand_as(x_t)
        time, stream = self.time(t), self.vocal_encoder(vocal)
        h, sqrt_alpha_bar, skips = self.enter(x_t), self.schedule.sqrt_alpha_bar[t], []
        for down, vocal in zip(self.down, stream[1:], strict=True):
            skips.append(h)
            h = down(h, time, vocal, sqrt_alpha_bar)
        h = self.bottleneck(h, time, stream[-1], sqrt_alpha_bar)
        for up, vocal in zip(self.up, reversed(stream[:-1]), strict=True):
            h = up(h, skips.pop(), time, vocal, sqrt_alpha_bar)
        return self.leave(silu(self.norm(h))).to(x_t.dtype)


def parameter_count(model: nn.Module) -> int:
    """How many numbers the model learns."""
    return sum(parameter.numel() for parameter in model.parameters())


class Part(NamedTuple):
    """A part of the network; "total" is the network."""

    name: str
    parameters: int
    flops: int  # of a forward pass of one item, a multiplication and an addition being two


def summary(network: SamuelUNet, frames: int) -> list[Part]:
    """The parts that learn, in the order in which they are called, and the total; flops of products."""
    from torch.utils.flop_counter import FlopCounterMode  # not for those who train

    shadow = deepcopy(network).to("meta")  # shapes alone: nothing is computed
    item = torch.zeros(1, network.null_condition.shape[0], frames, device="meta")
    t = torch.zeros(1, dtype=torch.int64, device="meta")
    # The counter does not know every fused attention; the plain one computes the same.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        shadow(item, t, item)
    root = type(network).__name__
    flops = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    rows = [Part(name, parameter.numel(), 0) for name, parameter in network.named_parameters(recurse=False)]
    for name, child in network.named_children():
        members = child.named_children() if isinstance(child, nn.ModuleList) else [("", child)]
        for number, part in members:
            full_name = f"{name}.{number}".removesuffix(".")
            rows.append(Part(full_name, parameter_count(part), flops.get(f"{root}.{full_name}", 0)))
    rows = [row for row in rows if row.parameters]
    return [*rows, Part("total", parameter_count(network), flops[root])]
