import warnings
from pathlib import Path
from typing import Any

import pytest

from samuel.artifacts import read_jsonl
from samuel.train.run_state import MetricsLog


def row(step: int, run: int = 0) -> dict[str, Any]:
    return {"step": step, "loss": 1 / step + run, "learning_rate": 1e-3}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "training" / "metrics.jsonl"


def append(path: Path, steps: range, tensorboard: Path | None = None, run: int = 0, **options: Any) -> None:
    log = MetricsLog(path, tensorboard, **options)
    for step in steps:
        log.append(row(step, run))
    log.close()


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    read = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


@pytest.mark.parametrize("tail", [b'{"step": 4, "lo', b'{"step": 4}', b"\0\0\0\0\n", b'"step"\n', b"\xff\n"])
def test_a_log_goes_on_behind_what_is_whole(tail: bytes, path: Path) -> None:
    append(path, range(1, 4))
    path.write_bytes(path.read_bytes() + tail)
    append(path, range(4, 6))
    assert read_jsonl(path) == [row(step) for step in range(1, 6)]


def test_every_number_of_a_row_is_a_curve_that_goes_on_where_the_training_does(
    path: Path, tmp_path: Path
) -> None:
    events = tmp_path / "tensorboard"
    append(path, range(1, 10), events)
    append(path, range(7, 9), events, run=1, last_step=6)  # another process, from the checkpoint of step 6
    append(path, range(8, 9), events, run=2, last_step=7)  # and back once more
    wanted = [*(row(step) for step in range(1, 7)), row(7, run=1), row(8, run=2)]
    assert read_jsonl(path) == wanted
    found = curves(events)
    assert set(found) == {"loss", "learning_rate"}
    assert found["loss"] == [(r["step"], pytest.approx(r["loss"])) for r in wanted]
