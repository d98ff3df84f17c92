"""Accompaniments for held-out vocals, as WAV files beside the vocal and the true accompaniment.

Shapes: (2, S) audio at 44.1 kHz; N tracks, K takes, C channels, T frames of latents.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from samuel.audio import Audio, read_wav, write_wav
from samuel.checkpoint import TrainedModel
from samuel.codec import Codec
from samuel.codec.identity import made_by
from samuel.config import CodecConfig, SamplingConfig
from samuel.dataset import evaluation_pairs
from samuel.errors import CheckpointError, SettingsError
from samuel.evaluate.systems import CEILING, OURS, Lineup, System, Track
from samuel.files import Entry, digest, find_entry, make_entry
from samuel.generate import OnStep, accompany_latents, mix
from samuel.generate.output import write_limited
from samuel.popdb.shards import Popdb

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
) -> Entry:
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
        _require_codec_of(pair, parts[1])
        generated = [accompany_latents(vocal, parts[0], own, on_step) for own in _seeded(config, pair, takes)]
        _write_latents(folder, torch.cat(generated), reference[0])
        _write_audio(
            folder, parts[1], {"vocal": vocal, "accompaniment": generated[0], "reference": reference}
        )
        return {"pair_id": pair["pair_id"], "title": pair["title"], "start_s": pair["start_s"]}

    folder = root / f"{pair['pair_id']}-{key}"
    return find_entry(folder) or make_entry(folder, make)


def lineup_of(tracks: Sequence[Entry]) -> Lineup:
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


def latents_of(tracks: Sequence[Entry]) -> dict[str, Tensor]:
    """Codec latents: `takes` (N, K, C, T) and `reference` (N, C, T), float32."""
    loaded = [load_file(track.path(LATENTS)) for track in tracks]
    return {
        name: torch.stack([tensors[name].float() for tensors in loaded]) for name in ("takes", "reference")
    }


def _seeded(config: SamplingConfig, pair: dict[str, Any], takes: int) -> list[SamplingConfig]:
    """Noise of its own for each track and take: shared noise would tie their scores together."""
    first = int(digest(config.seed, pair["pair_id"])[:8], 16)
    return [config.model_copy(update={"seed": (first + take) % SEEDS}) for take in range(takes)]


def _require_codec_of(pair: dict[str, Any], codec: Codec) -> None:
    if not made_by(pair["codec"], codec):
        raise CheckpointError(
            f"the dataset holds latents of {pair['codec']!r}, the codec is {codec.identity!r}"
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
