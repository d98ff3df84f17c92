"""What a model's track costs on this machine, from sound to sound (paper Table II).

Shapes: (1, 2, S) audio at 44.1 kHz; (1, C, T) latents.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from samuel.audio import SAMPLE_RATE
from samuel.checkpoint import TrainedModel
from samuel.codec import HOP, Codec
from samuel.config import SamplingConfig, Settings
from samuel.device import resolve_device
from samuel.evaluate.efficiency import machine_name, measure, parameters_of
from samuel.files import Entry, digest, find_entry, make_entry
from samuel.generate import accompany_latents

VERSION = 2
FRAMES = 1024
"""47.55 s, the paper's track."""
REPEATS = 3


def make_cost(
    load: Callable[[], tuple[TrainedModel, Codec]], model: Entry, settings: Settings, root: Path
) -> Entry:
    """Measure it, or find what was measured of this model with these settings on this machine."""
    device = resolve_device(settings.device)
    made_of = (model.sha256["model.safetensors"], settings.sampling.model_dump(), settings.codec.model_dump())
    folder = root / digest("cost", VERSION, *made_of, machine_name(device))
    return find_entry(folder) or make_entry(folder, lambda _: _cost(*load(), settings.sampling, device))


def _cost(model: TrainedModel, codec: Codec, config: SamplingConfig, device: torch.device) -> dict[str, Any]:
    track_s = FRAMES * HOP / SAMPLE_RATE
    # What is sung does not change what it costs.
    vocal = 0.1 * torch.randn(1, 2, FRAMES * HOP, generator=torch.Generator().manual_seed(0))

    def render() -> object:
        latents = codec.encode(vocal)
        return codec.decode(accompany_latents(latents, model, config).float())

    return asdict(measure(render, track_s, REPEATS, device)) | {
        "parameters": parameters_of(model.network),
        "track_s": track_s,
        "conditioning": "vocal",
        "repeats": REPEATS,
        "source": "measured",
    }
