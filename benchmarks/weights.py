"""Networks with random weights, in the layouts in which the real ones are published.

At their full size they cost the same time and memory as the real ones, and what they compute is noise.
"""

from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from samuel.hub import quietly

HTDEMUCS: dict[str, Any] = {
    "sources": ["drums", "bass", "other", "vocals"], "bottom_channels": 512, "segment": Fraction(39, 5)
}  # fmt: skip
"""Of htdemucs: what differs from the defaults of demucs."""
AUTOENCODER: dict[str, Any] = {}
"""Of Stable Audio Open: what differs from the defaults of diffusers."""


def random_htdemucs() -> Any:
    """41.5 M parameters, always the same."""
    with quietly(), torch.random.fork_rng(devices=[]):
        from demucs.htdemucs import HTDemucs

        torch.manual_seed(0)
        return HTDemucs(**HTDEMUCS).eval()


def random_autoencoder(**shape: Any) -> Any:
    """The autoencoder of Stable Audio Open 1.0, 156 M parameters, or another shape of it; always the same."""
    with quietly(), torch.random.fork_rng(devices=[]):
        from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck

        torch.manual_seed(0)
        return AutoencoderOobleck(**AUTOENCODER | shape).eval()


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


def write_autoencoder(folder: Path, network: Any = None) -> None:
    """The `vae` of a folder that diffusers reads, as it writes it itself."""
    (network or random_autoencoder()).save_pretrained(folder / "vae")
