"""Songs of noise for datasets, and what datasets are made of byte for byte."""

import dataclasses
import hashlib
from pathlib import Path

from samuel.popdb.dataset import LOCK
from samuel.popdb.status import Outcome, Status
from tests.popdb.latents import encoded_song, failed_song


def songs(root: Path) -> list[Outcome]:
    encoded = [encoded_song(root, name, pairs) for name, pairs in (("c", 2), ("a", 3), ("b", 1))]
    return [*encoded, failed_song("d", Status.UNAVAILABLE), failed_song("e", Status.TOO_SHORT, "encode")]


def sung(song: Outcome, *shares: float) -> Outcome:
    """The song with these vocal shares of its chunks."""
    chunks = [
        chunk | {"vocal_share": share} for chunk, share in zip(song.record["chunks"], shares, strict=True)
    ]
    return dataclasses.replace(song, record=song.record | {"chunks": chunks})


def songs_sung(root: Path) -> list[Outcome]:
    """Of `songs`, a loses its first chunk at a least vocal share of ½, b its only one, c its second."""
    c, a, b, *failed = songs(root)
    return [sung(c, 0.9, 0.1), sung(a, 0.0, 0.5, 0.75), sung(b, 0.4999), *failed]


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != LOCK)
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
