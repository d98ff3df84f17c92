"""A vocal on disk → takes on disk: accompaniment, mix, and how they were made.

A take is whole once its record is there. Shapes: (1, C, T) latents.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from samuel import __version__
from samuel.audio import SAMPLE_RATE, Audio
from samuel.checkpoint import TrainedModel
from samuel.codec import Codec
from samuel.codec.windows import decode_windows
from samuel.config import SamplingConfig
from samuel.errors import InputError
from samuel.files import sha256, write_json
from samuel.generate.accompany import accompany_latents, require_codec
from samuel.generate.balance import BALANCE_DB, balance_of
from samuel.generate.encode import encoded
from samuel.generate.keep import Keep, kept_latents, pasted
from samuel.generate.output import (
    full_disk_told,
    require_writable,
    write_accompaniment,
    write_limited,
    write_mix,
)
from samuel.generate.vocal import Vocal, vocal_from_mix, vocal_of
from samuel.model.inpaint import Kept
from samuel.popdb.separator import Separator

MOST_TAKES = 100

OnProgress = Callable[[str, int, int], object]
"""(what: "separate", "encode", "sample", "decode" or "write", done, of)"""


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
    _check(request)
    require_codec(model, codec)
    takes = request.places()
    for take in takes:
        require_writable(take.accompaniment)
        require_writable(take.mix)
    with tempfile.TemporaryDirectory(prefix="samuel-") as workspace:
        job = _prepared(request, model, codec, Path(workspace), on_progress)
        for take in takes:
            job.make(take)
    return takes


def _check(request: Request) -> None:
    if not 1 <= request.takes <= MOST_TAKES:
        raise InputError(f"{request.takes} takes: ask for 1 to {MOST_TAKES}")
    if not -60 <= request.balance_db <= 60:
        raise InputError(f"a balance of {request.balance_db} dB: give -60 to 60")


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
    old, kept = None, None
    if request.keep is not None:
        (folder := workspace / "kept").mkdir()
        old = vocal_of(request.keep.accompaniment, folder)
        kept = kept_latents(old, request.keep.ranges_s, codec, vocal, latents.shape[-1])
    return _Job(request, model, codec, workspace, on_progress, vocal, latents, old, kept)


@dataclass(frozen=True)
class _Job:
    request: Request
    model: TrainedModel
    codec: Codec
    workspace: Path
    on_progress: OnProgress
    vocal: Vocal
    latents: Tensor
    old: Vocal | None
    kept: Kept | None

    def make(self, take: Take) -> None:
        """Sample, decode and write one take."""
        config = self.request.sampling.model_copy(update={"seed": take.seed})
        generated = accompany_latents(
            self.latents, self.model, config, partial(self.on_progress, "sample"), self.kept
        )
        decoded = self.workspace / "accompaniment.wav"
        overshoot_db = write_limited(decoded, self._decoded(generated))
        self.on_progress("write", 0, 1)
        self._write(take, config, decoded, overshoot_db)
        self.on_progress("write", 1, 1)

    def _decoded(self, latents: Tensor) -> Iterator[Audio]:
        blocks: Iterable[Audio] = decode_windows(self.codec, latents.cpu(), self.vocal.samples)
        if self.old is not None and self.request.keep is not None:
            # Clipped, or else what stays would be turned down where the rest overshoots beside it.
            clipped = (np.clip(block, -1.0, 1.0) for block in blocks)
            blocks = pasted(clipped, self.old, self.request.keep.ranges_s)
        done = 0
        for block in blocks:
            done += block.shape[1]
            yield block
            self.on_progress("decode", done, self.vocal.samples)

    def _write(self, take: Take, config: SamplingConfig, decoded: Path, overshoot_db: float) -> None:
        levels = balance_of(self.vocal.path, decoded, self.request.balance_db)
        take.record.unlink(missing_ok=True)  # of an earlier take of that name, which now begins to go
        write_accompaniment(take.accompaniment, decoded)
        write_mix(take.mix, self.vocal.path, decoded, levels)
        record = self._record(take, config)
        record |= {
            "overshoot_db": round(overshoot_db, 2),
            "balance": {"wanted_db": self.request.balance_db, **asdict(levels)},
        }
        with full_disk_told(take.record):
            write_json(take.record, record)

    def _record(self, take: Take, config: SamplingConfig) -> dict[str, Any]:
        request, keep = self.request, self.request.keep
        return {
            "samuel": __version__,
            "torch": torch.__version__,
            "files": {"accompaniment": take.accompaniment.name, "mix": take.mix.name},
            "seed": take.seed,
            "sampling": config.model_dump(mode="json"),
            "model_sha256": self.model.sha256,
            "codec": self.codec.identity,
            "vocal": {
                "file": request.vocal.name,
                "sha256": sha256(request.vocal),
                "duration_s": round(self.vocal.samples / SAMPLE_RATE, 3),
                "separator": request.separator.identity if request.separator else None,
            },
            "kept": {"sha256": sha256(keep.accompaniment), "ranges_s": _finite(keep)} if keep else None,
        }


def _finite(keep: Keep) -> list[list[float | None]]:
    """The ranges as JSON can write them: no end is null."""
    return [[start, None if stop == float("inf") else stop] for start, stop in keep.ranges_s]
