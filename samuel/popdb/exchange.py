"""A pre-encoded set for stable-audio-tools 0.0.19, vocal and accompaniment aligned.

train/ID.npy, train/ID.json          the accompaniment and what is known of it: what the loader lists
vocal/train/ID.npy                   its vocal, which `popdb_metadata.py` adds to each item
validation/…, vocal/validation/…     the same for the pairs that are held out, where there are any
dataset_config.json, validation_dataset_config.json
details.json                         what the set was made of
STABLE_AUDIO_README.md                            how to use it

Shapes: C = 64 latent channels, T = 1024 frames.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samuel.artifacts import (
    digest,
    fsync,
    locked,
    read_json,
    sha256,
    temporary_folder,
    write_json,
)
from samuel.audio import SAMPLE_RATE
from samuel.codecs.base import HOP, LATENT_CHANNELS, PUBLISHED
from samuel.config import PopdbConfig, parse
from samuel.errors import DatasetError, InputError
from samuel.popdb.dataset import (
    MANIFEST,
    Folder,
    Halves,
    LocalFolder,
    Popdb,
    Row,
    disk_full_told,
    finite,
    folder_of,
    open_folder,
    pair_sha256,
    settle,
)
from samuel.popdb.status import Status
from samuel.popdb.writer import Content, Pair, save

logger = logging.getLogger(__name__)


# A folder that is exported whole or not at all.


def export_folder(folder: Path, name: str, stated: dict[str, Any], make: Callable[[Path], object]) -> Path:
    """Have `make` fill a folder; where it stands already and states the same, nothing is done.

    Args:
        folder: Where it goes.
        name: Of the JSON file in it that states what it holds.
        stated: What it is to hold.
        make: Writes everything else into the folder that it is given.

    Raises:
        InputError: Something else is there, or a file where the folder would lie.
        OperatorError: The disk is full.
    """
    place = folder.expanduser().resolve()
    _require_folder(place.parent)
    with locked(place):
        if _states(place / name, stated):
            return folder
        if place.exists() and not (place.is_dir() and not any(place.iterdir())):
            raise InputError(f"{folder}: something else is there; give a folder that is not there yet")
        temporary = temporary_folder(place)
        shutil.rmtree(temporary, ignore_errors=True)  # of an export that was killed
        try:
            with disk_full_told(LocalFolder(folder)):
                temporary.mkdir(parents=True)
                make(temporary)
                write_json(temporary / name, stated)
                os.sync()  # one call for tens of thousands of files
            temporary.replace(place)
            fsync(place.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _require_folder(path: Path) -> None:
    """Where there is no folder yet, one can be made."""
    there = next(place for place in (path, *path.parents) if place.exists())
    if not there.is_dir():
        raise InputError(f"{there} is a file; give a folder")


def _states(path: Path, stated: dict[str, Any]) -> bool:
    try:
        return read_json(path) == stated
    except (OSError, ValueError):
        return False


# What identifies a dataset and its recordings, for publishing it without anybody's audio.
#
# Latents decode to audio, and titles and messages are what others wrote: neither is in it.


LAYOUT = 1
PAIRS, EXPORT_MANIFEST = "pairs.jsonl", "manifest.json"
OF_PAIR = ("pair_id", "song_id", "video_id", "chunk", "start_s", "split", "latents_sha256", "pair_sha256")
OF_SONG = ("audio_sha256", "recording")
# Counts that follow from the songs, not from how the dataset has grown.
COUNTS = ("songs_listed", "songs_kept", "chunks", "chunks_left_out", "pairs", "train", "validation")
README = """\
# POPDB, without its audio

This folder identifies a dataset of paired vocal and accompaniment latents. It holds ids, digests and settings
only: no latents, no audio and no titles.

- `manifest.json`: what the dataset was made of, its settings, its counts and two digests:
  - `content_sha256`: of a line `pair_id pair_sha256 split` per pair, each ended by a line feed, in the order
    of the ids;
  - `pairs_sha256`: of the file `pairs.jsonl`.
- `pairs.jsonl`: a line per pair, in the order of the ids:
  - `pair_id`, `song_id`, `chunk`, `start_s`: the chunk of the song, and where it begins;
  - `video_id`: where the song was found; null for songs that came as files;
  - `audio_sha256`: of the song's audio file;
  - `recording`: the same for songs that sound the same, which stand on one side of the split;
  - `split`: `train` or `validation`;
  - `latents_sha256`: of the file that held the song's latents;
  - `pair_sha256`: of the pair's latents, little-endian float16 (64, {frames}), row by row: first those of the
    vocal, then those of the accompaniment.

All of it is copied from the index of the dataset, and no latents were read: run `samuel verify` on the
dataset first, which compares them with their digests.

## To rebuild it

Build a dataset with SAMUeL (arXiv 2507.19991) from the same songs, with the separator, the codec and the
`settings` of `manifest.json`, by the flow `build-popdb`. Where the source is `published`, run
`samuel import-popdb` on the two files whose digests stand among the settings.

## To check what was rebuilt

Export the manifest of the new dataset (`samuel export-manifest`) and compare the two folders, as with
`diff -r`. Equal datasets give equal bytes, however their files have grown. Where lines differ, they say why:
another video (`video_id`), other audio from the same video (`audio_sha256`), or other latents from the same
audio (`pair_sha256`), which separators and codecs compute a little differently on different processors.
"""


def export_manifest(popdb: Popdb, folder: Path) -> Path:
    """Write ids, digests and settings of a dataset: `manifest.json`, `pairs.jsonl` and `README.md`.

    Equal datasets give equal bytes. A folder that holds the same already is left as it is.

    Raises:
        InputError: Something else is in the folder.
    """
    lines = _lines(popdb)
    info = popdb.info
    stated = {
        "layout": LAYOUT,
        **{name: info[name] for name in ("source", "separator", "codec", "chunk_frames", "settings")},
        "counts": {name: info["counts"][name] for name in COUNTS},
        "content_sha256": info["content_sha256"],
        "pairs_sha256": hashlib.sha256(lines).hexdigest(),
    }

    def make(target: Path) -> None:
        (target / PAIRS).write_bytes(lines)
        (target / "README.md").write_text(README.format(frames=info["chunk_frames"]), "utf-8")

    return export_folder(folder, EXPORT_MANIFEST, stated, make)


def _lines(popdb: Popdb) -> bytes:
    songs = {row["song_id"]: row for row in popdb.songs(["song_id", *OF_SONG]).to_pylist()}
    unknown: dict[str, Any] = dict.fromkeys(OF_SONG)
    rows = [
        {name: row[name] for name in OF_PAIR}
        | {name: songs.get(row["song_id"], unknown)[name] for name in OF_SONG}
        for row in popdb.index
    ]
    # ASCII: a video id is what a site said, and a line must stay one.
    return "".join(json.dumps(row) + "\n" for row in rows).encode("ascii")


# POPDB as the paper's authors published it → a dataset of this project (paper §III).
#
# Published are two arrays, `latent_vocal.npy` and `latent_accomp.npy`, and nothing that tells where one song
# ends and the next begins. Only that the chunks of a song follow one another is known. So each pair becomes a
# song of its own, nothing is known of how much is sung, and what is held out is one stretch at the end of the
# arrays, with a gap before it that is longer than any song.
#
# Shapes: N pairs, C = 64 latent channels, T = 1024 frames.


SOURCE = PUBLISHED
SEPARATOR, CODEC = f"demucs/{PUBLISHED}", f"stable-audio-open/{PUBLISHED}"
"""What the paper states (§III-C); nothing in the arrays could confirm it."""
LONGEST_SONG_S = 900.0
"""The paper filtered out whatever lasts longer (§III-B)."""
GAP = "left out: it lies between the sides of the split, where one song may reach across"
NOT_FINITE = "left out: its latents hold values that float16 cannot"
TRAINED_ON = "left out: its latents are those of a training pair"


@dataclass(frozen=True)
class Arrays:
    """The two published arrays, each (N, C, T), in their files."""

    vocal: NDArray[Any]
    accompaniment: NDArray[Any]

    def pair(self, number: int) -> tuple[Halves, Halves]:
        """Vocal and accompaniment of a pair, each float16 (C, T); what float16 cannot hold is infinite."""
        with np.errstate(over="ignore", invalid="ignore"):
            vocal, accompaniment = (
                np.ascontiguousarray(array[number], np.float16) for array in (self.vocal, self.accompaniment)
            )
        return vocal, accompaniment


def import_published(
    vocal: Path,
    accompaniment: Path,
    location: Path | str,
    *,
    cache: Path | None = None,
    validation_share: float = 0.1,
    pairs_per_shard: int = 256,
    codec: str | None = None,
    on_pair: Callable[[], object] = lambda: None,
) -> Popdb:
    """Make a dataset of the published arrays; nothing is done where it is there already.

    Left out are pairs that hold other than finite float16 values, those of the gap, and held-out pairs whose
    latents a training pair has; `songs.parquet` says so. Neither array is ever held in memory.

    Args:
        vocal: `latent_vocal.npy`, any floating type (N, 64, T), T a multiple of 8 and at least 64.
        accompaniment: `latent_accomp.npy`, of the same shape.
        location: Where the dataset goes, a folder or a URL.
        cache: Where shards for a URL are kept on this machine; none: `samuel/shards` in the user's cache.
        validation_share: Share of the pairs that is held out.
        pairs_per_shard: Pairs of a shard file.
        codec: Identity of the codec whose latents these are; none: the paper's, its weights unknown.
        on_pair: Called for each pair that is written.

    Raises:
        InputError: A file is not such an array, or another dataset is there.
        SettingsError: A share or number is out of range.
        OperatorError: The disk is full, or another machine is writing there.
    """
    arrays = _open_both(vocal, accompaniment)
    frames = arrays.vocal.shape[2]
    chosen = {
        "chunk_frames": frames,
        "validation_share": validation_share,
        "pairs_per_shard": pairs_per_shard,
    }
    config = parse({"popdb": chosen}).popdb
    made_of = _made_of(config, codec or CODEC, _digests(vocal, accompaniment))
    folder = folder_of(location, cache)
    if popdb := _there(folder, made_of):
        return popdb
    content = _content(arrays, made_of, config, on_pair)  # before the lock makes a folder: it may be refused
    with folder.locked():
        settle(folder)
        return _there(folder, made_of) or save(folder, content, None)


def longest_song(frames: int) -> int:
    """Most chunks of `frames` latent frames that one song can have."""
    return int(LONGEST_SONG_S * SAMPLE_RATE) // (frames * HOP)


def sides(count: int, share: float, gap: int) -> list[str | None]:
    """`train`, `validation` or, between the two, None for each of `count` pairs in a row.

    Args:
        count: How many there are.
        share: Of these, that is held out.
        gap: Pairs between the sides: as many as the longest song can have, no song is on both.
    """
    held = max(1, round(count * share)) if share else 0
    if held and count - held - gap < 1:
        logger.warning(
            "%d pairs are too few to hold any out beside a gap of %d: the validation loss is over training "
            "pairs", count, gap,
        )  # fmt: skip
        held = 0
    if not held:
        return ["train"] * count
    return [*["train"] * (count - held - gap), *[None] * gap, *["validation"] * held]


def _open_both(vocal: Path, accompaniment: Path) -> Arrays:
    arrays = Arrays(_open(vocal), _open(accompaniment))
    if arrays.vocal.shape != arrays.accompaniment.shape:
        raise InputError(
            f"{vocal} is {arrays.vocal.shape}, {accompaniment} is {arrays.accompaniment.shape}; give the two "
            "files of one dataset"
        )
    return arrays


def _open(path: Path) -> NDArray[Any]:
    """Map a file; unlike np.load, only ever a .npy file."""
    try:
        # Copied on write, which nobody does: torch warns of arrays that cannot be written.
        array = np.lib.format.open_memmap(path, mode="c")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give the path of a published .npy file") from error
    except (ValueError, OverflowError, RecursionError, MemoryError, TokenError) as error:  # of its header
        reason = f"{type(error).__name__}: {error!s:.200}"
        raise InputError(f"{path}: not a whole .npy file of numbers ({reason}); fetch it again") from error
    shape, wanted = array.shape, f"floating-point numbers (N, {LATENT_CHANNELS}, T), T = 64, 72, …"
    fits = len(shape) == 3 and shape[0] > 0 and shape[1] == LATENT_CHANNELS
    if array.dtype.kind != "f" or not fits or shape[2] < 64 or shape[2] % 8:
        raise InputError(f"{path}: {array.dtype} of shape {shape}; latents are {wanted}")
    return array


def _digests(vocal: Path, accompaniment: Path) -> dict[str, str]:
    found = {"vocal_sha256": sha256(vocal), "accompaniment_sha256": sha256(accompaniment)}
    if len(set(found.values())) == 1:
        raise InputError(f"{vocal} and {accompaniment} are the same; give the vocals and the accompaniments")
    return found


def _made_of(config: PopdbConfig, codec: str, digests: dict[str, str]) -> dict[str, Any]:
    settings = config.model_dump(mode="json", exclude={"path", "cache"})
    published = {**digests, "gap_pairs": longest_song(config.chunk_frames)}
    return {
        "source": SOURCE,
        "separator": SEPARATOR,
        "codec": codec,
        "chunk_frames": config.chunk_frames,
        "settings": settings | {"published": published},
    }


def _there(folder: Folder, made_of: dict[str, Any]) -> Popdb | None:
    """The dataset of an earlier import of the same."""
    if folder.read(MANIFEST) is None:
        return None
    popdb = open_folder(folder)
    if any(popdb.info[name] != value for name, value in made_of.items()):
        raise InputError(f"{folder.location}: another dataset is there; import into a folder of its own")
    return popdb


def _content(
    arrays: Arrays, made_of: dict[str, Any], config: PopdbConfig, on_pair: Callable[[], object]
) -> Content:
    count = len(arrays.vocal)
    split = sides(count, config.validation_share, made_of["settings"]["published"]["gap_pairs"])
    found = [_digest_of_finite(arrays.pair(number)) for number in range(count)]
    left_out = _left_out(split, found)
    numbers = {_song_id(number, count): number for number in range(count)}
    rows = [
        _row(song_id, number, made_of["codec"], split[number], found[number])
        for song_id, number in sorted(numbers.items())
        if not left_out[number]
    ]
    songs = [_song(song_id, number, left_out[number]) for song_id, number in sorted(numbers.items())]
    if not any(row["split"] == "train" for row in rows):
        raise InputError(f"of {count} pairs, none to train on is finite in float16; fetch the files again")

    def read(new: Sequence[Row]) -> Iterator[Pair]:
        for row in new:
            on_pair()  # not after it: nobody asks for more after the last
            latents = arrays.pair(numbers[row["song_id"]])
            yield torch.from_numpy(latents[0]), torch.from_numpy(latents[1])

    return Content(rows, read, songs, made_of, config.pairs_per_shard)


def _digest_of_finite(pair: tuple[Halves, Halves]) -> str | None:
    return pair_sha256(*pair) if all(finite(latents) for latents in pair) else None


def _left_out(split: Sequence[str | None], digests: Sequence[str | None]) -> list[str]:
    """Why each pair is left out; empty for one that is kept."""
    trained = {digest for side, digest in zip(split, digests, strict=True) if side == "train"}

    def reason(side: str | None, latents_sha256: str | None) -> str:
        if latents_sha256 is None:
            return NOT_FINITE
        if side is None:
            return GAP
        return TRAINED_ON if side == "validation" and latents_sha256 in trained else ""

    return list(map(reason, split, digests))


def _song_id(number: int, count: int) -> str:
    """By chance first: in the order of the ids, what stands side by side is of different songs."""
    return f"published-{digest('published', number)[:4]}-{number:0{len(str(count - 1))}d}"


def _title(number: int) -> str:
    return f"Published pair {number}"


def _row(song_id: str, number: int, codec: str, split: str | None, latents_sha256: str | None) -> Row:
    return {
        "pair_id": f"{song_id}-000",
        "song_id": song_id,
        "title": _title(number),
        "chunk": 0,
        "split": split,
        "codec": codec,
        "latents_sha256": latents_sha256,
    }


def _song(song_id: str, number: int, left_out: str) -> dict[str, Any]:
    return {
        "song_id": song_id,
        "title": _title(number),
        "stage": "encode",
        "status": Status.NOT_FINITE if left_out == NOT_FINITE else Status.OK,
        "retryable": False,
        "attempts": 1,
        "message": left_out,
        "vocal_shares": [None],  # one chunk, not measured
        "pairs": int(not left_out),
        "candidates": [],
    }


STABLE_AUDIO_LAYOUT = 1
DETAILS = "details.json"
MODULE = "popdb_metadata.py"
CONFIGS = {"train": "dataset_config.json", "validation": "validation_dataset_config.json"}
FILE_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")  # no dot: the loader replaces ".npy" wherever it stands
TOLD = ("pair_id", "song_id", "title", "chunk", "start_s", "vocal_share")
MODEL_CONFIG = {
    "conditioning": {
        "configs": [{"id": "vocal", "type": "int", "config": {}}],
        "pre_encoded_keys": ["vocal"],
        "cond_dim": LATENT_CHANNELS,
    },
    "diffusion": {
        "type": "dit",
        "input_concat_ids": ["vocal"],
        "config": {"io_channels": LATENT_CHANNELS, "input_concat_dim": LATENT_CHANNELS},
    },
}
STABLE_AUDIO_README = """\
# POPDB, pre-encoded for stable-audio-tools

{pairs} pairs of vocal and accompaniment latents, each float16 (64, {frames}), {seconds:.2f} s, unscaled. They
are latents of the codec that `details.json` names; a model's `pretransform` has to be that one.

An item is an accompaniment; `{module}` adds its vocal under the key `vocal`, cut the same way.
Written for the data loader of stable-audio-tools 0.0.19.

Latents decode to audio: treat this folder like the recordings.

## Loading

The paths in the configurations are relative, so that the folder can be moved: start the training in this
folder, or write absolute paths into them.

{configs}

```python
import json

from stable_audio_tools.data.dataset import create_dataloader_from_config

config = json.load(open("dataset_config.json"))
loader = create_dataloader_from_config(config, batch_size=16, sample_size={samples}, sample_rate=44100)
latents, items = next(iter(loader))  # (16, 64, {frames}); items[0]["vocal"] is (64, {frames})
```

- `"latent_crop_length"` and `"random_crop"` crop both streams alike; they belong at the top level of the
  configuration.
- The loader replaces an item that it cannot read by another one, and prints a line that begins with
  `Couldn't load file`: look for it.
- It leaves out the last batch unless it is full; `"drop_last": false` at the top level keeps it.

## Conditioning on the vocal

In the model's configuration, `"pre_encoded": true` under `training`, and under `model` these entries beside
your own. `pre_encoded_keys` hands the vocal on as it is, and the conditioner of that id is never called: its
type stands there because the tool wants one. `input_concat_ids` puts the vocal's channels beside those of the
noise, frame by frame.

```json
{model_config}
```

- Classifier-free guidance of the tool's `dit` leaves out cross-attention and prepended conditions, and keeps
  the vocal.
- The tool divides an accompaniment by the `scale` of the pretransform, where it has one, and leaves the vocal
  as it is.
"""


def export_stable_audio(popdb: Popdb, folder: Path, on_pair: Callable[[], object] = lambda: None) -> Path:
    """Write a dataset as a pre-encoded set that the loader of stable-audio-tools reads.

    Every pair is compared with its digest on the way. A folder that holds the same already is left as it is.

    Args:
        popdb: The dataset.
        folder: Where the set goes.
        on_pair: Called after each pair.

    Raises:
        DatasetError: A pair is not what was written, or its id is no file name.
        InputError: Something else is in the folder.
        OperatorError: The disk is full.
    """
    _require_file_names(popdb)
    splits = [split for split in CONFIGS if popdb.pairs(split)]

    def make(target: Path) -> None:
        for split in splits:
            _write_split(popdb, split, target, on_pair)
            write_json(target / CONFIGS[split], _dataset_config(split))
        (target / MODULE).write_bytes(Path(__file__).with_name(MODULE).read_bytes())
        (target / "STABLE_AUDIO_README.md").write_text(_readme(popdb, splits), "utf-8")

    return export_folder(folder, DETAILS, _details(popdb), make)


def _require_file_names(popdb: Popdb) -> None:
    seen: set[str] = set()
    for pair_id in popdb.table["pair_id"].to_pylist():
        # On some systems two names that differ in case are one file.
        if not FILE_NAME.fullmatch(pair_id) or pair_id.lower() in seen:
            raise DatasetError(
                f"{popdb.location}: the pair id {pair_id!r} gives no file of its own; is this dataset one of "
                "build-popdb? Run samuel verify"
            )
        seen.add(pair_id.lower())


def _write_split(popdb: Popdb, split: str, target: Path, on_pair: Callable[[], object]) -> None:
    folder, vocals = target / split, target / "vocal" / split
    folder.mkdir()
    vocals.mkdir(parents=True)
    for row in popdb.pairs(split):
        vocal, accompaniment = popdb.read_checked(row)
        _save(vocals / f"{row['pair_id']}.npy", vocal)
        _save(folder / f"{row['pair_id']}.npy", accompaniment)
        # ASCII: the loader reads it in whatever encoding the system prefers.
        (folder / f"{row['pair_id']}.json").write_text(json.dumps(_metadata(row, popdb)), "ascii")
        on_pair()


def _save(path: Path, latents: Tensor) -> None:
    np.save(path, latents.numpy(), allow_pickle=False)


def _metadata(row: Row, popdb: Popdb) -> dict[str, Any]:
    """What the loader needs of an item, `seconds_start` and `seconds_total` as of a file of its own."""
    frames = popdb.info["chunk_frames"]
    needed = {"padding_mask": [1] * frames, "seconds_start": 0, "seconds_total": _seconds(frames)}
    return needed | {name: row[name] for name in TOLD}


def _seconds(frames: int) -> float:
    return round(frames * HOP / SAMPLE_RATE, 4)


def _dataset_config(split: str) -> dict[str, Any]:
    dataset = {"id": f"popdb-{split}", "path": split, "custom_metadata_module": MODULE}
    config: dict[str, Any] = {"dataset_type": "pre_encoded", "datasets": [dataset], "random_crop": False}
    return config if split == "train" else config | {"drop_last": False}


def _details(popdb: Popdb) -> dict[str, Any]:
    info = popdb.info
    return {
        "layout": STABLE_AUDIO_LAYOUT,
        **{name: info[name] for name in ("source", "separator", "codec", "chunk_frames", "content_sha256")},
        "pairs": {split: info["counts"][split] for split in CONFIGS},
        "latents": {"dtype": "float16", "channels": LATENT_CHANNELS, "scaled": False},
        "sample_rate": SAMPLE_RATE,
        "downsampling_ratio": HOP,
    }


def _readme(popdb: Popdb, splits: Sequence[str]) -> str:
    frames = popdb.info["chunk_frames"]
    return STABLE_AUDIO_README.format(
        pairs=popdb.info["counts"]["pairs"],
        frames=frames,
        seconds=_seconds(frames),
        samples=frames * HOP,
        module=MODULE,
        configs="\n".join(f"- `{CONFIGS[split]}`: the pairs for {split}" for split in splits),
        model_config=json.dumps(MODEL_CONFIG, indent=2),
    )
