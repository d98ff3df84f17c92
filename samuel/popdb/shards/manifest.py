"""What `dataset.json` says, and which files a dataset has."""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from samuel.popdb.shards.index import INDEX, TOMBSTONES
from samuel.popdb.shards.tensors import CHANNELS

FORMAT_VERSION = 3
MANIFEST = "dataset.json"
SONGS, STATS, CARD = "songs.parquet", "stats.json", "README.md"
BESIDE = (INDEX, SONGS, TOMBSTONES, STATS, CARD)
AGAIN = "run build-popdb again, or import it again"
SHARD = re.compile(r"shards/\d{5,}-[0-9a-f]{12}\.safetensors")

_NAMES = "|".join([SHARD.pattern, *(name.replace(".", "[.]") for name in BESIDE)])

Name = Annotated[str, Field(pattern=f"^({_NAMES})$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Natural = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class ListedFile(_Strict):
    """A file that `dataset.json` names."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class MadeWith(_Strict):
    """Of the settings, what a dataset is read with."""

    pairs_per_shard: Annotated[int, Field(ge=1, le=256)]


class Counts(_Strict):
    """What there is of everything."""

    songs_listed: Natural
    songs_kept: Natural
    chunks: Natural
    chunks_left_out: Natural
    pairs: Natural
    train: Natural
    validation: Natural
    shards: Natural
    buried: Natural


class Statistics(_Strict):
    """Of a stream: a number for each channel."""

    mean: Annotated[list[Finite], Field(min_length=CHANNELS, max_length=CHANNELS)]
    std: Annotated[list[Annotated[Finite, Field(gt=0)]], Field(min_length=CHANNELS, max_length=CHANNELS)]


class Stats(_Strict):
    """`stats.json`."""

    vocal: Statistics
    accompaniment: Statistics


class Manifest(_Strict):
    """`dataset.json`."""

    format_version: Literal[3]
    content_sha256: Sha256
    index_sha256: Sha256
    source: str
    separator: str | None
    codec: str
    chunk_frames: Annotated[int, Field(ge=8, le=2**16)]  # up to 50 min
    settings: MadeWith
    counts: Counts
    files: dict[Name, ListedFile]

    @model_validator(mode="after")
    def _complete(self) -> "Manifest":
        if missing := [name for name in BESIDE if name not in self.files]:
            raise ValueError(f"files: without {', '.join(missing)}")
        if self.index_sha256 != self.files[INDEX].sha256:
            raise ValueError(f"index_sha256 and the digest of {INDEX} differ")
        return self
