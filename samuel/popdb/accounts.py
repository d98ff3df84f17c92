"""Accounts of the songs of a list and of what a dataset holds, as tables and text."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from samuel.config import DownloadConfig
from samuel.popdb.card import bar, share_counts
from samuel.popdb.dataset import Popdb
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status

# The step that a song has behind it once the stage of this name is done.
STEPS = {
    "search": "searched",
    "match": "matched",
    "download": "downloaded",
    "separate": "separated",
    "encode": "encoded",
}
SEARCHES = ("search", "match")
WHY_NO_PAIR = ("status", "message", "vocal_shares", "pairs")
MOST_REASONS, LONGEST_REASON = 3, 100


@dataclass(frozen=True)
class Step:
    """How many songs reached a step.

    Attributes:
        name: listed, searched, matched, downloaded, separated or encoded.
        songs: How many reached it.
        lost: How many of the step before did not, by status.
    """

    name: str
    songs: int
    lost: dict[str, int]

    def row(self) -> dict[str, str | int]:
        """As the row of a table."""
        why = ", ".join(f"{status} {songs:,}" for status, songs in self.lost.items())
        return {"step": self.name, "songs": self.songs, "lost": sum(self.lost.values()), "why": why}


def funnel(outcomes: Iterable[Outcome]) -> list[Step]:
    """Listed → searched → matched → downloaded → …, as far as any song got.

    Files of the user's are not searched for; where all songs are such, those steps are left out.
    """
    outcomes = list(outcomes)
    fates = [(outcome.stage, outcome.status.value) for outcome in outcomes]
    return _funnel(fates, searched=any(outcome.song.url is None for outcome in outcomes))


def funnel_of_rows(rows: Sequence[Mapping[str, Any]]) -> list[Step]:
    """The same from the rows of `songs.parquet`; songs that no site was asked for were files."""
    searched = any(row["video_id"] or row["candidates"] or row["stage"] in SEARCHES for row in rows)
    return _funnel([(row["stage"], row["status"]) for row in rows], searched=searched)


def _funnel(fates: Sequence[tuple[str, str]], *, searched: bool) -> list[Step]:
    """The funnel from the stage that each song came to, and its status there."""
    stages = [stage for stage in STEPS if searched or stage not in SEARCHES]
    reached = {stage for stage, _ in fates}
    while stages and stages[-1] not in reached:
        stages.pop()
    left = len(fates)
    steps = [Step("listed", left, {})]
    for stage in stages:
        lost = Counter(status for where, status in fates if where == stage and status != Status.OK)
        left -= lost.total()
        steps.append(Step(STEPS[stage], left, dict(lost.most_common())))
    return steps


def step_into_dataset(rows: Sequence[Mapping[str, Any]], least: float) -> Step:
    """The last step of songs that were encoded: to at least one pair of the dataset.

    Args:
        rows: Of `songs.parquet`, the columns `WHY_NO_PAIR`.
        least: Least vocal share of a chunk that becomes a pair.
    """
    left_out = [row for row in rows if row["status"] == Status.OK and not row["pairs"]]
    reasons = Counter(_why_no_pair(row, least) for row in left_out)
    lost = dict(reasons.most_common(MOST_REASONS))
    if others := reasons.total() - sum(lost.values()):
        lost["other reasons"] = others
    return Step("in the dataset", sum(bool(row["pairs"]) for row in rows), lost)


def _why_no_pair(row: Mapping[str, Any], least: float) -> str:
    """The row's own message, which may be anybody's text, as one line; or what its vocal shares say."""
    if row["message"]:
        return " ".join(row["message"].split())[:LONGEST_REASON]
    shares = [share for share in row["vocal_shares"] if share is not None]
    return "no chunk sung enough" if shares and max(shares) < least else "no pair in the index"


@dataclass
class Progress:
    """How far a run is, and how long the rest will take.

    Attributes:
        songs: How many there are in all.
        least_s: Least time of one song: what the pace demands of those that are not done.
        done: How many are done.
        worked: How many of them this run worked on.
    """

    songs: int
    least_s: float = 0.0
    clock: Callable[[], float] = time.monotonic
    done: int = 0
    worked: int = 0
    _started: float = field(init=False)
    _last: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self._last = self.clock()

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Count songs whose stage is over; those that were done before say nothing about the time."""
        for outcome in outcomes:
            self.done += 1
            self.worked += outcome.did_work

    @property
    def left_s(self) -> float:
        """Seconds to go, at the mean pace of the songs that this run worked on."""
        each_s = (self.clock() - self._started) / self.worked if self.worked else self.least_s
        return (self.songs - self.done) * each_s

    def due(self, interval_s: float) -> bool:
        """True at the end, and once in every `interval_s` before."""
        if self.done < self.songs and self.clock() - self._last < interval_s:
            return False
        self._last = self.clock()
        return True

    def line(self) -> str:
        """For the log."""
        known = self.worked or self.least_s or self.done == self.songs
        left = f"about {duration(self.left_s)} left" if known else "time left not known yet"
        return f"{self.done:,} of {self.songs:,} songs, {left}"


def least_s(songs: Iterable[Song], config: DownloadConfig) -> float:
    """Mean time between two downloads that the pace of `config` allows; 0 where all songs are files."""
    if all(song.url for song in songs):
        return 0.0
    return max(config.download_interval_s, config.search_interval_s) * (1 + config.jitter / 2)


def overview(popdb: Popdb) -> Iterator[str]:
    """The parts of a page about a dataset: counts, vocal share, statistics, funnel.

    What the dataset says of itself may be anybody's text: print it through `samuel.cli.options.plain`.

    Raises:
        DatasetError: `songs.parquet` is missing or damaged.
    """
    yield _columns(_counts(popdb))
    yield f"vocal share of a chunk\n{_histogram(popdb.vocal_shares())}"
    statistics = {
        stream: f"mean {_spread(summary['mean'])}, deviation {_spread(summary['std'])}"
        for stream, summary in popdb.stats.items()
    }
    yield f"latents of the training pairs, mean and range over the channels\n{_columns(statistics)}"
    songs = popdb.songs().to_pylist()
    least = popdb.info["settings"].get("min_vocal_share")  # of an import: none
    last = step_into_dataset(songs, least if isinstance(least, float) else 0.0)
    yield text_of([step.row() for step in [*funnel_of_rows(songs), last]])


def _counts(popdb: Popdb) -> dict[str, str]:
    info, counts = popdb.info, popdb.info["counts"]
    pair_s = popdb.codec.duration_s(info["chunk_frames"])
    total_bytes = sum(file["bytes"] for file in info["files"].values())
    return {
        "dataset": popdb.location,
        "pairs": f"{counts['pairs']:,} of {pair_s:.2f} s, {counts['pairs'] * pair_s / 3600:,.1f} h",
        "split": f"{counts['train']:,} train, {counts['validation']:,} validation",
        "songs": f"{counts['songs_kept']:,} of {counts['songs_listed']:,} listed",
        "left out": f"{counts['chunks_left_out']:,} of {counts['chunks']:,} chunks",
        "shards": f"{counts['shards']:,}",
        "size": f"{total_bytes / 1e6:,.1f} MB",
        "source": str(info["source"]),
        "separator": str(info["separator"]),
        "codec": str(popdb.codec),
    }


def _histogram(vocal_shares: Sequence[float]) -> str:
    if not vocal_shares:
        return "not measured"
    counts = share_counts(vocal_shares)
    most = max(count for _, count in counts)
    rows = [{"sung": name, "chunks": count, "": bar(count, most)} for name, count in counts]
    return f"{text_of(rows)}\nmean {np.mean(vocal_shares):.2f}"


def _spread(values: Sequence[float]) -> str:
    if not all(map(math.isfinite, values)):
        return "not finite"
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def text_of(rows: Sequence[Mapping[str, str | int]]) -> str:
    """Rows with the same columns as text, numbers to the right."""
    lines = [list(rows[0])] + [[f"{v:,}" if isinstance(v, int) else v for v in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = [">" if isinstance(value, int) else "<" for value in rows[0].values()]
    columns = list(zip(sides, widths, strict=True))
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, (side, width) in zip(line, columns, strict=True)).rstrip()
        for line in lines
    )


def _columns(rows: Mapping[str, Any]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def counted(count: int, noun: str) -> str:
    """A count for people: 1 pair, 2,000 pairs."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def duration(seconds: float) -> str:
    """A duration for people: 47 h, 12 min, 8 s."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"
