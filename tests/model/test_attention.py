import pytest
import torch
from torch import Tensor

from samuel.config import Mixing
from samuel.model.attention import (
    RotaryEmbedding,
    SoftAlignmentAttention,
    band_mask,
    global_attention,
    local_attention,
    mixing_weights,
    rope,
    rope_tables,
)
from samuel.model.diffusion import CosineSchedule
from tests.model.conftest import SMALL


def layer_of(mixing: Mixing) -> SoftAlignmentAttention:
    config = SMALL.model_copy(update={"mixing": mixing})
    return SoftAlignmentAttention(16, 8, config, RotaryEmbedding(config.head_dim, 64))


def exact_rope(x: Tensor) -> Tensor:
    return rope(x, *rope_tables(*x.shape[-2:]))


def heads(length: int, dim: int = 8, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = torch.randn(3, batch, 3, length, dim, dtype=torch.float64)
    return q, k, v


def local_by_loop(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Equation 1 read word by word: one frame at a time, zeros beyond the ends."""
    out = torch.zeros_like(q)
    length, dim = q.shape[-2:]
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for i in range(length):
                scores, values = [], []
                for j in range(i - window // 2, i + window // 2):
                    inside = 0 <= j < length
                    scores.append(q[b, h, i] @ k[b, h, j] / dim**0.5 if inside else torch.zeros(()).double())
                    values.append(v[b, h, j] if inside else torch.zeros(dim).double())
                out[b, h, i] = torch.stack(scores).softmax(0) @ torch.stack(values)
    return out


def rotate_as_complex(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] * 10_000.0 ** (-torch.arange(half).double() / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag), dim=-1)


@pytest.mark.parametrize(("length", "window"), [(1, 16), (37, 64), (101, 8)])
def test_local_attention_is_the_loop_over_frames(length: int, window: int) -> None:
    q, k, v = heads(length, dim=4)
    torch.testing.assert_close(local_attention(q, k, v, band_mask(window)), local_by_loop(q, k, v, window))


def test_global_attention_is_explicit_matrices() -> None:
    q, k, v = heads(45)
    scores = rotate_as_complex(q) @ rotate_as_complex(k).mT / q.shape[-1] ** 0.5
    torch.testing.assert_close(global_attention(q, k, v, exact_rope), scores.softmax(-1) @ v)


def test_late_positions_are_exact_in_bfloat16() -> None:
    # Angles or positions in bfloat16 would turn frame 4001 as frame 4000: the rounding is that of x alone.
    q = torch.randn(1, 1, 4096, 8).bfloat16()
    turned = RotaryEmbedding(8)(q)
    assert turned.dtype == torch.bfloat16
    exact = rotate_as_complex(q.double())
    torch.testing.assert_close(turned.double(), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize(
    ("mixing", "clean", "noisy"),
    [
        ("eq3", (1, 0), (0, 1)),
        ("prose", (0, 1), (1, 0)),
        ("even", (0.5, 0.5), (0.5, 0.5)),
        ("global", (1, 0), (1, 0)),
        ("local", (0, 1), (0, 1)),
    ],
)
def test_mixing_at_both_ends(mixing: Mixing, clean: tuple[float, float], noisy: tuple[float, float]) -> None:
    w_global, w_local = mixing_weights(mixing, CosineSchedule().sqrt_alpha_bar)
    for t, expected in ((0, clean), (799, noisy)):
        assert (w_global[t].item(), w_local[t].item()) == pytest.approx(expected, abs=1e-4)
    torch.testing.assert_close(w_global + w_local, torch.ones(800))


def test_layer_starts_as_identity_and_mixes_each_item_by_its_own_level() -> None:
    layer = layer_of("eq3")
    x, vocal = torch.randn(2, 16, 40), torch.randn(2, 8, 40)
    torch.testing.assert_close(layer(x, vocal, torch.tensor([0.2, 0.7])), x)
    torch.nn.init.normal_(layer.out.weight)
    found: dict[Mixing, Tensor] = {}
    mixings: tuple[Mixing, ...] = ("eq3", "global", "local")
    for mixing in mixings:
        layer.mixing = mixing
        found[mixing] = layer(x, vocal, torch.tensor([0.2, 0.7])) - x
    level = torch.tensor([0.2, 0.7])[:, None, None]
    expected = level * found["global"] + (1 - level) * found["local"]
    torch.testing.assert_close(found["eq3"], expected, atol=1e-4, rtol=1e-4)
