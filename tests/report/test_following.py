import re
from typing import Any

import pytest

from samuel.report.following import (
    Verdict,
    adjusted_p,
    following_section,
    holm,
    told,
    verdicts,
)
from tests.report.evaluations import (
    CEILING,
    FOLLOWED_BY,
    NOT_FOLLOWED,
    OURS,
    REAL,
    followed,
    interval,
    summary,
)


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
    assert told(Verdict("S", (), (), scores, alone=True)).endswith(
        "follows the vocal: there is no other song to compare with."
    )


def of_systems(ps: dict[str, tuple[float, ...]]) -> dict[str, Any]:
    """A summary in which each system has these p of as many scores."""
    following = {
        score: {name: followed(0.5, 0.4, found[place]) for name, found in ps.items() if place < len(found)}
        for place, score in enumerate(FOLLOWED_BY)
    }
    return summary(systems=list(ps), following={score: found for score, found in following.items() if found})


def test_more_systems_have_more_chances_to_find_something() -> None:
    """Noise that has p = 0.02 by one score of eight is not shown to follow, nor held to the true ones."""
    noise, other = (0.02, 0.5, 0.6, 0.7), (0.3, 0.4, 0.8, 0.9)
    assert adjusted_p(of_systems({"noise": noise}))["noise"]["chroma_likeness"] == pytest.approx(0.08)
    found = adjusted_p(of_systems({"noise": noise, "other": other}))
    assert found["noise"]["chroma_likeness"] == pytest.approx(8 * 0.02)
    ranked = holm([*noise, *other])
    assert [*found["noise"].values(), *found["other"].values()] == pytest.approx(ranked)
    true = (0.001, 0.002, 0.003, 0.004)
    with_true = adjusted_p(of_systems({REAL: true, CEILING: true, "noise": noise, "other": other}))
    assert with_true["noise"] == found["noise"]
    assert [*with_true[REAL].values(), *with_true[CEILING].values()] == pytest.approx(holm([*true, *true]))


def test_a_leak_of_the_vocal_and_what_was_adjusted_for_are_told() -> None:
    text = following_section(summary())
    assert text.count("leaks the vocal itself") == 1
    assert "the 4 of all systems that are judged together and the 8 of the true accompaniments" in text


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


def few(p: float, n: int, p_least: float, scores: int = 4) -> dict[str, Any]:
    return {score: followed(0.5, 0.4, p, n, p_least) for score in FOLLOWED_BY[:scores]}


def least_told(systems: dict[str, dict[str, Any]]) -> list[str]:
    following = {
        score: {name: found[score] for name, found in systems.items() if score in found}
        for score in FOLLOWED_BY
    }
    text = following_section(summary(systems=list(systems), following=following))
    return [line for line in text.splitlines() if "no less than" in line]


def test_with_few_tracks_it_says_what_they_cannot_show() -> None:
    assert least_told({OURS: few(0.5, 4, 1 / 24)}) == [
        "- SAMUeL: with 4 tracks, p can be no less than 0.042. **After Holm nothing can be shown of SAMUeL: "
        "that takes more tracks.**"
    ]
    assert least_told({OURS: few(0.5, 4, 1 / 24, scores=1)}) == [
        "- SAMUeL: with 4 tracks, p can be no less than 0.042."
    ]


def test_the_least_p_is_each_system_s_own() -> None:
    systems = {REAL: few(1e-4, 20, 1e-4), "A<b>": few(0.2, 4, 1 / 24), "B": few(1e-4, 20, 1e-4)}
    assert least_told(systems) == [
        "- real and B: with 20 tracks, p can be no less than 0.0001.",
        "- A\\<b\\>: with 4 tracks, p can be no less than 0.042. **After Holm nothing can be shown of "
        "A\\<b\\>: that takes more tracks.**",
    ]


def test_what_others_leave_can_be_too_little() -> None:
    """Four scores at 1/120 come to 0.033; with those of another system, 8/120 is too much."""
    assert "nothing" not in least_told({"A": few(0.5, 5, 1 / 120)})[0]
    (told_of,) = least_told({"A": few(0.5, 5, 1 / 120), "B": few(0.4, 5, 1 / 120)})
    assert "nothing can be shown of A and B" in told_of
    first, second = least_told({"A": few(0.5, 5, 1 / 120), "B": few(1e-4, 20, 1e-4)})
    assert "nothing" not in first + second  # what is shown of B is out of A's way
    first, second = least_told({"A": few(0.5, 5, 1 / 120), "B": few(0.5, 20, 1e-4)})
    assert "nothing can be shown of A:" in first
    assert "nothing" not in second


def test_no_p_is_printed_below_its_least() -> None:
    found = few(1e-4, 4, 1 / 24, scores=1)
    text = following_section(
        summary(systems=[OURS], following={"chroma_likeness": {OURS: found["chroma_likeness"]}})
    )
    assert cells(text)[0][-2:] == ["0.042", "**0.042**"]


def test_one_song_alone_has_nothing_to_be_compared_with() -> None:
    following = {score: {OURS: NOT_FOLLOWED} for score in FOLLOWED_BY}
    scores = {score: {OURS: interval(0.5, n=1)} for score in FOLLOWED_BY}
    text = following_section(summary(tracks=1, systems=[OURS], following=following, scores=scores))
    assert text == (
        "## Does it follow the vocal?\n\n"
        "- **SAMUeL**: not measured whether it follows the vocal: there is no other song to compare with."
    )


def test_a_system_alone_among_others_has_no_number_of_its_own() -> None:
    following = {"beat_f1": {REAL: followed(0.6, 0.4, 0.001), OURS: NOT_FOLLOWED}}
    scores = {"beat_f1": {REAL: interval(0.6), OURS: interval(0.5, n=1)}}
    text = following_section(summary(systems=[REAL, OURS], following=following, scores=scores))
    assert cells(text)[1] == ["", "SAMUeL", "0", "–", "no other song", "–", "–", "–", "–"]
    assert "**SAMUeL**: not measured whether it follows the vocal: there is no other song" in text


def test_what_could_not_be_measured_is_said() -> None:
    silent = {"beat_f1": {REAL: followed(0.6, 0.4, 0.001), OURS: NOT_FOLLOWED}}
    scores = {"beat_f1": {REAL: interval(0.6), OURS: NOT_FOLLOWED["difference"]}}
    text = following_section(summary(systems=[REAL, OURS], following=silent, scores=scores))
    assert cells(text)[1] == ["", "SAMUeL", "0", *["not measured"] * 3, "–", "not measured", "–"]
    assert "no other song" not in text
    without = following_section(
        summary(following=None, not_measured={"following": "the <vocals> are silent"})
    )
    assert without.endswith("Not measured: the \\<vocals\\> are silent.")
    assert not re.search(r"^\|", without, re.MULTILINE)


def test_few_tracks_tell_nothing_and_that_is_said_at_once() -> None:
    few = {
        score: {OURS: followed(0.5, 0.3, 1 / 6, p_least=1 / 6) | {"n": 3}}
        for score in ("beat_f1", "key_agreement")
    }
    (verdict,) = verdicts(summary(systems=[OURS], following=few))
    assert told(verdict) == "**SAMUeL**: 3 tracks are too few to tell whether it follows the vocal."
