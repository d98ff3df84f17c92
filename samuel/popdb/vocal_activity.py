"""Detection of singing on separated stems.

The paper assumes that at least half of each chunk contains vocals (§III) and does not measure it; we do. A
fixed gate takes a separator's bleed for singing, so the threshold follows the song's own level.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_opening

from samuel.audio import SAMPLE_RATE, SILENCE_DBFS, Audio

HOP, HOP_S = SAMPLE_RATE // 20, 0.05  # samples between frames; a frame is two hops long
START_DB, STAY_DB = -25.0, -35.0  # vocal level relative to the song's, at which singing starts and goes on
BLEED_DB = -20.0  # vocal level relative to the mix of the same frame, below which it is bleed
GAP_FRAMES = 6  # shorter pauses (under 0.3 s) are filled
RUN_FRAMES = 4  # shorter activity (under 0.2 s) is dropped

Flags = NDArray[np.bool_]


def vocal_activity(vocals: Audio, mix: Audio) -> Flags:
    """Flags for frames of 100 ms every 50 ms: True where somebody sings.

    (2, S) vocal stem and (2, S) song → (F,), F = ceil(S / 2205); frame i is centred at (i + 1) · 50 ms.
    """
    vocal_db, mix_db = _levels_db(vocals), _levels_db(mix)
    audible = mix_db > SILENCE_DBFS
    if not audible.any():
        return np.zeros(len(mix_db), dtype=np.bool_)
    song_db = 10.0 * np.log10(np.mean(10.0 ** (mix_db[audible] / 10.0)))
    present = vocal_db - mix_db > BLEED_DB
    starts = present & (vocal_db > max(song_db + START_DB, SILENCE_DBFS))
    stays = present & (vocal_db > max(song_db + STAY_DB, SILENCE_DBFS))
    # On from a start until the first frame that does not stay.
    index = np.arange(len(starts))
    last_start = np.maximum.accumulate(np.where(starts, index, -1))
    active = last_start > np.maximum.accumulate(np.where(stays, -1, index))
    silent = np.pad(~active, GAP_FRAMES, constant_values=True)  # what is before and after is no gap
    filled = ~np.asarray(binary_opening(silent, np.ones(GAP_FRAMES)), np.bool_)[GAP_FRAMES:-GAP_FRAMES]
    return np.asarray(binary_opening(filled, np.ones(RUN_FRAMES)), np.bool_)


def vocal_share(active: Flags, start_s: float, duration_s: float) -> float:
    """Share of the frames centred in [start_s, start_s + duration_s) that are active; 0 without frames."""
    centres_s = (np.arange(len(active)) + 1) * HOP_S
    inside = active[(centres_s >= start_s) & (centres_s < start_s + duration_s)]
    return float(inside.mean()) if inside.size else 0.0


def _levels_db(audio: Audio) -> NDArray[np.float64]:
    """(2, S) → (ceil(S / hop),) mean power of each frame in dB, -120 for silence."""
    hops = -(-audio.shape[1] // HOP)
    power = np.square(audio, dtype=np.float64).mean(axis=0)
    sums = np.pad(power, (0, (hops + 1) * HOP - len(power))).reshape(-1, HOP).sum(axis=1)
    return 10.0 * np.log10(np.maximum((sums[:-1] + sums[1:]) / (2 * HOP), 1e-12))
