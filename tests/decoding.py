"""Any audio file as samples, and one of more than anybody wants."""

from pathlib import Path

import numpy as np
import soundfile

from samuel.audio import Audio, decode_to_wav, read_wav


def load_audio(path: Path, workspace: Path) -> Audio:
    """Decode a file to (2, S) float32 by way of a WAV in `workspace`."""
    decode_to_wav(path, workspace / "decoded.wav")
    return read_wav(workspace / "decoded.wav")


def write_ten_hours(path: Path, stated_s: int = 36_000) -> Path:
    """Write ten hours of silence as a FLAC of 120 kB, which may state another duration; 0: none."""
    soundfile.write(path, np.zeros(36_000_000, np.int16), 1_000, format="FLAC")
    content = bytearray(path.read_bytes())
    content[21:26] = ((content[21] & 0xF0) << 32 | 1_000 * stated_s).to_bytes(
        5
    )  # samples, in its first block
    path.write_bytes(content)
    return path
