"""Latents of pairs in safetensors files: bytes, digests, reads, sums.

A shard holds `vocal` and `accompaniment`, each float16 (N, C, T). Rows are read with plain reads, not by a
memory map: a file that is cut short is then an error with a name instead of the end of the process, and pages
that were read are not counted as its memory.

Shapes: N pairs of a shard, B pairs of a batch, C latent channels, T frames.
"""

import hashlib
import os
from collections.abc import Sequence
from io import FileIO
from math import prod
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError, model_validator
from safetensors.numpy import save
from torch import Tensor

from samuel.errors import DatasetError, first_fault
from samuel.popdb.folder import REMEDY, open_regular

STREAMS = ("vocal", "accompaniment")
LONGEST_HEADER = 2**16
MOST_OPEN = 128  # a process may have 256 files open on some systems
CONSTANT = 1e-4  # a channel with less of a deviation never changes

Halves = NDArray[np.float16]
ChannelFigures = dict[str, dict[str, list[float]]]
Natural = Annotated[int, Field(ge=0, lt=2**40)]


def shard_bytes(latents: Halves) -> bytes:
    """Content of the shard that holds latents (2, N, C, T); the same latents give the same bytes."""
    return save(dict(zip(STREAMS, latents, strict=True)))


def pair_sha256(vocal: Tensor | Halves, accompaniment: Tensor | Halves) -> str:
    """Digest of a pair's bytes, wherever it lies: those of the vocal, then those of the accompaniment."""
    hashed = hashlib.sha256()
    for latents in (vocal, accompaniment):
        hashed.update(np.ascontiguousarray(latents).data)
    return hashed.hexdigest()


def finite(latents: Halves) -> bool:
    """True where every value is a number."""
    return not ((latents.view(np.uint16) & 0x7C00) == 0x7C00).any()  # six times faster than np.isfinite


def empty_batch(count: int, channels: int, frames: int) -> Halves:
    """Room for `count` pairs: (2, count, channels, frames)."""
    return np.empty((2, count, channels, frames), np.float16)


def as_tensors(batch: Halves) -> tuple[Tensor, Tensor]:
    """Vocal and accompaniment (B, C, T) of a batch (2, B, C, T), over the same memory."""
    both = torch.from_numpy(batch)
    return both[0], both[1]


class ChannelSums:
    """Sums over pairs, in float64, from which mean and deviation of each channel follow."""

    def __init__(self) -> None:
        self.pairs = self.frames = 0
        self.values = np.zeros((2, 2, 1))  # by stream and channel, of the values and of their squares

    def add(self, *pair: Halves) -> None:
        """Count vocal and accompaniment of a pair, each (C, T)."""
        both = [latents.astype(np.float64) for latents in pair]
        self.values = self.values + [[v.sum(axis=1), np.einsum("ct,ct->c", v, v)] for v in both]
        self.pairs += 1
        self.frames += pair[0].shape[1]

    def merge(self, other: "ChannelSums") -> None:
        """Count what another has counted."""
        self.pairs += other.pairs
        self.frames += other.frames
        self.values = self.values + other.values

    def statistics(self) -> ChannelFigures:
        """By stream, `mean` and `std` of each channel; one that never changes gets a deviation of 1.

        Rounded to eight digits, so that the order in which a processor adds does not show.
        """
        mean, squares = self.values[:, 0] / self.frames, self.values[:, 1] / self.frames
        std = np.sqrt(np.maximum(squares - mean**2, 0.0))
        std[std < CONSTANT] = 1.0
        figures = {"mean": mean, "std": std}
        return {
            stream: {name: [float(f"{value:.8g}") for value in of[i]] for name, of in figures.items()}
            for i, stream in enumerate(STREAMS)
        }


class _Stream(BaseModel, strict=True):
    dtype: Literal["F16"]
    shape: tuple[Natural, Natural, Natural]
    data_offsets: tuple[Natural, Natural]


class _Header(BaseModel, strict=True):
    vocal: _Stream
    accompaniment: _Stream

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for stream in (self.vocal, self.accompaniment):
            start, end = stream.data_offsets
            if stream.shape != self.vocal.shape or end - start != 2 * prod(stream.shape):
                raise ValueError(f"shape {stream.shape} in {end - start} bytes, vocal {self.vocal.shape}")
        return self


def _read_header(file: FileIO) -> tuple[tuple[int, int, int], list[int]]:
    length = int.from_bytes(file.read(8) or b"", "little")
    if length > LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    header = _Header.model_validate_json(file.read(length) or b"")
    starts, ends = zip(header.vocal.data_offsets, header.accompaniment.data_offsets, strict=True)
    if (needed := 8 + length + max(ends)) > (size := os.fstat(file.fileno()).st_size):
        raise ValueError(f"cut short, {size} of {needed} bytes")
    return header.vocal.shape, [8 + length + start for start in starts]


class Shard:
    """An open file, which is closed when nobody reads it any more.

    Raises:
        DatasetError: It is missing, or no shard.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open_regular(path) as file:
                self.shape, self._offsets = _read_header(file)  # (N, C, T); of both streams, in bytes
                self._descriptor = os.dup(file.fileno()) if hasattr(os, "preadv") else None
        except FileNotFoundError:
            raise DatasetError(f"{path}: missing; {REMEDY}") from None
        except ValueError as error:
            fault = first_fault(error) if isinstance(error, ValidationError) else error
            raise DatasetError(f"{path}: not a shard ({fault}); {REMEDY}") from error

    def read(self, row: int, into: Halves) -> None:
        """Read a pair into an array (2, C, T); a DatasetError where there is no such row, or not any more."""
        size = 2 * self.shape[1] * self.shape[2]
        if not 0 <= row < self.shape[0] or into.shape[1:] != self.shape[1:]:
            raise DatasetError(f"{self.path}: no row {row} of {into.shape[1:]} in its shape {self.shape}")
        for latents, offset in zip(into, self._offsets, strict=True):
            if self._fill(latents.view(np.uint8).data, offset + row * size) != size:
                raise DatasetError(f"{self.path}: ends before row {row}; {REMEDY}")

    def _fill(self, into: memoryview, offset: int) -> int | None:
        # Without a position, which threads and forked processes would share.
        if self._descriptor is not None:
            return os.preadv(self._descriptor, [into], offset)
        with open_regular(self.path) as file:  # macOS, Windows
            file.seek(offset)
            return file.readinto(into)

    def __del__(self) -> None:
        if (descriptor := getattr(self, "_descriptor", None)) is not None:
            os.close(descriptor)


class ShardReader:
    """Reads pairs from shards, of which it holds some open; a pickled copy opens its own."""

    def __init__(self) -> None:
        self._open: dict[Path, Shard] = {}

    def read(self, places: Sequence[tuple[Path, int]], batch: Halves) -> None:
        """Read pairs by shard and row into a batch (2, B, C, T); see `Shard` for what it raises."""
        for i, (path, row) in enumerate(places):
            shard = self._open.get(path) or self._open.setdefault(path, Shard(path))
            shard.read(row, batch[:, i])
            while len(self._open) > MOST_OPEN:  # another thread may still read it: its own reference keeps it
                self._open.pop(next(iter(list(self._open))), None)

    def __reduce__(self) -> tuple[type["ShardReader"], tuple[()]]:
        return ShardReader, ()
