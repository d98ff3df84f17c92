"""POPDB for others: a pre-encoded set for stable-audio-tools, and what identifies it, without its audio.

Shapes: N pairs, C latent channels, T frames.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from samuel.artifacts import explain_full_disk, fsync, locked, read_json, temporary_folder, write_json
from samuel.errors import DatasetError, InputError
from samuel.popdb.dataset import Popdb

LAYOUT = 1  # of what is exported
MADE_OF = ("source", "separator", "codec", "chunk_frames", "content_sha256")
HERE = Path(__file__).parent


def export_folder(folder: Path, name: str, stated: dict[str, Any], make: Callable[[Path], object]) -> Path:
    """Have `make` fill a folder, whole or not at all; one that states the same already is left as it is.

    A JSON file `name` in it states what it holds. An InputError where something else is there, an
    OperatorError where the disk is full.
    """
    place = folder.expanduser().resolve()
    if not (there := next(above for above in place.parents if above.exists())).is_dir():
        raise InputError(f"{there} is a file; give a folder")
    with locked(place):
        try:
            if read_json(place / name) == stated:
                return folder
        except (OSError, ValueError):  # there is none, or another
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
    """Write ids, digests and settings of a dataset: `manifest.json`, `pairs.jsonl` and `README.md`.

    Equal datasets give equal bytes. See `export_folder` for what it raises.
    """
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


# The set for stable-audio-tools, vocal and accompaniment aligned:
#
# train/ID.npy, train/ID.json          the accompaniment and what is known of it: what the loader lists
# vocal/train/ID.npy                   its vocal, which `popdb_metadata.py` adds to each item
# validation/…, vocal/validation/…     the same for the pairs that are held out, where there are any
# dataset_config.json, validation_dataset_config.json
# details.json                         what the set was made of
# README.md                            how to use it

MODULE = "popdb_metadata.py"
CONFIGS = {"train": "dataset_config.json", "validation": "validation_dataset_config.json"}
FILE_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")  # no dot: the loader replaces ".npy" wherever it stands
IN_METADATA = ("pair_id", "song_id", "title", "chunk", "start_s", "vocal_share")


def export_stable_audio(popdb: Popdb, folder: Path, on_pair: Callable[[], object] = lambda: None) -> Path:
    """Write a dataset as a pre-encoded set that the loader of stable-audio-tools reads.

    Every pair is compared with its digest on the way, and `on_pair` called after it. Beside what
    `export_folder` raises, a DatasetError where a pair is not what was written, or its id no file name.
    """
    seen: set[str] = set()
    for pair_id in popdb.table["pair_id"].to_pylist():
        # On some systems two names that differ in case are one file.
        if not FILE_NAME.fullmatch(pair_id) or pair_id.lower() in seen:
            fault = f"the pair id {pair_id!r} gives no file of its own"
            raise DatasetError(
                f"{popdb.location}: {fault}; is this a dataset of build-popdb? Run samuel verify"
            )
        seen.add(pair_id.lower())
    info, (channels, frames) = popdb.info, popdb.shape
    splits = [split for split in CONFIGS if info["counts"][split]]
    details = {
        "layout": LAYOUT,
        **{name: info[name] for name in MADE_OF},
        "pairs": {split: info["counts"][split] for split in CONFIGS},
        "latents": {"dtype": "float16", "channels": channels, "scaled": False},
        "sample_rate": popdb.codec.sample_rate,
        "downsampling_ratio": popdb.codec.hop,
    }

    def make(target: Path) -> None:
        for split in splits:
            _write_split(popdb, split, target, on_pair)
            dataset = {"id": f"popdb-{split}", "path": split, "custom_metadata_module": MODULE}
            config = {"dataset_type": "pre_encoded", "datasets": [dataset], "random_crop": False}
            write_json(target / CONFIGS[split], config | ({} if split == "train" else {"drop_last": False}))
        shutil.copyfile(HERE / MODULE, target / MODULE)
        readme = (
            (HERE / "stable_audio_readme.md")
            .read_text("utf-8")
            .format(
                pairs=info["counts"]["pairs"],
                channels=channels,
                frames=frames,
                seconds=popdb.codec.duration_s(frames),
                samples=frames * popdb.codec.hop,
                module=MODULE,
                configs="\n".join(f"- `{CONFIGS[split]}`: the pairs for {split}" for split in splits),
                model_config=json.dumps(_model_config(channels), indent=2),
            )
        )
        (target / "README.md").write_text(readme, "utf-8")

    return export_folder(folder, "details.json", details, make)


def _write_split(popdb: Popdb, split: str, target: Path, on_pair: Callable[[], object]) -> None:
    folder, vocals = target / split, target / "vocal" / split
    folder.mkdir()
    vocals.mkdir(parents=True)
    frames = popdb.info["chunk_frames"]
    # What the loader needs of an item, its times as of a file of its own.
    needed = {
        "padding_mask": [1] * frames,
        "seconds_start": 0,
        "seconds_total": round(popdb.codec.duration_s(frames), 4),
    }
    for row in popdb.pairs(split):
        for place, latents in zip((vocals, folder), popdb.read_checked(row), strict=True):
            np.save(place / f"{row['pair_id']}.npy", latents.numpy(), allow_pickle=False)
        # ASCII: the loader reads it in whatever encoding the system prefers.
        metadata = json.dumps(needed | {name: row[name] for name in IN_METADATA})
        (folder / f"{row['pair_id']}.json").write_text(metadata, "ascii")
        on_pair()


def _model_config(channels: int) -> dict[str, Any]:
    """What conditions a model of the tool on the vocal, beside its own configuration."""
    vocal = {"id": "vocal", "type": "int", "config": {}}
    return {
        "conditioning": {"configs": [vocal], "pre_encoded_keys": ["vocal"], "cond_dim": channels},
        "diffusion": {
            "type": "dit",
            "input_concat_ids": ["vocal"],
            "config": {"io_channels": channels, "input_concat_dim": channels},
        },
    }
