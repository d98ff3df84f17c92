"""Seconds of an existing accompaniment that stay while the rest is written anew.

Shapes: (2, S) audio at 44.1 kHz; (1, C, T) latents.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from samuel.audio import SAMPLE_RATE, Audio
from samuel.codec import HOP, Codec
from samuel.errors import InputError
from samuel.generate.encode import encoded
from samuel.generate.vocal import Vocal
from samuel.model.inpaint import Kept

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
