from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_SERVER_API_AUTH_STRING,
    temporary_settings,
)
from prefect.testing.utilities import prefect_test_harness

from tests.flows.runs import PASSWORD
from tests.flows.serving import Served, serving

RATE = 44_100


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """A real Prefect server with a database of its own and a password, for the session."""
    both: dict[Any, str] = dict.fromkeys((PREFECT_API_AUTH_STRING, PREFECT_SERVER_API_AUTH_STRING), PASSWORD)
    with temporary_settings(both), prefect_test_harness(server_startup_timeout=300):
        yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A running `make serve`."""
    with serving(tmp_path_factory.mktemp("home")) as served:
        yield served


@pytest.fixture(scope="session")
def songs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three songs of 7 s, and three files that cannot be used."""
    folder = tmp_path_factory.mktemp("songs")
    for number, name in enumerate(("one", "two", "three")):
        soundfile.write(folder / f"{name}.wav", song(number, 7.0), RATE)
    (folder / "broken.wav").write_bytes(b"RIFF, and no more")
    soundfile.write(folder / "short.wav", song(3, 1.0), RATE)
    soundfile.write(folder / "silent.wav", np.zeros((7 * RATE, 2)), RATE)
    return folder


def song(seed: int, seconds: float) -> np.ndarray:
    """A loop under a gliding tone, (S, 2)."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    beat = 0.2 * rng.normal(size=RATE // 2) * np.exp(-np.arange(RATE // 2) / 2000)
    loop = np.resize(beat, len(time))
    voice = 0.3 * np.sin(2 * np.pi * (200 + 40 * seed) * time + 3 * np.sin(2 * np.pi * 0.7 * time))
    return np.stack([loop + voice, 0.8 * loop + voice], axis=1).astype(np.float32)
