import errno
from pathlib import Path

import pytest

from samuel.errors import InputError, OperatorError
from samuel.popdb.exchange import export_folder

STATED = {"holds": "one file"}


def make(target: Path) -> None:
    (target / "a").write_text("new")


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_what_a_killed_export_left_is_not_in_the_next(tmp_path: Path) -> None:
    class KilledError(BaseException):
        pass

    left = tmp_path / ".set.tmp"

    def die(target: Path) -> None:
        assert target == left
        raise KilledError

    with pytest.raises(KilledError):
        export_folder(tmp_path / "set", "stated.json", STATED, die)
    (left / "deep").mkdir(parents=True)
    (left / "deep" / "half").write_text("half-writt")
    export_folder(tmp_path / "set", "stated.json", STATED, make)
    assert not left.exists()
    assert content(tmp_path / "set").keys() == {"a", "stated.json"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_and_leaves_nothing(number: int, tmp_path: Path) -> None:
    def fill(target: Path) -> None:
        make(target)
        raise OSError(number, "no space")

    with pytest.raises(OperatorError, match=r"set: the disk is full"):
        export_folder(tmp_path / "set", "stated.json", STATED, fill)
    assert {path.name for path in tmp_path.iterdir()} == {".locks"}
    export_folder(tmp_path / "set", "stated.json", STATED, make)
    assert content(tmp_path / "set")["a"] == "new"


@pytest.mark.parametrize("below", ["set", "deep/down/set"])
def test_a_file_where_folders_would_be_made_is_named(below: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(InputError, match=r"/file is a file; give a folder"):
        export_folder(file / below, "stated.json", STATED, make)
    assert content(tmp_path) == {"file": "mine"}


def test_folders_above_are_made(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "new" / "set", "stated.json", STATED, make)
    assert content(folder)["a"] == "new"
