"""The loop of training against the bare step: what loader, logging and bookkeeping cost."""

import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import torch

from benchmarks.loader import noise, write_noise
from benchmarks.measure import Figure, Work, fastest
from samuel.config import Settings, parse
from samuel.train import Training

PAIRS, FRAMES, BATCH = 64, 1024, 16  # the paper's batch
STEPS = {"cpu": 4, "cuda": 40, "mps": 20}


def rows(settings: Settings) -> Iterator[Figure]:
    """Yield (what, figure): steps per second of the loop and of the bare step, in turns.

    The bare step has its batch in memory; validation and checkpoints are apart.
    """
    never, values = 10**9, settings.model_dump(mode="json")
    values["training"] |= dict.fromkeys(("steps", "validate_every", "checkpoint_every"), never)
    values["training"]["batch_size"] = BATCH
    with tempfile.TemporaryDirectory() as folder:
        popdb = write_noise(Path(folder) / "popdb", noise(PAIRS, FRAMES))
        with closing(Training(popdb, parse(values), Path(folder) / "run")) as training:
            steps = range(STEPS[training.device.type])
            bare = bare_step(training)
            works: dict[str, Work] = {
                "loop": lambda: [training.advance() for _ in steps],
                "bare": lambda: [bare() for _ in steps],
            }
            loop_s, bare_s = (s / len(steps) for s in fastest(works, training.device, rounds=3).values())
    yield f"bare step, batch {BATCH}", f"{bare_s:.4f} s, {BATCH / bare_s:,.1f} pairs/s"
    yield "  the training loop's", f"{loop_s:.4f} s, {bare_s / loop_s:.1%} of the bare step's rate"


def bare_step(training: Training) -> Work:
    """Make a step that does nothing but compute, always on the same batch and noise."""
    config, device = training.config, training.device
    shape = (config.batch_size, training.settings.model.latent_channels, training.popdb.info["chunk_frames"])
    vocal, x0 = torch.randn(2, *shape, device=device)
    drawn = training.objective.draw(0, shape)

    def step() -> None:
        training.optimiser.zero_grad(set_to_none=True)
        error, weight = training.objective.errors(training.module, x0, vocal, drawn)
        training.fabric.backward((error * weight).mean())
        torch.nn.utils.clip_grad_norm_(training.network.parameters(), config.gradient_clip)
        training.optimiser.step()
        training.average.update_parameters(training.network)

    return step
