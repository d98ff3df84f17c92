"""What the parts of the network weigh and cost."""

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from samuel.model.unet import SamuelUNet, check_frames, parameter_count


@dataclass(frozen=True)
class Part:
    """A part of the network.

    Attributes:
        name: Its name in the network; "total" is the network.
        parameters: How many numbers it learns.
        flops: Floating-point operations of a forward pass of one item, a multiplication and an addition
            being two; those of convolutions and matrix products, which are all but a few per cent.
    """

    name: str
    parameters: int
    flops: int


def summary(network: SamuelUNet, frames: int) -> list[Part]:
    """The parts of the network that learn, in order, and the total.

    Args:
        network: On any device; it computes nothing.
        frames: T of the item.

    Raises:
        InputError: The number of frames is not a positive multiple of 8.
    """
    flops = part_flops(network, frames)
    rows = [Part(name, parameter.numel(), 0) for name, parameter in network.named_parameters(recurse=False)]
    rows += [Part(name, parameter_count(part), flops.get(name, 0)) for name, part in _parts(network)]
    return [row for row in rows if row.parameters] + [Part("total", parameter_count(network), flops[""])]


def part_flops(network: SamuelUNet, frames: int) -> dict[str, int]:
    """Module name → operations of a forward pass of one item; "" is the network."""
    check_frames(frames)
    shadow = deepcopy(network).to("meta")  # shapes alone
    item = torch.zeros(1, network.null_condition.shape[0], frames, device="meta")
    t = torch.zeros(1, dtype=torch.int64, device="meta")
    # The counter does not know every fused attention; the plain one computes the same.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        shadow(item, t, item)
    root = type(network).__name__
    return {
        name.removeprefix(root).removeprefix("."): sum(counts.values())
        for name, counts in counter.get_flop_counts().items()
        if name.startswith(root)
    }


def _parts(network: SamuelUNet) -> list[tuple[str, nn.Module]]:
    """The modules a forward pass calls one after the other: a list counts as its members."""
    parts: list[tuple[str, nn.Module]] = []
    for name, part in network.named_children():
        members = part.named_children() if isinstance(part, nn.ModuleList) else None
        parts += [(f"{name}.{i}", member) for i, member in members] if members else [(name, part)]
    return parts
