"""How far generated latents are from true ones, whether anything was memorised, and what a seed changes."""

from collections.abc import Mapping, Sequence
from typing import Any

from samuel.evaluate.systems import CEILING, REAL
from samuel.report.markdown import NONE, NOT_MEASURED, bullets, number, plain, section, table

Summary = Mapping[str, Any]

MOST_ROWS = 48
LEAST_FLOOR = 1e-6
"""A floor below this is rounding: true accompaniments that are all alike, such as silence."""


def distribution_section(summary: Summary) -> str:
    """Fréchet distance beside its floor, nearest training pairs beside their yardstick, diversity."""
    found = summary.get("distribution") or {}
    parts = [_frechet(summary, found), _nearest(summary, found), _diversity(summary, found)]
    if not found and not any(
        _reason(summary, part) for part in ("distribution", "frechet", "nearest", "diversity")
    ):
        return ""
    return section("## Distribution", _reason(summary, "distribution"), *parts)


def in_short_of_distribution(summary: Summary) -> list[str]:
    """One sentence each on distance and memory, where they were measured."""
    found, lines = summary.get("distribution") or {}, []
    for system, distance in (found.get("frechet") or {}).items():
        times, mean = _times(found, system, distance), _floor_of(found, system).get("mean")
        if times is not None and system not in (REAL, CEILING):
            lines.append(
                f"**{plain(system)}**: Fréchet distance {distance:.1f}, {times:.1f} times the "
                f"{mean:.1f} that lie between true accompaniments themselves."
            )
    if found.get("nearest"):
        lines.append(_memory(found))
    return lines


def _frechet(summary: Summary, found: Mapping[str, Any]) -> str:
    if not found.get("frechet"):
        return _missing(summary, "frechet", "Fréchet distance")
    rows = [
        _frechet_row(found, system, found["frechet"][system])
        for system in summary["systems"]
        if system in found["frechet"]
    ]
    unit = plain(str(found.get("unit", "squared deviations of the latents")))
    design = plain(str(found.get("frechet_design") or ""))
    return section(
        "### Fréchet distance",
        f"{design} True items in all: {found.get('true_items', NONE)}. The distance is in {unit}: 0 "
        "would be the same distribution, lower is better. It compares latents and not what is heard, and it "
        "is larger with fewer items.".lstrip(),
        table(["system", "items", "distance", "floor, from least to most", "times the floor"], rows),
        _floor(found),
    )


def _frechet_row(found: Mapping[str, Any], system: str, distance: float | None) -> list[str]:
    floor, items = _floor_of(found, system), found.get("frechet_items") or {}
    mean, low, high = (floor.get(part) for part in ("mean", "low", "high"))
    spread = NONE if low is None or high is None else f"{number(low, 1)} to {number(high, 1)}"
    known = NONE if mean is None else f"{number(mean, 1)}, {spread}"
    times = _times(found, system, distance)
    return [
        plain(system), str(items.get(system, NONE)), number(distance, 1), known,
        NONE if times is None else f"{times:.1f}",
    ]  # fmt: skip


def _times(found: Mapping[str, Any], system: str, distance: float | None) -> float | None:
    """How many times its floor a distance is; None where there is no floor that could be divided by."""
    mean = _floor_of(found, system).get("mean")
    return None if distance is None or mean is None or not mean > LEAST_FLOOR else distance / mean


def _floor_of(found: Mapping[str, Any], system: str) -> Mapping[str, Any]:
    return (found.get("floor") or {}).get(system) or {}


def _floor(found: Mapping[str, Any]) -> str:
    means = [floor["mean"] for floor in (found.get("floor") or {}).values() if floor["mean"] is not None]
    if not means:
        return "Floor: not measured, so there is nothing to hold the distances to."
    if not max(means) > LEAST_FLOOR:
        return "The floor is zero: the true accompaniments are all alike, so there is nothing to hold to."
    return "A system that makes them as they are would come to about its floor."


def _nearest(summary: Summary, found: Mapping[str, Any]) -> str:
    nearest = found.get("nearest")
    if not nearest:
        return _missing(summary, "nearest", "Nearest training pair")
    rows = [
        [
            plain(row["system"]), plain(row["track"]), plain(row["title"] or ""), plain(row['pair_id']),
            _marked(row), number(row["lag_s"], 2, sign="+"),
        ]
        for row in _most_alike(nearest)
    ]  # fmt: skip
    head = ["system", "track", "nearest training pair", "pair", "similarity", "shift, s"]
    return section(
        "### Nearest training pair",
        "For each generated track, the training accompaniment most like it at any shift in time: 1 is a "
        "copy, 0 is unrelated. A copy that was transposed or played faster would not be found.",
        _memory(found),
        table(head, rows, words=4),
        _more(len(nearest)),
        _yardstick(found),
    )


def _memory(found: Mapping[str, Any]) -> str:
    """Whether a generated track is much more like a training pair than any held-out one is."""
    highest = (found.get("nearest_held_out") or {}).get("highest")
    most = max((row["similarity"] for row in found["nearest"] if row["similarity"] is not None), default=None)
    if highest is None or most is None:
        return "Whether anything was memorised cannot be told: there is nothing to hold the similarities to."
    count, of = sum(bool(row.get("suspicious")) for row in found["nearest"]), len(found["nearest"])
    measured = f"{most:.2f} at most, true held-out accompaniments {highest:.2f} at most"
    if not count:
        return f"No sign of memorising: the similarity to a training pair is {measured}."
    return f"**Perhaps memorised: {count} of {of} generated tracks** ({measured}). Listen to both."


def _yardstick(found: Mapping[str, Any]) -> str:
    held = found.get("nearest_held_out") or {}
    if held.get("highest") is None:
        return "Yardstick: not measured."
    return (
        f"Yardstick: {held['n']} true held-out accompaniments, which cannot have been copied, have a "
        f"similarity to their nearest training pair of {held['median']:.2f} in the middle and "
        f"{held['highest']:.2f} at most. ⚠ marks a track that is nearer to a copy than to that: more than "
        f"{(1 + held['highest']) / 2:.2f}."
    )


def _most_alike(nearest: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """All of them as they come, or of very many the most alike."""
    if len(nearest) <= MOST_ROWS:
        return nearest
    return sorted(nearest, key=lambda row: row["similarity"], reverse=True)[:MOST_ROWS]


def _more(count: int) -> str:
    return f"The {MOST_ROWS} most alike of {count}; `summary.json` has all." if count > MOST_ROWS else ""


def _diversity(summary: Summary, found: Mapping[str, Any]) -> str:
    diversity = found.get("diversity")
    if not diversity:
        return _missing(summary, "diversity", "Diversity over seeds")
    rows = [[plain(row["track"]), number(row["between_takes"], 2)] for row in diversity.get("tracks") or []]
    return section(
        "### Diversity over seeds",
        "How unlike two accompaniments are: 0, they are the same; 1, they have nothing in common.",
        bullets([
            f"{diversity['takes']} takes of one vocal with different seeds: "
            f"**{number(diversity['between_takes'], 2)}**",
            f"different vocals: **{number(diversity['between_songs'], 2)}**",
        ]),
        table(["track", "between its takes"], rows[:MOST_ROWS]) if rows else "",
    )  # fmt: skip


def _missing(summary: Summary, part: str, name: str) -> str:
    reason = _reason(summary, part)
    return section(f"### {name}", reason) if reason else ""


def _reason(summary: Summary, part: str) -> str:
    missing = summary.get("not_measured") or {}
    reason = missing.get(part if part == "distribution" else f"distribution.{part}")
    return f"{NOT_MEASURED.capitalize()}: {plain(reason)}." if reason else ""


def _marked(row: Mapping[str, Any]) -> str:
    return f"**{number(row['similarity'], 2)}** ⚠" if row.get("suspicious") else number(row["similarity"], 2)
