"""Tracks to hear and to see: audio files beside a report, and their spectrograms in it.

The files lie as `audio/<vocal or system>/<track>.flac`, under one name for one track, so that these folders
can be given to `samuel evaluate` again.
"""

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile

from samuel.artifacts import (
    Artifact,
    find_artifact,
    locked,
    make_artifact,
    partial_folder,
    replacing,
)
from samuel.audio import (
    CHANNELS,
    SAMPLE_RATE,
    Audio,
    decode_to_wav,
    failed_write_told,
    read_blocks,
)
from samuel.errors import InputError
from samuel.report.html import bullets, plain, section
from samuel.report.plots import plot_spectrograms

AUDIO = "audio"
VOCAL, MIX = "vocal", "mix"
MOST_TRACKS = 24
PICTURE_S = 60.0
LONGEST_NAME = 100


@dataclass(frozen=True)
class Heard:
    """A track that a reader can listen to.

    Attributes:
        name: What the scores call it.
        title: For people; anybody's text.
        files: Audio of any format: `vocal`, `mix` and the systems by name.
        start_s: Where it begins in its song, where that is known.
    """

    name: str
    title: str
    files: dict[str, Path]
    start_s: float | None = None


@dataclass(frozen=True)
class Written:
    """A track whose audio was written.

    Attributes:
        track: It.
        slug: Its name as a file name.
        links: Path of each FLAC in the folder, with forward slashes.
        faults: Why there is none of the others.
    """

    track: Heard
    slug: str
    links: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


def write_with_audio(
    folder: Path, tracks: Sequence[Heard], write: Callable[[Path, Path, list[Written]], dict[str, Any]]
) -> Artifact:
    """The entry of a report with its audio, made where it or some of the audio is not there.

    Args:
        folder: Where it lies.
        tracks: What can be heard in it.
        write: Given the entry's folder, the one that holds `audio/` until then, and the tracks, it writes the
            report and gives its record.
    """
    gathered = partial_folder(folder)
    with locked(gathered):
        entry = find_artifact(folder)
        if entry and _all_there(entry):
            return entry
        written = write_tracks(tracks, gathered)
        entry = make_artifact(
            folder, lambda target: write(target, gathered, written) | {AUDIO: _sizes(gathered, written)}
        )
        shutil.rmtree(folder / AUDIO, ignore_errors=True)
        if (gathered / AUDIO).is_dir():
            (gathered / AUDIO).replace(folder / AUDIO)
        shutil.rmtree(gathered, ignore_errors=True)
        return entry


def write_tracks(tracks: Sequence[Heard], folder: Path) -> list[Written]:
    """Write every track's audio below `folder`; what cannot be read is named and left out."""
    slugs = dict(
        zip((track.name for track in tracks), file_names(track.name for track in tracks), strict=True)
    )
    owners = list(dict.fromkeys(owner for track in tracks for owner in track.files))
    places = dict(zip(owners, file_names(owner.lower() for owner in owners), strict=True))
    written = [Written(track, slugs[track.name]) for track in tracks]
    for item in written:
        for owner, source in item.track.files.items():
            link = f"{AUDIO}/{places[owner]}/{item.slug}.flac"
            try:
                write_audio(source, folder / link)
            except InputError as error:
                item.faults[owner] = str(error)
            else:
                item.links[owner] = link
    return written


def write_audio(source: Path, target: Path) -> None:
    """Write any audio file as FLAC, 44.1 kHz stereo of 16 bits, in little memory; what is there stays.

    Raises:
        InputError: It is missing or holds no audio.
    """
    if target.is_file():
        return
    if not source.is_file():
        raise InputError(f"{source}: no such file")
    with TemporaryDirectory() as workspace, replacing(target) as temporary:
        wav = source
        if not _is_ours(source):
            decode_to_wav(source, wav := Path(workspace) / "decoded.wav")
        with failed_write_told(target):
            _write_flac(wav, temporary)


def _write_flac(wav: Path, target: Path) -> None:
    with soundfile.SoundFile(target, "w", SAMPLE_RATE, CHANNELS, "PCM_16", format="FLAC") as flac:
        for block in read_blocks(wav):
            flac.write(np.nan_to_num(block).T)  # clipped by libsndfile
        samples = flac.frames
    with soundfile.SoundFile(target) as flac:  # which closes what a full disk cut off without a word
        flac.seek(max(0, samples - 1))
        flac.read(1)


def track_section(written: Written, audio: Path, target: Path) -> str:
    """Title, players and spectrograms of a track, as Markdown; the picture goes into `target`.

    Args:
        written: The track.
        audio: The folder that its links start from.
        target: The report's.
    """
    track = written.track
    place = "" if track.start_s is None else f", from {track.start_s:.1f} s"
    name = plain(track.name) if track.name != track.title else ""
    links = [f"[{plain(owner)}]({link})" for owner, link in written.links.items()]
    picture = _picture(written, audio, target)
    faults = [f"**{plain(owner)}**: {plain(fault)}" for owner, fault in written.faults.items()]
    return section(
        f"### {plain(track.title) or '–'}{place}", name, bullets(links), picture, bullets(faults)
    )  # fmt: skip


def file_names(texts: Iterable[str]) -> list[str]:
    """Texts that may be anybody's as names of files or folders, in order, no two of them the same.

    Plain letters, digits, `_`, `.` and `-`, and no dot or hyphen at the start; alike in no file system.
    """
    names: list[str] = []
    taken: set[str] = set()
    for text in texts:
        stem = re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-.")[:LONGEST_NAME] or "track"
        name, count = stem, 1
        while name.lower() in taken:
            count += 1
            name = f"{stem}-{count}"
        taken.add(name.lower())
        names.append(name)
    return names


def _picture(written: Written, audio: Path, target: Path) -> str:
    shown = {owner: link for owner, link in written.links.items() if owner != MIX}
    if not shown:
        return ""
    name = f"spectrogram-{written.slug}.png"
    stems = {owner: _beginning(audio / link) for owner, link in shown.items()}
    plot_spectrograms(stems, written.track.title, target / name)
    return f"![Spectrograms]({name})"


def _beginning(flac: Path) -> Audio:
    samples, _ = soundfile.read(flac, frames=round(PICTURE_S * SAMPLE_RATE), dtype="float32", always_2d=True)
    return np.ascontiguousarray(samples.T, dtype=np.float32)


def _is_ours(source: Path) -> bool:
    """True for a WAV that soundfile reads as it is; anything else is for ffmpeg to judge."""
    try:
        info = soundfile.info(source)
    except soundfile.LibsndfileError:
        return False
    return (info.format, info.samplerate, info.channels) == ("WAV", SAMPLE_RATE, CHANNELS)


def _sizes(folder: Path, written: Sequence[Written]) -> dict[str, int]:
    return {link: (folder / link).stat().st_size for item in written for link in item.links.values()}


def _all_there(entry: Artifact) -> bool:
    files = entry.record.get(AUDIO, {})
    return all(
        (path := entry.path(link)).is_file() and path.stat().st_size == size for link, size in files.items()
    )
