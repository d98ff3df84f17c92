"""A model without training, as `samuel app` is given one."""

from pathlib import Path

import torch

from samuel.checkpoint import save_model
from samuel.codecs import load_codec
from samuel.codecs.base import LATENT_CHANNELS
from samuel.config import CodecConfig
from samuel.model.unet import SamuelUNet
from tests.popdb.latents import small_settings


def save_untrained_model(folder: Path, codec: str = "") -> None:
    """Some thousand random weights for latents of `mel`, or of the codec named; a stretch of 64 frames."""
    settings = small_settings(folder.parent)
    torch.manual_seed(0)
    network = SamuelUNet(settings.model, settings.diffusion)
    band = {"mean": [-4.0] * LATENT_CHANNELS, "std": [1.5] * LATENT_CHANNELS}
    record = {
        "model": settings.model.model_dump(mode="json"),
        "diffusion": settings.diffusion.model_dump(mode="json"),
        "stats": {"vocal": band, "accompaniment": band},
        "codec": codec or load_codec(CodecConfig(), torch.device("cpu")).identity,
        "frames": 64,
    }
    save_model(folder, network.state_dict(), record)
