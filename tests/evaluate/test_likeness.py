"""Latents against plain loops over lags, and copies of training pairs that were hidden."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from samuel.errors import DatasetError, InputError
from samuel.evaluate import likeness
from samuel.evaluate.likeness import Comparison, diversity, find_copies, nearest_pairs, suspicious
from samuel.popdb.dataset import Popdb
from samuel.popdb.loader import Normaliser
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import encoded_song, small_settings


def similarities(tracks: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    return Comparison(tracks, pairs.shape[-1]).similarities(pairs)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def energy(part: NDArray[np.float64], whole: NDArray[np.float64]) -> float:
    """What counts: at least a tenth of what is usual in the whole, at least a variance of 0.01."""
    own = np.square(part - part.mean(axis=1, keepdims=True)).sum()
    usual = np.square(whole - whole.mean(axis=1, keepdims=True)).sum() / whole.shape[1]
    return max(own, 0.1 * usual * part.shape[1], 0.01 * part.size)


def by_the_book(track: Tensor, pair: Tensor) -> dict[int, float]:
    """Lag → similarity, lag by lag over plain slices."""
    x, y = track.double().numpy(), pair.double().numpy()
    least = min(x.shape[1], y.shape[1]) / 2
    found = {}
    for lag in range(-y.shape[1], x.shape[1]):
        begin, end = max(lag, 0), min(x.shape[1], y.shape[1] + lag)
        if end - begin < least:
            continue
        a, b = x[:, begin:end], y[:, begin - lag : end - lag]
        product = ((a - a.mean(axis=1, keepdims=True)) * (b - b.mean(axis=1, keepdims=True))).sum()
        found[lag] = product / math.sqrt(energy(a, x) * energy(b, y))
    return found


@pytest.mark.parametrize(("frames", "pair_frames"), [(40, 40), (17, 40), (41, 16), (2, 40), (40, 3), (2, 2)])
@pytest.mark.parametrize("quiet", [False, True])
def test_it_is_the_best_of_all_lags(
    frames: int, pair_frames: int, quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likeness, "TRACKS", 2)  # fewer than there are
    tracks, pairs = noise(0, 3, 4, frames).cumsum(dim=-1), noise(1, 5, 4, pair_frames).cumsum(dim=-1) + 7
    if quiet:  # halves, so that the least energies count
        tracks[1, :, : frames // 2] = 3.0
        pairs[2, :, pair_frames // 2 :] *= 1e-3
        pairs[4] *= 1e-3
    values, lags = similarities(tracks, pairs)
    assert values.shape == lags.shape == (3, 5)
    for n, track in enumerate(tracks):
        for p, pair in enumerate(pairs):
            expected = by_the_book(track, pair)
            assert float(values[n, p]) == pytest.approx(max(expected.values()), abs=1e-4)
            assert expected[int(lags[n, p])] == pytest.approx(max(expected.values()), abs=1e-4)


@pytest.mark.parametrize("lag", [-500, 0, 77, 512])
def test_a_copy_is_found_wherever_it_lies(lag: int) -> None:
    long = noise(0, 8, 3000)
    pair, track = long[None, :, 1000:2024], long[None, :, 1000 - lag : 2024 - lag].clone()
    louder = torch.cat([track, track * 3, track + noise(1, 1, 8, 1) * 5])
    values, lags = similarities(louder, pair.half())
    assert values.flatten().tolist() == pytest.approx([1.0] * 3, abs=1e-3)
    assert lags.flatten().tolist() == [lag] * 3


def test_silence_is_alike_to_nothing() -> None:
    click = torch.zeros(1, 4, 200)
    click[..., 100] = 0.1
    steady = torch.cat([torch.zeros(1, 4, 200), torch.full((1, 4, 200), 1e4), click])
    values, _ = similarities(
        torch.cat([steady, noise(0, 1, 4, 200)]), torch.cat([steady, noise(1, 1, 4, 200)])
    )
    assert values.isfinite().all()
    assert float(values[:3].abs().max()) < 0.1  # silence with silence too, and one click with another
    assert float(values[:, :3].abs().max()) < 0.1


def test_a_short_likeness_in_a_quiet_stretch_is_not_the_likeness_of_the_whole() -> None:
    # Both fade away into the same murmur: alone, in a half-empty overlap, it would be a perfect copy.
    murmur = 0.02 * noise(0, 1, 4, 100)
    track, pair = torch.cat([noise(1, 1, 4, 100), murmur], -1), torch.cat([murmur, noise(2, 1, 4, 100)], -1)
    values, lags = similarities(track, pair)
    assert by_the_book(track[0], pair[0])[int(lags)] == pytest.approx(values.item(), abs=1e-4)
    assert values.item() < 0.3


def test_what_cannot_be_compared_is_refused() -> None:
    some = torch.zeros(1, 4, 9)
    for tracks, pairs, message in (
        (torch.zeros(1, 4, 1), some, r"tracks of shape \(1, 4, 1\)"),
        (torch.zeros(4, 9), some, "tracks of shape"),
        (some, torch.zeros(1, 5, 9), "4 channels"),
        (torch.full((1, 4, 9), math.nan), some, "tracks hold NaN"),
        (some, torch.full((1, 4, 9), math.inf), "pairs hold NaN"),
    ):
        with pytest.raises(InputError, match=message):
            similarities(tracks, pairs)


@pytest.fixture(scope="module")
def popdb(tmp_path_factory: pytest.TempPathFactory) -> Popdb:
    """Twelve songs of two pairs of 64 frames, of which some are held out."""
    root = tmp_path_factory.mktemp("popdb")
    songs = [encoded_song(root, name) for name in "abcdefghijkl"]
    shares = {"pairs_per_shard": 5, "validation_share": 0.4}
    return write_popdb(songs, small_settings(root, popdb=shares))


def normaliser(popdb: Popdb) -> Normaliser:
    return Normaliser.of(popdb.stats)


def accompaniments(popdb: Popdb, split: str) -> Tensor:
    return normaliser(popdb).accompaniment(popdb.read(popdb.pairs(split))[1])


def test_it_is_the_best_of_all_pairs(popdb: Popdb) -> None:
    train = accompaniments(popdb, "train")
    vocal = normaliser(popdb).vocal(popdb.read(popdb.pairs("train")[:1])[0])  # not what is compared
    tracks = torch.cat([accompaniments(popdb, "validation"), vocal])
    values, lags = similarities(tracks, train)
    found = nearest_pairs(tracks, popdb, normaliser(popdb))
    places = values.argmax(dim=1)
    assert [nearest.pair_id for nearest in found] == [popdb.pairs("train")[i]["pair_id"] for i in places]
    assert [nearest.similarity for nearest in found] == pytest.approx(
        values.max(dim=1).values.tolist(), abs=1e-5
    )
    assert [nearest.lag_frames for nearest in found] == [int(lags[n, p]) for n, p in enumerate(places)]
    assert max(nearest.similarity for nearest in found) < 0.9  # none is a copy
    late = torch.cat([noise(0, 1, 64, 20), train[9:10, :, :-20]], dim=-1)
    (copy,) = nearest_pairs(late, popdb, normaliser(popdb))
    row = popdb.pairs("train")[9]
    assert (copy.pair_id, copy.title, copy.lag_frames) == (row["pair_id"], row["title"], 20)
    assert copy.similarity == pytest.approx(1.0, abs=1e-3)


def test_damaged_latents_are_named(popdb: Popdb) -> None:
    maps = normaliser(popdb)
    broken = dataclasses.replace(maps, accompaniment_std=torch.full_like(maps.accompaniment_std, torch.nan))
    first = popdb.pairs("train")[0]["pair_id"]
    with pytest.raises(DatasetError, match=f"{first}: NaN or infinite; run samuel verify"):
        nearest_pairs(torch.zeros(1, 64, 64), popdb, broken)


def test_the_yardstick_is_what_held_out_songs_come_to(popdb: Popdb, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, true = popdb.pairs("validation"), accompaniments(popdb, "validation")
    songs = {row["song_id"]: place for place, row in reversed(list(enumerate(rows)))}
    firsts = true[sorted(songs.values())]
    assert 2 < len(firsts) < len(true)
    values = similarities(firsts, accompaniments(popdb, "train"))[0].max(dim=1).values.tolist()
    copied = popdb.read(popdb.pairs("train")[3:4])[1][0]
    found = find_copies({("S", "copy"): copied, ("S", "new"): popdb.read(rows[:1])[1][0]}, popdb)
    yardstick = found["nearest_held_out"]
    assert yardstick["n"] == len(firsts)
    assert yardstick["highest"] == pytest.approx(max(values), abs=1e-5)
    assert yardstick["median"] == pytest.approx(np.median(values), abs=1e-5)
    assert [row["suspicious"] for row in found["nearest"]] == [True, False]
    assert [suspicious(value, 0.4) for value in (0.45, 0.69, 0.71, 1.0)] == [False] * 2 + [True] * 2
    assert suspicious(0.99, None) is None
    monkeypatch.setattr(likeness, "HELD_OUT", 2)
    assert find_copies({("S", "copy"): copied}, popdb)["nearest_held_out"]["n"] == 2


CHANNELS, FRAMES = 8, 4096


def takes_noise(seed: int, *shape: int) -> Tensor:
    return noise(seed, *shape, CHANNELS, FRAMES)


def takes_of(share: float, songs: int = 3, takes: int = 3) -> Tensor:
    """Takes that correlate with each other by `share`: what the vocal sets, and what the seed sets."""
    song, seed = takes_noise(0, songs, 1), takes_noise(1, songs, takes)
    return math.sqrt(share) * song + math.sqrt(1 - share) * seed


def test_it_is_one_minus_numpys_correlation_of_centred_takes() -> None:
    found = diversity(takes := takes_of(0.5, songs=2) + torch.arange(8.0)[:, None])
    centred = (takes - takes.mean(dim=-1, keepdim=True)).double().numpy().reshape(2, 3, -1)
    own = [1 - np.corrcoef(track)[np.triu_indices(3, 1)].mean() for track in centred]
    assert found["tracks"] == pytest.approx(own, abs=1e-5)
    assert found["between_takes"] == pytest.approx(np.mean(own), abs=1e-5)
    assert found["between_songs"] == pytest.approx(1 - np.corrcoef(centred[:, 0])[0, 1], abs=1e-5)


def test_a_seed_that_does_not_matter_gives_nothing() -> None:
    song = takes_noise(0, 2, 1)
    louder = torch.tensor([1.0, 0.5, 3.0])[None, :, None, None]  # and brighter, which does not count
    found = diversity(song * louder + louder * torch.arange(8.0)[:, None])
    assert found["between_takes"] == pytest.approx(0.0, abs=1e-5)
    assert found["between_songs"] == pytest.approx(1.0, abs=0.02)


def test_what_cannot_be_measured_is_none() -> None:
    assert diversity(takes_noise(0, 2, 1))["tracks"] == [None, None]
    assert diversity(takes_noise(0, 1, 2))["between_songs"] is None
    assert diversity(takes_noise(0, 1, 1)) == {
        "takes": 1, "between_takes": None, "between_songs": None, "tracks": [None],
    }  # fmt: skip


def test_constant_takes_are_left_out() -> None:
    takes = takes_of(0.3)
    takes[1] = 2.5  # a silent track
    takes[0, 0] = 0.0  # a silent take
    found = diversity(takes)
    assert found["tracks"][1] is None
    assert found["tracks"][0] == pytest.approx(0.7, abs=0.02)
    assert found["between_takes"] == pytest.approx(0.7, abs=0.02)
    assert found["between_songs"] is None  # two of three first takes are silent


def test_no_takes_at_all_are_refused() -> None:
    for tracks, message in (
        ([], "there must be one"),
        ([torch.zeros(2, 3)], r"shapes \[\(2, 3\)\]"),
        ([torch.full((2, 3, 4), math.nan)], "NaN or infinite"),
    ):
        with pytest.raises(InputError, match=message):
            diversity(tracks)
