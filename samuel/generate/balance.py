"""How loud the vocal stands before its accompaniment.

Loudness is that of ITU-R BS.1770, as ffmpeg's `ebur128` filter measures it, to a tenth of an LU.
"""

import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samuel.audio import read_blocks, run_ffmpeg
from samuel.errors import InputError, SettingsError

BALANCE_DB = 1.0
"""So much above the accompaniment lead vocals of popular music have been since 1975 (Gerdes and Siedenburg,
"Lead-vocal level in recordings of popular music 1946-2020", JASA Express Letters 3, 043201, 2023)."""
MOST_GAIN_DB = 24.0
"""Takes and masters differ by less; with more, an accompaniment of next to nothing would become a roar."""
HIGHEST_PEAK_DBFS = -1.0
"""Of the samples, which alone can clip in a file; the decibel is left to the wave between them. To measure
true peaks would double the time of a mix."""
SILENCE_LUFS = -70.0
"""What nothing above the absolute gate of BS.1770 is given as."""


@dataclass(frozen=True)
class Balance:
    """Gains of a mix: (vocal + accompaniment · accompaniment gain) · mix gain.

    Attributes:
        accompaniment_gain_db: At most 24; 0 where one of the two is silent.
        mix_gain_db: At most 0: what keeps the peak of the mix at or below -1 dBFS.
        vocal_lufs: Integrated loudness; None where it is silent or shorter than 0.4 s.
        accompaniment_lufs: The same, before any gain.
    """

    accompaniment_gain_db: float
    mix_gain_db: float
    vocal_lufs: float | None
    accompaniment_lufs: float | None


def balance_of(vocal: Path, accompaniment: Path, balance_db: float = BALANCE_DB) -> Balance:
    """The gains with which the vocal is `balance_db` louder than the accompaniment, and nothing clips.

    Args:
        vocal: 44.1 kHz stereo float WAV.
        accompaniment: The same, as long.
        balance_db: Loudness of the vocal less that of the accompaniment, in LU.

    Raises:
        SettingsError: `balance_db` is no number.
        InputError: The two are not of one length.
    """
    if not math.isfinite(balance_db):
        raise SettingsError(f"balance_db = {balance_db}: give a number of decibels, such as {BALANCE_DB:g}")
    with ThreadPoolExecutor(2) as pool:
        vocal_lufs, accompaniment_lufs = pool.map(loudness_lufs, (vocal, accompaniment))
    gain_db = 0.0
    if vocal_lufs is not None and accompaniment_lufs is not None:
        gain_db = round(min(MOST_GAIN_DB, vocal_lufs - accompaniment_lufs - balance_db), 6)
    peak_dbfs = level_db(_peak_of_sum(vocal, accompaniment, amplitude(gain_db)))
    return Balance(gain_db, min(0.0, HIGHEST_PEAK_DBFS - peak_dbfs), vocal_lufs, accompaniment_lufs)


def loudness_lufs(path: Path) -> float | None:
    """Integrated loudness of a file (ITU-R BS.1770) in LUFS; None for silence, and for less than 0.4 s.

    Raises:
        InputError: ffmpeg cannot read it.
    """
    done = run_ffmpeg([
        "-loglevel", "info", "-nostats", "-protocol_whitelist", "file", "-i", f"file:{path.resolve()}",
        "-map", "0:a:0", "-af", "ebur128=framelog=quiet", "-f", "null", "-",
    ])  # fmt: skip
    said = done.stderr.decode(errors="replace")
    found = re.findall(r"Summary:\s+Integrated loudness:\s+I:\s+(\S+) LUFS", said)
    if done.returncode or not found:
        reason = said.strip().rpartition("\n")[2]
        raise InputError(f"{path}: ffmpeg could not measure its loudness ({reason})")
    loudness = float(found[-1])
    return loudness if loudness > SILENCE_LUFS else None


def amplitude(gain_db: float) -> float:
    """The factor that a gain is."""
    return 10.0 ** (gain_db / 20.0)


def level_db(peak: float) -> float:
    """An amplitude in dB; -inf for 0."""
    return 20.0 * math.log10(peak) if peak > 0.0 else -math.inf


def _peak_of_sum(vocal: Path, accompaniment: Path, gain: float) -> float:
    peak = 0.0
    try:
        for sung, played in zip(read_blocks(vocal), read_blocks(accompaniment), strict=True):
            peak = max(peak, float(np.abs(sung + np.float32(gain) * played).max(initial=0.0)))
    except ValueError as error:
        raise InputError(f"{vocal} and {accompaniment} are not of one length; give two that are") from error
    return peak
