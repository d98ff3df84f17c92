"""Arrays as they were published → a dataset."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samuel.codecs.stable_audio_open import PUBLISHED_INFO
from samuel.errors import DatasetError, InputError
from samuel.popdb.dataset import Popdb, open_popdb
from samuel.popdb.exchange import import_published
from samuel.popdb.verify import verify
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import encoded_song, small_settings
from tests.popdb.published_arrays import GAP, noise, write_published

COUNT = 340


def number_of(row: dict[str, Any]) -> int:
    return int(row["song_id"].split("-")[-1])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_published(tmp_path_factory.mktemp("published"), COUNT)


@pytest.fixture(scope="module")
def popdb(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Popdb:
    calls: list[None] = []
    popdb = import_published(
        *files,
        tmp_path_factory.mktemp("data") / "popdb",
        pairs_per_shard=16,
        on_pair=lambda: calls.append(None),
    )
    assert len(calls) == len(popdb.index)
    return popdb


def test_every_pair_has_the_latents_of_its_number_and_nothing_is_made_up(popdb: Popdb) -> None:
    vocal, accompaniment = noise(COUNT, 0), noise(COUNT, 1)
    for row in popdb.index:
        found = popdb.read_checked(row)
        assert np.array_equal(found[0].numpy(), vocal[number_of(row)])
        assert np.array_equal(found[1].numpy(), accompaniment[number_of(row)])
        content = vocal[number_of(row)].tobytes() + accompaniment[number_of(row)].tobytes()
        assert row["latents_sha256"] == row["pair_sha256"] == hashlib.sha256(content).hexdigest()
    unknown = ("video_id", "start_s", "vocal_share", "vocal_rms_db", "mix_peak")
    assert {row[name] for row in popdb.index for name in unknown} == {None}
    assert popdb.vocal_shares() == []
    assert popdb.codec == PUBLISHED_INFO
    trained = accompaniment[: COUNT - 34 - GAP].astype(np.float64)
    found = popdb.stats["accompaniment"]
    assert found["mean"] == pytest.approx(trained.mean(axis=(0, 2)), abs=1e-6)
    assert found["std"] == pytest.approx(trained.std(axis=(0, 2)), abs=1e-6)
    assert verify(popdb.root) == []


def test_the_last_are_held_out_behind_a_gap(popdb: Popdb) -> None:
    held = {number_of(row) for row in popdb.pairs("validation")}
    trained = {number_of(row) for row in popdb.pairs("train")}
    assert held == set(range(COUNT - 34, COUNT))
    assert trained == set(range(COUNT - 34 - GAP))
    songs = popdb.songs().to_pylist()
    left_out = {number_of(song) for song in songs if song["pairs"] == 0}
    assert left_out == set(range(COUNT)) - held - trained
    assert all(("sides of the split" in song["message"]) == (song["pairs"] == 0) for song in songs)
    assert popdb.info["counts"] | {"shards": 0} == {
        "songs_listed": COUNT, "songs_kept": COUNT - GAP, "chunks": COUNT, "chunks_left_out": GAP,
        "pairs": COUNT - GAP, "train": 4, "validation": 34, "shards": 0,
    }  # fmt: skip
    assert popdb.info["settings"]["published"]["gap_pairs"] == GAP
    # Neighbours in the index are no neighbours in the files.
    numbers = [number_of(row) for row in popdb.pairs("validation")]
    assert np.mean(np.abs(np.diff(numbers)) > 1) > 0.7


def test_another_dataset_is_never_replaced(files: tuple[Path, Path], tmp_path: Path, popdb: Popdb) -> None:
    own = write_popdb([encoded_song(tmp_path, name) for name in "ab"], small_settings(tmp_path))
    for location in (own.root, popdb.root):
        with pytest.raises(InputError, match="another dataset is there"):
            import_published(*files, location, pairs_per_shard=15)
    assert open_popdb(own.root).index == own.index
    (own.root / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match="Invalid JSON"):
        import_published(*files, own.root)
    assert (own.root / "dataset.json").read_text() == "{"


def test_what_was_trained_on_is_not_held_out(tmp_path: Path) -> None:
    paths = write_published(tmp_path, COUNT)
    trained, gap, same, half = 2, COUNT - 34 - 1, COUNT - 5, COUNT - 7
    silent = (3, COUNT - 1)
    for path in paths:
        values = np.load(path)
        values[[gap, same]] = values[trained]
        values[list(silent)] = 0.0
        values[half] = values[0] if path == paths[0] else values[half]  # only of the vocal: another pair
        np.save(path, values)
    popdb = import_published(*paths, tmp_path / "popdb")
    held = {number_of(row) for row in popdb.pairs("validation")}
    assert held == set(range(COUNT - 34, COUNT)) - {same, silent[1]}
    assert {number_of(row) for row in popdb.pairs("train")} == set(range(4))
    songs = {number_of(song): song for song in popdb.songs().to_pylist()}
    for number in (same, silent[1]):
        assert songs[number]["message"] == "left out: its latents are those of a training pair"
        assert (songs[number]["status"], songs[number]["pairs"]) == ("ok", 0)
    assert "sides of the split" in songs[gap]["message"]
    assert verify(popdb.root) == []


def saved(array: Any) -> Callable[[Path], None]:
    return lambda path: np.save(path, array, allow_pickle=True)


def header(text: str) -> Callable[[Path], object]:
    content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b"cos\nsystem\n(S'false'\ntR."), "not a whole .npy file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "not a whole .npy file"),
        (saved(np.zeros((5, 65, 64), np.float16)), r"\(5, 65, 64\)"),
        (header(f"{{'descr': '<f2', 'fortran_order': False, 'shape': ({10**30}, 64, 64)}}\n"), "not a whole"),
    ],
)
def test_what_is_no_array_is_refused(spoil: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    vocal, accompaniment = write_published(tmp_path, 5)
    spoil(accompaniment)
    with pytest.raises(InputError, match=message):
        import_published(vocal, accompaniment, tmp_path / "data" / "popdb")
    assert not (tmp_path / "data").exists()
