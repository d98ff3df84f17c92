"""The disk space that a run will add, told from the list before anything is downloaded.

The estimate is cautious: every song is taken to be found and to pass every stage. What is done already is
known by counting the entries of each stage, each as a song of mean length. They may be of other songs or
settings: then more is needed than this says, and the run stops where the disk is full.
"""

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
# Two streams of 64 float16 channels, a frame to 2048 samples: numbers here, for a run that only downloads
# has no need of torch, which samuel.codecs brings.
LATENTS_BYTES_PER_S = 2 * 64 * 2 * SAMPLE_RATE / 2048
TYPICAL_DURATION_S = 211.0
"""The median of the Kaggle list."""
# What is removed lies there from a song's download to the end of its encoding. The flow takes three tasks at
# a time, in the order submitted: at most so many groups of songs are between the two.
GROUPS_IN_HAND = 5


@dataclass(frozen=True)
class Need:
    """What a run will add to one folder, at most at a time.

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

    Synthetic songs and files at hand lie where they lie already: only their copies in `data/raw` count.

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
    durations_s, data, in_hand = _durations_s(songs, settings), settings.data, GROUPS_IN_HAND * group
    audio = _kept("audio", data / "raw", AUDIO_BYTES_PER_S, durations_s)
    stems = _kept("stems", data / "stems", STEMS_BYTES_PER_S, durations_s)
    needs = [
        _removed(audio, AUDIO_BYTES_PER_S, durations_s, in_hand, settings.retention.audio),
        _removed(stems, STEMS_BYTES_PER_S, durations_s, in_hand, settings.retention.stems),
        _kept("latents", data / "latents", LATENTS_BYTES_PER_S, durations_s),
        *_shards(settings.popdb_path, durations_s),
    ]
    if settings.retention.check_space:
        _check(needs)
    return needs


def require_audio_space(songs: Sequence[Song], settings: Settings) -> list[Need]:
    """As `require_space`, for a run that only downloads: all audio stays, whatever the settings let go."""
    durations_s = _durations_s(songs, settings)
    needs = [_kept("audio", settings.data / "raw", AUDIO_BYTES_PER_S, durations_s)]
    if settings.retention.check_space:
        _check(needs)
    return needs


def _durations_s(songs: Sequence[Song], settings: Settings) -> list[float]:
    longest_s = settings.download.max_duration_s
    typical_s = min(TYPICAL_DURATION_S, longest_s)
    durations_s = [song.duration_s or _duration_of_file_s(song.url) or typical_s for song in songs]
    return [duration_s for duration_s in durations_s if duration_s <= longest_s]


def _duration_of_file_s(url: str | None) -> float | None:
    """What the header of a file at hand states; None for an MP3, an M4A and what else has no such header."""
    if url is None or url.lower().endswith(".mp3"):  # libsndfile writes to the terminal what is wrong in one
        return None
    try:
        return soundfile.info(os.fsdecode(unquote_to_bytes(urlsplit(url).path))).duration
    except soundfile.LibsndfileError:
        return None


def _kept(name: str, folder: Path, bytes_per_s: float, durations_s: Sequence[float]) -> Need:
    """What songs without an entry in `folder` will add; one whose files were removed is not made again."""
    if not durations_s:
        return Need(name, folder, 0)
    entries = sum(1 for _ in folder.glob(f"[!.]*/{MANIFEST}"))
    share_left = max(0, len(durations_s) - entries) / len(durations_s)
    return Need(name, folder, round(bytes_per_s * sum(durations_s) * share_left))


def _removed(
    need: Need, bytes_per_s: float, durations_s: Sequence[float], in_hand: int, retention: str
) -> Need:
    """`need` where files go once they are spent, or with what that would spare."""
    ends_s = [0.0, *accumulate(durations_s)]
    starts_s = [0.0] * in_hand + ends_s
    in_hand_s = max(end_s - start_s for start_s, end_s in zip(starts_s, ends_s, strict=False))
    n_bytes = min(need.n_bytes, round(bytes_per_s * in_hand_s))
    if retention == "remove":
        return replace(need, n_bytes=n_bytes)
    return replace(need, spared_bytes=need.n_bytes - n_bytes)


def _shards(root: Path | str, durations_s: Sequence[float]) -> list[Need]:
    if isinstance(root, str):  # a URL: what is free there is not known
        return []
    there = sum(path.stat().st_size for path in (root / "shards").glob("*.safetensors"))
    return [Need("shards", root, max(0, round(LATENTS_BYTES_PER_S * sum(durations_s)) - there))]


def _check(needs: Sequence[Need]) -> None:
    disks: dict[int, list[Need]] = {}
    for need in needs:
        disks.setdefault(_device_of(need.folder), []).append(need)
    short = [complaint for disk in disks.values() if (complaint := _complaint(disk))]
    if short:
        raise OperatorError("\n".join(short))


def _complaint(disk: Sequence[Need]) -> str:
    """Why what is needed on one disk does not fit, and the remedies; empty where it does."""
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
