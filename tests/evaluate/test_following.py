from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import mir_eval
import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, wilcoxon

from samuel.audio import SAMPLE_RATE, Audio
from samuel.codecs import load_codec
from samuel.codecs.base import Codec
from samuel.config import CodecConfig
from samuel.evaluate.features import Features, features
from samuel.evaluate.following import FOLLOWING, beat_f1_to_reference, follow
from samuel.synthetic.song import compose

SILENCE = features(np.zeros((2, 20 * SAMPLE_RATE), dtype=np.float32))
BEATS_S = np.arange(0.5, 20.0, 0.5)


def drawn(seed: int, frames: int = 800, **changes: Any) -> Features:
    """Features of no audio: what `follow` makes of them can be computed by hand."""
    rng = np.random.default_rng(seed)
    whole = Features(
        chroma=rng.random((12, frames // 4)).astype(np.float32),
        level_db=np.full(frames, -20.0, dtype=np.float32),
        onsets=rng.random(frames).astype(np.float32),
        beats_s=BEATS_S,
        key="C major",
        duration_s=20.0,
    )
    return replace(whole, **changes)


def pearson(first: Any, second: Any) -> float:
    correlation, _ = np.asarray(pearsonr(first, second))
    return float(correlation)


def with_beats(beats_s: np.ndarray) -> Features:
    return drawn(0, beats_s=np.asarray(beats_s))


def with_levels(seed: int) -> Features:
    """Somebody sings in the second half and, 39 dB below, in the first quarter."""
    level_db = np.repeat([-49.0, -51.0, -10.0, -10.0], 200).astype(np.float32)
    return drawn(seed, level_db=level_db)


def test_chroma_likeness_is_pearsons_correlation_where_somebody_sings() -> None:
    vocal, accompaniment = with_levels(1), drawn(2)
    sung = [*range(50), *range(100, 200)]
    expected = [pearson(vocal.chroma[:, g], accompaniment.chroma[:, g]) for g in sung]
    assert follow(vocal, accompaniment)["chroma_likeness"] == pytest.approx(np.mean(expected), abs=1e-5)


def test_onset_correlation_is_pearsons_of_three_frames_where_somebody_sings() -> None:
    vocal, accompaniment = with_levels(1), drawn(2)
    # Elsewhere they go against each other.
    likeness = np.where(vocal.level_db > -50.0, 1.0, -1.0).astype(np.float32)
    accompaniment = replace(accompaniment, onsets=accompaniment.onsets + likeness * vocal.onsets)
    sung = [*range(1, 200), *range(400, 799)]
    first, second = ([np.mean(side.onsets[f - 1 : f + 2]) for f in sung] for side in (vocal, accompaniment))
    # The two frames at the ends, whose neighbours are missing, are left out here.
    expected = pearson(first, second)
    assert follow(vocal, accompaniment)["onset_correlation"] == pytest.approx(expected, abs=5e-3)


def test_an_audio_follows_itself_and_its_likeness_has_no_sides() -> None:
    assert follow(drawn(1), drawn(1)) == pytest.approx(dict.fromkeys(FOLLOWING, 1.0))
    there, back = follow(drawn(1), drawn(2)), follow(drawn(2), drawn(1))
    assert list(there) == list(FOLLOWING)
    assert there == pytest.approx(back)


@pytest.mark.parametrize(
    ("beats_s", "expected"),
    [
        (BEATS_S + 0.069, 1.0),
        (BEATS_S + 0.071, 0.0),
        (BEATS_S[::2], 2 * (1.0 * 20 / 39) / (1.0 + 20 / 39)),
        (BEATS_S[:1], 2 / 40),
        (np.concatenate([BEATS_S[:20], BEATS_S[20:] + 0.25]), 20 / 39),
        (np.array([]), 0.0),
    ],
)
def test_beat_f1_of_grids(beats_s: np.ndarray, expected: float) -> None:
    for score in (lambda *pair: follow(*pair)["beat_f1"], beat_f1_to_reference):
        assert score(with_beats(BEATS_S), with_beats(beats_s)) == pytest.approx(expected)


def test_beat_f1_is_mir_evals() -> None:
    rng = np.random.default_rng(4)
    beats_s = np.sort(rng.uniform(0.0, 20.0, 35))
    expected = mir_eval.beat.f_measure(BEATS_S, beats_s)
    assert 0.1 < expected < 0.9
    assert follow(with_beats(BEATS_S), with_beats(beats_s))["beat_f1"] == expected


@pytest.mark.parametrize(
    ("vocal", "accompaniment", "expected"),
    [
        ("C major", "C major", 1.0),
        ("C major", "G major", 0.5),
        ("G major", "C major", 0.0),
        ("C major", "A minor", 0.3),
        ("C# minor", "Db major", 0.2),
        ("C major", "F# major", 0.0),
        ("C major", None, 0.0),
    ],
)
def test_key_agreement_is_seen_from_the_vocal(vocal: str, accompaniment: str | None, expected: float) -> None:
    vocal = vocal.replace("C#", "Db")
    assert follow(drawn(0, key=vocal), drawn(0, key=accompaniment))["key_agreement"] == expected


def test_a_silent_accompaniment_follows_nothing() -> None:
    late = drawn(1, level_db=np.repeat(np.array([-99.0, -20.0], dtype=np.float32), 400))
    for silent in (SILENCE, features(np.zeros((2, 0), dtype=np.float32)), features(np.ones((2, 441), "f4"))):
        assert follow(drawn(1), silent) == dict.fromkeys(FOLLOWING, 0.0)
        assert follow(late, silent) == dict.fromkeys(FOLLOWING, 0.0)


def test_a_silent_vocal_cannot_be_followed() -> None:
    for accompaniment in (drawn(1), SILENCE):
        assert all(np.isnan(score) for score in follow(SILENCE, accompaniment).values())
    assert np.isnan(beat_f1_to_reference(SILENCE, drawn(1)))
    assert beat_f1_to_reference(drawn(1), SILENCE) == 0.0


@pytest.mark.parametrize(
    ("score", "nothing"),
    [
        ("beat_f1", {"beats_s": np.array([])}),
        ("onset_correlation", {"onsets": np.full(800, 0.5, dtype=np.float32)}),
        ("key_agreement", {"key": None}),
    ],
)
def test_one_thing_that_is_absent_leaves_the_other_scores(score: str, nothing: dict[str, Any]) -> None:
    expected = follow(drawn(1), drawn(2))
    for name, value in follow(drawn(1, **nothing), drawn(2)).items():
        assert np.isnan(value) if name == score else value == expected[name]
    for name, value in follow(drawn(1), drawn(2, **nothing)).items():
        assert value == (0.0 if name == score else expected[name])


def test_what_comes_after_the_shorter_of_the_two_does_not_count() -> None:
    whole, other = drawn(1), drawn(2)
    short = drawn(
        2, chroma=other.chroma[:, :100], level_db=other.level_db[:399], onsets=other.onsets[:399],
        beats_s=BEATS_S[BEATS_S < 9.0] + 0.05, duration_s=9.25,
    )  # fmt: skip
    stray = replace(
        whole,
        chroma=np.concatenate([whole.chroma[:, :100], 1.0 - whole.chroma[:, 100:]], axis=1),
        onsets=np.concatenate([whole.onsets[:399], 9.0 * whole.onsets[399:]]),
        beats_s=np.concatenate([BEATS_S[BEATS_S < 9.25], [10.1, 12.3]]),
    )
    for first, second in ((whole, short), (short, whole)):
        scores = follow(first, second)
        assert all(np.isfinite(score) for score in scores.values())
        assert scores == pytest.approx(
            follow(stray if first is whole else short, stray if second is whole else short)
        )
    assert follow(whole, short)["beat_f1"] == pytest.approx(2 * 17 / (18 + 17))


def test_the_key_is_that_of_the_common_part() -> None:
    c_major, f_sharp_major = np.zeros((12, 1)), np.zeros((12, 1))
    c_major[[0, 4, 7, 5, 9, 2, 11], 0] = 1.0, 0.7, 0.8, 0.3, 0.3, 0.3, 0.3
    f_sharp_major[:, 0] = np.roll(c_major[:, 0], 6)
    both = np.concatenate([np.repeat(c_major, 50, axis=1), np.repeat(f_sharp_major, 150, axis=1)], axis=1)
    vocal = drawn(0, chroma=both.astype(np.float32), key="F# major")
    short = drawn(0, frames=200, key="C major", duration_s=4.6)
    short = replace(short, chroma=vocal.chroma[:, :50])
    assert follow(vocal, short)["key_agreement"] == 1.0


@pytest.mark.parametrize("samples", [1, 441, SAMPLE_RATE])
def test_a_snippet_can_be_scored(samples: int) -> None:
    noise = 0.1 * np.random.default_rng(0).normal(size=(2, 20 * SAMPLE_RATE)).astype(np.float32)
    vocal, accompaniment = features(noise[:, :samples]), features(noise)
    for scores in (follow(vocal, accompaniment), follow(accompaniment, vocal)):
        assert all(np.isnan(score) or -1.0 <= score <= 1.0 + 1e-6 for score in scores.values())


def matrices(vocals: list[Features], accompaniments: list[Features]) -> dict[str, np.ndarray]:
    """(vocal, accompaniment) of each score."""
    rows = [[follow(vocal, accompaniment) for accompaniment in accompaniments] for vocal in vocals]
    return {name: np.array([[scores[name] for scores in row] for row in rows]) for name in FOLLOWING}


def own_and_others(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    own = np.diag(matrix)
    return own, (matrix.sum(axis=0) - own) / (len(matrix) - 1)


def excerpts(count: int, start_s: float, seconds: float) -> Iterator[tuple[Audio, Audio]]:
    part = slice(round(start_s * SAMPLE_RATE), round((start_s + seconds) * SAMPLE_RATE))
    for index in range(count):
        song = compose(0, index)
        yield song.vocals[:, part], song.accompaniment[:, part]


def noise_like(audio: Audio, seed: int) -> Audio:
    return 0.1 * np.random.default_rng(seed).normal(size=audio.shape).astype(np.float32)


def test_a_true_accompaniment_is_above_anothers_noise_and_silence() -> None:
    stems = list(excerpts(8, start_s=25.0, seconds=20.0))
    vocals, true = ([features(audio) for audio in side] for side in zip(*stems, strict=True))
    noise = [features(noise_like(vocal, seed)) for seed, (vocal, _) in enumerate(stems)]
    real, random = matrices(vocals, true), matrices(vocals, noise)
    for name in FOLLOWING:
        own, others = own_and_others(real[name])
        assert own.mean() > others.mean() + 0.1
        assert own.mean() > np.diag(random[name]).mean() + 0.1
        assert own.mean() > np.mean([follow(vocal, SILENCE)[name] for vocal in vocals]) + 0.1
    assert np.abs(random["chroma_likeness"]).mean() < 0.05  # a plain cosine would give 0.57


def as_it_is(audio: Audio) -> Audio:
    return audio


@cache
def mel_codec() -> Codec:
    return load_codec(CodecConfig(), torch.device("cpu"))


def through_the_codec(audio: Audio) -> Audio:
    codec = mel_codec()
    return codec.decode(codec.encode(torch.from_numpy(audio)[None]))[0, :, : audio.shape[1]].numpy()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("heard", [as_it_is, through_the_codec])
def test_real_pairs_are_above_shuffled_ones(heard: Callable[[Audio], Audio]) -> None:
    vocals, true = [], []
    for vocal, accompaniment in excerpts(40, start_s=30.0, seconds=47.55):
        vocals.append(features(heard(np.ascontiguousarray(vocal))))
        true.append(features(heard(np.ascontiguousarray(accompaniment))))
    for name, matrix in matrices(vocals, true).items():
        own, others = own_and_others(matrix)
        _, p = np.asarray(wilcoxon(own - others, alternative="greater"))
        assert p < (0.05 if name == "key_agreement" else 0.001), f"{name}: p = {p}"
