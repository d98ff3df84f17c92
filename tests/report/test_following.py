import re
from typing import Any

import pytest

from samuel.report.following import Verdict, following_section, holm, told, verdicts
from tests.report.evaluations import CEILING, FOLLOWED_BY, OURS, REAL, followed, summary


def cells(text: str) -> list[list[str]]:
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_holm_by_hand_and_by_its_definition() -> None:
    # By hand: 4 · 0.005, 3 · 0.01, 2 · 0.03, and 0.04 raised to the one before it.
    assert holm([0.04, 0.01, 0.03, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
    ps = [0.2, 0.001, 0.04, 0.013, 0.04]
    ranked = sorted(ps)
    wanted = {p: max(min(1.0, (5 - j) * q) for j, q in enumerate(ranked[: ranked.index(p) + 1])) for p in ps}
    assert holm(ps)[0] == pytest.approx(wanted[0.2])
    assert holm(ps)[1:4] == pytest.approx([wanted[0.001], max(2 * 0.04, 3 * 0.04), wanted[0.013]])


def of_ours(**changes: Any) -> list[Verdict]:
    found = summary()
    for score, change in changes.items():
        found["following"][score][OURS] = change
    return verdicts(found)


def test_a_verdict_follows_from_the_numbers() -> None:
    ceiling = Verdict(CEILING, FOLLOWED_BY, (), ())
    # After Holm: 0.0001 · 4, 0.016 · 3, 0.02 · 2 raised to 0.048, 0.6.
    ours = Verdict(OURS, FOLLOWED_BY[:3], FOLLOWED_BY[3:], ())
    assert of_ours() == [Verdict(REAL, FOLLOWED_BY, (), ()), ceiling, ours]


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"beat_f1": followed(0.31, 0.22, 0.017)}, ("chroma_likeness",)),  # 0.051, and onsets are held to it
        (
            {"chroma_likeness": followed(0.5, 0.6, 0.0001)},
            ("beat_f1", "onset_correlation"),
        ),  # lower with its own
        (
            {"chroma_likeness": followed(0.6, 0.5, None)},
            ("beat_f1", "onset_correlation"),
        ),  # of three: 0.048, 0.04
    ],
)
def test_what_is_not_significant_or_lower_is_not_shown(
    changes: dict[str, Any], shown: tuple[str, ...]
) -> None:
    verdict = of_ours(**changes)[-1]
    assert verdict.shown == shown
    assert set(verdict.shown) | set(verdict.not_shown) | set(verdict.not_measured) == set(FOLLOWED_BY)
    assert ("chroma_likeness" in verdict.not_measured) == (
        changes.get("chroma_likeness", {"p": 0})["p"] is None
    )


def test_verdicts_in_words() -> None:
    scores = FOLLOWED_BY
    assert told(Verdict("S*", scores[:2], scores[2:], ())) == (
        r"**S\*** follows the vocal in chroma likeness and beat F1; "
        "not shown for onset correlation and key agreement."
    )
    assert told(Verdict("S", scores[:1], (), ())) == "**S** follows the vocal in chroma likeness."
    assert told(Verdict("S", (), scores[:1], scores[1:2])) == (
        "**S**: not shown that it follows the vocal, by chroma likeness; not measured: beat F1."
    )
    assert told(Verdict("S", (), (), scores)) == "**S**: not measured whether it follows the vocal."


def test_the_table_has_every_number() -> None:
    rows = cells(following_section(summary()))
    assert len(rows) == 12
    assert rows[2] == [
        "", "SAMUeL", "20", "0.612", "0.522", "+0.090", "[+0.070, +0.110]", "0.0001", "**0.0004**",
    ]  # fmt: skip
    assert [row[0] for row in rows] == [
        "**chroma likeness**", "", "", "**beat F1**", "", "", "**onset correlation**", "", "",
        "**key agreement**", "", "",
    ]  # fmt: skip
    assert rows[11][-2:] == ["0.600", "0.600"]


def test_with_few_tracks_it_says_what_they_cannot_show() -> None:
    text = following_section(summary(tracks=4, p_least=1 / 24))
    assert (
        "**With 4 tracks, p can be no less than 0.042. After Holm over 4 scores nothing can be shown" in text
    )
    assert "With 20 tracks, p can be no less than 0.0001." in following_section(summary())
    assert "nothing can be shown" not in following_section(summary())


def test_what_could_not_be_measured_is_said() -> None:
    nothing = {"n": 0, "mean": None, "low": None, "high": None}
    found = {"n": 0, "own": None, "other": None, "difference": nothing, "p": None}
    text = following_section(summary(systems=[OURS], following={"beat_f1": {OURS: found}}))
    assert cells(text) == [["**beat F1**", "SAMUeL", "0", *["not measured"] * 3, "–", "not measured", "–"]]
    without = following_section(
        summary(following=None, not_measured={"following": "the <vocals> are silent"})
    )
    assert without.endswith("Not measured: the \\<vocals\\> are silent.")
    assert not re.search(r"^\|", without, re.MULTILINE)
