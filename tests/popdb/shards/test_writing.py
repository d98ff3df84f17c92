import dataclasses
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from samuel.artifacts import sha256, write_json
from samuel.errors import DatasetError, InputError
from samuel.popdb.dataset import ChannelStatistics, open_popdb
from samuel.popdb.status import Status
from samuel.popdb.verify import verify
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import (
    FRAMES,
    encoded_song,
    failed_song,
    small_settings,
)
from tests.popdb.shards.songs import (
    digests,
    songs,
    songs_sung,
    sung,
)


def test_shares_that_are_measured_anew_change_what_is_left_out(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, popdb={"min_vocal_share": 0.5})
    song = encoded_song(tmp_path, "a", pairs=3)
    assert [row["chunk"] for row in write_popdb([sung(song, 0.9, 0.1, 0.1)], settings).index] == [0]
    again = write_popdb([sung(song, 0.2, 0.8, 0.9)], settings)
    assert [(row["chunk"], row["vocal_share"]) for row in again.index] == [(1, 0.8), (2, 0.9)]
    assert verify(again.root) == []


def test_every_pair_is_where_the_index_says(tmp_path: Path) -> None:
    outcomes = songs(tmp_path)
    popdb = write_popdb(outcomes, small_settings(tmp_path, popdb={"pairs_per_shard": 4}))
    assert [row["pair_id"] for row in popdb.index] == ["a-000", "a-001", "a-002", "b-000", "c-000", "c-001"]
    for outcome in outcomes[:3]:
        assert outcome.artifact is not None
        truth = load_file(outcome.artifact.path("latents.safetensors"))
        rows = [row for row in popdb.index if row["song_id"] == outcome.song.song_id]
        vocal, accompaniment = popdb.read(rows)
        assert torch.equal(vocal, truth["vocal"])
        assert torch.equal(accompaniment, truth["accompaniment"])
        assert vocal.dtype == torch.float16
    sha = [sha256(path) for path in sorted((popdb.root / "shards").iterdir())]
    assert [row["shard"] for row in popdb.index] == [f"shards/00000-{sha[0][:12]}.safetensors"] * 4 + [
        f"shards/00001-{sha[1][:12]}.safetensors"
    ] * 2


def test_every_song_of_the_list_has_a_row(tmp_path: Path) -> None:
    popdb = write_popdb(songs(tmp_path), small_settings(tmp_path))
    rows = {row["song_id"]: row for row in pq.read_table(popdb.root / "songs.parquet").to_pylist()}
    assert set(rows) == set("abcde")
    assert (rows["d"]["status"], rows["d"]["stage"], rows["d"]["retryable"]) == (
        "unavailable",
        "download",
        False,
    )
    assert rows["e"]["message"] == "it is too_short"
    assert rows["a"]["pairs"] == 3
    assert popdb.info["counts"]["songs_listed"] == 5
    assert popdb.info["counts"]["songs_kept"] == 3


def test_chunks_sung_too_little_are_no_pairs_and_the_others_keep_their_place(tmp_path: Path) -> None:
    outcomes = songs_sung(tmp_path)
    popdb = write_popdb(
        outcomes, small_settings(tmp_path, popdb={"pairs_per_shard": 2, "min_vocal_share": 0.5})
    )
    assert [(row["pair_id"], row["chunk"], row["vocal_share"]) for row in popdb.index] == [
        ("a-001", 1, 0.5),
        ("a-002", 2, 0.75),
        ("c-000", 0, 0.9),
    ]
    starts_s = [row["chunk"] * FRAMES * 2048 / 44_100 for row in popdb.index]
    assert [row["start_s"] for row in popdb.index] == pytest.approx(starts_s, abs=1e-4)
    truth = {
        outcome.song.song_id: load_file(outcome.artifact.path("latents.safetensors"))
        for outcome in outcomes
        if outcome.artifact
    }
    for stream, latents in zip(("vocal", "accompaniment"), popdb.read(popdb.index), strict=True):
        assert torch.equal(latents, torch.stack([*truth["a"][stream][1:], truth["c"][stream][0]]))
    assert verify(popdb.root) == []


def test_statistics_and_split_are_those_of_the_pairs_kept(tmp_path: Path) -> None:
    for seed in range(6):  # with one of them, b would be the song that is held out
        settings = small_settings(tmp_path, popdb={"min_vocal_share": 0.5, "seed": seed})
        popdb = write_popdb(songs_sung(tmp_path), settings)
        assert {row["split"] for row in popdb.index} == {"train", "validation"}
        vocal, _ = popdb.read(popdb.pairs("train"))
        frames = vocal.double().transpose(0, 1).reshape(64, -1)
        assert popdb.stats["vocal"]["mean"] == pytest.approx(frames.mean(dim=1).tolist(), rel=1e-7, abs=1e-9)


def test_the_chunks_left_out_are_accounted_for(tmp_path: Path) -> None:
    popdb = write_popdb(songs_sung(tmp_path), small_settings(tmp_path, popdb={"min_vocal_share": 0.5}))
    counts = popdb.info["counts"]
    assert {name: counts[name] for name in ("songs_kept", "chunks", "chunks_left_out", "pairs")} == {
        "songs_kept": 2, "chunks": 6, "chunks_left_out": 3, "pairs": 3,
    }  # fmt: skip
    assert sorted(popdb.vocal_shares()) == [0.0, 0.1, 0.4999, 0.5, 0.75, 0.9]
    rows = {row["song_id"]: row for row in pq.read_table(popdb.root / "songs.parquet").to_pylist()}
    told = {name: (row["status"], row["vocal_shares"], row["pairs"]) for name, row in rows.items()}
    assert told["a"] == ("ok", [0.0, 0.5, 0.75], 2)
    assert told["b"] == ("ok", [0.4999], 0)
    assert told["e"] == ("too_short", [], 0)


def test_another_least_vocal_share_writes_the_dataset_anew(tmp_path: Path) -> None:
    outcomes = songs_sung(tmp_path)
    everything = write_popdb(outcomes, small_settings(tmp_path))
    before = digests(everything.root)
    fewer = write_popdb(outcomes, small_settings(tmp_path, popdb={"min_vocal_share": 0.4}))
    assert (len(everything.index), len(fewer.index), fewer.made) == (6, 4, True)
    assert not write_popdb(outcomes, small_settings(tmp_path, popdb={"min_vocal_share": 0.4})).made
    write_popdb(outcomes, small_settings(tmp_path))
    assert digests(everything.root) == before


def test_a_song_without_pairs_rewrites_no_shard_but_is_counted(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, popdb={"min_vocal_share": 0.5})
    popdb = write_popdb(songs_sung(tmp_path), settings)
    before = {path: path.stat().st_mtime_ns for path in popdb.root.rglob("*") if path.is_file()}
    unsung = sung(encoded_song(tmp_path, "u"), 0.0, 0.2)
    again = write_popdb([*songs_sung(tmp_path), unsung], settings)
    changed = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {"songs.parquet", "README.md", "dataset.json"}
    counts = open_popdb(again.root).info["counts"]
    assert (counts["songs_listed"], counts["chunks"], counts["chunks_left_out"]) == (6, 8, 5)
    assert counts["songs_kept"] == 2
    assert 0.2 in again.vocal_shares()


def test_a_least_vocal_share_that_leaves_nothing_is_named(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, popdb={"min_vocal_share": 0.95})
    with pytest.raises(
        InputError, match=r"popdb\.min_vocal_share = 0\.95 .* none of 6 chunks.* 0\.90; lower"
    ):
        write_popdb(songs_sung(tmp_path), settings)
    assert not Path(settings.popdb_path).exists()


@pytest.mark.parametrize(("version", "remedy"), [(1, "run build-popdb again"), (99, "update samuel")])
def test_another_format_is_refused_with_a_remedy(tmp_path: Path, version: int, remedy: str) -> None:
    popdb = write_popdb(songs(tmp_path), small_settings(tmp_path))
    write_json(popdb.root / "dataset.json", popdb.info | {"format_version": version})
    with pytest.raises(DatasetError, match=f"format {version}, .*; {remedy}"):
        open_popdb(popdb.root)
    if version == 1:
        assert write_popdb(songs(tmp_path), small_settings(tmp_path)).made
    else:  # another version's work is not overwritten
        with pytest.raises(DatasetError, match="update samuel"):
            write_popdb(songs(tmp_path), small_settings(tmp_path))


def test_statistics_are_those_of_the_training_songs(tmp_path: Path) -> None:
    popdb = write_popdb(songs(tmp_path), small_settings(tmp_path, popdb={"pairs_per_shard": 2}))
    training = popdb.pairs("train")
    assert popdb.pairs("validation")
    for stream, latents in zip(("vocal", "accompaniment"), popdb.read(training), strict=True):
        frames = latents.double().transpose(0, 1).reshape(64, -1)
        assert popdb.stats[stream]["mean"] == pytest.approx(frames.mean(dim=1).tolist(), rel=1e-7, abs=1e-9)
        expected = frames.std(dim=1, unbiased=False).tolist()
        assert popdb.stats[stream]["std"] == pytest.approx(expected, rel=1e-6)


def test_the_order_of_completion_changes_no_byte(tmp_path: Path) -> None:
    for name, order in (("one", 1), ("two", -1)):
        write_popdb(songs(tmp_path)[::order], small_settings(tmp_path, popdb={"path": tmp_path / name}))
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_an_unchanged_dataset_is_not_written_again(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    assert write_popdb(songs(tmp_path), settings).made
    before = (Path(settings.popdb_path) / "dataset.json").stat().st_mtime_ns
    assert not write_popdb(songs(tmp_path), settings).made
    assert (Path(settings.popdb_path) / "dataset.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "lost",
    [
        "shards/*",
        "index.parquet",
        "stats.json",
        "songs.parquet",
        "tombstones.parquet",
        "README.md",
        "dataset.json",
    ],
)  # fmt: skip
def test_a_lost_file_is_rebuilt_byte_for_byte(tmp_path: Path, lost: str) -> None:
    settings = small_settings(tmp_path)
    write_popdb(songs(tmp_path), settings)
    before = digests(Path(settings.popdb_path))
    [path] = Path(settings.popdb_path).glob(lost)
    path.unlink()
    assert write_popdb(songs(tmp_path), settings).made
    assert digests(Path(settings.popdb_path)) == before


def test_fewer_songs_leave_no_stale_shard(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, popdb={"pairs_per_shard": 2})
    write_popdb(songs(tmp_path), settings)
    popdb = write_popdb(songs(tmp_path)[:1], settings)
    assert [path.name for path in (popdb.root / "shards").iterdir()] == [Path(popdb.index[0]["shard"]).name]
    assert verify(popdb.root) == []


def test_no_usable_song_writes_nothing_and_says_why(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    with pytest.raises(InputError, match=r"'unavailable': 1.*'Title of d': it is unavailable"):
        write_popdb([failed_song("d", Status.UNAVAILABLE)], settings)
    assert not Path(settings.popdb_path).exists()


def test_a_half_written_dataset_is_none(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    write_popdb(songs(tmp_path), settings)
    (Path(settings.popdb_path) / "dataset.json").unlink()
    with pytest.raises(DatasetError, match="run the flow build-popdb"):
        open_popdb(settings.popdb_path)


def test_an_index_of_another_dataset_is_refused(tmp_path: Path) -> None:
    first = write_popdb(songs(tmp_path), small_settings(tmp_path, popdb={"path": tmp_path / "one"}))
    other = write_popdb(songs(tmp_path)[:2], small_settings(tmp_path, popdb={"path": tmp_path / "two"}))
    (first.root / "index.parquet").write_bytes((other.root / "index.parquet").read_bytes())
    with pytest.raises(DatasetError, match=r"index\.parquet: its bytes are not those dataset\.json names"):
        open_popdb(first.root)


def test_what_a_killed_writer_left_is_cleared(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    write_popdb(songs(tmp_path), settings)
    before = digests(Path(settings.popdb_path))
    (Path(settings.popdb_path) / "dataset.json").unlink()
    (Path(settings.popdb_path) / ".pending").mkdir(exist_ok=True)
    (Path(settings.popdb_path) / ".pending" / "index.parquet").write_text("half")
    (Path(settings.popdb_path) / ".work").mkdir()
    (Path(settings.popdb_path) / ".work" / "shard.safetensors").write_text("half")
    (Path(settings.popdb_path) / "shards" / "00007-0123456789ab.safetensors").write_text("half")
    write_popdb(songs(tmp_path), settings)
    assert digests(Path(settings.popdb_path)) == before


def test_two_songs_of_one_recording_stand_on_one_side(tmp_path: Path) -> None:
    twins = [encoded_song(tmp_path, name, recording="the same audio") for name in "ab"]
    for seed in range(8):
        others = [encoded_song(tmp_path, name) for name in "cd"]
        settings = small_settings(tmp_path, popdb={"seed": seed, "validation_share": 0.5})
        index = write_popdb([*twins, *others], settings).index
        assert len({row["split"] for row in index if row["song_id"] in "ab"}) == 1


def test_another_try_of_a_failed_song_rewrites_no_shard(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    popdb = write_popdb([*songs(tmp_path), failed_song("f", Status.NETWORK)], settings)
    before = {path: path.stat().st_mtime_ns for path in popdb.root.rglob("*") if path.is_file()}
    again = dataclasses.replace(failed_song("f", Status.NETWORK), attempts=2)
    assert write_popdb([*songs(tmp_path), again], settings).made
    changed = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {"songs.parquet", "dataset.json"}
    rows = pq.read_table(popdb.root / "songs.parquet").to_pylist()
    assert {row["song_id"]: row["attempts"] for row in rows}["f"] == 2
    assert verify(popdb.root) == []
    assert not write_popdb([*songs(tmp_path), again], settings).made


@pytest.mark.parametrize("name", ["dataset.json", "stats.json", "index.parquet"])
@pytest.mark.parametrize("content", [b"{", b"{}", b"\xff\xfe"])
def test_damaged_metadata_is_named_by_verify_and_rebuilt(tmp_path: Path, name: str, content: bytes) -> None:
    settings = small_settings(tmp_path)
    popdb = write_popdb(songs(tmp_path), settings)
    before = digests(popdb.root)
    (popdb.root / name).write_bytes(content)
    assert len(verify(popdb.root)) == 1
    write_popdb(songs(tmp_path), settings)
    assert digests(popdb.root) == before


def test_a_channel_that_never_changes_can_be_normalised() -> None:
    statistics = ChannelStatistics()
    statistics.add(torch.full((2, 3, 8), 5.0))
    assert statistics.summary() == {"mean": [5.0] * 3, "std": [1.0] * 3}
