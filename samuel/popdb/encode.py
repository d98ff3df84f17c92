"""Stems → paired latents (paper §III-C): whole songs encoded, cut into chunks, the shorter rest dropped."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from samuel.audio import SAMPLE_RATE, Audio, dbfs
from samuel.codec import HOP, REACH, Codec
from samuel.errors import SongError
from samuel.files import Entry
from samuel.popdb.activity import vocal_activity, vocal_share
from samuel.popdb.status import Status
from samuel.popdb.stems import read_stems


def encode_pair(codec: Codec, stems: Entry, chunk_frames: int, folder: Path) -> dict[str, Any]:
    """Encode both stems of a song into `folder/latents.safetensors`; a maker for `make_entry`.

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
