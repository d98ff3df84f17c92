"""The U-Net: temporal FiLM and soft-alignment attention on a pyramid of four resolutions (paper §IV-A).

Shapes: B batch, C channels, T frames, E channels of the timestep embedding.

    accompaniment  (64, T) → (128, T/2) → (256, T/4) → (512, T/8) → bottleneck → back, with skips
    vocal          (32, T) → (64, T/2)  → (128, T/4) → (256, T/8), read by FiLM and by attention

Attention stands at T/2, T/4, T/8 and in the bottleneck, not at T: there it would cost as much as the rest.
"""

from math import log

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from samuel.config import DiffusionConfig, ModelConfig
from samuel.errors import InputError
from samuel.model.attention import SoftAlignmentAttention, group_norm
from samuel.model.diffusion import CosineSchedule

STRIDE = 8  # three halvings
TIME_BASE = 10_000.0


def conv3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv1d:
    """Convolution over three frames that keeps T, or halves it."""
    return nn.Conv1d(inputs, outputs, 3, stride=stride, padding=1)


class TimeEmbedding(nn.Module):
    """Timestep (B,) → (B, E): sines and cosines, then Linear, SiLU, Linear, SiLU."""

    rates: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 4
        rates = torch.exp(-log(TIME_BASE) * torch.arange(half, dtype=torch.float64) / half)
        self.register_buffer("rates", rates.float(), persistent=False)
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

    Differs from the released code, which averages the vocal over time first: the paper's FiLM is temporal.
    """

    def __init__(self, channels: int, vocal_channels: int, time_width: int) -> None:
        super().__init__()
        self.vocal = nn.Conv1d(vocal_channels, 2 * channels, 1)
        self.time = nn.Linear(time_width, 2 * channels)

    def scale_shift(self, time: Tensor, vocal: Tensor) -> tuple[Tensor, Tensor]:
        """γ and β, each (B, C, T), from the embedding (B, E) and the vocal stream (B, vocal channels, T)."""
        scale, shift = (self.vocal(vocal) + self.time(time)[:, :, None]).chunk(2, dim=1)
        return scale, shift

    def forward(self, h: Tensor, time: Tensor, vocal: Tensor) -> Tensor:
        """Modulate h, (B, C, T)."""
        scale, shift = self.scale_shift(time, vocal)
        return torch.addcmul(h + shift, h, scale)


class ResidualBlock(nn.Module):
    """Two Conv1d, GroupNorm, SiLU, one FiLM, a residual connection (paper §IV-A); (B, C, T) → (B, C, T)."""

    def __init__(self, channels: int, vocal_channels: int, time_width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(channels), group_norm(channels)
        self.conv1, self.conv2 = conv3(channels, channels), conv3(channels, channels)
        self.film = TemporalFiLM(channels, vocal_channels, time_width)

    def forward(self, x: Tensor, time: Tensor, vocal: Tensor) -> Tensor:
        """Transform x, knowing the timestep and the vocal of every frame."""
        h = self.conv1(silu(self.norm1(x)))
        h = silu(self.film(self.norm2(h), time, vocal))
        return x + self.conv2(h)


class DownBlock(nn.Module):
    """Halve the frames, transform, look at the vocal: (B, C, T) → (B, C', T/2)."""

    def __init__(
        self, inputs: int, outputs: int, vocal_channels: int, time_width: int, config: ModelConfig
    ) -> None:
        super().__init__()
        self.down = conv3(inputs, outputs, stride=2)
        self.block = ResidualBlock(outputs, vocal_channels, time_width)
        self.attention = _attention(outputs, vocal_channels, config)

    def forward(self, x: Tensor, time: Tensor, vocal: Tensor, sqrt_alpha_bar: Tensor) -> Tensor:
        """`vocal` is the vocal stream at T/2."""
        return self.attention(self.block(self.down(x), time, vocal), vocal, sqrt_alpha_bar)


class Bottleneck(nn.Module):
    """Block, attention, block at the coarsest resolution: (B, C, T/8) → (B, C, T/8)."""

    def __init__(self, channels: int, vocal_channels: int, time_width: int, config: ModelConfig) -> None:
        super().__init__()
        self.block1 = ResidualBlock(channels, vocal_channels, time_width)
        self.attention = _attention(channels, vocal_channels, config)
        self.block2 = ResidualBlock(channels, vocal_channels, time_width)

    def forward(self, x: Tensor, time: Tensor, vocal: Tensor, sqrt_alpha_bar: Tensor) -> Tensor:
        """`vocal` is the vocal stream at T/8."""
        h = self.attention(self.block1(x, time, vocal), vocal, sqrt_alpha_bar)
        return self.block2(h, time, vocal)


class UpBlock(nn.Module):
    """Double the frames, merge the skip, transform: (B, C, T) and skip (B, C', 2T) → (B, C', 2T).

    The doubling is sub-pixel: a convolution at T makes two frames out of one. The skip joins as a sum of two
    projections, which equals concatenation and a convolution. Both keep the work on the coarse side.
    """

    def __init__(self, inputs: int, outputs: int, vocal_channels: int, time_width: int) -> None:
        super().__init__()
        self.up = conv3(inputs, 2 * outputs)
        self.skip = nn.Conv1d(outputs, outputs, 1)
        self.block = ResidualBlock(outputs, vocal_channels, time_width)

    def forward(self, x: Tensor, skip: Tensor, time: Tensor, vocal: Tensor) -> Tensor:
        """`vocal` is the vocal stream at 2T."""
        doubled = self.up(x).unflatten(1, (-1, 2)).transpose(2, 3).flatten(2)
        return self.block(doubled + self.skip(skip), time, vocal)


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
        inputs = [latent_channels, *widths[:-1]]
        self.levels = nn.ModuleList(
            VocalLevel(a, b, stride) for a, b, stride in zip(inputs, widths, (1, 2, 2, 2), strict=True)
        )

    def forward(self, vocal: Tensor) -> list[Tensor]:
        """Encode the vocal latents, finest resolution first."""
        stream = []
        for level in self.levels:
            vocal = level(vocal)
            stream.append(vocal)
        return stream


class SamuelUNet(nn.Module):
    """The denoiser v̂ = v_θ(x_t, t, c) (paper §IV, eq. 5): 14 to 16 M parameters at the default settings.

    Its output is zero at the start: the loss begins at the mean square of v.
    """

    def __init__(self, config: ModelConfig, diffusion: DiffusionConfig | None = None) -> None:
        super().__init__()
        diffusion = diffusion or DiffusionConfig()
        widths, vocal = list(config.channels), [max(1, width // 2) for width in config.channels]
        time_width = 4 * max(4, widths[0])
        self.schedule = CosineSchedule(diffusion.timesteps, diffusion.cosine_offset)
        self.null_condition = nn.Parameter(torch.zeros(config.latent_channels, 1))
        self.time = TimeEmbedding(time_width)
        self.vocal_encoder = VocalEncoder(config.latent_channels, vocal)
        self.enter = conv3(config.latent_channels, widths[0])
        self.down = nn.ModuleList(
            DownBlock(widths[i], widths[i + 1], vocal[i + 1], time_width, config) for i in range(3)
        )
        self.bottleneck = Bottleneck(widths[3], vocal[3], time_width, config)
        self.up = nn.ModuleList(
            UpBlock(widths[i + 1], widths[i], vocal[i], time_width) for i in reversed(range(3))
        )
        self.norm = group_norm(widths[0])
        self.leave = conv3(widths[0], config.latent_channels)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)

    def condition(self, vocal: Tensor, drop_mask: Tensor) -> Tensor:
        """Replace the vocal of every dropped item by the null condition (paper §V).

        Args:
            vocal: Vocal latents, (B, 64, T).
            drop_mask: bool (B,), True = dropped.

        Returns:
            (B, 64, T).
        """
        dropped = drop_mask.to(vocal.device)[:, None, None]
        return torch.where(dropped, self.null_condition.to(vocal.dtype), vocal)

    def forward(self, x_t: Tensor, t: Tensor, vocal: Tensor | None) -> Tensor:
        """Predict v.

        Args:
            x_t: Noisy accompaniment latents, (B, 64, T), T a multiple of 8.
            t: Timestep of every item, int64 (B,).
            vocal: Vocal latents, (B, 64, T); None: the null condition.

        Returns:
            v̂, (B, 64, T), in the dtype of x_t.

        Raises:
            InputError: T is not a multiple of 8.
        """
        frames = x_t.shape[-1]
        if frames % STRIDE:
            raise InputError(
                f"{frames} latent frames: the U-Net halves them three times; pad or cut to a multiple of 8"
            )
        if vocal is None:
            vocal = self.null_condition.to(x_t.dtype).expand_as(x_t)
        time, stream = self.time(t), self.vocal_encoder(vocal)
        h = self._pyramid(self.enter(x_t), time, stream, self.schedule.sqrt_alpha_bar[t])
        return self.leave(silu(self.norm(h))).to(x_t.dtype)

    def _pyramid(self, h: Tensor, time: Tensor, stream: list[Tensor], sqrt_alpha_bar: Tensor) -> Tensor:
        """Down, through the bottleneck and up again: (B, C, T) → (B, C, T)."""
        skips = []
        for down, vocal in zip(self.down, stream[1:], strict=True):
            skips.append(h)
            h = down(h, time, vocal, sqrt_alpha_bar)
        h = self.bottleneck(h, time, stream[-1], sqrt_alpha_bar)
        for up, vocal in zip(self.up, reversed(stream[:-1]), strict=True):
            h = up(h, skips.pop(), time, vocal)
        return h


def _attention(channels: int, vocal_channels: int, config: ModelConfig) -> SoftAlignmentAttention:
    return SoftAlignmentAttention(
        channels, vocal_channels, config.heads, config.head_dim, config.window, config.mixing
    )


def parameter_count(model: nn.Module) -> int:
    """How many numbers the model learns."""
    return sum(parameter.numel() for parameter in model.parameters())


def summary(model: nn.Module) -> list[tuple[str, int]]:
    """Rows (part, parameters) of the direct parts of a model that learn, in order, and the total."""
    rows = [(name, parameter.numel()) for name, parameter in model.named_parameters(recurse=False)]
    rows += [(name, parameter_count(part)) for name, part in model.named_children()]
    return [row for row in rows if row[1]] + [("total", parameter_count(model))]
