"""Does an accompaniment follow its vocal? The part of a report that says so, or that it is not shown.

What is read here is `following` of `summary.json`, which `samuel.evaluate.summary` writes:
`{score: {system: {n, own, other, difference: {mean, low, high}, p, p_least}}}`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from samuel.evaluate.scores import find_score, in_order
from samuel.evaluate.systems import CEILING, REAL
from samuel.report.html import (
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

Summary = Mapping[str, Any]

SIGNIFICANT = 0.05
FOLLOWING_PLOT = "following.png"
NO_OTHER = "there is no other song to compare with"
LEAK = (
    "An accompaniment that leaks the vocal itself, as a bad separation or a copy of it does, also scores as "
    "following."
)
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
        alone: It has scores with its own vocal, and no other song's vocal to hold them to.
        too_few: So many tracks, by which nothing could be shown of it; 0 where something could.
    """

    system: str
    shown: tuple[str, ...]
    not_shown: tuple[str, ...]
    not_measured: tuple[str, ...]
    alone: bool = False
    too_few: int = 0


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
    """By system and score, p after Holm over all that have one: each is a chance to find something.

    The true accompaniments and their round trip are a family of their own. What is to be shown of a system
    is not harder for there being a yardstick.
    """
    found: dict[str, dict[str, float]] = {system: {} for system in summary["systems"]}
    for family in _families(summary):
        for (system, score), p in _after_holm(family).items():
            found[system][score] = p
    return found


def comparable(summary: Summary) -> bool:
    """Whether any accompaniment has another song's vocal to be compared with."""
    return any(
        found["n"] for systems in (summary.get("following") or {}).values() for found in systems.values()
    )


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
            alone = all(_alone(summary, score, system) for score in scores)
            few = _too_few([following[score][system] for score in measured])
            found.append(Verdict(system, tuple(shown), tuple(not_shown), tuple(missing), alone, few))
    return found


def _too_few(scores: Sequence[Mapping[str, Any]]) -> int:
    """How many tracks there are, where none of the scores can have a p that shows something; else 0."""
    if not scores or any((found.get("p_least") or 0.0) < SIGNIFICANT for found in scores):
        return 0
    return max(found["n"] for found in scores)


def told(verdict: Verdict) -> str:
    """A verdict as one sentence of Markdown."""
    who = f"**{plain(verdict.system)}**"
    shown, not_shown, missing = (
        enumerated([find_score(score).title for score in scores])
        for scores in (verdict.shown, verdict.not_shown, verdict.not_measured)
    )
    if not shown and not not_shown:
        why = f": {NO_OTHER}" if verdict.alone else ""
        return f"{who}: {NOT_MEASURED} whether it follows the vocal{why}."
    if verdict.too_few:
        return f"{who}: {verdict.too_few} tracks are too few to tell whether it follows the vocal."
    rest = f"; {NOT_MEASURED}: {missing}" if missing else ""
    if not shown:
        return f"{who}: not shown that it follows the vocal, by {not_shown}{rest}."
    unsure = f"; not shown for {not_shown}" if not_shown else ""
    return f"{who} follows the vocal in {shown}{unsure}{rest}."


def following_section(summary: Summary) -> str:
    """Own vocal against other songs' vocals, for every score and system, and what follows from it.

    Its picture is `following.png`, which `samuel.report.plots` draws.
    """
    title = "## Does it follow the vocal?"
    if not summary.get("following"):
        reason = (summary.get("not_measured") or {}).get("following", "there are no such scores")
        return section(title, f"{NOT_MEASURED.capitalize()}: {plain(reason)}.")
    if not comparable(summary):
        return section(title, bullets(told(verdict) for verdict in verdicts(summary)))
    return section(
        title,
        "A score of an accompaniment with its own vocal says little by itself: two songs in C major are "
        "alike as well. So each accompaniment is scored against the vocals of *other* songs too. What "
        "follows the vocal scores higher with its own.",
        bullets(told(verdict) for verdict in verdicts(summary)),
        LEAK,
        f"![Own vocal and other songs' vocals, by score and system]({FOLLOWING_PLOT})",
        table(HEAD, _rows(summary), words=2),
        _legend(summary),
    )


Tests = dict[tuple[str, str], float]
"""p by system and score."""


def _families(summary: Summary) -> tuple[Tests, Tests]:
    """What is adjusted together: the systems that are judged, and the true accompaniments."""
    judged: Tests = {}
    true: Tests = {}
    for score, systems in (summary.get("following") or {}).items():
        for system in summary["systems"]:
            if (p := _p(systems.get(system) or {})) is not None:
                (true if system in (REAL, CEILING) else judged)[system, score] = p
    return judged, true


def _after_holm(family: Tests) -> Tests:
    return dict(zip(family, holm(list(family.values())), strict=True))


def _p(found: Mapping[str, Any]) -> float | None:
    """Never below what so few tracks can come to."""
    p = found.get("p")
    return None if p is None else max(p, found.get("p_least") or 0.0)


def _alone(summary: Summary, score: str, system: str) -> bool:
    """Whether a score was measured with the own vocal, and there is no other to hold it to."""
    own = (summary.get("scores") or {}).get(score, {}).get(system) or {}
    return not summary["following"][score][system]["n"] and own.get("mean") is not None


def _rows(summary: Summary) -> list[list[str]]:
    following, adjusted = summary["following"], adjusted_p(summary)
    rows = []
    for score in in_order(following):
        listed = [system for system in summary["systems"] if system in following[score]]
        for place, system in enumerate(listed):
            found, label = following[score][system], plain(find_score(score).title)
            rows.append([
                f"**{label}**" if place == 0 else "", plain(system),
                *_numbers(
                    found, find_score(score).digits, adjusted[system].get(score),
                    alone=_alone(summary, score, system),
                ),
            ])  # fmt: skip
    return rows


def _numbers(found: Mapping[str, Any], digits: int, adjusted: float | None, *, alone: bool) -> list[str]:
    if alone:
        return [str(found["n"]), NONE, "no other song", *[NONE] * 4]
    difference = found.get("difference") or {}
    within = interval(difference.get("low"), difference.get("high"), digits, sign="+")
    return [
        str(found["n"]), number(found["own"], digits), number(found["other"], digits),
        number(difference.get("mean"), digits, sign="+"), within or NONE,
        probability(_p(found)), _in_bold(adjusted),
    ]  # fmt: skip


def _in_bold(p: float | None) -> str:
    if p is None:
        return NONE
    return f"**{probability(p)}**" if p < SIGNIFICANT else probability(p)


def _difference(found: Mapping[str, Any]) -> float:
    mean = (found.get("difference") or {}).get("mean")
    return 0.0 if mean is None else mean


def _legend(summary: Summary) -> str:
    judged, true = (len(family) for family in _families(summary))
    over = [
        *([f"the {judged} of all systems that are judged together"] if judged else []),
        *([f"the {true} of the true accompaniments by themselves"] if true else []),
    ]
    lines = [
        f"A system is said to follow by a score where p after Holm is below {SIGNIFICANT:g} (in bold) and "
        "the difference above zero. *Not shown* does not say that it does not follow: there may be too few "
        "tracks.",
        "*p* is how often dealing the same accompaniments to the same vocals by chance scores as high. "
        "*After Holm*, it is adjusted for there being several, each a chance to find something: "
        f"{enumerated(over)}.",
        "All columns are over those tracks that could be compared with other songs' vocals.",
    ]
    return section(" ".join(lines), bullets(_least(summary)))


def _least(summary: Summary) -> list[str]:
    """What p can come to at least, and of which systems nothing can be shown, whatever they do."""
    alike: dict[tuple[int, float], list[str]] = {}
    for system in summary["systems"]:
        of_system = [found[system] for found in summary["following"].values() if system in found]
        known = [(found["p_least"], found["n"]) for found in of_system if found.get("p_least") is not None]
        if known:
            least, n = min(known)
            alike.setdefault((n, least), []).append(system)
    return [
        f"{_named(systems)}: with {n} tracks, p can be no less than {least:.2g}."
        f"{_out_of_reach(summary, systems)}"
        for (n, least), systems in alike.items()
    ]


def _out_of_reach(summary: Summary, systems: Sequence[str]) -> str:
    """Those of the systems of which nothing could be shown with the least p that there is for each score."""
    beyond = [system for system in systems if _best_p(summary, system) >= SIGNIFICANT]
    return (
        f" **After Holm nothing can be shown of {_named(beyond)}: that takes more tracks.**" if beyond else ""
    )


def _best_p(summary: Summary, system: str) -> float:
    """The least p after Holm that a system could have come to, the others being as they are."""
    (family,) = [tests for tests in _families(summary) if any(s == system for s, _ in tests)] or [{}]
    best = {
        (s, score): summary["following"][score][s].get("p_least") or 0.0 if s == system else p
        for (s, score), p in family.items()
    }
    return min((p for (s, _), p in _after_holm(best).items() if s == system), default=0.0)


def _named(systems: Sequence[str]) -> str:
    return enumerated([plain(system) for system in systems])
