"""The tables: recordings that songs share, and the split."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samuel.popdb.accounts import held_out, same_recordings, song_rows
from samuel.popdb.duplicates import to_text
from samuel.popdb.status import Outcome, Status
from tests.popdb.latents import encoded_song, failed_song


def sounding(root: Path, name: str, codes: Any) -> Outcome:
    """A song whose fingerprint is `codes`."""
    song = encoded_song(root, name)
    return replace(song, record=song.record | {"fingerprint": to_text(codes)})


def test_titles_that_led_to_one_recording_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes, other = rng.integers(2**32, size=(2, 600), dtype=np.uint32)
    flips = np.uint32(1) << rng.integers(32, size=600, dtype=np.uint32)
    again = np.where(rng.random(600) < 0.3, codes ^ flips, codes)  # 1 % of the bits, as another encoding has
    songs = [sounding(tmp_path, name, c) for name, c in (("b", codes), ("a", again[20:]), ("c", other))]
    songs += [encoded_song(tmp_path, name) for name in "ef"]  # which have no fingerprint
    songs.append(failed_song("d", Status.NO_MATCH, "match"))
    groups = same_recordings(songs)
    assert groups == {"a": "a", "b": "a", "c": "c", "e": "e", "f": "f"}
    assert [row["recording"] for row in song_rows(songs, groups)] == ["a", "a", "c", "e", "f", None]


NAMES = [f"song{i}" for i in range(2000)]


def test_the_share_held_out_is_the_one_asked_for_and_depends_on_no_other_song() -> None:
    many = held_out(NAMES, 0.1, seed=0)
    assert len(many) == pytest.approx(200, abs=40)
    assert held_out(NAMES[:500], 0.1, seed=0) == many & set(NAMES[:500])
    assert many != held_out(NAMES, 0.1, seed=1)
