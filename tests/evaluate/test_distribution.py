from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from samuel.artifacts import Artifact, make_artifact
from samuel.codecs import load_codec
from samuel.codecs.base import Codec
from samuel.config import CodecConfig
from samuel.evaluate.distribution import (
    SEED,
    SLICE,
    SPLITS,
    DatasetSpace,
    FolderSpace,
)
from samuel.evaluate.frechet import floor, frechet_distance
from samuel.evaluate.nearest import nearest_pairs
from samuel.popdb.dataset import Popdb
from samuel.popdb.loader import Normaliser
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import FRAMES, encoded_song, small_settings

TAKES = 3


@pytest.fixture(scope="module")
def popdb(tmp_path_factory: pytest.TempPathFactory) -> Popdb:
    root = tmp_path_factory.mktemp("popdb")
    songs = [encoded_song(root, name) for name in "abcdefghijkl"]
    return write_popdb(songs, small_settings(root, popdb={"validation_share": 0.4, "chunk_frames": FRAMES}))


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
    return [
        track(tmp_path, "t-000", torch.cat((learned[None], takes[1:3]))),
        track(tmp_path, "u-000", takes[3:]),
    ]


def test_the_tracks_of_a_model_are_held_to_the_dataset(popdb: Popdb, tracks: list[Artifact]) -> None:
    found, missing = DatasetSpace(popdb, tracks).look({})
    assert missing == {}
    normaliser = Normaliser.of(popdb.stats)
    held_out = popdb.pairs("validation")
    first = torch.stack([load_file(entry.path("latents.safetensors"))["takes"][0] for entry in tracks])
    true = popdb.read(held_out)[1]
    expected = frechet_distance(normaliser.accompaniment(first), normaliser.accompaniment(true))
    assert found["frechet"] == {"SAMUeL": pytest.approx(expected, rel=1e-6)}
    assert (found["frechet_items"], found["true_items"]) == ({"SAMUeL": 2}, len(held_out))
    songs = [row["song_id"] for row in held_out]
    expected = floor(normaliser.accompaniment(true), songs, 2, SPLITS, SEED)
    assert found["floor"] == {"SAMUeL": asdict(expected)}
    assert found["diversity"]["takes"] == TAKES
    assert [row["track"] for row in found["diversity"]["tracks"]] == ["t-000", "u-000"]
    assert found["diversity"]["between_takes"] == pytest.approx(1.0, abs=0.1)  # noise


def test_what_was_learned_by_heart_is_found(popdb: Popdb, tracks: list[Artifact]) -> None:
    found, _ = DatasetSpace(popdb, tracks).look({})
    learned, noise = found["nearest"]
    row = popdb.pairs("train")[3]
    assert (learned["track"], learned["pair_id"], learned["title"]) == ("t-000", row["pair_id"], row["title"])
    assert (learned["suspicious"], learned["lag_s"]) == (True, 0.0)
    assert learned["similarity"] == pytest.approx(1.0, abs=1e-3)
    assert noise["suspicious"] is False
    assert found["nearest_held_out"]["n"] == len({row["song_id"] for row in popdb.pairs("validation")})
    assert 0 < found["nearest_held_out"]["median"] <= found["nearest_held_out"]["highest"] < 1


def test_without_held_out_songs_there_is_no_distance_and_no_yardstick(
    tmp_path: Path, tracks: list[Artifact]
) -> None:
    alone = write_popdb([encoded_song(tmp_path, "a", 4)], small_settings(tmp_path))
    found, missing = DatasetSpace(alone, tracks).look({})
    assert missing == {"frechet": "no song is held out"}
    assert found["nearest_held_out"] == {"n": 0, "median": None, "highest": None}
    assert {row["suspicious"] for row in found["nearest"]} == {None}


def test_latents_that_are_no_numbers_are_told_and_the_rest_is_compared(
    popdb: Popdb, tracks: list[Artifact], tmp_path: Path
) -> None:
    broken = track(tmp_path / "broken", "x-000", torch.full((TAKES, 64, FRAMES), float("nan")))
    found, missing = DatasetSpace(popdb, [*tracks, broken]).look({})
    assert "NaN" in missing["frechet"]
    assert "NaN" in missing["nearest"]
    assert "frechet" not in found


def test_the_identity_tells_datasets_and_tracks_apart(
    popdb: Popdb, tracks: list[Artifact], tmp_path: Path
) -> None:
    spaces = [DatasetSpace(popdb, tracks), DatasetSpace(popdb, tracks[:1])]
    alone = write_popdb([encoded_song(tmp_path, "a", 4)], small_settings(tmp_path))
    spaces += [DatasetSpace(alone, tracks)]
    assert len({str(space.identity) for space in spaces}) == 3


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
    found, missing = FolderSpace(codec).look(systems)
    assert found["true_items"] == 7
    assert found["frechet"].keys() == {"true", "same", "loud"}
    # The true ones under another name come to their floor, not to nothing.
    assert found["frechet"]["true"] == pytest.approx(found["floor"]["true"]["mean"])
    # Thrice the deviation in 128 independent numbers: 128 · (3 - 1)², in squared deviations of the true ones.
    assert found["frechet"]["loud"] == pytest.approx(128 * 4, rel=0.15)
    assert found["frechet"]["same"] < 0.2 * found["frechet"]["loud"]
    assert missing.keys() == {"nearest", "diversity"}


def test_true_accompaniments_that_never_change_are_no_measure(codec: Codec) -> None:
    silent = {name: torch.zeros(64, 2 * SLICE) for name in "ab"}
    found, missing = FolderSpace(codec).look({"real": silent, "some": folder(1.0, 2 * SLICE, 2 * SLICE)})
    assert found == {}
    assert missing["frechet"] == "the true accompaniments never change"


def test_folders_without_true_ones_have_no_distance(codec: Codec) -> None:
    found, missing = FolderSpace(codec).look({"some": folder(1.0, SLICE)})
    assert found == {}
    assert missing["frechet"] == "no true accompaniments were given (--references)"
    _, missing = FolderSpace(codec).look({"real": folder(1.0, SLICE - 1), "some": folder(1.0, SLICE)})
    assert missing["frechet"] == "no true accompaniment is as long as a slice, 11.9 s"


def test_copies_are_looked_for_in_a_training_set_of_the_same_codec(popdb: Popdb, codec: Codec) -> None:
    held = popdb.info["codec"]
    popdb.info["codec"] = codec.identity
    try:
        pair = popdb.pairs("train")[2]
        copy = popdb.read([pair])[1][0].float()
        late = torch.cat((torch.randn(64, FRAMES + 5), copy), dim=1)
        latents = {"copies": {"a": copy, "late": late, "b": copy[:, 1:]}, "none": {"a": copy[:, :9]}}
        found, missing = FolderSpace(codec, popdb).look(latents | {"real": {"a": copy}})
        assert [(row["system"], row["track"]) for row in found["nearest"]] == [
            ("copies", "a"), ("copies", "late"), ("copies", "b"),
        ]  # fmt: skip
        assert {row["pair_id"] for row in found["nearest"]} == {pair["pair_id"]}
        assert all(row["suspicious"] for row in found["nearest"])
        normaliser = Normaliser.of(popdb.stats)
        (expected,) = nearest_pairs(normaliser.accompaniment(copy[None]), popdb, normaliser)
        assert found["nearest"][0]["similarity"] == pytest.approx(expected.similarity, abs=1e-5)
        assert "nearest" not in missing
        _, missing = FolderSpace(codec, popdb).look({"none": {"a": copy[:, :9]}})
        assert "every track is shorter than half a pair" in missing["nearest"]
    finally:
        popdb.info["codec"] = held
    _, missing = FolderSpace(codec, popdb).look({"copies": {"a": copy}})
    assert missing["nearest"] == "the training set holds latents of 'mel/1'"
