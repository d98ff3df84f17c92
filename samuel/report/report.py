"""The report of a run: one folder with the text as Markdown and as a page, plots, scores and audio.

The audio lies as `audio/<vocal, mix or system>/<track>.flac`, under one name for one track, so that these
folders can be given to `samuel evaluate` again.
"""

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import soundfile

from samuel.artifacts import Artifact, digest, find_artifact, locked, make_artifact, partial_folder, replacing
from samuel.audio import CHANNELS, SAMPLE_RATE, decode_to_wav, failed_write_told, read_blocks
from samuel.codecs.base import PUBLISHED
from samuel.errors import InputError
from samuel.evaluate.features import LONGEST_S
from samuel.evaluate.systems import CEILING, OURS, Lineup
from samuel.popdb.dataset import Popdb
from samuel.reading import read_json, read_jsonl
from samuel.report.evaluation import FOLLOWING_PLOT, evaluation_text, followed, in_short
from samuel.report.html import Markdown, bullets, page, render
from samuel.report.plots import plot_following, plot_loss, plot_spectrograms, plot_vocal_shares

VERSION = 8
SCORES, SUMMARY, AUDIO = "scores.parquet", "summary.json", "audio"
VOCAL, MIX = "vocal", "mix"
STEMS = {VOCAL: "vocal.wav", MIX: "mix.wav", CEILING: "reference.wav", OURS: "accompaniment.wav"}
MOST_TRACKS, LONGEST_NAME = 24, 100
CAVEATS = {
    "synthetic": "the songs are synthetic: made by this project, no recording is involved",
    "repet-sim": "the separator is REPET-SIM, which needs no weights and separates far worse than Demucs; "
    "the vocal shares are too high (on the synthetic songs 0.98, where 0.66 is sung)",
    "mel": "the codec is a log-mel spectrogram with Griffin-Lim, which needs no weights and sounds like it",
    PUBLISHED: "the latents were published without their songs: each pair counts as a song, and a song that "
    "was published twice can be on both sides; what separated and encoded them could not be confirmed",
}


@dataclass
class ReportTrack:
    """A track that a reader can listen to."""

    name: str  # in the scores
    title: str  # for people; anybody's text
    files: dict[str, Path]  # audio of any format: `vocal`, `mix` and the systems by name
    start_s: float | None = None  # where it begins in its song, where that is known
    links: dict[str, str] = field(default_factory=dict)  # path of each FLAC that was written
    faults: dict[str, str] = field(default_factory=dict)  # why there is none of the others
    picture: str = ""  # of its spectrograms


def write_report(
    popdb: Popdb, model: Artifact, tracks: Sequence[Artifact], scores: Artifact, root: Path
) -> Artifact:
    """Write the report of a training and its evaluation, or find it, in `root/<key>`.

    It holds `report.md`, `report.html` (which opens alone), their plots, `scores.parquet`, `summary.json`,
    and `audio/<vocal, mix or system>/<track>.flac`. `tracks` are made by `samuel.evaluate.tracks`.
    """
    listed = []
    for track in tracks:
        files = {whose: track.path(file) for whose, file in STEMS.items() if file in track.sha256}
        known = track.record
        listed.append(ReportTrack(known["pair_id"], known["title"], files, known["start_s"]))

    def values(target: Path) -> dict[str, Any]:
        metrics = read_jsonl(model.path("metrics.jsonl"))
        plot_loss(metrics, target / "loss.png")
        return {
            "info": popdb.info, "codec": popdb.codec, "caveats": Markdown(caveats(popdb)),
            "vocal_share": Markdown(vocal_share_report(popdb, target)),
            "split": "all from the end" if popdb.info["source"] == PUBLISHED else "split by song",
            "fit": training_summary(model, metrics),
        }  # fmt: skip

    key = digest("report", VERSION, popdb.info, model.sha256, scores.sha256, [t.sha256 for t in tracks])
    return _write(root / key, "SAMUeL report", listed, scores, values)


def write_evaluation_report(lineup: Lineup, scores: Artifact, root: Path) -> Artifact:
    """The same of an evaluation of any systems; files may be of any format, missing or unreadable."""
    tracks = []
    for track in lineup.tracks:
        files = {system.name: system.files.get(track.name) for system in lineup.systems}
        present = {name: file for name, file in files.items() if file}
        tracks.append(ReportTrack(track.name, track.title, {VOCAL: track.vocal} | present))
    # The scores came from the content of the files.
    listed = [[track.name, track.title, sorted(track.files)] for track in tracks]
    key = digest("evaluation", VERSION, scores.sha256, listed)
    return _write(root / key, "SAMUeL evaluation", tracks, scores, lambda _: {})


def _write(
    folder: Path, title: str, tracks: Sequence[ReportTrack], scores: Artifact,
    values: Callable[[Path], dict[str, Any]],
) -> Artifact:  # fmt: skip
    """Write a report, or find it and mend its audio; `values` draws into a folder and returns the rest."""
    audible, partial = tracks[:MOST_TRACKS], partial_folder(folder)

    def make(target: Path) -> dict[str, Any]:
        for name in (SCORES, SUMMARY):
            shutil.copyfile(scores.path(name), target / name)
        summary = read_json(target / SUMMARY)
        if any(item.n for item in followed(summary)):
            plot_following(summary, target / FOLLOWING_PLOT)
        for place, track in enumerate(audible):
            audio = {owner: partial / link for owner, link in track.links.items() if owner != MIX}
            if audio:
                track.picture = f"spectrogram-{place}.png"
                plot_spectrograms(audio, target / track.picture)
        text = render("report.md.j2", {
            "title": title, "summary": summary, "in_short": in_short(summary), "tracks": audible,
            "scores": evaluation_text(summary), "more": len(tracks) - len(audible),
        } | values(target))  # fmt: skip
        (target / "report.md").write_text(text, "utf-8")
        (target / "report.html").write_text(page(text, target, title), "utf-8")
        return {"title": title}

    with locked(partial):
        if report := find_artifact(folder):
            write_audio(audible, folder)
            return report
        (partial / AUDIO).mkdir(parents=True, exist_ok=True)
        write_audio(audible, partial)
        report = make_artifact(folder, make)
        (partial / AUDIO).replace(folder / AUDIO)
        partial.rmdir()
        return report


def vocal_share_report(popdb: Popdb, folder: Path) -> str:
    """Vocal share of the chunks, as Markdown beside its picture, `folder/vocal-share.png`, where measured."""
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


def training_summary(model: Artifact, metrics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of a fit; what was not measured is None."""
    progress, columns = model.record["progress"], ["seconds", "pairs_per_s", "memory_mb"]
    table = pd.DataFrame(metrics).reindex(columns=["v_mse", *columns])
    step_s, pairs_per_s, _ = table[columns].median()
    best = next((row for row in metrics if row.get("step") == progress["best_step"]), {})
    pairs = "" if np.isnan(pairs_per_s) else f", {pairs_per_s:,.1f} pairs a second"
    most_mb = table["memory_mb"].max()
    return {
        "steps": len(table), "batch_size": model.record["training"]["batch_size"],
        "first": table["v_mse"].head(10).mean(), "last": table["v_mse"].tail(10).mean(),
        "validation": progress["best_loss"], "best_step": progress["best_step"],
        "held_out": model.record["held_out"],
        "shuffled": best.get("validation_shuffled"), "gain_error": best.get("conditioning_gain_error"),
        "pace": (f"{step_s:.2f} s a step" if step_s >= 0.1 else f"{1000 * step_s:.1f} ms a step") + pairs,
        "memory_mb": None if np.isnan(most_mb) else most_mb,
    }  # fmt: skip


def write_audio(tracks: Sequence[ReportTrack], folder: Path) -> None:
    """Write every track's audio below `folder`; what is there stays, and what cannot be read is named."""
    owners = list(dict.fromkeys(owner for track in tracks for owner in track.files))
    places = dict(zip(owners, file_names(owner.lower() for owner in owners), strict=True))
    for track, slug in zip(tracks, file_names(track.name for track in tracks), strict=True):
        for owner, source in track.files.items():
            link = f"{AUDIO}/{places[owner]}/{slug}.flac"
            try:
                if not (folder / link).is_file():
                    write_flac(source, folder / link)
            except InputError as error:
                track.faults[owner] = str(error)
            else:
                track.links[owner] = link


def write_flac(source: Path, target: Path) -> None:
    """Write what is scored of any audio as FLAC, 44.1 kHz stereo of 16 bits; InputError where it is none."""
    with TemporaryDirectory() as workspace, replacing(target) as temporary:
        decode_to_wav(source, wav := Path(workspace) / "decoded.wav", LONGEST_S, cut=True)
        with failed_write_told(target):
            with soundfile.SoundFile(temporary, "w", SAMPLE_RATE, CHANNELS, "PCM_16", format="FLAC") as flac:
                for block in read_blocks(wav):
                    flac.write(np.nan_to_num(block).T)  # clipped by libsndfile
                samples = flac.frames
            with soundfile.SoundFile(temporary) as flac:  # a full disk cuts it off without a word
                flac.seek(max(0, samples - 1))
                flac.read(1)


def file_names(texts: Iterable[str]) -> list[str]:
    """Anybody's texts as names of files: plain letters, digits and `_.-`, no two alike in any file system."""
    names: dict[str, str] = {}
    for text in texts:
        stem = re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-.")[:LONGEST_NAME] or "track"
        name, count = stem, 1
        while name.lower() in names:
            count += 1
            name = f"{stem}-{count}"
        names[name.lower()] = name
    return list(names.values())
