"""Songs through the stages that compute: audio → stems → paired latents (paper §III-C).

A stage turns one song's artifact into the next, in a folder that is named by all that determines its content:
the digest of the song's audio, and for each stage so far the version of its code, the identity of its weights
and its settings. Presence means done. Stems do not determine the latents beyond that, so they can be removed.
Several songs are in hand at a time: some are read or written while others are computed.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from samuel.artifacts import Artifact, digest, make_artifact
from samuel.audio import CHANNELS, SAMPLE_RATE, Audio, dbfs, filter_reach, read_wav
from samuel.codecs.base import Codec, encode_audio
from samuel.codecs.round_trip import loudest_chunk, require_faithful
from samuel.concurrency import side_by_side
from samuel.errors import InputError, MissingPartError, SongError
from samuel.popdb.parts import Parts
from samuel.popdb.status import Outcome, Status, attempt, find_outcome
from samuel.popdb.vocal_activity import vocal_activity, vocal_share
from samuel.separators import Separator

logger = logging.getLogger(__name__)

# Raise a stage's version when its code gives other bytes for the same input.
VERSIONS = {"separate": 2, "encode": 2}
AUDIO = "audio.wav"
VOCALS = "vocals.flac"
ACCOMPANIMENT = "accompaniment.flac"
LATENTS = "latents.safetensors"
FULL_SCALE = 2**23
"""Of the 24 bits that stems are stored in."""
SILENCE_DBFS = -60.0
"""A song below this level has nothing to separate."""
MOST_PEAK = 16.0
"""Lossy sources overshoot full scale by a half; what is far above it was never scaled to it."""

Done = Callable[[Outcome], object]
Grid = NDArray[np.int32]


@dataclass(frozen=True)
class Stage:
    """One step of a song.

    Attributes:
        name: As outcomes call it.
        part: What computes; its identity is recorded under this name.
        folder: Where what is made of a downloaded song's audio belongs.
        make: (source on this machine, parts, folder) → the record of what it wrote into the folder.
    """

    name: str
    part: Literal["separator", "codec"]
    folder: Callable[[Artifact, Parts], Path]
    make: Callable[[Artifact, Parts, Path], dict[str, Any]]

    def part_of(self, parts: Parts) -> Separator | Codec:
        """The part that computes."""
        return parts.separator if self.part == "separator" else parts.codec


def separate_songs(downloaded: Sequence[Outcome], parts: Parts, done: Done = lambda _: None) -> list[Outcome]:
    """Audio → stems in `data/stems/<key>`, in the order given; a song that failed before passes through.

    Args:
        downloaded: What the acquisition gave.
        parts: Of the run.
        done: Called with each outcome as it comes.

    Raises:
        SamuelError: What concerns all songs; what is done stays.
    """
    return _run(SEPARATE, downloaded, parts, done)


def encode_songs(separated: Sequence[Outcome], parts: Parts, done: Done = lambda _: None) -> list[Outcome]:
    """Stems → `data/latents/<key>`, as `separate_songs`; then what `settings.retention` lets go is removed.

    What comes back no longer names its sources, which nobody needs and a long list has many of.
    """

    def release_spent(song: Outcome) -> None:
        retention = parts.settings.retention
        for source, kept in zip(song.sources, (retention.audio, retention.stems), strict=False):
            if song.ok and kept == "remove":
                parts.store.release(source.folder)
        done(song)

    return [replace(song, sources=()) for song in _run(ENCODE, separated, parts, release_spent)]


def songs_in_hand(parts: Parts) -> int:
    """How many songs a stage has in hand at a time."""
    return parts.settings.songs_in_hand or (6 if parts.device.type == "cuda" else 2)


def reclaim_audio(parts: Parts) -> int:
    """Have audio downloaded again that was removed and is wanted, as other settings ask for other latents.

    Returns:
        How many songs that concerns.
    """
    store, data = parts.store, parts.settings.data
    released = (audio for audio in store.all(data / "raw") if audio.released and AUDIO in audio.sha256)
    removed = [replace(audio, record={}) for audio in released]  # of a long list, the records fill memory
    if not removed:
        return 0
    stems = {artifact.folder for artifact in store.all(data / "stems") if not artifact.released}
    latents = {artifact.folder for artifact in store.all(data / "latents")}
    wanted = [
        audio
        for audio in removed
        if latents_folder(audio, parts) not in latents and stems_folder(audio, parts) not in stems
    ]
    for audio in wanted:
        store.forget(audio.folder)
    return len(wanted)


def stems_folder(audio: Artifact, parts: Parts) -> Path:
    """The folder where the stems of a downloaded song belong."""
    key = digest("separate", VERSIONS["separate"], audio.sha256[AUDIO], parts.separator.identity)
    return parts.settings.data / "stems" / key


def latents_folder(audio: Artifact, parts: Parts) -> Path:
    """The folder where the latents of a downloaded song belong."""
    stems, frames = stems_folder(audio, parts).name, parts.settings.popdb.chunk_frames
    key = digest("encode", VERSIONS["encode"], stems, parts.codec.info, frames)
    return parts.settings.data / "latents" / key


def round_trip_folder(parts: Parts) -> Path:
    """The folder that tells that the codec gives back what it encodes."""
    return parts.settings.data / "latents" / ".round_trips" / digest(parts.codec.info)


def _run(stage: Stage, songs: Sequence[Outcome], parts: Parts, done: Done) -> list[Outcome]:
    outcomes: dict[int, Outcome] = {}
    # What is known here comes first, as threads that only read small files hinder each other; a store far
    # away is asked by several at a time.
    for place, song in enumerate(songs if parts.settings.store is None else ()):
        if outcome := _find(stage, song, parts):
            outcomes[place] = outcome
            done(outcome)
    left = [place for place in range(len(songs)) if place not in outcomes]
    made = side_by_side(
        lambda place: _find(stage, songs[place], parts) or _make(stage, songs[place], parts),
        left,
        songs_in_hand(parts),
        stage.part_of(parts).cancel,
    )
    for number, outcome in made:
        outcomes[left[number]] = outcome
        done(outcome)
    return [outcomes[place] for place in range(len(songs))]


def _find(stage: Stage, song: Outcome, parts: Parts) -> Outcome | None:
    """The outcome without work: a failed song itself, or what is there; None where work is left.

    What was removed counts as there while latents that were made of it are.
    """
    if song.artifact is None:
        return replace(song, did_work=False)
    sources = (*song.sources, song.artifact)
    folder, record = stage.folder(sources[0], parts), _record(stage, song, parts)
    found = find_outcome(song.song, stage.name, folder, record, parts.store)
    if found is None or (_released(found) and not parts.store.find(latents_folder(sources[0], parts))):
        return None
    return replace(found, sources=sources)


def _make(stage: Stage, song: Outcome, parts: Parts) -> Outcome:
    """The outcome of a stage for a song for which `_find` has nothing."""
    source, store = cast("Artifact", song.artifact), parts.store  # a failed song is `_find`'s
    sources = (*song.sources, source)
    folder, record = stage.folder(sources[0], parts), _record(stage, song, parts)

    def make(target: Path) -> dict[str, Any]:
        return stage.make(store.fetch(source), parts, target)

    outcome = attempt(song.song, stage.name, folder, make, record, store=store)
    if _released(outcome):
        store.forget(folder)
        outcome = attempt(song.song, stage.name, folder, make, record, store=store)
    return replace(outcome, sources=sources)


def _record(stage: Stage, song: Outcome, parts: Parts) -> dict[str, Any]:
    made_by = parts.codec.info.model_dump() if stage.part == "codec" else parts.separator.identity
    return song.record | {stage.part: made_by}


def _released(outcome: Outcome) -> bool:
    return outcome.artifact is not None and outcome.artifact.released


def _make_stems(audio: Artifact, parts: Parts, folder: Path) -> dict[str, Any]:
    path = audio.path(AUDIO)
    _prove_codec(parts, lambda: read_wav(path))
    return separate(parts.separator, path, folder)


def _make_latents(stems: Artifact, parts: Parts, folder: Path) -> dict[str, Any]:
    _prove_codec(parts, lambda: np.add(*read_stems(stems.folder, stems.record["stems_scale"])))
    return encode_pair(parts.codec, stems, parts.settings.popdb.chunk_frames, folder)


SEPARATE = Stage("separate", "separator", stems_folder, _make_stems)
ENCODE = Stage("encode", "codec", latents_folder, _make_latents)


def _prove_codec(parts: Parts, read_song: Callable[[], Audio]) -> None:
    """Have a chunk of a song come back as it was, once for each codec and before the long work.

    Raises:
        MissingPartError: It does not: these weights give back noise.
    """
    codec = parts.codec
    samples = codec.info.samples(parts.settings.popdb.chunk_frames)

    def make(_: Path) -> dict[str, float]:
        try:
            result = require_faithful(codec, loudest_chunk(read_song(), samples))
        except (MissingPartError, InputError):  # one odd song proves nothing against a codec
            from samuel.synthetic.song import compose  # two seconds of imports, hardly ever needed

            result = require_faithful(codec, loudest_chunk(compose(0, 0).mix, samples))
        logger.info("round trip of a chunk through %s: %s", codec.info, result)
        return asdict(result)

    make_artifact(round_trip_folder(parts), make)


def separate(separator: Separator, audio_wav: Path, folder: Path) -> dict[str, Any]:
    """Write both stems of a song into `folder`.

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


def write_stems(mix: Audio, vocals: Audio, folder: Path) -> float:
    """Write `vocals.flac` and `accompaniment.flac`, the mix less the vocals, in 24 bits.

    Song and vocals are rounded to one grid, and the accompaniment is their difference on it: the two sum to
    the song to the last bit.

    Args:
        mix: (2, S) float32, finite.
        vocals: (2, S) float32, finite.
        folder: Where they go.

    Returns:
        The scale they are stored at: a half, a quarter, … where something overshoots full scale.
    """
    highest = max(float(np.abs(signal).max()) for signal in (mix, vocals, mix - vocals))
    scale = 1.0
    while highest * scale * FULL_SCALE > FULL_SCALE - 2:  # two roundings meet in the difference
        scale /= 2
    sung = _on_grid(vocals, scale)
    for name, grid in ((VOCALS, sung), (ACCOMPANIMENT, _on_grid(mix, scale) - sung)):
        # libsndfile takes the upper 24 of 32 bits.
        soundfile.write(folder / name, grid.T << 8, SAMPLE_RATE, format="FLAC", subtype="PCM_24")
    return scale


def _on_grid(audio: Audio, scale: float) -> Grid:
    return np.rint(audio * np.float32(scale * FULL_SCALE)).astype(np.int32)


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


def encode_pair(codec: Codec, stems: Artifact, chunk_frames: int, folder: Path) -> dict[str, Any]:
    """`encode_stems` of those that `separate` wrote."""
    vocals, accompaniment = read_stems(stems.folder, stems.record["stems_scale"])
    return encode_stems(codec, vocals, accompaniment, chunk_frames, folder)


def encode_stems(
    codec: Codec, vocals: Audio, accompaniment: Audio, chunk_frames: int, folder: Path
) -> dict[str, Any]:
    """Encode both stems of a song into `folder/latents.safetensors`, whole chunks only.

    The file holds `vocal` and `accompaniment`, each float16 (N, C, chunk_frames), unscaled; chunk k of both
    stands for the same stretch of time. The rest after the last chunk is dropped.

    Args:
        codec: Audio to latents.
        vocals: (2, S) at 44.1 kHz.
        accompaniment: (2, S) at 44.1 kHz.
        chunk_frames: Latent frames of a chunk.
        folder: Where the file goes.

    Returns:
        `chunks`: for each its start_s, vocal_share, vocal_rms_db (dBFS) and mix_peak.

    Raises:
        SongError: too_short where no whole chunk fits, not_finite where a latent is not a float16 number.
    """
    length_s, needed_s = vocals.shape[1] / SAMPLE_RATE, codec.info.duration_s(chunk_frames)
    chunks = vocals.shape[1] * codec.info.sample_rate // (chunk_frames * codec.info.hop * SAMPLE_RATE)
    if chunks == 0:
        raise SongError(Status.TOO_SHORT, f"{length_s:.2f} s of audio, one chunk needs {needed_s:.2f} s")
    latents = {
        "vocal": _encode_chunks(codec, vocals, chunks, chunk_frames),
        "accompaniment": _encode_chunks(codec, accompaniment, chunks, chunk_frames),
    }
    # Not `save_file`: a full disk is an OSError here, and nothing that could be told from a fault there.
    (folder / LATENTS).write_bytes(save(latents))
    bounds = [codec.info.samples(chunk * chunk_frames) for chunk in range(chunks + 1)]
    return {"chunks": _describe(vocals, vocals + accompaniment, bounds)}


def _encode_chunks(codec: Codec, stem: Audio, chunks: int, chunk_frames: int) -> Tensor:
    """(2, S) → (N, C, chunk_frames) float16, as if the whole song were encoded and the rest dropped."""
    frames, info = chunks * chunk_frames, codec.info
    needed = info.samples(frames + codec.encode_reach) + filter_reach(SAMPLE_RATE, info.sample_rate)
    whole = encode_audio(codec, stem[:, :needed])[:, :frames].to(torch.float16)
    # Checked as float16, which overflows where float32 would not.
    if not torch.isfinite(whole).all():
        raise SongError(Status.NOT_FINITE, f"latents of {info} hold values that float16 cannot")
    return whole.unflatten(1, (chunks, chunk_frames)).movedim(1, 0).contiguous()


def _describe(vocals: Audio, mix: Audio, bounds: Sequence[int]) -> list[dict[str, float]]:
    """A row for each chunk; `bounds` are the samples at which one ends and the next begins."""
    active = vocal_activity(vocals, mix)
    rows: list[dict[str, float]] = []
    for first, end in pairwise(bounds):
        share = vocal_share(active, first / SAMPLE_RATE, (end - first) / SAMPLE_RATE)
        rows.append(
            {
                "start_s": round(first / SAMPLE_RATE, 4),
                "vocal_share": round(share, 4),
                "vocal_rms_db": round(dbfs(vocals[:, first:end]), 4),
                "mix_peak": round(float(abs(mix[:, first:end]).max()), 4),
            }
        )
    return rows
