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

from benchmarks.measure import Figure, seconds
from samuel.artifacts import digest
from samuel.checkpoint import TrainedModel, load_model
from samuel.config import Sampler, SamplingConfig, Settings, parse
from samuel.device import inference, resolve_device, uses_bf16
from samuel.errors import CheckpointError, InputError
from samuel.evaluate.distribution import frechet_distance
from samuel.model.diffusion import CosineSchedule
from samuel.model.sample import sample
from samuel.popdb.dataset import Popdb, open_popdb
from samuel.popdb.loader import evaluation_dataset
from samuel.reading import read_jsonl

ITEMS, BATCH = 64, 16
REFERENCE: tuple[Sampler, int] = ("ddpm", 800)  # the paper's
CANDIDATES: tuple[tuple[Sampler, int], ...] = (
    ("dpmsolver++", 6), ("dpmsolver++", 8), ("dpmsolver++", 10), ("dpmsolver++", 12), ("dpmsolver++", 16),
    ("dpmsolver++", 20), ("dpmsolver++", 30), ("unipc", 6), ("unipc", 8), ("unipc", 10), ("unipc", 12),
    ("unipc", 16), ("unipc", 20), ("ddim", 10), ("ddim", 20), ("ddim", 50), ("ddpm", 50)
)  # fmt: skip

Row = dict[str, Any]


def rows(
    settings: Settings, model: Path, record: Path, frames: int, seeds: int, reference_seeds: int
) -> Iterator[Figure]:
    """Yield (setting, distance) of every draw, then (setting, mean and deviation over its seeds)."""
    trained = load_model(model, resolve_device(settings.device))
    popdb = open_popdb(settings.popdb_path, settings.popdb.cache)
    guided = {"guidance_scale": settings.sampling.guidance_scale}
    planned = [
        parse({"sampling": {**guided, "sampler": sampler, "steps": steps, "seed": seed}}).sampling
        for sampler, steps in (*CANDIDATES, REFERENCE)  # the reference last, as it takes longest
        for seed in range(reference_seeds if (sampler, steps) == REFERENCE else seeds)
    ]
    drawn: list[Row] = []
    for row in draws(trained, popdb, planned, frames, record):
        drawn.append(row)
        setting = f"{row['sampler']}, {row['steps']} steps, seed {row['seed']}"
        yield setting, f"{row['frechet']:.3f}, {row['seconds']:.1f} s"
    yield from summary(drawn)


def draws(
    model: TrainedModel, popdb: Popdb, planned: Sequence[SamplingConfig], frames: int, record: Path
) -> Iterator[Row]:
    """Draw accompaniments of held-out vocals with every setting, or find what was drawn, in `record`.

    Yields for each its key (which model, dataset and length), fields, Fréchet distance and seconds.
    """
    vocal, true = held_out(popdb, frames)
    if model.codec != popdb.codec:
        raise CheckpointError(
            f"the model learned latents of {model.codec}, {popdb.location} has {popdb.codec}"
        )
    key = digest(model.sha256, popdb.info, frames)
    if record.exists():  # cut off what a kill left of a line, or the next one would be written behind it
        os.truncate(record, record.read_bytes().rfind(b"\n") + 1)
    drawn = {_config(row): row for row in read_jsonl(record) if row["key"] == key}
    for config in planned:
        if config not in drawn:
            row = {"key": key, **config.model_dump(mode="json"), **_draw(model, vocal, true, config)}
            with record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            drawn[config] = row
        yield drawn[config]


def summary(drawn: Sequence[Row]) -> Iterator[Figure]:
    """Yield (setting, mean and deviation over its seeds, and the ratio to the reference's mean)."""
    distances: dict[SamplingConfig, list[float]] = {}
    for row in drawn:
        distances.setdefault(_config(row).model_copy(update={"seed": 0}), []).append(row["frechet"])
    for config, values in distances.items():
        like = config.model_copy(update={"sampler": REFERENCE[0], "steps": REFERENCE[1]})
        spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
        ratio = (
            f", {mean(values) / mean(distances[like]):.3f} of the reference's" if like in distances else ""
        )
        setting = f"{config.sampler}, {config.steps} steps, guidance {config.guidance_scale:g}"
        yield setting, f"{mean(values):.3f}{spread}{ratio}"


def held_out(popdb: Popdb, frames: int) -> tuple[Tensor, Tensor]:
    """Vocals and accompaniments of `ITEMS` stretches spread evenly over the held-out pairs, each (N, C, T).

    Pairs are cut into as many stretches of `frames` frames as they hold. A small dataset gives fewer items.
    """
    pairs, length = evaluation_dataset(popdb), popdb.shape[1]
    if not 2 <= frames <= length:
        raise InputError(f"items of {frames} frames: give from 2 to {length}, the length of a pair")
    starts = range(0, length - frames + 1, frames)
    stretches = [(place, start) for place in range(len(pairs)) for start in starts]
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
    condition, drawn = model.normaliser.vocal(vocal.to(device)), list[Tensor]()

    def draw() -> None:
        with inference(device, "bf16" if uses_bf16(device, config.precision) else "fp32"):
            parts = condition.split(BATCH)
            drawn.extend(sample(model.network, part, schedule, config, generator) for part in parts)

    elapsed_s = seconds(draw, device)
    distance = frechet_distance(torch.cat(drawn).float(), model.normaliser.accompaniment(true.to(device)))
    return {"frechet": distance, "seconds": elapsed_s}


def _config(row: Row) -> SamplingConfig:
    """The settings of a row; one that is older than a setting was drawn with its default."""
    return SamplingConfig.model_validate({k: v for k, v in row.items() if k in SamplingConfig.model_fields})
