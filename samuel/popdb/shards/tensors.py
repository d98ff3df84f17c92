"""A shard: the latents of at most 256 pairs in a safetensors file.

The file holds `vocal` and `accompaniment`, float16 (N, C, T), and in its header the ids of the pairs, so that
a shard says by itself what it is.

Shapes: N pairs, C = 64 latent channels, T = 1024 frames.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samuel.errors import DatasetError

STREAMS = ("vocal", "accompaniment")
CHANNELS = 64
LONGEST_HEADER = 2**20

Halves = NDArray[np.float16]


def shard_header(pair_ids: Sequence[str], frames: int) -> bytes:
    """What a shard begins with; its vocals follow, (N, C, T), and then its accompaniments."""
    shape = (len(pair_ids), CHANNELS, frames)
    size = 2 * len(pair_ids) * CHANNELS * frames
    header: dict[str, Any] = {"__metadata__": {"popdb": json.dumps({"pairs": list(pair_ids)})}}
    for number, stream in enumerate(STREAMS):
        offsets = [number * size, (number + 1) * size]
        header[stream] = {"dtype": "F16", "shape": shape, "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns what follows
    return len(text).to_bytes(8, "little") + text


def pair_sha256(vocal: Tensor | Halves, accompaniment: Tensor | Halves) -> str:
    """Digest of a pair's bytes, wherever it lies: those of the vocal, then those of the accompaniment."""
    hashed = hashlib.sha256()
    for latents in (vocal, accompaniment):
        hashed.update(np.ascontiguousarray(latents).data)
    return hashed.hexdigest()


def finite(latents: Halves) -> bool:
    """True where every value is a number."""
    return not ((latents.view(np.uint16) & 0x7C00) == 0x7C00).any()  # six times faster than np.isfinite


@dataclass(frozen=True)
class Layout:
    """What the header of a shard says.

    Attributes:
        shape: (N, C, T) of both streams.
        offsets: Where each stream begins in the file, in bytes.
        pair_ids: The pairs, in the order of the rows; empty where the header has none.
    """

    shape: tuple[int, int, int]
    offsets: tuple[int, int]
    pair_ids: tuple[str, ...]

    @property
    def row_bytes(self) -> int:
        """Size of one stream of a pair."""
        return 2 * self.shape[1] * self.shape[2]


def layout_of(file: FileIO, name: str) -> Layout:
    """Read the header of a shard.

    Raises:
        DatasetError: It is not one, or shorter than it says.
    """
    layout = header_of(file, name)
    needed = max(layout.offsets) + layout.shape[0] * layout.row_bytes
    if needed > (there := os.fstat(file.fileno()).st_size):
        raise DatasetError(f"{name}: cut short, {there} of {needed} bytes")
    return layout


def header_of(file: IO[bytes] | FileIO, name: str) -> Layout:
    """Read the header of a shard that may be shorter than it says.

    Raises:
        DatasetError: It is not one.
    """
    try:
        return _parse(file)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DatasetError(f"{name}: not a shard ({type(error).__name__}: {error})") from error


def _parse(file: IO[bytes] | FileIO) -> Layout:
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    header = json.loads(file.read(length))
    (shape, vocal), (other, accompaniment) = (_stream(header[stream]) for stream in STREAMS)
    if shape != other:
        raise ValueError(f"vocal {shape} and accompaniment {other} differ in shape")
    pairs = json.loads(header.get("__metadata__", {}).get("popdb", "{}")).get("pairs", [])
    return Layout(shape, (8 + length + vocal, 8 + length + accompaniment), tuple(pairs))


def _stream(described: dict[str, Any]) -> tuple[tuple[int, int, int], int]:
    (rows, channels, frames), dtype = described["shape"], described["dtype"]
    numbers = [rows, channels, frames, *(start_end := described["data_offsets"])]
    if not all(type(number) is int and number >= 0 for number in numbers) or dtype != "F16":
        raise ValueError(f"{dtype} of shape {described['shape']} at {start_end}")
    start, end = start_end
    if end - start != 2 * rows * channels * frames:
        raise ValueError(f"shape {described['shape']} in {end - start} bytes")
    return (rows, channels, frames), start


def empty_batch(count: int, frames: int) -> Halves:
    """Room for `count` pairs: (2, count, C, frames)."""
    return np.empty((2, count, CHANNELS, frames), np.float16)


def as_tensors(batch: Halves) -> tuple[Tensor, Tensor]:
    """Vocal and accompaniment (B, C, T) of a batch (2, B, C, T), over the same memory."""
    both = torch.from_numpy(batch)
    return both[0], both[1]
