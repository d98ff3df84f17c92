"""Distances against SciPy's square root and plain loops, and what an evaluation makes of latents."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.linalg import sqrtm
from torch import Tensor

from samuel.artifacts import Artifact, make_artifact
from samuel.codecs import load_codec
from samuel.codecs.base import Codec
from samuel.config import CodecConfig
from samuel.errors import InputError
from samuel.evaluate import distribution
from samuel.evaluate.distribution import (
    SEED,
    SPLITS,
    DatasetSpace,
    FolderSpace,
    Gaussian,
    Latents,
    Space,
    crossed_distances,
    floor,
    frechet_distance,
    gaussian_distance,
)
from samuel.evaluate.likeness import nearest_pairs
from samuel.evaluate.summary import compare_latents
from samuel.popdb.dataset import Popdb
from samuel.popdb.loader import Normaliser
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import FRAMES, encoded_song, small_settings

TAKES, SLICE = 3, 256


def look(space: Space, latents: Latents) -> tuple[dict[str, Any], dict[str, str]]:
    """What an evaluation makes of it."""
    sounds = {
        name: {n: SimpleNamespace(latents=part) for n, part in of.items()} for name, of in latents.items()
    }
    return compare_latents(space, sounds)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def popdb(tmp_path_factory: pytest.TempPathFactory) -> Popdb:
    root = tmp_path_factory.mktemp("popdb")
    songs = [encoded_song(root, name) for name in "abcdefghijkl"]
    return write_popdb(songs, small_settings(root, popdb={"validation_share": 0.4, "chunk_frames": FRAMES}))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Popdb:
    """A dataset of one song, of which none is held out."""
    root = tmp_path_factory.mktemp("alone")
    return write_popdb([encoded_song(root, "a", 4)], small_settings(root))


def track(root: Path, name: str, takes: torch.Tensor) -> Artifact:
    def make(folder: Path) -> dict[str, Any]:
        save_file({"takes": takes, "reference": takes[0].clone()}, folder / "latents.safetensors")
        return {"pair_id": name, "title": name, "start_s": 0.0}

    return make_artifact(root / name, make)


@pytest.fixture
def tracks(popdb: Popdb, tmp_path: Path) -> list[Artifact]:
    """The first has learned a training pair by heart; its other takes, and all of the second, are noise."""
    generator = torch.Generator().manual_seed(0)
    scale = Normaliser.of(popdb.stats)
    takes = scale.accompaniment_latents(torch.randn(2 * TAKES, 64, FRAMES, generator=generator))
    learned = popdb.read(popdb.pairs("train")[3:4])[1][0].float()
    first = torch.cat((learned[None], takes[1:3]))
    return [track(tmp_path, "t-000", first), track(tmp_path, "u-000", takes[3:])]


def test_the_tracks_of_a_model_are_held_to_the_dataset(popdb: Popdb, tracks: list[Artifact]) -> None:
    found, missing = look(DatasetSpace(popdb, tracks), {})
    assert missing == {}
    normaliser = Normaliser.of(popdb.stats)
    held_out = popdb.pairs("validation")
    first = torch.stack([load_file(entry.path("latents.safetensors"))["takes"][0] for entry in tracks])
    true = normaliser.accompaniment(popdb.read(held_out)[1])
    expected = frechet_distance(normaliser.accompaniment(first), true)
    assert found["frechet"] == {"SAMUeL": pytest.approx(expected, rel=1e-6)}
    assert (found["frechet_items"], found["true_items"]) == ({"SAMUeL": 2}, len(held_out))
    songs = [row["song_id"] for row in held_out]
    assert found["floor"] == {"SAMUeL": floor(true, songs, 2, SPLITS, SEED)}
    assert found["diversity"]["takes"] == TAKES
    assert [row["track"] for row in found["diversity"]["tracks"]] == ["t-000", "u-000"]
    assert found["diversity"]["between_takes"] == pytest.approx(1.0, abs=0.1)  # noise
    learned, noise = found["nearest"]
    row = popdb.pairs("train")[3]
    assert (learned["track"], learned["pair_id"], learned["title"]) == ("t-000", row["pair_id"], row["title"])
    assert (learned["suspicious"], learned["lag_s"]) == (True, 0.0)
    assert learned["similarity"] == pytest.approx(1.0, abs=1e-3)
    assert noise["suspicious"] is False
    assert found["nearest_held_out"]["n"] == len(set(songs))
    assert 0 < found["nearest_held_out"]["median"] <= found["nearest_held_out"]["highest"] < 1


def test_what_cannot_be_compared_is_told_and_the_rest_is_compared(
    popdb: Popdb, alone: Popdb, tracks: list[Artifact], tmp_path: Path
) -> None:
    found, missing = look(DatasetSpace(alone, tracks), {})
    assert missing == {"frechet": "no song is held out"}
    assert found["nearest_held_out"] == {"n": 0, "median": None, "highest": None}
    assert {row["suspicious"] for row in found["nearest"]} == {None}
    broken = track(tmp_path / "broken", "x-000", torch.full((TAKES, 64, FRAMES), float("nan")))
    found, missing = look(DatasetSpace(popdb, [*tracks, broken]), {})
    assert "NaN" in missing["frechet"]
    assert "NaN" in missing["nearest"]
    assert "frechet" not in found


@pytest.fixture(scope="module")
def codec() -> Codec:
    return load_codec(CodecConfig(), torch.device("cpu"))


def folder(scale: float, *lengths: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"t{n}": scale * torch.randn(64, length, generator=generator) for n, length in enumerate(lengths)}


def test_folders_are_compared_in_slices_of_the_true_ones_scale(codec: Codec) -> None:
    true = folder(7.0, 2 * SLICE + 9, 3 * SLICE, SLICE - 1, 2 * SLICE)
    same = folder(7.0, 4 * SLICE, 3 * SLICE, SLICE, 2 * SLICE, seed=1)
    loud = folder(21.0, 4 * SLICE, 3 * SLICE, SLICE, 2 * SLICE, seed=1)
    systems = {"real": true, "true": true, "same": same, "loud": loud, "short": folder(1.0, 5)}
    found, missing = look(FolderSpace(codec), systems)
    assert found["true_items"] == 7
    assert found["frechet"].keys() == {"true", "same", "loud"}
    # The true ones under another name come to their floor, not to nothing.
    assert found["frechet"]["true"] == pytest.approx(found["floor"]["true"]["mean"])
    # Thrice the deviation in 128 independent numbers: 128 · (3 - 1)², in squared deviations of the true ones.
    assert found["frechet"]["loud"] == pytest.approx(128 * 4, rel=0.15)
    assert found["frechet"]["same"] < 0.2 * found["frechet"]["loud"]
    assert missing.keys() == {"nearest", "diversity"}


def test_a_slice_lasts_as_long_by_another_frame_rate(codec: Codec) -> None:
    fast = SimpleNamespace(info=codec.info.model_copy(update={"hop": 512}))
    systems = {"real": folder(1.0, 1024, 1025, 2050), "made": folder(1.0, 2050, 2050, 2050, seed=1)}
    found, _ = look(FolderSpace(fast), systems)  # pyright: ignore[reportArgumentType]
    assert found["true_items"] == 3  # of 1025 frames, 11.9 s: one of 1024 is too short


def test_folders_without_true_ones_that_change_have_no_distance(codec: Codec) -> None:
    some, still = {"some": folder(1.0, 2 * SLICE, 2 * SLICE)}, torch.zeros(64, 2 * SLICE)
    for true, reason in (
        ({}, "no true accompaniments were given (--references)"),
        ({"real": folder(1.0, SLICE - 1)}, "no true accompaniment is as long as a slice, 11.9 s"),
        ({"real": {"a": still, "b": still}}, "the true accompaniments never change"),
    ):
        found, missing = look(FolderSpace(codec), some | true)
        assert found == {}
        assert missing["frechet"] == reason


def test_copies_are_looked_for_in_a_training_set_of_the_same_codec(
    popdb: Popdb, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = popdb.pairs("train")[2]
    copy = popdb.read([pair])[1][0].float()
    late = torch.cat((torch.randn(64, FRAMES + 5), copy), dim=1)
    latents = {"copies": {"a": copy, "late": late, "b": copy[:, 1:]}, "none": {"a": copy[:, :9]}}
    found, missing = look(FolderSpace(codec, popdb), latents | {"real": {"a": copy}})
    assert [(row["system"], row["track"]) for row in found["nearest"]] == [
        ("copies", "a"), ("copies", "late"), ("copies", "b"),
    ]  # fmt: skip
    assert {row["pair_id"] for row in found["nearest"]} == {pair["pair_id"]}
    assert all(row["suspicious"] for row in found["nearest"])
    normaliser = Normaliser.of(popdb.stats)
    (expected,) = nearest_pairs(normaliser.accompaniment(copy[None]), popdb, normaliser)
    assert found["nearest"][0]["similarity"] == pytest.approx(expected.similarity, abs=1e-5)
    assert "nearest" not in missing
    _, missing = look(FolderSpace(codec, popdb), {"none": {"a": copy[:, :9]}})
    assert "every track is shorter than half a pair" in missing["nearest"]
    monkeypatch.setitem(popdb.info, "codec", popdb.info["codec"] | {"version": "0"})
    _, missing = look(FolderSpace(codec, popdb), {"copies": {"a": copy}})
    assert missing["nearest"].startswith("the training set holds latents of mel/0")


def noise(seed: int, items: int = 64, channels: int = 3, frames: int = 512) -> Tensor:
    return torch.randn(items, channels, frames, generator=torch.Generator().manual_seed(seed))


def of_windows(latents: Tensor) -> np.ndarray:
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
    first, second = noise(0, 4, frames=50), (mixing @ noise(1, 3, frames=70)).cumsum(dim=-1) / 5
    assert by_scipy(first, second) > 1
    assert frechet_distance(first, second) == pytest.approx(by_scipy(first, second), rel=1e-9)
    # White noise shifted by m and scaled by s: each of the 2C numbers is m² + (1 - s)² away.
    assert frechet_distance(3 * noise(0) + 2, noise(1)) == pytest.approx(6 * (2**2 + (3 - 1) ** 2), rel=0.01)
    # Each value stands for two frames: alone a frame is the same noise, with its successor it is not.
    # Their correlation is 1 in half of the places, so ½ over all: 2 C (2 - √½ - √1½).
    held = noise(0, frames=256).repeat_interleave(2, dim=-1)
    expected = 3 * (4 - 2 * np.sqrt(0.5) - 2 * np.sqrt(1.5))
    assert frechet_distance(held, noise(1)) == pytest.approx(expected, rel=0.05)


def coloured(songs: Sequence[str]) -> Tensor:
    """Items of which those of one song share a mean and a deviation."""
    means = {
        song: 2 * torch.randn(3, 1, generator=torch.Generator().manual_seed(i))
        for i, song in enumerate(sorted(set(songs)))
    }
    items = zip(songs, noise(0, len(songs), frames=40), strict=True)
    return torch.stack([(1 + means[song].abs()) * item + means[song] for song, item in items])


def test_sets_can_be_added_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "AT_A_TIME", 70)  # frames: parts of one item, and of several
    first, second = coloured(list("aaabbbccc")), noise(5, 4, frames=200)
    pieces = Gaussian.sum([Gaussian.of(part) for part in (first[:2], first[2:3].half(), first[3:])])
    assert (pieces.items, pieces.points) == (9, 9 * 39)
    whole, (mean, covariance) = of_windows(first), pieces.moments()
    assert np.allclose(mean.numpy(), whole.mean(axis=0), atol=1e-4)
    assert np.allclose(covariance.numpy(), np.cov(whole.T), atol=1e-3)
    summed = Gaussian.sum([Gaussian.of(first[:4]), Gaussian.of(first[4:])])
    assert gaussian_distance(summed, Gaussian.of(second)) == pytest.approx(by_scipy(first, second), rel=1e-9)


def test_few_frames_and_a_constant_channel_do_not_end_it() -> None:
    few, other = noise(0, 1, 20, frames=12), noise(1, 1, 20, frames=12)  # 11 points in 40 dimensions
    assert frechet_distance(few, few.clone()) == pytest.approx(0, abs=1e-4)
    # What no point spans adds nothing, so that both may be turned into the 22 dimensions that they span.
    a, b = of_windows(few), of_windows(other)
    basis = np.linalg.qr(np.concatenate([a - a.mean(0), b - b.mean(0)]).T)[0]
    roots = []
    for points in (a, b):
        values, vectors = np.linalg.eigh(np.cov((points @ basis).T))
        roots.append(vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T)
    fidelity = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(np.cov(a.T) + np.cov(b.T)) - 2 * fidelity
    assert frechet_distance(few, other) == pytest.approx(expected, rel=1e-4)
    dead = noise(0, 8, 3)
    dead[:, 1] = 5.0
    assert frechet_distance(dead, noise(1, 8, 3)) == pytest.approx(2 * (5**2 + 1), rel=0.05)
    silence = torch.zeros(2, 3, 50)
    assert frechet_distance(silence, silence) == 0
    for one, words in ((noise(0)[..., :1], "T at least 2"), (noise(0, 1, frames=2), "no covariance")):
        with pytest.raises(InputError, match=words):
            frechet_distance(one, noise(1))
    with pytest.raises(InputError, match="of 3 and of 4 channels"):
        frechet_distance(noise(0), noise(1, channels=4))


def test_a_floor_is_of_as_many_items_of_other_songs() -> None:
    songs = [f"song {place // 4}" for place in range(24)]
    true = coloured(songs)
    found = floor(true, songs, items=1, splits=200, seed=0)
    assert (found["splits"], found["items"]) == (200, 1)
    possible = [
        by_scipy(true[[place]], true[[other for other in range(24) if songs[other] != songs[place]]])
        for place in range(24)
    ]
    assert found["low"] == pytest.approx(min(possible), rel=1e-9)
    assert found["high"] == pytest.approx(max(possible), rel=1e-9)
    assert found["mean"] == pytest.approx(np.mean(possible), rel=0.1)
    # Half of the songs at most are drawn from, and all of theirs where they hold fewer than are wanted.
    assert floor(true, songs, 99, 2, 0)["items"] == 12
    assert floor(true, songs, 6, 10, 0)["mean"] < found["mean"]
    with pytest.raises(InputError, match="1 songs: a floor needs two"):
        floor(true, ["a"] * 24, 2, 2, 0)


def songs_apart(seed: int, shift: float = 0.0) -> dict[str, torch.Tensor]:
    """Songs that are unlike each other: each lies somewhere else."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randn(6, 3, 1, generator=torch.Generator().manual_seed(9))
    return {
        name: place + shift + torch.randn(2, 3, 40, generator=generator)
        for name, place in zip("abcdef", places, strict=True)
    }


def test_one_halving_is_the_distance_of_its_sides_and_the_true_items_come_to_their_floor() -> None:
    songs, shifted = songs_apart(0), songs_apart(1, shift=2.0)
    true, made = ({n: Gaussian.of(part) for n, part in items.items()} for items in (songs, shifted))
    distances, floors = crossed_distances(true, {"made": made}, 1, 3)
    order = ["abcdef"[place] for place in np.random.default_rng(3).permutation(6)]
    one, other = order[:3], order[3:]
    parts = ((shifted, one), (songs, one), (songs, other))
    sides = [torch.cat([of[name] for name in names]) for of, names in parts]
    assert distances["made"] == pytest.approx(frechet_distance(sides[0], sides[2]))
    assert floors["made"]["mean"] == pytest.approx(frechet_distance(sides[1], sides[2]))
    few = {name: true[name] for name in "ab"}
    systems = {"true": true, "few": few, "one": {"a": true["a"]}}
    distances, floors = crossed_distances(true, systems, 10, 0)
    assert distances.keys() == {"true", "few"}
    for name, items in (("true", 6), ("few", 2)):
        assert distances[name] == floors[name]["mean"]
        assert floors[name]["items"] == items
    assert floors["true"]["low"] <= floors["true"]["mean"] <= floors["true"]["high"]
    with pytest.raises(InputError, match="one song alone"):
        crossed_distances({"a": true["a"]}, systems, 4, 0)
