"""What a training leaves in its folder: the numbers of every step, and checkpoints to resume from."""

import json
import logging
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from samuel.artifacts import find_artifact, replacing
from samuel.checkpoint import load_tensors, save_tensors
from samuel.errors import CheckpointError, MissingPartError

logger = logging.getLogger(__name__)

PENDING_EVENTS = 1000  # that may wait for TensorBoard's own thread before a step has to


class MetricsLog:
    """Rows of numbers, one a step: JSON lines, and TensorBoard's event files where they are wanted.

    A row survives the death of the process from the moment `append` returns, and a power cut once `flush` has
    returned. The event files are for looking at: a killed process loses what it wrote since the last `flush`.
    """

    def __init__(self, path: Path, tensorboard: Path | None = None, *, last_step: float = math.inf) -> None:
        """Open the log behind the row of `last_step`; later rows go, and those that a power cut damaged.

        Args:
            path: The JSON lines.
            tensorboard: Folder of the event files; None: there are none, and nothing is imported for them.
            last_step: Step of the checkpoint that the training resumes from.

        Raises:
            MissingPartError: Event files are wanted and the package `tensorboard` is missing.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [(line, row["step"]) for line, row in _whole_lines(path) if row["step"] <= last_step]
        next_step = 1 + max((step for _, step in kept), default=0)
        self._events = _open_events(tensorboard, next_step) if tensorboard else None
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(line for line, _ in kept))
        self._file = path.open("a", encoding="utf-8")

    def append(self, row: dict[str, Any]) -> None:
        """Add one row; `step` is its number, and every other number becomes a curve in TensorBoard."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._events:
            for name in (name for name in row if name != "step"):
                self._events.add_scalar(name, row[name], row["step"])

    def flush(self) -> None:
        """Force the rows to disk; done before a checkpoint, the log never lacks a step of it."""
        os.fsync(self._file.fileno())
        if self._events:
            self._events.flush()

    def close(self) -> None:
        """End the writing."""
        self._file.close()
        if self._events:
            self._events.close()


def _whole_lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each line with its row, up to the first that a kill or a power cut left damaged."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not (isinstance(row, dict) and "step" in row and line.endswith(b"\n")):
            logger.warning("%s: line %d is damaged; it and what follows are left out", path, number)
            return
        yield line, row


def _open_events(folder: Path, step: int) -> Any:
    """Open torch's SummaryWriter; whatever an earlier process wrote from `step` on is hidden."""
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise MissingPartError(
            "training.tensorboard needs the package tensorboard: pip install 'samuel[tensorboard]', "
            "or set training.tensorboard to false"
        ) from error
    return SummaryWriter(str(folder), purge_step=step, max_queue=PENDING_EVENTS)


@dataclass
class Progress:
    """Where a training stands.

    Attributes:
        step: Steps taken.
        best_step: That of the best validation.
        best_loss: Its loss.
        without_gain: Validations since then.
        recent: The error of v over the last steps, by which a training that diverges is known.
    """

    step: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    without_gain: int = 0
    recent: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoints:
    """The folders `step-*` of a training; each holds all that it needs to go on, or to end.

    Attributes:
        folder: Where they lie.
        origin: Dataset and settings of the training; a checkpoint of another origin is refused.
        keep: How many of the newest stay.
    """

    folder: Path
    origin: dict[str, Any]
    keep: int

    def save(self, tensors: dict[str, dict[str, Tensor]], progress: Progress) -> None:
        """Write a checkpoint, then remove those that are no longer kept."""
        record = {"progress": asdict(progress), "origin": self.origin}
        save_tensors(self.folder / f"step-{progress.step:08d}", tensors, record)
        whole = [folder for folder in _newest_first(self.folder) if find_artifact(folder)]
        for folder in set(_newest_first(self.folder)) - set(whole[: self.keep]):
            shutil.rmtree(folder)

    def load(self) -> tuple[dict[str, dict[str, Tensor]], Progress] | None:
        """Read the newest whole checkpoint; None where there is none.

        Raises:
            CheckpointError: It is damaged, or of another origin; names what differs.
        """
        found = next(filter(None, map(find_artifact, _newest_first(self.folder))), None)
        if found is None:
            return None
        if differing := _differences(found.record["origin"], self.origin):
            raise CheckpointError(
                f"{found.folder}: of another training, {'; '.join(differing)}; give back what was changed, "
                f"or delete {self.folder} to begin again"
            )
        return load_tensors(found.folder), Progress(**found.record["progress"])


def clear_checkpoints(folder: Path) -> None:
    """Remove what only an unfinished training needs."""
    for checkpoint in _newest_first(folder):
        shutil.rmtree(checkpoint)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _differences(there: dict[str, Any], here: dict[str, Any], within: str = "") -> list[str]:
    lines: list[str] = []
    for name in sorted({*there, *here}):
        old, new = there.get(name), here.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += _differences(old, new, f"{within}{name}.")
        elif old != new:
            what = (
                "another dataset" if name == "dataset" else f"{within}{name} is {old!r} there, {new!r} here"
            )
            lines.append(what)
    return lines
