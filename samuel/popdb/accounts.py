"""Accounts of the songs of a list: the disk space they will need, how far they are, what became of them."""

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samuel.artifacts import MANIFEST
from samuel.audio import CHANNELS, SAMPLE_RATE
from samuel.config import DownloadConfig, Settings
from samuel.errors import OperatorError
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status

if TYPE_CHECKING:  # a run that only downloads needs no torch
    from samuel.popdb.dataset import Popdb

logger = logging.getLogger(__name__)

# --- space: estimated from the list before anything is downloaded ---

AUDIO_BYTES_PER_S = CHANNELS * 4 * SAMPLE_RATE
# Both stems. With REPET a recorded song takes 362,000, the same song 12 dB louder and clipped 395,000,
# synthetic songs 328,000 to 349,000. White noise would take 472,000.
STEMS_BYTES_PER_S = 400_000
LATENTS_BYTES_PER_S = 5_512.5  # both streams in float16, by the paper's codec
TYPICAL_DURATION_S = 211.0  # the median of the Kaggle list
# What is removed lies there from a song's download to the end of its encoding. The flow takes three tasks at
# a time, in the order submitted: at most so many groups of songs are between the two.
GROUPS_IN_HAND = 5


@dataclass(frozen=True)
class Need:
    """The bytes that a run will add to one folder, at most at a time."""

    name: str  # audio, stems, latents or shards
    folder: Path
    n_bytes: int


def require_space(songs: Sequence[Song], settings: Settings, group: int) -> list[Need]:
    """Stop a run, of so many songs at a time, whose audio, stems, latents and shards will not find room.

    The estimate is cautious: every song is taken to be found and to pass every stage. What is done already is
    known by counting artifacts, each as a song of mean length. They may be of other songs or settings: then
    more is needed than this says, and the run stops where the disk is full.

    Raises:
        OperatorError: It does not fit; the message says what is needed, what is free, and what to change.
    """
    durations_s, data = _durations_s(songs, settings), settings.data
    rates = {"audio": AUDIO_BYTES_PER_S, "stems": STEMS_BYTES_PER_S, "latents": LATENTS_BYTES_PER_S}
    in_hand_s = sum(sorted(durations_s)[-GROUPS_IN_HAND * group :])
    needs: list[Need] = []
    for name, rate in rates.items():
        folder = data / ("raw" if name == "audio" else name)
        n_bytes = _bytes_to_come(folder, rate, durations_s)
        removed = getattr(settings.retention, name, "keep") == "remove"
        needs.append(Need(name, folder, min(n_bytes, round(rate * in_hand_s)) if removed else n_bytes))
    if isinstance(root := settings.popdb_path, Path):  # what is free behind a URL is not known
        there = sum(path.stat().st_size for path in (root / "shards").glob("*.safetensors"))
        needs.append(Need("shards", root, max(0, round(LATENTS_BYTES_PER_S * sum(durations_s)) - there)))
    return _checked(needs, settings)


def require_audio_space(songs: Sequence[Song], settings: Settings) -> list[Need]:
    """As `require_space`, for a run that only downloads: all audio stays, whatever the settings let go."""
    raw = settings.data / "raw"
    n_bytes = _bytes_to_come(raw, AUDIO_BYTES_PER_S, _durations_s(songs, settings))
    return _checked([Need("audio", raw, n_bytes)], settings)


def _durations_s(songs: Sequence[Song], settings: Settings) -> list[float]:
    """As the list states them, or typical; what is too long is never fetched."""
    longest_s = settings.download.max_duration_s
    durations_s = [song.duration_s or min(TYPICAL_DURATION_S, longest_s) for song in songs]
    return [duration_s for duration_s in durations_s if duration_s <= longest_s]


def _bytes_to_come(folder: Path, bytes_per_s: float, durations_s: Sequence[float]) -> int:
    """Bytes that songs without an artifact in `folder` will add; a released one is not made again."""
    there = sum(1 for _ in folder.glob(f"[!.]*/{MANIFEST}"))
    share_left = max(0, len(durations_s) - there) / max(1, len(durations_s))
    return round(bytes_per_s * sum(durations_s) * share_left)


def _checked(needs: list[Need], settings: Settings) -> list[Need]:
    disks: dict[int, list[tuple[Path, Need]]] = {}
    for need in needs:
        folder = need.folder.resolve()
        place = next(path for path in (folder, *folder.parents) if path.exists())
        disks.setdefault(place.stat().st_dev, []).append((place, need))
    for disk in disks.values():
        needed, free = sum(need.n_bytes for _, need in disk), shutil.disk_usage(disk[0][0]).free
        parts = ", ".join(f"{need.name} {need.n_bytes / 1e9:,.2f} GB in {need.folder}" for _, need in disk)
        line = f"needs about {needed / 1e9:,.1f} GB of disk space ({parts}), {free / 1e9:,.2f} GB free"
        logger.info(line)
        if needed > free and settings.retention.check_space:
            removable = [n.name for _, n in disk if getattr(settings.retention, n.name, "") == "keep"]
            remedies = [f"set retention.{name} = 'remove'" for name in removable]
            remedies.append("take fewer songs (songs.limit), or another disk (data, popdb.path)")
            remedies.append("where few of the songs will be found set retention.check_space = false")
            raise OperatorError(f"the run {line}; {', or '.join(remedies)}")
    return needs


# --- progress ---


@dataclass
class Progress:
    """How far a run is, and how long the rest will take."""

    songs: int  # in all
    least_s: float = 0.0  # of one song: what the pace demands of those that are not done
    clock: Callable[[], float] = time.monotonic
    done: int = 0
    worked: int = 0  # how many of them this run worked on
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()

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


def least_s(songs: Iterable[Song], config: DownloadConfig) -> float:
    """Mean time between two downloads that the pace of `config` allows; 0 where all songs are files."""
    if all(song.url for song in songs):
        return 0.0
    return max(config.download_interval_s, config.search_interval_s) * (1 + config.jitter / 2)


# --- what became of the songs ---

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
    """How many songs reached a step, and how many of the step before did not, by status."""

    name: str  # listed, searched, matched, downloaded, separated or encoded
    songs: int
    lost: dict[str, int]

    def row(self) -> dict[str, str | int]:
        """As the row of a table."""
        why = ", ".join(f"{status} {songs:,}" for status, songs in self.lost.items())
        return {"step": self.name, "songs": self.songs, "lost": sum(self.lost.values()), "why": why}


def funnel(outcomes: Iterable[Outcome]) -> list[Step]:
    """Listed → searched → matched → downloaded → …, as far as any song got."""
    fates = [(outcome.stage, outcome.status.value, outcome.song.url is None) for outcome in outcomes]
    return _steps([fate[:2] for fate in fates], searched=any(fate[2] for fate in fates))


def _steps(fates: Sequence[tuple[str, str]], *, searched: bool) -> list[Step]:
    """The funnel from the stage that each song came to, and its status there; files are not searched for."""
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

    `rows` are of `songs.parquet`, its columns `WHY_NO_PAIR`; `least` is the vocal share that a pair needs.
    """
    reasons: Counter[str] = Counter()
    for row in rows:
        if row["status"] == Status.OK and not row["pairs"]:
            shares = [share for share in row["vocal_shares"] if share is not None]
            unsung = "no chunk sung enough" if shares and max(shares) < least else "no pair in the index"
            # The message may be anybody's text.
            reasons[" ".join(row["message"].split())[:LONGEST_REASON] or unsung] += 1
    lost = dict(reasons.most_common(MOST_REASONS))
    if others := reasons.total() - sum(lost.values()):
        lost["other reasons"] = others
    return Step("in the dataset", sum(bool(row["pairs"]) for row in rows), lost)


def overview(popdb: "Popdb") -> Iterator[str]:
    """The parts of a page about a dataset: counts, vocal shares, statistics, funnel.

    What the dataset says of itself may be anybody's text: print it through `samuel.cli.options.plain`.

    Raises:
        DatasetError: `songs.parquet` is missing or damaged.
    """
    from samuel.popdb.card import bar, share_counts

    info, counts, songs = popdb.info, popdb.info["counts"], popdb.songs().to_pylist()
    pair_s = popdb.codec.duration_s(info["chunk_frames"])
    page = {
        "dataset": popdb.location,
        "pairs": f"{counts['pairs']:,} of {pair_s:.2f} s, {counts['pairs'] * pair_s / 3600:,.1f} h",
        "split": f"{counts['train']:,} train, {counts['validation']:,} validation",
        "songs": f"{counts['songs_kept']:,} of {counts['songs_listed']:,} listed",
        "left out": f"{counts['chunks_left_out']:,} of {counts['chunks']:,} chunks",
        "shards": f"{counts['shards']:,}",
        "size": f"{sum(file['bytes'] for file in info['files'].values()) / 1e6:,.1f} MB",
        "source": str(info["source"]),
        "separator": str(info["separator"]),
        "codec": str(popdb.codec),
    }
    yield "\n".join(f"{name:<9}  {value}" for name, value in page.items())
    if shares := popdb.vocal_shares():
        bins = share_counts(shares)
        most = max(count for _, count in bins)
        rows = [{"sung": name, "chunks": count, "": bar(count, most)} for name, count in bins]
        yield f"vocal share of a chunk, {np.mean(shares):.2f} in the mean\n{text_of(rows)}"
    yield text_of(
        [
            {"latents": stream, "range": f"mean {_spread(of['mean'])}, deviation {_spread(of['std'])}"}
            for stream, of in popdb.stats.items()
        ]
    )
    searched = any(row["video_id"] or row["candidates"] or row["stage"] in SEARCHES for row in songs)
    steps = _steps([(row["stage"], row["status"]) for row in songs], searched=searched)
    least = info["settings"].get("min_vocal_share")  # of an import: none
    last = step_into_dataset(songs, least if isinstance(least, float) else 0.0)
    yield text_of([step.row() for step in [*steps, last]])


# --- text for people ---


def _spread(values: Sequence[float]) -> str:
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


def counted(count: int, noun: str) -> str:
    """A count for people: 1 pair, 2,000 pairs."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def duration(seconds: float) -> str:
    """A duration for people: 47 h, 12 min, 8 s."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"
