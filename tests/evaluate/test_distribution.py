"""Distances against SciPy's square root and plain loops, copies that were hidden, and takes against NumPy."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy.linalg import sqrtm
from torch import Tensor

from samuel.artifacts import Artifact, make_artifact
from samuel.codecs import load_codec
from samuel.codecs.base import Codec
from samuel.config import CodecConfig
from samuel.errors import DatasetError, InputError
from samuel.evaluate import distribution
from samuel.evaluate.distribution import (
    Comparison,
    Latents,
    Space,
    crossed_distances,
    diversity,
    find_copies,
    frechet_distance,
    moments,
    moments_distance,
    nearest_pairs,
)
from samuel.evaluate.summary import measure_sets
from samuel.popdb.dataset import Popdb
from samuel.popdb.loader import Normaliser
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import FRAMES, encoded_song, small_settings

TAKES = 3


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def look(space: Space, encoded: Latents) -> tuple[Any, dict[str, str]]:
    """What an evaluation makes of it."""
    found, missing = measure_sets("latents", (), space, space.latents(encoded))
    return found.by_system, missing


@pytest.fixture(scope="module")
def popdb(tmp_path_factory: pytest.TempPathFactory) -> Popdb:
    """Twelve songs of two pairs of 64 frames, of which some are held out."""
    root = tmp_path_factory.mktemp("popdb")
    songs = [encoded_song(root, name) for name in "abcdefghijkl"]
    settings = {"validation_share": 0.4, "chunk_frames": FRAMES, "pairs_per_shard": 5}
    return write_popdb(songs, small_settings(root, popdb=settings))


@pytest.fixture(scope="module")
def codec() -> Codec:
    return load_codec(CodecConfig(), torch.device("cpu"))


def track(root: Path, name: str, takes: Tensor, reference: Tensor) -> Artifact:
    def make(folder: Path) -> dict[str, Any]:
        save_file({"takes": takes, "reference": reference}, folder / "latents.safetensors")
        return {"pair_id": name, "title": name, "start_s": 0.0}

    return make_artifact(root / name, make)


@pytest.fixture
def tracks(popdb: Popdb, tmp_path: Path) -> list[Artifact]:
    """The first has learned a training pair by heart; its other takes, and all of the others, are noise."""
    scale = Normaliser.of(popdb.stats)
    takes = scale.accompaniment_latents(noise(0, 3 * TAKES, 64, FRAMES)).unflatten(0, (3, TAKES))
    takes[0, 0] = popdb.read(popdb.pairs("train")[3:4])[1][0].float()
    true = popdb.read(popdb.pairs("validation")[:6:2])[1].float()
    return [track(tmp_path, f"{n}-000", takes[n].clone(), true[n].clone()) for n in range(3)]


def test_the_tracks_of_a_model_are_held_to_their_references_and_looked_for(
    popdb: Popdb, tracks: list[Artifact], tmp_path: Path
) -> None:
    found, missing = look(Space(popdb.codec, None, popdb, tracks, "weights"), {})
    assert missing == {}
    assert found["frechet"].keys() == {"SAMUeL"}
    assert found["frechet"]["SAMUeL"] > 0
    assert (found["frechet_items"], found["true_items"]) == ({"SAMUeL": 1}, 3)
    assert found["diversity"]["takes"] == TAKES
    assert [row["track"] for row in found["diversity"]["tracks"]] == ["0-000", "1-000", "2-000"]
    assert found["diversity"]["between_takes"] == pytest.approx(1.0, abs=0.1)  # noise
    learned, new, _ = found["nearest"]
    row = popdb.pairs("train")[3]
    assert (learned["track"], learned["pair_id"], learned["title"]) == ("0-000", row["pair_id"], row["title"])
    assert (learned["suspicious"], learned["lag_s"], new["suspicious"]) == (True, 0.0, False)
    assert learned["similarity"] == pytest.approx(1.0, abs=1e-3)
    broken = track(tmp_path, "x-000", torch.full((TAKES, 64, FRAMES), math.nan), torch.zeros(64, FRAMES))
    found, missing = look(Space(popdb.codec, None, popdb, [*tracks, broken]), {})
    assert found == {}
    assert all("NaN" in missing[name] for name in ("frechet", "nearest", "diversity"))


def folder(scale: float, *lengths: int, seed: int = 0) -> dict[str, Tensor]:
    return {f"t{n}": scale * noise(seed + 9 * n, 64, length) for n, length in enumerate(lengths)}


def test_folders_are_compared_on_the_true_ones_scale(codec: Codec) -> None:
    lengths = (521, 768, 255, 512)
    true, same, loud = folder(7.0, *lengths), folder(7.0, *lengths, seed=1), folder(21.0, *lengths, seed=1)
    systems = {"real": true, "true": true, "same": same, "loud": loud, "short": folder(1.0, 1)}
    found, missing = look(Space(codec.info, codec), systems)
    assert found["true_items"] == 4
    assert found["frechet"].keys() == {"true", "same", "loud"}
    # The true ones under another name come to their floor, not to nothing.
    assert found["frechet"]["true"] == pytest.approx(found["floor"]["true"]["mean"])
    # Thrice the deviation in 128 independent numbers: 128 · (3 - 1)², in squared deviations of the true ones.
    assert found["frechet"]["loud"] == pytest.approx(128 * 4, rel=0.15)
    assert found["frechet"]["same"] < 0.2 * found["frechet"]["loud"]
    assert missing.keys() == {"nearest", "diversity"}
    still = torch.zeros(64, 512)
    for real, reason in (
        ({}, "no true accompaniments were given (--references)"),
        ({"real": {"a": still, "b": still}}, "the true accompaniments never change"),
        ({"real": folder(1.0, 9)}, "there are true accompaniments of one song alone"),
    ):
        found, missing = look(Space(codec.info, codec), {"some": same} | real)
        assert found == {}
        assert missing["frechet"].startswith(reason)


def test_copies_are_looked_for_in_a_training_set_of_the_same_codec(
    popdb: Popdb, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = popdb.pairs("train")[2]
    copy = popdb.read([pair])[1][0].float()
    late = torch.cat((torch.randn(64, FRAMES + 5), copy), dim=1)
    latents = {"copies": {"a": copy, "late": late, "b": copy[:, 1:]}, "none": {"a": copy[:, :9]}}
    found, missing = look(Space(codec.info, codec, popdb), latents | {"real": {"a": copy}})
    assert [(row["system"], row["track"]) for row in found["nearest"]] == [
        ("copies", "a"), ("copies", "late"), ("copies", "b"),
    ]  # fmt: skip
    assert {row["pair_id"] for row in found["nearest"]} == {pair["pair_id"]}
    assert all(row["suspicious"] for row in found["nearest"])
    assert "nearest" not in missing
    _, missing = look(Space(codec.info, codec, popdb), {"none": {"a": copy[:, :9]}})
    assert "every track is shorter than half a pair" in missing["nearest"]
    monkeypatch.setitem(popdb.info, "codec", popdb.info["codec"] | {"version": "0"})
    _, missing = look(Space(codec.info, codec, popdb), {"copies": {"a": copy}})
    assert missing["nearest"].startswith("the training set holds latents of mel/0")


# The Fréchet distance.


def of_windows(latents: Tensor) -> NDArray[np.float64]:
    """Every frame beside its successor, item by item: (N (T - 1), 2C), by a plain loop."""
    rows = [
        np.concatenate([item[:, t], item[:, t + 1]])
        for item in latents.double().numpy()
        for t in range(item.shape[1] - 1)
    ]
    return np.stack(rows)


def by_scipy(first: Tensor, second: Tensor) -> float:
    a, b = of_windows(first), of_windows(second)
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = np.real(sqrtm(cov_a @ cov_b))
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root))


def test_it_is_the_formula_by_scipys_square_root_and_in_closed_form() -> None:
    mixing = torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, 0.3], [0.2, 0.0, 0.7]])
    first, second = noise(0, 4, 3, 50), (mixing @ noise(1, 3, 3, 70)).cumsum(dim=-1) / 5
    assert by_scipy(first, second) > 1
    assert frechet_distance(first, second) == pytest.approx(by_scipy(first, second), rel=1e-9)
    summed = moments(first[:1]) + moments(first[1:].half())  # sets can be added piece by piece
    assert moments_distance(summed, moments(second)) == pytest.approx(by_scipy(first, second), rel=1e-3)
    # White noise shifted by m and scaled by s: each of the 2C numbers is m² + (1 - s)² away.
    one, other = noise(0, 64, 3, 512), noise(1, 64, 3, 512)
    assert frechet_distance(3 * one + 2, other) == pytest.approx(6 * (2**2 + (3 - 1) ** 2), rel=0.01)
    # Each value stands for two frames: alone a frame is the same noise, with its successor it is not.
    # Their correlation is 1 in half of the places, so ½ over all: 2 C (2 - √½ - √1½).
    held = one[..., :256].repeat_interleave(2, dim=-1)
    expected = 3 * (4 - 2 * np.sqrt(0.5) - 2 * np.sqrt(1.5))
    assert frechet_distance(held, other) == pytest.approx(expected, rel=0.05)


def test_few_frames_and_a_constant_channel_do_not_end_it() -> None:
    few = noise(0, 1, 20, 12)  # 11 points in 40 dimensions
    assert frechet_distance(few, few.clone()) == pytest.approx(0, abs=1e-4)
    dead = noise(0, 8, 3, 512)
    dead[:, 1] = 5.0
    assert frechet_distance(dead, noise(1, 8, 3, 512)) == pytest.approx(2 * (5**2 + 1), rel=0.05)
    silence = torch.zeros(2, 3, 50)
    assert frechet_distance(silence, silence) == 0
    whole = noise(0, 2, 3, 9)
    for one, words in (
        (whole[..., :1], "T at least 2"), (noise(0, 1, 3, 2), "no covariance"),
        (noise(0, 1, 4, 9), "of 4 and of 3 channels"), (whole * math.inf, "NaN or infinite"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            frechet_distance(one, whole)


def songs_apart(seed: int, shift: float = 0.0) -> dict[str, Tensor]:
    """Songs that are unlike each other: each lies somewhere else."""
    places = zip("abcdef", noise(9, 6, 3, 1), strict=True)
    return {name: place + shift + noise(seed + ord(name), 2, 3, 40) for name, place in places}


def test_one_halving_is_the_distance_of_its_sides_and_the_true_items_come_to_their_floor() -> None:
    songs, shifted = songs_apart(0), songs_apart(1, shift=2.0)
    true, made = ({n: moments(part) for n, part in items.items()} for items in (songs, shifted))
    distances, floors = crossed_distances(true, {"made": made}, 1, 3)
    order = ["abcdef"[place] for place in np.random.default_rng(3).permutation(6)]
    parts = ((shifted, order[:3]), (songs, order[:3]), (songs, order[3:]))
    sides = [torch.cat([of[name] for name in names]) for of, names in parts]
    assert distances["made"] == pytest.approx(frechet_distance(sides[0], sides[2]))
    assert floors["made"]["mean"] == pytest.approx(frechet_distance(sides[1], sides[2]))
    few = {name: true[name] for name in "ab"}
    distances, floors = crossed_distances(true, {"true": true, "few": few, "one": {"a": true["a"]}}, 10, 0)
    assert distances.keys() == {"true", "few"}
    for name, items in (("true", 3), ("few", 1)):
        assert distances[name] == floors[name]["mean"]
        assert floors[name]["items"] == items
    assert floors["true"]["low"] <= floors["true"]["mean"] <= floors["true"]["high"]


# Copies.


def similarities(tracks: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    return Comparison(tracks, pairs.shape[-1]).similarities(pairs)


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
def test_it_is_the_best_of_all_lags(frames: int, pair_frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "TRACKS", 2)  # fewer than there are
    tracks, pairs = noise(0, 3, 4, frames).cumsum(dim=-1), noise(1, 5, 4, pair_frames).cumsum(dim=-1) + 7
    tracks[1, :, : frames // 2] = 3.0  # halves are quiet, so that the least energies count
    pairs[2, :, pair_frames // 2 :] *= 1e-3
    pairs[4] *= 1e-3
    values, lags = similarities(tracks, pairs)
    assert values.shape == lags.shape == (3, 5)
    for n, track in enumerate(tracks):
        for p, pair in enumerate(pairs):
            expected = by_the_book(track, pair)
            assert float(values[n, p]) == pytest.approx(max(expected.values()), abs=1e-4)
            assert expected[int(lags[n, p])] == pytest.approx(max(expected.values()), abs=1e-4)


def test_what_cannot_be_compared_is_refused() -> None:
    some = torch.zeros(1, 4, 9)
    for tracks, pairs, message in (
        (torch.zeros(1, 4, 1), some, r"tracks of shape \(1, 4, 1\)"),
        (some, torch.zeros(1, 5, 9), "4 channels"),
        (torch.full((1, 4, 9), math.nan), some, "tracks hold NaN"),
        (some, torch.full((1, 4, 9), math.inf), "pairs hold NaN"),
    ):
        with pytest.raises(InputError, match=message):
            similarities(tracks, pairs)


def accompaniments(popdb: Popdb, split: str) -> Tensor:
    return Normaliser.of(popdb.stats).accompaniment(popdb.read(popdb.pairs(split))[1])


def test_it_is_the_best_of_all_pairs_and_damaged_ones_are_named(popdb: Popdb) -> None:
    train, maps = accompaniments(popdb, "train"), Normaliser.of(popdb.stats)
    tracks = accompaniments(popdb, "validation")
    values, lags = similarities(tracks, train)
    found, rows = nearest_pairs(tracks, popdb, maps), popdb.pairs("train")
    places = values.argmax(dim=1)
    assert [row for row, _, _ in found] == [rows[place] for place in places]
    assert [value for _, value, _ in found] == pytest.approx(values.max(dim=1).values.tolist(), abs=1e-5)
    assert [lag for _, _, lag in found] == [int(lags[n, p]) for n, p in enumerate(places)]
    late = torch.cat([noise(0, 1, 64, 20), train[9:10, :, :-20]], dim=-1)
    [(row, similarity, lag)] = nearest_pairs(late, popdb, maps)
    assert (row, lag) == (rows[9], 20)
    assert similarity == pytest.approx(1.0, abs=1e-3)
    broken = dataclasses.replace(maps, accompaniment_std=torch.full_like(maps.accompaniment_std, torch.nan))
    with pytest.raises(DatasetError, match=f"{rows[0]['pair_id']}: NaN or infinite; run samuel verify"):
        nearest_pairs(torch.zeros(1, 64, 64), popdb, broken)


def test_the_yardstick_is_what_held_out_songs_come_to(
    popdb: Popdb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    monkeypatch.setattr(distribution, "HELD_OUT", 2)
    assert find_copies({("S", "copy"): copied}, popdb)["nearest_held_out"]["n"] == 2
    alone = write_popdb([encoded_song(tmp_path, "a", 4)], small_settings(tmp_path))
    found = find_copies({("S", "copy"): copied}, alone)
    assert found["nearest_held_out"] == {"n": 0, "median": None, "highest": None}
    assert found["nearest"][0]["suspicious"] is None


# Diversity.


def takes_of(share: float, songs: int = 3, takes: int = 3) -> Tensor:
    """Takes that correlate with each other by `share`: what the vocal sets, and what the seed sets."""
    song, seed = noise(0, songs, 1, 8, 4096), noise(1, songs, takes, 8, 4096)
    return math.sqrt(share) * song + math.sqrt(1 - share) * seed


def test_it_is_one_minus_numpys_correlation_of_centred_takes() -> None:
    takes = takes_of(0.5, songs=2) + torch.arange(8.0)[:, None]
    found = diversity([*takes])
    centred = (takes - takes.mean(dim=-1, keepdim=True)).double().numpy().reshape(2, 3, -1)
    own = [1 - np.corrcoef(track)[np.triu_indices(3, 1)].mean() for track in centred]
    assert found["tracks"] == pytest.approx(own, abs=1e-5)
    assert found["between_takes"] == pytest.approx(np.mean(own), abs=1e-5)
    assert found["between_songs"] == pytest.approx(1 - np.corrcoef(centred[:, 0])[0, 1], abs=1e-5)
    # A seed that does not matter: louder, and brighter, does not count.
    louder = torch.tensor([1.0, 0.5, 3.0])[None, :, None, None]
    found = diversity([*(noise(0, 2, 1, 8, 4096) * louder + louder * torch.arange(8.0)[:, None])])
    assert found["between_takes"] == pytest.approx(0.0, abs=1e-5)
    assert found["between_songs"] == pytest.approx(1.0, abs=0.02)


def test_constant_takes_are_left_out_and_what_cannot_be_measured_is_none() -> None:
    takes = takes_of(0.3)
    takes[1] = 2.5  # a silent track
    takes[0, 0] = 0.0  # a silent take
    found = diversity([*takes])
    assert found["tracks"][1] is None
    assert found["tracks"][0] == pytest.approx(0.7, abs=0.02)
    assert found["between_takes"] == pytest.approx(0.7, abs=0.02)
    assert found["between_songs"] is None  # two of three first takes are silent
    assert diversity([noise(0, 1, 4, 9)]) == {
        "takes": 1, "between_takes": None, "between_songs": None, "tracks": [None],
    }  # fmt: skip
