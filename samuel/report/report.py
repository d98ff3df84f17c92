"""The report of a run: one folder with the text as Markdown and as a page, plots, scores and audio."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from samuel.artifacts import (
    Artifact,
    digest,
    read_json,
    read_jsonl,
)
from samuel.audio import SAMPLE_RATE
from samuel.codecs.base import HOP, PUBLISHED
from samuel.evaluate.scores import AUDIOBOX
from samuel.evaluate.systems import (
    CEILING,
    OURS,
    Lineup,
    Track,
)
from samuel.popdb.dataset import Popdb
from samuel.report.evaluation import evaluation_sections, in_short
from samuel.report.following import FOLLOWING_PLOT, comparable
from samuel.report.html import page, plain
from samuel.report.listening import (
    MIX,
    MOST_TRACKS,
    VOCAL,
    Heard,
    Written,
    track_section,
    write_with_audio,
)
from samuel.report.plots import plot_audiobox, plot_following, plot_loss, plot_vocal_shares
from samuel.report.published import AUDIOBOX_PLOT

# What a report says of the dataset and of the training.


EMBEDDED = {
    "synthetic": "the songs are synthetic: made by this project, no recording is involved",
    "repet-sim": "the separator is REPET-SIM, which needs no weights and separates far worse than Demucs; "
    "what it leaves of the band in the vocals counts as singing, so the vocal shares are too high (on the "
    "synthetic songs 0.98, where 0.66 is sung) and no ground for leaving chunks out",
    "mel": "the codec is a log-mel spectrogram with Griffin-Lim, which needs no weights and sounds like it",
    PUBLISHED: "the latents were published without their songs: each pair counts as a song, what is held out "
    "lies at the end, behind a gap longer than any song, and a song that was published twice can be on both "
    "sides; what separated and encoded them is what was stated, and nothing could confirm it",
}


def dataset_section(popdb: Popdb, folder: Path) -> str:
    """What the dataset holds, and how much of it is sung; the picture goes into `folder`."""
    counts = popdb.info["counts"]
    return (
        "## Dataset\n\n"
        f"{counts['pairs']} pairs from {counts['songs_kept']} of {counts['songs_listed']} songs: "
        f"{counts['train']} to train on, {counts['validation']} held out, {_split_by(popdb)}."
        f"\n\n{vocal_share_report(popdb, folder)}"
    )


def training_section(model: Artifact, metrics: Sequence[dict[str, Any]]) -> str:
    """How the training went; its picture is `loss.png`, which `plot_loss` draws."""
    fit = training_summary(model, metrics)
    held = "held-out songs" if model.record["held_out"] else "training songs, as none could be held out"
    sentences = [
        f"{fit['steps']} steps of {model.record['training']['batch_size']} pairs,",
        f"{_pace(fit)}.",
        f"Mean squared error of v: {fit['first']:.3f} over the first ten steps,",
        f"{fit['last']:.3f} over the last ten;",
        f"{fit['validation']:.3f} on {held} (averaged weights, step {fit['best_step']}).",
    ]
    return "\n\n".join(["## Training", " ".join(sentences), _conditioning_gain(fit), "![Loss](loss.png)"])


def training_summary(model: Artifact, metrics: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The numbers of a fit.

    Always: `steps`; `first` and `last`, the error of v over the first and last ten of them; `validation`,
    that of the exported model, and its `best_step`; `seconds_per_step`, the median. Where it was measured:
    `shuffled`, the exported model's validation with another song's vocal, and `gain_error`, the standard
    error of the difference; `pairs_per_s`, the median;
    `memory_mb`, the most of a GPU's memory that was allocated.
    """
    errors = [row["v_mse"] for row in metrics]
    progress = model.record["progress"]
    summary = {
        "steps": len(errors),
        "first": sum(errors[:10]) / len(errors[:10]),
        "last": sum(errors[-10:]) / len(errors[-10:]),
        "validation": progress["best_loss"],
        "best_step": progress["best_step"],
        "seconds_per_step": median(row["seconds"] for row in metrics),
    }
    best = next((row for row in metrics if row.get("step") == progress["best_step"]), {})
    if "validation_shuffled" in best:
        summary["shuffled"] = best["validation_shuffled"]
    if "conditioning_gain_error" in best:
        summary["gain_error"] = best["conditioning_gain_error"]
    if paces := [row["pairs_per_s"] for row in metrics if "pairs_per_s" in row]:
        summary["pairs_per_s"] = median(paces)
    if peaks := [row["memory_mb"] for row in metrics if "memory_mb" in row]:
        summary["memory_mb"] = max(peaks)
    return summary


def vocal_share_report(popdb: Popdb, folder: Path) -> str:
    """How much is sung in the chunks, as Markdown beside its picture, `folder/vocal-share.png`.

    There is no picture where it was not measured.
    """
    shares, counts = popdb.vocal_shares(), popdb.info["counts"]
    if not shares:
        return "Vocal share: not measured."
    least = popdb.info["settings"]["min_vocal_share"]
    plot_vocal_shares(shares, least, folder / "vocal-share.png")
    half, chunk_s = sum(share >= 0.5 for share in shares), popdb.info["chunk_frames"] * HOP / SAMPLE_RATE
    left_out = f"{counts['chunks_left_out']} of the chunks left out" if least else "all kept, as in the paper"
    sentences = [
        f"Vocal share, measured on {len(shares)} chunks of {chunk_s:.2f} s: {sum(shares) / len(shares):.3f}",
        f"on average; {half} of them ({half / len(shares):.1%}) are sung for at least half of their length,",
        "which the paper assumes of all.",
        f"`popdb.min_vocal_share` = {least:g}: {left_out}.",
    ]
    return " ".join(sentences) + "\n\n![Vocal share](vocal-share.png)"


def caveats(popdb: Popdb) -> str:
    """What to bear in mind about the parts that made a dataset, as Markdown; empty where there is nothing."""
    parts = [popdb.info[part] for part in ("source", "separator", "codec")]
    # An identity begins with the part's name: "mel/1 bands=64 …".
    names = {text.partition("/")[0] for text in parts}
    notes = [f"- {note}" for name, note in EMBEDDED.items() if name in names]
    return "Read with these in mind:\n\n" + "\n".join(notes) if notes else ""


def _split_by(popdb: Popdb) -> str:
    return "all from the end" if popdb.info["source"] == PUBLISHED else "split by song"


def _pace(fit: dict[str, float]) -> str:
    step_s = fit["seconds_per_step"]
    step = f"{step_s:.2f} s" if step_s >= 0.1 else f"{1000 * step_s:.1f} ms"
    pairs = f", {fit['pairs_per_s']:,.1f} pairs a second" if "pairs_per_s" in fit else ""
    memory = f"; at most {fit['memory_mb']:,.0f} MB of GPU memory" if "memory_mb" in fit else ""
    return f"{step} a step{pairs} (median){memory}"


def _conditioning_gain(fit: dict[str, float]) -> str:
    if "shuffled" not in fit:
        return "Conditioning gain: not measured, as no vocals were exchanged between songs."
    gain = fit["shuffled"] - fit["validation"]
    error = f" ± {fit['gain_error']:.4f} (standard error over the pairs)" if "gain_error" in fit else ""
    return (
        f"Conditioning gain: {gain:z.4f}{error}. By this the error grows when every vocal is "
        f"exchanged for one of another song: {fit['validation']:.4f} with its own, {fit['shuffled']:.4f} "
        "shuffled. A model that does not listen has 0."
    )


VERSION = 5
SCORES, SUMMARY = "scores.parquet", "summary.json"
STEMS = {
    VOCAL: "vocal.wav", MIX: "mix.wav", CEILING: "reference.wav", OURS: "accompaniment.wav",
}  # fmt: skip
"""File of a track that was generated, by whose it is."""


def write_report(
    popdb: Popdb, model: Artifact, tracks: Sequence[Artifact], scores: Artifact, root: Path
) -> Artifact:
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


def write_evaluation_report(lineup: Lineup, scores: Artifact, root: Path) -> Artifact:
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


def _heard(track: Artifact) -> Heard:
    record = track.record
    files = {whose: track.path(file) for whose, file in STEMS.items() if file in track.sha256}
    return Heard(record["pair_id"], record["title"], files, record["start_s"])


def _take_scores(scores: Artifact, target: Path) -> dict[str, Any]:
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
