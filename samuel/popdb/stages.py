"""Songs through the stages that compute: separate, encode (paper §III-C).

The folder of each stage is named by what determines its content: the digest of the song's audio, settings
and code of the stages up to it, the identity of their weights. Nothing else of the stems determines the
latents, so stems can be removed. Several songs are in hand at a time: some are read or written while others
are computed.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from samuel.artifacts import Artifact, digest, make_artifact
from samuel.audio import CHANNELS, SAMPLE_RATE, Audio, dbfs, read_wav
from samuel.codecs.base import HOP, REACH, Codec
from samuel.codecs.round_trip import loudest_chunk, require_faithful
from samuel.concurrency import side_by_side
from samuel.errors import InputError, MissingPartError, SongError
from samuel.popdb.parts import Parts
from samuel.popdb.status import Outcome, Status, attempt, found
from samuel.popdb.vocal_activity import vocal_activity, vocal_share
from samuel.separators import Separator

logger = logging.getLogger(__name__)


# The two stems of a song on disk: 24-bit FLAC, whose sum is the song to the last bit.
#
# Song and vocals are rounded to one grid, and the accompaniment is the difference of the two on that grid.
# What
# overshoots full scale is stored at a half, a quarter, …: `stems_scale` of the entry's record.


VOCALS = "vocals.flac"
ACCOMPANIMENT = "accompaniment.flac"
FULL_SCALE = 2**23
"""Of 24 bits."""

Grid = NDArray[np.int32]


def write_stems(mix: Audio, vocals: Audio, folder: Path) -> float:
    """Write `vocals.flac` and `accompaniment.flac`, the mix less the vocals; the scale they are stored at.

    Args:
        mix: (2, S) float32, finite.
        vocals: (2, S) float32, finite.
        folder: Where they go.
    """
    highest = max(float(np.abs(signal).max()) for signal in (mix, vocals, mix - vocals))
    scale = 1.0
    while highest * scale * FULL_SCALE > FULL_SCALE - 2:  # two roundings meet in the difference
        scale /= 2
    sung = _on_grid(vocals, scale)
    _write(folder / VOCALS, sung)
    _write(folder / ACCOMPANIMENT, _on_grid(mix, scale) - sung)
    return scale


def read_stems(folder: Path, scale: float) -> tuple[Audio, Audio]:
    """Vocals and accompaniment, each (2, S) float32; their sum is exact in float32.

    Args:
        folder: Where `write_stems` wrote them.
        scale: What it returned.

    Raises:
        InputError: A file is absent or damaged, or they are no pair.
    """
    vocals, accompaniment = _read(folder / VOCALS, scale), _read(folder / ACCOMPANIMENT, scale)
    if vocals.shape != accompaniment.shape:
        raise InputError(f"{folder}: stems of different length; remove the folder, and they are made again")
    return vocals, accompaniment


def _on_grid(audio: Audio, scale: float) -> Grid:
    return np.rint(audio * np.float32(scale * FULL_SCALE)).astype(np.int32)


def _write(path: Path, grid: Grid) -> None:
    # libsndfile takes the upper 24 of 32 bits.
    soundfile.write(path, grid.T << 8, SAMPLE_RATE, format="FLAC", subtype="PCM_24")


def _read(path: Path, scale: float) -> Audio:
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise InputError(
            f"{path}: not readable ({error}); remove its folder to have it made again"
        ) from error
    if rate != SAMPLE_RATE or samples.shape[1] != CHANNELS:
        raise InputError(f"{path}: {rate} Hz, {samples.shape[1]} channels; expected {SAMPLE_RATE} Hz stereo")
    return np.ascontiguousarray(samples.T) / np.float32(scale)


# A song → its stems on disk (paper §III-C): the vocals, and everything else.


SILENCE_DBFS = -60.0
"""A song below this level has nothing to separate."""
MOST_PEAK = 16.0
"""Lossy sources overshoot full scale by a half; what is far above it was never scaled to it."""


def separate(separator: Separator, audio_wav: Path, folder: Path) -> dict[str, Any]:
    """Write both stems of a song into `folder`, as `stems` stores them; a maker for `make_artifact`.

    Returns:
        stems_scale, vocals_dbfs, accompaniment_dbfs and the peak of the mix.

    Raises:
        SongError: silent, decode_failed where the samples are not scaled to [-1, 1], or not_finite where the
            song or its vocals hold a value that is no number.
    """
    mix = read_wav(audio_wav)
    _require_finite(mix, "the song")
    if (peak := float(np.abs(mix).max(initial=0.0))) > MOST_PEAK:
        raise SongError(Status.DECODE_FAILED, f"samples of up to {peak:g}, where full scale is 1")
    if dbfs(mix) < SILENCE_DBFS:
        raise SongError(Status.SILENT, f"{dbfs(mix):.1f} dBFS, under {SILENCE_DBFS:.0f}")
    vocals = separator.vocals(mix)
    _require_finite(vocals, f"the vocals by {separator.identity}")
    return {
        "stems_scale": write_stems(mix, vocals, folder),
        "vocals_dbfs": round(dbfs(vocals), 4),
        "accompaniment_dbfs": round(dbfs(mix - vocals), 4),
        "peak": round(peak, 4),
    }


def _require_finite(audio: Audio, what: str) -> None:
    if not np.isfinite(audio).all():
        raise SongError(Status.NOT_FINITE, f"{what}: samples that are no numbers")


# Stems → paired latents (paper §III-C): whole songs encoded, cut into chunks, the shorter rest dropped.


def encode_pair(codec: Codec, stems: Artifact, chunk_frames: int, folder: Path) -> dict[str, Any]:
    """Encode both stems of a song into `folder/latents.safetensors`; a maker for `make_artifact`.

    The file holds `vocal` and `accompaniment`, each float16 (N, 64, chunk_frames), unscaled; chunk k of both
    stands for the same samples, from k · chunk_frames · 2048 on.

    Args:
        codec: Audio to latents.
        stems: What `separate` made.
        chunk_frames: Latent frames of a chunk.
        folder: Where the file goes.

    Returns:
        `chunks`: for each its start_s, vocal_share, vocal_rms_db (dBFS) and mix_peak.

    Raises:
        SongError: too_short where no whole chunk fits, not_finite where a latent is not a float16 number.
    """
    vocals, accompaniment = read_stems(stems.folder, stems.record["stems_scale"])
    return encode_audio(codec, vocals, accompaniment, chunk_frames, folder)


def encode_audio(
    codec: Codec, vocals: Audio, accompaniment: Audio, chunk_frames: int, folder: Path
) -> dict[str, Any]:
    """`encode_pair` of stems that are at hand, each (2, S)."""
    chunks = _whole_chunks(vocals.shape[1], chunk_frames)
    latents = {
        "vocal": _encode(codec, vocals, chunks, chunk_frames),
        "accompaniment": _encode(codec, accompaniment, chunks, chunk_frames),
    }
    # Not `save_file`: a full disk is an OSError here, and nothing that could be told from a fault there.
    (folder / "latents.safetensors").write_bytes(save(latents))
    return {"chunks": _describe(vocals, vocals + accompaniment, chunks, chunk_frames)}


def _whole_chunks(samples: int, chunk_frames: int) -> int:
    count = samples // (chunk_frames * HOP)
    if count == 0:
        length_s, needed_s = samples / SAMPLE_RATE, chunk_frames * HOP / SAMPLE_RATE
        raise SongError(Status.TOO_SHORT, f"{length_s:.2f} s of audio, one chunk needs {needed_s:.2f} s")
    return count


def _encode(codec: Codec, stem: Audio, chunks: int, chunk_frames: int) -> Tensor:
    """(2, S) → (N, 64, chunk_frames) float16, as if the whole song were encoded and the rest dropped."""
    needed = stem[:, : (chunks * chunk_frames + REACH) * HOP]
    latents = codec.encode(torch.from_numpy(needed)[None])[0].to(torch.float16)
    whole = latents[:, : chunks * chunk_frames]
    # Checked as float16, which overflows where float32 would not.
    if not torch.isfinite(whole).all():
        raise SongError(Status.NOT_FINITE, f"latents of {codec.identity} hold values that float16 cannot")
    return whole.unflatten(1, (chunks, chunk_frames)).movedim(1, 0).contiguous()


def _describe(vocals: Audio, mix: Audio, chunks: int, chunk_frames: int) -> list[dict[str, float]]:
    active = vocal_activity(vocals, mix)
    length = chunk_frames * HOP
    rows: list[dict[str, float]] = []
    for first in range(0, chunks * length, length):
        vocal, whole = vocals[:, first : first + length], mix[:, first : first + length]
        share = vocal_share(active, first / SAMPLE_RATE, length / SAMPLE_RATE)
        rows.append(
            {
                "start_s": round(first / SAMPLE_RATE, 4),
                "vocal_share": round(share, 4),
                "vocal_rms_db": round(dbfs(vocal), 4),
                "mix_peak": round(float(abs(whole).max()), 4),
            }
        )
    return rows


# Raise a stage's version when its code gives other bytes for the same input.
VERSIONS = {"separate": 2, "encode": 2}
AUDIO = "audio.wav"


Done = Callable[[Outcome], object]


def separate_songs(downloaded: Sequence[Outcome], parts: Parts, done: Done = lambda _: None) -> list[Outcome]:
    """`separate_song` for each, in the order given; `done` is told of each when it is over."""
    return _in_hand(stems_known, separate_song, downloaded, parts, done, parts.separator.cancel)


def encode_songs(separated: Sequence[Outcome], parts: Parts, done: Done = lambda _: None) -> list[Outcome]:
    """`encode_song` for each, in the order given; then what `settings.retention` lets go is removed.

    What comes back no longer names its sources, which nobody needs and a long list has many of.
    """

    def over(song: Outcome) -> None:
        _release_spent(song, parts)
        done(song)

    encoded = _in_hand(latents_known, encode_song, separated, parts, over, parts.codec.cancel)
    return [replace(song, sources=()) for song in encoded]


def stems_known(downloaded: Outcome, parts: Parts) -> Outcome | None:
    """What `separate_song` gives where there is nothing to do; None where there is."""
    if downloaded.artifact is None:
        return replace(downloaded, did_work=False)
    audio = downloaded.artifact
    folder, record = stems_folder(audio, parts), _with_separator(downloaded, parts)
    separated = found(downloaded.song, "separate", folder, record, parts.store)
    if separated is None or _gone(separated, audio, parts):
        return None
    return replace(separated, sources=(audio,))


def separate_song(downloaded: Outcome, parts: Parts) -> Outcome:
    """Audio → stems in `data/stems/<key>`; a song that failed passes through."""
    if downloaded.artifact is None:
        return replace(downloaded, did_work=False)
    separator, audio, pieces = parts.separator, downloaded.artifact, parts.store
    folder, record = stems_folder(audio, parts), _with_separator(downloaded, parts)

    def make(target: Path) -> dict[str, Any]:
        path = pieces.fetch(audio).path(AUDIO)
        _prove(parts, lambda: read_wav(path))
        return separate(separator, path, target)

    def tried() -> Outcome:
        return attempt(downloaded.song, "separate", folder, make, record, pieces=pieces)

    separated = tried()
    if _gone(separated, audio, parts):
        pieces.forget(folder)
        separated = tried()
    return replace(separated, sources=(audio,))


def latents_known(separated: Outcome, parts: Parts) -> Outcome | None:
    """What `encode_song` gives where there is nothing to do; None where there is."""
    if separated.artifact is None:
        return replace(separated, did_work=False)
    [audio] = separated.sources
    folder, record = latents_folder(audio, parts), _with_codec(separated, parts)
    encoded = found(separated.song, "encode", folder, record, parts.store)
    return encoded and replace(encoded, sources=(audio, separated.artifact))


def encode_song(separated: Outcome, parts: Parts) -> Outcome:
    """Stems → `data/latents/<key>/latents.safetensors`; a song that failed passes through."""
    if separated.artifact is None:
        return replace(separated, did_work=False)
    codec, stems, pieces = parts.codec, separated.artifact, parts.store
    [audio] = separated.sources

    def make(target: Path) -> dict[str, Any]:
        here = pieces.fetch(stems)
        _prove(parts, lambda: np.add(*read_stems(here.folder, here.record["stems_scale"])))
        return encode_pair(codec, here, parts.settings.popdb.chunk_frames, target)

    encoded = attempt(
        separated.song,
        "encode",
        latents_folder(audio, parts),
        make,
        _with_codec(separated, parts),
        pieces=pieces,
    )
    return replace(encoded, sources=(audio, stems))


def reclaim_audio(parts: Parts) -> int:
    """Have audio downloaded again that was removed and is wanted, as other settings ask for other latents.

    Returns:
        How many songs that concerns.
    """
    pieces, data = parts.store, parts.settings.data
    released = (audio for audio in pieces.all(data / "raw") if audio.released and AUDIO in audio.sha256)
    removed = [replace(audio, record={}) for audio in released]  # of a long list, the records fill memory
    if not removed:
        return 0
    stems = {entry.folder for entry in pieces.all(data / "stems") if not entry.released}
    latents = {entry.folder for entry in pieces.all(data / "latents")}
    wanted = [
        audio.folder
        for audio in removed
        if latents_folder(audio, parts) not in latents and stems_folder(audio, parts) not in stems
    ]
    for folder in wanted:
        pieces.forget(folder)
    return len(wanted)


def stems_folder(audio: Artifact, parts: Parts) -> Path:
    """Where the stems of a downloaded song are, or will be."""
    return parts.settings.data / "stems" / digest("separate", *_stems_recipe(audio, parts))


def latents_folder(audio: Artifact, parts: Parts) -> Path:
    """Where the latents of a downloaded song are, or will be."""
    codec, frames = parts.codec.identity, parts.settings.popdb.chunk_frames
    recipe = [VERSIONS["encode"], *_stems_recipe(audio, parts), codec, frames]
    return parts.settings.data / "latents" / digest("encode", *recipe)


def round_trip_folder(parts: Parts) -> Path:
    """Where it is remembered that the codec gives back what it encodes."""
    return parts.settings.data / "latents" / ".round_trips" / digest(parts.codec.identity)


def songs_in_hand(parts: Parts) -> int:
    """How many songs a stage has in hand at a time."""
    if parts.settings.songs_in_hand:
        return parts.settings.songs_in_hand
    return 6 if parts.device.type == "cuda" else 2


def _in_hand(
    known: Callable[[Outcome, Parts], Outcome | None],
    work: Callable[[Outcome, Parts], Outcome],
    outcomes: Sequence[Outcome],
    parts: Parts,
    done: Done,
    cancel: Callable[[], object],
) -> list[Outcome]:
    """First what is known here: threads that only read small files, as in a rerun, hinder each other.

    A store is asked by several at a time.
    """
    results: dict[int, Outcome] = {}
    for place, outcome in enumerate(outcomes if parts.settings.store is None else ()):
        if result := known(outcome, parts):
            results[place] = result
            done(result)
    left = [place for place in range(len(outcomes)) if place not in results]
    todo = [outcomes[place] for place in left]
    for number, result in side_by_side(lambda s: work(s, parts), todo, songs_in_hand(parts), cancel):
        results[left[number]] = result
        done(result)
    return [results[place] for place in range(len(outcomes))]


def _gone(separated: Outcome, audio: Artifact, parts: Parts) -> bool:
    """Whether stems were removed, and nothing is there that was made of them."""
    released = separated.artifact is not None and separated.artifact.released
    return released and not parts.store.find(latents_folder(audio, parts))


def _with_separator(downloaded: Outcome, parts: Parts) -> dict[str, Any]:
    return downloaded.record | {"separator": parts.separator.identity}


def _with_codec(separated: Outcome, parts: Parts) -> dict[str, Any]:
    return separated.record | {"codec": parts.codec.identity}


def _release_spent(encoded: Outcome, parts: Parts) -> None:
    if not encoded.ok:
        return
    (audio, stems), pieces = encoded.sources, parts.store
    if parts.settings.retention.stems == "remove":
        pieces.release(stems.folder)
    if parts.settings.retention.audio == "remove":
        pieces.release(audio.folder)


def _prove(parts: Parts, song: Callable[[], Audio]) -> None:
    """Once for each codec, before the long work: a chunk of a song comes back as it was, or the run ends."""
    codec, samples = parts.codec, parts.settings.popdb.chunk_frames * HOP

    def make(_: Path) -> dict[str, float]:
        try:
            result = require_faithful(codec, loudest_chunk(song(), samples))
        except (MissingPartError, InputError):  # one odd song proves nothing against a codec
            from samuel.synthetic.song import compose  # two seconds of imports, hardly ever needed

            result = require_faithful(codec, loudest_chunk(compose(0, 0).mix, samples))
        logger.info("round trip of a chunk through %s: %s", codec.identity, result)
        return asdict(result)

    make_artifact(round_trip_folder(parts), make)


def _stems_recipe(audio: Artifact, parts: Parts) -> list[object]:
    return [VERSIONS["separate"], audio.sha256[AUDIO], parts.separator.identity]
