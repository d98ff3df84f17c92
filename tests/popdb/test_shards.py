import dataclasses
import hashlib
import math
import multiprocessing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from samuel.errors import DatasetError, InputError
from samuel.files import sha256, write_json
from samuel.popdb.outcome import Outcome
from samuel.popdb.shards import INDEX_SCHEMA, open_popdb, write_popdb
from samuel.popdb.statistics import ChannelStatistics
from samuel.popdb.status import Status
from samuel.popdb.verify import verify
from tests.popdb.latents import FRAMES, encoded_song, failed_song, small_settings


def songs(root: Path) -> list[Outcome]:
    encoded = [encoded_song(root, name, pairs) for name, pairs in (("c", 2), ("a", 3), ("b", 1))]
    return [*encoded, failed_song("d", Status.UNAVAILABLE), failed_song("e", Status.TOO_SHORT, "encode")]


def sung(song: Outcome, *shares: float) -> Outcome:
    """The song with these vocal shares of its chunks."""
    chunks = [
        chunk | {"vocal_share": share} for chunk, share in zip(song.record["chunks"], shares, strict=True)
    ]
    return dataclasses.replace(song, record=song.record | {"chunks": chunks})


def songs_sung(root: Path) -> list[Outcome]:
    """Of `songs`, a loses its first chunk at a least vocal share of ½, b its only one, c its second."""
    c, a, b, *failed = songs(root)
    return [sung(c, 0.9, 0.1), sung(a, 0.0, 0.5, 0.75), sung(b, 0.4999), *failed]


def test_shares_that_are_measured_anew_change_what_is_left_out(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, popdb={"min_vocal_share": 0.5})
    song = encoded_song(tmp_path, "a", pairs=3)
    assert [row["chunk"] for row in write_popdb([sung(song, 0.9, 0.1, 0.1)], settings).index] == [0]
    again = write_popdb([sung(song, 0.2, 0.8, 0.9)], settings)
    assert [(row["chunk"], row["vocal_share"]) for row in again.index] == [(1, 0.8), (2, 0.9)]
    assert verify(again.root) == []


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_every_pair_is_where_the_index_says(tmp_path: Path) -> None:
    outcomes = songs(tmp_path)
    popdb = write_popdb(outcomes, small_settings(tmp_path, popdb={"pairs_per_shard": 4}))
    assert [row["pair_id"] for row in popdb.index] == ["a-000", "a-001", "a-002", "b-000", "c-000", "c-001"]
    for outcome in outcomes[:3]:
        assert outcome.entry is not None
        truth = load_file(outcome.entry.path("latents.safetensors"))
        rows = [row for row in popdb.index if row["song_id"] == outcome.song.song_id]
        vocal, accompaniment = popdb.read(rows)
        assert torch.equal(vocal, truth["vocal"])
        assert torch.equal(accompaniment, truth["accompaniment"])
        assert vocal.dtype == torch.float16
    assert [row["shard"] for row in popdb.index] == ["shards/00000.safetensors"] * 4 + [
        "shards/00001.safetensors"
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
        outcome.song.song_id: load_file(outcome.entry.path("latents.safetensors"))
        for outcome in outcomes
        if outcome.entry
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
        assert popdb.stats["vocal"]["mean"] == pytest.approx(frames.mean(dim=1).tolist(), abs=1e-9)


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
    assert changed == {"songs.parquet", "dataset.json"}
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
    assert not settings.popdb_path.exists()


@pytest.mark.parametrize(("version", "remedy"), [(1, "run build-popdb again"), (99, "update samuel")])
def test_another_format_is_refused_with_a_remedy(tmp_path: Path, version: int, remedy: str) -> None:
    popdb = write_popdb(songs(tmp_path), small_settings(tmp_path))
    write_json(popdb.root / "dataset.json", popdb.info | {"format_version": version})
    with pytest.raises(DatasetError, match=f"format {version}, .*; {remedy}"):
        open_popdb(popdb.root)
    assert write_popdb(songs(tmp_path), small_settings(tmp_path)).made


def test_statistics_are_those_of_the_training_songs(tmp_path: Path) -> None:
    popdb = write_popdb(songs(tmp_path), small_settings(tmp_path, popdb={"pairs_per_shard": 2}))
    training = popdb.pairs("train")
    assert popdb.pairs("validation")
    for stream, latents in zip(("vocal", "accompaniment"), popdb.read(training), strict=True):
        frames = latents.double().transpose(0, 1).reshape(64, -1)
        assert popdb.stats[stream]["mean"] == pytest.approx(frames.mean(dim=1).tolist(), abs=1e-9)
        expected = frames.std(dim=1, unbiased=False).tolist()
        assert popdb.stats[stream]["std"] == pytest.approx(expected, rel=1e-6)


def test_the_order_of_completion_changes_no_byte(tmp_path: Path) -> None:
    for name, order in (("one", 1), ("two", -1)):
        write_popdb(songs(tmp_path)[::order], small_settings(tmp_path, popdb={"path": tmp_path / name}))
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_an_unchanged_dataset_is_not_written_again(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    assert write_popdb(songs(tmp_path), settings).made
    before = (settings.popdb_path / "dataset.json").stat().st_mtime_ns
    assert not write_popdb(songs(tmp_path), settings).made
    assert (settings.popdb_path / "dataset.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("lost", ["shards/00000.safetensors", "index.parquet", "stats.json", "songs.parquet"])
def test_a_lost_file_is_rebuilt_byte_for_byte(tmp_path: Path, lost: str) -> None:
    settings = small_settings(tmp_path)
    write_popdb(songs(tmp_path), settings)
    before = digests(settings.popdb_path)
    (settings.popdb_path / lost).unlink()
    assert write_popdb(songs(tmp_path), settings).made
    assert digests(settings.popdb_path) == before


def test_fewer_songs_leave_no_stale_shard(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, popdb={"pairs_per_shard": 2})
    write_popdb(songs(tmp_path), settings)
    popdb = write_popdb(songs(tmp_path)[:1], settings)
    assert [path.name for path in (popdb.root / "shards").iterdir()] == ["00000.safetensors"]
    assert verify(popdb.root) == []


def test_no_usable_song_writes_nothing_and_says_why(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    with pytest.raises(InputError, match=r"'unavailable': 1.*'Title of d': it is unavailable"):
        write_popdb([failed_song("d", Status.UNAVAILABLE)], settings)
    assert not settings.popdb_path.exists()


def test_a_half_written_dataset_is_none(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    write_popdb(songs(tmp_path), settings)
    (settings.popdb_path / "dataset.json").unlink()
    with pytest.raises(DatasetError, match="run the flow build-popdb"):
        open_popdb(settings.popdb_path)


def test_an_index_of_another_dataset_is_refused(tmp_path: Path) -> None:
    first = write_popdb(songs(tmp_path), small_settings(tmp_path, popdb={"path": tmp_path / "one"}))
    other = write_popdb(songs(tmp_path)[:2], small_settings(tmp_path, popdb={"path": tmp_path / "two"}))
    (first.root / "index.parquet").write_bytes((other.root / "index.parquet").read_bytes())
    with pytest.raises(DatasetError, match="not the one dataset"):
        open_popdb(first.root)


def test_verify_finds_a_flipped_bit_and_a_missing_shard(tmp_path: Path) -> None:
    popdb = write_popdb(songs(tmp_path), small_settings(tmp_path, popdb={"pairs_per_shard": 3}))
    assert verify(popdb.root) == []
    first, second = (popdb.root / name for name in sorted({row["shard"] for row in popdb.index}))
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    second.unlink()
    assert verify(popdb.root) == [
        "shards/00000.safetensors: its bytes are not those the index names",
        "shards/00001.safetensors: missing",
    ]


def test_what_a_killed_writer_left_is_cleared(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    write_popdb(songs(tmp_path), settings)
    before = digests(settings.popdb_path)
    (settings.popdb_path / "dataset.json").unlink()
    (settings.popdb_path / ".index.parquet.1234.tmp").write_text("half")
    (settings.popdb_path / "shards" / ".00000.safetensors.1234.tmp").write_text("half")
    write_popdb(songs(tmp_path), settings)
    assert digests(settings.popdb_path) == before


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


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("shape", "vocal has shape (6, 64, 32), the index means (6, 64, 64)"),
        ("nan", "accompaniment holds values that are not finite"),
        ("split", "song a: in both splits"),
    ],
)
def test_verify_sees_what_no_digest_shows(tmp_path: Path, fault: str, words: str) -> None:
    """Faults of a dataset that was written wrong: every digest is right."""
    popdb = write_popdb(songs(tmp_path), small_settings(tmp_path))
    shard = popdb.root / "shards" / "00000.safetensors"
    tensors = load_file(shard)
    if fault == "shape":
        tensors["vocal"] = tensors["vocal"][:, :, :32].contiguous()
    if fault == "nan":
        tensors["accompaniment"][2, 3, 4] = math.nan
    save_file(tensors, shard)
    rows = [row | {"shard_sha256": sha256(shard)} for row in popdb.index]
    if fault == "split":
        rows[0]["split"] = "validation" if rows[0]["split"] == "train" else "train"
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), popdb.root / "index.parquet")
    write_json(
        popdb.root / "dataset.json", popdb.info | {"index_sha256": sha256(popdb.root / "index.parquet")}
    )
    assert any(words in line for line in verify(popdb.root))


def write_twelve_times(root: Path, pairs_per_shard: int) -> None:
    for count in range(12):
        write_popdb(
            songs(root)[: 1 + count % 3], small_settings(root, popdb={"pairs_per_shard": pairs_per_shard})
        )


def test_two_writers_take_turns(tmp_path: Path) -> None:
    songs(tmp_path)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_twelve_times, args=(tmp_path, size)) for size in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert verify(small_settings(tmp_path).popdb_path) == []


def test_a_channel_that_never_changes_can_be_normalised() -> None:
    statistics = ChannelStatistics()
    statistics.add(torch.full((2, 3, 8), 5.0))
    assert statistics.summary() == {"mean": [5.0] * 3, "std": [1.0] * 3}
