from copy import deepcopy
from typing import Any

import pytest

from samuel.report.evaluation import distribution_section, in_short_of_distribution
from tests.report.evaluations import (
    CEILING,
    OURS,
    SUMMARY,
    summary,
)
from tests.report.test_following import cells


def distribution(**parts: Any) -> dict[str, Any]:
    found = deepcopy(SUMMARY["distribution"]) | parts
    return summary(distribution={name: part for name, part in found.items() if part is not None})


def test_the_distance_stands_beside_its_floor() -> None:
    text = distribution_section(distribution())
    assert ["SAMUeL", "20", "57.6", "3.2, 2.2 to 4.0", "18.0"] in cells(text)
    assert "The distance is in squared deviations of the latents" in text
    assert "would come to about its floor" in text


def test_what_is_compared_is_said_by_the_summary_and_is_no_markup() -> None:
    text = distribution_section(distribution(frechet_design="Halves <of> a | b."))
    assert "\n\nHalves \\<of\\> a \\| b. True items in all: 128. The distance is in squared" in text
    assert "\n\nTrue items in all: 128. The distance is" in distribution_section(
        distribution(frechet_design=None)
    )


def test_the_true_accompaniments_are_no_news() -> None:
    found = distribution(frechet={CEILING: 1.0, OURS: 6.4})
    assert ["real \\(through the codec\\)", "–", "1.0", "–", "–"] in cells(distribution_section(found))
    (line,) = [line for line in in_short_of_distribution(found) if "Fréchet" in line]
    assert line.startswith("**SAMUeL**: Fréchet distance 6.4, 2.0 times the 3.2")


def test_without_a_floor_there_is_no_ratio() -> None:
    text = distribution_section(distribution(floor=None))
    assert ["SAMUeL", "20", "57.6", "–", "–"] in cells(text)
    assert "Floor: not measured" in text
    assert not any("Fréchet" in line for line in in_short_of_distribution(distribution(floor=None)))


@pytest.mark.parametrize(
    ("mean", "known", "said"),
    [
        (0.0, "0.0, 0.0 to 0.0", "The floor is zero"),
        (1e-9, "0.0, 0.0 to 0.0", "The floor is zero"),
        (-1e-9, "0.0, 0.0 to 0.0", "The floor is zero"),
        (None, "–", "Floor: not measured"),
    ],
)
def test_a_floor_of_nothing_is_not_divided_by(mean: float | None, known: str, said: str) -> None:
    found = distribution(floor={OURS: {"mean": mean, "low": mean, "high": mean, "splits": 10}})
    text = distribution_section(found)
    assert ["SAMUeL", "20", "57.6", known, "–"] in cells(text)
    assert said in text
    assert "would come to" not in text
    assert not any("Fréchet" in line for line in in_short_of_distribution(found))


def test_nothing_memorised() -> None:
    text = distribution_section(distribution())
    assert "No sign of memorising: the similarity to a training pair is 0.24 at most, true held-out" in text
    assert "⚠ marks" in text
    assert text.count("⚠") == 1


def test_a_copy_stands_out() -> None:
    rows = SUMMARY["distribution"]["nearest"]
    copy = rows[0] | {"similarity": 0.98, "suspicious": True, "title": "A | <b>"}
    text = distribution_section(distribution(nearest=[copy, *rows[1:]]))
    assert "**Perhaps memorised: 1 of 3 generated tracks** (0.98 at most" in text
    assert "| SAMUeL | a-000 | A \\| \\<b\\> | b-000 | **0.98** ⚠ | -1.20 |" in text
    assert "more than 0.70." in text  # half way from 0.41 to a copy
    assert text.count("⚠") == 2


def test_without_a_yardstick_nothing_is_said_of_memory() -> None:
    text = distribution_section(distribution(nearest_held_out={"n": 0, "median": None, "highest": None}))
    assert "cannot be told" in text
    assert "No sign" not in text
    assert "Yardstick: not measured." in text


def test_of_very_many_tracks_the_most_alike_are_listed() -> None:
    row = SUMMARY["distribution"]["nearest"][0]
    rows = [row | {"track": f"t{place}", "similarity": place / 1000} for place in range(100)]
    text = distribution_section(distribution(nearest=rows, diversity=None, frechet=None))
    listed = [cells_[1] for cells_ in cells(text)]
    assert listed == [f"t{place}" for place in range(99, 51, -1)]
    assert "The 48 most alike of 100" in text


def test_diversity() -> None:
    text = distribution_section(distribution())
    assert "- 3 takes of one vocal with different seeds: **0.80**\n- different vocals: **0.90**" in text
    alone = SUMMARY["distribution"]["diversity"] | {"takes": 1, "between_takes": None, "tracks": []}
    assert "seeds: **not measured**" in distribution_section(distribution(diversity=alone))


def test_each_part_that_is_missing_has_its_reason() -> None:
    reasons = {part: f"no <{part}>" for part in ("frechet", "nearest", "diversity")}
    text = distribution_section(summary(distribution={}, not_measured=reasons))
    assert text.count("Not measured: no \\<") == 3
    assert distribution_section(summary(distribution=None, not_measured={})) == ""
    whole = distribution_section(summary(distribution=None, not_measured={"distribution": "no latents"}))
    assert whole == "## Distribution\n\nNot measured: no latents."
    assert OURS not in text
