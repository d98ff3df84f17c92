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
from samuel.model.sample import Kept
from samuel.separators import Separator

MAX_TAKES = 100
FADE_S = 0.02  # at either end of what is kept: long enough not to click
MIN_KEPT_S = 0.1  # a frame of the codec lies in it wherever it begins, and the fades leave something
RANGE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*-\s*(\d+(?:\.\d+)?)?\s*")

Range = tuple[float, float]
"""From and to, in seconds; inf: to the end."""
OnProgress = Callable[[str, int, int], object]
"""(what: "separate", "encode", "sample", "decode" or "write", done, of)"""


@dataclass(frozen=True)
class Keep:
    """What to keep of an existing accompaniment: any audio file, as long as the vocal or longer."""

    accompaniment: Path
    ranges_s: tuple[Range, ...]


@dataclass(frozen=True)
class Take:
    """A finished accompaniment of one seed, the mix with its vocal, and the record of both (JSON)."""

    accompaniment: Path
    mix: Path
    record: Path
    seed: int

    def require_free(self) -> None:
        """Refuse to take the place of what was not asked to go: only OUTPUT itself was named."""
        require_writable(self.accompaniment)
        require_writable(self.mix)
        try:
            ours = "samuel" in read_json(self.record)
        except (OSError, ValueError, TypeError):
            ours = False
        if taken := [path for path in (self.record, self.mix) if path.exists() and not ours]:
            raise InputError(f"{taken[0]}: is there, and of no earlier take; move it, or give another output")


@dataclass(frozen=True)
class Request:
    """What is wanted."""

    vocal: Path  # any audio file
    output: Path  # the accompaniment, `.wav` or `.flac`
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    takes: int = 1  # with the seeds that follow
    length_s: float | None = None  # only so much from the beginning
    separator: Separator | None = None  # takes the vocals out first, where `vocal` is a whole song
    balance_db: float = BALANCE_DB  # loudness of the vocal over that of the accompaniment in the mix
    keep: Keep | None = None

    def plan(self) -> list[Take]:
        """Say where the takes go, in the order of their seeds; an InputError for what cannot be wanted."""
        if not 1 <= self.takes <= MAX_TAKES:
            raise InputError(f"{self.takes} takes: ask for 1 to {MAX_TAKES}")
        if not -60 <= self.balance_db <= 60:
            raise InputError(f"a balance of {self.balance_db} dB: give -60 to 60")
        numbers = [""] if self.takes == 1 else [f"-{number + 1}" for number in range(self.takes)]
        stem, seed = self.output.stem, self.sampling.seed
        takes = [
            Take(
                accompaniment=self.output.with_stem(f"{stem}{number}"),
                mix=self.output.with_stem(f"{stem}{number}-mix"),
                record=self.output.with_name(f"{stem}{number}.json"),
                seed=(seed + i) % 2**32,  # the last one there is has a successor too
            )
            for i, number in enumerate(numbers)
        ]
        read = [self.vocal, self.keep.accompaniment] if self.keep else [self.vocal]
        for place in (path for take in takes for path in (take.accompaniment, take.mix) if path.exists()):
            if any(path.exists() and place.samefile(path) for path in read):
                raise InputError(f"{place}: would be written over what is read; give another output")
        return takes


def generate(request: Request, model: TrainedModel, codec: Codec, on_progress: OnProgress) -> list[Take]:
    """Write the takes that a request wants; those that are finished stay, whatever becomes of the next.

    Raises:
        InputError: No vocal can be read, or the output cannot be written.
        CheckpointError: The model learned another codec's latents.
        OperatorError: The disk is full.
    """
    takes = request.plan()
    require_codec(model, codec)
    for take in takes:
        take.require_free()
    with tempfile.TemporaryDirectory(prefix="samuel-") as folder:
        workspace = Path(folder)
        vocal = vocal_of(request.vocal, workspace, length_s=request.length_s)
        if request.separator is not None:
            on_progress("separate", 0, 1)
            vocal = vocal_from_mix(vocal, request.separator, workspace)
            on_progress("separate", 1, 1)
        latents = vocal.encode(codec, model.frames, partial(on_progress, "encode"))
        existing = Existing.of(request.keep, vocal, workspace) if request.keep else None
        kept = existing.encode(codec, latents.shape[-1]) if existing else None
        about = _describe(request, model, codec, vocal, existing)
        for take in takes:
            config = request.sampling.model_copy(update={"seed": take.seed})
            generated = accompany_latents(latents, model, config, partial(on_progress, "sample"), kept)
            blocks: Iterable[Audio] = decode_windows(codec, generated.cpu(), vocal.samples)
            if existing is not None:
                # Clipped, or else what stays would be turned down where the rest overshoots beside it.
                blocks = existing.paste_into(np.clip(block, -1.0, 1.0) for block in blocks)
            decoded = workspace / "accompaniment.wav"
            overshoot_db = write_limited(decoded, _counted(blocks, vocal.samples, on_progress))
            on_progress("write", 0, 1)
            record = about | {
                "sampling": config.model_dump(mode="json"),
                "overshoot_db": round(overshoot_db, 2),
            }
            _write(take, vocal, decoded, request.balance_db, record)
            on_progress("write", 1, 1)
    return takes


def _counted(blocks: Iterable[Audio], samples: int, on_progress: OnProgress) -> Iterator[Audio]:
    done = 0
    for block in blocks:
        done += block.shape[1]
        yield block
        on_progress("decode", done, samples)


def _describe(
    request: Request, model: TrainedModel, codec: Codec, vocal: Vocal, existing: "Existing | None"
) -> dict[str, Any]:
    """What the records of all takes hold."""
    kept = None
    if request.keep and existing:
        ranges = [[start, None if math.isinf(stop) else stop] for start, stop in existing.ranges_s]
        kept = {**_describe_file(request.keep.accompaniment), "ranges_s": ranges}
    return {
        "samuel": __version__,
        "torch": torch.__version__,
        "model_sha256": model.sha256,
        "codec": codec.info.model_dump(),
        "vocal": {
            **_describe_file(request.vocal),
            "duration_s": round(vocal.duration_s, 3),
            "separator": request.separator.identity if request.separator else None,
        },
        "kept": kept,
    }


def _describe_file(path: Path) -> dict[str, str]:
    return {"file": _utf8_name(path), "sha256": sha256(path)}


def _utf8_name(path: Path) -> str:
    """A file's name as JSON can write it: names need not be UTF-8."""
    return os.fsencode(path.name).decode("utf-8", errors="replace")


def _write(take: Take, vocal: Vocal, decoded: Path, balance_db: float, record: dict[str, Any]) -> None:
    """Write all files in a folder beside their places, and from there into these, the record last."""
    beside = take.record.parent
    balance = balance_of(vocal.path, decoded, balance_db)
    record = record | {
        "files": {"accompaniment": _utf8_name(take.accompaniment), "mix": _utf8_name(take.mix)},
        "seed": take.seed,
        "balance": {"wanted_db": balance_db, **asdict(balance)},
    }
    with explain_no_space(beside), tempfile.TemporaryDirectory(dir=beside, prefix=".samuel-") as folder:
        places = (take.accompaniment, take.mix, take.record)
        accompaniment, mix, new_record = (Path(folder, place.name) for place in places)
        write_accompaniment(accompaniment, decoded)
        write_mix(mix, vocal.path, decoded, balance)
        write_json(new_record, record)
        take.record.unlink(missing_ok=True)  # of an earlier take of that name, which now begins to go
        for new, place in zip((accompaniment, mix, new_record), places, strict=True):
            new.replace(place)
        fsync(beside)


def ranges_of(text: str) -> tuple[Range, ...]:
    """Read ranges as people write them: "0-12.5, 30-" are two, the second to the end."""
    found = [RANGE.fullmatch(part) for part in text.split(",")]
    ranges = tuple((float(m[1]), float(m[2] or math.inf)) for m in found if m)
    if len(ranges) < len(found) or any(start >= stop for start, stop in ranges):
        raise InputError(f"{text!r:.80}: no ranges of seconds; write them as 0-12.5,30-")
    return ranges


def merged_ranges(ranges: Sequence[Range], duration_s: float) -> tuple[Range, ...]:
    """Put ranges in order, those that touch in one; one that reaches the end of the vocal has no end."""
    merged: list[Range] = []
    for start, stop in sorted(ranges):
        end = math.inf if stop >= duration_s else stop
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    if short := [start for start, stop in merged if min(stop, duration_s) - start < MIN_KEPT_S]:
        raise InputError(
            f"from {short[0]:g} s on, less than {MIN_KEPT_S:g} s of the vocal to keep; give more"
        )
    return tuple(merged)


@dataclass(frozen=True)
class Existing:
    """An existing accompaniment, and the seconds of it that stay, as `merged_ranges` gives them."""

    audio: Vocal
    ranges_s: tuple[Range, ...]

    @classmethod
    def of(cls, keep: Keep, vocal: Vocal, workspace: Path) -> "Existing":
        """Decode it, beside the vocal; an InputError where it or a range does not fit the vocal."""
        (folder := workspace / "kept").mkdir()
        ranges = merged_ranges(keep.ranges_s, vocal.duration_s)
        audio = vocal_of(keep.accompaniment, folder)
        if audio.samples < vocal.samples:
            lengths = f"{audio.duration_s:.2f} s, the vocal {vocal.duration_s:.2f} s"
            raise InputError(f"the accompaniment to keep lasts {lengths}; give one made for this vocal")
        return cls(audio, ranges)

    def encode(self, codec: Codec, frames: int) -> Kept:
        """Encode what stays: of so many frames of the vocal, those that lie in a range as a whole."""
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
