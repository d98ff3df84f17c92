"""A whole training: begun, gone on with, or found done."""

import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from pathlib import Path
from traceback import clear_frames
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from samuel.artifacts import (
    Artifact,
    digest,
    find_artifact,
    locked,
)
from samuel.checkpoint import (
    load_state,
    load_weights,
    save_model,
    save_state,
)
from samuel.config import Settings, TrainingConfig, TrainingPrecision
from samuel.device import compiled, resolve_device, uses_bf16
from samuel.errors import CheckpointError, DatasetError, OperatorError, SettingsError, StoppedError
from samuel.model.unet import SamuelUNet
from samuel.popdb.dataset import Popdb
from samuel.popdb.loader import Batches, Latents
from samuel.train.objective import Conditioned, Objective, learning_rate_at
from samuel.train.run_log import MetricsLog
from samuel.train.validation import LEVELS, Validation

# The network as a training begins with it.


def fresh_network(settings: Settings, frames: int) -> SamuelUNet:
    """A network with weights of `training.seed`, ready for inputs of so many frames; on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        network = SamuelUNet(settings.model, settings.diffusion)
    network.rotary.reserve(frames)  # before it is copied
    return network


# The processes that train together: one, or those that torchrun started (Lightning Fabric, DDP).


if TYPE_CHECKING:
    from lightning_fabric import Fabric


def make_fabric(device: torch.device, precision: TrainingPrecision) -> "Fabric":
    """Fabric on `device`, for this process alone or, under torchrun, for all that it started.

    Gradients are then averaged over the processes. What else Fabric could find in the environment, such as
    a cluster's scheduler, is left aside: a flow's process trains alone.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    together = TorchElasticEnvironment.detect()
    world_size = int(os.environ["WORLD_SIZE"]) if together else 1
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if together else 1
    fabric = Fabric(
        accelerator=device.type,
        devices=here,
        num_nodes=world_size // here,
        strategy=DDPStrategy(broadcast_buffers=False) if together else "auto",  # they never change
        precision="bf16-mixed" if uses_bf16(device, precision) else "32-true",
        plugins=[TorchElasticEnvironment() if together else LightningEnvironment()],
    )
    fabric.launch()
    return fabric


def share_of(batch_size: int, world_size: int, accumulate: int) -> int:
    """Pairs of a batch that each of the processes has.

    Raises:
        SettingsError: They cannot be dealt evenly.
    """
    if batch_size % (world_size * accumulate):
        raise SettingsError(
            f"training.batch_size = {batch_size} cannot be dealt to {world_size} processes in "
            f"training.accumulate = {accumulate} equal parts each"
        )
    return batch_size // world_size


# Ctrl-C and SIGTERM, heard between two steps.


class Interrupt:
    """Whether somebody has asked for the end."""

    def __init__(self) -> None:
        self.wanted = False

    def __bool__(self) -> bool:
        return self.wanted


@contextmanager
def heard() -> Iterator[Interrupt]:
    """Within, the first SIGINT or SIGTERM only sets the flag that is yielded; a second one acts as ever.

    Outside the main thread, where Python hears no signals, the flag is never set.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    # None: a handler that is not Python's, which Python cannot put back.
    before = {
        number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)
    }

    def hear(_number: int, _frame: FrameType | None) -> None:
        interrupt.wanted = True
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, hear)
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# What ends a training early, and what to do about it.


DIVERGED = 3.0
"""Mean squared error of v over some steps that no training comes back from: a network that answers zero has
about 1, as the latents are normalised."""

WINDOW = 20
"""Steps whose mean is looked at: one batch says little."""

WANTS = ("can't allocate memory", "out of memory")
"""How the errors of a CPU and of an Apple GPU read, which have no class of their own."""


def watch(recent: list[float], step: int, v_mse: float) -> None:
    """Take the error of v of a step into `recent`, which holds that of the last `WINDOW` steps.

    Raises:
        DatasetError: Their mean is above `DIVERGED`.
    """
    recent[:] = [*recent, v_mse][-WINDOW:]
    mean = sum(recent) / len(recent)
    if len(recent) == WINDOW and mean > DIVERGED:
        raise DatasetError(
            f"step {step}: the error of v is {mean:.3g} over the last {WINDOW} steps, about 1 before "
            "anything is learned: the training diverged. Its last checkpoint is kept; lower "
            "training.learning_rate, or lengthen training.warmup_steps"
        )


def not_finite(step: int, loss: float, norm: float, finite: Mapping[str, bool]) -> DatasetError:
    """The error of a step whose loss or gradient is not a finite number.

    Args:
        step: Which.
        loss: Its loss.
        norm: The norm of its gradient.
        finite: Its pairs by name, and whether their latents are finite.
    """
    if broken := [name for name, whole in finite.items() if not whole]:
        return DatasetError(
            f"step {step}: NaN or infinity in the latents of {', '.join(broken)}; run samuel verify --repair"
        )
    return DatasetError(
        f"step {step}: the loss is {loss:.4g} and the gradient's norm {norm:.4g}, for pairs whose latents "
        f"are finite: {', '.join(finite)}; lower training.learning_rate, or set training.precision to fp32"
    )


def out_of_memory(
    error: BaseException, batch: int, parts: int, fits: Callable[[int], bool]
) -> OperatorError | None:
    """What to say where `error` is a want of memory; None where it is something else.

    Args:
        error: What a step raised.
        batch: Pairs of a batch on this process.
        parts: Parts it was computed in.
        fits: Tries some pairs at a time.
    """
    if not isinstance(error, torch.OutOfMemoryError) and not any(words in str(error) for words in WANTS):
        return None
    size = batch // parts
    while size > 1:
        size = max(part for part in range(1, size // 2 + 1) if batch % part == 0)  # equal parts
        if fits(size):
            return OperatorError(
                f"{batch // parts} pairs at a time do not fit in memory, {size} do: training.accumulate = "
                f"{batch // size} gives the same training, in parts of {size}"
            )
    return OperatorError("not even one pair fits in memory; free the device, or take narrower model.channels")


# The checkpoints of a training: the last few, and the best weights.


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
        kept = [entry for folder in self._newest_first() if (entry := find_artifact(folder))][: self.keep]
        _remove(set(self._newest_first()) - {entry.folder for entry in kept})
        bests = {self._best(entry.record["progress"]["best_step"]) for entry in kept}
        _remove(set(self.folder.glob("best-*")) - bests)

    def load(self, network: nn.Module, average: nn.Module, optimiser: Optimizer) -> Progress:
        """Load the newest checkpoint into the three; a fresh start where there is none.

        Raises:
            CheckpointError: It is damaged, or made of something else.
        """
        for folder in self._newest_first():
            if entry := find_artifact(folder):
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


# A network on its way (paper §IV-C, §V).
#
# Whatever is random in a step follows from (seed, step) alone: its batch, timesteps, noise and dropout. A run
# that is killed and started again therefore goes on bit for bit from its last checkpoint, and the number of
# the
# step is all the state that its data and its randomness have.
#
# Shapes: b pairs of a batch on this process, C = 64 latent channels, T frames.


class Training:
    """The network, its average, its optimiser, and the step they are at."""

    def __init__(self, popdb: Popdb, settings: Settings, folder: Path) -> None:
        self.settings, self.popdb, self.folder = settings, popdb, folder
        self.config: TrainingConfig = settings.training
        self.fabric = make_fabric(resolve_device(settings.device), self.config.precision)
        self.device, self.rank = self.fabric.device, self.fabric.global_rank
        self.world_size = self.fabric.world_size
        self.share = share_of(self.config.batch_size, self.world_size, self.config.accumulate)
        self.network = fresh_network(settings, popdb.info["chunk_frames"]).to(self.device)
        self.average = AveragedModel(
            self.network, multi_avg_fn=get_ema_multi_avg_fn(self.config.ema_decay), use_buffers=False
        )
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            fused=True,  # six times faster on a CPU, same sums
        )
        conditioned = Conditioned(self.network)
        self.module = self.fabric.setup_module(
            compiled(conditioned, self.device) if self.config.compile else conditioned
        )
        self.objective = Objective(settings, self.device)
        self.batches = Batches(popdb, self.share, self.config.seed, self.rank, self.world_size)
        self.progress = Progress()
        self.states = States(folder, made_of(popdb, settings), self.config.keep_checkpoints)
        self._ahead: tuple[int, Latents] | None = None

    @property
    def finished(self) -> bool:
        """True after the last step, or when validation has stopped gaining."""
        patience = self.config.patience
        out_of_patience = patience is not None and self.progress.without_gain >= patience
        return self.progress.step >= self.config.steps or out_of_patience

    def advance(self) -> dict[str, Any]:
        """Take one step; validate and save where the settings say so; return and record the metrics."""
        started = time.perf_counter()
        metrics = self.step()
        self.progress.step += 1
        step, last = self.progress.step, self.progress.step == self.config.steps
        row = {"step": step, **metrics, **self._pace(time.perf_counter() - started)}
        if step % self.config.validate_every == 0 or last:
            row |= self.validate()
        if self.log:
            self.log.append(row)
        watch(self.progress.recent, step, row["v_mse"])
        if step % self.config.checkpoint_every == 0 or last:
            self.save()
        return row

    def step(self) -> dict[str, float]:
        """One optimiser step on the batch, noise and dropout that belong to this step.

        Raises:
            DatasetError: The loss or the gradient is not finite; the weights are left as they were.
            OperatorError: The memory does not suffice; says what does.
        """
        step = self.progress.step
        latents = self._batch(step)
        learning_rate = self._set_learning_rate(step)
        try:
            measured = self._gradient(step, latents)
        except RuntimeError as error:  # torch's want of memory is one
            if told := self._out_of_memory(error):
                raise told from error
            raise
        self._move(measured)
        self._prefetch(step + 1)  # while a GPU computes
        loss, v_mse, norm = measured.tolist()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise not_finite(step, loss, norm, self._finite(step, latents))
        return {"loss": loss, "v_mse": v_mse, "learning_rate": learning_rate, "gradient_norm": norm}

    def _gradient(self, step: int, latents: Latents) -> Tensor:
        """Gradients of the whole batch, clipped; gives (loss, error of v, norm before clipping): (3,)."""
        vocal, x0 = latents
        first, parts = self.rank * self.share, self.config.accumulate
        whole = (self.config.batch_size, *x0.shape[1:])
        drawn = self.objective.draw(step, whole, slice(first, first + self.share))
        vocal = self.objective.augmented(step, vocal, first)
        self.optimiser.zero_grad(set_to_none=True)
        sums = torch.zeros(2, device=self.device)
        for part in range(parts):
            some = slice(part * self.share // parts, (part + 1) * self.share // parts)
            with self.fabric.no_backward_sync(self.module, enabled=part < parts - 1):
                v_mse, weight = self.objective.errors(self.module, x0[some], vocal[some], drawn.part(some))
                loss = (weight * v_mse).sum() / self.share
                self.fabric.backward(loss)
            sums += torch.stack((loss.detach(), v_mse.detach().sum() / self.share))
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        return torch.cat((self._mean(sums), norm[None]))

    def _move(self, measured: Tensor) -> None:
        """Let the optimiser act, unless what was measured is not finite: then it leaves all as it is.

        The device decides that by itself, so that nothing waits for it before the next batch is read.
        """
        self.optimiser.found_inf = (~measured.isfinite().all()).float()  # type: ignore[attr-defined]
        self.optimiser.step()
        self.average.update_parameters(self.network)

    def validate(self) -> dict[str, float]:
        """Losses of the averaged weights on held-out pairs, see `Validation`; the best weights are kept."""
        with self.fabric.autocast():
            losses = self.validation.losses(self.average, self._sum)
        if not losses["validation_loss"] < self.progress.best_loss:
            self.progress.without_gain += 1
            return losses
        self.progress.best_step, self.progress.best_loss = self.progress.step, losses["validation_loss"]
        self.progress.without_gain = 0
        if self.rank == 0:
            self.states.save_best(self.average.module, self.progress)
        return losses

    @cached_property
    def validation(self) -> Validation:
        """The held-out pairs."""
        at_a_time = max(1, self.share // self.config.accumulate // LEVELS)
        most, schedule = self.config.validation_pairs, self.objective.schedule
        return Validation(self.popdb, most, schedule, at_a_time, self.rank, self.world_size)

    @cached_property
    def log(self) -> MetricsLog | None:
        """The metrics of every step, written by the first process."""
        events = self.folder / "tensorboard" if self.config.tensorboard else None
        return MetricsLog(self.folder / "metrics.jsonl", events) if self.rank == 0 else None

    def save(self) -> None:
        """Write a checkpoint; the ones before the last few go when it is safe."""
        if self.log:
            self.log.flush()  # or a power cut could leave it behind the checkpoint
            self.states.save(self.network, self.average, self.optimiser, self.progress)
        self.fabric.barrier()

    def resume(self) -> None:
        """Go on from the newest checkpoint, where there is one; metrics written after it are dropped.

        Raises:
            CheckpointError: It is damaged, or of another training.
        """
        self.progress = self.states.load(self.network, self.average, self.optimiser)
        if self.log:
            self.log.rewind(self.progress.step)
        self.fabric.barrier()

    def close(self) -> None:
        """Close the log of metrics, where it was opened."""
        if log := vars(self).get("log"):
            log.close()

    def export(self, folder: Path) -> Artifact:
        """Write the model people share: the averaged weights of the best validation."""
        metrics = {"metrics.jsonl": (self.folder / "metrics.jsonl").read_bytes()}
        return save_model(folder, self.states.best_weights(self.progress), self._model_record(), metrics)

    def anyone(self, wants: object) -> bool:
        """Whether `wants` is true on any of the processes: all must end at the same step."""
        return bool(wants) if self.world_size == 1 else self._sum(torch.tensor(float(bool(wants)))).item() > 0

    def _model_record(self) -> dict[str, Any]:
        progress = {name: value for name, value in vars(self.progress).items() if name != "recent"}
        held_out = bool(self.popdb.pairs("validation"))
        frames = self.popdb.info["chunk_frames"]
        return {**self.states.made_of, "frames": frames, "held_out": held_out, "progress": progress}

    def _batch(self, step: int) -> Latents:
        """Vocal and accompaniment of step `step`, normalised, each (b, C, T)."""
        at, latents = self._ahead or (None, None)
        self._ahead = None
        return latents if at == step and latents else self.batches.at(step, self.device)

    def _prefetch(self, step: int) -> None:
        self._ahead = (step, self.batches.at(step, self.device)) if step < self.config.steps else None

    def _finite(self, step: int, latents: Latents) -> dict[str, bool]:
        """The pairs of the whole batch, on all processes, and whether their latents are finite."""
        here = torch.stack([half.isfinite().flatten(1).all(dim=1) for half in latents]).all(dim=0)
        flags, first = torch.zeros(self.config.batch_size, device=self.device), self.rank * self.share
        flags[first : first + self.share] = here.float()
        names = Batches(self.popdb, self.config.batch_size, self.config.seed).pair_ids(step)
        return dict(zip(names, self._sum(flags).bool().tolist(), strict=True))

    def _set_learning_rate(self, step: int) -> float:
        learning_rate = learning_rate_at(step, self.config)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        return learning_rate

    def _pace(self, seconds: float) -> dict[str, float]:
        pace = {"seconds": round(seconds, 4), "pairs_per_s": round(self.config.batch_size / seconds, 2)}
        if self.device.type == "cuda":
            pace["memory_mb"] = round(torch.cuda.max_memory_allocated(self.device) / 2**20, 1)
        return pace

    def _mean(self, values: Tensor) -> Tensor:
        return self._sum(values) / self.world_size

    def _sum(self, values: Tensor) -> Tensor:
        if self.world_size == 1:
            return values
        total = self.fabric.all_reduce(values.to(self.device), reduce_op="sum")
        assert isinstance(total, Tensor)  # noqa: S101  (as a tensor was given)
        return total.to(values.device)

    def _out_of_memory(self, error: RuntimeError) -> OperatorError | None:
        self.optimiser.zero_grad(set_to_none=True)
        clear_frames(error.__traceback__)  # they hold what did not fit
        return out_of_memory(error, self.share, self.config.accumulate, self._fits)

    def _fits(self, count: int) -> bool:
        """Whether gradients of `count` pairs at a time can be had.

        Neither by `self.module` nor by `backward`: both would wait for processes that have memory enough.
        """
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        shape = (count, self.settings.model.latent_channels, self.popdb.info["chunk_frames"])
        try:
            x0, drawn = torch.zeros(shape, device=self.device), self.objective.draw(0, shape, slice(None))
            with self.fabric.autocast():
                error = self.objective.errors(Conditioned(self.network), x0, x0, drawn)[0].mean()
            torch.autograd.grad(error, list(self.network.parameters()), allow_unused=True)
        except RuntimeError:
            return False
        return True


VERSION = 3  # raise it when the same settings and dataset give another model

OnStep = Callable[[dict[str, Any]], object]


def run_folder(popdb: Popdb, settings: Settings) -> Path:
    """`artifacts/<key>`, where the key stands for the dataset and every setting that shapes the model."""
    key = digest("train", VERSION, popdb.info["content_sha256"], *shaping(settings).values())
    return settings.artifacts / key


def fit(popdb: Popdb, settings: Settings, run: Path, on_step: OnStep) -> Artifact:
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
    if found := find_artifact(run / "model"):
        clear(run / "training")  # where a kill came between the model and this
        return found
    training = Training(popdb, settings, run / "training")
    with closing(training), ExitStack() as held:
        if training.rank == 0:
            held.enter_context(locked(run / "training"))
        found = find_artifact(run / "model")
        if not training.anyone(found):
            _train(training, on_step)
            if training.rank == 0:
                found = training.export(run / "model")
                clear(run / "training")
    training.fabric.barrier()
    if model := found or find_artifact(run / "model"):
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
