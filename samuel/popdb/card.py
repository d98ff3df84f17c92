"""The dataset card: a README in the format of the Hugging Face hub.

What others chose (the codec's identity, the settings) stands in it as JSON alone, where it can be no markup.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from huggingface_hub import DatasetCardData

from samuel.audio import SAMPLE_RATE
from samuel.codecs.base import HOP

BINS = 10
WIDEST_BAR = 40
# The hub's names, and the count from which each holds.
SIZES = (
    (0, "n<1K"), (10**3, "1K<n<10K"), (10**4, "10K<n<100K"), (10**5, "100K<n<1M"), (10**6, "1M<n<10M"),
)  # fmt: skip
CODECS = {
    "mel": "64 log-mel bands. That is no learned codec: no weights are needed to turn the latents into "
    "audio, and no licence but the songs' own applies to them.",
    "stable-audio-open": "the autoencoder of Stable Audio Open, whose weights are Stability AI's, under the "
    "Stability AI Community License. It applies to whoever decodes the latents, and to what is made with it.",
}
SOURCES = {
    "synthetic": "All songs are synthetic: SAMUeL composed, sang and mixed them by itself. They are the "
    "project's own work, under its licence (MIT), and nobody else has rights in them.",
}
PUBLISHED = "published"
SPLIT = (
    "`split` in the index is by song, and by recording where several songs of the list led to the same: no "
    "song is on both sides."
)
SPLIT_PUBLISHED = (
    "What is held out is the end of the published arrays, behind a gap longer than any song: they do not "
    "tell where a song ends, and one that was published twice can be on both sides."
)
OTHERS_SONGS = (
    "The songs belong to those who wrote, sang and published them. A separated stem, and the latents of one, "
    "are derived from the recording and subject to the same rights. Share this dataset only where you might "
    "share the recordings, and use it only as you might use them."
)
WARNING = (
    "**Latents decode to audio.** They are no anonymous features: whoever has the codec's decoder can listen "
    "to these songs, split into vocal and accompaniment. Treat the dataset like the recordings."
)
CONTENT = """\
| file | content |
|---|---|
| `shards/*.safetensors` | `vocal` and `accompaniment`, float16 (N, 64, {frames}), and the ids of the pairs |
| `index.parquet` | a row per pair: song, split, vocal share, and where its latents lie |
| `songs.parquet` | a row per song of the list, whatever became of it |
| `tombstones.parquet` | rows of shards that are in no pair any more |
| `stats.json` | mean and deviation of each channel, over the training pairs |
| `dataset.json` | what the dataset was made of; size and sha256 of every file |"""
READING = """\
With [SAMUeL](https://arxiv.org/abs/2507.19991)'s library, from the dataset's folder:

```python
from samuel.popdb.dataset import open_popdb

popdb = open_popdb(".")  # or another folder, or a URL
vocal, accompaniment = popdb.read(popdb.pairs("train")[:4])  # each float16 (4, 64, {frames})
```

Without it:

```python
import pandas
from safetensors.numpy import load_file

pairs = pandas.read_parquet("index.parquet")
first = pairs.iloc[0]
vocal = load_file(first["shard"])["vocal"][first["row"]]  # float16 (64, {frames})
```"""


def dataset_card(info: dict[str, Any], vocal_shares: Sequence[float]) -> str:
    """The card of a dataset; the same dataset gives the same text.

    Args:
        info: `dataset.json`, its files not yet listed.
        vocal_shares: Vocal share of every chunk that was measured.
    """
    frames = info["chunk_frames"]
    parts = [
        f"---\n{_front_matter(info['counts']['pairs'])}\n---",
        "# POPDB",
        _what_it_is(frames),
        f"> {WARNING}",
        f"## Content\n\n{CONTENT.format(frames=frames)}\n\n{_counts(info)}",
        f"## Reading it\n\n{READING.format(frames=frames)}",
        f"## How much is sung\n\n{_share_table(vocal_shares)}",
        f"## What it was made of\n\n{_made_of(info)}",
        f"## Licences and rights\n\n{_rights(info)}",
    ]
    return "\n\n".join(parts) + "\n"


def share_counts(vocal_shares: Sequence[float]) -> list[tuple[str, int]]:
    """Histogram of vocal shares: ten bins (name, chunks); the last one holds 1.0 too."""
    edges = [edge / BINS for edge in range(BINS + 1)]
    counts = np.histogram(vocal_shares, bins=edges)[0]
    return [
        (f"{low:.1f} to {high:.1f}", int(n)) for low, high, n in zip(edges, edges[1:], counts, strict=False)
    ]


def bar(count: int, most: int) -> str:
    """A bar of text, the longest of a table for `most`; what is there at all is seen."""
    return "█" * -(-WIDEST_BAR * count // max(most, 1))


def _front_matter(pairs: int) -> str:
    data = DatasetCardData(
        pretty_name="POPDB",
        license="other",
        license_name="rights-of-the-songs",
        task_categories=["audio-to-audio"],
        size_categories=[name for least, name in SIZES if pairs >= least][-1],
        tags=["music", "accompaniment-generation", "singing-voice", "audio-latents", "safetensors"],
        # A split must not be called `all`, and `train` would be wrong: the index holds both splits.
        configs=[_table("pairs", "index.parquet", default=True), _table("songs", "songs.parquet")],
    )
    return data.to_yaml(line_break="\n")


def _table(name: str, path: str, *, default: bool = False) -> dict[str, Any]:
    table = {"config_name": name, "data_files": [{"split": name, "path": path}]}
    return table | ({"default": True} if default else {})


def _what_it_is(frames: int) -> str:
    return (
        "Pairs of a vocal and its accompaniment, as latents of an audio codec: both are the same stretch of "
        f"a song, of {frames * HOP / SAMPLE_RATE:.2f} s. Each is float16 (64, {frames}), unscaled: 64 "
        f"channels and {frames} frames, each of which stands for {HOP} samples of stereo audio at 44.1 kHz. "
        "POPDB is the dataset of [SAMUeL](https://arxiv.org/abs/2507.19991), §III."
    )


def _counts(info: dict[str, Any]) -> str:
    rows = [f"| {name.replace('_', ' ')} | {count:,} |" for name, count in info["counts"].items()]
    split = SPLIT_PUBLISHED if info["source"] == PUBLISHED else SPLIT
    return "\n".join(["| count | |", "|---|---:|", *rows, "", split])


def _share_table(vocal_shares: Sequence[float]) -> str:
    if not vocal_shares:
        return "The vocal share of the chunks was not measured."
    counts = share_counts(vocal_shares)
    most = max(count for _, count in counts)
    rows = [f"| {name} | {count:,} | {bar(count, most)} |" for name, count in counts]
    return "\n".join(
        [
            f"Share of its length for which a chunk is sung, as measured on the separated stems: "
            f"{np.mean(vocal_shares):.2f} in the mean of {len(vocal_shares):,} chunks, those that were left "
            "out included.",
            "",
            "| vocal share | chunks | |",
            "|---|---:|---|",
            *rows,
        ]
    )


def _made_of(info: dict[str, Any]) -> str:
    described = {name: info[name] for name in ("format_version", "source", "separator", "codec", "settings")}
    # No line of it begins with a backtick, so none ends the block.
    return f"```json\n{json.dumps(described, indent=1, sort_keys=True)}\n```"


def _rights(info: dict[str, Any]) -> str:
    songs = SOURCES.get(str(info["source"]), OTHERS_SONGS)
    codec = CODECS.get(str(info["codec"]).partition("/")[0])
    licence = f"The codec is {codec}" if codec else "Look up the licence of the codec that is named above."
    return f"{songs}\n\n{licence}\n\nThe code that made the dataset is MIT; that says nothing of the songs."
