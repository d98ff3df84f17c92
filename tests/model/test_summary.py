import torch
from torch import nn

from samuel.model.unet import SamuelUNet, summary
from tests.model.conftest import SMALL


def test_summary_is_counted_by_hand() -> None:
    network, frames = SamuelUNet(SMALL), 512
    *parts, total = summary(network, frames)
    products: list[int] = []  # multiplications and additions of convolutions and linear layers, as they run

    def count(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        assert isinstance(layer, nn.Conv1d | nn.Linear)
        products.append(2 * layer.weight[0].numel() * out.numel())

    for layer in network.modules():
        if isinstance(layer, nn.Conv1d | nn.Linear):
            layer.register_forward_hook(count)
    x = torch.zeros(1, 64, frames)
    with torch.inference_mode():
        network(x, torch.tensor([0]), x)
    # Scores and values: of T² globally, and of blocks of 32 queries that see 32 + W - 1 keys locally.
    wide, lengths = SMALL.heads * SMALL.head_dim, [frames // 2, frames // 4, frames // 8, frames // 8]
    attention = sum(4 * wide * (length**2 + length * (32 + SMALL.window - 1)) for length in lengths)
    assert (total.name, total.flops) == ("total", sum(products) + attention)
    assert total.parameters == sum(value.numel() for value in network.state_dict().values())
    assert sum(part.parameters for part in parts) == total.parameters
    assert sum(part.flops for part in parts) == total.flops
    assert {"null_condition", "down.0", "bottleneck", "up.1", "leave"} < {part.name for part in parts}
