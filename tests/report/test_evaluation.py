from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from samuel.evaluate.scores import REGISTRY
from samuel.report.evaluation import (
    distribution_section,
    evaluation_sections,
    in_short,
    paper_section,
    problems_section,
    score_table,
    scores_section,
    set_section,
)
from tests.report.evaluations import CEILING, OURS, REAL, SUMMARY, cells, interval, summary

NONE = {"n": 0, "mean": None, "low": None, "high": None}
ALONE = {"n": 1, "mean": 0.5, "low": None, "high": None}


def test_every_score_stands_with_interval_unit_direction_and_meaning() -> None:
    text = scores_section(summary())
    rows = {row[0]: row[1:] for row in cells(text)}
    assert rows[r"chroma likeness \(-1 to 1, higher is better\)"] == [
        "0.712 [0.68, 0.74]", "0.681 [0.65, 0.71]", "0.612 [0.58, 0.64]",
    ]  # fmt: skip
    assert rows[r"log-mel distance \(dB, lower is better\)"] == [
        "–", "1.00 [0.8, 1.2]", "12.34 [11.8, 12.8] (n = 18)",
    ]  # fmt: skip
    assert rows[r"level \(dBFS, neither way is better\)"][0] == "-18.0 [-19.0, -17.0]"
    assert len(rows) == 6
    meanings = [line for line in text.splitlines() if line.startswith("- **")]
    assert len(meanings) == 6
    assert all(REGISTRY[score].meaning in text for score in summary()["scores"])


def test_a_score_that_is_registered_is_shown_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    warmth = replace(
        REGISTRY["level_dbfs"], name="warmth", title="warmth", unit="lm", better="higher is better",
        meaning="how warm it is", digits=2,
    )  # fmt: skip
    for score in (warmth, replace(warmth, name="variety", title="variety")):
        monkeypatch.setitem(REGISTRY, score.name, score)
    scores = summary()["scores"] | {"warmth": {OURS: interval(2.5)}}
    found = summary(scores=scores, variety={OURS: 0.25, REAL: 1.0}, systems=[REAL, OURS, "<i> without"])
    *_, mean, figure = score_table(found)
    assert mean == {"score": "warmth (lm, higher is better)", REAL: "–", OURS: "2.50 [2.47, 2.53]"}
    assert figure == {"score": "variety (lm, higher is better)", REAL: "1.00", OURS: "0.25"}
    text = "\n".join(evaluation_sections(found))
    assert text.count("how warm it is") == 2
    assert r"| warmth \(lm, higher is better\) | – | 2.50 [2.47, 2.53] |" in text
    assert r"| variety \(lm, higher is better\) | 1.00 | 0.25 |" in text
    assert score_table(summary(scores={})) == []


def test_what_was_not_measured_is_no_number() -> None:
    scores = {"beat_f1": {REAL: ALONE, OURS: NONE}, "a <new> score": {OURS: interval(1.0)}}
    text = scores_section(summary(scores=scores, tracks=1))
    assert cells(text)[0][1:] == ["0.500", "not measured"]
    assert cells(text)[1] == [r"a \<new\> score", "–", "1.000 [0.97, 1.03] (n = 20)"]
    assert CEILING not in text  # it has no scores here


def test_audiobox_is_named_where_it_is_missing_and_only_there() -> None:
    said = "AudioBox-Aesthetics (PQ, PC, CE, CU): not measured: the scorer 'audiobox' was not chosen."
    assert said in scores_section(summary())
    scores = {axis: {OURS: interval(5.0)} for axis in ("PQ", "PC", "CE", "CU")}
    with_axes = scores_section(summary(scores=scores, not_measured={}))
    assert "not measured" not in with_axes
    assert (
        r"| PC, production complexity \(1 to 10, neither way is better\) | 5.00 [4.97, 5.03] |" in with_axes
    )
    assert "not measured" in scores_section(summary(scores={}, not_measured={}))


def test_problems_are_named_whatever_they_are_called() -> None:
    problems = [
        {"system": "M|x", "track": "song <7>", "message": "no such\nfile"},
        {"system": "M", "track": "", "message": "system.json cannot be read"},
    ]
    text = problems_section(summary(problems=problems))
    assert text.endswith("- **M\\|x**, song \\<7\\>: no such file\n- **M**: system.json cannot be read")
    many = [{"system": "M", "track": str(n), "message": f"{n}: odd"} for n in range(200)]
    text = problems_section(summary(problems=many))
    assert text.count("\n- ") == 60
    assert text.endswith("140 more are in `summary.json`.")
    assert problems_section(summary(problems=[])) == ""


def test_what_was_not_scored_comes_first_and_what_is_alike_is_one_line() -> None:
    problems = [{"system": "M", "track": str(n), "message": "1.0 s: too short"} for n in range(5)]
    problems.append({"system": "M", "track": "9", "message": "no file of this name: not scored"})
    assert problems_section(summary(problems=problems)).splitlines()[-2:] == [
        "- **M**, 9: no file of this name: not scored",
        "- **M**: 1.0 s: too short: 5 tracks, such as 0, 1 and 2",
    ]


def test_in_short() -> None:
    lines = in_short(summary()).splitlines()[2:]
    assert lines[2].startswith("- **SAMUeL** follows the vocal in chroma likeness, beat F1 and onset")
    assert lines[3].startswith("- **SAMUeL**: Fréchet distance 57.6, 18.0 times the 3.2 ")
    assert lines[4].startswith("- No sign of memorising: ")
    assert lines[5:] == [
        r"- Not measured: AudioBox-Aesthetics \(PQ, PC, CE, CU\).",
        "- 1 problem is listed under *Problems*.",
    ]


def test_a_score_of_a_whole_set_is_shown_where_it_was_measured() -> None:
    text = set_section(summary(apa={OURS: 0.4321, REAL: 1.0}))
    assert "far mixes of vocal and accompaniment are" in text
    assert cells(text) == [
        [r"accompaniment prompt adherence \(APA\) \(0 to 1, higher is better\)", "1.000", "0.432"]
    ]
    assert set_section(summary()) == ""


def distribution(**parts: Any) -> str:
    return distribution_section(with_distribution(**parts))


def with_distribution(**parts: Any) -> dict[str, Any]:
    found = deepcopy(SUMMARY["distribution"]) | parts
    return summary(distribution={name: part for name, part in found.items() if part is not None})


def test_the_distance_stands_beside_its_floor() -> None:
    text = distribution(frechet_design="Halves <of> a | b.")
    assert ["SAMUeL", "20", "57.6", "3.2, 2.2 to 4.0", "18.0"] in cells(text)
    assert "\n\nHalves \\<of\\> a \\| b. True items in all: 128. The distance is in squared dev" in text
    assert "would come to about its floor" in text
    assert "\n\nTrue items in all: 128. The distance is" in distribution(frechet_design=None)


@pytest.mark.parametrize(
    ("floor", "shown", "said"),
    [
        (None, "–", "Floor: not measured"),
        ((None, None), "–", "Floor: not measured"),
        ((0.0, 0.0), "0.0, 0.0 to 0.0", "The floor is zero"),
        ((1e-9, 1e-9), "0.0, 0.0 to 0.0", "The floor is zero"),
        ((-1e-9, -1e-9), "0.0, 0.0 to 0.0", "The floor is zero"),
    ],
)
def test_a_floor_of_nothing_is_not_divided_by(floor: Any, shown: str, said: str) -> None:
    known = floor and {OURS: {"mean": floor[0], "low": floor[1], "high": floor[1], "splits": 10}}
    text = distribution(floor=known)
    assert ["SAMUeL", "20", "57.6", shown, "–"] in cells(text)
    assert said in text
    assert "would come to" not in text
    assert "Fréchet" not in in_short(with_distribution(floor=known))


def test_a_copy_stands_out() -> None:
    text = distribution()
    assert "No sign of memorising: the similarity to a training pair is 0.24 at most, true held-out" in text
    assert text.count("⚠") == 1
    rows = SUMMARY["distribution"]["nearest"]
    copy = rows[0] | {"similarity": 0.98, "suspicious": True, "title": "A | <b>"}
    text = distribution(nearest=[copy, *rows[1:]])
    assert "**Perhaps memorised: 1 of 3 generated tracks** (0.98 at most" in text
    assert "| SAMUeL | a-000 | A \\| \\<b\\> | b-000 | **0.98** ⚠ | -1.20 |" in text
    assert "more than 0.70." in text  # half way from 0.41 to a copy
    assert text.count("⚠") == 2


def test_without_a_yardstick_nothing_is_said_of_memory() -> None:
    text = distribution(nearest_held_out={"n": 0, "median": None, "highest": None})
    assert "cannot be told" in text
    assert "No sign" not in text
    assert "Yardstick: not measured." in text


def test_of_very_many_tracks_the_most_alike_are_listed() -> None:
    row = SUMMARY["distribution"]["nearest"][0]
    rows = [row | {"track": f"t{n}", "similarity": n / 1000 if n else None} for n in range(100)]
    text = distribution(nearest=rows, diversity=None, frechet=None)
    assert [listed[1] for listed in cells(text)] == [f"t{n}" for n in range(99, 51, -1)]
    assert "The 48 most alike of 100" in text


def test_diversity() -> None:
    assert (
        "- 3 takes of one vocal with different seeds: **0.80**\n- different vocals: **0.90**"
        in distribution()
    )
    alone = SUMMARY["distribution"]["diversity"] | {"takes": 1, "between_takes": None, "tracks": []}
    assert "seeds: **not measured**" in distribution(diversity=alone)


def test_each_part_that_is_missing_has_its_reason() -> None:
    reasons = {part: f"no <{part}>" for part in ("frechet", "nearest", "diversity")}
    text = distribution_section(summary(distribution={}, not_measured=reasons))
    assert text.count("Not measured: no \\<") == 3
    assert distribution_section(summary(distribution={}, not_measured={})) == ""
    whole = distribution_section(summary(distribution={}, not_measured={"distribution": "no latents"}))
    assert whole == "## Distribution\n\nNot measured: no latents."


def test_the_papers_figures_are_marked_as_the_papers() -> None:
    rows = cells(paper_section(summary()))
    paper = [row for row in rows if row[1] == "paper, not measured here"]
    assert [row[0] for row in rows if row[1] == "measured here"] == [OURS]
    assert ["SAMUeL", "paper, not measured here", "5.73", "5.14", "2.93", "4.97"] in paper
    assert [
        "Jukebox", "paper, not measured here", "lyrics, genre", "5 B", r"\> 6 h", "47.55 s", r"\> 454", "–",
    ] in paper  # fmt: skip
    assert [row[4] for row in paper if row[2] == "vocal"] == ["21 s"]
    assert len(paper) == 10


def test_what_was_measured_stands_beside_the_papers_figures() -> None:
    text = paper_section(summary())
    assert (
        "| SAMUeL | measured here | vocal | 15 M | 1.29 s | 47.55 s | 0.0271 | 1.00 GiB of the process |"
        in text
    )
    assert "SAMUeL: on 2 cores, cpu, median of 3 repeats." in text
    assert "system.json" not in text
    assert "Not measured here: the scorer 'audiobox' was not chosen." in text
    values = zip(("PQ", "PC", "CE"), (5, 6, 7), strict=True)
    text = paper_section(summary(scores={axis: {OURS: interval(value, 0.25)} for axis, value in values}))
    row = ["5.00 [4.75, 5.25]", "6.00 [5.75, 6.25]", "7.00 [6.75, 7.25]", "not measured"]
    assert ["SAMUeL", "measured here", *row] in cells(text)
    assert "![AudioBox scores beside the paper's](audiobox.png)" in text


def test_what_a_folder_states_is_not_said_to_be_measured_here() -> None:
    stated = summary()["efficiency"][OURS] | {"source": "stated", "tracks": 7, "repeats": None}
    text = paper_section(summary(efficiency={"MusicGen": stated}))
    row = next(row for row in cells(text) if row[0] == "MusicGen")
    assert row[1] == "stated by its system.json"
    assert "MusicGen: on 2 cores, cpu, time scaled to 47.55 s from 7 tracks." in text
    assert "What is *stated by its system.json* was written by whoever made the folder" in text
    assert "| measured here |" not in text
    untimed = stated | {"seconds_per_track": None, "tracks": 0}
    assert "MusicGen: on 2 cores, cpu. What" in paper_section(summary(efficiency={"MusicGen": untimed}))


def test_figures_that_somebody_stated_are_no_markup_and_may_be_missing() -> None:
    stated = {"parameters": None, "conditioning": "<b>|", "machine": "`x`"}
    text = paper_section(summary(efficiency={"M|": stated}))
    row = [r"M\|", "source not recorded", r"\<b\>\|", *["not measured"] * 2, "–", *["not measured"] * 2]
    assert f"| {' | '.join(row)} |" in text
    assert r"M\|: on \`x\`." in text
