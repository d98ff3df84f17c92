"""Separation and encoding at full size, on this machine: seconds of audio per second, memory.

The weights are random, which costs the same time; the songs are one synthetic song at different levels.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from benchmarks.utilisation import Utilisation
from benchmarks.weights import write_autoencoder, write_htdemucs
from samuel.artifacts import make_artifact
from samuel.audio import SAMPLE_RATE, Audio, write_wav
from samuel.concurrency import side_by_side
from samuel.config import Settings, parse
from samuel.device import resolve_device
from samuel.popdb import stages as pipeline
from samuel.popdb.acquire import acquire_songs
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome
from samuel.synthetic.song import compose

Result = TypeVar("Result")
Row = tuple[str, str]
SIZES = {"cpu": (1, 48.0), "cuda": (32, 240.0), "mps": (2, 120.0)}
"""Songs and their seconds, so that it takes some minutes."""
NOT_MEASURED = "not measured: no GPU"


def pipeline_rows(settings: Settings, songs: int | None = None, song_s: float | None = None) -> Iterator[Row]:
    """Yield (what, figure), as they are measured.

    Args:
        settings: device, songs_in_hand, chunk_frames, precision and batch are taken from it.
        songs: How many; none: as many as take some minutes.
        song_s: Their duration.
    """
    device = resolve_device(settings.device)
    default_songs, default_s = SIZES[device.type]
    count, duration_s = songs or default_songs, song_s or default_s
    with tempfile.TemporaryDirectory() as folder:
        own = _settings(Path(folder), settings)
        yield "device", device_name(device)
        yield "songs", f"{count} of {duration_s:.0f} s, random weights of full size"
        parts = Parts(own)
        _pass_round_trip(parts)
        downloaded = _downloaded(parts, count, duration_s)
        yield from _stages(parts, downloaded, count * duration_s, device)
        yield "peak memory", _memory(device)


def device_name(device: torch.device) -> str:
    """The machine's name for it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU cores" if device.type == "cpu" else device.type


def _settings(folder: Path, given: Settings) -> Settings:
    write_htdemucs(folder / "demucs")
    write_autoencoder(folder / "vae")
    separator = {"name": "demucs", "model": "random", "repo": folder / "demucs"}
    codec = {"name": "stable-audio-open", "path": str(folder / "vae")}
    choices = {"precision", "batch"}
    return parse(
        {
            "data": folder / "data",
            "device": given.device,
            "songs_in_hand": given.songs_in_hand,
            "popdb": {"chunk_frames": given.popdb.chunk_frames},
            "separator": separator | given.separator.model_dump(include=choices),
            "codec": codec | given.codec.model_dump(include=choices),
        }
    )


def _pass_round_trip(parts: Parts) -> None:
    """Random weights give nothing back, and shall encode nevertheless."""
    make_artifact(pipeline.round_trip_folder(parts), lambda _: {"weights": "random"})


def _downloaded(parts: Parts, count: int, duration_s: float) -> list[Outcome]:
    """Songs as the download leaves them, which is not measured."""
    mix = music(duration_s)
    songs: list[Song] = []
    for number in range(count):
        path = parts.settings.data / f"song{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_wav(path, mix * np.float32(0.99**number))
        songs.append(Song(f"song{number}", f"song {number}", duration_s=duration_s, url=path.as_uri()))
    return acquire_songs(songs, parts)


def music(duration_s: float) -> Audio:
    """(2, S): a synthetic song, again and again."""
    mix, samples = compose(seed=0, index=0).mix, round(duration_s * SAMPLE_RATE)
    return np.tile(mix, -(-samples // mix.shape[1]))[:, :samples]


def _stages(
    parts: Parts, downloaded: Sequence[Outcome], audio_s: float, device: torch.device
) -> Iterator[Row]:
    """Each stage for itself, then both at once in another folder; disk included."""
    _ = parts.separator, parts.codec  # loaded now, not while it is measured
    separated, seconds = _timed(lambda: pipeline.separate_songs(downloaded, parts))
    yield "separation, with disk", f"{audio_s / seconds:.2f} × real time"
    _, seconds = _timed(lambda: pipeline.encode_songs(separated, parts))
    yield "encoding of both stems, with disk", f"{audio_s / seconds:.2f} × real time"
    if device.type != "cuda":
        yield "both at once, and GPU utilisation", NOT_MEASURED
        return
    settings = parts.settings
    again = Parts(settings.model_copy(update={"data": settings.data / "again"}))
    _pass_round_trip(again)
    _ = again.separator
    with Utilisation(device) as busy:
        _, seconds = _timed(lambda: _both(downloaded, again))
    yield "both at once, with disk", f"{audio_s / seconds:.2f} × real time"
    yield (
        "GPU utilisation in the steady state",
        "not measured" if busy.steady is None else f"{busy.steady:.0%}",
    )


def _both(downloaded: Sequence[Outcome], parts: Parts) -> None:
    def work(song: Outcome) -> Outcome:
        [encoded] = pipeline.encode_songs(pipeline.separate_songs([song], parts), parts)
        return encoded

    for _ in side_by_side(work, downloaded, 2 * pipeline.songs_in_hand(parts)):
        pass


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def _memory(device: torch.device) -> str:
    if sys.platform == "win32":
        return "not measured"
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, bytes or KiB
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    if device.type != "cuda":
        return f"{process:.2f} GiB"
    return f"{process:.2f} GiB, and {torch.cuda.max_memory_reserved(device) / 2**30:.1f} GiB of the GPU's"
