"""POPDB as the paper's authors published it → a dataset of this project (paper §III).

Published are two arrays, `latent_vocal.npy` and `latent_accomp.npy`, and nothing that tells where one song
ends and the next begins. Only that the chunks of a song follow one another is known. So each pair becomes a
song of its own, nothing is known of how much is sung, and what is held out is one stretch at the end of the
arrays, with a gap before it that is longer than any song.

Shapes: N pairs, C latent channels, T frames.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
from samuel.config import PopdbConfig, parse
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
        cache: Where shards for a URL are kept on this machine; none: `samuel/shards` in the user's cache.
        validation_share: Share of the pairs that is held out.
        pairs_per_shard: Pairs of a shard file.
        codec: Whose latents these are: the paper's, its weights unknown.
        on_pair: Called for each pair that is written.

    Raises:
        InputError: A file is not such an array, or another dataset is there.
        SettingsError: A share or number is out of range.
        OperatorError: The disk is full, or another machine is writing there.
    """
    arrays = _open_both(vocal, accompaniment)
    digests = {"vocal_sha256": sha256(vocal), "accompaniment_sha256": sha256(accompaniment)}
    if len(set(digests.values())) == 1:
        raise InputError(f"{vocal} and {accompaniment} are the same; give the vocals and the accompaniments")
    frames = arrays.vocal.shape[2]
    chosen = {"validation_share": validation_share, "pairs_per_shard": pairs_per_shard}
    config = parse({"popdb": chosen | {"chunk_frames": frames}}).popdb
    published = {**digests, "gap_pairs": longest_song(frames)}
    made_of = {
        "source": PUBLISHED,
        "separator": SEPARATOR,
        "codec": codec.model_dump(),
        "chunk_frames": frames,
        "settings": config.model_dump(mode="json", exclude={"path", "cache"}) | {"published": published},
    }
    folder = open_folder(location, cache)
    if popdb := _same_dataset(folder, made_of):
        return popdb
    content = _content(arrays, made_of, config, on_pair)  # before the lock makes a folder: it may be refused
    with folder.locked():
        return _same_dataset(folder, made_of) or save(folder, content, None)


def longest_song(frames: int) -> int:
    """Most chunks of `frames` latent frames that one song can have."""
    return int(LONGEST_SONG_S / PUBLISHED_INFO.duration_s(frames))


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


def _content(
    arrays: Arrays, made_of: dict[str, Any], config: PopdbConfig, on_pair: Callable[[], object]
) -> Content:
    count = len(arrays.vocal)
    split = sides(count, config.validation_share, made_of["settings"]["published"]["gap_pairs"])
    found = [_digest_of_finite(arrays.pair(number)) for number in range(count)]
    left_out = _left_out(split, found)
    # By chance first: in the order of the ids, what stands side by side is of different songs.
    digits = len(str(count - 1))
    ids = {f"published-{digest('published', n)[:4]}-{n:0{digits}d}": n for n in range(count)}
    rows = [
        {
            "pair_id": f"{song_id}-000",
            "song_id": song_id,
            "title": f"Published pair {number}",
            "chunk": 0,
            "split": split[number],
            "latents_sha256": found[number],
        }
        for song_id, number in sorted(ids.items())
        if not left_out[number]
    ]
    songs = [
        {
            "song_id": song_id,
            "title": f"Published pair {number}",
            "stage": "encode",
            "status": Status.NOT_FINITE if left_out[number] == NOT_FINITE else Status.OK,
            "retryable": False,
            "attempts": 1,
            "message": left_out[number],
            "vocal_shares": [None],  # one chunk, not measured
            "pairs": int(not left_out[number]),
            "candidates": [],
        }
        for song_id, number in sorted(ids.items())
    ]
    if not any(row["split"] == "train" for row in rows):
        raise InputError(f"of {count} pairs, none to train on is finite in float16; fetch the files again")

    def read(new: Sequence[Row]) -> Iterator[Pair]:
        for row in new:
            on_pair()  # not after it: nobody asks for more after the last
            vocal, accompaniment = map(torch.from_numpy, arrays.pair(ids[row["song_id"]]))
            yield vocal, accompaniment

    return Content(rows, read, songs, made_of)


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
