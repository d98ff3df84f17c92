"""Pairs of synthetic songs from their true stems, for experiments.

No separator stands between: what one leaves of the band in the vocals would tell a model what to play, and
it would seem to follow a vocal that it does not follow.
"""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from samuel.codec import load_codec
from samuel.config import Settings
from samuel.demo import VERSION as SONGS
from samuel.demo import compose
from samuel.errors import SettingsError
from samuel.files import digest
from samuel.popdb.catalog import Song
from samuel.popdb.encode import encode_audio
from samuel.popdb.outcome import Outcome, attempt
from samuel.popdb.shards import Popdb, write_popdb

VERSION = 1
SEPARATOR = "true-stems/1"


def write_true_pairs(settings: Settings, songs: int, done: Callable[[Outcome], object]) -> Popdb:
    """POPDB of the first `songs` songs of `songs.seed`, encoded by one process for each core.

    Args:
        settings: `songs.seed`, `codec` and `popdb` say what is made and where it goes.
        songs: How many, about two minutes each.
        done: Told of each song when it is encoded.

    Raises:
        SettingsError: The songs are not synthetic, or the codec has weights, which each process would load.
    """
    if settings.songs.source != "synthetic" or settings.codec.name != "mel":
        raise SettingsError(
            "true stems are those of songs.source = 'synthetic', encoded by codec.name = 'mel'"
        )
    outcomes: list[Outcome] = []
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for future in [pool.submit(encode_true_stems, settings, index) for index in range(songs)]:
            outcomes.append(future.result())
            done(outcomes[-1])
    return write_popdb(outcomes, settings)


def encode_true_stems(settings: Settings, index: int) -> Outcome:
    """Song `index` of `songs.seed` → `data/latents/<key>`; nothing is done where it is there."""
    seed, frames = settings.songs.seed, settings.popdb.chunk_frames
    codec = load_codec(settings.codec, torch.device("cpu"))
    key = digest("true stems", VERSION, SONGS, codec.identity, frames, seed, index)

    def make(folder: Path) -> dict[str, Any]:
        song = compose(seed, index)
        return {
            "title": song.title,
            **encode_audio(codec, song.vocals, song.accompaniment, frames, folder),
        }

    recorded = {"audio_sha256": key, "separator": SEPARATOR, "codec": codec.identity, "video_id": None}
    song = Song(key, f"song {index} of seed {seed}")
    encoded = attempt(song, "encode", settings.data / "latents" / key, make, recorded)
    return replace(encoded, song=replace(song, title=encoded.record.get("title", song.title)))
