"""Every setting, in one frozen tree.

`Settings()` is the embedded default: parts that need no download, sizes for two CPU cores. `paper()` is the
paper's run. A section is checked by pydantic wherever it is made: a flow's parameters, JSON, Python.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from samuel.errors import SettingsError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Mixing = Literal["eq3", "prose", "even", "global", "local"]
LossWeight = Literal["snr", "min_snr", "uniform"]
Sampler = Literal["ddpm", "ddim", "dpmsolver++", "unipc"]


class Section(BaseModel):
    """A frozen group of settings; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class SongsConfig(Section):
    """Which songs."""

    source: Literal["synthetic", "folder", "csv"] = Field(
        default="synthetic",
        description="synthetic: made here; folder: audio you own; csv: the Kaggle song list",
    )
    path: Path | None = Field(
        default=None, description="folder: the folder of audio. csv: the list (none: fetched by kagglehub)"
    )
    limit: Count | None = Field(
        default=None, description="at most this many songs; none: all (synthetic: 12)"
    )
    seed: Seed = Field(default=0, description="synthetic: which songs are made")

    @model_validator(mode="after")
    def _needs_path(self) -> "SongsConfig":
        if self.source == "folder" and self.path is None:
            raise ValueError("songs.source = 'folder' needs songs.path, the folder of audio files")
        return self


class DownloadConfig(Section):
    """How yt-dlp acquires a song (paper §III-C)."""

    max_duration_s: Annotated[float, Field(gt=0, le=24 * 3600)] = Field(
        default=900.0, description="nothing longer is fetched; the paper's 15 minutes"
    )
    search_results: Annotated[int, Field(ge=1, le=50)] = Field(
        default=5, description="hits asked for per title"
    )
    sleep_s: Annotated[float, Field(ge=0)] = Field(
        default=10.0, description="pause before a download from the network"
    )
    retries: Annotated[int, Field(ge=0, le=50)] = Field(
        default=3, description="yt-dlp's own retries of a request"
    )


class SeparatorConfig(Section):
    """How a song is split into vocals and accompaniment."""

    name: Literal["repet", "demucs"] = Field(default="repet", description="repet needs no weights")
    model: str = Field(default="htdemucs", description="demucs: a model name", min_length=1)
    repo: Path | None = Field(
        default=None, description="demucs: a local repository of trusted weights; none: the hub"
    )


class CodecConfig(Section):
    """How audio becomes 64-channel latents at one frame per 2048 samples."""

    name: Literal["mel", "stable-audio-open"] = Field(default="mel", description="mel needs no weights")
    path: str = Field(
        default="stabilityai/stable-audio-open-1.0",
        description="stable-audio-open: a hub repository, or a local folder with model_config.json",
        min_length=1,
    )


class PopdbConfig(Section):
    """The dataset."""

    path: Path | None = Field(default=None, description="where POPDB lies; none: popdb/ in the data folder")
    chunk_frames: Annotated[int, Field(ge=64, multiple_of=8)] = Field(
        default=1024, description="latent frames of a pair; 1024 are 47.55 s"
    )
    pairs_per_shard: Annotated[int, Field(ge=1, le=256)] = Field(
        default=256, description="pairs of a shard file"
    )
    validation_share: Annotated[float, Field(ge=0.0, le=0.5)] = Field(
        default=0.1, description="songs held out"
    )
    seed: Seed = Field(default=0, description="which songs are held out")

    @field_validator("path", mode="before")
    @classmethod
    def _local(cls, value: object) -> object:
        if "://" in str(value):
            raise ValueError(f"popdb.path = {value!s}: URLs are not written yet, give a local folder")
        return value


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


class TrainingConfig(Section):
    """The fit (paper §V). The defaults suit minutes on two CPU cores; `paper()` has the paper's."""

    steps: Count = Field(default=360, description="optimiser steps")
    batch_size: Count = Field(default=2, description="pairs per step; small, as early gain goes by steps")
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=1e-3, description="peak of the cosine annealing; the paper's 3.5e-4 is for long fits"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(default=0.01, description="AdamW's")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(default=20, description="steps of linear warm-up")
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
    seed: Seed = Field(default=0, description="of weights, batches, noise and dropout")


class SamplingConfig(Section):
    """How an accompaniment is drawn."""

    sampler: Sampler = Field(default="dpmsolver++", description="reverse process")
    steps: Annotated[int, Field(ge=1, le=10_000)] = Field(default=20, description="network evaluations")
    guidance_scale: Annotated[float, Field(ge=0, le=100)] = Field(default=2.0, description="1: no guidance")
    seed: Seed = Field(default=0, description="of the starting noise")


class EvaluationConfig(Section):
    """How accompaniments are scored."""

    tracks: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=2, description="held-out songs to accompany; the paper's 10"
    )
    scorers: tuple[Literal["signal", "audiobox"], ...] = Field(
        default=("signal",), min_length=1, description="signal needs no weights"
    )
    audiobox_path: Path | None = Field(
        default=None, description="audiobox: a local checkpoint; none: the hub"
    )


class Settings(Section):
    """The whole tree."""

    data: Path = Field(default=Path("data"), description="inputs, intermediate files and the dataset")
    artifacts: Path = Field(default=Path("artifacts"), description="checkpoints, samples, scores and reports")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="auto: a GPU where there is one"
    )
    songs: SongsConfig = SongsConfig()
    download: DownloadConfig = DownloadConfig()
    separator: SeparatorConfig = SeparatorConfig()
    codec: CodecConfig = CodecConfig()
    popdb: PopdbConfig = PopdbConfig()
    model: ModelConfig = ModelConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _fits_schedule(self) -> "Settings":
        if self.sampling.steps > self.diffusion.timesteps:
            raise ValueError(
                f"sampling.steps = {self.sampling.steps} is more than diffusion.timesteps = "
                f"{self.diffusion.timesteps}"
            )
        return self

    @property
    def popdb_path(self) -> Path:
        """Where the dataset lies."""
        return self.popdb.path or self.data / "popdb"


def demo() -> Settings:
    """Embedded parts, twelve synthetic songs, minutes on two cores."""
    return Settings()


def paper() -> Settings:
    """The paper's run: real parts, 100 epochs of 14,142 pairs (§III, §V)."""
    return parse(PAPER)


PAPER: dict[str, Any] = {
    "songs": {"source": "csv"},
    "separator": {"name": "demucs"},
    "codec": {"name": "stable-audio-open"},
    "training": {
        "steps": 88_400,
        "batch_size": 16,
        "learning_rate": 3.5e-4,
        "warmup_steps": 1000,
        "ema_decay": 0.9995,
        "validate_every": 884,
        "validation_pairs": 1571,
        "patience": 10,
        "checkpoint_every": 884,
    },
    "sampling": {"steps": 30},
    "evaluation": {"tracks": 10, "scorers": ["signal", "audiobox"]},
}


def parse(values: dict[str, Any]) -> Settings:
    """Settings from plain values, the defaults for whatever is left out.

    Raises:
        SettingsError: One line per wrong setting: its name, what is wrong and what was given.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = [_complaint(problem) for problem in error.errors()]
        raise SettingsError("\n".join(lines)) from None


def _complaint(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    return f"setting {name or '(all)'}: {problem['msg']} (given: {problem['input']!r})"
