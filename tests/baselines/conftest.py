from pathlib import Path

import pytest

from tests.baselines.layouts import write_musicgen, write_stable_audio_open
from tests.baselines.quieter import write


@pytest.fixture(scope="package")
def musicgen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "musicgen"
    write_musicgen(folder)
    return folder


@pytest.fixture(scope="package")
def stereo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "musicgen-stereo"
    write_musicgen(folder, channels=2)
    return folder


@pytest.fixture(scope="package")
def open_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "stable-audio-open"
    write_stable_audio_open(folder)
    return folder


@pytest.fixture
def vocals(tmp_path: Path) -> Path:
    return write(tmp_path / "vocals", "a.wav", "b.wav", "c.wav")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out" / "quieter"
