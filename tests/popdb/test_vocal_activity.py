"""Vocal activity on signals whose truth is known."""

import numpy as np
import pytest

from samuel.audio import SAMPLE_RATE, Audio
from samuel.popdb.vocal_activity import vocal_activity, vocal_share

SECONDS = 20
RNG = np.random.default_rng(0)
NOISE = RNG.standard_normal((2, SECONDS * SAMPLE_RATE)).astype(np.float32)
BAND: Audio = NOISE[:, ::-1] * np.float32(0.1)


def sung(*stretches: tuple[float, float], level: float = 0.1) -> Audio:
    """Noise at `level` in the given stretches of seconds, silence elsewhere."""
    gate = np.zeros(NOISE.shape[1], dtype=np.float32)
    for start_s, end_s in stretches:
        gate[int(start_s * SAMPLE_RATE) : int(end_s * SAMPLE_RATE)] = level
    return NOISE * gate


def share(vocals: Audio, band: Audio = BAND) -> float:
    return vocal_share(vocal_activity(vocals, vocals + band), 0.0, SECONDS)


@pytest.mark.parametrize("end_s", [0.0, 12.5])
def test_share_is_the_share_of_time(end_s: float) -> None:
    assert share(sung((0.0, end_s))) == pytest.approx(end_s / SECONDS, abs=0.01)


def test_frames_lie_where_the_voice_lies() -> None:
    vocals = sung((4.0, 7.0), (13.0, 14.0))
    active = vocal_activity(vocals, vocals + BAND)
    assert len(active) == SECONDS * 20
    centres_s = (np.arange(len(active)) + 1) * 0.05
    truth = ((centres_s > 4) & (centres_s < 7)) | ((centres_s > 13) & (centres_s < 14))
    assert np.count_nonzero(active != truth) <= 4
    assert vocal_share(active, 4.0, 3.0) > 0.97
    assert vocal_share(active, 8.0, 4.0) == 0.0


def test_bleed_is_not_singing() -> None:
    bleed = 10 ** (-26 / 20) * BAND
    vocals = bleed + sung((0.0, 5.0))
    mix = BAND + sung((0.0, 5.0))
    active = vocal_activity(vocals, mix)
    assert vocal_share(active, 0.0, SECONDS) == pytest.approx(0.25, abs=0.01)
    assert vocal_share(vocal_activity(bleed, BAND), 0.0, SECONDS) == 0.0
