"""The report of a run: one folder with the text as Markdown and as a page, plots, scores and audio.

The audio lies as `audio/<vocal, mix or system>/<track>.flac`, under one name for one track, so that these
folders can be given to `samuel evaluate` again.
"""

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile

from samuel.artifacts import (
    Artifact,
    digest,
    find_artifact,
    locked,
    make_artifact,
    partial_folder,
    read_json,
    read_jsonl,
    replacing,
)
from samuel.audio import CHANNELS, SAMPLE_RATE, decode_to_wav, failed_write_told, read_blocks
from samuel.codecs.base import PUBLISHED
from samuel.errors import InputError
from samuel.evaluate.scores import AUDIOBOX
from samuel.evaluate.systems import CEILING, OURS, Lineup
from samuel.popdb.dataset import Popdb
from samuel.report.evaluation import AUDIOBOX_PLOT, evaluation_sections, in_short
from samuel.report.following import FOLLOWING_PLOT, comparable
from samuel.report.html import bullets, page, plain, section
from samuel.report.plots import plot_audiobox, plot_following, plot_loss, plot_spectrograms, plot_vocal_shares

VERSION = 6
SCORES, SUMMARY, AUDIO = "scores.parquet", "summary.json", "audio"
VOCAL, MIX = "vocal", "mix"
STEMS = {VOCAL: "vocal.wav", MIX: "mix.wav", CEILING: "reference.wav", OURS: "accompaniment.wav"}
"""File of a track that was generated, by whose it is."""
MOST_TRACKS = 24
PICTURE_S = 60.0
LONGEST_NAME = 100
CAVEATS = {
    "synthetic": "the songs are synthetic: made by this project, no recording is involved",
    "repet-sim": "the separator is REPET-SIM, which needs no weights and separates far worse than Demucs; "
    "what it leaves of the band in the vocals counts as singing, so the vocal shares are too high (on the "
    "synthetic songs 0.98, where 0.66 is sung) and no ground for leaving chunks out",
    "mel": "the codec is a log-mel spectrogram with Griffin-Lim, which needs no weights and sounds like it",
    PUBLISHED: "the latents were published without their songs: each pair counts as a song, what is held out "
    "lies at the end, behind a gap longer than any song, and a song that was published twice can be on both "
    "sides; what separated and encoded them is what was stated, and nothing could confirm it",
}


@dataclass
class ReportTrack:
    """A track that a reader can listen to.

    Attributes:
        name: In the scores.
        title: For people; anybody's text.
        files: Audio of any format: `vocal`, `mix` and the systems by name.
        start_s: Where it begins in its song, where that is known.
        slug: Its name as a file name.
        links: Path of each FLAC that was written, with forward slashes.
        faults: Why there is none of the others.
    """

    name: str
    title: str
    files: dict[str, Path]
    start_s: float | None = None
    slug: str = ""
    links: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


def write_report(
    popdb: Popdb, model: Artifact, tracks: Sequence[Artifact], scores: Artifact, root: Path
) -> Artifact:
    """Write the report of a training and its evaluation, or find it, in `root/<key>`.

    It holds `report.md`, `report.html` (which opens alone), their plots, `scores.parquet`, `summary.json`,
    and `audio/<vocal, mix or system>/<track>.flac`.

    Args:
        popdb: The dataset of the training.
        model: The trained model.
        tracks: From `samuel.evaluate.tracks.make_track`.
        scores: Their scores.
        root: Where reports go.
    """
    listed = [
        ReportTrack(
            track.record["pair_id"],
            track.record["title"],
            {whose: track.path(file) for whose, file in STEMS.items() if file in track.sha256},
            track.record["start_s"],
        )
        for track in tracks
    ]

    def before_scores(target: Path) -> tuple[str, list[str]]:
        metrics = read_jsonl(model.path("metrics.jsonl"))
        plot_loss(metrics, target / "loss.png")
        source, separator = popdb.info["source"], popdb.info["separator"]
        made_of = f"Source `{source}`, separator `{separator}`, codec `{popdb.codec}`."
        return section(made_of, caveats(popdb)), [
            dataset_section(popdb, target),
            training_section(model, metrics),
        ]

    key = digest("report", VERSION, popdb.info, model.sha256, scores.sha256, [t.sha256 for t in tracks])
    return _write(root / key, "SAMUeL report", listed, scores, before_scores)


def write_evaluation_report(lineup: Lineup, scores: Artifact, root: Path) -> Artifact:
    """Write the report of an evaluation of any systems, or find it, in `root/<key>`; see `write_report`.

    Args:
        lineup: Tracks and systems; files of any format, of which some may be missing or unreadable.
        scores: Their scores.
        root: Where reports go.
    """
    # Anybody may have chosen a system's name: it is not to be taken for a stem.
    names = {s.name: f"{s.name} (system)" if s.name in (VOCAL, MIX) else s.name for s in lineup.systems}
    tracks = [
        ReportTrack(
            track.name,
            track.title,
            {VOCAL: track.vocal}
            | {names[s.name]: s.files[track.name] for s in lineup.systems if track.name in s.files},
        )
        for track in lineup.tracks
    ]

    def before_scores(_: Path) -> tuple[str, list[str]]:
        summary = read_json(scores.path(SUMMARY))
        systems = ", ".join(plain(system) for system in summary["systems"])
        codec = f" Codec: {plain(str(summary['codec']))}." if summary.get("codec") else ""
        return f"Tracks: {summary['tracks']}. Systems: {systems}.{codec}", []

    stamps = [
        [track.name, track.title, {name: _stamp(path) for name, path in track.files.items()}]
        for track in tracks[:MOST_TRACKS]
    ]
    key = digest("evaluation", VERSION, scores.sha256, stamps)
    return _write(root / key, "SAMUeL evaluation", tracks, scores, before_scores)


def _stamp(path: Path) -> list[Any]:
    """Path, size and time of a file; the scores, which go into the key too, came from its content."""
    status = path.stat() if path.is_file() else None
    return [str(path), status and status.st_size, status and status.st_mtime_ns]


def _write(
    folder: Path,
    title: str,
    tracks: Sequence[ReportTrack],
    scores: Artifact,
    before_scores: Callable[[Path], tuple[str, list[str]]],
) -> Artifact:
    """Write a report with its audio, or find it and mend the audio; the first tracks alone can be played.

    Args:
        folder: Where it goes.
        title: Of the page.
        tracks: All that were scored.
        scores: Their scores.
        before_scores: Given the folder for pictures, returns what stands below the title, and first sections.
    """
    audible, partial = tracks[:MOST_TRACKS], partial_folder(folder)

    def make(target: Path) -> dict[str, Any]:
        for name in (SCORES, SUMMARY):
            shutil.copyfile(scores.path(name), target / name)
        summary = read_json(target / SUMMARY)
        if comparable(summary):
            plot_following(summary, target / FOLLOWING_PLOT)
        if set(AUDIOBOX) & set(summary["scores"]):
            plot_audiobox(summary, target / AUDIOBOX_PLOT)
        introduction, first = before_scores(target)
        text = section(
            f"# {title}\n\n{introduction}", in_short(summary), *first, *evaluation_sections(summary),
            "## Tracks", *(track_section(track, partial, target) for track in audible),
        )  # fmt: skip
        if more := len(tracks) - len(audible):
            text += f"\n\n{more} more tracks were scored; `scores.parquet` has them."
        (target / "report.md").write_text(f"{text}\n", "utf-8")
        (target / "report.html").write_text(page(f"{text}\n", target, title), "utf-8")
        links = [link for track in audible for link in track.links.values()]
        return {"title": title, AUDIO: {link: (partial / link).stat().st_size for link in links}}

    with locked(partial):
        report = find_artifact(folder)
        if report and all(_size(report.path(link)) == size for link, size in report.record[AUDIO].items()):
            return report
        write_audio(audible, partial)
        report = make_artifact(folder, make)
        shutil.rmtree(folder / AUDIO, ignore_errors=True)
        if (partial / AUDIO).is_dir():
            (partial / AUDIO).replace(folder / AUDIO)
        shutil.rmtree(partial, ignore_errors=True)
        return report


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def dataset_section(popdb: Popdb, folder: Path) -> str:
    """Contents of the dataset, and how much of it is sung; the picture goes into `folder`."""
    counts = popdb.info["counts"]
    split = "all from the end" if popdb.info["source"] == PUBLISHED else "split by song"
    return section(
        "## Dataset",
        f"{counts['pairs']} pairs from {counts['songs_kept']} of {counts['songs_listed']} songs: "
        f"{counts['train']} to train on, {counts['validation']} held out, {split}.",
        vocal_share_report(popdb, folder),
    )


def vocal_share_report(popdb: Popdb, folder: Path) -> str:
    """Vocal share of the chunks, as Markdown beside its picture, `folder/vocal-share.png`.

    There is no picture where it was not measured.
    """
    shares, counts = popdb.vocal_shares(), popdb.info["counts"]
    if not shares:
        return "Vocal share: not measured."
    least = popdb.info["settings"]["min_vocal_share"]
    plot_vocal_shares(shares, least, folder / "vocal-share.png")
    half, chunk_s = sum(share >= 0.5 for share in shares), popdb.codec.duration_s(popdb.info["chunk_frames"])
    left_out = f"{counts['chunks_left_out']} of the chunks left out" if least else "all kept, as in the paper"
    return (
        f"Vocal share, measured on {len(shares)} chunks of {chunk_s:.2f} s: {sum(shares) / len(shares):.3f} "
        f"on average; {half} of them ({half / len(shares):.1%}) are sung for at least half of their length, "
        f"which the paper assumes of all. `popdb.min_vocal_share` = {least:g}: {left_out}."
        "\n\n![Vocal share](vocal-share.png)"
    )


def caveats(popdb: Popdb) -> str:
    """Notes on the parts that made a dataset, as Markdown; empty where there is nothing to bear in mind."""
    # An identity begins with the part's name: "mel/1 bands=64 …".
    names = {popdb.codec.name, *(popdb.info[part].partition("/")[0] for part in ("source", "separator"))}
    notes = [note for name, note in CAVEATS.items() if name in names]
    return f"Read with these in mind:\n\n{bullets(notes)}" if notes else ""


def training_section(model: Artifact, metrics: Sequence[dict[str, Any]]) -> str:
    """Course of the training; its picture is `loss.png`, which `plot_loss` draws."""
    fit = training_summary(model, metrics)
    held = "held-out songs" if model.record["held_out"] else "training songs, as none could be held out"
    step_s = fit["seconds_per_step"]
    step = f"{step_s:.2f} s" if step_s >= 0.1 else f"{1000 * step_s:.1f} ms"
    pairs = f", {fit['pairs_per_s']:,.1f} pairs a second" if "pairs_per_s" in fit else ""
    memory = f"; at most {fit['memory_mb']:,.0f} MB of GPU memory" if "memory_mb" in fit else ""
    gain = "Conditioning gain: not measured, as no vocals were exchanged between songs."
    if "shuffled" in fit:
        error = f" ± {fit['gain_error']:.4f} (standard error over the pairs)" if "gain_error" in fit else ""
        gain = (
            f"Conditioning gain: {fit['shuffled'] - fit['validation']:z.4f}{error}. By this the error grows "
            f"when every vocal is exchanged for one of another song: {fit['validation']:.4f} with its own, "
            f"{fit['shuffled']:.4f} shuffled. A model that does not listen has 0."
        )
    return section(
        "## Training",
        f"{fit['steps']} steps of {model.record['training']['batch_size']} pairs, "
        f"{step} a step{pairs} (median){memory}. "
        f"Mean squared error of v: {fit['first']:.3f} over the first ten steps, "
        f"{fit['last']:.3f} over the last ten; "
        f"{fit['validation']:.3f} on {held} (averaged weights, step {fit['best_step']}).",
        gain,
        "![Loss](loss.png)",
    )


def training_summary(model: Artifact, metrics: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The numbers of a fit.

    Always: `steps`; `first` and `last`, the error of v over the first and last ten of them; `validation`,
    that of the exported model, and its `best_step`; `seconds_per_step`, the median. Where it was measured:
    `shuffled`, the exported model's validation with another song's vocal, and `gain_error`, the standard
    error of the difference; `pairs_per_s`, the median; `memory_mb`, the most GPU memory that was allocated.
    """
    errors, progress = [row["v_mse"] for row in metrics], model.record["progress"]
    best = next((row for row in metrics if row.get("step") == progress["best_step"]), {})
    summary = {
        "steps": len(errors),
        "first": sum(errors[:10]) / len(errors[:10]),
        "last": sum(errors[-10:]) / len(errors[-10:]),
        "validation": progress["best_loss"],
        "best_step": progress["best_step"],
        "seconds_per_step": median(row["seconds"] for row in metrics),
        "shuffled": best.get("validation_shuffled"),
        "gain_error": best.get("conditioning_gain_error"),
    }
    for name, of in (("pairs_per_s", median), ("memory_mb", max)):
        values = [row[name] for row in metrics if name in row]
        summary[name] = of(values) if values else None
    return {name: value for name, value in summary.items() if value is not None}


def track_section(track: ReportTrack, audio: Path, target: Path) -> str:
    """Title, players and spectrograms of a track, as Markdown; the picture goes into `target`.

    Args:
        track: Its audio was written.
        audio: The folder that its links start from.
        target: The report's.
    """
    place = "" if track.start_s is None else f", from {track.start_s:.1f} s"
    stems = {}
    for owner, link in track.links.items():
        if owner != MIX:
            samples, _ = soundfile.read(
                audio / link, frames=round(PICTURE_S * SAMPLE_RATE), dtype="float32", always_2d=True
            )
            stems[owner] = np.ascontiguousarray(samples.T, dtype=np.float32)
    name = f"spectrogram-{track.slug}.png"
    if stems:
        plot_spectrograms(stems, track.title, target / name)
    return section(
        f"### {plain(track.title) or '–'}{place}",
        plain(track.name) if track.name != track.title else "",
        bullets(f"[{plain(owner)}]({link})" for owner, link in track.links.items()),
        f"![Spectrograms]({name})" if stems else "",
        bullets(f"**{plain(owner)}**: {plain(fault)}" for owner, fault in track.faults.items()),
    )


def write_audio(tracks: Sequence[ReportTrack], folder: Path) -> None:
    """Write every track's audio below `folder`; what is there stays, and what cannot be read is named."""
    owners = list(dict.fromkeys(owner for track in tracks for owner in track.files))
    places = dict(zip(owners, file_names(owner.lower() for owner in owners), strict=True))
    for track, slug in zip(tracks, file_names(track.name for track in tracks), strict=True):
        track.slug = slug
        for owner, source in track.files.items():
            link = f"{AUDIO}/{places[owner]}/{slug}.flac"
            try:
                write_flac(source, folder / link)
            except InputError as error:
                track.faults[owner] = str(error)
            else:
                track.links[owner] = link


def write_flac(source: Path, target: Path) -> None:
    """Write any audio file as FLAC, 44.1 kHz stereo of 16 bits, in little memory; what is there stays.

    Raises:
        InputError: It is missing or holds no audio.
    """
    if target.is_file():
        return
    if not source.is_file():
        raise InputError(f"{source}: no such file")
    with TemporaryDirectory() as workspace, replacing(target) as temporary:
        decode_to_wav(source, wav := Path(workspace) / "decoded.wav")
        with failed_write_told(target):
            with soundfile.SoundFile(temporary, "w", SAMPLE_RATE, CHANNELS, "PCM_16", format="FLAC") as flac:
                for block in read_blocks(wav):
                    flac.write(np.nan_to_num(block).T)  # clipped by libsndfile
                samples = flac.frames
            with soundfile.SoundFile(temporary) as flac:  # a full disk cuts it off without a word
                flac.seek(max(0, samples - 1))
                flac.read(1)


def file_names(texts: Iterable[str]) -> list[str]:
    """Texts that may be anybody's as names of files or folders, in order, no two of them the same.

    Plain letters, digits, `_`, `.` and `-`, and no dot or hyphen at the start; alike in no file system.
    """
    names: dict[str, str] = {}
    for text in texts:
        stem = re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-.")[:LONGEST_NAME] or "track"
        name, count = stem, 1
        while name.lower() in names:
            count += 1
            name = f"{stem}-{count}"
        names[name.lower()] = name
    return list(names.values())
