"""A system without weights, and vocals for it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile
import torch

from samuel.audio import SAMPLE_RATE, Audio
from samuel.baselines.render import Outcome, render_folder, vocals_in
from tests.generate.voices import voice

Change = Callable[[Audio], Audio]


@dataclass
class Quieter:
    """A system that plays the vocal back at half its level, or whatever else is wanted."""

    change: Change = lambda vocal: 0.5 * vocal
    settings: dict[str, Any] = field(default_factory=lambda: {"gain": 0.5, "seed": 7})
    name: str = "Quieter"
    model: str = "none"
    parameters: int = 1
    conditioning: str = "vocal"
    seed: int = 7
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    seeds: list[int] = field(default_factory=list)

    def render(self, vocal: Audio, seed: int) -> Audio:
        self.seeds.append(seed)
        return self.change(vocal)


def write(folder: Path, *names: str, samples: int = 9_000) -> Path:
    folder.mkdir(exist_ok=True)
    for index, name in enumerate(names):
        soundfile.write(str(folder / name), voice(samples + index).T, SAMPLE_RATE, "PCM_24", format="WAV")
    return folder


def run(system: Quieter, vocals: Path, output: Path) -> list[Outcome]:
    told: list[Outcome] = []
    outcomes = render_folder(system, vocals_in(vocals, output), output, told.append)
    assert told == outcomes
    return outcomes


def about(output: Path) -> Any:
    return json.loads((output / "system.json").read_text("utf-8"))
