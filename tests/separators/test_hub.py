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
from tests.popdb.latents import flip_bit
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


def test_what_is_cached_needs_no_hub(hub: LocalHub) -> None:
    identity = load().identity
    hub.down = True
    assert load().identity == identity
    with pytest.raises(MissingPartError, match=r"adefossez/HTDemucs-6s: .*separator\.repo"):
        load("htdemucs_6s")


def test_a_name_may_tell_the_owner(hub: LocalHub) -> None:
    assert load("stranger/htdemucs").identity.split("weights=")[1] == load().identity.split("weights=")[1]
    assert load("hf://stranger/htdemucs").identity.startswith("demucs/")


def test_a_flipped_byte_in_the_cache_is_found(hub: LocalHub, tmp_path: Path) -> None:
    load()
    [weights] = (tmp_path / "cache").rglob("*.safetensors")
    flip_bit(weights.resolve(), -1000)
    with pytest.raises(MissingPartError, match="damaged, its bytes are not those that the hub published"):
        load()


def test_a_truncated_download_is_no_model(hub: LocalHub) -> None:
    hub.short = True
    with pytest.raises(MissingPartError, match="the download broke off"):
        load()


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
        ("models: [tiny0000]\nweights: [[0, 0, 0, 0]]", "makes no vocals|cannot load"),
        ("models: [tiny0000]\nweights: [[1, 1, 1, .inf]]", "makes no vocals"),
        ("models: [tiny0000]\nsegment: 0", "makes no vocals"),
        ("models: " + "[" * 2000, "cannot load"),
    ],
)
def test_a_listing_that_is_none(hub: LocalHub, tmp_path: Path, listing: str, message: str) -> None:
    (tmp_path / "single" / "htdemucs.yaml").write_text(listing)
    with pytest.raises(MissingPartError, match=rf"{message}"):
        load()


def test_a_local_repository_does_not_lead_to_the_hub(hub: LocalHub, tmp_path: Path) -> None:
    write_demucs(tmp_path / "repo")
    for model in ("hf://stranger/htdemucs", "stranger/htdemucs"):
        with pytest.raises(MissingPartError, match=r"unset separator\.repo"):
            load(model, tmp_path / "repo")
    assert hub.requests == []
