from dataclasses import replace
from typing import Any

import mir_eval
import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, wilcoxon

from samuel.audio import SAMPLE_RATE, Audio
from samuel.codecs import load_codec
from samuel.codecs.base import decode_audio, encode_audio
from samuel.config import CodecConfig
from samuel.evaluate.features import Features, Sound, features, log_mel_db
from samuel.evaluate.scores import (
    REGISTRY,
    beat_f1,
    find_score,
    follow,
    in_order,
    log_mel_distance_db,
    register,
    title_of,
)
from samuel.synthetic.song import compose
from tests.evaluate.songs import band, tune

FOLLOWING = ("chroma_likeness", "beat_f1", "onset_correlation", "key_agreement")
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


def test_beat_f1_of_grids() -> None:
    for beats_s, expected in (
        (BEATS_S + 0.069, 1.0),
        (BEATS_S + 0.071, 0.0),
        (BEATS_S[::2], 2 * (1.0 * 20 / 39) / (1.0 + 20 / 39)),
        (np.concatenate([BEATS_S[:20], BEATS_S[20:] + 0.25]), 20 / 39),
    ):
        assert beat_f1(with_beats(BEATS_S), with_beats(beats_s)) == pytest.approx(expected)
        assert mir_eval.beat.f_measure(BEATS_S, beats_s) == pytest.approx(expected)
    assert beat_f1(with_beats(BEATS_S), with_beats(np.array([]))) == 0.0


def test_key_agreement_is_seen_from_the_vocal() -> None:
    for vocal, accompaniment, expected in (
        ("C major", "C major", 1.0),
        ("C major", "G major", 0.5),
        ("G major", "C major", 0.0),
        ("C major", "A minor", 0.3),
        ("Db minor", "Db major", 0.2),
        ("C major", None, 0.0),
    ):
        found = follow(drawn(0, key=vocal), drawn(0, key=accompaniment))
        assert found["key_agreement"] == expected


def test_silence_follows_nothing_and_cannot_be_followed() -> None:
    late = drawn(1, level_db=np.repeat(np.array([-99.0, -20.0], dtype=np.float32), 400))
    for silent in (SILENCE, features(np.zeros((2, 0), dtype=np.float32)), features(np.ones((2, 441), "f4"))):
        assert follow(drawn(1), silent) == dict.fromkeys(FOLLOWING, 0.0)
        assert follow(late, silent) == dict.fromkeys(FOLLOWING, 0.0)
    for accompaniment in (drawn(1), SILENCE):
        assert all(np.isnan(score) for score in follow(SILENCE, accompaniment).values())


def test_one_thing_that_is_absent_leaves_the_other_scores() -> None:
    expected = follow(drawn(1), drawn(2))
    absent: tuple[tuple[str, dict[str, Any]], ...] = (
        ("beat_f1", {"beats_s": np.array([])}),
        ("onset_correlation", {"onsets": np.full(800, 0.5, dtype=np.float32)}),
        ("key_agreement", {"key": None}),
    )
    for score, nothing in absent:
        for name, value in follow(drawn(1, **nothing), drawn(2)).items():
            assert np.isnan(value) if name == score else value == expected[name]
        for name, value in follow(drawn(1), drawn(2, **nothing)).items():
            assert value == (0.0 if name == score else expected[name])


def test_a_true_accompaniment_is_above_anothers_noise_and_silence() -> None:
    keys = [(57 + 3 * n % 10, 0.42 + 0.055 * n) for n in range(4)]
    vocals = [features(tune(*key, 10.0)) for key in keys]
    true = [features(band(*key, 10.0)) for key in keys]
    rng = np.random.default_rng(0)
    noise = features(0.1 * rng.normal(size=(2, 10 * SAMPLE_RATE)).astype(np.float32))
    for name in FOLLOWING:
        matrix = np.array([[follow(vocal, made)[name] for made in true] for vocal in vocals])
        own = np.diag(matrix)
        others = (matrix.sum(axis=0) - own) / (len(matrix) - 1)
        assert own.mean() > others.mean() + 0.1, name
        for other in (noise, SILENCE):
            assert own.mean() > np.mean([follow(vocal, other)[name] for vocal in vocals]) + 0.1, name
    # A plain cosine would give 0.57.
    assert abs(np.mean([follow(vocal, noise)["chroma_likeness"] for vocal in vocals])) < 0.1


def sound_of(log_mel: np.ndarray) -> Sound:
    return Sound(SILENCE, log_mel, {}, mono=False, remarks=(), latents=None)


def test_log_mel_distance_is_the_gain_in_decibel_over_the_frames_both_have() -> None:
    noise = 0.1 * np.random.default_rng(0).normal(size=(2, 4 * SAMPLE_RATE)).astype(np.float32)
    loud, soft = (sound_of(log_mel_db(audio)) for audio in (noise, noise * np.float32(10 ** (-6 / 20))))
    assert log_mel_distance_db(loud, loud) == 0.0
    assert log_mel_distance_db(loud, soft) == pytest.approx(6.0, abs=0.1)
    one, other = np.full((64, 5), -20.0, np.float32), np.full((64, 9), -23.0, np.float32)
    other[:, 5:] = 100.0
    for pair in ((one, other), (other, one)):
        assert log_mel_distance_db(*map(sound_of, pair)) == pytest.approx(3.0)


def test_scores_have_an_order_and_a_name_each() -> None:
    assert in_order({"new": 0, "PQ": 0, "beat_f1": 0}) == ["beat_f1", "PQ", "new"]
    assert (find_score("new").label, title_of("new")) == ("new", "new")
    with pytest.raises(ValueError, match="'beat_f1' is registered already"):
        register(replace(REGISTRY["beat_f1"], title="another"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("coded", [False, True])
def test_true_accompaniments_score_above_those_of_other_songs(coded: bool) -> None:
    codec = load_codec(CodecConfig(), torch.device("cpu"))
    part = slice(30 * SAMPLE_RATE, 30 * SAMPLE_RATE + 2_097_152)

    def heard(audio: Audio) -> Features:
        stretch = np.ascontiguousarray(audio[:, part])
        if coded:
            stretch = decode_audio(codec, encode_audio(codec, stretch))[:, : stretch.shape[1]]
        return features(stretch)

    songs = [compose(0, index) for index in range(40)]
    vocals, true = [heard(song.vocals) for song in songs], [heard(song.accompaniment) for song in songs]
    rows = [[follow(vocal, accompaniment) for accompaniment in true] for vocal in vocals]
    for name in FOLLOWING:
        matrix = np.array([[scores[name] for scores in row] for row in rows])
        own = np.diag(matrix)
        others = (matrix.sum(axis=0) - own) / (len(matrix) - 1)
        _, p = np.asarray(wilcoxon(own - others, alternative="greater"))
        assert p < (0.05 if name == "key_agreement" else 0.001), f"{name}: p = {p}"
