"""Songs: a score sung and played, mixed, and written as an artifact."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samuel.artifacts import Artifact, digest, make_artifact
from samuel.audio import SAMPLE_RATE, Audio, write_wav
from samuel.synthetic.band import play
from samuel.synthetic.room import Track, reverberation
from samuel.synthetic.score import Score, write_score
from samuel.synthetic.voice import SungPhrase, draw_singer, sing

VERSION = 1  # raise it when the sound changes: it is part of the key under which songs are stored

PEAK = 0.89
TAIL_S = 0.15  # of the voice's room, still audible after the voice
SHORTEST_REST_S = 0.2  # a shorter one belongs to the singing


@dataclass(frozen=True)
class SyntheticSong:
    """A song and its true stems.

    Attributes:
        title: What a person calls it.
        vocals: (2, S) float32.
        accompaniment: (2, S) float32.
        tempo_bpm: Quarter notes per minute.
        key: Tonic and mode, e.g. "A minor".
        sung: Start and end in seconds of the stretches where the voice sounds, ordered and disjoint.
    """

    title: str
    vocals: Audio
    accompaniment: Audio
    tempo_bpm: float
    key: str
    sung: tuple[tuple[float, float], ...]

    @property
    def mix(self) -> Audio:
        """The song, (2, S): exactly the sum of its stems."""
        return self.vocals + self.accompaniment

    @property
    def duration_s(self) -> float:
        """Its length in seconds."""
        return self.vocals.shape[1] / SAMPLE_RATE


def compose(seed: int, index: int) -> SyntheticSong:
    """Song `index` of `seed`, always the same whatever else is composed."""
    singing, playing, mixing = np.random.default_rng([seed, index]).spawn(3)
    score = write_score(seed, index)
    phrases = _sing_all(singing, score)
    sung = _stretches(phrases)
    vocals = _place(singing, phrases, score.duration_s)
    accompaniment = play(playing, score)
    vocals, accompaniment = _balance(vocals, accompaniment, sung, voice_db=mixing.uniform(-2.0, 2.0))
    title = f"Synthetic {index:02d} ({score.key}, {score.tempo_bpm:.0f} bpm)"
    return SyntheticSong(title, vocals, accompaniment, score.tempo_bpm, str(score.key), sung)


def write_song(seed: int, index: int, root: Path) -> Artifact:
    """Song `index` of `seed` as an artifact under `root`: mix.wav, vocals.wav, accompaniment.wav."""

    def make(folder: Path) -> dict[str, Any]:
        song = compose(seed, index)
        write_wav(folder / "mix.wav", song.mix)
        write_wav(folder / "vocals.wav", song.vocals)
        write_wav(folder / "accompaniment.wav", song.accompaniment)
        return {
            "title": song.title,
            "duration_s": song.duration_s,
            "tempo_bpm": song.tempo_bpm,
            "key": song.key,
            "sung": [list(stretch) for stretch in song.sung],
        }

    return make_artifact(root / digest("synthetic", VERSION, seed, index), make)


def _sing_all(rng: np.random.Generator, score: Score) -> list[SungPhrase]:
    singer = draw_singer(rng, score.voice_centre)
    return [sing(rng, singer, score, phrase) for phrase in score.phrases]


def _place(rng: np.random.Generator, phrases: list[SungPhrase], duration_s: float) -> Audio:
    """The voice in the middle of a small room, (2, S)."""
    track = Track(duration_s)
    for phrase in phrases:
        track.add(phrase.start_s, phrase.sound)
    wet = reverberation(rng, track.audio[0], decay_s=0.45, predelay_s=0.012)
    track.audio += np.float32(0.22) * wet
    return track.audio


def _stretches(phrases: list[SungPhrase]) -> tuple[tuple[float, float], ...]:
    stretches: list[tuple[float, float]] = []
    for phrase in phrases:
        start, end = phrase.start_s, phrase.end_s + TAIL_S
        if stretches and start - stretches[-1][1] < SHORTEST_REST_S:
            start, _ = stretches.pop()
        stretches.append((round(start, 4), round(end, 4)))
    return tuple(stretches)


def _balance(
    vocals: Audio, accompaniment: Audio, sung: tuple[tuple[float, float], ...], voice_db: float
) -> tuple[Audio, Audio]:
    """Set the voice `voice_db` above the accompaniment while it sings, and the loudest peak to `PEAK`."""
    spans = [slice(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)) for start, end in sung]
    voice, band = (
        np.sqrt(np.mean(np.concatenate([np.square(stem[:, span]).ravel() for span in spans])))
        for stem in (vocals, accompaniment)
    )
    vocals = vocals * np.float32(10.0 ** (voice_db / 20.0) * band / voice)
    peak = max(float(np.abs(signal).max()) for signal in (vocals, accompaniment, vocals + accompaniment))
    return vocals * np.float32(PEAK / peak), accompaniment * np.float32(PEAK / peak)
