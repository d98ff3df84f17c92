"""An audio file, heard once: everything that the scores need of it, and what a reader must know of it.

Shapes: (2, S) audio at 44.1 kHz; (C, T) codec latents.
"""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from samuel.artifacts import (
    Artifact,
    digest,
    find_artifact,
    make_artifact,
    sha256,
)
from samuel.audio import (
    SAMPLE_RATE,
    Audio,
    dbfs,
    decode_to_wav,
    read_wav,
    write_wav,
)
from samuel.checkpoint import TrainedModel
from samuel.codecs.base import Codec, made_by
from samuel.config import CodecConfig, SamplingConfig
from samuel.errors import CheckpointError, InputError, SettingsError
from samuel.evaluate.features import Features, features
from samuel.evaluate.signal import N_FFT, clipped_share, log_mel_db
from samuel.evaluate.systems import (
    CEILING,
    NOT_SCORED,
    OURS,
    REAL,
    Lineup,
    Problem,
    System,
    Track,
)
from samuel.generate import OnStep, accompany_latents, mix
from samuel.generate.output import write_limited
from samuel.popdb.dataset import Popdb
from samuel.popdb.loader import evaluation_pairs

# What no model of latents can exceed: the true accompaniments after the codec's own round trip.


Each = Callable[[Iterable[Any]], Iterable[Any]]
FILE = "round-trip.wav"


def with_ceiling(lineup: Lineup, codec: Codec, root: Path, each: Each = iter) -> Lineup:
    """A lineup with its true accompaniments encoded and decoded, as 24-bit WAV; as it is without them.

    Args:
        lineup: What is compared.
        codec: Any.
        root: Where entries go.
        each: Wraps the loop over tracks, e.g. in a progress bar.
    """
    real = lineup.system(REAL)
    if real is None:
        return lineup
    made: dict[str, Path] = {}
    problems: list[Problem] = []
    for track, path in each(real.files.items()):
        try:
            made[track] = _made(path, codec, root)
        except InputError as error:
            problems.append(Problem(CEILING, track, f"{error}: {NOT_SCORED}"))
    return lineup.with_ceiling(System(CEILING, made), problems)


def _made(path: Path, codec: Codec, root: Path) -> Path:
    def make(folder: Path) -> dict[str, Any]:
        audio, _ = load_start(path)
        with torch.inference_mode():
            decoded = codec.decode(codec.encode(torch.from_numpy(audio)[None]))[0]
        write_wav(folder / FILE, decoded.float().cpu().numpy()[:, : audio.shape[1]], "PCM_24")
        return {"codec": codec.identity}

    if not path.is_file():
        raise InputError(f"{path.name}: no such file")
    folder = root / digest("round trip", 1, sha256(path), codec.identity)
    return (find_artifact(folder) or make_artifact(folder, make)).path(FILE)


# Accompaniments for held-out vocals, as WAV files beside the vocal and the true accompaniment.
#
# Shapes: (2, S) audio at 44.1 kHz; N tracks, K takes, C channels, T frames of latents.


VERSION = 3
LATENTS = "latents.safetensors"
SEEDS = 2**32


def choose_pairs(popdb: Popdb, tracks: int) -> list[dict[str, Any]]:
    """The pairs to accompany: of each held-out song the chunk with most singing, at most `tracks` songs."""
    best: dict[str, dict[str, Any]] = {}
    for pair in evaluation_pairs(popdb):
        if _sung(pair) > _sung(best.setdefault(pair["song_id"], pair)):
            best[pair["song_id"]] = pair
    return list(best.values())[:tracks]


def _sung(pair: dict[str, Any]) -> float:
    """Vocal share; less than none where it was not measured."""
    share = pair["vocal_share"]
    return -1.0 if share is None else share


def require_codec(popdb: Popdb, config: CodecConfig) -> None:
    """Before the training: will the codec of the settings be able to decode what the model learns?

    Raises:
        SettingsError: The dataset holds latents of another codec.
    """
    held = popdb.info["codec"].partition("/")[0]
    if held != config.name:
        raise SettingsError(
            f"{popdb.location} holds latents of {held!r}; set codec.name to it, not {config.name!r}"
        )


def make_track(
    pair: dict[str, Any],
    popdb: Popdb,
    load: Callable[[], tuple[TrainedModel, Codec]],
    model_sha256: str,
    config: SamplingConfig,
    root: Path,
    takes: int = 1,
    on_step: OnStep | None = None,
) -> Artifact:
    """Generate one track, or find it.

    `vocal.wav`, `accompaniment.wav` (the first take), `mix.wav` and `reference.wav` all come out of the
    codec, so that they can be compared: the reference is the true accompaniment after the codec's round trip.
    `latents.safetensors` holds the codec latents of all takes (K, C, T) and of the reference (C, T). Model
    and codec are loaded only when there is something to do.

    Args:
        pair: A row of the index.
        popdb: The dataset.
        load: What loads them.
        model_sha256: Digest of the model's weights.
        config: How it is drawn.
        root: Where the entry goes.
        takes: So many, K, with seeds of their own.
        on_step: Called with (steps done, steps in all) of each take.

    Raises:
        CheckpointError: The codec at hand is not the one of the dataset.
    """
    key = digest("track", VERSION, pair, model_sha256, config.model_dump(), takes)

    def make(folder: Path) -> dict[str, Any]:
        vocal, reference = popdb.read([pair])
        parts = load()
        _require_codec_of(popdb, parts[1])
        generated = [accompany_latents(vocal, parts[0], own, on_step) for own in _seeded(config, pair, takes)]
        _write_latents(folder, torch.cat(generated), reference[0])
        _write_audio(
            folder, parts[1], {"vocal": vocal, "accompaniment": generated[0], "reference": reference}
        )
        return {"pair_id": pair["pair_id"], "title": pair["title"], "start_s": pair["start_s"]}

    folder = root / f"{pair['pair_id']}-{key}"
    return find_artifact(folder) or make_artifact(folder, make)


def lineup_of(tracks: Sequence[Artifact]) -> Lineup:
    """The tracks of a model, and the true accompaniments through the codec, as what is compared."""
    return Lineup(
        tuple(
            Track(track.record["pair_id"], track.record["title"], track.path("vocal.wav")) for track in tracks
        ),
        tuple(
            System(name, {track.record["pair_id"]: track.path(file) for track in tracks})
            for name, file in ((CEILING, "reference.wav"), (OURS, "accompaniment.wav"))
        ),
    )


def latents_of(tracks: Sequence[Artifact]) -> dict[str, Tensor]:
    """Codec latents: `takes` (N, K, C, T) and `reference` (N, C, T), float32."""
    loaded = [load_file(track.path(LATENTS)) for track in tracks]
    return {
        name: torch.stack([tensors[name].float() for tensors in loaded]) for name in ("takes", "reference")
    }


def _seeded(config: SamplingConfig, pair: dict[str, Any], takes: int) -> list[SamplingConfig]:
    """Noise of its own for each track and take: shared noise would tie their scores together."""
    first = int(digest(config.seed, pair["pair_id"])[:8], 16)
    return [config.model_copy(update={"seed": (first + take) % SEEDS}) for take in range(takes)]


def _require_codec_of(popdb: Popdb, codec: Codec) -> None:
    if not made_by(popdb.info["codec"], codec):
        raise CheckpointError(
            f"the dataset holds latents of {popdb.info['codec']!r}, the codec is {codec.identity!r}"
        )


def _write_latents(folder: Path, takes: Tensor, reference: Tensor) -> None:
    tensors = {"takes": takes.float().cpu().contiguous(), "reference": reference.float().contiguous()}
    save_file(tensors, folder / LATENTS)


def _write_audio(folder: Path, codec: Codec, latents: dict[str, Tensor]) -> None:
    audio = {stem: _decode(codec, tensor) for stem, tensor in latents.items()}
    audio["accompaniment"] = _limited(audio["accompaniment"])
    audio["mix"] = mix(audio["vocal"], audio["accompaniment"])
    for stem, samples in audio.items():
        write_wav(folder / f"{stem}.wav", samples, "PCM_24")


def _limited(audio: Audio) -> Audio:
    """With overshoots turned down, as in the files that people get; cut off, they would be noise."""
    with tempfile.TemporaryDirectory(prefix="samuel-") as workspace:
        limited = Path(workspace) / "limited.wav"
        write_limited(limited, [audio])
        return read_wav(limited)


def _decode(codec: Codec, latents: Tensor) -> Audio:
    return codec.decode(latents.float())[0].float().cpu().numpy()


LONGEST_S = 15 * 60
SHORT_S = 5.0
CLIPPED_SHARE = 1e-3


@dataclass(frozen=True)
class Heard:
    """What is kept of an audio file.

    Attributes:
        features: What the scores that follow the vocal look at.
        log_mel: (64, F) dB.
        sound: Scores of the sound alone.
        duration_s: Of the whole file, or of the part that is scored.
        mono: Both channels are the same.
        remarks: What is unusual about it, for the report.
        latents: (C, T) float16 codec latents, where a codec was given.
    """

    features: Features
    log_mel: NDArray[np.float32]
    sound: dict[str, float]
    duration_s: float
    mono: bool
    remarks: tuple[str, ...]
    latents: Tensor | None


def hear(path: Path, codec: Codec | None = None) -> Heard:
    """Decode any audio file and look at its first 15 minutes.

    Args:
        path: The file.
        codec: Encodes it too, where one is given.

    Raises:
        InputError: It is not there, no audio, damaged, or holds no sample.
    """
    audio, cut = load_start(path)
    remarks = (
        [f"longer than {LONGEST_S // 60} minutes: scored over its first {LONGEST_S // 60}"] if cut else []
    )
    found = features(audio)
    return Heard(
        features=found,
        log_mel=log_mel_db(_at_least(audio, N_FFT)),
        sound={"level_dbfs": dbfs(audio), "clipped_share": clipped_share(audio)},
        duration_s=audio.shape[1] / SAMPLE_RATE,
        mono=bool(np.array_equal(audio[0], audio[1])),
        remarks=(*remarks, *_remarks(audio, found.silent)),
        latents=None if codec is None else _encoded(audio, codec),
    )


def load_start(path: Path) -> tuple[Audio, bool]:
    """The first 15 minutes of any audio file, (2, S), and whether there is more.

    Raises:
        InputError: It is not there, no audio, damaged, or holds no sample.
    """
    if not path.is_file():
        raise InputError(f"{path.name}: no such file")
    with tempfile.TemporaryDirectory(prefix="samuel-") as workspace:
        wav = Path(workspace, "decoded.wav")
        decode_to_wav(path, wav, LONGEST_S + 1.0)
        audio = read_wav(wav)
    if not audio.size:
        raise InputError(f"{path.name}: holds no samples")
    longest = LONGEST_S * SAMPLE_RATE
    return audio[:, :longest], audio.shape[1] > longest


def _remarks(audio: Audio, silent: bool) -> list[str]:
    share, duration_s = clipped_share(audio), audio.shape[1] / SAMPLE_RATE
    return [
        *(["silent"] if silent else []),
        *([f"clipped: {share:.1%} of its samples are at full scale"] if share > CLIPPED_SHARE else []),
        *([f"{duration_s:.1f} s: too short to tell beats and key"] if duration_s < SHORT_S else []),
    ]


def _encoded(audio: Audio, codec: Codec) -> Tensor:
    with torch.inference_mode():
        return codec.encode(torch.from_numpy(audio)[None])[0].half().cpu()


def _at_least(audio: Audio, samples: int) -> Audio:
    return np.pad(audio, ((0, 0), (0, max(0, samples - audio.shape[1]))))
