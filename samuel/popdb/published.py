"""POPDB as the paper's authors published it → a dataset of this project (paper §III).

Published are two arrays, `latent_vocal.npy` and `latent_accomp.npy`, and nothing that tells where one song
ends and the next begins. Only that the chunks of a song follow one another is known. So each pair becomes a
song of its own, nothing is known of how much is sung, and what is held out is one stretch at the end of the
arrays, with a gap before it that is longer than any song.

Shapes: N pairs, C latent channels, T frames.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from samuel.artifacts import digest, sha256
from samuel.codecs import CodecInfo
from samuel.codecs.base import PUBLISHED
from samuel.codecs.stable_audio_open import PUBLISHED_INFO
from samuel.config import parse
from samuel.errors import InputError
from samuel.popdb.dataset import MANIFEST, Popdb, read_popdb
from samuel.popdb.folder import Folder, open_folder
from samuel.popdb.shards import Halves, finite, pair_sha256
from samuel.popdb.status import Status
from samuel.popdb.tables import Row
from samuel.popdb.writer import Content, Pair, save

logger = logging.getLogger(__name__)

SEPARATOR = f"demucs/{PUBLISHED}"
"""What the paper states (§III-C); nothing in the arrays could confirm it."""
LONGEST_SONG_S = 900.0
"""The paper filtered out whatever lasts longer (§III-B)."""
GAP = "left out: it lies between the sides of the split, where one song may reach across"
NOT_FINITE = "left out: its latents hold values that float16 cannot"
TRAINED_ON = "left out: its latents are those of a training pair"

Arrays = tuple[NDArray[Any], NDArray[Any]]  # vocal and accompaniment, each (N, C, T), in their files


def import_published(
    vocal: Path,
    accompaniment: Path,
    location: Path | str,
    *,
    cache: Path | None = None,
    validation_share: float = 0.1,
    pairs_per_shard: int = 256,
    codec: CodecInfo = PUBLISHED_INFO,
    on_pair: Callable[[], object] = lambda: None,
) -> Popdb:
    """Make a dataset of the published arrays; nothing is done where it is there already.

    Left out are pairs that hold other than finite float16 values, those of the gap, and held-out pairs whose
    latents a training pair has; the table of songs says so. Neither array is ever held in memory.

    Args:
        vocal: `latent_vocal.npy`, any floating type (N, C, T), T a multiple of 8 and at least 64.
        accompaniment: `latent_accomp.npy`, of the same shape.
        location: Where the dataset goes, a folder or a URL.
        cache: Where shards for a URL are kept on this machine; see `open_folder`.
        validation_share: Share of the pairs that is held out.
        pairs_per_shard: Pairs of a shard file.
        codec: Whose latents these are: the paper's, its weights unknown.
        on_pair: Called for each pair that is written.

    Raises:
        InputError: A file is not such an array, or another dataset is there.
        SettingsError: A share or number is out of range.
        OperatorError: The disk is full, or another machine is writing there.
    """
    arrays = _open(vocal), _open(accompaniment)
    if (shape := arrays[0].shape) != arrays[1].shape:
        shapes = f"{vocal} is {shape}, {accompaniment} is {arrays[1].shape}"
        raise InputError(f"{shapes}; give the two files of one dataset")
    digests = {"vocal_sha256": sha256(vocal), "accompaniment_sha256": sha256(accompaniment)}
    if len(set(digests.values())) == 1:
        raise InputError(f"{vocal} and {accompaniment} are the same; give the vocals and the accompaniments")
    chosen = {"validation_share": validation_share, "pairs_per_shard": pairs_per_shard}
    config = parse({"popdb": chosen | {"chunk_frames": shape[2]}}).popdb
    gap = int(LONGEST_SONG_S / PUBLISHED_INFO.duration_s(shape[2]))  # most chunks that one song can have
    settings = config.model_dump(mode="json", exclude={"path", "cache"})
    made_of = {
        "source": PUBLISHED,
        "separator": SEPARATOR,
        "codec": codec.model_dump(),
        "chunk_frames": shape[2],
        "settings": settings | {"published": {**digests, "gap_pairs": gap}},
    }
    folder = open_folder(location, cache)
    if popdb := _same_dataset(folder, made_of):
        return popdb
    split = sides(len(arrays[0]), validation_share, gap)
    content = _content(arrays, split, made_of, on_pair)  # before the lock makes a folder: it may be refused
    with folder.locked():
        return _same_dataset(folder, made_of) or save(folder, content, None)


def sides(count: int, share: float, gap: int) -> list[str | None]:
    """`train`, `validation` or, for the `gap` between the two, None for each of `count` pairs in a row."""
    held = max(1, round(count * share)) if share else 0
    if held and count - held - gap < 1:
        logger.warning("%d pairs are too few to hold any out: validation is over training pairs", count)
        held = 0
    if not held:
        return ["train"] * count
    return [*["train"] * (count - held - gap), *[None] * gap, *["validation"] * held]


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
    shape, wanted = array.shape, f"floating-point numbers (N, {PUBLISHED_INFO.channels}, T), T = 64, 72, …"
    fits = len(shape) == 3 and shape[0] > 0 and shape[1] == PUBLISHED_INFO.channels
    if array.dtype.kind != "f" or not fits or shape[2] < 64 or shape[2] % 8:
        raise InputError(f"{path}: {array.dtype} of shape {shape}; latents are {wanted}")
    return array


def _same_dataset(folder: Folder, made_of: dict[str, Any]) -> Popdb | None:
    """The dataset of an earlier import of the same."""
    if MANIFEST not in folder.sizes():
        return None
    popdb = read_popdb(folder)
    if any(popdb.info[name] != value for name, value in made_of.items()):
        raise InputError(f"{folder.location}: another dataset is there; import into a folder of its own")
    return popdb


def _pair(arrays: Arrays, number: int) -> tuple[Halves, Halves]:
    """Vocal and accompaniment of a pair, each float16 (C, T); what float16 cannot hold is infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        vocal, accompaniment = (np.ascontiguousarray(array[number], np.float16) for array in arrays)
    return vocal, accompaniment


def _content(
    arrays: Arrays, split: Sequence[str | None], made_of: dict[str, Any], on_pair: Callable[[], object]
) -> Content:
    pairs = (_pair(arrays, number) for number in range(len(split)))
    found = [pair_sha256(*pair) if all(map(finite, pair)) else None for pair in pairs]
    trained = {latents for side, latents in zip(split, found, strict=True) if side == "train"}
    digits = len(str(len(split) - 1))
    rows: list[Row] = []
    songs: list[Row] = []
    ids: dict[str, int] = {}
    for number, (side, latents_sha256) in enumerate(zip(split, found, strict=True)):
        # By chance first: in the order of the ids, what stands side by side is of different songs.
        song_id = f"published-{digest('published', number)[:4]}-{number:0{digits}d}"
        ids[song_id] = number
        why_not = ""
        if latents_sha256 is None:
            why_not = NOT_FINITE
        elif side is None:
            why_not = GAP
        elif side == "validation" and latents_sha256 in trained:
            why_not = TRAINED_ON
        song = {"song_id": song_id, "title": f"Published pair {number}"}
        if not why_not:
            pair = {"pair_id": f"{song_id}-000", "chunk": 0, "split": side, "latents_sha256": latents_sha256}
            rows.append(song | pair)
        songs.append(
            song
            | {
                "stage": "encode",
                "status": Status.NOT_FINITE if why_not == NOT_FINITE else Status.OK,
                "retryable": False,
                "attempts": 1,
                "message": why_not,
                "vocal_shares": [None],  # one chunk, not measured
                "pairs": int(not why_not),
                "candidates": [],
            }
        )
    if not any(row["split"] == "train" for row in rows):
        raise InputError(f"of {len(split)} pairs, none to train on is finite in float16; fetch them again")

    def read(new: Sequence[Row]) -> Iterator[Pair]:
        for row in new:
            on_pair()  # not after it: nobody asks for more after the last
            vocal, accompaniment = map(torch.from_numpy, _pair(arrays, ids[row["song_id"]]))
            yield vocal, accompaniment

    def by_id(row: Row) -> str:
        return row["song_id"]

    return Content(sorted(rows, key=by_id), read, sorted(songs, key=by_id), made_of)
