from pathlib import Path
from typing import Any

import pytest

from samuel.evaluate.cost import stated_efficiency
from samuel.evaluate.systems import System


def stated(**about: Any) -> Any:
    return stated_efficiency(System("Other", {name: Path(f"{name}.flac") for name in "abc"}, about))


def test_the_time_is_the_median_over_tracks_of_any_length() -> None:
    tracks = {
        "a": {"seconds": 30.0, "duration_s": 10.0, "file": "a.flac"},
        "b": {"seconds": 20.0, "duration_s": 10.0},
        "c": {"seconds": 2.0, "duration_s": 2.0},
        "elsewhere": {"seconds": 1.0, "duration_s": 1000.0},
    }
    row, problem = stated(parameters=7, device="cpu", tracks=tracks, settings={"steps": 3})
    assert problem is None
    assert row["real_time_factor"] == 2.0
    assert row["seconds_per_track"] == pytest.approx(95.1)
    assert (row["parameters"], row["device"], row["tracks"], row["machine"]) == (7, "cpu", 3, None)
    assert "settings" not in row
    assert row["source"] == "stated"


def test_nothing_stated_is_no_row() -> None:
    assert stated() == (None, None)
    row, _ = stated(parameters=7)
    assert "seconds_per_track" not in row


@pytest.mark.parametrize(
    ("about", "culprit"),
    [
        ({"parameters": -1}, "parameters"),
        ({"parameters": "many"}, "parameters"),
        ({"tracks": {"a": {"seconds": 0, "duration_s": 1}}}, "tracks.a.seconds"),
        ({"tracks": {"a": {"seconds": float("nan"), "duration_s": 1}}}, "tracks.a.seconds"),
        ({"tracks": [1]}, "tracks"),
        ({"tracks": {"a": {"seconds": 1e308, "duration_s": 1e-308}}}, "tracks.a.seconds"),
        ({"parameters": 10**400}, "parameters"),
        ({"parameters": True}, "parameters"),
        ({"peak_memory_bytes": 10**30}, "peak_memory_bytes"),
        ({"machine": "x" * 10_000}, "machine"),
    ],
)
def test_a_wrong_figure_is_named_and_all_left_out(about: dict[str, Any], culprit: str) -> None:
    row, problem = stated(**about)
    assert row is None
    assert problem.message.startswith(f"system.json: {culprit}: ")
    assert problem.message.endswith("its figures are left out")
