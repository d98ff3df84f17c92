import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from samuel.artifacts import read_jsonl
from samuel.errors import MissingPartError
from samuel.train.run_log import MetricsLog


def row(step: int, run: int = 0) -> dict[str, Any]:
    return {"step": step, "loss": 1 / step + run, "learning_rate": 1e-3}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "training" / "metrics.jsonl"


@pytest.fixture
def log(path: Path) -> Iterator[MetricsLog]:
    opened = MetricsLog(path, None)
    yield opened
    opened.close()


def written(path: Path, steps: int, tensorboard: Path | None = None) -> None:
    log = MetricsLog(path, tensorboard)
    for step in range(1, steps + 1):
        log.append(row(step))
    log.close()


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    read = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_a_row_is_with_the_kernel_as_soon_as_it_is_added(log: MetricsLog, path: Path) -> None:
    assert log.rows() == []
    for step in (1, 2, 3):
        log.append(row(step))
        assert read_jsonl(path) == log.rows() == [row(n) for n in range(1, step + 1)]


def test_a_log_goes_on_behind_what_is_there(path: Path) -> None:
    written(path, 3)
    log = MetricsLog(path, None)
    log.append(row(4))
    log.close()
    assert read_jsonl(path) == [row(step) for step in (1, 2, 3, 4)]


@pytest.mark.parametrize("tail", [b'{"step": 4, "lo', b'{"step": 4}', b"\0\0\0\0\n", b'"step"\n', b"\xff\n"])
def test_a_line_that_was_cut_short_is_dropped(tail: bytes, path: Path) -> None:
    written(path, 3)
    path.write_bytes(path.read_bytes() + tail)
    log = MetricsLog(path, None)
    assert [found["step"] for found in log.rows()] == [1, 2, 3]
    log.append(row(4))
    log.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [row(n) for n in (1, 2, 3, 4)]


def test_what_follows_a_damaged_line_is_dropped_with_it_and_said(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(path, 5)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"\0" * len(lines[2]), b"\n", *lines[3:]]))
    log = MetricsLog(path, None)
    log.close()
    assert read_jsonl(path) == [row(1), row(2)]
    assert "line 3 is damaged" in caplog.text


def test_rewinding_drops_what_comes_after_the_step(log: MetricsLog, path: Path) -> None:
    for step in range(1, 8):
        log.append(row(step))
    log.rewind(4)
    assert read_jsonl(path) == [row(step) for step in (1, 2, 3, 4)]
    log.append(row(5, run=1))
    assert read_jsonl(path)[3:] == [row(4), row(5, run=1)]
    log.rewind(0)
    assert read_jsonl(path) == []
    log.append(row(1))
    assert read_jsonl(path) == [row(1)]


def test_a_rewind_that_fails_leaves_the_rows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(path, 5)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    log = MetricsLog(path, None)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        log.rewind(2)
    assert read_jsonl(path) == [row(step) for step in range(1, 6)]
    assert list(path.parent.iterdir()) == [path]


def test_flushing_forces_the_rows_to_disk(
    log: MetricsLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced: list[tuple[int, int]] = []

    def note(descriptor: int) -> None:
        status = os.fstat(descriptor)
        forced.append((status.st_ino, status.st_size))

    monkeypatch.setattr(os, "fsync", note)
    log.append(row(1))
    assert forced == []
    log.flush()
    assert forced == [(path.stat().st_ino, path.stat().st_size)]


def test_flushing_waits_for_every_event(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    write = RecordWriter.write

    def slowly(writer: RecordWriter, record: bytes) -> None:
        time.sleep(0.01)
        write(writer, record)

    monkeypatch.setattr(RecordWriter, "write", slowly)
    log = MetricsLog(path, tmp_path / "tensorboard")
    for step in range(1, 51):
        log.append(row(step))
    log.flush()
    files = [file.read_bytes() for file in (tmp_path / "tensorboard").iterdir()]
    log.close()
    assert [file.count(b"loss") for file in files] == [50]


def test_every_number_of_a_row_is_a_curve(path: Path, tmp_path: Path) -> None:
    log = MetricsLog(path, tmp_path / "tensorboard")
    for step in range(1, 13):
        log.append(row(step) | ({"validation_loss": 0.25 * step, "note": "x"} if step % 4 == 0 else {}))
    log.flush()
    found = curves(tmp_path / "tensorboard")
    log.close()
    assert found["loss"] == [(step, pytest.approx(1 / step)) for step in range(1, 13)]
    assert found["validation_loss"] == [(4, 1.0), (8, 2.0), (12, 3.0)]
    assert set(found) == {"loss", "learning_rate", "validation_loss"}


def test_the_curves_go_on_where_the_training_does(path: Path, tmp_path: Path) -> None:
    written(path, 9, tmp_path / "tensorboard")
    log = MetricsLog(path, tmp_path / "tensorboard")  # another process, from the checkpoint of step 6
    log.rewind(6)
    for step in (7, 8):
        log.append(row(step, run=1))
    log.rewind(7)  # and back once more
    log.append(row(8, run=2))
    log.close()
    wanted = [row(step) for step in range(1, 7)] + [row(7, run=1), row(8, run=2)]
    assert read_jsonl(path) == wanted
    assert curves(tmp_path / "tensorboard")["loss"] == [
        (found["step"], pytest.approx(found["loss"])) for found in wanted
    ]


def test_without_tensorboard_its_absence_does_not_matter(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    written(path, 2)
    assert len(read_jsonl(path)) == 2
    with pytest.raises(MissingPartError, match=r"pip install 'samuel\[tensorboard\]'"):
        MetricsLog(path, tmp_path / "tensorboard")
    assert not (tmp_path / "tensorboard").exists()


def test_nothing_of_tensorboard_is_imported_unless_it_is_wanted(path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from samuel.train.run_log import MetricsLog\n"
        "log = MetricsLog(pathlib.Path(sys.argv[1]), None)\n"
        "log.append({'step': 1}); log.flush(); log.close()\n"
        "print([name for name in sys.modules if name.partition('.')[0] == 'tensorboard'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
