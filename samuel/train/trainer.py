"""A whole training: begun, resumed from its last checkpoint, or found done (paper §IV-C, §V).

All that is random in a step follows from (seed, step): a training that is killed and started again goes on
bit for bit. Shapes: b pairs of a batch on this process, C latent channels, T frames.
"""

import json
import logging
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from traceback import clear_frames
from typing import Any

import pandas as pd
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from samuel.artifacts import Artifact, digest, find_artifact, locked, replacing
from samuel.checkpoint import find_trained, load_tensors, save_model, save_tensors
from samuel.config import Settings, TrainingPrecision
from samuel.device import compiled, out_of_memory, resolve_device, uses_bf16
from samuel.errors import CheckpointError, DatasetError, OperatorError, SettingsError, StoppedError
from samuel.model.unet import SamuelUNet
from samuel.popdb.dataset import Popdb
from samuel.popdb.loader import Batches, Latents
from samuel.text import install_extra
from samuel.train.objective import ConditionDropout, Objective, learning_rate_at
from samuel.train.processes import RENDEZVOUS, meet
from samuel.train.validation import LEVELS, Validation

logger = logging.getLogger(__name__)

VERSION = 4  # raise it when the same settings and dataset give another model
# Settings that do not change the model that a training ends with.
OPERATIONAL = {"checkpoint_every", "keep_checkpoints", "processes", "tensorboard"}
DIVERGED, WINDOW = 3.0, 20  # error of v over so many steps that no training comes back from: zero has 1
OnStep = Callable[[dict[str, Any]], object]


def run_folder(popdb: Popdb, settings: Settings) -> Path:
    """Give `artifacts/<key>`, whose key stands for the dataset and every setting that shapes the model."""
    return settings.artifacts / digest("train", VERSION, *model_origin(popdb, settings).values())


def model_origin(popdb: Popdb, settings: Settings) -> dict[str, Any]:
    """Describe what determines a model; it is recorded in the model and in every checkpoint."""
    return {
        "model": settings.model.model_dump(mode="json"),
        "diffusion": settings.diffusion.model_dump(mode="json"),
        "training": settings.training.model_dump(mode="json", exclude=OPERATIONAL),
        "codec": popdb.codec.model_dump(),
        "dataset": popdb.info["content_sha256"],
    }


def fit(popdb: Popdb, settings: Settings, run: Path, on_step: OnStep) -> Artifact:
    """Train to the end, from the last checkpoint where there is one; nothing when the model is there.

    Processes of `train_together`, or of torchrun, train together. The model appears in `run/model`, metrics
    in `run/training/metrics.jsonl`; the first process calls `on_step` with the metrics of every step.

    Raises:
        DatasetError: No training pairs, latents or a loss that are not finite, a training that diverges.
        CheckpointError: The last checkpoint is damaged, or of another training.
        OperatorError: The memory does not suffice.
        KeyboardInterrupt: Ctrl-C or SIGTERM came; as after a StoppedError, there is a checkpoint.
    """
    folder = run / "training"
    if found := find_trained(run / "model"):
        clear_checkpoints(folder)  # where a kill came between the model and this
        return found
    training = Training(popdb, settings, folder)
    with closing(training), ExitStack() as held:
        if training.rank == 0:
            held.enter_context(locked(folder))
        found = find_artifact(run / "model")
        if not training.any_process(found):
            training.resume()
            with interrupts() as interrupted:
                while not training.finished:
                    row = training.advance()
                    try:
                        if training.rank == 0:
                            on_step(row)
                    except StoppedError:
                        training.save()
                        raise
                    if training.any_process(interrupted.is_set()):
                        training.save()
                        raise KeyboardInterrupt
            if training.rank == 0:
                found = training.export(run / "model")
                clear_checkpoints(folder)
    training.fabric.barrier()
    model = found or find_artifact(run / "model")
    assert model  # noqa: S101 - the first process made it
    return model


def checkpoint_folders(folder: Path) -> list[Path]:
    """The checkpoints of a training, the newest first; each holds all that it needs to go on, or to end."""
    return sorted(folder.glob("step-*"), reverse=True)


def clear_checkpoints(folder: Path) -> None:
    """Remove what only an unfinished training needs."""
    for checkpoint in checkpoint_folders(folder):
        shutil.rmtree(checkpoint)


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Yield an event that the first SIGINT or SIGTERM of the main thread sets; a second one acts as ever."""
    interrupted, handlers = threading.Event(), ExitStack()

    def interrupt(*_: object) -> None:
        interrupted.set()
        handlers.close()

    with handlers:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                # None: a handler that is not Python's, which Python cannot put back.
                before = signal.signal(number, interrupt) or signal.SIG_DFL
                handlers.callback(signal.signal, number, before)
        yield interrupted


def make_fabric(device: torch.device, precision: TrainingPrecision) -> Any:
    """Make a Fabric for this process, or all that train together; a cluster's scheduler is left aside."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    if RENDEZVOUS in os.environ:
        meet(device)  # before Fabric would, by a port
    together = RENDEZVOUS in os.environ or TorchElasticEnvironment.detect()
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if together else 1
    fabric = Fabric(
        accelerator=device.type,
        devices=here,
        num_nodes=int(os.environ["WORLD_SIZE"]) // here if together else 1,
        strategy=DDPStrategy(broadcast_buffers=False) if together else "auto",  # they never change
        precision="bf16-mixed" if uses_bf16(device, precision) else "32-true",
        plugins=[TorchElasticEnvironment() if together else LightningEnvironment()],
    )
    fabric.launch()
    return fabric


def fresh_network(settings: Settings, frames: int) -> SamuelUNet:
    """Make a network with weights of `training.seed`, ready for inputs of so many frames; on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        network = SamuelUNet(settings.model, settings.diffusion)
    network.rotary.reserve(frames)  # before it is copied
    return network


class MetricsLog:
    """Rows of numbers, one a step: JSON lines, and TensorBoard's event files where they are wanted.

    A row survives the death of the process once `append` has returned, and a power cut once `flush` has.
    """

    def __init__(self, path: Path, tensorboard: Path | None = None, *, last_step: float = math.inf) -> None:
        """Open the log behind the row of `last_step`; later rows go, and those that a power cut damaged."""
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = list[bytes]()
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
            try:
                if json.loads(line[: line.index(b"\n")])["step"] > last_step:
                    break
            except (ValueError, TypeError, KeyError):
                logger.warning("%s: damaged after %d rows; what follows is left out", path, len(kept))
                break
            kept.append(line)
        self._events: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard.writer import SummaryWriter
            except ImportError as error:
                remedy = f"{install_extra('tensorboard')}; or set it to false"
                raise OperatorError(f"training.tensorboard: {remedy}") from error
            # What an earlier process wrote of later steps is hidden.
            self._events = SummaryWriter(str(tensorboard), purge_step=len(kept) + 1, max_queue=1000)
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(kept))
        self._file = path.open("a", encoding="utf-8")

    def append(self, row: dict[str, Any]) -> None:
        """Add one row; `step` is its number, and every other number becomes a curve in TensorBoard."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name in row.keys() - {"step"} if self._events else ():
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


class Training:
    """The network, its average, its optimiser, and the step they are at."""

    def __init__(self, popdb: Popdb, settings: Settings, folder: Path) -> None:
        model = settings.model.model_copy(update={"latent_channels": popdb.codec.channels})
        self.settings = settings = settings.model_copy(update={"model": model})
        self.config = config = settings.training
        self.popdb, self.folder, self.origin = popdb, folder, model_origin(popdb, settings)
        self.frames: int = popdb.info["chunk_frames"]
        self.fabric = fabric = make_fabric(resolve_device(settings.device), config.precision)
        self.device, self.rank, self.world_size = fabric.device, fabric.global_rank, fabric.world_size
        if config.batch_size % (self.world_size * config.accumulate):
            parts = f"{self.world_size} processes in training.accumulate = {config.accumulate} equal parts"
            raise SettingsError(f"training.batch_size = {config.batch_size} cannot be dealt to {parts} each")
        self.share = config.batch_size // self.world_size  # b
        self.network = fresh_network(settings, self.frames).to(self.device)
        average = get_ema_multi_avg_fn(config.ema_decay)
        self.average = AveragedModel(self.network, multi_avg_fn=average, use_buffers=False)
        # Fused is six times faster on a CPU, with the same sums.
        chosen = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": True}
        self.optimiser = torch.optim.AdamW(self.network.parameters(), **chosen)
        module = ConditionDropout(self.network)
        self.module = fabric.setup_module(compiled(module, self.device) if config.compile else module)
        self.objective = Objective(settings, self.device)
        self.batches = Batches(popdb, self.share, config.seed, self.rank, self.world_size)
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}  # averaged weights of the best validation, on the first process
        self.log: MetricsLog | None = None  # on the first process, from `resume` on
        self._ahead: dict[int, Latents] = {}
        self._validation: Validation | None = None

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, if any; metrics written after it are dropped."""
        if saved := next(filter(None, map(find_artifact, checkpoint_folders(self.folder))), None):
            try:
                self._restore(saved)
            except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                fault = f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
                remedy = f"delete {self.folder} to begin again"
                raise CheckpointError(f"{saved.folder}: not a checkpoint ({fault}); {remedy}") from error
        if self.rank == 0:
            events = self.folder / "tensorboard" if self.config.tensorboard else None
            self.log = MetricsLog(self.folder / "metrics.jsonl", events, last_step=self.progress.step)
        self.fabric.barrier()

    def _restore(self, saved: Artifact) -> None:
        both = pd.json_normalize([saved.record["origin"], self.origin]).astype(object)
        pairs = both.items()
        changed = [f"{name} is {old!r} there, {new!r} here" for name, (old, new) in pairs if old != new]
        if changed:
            remedy = f"give back what was changed, or delete {self.folder} to begin again"
            raise CheckpointError(f"{saved.folder}: of another training, {'; '.join(changed)}; {remedy}")
        tensors = load_tensors(saved.folder)
        progress = json.dumps(saved.record["progress"])
        self.progress = TypeAdapter(Progress).validate_json(progress, strict=True)
        self.network.load_state_dict(tensors["network"])
        self.average.load_state_dict(tensors["average"])
        parameters = list(self.network.parameters())
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors["optimiser"].items():
            parameter, key = name.split(".")
            if tensor.numel() not in (1, parameters[int(parameter)].numel()):
                raise ValueError(f"{name} is of shape {tuple(tensor.shape)}")
            moments.setdefault(int(parameter), {})[key] = tensor
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self.best = tensors["best"] if self.rank == 0 else {}

    def save(self) -> None:
        """Write a checkpoint; the ones before the last few go when it is safe."""
        if self.log:
            self.log.flush()  # or a power cut could leave it behind the checkpoint
            moments = self.optimiser.state_dict()["state"]
            tensors = {
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "optimiser": {f"{i}.{key}": value for i, of in moments.items() for key, value in of.items()},
                "best": self.best,
            }
            record = {"progress": asdict(self.progress), "origin": self.origin}
            save_tensors(self.folder / f"step-{self.progress.step:08d}", tensors, record)
            folders = checkpoint_folders(self.folder)
            whole = [folder for folder in folders if find_artifact(folder)]
            for folder in set(folders) - set(whole[: self.config.keep_checkpoints]):
                shutil.rmtree(folder)
        self.fabric.barrier()

    def export(self, folder: Path) -> Artifact:
        """Write the model people share: the averaged weights of the best validation."""
        record = self.origin | {
            "stats": self.popdb.stats,
            "frames": self.frames,
            "held_out": bool(self.popdb.pairs("validation")),
            "progress": {name: value for name, value in vars(self.progress).items() if name != "recent"},
        }
        metrics = (self.folder / "metrics.jsonl").read_bytes()
        return save_model(folder, self.best, record, {"metrics.jsonl": metrics})

    def close(self) -> None:
        """Close the log of metrics, where it was opened."""
        if self.log:
            self.log.close()

    @property
    def finished(self) -> bool:
        """True after the last step, or when validation has stopped gaining."""
        patience = self.config.patience or math.inf
        return self.progress.step >= self.config.steps or self.progress.without_gain >= patience

    def advance(self) -> dict[str, Any]:
        """Take one step; validate and save where the settings say so; return and record the metrics."""
        started = time.perf_counter()
        row = {"step": self.progress.step + 1, **self.step()}
        seconds = time.perf_counter() - started
        row |= {"seconds": round(seconds, 4), "pairs_per_s": round(self.config.batch_size / seconds, 2)}
        if self.device.type == "cuda":
            row["memory_mb"] = round(torch.cuda.max_memory_allocated(self.device) / 2**20, 1)
        self.progress.step = step = self.progress.step + 1
        last = step == self.config.steps
        if step % self.config.validate_every == 0 or last:
            row |= self.validate()
        if self.log:
            self.log.append(row)
        self.progress.recent = recent = [*self.progress.recent, row["v_mse"]][-WINDOW:]
        if len(recent) == WINDOW and (mean := sum(recent) / WINDOW) > DIVERGED:
            remedy = "lower training.learning_rate; its last checkpoint is kept"
            raise DatasetError(f"step {step}: the training diverged (error of v {mean:.3g}); {remedy}")
        if step % self.config.checkpoint_every == 0 or last:
            self.save()
        return row

    def step(self) -> dict[str, float]:
        """Take one optimiser step; where the loss or gradient is not finite, the weights are left alone."""
        step, config = self.progress.step, self.config
        latents = self._ahead.pop(step, None) or self.batches.at(step, self.device)
        learning_rate = learning_rate_at(step, config)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        try:
            measured = self._gradient(step, latents)
        except RuntimeError as error:
            if not (out_of_memory(error) or "can't allocate memory" in str(error)):  # a CPU's words
                raise
            self.optimiser.zero_grad(set_to_none=True)
            clear_frames(error.__traceback__)  # they hold what did not fit
            more = range(config.accumulate + 1, self.share + 1)
            parts = next((parts for parts in more if self.share % parts == 0), None)
            remedy = f"training.accumulate = {parts}" if parts else "narrower model.channels"
            size = self.share // config.accumulate
            raise OperatorError(f"{size} pairs at a time do not fit in memory; take {remedy}") from error
        # Where it is not finite the optimiser leaves all as it is. The device decides that by itself, so that
        # nothing waits for it before the next batch is read.
        self.optimiser.found_inf = (~measured.isfinite().all()).float()  # type: ignore[attr-defined]
        self.optimiser.step()
        self.average.update_parameters(self.network)
        if step + 1 < config.steps:
            self._ahead = {step + 1: self.batches.at(step + 1, self.device)}  # while a GPU computes
        loss, v_mse, norm = measured.tolist()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            finite = torch.stack([half.isfinite().flatten(1).all(dim=1) for half in latents]).all(dim=0)
            pairs = zip(self.batches.pair_ids(step), finite, strict=True)
            if names := ", ".join(name for name, good in pairs if not good):
                broken = f"NaN or infinity in the latents of {names}"
                raise DatasetError(f"step {step}: {broken}; run samuel verify")
            remedy = "lower training.learning_rate, or set training.precision to fp32"
            numbers = f"loss {loss:.4g}, gradient norm {norm:.4g} from latents that are finite"
            raise DatasetError(f"step {step}: {numbers}; {remedy}")
        return {"loss": loss, "v_mse": v_mse, "learning_rate": learning_rate, "gradient_norm": norm}

    def _gradient(self, step: int, latents: Latents) -> Tensor:
        """Gradients of the whole batch, clipped; gives (loss, error of v, norm before clipping): (3,)."""
        vocal, x0 = latents
        first, parts = self.rank * self.share, self.config.accumulate
        noise = self.objective.draw(step, (self.config.batch_size, *x0.shape[1:]))
        noise, vocal = noise.of(slice(first, first + self.share)), self.objective.augment(step, vocal, first)
        self.optimiser.zero_grad(set_to_none=True)
        sums = torch.zeros(2, device=self.device)
        for part in range(parts):
            items = slice(part * self.share // parts, (part + 1) * self.share // parts)
            with self.fabric.no_backward_sync(self.module, enabled=part < parts - 1):
                given = (x0[items], vocal[items], noise.of(items))
                v_mse, weight = self.objective.errors(self.module, *given)
                loss = (weight * v_mse).sum() / self.share
                self.fabric.backward(loss)
            sums += torch.stack((loss.detach(), v_mse.detach().sum() / self.share))
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        return torch.cat((self._sum(sums) / self.world_size, norm[None]))

    def validate(self) -> dict[str, float]:
        """Measure the averaged weights on held-out pairs, see `Validation`; the best weights are kept."""
        config, progress = self.config, self.progress
        self._validation = self._validation or Validation(
            self.popdb, config.validation_pairs, self.objective.schedule,
            max(1, self.share // config.accumulate // LEVELS), self.rank, self.world_size,
        )  # fmt: skip
        with self.fabric.autocast():
            losses = self._validation.losses(self.average, self._sum)
        progress.without_gain += 1
        if losses["validation_loss"] < progress.best_loss:
            progress.best_step, progress.best_loss = progress.step, losses["validation_loss"]
            progress.without_gain = 0
            if self.rank == 0:
                averaged = self.average.module.state_dict()
                self.best = {name: tensor.detach().cpu().clone() for name, tensor in averaged.items()}
        return losses

    def any_process(self, condition: object) -> bool:
        """Tell whether a condition is true on any of the processes: all must end at the same step."""
        return self._sum(torch.tensor(float(bool(condition)))).item() > 0

    def _sum(self, values: Tensor) -> Tensor:
        if self.world_size == 1:
            return values
        return self.fabric.all_reduce(values.to(self.device), reduce_op="sum").to(values.device)
