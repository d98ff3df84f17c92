from pathlib import Path

import pytest

from tests.baselines.layouts import write_musicgen, write_stable_audio_open


@pytest.fixture(scope="package")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of small models by name."""
    root = tmp_path_factory.mktemp("weights")
    write_musicgen(root / "musicgen")
    write_musicgen(root / "musicgen-stereo", channels=2)
    write_stable_audio_open(root / "stable-audio-open")
    return {folder.name: folder for folder in root.iterdir()}
