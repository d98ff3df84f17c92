"""A dataset of noise: opening, reading, verifying and writing it, against plain copies of its bytes.

All in one process, the page cache warm; the best of several repeats, as what disturbs one makes it slower.

Shapes: N pairs, B batch, C = 64 latent channels, T frames.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.measure import CPU, Figure, memory_bytes, seconds
from samuel.artifacts import Artifact
from samuel.codecs.mel import MelCodec
from samuel.config import PopdbConfig
from samuel.errors import DatasetError
from samuel.popdb.dataset import Popdb, open_popdb
from samuel.popdb.folder import Folder
from samuel.popdb.loader import Batches
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status
from samuel.popdb.tables import LATENTS, Row, pair_rows, song_rows
from samuel.popdb.verify import verify
from samuel.popdb.writer import Content, Pair, save

PAIRS, CHANNELS, FRAMES, BATCH = 2000, 64, 1024, 16
PAPER_PAIRS, SHORT_FRAMES = 15_713, 64  # what opening costs does not depend on the length of the chunks
CHUNKS_A_SONG = 4
REPEATS = 3

Halves = NDArray[np.float16]


def rows(
    _settings: Any, pairs: int = PAIRS, frames: int = FRAMES, opened: int = PAPER_PAIRS
) -> Iterator[Figure]:
    """Yield (what, figure) of a dataset of so many pairs and frames; `opened`: pairs of one to open."""
    with tempfile.TemporaryDirectory() as folder:
        root, latents = Path(folder), noise(pairs, frames)
        yield "dataset", f"{pairs:,} pairs of {frames} frames, {latents.nbytes / 1e6:.0f} MB"
        times_s = [
            seconds(lambda name=name: write_noise(root / name, latents)) for name in ("popdb", "again")
        ]
        yield "writing, digests and fsync included", f"{latents.nbytes / min(times_s) / 1e6:,.0f} MB/s"
        popdb = open_popdb(root / "popdb")
        batches, steps = Batches(popdb, BATCH, seed=0), range(-(-pairs // BATCH))
        before = most = memory_bytes("VmRSS") or 0
        for step in steps:
            batches.at(step, CPU)
            most = max(most, memory_bytes("VmRSS") or 0)
        yield f"memory growth over an epoch of {pairs:,}", f"{(most - before) / 2**20:.0f} MiB"
        yield from reading_rows(batches, latents)
        yield "verify", verify_figure(popdb, latents.nbytes)
        location = write_noise(root / "opened", noise(opened, SHORT_FRAMES)).root
        first_s, *times_s = (
            seconds(lambda: open_popdb(location).dataset("train")) for _ in range(REPEATS + 1)
        )
        yield f"opening {opened:,} pairs", f"{min(times_s):.3f} s, {first_s:.3f} s the first time"


def noise(pairs: int, frames: int) -> Halves:
    """(N, 2, C, T) latents of which no two pairs are alike."""
    values = torch.randn(2 * CHANNELS * frames + 8 * pairs, generator=torch.Generator().manual_seed(0)).half()
    windows = values.unfold(0, 2 * CHANNELS * frames, 8)[:pairs]
    return windows.contiguous().reshape(pairs, 2, CHANNELS, frames).numpy()  # windows share their memory


def write_noise(folder: Path, latents: Halves) -> Popdb:
    """A dataset of latents (N, 2, C, T), all of them to train on, by the writer that every dataset has."""
    frames, codec = latents.shape[-1], MelCodec.info.model_dump()
    measured = {"start_s": 0.0, "vocal_share": 0.5, "vocal_rms_db": -20.0, "mix_peak": 0.9}

    def song(start: int) -> Outcome:
        name, count = f"{start // CHUNKS_A_SONG:06d}", min(CHUNKS_A_SONG, len(latents) - start)
        record = {"audio_sha256": name, "codec": codec, "chunks": [measured] * count}
        artifact = Artifact(Path(name), record, {LATENTS: name})
        return Outcome(Song(name, name), "encode", Status.OK, "", 1, artifact, record, did_work=True)

    def read(new: Sequence[Row]) -> Iterator[Pair]:
        for row in new:
            place = int(row["song_id"]) * CHUNKS_A_SONG + row["chunk"]
            yield latents[place, 0], latents[place, 1]

    songs = [song(start) for start in range(0, len(latents), CHUNKS_A_SONG)]
    groups = {song.record["audio_sha256"]: song.record["audio_sha256"] for song in songs}
    config = PopdbConfig(chunk_frames=frames, validation_share=0.0)
    settings = config.model_dump(mode="json", exclude={"path", "cache"})
    made_of = {"source": "synthetic", "separator": "noise/1", "codec": codec, "chunk_frames": frames}
    made_of["settings"] = settings
    pairs = pair_rows(songs, groups, 0.0, config.validation_share, config.seed)
    target = Folder(folder)
    with target.locked():
        return save(target, Content(pairs, read, song_rows(songs, groups), made_of), None)


def reading_rows(batches: Batches, latents: Halves) -> Iterator[Figure]:
    """Shuffled batches, each in a new array, as it may be kept while others are read; and plain copies."""
    places = [batches.places(step) for step in range(-(-len(latents) // BATCH))]
    steps = range(len(places))
    rate = _rate(lambda: (_as_float32(*batches.pairs.batch(some)) for some in places), len(places))
    yield f"batches of {BATCH}, shuffled, float32", f"{rate:,.0f} pairs/s"
    delivered = torch.from_numpy(latents).float().numpy()
    for what, batch in {
        "a copy made float32": lambda some: _as_float32(*torch.from_numpy(latents[some]).unbind(1)),
        "a copy of their float16": lambda some: latents[some],
        "a copy of their float32": lambda some: delivered[some],
    }.items():
        baseline = _rate(lambda batch=batch: map(batch, places), len(places))
        yield f"  against {what}", f"{rate / baseline:.2f} of {baseline:,.0f} pairs/s"
    read = _rate(lambda: map(batches.pairs.batch, places), len(places))
    yield "  left in float16, as for a GPU", f"{read:,.0f} pairs/s"
    normalised = _rate(lambda: (batches.at(step, CPU) for step in steps), len(places))
    yield "  normalised on the CPU", f"{normalised:,.0f} pairs/s"


def verify_figure(popdb: Popdb, size: int) -> str:
    """How fast the `size` bytes of a dataset are verified; a DatasetError where it has a fault."""

    def work() -> None:
        if faults := verify(popdb.root):
            raise DatasetError(f"{popdb.location}: {faults[0]}")

    return f"{size / min(seconds(work) for _ in range(REPEATS)) / 1e6:,.0f} MB/s"


def _as_float32(vocal: Tensor, accompaniment: Tensor) -> tuple[Tensor, Tensor]:
    return vocal.float(), accompaniment.float()


def _rate(batches: Callable[[], Iterable[object]], count: int, repeats: int = REPEATS) -> float:
    """Pairs/s of `count` batches."""
    return BATCH * count / min(seconds(lambda: [None for _ in batches()]) for _ in range(repeats))
