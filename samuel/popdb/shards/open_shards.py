"""Reading pairs out of shards, fast and from any process.

Rows are read with plain reads, not by a memory map: a file that is cut short is then an error with a name
instead of the end of the process, pages that were read are not counted as its memory, and two threads read
faster than one core can copy (`samuel bench loader`).

Shapes: B pairs, C = 64 latent channels, T = 1024 frames.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from samuel.errors import DatasetError
from samuel.popdb.shards.tensors import Halves, Layout, layout_of

MOST_OPEN = 128  # a process may have 256 files open on some systems
MOST_THREADS = 4  # memory is not faster for more
PAIRS_A_THREAD = 4  # fewer are not worth handing over


class OpenShards:
    """The shards that a process has open. A copy in another process, forked or pickled, opens its own."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._shards: OrderedDict[Path, _Shard] = OrderedDict()
        self._threads: ThreadPoolExecutor | None = None

    def read(self, places: Sequence[tuple[Path, int]], batch: Halves) -> None:
        """Read pairs by shard and row into a batch (2, B, C, T), with as many threads as torch uses.

        Raises:
            DatasetError: A shard is missing, damaged or without that row.
        """
        self._be_of_this_process()
        count = min(torch.get_num_threads(), MOST_THREADS, len(places) // PAIRS_A_THREAD)
        parts = [range(first, len(places), count) for first in range(1, count)]
        others = [self._pool().submit(self._read_part, part, places, batch) for part in parts]
        self._read_part(range(0, len(places), max(1, count)), places, batch)
        for other in others:
            other.result()

    def layout(self, path: Path) -> Layout:
        """What the header of a shard says."""
        self._be_of_this_process()
        return self._open(path).layout

    def _read_part(self, part: range, places: Sequence[tuple[Path, int]], batch: Halves) -> None:
        for i in part:
            path, row = places[i]
            self._open(path).read(row, batch[:, i])

    def _open(self, path: Path) -> "_Shard":
        with self._lock:
            if path not in self._shards:
                self._shards[path] = _Shard(path)
            self._shards.move_to_end(path)
            if len(self._shards) > MOST_OPEN:
                self._shards.popitem(last=False)
            return self._shards[path]

    def _pool(self) -> ThreadPoolExecutor:
        self._threads = self._threads or ThreadPoolExecutor(MOST_THREADS)
        return self._threads

    def _be_of_this_process(self) -> None:
        if self._process != os.getpid():  # forked: its threads are not here, its lock may be held for ever
            self.__init__()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()


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
        for latents, offset in zip(into, self.layout.offsets, strict=True):
            size = self._fill(latents.view(np.uint8).data, offset + row * self.layout.row_bytes)
            if size != self.layout.row_bytes:
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
