"""Runs of the acquisition over the local site, here or in a process of their own.

`python -m tests.popdb.runs '{"settings": {...}, "titles": [...]}'` prints what became of the songs.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from samuel.audio import read_wav
from samuel.config import Settings, parse
from samuel.errors import SamuelError
from samuel.files import digest, read_json, sha256
from samuel.popdb.acquisition import acquire_songs, pace_of
from samuel.popdb.catalog import Song
from samuel.popdb.outcome import Outcome
from tests.popdb.site import AT_ONCE, encoded, sine, yt_dlp_plugin

ROOT = Path(__file__).parents[2]


def settings_for(root: Path, **download: Any) -> Settings:
    """Settings for the local site; `download` is added to `AT_ONCE`."""
    return parse({"data": root / "data", "download": {**AT_ONCE, **download}})


def song(title: str) -> Song:
    """A song of the list that is called `title`."""
    return Song(digest("test", title), title)


def acquire(settings: Settings, *titles: str) -> list[Outcome]:
    """What becomes of the songs called `titles` in a new run."""
    pace_of(settings).open()
    return acquire_songs([song(title) for title in titles], settings)


@cache
def tone(duration_s: float = 1.0) -> bytes:
    """A tone of 440 Hz as FLAC."""
    return encoded(sine(duration_s))


@cache
def noise(duration_s: float = 1.0, seed: int = 0) -> bytes:
    """White noise as FLAC: about 170 kB a second, hardly less than the samples."""
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (round(duration_s * 44_100), 2))
    return encoded(samples.astype(np.float32))


def entries(settings: Settings) -> list[Path]:
    """The folders under a final name of all audio, each of which must be whole, with nothing else in it."""
    raw = settings.data / "raw"
    folders = [path for path in raw.iterdir() if path.is_dir() and not path.name.startswith(".")]
    for folder in folders:
        audio = folder / "audio.wav"
        listed = {"bytes": audio.stat().st_size, "sha256": sha256(audio)}
        assert read_json(folder / "entry.json")["files"] == {"audio.wav": listed}
        assert sorted(path.name for path in folder.iterdir()) == ["audio.wav", "entry.json"]
        assert read_wav(audio).size > 0
    assert list(raw.glob(".*.tmp")) == []
    return folders


@contextmanager
def running(settings: Settings, *titles: str) -> Iterator[subprocess.Popen[str]]:
    """`acquire` in a process of its own, killed at the end where it still runs."""
    job = json.dumps({"settings": settings.model_dump(mode="json"), "titles": titles})
    command = [sys.executable, "-m", "tests.popdb.runs", job]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def told(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """Outcomes as JSON can write them."""
    return [{"status": o.status, "attempts": o.attempts, "message": o.message} for o in outcomes]


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Acquire the songs of `job`; an error that stops the run is part of the answer."""
    with yt_dlp_plugin():
        try:
            return {"outcomes": told(acquire(parse(job["settings"]), *job["titles"]))}
        except SamuelError as error:
            return {"error": type(error).__name__, "message": str(error)}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))  # noqa: T201 - for the process that started this one
