"""Every setting, in one frozen tree.

`Settings()` is the embedded default: parts that need no download, sizes for two CPU cores. `paper()` is the
paper's run. A section is checked by pydantic wherever it is made: a flow's parameters, JSON, Python.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from samuel.config.model import (
    AblationConfig,
    AugmentationConfig,
    DiffusionConfig,
    EvaluationConfig,
    Factor,
    Film,
    LossWeight,
    Mixing,
    ModelConfig,
    Sampler,
    SamplingConfig,
    TrainingConfig,
    TrainingPrecision,
)
from samuel.config.operation import RunnerConfig
from samuel.config.popdb import (
    PLAIN_URL,
    CodecConfig,
    DownloadConfig,
    PopdbConfig,
    Precision,
    RetentionConfig,
    SeparatorConfig,
    SongsConfig,
    plain_url,
)
from samuel.config.section import Section
from samuel.errors import SettingsError

__all__ = [
    "PAPER",
    "AblationConfig",
    "AugmentationConfig",
    "CodecConfig",
    "DiffusionConfig",
    "DownloadConfig",
    "EvaluationConfig",
    "Factor",
    "Film",
    "LossWeight",
    "Mixing",
    "ModelConfig",
    "PopdbConfig",
    "Precision",
    "RetentionConfig",
    "RunnerConfig",
    "Sampler",
    "SamplingConfig",
    "Section",
    "SeparatorConfig",
    "Settings",
    "SongsConfig",
    "TrainingConfig",
    "TrainingPrecision",
    "demo",
    "paper",
    "parse",
]


class Settings(Section):
    """The whole tree."""

    data: Path = Field(default=Path("data"), description="inputs, intermediate files and the dataset")
    artifacts: Path = Field(default=Path("artifacts"), description="checkpoints, samples, scores and reports")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="auto: a GPU where there is one"
    )
    songs_in_hand: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None,
        description="songs in hand at a time, in separation and in encoding; none: 2, 6 on a GPU",
    )
    store: Annotated[str | None, AfterValidator(plain_url)] = Field(
        default=None,
        description="URL where finished pieces of songs are kept too, for machines that share no disk",
        json_schema_extra=PLAIN_URL,
    )
    runner: RunnerConfig = RunnerConfig()
    songs: SongsConfig = SongsConfig()
    download: DownloadConfig = DownloadConfig()
    separator: SeparatorConfig = SeparatorConfig()
    codec: CodecConfig = CodecConfig()
    retention: RetentionConfig = RetentionConfig()
    popdb: PopdbConfig = PopdbConfig()
    model: ModelConfig = ModelConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    ablation: AblationConfig = AblationConfig()

    @model_validator(mode="after")
    def _fits_schedule(self) -> "Settings":
        if self.sampling.steps > self.diffusion.timesteps:
            raise ValueError(
                f"sampling.steps = {self.sampling.steps} is more than diffusion.timesteps = "
                f"{self.diffusion.timesteps}"
            )
        return self

    @property
    def popdb_path(self) -> Path | str:
        """Where the dataset lies: a path, or a URL."""
        path = self.popdb.path
        return path if path and "://" in path else Path(path or self.data / "popdb").expanduser()


def demo() -> Settings:
    """Embedded parts, twelve synthetic songs, minutes on two cores."""
    return Settings()


def paper() -> Settings:
    """The paper's run: real parts, 100 epochs of 14,142 pairs (§III, §V)."""
    return parse(PAPER)


PAPER: dict[str, Any] = {
    "data": "data/paper",  # beside the demo's
    "songs": {"source": "csv"},
    "separator": {"name": "demucs"},
    "codec": {"name": "stable-audio-open"},
    "retention": {"stems": "remove"},
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


MAY_BE_SECRET = ("download.proxy", "download.ytdlp", "popdb.path", "runner.address", "store")


def _complaint(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    # These may be refused because there is a secret in them.
    if name.startswith(MAY_BE_SECRET) or problem["loc"] == ("download",):
        return f"setting {name}: {problem['msg']}"
    if not name:  # settings that contradict each other: given was the whole tree
        return f"settings: {problem['msg']}"
    return f"setting {name}: {problem['msg']} (given: {problem['input']!r})"
