import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from samuel.artifacts import Artifact
from samuel.checkpoint import load_model
from samuel.config import Settings
from samuel.errors import CheckpointError, DatasetError
from samuel.popdb.dataset import Popdb
from samuel.popdb.writer import write_popdb
from samuel.reading import read_jsonl
from samuel.train import Training, fit, run_folder
from samuel.train.trainer import MetricsLog
from tests.popdb.latents import encoded_song, flip_bit, small_settings
from tests.train.trainings import checkpoints, fit_until, fitted, ignore, put_nan, stepped, untimed, weights

CPU = torch.device("cpu")
Changes = dict[str, Any]


def test_a_killed_training_goes_on_bit_for_bit(
    popdb: Popdb, settings: Settings, whole: Artifact, tmp_path: Path
) -> None:
    resumed = fitted(popdb, settings, tmp_path / "resumed", kills=(1, 4, 5))
    assert resumed.sha256["model.safetensors"] == whole.sha256["model.safetensors"]
    assert resumed.record == whole.record
    assert untimed(resumed) == untimed(whole)
    assert [row["step"] for row in untimed(whole)] == [1, 2, 3, 4, 5, 6]


def test_other_pairs_and_other_settings_are_another_training(settings: Settings, tmp_path: Path) -> None:
    changes: list[Changes] = [
        {"training": {"learning_rate": 2e-3}},
        {"diffusion": {"loss_weight": "uniform"}},
        {"model": {"mixing": "even"}},
        {"training": {"keep_checkpoints": 5, "checkpoint_every": 3, "tensorboard": True}},  # same model
    ]
    folders = set[Path]()
    for names in ("abc", "abcd", "abd"):
        popdb = write_popdb([encoded_song(tmp_path, name) for name in names], settings)
        folders.add(run_folder(popdb, settings))
    folders |= {run_folder(popdb, small_settings(tmp_path, **change)) for change in changes}
    assert len(folders) == 3 + 3


def test_every_setting_of_the_fit_reaches_it(popdb: Popdb, tmp_path: Path) -> None:
    plain = weights(stepped(popdb, tmp_path))
    assert torch.equal(weights(stepped(popdb, tmp_path)), plain)
    changes: list[Changes] = [
        {"training": {"gradient_clip": 1e-9}},
        {"training": {"learning_rate": 1e-4}},
        {"training": {"weight_decay": 0.9}},
        {"training": {"seed": 7}},
        {"training": {"augmentation": {"noise": 0.5}}},
        {"diffusion": {"condition_dropout": 1.0}},
        {"diffusion": {"loss_weight": "snr"}},
    ]
    for change in changes:
        assert not torch.equal(weights(stepped(popdb, tmp_path, **change)), plain), change


def test_training_learns(popdb: Popdb, tmp_path: Path) -> None:
    """The latents stand still for 16 frames: whoever averages over neighbours gets well below E[v²] = 1."""
    training = {"steps": 60, "batch_size": 4, "learning_rate": 5e-3, "checkpoint_every": 60}
    settings = small_settings(tmp_path, training=training | {"validate_every": 60})
    errors = [row["v_mse"] for row in untimed(fitted(popdb, settings, tmp_path / "run"))]
    assert sum(errors[-10:]) < 0.92 * sum(errors[:3]) / 3 * 10


def test_the_average_follows_its_closed_form(popdb: Popdb, settings: Settings, tmp_path: Path) -> None:
    training, decay = Training(popdb, settings, tmp_path / "run"), settings.training.ema_decay
    expected = None
    for _ in range(3):
        training.step()
        training.progress.step += 1
        now = weights(training).clone()
        expected = now if expected is None else decay * expected + (1 - decay) * now
    assert expected is not None
    average = torch.cat([p.detach().flatten() for p in training.average.module.parameters()])
    torch.testing.assert_close(average, expected, atol=1e-6, rtol=0)


def test_the_exported_model_is_the_average_of_the_best_validation(popdb: Popdb, tmp_path: Path) -> None:
    # A learning rate that grows worse: the best is not the last.
    settings = small_settings(tmp_path, training={"validate_every": 1, "learning_rate": 0.5})
    training, kept = Training(popdb, settings, tmp_path / "training"), dict[int, dict[str, torch.Tensor]]()
    training.resume()
    while not training.finished:
        step = training.advance()["step"]
        kept[step] = {k: v.clone() for k, v in training.average.module.state_dict().items()}
    training.export(tmp_path / "model")
    training.close()
    model, best_step = load_model(tmp_path / "model", CPU), training.progress.best_step
    assert best_step < 6
    rows = read_jsonl(tmp_path / "training" / "metrics.jsonl")
    assert best_step == min(rows, key=lambda row: row["validation_loss"])["step"]
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(kept[best_step][name], tensor)


def test_a_checkpoint_of_other_settings_or_data_is_refused_by_name(
    popdb: Popdb, settings: Settings, tmp_path: Path
) -> None:
    fit_until(popdb, settings, tmp_path / "run", 4)
    changed = small_settings(tmp_path, training={"learning_rate": 2e-3}, model={"window": 8})
    words = r"model\.window is 16 there, 8 here; training\.learning_rate is 0\.001 there"
    with pytest.raises(CheckpointError, match=words):
        fit(popdb, changed, tmp_path / "run", ignore)
    other = small_settings(tmp_path / "other")
    others = write_popdb([encoded_song(tmp_path / "other", name) for name in "xyz"], other)
    with pytest.raises(CheckpointError, match=r"of another training, dataset is .*; give back"):
        fit(others, settings, tmp_path / "run", ignore)
    operational = small_settings(tmp_path, training={"keep_checkpoints": 5, "checkpoint_every": 3})
    assert fit(popdb, operational, tmp_path / "run", ignore).made


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_serves(
    popdb: Popdb, settings: Settings, whole: Artifact, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    fit_until(popdb, settings, run, 5)
    assert checkpoints(run) == [2, 4]
    path = run / "training" / "step-00000004" / "average.safetensors"
    flip_bit(path)
    with pytest.raises(CheckpointError, match=r"step-00000004/average\.safetensors: its bytes have changed"):
        fit(popdb, settings, run, ignore)
    path.unlink()  # no longer whole: the one before is the newest
    few = small_settings(tmp_path, training={"checkpoint_every": 3, "keep_checkpoints": 1})
    fit_until(popdb, few, run, 4)
    assert checkpoints(run) == [3]  # and does not take the place of a whole one
    assert fitted(popdb, settings, run).sha256["model.safetensors"] == whole.sha256["model.safetensors"]


def test_latents_that_are_not_numbers_are_named_before_the_optimiser_acts(
    own_popdb: Popdb, settings: Settings, tmp_path: Path
) -> None:
    broken = own_popdb.pairs("train")[3]["pair_id"]
    put_nan(own_popdb, broken, "vocal")
    training = Training(own_popdb, settings, tmp_path / "run")
    while broken not in training.batches.pair_ids(training.progress.step):
        training.step()
        training.progress.step += 1
    before, moments = weights(training).clone(), str(training.optimiser.state_dict()["state"])
    with pytest.raises(DatasetError, match=f"NaN or infinity in the latents of {broken}; run samuel verify"):
        training.step()
    assert torch.equal(weights(training), before)
    assert str(training.optimiser.state_dict()["state"]) == moments


def test_a_training_that_diverges_is_stopped_and_its_last_checkpoint_kept(
    popdb: Popdb, tmp_path: Path
) -> None:
    wild = {"steps": 2000, "learning_rate": 0.9, "warmup_steps": 0, "gradient_clip": 1e9}
    settings = small_settings(tmp_path, training=wild | {"validate_every": 2000, "checkpoint_every": 19})
    with pytest.raises(DatasetError, match=r"the training diverged.*; lower training\.learning_rate"):
        fit(popdb, settings, tmp_path / "run", ignore)
    assert len(read_jsonl(tmp_path / "run/training/metrics.jsonl")) < 200
    assert checkpoints(tmp_path / "run")


def test_a_compiled_training_takes_the_same_steps(
    popdb: Popdb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By dynamo alone, which traces the step as every backend gets it; that of the default takes minutes."""
    plain, compile_with, graphs = stepped(popdb, tmp_path), torch.compile, list[Any]()

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", lambda module, **_: compile_with(module, backend=backend))
    compiled = stepped(popdb, tmp_path, training={"compile": True})
    assert torch.allclose(weights(compiled), weights(plain), atol=1e-6)
    assert len(graphs) == 1


def row(step: int, run: int = 0) -> dict[str, Any]:
    return {"step": step, "loss": 1 / step + run, "learning_rate": 1e-3}


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
def test_a_log_goes_on_behind_what_is_whole(tail: bytes, tmp_path: Path) -> None:
    append(path := tmp_path / "training" / "metrics.jsonl", range(1, 4))
    path.write_bytes(path.read_bytes() + tail)
    append(path, range(4, 6))
    assert read_jsonl(path) == [row(step) for step in range(1, 6)]


def test_every_number_of_a_row_is_a_curve_that_goes_on_where_the_training_does(tmp_path: Path) -> None:
    path, events = tmp_path / "metrics.jsonl", tmp_path / "tensorboard"
    append(path, range(1, 10), events)
    append(path, range(7, 9), events, run=1, last_step=6)  # another process, from the checkpoint of step 6
    append(path, range(8, 9), events, run=2, last_step=7)  # and back once more
    wanted = [*(row(step) for step in range(1, 7)), row(7, run=1), row(8, run=2)]
    assert read_jsonl(path) == wanted
    found = curves(events)
    assert set(found) == {"loss", "learning_rate"}
    assert found["loss"] == [(r["step"], pytest.approx(r["loss"])) for r in wanted]
