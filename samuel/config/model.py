"""Settings of the network, its training, sampling and scores (paper §IV–VI)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from samuel.config.section import Count, Section, Seed, Share

Mixing = Literal["eq3", "prose", "even", "global", "local"]
LossWeight = Literal["snr", "min_snr", "uniform"]
Film = Literal["temporal", "pooled"]
Factor = Literal["mixing", "window", "condition_dropout", "loss_weight"]
TrainingPrecision = Literal["auto", "fp32", "bf16"]
Sampler = Literal["ddpm", "ddim", "dpmsolver++", "unipc"]


class ModelConfig(Section):
    """The U-Net (paper §IV)."""

    latent_channels: Literal[64] = Field(default=64, description="channels of a latent frame")
    channels: tuple[Count, Count, Count, Count] = Field(
        default=(64, 128, 256, 512), description="channels at each resolution"
    )
    heads: Count = Field(default=8, description="attention heads")
    head_dim: Annotated[int, Field(ge=2, multiple_of=2)] = Field(default=64, description="channels of a head")
    window: Annotated[int, Field(ge=2, multiple_of=2)] = Field(
        default=16, description="frames of local attention"
    )
    mixing: Mixing = Field(
        default="eq3", description="how local and global attention are mixed over the timesteps"
    )
    film: Film = Field(
        default="temporal", description="temporal: scale and shift vary along the frames; pooled: they do not"
    )
    up_attention: bool = Field(default=False, description="attention on the way up as well")


class DiffusionConfig(Section):
    """The forward process and the objective (paper §IV-C, §V)."""

    timesteps: Annotated[int, Field(ge=2, le=10_000)] = Field(default=800, description="diffusion steps T")
    cosine_offset: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.008, description="s of the cosine schedule"
    )
    loss_weight: LossWeight = Field(default="min_snr", description="weight of the loss over the timesteps")
    snr_clip: Annotated[float, Field(gt=0)] = Field(
        default=5.0, description="bound on the signal-to-noise ratio"
    )
    condition_dropout: Share = Field(default=0.1, description="items trained without their vocal")


class AugmentationConfig(Section):
    """What training does to vocals, in normalised latents; 0 leaves them as they are."""

    noise: Annotated[float, Field(ge=0, le=2)] = Field(
        default=0.0, description="largest deviation of the white noise that is added"
    )
    equaliser: Annotated[float, Field(ge=0, le=2)] = Field(
        default=0.0, description="deviation of what is added to a channel for its whole length"
    )
    gain: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="largest share by which the latents grow or shrink: contrast, with mel"
    )


class TrainingConfig(Section):
    """The fit (paper §V). The defaults suit minutes on two CPU cores; `paper()` has the paper's."""

    steps: Count = Field(default=360, description="optimiser steps")
    batch_size: Count = Field(default=2, description="pairs per step; small, as early gain goes by steps")
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=1e-3, description="peak of the cosine annealing; the paper's 3.5e-4 is for long fits"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(default=0.01, description="AdamW's")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(default=20, description="steps of linear warm-up")
    accumulate: Count = Field(
        default=1, description="parts that a batch is computed in, one after the other, for memory's sake"
    )
    precision: TrainingPrecision = Field(
        default="auto", description="auto: bf16 autocast on a GPU that has it, fp32 elsewhere"
    )
    compile: bool = Field(default=False, description="torch.compile; on a CPU it needs a C++ compiler")
    augmentation: AugmentationConfig = AugmentationConfig()
    gradient_clip: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="bound on the gradient's norm"
    )
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.98, description="decay of the averaged weights"
    )
    validate_every: Count = Field(default=60, description="steps between validations")
    validation_pairs: Count = Field(default=32, description="held-out pairs scored at a validation, at most")
    patience: Count | None = Field(
        default=None, description="validations without gain before stopping; none: never"
    )
    checkpoint_every: Count = Field(default=40, description="steps between checkpoints")
    keep_checkpoints: Count = Field(
        default=2, description="newest checkpoints that are kept, beside the best"
    )
    processes: Count = Field(
        default=1, description="processes that train together, started by torchrun; one for each GPU"
    )
    tensorboard: bool = Field(
        default=False, description="also write TensorBoard's event files; needs the extra `tensorboard`"
    )
    seed: Seed = Field(default=0, description="of weights, batches, noise and dropout")


class SamplingConfig(Section):
    """How an accompaniment is drawn."""

    sampler: Sampler = Field(default="dpmsolver++", description="reverse process")
    steps: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=12, description="network evaluations: twice the fewest that cannot be told from 800 of DDPM"
    )
    guidance_scale: Annotated[float, Field(ge=0, le=100)] = Field(default=2.0, description="1: no guidance")
    guidance_rescale: Share = Field(
        default=0.0, description="how far guided predictions go back to the deviation of unguided ones"
    )
    guidance_interval: tuple[Share, Share] = Field(
        default=(0.0, 1.0), description="from which share of the timesteps to which one guidance acts"
    )
    precision: TrainingPrecision = Field(
        default="auto", description="auto: bf16 autocast on a GPU that has it, fp32 elsewhere"
    )
    seed: Seed = Field(default=0, description="of the starting noise")

    @field_validator("guidance_interval")
    @classmethod
    def _in_order(cls, interval: tuple[float, float]) -> tuple[float, float]:
        if interval[0] > interval[1]:
            raise ValueError(f"begins after its end: {interval}")
        return interval


class EvaluationConfig(Section):
    """How accompaniments are scored."""

    tracks: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=2, description="held-out songs to accompany; the paper's 10"
    )
    takes: Annotated[int, Field(ge=1, le=64)] = Field(
        default=3, description="accompaniments of each vocal; the first is scored, all tell the diversity"
    )
    scorers: tuple[Literal["signal", "audiobox", "apa"], ...] = Field(
        default=("signal",),
        min_length=1,
        description="signal needs no weights; apa needs the extra of its name",
    )
    audiobox_path: Path | None = Field(
        default=None, description="audiobox: a local checkpoint; none: the hub"
    )
    apa_path: Path | None = Field(default=None, description="apa: a local checkpoint of CLAP; none: the hub")


class AblationConfig(Section):
    """Which choices the flow `ablate` compares, each against the settings as they are."""

    factors: tuple[Factor, ...] = Field(
        default=("mixing", "window", "condition_dropout", "loss_weight"),
        min_length=1,
        description="what is varied, one at a time",
    )
    seeds: Count = Field(default=3, description="fits of each variant, with seeds of their own")
