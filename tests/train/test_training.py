import json
import multiprocessing
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from samuel.artifacts import Artifact, read_jsonl, sha256
from samuel.checkpoint import load_model
from samuel.config import Settings, parse
from samuel.errors import CheckpointError, StoppedError
from samuel.popdb.dataset import Popdb, open_popdb
from samuel.popdb.writer import compact, write_popdb
from samuel.train import (
    Training,
    fit,
    learning_rate_at,
    run_folder,
)
from tests.lines import append_line
from tests.popdb.latents import encoded_song, small_settings
from tests.train.trainings import (
    KilledError,
    ignore,
    stop_at,
    two_steps,
    weights,
)

CPU = torch.device("cpu")


def trained(popdb: Popdb, settings: Settings, run: Path, stops: tuple[int, ...] = ()) -> Artifact:
    for step in stops:
        with pytest.raises(KilledError):
            fit(popdb, settings, run, stop_at(step))
    return fit(popdb, settings, run, ignore)


@pytest.mark.parametrize("stops", [(1,), (2,), (3,), (5,), (1, 4, 5)])
def test_a_killed_training_goes_on_bit_for_bit(
    popdb: Popdb, settings: Settings, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    whole = trained(popdb, settings, tmp_path / "whole")
    resumed = trained(popdb, settings, tmp_path / "resumed", stops)
    assert resumed.sha256["model.safetensors"] == whole.sha256["model.safetensors"]
    assert resumed.record == whole.record
    losses = [
        [
            (row["step"], row["loss"], row.get("validation_loss"))
            for row in read_jsonl(run / "training/metrics.jsonl")
        ]
        for run in (tmp_path / "whole", tmp_path / "resumed")
    ]
    assert losses[0] == losses[1]
    assert [row[0] for row in losses[0]] == [1, 2, 3, 4, 5, 6]


def test_a_training_outlives_the_compaction_of_its_dataset(settings: Settings, tmp_path: Path) -> None:
    songs = [encoded_song(tmp_path, name) for name in "abcde"]
    write_popdb(songs[::2], settings)
    grown = write_popdb(songs, settings)
    run = run_folder(grown, settings)
    whole = trained(grown, settings, tmp_path / "whole")
    with pytest.raises(KilledError):
        fit(grown, settings, run, stop_at(3))
    compacted = compact(grown.root)
    assert compacted.info["index_sha256"] != grown.info["index_sha256"]
    assert run_folder(compacted, settings) == run
    resumed = trained(compacted, settings, run)
    assert resumed.sha256["model.safetensors"] == whole.sha256["model.safetensors"]
    assert resumed.record == whole.record
    assert resumed.record["dataset"] == compacted.info["content_sha256"]


def test_other_pairs_are_another_training(settings: Settings, tmp_path: Path) -> None:
    folders = set()
    for names in ("abc", "abcd", "abd"):
        songs = [encoded_song(tmp_path, name) for name in names]
        folders.add(run_folder(write_popdb(songs, settings), settings))
    assert len(folders) == 3


def test_a_finished_training_is_not_done_again(popdb: Popdb, settings: Settings, tmp_path: Path) -> None:
    assert trained(popdb, settings, tmp_path / "run").made
    assert not fit(popdb, settings, tmp_path / "run", lambda _: pytest.fail("a step was taken")).made
    assert not list((tmp_path / "run" / "training").glob("*-*"))
    left = tmp_path / "run" / "training" / "step-00000004"
    left.mkdir()  # as by a kill right after the model
    fit(popdb, settings, tmp_path / "run", ignore)
    assert not left.exists()


def test_the_step_depends_on_every_setting_that_shapes_it(popdb: Popdb, settings: Settings) -> None:
    changes = [
        {"training": {"learning_rate": 2e-3}},
        {"diffusion": {"loss_weight": "uniform"}},
        {"model": {"mixing": "even"}},
    ]
    folders = {run_folder(popdb, settings)}
    for change in changes:
        values = settings.model_dump()
        for section, value in change.items():
            values[section] |= value
        folders.add(run_folder(popdb, parse(values)))
    assert len(folders) == 4


def test_the_average_follows_its_closed_form(popdb: Popdb, settings: Settings, tmp_path: Path) -> None:
    training = Training(popdb, settings, tmp_path / "run")
    name, parameter = next((n, p) for n, p in training.network.named_parameters() if p.ndim > 1)
    expected = None
    for _ in range(3):
        training.step()
        training.progress.step += 1
        now = parameter.detach().clone()
        decay = settings.training.ema_decay
        expected = now if expected is None else decay * expected + (1 - decay) * now
    assert expected is not None
    assert torch.allclose(training.average.module.get_parameter(name), expected, atol=1e-7)


def test_validation_compares_across_trainings(popdb: Popdb, settings: Settings, tmp_path: Path) -> None:
    first, second = (Training(popdb, settings, tmp_path / name) for name in "ab")
    assert first.validate() == second.validate() == first.validate()
    # A network that answers zero has the error E[v²] = 1 on normalised latents, whatever it hears.
    assert first.validate()["validation_loss"] == pytest.approx(1.0, abs=0.1)


def test_patience_ends_a_training_that_no_longer_gains(popdb: Popdb, tmp_path: Path) -> None:
    still = small_settings(
        tmp_path, training={"steps": 50, "learning_rate": 1e-30, "validate_every": 1, "patience": 2}
    )
    trained(popdb, still, tmp_path / "run")
    assert len(read_jsonl(tmp_path / "run" / "training" / "metrics.jsonl")) < 10


def test_training_learns(popdb: Popdb, tmp_path: Path) -> None:
    """The latents stand still for 16 frames: whoever averages over neighbours gets well below E[v²] = 1."""
    settings = small_settings(
        tmp_path, training={"steps": 80, "batch_size": 4, "learning_rate": 5e-3, "checkpoint_every": 80}
    )
    trained(popdb, settings, tmp_path / "run")
    errors = [row["v_mse"] for row in read_jsonl(tmp_path / "run" / "training" / "metrics.jsonl")]
    assert sum(errors[-10:]) < 0.92 * sum(errors[:3]) / 3 * 10


def test_the_exported_model_is_the_average_of_the_best_validation(
    popdb: Popdb, settings: Settings, tmp_path: Path
) -> None:
    training = Training(popdb, settings, tmp_path / "run" / "training")
    kept: dict[int, dict[str, torch.Tensor]] = {}
    with closing(training):
        while not training.finished:
            step = training.advance()["step"]
            kept[step] = {k: v.clone() for k, v in training.average.module.state_dict().items()}
        training.export(tmp_path / "model")
    model = load_model(tmp_path / "model", CPU)
    best = kept[training.progress.best_step]
    assert all(torch.equal(best[name], tensor) for name, tensor in model.network.state_dict().items())
    assert model.record["stats"] == popdb.stats
    assert model.codec == "mel/1"
    assert not model.network.training


def test_a_changed_byte_is_refused(popdb: Popdb, settings: Settings, tmp_path: Path) -> None:
    model = trained(popdb, settings, tmp_path / "run")
    path = model.path("model.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="its bytes have changed"):
        load_model(model.folder, CPU)


def test_weights_of_other_settings_are_refused(popdb: Popdb, settings: Settings, tmp_path: Path) -> None:
    model = trained(popdb, settings, tmp_path / "run")
    manifest = json.loads((model.folder / "entry.json").read_text())
    manifest["record"]["model"]["channels"] = [16, 32, 32, 64]
    (model.folder / "entry.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="does not fit"):
        load_model(model.folder, CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codec": None}, "its record lacks codec"),
        ({"model": {"channels": 3}}, "settings that this version does not know"),
    ],
)
def test_the_record_of_something_else_is_refused(
    popdb: Popdb, settings: Settings, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    model = trained(popdb, settings, tmp_path / "run")
    path = model.folder / "entry.json"
    manifest = json.loads(path.read_text())
    merged = manifest["record"] | change
    manifest["record"] = {name: value for name, value in merged.items() if value is not None}
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=message):
        load_model(model.folder, CPU)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no whole checkpoint here"):
        load_model(tmp_path / "absent", CPU)


def test_learning_rate_warms_up_and_anneals_to_zero() -> None:
    config = parse({"training": {"steps": 110, "warmup_steps": 10, "learning_rate": 0.1}}).training
    assert learning_rate_at(0, config) == pytest.approx(0.01)
    assert learning_rate_at(9, config) == pytest.approx(0.1)
    assert learning_rate_at(10, config) == pytest.approx(0.1)
    assert learning_rate_at(60, config) == pytest.approx(0.05)
    assert learning_rate_at(110, config) == pytest.approx(0.0, abs=1e-12)


def test_digests_are_of_the_bytes(popdb: Popdb, settings: Settings, tmp_path: Path) -> None:
    model = trained(popdb, settings, tmp_path / "run")
    assert load_model(model.folder, CPU).sha256 == sha256(model.path("model.safetensors"))


def fit_here(root: Path) -> None:
    settings = small_settings(root)
    popdb = open_popdb(settings.popdb_path)
    fit(popdb, settings, root / "run", lambda metrics: append_line(root / "steps.jsonl", metrics))


def test_two_processes_train_a_model_once(popdb: Popdb, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    trainers = [context.Process(target=fit_here, args=(tmp_path,)) for _ in range(2)]
    for trainer in trainers:
        trainer.start()
    for trainer in trainers:
        trainer.join()
        assert trainer.exitcode == 0
    assert [row["step"] for row in read_jsonl(tmp_path / "steps.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_the_metrics_live_with_the_model(popdb: Popdb, settings: Settings, tmp_path: Path) -> None:
    model = trained(popdb, settings, tmp_path / "run")
    assert len(read_jsonl(model.path("metrics.jsonl"))) == 6


@pytest.mark.parametrize(
    "sections",
    [
        {"training": {"gradient_clip": 1e-9}},
        {"training": {"learning_rate": 1e-4}},
        {"training": {"weight_decay": 0.9}},
        {"diffusion": {"condition_dropout": 1.0}},
        {"diffusion": {"loss_weight": "snr"}},
        {"training": {"seed": 7}},
    ],
)
def test_every_setting_of_the_fit_reaches_it(popdb: Popdb, tmp_path: Path, sections: dict[str, Any]) -> None:
    assert torch.equal(weights(two_steps(popdb, tmp_path)), weights(two_steps(popdb, tmp_path)))
    assert not torch.equal(
        weights(two_steps(popdb, tmp_path)), weights(two_steps(popdb, tmp_path, **sections))
    )


def test_the_loss_is_the_weighted_error_of_v(popdb: Popdb, settings: Settings, tmp_path: Path) -> None:
    training = Training(popdb, settings, tmp_path / "run")
    vocal, x0 = training.batches.at(0, CPU)
    drawn = training.objective.draw(0, tuple(x0.shape), slice(None))
    v_mse, weight = training.objective.errors(training.module, x0, vocal, drawn)
    metrics = training.step()
    assert metrics["loss"] == pytest.approx((weight * v_mse).mean().item())
    assert metrics["v_mse"] == pytest.approx(v_mse.mean().item())
    assert not torch.allclose(weight, torch.ones_like(weight))


def test_validation_is_by_the_averaged_weights_and_bounded(popdb: Popdb, tmp_path: Path) -> None:
    training = two_steps(popdb, tmp_path, training={"learning_rate": 0.1})
    averaged = training.validate()
    with torch.no_grad():
        for parameter in training.network.parameters():
            parameter.zero_()
    assert training.validate() == averaged
    few = two_steps(popdb, tmp_path, training={"learning_rate": 0.1, "validation_pairs": 1})
    assert few.validate() != averaged


def test_only_the_newest_checkpoints_are_kept(popdb: Popdb, settings: Settings, tmp_path: Path) -> None:
    one = small_settings(tmp_path, training={"keep_checkpoints": 1})
    for config, kept in ((settings, [2, 4]), (one, [4])):
        run = tmp_path / f"run-{len(kept)}"
        with pytest.raises(KilledError):
            fit(popdb, config, run, stop_at(5))
        folders = sorted(path.name for path in (run / "training").glob("step-*"))
        assert folders == [f"step-{step:08d}" for step in kept]
        assert [path.name for path in (run / "training").glob("best-*")] == ["best-00000003"]


def test_a_training_whose_run_ends_leaves_a_checkpoint(
    popdb: Popdb, settings: Settings, tmp_path: Path
) -> None:
    rare = settings.training.model_copy(update={"checkpoint_every": 1000})
    settings = settings.model_copy(update={"training": rare})
    whole = trained(popdb, settings, tmp_path / "whole")

    def ended(metrics: dict[str, Any]) -> None:
        if metrics["step"] == 3:
            raise StoppedError("the run has ended")

    with pytest.raises(StoppedError):
        fit(popdb, settings, tmp_path / "run", ended)
    steps: list[int] = []
    resumed = fit(popdb, settings, tmp_path / "run", lambda metrics: steps.append(metrics["step"]))
    assert steps == [4, 5, 6]
    assert resumed.sha256["model.safetensors"] == whole.sha256["model.safetensors"]
