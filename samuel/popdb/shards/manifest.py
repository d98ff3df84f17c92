"""What `dataset.json` says, and which files a dataset has."""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from samuel.popdb.shards.index import INDEX, TOMBSTONES

FORMAT_VERSION = 3
MANIFEST = "dataset.json"
SONGS, STATS, CARD = "songs.parquet", "stats.json", "README.md"
BESIDE = (INDEX, SONGS, TOMBSTONES, STATS, CARD)
SHARD = re.compile(r"shards/\d{5,}-[0-9a-f]{12}\.safetensors")

_NAMES = "|".join([SHARD.pattern, *(name.replace(".", "[.]") for name in BESIDE)])

Name = Annotated[str, Field(pattern=f"^({_NAMES})$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class ListedFile(_Strict):
    """A file that `dataset.json` names."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class MadeWith(_Strict):
    """Of the settings, what a dataset is read with."""

    pairs_per_shard: Count


class Manifest(_Strict):
    """`dataset.json`."""

    format_version: Literal[3]
    content_sha256: str
    index_sha256: Sha256
    source: str
    separator: str | None
    codec: str
    chunk_frames: Count
    settings: MadeWith
    counts: dict[str, int]
    files: dict[Name, ListedFile]

    @model_validator(mode="after")
    def _complete(self) -> "Manifest":
        if missing := [name for name in BESIDE if name not in self.files]:
            raise ValueError(f"files: without {', '.join(missing)}")
        if self.index_sha256 != self.files[INDEX].sha256:
            raise ValueError(f"index_sha256 and the digest of {INDEX} differ")
        return self
