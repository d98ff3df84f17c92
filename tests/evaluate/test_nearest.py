"""Copies of training pairs among the tracks, in a dataset written and read as every other."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.loader import noise, write_noise
from samuel.errors import DatasetError, InputError
from samuel.evaluate.nearest import (
    Nearest,
    Yardstick,
    held_out_tracks,
    nearest_held_out,
    nearest_pairs,
    similarities,
    suspicious,
    yardstick,
)
from samuel.popdb.dataset import Popdb
from samuel.popdb.loader import Normaliser
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import encoded_song, small_settings

SONGS = "abcdefghijkl"


@pytest.fixture
def popdb(tmp_path: Path) -> Popdb:
    """Twelve songs of two pairs of 64 frames, of which some are held out."""
    songs = [encoded_song(tmp_path, name) for name in SONGS]
    shares = {"pairs_per_shard": 5, "validation_share": 0.4}
    return write_popdb(songs, small_settings(tmp_path, popdb=shares))


def normaliser(popdb: Popdb) -> Normaliser:
    return Normaliser.of(popdb.stats)


def accompaniments(popdb: Popdb, split: str) -> Tensor:
    return normaliser(popdb).accompaniment(popdb.read(popdb.pairs(split))[1])


def test_each_track_finds_the_pair_it_was_copied_from(popdb: Popdb) -> None:
    rows, true = popdb.pairs("train"), accompaniments(popdb, "train")
    later = torch.randn(64, 20, generator=torch.Generator().manual_seed(0))
    tracks = torch.stack([torch.cat([later, true[9, :, :-20]], dim=-1), 0.3 * true[2] + 1.0])
    first, second = nearest_pairs(tracks, popdb, normaliser(popdb))
    for found, place, lag in ((first, 9, 20), (second, 2, 0)):
        row = rows[place]
        assert (found.pair_id, found.title, found.song_id) == (row["pair_id"], row["title"], row["song_id"])
        assert found.lag_frames == lag
        assert found.similarity == pytest.approx(1.0, abs=1e-3)


def test_it_is_the_best_of_all_pairs(popdb: Popdb) -> None:
    tracks = accompaniments(popdb, "validation")
    values, lags = similarities(tracks, accompaniments(popdb, "train"))
    found = nearest_pairs(tracks, popdb, normaliser(popdb))
    places = values.argmax(dim=1)
    assert [nearest.pair_id for nearest in found] == [popdb.pairs("train")[i]["pair_id"] for i in places]
    assert [nearest.similarity for nearest in found] == pytest.approx(
        values.max(dim=1).values.tolist(), abs=1e-5
    )
    assert [nearest.lag_frames for nearest in found] == [int(lags[n, p]) for n, p in enumerate(places)]
    assert max(nearest.similarity for nearest in found) < 0.9  # other songs, so none is a copy


def test_the_vocals_are_not_what_is_compared(popdb: Popdb) -> None:
    vocal = normaliser(popdb).vocal(popdb.read(popdb.pairs("train")[:1])[0])
    [found] = nearest_pairs(vocal, popdb, normaliser(popdb))
    assert found.similarity < 0.9


def test_held_out_pairs_can_be_asked_for(popdb: Popdb) -> None:
    track = accompaniments(popdb, "validation")[1:2]
    [found] = nearest_pairs(track, popdb, normaliser(popdb), split="validation")
    assert found.pair_id == popdb.pairs("validation")[1]["pair_id"]


def test_how_far_it_is_is_told(popdb: Popdb) -> None:
    done: list[tuple[int, int]] = []
    count = len(popdb.pairs("train"))
    nearest_pairs(
        accompaniments(popdb, "validation")[:1], popdb, normaliser(popdb),
        on_pair=lambda pairs, of: done.append((pairs, of)),
    )  # fmt: skip
    assert done == [(min(8 * i, count), count) for i in range(1, -(-count // 8) + 1)]
    assert len(done) > 1


def test_no_tracks_have_no_nearest_pairs(popdb: Popdb) -> None:
    assert nearest_pairs(torch.zeros(0, 64, 64), popdb, normaliser(popdb)) == []


def test_a_silent_track_is_alike_to_nothing(popdb: Popdb) -> None:
    [found] = nearest_pairs(torch.zeros(1, 64, 64), popdb, normaliser(popdb))
    assert found.similarity == pytest.approx(0.0, abs=1e-6)


def test_the_yardstick_is_what_held_out_songs_come_to(popdb: Popdb) -> None:
    rows, true = popdb.pairs("validation"), accompaniments(popdb, "validation")
    songs = {row["song_id"]: place for place, row in reversed(list(enumerate(rows)))}
    tracks = true[sorted(songs.values())]
    assert 2 < len(tracks) < len(true)
    assert torch.equal(held_out_tracks(popdb, normaliser(popdb)), tracks)
    values = similarities(tracks, accompaniments(popdb, "train"))[0].max(dim=1).values.tolist()
    found = nearest_held_out(popdb, normaliser(popdb))
    assert found.n == len(tracks)
    assert found.median == pytest.approx(np.median(values), abs=1e-5)
    assert found.highest == pytest.approx(max(values), abs=1e-5)


def test_the_yardstick_is_of_as_many_songs_and_frames_as_asked_for(popdb: Popdb) -> None:
    tracks = held_out_tracks(popdb, normaliser(popdb), frames=20, most=2)
    assert tracks.shape == (2, 64, 20)
    found = nearest_held_out(popdb, normaliser(popdb), frames=20, most=2)
    assert found == yardstick(nearest_pairs(tracks, popdb, normaliser(popdb)))
    assert found.n == 2


def test_where_no_song_is_held_out_there_is_no_yardstick(tmp_path: Path) -> None:
    popdb = write_noise(tmp_path / "popdb", noise(4, 64))
    nothing = Yardstick(0, None, None)
    assert nearest_held_out(popdb, normaliser(popdb)) == yardstick([]) == nothing
    assert suspicious(0.99, nothing) is None
    with pytest.raises(DatasetError, match="no validation pairs"):
        nearest_pairs(torch.zeros(1, 64, 64), popdb, normaliser(popdb), split="validation")


def test_nearer_to_a_copy_than_to_any_held_out_song_is_suspicious() -> None:
    held_out = yardstick([Nearest("", "", "", similarity, 0) for similarity in (0.1, 0.4, 0.2)])
    assert held_out == Yardstick(3, 0.2, 0.4)
    assert [suspicious(value, held_out) for value in (0.3, 0.45, 0.69, 0.71, 1.0)] == [False] * 3 + [True] * 2


def test_a_copied_song_stands_out_and_new_ones_do_not(popdb: Popdb) -> None:
    held_out = nearest_held_out(popdb, normaliser(popdb))
    copied = accompaniments(popdb, "train")[3:4]
    noisy = copied + 0.3 * torch.randn(copied.shape, generator=torch.Generator().manual_seed(0))
    new = accompaniments(popdb, "validation")
    found = nearest_pairs(torch.cat([copied, noisy, new]), popdb, normaliser(popdb))
    assert [suspicious(nearest.similarity, held_out) for nearest in found] == [True] * 2 + [False] * len(new)


def test_damaged_latents_are_named(popdb: Popdb) -> None:
    maps = normaliser(popdb)
    broken = dataclasses.replace(maps, accompaniment_std=torch.full_like(maps.accompaniment_std, torch.nan))
    first = popdb.pairs("train")[0]["pair_id"]
    with pytest.raises(DatasetError, match=f"{first}: NaN or infinite; run samuel verify"):
        nearest_pairs(torch.zeros(1, 64, 64), popdb, broken)


def test_tracks_of_another_codec_are_refused(popdb: Popdb) -> None:
    with pytest.raises(InputError, match="cannot be compared with tracks of 8 channels"):
        nearest_pairs(torch.zeros(1, 8, 64), popdb, normaliser(popdb))
