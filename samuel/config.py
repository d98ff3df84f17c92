"""Every setting, in one frozen tree.

`Settings()` is the embedded default: parts that need no download, sizes for two CPU cores. `paper()` is the
paper's run. A section is checked by pydantic wherever it is made: a flow's parameters, JSON, Python.
"""

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict

from samuel.errors import SettingsError

# What every group of settings has in common.


Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
Pause = Annotated[float, Field(ge=0, le=3600)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "under",
}


def for_a_form(schema: dict[str, Any]) -> None:
    """Titles with units, and descriptions with bounds: a form shows nothing else of a setting."""
    for name, field in schema.get("properties", {}).items():
        words = name.removesuffix("_s").replace("_", " ")
        field["title"] = words.capitalize() + (" (seconds)" if name.endswith("_s") else "")
        if "description" in field and (bounds := _bounds(field)):
            field["description"] += f" ({bounds})"


def _bounds(field: dict[str, Any]) -> str:
    """In words; of a setting that may be left out, those of its value."""
    value = next((kind for kind in field.get("anyOf", []) if kind.get("type") != "null"), field)
    return ", ".join(f"{words} {value[key]:,}" for key, words in BOUNDS.items() if key in value)


class Section(BaseModel):
    """A frozen group of settings; an unknown name is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        json_schema_extra=for_a_form,
    )


# Settings of the dataset: songs, acquisition, separation, codec, POPDB (paper §III).


Precision = Literal["fp32", "bf16"]


# What Prefect's server refuses before it writes a run down with its parameters; ours see them too late.
PLAIN_URL: JsonDict = {"pattern": r"^(?!\w+://[^/?#]*@)"}
NO_AT: JsonDict = {"pattern": "^[^@]*$"}


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
    order: Literal["list", "popularity"] = Field(
        default="list", description="csv: as the list has them, or the most popular first"
    )
    min_popularity: Annotated[int, Field(ge=0, le=100)] | None = Field(
        default=None, description="csv: no song less popular"
    )
    min_duration_s: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="csv: no shorter song"
    )
    max_duration_s: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="csv: no longer song"
    )
    max_instrumentalness: Share | None = Field(
        default=None, description="csv: no song likelier to be without a voice"
    )
    max_speechiness: Share | None = Field(default=None, description="csv: no song with more spoken words")
    seed: Seed = Field(default=0, description="synthetic: which songs are made")

    @model_validator(mode="after")
    def _needs_path(self) -> "SongsConfig":
        if self.source == "folder" and self.path is None:
            raise ValueError("songs.source = 'folder' needs songs.path, the folder of audio files")
        return self

    @model_validator(mode="after")
    def _rules_fit(self) -> "SongsConfig":
        rules = [name for name in LIST_RULES if getattr(self, name) != type(self).model_fields[name].default]
        if rules and self.source != "csv":
            raise ValueError(f"songs.{rules[0]} needs songs.source = 'csv': only the list states it")
        if self.min_duration_s and self.max_duration_s and self.min_duration_s > self.max_duration_s:
            raise ValueError("songs.min_duration_s is above songs.max_duration_s: no song is left")
        return self


LIST_RULES = (
    "order", "min_popularity", "min_duration_s", "max_duration_s", "max_instrumentalness", "max_speechiness",
)  # fmt: skip


class DownloadConfig(Section):
    """How yt-dlp acquires a song (paper §III-C), and at what pace.

    The pace holds over all processes that share the data folder.
    """

    search: Annotated[str, Field(pattern=r"^[a-z]{2,32}$")] = Field(
        default="ytsearch", description="yt-dlp's prefix for a search of the site"
    )
    extractors: tuple[str, ...] = Field(
        default=("youtube:search$", "youtube$"),
        min_length=1,
        description="patterns of whole names; no other yt-dlp extractor may run",
    )
    search_results: Annotated[int, Field(ge=1, le=50)] = Field(
        default=5, description="hits asked for per title"
    )
    policy: Literal["scored", "first"] = Field(
        default="scored", description="scored: by title and duration; first: the paper's"
    )
    max_duration_s: Annotated[float, Field(gt=0, le=24 * 3600)] = Field(
        default=900.0, description="nothing longer is fetched; the paper's 15 minutes"
    )
    workers: Annotated[int, Field(ge=1, le=32)] = Field(default=2, description="songs in hand at a time")
    search_interval_s: Pause = Field(default=2.0, description="least time between the starts of two searches")
    download_interval_s: Pause = Field(
        default=12.0,
        description="least time between the starts of two downloads: a guest may make 300 an hour",
    )
    request_interval_s: Pause = Field(
        default=0.75, description="pause between the requests for one video's page"
    )
    jitter: Share = Field(default=0.5, description="an interval grows by up to this share of it, at random")
    retries: Annotated[int, Field(ge=0, le=50)] = Field(
        default=3, description="yt-dlp's own retries of a request"
    )
    attempts: Annotated[int, Field(ge=1, le=10)] = Field(
        default=2, description="tries in one run of a song that fails by a passing fault"
    )
    pause_s: Annotated[float, Field(gt=0, le=86_400)] = Field(
        default=60.0, description="first pause after a rate limit, and before a second try; then doubled"
    )
    pause_ceiling_s: Annotated[float, Field(gt=0, le=86_400)] = Field(
        default=3600.0, description="longest pause"
    )
    stop_after: Count = Field(
        default=8, description="passing faults in a row, without one answer between, that stop the run"
    )
    timeout_s: Annotated[float, Field(gt=0)] = Field(
        default=900.0, description="a download that takes longer is left, to be resumed at the next try"
    )
    proxy: str | None = Field(
        default=None,
        description="proxy without user and password; HTTPS_PROXY of the environment may have them",
        json_schema_extra=NO_AT,
    )
    cookies: Path | None = Field(
        default=None, description="cookies file in Netscape's format; it can cost you the account"
    )
    ytdlp: dict[str, Any] = Field(
        default_factory=dict, description="further options of yt-dlp, of those that only concern the network"
    )

    @model_validator(mode="after")
    def _ceiling_is_above(self) -> "DownloadConfig":
        if self.pause_s > self.pause_ceiling_s:
            raise ValueError("download.pause_s is above download.pause_ceiling_s")
        return self

    @field_validator("proxy")
    @classmethod
    def _no_secret(cls, value: str | None) -> str | None:
        # Settings are shown in the UI, kept in its database and written to logs.
        if value and "@" in value:
            raise ValueError("a proxy with user and password goes into HTTPS_PROXY of the environment")
        if value:
            parts = urlsplit(value)
            if parts.scheme not in PROXY_SCHEMES or not parts.hostname or parts.port == 0:
                raise ValueError(f"no proxy; give one of {', '.join(PROXY_SCHEMES)}, as in http://host:3128")
        return value

    @field_validator("ytdlp")
    @classmethod
    def _harmless(cls, value: dict[str, Any]) -> dict[str, Any]:
        # Others can run programs or write anywhere, and whoever reaches the UI can set parameters.
        if wrong := sorted(set(value) - set(YTDLP_OPTIONS)):
            raise ValueError(f"no {', '.join(wrong)} here; allowed: {', '.join(sorted(YTDLP_OPTIONS))}")
        for name, option in value.items():
            if not isinstance(option, YTDLP_OPTIONS[name]):
                kinds = " or ".join(kind.__name__ for kind in YTDLP_OPTIONS[name])
                raise ValueError(f"{name} must be {kinds}")  # noqa: TRY004  (pydantic takes no TypeError)
        return value


PROXY_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
YTDLP_OPTIONS: dict[str, tuple[type, ...]] = {
    "concurrent_fragment_downloads": (int,),
    "extractor_args": (dict,),
    "force_ipv4": (bool,),
    "http_chunk_size": (int,),
    "ratelimit": (int, float),
    "socket_timeout": (int, float),
    "source_address": (str,),
}


class SeparatorConfig(Section):
    """How a song is split into vocals and accompaniment."""

    name: Literal["repet", "demucs"] = Field(default="repet", description="repet needs no weights")
    model: str = Field(default="htdemucs", description="demucs: a model name", min_length=1)
    repo: Path | None = Field(
        default=None, description="demucs: a local repository of trusted weights; none: the hub"
    )
    precision: Precision = Field(
        default="fp32", description="demucs: bf16 is faster on a GPU, and far slower on most CPUs"
    )
    batch: Count | None = Field(
        default=None,
        description="demucs: segments at a time; none: as the GPU has memory, 1 on a CPU",
    )


class CodecConfig(Section):
    """How audio becomes 64-channel latents at one frame per 2048 samples."""

    name: Literal["mel", "stable-audio-open"] = Field(default="mel", description="mel needs no weights")
    path: str = Field(
        default="stabilityai/stable-audio-open-1.0",
        description="stable-audio-open: a hub repository, or a local folder with model_config.json",
        min_length=1,
    )
    posterior: Literal["mean", "sample"] = Field(
        default="mean", description="stable-audio-open: what is stored of the posterior"
    )
    precision: Precision = Field(
        default="fp32",
        description="stable-audio-open: bf16 is faster on a GPU, and far slower on most CPUs",
    )
    batch: Count | None = Field(
        default=None,
        description="stable-audio-open: windows at a time; none: as the GPU has memory, 1 on a CPU",
    )


class RetentionConfig(Section):
    """What is kept of a song once its latents are safe; what was removed is made again where it is wanted."""

    audio: Literal["keep", "remove"] = Field(
        default="keep", description="the downloaded audio, 21 MB a minute"
    )
    stems: Literal["keep", "remove"] = Field(
        default="keep", description="vocals and accompaniment as FLAC, 20 to 24 MB a minute"
    )
    check_space: bool = Field(
        default=True, description="stop a run that seems to need more disk space than is free"
    )


class PopdbConfig(Section):
    """The dataset."""

    path: str | None = Field(
        default=None,
        description="where POPDB lies, a folder or a URL; none: popdb/ in the data folder",
        json_schema_extra=PLAIN_URL,
    )
    cache: Path | None = Field(
        default=None, description="where shards from a URL are kept; none: samuel/shards in the user's cache"
    )
    chunk_frames: Annotated[int, Field(ge=64, multiple_of=8)] = Field(
        default=1024, description="latent frames of a pair; 1024 are 47.55 s"
    )
    pairs_per_shard: Annotated[int, Field(ge=1, le=256)] = Field(
        default=256, description="pairs of a shard file"
    )
    validation_share: Annotated[float, Field(ge=0.0, le=0.5)] = Field(
        default=0.1, description="songs held out"
    )
    min_vocal_share: Share = Field(
        default=0.0, description="no pair that is sung for less of its length; 0: all, as in the paper"
    )
    seed: Seed = Field(default=0, description="which songs are held out")

    @field_validator("path", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        return str(value) if isinstance(value, Path) else value

    @field_validator("path")
    @classmethod
    def _plain_url(cls, value: str | None) -> str | None:
        return plain_url(value)


def plain_url(value: str | None) -> str | None:
    """The value, where it may be written down; for validators."""
    if value and (wrong := wrong_url(value)):
        raise ValueError(wrong)
    return value


def wrong_url(location: str) -> str:
    """Why a URL is no place for a dataset, without repeating it; empty where it may be one."""
    if "://" not in location:
        return ""
    # Settings are shown in the UI, kept in its database and written to logs.
    if "@" in urlsplit(location).netloc:
        return "a URL with user or password; fsspec takes them from its configuration or the environment"
    if "::" in location:
        return "a chain of URLs; give one, as in s3://bucket/popdb"
    return ""


# Settings of the network, its training, sampling and scores (paper §IV–VI).


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


# Settings of the operation: where the tasks of a flow run.


SCHEMES = ("tcp", "tls", "ws", "wss", "ucx")


class RunnerConfig(Section):
    """Where the tasks of a flow run."""

    kind: Literal["threads", "dask"] = Field(
        default="threads", description="threads of the flow's own process, or the workers of a Dask cluster"
    )
    address: str | None = Field(
        default=None,
        description="dask: the scheduler, as in tcp://host:8786; none: worker processes on this machine",
        json_schema_extra=NO_AT,
    )
    workers: Annotated[int, Field(ge=1, le=256)] = Field(
        default=2, description="dask without an address: how many worker processes"
    )

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        # Settings are shown in the UI, kept in its database and written to logs.
        if value is None:
            return value
        parts = urlsplit(value)
        if "@" in value or parts.scheme not in SCHEMES or not parts.hostname or not parts.port:
            raise ValueError(f"no address; give one of {', '.join(SCHEMES)}, as in tcp://host:8786")
        return value

    @model_validator(mode="after")
    def _address_is_used(self) -> "RunnerConfig":
        if self.address and self.kind != "dask":
            raise ValueError("runner.address needs runner.kind = 'dask'")
        return self


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
