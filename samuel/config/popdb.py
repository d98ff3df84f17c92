"""Settings of the dataset: songs, acquisition, separation, codec, POPDB (paper §III)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from samuel.config.section import Count, Section, Seed


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
