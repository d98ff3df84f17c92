"""Two machines with data folders of their own, and a store between them."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from samuel.artifacts import (
    Artifact,
    Bucket,
    Store,
    bucket_of,
    failure_file,
    find_artifact,
    make_artifact,
    read_json,
    write_json,
)
from samuel.errors import OperatorError
from tests.popdb.shards.songs import digests
from tests.stores import (
    KINDS,
    a_store,
    damage,
    names,
)

KEY = Path("stems") / "k1"


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with a_store(request.param, tmp_path, monkeypatch) as url:
        yield url


@pytest.fixture
def folder_url(tmp_path: Path) -> str:
    return (tmp_path / "store").as_uri()


def machine(url: str, root: Path) -> Store:
    return Store(bucket_of(url), root)


def stems(target: Path, more: bytes = b"") -> dict[str, Any]:
    for name in ("vocals.flac", "rest.flac"):
        (target / name).write_bytes(name.encode() * 1000 + more)
    return {"scale": 1.0, "song": "naïve"}


def made_on(store: Store, make: Callable[[Path], dict[str, Any]] = stems, key: Path = KEY) -> Artifact:
    entry = make_artifact(store.root / key, make)
    store.publish(entry.folder)
    return entry


def told(entry: Artifact) -> Artifact:
    """The entry as another machine tells of it: under a path that is none here."""
    return replace(entry, folder=Path("/elsewhere") / KEY)


def found_on(store: Store, key: Path = KEY) -> Artifact:
    entry = store.find(store.root / key)
    assert entry
    return entry


def test_what_one_machine_made_the_other_finds_and_fetches_when_it_needs_it(url: str, tmp_path: Path) -> None:
    a, b = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    assert b.find(b.root / KEY) is None
    made = made_on(a)
    found = found_on(b)
    assert (found.record, found.sha256, found.made) == (made.record, made.sha256, False)
    assert not list(b.root.rglob("*.flac"))
    assert b.at_hand(found).folder == b.root / KEY
    assert digests(b.root / KEY) == digests(a.root / KEY)
    # An entry that the other machine told of, under the path that it has there.
    c = machine(url, tmp_path / "c")
    assert c.at_hand(told(made)).path("vocals.flac").read_bytes() == b"vocals.flac" * 1000
    assert not Path("/elsewhere").exists()


def test_what_is_at_hand_is_not_fetched_again(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    made_on(a)
    b.at_hand(found_on(b))
    monkeypatch.setattr(Bucket, "get", lambda *_: pytest.fail("fetched"))
    monkeypatch.setattr(Bucket, "put", lambda *_: pytest.fail("put"))
    for store in (a, b):
        assert store.at_hand(found_on(store)).folder == store.root / KEY


def killed_before_the_manifest(url: str, root: Path) -> None:
    put = Bucket.put

    def killed(self: Bucket, source: Path, name: str) -> None:
        if name.endswith("entry.json"):
            os.kill(os.getpid(), signal.SIGKILL)
        put(self, source, name)

    Bucket.put = killed
    made_on(machine(url, root))


def test_a_machine_that_is_killed_before_the_manifest_has_published_nothing(
    folder_url: str, tmp_path: Path
) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=killed_before_the_manifest, args=(folder_url, tmp_path / "a")
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    a, b = machine(folder_url, tmp_path / "a"), machine(folder_url, tmp_path / "b")
    assert len(names(a.bucket)) == 2
    assert b.find(b.root / KEY) is None
    assert found_on(a).sha256  # which publishes it
    assert b.at_hand(found_on(b)).path("rest.flac").is_file()


def test_a_file_that_changed_in_the_store_is_never_used_and_published_again(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    made = made_on(a)
    name = damage(a.bucket, f"{made.sha256['vocals.flac']}.flac")
    with pytest.raises(OperatorError, match=r"vocals\.flac: not here, .* damaged.*; start this one again"):
        b.at_hand(found_on(b))
    assert name in caplog.text
    assert not (b.root / KEY).exists()
    assert b.find(b.root / KEY) is None  # so that it is made again
    assert found_on(a)
    assert b.at_hand(found_on(b)).sha256 == made.sha256


@pytest.mark.parametrize("how", ["shorter", "gone", "no manifest", "{", "[]", "evil", "evil digest"])
def test_a_damaged_entry_of_the_store_is_absent(folder_url: str, tmp_path: Path, how: str) -> None:
    a, b = machine(folder_url, tmp_path / "a"), machine(folder_url, tmp_path / "b")
    made = made_on(a)
    manifest, file = f"{KEY}/entry.json", f"{KEY}/{made.sha256['rest.flac']}.flac"
    evil = {"bytes": 9, "sha256": "0" * 64}
    match how:
        case "shorter":
            a.bucket.write(b"rest", file)
        case "gone" | "no manifest":
            a.bucket.remove([file if how == "gone" else manifest])
        case "evil":
            write_json(tmp_path / "m", {"files": {"../x": evil}, "record": {}, "released": True})
            a.bucket.put(tmp_path / "m", manifest)
        case "evil digest":
            files = {"x": evil | {"sha256": "../../../x"}}
            write_json(tmp_path / "m", {"files": files, "record": {}, "released": True})
            a.bucket.put(tmp_path / "m", manifest)
        case _:
            a.bucket.write(how.encode(), manifest)
    assert b.find(b.root / KEY) is None
    assert made_on(b).made
    assert machine(folder_url, tmp_path / "c").at_hand(found_on(b)).sha256 == made.sha256


@pytest.mark.parametrize("differ", [False, True])
def test_two_machines_that_make_the_same_do_not_harm_each_other(
    url: str, tmp_path: Path, *, differ: bool
) -> None:
    a, b, c, d = (machine(url, tmp_path / name) for name in "abcd")
    by_a = make_artifact(a.root / KEY, stems)
    by_b = make_artifact(b.root / KEY, lambda target: stems(target, b"!" if differ else b""))
    with ThreadPoolExecutor(2) as both:
        list(both.map(lambda store: store.publish(store.root / KEY), (a, b)))
    for made, store in ((by_a, c), (by_b, d), (by_b, c), (by_a, d)):
        assert store.at_hand(told(made)).sha256 == made.sha256
        assert found_on(store).sha256 == made.sha256
    assert len(names(a.bucket)) == (5 if differ else 3)
    before = names(a.bucket)
    assert found_on(a).sha256 == by_a.sha256
    assert names(a.bucket) == before


def publish_often(url: str, root: Path, times: int) -> None:
    store = machine(url, root)
    for _ in range(times):
        make_artifact(root / KEY, stems)
        store.bucket.remove([f"{KEY}/entry.json"])
        for name, digest in found_on(store).sha256.items():
            store.bucket.put(root / KEY / name, f"{KEY}/{digest}.flac")


def test_who_reads_while_two_processes_publish_gets_the_whole(folder_url: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=publish_often, args=(folder_url, tmp_path / name, 4)) for name in ("a", "b")
    ]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers):
        c = machine(folder_url, tmp_path / f"c{reads}")
        if entry := c.find(c.root / KEY):
            assert c.at_hand(entry).path("vocals.flac").read_bytes() == b"vocals.flac" * 1000
            reads += 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert reads


def test_a_failure_is_known_everywhere_with_its_count(url: str, tmp_path: Path) -> None:
    a, b = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")

    def failed_on(store: Store, attempts: int) -> None:
        write_json(failure_file(store.root / KEY), {"attempts": attempts})
        store.publish_failure(store.root / KEY)

    failed_on(a, 2)
    assert b.find(b.root / KEY) is None
    assert read_json(failure_file(b.root / KEY)) == {"attempts": 2}
    write_json(failure_file(b.root / KEY), {"attempts": 3})
    b.find(b.root / KEY)
    assert read_json(failure_file(b.root / KEY)) == {"attempts": 3}
    a.bucket.write(b"[", f"{KEY}/failed.json")
    b.find(b.root / KEY)
    assert read_json(failure_file(b.root / KEY)) == {"attempts": 3}
    failed_on(b, 3)
    made_on(a)
    c = machine(url, tmp_path / "c")
    c.at_hand(told(found_on(a)))
    assert read_json(failure_file(c.root / KEY)) == {"attempts": 3}


def test_what_is_released_is_released_everywhere(url: str, tmp_path: Path) -> None:
    a, b, c = (machine(url, tmp_path / name) for name in "abc")
    made = made_on(a)
    b.at_hand(found_on(b))
    b.release(a.root / KEY)  # as an outcome of the other machine names it
    assert names(b.bucket) == [f"{KEY}/entry.json"]
    for store in (a, b, c):
        entry = found_on(store)
        assert (entry.released, entry.record, entry.sha256) == (True, made.record, made.sha256)
        assert not list(store.root.rglob("*.flac"))
    with pytest.raises(OperatorError, match="removed since this run saw it; start this one again"):
        c.at_hand(found_on(c))
    b.release(b.root / KEY)
    assert names(b.bucket) == [f"{KEY}/entry.json"]


def test_what_is_forgotten_is_made_again_by_whoever_comes(url: str, tmp_path: Path) -> None:
    a, b, c = (machine(url, tmp_path / name) for name in "abc")
    made_on(a)
    a.release(a.root / KEY)
    assert found_on(b).released
    c.forget(c.root / KEY)
    assert a.find(a.root / KEY) is None
    assert b.find(b.root / KEY) is None
    assert made_on(b).made
    assert not found_on(a).released
    assert a.at_hand(found_on(a)).path("rest.flac").is_file()


def test_a_release_of_before_there_was_a_store_is_told(url: str, tmp_path: Path) -> None:
    a, b = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    made = make_artifact(a.root / KEY, stems)
    super(Store, a).release(made.folder)
    assert found_on(a).released
    assert found_on(b).released
    # Made again elsewhere: that counts.
    b.forget(b.root / KEY)
    made_on(b)
    assert not found_on(a).released
    assert find_artifact(a.root / KEY)


def test_all_entries_of_a_stage_are_those_of_all_machines(url: str, tmp_path: Path) -> None:
    a, b = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    for number in range(3):
        made_on(a, key=Path("stems") / f"k{number}")
    a.release(a.root / "stems" / "k0")
    super(Store, a).release(a.root / "stems" / "k1")
    b.forget(b.root / "stems" / "k0")
    make_artifact(b.root / "stems" / "k4", stems)
    assert sorted(e.folder.name for e in a.all(a.root / "stems")) == ["k1", "k2"]
    entries = {entry.folder: entry.released for entry in b.all(b.root / "stems")}
    assert entries == {b.root / "stems" / f"k{number}": False for number in (1, 2, 4)}
