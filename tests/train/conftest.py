from pathlib import Path

import pytest

from samuel.config import Settings
from samuel.popdb.dataset import Popdb
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import encoded_song, small_settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return small_settings(tmp_path)


@pytest.fixture
def popdb(tmp_path: Path, settings: Settings) -> Popdb:
    """Five songs to train on, three held out."""
    apart = small_settings(tmp_path, popdb={"validation_share": 0.4})
    return write_popdb([encoded_song(tmp_path, name) for name in "abcdefgh"], apart)
