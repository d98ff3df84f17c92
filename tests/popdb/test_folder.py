"""A dataset behind a URL: fsspec's own file system in memory, and the real s3fs against a local server."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from torch.utils.data import DataLoader

from samuel.config import Settings
from samuel.errors import DatasetError, OperatorError
from samuel.popdb.dataset import open_popdb
from samuel.popdb.folder import URL_LOCK, UrlFolder, open_folder
from samuel.popdb.verify import verify
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import digests, encoded_song, small_settings, songs
from tests.stores import a_store


@pytest.fixture
def url() -> Iterator[str]:
    name = f"memory://{uuid.uuid4().hex}/popdb"
    yield name
    fsspec.filesystem("memory").store.clear()


def settings_at(url: str, root: Path) -> Settings:
    return small_settings(root, popdb={"path": url, "cache": root / "cache", "pairs_per_shard": 3})


def stored(url: str) -> dict[str, bytes]:
    """Everything below the URL."""
    filesystem, root = fsspec.core.url_to_fs(url)
    return {name.removeprefix(root + "/"): filesystem.cat_file(name) for name in filesystem.find(root)}


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_it_has_the_bytes_of_a_local_one(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with a_store(kind, tmp_path, monkeypatch) as url:
        settings = settings_at(url, tmp_path)
        write_popdb([encoded_song(tmp_path, name) for name in "acd"], settings)
        remote = write_popdb(songs(tmp_path), settings)
        local = write_popdb(songs(tmp_path), small_settings(tmp_path, popdb={"pairs_per_shard": 3}))
        assert remote.made
        assert remote.info == local.info
        assert stored(url).keys() == digests(local.root).keys()
        assert all((local.root / name).read_bytes() == content for name, content in stored(url).items())
        assert not write_popdb(songs(tmp_path), settings).made
        read = open_popdb(url, tmp_path / "other")
        assert torch.equal(read.read(read.index)[0], local.read(local.index)[0])
        loader = DataLoader(read.dataset("train"), batch_size=2)
        assert torch.equal(torch.cat([vocal for vocal, _ in loader]), local.read(local.pairs("train"))[0])
        assert verify(url, tmp_path / "other") == []
        before = stored(url)
        with (
            open_folder(url, tmp_path / "cache").locked(),
            pytest.raises(OperatorError, match=r"being written by .*\.lock\.json"),
        ):
            write_popdb(songs(tmp_path)[:1], settings)
        assert stored(url) == before
        with pytest.raises(DatasetError, match="no dataset here"):
            open_popdb(f"{url}/none")


def test_a_shard_is_fetched_once_and_checked(tmp_path: Path, url: str) -> None:
    written = write_popdb(songs(tmp_path), settings_at(url, tmp_path))
    cache = tmp_path / "elsewhere"
    popdb = open_popdb(url, cache)
    assert not cache.exists()  # opened without one
    vocal, accompaniment = popdb.read(popdb.index)
    assert torch.equal(vocal, written.read(written.index)[0])
    assert torch.equal(accompaniment, written.read(written.index)[1])
    kept = [path for path in cache.iterdir() if path.suffix == ".safetensors"]
    assert len(kept) == 2
    filesystem = fsspec.filesystem("memory")
    name = popdb.index[0]["shard"]
    filesystem.pipe_file(f"{url}/{name}", stored(url)[name][:-1] + b"?")
    assert torch.equal(open_popdb(url, cache).read(popdb.index)[0], vocal)  # from the cache
    with pytest.raises(DatasetError, match=f"{name}: its bytes are not those dataset.json names"):
        open_popdb(url, tmp_path / "third").read(popdb.index)
    filesystem.rm_file(f"{url}/{name}")
    with pytest.raises(DatasetError, match="missing; open the dataset again where it was rewritten"):
        open_popdb(url, tmp_path / "third").read(popdb.index)


def test_an_object_larger_than_any_is_not_fetched(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    popdb = write_popdb(songs(tmp_path), settings_at(url, tmp_path))
    monkeypatch.setattr("samuel.popdb.folder.MOST_SHARD_BYTES", 1000)
    with pytest.raises(DatasetError, match="over 1,000 bytes, which it cannot have"):
        open_popdb(url, tmp_path / "other").read(popdb.index)
    assert [path.name for path in (tmp_path / "other").iterdir()] == [".locks"]
    fsspec.filesystem("memory").pipe_file(f"{url}/dataset.json", b" " * (2**24 + 1))
    with pytest.raises(DatasetError, match=r"dataset\.json: over 16,777,216 bytes"):
        open_popdb(url)


@pytest.mark.parametrize("step", range(14))
def test_a_connection_that_breaks_leaves_an_old_or_a_new_one(
    tmp_path: Path, url: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost for good before change number `step`; the lock is left there."""
    settings = settings_at(url, tmp_path)
    old = write_popdb([encoded_song(tmp_path, name) for name in "bd"], settings).info
    more = [encoded_song(tmp_path, name) for name in "acd"]
    done = 0

    def breaking(name: str) -> None:
        method = getattr(UrlFolder, name)

        def call(self: UrlFolder, *arguments: object) -> object:
            nonlocal done
            if done == step:
                raise ConnectionResetError(104, "the connection is lost")
            done += 1
            return method(self, *arguments)

        monkeypatch.setattr(UrlFolder, name, call)

    with monkeypatch.context():
        for name in ("put", "remove"):
            breaking(name)
        try:
            write_popdb(more, settings)
            broke = False
        except ConnectionResetError:
            broke = True
        monkeypatch.undo()
    popdb = open_popdb(url, tmp_path / "new cache")
    for row in popdb.index:
        popdb.read_checked(row)
    fsspec.filesystem("memory").store.pop(fsspec.core.url_to_fs(f"{url}/{URL_LOCK}")[1], None)
    goal = write_popdb(more, settings).info
    assert popdb.info in (old, goal)
    assert broke or popdb.info == goal
    assert verify(url, tmp_path / "new cache") == []
    assert stored(url).keys() == {*goal["files"], "dataset.json"}
