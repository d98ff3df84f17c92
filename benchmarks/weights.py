"""Networks with random weights, in the layouts in which the real ones are published.

At their full size they cost the same time and memory as the real ones, and what they compute is noise.
"""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from samuel.hub import quietly

SAMPLE_RATE = 44_100
HTDEMUCS: dict[str, Any] = {
    "sources": ["drums", "bass", "other", "vocals"], "bottom_channels": 512, "segment": Fraction(39, 5)
}  # fmt: skip
"""Of htdemucs: what differs from the defaults of demucs."""


def autoencoder_config(channels: int = 128, c_mults: tuple[int, ...] = (1, 2, 4, 8, 16)) -> dict[str, Any]:
    """The autoencoder of Stable Audio Open 1.0, or one of its strides and latents with fewer channels."""
    shape = {"channels": channels, "c_mults": [*c_mults], "strides": [2, 4, 4, 8, 8], "use_snake": True}
    encoder = {"in_channels": 2, "latent_dim": 128, **shape}
    decoder = {"out_channels": 2, "latent_dim": 64, "final_tanh": False, **shape}
    parts = {
        "encoder": {"type": "oobleck", "config": encoder},
        "decoder": {"type": "oobleck", "config": decoder},
    }
    return parts | {
        "bottleneck": {"type": "vae"}, "latent_dim": 64, "downsampling_ratio": 2048, "io_channels": 2
    }  # fmt: skip


AUTOENCODER = autoencoder_config()


def random_htdemucs() -> Any:
    """41.5 M parameters, always the same."""
    with quietly(), torch.random.fork_rng(devices=[]):
        from demucs.htdemucs import HTDemucs

        torch.manual_seed(0)
        return HTDemucs(**HTDEMUCS).eval()


def random_autoencoder(config: dict[str, Any] | None = None) -> Any:
    """156 M parameters if nothing else is said, always the same."""
    with quietly(), torch.random.fork_rng(devices=[]):
        from stable_audio_tools.models.autoencoders import create_autoencoder_from_config

        torch.manual_seed(0)
        whole = {"sample_rate": SAMPLE_RATE, "model": config or AUTOENCODER}
        return create_autoencoder_from_config(whole).eval()


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


def write_autoencoder(
    folder: Path,
    config: dict[str, Any] | None = None,
    network: Any = None,
    others: dict[str, torch.Tensor] | None = None,
) -> None:
    """`model_config.json` and `model.safetensors` as stable-audio-tools wants them, perhaps with `others`."""
    config = config or AUTOENCODER
    state = (network or random_autoencoder(config)).state_dict()
    folder.mkdir(parents=True, exist_ok=True)
    named = {f"pretransform.model.{name}": value.contiguous() for name, value in state.items()}
    save_file(named | (others or {}), folder / "model.safetensors")
    pretransform = {"type": "autoencoder", "iterate_batch": True, "config": config}
    model = {"pretransform": pretransform}
    whole = {"model_type": "diffusion_cond", "sample_rate": SAMPLE_RATE, "model": model}
    (folder / "model_config.json").write_text(json.dumps(whole))
