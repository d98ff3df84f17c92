"""POPDB for others and from others: exports, and the import of what the paper's authors published (§III).

Published are two arrays and nothing that tells where one song ends and the next begins. So each pair becomes
a song of its own, nothing is known of how much is sung, and what is held out is one stretch at the end of the
arrays, behind a gap that is longer than any song. Shapes: N pairs, C latent channels, T frames.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from jinja2 import Template
from numpy.typing import NDArray

from samuel.artifacts import digest, explain_full_disk, fsync, locked, sha256, temporary_folder, write_json
from samuel.codecs import CodecInfo
from samuel.codecs.base import PUBLISHED
from samuel.codecs.stable_audio_open import PUBLISHED_INFO
from samuel.config import parse
from samuel.errors import DatasetError, InputError
from samuel.popdb.dataset import MANIFEST, Popdb, finite, pair_sha256, read_popdb
from samuel.popdb.folder import Folder, open_folder
from samuel.popdb.status import Status
from samuel.popdb.tables import Row
from samuel.popdb.writer import Content, Pair, save
from samuel.reading import open_regular, read_json

logger = logging.getLogger(__name__)

LAYOUT = 1  # of what is exported
MADE_OF = ("source", "separator", "codec", "chunk_frames", "content_sha256")
HERE = Path(__file__).parent


def export_folder(folder: Path, name: str, stated: dict[str, Any], make: Callable[[Path], object]) -> Path:
    """Have `make` fill a folder, whole or not at all; a JSON file `name` in it states what it holds.

    One that states the same is left as it is; an InputError where something else is there.
    """
    place = folder.expanduser().resolve()
    if not (there := next(above for above in place.parents if above.exists())).is_dir():
        raise InputError(f"{there} is a file; give a folder")
    with locked(place):
        try:
            if read_json(place / name) == stated:
                return folder
        except (OSError, InputError):  # there is none, or another
            pass
        if place.exists() and not (place.is_dir() and not any(place.iterdir())):
            raise InputError(f"{folder}: something else is there; give a folder that is not there yet")
        temporary = temporary_folder(place)
        shutil.rmtree(temporary, ignore_errors=True)  # of an export that was killed
        try:
            with explain_full_disk(folder, "nothing was exported. Free some space, and run it again"):
                temporary.mkdir(parents=True)
                make(temporary)
                write_json(temporary / name, stated)
                os.sync()  # one call for tens of thousands of files
            temporary.replace(place)
            fsync(place.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


# The manifest. Latents decode to audio, and titles and messages are what others wrote: neither is in it.

OF_PAIR = ("pair_id", "song_id", "video_id", "chunk", "start_s", "split", "latents_sha256", "pair_sha256")
OF_SONG = ("audio_sha256", "recording")


def export_manifest(popdb: Popdb, folder: Path) -> Path:
    """Write `manifest.json`, `pairs.jsonl` and `README.md`; equal datasets give equal bytes."""
    songs = {row["song_id"]: row for row in popdb.songs(["song_id", *OF_SONG]).to_pylist()}
    rows = [
        {name: row[name] for name in OF_PAIR}
        | {name: songs.get(row["song_id"], {}).get(name) for name in OF_SONG}
        for row in popdb.index
    ]
    # ASCII: a video id is what a site said, and a line must stay one.
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode("ascii")
    info, (channels, frames) = popdb.info, popdb.shape
    stated = {
        "layout": LAYOUT,
        **{name: info[name] for name in (*MADE_OF, "settings")},
        "counts": {name: count for name, count in info["counts"].items() if name != "shards"},
        "pairs_sha256": hashlib.sha256(lines).hexdigest(),
    }

    def make(target: Path) -> None:
        (target / "pairs.jsonl").write_bytes(lines)
        readme = (HERE / "manifest_readme.md").read_text("utf-8")
        (target / "README.md").write_text(readme.format(channels=channels, frames=frames), "utf-8")

    return export_folder(folder, "manifest.json", stated, make)


MODULE = "popdb_metadata.py"
FILE_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")  # no dot: the loader replaces ".npy" wherever it stands
IN_METADATA = ("pair_id", "song_id", "title", "chunk", "start_s", "vocal_share")


def export_stable_audio(popdb: Popdb, folder: Path, on_pair: Callable[[], object] = lambda: None) -> Path:
    """Write a dataset as a pre-encoded set that the loader of stable-audio-tools reads.

    The loader lists `train/ID.npy`, the accompaniments, and `train/ID.json`, what is known of each;
    `popdb_metadata.py` adds `vocal/train/ID.npy` to each item. The same for `validation`, where there is any.
    Every pair is compared with its digest on the way, and `on_pair` called after it. A DatasetError where a
    pair is not what was written, or its id no file name.
    """
    ids = popdb.table["pair_id"].to_pylist()
    # On some systems two names that differ in case are one file.
    if not all(map(FILE_NAME.fullmatch, ids)) or len({name.lower() for name in ids}) < len(ids):
        fault = "a pair id gives no file of its own; is this a dataset of build-popdb? Run samuel verify"
        raise DatasetError(f"{popdb.location}: {fault}")
    info, codec, (channels, frames) = popdb.info, popdb.codec, popdb.shape
    details = {
        "layout": LAYOUT,
        **{name: info[name] for name in MADE_OF},
        "pairs": {split: info["counts"][split] for split in ("train", "validation")},
        "latents": {"dtype": "float16", "channels": channels, "scaled": False},
        "sample_rate": codec.sample_rate,
        "downsampling_ratio": codec.hop,
    }
    seconds = codec.duration_s(frames)
    shown = {"info": info, "channels": channels, "frames": frames, "samples": frames * codec.hop}
    # What the loader needs of an item, its times as of a file of its own.
    needed = {"padding_mask": [1] * frames, "seconds_start": 0, "seconds_total": round(seconds, 4)}

    def write_split(split: str, target: Path) -> None:
        places = target / "vocal" / split, target / split
        for place in places:
            place.mkdir(parents=True)
        for row in popdb.pairs(split):
            for place, latents in zip(places, popdb.read_checked(row), strict=True):
                np.save(place / f"{row['pair_id']}.npy", latents.numpy(), allow_pickle=False)
            # ASCII: the loader reads it in whatever encoding the system prefers.
            metadata = json.dumps(needed | {name: row[name] for name in IN_METADATA})
            (target / split / f"{row['pair_id']}.json").write_text(metadata, "ascii")
            on_pair()
        dataset = {"id": f"popdb-{split}", "path": split, "custom_metadata_module": MODULE}
        config = {"dataset_type": "pre_encoded", "datasets": [dataset], "random_crop": False}
        if split == "train":
            write_json(target / "dataset_config.json", config)
        else:
            write_json(target / f"{split}_dataset_config.json", config | {"drop_last": False})

    def make(target: Path) -> None:
        for split, pairs in details["pairs"].items():
            if pairs:
                write_split(split, target)
        shutil.copyfile(HERE / MODULE, target / MODULE)
        readme = Template((HERE / "stable_audio_readme.md.j2").read_text("utf-8"), keep_trailing_newline=True)
        (target / "README.md").write_text(readme.render(shown, seconds=seconds), "utf-8")

    return export_folder(folder, "details.json", details, make)


SEPARATOR = f"demucs/{PUBLISHED}"  # as the paper states (§III-C); nothing in the arrays could confirm it
LONGEST_SONG_S = 900.0  # the paper filtered out whatever lasts longer (§III-B)
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
    latents a training pair has; the table of songs says so. Neither array, of any floating type (N, C, T), is
    ever held in memory. `codec` is whose latents these are: the paper's, its weights unknown. `on_pair` is
    called for each pair written.
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
    count = len(arrays[0])
    held = max(1, round(count * validation_share)) if validation_share else 0
    if held and count - held - gap < 1:
        logger.warning("%d pairs are too few to hold any out: validation is over training pairs", count)
        held = 0
    gap = gap if held else 0
    split = [*["train"] * (count - held - gap), *[None] * gap, *["validation"] * held]
    content = _content(arrays, split, made_of, on_pair)  # before the lock makes a folder: it may be refused
    with folder.locked():
        return _same_dataset(folder, made_of) or save(folder, content, None)


def _open(path: Path) -> NDArray[Any]:
    """Map a file; unlike np.load, only ever a .npy file."""
    try:
        open_regular(path.resolve()).close()  # which a pipe is not
        array = np.lib.format.open_memmap(path, mode="r")
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
    """The dataset of an earlier import of the same; an InputError where another is there."""
    if MANIFEST not in folder.sizes():
        return None
    popdb = read_popdb(folder)
    if any(popdb.info[name] != value for name, value in made_of.items()):
        raise InputError(f"{folder.location}: another dataset is there; import into a folder of its own")
    return popdb


def _pair(arrays: Arrays, number: int) -> Pair:
    """Vocal and accompaniment of a pair, each float16 (C, T); what float16 cannot hold is infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        vocal, accompaniment = (np.ascontiguousarray(array[number], np.float16) for array in arrays)
    return vocal, accompaniment


def _content(
    arrays: Arrays, split: Sequence[str | None], made_of: dict[str, Any], on_pair: Callable[[], object]
) -> Content:
    count, digits = len(split), len(str(len(split) - 1))
    pairs = (_pair(arrays, number) for number in range(count))
    found = [pair_sha256(*pair) if all(map(finite, pair)) else None for pair in pairs]
    trained = {latents for side, latents in zip(split, found, strict=True) if side == "train"}
    # By chance first: in the order of the ids, what stands side by side is of different songs.
    names = [f"published-{digest('published', number)[:4]}-{number:0{digits}d}" for number in range(count)]
    numbers = {name: number for number, name in enumerate(names)}
    rows: list[Row] = []
    songs: list[Row] = []
    for song_id in sorted(names):
        side, latents, why_not = split[numbers[song_id]], found[numbers[song_id]], ""
        if latents is None or side is None:
            why_not = NOT_FINITE if latents is None else GAP
        elif side == "validation" and latents in trained:
            why_not = TRAINED_ON
        song = {"song_id": song_id, "title": f"Published pair {numbers[song_id]}"}
        if not why_not:
            place = {"pair_id": f"{song_id}-000", "chunk": 0, "split": side, "latents_sha256": latents}
            rows.append(song | place)
        status = Status.NOT_FINITE if why_not == NOT_FINITE else Status.OK
        song |= {"stage": "encode", "status": status, "retryable": False, "attempts": 1, "message": why_not}
        # One chunk, how much of which is sung was not measured.
        songs.append(song | {"vocal_shares": [None], "pairs": int(not why_not), "candidates": []})
    if not any(row["split"] == "train" for row in rows):
        raise InputError(f"of {count} pairs, none to train on is finite in float16; fetch them again")

    def read(new: Sequence[Row]) -> Iterator[Pair]:
        for row in new:
            on_pair()  # not after it: nobody asks for more after the last
            yield _pair(arrays, numbers[row["song_id"]])

    return Content(rows, read, songs, made_of)
