"""Synthetic songs: they are what they say they are, heard from the outside where that is possible."""

import librosa
import numpy as np
import pytest
from numpy.typing import NDArray

from samuel.audio import SAMPLE_RATE, Audio
from samuel.synthetic.score import BEATS_PER_BAR, Note, Score, write_score
from samuel.synthetic.song import SyntheticSong, compose
from samuel.synthetic.voice import glottal_source

SEED = 7
INDICES = (0, 1)  # one in the major, one in the minor
ANALYSIS_RATE = SAMPLE_RATE // 2


@pytest.fixture(scope="module")
def songs() -> list[SyntheticSong]:
    return [compose(SEED, index) for index in INDICES]


@pytest.fixture(scope="module")
def scores() -> list[Score]:
    return [write_score(SEED, index) for index in range(12)]


def rms(audio: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(audio) / np.sqrt(audio.size))


def sung_samples(song: SyntheticSong) -> NDArray[np.bool_]:
    mask = np.zeros(song.vocals.shape[1], bool)
    for start, end in song.sung:
        mask[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)] = True
    return mask


def halved(audio: Audio) -> NDArray[np.float32]:
    return pairs(audio[0] + audio[1])


def pairs(mono: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of neighbours: (S,) to (S / 2,)."""
    return np.float32(0.5) * (mono[: mono.size // 2 * 2 : 2] + mono[1::2])


def held_notes(score: Score) -> list[Note]:
    """Notes that last at least 0.9 s."""
    notes = [note for phrase in score.phrases for note in phrase]
    return [note for note in notes if score.seconds(note.end) - score.seconds(note.start) >= 0.9]


def pitch_of(song: SyntheticSong, score: Score, note: Note) -> NDArray[np.float64]:
    """MIDI pitch of the voice within a note, every 64 samples at ANALYSIS_RATE, by YIN."""
    start, end = (round(score.seconds(beat) * SAMPLE_RATE) for beat in (note.start, note.end))
    clip = halved(song.vocals[:, start:end])
    f0_hz = librosa.yin(clip, fmin=70, fmax=900, sr=ANALYSIS_RATE, frame_length=1024, hop_length=64)
    return np.asarray(librosa.hz_to_midi(f0_hz))


def test_stems_are_float32_stereo_and_sum_to_the_mix(songs: list[SyntheticSong]) -> None:
    for song in songs:
        assert 100 <= song.duration_s <= 150
        assert all(0.1 < np.abs(stem).max() < 1.0 for stem in (song.mix, song.vocals, song.accompaniment))
        assert song.vocals.dtype == song.accompaniment.dtype == song.mix.dtype == np.float32
        assert song.vocals.shape == song.accompaniment.shape == (2, round(song.duration_s * SAMPLE_RATE))
        assert np.array_equal(song.mix, song.vocals + song.accompaniment)


def test_the_voice_sounds_in_the_sung_intervals_only(songs: list[SyntheticSong]) -> None:
    for song in songs:
        sung = sung_samples(song)
        level = rms(song.vocals[:, sung])
        frames = (
            np.square(song.vocals[:, : sung.size // 441 * 441]).mean(axis=0).reshape(-1, 441).mean(axis=1)
        )
        inside = sung[: frames.size * 441].reshape(-1, 441)
        assert np.sqrt(frames[~inside.any(axis=1)].max()) < 0.02 * level
        assert (np.sqrt(frames[inside.all(axis=1)]) > 0.1 * level).mean() > 0.75
        for start, end in song.sung:
            assert rms(song.vocals[:, round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]) > 0.4 * level


def chroma(stem: Audio) -> NDArray[np.float32]:
    """Chroma of 130 to 2000 Hz, (12, frames of 4096 samples), each frame of unit length."""
    spectra = np.abs(librosa.stft(pairs(halved(stem)), n_fft=4096, hop_length=1024))
    spectra[: int(130 / (SAMPLE_RATE / 4) * 4096)] = 0
    spectra[int(2000 / (SAMPLE_RATE / 4) * 4096) :] = 0
    return librosa.feature.chroma_stft(S=spectra, sr=SAMPLE_RATE / 4, n_fft=4096, tuning=0.0, norm=2)


def test_the_accompaniment_follows_the_harmony_of_the_melody(songs: list[SyntheticSong]) -> None:
    for song in songs:
        voice, band = chroma(song.vocals), chroma(song.accompaniment)
        sung = sung_samples(song)[::4096][: voice.shape[1]]
        bar = BEATS_PER_BAR * 60 / song.tempo_bpm * SAMPLE_RATE / 4096
        fit = {
            (semitones, bars): np.corrcoef(
                voice[:, sung].ravel(),
                np.roll(band, (semitones, round(bars * bar)), axis=(0, 1))[:, sung].ravel(),
            )[0, 1]
            for semitones, bars in ((0, 0), (6, 0), (0, 1), (0, 2), (0, 3))
        }
        assert fit[0, 0] > fit[6, 0] + 0.1
        # The chord of the moment, not only the key: bars later the fit is worse.
        assert fit[0, 0] > np.mean([fit[0, 1], fit[0, 2], fit[0, 3]]) + 0.05


def test_the_voice_sings_the_notes(songs: list[SyntheticSong], scores: list[Score]) -> None:
    for song, score in zip(songs, scores, strict=False):
        errors = [abs(np.median(pitch_of(song, score, n)) - n.pitch) for n in held_notes(score)[:6]]
        assert max(errors) < 0.5


def test_the_source_has_no_aliases() -> None:
    f0_hz = 44_100 * 37 / 4096  # 37 periods in 4096 samples: each harmonic falls on one bin
    power = np.abs(np.fft.rfft(glottal_source(np.full(4096, f0_hz)))) ** 2
    harmonic = np.arange(power.size) % 37 == 0
    assert power[~harmonic].sum() < 1e-4 * power[harmonic].sum()
    assert power[round(16_000 / 44_100 * 4096) :].sum() < 1e-4 * power.sum()
