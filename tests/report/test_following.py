import re
from typing import Any

import pytest

from samuel.report.following import followed, following_section, holm, verdicts
from tests.report.evaluations import CEILING, FOLLOWED_BY, NOT_FOLLOWED, OURS, REAL, cells, interval, summary
from tests.report.evaluations import followed as numbers


def test_holm_by_hand_and_by_its_definition() -> None:
    # By hand: 4 · 0.005, 3 · 0.01, 2 · 0.03, and 0.04 raised to the one before it.
    assert holm([0.04, 0.01, 0.03, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
    ps = [0.2, 0.001, 0.045, 0.013, 0.04]
    ranked = sorted(ps)
    wanted = [max(min(1.0, (5 - j) * q) for j, q in enumerate(ranked[: ranked.index(p) + 1])) for p in ps]
    assert holm(ps) == pytest.approx(wanted)


def p_after_holm(found: dict[str, Any], system: str) -> list[float | None]:
    return [item.p_holm for item in followed(found) if item.system == system]


def of_systems(ps: dict[str, tuple[float, ...]]) -> dict[str, Any]:
    """A summary in which each system has these p of as many scores."""
    following = {
        score: {name: numbers(0.5, 0.4, found[place]) for name, found in ps.items()}
        for place, score in enumerate(FOLLOWED_BY)
    }
    return summary(systems=list(ps), following=following)


def test_more_systems_have_more_chances_to_find_something() -> None:
    """Noise that has p = 0.02 by one score of eight is not shown to follow, nor held to the true ones."""
    noise, other, true = (0.02, 0.5, 0.6, 0.7), (0.3, 0.4, 0.8, 0.9), (0.001, 0.002, 0.003, 0.004)
    assert p_after_holm(of_systems({"noise": noise}), "noise")[0] == pytest.approx(0.08)
    both = of_systems({REAL: true, CEILING: true, "noise": noise, "other": other})
    assert p_after_holm(both, "noise")[0] == pytest.approx(8 * 0.02)
    assert p_after_holm(both, "noise") + p_after_holm(both, "other") == pytest.approx(holm([*noise, *other]))
    assert p_after_holm(both, REAL) + p_after_holm(both, CEILING) == pytest.approx(holm([*true, *true]))


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        # After Holm: 0.0001 · 4, 0.016 · 3, 0.02 · 2 raised to 0.048, 0.6.
        (
            {},
            "follows the vocal in chroma likeness, beat F1 and onset correlation; not shown for key"
            " agreement.",
        ),
        (  # 0.051, and onsets are held to it
            {"beat_f1": numbers(0.31, 0.22, 0.017)},
            "follows the vocal in chroma likeness; not shown for beat F1, onset correlation and key"
            " agreement.",
        ),
        (  # lower with its own
            {"chroma_likeness": numbers(0.5, 0.6, 0.0001)},
            "follows the vocal in beat F1 and onset correlation; not shown for chroma likeness and key"
            " agreement.",
        ),
        (  # of three: 0.048, 0.04
            {"chroma_likeness": numbers(0.6, 0.5, None)},
            "follows the vocal in beat F1 and onset correlation; not shown for key agreement; not measured:"
            " chroma likeness.",
        ),
        (
            dict.fromkeys(FOLLOWED_BY[:3], numbers(0.5, 0.4, 0.9)),
            "**SAMUeL**: not shown that it follows the vocal, by chroma likeness, beat F1, onset correlation"
            " and key agreement.",
        ),
        (dict.fromkeys(FOLLOWED_BY, NOT_FOLLOWED), "there is no other song to compare with."),
        (
            dict.fromkeys(FOLLOWED_BY, numbers(0.5, 0.3, 1 / 6, n=3, p_least=1 / 6)),
            "**SAMUeL**: 3 tracks are too few to tell whether it follows the vocal.",
        ),
    ],
)
def test_a_verdict_follows_from_the_numbers(changes: dict[str, Any], verdict: str) -> None:
    found = summary()
    for score, change in changes.items():
        found["following"][score][OURS] = change
    real, ceiling, ours = verdicts(found)
    assert real.startswith(
        "**real** follows the vocal in chroma likeness, beat F1, onset correlation and key"
    )
    assert ceiling.startswith(r"**real \(through the codec\)** follows")
    assert ours.endswith(verdict)
    assert ours.startswith("**SAMUeL**")


def test_the_table_has_every_number_and_says_what_was_adjusted_for() -> None:
    text = following_section(summary())
    rows = cells(text)
    assert len(rows) == 12
    assert rows[2] == [
        "", "SAMUeL", "20", "0.612", "0.522", "+0.090", "[+0.070, +0.110]", "0.0001", "**0.0004**",
    ]  # fmt: skip
    assert [row[0] for row in rows] == [
        "**chroma likeness**", "", "", "**beat F1**", "", "", "**onset correlation**", "", "",
        "**key agreement**", "", "",
    ]  # fmt: skip
    assert rows[11][-2:] == ["0.600", "0.600"]
    assert text.count("leaks the vocal itself") == 1
    assert "the 4 of all systems that are judged together and the 8 of the true accompaniments" in text


def few(p: float, n: int, p_least: float, scores: int = 4) -> dict[str, Any]:
    return {score: numbers(0.5, 0.4, p, n, p_least) for score in FOLLOWED_BY[:scores]}


A, B = few(0.5, 5, 1 / 120), few(0.5, 20, 1e-4)


@pytest.mark.parametrize(
    ("systems", "hopeless"),
    [
        ({OURS: few(0.5, 4, 1 / 24)}, ["SAMUeL"]),
        ({OURS: few(0.5, 4, 1 / 24, scores=1)}, [None]),
        # Four scores at 1/120 come to 0.033; with those of another system, 8/120 is too much.
        ({"A": A}, [None]),
        ({"A": A, "B": few(0.4, 5, 1 / 120)}, ["A and B"]),
        ({"A": A, "B": few(1e-4, 20, 1e-4)}, [None, None]),  # what is shown of B is out of A's way
        ({"A<b>": A, "B": B}, [r"A\<b\>", None]),
        ({REAL: B, "A": few(0.2, 4, 1 / 24), "B": B}, [None, "A"]),  # the true ones and B are told together
    ],
)
def test_with_few_tracks_it_says_what_they_cannot_show(
    systems: dict[str, dict[str, Any]], hopeless: list[str | None]
) -> None:
    following = {
        score: {name: found[score] for name, found in systems.items() if score in found}
        for score in FOLLOWED_BY
    }
    following = {score: found for score, found in following.items() if found}
    text = following_section(summary(systems=list(systems), following=following))
    lines = [line for line in text.splitlines() if "no less than" in line]
    said = [re.search(r"nothing can be shown of (.+): that takes more tracks", line) for line in lines]
    assert [found and found[1] for found in said] == hopeless
    name, found = next(iter(systems.items()))
    assert lines[0].startswith(f"- {name.replace('<', chr(92) + '<').replace('>', chr(92) + '>')}")
    assert f"with {found['chroma_likeness']['n']} tracks, p can be no less than" in lines[0]


def test_no_p_is_printed_below_its_least() -> None:
    following = {"chroma_likeness": {OURS: numbers(0.5, 0.4, 1e-4, 4, 1 / 24)}}
    assert cells(following_section(summary(systems=[OURS], following=following)))[0][-2:] == [
        "0.042", "**0.042**",
    ]  # fmt: skip


def test_one_song_alone_has_nothing_to_be_compared_with() -> None:
    following = {score: {OURS: NOT_FOLLOWED} for score in FOLLOWED_BY}
    scores = {score: {OURS: interval(0.5, n=1)} for score in FOLLOWED_BY}
    assert following_section(summary(tracks=1, systems=[OURS], following=following, scores=scores)) == (
        "## Does it follow the vocal?\n\n"
        "- **SAMUeL**: not measured whether it follows the vocal: there is no other song to compare with."
    )


@pytest.mark.parametrize(
    ("own", "row"),
    [
        (interval(0.5, n=1), ["0", "–", "no other song", "–", "–", "–", "–"]),
        (NOT_FOLLOWED["difference"], ["0", *["not measured"] * 3, "–", "not measured", "–"]),
    ],
)
def test_a_system_alone_among_others_has_no_number_of_its_own(own: dict[str, Any], row: list[str]) -> None:
    following = {"beat_f1": {REAL: numbers(0.6, 0.4, 0.001), OURS: NOT_FOLLOWED}}
    scores = {"beat_f1": {REAL: interval(0.6), OURS: own}}
    text = following_section(summary(systems=[REAL, OURS], following=following, scores=scores))
    assert cells(text)[1] == ["", "SAMUeL", *row]
    assert ("there is no other song" in text) == (own["mean"] is not None)


def test_what_could_not_be_measured_has_its_reason() -> None:
    text = following_section(summary(following={}, not_measured={"following": "the <vocals> are silent"}))
    assert text.endswith("Not measured: the \\<vocals\\> are silent.")
    assert not cells(text)
