"""Reading pairs out of shards, fast and from any process.

Rows are read with plain reads, not by a memory map: a file that is cut short is then an error with a name
instead of the end of the process, pages that were read are not counted as its memory, and batches come as
fast (`samuel bench loader`).

Shapes: B pairs, C = 64 latent channels, T = 1024 frames.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from samuel.errors import DatasetError
from samuel.popdb.shards.tensors import Halves, Layout, layout_of

MOST_OPEN = 128  # a process may have 256 files open on some systems


class OpenShards:
    """The shards that a process has open. A copy in another process, forked or pickled, opens its own."""

    def __init__(self) -> None:
        self._begin()

    def read(self, places: Sequence[tuple[Path, int]], batch: Halves) -> None:
        """Read pairs by shard and row into a batch (2, B, C, T).

        Raises:
            DatasetError: A shard is missing, damaged or without that row.
        """
        for i, (path, row) in enumerate(places):
            self._open(path).read(row, batch[:, i])

    def layout(self, path: Path) -> Layout:
        """What the header of a shard says."""
        return self._open(path).layout

    def _open(self, path: Path) -> "_Shard":
        if self._process != os.getpid():  # forked: the lock may be held by a thread that is not here
            self._begin()
        with self._lock:
            if path not in self._shards:
                self._shards[path] = _Shard(path)
            self._shards.move_to_end(path)
            if len(self._shards) > MOST_OPEN:
                self._shards.popitem(last=False)
            return self._shards[path]

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._shards: OrderedDict[Path, _Shard] = OrderedDict()


class _Shard:
    """An open file, which is closed when nobody reads it any more."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = FileIO(path)
        except FileNotFoundError:
            remedy = "open the dataset again where it was rewritten, or run samuel verify"
            raise DatasetError(f"{path}: missing; {remedy}") from None
        self._lock = threading.Lock()
        self.layout = layout_of(self._file, str(path))

    def read(self, row: int, into: Halves) -> None:
        """Read a pair into an array (2, C, T)."""
        if not 0 <= row < self.layout.shape[0] or into.shape[1:] != self.layout.shape[1:]:
            raise DatasetError(
                f"{self._file.name}: no row {row} of {into.shape[1:]} in its shape {self.layout.shape}"
            )
        size = self.layout.row_bytes
        for latents, offset in zip(into, self.layout.offsets, strict=True):
            if self._fill(latents.view(np.uint8).data, offset + row * size) != size:
                raise DatasetError(f"{self._file.name}: ends before row {row}; run samuel verify")

    def _fill(self, into: memoryview, offset: int) -> int | None:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [into], offset)
        with self._lock:  # Windows: a file has one position
            self._file.seek(offset)
            return self._file.readinto(into)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()
