"""Any audio file as samples."""

from pathlib import Path

from samuel.audio import Audio, decode_to_wav, read_wav


def load_audio(path: Path, workspace: Path) -> Audio:
    """Decode a file to (2, S) float32 by way of a WAV in `workspace`."""
    decode_to_wav(path, workspace / "decoded.wav")
    return read_wav(workspace / "decoded.wav")
