"""An audio file, measured once: everything that scores look at, and what a reader must know of it.

Legend: S samples at 44.1 kHz; F frames of 512 samples at 22.05 kHz (23 ms); G = ceil(F / 4) of the chroma.
`Features` are measured on the mean of both channels.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from samuel.audio import CHANNELS, SAMPLE_RATE, Audio, decode_to_wav, read_wav
from samuel.codecs.base import Codec, encode_audio
from samuel.errors import InputError

Floats = NDArray[np.float32]

LONGEST_S, SHORT_S = 15 * 60, 5.0
CLIPPED_SHARE = 1e-3  # with more clipped samples the report has a remark
FULL_SCALE = 1.0 - 2.0**-15  # the largest positive sample of a 16-bit file
LOG_MEL_HOP, LOG_MEL_FFT = 2048, 4096

RATE, HOP = 22_050, 512
ONSET_FFT, MELS = 2048, 128
CHROMA_EVERY, CHROMA_FFT = 4, 8192  # every 4 frames: 93 ms
CHROMA_CENTRE, CHROMA_WIDTH = 4.5, 1.0
"""Octaves above 27.5 Hz: a partial an octave away from 622 Hz weighs e^-½. Of twelve choices of centre, width
and power this one told true from shuffled pairs of 40 synthetic songs best."""
BLOCK = 512  # frames that are in memory as spectra at a time, at most 17 MB
TEMPO_WINDOW_S = 8.0  # librosa's own

SILENCE_DBFS = -60.0
SUNG_BELOW_PEAK_DB = 40.0  # somebody sings in a frame that is no further than this below the loudest
STILL = 1e-6  # onset strengths that deviate by less, in dB, are rounding errors of a constant signal

TONICS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}
"""How well each pitch class fits a key, from the tonic: Krumhansl and Kessler, "Tracing the dynamic changes
in perceived tonal organization in a spatial representation of musical keys" (1982)."""


@dataclass(frozen=True)
class Features:
    """Harmony, level, onsets, beats and key of one audio: 42 kB for 47.55 s."""

    chroma: Floats  # (12, G), from C; the strongest pitch class of a frame is 1, a silent frame is 0
    level_db: Floats  # (F,) relative to full scale
    onsets: Floats  # (F,) onset strength: mean rise of 128 mel bands, in dB, as librosa defines it
    beats_s: NDArray[np.float64]  # tracked beats, ascending
    key: str | None  # of `key_of`, e.g. "A minor"; None where there is no pitch
    duration_s: float

    @property
    def silent(self) -> bool:
        """True where no frame is above -60 dB relative to full scale."""
        return not bool(np.any(self.level_db > SILENCE_DBFS))

    @property
    def sung(self) -> NDArray[np.bool_]:
        """(F,) frames in which somebody sings, where this is a vocal."""
        return self.level_db > max(float(self.level_db.max()) - SUNG_BELOW_PEAK_DB, SILENCE_DBFS)

    def first(self, frames: int, duration_s: float) -> "Features":
        """Those of the beginning: so many frames of level, which last so many seconds."""
        if self.level_db.size == frames and self.duration_s == duration_s:
            return self
        chroma = self.chroma[:, : -(-frames // CHROMA_EVERY)]
        return replace(
            self,
            chroma=chroma,
            level_db=self.level_db[:frames],
            onsets=self.onsets[:frames],
            beats_s=self.beats_s[self.beats_s < duration_s],
            key=key_of(chroma),
            duration_s=duration_s,
        )


def common_part(*all_features: Features) -> list[Features]:
    """Each over the length of the shortest."""
    frames = min(found.level_db.size for found in all_features)
    duration_s = min(found.duration_s for found in all_features)
    return [found.first(frames, duration_s) for found in all_features]


def features(audio: Audio) -> Features:
    """Measure audio (2, S) of any length, in about as much memory as it takes itself.

    Its mean is taken out first: a constant is silence. The chroma is that of magnitudes, not of powers, on
    the grid of A = 440 Hz: voice and band are held to the same grid, and a song a quarter of a tone off it
    loses an eighth of its likeness. Beats are librosa's (Ellis, "Beat tracking by dynamic programming",
    2007), found in this audio alone. InputError for another shape, NaN and infinite numbers.
    """
    import librosa

    if audio.ndim != 2 or audio.shape[0] != CHANNELS:
        raise InputError(f"audio of shape {audio.shape}; (2, samples) is needed")
    if not np.isfinite(audio).all():
        raise InputError("the audio holds NaN or infinite numbers; export it again")
    mono = 0.5 * audio[0] + 0.5 * audio[1]
    if mono.size:
        mono /= max(1.0, float(mono.max()), -float(mono.min()))  # a float file may hold what has no square
        mono -= np.float32(mono.mean(dtype=np.float64))
        mono = librosa.resample(mono, orig_sr=SAMPLE_RATE, target_sr=RATE)
    onsets, level_db = _onsets(mono)
    classes = librosa.filters.chroma(
        sr=RATE, n_fft=CHROMA_FFT, tuning=0.0, ctroct=CHROMA_CENTRE, octwidth=CHROMA_WIDTH
    )
    blocks = [classes @ block for block in _blocks(mono, CHROMA_FFT, CHROMA_EVERY * HOP)]
    normal = librosa.util.normalize(np.concatenate(blocks, axis=-1), axis=0)
    chroma = np.where(level_db[::CHROMA_EVERY] > SILENCE_DBFS, normal, np.float32(0.0))
    silent = not np.any(level_db > SILENCE_DBFS) or onsets.std() < STILL
    beats_s = np.zeros(0) if silent else _beats(onsets)
    return Features(chroma, level_db, onsets, beats_s, key_of(chroma), audio.shape[1] / SAMPLE_RATE)


def key_of(chroma: Floats) -> str | None:
    """The key whose profile correlates best with the mean of a chroma (12, G): Krumhansl and Schmuckler."""
    mean = chroma.mean(axis=1, dtype=np.float64)
    if np.ptp(mean) < STILL:
        return None
    keys = [(tonic, mode) for mode in PROFILES for tonic in range(12)]
    fits = [np.corrcoef(np.roll(PROFILES[mode], tonic), mean)[0, 1] for tonic, mode in keys]
    tonic, mode = keys[int(np.argmax(fits))]
    return f"{TONICS[tonic]} {mode}"


def _blocks(mono: Floats, n_fft: int, hop: int) -> Iterator[Floats]:
    """Successive magnitude spectra (1 + n_fft / 2, frames): together those of librosa's centred `stft`."""
    import librosa

    padded = np.pad(mono, n_fft // 2)
    frames = 1 + mono.size // hop
    for start in range(0, frames, BLOCK):
        last = min(start + BLOCK, frames) - 1
        part = padded[start * hop : last * hop + n_fft]
        yield np.abs(librosa.stft(part, n_fft=n_fft, hop_length=hop, center=False))


def _onsets(mono: Floats) -> tuple[Floats, Floats]:
    """Onset strengths (F,) and levels in dB (F,)."""
    import librosa

    mels = librosa.filters.mel(sr=RATE, n_fft=ONSET_FFT, n_mels=MELS)
    # Parseval: a spectrum's squares are the frame's power times this; all but the outer bins stand for two.
    scale = ONSET_FFT * float(np.square(librosa.filters.get_window("hann", ONSET_FFT)).sum())
    reduced = []
    for block in _blocks(mono, ONSET_FFT, HOP):
        power = np.square(block)
        total = 2.0 * power.sum(axis=0) - power[0] - power[-1]
        reduced.append(np.vstack([mels @ power, total[None] / scale]))
    whole = np.concatenate(reduced, axis=-1)
    level_db = 10.0 * np.log10(np.maximum(whole[-1], 1e-12))
    onsets = librosa.onset.onset_strength(S=librosa.power_to_db(whole[:-1]), sr=RATE, hop_length=HOP)
    return onsets.astype(np.float32), level_db


def _beats(onsets: Floats) -> NDArray[np.float64]:
    """Times of the beats in seconds, by librosa's tracker; its tempogram of 20 minutes would take 1 GB."""
    import librosa

    window = int(librosa.time_to_frames(TEMPO_WINDOW_S, sr=RATE, hop_length=HOP))
    padded = np.pad(onsets, window // 2, mode="linear_ramp", end_values=0.0)
    total = np.zeros(window)
    for start in range(0, onsets.size, BLOCK):
        part = padded[start : min(start + BLOCK, onsets.size) + window - 1]
        total += librosa.feature.tempogram(
            onset_envelope=part, sr=RATE, hop_length=HOP, win_length=window, center=False
        ).sum(axis=1)
    tempo = librosa.feature.tempo(tg=total[:, None] / onsets.size, sr=RATE, hop_length=HOP)
    _, beats = librosa.beat.beat_track(
        onset_envelope=onsets, sr=RATE, hop_length=HOP, bpm=tempo, units="time"
    )
    return np.asarray(beats, dtype=np.float64)


@dataclass(frozen=True)
class Sound:
    """An audio file without its samples."""

    features: Features
    log_mel: Floats  # of `log_mel_db`
    values: dict[str, float]  # by score
    mono: bool  # both channels are the same
    remarks: tuple[str, ...]  # what is unusual about it, for the report
    latents: Tensor | None  # (C, T) float16 codec latents, where a codec was given


def analyse(path: Path, measures: Mapping[str, Callable[[Audio], float]], codec: Codec | None) -> Sound:
    """Decode any audio file, measure its first 15 minutes, and encode them where a codec is given."""
    audio, longer = load_start(path)
    found, clipped = features(audio), clipped_share(audio)
    remarks = {
        f"longer than {LONGEST_S // 60} minutes: scored over its first {LONGEST_S // 60}": longer,
        "silent": found.silent,
        f"clipped: {clipped:.1%} of its samples are at full scale": clipped > CLIPPED_SHARE,
        f"{found.duration_s:.1f} s: too short to tell beats and key": found.duration_s < SHORT_S,
    }
    return Sound(
        features=found,
        log_mel=log_mel_db(audio),
        values={name: measure(audio) for name, measure in measures.items()},
        mono=bool(np.array_equal(audio[0], audio[1])),
        remarks=tuple(remark for remark, holds in remarks.items() if holds),
        latents=None if codec is None else encode_audio(codec, audio).half(),
    )


def load_start(path: Path) -> tuple[Audio, bool]:
    """Decode the first 15 minutes of any audio file, (2, S), and tell whether there is more.

    InputError where it is not there, no audio, damaged, or holds no sample.
    """
    if not path.is_file():
        raise InputError(f"{path.name}: no such file")
    with tempfile.TemporaryDirectory(prefix="samuel-") as workspace:
        wav = Path(workspace, "decoded.wav")
        decode_to_wav(path, wav, LONGEST_S + 1.0)
        audio = read_wav(wav)
    if not audio.size:
        raise InputError(f"{path.name}: holds no samples")
    longest = LONGEST_S * SAMPLE_RATE
    return audio[:, :longest], audio.shape[1] > longest


def clipped_share(audio: Audio) -> float:
    """Share of samples of both channels whose magnitude is at least 32767 / 32768; 0 without a sample.

    Cut-off sound that was turned down, filtered or compressed with loss afterwards is not found.
    """
    return float(np.mean(np.abs(audio) >= FULL_SCALE)) if audio.size else 0.0


def log_mel_db(audio: Audio) -> Floats:
    """(2, S) → (64, 1 + S // 2048) mel power in dB, floored at -80; at least 4096 samples, of silence."""
    import librosa

    mono = audio.mean(axis=0)
    mono = np.pad(mono, (0, max(0, LOG_MEL_FFT - mono.size)))
    mel = librosa.feature.melspectrogram(
        y=mono, sr=SAMPLE_RATE, n_fft=LOG_MEL_FFT, hop_length=LOG_MEL_HOP, n_mels=64
    )
    return np.maximum(10.0 * np.log10(np.maximum(mel / LOG_MEL_FFT, 1e-12)), -80.0)
