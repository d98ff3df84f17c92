"""What a dataset holds, as text for a terminal."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from samuel.audio import SAMPLE_RATE
from samuel.codec import HOP
from samuel.popdb.accounts import counted, funnel_of_rows, step_into_dataset, text_of
from samuel.popdb.card import bar, share_counts
from samuel.popdb.shards import Popdb


def overview(popdb: Popdb) -> Iterator[str]:
    """Its parts one after the other: counts, vocal share, statistics, funnel.

    What the dataset says of itself may be anybody's text: print it through `samuel.cli.terminal.plain`.

    Raises:
        DatasetError: `songs.parquet` is missing or damaged.
    """
    yield _table(_counts(popdb))
    yield f"vocal share of a chunk\n{_histogram(popdb.vocal_shares())}"
    yield f"latents of the training pairs, mean and range over the channels\n{_statistics(popdb.stats)}"
    yield _funnel(popdb)


def _counts(popdb: Popdb) -> dict[str, str]:
    info, counts = popdb.info, popdb.info["counts"]
    pair_s = info["chunk_frames"] * HOP / SAMPLE_RATE
    total_bytes = sum(file["bytes"] for file in info["files"].values())
    return {
        "dataset": popdb.location,
        "pairs": f"{counts['pairs']:,} of {pair_s:.2f} s, {counts['pairs'] * pair_s / 3600:,.1f} h",
        "split": f"{counts['train']:,} train, {counts['validation']:,} validation",
        "songs": f"{counts['songs_kept']:,} of {counts['songs_listed']:,} listed",
        "left out": f"{counts['chunks_left_out']:,} of {counts['chunks']:,} chunks",
        "shards": f"{counts['shards']:,}, and in them {counted(counts['buried'], 'row')} of no pair",
        "size": f"{total_bytes / 1e6:,.1f} MB",
        "source": str(info["source"]),
        "separator": str(info["separator"]),
        "codec": str(info["codec"]),
    }


def _funnel(popdb: Popdb) -> str:
    songs = popdb.songs().to_pylist()
    least = popdb.info["settings"].get("min_vocal_share")  # of an import: none
    last = step_into_dataset(songs, least if isinstance(least, float) else 0.0)
    return text_of([step.row() for step in [*funnel_of_rows(songs), last]])


def _histogram(vocal_shares: Sequence[float]) -> str:
    if not vocal_shares:
        return "not measured"
    counts = share_counts(vocal_shares)
    most = max(count for _, count in counts)
    rows = [{"sung": name, "chunks": count, "": bar(count, most)} for name, count in counts]
    return f"{text_of(rows)}\nmean {np.mean(vocal_shares):.2f}"


def _statistics(stats: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    rows = {
        stream: f"mean {_spread(summary['mean'])}, deviation {_spread(summary['std'])}"
        for stream, summary in stats.items()
    }
    return _table(rows)


def _spread(values: Sequence[float]) -> str:
    if not all(map(math.isfinite, values)):
        return "not finite"
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _table(rows: Mapping[str, Any]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())
