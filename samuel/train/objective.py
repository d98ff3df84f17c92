"""What a training step minimises: the weighted error of v (paper §V, eq. 4 to 6).

Shapes: B pairs of the whole batch, b of them on this process, C = 64 latent channels, T frames.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from samuel.config import AugmentationConfig, DiffusionConfig, Settings, TrainingConfig
from samuel.model.diffusion import (
    CosineSchedule,
    drop_condition,
    loss_weight,
    q_sample,
    v_target,
)
from samuel.model.unet import SamuelUNet

# What training does to the vocal, so that it does not learn the marks of the separator.
#
# Every vocal of the training set was separated from a mix; one sung on its own is cleaner than anything the
# network has seen, and models trained on separated vocals alone fail there (SingSong, arXiv 2301.12662;
# AnyAccomp, arXiv 2509.14052).
#
# Shapes: B batch, C = 64 latent channels, T frames.


def augmented(vocal: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Vocals with a gain, an equaliser and noise of their own, each item apart from the others.

    Gain multiplies an item by 1 + U(-gain, gain), equaliser adds an offset N(0, equaliser²) to each of its
    channels for the whole length, noise adds white noise of deviation U(0, noise), in this order. A choice
    that is 0 draws nothing; where all are, the vocal itself comes back.

    What they are in the sound depends on the codec. The latents of `mel` are log-magnitudes of bands: there
    the offsets are exactly an equaliser, the gain stretches how far the bands are from the training songs'
    mean, which is contrast and not loudness, and the noise is a jitter of the bands' levels. In learned
    latents, such as those of `stable-audio-open`, none has such a meaning; they are the nearest relatives.

    Args:
        vocal: (B, C, T) normalised float32, on any device; it is left as it was.
        config: How much of each.
        generator: On the vocal's device, where drawing costs nothing, or on any other.

    Returns:
        (B, C, T) of the same kind.
    """
    items, channels, _ = vocal.shape
    if config.gain:
        vocal = vocal * (1 + config.gain * (2 * _uniform(items, vocal, generator) - 1))
    if config.equaliser:
        offsets = torch.randn(items, channels, 1, generator=generator, device=generator.device)
        vocal = vocal + config.equaliser * offsets.to(vocal)
    if config.noise:
        deviation = config.noise * _uniform(items, vocal, generator)
        vocal = vocal + deviation * torch.randn(vocal.shape, generator=generator, device=generator.device).to(
            vocal
        )
    return vocal


def _uniform(items: int, like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(items, 1, 1, generator=generator, device=generator.device).to(like)


# The learning rate of every step.


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then cosine annealing to zero at the last step (paper §V)."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))


STEP_STRIDE = 1_000_003  # runs of neighbouring seeds share their randomness only at steps that far apart
ITEM_STRIDE = 9_176_267


class Conditioned(nn.Module):
    """The network with its condition dropout, as one module: what is compiled, and spread over processes."""

    def __init__(self, network: SamuelUNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_t: Tensor, t: Tensor, vocal: Tensor, dropped: Tensor) -> Tensor:
        """Predict v (b, C, T) from x_t and vocal, each (b, C, T), t and dropped, each (b,)."""
        return self.network(x_t, t, self.network.condition(vocal, dropped))


@dataclass(frozen=True)
class Noising:
    """All that is random in the part of a batch that one process has.

    Attributes:
        t: Timesteps, int64 (b,).
        eps: Noise, (b, C, T).
        dropped: Items without their vocal, bool (b,).
    """

    t: Tensor
    eps: Tensor
    dropped: Tensor

    def part(self, places: slice) -> "Noising":
        """Some of its items."""
        return Noising(self.t[places], self.eps[places], self.dropped[places])


class Objective:
    """Draws what is random in a step, and measures the error of v.

    What is drawn follows from (seed, step) and the place in the whole batch alone, so it does not depend on
    how many processes share the batch.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        config: DiffusionConfig = settings.diffusion
        self.device, self.seed = device, settings.training.seed
        self.augmentation: AugmentationConfig = settings.training.augmentation
        self.condition_dropout = config.condition_dropout
        self.schedule = CosineSchedule(config.timesteps, config.cosine_offset).to(device)
        self.weight = loss_weight(config.loss_weight, self.schedule.alpha_bar, config.snr_clip)

    def draw(self, step: int, shape: tuple[int, ...], places: slice) -> Noising:
        """What is random in step `step` for the items `places` of a batch of `shape` (B, C, T).

        Timesteps are stratified over the batch: they cover [0, T) evenly, which calms the gradient.
        """
        count, generator = shape[0], self._generator(step)
        strata = torch.arange(count, device=self.device)
        t = (strata + torch.rand(count, generator=generator, device=self.device)) / count
        eps = torch.randn(shape, generator=generator, device=self.device)
        dropped = drop_condition(count, self.condition_dropout, generator)
        last = self.schedule.timesteps - 1  # float32 rounds the uppermost draws of the last stratum up to 1
        return Noising((t * self.schedule.timesteps).long().clamp(max=last), eps, dropped).part(places)

    def augmented(self, step: int, vocal: Tensor, first: int) -> Tensor:
        """The vocals (b, C, T) of step `step`, as `training.augmentation` changes them.

        The first of them is at the place `first` of the whole batch.
        """
        if not any(self.augmentation.model_dump().values()):
            return vocal
        items = [
            augmented(item[None], self.augmentation, self._generator(step, ITEM_STRIDE * (first + place + 1)))
            for place, item in enumerate(vocal)
        ]
        return torch.cat(items)

    def errors(self, network: nn.Module, x0: Tensor, vocal: Tensor, drawn: Noising) -> tuple[Tensor, Tensor]:
        """Squared error of v (eq. 4, 5) and weight w(t) (eq. 6), each (b,), for x0 and vocal (b, C, T)."""
        x_t = q_sample(self.schedule, x0, drawn.eps, drawn.t)
        predicted = network(x_t, drawn.t, vocal, drawn.dropped)
        error = predicted.float() - v_target(self.schedule, x0, drawn.eps, drawn.t)
        return error.square().mean(dim=(1, 2)), self.weight[drawn.t]

    def _generator(self, step: int, salt: int = 0) -> torch.Generator:
        return torch.Generator(self.device).manual_seed((self.seed * STEP_STRIDE + step + salt) % 2**63)
