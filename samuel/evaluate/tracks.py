"""Accompaniments for held-out vocals, as WAV files beside the vocal and the true accompaniment.

Shapes: (2, S) audio at 44.1 kHz; (1, C, T) latents.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from samuel.audio import Audio, write_wav
from samuel.checkpoint import TrainedModel
from samuel.codec import Codec
from samuel.codec.identity import made_by
from samuel.config import CodecConfig, SamplingConfig
from samuel.dataset import evaluation_pairs
from samuel.errors import CheckpointError, SettingsError
from samuel.files import Entry, digest, find_entry, make_entry
from samuel.generate import OnStep, accompany_latents, mix
from samuel.popdb.shards import Popdb

VERSION = 1


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


def other_song(popdb: Popdb, pair: dict[str, Any]) -> dict[str, Any] | None:
    """A pair of another song, for which the accompaniment of `pair` was not made; None in a dataset of one.

    The next song in the order of the index, which is that of hashed ids: chance, and the same every time.
    """
    place = next(i for i, row in enumerate(popdb.index) if row["pair_id"] == pair["pair_id"])
    around = popdb.index[place:] + popdb.index[:place]
    return next((row for row in around if row["song_id"] != pair["song_id"]), None)


def make_track(
    pair: dict[str, Any],
    popdb: Popdb,
    load: Callable[[], tuple[TrainedModel, Codec]],
    model_sha256: str,
    config: SamplingConfig,
    root: Path,
    on_step: OnStep | None = None,
) -> Entry:
    """Generate one track, or find it: `vocal`, `accompaniment`, `mix`, `reference` and `other_vocal`, as WAV.

    All come out of the codec, so that they can be compared: `reference` is the true accompaniment after the
    codec's round trip, `other_vocal` belongs to another song and is left out where there is none. Model and
    codec are loaded only when there is something to do.

    Raises:
        CheckpointError: The codec at hand is not the one of the dataset.
    """
    other = other_song(popdb, pair)
    key = digest("track", VERSION, pair, other, model_sha256, config.model_dump())
    folder = root / f"{pair['pair_id']}-{key}"
    return find_entry(folder) or make_entry(
        folder, lambda target: _render(pair, other, popdb, load(), config, target, on_step)
    )


def _render(
    pair: dict[str, Any],
    other: dict[str, Any] | None,
    popdb: Popdb,
    parts: tuple[TrainedModel, Codec],
    config: SamplingConfig,
    folder: Path,
    on_step: OnStep | None,
) -> dict[str, Any]:
    model, codec = parts
    if not made_by(pair["codec"], codec):
        raise CheckpointError(
            f"the dataset holds latents of {pair['codec']!r}, the codec is {codec.identity!r}"
        )
    vocal, reference = popdb.read([pair])
    # Noise of its own for each track: shared noise would tie their scores together.
    own = config.model_copy(update={"seed": int(digest(config.seed, pair["pair_id"])[:8], 16)})
    generated = accompany_latents(vocal, model, own, on_step)
    audio = {
        "vocal": _decode(codec, vocal),
        "accompaniment": _decode(codec, generated),
        "reference": _decode(codec, reference),
    }
    audio["mix"] = mix(audio["vocal"], audio["accompaniment"])
    if other:
        audio["other_vocal"] = _decode(codec, popdb.read([other])[0])
    for stem, samples in audio.items():
        write_wav(folder / f"{stem}.wav", samples, "PCM_24")
    return {"pair_id": pair["pair_id"], "title": pair["title"], "start_s": pair["start_s"]}


def _decode(codec: Codec, latents: torch.Tensor) -> Audio:
    return codec.decode(latents.float())[0].float().cpu().numpy()
