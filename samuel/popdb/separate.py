"""A song → its stems on disk (paper §III-C): the vocals, and everything else."""

from pathlib import Path
from typing import Any

import numpy as np

from samuel.audio import Audio, dbfs, read_wav
from samuel.errors import SongError
from samuel.popdb.separator import Separator
from samuel.popdb.status import Status
from samuel.popdb.stems import write_stems

SILENCE_DBFS = -60.0
"""A song below this level has nothing to separate."""
MOST_PEAK = 16.0
"""Lossy sources overshoot full scale by a half; what is far above it was never scaled to it."""


def separate(separator: Separator, audio_wav: Path, folder: Path) -> dict[str, Any]:
    """Write both stems of a song into `folder`, as `stems` stores them; a maker for `make_entry`.

    Returns:
        stems_scale, vocals_dbfs, accompaniment_dbfs and the peak of the mix.

    Raises:
        SongError: silent, decode_failed where the samples are not scaled to [-1, 1], or not_finite where the
            song or its vocals hold a value that is no number.
    """
    mix = read_wav(audio_wav)
    _require_finite(mix, "the song")
    if (peak := float(np.abs(mix).max(initial=0.0))) > MOST_PEAK:
        raise SongError(Status.DECODE_FAILED, f"samples of up to {peak:g}, where full scale is 1")
    if dbfs(mix) < SILENCE_DBFS:
        raise SongError(Status.SILENT, f"{dbfs(mix):.1f} dBFS, under {SILENCE_DBFS:.0f}")
    vocals = separator.vocals(mix)
    _require_finite(vocals, f"the vocals by {separator.identity}")
    return {
        "stems_scale": write_stems(mix, vocals, folder),
        "vocals_dbfs": round(dbfs(vocals), 4),
        "accompaniment_dbfs": round(dbfs(mix - vocals), 4),
        "peak": round(peak, 4),
    }


def _require_finite(audio: Audio, what: str) -> None:
    if not np.isfinite(audio).all():
        raise SongError(Status.NOT_FINITE, f"{what}: samples that are no numbers")
