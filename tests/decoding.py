"""Any audio file as samples, and one of more than anybody wants."""

from pathlib import Path

import numpy as np
import soundfile

from samuel.audio import Audio, decode_to_wav, read_wav


def load_audio(path: Path, workspace: Path) -> Audio:
    """Decode a file to (2, S) float32 by way of a WAV in `workspace`."""
    decode_to_wav(path, workspace / "decoded.wav")
    return read_wav(workspace / "decoded.wav")


def write_ten_hours(path: Path, *, stated: bool = True) -> Path:
    """Write ten hours of silence as a FLAC of few kB, which may leave open how long it is."""
    soundfile.write(path, np.zeros(36_000_000, np.int16), 1_000, format="FLAC")
    content = bytearray(path.read_bytes())
    if not stated:
        content[21:26] = bytes([content[21] & 0xF0, 0, 0, 0, 0])  # samples in all, of its first block
    path.write_bytes(content)
    return path
