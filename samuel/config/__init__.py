"""Every setting, in one frozen tree.

`Settings()` is the embedded default: parts that need no download, sizes for two CPU cores.
`Settings(preset="paper")` is the paper's run (§III, §V): a preset gives the defaults of what is not set. A
section is checked by pydantic wherever it is made: a file, the command line, a flow's parameters, Python.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from samuel.config.sections import (
    LIST_RULES,
    PLAIN_URL,
    AblationConfig,
    AugmentationConfig,
    BaselineConfig,
    CodecConfig,
    CodecName,
    DiffusionConfig,
    DownloadConfig,
    EvaluationConfig,
    Factor,
    Film,
    LocalPath,
    LossWeight,
    Mixing,
    ModelConfig,
    MusicGenConfig,
    PathOrUrl,
    PopdbConfig,
    Precision,
    RetentionConfig,
    RunnerConfig,
    Sampler,
    SamplingConfig,
    Section,
    SeparatorConfig,
    SeparatorName,
    SongsConfig,
    StableAudioOpenConfig,
    TrainingConfig,
    TrainingPrecision,
    bounds_of,
    setting,
    wrong_url,
)
from samuel.errors import InputError, SettingsError

__all__ = [
    "LIST_RULES",
    "PRESETS",
    "AblationConfig",
    "AugmentationConfig",
    "BaselineConfig",
    "CodecConfig",
    "CodecName",
    "DiffusionConfig",
    "DownloadConfig",
    "EvaluationConfig",
    "Factor",
    "Film",
    "LossWeight",
    "Mixing",
    "ModelConfig",
    "MusicGenConfig",
    "PopdbConfig",
    "Precision",
    "Preset",
    "RetentionConfig",
    "RunnerConfig",
    "Sampler",
    "SamplingConfig",
    "Section",
    "SeparatorConfig",
    "SeparatorName",
    "Setting",
    "Settings",
    "SongsConfig",
    "StableAudioOpenConfig",
    "TrainingConfig",
    "TrainingPrecision",
    "bounds_of",
    "demo",
    "describe",
    "paper",
    "parse",
    "read_settings",
    "wrong_url",
]

Preset = Literal["demo", "paper"]
LARGEST_FILE_BYTES = 1 << 20
MAY_BE_SECRET = ("download.proxy", "download.ytdlp", "popdb.path", "runner.address", "store")

PRESETS: dict[Preset, dict[str, Any]] = {
    "demo": {},
    "paper": {  # real parts, 100 epochs of 14,142 pairs
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
    },
}


class Settings(Section):
    """The whole tree."""

    preset: Preset = setting("demo", "what is not set: demo, the embedded parts, or paper, the paper's run")
    data: LocalPath = setting(Path("data"), "inputs, intermediate files and the dataset")
    artifacts: LocalPath = setting(Path("artifacts"), "checkpoints, samples, scores and reports")
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", "auto: a GPU where there is one")
    songs_in_hand: Annotated[int, Field(ge=1, le=64)] | None = setting(
        None, "songs in hand at a time, in separation and in encoding; none: 2, 6 on a GPU"
    )
    store: PathOrUrl | None = setting(
        None,
        "URL where finished pieces of songs are kept too, for machines that share no disk",
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
    musicgen: MusicGenConfig = MusicGenConfig()
    stable_audio_open: StableAudioOpenConfig = StableAudioOpenConfig()

    @model_validator(mode="before")
    @classmethod
    def _over_preset(cls, values: Any) -> Any:
        preset = values.get("preset") if isinstance(values, dict) else None
        return _merged(PRESETS[preset], values) if preset in PRESETS else values

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
    return Settings(preset="paper")


def parse(values: Mapping[str, Any]) -> Settings:
    """Settings from plain values, the defaults for whatever is left out.

    Raises:
        SettingsError: One line per wrong setting: its name, what is wrong and what was given.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError("\n".join(_complaint(problem) for problem in error.errors())) from None


def read_settings(path: Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Settings from a JSON file and from `section.name=value` texts, which hold over the file's.

    Raises:
        InputError: There is no such file.
        SettingsError: It is no JSON object, too large, or a setting is wrong.
    """
    values = _read_json(path) if path else {}
    for text in overrides:
        name, _, value = text.partition("=")
        nested: Any = _value_of(value)
        for part in reversed(name.split(".")):
            nested = {part: nested}
        values = _merged(values, nested)
    return parse(values)


@dataclass(frozen=True)
class Setting:
    """One setting, for people: dotted name, value as it is typed, unit, meaning with choices and bounds."""

    name: str
    value: str
    unit: str
    description: str


UNITS = {"_s": "s", "_frames": "frames", "_db": "dB"}


def describe(section: Section, prefix: str = "") -> Iterator[Setting]:
    """Every setting of a section, and of those below it."""
    schema = type(section).model_json_schema()["properties"]
    for name in type(section).model_fields:
        value, field = getattr(section, name), schema[name]
        if isinstance(value, Section):
            yield from describe(value, f"{prefix}{name}.")
            continue
        unit = next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), "")
        choices = f" ({', '.join(field['enum'])})" if "enum" in field else ""
        text = json.dumps(value, default=str, ensure_ascii=False)
        shown = text.strip('"') if isinstance(value, str | Path) else text
        yield Setting(f"{prefix}{name}", shown, unit, field["description"] + choices)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE_BYTES + 1)
        if len(content) > LARGEST_FILE_BYTES:
            raise SettingsError(f"{path}: more than {LARGEST_FILE_BYTES:,} bytes; no file of settings")
        values = json.loads(content.decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError among them
        raise SettingsError(f"{path}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: not a JSON object of settings")
    return values


def _value_of(text: str) -> Any:
    """JSON where it is, as in `3`, `true`, `null`, `[0.1, 0.9]`; else the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both trees in one; where both have a value, that of `over`."""
    merged = dict(under)
    for name, value in over.items():
        below = merged.get(name)
        if isinstance(value, Section):
            value = value.model_dump(exclude_unset=True)  # noqa: PLW2901
        merged[name] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _complaint(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    # These may be refused because there is a secret in them.
    if name.startswith(MAY_BE_SECRET) or problem["loc"] == ("download",):
        return f"setting {name}: {problem['msg']}"
    if not name:  # settings that contradict each other: given was the whole tree
        return f"settings: {problem['msg']}"
    return f"setting {name}: {problem['msg']} (given: {problem['input']!r:.200})"
