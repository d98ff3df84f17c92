"""Whether a codec gives back the audio it is given, asked before hours of encoding.

A wrong or half-read file of weights makes latents of the right shape from which nothing can be heard.
Legend: S samples at 44.1 kHz.
"""

from dataclasses import dataclass
from math import nan

import numpy as np
import torch

from samuel.audio import SAMPLE_RATE, Audio, dbfs, si_sdr_db
from samuel.codecs.base import Codec, decode_audio, encode_audio
from samuel.errors import InputError, MissingPartError

N_FFT, STEP, BANDS = 4096, 2048, 64
"""Of the spectra that are compared; also the grid on which a loud chunk is sought."""
RANGE_DB = 60.0
"""What lies further below the loudest mel band is not compared."""
MOST_DISTANCE_DB = 11.0
"""Measured: 2 to 7 where codecs work, on music or white noise, 7 to 9 for `mel` on a voice alone (its pauses
are filled); 15 to 70 for random, zeroed or shuffled weights."""
ENOUGH_SI_SDR_DB = 10.0
"""The waveform itself comes back, whatever lies 60 dB below a few pure tones. Noise has less than -40."""
MOST_LEVEL_DB = 4.5
"""Won or lost. Measured: Griffin-Lim loses 2 to 3.6; half or twice the scale is 6."""


@dataclass(frozen=True)
class RoundTrip:
    """How a reconstruction compares with its original; all NaN where it holds values that are no numbers."""

    distance_db: float  # root mean square difference of the log-mel spectra
    level_db: float  # against the original's
    si_sdr_db: float  # scale-invariant (Le Roux et al., 2019); very low where a codec keeps no phase

    @property
    def faithful(self) -> bool:
        """Whether the original can be heard in it, at its own level."""
        like = self.distance_db <= MOST_DISTANCE_DB or self.si_sdr_db >= ENOUGH_SI_SDR_DB
        return like and abs(self.level_db) <= MOST_LEVEL_DB


def round_trip(codec: Codec, audio: Audio) -> RoundTrip:
    """Encode (2, S), some seconds of music, store it as float16, decode, compare.

    Spectra and levels are those of the mean of both channels, for a mono codec keeps no more.

    Raises:
        InputError: The audio, or the mean of its channels, is silent: it would come back from any weights.
    """
    if not audio.mean(axis=0).any():
        raise InputError("the audio for the codec's round trip is silent; give a louder part of a song")
    stored = encode_audio(codec, audio).to(torch.float16).to(torch.float32)  # as the dataset keeps them
    decoded = decode_audio(codec, stored)[:, : audio.shape[1]]
    if not np.isfinite(decoded).all():
        return RoundTrip(nan, nan, nan)
    return RoundTrip(
        distance_db=_log_spectral_distance_db(audio, decoded),
        level_db=dbfs(decoded.mean(axis=0)) - dbfs(audio.mean(axis=0)),
        si_sdr_db=si_sdr_db(decoded, audio),
    )


def require_faithful(codec: Codec, audio: Audio) -> RoundTrip:
    """Refuse, by a MissingPartError, a codec that does not give back `audio`, (2, S); its figures else."""
    result = round_trip(codec, audio)
    if not result.faithful:
        raise MissingPartError(
            f"{codec.info}: does not give back the audio it encodes: log-spectral distance"
            f" {result.distance_db:.1f} dB (at most {MOST_DISTANCE_DB:g}), level {result.level_db:+.1f} dB"
            f" (within {MOST_LEVEL_DB:g}), SI-SDR {result.si_sdr_db:.1f} dB (or {ENOUGH_SI_SDR_DB:g});"
            " fetch its weights again, or correct codec.path"
        )
    return result


def loudest_chunk(audio: Audio, samples: int) -> Audio:
    """The `samples` of (2, S) where the mean of both channels is loudest; all of it where it is shorter."""
    energy = np.cumsum(np.square(audio.mean(axis=0), dtype=np.float64))
    energy = np.concatenate([[0.0], energy])
    starts = np.arange(0, max(audio.shape[1] - samples, 0) + 1, STEP)
    stops = np.minimum(starts + samples, audio.shape[1])
    start = int(starts[np.argmax(energy[stops] - energy[starts])])
    return audio[:, start : start + samples]


def _log_spectral_distance_db(original: Audio, decoded: Audio) -> float:
    """Compare the mel power wherever one of the two is within `RANGE_DB` of the original's loudest band."""
    import librosa

    first, second = (
        librosa.feature.melspectrogram(
            y=audio.mean(axis=0, dtype=np.float64), sr=SAMPLE_RATE, n_fft=N_FFT, hop_length=STEP, n_mels=BANDS
        )
        for audio in (original, decoded)
    )
    floor = first.max() * 10 ** (-RANGE_DB / 10)
    compared = (first > floor) | (second > floor)
    ratio = np.maximum(second, floor)[compared] / np.maximum(first, floor)[compared]
    return float(np.sqrt(np.mean(np.square(10 * np.log10(ratio)))))
