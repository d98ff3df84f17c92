"""The scores of an evaluation, out of `summary.json` alone: what `evaluation.md.j2` shows of them.

Of every number a reader can see whether it was measured, over how many tracks, and how sure it is. Titles,
units, digits and order of scores are those of `samuel.evaluate.scores`. What needs a vocal is in `following`
of the summary, `{score: {system: {n, own, other, difference, p, p_least}}}`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from samuel.evaluate.cost import TABLE_I, TABLE_II, TRACK_S
from samuel.evaluate.scores import AUDIOBOX, REGISTRY, find_score, in_order, title_of
from samuel.evaluate.systems import CEILING, NOT_SCORED, REAL
from samuel.report.html import (
    NONE,
    NOT_MEASURED,
    Markdown,
    counted,
    enumerated,
    interval,
    number,
    plain,
    probability,
    render,
    table,
)

Summary = Mapping[str, Any]
Rows = list[list[str]]

SIGNIFICANT = 0.05
MOST_ROWS, MOST_PROBLEMS, MOST_NAMED = 48, 60, 3
LEAST_FLOOR = 1e-6  # below, it is rounding: true accompaniments that are all alike, such as silence
AUDIOBOX_PLOT, FOLLOWING_PLOT = "audiobox.png", "following.png"
STATED = "stated by its system.json"
SOURCES = {"measured": "measured here", "stated": STATED}
PAPER = "paper, not measured here"


def evaluation_text(summary: Summary) -> Markdown:
    """Every section on scores but the first, `in_short`, in the order of a report."""
    return render("evaluation.md.j2", globals() | {"summary": summary})


def in_short(summary: Summary) -> list[Markdown]:
    """Conclusions by rule from the numbers, each of which stands further down."""
    found, lines = summary["distribution"], verdicts(summary)
    for system, distance in (found.get("frechet") or {}).items():
        times = _times_floor(found, system)
        if times is not None and system not in (REAL, CEILING):
            said = f"**{plain(system)}**: Fréchet distance {distance:.1f}, {times:.1f} times the"
            floor = found["floor"][system]["mean"]
            lines.append(Markdown(f"{said} {floor:.1f} that lie between true accompaniments themselves."))
    if found.get("nearest"):
        lines.append(memory(found))
    if missing := [plain(title_of(part)) for part in summary["not_measured"]]:
        lines.append(Markdown(f"Not measured: {'; '.join(missing)}."))
    if count := len(summary["problems"]):
        are = "is" if count == 1 else "are"
        lines.append(Markdown(f"{counted(count, 'problem')} {are} listed under *Problems*."))
    return lines


def score_cells(summary: Summary) -> dict[str, dict[str, Markdown]]:
    """By score and system: mean, interval, and the number of tracks where it is not all."""
    cells: dict[str, dict[str, Markdown]] = {}
    for score in in_order(summary["scores"]):
        digits = find_score(score).digits
        for system, found in summary["scores"][score].items():
            fewer = f"(n = {found['n']})" if found["n"] != summary["tracks"] else ""
            within = interval(found["low"], found["high"], max(1, digits - 1))
            known = " ".join(filter(None, [number(found["mean"], digits), within, fewer]))
            shown = NOT_MEASURED if found["mean"] is None else known
            cells.setdefault(score, {})[system] = Markdown(shown)
    return cells


def set_cells(summary: Summary) -> dict[str, dict[str, Markdown]]:
    """By score and system: registered scores that are one number for all tracks of a system."""
    cells = {}
    for name in REGISTRY.keys() - {"frechet"}:  # it has a section of its own
        found = summary.get(name) or summary["distribution"].get(name)
        if isinstance(found, Mapping) and all(isinstance(value, int | float) for value in found.values()):
            digits = find_score(name).digits
            cells[name] = {system: number(value, digits) for system, value in found.items()}
    return {name: cells[name] for name in in_order(cells) if cells[name]}


Cells = Mapping[str, Mapping[str, str]]  # by score and system


def score_table(summary: Summary, cells: Cells | None = None) -> list[dict[str, str]]:
    """A row for each score, a column for each system that has any; names of systems are not escaped."""
    rows = score_cells(summary) | set_cells(summary) if cells is None else cells
    systems = [name for name in summary["systems"] if any(name in row for row in rows.values())]
    return [
        {"score": find_score(score).label} | {name: row.get(name, NONE) for name in systems}
        for score, row in rows.items()
    ]


def rows_as_table(rows: Sequence[Mapping[str, str]]) -> Markdown:
    """Rows with the same columns."""
    return table(rows[0], (row.values() for row in rows))


# Does an accompaniment follow its vocal?


@dataclass
class Followed:
    """A score of a system with its own vocals, beside the same score with those of other songs."""

    score: str
    system: str
    n: int  # tracks that could be compared with other songs' vocals; the means are over these
    own: float | None
    other: float | None
    difference: Mapping[str, float | None]  # mean, low and high of own less other
    p_least: float  # so few tracks can come to no lower p
    p: float | None  # how often chance does as well; None where it was not measured
    alone: bool  # measured with its own vocal, and there is no other song's to hold it to
    p_holm: float | None = None  # over all of its family that have a p: each is a chance to find something

    @property
    def true(self) -> bool:
        """Of the true accompaniments: a family of their own, which makes nothing harder for the others."""
        return self.system in (REAL, CEILING)

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
            p_least = found["p_least"] or 0.0
            p = None if found["p"] is None else max(found["p"], p_least)
            alone = not found["n"] and own is not None and own["mean"] is not None
            n, own_mean, other, difference = (found[name] for name in ("n", "own", "other", "difference"))
            items.append(Followed(score, system, n, own_mean, other, difference, p_least, p, alone))
    for true in (False, True):
        family = [item for item in items if item.true == true and item.p is not None]
        for item, p in zip(family, holm([item.p or 0.0 for item in family]), strict=True):
            item.p_holm = p
    return items


def verdicts(summary: Summary) -> list[Markdown]:
    """Conclusions on every system that was measured, by rule alone: a sentence each."""
    found = followed(summary)
    by_system = {system: [item for item in found if item.system == system] for system in summary["systems"]}
    return [
        Markdown(f"**{plain(system)}**{_verdict(items)}.") for system, items in by_system.items() if items
    ]


def _verdict(items: Sequence[Followed]) -> str:
    def titles(some: Iterable[Followed]) -> str:
        return enumerated(find_score(item.score).title for item in some)

    measured = [item for item in items if item.p is not None]
    if not measured:
        why = ": there is no other song to compare with" if all(item.alone for item in items) else ""
        return f": {NOT_MEASURED} whether it follows the vocal{why}"
    if all(item.p_least >= SIGNIFICANT for item in measured):
        tracks = max(item.n for item in measured)
        return f": {tracks} tracks are too few to tell whether it follows the vocal"
    shown = titles(item for item in measured if item.shown)
    not_shown = titles(item for item in measured if not item.shown)
    missing = titles(item for item in items if item.p is None)
    rest = f"; {NOT_MEASURED}: {missing}" if missing else ""
    if not shown:
        return f": not shown that it follows the vocal, by {not_shown}{rest}"
    return f" follows the vocal in {shown}{f'; not shown for {not_shown}' if not_shown else ''}{rest}"


def following_rows(found: Sequence[Followed]) -> Rows:
    """Each score with own vocal, other songs', difference, interval and p."""
    rows, before = [], ""
    for item in found:
        digits, difference = find_score(item.score).digits, item.difference
        title = "" if item.score == before else Markdown(f"**{plain(find_score(item.score).title)}**")
        p_holm = NONE if item.p_holm is None else probability(item.p_holm)
        numbers = [
            number(item.own, digits), number(item.other, digits), number(difference["mean"], digits, "+"),
            interval(difference["low"], difference["high"], digits, "+") or NONE, probability(item.p),
            Markdown(f"**{p_holm}**") if item.p_holm is not None and item.p_holm < SIGNIFICANT else p_holm,
        ]  # fmt: skip
        if item.alone:
            numbers = [NONE, "no other song", *[NONE] * 4]
        rows.append([title, item.system, str(item.n), *numbers])
        before = item.score
    return rows


def reach(found: Sequence[Followed]) -> dict[str, tuple[int, float]]:
    """By system: over how many tracks p can come to no less than what."""
    known = sorted((item for item in found if item.p_least), key=lambda item: -item.p_least)
    return {item.system: (item.n, item.p_least) for item in known}  # the least of several


# Distribution: distance beside its floor, nearest training pairs beside their yardstick.


def _times_floor(found: Mapping[str, Any], system: str) -> float | None:
    """Ratio of a distance to its floor; None where there is no floor that could be divided by."""
    distance, mean = found["frechet"][system], ((found.get("floor") or {}).get(system) or {}).get("mean")
    return None if distance is None or mean is None or not mean > LEAST_FLOOR else distance / mean


def frechet_rows(summary: Summary) -> Rows:
    """Items, distance and floor of each system."""
    found, rows = summary["distribution"], []
    items, floors = found.get("frechet_items") or {}, found.get("floor") or {}
    for system in (name for name in summary["systems"] if name in found["frechet"]):
        floor, times = floors.get(system) or {}, _times_floor(found, system)
        mean, low, high = (floor.get(part) for part in ("mean", "low", "high"))
        spread = NONE if low is None or high is None else f"{number(low, 1)} to {number(high, 1)}"
        rows.append([
            system, str(items.get(system, NONE)), number(found["frechet"][system], 1),
            NONE if mean is None else f"{number(mean, 1)}, {spread}",
            NONE if times is None else f"{times:.1f}",
        ])  # fmt: skip
    return rows


def floor_verdict(found: Mapping[str, Any]) -> str:
    """What the floors are worth."""
    means = [floor["mean"] for floor in (found.get("floor") or {}).values() if floor["mean"] is not None]
    if not means:
        return "Floor: not measured, so there is nothing to hold the distances to."
    if not max(means) > LEAST_FLOOR:
        return "The floor is zero: the true accompaniments are all alike, so there is nothing to hold to."
    return "A system that makes them as they are would come to about its floor."


def nearest_rows(rows: Sequence[Mapping[str, Any]]) -> Rows:
    """All tracks as they come, or of very many the most alike."""
    if len(rows) > MOST_ROWS:
        known = [row for row in rows if row["similarity"] is not None]
        rows = sorted(known, key=lambda row: row["similarity"], reverse=True)[:MOST_ROWS]
    cells = []
    for row in rows:
        similarity = number(row["similarity"], 2)
        marked = Markdown(f"**{similarity}** ⚠") if row.get("suspicious") else similarity
        names = [row[name] or "" for name in ("system", "track", "title", "pair_id")]
        cells.append([*names, marked, number(row["lag_s"], 2, "+")])
    return cells


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


# The paper's Tables I and II beside what was measured here; each row says which of the two it is.


def audiobox_rows(summary: Summary) -> Rows:
    """AudioBox's four axes, of systems here and of the paper's."""
    scores, rows = summary["scores"], []
    for name in summary["systems"]:
        axes = [scores.get(axis, {}).get(name) for axis in AUDIOBOX]
        if any(axes):
            cells = [
                Markdown(f"{axis['mean']:.2f} {interval(axis['low'], axis['high'])}".rstrip())
                if axis and axis["mean"] is not None
                else NOT_MEASURED
                for axis in axes
            ]
            rows.append([name, SOURCES["measured"], *cells])
    for name, means in TABLE_I.items():
        rows.append([name, PAPER, *(f"{means[axis]:.2f}" for axis in AUDIOBOX)])
    return rows


def cost_rows(efficiency: Mapping[str, Any]) -> Rows:
    """What each system hears, its size, time and memory, here and in the paper."""

    def count(parameters: int | None) -> str:
        if parameters is None:
            return NOT_MEASURED
        return f"{parameters / 1e9:.4g} B" if parameters >= 1e9 else f"{parameters / 1e6:.4g} M"

    rows = []
    for name, found in efficiency.items():
        seconds, track_s, factor = (
            found.get(n) for n in ("seconds_per_track", "track_s", "real_time_factor")
        )
        memory = found.get("peak_memory_bytes")
        rows.append([
            name, SOURCES.get(found.get("source", ""), "source not recorded"),
            found.get("conditioning") or NONE, count(found.get("parameters")),
            NOT_MEASURED if seconds is None else f"{seconds:.3g} s",
            NONE if track_s is None else f"{track_s:.2f} s",
            NOT_MEASURED if factor is None else f"{factor:.3g}",
            NOT_MEASURED if memory is None else f"{memory / 2**30:.2f} GiB {found.get('memory') or ''}",
        ])  # fmt: skip
    for row in TABLE_II:
        more, seconds = "> " if row.at_least else "", row.seconds_per_track
        rows.append([
            row.system, PAPER, row.conditioning, count(row.parameters),
            more + (f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds:g} s"), f"{TRACK_S:.2f} s",
            f"{more}{row.real_time_factor:.3g}", NONE,
        ])  # fmt: skip
    return rows


def timing(found: Mapping[str, Any]) -> str:
    """Machine of a system, and over how many calls or tracks: a time without its machine says nothing."""
    place = ", ".join(str(found[part]) for part in ("machine", "device") if found.get(part))
    timed = ""
    if found.get("seconds_per_track") is not None:
        if found.get("source") != "measured":
            tracks = counted(found["tracks"], "track") if found.get("tracks") else "its tracks"
            timed = f", time scaled to {TRACK_S:.2f} s from {tracks}"
        elif found.get("repeats"):
            timed = f", median of {counted(found['repeats'], 'repeat')}"
    return f"on {place or 'an unknown machine'}{timed}"


def problems(summary: Summary) -> list[Markdown]:
    """Faults of tracks and systems; what was not scored comes first, and what is alike is one line."""
    alike: dict[tuple[str, str], list[str]] = {}
    for problem in summary["problems"]:
        alike.setdefault((problem["system"], problem["message"]), []).append(problem["track"])
    lines = []
    for (system, message), tracks in sorted(
        alike.items(), key=lambda item: not item[0][1].endswith(NOT_SCORED)
    ):
        many, named = len(tracks) > MOST_NAMED, [plain(track) for track in tracks[:MOST_NAMED] if track]
        where = ", ".join([f"**{plain(system)}**"] * bool(system) + named * (not many)) or "all"
        more = f": {len(tracks)} tracks, such as {enumerated(named)}" if many else ""
        lines.append(Markdown(f"{where}: {plain(message)}{more}"))
    hidden = len(lines) - MOST_PROBLEMS
    return (
        lines if hidden <= 0 else [*lines[:MOST_PROBLEMS], Markdown(f"{hidden} more are in `summary.json`.")]
    )
