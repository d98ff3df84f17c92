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

from samuel.artifacts import digest, locked, sha256, write_json
from samuel.audio import SAMPLE_RATE, Audio, read_wav
from samuel.baselines.base import Renderer
from samuel.errors import InputError
from samuel.evaluate.cost import Peak, machine_name
from samuel.evaluate.systems import ABOUT, RenderedTrack, SystemRecord, read_record
from samuel.generate.output import LONGEST_ADDITION, explain_no_space, write_accompaniment, write_limited
from samuel.generate.vocal import vocal_of
from samuel.popdb.songs import AUDIO_SUFFIXES

FAULTS = (InputError, RuntimeError, ValueError)
"""Of one vocal, or of a network that cannot take it, as one too long for the memory."""
LONGEST_NAME = 255
"""Bytes, of most file systems."""


@dataclass(frozen=True)
class Outcome:
    """Result for one vocal."""

    vocal: Path
    file: Path | None = None  # the accompaniment
    seconds: float | None = None  # of rendering; None where the file was there already, or it failed
    message: str = ""  # why there is none


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
    """The vocals of a folder, not of those below it; InputError where there can be none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of the vocals")
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: no folder; give another --output")
    if output.exists() and output.samefile(folder):
        raise InputError(f"{output}: holds the vocals, which would be written over; give another --output")
    found, by_name = Vocals(), dict[str, list[Path]]()
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            found.skipped.append((path.name, "hidden"))
        elif path.is_dir():
            found.skipped.append((path.name, "a folder"))
        elif path.suffix.lower() not in AUDIO_SUFFIXES:
            found.skipped.append((path.name, "no audio file, by its suffix"))
        else:
            by_name.setdefault(path.stem, []).append(path)
    if not by_name:
        raise InputError(f"{folder}: holds no audio ({', '.join(AUDIO_SUFFIXES)}); put the vocals there")
    for name, paths in by_name.items():
        if fault := _fault_of(name, paths):
            found.failed.extend(Outcome(path, message=fault) for path in paths)
        else:
            found.files[name] = paths[0]
    return found


def _fault_of(name: str, paths: list[Path]) -> str:
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

    One that fails stops no other. InputError where the folder holds something else, or tracks of another
    system or other settings; OperatorError where the disk is full. What is finished stays.
    """
    outcomes: list[Outcome] = []

    def report(outcome: Outcome) -> None:
        outcomes.append(outcome)
        on_track(outcome)

    with explain_no_space(output):
        output.mkdir(parents=True, exist_ok=True)
        with locked(output / ABOUT):
            peak = Peak(renderer.device)
            record = _open_record(output, renderer, peak)
            write_json(output / ABOUT, record.model_dump(mode="json"))
            for failed in vocals.failed:
                report(failed)
            for name, vocal in vocals.files.items():
                file, known = output / f"{name}.flac", record.tracks.get(name)
                warm_up = all(outcome.seconds is None for outcome in outcomes)
                try:
                    if not (vocal.is_file() and os.access(vocal, os.R_OK)):
                        raise InputError(f"{vocal}: no regular file that can be read")
                    made_from = sha256(vocal)
                    there = known and known.vocal_sha256 == made_from and file.is_file()
                    if known and there and sha256(file) == known.sha256:
                        report(Outcome(vocal, file))
                        continue
                    track = _make(renderer, name, vocal, file)
                except FAULTS as error:
                    report(Outcome(vocal, message=str(error).partition("\n")[0] or type(error).__name__))
                    continue
                record.tracks[name] = track.model_copy(update={"vocal_sha256": made_from, "warm_up": warm_up})
                most = max(record.peak_memory_bytes or 0, peak.bytes())
                record = record.model_copy(update={"peak_memory_bytes": most})
                write_json(output / ABOUT, record.model_dump(mode="json"))
                report(Outcome(vocal, file, track.seconds))
    return outcomes


def _make(renderer: Renderer, name: str, vocal: Path, file: Path) -> RenderedTrack:
    """Read, render and write; only rendering is timed."""
    seed = track_seed(renderer.seed, name)
    with tempfile.TemporaryDirectory(prefix="samuel-") as workspace:
        voice = read_wav(vocal_of(vocal, Path(workspace)).path)
        started = time.perf_counter()
        made = renderer.render(voice, seed)
        elapsed = time.perf_counter() - started
        if not np.isfinite(made).all():
            raise InputError(f"{renderer.name} gave samples that are no numbers; take precision fp32")
        lacking = voice.shape[1] - made.shape[1]
        fitted: Audio = np.pad(made[:, : voice.shape[1]], ((0, 0), (0, max(0, lacking))))
        limited = Path(workspace) / "accompaniment.wav"
        overshoot_db = write_limited(limited, [fitted])
        write_accompaniment(file, limited)
    return RenderedTrack(
        file=file.name,
        sha256=sha256(file),
        seed=seed,
        seconds=max(1e-6, round(elapsed, 6)),
        duration_s=round(voice.shape[1] / SAMPLE_RATE, 6),
        cut_s=max(0, -lacking) / SAMPLE_RATE,
        padded_s=max(0, lacking) / SAMPLE_RATE,
        overshoot_db=round(overshoot_db, 2),
    )


def _open_record(output: Path, renderer: Renderer, peak: Peak) -> SystemRecord:
    """The record that a folder has, or the first of a new one; others' folders and tracks are refused."""
    new = SystemRecord(
        system=renderer.name, device=renderer.device.type, machine=machine_name(renderer.device),
        memory=peak.memory,
        **{name: getattr(renderer, name) for name in ("model", "parameters", "conditioning", "settings")},
    )  # fmt: skip
    try:
        old = read_record(output)
    except InputError as error:
        raise InputError(f"{output}: {error}; remove it and its tracks, or give another folder") from error
    if old is None:
        if strangers := sorted(item.name for item in output.iterdir() if not item.name.startswith(".")):
            raise InputError(f"{output}: holds {strangers[0]!r:.120} and no {ABOUT}; give a new folder")
        return new
    there, here = _identity(old), _identity(new)
    if differing := [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]:
        listed = (f"{name}: {there.get(name)!r:.80} there, {here.get(name)!r:.80} here" for name in differing)
        raise InputError(f"{output}: holds tracks made otherwise ({'; '.join(listed)}); give another folder")
    machines = dict.fromkeys([*(old.machine or "").split("; "), new.machine])
    return old.model_copy(update={"machine": "; ".join(filter(None, machines)), "memory": new.memory})


def _identity(record: SystemRecord) -> dict[str, Any]:
    """All that the tracks of a folder have in common; the machine may change, and then both are named."""
    found = record.model_dump(include={"system", "model", "parameters", "conditioning", "device"})
    return found | {f"settings.{name}": value for name, value in record.settings.items()}
