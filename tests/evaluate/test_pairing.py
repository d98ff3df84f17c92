import numpy as np
import pytest

from samuel.audio import SAMPLE_RATE
from samuel.evaluate import following as pairing
from samuel.evaluate.features import Features, features
from samuel.evaluate.following import (
    FOLLOWING,
    Pairing,
    blocks_of,
    follow,
    left_out,
    pairings,
)
from tests.evaluate.songs import band, tune


@pytest.fixture(scope="module")
def songs() -> tuple[dict[str, Features], dict[str, Features]]:
    keys = {"a": (60, 0.4), "b": (65, 0.5), "c": (58, 0.61), "d": (63, 0.55)}
    vocals = {name: features(tune(*key, 8.0)) for name, key in keys.items()}
    return vocals, {name: features(band(*key, 8.0)) for name, key in keys.items()}


def test_a_matrix_holds_every_accompaniment_with_every_vocal(
    songs: tuple[dict[str, Features], dict[str, Features]],
) -> None:
    vocals, bands = songs
    found = pairings(vocals, bands)
    assert tuple(found) == FOLLOWING
    for score, paired in found.items():
        assert paired.tracks == [list("abcd")]
        for row, name in enumerate("abcd"):
            for column, vocal in enumerate("abcd"):
                expected = follow(vocals[vocal], bands[name])[score]
                assert paired.blocks[0][row, column] == pytest.approx(expected, nan_ok=True)
    chroma = found["chroma_likeness"]
    assert chroma.own["b"] == follow(vocals["b"], bands["b"])["chroma_likeness"]
    assert chroma.others()["b"] == pytest.approx(
        np.mean([follow(vocals[other], bands["b"])["chroma_likeness"] for other in "acd"])
    )


def test_missing_accompaniments_leave_no_hole(songs: tuple[dict[str, Features], dict[str, Features]]) -> None:
    vocals, bands = songs
    found = pairings(vocals, {name: bands[name] for name in ("d", "b")})
    assert found["beat_f1"].tracks == [["b", "d"]]
    assert found["beat_f1"].blocks[0].shape == (2, 2)
    assert pairings(vocals, {}) == {}


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (32, [32]), (33, [17, 16]), (100, [25] * 4)])
def test_blocks_have_about_one_size(count: int, sizes: list[int]) -> None:
    names = [str(number) for number in range(count)]
    blocks = blocks_of(names)
    assert [len(block) for block in blocks] == sizes
    assert [name for block in blocks for name in block] == names


def test_vocals_of_other_blocks_are_not_compared(
    songs: tuple[dict[str, Features], dict[str, Features]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairing, "BLOCK", 2)
    vocals, bands = songs
    paired = pairings(vocals, bands)["chroma_likeness"]
    assert paired.tracks == [["a", "b"], ["c", "d"]]
    assert paired.others()["c"] == follow(vocals["d"], bands["c"])["chroma_likeness"]


def test_a_summary_is_of_tracks_that_have_both() -> None:
    nan = np.nan
    block = np.array([[0.9, 0.1, nan], [0.3, 0.8, nan], [0.5, 0.5, nan]])
    summary = Pairing({}, [["a", "b", "c"]], [block]).summary()
    assert (summary["n"], summary["own"], summary["other"]) == (2, pytest.approx(0.85), pytest.approx(0.2))
    assert summary["difference"]["mean"] == pytest.approx(0.65)
    assert summary["p"] == pytest.approx(0.5, abs=0.02)


def test_one_track_has_nothing_to_compare() -> None:
    summary = Pairing({"a": 0.9}, [["a"]], [np.array([[0.9]])]).summary()
    assert (summary["n"], summary["own"], summary["p"]) == (0, None, None)


def test_tracks_of_other_lengths_are_compared_over_the_shortest() -> None:
    lengths = {"a": 8.0, "b": 7.0, "c": 9.5, "d": 2.0}
    keys = {"a": (60, 0.4), "b": (65, 0.5), "c": (58, 0.61), "d": (63, 0.55)}
    vocals = {name: features(tune(*key, lengths[name])) for name, key in keys.items()}
    bands = {name: features(band(*key, lengths[name])) for name, key in keys.items()}
    found = pairings(vocals, bands)["chroma_likeness"]
    assert found.tracks == [["a", "b", "c"]]
    assert left_out(vocals, bands) == ["d"]
    assert found.own == {name: follow(vocals[name], bands[name])["chroma_likeness"] for name in keys}
    shortest = {name: features(tune(*keys[name], 9.5)[:, : 7 * SAMPLE_RATE]) for name in "abc"}
    played = features(band(*keys["c"], 9.5)[:, : 7 * SAMPLE_RATE])
    expected = [follow(shortest[name], played)["chroma_likeness"] for name in "abc"]
    assert found.blocks[0][2] == pytest.approx(expected, abs=0.04)  # but for the frames at the end


def test_an_accompaniment_that_hears_nothing_does_not_follow_by_its_length() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.uniform(3.0, 20.0, 12)
    breath = np.zeros((2, 2 * SAMPLE_RATE), np.float32)
    song, never = tune(60, 0.5, 20.0), band(60, 0.5, 20.0)
    vocals, bands = {}, {}
    for number, length in enumerate(lengths):
        samples = int(length * SAMPLE_RATE)
        vocals[str(number)] = features(np.concatenate([breath, song], axis=1)[:, :samples])
        bands[str(number)] = features(never[:, :samples])
    for score, found in pairings(vocals, bands).items():
        p = found.summary()["p"]
        assert p is None or p > 0.05, score
