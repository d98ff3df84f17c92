"""The scores of an evaluation, out of `summary.json` alone: what `evaluation.md.j2` shows of them.

Of every number a reader can see whether it was measured, over how many tracks, and how sure it is. Titles,
units, digits and order of scores are those of `samuel.evaluate.scores`. What needs a vocal is in `following`
of the summary, `{score: {system: {n, own, other, difference, p, p_least}}}`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from samuel.evaluate.cost import TABLE_I, TABLE_II  # noqa: F401  (the template names them)
from samuel.evaluate.scores import AUDIOBOX, REGISTRY, find_score, in_order, title_of
from samuel.evaluate.statistics import SIGNIFICANT
from samuel.evaluate.systems import CEILING, NOT_SCORED, REAL
from samuel.report.html import NONE, NOT_MEASURED, Markdown, enumerated, interval, number, plain, render

Summary = Mapping[str, Any]

MOST_ROWS, MOST_PROBLEMS = 48, 60
LEAST_FLOOR = 1e-6  # below, it is rounding: true accompaniments that are all alike, such as silence
FOLLOWING_PLOT = "following.png"
PAPER, STATED = "paper, not measured here", "stated by its system.json"
SOURCES = {"measured": "measured here", "stated": STATED, "paper": PAPER}


def evaluation_text(summary: Summary) -> Markdown:
    """Every section on scores but the first, `in_short`, in the order of a report."""
    return render("evaluation.md.j2", globals() | {"summary": summary})


def in_short(summary: Summary) -> list[Markdown]:
    """Conclusions by rule from the numbers, each of which stands further down."""
    found, lines = summary["distribution"], verdicts(summary)
    for system, distance in (found.get("frechet") or {}).items():
        times = times_floor(found, system)
        if times is not None and system not in (REAL, CEILING):
            said = f"**{plain(system)}**: Fréchet distance {distance:.1f}, {times:.1f} times the"
            floor = found["floor"][system]["mean"]
            lines.append(Markdown(f"{said} {floor:.1f} that lie between true accompaniments themselves."))
    if found.get("nearest"):
        lines.append(memory(found))
    if missing := [plain(title_of(part)) for part in summary["not_measured"]]:
        lines.append(Markdown(f"Not measured: {'; '.join(missing)}."))
    if count := len(summary["problems"]):
        lines.append(Markdown(f"Listed under *Problems*: {count}."))
    return lines


def score_cells(summary: Summary) -> dict[str, dict[str, Markdown]]:
    """By score and system: mean, interval, number of tracks if not all; or one figure for all."""
    cells: dict[str, dict[str, Markdown]] = {}
    for score in in_order(summary["scores"]):
        digits = find_score(score).digits
        for system, found in summary["scores"][score].items():
            fewer = f"(n = {found['n']})" if found["n"] != summary["tracks"] else ""
            within = interval(found["low"], found["high"], max(1, digits - 1))
            known = " ".join(filter(None, [number(found["mean"], digits), within, fewer]))
            cells.setdefault(score, {})[system] = Markdown(NOT_MEASURED if found["mean"] is None else known)
    for name in REGISTRY:
        found = summary.get(name)
        if found and isinstance(found, Mapping) and all(isinstance(v, int | float) for v in found.values()):
            cells[name] = {system: number(v, find_score(name).digits) for system, v in found.items()}
    return cells


def score_table(summary: Summary) -> list[dict[str, str]]:
    """A row for each score, a column for each system that has any; names of systems are not escaped."""
    cells = score_cells(summary)
    systems = [name for name in summary["systems"] if any(name in row for row in cells.values())]
    return [
        {"score": find_score(score).label} | {name: row.get(name, NONE) for name in systems}
        for score, row in cells.items()
    ]


# Does an accompaniment follow its vocal?


@dataclass
class Followed:
    """A score of a system with its own vocals, beside the same score with those of other songs."""

    score: str
    system: str
    alone: bool  # measured with its own vocal, and there is no other song's to hold it to
    n: int  # tracks that could be compared with other songs' vocals; the means are over these
    own: float | None
    other: float | None
    difference: Mapping[str, float | None]  # mean, low and high of own less other
    p: float | None  # how often chance does as well; None where it was not measured
    p_least: float | None  # so few tracks can come to no lower p
    p_holm: float | None = None  # over all of its family that have a p: each is a chance to find something

    @property
    def shown(self) -> bool:
        """More than noise: p after Holm is below 0.05, and its own vocal scores higher."""
        return self.p_holm is not None and self.p_holm < SIGNIFICANT and (self.difference["mean"] or 0.0) > 0


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values, in the order given, adjusted for there being m of them (Holm 1979).

    p̃₍ᵢ₎ = max over j ≤ i of min(1, (m - j + 1) p₍ⱼ₎), in rising order of p
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def followed(summary: Summary) -> list[Followed]:
    """All scores of all systems, in the order of the report."""
    items = []
    for score in in_order(summary["following"]):
        for system in (name for name in summary["systems"] if name in summary["following"][score]):
            found, own = summary["following"][score][system], summary["scores"].get(score, {}).get(system)
            alone = not found["n"] and own is not None and own["mean"] is not None
            items.append(Followed(score, system, alone, **found))
    for true in (False, True):  # true ones are a family of their own, which makes nothing harder for others
        family = [i for i in items if (i.system in (REAL, CEILING)) == true and i.p is not None]
        for item, p in zip(family, holm([item.p or 0.0 for item in family]), strict=True):
            item.p_holm = p
    return items


def verdicts(summary: Summary) -> list[Markdown]:
    """Conclusions on every system that was measured, by rule alone: a sentence each."""

    def titles(some: Iterable[Followed]) -> str:
        return enumerated(find_score(item.score).title for item in some)

    def verdict(items: Sequence[Followed]) -> str:
        measured = [item for item in items if item.p is not None]
        if not measured:
            why = ": there is no other song to compare with" if all(item.alone for item in items) else ""
            return f": {NOT_MEASURED} whether it follows the vocal{why}"
        if all((item.p_least or 0.0) >= SIGNIFICANT for item in measured):
            tracks = max(item.n for item in measured)
            return f": {tracks} tracks are too few to tell whether it follows the vocal"
        shown = titles(item for item in measured if item.shown)
        not_shown = titles(item for item in measured if not item.shown)
        missing = titles(item for item in items if item.p is None)
        rest = f"; {NOT_MEASURED}: {missing}" if missing else ""
        if not shown:
            return f": not shown that it follows the vocal, by {not_shown}{rest}"
        return f" follows the vocal in {shown}{f'; not shown for {not_shown}' if not_shown else ''}{rest}"

    found = followed(summary)
    by_system = {system: [item for item in found if item.system == system] for system in summary["systems"]}
    return [Markdown(f"**{plain(system)}**{verdict(items)}.") for system, items in by_system.items() if items]


# Distribution: distance beside its floor, nearest training pairs beside their yardstick.


def times_floor(found: Mapping[str, Any], system: str) -> float | None:
    """Ratio of a distance to its floor; None where there is no floor that could be divided by."""
    distance, mean = found["frechet"][system], ((found.get("floor") or {}).get(system) or {}).get("mean")
    return None if distance is None or mean is None or not mean > LEAST_FLOOR else distance / mean


def nearest_rows(rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """All tracks as they come, or of very many the most alike."""
    if len(rows) <= MOST_ROWS:
        return rows
    known = [row for row in rows if row["similarity"] is not None]
    return sorted(known, key=lambda row: row["similarity"], reverse=True)[:MOST_ROWS]


def memory(found: Mapping[str, Any]) -> Markdown:
    """Verdict on memorising: is a generated track much more like a training pair than any held-out one is?"""
    highest = (found.get("nearest_held_out") or {}).get("highest")
    most = max((row["similarity"] for row in found["nearest"] if row["similarity"] is not None), default=None)
    if highest is None or most is None:
        return Markdown("Memorising cannot be told: there is nothing to hold the similarities to.")
    count, of = sum(bool(row.get("suspicious")) for row in found["nearest"]), len(found["nearest"])
    measured = f"{most:.2f} at most, true held-out accompaniments {highest:.2f} at most"
    if not count:
        return Markdown(f"No sign of memorising: the similarity to a training pair is {measured}.")
    return Markdown(f"**Perhaps memorised: {count} of {of} generated tracks** ({measured}). Listen to both.")


def audiobox_cells(summary: Summary) -> dict[str, list[str]]:
    """AudioBox's four axes by system, of those that have any."""
    found = [score_cells(summary).get(axis, {}) for axis in AUDIOBOX]
    systems = [name for name in summary["systems"] if any(name in cells for cells in found)]
    return {name: [cells.get(name, NOT_MEASURED) for cells in found] for name in systems}


def figure(value: float | None, form: str, unit: float = 1.0) -> str:
    """A value in its unit, as of the paper's tables and what stands beside them."""
    return NOT_MEASURED if value is None else form.format(value / unit)


def problems(summary: Summary) -> list[Markdown]:
    """Faults of tracks and systems; what was not scored comes first."""
    found = sorted(summary["problems"], key=lambda problem: not problem["message"].endswith(NOT_SCORED))
    lines = [
        Markdown(
            f"**{plain(p['system'])}**{', ' * bool(p['track'])}{plain(p['track'])}: {plain(p['message'])}"
        )
        for p in found[:MOST_PROBLEMS]
    ]
    hidden = len(found) - MOST_PROBLEMS
    return lines if hidden <= 0 else [*lines, Markdown(f"{hidden} more are in `summary.json`.")]
