"""Which recordings are held out."""

import hashlib
import logging

logger = logging.getLogger(__name__)


def held_out(recordings: list[str], share: float, seed: int) -> set[str]:
    """The recordings of the validation split, by digest or another stable name.

    A recording is held out when a hash of its name falls below `share`, so that its side never depends on
    which others there are. Where no hash does, the lowest one is taken, as long as one remains to train on.
    """
    if share == 0.0 or not recordings:
        return set()
    if len(set(recordings)) == 1:
        logger.warning("one recording only: nothing is held out, the validation loss is over training pairs")
        return set()
    rank = {recording: _uniform(seed, recording) for recording in recordings}
    below = {recording for recording, place in rank.items() if place < share}
    return below if below and len(below) < len(rank) else {min(rank, key=lambda recording: rank[recording])}


def _uniform(seed: int, recording: str) -> float:
    hashed = hashlib.sha256(f"{seed}:{recording}".encode()).digest()
    return int.from_bytes(hashed[:8], "big") / 2**64
