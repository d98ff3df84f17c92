"""Audio to latents and back: what every codec is, and songs of any length through it in bounded memory.

Songs and stems are at 44.1 kHz everywhere else; a codec of another rate is given resampled audio here, and
what it decodes is resampled back. A long song goes through in stretches of a few of the codec's own windows,
the same that it would be cut into whole: nothing is computed twice, and nothing comes out differently.
Legend: B batch, S samples, C latent channels, T latent frames.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Annotated, Protocol

import torch
from pydantic import BaseModel, Field
from torch import Tensor
from torch.nn import functional

from samuel.audio import SAMPLE_RATE, Audio, filter_reach, resample, resampled

logger = logging.getLogger(__name__)

PUBLISHED = "published"
"""In the place of a codec's version, where latents came without weights."""
STRETCH = 4
"""Windows of a stretch: enough that a margin is little beside it."""


class CodecInfo(BaseModel, frozen=True, strict=True, extra="forbid"):
    """The codec that latents are of; stored with every dataset and model, and equal where latents are alike.

    `version` changes whenever the latents of the same audio would: it speaks of the posterior and precision.
    `weights_sha256` is None where the codec has no weights, or they are not known.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    version: Annotated[str, Field(min_length=1, max_length=200)]
    sample_rate: Annotated[int, Field(ge=8_000, le=192_000)]
    hop: Annotated[int, Field(ge=1, le=65_536)]
    channels: Annotated[int, Field(ge=1, le=1024)]
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None

    def __str__(self) -> str:
        weights = f", weights {self.weights_sha256[:12]}" if self.weights_sha256 else ""
        return f"{self.name}/{self.version}{weights}"

    def frame_count(self, samples: int, rate: int = SAMPLE_RATE) -> int:
        """Frames that cover `samples` samples of audio at `rate` Hz."""
        return -(-samples * self.sample_rate // (self.hop * rate))

    def samples(self, frames: int, rate: int = SAMPLE_RATE) -> int:
        """Samples at `rate` Hz that begin within so many frames."""
        return -(-frames * self.hop * rate // self.sample_rate)

    def duration_s(self, frames: int) -> float:
        """Seconds that frames stand for."""
        return frames * self.hop / self.sample_rate


class Codec(Protocol):
    """Stereo audio at `info.sample_rate` to latents and back; frame t stands for the samples from t · hop on.

    Several threads may ask at a time.
    """

    info: CodecInfo  # latents of another one mean nothing to it
    window: int  # frames that suit it best: a longer song is computed in windows of so many
    encode_reach: int  # frames on either side on which a latent frame depends, at most
    decode_reach: int  # frames on either side on which the samples of a frame depend, at most

    def encode(self, audio: Tensor) -> Tensor:
        """(B, 2, S) in [-1, 1] → (B, C, ceil(S / hop)), float32, on the device `audio` is on."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, T) → (B, 2, T · hop), float32, on the device `latents` are on; may overshoot ±1."""
        ...

    def cancel(self) -> None:
        """End what other threads wait for, each with a StoppedError."""
        ...


def same_codec(stored: CodecInfo, own: CodecInfo) -> bool:
    """True where latents stored as those of one codec are another's own.

    Published latents tell of no weights. They are taken for those of any codec of that name, with a warning:
    whether its weights made them shows only when they are decoded.
    """
    believed = stored == own.model_copy(update={"version": PUBLISHED, "weights_sha256": None})
    if believed:
        logger.warning("latents were published as those of %s, by weights unknown; taken for %s", stored, own)
    return believed or stored == own


def pad_to_frames(audio: Tensor, hop: int) -> Tensor:
    """(…, S) → (…, ceil(S / hop) · hop), silence at the end."""
    return functional.pad(audio, (0, -audio.shape[-1] % hop))


def encode_audio(codec: Codec, audio: Audio) -> Tensor:
    """(2, S) at 44.1 kHz in [-1, 1] → (C, T) float32 on the CPU."""
    own = resample(audio, SAMPLE_RATE, codec.info.sample_rate)
    return codec.encode(torch.from_numpy(own)[None])[0].float().cpu()


def decode_audio(codec: Codec, latents: Tensor) -> Audio:
    """(C, T) → (2, S) float32 at 44.1 kHz; may overshoot ±1."""
    own = codec.decode(latents[None].float())[0].float().cpu().numpy()
    return resample(own, codec.info.sample_rate, SAMPLE_RATE)


def encode_windows(codec: Codec, read: Callable[[int, int], Audio], samples: int) -> Tensor:
    """Latents (1, C, T), float32 on the CPU, of a song of so many samples that is read as it is needed.

    `read` gives the song's samples [start, stop), (2, stop - start) at 44.1 kHz in [-1, 1]. The latents equal
    `encode_audio` of the whole, except where the settings ask for samples of the posterior: those are other
    samples, the same each time.
    """
    info, frames = codec.info, codec.info.frame_count(samples)
    read_own, own_samples = resampled(read, samples, SAMPLE_RATE, info.sample_rate)
    latents = torch.empty(1, info.channels, frames)
    for keep, stretch in stretches_of(frames, codec.window, codec.encode_reach):
        audio = read_own(stretch.start * info.hop, min(stretch.stop * info.hop, own_samples))
        encoded = codec.encode(torch.tensor(audio)[None])
        first = keep.start - stretch.start
        latents[..., keep.start : keep.stop] = encoded[..., first : first + len(keep)]
    return latents


def decode_windows(codec: Codec, latents: Tensor, samples: int) -> Iterator[Audio]:
    """The first `samples` samples of `decode_audio` of latents (1, C, T), in successive stretches (2, n)."""
    info, frames = codec.info, latents.shape[-1]
    # The filter that resamples hears a little beyond what is kept.
    reach = codec.decode_reach + -(-filter_reach(info.sample_rate, SAMPLE_RATE) // info.hop)
    for keep, stretch in stretches_of(frames, codec.window, reach):
        start, stop = info.samples(keep.start), min(info.samples(keep.stop), samples)
        if stop <= start:
            return
        part, at = latents[..., stretch.start : stretch.stop], stretch.start * info.hop
        decoded: Audio = codec.decode(part)[0].float().cpu().numpy()
        read, _ = resampled(
            lambda a, b, decoded=decoded, at=at: decoded[:, a - at : b - at],
            frames * info.hop,
            info.sample_rate,
            SAMPLE_RATE,
        )
        yield read(start, stop)


def stretches_of(frames: int, width: int, reach: int) -> list[tuple[range, range]]:
    """`windows_of` in groups: what to keep, and what to compute it from.

    Cut into windows of its own, a stretch gives those of the whole song again.
    """
    windows = windows_of(frames, width, reach)
    groups = [windows[first : first + STRETCH] for first in range(0, len(windows), STRETCH)]
    return [
        (range(group[0][0].start, group[-1][0].stop), range(group[0][1].start, group[-1][1].stop))
        for group in groups
    ]


def windows_of(frames: int, width: int, reach: int) -> list[tuple[range, range]]:
    """Successive stretches of frames to keep, each with the stretch to compute it from.

    What is computed is always `width` frames, or all of them where there are fewer, so that windows of
    different songs can share a batch; what is kept lies `reach` frames inside, or at an end of the song.
    """
    windows: list[tuple[range, range]] = []
    kept = 0
    while kept < frames:
        start = max(min(kept - reach, frames - width), 0)
        stop = min(start + width, frames)
        keep = range(kept, frames if stop == frames else stop - reach)
        windows.append((keep, range(start, stop)))
        kept = keep.stop
    return windows
