"""Shard files: their bytes, their headers, what reads them."""

import json
import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from samuel.errors import DatasetError
from samuel.popdb.dataset import STREAMS, ShardReader, shard_bytes
from samuel.popdb.folder import Folder

FRAMES = 16


def latents(pairs: int = 3, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {s: torch.randn(pairs, 64, FRAMES, generator=generator).half() for s in STREAMS}


def written(path: Path, pairs: int = 3, seed: int = 0) -> Path:
    tensors = latents(pairs, seed)
    path.write_bytes(shard_bytes(np.stack([tensors[stream].numpy() for stream in STREAMS])))
    return path


def reader(folder: Path) -> ShardReader:
    return ShardReader(Folder(folder), defaultdict(str), (64, FRAMES))


def read(shards: ShardReader, name: str, row: int) -> tuple[Tensor, Tensor]:
    vocal, accompaniment = shards.read([name], [row])
    return vocal[0], accompaniment[0]


def test_rows_are_those_that_the_library_reads(tmp_path: Path) -> None:
    ours, other, shards = written(tmp_path / "ours"), tmp_path / "another library's", reader(tmp_path)
    save_file(latents(), other)
    for path in (ours, other):
        for row in (2, 0, 1):
            with safe_open(path, framework="pt") as shard:
                expected = [shard.get_slice(stream)[row] for stream in STREAMS]
            assert all(map(torch.equal, read(shards, path.name, row), expected))
            assert all(map(torch.equal, expected, [latents()[stream][row] for stream in STREAMS]))


def header(length: int | None = None, **described: Any) -> bytes:
    """A file with this header and 4 kB behind it."""
    text = json.dumps(described).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(4096)


def stream(start: int = 0, dtype: str = "F16", shape: Any = (1, 64, 16), end: int | None = None) -> Any:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, start + 2048 if end is None else end]}


GOOD: dict[str, Any] = {"vocal": stream(), "accompaniment": stream(2048)}


@pytest.mark.parametrize(
    "content",
    [
        b"not a shard at all, but long enough",
        header(length=2**62, **GOOD),
        header(vocal=stream(), accompaniment=stream(4096)),
        header(vocal=stream(dtype="F32"), accompaniment=stream(2048)),
        b"\x50" + bytes(7) + b"[" * 100 + bytes(4096),
    ],
)
def test_what_is_no_shard_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "shard"
    path.write_bytes(header(**GOOD))
    assert read(reader(tmp_path), path.name, 0)[0].sum() == 0
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"{path}: not a shard \(.*run samuel verify"):
        read(reader(tmp_path), path.name, 0)


@pytest.mark.parametrize("positions", ["as many as there are reads", "one"])
def test_threads_read_what_one_reads(tmp_path: Path, positions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if positions == "one":  # a system without reads at a position
        monkeypatch.delattr(os, "preadv")
    paths = [written(tmp_path / str(i), 5, seed=i) for i in range(3)]
    names, rows = [paths[i % 3].name for i in range(31)], [i % 5 for i in range(31)]
    truth = [latents(5, seed=int(name))["vocal"][row] for name, row in zip(names, rows, strict=True)]
    shards = reader(tmp_path)

    def work(_: int) -> bool:
        return all(map(torch.equal, shards.read(names, rows)[0], truth))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(50)))
