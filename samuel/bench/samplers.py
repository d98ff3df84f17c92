"""How few steps a sampler may take: Fréchet distance to true latents against that of the paper's 800 steps.

Shapes: N items, C channels, T frames.
"""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor

from samuel.checkpoint import TrainedModel
from samuel.config import Sampler, SamplingConfig
from samuel.dataset import evaluation_dataset
from samuel.evaluate.frechet import frechet_distance
from samuel.files import digest, read_jsonl
from samuel.model.diffusion import CosineSchedule
from samuel.model.sample import sample
from samuel.popdb.shards import Popdb

ITEMS = 64
BATCH = 16
SEEDS = 3
REFERENCE: tuple[Sampler, int] = ("ddpm", 800)
"""The paper's."""
CANDIDATES: tuple[tuple[Sampler, int], ...] = (
    ("dpmsolver++", 6), ("dpmsolver++", 8), ("dpmsolver++", 10), ("dpmsolver++", 12), ("dpmsolver++", 16),
    ("dpmsolver++", 20), ("dpmsolver++", 30), ("unipc", 6), ("unipc", 8), ("unipc", 10), ("unipc", 12),
    ("unipc", 16), ("unipc", 20), ("ddim", 10), ("ddim", 20), ("ddim", 50), ("ddpm", 50),
)  # fmt: skip

Row = dict[str, Any]


def draws(
    model: TrainedModel, popdb: Popdb, guidance_scale: float, frames: int, record: Path
) -> Iterator[list[Row]]:
    """Draw `ITEMS` accompaniments with every setting and seed, the reference last; yield all rows so far.

    Args:
        model: A trained model.
        popdb: Held-out pairs whose vocals are accompanied.
        guidance_scale: Of all draws.
        frames: Length of an item: pairs are cut into so many frames, and items spread evenly over them.
        record: JSON lines of what was drawn; what is in it already is not drawn again.
    """
    vocal, true = held_out(popdb, frames)
    key = digest(model.sha256, popdb.info, frames)
    rows = [row for row in read_jsonl(record) if row["key"] == key]
    for config in _configs(guidance_scale):
        if not any(_same(row, config) for row in rows):
            rows.append({"key": key, **config.model_dump(), **_draw(model, vocal, true, config)})
            with record.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
        yield rows


def table(rows: Sequence[Row]) -> list[dict[str, str]]:
    """A row for each setting: mean and deviation over the seeds, and its ratio to the reference's mean."""
    settings = dict.fromkeys((row["sampler"], row["steps"], row["guidance_scale"]) for row in rows)
    of = {key: [row for row in rows if _key(row) == key] for key in settings}
    reference = {guidance: _distances(of.get((*REFERENCE, guidance), [])) for _, _, guidance in settings}
    return [
        {
            "sampler": sampler,
            "steps": str(steps),
            "guidance": f"{guidance:g}",
            "Fréchet distance": _spread(_distances(of[sampler, steps, guidance])),
            "to the reference": _ratio(_distances(of[sampler, steps, guidance]), reference[guidance]),
        }
        for sampler, steps, guidance in settings
    ]


def held_out(popdb: Popdb, frames: int) -> tuple[Tensor, Tensor]:
    """Vocals and accompaniments of `ITEMS` stretches of held-out pairs, codec latents, each (N, C, T)."""
    pairs = evaluation_dataset(popdb)
    each = pairs[0][0].shape[-1] // frames
    places = np.linspace(0, len(pairs) * each - 1, ITEMS).round().astype(int).tolist()
    cut = [[part[:, place % each * frames :][:, :frames] for part in pairs[place // each]] for place in places]
    vocal, true = (torch.stack(parts).float() for parts in zip(*cut, strict=True))
    return vocal, true


def _configs(guidance_scale: float) -> Iterable[SamplingConfig]:
    for sampler, steps in (*CANDIDATES, REFERENCE):
        for seed in range(SEEDS):
            yield SamplingConfig(sampler=sampler, steps=steps, guidance_scale=guidance_scale, seed=seed)


def _draw(model: TrainedModel, vocal: Tensor, true: Tensor, config: SamplingConfig) -> Row:
    device = next(model.network.parameters()).device
    schedule = CosineSchedule(model.diffusion.timesteps, model.diffusion.cosine_offset)
    generator = torch.Generator().manual_seed(config.seed)
    started = time.perf_counter()
    drawn = [
        sample(model.network, part, schedule, config, generator)
        for part in model.normaliser.vocal(vocal.to(device)).split(BATCH)
    ]
    elapsed_s = time.perf_counter() - started
    distance = frechet_distance(torch.cat(drawn), model.normaliser.accompaniment(true.to(device)))
    return {"frechet": distance, "seconds": elapsed_s}


def _same(row: Row, config: SamplingConfig) -> bool:
    return all(row[name] == value for name, value in config.model_dump().items())


def _key(row: Row) -> tuple[str, int, float]:
    return row["sampler"], row["steps"], row["guidance_scale"]


def _distances(rows: Sequence[Row]) -> list[float]:
    return [row["frechet"] for row in rows]


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{mean(values):.3f}"


def _ratio(values: Sequence[float], reference: Sequence[float]) -> str:
    return f"{mean(values) / mean(reference):.3f}" if reference else ""
