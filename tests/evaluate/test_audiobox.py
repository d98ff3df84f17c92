"""AudioBox-Aesthetics behind our two calls, on random weights in its own layout."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch

from samuel.audio import SAMPLE_RATE
from samuel.errors import MissingPartError
from samuel.evaluate.audiobox import AXES, load_audiobox, score
from samuel.weights import quietly
from tests.weights import write_audiobox


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    """The layout says nothing about the encoder's size; a small one is put in the package for this module."""
    with quietly():
        from audiobox_aesthetics.model import aes

    small = {
        "encoder_layers": 12,
        "encoder_embed_dim": 48,
        "encoder_ffn_embed_dim": 64,
        "encoder_attention_heads": 4,
    }
    small |= {"conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2", "conv_pos_groups": 4}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aes, "DEFAULT_AUDIO_CFG", aes.WavLMConfig({**vars(aes.DEFAULT_AUDIO_CFG), **small}))
        path = tmp_path_factory.mktemp("audiobox") / "checkpoint.pt"
        network = write_audiobox(path)
        yield path, network


def tone(seconds: float, pitch: float) -> Any:
    wave = 0.3 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)
    return np.stack([wave, wave]).astype(np.float32)


def test_scores_are_those_of_the_package(checkpoint: tuple[Path, Any]) -> None:
    tracks = [tone(3.0, 220.0), tone(12.0, 900.0)]
    predictor = load_audiobox(checkpoint[0])
    rows = score(predictor, tracks)
    assert [set(row) for row in rows] == [set(AXES)] * 2
    with quietly():
        together = predictor.forward(
            [{"path": torch.from_numpy(track), "sample_rate": SAMPLE_RATE} for track in tracks]
        )
    for row, expected in zip(rows, together, strict=True):
        assert row == pytest.approx(expected, abs=1e-3)
    assert rows[0] != rows[1]


def test_axes_keep_their_names(checkpoint: tuple[Path, Any]) -> None:
    # The scale of each axis sets its mean apart: CE 5, CU 6, PC 7, PQ 8.
    (row,) = score(load_audiobox(checkpoint[0]), [tone(2.0, 440.0)])
    assert {axis: round(value) for axis, value in row.items()} == {"CE": 5, "CU": 6, "PC": 7, "PQ": 8}


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


def test_missing_tensor_is_refused(checkpoint: tuple[Path, Any], tmp_path: Path) -> None:
    found = torch.load(checkpoint[0], weights_only=True)
    found["state_dict"].popitem()
    torch.save(found, tmp_path / "less.pt")
    with pytest.raises(MissingPartError, match=r"less\.pt: not a usable checkpoint"):
        load_audiobox(tmp_path / "less.pt")


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
