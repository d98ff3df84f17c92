"""The vocal that belongs to an accompaniment, for the data loader of stable-audio-tools.

Copied into every pre-encoded set that `export_stable_audio` writes; it needs nothing else of SAMUeL.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch


def get_custom_metadata(info: dict[str, Any], audio: None) -> dict[str, torch.Tensor]:
    """The vocal's latents under `vocal`, float16 (64, N), cut like the accompaniment's.

    Args:
        info: What the loader knows of the item; where it crops, also `latent_crop_start` and
            `latent_crop_length`.
        audio: None: the loader gives latents to nobody here.
    """
    accompaniment = Path(info["latent_filename"])
    split = accompaniment.parent
    vocal = np.load(split.parent / "vocal" / split.name / accompaniment.name, allow_pickle=False)
    start = info.get("latent_crop_start", 0)
    length = info.get("latent_crop_length", vocal.shape[1])
    return {"vocal": torch.from_numpy(vocal[:, start : start + length])}
