"""Exports: a set for stable-audio-tools, by its own loader and models, and a manifest without the audio."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from samuel.codecs.mel import MelCodec
from samuel.errors import DatasetError
from samuel.hub import quietly
from samuel.popdb.dataset import Popdb
from samuel.popdb.exchange import export_manifest, export_stable_audio
from samuel.popdb.status import Status
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import FRAMES, encoded_song, failed_song, flip_bit, small_settings

TITLE = 'A\r\n" \N{LINE SEPARATOR}\x00 ../../sóng'
SIZES: dict[str, Any] = {"batch_size": 2, "sample_size": FRAMES * 2048, "sample_rate": 44_100}
# It asks for pinned memory wherever it runs.
pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")


@pytest.fixture(scope="module")
def popdb(tmp_path_factory: pytest.TempPathFactory) -> Popdb:
    root = tmp_path_factory.mktemp("data")
    songs = [encoded_song(root, name, 3, recording=f"0{name}") for name in "abcde"]
    songs = [replace(song, song=replace(song.song, title=TITLE)) for song in songs]
    songs[0] = replace(songs[0], record=songs[0].record | {"video_id": 'dQw4"\n\N{LINE SEPARATOR}'})
    settings = small_settings(root, popdb={"validation_share": 0.4, "pairs_per_shard": 2})
    return write_popdb([*songs, failed_song("f", Status.UNAVAILABLE)], settings)


@pytest.fixture(scope="module")
def exported(popdb: Popdb, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set, at another place than it was written to."""
    root = tmp_path_factory.mktemp("exported")
    return export_stable_audio(popdb, root / "written").rename(root / "moved.npy set")


def loader(config: dict[str, Any], **changes: Any) -> Any:
    with quietly():
        from stable_audio_tools.data.dataset import create_dataloader_from_config

        return create_dataloader_from_config(config | changes, num_workers=1, **SIZES)


def items(config: Path, **changes: Any) -> Iterator[tuple[NDArray[np.float16], dict[str, Any]]]:
    for latents, metadata in loader(json.loads(config.read_text()), **changes):
        yield from zip(latents.numpy(), metadata, strict=True)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def latents_of(popdb: Popdb, split: str) -> dict[str, tuple[NDArray[np.float16], NDArray[np.float16]]]:
    rows = popdb.pairs(split)
    vocal, accompaniment = (tensor.numpy() for tensor in popdb.read(rows))
    return {row["pair_id"]: (vocal[i], accompaniment[i]) for i, row in enumerate(rows)}


@pytest.mark.parametrize(
    ("config", "split", "crop"),
    [
        ("dataset_config.json", "train", {"latent_crop_length": 16, "random_crop": True}),
        ("validation_dataset_config.json", "validation", {}),
    ],
)
def test_the_tools_own_loader_gives_every_pair_once_both_streams_cropped_alike(
    config: str,
    split: str,
    crop: dict[str, Any],
    popdb: Popdb,
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(exported)
    wanted, seen, starts = latents_of(popdb, split), [], set()
    assert len(wanted) > 2
    for accompaniment, item in items(Path(config), drop_last=False, **crop):
        start = item.get("latent_crop_start", 0)
        vocal, own = (latents[:, start:][:, : 16 if crop else None] for latents in wanted[item["pair_id"]])
        assert accompaniment.dtype == item["vocal"].numpy().dtype == np.float16
        assert np.array_equal(accompaniment, own)
        assert np.array_equal(item["vocal"].numpy(), vocal)
        assert item["title"] == TITLE
        if not crop:
            assert item["padding_mask"][0].tolist() == [1] * FRAMES
            assert item["seconds_total"] == pytest.approx(FRAMES * 2048 / 44_100, abs=1e-4)
        seen.append(item["pair_id"])
        starts.add(start)
    assert sorted(seen) == sorted(wanted)
    assert (len(starts) > 1) == bool(crop)
    assert "Couldn't load" not in capfd.readouterr().out  # what it says of an item that it replaces


def test_a_pair_that_has_changed_is_not_exported(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, popdb={"validation_share": 0.0})
    popdb = write_popdb([encoded_song(tmp_path, name) for name in "ab"], settings)
    folder = export_stable_audio(popdb, tmp_path / "whole")
    assert not (folder / "validation_dataset_config.json").exists()
    assert "validation" not in (folder / "README.md").read_text()
    flip_bit(popdb.root / popdb.index[0]["shard"])
    with pytest.raises(DatasetError, match="not the latents of the index"):
        export_stable_audio(popdb, tmp_path / "set")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("name", ["../up", "", "x" * 101])
def test_an_id_that_is_no_file_name_of_its_own_is_refused(popdb: Popdb, name: str, tmp_path: Path) -> None:
    table = popdb.table.set_column(0, "pair_id", [[name, *popdb.table["pair_id"].to_pylist()[1:]]])
    with pytest.raises(DatasetError, match="pair id"):
        export_stable_audio(replace(popdb, table=table), tmp_path / "set")
    assert not (tmp_path / "set").exists()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "pairs.jsonl").read_text("ascii").splitlines()]


def test_a_manifest_says_what_identifies_each_pair_and_nothing_else(popdb: Popdb, tmp_path: Path) -> None:
    folder = export_manifest(popdb, tmp_path / "manifest")
    rows = lines(folder)
    assert [row["pair_id"] for row in rows] == [row["pair_id"] for row in popdb.index]
    for row, pair in zip(rows, popdb.index, strict=True):
        vocal, accompaniment = popdb.read_checked(pair)
        latents = vocal.numpy().astype("<f2").tobytes() + accompaniment.numpy().astype("<f2").tobytes()
        assert row["pair_sha256"] == hashlib.sha256(latents).hexdigest()
        assert row["audio_sha256"] == row["recording"] == "0" + row["song_id"]
        kept = ("song_id", "video_id", "chunk", "start_s", "split", "latents_sha256")
        assert {name: row[name] for name in kept} == {name: pair[name] for name in kept}
    assert len(rows[0]) == 10
    stated = json.loads((folder / "manifest.json").read_text())
    assert stated["codec"] == MelCodec.info.model_dump()
    assert stated["settings"] == popdb.info["settings"]
    assert (stated["counts"]["songs_listed"], stated["counts"]["pairs"]) == (6, 15)
    joined = "".join("{pair_id} {pair_sha256} {split}\n".format(**row) for row in rows)
    assert stated["content_sha256"] == hashlib.sha256(joined.encode()).hexdigest()
    assert stated["pairs_sha256"] == hashlib.sha256((folder / "pairs.jsonl").read_bytes()).hexdigest()
    assert names(folder) == {"README.md", "manifest.json", "pairs.jsonl"}
    everything = b"".join(path.read_bytes() for path in folder.iterdir())
    for words in (TITLE, "it is unavailable", "shard", str(tmp_path)):
        assert words.encode() not in everything.replace(b"pairs_per_shard", b"")
