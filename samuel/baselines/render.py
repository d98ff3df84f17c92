"""A folder of vocals → a folder of accompaniments by one system, and a record of how they were made.

`system.json` is written before the first track and after every other, whole each time: a run that was ended
goes on where it stopped. A track is there when its file has the bytes that the record states, and the vocal
those that it was made from.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from samuel.artifacts import digest, locked, sha256, write_json
from samuel.audio import SAMPLE_RATE, Audio, read_wav
from samuel.baselines.base import Renderer
from samuel.errors import InputError
from samuel.evaluate.cost import Peak, machine_name
from samuel.generate.output import LONGEST_ADDITION, explain_no_space, write_accompaniment, write_limited
from samuel.generate.vocal import vocal_of
from samuel.popdb.songs import AUDIO_SUFFIXES

ABOUT = "system.json"
FAULTS = (InputError, RuntimeError, ValueError)
"""Of one vocal, or of a network that cannot take it, as one too long for the memory."""
LONGEST_NAME = 255
"""Bytes, of most file systems."""
MOST_BYTES = 2**26
"""Of a `system.json`: the record of 100,000 tracks."""


class TrackRecord(BaseModel):
    """Record of a track. `seconds` are of rendering alone; the first of a run may load libraries."""

    model_config = ConfigDict(extra="forbid", strict=True)

    file: str
    sha256: str
    vocal_sha256: str
    seed: int
    seconds: float
    warm_up: bool
    duration_s: float
    cut_s: float
    padded_s: float
    overshoot_db: float


class SystemRecord(BaseModel):
    """Content of `system.json`: how the tracks of a folder were made, and what they cost."""

    model_config = ConfigDict(extra="forbid", strict=True)

    system: str
    model: str
    parameters: int
    conditioning: str
    settings: dict[str, Any]
    device: str
    machine: str
    memory: str
    peak_memory_bytes: int | None = None
    tracks: dict[str, TrackRecord] = {}

    def identity(self) -> dict[str, Any]:
        """All that the tracks of a folder have in common; the machine may change, and then both are named."""
        found = self.model_dump(include={"system", "model", "parameters", "conditioning", "device"})
        return found | {f"settings.{name}": value for name, value in self.settings.items()}


@dataclass(frozen=True)
class Outcome:
    """Result for one vocal.

    Attributes:
        vocal: Its file.
        file: The accompaniment; None where there is none.
        seconds: How long rendering took; None where the file was there already, or it failed.
        message: Why there is none.
    """

    vocal: Path
    file: Path | None = None
    seconds: float | None = None
    message: str = ""


@dataclass(frozen=True)
class Vocals:
    """Tracks of a folder by name, files that cannot be tracks, and (name, why) of what is no vocal."""

    files: dict[str, Path] = field(default_factory=dict)
    failed: list[Outcome] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def track_seed(seed: int, track: str) -> int:
    """The seed of one track, below 2³²: whichever tracks are rendered besides, and in whatever order.

    With one seed for all, a system that hears no vocal would write the same audio for every track.
    """
    return int(digest("track", seed, track)[:8], 16)


def vocals_in(folder: Path, output: Path) -> Vocals:
    """The vocals of a folder, not of those below it.

    Raises:
        InputError: It is no folder, holds no audio, or is where the accompaniments are to go.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of the vocals")
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: no folder; give another --output")
    if output.exists() and output.samefile(folder):
        raise InputError(f"{output}: holds the vocals, which would be written over; give another --output")
    found, by_name = Vocals(), dict[str, list[Path]]()
    for path in sorted(folder.iterdir()):
        if reason := _no_vocal(path):
            found.skipped.append((path.name, reason))
        else:
            by_name.setdefault(path.stem, []).append(path)
    if not by_name:
        raise InputError(f"{folder}: holds no audio ({', '.join(AUDIO_SUFFIXES)}); put the vocals there")
    for name, paths in by_name.items():
        if fault := _no_track(name, paths):
            found.failed.extend(Outcome(path, message=fault) for path in paths)
        else:
            found.files[name] = paths[0]
    return found


def _no_vocal(path: Path) -> str:
    """Reason to pass over an entry of a folder; empty where it is to be a vocal."""
    if path.name.startswith("."):
        return "hidden"
    if path.is_dir():
        return "a folder"
    return "" if path.suffix.lower() in AUDIO_SUFFIXES else "no audio file, by its suffix"


def _no_track(name: str, paths: list[Path]) -> str:
    """Reason why files of one name cannot be a track; empty where they can."""
    if len(paths) > 1:
        listed = ", ".join(path.name for path in paths)
        return f"{listed}: one name, and one accompaniment; rename all but one"
    if os.fsencode(name).decode(errors="replace") != name:
        return f"{os.fsencode(paths[0].name)!r}: a name that is not UTF-8; rename it"
    if len(os.fsencode(f"{name}.flac")) + LONGEST_ADDITION > LONGEST_NAME:
        return f"{name:.40}…: too long a name; rename it"
    return ""


def render_folder(
    renderer: Renderer, vocals: Vocals, output: Path, on_track: Callable[[Outcome], object]
) -> list[Outcome]:
    """Write an accompaniment for each vocal as `output`/NAME.flac, and `output`/system.json.

    A FLAC is 24 bits, 44.1 kHz, stereo, as long as its vocal to the sample: cut, or silent at its end. Where
    a system overshoots full scale, a limiter turns it down. The record says so of each track.

    Args:
        renderer: The system.
        vocals: From `vocals_in`.
        output: The folder; new, empty, or one that this function began.
        on_track: Called with each outcome as it is known.

    Returns:
        The outcomes, in the order of the names; one that failed stopped no other.

    Raises:
        InputError: The folder holds something else, or tracks of another system or other settings.
        OperatorError: The disk is full, or nothing can be written there. What is finished stays.
    """
    outcomes: list[Outcome] = []
    with explain_no_space(output):
        output.mkdir(parents=True, exist_ok=True)
        with locked(output / ABOUT):
            rendering = _Rendering(renderer, output)
            for failed in vocals.failed:
                outcomes.append(failed)
                on_track(failed)
            for name, vocal in vocals.files.items():
                outcomes.append(rendering.outcome(name, vocal))
                on_track(outcomes[-1])
    return outcomes


class _Rendering:
    """One run over a folder, and the record that it keeps there."""

    def __init__(self, renderer: Renderer, output: Path) -> None:
        self.renderer, self.output, self.peak, self.warm = renderer, output, Peak(renderer.device), False
        self.record = _open_record(output, renderer, self.peak)
        self.save()

    def save(self) -> None:
        write_json(self.output / ABOUT, self.record.model_dump(mode="json"))

    def outcome(self, name: str, vocal: Path) -> Outcome:
        """Find or make one accompaniment, or say why there is none."""
        file, known = self.output / f"{name}.flac", self.record.tracks.get(name)
        try:
            digest = _vocal_digest(vocal)
            if known and known.vocal_sha256 == digest and file.is_file() and sha256(file) == known.sha256:
                return Outcome(vocal, file)
            track = self._make(name, vocal, digest, file)
        except FAULTS as error:
            lines = str(error).splitlines() or [type(error).__name__]
            return Outcome(vocal, message=lines[0])
        peaks = (self.record.peak_memory_bytes, self.peak.bytes())
        self.record.peak_memory_bytes = max((peak for peak in peaks if peak is not None), default=None)
        self.record.tracks[name] = track
        self.save()
        return Outcome(vocal, file, track.seconds)

    def _make(self, name: str, vocal: Path, digest: str, file: Path) -> TrackRecord:
        """Read, render and write; only rendering is timed."""
        seed = track_seed(self.renderer.seed, name)
        with tempfile.TemporaryDirectory(prefix="samuel-") as workspace:
            voice = read_wav(vocal_of(vocal, Path(workspace)).path)
            started = time.perf_counter()
            made = self.renderer.render(voice, seed)
            elapsed = time.perf_counter() - started
            if not np.isfinite(made).all():
                raise InputError(
                    f"{self.renderer.name} gave samples that are no numbers; take precision fp32"
                )
            limited = Path(workspace) / "accompaniment.wav"
            overshoot_db = write_limited(limited, [fitted(made, voice.shape[1])])
            write_accompaniment(file, limited)
        warm_up, self.warm = not self.warm, True
        return TrackRecord(
            file=file.name,
            sha256=sha256(file),
            vocal_sha256=digest,
            seed=seed,
            seconds=round(elapsed, 6),
            warm_up=warm_up,
            duration_s=round(voice.shape[1] / SAMPLE_RATE, 6),
            cut_s=max(0, made.shape[1] - voice.shape[1]) / SAMPLE_RATE,
            padded_s=max(0, voice.shape[1] - made.shape[1]) / SAMPLE_RATE,
            overshoot_db=round(overshoot_db, 2),
        )


def fitted(audio: Audio, samples: int) -> Audio:
    """(2, S') → (2, samples): cut, or with silence at its end."""
    lacking = max(0, samples - audio.shape[1])
    return np.pad(audio[:, :samples], ((0, 0), (0, lacking)))


def _vocal_digest(vocal: Path) -> str:
    if not vocal.is_file():
        raise InputError(f"{vocal}: no regular file")
    try:
        return sha256(vocal)
    except OSError as error:  # one file's, not the disk's
        raise InputError(f"{vocal}: cannot be read ({error.strerror})") from error


def _open_record(output: Path, renderer: Renderer, peak: Peak) -> SystemRecord:
    """The record that a folder has, or the first of a new one.

    Raises:
        InputError: The folder holds other files, a record of another kind, or tracks made otherwise.
    """
    path = output / ABOUT
    new = SystemRecord(
        system=renderer.name, device=renderer.device.type, machine=machine_name(renderer.device),
        memory=peak.memory,
        **{name: getattr(renderer, name) for name in ("model", "parameters", "conditioning", "settings")},
    )  # fmt: skip
    if not path.exists():
        if strangers := sorted(item.name for item in output.iterdir() if not item.name.startswith(".")):
            raise InputError(
                f"{output}: holds {strangers[0]!r:.120} and no {ABOUT}; give a new or empty folder"
            )
        return new
    try:
        with path.open("rb") as file:
            old = SystemRecord.model_validate_json(file.read(MOST_BYTES))
    except ValidationError as error:
        raise InputError(
            f"{path}: damaged, or written by something else; remove it and the tracks beside it, or give"
            " another folder"
        ) from error
    there, here = old.identity(), new.identity()
    if differing := [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]:
        listed = (f"{name}: {there.get(name)!r:.80} there, {here.get(name)!r:.80} here" for name in differing)
        raise InputError(f"{output}: holds tracks made otherwise ({'; '.join(listed)}); give another folder")
    machines = dict.fromkeys([*old.machine.split("; "), new.machine])
    return old.model_copy(update={"machine": "; ".join(machines), "memory": new.memory})
