"""A dataset of noise: opening, reading, verifying and writing it, against plain copies of its bytes.

All in one run and one process, the page cache warm where nothing else is said. A figure is the best of
several repeats: what disturbs a measurement makes it slower, never faster.

Shapes: N pairs, B batch, C = 64 latent channels, T frames.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.clock import seconds
from samuel.artifacts import Artifact
from samuel.codecs.mel import MelCodec
from samuel.config import PopdbConfig
from samuel.errors import DatasetError
from samuel.popdb.dataset import Popdb, open_popdb
from samuel.popdb.folder import Folder
from samuel.popdb.loader import Batches, Places
from samuel.popdb.shards import STREAMS
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status
from samuel.popdb.tables import LATENTS, Row, pair_rows, song_rows
from samuel.popdb.verify import verify
from samuel.popdb.writer import Content, Pair, save

PAIRS, CHANNELS, FRAMES, BATCH = 2000, 64, 1024, 16
PAPER_PAIRS, SHORT_FRAMES = 15_713, 64  # what opening costs does not depend on the length of the chunks
CHUNKS_A_SONG = 4
PARQUET_PAIRS = 512
REPEATS = 3
CPU = torch.device("cpu")

Figure = tuple[str, str]
Halves = NDArray[np.float16]


def loader_rows(pairs: int = PAIRS, frames: int = FRAMES, opened: int = PAPER_PAIRS) -> Iterator[Figure]:
    """Yield (what, figure), as they are measured.

    Args:
        pairs: Of the dataset that is written, read and verified.
        frames: Of its chunks.
        opened: Pairs of the dataset that is opened.
    """
    with tempfile.TemporaryDirectory() as folder:
        latents = noise(pairs, frames)
        yield "dataset", f"{pairs:,} pairs of {frames} frames, {latents.nbytes / 1e6:.0f} MB"
        yield "writing, digests and fsync included", _writing(Path(folder), latents)
        popdb = open_popdb(Path(folder) / "popdb")
        yield f"memory growth over an epoch of {pairs:,}", _memory_growth(popdb)
        yield from _reading(popdb, latents, Path(folder))
        yield "the same, page cache dropped before", _cold(popdb)
        yield "verify", verify_figure(popdb, latents.nbytes)
        del latents
        yield f"opening {opened:,} pairs", _opening(Path(folder), opened)


def noise(pairs: int, frames: int) -> Halves:
    """(N, 2, C, T) latents of which no two pairs are alike."""
    values = torch.randn(2 * CHANNELS * frames + 8 * pairs, generator=torch.Generator().manual_seed(0)).half()
    windows = values.unfold(0, 2 * CHANNELS * frames, 8)[:pairs]
    return windows.contiguous().reshape(pairs, 2, CHANNELS, frames).numpy()  # windows share their memory


def write_noise(folder: Path, latents: Halves) -> Popdb:
    """A dataset of latents (N, 2, C, T), all of them to train on, by the writer that every dataset has."""
    frames = latents.shape[-1]
    songs = [_song(start, latents) for start in range(0, len(latents), CHUNKS_A_SONG)]
    groups = {song.record["audio_sha256"]: song.record["audio_sha256"] for song in songs}
    config = PopdbConfig(chunk_frames=frames, validation_share=0.0)
    made_of = {
        "source": "synthetic",
        "separator": "noise/1",
        "codec": MelCodec.info.model_dump(),
        "chunk_frames": frames,
        "settings": config.model_dump(mode="json", exclude={"path", "cache"}),
    }
    rows = pair_rows(songs, groups, 0.0, config.validation_share, config.seed)

    def read(new: Sequence[Row]) -> Iterator[Pair]:
        tensors = (torch.from_numpy(latents[_place(row)]) for row in new)
        return ((vocal, accompaniment) for vocal, accompaniment in tensors)

    content = Content(rows, read, song_rows(songs, groups), made_of)
    target = Folder(folder)
    with target.locked():
        return save(target, content, None)


def _song(start: int, latents: Halves) -> Outcome:
    name = f"{start // CHUNKS_A_SONG:06d}"
    count = min(CHUNKS_A_SONG, len(latents) - start)
    measured = {"start_s": 0.0, "vocal_share": 0.5, "vocal_rms_db": -20.0, "mix_peak": 0.9}
    record = {"audio_sha256": name, "codec": MelCodec.info.model_dump(), "chunks": [measured] * count}
    entry = Artifact(Path(name), record, {LATENTS: name})
    return Outcome(Song(name, name), "encode", Status.OK, "", 1, entry, record, did_work=True)


def _place(row: Row) -> int:
    return int(row["song_id"]) * CHUNKS_A_SONG + row["chunk"]


def _writing(folder: Path, latents: Halves) -> str:
    places = [folder / name for name in ("popdb", "again")]
    times_s = [seconds(lambda place=place: write_noise(place, latents)) for place in places]
    return _megabytes(latents.nbytes, min(times_s))


def _memory_growth(popdb: Popdb) -> str:
    before = resident_bytes()
    if before is None:
        return "not measured here"
    most = before
    batches = Batches(popdb, BATCH, seed=0)
    for step in range(_steps(popdb)):
        batches.at(step, CPU)
        most = max(most, resident_bytes() or 0)
    return f"{(most - before) / 2**20:.0f} MiB"


def resident_bytes() -> int | None:
    """Memory of this process that is not swapped out; None where the system does not tell it like Linux."""
    try:
        pages = Path("/proc/self/statm").read_text("ascii").split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _reading(popdb: Popdb, latents: Halves, folder: Path) -> Iterator[Figure]:
    """Shuffled batches, and what they are compared with."""
    batches, steps = Batches(popdb, BATCH, seed=0), range(_steps(popdb))
    places = [batches.places(step) for step in steps]
    rate = _rate(lambda: (_as_float32(batches.pairs.batch(some)) for some in places), len(places))
    yield f"batches of {BATCH}, shuffled, float32", f"{rate:,.0f} pairs/s"
    for what, baseline in _from_memory(latents, places):
        yield f"  against {what}", f"{rate / baseline:.2f} of {baseline:,.0f} pairs/s"
    parquet = _parquet_rate(folder / "pairs.parquet", latents[:PARQUET_PAIRS])
    yield "  against a Parquet list column", f"{rate / parquet:.1f} × {parquet:,.0f} pairs/s"
    read = _rate(lambda: map(batches.pairs.batch, places), len(places))
    yield "  left in float16, as for a GPU", f"{read:,.0f} pairs/s"
    normalised = _rate(lambda: (batches.at(step, CPU) for step in steps), len(places))
    yield "  normalised on the CPU", f"{normalised:,.0f} pairs/s"
    workers = max(_rate_of_workers(batches, 2 * len(places)) for _ in range(REPEATS))
    yield "  normalised, read by 2 workers", f"{workers:,.0f} pairs/s"


def _as_float32(latents: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return latents[0].float(), latents[1].float()


def _from_memory(latents: Halves, places: Sequence[Places]) -> Iterator[tuple[str, float]]:
    """What the batches are compared with, and its pairs/s.

    Each goes into a new array, as a loader has to hand it over: a batch may be kept while others are read.
    """

    def batch(some: Places) -> object:
        vocal, accompaniment = torch.from_numpy(latents[some]).unbind(1)
        return _as_float32((vocal, accompaniment))

    yield "a copy made float32", _rate(lambda: map(batch, places), len(places))
    yield "a copy of their float16", _rate(lambda: (latents[some] for some in places), len(places))
    delivered = torch.from_numpy(latents).float().numpy()
    yield "a copy of their float32", _rate(lambda: (delivered[some] for some in places), len(places))


def _parquet_rate(path: Path, latents: Halves) -> float:
    """Pairs/s of such batches from the layout in which Parquet is fastest: a pair a row group, plain."""
    length = latents[0, 0].size
    columns = {
        stream: pa.FixedSizeListArray.from_arrays(
            pa.array(np.ascontiguousarray(latents[:, i]).ravel()), length
        )
        for i, stream in enumerate(STREAMS)
    }
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(pa.table(columns), path, row_group_size=1, **plain)
    shape = (-1, *latents.shape[2:])
    with pq.ParquetFile(path, memory_map=True) as file:

        def batch(places: Places) -> object:
            table = file.read_row_groups(places.tolist()).combine_chunks()
            flat = (table[stream].chunk(0).flatten().to_numpy().copy() for stream in STREAMS)
            vocal, accompaniment = (torch.from_numpy(values).reshape(shape) for values in flat)
            return _as_float32((vocal, accompaniment))

        order = np.random.default_rng(0).permutation(len(latents))
        some = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
        return _rate(lambda: map(batch, some), len(some))


def _rate_of_workers(batches: Batches, steps: int) -> float:
    """Pairs/s after the first batch: workers take a while to start."""
    stream = batches.on(CPU, steps=steps + 1, num_workers=2)
    next(stream)
    return BATCH * steps / seconds(lambda: [None for _ in stream])


def _cold(popdb: Popdb) -> str:
    """Read all pairs once, each from disk."""
    if not hasattr(os, "posix_fadvise"):
        return "not measured here"
    for shard in set(popdb.table["shard"].to_pylist()):
        descriptor = os.open(popdb.root / shard, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    batches, steps = Batches(popdb, BATCH, seed=0), range(_steps(popdb))
    return f"{_rate(lambda: (batches.at(step, CPU) for step in steps), len(steps), 1):,.0f} pairs/s"


def verify_figure(popdb: Popdb, size: int) -> str:
    """How fast the `size` bytes of a dataset are verified.

    Raises:
        DatasetError: It has a fault.
    """

    def work() -> None:
        if faults := verify(popdb.root):
            raise DatasetError(f"{popdb.location}: {faults[0]}")

    return _megabytes(size, min(seconds(work) for _ in range(REPEATS)))


def _opening(folder: Path, pairs: int) -> str:
    root = write_noise(folder / "opened", noise(pairs, SHORT_FRAMES)).root
    first_s, *times_s = [seconds(lambda: open_popdb(root).dataset("train")) for _ in range(REPEATS + 1)]
    return f"{min(times_s):.3f} s, {first_s:.3f} s the first time"


def _steps(popdb: Popdb) -> int:
    return -(-len(popdb.table) // BATCH)


def _rate(batches: Callable[[], Iterable[object]], count: int, repeats: int = REPEATS) -> float:
    """Pairs/s of `count` batches."""

    def work() -> None:
        for _ in batches():
            pass

    return BATCH * count / min(seconds(work) for _ in range(repeats))


def _megabytes(size: int, time_s: float) -> str:
    return f"{size / time_s / 1e6:,.0f} MB/s"
