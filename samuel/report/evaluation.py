"""The scores of an evaluation as sections of Markdown, out of `summary.json` alone.

Of every number a reader can see whether it was measured, over how many tracks, and how sure it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from samuel.evaluate.scores import (
    AUDIOBOX,
    find_score,
    in_order,
    title_of,
)
from samuel.evaluate.systems import CEILING, NOT_SCORED, REAL
from samuel.report.following import following_section, told, verdicts
from samuel.report.html import (
    NONE,
    NOT_MEASURED,
    bullets,
    enumerated,
    interval,
    number,
    plain,
    section,
    table,
)
from samuel.report.published import paper_section

# How far generated latents are from true ones, whether anything was memorised, and what a seed changes.


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
    reason = missing.get(part)
    return f"{NOT_MEASURED.capitalize()}: {plain(reason)}." if reason else ""


def _marked(row: Mapping[str, Any]) -> str:
    return f"**{number(row['similarity'], 2)}** ⚠" if row.get("suspicious") else number(row["similarity"], 2)


MOST_PROBLEMS = 60
MOST_NAMED = 3


def evaluation_sections(summary: Summary) -> list[str]:
    """Every section on scores but the first, `in_short`, in the order of a report."""
    sections = [
        scores_section(summary),
        following_section(summary),
        adherence_section(summary),
        distribution_section(summary),
        paper_section(summary),
        not_measured_section(summary),
        problems_section(summary),
    ]
    return [text for text in sections if text]


def in_short(summary: Summary) -> str:
    """What to take away: by rule from the numbers, each of which stands further down."""
    lines = [
        *(told(verdict) for verdict in verdicts(summary)),
        *in_short_of_distribution(summary),
        *([f"{NOT_MEASURED.capitalize()}: {_list_missing(summary)}."] if summary.get("not_measured") else []),
        *([_count_problems(summary)] if summary.get("problems") else []),
    ]
    return section("## In short", bullets(lines)) if lines else ""


def scores_section(summary: Summary) -> str:
    """Mean and interval of every score and system, and what each score means."""
    scores = summary.get("scores") or {}
    listed = in_order(scores)
    if not listed:
        reason = plain((summary.get("not_measured") or {}).get("scores", "there are none"))
        return section("## Scores", f"{NOT_MEASURED.capitalize()}: {reason}.", _without_audiobox(summary))
    systems = _scored(summary)
    rows = [
        [plain(find_score(score).label), *(_cell(summary, score, system) for system in systems)]
        for score in listed
    ]
    return section(
        "## Scores",
        f"Mean over {_tracks(summary['tracks'])}; in brackets where the mean of all such tracks lies with "
        "95 % confidence (bootstrap over the tracks). Where two intervals overlap widely, the difference "
        f"may be noise.{_ceiling(systems)}",
        table(["score", *map(plain, systems)], rows),
        bullets(f"**{plain(find_score(score).title)}**: {_meaning(score)}" for score in listed),
        _without_audiobox(summary),
    )


def score_table(summary: Summary) -> list[dict[str, str]]:
    """The same table for what draws tables itself: a row for each score, a column for each system.

    It is not escaped: names of systems are anybody's text.
    """
    systems = _scored(summary)
    return [
        {"score": find_score(score).label} | {system: _cell(summary, score, system) for system in systems}
        for score in in_order(summary.get("scores") or {})
    ]


def adherence_section(summary: Summary) -> str:
    """APA, where it was measured."""
    if not summary.get("apa"):
        return ""
    rows = [[plain(system), number(value)] for system, value in summary["apa"].items()]
    return section(
        "## Accompaniment prompt adherence",
        "How far mixes of vocal and accompaniment are, as a set, like true mixes (1) rather than like mixes "
        "with strangers (0), by CLAP (Grachten and Nistal, arXiv 2503.06346). One rough figure for a set, "
        "without an interval.",
        table(["system", "APA"], rows),
    )


def not_measured_section(summary: Summary) -> str:
    """Everything that was not measured, and why."""
    missing = summary.get("not_measured") or {}
    lines = [f"**{_part(part)}**: {plain(reason)}" for part, reason in missing.items()]
    return section("## Not measured", bullets(lines)) if lines else ""


def problems_section(summary: Summary) -> str:
    """What was found wrong with tracks and systems; the rest was scored."""
    problems = summary.get("problems") or []
    if not problems:
        return ""
    alike = _alike(problems)
    lines = [_problem(*found) for found in alike[:MOST_PROBLEMS]]
    hidden = sum(len(tracks) for *_, tracks in alike[MOST_PROBLEMS:])
    more = f"{hidden} more are in `summary.json`." if hidden else ""
    return section(
        "## Problems", "Each of these was left out or is doubtful; the rest was scored.", bullets(lines), more
    )


def _ceiling(systems: Sequence[str]) -> str:
    if CEILING not in systems:
        return ""
    return f" *{plain(CEILING)}* is the ceiling: what no model that uses this codec can be expected to pass."


def _scored(summary: Summary) -> list[str]:
    """Systems that have any score."""
    found = {name for systems in (summary.get("scores") or {}).values() for name in systems}
    return [name for name in summary["systems"] if name in found]


def _cell(summary: Summary, score: str, system: str) -> str:
    found = summary["scores"][score].get(system)
    if found is None:
        return NONE
    if found["mean"] is None:
        return NOT_MEASURED
    digits = find_score(score).digits
    within = interval(found["low"], found["high"], max(1, digits - 1))
    fewer = f"(n = {found['n']})" if found["n"] != summary["tracks"] else ""
    return " ".join(filter(None, [number(found["mean"], digits), within, fewer]))


def _meaning(score: str) -> str:
    return find_score(score).meaning


def _without_audiobox(summary: Summary) -> str:
    """That the paper's scores are missing, where they are: no other score may be taken for them."""
    missing = summary.get("not_measured") or {}
    measured = set(AUDIOBOX) & set(summary.get("scores") or {})
    if measured and "audiobox" not in missing:
        return ""
    reason = missing.get("audiobox", "the reason was not recorded")
    return f"{title_of('audiobox')}: {NOT_MEASURED}: {plain(reason)}."


def _list_missing(summary: Summary) -> str:
    return "; ".join(_part(part) for part in summary["not_measured"])


def _count_problems(summary: Summary) -> str:
    count = len(summary["problems"])
    return f"{count} {'problem is' if count == 1 else 'problems are'} listed under *Problems*."


def _part(part: str) -> str:
    return plain(title_of(part))


def _alike(problems: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, list[str]]]:
    """System, message and the tracks that have it; what was not scored comes first."""
    tracks: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        tracks.setdefault((problem["system"], problem["message"]), []).append(problem["track"])
    found = [(system, message, of) for (system, message), of in tracks.items()]
    return sorted(found, key=lambda item: not item[1].endswith(NOT_SCORED))


def _problem(system: str, message: str, tracks: Sequence[str]) -> str:
    named = [plain(track) for track in tracks[:MOST_NAMED] if track]
    where = ", ".join([f"**{plain(system)}**"] * bool(system) + (named if len(tracks) <= MOST_NAMED else []))
    more = f": {len(tracks)} tracks, such as {enumerated(named)}" if len(tracks) > MOST_NAMED else ""
    return f"{where or 'all'}: {plain(message)}{more}"


def _tracks(count: int) -> str:
    return f"{count} {'track' if count == 1 else 'tracks'}"
