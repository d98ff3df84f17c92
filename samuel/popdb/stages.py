"""Songs through the stages that compute: audio → stems → paired latents (paper §III-C).

An artifact's folder is named by all that determines its content: the digest of the song's audio, and for each
stage so far the version of its code, the identity of its weights and its settings. So stems can be removed.
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from safetensors.torch import save
from torch import Tensor

from samuel.artifacts import Artifact, digest, make_artifact
from samuel.audio import MOST_PEAK, SAMPLE_RATE, SILENCE_DBFS, Audio, dbfs, filter_reach, read_wav
from samuel.codecs.base import Codec, encode_audio, loudest_chunk, require_faithful
from samuel.concurrency import side_by_side
from samuel.errors import InputError, MissingPartError, SettingsError, SongError
from samuel.popdb.acquire import AUDIO
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status, attempt
from samuel.popdb.tables import LATENTS
from samuel.popdb.vocal_activity import vocal_activity, vocal_share
from samuel.separators import Separator

logger = logging.getLogger(__name__)

# Raise a stage's version when its code gives other bytes for the same input.
VERSIONS = {"separate": 2, "encode": 2}
TRUE_STEMS, TRUE_STEMS_VERSION = "true-stems/1", 1
VOCALS, ACCOMPANIMENT = STEMS = ("vocals.flac", "accompaniment.flac")
FULL_SCALE = 2**23  # of the 24 bits that stems are stored in

Done = Callable[[Outcome], object]


def separate_songs(downloaded: Sequence[Outcome], parts: Parts, done: Done = lambda _: None) -> list[Outcome]:
    """Audio → stems in `data/stems/<key>`, in the order given; a song that failed before passes through.

    `done` is called with each outcome as it comes. What concerns all songs is raised; what is done stays.
    """

    def make(audio: Artifact, folder: Path) -> dict[str, Any]:
        _prove_codec(parts, lambda: read_wav(audio.path(AUDIO)))
        return separate(parts.separator, audio.path(AUDIO), folder)

    separator = parts.separator
    made_by = {"separator": separator.identity}
    return _run("separate", stems_folder, make, made_by, separator.cancel, downloaded, parts, done)


def encode_songs(separated: Sequence[Outcome], parts: Parts, done: Done = lambda _: None) -> list[Outcome]:
    """Stems → `data/latents/<key>`, as `separate_songs`; then what `retention` lets go is removed."""
    retention, frames = parts.settings.retention, parts.settings.popdb.chunk_frames

    def make(stems: Artifact, folder: Path) -> dict[str, Any]:
        vocals, accompaniment = read_stems(stems.folder, stems.record["stems_scale"])
        _prove_codec(parts, lambda: vocals + accompaniment)
        return encode_stems(parts.codec, vocals, accompaniment, frames, folder)

    def release_spent(song: Outcome) -> None:
        for source, kept in zip(song.sources, (retention.audio, retention.stems), strict=False):
            if song.ok and kept == "remove":
                parts.store.release(source.folder)
        done(song)

    codec = parts.codec
    made_by = {"codec": codec.info.model_dump()}
    encoded = _run("encode", latents_folder, make, made_by, codec.cancel, separated, parts, release_spent)
    return [replace(song, sources=()) for song in encoded]  # which nobody needs, and a long list has many of


def songs_in_hand(parts: Parts) -> int:
    """How many songs a stage has in hand at a time."""
    return parts.settings.songs_in_hand or (6 if parts.device.type == "cuda" else 2)


def reclaim_audio(parts: Parts) -> int:
    """Have audio downloaded again that was removed and other settings want; of how many songs."""
    store, data = parts.store, parts.settings.data
    removed = [a for a in store.all(data / "raw") if a.released and AUDIO in a.sha256]
    if not removed:
        return 0
    there = {artifact.folder for artifact in store.all(data / "stems") if not artifact.released}
    there |= {artifact.folder for artifact in store.all(data / "latents")}
    wanted = [a for a in removed if not {stems_folder(a, parts), latents_folder(a, parts)} & there]
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


def _run(
    stage: str,
    folder_of: Callable[[Artifact, Parts], Path],  # where what is made of a downloaded song's audio belongs
    make: Callable[[Artifact, Path], dict[str, Any]],  # (source on this machine, folder) → record
    made_by: dict[str, Any],
    cancel: Callable[[], object],
    songs: Sequence[Outcome],
    parts: Parts,
    done: Done,
) -> list[Outcome]:
    outcomes, store = dict[int, Outcome](), parts.store

    def attempt_song(song: Outcome, may_make: bool) -> Outcome | None:
        if song.artifact is None:
            return replace(song, did_work=False)
        source, sources = song.artifact, (*song.sources, song.artifact)
        folder, record = folder_of(sources[0], parts), song.record | made_by

        def fetch_and_make(target: Path) -> dict[str, Any]:
            return make(store.fetch(source), target)

        attempted = partial(attempt, song.song, stage, folder, earlier=record, store=store)
        found = attempted(fetch_and_make if may_make else None)
        released = found and found.artifact and found.artifact.released
        # What was removed counts as there while latents that were made of it are.
        if released and not store.find(latents_folder(sources[0], parts)):
            if not may_make:
                return None
            store.forget(folder)
            found = attempted(fetch_and_make)
        return found and replace(found, sources=sources)

    # What is known here comes first, as threads that only read small files hinder each other; a store far
    # away is asked by several at a time.
    for place, song in enumerate(songs if parts.settings.store is None else ()):
        if outcome := attempt_song(song, False):
            outcomes[place] = outcome
            done(outcome)
    left = [place for place in range(len(songs)) if place not in outcomes]
    made = side_by_side(lambda place: attempt_song(songs[place], True), left, songs_in_hand(parts), cancel)
    for number, outcome in made:
        assert outcome  # noqa: S101 - it was made, or failed
        outcomes[left[number]] = outcome
        done(outcome)
    return [outcomes[place] for place in range(len(songs))]


def _prove_codec(parts: Parts, read_song: Callable[[], Audio]) -> None:
    """Have a chunk come back as it was, once for each codec, before the long work; or a MissingPartError."""
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


def round_trip_folder(parts: Parts) -> Path:
    """The folder that tells that the codec gives back what it encodes."""
    return parts.settings.data / "latents" / ".round_trips" / digest(parts.codec.info)


def encode_true_stems(parts: Parts, songs: int, done: Done) -> list[Outcome]:
    """Encode the true stems of the first synthetic songs of `songs.seed`, which no separator has touched."""
    from samuel.synthetic.song import VERSION, compose

    if parts.settings.songs.source != "synthetic":
        raise SettingsError("true stems are those of songs.source = 'synthetic'; set it")
    seed, frames, codec = parts.settings.songs.seed, parts.settings.popdb.chunk_frames, parts.codec
    made_by = {"separator": TRUE_STEMS, "codec": codec.info.model_dump()}

    def encode(index: int) -> Outcome:
        key = digest("true stems", TRUE_STEMS_VERSION, VERSION, codec.info, frames, seed, index)

        def make(folder: Path) -> dict[str, Any]:
            song = compose(seed, index)
            chunks = encode_stems(codec, song.vocals, song.accompaniment, frames, folder)
            return {"title": song.title, **chunks}

        song, recorded = Song(key, ""), {"audio_sha256": key, "video_id": None, **made_by}
        encoded = attempt(song, "encode", parts.settings.data / "latents" / key, make, recorded)
        assert encoded  # noqa: S101 - it was made, or failed
        title = encoded.record.get("title", f"song {index} of seed {seed}")
        return replace(encoded, song=replace(song, title=title))

    outcomes: dict[int, Outcome] = {}
    for index, outcome in side_by_side(encode, range(songs), min(songs, os.cpu_count() or 1), codec.cancel):
        outcomes[index] = outcome
        done(outcome)
    return [outcomes[index] for index in range(songs)]


def separate(separator: Separator, audio_wav: Path, folder: Path) -> dict[str, Any]:
    """Write both stems of a song into `folder`; their scale and levels, or a SongError."""
    mix = read_wav(audio_wav)
    if not np.isfinite(mix).all():
        raise SongError(Status.NOT_FINITE, "the song: samples that are no numbers")
    if (peak := float(np.abs(mix).max(initial=0.0))) > MOST_PEAK:
        raise SongError(Status.DECODE_FAILED, f"samples of up to {peak:g}, where full scale is 1")
    if dbfs(mix) < SILENCE_DBFS:
        raise SongError(Status.SILENT, f"{dbfs(mix):.1f} dBFS, under {SILENCE_DBFS:.0f}")
    vocals = separator.vocals(mix)
    if not np.isfinite(vocals).all():
        message = f"the vocals by {separator.identity}: samples that are no numbers"
        raise SongError(Status.NOT_FINITE, message)
    return {
        "stems_scale": write_stems(mix, vocals, folder),
        "vocals_dbfs": round(dbfs(vocals), 4),
        "accompaniment_dbfs": round(dbfs(mix - vocals), 4),
        "peak": round(peak, 4),
    }


def write_stems(mix: Audio, vocals: Audio, folder: Path) -> float:
    """Write `vocals.flac` and `accompaniment.flac`, the mix less the vocals, in 24 bits; their scale.

    Song and vocals, each (2, S) and finite, are rounded to one grid, and the accompaniment is their
    difference on it: the two sum to the song to the last bit. The scale is under 1 where something
    overshoots.
    """
    highest = max(float(np.abs(signal).max()) for signal in (mix, vocals, mix - vocals))
    scale = 1.0
    while highest * scale * FULL_SCALE > FULL_SCALE - 2:  # two roundings meet in the difference
        scale /= 2
    song, sung = (np.rint(audio * np.float32(scale * FULL_SCALE)).astype(np.int32) for audio in (mix, vocals))
    for name, grid in ((VOCALS, sung), (ACCOMPANIMENT, song - sung)):
        # libsndfile takes the upper 24 of 32 bits.
        soundfile.write(folder / name, grid.T << 8, SAMPLE_RATE, format="FLAC", subtype="PCM_24")
    return scale


def read_stems(folder: Path, scale: float) -> tuple[Audio, Audio]:
    """Vocals and accompaniment, each (2, S) float32, as `write_stems` stored them; or an InputError."""
    stems: list[Audio] = []
    for path in (folder / name for name in STEMS):
        try:
            samples, _ = soundfile.read(path, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise InputError(f"{path}: not readable ({error}); remove its folder to mend it") from error
        stems.append(np.ascontiguousarray(samples.T) / np.float32(scale))
    return stems[0], stems[1]


def encode_stems(
    codec: Codec, vocals: Audio, accompaniment: Audio, chunk_frames: int, folder: Path
) -> dict[str, Any]:
    """Encode both stems of a song, each (2, S) at 44.1 kHz, into `folder/latents.safetensors`.

    The file holds `vocal` and `accompaniment`, each float16 (N, C, chunk_frames), unscaled; chunk k of both
    stands for the same stretch of time. The rest after the last whole chunk is dropped. Returned are
    `chunks`, each its start_s, vocal_share, vocal_rms_db (dBFS) and mix_peak.
    """
    info = codec.info
    chunks = vocals.shape[1] * info.sample_rate // (chunk_frames * info.hop * SAMPLE_RATE)
    if chunks == 0:
        length_s, needed_s = vocals.shape[1] / SAMPLE_RATE, info.duration_s(chunk_frames)
        raise SongError(Status.TOO_SHORT, f"{length_s:.2f} s of audio, one chunk needs {needed_s:.2f} s")
    stems = {"vocal": vocals, "accompaniment": accompaniment}
    latents = {name: _encode_chunks(codec, stem, chunks, chunk_frames) for name, stem in stems.items()}
    # Not `save_file`: a full disk is an OSError here, and nothing that could be told from a fault there.
    (folder / LATENTS).write_bytes(save(latents))
    mix = vocals + accompaniment
    active = vocal_activity(vocals, mix)
    rows: list[dict[str, float]] = []
    for first, end in pairwise(info.samples(chunk * chunk_frames) for chunk in range(chunks + 1)):
        start_s, duration_s = first / SAMPLE_RATE, (end - first) / SAMPLE_RATE
        levels = {"vocal_rms_db": dbfs(vocals[:, first:end]), "mix_peak": float(abs(mix[:, first:end]).max())}
        row = {"start_s": start_s, "vocal_share": vocal_share(active, start_s, duration_s), **levels}
        rows.append({name: round(value, 4) for name, value in row.items()})
    return {"chunks": rows}


def _encode_chunks(codec: Codec, stem: Audio, chunks: int, chunk_frames: int) -> Tensor:
    """(2, S) → (N, C, chunk_frames) float16, as if the whole song were encoded and the rest dropped."""
    frames, info = chunks * chunk_frames, codec.info
    needed = info.samples(frames + codec.encode_reach) + filter_reach(SAMPLE_RATE, info.sample_rate)
    whole = encode_audio(codec, stem[:, :needed])[:, :frames].to(torch.float16)
    # Checked as float16, which overflows where float32 would not.
    if not torch.isfinite(whole).all():
        raise SongError(Status.NOT_FINITE, f"latents of {info} hold values that float16 cannot")
    return whole.unflatten(1, (chunks, chunk_frames)).movedim(1, 0).contiguous()
