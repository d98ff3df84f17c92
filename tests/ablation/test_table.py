from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from samuel.ablation import Result, write_table
from samuel.artifacts import read_json
from samuel.config import Settings
from samuel.popdb.dataset import Popdb
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import encoded_song, small_settings

BASE = {0: 0.50, 1: 0.60, 2: 0.55}
WIDE = {0: 0.49, 1: 0.595, 2: 0.535}


def result(factor: str | None, value: object, seed: int, loss: float, shuffled: float | None) -> Result:
    return Result(factor, value, seed, 2, loss, shuffled, 6, loss + 0.1)  # type: ignore[arg-type]


def results(settings: Settings, gain: float | None = 0.02) -> list[Result]:
    found = []
    for seed, loss in BASE.items():
        shuffled = None if gain is None else loss + gain * (seed + 1)
        found.append(result(None, None, seed, loss, shuffled))
        found.append(result("window", 32, seed, WIDE[seed], shuffled))
        found.append(result("window", 8, seed, loss + (0.3 if seed == 1 else -0.1), shuffled))
    found.append(Result("window", 64, 0, message="too|wide\n# <b>"))
    return found


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return small_settings(tmp_path, ablation={"factors": ["window"], "seeds": 3})


@pytest.fixture
def popdb(tmp_path: Path, settings: Settings) -> Popdb:
    return write_popdb([encoded_song(tmp_path, name) for name in "abc"], settings)


def table_of(popdb: Popdb, settings: Settings, found: list[Result]) -> tuple[str, dict[str, list[str]]]:
    text = write_table(popdb, settings, found).path("ablation.md").read_text("utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| window")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return text, {row[1].replace("`", ""): row[2:] for row in cells}


def test_the_table_has_the_numbers_of_numpy(popdb: Popdb, settings: Settings) -> None:
    _, rows = table_of(popdb, settings, results(settings))

    def cell(values: Any, sign: str = "", digits: int = 4) -> str:
        return f"{np.mean(values):{sign}.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"

    base, wide = np.array(list(BASE.values())), np.array(list(WIDE.values()))
    gain = cell([0.02, 0.04, 0.06], "+")
    assert rows["16 (as set)"] == ["3", cell(base), cell(base + 0.1), gain, "–"]
    assert rows["32"][:3] == ["3", cell(wide), cell(wide + 0.1)]
    assert rows["32"][4] == cell(wide - base, "+", 5) + " †"
    assert rows["8"][4] == cell([-0.1, 0.3, -0.1], "+", 5)
    assert list(rows) == ["8", "16 (as set)", "32", "64"]
    assert rows["64"] == ["0 of 1", *["not measured"] * 4]


def test_a_message_is_no_markup(popdb: Popdb, settings: Settings) -> None:
    text, _ = table_of(popdb, settings, results(settings))
    assert r"- `window = 64`, seed 0: too\|wide \# \<b\>" in text.splitlines()


def test_the_table_says_what_it_is_of(popdb: Popdb, settings: Settings) -> None:
    text, _ = table_of(popdb, settings, results(settings))
    assert "source synthetic, separator repet/1, codec mel/1; 6 pairs of 3 songs" in text
    assert "2 held out by song" in text
    assert "6 steps of 2 pairs" in text
    assert "device: cpu" in text
    assert "unweighted mean squared error of v" in text
    assert "about 18% of the differences" in text
    assert "REPET-SIM" in text or "synthetic" in text


def test_what_was_not_measured_is_said(popdb: Popdb, settings: Settings) -> None:
    _, rows = table_of(popdb, settings, results(settings, gain=None))
    assert {row[3] for row in rows.values()} == {"not measured"}


def test_all_numbers_are_in_the_json(popdb: Popdb, settings: Settings) -> None:
    table = write_table(popdb, settings, results(settings))
    numbers = read_json(table.path("ablation.json"))
    assert [fit["best_loss"] for fit in numbers["fits"]] == [r.best_loss for r in results(settings)]
    wide = next(row for row in numbers["rows"] if row["value"] == 32)
    assert wide["difference"]["mean"] == pytest.approx((-0.01 - 0.005 - 0.015) / 3)
    assert (wide["marked"], wide["difference"]["count"]) == (True, 3)
    assert numbers["dataset"]["content_sha256"] == popdb.info["content_sha256"]


def test_the_same_results_are_written_once_and_others_elsewhere(popdb: Popdb, settings: Settings) -> None:
    first = write_table(popdb, settings, results(settings))
    again = write_table(popdb, settings, results(settings))
    assert (first.made, again.made, again.folder) == (True, False, first.folder)
    other = write_table(popdb, settings, results(settings, gain=0.5))
    assert other.folder != first.folder
    first.path("ablation.md").unlink()
    assert write_table(popdb, settings, results(settings)).made


def test_the_picture_grows_with_what_was_measured(popdb: Popdb, settings: Settings) -> None:
    both = imread(write_table(popdb, settings, results(settings)).path("ablation.png"))
    one = imread(write_table(popdb, settings, results(settings, gain=None)).path("ablation.png"))
    assert both.shape[0] == pytest.approx(2 * one.shape[0], abs=2)
    blue, orange = (0.12, 0.47, 0.71), (1.0, 0.5, 0.05)
    assert all((abs(both[..., :3] - colour).max(axis=-1) < 0.1).any() for colour in (blue, orange))
