"""Encoded songs made of noise, as the stages would leave them, and the bytes of datasets."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from samuel.artifacts import make_artifact
from samuel.codecs.mel import MelCodec
from samuel.config import Settings, parse
from samuel.popdb.folder import LOCK
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status

FRAMES = 64


def small_settings(root: Path, **sections: Any) -> Settings:
    """Settings for tests: 64-frame chunks, a network of some thousand parameters, three steps."""
    values: dict[str, Any] = {
        "data": root / "data",
        "artifacts": root / "artifacts",
        "device": "cpu",
        "popdb": {"chunk_frames": FRAMES},
        "model": {"channels": [16, 32, 32, 32], "heads": 2, "head_dim": 8},
        "training": {
            "steps": 6,
            "batch_size": 2,
            "warmup_steps": 2,
            "validate_every": 3,
            "checkpoint_every": 2,
        },
        "sampling": {"steps": 3},
    }
    return parse(values | {name: values.get(name, {}) | section for name, section in sections.items()})


def encoded_song(
    root: Path, name: str, pairs: int = 2, recording: str = "", mean: float | None = None
) -> Outcome:
    """A song of slow noise; channel c has mean c, or `mean`, and deviation 2 (vocal) or 3."""
    generator = torch.Generator().manual_seed(sum(name.encode()))
    channel = (torch.arange(64.0) if mean is None else torch.full((64,), mean))[None, :, None]
    noise = torch.randn(2, pairs, 64, FRAMES // 16, generator=generator).repeat_interleave(16, dim=-1)
    latents = {"vocal": channel + 2 * noise[0], "accompaniment": channel + 3 * noise[1]}

    def make(folder: Path) -> dict[str, Any]:
        halves = {stream: tensor.half().contiguous() for stream, tensor in latents.items()}
        save_file(halves, folder / "latents.safetensors")
        seconds = FRAMES * 2048 / 44_100
        chunk = {"vocal_share": 0.5, "vocal_rms_db": -20.0, "mix_peak": 0.9}
        return {"chunks": [{"start_s": round(i * seconds, 4), **chunk} for i in range(pairs)]}

    entry = make_artifact(root / "latents" / name, make)
    parts = {"codec": MelCodec.info.model_dump(), "separator": "repet/1"}
    record = {"video_id": None, "audio_sha256": recording or name, **parts, **entry.record}
    return Outcome(Song(name, f"Title of {name}"), "encode", Status.OK, "", 1, entry, record, did_work=True)


def failed_song(name: str, status: Status, stage: str = "download") -> Outcome:
    """A song that failed."""
    return Outcome(
        Song(name, f"Title of {name}"), stage, status, f"it is {status}", 1, None, {}, did_work=True
    )


def songs(root: Path) -> list[Outcome]:
    """Six pairs of three songs, and two songs that failed; not in the order of a dataset."""
    encoded = [encoded_song(root, name, pairs) for name, pairs in (("c", 2), ("a", 3), ("b", 1))]
    return [*encoded, failed_song("d", Status.UNAVAILABLE), failed_song("e", Status.TOO_SHORT, "encode")]


def sung(song: Outcome, *shares: float) -> Outcome:
    """The song with these vocal shares of its chunks."""
    chunks = [
        chunk | {"vocal_share": share} for chunk, share in zip(song.record["chunks"], shares, strict=True)
    ]
    return dataclasses.replace(song, record=song.record | {"chunks": chunks})


def digests(root: Path) -> dict[str, str]:
    """Digest by name of every file below a folder."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != LOCK)
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def flip_bit(path: Path, place: int = -1) -> None:
    """As a failing disk would."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
