"""The fit: one step, one validation, the loop (paper §IV-C, §V).

Whatever is random in a step follows from (seed, step) alone: its batch, timesteps, noise and dropout. A run
that is killed and started again therefore goes on bit for bit from its last checkpoint.

Shapes: B batch, C = 64 latent channels, T frames.
"""

import math
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from samuel.checkpoint import load_state, load_weights, save_model, save_state
from samuel.config import Settings, TrainingConfig
from samuel.dataset import Batches, Normaliser, evaluation_pairs
from samuel.device import resolve_device
from samuel.errors import DatasetError
from samuel.files import Entry, append_jsonl, digest, find_entry, locked, read_jsonl, replacing
from samuel.model.diffusion import CosineSchedule, drop_condition, loss_weight, q_sample, v_target
from samuel.model.unet import SamuelUNet
from samuel.popdb.shards import Popdb

VERSION = 2  # raise it when the same settings and dataset give another model
VALIDATION_LEVELS = 4  # noise levels at which each held-out pair is scored
VALIDATION_SEED = 20_250_727  # the same noise for every run, so that their losses compare

OnStep = Callable[[dict[str, Any]], object]


def run_folder(popdb: Popdb, settings: Settings) -> Path:
    """`artifacts/<key>`, where the key stands for the dataset and every setting that shapes the model."""
    shaping = [settings.model, settings.diffusion, settings.training]
    values = [section.model_dump(mode="json") for section in shaping]
    return settings.artifacts / digest("train", VERSION, popdb.info["content_sha256"], *values)


def fit(popdb: Popdb, settings: Settings, run: Path, on_step: OnStep) -> Entry:
    """Train to the end, from the last checkpoint where there is one; nothing when the model is there.

    Args:
        popdb: The dataset.
        settings: The tree.
        run: Folder of the run; the model appears in `run/model`, metrics in `run/training/metrics.jsonl`.
        on_step: Called with the metrics of every step.

    Raises:
        DatasetError: No training pairs, or a loss that is not finite.
        CheckpointError: The last checkpoint is damaged.
    """
    with locked(run / "training"):
        if found := find_entry(run / "model"):
            return found
        training = Training(popdb, settings, run / "training")
        training.resume()
        while not training.finished:
            on_step(training.advance())
        model = training.export(run / "model")
        training.clear()
        return model


@dataclass
class Progress:
    """Where a training stands; all of it is in every checkpoint."""

    step: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    without_gain: int = 0


class Training:
    """A network on its way, with what moves it."""

    def __init__(self, popdb: Popdb, settings: Settings, folder: Path) -> None:
        self.settings, self.popdb, self.folder = settings, popdb, folder
        self.config: TrainingConfig = settings.training
        self.device = resolve_device(settings.device)
        torch.manual_seed(self.config.seed)
        self.network = SamuelUNet(settings.model, settings.diffusion).to(self.device)
        self.average = AveragedModel(
            self.network, multi_avg_fn=get_ema_multi_avg_fn(self.config.ema_decay), use_buffers=False
        )
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            fused=True,  # six times faster on a CPU, same sums
        )
        diffusion = settings.diffusion
        self.schedule = CosineSchedule(diffusion.timesteps, diffusion.cosine_offset).to(self.device)
        self.weight = loss_weight(diffusion.loss_weight, self.schedule.alpha_bar, diffusion.snr_clip)
        self.batches = Batches(popdb, self.config.batch_size, self.config.seed)
        self.progress = Progress()

    @property
    def finished(self) -> bool:
        """True after the last step, or when validation has stopped gaining."""
        patience = self.config.patience
        out_of_patience = patience is not None and self.progress.without_gain >= patience
        return self.progress.step >= self.config.steps or out_of_patience

    @property
    def metrics_path(self) -> Path:
        """JSON lines, one a step."""
        return self.folder / "metrics.jsonl"

    def advance(self) -> dict[str, Any]:
        """Take one step; validate and save where the settings say so; return and record the metrics."""
        started = time.perf_counter()
        metrics = self.step()
        self.progress.step += 1
        step, last = self.progress.step, self.progress.step == self.config.steps
        metrics = {"step": step, **metrics, "seconds": round(time.perf_counter() - started, 4)}
        if step % self.config.validate_every == 0 or last:
            metrics["validation_loss"] = self.validate()
        append_jsonl(self.metrics_path, metrics)
        if step % self.config.checkpoint_every == 0 or last:
            self.save()
        return metrics

    def step(self) -> dict[str, float]:
        """One optimiser step on the batch, noise and dropout that belong to this step.

        Raises:
            DatasetError: The loss is not finite; names the pairs. The weights are left as they were.
        """
        step = self.progress.step
        vocal, x0 = self.batches.at(step, self.device)  # takes a millisecond: no worker could save more
        v_mse, weight = self.errors(
            x0, vocal, torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        )
        loss = (weight * v_mse).mean()
        if not torch.isfinite(loss):
            names = ", ".join(self.batches.pair_ids(step))
            remedy = f"look at the latents of {names}, or lower training.learning_rate"
            raise DatasetError(f"step {step}: the loss is {loss.item()}; {remedy}")
        learning_rate = learning_rate_at(step, self.config)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        self.optimiser.step()
        self.average.update_parameters(self.network)
        return {
            "loss": loss.item(),
            "v_mse": v_mse.mean().item(),
            "learning_rate": learning_rate,
            "gradient_norm": norm.item(),
        }

    def errors(self, x0: Tensor, vocal: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Squared error of v (eq. 4, 5) and weight w(t) (eq. 6), each (B,), for x0 and vocal (B, C, T).

        Timesteps are stratified over the batch: they cover [0, T) evenly, which calms the gradient.
        """
        count = x0.shape[0]
        places = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        t = (places * self.schedule.timesteps).long().to(self.device)
        eps = torch.randn(x0.shape, generator=generator).to(self.device)
        dropped = drop_condition(count, self.settings.diffusion.condition_dropout, generator).to(self.device)
        condition = self.network.condition(vocal, dropped)
        return self._v_mse(self.network, x0, condition, eps, t), self.weight[t]

    def _v_mse(self, network: nn.Module, x0: Tensor, vocal: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        with self._precision():
            predicted = network(q_sample(self.schedule, x0, eps, t), t, vocal)
        return (predicted.float() - v_target(self.schedule, x0, eps, t)).square().mean(dim=(1, 2))

    @torch.no_grad()
    def validate(self) -> float:
        """Mean unweighted error of v on held-out pairs, at fixed noise levels, by the averaged weights."""
        pairs = evaluation_pairs(self.popdb)[: self.config.validation_pairs]
        normaliser = Normaliser.of(self.popdb.stats)
        generator = torch.Generator().manual_seed(VALIDATION_SEED)
        t = ((torch.arange(VALIDATION_LEVELS) + 0.5) / VALIDATION_LEVELS * self.schedule.timesteps).long()
        self.average.eval()
        losses: list[Tensor] = []
        for pair in pairs:
            vocal, x0 = self.popdb.read([pair])
            vocal = normaliser.vocal(vocal).expand(VALIDATION_LEVELS, -1, -1).to(self.device)
            x0 = normaliser.accompaniment(x0).expand(VALIDATION_LEVELS, -1, -1).to(self.device)
            eps = torch.randn(x0.shape, generator=generator).to(self.device)
            losses.append(self._v_mse(self.average, x0, vocal, eps, t.to(self.device)).mean())
        loss = torch.stack(losses).mean().item()
        if not math.isfinite(loss):
            raise DatasetError(
                f"the validation loss is {loss}; lower training.learning_rate or verify the dataset"
            )
        self._remember_best(loss)
        return loss

    def _remember_best(self, loss: float) -> None:
        if not loss < self.progress.best_loss:
            self.progress.without_gain += 1
            return
        self.progress.best_step, self.progress.best_loss = self.progress.step, loss
        self.progress.without_gain = 0
        save_model(self._best_folder, self.average.module.state_dict(), {"validation_loss": loss})

    def save(self) -> None:
        """Write a checkpoint; the ones before it go when it is safe."""
        folder = self.folder / f"step-{self.progress.step:08d}"
        save_state(folder, self.network, self.average, self.optimiser, vars(self.progress))
        self._keep_only("step-*", folder)
        self._keep_only("best-*", self._best_folder)

    def resume(self) -> None:
        """Go on from the newest checkpoint, where there is one; metrics written after it are dropped."""
        for folder in sorted(self.folder.glob("step-*"), reverse=True):
            if find_entry(folder):
                self.progress = Progress(**load_state(folder, self.network, self.average, self.optimiser))
                break
        kept = [row for row in read_jsonl(self.metrics_path) if row["step"] <= self.progress.step]
        with replacing(self.metrics_path) as temporary:
            temporary.touch()
            for row in kept:
                append_jsonl(temporary, row)

    def export(self, folder: Path) -> Entry:
        """Write the model people share: the averaged weights of the best validation."""
        metrics = {"metrics.jsonl": self.metrics_path.read_bytes()}
        return save_model(folder, load_weights(self._best_folder), self._model_record(), metrics)

    def clear(self) -> None:
        """Remove what only an unfinished training needs."""
        self._keep_only("step-*", None)
        self._keep_only("best-*", None)

    def _model_record(self) -> dict[str, Any]:
        return {
            "model": self.settings.model.model_dump(mode="json"),
            "diffusion": self.settings.diffusion.model_dump(mode="json"),
            "training": self.config.model_dump(mode="json"),
            "stats": self.popdb.stats,
            "codec": self.popdb.info["codec"],
            "dataset": self.popdb.info["content_sha256"],
            "held_out": bool(self.popdb.pairs("validation")),
            "progress": vars(self.progress),
        }

    @property
    def _best_folder(self) -> Path:
        return self.folder / f"best-{self.progress.best_step:08d}"

    def _keep_only(self, pattern: str, kept: Path | None) -> None:
        for folder in self.folder.glob(pattern):
            if folder != kept:
                shutil.rmtree(folder)

    def _precision(self) -> AbstractContextManager[Any]:
        if self.device.type == "cuda" and torch.cuda.is_bf16_supported():
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then cosine annealing to zero at the last step (paper §V)."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
