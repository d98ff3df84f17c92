"""What a training leaves in its folder: the numbers of every step, and where it stands."""

import json
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samuel.artifacts import replacing
from samuel.errors import DatasetError, MissingPartError

logger = logging.getLogger(__name__)

PENDING_EVENTS = 1000  # that may wait for TensorBoard's own thread before a step has to
DIVERGED = 3.0
"""Mean squared error of v, over `WINDOW` steps, that no training comes back from: zero as answer has 1."""
WINDOW = 20


class MetricsLog:
    """Rows of numbers, one a step: JSON lines, and TensorBoard's event files where they are wanted.

    A row survives the death of the process from the moment `append` returns, and a power cut once `flush` has
    returned. The event files are for looking at: a killed process loses what it wrote since the last `flush`.
    """

    def __init__(self, path: Path, tensorboard: Path | None = None, *, last_step: float = math.inf) -> None:
        """Open the log behind the row of `last_step`; later rows go, and those that a power cut damaged.

        Raises:
            MissingPartError: Event files are wanted in the folder `tensorboard`, and its package is missing.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        kept, next_step = list[bytes](), 1
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        for number, line in enumerate(lines, start=1):
            try:
                step = json.loads(line[: line.index(b"\n")])["step"]
            except (ValueError, TypeError, KeyError):
                logger.warning("%s: line %d is damaged; it and what follows are left out", path, number)
                break
            if step <= last_step:
                kept.append(line)
                next_step = step + 1
        self._events: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard.writer import SummaryWriter
            except ImportError as error:
                raise MissingPartError(
                    "training.tensorboard: pip install 'samuel[tensorboard]', or set it to false"
                ) from error
            # What an earlier process wrote from `next_step` on is hidden.
            self._events = SummaryWriter(str(tensorboard), purge_step=next_step, max_queue=PENDING_EVENTS)
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(kept))
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


@dataclass
class Progress:
    """Where a training stands."""

    step: int = 0  # steps taken
    best_step: int = 0  # of the best validation
    best_loss: float = math.inf
    without_gain: int = 0  # validations since then
    recent: list[float] = field(default_factory=list)  # the error of v over the last `WINDOW` steps

    def watch(self, v_mse: float) -> None:
        """Take in the error of v of a step.

        Raises:
            DatasetError: Its mean is above `DIVERGED`.
        """
        self.recent = [*self.recent, v_mse][-WINDOW:]
        mean = sum(self.recent) / len(self.recent)
        if len(self.recent) == WINDOW and mean > DIVERGED:
            raise DatasetError(
                f"step {self.step}: the training diverged (error of v {mean:.3g} over {WINDOW} steps); lower "
                "training.learning_rate, or lengthen training.warmup_steps. Its last checkpoint is kept"
            )


def differences(there: dict[str, Any], here: dict[str, Any], within: str = "") -> Iterator[str]:
    """Yield what differs between the origins of two trainings, by the names of the settings."""
    for name in sorted({*there, *here}):
        old, new = there.get(name), here.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{within}{name}.")
        elif old != new:
            is_dataset = name == "dataset"
            yield "another dataset" if is_dataset else f"{within}{name} is {old!r} there, {new!r} here"
