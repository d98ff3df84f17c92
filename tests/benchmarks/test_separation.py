import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.separation import CHUNK_S, TRUE_STEMS, compare, separation_rows, sung_share
from samuel.audio import SAMPLE_RATE, Audio, si_sdr_db
from samuel.config import SeparatorConfig
from samuel.synthetic.song import SyntheticSong

TIME_S = np.arange(SAMPLE_RATE) / SAMPLE_RATE
# Over whole periods, tones of different frequencies are orthogonal.
TONE, OTHER = (
    np.tile(np.sin(2 * np.pi * f_hz * TIME_S), (2, 1)).astype(np.float32) for f_hz in (220.0, 300.0)
)
SUNG = ((4.0, 12.0), (20.0, 40.0), (47.0, 48.0))


def made_up(seed: int = 0) -> SyntheticSong:
    """Two bars that return for 48 s, and a gliding tone in the stretches `SUNG`."""
    rng = np.random.default_rng(seed)
    samples = 48 * SAMPLE_RATE
    bars = 0.2 * rng.normal(size=(2, 2 * SAMPLE_RATE)) * np.exp(-(np.arange(2 * SAMPLE_RATE) % 22_050) / 3000)
    time_s = np.arange(samples) / SAMPLE_RATE
    voice = 0.2 * np.sin(2 * np.pi * 400 * time_s + 60 * np.sin(2 * np.pi * 0.37 * time_s))
    gate = sum((time_s >= start_s) & (time_s < end_s) for start_s, end_s in SUNG)
    vocals: Audio = np.tile(voice * gate, (2, 1)).astype(np.float32)
    accompaniment: Audio = np.tile(bars, (1, 24)).astype(np.float32)
    return SyntheticSong("made up", vocals, accompaniment, 120.0, "A minor", SUNG)


@pytest.mark.parametrize("gain", [1.0, 0.01, -3.0])
@pytest.mark.parametrize(("level", "expected_db"), [(0.1, 20.0), (1.0, 0.0), (10.0, -20.0)])
def test_si_sdr_is_the_ratio_to_what_is_orthogonal_at_any_scale(
    gain: float, level: float, expected_db: float
) -> None:
    estimate: Audio = (gain * (TONE + level * OTHER)).astype(np.float32)
    assert si_sdr_db(estimate, TONE) == pytest.approx(expected_db, abs=1e-3)


def test_si_sdr_does_not_mend_the_balance_of_the_channels() -> None:
    # (s, 0) is (s, s)/2, which is the reference, and (s, -s)/2, which is as strong.
    one_side: Audio = (TONE * np.array([[1.0], [0.0]])).astype(np.float32)
    assert si_sdr_db(one_side, TONE) == pytest.approx(0.0, abs=1e-9)


def test_the_share_of_a_window_that_is_sung() -> None:
    instants_s = np.arange(0.0, 60.0, 0.001) + 0.0005
    sung = np.any([(instants_s >= start) & (instants_s < end) for start, end in SUNG], axis=0)
    for start_s, duration_s in ((0.0, 48.0), (5.0, 2.0), (12.0, 8.0), (30.0, 20.0)):
        inside = (instants_s >= start_s) & (instants_s < start_s + duration_s)
        assert sung_share(SUNG, start_s, duration_s) == pytest.approx(sung[inside].mean(), abs=1e-9)


def test_a_known_leak_is_measured_on_both_stems() -> None:
    song = made_up()
    assert compare(song, song.vocals).shares == pytest.approx(
        compare(song, song.vocals).true_shares, abs=0.01
    )
    # Of the accompaniment a tenth is taken for voice: it stands 20 dB lower in the vocals, where the two are
    # nearly orthogonal, and the rest of the accompaniment is but scaled.
    leak: Audio = (0.1 * song.accompaniment).astype(np.float32)
    found = compare(song, song.vocals + leak)
    ratio_db = 10 * math.log10(np.square(song.vocals).sum() / np.square(song.accompaniment).sum())
    assert found.vocals_db == pytest.approx(ratio_db + 20, abs=0.1)
    assert found.vocals_gain_db == pytest.approx(20, abs=0.1)
    assert found.accompaniment_db > 100
    nothing = compare(song, song.mix)
    assert nothing.vocals_gain_db == 0.0
    assert nothing.accompaniment_db == -math.inf
    assert found.true_shares == pytest.approx(((8 + 20 + CHUNK_S - 47) / CHUNK_S,))


def test_a_row_for_each_separator_and_for_the_truth(tmp_path: Path) -> None:
    absent = SeparatorConfig(name="demucs", repo=tmp_path / "absent")
    truth, repet, demucs = separation_rows(1, [SeparatorConfig(), absent], torch.device("cpu"))
    assert [row.separator for row in (truth, repet, demucs)] == [TRUE_STEMS, "repet", "demucs htdemucs"]
    assert (len(truth.songs), len(repet.songs), len(demucs.songs)) == (1, 1, 0)
    assert truth.row()["vocals, dB"] == truth.row()["accompaniment, dB"] == "exact"
    assert 0.0 < truth.share_error < 0.08
    assert min(repet.songs[0].vocals_gain_db, repet.songs[0].accompaniment_gain_db) > 5
    assert repet.songs[0].true_shares == truth.songs[0].true_shares
    assert demucs.row()["note"].startswith("not measured: ")
    assert "absent" in demucs.row()["note"]
    assert demucs.row()["vocals, dB"] == "–"
