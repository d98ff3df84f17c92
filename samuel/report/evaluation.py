"""The scores of an evaluation as sections of Markdown, out of `summary.json` alone.

Of every number a reader can see whether it was measured, over how many tracks, and how sure it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from samuel.evaluate.systems import CEILING, NOT_SCORED
from samuel.report.distribution import distribution_section, in_short_of_distribution
from samuel.report.following import following_section, told, verdicts
from samuel.report.markdown import (
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
from samuel.report.score_names import AUDIOBOX, AUDIOBOX_NAME, AXES, in_order, score_name

Summary = Mapping[str, Any]

MOST_PROBLEMS = 60
MOST_NAMED = 3
PARTS = {
    AXES: AUDIOBOX_NAME,
    "following": "whether the vocal is followed",
    "other vocals": "other songs' vocals",
    "distribution": "the distribution of the latents",
    "distribution.frechet": "Fréchet distance",
    "distribution.nearest": "nearest training pair of each track",
    "distribution.diversity": "diversity over seeds",
    "efficiency": "time and memory",
    "apa": "accompaniment prompt adherence (APA)",
}
"""Readable names of what can be missing."""


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
        [plain(score_name(score).label), *(_cell(summary, score, system) for system in systems)]
        for score in listed
    ]
    return section(
        "## Scores",
        f"Mean over {_tracks(summary['tracks'])}; in brackets where the mean of all such tracks lies with "
        "95 % confidence (bootstrap over the tracks). Where two intervals overlap widely, the difference "
        f"may be noise.{_ceiling(systems)}",
        table(["score", *map(plain, systems)], rows),
        bullets(f"**{plain(score_name(score).name)}**: {_meaning(score)}" for score in listed),
        _without_audiobox(summary),
    )


def score_table(summary: Summary) -> list[dict[str, str]]:
    """The same table for what draws tables itself: a row for each score, a column for each system.

    It is not escaped: names of systems are anybody's text.
    """
    systems = _scored(summary)
    return [
        {"score": score_name(score).label} | {system: _cell(summary, score, system) for system in systems}
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
    digits = score_name(score).digits
    within = interval(found["low"], found["high"], max(1, digits - 1))
    fewer = f"(n = {found['n']})" if found["n"] != summary["tracks"] else ""
    return " ".join(filter(None, [number(found["mean"], digits), within, fewer]))


def _meaning(score: str) -> str:
    return score_name(score).meaning or "a score that this version of the report does not know"


def _without_audiobox(summary: Summary) -> str:
    """That the paper's scores are missing, where they are: no other score may be taken for them."""
    missing = summary.get("not_measured") or {}
    measured = set(AUDIOBOX) & set(summary.get("scores") or {})
    if measured and AXES not in missing:
        return ""
    return f"{AUDIOBOX_NAME}: {NOT_MEASURED}: {plain(missing.get(AXES, 'the reason was not recorded'))}."


def _list_missing(summary: Summary) -> str:
    return "; ".join(_part(part) for part in summary["not_measured"])


def _count_problems(summary: Summary) -> str:
    count = len(summary["problems"])
    return f"{count} {'problem is' if count == 1 else 'problems are'} listed under *Problems*."


def _part(part: str) -> str:
    return plain(PARTS.get(part) or score_name(part).name)


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
