"""A network on its way (paper §IV-C, §V).

Whatever is random in a step follows from (seed, step) alone: its batch, timesteps, noise and dropout. A run
that is killed and started again therefore goes on bit for bit from its last checkpoint, and the number of the
step is all the state that its data and its randomness have.

Shapes: b pairs of a batch on this process, C = 64 latent channels, T frames.
"""

import math
import time
from functools import cached_property
from pathlib import Path
from traceback import clear_frames
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from samuel.checkpoint import save_model
from samuel.config import Settings, TrainingConfig
from samuel.dataset import Batches, Latents
from samuel.device import compiled, resolve_device
from samuel.errors import OperatorError
from samuel.files import Entry
from samuel.popdb.shards import Popdb
from samuel.train.faults import not_finite, out_of_memory, watch
from samuel.train.learning_rate import learning_rate_at
from samuel.train.metrics import MetricsLog
from samuel.train.network import fresh_network
from samuel.train.objective import Conditioned, Objective
from samuel.train.processes import make_fabric, share_of
from samuel.train.states import Progress, States, made_of
from samuel.train.validation import LEVELS, Validation


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

    def export(self, folder: Path) -> Entry:
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
