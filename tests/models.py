"""A model for tests, made on the spot."""

from pathlib import Path
from typing import Any

import torch

from samuel.checkpoint import save_model
from samuel.codecs.mel import MelCodec
from samuel.model.unet import SamuelUNet
from tests.popdb.latents import small_settings


def small_model(root: Path, **changes: Any) -> Path:
    """The folder of a model of some thousand weights, for pairs of 64 frames of the codec `mel`: what it
    writes is noise, and about as loud as music. `changes` are of its record."""
    settings = small_settings(root)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SamuelUNet(settings.model, settings.diffusion)
        for parameter in network.parameters():
            if not parameter.any():  # as before training: the network would not listen
                torch.nn.init.normal_(parameter, std=0.02)
    channels = settings.model.latent_channels
    stats = {"mean": [-3.0] * channels, "std": [2.0] * channels}
    record = {
        "model": settings.model.model_dump(mode="json"),
        "diffusion": settings.diffusion.model_dump(mode="json"),
        "stats": {"vocal": stats, "accompaniment": stats},
        "codec": MelCodec.info.model_dump(),
        "frames": 64,
    }
    return save_model(root / "model", network.state_dict(), record | changes).folder
