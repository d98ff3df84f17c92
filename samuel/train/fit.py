"""A whole training: begun, gone on with, or found done."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from samuel.config import Settings
from samuel.errors import CheckpointError, StoppedError
from samuel.files import Entry, digest, find_entry, locked
from samuel.popdb.shards import Popdb
from samuel.train.interrupts import heard
from samuel.train.states import clear, shaping
from samuel.train.training import Training

VERSION = 3  # raise it when the same settings and dataset give another model

OnStep = Callable[[dict[str, Any]], object]


def run_folder(popdb: Popdb, settings: Settings) -> Path:
    """`artifacts/<key>`, where the key stands for the dataset and every setting that shapes the model."""
    key = digest("train", VERSION, popdb.info["content_sha256"], *shaping(settings).values())
    return settings.artifacts / key


def fit(popdb: Popdb, settings: Settings, run: Path, on_step: OnStep) -> Entry:
    """Train to the end, from the last checkpoint where there is one; nothing when the model is there.

    Started by torchrun, all its processes train together. Ctrl-C and SIGTERM end it after the step in hand,
    with a checkpoint.

    Args:
        popdb: The dataset.
        settings: The tree.
        run: Folder of the run; the model appears in `run/model`, metrics in `run/training/metrics.jsonl`.
        on_step: Called with the metrics of every step, by the first process.

    Raises:
        DatasetError: No training pairs, latents or a loss that are not finite, a training that diverges.
        CheckpointError: The last checkpoint is damaged, or of another training.
        OperatorError: The memory does not suffice.
        KeyboardInterrupt: It was asked to end.
        StoppedError: `on_step` raised it, to end it; there is a checkpoint.
    """
    if found := find_entry(run / "model"):
        clear(run / "training")  # where a kill came between the model and this
        return found
    training = Training(popdb, settings, run / "training")
    with closing(training), ExitStack() as held:
        if training.rank == 0:
            held.enter_context(locked(run / "training"))
        found = find_entry(run / "model")
        if not training.anyone(found):
            _train(training, on_step)
            if training.rank == 0:
                found = training.export(run / "model")
                clear(run / "training")
    training.fabric.barrier()
    if model := found or find_entry(run / "model"):
        return model
    raise CheckpointError(f"{run / 'model'}: gone after the training; start it again")


def _train(training: Training, on_step: OnStep) -> None:
    training.resume()
    with heard() as interrupt:
        while not training.finished:
            row = training.advance()
            if training.rank == 0:
                _tell(on_step, row, training)
            if training.anyone(interrupt):
                training.save()
                raise KeyboardInterrupt


def _tell(on_step: OnStep, row: dict[str, Any], training: Training) -> None:
    try:
        on_step(row)
    except StoppedError:
        training.save()
        raise
