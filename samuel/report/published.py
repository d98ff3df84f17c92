"""The paper's Table I and Table II with what was measured here; the paper's own figures say that they are."""

from collections.abc import Mapping
from typing import Any

from samuel.evaluate.cost import (
    TABLE_I,
    TABLE_II,
    TRACK_S,
    PaperEfficiency,
)
from samuel.evaluate.scores import AUDIOBOX
from samuel.report.html import (
    NONE,
    NOT_MEASURED,
    interval,
    plain,
    section,
    table,
)

Summary = Mapping[str, Any]

AUDIOBOX_PLOT = "audiobox.png"
HERE, PAPER = "measured here", "paper, not measured here"
STATED = "stated by its system.json"
SOURCES = {"measured": HERE, "stated": STATED}
COPIED = (
    "Rows marked *paper, not measured here* are copied from the paper (arXiv 2507.19991, §VI): other songs, "
    "another machine. They are for orientation; nothing here was compared with them by a test."
)

UNCHECKED = f"What is *{STATED}* was written by whoever made the folder, and not measured here."


def paper_section(summary: Summary) -> str:
    """Both tables."""
    return section("## Beside the paper's tables", COPIED, _table_one(summary), _table_two(summary))


def _table_one(summary: Summary) -> str:
    """AudioBox-Aesthetics, which the paper measured on ten tracks."""
    scores = summary.get("scores") or {}
    measured = [name for name in summary["systems"] if any(name in scores.get(axis, {}) for axis in AUDIOBOX)]
    ours = [
        [plain(name), HERE, *(_mean(scores.get(axis, {}).get(name)) for axis in AUDIOBOX)]
        for name in measured
    ]
    paper = [
        [plain(row.system), PAPER, *(f"{row.by_axis()[axis]:.2f}" for axis in AUDIOBOX)] for row in TABLE_I
    ]
    return section(
        "### Table I: AudioBox-Aesthetics",
        f"![AudioBox scores beside the paper's]({AUDIOBOX_PLOT})" if ours else _missing(summary, "audiobox"),
        table(["system", "source", *AUDIOBOX], [*ours, *paper], words=2),
    )


def _table_two(summary: Summary) -> str:
    """Time and memory for one track."""
    efficiency = summary.get("efficiency") or {}
    ours = [[plain(name), _source(found), *_measured(found)] for name, found in efficiency.items()]
    paper = [[plain(row.system), PAPER, *_printed(row)] for row in TABLE_II]
    head = [
        "model",
        "source",
        "hears",
        "parameters",
        "time",
        "for a track of",
        "time / length",
        "peak memory",
    ]
    return section(
        "### Table II: efficiency",
        _machines(efficiency) if ours else _missing(summary, "efficiency"),
        table(head, [*ours, *paper], words=3),
    )


def _missing(summary: Summary, part: str) -> str:
    reason = (summary.get("not_measured") or {}).get(part, "the reason was not recorded")
    return f"{NOT_MEASURED.capitalize()} here: {plain(reason)}."


def _printed(row: PaperEfficiency) -> list[str]:
    """As the paper has it; time by length follows from its figures."""
    more = "> " if row.at_least else ""
    hours = row.seconds_per_track >= 3600
    time = f"{row.seconds_per_track / 3600:g} h" if hours else f"{row.seconds_per_track:g} s"
    return [
        plain(row.conditioning), _count(row.parameters), plain(more + time), f"{TRACK_S:.2f} s",
        plain(f"{more}{row.real_time_factor:.3g}"), NONE,
    ]  # fmt: skip


def _measured(found: Mapping[str, Any]) -> list[str]:
    seconds, track_s, factor = (found.get(n) for n in ("seconds_per_track", "track_s", "real_time_factor"))
    return [
        plain(str(found.get("conditioning") or NONE)),
        _count(found.get("parameters")),
        NOT_MEASURED if seconds is None else f"{seconds:.3g} s",
        NONE if track_s is None else f"{track_s:.2f} s",
        NOT_MEASURED if factor is None else f"{factor:.3g}",
        _memory(found),
    ]


def _source(found: Mapping[str, Any]) -> str:
    return SOURCES.get(found.get("source", ""), "source not recorded")


def _machines(efficiency: Mapping[str, Any]) -> str:
    """Where each was measured and how: a time without its machine says nothing."""
    sentences = []
    for name, found in efficiency.items():
        place = ", ".join(plain(str(found[part])) for part in ("machine", "device") if found.get(part))
        sentences.append(f"{plain(name)}: on {place or 'an unknown machine'}{_timed(found)}.")
    if any(found.get("source") == "stated" for found in efficiency.values()):
        sentences.append(UNCHECKED)
    return "*Time / length* below 1 is faster than it plays. " + " ".join(sentences)


def _timed(found: Mapping[str, Any]) -> str:
    """Of how many calls or tracks a time is."""
    repeats, tracks = found.get("repeats"), found.get("tracks")
    if found.get("seconds_per_track") is None:
        return ""
    if found.get("source") == "measured":
        return f", median of {repeats} {'repeat' if repeats == 1 else 'repeats'}" if repeats else ""
    count = f"{tracks} {'track' if tracks == 1 else 'tracks'}" if tracks else "its tracks"
    return f", time scaled to {TRACK_S:.2f} s from {count}"


def _mean(found: Mapping[str, Any] | None) -> str:
    if found is None or found["mean"] is None:
        return NOT_MEASURED
    return f"{found['mean']:.2f} {interval(found['low'], found['high'])}".rstrip()


def _memory(found: Mapping[str, Any]) -> str:
    peak = found.get("peak_memory_bytes")
    if peak is None:
        return NOT_MEASURED
    return f"{peak / 2**30:.2f} GiB {plain(str(found.get('memory') or ''))}".rstrip()


def _count(parameters: int | None) -> str:
    if parameters is None:
        return NOT_MEASURED
    return f"{parameters / 1e9:.4g} B" if parameters >= 1e9 else f"{parameters / 1e6:.4g} M"
