"""Synthetic songs whose true stems are known.

Every song is a pure function of (seed, index): a score (`score`) is sung (`voice`), played (`band`) and mixed
(`room`, `song`). The accompaniment plays the chords from which the melody is built, so there is something to
learn.
"""

from samuel.synthetic.song import VERSION, SyntheticSong, compose, write_song

__all__ = ["VERSION", "SyntheticSong", "compose", "write_song"]
