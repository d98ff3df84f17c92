"""Audio to latents and back: what every codec is, and songs of any length through it in bounded memory.

Audio is at 44.1 kHz everywhere else; for a codec of another rate it is resampled here. A long song goes
through in stretches of a few of the codec's own windows: nothing is computed twice or comes out differently.
At the end, whether a codec gives back the audio it is given: wrong weights make latents of the right shape.
Legend: B batch, S samples, C latent channels, T latent frames.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import nan
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor
from torch.nn import functional

from samuel.audio import SAMPLE_RATE, Audio, dbfs, filter_reach, resample, resampled, si_sdr_db
from samuel.errors import InputError, MissingPartError

logger = logging.getLogger(__name__)

PUBLISHED = "published"  # in the place of a codec's version, where latents came without weights
STRETCH = 4  # windows of a stretch: enough that a margin is little beside it
N_FFT, STEP, BANDS = 4096, 2048, 64
RANGE_DB = 60.0  # what lies further below the loudest mel band is not compared
MOST_DISTANCE_DB = 11.0  # measured: 2 to 9 where codecs work; 15 to 70 for random, zeroed or shuffled weights
ENOUGH_SI_SDR_DB = 10.0  # the waveform itself comes back; noise has less than -40
MOST_LEVEL_DB = 4.5  # won or lost; Griffin-Lim loses 2 to 3.6, half or twice the scale is 6


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
    """Stereo audio at `info.sample_rate` to latents and back, for several threads at a time."""

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


def same_codec(stored: CodecInfo, own: CodecInfo) -> bool:
    """True where latents stored as those of one codec are another's own.

    Published latents tell of no weights: they are taken for those of any codec of that name, with a warning.
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

    `read` gives its samples [start, stop), (2, stop - start) at 44.1 kHz in [-1, 1]. The latents equal
    `encode_audio` of the whole, but for the draws where the settings ask for samples of the posterior.
    """
    info, frames = codec.info, codec.info.frame_count(samples)
    read_own, own_samples = resampled(read, samples, SAMPLE_RATE, info.sample_rate)
    latents = torch.empty(1, info.channels, frames)
    for keep, stretch in stretches_of(frames, codec.window, codec.encode_reach):
        audio = read_own(stretch.start * info.hop, min(stretch.stop * info.hop, own_samples))
        first = keep.start - stretch.start
        encoded = codec.encode(torch.tensor(audio)[None])[..., first : first + len(keep)]
        latents[..., keep.start : keep.stop] = encoded
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
        decoded: Audio = codec.decode(latents[..., stretch.start : stretch.stop])[0].float().cpu().numpy()

        def own(a: int, b: int, decoded: Audio = decoded, at: int = stretch.start * info.hop) -> Audio:
            return decoded[:, a - at : b - at]

        read, _ = resampled(own, frames * info.hop, info.sample_rate, SAMPLE_RATE)
        yield read(start, stop)


def stretches_of(frames: int, width: int, reach: int) -> Iterator[tuple[range, range]]:
    """`windows_of` in groups; cut into windows of its own, a stretch gives those of the whole song again."""
    windows = windows_of(frames, width, reach)
    for first in range(0, len(windows), STRETCH):
        (keep, window), (last_keep, last_window) = windows[first], windows[first : first + STRETCH][-1]
        yield range(keep.start, last_keep.stop), range(window.start, last_window.stop)


def windows_of(frames: int, width: int, reach: int) -> list[tuple[range, range]]:
    """Successive stretches of frames to keep, each with the stretch to compute it from.

    What is computed is always `width` frames, or all of them where there are fewer, so that windows share
    batches; what is kept lies `reach` frames inside, or at an end of the song.
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


@dataclass(frozen=True)
class RoundTrip:
    """How a reconstruction compares with its original; all NaN where it holds values that are no numbers."""

    distance_db: float  # root mean square difference of the log-mel spectra
    level_db: float  # against the original's
    si_sdr_db: float  # scale-invariant (Le Roux et al., 2019); very low where a codec keeps no phase


def round_trip(codec: Codec, audio: Audio) -> RoundTrip:
    """Encode (2, S), some seconds of music, store it as float16, decode, compare the mean of the channels."""
    import librosa

    if not audio.mean(axis=0).any():  # it would come back from any weights
        raise InputError("the audio for the codec's round trip is silent; give a louder part of a song")
    stored = encode_audio(codec, audio).to(torch.float16).to(torch.float32)  # as the dataset keeps them
    decoded = decode_audio(codec, stored)[:, : audio.shape[1]]
    if not np.isfinite(decoded).all():
        return RoundTrip(nan, nan, nan)
    bands: dict[str, Any] = {"sr": SAMPLE_RATE, "n_fft": N_FFT, "hop_length": STEP, "n_mels": BANDS}
    first, second = (
        librosa.feature.melspectrogram(y=stereo.mean(axis=0, dtype=np.float64), **bands)
        for stereo in (audio, decoded)
    )
    floor = first.max() * 10 ** (-RANGE_DB / 10)
    compared = (first > floor) | (second > floor)
    ratio = np.maximum(second, floor)[compared] / np.maximum(first, floor)[compared]
    distance_db = float(np.sqrt(np.mean(np.square(10 * np.log10(ratio)))))
    level_db = dbfs(decoded.mean(axis=0)) - dbfs(audio.mean(axis=0))
    return RoundTrip(distance_db, level_db, si_sdr_db(decoded, audio))


def require_faithful(codec: Codec, audio: Audio) -> RoundTrip:
    """Refuse, by a MissingPartError, a codec that does not give back `audio`, (2, S); its figures else."""
    result = round_trip(codec, audio)
    alike = result.distance_db <= MOST_DISTANCE_DB or result.si_sdr_db >= ENOUGH_SI_SDR_DB
    if not (alike and abs(result.level_db) <= MOST_LEVEL_DB):
        spectrum = f"log-spectral distance {result.distance_db:.1f} dB (at most {MOST_DISTANCE_DB:g})"
        wave = f"or SI-SDR {result.si_sdr_db:.1f} dB (at least {ENOUGH_SI_SDR_DB:g})"
        level = f"level {result.level_db:+.1f} dB (within {MOST_LEVEL_DB:g})"
        fault = f"does not give back the audio it encodes: {spectrum} {wave}, {level}"
        raise MissingPartError(f"{codec.info}: {fault}; fetch its weights again, or correct codec.path")
    return result


def loudest_chunk(audio: Audio, samples: int) -> Audio:
    """The `samples` of (2, S) where the mean of both channels is loudest; all of it where it is shorter."""
    energy = np.cumsum(np.square(np.pad(audio.mean(axis=0), (1, 0)), dtype=np.float64))
    starts = np.arange(0, max(audio.shape[1] - samples, 0) + 1, STEP)
    stops = np.minimum(starts + samples, audio.shape[1])
    start = int(starts[np.argmax(energy[stops] - energy[starts])])
    return audio[:, start : start + samples]
