"""The disk space that a run will add, estimated from the list before anything is downloaded.

The estimate is cautious: every song is taken to be found and to pass every stage. What is done already is
known by counting the artifacts of each stage, each as a song of mean length. They may be of other songs or
settings: then more is needed than this says, and the run stops where the disk is full.
"""

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import soundfile

from samuel.artifacts import MANIFEST
from samuel.audio import CHANNELS, SAMPLE_RATE
from samuel.config import Settings
from samuel.errors import OperatorError
from samuel.popdb.songs import Song

logger = logging.getLogger(__name__)

AUDIO_BYTES_PER_S = CHANNELS * 4 * SAMPLE_RATE
# Both stems. With REPET a recorded song takes 362,000, the same song 12 dB louder and clipped 395,000,
# synthetic songs 328,000 to 349,000. White noise would take 472,000.
STEMS_BYTES_PER_S = 400_000
LATENTS_BYTES_PER_S = 5_512.5
"""Both streams in float16, by the paper's codec."""
TYPICAL_DURATION_S = 211.0
"""The median of the Kaggle list."""
# What is removed lies there from a song's download to the end of its encoding. The flow takes three tasks at
# a time, in the order submitted: at most so many groups of songs are between the two.
GROUPS_IN_HAND = 5


@dataclass(frozen=True)
class Need:
    """The bytes that a run will add to one folder, at most at a time.

    Attributes:
        name: audio, stems, latents or shards.
        folder: Where they go.
        n_bytes: How much.
        spared_bytes: So much less it is with `retention.<name>` = "remove", and more where groups become
            smaller by it; 0 where that is so already.
    """

    name: str
    folder: Path
    n_bytes: int
    spared_bytes: int = 0


def require_space(songs: Sequence[Song], settings: Settings, group: int) -> list[Need]:
    """Stop a run whose audio, stems, latents and shards will not find room.

    Synthetic songs and files of the user's lie there already: only their copies in `data/raw` count.

    Args:
        songs: The list. Where it states no duration the header of the file does, and else the typical one is
            taken. A song over `download.max_duration_s` is never fetched and needs nothing.
        settings: Where it goes, and what of it is kept.
        group: How many songs go through the stages together.

    Returns:
        What is needed in each folder.

    Raises:
        OperatorError: It does not fit; the message says what is needed, what is free, and what to change.
    """
    durations_s, data, retention = _durations_s(songs, settings), settings.data, settings.retention
    in_hand_s = _longest_stretch_s(durations_s, GROUPS_IN_HAND * group)
    needs: list[Need] = []
    for name, folder, bytes_per_s, kept in (
        ("audio", data / "raw", AUDIO_BYTES_PER_S, retention.audio),
        ("stems", data / "stems", STEMS_BYTES_PER_S, retention.stems),
    ):
        n_bytes = _bytes_to_come(folder, bytes_per_s, durations_s)
        in_hand = min(n_bytes, round(bytes_per_s * in_hand_s))
        needs.append(
            Need(name, folder, in_hand)
            if kept == "remove"
            else Need(name, folder, n_bytes, n_bytes - in_hand)
        )
    latents = _bytes_to_come(data / "latents", LATENTS_BYTES_PER_S, durations_s)
    needs.append(Need("latents", data / "latents", latents))
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
    longest_s = settings.download.max_duration_s
    typical_s = min(TYPICAL_DURATION_S, longest_s)
    durations_s = [song.duration_s or _duration_of_file_s(song.url) or typical_s for song in songs]
    return [duration_s for duration_s in durations_s if duration_s <= longest_s]


def _duration_of_file_s(url: str | None) -> float | None:
    """The duration that a file's header states; None for an MP3, an M4A and what else has no such header."""
    if url is None or url.lower().endswith(".mp3"):  # libsndfile writes to the terminal what is wrong in one
        return None
    try:
        return soundfile.info(os.fsdecode(unquote_to_bytes(urlsplit(url).path))).duration
    except soundfile.LibsndfileError:
        return None


def _bytes_to_come(folder: Path, bytes_per_s: float, durations_s: Sequence[float]) -> int:
    """Bytes that songs without an artifact in `folder` will add; a released one is not made again."""
    there = sum(1 for _ in folder.glob(f"[!.]*/{MANIFEST}"))
    share_left = max(0, len(durations_s) - there) / max(1, len(durations_s))
    return round(bytes_per_s * sum(durations_s) * share_left)


def _longest_stretch_s(durations_s: Sequence[float], songs: int) -> float:
    """The longest duration of so many songs in a row."""
    ends_s = [0.0, *accumulate(durations_s)]
    starts_s = [0.0] * songs + ends_s
    return max(end_s - start_s for start_s, end_s in zip(starts_s, ends_s, strict=False))


def _checked(needs: list[Need], settings: Settings) -> list[Need]:
    if settings.retention.check_space:
        disks: dict[int, list[Need]] = {}
        for need in needs:
            disks.setdefault(_device_of(need.folder), []).append(need)
        if short := [complaint for disk in disks.values() if (complaint := _complaint(disk))]:
            raise OperatorError("\n".join(short))
    return needs


def _complaint(disk: Sequence[Need]) -> str:
    """Say that what is needed on one disk does not fit, and the remedies; empty where it does."""
    needed, free = sum(need.n_bytes for need in disk), shutil.disk_usage(_existing(disk[0].folder)).free
    parts = ", ".join(f"{need.name} {_text(need.n_bytes)} in {need.folder}" for need in disk)
    line = f"needs about {_text(needed)} of disk space ({parts}), {_text(free)} free"
    logger.info(line)
    if needed <= free:
        return ""
    remedies = [
        f"set retention.{need.name} = 'remove' (at least {_text(need.spared_bytes)} less)"
        for need in disk
        if need.spared_bytes
    ]
    places = dict.fromkeys("popdb.path" if need.name == "shards" else "data" for need in disk)
    remedies += [
        "take fewer songs (songs.limit)",
        f"use another disk ({', '.join(places)})",
        "where few of the songs will be found set retention.check_space = false",
    ]
    return f"the run {line}; {', or '.join(remedies)}"


def _device_of(folder: Path) -> int:
    return _existing(folder).stat().st_dev


def _existing(folder: Path) -> Path:
    """`folder`, or the nearest above it that is there."""
    resolved = folder.resolve()
    return next(path for path in (resolved, *resolved.parents) if path.exists())


def _text(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:,.0f} MB"
