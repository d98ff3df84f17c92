"""Demucs: equal to its own apply_model, whatever shares a batch with what; damaged weights are refused."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from samuel.audio import SAMPLE_RATE, Audio
from samuel.config import SeparatorConfig
from samuel.errors import MissingPartError
from samuel.hub import quietly
from samuel.separators import load_separator
from tests.weights import Trap, write_demucs

CPU = torch.device("cpu")


def noise(seconds: float, seed: int = 1) -> Audio:
    shape = (2, int(seconds * SAMPLE_RATE))
    rng = np.random.default_rng(seed)
    return (rng.uniform(0.02, 0.2) * rng.standard_normal(shape) + 0.01).astype(np.float32)


def demucs_own(model: Any, mix: Audio) -> Audio:
    """The vocals by demucs' own loop, one song and one segment at a time."""
    with quietly():
        from demucs.apply import apply_model

    wave = torch.from_numpy(mix)
    middle = wave.mean(0)
    mean, deviation = middle.mean(), middle.std() + 1e-8
    stems = apply_model(model, ((wave - mean) / deviation)[None], shifts=0, overlap=0.25)[0]
    return (stems[model.sources.index("vocals")] * deviation + mean).numpy()


def own_model(repository: Path, name: str = "tiny") -> Any:
    with quietly():
        from demucs.pretrained import get_model

        return get_model(name, repository)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demucs")
    write_demucs(folder)
    return folder


def load_tiny(repository: Path, model: str = "tiny", **choices: Any) -> Any:
    return load_separator(SeparatorConfig(name="demucs", model=model, repo=repository, **choices), CPU)


# Segments are 2 s, their stride is 1.5 s: one, exactly two, an odd end.
@pytest.mark.parametrize(("seconds", "batch"), [(0.3, 1), (3.0, 4), (3.513, 1)])
def test_equals_apply_model(repository: Path, seconds: float, batch: int) -> None:
    mix = noise(seconds)
    expected = demucs_own(own_model(repository), mix)
    vocals = load_tiny(repository, batch=batch).vocals(mix)
    assert vocals.dtype == np.float32
    assert np.abs(vocals - expected).max() < 1e-6
    assert np.abs(expected).max() > 1e-3


def test_a_bag_is_the_weighted_mean_of_its_members(tmp_path: Path) -> None:
    write_demucs(tmp_path, weights=[[1.0] * 4] * 3)
    for name, weights in {
        "uneven": [[1, 1, 1, 0.5], [0, 1, 1, 2], [1, 1, 1, 0]],
        "one": [[1, 1, 1, 0], [0, 0, 0, 1], [1, 1, 1, 0]],
    }.items():
        lines = ["models: [tiny0000, tiny0001, tiny0002]", f"weights: {weights}", "segment: 1.5"]
        (tmp_path / f"{name}.yaml").write_text("\n".join(lines))
        mix, separator = noise(0.9), load_tiny(tmp_path, name, batch=2)
        assert np.abs(separator.vocals(mix) - demucs_own(own_model(tmp_path, name), mix)).max() < 1e-6
        assert len(separator._members) == sum(member[3] > 0 for member in weights)


def test_identity_follows_the_weights(repository: Path, tmp_path: Path) -> None:
    weights = write_demucs(tmp_path)
    assert load_tiny(repository, batch=4).identity == load_tiny(tmp_path).identity
    package = torch.load(weights, weights_only=False)
    next(iter(package["state"].values())).add_(1e-3)
    torch.save(package, tmp_path / "tiny0000.th")
    weights.unlink()
    assert load_tiny(tmp_path).identity != load_tiny(repository).identity


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    path, loose = write_demucs(tmp_path), tmp_path / "tiny0000.th"
    content = bytearray(path.read_bytes())
    package = torch.load(path, weights_only=False)
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(MissingPartError, match="checksum"):
        load_tiny(tmp_path)
    path.unlink()
    # From here on without the digest in its name, so that only the content can tell.
    loose.write_bytes(content[:-1000])
    with pytest.raises(MissingPartError, match=r"cannot load 'tiny' .* fetch it again"):
        load_tiny(tmp_path)
    next(iter(package["state"].values())).view(-1)[3] = torch.nan
    torch.save(package, loose)
    with pytest.raises(MissingPartError, match="no numbers"):
        load_tiny(tmp_path)


def test_a_folder_runs_nobodys_code_and_its_files_lie_in_it(tmp_path: Path) -> None:
    path, loose = write_demucs(tmp_path / "repo"), tmp_path / "repo" / "tiny0000.th"
    package = torch.load(path, weights_only=False)
    path.unlink()
    torch.save(package | {"training_args": {"best": np.float64(0.5)}}, loose)  # as official ones may
    load_tiny(tmp_path / "repo")
    torch.save(package | {"training_args": Trap(tmp_path / "was-here")}, loose)
    with pytest.raises(MissingPartError, match="Weights only load failed"):
        load_tiny(tmp_path / "repo")
    assert not (tmp_path / "was-here").exists()
    torch.save(package, tmp_path / "elsewhere.th")
    loose.unlink()
    loose.symlink_to(tmp_path / "elsewhere.th")
    for _ in range(2):
        with pytest.raises(MissingPartError, match="leads out of its folder, or is no file"):
            load_tiny(tmp_path / "repo")
        loose.unlink()
        os.mkfifo(loose)
