"""A folder of vocals → a folder of accompaniments by one system, which says of itself how they were made.

`system.json` is written before the first track and after every other, whole each time: a run that was ended
goes on where it stopped. A track is there when its file has the bytes that the record states, and the vocal
those that it was made from.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Protocol,
)

import numpy as np
import torch

from samuel.artifacts import (
    digest,
    locked,
    read_json,
    sha256,
    write_json,
)
from samuel.audio import SAMPLE_RATE, Audio, read_wav
from samuel.checkpoint import TrainedModel
from samuel.codecs.base import Codec
from samuel.config import BaselineConfig, SamplingConfig
from samuel.errors import InputError
from samuel.generate.accompany import accompany
from samuel.generate.output import (
    LONGEST_ADDITION,
    no_space_told,
    write_accompaniment,
    write_limited,
)
from samuel.generate.vocal import vocal_of
from samuel.popdb.songs import AUDIO_SUFFIXES

# What a system must be able to do, and the settings that the paper's baselines share.


DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Renderer(Protocol):
    """A system, loaded and ready.

    Attributes:
        name: What reports call it.
        model: The hub's repository, or the name of the folder, that its weights are from.
        parameters: Of the network that writes latents or tokens, without codec and text encoder: as the
            paper counts SAMUeL's 15 M and MusicGen's 3.3 B.
        conditioning: What it hears or reads: "vocal", "text", "vocal, text".
        settings: Everything else that determines its audio, the weights' digest and the base seed included
            (JSON).
        seed: The base seed.
        device: Where it computes.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - the attributes above
    @property
    def model(self) -> str: ...  # noqa: D102
    @property
    def parameters(self) -> int: ...  # noqa: D102
    @property
    def conditioning(self) -> str: ...  # noqa: D102
    @property
    def settings(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def device(self) -> torch.device: ...  # noqa: D102

    def render(self, vocal: Audio, seed: int) -> Audio:
        """An accompaniment, about as long as the vocal.

        Args:
            vocal: (2, S) float32 at 44.1 kHz, S at least 1.
            seed: The same seed and vocal give the same samples on the same machine.

        Returns:
            (2, S') float32 at 44.1 kHz; it may pass full scale.

        Raises:
            InputError: The system cannot do it for this vocal.
        """
        ...


def precision_on(config: BaselineConfig, device: torch.device) -> str:
    """The precision that `auto` stands for on a device."""
    if config.precision != "auto":
        return config.precision
    return "fp16" if device.type == "cuda" else "fp32"


def track_seed(seed: int, track: str) -> int:
    """The seed of one track, below 2³²: whichever tracks are rendered besides, and in whatever order.

    With one seed for all, a system that hears no vocal would write the same audio for every track.
    """
    return int(digest("track", seed, track)[:8], 16)


# Our own model, as one system among others.


@dataclass(frozen=True)
class Samuel:
    """A trained model behind the call of all systems.

    Attributes:
        model: The name of its folder.
        trained: From `load_model`.
        codec: The codec whose latents it learned.
        sampling: How it samples.
        device: Where it computes.
    """

    model: str
    trained: TrainedModel
    codec: Codec
    sampling: SamplingConfig
    device: torch.device
    name: str = "SAMUeL"
    conditioning: str = "vocal"

    @property
    def parameters(self) -> int:
        """Of the U-Net: the paper's 15 M."""
        return sum(parameter.numel() for parameter in self.trained.network.parameters())

    @property
    def seed(self) -> int:
        """The base seed."""
        return self.sampling.seed

    @property
    def settings(self) -> dict[str, Any]:
        """All that determines the audio."""
        return self.sampling.model_dump(mode="json") | {
            "codec": self.codec.identity,
            "weights": self.trained.sha256,
        }

    def render(self, vocal: Audio, seed: int) -> Audio:
        """(2, S) → (2, S): what `samuel generate --seed` writes with the same seed."""
        sampling = self.sampling.model_copy(update={"seed": seed})
        return accompany(vocal, self.trained, self.codec, sampling)


if TYPE_CHECKING:
    from samuel.evaluate.cost import Peak

ABOUT = "system.json"
IDENTITY = ("system", "model", "parameters", "conditioning", "device", "settings")
"""What the tracks of a folder have in common; the machine may change, and then both are named."""
FAULTS = (InputError, RuntimeError, ValueError)
"""Of one vocal, or of a network that cannot take it, as one too long for the memory."""
LONGEST_NAME = 255
"""Bytes, of most file systems."""
OnTrack = Callable[["Outcome"], object]


@dataclass(frozen=True)
class Outcome:
    """What became of a vocal.

    Attributes:
        vocal: Its file.
        file: The accompaniment; None where there is none.
        seconds: Rendering took so long; None where it was there already, or failed.
        message: Why there is none.
    """

    vocal: Path
    file: Path | None = None
    seconds: float | None = None
    message: str = ""


@dataclass(frozen=True)
class Vocals:
    """What a folder of vocals holds.

    Attributes:
        files: By the name of the track, in order.
        failed: What cannot be a track although it may be a vocal.
        skipped: (name, why) of what is no vocal.
    """

    files: dict[str, Path] = field(default_factory=dict)
    failed: list[Outcome] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


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
    by_name: dict[str, list[Path]] = {}
    skipped: list[tuple[str, str]] = []
    for path in sorted(folder.iterdir()):
        if reason := _no_vocal(path):
            skipped.append((path.name, reason))
        else:
            by_name.setdefault(path.stem, []).append(path)
    if not by_name:
        raise InputError(f"{folder}: holds no audio ({', '.join(AUDIO_SUFFIXES)}); put the vocals there")
    wrong = {name: fault for name, paths in by_name.items() if (fault := _no_track(name, paths))}
    return Vocals(
        {name: paths[0] for name, paths in by_name.items() if name not in wrong},
        [Outcome(path, message=fault) for name, fault in wrong.items() for path in by_name[name]],
        skipped,
    )


def render_folder(renderer: Renderer, vocals: Vocals, output: Path, on_track: OnTrack) -> list[Outcome]:
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
    with no_space_told(output):
        output.mkdir(parents=True, exist_ok=True)
        with locked(output / ABOUT):
            return list(_render(_Folder.opened(output, renderer), vocals, on_track))


def _render(folder: "_Folder", vocals: Vocals, on_track: OnTrack) -> Iterator[Outcome]:
    for outcome in vocals.failed:
        on_track(outcome)
        yield outcome
    for name, vocal in vocals.files.items():
        try:
            outcome = folder.track(name, vocal)
        except FAULTS as error:
            lines = str(error).splitlines() or [type(error).__name__]
            outcome = Outcome(vocal, message=lines[0])
        on_track(outcome)
        yield outcome


@dataclass
class _Folder:
    """The folder of one system's accompaniments, and what its `system.json` is to say."""

    path: Path
    renderer: Renderer
    about: dict[str, Any]
    peak: "Peak"
    warm: bool = False

    @classmethod
    def opened(cls, path: Path, renderer: Renderer) -> "_Folder":
        from samuel.evaluate.cost import Peak

        peak = Peak(renderer.device)
        about = _about(path, renderer) | {"memory": peak.memory}
        write_json(path / ABOUT, about)
        return cls(path, renderer, about, peak)

    def track(self, name: str, vocal: Path) -> Outcome:
        """Find or make one accompaniment."""
        file, known, digest = self.path / f"{name}.flac", self.about["tracks"].get(name), _digest(vocal)
        if known and known["vocal_sha256"] == digest and file.is_file() and sha256(file) == known["sha256"]:
            return Outcome(vocal, file)
        with tempfile.TemporaryDirectory(prefix="samuel-") as workspace:
            entry = self._make(name, vocal, file, Path(workspace))
        self.about["tracks"][name] = entry | {"sha256": sha256(file), "vocal_sha256": digest}
        self.about["peak_memory_bytes"] = _most(self.about["peak_memory_bytes"], self.peak.bytes())
        write_json(self.path / ABOUT, self.about)
        return Outcome(vocal, file, entry["seconds"])

    def _make(self, name: str, vocal: Path, file: Path, workspace: Path) -> dict[str, Any]:
        """Read, render, write; what the record says of it. Only rendering is timed."""
        voice = read_wav(vocal_of(vocal, workspace).path)
        seed = track_seed(self.renderer.seed, name)
        started = time.perf_counter()
        made = self.renderer.render(voice, seed)
        elapsed = time.perf_counter() - started
        if not np.isfinite(made).all():
            raise InputError(f"{self.renderer.name} gave samples that are no numbers; take precision fp32")
        limited = workspace / "accompaniment.wav"
        overshoot_db = write_limited(limited, [fitted(made, voice.shape[1])])
        write_accompaniment(file, limited)
        first, self.warm = not self.warm, True
        return {
            "file": file.name,
            "seed": seed,
            "seconds": round(elapsed, 6),
            "warm_up": first,  # of this run: it may load libraries
            "duration_s": round(voice.shape[1] / SAMPLE_RATE, 6),
            "cut_s": max(0, made.shape[1] - voice.shape[1]) / SAMPLE_RATE,
            "padded_s": max(0, voice.shape[1] - made.shape[1]) / SAMPLE_RATE,
            "overshoot_db": round(overshoot_db, 2),
        }


def fitted(audio: Audio, samples: int) -> Audio:
    """(2, S') → (2, samples): cut, or with silence at its end."""
    lacking = max(0, samples - audio.shape[1])
    return np.pad(audio[:, :samples], ((0, 0), (0, lacking)))


def _no_vocal(path: Path) -> str:
    """Why an entry of a folder is passed over; empty where it is to be a vocal."""
    if path.name.startswith("."):
        return "hidden"
    if path.is_dir():
        return "a folder"
    return "" if path.suffix.lower() in AUDIO_SUFFIXES else "no audio file, by its suffix"


def _no_track(name: str, paths: list[Path]) -> str:
    """Why files of one name cannot be a track; empty where they can."""
    if len(paths) > 1:
        return (
            f"{', '.join(path.name for path in paths)}: one name, and one accompaniment; rename all but one"
        )
    if os.fsencode(name).decode(errors="replace") != name:
        return f"{os.fsencode(paths[0].name)!r}: a name that is not UTF-8; rename it"
    if len(os.fsencode(f"{name}.flac")) + LONGEST_ADDITION > LONGEST_NAME:
        return f"{name:.40}…: too long a name; rename it"
    return ""


def _digest(vocal: Path) -> str:
    if not vocal.is_file():
        raise InputError(f"{vocal}: no regular file")
    try:
        return sha256(vocal)
    except OSError as error:  # one file's, not the disk's
        raise InputError(f"{vocal}: cannot be read ({error.strerror})") from error


def _about(output: Path, renderer: Renderer) -> dict[str, Any]:
    """The record that a folder has, or the first of a new one."""
    from samuel.evaluate.cost import machine_name

    path, machine = output / ABOUT, machine_name(renderer.device)
    identity = {key: getattr(renderer, key) for key in ("model", "parameters", "conditioning", "settings")}
    identity |= {"system": renderer.name, "device": renderer.device.type}
    new = identity | {"machine": machine, "peak_memory_bytes": None, "tracks": {}}
    if not path.exists():
        if strangers := sorted(item.name for item in output.iterdir() if not item.name.startswith(".")):
            raise InputError(
                f"{output}: holds {strangers[0]!r:.120} and no {ABOUT}; give a new or empty folder"
            )
        return new
    old = _read(path)
    if differing := [line for key in IDENTITY for line in _differences(key, old.get(key), identity[key])]:
        raise InputError(
            f"{output}: holds tracks made otherwise ({'; '.join(differing)}); give another folder"
        )
    machines = dict.fromkeys([*str(old.get("machine", machine)).split("; "), machine])
    most = old.get("peak_memory_bytes")
    return new | {"machine": "; ".join(machines), "peak_memory_bytes": most, "tracks": old["tracks"]}


def _read(path: Path) -> dict[str, Any]:
    try:
        about = read_json(path)
        whole = all({"sha256", "vocal_sha256"} <= track.keys() for track in about["tracks"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: damaged; remove it and the tracks beside it, or give another folder"
        ) from error
    if not whole:
        raise InputError(f"{path}: written by something else; give another folder")
    return about


def _differences(key: str, old: Any, new: Any) -> list[str]:
    """`settings.seed: 0 there, 1 here`, for all that differs below a key."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted({*old, *new})
        return [
            line for name in names for line in _differences(f"{key}.{name}", old.get(name), new.get(name))
        ]
    return [] if old == new else [f"{key}: {old!r:.80} there, {new!r:.80} here"]


def _most(*values: int | None) -> int | None:
    return max((value for value in values if value is not None), default=None)
