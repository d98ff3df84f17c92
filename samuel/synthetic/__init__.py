"""Synthetic songs whose true stems are known: a score is sung (`voice`), played (`band`), mixed (`song`)."""

from samuel.synthetic.song import VERSION, SyntheticSong, compose, write_song

__all__ = ["VERSION", "SyntheticSong", "compose", "write_song"]
