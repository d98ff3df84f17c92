"""A folder of vocals → a folder of accompaniments by one system, and a record of how they were made.

`system.json` is written before the first track and after every other, whole each time: a run that was ended
goes on where it stopped. A track is there when its file has the bytes that the record states, and the vocal
those that it was made from.
"""

import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from samuel.artifacts import digest, locked, sha256, write_json
from samuel.audio import SAMPLE_RATE, Audio
from samuel.checkpoint import TrainedModel
from samuel.codecs.base import Codec
from samuel.config import BaselineConfig, SamplingConfig
from samuel.errors import InputError
from samuel.evaluate.cost import Peak, machine_name
from samuel.evaluate.systems import ABOUT, VOCALS, RenderedTrack, SystemRecord, files_by_name, read_record
from samuel.generate import accompany
from samuel.generate.output import LONGEST_ADDITION, explain_no_space, write_accompaniment, write_limited
from samuel.generate.vocal import vocal_of
from samuel.popdb.songs import AUDIO_SUFFIXES

FAULTS = (InputError, RuntimeError, ValueError)  # of one vocal, or of a network that cannot take it
LONGEST_NAME = 255  # bytes, of most file systems


class Renderer(ABC):
    """A system, loaded and ready."""

    name: ClassVar[str]  # in reports
    conditioning: ClassVar[str]  # what it is given: "vocal", "text", "vocal, text"
    model: str  # the hub's repository, or the name of the folder, that its weights are from
    # Of the network that writes latents or tokens, without codec and text encoder: as the paper counts.
    parameters: int
    settings: dict[str, Any]  # all that determines its audio, the weights' digest and the base seed included

    def __init__(
        self, model: str, network: torch.nn.Module, config: SamplingConfig | BaselineConfig,
        device: torch.device, **identity: Any,
    ) -> None:  # fmt: skip
        self.model, self.device, self.seed = model, device, config.seed
        self.parameters = sum(parameter.numel() for parameter in network.parameters())
        self.settings = config.model_dump(mode="json") | identity

    @abstractmethod
    def render(self, vocal: Audio, seed: int) -> Audio:
        """(2, S), S at least 1, → (2, S') about as long, float32 at 44.1 kHz; it may pass full scale.

        The same seed and vocal give the same samples on the same machine. InputError where it cannot.
        """


class Samuel(Renderer):
    """A trained model of ours, with the codec whose latents it learned."""

    name = "SAMUeL"
    conditioning = "vocal"

    def __init__(
        self, model: str, trained: TrainedModel, codec: Codec, sampling: SamplingConfig, device: torch.device
    ) -> None:
        identity = {"codec": codec.info.model_dump(), "weights": trained.sha256}
        super().__init__(model, trained.network, sampling, device, **identity)
        self.trained, self.codec, self.sampling = trained, codec, sampling

    def render(self, vocal: Audio, seed: int) -> Audio:
        """(2, S) → (2, S): what `samuel generate --seed` writes with the same seed."""
        sampling = self.sampling.model_copy(update={"seed": seed})
        return accompany(vocal, self.trained, self.codec, sampling)


@dataclass(frozen=True)
class Outcome:
    """Result for one vocal."""

    vocal: Path
    file: Path | None = None  # the accompaniment
    seconds: float | None = None  # of rendering; None where the file was there already, or it failed
    message: str = ""  # why there is none


@dataclass(frozen=True)
class Vocals:
    """Tracks of a folder by name, files that cannot be tracks, and names of what is no audio."""

    files: dict[str, Path]
    failed: list[Outcome]
    skipped: list[str]


def track_seed(seed: int, track: str) -> int:
    """The seed of one track, below 2³²: with one for all, what hears no vocal would write the same audio."""
    return int(digest("track", seed, track)[:8], 16)


def vocals_in(folder: Path, output: Path) -> Vocals:
    """The vocals of a folder, not of those below it; InputError where there can be none."""
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: no folder; give another --output")
    if output.exists() and folder.exists() and output.samefile(folder):
        raise InputError(f"{output}: holds the vocals, which would be written over; give another --output")
    skipped = []

    def wanted(path: Path) -> bool:
        if not (audio := path.suffix.lower() in AUDIO_SUFFIXES):
            skipped.append(path.name)
        return audio

    files, faults = files_by_name(folder, VOCALS, wanted)
    if not files and not faults:
        raise InputError(f"{folder}: holds no audio ({', '.join(AUDIO_SUFFIXES)}); put the vocals there")
    failed = [Outcome(path, message=fault) for _, path, fault in faults]
    most = LONGEST_NAME - LONGEST_ADDITION - len(".flac")
    long = {name: path for name, path in files.items() if len(os.fsencode(name)) > most}
    failed += [
        Outcome(path, message=f"{name:.40}…: too long a name; rename it") for name, path in long.items()
    ]
    return Vocals({name: path for name, path in files.items() if name not in long}, failed, skipped)


def render_folder(
    renderer: Renderer, vocals: Vocals, output: Path, on_track: Callable[[Outcome], object]
) -> list[Outcome]:
    """Write an accompaniment for each vocal as `output`/NAME.flac, and `output`/system.json.

    A FLAC is 24 bits, 44.1 kHz, stereo, as long as its vocal to the sample: cut, or silent at its end. Where
    a system overshoots full scale, a limiter turns it down. The record says so of each track.

    One that fails stops no other; what is finished stays. InputError where the folder holds something else or
    tracks of another system or settings, OperatorError where the disk is full.
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
                    if not os.access(vocal, os.R_OK):
                        raise InputError(f"{vocal}: no file that can be read")
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
        voice = vocal_of(vocal, Path(workspace)).read_all()
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
        file=file.name, sha256=sha256(file), seed=seed, seconds=max(1e-6, round(elapsed, 6)),
        duration_s=round(voice.shape[1] / SAMPLE_RATE, 6), cut_s=max(0, -lacking) / SAMPLE_RATE,
        padded_s=max(0, lacking) / SAMPLE_RATE, overshoot_db=round(overshoot_db, 2),
    )  # fmt: skip


def _open_record(output: Path, renderer: Renderer, peak: Peak) -> SystemRecord:
    """The record that a folder has, or the first of a new one; others' folders and tracks are refused."""

    def identity(record: SystemRecord) -> dict[str, Any]:  # of all tracks; the machine may change
        found = record.model_dump(include={"system", "model", "parameters", "conditioning", "device"})
        return found | {f"settings.{name}": value for name, value in record.settings.items()}

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
    there, here = identity(old), identity(new)
    if differing := [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]:
        listed = (f"{name}: {there.get(name)!r:.80} there, {here.get(name)!r:.80} here" for name in differing)
        raise InputError(f"{output}: holds tracks made otherwise ({'; '.join(listed)}); give another folder")
    machines = dict.fromkeys([*(old.machine or "").split("; "), new.machine])
    return old.model_copy(update={"machine": "; ".join(filter(None, machines)), "memory": new.memory})
