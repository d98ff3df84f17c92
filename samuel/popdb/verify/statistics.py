"""Are the figures of `stats.json` those of the training pairs?

They are recomputed over all of them in float64, so they differ from the writer's by its rounding to eight
digits and by the order of the additions. The tolerance, a hundred-thousandth, is a thousand times that; it is
relative to |mean| + deviation, as the deviation is a difference of squares.

Shapes: C = 64 latent channels, T frames.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from samuel.popdb.shards.manifest import STATS, Stats
from samuel.popdb.shards.tensors import CHANNELS, STREAMS, Halves
from samuel.popdb.statistics import STILL
from samuel.popdb.verify.fault import Fault

TOLERANCE = 1e-5

Float64 = NDArray[np.float64]


@dataclass
class Sums:
    """Sums over pairs.

    Attributes:
        pairs: How many.
        frames: Frames of all of them.
        values: By stream, the sum of the values and that of their squares: (2, 2, C).
    """

    pairs: int = 0
    frames: int = 0
    values: Float64 = field(default_factory=lambda: np.zeros((len(STREAMS), 2, CHANNELS)))

    def add(self, *pair: Halves) -> None:
        """Count vocal and accompaniment of a pair, each (C, T)."""
        for stream, latents in enumerate(pair):
            # In NumPy: PyTorch's threads and those over the shards would stand in each other's way.
            values = latents.astype(np.float64)
            self.values[stream] += values.sum(axis=1), np.einsum("ct,ct->c", values, values)
        self.pairs += 1
        self.frames += pair[0].shape[1]

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.pairs + other.pairs, self.frames + other.frames, self.values + other.values)

    def figures(self) -> dict[str, dict[str, Float64]]:
        """Mean and deviation (C,) by stream, as `stats.json` has them."""
        mean, squares = self.values[:, 0] / self.frames, self.values[:, 1] / self.frames
        std = np.sqrt(np.maximum(squares - mean**2, 0.0))
        std[std < STILL] = 1.0
        return {stream: {"mean": mean[i], "std": std[i]} for i, stream in enumerate(STREAMS)}


def statistics_faults(content: bytes, sums: Sums, training: int) -> list[Fault]:
    """What is wrong with the content of `stats.json`.

    Args:
        content: It.
        sums: Over the sound training pairs.
        training: How many training pairs there are; where some are not sound, nothing can be compared, and
            a repair computes the figures anew in any case.
    """
    try:
        stats = Stats.model_validate_json(content).model_dump()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part)[:80] for part in first["loc"])
        return [Fault(f"{STATS}: {where}: {first['msg']}")]
    if sums.pairs != training or not training:
        return []
    return [
        fault
        for stream, figures in sums.figures().items()
        for fault in _faults(stream, stats[stream], figures)
    ]


def _faults(stream: str, said: Mapping[str, list[float]], figures: Mapping[str, Float64]) -> list[Fault]:
    allowed = TOLERANCE * (np.abs(figures["mean"]) + figures["std"])
    faults = []
    for name, right in figures.items():
        wrong = np.flatnonzero(np.abs(np.array(said[name]) - right) > allowed)
        if wrong.size:
            channel = int(wrong[0])
            example = (
                f"channel {channel} has {said[name][channel]:.6g}, the training pairs {right[channel]:.6g}"
            )
            faults.append(Fault(f"{STATS}: {stream} {name} of {wrong.size} channels: {example}"))
    return faults
