"""The network as a training begins with it."""

import torch

from samuel.config import Settings
from samuel.model.unet import SamuelUNet


def fresh_network(settings: Settings, frames: int) -> SamuelUNet:
    """A network with weights of `training.seed`, ready for inputs of so many frames; on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        network = SamuelUNet(settings.model, settings.diffusion)
    network.rotary.reserve(frames)  # before it is copied
    return network
