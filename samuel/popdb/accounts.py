"""Accounts of the songs of a list: the disk space they will need, how far they are, what became of them."""

import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jinja2 import Template

from samuel.artifacts import MANIFEST
from samuel.audio import CHANNELS, SAMPLE_RATE
from samuel.config import DownloadConfig, Settings
from samuel.errors import OperatorError
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status
from samuel.popdb.tables import Row
from samuel.text import text_of

if TYPE_CHECKING:  # a run that only downloads needs no torch
    from samuel.popdb.dataset import Popdb

logger = logging.getLogger(__name__)

BYTES_PER_S = {
    "audio": CHANNELS * 4 * SAMPLE_RATE,
    "stems": 400_000,  # both; of REPET's 328,000 to 395,000
    "latents": 5_512.5,  # both streams in float16, by the paper's codec
}
TYPICAL_DURATION_S = 211.0  # the median of the Kaggle list
# At most so many are downloaded and not encoded yet: so much of what is removed lies there.
GROUPS_IN_HAND = 5


class Need(NamedTuple):
    """The bytes that a run will add to one folder, at most at a time."""

    name: str  # audio, stems, latents or shards
    folder: Path
    n_bytes: int


def require_space(songs: Sequence[Song], settings: Settings, group: int | None) -> list[Need]:
    """Stop a run, of `group` songs at a time, whose files will not find room on the disk.

    None: it only downloads, and all audio stays. Every song is taken to be found and to pass every stage;
    what is done is counted as songs of mean length.
    """
    longest_s = settings.download.max_duration_s  # what is longer is never fetched
    durations_s = [song.duration_s or min(TYPICAL_DURATION_S, longest_s) for song in songs]
    durations_s = sorted(duration_s for duration_s in durations_s if duration_s <= longest_s)
    total_s, needs = sum(durations_s), list[Need]()
    for name, rate in BYTES_PER_S.items():
        folder = settings.data / ("raw" if name == "audio" else name)
        there = sum(1 for _ in folder.glob(f"[!.]*/{MANIFEST}"))  # a released one is not made again
        n_bytes = round(rate * total_s * max(0, 1 - there / max(1, len(durations_s))))
        if group and getattr(settings.retention, name, "keep") == "remove":
            n_bytes = min(n_bytes, round(rate * sum(durations_s[-GROUPS_IN_HAND * group :])))
        if group or name == "audio":
            needs.append(Need(name, folder, n_bytes))
    if group and isinstance(root := settings.popdb_path, Path):  # what is free behind a URL is not known
        there = sum(path.stat().st_size for path in (root / "shards").glob("*.safetensors"))
        needs.append(Need("shards", root, max(0, round(BYTES_PER_S["latents"] * total_s) - there)))
    disks: dict[int, list[Need]] = {}
    for need in needs:
        disks.setdefault(_existing(need.folder).stat().st_dev, []).append(need)
    for disk in disks.values():
        needed, free = sum(need.n_bytes for need in disk), shutil.disk_usage(_existing(disk[0].folder)).free
        places = ", ".join(f"{need.name} {need.n_bytes / 1e9:,.2f} GB in {need.folder}" for need in disk)
        line = f"needs about {needed / 1e9:,.1f} GB of disk space ({places}), {free / 1e9:,.2f} GB free"
        logger.info(line)
        if needed > free and settings.retention.check_space:
            removable = [need.name for need in disk if getattr(settings.retention, need.name, "") == "keep"]
            remedies = [f"set retention.{name} = 'remove'" for name in removable]
            remedies.append("take fewer songs (songs.limit), or another disk (data, popdb.path)")
            remedies.append("where few of the songs will be found set retention.check_space = false")
            raise OperatorError(f"the run {line}; {', or '.join(remedies)}")
    return needs


def _existing(folder: Path) -> Path:
    """The folder, or the first above it that is there."""
    return next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())


class Progress:
    """How far a run is, and how long the rest will take."""

    def __init__(self, songs: int, least_s: float = 0.0) -> None:
        self.songs, self.least_s = songs, least_s  # in all; what the pace demands of one that is not done
        self.done = self.worked = 0  # so many are over, and this run worked on so many
        self._started = time.monotonic()

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Count songs whose stage is over; those that were done before say nothing about the time."""
        for outcome in outcomes:
            self.done += 1
            self.worked += outcome.did_work

    @property
    def left_s(self) -> float:
        """Seconds to go, at the mean pace of the songs that this run worked on."""
        each_s = (time.monotonic() - self._started) / self.worked if self.worked else self.least_s
        return (self.songs - self.done) * each_s


def least_s(songs: Iterable[Song], config: DownloadConfig) -> float:
    """Mean time between two downloads that the pace of `config` allows; 0 where all songs are files."""
    if all(song.url for song in songs):
        return 0.0
    return max(config.download_interval_s, config.search_interval_s) * (1 + config.jitter / 2)


# The step that a song has behind it once the stage of this name is done.
STEPS = {
    "search": "searched", "match": "matched", "download": "downloaded", "separate": "separated",
    "encode": "encoded",
}  # fmt: skip
SEARCHES = ("search", "match")
WHY_NO_PAIR = ("status", "message", "vocal_shares", "pairs")
MOST_REASONS, LONGEST_REASON = 3, 100


def step_row(step: str, songs: int, lost: Mapping[str, int]) -> Row:
    """A row of the funnel: how many songs reached a step, and how many of the one before did not."""
    why = ", ".join(f"{status} {count:,}" for status, count in lost.items())
    return {"step": step, "songs": songs, "lost": sum(lost.values()), "why": why}


def funnel(outcomes: Iterable[Outcome]) -> list[Row]:
    """Listed → searched → matched → downloaded → …, as far as any song got."""
    fates = [(outcome.stage, outcome.status.value, outcome.song.url is None) for outcome in outcomes]
    return _steps([fate[:2] for fate in fates], searched=any(fate[2] for fate in fates))


def _steps(fates: Sequence[tuple[str, str]], *, searched: bool) -> list[Row]:
    """The funnel from the stage that each song came to, and its status there; files are not searched for."""
    stages = [stage for stage in STEPS if searched or stage not in SEARCHES]
    while stages and stages[-1] not in {stage for stage, _ in fates}:
        stages.pop()
    left = len(fates)
    steps = [step_row("listed", left, {})]
    for stage in stages:
        lost = Counter(status for where, status in fates if where == stage and status != Status.OK)
        left -= lost.total()
        steps.append(step_row(STEPS[stage], left, dict(lost.most_common())))
    return steps


def step_into_dataset(rows: Sequence[Mapping[str, Any]], least: float) -> Row:
    """The last step, from rows of `songs.parquet` (`WHY_NO_PAIR`): to a pair that is sung enough."""
    reasons: Counter[str] = Counter()
    for row in rows:
        if row["status"] == Status.OK and not row["pairs"]:
            shares = [share for share in row["vocal_shares"] if share is not None]
            unsung = "no chunk sung enough" if shares and max(shares) < least else "no pair in the index"
            reasons[" ".join(row["message"].split())[:LONGEST_REASON] or unsung] += 1
    lost = dict(reasons.most_common(MOST_REASONS))
    if others := reasons.total() - sum(lost.values()):
        lost["other reasons"] = others
    return step_row("in the dataset", sum(bool(row["pairs"]) for row in rows), lost)


def overview(popdb: "Popdb") -> str:
    """A page about a dataset. Much of it may be anybody's text: print it as `plain`."""
    from samuel.popdb.writer import share_histogram

    info, songs, shares = popdb.info, popdb.songs().to_pylist(), popdb.vocal_shares()
    bins: list[Row] = [dict(zip(("sung", "chunks", ""), row, strict=True)) for row in share_histogram(shares)]
    figures: list[dict[str, str]] = []
    for stream, of in popdb.stats.items():
        mean, std = (f"{np.mean(of[k]):.2f} ({min(of[k]):.2f} to {max(of[k]):.2f})" for k in ("mean", "std"))
        figures.append({"latents": stream, "range": f"mean {mean}, deviation {std}"})
    searched = any(row["video_id"] or row["candidates"] or row["stage"] in SEARCHES for row in songs)
    steps = _steps([(row["stage"], row["status"]) for row in songs], searched=searched)
    last = step_into_dataset(songs, info["settings"]["min_vocal_share"])
    return Template(Path(__file__).with_name("overview.txt.j2").read_text("utf-8")).render(
        popdb=popdb,
        info=info,
        pair_s=popdb.codec.duration_s(info["chunk_frames"]),
        megabytes=sum(file["bytes"] for file in info["files"].values()) / 1e6,
        mean_share=np.mean(shares) if shares else None,
        bins=text_of(bins),
        figures=text_of(figures),
        funnel=text_of([*steps, last]),
    )
