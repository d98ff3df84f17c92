"""Small random weights in the layouts in which the real ones are published."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from samuel.weights import quietly

STRIDES = [2, 4, 4, 8, 8]


def autoencoder_config(channels: int = 4) -> dict[str, Any]:
    """A Stable Audio autoencoder of the true strides and latents, with few channels."""
    shape = {"channels": channels, "c_mults": [1, 1, 1, 1, 1], "strides": STRIDES, "use_snake": True}
    return {
        "encoder": {"type": "oobleck", "config": {"in_channels": 2, "latent_dim": 128, **shape}},
        "decoder": {
            "type": "oobleck",
            "config": {"out_channels": 2, "latent_dim": 64, "final_tanh": False, **shape},
        },
        "bottleneck": {"type": "vae"},
        "latent_dim": 64,
        "downsampling_ratio": 2048,
        "io_channels": 2,
    }


def build_autoencoder(config: dict[str, Any]) -> Any:
    """The network that stable-audio-tools makes of it, with weights drawn from a fixed seed."""
    with quietly(), torch.random.fork_rng():
        from stable_audio_tools.models.autoencoders import create_autoencoder_from_config

        torch.manual_seed(0)
        return create_autoencoder_from_config({"sample_rate": 44100, "model": config}).eval()


def write_stable_audio(folder: Path) -> Any:
    """`model_config.json` and `model.safetensors`, with tensors of a diffusion model besides; the network."""
    config = autoencoder_config()
    network = build_autoencoder(config)
    state = {f"pretransform.model.{name}": value.contiguous() for name, value in network.state_dict().items()}
    state["model.model.transformer.weight"] = torch.full((64, 64), torch.nan)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors")
    whole = {
        "model_type": "diffusion_cond",
        "sample_rate": 44100,
        "model": {"pretransform": {"type": "autoencoder", "iterate_batch": True, "config": config}},
    }
    (folder / "model_config.json").write_text(json.dumps(whole))
    return network


def write_demucs(folder: Path, name: str = "tiny") -> Path:
    """A local repository with one HTDemucs of 272 k parameters; the path of its weights."""
    with quietly():
        from demucs.htdemucs import HTDemucs
        from demucs.states import get_state, save_with_checksum

    kwargs = {
        "sources": ["drums", "bass", "other", "vocals"], "channels": 8, "growth": 2, "depth": 4, "nfft": 2048,
        "t_layers": 1, "t_heads": 2, "bottom_channels": 16, "segment": Fraction(2),
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = HTDemucs(**kwargs)
    folder.mkdir(parents=True, exist_ok=True)
    package = {"klass": HTDemucs, "args": (), "kwargs": kwargs, "state": get_state(network, None)}
    save_with_checksum({**package, "training_args": {}}, folder / "tiny0000.th")
    (folder / f"{name}.yaml").write_text("models: [tiny0000]\n")
    return next(folder.glob("*.th"))


AUDIOBOX_MODEL = {
    "proj_num_layer": 1,
    "proj_ln": False,
    "proj_act_fn": "gelu",
    "proj_dropout": 0.0,
    "nth_layer": 13,
    "use_weighted_layer_sum": True,
    "precision": "32",
    "normalize_embed": True,
    "output_dim": 1,
}
AUDIOBOX_SCALE = {
    axis: {"mean": 5.0 + index, "std": 1.0} for index, axis in enumerate(["CE", "CU", "PC", "PQ"])
}


def write_audiobox(path: Path) -> nn.Module:
    """A checkpoint of the full size (377 MB), for its layout has no say over the encoder's; the network."""
    with quietly(), torch.random.fork_rng():
        from audiobox_aesthetics.model.aes import AesMultiOutput

        torch.manual_seed(0)
        network = AesMultiOutput(**AUDIOBOX_MODEL, target_transform=AUDIOBOX_SCALE).eval()
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "model_cfg": AUDIOBOX_MODEL, "target_transform": AUDIOBOX_SCALE}, path)
    return network
