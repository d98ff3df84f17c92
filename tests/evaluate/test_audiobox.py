"""Scores against those of the package's own predictor, on random weights in its own layout."""

import math
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from samuel.audio import SAMPLE_RATE, write_wav
from samuel.errors import InputError
from samuel.evaluate.audiobox import AXES, load_audiobox, score
from samuel.hub import quietly
from tests.evaluate.small_audiobox import small_audiobox


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with small_audiobox(tmp_path_factory.mktemp("audiobox")) as (path, _):
        yield load_audiobox(path)


def tone(seconds: float, pitch: float) -> Any:
    wave = 0.3 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)
    return np.stack([wave, wave]).astype(np.float32)


def music(samples: int, seed: int) -> Any:
    """(2, S): noise whose colour and level change, so that no window is like another."""
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((2, samples)).cumsum(axis=1)
    return (0.2 * np.sin(noise * np.linspace(0.01, 2.0, samples))).astype(np.float32)


class Watched:
    """The package's predictor, and what it is given."""

    def __init__(self, predictor: Any) -> None:
        self.predictor, self.device = predictor, predictor.device
        self.pieces: list[int] = []
        self.batches: list[list[Any]] = []

    def audio_resample_mono(self, data_list: list[dict[str, Any]]) -> Any:
        self.pieces += [item["path"].shape[1] for item in data_list]
        return self.predictor.audio_resample_mono(data_list)

    def forward(self, batch: list[dict[str, Any]]) -> Any:
        self.batches.append([item["path"] for item in batch])
        return self.predictor.forward(batch)


def by_the_package(predictor: Any, track: Any) -> dict[str, float]:
    """The whole track in one call of the package's own predictor."""
    with quietly():
        return predictor.forward([{"path": torch.from_numpy(track), "sample_rate": SAMPLE_RATE}])[0]


LENGTHS = {
    "1 s": SAMPLE_RATE, "10 s": 10 * SAMPLE_RATE, "one sample more": 10 * SAMPLE_RATE + 1,
    "a little more": 10 * SAMPLE_RATE + 441, "25 s": 25 * SAMPLE_RATE + 7, "one sample": 1,
}  # fmt: skip


@pytest.mark.parametrize("at_a_time", [1, 3, 64])
def test_scores_are_those_of_the_package(predictor: Any, at_a_time: int) -> None:
    tracks = [music(samples, seed) for seed, samples in enumerate(LENGTHS.values())]
    tracks.append(np.stack([tracks[4][0]] * 2))  # mono
    rows = list(score(predictor, tracks, at_a_time))
    expected = [by_the_package(predictor, track) for track in tracks]
    assert [set(row) for row in rows] == [set(AXES)] * len(tracks)
    for row, wanted in zip(rows, expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-5)  # they differ by 1e-2


def test_windows_are_those_that_the_package_cuts(predictor: Any) -> None:
    from audiobox_aesthetics.infer import make_inference_batch

    for seed, samples in enumerate(LENGTHS.values()):
        track, watched = music(samples, seed), Watched(predictor)
        list(score(watched, [track], 1))
        heard = [window for batch in watched.batches for window in batch]
        whole = predictor.audio_resample_mono([{"path": torch.from_numpy(track), "sample_rate": SAMPLE_RATE}])
        padded, masks, weights, _ = make_inference_batch(whole)
        assert len(heard) == len(padded)
        for window, wave, mask, weight in zip(heard, padded, masks, weights, strict=True):
            assert window.shape[1] == int(mask.sum()) == round(weight * 160_000)
            assert torch.allclose(window, wave[:, : window.shape[1]], atol=1e-6)


def test_a_short_window_counts_by_its_length(predictor: Any) -> None:
    track = np.concatenate([tone(10.0, 220.0), music(3 * SAMPLE_RATE, 0)], axis=1)
    [whole] = score(predictor, [track])
    first, rest = score(predictor, [track[:, : 10 * SAMPLE_RATE], track[:, 10 * SAMPLE_RATE :]])
    assert first["PQ"] != pytest.approx(rest["PQ"], abs=1e-3)
    for axis in AXES:
        assert whole[axis] == pytest.approx((10 * first[axis] + 3 * rest[axis]) / 13, abs=1e-4)


def test_what_cannot_be_scored_leaves_the_others_alone(predictor: Any) -> None:
    good, broken = music(12 * SAMPLE_RATE, 1), music(SAMPLE_RATE, 2)
    broken[0, 100] = np.nan
    nothing = np.zeros((2, 0), np.float32)
    silence = np.zeros((2, SAMPLE_RATE), np.float32)
    rows = list(score(predictor, [nothing, good, broken, nothing, silence], 4))
    for row in (rows[0], rows[2], rows[3]):
        assert set(row) == set(AXES)
        assert all(math.isnan(value) for value in row.values())
    assert rows[1] == pytest.approx(by_the_package(predictor, good), abs=1e-5)
    assert rows[4] == pytest.approx(by_the_package(predictor, silence), abs=1e-5)
    assert list(score(predictor, [nothing])) == [pytest.approx(dict.fromkeys(AXES, math.nan), nan_ok=True)]
    assert list(score(predictor, [])) == []


def test_a_file_is_scored_as_its_samples(predictor: Any, tmp_path: Path) -> None:
    track = music(21 * SAMPLE_RATE, 1)
    write_wav(tmp_path / "whole.wav", track)
    assert list(score(predictor, [tmp_path / "whole.wav"])) == list(score(predictor, [track]))


def test_a_file_of_another_form_is_named(predictor: Any, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "mono.wav", np.zeros(100), SAMPLE_RATE)
    with pytest.raises(InputError, match=r"mono\.wav: 44100 Hz, 1 channels"):
        list(score(predictor, [tmp_path / "mono.wav"]))
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(InputError, match=r"text\.wav: not readable as audio"):
        list(score(predictor, [tmp_path / "text.wav"]))


def test_a_batch_does_not_grow_with_a_track(predictor: Any, tmp_path: Path) -> None:
    watched = Watched(predictor)
    write_wav(tmp_path / "long.wav", music(115 * SAMPLE_RATE, 0))
    list(score(watched, [tmp_path / "long.wav", music(3 * SAMPLE_RATE, 1)], 5))
    assert [len(batch) for batch in watched.batches] == [
        5,
        5,
        3,
    ]  # 12 windows and 1: those of both tracks share the last
    assert max(watched.pieces) <= 10.5 * SAMPLE_RATE


def test_a_track_is_taken_in_its_turn_and_let_go(predictor: Any) -> None:
    events: list[str] = []
    gone: list[Any] = []

    def tracks() -> Iterator[Any]:
        for number in range(4):
            events.append(f"take {number}, {sum(reference() is not None for reference in gone)} held")
            track = music(SAMPLE_RATE, number)
            gone.append(weakref.ref(track))
            yield track
            del track

    for number, _ in enumerate(score(predictor, tracks(), 2)):
        events.append(f"score {number}")
    assert events == [
        "take 0, 0 held", "take 1, 0 held", "score 0", "score 1",
        "take 2, 0 held", "take 3, 0 held", "score 2", "score 3",
    ]  # fmt: skip


def test_axes_keep_their_names(predictor: Any) -> None:
    # The scale of each axis sets its mean apart: CE 5, CU 6, PC 7, PQ 8.
    (row,) = score(predictor, [tone(2.0, 440.0)])
    assert {axis: round(value) for axis, value in row.items()} == {"CE": 5, "CU": 6, "PC": 7, "PQ": 8}
