"""A vocal → its accompaniment: as latents, as audio, or as takes on disk, each with a mix and a record.

A take is whole once its record is there. Shapes: (2, S) audio at 44.1 kHz; B batch, (B, C, T) latents.
"""

import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samuel import __version__
from samuel.artifacts import fsync, sha256, write_json
from samuel.audio import SAMPLE_RATE, Audio, read_wav
from samuel.checkpoint import TrainedModel
from samuel.codecs.base import Codec, decode_windows, same_codec
from samuel.config import SEEDS, SamplingConfig
from samuel.device import inference, uses_bf16
from samuel.errors import CheckpointError, InputError
from samuel.generate import output
from samuel.generate.output import BALANCE_DB
from samuel.generate.vocal import Vocal, vocal_from_mix, vocal_of
from samuel.model.diffusion import CosineSchedule
from samuel.model.sample import Callback, Kept, Windowed, sample
from samuel.reading import read_json
from samuel.separators import Separator

MAX_TAKES = 100
FADE_S = 0.02  # at either end of what is kept: long enough not to click
RANGE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*-\s*(\d+(?:\.\d+)?)?\s*")

Range = tuple[float, float]  # from and to, in seconds; inf: to the end
OnProgress = Callable[[str, int, int], object]  # (stage, from "separate" to "write", done, of)


def accompany(
    vocal: Path | NDArray[Any], model: TrainedModel, codec: Codec, config: SamplingConfig,
    on_step: Callback | None = None, *, sample_rate: int = SAMPLE_RATE,
) -> Audio:  # fmt: skip
    """Write an accompaniment, (2, S) float32 in [-1, 1] at 44.1 kHz, as long as the vocal: see `vocal_of`."""
    require_codec(model, codec)
    with tempfile.TemporaryDirectory(prefix="samuel-") as workspace:
        source = vocal_of(vocal, Path(workspace), sample_rate=sample_rate)
        latents = accompany_latents(source.encode(codec, model.frames), model, config, on_step)
        limited = Path(workspace) / "accompaniment.wav"
        output.write_limited(limited, decode_windows(codec, latents, source.samples))
        return read_wav(limited)


def accompany_latents(
    vocal: Tensor, model: TrainedModel, config: SamplingConfig,
    on_step: Callback | None = None, kept: Kept | None = None,
) -> Tensor:  # fmt: skip
    """Sample codec latents of accompaniments from those of vocals, (B, C, T), a short T a multiple of 8."""
    device = next(model.network.parameters()).device
    schedule = CosineSchedule(model.diffusion.timesteps, model.diffusion.cosine_offset).to(device)
    generator = torch.Generator().manual_seed(config.seed)  # of the CPU: the same noise whatever the device
    if kept is not None:
        kept = Kept(model.normaliser.accompaniment(kept.x0.to(device)), kept.mask.to(device))
    with inference(device, "bf16" if uses_bf16(device, config.precision) else "fp32"):
        condition = model.normaliser.vocal(vocal.to(device))
        network = Windowed(model.network, model.frames)
        x0 = sample(network, condition, schedule, config, generator, on_step, kept)
    return model.normaliser.accompaniment_latents(x0)


def mix(vocal: Audio, accompaniment: Audio) -> Audio:
    """Add both, turned down where the sum would clip."""
    total = vocal + accompaniment
    return total / max(1.0, float(np.abs(total).max(initial=0.0)))


def require_codec(model: TrainedModel, codec: Codec) -> None:
    """Refuse a codec whose latents the model does not know, by a CheckpointError."""
    if not same_codec(model.codec, codec.info):
        raise CheckpointError(f"the model learned latents of {model.codec}, the codec here is {codec.info}")


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
        output.require_writable(self.accompaniment)
        output.require_writable(self.mix)
        try:
            ours = "samuel" in read_json(self.record)
        except (OSError, InputError, TypeError):
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
        takes = list[Take]()
        for number in range(self.takes):
            stem = self.output.stem if self.takes == 1 else f"{self.output.stem}-{number + 1}"
            places = self.output.with_stem(stem), self.output.with_stem(f"{stem}-mix")
            seed = (self.sampling.seed + number) % SEEDS
            takes.append(Take(*places, record=self.output.with_name(f"{stem}.json"), seed=seed))
        read = [self.vocal, self.keep.accompaniment] if self.keep else [self.vocal]
        for place in (path for take in takes for path in (take.accompaniment, take.mix) if path.exists()):
            if any(path.exists() and place.samefile(path) for path in read):
                raise InputError(f"{place}: would be written over what is read; give another output")
        return takes


def generate(request: Request, model: TrainedModel, codec: Codec, on_progress: OnProgress) -> list[Take]:
    """Write the takes that a request wants; those that are finished stay, whatever becomes of the next."""
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
        existing = _Existing.of(request.keep, vocal, workspace) if request.keep else None
        kept = existing.encode(codec, latents.shape[-1]) if existing else None
        separator = request.separator.identity if request.separator else None
        about = {
            "samuel": __version__,
            "torch": torch.__version__,
            "model_sha256": model.sha256,
            "codec": codec.info.model_dump(),
            "vocal": {
                **_describe(request.vocal), "duration_s": round(vocal.duration_s, 3), "separator": separator,
            },
            "kept": existing and existing.record,
        }  # fmt: skip
        for take in takes:
            config = request.sampling.model_copy(update={"seed": take.seed})
            generated = accompany_latents(latents, model, config, partial(on_progress, "sample"), kept)
            blocks: Iterable[Audio] = decode_windows(codec, generated.cpu(), vocal.samples)
            if existing is not None:
                # Clipped, or else what stays would be turned down where the rest overshoots beside it.
                blocks = existing.paste_into(np.clip(block, -1.0, 1.0) for block in blocks)
            decoded = workspace / "accompaniment.wav"
            overshoot_db = round(output.write_limited(decoded, _counted(blocks, vocal, on_progress)), 2)
            on_progress("write", 0, 1)
            made = {"sampling": config.model_dump(mode="json"), "overshoot_db": overshoot_db}
            _write(take, vocal, decoded, request.balance_db, about | made)
            on_progress("write", 1, 1)
    return takes


def _counted(blocks: Iterable[Audio], vocal: Vocal, on_progress: OnProgress) -> Iterator[Audio]:
    done = 0
    for block in blocks:
        done += block.shape[1]
        yield block
        on_progress("decode", done, vocal.samples)


def _describe(path: Path) -> dict[str, str]:
    return {"file": _utf8_name(path), "sha256": sha256(path)}


def _utf8_name(path: Path) -> str:
    """A file's name as JSON can write it: names need not be UTF-8."""
    return os.fsencode(path.name).decode("utf-8", errors="replace")


def _write(take: Take, vocal: Vocal, decoded: Path, balance_db: float, record: dict[str, Any]) -> None:
    """Write all files in a folder beside their places, and from there into these, the record last."""
    beside, places = take.record.parent, (take.accompaniment, take.mix, take.record)
    balance = output.balance_of(vocal.path, decoded, balance_db)
    with (
        output.explain_no_space(beside),
        tempfile.TemporaryDirectory(dir=beside, prefix=".samuel-") as folder,
    ):
        accompaniment, mix, new_record = files = [Path(folder, place.name) for place in places]
        output.write_accompaniment(accompaniment, decoded)
        output.write_mix(mix, vocal.path, decoded, balance)
        own = {
            "files": {"accompaniment": _utf8_name(take.accompaniment), "mix": _utf8_name(take.mix)},
            "seed": take.seed,
            "balance": {"wanted_db": balance_db, **asdict(balance)},
        }
        write_json(new_record, record | own)
        take.record.unlink(missing_ok=True)  # of an earlier take of that name, which now begins to go
        for new, place in zip(files, places, strict=True):
            new.replace(place)
        fsync(beside)


def ranges_of(text: str) -> tuple[Range, ...]:
    """Read ranges as people write them: "0-12.5, 30-" are two, the second to the end."""
    found = [RANGE.fullmatch(part) for part in text.split(",")]
    ranges = tuple((float(m[1]), float(m[2] or math.inf)) for m in found if m)
    if len(ranges) < len(found) or any(start >= stop for start, stop in ranges):
        raise InputError(f"{text!r:.80}: no ranges of seconds; write them as 0-12.5,30-")
    return ranges


@dataclass(frozen=True)
class _Existing:
    """An existing accompaniment, and the seconds of it that stay; one that reaches the end has none."""

    audio: Vocal
    ranges_s: tuple[Range, ...]
    record: dict[str, Any]

    @classmethod
    def of(cls, keep: Keep, vocal: Vocal, workspace: Path) -> "_Existing":
        """Decode it, beside the vocal; an InputError where it or a range does not fit the vocal."""
        (folder := workspace / "kept").mkdir()
        audio = vocal_of(keep.accompaniment, folder)
        if audio.samples < vocal.samples:
            lengths = f"{audio.duration_s:.2f} s, the vocal {vocal.duration_s:.2f} s"
            raise InputError(f"the accompaniment to keep lasts {lengths}; give one made for this vocal")
        if late := [start for start, _ in keep.ranges_s if start >= vocal.duration_s]:
            raise InputError(f"to keep from {late[0]:g} s on: the vocal lasts {vocal.duration_s:.2f} s")
        ranges = [
            (start, None if stop >= vocal.duration_s else stop) for start, stop in sorted(keep.ranges_s)
        ]
        record = {**_describe(keep.accompaniment), "ranges_s": [list(stretch) for stretch in ranges]}
        return cls(audio, tuple((start, stop or math.inf) for start, stop in ranges), record)

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
