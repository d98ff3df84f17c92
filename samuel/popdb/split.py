"""Which songs are held out."""

import hashlib
import logging

logger = logging.getLogger(__name__)


def held_out(song_ids: list[str], share: float, seed: int) -> set[str]:
    """The songs of the validation split.

    A song is held out when a hash of its id falls below `share`, so that its side never depends on which
    other songs there are. Where no hash does, the lowest one is taken, as long as a song remains to train on.
    """
    if share == 0.0 or not song_ids:
        return set()
    if len(set(song_ids)) == 1:
        logger.warning("one song only: nothing is held out, the validation loss is over training pairs")
        return set()
    rank = {song_id: _uniform(seed, song_id) for song_id in song_ids}
    below = {song_id for song_id, place in rank.items() if place < share}
    return below if below and len(below) < len(rank) else {min(rank, key=lambda song_id: rank[song_id])}


def _uniform(seed: int, song_id: str) -> float:
    hashed = hashlib.sha256(f"{seed}:{song_id}".encode()).digest()
    return int.from_bytes(hashed[:8], "big") / 2**64
