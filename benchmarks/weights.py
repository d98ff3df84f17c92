"""Full-size networks with random weights, in the layouts in which the real ones are published.

They cost the same time and memory as the real ones, and what they compute is noise.
"""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from samuel.hub import quietly

SAMPLE_RATE = 44_100
HTDEMUCS = {
    "sources": ["drums", "bass", "other", "vocals"], "bottom_channels": 512, "segment": Fraction(39, 5),
}  # fmt: skip
"""Of htdemucs: what differs from the defaults of demucs."""
OOBLECK = {
    "channels": 128, "c_mults": [1, 2, 4, 8, 16], "strides": [2, 4, 4, 8, 8], "use_snake": True,
}  # fmt: skip
AUTOENCODER = {
    "encoder": {"type": "oobleck", "config": {"in_channels": 2, "latent_dim": 128, **OOBLECK}},
    "decoder": {
        "type": "oobleck", "config": {"out_channels": 2, "latent_dim": 64, "final_tanh": False, **OOBLECK},
    },
    "bottleneck": {"type": "vae"},
    "latent_dim": 64,
    "downsampling_ratio": 2048,
    "io_channels": 2,
}  # fmt: skip
"""Of Stable Audio Open 1.0."""


def random_htdemucs() -> Any:
    """41.5 M parameters, always the same."""
    with quietly(), torch.random.fork_rng(devices=[]):
        from demucs.htdemucs import HTDemucs

        torch.manual_seed(0)
        return HTDemucs(**HTDEMUCS).eval()  # type: ignore[arg-type]


def random_autoencoder() -> Any:
    """156 M parameters, always the same."""
    with quietly(), torch.random.fork_rng(devices=[]):
        from stable_audio_tools.models.autoencoders import create_autoencoder_from_config

        torch.manual_seed(0)
        return create_autoencoder_from_config({"sample_rate": SAMPLE_RATE, "model": AUTOENCODER}).eval()


def write_htdemucs(folder: Path) -> None:
    """A local repository of demucs with the model `random`."""
    with quietly():
        from demucs.htdemucs import HTDemucs
        from demucs.states import get_state, save_with_checksum

    state = get_state(random_htdemucs(), None)
    package = {"klass": HTDemucs, "args": (), "kwargs": HTDEMUCS, "state": state, "training_args": {}}
    folder.mkdir(parents=True, exist_ok=True)
    save_with_checksum(package, folder / "random00.th")
    (folder / "random.yaml").write_text("models: [random00]\n")


def write_autoencoder(folder: Path) -> None:
    """`model_config.json` and `model.safetensors` as stable-audio-tools wants them."""
    folder.mkdir(parents=True, exist_ok=True)
    state = _prefixed(random_autoencoder(), "pretransform.model.")
    save_file(state, folder / "model.safetensors")
    whole = {
        "model_type": "diffusion_cond",
        "sample_rate": SAMPLE_RATE,
        "model": {"pretransform": {"type": "autoencoder", "iterate_batch": True, "config": AUTOENCODER}},
    }
    (folder / "model_config.json").write_text(json.dumps(whole))


def _prefixed(network: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value.contiguous() for name, value in network.state_dict().items()}
