"""Is a dataset what its index says?"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from samuel.errors import DatasetError
from samuel.files import sha256
from samuel.popdb.shards import STREAMS, Popdb, open_popdb


def verify(path: Path) -> list[str]:
    """Every fault of the dataset at `path`, one line each; an empty list for a sound one.

    Checked: the index against `dataset.json`, each shard's digest, the shapes and finite values of its
    tensors, the number of its pairs, and that no song stands on both sides of the split.
    """
    try:
        popdb = open_popdb(path)
    except DatasetError as error:
        return [str(error)]
    members: dict[str, list[dict[str, Any]]] = {}
    for row in popdb.index:
        members.setdefault(row["shard"], []).append(row)
    faults = [fault for shard, rows in members.items() for fault in _shard_faults(popdb, shard, rows)]
    return faults + _file_faults(popdb) + _split_faults(popdb)


def _shard_faults(popdb: Popdb, shard: str, rows: list[dict[str, Any]]) -> list[str]:
    path = popdb.root / shard
    if not path.is_file():
        return [f"{shard}: missing"]
    if sha256(path) != rows[0]["shard_sha256"]:
        return [f"{shard}: its bytes are not those the index names"]
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        return [f"{shard}: not a safetensors file ({error})"]
    shape = (len(rows), 64, popdb.info["chunk_frames"])
    faults = []
    for stream in STREAMS:
        if tuple(tensors[stream].shape) != shape:
            faults.append(
                f"{shard}: {stream} has shape {tuple(tensors[stream].shape)}, the index means {shape}"
            )
        elif not torch.isfinite(tensors[stream]).all():
            faults.append(f"{shard}: {stream} holds values that are not finite")
    return faults


def _file_faults(popdb: Popdb) -> list[str]:
    """Files beside the shards, which `_shard_faults` has looked at."""
    others = {name: file for name, file in popdb.info["files"].items() if not name.startswith("shards/")}
    faults = []
    for name, file in others.items():
        if not (popdb.root / name).is_file():
            faults.append(f"{name}: missing")
        elif sha256(popdb.root / name) != file["sha256"]:
            faults.append(f"{name}: its bytes are not those dataset.json names")
    return faults


def _split_faults(popdb: Popdb) -> list[str]:
    sides: dict[str, set[str]] = {}
    for row in popdb.index:
        sides.setdefault(row["song_id"], set()).add(row["split"])
    return [f"song {song}: in both splits" for song, found in sides.items() if len(found) > 1]
