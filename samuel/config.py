"""Every setting, in one frozen tree: from songs to dataset (paper §III), from network to scores (§IV to §VI).

`Settings()` is the embedded default: parts that need no download, sizes for two CPU cores.
`Settings(preset="paper")` is the paper's run: a preset gives the defaults of what is not set. A section is
checked wherever it is made, the tree also for whether its sections agree.
"""

import json
import math
import re
import reprlib
from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from typing_extensions import TypedDict

from samuel.errors import InputError, SettingsError
from samuel.reading import parse_json, read_bounded

# A module of that name, with _ for -, in samuel.codecs and samuel.separators.
CodecName = Literal["mel", "stable-audio-open"]
SeparatorName = Literal["repet", "demucs"]
Scorer = Literal["signal", "audiobox", "apa"]
Precision = Literal["fp32", "bf16"]
Posterior = Literal["mean", "sample"]
Mixing = Literal["eq3", "prose", "even", "global", "local"]
LossWeight = Literal["snr", "min_snr", "uniform"]
Film = Literal["temporal", "pooled"]
Factor = Literal["mixing", "window", "condition_dropout", "loss_weight"]
TrainingPrecision = Literal["auto", "fp32", "bf16"]
Sampler = Literal["ddpm", "ddim", "dpmsolver++", "unipc"]

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Width = Annotated[int, Field(ge=1, le=8192)]
MOST_FRAMES = 2**13  # of a pair: six minutes at 21.5 Hz
Seconds = Annotated[float, Field(gt=0)]
Pause = Annotated[float, Field(ge=0, le=3600)]
LongPause = Annotated[float, Field(gt=0, le=86_400)]
SEEDS = 2**32  # there are no more; the last one is followed by the first
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]
LocalPath = Annotated[Path, AfterValidator(Path.expanduser)]

STABLE_AUDIO = "stabilityai/stable-audio-open-1.0"
PROMPT = "instrumental pop accompaniment with drums, bass, guitar and keyboards"
YOUTUBE = ("youtube:search$", "youtube$")
MAX_FILE_BYTES, MAX_FAULTS = 1 << 16, 10
MAY_BE_SECRET = ("download", "popdb.path", "runner.address", "store")


# The user of a URL, with a password that may hold slashes: what follows the colon is then no port.
USER = r"[^\s/?#]*@|[^\s/?#:\[]+:(?!\d*(?:[/?#\s]|$))[^\s@]*@"
SECRET_PATTERN = rf"^(?![\s\S]*\w\w:/+(?:{USER}|[^\s?#]*[?#]))"  # what `without_secrets` would change
MOST_URL = 500  # characters
# Protocols of fsspec that lead to other addresses, or hold the content themselves.
WRAPPER = r"async_?wrapper|\w+cache|cached|data|dir|generic|libarchive|reference|tar|zip"


def without_secrets(text: str) -> str:
    """`text` with … in place of what may let others in: user, password and query of every URL in it."""

    def redacted(url: re.Match[str]) -> str:
        place = re.split(r"[?#]", url[0][:MOST_URL], maxsplit=1)[0]
        return re.sub(rf"(:/+)(?:{USER})", r"\1…@", place) + ("" if place == url[0] else "?…")

    return re.sub(r"(?:\w\w:|url: )/\S+", redacted, text)  # as urllib3 words it, a URL may lack its host


def wrong_text(text: str) -> str:
    """Why a text can be no setting, without repeating it; empty where it may be one.

    Settings are shown in the UI, kept in its database and in records, and logged.
    """
    if without_secrets(text) != text:
        return "a URL with user, password or query; libraries take them from configuration or environment"
    try:
        _ = text.encode(), urlsplit(text).port
    except ValueError as error:
        return f"no text, path or URL that can be used ({error})"
    return "a text with NUL" if "\0" in text else ""


def wrong_place(location: str) -> str:
    """Why a path or URL is no place for a dataset, without repeating it; empty where it may be one."""
    protocol, separator, _ = location.partition("://")
    if re.match(r"\w+::", location) or (separator and re.search(r"\w::", location)):
        return "a chain of URLs; give one, as in s3://bucket/popdb"
    if wrong := wrong_text(location) if separator else "":
        return wrong
    if separator:
        from fsspec import available_protocols

        if re.fullmatch(WRAPPER, protocol) or protocol not in available_protocols():
            return f"of no protocol that can be used ({protocol!a:.22}); give one, as in s3://bucket/popdb"
    return ""


def _writable(value: Any) -> Any:
    for text in value if isinstance(value, list | tuple) else (value,):
        if isinstance(text, str | Path) and (wrong := wrong_text(str(text))):
            raise ValueError(wrong)
    return value


def _place(value: Any) -> Any:
    if wrong := wrong_place(str(value)):
        raise ValueError(wrong)
    return str(value) if isinstance(value, Path) else value


PathOrUrl = Annotated[str, BeforeValidator(_place)]
Text = Annotated[str, BeforeValidator(_writable), Field(json_schema_extra={"pattern": SECRET_PATTERN})]
Proxy = Annotated[str, Field(pattern=r"^(https?|socks4a?|socks5h?)://[^@/?#]+/?$")]
Scheduler = Annotated[str, Field(pattern=r"^(tcp|tls|wss?|ucx)://[^@/?#]+:\d+$")]


def _describe_in_form(schema: dict[str, Any]) -> None:
    """Titles with units, and descriptions with bounds: a form shows nothing else of a setting."""
    keys = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
    words = list(zip(keys, ("at least", "above", "at most", "under"), strict=True))
    for name, field in schema.get("properties", {}).items():
        for kind in field.get("anyOf", [field]):
            text = kind.get("items", kind)
            # What does not match Prefect's server refuses before it writes a run down; we come too late.
            if text.get("type") == "string" and not {"enum", "const", "pattern"} & text.keys():
                text["pattern"] = SECRET_PATTERN
        title = name.removesuffix("_s").replace("_", " ").capitalize()
        field["title"] = title + (" (seconds)" if name.endswith("_s") else "")
        kind = next((kind for kind in field.get("anyOf", []) if kind.get("type") != "null"), field)
        bounds = ", ".join(f"{word} {kind[key]:,}" for key, word in words if key in kind)
        if bounds and "description" in field:
            field["description"] += f" ({bounds})"


class Section(BaseModel):
    """A frozen group of settings; an unknown name is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False,
        json_schema_extra=_describe_in_form
    )  # fmt: skip

    @field_validator("*", mode="before")
    @classmethod
    def _keep_no_secret(cls, value: Any) -> Any:
        return _writable(value)


def setting(default: Any, description: str, **bounds: Any) -> Any:
    """A field of a section: its default, what it is, and bounds as `pydantic.Field` takes them."""
    return Field(default=default, description=description, **bounds)


class SongsConfig(Section):
    """Which songs."""

    source: Literal["synthetic", "folder", "csv"] = setting("synthetic", "made here, yours, or a list's")
    path: LocalPath | None = setting(None, "folder: of audio. csv: the list; none: fetched by kagglehub")
    limit: Count | None = setting(None, "at most this many songs; none: all (synthetic: 12)")
    order: Literal["list", "popularity"] = setting("list", "csv: which songs come first")
    min_popularity: Annotated[int, Field(ge=0, le=100)] | None = setting(None, "csv: no song less popular")
    min_duration_s: Seconds | None = setting(None, "csv: no shorter song")
    max_duration_s: Seconds | None = setting(None, "csv: no longer song")
    max_instrumentalness: Share | None = setting(None, "csv: no song likelier to be without a voice")
    max_speechiness: Share | None = setting(None, "csv: no song with more spoken words")
    seed: Seed = setting(0, "synthetic: which songs are made")


class YtdlpOptions(TypedDict, total=False):
    """Options that concern the network alone: others can run programs, and anyone at the UI can set them."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]
    concurrent_fragment_downloads: int
    extractor_args: dict[str, dict[str, list[Text]]]
    force_ipv4: bool
    http_chunk_size: int
    ratelimit: int | float
    socket_timeout: int | float
    source_address: str


class DownloadConfig(Section):
    """How yt-dlp acquires a song (paper §III-C), and at what pace over all processes that share `data`."""

    search: str = setting("ytsearch", "yt-dlp's prefix for a search of the site", pattern=r"^[a-z]{2,32}$")
    extractors: tuple[str, ...] = setting(YOUTUBE, "no other of yt-dlp may run", min_length=1)
    search_results: int = setting(5, "hits asked for per title", ge=1, le=50)
    policy: Literal["scored", "first"] = setting("scored", "by title and duration, or the paper's")
    max_duration_s: float = setting(900.0, "longest song; the paper's 15 minutes", gt=0, le=24 * 3600)
    workers: int = setting(2, "songs in hand at a time", ge=1, le=32)
    search_interval_s: Pause = setting(2.0, "least time between the starts of two searches")
    download_interval_s: Pause = setting(12.0, "the same of downloads: a guest may make 300 an hour")
    request_interval_s: Pause = setting(0.75, "pause between the requests for one video's page")
    jitter: Share = setting(0.5, "an interval grows by up to this share of it, at random")
    retries: int = setting(3, "yt-dlp's own retries of a request", ge=0, le=50)
    attempts: int = setting(2, "tries in one run of a song that fails by a passing fault", ge=1, le=10)
    pause_s: LongPause = setting(60.0, "first pause after a rate limit or a failed try; then doubled")
    pause_ceiling_s: LongPause = setting(3600.0, "longest pause")
    stop_after: Count = setting(8, "passing faults in a row, without one answer between, that stop the run")
    timeout_s: Seconds = setting(900.0, "a download that takes longer is left, to be resumed at the next try")
    proxy: Proxy | None = setting(None, "as in http://host:3128; HTTPS_PROXY may have a password")
    cookies: LocalPath | None = setting(None, "file in Netscape's format; it can cost you the account")
    ytdlp: YtdlpOptions = setting({}, "further options of yt-dlp, of those that only concern the network")


class SeparatorConfig(Section):
    """How a song is split into vocals and accompaniment."""

    name: SeparatorName = setting("repet", "repet needs no weights")
    model: str = setting("htdemucs", "demucs: a model name", min_length=1)
    repo: LocalPath | None = setting(None, "demucs: a local repository of trusted weights; none: the hub")
    precision: Precision = setting("fp32", "demucs: bf16 is faster on a GPU, slower on most CPUs")
    batch: Count | None = setting(None, "demucs: segments at a time; none: as the GPU has memory, 1 on a CPU")


class CodecConfig(Section):
    """How audio becomes latents."""

    name: CodecName = setting("mel", "mel needs no weights")
    path: str = setting(STABLE_AUDIO, "stable-audio-open: hub repository or folder", min_length=1)
    posterior: Posterior = setting("mean", "stable-audio-open: what is stored")
    precision: Precision = setting("fp32", "stable-audio-open: bf16 is faster on a GPU, slower on CPUs")
    batch: Count | None = setting(None, "stable-audio-open: windows at a time; none: as fits, 1 on a CPU")


class RetentionConfig(Section):
    """What is kept of a song once its latents are safe; what was removed is made again where it is wanted."""

    audio: Literal["keep", "remove"] = setting("keep", "the downloaded audio, 21 MB a minute")
    stems: Literal["keep", "remove"] = setting("keep", "both stems as FLAC, 20 to 24 MB a minute")
    check_space: bool = setting(True, "stop a run that seems to need more disk space than is free")


class PopdbConfig(Section):
    """The dataset."""

    path: PathOrUrl | None = setting(None, "folder or URL; none: popdb/ in data")
    cache: LocalPath | None = setting(None, "of shards from a URL; none: samuel/shards in the user's cache")
    chunk_frames: int = setting(
        1024, "latent frames of a pair, the paper's", ge=64, le=MOST_FRAMES, multiple_of=8
    )
    pairs_per_shard: int = setting(256, "pairs of a shard file", ge=1, le=256)
    validation_share: float = setting(0.1, "songs held out", ge=0.0, le=0.5)
    min_vocal_share: Share = setting(0.0, "no pair that is sung for less; 0: all, the paper's")
    seed: Seed = setting(0, "which songs are held out")


class ModelConfig(Section):
    """The U-Net (paper §IV)."""

    latent_channels: int = setting(64, "of a frame; training takes those of the codec", ge=1, le=1024)
    channels: tuple[Width, Width, Width, Width] = setting((64, 128, 256, 512), "channels at each resolution")
    heads: int = setting(8, "attention heads", ge=1, le=256)
    head_dim: int = setting(64, "channels of a head", ge=2, le=1024, multiple_of=2)
    window: int = setting(16, "frames of local attention", ge=2, le=4096, multiple_of=2)
    mixing: Mixing = setting("eq3", "how local and global attention are mixed over the timesteps")
    film: Film = setting("temporal", "temporal: scale and shift vary along the frames; pooled: they do not")
    up_attention: bool = setting(False, "attention on the way up as well")


class DiffusionConfig(Section):
    """The forward process and the objective (paper §IV-C, §V)."""

    timesteps: int = setting(800, "diffusion steps T", ge=2, le=10_000)
    cosine_offset: float = setting(0.008, "s of the cosine schedule", gt=0, lt=1)
    loss_weight: LossWeight = setting("min_snr", "weight of the loss over the timesteps")
    snr_clip: float = setting(5.0, "bound on the signal-to-noise ratio", gt=0)
    condition_dropout: Share = setting(0.1, "items trained without their vocal")


class AugmentationConfig(Section):
    """How training alters vocals, in normalised latents; 0 leaves them as they are."""

    noise: float = setting(0.0, "largest deviation of the white noise that is added", ge=0, le=2)
    equaliser: float = setting(0.0, "deviation of what is added to whole channels", ge=0, le=2)
    gain: float = setting(0.0, "largest share by which latents grow or shrink", ge=0, lt=1)


class TrainingConfig(Section):
    """The fit (paper §V). The defaults suit minutes on two CPU cores; the preset `paper` has the paper's."""

    steps: Count = setting(360, "optimiser steps")
    batch_size: Count = setting(2, "pairs per step; small, as early gain goes by steps")
    learning_rate: float = setting(1e-3, "peak of the cosine annealing; 3.5e-4 suits long fits", gt=0, lt=1)
    weight_decay: float = setting(0.01, "AdamW's", ge=0)
    warmup_steps: int = setting(20, "steps of linear warm-up", ge=0)
    accumulate: Count = setting(1, "parts that a batch is computed in, for memory's sake")
    precision: TrainingPrecision = setting("auto", "auto: bf16 autocast on a GPU that has it, fp32 elsewhere")
    compile: bool = setting(False, "torch.compile; on a CPU it needs a C++ compiler")
    augmentation: AugmentationConfig = AugmentationConfig()
    gradient_clip: float = setting(1.0, "bound on the gradient's norm", gt=0)
    ema_decay: float = setting(0.98, "decay of the averaged weights", ge=0, lt=1)
    validate_every: Count = setting(60, "steps between validations")
    validation_pairs: Count = setting(32, "held-out pairs scored at a validation, at most")
    patience: Count | None = setting(None, "validations without gain before stopping; none: never")
    checkpoint_every: Count = setting(40, "steps between checkpoints")
    keep_checkpoints: Count = setting(2, "newest checkpoints that are kept, beside the best")
    processes: Count = setting(1, "processes of this machine that train together, one for each GPU")
    tensorboard: bool = setting(False, "also write TensorBoard's event files; needs the extra `tensorboard`")
    seed: Seed = setting(0, "of weights, batches, noise and dropout")


class SamplingConfig(Section):
    """How an accompaniment is drawn."""

    sampler: Sampler = setting("dpmsolver++", "reverse process")
    steps: int = setting(12, "network evaluations; 6 come near 800 of DDPM", ge=1, le=10_000)
    guidance_scale: float = setting(2.0, "1: no guidance", ge=0, le=100)
    guidance_rescale: Share = setting(0.0, "how far guided predictions regain the unguided deviation")
    guidance_interval: tuple[Share, Share] = setting((0.0, 1.0), "shares of the timesteps where it acts")
    precision: TrainingPrecision = setting("auto", "auto: bf16 autocast on a GPU that has it, fp32 elsewhere")
    seed: Seed = setting(0, "of the starting noise")


class EvaluationConfig(Section):
    """How accompaniments are scored."""

    tracks: int = setting(2, "held-out songs to accompany; the paper's 10", ge=1, le=1000)
    takes: int = setting(3, "accompaniments of each vocal; the first is scored", ge=1, le=64)
    scorers: tuple[Scorer, ...] = setting(("signal",), "apa needs the extra of its name", min_length=1)
    audiobox_path: LocalPath | None = setting(None, "audiobox: a local checkpoint; none: the hub")
    apa_path: LocalPath | None = setting(None, "apa: a local checkpoint of CLAP; none: the hub")


class AblationConfig(Section):
    """Which choices the flow `ablate` compares, each against the settings as they are."""

    factors: tuple[Factor, ...] = setting(get_args(Factor), "what is varied, one at a time", min_length=1)
    seeds: Count = setting(3, "fits of each variant, with seeds of their own")


class BaselineConfig(Section):
    """What MusicGen and Stable Audio Open both have."""

    prompt: str = setting(PROMPT, "the same text for every track", min_length=1)
    precision: Literal["auto", "fp32", "fp16", "bf16"] = setting("auto", "auto: fp16 on CUDA, fp32 elsewhere")
    seed: Seed = setting(0, "each track's own seed follows from it and the track's name")


class MusicGenConfig(BaselineConfig):
    """How MusicGen samples; the defaults are those of its paper (§3.1)."""

    guidance_scale: float = setting(3.0, "1: none", ge=1, le=100)
    temperature: float = setting(1.0, "of the tokens", gt=0, le=10)
    top_k: Count = setting(250, "tokens to choose from")
    overlap: float = setting(0.4, "share of a window that continues the one before: 12 of 30 s", ge=0, le=0.9)


class StableAudioOpenConfig(BaselineConfig):
    """How Stable Audio Open samples; the defaults are those of diffusers' pipeline."""

    negative_prompt: str | None = setting(None, "what it is to keep away from")
    steps: int = setting(100, "of the solver", ge=1, le=1000)
    guidance_scale: float = setting(7.0, "1: none", ge=1, le=100)


class RunnerConfig(Section):
    """Where the tasks of a flow run."""

    kind: Literal["threads", "dask"] = setting("threads", "in the flow's process, or on a Dask cluster")
    address: Scheduler | None = setting(None, "dask: as in tcp://host:8786; none: processes here")
    workers: int = setting(2, "dask without an address: how many worker processes", ge=1, le=256)


Preset = Literal["demo", "paper"]
# The paper's: real parts, 100 epochs of 14,142 pairs, in a data folder beside the demo's.
PAPER = json.loads(Path(__file__).with_name("paper.json").read_text("utf-8"))
PRESETS: dict[Preset, dict[str, Any]] = {"demo": {}, "paper": PAPER}


class Settings(Section):
    """The whole tree."""

    preset: Preset = setting("demo", "what is not set: demo, the embedded parts, or paper, the paper's run")
    data: LocalPath = setting(Path("data"), "inputs, intermediate files and the dataset")
    artifacts: LocalPath = setting(Path("artifacts"), "checkpoints, samples, scores and reports")
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", "auto: a GPU where there is one")
    songs_in_hand: Annotated[int, Field(ge=1, le=64)] | None = setting(None, "at a time; none: 2, 6 on a GPU")
    store: PathOrUrl | None = setting(None, "URL for finished pieces of songs too, where no disk is shared")
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
    def _agree(self) -> "Settings":
        songs, (begin, end) = self.songs, self.sampling.guidance_interval
        rules = [*songs.model_dump(exclude_defaults=True, exclude={"source", "path", "limit", "seed"})]
        if songs.source == "folder" and songs.path is None:
            raise ValueError("songs.source = 'folder' needs songs.path, the folder of audio files")
        if rules and songs.source != "csv":
            raise ValueError(f"songs.{rules[0]} needs songs.source = 'csv': only the list states it")
        if (songs.min_duration_s or 0.0) > (songs.max_duration_s or math.inf):
            raise ValueError("songs.min_duration_s is above songs.max_duration_s: no song is left")
        if self.download.pause_s > self.download.pause_ceiling_s:
            raise ValueError("download.pause_s is above download.pause_ceiling_s")
        if begin > end:
            raise ValueError(f"sampling.guidance_interval begins after its end: {begin}, {end}")
        if self.runner.address and self.runner.kind != "dask":
            raise ValueError("runner.address needs runner.kind = 'dask'")
        if (steps := self.sampling.steps) > (most := self.diffusion.timesteps):
            raise ValueError(f"sampling.steps = {steps} is more than diffusion.timesteps = {most}")
        return self

    @property
    def popdb_path(self) -> Path | str:
        """Where the dataset lies: a path, or a URL."""
        path = self.popdb.path
        return path if path and "://" in path else Path(path or self.data / "popdb").expanduser()


def parse(values: Mapping[str, Any]) -> Settings:
    """Settings from plain values; a SettingsError has a line for each wrong one: name, fault, value."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            name = ".".join(str(part) for part in fault["loc"])
            # It may have been refused for a secret in it; where sections disagree, given was the whole tree.
            hidden = not name or name.startswith(MAY_BE_SECRET)
            shown = repr(value) if isinstance(value := fault["input"], str) else reprlib.repr(value)
            given = "" if hidden else f" (given: {without_secrets(shown):.200})"
            wanted = ""
            if fault["type"] == "string_pattern_mismatch":  # which says nothing to most people
                section, field = map(str, fault["loc"][:2])
                wanted = f"; {type(getattr(Settings(), section)).model_fields[field].description}"
            said = f"{fault['msg']}{wanted}{given}"
            faults.append(f"setting {name}: {said}" if name else f"settings: {said}")
        more = f"\nand {len(faults) - MAX_FAULTS} more" if len(faults) > MAX_FAULTS else ""
        raise SettingsError("\n".join(faults[:MAX_FAULTS]) + more) from None


def read_settings(path: Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Settings from a JSON file and from `section.name=value` texts, which hold over the file's.

    An InputError where there is no such file, or no JSON in it, a SettingsError where a setting is wrong.
    """
    values: Any = {}
    if path and not path.exists():
        raise InputError(f"{path}: no such file")
    if path:
        values = parse_json(read_bounded(path.resolve(), MAX_FILE_BYTES).removeprefix(BOM_UTF8), path)
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: no JSON object, but a {type(values).__name__}")
    for text in overrides:
        name, _, given = text.partition("=")
        try:
            nested: Any = json.loads(given)  # `3`, `true`, `null`, `[0.1, 0.9]`; else the text itself
        except (ValueError, RecursionError):
            nested = given
        for part in reversed(name.split(".")):
            nested = {part: nested}
        values = _merged(values, nested)
    return parse(values)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both trees in one; where both have a value, that of `over`."""
    merged = dict(under)
    for name, value in over.items():
        new = value.model_dump(exclude_unset=True) if isinstance(value, Section) else value
        both = isinstance(merged.get(name), dict) and isinstance(new, dict)
        merged[name] = _merged(merged[name], new) if both else new
    return merged
