"""What goes wrong in a training, injected."""

import json
import math
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from samuel.artifacts import read_jsonl
from samuel.config import Settings
from samuel.errors import (
    CheckpointError,
    DatasetError,
    OperatorError,
    SettingsError,
)
from samuel.popdb.dataset import Popdb, open_popdb
from samuel.popdb.writer import write_popdb
from samuel.train import Training, fit
from samuel.train.trainer import WINDOW, out_of_memory, watch
from tests.popdb.latents import encoded_song, small_settings
from tests.train.trainings import (
    KilledError,
    ignore,
    put_nan,
    stop_at,
    weights,
)


@pytest.mark.parametrize("stream", ["vocal", "accompaniment"])
def test_latents_that_are_not_numbers_are_named_before_the_optimiser_acts(
    popdb: Popdb, settings: Settings, tmp_path: Path, stream: str
) -> None:
    broken = popdb.pairs("train")[3]["pair_id"]
    put_nan(popdb, broken, stream)
    training = Training(open_popdb(popdb.root), settings, tmp_path / "run")
    while broken not in training.batches.pair_ids(training.progress.step):
        training.step()
        training.progress.step += 1
    assert training.progress.step < 20
    before, moments = weights(training).clone(), str(training.optimiser.state_dict()["state"])
    with pytest.raises(DatasetError, match=f"NaN or infinity in the latents of {broken}; run samuel verify"):
        training.step()
    assert torch.equal(weights(training), before)
    assert str(training.optimiser.state_dict()["state"]) == moments


def test_a_gradient_that_is_not_finite_leaves_the_weights_as_they_were(
    popdb: Popdb, settings: Settings, tmp_path: Path
) -> None:
    training = Training(popdb, settings, tmp_path / "run")
    training.step()
    training.progress.step += 1
    before = weights(training).clone()
    # The loss stays finite; its derivative is not.
    training.network.leave.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(
        DatasetError, match=r"gradient's norm (inf|nan), for pairs whose latents are finite: .-00"
    ):
        training.step()
    assert torch.equal(weights(training), before)


def test_a_training_that_diverges_is_stopped_and_its_last_checkpoint_kept(
    popdb: Popdb, tmp_path: Path
) -> None:
    settings = small_settings(
        tmp_path, training={"steps": 2000, "learning_rate": 0.9, "warmup_steps": 0, "gradient_clip": 1e9}
    )
    with pytest.raises(DatasetError, match=r"the training diverged.*; lower training\.learning_rate"):
        fit(popdb, settings, tmp_path / "run", ignore)
    rows = read_jsonl(tmp_path / "run/training/metrics.jsonl")
    assert len(rows) < 200
    assert list((tmp_path / "run/training").glob("step-*"))


def test_divergence_is_a_mean_over_steps_not_a_single_bad_batch() -> None:
    calm: list[float] = []
    wild: list[float] = []
    for step in range(200):
        watch(calm, step, 40.0 if step % WINDOW == 0 else 0.9)
    assert len(calm) == WINDOW
    with pytest.raises(DatasetError, match=f"step {WINDOW - 1}: the error of v is 3.1"):
        for step in range(200):
            watch(wild, step, 3.1)


def test_a_training_that_goes_on_remembers_the_steps_before(
    popdb: Popdb, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(KilledError):
        fit(popdb, settings, tmp_path / "run", stop_at(5))
    errors = [row["v_mse"] for row in read_jsonl(tmp_path / "run/training/metrics.jsonl")]
    training = Training(popdb, settings, tmp_path / "run/training")
    with closing(training):
        training.resume()
    assert training.progress.recent == errors[:4]


def test_a_checkpoint_of_other_settings_or_data_is_refused_by_name(
    popdb: Popdb, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(KilledError):
        fit(popdb, settings, tmp_path / "run", stop_at(4))
    changed = small_settings(tmp_path, training={"learning_rate": 2e-3}, model={"window": 8})
    with pytest.raises(
        CheckpointError, match=r"model\.window is 16 there and 8 here; training\.learning_rate is"
    ):
        fit(popdb, changed, tmp_path / "run", ignore)
    other = small_settings(tmp_path / "other")
    others = write_popdb([encoded_song(tmp_path / "other", name) for name in "xyz"], other)
    with pytest.raises(
        CheckpointError, match=r"of another training, another dataset; stats of the dataset differ"
    ):
        fit(others, settings, tmp_path / "run", ignore)
    operational = small_settings(tmp_path, training={"keep_checkpoints": 5, "checkpoint_every": 3})
    assert fit(popdb, operational, tmp_path / "run", ignore).made


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_serves(
    popdb: Popdb, settings: Settings, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    whole = fit(popdb, settings, tmp_path / "whole", ignore)
    with pytest.raises(KilledError):
        fit(popdb, settings, run, stop_at(5))
    newest = run / "training" / "step-00000004"
    path = newest / "average.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"step-00000004/average\.safetensors: its bytes have changed"):
        fit(popdb, settings, run, ignore)
    path.unlink()  # no longer a whole entry: the one before is the newest
    resumed = fit(popdb, settings, run, ignore)
    assert resumed.record == whole.record
    assert resumed.sha256["model.safetensors"] == whole.sha256["model.safetensors"]


def test_a_damaged_checkpoint_does_not_take_the_place_of_a_whole_one(popdb: Popdb, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(KilledError):
        fit(popdb, small_settings(tmp_path), run, stop_at(5))
    (run / "training" / "step-00000004" / "average.safetensors").unlink()
    with pytest.raises(KilledError):  # step 3 is the best one's, too
        fit(
            popdb,
            small_settings(tmp_path, training={"checkpoint_every": 3, "keep_checkpoints": 1}),
            run,
            stop_at(4),
        )
    found = sorted(path.name for path in (run / "training").glob("*-*"))
    assert found == ["best-00000003", "step-00000003"]


def test_who_has_too_little_memory_hears_which_batch_fits(
    popdb: Popdb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_settings(tmp_path, training={"batch_size": 8})
    training = Training(popdb, settings, tmp_path / "run")
    forward = type(training.network).forward

    def narrow(network: Any, x_t: torch.Tensor, *others: Any) -> torch.Tensor:
        if len(x_t) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(network, x_t, *others)

    monkeypatch.setattr(type(training.network), "forward", narrow)
    with pytest.raises(
        OperatorError, match=r"8 pairs at a time do not fit in memory, 2 do: training.accumulate = 4"
    ):
        training.step()
    fitting = small_settings(tmp_path, training={"batch_size": 8, "accumulate": 4})
    assert Training(popdb, fitting, tmp_path / "run").step()["loss"] > 0


def test_what_is_said_to_fit_deals_the_batch_evenly() -> None:
    told = out_of_memory(torch.OutOfMemoryError(), 14, 1, lambda pairs: pairs <= 3)
    assert "14 pairs at a time do not fit in memory, 2 do: training.accumulate = 7" in str(told)
    told = out_of_memory(RuntimeError("MPS backend out of memory"), 12, 2, lambda pairs: pairs <= 3)
    assert "6 pairs at a time do not fit in memory, 3 do: training.accumulate = 4" in str(told)
    assert "not even one pair" in str(out_of_memory(torch.OutOfMemoryError(), 3, 3, lambda _: True))


def test_a_real_want_of_memory_is_recognised(popdb: Popdb, settings: Settings, tmp_path: Path) -> None:
    training = Training(popdb, settings, tmp_path / "run")
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**60)
    assert isinstance(training._out_of_memory(found.value), OperatorError)
    assert training._out_of_memory(RuntimeError("shapes do not match")) is None


def test_a_batch_that_cannot_be_dealt_evenly_is_refused(popdb: Popdb, tmp_path: Path) -> None:
    settings = small_settings(tmp_path, training={"batch_size": 5, "accumulate": 2})
    with pytest.raises(SettingsError, match=r"training\.batch_size = 5 .* training\.accumulate = 2"):
        Training(popdb, settings, tmp_path / "run")


def test_what_a_checkpoint_holds(popdb: Popdb, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        fit(popdb, settings, tmp_path / "run", stop_at(4))
    folder = tmp_path / "run/training/step-00000004"
    names = {path.name for path in folder.iterdir()}
    assert names == {"network.safetensors", "average.safetensors", "optimiser.safetensors", "entry.json"}
    record = json.loads((folder / "entry.json").read_text())["record"]
    assert record["progress"]["step"] == 4
    made_of = record["made_of"]
    assert set(made_of) == {"model", "diffusion", "training", "stats", "codec", "dataset"}
    assert made_of["dataset"] == popdb.info["content_sha256"]
    assert made_of["stats"] == popdb.stats
