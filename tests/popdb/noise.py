"""Songs of noise through the stages, by a separator that costs nothing."""

from pathlib import Path

import numpy as np

from samuel.audio import SAMPLE_RATE, Audio, write_wav
from samuel.config import Settings
from samuel.popdb import stages
from samuel.popdb.acquire import acquire_songs
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome


class Share:
    """Takes a multiple of the song for its vocals, and counts the songs."""

    def __init__(self, share: float = 0.5, identity: str = "share/1") -> None:
        self.share, self.identity = share, identity
        self.songs = self.cancelled = 0

    def vocals(self, mix: Audio) -> Audio:
        self.songs += 1
        return mix * np.float32(self.share)

    def cancel(self) -> None:
        self.cancelled += 1


def noise(samples: int, level: float = 0.1, seed: int = 0) -> Audio:
    return (level * np.random.default_rng(seed).standard_normal((2, samples))).astype(np.float32)


def songs_of(folder: Path, count: int = 3) -> list[Song]:
    """Files of four seconds."""
    songs = []
    for number in range(count):
        wav = folder / f"{number}.wav"
        if not wav.exists():
            write_wav(wav, noise(4 * SAMPLE_RATE, seed=number))
        songs.append(Song(f"song{number}", "noise", url=wav.as_uri()))
    return songs


def separate(songs: list[Song], settings: Settings) -> list[Outcome]:
    """As far as the stems, as the flow does it."""
    parts = Parts(settings)
    stages.reclaim_audio(parts)
    return stages.separate_songs(acquire_songs(songs, parts), parts)


def run(songs: list[Song], settings: Settings) -> list[Outcome]:
    """As far as the latents, as the flow does it."""
    return stages.encode_songs(separate(songs, settings), Parts(settings))
