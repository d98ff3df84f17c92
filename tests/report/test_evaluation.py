from samuel.evaluate.scores import REGISTRY
from samuel.report.evaluation import (
    adherence_section,
    evaluation_sections,
    in_short,
    problems_section,
    score_table,
    scores_section,
)
from tests.report.evaluations import (
    CEILING,
    OURS,
    REAL,
    interval,
    summary,
)
from tests.report.test_following import cells

NONE = {"n": 0, "mean": None, "low": None, "high": None}
ALONE = {"n": 1, "mean": 0.5, "low": None, "high": None}


def test_every_score_stands_with_interval_unit_and_direction() -> None:
    rows = {row[0]: row[1:] for row in cells(scores_section(summary()))}
    assert rows[r"chroma likeness \(-1 to 1, higher is better\)"] == [
        "0.712 [0.68, 0.74]", "0.681 [0.65, 0.71]", "0.612 [0.58, 0.64]",
    ]  # fmt: skip
    assert rows[r"log-mel distance \(dB, lower is better\)"] == [
        "–",
        "1.00 [0.8, 1.2]",
        "12.34 [11.8, 12.8] (n = 18)",
    ]
    assert rows[r"level \(dBFS, neither way is better\)"][0] == "-18.0 [-19.0, -17.0]"
    assert len(rows) == 6


def test_the_table_without_markdown_has_the_same_cells() -> None:
    rows = score_table(summary(systems=[REAL, OURS, "<i> without scores"]))
    assert len(rows) == 6
    assert rows[4] == {
        "score": "log-mel distance (dB, lower is better)", REAL: "–", OURS: "12.34 [11.8, 12.8] (n = 18)",
    }  # fmt: skip
    assert score_table(summary(scores=None)) == []


def test_every_score_in_the_table_is_explained_once() -> None:
    text = scores_section(summary())
    meanings = [line for line in text.splitlines() if line.startswith("- **")]
    assert len(meanings) == 6
    assert all(REGISTRY[score].meaning in text for score in summary()["scores"])


def test_what_was_not_measured_is_no_number() -> None:
    scores = {"beat_f1": {REAL: ALONE, OURS: NONE}, "a <new> score": {OURS: interval(1.0)}}
    rows = cells(scores_section(summary(scores=scores, tracks=1)))
    assert rows[0][1:] == ["0.500", "not measured"]
    assert rows[1][0] == r"a \<new\> score"
    assert rows[1][1:] == ["–", "1.000 [0.97, 1.03] (n = 20)"]
    assert CEILING not in scores_section(summary(scores=scores))  # it has no scores here


def test_audiobox_is_named_where_it_is_missing_and_only_there() -> None:
    said = "AudioBox-Aesthetics (PQ, PC, CE, CU): not measured: the scorer 'audiobox' was not chosen."
    assert said in scores_section(summary())
    scores = {axis: {OURS: interval(5.0)} for axis in ("PQ", "PC", "CE", "CU")}
    with_axes = scores_section(summary(scores=scores, not_measured={}))
    assert "not measured" not in with_axes
    assert (
        r"| PC, production complexity \(1 to 10, neither way is better\) | 5.00 [4.97, 5.03] |" in with_axes
    )
    assert "not measured" in scores_section(summary(scores=None, not_measured={}))


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
    lines = problems_section(summary(problems=problems)).splitlines()[-2:]
    assert lines == [
        "- **M**, 9: no file of this name: not scored",
        "- **M**: 1.0 s: too short: 5 tracks, such as 0, 1 and 2",
    ]


def test_the_sections_of_an_evaluation_that_measured_little() -> None:
    least = summary(scores=None, following=None, distribution=None, efficiency=None, problems=None)
    text = "\n\n".join(evaluation_sections(least))
    assert "## Distribution" not in text
    assert text.count("not measured") >= 3
    assert "- **AudioBox-Aesthetics \\(PQ, PC, CE, CU\\)**: the scorer 'audiobox' was not chosen" in text


def test_in_short() -> None:
    lines = in_short(summary()).splitlines()[2:]
    assert lines[2] == (
        "- **SAMUeL** follows the vocal in chroma likeness, beat F1 and onset correlation; not shown for "
        "key agreement."
    )
    assert lines[3].startswith("- **SAMUeL**: Fréchet distance 57.6, 18.0 times the 3.2 ")
    assert lines[4].startswith("- No sign of memorising: ")
    assert lines[5:] == [
        r"- Not measured: AudioBox-Aesthetics \(PQ, PC, CE, CU\).",
        "- 1 problem is listed under *Problems*.",
    ]


def test_adherence_is_shown_where_it_was_measured() -> None:
    text = adherence_section(summary(apa={OURS: 0.4321, "M|G": 1.0}))
    assert "| SAMUeL | 0.432 |" in text
    assert "| M\\|G | 1.000 |" in text
    assert adherence_section(summary(apa={})) == adherence_section(summary()) == ""
