"""What a report says of the dataset and of the training."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from samuel.audio import SAMPLE_RATE
from samuel.codec import HOP
from samuel.codec.identity import PUBLISHED
from samuel.files import Entry
from samuel.popdb.shards import Popdb
from samuel.report.plots import plot_vocal_shares

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


def training_section(model: Entry, metrics: Sequence[dict[str, Any]]) -> str:
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
    return "\n\n".join(["## Training", " ".join(sentences), _worth_of_vocal(fit), "![Loss](loss.png)"])


def training_summary(model: Entry, metrics: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The numbers of a fit.

    Always: `steps`; `first` and `last`, the error of v over the first and last ten of them; `validation`,
    that of the exported model, and its `best_step`; `seconds_per_step`, the median. Where it was measured:
    `shuffled`, the exported model's validation with another song's vocal, and `worth_error`, the standard
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
    if "vocal_worth_error" in best:
        summary["worth_error"] = best["vocal_worth_error"]
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


def _worth_of_vocal(fit: dict[str, float]) -> str:
    if "shuffled" not in fit:
        return "What the vocal is worth: not measured, as no vocals were exchanged between songs."
    worth = fit["shuffled"] - fit["validation"]
    error = f" ± {fit['worth_error']:.4f} (standard error over the pairs)" if "worth_error" in fit else ""
    return (
        f"What the vocal is worth: {worth:z.4f}{error}. By this the error grows when every vocal is "
        f"exchanged for one of another song: {fit['validation']:.4f} with its own, {fit['shuffled']:.4f} "
        "shuffled. A model that does not listen has 0."
    )
