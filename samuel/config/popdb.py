"""Settings of the dataset: songs, acquisition, separation, codec, POPDB (paper §III)."""

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic.config import JsonDict

from samuel.config.section import Count, Pause, Section, Seed, Share

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
