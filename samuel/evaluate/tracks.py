"""Accompaniments for held-out vocals, as WAV files beside the vocal and the true accompaniment.

Shapes: (2, S) audio at 44.1 kHz; K takes, C channels, T frames of latents.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from samuel.artifacts import Artifact, digest, find_artifact, make_artifact, sha256
from samuel.audio import Audio, read_wav, write_wav
from samuel.checkpoint import TrainedModel
from samuel.codecs.base import Codec, decode_audio, encode_audio, same_codec
from samuel.config import CodecConfig, SamplingConfig
from samuel.errors import CheckpointError, InputError, SettingsError
from samuel.evaluate.features import load_start
from samuel.evaluate.scores import Each
from samuel.evaluate.systems import CEILING, NOT_SCORED, OURS, REAL, Lineup, Problem, System, Track
from samuel.generate import accompany_latents, mix
from samuel.generate.output import write_limited
from samuel.popdb.dataset import Popdb
from samuel.popdb.loader import evaluation_pairs

VERSION = 3
LATENTS, ROUND_TRIP = "latents.safetensors", "round-trip.wav"
SEEDS = 2**32


def choose_pairs(popdb: Popdb, tracks: int) -> list[dict[str, Any]]:
    """The pairs to accompany: of each held-out song the chunk with most singing, at most `tracks` songs."""
    best: dict[str, dict[str, Any]] = {}
    for pair in evaluation_pairs(popdb):
        if _vocal_share(pair) > _vocal_share(best.setdefault(pair["song_id"], pair)):
            best[pair["song_id"]] = pair
    return list(best.values())[:tracks]


def _vocal_share(pair: dict[str, Any]) -> float:
    """Less than none where it was not measured."""
    return -1.0 if pair["vocal_share"] is None else pair["vocal_share"]


def require_codec(popdb: Popdb, config: CodecConfig) -> None:
    """Refuse, before the training, a codec that cannot decode what the model will learn.

    Raises:
        SettingsError: The dataset holds latents of another codec.
    """
    held = popdb.codec.name
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
) -> Artifact:
    """Generate one track, or find it.

    `vocal.wav`, `accompaniment.wav` (the first take), `mix.wav` and `reference.wav` all come out of the
    codec, so that they can be compared: the reference is the true accompaniment after the codec's round trip.
    `latents.safetensors` holds the codec latents of all takes (K, C, T) and of the reference (C, T).

    Args:
        pair: A row of the index.
        popdb: The dataset.
        load: Loads model and codec; called only when there is something to do.
        model_sha256: Digest of the model's weights.
        config: How it is drawn.
        root: Where the artifact goes.
        takes: So many, K, with seeds of their own.

    Raises:
        CheckpointError: The codec is not the one of the dataset.
    """
    key = digest("track", VERSION, pair, model_sha256, config.model_dump(), takes)

    def make(folder: Path) -> dict[str, Any]:
        vocal, reference = popdb.read([pair])
        model, codec = load()
        if not same_codec(popdb.codec, codec.info):
            raise CheckpointError(f"the dataset holds latents of {popdb.codec}, the codec is {codec.info}")
        drawn = torch.cat([accompany_latents(vocal, model, own) for own in _seeded(config, pair, takes)])
        tensors = {"takes": drawn, "reference": reference[0]}
        save_file({n: t.float().cpu().contiguous() for n, t in tensors.items()}, folder / LATENTS)
        _write_audio(folder, codec, {"vocal": vocal, "accompaniment": drawn[:1], "reference": reference})
        return {"pair_id": pair["pair_id"], "title": pair["title"], "start_s": pair["start_s"]}

    folder = root / f"{pair['pair_id']}-{key}"
    return find_artifact(folder) or make_artifact(folder, make)


def _seeded(config: SamplingConfig, pair: dict[str, Any], takes: int) -> list[SamplingConfig]:
    """Noise of its own for each track and take: shared noise would tie their scores together."""
    first = int(digest(config.seed, pair["pair_id"])[:8], 16)
    return [config.model_copy(update={"seed": (first + take) % SEEDS}) for take in range(takes)]


def _write_audio(folder: Path, codec: Codec, latents: dict[str, Tensor]) -> None:
    audio = {stem: decode_audio(codec, part[0]) for stem, part in latents.items()}
    audio["accompaniment"] = limited(audio["accompaniment"])
    audio["mix"] = mix(audio["vocal"], audio["accompaniment"])
    for stem, samples in audio.items():
        write_wav(folder / f"{stem}.wav", samples, "PCM_24")


def limited(audio: Audio) -> Audio:
    """Overshoots turned down, as in the files that people get; cut off, they would be noise."""
    with tempfile.TemporaryDirectory(prefix="samuel-") as workspace:
        path = Path(workspace) / "limited.wav"
        write_limited(path, [audio])
        return read_wav(path)


def latents_of(track: Artifact) -> dict[str, Tensor]:
    """Codec latents of a track: `takes` (K, C, T) and `reference` (C, T), float32."""
    return load_file(track.path(LATENTS))


def lineup_of(tracks: Sequence[Artifact]) -> Lineup:
    """The tracks of a model, and the true accompaniments through the codec, as what is compared."""
    return Lineup(
        tuple(Track(t.record["pair_id"], t.record["title"], t.path("vocal.wav")) for t in tracks),
        tuple(
            System(name, {track.record["pair_id"]: track.path(file) for track in tracks})
            for name, file in ((CEILING, "reference.wav"), (OURS, "accompaniment.wav"))
        ),
    )


def with_ceiling(lineup: Lineup, codec: Codec, root: Path, each: Each = iter) -> Lineup:
    """Add what no model of latents can exceed: the true accompaniments after the codec's own round trip.

    They are 24-bit WAV, artifacts in `root`. Without true accompaniments the lineup stays as it is.
    """
    real = lineup.system(REAL)
    if real is None:
        return lineup
    made: dict[str, Path] = {}
    problems: list[Problem] = []
    for track, path in each(real.files.items()):
        try:
            made[track] = _round_trip(path, codec, root)
        except InputError as error:
            problems.append(Problem(CEILING, track, f"{error}: {NOT_SCORED}"))
    return lineup.with_ceiling(System(CEILING, made), problems)


def _round_trip(path: Path, codec: Codec, root: Path) -> Path:
    def make(folder: Path) -> dict[str, Any]:
        audio, _ = load_start(path)
        decoded = decode_audio(codec, encode_audio(codec, audio))[:, : audio.shape[1]]
        write_wav(folder / ROUND_TRIP, decoded, "PCM_24")
        return {"codec": codec.info.model_dump()}

    if not path.is_file():
        raise InputError(f"{path.name}: no such file")
    folder = root / digest("round trip", 1, sha256(path), codec.info)
    return (find_artifact(folder) or make_artifact(folder, make)).path(ROUND_TRIP)
