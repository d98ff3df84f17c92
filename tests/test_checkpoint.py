"""Models and checkpoints: as they were saved, or refused, whoever wrote them."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from samuel.artifacts import make_artifact, release, sha256
from samuel.checkpoint import load_model
from samuel.errors import CheckpointError
from tests.models import small_model
from tests.popdb.latents import flip_bit

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_model(tmp_path)


def resealed(folder: Path, change: Callable[[Path, dict[str, Any]], dict[str, Any]]) -> Path:
    """A model as somebody else would write it: with a whole manifest, whatever its files and record are."""
    manifest = json.loads((folder / "entry.json").read_text())

    def make(target: Path) -> dict[str, Any]:
        (target / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
        return change(target, manifest["record"])

    return make_artifact(folder.with_name("foreign"), make).folder


def test_a_model_is_loaded_as_it_was_saved(folder: Path) -> None:
    model = load_model(folder, CPU)
    saved = load_file(folder / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.network.state_dict().items())
    assert not model.network.training
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    assert model.sha256 == sha256(folder / "model.safetensors")
    assert model.frames == 64
    assert model.normaliser.vocal_std.flatten().unique().tolist() == [2.0]


def test_a_model_that_is_not_whole_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(CheckpointError, match="no whole checkpoint here"):
        load_model(tmp_path / "absent", CPU)
    flip_bit(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: its bytes have changed"):
        load_model(folder, CPU)
    release(folder)
    with pytest.raises(CheckpointError, match="no whole checkpoint here"):
        load_model(folder, CPU)


def stats(mean: float = 0.0, std: float = 1.0, channels: int = 64) -> dict[str, Any]:
    return {"mean": [mean] * channels, "std": [1.0] * (channels - 1) + [std]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 1}, r"of an older version of SAMUeL \(model format 1\); train it again"),
        ({"codec": None}, r"\(codec: Field required"),
        ({"model": {"channels": [8192] * 4, "heads": 256, "head_dim": 1024}}, "does not fit the network"),
        ({"model": {"channels": [10**12] * 4}}, r"\(model\.channels\.0: Input should be less than"),
        ({"frames": 10**9}, r"\(frames: Input should be less than"),
        ({"surprise": "x"}, r"\(surprise: Extra inputs are not permitted"),
        ({"stats": {"vocal": stats(std=0.0), "accompaniment": stats()}}, r"stats\.vocal\.std\.63"),
        ({"stats": {"vocal": stats(float("nan")), "accompaniment": stats()}}, r"stats\.vocal\.mean\.0"),
    ],
)
def test_a_record_that_is_no_models_is_refused(folder: Path, change: dict[str, Any], words: str) -> None:
    def changed(_: Path, record: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in (record | change).items() if value is not None}

    foreign = resealed(folder, changed)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=words):
        load_model(foreign, CPU)
    assert tracemalloc.get_traced_memory()[1] < 2**28
    tracemalloc.stop()


def lacking(path: Path) -> None:
    weights = load_file(path)
    weights.pop("null_condition")
    save_file(weights, path)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"\0" * 99), lacking])
def test_weights_that_are_no_networks_are_refused(folder: Path, damage: Callable[[Path], object]) -> None:
    def changed(target: Path, record: dict[str, Any]) -> dict[str, Any]:
        damage(target / "model.safetensors")
        return record

    with pytest.raises(CheckpointError, match="does not fit the network"):
        load_model(resealed(folder, changed), CPU)
