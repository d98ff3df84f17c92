import errno
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from samuel import ablation as module
from samuel.ablation import (
    PlannedFit,
    Result,
    planned_fits,
    run_fit,
    run_study,
    write_table,
)
from samuel.artifacts import read_json, read_jsonl
from samuel.config import Settings
from samuel.errors import DatasetError
from samuel.popdb.dataset import Popdb
from samuel.popdb.writer import write_popdb
from samuel.train import fit, run_folder
from tests.popdb.latents import encoded_song, small_settings

STEPS = 3


class KilledError(Exception):
    """Stands for SIGKILL."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return small_settings(
        tmp_path,
        training={"steps": STEPS, "validate_every": 1},
        popdb={"validation_share": 0.5},
        ablation={"factors": ["loss_weight"], "seeds": 2},
    )


@pytest.fixture
def popdb(tmp_path: Path, settings: Settings) -> Popdb:
    return write_popdb([encoded_song(tmp_path, name) for name in "abcdef"], settings)


def run(popdb: Popdb, settings: Settings) -> list[Result]:
    return run_study(popdb, settings, lambda _: None, lambda *_: None)


@pytest.fixture
def steps_taken(monkeypatch: pytest.MonkeyPatch) -> "Counter[tuple[str, int, int]]":
    """How often each step of each fit was taken."""
    taken: Counter[tuple[str, int, int]] = Counter()

    def counted(popdb: Popdb, settings: Settings, run: Path, on_step: Any) -> Any:
        def tell(row: dict[str, Any]) -> None:
            taken[settings.diffusion.loss_weight, settings.training.seed, row["step"]] += 1
            on_step(row)

        return fit(popdb, settings, run, tell)

    monkeypatch.setattr(module, "fit", counted)
    return taken


def test_every_fit_has_the_losses_of_its_metrics(popdb: Popdb, settings: Settings) -> None:
    results = run(popdb, settings)
    planned = planned_fits(settings)
    assert [(r.factor, r.value, r.seed) for r in results] == [
        (p.variant.factor, p.variant.value, p.seed) for p in planned
    ]
    for result, plan in zip(results, planned, strict=True):
        model = run_folder(popdb, plan.settings) / "model"
        rows = {row["step"]: row for row in read_jsonl(model / "metrics.jsonl")}
        best = min(rows.values(), key=lambda row: row["validation_loss"])
        assert (result.best_step, result.best_loss) == (best["step"], best["validation_loss"])
        assert result.last_loss == rows[STEPS]["validation_loss"]
        assert result.conditioning_gain == pytest.approx(
            best["validation_shuffled"] - best["validation_loss"]
        )
        assert result.worked
    assert len({result.best_loss for result in results}) == len(results)


def test_a_fit_made_elsewhere_is_not_made_again(
    popdb: Popdb, settings: Settings, steps_taken: "Counter[tuple[str, int, int]]"
) -> None:
    fit(popdb, settings, run_folder(popdb, settings), lambda _: None)
    first = run(popdb, settings)
    assert (settings.diffusion.loss_weight, settings.training.seed, 1) not in steps_taken
    assert [result.worked for result in first] == [False, True, True, True, True, True]
    before = steps_taken.copy()
    again = run(popdb, settings)
    assert (again, steps_taken) == (first, before)
    assert not any(result.worked for result in again)


def test_a_killed_study_goes_on_without_repeating_a_finished_fit(
    popdb: Popdb, settings: Settings, tmp_path: Path, steps_taken: "Counter[tuple[str, int, int]]"
) -> None:
    def kill(done: int) -> None:
        if done == 2 * STEPS + 2:  # in the third fit, after a checkpoint
            raise KilledError

    with pytest.raises(KilledError):
        run_study(popdb, settings, kill, lambda *_: None)
    assert len(steps_taken) == 2 * STEPS + 2
    heard: list[PlannedFit] = []
    results = run_study(popdb, settings, lambda _: None, lambda planned, _: heard.append(planned))
    assert set(steps_taken.values()) == {1}
    assert len(steps_taken) == len(results) * STEPS
    assert heard == planned_fits(settings)
    apart = settings.model_copy(update={"artifacts": tmp_path / "apart"})
    assert run(popdb, apart) == results


def test_the_steps_of_all_fits_are_counted(popdb: Popdb, settings: Settings) -> None:
    first = planned_fits(settings)[1]
    run_fit(popdb, first, lambda _: None)
    told: list[int] = []
    run_study(popdb, settings, told.append, lambda *_: None)
    assert told == sorted(told)
    assert sorted(set(told)) == [n for n in range(1, 6 * STEPS + 1) if n not in (STEPS + 1, STEPS + 2)]


def test_a_variant_that_diverges_becomes_a_row(
    popdb: Popdb, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from samuel.model import diffusion

    whole = diffusion.loss_weight

    def broken(name: Any, alpha_bar: torch.Tensor, clip: float) -> torch.Tensor:
        return whole(name, alpha_bar, clip) * (torch.nan if name == "snr" else 1.0)

    for user in patched(whole):
        monkeypatch.setattr(user, "loss_weight", broken)
    results = run(popdb, settings)
    failed = [result for result in results if result.message]
    assert [(result.value, result.seed) for result in failed] == [("snr", 0), ("snr", 1)]
    assert all("the loss is nan" in result.message for result in failed)
    assert all(result.best_loss is not None for result in results if result.value != "snr")
    table = write_table(popdb, settings, results)
    text = table.path("ablation.md").read_text()
    assert (
        "| loss weight | `snr` | 0 of 2 | not measured | not measured | not measured | not measured |" in text
    )
    assert "- `loss_weight = snr`, seed 1: step 0: the loss is nan" in text
    numbers = read_json(table.path("ablation.json"))
    assert [row["message"] != "" for row in numbers["fits"]] == [bool(result.message) for result in results]


def patched(function: Any) -> list[Any]:
    """The modules of the training that call `function` by its own name."""
    import sys

    users = [m for name, m in sys.modules.items() if name.startswith("samuel.train")]
    found = [user for user in users if getattr(user, function.__name__, None) is function]
    assert found
    return found


def test_a_full_disk_ends_the_study(
    popdb: Popdb, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "fit", full)
    with pytest.raises(OSError, match="No space"):
        run(popdb, settings)


def test_a_study_of_failures_alone_says_why(
    popdb: Popdb, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise DatasetError("shard 3 is damaged: repair it")

    monkeypatch.setattr(module, "fit", fails)
    with pytest.raises(DatasetError, match="no fit came to a result; the first: shard 3 is damaged"):
        write_table(popdb, settings, run(popdb, settings))
    assert not (settings.artifacts / "ablations").exists()
