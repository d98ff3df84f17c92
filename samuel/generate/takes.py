"""A vocal on disk → takes on disk: accompaniment, mix, and how they were made.

A take is whole once its record is there. Shapes: (1, C, T) latents.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
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
from samuel.files import fsync, sha256, write_json
from samuel.generate.accompany import accompany_latents, require_codec
from samuel.generate.balance import balance_of
from samuel.generate.encode import encoded
from samuel.generate.keep import Keep, Range, kept_latents, pasted, settled
from samuel.generate.output import (
    no_space_told,
    write_accompaniment,
    write_limited,
    write_mix,
)
from samuel.generate.request import Request, Take
from samuel.generate.vocal import Vocal, vocal_from_mix, vocal_of
from samuel.model.inpaint import Kept

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
