"""Soft alignment: local and global cross-attention, mixed by the noise level (paper §IV-B).

Shapes: B batch, C channels, T frames, H heads, D channels of a head, W frames of the local window.
"""

from collections.abc import Callable
from math import gcd

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from samuel.config import Mixing, ModelConfig

ROPE_BASE = 10_000.0
ROPE_POSITIONS = 4096  # of a fresh network: four chunks of the paper, 1 MB at 64 channels a head
BLOCK = 32  # queries handled together in local attention, at least; measured best of 16 to 128 on a CPU


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm of at most 16 groups, for any number of channels."""
    return nn.GroupNorm(gcd(16, channels), channels)


def rope_tables(length: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary angles i · base^(-2d/D), float64 (T, D/2) each."""
    rates = ROPE_BASE ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return angles.cos(), angles.sin()


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding, (B, H, T, D): the pair (d, d + D/2) of frame i turns by i · base^(-2d/D).

    The tables are those of `rope_tables`. Computed in the wider dtype of x and tables, given in that of x.
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


class RotaryEmbedding(nn.Module):
    """`rope` with tables that all attentions of a network share: float32 buffers outside the state dict."""

    def __init__(self, head_dim: int, positions: int = ROPE_POSITIONS) -> None:
        super().__init__()
        self.head_dim = head_dim
        cos, sin = (table.float() for table in rope_tables(positions, head_dim))  # (positions, D/2)
        self.cos, self.sin = nn.Buffer(cos, persistent=False), nn.Buffer(sin, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Rotate (B, H, T, D), T no more than the positions of the tables."""
        return rope(x, self.cos[: x.shape[-2]], self.sin[: x.shape[-2]])

    def reserve(self, length: int) -> None:
        """Have tables for so many positions: a network that trains on more needs them before it is copied."""
        if length > self.cos.shape[0]:
            self._grow(1 << (length - 1).bit_length())  # a power of two: lengths that creep up grow it seldom

    def _grow(self, positions: int) -> None:
        with torch.inference_mode(False):  # tables first needed by a sampler may serve a training step later
            cos, sin = rope_tables(positions, self.head_dim)
            self.cos, self.sin = cos.to(self.cos), sin.to(self.sin)

    # A compiled network would make the tables in every call. `torch.compiler.disable`, which sets the mark,
    # imports torch._dynamo: three seconds and 75 MB of every process.
    _grow._torchdynamo_disable = True  # type: ignore[attr-defined]


def band_mask(window: int) -> Tensor:
    """Which keys of its neighbourhood a query of a block sees: bool (block, block + W - 1), True = seen."""
    block = max(BLOCK, window)
    query = torch.arange(block)[:, None]
    key = torch.arange(block + window - 1)[None, :]
    return (key >= query) & (key < query + window)


def local_attention(q: Tensor, k: Tensor, v: Tensor, band: Tensor) -> Tensor:
    """Attention of every frame to the window around it (paper §IV-B, eq. 1).

        LocalAttn(i) = Σ_{j ∈ W(i)} softmax(Q_i · K_j / √D) V_j,   W(i) = {i - W/2, …, i + W/2 - 1}

    All (B, H, T, D), any T; `band` is `band_mask(W)`, W even. Zeros beyond both ends take part in the softmax
    (score 0, value 0), so frames at an edge attend to silence. No positional embedding. Queries go in blocks,
    each against the `block + W - 1` keys that any of them sees: memory and work are linear in T.
    """
    batch, heads, length, dim = q.shape
    window = band.shape[1] - band.shape[0] + 1
    block = min(band.shape[0], length)
    count = -(-length // block)
    spare = count * block - length
    padding = (0, 0, window // 2, spare + window // 2 - 1)
    queries = pad(q, (0, 0, 0, spare)).reshape(batch * heads, count, block, dim)
    keys, values = (  # (B · H, blocks, block + W - 1, D), views: the frames that each block sees
        pad(x, padding).flatten(0, 1).unfold(1, block + window - 1, block).transpose(-1, -2) for x in (k, v)
    )
    mask = band[:block, : block + window - 1]
    out = scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    return out.reshape(batch, heads, count * block, dim)[:, :, :length]


def global_attention(q: Tensor, k: Tensor, v: Tensor, rotary: Callable[[Tensor], Tensor]) -> Tensor:
    """Attention over the whole sequence with rotary positions (paper §IV-B, eq. 2), all (B, H, T, D).

    GlobalAttn = softmax(RoPE(Q) · RoPE(K)ᵀ / √D) V
    """
    return scaled_dot_product_attention(rotary(q), rotary(k), v)


def mixing_weights(mixing: Mixing, sqrt_alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of global and local attention at noise levels of any shape (paper §IV-B, eq. 3).

        Context = √ᾱ_t · GlobalAttn + (1 - √ᾱ_t) · LocalAttn

    Differs from the paper: only `"eq3"` is the equation, because the paper's prose says four times the
    opposite (global at high noise, `"prose"`); the fixed mixtures are there for the ablation.
    """
    rules = {
        "eq3": sqrt_alpha_bar,
        "prose": 1.0 - sqrt_alpha_bar,
        "even": torch.full_like(sqrt_alpha_bar, 0.5),
        "global": torch.ones_like(sqrt_alpha_bar),
        "local": torch.zeros_like(sqrt_alpha_bar),
    }
    return rules[mixing], 1.0 - rules[mixing]


class SoftAlignmentAttention(nn.Module):
    """Cross-attention from the accompaniment to the vocal, local and global (paper §IV-B, fig. 1).

    The output projection starts at zero: a fresh layer passes its input through unchanged.
    """

    def __init__(
        self, channels: int, vocal_channels: int, config: ModelConfig, rotary: RotaryEmbedding
    ) -> None:
        super().__init__()
        inner = config.heads * config.head_dim
        self.heads = config.heads
        self.mixing: Mixing = config.mixing
        self.rotary = rotary
        self.band = nn.Buffer(band_mask(config.window), persistent=False)
        self.norm = group_norm(channels)
        self.vocal_norm = group_norm(vocal_channels)
        self.query = nn.Conv1d(channels, inner, 3, padding=1)
        self.key_value = nn.Conv1d(vocal_channels, 2 * inner, 3, padding=1)
        self.out = nn.Conv1d(inner, channels, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, vocal: Tensor, sqrt_alpha_bar: Tensor) -> Tensor:
        """(B, C, T), the vocal stream (B, vocal channels, T) and √ᾱ_t (B,) → x plus what it found in it."""
        parts = (self.query(self.norm(x)), *self.key_value(self.vocal_norm(vocal)).chunk(2, dim=1))
        # (B, H · D, T) → (B, H, T, D), contiguous: the attention kernels want D last.
        q, k, v = (y.unflatten(1, (self.heads, -1)).transpose(-1, -2).contiguous() for y in parts)
        context = self._context(q, k, v, sqrt_alpha_bar)
        return x + self.out(context.transpose(-1, -2).flatten(1, 2))

    def _context(self, q: Tensor, k: Tensor, v: Tensor, sqrt_alpha_bar: Tensor) -> Tensor:
        """Equation 3; a branch that the rule never uses is not computed."""
        if self.mixing == "global":
            return global_attention(q, k, v, self.rotary)
        if self.mixing == "local":
            return local_attention(q, k, v, self.band)
        w_global, w_local = mixing_weights(self.mixing, sqrt_alpha_bar.to(q.dtype)[:, None, None, None])
        whole, near = global_attention(q, k, v, self.rotary), local_attention(q, k, v, self.band)
        return w_global * whole + w_local * near
