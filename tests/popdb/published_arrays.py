"""POPDB as it was published, small and made of noise."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FRAMES = 64
GAP = 302  # chunks of 2.97 s in 15 minutes


def noise(count: int, seed: int) -> NDArray[np.float16]:
    """(count, 64, FRAMES); channel c has mean c / 10, deviation 1."""
    values = np.random.default_rng(seed).standard_normal((count, 64, FRAMES), np.float32)
    return (values + np.arange(64, dtype=np.float32)[:, None] / 10).astype(np.float16)


def write_published(folder: Path, count: int) -> tuple[Path, Path]:
    """`latent_vocal.npy` and `latent_accomp.npy`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "latent_vocal.npy", folder / "latent_accomp.npy"
    for seed, path in enumerate(paths):
        np.save(path, noise(count, seed))
    return paths
