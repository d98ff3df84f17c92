import torch
from torch import nn

from samuel.config import ModelConfig
from samuel.model.unet import SamuelUNet, summary
from tests.model.conftest import SMALL


def conv_flops(network: SamuelUNet, frames: int) -> int:
    """Multiplications and additions of all convolutions and linear layers, from their shapes as they run."""
    counts: list[int] = []

    def count(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        assert isinstance(layer, nn.Conv1d | nn.Linear)
        counts.append(2 * layer.weight[0].numel() * out.numel())

    for layer in network.modules():
        if isinstance(layer, nn.Conv1d | nn.Linear):
            layer.register_forward_hook(count)
    x = torch.zeros(1, 64, frames)
    with torch.inference_mode():
        network(x, torch.tensor([0]), x)
    return sum(counts)


def attention_flops(frames: int, config: ModelConfig) -> int:
    """Scores and values of the global branch, T² each; blocks of 32 queries see 32 + W - 1 keys locally."""
    wide = config.heads * config.head_dim
    lengths = [frames // 2, frames // 4, frames // 8, frames // 8]
    return sum(4 * wide * (length**2 + length * (32 + config.window - 1)) for length in lengths)


def test_summary_is_counted_by_hand() -> None:
    network = SamuelUNet(SMALL)
    *parts, total = summary(network, 512)
    assert total.name == "total"
    assert total.parameters == sum(value.numel() for value in network.state_dict().values())
    assert total.flops == conv_flops(network, 512) + attention_flops(512, SMALL)
    assert sum(part.parameters for part in parts) == total.parameters
    assert sum(part.flops for part in parts) == total.flops
    names = {part.name for part in parts}
    assert {"null_condition", "down.0", "down.2", "bottleneck", "up.1", "leave"} < names
