"""Does an accompaniment follow its vocal? The part of a report that says so, or that it is not shown.

What is read here is `following` of `summary.json`, which `samuel.evaluate.scores` writes:
`{score: {system: {n, own, other, difference: {mean, low, high}, p}}}`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from samuel.report.markdown import (
    NONE,
    NOT_MEASURED,
    bullets,
    enumerated,
    interval,
    number,
    plain,
    probability,
    section,
    table,
)
from samuel.report.score_names import in_order, score_name

Summary = Mapping[str, Any]

SIGNIFICANT = 0.05
FOLLOWING_PLOT = "following.png"
HEAD = (
    "score", "system", "tracks", "own vocal", "other songs' vocals", "difference", "95 % interval", "p",
    "p after Holm",
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What the scores say of one system, by name of score.

    Attributes:
        system: Whose accompaniments.
        shown: It follows the vocal by these: p after Holm below 0.05, and its own vocal scores higher.
        not_shown: By these it was not shown, which does not say that it does not.
        not_measured: These have no p.
    """

    system: str
    shown: tuple[str, ...]
    not_shown: tuple[str, ...]
    not_measured: tuple[str, ...]


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for there being several (Holm, "A simple sequentially rejective …", 1979).

        p̃₍ᵢ₎ = max over j ≤ i of min(1, (m - j + 1) p₍ⱼ₎), in rising order of p

    Args:
        p_values: m of them, in any order.

    Returns:
        Adjusted, in the order given.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def adjusted_p(summary: Summary) -> dict[str, dict[str, float]]:
    """By system and score, p after Holm over those scores of the system that have one."""
    following = summary.get("following") or {}
    found: dict[str, dict[str, float]] = {}
    for system in summary["systems"]:
        raw = {
            score: systems[system]["p"]
            for score, systems in following.items()
            if system in systems and systems[system].get("p") is not None
        }
        found[system] = dict(zip(raw, holm(list(raw.values())), strict=True))
    return found


def verdicts(summary: Summary) -> list[Verdict]:
    """What the numbers say of every system that was measured, by rule alone."""
    following, adjusted = summary.get("following") or {}, adjusted_p(summary)
    found = []
    for system in summary["systems"]:
        scores = [score for score in in_order(following) if system in following[score]]
        measured = [score for score in scores if score in adjusted[system]]
        shown = [
            s for s in measured if adjusted[system][s] < SIGNIFICANT and _difference(following[s][system]) > 0
        ]
        not_shown = [score for score in measured if score not in shown]
        missing = [score for score in scores if score not in measured]
        if scores:
            found.append(Verdict(system, tuple(shown), tuple(not_shown), tuple(missing)))
    return found


def told(verdict: Verdict) -> str:
    """A verdict as one sentence of Markdown."""
    who = f"**{plain(verdict.system)}**"
    shown, not_shown, missing = (
        enumerated([score_name(score).name for score in scores])
        for scores in (verdict.shown, verdict.not_shown, verdict.not_measured)
    )
    if not shown and not not_shown:
        return f"{who}: {NOT_MEASURED} whether it follows the vocal."
    rest = f"; {NOT_MEASURED}: {missing}" if missing else ""
    if not shown:
        return f"{who}: not shown that it follows the vocal, by {not_shown}{rest}."
    unsure = f"; not shown for {not_shown}" if not_shown else ""
    return f"{who} follows the vocal in {shown}{unsure}{rest}."


def following_section(summary: Summary) -> str:
    """Own vocal against other songs' vocals, for every score and system, and what follows from it.

    Its picture is `following.png`, which `samuel.report.score_plots` draws.
    """
    title = "## Does it follow the vocal?"
    if not summary.get("following"):
        reason = (summary.get("not_measured") or {}).get("following", "there are no such scores")
        return section(title, f"{NOT_MEASURED.capitalize()}: {plain(reason)}.")
    return section(
        title,
        "A score of an accompaniment with its own vocal says little by itself: two songs in C major are "
        "alike as well. So each accompaniment is scored against the vocals of *other* songs too. What "
        "follows the vocal scores higher with its own.",
        bullets(told(verdict) for verdict in verdicts(summary)),
        f"![Own vocal and other songs' vocals, by score and system]({FOLLOWING_PLOT})",
        table(HEAD, _rows(summary), words=2),
        _legend(summary),
    )


def _rows(summary: Summary) -> list[list[str]]:
    following, adjusted = summary["following"], adjusted_p(summary)
    rows = []
    for score in in_order(following):
        listed = [system for system in summary["systems"] if system in following[score]]
        for place, system in enumerate(listed):
            found, label = following[score][system], plain(score_name(score).name)
            rows.append([
                f"**{label}**" if place == 0 else "", plain(system),
                *_numbers(found, score_name(score).digits, adjusted[system].get(score)),
            ])  # fmt: skip
    return rows


def _numbers(found: Mapping[str, Any], digits: int, adjusted: float | None) -> list[str]:
    difference = found.get("difference") or {}
    within = interval(difference.get("low"), difference.get("high"), digits, sign="+")
    return [
        str(found["n"]), number(found["own"], digits), number(found["other"], digits),
        number(difference.get("mean"), digits, sign="+"), within or NONE,
        probability(found.get("p")), _after_holm(adjusted),
    ]  # fmt: skip


def _after_holm(p: float | None) -> str:
    if p is None:
        return NONE
    return f"**{probability(p)}**" if p < SIGNIFICANT else probability(p)


def _difference(found: Mapping[str, Any]) -> float:
    mean = (found.get("difference") or {}).get("mean")
    return 0.0 if mean is None else mean


def _legend(summary: Summary) -> str:
    lines = [
        f"A system is said to follow by a score where p after Holm is below {SIGNIFICANT:g} (in bold) and "
        "the difference above zero. *Not shown* does not say that it does not follow: there may be too few "
        "tracks.",
        "*p* is how often dealing the same accompaniments to the same vocals by chance scores as high. "
        "*After Holm*, it is adjusted for one system's having several scores, each a chance to find "
        "something.",
    ]
    return " ".join([*lines, _least(summary)]).rstrip()


def _least(summary: Summary) -> str:
    """What p can come to at least, and whether that leaves anything to be shown."""
    least = summary.get("p_least")
    if least is None:
        return ""
    counts = [len(found) for found in adjusted_p(summary).values() if found]
    sentence = f"With {summary['tracks']} tracks, p can be no less than {least:.2g}"
    if not counts or least * min(counts) < SIGNIFICANT:
        return f"{sentence}."
    return (
        f"**{sentence}. After Holm over {min(counts)} scores nothing can be shown, however well a system "
        "follows: that takes more tracks.**"
    )
