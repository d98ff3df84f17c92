from pathlib import Path

import pytest
import torch
from prefect import flow

from samuel.popdb.loader import Batches
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import encoded_song, small_settings


@pytest.mark.usefixtures("server")
def test_workers_of_a_loader_end_well_within_a_flow(tmp_path: Path) -> None:
    """Prefect has threads, and a hook at exit that fails in a forked process."""
    songs = [encoded_song(tmp_path, name) for name in "abcd"]
    batches = Batches(write_popdb(songs, small_settings(tmp_path)), batch_size=2, seed=0)

    @flow
    def read() -> int:
        return len(list(batches.on(torch.device("cpu"), steps=5, num_workers=2)))

    assert read() == 5
