"""Does each shard hold the pairs that the index says, as they were written?

A shard is read into memory once: its digest, its header, then pair by pair.

Shapes: N pairs, C = 64 latent channels, T = 1024 frames.
"""

import hashlib
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO, FileIO
from typing import Any

import numpy as np

from samuel.errors import DatasetError
from samuel.popdb.shards.commit import MANIFEST
from samuel.popdb.shards.folder import Folder, LocalFolder
from samuel.popdb.shards.index import INDEX, TOMBSTONES, Row
from samuel.popdb.shards.tensors import (
    CHANNELS,
    LONGEST_HEADER,
    Halves,
    Layout,
    finite,
    header_of,
    pair_sha256,
)
from samuel.popdb.verify.fault import Fault, listed
from samuel.popdb.verify.manifest import unreadable
from samuel.popdb.verify.statistics import Sums
from samuel.popdb.verify.tables import is_shard

MOST_BYTES = 2**30  # a shard of 256 pairs of 1024 frames has a sixteenth of it
AT_ONCE = 4  # shards in memory
_INFINITE = (
    "values that are not finite (if build-popdb brings them back, delete the folder of latents whose "
    "entry.json names the latents_sha256 of the pair)"
)

Buffer = bytes | memoryview


@dataclass
class Shard:
    """What a dataset says of a shard.

    Attributes:
        name: Its name.
        listed: Its rows of the index.
        buried: Its rows of the tombstones.
        sha256: Its digest, and
        bytes: its size in `dataset.json`; of one that is not there, as the index says, and None.
        there: Its size where it lies; None: it is missing.
    """

    name: str
    listed: list[Row] = field(default_factory=list)
    buried: list[Row] = field(default_factory=list)
    sha256: str | None = None
    bytes: int | None = None
    there: int | None = None

    @property
    def rows(self) -> list[Row]:
        """The rows of both tables, in the order of the file."""
        return sorted([*self.listed, *self.buried], key=lambda row: row["row"])

    def fault(self, text: str, broken: Iterable[Row] = ()) -> Fault:
        """A fault of this shard, for which the `broken` ones of its pairs cannot stay."""
        listed_ids = {row["pair_id"] for row in self.listed}
        ids = frozenset(row["pair_id"] for row in broken) & listed_ids
        return Fault(f"{self.name}: {text}", ids, frozenset({self.name}))


@dataclass(frozen=True)
class Checked:
    """What was found in a shard: its faults, and sums over its sound training pairs."""

    faults: list[Fault]
    sums: Sums


def check_shards(folder: Folder, shards: Sequence[Shard], frames: int) -> Checked:
    """Read and check every shard, several at a time; hashing leaves Python's lock to the others."""
    room = _Room()
    with ThreadPoolExecutor(min(os.cpu_count() or 1, AT_ONCE)) as pool:
        found = list(pool.map(partial(_check, folder, frames, room), shards))
    sums = sum((checked.sums for checked in found), Sums())
    return Checked([fault for checked in found for fault in checked.faults], sums)


def shards_of(
    folder: Folder, files: Mapping[str, Any], index: Iterable[Row], tombstones: Iterable[Row]
) -> list[Shard]:
    """The shards of the index, each with what the dataset says of it."""
    shards: dict[str, Shard] = {}
    for row in index:
        if is_shard(row["shard"]):
            shards.setdefault(row["shard"], Shard(row["shard"])).listed.append(row)
    for row in tombstones:
        if row["shard"] in shards:
            shards[row["shard"]].buried.append(row)
    sizes = folder.sizes("shards")
    for name, shard in shards.items():
        named = files.get(name, {"sha256": shard.listed[0]["shard_sha256"], "bytes": None})
        shard.sha256, shard.bytes = named["sha256"], named["bytes"]
        shard.there = sizes.get(name)
    return [shards[name] for name in sorted(shards)]


def pair_at(content: Buffer, layout: Layout, row: int) -> tuple[Halves, Halves] | None:
    """Vocal and accompaniment, each (C, T), of a row of a shard; None where the shard ends before."""
    starts = [offset + row * layout.row_bytes for offset in layout.offsets]
    if not 0 <= row < layout.shape[0] or max(starts) + layout.row_bytes > len(content):
        return None
    count = layout.row_bytes // 2
    vocal, accompaniment = (np.frombuffer(content, np.float16, count, start) for start in starts)
    return vocal.reshape(layout.shape[1:]), accompaniment.reshape(layout.shape[1:])


class _Room(threading.local):
    """Memory of a thread for one shard after another: new pages cost more than the reading."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def read(self, folder: Folder, name: str, size: int) -> Buffer:
        """The content of a file of `size` bytes, until the next one is read."""
        if not isinstance(folder, LocalFolder):
            return folder.read(name) or b""
        if len(self._bytes) < size:
            self._bytes = bytearray(size)
        content = memoryview(self._bytes)[:size]
        with FileIO(folder.path / name) as file:
            return content[: file.readinto(content)]


def _check(folder: Folder, frames: int, room: _Room, shard: Shard) -> Checked:
    if shard.there is None:
        return Checked([shard.fault(f"missing, with {listed(_ids(shard.listed))}", shard.listed)], Sums())
    if shard.there > MOST_BYTES:
        return Checked([shard.fault(f"{shard.there} bytes are no shard", shard.listed)], Sums())
    try:
        content = room.read(folder, shard.name, shard.there)
    except OSError as error:
        return Checked([unreadable(shard.name, error)], Sums())
    right = hashlib.sha256(content).hexdigest() == shard.sha256
    changed = _file_faults(shard, len(content), right)
    try:
        layout = header_of(BytesIO(content[: 8 + LONGEST_HEADER]), shard.name)
        _demand_shape(layout, frames)
    except (DatasetError, ValueError) as error:
        reason = str(error).removeprefix(f"{shard.name}: ")
        return Checked([*changed, shard.fault(reason, shard.listed)], Sums())
    checked = _check_pairs(shard, content, layout)
    return Checked([*changed, *_header_faults(shard, layout, right), *checked.faults], checked.sums)


def _file_faults(shard: Shard, size: int, right: bool) -> list[Fault]:
    if shard.bytes not in (size, None):
        return [shard.fault(f"{size} bytes, {MANIFEST} names {shard.bytes}")]
    return [] if right else [shard.fault(f"its bytes are not those {MANIFEST} names")]


def _demand_shape(layout: Layout, frames: int) -> None:
    whole = all(type(length) is int for length in (*layout.shape, *layout.offsets))
    if not whole or layout.shape[1:] != (CHANNELS, frames):
        raise ValueError(f"pairs of shape {layout.shape[1:]}, the dataset has {(CHANNELS, frames)}")


def _header_faults(shard: Shard, layout: Layout, right: bool) -> list[Fault]:
    """What the header says otherwise than the tables; where its bytes are wrong, it proves nothing."""
    names, known = layout.pair_ids, {row["row"]: row for row in shard.rows}
    other = [
        row for row in shard.rows if row["row"] in range(len(names)) and names[row["row"]] != row["pair_id"]
    ]
    lost = [str(name) for row, name in enumerate(names) if row not in known]
    faults = []
    if len(names) != layout.shape[0]:
        faults.append(shard.fault(f"its header names {len(names)} pairs, and has {layout.shape[0]} rows"))
    if other:
        text = f"its header has other pairs in the places of {listed(_ids(other))}"
        faults.append(shard.fault(text, other if right else ()))
    if lost:
        faults.append(shard.fault(f"neither in {INDEX} nor in {TOMBSTONES}: {listed(lost)}"))
    return faults


def _check_pairs(shard: Shard, content: Buffer, layout: Layout) -> Checked:
    """Whether the latents of each row are those of the tables."""
    absent: list[Row] = []
    changed: list[Row] = []
    infinite: list[Row] = []
    sums, training = Sums(), {row["row"] for row in shard.listed if row["split"] == "train"}
    for row in shard.rows:
        pair = pair_at(content, layout, row["row"])
        if pair is None:
            absent.append(row)
        elif pair_sha256(*pair) != row["pair_sha256"]:
            changed.append(row)
        elif not all(finite(latents) for latents in pair):
            infinite.append(row)
        elif row["row"] in training:
            sums.add(*pair)
    found = {"beyond its end": absent, "not the latents that were written": changed, _INFINITE: infinite}
    faults = [shard.fault(f"{what}: {listed(_ids(rows))}", rows) for what, rows in found.items() if rows]
    return Checked(faults, sums)


def _ids(rows: Iterable[Row]) -> list[str]:
    return [row["pair_id"] for row in rows]
