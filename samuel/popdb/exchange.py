"""POPDB for others: a pre-encoded set for stable-audio-tools, and what identifies it, without its audio.

Shapes: N pairs, C latent channels, T frames.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from samuel.artifacts import explain_full_disk, fsync, locked, read_json, temporary_folder, write_json
from samuel.errors import DatasetError, InputError
from samuel.popdb.dataset import Popdb

LAYOUT = 1
"""Of what is exported."""
MADE_OF = ("source", "separator", "codec", "chunk_frames", "content_sha256")


def export_folder(folder: Path, name: str, stated: dict[str, Any], make: Callable[[Path], object]) -> Path:
    """Have `make` fill a folder, whole or not at all; one that states the same already is left as it is.

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
    if not (there := next(above for above in place.parents if above.exists())).is_dir():
        raise InputError(f"{there} is a file; give a folder")
    with locked(place):
        if _states(place / name, stated):
            return folder
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


def _states(path: Path, stated: dict[str, Any]) -> bool:
    try:
        return read_json(path) == stated
    except (OSError, ValueError):
        return False


# The manifest. Latents decode to audio, and titles and messages are what others wrote: neither is in it.

OF_PAIR = ("pair_id", "song_id", "video_id", "chunk", "start_s", "split", "latents_sha256", "pair_sha256")
OF_SONG = ("audio_sha256", "recording")
MANIFEST_README = """\
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
  - `pair_sha256`: of the pair's latents, little-endian float16 ({channels}, {frames}), row by row: first
    those of the vocal, then those of the accompaniment.

All of it is copied from the index of the dataset, and no latents were read: run `samuel verify` on the
dataset first, which compares them with their digests.

## To rebuild it

Build a dataset with SAMUeL (arXiv 2507.19991) from the same songs, with the separator, the codec and the
`settings` of `manifest.json`, by the flow `build-popdb`. Where the source is `published`, run
`samuel import-popdb` on the two files whose digests stand among the settings.

## To check what was rebuilt

Export the manifest of the new dataset (`samuel export-manifest`) and compare the two folders, as with
`diff -r`. Equal datasets give equal bytes. Where lines differ, they say why:
another video (`video_id`), other audio from the same video (`audio_sha256`), or other latents from the same
audio (`pair_sha256`), which separators and codecs compute a little differently on different processors.
"""


def export_manifest(popdb: Popdb, folder: Path) -> Path:
    """Write ids, digests and settings of a dataset: `manifest.json`, `pairs.jsonl` and `README.md`.

    Equal datasets give equal bytes. A folder that holds the same already is left as it is.

    Raises:
        InputError: Something else is in the folder.
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
        text = MANIFEST_README.format(channels=channels, frames=frames)
        (target / "README.md").write_text(text, "utf-8")

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
STABLE_AUDIO_README = """\
# POPDB, pre-encoded for stable-audio-tools

{pairs} pairs of vocal and accompaniment latents, each float16 ({channels}, {frames}), {seconds:.2f} s,
unscaled, of the codec that `details.json` names; a model's `pretransform` has to be that one.

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
latents, items = next(iter(loader))  # (16, {channels}, {frames}); items[0]["vocal"] is ({channels}, {frames})
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
    info, (channels, _) = popdb.info, popdb.shape
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
        shutil.copyfile(Path(__file__).with_name(MODULE), target / MODULE)
        (target / "README.md").write_text(_stable_audio_readme(popdb, splits), "utf-8")

    return export_folder(folder, "details.json", details, make)


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


def _stable_audio_readme(popdb: Popdb, splits: Sequence[str]) -> str:
    channels, frames = popdb.shape
    model = {
        "conditioning": {
            "configs": [{"id": "vocal", "type": "int", "config": {}}],
            "pre_encoded_keys": ["vocal"],
            "cond_dim": channels,
        },
        "diffusion": {
            "type": "dit",
            "input_concat_ids": ["vocal"],
            "config": {"io_channels": channels, "input_concat_dim": channels},
        },
    }
    return STABLE_AUDIO_README.format(
        pairs=popdb.info["counts"]["pairs"],
        channels=channels,
        frames=frames,
        seconds=popdb.codec.duration_s(frames),
        samples=frames * popdb.codec.hop,
        module=MODULE,
        configs="\n".join(f"- `{CONFIGS[split]}`: the pairs for {split}" for split in splits),
        model_config=json.dumps(model, indent=2),
    )
