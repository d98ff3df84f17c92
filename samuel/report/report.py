"""The report of a run: one folder with the text as Markdown and as a page, plots, scores and audio."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from samuel.evaluate.systems import CEILING, OURS, Lineup, Track
from samuel.files import Entry, digest, read_json, read_jsonl
from samuel.popdb.shards import Popdb
from samuel.report.evaluation import evaluation_sections, in_short
from samuel.report.following import FOLLOWING_PLOT, comparable
from samuel.report.html import page
from samuel.report.listening import (
    MIX,
    MOST_TRACKS,
    VOCAL,
    Heard,
    Written,
    track_section,
    write_with_audio,
)
from samuel.report.markdown import plain
from samuel.report.plots import plot_loss
from samuel.report.published import AUDIOBOX_PLOT
from samuel.report.score_names import AUDIOBOX
from samuel.report.score_plots import plot_audiobox, plot_following
from samuel.report.training import caveats, dataset_section, training_section

VERSION = 5
SCORES, SUMMARY = "scores.parquet", "summary.json"
STEMS = {
    VOCAL: "vocal.wav", MIX: "mix.wav", CEILING: "reference.wav", OURS: "accompaniment.wav",
}  # fmt: skip
"""File of a track that was generated, by whose it is."""


def write_report(popdb: Popdb, model: Entry, tracks: Sequence[Entry], scores: Entry, root: Path) -> Entry:
    """Write the report of a training and its evaluation, or find it, in `root/<key>`.

    It holds `report.md`, `report.html` (which opens alone), their plots, `scores.parquet`, `summary.json`,
    and `audio/<vocal, mix or system>/<track>.flac`.

    Args:
        popdb: What was trained on.
        model: The trained model's entry.
        tracks: Entries of `samuel.evaluate.tracks.make_track`.
        scores: Their scores.
        root: Where reports go.
    """
    inputs = [popdb.info, model.sha256, scores.sha256, [track.sha256 for track in tracks]]
    heard = [_heard(track) for track in tracks[:MOST_TRACKS]]

    def write(target: Path, audio: Path, written: list[Written]) -> dict[str, Any]:
        metrics = read_jsonl(model.path("metrics.jsonl"))
        plot_loss(metrics, target / "loss.png")
        summary = _take_scores(scores, target)
        sections = [
            _heading(popdb),
            in_short(summary),
            dataset_section(popdb, target),
            training_section(model, metrics),
            *evaluation_sections(summary),
            _tracks(written, len(tracks), audio, target),
        ]
        return _write_text(sections, "SAMUeL report", target)

    return write_with_audio(root / digest("report", VERSION, *inputs), heard, write)


def write_evaluation_report(lineup: Lineup, scores: Entry, root: Path) -> Entry:
    """Write the report of an evaluation of any systems, or find it, in `root/<key>`; see `write_report`.

    Args:
        lineup: Tracks and systems; files of any format, of which some may be missing or unreadable.
        scores: Their scores.
        root: Where reports go.
    """
    heard = [_listed(track, lineup) for track in lineup.tracks[:MOST_TRACKS]]

    def write(target: Path, audio: Path, written: list[Written]) -> dict[str, Any]:
        summary = _take_scores(scores, target)
        sections = [
            f"# SAMUeL evaluation\n\n{_compared(summary)}",
            in_short(summary),
            *evaluation_sections(summary),
            _tracks(written, len(lineup.tracks), audio, target),
        ]
        return _write_text(sections, "SAMUeL evaluation", target)

    stamps = [
        [track.name, track.title, {n: _stamp(path) for n, path in track.files.items()}] for track in heard
    ]
    return write_with_audio(root / digest("evaluation", VERSION, scores.sha256, stamps), heard, write)


def _listed(track: Track, lineup: Lineup) -> Heard:
    made = {
        _unlike_stems(system.name): system.files[track.name]
        for system in lineup.systems
        if track.name in system.files
    }
    return Heard(track.name, track.title, {VOCAL: track.vocal, **made})


def _unlike_stems(system: str) -> str:
    """A system's name, which anybody may have chosen, so that it is not taken for a stem."""
    return f"{system} (system)" if system in (VOCAL, MIX) else system


def _heard(track: Entry) -> Heard:
    record = track.record
    files = {whose: track.path(file) for whose, file in STEMS.items() if file in track.sha256}
    return Heard(record["pair_id"], record["title"], files, record["start_s"])


def _take_scores(scores: Entry, target: Path) -> dict[str, Any]:
    """Copy the scores into the report, draw them, and give their summary."""
    for name in (SCORES, SUMMARY):
        shutil.copyfile(scores.path(name), target / name)
    summary = read_json(target / SUMMARY)
    if comparable(summary):
        plot_following(summary, target / FOLLOWING_PLOT)
    if set(AUDIOBOX) & set(summary.get("scores") or {}):
        plot_audiobox(summary, target / AUDIOBOX_PLOT)
    return summary


def _write_text(sections: Sequence[str], title: str, target: Path) -> dict[str, Any]:
    text = "\n\n".join(section for section in sections if section) + "\n"
    (target / "report.md").write_text(text, "utf-8")
    (target / "report.html").write_text(page(text, target, title), "utf-8")
    return {"title": title}


def _heading(popdb: Popdb) -> str:
    source, separator, codec = (popdb.info[part] for part in ("source", "separator", "codec"))
    title = f"# SAMUeL report\n\nSource `{source}`, separator `{separator}`, codec `{codec}`."
    return f"{title}\n\n{caveats(popdb)}".rstrip()


def _compared(summary: Mapping[str, Any]) -> str:
    systems = ", ".join(plain(system) for system in summary["systems"])
    codec = f" Codec: {plain(str(summary['codec']))}." if summary.get("codec") else ""
    return f"Tracks: {summary['tracks']}. Systems: {systems}.{codec}"


def _tracks(written: Sequence[Written], count: int, audio: Path, target: Path) -> str:
    parts = ["## Tracks", *(track_section(track, audio, target) for track in written)]
    if count > len(written):
        parts.append(f"{count - len(written)} more tracks were scored; `scores.parquet` has them.")
    return "\n\n".join(parts)


def _stamp(path: Path) -> list[Any]:
    """What changes when a file does; the scores, which go into the key too, came from its content."""
    status = path.stat() if path.is_file() else None
    return [str(path), status and status.st_size, status and status.st_mtime_ns]
