import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samuel.codecs.stable_audio_open import PUBLISHED_INFO
from samuel.errors import DatasetError, InputError, SettingsError
from samuel.popdb.dataset import Popdb, open_popdb
from samuel.popdb.published import import_published, longest_song, sides
from samuel.popdb.verify import verify
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import encoded_song, small_settings
from tests.popdb.published_arrays import FRAMES, GAP, noise, write_published

COUNT = 340


def number_of(row: dict[str, Any]) -> int:
    return int(row["song_id"].split("-")[-1])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_published(tmp_path_factory.mktemp("published"), COUNT)


@pytest.fixture(scope="module")
def popdb(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Popdb:
    return import_published(*files, tmp_path_factory.mktemp("data") / "popdb", pairs_per_shard=16)


def test_every_pair_has_the_latents_of_its_number(popdb: Popdb) -> None:
    vocal, accompaniment = noise(COUNT, 0), noise(COUNT, 1)
    for row in popdb.index:
        found = popdb.read_checked(row)
        assert np.array_equal(found[0].numpy(), vocal[number_of(row)])
        assert np.array_equal(found[1].numpy(), accompaniment[number_of(row)])
        content = vocal[number_of(row)].tobytes() + accompaniment[number_of(row)].tobytes()
        assert row["latents_sha256"] == row["pair_sha256"] == hashlib.sha256(content).hexdigest()


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


def test_what_is_not_known_is_null(popdb: Popdb) -> None:
    unknown = ("video_id", "start_s", "vocal_share", "vocal_rms_db", "mix_peak")
    assert {row[name] for row in popdb.index for name in unknown} == {None}
    assert popdb.vocal_shares() == []
    assert popdb.codec == PUBLISHED_INFO
    assert popdb.info["settings"]["published"]["gap_pairs"] == GAP


def test_the_statistics_are_those_of_the_training_pairs(popdb: Popdb) -> None:
    trained = noise(COUNT, 1)[: COUNT - 34 - GAP].astype(np.float64)
    found = popdb.stats["accompaniment"]
    assert found["mean"] == pytest.approx(trained.mean(axis=(0, 2)), abs=1e-6)
    assert found["std"] == pytest.approx(trained.std(axis=(0, 2)), abs=1e-6)


def test_neighbours_in_the_index_are_no_neighbours_in_the_files(popdb: Popdb) -> None:
    numbers = [number_of(row) for row in popdb.pairs("validation")]
    assert numbers != sorted(numbers)
    assert np.mean(np.abs(np.diff(numbers)) > 1) > 0.7


def test_no_song_is_on_both_sides() -> None:
    assert longest_song(1024) == 18  # of 47.55 s in 15 minutes
    split = sides(200, 0.1, 18)
    assert split.count("validation") == 20
    for start in range(200 - 18 + 1):
        assert not {"train", "validation"} <= set(split[start : start + 18])
    assert sides(5, 0.0, 18) == ["train"] * 5


def test_too_few_to_hold_any_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    popdb = import_published(*write_published(tmp_path, 3), tmp_path / "popdb")
    assert [row["split"] for row in popdb.index] == ["train"] * 3
    assert "too few to hold any out" in caplog.text


def test_the_same_again_is_found(files: tuple[Path, Path], popdb: Popdb) -> None:
    before = {path: path.stat().st_mtime_ns for path in popdb.root.rglob("*") if path.is_file()}
    again = import_published(*files, popdb.root, pairs_per_shard=16)
    assert popdb.made
    assert not again.made
    assert again.index == popdb.index
    assert before == {path: path.stat().st_mtime_ns for path in popdb.root.rglob("*") if path.is_file()}


def test_the_same_again_reads_no_latents(
    files: tuple[Path, Path], popdb: Popdb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samuel.popdb.published.pair_sha256", None)
    assert not import_published(*files, popdb.root, pairs_per_shard=16).made


def test_progress_counts_what_is_written(tmp_path: Path) -> None:
    calls: list[None] = []
    files = write_published(tmp_path, 5)
    import_published(*files, tmp_path / "popdb", on_pair=lambda: calls.append(None))
    assert len(calls) == 5


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


def test_a_codec_that_is_known_is_named(tmp_path: Path) -> None:
    known = PUBLISHED_INFO.model_copy(update={"version": "2 mean", "weights_sha256": "0" * 64})
    popdb = import_published(*write_published(tmp_path, 2), tmp_path / "popdb", codec=known)
    assert popdb.codec == known


@pytest.mark.parametrize("dtype", ["<f4", ">f2", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_float_becomes_half(dtype: str, order: Any, tmp_path: Path) -> None:
    paths = tmp_path / "v.npy", tmp_path / "a.npy"
    values = np.random.default_rng(0).standard_normal((2, 3, 64, FRAMES)) * 100
    for path, array in zip(paths, values, strict=True):
        np.save(path, np.asarray(array, dtype, order=order))
    popdb = import_published(*paths, tmp_path / "popdb")
    for row in popdb.index:
        vocal, _ = popdb.read_checked(row)
        assert np.array_equal(vocal.numpy(), values[0, number_of(row)].astype(dtype).astype(np.float16))


@pytest.mark.parametrize("value", [np.nan, -np.inf, 7e4])
def test_a_pair_that_half_precision_cannot_hold_is_left_out(value: float, tmp_path: Path) -> None:
    vocal, accompaniment = write_published(tmp_path, 4)
    values = np.load(accompaniment).astype(np.float32)
    values[2, 5, 6] = value
    np.save(accompaniment, values)
    popdb = import_published(vocal, accompaniment, tmp_path / "popdb")
    assert sorted(number_of(row) for row in popdb.index) == [0, 1, 3]
    (song,) = [song for song in popdb.songs().to_pylist() if number_of(song) == 2]
    assert (song["status"], song["pairs"]) == ("not_finite", 0)
    assert "float16 cannot" in song["message"]


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


def test_a_refused_import_makes_no_folder(tmp_path: Path) -> None:
    vocal, accompaniment = write_published(tmp_path, 3)
    np.save(vocal, np.full((3, 64, FRAMES), np.nan, np.float16))
    with pytest.raises(InputError, match="none to train on is finite"):
        import_published(vocal, accompaniment, tmp_path / "data" / "popdb")
    assert not (tmp_path / "data").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def saved(array: Any) -> Callable[[Path], None]:
    return lambda path: np.save(path, array, allow_pickle=True)


def header(text: str) -> Callable[[Path], None]:
    content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
    return lambda path: path.write_bytes(content)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, "No such file"),
        (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
        (lambda path: path.write_bytes(b""), "not a whole .npy file"),
        (lambda path: path.write_bytes(b"PK\x03\x04 a zip"), "not a whole .npy file"),
        (lambda path: path.write_bytes(b"cos\nsystem\n(S'false'\ntR."), "not a whole .npy file"),
        (cut, "not a whole .npy file"),
        (saved(np.array([{}], object)), "not a whole .npy file"),
        (saved(np.zeros((0, 64, 64), np.float16)), r"of shape \(0, 64, 64\)|not a whole"),
        (saved(np.zeros((5, 64, 64), np.int16)), "int16"),
        (saved(np.zeros((5, 64, 64), np.complex64)), "complex64"),
        (saved(np.zeros((5, 65, 64), np.float16)), r"\(5, 65, 64\)"),
        (saved(np.zeros((5, 64, 60), np.float16)), r"\(5, 64, 60\)"),
        (saved(np.zeros((5, 64, 68), np.float16)), r"\(5, 64, 68\)"),
        (saved(np.zeros((5, 4096), np.float16)), r"\(5, 4096\)"),
        (saved(np.zeros((4, 64, 64), np.float16)), "files of one dataset"),
        (saved(np.zeros((5, 64, 72), np.float16)), "files of one dataset"),
        (header(f"{{'descr': '<f2', 'fortran_order': False, 'shape': ({10**30}, 64, 64)}}\n"), "not a whole"),
        (header("{'descr': '<f2', 'fortran_order': False, 'shape': (-5, 64, 64)}\n"), "not a whole"),
        (header("-" * 9000 + "1\n"), "not a whole"),
        (header("(" * 9000 + "\n"), "not a whole"),
    ],
)
def test_what_is_no_array_of_latents_is_refused(
    spoil: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    vocal, accompaniment = write_published(tmp_path, 5)
    spoil(accompaniment)
    with pytest.raises(InputError, match=message) as refusal:
        import_published(vocal, accompaniment, tmp_path / "popdb")
    assert str(accompaniment) in str(refusal.value)
    assert not (tmp_path / "popdb").exists()


def test_one_file_is_not_both(tmp_path: Path) -> None:
    vocal, accompaniment = write_published(tmp_path, 5)
    accompaniment.write_bytes(vocal.read_bytes())
    with pytest.raises(InputError, match="are the same"):
        import_published(vocal, accompaniment, tmp_path / "popdb")


def test_nothing_finite_to_train_on(tmp_path: Path) -> None:
    vocal, accompaniment = write_published(tmp_path, 2)
    np.save(vocal, np.full((2, 64, FRAMES), np.nan, np.float16))
    with pytest.raises(InputError, match="none to train on is finite"):
        import_published(vocal, accompaniment, tmp_path / "popdb")


@pytest.mark.parametrize("choice", [{"validation_share": 0.9}, {"pairs_per_shard": 0}])
def test_a_choice_out_of_range(choice: dict[str, Any], files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=next(iter(choice))):
        import_published(*files, tmp_path / "popdb", **choice)


def test_a_url_takes_an_import(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    url = f"memory://published-{tmp_path.name}"
    popdb = import_published(*write_published(tmp_path, 3), url, cache=tmp_path / "cache")
    assert len(open_popdb(url, tmp_path / "other").index) == len(popdb.index) == 3
