"""A model for tests, trained on the spot."""

from pathlib import Path

from samuel.codecs import load_codec
from samuel.config import CodecConfig
from samuel.device import resolve_device
from samuel.popdb.writer import write_popdb
from samuel.train import fit
from tests.popdb.latents import encoded_song, small_settings


def small_model(root: Path) -> Path:
    """The folder of a model of some thousand parameters, for pairs of 64 frames of the codec `mel`: what it
    writes is noise, and about as loud as music."""
    settings = small_settings(root, training={"steps": 2})
    popdb = write_popdb([encoded_song(root, name, mean=-3.0) for name in "ab"], settings)
    popdb.info["codec"] = load_codec(CodecConfig(), resolve_device("cpu")).identity
    return fit(popdb, settings, root / "run", lambda _: None).folder
