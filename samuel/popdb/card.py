"""The dataset card: a README in the format of the Hugging Face hub.

What others chose (the codec's identity, the settings) stands in it as JSON alone, where it can be no markup.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import DatasetCardData

from samuel.codecs import CodecInfo
from samuel.codecs.base import PUBLISHED

WIDEST_BAR = 40
# The hub's names, and the count from which each holds.
SIZES = {"n<1K": 0, "1K<n<10K": 10**3, "10K<n<100K": 10**4, "100K<n<1M": 10**5, "1M<n<10M": 10**6}
CODECS = {
    "mel": "64 log-mel bands. That is no learned codec: no weights are needed to turn the latents into "
    "audio, and no licence but the songs' own applies to them.",
    "stable-audio-open": "the autoencoder of Stable Audio Open, whose weights are Stability AI's, under the "
    "Stability AI Community License. It applies to whoever decodes the latents, and to what is made with it.",
}
SPLIT = (
    "`split` in the index is by song, and by recording where several songs of the list led to the same: no "
    "song is on both sides."
)
SPLIT_PUBLISHED = (
    "What is held out is the end of the published arrays, behind a gap longer than any song: they do not "
    "tell where a song ends, and one that was published twice can be on both sides."
)
SYNTHETIC_SONGS = (
    "All songs are synthetic: SAMUeL composed, sang and mixed them by itself. They are the project's own "
    "work, under its licence (MIT), and nobody else has rights in them."
)
OTHERS_SONGS = (
    "The songs belong to those who wrote, sang and published them. A separated stem, and the latents of one, "
    "are derived from the recording and subject to the same rights. Share this dataset only where you might "
    "share the recordings, and use it only as you might use them."
)


def dataset_card(info: dict[str, Any], vocal_shares: Sequence[float]) -> str:
    """The card of a dataset; the same dataset gives the same text.

    Args:
        info: `dataset.json`, its files not yet listed.
        vocal_shares: Vocal share of every chunk that was measured.
    """
    frames, latents, pairs = (
        info["chunk_frames"],
        CodecInfo.model_validate(info["codec"]),
        info["counts"]["pairs"],
    )
    made_of = {name: info[name] for name in ("format_version", "source", "separator", "codec", "settings")}
    codec = CODECS.get(latents.name)
    tables = [
        {"config_name": name, "data_files": [{"split": name, "path": path}]}
        # A split must not be called `all`, and `train` would be wrong: the index holds both splits.
        for name, path in {"pairs": "index-*.parquet", "songs": "songs-*.parquet"}.items()
    ]
    front_matter = DatasetCardData(
        pretty_name="POPDB",
        license="other",
        license_name="rights-of-the-songs",
        task_categories=["audio-to-audio"],
        size_categories=[name for name, least in SIZES.items() if pairs >= least][-1],
        tags=["music", "accompaniment-generation", "singing-voice", "audio-latents", "safetensors"],
        configs=[tables[0] | {"default": True}, tables[1]],
    )
    return (
        Path(__file__)
        .with_name("card.md")
        .read_text("utf-8")
        .format(
            front_matter=front_matter.to_yaml(line_break="\n"),
            seconds=latents.duration_s(frames),
            channels=latents.channels,
            frames=frames,
            hop=latents.hop,
            sample_rate=latents.sample_rate / 1000,
            counts="\n".join(f"| {name.replace('_', ' ')} | {n:,} |" for name, n in info["counts"].items()),
            split=SPLIT_PUBLISHED if info["source"] == PUBLISHED else SPLIT,
            vocal_shares=_share_table(vocal_shares),
            made_of=json.dumps(made_of, indent=1, sort_keys=True),  # no line begins with a backtick
            songs=SYNTHETIC_SONGS if info["source"] == "synthetic" else OTHERS_SONGS,
            codec=f"The codec is {codec}"
            if codec
            else "Look up the licence of the codec that is named above.",
        )
    )


def share_counts(vocal_shares: Sequence[float]) -> list[tuple[str, int]]:
    """Histogram of vocal shares: ten bins (name, chunks); the last one holds 1.0 too."""
    edges = [edge / 10 for edge in range(11)]
    counts = np.histogram(vocal_shares, bins=edges)[0]
    return [(f"{i / 10:.1f} to {(i + 1) / 10:.1f}", int(count)) for i, count in enumerate(counts)]


def bar(count: int, most: int) -> str:
    """A bar of text, the longest of a table for `most`; what is there at all is seen."""
    return "█" * -(-WIDEST_BAR * count // max(most, 1))


def _share_table(vocal_shares: Sequence[float]) -> str:
    if not vocal_shares:
        return "The vocal share of the chunks was not measured."
    counts = share_counts(vocal_shares)
    most = max(count for _, count in counts)
    rows = "\n".join(f"| {name} | {count:,} | {bar(count, most)} |" for name, count in counts)
    return (
        "Share of its length for which a chunk is sung, as measured on the separated stems: "
        f"{np.mean(vocal_shares):.2f} in the mean of {len(vocal_shares):,} chunks, those that were left out "
        f"included.\n\n| vocal share | chunks | |\n|---|---:|---|\n{rows}"
    )
