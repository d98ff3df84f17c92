"""Accompaniments for held-out vocals, as WAV files beside the vocal and the true accompaniment.

Shapes: (2, S) audio at 44.1 kHz; K takes, C channels, T frames of latents.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from samuel.artifacts import Artifact, digest, find_artifact, make_artifact, sha256
from samuel.audio import read_wav, write_wav
from samuel.checkpoint import TrainedModel
from samuel.codecs.base import Codec, decode_audio, encode_audio, same_codec
from samuel.config import SEEDS, CodecConfig, SamplingConfig
from samuel.errors import CheckpointError, InputError, SettingsError
from samuel.evaluate.features import load_start
from samuel.evaluate.scores import Each
from samuel.evaluate.systems import CEILING, NOT_SCORED, OURS, REAL, Lineup, Problem, System, Track
from samuel.generate import accompany_latents, mix
from samuel.generate.output import write_limited
from samuel.popdb.dataset import Popdb
from samuel.popdb.loader import evaluation_pairs
from samuel.reading import read_tensors

VERSION = 3
LATENTS, ROUND_TRIP = "latents.safetensors", "round-trip.wav"


def choose_pairs(popdb: Popdb, tracks: int) -> list[dict[str, Any]]:
    """The pairs to accompany: of each held-out song the chunk with most singing, at most `tracks` songs."""

    def vocal_share(pair: dict[str, Any]) -> float:  # less than none where it was not measured
        return -1.0 if pair["vocal_share"] is None else pair["vocal_share"]

    best: dict[str, dict[str, Any]] = {}
    for pair in evaluation_pairs(popdb):
        if vocal_share(pair) > vocal_share(best.setdefault(pair["song_id"], pair)):
            best[pair["song_id"]] = pair
    return list(best.values())[:tracks]


def require_codec(popdb: Popdb, config: CodecConfig) -> None:
    """Refuse (SettingsError), before the training, a codec that cannot decode what a model will learn."""
    held = popdb.codec.name
    if held != config.name:
        raise SettingsError(f"{popdb.location} holds latents of {held!r}; set codec.name to it")


def make_track(
    pair: dict[str, Any], popdb: Popdb, load: Callable[[], tuple[TrainedModel, Codec]], model_sha256: str,
    config: SamplingConfig, root: Path, takes: int = 1,
) -> Artifact:  # fmt: skip
    """Generate one track of `takes` takes, K, or find it in `root`; `load` is called where there is work.

    `vocal.wav`, `accompaniment.wav` (the first take), `mix.wav` and `reference.wav` (the true one) all come
    out of the codec, so that they can be compared; `latents.safetensors` holds what `latents_of` returns.
    CheckpointError where the codec is not the one of the dataset.
    """
    key = digest("track", VERSION, pair, model_sha256, config.model_dump(), takes)

    def make(folder: Path) -> dict[str, Any]:
        vocal, reference = popdb.read([pair])
        model, codec = load()
        if not same_codec(popdb.codec, codec.info):
            raise CheckpointError(f"the dataset holds latents of {popdb.codec}, the codec is {codec.info}")
        seeds = [config.model_copy(update={"seed": seed}) for seed in take_seeds(config.seed, pair, takes)]
        drawn = torch.cat([accompany_latents(vocal, model, seeded) for seeded in seeds])
        tensors = {"takes": drawn, "reference": reference[0]}
        save_file({n: t.float().cpu().contiguous() for n, t in tensors.items()}, folder / LATENTS)
        stems = {"vocal": vocal, "accompaniment": drawn, "reference": reference}
        audio = {stem: decode_audio(codec, part[0]) for stem, part in stems.items()}
        # Overshoots turned down, as in the files that people get; cut off, they would be noise.
        limited = folder / "accompaniment.wav"
        write_limited(limited, [audio["accompaniment"]])
        audio["accompaniment"] = read_wav(limited)
        audio["mix"] = mix(audio["vocal"], audio["accompaniment"])
        for stem, samples in audio.items():
            write_wav(folder / f"{stem}.wav", samples, "PCM_24")
        return {"pair_id": pair["pair_id"], "title": pair["title"], "start_s": pair["start_s"]}

    folder = root / f"{pair['pair_id']}-{key}"
    return find_artifact(folder) or make_artifact(folder, make)


def take_seeds(seed: int, pair: dict[str, Any], takes: int) -> list[int]:
    """Noise of its own for each track and take: shared noise would tie their scores together."""
    first = int(digest(seed, pair["pair_id"])[:8], 16)
    return [(first + take) % SEEDS for take in range(takes)]


def latents_of(track: Artifact) -> dict[str, Tensor]:
    """Codec latents of a track: `takes` (K, C, T) and `reference` (C, T), float32."""
    return read_tensors(track.path(LATENTS))


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
    """Add what no model of latents can exceed, where it is known: true accompaniments through the codec."""
    real = lineup.system(REAL)
    if real is None:
        return lineup
    made, problems = dict[str, Path](), list[Problem]()
    for track, path in each(real.files.items()):

        def make(folder: Path, path: Path = path) -> dict[str, Any]:
            audio, _ = load_start(path)
            decoded = decode_audio(codec, encode_audio(codec, audio))[:, : audio.shape[1]]
            write_wav(folder / ROUND_TRIP, decoded, "PCM_24")
            return {"codec": codec.info.model_dump()}

        try:
            folder = root / digest("round trip", 2, path.is_file() and sha256(path), codec.info)
            made[track] = (find_artifact(folder) or make_artifact(folder, make)).path(ROUND_TRIP)
        except InputError as error:
            problems.append(Problem(CEILING, track, f"{error}: {NOT_SCORED}"))
    systems = (real, System(CEILING, made), *(system for system in lineup.systems if system is not real))
    return replace(lineup, systems=systems, problems=(*lineup.problems, *problems))
