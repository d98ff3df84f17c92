"""A dataset that songs are added to, taken from and changed in."""

import dataclasses
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from samuel.config import Settings
from samuel.errors import DatasetError, InputError
from samuel.popdb.dataset import Popdb, open_popdb
from samuel.popdb.status import Outcome
from samuel.popdb.verify import verify
from samuel.popdb.writer import compact, require_place, write_popdb
from tests.popdb.latents import encoded_song, small_settings
from tests.popdb.shards.songs import digests, sung


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return small_settings(tmp_path, popdb={"pairs_per_shard": 3, "min_vocal_share": 0.4})


def some(root: Path, names: str, pairs: int = 2) -> list[Outcome]:
    return [encoded_song(root, name, pairs) for name in names]


def shards(popdb: Popdb) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted((popdb.root / "shards").iterdir())}


def rightly_read(popdb: Popdb, outcomes: list[Outcome]) -> bool:
    """Every chunk of every song is a pair, and the pair has the song's latents."""
    entries = {outcome.song.song_id: outcome.artifact for outcome in outcomes if outcome.artifact}
    for name, entry in entries.items():
        rows = [row for row in popdb.index if row["song_id"] == name]
        truth = load_file(entry.path("latents.safetensors"))
        read = popdb.read(rows)
        if [row["chunk"] for row in rows] != list(range(len(truth["vocal"]))):
            return False
        if not (torch.equal(read[0], truth["vocal"]) and torch.equal(read[1], truth["accompaniment"])):
            return False
    return {row["song_id"] for row in popdb.index} == entries.keys()


def test_new_songs_come_in_new_shards(tmp_path: Path, settings: Settings) -> None:
    first = write_popdb(some(tmp_path, "bdf"), settings)
    before = shards(first)
    grown = write_popdb(some(tmp_path, "abcdef"), settings)
    after = shards(grown)
    assert before.items() <= after.items()
    assert sorted(name[:5] for name in after) == ["00000", "00001", "00002", "00003"]
    assert rightly_read(grown, some(tmp_path, "abcdef"))
    assert [row["pair_id"] for row in grown.index] == sorted(row["pair_id"] for row in grown.index)
    assert grown.tombstones == []
    assert verify(grown.root) == []


def test_an_old_reader_goes_on_with_shards_that_stay(tmp_path: Path, settings: Settings) -> None:
    old = write_popdb(some(tmp_path, "bdf"), settings)
    write_popdb(some(tmp_path, "abdef"), settings)
    assert rightly_read(old, some(tmp_path, "bdf"))


def test_a_removed_song_is_buried_and_can_come_back(tmp_path: Path, settings: Settings) -> None:
    whole = write_popdb(some(tmp_path, "abc"), settings)
    before, bytes_before = shards(whole), digests(whole.root)
    fewer = write_popdb(some(tmp_path, "ac"), settings)
    assert shards(fewer) == before
    assert [(row["pair_id"], row["shard"], row["row"]) for row in fewer.tombstones] == [
        (row["pair_id"], row["shard"], row["row"]) for row in whole.index if row["song_id"] == "b"
    ]
    assert fewer.info["counts"]["buried"] == 2
    assert rightly_read(fewer, some(tmp_path, "ac"))
    assert verify(fewer.root) == []
    again = write_popdb(some(tmp_path, "abc"), settings)
    assert shards(again) == before
    assert digests(again.root) == bytes_before


def test_a_shard_without_pairs_goes(tmp_path: Path, settings: Settings) -> None:
    write_popdb(some(tmp_path, "abc", pairs=3), settings)
    fewer = write_popdb(some(tmp_path, "ac", pairs=3), settings)
    assert [name[:5] for name in shards(fewer)] == ["00000", "00002"]
    assert fewer.tombstones == []


def test_a_changed_song_is_written_anew(tmp_path: Path, settings: Settings) -> None:
    popdb = write_popdb(some(tmp_path, "abc"), settings)
    other = encoded_song(tmp_path / "other", "b", pairs=3)
    changed = write_popdb([*some(tmp_path, "ac"), other], settings)
    assert shards(popdb).items() <= shards(changed).items()
    assert rightly_read(changed, [*some(tmp_path, "ac"), other])
    assert {row["song_id"] for row in changed.tombstones} == {"b"}
    assert verify(changed.root) == []


def test_what_is_said_of_a_pair_changes_without_its_shard(tmp_path: Path, settings: Settings) -> None:
    [a, b] = some(tmp_path, "ab")
    popdb = write_popdb([a, b], settings)
    told = dataclasses.replace(a, song=dataclasses.replace(a.song, title="Another title"))
    again = write_popdb([sung(told, 0.9, 0.8), b], settings)
    assert shards(again) == shards(popdb)
    assert [(row["title"], row["vocal_share"]) for row in again.index[:2]] == [
        ("Another title", 0.9),
        ("Another title", 0.8),
    ]


def test_a_chunk_that_is_sung_too_little_is_buried_until_the_limit_falls(tmp_path: Path) -> None:
    loud = small_settings(tmp_path, popdb={"min_vocal_share": 0.6})
    low = small_settings(tmp_path, popdb={"min_vocal_share": 0.2})
    song = sung(encoded_song(tmp_path, "a", pairs=3), 0.3, 0.7, 0.1)
    first = write_popdb([song], low)
    fewer = write_popdb([song], loud)
    assert [row["chunk"] for row in fewer.index] == [1]
    assert [row["chunk"] for row in fewer.tombstones] == [0]
    assert digests(write_popdb([song], low).root)["index.parquet"] == first.info["index_sha256"]


def test_another_codec_starts_anew(tmp_path: Path, settings: Settings) -> None:
    songs = some(tmp_path, "ab")
    before = shards(write_popdb(songs, settings))
    others = [dataclasses.replace(song, record=song.record | {"codec": "other/1"}) for song in songs]
    popdb = write_popdb(others, settings)
    assert {row["codec"] for row in popdb.index} == {"other/1"}
    assert popdb.tombstones == []
    assert [name[:5] for name in shards(popdb)] == ["00000", "00001"]
    assert shards(popdb) != before


def test_a_lost_shard_is_written_again(tmp_path: Path, settings: Settings) -> None:
    popdb = write_popdb(some(tmp_path, "abc"), settings)
    (popdb.root / popdb.index[0]["shard"]).unlink()
    assert any("missing" in fault for fault in verify(popdb.root))
    again = write_popdb(some(tmp_path, "abc"), settings)
    assert rightly_read(again, some(tmp_path, "abc"))
    assert verify(again.root) == []


def test_compacted_it_is_what_would_have_been_written_at_once(tmp_path: Path, settings: Settings) -> None:
    write_popdb(some(tmp_path, "gb"), settings)
    write_popdb(some(tmp_path, "gbca"), settings)
    changed = [*some(tmp_path, "gcae"), encoded_song(tmp_path / "other", "d", pairs=3)]
    grown = write_popdb(changed, settings)
    assert grown.tombstones
    compacted = compact(grown.root)
    assert compacted.made
    assert compacted.info["content_sha256"] == grown.info["content_sha256"]
    at_once = small_settings(
        tmp_path,
        popdb={"pairs_per_shard": 3, "min_vocal_share": 0.4, "path": str(tmp_path / "at once")},
    )
    write_popdb(changed, at_once)
    assert digests(compacted.root) == digests(tmp_path / "at once")
    assert not compact(compacted.root).made
    assert not write_popdb(changed, settings).made


def test_statistics_do_not_depend_on_how_it_has_grown(tmp_path: Path, settings: Settings) -> None:
    write_popdb(some(tmp_path, "b"), settings)
    grown = write_popdb(some(tmp_path, "abc"), settings)
    training = grown.pairs("train")
    for stream, latents in zip(("vocal", "accompaniment"), grown.read(training), strict=True):
        frames = latents.double().transpose(0, 1).reshape(64, -1)
        assert grown.stats[stream]["mean"] == pytest.approx(frames.mean(dim=1).tolist(), rel=1e-7, abs=1e-9)


def test_compacting_copies_no_broken_pair(tmp_path: Path, settings: Settings) -> None:
    write_popdb(some(tmp_path, "bd"), settings)
    grown = write_popdb(some(tmp_path, "abd"), settings)
    before = digests(grown.root)
    shard = grown.root / grown.index[0]["shard"]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DatasetError, match="not the latents of the index; run samuel verify --repair"):
        compact(grown.root)
    shard_name = str(shard.relative_to(grown.root))
    assert {name: found for name, found in digests(grown.root).items() if name != shard_name} == {
        name: found for name, found in before.items() if name != shard_name
    }


def test_pandas_reads_the_tables(tmp_path: Path, settings: Settings) -> None:
    popdb = write_popdb(some(tmp_path, "ab"), settings)
    index = pq.read_table(popdb.root / "index.parquet").to_pandas()
    assert list(index["pair_id"]) == ["a-000", "a-001", "b-000", "b-001"]
    assert index.groupby("song_id")["row"].count().to_dict() == {"a": 2, "b": 2}


def test_what_training_knows_a_dataset_by_does_not_depend_on_its_growth(
    tmp_path: Path, settings: Settings
) -> None:
    write_popdb(some(tmp_path, "b"), settings)
    grown = open_popdb(write_popdb(some(tmp_path, "ab"), settings).root)
    content = grown.info["content_sha256"]
    assert compact(grown.root).info["content_sha256"] == content
    assert write_popdb(some(tmp_path, "abc"), settings).info["content_sha256"] != content


def test_a_broken_shard_gives_no_statistics(tmp_path: Path, settings: Settings) -> None:
    popdb = write_popdb(some(tmp_path, "abc"), settings)
    row = popdb.pairs("train")[0]
    shard = popdb.root / row["shard"]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    before = digests(popdb.root)
    with pytest.raises(DatasetError, match=r"not the latents that were written; run samuel verify --repair"):
        write_popdb(some(tmp_path, "abcd"), settings)
    assert digests(popdb.root) == before


def test_a_dataset_of_another_source_is_not_replaced(tmp_path: Path, settings: Settings) -> None:
    popdb = write_popdb(some(tmp_path, "abc"), settings)
    before = digests(popdb.root)
    folder = settings.model_copy(
        update={"songs": settings.songs.model_copy(update={"source": "folder", "path": tmp_path})}
    )
    with pytest.raises(
        InputError, match=r"from the source 'synthetic' is there, .* from 'folder'; set popdb.path"
    ):
        write_popdb(some(tmp_path, "d"), folder)
    with pytest.raises(InputError, match="from the source 'synthetic' is there"):
        require_place(folder)
    require_place(settings)
    assert digests(popdb.root) == before


def test_a_split_that_there_is_not_is_named(tmp_path: Path, settings: Settings) -> None:
    popdb = write_popdb(some(tmp_path, "abc"), settings)
    for ask in (popdb.pairs, popdb.dataset):
        with pytest.raises(InputError, match="no split 'test'; there are train and validation"):
            ask("test")


def test_latents_that_were_damaged_come_into_no_shard(tmp_path: Path, settings: Settings) -> None:
    popdb = write_popdb(some(tmp_path, "a"), settings)
    before = digests(popdb.root)
    path = tmp_path / "latents" / "b" / "latents.safetensors"
    songs = some(tmp_path, "ab")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"b/latents\.safetensors: damaged since .*; delete its folder"):
        write_popdb(songs, settings)
    assert digests(popdb.root) == before
