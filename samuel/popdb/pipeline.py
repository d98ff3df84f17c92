"""Songs through the stages that compute: separate, encode (paper §III-C).

The folder of each stage is named by what determines its content: the digest of the song's audio, settings
and code of the stages up to it, the identity of their weights. Nothing else of the stems determines the
latents, so stems can be removed. Several songs are in hand at a time: some are read or written while others
are computed.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from samuel.audio import Audio, read_wav
from samuel.codec import HOP, Codec, load_codec
from samuel.codec.round_trip import loudest_chunk, require_faithful
from samuel.concurrency import side_by_side
from samuel.config import CodecConfig, SeparatorConfig, Settings
from samuel.device import resolve_device
from samuel.errors import InputError, MissingPartError
from samuel.files import Entry, digest, make_entry
from samuel.popdb.encode import encode_pair
from samuel.popdb.outcome import Outcome, attempt, found
from samuel.popdb.separate import separate
from samuel.popdb.separator import Separator, load_separator
from samuel.popdb.stems import read_stems
from samuel.store import pieces_of

# Raise a stage's version when its code gives other bytes for the same input.
VERSIONS = {"separate": 2, "encode": 2}
AUDIO = "audio.wav"

logger = logging.getLogger(__name__)

Done = Callable[[Outcome], object]


def separate_songs(
    downloaded: Sequence[Outcome], settings: Settings, done: Done = lambda _: None
) -> list[Outcome]:
    """`separate_song` for each, in the order given; `done` is told of each when it is over."""
    separator = separator_for(settings)  # before the threads, which would each try to load it
    return _in_hand(stems_known, separate_song, downloaded, settings, done, separator.cancel)


def encode_songs(
    separated: Sequence[Outcome], settings: Settings, done: Done = lambda _: None
) -> list[Outcome]:
    """`encode_song` for each, in the order given; then what `settings.retention` lets go is removed.

    What comes back no longer names its sources, which nobody needs and a long list has many of.
    """

    def over(song: Outcome) -> None:
        _release_spent(song, settings)
        done(song)

    codec = codec_for(settings)
    encoded = _in_hand(latents_known, encode_song, separated, settings, over, codec.cancel)
    return [replace(song, sources=()) for song in encoded]


def stems_known(downloaded: Outcome, settings: Settings) -> Outcome | None:
    """What `separate_song` gives where there is nothing to do; None where there is."""
    if downloaded.entry is None:
        return replace(downloaded, worked=False)
    audio = downloaded.entry
    folder, record = stems_folder(audio, settings), _with_separator(downloaded, settings)
    separated = found(downloaded.song, "separate", folder, record, pieces_of(settings))
    if separated is None or _gone(separated, audio, settings):
        return None
    return replace(separated, sources=(audio,))


def separate_song(downloaded: Outcome, settings: Settings) -> Outcome:
    """Audio → stems in `data/stems/<key>`; a song that failed passes through."""
    if downloaded.entry is None:
        return replace(downloaded, worked=False)
    separator, audio, pieces = separator_for(settings), downloaded.entry, pieces_of(settings)
    folder, record = stems_folder(audio, settings), _with_separator(downloaded, settings)

    def make(target: Path) -> dict[str, Any]:
        path = pieces.at_hand(audio).path(AUDIO)
        _prove(settings, lambda: read_wav(path))
        return separate(separator, path, target)

    def tried() -> Outcome:
        return attempt(downloaded.song, "separate", folder, make, record, pieces=pieces)

    separated = tried()
    if _gone(separated, audio, settings):
        pieces.forget(folder)
        separated = tried()
    return replace(separated, sources=(audio,))


def latents_known(separated: Outcome, settings: Settings) -> Outcome | None:
    """What `encode_song` gives where there is nothing to do; None where there is."""
    if separated.entry is None:
        return replace(separated, worked=False)
    [audio] = separated.sources
    folder, record = latents_folder(audio, settings), _with_codec(separated, settings)
    encoded = found(separated.song, "encode", folder, record, pieces_of(settings))
    return encoded and replace(encoded, sources=(audio, separated.entry))


def encode_song(separated: Outcome, settings: Settings) -> Outcome:
    """Stems → `data/latents/<key>/latents.safetensors`; a song that failed passes through."""
    if separated.entry is None:
        return replace(separated, worked=False)
    codec, stems, pieces = codec_for(settings), separated.entry, pieces_of(settings)
    [audio] = separated.sources

    def make(target: Path) -> dict[str, Any]:
        here = pieces.at_hand(stems)
        _prove(settings, lambda: np.add(*read_stems(here.folder, here.record["stems_scale"])))
        return encode_pair(codec, here, settings.popdb.chunk_frames, target)

    encoded = attempt(
        separated.song,
        "encode",
        latents_folder(audio, settings),
        make,
        _with_codec(separated, settings),
        pieces=pieces,
    )
    return replace(encoded, sources=(audio, stems))


def reclaim_audio(settings: Settings) -> int:
    """Have audio downloaded again that was removed and is wanted, as other settings ask for other latents.

    Returns:
        How many songs that concerns.
    """
    pieces, data = pieces_of(settings), settings.data
    released = (audio for audio in pieces.all(data / "raw") if audio.released and AUDIO in audio.sha256)
    removed = [replace(audio, record={}) for audio in released]  # of a long list, the records fill memory
    if not removed:
        return 0
    stems = {entry.folder for entry in pieces.all(data / "stems") if not entry.released}
    latents = {entry.folder for entry in pieces.all(data / "latents")}
    wanted = [
        audio.folder
        for audio in removed
        if latents_folder(audio, settings) not in latents and stems_folder(audio, settings) not in stems
    ]
    for folder in wanted:
        pieces.forget(folder)
    return len(wanted)


def stems_folder(audio: Entry, settings: Settings) -> Path:
    """Where the stems of a downloaded song are, or will be."""
    return settings.data / "stems" / digest("separate", *_stems_recipe(audio, settings))


def latents_folder(audio: Entry, settings: Settings) -> Path:
    """Where the latents of a downloaded song are, or will be."""
    codec, frames = codec_for(settings).identity, settings.popdb.chunk_frames
    recipe = [VERSIONS["encode"], *_stems_recipe(audio, settings), codec, frames]
    return settings.data / "latents" / digest("encode", *recipe)


def round_trip_folder(settings: Settings) -> Path:
    """Where it is remembered that the codec gives back what it encodes."""
    return settings.data / "latents" / ".round_trips" / digest(codec_for(settings).identity)


def separator_for(settings: Settings) -> Separator:
    """The process's one copy of the separator."""
    with _loading:
        return _separator(settings.separator.model_dump_json(), resolve_device(settings.device))


def codec_for(settings: Settings) -> Codec:
    """The process's one copy of the codec."""
    with _loading:
        return _codec(settings.codec.model_dump_json(), resolve_device(settings.device))


def songs_in_hand(settings: Settings) -> int:
    """How many songs a stage has in hand at a time."""
    if settings.songs_in_hand:
        return settings.songs_in_hand
    return 6 if resolve_device(settings.device).type == "cuda" else 2


def _in_hand(
    known: Callable[[Outcome, Settings], Outcome | None],
    work: Callable[[Outcome, Settings], Outcome],
    outcomes: Sequence[Outcome],
    settings: Settings,
    done: Done,
    cancel: Callable[[], object],
) -> list[Outcome]:
    """First what is known here: threads that only read small files, as in a rerun, hinder each other.

    A store is asked by several at a time.
    """
    results: dict[int, Outcome] = {}
    for place, outcome in enumerate(outcomes if settings.store is None else ()):
        if result := known(outcome, settings):
            results[place] = result
            done(result)
    left = [place for place in range(len(outcomes)) if place not in results]
    todo = [outcomes[place] for place in left]
    for number, result in side_by_side(lambda s: work(s, settings), todo, songs_in_hand(settings), cancel):
        results[left[number]] = result
        done(result)
    return [results[place] for place in range(len(outcomes))]


def _gone(separated: Outcome, audio: Entry, settings: Settings) -> bool:
    """Whether stems were removed, and nothing is there that was made of them."""
    released = separated.entry is not None and separated.entry.released
    return released and not pieces_of(settings).find(latents_folder(audio, settings))


def _with_separator(downloaded: Outcome, settings: Settings) -> dict[str, Any]:
    return downloaded.record | {"separator": separator_for(settings).identity}


def _with_codec(separated: Outcome, settings: Settings) -> dict[str, Any]:
    return separated.record | {"codec": codec_for(settings).identity}


def _release_spent(encoded: Outcome, settings: Settings) -> None:
    if not encoded.ok:
        return
    (audio, stems), pieces = encoded.sources, pieces_of(settings)
    if settings.retention.stems == "remove":
        pieces.release(stems.folder)
    if settings.retention.audio == "remove":
        pieces.release(audio.folder)


def _prove(settings: Settings, song: Callable[[], Audio]) -> None:
    """Once for each codec, before the long work: a chunk of a song comes back as it was, or the run ends."""
    codec, samples = codec_for(settings), settings.popdb.chunk_frames * HOP

    def make(_: Path) -> dict[str, float]:
        try:
            result = require_faithful(codec, loudest_chunk(song(), samples))
        except (MissingPartError, InputError):  # one odd song proves nothing against a codec
            from samuel.demo import compose  # two seconds of imports, hardly ever needed

            result = require_faithful(codec, loudest_chunk(compose(0, 0).mix, samples))
        logger.info("round trip of a chunk through %s: %s", codec.identity, result)
        return asdict(result)

    make_entry(round_trip_folder(settings), make)


def _stems_recipe(audio: Entry, settings: Settings) -> list[object]:
    return [VERSIONS["separate"], audio.sha256[AUDIO], separator_for(settings).identity]


# Two threads that ask at once would each load a copy: functools' caches do not wait for one another.
_loading = threading.Lock()


@lru_cache(maxsize=1)
def _separator(config: str, device: torch.device) -> Separator:
    return load_separator(SeparatorConfig.model_validate_json(config), device)


@lru_cache(maxsize=1)
def _codec(config: str, device: torch.device) -> Codec:
    return load_codec(CodecConfig.model_validate_json(config), device)
