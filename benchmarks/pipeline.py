"""Separation and encoding at full size, with random weights: seconds of audio per second, memory."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Figure, device_name, in_gib, memory_bytes
from benchmarks.measure import seconds as time_of
from benchmarks.weights import write_autoencoder, write_htdemucs
from samuel.artifacts import make_artifact
from samuel.audio import SAMPLE_RATE, Audio, write_wav
from samuel.concurrency import side_by_side
from samuel.config import Settings, parse
from samuel.device import resolve_device
from samuel.popdb import stages
from samuel.popdb.acquire import acquire_songs
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome
from samuel.synthetic.song import compose

SIZES = {"cpu": (1, 48.0), "cuda": (32, 240.0), "mps": (2, 120.0)}
"""Songs and their seconds, so that it takes some minutes."""


def rows(settings: Settings, songs: int | None = None, seconds: float | None = None) -> Iterator[Figure]:
    """Yield (what, figure); of `settings` count device, songs in hand, chunks, precision, batch."""
    device = resolve_device(settings.device)
    count, song_s = songs or SIZES[device.type][0], seconds or SIZES[device.type][1]
    with tempfile.TemporaryDirectory() as folder:
        yield "device", device_name(device)
        yield "songs", f"{count} of {song_s:.0f} s, random weights of full size"
        own = full_size_settings(Path(folder), settings)
        yield from stage_rows(own, downloaded(Parts(own), count, song_s), device)
        yield "peak memory", in_gib(memory_bytes("VmHWM"))
        if device.type == "cuda":
            yield "  of the GPU", in_gib(torch.cuda.max_memory_reserved(device))


def stage_rows(settings: Settings, songs: Sequence[Outcome], device: torch.device) -> Iterator[Figure]:
    """Each stage for itself, then on a GPU both at once in another folder; disk included."""
    parts = prepared(settings)
    audio_s, separated = sum(song.song.duration_s or 0.0 for song in songs), list[Outcome]()
    took_s = time_of(lambda: separated.extend(stages.separate_songs(songs, parts)))
    yield "separation, with disk", f"{audio_s / took_s:.2f} × real time"
    took_s = time_of(lambda: stages.encode_songs(separated, parts))
    yield "encoding of both stems, with disk", f"{audio_s / took_s:.2f} × real time"
    if device.type != "cuda":
        return
    again = prepared(settings.model_copy(update={"data": settings.data / "again"}))
    took_s = time_of(lambda: both_at_once(songs, again))
    yield "both at once, with disk", f"{audio_s / took_s:.2f} × real time"


def both_at_once(songs: Sequence[Outcome], parts: Parts) -> list[Outcome]:
    """Separate some songs while others are encoded."""

    def work(song: Outcome) -> Outcome:
        [encoded] = stages.encode_songs(stages.separate_songs([song], parts), parts)
        return encoded

    return [done for _, done in side_by_side(work, songs, 2 * stages.songs_in_hand(parts))]


def full_size_settings(folder: Path, given: Settings) -> Settings:
    """Settings of Demucs and the VAE with random weights, which are written into the folder."""
    write_htdemucs(folder / "demucs")
    write_autoencoder(folder / "vae")
    separator = {"name": "demucs", "model": "random", "repo": folder / "demucs"}
    codec, choices = {"name": "stable-audio-open", "path": str(folder / "vae")}, {"precision", "batch"}
    kept = given.model_dump(include={"device", "songs_in_hand"})
    return parse({
        **kept,
        "data": folder / "data",
        "popdb": {"chunk_frames": given.popdb.chunk_frames},
        "separator": separator | given.separator.model_dump(include=choices),
        "codec": codec | given.codec.model_dump(include=choices)
    })  # fmt: skip


def prepared(settings: Settings) -> Parts:
    """Parts that are loaded; random weights give nothing back, and shall encode nevertheless."""
    parts = Parts(settings)
    make_artifact(stages.round_trip_folder(parts), lambda _: {"weights": "random"})
    _ = parts.separator, parts.codec
    return parts


def downloaded(parts: Parts, count: int, duration_s: float) -> list[Outcome]:
    """Songs as the download leaves them, which is not measured."""
    mix, songs = music(duration_s), list[Song]()
    parts.settings.data.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = parts.settings.data / f"song{number}.wav"
        write_wav(path, mix * np.float32(0.99**number))
        songs.append(Song(f"song{number}", f"song {number}", duration_s=duration_s, url=path.as_uri()))
    return acquire_songs(songs, parts)


def music(duration_s: float) -> Audio:
    """(2, S): a synthetic song, again and again."""
    mix, samples = compose(seed=0, index=0).mix, round(duration_s * SAMPLE_RATE)
    return np.tile(mix, -(-samples // mix.shape[1]))[:, :samples]
