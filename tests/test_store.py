"""Machines with data folders of their own, and a store between them."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from samuel.artifacts import Artifact, RemoteFolder, Store, json_bytes, make_artifact
from samuel.errors import OperatorError, SettingsError
from tests.stores import KINDS, a_store, damage, names

KEY = Path("stems") / "k1"


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with a_store(request.param, tmp_path, monkeypatch) as url:
        yield url


@pytest.fixture
def folder_url(tmp_path: Path) -> str:
    return (tmp_path / "store").as_uri()


def machines(url: str, folder: Path, letters: str) -> list[Store]:
    return [Store(folder / letter, url) for letter in letters]


def stems(target: Path, more: bytes = b"") -> dict[str, Any]:
    for name in ("vocals.flac", "rest.flac"):
        (target / name).write_bytes(name.encode() * 1000 + more)
    return {"scale": 1.0, "song": "naïve"}


def made_on(store: Store, make: Callable[[Path], dict[str, Any]] = stems, key: Path = KEY) -> Artifact:
    artifact = make_artifact(store.root / key, make)
    store.publish(artifact.folder)
    return artifact


def seen_from_elsewhere(artifact: Artifact) -> Artifact:
    """The artifact as another machine names it: under a path that is none here."""
    return replace(artifact, folder=Path("/elsewhere") / KEY)


def found_on(store: Store, key: Path = KEY) -> Artifact:
    artifact = store.find(store.root / key)
    assert artifact
    return artifact


# Files behind a URL.


def test_a_place_that_cannot_be_used_is_named_with_advice_and_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").write_text("a file")
    remote = RemoteFolder(str(tmp_path / "store"), "settings.store")
    for ask in (lambda: remote.sizes("raw"), lambda: remote.put(b"hello", "raw/k/a.wav")):
        with pytest.raises(OperatorError, match=r"cannot be used .*check settings\.store"):
            ask()
    with pytest.raises(SettingsError, match=r"a URL with user, password or query(?!.*hunter2)"):
        RemoteFolder("s3://user:hunter2@host/bucket", "store")
    with pytest.raises(SettingsError, match=r"of no protocol that can be used \('gopher'\)"):
        RemoteFolder("gopher://host/store", "store")
    remote = RemoteFolder("memory://weak", "settings.store")
    for error, words in (
        (
            PermissionError("https://host/file?X-Amz-Signature=hunter2 no"),
            r"memory://weak .*https://host/file\?… no",
        ),
        (OSError(28, "No space left on device"), f"{tmp_path}: the disk is full"),
    ):
        monkeypatch.setattr(type(remote.filesystem), "get_file", Mock(side_effect=error))
        with pytest.raises(OperatorError, match=words) as told:
            remote.get("file", tmp_path / "copy", 100)
        assert "hunter2" not in str(told.value)


# Artifacts of several machines.


def test_what_one_machine_made_the_other_finds_and_fetches_once_when_it_needs_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = machines(url, tmp_path, "abc")
    assert b.find(b.root / KEY) is None
    made = made_on(a)
    found = found_on(b)
    assert (found.record, found.sha256, found.made) == (made.record, made.sha256, False)
    assert not list(b.root.rglob("*.flac"))
    assert b.fetch(found).folder == b.root / KEY
    for path in (a.root / KEY).iterdir():
        assert (b.root / KEY / path.name).read_bytes() == path.read_bytes()
    fetched = c.fetch(seen_from_elsewhere(made))
    assert fetched.path("vocals.flac").read_bytes() == b"vocals.flac" * 1000
    assert not Path("/elsewhere").exists()
    monkeypatch.setattr(RemoteFolder, "get", lambda *_: pytest.fail("fetched"))
    monkeypatch.setattr(RemoteFolder, "put", lambda *_: pytest.fail("put"))
    for store in (a, b):
        assert store.fetch(found_on(store)).folder == store.root / KEY


def killed_before_the_manifest(url: str, root: Path) -> None:
    put = RemoteFolder.put

    def killed(self: RemoteFolder, content: bytes, name: str) -> None:
        if name.endswith("entry.json"):
            os.kill(os.getpid(), signal.SIGKILL)
        put(self, content, name)

    RemoteFolder.put = killed
    made_on(Store(root, url))


def publish_often(url: str, root: Path, times: int) -> None:
    store, remote = Store(root, url), RemoteFolder(url, "store")
    for _ in range(times):
        make_artifact(root / KEY, stems)
        remote.remove([f"{KEY}/entry.json"])
        for name, digest in found_on(store).sha256.items():
            remote.put((root / KEY / name).read_bytes(), f"{KEY}/{digest}.flac")


def test_a_machine_that_is_killed_has_published_nothing_and_who_reads_meanwhile_gets_the_whole(
    folder_url: str, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("spawn")
    killed = context.Process(target=killed_before_the_manifest, args=(folder_url, tmp_path / "a"))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    a, b = machines(folder_url, tmp_path, "ab")
    assert len(names(folder_url)) == 2
    assert b.find(b.root / KEY) is None
    assert found_on(a).sha256  # which publishes it
    assert b.fetch(found_on(b)).path("rest.flac").is_file()
    writers = [context.Process(target=publish_often, args=(folder_url, tmp_path / n, 4)) for n in "ab"]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers):
        [c] = machines(folder_url, tmp_path / str(reads), "c")
        if artifact := c.find(c.root / KEY):
            assert c.fetch(artifact).path("vocals.flac").read_bytes() == b"vocals.flac" * 1000
            reads += 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert reads


def test_a_file_that_changed_in_the_store_is_never_used_and_published_again(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = machines(url, tmp_path, "ab")
    made = made_on(a)
    name = damage(url, f"{made.sha256['vocals.flac']}.flac")
    with pytest.raises(OperatorError, match=r"vocals\.flac: .* damaged, or removed.*; start this one again"):
        b.fetch(found_on(b))
    assert name in caplog.text
    assert not (b.root / KEY).exists()
    assert b.find(b.root / KEY) is None  # so that it is made again
    assert found_on(a)
    assert b.fetch(found_on(b)).sha256 == made.sha256


EVIL = {"files": {"x": {"bytes": 9, "sha256": "../../../x"}}, "record": {}, "released": True}


@pytest.mark.parametrize("manifest", ["shorter", b"{", json_bytes(EVIL)], ids=["shorter", "half", "evil"])
def test_a_damaged_artifact_of_the_store_is_absent(
    folder_url: str, tmp_path: Path, manifest: str | bytes
) -> None:
    a, b, c = machines(folder_url, tmp_path, "abc")
    made, remote = made_on(a), RemoteFolder(folder_url, "store")
    file = f"{KEY}/{made.sha256['rest.flac']}.flac"
    if isinstance(manifest, bytes):
        remote.put(manifest, f"{KEY}/entry.json")
    else:
        remote.put(b"rest", file)
    assert b.find(b.root / KEY) is None
    assert made_on(b).made
    assert c.fetch(found_on(b)).sha256 == made.sha256


@pytest.mark.parametrize("differ", [False, True])
def test_two_machines_that_make_the_same_do_not_harm_each_other(
    url: str, tmp_path: Path, *, differ: bool
) -> None:
    a, b, c, d = machines(url, tmp_path, "abcd")
    by_a = make_artifact(a.root / KEY, stems)
    by_b = make_artifact(b.root / KEY, lambda target: stems(target, b"!" if differ else b""))
    with ThreadPoolExecutor(2) as both:
        list(both.map(lambda store: store.publish(store.root / KEY), (a, b)))
    for made, store in ((by_a, c), (by_b, d), (by_b, c), (by_a, d)):
        assert store.fetch(seen_from_elsewhere(made)).sha256 == made.sha256
        assert found_on(store).sha256 == made.sha256
    before = names(url)
    assert len(before) == (5 if differ else 3)
    assert found_on(a).sha256 == by_a.sha256
    assert names(url) == before


def test_what_is_released_is_released_everywhere_until_it_is_forgotten(url: str, tmp_path: Path) -> None:
    a, b, c = machines(url, tmp_path, "abc")
    made = made_on(a)
    b.fetch(found_on(b))
    b.release(a.root / KEY)  # as an outcome of the other machine names it
    assert names(url) == [f"{KEY}/entry.json"]
    for store in (a, b, c):
        artifact = found_on(store)
        assert (artifact.released, artifact.record, artifact.sha256) == (True, made.record, made.sha256)
        assert not list(store.root.rglob("*.flac"))
    with pytest.raises(OperatorError, match=r"removed since this run saw it.*; start this one again"):
        c.fetch(found_on(c))
    b.release(b.root / KEY)
    assert names(url) == [f"{KEY}/entry.json"]
    c.forget(c.root / KEY)
    assert a.find(a.root / KEY) is None
    assert b.find(b.root / KEY) is None
    assert made_on(b).made
    assert not found_on(a).released
    assert a.fetch(found_on(a)).path("rest.flac").is_file()
