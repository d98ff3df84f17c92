from samuel.report.published import paper_section
from tests.report.evaluations import OURS, interval, summary
from tests.report.test_following import cells


def test_the_paper_s_figures_are_marked_as_the_paper_s() -> None:
    rows = cells(paper_section(summary()))
    paper = [row for row in rows if row[1] == "paper, not measured here"]
    assert [row[0] for row in rows if row[1] == "measured here"] == [OURS]
    assert ["SAMUeL", "paper, not measured here", "5.73", "5.14", "2.93", "4.97"] in paper
    assert ["MusicGen Large", "paper, not measured here", "7.99", "5.62", "7.99", "8.14"] in paper
    jukebox = [
        "Jukebox",
        "paper, not measured here",
        "lyrics, genre",
        "5 B",
        r"\> 6 h",
        "47.55 s",
        r"\> 454",
        "–",
    ]
    assert jukebox in paper
    assert [row[4] for row in paper if row[2] == "vocal"] == ["21 s"]
    assert len(paper) == 10


def test_what_was_measured_stands_beside() -> None:
    text = paper_section(summary())
    assert (
        "| SAMUeL | measured here | vocal | 15 M | 1.29 s | 47.55 s | 0.0271 | 1.00 GiB of the process |"
        in text
    )
    assert "SAMUeL: on 2 cores, cpu, median of 3 repeats." in text
    assert "system.json" not in text
    assert "Not measured here: the scorer 'audiobox' was not chosen." in text


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


def test_audiobox_that_was_measured() -> None:
    scores = {
        axis: {OURS: interval(value, 0.25)} for axis, value in zip(("PQ", "PC", "CE"), (5, 6, 7), strict=True)
    }
    text = paper_section(summary(scores=scores, not_measured={}))
    row = ["5.00 [4.75, 5.25]", "6.00 [5.75, 6.25]", "7.00 [6.75, 7.25]", "not measured"]
    assert ["SAMUeL", "measured here", *row] in cells(text)
    assert "![AudioBox scores beside the paper's](audiobox.png)" in text


def test_figures_that_somebody_stated_are_no_markup_and_may_be_missing() -> None:
    stated = {"parameters": None, "conditioning": "<b>|", "machine": "`x`"}
    text = paper_section(summary(efficiency={"M|": stated}))
    row = [r"M\|", "source not recorded", r"\<b\>\|", *["not measured"] * 2, "–", *["not measured"] * 2]
    assert f"| {' | '.join(row)} |" in text
    assert r"M\|: on \`x\`." in text
    assert "Not measured here: nobody <told>.".replace("<", "\\<").replace(">", "\\>") in paper_section(
        summary(efficiency=None, not_measured={"efficiency": "nobody <told>"})
    )
