from pathlib import Path

import pytest
import torch

from samuel.errors import DatasetError
from samuel.popdb.dataset import open_popdb
from samuel.popdb.verify import verify
from samuel.popdb.writer import compact, repair, write_popdb
from tests.popdb.damage import (
    flip,
    outcomes,
    settings_of,
    shard_names,
    written,
)
from tests.popdb.damage_cases import CASES
from tests.popdb.latents import encoded_song
from tests.popdb.shards.songs import digests

MENDABLE = [name for name, case in CASES.items() if case.mendable]


@pytest.mark.parametrize("name", MENDABLE)
def test_what_was_damaged_is_mended_and_comes_back(tmp_path: Path, name: str) -> None:
    popdb, case = written(tmp_path), CASES[name]
    whole = {row["pair_id"]: popdb.read_checked(row) for row in popdb.index}
    case.act(popdb)
    said = verify(popdb.root)
    repaired = repair(popdb.root)
    assert (repaired.faults, sorted(repaired.dropped)) == (said, sorted(case.dropped))
    assert {title for _, title in repaired.songs} == {f"Title of {pair[0]}" for pair in case.dropped}
    assert verify(popdb.root) == []
    left = open_popdb(popdb.root)
    for row in left.index:
        assert all(map(torch.equal, left.read_checked(row), whole[row["pair_id"]]))
    write_popdb(outcomes(tmp_path), settings_of(tmp_path))
    assert verify(popdb.root) == []
    compact(popdb.root)
    at_once = write_popdb(outcomes(tmp_path), settings_of(tmp_path, "at_once"))
    assert digests(popdb.root) == digests(at_once.root)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.mendable])
def test_what_only_a_build_can_mend_is_left_as_it_is(tmp_path: Path, name: str) -> None:
    popdb = written(tmp_path)
    CASES[name].act(popdb)
    before = digests(popdb.root)
    repaired = repair(popdb.root)
    assert (repaired.faults, repaired.dropped, repaired.songs) == (verify(popdb.root), [], [])
    assert repaired.popdb is None
    assert digests(popdb.root) == before


def test_a_sound_dataset_is_left_as_it_is(tmp_path: Path) -> None:
    popdb = written(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in popdb.root.rglob("*.*")}
    repaired = repair(popdb.root)
    assert (repaired.faults, repaired.dropped, repaired.songs) == ([], [], [])
    assert repaired.popdb is not None
    assert repaired.popdb.info == popdb.info
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_buried_pairs_of_sound_shards_stay_buried(tmp_path: Path) -> None:
    popdb = written(tmp_path)
    CASES["a bit of a vocal"].act(popdb)
    mended = repair(popdb.root).popdb
    assert mended is not None
    assert mended.tombstones == popdb.tombstones
    assert [row["shard"] for row in mended.index if row["song_id"] == "c"] == [shard_names(popdb)[1]] * 2


def test_a_broken_row_that_was_replaced_costs_no_pair(tmp_path: Path) -> None:
    """Song a was encoded anew: its former latents are buried beside b."""
    written(tmp_path)
    anew = encoded_song(tmp_path / "anew", "a", 4)
    popdb = write_popdb([anew, *outcomes(tmp_path)[1:]], settings_of(tmp_path))
    assert [row["pair_id"] for row in popdb.tombstones] == ["a-000", "a-001", "a-002", "x-000", "x-001"]
    flip(popdb, 0, lambda layout: layout.offsets[0])
    assert verify(popdb.root)[1] == f"{shard_names(popdb)[0]}: not the latents that were written: a-000"
    repaired = repair(popdb.root)
    assert (repaired.dropped, verify(popdb.root)) == ([], [])


def test_songs_keep_their_status_and_count_what_is_left(tmp_path: Path) -> None:
    popdb = written(tmp_path)
    before = {row["song_id"]: row for row in popdb.songs().to_pylist()}
    CASES["a bit of a vocal"].act(popdb)
    mended = repair(popdb.root).popdb
    assert mended is not None
    after = {row["song_id"]: row for row in mended.songs().to_pylist()}
    assert after == before | {"a": before["a"] | {"pairs": 2}}
    assert mended.info["counts"] == popdb.info["counts"] | {"pairs": 5, "train": 4, "chunks_left_out": 1}


def test_no_training_pair_left_changes_nothing(tmp_path: Path) -> None:
    popdb = written(tmp_path)
    for shard in shard_names(popdb):
        (popdb.root / shard).write_bytes(b"")
    before = digests(popdb.root)
    repaired = repair(popdb.root)
    assert "no training pair is sound: nothing was changed" in repaired.faults[-1]
    assert (repaired.popdb, digests(popdb.root)) == (None, before)


def test_nothing_there_stays_nothing(tmp_path: Path) -> None:
    repaired = repair(tmp_path / "none")
    assert repaired.faults == verify(tmp_path / "none")
    assert "no dataset here" in repaired.faults[0]
    assert list(tmp_path.iterdir()) == []


def test_two_damages_at_once_are_both_mended(tmp_path: Path) -> None:
    popdb = written(tmp_path)
    (popdb.root / "README.md").unlink()
    for name in ("a bit of a vocal", "a bit of a buried pair", "an interrupted write"):
        CASES[name].act(popdb)
    repaired = repair(popdb.root)
    assert repaired.dropped == ["a-001"]
    assert verify(popdb.root) == []


def test_a_pair_that_changes_under_way_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    popdb = written(tmp_path)
    CASES["a bit of a vocal"].act(popdb)
    info = (popdb.root / "dataset.json").read_bytes()
    monkeypatch.setattr(
        "samuel.popdb.writer.settle", lambda _: flip(popdb, 0, lambda layout: layout.offsets[0])
    )
    with pytest.raises(DatasetError, match=r"changes while it is read; check the disk"):
        repair(popdb.root)
    assert (popdb.root / "dataset.json").read_bytes() == info
    assert verify(popdb.root)[1].endswith(": a-000, a-001")
