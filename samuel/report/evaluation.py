"""The scores of an evaluation as sections of Markdown, out of `summary.json` alone.

Of every number a reader can see whether it was measured, over how many tracks, and how sure it is. Titles,
units, digits and order of scores are those of `samuel.evaluate.scores`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from samuel.evaluate.cost import TABLE_I, TABLE_II, TRACK_S, PaperEfficiency
from samuel.evaluate.scores import AUDIOBOX, REGISTRY, find_score, in_order, title_of
from samuel.evaluate.systems import CEILING, NOT_SCORED, REAL
from samuel.report.following import following_section, verdicts
from samuel.report.html import (
    NONE,
    NOT_MEASURED,
    bullets,
    counted,
    enumerated,
    interval,
    number,
    plain,
    section,
    table,
)

Summary = Mapping[str, Any]

MOST_ROWS = 48
MOST_PROBLEMS = 60
MOST_NAMED = 3
LEAST_FLOOR = 1e-6
"""A floor below this is rounding: true accompaniments that are all alike, such as silence."""
AUDIOBOX_PLOT = "audiobox.png"
STATED = "stated by its system.json"
SOURCES = {"measured": "measured here", "stated": STATED}
PAPER = "paper, not measured here"


def evaluation_sections(summary: Summary) -> list[str]:
    """Every section on scores but the first, `in_short`, in the order of a report."""
    sections = [
        scores_section(summary),
        following_section(summary),
        set_section(summary),
        distribution_section(summary),
        paper_section(summary),
        not_measured_section(summary),
        problems_section(summary),
    ]
    return [text for text in sections if text]


def in_short(summary: Summary) -> str:
    """Conclusions by rule from the numbers, each of which stands further down."""
    missing, problems = map(title_of, summary["not_measured"]), len(summary["problems"])
    lines = [*verdicts(summary), *distribution_in_short(summary)]
    if summary["not_measured"]:
        lines.append(f"{NOT_MEASURED.capitalize()}: {'; '.join(map(plain, missing))}.")
    if problems:
        lines.append(
            f"{counted(problems, 'problem')} {'is' if problems == 1 else 'are'} listed under *Problems*."
        )
    return section("## In short", bullets(lines)) if lines else ""


def scores_section(summary: Summary) -> str:
    """Mean and interval of every score and system, and what each score means."""
    listed = in_order(summary["scores"])
    if not listed:
        reason = plain(summary["not_measured"].get("scores", "there are none"))
        return section("## Scores", f"{NOT_MEASURED.capitalize()}: {reason}.", _without_audiobox(summary))
    cells = {score: _means(summary, score) for score in listed}
    systems = [name for name in summary["systems"] if any(name in row for row in cells.values())]
    ceiling = (
        f"*{plain(CEILING)}* is the ceiling: what no model that uses this codec can be expected to pass."
    )
    return section(
        "## Scores",
        f"Mean over {counted(summary['tracks'], 'track')}; in brackets where the mean of all such tracks "
        "lies with 95 % confidence (bootstrap over the tracks). Where two intervals overlap widely, the "
        f"difference may be noise. {ceiling if CEILING in systems else ''}".rstrip(),
        _score_table(cells, systems),
        _without_audiobox(summary),
    )


def set_section(summary: Summary) -> str:
    """Scores that are one number for all tracks of a system, where any was measured."""
    cells = {score: _figures(score, values) for score, values in set_scores(summary).items()}
    systems = [name for name in summary["systems"] if any(name in row for row in cells.values())]
    if not cells:
        return ""
    return section(
        "## Scores of whole sets",
        "One rough figure for all tracks of a system, without an interval.",
        _score_table(cells, systems),
    )


def _score_table(cells: Mapping[str, Mapping[str, str]], systems: Sequence[str]) -> str:
    """A row for each score and what it means, a column for each system."""
    rows = [
        [plain(find_score(score).label), *(row.get(name, NONE) for name in systems)]
        for score, row in cells.items()
    ]
    meanings = (f"**{plain(find_score(score).title)}**: {find_score(score).meaning}" for score in cells)
    return section(table(["score", *map(plain, systems)], rows), bullets(meanings))


def score_table(summary: Summary) -> list[dict[str, str]]:
    """A row for each score, a column for each system that has any; names of systems are not escaped."""
    rows = {score: _means(summary, score) for score in in_order(summary["scores"])}
    rows |= {score: _figures(score, values) for score, values in set_scores(summary).items()}
    systems = [name for name in summary["systems"] if any(name in cells for cells in rows.values())]
    return [
        {"score": find_score(score).label} | {name: cells.get(name, NONE) for name in systems}
        for score, cells in rows.items()
    ]


def set_scores(summary: Summary) -> dict[str, Mapping[str, float]]:
    """Registered scores that are one number for all tracks of a system, and have no section of their own."""
    found = {name: summary.get(name) or summary.get("distribution", {}).get(name) for name in REGISTRY}
    return {
        name: values
        for name, values in found.items()
        if name != "frechet" and isinstance(values, Mapping) and values
        and all(isinstance(value, int | float) for value in values.values())
    }  # fmt: skip


def _figures(score: str, values: Mapping[str, float]) -> dict[str, str]:
    return {system: number(value, find_score(score).digits) for system, value in values.items()}


def _means(summary: Summary, score: str) -> dict[str, str]:
    """By system: mean, interval, and the number of tracks where it is not all."""
    digits, cells = find_score(score).digits, {}
    for system, found in summary["scores"][score].items():
        within = interval(found["low"], found["high"], max(1, digits - 1))
        fewer = f"(n = {found['n']})" if found["n"] != summary["tracks"] else ""
        known = " ".join(filter(None, [number(found["mean"], digits), within, fewer]))
        cells[system] = NOT_MEASURED if found["mean"] is None else known
    return cells


def _without_audiobox(summary: Summary) -> str:
    """Notice that the paper's scores are missing, where they are: no other may be taken for them."""
    reason = summary["not_measured"].get("audiobox")
    if reason is None and set(AUDIOBOX) & set(summary["scores"]):
        return ""
    return f"{title_of('audiobox')}: {NOT_MEASURED}: {plain(reason or 'the reason was not recorded')}."


def distribution_section(summary: Summary) -> str:
    """Fréchet distance beside its floor, nearest training pairs beside their yardstick, diversity."""
    found = summary["distribution"]
    parts = [
        _frechet(summary, found) if found.get("frechet") else _reason(summary, "frechet"),
        _nearest(found) if found.get("nearest") else _reason(summary, "nearest"),
        _diversity(found["diversity"]) if found.get("diversity") else _reason(summary, "diversity"),
    ]
    titles = ("Fréchet distance", "Nearest training pair", "Diversity over seeds")
    texts = [section(f"### {title}", part) if part else "" for title, part in zip(titles, parts, strict=True)]
    whole = _reason(summary, "distribution")
    return section("## Distribution", whole, *texts) if whole or any(texts) else ""


def _reason(summary: Summary, part: str) -> str:
    reason = summary["not_measured"].get(part)
    return f"{NOT_MEASURED.capitalize()}: {plain(reason)}." if reason else ""


def distribution_in_short(summary: Summary) -> list[str]:
    """One sentence each on distance and memory, where they were measured."""
    found = summary["distribution"]
    distances = {s: d for s, d in (found.get("frechet") or {}).items() if s not in (REAL, CEILING)}
    lines = [
        f"**{plain(system)}**: Fréchet distance {distance:.1f}, {times:.1f} times the "
        f"{found['floor'][system]['mean']:.1f} that lie between true accompaniments themselves."
        for system, distance in distances.items()
        if (times := _times_floor(found, system, distance)) is not None
    ]
    return [*lines, _memory(found)] if found.get("nearest") else lines


def _frechet(summary: Summary, found: Mapping[str, Any]) -> str:
    items, floors, rows = found.get("frechet_items") or {}, found.get("floor") or {}, []
    for system in (name for name in summary["systems"] if name in found["frechet"]):
        distance, floor = found["frechet"][system], floors.get(system) or {}
        mean, low, high = (floor.get(part) for part in ("mean", "low", "high"))
        spread = NONE if low is None or high is None else f"{number(low, 1)} to {number(high, 1)}"
        times = _times_floor(found, system, distance)
        rows.append([
            plain(system), str(items.get(system, NONE)), number(distance, 1),
            NONE if mean is None else f"{number(mean, 1)}, {spread}",
            NONE if times is None else f"{times:.1f}",
        ])  # fmt: skip
    means = [floor["mean"] for floor in floors.values() if floor["mean"] is not None]
    if not means:
        verdict = "Floor: not measured, so there is nothing to hold the distances to."
    elif not max(means) > LEAST_FLOOR:
        verdict = "The floor is zero: the true accompaniments are all alike, so there is nothing to hold to."
    else:
        verdict = "A system that makes them as they are would come to about its floor."
    design, unit = (plain(str(found.get(part) or "")) for part in ("frechet_design", "unit"))
    return section(
        f"{design} True items in all: {found.get('true_items', NONE)}. The distance is in {unit}: 0 would be "
        "the same distribution, lower is better. It compares latents and not what is heard, and it is larger "
        "with fewer items.".lstrip(),
        table(["system", "items", "distance", "floor, from least to most", "times the floor"], rows),
        verdict,
    )


def _times_floor(found: Mapping[str, Any], system: str, distance: float | None) -> float | None:
    """Ratio of a distance to its floor; None where there is no floor that could be divided by."""
    mean = ((found.get("floor") or {}).get(system) or {}).get("mean")
    return None if distance is None or mean is None or not mean > LEAST_FLOOR else distance / mean


def _nearest(found: Mapping[str, Any]) -> str:
    """All tracks as they come, or of very many the most alike."""
    rows, held = found["nearest"], found.get("nearest_held_out") or {}
    hidden = len(rows) > MOST_ROWS
    if hidden:
        known = [row for row in rows if row["similarity"] is not None]
        rows = sorted(known, key=lambda row: row["similarity"], reverse=True)[:MOST_ROWS]
    cells = [
        [
            *(plain(row[name] or "") for name in ("system", "track", "title", "pair_id")),
            f"**{number(row['similarity'], 2)}** ⚠"
            if row.get("suspicious")
            else number(row["similarity"], 2),
            number(row["lag_s"], 2, sign="+"),
        ]
        for row in rows
    ]
    yardstick = "Yardstick: not measured."
    if held.get("highest") is not None:
        yardstick = (
            f"Yardstick: {held['n']} true held-out accompaniments, which cannot have been copied, have a "
            f"similarity to their nearest training pair of {held['median']:.2f} in the middle and "
            f"{held['highest']:.2f} at most. ⚠ marks a track that is nearer to a copy than to that: more "
            f"than {(1 + held['highest']) / 2:.2f}."
        )
    return section(
        "For each generated track, the training accompaniment most like it at any shift in time: 1 is a "
        "copy, 0 is unrelated. A copy that was transposed or played faster would not be found.",
        _memory(found),
        table(["system", "track", "nearest training pair", "pair", "similarity", "shift, s"], cells, words=4),
        f"The {MOST_ROWS} most alike of {len(found['nearest'])}; `summary.json` has all." if hidden else "",
        yardstick,
    )


def _memory(found: Mapping[str, Any]) -> str:
    """Verdict on memorising: is a generated track much more like a training pair than any held-out one is?"""
    highest = (found.get("nearest_held_out") or {}).get("highest")
    most = max((row["similarity"] for row in found["nearest"] if row["similarity"] is not None), default=None)
    if highest is None or most is None:
        return "Whether anything was memorised cannot be told: there is nothing to hold the similarities to."
    count, of = sum(bool(row.get("suspicious")) for row in found["nearest"]), len(found["nearest"])
    measured = f"{most:.2f} at most, true held-out accompaniments {highest:.2f} at most"
    if not count:
        return f"No sign of memorising: the similarity to a training pair is {measured}."
    return f"**Perhaps memorised: {count} of {of} generated tracks** ({measured}). Listen to both."


def _diversity(diversity: Mapping[str, Any]) -> str:
    rows = [[plain(row["track"]), number(row["between_takes"], 2)] for row in diversity.get("tracks") or []]
    return section(
        "How unlike two accompaniments are: 0, they are the same; 1, they have nothing in common.",
        bullets([
            f"{diversity['takes']} takes of one vocal with different seeds: "
            f"**{number(diversity['between_takes'], 2)}**",
            f"different vocals: **{number(diversity['between_songs'], 2)}**",
        ]),
        table(["track", "between its takes"], rows[:MOST_ROWS]) if rows else "",
    )  # fmt: skip


def paper_section(summary: Summary) -> str:
    """The paper's Tables I and II beside what was measured here; each row says which of the two it is."""
    return section(
        "## Beside the paper's tables",
        f"Rows marked *{PAPER}* are copied from the paper (arXiv 2507.19991, §VI): other songs, another "
        "machine. They are for orientation; nothing here was compared with them by a test.",
        _audiobox_table(summary),
        _cost_table(summary),
    )


def _audiobox_table(summary: Summary) -> str:
    scores = summary["scores"]
    rows = [
        [plain(name), SOURCES["measured"], *(_axis(scores, axis, name) for axis in AUDIOBOX)]
        for name in summary["systems"]
        if any(name in scores.get(axis, {}) for axis in AUDIOBOX)
    ]
    picture = f"![AudioBox scores beside the paper's]({AUDIOBOX_PLOT})"
    rows_of_paper = [
        [plain(system), PAPER, *(f"{means[axis]:.2f}" for axis in AUDIOBOX)]
        for system, means in TABLE_I.items()
    ]
    return section(
        "### Table I: AudioBox-Aesthetics",
        picture if rows else _not_here(summary, "audiobox"),
        table(["system", "source", *AUDIOBOX], [*rows, *rows_of_paper], words=2),
    )


def _cost_table(summary: Summary) -> str:
    efficiency = summary.get("efficiency", {})
    columns = ("hears", "parameters", "time", "for a track of", "time / length", "peak memory")
    rows = [
        *([plain(name), *_measured_cost(found)] for name, found in efficiency.items()),
        *([plain(row.system), PAPER, *_printed_cost(row)] for row in TABLE_II),
    ]
    return section(
        "### Table II: efficiency",
        _machines(efficiency) if efficiency else _not_here(summary, "efficiency"),
        table(["model", "source", *columns], rows, words=3),
    )


def _axis(scores: Mapping[str, Any], axis: str, system: str) -> str:
    found = scores.get(axis, {}).get(system)
    if found is None or found["mean"] is None:
        return NOT_MEASURED
    return f"{found['mean']:.2f} {interval(found['low'], found['high'])}".rstrip()


def _not_here(summary: Summary, part: str) -> str:
    reason = summary["not_measured"].get(part, "the reason was not recorded")
    return f"{NOT_MEASURED.capitalize()} here: {plain(reason)}."


def _printed_cost(row: PaperEfficiency) -> list[str]:
    """As the paper has it; time by length follows from its figures."""
    more, seconds = "> " if row.at_least else "", row.seconds_per_track
    time = f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds:g} s"
    return [
        plain(row.conditioning), _count(row.parameters), plain(more + time), f"{TRACK_S:.2f} s",
        plain(f"{more}{row.real_time_factor:.3g}"), NONE,
    ]  # fmt: skip


def _measured_cost(found: Mapping[str, Any]) -> list[str]:
    seconds, track_s, factor = (found.get(n) for n in ("seconds_per_track", "track_s", "real_time_factor"))
    memory = found.get("peak_memory_bytes")
    whose = plain(str(found.get("memory") or ""))
    return [
        SOURCES.get(found.get("source", ""), "source not recorded"),
        plain(str(found.get("conditioning") or NONE)),
        _count(found.get("parameters")),
        NOT_MEASURED if seconds is None else f"{seconds:.3g} s",
        NONE if track_s is None else f"{track_s:.2f} s",
        NOT_MEASURED if factor is None else f"{factor:.3g}",
        NOT_MEASURED if memory is None else f"{memory / 2**30:.2f} GiB {whose}".rstrip(),
    ]


def _count(parameters: int | None) -> str:
    if parameters is None:
        return NOT_MEASURED
    return f"{parameters / 1e9:.4g} B" if parameters >= 1e9 else f"{parameters / 1e6:.4g} M"


def _machines(efficiency: Mapping[str, Any]) -> str:
    """Machine of each system, and over how many calls or tracks: a time without its machine says nothing."""
    sentences = []
    for name, found in efficiency.items():
        place = ", ".join(plain(str(found[part])) for part in ("machine", "device") if found.get(part))
        repeats, tracks, timed = found.get("repeats"), found.get("tracks"), ""
        if found.get("seconds_per_track") is not None:
            if found.get("source") != "measured":
                scored = counted(tracks, "track") if tracks else "its tracks"
                timed = f", time scaled to {TRACK_S:.2f} s from {scored}"
            elif repeats:
                timed = f", median of {counted(repeats, 'repeat')}"
        sentences.append(f"{plain(name)}: on {place or 'an unknown machine'}{timed}.")
    if any(found.get("source") == "stated" for found in efficiency.values()):
        sentences.append(f"What is *{STATED}* was written by whoever made the folder, and not measured here.")
    return "*Time / length* below 1 is faster than it plays. " + " ".join(sentences)


def not_measured_section(summary: Summary) -> str:
    """Everything that was not measured, and why."""
    missing = summary["not_measured"]
    lines = [f"**{plain(title_of(part))}**: {plain(reason)}" for part, reason in missing.items()]
    return section("## Not measured", bullets(lines)) if lines else ""


def problems_section(summary: Summary) -> str:
    """Faults of tracks and systems; what was not scored comes first, and what is alike is one line."""
    alike: dict[tuple[str, str], list[str]] = {}
    for problem in summary["problems"]:
        alike.setdefault((problem["system"], problem["message"]), []).append(problem["track"])
    if not alike:
        return ""
    ordered = sorted(alike.items(), key=lambda item: not item[0][1].endswith(NOT_SCORED))
    lines = [_problem(system, message, tracks) for (system, message), tracks in ordered[:MOST_PROBLEMS]]
    hidden = sum(len(tracks) for _, tracks in ordered[MOST_PROBLEMS:])
    return section(
        "## Problems",
        "Each of these was left out or is doubtful; the rest was scored.",
        bullets(lines),
        f"{hidden} more are in `summary.json`." if hidden else "",
    )


def _problem(system: str, message: str, tracks: Sequence[str]) -> str:
    named = [plain(track) for track in tracks[:MOST_NAMED] if track]
    where = ", ".join([f"**{plain(system)}**"] * bool(system) + (named if len(tracks) <= MOST_NAMED else []))
    more = f": {len(tracks)} tracks, such as {enumerated(named)}" if len(tracks) > MOST_NAMED else ""
    return f"{where or 'all'}: {plain(message)}{more}"
