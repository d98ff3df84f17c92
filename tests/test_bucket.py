from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from samuel import artifacts as module
from samuel.artifacts import Bucket, bucket_of
from samuel.errors import MissingPartError, OperatorError, SettingsError
from tests.stores import KINDS, a_store


@pytest.fixture(params=KINDS)
def bucket(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket]:
    with a_store(request.param, tmp_path, monkeypatch) as url:
        yield bucket_of(url)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES_S", (0.0, 0.0))


def test_files_are_put_listed_read_fetched_and_removed(bucket: Bucket, tmp_path: Path) -> None:
    assert bucket.sizes("raw") == {}
    assert bucket.read("raw/k/none") is None
    (tmp_path / "source").write_bytes(b"hello")
    bucket.put(tmp_path / "source", "raw/k/a.wav")
    bucket.write(b"{}", "raw/k/entry.json")
    bucket.write(b"{}", "raw/k2/entry.json")
    assert bucket.sizes("raw/k") == {"a.wav": 5, "entry.json": 2}
    assert bucket.sizes("raw") == {"k/a.wav": 5, "k/entry.json": 2, "k2/entry.json": 2}
    assert bucket.read("raw/k/entry.json") == b"{}"
    assert bucket.get("raw/k/a.wav", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"hello"
    assert not bucket.get("raw/k/none", tmp_path / "other")
    bucket.write(b"longer", "raw/k/entry.json")
    assert bucket.sizes("raw/k")["entry.json"] == 6
    bucket.remove(["raw/k/a.wav", "raw/k/none"])
    assert bucket.sizes("raw/k") == {"entry.json": 6}


class Weak:
    """A file system whose network fails so many times."""

    def __init__(self, real: Any, faults: int, error: Exception) -> None:
        self.real, self.faults, self.error, self.asked = real, faults, error, 0

    def __getattr__(self, name: str) -> Any:
        def ask(*args: Any, **options: Any) -> Any:
            self.asked += 1
            if self.asked <= self.faults:
                raise self.error
            return getattr(self.real, name)(*args, **options)

        return ask if name in ("cat_file", "put_file", "get_file", "rm_file") else getattr(self.real, name)


def weak(faults: int, error: Exception) -> tuple[Bucket, Weak]:
    real = bucket_of("memory://weak")
    real.write(b"there", "file")
    filesystem = Weak(real.filesystem, faults, error)
    return Bucket(real.url, filesystem, real.root), filesystem


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), TimeoutError("late")])
def test_a_passing_fault_is_tried_again(error: Exception, tmp_path: Path) -> None:
    for ask in (
        lambda bucket: bucket.read("file"),
        lambda bucket: bucket.get("file", tmp_path / "copy"),
        lambda bucket: bucket.put(tmp_path / "copy", "copy"),
        lambda bucket: bucket.remove(["copy"]),
    ):
        bucket, filesystem = weak(2, error)
        ask(bucket)
        assert filesystem.asked == 3
    assert bucket.read("copy") is None
    assert (tmp_path / "copy").read_bytes() == b"there"


@pytest.mark.parametrize(("error", "asked"), [(ConnectionResetError("reset"), 3), (PermissionError("no"), 1)])
def test_a_lasting_fault_stops_the_run_with_advice(error: Exception, asked: int) -> None:
    bucket, filesystem = weak(99, error)
    with pytest.raises(
        OperatorError, match=r"memory://weak cannot be used \(.*(reset|no)\); check settings\.store"
    ):
        bucket.read("file")
    assert filesystem.asked == asked


def test_a_store_that_is_no_folder_is_told_and_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    bucket = bucket_of(str(tmp_path / "store"))
    (tmp_path / "source").write_bytes(b"hello")
    for ask in (lambda: bucket.sizes("raw"), lambda: bucket.put(tmp_path / "source", "raw/k/a.wav")):
        with pytest.raises(OperatorError, match=r"store cannot be used .*check settings\.store"):
            ask()


def test_what_opens_the_door_is_not_told() -> None:
    with pytest.raises(SettingsError) as told:
        bucket_of("s3://user:hunter2@host/bucket")
    assert "hunter2" not in str(told.value)
    bucket, _ = weak(99, PermissionError("https://host/file?X-Amz-Signature=hunter2 refused"))
    with pytest.raises(OperatorError, match=r"https://host/file\?… refused") as operator:
        bucket.read("file")
    assert "hunter2" not in str(operator.value)


def test_a_protocol_that_nothing_speaks_is_told() -> None:
    with pytest.raises(MissingPartError, match="gopher://host"):
        bucket_of("gopher://host/store")


def test_a_bucket_that_is_not_there_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_store("s3", tmp_path, monkeypatch):
        bucket = bucket_of("s3://nobody-made-this/pieces")
        assert bucket.sizes("raw") == {}
        with pytest.raises(OperatorError, match="s3://nobody-made-this/pieces cannot be used"):
            bucket.write(b"{}", "raw/k/entry.json")


def test_a_full_disk_here_is_not_the_store_s(tmp_path: Path) -> None:
    bucket, _ = weak(99, OSError(28, "No space left on device"))
    with pytest.raises(OperatorError, match=f"{tmp_path}: the disk is full"):
        bucket.get("file", tmp_path / "copy")
