"""Audio files of any length in bounded memory, whole or absent, and the balance of a mix.

What passes between the stages is float WAV; what the user gets is 24-bit WAV or FLAC, written by ffmpeg: it
reports a full disk wherever it strikes, where libsndfile loses the last frames of a FLAC without a word.
"""

import math
import re
import struct
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samuel.artifacts import explain_full_disk, replacing
from samuel.audio import CHANNELS, SAMPLE_RATE, Audio, read_blocks, run_ffmpeg
from samuel.errors import InputError, OperatorError

BALANCE_DB = 1.0
"""So much above the accompaniment lead vocals of popular music have been since 1975 (Gerdes and Siedenburg,
"Lead-vocal level in recordings of popular music 1946-2020", JASA Express Letters 3, 043201, 2023)."""
MAX_GAIN_DB = 24.0  # takes and masters differ by less; with more, next to nothing would become a roar
MAX_PEAK_DBFS = -1.0  # of the samples; the decibel is left to the wave between them
SILENCE_LUFS = -70.0  # ffmpeg's value for what has nothing above the absolute gate of BS.1770
ENCODERS = {".wav": "pcm_s24le", ".flac": "flac"}  # by the names that ffmpeg has for them
LONGEST_ADDITION = 40  # characters that other names made of OUTPUT have more


@dataclass(frozen=True)
class Balance:
    """Gains of a mix, (vocal + accompaniment · accompaniment gain) · mix gain; loudness before any gain."""

    accompaniment_gain_db: float  # at most 24; 0 where one of the two is silent
    mix_gain_db: float  # at most 0: keeps the peak of the mix at or below -1 dBFS
    vocal_lufs: float | None  # None where it is silent or shorter than 0.4 s
    accompaniment_lufs: float | None


def balance_of(vocal: Path, accompaniment: Path, balance_db: float = BALANCE_DB) -> Balance:
    """Find gains for two stereo float WAVs of one length: the vocal so many LU louder, nothing clipped."""
    with ThreadPoolExecutor(2) as pool:
        vocal_lufs, accompaniment_lufs = pool.map(loudness_lufs, (vocal, accompaniment))
    gain_db = 0.0
    if vocal_lufs is not None and accompaniment_lufs is not None:
        gain_db = round(min(MAX_GAIN_DB, vocal_lufs - accompaniment_lufs - balance_db), 6)
    peak, gain = 0.0, np.float32(10.0 ** (gain_db / 20.0))
    for sung, played in zip(read_blocks(vocal), read_blocks(accompaniment), strict=True):
        peak = max(peak, float(np.abs(sung + gain * played).max(initial=0.0)))
    return Balance(gain_db, min(0.0, MAX_PEAK_DBFS - level_db(peak)), vocal_lufs, accompaniment_lufs)


def loudness_lufs(path: Path) -> float | None:
    """Measure integrated loudness (ITU-R BS.1770) to a tenth of an LU; None for silence or below 0.4 s."""
    done = run_ffmpeg([
        "-loglevel", "info", "-nostats", "-protocol_whitelist", "file", *_input(path),
        "-map", "0:a:0", "-af", "ebur128=framelog=quiet", "-f", "null", "-",
    ])  # fmt: skip
    report = done.stderr.decode(errors="replace")
    found = re.findall(r"Summary:\s+Integrated loudness:\s+I:\s+(\S+) LUFS", report)
    if done.returncode or not found:
        reason = report.strip().rpartition("\n")[2]
        raise InputError(f"{path}: ffmpeg could not measure its loudness ({reason})")
    return float(found[-1]) if float(found[-1]) > SILENCE_LUFS else None


def level_db(peak: float) -> float:
    """Turn an amplitude into dB; -inf for 0."""
    return 20.0 * math.log10(peak) if peak > 0.0 else -math.inf


def write_stream(path: Path, blocks: Iterable[Audio], sample_rate: int = SAMPLE_RATE) -> float:
    """Write successive (C, n) float32 as one float WAV, whole or not at all; it may pass full scale.

    The same samples give the same bytes, which libsndfile does not promise. Gives the peak of all channels, 1
    is full scale; NaN where a sample is NaN.
    """
    samples, channels, peak = 0, CHANNELS, 0.0

    def header() -> bytes:
        frame, size = 4 * channels, 4 * channels * samples
        form = struct.pack("<HHIIHH", 3, channels, sample_rate, frame * sample_rate, frame, 32)
        return struct.pack("<4sI4s4sI16s4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, form, b"data", size)

    with ExitStack() as undo:
        undo.callback(path.unlink, missing_ok=True)
        with explain_no_space(path), path.open("wb") as file:
            file.write(header())
            for block in blocks:
                file.write(block.T.astype("<f4", order="C").data)
                samples, channels = samples + block.shape[1], len(block)
                peak = float(np.maximum(peak, np.abs(block).max(initial=0.0)))
            file.seek(0)
            file.write(header())
        undo.pop_all()
    return peak


def write_limited(path: Path, blocks: Iterable[Audio]) -> float:
    """Write what a model wrote, successive (2, n) float32, as a float WAV within full scale.

    Where it overshoots, ffmpeg's look-ahead limiter turns it down, from 5 ms before to 50 ms after; elsewhere
    the samples are as they come. Gives by how many dB its peak overshot; 0 where it did not.
    """
    raw = path.with_name(f"raw-{path.name}")
    try:
        peak = write_stream(raw, blocks)
        if not math.isfinite(peak):
            remedy = "take another model, or sampling.precision = 'fp32'"
            raise OperatorError(f"the accompaniment holds NaN or infinite samples; {remedy}")
        if peak > 1.0:
            _run(path, "wav", [*_input(raw), "-af", "alimiter=level=0:latency=1", "-c:a", "pcm_f32le"])
        else:
            raw.replace(path)
    finally:
        raw.unlink(missing_ok=True)
    return max(0.0, level_db(peak))


def write_accompaniment(path: Path, source: Path) -> None:
    """Write a float WAV within full scale as 24-bit WAV or FLAC, by its suffix; whole or not at all."""
    _encode(path, _input(source))


def write_mix(path: Path, vocal: Path, accompaniment: Path, balance: Balance) -> None:
    """Write the sum of two float WAVs of one length at these gains; as for `write_accompaniment`."""
    gains_db = (balance.mix_gain_db, balance.mix_gain_db + balance.accompaniment_gain_db)
    sung, played = (f"volume={10.0 ** (gain_db / 20.0):.9g}" for gain_db in gains_db)
    together = f"[0:a]{sung}[vocal];[1:a]{played}[band];[vocal][band]amix=inputs=2:normalize=0"
    _encode(path, [*_input(vocal), *_input(accompaniment), "-filter_complex", together])


def require_writable(path: Path) -> None:
    """Find out before the long work that `path` can be written; its folder is made where it is not there."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: no regular file; name one, such as accompaniment.wav")
    _encoder(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix="_" * LONGEST_ADDITION):
            pass
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise OperatorError(f"{path}: cannot be written ({reason}); choose another place or name") from error


def explain_no_space(path: Path) -> AbstractContextManager[None]:
    """Turn a full disk where `path` is to be into an OperatorError with the remedy."""
    remedy = "nothing half-written was left. Free some space, or write to another disk, and run it again"
    return explain_full_disk(path, remedy)


def _encoder(path: Path) -> str:
    if path.suffix.lower() not in ENCODERS:
        raise InputError(f"{path}: the suffix says neither .wav nor .flac; give it one of the two")
    return ENCODERS[path.suffix.lower()]


def _encode(path: Path, arguments: list[str]) -> None:
    options = ["-flags:a", "+bitexact", "-c:a", _encoder(path), "-sample_fmt", "s32"]
    _run(path, path.suffix.lower().removeprefix("."), [*arguments, *options])


def _run(path: Path, container: str, arguments: list[str]) -> None:
    """Have ffmpeg write `path`, whole or not at all; the same samples give the same bytes."""
    with explain_no_space(path), replacing(path) as temporary:
        bare = ["-map_metadata", "-1", "-fflags", "+bitexact", "-f", container, "-y"]
        done = run_ffmpeg([*arguments, *bare, f"file:{temporary.resolve()}"])
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().partition("\n")[0][:300]
            raise OperatorError(f"{path}: ffmpeg could not write it ({reason}); choose another place for it")


def _input(path: Path) -> list[str]:
    return ["-i", f"file:{path.resolve()}"]
