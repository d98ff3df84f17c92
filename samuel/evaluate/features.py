"""An audio file, measured once: everything that scores look at, and what a reader must know of it.

Legend: S samples at 44.1 kHz; F frames of 512 samples at 22.05 kHz (23 ms); G = ceil(F / 4) of the chroma.
`Features` are measured on the mean of both channels.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from samuel.audio import CHANNELS, SAMPLE_RATE, SILENCE_DBFS, Audio, decode_to_wav, read_wav
from samuel.codecs.base import Codec, encode_audio
from samuel.errors import InputError

Floats = NDArray[np.float32]

LONGEST_S, SHORT_S, CLIPPED_SHARE = 6 * 60, 5.0, 1e-3  # of which the report has remarks
FULL_SCALE = 1.0 - 2.0**-15  # the largest positive sample of a 16-bit file
LOG_MEL_HOP, LOG_MEL_FFT = 2048, 4096

RATE, HOP, ONSET_FFT = 22_050, 512, 2048
HANN_POWER = 0.375  # of a window, which its squares keep of a signal
CHROMA_EVERY, CHROMA_FFT = 4, 8192  # every 4 frames: 93 ms
CHROMA_CENTRE, CHROMA_WIDTH = 4.5, 1.0  # octaves above 27.5 Hz; of twelve choices this told true pairs best

SUNG_BELOW_PEAK_DB = 40.0  # somebody sings in a frame that is no further than this below the loudest
STILL = 1e-6  # onset strengths that deviate by less, in dB, are rounding errors of a constant signal

TONICS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}  # how well each pitch class fits a key, from the tonic: Krumhansl and Kessler (1982)


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
        beats_s = self.beats_s[self.beats_s < duration_s]
        level_db, onsets = self.level_db[:frames], self.onsets[:frames]
        return Features(chroma, level_db, onsets, beats_s, key_of(chroma), duration_s)


def common_part(*all_features: Features) -> list[Features]:
    """Each over the length of the shortest."""
    frames = min(found.level_db.size for found in all_features)
    duration_s = min(found.duration_s for found in all_features)
    return [found.first(frames, duration_s) for found in all_features]


def features(audio: Audio) -> Features:
    """Measure audio (2, S) less its mean: chroma of magnitudes at A = 440 Hz, beats by Ellis (2007).

    InputError for another shape, NaN and infinite numbers.
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

    def magnitudes(n_fft: int, hop: int) -> Floats:  # of librosa's centred `stft`, which warns of a snippet
        padded = np.pad(mono, n_fft // 2)
        return np.abs(librosa.stft(padded, n_fft=n_fft, hop_length=hop, center=False))

    spectra = magnitudes(ONSET_FFT, HOP)
    rms = librosa.feature.rms(S=spectra, frame_length=ONSET_FFT, hop_length=HOP)[0]
    level_db = 10.0 * np.log10(np.maximum(np.square(rms) / HANN_POWER, 1e-12))
    mels = librosa.power_to_db(librosa.feature.melspectrogram(S=np.square(spectra), sr=RATE))
    onsets = librosa.onset.onset_strength(S=mels, sr=RATE, hop_length=HOP).astype(np.float32)
    classes = librosa.filters.chroma(
        sr=RATE, n_fft=CHROMA_FFT, tuning=0.0, ctroct=CHROMA_CENTRE, octwidth=CHROMA_WIDTH
    )
    normal = librosa.util.normalize(classes @ magnitudes(CHROMA_FFT, CHROMA_EVERY * HOP), axis=0)
    chroma = np.where(level_db[::CHROMA_EVERY] > SILENCE_DBFS, normal, np.float32(0.0))
    beats_s = np.zeros(0)
    if np.any(level_db > SILENCE_DBFS) and onsets.std() >= STILL:
        found = librosa.beat.beat_track(onset_envelope=onsets, sr=RATE, hop_length=HOP, units="time")[1]
        beats_s = np.asarray(found, dtype=np.float64)
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
    """Decode any audio file, measure its first 6 minutes, and encode them where a codec is given."""
    audio, longer = load_start(path)
    found, clipped = features(audio), clipped_share(audio)
    remarks = {
        f"longer than {LONGEST_S // 60} minutes: scored over its first {LONGEST_S // 60}": longer,
        "silent": found.silent,
        f"clipped: {clipped:.1%} of its samples are at full scale": clipped > CLIPPED_SHARE,
        f"{found.duration_s:.1f} s: too short to tell beats and key": found.duration_s < SHORT_S,
    }
    values = {name: measure(audio) for name, measure in measures.items()}
    said = tuple(remark for remark, holds in remarks.items() if holds)
    latents = None if codec is None else encode_audio(codec, audio).half()
    return Sound(found, log_mel_db(audio), values, bool(np.array_equal(audio[0], audio[1])), said, latents)


def load_start(path: Path) -> tuple[Audio, bool]:
    """Decode the first 6 minutes of any audio file, (2, S), and tell whether there is more.

    InputError where it is not there, no audio, damaged, or holds no sample.
    """
    with tempfile.TemporaryDirectory(prefix="samuel-") as workspace:
        wav = Path(workspace, "decoded.wav")
        decode_to_wav(path, wav, LONGEST_S + 1.0, cut=True)
        audio = read_wav(wav)
    if not audio.size:
        raise InputError(f"{path.name}: holds no samples")
    longest = LONGEST_S * SAMPLE_RATE
    return audio[:, :longest], audio.shape[1] > longest


def clipped_share(audio: Audio) -> float:
    """Share of samples of both channels at full scale, 32767 / 32768; 0 without a sample."""
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
