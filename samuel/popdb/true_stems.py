"""Pairs of synthetic songs from their true stems, for experiments.

No separator stands between: what one leaves of the band in the vocals would tell a model what to play.
"""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from samuel.artifacts import digest
from samuel.codecs import load_codec
from samuel.config import Settings
from samuel.errors import InputError, SettingsError
from samuel.popdb.dataset import Popdb
from samuel.popdb.folder import open_folder
from samuel.popdb.songs import Song
from samuel.popdb.stages import encode_stems
from samuel.popdb.status import Outcome, attempt
from samuel.popdb.writer import readable, write_popdb
from samuel.synthetic.song import VERSION as SONGS
from samuel.synthetic.song import compose

VERSION = 1
SEPARATOR = "true-stems/1"
CPU = torch.device("cpu")


def write_true_pairs(settings: Settings, songs: int, done: Callable[[Outcome], object]) -> Popdb:
    """POPDB of the first `songs` songs of `songs.seed`, encoded by one process for each core.

    Args:
        settings: `songs.seed`, `codec` and `popdb` say what is made and where it goes.
        songs: How many, about two minutes each.
        done: Called with each song when it is encoded.

    Raises:
        SettingsError: The songs are not synthetic, or the codec has weights, which each process would load.
        InputError: Another dataset is there.
    """
    if settings.songs.source != "synthetic" or settings.codec.name != "mel":
        raise SettingsError(
            "true stems are those of songs.source = 'synthetic', encoded by codec.name = 'mel'"
        )
    _require_place(settings)
    processes = min(songs, os.cpu_count() or 1)
    with ExitStack() as over:
        pool = ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,))
        over.callback(pool.shutdown, cancel_futures=True)  # what has not begun when this fails never begins
        with _interrupts_blocked():
            encoded = [pool.submit(encode_true_stems, settings, index) for index in range(songs)]
        outcomes: list[Outcome] = []
        for future in encoded:
            outcomes.append(future.result())
            done(outcomes[-1])
    return write_popdb(outcomes, settings)


def encode_true_stems(settings: Settings, index: int) -> Outcome:
    """Song `index` of `songs.seed` → `data/latents/<key>`; nothing is done where it is there."""
    seed, frames = settings.songs.seed, settings.popdb.chunk_frames
    codec = load_codec(settings.codec, CPU)
    key = digest("true stems", VERSION, SONGS, codec.info, frames, seed, index)

    def make(folder: Path) -> dict[str, Any]:
        song = compose(seed, index)
        return {
            "title": song.title,
            **encode_stems(codec, song.vocals, song.accompaniment, frames, folder),
        }

    recorded = {
        "audio_sha256": key,
        "separator": SEPARATOR,
        "codec": codec.info.model_dump(),
        "video_id": None,
    }
    song = Song(key, f"song {index} of seed {seed}")
    encoded = attempt(song, "encode", settings.data / "latents" / key, make, recorded)
    return replace(encoded, song=replace(song, title=encoded.record.get("title", song.title)))


def _require_place(settings: Settings) -> None:
    """A dataset of separated songs is not replaced: its source is the same, and nobody would be warned."""
    old = readable(open_folder(settings.popdb_path, settings.popdb.cache))
    if old and (old.info["source"], old.info["separator"]) != ("synthetic", SEPARATOR):
        raise InputError(
            f"{old.location}: a dataset from the source {old.info['source']!r}, separated by "
            f"{old.info['separator']!r}, is there; set popdb.path, or delete it"
        )


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Keep Ctrl-C from processes that start within: it is for the one that gives them work."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
