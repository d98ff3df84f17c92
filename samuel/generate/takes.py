"""A vocal on disk → takes on disk: accompaniment, mix, and how they were made.

A take is whole once its record is there. Shapes: (1, C, T) latents.
"""

import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samuel import __version__
from samuel.artifacts import fsync, read_json, sha256, write_json
from samuel.audio import SAMPLE_RATE, Audio
from samuel.checkpoint import TrainedModel
from samuel.codecs.base import HOP, Codec, decode_windows
from samuel.config import SamplingConfig
from samuel.errors import InputError
from samuel.generate.accompany import accompany_latents, encoded, require_codec
from samuel.generate.output import (
    BALANCE_DB,
    balance_of,
    no_space_told,
    require_writable,
    write_accompaniment,
    write_limited,
    write_mix,
)
from samuel.generate.vocal import Vocal, vocal_from_mix, vocal_of
from samuel.model.inpaint import Kept
from samuel.separators import Separator

# Seconds of an existing accompaniment that stay while the rest is written anew.
#
# Shapes: (2, S) audio at 44.1 kHz; (1, C, T) latents.


FADE_S = 0.02
"""At either end of what stays, from the new samples to the old ones: long enough not to click."""
LEAST_S = 0.1
"""Of a range: a frame of the codec, 46 ms, lies in it wherever it begins, and the fades leave something."""
RANGE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*-\s*(\d+(?:\.\d+)?)?\s*")

Range = tuple[float, float]
"""From and to, in seconds; inf: to the end."""


@dataclass(frozen=True)
class Keep:
    """What to keep.

    Attributes:
        accompaniment: The existing one, any audio file, as long as the vocal or longer.
        ranges_s: Which seconds of it.
    """

    accompaniment: Path
    ranges_s: tuple[Range, ...]


def ranges_of(text: str) -> tuple[Range, ...]:
    """Ranges as people write them: "0-12.5, 30-" are two, the second to the end.

    Raises:
        InputError: It is something else, or a range ends before it begins.
    """
    found = [RANGE.fullmatch(part) for part in text.split(",")]
    ranges = tuple((float(m[1]), float(m[2] or math.inf)) for m in found if m)
    if len(ranges) < len(found) or any(start >= stop for start, stop in ranges):
        raise InputError(f"{text!r:.80}: no ranges of seconds; write them as 0-12.5,30-")
    return ranges


def settled(ranges: Sequence[Range], duration_s: float) -> tuple[Range, ...]:
    """The ranges in order; those that touch are one, and one that reaches the end of the vocal has none.

    Raises:
        InputError: One begins after the end of the vocal, or is too short to hold a frame between its fades.
    """
    merged: list[Range] = []
    for start, stop in sorted(ranges):
        if start >= duration_s:
            raise InputError(f"nothing to keep from {start:g} s on: the vocal ends before")
        end = math.inf if stop >= duration_s else stop
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    for start, stop in merged:
        if min(stop, duration_s) - start < LEAST_S:
            raise InputError(f"{start:g}-{stop:g}: too short to keep; give at least {LEAST_S:g} s")
    return tuple(merged)


def kept_latents(old: Vocal, ranges: Sequence[Range], codec: Codec, vocal: Vocal, frames: int) -> Kept:
    """What stays, for the model: frames that lie in a range as a whole.

    Args:
        old: The existing accompaniment.
        ranges: Which seconds of it stay, `settled`.
        codec: The codec at hand.
        vocal: The vocal it is for.
        frames: Latent frames of the vocal, T.

    Raises:
        InputError: It is shorter than the vocal.
    """
    if old.samples < vocal.samples:
        raise InputError(
            f"the accompaniment to keep lasts {old.samples / SAMPLE_RATE:.2f} s, the vocal"
            f" {vocal.samples / SAMPLE_RATE:.2f} s; give the one that was made for this vocal"
        )
    first = torch.arange(frames, dtype=torch.float64) * HOP / SAMPLE_RATE
    last = first + HOP / SAMPLE_RATE
    inside = [(first >= start) & (last <= stop) for start, stop in ranges]
    return Kept(encoded(old, codec, frames)[..., :frames], torch.stack(inside).any(dim=0))


def pasted(blocks: Iterable[Audio], old: Vocal, ranges: Sequence[Range]) -> Iterator[Audio]:
    """The new accompaniment, block by block, with the old samples themselves where they stay."""
    place = 0
    for block in blocks:
        stop = place + block.shape[1]
        share = _share(np.arange(place, stop), ranges)
        yield (
            (share * old.read(place, stop) + (1 - share) * block).astype(np.float32) if share.any() else block
        )
        place = stop


def _share(samples: NDArray[np.int64], ranges: Sequence[Range]) -> NDArray[np.float64]:
    """Of the old accompaniment at each of these samples, 0 to 1; it fades inside the ranges."""
    middle = (samples + 0.5) / SAMPLE_RATE
    shares = [
        # From the very beginning, or to the end, there is nothing to fade from.
        np.minimum(math.inf if start == 0 else middle - start, stop - middle) / FADE_S
        for start, stop in ranges
    ]
    return np.clip(np.max(shares, axis=0), 0.0, 1.0)


# What is asked of `generate`, and where it goes.


MOST_TAKES = 100


@dataclass(frozen=True)
class Request:
    """What is wanted.

    Attributes:
        vocal: Any audio file.
        output: The accompaniment, `.wav` or `.flac`.
        sampling: Sampler, steps, guidance and seed.
        takes: How many, with the seeds that follow.
        length_s: Only so much from the beginning; none: all of it.
        separator: What takes the vocals out first, where `vocal` is a whole song.
        balance_db: Loudness of the vocal over that of the accompaniment in the mix.
        keep: Seconds of an existing accompaniment that stay.
    """

    vocal: Path
    output: Path
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    takes: int = 1
    length_s: float | None = None
    separator: Separator | None = None
    balance_db: float = BALANCE_DB
    keep: Keep | None = None

    def places(self) -> "list[Take]":
        """Where the takes go, in the order of their seeds."""
        numbers = [""] if self.takes == 1 else [f"-{number}" for number in range(1, self.takes + 1)]
        return [
            Take(
                accompaniment=self.output.with_stem(f"{self.output.stem}{number}"),
                mix=self.output.with_stem(f"{self.output.stem}{number}-mix"),
                record=self.output.with_name(f"{self.output.stem}{number}.json"),
                # Seeds wrap around: the last one there is has a successor too.
                seed=(self.sampling.seed + i) % 2**32,
            )
            for i, number in enumerate(numbers)
        ]

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            InputError: Too many takes, no balance, or an output that is read.
        """
        if not 1 <= self.takes <= MOST_TAKES:
            raise InputError(f"{self.takes} takes: ask for 1 to {MOST_TAKES}")
        if not -60 <= self.balance_db <= 60:
            raise InputError(f"a balance of {self.balance_db} dB: give -60 to 60")
        read = [self.vocal, *([self.keep.accompaniment] if self.keep else [])]
        for take in self.places():
            for place in (take.accompaniment, take.mix):
                if any(place.exists() and path.exists() and place.samefile(path) for path in read):
                    raise InputError(f"{place}: would be written over what is read; give another output")


@dataclass(frozen=True)
class Take:
    """A finished accompaniment.

    Attributes:
        accompaniment: As long as the vocal, 24 bits, 44.1 kHz.
        mix: Both together.
        record: JSON: seed, settings, digest of the checkpoint, levels.
        seed: Of its noise.
    """

    accompaniment: Path
    mix: Path
    record: Path
    seed: int

    def within(self, folder: Path) -> "Take":
        """The same names in another folder."""
        accompaniment, mix, record = (
            folder / path.name for path in (self.accompaniment, self.mix, self.record)
        )
        return Take(accompaniment, mix, record, self.seed)

    def require_room(self) -> None:
        """Refuse to take the place of what was not asked to go: only OUTPUT itself was named.

        Raises:
            InputError: A file that is no take of ours stands where the mix or the record is to go.
            OperatorError: Nothing can be written there.
        """
        require_writable(self.accompaniment)
        require_writable(self.mix)
        ours = _is_record(self.record)
        if (self.record.exists() and not ours) or (self.mix.exists() and not ours):
            culprit = self.record if self.record.exists() else self.mix
            raise InputError(
                f"{culprit}: is there, and of no earlier take; move it away, or give another output"
            )


def _is_record(path: Path) -> bool:
    try:
        return "samuel" in read_json(path)
    except (OSError, ValueError, TypeError):
        return False


OnProgress = Callable[[str, int, int], object]
"""(what: "separate", "encode", "sample", "decode" or "write", done, of)"""


def generate(request: Request, model: TrainedModel, codec: Codec, on_progress: OnProgress) -> list[Take]:
    """Write what is wanted; takes that are finished stay, whatever becomes of the next.

    Args:
        request: What is wanted.
        model: From `load_model`.
        codec: The codec whose latents the model learned.
        on_progress: Called as parts of the work are done.

    Raises:
        InputError: No vocal can be read, or the output cannot be written.
        CheckpointError: The model learned another codec's latents.
        OperatorError: The disk is full.
    """
    request.check()
    require_codec(model, codec)
    takes = request.places()
    for take in takes:
        take.require_room()
    with tempfile.TemporaryDirectory(prefix="samuel-") as workspace:
        job = _prepared(request, model, codec, Path(workspace), on_progress)
        for take in takes:
            job.make(take)
    return takes


def _prepared(
    request: Request, model: TrainedModel, codec: Codec, workspace: Path, on_progress: OnProgress
) -> "_Job":
    """Read, separate and encode what all takes share."""
    vocal = vocal_of(request.vocal, workspace, length_s=request.length_s)
    if request.separator is not None:
        on_progress("separate", 0, 1)
        vocal = vocal_from_mix(vocal, request.separator, workspace)
        on_progress("separate", 1, 1)
    latents = encoded(vocal, codec, model.frames, partial(on_progress, "encode"))
    kept = _kept(request.keep, codec, vocal, latents.shape[-1], workspace) if request.keep else None
    made_of = _made_of(request, model, codec, vocal, kept)
    return _Job(request, model, codec, workspace, on_progress, vocal, latents, kept, made_of)


def _kept(keep: Keep, codec: Codec, vocal: Vocal, frames: int, workspace: Path) -> "_Stays":
    ranges = settled(keep.ranges_s, vocal.samples / SAMPLE_RATE)
    (folder := workspace / "kept").mkdir()
    old = vocal_of(keep.accompaniment, folder)
    return _Stays(old, ranges, kept_latents(old, ranges, codec, vocal, frames))


def _made_of(
    request: Request, model: TrainedModel, codec: Codec, vocal: Vocal, kept: "_Stays | None"
) -> dict[str, Any]:
    """What all takes have in common, for their records."""
    return {
        "samuel": __version__,
        "torch": torch.__version__,
        "model_sha256": model.sha256,
        "codec": codec.identity,
        "vocal": {
            **_file(request.vocal),
            "duration_s": round(vocal.samples / SAMPLE_RATE, 3),
            "separator": request.separator.identity if request.separator else None,
        },
        "kept": {**_file(request.keep.accompaniment), "ranges_s": kept.as_json()}
        if request.keep and kept
        else None,
    }


def _file(path: Path) -> dict[str, str]:
    return {"file": _name(path), "sha256": sha256(path)}


def _name(path: Path) -> str:
    """A file's name as JSON can write it: names need not be UTF-8."""
    return os.fsencode(path.name).decode("utf-8", errors="replace")


@dataclass(frozen=True)
class _Stays:
    """What is kept of an existing accompaniment: its samples, the seconds, and its latents."""

    old: Vocal
    ranges_s: tuple[Range, ...]
    latents: Kept

    def as_json(self) -> list[list[float | None]]:
        """The ranges as JSON can write them: no end is null."""
        return [[start, None if stop == float("inf") else stop] for start, stop in self.ranges_s]


@dataclass(frozen=True)
class _Job:
    request: Request
    model: TrainedModel
    codec: Codec
    workspace: Path
    on_progress: OnProgress
    vocal: Vocal
    latents: Tensor
    kept: _Stays | None
    made_of: dict[str, Any]

    def make(self, take: Take) -> None:
        """Sample, decode and write one take."""
        config = self.request.sampling.model_copy(update={"seed": take.seed})
        generated = accompany_latents(
            self.latents,
            self.model,
            config,
            partial(self.on_progress, "sample"),
            self.kept.latents if self.kept else None,
        )
        decoded = self.workspace / "accompaniment.wav"
        overshoot_db = write_limited(decoded, self._decoded(generated))
        self.on_progress("write", 0, 1)
        self._write(take, config, decoded, overshoot_db)
        self.on_progress("write", 1, 1)

    def _decoded(self, latents: Tensor) -> Iterator[Audio]:
        blocks: Iterable[Audio] = decode_windows(self.codec, latents.cpu(), self.vocal.samples)
        if self.kept is not None:
            # Clipped, or else what stays would be turned down where the rest overshoots beside it.
            clipped = (np.clip(block, -1.0, 1.0) for block in blocks)
            blocks = pasted(clipped, self.kept.old, self.kept.ranges_s)
        done = 0
        for block in blocks:
            done += block.shape[1]
            yield block
            self.on_progress("decode", done, self.vocal.samples)

    def _write(self, take: Take, config: SamplingConfig, decoded: Path, overshoot_db: float) -> None:
        """All three files in a folder beside their places, and from there into these, the record last."""
        levels = balance_of(self.vocal.path, decoded, self.request.balance_db)
        record = self.made_of | {
            "files": {"accompaniment": _name(take.accompaniment), "mix": _name(take.mix)},
            "seed": take.seed,
            "sampling": config.model_dump(mode="json"),
            "overshoot_db": round(overshoot_db, 2),
            "balance": {"wanted_db": self.request.balance_db, **asdict(levels)},
        }
        beside = take.record.parent
        with no_space_told(beside), tempfile.TemporaryDirectory(dir=beside, prefix=".samuel-") as folder:
            new = take.within(Path(folder))
            write_accompaniment(new.accompaniment, decoded)
            write_mix(new.mix, self.vocal.path, decoded, levels)
            write_json(new.record, record)
            take.record.unlink(missing_ok=True)  # of an earlier take of that name, which now begins to go
            new.accompaniment.replace(take.accompaniment)
            new.mix.replace(take.mix)
            new.record.replace(take.record)
            fsync(beside)
