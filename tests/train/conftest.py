import shutil
from pathlib import Path

import pytest

from samuel.artifacts import Artifact
from samuel.config import Settings
from samuel.popdb.dataset import Popdb, open_popdb
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import encoded_song, small_settings
from tests.train.trainings import fitted


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return small_settings(tmp_path)


@pytest.fixture(scope="package")
def popdb(tmp_path_factory: pytest.TempPathFactory) -> Popdb:
    """Five songs to train on, three held out."""
    root = tmp_path_factory.mktemp("popdb")
    apart = small_settings(root, popdb={"validation_share": 0.4})
    return write_popdb([encoded_song(root, name) for name in "abcdefgh"], apart)


@pytest.fixture(scope="package")
def whole(popdb: Popdb, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The model of an undisturbed training of six steps."""
    root = tmp_path_factory.mktemp("whole")
    return fitted(popdb, small_settings(root), root / "run")


@pytest.fixture
def own_popdb(popdb: Popdb, tmp_path: Path) -> Popdb:
    """A copy to damage."""
    return open_popdb(Path(shutil.copytree(popdb.root, tmp_path / "own")))
