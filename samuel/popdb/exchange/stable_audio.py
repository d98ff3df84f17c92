"""A pre-encoded set for stable-audio-tools 0.0.19, vocal and accompaniment aligned.

train/ID.npy, train/ID.json          the accompaniment and what is known of it: what the loader lists
vocal/train/ID.npy                   its vocal, which `popdb_metadata.py` adds to each item
validation/…, vocal/validation/…     the same for the pairs that are held out, where there are any
dataset_config.json, validation_dataset_config.json
details.json                         what the set was made of
README.md                            how to use it

Shapes: C = 64 latent channels, T = 1024 frames.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from samuel.audio import SAMPLE_RATE
from samuel.codec import HOP, LATENT_CHANNELS
from samuel.errors import DatasetError
from samuel.files import write_json
from samuel.popdb.exchange.folder import export_folder
from samuel.popdb.shards import Popdb
from samuel.popdb.shards.index import Row

LAYOUT = 1
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
README = """\
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
        (target / "README.md").write_text(_readme(popdb, splits), "utf-8")

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
        "layout": LAYOUT,
        **{name: info[name] for name in ("source", "separator", "codec", "chunk_frames", "content_sha256")},
        "pairs": {split: info["counts"][split] for split in CONFIGS},
        "latents": {"dtype": "float16", "channels": LATENT_CHANNELS, "scaled": False},
        "sample_rate": SAMPLE_RATE,
        "downsampling_ratio": HOP,
    }


def _readme(popdb: Popdb, splits: Sequence[str]) -> str:
    frames = popdb.info["chunk_frames"]
    return README.format(
        pairs=popdb.info["counts"]["pairs"],
        frames=frames,
        seconds=_seconds(frames),
        samples=frames * HOP,
        module=MODULE,
        configs="\n".join(f"- `{CONFIGS[split]}`: the pairs for {split}" for split in splits),
        model_config=json.dumps(MODEL_CONFIG, indent=2),
    )
