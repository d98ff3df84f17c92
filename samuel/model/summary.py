"""What the parts of the network weigh and cost."""

from copy import deepcopy
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from samuel.model.unet import SamuelUNet, check_frames, parameter_count


class Part(NamedTuple):
    """A part of the network; "total" is the network."""

    name: str
    parameters: int
    flops: int  # of a forward pass of one item, a multiplication and an addition being two


def summary(network: SamuelUNet, frames: int) -> list[Part]:
    """The parts of the network that learn, in the order in which they are called, and the total.

    Operations are those of convolutions and matrix products, which are all but a few per cent.

    Raises:
        InputError: The number of frames is not a positive multiple of 8.
    """
    check_frames(frames)
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
    total = Part("total", parameter_count(network), flops[root])
    return [row for row in rows if row.parameters] + [total]
