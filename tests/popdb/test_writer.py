"""Datasets that are written, grow, shrink and are mended; writers that are killed, disks that are full."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import samuel.popdb
from samuel.artifacts import sha256
from samuel.config import Settings
from samuel.errors import DatasetError, InputError
from samuel.popdb.dataset import Popdb, open_popdb
from samuel.popdb.status import Outcome
from samuel.popdb.verify import verify
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import FRAMES, digests, encoded_song, flip_bit, small_settings, songs, sung

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = ("unshare", "--map-root-user", "--mount")
MOUNT = 'mount -t tmpfs -o size=1500k samuel "$1" && shift && exec "$@"'
STREAMS = ("vocal", "accompaniment")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return small_settings(tmp_path, popdb={"pairs_per_shard": 4})


@pytest.fixture
def popdb(tmp_path: Path, settings: Settings) -> Popdb:
    return write_popdb(songs(tmp_path), settings)


def some(root: Path, names: str) -> list[Outcome]:
    return [encoded_song(root, name) for name in names]


def songs_sung(root: Path) -> list[Outcome]:
    """Of `songs`, a loses its first chunk at a least vocal share of ½, b its only one, c its second."""
    c, a, b, *failed = songs(root)
    return [sung(c, 0.9, 0.1), sung(a, 0.0, 0.5, 0.75), sung(b, 0.4999), *failed]


def latents_of(song: Outcome) -> dict[str, torch.Tensor]:
    assert song.artifact
    return load_file(song.artifact.path("latents.safetensors"))


def times(popdb: Popdb) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in popdb.root.rglob("*") if path.is_file()}


def test_every_pair_is_where_the_index_says_and_every_song_has_a_row(tmp_path: Path, popdb: Popdb) -> None:
    ids = ["a-000", "a-001", "a-002", "b-000", "c-000", "c-001"]
    assert ([row["pair_id"] for row in popdb.index], popdb.table["row"].to_pylist()) == (
        ids,
        [0, 1, 2, 3, 0, 1],
    )
    for outcome in songs(tmp_path)[:3]:
        truth = latents_of(outcome)
        rows = [row for row in popdb.index if row["song_id"] == outcome.song.song_id]
        for stream, latents in zip(STREAMS, popdb.read(rows), strict=True):
            assert torch.equal(latents, truth[stream])
            assert latents.dtype == torch.float16
    for row in popdb.index:  # by the library that the format is from
        shard = load_file(popdb.root / row["shard"])
        for stream, latents in zip(STREAMS, popdb.read_checked(row), strict=True):
            assert torch.equal(shard[stream][row["row"]], latents)
    assert all(sha256(popdb.root / name)[:16] in name for name in popdb.info["files"] if name != "README.md")
    assert verify(popdb.root) == []
    assert samuel.popdb.open_popdb(popdb.root).info == popdb.info
    rows = {row["song_id"]: row for row in popdb.songs().to_pylist()}
    assert set(rows) == set("abcde")
    failed = rows["d"]
    assert (failed["status"], failed["stage"], failed["retryable"]) == ("unavailable", "download", False)
    assert (rows["e"]["message"], rows["a"]["pairs"]) == ("it is too_short", 3)
    for ask in (popdb.pairs, popdb.dataset):
        with pytest.raises(InputError, match="no split 'test'; there are train and validation"):
            ask("test")


def test_statistics_are_those_of_the_training_songs(tmp_path: Path) -> None:
    for seed in range(4):  # with one of them, b, which is not sung, would be the song that is held out
        sections = {"min_vocal_share": 0.5, "seed": seed, "pairs_per_shard": 2}
        popdb = write_popdb(songs_sung(tmp_path), small_settings(tmp_path, popdb=sections))
        assert popdb.pairs("validation")
        for stream, latents in zip(STREAMS, popdb.read(popdb.pairs("train")), strict=True):
            frames = latents.double().transpose(0, 1).reshape(64, -1)
            found, std = popdb.stats[stream], frames.std(dim=1, unbiased=False)
            assert found["mean"] == pytest.approx(frames.mean(dim=1).tolist(), rel=1e-7, abs=1e-9)
            assert found["std"] == pytest.approx(std.tolist(), rel=1e-6)


def test_chunks_sung_too_little_are_no_pairs_and_the_others_keep_their_place(tmp_path: Path) -> None:
    outcomes = songs_sung(tmp_path)
    popdb = write_popdb(outcomes, small_settings(tmp_path, popdb={"min_vocal_share": 0.5}))
    assert [(row["pair_id"], row["chunk"], row["vocal_share"]) for row in popdb.index] == [
        ("a-001", 1, 0.5), ("a-002", 2, 0.75), ("c-000", 0, 0.9),
    ]  # fmt: skip
    starts_s = [row["chunk"] * FRAMES * 2048 / 44_100 for row in popdb.index]
    assert [row["start_s"] for row in popdb.index] == pytest.approx(starts_s, abs=1e-4)
    c, a = map(latents_of, outcomes[:2])
    for stream, latents in zip(STREAMS, popdb.read(popdb.index), strict=True):
        assert torch.equal(latents, torch.stack([*a[stream][1:], c[stream][0]]))
    assert popdb.info["counts"] == {
        "songs_listed": 5, "songs_kept": 2, "chunks": 6, "chunks_left_out": 3, "pairs": 3,
        "train": len(popdb.pairs("train")), "validation": len(popdb.pairs("validation")), "shards": 1,
    }  # fmt: skip
    assert sorted(popdb.vocal_shares()) == [0.0, 0.1, 0.4999, 0.5, 0.75, 0.9]
    rows = {row["song_id"]: (row["status"], row["pairs"]) for row in popdb.songs().to_pylist()}
    assert (rows["a"], rows["b"], rows["e"]) == (("ok", 2), ("ok", 0), ("too_short", 0))
    assert verify(popdb.root) == []


@pytest.mark.parametrize(
    "history",
    [
        lambda root: [songs(root)[:1], songs(root)[1:], songs(root)[::-1]],
        lambda root: [[*some(root, "xyz"), encoded_song(root / "other", "a", 5)], songs(root)],
    ],
)
def test_the_same_songs_give_the_same_bytes_whatever_was_there_before(
    tmp_path: Path, popdb: Popdb, history: Callable[[Path], list[list[Outcome]]]
) -> None:
    settings = small_settings(tmp_path / "grown", popdb={"pairs_per_shard": 4})
    for outcomes in history(tmp_path):
        assert write_popdb(outcomes, settings).made
        assert verify(settings.popdb_path) == []
    assert digests(Path(settings.popdb_path)) == digests(popdb.root)


def test_an_unchanged_dataset_is_left_and_not_read(tmp_path: Path, settings: Settings, popdb: Popdb) -> None:
    before = times(popdb)
    outcomes = songs(tmp_path)
    for outcome in outcomes[:3]:
        assert outcome.artifact is not None
        outcome.artifact.path("latents.safetensors").unlink()
    assert popdb.made
    again = write_popdb(outcomes, settings)
    assert (again.made, times(popdb)) == (False, before)


@pytest.mark.parametrize("name", ["shards/*", "index-*", "dataset.json"])
def test_damage_is_mended_byte_for_byte(tmp_path: Path, settings: Settings, popdb: Popdb, name: str) -> None:
    before = digests(popdb.root)
    for damage in (Path.unlink, flip_bit, lambda path: path.write_bytes(b"\xff{")):
        damage(min(popdb.root.glob(name)))
        assert verify(popdb.root)
        assert write_popdb(songs(tmp_path), settings).made
        assert digests(popdb.root) == before
    assert verify(popdb.root) == []


def test_what_a_killed_writer_left_is_swept(tmp_path: Path, settings: Settings, popdb: Popdb) -> None:
    """A dataset may come from anywhere, and may have links in it."""
    left = ["shards/0123456789abcdef.safetensors", ".index-0123456789abcdef.parquet.17-4.tmp", "stats.json"]
    left += ["shards/00007-0123456789ab.safetensors", "shards/.0123456789abcdef.safetensors.17-4.tmp"]
    others = ["shards/notes.txt", "notes.txt", ".hidden.tmp", "index-mine.parquet"]
    for name in (*left, *others):
        (popdb.root / name).write_text("mine")
    write_popdb(songs(tmp_path)[:2], settings)
    assert verify(popdb.root) == []
    assert [name for name in (*left, *others) if (popdb.root / name).exists()] == others
    other = write_popdb(some(tmp_path, "xy"), small_settings(tmp_path / "other"))
    before = digests(other.root)
    for name, target in {"shards": "shards", ".lock": "dataset.json", "README.md": "README.md"}.items():
        (popdb.root / name).rename(tmp_path / "aside")
        (popdb.root / name).symlink_to(other.root / target)
        with pytest.raises(DatasetError, match=rf"{name}: a link; remove it"):
            write_popdb(songs(tmp_path), settings)
        assert digests(other.root) == before
        (popdb.root / name).unlink()
        (tmp_path / "aside").rename(popdb.root / name)


def program(module: str, *arguments: str, before: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """What a program of the tests says, line by line."""
    command = [*before, sys.executable, "-m", module, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_kill_at_any_step_leaves_an_old_or_a_new_dataset(tmp_path: Path) -> None:
    steps = program("tests.popdb.writer_killed", str(tmp_path))
    assert all((step["faults"], step["same"]) == ([], True) for step in steps)
    for operation in ("first", "grow"):
        # There is one moment from which on it is the new one, and kills on both sides of it.
        found = [step["found"] for step in steps if step["operation"] == operation]
        old, new = next((step["old"], step["new"]) for step in steps if step["operation"] == operation)
        moment = found.index(new)
        assert 5 < moment < len(found) - 2
        assert all("none" in it if operation == "first" else it == old for it in found[:moment])
        assert all(it == new for it in found[moment:])


def test_a_disk_that_gets_full_leaves_the_old_dataset(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        tried = subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "samuel", str(disk)], check=False)
    except FileNotFoundError:
        pytest.skip("no unshare on this system")
    if tried.returncode:
        pytest.skip("no user namespace with a mount of its own on this system")
    before = (*NAMESPACE, "sh", "-c", MOUNT, "sh", str(disk))
    steps = program("tests.popdb.writer_full_disk", str(tmp_path / "latents"), str(disk), before=before)
    failed = [step for step in steps if step["error"]]
    assert {step["error"].partition(": ")[0] for step in failed} == {"OperatorError"}
    assert all("the disk is full; the dataset there is as it was" in step["error"] for step in failed)
    assert all(step["whole"] == "old" and step["left"] == step["before"] for step in failed)
    # It got full at different points: some while a shard was written, some later.
    assert len(failed) > 5
    assert (steps[-1]["error"], steps[-1]["whole"]) == ("", "new")


def test_two_songs_of_one_recording_stand_on_one_side(tmp_path: Path) -> None:
    twins = [encoded_song(tmp_path, name, recording="the same audio") for name in "ab"]
    for seed in range(5):
        settings = small_settings(tmp_path, popdb={"seed": seed, "validation_share": 0.5})
        index = write_popdb([*twins, *some(tmp_path, "cd")], settings).index
        assert len({row["split"] for row in index if row["song_id"] in "ab"}) == 1


def test_a_reader_meets_a_whole_dataset_while_it_is_replaced(tmp_path: Path) -> None:
    """One thread writes two datasets in turn, another opens whatever is there: always one of the two."""
    settings = small_settings(tmp_path, popdb={"pairs_per_shard": 2})
    one, other = songs(tmp_path), songs(tmp_path)[:2]
    contents = {write_popdb(which, settings).info["content_sha256"] for which in (one, other)}

    def write() -> None:
        for _ in range(6):
            write_popdb(one, settings)
            write_popdb(other, settings)

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while writer.is_alive():
        seen.add(open_popdb(settings.popdb_path).info["content_sha256"])
    writer.join()
    assert seen == contents


def write_often(root: Path, pairs_per_shard: int) -> None:
    for count in range(6):
        settings = small_settings(root, popdb={"pairs_per_shard": pairs_per_shard})
        write_popdb(songs(root)[: 1 + count % 3], settings)


def test_two_writers_take_turns(tmp_path: Path) -> None:
    songs(tmp_path)
    other = multiprocessing.get_context("spawn").Process(target=write_often, args=(tmp_path, 1))
    other.start()
    while not Path(small_settings(tmp_path).popdb_path).exists():
        assert other.exitcode is None
    write_often(tmp_path, 2)
    other.join()
    assert other.exitcode == 0
    assert verify(small_settings(tmp_path).popdb_path) == []
