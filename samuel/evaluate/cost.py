"""What a model's track costs on this machine, from the vocal's latents to sound (paper Table II).

Shapes: (1, C, T) latents.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from samuel.audio import SAMPLE_RATE
from samuel.checkpoint import TrainedModel
from samuel.codec import HOP, LATENT_CHANNELS, Codec
from samuel.config import SamplingConfig, Settings
from samuel.device import resolve_device
from samuel.evaluate.efficiency import machine_name, measure, parameters_of
from samuel.files import Entry, digest, find_entry, make_entry
from samuel.generate import accompany_latents

VERSION = 1
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
    vocal = torch.zeros(1, LATENT_CHANNELS, FRAMES)  # what it holds does not change what it costs
    render = _renderer(model, codec, config, vocal)
    found = measure(render, FRAMES * HOP / SAMPLE_RATE, REPEATS, device)
    return asdict(found) | {
        "parameters": parameters_of(model.network),
        "track_s": FRAMES * HOP / SAMPLE_RATE,
        "conditioning": "vocal",
        "tracks": REPEATS,
    }


def _renderer(
    model: TrainedModel, codec: Codec, config: SamplingConfig, vocal: torch.Tensor
) -> Callable[[], object]:
    return lambda: codec.decode(accompany_latents(vocal, model, config).float())
