"""What a training step minimises: the weighted error of v (paper §V, eq. 4 to 6).

All that is random in a step follows from (seed, step) and an item's place in the whole batch, however many
processes share it. Shapes: B pairs of the whole batch, b of them on this process, C channels, T frames.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from samuel.config import AugmentationConfig, Settings, TrainingConfig
from samuel.model.diffusion import CosineSchedule, drop_condition, loss_weight, q_sample, v_target
from samuel.model.unet import SamuelUNet

STEP_STRIDE = 1_000_003  # runs of neighbouring seeds share their randomness only at steps that far apart
ITEM_STRIDE = 9_176_267


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then cosine annealing to zero at the last step (paper §V)."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))


def augment(vocal: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Change each vocal, (b, C, T) normalised float32, by a gain, an equaliser and noise of its own.

    Models trained on separated vocals alone fail on cleaner ones (arXiv 2301.12662, 2509.14052). Gain
    multiplies an item by 1 + U(-gain, gain), equaliser adds N(0, equaliser²) to each of its channels for the
    whole length, noise adds white noise of deviation U(0, noise). A choice that is 0 draws nothing.
    """
    device, (items, channels, _) = generator.device, vocal.shape
    if config.gain:
        uniform = torch.rand(items, 1, 1, generator=generator, device=device).to(vocal)
        vocal = vocal * (1 + config.gain * (2 * uniform - 1))
    if config.equaliser:
        offsets = torch.randn(items, channels, 1, generator=generator, device=device)
        vocal = vocal + config.equaliser * offsets.to(vocal)
    if config.noise:
        deviation = config.noise * torch.rand(items, 1, 1, generator=generator, device=device).to(vocal)
        vocal = vocal + deviation * torch.randn(vocal.shape, generator=generator, device=device).to(vocal)
    return vocal


class ConditionDropout(nn.Module):
    """The network with its condition dropout, as one module: what is compiled, and spread over processes."""

    def __init__(self, network: SamuelUNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_t: Tensor, t: Tensor, vocal: Tensor, dropped: Tensor) -> Tensor:
        """Predict v (b, C, T) from x_t and vocal, each (b, C, T), t and dropped, each (b,)."""
        return self.network(x_t, t, self.network.condition(vocal, dropped))


class StepNoise(NamedTuple):
    """What is random in a step for some items of a batch."""

    t: Tensor  # timesteps, int64 (b,)
    eps: Tensor  # noise, (b, C, T)
    dropped: Tensor  # items without their vocal, bool (b,)

    def of(self, items: slice) -> "StepNoise":
        """The same for some of the items."""
        return StepNoise(*(part[items] for part in self))


class Objective:
    """Draws what is random in a step, and measures the error of v."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        config = settings.diffusion
        self.device, self.seed = device, settings.training.seed
        self.augmentation = settings.training.augmentation
        self.condition_dropout = config.condition_dropout
        self.schedule = CosineSchedule(config.timesteps, config.cosine_offset).to(device)
        self.weight = loss_weight(config.loss_weight, self.schedule.alpha_bar, config.snr_clip)

    def draw(self, step: int, shape: tuple[int, ...]) -> StepNoise:
        """Draw for a batch of `shape` (B, C, T); timesteps are stratified over it, for a calm gradient."""
        count, generator = shape[0], self._generator(step)
        strata = torch.arange(count, device=self.device)
        t = (strata + torch.rand(count, generator=generator, device=self.device)) / count
        eps = torch.randn(shape, generator=generator, device=self.device)
        dropped = drop_condition(count, self.condition_dropout, generator)
        last = self.schedule.timesteps - 1  # float32 rounds the uppermost draws of the last stratum up to 1
        return StepNoise((t * self.schedule.timesteps).long().clamp(max=last), eps, dropped)

    def augment(self, step: int, vocal: Tensor, first: int) -> Tensor:
        """Augment the vocals (b, C, T) of a step, which begin at the place `first` of the whole batch."""
        if not any(self.augmentation.model_dump().values()):
            return vocal
        items = [
            augment(item[None], self.augmentation, self._generator(step, ITEM_STRIDE * place))
            for place, item in enumerate(vocal, start=first + 1)
        ]
        return torch.cat(items)

    def errors(
        self, network: nn.Module, x0: Tensor, vocal: Tensor, noise: StepNoise
    ) -> tuple[Tensor, Tensor]:
        """Squared error of v (eq. 4, 5) and weight w(t) (eq. 6), each (b,), for x0 and vocal (b, C, T)."""
        x_t = q_sample(self.schedule, x0, noise.eps, noise.t)
        predicted = network(x_t, noise.t, vocal, noise.dropped)
        error = predicted.float() - v_target(self.schedule, x0, noise.eps, noise.t)
        return error.square().mean(dim=(1, 2)), self.weight[noise.t]

    def _generator(self, step: int, salt: int = 0) -> torch.Generator:
        return torch.Generator(self.device).manual_seed((self.seed * STEP_STRIDE + step + salt) % 2**63)
