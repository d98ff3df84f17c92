"""Songs, pure functions of (seed, index): a score sung and played, mixed, and written as an artifact."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samuel.artifacts import Artifact, digest, make_artifact
from samuel.audio import SAMPLE_RATE, Audio, write_wav
from samuel.synthetic.band import play
from samuel.synthetic.room import Track, reverberation
from samuel.synthetic.score import write_score
from samuel.synthetic.voice import draw_singer, sing

VERSION = 1  # raise it when the sound changes: it is part of the key under which songs are stored

PEAK = 0.89
TAIL_S = 0.15  # of the voice's room, still audible after the voice
SHORTEST_REST_S = 0.2  # a shorter one belongs to the singing


@dataclass(frozen=True)
class SyntheticSong:
    """A song and its true stems, (2, S) each; the mix is exactly their sum."""

    title: str
    vocals: Audio
    accompaniment: Audio
    tempo_bpm: float
    key: str  # tonic and mode, e.g. "A minor"
    sung: tuple[tuple[float, float], ...]  # from and to, in seconds, where the voice sounds

    @property
    def mix(self) -> Audio:
        """The song, (2, S)."""
        return self.vocals + self.accompaniment

    @property
    def duration_s(self) -> float:
        """Its length in seconds."""
        return self.vocals.shape[1] / SAMPLE_RATE


def compose(seed: int, index: int) -> SyntheticSong:
    """Song `index` of `seed`, always the same whatever else is composed."""
    singing, playing, mixing = np.random.default_rng([seed, index]).spawn(3)
    score = write_score(seed, index)
    singer = draw_singer(singing, score.voice_centre)
    track, sung = Track(score.duration_s), list[tuple[float, float]]()
    for notes in score.phrases:
        start_s, sound = sing(singing, singer, score, notes)
        track.add(start_s, sound)
        start, end = start_s, start_s + sound.size / SAMPLE_RATE + TAIL_S
        if sung and start - sung[-1][1] < SHORTEST_REST_S:
            start, _ = sung.pop()
        sung.append((round(start, 4), round(end, 4)))
    wet = reverberation(singing, track.audio[0], decay_s=0.45, predelay_s=0.012)
    track.audio += np.float32(0.22) * wet
    vocals, accompaniment = track.audio, play(playing, score)
    # The voice so much above the accompaniment while it sings, and the loudest peak at `PEAK`.
    spans = [slice(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)) for start, end in sung]
    voice, band = (
        np.sqrt(np.mean(np.concatenate([np.square(stem[:, span]).ravel() for span in spans])))
        for stem in (vocals, accompaniment)
    )
    voice_db = mixing.uniform(-2.0, 2.0)
    vocals = vocals * np.float32(10.0 ** (voice_db / 20.0) * band / voice)
    peak = max(float(np.abs(signal).max()) for signal in (vocals, accompaniment, vocals + accompaniment))
    title, scale = f"Synthetic {index:02d} ({score.key}, {score.tempo_bpm:.0f} bpm)", np.float32(PEAK / peak)
    stems = (vocals * scale, accompaniment * scale)
    return SyntheticSong(title, *stems, score.tempo_bpm, str(score.key), tuple(sung))


def write_song(seed: int, index: int, root: Path) -> Artifact:
    """Song `index` of `seed` as an artifact under `root`: mix.wav, vocals.wav, accompaniment.wav."""

    def make(folder: Path) -> dict[str, Any]:
        song = compose(seed, index)
        for stem in ("mix", "vocals", "accompaniment"):
            write_wav(folder / f"{stem}.wav", getattr(song, stem))
        record = {name: getattr(song, name) for name in ("title", "duration_s", "tempo_bpm", "key")}
        return {**record, "sung": [list(stretch) for stretch in song.sung]}

    return make_artifact(root / digest("synthetic", VERSION, seed, index), make)
