"""Weights of AudioBox-Aesthetics: told apart, and refused where they are not what they should be."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from samuel.errors import MissingPartError
from samuel.evaluate.audiobox import (
    REPOSITORY,
    identity,
    load_audiobox,
    score,
)
from tests.evaluate.small_audiobox import small_audiobox
from tests.evaluate.test_audiobox import tone
from tests.hub import local_hub


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    """The path, and the network."""
    with small_audiobox(tmp_path_factory.mktemp("audiobox")) as written:
        yield written


def test_absent_checkpoint_is_named_and_the_hub_not_asked(tmp_path: Path) -> None:
    with pytest.raises(MissingPartError, match=r"none\.pt: no such file"):
        load_audiobox(tmp_path / "none.pt")


def test_damaged_or_other_files_are_refused(checkpoint: tuple[Path, Any], tmp_path: Path) -> None:
    cut = tmp_path / "cut.pt"
    cut.write_bytes(checkpoint[0].read_bytes()[:-1000])
    with pytest.raises(MissingPartError, match=r"cut\.pt: not a usable checkpoint"):
        load_audiobox(cut)
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(MissingPartError, match="not a checkpoint of audiobox_aesthetics"):
        load_audiobox(tmp_path / "other.pt")


def less(found: dict[str, Any]) -> None:
    found["state_dict"].popitem()


def another_size(found: dict[str, Any]) -> None:
    found["state_dict"]["model.wavlm_model.layer_norm.weight"] = torch.zeros(7)


def another_model(found: dict[str, Any]) -> None:
    found["model_cfg"] = {"width": 3, **{key: 1 for key in found["model_cfg"] if key != "proj_ln"}}


def no_mapping(found: dict[str, Any]) -> None:
    found["model_cfg"] = ["proj_ln"]


def an_axis_less(found: dict[str, Any]) -> None:
    del found["target_transform"]["CU"]


def no_scale(found: dict[str, Any]) -> None:
    found["target_transform"]["CU"] = {}


def no_number(found: dict[str, Any]) -> None:
    found["state_dict"]["model.wavlm_model.layer_norm.weight"][3] = torch.nan


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (less, "not a usable checkpoint .*Missing key"),
        (another_size, r"not a usable checkpoint .*size mismatch for wavlm_model\.layer_norm\.weight"),
        (another_model, r"not a checkpoint of audiobox_aesthetics \(model_cfg lacks proj_ln\)"),
        (no_mapping, "not a checkpoint of audiobox_aesthetics"),
        (an_axis_less, r"\(target_transform lacks CU\)"),
        (no_scale, "not a usable checkpoint .*mean"),
        (no_number, "holds values that are no numbers"),
    ],
)
def test_another_layout_is_refused(
    checkpoint: tuple[Path, Any], tmp_path: Path, damage: Callable[[dict[str, Any]], None], told: str
) -> None:
    found = torch.load(checkpoint[0], weights_only=True)
    damage(found)
    torch.save(found, tmp_path / "other.pt")
    with pytest.raises(MissingPartError, match=r"other\.pt: .*" + told):
        load_audiobox(tmp_path / "other.pt")


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    torch.save({"state_dict": {}, "model_cfg": Trap(sprung), "target_transform": {}}, tmp_path / "trap.pt")
    with pytest.raises(MissingPartError, match=r"trap\.pt"):
        load_audiobox(tmp_path / "trap.pt")
    assert not sprung.exists()


def test_hub_out_of_reach_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingPartError, match=r"could not be reached .*evaluation\.audiobox_path"):
        load_audiobox(None)
    with pytest.raises(MissingPartError, match="could not be reached"):
        identity(None)


def test_weights_of_the_hub_score_as_those_of_a_file(
    checkpoint: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint[1].save_pretrained(tmp_path / "shown")  # the package's own way to publish them
    with local_hub(monkeypatch, tmp_path / "cache") as hub:
        hub.folders[REPOSITORY] = tmp_path / "shown"
        fetched = load_audiobox(None)
        assert identity(None) == f"{REPOSITORY}@{hub.commit}"
        hub.down = True
        assert identity(None) == f"{REPOSITORY}@{hub.commit}"
        hub.down, hub.commit = False, "decade" + "0" * 34
        assert identity(None) == f"{REPOSITORY}@{hub.commit}"
    track = tone(2.0, 440.0)
    assert list(score(fetched, [track])) == list(score(load_audiobox(checkpoint[0]), [track]))


def test_what_the_hub_does_not_hold_does_not_stay_random(
    checkpoint: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint[1].save_pretrained(tmp_path / "shown")
    state = load_file(tmp_path / "shown" / "model.safetensors")
    del state["proj_layer.CE.0.bias"]
    save_file(state, tmp_path / "shown" / "model.safetensors")
    with local_hub(monkeypatch, tmp_path / "cache") as hub:
        hub.folders[REPOSITORY] = tmp_path / "shown"
        with pytest.raises(MissingPartError, match=r"lacks 1 tensors, proj_layer\.CE\.0\.bias"):
            load_audiobox(None)


def test_a_damaged_file_of_the_cache_is_told(
    checkpoint: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint[1].save_pretrained(tmp_path / "shown")
    with local_hub(monkeypatch, tmp_path / "cache") as hub:
        hub.folders[REPOSITORY] = tmp_path / "shown"
        load_audiobox(None)
        [weights] = (tmp_path / "cache").rglob("model.safetensors")
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.resolve().write_bytes(content)
        with pytest.raises(MissingPartError, match=r"model\.safetensors: damaged"):
            load_audiobox(None)


def test_identity_of_a_file_is_its_digest(checkpoint: tuple[Path, Any], tmp_path: Path) -> None:
    assert identity(checkpoint[0]) == hashlib.sha256(checkpoint[0].read_bytes()).hexdigest()
    with pytest.raises(MissingPartError, match=r"none\.pt: no such file"):
        identity(tmp_path / "none.pt")
