"""Studies: what is planned, trained once and resumed, and tables with the numbers of NumPy and SciPy."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from samuel import ablation
from samuel.ablation import Result, marked, planned_fits, run_fit, spread, table_rows, write_table
from samuel.config import Settings, parse
from samuel.errors import DatasetError
from samuel.popdb.dataset import Popdb
from samuel.popdb.writer import write_popdb
from samuel.reading import read_jsonl
from samuel.train import fit, run_folder
from tests.popdb.latents import encoded_song, small_settings

STEPS = 3
BASE = {0: 0.50, 1: 0.60, 2: 0.55}
WIDE = {0: 0.49, 1: 0.595, 2: 0.535}


def choices(settings: Settings) -> dict[str, object]:
    model, diffusion = settings.model, settings.diffusion
    return {
        "mixing": model.mixing,
        "window": model.window,
        "condition_dropout": diffusion.condition_dropout,
        "loss_weight": diffusion.loss_weight,
    }


def test_a_fit_differs_in_one_choice_and_none_is_planned_twice() -> None:
    settings = parse({"model": {"window": 12}, "ablation": {"seeds": 1}})
    base, *others = planned_fits(settings)
    assert (base.factor, base.settings) == (None, settings)
    differing = []
    for planned in others:
        own, new = choices(settings), choices(planned.settings)
        differing += [(name, new[name]) for name in own if own[name] != new[name]]
        assert differing[-1] == (planned.factor, planned.value)
    assert len(differing) == len(others) == len(set(differing))
    counts = {"mixing": 4, "window": 4, "condition_dropout": 3, "loss_weight": 2}
    assert Counter(name for name, _ in differing) == counts


@pytest.mark.parametrize("count", [2, 3, 10])
def test_a_mark_is_a_paired_t_of_more_than_two_by_three_seeds_at_least(count: int) -> None:
    rng, settings = np.random.default_rng(count), parse({"ablation": {"factors": ["window"]}})
    marks = 0
    for _ in range(200):
        base, values = rng.normal(size=(2, count))
        t = abs(stats.ttest_rel(values, base).statistic)
        mine = [Result("window", 8, seed, best_loss=value) for seed, value in enumerate([*values, 1.0])]
        as_set = [Result(None, None, seed, best_loss=value) for seed, value in enumerate(base)]
        row = next(row for row, _ in table_rows([*mine, *as_set], settings) if row["value"] == 8)
        difference = row["difference"]  # without the seed that only one has
        wanted = {"mean": np.mean(values - base), "deviation": np.std(values - base, ddof=1), "count": count}
        assert difference == pytest.approx(wanted)
        assert row["marked"] == marked(difference) == (t > 2 and count > 2)
        marks += row["marked"]
    assert (0 < marks < 200) == (count > 2)
    assert spread([0.5, None]) == {"mean": 0.5, "deviation": None, "count": 1}
    assert spread([]) is None


def study_settings(root: Path) -> Settings:
    return small_settings(
        root,
        training={"steps": STEPS, "validate_every": 1},
        popdb={"validation_share": 0.5},
        ablation={"factors": ["loss_weight"], "seeds": 1},
    )


@pytest.fixture(scope="module")
def popdb(tmp_path_factory: pytest.TempPathFactory) -> Popdb:
    root = tmp_path_factory.mktemp("popdb")
    return write_popdb([encoded_song(root, name) for name in "abcdef"], study_settings(root))


def run(popdb: Popdb, settings: Settings) -> list[Result]:
    return [run_fit(popdb, planned, lambda _: None) for planned in planned_fits(settings)]


@pytest.fixture(scope="module")
def study(popdb: Popdb, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, list[Result]]:
    """A study whose first fit was trained elsewhere."""
    settings = study_settings(tmp_path_factory.mktemp("study"))
    fit(popdb, settings, run_folder(popdb, settings), lambda _: None)
    return settings, run(popdb, settings)


def test_every_fit_has_the_losses_of_its_metrics(popdb: Popdb, study: tuple[Settings, list[Result]]) -> None:
    settings, results = study
    planned = planned_fits(settings)
    assert [(r.factor, r.value, r.seed) for r in results] == [(p.factor, p.value, p.seed) for p in planned]
    for result, plan in zip(results, planned, strict=True):
        model = run_folder(popdb, plan.settings) / "model"
        rows = {row["step"]: row for row in read_jsonl(model / "metrics.jsonl")}
        best = min(rows.values(), key=lambda row: row["validation_loss"])
        assert (result.best_step, result.best_loss) == (best["step"], best["validation_loss"])
        assert (result.last_step, result.last_loss) == (STEPS, rows[STEPS]["validation_loss"])
        gain = best["validation_shuffled"] - best["validation_loss"]
        assert result.conditioning_gain == pytest.approx(gain)
    assert len({result.best_loss for result in results}) == len(results)
    assert [result.worked for result in results] == [False, True, True]
    again = run(popdb, settings)
    assert again == results
    assert not any(result.worked for result in again)


def test_a_variant_that_diverges_becomes_a_row(
    popdb: Popdb, study: tuple[Settings, list[Result]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _ = study

    def broken(popdb: Popdb, settings: Settings, run: Path, on_step: Any) -> Any:
        if settings.diffusion.loss_weight == "snr":
            raise DatasetError("step 0: loss nan")
        return fit(popdb, settings, run, on_step)

    monkeypatch.setattr(ablation, "fit", broken)
    results = run(popdb, settings)
    (failed,) = (result for result in results if result.message)
    assert (failed.value, failed.seed, failed.best_loss) == ("snr", 0, None)
    assert "step 0: loss nan" in failed.message
    assert all(result.best_loss is not None for result in results if result is not failed)
    text = write_table(popdb, settings, results).path("ablation.md").read_text()
    missing = " | ".join(["not measured"] * 4)
    assert f"| loss weight | `snr` | 0 of 1 | {missing} |" in text
    assert "- `loss_weight = snr, seed 0`: step 0: loss nan" in text


def results(gain: float | None = 0.02) -> list[Result]:
    found = []
    for seed, loss in BASE.items():
        shuffled = None if gain is None else loss + gain * (seed + 1)
        best = {None: loss, 32: WIDE[seed], 8: loss + (0.3 if seed == 1 else -0.1)}
        found += [
            Result(value and "window", value, seed, 2, of, shuffled, 6, of + 0.1)
            for value, of in best.items()
        ]
    return [*found, Result("window", 64, 0, message="too|wide\n# <b>")]


@pytest.fixture
def windows(tmp_path: Path) -> Settings:
    return small_settings(tmp_path, ablation={"factors": ["window"], "seeds": 3})


def table_of(popdb: Popdb, settings: Settings, found: list[Result]) -> tuple[str, dict[str, list[str]]]:
    text = write_table(popdb, settings, found).path("ablation.md").read_text("utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| window")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return text, {row[1].replace("`", ""): row[2:] for row in cells}


def test_the_table_has_the_numbers_of_numpy_and_says_what_it_is_of(popdb: Popdb, windows: Settings) -> None:
    text, rows = table_of(popdb, windows, results())

    def cell(values: Any, sign: str = "", digits: int = 4) -> str:
        return f"{np.mean(values):{sign}.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"

    base, wide = np.array(list(BASE.values())), np.array(list(WIDE.values()))
    assert rows["16 (as set)"] == ["3", cell(base), cell(base + 0.1), cell([0.02, 0.04, 0.06], "+"), "–"]
    assert rows["32"][:3] == ["3", cell(wide), cell(wide + 0.1)]
    assert rows["32"][4] == cell(wide - base, "+", 5) + " †"
    assert rows["8"][4] == cell([-0.1, 0.3, -0.1], "+", 5)
    assert list(rows) == ["8", "16 (as set)", "32", "64"]
    assert rows["64"] == ["0 of 1", *["not measured"] * 4]
    assert r"- `window = 64, seed 0`: too\|wide \# \<b\>" in text.splitlines()
    for said in (
        "source synthetic, separator repet/1, codec mel/1 ", "12 pairs of 6 songs", "held out by song",
        "6 steps of 2 pairs", "device: cpu", "songs are synthetic",
    ):  # fmt: skip
        assert said in text
    _, rows = table_of(popdb, windows, results(gain=None))
    assert {row[3] for row in rows.values()} == {"not measured"}
