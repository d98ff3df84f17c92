import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from samuel.errors import MissingPartError
from samuel.popdb.dataset import Popdb
from samuel.train import Training
from tests.popdb.latents import small_settings
from tests.train.trainings import two_steps, weights


def test_a_compiled_training_takes_the_same_steps(
    popdb: Popdb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By dynamo alone, which traces the step as every backend gets it; that of the default takes minutes."""
    plain, compile_with = two_steps(popdb, tmp_path), torch.compile
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", lambda module, **_: compile_with(module, backend=backend))
    compiled = two_steps(popdb, tmp_path, training={"compile": True})
    assert torch.allclose(weights(compiled), weights(plain), atol=1e-6)
    assert len(graphs) == 1


def test_compiling_without_a_compiler_is_refused(
    popdb: Popdb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(MissingPartError, match=r"torch\.compile on cpu needs a C\+\+ compiler"):
        Training(popdb, small_settings(tmp_path, training={"compile": True}), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler meets its own
def test_the_default_compiler_takes_the_same_steps(popdb: Popdb, tmp_path: Path) -> None:
    plain = two_steps(popdb, tmp_path)
    compiled = two_steps(popdb, tmp_path, training={"compile": True})
    assert torch.allclose(weights(compiled), weights(plain), atol=1e-5)
