"""The loop of training against the bare step: what loader, logging and bookkeeping cost."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import torch

from benchmarks.clock import seconds
from benchmarks.loader import noise, write_noise
from samuel.config import Settings, parse
from samuel.popdb.dataset import Popdb
from samuel.train import Training

Figure = tuple[str, str]

PAIRS, FRAMES = 64, 1024
STEPS = {"cpu": 4, "cuda": 40, "mps": 20}
TURNS = 3


def training_rows(
    settings: Settings, batch_size: int = 16, pairs: int = PAIRS, frames: int = FRAMES
) -> Iterator[Figure]:
    """Yield (what, figure): steps per second of the loop and of the bare step, in turns.

    The bare step has its batch in memory and does what any training must: forward pass, gradients, clipping,
    optimiser, average. Validation and checkpoints are apart: how often they come is a setting.

    Args:
        settings: The network and the device.
        batch_size: Pairs of a step, the paper's if nothing else is said.
        pairs: Of the dataset, which is noise.
        frames: Of its chunks.
    """
    never = 10**9
    values = settings.model_dump(mode="json")
    values["training"] |= {
        "batch_size": batch_size, "steps": never, "validate_every": never, "checkpoint_every": never
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        popdb = write_noise(Path(folder) / "popdb", noise(pairs, frames))
        yield from _compared(popdb, parse(values), Path(folder))


def _compared(popdb: Popdb, settings: Settings, folder: Path) -> Iterator[Figure]:
    with closing(Training(popdb, settings, folder / "run")) as training:
        steps = STEPS[training.device.type]
        bare = bare_step(training)
        loops, bares = [], []
        for turn in range(TURNS + 1):
            loops.append(seconds(_often(training.advance, steps), training.device) / steps)
            bares.append(seconds(_often(bare, steps), training.device) / steps)
            if not turn:  # the first warms up
                loops, bares = [], []
        loop_s, bare_s = min(loops), min(bares)
    batch = settings.training.batch_size
    yield f"bare step, batch {batch}", f"{bare_s:.4f} s, {batch / bare_s:,.1f} pairs/s"
    yield "  the training loop's", f"{loop_s:.4f} s, {bare_s / loop_s:.1%} of the bare step's rate"


def bare_step(training: Training) -> Callable[[], object]:
    """A step that does nothing but compute, always on the same batch and noise."""
    config, device = training.config, training.device
    shape = (config.batch_size, training.settings.model.latent_channels, training.popdb.info["chunk_frames"])
    vocal, x0 = torch.randn(2, *shape, device=device)
    drawn = training.objective.draw(0, shape, slice(None))

    def step() -> None:
        training.optimiser.zero_grad(set_to_none=True)
        error, weight = training.objective.errors(training.module, x0, vocal, drawn)
        training.fabric.backward((error * weight).mean())
        torch.nn.utils.clip_grad_norm_(training.network.parameters(), config.gradient_clip)
        training.optimiser.step()
        training.average.update_parameters(training.network)

    return step


def _often(work: Callable[[], object], times: int) -> Callable[[], object]:
    return lambda: [work() for _ in range(times)]
