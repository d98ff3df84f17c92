"""The network as a training begins with it."""

import os
import shutil

import torch
from torch import nn

from samuel.config import Settings
from samuel.errors import MissingPartError
from samuel.model.unet import SamuelUNet


def fresh_network(settings: Settings, frames: int) -> SamuelUNet:
    """A network with weights of `training.seed`, ready for inputs of so many frames; on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        network = SamuelUNet(settings.model, settings.diffusion)
    network.rotary.reserve(frames)  # before it is copied
    return network


def compiled(module: nn.Module, device: torch.device) -> nn.Module:
    """The module by torch.compile.

    Raises:
        MissingPartError: There is no C++ compiler.
    """
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++", "cl")):
        raise MissingPartError(
            f"training.compile on {device.type} needs a C++ compiler; install g++, or set it to false"
        )
    return torch.compile(module)  # type: ignore[return-value]
