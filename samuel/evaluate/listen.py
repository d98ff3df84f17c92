"""An audio file, heard once: everything that the scores need of it, and what a reader must know of it.

Shapes: (2, S) audio at 44.1 kHz; (C, T) codec latents.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samuel.audio import SAMPLE_RATE, Audio, dbfs, decode_to_wav, read_wav
from samuel.codec import Codec
from samuel.errors import InputError
from samuel.evaluate.following import Features, features
from samuel.evaluate.signal import N_FFT, clipped_share, log_mel_db

LONGEST_S = 15 * 60
SHORT_S = 5.0
CLIPPED_SHARE = 1e-3


@dataclass(frozen=True)
class Heard:
    """What is kept of an audio file.

    Attributes:
        features: What the scores that follow the vocal look at.
        log_mel: (64, F) dB.
        sound: Scores of the sound alone.
        duration_s: Of the whole file, or of the part that is scored.
        mono: Both channels are the same.
        remarks: What is unusual about it, for the report.
        latents: (C, T) float16 codec latents, where a codec was given.
    """

    features: Features
    log_mel: NDArray[np.float32]
    sound: dict[str, float]
    duration_s: float
    mono: bool
    remarks: tuple[str, ...]
    latents: Tensor | None


def hear(path: Path, codec: Codec | None = None) -> Heard:
    """Decode any audio file and look at its first 15 minutes.

    Args:
        path: The file.
        codec: Encodes it too, where one is given.

    Raises:
        InputError: It is not there, no audio, damaged, or holds no sample.
    """
    audio, cut = load_start(path)
    remarks = (
        [f"longer than {LONGEST_S // 60} minutes: scored over its first {LONGEST_S // 60}"] if cut else []
    )
    found = features(audio)
    return Heard(
        features=found,
        log_mel=log_mel_db(_at_least(audio, N_FFT)),
        sound={"level_dbfs": dbfs(audio), "clipped_share": clipped_share(audio)},
        duration_s=audio.shape[1] / SAMPLE_RATE,
        mono=bool(np.array_equal(audio[0], audio[1])),
        remarks=(*remarks, *_remarks(audio, found.silent)),
        latents=None if codec is None else _encoded(audio, codec),
    )


def load_start(path: Path) -> tuple[Audio, bool]:
    """The first 15 minutes of any audio file, (2, S), and whether there is more.

    Raises:
        InputError: It is not there, no audio, damaged, or holds no sample.
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


def _remarks(audio: Audio, silent: bool) -> list[str]:
    share, duration_s = clipped_share(audio), audio.shape[1] / SAMPLE_RATE
    return [
        *(["silent"] if silent else []),
        *([f"clipped: {share:.1%} of its samples are at full scale"] if share > CLIPPED_SHARE else []),
        *([f"{duration_s:.1f} s: too short to tell beats and key"] if duration_s < SHORT_S else []),
    ]


def _encoded(audio: Audio, codec: Codec) -> Tensor:
    with torch.inference_mode():
        return codec.encode(torch.from_numpy(audio)[None])[0].half().cpu()


def _at_least(audio: Audio, samples: int) -> Audio:
    return np.pad(audio, ((0, 0), (0, max(0, samples - audio.shape[1]))))
