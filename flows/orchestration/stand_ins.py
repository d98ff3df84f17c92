"""Stages that only sleep and write, in the place of those that download, separate and encode.

They stand below the entries: what is found, made, locked, remembered and resumed is so by the real code. What
they record has the size of what the real ones record.
"""

import csv
import hashlib
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from samuel.artifacts import make_artifact
from samuel.config import Settings, parse
from samuel.errors import InputError
from samuel.popdb import acquire as acquisition
from samuel.popdb import stages as pipeline
from samuel.popdb.duplicates import to_text
from samuel.popdb.parts import Parts
from samuel.popdb.rate_limit import RateLimiter
from samuel.popdb.search import Hit
from samuel.popdb.songs import COLUMNS
from samuel.popdb.stages import ACCOMPANIMENT, VOCALS

FULL_LIST = 13_070
"""Titles of the Kaggle list, each once."""
FRAMES = 64
CODES = 948  # of a fingerprint of two minutes
CODES_AT_ONCE = 2**23  # so many that about as many of them are shared as of songs
TYPICAL_S = 211.0
SYLLABLES = ("a", "be", "co", "da", "el", "fi", "go", "hu", "in", "ka", "lo", "mi", "no", "ra", "su", "ve")


def write_list(path: Path, songs: int) -> None:
    """A song list of made-up titles, as long as real ones, none of them twice."""
    draw = random.Random(0)  # noqa: S311  (nothing to keep secret)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for number in range(songs):
            words = [
                "".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(draw.randint(1, 4))
            ]
            title = " ".join([*words, str(number)]).title()
            table.writerow([title, draw.randint(0, 100), round(1000 * draw.gauss(TYPICAL_S, 30))])


def stand_in_settings(data: Path, song_list: Path, songs: int | None) -> Settings:
    """The settings of a run by stand-ins into `data`."""
    return parse(
        {
            "data": data,
            "device": "cpu",
            "songs": {"source": "csv", "path": song_list, "limit": songs},
            # A search is not told the duration that the list states, and nobody is there to be polite to.
            "download": {"policy": "first", "search_interval_s": 0, "download_interval_s": 0},
            "popdb": {"chunk_frames": FRAMES},
            "retention": {"check_space": False},  # the files are small
        }
    )


def install(settings: Settings, sleep_s: float) -> None:
    """Put the stand-ins in the place of the stages, in this process.

    Args:
        settings: Of the run.
        sleep_s: What each of them sleeps for each song.

    Raises:
        InputError: The code has no such stage any more.
    """
    stages = _Stages(sleep_s)
    places: list[tuple[Any, str, Any]] = [
        (acquisition, "search", stages.search),
        (acquisition, "fetch_video", stages.fetch_video),
        (pipeline, "separate", stages.separate),
        (pipeline, "encode_pair", stages.encode_pair),
    ]
    for module, name, _ in places:
        if not hasattr(module, name):
            raise InputError(f"{module.__name__} has no {name} that a stand-in could replace")
    for module, name, stand_in in places:
        setattr(module, name, stand_in)
    # Nothing is encoded that could be compared with what comes back.
    make_artifact(pipeline.round_trip_folder(Parts(settings)), lambda _: {"stand-in": True})


class _Stages:
    """Each has the arguments of the stage it stands for, and records what that one records."""

    def __init__(self, sleep_s: float) -> None:
        self.sleep_s = sleep_s

    def search(self, title: str, _: Any, limiter: RateLimiter, *__: Any) -> dict[str, Any]:
        """Five hits, as a site lists them; the first is the song."""
        with limiter.request("search"):
            time.sleep(self.sleep_s)
        names = (
            title,
            f"{title} (Live at the Arena)",
            f"{title} (Karaoke)",
            "Another Song",
            f"{title} lyrics",
        )
        return {"hits": [vars(_hit(title, place, name)) for place, name in enumerate(names)]}

    def fetch_video(
        self, hit: Hit, _: Any, __: Any, limiter: RateLimiter, folder: Path, *___: Any
    ) -> dict[str, Any]:
        """A file of other bytes for every song, and a fingerprint like no other."""
        with limiter.request("download"):
            time.sleep(self.sleep_s)
        draw = _drawing(hit.video_id)
        (folder / acquisition.AUDIO).write_bytes(draw.bytes(1024))
        codes = draw.integers(0, CODES_AT_ONCE, CODES).astype(np.uint32) * np.uint32(509)
        return {
            "video_id": hit.video_id, "video_title": hit.title, "channel": hit.channel,
            "duration_s": hit.duration_s, "peak": 0.9, "clipped_share": 0.0, "fingerprint": to_text(codes),
        }  # fmt: skip

    def separate(self, _: Any, audio: Path, folder: Path) -> dict[str, Any]:
        """Two files."""
        time.sleep(self.sleep_s)
        for name in (VOCALS, ACCOMPANIMENT):
            (folder / name).write_bytes(audio.read_bytes())
        return {"stems_scale": 1.0, "vocals_dbfs": -20.0, "accompaniment_dbfs": -14.0, "peak": 0.9}

    def encode_pair(self, _: Any, stems: Any, frames: int, folder: Path) -> dict[str, Any]:
        """One pair of latents, of noise."""
        time.sleep(self.sleep_s)
        draw = _drawing(stems.sha256[VOCALS])
        noise = torch.from_numpy(draw.standard_normal((2, 1, 64, frames), np.float32)).half()
        (folder / "latents.safetensors").write_bytes(save({"vocal": noise[0], "accompaniment": noise[1]}))
        share = round(float(draw.uniform(0.3, 0.9)), 4)
        chunk = {"start_s": 0.0, "vocal_share": share, "vocal_rms_db": -20.0, "mix_peak": 0.9}
        return {"chunks": [chunk]}


def _hit(title: str, place: int, name: str) -> Hit:
    video = hashlib.sha256(f"{place}:{title}".encode()).hexdigest()[:11]
    return Hit(
        video_id=video,
        url=f"https://site.invalid/watch?v={video}",
        extractor="Youtube",
        title=name,
        channel=f"Artist of {title}",
        duration_s=TYPICAL_S,
        live=False,
        verified=place == 0,
    )


def _drawing(name: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
