"""The checkpoints of a training: the last few, and the best weights."""

import shutil
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from samuel.checkpoint import load_state, load_weights, save_model, save_state
from samuel.config import Settings
from samuel.errors import CheckpointError
from samuel.files import find_entry
from samuel.popdb.shards import Popdb

# What does not change the model that a training ends with.
OPERATIONAL = {"checkpoint_every", "keep_checkpoints", "processes", "tensorboard"}


@dataclass
class Progress:
    """Where a training stands; all of it is in every checkpoint.

    Attributes:
        step: Steps taken.
        best_step: That of the best validation.
        best_loss: Its loss.
        without_gain: Validations since then.
        recent: The error of v over the last steps, by which a training that diverges is known.
    """

    step: int = 0
    best_step: int = 0
    best_loss: float = inf
    without_gain: int = 0
    recent: list[float] = field(default_factory=list)


def shaping(settings: Settings) -> dict[str, dict[str, Any]]:
    """The settings that determine the model, beside the dataset."""
    return {
        "model": settings.model.model_dump(mode="json"),
        "diffusion": settings.diffusion.model_dump(mode="json"),
        "training": settings.training.model_dump(mode="json", exclude=OPERATIONAL),
    }


def made_of(popdb: Popdb, settings: Settings) -> dict[str, Any]:
    """What a model and every checkpoint record of where they come from."""
    return {
        **shaping(settings),
        "stats": popdb.stats,
        "codec": popdb.info["codec"],
        "dataset": popdb.info["content_sha256"],
    }


class States:
    """The folder `training/` of a run: `step-*` to go on from, `best-*` to end with.

    Attributes:
        folder: Where.
        made_of: What the training is made of; a checkpoint that is made of something else is refused.
        keep: How many of the newest checkpoints stay.
    """

    def __init__(self, folder: Path, made_of: dict[str, Any], keep: int) -> None:
        self.folder, self.made_of, self.keep = folder, made_of, keep

    def save(self, network: nn.Module, average: nn.Module, optimiser: Optimizer, progress: Progress) -> None:
        """Write a checkpoint, then remove those that are no longer kept and the weights only they need."""
        record = {"progress": dict(vars(progress)), "made_of": self.made_of}
        save_state(self.folder / f"step-{progress.step:08d}", network, average, optimiser, record)
        kept = [entry for folder in self._newest_first() if (entry := find_entry(folder))][: self.keep]
        _remove(set(self._newest_first()) - {entry.folder for entry in kept})
        bests = {self._best(entry.record["progress"]["best_step"]) for entry in kept}
        _remove(set(self.folder.glob("best-*")) - bests)

    def load(self, network: nn.Module, average: nn.Module, optimiser: Optimizer) -> Progress:
        """Load the newest checkpoint into the three; a fresh start where there is none.

        Raises:
            CheckpointError: It is damaged, or made of something else.
        """
        for folder in self._newest_first():
            if entry := find_entry(folder):
                require_same(entry.record["made_of"], self.made_of, folder)
                record = load_state(folder, network, average, optimiser)
                return Progress(**record["progress"])
        return Progress()

    def save_best(self, average: nn.Module, progress: Progress) -> None:
        """Keep the averaged weights of the best validation so far."""
        folder, record = self._best(progress.best_step), {"validation_loss": progress.best_loss}
        if folder.exists():  # from before a kill; off a CPU, the way here again is not the same bit for bit
            _remove({folder})
        save_model(folder, average.state_dict(), record)

    def best_weights(self, progress: Progress) -> dict[str, Tensor]:
        """The averaged weights of the best validation."""
        return load_weights(self._best(progress.best_step))

    def _best(self, step: int) -> Path:
        return self.folder / f"best-{step:08d}"

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True)


def clear(folder: Path) -> None:
    """Remove what only an unfinished training needs."""
    _remove({*folder.glob("step-*"), *folder.glob("best-*")})


def require_same(there: dict[str, Any], here: dict[str, Any], folder: Path) -> None:
    """Refuse a checkpoint that is made of something else.

    Raises:
        CheckpointError: Names what differs.
    """
    if differing := list(_differences(there, here)):
        raise CheckpointError(
            f"{folder}: of another training, {'; '.join(differing)}; give back what was changed, or delete "
            f"{folder.parent} to begin again"
        )


def _differences(there: dict[str, Any], here: dict[str, Any], within: str = "") -> list[str]:
    lines: list[str] = []
    for name in sorted({*there, *here}):
        old, new, path = there.get(name), here.get(name), f"{within}{name}"
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict) and name != "stats":
            lines += _differences(old, new, f"{path}.")
        elif name in ("stats", "dataset"):
            lines.append(f"{name} of the dataset differ" if name == "stats" else "another dataset")
        else:
            lines.append(f"{path} is {old!r} there and {new!r} here")
    return lines


def _remove(folders: set[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder)
