"""How few steps a sampler may take: Fréchet distance to true latents against that of the paper's 800 steps.

Shapes: N items, C channels, T frames.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.clock import seconds
from samuel.artifacts import digest, read_jsonl
from samuel.checkpoint import TrainedModel
from samuel.config import Sampler, SamplingConfig, parse
from samuel.device import inference, uses_bf16
from samuel.errors import CheckpointError, InputError
from samuel.evaluate.distribution import frechet_distance
from samuel.model.diffusion import CosineSchedule
from samuel.model.sample import sample
from samuel.popdb.dataset import Popdb
from samuel.popdb.loader import evaluation_dataset

ITEMS = 64
BATCH = 16
REFERENCE: tuple[Sampler, int] = ("ddpm", 800)
"""The paper's."""
CANDIDATES: tuple[tuple[Sampler, int], ...] = (
    ("dpmsolver++", 6), ("dpmsolver++", 8), ("dpmsolver++", 10), ("dpmsolver++", 12), ("dpmsolver++", 16),
    ("dpmsolver++", 20), ("dpmsolver++", 30), ("unipc", 6), ("unipc", 8), ("unipc", 10), ("unipc", 12),
    ("unipc", 16), ("unipc", 20), ("ddim", 10), ("ddim", 20), ("ddim", 50), ("ddpm", 50),
)  # fmt: skip

Row = dict[str, Any]


def plan(guidance_scale: float, seeds: int, reference_seeds: int) -> list[SamplingConfig]:
    """What is drawn: every candidate with its seeds, and the reference last, as it takes longest.

    Raises:
        SettingsError: No accompaniment can be guided so.
    """
    of_all = {"guidance_scale": guidance_scale}
    return [
        parse({"sampling": {**of_all, "sampler": sampler, "steps": steps, "seed": seed}}).sampling
        for sampler, steps in (*CANDIDATES, REFERENCE)
        for seed in range(reference_seeds if (sampler, steps) == REFERENCE else seeds)
    ]


def draws(
    model: TrainedModel, popdb: Popdb, planned: Sequence[SamplingConfig], frames: int, record: Path
) -> Iterator[Row]:
    """Draw accompaniments of held-out vocals with every setting, or find what was drawn.

    Args:
        model: A trained model.
        popdb: Where the vocals, and the true accompaniments, come from.
        planned: From `plan`.
        frames: Length of an item.
        record: JSON lines of what was drawn with whatever model; what is in it is not drawn again.

    Yields:
        For each setting: key (which model, dataset and length), the fields of its `SamplingConfig`, frechet,
        and the seconds that the drawing took.

    Raises:
        CheckpointError: The model learned another codec's latents.
        InputError: An item is longer than a pair of the dataset, or shorter than two frames.
    """
    vocal, true = held_out(popdb, frames)
    if model.codec != popdb.codec:
        raise CheckpointError(
            f"the model learned latents of {model.codec}, {popdb.location} holds {popdb.codec}"
        )
    key = digest(model.sha256, popdb.info, frames)
    _end_with_whole_line(record)
    drawn = {_config(row): row for row in read_jsonl(record) if row["key"] == key}
    for config in planned:
        if config not in drawn:
            row = {"key": key, **config.model_dump(mode="json"), **_draw(model, vocal, true, config)}
            with record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            drawn[config] = row
        yield drawn[config]


def table(rows: Sequence[Row]) -> list[dict[str, str]]:
    """A row for each setting: mean and deviation over its seeds, and the ratio to the reference's mean."""
    distances: dict[SamplingConfig, list[float]] = {}
    for row in rows:
        distances.setdefault(_config(row).model_copy(update={"seed": 0}), []).append(row["frechet"])
    sampler, steps = REFERENCE
    return [
        {
            "sampler": config.sampler,
            "steps": str(config.steps),
            "guidance": _guidance(config),
            "Fréchet distance": _spread(values),
            "to the reference": _ratio(
                values, distances.get(config.model_copy(update={"sampler": sampler, "steps": steps}), [])
            ),
        }
        for config, values in distances.items()
    ]


def held_out(popdb: Popdb, frames: int) -> tuple[Tensor, Tensor]:
    """Vocals and accompaniments of `ITEMS` stretches spread evenly over the held-out pairs.

    Pairs are cut into as many stretches of `frames` frames as they hold. A small dataset gives fewer items.

    Returns:
        Codec latents, float32, each (N, C, frames).

    Raises:
        InputError: No pair is as long, or a stretch has less than two frames.
    """
    pairs, length = evaluation_dataset(popdb), popdb.shape[1]
    if not 2 <= frames <= length:
        raise InputError(
            f"items of {frames} frames: give from 2 to {length}, the length of a pair of the dataset"
        )
    stretches = [
        (place, start) for place in range(len(pairs)) for start in range(0, length - frames + 1, frames)
    ]
    chosen = np.linspace(0, len(stretches) - 1, min(ITEMS, len(stretches))).round().astype(int)
    vocals, accompaniments = [], []
    for place, start in (stretches[number] for number in chosen):
        vocal, accompaniment = pairs[place]
        vocals.append(vocal[:, start : start + frames])
        accompaniments.append(accompaniment[:, start : start + frames])
    return torch.stack(vocals).float(), torch.stack(accompaniments).float()


def _draw(model: TrainedModel, vocal: Tensor, true: Tensor, config: SamplingConfig) -> Row:
    device = next(model.network.parameters()).device
    schedule = CosineSchedule(model.diffusion.timesteps, model.diffusion.cosine_offset)
    generator = torch.Generator().manual_seed(config.seed)
    condition = model.normaliser.vocal(vocal.to(device))
    drawn: list[Tensor] = []

    precision = "bf16" if uses_bf16(device, config.precision) else "fp32"

    def draw() -> None:
        with inference(device, precision):
            parts = condition.split(BATCH)
            drawn.extend(sample(model.network, part, schedule, config, generator) for part in parts)

    elapsed_s = seconds(draw, device)
    distance = frechet_distance(torch.cat(drawn).float(), model.normaliser.accompaniment(true.to(device)))
    return {"frechet": distance, "seconds": elapsed_s}


def _config(row: Row) -> SamplingConfig:
    """The settings of a row; one that is older than a setting was drawn with its default."""
    return SamplingConfig.model_validate({k: v for k, v in row.items() if k in SamplingConfig.model_fields})


def _end_with_whole_line(record: Path) -> None:
    """Cut off what a kill left of a line, or the next one would be written behind it."""
    if record.exists():
        os.truncate(record, record.read_bytes().rfind(b"\n") + 1)


def _guidance(config: SamplingConfig) -> str:
    """The scale, and whatever else is not as in the defaults."""
    named = {"sampler", "steps", "guidance_scale", "seed"}
    others = config.model_dump(mode="json", exclude=named, exclude_defaults=True)
    return ", ".join([f"{config.guidance_scale:g}", *(f"{name} = {value}" for name, value in others.items())])


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{mean(values):.3f}"


def _ratio(values: Sequence[float], reference: Sequence[float]) -> str:
    return f"{mean(values) / mean(reference):.3f}" if reference else ""
