"""A vocal on disk → takes on disk: accompaniment, mix, and the record of how they were made.

A take is whole once its record is there. Shapes: (2, S) audio at 44.1 kHz; (1, C, T) latents.
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

from samuel import __version__
from samuel.artifacts import fsync, read_json, sha256, write_json
from samuel.audio import SAMPLE_RATE, Audio
from samuel.checkpoint import TrainedModel
from samuel.codecs.base import Codec, decode_windows
from samuel.config import SamplingConfig
from samuel.errors import InputError
from samuel.generate.accompany import accompany_latents, require_codec
from samuel.generate.output import (
    BALANCE_DB,
    balance_of,
    explain_no_space,
    require_writable,
    write_accompaniment,
    write_limited,
    write_mix,
)
from samuel.generate.vocal import Vocal, vocal_from_mix, vocal_of
from samuel.model.inpaint import Kept
from samuel.separators import Separator

MAX_TAKES = 100
FADE_S = 0.02
"""At either end of what is kept, from the new samples to the old ones: long enough not to click."""
MIN_KEPT_S = 0.1
"""Of a range: a frame of the codec lies in it wherever it begins, and the fades leave something."""
RANGE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*-\s*(\d+(?:\.\d+)?)?\s*")

Range = tuple[float, float]
"""From and to, in seconds; inf: to the end."""
OnProgress = Callable[[str, int, int], object]
"""(what: "separate", "encode", "sample", "decode" or "write", done, of)"""


@dataclass(frozen=True)
class Keep:
    """What to keep of an existing accompaniment.

    Attributes:
        accompaniment: Any audio file, as long as the vocal or longer.
        ranges_s: Which seconds of it.
    """

    accompaniment: Path
    ranges_s: tuple[Range, ...]


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

    def require_free(self) -> None:
        """Refuse to take the place of what was not asked to go: only OUTPUT itself was named.

        Raises:
            InputError: A file that is no take of ours stands where the mix or the record is to go.
            OperatorError: Nothing can be written there.
        """
        require_writable(self.accompaniment)
        require_writable(self.mix)
        try:
            ours = "samuel" in read_json(self.record)
        except (OSError, ValueError, TypeError):
            ours = False
        if taken := [path for path in (self.record, self.mix) if path.exists() and not ours]:
            raise InputError(
                f"{taken[0]}: is there, and of no earlier take; move it away, or give another output"
            )


@dataclass(frozen=True)
class Request:
    """What is wanted.

    Attributes:
        vocal: Any audio file.
        output: The accompaniment, `.wav` or `.flac`.
        sampling: Sampler, steps, guidance and seed.
        takes: How many, with the seeds that follow.
        length_s: Only so much from the beginning; None: all of it.
        separator: Takes the vocals out first, where `vocal` is a whole song.
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

    def plan(self) -> list[Take]:
        """Say where the takes go, in the order of their seeds.

        Raises:
            InputError: Too many takes, no balance, or an output that is read.
        """
        if not 1 <= self.takes <= MAX_TAKES:
            raise InputError(f"{self.takes} takes: ask for 1 to {MAX_TAKES}")
        if not -60 <= self.balance_db <= 60:
            raise InputError(f"a balance of {self.balance_db} dB: give -60 to 60")
        stem = self.output.stem
        takes = [
            Take(
                accompaniment=self.output.with_stem(f"{stem}{number}"),
                mix=self.output.with_stem(f"{stem}{number}-mix"),
                record=self.output.with_name(f"{stem}{number}.json"),
                seed=(self.sampling.seed + i) % 2**32,  # the last one there is has a successor too
            )
            for i, number in enumerate([""] if self.takes == 1 else [f"-{n + 1}" for n in range(self.takes)])
        ]
        read = [
            path for path in (self.vocal, self.keep and self.keep.accompaniment) if path and path.exists()
        ]
        for place in (path for take in takes for path in (take.accompaniment, take.mix) if path.exists()):
            if any(place.samefile(path) for path in read):
                raise InputError(f"{place}: would be written over what is read; give another output")
        return takes


def generate(request: Request, model: TrainedModel, codec: Codec, on_progress: OnProgress) -> list[Take]:
    """Write the takes that a request wants; those that are finished stay, whatever becomes of the next.

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
    takes = request.plan()
    require_codec(model, codec)
    for take in takes:
        take.require_free()
    with tempfile.TemporaryDirectory(prefix="samuel-") as workspace:
        job = _Job(request, model, codec, Path(workspace), on_progress)
        for take in takes:
            job.make(take)
    return takes


class _Job:
    """A request with all that its takes share: the vocal, its latents, and what is kept."""

    def __init__(
        self, request: Request, model: TrainedModel, codec: Codec, workspace: Path, on_progress: OnProgress
    ) -> None:
        self.request, self.model, self.codec = request, model, codec
        self.workspace, self.on_progress = workspace, on_progress
        vocal = vocal_of(request.vocal, workspace, length_s=request.length_s)
        if request.separator is not None:
            on_progress("separate", 0, 1)
            vocal = vocal_from_mix(vocal, request.separator, workspace)
            on_progress("separate", 1, 1)
        self.vocal = vocal
        self.latents = vocal.encode(codec, model.frames, partial(on_progress, "encode"))
        self.existing: Existing | None = None
        self.kept: Kept | None = None
        if request.keep is not None:
            (folder := workspace / "kept").mkdir()
            ranges = merged_ranges(request.keep.ranges_s, vocal.duration_s)
            self.existing = Existing(vocal_of(request.keep.accompaniment, folder), ranges)
            self.kept = self.existing.encode(codec, vocal, self.latents.shape[-1])

    def make(self, take: Take) -> None:
        """Sample, decode and write one take."""
        config = self.request.sampling.model_copy(update={"seed": take.seed})
        on_step = partial(self.on_progress, "sample")
        generated = accompany_latents(self.latents, self.model, config, on_step, self.kept)
        decoded = self.workspace / "accompaniment.wav"
        overshoot_db = write_limited(decoded, self._decode(generated))
        self.on_progress("write", 0, 1)
        self._write(take, config, decoded, overshoot_db)
        self.on_progress("write", 1, 1)

    def _decode(self, latents: torch.Tensor) -> Iterator[Audio]:
        blocks: Iterable[Audio] = decode_windows(self.codec, latents.cpu(), self.vocal.samples)
        if self.existing is not None:
            # Clipped, or else what stays would be turned down where the rest overshoots beside it.
            blocks = self.existing.paste_into(np.clip(block, -1.0, 1.0) for block in blocks)
        done = 0
        for block in blocks:
            done += block.shape[1]
            yield block
            self.on_progress("decode", done, self.vocal.samples)

    def _write(self, take: Take, config: SamplingConfig, decoded: Path, overshoot_db: float) -> None:
        """Write all files in a folder beside their places, and from there into these, the record last."""
        request, beside = self.request, take.record.parent
        balance = balance_of(self.vocal.path, decoded, request.balance_db)
        record = {
            "samuel": __version__,
            "torch": torch.__version__,
            "model_sha256": self.model.sha256,
            "codec": self.codec.info.model_dump(),
            "vocal": {
                **_describe_file(request.vocal),
                "duration_s": round(self.vocal.duration_s, 3),
                "separator": request.separator.identity if request.separator else None,
            },
            "kept": self._describe_kept(),
            "files": {"accompaniment": _utf8_name(take.accompaniment), "mix": _utf8_name(take.mix)},
            "seed": take.seed,
            "sampling": config.model_dump(mode="json"),
            "overshoot_db": round(overshoot_db, 2),
            "balance": {"wanted_db": request.balance_db, **asdict(balance)},
        }
        with explain_no_space(beside), tempfile.TemporaryDirectory(dir=beside, prefix=".samuel-") as folder:
            accompaniment, mix, new_record = (
                Path(folder, path.name) for path in (take.accompaniment, take.mix, take.record)
            )
            write_accompaniment(accompaniment, decoded)
            write_mix(mix, self.vocal.path, decoded, balance)
            write_json(new_record, record)
            take.record.unlink(missing_ok=True)  # of an earlier take of that name, which now begins to go
            accompaniment.replace(take.accompaniment)
            mix.replace(take.mix)
            new_record.replace(take.record)
            fsync(beside)

    def _describe_kept(self) -> dict[str, Any] | None:
        if self.request.keep is None or self.existing is None:
            return None
        ranges = [[start, None if math.isinf(stop) else stop] for start, stop in self.existing.ranges_s]
        return {**_describe_file(self.request.keep.accompaniment), "ranges_s": ranges}


def _describe_file(path: Path) -> dict[str, str]:
    return {"file": _utf8_name(path), "sha256": sha256(path)}


def _utf8_name(path: Path) -> str:
    """A file's name as JSON can write it: names need not be UTF-8."""
    return os.fsencode(path.name).decode("utf-8", errors="replace")


def ranges_of(text: str) -> tuple[Range, ...]:
    """Read ranges as people write them: "0-12.5, 30-" are two, the second to the end.

    Raises:
        InputError: It is something else, or a range ends before it begins.
    """
    found = [RANGE.fullmatch(part) for part in text.split(",")]
    ranges = tuple((float(m[1]), float(m[2] or math.inf)) for m in found if m)
    if len(ranges) < len(found) or any(start >= stop for start, stop in ranges):
        raise InputError(f"{text!r:.80}: no ranges of seconds; write them as 0-12.5,30-")
    return ranges


def merged_ranges(ranges: Sequence[Range], duration_s: float) -> tuple[Range, ...]:
    """Put ranges in order, those that touch in one; one that reaches the end of the vocal has no end.

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
        if min(stop, duration_s) - start < MIN_KEPT_S:
            raise InputError(f"{start:g}-{stop:g}: too short to keep; give at least {MIN_KEPT_S:g} s")
    return tuple(merged)


@dataclass(frozen=True)
class Existing:
    """An existing accompaniment, and the seconds of it that stay, as `merged_ranges` gives them."""

    audio: Vocal
    ranges_s: tuple[Range, ...]

    def encode(self, codec: Codec, vocal: Vocal, frames: int) -> Kept:
        """Encode what stays: of so many frames of the vocal, those that lie in a range as a whole.

        Raises:
            InputError: It is shorter than the vocal.
        """
        if self.audio.samples < vocal.samples:
            raise InputError(
                f"the accompaniment to keep lasts {self.audio.duration_s:.2f} s, the vocal"
                f" {vocal.duration_s:.2f} s; give the one that was made for this vocal"
            )
        frame_s = codec.info.duration_s(1)
        first = torch.arange(frames, dtype=torch.float64) * frame_s
        inside = [(first >= start) & (first + frame_s <= stop) for start, stop in self.ranges_s]
        return Kept(self.audio.encode(codec, frames)[..., :frames], torch.stack(inside).any(dim=0))

    def paste_into(self, blocks: Iterable[Audio]) -> Iterator[Audio]:
        """Yield the new accompaniment, block by block, with the old samples themselves where they stay."""
        place = 0
        for block in blocks:
            stop = place + block.shape[1]
            middle_s = (np.arange(place, stop) + 0.5) / SAMPLE_RATE
            # It fades inside the ranges; from the beginning, or to the end, there is nothing to fade from.
            shares = [
                np.minimum(math.inf if start == 0 else middle_s - start, end - middle_s) / FADE_S
                for start, end in self.ranges_s
            ]
            share = np.clip(np.max(shares, axis=0), 0.0, 1.0)
            old = self.audio.read(place, stop) if share.any() else block
            yield (share * old + (1 - share) * block).astype(np.float32)
            place = stop
