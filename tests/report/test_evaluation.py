import re
from copy import deepcopy
from typing import Any

import pytest

from samuel.evaluate.scores import REGISTRY
from samuel.report.evaluation import evaluation_text, followed, holm, in_short, verdicts
from tests.report.evaluations import (
    CEILING,
    FOLLOWED_BY,
    NOT_FOLLOWED,
    OURS,
    REAL,
    SUMMARY,
    cells,
    interval,
    summary,
)
from tests.report.evaluations import followed as numbers

NOTHING = {"n": 0, "mean": None, "low": None, "high": None}
MARKUP = "<b> | [x](y) `c`"
ESCAPED = r"\<b\> \| \[x\]\(y\) \`c\`"


def section(title: str, **parts: Any) -> str:
    """A section of the report of a summary with other parts; empty where there is none. Lines are joined."""
    text = evaluation_text(summary(**parts))
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return re.sub(r"(?<=[^\n|])\n(?=[^\n|-])", " ", found[1].strip()) if found else ""


def test_every_score_stands_with_interval_unit_direction_and_meaning() -> None:
    text = section("Scores")
    rows = {row[0]: row[1:] for row in cells(text)}
    assert rows[r"chroma likeness \(-1 to 1, higher is better\)"] == [
        "0.712 [0.68, 0.74]", "0.681 [0.65, 0.71]", "0.612 [0.58, 0.64]",
    ]  # fmt: skip
    assert rows[r"log-mel distance \(dB, lower is better\)"] == [
        "–", "1.00 [0.8, 1.2]", "12.34 [11.8, 12.8] (n = 18)",
    ]  # fmt: skip
    assert len(rows) == 6
    assert all(REGISTRY[score].meaning in text for score in summary()["scores"])
    said = r"AudioBox-Aesthetics \(PQ, PC, CE, CU\): not measured: the scorer 'audiobox' was not chosen."
    assert said in text
    *_, distance, memory, missing, problems = in_short(summary())
    assert distance.startswith("**SAMUeL**: Fréchet distance 57.6, 18.0 times the 3.2 ")
    assert memory.startswith("No sign of memorising: ")
    assert missing == r"Not measured: AudioBox-Aesthetics \(PQ, PC, CE, CU\)."
    assert problems == "Listed under *Problems*: 1."
    axes = {axis: {OURS: interval(5.0)} for axis in ("PQ", "PC", "CE", "CU")}
    assert "not measured" not in section("Scores", scores=axes, not_measured={})


def test_what_was_not_measured_is_no_number_and_has_its_reason() -> None:
    scores = {"beat_f1": {REAL: interval(0.5, n=1), OURS: NOTHING}, "a <new> score": {OURS: interval(1.0)}}
    rows = cells(section("Scores", scores=scores, tracks=1))
    assert rows[0][1:] == ["0.500 [0.47, 0.53]", "not measured"]
    assert rows[1] == [r"a \<new\> score", "–", "1.000 [0.97, 1.03] (n = 20)"]
    reasons = dict.fromkeys(
        ("scores", "following", "frechet", "nearest", "diversity", "efficiency", "audiobox"), f"no {MARKUP}"
    )
    text = evaluation_text(
        summary(scores={}, following={}, distribution={}, efficiency={}, not_measured=reasons)
    )
    assert text.count(f"Not measured: no {ESCAPED}.") == 2
    assert text.count(f"Not measured here: no {ESCAPED}.") == 2
    assert text.count(f"**: no {ESCAPED}") == len(reasons)
    assert not [row for row in cells(text) if "paper" not in row[1] and row[0] not in ("system", "model")
                and set(row[0]) - set("-:")]  # fmt: skip
    assert section("Distribution", distribution={}, not_measured={}) == ""


def test_nothing_that_anybody_wrote_becomes_markup() -> None:
    x, spread = MARKUP, SUMMARY["distribution"]
    nearest = spread["nearest"][0] | dict.fromkeys(("system", "track", "title", "pair_id"), x)
    cost = SUMMARY["efficiency"][OURS] | dict.fromkeys(("conditioning", "machine", "device", "memory"), x)
    found = summary(
        systems=[x], scores={"beat_f1": {x: interval(0.5)}, x: {x: interval(0.5)}}, apa={x: 0.5},
        following={"beat_f1": {x: numbers(0.5, 0.4, 0.01)}, x: {x: numbers(0.5, 0.4, 0.5)}},
        distribution=spread | {
            "frechet": {x: 57.6}, "floor": {x: spread["floor"][OURS]}, "frechet_design": x, "unit": x,
            "nearest": [nearest],
            "diversity": spread["diversity"] | {"tracks": [nearest | {"between_takes": 1.0}]},
        },
        efficiency={x: cost | {"source": "stated"}}, not_measured={"audiobox": x, x: x},
        problems=[{"system": x, "track": x, "message": x}],
    )  # fmt: skip
    text = evaluation_text(found) + "".join(in_short(found))
    assert text.count(ESCAPED) > 25
    assert not {"<b>", "[x]", " `c`", MARKUP} & {
        part for part in ("<b>", "[x]", " `c`", MARKUP) if part in text
    }


# Does it follow the vocal?


def test_more_systems_have_more_chances_to_find_something() -> None:
    """Noise that has p = 0.02 by one score of eight is not shown to follow, nor held to the true ones."""
    # By hand: 4 · 0.005, 3 · 0.01, 2 · 0.03, and 0.04 raised to the one before it.
    assert holm([0.04, 0.01, 0.03, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    noise, other, true = (0.02, 0.5, 0.6, 0.7), (0.3, 0.4, 0.8, 0.9), (0.001, 0.002, 0.003, 0.004)
    ps = {REAL: true, CEILING: true, "noise": noise, "other": other}
    following = {
        score: {name: numbers(0.5, 0.4, found[place]) for name, found in ps.items()}
        for place, score in enumerate(FOLLOWED_BY)
    }
    found = followed(summary(systems=list(ps), following=following))
    both = {name: [item.p_holm for item in found if item.system == name] for name in ps}
    assert both["noise"] + both["other"] == pytest.approx(holm([*noise, *other]))
    assert both[REAL] + both[CEILING] == pytest.approx(holm([*true, *true]))


def test_a_verdict_follows_from_the_numbers() -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        # After Holm: 0.0001 · 4, 0.016 · 3, 0.02 · 2 raised to 0.048, 0.6.
        ({}, " follows the vocal in chroma likeness, beat F1 and onset correlation; not shown for key"),
        (  # lower with its own, and of three: 0.048, 0.04
            {"chroma_likeness": numbers(0.5, 0.6, 0.0001)},
            " follows the vocal in beat F1 and onset correlation; not shown for chroma likeness and key",
        ),
        (
            {"chroma_likeness": numbers(0.6, 0.5, None)},
            " follows the vocal in beat F1 and onset correlation; not shown for key agreement; not measured:"
            " chroma likeness",
        ),
        (
            dict.fromkeys(FOLLOWED_BY[:3], numbers(0.5, 0.4, 0.9)),
            ": not shown that it follows the vocal, by chroma likeness, beat F1, onset correlation and key",
        ),
        (
            dict.fromkeys(FOLLOWED_BY, NOT_FOLLOWED),
            ": not measured whether it follows the vocal: there is no other song to compare with",
        ),
        (
            dict.fromkeys(FOLLOWED_BY, numbers(0.5, 0.3, 1 / 6, n=3, p_least=1 / 6)),
            ": 3 tracks are too few to tell whether it follows the vocal",
        ),
    )
    for changes, verdict in cases:
        found = summary()
        for score, change in changes.items():
            found["following"][score][OURS] = change
        real, ceiling, ours = verdicts(found)
        assert real.startswith("**real** follows the vocal in chroma likeness, beat F1, onset correlation")
        assert ceiling.startswith(r"**real \(through the codec\)** follows")
        assert ours in (f"**SAMUeL**{verdict}.", f"**SAMUeL**{verdict} agreement.")


def test_the_table_of_following_has_every_number() -> None:
    rows = cells(section("Does it follow the vocal?"))
    assert len(rows) == 12
    assert rows[2] == [
        "chroma likeness", "SAMUeL", "20", "0.612", "0.522", "+0.090", "[+0.070, +0.110]", "0.0001",
        "**0.0004**",
    ]  # fmt: skip
    assert rows[11][-2:] == ["0.600", "0.600"]
    least = {"chroma_likeness": {OURS: numbers(0.5, 0.4, 1 / 24, 4, 1 / 24)}}
    text = section("Does it follow the vocal?", systems=[OURS], following=least)
    assert text.endswith("- SAMUeL: with 4 tracks, p can be no less than   0.042.")


# Distribution, the paper's tables, problems.


def distribution(**parts: Any) -> str:
    return section("Distribution", distribution=deepcopy(SUMMARY["distribution"]) | parts)


def test_the_distance_stands_beside_its_floor_which_is_not_divided_by_where_it_is_nothing() -> None:
    text = distribution()
    assert ["SAMUeL", "20", "57.6", "3.2, 2.2 to 4.0", "18.0"] in cells(text)
    assert "True items in all: 128. The distance is in squared dev" in text
    seeds, songs = "3 takes of one vocal with different seeds: **0.80**", "different vocals: **0.90**"
    assert f"- {seeds}\n- {songs}" in text
    for floor, shown in ((None, "–"), (-1e-9, "0.0, 0.0 to 0.0")):
        known = floor and {OURS: {"mean": floor, "low": floor, "high": floor, "splits": 10}}
        assert ["SAMUeL", "20", "57.6", shown, "not measured"] in cells(distribution(floor=known))
        lines = in_short(summary(distribution={"frechet": {OURS: 57.6}, "floor": known}))
        assert not [line for line in lines if "Fréchet" in line]


def test_a_copy_stands_out() -> None:
    text = distribution()
    assert "No sign of memorising: the similarity to a training pair is 0.24 at most, true held-out" in text
    assert text.count("⚠") == 1
    rows = SUMMARY["distribution"]["nearest"]
    copy = rows[0] | {"similarity": 0.98, "suspicious": True}
    text = distribution(nearest=[copy, *rows[1:]])
    assert "**Perhaps memorised: 1 of 3 generated tracks** (0.98 at most" in text
    assert "| SAMUeL | a-000 | A training song | b-000 | **0.98** ⚠ | -1.20 |" in text
    assert "more than 0.70." in text  # half way from 0.41 to a copy
    text = distribution(nearest_held_out={"n": 0, "median": None, "highest": None})
    assert "cannot be told" in text
    assert "Yardstick: not measured." in text
    many = [rows[0] | {"track": f"t{n}", "similarity": n / 1000 if n else None} for n in range(100)]
    text = distribution(nearest=many, diversity=None, frechet=None)
    assert [listed[1] for listed in cells(text)] == [f"t{n}" for n in range(99, 51, -1)]
    assert "The 48 most alike of 100" in text


def test_what_was_measured_stands_beside_the_papers_figures_and_is_told_from_them() -> None:
    rows = cells(section("Beside the paper's tables"))
    paper = [row for row in rows if row[1] == "paper, not measured here"]
    assert ["SAMUeL", "paper, not measured here", "5.73", "5.14", "2.93", "4.97"] in paper
    assert [
        "Jukebox", "paper, not measured here", "lyrics, genre", "5,000 M", r"\> 21,600.00 s", "47.55 s",
        r"\> 454", "not measured",
    ] in paper  # fmt: skip
    assert len(paper) == 10
    ours = [row for row in rows if row[1] == "measured here"]
    assert ours == [
        [OURS, "measured here", "vocal", "15 M", "1.29 s", "47.55 s", "0.0271", "1.00 GiB of the process"]
    ]
    values = zip(("PQ", "PC", "CE"), (5, 6, 7), strict=True)
    axes = {axis: {OURS: interval(value, 0.25)} for axis, value in values}
    text = section("Beside the paper's tables", scores=axes)
    row = ["5.00 [4.8, 5.2]", "6.00 [5.8, 6.2]", "7.00 [6.8, 7.2]", "not measured"]
    assert ["SAMUeL", "measured here", *row] in cells(text)
    assert "Not measured here: the scorer" not in text


def test_what_a_folder_states_is_not_said_to_be_measured_here() -> None:
    text = section("Beside the paper's tables")
    assert "SAMUeL: on 2 cores, cpu, median of 3 repeats." in text
    assert "system.json" not in text
    stated = summary()["efficiency"][OURS] | {"source": "stated", "tracks": 7, "repeats": None}
    text = section("Beside the paper's tables", efficiency={"MusicGen": stated})
    row = next(row for row in cells(text) if row[0] == "MusicGen")
    assert row[1] == "stated by its system.json"
    assert "MusicGen: on 2 cores, cpu, time scaled to 47.55 s from 7 tracks." in text
    assert "What is *stated by its system.json* was written by whoever made the folder" in text
    assert "| measured here |" not in text
    text = section("Beside the paper's tables", efficiency={"M": {"parameters": None, "machine": "x"}})
    row = ["M", "source not recorded", "–", *["not measured"] * 5]
    assert row in cells(text)
    assert "M: on x." in text


def test_what_was_not_scored_comes_first() -> None:
    problems = [{"system": "M", "track": "1", "message": "1.0 s: too short"}]
    problems.append({"system": "M", "track": "9", "message": "no file of this name: not scored"})
    problems.append({"system": "M", "track": "", "message": "system.json cannot be read"})
    assert section("Problems", problems=problems).splitlines()[-3:] == [
        "- **M**, 9: no file of this name: not scored",
        "- **M**, 1: 1.0 s: too short",
        "- **M**: system.json cannot be read",
    ]
    many = [{"system": "M", "track": str(n), "message": f"{n}: odd"} for n in range(200)]
    text = section("Problems", problems=many)
    assert text.count("\n- ") == 61
    assert text.endswith("140 more are in `summary.json`.")
    assert section("Problems", problems=[]) == ""
