"""Does an accompaniment follow its vocal? The part of a report that says so, or that it is not shown.

It reads `following` of `summary.json`: `{score: {system: {n, own, other, difference, p, p_least}}}`.
"""

from collections.abc import Iterable, Mapping, Sequence
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
HEAD = (
    "score", "system", "tracks", "own vocal", "other songs' vocals", "difference", "95 % interval", "p",
    "p after Holm",
)  # fmt: skip


@dataclass
class Followed:
    """A score of a system with its own vocals, beside the same score with those of other songs.

    Attributes:
        score: Its name.
        system: Whose accompaniments.
        n: Tracks that could be compared with other songs' vocals.
        own: Mean over these tracks with their own vocals.
        other: The same with the others'.
        difference: `mean`, `low` and `high` of own less other.
        p_least: So few tracks can come to no lower p.
        p: How often chance does as well; never below `p_least`; None where it was not measured.
        p_holm: p after Holm over all of its family that have one: each is a chance to find something.
        alone: It was measured with its own vocal, and there is no other song's to hold it to.
    """

    score: str
    system: str
    n: int
    own: float | None
    other: float | None
    difference: dict[str, float | None]
    p_least: float
    p: float | None
    p_holm: float | None = None
    alone: bool = False

    @property
    def true(self) -> bool:
        """Of the true accompaniments: a family of their own, which makes nothing harder for the others."""
        return self.system in (REAL, CEILING)

    @property
    def shown(self) -> bool:
        """More than noise: p after Holm is below 0.05, and its own vocal scores higher."""
        return self.p_holm is not None and self.p_holm < SIGNIFICANT and (self.difference["mean"] or 0.0) > 0


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


def followed(summary: Summary) -> list[Followed]:
    """All scores of all systems, in the order of the report."""
    found = [
        _followed(summary, score, system)
        for score in in_order(summary["following"])
        for system in summary["systems"]
        if system in summary["following"][score]
    ]
    for true in (False, True):
        family = [item for item in found if item.true == true and item.p is not None]
        for item, p in zip(family, holm([item.p or 0.0 for item in family]), strict=True):
            item.p_holm = p
    return found


def _followed(summary: Summary, score: str, system: str) -> Followed:
    found = summary["following"][score][system]
    own, p, p_least = summary["scores"].get(score, {}).get(system) or {}, found["p"], found["p_least"] or 0.0
    return Followed(
        score, system, found["n"], found["own"], found["other"], found["difference"], p_least,
        p=None if p is None else max(p, p_least),
        alone=not found["n"] and own.get("mean") is not None,
    )  # fmt: skip


def comparable(summary: Summary) -> bool:
    """Test that any accompaniment has another song's vocal to be compared with."""
    return any(item.n for item in followed(summary))


def verdicts(summary: Summary) -> list[str]:
    """Conclusions on every system that was measured, by rule alone: a sentence of Markdown each."""
    found = followed(summary)
    by_system = {system: [item for item in found if item.system == system] for system in summary["systems"]}
    return [f"**{plain(system)}**{_verdict(items)}." for system, items in by_system.items() if items]


def _verdict(items: Sequence[Followed]) -> str:
    measured = [item for item in items if item.p is not None]
    if not measured:
        why = ": there is no other song to compare with" if all(item.alone for item in items) else ""
        return f": {NOT_MEASURED} whether it follows the vocal{why}"
    if all(item.p_least >= SIGNIFICANT for item in measured):
        tracks = max(item.n for item in measured)
        return f": {tracks} tracks are too few to tell whether it follows the vocal"
    shown = _titles(item for item in measured if item.shown)
    not_shown = _titles(item for item in measured if not item.shown)
    missing = _titles(item for item in items if item.p is None)
    rest = f"; {NOT_MEASURED}: {missing}" if missing else ""
    if not shown:
        return f": not shown that it follows the vocal, by {not_shown}{rest}"
    unsure = f"; not shown for {not_shown}" if not_shown else ""
    return f" follows the vocal in {shown}{unsure}{rest}"


def _titles(items: Iterable[Followed]) -> str:
    return enumerated([find_score(item.score).title for item in items])


def following_section(summary: Summary) -> str:
    """Own vocal against other songs' vocals, for every score and system, and what follows from it.

    Its picture is `following.png`, which `samuel.report.plots` draws.
    """
    title, found = "## Does it follow the vocal?", followed(summary)
    if not found:
        reason = summary["not_measured"].get("following", "there are no such scores")
        return section(title, f"{NOT_MEASURED.capitalize()}: {plain(reason)}.")
    if not any(item.n for item in found):
        return section(title, bullets(verdicts(summary)))
    return section(
        title,
        "A score of an accompaniment with its own vocal says little by itself: two songs in C major are "
        "alike as well. So each accompaniment is scored against the vocals of *other* songs too. What "
        "follows the vocal scores higher with its own.",
        bullets(verdicts(summary)),
        "An accompaniment that leaks the vocal itself, as a bad separation or a copy of it does, also scores "
        "as following.",
        f"![Own vocal and other songs' vocals, by score and system]({FOLLOWING_PLOT})",
        table(HEAD, _rows(found), words=2),
        _legend(found),
        bullets(_reach(found, summary["systems"])),
    )


def _rows(found: Sequence[Followed]) -> list[list[str]]:
    rows, before = [], ""
    for item in found:
        digits = find_score(item.score).digits
        label = f"**{plain(find_score(item.score).title)}**" if item.score != before else ""
        numbers = [
            number(item.own, digits), number(item.other, digits),
            number(item.difference["mean"], digits, sign="+"),
            interval(item.difference["low"], item.difference["high"], digits, sign="+") or NONE,
            probability(item.p),
            NONE if item.p_holm is None else probability(item.p_holm),
        ]  # fmt: skip
        if item.p_holm is not None and item.p_holm < SIGNIFICANT:
            numbers[-1] = f"**{numbers[-1]}**"
        if item.alone:
            numbers = [NONE, "no other song", *[NONE] * 4]
        rows.append([label, plain(item.system), str(item.n), *numbers])
        before = item.score
    return rows


def _legend(found: Sequence[Followed]) -> str:
    judged, true = (sum(item.p is not None and item.true == kind for item in found) for kind in (False, True))
    over = [
        *([f"the {judged} of all systems that are judged together"] if judged else []),
        *([f"the {true} of the true accompaniments by themselves"] if true else []),
    ]
    return (
        f"A system is said to follow by a score where p after Holm is below {SIGNIFICANT:g} (in bold) and "
        "the difference above zero. *Not shown* does not say that it does not follow: there may be too few "
        "tracks. "
        "*p* is how often dealing the same accompaniments to the same vocals by chance scores as high. "
        "*After Holm*, it is adjusted for there being several, each a chance to find something: "
        f"{enumerated(over)}. "
        "All columns are over those tracks that could be compared with other songs' vocals."
    )


def _reach(found: Sequence[Followed], systems: Sequence[str]) -> list[str]:
    """The least that p can come to, and systems of which nothing can be shown, whatever they do."""
    alike: dict[tuple[float, int], list[str]] = {}
    for system in systems:
        if known := [(item.p_least, item.n) for item in found if item.system == system and item.p_least]:
            alike.setdefault(min(known), []).append(system)
    lines = []
    for (p, n), those in alike.items():
        beyond = enumerated([plain(system) for system in those if _best_p(found, system) >= SIGNIFICANT])
        hopeless = f" **After Holm nothing can be shown of {beyond}: that takes more tracks.**"
        who = enumerated([plain(system) for system in those])
        lines.append(f"{who}: with {n} tracks, p can be no less than {p:.2g}.{hopeless if beyond else ''}")
    return lines


def _best_p(found: Sequence[Followed], system: str) -> float:
    """The least p after Holm that a system could have come to, the others being as they are."""
    true = system in (REAL, CEILING)
    family = [item for item in found if item.p is not None and item.true == true]
    best = holm([item.p_least if item.system == system else item.p or 0.0 for item in family])
    return min((p for item, p in zip(family, best, strict=True) if item.system == system), default=0.0)
