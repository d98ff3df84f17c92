import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from samuel.codecs.mel import MelCodec
from samuel.errors import InputError
from samuel.popdb.dataset import Popdb
from samuel.popdb.exchange import export_manifest
from samuel.popdb.published import import_published
from samuel.popdb.status import Outcome, Status
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import encoded_song, failed_song, small_settings
from tests.popdb.published_arrays import write_published


def found_at(video_id: str | None, song: Outcome) -> Outcome:
    return replace(song, record=song.record | {"video_id": video_id})


@pytest.fixture
def popdb(tmp_path: Path) -> Popdb:
    songs = [
        found_at('dQw4"\n\N{LINE SEPARATOR}', encoded_song(tmp_path, "a", recording="0a")),
        found_at(None, encoded_song(tmp_path, "b", recording="0b")),
        failed_song("c", Status.UNAVAILABLE),
    ]
    return write_popdb(songs, small_settings(tmp_path))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "pairs.jsonl").read_text("ascii").splitlines()]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_line_says_what_identifies_a_pair(popdb: Popdb, tmp_path: Path) -> None:
    rows = lines(export_manifest(popdb, tmp_path / "manifest"))
    assert [row["pair_id"] for row in rows] == [row["pair_id"] for row in popdb.index]
    for row, pair in zip(rows, popdb.index, strict=True):
        vocal, accompaniment = popdb.read_checked(pair)
        latents = vocal.numpy().astype("<f2").tobytes() + accompaniment.numpy().astype("<f2").tobytes()
        assert row["pair_sha256"] == hashlib.sha256(latents).hexdigest()
        assert row["audio_sha256"] == "0" + row["song_id"]
        assert row["recording"] == row["audio_sha256"]
        kept = ("song_id", "video_id", "chunk", "start_s", "split", "latents_sha256")
        assert {name: row[name] for name in kept} == {name: pair[name] for name in kept}
    assert len(rows[0]) == 10


def test_settings_and_counts_are_stated(popdb: Popdb, tmp_path: Path) -> None:
    folder = export_manifest(popdb, tmp_path / "manifest")
    stated = json.loads((folder / "manifest.json").read_text())
    assert stated["codec"] == MelCodec.info.model_dump()
    assert stated["settings"] == popdb.info["settings"]
    assert stated["counts"]["songs_listed"] == 3
    assert stated["counts"]["pairs"] == 4
    assert stated["content_sha256"] == popdb.info["content_sha256"]
    joined = "".join("{pair_id} {pair_sha256} {split}\n".format(**row) for row in lines(folder))
    assert stated["content_sha256"] == hashlib.sha256(joined.encode()).hexdigest()
    assert stated["pairs_sha256"] == hashlib.sha256((folder / "pairs.jsonl").read_bytes()).hexdigest()


def test_no_title_no_message_and_no_latents_are_in_it(popdb: Popdb, tmp_path: Path) -> None:
    folder = export_manifest(popdb, tmp_path / "manifest")
    assert sorted(content(folder)) == ["README.md", "manifest.json", "pairs.jsonl"]
    everything = b"".join(content(folder).values())
    for words in ("Title of", "it is unavailable", "shard", str(tmp_path)):
        assert words.encode() not in everything.replace(b"pairs_per_shard", b"")


def test_equal_datasets_give_equal_bytes_however_they_grew(tmp_path: Path) -> None:
    songs = [encoded_song(tmp_path, name) for name in "abc"]
    at_once = write_popdb(songs, small_settings(tmp_path / "once"))
    write_popdb([songs[2]], small_settings(tmp_path / "grown"))
    grown = write_popdb(songs, small_settings(tmp_path / "grown"))
    manifests = [export_manifest(at_once, tmp_path / "1"), export_manifest(grown, tmp_path / "2")]
    assert content(manifests[0]) == content(manifests[1])


def test_another_folder_is_left_alone(popdb: Popdb, tmp_path: Path) -> None:
    folder = export_manifest(popdb, tmp_path / "manifest")
    before = folder.stat().st_mtime_ns
    assert export_manifest(popdb, folder) == folder
    assert folder.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="something else is there"):
        export_manifest(popdb, popdb.root)


def test_a_published_dataset_has_a_manifest(tmp_path: Path) -> None:
    popdb = import_published(*write_published(tmp_path, 3), tmp_path / "popdb")
    rows = lines(export_manifest(popdb, tmp_path / "manifest"))
    assert [row["audio_sha256"] for row in rows] == [None] * 3
    assert len({row["pair_sha256"] for row in rows}) == 3
