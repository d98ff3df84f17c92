"""Demucs from the hub, by the official code path against a hub on this machine."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from samuel.audio import Audio
from samuel.config import SeparatorConfig
from samuel.errors import MissingPartError
from samuel.separators import Separator, load_separator
from tests.hub import LocalHub, local_hub
from tests.weights import ONE_HOT, write_demucs, write_demucs_hub

CPU = torch.device("cpu")
SONG: Audio = np.random.default_rng(0).normal(0, 0.1, (2, 100_000)).astype(np.float32)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    write_demucs_hub(tmp_path / "single", "htdemucs")
    write_demucs_hub(tmp_path / "bag", "htdemucs_ft", weights=ONE_HOT)
    with local_hub(monkeypatch, tmp_path / "cache") as running:
        running.folders["adefossez/HTDemucs"] = tmp_path / "single"
        running.folders["adefossez/HTDemucs-ft"] = tmp_path / "bag"
        running.folders["stranger/HTDemucs"] = tmp_path / "single"
        yield running


def load(model: str = "htdemucs", repo: Path | None = None) -> Separator:
    return load_separator(SeparatorConfig(name="demucs", model=model, repo=repo), CPU)


@pytest.mark.parametrize(("model", "weights"), [("htdemucs", None), ("htdemucs_ft", ONE_HOT)])
def test_the_same_model_as_from_a_folder(
    hub: LocalHub, tmp_path: Path, model: str, weights: list[list[float]] | None
) -> None:
    write_demucs(tmp_path / "repo", model, weights)
    local, remote = load(model, tmp_path / "repo"), load(model)
    assert remote.identity == local.identity
    assert np.array_equal(remote.vocals(SONG), local.vocals(SONG))


def foreign(file: Path, **changed: str) -> None:
    """Rewrite the metadata of a published network."""
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    save_file(load_file(file), file, metadata | changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"klass": "os.system", "args": json.dumps(["touch was-here"]), "kwargs": "{}"},
        {"structure": json.dumps({"_class": "os.system"})},
    ],
)
def test_a_strangers_code_is_not_run(
    hub: LocalHub, tmp_path: Path, changed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    [file] = (tmp_path / "single").glob("*.safetensors")
    foreign(file, **changed)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingPartError, match="not loaded: its network is"):
        load("stranger/htdemucs")
    assert not (tmp_path / "was-here").exists()


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        ("!!python/object/apply:os.system ['touch was-here']", "cannot load"),
        ("models: [../tiny0000]", "no list of models"),
        (f"models: [{', '.join(17 * ['tiny0000'])}]", "no list of models"),
        ("#" * 2**17, "cannot load .* over 65,536 bytes"),
        ("models: [tiny0000]\nsegment: 0", "makes no vocals"),
    ],
)
def test_a_listing_that_is_none(hub: LocalHub, tmp_path: Path, listing: str, message: str) -> None:
    (tmp_path / "single" / "htdemucs.yaml").write_text(listing)
    with pytest.raises(MissingPartError, match=rf"{message}"):
        load()
